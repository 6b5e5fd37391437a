//! One version after another: checked, interned, and made a row.
//!
//! Invariant: a version becomes a row only after all its parents, and only if its vector is the join of theirs, so that
//! among rows dominance by vector is ancestry. One whose parents are not here waits as a line; one that breaks a rule is
//! named and left out, and so is whatever descends from it. The verdict depends on its ancestors alone.

use rusqlite::CachedStatement;

use super::apply::{Fork, Item};
use super::batch::Batch;
use super::codec::{Ext, Flags, Lanes};
use super::lineage::walk;
use super::names::ChainRow;
use super::reader::find_versions;
use super::row::{SlotRow, VersionRow, state};
use super::schema::ROOT_DIR;
use super::{IndexError, manifest};
use crate::model::{Chain, Channel, MetaEvent, Record, RelPath, State, Version, VersionId};

const OTHER_CHAIN: &str = "its dot names another chain than the one it stands in";
const SPACE: &str = "its channel does not belong to this space";
const VECTOR: &str = "its vector is not the join of its parents' vectors";
const LANE: &str = "it goes on a lane of which no parent descends";
const NUMBER: &str = "it descends from a higher number of its own chain";
const CLOCK: &str = "its clock value is below a parent's";

/// Where a version's slot is or will be.
pub(super) struct Key {
    pub did: i64,
    spid: i64,
    oid: i64,
}

/// What checking found out about a version with parents.
pub(super) struct Lineage {
    pub ext: Ext,
    /// The highest number of the own lane among the ancestors; 0 if it opens the lane.
    pub lane_before: u64,
    /// The lane belongs to another path: its numbers say nothing about ancestry.
    strays: bool,
}

pub(super) struct Writer<'b, 'a> {
    pub batch: &'b mut Batch<'a>,
    insert_slot: CachedStatement<'a>,
    insert_version: CachedStatement<'a>,
    /// The directory of the version before: files come folder by folder.
    last_dir: (String, i64),
    /// Versions that became rows and may be waited for.
    pub fresh: Vec<(VersionId, i64)>,
}

