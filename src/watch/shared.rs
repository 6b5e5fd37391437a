//! What the threads of a watcher share: notes on their way in, hints on their way out, and who waits for which.
//!
//! Invariant: noting an event takes no lock for longer than a set insertion, so that the kernel's queue is emptied at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_patterns::{RelPath, Rules};

use super::event::{Marks, Signal, signals};
use super::hint::{Hint, HintSet, MAX_HINTS, RescanReason};
use super::mode::Mode;
use super::watcher::WatchOptions;
use crate::scan::Root;

const GITIGNORE: &str = ".gitignore";

/// What waits for our thread.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) notes: BTreeMap<RelPath, Marks>,
    pub(super) overflow: bool,
    pub(super) root_gone: bool,
    pub(super) renew: bool,
    pub(super) tick: bool,
    pub(super) rescan: Option<RescanReason>,
    pub(super) stop: bool,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        let told = self.overflow || self.root_gone || self.renew || self.tick || self.stop;
        !told && self.rescan.is_none() && self.notes.is_empty()
    }
}

pub(super) struct Shared {
    pub(super) root: Arc<Root>,
    pub(super) rules: Mutex<Arc<Rules>>,
    pub(super) options: WatchOptions,
    pub(super) also: BTreeSet<RelPath>,
    pub(super) also_folders: BTreeSet<RelPath>,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) inbox_changed: Condvar,
    pub(super) polling: Mutex<Polling>,
    pub(super) polling_changed: Condvar,
    pub(super) hints: Mutex<HintSet>,
    pub(super) hints_changed: Condvar,
    pub(super) mode: Mutex<Mode>,
    pub(super) wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
pub(super) struct Polling {
    pub(super) wanted: bool,
    pub(super) stop: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        root: Arc<Root>,
        rules: Arc<Rules>,
        options: WatchOptions,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Shared {
        let mode = Mode { poll_ms: options.poll_ms, ..Mode::default() };
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

    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&lock(&self.rules))
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut Inbox)) {
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
    pub(super) fn hear(&self, event: notify::Result<notify::Event>) {
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

    pub(super) fn is_admitted(&self, rules: &Rules, path: &RelPath) -> bool {
        self.also.contains(path) || rules.admit(path).is_ok()
    }

    pub(super) fn hint(&self, new: impl IntoIterator<Item = Hint>) {
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
    pub(super) fn poll(&self) {
        let pause = Duration::from_millis(self.options.poll_ms.max(1));
        let mut polling = lock(&self.polling);
        while !polling.stop {
            if !polling.wanted {
                polling = self.polling_changed.wait(polling).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited =
                self.polling_changed.wait_timeout_while(polling, pause, |polling| polling.wanted && !polling.stop);
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            polling = after;
            if timeout.timed_out() && !polling.stop {
                drop(polling);
                self.tell(|inbox| inbox.tick = true);
                polling = lock(&self.polling);
            }
        }
    }

    pub(super) fn next_batch(&self) -> Inbox {
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
