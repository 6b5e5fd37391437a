//! Closed chains: what a later generation says instead of an earlier one of its origin, whose own beginning need not be kept then.
//!
//! Invariant: a word counts only if it proves by itself that one owner certified both devices for one origin, and only about a lower
//! generation in the same space. It covers everything up to one number, on which it names every branch, so that whoever still holds more
//! of a branch is heard behind it. Reads and judges; what is published, and when, is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointBody};
use super::cursor::Tip;
use super::error::LedgerError;
use super::garbage::ListedVersions;
use super::key::{Certificate, PublicKey};
use super::name::{ArtifactKind, ArtifactName, ShortHash};
use super::records::MAX_RECORDS_RAW_BYTES;
use super::store::{Ledger, read_names};
use crate::model::{ArtifactHash, Chain, MAX_JSON_INTEGER, Record};

/// Branches that a word names.
const MAX_TIPS: usize = 16;

/// The end of a branch up to which a word covers it: the hash of its checkpoint, and the number of the branch's last version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ClosedTip(pub ArtifactHash, pub u64);

/// A word about a chain of an earlier generation: up to a number, the chain that holds the word says everything of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Closed {
    /// The owner's word for the device that wrote the chain.
    pub cert: Certificate,
    /// Which chain.
    pub chain: Chain,
    /// The device that wrote it.
    pub key: PublicKey,
    /// Its checkpoints up to this number need not be kept.
    pub seq: u64,
    /// Every checkpoint on that number.
    pub tips: Vec<ClosedTip>,
}

impl Closed {
    /// The lowest number of the chain that counts.
    pub fn floor(&self) -> u64 {
        self.seq + 1
    }

    /// The highest number of a version that it covers.
    pub fn last_n(&self) -> u64 {
        self.tips.iter().map(|tip| tip.1).max().unwrap_or(0)
    }

    /// The ends behind which the chain may go on.
    pub fn ends(&self) -> impl Iterator<Item = Tip> {
        self.tips.iter().map(|ClosedTip(hash, last_n)| Tip { seq: self.seq, hash: *hash, last_n: *last_n })
    }

    fn counts_in(&self, body: &CheckpointBody) -> bool {
        let (chain, by) = (&self.chain, &body.chain);
        let highest = self.last_n().max(self.seq);
        chain.space == by.space
            && chain.origin == by.origin
            && chain.generation < by.generation
            && self.cert.key == body.cert.key
            && (1..MAX_JSON_INTEGER).contains(&self.seq)
            && highest < MAX_JSON_INTEGER
            && (1..=MAX_TIPS).contains(&self.tips.len())
            && self.cert.check(self.key, chain).is_ok()
    }
}

impl Checkpoint {
    /// The words about closed chains that count.
    pub fn closed(&self) -> Vec<&Closed> {
        let words = self.body.snapshot.iter().flat_map(|snapshot| &snapshot.closed);
        words.filter(|word| word.counts_in(&self.body)).collect()
    }
}

/// What two lists of words say together: of each chain the one that covers most.
pub(super) fn joined(before: &[Closed], now: &[Closed]) -> Vec<Closed> {
    let mut words: BTreeMap<&Chain, &Closed> = BTreeMap::new();
    for word in before.iter().chain(now) {
        let known = words.entry(&word.chain).or_insert(word);
        if known.seq <= word.seq {
            *known = word;
        }
    }
    words.into_values().cloned().collect()
}

/// What of a chain a word may cover.
#[derive(Debug)]
pub struct Closable {
    /// The word.
    pub word: Closed,
    /// The checkpoints that it covers.
    pub checkpoints: Vec<ArtifactName>,
    /// All that they name and list, and they themselves.
    pub artifacts: BTreeSet<ArtifactName>,
    /// What the chain's own newest snapshot says of chains before it.
    pub before: Vec<Closed>,
}

impl Ledger {
    /// What of a chain with this floor may be covered: everything up to the end of its shortest branch. `covered` are the ends of what
    /// is covered already, just below the floor: a branch that did not go on behind its end may still do so.
    /// `None` if nothing can be covered, or if something of it is not here.
    pub fn closable(&self, chain: &Chain, floor: u64, covered: &[Tip]) -> Result<Option<Closable>, LedgerError> {
        let (mut ends, mut named) = (BTreeMap::new(), HashSet::new());
        let mut went_on = BTreeSet::new();
        let (mut first, mut before) = (None, Vec::new());
        let mut of_all = None;
        for name in self.checkpoint_names(chain, floor.saturating_sub(1))? {
            let checkpoint = self.read_checkpoint(&name)?;
            let first = *first.get_or_insert(checkpoint.body.seq);
            if let Some(predecessor) = checkpoint.predecessor().filter(|_| checkpoint.body.seq > first) {
                if !ends.contains_key(&predecessor) {
                    return Ok(None);
                }
                named.insert(predecessor);
            } else {
                went_on.extend(checkpoint.body.prev);
            }
            if let Some(snapshot) = &checkpoint.body.snapshot {
                before = joined(&before, &snapshot.closed);
            }
            of_all = Some((checkpoint.body.cert.clone(), checkpoint.body.key));
            ends.insert(name, checkpoint.tip());
        }
        if !covered.is_empty() && covered.iter().map(|end| end.hash).collect::<BTreeSet<_>>() != went_on {
            return Ok(None);
        }
        let shortest = ends.iter().filter(|(name, _)| !named.contains(*name)).map(|(_, tip)| tip.seq).min();
        let Some((seq, (cert, key))) = shortest.zip(of_all) else { return Ok(None) };
        let mut tips: Vec<ClosedTip> =
            ends.values().filter(|tip| tip.seq == seq).map(|tip| ClosedTip(tip.hash, tip.last_n)).collect();
        tips.sort_unstable();
        if tips.len() > MAX_TIPS {
            return Ok(None);
        }
        let checkpoints: Vec<ArtifactName> =
            ends.into_iter().filter(|(_, tip)| tip.seq <= seq).map(|(name, _)| name).collect();
        let mut artifacts: BTreeSet<ArtifactName> = checkpoints.iter().cloned().collect();
        for name in &checkpoints {
            let checkpoint = self.read_checkpoint(name)?;
            artifacts.extend(checkpoint.artifacts().chain(checkpoint.listed()));
        }
        if artifacts.iter().any(|name| !self.has(name)) {
            return Ok(None);
        }
        let word = Closed { cert, chain: chain.clone(), key, seq, tips };
        Ok(Some(Closable { word, checkpoints, artifacts, before }))
    }

