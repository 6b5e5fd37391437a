//! `index.db`: everything that can be derived from the ledger, in tables that answer quickly.
//!
//! Invariant: the index holds nothing that is not in the ledger. It can be deleted at any time; replaying the ledger
//! into a new one gives the same answers (law 12), and so does applying the same checkpoints in any order (law 3).
//! Deliberately not here: what a path's file should be (that is `sync::resolve`), and anything that only this machine
//! knows (that is `state`). Nothing here is synced to the disk on the path of an edit; see `Index::rest`.

mod ahead;
mod apply;
mod batch;
mod codec;
mod content;
mod crowd;
mod deletions;
mod error;
mod extend;
mod floor;
mod heads;
mod lineage;
mod live;
mod manifest;
mod names;
mod numbers;
mod past;
mod places;
mod presence;
mod purge;
mod reader;
mod rebuild;
mod row;
mod schema;
mod star;
mod stats;
#[cfg(test)]
mod traced;
mod tree;
mod waiting;
mod warm;
mod writer;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::model::SegmentHash;

pub use apply::{Applied, Fork, Item, Reach, Rejected, SnapshotLists, SnapshotNote};
pub use content::{ContentError, ContentReader, MAX_READ_BYTES, ONCE_CACHE_BYTES, Proven};
pub use deletions::{Deletion, Revived, Span};
pub use error::IndexError;
pub use floor::{ClosedEnd, Dropped, Floor};
pub use live::{MAX_UNPLACED, Succession, Superseded};
pub use manifest::MAX_RESOLVED_SEGMENTS;
pub use numbers::{DirChange, Names as WantedNames, NumberedName, NumberedSlot, NumberedVersion, ROOT_DIR_NUMBER};
pub use past::Lived;
pub use purge::{PurgePlan, PurgeWord, Purged, WaitingPurge};
pub use reader::{OwnVersion, Reader};
pub use rebuild::{ReplayError, ReplayProblem, Replayed, replay};
#[cfg(test)]
pub(crate) use row::LOADED;
pub use row::{Slot, Stored};
pub use schema::{FreshReason, Opened};
pub use star::Star;
pub use stats::{Conflict, Counts, MissingBytes, MissingParents, OriginCounts};
#[cfg(test)]
pub(crate) use traced::{rows_of, traced};
pub use tree::{DirEntry, Entry, EntryKind, Tree};
pub use warm::warm;

/// The index, open for writing by the one process that holds the project's lock.
pub struct Index {
    reader: Reader,
    path: PathBuf,
    known: apply::Known,
    /// A log of more bytes is moved into the file after a transaction, which syncs.
    max_log_bytes: u64,
}

/// More than a first mirror of 100,000 files writes: only what is far larger waits for the disk here.
const MAX_LOG_BYTES: u64 = 1 << 30;

impl Deref for Index {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Index {
    /// Opens the index; one that is absent, damaged or of another schema is made anew, and the caller replays.
    ///
    /// `epoch` is a random number that names the index if it has to be made.
    pub fn open(path: &Path, epoch: u64) -> Result<(Index, Opened), IndexError> {
        if schema::is_suspect(path) {
            if let Some(why) = schema::damage_of(path)? {
                return Index::create(path, epoch, FreshReason::Damaged(why));
            }
            schema::acquit(path)?;
        }
        let (conn, opened) = schema::open_or_create(path, epoch)?;
        let reader = Reader::over(conn)?;
        match apply::Known::load(&reader) {
            Ok(known) => Ok((Index::over(reader, path, known), opened)),
            Err(error) if error.is_damage() => {
                drop(reader);
                Index::create(path, epoch, FreshReason::Damaged(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes what is there and makes an empty index, for `larder rebuild`.
    pub fn recreate(path: &Path, epoch: u64) -> Result<Index, IndexError> {
        Ok(Index::create(path, epoch, FreshReason::Absent)?.0)
    }

    fn create(path: &Path, epoch: u64, reason: FreshReason) -> Result<(Index, Opened), IndexError> {
        schema::remove(path)?;
        let (conn, _) = schema::open_or_create(path, epoch)?;
        let reader = Reader::over(conn)?;
        let known = apply::Known::load(&reader)?;
        Ok((Index::over(reader, path, known), Opened::Fresh { reason }))
    }

    fn over(reader: Reader, path: &Path, known: apply::Known) -> Index {
        Index { reader, path: path.to_owned(), known, max_log_bytes: MAX_LOG_BYTES }
    }

    /// False only if the segment certainly has no place: answered from memory while an index fills for the first time.
    pub fn may_have_place(&self, segment: &SegmentHash) -> bool {
        self.known.places.may_contain(segment)
    }

    /// Which file the index at `path` is: device and number. As long as somebody has it open the number is nobody else's.
    pub fn file_at(path: &Path) -> Option<(u64, u64)> {
        schema::file_at(path)
    }

    /// Notes that somebody met damage in the index at `path`, which was `file` then: whoever opens that one next looks through all of it, and
    /// makes it anew if it is so.
    pub fn suspect(path: &Path, file: (u64, u64)) {
        schema::suspect(path, file);
    }

    /// True if somebody met damage in the index at `path` since it was looked through.
    pub fn is_suspect(path: &Path) -> bool {
        schema::is_suspect(path)
    }

    /// Opens another connection for another thread.
    pub fn reader(&self) -> Result<Reader, IndexError> {
        Reader::open(&self.path)
    }

    /// Moves the write-ahead log into the file, which syncs; for idle times and for the end of a long batch.
    ///
    /// Skipping it costs space, never answers: a crash keeps every finished transaction that the system wrote.
    pub fn rest(&self) -> Result<(), IndexError> {
        let mode = "PRAGMA wal_checkpoint(PASSIVE)";
        self.reader.conn.query_row(mode, [], |_| Ok(()))?;
        Ok(())
    }

    /// Empties the cache of pages.
    pub fn shrink(&self) {
        self.reader.shrink();
    }

    /// Bytes that the write-ahead log has gathered since the last `rest`.
    pub fn wal_bytes(&self) -> u64 {
        schema::log_bytes(&self.path)
    }

    /// Reads every page and every index entry; for `larder verify`. Errors: damage, with the first thing found.
    pub fn verify(&self) -> Result<(), IndexError> {
        let verdict: String = self.reader.conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict == "ok" { Ok(()) } else { Err(IndexError::damaged(verdict)) }
    }
}
