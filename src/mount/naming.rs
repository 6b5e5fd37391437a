//! How names of the view are made: who of several gets the plain name, what a version and a head are called.
//!
//! Invariant: pure in its inputs, which are the same on every machine, so every machine shows the same names.
//! A candidate that can have no name here (longer than 255 bytes, or its name is taken) stays visible under `origins/`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::catalog::{Child, FileRow, OriginId};
use crate::model::{ContentKind, Hlc, OriginName};

/// Longest name of one entry, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// One file under one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    /// The name.
    pub(super) name: String,
    /// What it shows.
    pub(super) file: FileRow,
}

/// Gives the candidates of one child their names.
///
/// A file that converges has the plain name. Archive files are united: equal contents once, of prefixes the longest; one that is left
/// alone has the plain name, several are `<stem>.<origin><ext>` each. Where a folder has the plain name, every file steps aside.
pub(super) fn name_files(child: &Child, mut is_prefix: impl FnMut(&FileRow, &FileRow) -> bool) -> Vec<Named> {
    let mut kept: Vec<&FileRow> = child.files.iter().filter(|file| !file.archive).collect();
    let converged = kept.len();
    let mut archived: Vec<&FileRow> = child.files.iter().filter(|file| file.archive).collect();
    archived.sort_by(|a, b| {
        let longest_first = b.content.size.cmp(&a.content.size);
        longest_first.then(a.hlc.cmp(&b.hlc)).then(a.version.cmp(&b.version))
    });
    for file in archived {
        if !is_held(file, &kept, &mut is_prefix) {
            kept.push(file);
        }
    }
    let has_plain = child.dir.is_none() && (converged > 0 || kept.len() == 1);
    let mut beside_counts: BTreeMap<OriginId, usize> = BTreeMap::new();
    let mut named: Vec<Named> = Vec::with_capacity(kept.len());
    for (at, file) in kept.into_iter().enumerate() {
        let earlier = beside_counts.entry(file.origin.id).or_insert(0);
        let name = if has_plain && at == 0 {
            child.name.clone()
        } else {
            *earlier += 1;
            beside(&child.name, &file.origin.name, *earlier)
        };
        if name.len() <= MAX_NAME_BYTES {
            named.push(Named { name, file: file.clone() });
        }
    }
    named
}

fn is_held(file: &FileRow, kept: &[&FileRow], is_prefix: &mut impl FnMut(&FileRow, &FileRow) -> bool) -> bool {
    kept.iter().any(|other| {
        // A prefix is for files that grow: another kind, or a link's target, is something else.
        let is_file = matches!(file.content.kind, ContentKind::File { .. });
        let may_grow = is_file && file.content.kind == other.content.kind && file.content.size < other.content.size;
        file.content == other.content || (may_grow && is_prefix(file, other))
    })
}

/// Files of one origin that can stand beside one name: shared, private and archive.
pub(super) const MAX_BESIDE: usize = 3;

/// `<stem>.<origin><ext>`; further files of one origin are `<stem>.<origin>~2<ext>` and `~3`.
pub(super) fn beside(name: &str, origin: &OriginName, number: usize) -> String {
    let (stem, extension) = split_extension(name);
    format!("{stem}.{}{extension}", head_name(origin, number))
}

/// The names that `beside` may have been given to make `name`; at most two.
pub(super) fn before_beside(name: &str) -> Vec<String> {
    let mut bases = Vec::new();
    let Some((stem, last)) = name.rsplit_once('.') else { return bases };
    if is_numbered_origin(last) && !stem.is_empty() {
        bases.push(stem.to_owned());
    }
    if let Some((stem, inner)) = stem.rsplit_once('.')
        && is_numbered_origin(inner)
        && !stem.is_empty()
    {
        bases.push(format!("{stem}.{last}"));
    }
    bases
}

fn is_numbered_origin(text: &str) -> bool {
    text.split('~').next().is_some_and(|origin| origin.parse::<OriginName>().is_ok())
}

/// `("notes", ".md")`; a leading or a last dot begins no extension.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if 0 < at && at + 1 < name.len() => name.split_at(at),
        _ => (name, ""),
    }
}

/// `<time>-<origin>` for each version of a sorted list; what has the clock and origin of its predecessor gets `~<8 hex>` of its id.
pub(super) fn name_versions(previous: Option<&FileRow>, versions: Vec<FileRow>) -> Vec<Named> {
    let mut last = previous.map(|row| (row.hlc, row.origin.id));
    let mut named = Vec::with_capacity(versions.len());
    for file in versions {
        let mut name = format!("{}-{}", time_name(file.hlc), file.origin.name);
        if last == Some((file.hlc, file.origin.id)) {
            name.push('~');
            name.push_str(&file.version.short(8));
        }
        last = Some((file.hlc, file.origin.id));
        named.push(Named { name, file });
    }
    named
}

