//! One version after another: checked, interned, and made a row.
//!
//! Invariant: a version becomes a row only after all its parents, and only if its vector is the join of theirs, so that
//! among rows dominance by vector is ancestry. One whose parents are not here waits as a line; one that breaks a rule is
//! named and left out, and so is whatever descends from it. The verdict depends on its ancestors alone.

use rusqlite::CachedStatement;

use super::apply::{Batch, Fork, Item, Rejected};
use super::codec::{Ext, Flags, Lanes};
use super::heads::fold;
use super::lineage::Descendant;
use super::names::ChainRow;
use super::presence::origin_tree;
use super::reader::find_versions;
use super::row::{SlotRow, VersionRow, state};
use super::schema::ROOT_DIR;
use super::{IndexError, Slot, manifest};
use crate::model::{Chain, Channel, RelPath, State, Version, VersionId};

const OTHER_CHAIN: &str = "its dot names another chain than the one it stands in";
const SPACE: &str = "its channel does not belong to this space";
const VECTOR: &str = "its vector is not the join of its parents' vectors";
const LANE: &str = "it goes on a lane of which no parent descends";
const LANE_PATH: &str = "it goes on a lane of another path";
const NUMBER: &str = "it descends from a higher number of its own chain";
const CLOCK: &str = "its clock value is below a parent's";

/// Where a version's slot is or will be.
struct Key {
    did: i64,
    spid: i64,
    oid: i64,
}

/// What checking found out about a version with parents.
struct Lineage {
    ext: Ext,
    /// The highest number of the own lane among the ancestors; 0 if it opens the lane.
    lane_before: u64,
}

