//! The brake: an unusual number of deletions waits for a person.
//!
//! Invariant: it holds back files and rows only; heads, index and view are what the artifacts say. A held path that gets
//! content from elsewhere takes it. Moves are not counted.

use std::collections::BTreeMap;

use super::materialise::Step;
use super::resolve::{Outcome, Resolution};
use super::{Engine, Result};
use crate::index::Stored;
use crate::model::{Reason, RelPath, Space, State as VersionState, VersionId};

/// Fewer deletions than this never wait.
const FEW_DELETIONS: u64 = 25;
/// Above this share of the live files (of the space or a top folder) they wait, in percent.
const SHARE_PERCENT: u64 = 20;

impl Engine {
    /// True if a resolution is a deletion that waits.
    pub(super) fn is_held(&self, resolution: &Resolution) -> Result<bool> {
        match (&resolution.outcome, &resolution.winner) {
            (Outcome::Absent, Some(winner)) => Ok(self.state.is_held(&winner.id)?),
            _ => Ok(false),
        }
    }

    /// Holds removals back if they are too many at once.
    pub(super) fn apply_brake(&mut self, removals: &[Step], dry_run: bool) -> Result<()> {
        if dry_run {
            return Ok(());
        }
        let deletions: Vec<(RelPath, Stored)> = removals
            .iter()
            .filter(|step| step.has_base())
            .filter_map(|step| step.winner().map(|winner| (step.path().clone(), winner.clone())))
            .collect();
        self.hold_if_many(&deletions)
    }

    /// Holds deletions if they pass the bound for the project or for their top folder.
    pub(super) fn hold_if_many(&mut self, deletions: &[(RelPath, Stored)]) -> Result<()> {
        let counted: Vec<&(RelPath, Stored)> = deletions.iter().filter(|(_, stored)| is_counted(stored)).collect();
        if counted.len() as u64 <= FEW_DELETIONS {
            return Ok(());
        }
        let held = self.state.held()?;
        let mut groups: BTreeMap<(String, String), Vec<&(RelPath, Stored)>> = BTreeMap::new();
        for one in &counted {
            let origin = one.1.version.dot.lane.origin.to_string();
            groups.entry((origin.clone(), String::new())).or_default().push(one);
            if let Some((top, _)) = one.0.as_str().split_once('/') {
                groups.entry((origin, top.to_owned())).or_default().push(one);
            }
        }
        let now = self.now_ms() as i64;
        for ((origin, folder), members) in groups {
            let live = self.state.count_bases((!folder.is_empty()).then_some(folder.as_str()))?;
            let before =
                held.iter().filter(|(_, path, by)| *by == origin && path.as_str().starts_with(&folder)).count();
            let count = (members.len() + before) as u64;
            if count <= FEW_DELETIONS.max(live * SHARE_PERCENT / 100) {
                continue;
            }
            for (path, stored) in members {
                if !self.index.is_approved(&stored.id)? {
                    self.state.hold(&stored.id, path, &origin, now)?;
                }
            }
        }
        Ok(())
    }

    /// Every deletion that waits: version, path, origin.
    pub fn held_deletions(&self) -> Result<Vec<(VersionId, RelPath, String)>> {
        Ok(self.state.held()?)
    }

    /// Lets held deletions happen, here from the next run on and everywhere by an event that names them.
    pub fn approve_deletions(&mut self) -> Result<Vec<RelPath>> {
        let held = self.state.held()?;
        let mut by_space: BTreeMap<Space, Vec<VersionId>> = BTreeMap::new();
        for (version, path, _) in &held {
            by_space.entry(self.slot_by_rules(path)?.space).or_default().push(*version);
        }
        for (space, tombstones) in by_space {
            self.publish_approval(&space, &tombstones)?;
        }
        self.release_approved()?;
        Ok(held.into_iter().map(|(_, path, _)| path).collect())
    }

    /// Held deletions that somebody approved meanwhile are due on disk and in the rows.
    pub fn release_approved(&mut self) -> Result<()> {
        let mut approved = Vec::new();
        for (version, path, _) in self.state.held()? {
            if self.index.is_approved(&version)? {
                approved.push((version, path));
            }
        }
        if approved.is_empty() {
            return Ok(());
        }
        let rules = self.policy.rules.clone();
        self.state.transaction(|state| {
            for (version, path) in &approved {
                state.release(version)?;
                state.set_pending(path, "write", "deletion approved", 0)?;
                if let Ok(admitted) = rules.admit(path) {
                    state.set_outbox(admitted.channel(), path, 0, 0, "deletion approved")?;
                }
            }
            Ok::<(), super::SyncError>(())
        })
    }
}

fn is_counted(stored: &Stored) -> bool {
    matches!(stored.version.state, VersionState::Tombstone { reason: Reason::User | Reason::Trash, .. })
}
