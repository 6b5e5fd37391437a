//! Questions about versions: heads, history, ancestors, what a chain wrote last.
//!
//! Invariant: answers are a function of the set of applied checkpoints, never of the order in which they came (but for
//! row numbers, which are a cursor of this one index). A `Reader` sees the index as of its last finished transaction.

use std::path::Path;

use rusqlite::Connection;

use super::codec::Ext;
use super::lineage::{Descendant, load_forks};
use super::names::Names;
use super::row::{SlotRow, VersionRow};
use super::{IndexError, Slot, Stored, schema};
use crate::model::{
    ArtifactHash, Chain, Content, ContentHash, Dot, Lane, MetaEvent, Record, RelPath, SegmentHash, State, Vector,
    Version, VersionId,
};

/// One connection's view of the index. Every thread opens its own.
pub struct Reader {
    pub(super) conn: Connection,
    pub(super) names: Names,
    epoch: u64,
}

/// The newest version that a chain wrote to a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnVersion {
    /// Its id.
    pub id: VersionId,
    /// Its place; a descendant extends `dot.lane`.
    pub dot: Dot,
}

impl Drop for Reader {
    fn drop(&mut self) {
        schema::keep_short_log(&self.conn);
    }
}

impl Reader {
    /// Opens the index for reading only.
    pub fn open(path: &Path) -> Result<Reader, IndexError> {
        Reader::over(schema::open_reader(path)?)
    }

