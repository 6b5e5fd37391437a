//! Changes a person asks for: restore, undo, settle a conflict, approve or take back deletions.
//!
//! Invariant: each is a new version on top of what is there, so it travels like any edit and can itself be undone.

use serde::{Deserialize, Serialize};

use super::peers::named_peer;
use super::{ExportRequest, ImportRequest, Node, NodeError, Places, RunOptions, Verdict, Way};
use crate::model::{OriginName, RelPath, VersionId};
use crate::sync::{Report, Scope};

/// Up to so many paths are looked at one by one, instead of everything.
const FEW_PATHS: usize = 1_000;

/// What can be asked of an open project, by a command or, over the socket, by a command beside the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum ChangeRequest {
    /// One run.
    Run {
        /// Which way.
        way: Way,
        /// With this place alone, a peer's name or an address; with those of the config if there is none.
        #[serde(default)]
        peer: Option<String>,
        /// Only list it.
        dry_run: bool,
    },
    /// An earlier version becomes the newest.
    Restore {
        /// Of which path.
        path: RelPath,
        /// Which one.
        version: VersionId,
        /// Only list it.
        dry_run: bool,
    },
    /// What the last run changed is taken back.
    Undo {
        /// Only list it.
        dry_run: bool,
    },
    /// A conflict is settled.
    ResolveConflict {
        /// Of which path.
        path: RelPath,
        /// Which version wins; what is shown now if there is none.
        pick: Option<VersionId>,
        /// Only list it.
        dry_run: bool,
    },
    /// Everything goes into one file.
    Export(ExportRequest),
    /// What is in such a file is taken.
    Import(ImportRequest),
    /// An owner may write here from now on, or may not any more.
    JudgeOwner {
        /// Which.
        verdict: Verdict,
        /// By key, name or machine.
        who: String,
        /// Only say whom it means.
        dry_run: bool,
    },
    /// The contents of a path's versions go for good.
    Purge {
        /// Of which path.
        path: RelPath,
        /// Which one; all if there is none.
        version: Option<VersionId>,
        /// Only list it.
        dry_run: bool,
    },
    /// A path gets a star, or loses it.
    Star {
        /// Which path.
        path: RelPath,
        /// Whose archive file alone; all that stands there if there is none.
        origin: Option<OriginName>,
        /// True to give it.
        on: bool,
        /// Only say what would change.
        dry_run: bool,
    },
    /// Held deletions happen.
    ApproveDeletions,
    /// Held deletions are taken back.
    RestoreDeletions,
}

impl ChangeRequest {
    /// The place that was named, if one was.
    pub fn peer(&self) -> Option<&str> {
        match self {
            ChangeRequest::Run { peer, .. } => peer.as_deref(),
            _ => None,
        }
    }

    /// True if nothing is to be changed.
    pub fn is_dry_run(&self) -> bool {
        match self {
            ChangeRequest::Run { dry_run, .. }
            | ChangeRequest::Restore { dry_run, .. }
            | ChangeRequest::Undo { dry_run }
            | ChangeRequest::ResolveConflict { dry_run, .. }
            | ChangeRequest::JudgeOwner { dry_run, .. }
            | ChangeRequest::Purge { dry_run, .. }
            | ChangeRequest::Star { dry_run, .. }
            | ChangeRequest::Export(ExportRequest { dry_run, .. })
            | ChangeRequest::Import(ImportRequest { dry_run, .. }) => *dry_run,
            ChangeRequest::ApproveDeletions | ChangeRequest::RestoreDeletions => false,
        }
    }
}

impl Node {
    /// Does what was asked.
    pub fn change(&mut self, request: &ChangeRequest) -> Result<Report, NodeError> {
        self.engine.recover()?;
        let report = self.changed(request)?;
        self.engine.end_run();
        Ok(report)
    }

    fn changed(&mut self, request: &ChangeRequest) -> Result<Report, NodeError> {
        match request {
            ChangeRequest::Run { way, peer, dry_run } => {
                let named = peer.as_deref().map(|peer| named_peer(&self.settings, peer, *way)).transpose()?;
                let places = named.map_or(Places::OfConfig, Places::Only);
                self.run(&RunOptions { way: *way, dry_run: *dry_run, places, ..RunOptions::default() })
            }
            ChangeRequest::Restore { path, version, dry_run } => self.restore(path, version, *dry_run),
            ChangeRequest::Undo { dry_run } => self.undo(*dry_run),
            ChangeRequest::ResolveConflict { path, pick, dry_run } => {
                self.resolve_conflict(path, pick.as_ref(), *dry_run)
            }
            ChangeRequest::Export(request) => self.export(request),
            ChangeRequest::Import(request) => self.import(request),
            ChangeRequest::JudgeOwner { verdict, who, dry_run } => self.judge_owner(*verdict, who, *dry_run),
            ChangeRequest::Purge { path, version, dry_run } => self.purge(path, version.as_ref(), *dry_run),
            ChangeRequest::Star { path, origin, on, dry_run } => self.star(path, origin.as_ref(), *on, *dry_run),
            ChangeRequest::ApproveDeletions => Ok(self.approve_deletions()?.1),
            ChangeRequest::RestoreDeletions => self.restore_deletions(),
        }
    }

