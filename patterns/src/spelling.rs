//! Reduces the many spellings of one file name to the ones the denylist is written in.
//!
//! File systems disagree on which names are one: some ignore case, some normalise, some drop invisible characters or trailing dots
//! and spaces, NTFS knows streams (`name:stream`) and short names (`CREDEN~1.JSO`). A name is denied if *any* of them would open a
//! denied file by it, so this module reduces generously. Its results are only compared with the denylist, never used as names.
//!
//! Look-alikes (a Cyrillic letter for a Latin one) are other names on every file system and stay other names here.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// The spellings of one component that a rule is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spelling {
    /// The reduced name.
    pub whole: String,
    /// The reduced name without its NTFS stream, if it has one.
    pub before_stream: Option<String>,
    /// Stem and extension, if the name has the form of an 8.3 short name.
    pub short: Option<ShortName>,
}

/// The parts of an 8.3 short name: `creden~1.jso` has the stem `creden`, one digit and the extension `jso`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShortName {
    pub stem: String,
    pub digits: usize,
    pub extension: String,
}

impl ShortName {
    /// Tells whether a long name that begins with `stem` could have this short name's stem.
    pub fn stands_for_stem(&self, stem: &str) -> bool {
        let kept_chars = 6.min(7usize.saturating_sub(self.digits));
        self.stem.chars().eq(stem.chars().take(kept_chars))
    }

    /// Tells whether a long name with extension `extension` could have this short name's extension.
    pub fn stands_for_extension(&self, extension: &str) -> bool {
        self.extension.chars().eq(extension.chars().take(3))
    }
}

/// Returns the spellings of each component of `path`, in order.
///
/// Shape: at least one per component; more where a component contains what another system takes for a separator.
pub(crate) fn spellings(path: &str) -> Vec<Spelling> {
    let mut spellings = Vec::new();
    for component in path.split('/') {
        let reduced = reduce(component);
        if reduced.contains(is_separator_elsewhere) {
            spellings.extend(reduced.split(is_separator_elsewhere).map(|piece| spelling_of(piece.to_owned())));
        } else {
            spellings.push(spelling_of(reduced));
        }
    }
    spellings
}

/// Returns the one spelling of a component that needs no reduction but of case; none if it might have another.
///
/// Plain are graphic ASCII characters and inner spaces, without those that Windows gives a meaning: `\\`, `:`, `~`, a dot or space
/// at the end.
pub(crate) fn plain_spelling(component: &str) -> Option<Cow<'_, str>> {
    let bytes = component.as_bytes();
    let (first, last) = (bytes.first()?, bytes.last()?);
    if *first == b' ' || matches!(last, b' ' | b'.') {
        return None;
    }
    let mut has_capital = false;
    for &byte in bytes {
        if !IS_PLAIN[usize::from(byte)] {
            return None;
        }
        has_capital |= byte.is_ascii_uppercase();
    }
    Some(if has_capital { Cow::Owned(component.to_ascii_lowercase()) } else { Cow::Borrowed(component) })
}

static IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'}' {
        is_plain[byte as usize] = !matches!(byte, b'/' | b'\\' | b':');
        byte += 1;
    }
    is_plain
};

fn spelling_of(reduced: String) -> Spelling {
    let trimmed = trim(&reduced);
    let whole = if trimmed.len() < reduced.len() { trimmed.to_owned() } else { reduced };
    let before_stream = whole.split_once(':').map(|(name, _)| trim(name).to_owned());
    let short = short_name(before_stream.as_deref().unwrap_or(&whole));
    Spelling { whole, before_stream, short }
}

/// Drops what Windows drops at the end of a name, and the same at its start.
fn trim(name: &str) -> &str {
    let name = name.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    name.trim_start_matches(char::is_whitespace)
}

fn is_separator_elsewhere(c: char) -> bool {
    // The last three are drawn like a slash; NFKC leaves them alone. A full-width solidus has become `/` by now.
    matches!(c, '/' | '\\' | '\u{2044}' | '\u{2215}' | '\u{29f8}')
}

/// Reduces case, compatibility forms and invisible characters.
pub(crate) fn reduce(component: &str) -> String {
    if component.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return component.to_ascii_lowercase();
    }
    let visible: String = component.nfkc().filter(|&c| !is_dropped(c)).collect();
    let mut reduced = String::with_capacity(visible.len());
    for c in visible.chars().flat_map(char::to_lowercase) {
        match c {
            // The Turkish letters: some systems fold a dotless i, and the capital with a dot lower-cases to i and a combining dot.
            'ı' => reduced.push('i'),
            '\u{307}' if reduced.ends_with('i') => {}
            _ => reduced.push(c),
        }
    }
    reduced.nfkc().filter(|&c| !is_dropped(c)).collect()
}

