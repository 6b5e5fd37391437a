//! The threads behind the hints: the library's, which only notes; ours, which places watches and makes hints of notes; and one
//! that asks for a look at what is polled. All of them block while there is nothing to do.
//!
//! Invariant: a hint is given after the watches it calls for are placed, so a look that follows it misses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_patterns::{RelPath, Rules};

use super::backend::{Backend, Handler, MakeBackend, make_notify};
use super::event::{Marks, Signal, signals};
use super::hint::{Hint, HintSet, MAX_HINTS, RescanReason};
use super::mode::{Mode, PollReason, network_file_system};
use super::tree::{Interest, Tree};
use crate::scan::{Node, Root, ScanError, node};

const GITIGNORE: &str = ".gitignore";

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
        WatchOptions {
            respect_gitignore: false,
            also: Vec::new(),
            poll_ms: 30_000,
        }
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
        let mut watcher = Watcher {
            shared,
            threads: Vec::new(),
        };
        watcher.spawn("larder-watch", move || worker.run())?;
        watcher.spawn("larder-poll", move || poller.poll())?;
        Ok((watcher, mode))
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), WatchError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body);
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
        let waited = self
            .shared
            .hints_changed
            .wait_timeout_while(hints, timeout, |hints| hints.is_empty());
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

/// What waits for our thread.
#[derive(Default)]
struct Inbox {
    notes: BTreeMap<RelPath, Marks>,
    overflow: bool,
    root_gone: bool,
    renew: bool,
    tick: bool,
    rescan: Option<RescanReason>,
    stop: bool,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        let told = self.overflow || self.root_gone || self.renew || self.tick || self.stop;
        !told && self.rescan.is_none() && self.notes.is_empty()
    }
}