impl<'b, 'a> Writer<'b, 'a> {
    pub fn new(batch: &'b mut Batch<'a>) -> Result<Writer<'b, 'a>, IndexError> {
        let insert_slot = batch.conn.prepare_cached(
            "INSERT INTO slots(sid, did, name, spid, oid, last, state, author) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO NOTHING",
        )?;
        let insert_version = batch.conn.prepare_cached(
            "INSERT INTO versions(vid, id, sid, prev, cid, n, lag, hlc, age, flags, content, size, ext)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        Ok(Writer { batch, insert_slot, insert_version, last_dir: (String::new(), ROOT_DIR), fresh: Vec::new() })
    }

    pub fn items(mut self, items: &[Item]) -> Result<(), IndexError> {
        for item in items {
            let chain = self.chain(&item.chain)?;
            for record in &item.records {
                match record {
                    Record::Version(id, version) => {
                        self.version(&chain, *id, version)?;
                        self.release()?;
                    }
                    Record::Carried(id, version) => {
                        self.carried(&chain, *id, version)?;
                        self.release()?;
                    }
                    Record::Meta(event) => self.event(&chain, event)?,
                    Record::Manifest(_) | Record::Uses(_) | Record::Unknown { .. } => {}
                }
            }
            self.batch.advance(chain.cid, item)?;
        }
        Ok(())
    }

    fn event(&mut self, chain: &ChainRow, event: &MetaEvent) -> Result<(), IndexError> {
        if event.as_membership().is_some() {
            let insert = "INSERT OR IGNORE INTO members(hash, cid, line) VALUES(?1, ?2, ?3)";
            let row = (*event.hash().as_bytes(), chain.cid, event.to_line());
            self.batch.conn.prepare_cached(insert)?.execute(row)?;
        }
        self.batch.note_purge(chain.cid, event)?;
        self.batch.note_star(chain, event)?;
        self.approve(&event.approved_deletes())?;
        self.retire(event)
    }

    /// Origins that a person said are gone for good.
    fn retire(&mut self, event: &MetaEvent) -> Result<(), IndexError> {
        let Some(origin) = event.retired_origin() else { return Ok(()) };
        let mut insert = self.batch.conn.prepare_cached("INSERT OR IGNORE INTO retired(origin, hlc) VALUES(?1, ?2)")?;
        insert.execute((origin.as_str(), event.hlc.as_u64().cast_signed()))?;
        Ok(())
    }

    /// Deletions that a person approved; a set, so order and repetition mean nothing.
    fn approve(&mut self, tombstones: &[VersionId]) -> Result<(), IndexError> {
        let mut insert = self.batch.conn.prepare_cached("INSERT OR IGNORE INTO approved VALUES(?1)")?;
        for id in tombstones {
            insert.execute([id.as_bytes()])?;
        }
        Ok(())
    }

    fn version(&mut self, chain: &ChainRow, id: VersionId, version: &Version) -> Result<(), IndexError> {
        if let Some(why) = broken_rule(&chain.chain, version) {
            return self.reject(chain, id, version, why);
        }
        if version.parents.is_empty() { self.first(chain, id, version) } else { self.successor(chain, id, version) }
    }

    /// A version that a later generation says again is its own chain's, like every other one.
    fn carried(&mut self, by: &ChainRow, id: VersionId, version: &Version) -> Result<(), IndexError> {
        let lane = &version.dot.lane;
        if lane.origin != by.chain.origin || lane.generation >= by.chain.generation {
            return self.reject(by, id, version, OTHER_CHAIN);
        }
        let (space, origin) = (by.chain.space.clone(), lane.origin.clone());
        let own = self.chain(&Chain { space, origin, generation: lane.generation })?;
        self.version(&own, id, version)
    }

    /// A version without parents. In a slot that was not there it is new without a question asked.
    fn first(&mut self, chain: &ChainRow, id: VersionId, version: &Version) -> Result<(), IndexError> {
        if !version.vector.is_empty() {
            return self.reject(chain, id, version, VECTOR);
        }
        if version.dot.lane.first != version.dot.n {
            return self.reject(chain, id, version, LANE);
        }
        let key = self.key(chain, version)?;
        let lineage = Lineage { ext: rare_fields(version, Ext::default()), lane_before: 0, strays: false };
        let sid = self.batch.known.next_sid;
        if self.put_slot(&key, version, chain.cid)? {
            self.put_version(chain, id, version, sid, 0, &lineage.ext)?;
            return self.opened(chain, version, &key);
        }
        if self.is_known(chain.spid, &id)?.is_some() {
            return Ok(());
        }
        let slot = self.batch.find_slot((key.did, version.path.file_name()), (key.spid, key.oid))?;
        let slot = slot.ok_or_else(|| IndexError::damaged("a slot is both there and not there"))?;
        self.extend(chain, id, version, slot, lineage)
    }

    pub(super) fn successor(&mut self, chain: &ChainRow, id: VersionId, version: &Version) -> Result<(), IndexError> {
        if self.is_known(chain.spid, &id)?.is_some() {
            return Ok(());
        }
        let (mut parents, mut missing) = (Vec::new(), Vec::new());
        for parent in &version.parents {
            match self.is_known(chain.spid, parent)? {
                Some(vid) => parents.push(vid),
                None => missing.push(*parent),
            }
        }
        if !missing.is_empty() {
            return self.wait(chain, id, version, &missing);
        }
        let slot = self.find_slot(chain, version)?;
        let lineage = match self.check(chain, version, parents, slot.as_ref())? {
            Ok(lineage) => lineage,
            Err(why) => return self.reject(chain, id, version, why),
        };
        if lineage.strays {
            // Nothing is lost by it: from the lane's first number on, parents decide instead of vectors.
            self.fork(chain, version.dot.lane.first)?;
        }
        if let Some(slot) = slot {
            return self.extend(chain, id, version, slot, lineage);
        }
        let key = self.key(chain, version)?;
        let sid = self.batch.known.next_sid;
        self.put_slot(&key, version, chain.cid)?;
        self.put_version(chain, id, version, sid, 0, &lineage.ext)?;
        self.opened(chain, version, &key)
    }

    /// The rules that need the parents. The outer error is ours, the inner one the version's.
    fn check(
        &mut self,
        chain: &ChainRow,
        version: &Version,
        parents: Vec<i64>,
        slot: Option<&SlotRow>,
    ) -> Result<Result<Lineage, &'static str>, IndexError> {
        let conn = self.batch.conn;
        let own = (chain.cid, version.dot.lane.first);
        let mut joined = Lanes::new();
        for vid in &parents {
            let parent = VersionRow::load(conn, *vid)?;
            if version.hlc < parent.hlc {
                return Ok(Err(CLOCK));
            }
            for (lane, n) in parent.full_lanes()? {
                let entry = joined.entry(lane).or_insert(n);
                *entry = n.max(*entry);
            }
        }
        if joined.iter().any(|((cid, _), n)| *cid == chain.cid && version.dot.n <= *n) {
            return Ok(Err(NUMBER));
        }
        let lane_before = joined.remove(&own).unwrap_or(0);
        if self.interned(chain, version)?.as_ref() != Some(&joined) {
            return Ok(Err(VECTOR));
        }
        let goes_on = version.dot.lane.first < version.dot.n;
        if goes_on && lane_before == 0 {
            return Ok(Err(LANE));
        }
        let strays = goes_on && !self.lane_stays(own, lane_before, &parents, slot)?;
        let ext = rare_fields(version, Ext { parents, lanes: joined, ..Ext::default() });
        Ok(Ok(Lineage { ext, lane_before, strays }))
    }

