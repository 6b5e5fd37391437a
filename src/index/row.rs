//! Rows of `versions` and `slots` as values, and how a row becomes a model version again.
//!
//! Invariant: a row read back gives the version that was applied, field for field; anything else is damage.

use std::ops::Range;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::IndexError;
use super::codec::{Ext, Flags, HeadRef, Lanes, decode_heads};
use crate::model::{Content, ContentHash, ContentKind, Hlc, OriginName, Reason, RelPath, Space, Version, VersionId};

/// What a set of heads belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// Spaces never compare.
    pub space: Space,
    /// The origin of an archive file, which is (origin, path); `None` for shared and private files.
    pub origin: Option<OriginName>,
    /// Where.
    pub path: RelPath,
}

impl Slot {
    /// The slot a version belongs to.
    pub fn of(space: &Space, version: &Version) -> Slot {
        let archive = version.channel == crate::model::Channel::Archive;
        let origin = archive.then(|| version.dot.lane.origin.clone());
        Slot { space: space.clone(), origin, path: version.path.clone() }
    }
}

/// A version and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its id.
    pub id: VersionId,
    /// It.
    pub version: Version,
}

/// See `VersionRow::rank`.
pub(super) type Rank = (bool, bool, Hlc, VersionId);

/// One row of `versions`.
#[derive(Clone, Debug)]
pub(super) struct VersionRow {
    pub vid: i64,
    pub id: VersionId,
    pub sid: i64,
    /// The version applied to this slot before this one; 0 for the first.
    pub prev: i64,
    pub cid: i64,
    pub first: u64,
    pub n: u64,
    pub hlc: Hlc,
    pub born: Hlc,
    pub flags: Flags,
    pub content: Option<ContentHash>,
    pub size: u64,
    pub ext: Option<Vec<u8>>,
}