struct Shared {
    root: Arc<Root>,
    rules: Mutex<Arc<Rules>>,
    options: WatchOptions,
    also: BTreeSet<RelPath>,
    also_folders: BTreeSet<RelPath>,
    inbox: Mutex<Inbox>,
    inbox_changed: Condvar,
    polling: Mutex<Polling>,
    polling_changed: Condvar,
    hints: Mutex<HintSet>,
    hints_changed: Condvar,
    mode: Mutex<Mode>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Polling {
    wanted: bool,
    stop: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(
        root: Arc<Root>,
        rules: Arc<Rules>,
        options: WatchOptions,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Shared {
        let mode = Mode {
            poll_ms: options.poll_ms,
            ..Mode::default()
        };
        Shared {
            root,
            rules: Mutex::new(rules),
            also: options.also.iter().cloned().collect(),
            also_folders: options.also.iter().flat_map(RelPath::ancestors).collect(),
            options,
            inbox: Mutex::default(),
            inbox_changed: Condvar::new(),
            polling: Mutex::default(),
            polling_changed: Condvar::new(),
            hints: Mutex::default(),
            hints_changed: Condvar::new(),
            mode: Mutex::new(mode),
            wake,
        }
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&lock(&self.rules))
    }

    fn tell(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        change(&mut inbox);
        if inbox.stop {
            lock(&self.polling).stop = true;
            self.polling_changed.notify_all();
        }
        if !inbox.is_empty() {
            self.inbox_changed.notify_all();
        }
    }

    /// Notes an event; runs on the library's thread, which must get back to emptying the kernel's queue.
    fn hear(&self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let error = error.to_string();
                return self.tell(|inbox| inbox.rescan = Some(RescanReason::Failed { error }));
            }
        };
        for signal in signals(self.root.path(), &event) {
            match signal {
                Signal::Overflow => self.tell(|inbox| inbox.overflow = true),
                Signal::RootGone => self.tell(|inbox| inbox.root_gone = true),
                Signal::Note(path, marks) => self.note(path, marks),
            }
        }
    }

    fn note(&self, path: RelPath, marks: Marks) {
        if self.options.respect_gitignore && path.file_name() == GITIGNORE {
            return self.tell(|inbox| {
                inbox.renew = true;
                inbox.rescan.get_or_insert(RescanReason::GitignoreChanged);
            });
        }
        let rules = self.rules();
        let came_or_went = marks.appeared || marks.vanished;
        let concerns = self.is_admitted(&rules, &path)
            || self.also_folders.contains(&path)
            || (came_or_went && rules.may_contain(&path))
            || lock(&self.mode).unreadable.contains(&path);
        if !concerns {
            return;
        }
        self.tell(|inbox| {
            inbox.notes.entry(path).or_default().join(marks);
            if inbox.notes.len() > MAX_HINTS {
                // Folders may be among what is dropped here: place all watches afresh.
                inbox.notes.clear();
                inbox.overflow = true;
            }
        });
    }

    fn is_admitted(&self, rules: &Rules, path: &RelPath) -> bool {
        self.also.contains(path) || rules.admit(path).is_ok()
    }

    fn hint(&self, new: impl IntoIterator<Item = Hint>) {
        let mut hints = lock(&self.hints);
        let was_empty = hints.is_empty();
        new.into_iter().for_each(|hint| hints.add(hint));
        let wakes = was_empty && !hints.is_empty();
        drop(hints);
        if wakes {
            self.hints_changed.notify_all();
            (self.wake)();
        }
    }

    /// Asks for looks at what is polled, until told to stop.
    fn poll(&self) {
        let pause = Duration::from_millis(self.options.poll_ms.max(1));
        let mut polling = lock(&self.polling);
        while !polling.stop {
            if !polling.wanted {
                polling = self
                    .polling_changed
                    .wait(polling)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self
                .polling_changed
                .wait_timeout_while(polling, pause, |polling| polling.wanted && !polling.stop);
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            polling = after;
            if timeout.timed_out() && !polling.stop {
                drop(polling);
                self.tell(|inbox| inbox.tick = true);
                polling = lock(&self.polling);
            }
        }
    }

    fn next_batch(&self) -> Inbox {
        let mut inbox = self
            .inbox_changed
            .wait_while(lock(&self.inbox), |inbox| inbox.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let stop = inbox.stop;
        let batch = std::mem::take(&mut *inbox);
        inbox.stop = stop;
        batch
    }
}

/// Places watches and makes hints.
struct Worker {
    shared: Arc<Shared>,
    make: MakeBackend,
    backend: Option<Box<dyn Backend>>,
    tree: Tree,
    overflows: u64,
}

impl Worker {
    fn new(shared: Arc<Shared>, make: MakeBackend) -> Worker {
        Worker {
            shared,
            make,
            backend: None,
            tree: Tree::default(),
            overflows: 0,
        }
    }

    fn run(mut self) {
        loop {
            let batch = self.shared.next_batch();
            if batch.stop {
                return;
            }
            let hints = self.handle(batch);
            self.publish_mode();
            self.shared.hint(hints);
        }
    }

    fn handle(&mut self, batch: Inbox) -> Vec<Hint> {
        let mut hints = Vec::new();
        if batch.root_gone || self.shared.root.check_present().is_err() {
            hints.push(Hint::RootGone);
        }
        let rescan = |reason| Hint::Rescan { reason };
        if batch.overflow {
            self.overflows += 1;
            self.rebuild();
            hints.push(rescan(RescanReason::Overflow));
        } else if batch.renew {
            self.renew();
            hints.extend(
                batch
                    .rescan
                    .is_none()
                    .then_some(rescan(RescanReason::RulesChanged)),
            );
        }
        hints.extend(batch.rescan.map(rescan));
        if batch.tick {
            self.look_at_polled(&mut hints);
        }
        let rules = self.shared.rules();
        for (path, marks) in batch.notes {
            hints.extend(self.handle_note(&rules, path, marks));
        }
        hints
    }

    fn handle_note(&mut self, rules: &Rules, path: RelPath, marks: Marks) -> Option<Hint> {
        let was_known = marks.vanished && self.tree.forget(&path);
        let may_be_new = marks.appeared || self.tree.is_unreadable(&path);
        if may_be_new && self.is_folder_of_interest(rules, &path) {
            self.watch_tree(path.clone());
            return Some(Hint::DirtyTree(path));
        }
        if was_known {
            return Some(Hint::DirtyTree(path));
        }
        if self.shared.is_admitted(rules, &path) {
            return Some(Hint::Dirty(path));
        }
        // A folder that went before it was watched.
        (marks.vanished && rules.may_contain(&path)).then_some(Hint::DirtyTree(path))
    }

    fn is_folder_of_interest(&self, rules: &Rules, path: &RelPath) -> bool {
        let is_of_interest = self.shared.also_folders.contains(path) || rules.may_contain(path);
        is_of_interest && matches!(node(&self.shared.root, path), Ok(Some(Node::Folder)))
    }

    fn watch_tree(&mut self, top: RelPath) {
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        if let Some(backend) = &mut self.backend {
            self.tree
                .add(backend.as_mut(), &interest(&shared, &rules), Some(top));
        }
    }

    fn renew(&mut self) {
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        match &mut self.backend {
            Some(backend) => self
                .tree
                .renew(backend.as_mut(), &interest(&shared, &rules)),
            None => self.rebuild(),
        }
        self.poll_network_root();
    }

    /// Begins with a fresh set of watches.
    ///
    /// After an overflow nothing is known of the old ones: the library may believe in a watch whose folder was removed and
    /// made again, and would not place it anew.
    fn rebuild(&mut self) {
        self.backend = None;
        self.tree = Tree::default();
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        let heard_by = Arc::clone(&self.shared);
        let handler: Handler = Box::new(move |event| heard_by.hear(event));
        match (self.make)(handler) {
            Ok(mut backend) => {
                self.tree
                    .add(backend.as_mut(), &interest(&shared, &rules), None);
                self.backend = Some(backend);
            }
            Err(reason) => self.tree.poll(None, reason),
        }
        self.poll_network_root();
    }

    fn poll_network_root(&mut self) {
        let found = rustix::fs::fstatfs(self.shared.root.handle());
        if let Some(name) = found
            .ok()
            .and_then(|found| network_file_system(found.f_type))
        {
            self.tree.poll(None, PollReason::NetworkFileSystem { name });
        }
    }

    fn look_at_polled(&mut self, hints: &mut Vec<Hint>) {
        if !self.tree.is_polling() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        let trees: Option<Vec<RelPath>> = match &mut self.backend {
            Some(backend) => self
                .tree
                .retry(backend.as_mut(), &interest(&shared, &rules)),
            None => {
                self.rebuild();
                None
            }
        };
        self.poll_network_root();
        match trees {
            Some(trees) => hints.extend(trees.into_iter().map(Hint::DirtyTree)),
            None => hints.push(Hint::Rescan {
                reason: RescanReason::Polling,
            }),
        }
    }

    fn publish_mode(&self) -> Mode {
        let mut mode = lock(&self.shared.mode);
        self.tree.describe(&mut mode);
        mode.overflows = self.overflows;
        let mode = mode.clone();
        let wanted = self.tree.is_polling();
        let mut polling = lock(&self.shared.polling);
        if polling.wanted != wanted {
            polling.wanted = wanted;
            self.shared.polling_changed.notify_all();
        }
        mode
    }
}

fn interest<'i>(shared: &'i Shared, rules: &'i Rules) -> Interest<'i> {
    Interest {
        root: &shared.root,
        rules,
        respect_gitignore: shared.options.respect_gitignore,
        also_folders: &shared.also_folders,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
