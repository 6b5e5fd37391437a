//! A path inside a project: parsed once, trusted afterwards.
//!
//! Invariant: a [`RelPath`] names something below the root it is joined to, on every system: it has no empty, `.` or `..` component, no
//! drive, no leading separator, and no component that another system would read as one of these.
//! It says nothing about whether the path may be touched (that is [`crate::Rules`]) and nothing about symlinks on a disk.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use unicode_normalization::UnicodeNormalization;

use crate::spelling::{is_default_ignorable, reduce};

/// Longest component, in bytes of UTF-8: what ext4, APFS and NTFS can name.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Longest path, in bytes of UTF-8: Linux's `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4096;
/// Most components of a path, so that a walk's recursion is bounded.
pub const MAX_COMPONENTS: usize = 128;

/// A project-relative path.
///
/// Shape: UTF-8, `/`-separated, 1..=128 components of 1..=255 bytes, at most 4096 bytes in all; no NUL, no `.` or `..`.
/// Compared, ordered and hashed by bytes; cheap to clone. The name is kept as it was given: nothing is normalised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<str>);

/// Why a string is not a [`RelPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path is empty.
    #[error("parse a path: it is empty")]
    Empty,
    /// The path starts at a root of its own.
    #[error("parse a path: it is absolute, but must be relative to the project")]
    Absolute,
    /// The path starts with a drive letter.
    #[error("parse a path: it starts with the drive {drive}:, but must be relative to the project")]
    Drive {
        /// The letter.
        drive: char,
    },
    /// A component is `.` or `..`, or some system takes it for one.
    #[error("parse a path: the component \"{}\" stands for another folder", shown_short(component))]
    Traversal {
        /// The component as given.
        component: String,
    },
    /// Two separators follow each other, or the path ends with one.
    #[error("parse a path: it has an empty component")]
    EmptyComponent,
    /// The path contains a NUL byte.
    #[error("parse a path: it contains a NUL byte")]
    Nul,
    /// A component is longer than file systems can name.
    #[error("parse a path: a component of {bytes} bytes, at most {limit} are allowed")]
    ComponentTooLong {
        /// Its length.
        bytes: usize,
        /// The bound, [`MAX_COMPONENT_BYTES`].
        limit: usize,
    },
    /// The whole path is too long.
    #[error("parse a path: {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound, [`MAX_PATH_BYTES`].
        limit: usize,
    },
    /// What should be one name holds a separator.
    #[error("parse a name: it contains a separator")]
    Separator,
    /// The path has too many components.
    #[error("parse a path: {components} components, at most {limit} are allowed")]
    TooDeep {
        /// How many it has.
        components: usize,
        /// The bound, [`MAX_COMPONENTS`].
        limit: usize,
    },
}

impl RelPath {
    /// Parses a path that came from anywhere.
    ///
    /// Errors: the first fact that makes it no path inside a project.
    pub fn parse(text: &str) -> Result<RelPath, PathError> {
        check_whole(text)?;
        for component in text.split('/') {
            check_component(component)?;
        }
        Ok(RelPath(Arc::from(text)))
    }

    /// Returns the path as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// Returns everything before the last component, if there is more than one.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Returns the components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('/')
    }

    /// Returns the paths of the folders this path lies in, outermost first, without the path itself.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> + '_ {
        self.0.match_indices('/').map(|(at, _)| RelPath(Arc::from(&self.0[..at])))
    }

    /// Parses `rest` below this path.
    pub fn join(&self, rest: &str) -> Result<RelPath, PathError> {
        // On its own first: joining must not turn an absolute path or an empty one into a harmless tail.
        RelPath::parse(rest)?;
        RelPath::parse(&format!("{}/{rest}", self.0))
    }

    /// Parses one name below this path; what the path itself is made of is not looked at again.
    ///
    /// The same verdict as parsing the two together. Errors: [`PathError::Separator`] for what is more than one name.
    pub fn child(&self, name: &str) -> Result<RelPath, PathError> {
        check_child(self.0.len(), self.components().count(), name)?;
        Ok(self.with_checked(name))
    }

    /// Appends a name that passed [`check_child`].
    pub(crate) fn with_checked(&self, name: &str) -> RelPath {
        let mut text = String::with_capacity(self.0.len() + 1 + name.len());
        text.push_str(&self.0);
        text.push('/');
        text.push_str(name);
        RelPath(Arc::from(text))
    }

    /// Returns what follows the last dot of the file name; none for `.name`, `name` and `name.`.
    pub fn extension(&self) -> Option<&str> {
        match self.file_name().rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() && !extension.is_empty() => Some(extension),
            _ => None,
        }
    }

    /// Returns the path made safe for a terminal, a log or a page: see [`shown`].
    pub fn shown(&self) -> String {
        shown(&self.0)
    }
}

