//! Record: what changed on disk becomes versions.
//!
//! Invariant: a version's parents are the whole base of its file; a file that is not stable is not a version yet; only an
//! observed, twice confirmed absence makes a tombstone. A disk that equals what is already known records nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::durable::{Durable, UnderWay};
use super::observe::{Observation, Scope};
use super::parents::Parents;
use super::publish::{Draft, OpenBatch, Pen, change_of};
use super::take::{Reading, Scratch, Taken};
use super::{Change, Engine, QUIET_MS, Report, Result, SyncError};
use crate::chunk::Chunker;
use crate::index::{Slot, Stored};
use crate::model::{Content, ContentHash, ContentKind, Reason, RelPath, Space, State as VersionState, VersionId};
use crate::scan::Entry;
use crate::state::Base;

/// A batch is also closed when it holds this many new content bytes.
const BATCH_BYTES: u64 = 64 << 20;
/// How many versions a batch holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchVersions {
    /// The first one of a run. Each next one holds twice as many: what is done beside recording begins early.
    pub first: u64,
    /// Any.
    pub most: u64,
}

impl Default for BatchVersions {
    fn default() -> BatchVersions {
        BatchVersions { first: 1_024, most: 3_072 }
    }
}

/// Versions and bases gathered until the batch is closed, and what gathering them needs.
struct Gathered<'p> {
    pen: &'p Pen,
    scratch: Scratch,
    /// Files without a base are found, not made.
    first_contact: bool,
    /// Paths whose replace is open: what stands there is not judged.
    intents: BTreeSet<RelPath>,
    open: BTreeMap<Space, OpenBatch<'p>>,
    bases: Vec<Base>,
    forget: Vec<RelPath>,
    deletions: Vec<(RelPath, Stored)>,
    /// Every edit so far stood on all heads of its path.
    linear: bool,
    /// What came before and is not durable yet.
    under_way: Option<UnderWay>,
    /// When this run began, no file had a base: it need not be asked for one by one.
    no_bases: bool,
    /// The same for versions: this run makes at most one at a path, so no path it comes to has any.
    no_versions: bool,
}

impl<'p> Gathered<'p> {
    /// What follows a closed batch in the same run.
    fn following(&mut self) -> Gathered<'p> {
        let next = Gathered::new(self.pen, std::mem::take(&mut self.intents), self.first_contact);
        Gathered { no_bases: self.no_bases, no_versions: self.no_versions, ..next }
    }

    fn new(pen: &'p Pen, intents: BTreeSet<RelPath>, first_contact: bool) -> Gathered<'p> {
        Gathered {
            pen,
            scratch: Scratch { chunker: Chunker::new(), head: Vec::new() },
            first_contact,
            intents,
            open: BTreeMap::new(),
            bases: Vec::new(),
            forget: Vec::new(),
            deletions: Vec::new(),
            linear: true,
            under_way: None,
            no_bases: false,
            no_versions: false,
        }
    }
}

impl Engine {
    /// Looks at the disk and records what changed.
    pub fn record(&mut self, scope: &Scope, dry_run: bool, report: &mut Report) -> Result<()> {
        let again = std::mem::take(&mut self.again);
        let recorded = self.record_in(&again.with(scope), dry_run, report);
        if dry_run || recorded.is_err() {
            self.again.extend(again);
        }
        recorded
    }

    fn record_in(&mut self, scope: &Scope, dry_run: bool, report: &mut Report) -> Result<()> {
        let mut observation = self.observe(scope)?;
        self.again.extend(std::mem::take(&mut observation.again));
        self.save_problems(scope, &observation, report)?;
        let first_contact = self.state.meta_text("contact_rules")?.as_deref() != Some(&self.policy.fingerprint);
        if !dry_run {
            self.release(&observation.released)?;
        }
        let moves = self.settle_young(&observation)?;
        self.record_changes(observation.changed, moves, first_contact, dry_run, report)?;
        if first_contact && !dry_run && matches!(scope, Scope::All) {
            self.state.set_meta("contact_rules", Some(self.policy.fingerprint.as_bytes()))?;
        }
        Ok(())
    }

    /// A released path has no base: nothing is deleted anywhere because of it.
    fn release(&mut self, released: &[RelPath]) -> Result<()> {
        if released.is_empty() {
            return Ok(());
        }
        self.state.transaction(|state| {
            for path in released {
                state.remove_base(path)?;
            }
            Ok::<(), SyncError>(())
        })
    }

