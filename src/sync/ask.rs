//! What a person asks the engine for: restore, undo, settling conflicts and deletions, and what there is to settle.
//!
//! Invariant: every answer is a new version whose parents are all heads of its path; no history is rewritten.

use super::publish::Draft;
use super::resolve::Outcome;
use super::{Change, Engine, Report, Result, SyncError};
use crate::index::{Slot, Stored};
use crate::model::{Content, Reason, RelPath, State as VersionState, VersionId};

/// Says that a command made the version, not an edit of the file.
const VIA_PERSON: &str = "command";
/// Conflicts looked at for a count.
const MAX_CONFLICTS: usize = 100_000;

impl Engine {
    /// A new run begins: the undo list is that of this run.
    pub fn begin_run(&mut self) {
        self.undo_batch = None;
        self.folders.forget();
    }

    /// Uses another backend from here on.
    pub fn set_adapter(&mut self, adapter: Option<std::sync::Arc<dyn larder_adapters::FileSyncAdapter>>) {
        self.adapter = adapter;
        self.transport = None;
        self.mirrored = 0;
    }

    /// Notes how the last run fared with the backend as a whole: opening it, asking it, writing to it.
    pub fn note_backend(&self, failure: Option<&str>, now_ms: i64) -> Result<()> {
        let way = crate::state::Direction::Push;
        match failure {
            Some(why) => Ok(self.state.note_failure("backend", way, now_ms, why)?),
            None => Ok(self.state.note_success("backend", way, now_ms)?),
        }
    }

    /// The slot of a path by today's rules.
    pub fn slot_by_rules(&self, path: &RelPath) -> Result<Slot> {
        let admitted = self
            .policy
            .rules
            .admit(path)
            .map_err(|refusal| SyncError::Refused { path: path.shown(), why: refusal.to_string() })?;
        Ok(self.slot_of(admitted.channel(), path))
    }

    /// How many paths have edits that could not both be kept in place.
    pub fn conflict_count(&self) -> Result<usize> {
        let mut count = 0;
        for conflict in self.index.conflicts(MAX_CONFLICTS)? {
            count += usize::from(self.resolution(&conflict.slot)?.is_conflict());
        }
        Ok(count)
    }

    /// Publishes an earlier version's state on top of all heads.
    pub fn restore(&mut self, path: &RelPath, version: &VersionId, dry_run: bool, report: &mut Report) -> Result<()> {
        let slot = self.slot_by_rules(path)?;
        let found = self.index.version(version)?.filter(|stored| stored.version.path == *path);
        let Some(stored) = found else {
            return Err(SyncError::Refused { path: path.shown(), why: format!("it has no version {version}") });
        };
        self.put_state(slot, stored.version.content(), dry_run, report)
    }

    /// A conflict is settled by a version that descends from every head.
    pub fn resolve_conflict(
        &mut self,
        path: &RelPath,
        pick: Option<&VersionId>,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<()> {
        let slot = self.slot_by_rules(path)?;
        let resolution = self.resolution(&slot)?;
        if !resolution.is_conflict() {
            return Err(SyncError::Refused { path: path.shown(), why: "it has no conflict".to_owned() });
        }
        let content = match pick {
            Some(id) => match self.index.version(id)?.filter(|stored| stored.version.path == *path) {
                Some(stored) => stored.version.content(),
                None => return Err(SyncError::Refused { path: path.shown(), why: format!("it has no version {id}") }),
            },
            None => match resolution.outcome {
                Outcome::Content(content) => Some(content),
                _ => resolution.winner.and_then(|winner| winner.version.content()),
            },
        };
        self.put_state(slot, content, dry_run, report)
    }

    /// Takes back what the last run wrote.
    pub fn undo(&mut self, dry_run: bool, report: &mut Report) -> Result<()> {
        let steps = self.state.last_undo()?;
        let Some(batch) = steps.first().map(|step| step.batch) else {
            return Err(SyncError::Refused {
                path: "undo".to_owned(),
                why: "no run has changed a file here".to_owned(),
            });
        };
        for step in steps {
            let slot = self.slot_of(step.channel, &step.path);
            let content = step.old.map(|(hash, size, kind)| Content { hash, size, kind });
            self.put_state(slot, content, dry_run, report)?;
        }
        if !dry_run {
            self.state.remove_undo(batch)?;
        }
        Ok(())
    }

    /// The files of held deletions come back, everywhere.
    pub fn restore_deletions(&mut self, report: &mut Report) -> Result<()> {
        for (version, path, _) in self.state.held()? {
            let Some(tombstone) = self.index.version(&version)? else { continue };
            let mut content = None;
            for parent in &tombstone.version.parents {
                content = self.index.version(parent)?.and_then(|stored| stored.version.content()).or(content);
            }
            let slot = self.slot_by_rules(&path)?;
            if content.is_some() {
                self.put_state(slot, content, false, report)?;
            }
            self.state.release(&version)?;
        }
        Ok(())
    }

    /// One new version on top of all heads; nothing if the path already is that.
    fn put_state(&mut self, slot: Slot, content: Option<Content>, dry_run: bool, report: &mut Report) -> Result<()> {
        let heads: Vec<Stored> = self.index.heads(&slot)?;
        let is_that = |head: &Stored| head.version.content() == content;
        if heads.len() == 1 && heads.iter().all(is_that) {
            return Ok(());
        }
        let change = match (content, heads.iter().any(|head| head.version.content().is_some())) {
            (None, _) => Change::Deleted,
            (Some(_), true) => Change::Edited,
            (Some(_), false) => Change::Created,
        };
        report.recorded.push((slot.path.shown(), change));
        if dry_run {
            return Ok(());
        }
        let state = match content {
            Some(content) => VersionState::Content(content),
            None => VersionState::Tombstone { reason: Reason::User, moved_to: None },
        };
        let admitted = self.policy.rules.admit(&slot.path).map(|admitted| admitted.channel());
        let channel = admitted.unwrap_or(crate::model::Channel::Shared);
        let via = Some(VIA_PERSON.to_owned());
        let draft = Draft { slot, channel, parents: heads, state, moved_from: None, via, adopted: false };
        self.publish_drafts(vec![(draft, Vec::new())], report)
    }
}
