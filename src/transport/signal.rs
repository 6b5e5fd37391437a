//! A bell that one waiter sleeps beside.
//!
//! Invariant: what is raised after `lower` ends the next `sleep`, also if it was raised before the sleep began. A waiter
//! that lowers it before it looks misses nothing. Knows nothing of what the news is.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Raised by whoever has news, from any thread.
#[derive(Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Ends the sleep, or the next one.
    pub fn raise(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    /// Forgets what was raised so far.
    pub fn lower(&self) {
        *self.lock() = false;
    }

    /// Sleeps until it is raised, at most for `timeout`.
    pub fn sleep(&self, timeout: Duration) {
        let slept = self.changed.wait_timeout_while(self.lock(), timeout, |raised| !*raised);
        drop(slept.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        // Every change under the lock is one assignment: a panic elsewhere cannot leave it half made.
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
