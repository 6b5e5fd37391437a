//! Wall milliseconds to RFC 3339 text and back; what other programs wrote is read generously.
//!
//! Invariant: `parse(&format(ms)) == ms` for every moment up to the year 9999. Never used to decide anything.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Writes `ms` as RFC 3339 in UTC with milliseconds; later than the year 9999 is that year's end.
pub(crate) fn format(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let moment = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    format!("{moment:.3}")
}

/// Reads RFC 3339, SQLite's `CURRENT_TIMESTAMP`, or a bare count of milliseconds; 0 for anything else.
pub(crate) fn parse(text: &str) -> u64 {
    let offset = || text.parse::<Timestamp>().ok();
    let utc = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    match offset().or_else(utc) {
        Some(moment) => u64::try_from(moment.as_millisecond()).unwrap_or(0),
        None => text.trim().parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for ms in [0, 1, 999, 1_700_000_000_120, 253_402_207_200_999] {
            assert_eq!(parse(&format(ms)), ms);
        }
        assert_eq!(format(1_700_000_000_120), "2023-11-14T22:13:20.120Z");
    }

    #[test]
    fn what_others_write_is_read_generously() {
        assert_eq!(parse("2023-11-14 22:13:20"), 1_700_000_000_000);
        assert_eq!(parse("2023-11-14T23:13:20+01:00"), 1_700_000_000_000);
        assert_eq!(parse("1700000000000"), 1_700_000_000_000);
        assert_eq!(parse("yesterday"), 0);
        assert_eq!(parse("-0044-03-15T00:00:00Z"), 0);
    }
}
