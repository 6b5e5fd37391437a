//! Settle: finish what a stop left open, before anything else is looked at.
//!
//! Disk = new: the base is the new one. Disk = old: the intent is dropped and the path is planned afresh. Anything else is
//! an edit, of the new base if the rename had happened, else of the old one. Invariant: no displaced file is dropped
//! before its bytes are proven to be in the ledger; one that cannot be read is neither gone nor proven (`displaced`).

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use super::displaced::{Held, held_at, stands_at};
use super::materialise::hash_displaced;
use super::place::{PlaceError, Spot, Standing};
use super::{Engine, Result, SyncError};
use crate::model::{ContentHash, ContentKind};
use crate::state::{Base, BaseStat, Displaced, Intent};

/// What stands at an intent's path now.
enum Now {
    Nothing,
    Holds(ContentHash, ContentKind, BaseStat),
    Other,
}

impl Now {
    fn is(&self, content: Option<ContentHash>) -> bool {
        matches!(self, Now::Holds(hash, _, _) if Some(*hash) == content)
    }
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
        let displaced = self.displaced_of(intent);
        let spot = match Spot::open(&self.root, &intent.path, false) {
            Ok(Some(spot)) => spot,
            // The folder is gone: nothing was renamed, or a person removed it; recording will see.
            Ok(None) | Err(PlaceError::InTheWay { .. }) => return self.settle_without_folder(intent, &displaced),
            // Something is mounted over what was staged there: it is settled when that is gone.
            Err(PlaceError::OtherDevice) if intent.beside => return Ok(()),
            Err(PlaceError::OtherDevice) => return self.settle_without_folder(intent, &displaced),
            Err(error) => return self.settle_later(intent, &error),
        };
        let at = self.displaced_place(&displaced, Some(&spot)).expect("the spot was given");
        if let Err(error) = close_gap(at.0, &at.1, Some(&spot)) {
            return self.settle_later(intent, &error);
        }
        let staged = held_at(at.0, &at.1);
        let now = what_stands(&spot);
        let renamed = was_renamed(intent, &staged, &now);
        // Whoever was killed got through the rename, maybe not to the disk; nobody looks again once the intent is closed.
        if renamed && let Err(error) = spot.sync() {
            return self.settle_later(intent, &error);
        }
        let base = match (&now, intent.new_hash) {
            (Now::Holds(hash, kind, stat), Some(new)) if *hash == new && *kind == intent.new_kind => {
                Some(self.new_base(intent, new, *stat))
            }
            (Now::Holds(..) | Now::Other, Some(new)) if renamed => {
                Some(self.new_base(intent, new, BaseStat::default()))
            }
            _ => None,
        };
        // An intent that stayed open for long may have been overtaken by others of its path.
        let is_newest =
            self.state.base(&intent.path)?.map_or_else(Vec::new, |base| base.versions) == intent.old_versions;
        let removed = intent.new_hash.is_none() && renamed;
        // Nobody knows whose bytes cannot be read: they are looked at until they can be.
        let unread = matches!(staged, Held::Unread(_));
        let keep_displaced = unread || (renamed && intent.old_hash.is_some());
        self.state.transaction(|state| {
            if let Some(base) = base.as_ref().filter(|_| is_newest) {
                state.set_base(base)?;
            }
            if removed && is_newest {
                state.remove_base(&intent.path)?;
            }
            if keep_displaced {
                state.set_displaced(&displaced)?;
            }
            state.set_pending(&intent.path, "write", "was interrupted", 0)?;
            state.remove_intent(&intent.id)?;
            Ok::<(), SyncError>(())
        })?;
        if !keep_displaced && staged.is(intent.new_hash) {
            // A staged copy of ledger bytes that never took its place.
            // Left behind, it is swept by the next start.
            drop(self.unlink_displaced(&displaced)?);
        }
        Ok(())
    }

    /// What cannot be looked into may hold anything: a later start looks again, and nothing of it is swept until then.
    fn settle_later(&mut self, intent: &Intent, error: &PlaceError) -> Result<()> {
        let why = format!("was interrupted, and cannot be looked into: {error}");
        Ok(self.state.set_pending(&intent.path, "write", &why, self.now_ms() as i64)?)
    }

    /// Closes an intent whose folder cannot be looked into. What was taken away before lies in the stage, and may be an edit that nobody
    /// has recorded yet.
    fn settle_without_folder(&mut self, intent: &Intent, displaced: &Displaced) -> Result<()> {
        let mut keep = false;
        if let Some((dir, name)) = self.displaced_place(displaced, None) {
            if let Err(error) = close_gap(dir, &name, None) {
                return self.settle_later(intent, &error);
            }
            keep = match held_at(dir, &name) {
                Held::Gone => false,
                Held::Unread(_) => true,
                Held::Is(hash, _) => Some(hash) != intent.new_hash,
            };
        }
        self.state.transaction(|state| {
            if keep {
                state.set_displaced(displaced)?;
            }
            Ok::<(), SyncError>(state.remove_intent(&intent.id)?)
        })
    }

    pub(super) fn displaced_of(&self, intent: &Intent) -> Displaced {
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

    /// Removes staged files that no intent and no displaced row names, if their bytes are in the ledger.
    fn sweep_stage(&mut self) -> Result<()> {
        let names = self.stage.names().map_err(super::io("list .larder/displaced"))?;
        if names.is_empty() {
            return Ok(());
        }
        let mut listed: BTreeSet<String> = self.state.displaced()?.into_iter().map(|one| one.id).collect();
        listed.extend(self.state.intents()?.into_iter().map(|intent| intent.id));
        let is_listed = |name: &str| listed.contains(name.strip_suffix(".old").unwrap_or(name));
        for name in names.iter().filter(|name| !is_listed(name)) {
            let known = match held_at(self.stage.dir(), name) {
                Held::Gone | Held::Unread(_) => continue,
                Held::Is(hash, size) => self.ledger_has(&hash, size)?,
            };
            // A torn staged copy has no name in the ledger. It was never linked anywhere: its intent was not committed.
            // Only a state that was lost may have forgotten a displaced file; then unknown bytes stay. So do bytes that stood at a
            // path: they were never staged.
            if known || (self.state.meta_text("stage_known")?.is_some() && !name.ends_with(".old")) {
                self.stage.remove(name).map_err(super::io("sweep .larder/displaced"))?;
            }
        }
        Ok(self.state.set_meta("stage_known", Some(b"1"))?)
    }
}

