//! Materialise: what paths resolve to is written to disk, under intents, in batches.
//!
//! Order of a batch: stage every new content and make it durable; commit the intents; rename; make the folders durable;
//! hash what was displaced; commit the new bases and close the intents. What only grew is appended to instead (`in_place`).
//! A stop anywhere leaves states that `settle` finishes. Invariant: nothing on disk is replaced before it is recorded, and what a replace takes away is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::fs;
use rustix::process::{Resource, getrlimit};

use super::content::shape_of;
use super::place::{
    BESIDE_PREFIX, PlaceError, Spot, Standing, link_stays_inside, prune_empty_folders, stat_of, sync_file_systems,
    write_staged,
};
use super::plan::{Action, BaseFacts, Disk, REFUSED, Sight, WAITS, plan};
use super::resolve::{Outcome, Resolution};
use super::{Change, Engine, Report, Result, SyncError, io};
use crate::chunk::is_line_file;
use crate::index::Slot;
use crate::model::{ContentHash, ContentKind, RelPath};
use crate::scan;
use crate::state::{Base, BaseStat, Displaced, Intent, State, UndoStep};

/// Slots looked at per page.
const PAGE_SLOTS: usize = 2_000;
/// Files changed under one set of intents.
const BATCH_FILES: usize = 2_000;
/// Bytes staged for one set of intents.
const BATCH_BYTES: u64 = 256 << 20;
/// Whatever a process may have open, in batches smaller than this every file would wait for the disk alone.
const FEWEST_AT_ONCE: u64 = 16;
/// Up to this many staged files are made durable one by one; above, by one `syncfs` of each file system they are on, if that is one that
/// can be synced so.
const FEW_FILES: usize = 4;

/// How many files are changed at once by a process that may have so many open: half of them are for everything else.
fn files_at_once(may_open: Option<u64>) -> usize {
    let half = may_open.map_or(u64::MAX, |files| files / 2).max(FEWEST_AT_ONCE);
    usize::try_from(half).unwrap_or(BATCH_FILES).min(BATCH_FILES)
}

/// One path to be changed on disk.
pub(super) struct Step {
    pub(super) slot: Slot,
    pub(super) resolution: Resolution,
    pub(super) base: Option<Base>,
    pub(super) remove: bool,
}

impl Step {
    /// Where.
    pub(super) fn path(&self) -> &RelPath {
        &self.slot.path
    }

    /// The head that decided.
    pub(super) fn winner(&self) -> Option<&crate::index::Stored> {
        self.resolution.winner.as_ref()
    }

    /// True if a file of ours stands there.
    pub(super) fn has_base(&self) -> bool {
        self.base.is_some()
    }
}

/// A step whose new content is staged.
struct Staged {
    step: Step,
    spot: Spot,
    intent: Intent,
    /// The inode that will stand at the path.
    stat: BaseStat,
    /// Where hashing can go on when a line file grows.
    resume: Option<Vec<u8>>,
}

/// What was decided of a path whose file stays as it is.
enum Noted {
    Settled,
    /// The base's file already holds what was resolved.
    Adopted,
    /// Gone on both sides.
    Forgotten,
    Waits {
        what: &'static str,
        why: String,
    },
}

/// In `state.db`: by which rules the paths that wait as refused were judged last.
const REFUSED_BY: &str = "refused_by";

impl Engine {
    /// Brings the disk to what the heads say. With `dry_run` only lists it.
    pub fn materialise(&mut self, dry_run: bool, report: &mut Report) -> Result<()> {
        let rules = Some(self.policy.fingerprint.clone());
        let same_rules = self.state.meta_text(REFUSED_BY)? == rules;
        let retry = self.paths_that_wait(same_rules)?;
        self.materialise_slots(&retry, dry_run, report)?;
        if !same_rules && !dry_run {
            self.state.set_meta(REFUSED_BY, rules.as_deref().map(str::as_bytes))?;
        }
        let last = self.index.max_row()?;
        let mut from = self.materialised;
        while from < last {
            let page = self.index.slots_since(from, PAGE_SLOTS)?;
            let Some((next, _)) = page.last() else { break };
            from = *next;
            let slots: Vec<Slot> =
                page.into_iter().map(|(_, slot)| slot).filter(|slot| slot.origin.is_none()).collect();
            self.materialise_slots(&slots, dry_run, report)?;
            if !dry_run {
                self.materialised = from;
            }
            self.progress.at("writing files", from as u64, last as u64);
        }
        if !dry_run && self.state.meta_i64("materialised")? != Some(last) {
            self.materialised = last;
            self.save_marks()?;
        }
        Ok(())
    }

