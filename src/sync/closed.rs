//! Closed chains of the own origin: what of an earlier generation counts is said again in the own chain, so that its bytes may go.
//!
//! Invariant: everything of the earlier chain is published and durable in the own one before the word that stands for it, and that word
//! before anything goes; a stop in between leaves lines and segments that stand twice, which is harmless. Only chains of the same owner
//! are closed, and only as far as everything of them is here.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Engine, Result, SyncError};
use crate::index::ClosedEnd;
use crate::ledger::{Closable, Closed, LedgerError, Tip};
use crate::model::{Chain, ContentHash, Hash, Record, SegmentHash, Space};

/// Lines said again in one checkpoint: whoever reads it holds them all.
const CARRIED_LINES: usize = 50_000;
/// Segments said again at once, in bytes.
const CARRIED_BYTES: usize = 64 << 20;

impl Engine {
    /// The chains of earlier generations that this one may close, or has closed: of the same owner.
    pub(super) fn earlier(&self, space: &Space) -> Result<Vec<Chain>> {
        let own = self.identity.chain(space.clone());
        let mut earlier = Vec::new();
        if own.generation == 1 {
            return Ok(earlier);
        }
        for chain in self.index.chains_of(space)? {
            let is_earlier = chain.origin == own.origin && chain.generation < own.generation;
            if is_earlier && (self.is_closed_by_us(&chain)? || self.is_of_owner(&chain)?) {
                earlier.push(chain);
            }
        }
        Ok(earlier)
    }

    fn is_of_owner(&self, chain: &Chain) -> Result<bool> {
        let newest = self.ledger.newest_sound(chain)?;
        Ok(newest.is_some_and(|newest| newest.body.cert.key == self.identity.owner_key()))
    }

    fn is_closed_by_us(&self, chain: &Chain) -> Result<bool> {
        let own = self.identity.chain(chain.space.clone());
        let ours = |end: &ClosedEnd| end.by.origin == own.origin && end.by.generation <= own.generation;
        Ok(chain.origin == own.origin && self.index.closed_ends(chain)?.iter().any(ours))
    }

    /// True if nobody but this machine takes anything of a chain away from stores: it writes it, or what stands for it.
    pub(super) fn is_ours(&self, chain: &Chain) -> Result<bool> {
        let own = self.identity.chain(chain.space.clone());
        Ok(own == *chain || (chain.generation < own.generation && self.is_closed_by_us(chain)?))
    }

    /// The chains whose contents this machine can let go.
    pub(super) fn rewritable(&self) -> Result<BTreeSet<Chain>> {
        let mut chains = BTreeSet::new();
        for space in [Space::shared(), self.private_space.clone()] {
            for chain in self.earlier(&space)? {
                if !self.stands_for_itself(&chain)? || self.may_close(&chain)? {
                    chains.insert(chain);
                }
            }
            chains.insert(self.identity.chain(space));
        }
        Ok(chains)
    }

    /// True if some checkpoint of a chain counts: no other chain stands for all of it.
    pub(super) fn stands_for_itself(&self, chain: &Chain) -> Result<bool> {
        let floor = self.index.floor(chain)?.seq;
        Ok(!self.ledger.checkpoint_names(chain, floor - 1)?.is_empty())
    }

    fn closable(&self, chain: &Chain) -> Result<Option<Closable>> {
        let floor = self.index.floor(chain)?.seq;
        let ends = self.index.closed_ends(chain)?.into_iter().map(|end| end.tip);
        let ends: Vec<Tip> = ends.filter(|end| end.seq + 1 == floor).collect();
        let Some(closable) = self.ledger.closable(chain, floor, &ends)? else { return Ok(None) };
        let mut newer = false;
        self.ledger.each_closable_line(&closable, |_, record| {
            newer |= matches!(record, Record::Unknown { .. });
            Ok::<(), LedgerError>(())
        })?;
        // What a newer release wrote may be versions, and nobody here could say them again as such.
        Ok(Some(closable).filter(|_| !newer))
    }

