//! What the backend keeps of deleted and replaced rows, taken out of its files after a purge.
//!
//! Invariant: once for each set of purged contents, and again when a file stopped showing one of them; and only when nothing is left to be deleted there. What does not work is told in `status`
//! and tried again; what is not this machine's to do is told once. Knows nothing of how a database does it.

use std::collections::BTreeSet;

use super::garbage::{BACKEND, StoreGarbage};
use super::purge::{STORES, digest};
use super::{Engine, Report, Result};
use crate::model::ContentHash;
use crate::state::Problem;

/// For which set of purged contents the backend was rid of what it keeps of deleted rows; and who tells of it.
const SCRUBBED: &str = "purged in the backend";
/// When that was tried last.
const SCRUB_TRIED: &str = "purged in the backend tried";
/// All of a database may have to be written: what does not work is not tried again at once.
const SCRUB_PAUSE_MS: i64 = 3_600_000;

impl Engine {
    /// Has the backend take what it keeps of deleted and replaced rows out of its files: after all
    /// that was to be deleted is, and after this run's rows.
    pub fn scrub_backend(&mut self, report: &mut Report) -> Result<()> {
        let Some(adapter) = self.adapter.clone().filter(|_| self.index.has_purges()) else { return Ok(()) };
        let contents = self.index.purged_contents()?;
        if contents.is_empty() {
            return Ok(());
        }
        let known = self.state.meta_text(SCRUBBED)?;
        let store = adapter.store_id().unwrap_or_default();
        let all = format!("{} {store}", digest(&contents));
        // A row goes on showing what its file shows: once somebody takes that out, its old bytes are free space like others.
        let shown = if known.as_deref() == Some(&*all) { BTreeSet::new() } else { self.shown_of(&contents)? };
        let done = if shown.is_empty() { all } else { format!("{all} but {}", digest(&shown)) };
        if known.as_deref() == Some(&*done) || self.waits_for_backend()? {
            return Ok(());
        }
        let now = self.now_ms().cast_signed();
        let tried = self.state.meta_i64(SCRUB_TRIED)?;
        if tried.is_some_and(|tried| (tried..tried.saturating_add(SCRUB_PAUSE_MS)).contains(&now)) {
            return Ok(());
        }
        let scrubbed = adapter.scrub();
        let problem = scrubbed.as_ref().err().map(|error| {
            let what =
                format!("free space of its file may hold what was purged; a later `larder sync` tries again ({error})");
            Problem { path: BACKEND.to_owned(), what }
        });
        self.state.set_problems(SCRUBBED, problem.as_slice(), now)?;
        let Ok(left) = scrubbed else { return Ok(self.state.set_meta_i64(SCRUB_TRIED, now)?) };
        self.state.set_meta(SCRUB_TRIED, None)?;
        if left.is_some() {
            let told = StoreGarbage { why: left, ..StoreGarbage::of(BACKEND) };
            report.purge.get_or_insert_default().stores.push(told);
        }
        Ok(self.state.set_meta(SCRUBBED, Some(done.as_bytes()))?)
    }

    /// What was purged and still stands in files here.
    fn shown_of(&self, purged: &BTreeSet<ContentHash>) -> Result<BTreeSet<ContentHash>> {
        let bases = self.state.base_contents()?;
        Ok(purged.iter().filter(|content| bases.contains(content)).copied().collect())
    }

    /// True if rows of the backend are still to be deleted.
    fn waits_for_backend(&self) -> Result<bool> {
        let open = self.state.metas_below(STORES)?;
        Ok(open.iter().any(|(_, text)| String::from_utf8_lossy(text).lines().skip(1).any(|store| store == BACKEND)))
    }
}
