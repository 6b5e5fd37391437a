//! Changes a person asks for: restore, undo, settle a conflict, approve or take back deletions.
//!
//! Invariant: each is a new version on top of what is there, so it travels like any edit and can itself be undone.

use super::{Node, NodeError};
use crate::model::{RelPath, VersionId};
use crate::sync::Report;

impl Node {
    /// Makes an earlier version of a path the newest, here and everywhere.
    pub fn restore(&mut self, path: &RelPath, version: &VersionId, dry_run: bool) -> Result<Report, NodeError> {
        let mut report = Report::default();
        self.engine.restore(path, version, dry_run, &mut report)?;
        self.finish_change(dry_run, &mut report)?;
        Ok(report)
    }

    /// Takes back what the last run changed in this folder.
    pub fn undo(&mut self, dry_run: bool) -> Result<Report, NodeError> {
        let mut report = Report::default();
        self.engine.undo(dry_run, &mut report)?;
        self.finish_change(dry_run, &mut report)?;
        Ok(report)
    }

    /// Settles a conflict: `pick` wins, or what is shown now if it is `None`.
    pub fn resolve_conflict(&mut self, path: &RelPath, pick: Option<&VersionId>, dry_run: bool) -> Result<Report, NodeError> {
        let mut report = Report::default();
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

    fn finish_change(&mut self, dry_run: bool, report: &mut Report) -> Result<(), NodeError> {
        if dry_run {
            return Ok(());
        }
        let after = self.run(&Default::default())?;
        report.written.extend(after.written);
        report.recorded.extend(after.recorded);
        report.waiting.extend(after.waiting);
        report.problems.extend(after.problems);
        report.rows_written += after.rows_written;
        report.rows_deleted += after.rows_deleted;
        report.pushed += after.pushed;
        report.pulled += after.pulled;
        report.backend_error = after.backend_error;
        Ok(())
    }
}
