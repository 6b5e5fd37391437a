//! Applying checkpoints: one transaction from records and places to versions, heads and counts.
//!
//! Invariant: applying a set of checkpoints in any order, with any duplicates and in any number of transactions gives
//! the same answers. One bad version is named and left out; it never stops the others.

use std::collections::HashMap;

use super::batch::Batch;
use super::crowd::Crowds;
use super::floor::Floor;
use super::lineage::{Forks, load_forks};
use super::places::Placed;
use super::purge::Purging;
use super::{Index, IndexError, Reader, Slot};
use crate::ledger::{ArtifactName, Closed, Place};
use crate::model::{ArtifactHash, Chain, ContentHash, Hlc, Record, SegmentHash, VersionId};

/// What of its chain an item stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Its own checkpoint, which follows the one before.
    Follows,
    /// A part of what a snapshot lists; the snapshot's own item comes last.
    Part,
    /// Everything of its chain up to its number: a reader begins here.
    Base,
}

/// What a snapshot says of what need not be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotNote {
    /// Checkpoints below this number need not be kept.
    pub floor: u64,
    /// When it was written.
    pub told: Hlc,
    /// What it lists; on the first item of a snapshot alone.
    pub lists: Option<SnapshotLists>,
    /// Chains of earlier generations that its chain stands for, each proven to be listed whole.
    pub closed: Vec<Closed>,
}

/// The lists of a snapshot that the index keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotLists {
    /// Contents that are gone for good.
    pub dropped: Vec<ContentHash>,
    /// The packs in which segments of the chain stand.
    pub packs: Vec<ArtifactName>,
}

/// One verified checkpoint: what its records say and where its segments stand.
#[derive(Clone, Debug)]
pub struct Item {
    /// Whose.
    pub chain: Chain,
    /// From 1.
    pub seq: u64,
    /// Of the checkpoint.
    pub hash: ArtifactHash,
    /// Its lines.
    pub records: Vec<Record>,
    /// The segments that it carries or that its packs hold.
    pub places: Vec<(SegmentHash, Place)>,
    /// What it stands for.
    pub reach: Reach,
    /// What it says of garbage, if it is a snapshot's.
    pub note: Option<SnapshotNote>,
}

impl Item {
    /// One checkpoint that follows its predecessor and is no snapshot.
    pub fn following(
        chain: Chain,
        (seq, hash): (u64, ArtifactHash),
        records: Vec<Record>,
        places: Vec<(SegmentHash, Place)>,
    ) -> Item {
        Item { chain, seq, hash, records, places, reach: Reach::Follows, note: None }
    }
}

/// A version that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Which.
    pub id: VersionId,
    /// Who published it.
    pub chain: Chain,
    /// Its path, made safe for people.
    pub path: String,
    /// Which rule it breaks.
    pub why: &'static str,
}

/// Two versions that claim one number of one chain, or one lane that two writers went on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fork {
    /// The chain with two writers.
    pub chain: Chain,
    /// The lowest number known to be used twice.
    pub n: u64,
}

/// What one transaction did.
#[derive(Clone, Default, Debug)]
pub struct Applied {
    /// Slots whose heads changed, or whose bytes came; each once.
    pub touched: Vec<Slot>,
    /// Versions that wait for their parents, in all.
    pub waiting: usize,
    /// Records of kinds that this release does not know.
    pub unknown: usize,
    /// Versions that were left out.
    pub rejected: Vec<Rejected>,
    /// Forks that showed up.
    pub forks: Vec<Fork>,
}

/// What the writer keeps in memory between transactions.
pub(super) struct Known {
    pub next_row: i64,
    pub next_sid: i64,
    pub next_did: i64,
    pub chains: HashMap<i64, ChainState>,
    pub forks: Forks,
    pub crowds: Crowds,
    pub waiting: bool,
    pub lacking: bool,
    pub places: Placed,
    pub purging: Purging,
    data_version: i64,
}

/// How far a chain is.
#[derive(Clone, Debug)]
pub(super) struct ChainState {
    pub seq: Option<(u64, ArtifactHash)>,
    /// The highest number among its rows.
    pub last_n: u64,
    /// The highest number that came, waiting and left out ones too.
    pub seen_n: u64,
    /// The highest floor that was accepted, the number of the snapshot that told it, and when the last snapshot was written.
    pub floor: Floor,
}

