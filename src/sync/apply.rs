//! Apply: the disk is changed for some steps at once, under their intents.
//!
//! Order of a batch: stage every new content and make it durable; commit the intents; rename; make the folders durable;
//! hash what was displaced; commit the new bases and close the intents. What only grew is appended to instead (`in_place`).
//! A stop anywhere leaves states that `settle` finishes. Invariant: nothing on disk is replaced before it is recorded, and what a replace takes away is kept.
//! Does not decide what is done.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use rustix::fs;

use super::content::shape_of;
use super::displaced::hash_displaced;
use super::materialise::Step;
use super::place::{
    BESIDE_PREFIX, PlaceError, Rights, Spot, Standing, link_stays_inside, prune_empty_folders, sync_file_systems,
    write_staged,
};
use super::plan::WAITS;
use super::resolve::Outcome;
use super::{Engine, Report, Result, SyncError, io};
use crate::chunk::is_line_file;
use crate::index::Slot;
use crate::model::{ContentHash, ContentKind, RelPath};
use crate::state::{Base, BaseStat, Displaced, Intent, State, UndoStep};

/// Up to this many staged files are made durable one by one; above, by one `syncfs` of each file system they are on, if that is one that
/// can be synced so.
const FEW_FILES: usize = 4;

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

impl Engine {
    /// Changes the disk for some steps at once.
    pub(super) fn apply(&mut self, steps: Vec<Step>, dry_run: bool, report: &mut Report) -> Result<()> {
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
        if let Err(error) = self.make_staged_durable(&staged) {
            // No intent names them: on a full disk the next run would stage them all beside these.
            staged.iter().for_each(|one| self.drop_staged(one));
            return Err(error);
        }
        if let Err(error) = self.announce(&staged) {
            self.unannounced.extend(staged.into_iter().map(|one| one.intent));
            self.drop_unannounced();
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

    fn announce(&mut self, staged: &[Staged]) -> Result<()> {
        self.state.transaction(|state| staged.iter().try_for_each(|one| Ok(state.add_intent(&one.intent)?)))
    }

    /// Removes what was staged for intents that could not be committed, once nothing can bring those back: a commit that failed at its
    /// sync may stand in the log for whoever opens it next, until another one was written over it. What is left is dropped by the next run.
    pub(super) fn drop_unannounced(&mut self) {
        if self.unannounced.is_empty() || self.state.overwrite_log().is_err() {
            return;
        }
        for intent in std::mem::take(&mut self.unannounced) {
            if intent.new_hash.is_some()
                && let Ok(Some(spot)) = Spot::open(&self.root, &intent.path, false)
            {
                self.unlink_staged(&intent, &spot);
            }
        }
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
        match &slot.origin {
            Some(_) => crate::model::Channel::Archive,
            None if slot.space.is_shared() => crate::model::Channel::Shared,
            None => crate::model::Channel::Private,
        }
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
        let rights = if step.base.is_some() { spot.rights() } else { Rights::USUAL };
        let written = write_staged(dir, &name, kind, rights, || pieces.next());
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
