//! Left: what a stop, or an error, left of a creation, a replace or a removal.
//!
//! Invariant: where a replace without EXCHANGE stopped in its gap, what stood at the path goes back from the stage if nothing stands there
//! by now; all else is only looked at. Whether the new content ever stood at the path is
//! told by names and inodes where they can tell it, else by bytes, and where neither can, it is taken as not: an edit that
//! then stands on the old base is shown beside the other version and loses nothing. Does not close intents.

use std::io::Read;
use std::os::fd::BorrowedFd;

use super::displaced::{Held, hash_displaced, held_at, open_displaced, stands_at};
use super::place::{ASIDE, PlaceError, Spot, Standing};
use super::resolve::Outcome;
use super::{Engine, SyncError};
use crate::model::{Content, ContentKind};
use crate::state::{BaseStat, Displaced, Intent};

/// What stands at an intent's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Now {
    /// Nothing, or its folder is not there.
    Nothing,
    /// The new bytes in a file of the new kind.
    New(BaseStat),
    /// Anything else, also what cannot be read: the next look reads it.
    Other,
}

/// What is left of an intent.
#[derive(Debug)]
pub(super) struct Left {
    /// True if what was to happen at the path happened, whatever stands there by now.
    pub(super) renamed: bool,
    /// What stands there.
    pub(super) now: Now,
    /// What was taken away, under the name that it has in the stage.
    pub(super) taken: Option<Displaced>,
    /// True if a copy of the ledger's bytes is still staged.
    pub(super) is_staged: bool,
}

/// The stage of one intent: a folder, and the name in it.
struct Staged<'a> {
    dir: BorrowedFd<'a>,
    name: String,
    spot: Option<&'a Spot>,
}

impl Staged<'_> {
    /// True if the staged file is the very one at the path: a link was made, and its first name not yet removed.
    fn is_linked(&self, name: &str) -> Result<bool, PlaceError> {
        self.spot.map_or(Ok(false), |spot| spot.holds(self.dir, name))
    }

    /// In the gap of a replace without EXCHANGE: whether the new content has taken the place, and whether what stood there is still aside.
    fn after_gap(&self, aside: &str) -> Result<(bool, bool), PlaceError> {
        if !stands_at(self.dir, &self.name)? || self.is_linked(&self.name)? {
            return Ok((true, true));
        }
        let Some(spot) = self.spot else { return Ok((false, true)) };
        if matches!(spot.standing()?, Standing::Absent) {
            return match spot.create_from(self.dir, aside) {
                // Somebody came first; a link that was made back may be found by the next look.
                Err(PlaceError::Raced) => Ok((false, true)),
                back => back.map(|()| (false, false)),
            };
        }
        if self.is_linked(aside)? {
            rustix::fs::unlinkat(self.dir, aside, rustix::fs::AtFlags::empty())?;
            return Ok((false, false));
        }
        Ok((false, true))
    }
}

impl Engine {
    /// Looks at what an intent left; `spot` is `None` if its folder is not there. What stands in the folder is durable afterwards.
    ///
    /// Errors: it cannot be told now, and nothing was lost by asking.
    pub(super) fn left_of(&self, intent: &Intent, spot: Option<&Spot>) -> Result<Left, PlaceError> {
        let taken = self.displaced_of(intent);
        let Some((dir, name)) = self.displaced_place(&taken, spot) else {
            return Ok(Left { renamed: false, now: Now::Nothing, taken: None, is_staged: false });
        };
        let staged = Staged { dir, name, spot };
        let aside = format!("{}{ASIDE}", staged.name);
        let left = if stands_at(dir, &aside)? {
            let taken = Displaced { id: format!("{}{ASIDE}", intent.id), ..taken };
            self.left_in_gap(intent, &staged, &aside, taken)?
        } else {
            self.left_by_bytes(intent, &staged, taken)?
        };
        // Whoever was stopped may have come no further than memory, and nobody looks again once the intent is closed.
        spot.map_or(Ok(()), Spot::sync)?;
        Ok(left)
    }

