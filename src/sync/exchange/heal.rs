//! Healing: asking the store for artifacts that are damaged or lost here, by name, whatever the chains say.
//!
//! Invariant: it comes before anything is compared, so that a checkpoint of ours that was lost does not look as if
//! somebody else had written it; what comes is held to the same rules as any other artifact, and a checkpoint to its
//! chain's accepted key. Nothing here decides what is damaged: the caller says.

use std::collections::{BTreeSet, VecDeque};

use super::local::LocalError;
use super::report::Problem;
use super::run::{Fetched, Run, Stop};
use crate::ledger::{ArtifactKind, ArtifactName, ShortHash};

/// Artifacts asked for in one exchange; the next goes on with the rest.
const MAX_HEALED: usize = 10_000;

impl Run<'_> {
    /// Asks for everything that is wanted and not whole here.
    pub fn heal(&mut self) -> Result<(), Stop> {
        let config = self.config;
        let ours = config.wanted.iter().filter(|name| config.spaces.contains(&name.chain().space));
        let mut queue: VecDeque<ArtifactName> = ours.cloned().collect();
        let mut asked = BTreeSet::new();
        while let Some(name) = queue.pop_front() {
            let below = name.seq() < self.floor(name.chain()) && name.kind() == ArtifactKind::Checkpoint;
            if below || asked.len() >= MAX_HEALED || !asked.insert(name.clone()) || self.is_whole(&name)? {
                continue;
            }
            if !self.heal_one(&name)? {
                self.report.phantoms.insert(name);
            } else if let Some(before) = self.before(&name)? {
                // A gap is known by its last number only; each checkpoint names the one before.
                queue.push_back(before);
            }
        }
        Ok(())
    }

    fn is_whole(&self, name: &ArtifactName) -> Result<bool, LocalError> {
        match self.local.read(name) {
            Ok(_) => Ok(true),
            Err(error @ LocalError::Failed(_)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// True if good bytes came.
    fn heal_one(&mut self, name: &ArtifactName) -> Result<bool, Stop> {
        if name.kind() != ArtifactKind::Checkpoint {
            return self.take(name);
        }
        let Fetched::Bytes(bytes) = self.get(name)? else { return Ok(false) };
        let facts = match self.local.inspect(name, &bytes) {
            Ok(facts) => facts,
            Err(error) => return self.refuse_theirs(name, &bytes, error).map(|()| false),
        };
        if facts.app != self.config.app {
            self.note(Problem::Refused { name: name.clone(), why: "it belongs to another app".to_owned() });
            return Ok(false);
        }
        match self.check_key(name, &facts)? {
            None => self.store(name, &bytes),
            Some(_) => Ok(false),
        }
    }

    /// The checkpoint before one that just came, if it is not here.
    fn before(&mut self, name: &ArtifactName) -> Result<Option<ArtifactName>, Stop> {
        let ArtifactName::Checkpoint { chain, seq, .. } = name else { return Ok(None) };
        let prev = self.local_facts(name)?.and_then(|facts| facts.prev);
        let before = prev.map(|prev| ArtifactName::Checkpoint {
            chain: chain.clone(),
            seq: seq - 1,
            hash: ShortHash::of(&prev),
        });
        Ok(match before {
            Some(before) if !self.local.has(&before)? => Some(before),
            _ => None,
        })
    }
}