    /// Waits until files that were touched a moment ago are stable; confirms what is gone in the same wait.
    fn settle_young(&self, observation: &Observation) -> Result<Moves> {
        let youngest = observation.changed.iter().map(|entry| entry.stat.mtime_ns.max(entry.stat.ctime_ns)).max();
        let quiet_left_ms = quiet_left_ms(youngest, self.now_ms());
        let with_folder = observation.moved_with_folder();
        let moved: BTreeSet<&RelPath> = with_folder.values().collect();
        let gone = observation.gone.iter().map(|gone| &gone.path);
        let doubtful: Vec<&RelPath> = gone.filter(|path| !moved.contains(path)).collect();
        if doubtful.is_empty() && quiet_left_ms > 0 {
            (self.env.pause)(quiet_left_ms);
        }
        let mut gone = self.confirm_gone(&doubtful)?;
        gone.extend(moved.into_iter().cloned());
        self.moves_from(gone, with_folder)
    }

    fn record_changes(
        &mut self,
        changed: Vec<Entry>,
        mut moves: Moves,
        first_contact: bool,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<()> {
        let pen = self.pen();
        let intents = self.state.intents()?.into_iter().map(|intent| intent.path).collect();
        let mut gathered = Gathered::new(&pen, intents, first_contact);
        let total = changed.len() as u64;
        gathered.no_bases = !self.state.has_bases()?;
        gathered.no_versions = self.index.max_row()? == 0;
        self.index.begin_reading()?;
        if total >= self.batch_versions.most {
            // The walk's threads gathered the list; what they freed no other thread would use again.
            crate::env::give_memory_back();
        }
        let recorded = self.record_entries(changed, &mut moves, &mut gathered, dry_run, report);
        // What is under way is in the ledger soon, whatever came of the rest: index and state are to know it.
        let settled = self.settle_under_way(&mut gathered, report);
        if let Err(error) = recorded.and(settled) {
            self.index.end_reading()?;
            return Err(error);
        }
        for base in std::mem::take(&mut moves.gone) {
            self.record_gone(base, &moves, &mut gathered, report)?;
        }
        self.index.end_reading()?;
        if !dry_run {
            // Their rows stay until a person approves, as the files do elsewhere.
            self.hold_if_many(&gathered.deletions)?;
        }
        self.close_gathered(&mut gathered, dry_run, report)
    }

    fn record_entries(
        &mut self,
        mut changed: Vec<Entry>,
        moves: &mut Moves,
        gathered: &mut Gathered<'_>,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<()> {
        let total = changed.len() as u64;
        // From the end, so that the list of a large tree shrinks while what is told of it grows.
        changed.reverse();
        let mut done: u64 = 0;
        let mut batch_versions = self.batch_versions.first;
        while let Some(entry) = changed.pop() {
            self.record_entry(&entry, moves, gathered, report)?;
            done += 1;
            if done.is_multiple_of(256) {
                self.progress.at("recording", done, total);
                if gathered.under_way.as_ref().is_some_and(UnderWay::is_durable) {
                    self.settle_under_way(gathered, report)?;
                    self.index.begin_reading()?;
                }
            }
            let full = |open: &OpenBatch<'_>| open.versions >= batch_versions || open.bytes >= BATCH_BYTES;
            if gathered.open.values().any(full) {
                batch_versions = (batch_versions * 2).min(self.batch_versions.most);
                self.close_full(gathered, dry_run, report)?;
                changed.shrink_to_fit();
                crate::env::give_memory_back();
                self.index.begin_reading()?;
            }
        }
        Ok(())
    }

    /// The vanished files, so that a rename is known as one.
    fn moves_from(&self, gone: BTreeSet<RelPath>, with_folder: BTreeMap<RelPath, RelPath>) -> Result<Moves> {
        let mut moves = Moves { with_folder, ..Moves::default() };
        for path in gone {
            if let Some(base) = self.state.base(&path)? {
                moves.by_content.entry((base.hash, base.kind)).or_default().push(moves.gone.len());
                moves.by_path.insert(path, moves.gone.len());
                moves.gone.push(base);
            }
        }
        Ok(moves)
    }

    fn record_entry<'p>(
        &mut self,
        entry: &Entry,
        moves: &mut Moves,
        gathered: &mut Gathered<'p>,
        report: &mut Report,
    ) -> Result<()> {
        let path = entry.path.path();
        let slot = self.slot_of(entry.path.channel(), path);
        let base = if gathered.no_bases { None } else { self.state.base(path)? };
        let base = base.filter(|base| base.channel == entry.path.channel());
        if gathered.intents.contains(path) {
            return Ok(());
        }
        let mut open = match gathered.open.remove(&slot.space) {
            Some(open) => open,
            None => {
                let before = gathered.under_way.as_ref().and_then(|under_way| under_way.brings(&slot.space));
                self.open_batch_after(gathered.pen, &slot.space, before)?
            }
        };
        let along = if base.is_none() { moves.came_along(&slot, self) } else { None };
        let along = along.map(|old| self.take_along(old, &mut open)).transpose()?.flatten();
        let reading = match along {
            Some(taken) => Reading::Taken(Box::new(taken)),
            None => self.take(entry, base.as_ref(), &mut gathered.scratch, &mut open)?,
        };
        let outcome = match reading {
            Reading::Taken(taken) => {
                self.record_taken(entry, slot.clone(), base, *taken, moves, &mut open, gathered, report)
            }
            Reading::Vanished => Ok(()),
            Reading::Busy => {
                report.waiting.push((path.shown(), "being written".to_owned()));
                Ok(self.state.set_pending(path, "record", "being written", self.now_ms() as i64)?)
            }
            Reading::Refused(why) => self.refused(path, why, report),
            Reading::Unread(why) => {
                // The fault may be over by the next run, and nothing tells of that.
                self.again.unread(path);
                self.refused(path, why, report)
            }
        };
        gathered.open.insert(slot.space, open);
        outcome
    }

