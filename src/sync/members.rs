//! Who may write: whose chains are taken in here, from what was said about owners and by whom.
//!
//! Trust is each machine's own: its own owner's key, the owners of the chains that were taken in, and whom any of these lets in.
//! Invariant: a pure function of that set and of the events; any order and any repetition gives the same answer. A removal wins over
//! an admission that did not know of it; what this machine's own owner removed only that owner lets in again; a removal takes out one
//! key and nobody whom it let in. Keys count, names are labels. Decides nothing about devices: a certificate binds them to a key.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::PublicKey;
use crate::model::{Hash, Membership};

/// One event about an owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// The hash of the event.
    pub hash: Hash,
    /// The owner in whose chain it stands.
    pub by: PublicKey,
    /// What it says.
    pub said: Membership,
    /// What it knew and supersedes.
    pub prev: Vec<Hash>,
}

impl Word {
    fn about(&self) -> PublicKey {
        PublicKey::from_bytes(*self.said.key.as_bytes())
    }

    /// True if it takes back a removal that it knew.
    fn takes_back(&self, removal: &Word) -> bool {
        self.said.admits && self.about() == removal.about() && self.prev.contains(&removal.hash)
    }
}

/// Who is in and who is out. Whoever is in neither set is unknown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// Owners whose chains are taken in.
    pub accepted: BTreeSet<PublicKey>,
    /// Owners of whom nothing new is taken.
    pub removed: BTreeSet<PublicKey>,
}

impl Members {
    /// Judges `words`. `present` are the owners of the chains that are here.
    pub fn of(own: PublicKey, present: &BTreeSet<PublicKey>, words: &[Word]) -> Members {
        // Nobody speaks for himself, and nobody about the machine's own owner.
        let words: Vec<&Word> = words.iter().filter(|word| ![word.by, own].contains(&word.about())).collect();
        let removed_by_own = removed_by(&words, |by| by == own);
        let is_heard = |by: PublicKey| !removed_by_own.contains(&by);
        let mut removed = removed_by(&words, is_heard);
        removed.extend(&removed_by_own);
        let mut accepted = present.clone();
        accepted.insert(own);
        accepted.extend(words.iter().filter(|word| word.said.admits).map(|word| word.about()));
        accepted.retain(|key| !removed.contains(key));
        Members { accepted, removed }
    }
}

/// Whom these owners took out and did not let in again.
fn removed_by(words: &[&Word], is_heard: impl Fn(PublicKey) -> bool) -> BTreeSet<PublicKey> {
    let heard: Vec<&Word> = words.iter().copied().filter(|word| is_heard(word.by)).collect();
    let mut answers: BTreeMap<PublicKey, Vec<&Word>> = BTreeMap::new();
    for word in heard.iter().filter(|word| word.said.admits) {
        answers.entry(word.about()).or_default().push(word);
    }
    let stands = |removal: &&&Word| {
        let answers = answers.get(&removal.about()).into_iter().flatten();
        !removal.said.admits && !answers.into_iter().any(|word| word.takes_back(removal))
    };
    heard.iter().filter(stands).map(|word| word.about()).collect()
}

/// The hashes that a new event about `key` supersedes, sorted: of all that is known the ones that nothing supersedes yet.
pub fn heads_about(key: PublicKey, words: &[Word]) -> Vec<Hash> {
    let about: Vec<&Word> = words.iter().filter(|word| word.about() == key).collect();
    let known: BTreeSet<Hash> = about.iter().flat_map(|word| &word.prev).copied().collect();
    let heads: BTreeSet<Hash> = about.iter().map(|word| word.hash).filter(|hash| !known.contains(hash)).collect();
    heads.into_iter().collect()
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
