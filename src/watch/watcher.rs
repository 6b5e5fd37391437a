//! A running watcher: started once its watches are placed, asked for hints, stopped when dropped.
//!
//! Three threads: the library's, which only notes; ours, which places watches and makes hints of notes; and one that asks for a
//! look at what is polled. All of them block while there is nothing to do.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_patterns::{RelPath, Rules};

use super::backend::{MakeBackend, make_notify};
use super::hint::Hint;
use super::mode::Mode;
use super::shared::{Shared, lock};
use super::worker::Worker;
use crate::scan::{Root, ScanError};

/// How to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Do not watch below folders that a `.gitignore` names.
    pub respect_gitignore: bool,
    /// Paths that give hints whatever the rules say: the config, a database beside it.
    pub also: Vec<RelPath>,
    /// How often what cannot be watched is to be looked at.
    pub poll_ms: u64,
}

impl Default for WatchOptions {
    /// Everything the rules admit, polling each 30 seconds where it must be.
    fn default() -> WatchOptions {
        WatchOptions { respect_gitignore: false, also: Vec::new(), poll_ms: 30_000 }
    }
}

/// Why nothing is watched at all.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The root is not what it was.
    #[error("watch the project folder")]
    Root(#[from] ScanError),
    /// The system gives no thread.
    #[error("start the watching thread")]
    Thread(#[source] std::io::Error),
}

/// Watches a root until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Watcher {
    /// Watches; returns once all watches are placed, so that a scan begun then misses nothing.
    ///
    /// `wake` is called, on one of our threads, when hints wait after none did; it must not block.
    /// Errors: only if nothing could be done at all; what cannot be watched is polled, and the mode says so.
    pub fn start(
        root: Arc<Root>,
        rules: Arc<Rules>,
        options: WatchOptions,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Watcher, Mode), WatchError> {
        Watcher::start_with(root, rules, options, Box::new(wake), Box::new(make_notify))
    }

    pub(super) fn start_with(
        root: Arc<Root>,
        rules: Arc<Rules>,
        options: WatchOptions,
        wake: Box<dyn Fn() + Send + Sync>,
        make: MakeBackend,
    ) -> Result<(Watcher, Mode), WatchError> {
        root.check_present()?;
        let shared = Arc::new(Shared::new(root, rules, options, wake));
        let mut worker = Worker::new(Arc::clone(&shared), make);
        worker.rebuild();
        let mode = worker.publish_mode();
        let poller = Arc::clone(&shared);
        let mut watcher = Watcher { shared, threads: Vec::new() };
        watcher.spawn("larder-watch", move || worker.run())?;
        watcher.spawn("larder-poll", move || poller.poll())?;
        Ok((watcher, mode))
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), WatchError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(WatchError::Thread)?);
        Ok(())
    }

    /// Takes the hints that wait; empty if none do.
    pub fn take(&self) -> Vec<Hint> {
        lock(&self.shared.hints).take()
    }

    /// Waits for hints, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) -> Vec<Hint> {
        let hints = lock(&self.shared.hints);
        let waited = self.shared.hints_changed.wait_timeout_while(hints, timeout, |hints| hints.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Returns how the root is watched now.
    pub fn mode(&self) -> Mode {
        lock(&self.shared.mode).clone()
    }

    /// Watches by other rules from now on; a rescan hint follows when the watches are placed.
    pub fn set_rules(&self, rules: Arc<Rules>) {
        *lock(&self.shared.rules) = rules;
        self.shared.tell(|inbox| inbox.renew = true);
    }

    #[cfg(test)]
    pub(super) fn inject(&self, event: notify::Result<notify::Event>) {
        self.shared.hear(event);
    }

    #[cfg(test)]
    pub(super) fn tick(&self) {
        self.shared.tell(|inbox| inbox.tick = true);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.tell(|inbox| inbox.stop = true);
        for thread in self.threads.drain(..) {
            // A panic of that thread has been reported by then.
            let _ = thread.join();
        }
    }
}