pub(super) struct Writer<'b, 'a> {
    batch: &'b mut Batch<'a>,
    insert_slot: CachedStatement<'a>,
    insert_version: CachedStatement<'a>,
    /// The directory of the version before: files come folder by folder.
    last_dir: (String, i64),
    /// Versions that became rows and may be waited for.
    fresh: Vec<(VersionId, i64)>,
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
                if let crate::model::Record::Version(id, version) = record {
                    self.version(&chain, *id, version)?;
                    self.release()?;
                }
            }
            self.batch.advance(chain.cid, item)?;
        }
        Ok(())
    }

    fn version(&mut self, chain: &ChainRow, id: VersionId, version: &Version) -> Result<(), IndexError> {
        if let Some(why) = broken_rule(&chain.chain, version) {
            return self.reject(chain, id, version, why);
        }
        if version.parents.is_empty() { self.first(chain, id, version) } else { self.successor(chain, id, version) }
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
        let lineage = Lineage { ext: rare_fields(version, Ext::default()), lane_before: 0 };
        let sid = self.batch.known.next_sid;
        if self.put_slot(&key, version, chain.cid)? {
            self.put_version(chain, id, version, sid, 0, &lineage.ext)?;
            return self.opened(chain, version, &key);
        }
        if self.is_known(chain.spid, &id)?.is_some() {
            return Ok(());
        }
        let slot = SlotRow::find(self.batch.conn, key.did, version.path.file_name(), key.spid, key.oid)?;
        let slot = slot.ok_or_else(|| IndexError::damaged("a slot is both there and not there"))?;
        self.extend(chain, id, version, slot, lineage)
    }

    fn successor(&mut self, chain: &ChainRow, id: VersionId, version: &Version) -> Result<(), IndexError> {
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
        if version.dot.lane.first < version.dot.n {
            if lane_before == 0 {
                return Ok(Err(LANE));
            }
            if !self.is_lane_of(chain.cid, own.1, slot)? {
                return Ok(Err(LANE_PATH));
            }
        }
        let ext = rare_fields(version, Ext { parents, lanes: joined, ..Ext::default() });
        Ok(Ok(Lineage { ext, lane_before }))
    }

    /// True if the lane was opened in this slot. Its opener is an ancestor, so it is a row.
    fn is_lane_of(&self, cid: i64, first: u64, slot: Option<&SlotRow>) -> Result<bool, IndexError> {
        let Some(slot) = slot else { return Ok(false) };
        let mut statement = self
            .batch
            .conn
            .prepare_cached("SELECT 1 FROM versions WHERE cid = ?1 AND n = ?2 AND lag = 0 AND sid = ?3")?;
        Ok(statement.exists((cid, first.cast_signed(), slot.sid))?)
    }

    /// The version's own vector with its lanes interned; `None` if it names a chain that has no row.
    fn interned(&self, chain: &ChainRow, version: &Version) -> Result<Option<Lanes>, IndexError> {
        let mut lanes = Lanes::new();
        for (lane, n) in version.vector.iter() {
            let other = Chain { space: chain.chain.space.clone(), origin: lane.origin.clone(), generation: lane.generation };
            match self.batch.reader.names.chain_id(self.batch.conn, &other)? {
                Some(cid) => lanes.insert((cid, lane.first), n),
                None => return Ok(None),
            };
        }
        Ok(Some(lanes))
    }

    /// Makes the row of a version and remembers what it is waited for.
    fn put_version(
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
        }
        Ok(())
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

    fn fork(&mut self, chain: &ChainRow, n: u64) -> Result<(), IndexError> {
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

    /// Counts a version that opened a new slot.
    fn opened(
        &mut self,
        chain: &ChainRow,
        version: &Version,
        key: &Key,
    ) -> Result<(), IndexError> {
        let batch = &mut *self.batch;
        batch.slots += 1;
        batch.presence.change(key.did, 0, first_state(version));
        if let Some(content) = version.content() {
            let size = content.size.cast_signed();
            batch.presence.add(key.did, origin_tree(chain.oid), 1);
            let own = batch.origins.entry(chain.oid).or_default();
            own.live += 1;
            own.bytes += size;
            batch.total.live += 1;
            batch.total.bytes += size;
        }
        batch.touched.insert(batch.known.next_sid - 1);
        batch.applied.touched.push(Slot::of(&chain.chain.space, version));
        Ok(())
    }

    /// Adds a version to a slot that has others.
    fn extend(
        &mut self,
        chain: &ChainRow,
        id: VersionId,
        version: &Version,
        mut slot: SlotRow,
        lineage: Lineage,
    ) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        self.check_lane(chain, version, &slot, lineage.lane_before)?;
        let before = self.batch.standing_of(&slot)?;
        let own_before = self.newest_of_origin(&slot, chain.oid)?;
        let vid = self.batch.known.next_row;
        self.put_version(chain, id, version, slot.sid, slot.last, &lineage.ext)?;
        let new = Descendant::new(VersionRow::load(conn, vid)?)?;
        slot.heads = fold(conn, &self.batch.known.forks, &slot.heads, &new)?;
        slot.last = vid;
        self.put_own(chain.cid, &mut slot, &new.row)?;
        let own_after = self.newest_of_origin(&slot, chain.oid)?;
        self.count_origin(chain.oid, slot.did, own_before.as_ref(), own_after.as_ref());
        self.batch.write_slot(&mut slot, before)?;
        if self.batch.touched.insert(slot.sid) {
            self.batch.applied.touched.push(Slot::of(&chain.chain.space, version));
        }
        Ok(())
    }

    /// Finds versions of the own lane that this one passes by: two writers went on one lane.
    fn check_lane(&mut self, chain: &ChainRow, version: &Version, slot: &SlotRow, lane_before: u64) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        let (first, n) = (version.dot.lane.first, version.dot.n);
        let Some(own) = slot.own_version(conn, chain.cid)? else { return Ok(()) };
        let own = VersionRow::load(conn, own)?;
        let goes_on = own.first == first && own.n == lane_before;
        let opens = first == n && own.n < n;
        if goes_on || opens {
            return Ok(());
        }
        let mut next = slot.last;
        let mut lowest: Option<u64> = None;
        while next != 0 {
            let row = VersionRow::load(conn, next)?;
            next = row.prev;
            let same_lane = row.cid == chain.cid && row.first == first;
            if same_lane && lane_before < row.n && row.n != n {
                let branch = row.n.min(n);
                lowest = Some(lowest.map_or(branch, |other| other.min(branch)));
            }
        }
        lowest.map_or(Ok(()), |n| self.fork(chain, n))
    }

    fn put_own(&mut self, cid: i64, slot: &mut SlotRow, new: &VersionRow) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        if let Some(own) = slot.own_version(conn, cid)? {
            let own = VersionRow::load(conn, own)?;
            if (new.n, new.id) < (own.n, own.id) {
                return Ok(());
            }
        }
        if slot.author == cid {
            slot.own = new.vid;
        } else {
            slot.state |= state::MANY;
            let put = "INSERT OR REPLACE INTO authors(sid, cid, vid) VALUES(?1, ?2, ?3)";
            conn.prepare_cached(put)?.execute((slot.sid, cid, new.vid))?;
        }
        Ok(())
    }

    fn newest_of_origin(&self, slot: &SlotRow, oid: i64) -> Result<Option<VersionRow>, IndexError> {
        self.batch.reader.newest_of_origin(slot, oid)
    }

    fn count_origin(&mut self, oid: i64, did: i64, before: Option<&VersionRow>, after: Option<&VersionRow>) {
        let live = |row: Option<&VersionRow>| i64::from(row.is_some_and(|row| row.content.is_some()));
        let bytes = |row: Option<&VersionRow>| row.map_or(0, |row| row.size.cast_signed());
        let sums = self.batch.origins.entry(oid).or_default();
        sums.live += live(after) - live(before);
        sums.bytes += bytes(after) - bytes(before);
        self.batch.presence.add(did, origin_tree(oid), live(after) - live(before));
    }

    fn put_slot(&mut self, key: &Key, version: &Version, cid: i64) -> Result<bool, IndexError> {
        let (sid, vid) = (self.batch.known.next_sid, self.batch.known.next_row);
        let name = version.path.file_name();
        let row = (sid, key.did, name, key.spid, key.oid, vid, first_state(version), cid);
        let added = self.insert_slot.execute(row)? > 0;
        self.batch.known.next_sid += i64::from(added);
        Ok(added)
    }

    fn find_slot(&self, chain: &ChainRow, version: &Version) -> Result<Option<SlotRow>, IndexError> {
        let Some(did) = self.batch.reader.names.dir_id(self.batch.conn, version.path.parent().unwrap_or_default())? else {
            return Ok(None);
        };
        SlotRow::find(self.batch.conn, did, version.path.file_name(), chain.spid, slot_origin(chain, version))
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

    fn is_known(&self, spid: i64, id: &VersionId) -> Result<Option<i64>, IndexError> {
        for (vid, cid) in find_versions(self.batch.conn, id)? {
            if self.batch.reader.names.chain(self.batch.conn, cid)?.spid == spid {
                return Ok(Some(vid));
            }
        }
        Ok(None)
    }

    fn reject(&mut self, chain: &ChainRow, id: VersionId, version: &Version, why: &'static str) -> Result<(), IndexError> {
        let path = version.path.shown();
        let insert = "INSERT OR REPLACE INTO rejected(id, cid, path, why) VALUES(?1, ?2, ?3, ?4)";
        self.batch.conn.prepare_cached(insert)?.execute((id.as_bytes(), chain.cid, &path, why))?;
        self.batch.applied.rejected.push(Rejected { id, chain: chain.chain.clone(), path, why });
        Ok(())
    }

    fn wait(&mut self, chain: &ChainRow, id: VersionId, version: &Version, missing: &[VersionId]) -> Result<(), IndexError> {
        self.batch.known.waiting = true;
        let conn = self.batch.conn;
        let insert = "INSERT INTO waiting(id, cid, line) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING";
        if conn.prepare_cached(insert)?.execute((id.as_bytes(), chain.cid, version.to_line().1))? == 0 {
            return Ok(());
        }
        let wid = conn.last_insert_rowid();
        let mut want = conn.prepare_cached("INSERT INTO wants(parent, wid) VALUES(?1, ?2) ON CONFLICT DO NOTHING")?;
        for parent in missing {
            want.execute((parent.as_bytes(), wid))?;
        }
        Ok(())
    }

    /// Tries again what waits for the versions that just became rows, and so on.
    fn release(&mut self) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        while let Some((parent, spid)) = self.fresh.pop() {
            let mut statement = conn.prepare_cached(
                "SELECT w.wid, w.cid, w.id, w.line FROM wants JOIN waiting w ON w.wid = wants.wid WHERE wants.parent = ?1",
            )?;
            let rows = statement.query_map([parent.as_bytes()], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, [u8; 32]>(2)?, row.get::<_, Vec<u8>>(3)?))
            })?;
            let rows: Vec<(i64, i64, [u8; 32], Vec<u8>)> = rows.collect::<Result<_, _>>()?;
            for (wid, cid, id, line) in rows {
                let chain = self.batch.reader.names.chain(conn, cid)?;
                if chain.spid != spid {
                    continue;
                }
                conn.prepare_cached("DELETE FROM wants WHERE parent = ?1 AND wid = ?2")?.execute((parent.as_bytes(), wid))?;
                let id = VersionId(crate::model::Hash::from_bytes(id));
                self.retry(&chain, wid, id, &line)?;
            }
        }
        Ok(())
    }

    fn retry(&mut self, chain: &ChainRow, wid: i64, id: VersionId, line: &[u8]) -> Result<(), IndexError> {
        let (_, version) = Version::parse(line).map_err(|error| IndexError::damaged(error.to_string()))?;
        for parent in &version.parents {
            if self.is_known(chain.spid, parent)?.is_none() {
                return Ok(());
            }
        }
        self.batch.conn.prepare_cached("DELETE FROM waiting WHERE wid = ?1")?.execute([wid])?;
        self.successor(chain, id, &version)
    }
}

fn broken_rule(chain: &Chain, version: &Version) -> Option<&'static str> {
    let lane = &version.dot.lane;
    if lane.origin != chain.origin || lane.generation != chain.generation {
        return Some(OTHER_CHAIN);
    }
    let private = version.channel == Channel::Private;
    (private == chain.space.is_shared()).then_some(SPACE)
}

fn slot_origin(chain: &ChainRow, version: &Version) -> i64 {
    if version.channel == Channel::Archive { chain.oid } else { 0 }
}

fn first_state(version: &Version) -> i64 {
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
