//! What a person asks the engine for: restore, undo, settling conflicts and deletions, and what there is to settle.
//!
//! Invariant: every answer is a new version whose parents are all heads of its path; no history is rewritten.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use super::displaced::open_displaced;
use super::peers::PEER_LINE;
use super::place::Spot;
use super::publish::{Draft, Piece};
use super::resolve::Outcome;
use super::stores::BACKEND_MET;
use super::{Change, Engine, Report, Result, SyncError};
use crate::chunk::{CutKind, split_bytes};
use crate::index::{Slot, Stored};
use crate::model::{Content, ContentHash, Reason, RelPath, State as VersionState, VersionId};

/// Says that a command made the version, not an edit of the file.
const VIA_PERSON: &str = "command";
/// Why one file is left as it is by an undo.
const EDITED_SINCE: &str =
    "was edited here since; it is recorded and left as it is, and `larder restore` brings back what was before";
/// A longer content that is no version cannot be taken back, in bytes.
const MAX_MERGED_BYTES: u64 = 256 << 20;
const GONE_MERGE: &str =
    "what stood here was merged from several versions and is not at hand any more; `larder log` has those versions";
/// Conflicts looked at for a count.
const MAX_CONFLICTS: usize = 100_000;

/// What `status` says of an archive file whose version is there and whose file is not written yet.
const BROUGHT_BACK: &str = "is brought back";

impl Engine {
    /// A new run begins: the undo list is that of this run. A dry one claims no place and gives the project no id.
    pub fn begin_run(&mut self, dry_run: bool) -> Result<()> {
        self.recover()?;
        self.dry_run = dry_run;
        self.undo_batch = None;
        self.ahead = None;
        self.folders.forget();
        if dry_run { Ok(()) } else { self.settle_again() }
    }

    /// What was asked for came to its end: whatever was published is known to the index.
    pub fn end_run(&mut self) {
        self.publishing = false;
    }

    /// After something that was cut off by an error, the ledger may be ahead of the index: it is read again.
    pub fn recover(&mut self) -> Result<()> {
        if self.publishing {
            self.index.end_reading()?;
            self.replay()?;
            self.publishing = false;
        }
        Ok(())
    }

    /// Uses another backend from here on.
    pub fn set_adapter(&mut self, adapter: Option<std::sync::Arc<dyn larder_adapters::FileSyncAdapter>>) {
        self.adapter = adapter;
        self.transport = None;
        self.rest = None;
        self.mirrored = 0;
    }

    /// Uses the same backend, opened anew; whether its marks still hold is found out when it is met.
    pub fn renew_adapter(&mut self, adapter: Option<std::sync::Arc<dyn larder_adapters::FileSyncAdapter>>) {
        self.adapter = adapter;
        self.transport = None;
    }

    /// Notes whose lines `status` shows from here on: how contacts with another backend went says nothing of this one.
    pub fn meet_backend(&self, address: &str) -> Result<()> {
        let known = self.state.meta_text(BACKEND_MET)?;
        if known.as_deref() == Some(address) {
            return Ok(());
        }
        // A release before this one noted lines, and not whose.
        if let Some(known) = known {
            self.state.put_lines_aside(&known, address, |store| !store.starts_with(PEER_LINE))?;
        }
        Ok(self.state.set_meta(BACKEND_MET, Some(address.as_bytes()))?)
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
        self.put_state(slot, stored.version.content(), Vec::new(), dry_run, report)
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
        self.put_state(slot, content, Vec::new(), dry_run, report)
    }

    /// The paths that the last run wrote.
    pub fn undo_paths(&self) -> Result<Vec<RelPath>> {
        Ok(self.state.last_undo()?.into_iter().map(|step| step.path).collect())
    }

    /// Takes back what the last run wrote, but for paths that were edited since.
    pub fn undo(&mut self, edited: &BTreeSet<String>, dry_run: bool, report: &mut Report) -> Result<()> {
        let steps = self.state.last_undo()?;
        let Some(batch) = steps.first().map(|step| step.batch) else {
            return Err(SyncError::Refused {
                path: "undo".to_owned(),
                why: "no run has changed a file here".to_owned(),
            });
        };
        for step in steps {
            if edited.contains(&step.path.shown()) {
                report.problems.push((step.path.shown(), EDITED_SINCE.to_owned()));
                continue;
            }
            let slot = self.slot_of(step.channel, &step.path);
            let content = step.old.map(|(hash, size, kind)| Content { hash, size, kind });
            match self.pieces_of_old(&step.path, content)? {
                Some(pieces) => self.put_state(slot, content, pieces, dry_run, report)?,
                None => report.problems.push((step.path.shown(), GONE_MERGE.to_owned())),
            }
        }
        if !dry_run {
            self.state.remove_undo(batch)?;
        }
        Ok(())
    }

