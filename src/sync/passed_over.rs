//! Passed over: what stands below the floor of a closed chain although whoever closed it did not know of it.
//!
//! A word that claims more than it knew (a cloned key, a restored backup, a release with an error) makes others look away from what a
//! machine wrote meanwhile. Invariant: such a checkpoint is told wherever a store shows it, is taken away from no store, and is heard
//! once a later generation of its owner that holds it says the chain again. Decides by versions alone: whoever knows all that a
//! checkpoint says has nothing to lose with it.

use std::collections::BTreeSet;

use super::{Engine, Result};
use crate::ledger::{ArtifactKind, ArtifactName, Checkpoint, Ledger, max_artifact_bytes};
use crate::model::{Chain, Space};
use crate::state::Problem;
use crate::transport::{Transport, TransportError, TransportErrorKind};

/// What is said of a store that is not emptied because of it.
pub(super) const NEWS_THERE: &str = "is not taken away there: a checkpoint in it says what nobody here knows; `larder origin adopt` on the machine that wrote it, then `larder gc`, says it again";
/// Ends the source of what was passed over in a store, after that of the store's other problems.
pub(super) const PASSED_OVER: &str = " passed over";

impl Engine {
    /// True if a checkpoint in a store says a version that is not known here.
    pub(super) fn brings_news(
        &self,
        place: &dyn Transport,
        name: &ArtifactName,
    ) -> std::result::Result<bool, TransportError> {
        let app = &self.policy.app;
        let get = |name: &ArtifactName| place.get(&format!("{app}/{name}"), None, max_artifact_bytes(name.kind()));
        let bytes = match get(name) {
            Err(error) if error.kind == TransportErrorKind::NotFound => return Ok(false),
            got => got?,
        };
        let Ok(checkpoint) = Checkpoint::parse(name, &bytes) else { return Ok(false) };
        let said = Ledger::versions_said(&checkpoint, |name| get(name).ok());
        // What cannot be asked may be news.
        Ok(said.iter().any(|id| !self.index.has_version(id).unwrap_or(false)))
    }

    /// True if another chain stands for some of this one.
    pub(super) fn is_closed(&self, chain: &Chain) -> Result<bool> {
        Ok(!self.index.closed_ends(chain)?.is_empty())
    }

    /// True if any of these checkpoints in a store that are not here says what nobody here knows.
    pub(super) fn holds_news(&self, place: &dyn Transport, there: &[ArtifactName]) -> Result<bool> {
        let strange = there.iter().filter(|name| name.kind() == ArtifactKind::Checkpoint && !self.ledger.has(name));
        for name in strange {
            if self.brings_news(place, name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells what an exchange that saw everything passed over, as far as it is news.
    pub(super) fn tell_passed_over(
        &self,
        place: &dyn Transport,
        problems_of: &str,
        names: &BTreeSet<ArtifactName>,
    ) -> Result<()> {
        let mut problems = Vec::new();
        for name in names {
            // A store that does not answer is told of elsewhere, and asked again.
            if self.brings_news(place, name).unwrap_or(false) {
                problems.push(Problem { path: name.to_string(), what: sentence(name) });
            }
        }
        Ok(self.state.set_problems(&format!("{problems_of}{PASSED_OVER}"), &problems, self.now_ms() as i64)?)
    }

    /// True if a later generation claims to stand for more of a chain than what is here lets believe.
    pub(super) fn is_belied(&self, chain: &Chain) -> Result<bool> {
        let floor = self.index.floor(chain)?.seq;
        Ok(self.ledger.words_about(chain)?.iter().any(|(_, word)| word.floor() > floor))
    }

    /// What to say of a word about a chain that this folder wrote, if it claims more than that, or another branch.
    pub(super) fn overclaim(&self) -> Result<Option<String>> {
        for space in [Space::shared(), self.private_space.clone()] {
            let chain = self.identity.chain(space);
            let names = self.ledger.checkpoint_names(&chain, 0)?;
            let here = names.last().map_or(0, ArtifactName::seq);
            for (by, word) in self.ledger.words_about(&chain)? {
                let (seq, generation) = (word.seq, by.generation);
                let named = |name: &ArtifactName| word.ends().any(|end| end.name_in(&chain) == *name);
                let is_branch = names.iter().any(|name| name.seq() == seq && !named(name));
                if seq > here || is_branch {
                    return Ok(Some(format!(
                        "generation {generation} says that it stands for all of {chain} up to checkpoint {seq}, and what this folder wrote of it ends at {here}, or goes another way: nobody looks at what it had not told; `larder origin adopt {}` here, then `larder gc`, says it again",
                        chain.origin
                    )));
                }
            }
        }
        Ok(None)
    }
}

fn sentence(name: &ArtifactName) -> String {
    let origin = &name.chain().origin;
    format!(
        "a later generation of {origin} stands for this chain and did not know of this checkpoint, so that nobody reads it; `larder origin adopt {origin}` on the machine that wrote it, then `larder gc`, says it again"
    )
}
