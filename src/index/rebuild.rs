//! Replaying the ledger into the index: at every start, after every import, and for `larder rebuild`.
//!
//! Invariant: afterwards the index holds every checkpoint that stands in the ledger, is sound and follows its
//! predecessor. What does not ends its own chain there and is returned by name; the other chains go on (law 10).
//! Both branches of a forked chain are followed. Does not judge whom to trust: what is in the ledger was accepted.

use std::collections::BTreeMap;

use super::{Index, IndexError, Item, Rejected, Slot};
use crate::ledger::{ArtifactName, ChainCursor, Checkpoint, Ledger, LedgerError, ShortHash};
use crate::model::{Chain, Record};

/// Checkpoints applied in one transaction; their records are in memory meanwhile.
const BATCH_CHECKPOINTS: usize = 256;
/// Records and places after which a transaction ends early.
const BATCH_LINES: usize = 200_000;

/// What a replay did.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Checkpoints applied.
    pub checkpoints: usize,
    /// Slots whose heads changed; a slot may be named more than once.
    pub touched: Vec<Slot>,
    /// Versions left out.
    pub rejected: Vec<Rejected>,
    /// Records of unknown kinds.
    pub unknown: usize,
    /// Where chains stopped, at most one a chain, and packs that are not here.
    pub problems: Vec<ReplayProblem>,
    /// Chains whose last applied checkpoint is not in the ledger: make the index anew, it tells of another ledger.
    pub stale: Vec<Chain>,
}

/// Something in the ledger that could not be applied.
#[derive(Debug)]
pub struct ReplayProblem {
    /// Whose chain.
    pub chain: Chain,
    /// What was wrong; it names the artifact.
    pub error: LedgerError,
    /// True if the chain goes no further; false if only some bytes are missing.
    pub stops_chain: bool,
}

/// Why a replay ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The ledger's folder as a whole.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Brings the index up to the ledger. Idempotent; costs what is new, and one listing of each chain's folder.
pub fn replay(index: &mut Index, ledger: &Ledger) -> Result<Replayed, ReplayError> {
    let mut replay =
        Replay { index, ledger, done: Replayed::default(), batch: Vec::new(), lines: 0, absent: Vec::new() };
    replay.come_packs()?;
    for chain in ledger.chains()? {
        replay.chain(&chain)?;
    }
    replay.flush()?;
    Ok(replay.done)
}

struct Replay<'a> {
    index: &'a mut Index,
    ledger: &'a Ledger,
    done: Replayed,
    batch: Vec<Item>,
    lines: usize,
    absent: Vec<ArtifactName>,
}