/// Finishes what a stop left in the gap of a replace without EXCHANGE: what was taken away gets the staged name, and what was
/// staged takes the place, where nobody else's file stands there by now.
fn close_gap(dir: BorrowedFd<'_>, name: &str, spot: Option<&Spot>) -> std::result::Result<(), PlaceError> {
    let aside = format!("{name}.old");
    if !stands_at(dir, &aside)? {
        return Ok(());
    }
    if let Some(spot) = spot
        && matches!(spot.standing()?, Standing::Absent)
        && stands_at(dir, name)?
    {
        spot.create_from(dir, name)?;
    }
    // What is still staged is a copy of the ledger's.
    Ok(rustix::fs::renameat(dir, aside.as_str(), dir, name)?)
}

/// What cannot be read is something else: then the base says nothing of it, and the next look reads it.
fn what_stands(spot: &Spot) -> Now {
    match spot.standing() {
        Ok(Standing::Absent) => Now::Nothing,
        Ok(Standing::File(kind, stat)) => {
            let hash = hash_displaced(spot.folder(), spot.name(), Some(kind));
            hash.map_or(Now::Other, |hash| Now::Holds(hash, kind, stat))
        }
        Ok(Standing::Folder | Standing::Special) | Err(_) => Now::Other,
    }
}

/// Whether an intent's rename had happened. What was staged was whole when the intent was committed, so other bytes under its name are
/// what was taken away; unless the old ones still stand at the path: then what was staged is torn, as after a loss of power.
fn was_renamed(intent: &Intent, staged: &Held, now: &Now) -> bool {
    match (intent.new_hash, intent.old_hash, staged) {
        // Nothing is staged for a removal.
        (None, _, held) => !matches!(held, Held::Gone),
        (_, _, Held::Unread(_)) => intent.new_hash != intent.old_hash && now.is(intent.new_hash),
        (Some(_), None, held) => matches!(held, Held::Gone),
        (Some(_), Some(_), Held::Gone) => false,
        (Some(new), Some(old), Held::Is(hash, _)) => *hash != new && (*hash == old || !now.is(Some(old))),
    }
}