    pub(super) fn over(conn: Connection) -> Result<Reader, IndexError> {
        let epoch: i64 = conn.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0))?;
        Ok(Reader { conn, names: Names::default(), epoch: epoch.cast_unsigned() })
    }

    /// Empties the cache of pages.
    pub fn shrink(&self) {
        // What is not given back now is given back when the cache is full.
        let _ = self.conn.execute_batch("PRAGMA shrink_memory");
    }

    /// Changes when the index is made anew: row numbers of another epoch mean nothing.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last checkpoint up to which the chain is applied without a gap.
    pub fn applied(&self, chain: &Chain) -> Result<Option<(u64, ArtifactHash)>, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(None) };
        let mut statement =
            self.conn.prepare_cached("SELECT seq, hash FROM chains WHERE cid = ?1 AND seq IS NOT NULL")?;
        let mut rows = statement.query([cid])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let hash = ArtifactHash::from_slice(row.get_ref(1)?.as_blob()?);
        let hash = hash.ok_or_else(|| IndexError::damaged("a checkpoint's hash is not 32 bytes"))?;
        Ok(Some((row.get::<_, i64>(0)?.cast_unsigned(), hash)))
    }

    /// The highest number among the versions of a chain's applied checkpoints, waiting and left out ones too; 0 if none.
    pub fn last_n(&self, chain: &Chain) -> Result<u64, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(0) };
        let mut statement = self.conn.prepare_cached("SELECT seen_n FROM chains WHERE cid = ?1")?;
        Ok(statement.query_row([cid], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }

    /// Chains that two writers stand behind, with the lowest number used twice.
    pub fn forks(&self) -> Result<Vec<(Chain, u64)>, IndexError> {
        let forks = load_forks(&self.conn)?;
        forks.into_iter().map(|(cid, n)| Ok((self.names.chain(&self.conn, cid)?.chain, n))).collect()
    }

    /// The versions of a slot that no other dominates, the one that sorts highest first.
    pub fn heads(&self, slot: &Slot) -> Result<Vec<Stored>, IndexError> {
        let Some(row) = self.slot_row(slot)? else { return Ok(Vec::new()) };
        let mut heads = row.open_heads(&self.conn)?;
        heads.sort_by_key(|head| std::cmp::Reverse(head.rank()));
        heads.into_iter().map(|head| self.stored(&head, Some(&slot.path))).collect()
    }

    /// The highest row number handed out; a cursor for `slots_since`.
    pub fn max_row(&self) -> Result<i64, IndexError> {
        let sql = "SELECT max(ifnull((SELECT max(vid) FROM versions), 0), ifnull((SELECT max(vid) FROM touches), 0))";
        Ok(self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// The slots whose heads changed after `row`, in the order in which they did; a slot may come more than once.
    pub fn slots_since(&self, row: i64, limit: usize) -> Result<Vec<(i64, Slot)>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT t.vid, s.did, s.name, s.spid, s.oid FROM (
               SELECT * FROM (SELECT vid, sid FROM versions WHERE vid > ?1 ORDER BY vid LIMIT ?2)
               UNION ALL SELECT * FROM (SELECT vid, sid FROM touches WHERE vid > ?1 ORDER BY vid LIMIT ?2)) t
             JOIN slots s ON s.sid = t.sid ORDER BY t.vid LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = statement.query((row, limit))?;
        let mut slots = Vec::new();
        while let Some(row) = rows.next()? {
            let name = row.get_ref(2)?.as_str()?;
            slots.push((row.get(0)?, self.slot_at(row.get(1)?, name, row.get(3)?, row.get(4)?)?));
        }
        Ok(slots)
    }

    /// The version with this id.
    pub fn version(&self, id: &VersionId) -> Result<Option<Stored>, IndexError> {
        let Some(row) = self.version_row(id)? else { return Ok(None) };
        Ok(Some(self.stored(&row, None)?))
    }

    /// The version with this id and the slot it belongs to.
    pub fn version_at(&self, id: &VersionId) -> Result<Option<(Slot, Stored)>, IndexError> {
        let Some(row) = self.version_row(id)? else { return Ok(None) };
        let slot = self.slot(row.sid)?;
        let stored = self.stored(&row, Some(&slot.path))?;
        Ok(Some((slot, stored)))
    }

    /// True if the version was applied (not if it waits for its parents).
    pub fn has_version(&self, id: &VersionId) -> Result<bool, IndexError> {
        Ok(!find_versions(&self.conn, id)?.is_empty())
    }

    /// The newest `limit` versions of a slot, newest first: no version before one that descends from it, then by clock.
    pub fn history(&self, slot: &Slot, limit: usize) -> Result<Vec<Stored>, IndexError> {
        let mut rows = self.walk(slot, |_| true)?;
        // A version's clock value is never below its parents', so this order is causal too.
        rows.sort_by_key(|row| std::cmp::Reverse((row.hlc, row.id)));
        rows.iter().take(limit).map(|row| self.stored(row, Some(&slot.path))).collect()
    }

    /// The newest `limit` versions of all paths that `keep` wants, newest first by clock.
    ///
    /// Costs a pass over the rows' clock values; only what is returned is read whole.
    pub fn newest(&self, limit: usize, keep: impl Fn(&RelPath) -> bool) -> Result<Vec<Stored>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT vid FROM versions ORDER BY hlc DESC, id DESC")?;
        let mut rows = statement.query([])?;
        let mut newest = Vec::new();
        while newest.len() < limit
            && let Some(row) = rows.next()?
        {
            let row = VersionRow::load(&self.conn, row.get(0)?)?;
            let path = self.slot(row.sid)?.path;
            if keep(&path) {
                newest.push(self.stored(&row, Some(&path))?);
            }
        }
        Ok(newest)
    }

    /// The versions of a slot that hold exactly this content, newest first.
    pub fn versions_with_content(&self, slot: &Slot, content: &Content) -> Result<Vec<Stored>, IndexError> {
        let mut rows = self.walk(slot, |row| row.content == Some(content.hash))?;
        rows.sort_by_key(|row| std::cmp::Reverse((row.hlc, row.id)));
        let mut found = Vec::new();
        for row in rows {
            if row.content()? == Some(*content) {
                found.push(self.stored(&row, Some(&slot.path))?);
            }
        }
        Ok(found)
    }

    /// The newest by (clock, id) among the versions of the first one's slot that all of `ids` descend from (or are).
    pub fn common_ancestor(&self, ids: &[VersionId]) -> Result<Option<Stored>, IndexError> {
        let mut heads = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(row) = self.version_row(id)? else { return Ok(None) };
            heads.push(Descendant::new(row)?);
        }
        let Some(first) = heads.first() else { return Ok(None) };
        let forks = load_forks(&self.conn)?;
        let mut best: Option<VersionRow> = None;
        let mut next = SlotRow::load(&self.conn, first.row.sid)?.last;
        while next != 0 {
            let row = VersionRow::load(&self.conn, next)?;
            next = row.prev;
            if best.as_ref().is_some_and(|b| (row.hlc, row.id) < (b.hlc, b.id)) {
                continue;
            }
            let mut common = true;
            for head in &heads {
                common = common && head.descends_from(&self.conn, &forks, &row)?;
            }
            if common {
                best = Some(row);
            }
        }
        best.map(|row| self.stored(&row, None)).transpose()
    }

    /// True if `descendant` descends from (or is) `ancestor`; false if either is unknown.
    pub fn descends_from(&self, descendant: &VersionId, ancestor: &VersionId) -> Result<bool, IndexError> {
        let (Some(descendant), Some(ancestor)) = (self.version_row(descendant)?, self.version_row(ancestor)?) else {
            return Ok(false);
        };
        Descendant::new(descendant)?.descends_from(&self.conn, &load_forks(&self.conn)?, &ancestor)
    }

    /// The newest version that `chain` wrote to `slot`.
    pub fn lane_of(&self, chain: &Chain, slot: &Slot) -> Result<Option<OwnVersion>, IndexError> {
        let (Some(cid), Some(row)) = (self.names.chain_id(&self.conn, chain)?, self.slot_row(slot)?) else {
            return Ok(None);
        };
        let Some(vid) = row.own_version(&self.conn, cid)? else { return Ok(None) };
        let own = VersionRow::load(&self.conn, vid)?;
        let lane = Lane { origin: chain.origin.clone(), generation: chain.generation, first: own.first };
        Ok(Some(OwnVersion { id: own.id, dot: Dot { lane, n: own.n } }))
    }

    /// True if a person approved this deletion, on any machine.
    pub fn is_approved(&self, tombstone: &VersionId) -> Result<bool, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT 1 FROM approved WHERE id = ?1")?;
        Ok(statement.exists([tombstone.as_bytes()])?)
    }

    /// What was said about who may write, and in which chains, in the order of the events' hashes.
    pub fn membership_events(&self) -> Result<Vec<(Chain, MetaEvent)>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT cid, line FROM members ORDER BY hash, cid")?;
        let mut rows = statement.query([])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let event = Record::parse(row.get_ref(1)?.as_blob()?);
            let Ok(Record::Meta(event)) = event else { return Err(IndexError::damaged("an event does not parse")) };
            events.push((self.names.chain(&self.conn, row.get(0)?)?.chain, event));
        }
        Ok(events)
    }

    /// True if the segment's bytes stand in an applied artifact.
    pub fn has_segment(&self, segment: &SegmentHash) -> Result<bool, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT 1 FROM segments WHERE hash = ?1")?;
        Ok(statement.exists([segment.as_bytes()])?)
    }

    /// The slot of a row.
    pub(super) fn slot(&self, sid: i64) -> Result<Slot, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT did, name, spid, oid FROM slots WHERE sid = ?1")?;
        let mut rows = statement.query([sid])?;
        let Some(row) = rows.next()? else { return Err(IndexError::damaged(format!("slot row {sid} is missing"))) };
        self.slot_at(row.get(0)?, row.get_ref(1)?.as_str()?, row.get(2)?, row.get(3)?)
    }

    pub(super) fn slot_at(&self, did: i64, name: &str, spid: i64, oid: i64) -> Result<Slot, IndexError> {
        let origin = if oid == 0 { None } else { Some(self.names.origin(&self.conn, oid)?) };
        let path = self.names.path(&self.conn, did, name)?;
        Ok(Slot { space: self.names.space(&self.conn, spid)?, origin, path })
    }

    pub(super) fn slot_row(&self, slot: &Slot) -> Result<Option<SlotRow>, IndexError> {
        let conn = &self.conn;
        let Some(did) = self.names.dir_id(conn, slot.path.parent().unwrap_or_default())? else { return Ok(None) };
        let Some(spid) = self.names.space_id(conn, &slot.space)? else { return Ok(None) };
        let oid = match &slot.origin {
            None => 0,
            Some(origin) => match self.names.origin_id(conn, origin)? {
                Some(oid) => oid,
                None => return Ok(None),
            },
        };
        SlotRow::find(conn, did, slot.path.file_name(), spid, oid)
    }

    fn version_row(&self, id: &VersionId) -> Result<Option<VersionRow>, IndexError> {
        // The same bytes in two spaces are two versions; asked without a space, the first space by name answers.
        let mut best: Option<(crate::model::Space, VersionRow)> = None;
        for (vid, cid) in find_versions(&self.conn, id)? {
            let space = self.names.chain(&self.conn, cid)?.chain.space;
            if best.as_ref().is_none_or(|(other, _)| space < *other) {
                best = Some((space, VersionRow::load(&self.conn, vid)?));
            }
        }
        Ok(best.map(|(_, row)| row))
    }

    fn walk(&self, slot: &Slot, keep: impl Fn(&VersionRow) -> bool) -> Result<Vec<VersionRow>, IndexError> {
        let mut next = self.slot_row(slot)?.map_or(0, |row| row.last);
        let mut rows = Vec::new();
        while next != 0 {
            let row = VersionRow::load(&self.conn, next)?;
            next = row.prev;
            if keep(&row) {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// The version of a row; `path` saves a look-up if the caller knows it.
    pub(super) fn stored(&self, row: &VersionRow, path: Option<&RelPath>) -> Result<Stored, IndexError> {
        let Ext { parents, lanes, moved_from, moved_to, via } = row.ext()?;
        let path = match path {
            Some(path) => path.clone(),
            None => self.slot(row.sid)?.path,
        };
        let vector: Result<Vector, IndexError> =
            lanes.iter().map(|((cid, first), n)| Ok((self.lane(*cid, *first)?, *n))).collect();
        let state = match (row.content()?, row.kind()?) {
            (Some(content), _) => State::Content(content),
            (None, Err(reason)) => State::Tombstone { reason, moved_to: moved_to.map(|p| parse_path(&p)).transpose()? },
            (None, Ok(_)) => return Err(IndexError::damaged("a version row has neither content nor reason")),
        };
        let channel = row.flags.channel().ok_or_else(|| IndexError::damaged("a version row has no channel"))?;
        let version = Version {
            parents: parents.iter().map(|vid| self.id_of(*vid)).collect::<Result<_, _>>()?,
            dot: Dot { lane: self.lane(row.cid, row.first)?, n: row.n },
            vector: vector?,
            hlc: row.hlc,
            born: row.born,
            channel,
            path,
            state,
            moved_from: moved_from.map(|p| parse_path(&p)).transpose()?,
            via,
            adopted: row.flags.adopted(),
        };
        Ok(Stored { id: row.id, version })
    }

    pub(super) fn id_of(&self, vid: i64) -> Result<VersionId, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT id FROM versions WHERE vid = ?1")?;
        let mut rows = statement.query([vid])?;
        let Some(row) = rows.next()? else { return Err(IndexError::damaged(format!("version row {vid} is missing"))) };
        VersionId::from_slice(row.get_ref(0)?.as_blob()?).ok_or_else(|| IndexError::damaged("an id is not 32 bytes"))
    }

    fn lane(&self, cid: i64, first: u64) -> Result<Lane, IndexError> {
        let chain = self.names.chain(&self.conn, cid)?.chain;
        Ok(Lane { origin: chain.origin, generation: chain.generation, first })
    }
}

/// The rows with this id: (version row, chain row); more than one only if the same bytes stand in two spaces.
pub(super) fn find_versions(conn: &Connection, id: &VersionId) -> Result<Vec<(i64, i64)>, IndexError> {
    let mut statement = conn.prepare_cached("SELECT vid, cid FROM versions WHERE substr(id, 1, 8) = ?1 AND id = ?2")?;
    let rows = statement.query_map((&id.as_bytes()[..8], id.as_bytes()), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn content_hash(blob: &[u8]) -> Result<ContentHash, IndexError> {
    ContentHash::from_slice(blob).ok_or_else(|| IndexError::damaged("a content's hash is not 32 bytes"))
}

fn parse_path(text: &str) -> Result<RelPath, IndexError> {
    RelPath::parse(text).map_err(|error| IndexError::damaged(error.to_string()))
}
