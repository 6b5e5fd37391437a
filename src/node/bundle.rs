//! Export and import: a run whose only partner beside the backend is a file.
//!
//! Invariant: a file gets its name when the bundle is whole; no file that is no bundle of ours is ever replaced unasked.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::run::Partners;
use super::{Node, NodeError, RunOptions, Way};
use crate::model::RelPath;
use crate::sync::{BundleReport, Report};
use crate::transport::{Bundle, BundleWriter};

/// What to write into a bundle, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExportRequest {
    /// The file, absolute.
    pub file: PathBuf,
    /// One's own private files too.
    pub private: bool,
    /// What stands there is replaced.
    pub replace: bool,
    /// Only tell what it would be.
    pub dry_run: bool,
}

/// Which bundle to take in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The file, absolute.
    pub file: PathBuf,
    /// It is this project's, whatever it is marked with.
    pub join: bool,
    /// Only list what would be done to files and rows.
    pub dry_run: bool,
}

impl Node {
    /// Records what changed here, then writes everything that the project holds into one file.
    ///
    /// Errors: User for a file that is there, or would be one of the project's own; the disk's. No file is made then.
    pub fn export(&mut self, request: &ExportRequest) -> Result<Report, NodeError> {
        let shown = larder_patterns::shown(&request.file.to_string_lossy());
        if !request.replace && request.file.symlink_metadata().is_ok() {
            return Err(NodeError::user(
                format!("{shown} is there already"),
                "`--replace` puts the new one in its place",
            ));
        }
        self.refuse_own_file(request, &shown)?;
        let writer = BundleWriter::create(&request.file).map_err(|error| unwritable(&shown, &error))?;
        let options = RunOptions { way: Way::Push, dry_run: request.dry_run, ..RunOptions::default() };
        let partner = Partners::Export { writer: &writer, private: request.private };
        let mut report = self.run_with(&options, &partner)?;
        if request.dry_run {
            // A dry run sends nothing; into what is dropped at once it can.
            self.engine.export(&writer, request.private, &mut report)?;
        }
        let (artifacts, bytes) = writer.size();
        report.bundle = Some(BundleReport { file: shown.clone(), artifacts, bytes, damage: Vec::new() });
        if !request.dry_run {
            writer.finish(&request.file, request.replace).map_err(|error| unwritable(&shown, &error))?;
        }
        Ok(report)
    }

    /// Takes everything that is whole in a bundle, as an exchange with any place does.
    ///
    /// Errors: User for what is no bundle, or another project's.
    pub fn import(&mut self, request: &ImportRequest) -> Result<Report, NodeError> {
        let shown = larder_patterns::shown(&request.file.to_string_lossy());
        let bundle = Bundle::open(&request.file)
            .map_err(|error| NodeError::user(error.to_string(), "name a file that `larder export` wrote"))?;
        let bytes = request.file.metadata().map_or(0, |metadata| metadata.len());
        let options = RunOptions { dry_run: request.dry_run, ..RunOptions::default() };
        let mut report = self.run_with(&options, &Partners::Import { bundle: &bundle, joins: request.join })?;
        let damage = bundle.damage().to_vec();
        report.bundle = Some(BundleReport { file: shown, artifacts: bundle.count(), bytes, damage });
        Ok(report)
    }

    /// A bundle among the project's own files would be recorded, and be in the next one.
    fn refuse_own_file(&self, request: &ExportRequest, shown: &str) -> Result<(), NodeError> {
        let folder = request.file.parent().and_then(|folder| folder.canonicalize().ok());
        let real = folder.zip(request.file.file_name()).map(|(folder, name)| folder.join(name));
        let below = real.as_ref().and_then(|real| real.strip_prefix(&self.settings.root_dir).ok()?.to_str());
        let admitted = below.and_then(|below| RelPath::parse(below).ok()).map(|path| self.settings.rules.admit(&path));
        match admitted {
            Some(Ok(_)) => Err(NodeError::user(
                format!("{shown} would be one of the project's own files"),
                "name a file outside the project",
            )),
            _ => Ok(()),
        }
    }
}

fn unwritable(shown: &str, error: &std::io::Error) -> NodeError {
    NodeError::user(format!("write {shown}: {error}"), "nothing was left there; name another file, or make room")
}