    /// What is tried again: with the same rules not what they refused.
    fn paths_that_wait(&self, same_rules: bool) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        let is_due = |what: &str| WAITS.contains(&what) && !(same_rules && what == REFUSED);
        for pending in self.state.pending()?.into_iter().filter(|pending| is_due(&pending.what)) {
            let Ok(path) = RelPath::parse(&pending.path) else { continue };
            let channel = self.policy.rules.admit(&path).map(|admitted| admitted.channel());
            slots.push(self.slot_of(channel.unwrap_or(crate::model::Channel::Shared), &path));
        }
        Ok(slots)
    }

    fn materialise_slots(&mut self, slots: &[Slot], dry_run: bool, report: &mut Report) -> Result<()> {
        let mut slots: Vec<&Slot> = slots.iter().collect();
        slots.sort();
        slots.dedup();
        let mut removals = Vec::new();
        let mut writes = Vec::new();
        for slot in slots {
            if self.unfinished.contains(&slot.path) {
                report.waiting.push((slot.path.shown(), "a change of it was interrupted".to_owned()));
                continue;
            }
            let base = self.state.base(&slot.path)?.filter(|base| self.space_of(base.channel) == slot.space);
            let resolution = self.resolution(slot)?;
            let same = base.as_ref().is_some_and(|base| base.versions == resolution.versions);
            if same || self.is_purged(&resolution)? {
                self.clear_waits(&slot.path, dry_run)?;
                continue;
            }
            let step = Step { slot: slot.clone(), remove: resolution.outcome == Outcome::Absent, resolution, base };
            if step.remove { removals.push(step) } else { writes.push(step) }
        }
        self.apply_brake(&removals, dry_run)?;
        // Removals come first: a file may have to make room for a folder of its name, or for its twin.
        self.run_steps(removals, dry_run, report)?;
        self.run_steps(writes, dry_run, report)
    }

    fn run_steps(&mut self, steps: Vec<Step>, dry_run: bool, report: &mut Report) -> Result<()> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut notes = Vec::new();
        // Each holds its folder open until all have their names.
        let most = files_at_once(getrlimit(Resource::Nofile).current);
        for step in steps {
            match self.decide(&step)? {
                Action::Nothing => notes.push((step, Noted::Settled)),
                Action::Adopt => notes.push((step, Noted::Adopted)),
                Action::Forget => notes.push((step, Noted::Forgotten)),
                Action::Wait { what, why } => {
                    report.waiting.push((step.slot.path.shown(), why.clone()));
                    notes.push((step, Noted::Waits { what, why }));
                }
                Action::Write | Action::Remove => {
                    report.written.push((step.slot.path.shown(), change_of(&step)));
                    bytes += shape_of(&step.resolution.outcome).map_or(0, |(size, _)| size);
                    batch.push(step);
                }
            }
            if batch.len() >= most || bytes >= BATCH_BYTES {
                self.apply(std::mem::take(&mut batch), dry_run, report)?;
                bytes = 0;
            }
        }
        if !dry_run {
            self.note_all(notes)?;
        }
        self.apply(batch, dry_run, report)
    }

    /// Notes in one commit what was decided of paths whose files stay as they are.
    fn note_all(&mut self, notes: Vec<(Step, Noted)>) -> Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let now = self.now_ms() as i64;
        let waits_stand = self.state.any_pending()?;
        self.state.transaction(|state| {
            for (step, note) in notes {
                let path = &step.slot.path;
                let awaited = match &note {
                    Noted::Waits { what, why } => {
                        state.set_pending(path, what, why, now)?;
                        Some(*what)
                    }
                    Noted::Forgotten => {
                        state.remove_base(path)?;
                        None
                    }
                    Noted::Adopted => {
                        if let Some(base) = step.base {
                            state.set_base(&Base { versions: step.resolution.versions, ..base })?;
                        }
                        None
                    }
                    Noted::Settled => None,
                };
                // What it waited for before is not what it waits for now.
                for what in WAITS.iter().filter(|what| waits_stand && Some(**what) != awaited) {
                    state.clear_pending(path, what)?;
                }
            }
            Ok::<(), SyncError>(())
        })
    }

    fn clear_waits(&self, path: &RelPath, dry_run: bool) -> Result<()> {
        if dry_run || !self.state.any_pending()? {
            return Ok(());
        }
        for what in WAITS {
            self.state.clear_pending(path, what)?;
        }
        Ok(())
    }

    /// Gathers what the planner wants to know of one path.
    fn decide(&self, step: &Step) -> Result<Action> {
        let path = &step.slot.path;
        let refused = self.refusal(&step.slot);
        let spot = Spot::open(&self.root, path, false);
        let standing = match &spot {
            Ok(Some(spot)) => spot.standing().map_err(|source| SyncError::Place { path: path.shown(), source })?,
            Ok(None) => Standing::Absent,
            Err(PlaceError::InTheWay { .. }) => Standing::Folder,
            Err(error) => return Ok(Action::Wait { what: "write", why: error.to_string() }),
        };
        let disk = match (&standing, &step.base) {
            (Standing::Absent, _) => Disk::Absent,
            (Standing::File(kind, stat), Some(base)) if *kind == base.kind && *stat == base.stat => Disk::AsBase,
            (Standing::File(..), _) => Disk::Unrecorded,
            (Standing::Folder | Standing::Special, _) => Disk::InTheWay,
        };
        let creates = disk == Disk::Absent && step.base.is_none() && !step.remove;
        let twins = match &spot {
            Ok(Some(spot)) if creates => spot.twins().unwrap_or_default(),
            _ => Vec::new(),
        };
        let open_for_writing = disk == Disk::AsBase
            && matches!(standing, Standing::File(ContentKind::File { .. }, _))
            && scan::open_for_writing_elsewhere(&self.root, path).unwrap_or(false);
        let facts = step.base.as_ref().map(|base| BaseFacts {
            versions: base.versions.clone(),
            hash: base.hash,
            kind: base.kind,
        });
        Ok(plan(&Sight {
            base: facts.as_ref(),
            disk,
            resolution: &step.resolution,
            refused: refused.as_deref(),
            held: self.is_held(&step.resolution)?,
            twin: twins.first().map(String::as_str),
            open_for_writing,
        }))
    }

    /// Why today's rules keep a path of elsewhere off this disk.
    fn refusal(&self, slot: &Slot) -> Option<String> {
        match self.policy.rules.admit_from_outside(&slot.path) {
            Err(refusal) => Some(refusal.to_string()),
            Ok(admitted) if self.slot_of(admitted.channel(), &slot.path) != *slot => {
                Some(format!("the patterns here say {}, the other machine another channel", admitted.channel()))
            }
            Ok(_) => None,
        }
    }

    /// Changes the disk for some steps at once.
    fn apply(&mut self, steps: Vec<Step>, dry_run: bool, report: &mut Report) -> Result<()> {
        if dry_run || steps.is_empty() {
            return Ok(());
        }
        let steps = self.append_in_place(steps, report)?;
        if steps.is_empty() {
            return Ok(());
        }
        let mut staged = Vec::with_capacity(steps.len());
        for step in steps {
            let path = step.slot.path.clone();
            match self.stage_step(step) {
                Ok(one) => staged.push(one),
                Err(source) => self.wait_for(&path, &source, report)?,
            }
        }
        if let Err(error) = self.announce(&staged) {
            // No intent names them: on a full disk the next run would stage them all beside these.
            staged.iter().for_each(|one| self.drop_staged(one));
            return Err(error);
        }
        let mut done = Vec::with_capacity(staged.len());
        for one in staged {
            match self.rename_in(&one) {
                Ok(()) => done.push(one),
                Err(source) => {
                    // It may have got through a part of it, or all: what stands there tells, as after a stop.
                    self.settle_intent(&one.intent)?;
                    self.wait_for(&one.step.slot.path, &source, report)?;
                }
            }
        }
        self.make_folders_durable(&done)?;
        self.finish_batch(&done, report)
    }

    /// What is staged is durable, then its intents are.
    fn announce(&mut self, staged: &[Staged]) -> Result<()> {
        self.make_staged_durable(staged)?;
        self.state.transaction(|state| staged.iter().try_for_each(|one| Ok(state.add_intent(&one.intent)?)))
    }

    pub(super) fn wait_for(&mut self, path: &RelPath, why: &PlaceError, report: &mut Report) -> Result<()> {
        report.written.retain(|(written, _)| *written != path.shown());
        report.waiting.push((path.shown(), why.to_string()));
        Ok(self.state.set_pending(path, "write", &why.to_string(), self.now_ms() as i64)?)
    }

    fn stage_step(&self, step: Step) -> std::result::Result<Staged, PlaceError> {
        let path = &step.slot.path;
        let spot = Spot::open(&self.root, path, !step.remove)?.ok_or(PlaceError::Raced)?;
        let id = self.env.random_base32(20);
        let beside = fs::fstat(spot.folder())?.st_dev != fs::fstat(self.stage.dir())?.st_dev;
        let mut intent = Intent {
            id,
            path: path.clone(),
            channel: step.base.as_ref().map_or_else(|| self.channel_of(&step.slot), |base| base.channel),
            old_versions: step.base.as_ref().map(|base| base.versions.clone()).unwrap_or_default(),
            old_hash: step.base.as_ref().map(|base| base.hash),
            new_versions: step.resolution.versions.clone(),
            new_hash: None,
            new_size: 0,
            new_kind: ContentKind::File { exec: false },
            beside,
            append_from: None,
        };
        let (mut stat, mut resume) = (BaseStat::default(), None);
        if let Some((size, kind)) = shape_of(&step.resolution.outcome) {
            let (hash, staged_stat, staged_resume) = self.stage_content(&step, &intent, &spot, size, kind)?;
            intent.new_hash = Some(hash);
            intent.new_size = size;
            intent.new_kind = kind;
            (stat, resume) = (staged_stat, staged_resume);
        }
        Ok(Staged { step, spot, intent, stat, resume })
    }

    fn channel_of(&self, slot: &Slot) -> crate::model::Channel {
        if slot.space.is_shared() { crate::model::Channel::Shared } else { crate::model::Channel::Private }
    }

    /// Writes the new content beside or into the staging folder and checks its hash.
    ///
    /// Returns the hash, the facts and, for a line file, where hashing can go on.
    fn stage_content(
        &self,
        step: &Step,
        intent: &Intent,
        spot: &Spot,
        size: u64,
        kind: ContentKind,
    ) -> std::result::Result<(ContentHash, BaseStat, Option<Vec<u8>>), PlaceError> {
        let mut pieces = self.pieces(&step.resolution.outcome);
        if kind == ContentKind::Link {
            let target = self.whole(&step.resolution.outcome).unwrap_or_default();
            if !link_stays_inside(&step.slot.path, &target) {
                return Err(PlaceError::InTheWay { what: "a link that leaves the project" });
            }
        }
        let (dir, name) = self.staged_place(intent, spot);
        let written = write_staged(dir, &name, kind, || pieces.next());
        let hash = pieces.hash();
        let right = match &step.resolution.outcome {
            Outcome::Content(content) => hash == content.hash,
            _ => true,
        };
        match written {
            Ok(stat) if right && (stat.size == size || kind == ContentKind::Link) => {
                let resume = is_line_file(&step.slot.path).then(|| pieces.resume());
                Ok((hash, stat, resume))
            }
            Ok(_) => {
                self.unlink_staged(intent, spot);
                Err(PlaceError::Io(std::io::Error::other(
                    "the ledger's bytes do not have the right hash; run `larder verify`",
                )))
            }
            Err(error) => {
                self.unlink_staged(intent, spot);
                Err(error)
            }
        }
    }

    /// Where an intent's file is staged, and later displaced to.
    fn staged_place<'a>(&'a self, intent: &Intent, spot: &'a Spot) -> (BorrowedFd<'a>, String) {
        if intent.beside {
            (spot.folder(), format!("{BESIDE_PREFIX}{}", intent.id))
        } else {
            (self.stage.dir(), intent.id.clone())
        }
    }

    fn unlink_staged(&self, intent: &Intent, spot: &Spot) {
        let (dir, name) = self.staged_place(intent, spot);
        // What stays behind is an unnamed copy of ledger bytes; the next start sweeps it.
        let _ = fs::unlinkat(dir, name.as_str(), fs::AtFlags::empty());
    }

    fn drop_staged(&self, one: &Staged) {
        if one.intent.new_hash.is_some() {
            self.unlink_staged(&one.intent, &one.spot);
        }
    }

    fn make_staged_durable(&self, staged: &[Staged]) -> Result<()> {
        let contents: Vec<&Staged> =
            staged.iter().filter(|one| one.intent.new_kind != ContentKind::Link && !one.step.remove).collect();
        let places = contents.iter().map(|one| self.staged_place(&one.intent, &one.spot).0);
        if contents.len() > FEW_FILES && sync_file_systems(places).map_err(io("make staged files durable"))?.is_some() {
            return Ok(());
        }
        for one in contents {
            let (dir, name) = self.staged_place(&one.intent, &one.spot);
            let flags = fs::OFlags::RDONLY | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC;
            let file = fs::openat(dir, name.as_str(), flags, fs::Mode::empty());
            let synced = file.and_then(|file| fs::fsync(&file));
            synced.map_err(|errno| io("make a staged file durable")(errno.into()))?;
        }
        Ok(())
    }

    /// The moment of the change. Looks once more right before it.
    fn rename_in(&self, one: &Staged) -> std::result::Result<(), PlaceError> {
        let (dir, name) = self.staged_place(&one.intent, &one.spot);
        let standing = one.spot.standing()?;
        match (&one.step.base, standing) {
            (None, Standing::Absent) if !one.step.remove => one.spot.create_from(dir, &name),
            (Some(base), Standing::File(kind, stat)) if kind == base.kind && stat == base.stat => {
                if one.step.remove {
                    one.spot.remove_to(dir, &name)
                } else {
                    one.spot.exchange_with(dir, &name)
                }
            }
            _ => Err(PlaceError::Raced),
        }
    }

    fn make_folders_durable(&self, done: &[Staged]) -> Result<()> {
        let mut folders: BTreeMap<&str, &Staged> = BTreeMap::new();
        for one in done {
            folders.insert(one.intent.path.parent().unwrap_or(""), one);
        }
        // What was displaced stands in the same folder or, on the same file system, in the staging folder.
        let places = folders.values().map(|one| one.spot.folder());
        if folders.len() > FEW_FILES && sync_file_systems(places).map_err(io("make folders durable"))?.is_some() {
            return Ok(());
        }
        for one in folders.values() {
            one.spot.sync().map_err(|source| SyncError::Place { path: one.intent.path.shown(), source })?;
        }
        Ok(())
    }

    /// Hashes what was displaced, then commits bases and closes the intents.
    fn finish_batch(&mut self, done: &[Staged], report: &mut Report) -> Result<()> {
        let now = self.now_ms() as i64;
        let batch = self.undo_batch_of_this_run()?;
        let mut displaced = Vec::new();
        for one in done.iter().filter(|one| one.step.base.is_some()) {
            let (dir, name) = self.staged_place(&one.intent, &one.spot);
            // What cannot be read is no reason to leave the others open: it is kept, and looked at again.
            let hash = hash_displaced(dir, &name, one.step.base.as_ref().map(|base| base.kind)).ok();
            displaced.push(Displaced {
                id: one.intent.id.clone(),
                path: one.intent.path.clone(),
                channel: one.intent.channel,
                versions: one.intent.old_versions.clone(),
                hash: hash.filter(|hash| Some(*hash) == one.intent.old_hash),
                since_ms: now,
                beside: one.intent.beside,
            });
        }
        let bases = done.iter().map(|one| self.base_after(one)).collect::<Result<Vec<_>>>()?;
        self.state.transaction(|state| {
            for (one, base) in done.iter().zip(&bases) {
                close_step(state, batch, &one.step, &one.intent, base.as_ref())?;
            }
            for one in &displaced {
                state.set_displaced(one)?;
            }
            Ok::<(), SyncError>(())
        })?;
        for one in done.iter().filter(|one| one.step.remove) {
            prune_empty_folders(&self.root, &one.intent.path);
        }
        self.record_slipped_in(&displaced, report)
    }

    /// The base after a step; the rename moved the ctime, so the facts are read again.
    fn base_after(&self, one: &Staged) -> Result<Option<Base>> {
        let Some(hash) = one.intent.new_hash else { return Ok(None) };
        let standing =
            one.spot.standing().map_err(|source| SyncError::Place { path: one.intent.path.shown(), source })?;
        // Somebody may have replaced it in this very moment: then the staged facts make the next look see a change.
        let stat = match standing {
            Standing::File(_, stat)
                if stat.inode == one.stat.inode && stat.size == one.stat.size && stat.mtime_ns == one.stat.mtime_ns =>
            {
                stat
            }
            _ => one.stat,
        };
        Ok(Some(Base {
            path: one.intent.path.clone(),
            channel: one.intent.channel,
            versions: one.intent.new_versions.clone(),
            hash,
            kind: one.intent.new_kind,
            stat,
            resume: one.resume.clone(),
        }))
    }

    /// Bytes that slipped in between the last look and the exchange become a version of the old base.
    pub(crate) fn record_slipped_in(&mut self, displaced: &[Displaced], report: &mut Report) -> Result<()> {
        for one in displaced.iter().filter(|one| one.hash.is_none()) {
            // What cannot be read is told by the sweep at the end of the run; what can by now may be what was expected.
            drop(self.prove_displaced(one, false, report)?);
        }
        Ok(())
    }

    /// The undo list that this run writes to; begun with its first change of a file.
    pub(super) fn undo_batch_of_this_run(&mut self) -> Result<i64> {
        let batch = match self.undo_batch {
            Some(batch) => batch,
            None => self.state.begin_undo()?,
        };
        self.undo_batch = Some(batch);
        Ok(batch)
    }

    /// The staging folder's handle, for the sweep.
    pub(super) fn displaced_place<'a>(
        &'a self,
        one: &Displaced,
        spot: Option<&'a Spot>,
    ) -> Option<(BorrowedFd<'a>, String)> {
        if one.beside {
            spot.map(|spot| (spot.folder(), format!("{BESIDE_PREFIX}{}", one.id)))
        } else {
            Some((self.stage.dir(), one.id.clone()))
        }
    }
}