fn check_whole(text: &str) -> Result<(), PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if text.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong { bytes: text.len(), limit: MAX_PATH_BYTES });
    }
    if text.contains('\0') {
        return Err(PathError::Nul);
    }
    if text.starts_with(['/', '\\']) {
        return Err(PathError::Absolute);
    }
    // `C:x` is relative to the drive's folder on Windows: joining it to a root forgets the root.
    if let [drive, b':', ..] = text.as_bytes()
        && drive.is_ascii_alphabetic()
    {
        return Err(PathError::Drive { drive: char::from(*drive) });
    }
    let components = text.split('/').count();
    if components > MAX_COMPONENTS {
        return Err(PathError::TooDeep { components, limit: MAX_COMPONENTS });
    }
    Ok(())
}

/// Checks a name that is to stand below a path of `folder_bytes` bytes and `folder_components` components.
pub(crate) fn check_child(folder_bytes: usize, folder_components: usize, name: &str) -> Result<(), PathError> {
    let bytes = folder_bytes + 1 + name.len();
    if bytes > MAX_PATH_BYTES {
        return Err(PathError::TooLong { bytes, limit: MAX_PATH_BYTES });
    }
    check_one_name(name)?;
    if folder_components >= MAX_COMPONENTS {
        return Err(PathError::TooDeep { components: folder_components + 1, limit: MAX_COMPONENTS });
    }
    check_component(name)
}

/// Refuses what ends a name on some system: here a NUL or a `/`.
pub(crate) fn check_one_name(name: &str) -> Result<(), PathError> {
    match name.bytes().find(|byte| matches!(byte, 0 | b'/')) {
        None => Ok(()),
        Some(0) => Err(PathError::Nul),
        Some(_) => Err(PathError::Separator),
    }
}

fn check_component(component: &str) -> Result<(), PathError> {
    if component.is_empty() {
        return Err(PathError::EmptyComponent);
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(PathError::ComponentTooLong { bytes: component.len(), limit: MAX_COMPONENT_BYTES });
    }
    // No reduction takes away a letter or digit, so what has one is not made of dots and spaces.
    if !component.contains('\\') && component.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    // A backslash is an ordinary character here and a separator on Windows: no piece may climb there either.
    let climbs = |piece: &str| reduce(piece).chars().all(|c| c == '.' || c == ' ');
    if component.split('\\').any(|piece| !piece.is_empty() && climbs(piece)) {
        return Err(PathError::Traversal { component: component.to_owned() });
    }
    Ok(())
}

impl AsRef<str> for RelPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RelPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for RelPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<RelPath, PathError> {
        RelPath::parse(text)
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RelPath, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RelPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a project-relative path")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RelPath, E> {
                RelPath::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Returns the key shared by all paths that a case-insensitive or normalising file system cannot tell apart.
///
/// Canonical caseless matching with simple case folding: two paths with one key are twins, whatever their bytes.
/// Idempotent; never used as a path.
pub fn fold_key(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    let folded: String = path.nfd().flat_map(fold_char).collect();
    folded.nfc().collect()
}

/// Folds through the capital, so that all letters with one capital (σ and ς, s and ſ) become one.
fn fold_char(c: char) -> impl Iterator<Item = char> {
    // A dotless i has the capital I but is a letter of its own: file systems keep it apart from i.
    let mut upper = c.to_uppercase();
    let single_capital = match (upper.next(), upper.next()) {
        (Some(capital), None) if c != 'ı' => capital,
        _ => c,
    };
    single_capital.to_lowercase()
}

/// Returns `text` made safe for a terminal, a log or a page.
///
/// Control characters (escape sequences, line ends), line separators, bidirectional controls and invisible characters become `\n`-like or
/// `\u{..}` escapes, a backslash becomes `\\`: different texts stay different. Joiners and variation selectors stay, scripts need them.
pub fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\n' | '\r' | '\t' => safe.extend(c.escape_default()),
            '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' => safe.push(c),
            '\u{2028}' | '\u{2029}' => safe.extend(c.escape_unicode()),
            _ if c.is_control() || is_default_ignorable(c) => safe.extend(c.escape_unicode()),
            _ => safe.push(c),
        }
    }
    safe
}

