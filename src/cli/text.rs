//! Small forms for people: times, sizes, ids, counts.
//!
//! Invariant: pure; the same value always reads the same.

use jiff::Timestamp;

/// Hex digits of a version's id that are shown; any unique beginning of at least 4 is understood.
pub const ID_DIGITS: usize = 10;

/// `2026-11-21 10:15:02Z`.
pub fn time(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => format!("{wall_ms} ms"),
    }
}

/// RFC 3339 for programs.
pub fn rfc3339(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{wall_ms} ms"), |time| format!("{time:.3}"))
}

/// `just now`, `5 min ago`, `3 h ago`, `2 days ago`.
pub fn ago(now_ms: u64, then_ms: u64) -> String {
    if then_ms > now_ms.saturating_add(60_000) {
        return format!("in the future, {}", time(then_ms));
    }
    let secs = now_ms.saturating_sub(then_ms) / 1000;
    match secs {
        0..5 => "just now".to_owned(),
        5..60 => format!("{secs} s ago"),
        60..3_600 => format!("{} min ago", secs / 60),
        3_600..172_800 => format!("{} h ago", secs / 3_600),
        _ => format!("{} days ago", secs / 86_400),
    }
}

/// `512 bytes`, `1.5 KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return count(bytes, "byte");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub fn count(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}
