//! After the artifacts moved: how far both sides agree now, and where chains are forked.
//!
//! Invariant: a watermark covers only checkpoints that are durable here and were listed by, or given to, the store, one
//! a number; whatever is missing of their parts is named in it.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::{MAX_HOLES, Watermark};
use super::report::Finding;
use super::run::{Run, Stop, View};
use super::survey::fork_of;
use crate::ledger::ArtifactName;

impl Run<'_> {
    /// Moves every watermark as far as it can go. Asks nothing of the store.
    pub fn settle(&mut self, views: &mut [View]) -> Result<(), Stop> {
        views.iter_mut().try_for_each(|view| self.settle_chain(view))
    }

    fn settle_chain(&mut self, view: &mut View) -> Result<(), Stop> {
        if view.closed {
            return Ok(());
        }
        let fork = self.find_fork(view);
        for hole in &view.holes {
            if !self.local.has(hole)? {
                self.report.phantoms.insert(hole.clone());
            }
        }
        // Before the parts were compared nothing is known of holes, and with too many of them they could not be named.
        let known = view.quiet || view.compared;
        if !known || view.holes.len() > MAX_HOLES {
            return Ok(());
        }
        let agreed = self.agreed_seq(view)?;
        let seq = fork.map_or(agreed, |fork| agreed.min(fork - 1));
        self.note_even(view, seq, fork);
        let watermark = Watermark { seq, holes: view.holes.clone() };
        let store = self.remote.label();
        if self.journal.watermark(store, &view.chain)? != watermark {
            self.journal.set_watermark(store, &view.chain, &watermark)?;
        }
        Ok(())
    }

    /// Notes a chain of which both sides hold the same, all of it.
    fn note_even(&mut self, view: &View, agreed: u64, fork: Option<u64>) {
        let Some(tip) = view.here.last().filter(|tip| tip.seq() == agreed) else { return };
        let newest_there = view.quiet || view.remote.last() == Some(tip);
        if newest_there && fork.is_none() && view.holes.is_empty() && view.bulk.is_empty() && view.bad == 0 {
            self.report.even.insert(view.chain.clone(), tip.clone());
        }
    }

    /// The lowest number on which two verified checkpoints stand.
    fn find_fork(&mut self, view: &View) -> Option<u64> {
        let seq = fork_of(&view.here)?;
        let names = view.here.iter().filter(|name| name.seq() == seq).cloned().collect();
        self.find(Finding::Forked { chain: view.chain.clone(), seq, names });
        Some(seq)
    }

    /// The highest number up to which both sides hold the same single checkpoint on each number.
    fn agreed_seq(&mut self, view: &View) -> Result<u64, Stop> {
        // Below a floor there is nothing to agree on.
        let mut agreed = view.mark.seq.max(self.floor(&view.chain) - 1);
        let mut numbers: BTreeMap<u64, BTreeSet<&ArtifactName>> = BTreeMap::new();
        for name in view.here.union(&view.remote).filter(|name| name.seq() > agreed) {
            numbers.entry(name.seq()).or_default().insert(name);
        }
        for (seq, names) in numbers {
            let Some(name) = names.first().filter(|_| names.len() == 1) else {
                break;
            };
            let both = view.remote.contains(*name) && view.here.contains(*name);
            // Only who joined at a snapshot has a number without the one before it.
            let in_order =
                seq == agreed + 1 || (both && self.local_facts(name)?.is_some_and(|facts| facts.snapshot.is_some()));
            if !both || !in_order {
                break;
            }
            agreed = seq;
        }
        Ok(agreed)
    }
}
