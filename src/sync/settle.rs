//! Settle: finish what a stop left open, before anything else is looked at; and sweep displaced files.
//!
//! Disk = new: the base is the new one. Disk = old: the intent is dropped and the path is planned afresh. Anything else is
//! an edit, of the new base if the rename had happened, else of the old one. Invariant: no displaced file is dropped
//! before its bytes are proven to be in the ledger.

use super::materialise::{hash_displaced, open_displaced};
use super::place::{PlaceError, Spot, Standing};
use super::publish::Draft;
use super::{Change, Engine, Report, Result, SyncError};
use crate::chunk::{Chunker, CutKind};
use crate::model::{
    Content, ContentHash, ContentKind, Manifest, SegmentHash, SegmentRef, State as VersionState, VersionId,
};
use crate::state::{Base, BaseStat, Displaced, Intent};

/// Displaced files are kept this long, in milliseconds.
const KEEP_MS: i64 = 24 * 3_600_000;
/// Above this many, proven ones go before their time.
const KEEP_FILES: usize = 20_000;

/// What stands at an intent's path now.
enum Now {
    Nothing,
    Holds(ContentHash, BaseStat),
    Other,
}

impl Engine {
    /// Closes every open intent and removes staged files nobody speaks of.
    pub(super) fn settle(&mut self) -> Result<()> {
        let intents = self.state.intents()?;
        self.settle_recordings()?;
        for intent in &intents {
            self.settle_intent(intent)?;
        }
        self.sweep_stage()
    }

    /// What a killed run recorded counts if the ledger has it, and never happened if not.
    fn settle_recordings(&mut self) -> Result<()> {
        let recordings = self.state.recordings()?;
        if recordings.is_empty() {
            return Ok(());
        }
        let mut settled = Vec::new();
        for (path, versions, base) in recordings {
            let mut known = true;
            for id in &versions {
                known = known && self.index.has_version(id)?;
            }
            if known {
                settled.push((path, base));
            }
        }
        self.state.transaction(|state| {
            for (path, base) in &settled {
                match base {
                    Some(base) => state.set_base(base)?,
                    None => state.remove_base(path)?,
                }
            }
            Ok::<(), SyncError>(state.clear_recordings()?)
        })
    }

    fn settle_intent(&mut self, intent: &Intent) -> Result<()> {
        if intent.append_from.is_some() {
            return self.settle_append(intent);
        }
        let place = |source| SyncError::Place { path: intent.path.shown(), source };
        let displaced = self.displaced_of(intent);
        let spot = match Spot::open(&self.root, &intent.path, false) {
            Ok(Some(spot)) => spot,
            // Something is mounted over what was staged there: it is settled when that is gone.
            Err(PlaceError::OtherDevice) if intent.beside => return Ok(()),
            // The folder is gone: nothing was renamed, or a person removed it; recording will see.
            _ => return self.settle_without_folder(intent, &displaced),
        };
        let at = self.displaced_place(&displaced, Some(&spot)).expect("the spot was given");
        let aside = format!("{}.old", at.1);
        if matches!(spot.standing().map_err(place)?, Standing::Absent) && exists(at.0, &aside) {
            // Stopped in the gap of a replace without EXCHANGE: finish it.
            spot.create_from(at.0, &at.1).map_err(place)?;
            rustix::fs::renameat(at.0, aside.as_str(), at.0, at.1.as_str()).map_err(|errno| place(errno.into()))?;
        }
        let staged = hash_if_there(at.0, &at.1).map(|(hash, _)| hash);
        let now = self.what_stands(&spot)?;
        let renamed = match (&intent.new_hash, &intent.old_hash) {
            (None, _) => staged.is_some(),
            (Some(_), None) => staged.is_none(),
            (Some(_), Some(old)) => staged == Some(*old) && staged != intent.new_hash,
        };
        if renamed {
            // Whoever was killed got through the rename, maybe not to the disk; nobody looks again once the intent is closed.
            spot.sync().map_err(place)?;
        }
        let base = match (&now, intent.new_hash) {
            (Now::Holds(hash, stat), Some(new)) if *hash == new => Some(self.new_base(intent, new, *stat)),
            (Now::Holds(..) | Now::Other, Some(new)) if renamed => {
                Some(self.new_base(intent, new, BaseStat::default()))
            }
            _ => None,
        };
        let removed = intent.new_hash.is_none() && renamed;
        let keep_displaced = renamed && intent.old_hash.is_some();
        self.state.transaction(|state| {
            if let Some(base) = &base {
                state.set_base(base)?;
            }
            if removed {
                state.remove_base(&intent.path)?;
            }
            if keep_displaced {
                state.set_displaced(&displaced)?;
            }
            state.set_pending(&intent.path, "write", "was interrupted", 0)?;
            state.remove_intent(&intent.id)?;
            Ok::<(), SyncError>(())
        })?;
        if !keep_displaced && staged.is_some() && staged == intent.new_hash {
            // A staged copy of ledger bytes that never took its place.
            self.unlink_displaced(&displaced, Some(&spot))?;
        }
        Ok(())
    }

