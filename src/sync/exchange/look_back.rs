//! Where to begin with a chain of which little is here: the store is asked backwards, from its newest checkpoint, for a snapshot.
//!
//! Invariant: it only finds out where to begin. The snapshot is held to the rules of every checkpoint, and what was fetched on
//! the way is held until its turn comes, so that nothing is fetched twice. Within a small budget it does nothing, and while others wait
//! only little: each checkpoint that is taken forwards stays, and what is held is lost when the budget, or the turn, ends.

use super::pull::{Before, Step};
use super::run::{Fetched, Run, Stop, View};
use super::survey::fork_of;
use crate::ledger::ArtifactName;

/// Fewer missing checkpoints of a chain that is known are taken as they come.
const WORTH_A_LOOK: usize = 8;
/// Checkpoints held at once: a snapshot is due after 256 small ones.
const MAX_HELD: usize = 512;
/// Their bytes.
const MAX_HELD_BYTES: usize = 32 << 20;
/// A budget is large if it would do for every missing checkpoint so many times.
const LARGE_BUDGET: u64 = 4;

impl Run<'_> {
    /// Takes the newest snapshot of a chain, with what it lists, if the chain is new here or far ahead of what is here. Returns its
    /// number, 0 if there was none to take.
    pub fn join_at_snapshot(&mut self, view: &mut View) -> Result<u64, Stop> {
        let missing: Vec<ArtifactName> = view.remote.difference(&view.here).cloned().collect();
        let first = missing.first().map_or(0, ArtifactName::seq);
        let known = view.here.last().map_or(0, ArtifactName::seq);
        let far = if view.here.is_empty() { missing.len() > 1 } else { missing.len() >= WORTH_A_LOOK && first > known };
        let left = self.config.budget.requests.saturating_sub(self.report.requests.total());
        let large = left >= LARGE_BUDGET * (missing.len() as u64 + 1);
        if !far || !large || fork_of(&missing).is_some() {
            return Ok(0);
        }
        let Some(snapshot) = self.look_back(&missing)? else { return Ok(0) };
        let Step::Taken = self.pull_checkpoint(&snapshot, Before::Gap)? else { return Ok(0) };
        let seq = snapshot.seq();
        view.taken.insert(snapshot.clone());
        view.here.insert(snapshot);
        view.rise(self.floor(&view.chain));
        Ok(seq)
    }

    /// The newest of these checkpoints that is a snapshot and stands behind others of them. One that is the first of all is
    /// taken in its turn.
    fn look_back(&mut self, missing: &[ArtifactName]) -> Result<Option<ArtifactName>, Stop> {
        let mut held_bytes = 0;
        for name in missing.iter().rev() {
            let is_enough = self.held.len() >= MAX_HELD || held_bytes >= MAX_HELD_BYTES;
            if is_enough || !self.has_time_to_look() {
                break;
            }
            let Fetched::Bytes(bytes) = self.get(name)? else { break };
            held_bytes += bytes.len();
            let facts = self.local.inspect(name, &bytes);
            self.held.insert(name.clone(), bytes);
            match facts {
                Ok(facts) if facts.snapshot.is_some() => return Ok(Some(name.clone())),
                Ok(_) => {}
                // What is wrong with it is told in its turn.
                Err(_) => break,
            }
        }
        Ok(None)
    }
}
