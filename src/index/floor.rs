//! Floors: what a snapshot says need not be kept, and which contents are gone for good.
//!
//! Invariant: once a floor is accepted no place of its chain stands below it or in a pack that the snapshot does not list,
//! whichever came first, so what can be read depends on the accepted set and never on what a disk still holds. Floors only rise.
//! Knows nothing of when something may be dropped: that is `sync::garbage`'s question.

use std::collections::HashSet;

use rusqlite::Row;

use super::apply::{Item, Reach, SnapshotLists, SnapshotNote};
use super::batch::Batch;
use super::row::SlotRow;
use super::{Index, IndexError, Reader, manifest};
use crate::ledger::{ArtifactName, Closed, Place, PublicKey, Tip};
use crate::model::{ArtifactHash, Chain, ContentHash, Hlc, MAX_JSON_INTEGER, OriginName, SegmentHash, Space};

/// Below which number the checkpoints of a chain need not be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floor {
    /// The lowest number that counts; 1 if nothing was dropped.
    pub seq: u64,
    /// The number of the snapshot that told it; 0 if none did.
    pub at: u64,
    /// When the chain's newest snapshot was written.
    pub told: Hlc,
}

impl Default for Floor {
    fn default() -> Floor {
        Floor { seq: 1, at: 0, told: Hlc::from_u64(0) }
    }
}

impl Floor {
    pub(super) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Floor> {
        let number = |offset| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column + offset)?.cast_unsigned());
        Ok(Floor { seq: number(0)?, at: number(1)?, told: Hlc::from_u64(number(2)?) })
    }

    pub(super) fn columns(&self) -> (i64, i64, i64) {
        (self.seq.cast_signed(), self.at.cast_signed(), self.told.as_u64().cast_signed())
    }

    pub(super) fn raise(&mut self, at: u64, note: &SnapshotNote) {
        self.told = self.told.max(note.told);
        if note.floor > self.seq {
            (self.seq, self.at) = (note.floor, at);
        }
    }

    /// What a later generation tells is above all that the chain itself says of it.
    pub fn raise_from_outside(&mut self, floor: u64) {
        if floor > self.seq {
            (self.seq, self.at) = (floor, MAX_JSON_INTEGER);
        }
    }
}

/// The end of a branch of a closed chain, up to which another chain stands for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClosedEnd {
    /// Where the branch goes on, if somebody holds more of it.
    pub tip: Tip,
    /// Who wrote the closed chain.
    pub key: PublicKey,
    /// The chain that stands for it.
    pub by: Chain,
}

/// Who said that a content is gone, and when last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Whose snapshot names it.
    pub origin: OriginName,
    /// When that snapshot was written, or the word was said.
    pub told: Hlc,
    /// A person let it go by name, whatever needs it.
    pub purged: bool,
}

impl Dropped {
    /// What was done to it, by whom and when: `purged on 2027-01-15 by desk-abc234`.
    pub fn sentence(&self) -> String {
        let what = if self.purged { "purged" } else { "dropped" };
        format!("{what} on {} by {}", self.day(), self.origin)
    }

    /// The day on which it was said last, in UTC.
    pub fn day(&self) -> String {
        let day = jiff::Timestamp::from_millisecond(self.told.wall_ms().cast_signed());
        day.map_or_else(|_| "a day beyond the calendar".to_owned(), |day| day.strftime("%Y-%m-%d").to_string())
    }
}

