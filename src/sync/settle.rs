//! Settle: finish what a stop or an error left open, before anything else is looked at.
//!
//! Disk = new: the base is the new one. Disk = old: the intent is dropped and the path is planned afresh. Anything else is
//! an edit, of the new base if the new content had taken its place, else of the old one (`left` tells). Invariant: an intent is closed in
//! the same commit that lists what it took away, and nothing leaves the stage before that. What cannot be looked at stays open,
//! is told, and is tried again by each run.

use super::left::{Left, Now};
use super::place::{PlaceError, Spot};
use super::{Engine, Result, SyncError};
use crate::model::ContentHash;
use crate::state::{Base, BaseStat, Displaced, Intent};

impl Engine {
    /// Closes every open intent and removes staged files nobody speaks of. At every start.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.settle_recordings()?;
        self.settle_intents()?;
        self.sweep_stage()
    }

    /// The same, for what was left open since: by a run that an error ended, or where a file could not be looked at.
    pub(super) fn settle_again(&mut self) -> Result<()> {
        self.drop_unannounced();
        self.settle_intents()?;
        self.look_at_stage_again()
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

    /// Afterwards `unfinished` has the paths of those that are still open.
    fn settle_intents(&mut self) -> Result<()> {
        self.unfinished.clear();
        for intent in self.state.intents()? {
            self.settle_intent(&intent)?;
        }
        Ok(())
    }

    /// Closes one intent, whatever became of what it announced; or leaves it open, and says why.
    pub(super) fn settle_intent(&mut self, intent: &Intent) -> Result<()> {
        if intent.append_from.is_some() {
            return self.settle_append(intent);
        }
        let spot = match Spot::open(&self.root, &intent.path, false) {
            Ok(spot) => spot,
            // The folder is gone; what was taken away before lies in the stage, unless it was staged in that folder.
            Err(PlaceError::InTheWay { .. }) => None,
            Err(PlaceError::OtherDevice) if !intent.beside => None,
            Err(error) => return self.settle_later(intent, &error),
        };
        match self.left_of(intent, spot.as_ref()) {
            Ok(left) => self.close_intent(intent, &left, spot.as_ref()),
            Err(error) => self.settle_later(intent, &error),
        }
    }

    fn close_intent(&mut self, intent: &Intent, left: &Left, spot: Option<&Spot>) -> Result<()> {
        let base = match (left.now, intent.new_hash) {
            (Now::New(stat), Some(new)) => Some(base_after(intent, new, stat)),
            (Now::Other, Some(new)) if left.renamed => Some(base_after(intent, new, BaseStat::default())),
            _ => None,
        };
        // An intent that stayed open for long may have been overtaken by others of its path.
        let is_newest =
            self.state.base(&intent.path)?.map_or_else(Vec::new, |base| base.versions) == intent.old_versions;
        let removed = intent.new_hash.is_none() && left.renamed;
        self.state.transaction(|state| {
            if let Some(base) = base.as_ref().filter(|_| is_newest) {
                state.set_base(base)?;
            }
            if removed && is_newest {
                state.remove_base(&intent.path)?;
            }
            if let Some(taken) = &left.taken {
                state.set_displaced(taken)?;
            }
            state.set_pending(&intent.path, "write", "was interrupted", 0)?;
            state.remove_intent(&intent.id)?;
            Ok::<(), SyncError>(())
        })?;
        self.again.settled(intent.path.clone());
        if left.is_staged
            && let Some((dir, name)) = self.displaced_place(&self.displaced_of(intent), spot)
        {
            // Left behind, it is swept by the next start: nothing names it any more.
            let _ = rustix::fs::unlinkat(dir, name.as_str(), rustix::fs::AtFlags::empty());
        }
        Ok(())
    }

    /// What cannot be looked into may hold anything: the next run looks again, and nothing of it is swept until then.
    fn settle_later(&mut self, intent: &Intent, error: &PlaceError) -> Result<()> {
        self.unfinished.insert(intent.path.clone());
        let why = format!("was interrupted, and cannot be looked into: {error}");
        Ok(self.state.set_pending(&intent.path, "write", &why, self.now_ms() as i64)?)
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
}

fn base_after(intent: &Intent, hash: ContentHash, stat: BaseStat) -> Base {
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
