//! Replaying the ledger into the index: at every start, after every import, and for `larder rebuild`.
//!
//! Invariant: afterwards the index holds every checkpoint that stands in the ledger, is sound and follows its
//! predecessor. What does not ends its own chain there and is returned by name; the other chains go on (law 10).
//! Both branches of a forked chain are followed. A chain that is new here, or of which a part is not here, is read from its newest
//! snapshot whose records are here: that lists all that came before. Does not judge whom to trust: what is in the ledger was accepted.

use std::collections::BTreeMap;

use super::{Index, IndexError, Item, Reach, Rejected, Slot, SnapshotLists, SnapshotNote};
use crate::ledger::{
    ArtifactName, ChainCursor, Checkpoint, Closed, Damage, Ledger, LedgerError, ListedVersions, Place, ShortHash, Tip,
};
use crate::model::{Chain, Record, SegmentHash};

/// Checkpoints applied in one transaction; their records are in memory meanwhile.
const BATCH_CHECKPOINTS: usize = 256;
/// Records and places after which a transaction ends early, in an index that holds little ..
const FIRST_LINES: usize = 6_000;
/// .. and in any. Between them it is as many as the index has versions: a small first import takes little memory, and a large one
/// does not touch the same pages again and again.
const MOST_LINES: usize = 200_000;

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
    /// Places went with a floor: something may need what only garbage holds.
    pub floors_rose: bool,
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
    replay_by(index, ledger, FIRST_LINES)
}

/// As `replay`, with another size for the first transactions.
pub(super) fn replay_by(index: &mut Index, ledger: &Ledger, first_lines: usize) -> Result<Replayed, ReplayError> {
    let most_lines = lines_at_once(index, first_lines, 0)?;
    let (done, batch, absent) = (Replayed::default(), Vec::new(), Vec::new());
    let mut replay = Replay { index, ledger, done, batch, lines: 0, first_lines, most_lines, lines_taken: 0, absent };
    replay.come_packs()?;
    let mut chains = ledger.chains()?;
    // Later generations first: they say up to where an earlier one need not be here.
    chains.sort_by(|a, b| (&a.space, &a.origin, b.generation).cmp(&(&b.space, &b.origin, a.generation)));
    for chain in chains {
        replay.chain(&chain)?;
    }
    replay.flush()?;
    replay.index.settle_purges(ledger)?;
    replay.find_orphans()?;
    Ok(replay.done)
}

impl SnapshotNote {
    /// What a checkpoint says of garbage; `None` if it is no snapshot.
    pub fn of(checkpoint: &Checkpoint) -> Option<SnapshotNote> {
        let snapshot = checkpoint.body.snapshot.as_ref()?;
        let packs = checkpoint.listed().filter(|name| matches!(name, ArtifactName::Pack { .. })).collect();
        let lists = SnapshotLists { dropped: snapshot.dropped.clone(), packs };
        let told = checkpoint.body.hlc;
        Some(SnapshotNote { floor: checkpoint.floor(), told, lists: Some(lists), closed: Vec::new() })
    }
}

type BySeq = BTreeMap<u64, Vec<ArtifactName>>;

struct Replay<'a> {
    index: &'a mut Index,
    ledger: &'a Ledger,
    done: Replayed,
    batch: Vec<Item>,
    lines: usize,
    /// After how many a transaction ends early in an index that holds little, and in this one now.
    first_lines: usize,
    most_lines: usize,
    /// Those of transactions that ended: of a few long files there are many more places than versions.
    lines_taken: usize,
    absent: Vec<ArtifactName>,
}