impl Replay<'_> {
    fn chain(&mut self, chain: &Chain) -> Result<(), ReplayError> {
        let applied = self.index.applied(chain)?;
        let mut by_seq: BTreeMap<u64, Vec<ArtifactName>> = BTreeMap::new();
        for name in self.ledger.checkpoint_names(chain, 0)? {
            if let ArtifactName::Checkpoint { seq, .. } = name {
                by_seq.entry(seq).or_default().push(name);
            }
        }
        if let Some((seq, hash)) = applied {
            let is_it = |name: &ArtifactName| matches!(name, ArtifactName::Checkpoint { hash: h, .. } if *h == ShortHash::of(&hash));
            if !by_seq.get(&seq).is_some_and(|names| names.iter().any(is_it)) {
                self.done.stale.push(chain.clone());
                return Ok(());
            }
        }
        let forked = by_seq.iter().find(|(_, names)| names.len() > 1).map(|(seq, _)| seq - 1);
        let applied_seq = applied.map_or(0, |(seq, _)| seq);
        // Of a forked chain everything above the fork is looked at again: the other branch may have grown.
        let start = forked.map_or(applied_seq, |forked| forked.min(applied_seq));
        if by_seq.range(start + 1..).next().is_none() {
            return Ok(());
        }
        match self.follow(chain, start, &by_seq) {
            Ok(()) => Ok(()),
            Err(ReplayError::Ledger(error)) => {
                self.done.problems.push(ReplayProblem { chain: chain.clone(), error, stops_chain: true });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn follow(
        &mut self,
        chain: &Chain,
        start: u64,
        by_seq: &BTreeMap<u64, Vec<ArtifactName>>,
    ) -> Result<(), ReplayError> {
        let mut cursors = match by_seq.get(&start) {
            Some(names) => self.resume(chain, names)?,
            None => vec![ChainCursor::start(chain.clone())],
        };
        for names in by_seq.range(start + 1..).map(|(_, names)| names) {
            let mut next = Vec::new();
            let mut refused = None;
            for name in names {
                match self.accept(&cursors, name) {
                    Ok((cursor, checkpoint)) => {
                        self.take(&checkpoint)?;
                        next.push(cursor);
                    }
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if next.is_empty() => return Err(error.into()),
                Some(error) => {
                    self.done.problems.push(ReplayProblem { chain: chain.clone(), error, stops_chain: false });
                }
                None => {}
            }
            // A branch that is shorter ends; the other goes on.
            cursors = next;
        }
        Ok(())
    }

    /// Cursors that stand on checkpoints applied before.
    fn resume(&self, chain: &Chain, names: &[ArtifactName]) -> Result<Vec<ChainCursor>, LedgerError> {
        let checkpoints = names.iter().map(|name| self.ledger.read_checkpoint(name));
        checkpoints.map(|read| read.map(|c| ChainCursor::after(chain.clone(), c.tip(), Some(c.body.key)))).collect()
    }

    /// Reads a checkpoint and finds the branch that it follows.
    fn accept(&self, cursors: &[ChainCursor], name: &ArtifactName) -> Result<(ChainCursor, Checkpoint), LedgerError> {
        let checkpoint = self.ledger.read_checkpoint(name)?;
        let mut refused = None;
        for cursor in cursors {
            let mut cursor = cursor.clone();
            match cursor.accept(&checkpoint) {
                Ok(()) => return Ok((cursor, checkpoint)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| LedgerError::Missing { name: name.clone() }))
    }

    fn take(&mut self, checkpoint: &Checkpoint) -> Result<(), ReplayError> {
        let mut records: Vec<Record> = Vec::new();
        self.ledger.each_record(checkpoint, |_, record| {
            records.push(record);
            Ok::<(), LedgerError>(())
        })?;
        let places = self.places(checkpoint)?;
        self.lines += records.len() + places.len();
        let (chain, seq) = (checkpoint.body.chain.clone(), checkpoint.body.seq);
        self.batch.push(Item { chain, seq, hash: checkpoint.hash, records, places });
        if self.batch.len() >= BATCH_CHECKPOINTS || self.lines >= BATCH_LINES {
            self.flush()?;
        }
        Ok(())
    }

    /// The places of a checkpoint's segments. A pack that is missing or damaged delays only what needs it.
    fn places(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<(crate::model::SegmentHash, crate::ledger::Place)>, ReplayError> {
        let wrong = |damage| LedgerError::Damaged { name: checkpoint.name.clone(), damage };
        let mut places = checkpoint.inline_places().map_err(wrong)?;
        for name in checkpoint.artifacts().filter(|name| matches!(name, ArtifactName::Pack { .. })) {
            match self.ledger.pack_index(&name) {
                Ok(index) => places.extend(index.places(&name)),
                Err(error) => {
                    let chain = checkpoint.body.chain.clone();
                    self.done.problems.push(ReplayProblem { chain, error, stops_chain: false });
                    self.absent.push(name);
                }
            }
        }
        Ok(places)
    }

    /// Packs that were missing when their checkpoint was applied, and are here now.
    fn come_packs(&mut self) -> Result<(), ReplayError> {
        for name in self.index.absent_packs()? {
            if !self.ledger.has(&name) {
                continue;
            }
            match self.ledger.pack_index(&name) {
                Ok(index) => {
                    let places: Vec<_> = index.places(&name).collect();
                    let applied = self.index.apply_pack(&name, &places)?;
                    self.done.touched.extend(applied.touched);
                }
                Err(error) => {
                    let chain = name.chain().clone();
                    self.done.problems.push(ReplayProblem { chain, error, stops_chain: false });
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ReplayError> {
        self.lines = 0;
        let (items, absent) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.absent));
        if items.is_empty() {
            return Ok(());
        }
        let applied = self.index.apply_lacking(&items, &absent)?;
        self.done.checkpoints += items.len();
        self.done.touched.extend(applied.touched);
        self.done.rejected.extend(applied.rejected);
        self.done.unknown += applied.unknown;
        Ok(())
    }
}
