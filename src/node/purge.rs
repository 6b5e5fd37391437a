//! Purge as a command: what a person names goes from this machine and its stores, and the word travels with the run after it.
//!
//! Invariant: what is reported as gone was named before anything was removed; a dry run names the same.

use std::collections::BTreeSet;

use super::{Kind, Node, NodeError};
use crate::model::{RelPath, VersionId};
use crate::sync::{PurgeReport, Report, SyncError};

impl Node {
    /// Lets the contents of a path's versions go, of all or of one, then runs once, so that stores and others hear of it.
    ///
    /// Errors: User if there is nothing to let go.
    pub fn purge(&mut self, path: &RelPath, version: Option<&VersionId>, dry_run: bool) -> Result<Report, NodeError> {
        let planned = self.engine.purge(path, version, dry_run).map_err(nothing_to_purge)?;
        let mut report = Report::default();
        if dry_run {
            report.purge = Some(planned);
            return Ok(report);
        }
        // Before the disk is looked at: nothing recorded meanwhile may need what goes.
        self.engine.let_purged_go(&mut report)?;
        let here = report.purge.take().unwrap_or_default();
        self.finish_change_everywhere(false, &mut report)?;
        let later = report.purge.take().unwrap_or_default();
        report.purge = Some(joined(planned, here, later));
        Ok(report)
    }
}

/// What went, by what was named: of artifacts those that held it, wherever they were removed.
fn joined(planned: PurgeReport, here: PurgeReport, later: PurgeReport) -> PurgeReport {
    let gone: BTreeSet<String> = here.artifacts.into_iter().chain(later.artifacts).collect();
    let named: BTreeSet<&String> = planned.artifacts.iter().collect();
    let mut stores = later.stores;
    for store in &mut stores {
        store.removed.retain(|name| named.contains(name));
    }
    stores.retain(|store| !store.removed.is_empty() || store.why.is_some() || store.waits);
    let elsewhere = planned.elsewhere.iter().filter(|name| !gone.contains(*name)).cloned().collect();
    let artifacts = planned.artifacts.iter().filter(|name| gone.contains(*name)).cloned().collect();
    PurgeReport { artifacts, elsewhere, stores, ..planned }
}

fn nothing_to_purge(error: SyncError) -> NodeError {
    match error {
        SyncError::Refused { path, why } => NodeError {
            kind: Kind::User,
            message: format!("{path}: {why}"),
            hint: Some(format!("`larder log {path}` lists its versions")),
        },
        other => other.into(),
    }
}