impl Replay<'_> {
    fn chain(&mut self, chain: &Chain) -> Result<(), ReplayError> {
        let is_earlier = |item: &Item| item.chain.origin == chain.origin && item.chain.generation > chain.generation;
        // Chains of one origin follow each other.
        if self.batch.last().is_some_and(is_earlier) {
            self.flush()?;
        }
        let applied = self.index.applied(chain)?;
        let mut by_seq = BySeq::new();
        for name in self.ledger.checkpoint_names(chain, 0)? {
            if let ArtifactName::Checkpoint { seq, .. } = name {
                by_seq.entry(seq).or_default().push(name);
            }
        }
        let ends = self.index.closed_ends(chain)?;
        for end in &ends {
            // The word came first, and was about another device or of another owner than what is here: it means nothing.
            let owner = self.ledger.newest_sound(&end.by)?.map(|newest| newest.body.cert.key);
            if !self.ledger.is_by(chain, end.key, owner)? {
                self.done.stale.push(chain.clone());
                return Ok(());
            }
        }
        if !ends.is_empty() {
            by_seq = by_seq.split_off(&self.index.floor(chain)?.seq);
        }
        if let Some((seq, hash)) = applied.filter(|(seq, _)| ends.first().is_none_or(|end| end.tip.seq < *seq)) {
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
        let fork = forked.map_or(u64::MAX, |forked| forked + 1);
        let begun = self.begin(chain, start, fork, &by_seq);
        match begun.and_then(|start| self.follow(chain, start, fork, &by_seq)) {
            Ok(()) => Ok(()),
            Err(ReplayError::Ledger(error)) => {
                self.done.problems.push(ReplayProblem { chain: chain.clone(), error, stops_chain: true });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Where to go on: behind the newest snapshot if nothing of the chain was applied yet, or if what follows is not here.
    fn begin(&mut self, chain: &Chain, start: u64, fork: u64, by_seq: &BySeq) -> Result<u64, ReplayError> {
        let goes_on = start > 0 && by_seq.contains_key(&(start + 1));
        if goes_on {
            return Ok(start);
        }
        let whole = start == 0 && by_seq.contains_key(&1);
        match self.newest_snapshot(chain, start, fork, by_seq, whole)? {
            Some(snapshot) => match self.join(&snapshot) {
                Ok(()) => Ok(snapshot.body.seq),
                // What it lists is damaged; the checkpoints before it say the same.
                Err(ReplayError::Ledger(error)) if whole => {
                    self.done.problems.push(ReplayProblem { chain: chain.clone(), error, stops_chain: false });
                    Ok(start)
                }
                Err(error) => Err(error),
            },
            // Nothing is here before the fork itself: a snapshot on its number stands for all that came before.
            None if start == 0 && by_seq.keys().next() == Some(&fork) && fork > 1 => {
                match self.newest_snapshot(chain, start, fork + 1, by_seq, false)? {
                    Some(snapshot) => self.join(&snapshot).map(|()| fork - 1),
                    None => Ok(start),
                }
            }
            None => Ok(start),
        }
    }

    /// The newest snapshot above `start` and below a fork whose records are here. With `choosy` its packs must be here too: the
    /// checkpoints before it may hold what is in them.
    fn newest_snapshot(
        &self,
        chain: &Chain,
        start: u64,
        fork: u64,
        by_seq: &BySeq,
        choosy: bool,
    ) -> Result<Option<Checkpoint>, ReplayError> {
        let is_here =
            |name: ArtifactName| (!choosy && matches!(name, ArtifactName::Pack { .. })) || self.ledger.has(&name);
        for name in by_seq.range(start + 1..fork).rev().flat_map(|(_, names)| names) {
            debug_assert_eq!(name.chain(), chain);
            // One that is damaged is told of when it is met.
            let Ok(checkpoint) = self.ledger.read_checkpoint(name) else { continue };
            if checkpoint.body.snapshot.is_some() && checkpoint.listed().all(is_here) {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    /// Applies what a snapshot lists: all of its chain up to it.
    fn join(&mut self, snapshot: &Checkpoint) -> Result<(), ReplayError> {
        self.flush()?;
        self.begin_lists(snapshot)?;
        let Some(lists) = &snapshot.body.snapshot else { return Ok(()) };
        // What was merged most often is oldest: parents come before those who wait for them.
        let mut records: Vec<_> = lists.records.clone();
        records.sort_by_key(|listed| std::cmp::Reverse(listed.2));
        let mut versions = ListedVersions::default();
        for listed in records {
            let name = ArtifactName::Records { chain: snapshot.body.chain.clone(), hash: listed.0 };
            let mut records: Vec<Record> = Vec::new();
            self.ledger.each_record_in(&name, listed.1, |_, record| {
                versions.note(&snapshot.body.chain, &record);
                records.push(record);
                Ok::<(), LedgerError>(())
            })?;
            self.push(Item { records, ..part_of(snapshot) })?;
        }
        if !versions.are_all_of(snapshot) {
            return Err(lists_too_little(snapshot).into());
        }
        self.push_lists(snapshot)?;
        let closed = self.closed_by(snapshot, Some(&versions))?;
        self.finish_snapshot(snapshot, Reach::Base, closed)
    }

    /// What no longer stands goes before anything is placed anew.
    fn begin_lists(&mut self, snapshot: &Checkpoint) -> Result<(), ReplayError> {
        self.push(Item { note: SnapshotNote::of(snapshot), ..part_of(snapshot) })?;
        self.flush()
    }

    /// The places of a snapshot's packs, pack by pack.
    fn push_lists(&mut self, snapshot: &Checkpoint) -> Result<(), ReplayError> {
        for name in snapshot.listed().filter(|name| matches!(name, ArtifactName::Pack { .. })) {
            let places = self.pack_places(&name)?;
            self.push(Item { places, ..part_of(snapshot) })?;
        }
        Ok(())
    }

    /// The chains that a snapshot stands for and that are not known to be closed that far: those of which it lists every version.
    fn closed_by(
        &mut self,
        snapshot: &Checkpoint,
        listed: Option<&ListedVersions>,
    ) -> Result<Vec<Closed>, ReplayError> {
        let mut words: Vec<Closed> = Vec::new();
        for word in snapshot.closed() {
            let ends = self.index.closed_ends(&word.chain)?;
            let known = ends.iter().any(|end| end.tip.seq >= word.seq && end.by == snapshot.body.chain);
            if !known && self.ledger.is_by(&word.chain, word.key, Some(word.cert.key))? {
                words.push(word.clone());
            }
        }
        let versions;
        let listed = match listed {
            _ if words.is_empty() => return Ok(words),
            Some(listed) => listed,
            None => match self.ledger.listed_versions(snapshot) {
                Ok(read) => {
                    versions = read;
                    &versions
                }
                // Until they came, the chain stands for itself.
                Err(LedgerError::Missing { .. } | LedgerError::Damaged { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            },
        };
        words.retain(|word| listed.are_all_of_closed(word));
        let mut proven = Vec::new();
        for word in words {
            if self.ledger.ends_in(&word)? && self.ledger.lists_all_closed(&word, listed)? {
                proven.push(word);
            }
        }
        Ok(proven)
    }

    fn finish_snapshot(&mut self, snapshot: &Checkpoint, reach: Reach, closed: Vec<Closed>) -> Result<(), ReplayError> {
        let note = SnapshotNote::of(snapshot).map(|note| SnapshotNote { lists: None, closed, ..note });
        self.push(Item { note, reach, ..part_of(snapshot) })
    }

    /// A snapshot that follows: its lists matter only if they drop something.
    fn take_snapshot(&mut self, snapshot: &Checkpoint) -> Result<(), ReplayError> {
        self.flush()?;
        let raises = snapshot.floor() > self.index.floor(&snapshot.body.chain)?.seq;
        if raises && !self.is_proven(snapshot)? {
            let (chain, error) = (snapshot.body.chain.clone(), lists_too_little(snapshot));
            self.done.problems.push(ReplayProblem { chain, error, stops_chain: false });
            return self.push(Item { reach: Reach::Follows, ..part_of(snapshot) });
        }
        self.begin_lists(snapshot)?;
        if raises {
            self.push_lists(snapshot)?;
        }
        let closed = self.closed_by(snapshot, None)?;
        self.finish_snapshot(snapshot, Reach::Follows, closed)
    }

    /// False if a snapshot would let versions go. One whose lists have not come yet is believed: nothing is removed before.
    fn is_proven(&self, snapshot: &Checkpoint) -> Result<bool, ReplayError> {
        match self.ledger.lists_every_version(snapshot) {
            Ok(all) => Ok(all),
            Err(LedgerError::Missing { .. } | LedgerError::Damaged { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn follow(&mut self, chain: &Chain, start: u64, fork: u64, by_seq: &BySeq) -> Result<(), ReplayError> {
        let mut cursors = self.resume(chain, by_seq.get(&start).map_or(&[], Vec::as_slice))?;
        let ends = self.index.closed_ends(chain)?.into_iter().filter(|end| end.tip.seq == start);
        cursors.extend(ends.map(|end| ChainCursor::after(chain.clone(), end.tip, Some(end.key))));
        if cursors.is_empty() && start > 0 {
            cursors = self.before_snapshots(chain, by_seq.get(&(start + 1)).map_or(&[], Vec::as_slice));
        }
        if cursors.is_empty() {
            cursors.push(ChainCursor::start(chain.clone()));
        }
        let mut before = start;
        for (&seq, names) in by_seq.range(start + 1..) {
            if seq > before + 1
                && before > start
                && let Some(snapshot) = self.newest_snapshot(chain, before, fork, by_seq, false)?
            {
                // What lies between is gone, or not here: the snapshot behind it stands for it.
                self.join(&snapshot)?;
                return self.follow(chain, snapshot.body.seq, fork, by_seq);
            }
            before = seq;
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

    /// Cursors that stand where these snapshots say that the chain stood before them: what is there need not be here, and another
    /// branch may begin there.
    fn before_snapshots(&self, chain: &Chain, names: &[ArtifactName]) -> Vec<ChainCursor> {
        let mut cursors = Vec::new();
        for checkpoint in names.iter().filter_map(|name| self.ledger.read_checkpoint(name).ok()) {
            let body = &checkpoint.body;
            if let Some(hash) = body.prev.filter(|_| body.snapshot.is_some() && body.versions == 0) {
                let tip = Tip { seq: body.seq - 1, hash, last_n: body.last_n };
                cursors.push(ChainCursor::after(chain.clone(), tip, Some(body.key)));
            }
        }
        cursors
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
        if checkpoint.body.snapshot.is_some() && checkpoint.body.versions == 0 {
            return self.take_snapshot(checkpoint);
        }
        let mut records: Vec<Record> = Vec::new();
        self.ledger.each_record(checkpoint, |_, record| {
            records.push(record);
            Ok::<(), LedgerError>(())
        })?;
        let places = self.places(checkpoint)?;
        self.push(Item { records, places, reach: Reach::Follows, ..part_of(checkpoint) })
    }

    fn push(&mut self, item: Item) -> Result<(), ReplayError> {
        self.lines += item.records.len() + item.places.len();
        self.batch.push(item);
        // What a snapshot lists has its places behind its records: they belong into one transaction.
        let is_part = self.batch.last().is_some_and(|item| item.reach == Reach::Part);
        let most_lines = if is_part { MOST_LINES } else { self.most_lines };
        if self.batch.len() >= BATCH_CHECKPOINTS || self.lines >= most_lines {
            self.flush()?;
        }
        Ok(())
    }

    /// The places of a checkpoint's segments. A pack that is missing or damaged delays only what needs it.
    fn places(&mut self, checkpoint: &Checkpoint) -> Result<Vec<(SegmentHash, Place)>, ReplayError> {
        let wrong = |damage| LedgerError::Damaged { name: checkpoint.name.clone(), damage };
        let mut places = checkpoint.inline_places().map_err(wrong)?;
        for name in checkpoint.artifacts().filter(|name| matches!(name, ArtifactName::Pack { .. })) {
            places.extend(self.pack_places(&name)?);
        }
        Ok(places)
    }

    fn pack_places(&mut self, name: &ArtifactName) -> Result<Vec<(SegmentHash, Place)>, ReplayError> {
        match self.ledger.pack_index(name) {
            Ok(index) => Ok(index.places(name).collect()),
            Err(error) => {
                let chain = name.chain().clone();
                self.done.problems.push(ReplayProblem { chain, error, stops_chain: false });
                self.absent.push(name.clone());
                Ok(Vec::new())
            }
        }
    }

    /// Segments whose places went with a floor may stand in artifacts that count as well.
    fn find_orphans(&mut self) -> Result<(), ReplayError> {
        if !self.index.has_orphans()? {
            return Ok(());
        }
        self.done.floors_rose = true;
        let orphans = self.index.orphans()?;
        if !orphans.is_empty() {
            for chain in self.ledger.chains()? {
                let floor = self.index.floor(&chain)?.seq;
                for artifact in self.ledger.standing(&chain, floor)? {
                    let mut places = self.ledger.places_in(&artifact).unwrap_or_default();
                    places.retain(|(segment, _)| orphans.contains(segment));
                    if !places.is_empty() {
                        self.index.place_again(&places)?;
                    }
                }
            }
        }
        Ok(self.index.settle_orphans()?)
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
        self.lines_taken += std::mem::take(&mut self.lines);
        let (items, absent) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.absent));
        if items.is_empty() {
            return Ok(());
        }
        let applied = self.index.apply_lacking(&items, &absent)?;
        self.most_lines = lines_at_once(self.index, self.first_lines, self.lines_taken)?;
        self.done.checkpoints += items.len();
        self.done.touched.extend(applied.touched);
        self.done.rejected.extend(applied.rejected);
        self.done.unknown += applied.unknown;
        Ok(())
    }
}

/// How much of what comes is worth a transaction of its own, once this much came.
fn lines_at_once(index: &Index, first_lines: usize, lines_taken: usize) -> Result<usize, IndexError> {
    let held = usize::try_from(index.max_row()?).unwrap_or(0);
    Ok(held.max(lines_taken).clamp(first_lines, MOST_LINES))
}

/// An item of a checkpoint that says nothing yet.
fn part_of(checkpoint: &Checkpoint) -> Item {
    Item {
        chain: checkpoint.body.chain.clone(),
        seq: checkpoint.body.seq,
        hash: checkpoint.hash,
        records: Vec::new(),
        places: Vec::new(),
        reach: Reach::Part,
        note: None,
    }
}

/// Versions are never dropped: who believed this would lose what others descend from.
fn lists_too_little(snapshot: &Checkpoint) -> LedgerError {
    let damage = Damage::Form("lists fewer versions than its chain has; its floor is not accepted");
    LedgerError::Damaged { name: snapshot.name.clone(), damage }
}
