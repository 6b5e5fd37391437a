//! The words of the seam: records, rows, revisions, cursors, queries.
//!
//! Invariant: a `RecordId` and its (app, owner, path) are the same fact; neither of two records that differ in one of them shares an id.
//! Deliberately absent: hashing, admission of paths, clocks. Paths and versions are opaque strings here; callers parse what comes from outside.

use std::fmt;

use crate::{AdapterError, ErrorKind};

/// The owner of the shared space; every other owner is a person's private space.
pub const SHARED_OWNER: &str = "shared";

/// The name of a record: `<app>:<path>` for owner `shared`, else `<app>:<owner>:<path>`.
///
/// So that no two records share a name, `%` and `:` inside app and owner are written `%25` and `%3A`, and a shared
/// path that itself contains `:` is named `<app>:shared:<path>`. Ids order as their UTF-8 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(String);

impl RecordId {
    /// Names the record of `owner` at `path` in `app`. An empty owner is `shared`.
    pub fn new(app: &str, owner: &str, path: &str) -> Self {
        let mut id = String::with_capacity(app.len() + path.len() + 1);
        push_escaped(&mut id, app);
        id.push(':');
        if !(owner.is_empty() || owner == SHARED_OWNER) {
            push_escaped(&mut id, owner);
            id.push(':');
        } else if path.contains(':') {
            id.push_str("shared:");
        }
        id.push_str(path);
        Self(id)
    }

    /// Takes an id as a backend returned it; `None` if no record can have that name.
    pub fn parse(id: &str) -> Option<Self> {
        let candidate = Self(id.to_owned());
        let (app, owner, path) = candidate.parts()?;
        (Self::new(&app, &owner, &path) == candidate).then_some(candidate)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The (app, owner, path) this id names; `None` never for an id made by `new` or `parse`.
    pub fn parts(&self) -> Option<(String, String, String)> {
        let (app, rest) = self.0.split_once(':')?;
        let (owner, path) = rest.split_once(':').unwrap_or((SHARED_OWNER, rest));
        Some((unescaped(app), unescaped(owner), path.to_owned()))
    }
}

/// An id with what it names.
pub(crate) struct Named {
    pub id: RecordId,
    pub owner: String,
    pub path: String,
}

impl Named {
    /// As `RecordId::parse`.
    pub fn parse(id: &str) -> Option<Self> {
        let id = RecordId::parse(id)?;
        let (_, owner, path) = id.parts()?;
        Some(Self { id, owner, path })
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn push_escaped(id: &mut String, part: &str) {
    for c in part.chars() {
        match c {
            '%' => id.push_str("%25"),
            ':' => id.push_str("%3A"),
            _ => id.push(c),
        }
    }
}

/// The form of an app or owner inside an id.
pub(crate) fn escaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    push_escaped(&mut text, part);
    text
}

/// The least text above everything that starts with `prefix`. UTF-8 orders as its characters do.
pub(crate) fn after_prefix(prefix: &str) -> String {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return chars.into_iter().collect();
        }
    }
    unreachable!("an id's prefix holds its app's colon")
}

fn unescaped(part: &str) -> String {
    part.replace("%3A", ":").replace("%25", "%")
}

/// What a backend calls one state of one record. Opaque: compare for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl Revision {
    /// Wraps a backend's own name of a state.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text a backend gave; only that backend may read meaning into it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A place in a backend's change feed. Opaque; survives restarts as text.
///
/// A cursor that its backend no longer knows (another database, a restored one) reads as `start`: the feed is then
/// told from the beginning, which is slow and never wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// The place before every change.
    pub fn start() -> Self {
        Self(String::new())
    }

    /// Whether this is the place before every change.
    pub fn is_start(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes back what `as_str` gave out.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The cursor as text, empty for `start`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which ledger version a row projects; stored beside the row, written together with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorEntry {
    /// Comma-joined hex ids of ledger versions; opaque here.
    pub version: String,
    /// BLAKE3-256 of the row's content as the ledger knows it.
    pub content_hash: [u8; 32],
}

/// The content of a record as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The exact text of a file that any program may read and write; see [`crate::Capabilities::admits_text`].
    Text(String),
    /// Everything else, as chunks of at most `chunk_limit_bytes` each, numbered from 0.
    Chunks {
        /// The first n stored chunks stay as they are; every later one is dropped before `add` is stored.
        /// More than 0 needs a record that already has that many, else `Conflict`.
        keep: u32,
        /// The chunks that follow the kept ones.
        add: Vec<Vec<u8>>,
    },
}

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The project's id; artifacts of its ledger use `<app>-ledger`.
    pub app: String,
    /// `shared` or the private space's owner.
    pub owner: String,
    /// The path, `/` separated; never empty, never with a NUL.
    pub path: String,
    /// The content.
    pub body: Body,
    /// Wall milliseconds of the version; shown to people and other programs, never compared.
    pub last_updated_ms: u64,
    /// Wall milliseconds of the path's first version.
    pub created_at_ms: u64,
    /// The ledger version this content is; `None` for what is no projection (artifacts).
    pub mirror: Option<MirrorEntry>,
}

impl Record {
    /// The name of this record.
    pub fn id(&self) -> RecordId {
        RecordId::new(&self.app, &self.owner, &self.path)
    }
}

/// The content of a record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowContent {
    /// A text row, whole.
    Text(String),
    /// A chunked record; `FileSyncAdapter::read_chunks` reads its bytes.
    Chunked {
        /// How many chunks there are, numbered from 0.
        chunk_count: u32,
        /// Their lengths added up.
        size_bytes: u64,
    },
    /// No row. With a mirror entry standing: somebody else deleted it. Without: it was deleted in agreement.
    Absent,
    /// There is a text row, and the query did not ask for its text.
    Unread,
    /// There is a row that no file can be: not text, not UTF-8, beyond any limit. The sentence says which.
    Invalid(String),
}

