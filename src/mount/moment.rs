//! Moments: what may be written for one below `at/` and after `--at`, and the numbers that stand for those somebody looks at.
//!
//! Invariant: one moment has one folder, named as in `history/`; every other spelling is a link to it. What is written means its own
//! end: a day the end of that day, a second the end of that second. Times are UTC unless an offset is written. The table is bounded:
//! a number that was forgotten is handed out again, the same if nobody took it, when its name is looked up.

use std::collections::VecDeque;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::catalog::{MAX_TIME_ID, TimeId};
use super::naming::{parse_time_name, time_name};
use crate::model::{Hash, Hlc};

/// Moments with a number at one time.
const MAX_MOMENTS: usize = 4096;
/// Counters of one millisecond.
const LAST_COUNTER: u16 = u16::MAX;

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Spellings that `at/` lists.
pub(super) const LISTED: [&str; 5] = ["1h", "1d", "7d", "30d", "yesterday"];

/// The end of a millisecond.
pub(super) fn end_of(wall_ms: u64) -> Hlc {
    Hlc::new(wall_ms, LAST_COUNTER)
}

/// The name of a moment's folder.
pub(super) fn moment_name(at: Hlc) -> String {
    time_name(Hlc::new(at.wall_ms(), 0))
}

/// The moment whose folder has this name; `None` for any other spelling.
pub(super) fn named_moment(name: &str) -> Option<Hlc> {
    let at = end_of(parse_time_name(name)?.wall_ms());
    (moment_name(at) == name).then_some(at)
}

/// The moment that a text means at `now_ms`: `1h` or `3d` ago (`s`, `m`, `h`, `d`, `w`, `y`), `yesterday`, a date, or RFC 3339, in
/// which `-` may stand for `:`.
pub fn parse_moment(text: &str, now_ms: u64) -> Option<Hlc> {
    Some(end_of(parse_span(text, now_ms)?.1))
}

/// The beginning of what such a text means: of that day, of that second.
pub fn parse_beginning(text: &str, now_ms: u64) -> Option<Hlc> {
    Some(Hlc::new(parse_span(text, now_ms)?.0, 0))
}

/// First and last millisecond.
type Span = (u64, u64);

fn parse_span(text: &str, now_ms: u64) -> Option<Span> {
    let text = text.trim();
    let named = named_moment(text).map(|at| (at.wall_ms(), at.wall_ms()));
    named.or_else(|| parse_ago(text, now_ms)).or_else(|| parse_date(text)).or_else(|| parse_time(text))
}