fn is_dropped(c: char) -> bool {
    c.is_control() || is_default_ignorable(c)
}

/// Tells whether a character is drawn as nothing (Unicode's `Default_Ignorable_Code_Point`), unassigned ones included.
///
/// Source: DerivedCoreProperties.txt of Unicode 16.
pub(crate) fn is_default_ignorable(c: char) -> bool {
    matches!(u32::from(c),
        0x00AD | 0x034F | 0x061C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F | 0x202A..=0x202E
        | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFF8 | 0x1BCA0..=0x1BCA3
        | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

fn short_name(name: &str) -> Option<ShortName> {
    let (stem_and_number, extension) = name.split_once('.').unwrap_or((name, ""));
    let (stem, number) = stem_and_number.rsplit_once('~')?;
    let is_short = !stem.is_empty()
        && stem_and_number.chars().count() <= 8
        && extension.chars().count() <= 3
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit());
    is_short.then(|| ShortName { stem: stem.to_owned(), digits: number.len(), extension: extension.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wholes(path: &str) -> Vec<String> {
        spellings(path).into_iter().map(|spelling| spelling.whole).collect()
    }

    #[test]
    fn disguises_reduce_to_one_spelling() {
        for (disguised, plain) in [
            (".ENV", ".env"),
            ("．ｅｎｖ", ".env"),
            (".e\u{200b}nv", ".env"),
            (".env\u{feff}", ".env"),
            (".env. . ", ".env"),
            (".env\n", ".env"),
            (" .env", ".env"),
            ("\u{3000}.env\u{a0}", ".env"),
            ("ıd_rsa", "id_rsa"),
            ("İD_RSA", "id_rsa"),
            ("i\u{307}d_rsa", "id_rsa"),
            ("\u{212a}ey.\u{212a}EY", "key.key"),
            ("id_rſa", "id_rsa"),
            (".\u{1d41e}nv", ".env"),
            (".\u{e0001}git", ".git"),
        ] {
            assert_eq!(wholes(disguised), [plain], "{disguised:?}");
        }
    }

    #[test]
    fn separators_of_other_systems_separate() {
        for path in ["a\\.env", "a／.env", "a＼.env", "a⁄.env", "a∕.env"] {
            assert_eq!(wholes(path), ["a", ".env"], "{path:?}");
        }
    }

    #[test]
    fn a_stream_does_not_hide_its_file() {
        let spellings = spellings(".env ::$DATA");
        assert_eq!(spellings[0].before_stream.as_deref(), Some(".env"));
    }

    #[test]
    fn a_plain_spelling_is_the_only_one() {
        let pieces = ["", "a", "Z", " ", ".", "~", "~1", ":", "\\", "é", "\u{200b}", "\n", "}", "-"];
        let longer = |names: Vec<String>| -> Vec<String> {
            let longer = |name: &String| pieces.map(|piece| format!("{name}{piece}"));
            names.iter().flat_map(longer).collect()
        };
        for name in longer(longer(longer(vec![String::new()]))) {
            let Some(plain) = plain_spelling(&name) else {
                continue;
            };
            let only = Spelling { whole: plain.clone().into_owned(), before_stream: None, short: None };
            assert_eq!(spellings(&name), [only], "{name:?}");
        }
        assert_eq!(plain_spelling("ReadMe.md").as_deref(), Some("readme.md"));
    }

    #[test]
    fn short_names_are_recognised_by_form() {
        for (name, short) in [
            ("git~1", Some(("git", 1, ""))),
            ("creden~1.jso", Some(("creden", 1, "jso"))),
            ("crede~12.jso", Some(("crede", 2, "jso"))),
            ("notes~", None),
            ("~1", None),
            ("notes~a", None),
            ("a-long-name~1", None),
            ("git~1.json", None),
        ] {
            let expected = short.map(|(stem, digits, extension)| ShortName {
                stem: stem.into(),
                digits,
                extension: extension.into(),
            });
            assert_eq!(short_name(name), expected, "{name:?}");
        }
    }

    #[test]
    fn reducing_twice_changes_nothing() {
        // Two planes hold everything that has case or a compatibility form; beyond them one step a plane is enough.
        for c in ('\0'..='\u{1ffff}').chain(('\u{20000}'..=char::MAX).step_by(0xfff)) {
            for name in [format!("{c}"), format!("I\u{200b}{c}"), format!("{c}\u{200b}\u{307}")] {
                let reduced = reduce(&name);
                assert_eq!(reduce(&reduced), reduced, "{name:?}");
            }
        }
    }

    #[test]
    fn ordinary_names_keep_their_letters() {
        for (name, expected) in [("README.md", "readme.md"), ("résumé.md", "résumé.md"), ("日本語.md", "日本語.md")]
        {
            assert_eq!(wholes(name), [expected]);
        }
    }
}
