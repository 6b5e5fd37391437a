//! Stars: a person marks a path, or takes the mark away, for every machine of the project.
//!
//! Invariant: what is said names everything known of that star, so that the newest word of a person wins over all he could see; nothing
//! is published that changes nothing. A path of the private space is named in that space alone.

use std::collections::BTreeSet;

use super::{Engine, Result, SyncError};
use crate::index::Star;
use crate::model::{MetaEvent, OriginName, RelPath, Space, StarWord};

/// What became of the star of a path.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct StarChange {
    /// Which path.
    pub path: String,
    /// Whose archive file alone, if not all that stands there is meant.
    pub origin: Option<String>,
    /// True if it has the star now.
    pub on: bool,
    /// False if that was so before.
    pub changed: bool,
}

impl Engine {
    /// Marks a path, or one origin's archive file of it. With `dry_run` only says what would change.
    ///
    /// Errors: Refused if nothing of that kind is recorded, Stopped; the ledger's, the index's.
    pub fn star(&mut self, path: &RelPath, origin: Option<&OriginName>, dry_run: bool) -> Result<StarChange> {
        let known = self.index.stars_of(path)?;
        let mut spaces = BTreeSet::new();
        for slot in self.index.slots_at(path)? {
            let is_meant = origin.is_none_or(|origin| slot.origin.as_ref() == Some(origin));
            if is_meant && self.may_mark(&slot.space) {
                spaces.insert(slot.space);
            }
        }
        if spaces.is_empty() {
            let why = match origin {
                None => "nothing is recorded there; a star marks a file that a version was recorded of".to_owned(),
                Some(origin) => format!("{origin} keeps no archive file there"),
            };
            return Err(SyncError::Refused { path: path.shown(), why });
        }
        // A star of the whole path covers each file that stands there.
        let has = |space: &Space| {
            let covers = |star: &Star| star.origin.is_none() || star.origin.as_ref() == origin;
            known.iter().any(|star| star.is_on && star.space == *space && covers(star))
        };
        spaces.retain(|space| !has(space));
        let changed = !spaces.is_empty();
        for space in spaces {
            let word = StarWord { path: path.clone(), origin: origin.cloned(), is_on: true };
            self.say_star(&space, word, &known, dry_run)?;
        }
        Ok(change(path, origin, true, changed))
    }

    /// Takes the star of a path away, with those of single origins; or one of those alone. With `dry_run` only says so.
    ///
    /// Errors: Refused if one origin's is named and the whole path has one, Stopped; the ledger's, the index's.
    pub fn unstar(&mut self, path: &RelPath, origin: Option<&OriginName>, dry_run: bool) -> Result<StarChange> {
        let known = self.index.stars_of(path)?;
        let is_meant = |star: &&Star| star.is_on && (origin.is_none() || star.origin.as_ref() == origin);
        let meant: Vec<Star> =
            known.iter().filter(is_meant).filter(|star| self.may_mark(&star.space)).cloned().collect();
        if meant.is_empty() && origin.is_some() && known.iter().any(|star| star.is_on && star.origin.is_none()) {
            let why = "the star is the whole path's; without `--origin` it is taken away".to_owned();
            return Err(SyncError::Refused { path: path.shown(), why });
        }
        let changed = !meant.is_empty();
        for star in meant {
            let word = StarWord { path: star.path, origin: star.origin, is_on: false };
            self.say_star(&star.space, word, &known, dry_run)?;
        }
        Ok(change(path, origin, false, changed))
    }

    fn may_mark(&self, space: &Space) -> bool {
        space.is_shared() || *space == self.private_space
    }

    fn say_star(&mut self, space: &Space, word: StarWord, known: &[Star], dry_run: bool) -> Result<()> {
        if dry_run {
            return Ok(());
        }
        if let Some(stop) = self.stopped() {
            return Err(SyncError::Stopped(stop));
        }
        let before = known.iter().find(|star| star.space == *space && star.origin == word.origin);
        let prev = before.map(|star| star.heads.clone()).unwrap_or_default();
        let wall_ms = self.now_ms();
        let hlc = self.clock.tick(wall_ms, before.map(|star| star.hlc));
        self.publish_event(space, MetaEvent::star(&word, hlc, prev))
    }
}

fn change(path: &RelPath, origin: Option<&OriginName>, on: bool, changed: bool) -> StarChange {
    StarChange { path: path.shown(), origin: origin.map(ToString::to_string), on, changed }
}