    /// True if an ancestor with this lane and number is of this slot. Depends on ancestors alone, like every verdict here.
    fn lane_stays(
        &self,
        (cid, first): (i64, u64),
        n: u64,
        parents: &[i64],
        slot: Option<&SlotRow>,
    ) -> Result<bool, IndexError> {
        let Some(slot) = slot else { return Ok(false) };
        let conn = self.batch.conn;
        let mut statement =
            conn.prepare_cached("SELECT vid, sid FROM versions WHERE cid = ?1 AND n = ?2 AND lag = ?3")?;
        let key = (cid, n.cast_signed(), (n - first).cast_signed());
        let rows = statement.query_map(key, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(i64, i64)> = rows.collect::<Result<_, _>>()?;
        let in_slot = rows.iter().filter(|(_, sid)| *sid == slot.sid);
        if let [(_, sid)] = rows[..] {
            // One version has this number, and an ancestor has it.
            return Ok(sid == slot.sid);
        }
        for (vid, _) in in_slot {
            if walk(conn, parents.to_vec(), &VersionRow::load(conn, *vid)?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The version's own vector with its lanes interned; `None` if it names a chain that has no row.
    fn interned(&self, chain: &ChainRow, version: &Version) -> Result<Option<Lanes>, IndexError> {
        let mut lanes = Lanes::new();
        for (lane, n) in version.vector.iter() {
            let other =
                Chain { space: chain.chain.space.clone(), origin: lane.origin.clone(), generation: lane.generation };
            match self.batch.reader.names.chain_id(self.batch.conn, &other)? {
                Some(cid) => lanes.insert((cid, lane.first), n),
                None => return Ok(None),
            };
        }
        Ok(Some(lanes))
    }

    /// Makes the row of a version and remembers what it is waited for.
    pub(super) fn put_version(
        &mut self,
        chain: &ChainRow,
        id: VersionId,
        version: &Version,
        sid: i64,
        prev: i64,
        ext: &Ext,
    ) -> Result<(), IndexError> {
        let n = version.dot.n;
        self.note_number(chain, n)?;
        let kind = match &version.state {
            State::Content(content) => Ok(content.kind),
            State::Tombstone { reason, .. } => Err(*reason),
        };
        let content = version.content();
        let vid = self.batch.known.next_row;
        self.insert_version.execute(rusqlite::params![
            vid,
            id.as_bytes(),
            sid,
            prev,
            chain.cid,
            n.cast_signed(),
            (n - version.dot.lane.first).cast_signed(),
            version.hlc.as_u64().cast_signed(),
            version.hlc.as_u64().wrapping_sub(version.born.as_u64()).cast_signed(),
            Flags::new(version.channel, kind, version.adopted).0,
            content.as_ref().map(|content| content.hash.as_bytes()),
            content.map(|content| content.size.cast_signed()),
            ext.encode(),
        ])?;
        self.batch.known.next_row += 1;
        self.batch.total.versions += 1;
        self.batch.origins.entry(chain.oid).or_default().versions += 1;
        if self.batch.known.waiting {
            self.fresh.push((id, chain.spid));
        }
        if let Some(content) = content
            && !self.batch.placed.contains(&crate::model::SegmentHash(content.hash.0))
            && let Some(hash) = manifest::first_missing(self.batch.conn, &content.hash, content.size)?
        {
            self.batch.known.lacking = true;
            let insert = "INSERT INTO lacks(vid, hash) VALUES(?1, ?2)";
            self.batch.conn.prepare_cached(insert)?.execute((vid, hash.as_bytes()))?;
            self.batch.miss_purged(&hash)?;
        }
        self.batch.meet_purges(&id, content.map(|content| content.hash))
    }

    /// Raises the chain's last number, or finds that the number was used before.
    fn note_number(&mut self, chain: &ChainRow, n: u64) -> Result<(), IndexError> {
        let Some(state) = self.batch.known.chains.get_mut(&chain.cid) else { return Ok(()) };
        if state.last_n < n {
            state.last_n = n;
            self.batch.chains.insert(chain.cid);
            return Ok(());
        }
        let mut statement = self.batch.conn.prepare_cached("SELECT 1 FROM versions WHERE cid = ?1 AND n = ?2")?;
        if statement.exists((chain.cid, n.cast_signed()))? { self.fork(chain, n) } else { Ok(()) }
    }

    pub(super) fn fork(&mut self, chain: &ChainRow, n: u64) -> Result<(), IndexError> {
        if self.batch.known.forks.get(&chain.cid).is_some_and(|from| *from <= n) {
            return Ok(());
        }
        self.batch.known.forks.insert(chain.cid, n);
        self.batch.refold.insert(chain.cid);
        self.batch.applied.forks.retain(|fork| fork.chain != chain.chain);
        self.batch.applied.forks.push(Fork { chain: chain.chain.clone(), n });
        let update = "UPDATE chains SET forked = ?2 WHERE cid = ?1";
        self.batch.conn.prepare_cached(update)?.execute((chain.cid, n.cast_signed()))?;
        Ok(())
    }

    fn put_slot(&mut self, key: &Key, version: &Version, cid: i64) -> Result<bool, IndexError> {
        let (sid, vid) = (self.batch.known.next_sid, self.batch.known.next_row);
        let name = version.path.file_name();
        let row = (sid, key.did, name, key.spid, key.oid, vid, first_state(version), cid);
        let added = self.insert_slot.execute(row)? > 0;
        self.batch.known.next_sid += i64::from(added);
        Ok(added)
    }

    fn find_slot(&mut self, chain: &ChainRow, version: &Version) -> Result<Option<SlotRow>, IndexError> {
        let Some(did) = self.batch.reader.names.dir_id(self.batch.conn, version.path.parent().unwrap_or_default())?
        else {
            return Ok(None);
        };
        self.batch.find_slot((did, version.path.file_name()), (chain.spid, slot_origin(chain, version)))
    }

    fn key(&mut self, chain: &ChainRow, version: &Version) -> Result<Key, IndexError> {
        Ok(Key { did: self.dir(&version.path)?, spid: chain.spid, oid: slot_origin(chain, version) })
    }

    fn dir(&mut self, path: &RelPath) -> Result<i64, IndexError> {
        let Some(dir) = path.parent() else { return Ok(ROOT_DIR) };
        if self.last_dir.0 != dir {
            self.last_dir = (dir.to_owned(), self.batch.intern_dir(dir)?);
        }
        Ok(self.last_dir.1)
    }

    fn chain(&mut self, chain: &Chain) -> Result<ChainRow, IndexError> {
        self.batch.intern_chain(chain)
    }

    pub(super) fn is_known(&self, spid: i64, id: &VersionId) -> Result<Option<i64>, IndexError> {
        for (vid, cid) in find_versions(self.batch.conn, id)? {
            if self.batch.reader.names.chain(self.batch.conn, cid)?.spid == spid {
                return Ok(Some(vid));
            }
        }
        Ok(None)
    }
}

fn broken_rule(chain: &Chain, version: &Version) -> Option<&'static str> {
    let lane = &version.dot.lane;
    if lane.origin != chain.origin || lane.generation != chain.generation {
        return Some(OTHER_CHAIN);
    }
    if version.dot.n < lane.first {
        return Some(LANE);
    }
    let private = version.channel == Channel::Private;
    (private == chain.space.is_shared()).then_some(SPACE)
}

fn slot_origin(chain: &ChainRow, version: &Version) -> i64 {
    if version.channel == Channel::Archive { chain.oid } else { 0 }
}

pub(super) fn first_state(version: &Version) -> i64 {
    match &version.state {
        State::Content(_) => state::LIVE,
        State::Tombstone { reason: crate::model::Reason::Move, .. } => 0,
        State::Tombstone { .. } => state::TRASH,
    }
}

fn rare_fields(version: &Version, ext: Ext) -> Ext {
    let text = |path: &RelPath| path.as_str().to_owned();
    let moved_to = match &version.state {
        State::Tombstone { moved_to, .. } => moved_to.as_ref().map(text),
        State::Content(_) => None,
    };
    Ext { moved_from: version.moved_from.as_ref().map(text), moved_to, via: version.via.clone(), ..ext }
}
