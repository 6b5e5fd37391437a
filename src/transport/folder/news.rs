//! Noticing that somebody else put something into a folder.
//!
//! The kernel names what changed: a name that this visitor did not put is news, and costs no look at the others. What it
//! knows of the whole store is one number, the sum over the names it saw and put: a look at everything compares it with the sum
//! over the names that are there. Invariant: a foreign name is never missed, though news may be told where there are none;
//! a visitor knows nothing at first, so a store that holds something is news. A look at everything is made first, once a
//! minute, when the kernel lost count, and every two seconds where it tells nothing.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use larder_patterns::{PatternLists, Rules};

use super::super::signal::Signal;
use super::super::{TransportError, WaitHint, Wake};
use super::{is_artifact_name, listing};
use crate::scan::Root;
use crate::watch::{Hint, WatchOptions, Watcher};

/// Between looks while the kernel tells of changes.
const QUIET: Duration = Duration::from_secs(60);
/// Between looks while it does not.
const DEAF: Duration = Duration::from_secs(2);
/// Own names kept apart from others'; with more, some are told as news once.
const MAX_OWN: usize = 65_536;

/// What a visitor knows.
#[derive(Default)]
pub(super) struct News {
    known_sum: Mutex<u64>,
    /// What this visitor put: the kernel tells of that, too.
    own: Mutex<HashSet<u64>>,
    /// When everything was looked at last.
    looked: Mutex<Option<Instant>>,
    signal: Arc<Signal>,
    /// The kernel tells here, once somebody waited; none where it cannot be had.
    bell: OnceLock<Option<Watcher>>,
}

impl News {
    /// A name that this visitor is about to put is no news to it.
    pub fn expect_own(&self, name: &str) {
        let mut own = lock(&self.own);
        if own.len() >= MAX_OWN {
            own.clear();
        }
        own.insert(number_of(name));
    }

    /// The name is there, and known to be.
    pub fn know(&self, name: &str) {
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
            // Before the look: what comes after it rings.
            self.signal.lower();
            let begins = self.bell.get().is_none();
            let heard = if timeout.is_zero() { None } else { self.listen(root) };
            if hint.cancel.is_cancelled() {
                return Ok(Wake::Cancelled);
            }
            present()?;
            let between = if heard.is_some() { QUIET } else { DEAF };
            // Nobody told of what came before the bell hung.
            let due = begins || lock(&self.looked).is_none_or(|looked| looked.elapsed() >= between);
            let news = match heard {
                Some(hints) if !due => self.take_hints(root, hints)?,
                _ => self.look(root)?,
            };
            if news {
                return Ok(Wake::Changed);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Wake::Timeout);
            }
            self.signal.sleep(left.min(between));
        }
    }

    /// Looks at every name that is there.
    fn look(&self, root: &Root) -> Result<bool, TransportError> {
        let mut sum = 0u64;
        *lock(&self.looked) = Some(Instant::now());
        listing::for_each(root, |name| sum = sum.wrapping_add(number_of(name)))?;
        let mut known = lock(&self.known_sum);
        Ok(std::mem::replace(&mut *known, sum) != sum)
    }

    /// Judges what the kernel named.
    fn take_hints(&self, root: &Root, hints: Vec<Hint>) -> Result<bool, TransportError> {
        let mut news = false;
        for hint in hints {
            match hint {
                Hint::Dirty(path) => {
                    let name = path.as_str();
                    let foreign = is_artifact_name(name) && !lock(&self.own).contains(&number_of(name));
                    if foreign {
                        self.know(name);
                    }
                    news |= foreign;
                }
                // A folder came, or the kernel lost count.
                Hint::DirtyTree(_) | Hint::Rescan { .. } | Hint::RootGone => news |= self.look(root)?,
            }
        }
        Ok(news)
    }

    /// Has the kernel ring from now on. What it named since the last time; `None` if it cannot be trusted without a look.
    fn listen(&self, root: &Arc<Root>) -> Option<Vec<Hint>> {
        let watcher = self.bell.get_or_init(|| watch(root, self.signal.clone())).as_ref()?;
        // Taken, so that the next change rings again.
        let hints = watcher.take();
        watcher.mode().is_complete().then_some(hints)
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
