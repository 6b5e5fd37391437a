//! One transaction under way: places, manifests, versions, and the sums that follow.
//!
//! Invariant: what is in memory here (rows handed out, forks, how far chains are) is what the transaction has written
//! or will have written when it ends; after an error the caller reads it anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension};

use super::apply::{Applied, ChainState, Item, Known, Reach, Work};
use super::crowd::Crowd;
use super::floor::Floor;
use super::heads::{Standing, standing};
use super::names::{ChainRow, child_dir};
use super::presence::Presence;
use super::row::{SlotRow, VersionRow, state};
use super::writer::Writer;
use super::{IndexError, Reader, manifest, places};
use crate::ledger::{Closed, Place};
use crate::model::{ArtifactHash, Chain, Record, SegmentHash};

/// Counts that are kept as sums.
#[derive(Default, Clone, Copy)]
pub(super) struct Sums {
    pub versions: i64,
    pub live: i64,
    pub bytes: i64,
}

/// One transaction under way.
pub(super) struct Batch<'a> {
    pub reader: &'a Reader,
    pub conn: &'a Connection,
    pub known: &'a mut Known,
    /// Segments whose places came with this transaction.
    pub placed: HashSet<SegmentHash>,
    /// Contents whose manifests did.
    pub described: Vec<[u8; 32]>,
    pub presence: Presence,
    pub origins: BTreeMap<i64, Sums>,
    pub total: Sums,
    pub slots: i64,
    pub touched: HashSet<i64>,
    pub refold: BTreeSet<i64>,
    pub dirs: HashMap<String, i64>,
    /// Chains that may have moved on.
    pub chains: BTreeSet<i64>,
    pub applied: Applied,
}