    /// Makes an earlier version of a path the newest, here and everywhere.
    pub fn restore(&mut self, path: &RelPath, version: &VersionId, dry_run: bool) -> Result<Report, NodeError> {
        let mut report = Report::default();
        self.record_first(vec![path.clone()], dry_run, &mut report)?;
        self.engine.restore(path, version, dry_run, &mut report)?;
        self.finish_change(dry_run, &mut report)?;
        Ok(report)
    }

    /// Takes back what the last run changed in this folder, but for what a person changed since and nobody recorded yet.
    pub fn undo(&mut self, dry_run: bool) -> Result<Report, NodeError> {
        let mut report = Report::default();
        let paths = self.engine.undo_paths()?;
        self.record_first(paths, dry_run, &mut report)?;
        let edited = report.recorded.iter().map(|(path, _)| path.clone()).collect();
        self.engine.undo(&edited, dry_run, &mut report)?;
        self.finish_change(dry_run, &mut report)?;
        Ok(report)
    }

    /// Settles a conflict: `pick` wins, or what is shown now if it is `None`.
    pub fn resolve_conflict(
        &mut self,
        path: &RelPath,
        pick: Option<&VersionId>,
        dry_run: bool,
    ) -> Result<Report, NodeError> {
        let mut report = Report::default();
        self.record_first(vec![path.clone()], dry_run, &mut report)?;
        self.engine.resolve_conflict(path, pick, dry_run, &mut report)?;
        self.finish_change(dry_run, &mut report)?;
        Ok(report)
    }

    /// Lets held deletions happen.
    pub fn approve_deletions(&mut self) -> Result<(Vec<RelPath>, Report), NodeError> {
        let approved = self.engine.approve_deletions()?;
        let mut report = Report::default();
        self.finish_change(false, &mut report)?;
        Ok((approved, report))
    }

    /// Takes held deletions back: the files return everywhere.
    pub fn restore_deletions(&mut self) -> Result<Report, NodeError> {
        let mut report = Report::default();
        self.engine.restore_deletions(&mut report)?;
        self.finish_change(false, &mut report)?;
        Ok(report)
    }

    /// What stands at these paths is recorded before anything is put on top of it: an edit that nobody recorded yet would stand beside.
    fn record_first(&mut self, paths: Vec<RelPath>, dry_run: bool, report: &mut Report) -> Result<(), NodeError> {
        self.check_in_place()?;
        self.engine.begin_run(dry_run)?;
        if self.engine.stopped().is_some() || paths.is_empty() {
            return Ok(());
        }
        if !dry_run {
            self.engine.claim_generation()?;
        }
        let scope = if paths.len() > FEW_PATHS { Scope::All } else { Scope::Some { paths, trees: Vec::new() } };
        self.engine.record(&scope, dry_run, report)?;
        self.engine.end_run();
        Ok(())
    }

    /// Brings what was changed here to everybody. What somebody has much to exchange with goes on behind it.
    pub(super) fn finish_change(&mut self, dry_run: bool, report: &mut Report) -> Result<(), NodeError> {
        self.finish_with(&RunOptions { takes_turns: true, ..RunOptions::default() }, dry_run, report)
    }

    /// The same, to its end.
    pub(super) fn finish_change_everywhere(&mut self, dry_run: bool, report: &mut Report) -> Result<(), NodeError> {
        self.finish_with(&RunOptions::default(), dry_run, report)
    }

    fn finish_with(&mut self, options: &RunOptions, dry_run: bool, report: &mut Report) -> Result<(), NodeError> {
        if dry_run {
            return Ok(());
        }
        // What was asked for is published and known to the index; the run need not look for it in the ledger.
        self.engine.end_run();
        let after = self.run(options)?;
        report.written.extend(after.written);
        report.recorded.extend(after.recorded);
        report.waiting.extend(after.waiting);
        report.problems.extend(after.problems);
        report.rows_written += after.rows_written;
        report.rows_deleted += after.rows_deleted;
        report.pushed += after.pushed;
        report.pulled += after.pulled;
        report.backend_error = after.backend_error;
        report.peer_errors = after.peer_errors;
        report.goes_on = after.goes_on;
        report.stopped = after.stopped;
        report.purge = after.purge;
        Ok(())
    }
}