    fn refused(&self, path: &RelPath, why: String, report: &mut Report) -> Result<()> {
        self.state.set_pending(path, "record", &why, self.now_ms() as i64)?;
        report.problems.push((path.shown(), why));
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one decision, used once")]
    fn record_taken<'p>(
        &mut self,
        entry: &Entry,
        slot: Slot,
        base: Option<Base>,
        taken: Taken,
        moves: &mut Moves,
        open: &mut OpenBatch<'_>,
        gathered: &mut Gathered<'p>,
        report: &mut Report,
    ) -> Result<()> {
        let path = entry.path.path().clone();
        let same = base.as_ref().is_some_and(|base| base.hash == taken.content.hash && base.kind == taken.content.kind);
        let new_base = |versions: Vec<VersionId>, taken: &Taken| Base {
            path: path.clone(),
            channel: entry.path.channel(),
            versions,
            hash: taken.content.hash,
            kind: taken.content.kind,
            stat: taken.stat,
            resume: taken.resume.clone(),
        };
        if let (true, Some(base)) = (same, &base) {
            gathered.bases.push(new_base(base.versions.clone(), &taken));
            return Ok(());
        }
        let heads = if gathered.no_versions { Vec::new() } else { self.index.heads(&slot)? };
        let parents = match self.parents_for(&slot, base.as_ref(), &heads, &taken.content, gathered.first_contact)? {
            Parents::Known(versions) => {
                gathered.linear = false;
                gathered.bases.push(new_base(versions, &taken));
                return Ok(());
            }
            Parents::Of(parents) => parents,
        };
        let mut all_parents = parents;
        let mut moved_from = None;
        // A path that held something once may be moved to again: then what is gone there is a parent as well.
        let holds_nothing = all_parents.iter().all(|parent| parent.version.content().is_none());
        let moved = if base.is_none() && holds_nothing { moves.take(&slot, &taken.content, self) } else { None };
        if let Some(moved) = &moved {
            let old = self.slot_of(moved.channel, &moved.path);
            let old_heads = self.index.heads(&old)?;
            moved_from = Some(moved.path.clone());
            all_parents.extend(self.parents_of_base(&old, moved, &old_heads)?);
        }
        let adopted = gathered.first_contact && base.is_none() && moved_from.is_none();
        gathered.linear &= heads.iter().all(|head| all_parents.iter().any(|parent| parent.id == head.id));
        self.add_manifest(open, &taken.manifest, &all_parents)?;
        let had_content = base.is_some();
        let state = VersionState::Content(taken.content);
        let channel = entry.path.channel();
        let draft = Draft { slot, channel, parents: all_parents, state, moved_from, via: None, adopted };
        let version = self.version_in(draft, &heads)?;
        report.recorded.push((path.shown(), change_of(&version, had_content)));
        let id = open.batch.version(version)?;
        open.versions += 1;
        gathered.bases.push(new_base(vec![id], &taken));
        Ok(())
    }