#[cfg(test)]
thread_local! {
    /// Version rows that this thread read: what laws about work count.
    pub(crate) static LOADED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts version rows that were read, for laws about work.
pub(super) fn note_loaded(rows: u64) {
    #[cfg(test)]
    LOADED.with(|count| count.set(count.get() + rows));
    #[cfg(not(test))]
    let _ = rows;
}

const VERSION_COLUMNS: &str = "vid, id, sid, prev, cid, n, lag, hlc, age, flags, content, size, ext";

impl VersionRow {
    pub fn load(conn: &Connection, vid: i64) -> Result<VersionRow, IndexError> {
        note_loaded(1);
        const SQL: &str =
            "SELECT vid, id, sid, prev, cid, n, lag, hlc, age, flags, content, size, ext FROM versions WHERE vid = ?1";
        debug_assert!(SQL.contains(VERSION_COLUMNS));
        let mut statement = conn.prepare_cached(SQL)?;
        let mut rows = statement.query([vid])?;
        match rows.next()? {
            Some(row) => VersionRow::read(row, 0),
            None => Err(IndexError::damaged(format!("version row {vid} is missing"))),
        }
    }

    /// The rows with these numbers that there are, in their order.
    pub fn load_all(conn: &Connection, numbers: Range<i64>) -> Result<Vec<VersionRow>, IndexError> {
        let mut statement = conn.prepare_cached(
            "SELECT vid, id, sid, prev, cid, n, lag, hlc, age, flags, content, size, ext FROM versions
             WHERE vid >= ?1 AND vid < ?2 ORDER BY vid",
        )?;
        let mut rows = statement.query((numbers.start, numbers.end))?;
        let mut loaded = Vec::new();
        while let Some(row) = rows.next()? {
            note_loaded(1);
            loaded.push(VersionRow::read(row, 0)?);
        }
        Ok(loaded)
    }

    /// Reads the columns of [`VERSION_COLUMNS`] that begin at `first`.
    fn read(row: &Row<'_>, first: usize) -> Result<VersionRow, IndexError> {
        let at = |column: usize| first + column;
        let damaged = || IndexError::damaged("a version row holds a hash that is not 32 bytes");
        let n = row.get::<_, i64>(at(5))?.cast_unsigned();
        let hlc = row.get::<_, i64>(at(7))?.cast_unsigned();
        let content = match row.get_ref(at(10))?.as_blob_or_null()? {
            Some(blob) => Some(ContentHash::from_slice(blob).ok_or_else(damaged)?),
            None => None,
        };
        Ok(VersionRow {
            vid: row.get(at(0))?,
            id: VersionId::from_slice(row.get_ref(at(1))?.as_blob()?).ok_or_else(damaged)?,
            sid: row.get(at(2))?,
            prev: row.get(at(3))?,
            cid: row.get(at(4))?,
            first: n.wrapping_sub(row.get::<_, i64>(at(6))?.cast_unsigned()),
            n,
            hlc: Hlc::from_u64(hlc),
            born: Hlc::from_u64(hlc.wrapping_sub(row.get::<_, i64>(at(8))?.cast_unsigned())),
            flags: Flags(row.get(at(9))?),
            content,
            size: row.get::<_, Option<i64>>(at(11))?.unwrap_or(0).cast_unsigned(),
            ext: row.get(at(12))?,
        })
    }

    /// The version of an outer join whose columns begin at `first`; `None` if there is none.
    pub fn read_joined(row: &Row<'_>, first: usize) -> Result<Option<VersionRow>, IndexError> {
        if row.get_ref(first)? == ValueRef::Null {
            return Ok(None);
        }
        note_loaded(1);
        VersionRow::read(row, first).map(Some)
    }

    pub fn ext(&self) -> Result<Ext, IndexError> {
        Ext::decode(self.ext.as_deref())
            .ok_or_else(|| IndexError::damaged(format!("version row {} has a broken blob", self.vid)))
    }

    /// The whole vector: the stored one and the own dot.
    pub fn full_lanes(&self) -> Result<Lanes, IndexError> {
        let mut lanes = self.ext()?.lanes;
        lanes.insert((self.cid, self.first), self.n);
        Ok(lanes)
    }

    pub fn kind(&self) -> Result<Result<ContentKind, Reason>, IndexError> {
        self.flags.kind().ok_or_else(|| IndexError::damaged(format!("version row {} has unknown flags", self.vid)))
    }

    /// The content, unless it is a tombstone.
    pub fn content(&self) -> Result<Option<Content>, IndexError> {
        match (self.kind()?, self.content) {
            (Ok(kind), Some(hash)) => Ok(Some(Content { hash, size: self.size, kind })),
            (Err(_), None) => Ok(None),
            _ => Err(IndexError::damaged(format!("version row {} is half a tombstone", self.vid))),
        }
    }

    /// What decides among concurrent versions, highest last: content over tombstone, not adopted, clock, id.
    pub fn rank(&self) -> Rank {
        (self.content.is_some(), !self.flags.adopted(), self.hlc, self.id)
    }

    /// Equal in what the twin rule compares.
    pub fn is_twin(&self, other: &VersionRow) -> Result<bool, IndexError> {
        let same = self.vid != other.vid && self.sid == other.sid && self.content()? == other.content()?;
        Ok(same && self.ext()?.parents == other.ext()?.parents)
    }
}

/// `slots.state`: what a slot counts as.
pub(super) mod state {
    /// Some head has content.
    pub const LIVE: i64 = 1;
    /// Heads have different contents.
    pub const CONFLICT: i64 = 2;
    /// Deleted, not moved.
    pub const TRASH: i64 = 4;
    /// `authors` has rows for it.
    pub const MANY: i64 = 8;
}

/// One row of `slots`, without its name.
#[derive(Clone, Debug)]
pub(super) struct SlotRow {
    pub sid: i64,
    pub did: i64,
    pub spid: i64,
    pub oid: i64,
    /// The version applied last: always one of the heads.
    pub last: i64,
    pub heads: Vec<HeadRef>,
    pub state: i64,
    /// The chain that wrote here first, and its newest version here; other chains stand in `authors`.
    pub author: i64,
    pub own: i64,
}

impl SlotRow {
    pub fn load(conn: &Connection, sid: i64) -> Result<SlotRow, IndexError> {
        let mut statement = conn
            .prepare_cached("SELECT sid, did, spid, oid, last, heads, state, author, own FROM slots WHERE sid = ?1")?;
        let mut rows = statement.query([sid])?;
        match rows.next()? {
            Some(row) => SlotRow::read(row),
            None => Err(IndexError::damaged(format!("slot row {sid} is missing"))),
        }
    }

    pub fn find(conn: &Connection, did: i64, name: &str, spid: i64, oid: i64) -> Result<Option<SlotRow>, IndexError> {
        let mut statement = conn.prepare_cached(
            "SELECT sid, did, spid, oid, last, heads, state, author, own FROM slots
             WHERE did = ?1 AND name = ?2 AND spid = ?3 AND oid = ?4",
        )?;
        let mut rows = statement.query((did, name, spid, oid))?;
        rows.next()?.map(SlotRow::read).transpose()
    }

    /// Reads the nine columns in the order of the statements above.
    pub fn read(row: &Row<'_>) -> Result<SlotRow, IndexError> {
        let (sid, last): (i64, i64) = (row.get(0)?, row.get(4)?);
        let heads = decode_heads(row.get_ref(5)?.as_blob_or_null()?, last)
            .ok_or_else(|| IndexError::damaged(format!("slot row {sid} has broken heads")))?;
        Ok(SlotRow {
            sid,
            did: row.get(1)?,
            spid: row.get(2)?,
            oid: row.get(3)?,
            last,
            heads,
            state: row.get(6)?,
            author: row.get(7)?,
            own: row.get::<_, Option<i64>>(8)?.unwrap_or(last),
        })
    }

    /// The rows of the heads that count.
    pub fn open_heads(&self, conn: &Connection) -> Result<Vec<VersionRow>, IndexError> {
        let open = self.heads.iter().filter(|head| !head.shadowed);
        open.map(|head| VersionRow::load(conn, head.vid)).collect()
    }

    /// The newest version of `chain` here.
    pub fn own_version(&self, conn: &Connection, cid: i64) -> Result<Option<i64>, IndexError> {
        if self.author == cid {
            return Ok(Some(self.own));
        }
        if self.state & state::MANY == 0 {
            return Ok(None);
        }
        let mut statement = conn.prepare_cached("SELECT vid FROM authors WHERE sid = ?1 AND cid = ?2")?;
        Ok(statement.query_row((self.sid, cid), |row| row.get(0)).optional()?)
    }
}