impl Known {
    pub fn load(reader: &Reader) -> Result<Known, IndexError> {
        let conn = &reader.conn;
        let next = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let exists = |sql: &str| conn.prepare(sql)?.exists([]);
        let mut chains = HashMap::new();
        let mut statement = conn.prepare("SELECT cid, seq, hash, last_n, seen_n, floor, floor_at, told FROM chains")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let hash = row.get_ref(2)?.as_blob_or_null()?.and_then(ArtifactHash::from_slice);
            let seq = row.get::<_, Option<i64>>(1)?.map(i64::cast_unsigned);
            let last_n = row.get::<_, i64>(3)?.cast_unsigned();
            let seen_n = row.get::<_, i64>(4)?.cast_unsigned();
            let floor = Floor::read(row, 5)?;
            chains.insert(row.get(0)?, ChainState { seq: seq.zip(hash), last_n, seen_n, floor });
        }
        Ok(Known {
            next_row: reader.max_row()? + 1,
            next_sid: next("SELECT ifnull(max(sid), 0) + 1 FROM slots")?,
            next_did: next("SELECT ifnull(max(did), 1) + 1 FROM dirs")?,
            chains,
            forks: load_forks(conn)?,
            crowds: Crowds::default(),
            waiting: exists("SELECT 1 FROM waiting")?,
            lacking: exists("SELECT 1 FROM lacks")?,
            places: Placed::load(conn)?,
            purging: Purging::load(conn)?,
            data_version: next("PRAGMA data_version")?,
        })
    }
}

impl Index {
    /// Applies checkpoints in one transaction: all or, after an error, nothing.
    ///
    /// Idempotent. The checkpoints of one chain are best given in order; others are kept and counted once the gap closes.
    pub fn apply(&mut self, items: &[Item]) -> Result<Applied, IndexError> {
        self.end_reading()?;
        self.apply_work(&Work { items, ..Work::default() })
    }

    /// As `apply`, remembering packs that the checkpoints name and whose places are therefore not among the items'.
    pub(super) fn apply_lacking(&mut self, items: &[Item], absent: &[ArtifactName]) -> Result<Applied, IndexError> {
        self.apply_work(&Work { items, absent, ..Work::default() })
    }

    /// Applies the places of a pack that came after its checkpoint.
    pub(super) fn apply_pack(
        &mut self,
        pack: &ArtifactName,
        places: &[(SegmentHash, Place)],
    ) -> Result<Applied, IndexError> {
        self.apply_work(&Work { pack: Some(pack), places, ..Work::default() })
    }

    /// Applies further places of segments that are known.
    pub(super) fn apply_places(&mut self, places: &[(SegmentHash, Place)]) -> Result<Applied, IndexError> {
        self.apply_work(&Work { places, ..Work::default() })
    }

    fn apply_work(&mut self, work: &Work<'_>) -> Result<Applied, IndexError> {
        let result = self.try_apply(work);
        if result.is_err() {
            self.reader.names.forget();
            self.known = Known::load(&self.reader)?;
        } else if self.wal_bytes() > self.max_log_bytes {
            self.rest()?;
        }
        result
    }

    fn try_apply(&mut self, work: &Work<'_>) -> Result<Applied, IndexError> {
        let Index { reader, known, .. } = self;
        let conn = &reader.conn;
        let transaction = rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
        let data_version: i64 = conn.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if data_version != known.data_version {
            reader.names.forget();
            *known = Known::load(reader)?;
        }
        let mut batch = Batch::new(reader, known);
        batch.run(work)?;
        let applied = batch.finish()?;
        transaction.commit()?;
        Ok(applied)
    }
}

/// What one transaction brings.
#[derive(Default)]
pub(super) struct Work<'w> {
    pub items: &'w [Item],
    pub places: &'w [(SegmentHash, Place)],
    /// The pack that `places` are of.
    pub pack: Option<&'w ArtifactName>,
    pub absent: &'w [ArtifactName],
}