    /// A path that is gone becomes a tombstone, unless its file was seen elsewhere: then that one says so.
    fn record_gone<'p>(
        &mut self,
        base: Base,
        moves: &Moves,
        gathered: &mut Gathered<'p>,
        report: &mut Report,
    ) -> Result<()> {
        let path = &base.path;
        if gathered.intents.contains(path) {
            return Ok(());
        }
        let slot = self.slot_of(base.channel, path);
        let heads = self.index.heads(&slot)?;
        let already_gone = !heads.is_empty() && heads.iter().all(|head| head.version.content().is_none());
        if already_gone {
            gathered.forget.push(path.clone());
            return Ok(());
        }
        let parents = self.parents_of_base(&slot, &base, &heads)?;
        gathered.linear &= heads.iter().all(|head| parents.iter().any(|parent| parent.id == head.id));
        let moved_to = moves.taken.get(path).cloned();
        let reason = if moved_to.is_some() { Reason::Move } else { Reason::User };
        let state = VersionState::Tombstone { reason, moved_to };
        let channel = base.channel;
        let space = slot.space.clone();
        let draft = Draft { slot, channel, parents, state, moved_from: None, via: None, adopted: false };
        let version = self.version_in(draft, &heads)?;
        let mut open = match gathered.open.remove(&space) {
            Some(open) => open,
            None => self.open_batch(gathered.pen, &space)?,
        };
        if reason == Reason::User {
            report.recorded.push((path.shown(), Change::Deleted));
        }
        let stored_version = version.clone();
        let id = open.batch.version(version)?;
        open.versions += 1;
        gathered.deletions.push((path.clone(), Stored { id, version: stored_version }));
        gathered.open.insert(space, open);
        gathered.forget.push(path.clone());
        Ok(())
    }

    /// Makes the gathered versions durable, then their bases; what is under way comes before them.
    fn close_gathered<'p>(&mut self, gathered: &mut Gathered<'p>, dry_run: bool, report: &mut Report) -> Result<()> {
        self.settle_under_way(gathered, report)?;
        let next = gathered.following();
        let gathered = std::mem::replace(gathered, next);
        if dry_run {
            self.forget_chains();
            return Ok(());
        }
        if !gathered.no_bases {
            self.note_recording(&gathered)?;
        }
        let before = self.index.max_row()?;
        for (space, open) in gathered.open {
            let row = self.index.max_row()?;
            if let Some(item) = self.close_batch(&space, open, report)?.filter(|_| gathered.linear) {
                self.write_ahead(row, item)?;
            }
        }
        self.save_bases(before, &gathered.bases, &gathered.forget, gathered.linear)
    }

    /// As `close_gathered`, but where nothing of it needs to be known for what is recorded next, the wait for the disk is
    /// left to a thread.
    fn close_full<'p>(&mut self, gathered: &mut Gathered<'p>, dry_run: bool, report: &mut Report) -> Result<()> {
        let mut here = dry_run || !gathered.no_bases || !gathered.no_versions;
        for space in gathered.open.keys() {
            here |= self.may_gather_next(space)?;
        }
        if here {
            return self.close_gathered(gathered, dry_run, report);
        }
        self.settle_under_way(gathered, report)?;
        let next = gathered.following();
        let full = std::mem::replace(gathered, next);
        let mut batches = Vec::with_capacity(full.open.len());
        for (space, open) in full.open {
            batches.extend(self.seal_batch(&space, open)?);
        }
        for batch in &batches {
            self.go_on_after(batch)?;
        }
        gathered.under_way = Some(UnderWay::start(self.ledger.clone(), batches, full.bases, full.linear)?);
        Ok(())
    }

    /// Waits until what is under way is durable; then index and state take it in, and its rows are begun.
    fn settle_under_way(&mut self, gathered: &mut Gathered<'_>, report: &mut Report) -> Result<()> {
        let Some(under_way) = gathered.under_way.take() else { return Ok(()) };
        let taken = self.take_in_durable(under_way.wait(), report);
        if taken.is_err() {
            self.forget_chains();
        }
        taken
    }

    fn take_in_durable(&mut self, durable: Durable, report: &mut Report) -> Result<()> {
        let before = self.index.max_row()?;
        for (space, published, notes) in durable.batches? {
            let row = self.index.max_row()?;
            let item = self.take_in_batch(&space, published, notes, report)?;
            if durable.linear {
                self.write_ahead(row, item)?;
            }
        }
        self.save_bases(before, &durable.bases, &[], durable.linear)
    }

    /// What was recorded is what stands on the disk; `before` is the index's last row before it.
    fn save_bases(&mut self, before: i64, bases: &[Base], forget: &[RelPath], linear: bool) -> Result<()> {
        // Disk and heads agree by construction when every edit stood on all heads of its path.
        if linear && self.materialised == before {
            self.materialised = self.index.max_row()?;
        }
        let (materialised, floor) = (self.materialised, self.clock.floor());
        self.state.transaction(|state| {
            for base in bases {
                state.set_base(base)?;
            }
            for path in forget {
                state.remove_base(path)?;
            }
            state.clear_recordings()?;
            state.clear_record_waits(bases.iter().map(|base| &base.path))?;
            state.set_meta_i64("materialised", materialised)?;
            state.set_meta_i64("hlc_floor", floor.as_u64() as i64)?;
            Ok::<(), SyncError>(())
        })
    }

    /// Notes which bases the versions will make, so that a kill right after the ledger has them loses no base.
    fn note_recording(&mut self, gathered: &Gathered<'_>) -> Result<()> {
        self.state.quick_transaction(|state| {
            for base in &gathered.bases {
                state.set_recording(base)?;
            }
            for (path, tombstone) in &gathered.deletions {
                state.set_recording_gone(path, tombstone.version.channel, tombstone.id)?;
            }
            Ok::<(), SyncError>(())
        })
    }
}

