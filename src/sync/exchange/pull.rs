//! From the store to here: checkpoints and records first, packs later.
//!
//! Invariant: a checkpoint is stored only after its signature, its key, its predecessor and its place in the chain were
//! verified and its records are here. Packs may follow: until then they are phantoms and holes in the watermark.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::local::{CheckpointFacts, LocalError};
use super::report::{Finding, Need, Problem, Waiting, fingerprint};
use super::run::{Fetched, MAX_BAD_PER_CHAIN, MAX_KNOWN, Run, Stop, View};
use super::{JournalError, Phase, Trust};
use crate::index::ClosedEnd;
use crate::ledger::{ArtifactName, PublicKey, ShortHash};
use crate::model::Chain;

/// Whether a checkpoint came.
pub(super) enum Step {
    Taken,
    /// It is good and waits for something.
    Waits(Need),
    /// It is bad or not there.
    Bad,
    /// Nothing more of its chain is wanted.
    Unwanted,
}

/// What stands before a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Beginning,
    /// Its predecessor may be one of these.
    Here,
    /// Nobody has one: only a snapshot can begin here.
    Gap,
    /// It is known all the same up to which version: another chain stands for all before it, or it has a sibling here.
    Told(u64),
    /// The store lists one that did not come.
    Awaited,
}