/// The disk is as the step wanted it: the base says so, the step can be undone, nothing waits any more.
pub(super) fn close_step(state: &State, batch: i64, step: &Step, intent: &Intent, base: Option<&Base>) -> Result<()> {
    match base {
        Some(base) => state.set_base(base)?,
        None => state.remove_base(&intent.path)?,
    }
    let old = step.base.as_ref().map(|base| (base.hash, base.stat.size, base.kind));
    let (path, channel) = (intent.path.clone(), intent.channel);
    state.add_undo(&UndoStep { batch, path, channel, old })?;
    state.remove_intent(&intent.id)?;
    for what in WAITS {
        state.clear_pending(&intent.path, what)?;
    }
    Ok(())
}

fn change_of(step: &Step) -> Change {
    match (step.remove, &step.base) {
        (true, _) => Change::Deleted,
        (false, Some(_)) => Change::Edited,
        (false, None) => Change::Created,
    }
}

/// Hashes a displaced file, or the target of a displaced link.
pub(super) fn hash_displaced(dir: BorrowedFd<'_>, name: &str, kind: Option<ContentKind>) -> Result<ContentHash> {
    if kind == Some(ContentKind::Link) {
        let target =
            fs::readlinkat(dir, name, Vec::new()).map_err(|errno| io("read a displaced link")(errno.into()))?;
        return Ok(ContentHash::of(target.as_bytes()));
    }
    let mut file = open_displaced(dir, name)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(io("read a displaced file"))?;
    Ok(ContentHash(crate::model::Hash::from_bytes(*hasher.finalize().as_bytes())))
}

pub(super) fn open_displaced(dir: BorrowedFd<'_>, name: &str) -> Result<File> {
    let flags = fs::OFlags::RDONLY | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC | fs::OFlags::NONBLOCK;
    let fd = fs::openat(dir, name, flags, fs::Mode::empty());
    let file = fd.map(File::from).map_err(|errno| io("open a displaced file")(errno.into()))?;
    // The facts are read so that a pipe or device under this name is refused before a byte is.
    stat_of(&file).map_err(io("look at a displaced file"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_files_are_changed_at_once_than_half_of_what_may_be_open() {
        let at_once = [None, Some(1 << 20), Some(1024), Some(200), Some(3)].map(files_at_once);

        assert_eq!(at_once, [BATCH_FILES, BATCH_FILES, 512, 100, 16]);
    }
}