/// One record as it stands in the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name.
    pub id: RecordId,
    /// The project's id.
    pub app: String,
    /// `shared` or the private space's owner.
    pub owner: String,
    /// The path; from outside, so parse it before use.
    pub path: String,
    /// The content.
    pub content: RowContent,
    /// The name of this state; what `Expected::Revision` compares.
    pub revision: Revision,
    /// The entry that stands beside the row, whoever wrote the row last.
    pub mirror: Option<MirrorEntry>,
    /// The revision that was written together with `mirror`.
    pub mirrored_revision: Option<Revision>,
    /// Wall milliseconds as the writer gave them; 0 if it gave none that can be read.
    pub last_updated_ms: u64,
    /// Wall milliseconds as the writer gave them; 0 if it gave none that can be read.
    pub created_at_ms: u64,
}

impl Row {
    /// Whether somebody else wrote last: the state differs from the one written with the mirror entry.
    ///
    /// A row without an entry is foreign, a deletion without an entry is not. A foreign row may still hold the mirrored
    /// bytes (an edit and its undo): only its content's hash says whether anything is to be recorded.
    pub fn is_foreign(&self) -> bool {
        match &self.mirrored_revision {
            Some(mirrored) => *mirrored != self.revision,
            None => self.content != RowContent::Absent,
        }
    }
}

/// What a compare-and-set finds, if nobody else wrote meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No content: never written, or deleted (by anybody).
    Absent,
    /// Exactly this state, an observed foreign deletion included.
    Revision(Revision),
}

/// Which rows of a space a query lists, in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// What changed after the cursor, oldest change first, deletions included, each id once with its newest state.
    Changes {
        /// The cursor of the previous page, or `Cursor::start()`.
        after: Cursor,
    },
    /// What is there now, ordered by the bytes of the path, then of the owner; no deletions.
    Paths {
        /// Only paths that start with these very characters; no wildcard means anything.
        prefix: String,
        /// Only paths greater than this one; the last path of the previous page.
        after: Option<String>,
    },
}

/// A question for one page of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The project's id.
    pub app: String,
    /// One owner, or every owner.
    pub owner: Option<String>,
    /// Which rows.
    pub select: Selection,
    /// Rows a page, at least 1. A path listing over every owner may exceed it rather than split one path.
    pub limit: usize,
    /// Whether text is read; chunks never are.
    pub with_content: bool,
}

impl Query {
    /// How many rows a page of it holds where `most` fit. `Unsupported` for a limit of 0.
    pub fn rows_of_page(&self, most: usize) -> Result<usize, AdapterError> {
        if self.limit == 0 {
            return Err(AdapterError::new(ErrorKind::Unsupported, "query a page of 0 rows"));
        }
        Ok(self.limit.min(most))
    }

    /// Asks for the changes of one space after `after`, with their text.
    pub fn changes(app: &str, owner: Option<&str>, after: Cursor, limit: usize) -> Self {
        let select = Selection::Changes { after };
        Self { app: app.to_owned(), owner: owner.map(str::to_owned), select, limit, with_content: true }
    }

    /// Asks for the names below `prefix` in one owner's space, without their text.
    pub fn paths(app: &str, owner: &str, prefix: &str, after: Option<&str>, limit: usize) -> Self {
        let select = Selection::Paths { prefix: prefix.to_owned(), after: after.map(str::to_owned) };
        Self { app: app.to_owned(), owner: Some(owner.to_owned()), select, limit, with_content: false }
    }
}

/// One page of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The rows, in the order of the selection.
    pub rows: Vec<Row>,
    /// Changes: where the next page begins, also when there is no more. Paths: the feed's place when the page was read.
    pub cursor: Cursor,
    /// Whether another page follows at once.
    pub more: bool,
}

/// One item of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// As `FileSyncAdapter::set`.
    Set {
        /// The new state.
        record: Record,
        /// The state it replaces.
        expected: Expected,
    },
    /// As `FileSyncAdapter::delete`.
    Delete {
        /// The record to go.
        id: RecordId,
        /// The state it replaces.
        expected: Expected,
    },
}

/// A hint that asking again is worth it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something in the space may have changed.
    Changed,
    /// The connection was lost and changes may have been missed, or come late from now on.
    Lost {
        /// A sentence for `status`.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn record_id_names_exactly_one_record(app in "[a%:25A3]{1,6}", owner in "[a%:sh]{1,6}|shared", path in "[a:%/]{1,8}") {
            let id = RecordId::new(&app, &owner, &path);

            prop_assert_eq!(id.parts(), Some((app, owner, path)));
            prop_assert_eq!(RecordId::parse(id.as_str()), Some(id));
        }
    }

    #[test]
    fn record_id_is_plain_for_plain_names() {
        assert_eq!(RecordId::new("notes", "shared", "a/b.md").as_str(), "notes:a/b.md");
        assert_eq!(RecordId::new("notes", "", "a/b.md").as_str(), "notes:a/b.md");
        assert_eq!(RecordId::new("notes", "u-bo-1", "a/b.md").as_str(), "notes:u-bo-1:a/b.md");
        assert_eq!(RecordId::new("notes", "shared", "u-bo-1:a").as_str(), "notes:shared:u-bo-1:a");
    }

    #[test]
    fn record_id_refuses_a_second_spelling() {
        for odd in ["", "a", "a:shared:b", "a%3a:b", "a::b"] {
            assert_eq!(RecordId::parse(odd), None, "{odd:?}");
        }
    }
}
