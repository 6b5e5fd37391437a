//! Firestore's typed values and moments, as its REST interface writes them in JSON.
//!
//! Invariant: a moment keeps its nanoseconds, so that a precondition on `updateTime` is never rounded. Pure.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The fields of a document.
pub(super) type Fields = Map<String, Value>;

/// A moment of the service's own clock, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Moment(u64);

impl Moment {
    /// Before everything.
    pub(super) const START: Moment = Moment(0);

    /// Reads RFC 3339 with up to nine digits of a second.
    pub(super) fn parse(text: &str) -> Option<Moment> {
        let moment: Timestamp = text.parse().ok()?;
        u64::try_from(moment.as_nanosecond()).ok().map(Moment)
    }

    /// Reads what `as_text` gave out.
    pub(super) fn from_text(text: &str) -> Option<Moment> {
        text.parse().ok().map(Moment)
    }

    /// The moment as a bare number, for revisions and cursors.
    pub(super) fn as_text(self) -> String {
        self.0.to_string()
    }

    pub(super) fn before(self, by: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; nothing if it is not.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    /// RFC 3339 with all nine digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or(Timestamp::MAX);
        write!(f, "{moment:.9}")
    }
}

pub(super) fn text(value: &str) -> Value {
    json!({ "stringValue": value })
}

pub(super) fn count(value: u64) -> Value {
    json!({ "integerValue": value.to_string() })
}

pub(super) fn bytes(value: &[u8]) -> Value {
    json!({ "bytesValue": BASE64.encode(value) })
}

pub(super) fn moment(value: Moment) -> Value {
    json!({ "timestampValue": value.to_string() })
}

/// The text in a field; `None` if it is missing or something else.
pub(super) fn text_of<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.get(name)?.get("stringValue")?.as_str()
}

pub(super) fn count_of(fields: &Fields, name: &str) -> Option<u64> {
    // The service writes integers as texts; some programs that stand in for it write numbers.
    let value = fields.get(name)?.get("integerValue")?;
    value.as_str().map_or_else(|| value.as_u64(), |text| text.parse().ok())
}

pub(super) fn bytes_of(fields: &Fields, name: &str) -> Option<Vec<u8>> {
    BASE64.decode(fields.get(name)?.get("bytesValue")?.as_str()?.as_bytes()).ok()
}

pub(super) fn moment_of(fields: &Fields, name: &str) -> Option<Moment> {
    Moment::parse(fields.get(name)?.get("timestampValue")?.as_str()?)
}

/// The kind of a field's value, for a sentence: `an array`, `a number`.
pub(super) fn kind_of(value: &Value) -> &'static str {
    let kind = value.as_object().and_then(|object| object.keys().next()).map_or("", String::as_str);
    match kind {
        "stringValue" => "a text",
        "integerValue" | "doubleValue" => "a number",
        "bytesValue" => "bytes",
        "nullValue" => "null",
        "booleanValue" => "true or false",
        "timestampValue" => "a timestamp",
        "arrayValue" => "an array",
        "mapValue" => "a map",
        _ => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_keeps_its_nanoseconds() {
        for text in
            ["2026-11-21T22:55:12.123456789Z", "1970-01-01T00:00:00.000000001Z", "2300-01-01T00:00:00.100000000Z"]
        {
            let moment = Moment::parse(text).expect("it is one");
            assert_eq!(moment.to_string(), text);
            assert_eq!(Moment::from_text(&moment.as_text()), Some(moment));
        }
        assert_eq!(Moment::parse("2026-11-21T22:55:12.5Z"), Moment::parse("2026-11-21T22:55:12.500000000Z"));
        assert_eq!(Moment::parse("yesterday"), None);
    }
}