impl Batch<'_> {
    /// Takes in what snapshots say before any of their places: what no longer stands goes first.
    pub(super) fn begin_snapshots(&mut self, items: &[Item]) -> Result<(), IndexError> {
        for item in items {
            let Some(note) = &item.note else { continue };
            for word in &note.closed {
                self.close(&item.chain, word)?;
            }
            let Some(lists) = &note.lists else { continue };
            let cid = self.intern_chain(&item.chain)?.cid;
            self.note_dropped(cid, &lists.dropped)?;
            let known = self.known.chains.get(&cid).map_or(1, |state| state.floor.seq);
            if note.floor > known {
                self.retire(&item.chain, lists)?;
            }
        }
        Ok(())
    }

    /// Takes over that another chain says what this one said up to a number.
    fn close(&mut self, by: &Chain, word: &Closed) -> Result<(), IndexError> {
        let by = self.intern_chain(by)?.cid;
        let cid = self.intern_chain(&word.chain)?.cid;
        let mut insert = self.conn.prepare_cached(
            "INSERT OR IGNORE INTO closed(cid, seq, hash, last_n, key, by) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for end in word.ends() {
            let (seq, n) = (end.seq.cast_signed(), end.last_n.cast_signed());
            insert.execute((cid, seq, end.hash.as_bytes(), n, word.key.as_bytes(), by))?;
        }
        let known = self.known.chains.get(&cid).map_or(1, |state| state.floor.seq);
        if word.floor() > known {
            self.retire(&word.chain, &SnapshotLists::default())?;
        }
        let passed = (cid, word.seq.cast_signed());
        self.conn.prepare_cached("DELETE FROM unknown WHERE cid = ?1 AND seq <= ?2")?.execute(passed)?;
        self.pass_over(cid, word)
    }

    /// For each item whether it stands below its chain's floor, so that its segments are not placed.
    pub(super) fn below_floors(&self, items: &[Item]) -> Result<Vec<bool>, IndexError> {
        let below = |item: &Item| {
            let cid = self.reader.names.chain_id(self.conn, &item.chain)?;
            let floor = cid.and_then(|cid| self.known.chains.get(&cid)).map_or(1, |state| state.floor.seq);
            Ok(item.reach == Reach::Follows && item.seq < floor)
        };
        items.iter().map(below).collect()
    }

    /// The newest snapshot's list stands for all before it.
    fn note_dropped(&mut self, cid: i64, dropped: &[ContentHash]) -> Result<(), IndexError> {
        let listed: HashSet<&[u8; 32]> = dropped.iter().map(ContentHash::as_bytes).collect();
        let mut known = self.conn.prepare_cached("SELECT hash FROM dropped WHERE cid = ?1")?;
        let known: HashSet<[u8; 32]> = known.query_map([cid], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut forget = self.conn.prepare_cached("DELETE FROM dropped WHERE hash = ?1 AND cid = ?2")?;
        for hash in known.iter().filter(|hash| !listed.contains(hash)) {
            forget.execute((hash, cid))?;
        }
        let mut insert = self.conn.prepare_cached("INSERT OR IGNORE INTO dropped(hash, cid) VALUES(?1, ?2)")?;
        for hash in listed.into_iter().filter(|hash| !known.contains(*hash)) {
            insert.execute((hash, cid))?;
        }
        Ok(())
    }

    /// Forgets every place in artifacts of a chain that its snapshot does not list. What had no other place is an orphan
    /// until somebody looked for one. Names keep their rows: rows are only added there.
    fn retire(&mut self, chain: &Chain, lists: &SnapshotLists) -> Result<(), IndexError> {
        let listed: HashSet<String> = lists.packs.iter().map(ArtifactName::to_string).collect();
        // `0` is the character after `/`.
        let span = (format!("{chain}/"), format!("{chain}0"));
        let mut find = self.conn.prepare_cached("SELECT aid, name FROM artifacts WHERE name > ?1 AND name < ?2")?;
        let named = find.query_map((&span.0, &span.1), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        let named: Vec<(i64, String)> = named.collect::<Result<_, _>>()?;
        self.conn
            .execute_batch("CREATE TEMP TABLE IF NOT EXISTS unlisted(aid INTEGER PRIMARY KEY); DELETE FROM unlisted")?;
        let mut insert = self.conn.prepare_cached("INSERT INTO temp.unlisted(aid) VALUES(?1)")?;
        for (aid, _) in named.iter().filter(|(_, name)| !listed.contains(name)) {
            insert.execute([aid])?;
        }
        let bids = "bid IN (SELECT bid FROM blocks WHERE aid IN (SELECT aid FROM temp.unlisted))";
        self.conn
            .execute(&format!("INSERT OR IGNORE INTO orphans(hash) SELECT hash FROM segments WHERE {bids}"), [])?;
        self.conn.execute(&format!("DELETE FROM segments WHERE {bids}"), [])?;
        self.conn.execute("DELETE FROM blocks WHERE aid IN (SELECT aid FROM temp.unlisted)", [])?;
        self.conn.execute("DELETE FROM absent WHERE name > ?1 AND name < ?2", (&span.0, &span.1))?;
        Ok(())
    }
}

impl Index {
    /// Segments that lost their place with a floor and have no other one yet.
    pub(super) fn orphans(&self) -> Result<HashSet<SegmentHash>, IndexError> {
        let mut statement = self
            .reader
            .conn
            .prepare_cached("SELECT hash FROM orphans WHERE hash NOT IN (SELECT hash FROM segments)")?;
        let hashes = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
        hashes.map(|hash| Ok(SegmentHash(crate::model::Hash::from_bytes(hash?)))).collect()
    }

    /// True if a floor took places away since orphans were settled last.
    pub(super) fn has_orphans(&self) -> Result<bool, IndexError> {
        Ok(self.reader.conn.prepare_cached("SELECT 1 FROM orphans")?.exists([])?)
    }

    /// Every place was looked for: what is known to be whole, and what the heads lack, is found out anew.
    pub(super) fn settle_orphans(&mut self) -> Result<(), IndexError> {
        let conn = &self.reader.conn;
        let transaction = rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
        conn.execute("UPDATE manifests SET whole = 0 WHERE whole", [])?;
        let mut insert = conn.prepare_cached("INSERT OR IGNORE INTO lacks(vid, hash) VALUES(?1, ?2)")?;
        let mut sids = conn.prepare_cached("SELECT sid FROM slots")?;
        for sid in sids.query_map([], |row| row.get(0))? {
            for head in SlotRow::load(conn, sid?)?.open_heads(conn)? {
                let Some(content) = head.content else { continue };
                if let Some(missing) = manifest::first_missing(conn, &content, head.size)? {
                    self.known.lacking = true;
                    insert.execute((head.vid, missing.as_bytes()))?;
                }
            }
        }
        conn.execute("DELETE FROM orphans", [])?;
        drop((insert, sids));
        transaction.commit()?;
        Ok(())
    }

    /// Places of segments that stand in other artifacts as well.
    pub(super) fn place_again(&mut self, places: &[(SegmentHash, Place)]) -> Result<(), IndexError> {
        self.apply_places(places).map(drop)
    }
}

impl Reader {
    /// Where a closed chain ends that others stand for, highest number first; none of one that nobody closed.
    pub fn closed_ends(&self, chain: &Chain) -> Result<Vec<ClosedEnd>, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(Vec::new()) };
        let mut statement = self.conn.prepare_cached(
            "SELECT seq, hash, last_n, key, by FROM closed WHERE cid = ?1 ORDER BY seq DESC, hash, by",
        )?;
        let mut rows = statement.query([cid])?;
        let mut ends = Vec::new();
        while let Some(row) = rows.next()? {
            let hash = ArtifactHash::from_slice(row.get_ref(1)?.as_blob()?);
            let hash = hash.ok_or_else(|| IndexError::damaged("a checkpoint's hash is not 32 bytes"))?;
            let key = PublicKey::from_bytes(row.get(3)?);
            let (seq, last_n) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(2)?.cast_unsigned());
            let by = self.names.chain(&self.conn, row.get(4)?)?.chain;
            ends.push(ClosedEnd { tip: Tip { seq, hash, last_n }, key, by });
        }
        Ok(ends)
    }

    /// Every chain that others stand for.
    pub fn closed_chains(&self) -> Result<Vec<Chain>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT DISTINCT cid FROM closed ORDER BY cid")?;
        let cids = statement.query_map([], |row| row.get::<_, i64>(0))?;
        cids.map(|cid| Ok(self.names.chain(&self.conn, cid?)?.chain)).collect()
    }

    /// The floor of a chain.
    pub fn floor(&self, chain: &Chain) -> Result<Floor, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(Floor::default()) };
        let mut statement = self.conn.prepare_cached("SELECT floor, floor_at, told FROM chains WHERE cid = ?1")?;
        Ok(statement.query_row([cid], |row| Floor::read(row, 0))?)
    }

    /// Every chain of which something was dropped, with its floor.
    pub fn floors(&self) -> Result<Vec<(Chain, Floor)>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT cid, floor, floor_at, told FROM chains WHERE floor > 1")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, Floor::read(row, 1)?)))?;
        let mut floors = Vec::new();
        for row in rows {
            let (cid, floor) = row?;
            floors.push((self.names.chain(&self.conn, cid)?.chain, floor));
        }
        Ok(floors)
    }

    /// Who said that a content is gone for good; `None` if nobody did. Of several the one who said it last; who purged it before all.
    pub fn dropped(&self, content: &ContentHash) -> Result<Option<Dropped>, IndexError> {
        if let Some(purged) = self.purged(content)? {
            return Ok(Some(Dropped { origin: purged.origin, told: purged.told, purged: true }));
        }
        let mut statement = self.conn.prepare_cached(
            "SELECT d.cid, c.told FROM dropped d JOIN chains c ON c.cid = d.cid WHERE d.hash = ?1
             ORDER BY c.told DESC, d.cid LIMIT 1",
        )?;
        let mut rows = statement.query([content.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let (cid, told): (i64, i64) = (row.get(0)?, row.get(1)?);
        let origin = self.names.chain(&self.conn, cid)?.chain.origin;
        Ok(Some(Dropped { origin, told: Hlc::from_u64(told.cast_unsigned()), purged: false }))
    }

    /// The contents that one chain's newest snapshot names as gone, in order.
    pub fn dropped_by(&self, chain: &Chain) -> Result<Vec<ContentHash>, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(Vec::new()) };
        let mut statement = self.conn.prepare_cached("SELECT hash FROM dropped WHERE cid = ?1 ORDER BY hash")?;
        let hashes = statement.query_map([cid], |row| row.get::<_, [u8; 32]>(0))?;
        hashes.map(|hash| Ok(ContentHash(crate::model::Hash::from_bytes(hash?)))).collect()
    }

    /// The space's chains that are known here.
    pub fn chains_of(&self, space: &Space) -> Result<Vec<Chain>, IndexError> {
        let Some(spid) = self.names.space_id(&self.conn, space)? else { return Ok(Vec::new()) };
        let mut statement = self.conn.prepare_cached("SELECT cid FROM chains WHERE spid = ?1")?;
        let cids = statement.query_map([spid], |row| row.get::<_, i64>(0))?;
        let mut chains: Vec<Chain> =
            cids.map(|cid| Ok(self.names.chain(&self.conn, cid?)?.chain)).collect::<Result<_, IndexError>>()?;
        chains.sort();
        Ok(chains)
    }
}
