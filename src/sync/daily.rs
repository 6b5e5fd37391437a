//! What a long-lived caller asks the engine between runs.
//!
//! Invariant: nothing here looks at the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_adapters::FileSyncAdapter;

use super::{Change, Engine, Result};
use crate::index::{ContentReader, Reader, Slot};
use crate::model::RelPath;
use crate::scan::Root;
use crate::state::Problem;

/// The index's log is moved into its file above this, in bytes.
const INDEX_LOG_BYTES: u64 = 8 << 20;
/// Slots handed out at once.
const PAGE_SLOTS: usize = 2_000;

impl Engine {
    /// The project's root folder.
    pub fn root(&self) -> Arc<Root> {
        self.root.clone()
    }

    /// The mirror, if it is open.
    pub fn adapter(&self) -> Option<Arc<dyn FileSyncAdapter>> {
        self.adapter.clone()
    }

    /// Moves the index's log into its file once it has grown; the log is never moved on the path of a single edit.
    pub fn rest_index(&self) -> Result<()> {
        if self.index.wal_bytes() > INDEX_LOG_BYTES {
            self.index.rest()?;
        }
        Ok(())
    }

    /// Empties all caches, and gives free memory back to the system.
    pub fn give_memory_back(&self) {
        self.state.shrink();
        self.index.shrink();
        self.contents.shrink();
        if let Some(adapter) = &self.adapter {
            adapter.shrink();
        }
        crate::env::give_memory_back();
    }

    /// Another connection to the index, for another thread.
    pub fn reader(&self) -> Result<Reader> {
        Ok(self.index.reader()?)
    }

    /// The reader of contents.
    pub fn contents(&self) -> Arc<ContentReader> {
        self.contents.clone()
    }

    /// The highest row of the index.
    pub fn max_row(&self) -> Result<i64> {
        Ok(self.index.max_row()?)
    }

    /// Slots touched after a row.
    pub fn slots_since(&self, row: i64) -> Result<Vec<(i64, Slot)>> {
        Ok(self.index.slots_since(row, PAGE_SLOTS)?)
    }

    /// These line files are still growing: the next run records them up to their last complete line.
    pub fn set_growing(&mut self, paths: Vec<RelPath>) {
        self.growing = paths.into_iter().collect::<BTreeSet<_>>();
    }

    /// Milliseconds until something that failed is due again; `None` if nothing is.
    pub fn next_retry_ms(&self) -> Option<u64> {
        // What waits in the outbox is not tried before.
        if let Some(rest_ms) = self.backend_rest_ms() {
            return Some(rest_ms);
        }
        let now = self.now_ms() as i64;
        let due = self.state.next_outbox_ms().ok()??;
        Some(u64::try_from(due.saturating_sub(now)).unwrap_or(0))
    }

    /// Notes for `status` that everything was looked at again, and why.
    pub fn note_rescan(&mut self, why: &str) -> Result<()> {
        let now = self.now_ms() as i64;
        let problem = Problem { path: "(watch)".to_owned(), what: format!("{why}; everything was looked at again") };
        Ok(self.state.set_problems("watch", &[problem], now)?)
    }

    /// Notes for `status` that an edited config is not used, or that all is well again.
    pub fn note_config_error(&mut self, why: Option<&str>) {
        let now = self.now_ms() as i64;
        let problem = why.map(|why| Problem { path: "sync-config.json".to_owned(), what: why.to_owned() });
        let problems: Vec<Problem> = problem.into_iter().collect();
        // A note that cannot be kept was said to the user already.
        let _ = self.state.set_problems("config", &problems, now);
    }
}

impl Change {
    /// One word for people.
    pub fn word(&self) -> &'static str {
        match self {
            Change::Created => "new",
            Change::Edited => "edited",
            Change::Deleted => "deleted",
            Change::Renamed { .. } => "renamed",
            Change::Adopted => "found",
        }
    }
}
