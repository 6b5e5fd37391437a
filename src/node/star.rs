//! Stars as a command: a person marks what is to be at hand on every machine of the project.
//!
//! Invariant: what is said is published before the run after it, so every store that the run reaches hears of it.

use super::{Glance, Node, NodeError};
use crate::index::{Slot, Star};
use crate::model::{OriginName, RelPath, State};
use crate::sync::Report;

/// What stands behind a star now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Behind {
    /// Something that `starred/` shows.
    Shown,
    /// It is deleted; the star stays for when it comes back.
    Deleted,
    /// It went to another path, which has no star of its own by that.
    Moved(RelPath),
    /// No version of it is here yet.
    Unknown,
}

impl Node {
    /// Marks a path, or takes the mark away, and runs once so that others hear of it.
    ///
    /// Errors: User if nothing of that kind is recorded.
    pub fn star(
        &mut self,
        path: &RelPath,
        origin: Option<&OriginName>,
        on: bool,
        dry_run: bool,
    ) -> Result<Report, NodeError> {
        let engine = &mut self.engine;
        let change = if on { engine.star(path, origin, dry_run)? } else { engine.unstar(path, origin, dry_run)? };
        let mut report = Report::default();
        self.finish_change(dry_run || !change.changed, &mut report)?;
        report.stars.push(change);
        Ok(report)
    }
}

impl Glance {
    /// The stars that are on, with what stands behind each; none before the first run.
    pub fn stars(&self) -> Result<Vec<(Star, Behind)>, NodeError> {
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let stars = index.stars()?.into_iter().filter(|star| star.is_on);
        stars.map(|star| Ok((star.clone(), self.behind(&star)?))).collect()
    }

    fn behind(&self, star: &Star) -> Result<Behind, NodeError> {
        let is_meant = |slot: &Slot| slot.space == star.space && (star.origin.is_none() || slot.origin == star.origin);
        let mut behind = Behind::Unknown;
        for slot in self.slots_of(&star.path)?.into_iter().filter(is_meant) {
            for head in self.index()?.heads(&slot)? {
                match head.version.state {
                    State::Content(_) => return Ok(Behind::Shown),
                    State::Tombstone { moved_to: Some(to), .. } => behind = Behind::Moved(to),
                    State::Tombstone { moved_to: None, .. } if behind == Behind::Unknown => behind = Behind::Deleted,
                    State::Tombstone { .. } => {}
                }
            }
        }
        Ok(behind)
    }
}