impl<'a> Batch<'a> {
    pub fn new(reader: &'a Reader, known: &'a mut Known) -> Batch<'a> {
        Batch {
            conn: &reader.conn,
            reader,
            known,
            placed: HashSet::new(),
            described: Vec::new(),
            presence: Presence::default(),
            origins: BTreeMap::new(),
            total: Sums::default(),
            slots: 0,
            touched: HashSet::new(),
            refold: BTreeSet::new(),
            dirs: HashMap::new(),
            chains: BTreeSet::new(),
            applied: Applied::default(),
        }
    }

    pub fn run(&mut self, work: &Work<'_>) -> Result<(), IndexError> {
        // Places and manifests first: a version then sees at once whether its bytes are here.
        self.begin_snapshots(work.items)?;
        let below = self.below_floors(work.items)?;
        let kept = || work.items.iter().zip(&below).filter(|(_, below)| !**below).map(|(item, _)| item);
        let gone = self.known.purging.segments.clone();
        let stands = |(segment, _): &&(SegmentHash, Place)| !gone.contains(segment.as_bytes());
        let places = || kept().flat_map(|item| &item.places).chain(work.places).filter(stands);
        self.note_holding(work.items.iter().flat_map(|item| &item.places).chain(work.places), &gone)?;
        places::store(self.reader, places())?;
        places().for_each(|(segment, _)| self.known.places.note(segment));
        places::note_absent(self.conn, work.absent, work.pack)?;
        self.placed = places().map(|(segment, _)| *segment).collect();
        for record in work.items.iter().flat_map(|item| &item.records) {
            if let Record::Manifest(delta) = record
                && manifest::store(self.conn, delta)?
            {
                self.described.push(*delta.content.as_bytes());
            }
        }
        self.fill_lacks()?;
        Writer::new(self)?.items(work.items)
    }

    /// Versions whose bytes were missing and came now are looked at again.
    fn fill_lacks(&mut self) -> Result<(), IndexError> {
        if !self.known.lacking {
            return Ok(());
        }
        let mut find = self.conn.prepare_cached("SELECT vid FROM lacks WHERE hash = ?1")?;
        let arrived = self.placed.iter().map(SegmentHash::as_bytes).chain(&self.described);
        let mut again: BTreeSet<i64> = BTreeSet::new();
        for hash in arrived {
            for vid in find.query_map([hash], |row| row.get(0))? {
                again.insert(vid?);
            }
        }
        for vid in again {
            let row = VersionRow::load(self.conn, vid)?;
            let missing = match row.content {
                Some(content) => manifest::first_missing(self.conn, &content, row.size)?,
                None => None,
            };
            if let Some(hash) = &missing {
                self.miss_purged(hash)?;
            }
            match missing {
                Some(hash) => self
                    .conn
                    .prepare_cached("UPDATE lacks SET hash = ?2 WHERE vid = ?1")?
                    .execute((vid, hash.as_bytes()))?,
                None => self.conn.prepare_cached("DELETE FROM lacks WHERE vid = ?1")?.execute([vid])?,
            };
            if missing.is_none() {
                self.touch(row.sid)?;
            }
        }
        Ok(())
    }

    /// Tells followers of `slots_since` of a slot that changed without a new version of its own.
    pub(super) fn touch(&mut self, sid: i64) -> Result<(), IndexError> {
        if self.touched.insert(sid) {
            self.applied.touched.push(self.reader.slot(sid)?);
        }
        self.conn
            .prepare_cached("INSERT INTO touches(vid, sid) VALUES(?1, ?2)")?
            .execute((self.known.next_row, sid))?;
        self.known.next_row += 1;
        Ok(())
    }

    /// Remembers how far the item's chain is now.
    pub fn advance(&mut self, cid: i64, item: &Item) -> Result<(), IndexError> {
        self.chains.insert(cid);
        let unknown = item.records.iter().filter(|record| matches!(record, Record::Unknown { .. })).count();
        if item.reach != Reach::Follows {
            // What the checkpoints below hold stands in the snapshot's lists too, and counts once.
            let passed = (cid, item.seq.cast_signed());
            self.conn.prepare_cached("DELETE FROM unknown WHERE cid = ?1 AND seq < ?2")?.execute(passed)?;
        }
        if unknown > 0 {
            self.applied.unknown += unknown;
            self.conn
                .prepare_cached("INSERT OR REPLACE INTO unknown(cid, seq, hash, count) VALUES(?1, ?2, ?3, ?4)")?
                .execute((cid, item.seq.cast_signed(), item.hash.as_bytes(), unknown as u64 as i64))?;
        }
        let Some(state) = self.known.chains.get_mut(&cid) else { return Ok(()) };
        if item.reach != Reach::Part
            && let Some(note) = &item.note
        {
            state.floor.raise(item.seq, note);
        }
        let own = |record: &Record| match record {
            Record::Version(_, v) if v.dot.lane.origin == item.chain.origin => v.dot.n,
            _ => 0,
        };
        state.seen_n = item.records.iter().map(own).max().unwrap_or(0).max(state.seen_n);
        let next = state.seq.map_or(1, |(seq, _)| seq + 1);
        if item.reach == Reach::Part {
            return Ok(());
        }
        if item.reach == Reach::Base && item.seq > next {
            state.seq = Some((item.seq, item.hash));
            let passed = (cid, item.seq.cast_signed());
            self.conn.prepare_cached("DELETE FROM ahead WHERE cid = ?1 AND seq <= ?2")?.execute(passed)?;
            return self.close_gap(cid);
        }
        if item.seq == next {
            state.seq = Some((item.seq, item.hash));
            return self.close_gap(cid);
        }
        if item.seq > next {
            self.conn
                .prepare_cached(
                    "INSERT INTO ahead(cid, seq, hash) VALUES(?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET hash = min(hash, excluded.hash)",
                )?
                .execute((cid, item.seq.cast_signed(), item.hash.as_bytes()))?;
        } else if let Some((seq, hash)) = &mut state.seq
            && *seq == item.seq
        {
            // Two checkpoints on one number: the answer must not depend on which came first.
            *hash = item.hash.min(*hash);
        }
        Ok(())
    }

    /// A chain is applied up to where another one stands for it.
    pub(super) fn pass_over(&mut self, cid: i64, word: &Closed) -> Result<(), IndexError> {
        self.chains.insert(cid);
        let Some(state) = self.known.chains.get_mut(&cid) else { return Ok(()) };
        state.floor.raise_from_outside(word.floor());
        state.seen_n = state.seen_n.max(word.last_n());
        let Some(end) = word.ends().next().filter(|end| state.seq.is_none_or(|(seq, _)| seq < end.seq)) else {
            return Ok(());
        };
        state.seq = Some((end.seq, end.hash));
        let passed = (cid, end.seq.cast_signed());
        self.conn.prepare_cached("DELETE FROM ahead WHERE cid = ?1 AND seq <= ?2")?.execute(passed)?;
        self.close_gap(cid)
    }

    fn close_gap(&mut self, cid: i64) -> Result<(), IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT hash FROM ahead WHERE cid = ?1 AND seq = ?2")?;
        let Some(state) = self.known.chains.get_mut(&cid) else { return Ok(()) };
        while let Some((seq, _)) = state.seq {
            let key = (cid, (seq + 1).cast_signed());
            let hash: Option<[u8; 32]> = statement.query_row(key, |row| row.get(0)).optional()?;
            let Some(hash) = hash else { break };
            state.seq = Some((seq + 1, ArtifactHash(crate::model::Hash::from_bytes(hash))));
            self.conn.prepare_cached("DELETE FROM ahead WHERE cid = ?1 AND seq = ?2")?.execute(key)?;
        }
        Ok(())
    }

    /// The row of a directory and of those above it, made where they are missing.
    pub fn intern_dir(&mut self, path: &str) -> Result<i64, IndexError> {
        if let Some(did) = self.dirs.get(path) {
            return Ok(*did);
        }
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (self.intern_dir(parent)?, name),
            None => (super::schema::ROOT_DIR, path),
        };
        let did = match child_dir(self.conn, parent, name)? {
            Some(did) => did,
            None => {
                let did = self.known.next_did;
                let insert = "INSERT INTO dirs(did, parent, name) VALUES(?1, ?2, ?3)";
                self.conn.prepare_cached(insert)?.execute((did, parent, name))?;
                self.known.next_did += 1;
                did
            }
        };
        self.dirs.insert(path.to_owned(), did);
        Ok(did)
    }

    pub fn intern_chain(&mut self, chain: &Chain) -> Result<ChainRow, IndexError> {
        if self.reader.names.chain_id(self.conn, chain)?.is_none() {
            self.conn.execute("INSERT INTO spaces(name) VALUES(?1) ON CONFLICT DO NOTHING", [chain.space.as_str()])?;
            self.conn
                .execute("INSERT INTO origins(name) VALUES(?1) ON CONFLICT DO NOTHING", [chain.origin.as_str()])?;
            self.conn.execute(
                "INSERT INTO chains(spid, oid, generation) SELECT spid, oid, ?3 FROM spaces, origins
                 WHERE spaces.name = ?1 AND origins.name = ?2",
                (chain.space.as_str(), chain.origin.as_str(), chain.generation),
            )?;
            let cid = self.conn.last_insert_rowid();
            self.known.chains.insert(cid, ChainState { seq: None, last_n: 0, seen_n: 0, floor: Floor::default() });
        }
        let cid = self.reader.names.chain_id(self.conn, chain)?;
        let cid = cid.ok_or_else(|| IndexError::damaged("a chain's row cannot be found again"))?;
        self.reader.names.chain(self.conn, cid)
    }

    pub fn finish(mut self) -> Result<Applied, IndexError> {
        self.write_crowds()?;
        self.refold_forked()?;
        self.known.crowds.shrink();
        std::mem::take(&mut self.presence).write(self.conn)?;
        self.write_sums()?;
        let mut statement = self
            .conn
            .prepare_cached("UPDATE chains SET seq = ?2, hash = ?3, last_n = ?4, seen_n = ?5, floor = ?6, floor_at = ?7, told = ?8 WHERE cid = ?1")?;
        for cid in &self.chains {
            let Some(state) = self.known.chains.get(cid) else { continue };
            let seq = state.seq.as_ref().map(|(seq, _)| seq.cast_signed());
            let hash = state.seq.as_ref().map(|(_, hash)| hash.as_bytes());
            let (floor, at, told) = state.floor.columns();
            let numbers = (state.last_n.cast_signed(), state.seen_n.cast_signed());
            statement.execute((cid, seq, hash, numbers.0, numbers.1, floor, at, told))?;
        }
        if self.known.waiting {
            let count: i64 = self.conn.query_row("SELECT count(*) FROM waiting", [], |row| row.get(0))?;
            self.applied.waiting = usize::try_from(count).unwrap_or(usize::MAX);
            self.known.waiting = count > 0;
        }
        if self.known.lacking {
            self.known.lacking = self.conn.prepare_cached("SELECT 1 FROM lacks")?.exists([])?;
        }
        Ok(self.applied)
    }

    /// Slots with versions at or above a number used twice get their heads by walking parents.
    fn refold_forked(&mut self) -> Result<(), IndexError> {
        for cid in std::mem::take(&mut self.refold) {
            let Some(from) = self.known.forks.get(&cid).copied() else { continue };
            let mut statement =
                self.conn.prepare_cached("SELECT DISTINCT sid FROM versions WHERE cid = ?1 AND n >= ?2")?;
            let sids: Vec<i64> =
                statement.query_map((cid, from.cast_signed()), |row| row.get(0))?.collect::<Result<_, _>>()?;
            for sid in sids {
                let mut slot = SlotRow::load(self.conn, sid)?;
                let heads = Crowd::refolded(self.conn, &slot)?.heads();
                if heads != slot.heads {
                    let before = self.standing_of(&slot)?;
                    self.known.crowds.forget(sid);
                    slot.heads = heads;
                    self.write_slot(&mut slot, before)?;
                    self.touch(sid)?;
                }
            }
        }
        Ok(())
    }

    /// The row of a slot by its directory's row and name, its space and its origin.
    pub fn find_slot(&mut self, named: (i64, &str), of: (i64, i64)) -> Result<Option<SlotRow>, IndexError> {
        self.known.crowds.find(self.conn, named, of)
    }

    pub fn standing_of(&self, slot: &SlotRow) -> Result<Standing, IndexError> {
        match self.known.crowds.get(slot.sid) {
            Some(crowd) => Ok(crowd.standing()),
            None => standing(&slot.open_heads(self.conn)?),
        }
    }

    /// Writes a slot's row and what follows from its heads.
    pub fn write_slot(&mut self, slot: &mut SlotRow, before: Standing) -> Result<(), IndexError> {
        let after = self.standing_of(slot)?;
        self.presence.change(slot.did, before.state, after.state);
        self.total.live += (after.state & state::LIVE) - (before.state & state::LIVE);
        self.total.bytes += after.bytes - before.bytes;
        slot.state = after.state | (slot.state & state::MANY);
        if self.known.crowds.keep(slot) { Ok(()) } else { self.write_slot_row(slot) }
    }

    /// Rows of crowded slots are written once a transaction.
    fn write_crowds(&mut self) -> Result<(), IndexError> {
        let behind = self.known.crowds.take_behind();
        behind.iter().try_for_each(|slot| self.write_slot_row(slot))
    }

    fn write_slot_row(&self, slot: &SlotRow) -> Result<(), IndexError> {
        let own = (slot.own != slot.last).then_some(slot.own);
        self.conn
            .prepare_cached("UPDATE slots SET last = ?2, heads = ?3, state = ?4, own = ?5 WHERE sid = ?1")?
            .execute((slot.sid, slot.last, super::codec::encode_heads(&slot.heads, slot.last), slot.state, own))?;
        Ok(())
    }

    fn write_sums(&self) -> Result<(), IndexError> {
        let mut origin = self.conn.prepare_cached(
            "UPDATE origins SET versions = versions + ?2, live = live + ?3, bytes = bytes + ?4 WHERE oid = ?1",
        )?;
        for (oid, sums) in &self.origins {
            origin.execute((oid, sums.versions, sums.live, sums.bytes))?;
        }
        let mut total = self.conn.prepare_cached("UPDATE meta SET value = value + ?2 WHERE key = ?1")?;
        let changes = [
            ("versions", self.total.versions),
            ("slots", self.slots),
            ("live", self.total.live),
            ("bytes", self.total.bytes),
        ];
        for (key, change) in changes.into_iter().filter(|(_, change)| *change != 0) {
            total.execute((key, change))?;
        }
        Ok(())
    }
}