    /// Hands every line that a word covers to `visit`; one may come more than once. Memory: one records artifact.
    pub fn each_closable_line<E: From<LedgerError>>(
        &self,
        closable: &Closable,
        mut visit: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        for name in &closable.checkpoints {
            self.each_inline_record(&self.read_checkpoint(name)?, &mut visit)?;
        }
        for name in closable.artifacts.iter().filter(|name| name.kind() == ArtifactKind::Records) {
            self.each_record_in(name, MAX_RECORDS_RAW_BYTES, &mut visit)?;
        }
        Ok(())
    }

    /// True if these are all the versions that stand here of what a word covers, whatever it says of their count. What is damaged or not
    /// here says nothing.
    pub fn lists_all_closed(&self, word: &Closed, listed: &ListedVersions) -> Result<bool, LedgerError> {
        let mut all = true;
        let mut note = |_: &[u8], record: Record| {
            if let Record::Version(id, _) | Record::Carried(id, _) = record {
                all &= listed.carries(&id);
            }
            Ok::<(), LedgerError>(())
        };
        let (mut artifacts, mut read) = (BTreeSet::new(), Vec::new());
        for name in self.checkpoint_names(&word.chain, 0)? {
            if name.seq() > word.seq {
                break;
            }
            match self.read_checkpoint(&name) {
                Ok(checkpoint) => {
                    artifacts.extend(checkpoint.artifacts().chain(checkpoint.listed()));
                    read.push(self.each_inline_record(&checkpoint, &mut note));
                }
                Err(error) => read.push(Err(error)),
            }
        }
        for name in artifacts.iter().filter(|name| name.kind() == ArtifactKind::Records) {
            read.push(self.each_record_in(name, MAX_RECORDS_RAW_BYTES, &mut note));
        }
        let failed = read.into_iter().filter_map(Result::err);
        let failed = failed.filter(|e| !matches!(e, LedgerError::Missing { .. } | LedgerError::Damaged { .. }));
        failed.map(Err).next().unwrap_or(Ok(all))
    }

    /// True if a word names every end that stands here on its number.
    pub fn ends_in(&self, word: &Closed) -> Result<bool, LedgerError> {
        let names = self.checkpoint_names(&word.chain, word.seq.saturating_sub(1))?;
        let is_named = |name: &ArtifactName| match name {
            ArtifactName::Checkpoint { seq, hash, .. } if *seq == word.seq => {
                word.tips.iter().any(|tip| ShortHash::of(&tip.0) == *hash)
            }
            _ => true,
        };
        Ok(names.iter().all(is_named))
    }

    /// The highest floor that a sound snapshot of a later generation tells for a chain; 1 if none does. Reads the newest of each.
    pub(super) fn closed_floor(&self, chain: &Chain) -> Result<u64, LedgerError> {
        let mut floor = 1;
        let (space, of_origin) = (&chain.space, format!("{}~", chain.origin));
        for folder in read_names(&self.root().join(space.as_str()))?.iter().filter(|name| name.starts_with(&of_origin))
        {
            let later = format!("{space}/{folder}").parse::<Chain>().ok();
            let Some(later) = later.filter(|later| later.generation > chain.generation) else { continue };
            for name in self.checkpoint_names(&later, 0)?.iter().rev() {
                let Ok(checkpoint) = self.read_checkpoint(name) else { continue };
                if checkpoint.body.snapshot.is_some() {
                    let words = checkpoint.closed().into_iter().filter(|word| word.chain == *chain);
                    floor = words.map(Closed::floor).fold(floor, u64::max);
                    break;
                }
            }
        }
        Ok(floor)
    }

    /// True if no checkpoint of a chain that is here was signed by another device than this, or certified by another owner: anybody can
    /// certify somebody else's device. One that is damaged says nothing, and without an owner (`None`) nobody is asked for.
    pub fn is_by(&self, chain: &Chain, key: PublicKey, owner: Option<PublicKey>) -> Result<bool, LedgerError> {
        for name in self.checkpoint_names(chain, 0)?.iter().rev() {
            if let Ok(Checkpoint { body, .. }) = self.read_checkpoint(name) {
                return Ok(body.key == key && owner.is_none_or(|owner| body.cert.key == owner));
            }
        }
        Ok(true)
    }
}
