//! Numbers with units, as people write them: `1GiB`, `90d`.
//!
//! Invariant: what parses lies within its bounds, and what is shown parses back to the same number. Pure.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// The largest file anybody may ask to be kept: 1 TiB.
pub const MAX_FILE_BYTES_LIMIT: u64 = 1 << 40;
/// The longest automatic interval: a week.
pub const MAX_INTERVAL_SECS: u32 = 7 * 24 * 60 * 60;
/// The shortest retention: a day.
pub const MIN_RETENTION_SECS: u64 = DAY_SECS;
/// The longest retention: 100 years.
pub const MAX_RETENTION_SECS: u64 = 36_500 * DAY_SECS;

const DAY_SECS: u64 = 24 * 60 * 60;

pub(super) const INTERVAL_NEEDED: &str = "a whole number of seconds from 0 (only on command) to 604800 (a week)";
pub(super) const SIZE_NEEDED: &str = "a number of bytes or a text such as \"1GiB\", from 1 byte to 1 TiB";
pub(super) const RETENTION_NEEDED: &str = "a text such as \"90d\", \"12w\" or \"2y\", from 1 day to 100 years";

/// A count of bytes, 1 to 1 TiB. Text: `4096`, `64KiB`, `1.5MB` is refused (whole numbers only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(u64);

/// A span of time, 1 day to 100 years. Text: a whole number and `d`, `w` or `y` (365 days).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Retention(u64);

/// The text is no such quantity, or out of its bounds; what is needed, for "must be ..".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{needed} is needed")]
pub struct QuantityError {
    /// What would have been accepted.
    pub needed: &'static str,
}

impl ByteCount {
    /// Checks the bounds.
    pub const fn new(bytes: u64) -> Option<ByteCount> {
        if 1 <= bytes && bytes <= MAX_FILE_BYTES_LIMIT { Some(ByteCount(bytes)) } else { None }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Retention {
    /// Checks the bounds.
    pub const fn new(secs: u64) -> Option<Retention> {
        if MIN_RETENTION_SECS <= secs && secs <= MAX_RETENTION_SECS { Some(Retention(secs)) } else { None }
    }

    /// The number of seconds.
    pub const fn secs(self) -> u64 {
        self.0
    }
}

const SIZE_UNITS: [(&str, u64); 10] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
    ("", 1),
];

impl FromStr for ByteCount {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<ByteCount, QuantityError> {
        let refuse = QuantityError { needed: SIZE_NEEDED };
        let (count, unit) = split_unit(text).ok_or(refuse)?;
        let unit = unit.to_ascii_lowercase();
        let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(refuse)?.1;
        count.checked_mul(factor).and_then(ByteCount::new).ok_or(refuse)
    }
}

impl FromStr for Retention {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Retention, QuantityError> {
        let refuse = QuantityError { needed: RETENTION_NEEDED };
        let (count, unit) = split_unit(text).ok_or(refuse)?;
        let days = match unit {
            "d" => 1,
            "w" => 7,
            "y" => 365,
            _ => return Err(refuse),
        };
        count.checked_mul(days * DAY_SECS).and_then(Retention::new).ok_or(refuse)
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let count = text[..digits_end].parse().ok()?;
    Some((count, text[digits_end..].trim_start()))
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match binary.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}d", self.0 / DAY_SECS)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteCount, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = ByteCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_NEEDED)
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<ByteCount, E> {
                ByteCount::new(bytes).ok_or_else(|| E::custom(SIZE_NEEDED))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ByteCount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Retention, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for ByteCount {
    fn schema_name() -> Cow<'static, str> {
        "ByteCount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": MAX_FILE_BYTES_LIMIT },
                { "type": "string", "pattern": "^ *[0-9]+ *([KkMmGgTt]([Ii])?)?[Bb]? *$" },
            ],
        })
    }
}

impl JsonSchema for Retention {
    fn schema_name() -> Cow<'static, str> {
        "Retention".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^ *[0-9]+ *[dwy] *$" })
    }
}

/// Reads `intervalSecs` within its bounds.
pub(super) fn interval_secs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(deserializer)? {
        Some(secs) if secs > MAX_INTERVAL_SECS => Err(D::Error::custom(INTERVAL_NEEDED)),
        secs => Ok(secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_units_and_within_bounds() {
        let good =
            [("1", 1), ("4096", 4096), ("64KiB", 65_536), ("1 GiB", 1 << 30), ("2mb", 2_000_000), ("1TiB", 1 << 40)];
        for (text, bytes) in good {
            assert_eq!(text.parse::<ByteCount>().map(ByteCount::bytes), Ok(bytes), "{text}");
        }
        for text in
            ["", "0", "-1", "1.5MB", "GiB", "1 XB", "2TiB", "99999999999999999999", "18446744073709551615KiB", "١"]
        {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn retention_parses_days_weeks_and_years() {
        for (text, days) in [("90d", 90), ("2w", 14), ("1y", 365), ("36500d", 36_500)] {
            assert_eq!(text.parse::<Retention>().map(Retention::secs), Ok(days * DAY_SECS), "{text}");
        }
        for text in ["", "90", "0d", "36501d", "1m", "12h", "-1d", "d"] {
            assert!(text.parse::<Retention>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_parses_back() {
        for bytes in [1, 1023, 1024, 5 << 20, (1 << 30) + 1, 1 << 40] {
            let count = ByteCount::new(bytes).expect("within bounds");
            assert_eq!(count.to_string().parse(), Ok(count));
        }
        let retention = Retention::new(90 * DAY_SECS).expect("within bounds");
        assert_eq!(retention.to_string().parse(), Ok(retention));
    }
}