/// Like [`shown`], bounded for use in a message.
pub(crate) fn shown_short(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    shown(&short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn traversal_is_refused_in_every_form() {
        for text in [
            ".",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a/./b",
            "./a",
            ".. /a",
            "../../etc/passwd",
            "a/.. ./b",
            "...",
            "a/ /b",
            "..\\a",
            "a\\..",
            "a\\..\\b",
            "a/b\\../c",
            ".\\a",
            "‥/a",
            "．．/a",
            ".\u{200b}./a",
            "a/\u{200b}/b",
            "．",
            ".\u{feff}.",
        ] {
            assert!(
                matches!(RelPath::parse(text), Err(PathError::Traversal { .. })),
                "{text:?}: {:?}",
                RelPath::parse(text)
            );
        }
    }

    #[test]
    fn what_is_no_path_inside_a_project_is_refused_with_its_fact() {
        for (text, expected) in [
            ("", PathError::Empty),
            ("/", PathError::Absolute),
            ("/etc/passwd", PathError::Absolute),
            ("//server/share", PathError::Absolute),
            ("\\\\server\\share", PathError::Absolute),
            ("\\\\?\\C:\\x", PathError::Absolute),
            ("\\x", PathError::Absolute),
            ("C:\\x", PathError::Drive { drive: 'C' }),
            ("c:/x", PathError::Drive { drive: 'c' }),
            ("c:x", PathError::Drive { drive: 'c' }),
            ("a//b", PathError::EmptyComponent),
            ("a/", PathError::EmptyComponent),
            ("a\0b", PathError::Nul),
        ] {
            assert_eq!(RelPath::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        let name = "n".repeat(MAX_COMPONENT_BYTES);
        assert!(RelPath::parse(&name).is_ok());
        assert_eq!(
            RelPath::parse(&format!("{name}n")),
            Err(PathError::ComponentTooLong { bytes: 256, limit: MAX_COMPONENT_BYTES })
        );

        let deep = vec!["d"; MAX_COMPONENTS].join("/");
        assert!(RelPath::parse(&deep).is_ok());
        assert_eq!(
            RelPath::parse(&format!("{deep}/d")),
            Err(PathError::TooDeep { components: 129, limit: MAX_COMPONENTS })
        );

        let long = vec![name.as_str(); 16].join("/");
        assert_eq!(long.len(), MAX_PATH_BYTES - 1);
        assert!(RelPath::parse(&long).is_ok());
        assert_eq!(
            RelPath::parse(&format!("{long}/n")),
            Err(PathError::TooLong { bytes: 4097, limit: MAX_PATH_BYTES })
        );
    }

    #[test]
    fn unusual_but_harmless_names_are_kept_as_they_are() {
        for text in [
            "a\\b.md",
            "..a",
            "a..",
            "...a",
            "[...slug].tsx",
            "%2e%2e",
            "a\nb",
            "日本語/é",
            "notes: today.md",
            " a ",
            "-rf",
            "a\\",
        ] {
            assert_eq!(path(text).as_str(), text);
        }
    }

    #[test]
    fn parts_are_found() {
        let deep = path("data/logs/run.tar.gz");
        assert_eq!(deep.file_name(), "run.tar.gz");
        assert_eq!(deep.parent(), Some("data/logs"));
        assert_eq!(deep.extension(), Some("gz"));
        assert_eq!(deep.components().collect::<Vec<_>>(), ["data", "logs", "run.tar.gz"]);
        assert_eq!(deep.ancestors().collect::<Vec<_>>(), [path("data"), path("data/logs")]);

        let flat = path(".bashrc");
        assert_eq!((flat.file_name(), flat.parent(), flat.extension()), (".bashrc", None, None));
        assert_eq!(path("name.").extension(), None);
    }

    #[test]
    fn join_cannot_escape() {
        let base = path("data");
        assert_eq!(base.join("a/b"), Ok(path("data/a/b")));
        for rest in ["..", "/etc", "a/../../b", "", "C:x", "\\x"] {
            assert!(base.join(rest).is_err(), "{rest:?}");
        }
    }

    #[test]
    fn a_child_gets_the_verdict_of_the_whole_path() {
        let base = path("data/x");
        let long = "n".repeat(256);
        for name in ["a", "", ".", "..", "a\0", "C:x", "\\x", "..\\a", "é", "\u{200b}", "．．", " ", &long] {
            let whole = RelPath::parse(&format!("data/x/{name}"));
            assert_eq!(base.child(name), whole, "{name:?}");
        }
        assert_eq!(base.child("a/b"), Err(PathError::Separator));
        assert_eq!(base.child("/"), Err(PathError::Separator));

        let deepest = path(&vec!["d"; MAX_COMPONENTS].join("/"));
        assert!(matches!(deepest.child("d"), Err(PathError::TooDeep { components: 129, .. })));
        let longest = path(&vec!["n".repeat(255).as_str(); 16].join("/"));
        assert!(matches!(longest.child("n"), Err(PathError::TooLong { bytes: 4097, .. })));
    }

    #[test]
    fn twins_share_a_key_and_others_do_not() {
        for (one, other) in [
            ("README.md", "readme.MD"),
            ("é", "e\u{301}"),
            ("É", "e\u{301}"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("\u{212a}", "k"),
            ("ſ", "S"),
            ("µ", "μ"),
            ("Å", "a\u{30a}"),
            ("ẞ", "ß"),
        ] {
            assert_eq!(fold_key(one), fold_key(other), "{one:?} {other:?}");
        }
        for (one, other) in [("a", "b"), ("ı", "i"), ("ﬁ", "fi"), ("．", "."), ("a/b", "a\\b")] {
            assert_ne!(fold_key(one), fold_key(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn shown_text_cannot_move_the_cursor_or_turn_the_line() {
        for (text, expected) in [
            ("plain.md", "plain.md"),
            ("a\nb", "a\\nb"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\u{202e}gpj.exe", "a\\u{202e}gpj.exe"),
            ("a\\nb", "a\\\\nb"),
            ("a\u{85}b", "a\\u{85}b"),
            ("a\u{2028}b", "a\\u{2028}b"),
            ("日本語", "日本語"),
        ] {
            assert_eq!(shown(text), expected);
        }
        assert_eq!(path("a\rb").shown(), "a\\rb");
        let error = RelPath::parse("..\u{1b}").map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| !text.contains('\u{1b}')));
    }
}
