//! Noticing that somebody else put something into a folder.
//!
//! What a visitor knows of the store is one number, the sum over the names it saw and put: a look compares it with the sum over
//! the names that are there. Invariant: a foreign name is never missed, though a look may tell of news where there are none;
//! a visitor knows nothing at first, so a store that holds something is news. Between rings of the kernel's bell one look
//! a minute is made, and without a bell one every two seconds.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use larder_patterns::{PatternLists, Rules};

use super::super::signal::Signal;
use super::super::{TransportError, WaitHint, Wake};
use super::listing;
use crate::scan::Root;
use crate::watch::{WatchOptions, Watcher};

/// Between looks while the kernel tells of changes.
const QUIET: Duration = Duration::from_secs(60);
/// Between looks while it does not.
const DEAF: Duration = Duration::from_secs(2);

/// What a visitor knows.
#[derive(Default)]
pub(super) struct News {
    known_sum: Mutex<u64>,
    signal: Arc<Signal>,
    /// The kernel tells here, once somebody waited; none where it cannot be had.
    bell: OnceLock<Option<Watcher>>,
}

impl News {
    /// A name that this visitor put is no news to it.
    pub fn note_own(&self, name: &str) {
        let mut known = lock(&self.known_sum);
        *known = known.wrapping_add(number_of(name));
    }

    /// See `Transport::wait`. `present` proves that the folder is there.
    pub fn wait(
        &self,
        root: &Arc<Root>,
        hint: &WaitHint,
        present: impl Fn() -> Result<(), TransportError>,
    ) -> Result<Wake, TransportError> {
        let signal = self.signal.clone();
        let _hook = hint.cancel.on_cancel(move || signal.raise());
        let started = Instant::now();
        let timeout = Duration::from_millis(hint.timeout_ms);
        loop {
            // Both before the look: what comes after it rings.
            self.signal.lower();
            let between = if timeout.is_zero() { DEAF } else { self.listen(root) };
            if hint.cancel.is_cancelled() {
                return Ok(Wake::Cancelled);
            }
            present()?;
            if self.take_news(root)? {
                return Ok(Wake::Changed);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Wake::Timeout);
            }
            self.signal.sleep(left.min(between));
        }
    }

    fn take_news(&self, root: &Root) -> Result<bool, TransportError> {
        let mut sum = 0u64;
        listing::for_each(root, |name| sum = sum.wrapping_add(number_of(name)))?;
        let mut known = lock(&self.known_sum);
        Ok(std::mem::replace(&mut *known, sum) != sum)
    }

    /// Has the kernel ring from now on; tells how long it may be trusted without a look.
    fn listen(&self, root: &Arc<Root>) -> Duration {
        let watcher = self.bell.get_or_init(|| watch(root, self.signal.clone()));
        let complete = watcher.as_ref().is_some_and(|watcher| {
            // Taken, so that the next change rings again.
            watcher.take();
            watcher.mode().is_complete()
        });
        if complete { QUIET } else { DEAF }
    }
}

fn watch(root: &Arc<Root>, signal: Arc<Signal>) -> Option<Watcher> {
    let lists = PatternLists { shared: vec!["**".to_owned(), "!.*/**".to_owned()], ..PatternLists::default() };
    let (rules, _) = Rules::compile(&lists).ok()?;
    let started = Watcher::start(root.clone(), Arc::new(rules), WatchOptions::default(), move || signal.raise());
    started.ok().map(|(watcher, _)| watcher)
}

fn number_of(name: &str) -> u64 {
    // Its keys are fixed: the same name is the same number for as long as the process lives, which is enough.
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one assignment: a panic elsewhere cannot leave it half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