/// How much of the quiet time is left after a last change, in milliseconds; all of it after one in the future.
fn quiet_left_ms(changed_ns: Option<i64>, now_ms: u64) -> u64 {
    let Some(changed_ns) = changed_ns else { return 0 };
    let since_ms = now_ms.cast_signed().saturating_sub(changed_ns / 1_000_000);
    QUIET_MS.saturating_sub(u64::try_from(since_ms).unwrap_or(0))
}

/// Files that vanished, and where each was seen again.
#[derive(Default)]
struct Moves {
    gone: Vec<Base>,
    /// Places in `gone`.
    by_content: BTreeMap<(ContentHash, ContentKind), Vec<usize>>,
    by_path: BTreeMap<RelPath, usize>,
    /// New path to old, of files whose very inode went along with a folder.
    with_folder: BTreeMap<RelPath, RelPath>,
    /// Old path to new.
    taken: BTreeMap<RelPath, RelPath>,
}

impl Moves {
    /// The base of the file that came along with its folder: what it holds need not be read again.
    fn came_along(&self, slot: &Slot, engine: &Engine) -> Option<&Base> {
        let old = self.by_path.get(self.with_folder.get(&slot.path)?)?;
        Some(&self.gone[*old]).filter(|base| engine.space_of(base.channel) == slot.space)
    }

    /// A vanished file of the same space and content; it counts as moved to the slot's path. Returns the old path.
    fn take(&mut self, slot: &Slot, content: &Content, engine: &Engine) -> Option<Base> {
        if content.size == 0 {
            return None;
        }
        let candidates = self.by_content.get_mut(&(content.hash, content.kind))?;
        let same_inode = self.with_folder.get(&slot.path);
        let fits = |at: &&usize| engine.space_of(self.gone[**at].channel) == slot.space;
        let best = |at: &&usize| (Some(&self.gone[**at].path) != same_inode, **at);
        let base = *candidates.iter().filter(fits).min_by_key(best)?;
        candidates.retain(|at| *at != base);
        let base = self.gone[base].clone();
        self.taken.insert(base.path.clone(), slot.path.clone());
        Some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_of_the_quiet_time_is_waited() {
        let at = |ms: i64| Some(ms * 1_000_000);
        assert_eq!(quiet_left_ms(None, 1_000), 0);
        assert_eq!(quiet_left_ms(at(1_000), 1_000), QUIET_MS);
        assert_eq!(quiet_left_ms(at(970), 1_000), QUIET_MS - 30);
        assert_eq!(quiet_left_ms(at(1_000 - QUIET_MS as i64), 1_000), 0);
        assert_eq!(quiet_left_ms(at(-5), 1_000), 0);
        assert_eq!(quiet_left_ms(at(9_000), 1_000), QUIET_MS);
    }
}