impl Run<'_> {
    /// Takes every checkpoint of a chain that can be taken, with its records.
    pub fn pull_metadata(&mut self, view: &mut View) -> Result<(), Stop> {
        if view.closed || view.quiet || self.config.own.contains(&view.chain) {
            return Ok(());
        }
        if self.waits_apart(view) {
            return Ok(());
        }
        self.judge_words(view)?;
        self.rise_to_words(view);
        let joined = self.join_at_snapshot(view)?;
        let mut here: BTreeSet<u64> = view.here.iter().map(ArtifactName::seq).collect();
        let there: BTreeSet<u64> = view.remote.iter().map(ArtifactName::seq).collect();
        let mut waits = false;
        // What follows the snapshot first: it is what is new. What came before it is the same once more.
        let mut missing: Vec<ArtifactName> = view.remote.difference(&view.here).cloned().collect();
        let newer = missing.partition_point(|name| name.seq() <= joined);
        missing.rotate_left(newer);
        for name in missing {
            let seq = name.seq();
            if seq < self.floor(&view.chain) {
                continue;
            }
            if view.bad > MAX_BAD_PER_CHAIN {
                self.note(Problem::GaveUp { chain: view.chain.clone(), bad: view.bad });
                break;
            }
            self.give_way(Phase::Metadata)?;
            self.bar.step();
            let step = match before(seq, &here, &there) {
                Before::Awaited => Step::Waits(Need::Checkpoint { seq: seq - 1 }),
                before => self.pull_checkpoint(&name, before)?,
            };
            match step {
                Step::Taken => {
                    here.insert(seq);
                    view.taken.insert(name.clone());
                    view.here.insert(name);
                }
                Step::Bad => view.bad += 1,
                Step::Unwanted => break,
                // Everything behind it waits as well: it is named once for the chain.
                Step::Waits(_) if waits => {}
                Step::Waits(need) => {
                    waits = true;
                    self.report.waiting.push(Waiting { name, need });
                }
            }
        }
        self.held.clear();
        let floor = self.floor(&view.chain);
        view.rise(floor);
        // What it does not hold any more was let go by its writer.
        let let_go = |found: &Finding| matches!(found, Finding::StoreRolledBack { chain, held } if *chain == view.chain && *held < floor);
        self.report.findings.retain(|found| !let_go(found));
        Ok(())
    }

    /// True if nothing but its owner's admission is missing: that is told without a look.
    fn waits_apart(&mut self, view: &View) -> bool {
        let owner = self.config.apart.get(&view.chain).filter(|_| self.config.trust == Trust::Members);
        let first = view.remote.difference(&view.here).next();
        let (Some(owner), Some(first)) = (owner, first) else { return false };
        if !view.here.is_empty() || self.config.members.accepted.contains(&owner.key) {
            return false;
        }
        self.report.waiting.push(Waiting { name: first.clone(), need: Need::Owner(owner.clone()) });
        true
    }

    pub(super) fn pull_checkpoint(&mut self, name: &ArtifactName, before: Before) -> Result<Step, Stop> {
        let fetched = match self.held.remove(name) {
            Some(bytes) => Fetched::Bytes(bytes),
            None => self.get(name)?,
        };
        let Fetched::Bytes(bytes) = fetched else {
            self.report.phantoms.insert(name.clone());
            return Ok(Step::Bad);
        };
        let facts = match self.local.inspect(name, &bytes) {
            Ok(facts) => facts,
            Err(LocalError::Newer { .. }) => return Ok(Step::Waits(Need::Upgrade)),
            Err(error) => return self.refuse_theirs(name, &bytes, error).map(|()| Step::Bad),
        };
        if let Some(step) = self.check_key(name, &facts)? {
            return Ok(step);
        }
        let before = match before {
            Before::Gap | Before::Awaited => self.told_before(name, &facts)?.map_or(before, Before::Told),
            Before::Beginning | Before::Here | Before::Told(_) => before,
        };
        if let Some(step) = self.check_place(name, &facts, before)? {
            return Ok(step);
        }
        if let Some(missing) = self.pull_records(&facts, before)? {
            self.report.phantoms.insert(missing.clone());
            return Ok(Step::Waits(Need::Records { name: missing }));
        }
        // The key is durable before the first checkpoint that relies on it.
        if self.journal.accepted_key(name.chain())?.is_none() {
            self.journal.pin_key(name.chain(), facts.key)?;
        }
        if !self.store(name, &bytes)? {
            return Ok(Step::Bad);
        }
        self.accept_floor(name, &facts);
        self.accept_words(name, &facts)?;
        // The next one stands behind it, and its parts are compared.
        self.remember(name, facts);
        Ok(Step::Taken)
    }

    /// Takes over what a snapshot says of garbage; a floor never sinks.
    fn accept_floor(&mut self, name: &ArtifactName, facts: &CheckpointFacts) {
        let (seq, floor) = (name.seq(), self.floors.entry(name.chain().clone()).or_default());
        if facts.floor > floor.seq {
            (floor.seq, floor.at) = (facts.floor, seq);
        } else if facts.snapshot.is_some() && facts.floor < floor.seq && floor.at < seq {
            let accepted = floor.seq;
            self.find(Finding::FloorLowered { name: name.clone(), floor: facts.floor, accepted });
        }
    }

    /// Takes over what a later generation says of earlier ones. Whether it says all that it stands for is proven when it is read.
    fn accept_words(&mut self, name: &ArtifactName, facts: &CheckpointFacts) -> Result<(), Stop> {
        for word in &facts.closed {
            if !self.may_be_by(&word.chain, word.key, facts.owner.key)? {
                continue;
            }
            let floor = self.floors.entry(word.chain.clone()).or_default();
            floor.raise_from_outside(word.floor());
            let ends = self.closed.entry(word.chain.clone()).or_default();
            for tip in word.ends() {
                let end = ClosedEnd { tip, key: word.key, by: name.chain().clone() };
                if !ends.contains(&end) {
                    ends.push(end);
                }
            }
        }
        Ok(())
    }

    /// What a word says of a chain of which nothing was ever here hides nothing from a survey: whoever says it may be nobody who can.
    pub(super) fn doubt_words(&mut self, chain: &Chain) -> Result<(), Stop> {
        if self.closed.contains_key(chain) && self.is_unmet(chain)? {
            let ends = self.closed.remove(chain).unwrap_or_default();
            let floor = self.floors.remove(chain).unwrap_or_default();
            self.hearsay.insert(chain.clone(), (floor, ends));
        }
        Ok(())
    }

    fn is_unmet(&mut self, chain: &Chain) -> Result<bool, Stop> {
        Ok(self.journal.accepted_key(chain)?.is_none() && self.local.checkpoints(chain, 0)?.is_empty())
    }

    /// Words about a chain that was never here count unless the first checkpoint that the store holds of it has another key.
    fn judge_words(&mut self, view: &View) -> Result<(), Stop> {
        if self.closed.contains_key(&view.chain) {
            self.doubt_words(&view.chain)?;
        }
        let Some((floor, mut ends)) = self.hearsay.remove(&view.chain) else { return Ok(()) };
        for name in view.remote.iter().take(MAX_BAD_PER_CHAIN as usize) {
            let Fetched::Bytes(bytes) = self.get(name)? else { continue };
            let Ok(facts) = self.local.inspect(name, &bytes) else { continue };
            ends.retain(|end| *end.key.as_bytes() == facts.key);
            break;
        }
        if !ends.is_empty() {
            self.floors.insert(view.chain.clone(), floor);
            self.closed.insert(view.chain.clone(), ends);
        }
        Ok(())
    }

    /// A later generation may have said just now that what stands here, or there, of this chain counts no more.
    pub(super) fn rise_to_words(&self, view: &mut View) {
        let floor = self.floor(&view.chain);
        if view.here.iter().chain(&view.remote).any(|name| name.seq() < floor) {
            view.rise(floor);
        }
    }

    /// False if a chain is known here by another key than this, or what stands here of it was certified by another owner.
    fn may_be_by(&mut self, chain: &Chain, key: PublicKey, owner: PublicKey) -> Result<bool, Stop> {
        let newest = self.local.checkpoints(chain, 0)?.pop();
        let known = newest.map(|name| self.local_facts(&name)).transpose()?.flatten();
        let written_by = self.journal.accepted_key(chain)?.or_else(|| known.as_ref().map(|facts| facts.key));
        let is_right_key = written_by.is_none_or(|known| known == *key.as_bytes());
        Ok(is_right_key && known.is_none_or(|facts| facts.owner.key == owner))
    }

    /// The last version before a checkpoint whose predecessor nobody holds any more: as a closed chain ends there, or as another
    /// checkpoint of its number, which is here, has the same predecessor.
    fn told_before(&mut self, name: &ArtifactName, facts: &CheckpointFacts) -> Result<Option<u64>, Stop> {
        if let Some(end) = self.closed_end(name, facts) {
            return Ok(Some(end.tip.last_n));
        }
        let seq = name.seq();
        let here = self.local.checkpoints(name.chain(), seq)?;
        for sibling in here.iter().take_while(|sibling| sibling.seq() == seq) {
            let known = self.local_facts(sibling)?;
            let same = |known: &Arc<CheckpointFacts>| known.prev == facts.prev && known.key == facts.key;
            if let Some(known) = known.filter(same) {
                return Ok(known.last_n.checked_sub(known.versions));
            }
        }
        Ok(None)
    }

    /// The end of a closed chain that a checkpoint goes on behind, although nobody holds that any more.
    fn closed_end(&self, name: &ArtifactName, facts: &CheckpointFacts) -> Option<&ClosedEnd> {
        let goes_on = |end: &&ClosedEnd| {
            end.tip.seq + 1 == name.seq() && Some(end.tip.hash) == facts.prev && *end.key.as_bytes() == facts.key
        };
        self.closed.get(name.chain())?.iter().find(goes_on)
    }

    pub(super) fn check_key(
        &mut self,
        name: &ArtifactName,
        facts: &CheckpointFacts,
    ) -> Result<Option<Step>, JournalError> {
        let owner = &facts.owner;
        // What was taken in stays, so it is put right as well.
        if !self.healing && self.config.members.removed.contains(&owner.key) {
            self.note(Problem::Removed { chain: name.chain().clone(), owner: owner.clone() });
            return Ok(Some(Step::Unwanted));
        }
        let is_member = self.config.trust == Trust::FirstUse || self.config.members.accepted.contains(&owner.key);
        match self.journal.accepted_key(name.chain())? {
            Some(accepted) if accepted == facts.key => Ok(None),
            Some(accepted) => {
                self.find(Finding::KeyChanged {
                    name: name.clone(),
                    accepted: fingerprint(&accepted),
                    found: fingerprint(&facts.key),
                });
                Ok(Some(Step::Bad))
            }
            None if is_member => Ok(None),
            None => Ok(Some(Step::Waits(Need::Owner(owner.clone())))),
        }
    }

    /// Whether it stands where it says: behind its predecessor, or at the beginning.
    fn check_place(
        &mut self,
        name: &ArtifactName,
        facts: &CheckpointFacts,
        before: Before,
    ) -> Result<Option<Step>, Stop> {
        let why = if facts.app != self.config.app {
            Some("it belongs to another app")
        } else {
            match before {
                Before::Beginning => count_problem(facts, 0),
                Before::Told(last_n) => count_problem(facts, last_n),
                Before::Gap if facts.snapshot.is_some() => None,
                Before::Gap | Before::Awaited => {
                    return Ok(Some(Step::Waits(Need::Checkpoint { seq: name.seq() - 1 })));
                }
                Before::Here => match self.predecessor(name, facts)? {
                    Some(previous) => count_problem(facts, previous.last_n),
                    None => {
                        return Ok(Some(Step::Waits(Need::Checkpoint { seq: name.seq() - 1 })));
                    }
                },
            }
        };
        Ok(why.map(|why| {
            self.note(Problem::Refused { name: name.clone(), why: why.to_owned() });
            Step::Bad
        }))
    }

    /// The facts of the checkpoint before this one, if it is here.
    fn predecessor(
        &mut self,
        name: &ArtifactName,
        facts: &CheckpointFacts,
    ) -> Result<Option<Arc<CheckpointFacts>>, Stop> {
        let Some(prev) = facts.prev else {
            return Ok(None);
        };
        let (chain, seq) = (name.chain().clone(), name.seq() - 1);
        let before = ArtifactName::Checkpoint { chain, seq, hash: ShortHash::of(&prev) };
        let previous = self.local_facts(&before)?;
        // The name holds 8 of the 32 bytes only.
        Ok(previous.filter(|previous| previous.hash == prev && previous.key == facts.key))
    }

    /// The facts of a checkpoint that is here; `None` if it is not, or is damaged. Proven once an exchange.
    pub fn local_facts(&mut self, name: &ArtifactName) -> Result<Option<Arc<CheckpointFacts>>, Stop> {
        if let Some(known) = self.known.get(name) {
            return Ok(Some(known.clone()));
        }
        match self.local.facts(name) {
            Ok(facts) => Ok(Some(self.remember(name, facts))),
            Err(LocalError::Missing { .. }) => Ok(None),
            Err(error) => self.refuse_ours(name, error).map(|()| None),
        }
    }

    /// Keeps what was proven: to read, hash and parse it again is dearer than all else about a small checkpoint.
    fn remember(&mut self, name: &ArtifactName, facts: CheckpointFacts) -> Arc<CheckpointFacts> {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let facts = Arc::new(facts);
        self.known.insert(name.clone(), facts.clone());
        facts
    }

    /// Gets the records a checkpoint needs. Says which is missing.
    fn pull_records(&mut self, facts: &CheckpointFacts, before: Before) -> Result<Option<ArtifactName>, Stop> {
        // Who joins at a snapshot has nothing else to read its chain from; and a word about another chain is judged by its list.
        let joins = before == Before::Gap || !facts.closed.is_empty();
        let listed = facts.snapshot.iter().flatten().filter(|_| joins);
        let is_records = |part: &&ArtifactName| matches!(part, ArtifactName::Records { .. });
        for records in facts.records.iter().chain(listed.filter(is_records)) {
            if !self.local.has(records)? && !self.take(records)? {
                return Ok(Some(records.clone()));
            }
        }
        Ok(None)
    }

    /// Finds out which parts of the checkpoints on both sides are missing on one.
    pub fn compare_parts(&mut self, view: &mut View) -> Result<(), Stop> {
        for hole in view.holes.clone() {
            if !self.local.has(&hole)? {
                view.bulk.insert(hole);
            }
        }
        if view.closed || view.quiet {
            return Ok(());
        }
        let both: Vec<ArtifactName> = view.remote.intersection(&view.here).cloned().collect();
        let agreed = view.mark.seq;
        for name in both.iter().filter(|name| name.seq() > agreed) {
            let Some(facts) = self.local_facts(name)? else {
                continue;
            };
            for part in facts.parts() {
                self.compare_part(view, name, part)?;
            }
        }
        view.compared = true;
        Ok(())
    }

    fn compare_part(&mut self, view: &mut View, checkpoint: &ArtifactName, part: &ArtifactName) -> Result<(), Stop> {
        if !self.local.has(part)? {
            view.bulk.insert(part.clone());
            view.holes.insert(part.clone());
            return Ok(());
        }
        // Somebody else gave the store this checkpoint, perhaps without the part: only a look heals that.
        let unknown = view.remote_parts.is_none() && !view.taken.contains(checkpoint);
        if unknown && !view.asked_for_parts {
            view.asked_for_parts = true;
            self.list_parts(view)?;
        }
        if !view.may_be_there(part) && !view.taken.contains(checkpoint) {
            view.holes.insert(part.clone());
        }
        Ok(())
    }

    /// Gets the parts that no view asks for, because the store holds what names them no more.
    pub fn pull_late(&mut self) -> Result<(), Stop> {
        let config = self.config;
        for part in config.late.iter().filter(|part| config.spaces.contains(&part.chain().space)) {
            if !self.local.has(part)? {
                self.take(part)?;
            }
        }
        Ok(())
    }

    /// Gets the parts that are missing here.
    pub fn pull_bulk(&mut self, view: &mut View) -> Result<(), Stop> {
        while let Some(part) = view.bulk.pop_first() {
            if let Err(stop) = self.give_way(Phase::Contents) {
                view.bulk.insert(part);
                return Err(stop);
            }
            self.bar.step();
            let worth_it = view.bad <= MAX_BAD_PER_CHAIN && view.may_be_there(&part);
            let came = worth_it && self.take(&part)?;
            if came {
                view.holes.remove(&part);
            } else {
                view.bad += u64::from(worth_it);
                self.report.phantoms.insert(part);
            }
        }
        Ok(())
    }
}

fn before(seq: u64, here: &BTreeSet<u64>, there: &BTreeSet<u64>) -> Before {
    match seq - 1 {
        0 => Before::Beginning,
        previous if here.contains(&previous) => Before::Here,
        previous if there.contains(&previous) => Before::Awaited,
        _ => Before::Gap,
    }
}

fn count_problem(facts: &CheckpointFacts, last_n_before: u64) -> Option<&'static str> {
    let fits = last_n_before.checked_add(facts.versions) == Some(facts.last_n);
    (!fits).then_some("its count of versions does not go on from its predecessor's")
}