fn parse_ago(text: &str, now_ms: u64) -> Option<Span> {
    if text == "yesterday" {
        let today = now_ms / DAY_MS * DAY_MS;
        return Some((today.checked_sub(DAY_MS)?, today - 1));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit_ms = match &text[digits..] {
        "s" => SECOND_MS,
        "m" => MINUTE_MS,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        "w" => 7 * DAY_MS,
        "y" => 365 * DAY_MS,
        _ => return None,
    };
    let ago_ms = text[..digits].parse::<u64>().ok()?.checked_mul(unit_ms)?;
    // Whole seconds, so that looking again in the same second leads to the same folder.
    let second = now_ms.checked_sub(ago_ms)? / SECOND_MS * SECOND_MS;
    Some((second, second + SECOND_MS - 1))
}

fn parse_date(text: &str) -> Option<Span> {
    if text.len() != "2026-01-01".len() {
        return None;
    }
    let midnight = text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let start = u64::try_from(midnight.as_millisecond()).ok()?;
    Some((start, start + DAY_MS - 1))
}

fn parse_time(text: &str) -> Option<Span> {
    let (date, time) = text.split_at_checked("2026-01-01T".len())?;
    if !date.ends_with(['T', 't', ' ']) {
        return None;
    }
    // An offset may have a `-` of its own, so only a time in UTC is read with `-` for `:`.
    let time = if time.ends_with(['Z', 'z']) { time.replace('-', ":") } else { time.to_owned() };
    let stamp: Timestamp = format!("{date}{time}").parse().ok()?;
    let clock = &time[..time.find(['Z', 'z', '+', '-']).unwrap_or(time.len())];
    let rest_ms = match (clock.contains('.'), clock.matches(':').count()) {
        (true, _) => 0,
        (false, 2) => SECOND_MS - 1,
        (false, _) => MINUTE_MS - 1,
    };
    let start = u64::try_from(stamp.as_millisecond()).ok()?;
    Some((start, start.checked_add(rest_ms)?))
}

/// The moments that have a number.
#[derive(Default)]
pub(super) struct Moments(VecDeque<(TimeId, Hlc)>);

impl Moments {
    /// The number of a moment, which it keeps until many others were asked for.
    pub(super) fn number(&mut self, at: Hlc) -> TimeId {
        if let Some(known) = self.0.iter().position(|(_, known)| *known == at).and_then(|known| self.0.remove(known)) {
            self.0.push_back(known);
            return known.0;
        }
        if self.0.len() >= MAX_MOMENTS {
            self.0.pop_front();
        }
        // From the moment itself, so that numbers are mostly the same after a remount.
        let hash = Hash::of(&at.as_u64().to_be_bytes());
        let first = u32::from_be_bytes(hash.as_bytes()[..4].try_into().unwrap_or_default());
        let numbers = (0..=MAX_TIME_ID).map(|step| TimeId(first.wrapping_add(step) & MAX_TIME_ID));
        let mut free = numbers.filter(|id| self.0.iter().all(|(taken, _)| taken != id));
        // There are more numbers than moments in the table.
        let id = free.next().unwrap_or(TimeId(0));
        drop(free);
        self.0.push_back((id, at));
        id
    }

    /// The moment of a number.
    pub(super) fn get(&self, id: TimeId) -> Option<Hlc> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, at)| *at)
    }

    /// All that have one.
    pub(super) fn all(&self) -> Vec<(TimeId, Hlc)> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-07-14T13:12:12.045Z
    const NOW_MS: u64 = 1_784_034_732_045;

    fn name_of(text: &str) -> Option<String> {
        parse_moment(text, NOW_MS).map(moment_name)
    }

    #[test]
    fn a_moment_is_written_as_people_write_it_and_means_its_end() {
        let table = [
            ("1h", "2026-07-14T12-12-12.999Z"),
            ("90m", "2026-07-14T11-42-12.999Z"),
            ("0s", "2026-07-14T13-12-12.999Z"),
            ("3d", "2026-07-11T13-12-12.999Z"),
            ("2w", "2026-06-30T13-12-12.999Z"),
            ("1y", "2025-07-14T13-12-12.999Z"),
            ("yesterday", "2026-07-13T23-59-59.999Z"),
            ("2026-07-01", "2026-07-01T23-59-59.999Z"),
            ("2026-07-01T10:00:00Z", "2026-07-01T10-00-00.999Z"),
            ("2026-07-01T10-00-00Z", "2026-07-01T10-00-00.999Z"),
            ("2026-07-01T10:00Z", "2026-07-01T10-00-59.999Z"),
            ("2026-07-01T10:00:00.5Z", "2026-07-01T10-00-00.500Z"),
            ("2026-07-01T10:00:00+02:00", "2026-07-01T08-00-00.999Z"),
            ("2026-07-01T10:00:00-05:00", "2026-07-01T15-00-00.999Z"),
            ("2026-07-01T10-00-00.123Z", "2026-07-01T10-00-00.123Z"),
        ];
        for (text, expected) in table {
            assert_eq!(name_of(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_beginning_is_where_the_same_text_begins() {
        let table = [
            ("1h", "2026-07-14T12-12-12.000Z"),
            ("yesterday", "2026-07-13T00-00-00.000Z"),
            ("2026-07-01", "2026-07-01T00-00-00.000Z"),
            ("2026-07-01T10:00Z", "2026-07-01T10-00-00.000Z"),
        ];
        for (text, expected) in table {
            assert_eq!(parse_beginning(text, NOW_MS).map(moment_name).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let long = "9".repeat(30) + "d";
        for text in
            ["", "h", "1", "1x", "-1h", "1.5h", "tomorrow", "2026-13-01", "2026-07-01T10:00:00", "README.txt", &long]
        {
            assert_eq!(name_of(text), None, "{text}");
        }
        // Before 1970 there is nothing, and nothing to say about it.
        assert_eq!(name_of("100y"), None);
    }

    #[test]
    fn numbers_are_kept_bounded_and_given_back() {
        let mut moments = Moments::default();
        let first = moments.number(end_of(0));
        assert_eq!(moments.number(end_of(0)), first);

        for wall_ms in 1..=MAX_MOMENTS as u64 {
            let id = moments.number(end_of(wall_ms));
            assert_eq!(moments.get(id), Some(end_of(wall_ms)));
        }

        assert_eq!(moments.all().len(), MAX_MOMENTS);
        assert_eq!(moments.get(first), None);
        let ids: std::collections::BTreeSet<TimeId> = moments.all().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), MAX_MOMENTS);
    }

    proptest! {
        #[test]
        fn a_folders_name_leads_back_to_its_moment(wall_ms in 0u64..1 << 48) {
            let at = end_of(wall_ms);

            prop_assert_eq!(named_moment(&moment_name(at)), Some(at));
            prop_assert_eq!(parse_moment(&moment_name(at), NOW_MS), Some(at));
        }

        #[test]
        fn whatever_is_typed_is_a_moment_or_none(text in "\\PC{0,40}") {
            if let Some(at) = parse_moment(&text, NOW_MS) {
                prop_assert_eq!(named_moment(&moment_name(at)), Some(at));
            }
        }
    }
}
