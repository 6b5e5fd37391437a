//! Calls a waiter off, from any thread, without polling.
//!
//! Invariant: once cancelled, for ever cancelled; a hook registered before runs exactly once, one registered after
//! runs at once. Hooks must not block: they wake somebody, nothing more.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Wake = Box<dyn FnOnce() + Send>;

/// A switch that is thrown once. Clones are the same switch.
#[derive(Clone, Default)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    next_hook: AtomicU64,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    hooks: Vec<(u64, Wake)>,
}

impl Cancel {
    /// A switch not yet thrown.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Throws the switch and wakes everybody who asked to be woken.
    pub fn cancel(&self) {
        let hooks = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.hooks)
        };
        // Outside the lock: a hook may take a lock whose holder asks this switch.
        hooks.into_iter().for_each(|(_, wake)| wake());
    }

    /// True once thrown.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Runs `wake` when the switch is thrown, unless the returned guard is dropped before.
    pub fn on_cancel(&self, wake: impl FnOnce() + Send + 'static) -> CancelHook {
        let id = self.inner.next_hook.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if state.cancelled {
            drop(state);
            wake();
        } else {
            state.hooks.push((id, Box::new(wake)));
        }
        CancelHook { cancel: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A hook that panicked left the list whole: it was taken out before it ran.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancel({})", self.is_cancelled())
    }
}

/// Keeps a hook registered for as long as it lives.
#[must_use = "the hook is taken back when this is dropped"]
pub struct CancelHook {
    cancel: Cancel,
    id: u64,
}

impl Drop for CancelHook {
    fn drop(&mut self) {
        self.cancel.lock().hooks.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_runs_once_whether_it_came_before_or_after_and_never_after_it_was_dropped() {
        let ran = Arc::new(AtomicU64::new(0));
        let hook = |amount: u64| {
            let ran = ran.clone();
            move || {
                ran.fetch_add(amount, Ordering::SeqCst);
            }
        };
        let cancel = Cancel::new();
        let before = cancel.on_cancel(hook(1));
        drop(cancel.on_cancel(hook(10)));

        cancel.cancel();
        cancel.cancel();
        let after = cancel.on_cancel(hook(100));

        assert_eq!(ran.load(Ordering::SeqCst), 101);
        assert!(cancel.is_cancelled());
        drop((before, after));
    }
}
