//! Garbage collection as a command: what every machine knows to be replaced goes, after `retention`.
//!
//! Invariant: it works alone, with the project's lock, and judges by what is known here: the run before brought what others know,
//! the run after tells them what was dropped. So a dry run takes the same decisions.

use std::sync::Arc;

use super::error::NodeError;
use super::open::{Node, OpenOptions};
use super::run::RunOptions;
use crate::env::Env;
use crate::model::OriginName;
use crate::sync::{Collected, Progress};

/// Collects the garbage of a project. With `dry_run` says what would go.
pub fn collect(
    env: &Env,
    options: &OpenOptions,
    dry_run: bool,
    progress: Arc<dyn Progress>,
) -> Result<Collected, NodeError> {
    let mut node = Node::open(env, options, progress)?;
    node.collect(dry_run)
}

impl Node {
    /// As [`collect`], of the open project.
    pub fn collect(&mut self, dry_run: bool) -> Result<Collected, NodeError> {
        let retention_ms = self.settings.retention.value.secs().saturating_mul(1000);
        self.engine.recover()?;
        let collected = self.engine.collect(retention_ms, dry_run)?;
        self.engine.end_run();
        Ok(collected)
    }
}

/// A project that is kept running collects once a day.
const EVERY_MS: u64 = 24 * 3600 * 1000;
/// When that was last, in `state.db`.
const COLLECTED: &str = "collected_ms";

impl Node {
    /// Collects if that was not done for a day. What it did in one sentence; `None` if nothing was due, or nothing to do.
    pub fn collect_if_due(&mut self) -> Result<Option<String>, NodeError> {
        let now = self.env.clock.wall_ms();
        let last = self.engine.note_i64(COLLECTED)?.map(|last| last as u64);
        if last.is_some_and(|last| last <= now && now < last.saturating_add(EVERY_MS))
            || self.engine.stopped().is_some()
        {
            return Ok(None);
        }
        self.engine.set_note_i64(COLLECTED, now as i64)?;
        // The first day only begins to count: who starts a program expects no garbage to be looked for.
        if last.is_none() {
            return Ok(None);
        }
        let done = self.collect(false)?;
        let removed = done.removed.len() + done.stores.iter().map(|store| store.removed.len()).sum::<usize>();
        let did = !done.dropped.is_empty() || removed > 0;
        Ok(did.then(|| format!("let {} replaced contents go and removed {removed} artifacts", done.dropped.len())))
    }
}

/// Says, for every machine, that an origin is gone for good; its name. With `dry_run` only that it is known.
///
/// Errors: no such origin, or this one.
pub fn retire_origin(
    env: &Env,
    options: &OpenOptions,
    name: &str,
    dry_run: bool,
    progress: Arc<dyn Progress>,
) -> Result<OriginName, NodeError> {
    let mut node = Node::open(env, options, progress)?;
    let hint = "`larder origin list` shows every machine that is known here";
    let unknown = || NodeError::user(format!("no machine is called {}", larder_patterns::shown(name)), hint);
    let origin: OriginName = name.parse().map_err(|_| unknown())?;
    if origin == *node.engine.origin() {
        return Err(NodeError::user(format!("{origin} is this machine"), "name one that is gone for good"));
    }
    if !node.engine.knows_origin(&origin)? {
        return Err(unknown());
    }
    if !dry_run {
        node.engine.retire(&origin)?;
        node.run(&RunOptions::default())?;
    }
    Ok(origin)
}