    /// The files of held deletions come back, everywhere; what has been made anew since stays as it is.
    pub fn restore_deletions(&mut self, report: &mut Report) -> Result<()> {
        for (version, path, _) in self.state.held()? {
            if !self.still_deletes(&version)? {
                self.state.release(&version)?;
                continue;
            }
            let Some(tombstone) = self.index.version(&version)? else { continue };
            let mut content = None;
            for parent in &tombstone.version.parents {
                content = self.index.version(parent)?.and_then(|stored| stored.version.content()).or(content);
            }
            let slot = match self.slot_by_rules(&path) {
                Ok(slot) => slot,
                Err(refusal) => {
                    report.problems.push((path.shown(), refusal.to_string()));
                    continue;
                }
            };
            if content.is_some() {
                self.put_state(slot, content, Vec::new(), false, report)?;
            }
            self.state.release(&version)?;
        }
        Ok(())
    }

    /// What the ledger lacks of a content that stood at a path: nothing, unless it was merged from several versions and
    /// never published. Then its bytes are in the file that was taken away, or at the beginning of the one that grew.
    /// `None` if they are nowhere any more.
    fn pieces_of_old(&mut self, path: &RelPath, content: Option<Content>) -> Result<Option<Vec<Piece>>> {
        let Some(content) = content else { return Ok(Some(Vec::new())) };
        if self.ledger_has(&content.hash, content.size)? {
            return Ok(Some(Vec::new()));
        }
        if content.size > MAX_MERGED_BYTES {
            return Ok(None);
        }
        for one in self.state.displaced()?.iter().filter(|one| one.path == *path) {
            let spot = Spot::open(&self.root, path, false).ok().flatten();
            let file = self.displaced_place(one, spot.as_ref()).and_then(|(dir, name)| open_displaced(dir, &name).ok());
            if let Some(pieces) = file.and_then(|file| pieces_from(file, path, &content)) {
                return Ok(Some(pieces));
            }
        }
        self.folders.forget();
        let Ok(Some(Ok(file))) = self.folders.open(&self.root, path) else { return Ok(None) };
        Ok(pieces_from(file, path, &content))
    }

    /// One new version on top of all heads; nothing if the path already is that. An archive file is written to the disk by this
    /// alone: what heads say of one is this disk's own word otherwise.
    fn put_state(
        &mut self,
        slot: Slot,
        content: Option<Content>,
        pieces: Vec<Piece>,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<()> {
        let heads: Vec<Stored> = self.index.heads(&slot)?;
        let is_that = heads.len() == 1 && heads.iter().all(|head| head.version.content() == content);
        if !is_that
            && let Some(content) = content.filter(|_| pieces.is_empty())
            && !self.ledger_has(&content.hash, content.size)?
            && let Some(gone) = self.index.dropped(&content.hash)?
        {
            let why = format!("this content was {}; no machine holds it any more", gone.sentence());
            return Err(SyncError::Refused { path: slot.path.shown(), why });
        }
        if slot.origin.is_some() && !dry_run {
            // Noted first: whoever is stopped between the version and the file goes on with the file.
            self.state.set_pending(&slot.path, "write", BROUGHT_BACK, self.now_ms() as i64)?;
        }
        if is_that {
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
        self.publish_drafts(vec![(draft, pieces)], report)
    }
}

/// The segments of a content, out of a file that begins with it.
fn pieces_from(file: File, path: &RelPath, content: &Content) -> Option<Vec<Piece>> {
    let mut bytes = Vec::new();
    file.take(content.size).read_to_end(&mut bytes).ok()?;
    let is_it = bytes.len() as u64 == content.size && ContentHash::of(&bytes) == content.hash;
    is_it.then(|| Piece::of(&split_bytes(CutKind::of(path), &bytes), &bytes))
}
