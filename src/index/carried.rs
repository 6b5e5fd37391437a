//! Carried lines: which versions that a chain says of an earlier generation count, and up to where it stands for that one.
//!
//! Invariant: a carried line counts exactly if its own chain holds a word about the chain that it names by which one owner certified both
//! devices, and nothing of that chain which is here is by another device or owner; whether the line came before the word or after it,
//! and whether the word is believed for a floor, means nothing. So every order gives the same, to who has the earlier chain and to who
//! never had it. Lines that came before the word are read again from the snapshot that says it, which lists all of them.

use std::collections::BTreeSet;

use super::rebuild::{Replay, part_of};
use super::{Item, ReplayError, SnapshotNote};
use crate::ledger::{ArtifactName, Checkpoint, Closed, Ledger, LedgerError, ListedVersions};
use crate::model::Record;

/// What a snapshot says of other chains, judged.
#[derive(Default)]
pub(super) struct Said {
    /// The chains that it stands for, each proven to be listed whole, as far as that is not known yet.
    pub closed: Vec<Closed>,
    /// Those whose lines count in its chain.
    pub speaks: Vec<Closed>,
    /// Whether that waits for its lists; `None` if it says nothing.
    pub unread: Option<bool>,
}

/// True for every line but one that is carried from a generation of which its chain does not speak.
pub(super) fn counts(record: &Record, spoken_for: &BTreeSet<u32>) -> bool {
    match record {
        Record::Carried(_, version) => spoken_for.contains(&version.dot.lane.generation),
        _ => true,
    }
}

impl Replay<'_> {
    /// The words of a snapshot that one owner vouches for, as far as is known of the chains that they are about.
    pub(super) fn words_of(&self, snapshot: &Checkpoint) -> Result<Vec<Closed>, ReplayError> {
        let mut words = Vec::new();
        for word in snapshot.closed() {
            if self.ledger.is_by(&word.chain, word.key, word.cert.key)? {
                words.push(word.clone());
            }
        }
        Ok(words)
    }

    /// What a snapshot that follows says of other chains. What was carried before the word for it is read now.
    pub(super) fn hear(&mut self, snapshot: &Checkpoint) -> Result<Said, ReplayError> {
        let speaks = self.words_of(snapshot)?;
        if speaks.is_empty() {
            return Ok(Said::default());
        }
        let generations: BTreeSet<u32> = speaks.iter().map(|word| word.chain.generation).collect();
        let fresh: BTreeSet<u32> = generations.difference(&self.spoken_for).copied().collect();
        let unknown = fresh.is_empty() && self.not_known(snapshot, &speaks)?.is_empty();
        if unknown {
            return Ok(Said { unread: Some(false), ..Said::default() });
        }
        match self.push_carried(snapshot, &fresh) {
            Ok(listed) => {
                let closed = self.proven(snapshot, &speaks, &listed)?;
                self.spoken_for.extend(fresh);
                Ok(Said { closed, speaks, unread: Some(false) })
            }
            // Until its lists came, the other chains stand for themselves.
            Err(ReplayError::Ledger(LedgerError::Missing { .. } | LedgerError::Damaged { .. })) => {
                Ok(Said { unread: Some(true), ..Said::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Applies what a snapshot lists of these generations, one artifact at a time. Returns the versions that it lists.
    fn push_carried(
        &mut self,
        snapshot: &Checkpoint,
        generations: &BTreeSet<u32>,
    ) -> Result<ListedVersions, ReplayError> {
        let mut versions = ListedVersions::default();
        let Some(lists) = &snapshot.body.snapshot else { return Ok(versions) };
        // What was merged most often is oldest: parents come before those who wait for them.
        let mut lists: Vec<_> = lists.records.clone();
        lists.sort_by_key(|listed| std::cmp::Reverse(listed.2));
        for listed in lists {
            let name = ArtifactName::Records { chain: snapshot.body.chain.clone(), hash: listed.0 };
            let mut records: Vec<Record> = Vec::new();
            self.ledger.each_record_in(&name, listed.1, |_, record| {
                versions.note(&snapshot.body.chain, &record);
                if matches!(record, Record::Carried(..)) && counts(&record, generations) {
                    records.push(record);
                }
                Ok::<(), LedgerError>(())
            })?;
            if !records.is_empty() {
                self.push(Item { records, ..part_of(snapshot) })?;
            }
        }
        Ok(versions)
    }

    /// Those of the words that say more than is known already.
    fn not_known(&self, snapshot: &Checkpoint, words: &[Closed]) -> Result<Vec<Closed>, ReplayError> {
        let mut unknown = Vec::new();
        for word in words {
            let ends = self.index.closed_ends(&word.chain)?;
            if !ends.iter().any(|end| end.tip.seq >= word.seq && end.by == snapshot.body.chain) {
                unknown.push(word.clone());
            }
        }
        Ok(unknown)
    }

    /// Those of the words that say more than is known already, and that nothing here belies: every version is listed, every end named.
    pub(super) fn proven(
        &self,
        snapshot: &Checkpoint,
        words: &[Closed],
        listed: &ListedVersions,
    ) -> Result<Vec<Closed>, ReplayError> {
        let mut proven = self.not_known(snapshot, words)?;
        proven.retain(|word| listed.are_all_of_closed(word));
        let stands = |ledger: &Ledger, word: &Closed| {
            Ok::<bool, LedgerError>(ledger.ends_in(word)? && ledger.lists_all_closed(word, listed)?)
        };
        let mut kept = Vec::new();
        for word in proven {
            if stands(self.ledger, &word)? {
                kept.push(word);
            }
        }
        Ok(kept)
    }

    /// Words that waited for the lists of their snapshots are heard once those are here.
    pub(super) fn come_lists(&mut self) -> Result<(), ReplayError> {
        for (chain, tip) in self.index.unread()? {
            let Ok(snapshot) = self.ledger.checkpoint_at(&chain, tip.seq, tip.hash) else { continue };
            let is_records = |name: &ArtifactName| matches!(name, ArtifactName::Records { .. });
            if !snapshot.listed().filter(is_records).all(|name| self.ledger.has(&name)) {
                continue;
            }
            self.spoken_for = self.index.spoken_for(&chain)?;
            let Said { closed, speaks, unread } = self.hear(&snapshot)?;
            let unread = unread.or(Some(false));
            let note = SnapshotNote::of(&snapshot);
            let note = note.map(|note| SnapshotNote { lists: None, closed, speaks, unread, ..note });
            self.push(Item { note, ..part_of(&snapshot) })?;
            self.flush()?;
        }
        Ok(())
    }
}