    /// Closes an intent whose folder cannot be looked into. What was taken away before lies in the stage, and may be an edit that nobody
    /// has recorded yet.
    fn settle_without_folder(&mut self, intent: &Intent, displaced: &Displaced) -> Result<()> {
        let mut keep = false;
        if let Some((dir, name)) = self.displaced_place(displaced, None) {
            let aside = format!("{name}.old");
            if exists(dir, &aside) {
                let place = |source| SyncError::Place { path: intent.path.shown(), source };
                // Stopped in the gap of a replace without EXCHANGE: what was staged is the ledger's.
                rustix::fs::renameat(dir, aside.as_str(), dir, name.as_str()).map_err(|errno| place(errno.into()))?;
            }
            keep = hash_if_there(dir, &name).is_some_and(|(hash, _)| Some(hash) != intent.new_hash);
        }
        self.state.transaction(|state| {
            if keep {
                state.set_displaced(displaced)?;
            }
            Ok::<(), SyncError>(state.remove_intent(&intent.id)?)
        })
    }

    fn displaced_of(&self, intent: &Intent) -> Displaced {
        Displaced {
            id: intent.id.clone(),
            path: intent.path.clone(),
            channel: intent.channel,
            versions: intent.old_versions.clone(),
            hash: None,
            since_ms: self.now_ms() as i64,
            beside: intent.beside,
        }
    }

    fn new_base(&self, intent: &Intent, hash: ContentHash, stat: BaseStat) -> Base {
        Base {
            path: intent.path.clone(),
            channel: intent.channel,
            versions: intent.new_versions.clone(),
            hash,
            kind: intent.new_kind,
            stat,
            resume: None,
        }
    }

    fn what_stands(&self, spot: &Spot) -> Result<Now> {
        let standing = spot.standing().map_err(|source| SyncError::Place { path: spot.name().to_owned(), source })?;
        match standing {
            Standing::Absent => Ok(Now::Nothing),
            Standing::File(kind, stat) => {
                let hash = hash_displaced(spot.folder(), spot.name(), Some(kind));
                Ok(hash.map_or(Now::Other, |hash| Now::Holds(hash, stat)))
            }
            Standing::Folder | Standing::Special => Ok(Now::Other),
        }
    }

    /// Removes staged files that no intent and no displaced row names, if their bytes are in the ledger.
    fn sweep_stage(&mut self) -> Result<()> {
        let names = self.stage.names().map_err(super::io("list .larder/displaced"))?;
        if names.is_empty() {
            return Ok(());
        }
        let listed: std::collections::BTreeSet<String> =
            self.state.displaced()?.into_iter().map(|one| one.id).collect();
        for name in names.iter().filter(|name| !listed.contains(*name)) {
            let hash = hash_if_there(self.stage.dir(), name);
            let known = match hash {
                Some((hash, size)) => self.ledger_has(&hash, size)?,
                None => false,
            };
            // A torn staged copy has no name in the ledger. It was never linked anywhere: its intent was not committed.
            // Only a state that was lost may have forgotten a displaced file; then unknown bytes stay.
            if known || self.state.meta_text("stage_known")?.is_some() {
                self.stage.remove(name).map_err(super::io("sweep .larder/displaced"))?;
            }
        }
        Ok(self.state.set_meta("stage_known", Some(b"1"))?)
    }

    /// True if every byte of a content is in the ledger.
    pub(super) fn ledger_has(&self, hash: &ContentHash, size: u64) -> Result<bool> {
        if size == 0 || self.index.has_segment(&SegmentHash(hash.0))? {
            return Ok(true);
        }
        Ok(self.index.knows_content(hash)?)
    }