/// `<origin>` for each head, the winner first; further heads of one origin are `<origin>~2`, `<origin>~3`.
pub(super) fn name_heads(heads: Vec<FileRow>) -> Vec<Named> {
    let mut named: Vec<Named> = Vec::with_capacity(heads.len());
    for file in heads {
        let earlier = named.iter().filter(|other| other.file.origin.id == file.origin.id).count();
        named.push(Named { name: head_name(&file.origin.name, earlier + 1), file });
    }
    named
}

/// The name of the `number`th head of an origin, from 1.
pub(super) fn head_name(origin: &OriginName, number: usize) -> String {
    if number == 1 { origin.to_string() } else { format!("{origin}~{number}") }
}

const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S.%3fZ";

/// RFC 3339 in UTC with `-` for `:`, which no system refuses in a name; `+<counter>` unless the counter is 0.
///
/// A clock beyond the year 9999 is `ms<wall milliseconds>`.
pub(super) fn time_name(hlc: Hlc) -> String {
    let wall_ms = i64::try_from(hlc.wall_ms()).unwrap_or(i64::MAX);
    let wall = match Timestamp::from_millisecond(wall_ms) {
        Ok(timestamp) => timestamp.to_zoned(TimeZone::UTC).strftime(TIME_FORMAT).to_string(),
        Err(_) => format!("ms{wall_ms}"),
    };
    match hlc.as_u64() & 0xffff {
        0 => wall,
        counter => format!("{wall}+{counter}"),
    }
}

/// Reads the clock value off the beginning of a version's name.
pub(super) fn parse_time_name(name: &str) -> Option<Hlc> {
    let (wall_ms, rest) = match name.strip_prefix("ms") {
        Some(digits) => {
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            (digits[..end].parse().ok()?, &digits[end..])
        }
        None => {
            let (wall, rest) = name.split_at_checked("2026-01-01T00-00-00.000Z".len())?;
            let wall = wall.strip_suffix('Z')?;
            let civil = jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S.%f", wall).ok()?;
            let timestamp = TimeZone::UTC.to_timestamp(civil).ok()?;
            (u64::try_from(timestamp.as_millisecond()).ok()?, rest)
        }
    };
    let counter = match rest.strip_prefix('+') {
        Some(rest) => rest.split('-').next()?.parse().ok()?,
        None => 0,
    };
    Some(Hlc::new(wall_ms, counter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_origin_goes_before_the_extension() {
        let origin: OriginName = "laptop-abc234".parse().expect("an origin");
        let table = [
            ("notes.md", "notes.laptop-abc234.md"),
            ("a.tar.gz", "a.tar.laptop-abc234.gz"),
            ("Makefile", "Makefile.laptop-abc234"),
            (".profile", ".profile.laptop-abc234"),
            ("odd.", "odd..laptop-abc234"),
        ];
        for (name, expected) in table {
            let made = beside(name, &origin, 1);

            assert_eq!(made, expected);
            assert!(before_beside(&made).contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_time_reads_as_rfc_3339_but_for_the_colons() {
        assert_eq!(time_name(Hlc::new(1_784_034_732_045, 0)), "2026-07-14T13-12-12.045Z");
        assert_eq!(time_name(Hlc::new(1_784_034_732_045, 7)), "2026-07-14T13-12-12.045Z+7");
        assert_eq!(time_name(Hlc::new(u64::MAX, 0)), "ms281474976710655");
    }

    #[test]
    fn what_is_no_time_reads_as_none() {
        for text in [
            "",
            "ms",
            "msx",
            "2026-07-14",
            "2026-07-14T13:12:12.045Z-x",
            "2026-13-14T13-12-12.045Z-x",
            "é026-07-14T13-12-12.045Z",
        ] {
            assert_eq!(parse_time_name(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_clock_value_reads_back_from_its_name(packed: u64) {
            let hlc = Hlc::from_u64(packed);

            prop_assert_eq!(parse_time_name(&format!("{}-laptop-abc234", time_name(hlc))), Some(hlc));
        }

        #[test]
        fn whatever_is_beside_leads_back(name in "[a-c.-]{1,12}", origin in "[a-c][a-c0-9-]{0,6}", number in 1usize..4) {
            let origin: OriginName = origin.parse().expect("an origin");

            prop_assert!(before_beside(&beside(&name, &origin, number)).contains(&name));
        }
    }
}