    fn left_in_gap(
        &self,
        intent: &Intent,
        staged: &Staged<'_>,
        aside: &str,
        taken: Displaced,
    ) -> Result<Left, PlaceError> {
        let (renamed, is_aside) = staged.after_gap(aside)?;
        let hash = match held_at(staged.dir, aside) {
            Held::Is(hash, _) if Some(hash) == intent.old_hash => Some(hash),
            _ => None,
        };
        Ok(Left {
            renamed,
            now: self.now_at(intent, staged.spot),
            taken: is_aside.then_some(Displaced { hash, ..taken }),
            is_staged: stands_at(staged.dir, &staged.name)?,
        })
    }

    /// What was staged was whole when the intent was committed, so other bytes under its name are what was taken away, unless
    /// they are a part of it, as after a loss of power.
    fn left_by_bytes(&self, intent: &Intent, staged: &Staged<'_>, taken: Displaced) -> Result<Left, PlaceError> {
        let now = self.now_at(intent, staged.spot);
        let is_linked = staged.is_linked(&staged.name)?;
        let (new, old) = (intent.new_hash, intent.old_hash);
        let is_creation = new.is_some() && old.is_none();
        let (renamed, is_taken, hash) = match held_at(staged.dir, &staged.name) {
            // A creation leaves nothing behind; of all else something stays in the stage.
            Held::Gone => (is_creation, false, None),
            // Nothing comes under the staged name: whatever the disk made of it is still the copy.
            _ if is_creation => (is_linked, false, None),
            Held::Unread(_) => (new.is_none() || (new != old && matches!(now, Now::New(_))), true, None),
            // Nothing is staged for a removal.
            Held::Is(hash, _) if new.is_none() || (Some(hash) == old && new != old) => (true, true, Some(hash)),
            Held::Is(hash, _) if is_linked || Some(hash) == new => (is_linked, false, None),
            Held::Is(hash, _) => {
                let is_torn = self.is_torn(intent, staged);
                (!is_torn, !is_torn, Some(hash))
            }
        };
        let hash = hash.filter(|hash| Some(*hash) == old);
        let is_staged = !is_taken && stands_at(staged.dir, &staged.name)?;
        Ok(Left { renamed, now, taken: is_taken.then_some(Displaced { hash, ..taken }), is_staged })
    }

    fn now_at(&self, intent: &Intent, spot: Option<&Spot>) -> Now {
        let Some(spot) = spot else { return Now::Nothing };
        match spot.standing() {
            Ok(Standing::Absent) => Now::Nothing,
            // Only what has the size can have the bytes: a long file is not read for nothing. Of links not every system tells it.
            Ok(Standing::File(kind, stat))
                if kind == intent.new_kind && (kind == ContentKind::Link || stat.size == intent.new_size) =>
            {
                let hash = hash_displaced(spot.folder(), spot.name(), Some(kind)).ok();
                if hash.is_some() && hash == intent.new_hash { Now::New(stat) } else { Now::Other }
            }
            Ok(_) | Err(_) => Now::Other,
        }
    }

    /// True if what is staged has nothing but a part of what was to be staged, and zeros.
    fn is_torn(&self, intent: &Intent, staged: &Staged<'_>) -> bool {
        let Ok(mut file) = open_displaced(staged.dir, &staged.name) else { return false };
        let Ok(Some(outcome)) = self.new_outcome(intent) else { return false };
        let mut pieces = self.pieces(&outcome);
        let mut found = Vec::new();
        while let Ok(Some(piece)) = pieces.next() {
            found.clear();
            if (&mut file).take(piece.len() as u64).read_to_end(&mut found).is_err() {
                return false;
            }
            if found.iter().zip(&piece).any(|(found, wanted)| found != wanted && *found != 0) {
                return false;
            }
            if found.len() < piece.len() {
                return true;
            }
        }
        // What was not compared to its end, or goes on behind it, is somebody's.
        Some(pieces.hash()) == intent.new_hash && file.read(&mut [0]).is_ok_and(|count| count == 0)
    }

    /// What an intent was to write, out of the ledger.
    pub(super) fn new_outcome(&self, intent: &Intent) -> Result<Option<Outcome>, SyncError> {
        let resolution = self.resolution(&self.slot_of(intent.channel, &intent.path))?;
        if resolution.versions == intent.new_versions {
            return Ok(Some(resolution.outcome));
        }
        let content = |hash| Content { hash, size: intent.new_size, kind: intent.new_kind };
        Ok(intent.new_hash.map(|hash| Outcome::Content(content(hash))))
    }
}