    /// True if one of these versions has exactly this content, be it that its bytes were let go since.
    fn is_of(&self, hash: &ContentHash, versions: &[VersionId]) -> Result<bool> {
        for id in versions {
            let content = self.index.version(id)?.and_then(|stored| stored.version.content());
            if content.is_some_and(|content| content.hash == *hash) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a displaced file holds now; `None` if it is gone.
    pub(super) fn displaced_hash(&self, one: &Displaced) -> Option<ContentHash> {
        let spot = Spot::open(&self.root, &one.path, false).ok().flatten();
        let (dir, name) = self.displaced_place(one, spot.as_ref())?;
        hash_if_there(dir, &name).map(|(hash, _)| hash)
    }

    /// Drops displaced files that are old enough and proven; records those that are not. Called once a run.
    pub fn sweep_displaced(&mut self, report: &mut Report) -> Result<()> {
        let now = self.now_ms() as i64;
        let displaced = self.state.displaced()?;
        let surplus = displaced.len().saturating_sub(KEEP_FILES);
        for (i, one) in displaced.iter().enumerate() {
            if now.saturating_sub(one.since_ms) < KEEP_MS && i >= surplus && one.hash.is_some() {
                continue;
            }
            let spot = Spot::open(&self.root, &one.path, false);
            if one.beside && matches!(spot, Err(PlaceError::OtherDevice)) {
                // It lies below what is mounted there now.
                continue;
            }
            let spot = spot.ok().flatten();
            let hash = self.displaced_place(one, spot.as_ref()).and_then(|(dir, name)| hash_if_there(dir, &name));
            match hash {
                None => self.state.remove_displaced(&one.id)?,
                Some((hash, size)) if self.ledger_has(&hash, size)? || self.is_of(&hash, &one.versions)? => {
                    if now.saturating_sub(one.since_ms) >= KEEP_MS || i < surplus {
                        self.unlink_displaced(one, spot.as_ref())?;
                    } else {
                        self.state.set_displaced(&Displaced { hash: Some(hash), ..one.clone() })?;
                    }
                }
                Some(_) => self.record_displaced(one, report)?,
            }
        }
        Ok(())
    }

    pub(super) fn unlink_displaced(&mut self, one: &Displaced, spot: Option<&Spot>) -> Result<()> {
        if let Some((dir, name)) = self.displaced_place(one, spot) {
            // A file that cannot be unlinked stays listed by name in the folder and is tried again.
            let _ = rustix::fs::unlinkat(dir, name.as_str(), rustix::fs::AtFlags::empty());
        }
        Ok(self.state.remove_displaced(&one.id)?)
    }

    /// Bytes that are no recorded version become one, with the old base as parent.
    pub(super) fn record_displaced(&mut self, one: &Displaced, report: &mut Report) -> Result<()> {
        let spot = Spot::open(&self.root, &one.path, false).ok().flatten();
        let slot = self.slot_of(one.channel, &one.path);
        let pen = self.pen();
        let mut open = self.open_batch(&pen, &slot.space)?;
        let Some((dir, name)) = self.displaced_place(one, spot.as_ref()) else { return Ok(()) };
        let Ok(file) = open_displaced(dir, &name) else { return Ok(()) };
        let exec = file.metadata().is_ok_and(|meta| std::os::unix::fs::MetadataExt::mode(&meta) & 0o100 != 0);
        let sink = |segment: SegmentRef, bytes: &[u8]| self.add_segment(&mut open, segment.0, bytes);
        let manifest: Manifest = Chunker::new().split(file, CutKind::of(&one.path), sink)?.manifest;
        let mut parents = Vec::new();
        for id in &one.versions {
            parents.extend(self.index.version(id)?);
        }
        self.add_manifest(&mut open, &manifest, &parents)?;
        let kind = ContentKind::File { exec };
        let content = Content { hash: manifest.content, size: manifest.size, kind };
        let state = VersionState::Content(content);
        let channel = one.channel;
        let draft = Draft { slot: slot.clone(), channel, parents, state, moved_from: None, via: None, adopted: false };
        let version = self.version_of(draft)?;
        open.batch.version(version)?;
        open.versions += 1;
        self.close_batch(&slot.space, open, report)?;
        report.recorded.push((one.path.shown(), Change::Edited));
        Ok(self.state.set_displaced(&Displaced { hash: Some(content.hash), ..one.clone() })?)
    }
}

fn exists(dir: std::os::fd::BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn hash_if_there(dir: std::os::fd::BorrowedFd<'_>, name: &str) -> Option<(ContentHash, u64)> {
    let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_link = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink;
    let kind = if is_link { ContentKind::Link } else { ContentKind::File { exec: false } };
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    hash_displaced(dir, name, Some(kind)).ok().map(|hash| (hash, size))
}