    /// What is damaged or not here yet is not closed.
    fn may_close(&self, chain: &Chain) -> Result<bool> {
        match self.closable(chain) {
            Ok(closable) => Ok(closable.is_some()),
            Err(SyncError::Ledger(LedgerError::Damaged { .. } | LedgerError::Missing { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where closed chains end, for exchanges.
    pub(super) fn closed_ends(&self) -> Result<BTreeMap<Chain, Vec<ClosedEnd>>> {
        let chains = self.index.closed_chains()?.into_iter();
        chains.map(|chain| Ok((chain.clone(), self.index.closed_ends(&chain)?))).collect()
    }

    /// The chain that stands for what is below a floor, with the floor of that one; `None` if the chain stands for itself.
    pub(super) fn stand_in(&self, chain: &Chain, floor: u64) -> Result<Option<(Chain, u64)>> {
        let ends = self.index.closed_ends(chain)?;
        // The highest number first; of several the latest generation is who writes.
        let by = ends.into_iter().filter(|end| end.tip.seq + 1 >= floor).max_by_key(|end| end.by.generation);
        let Some(ClosedEnd { by, .. }) = by else { return Ok(None) };
        let its_floor = self.index.floor(&by)?.seq;
        match self.stand_in(&by, its_floor)? {
            Some(later) => Ok(Some(later)),
            None => Ok(Some((by, its_floor))),
        }
    }

    /// True if everything that counts of a chain, and of what stands for it, is here, so that the rest may go.
    pub(super) fn stands_alone(&self, chain: &Chain, floor: u64) -> Result<bool> {
        let Some((by, its_floor)) = self.stand_in(chain, floor)? else {
            return Ok(self.ledger.stands_alone(chain, floor)?);
        };
        let all_here = self.ledger.standing(chain, floor)?.iter().all(|name| self.ledger.has(name));
        Ok(all_here && self.ledger.stands_alone(&by, its_floor)?)
    }

    /// The chains of earlier generations of which something may be let go by now: those that are closed already, and those that were
    /// succeeded longer ago than `retention_ms`, by what everybody is known to hold as a whole.
    pub(super) fn collectable(
        &self,
        space: &Space,
        retention_ms: u64,
        held: &BTreeMap<Chain, u64>,
    ) -> Result<Vec<Chain>> {
        let now = self.now_ms();
        let mut keep = Vec::new();
        for chain in self.earlier(space)? {
            if !self.stands_for_itself(&chain)? {
                keep.push(chain);
                continue;
            }
            let names = self.ledger.checkpoint_names(&chain, 0)?;
            let last = names.last().and_then(|name| self.ledger.read_checkpoint(name).ok());
            let is_old = last.is_some_and(|last| last.body.hlc.wall_ms().saturating_add(retention_ms) <= now);
            let last_n = self.index.last_n(&chain)?;
            let is_held = held.get(&chain).is_none_or(|n| *n >= last_n);
            if is_old && is_held && self.may_close(&chain)? {
                keep.push(chain);
            }
        }
        Ok(keep)
    }

    /// The words that stand for these chains, as far as they do not stand yet: what they say is published by then.
    pub(super) fn carry_all(
        &mut self,
        space: &Space,
        chains: &[Chain],
        dropped: &[ContentHash],
        bytes: &mut u64,
    ) -> Result<Vec<Closed>> {
        if chains.is_empty() {
            return Ok(Vec::new());
        }
        let gone = self.segments_gone(dropped)?;
        let mut words = Vec::new();
        for chain in chains {
            match self.carry(space, chain, &gone, bytes) {
                Ok(closed) => words.extend(closed),
                // It is closed once it is healed; nothing else waits for that.
                Err(SyncError::Ledger(error @ (LedgerError::Damaged { .. } | LedgerError::Missing { .. }))) => {
                    self.ledger.note_error(&error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(words)
    }

    /// Says in the own chain all that an earlier one says and that may be needed. Returns the words that may follow: none if not all of
    /// it is here.
    pub(super) fn carry(
        &mut self,
        space: &Space,
        earlier: &Chain,
        gone: &HashSet<SegmentHash>,
        bytes: &mut u64,
    ) -> Result<Vec<Closed>> {
        let Some(closable) = self.closable(earlier)? else { return Ok(Vec::new()) };
        if self.is_known_damaged(&closable, gone)? {
            return Ok(Vec::new());
        }
        self.carry_lines(space, &closable, bytes)?;
        self.carry_segments(space, &closable, gone, bytes)?;
        let Closable { word, mut before, .. } = closable;
        before.push(word);
        Ok(before)
    }

    /// True if something that would have to be said again was noted as damaged and still is: nothing is said in vain at each run.
    fn is_known_damaged(&self, closable: &Closable, gone: &HashSet<SegmentHash>) -> Result<bool> {
        let noted = self.ledger.noted_damage()?.into_iter().map(|noted| noted.name);
        let mut needed = noted.filter(|name| closable.artifacts.contains(name));
        Ok(needed.any(|name| !self.ledger.is_whole(&name) && !self.ledger.can_do_without(&name, gone)))
    }

    fn carry_lines(&mut self, space: &Space, closable: &Closable, bytes: &mut u64) -> Result<()> {
        let ledger = self.ledger.clone();
        let (mut said, mut lines) = (HashSet::new(), Vec::new());
        ledger.each_closable_line(closable, |line, record| {
            if said.insert(Hash::of(line)) {
                lines.push((record.carry(line), record));
            }
            if lines.len() >= CARRIED_LINES {
                *bytes += self.publish_lines(space, std::mem::take(&mut lines))?;
            }
            Ok::<(), SyncError>(())
        })?;
        *bytes += self.publish_lines(space, lines)?;
        Ok(())
    }

    /// Says lines in the own chain. Returns the bytes written.
    fn publish_lines(&mut self, space: &Space, lines: Vec<(Vec<u8>, Record)>) -> Result<u64> {
        let pen = self.pen();
        let mut open = self.open_batch(&pen, space)?;
        let mut facts = Vec::new();
        for (line, record) in lines {
            open.batch.carried(&line)?;
            // Versions and manifests are known here; of an event it matters in whose chain it stands.
            if matches!(record, Record::Meta(_)) {
                facts.push(record);
            }
        }
        let hlc = self.clock.tick(self.env.clock.wall_ms(), None);
        let Some(published) = open.batch.finish(hlc, BTreeMap::new())? else { return Ok(0) };
        self.take_in_own(space, published.tip, published.places, facts)?;
        Ok(published.bytes_written)
    }

    /// Segments that have their place in what goes, but for those that nothing needs.
    fn carry_segments(
        &mut self,
        space: &Space,
        closable: &Closable,
        gone: &HashSet<SegmentHash>,
        bytes: &mut u64,
    ) -> Result<()> {
        let mut passed = gone.clone();
        let (mut kept, mut kept_bytes) = (Vec::new(), 0);
        for artifact in &closable.artifacts {
            for (segment, place) in self.ledger.places_in(artifact)? {
                let known = self.index.place(&segment)?;
                let stands_there = known.is_some_and(|known| closable.artifacts.contains(&known.artifact));
                if stands_there && passed.insert(segment) {
                    kept_bytes += place.len as usize;
                    kept.push((segment, place));
                }
            }
            if kept_bytes >= CARRIED_BYTES {
                *bytes += self.publish_segments(space, &std::mem::take(&mut kept), CARRIED_BYTES)?;
                kept_bytes = 0;
            }
        }
        *bytes += self.publish_segments(space, &kept, CARRIED_BYTES)?;
        Ok(())
    }
}
