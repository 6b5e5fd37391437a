//! What two threads of a mount tell each other: notifications on their way to the kernel, and that the mount has ended.
//!
//! Invariant: bounded; each waiting notification is there once; what is added before `settle` is called has been sent when it returns.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::event::Event;
use super::refresh::Invalidation;

/// Notifications that may wait; whoever adds more waits with them.
const MAX_PENDING: usize = 1 << 18;

/// Events that may wait.
const MAX_EVENTS: usize = 1 << 14;

/// Why a mount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// This signal came, and the view was taken down.
    Signal(i32),
    /// Somebody unmounted it.
    Unmounted,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Set once; the first value stays.
#[derive(Default)]
pub(super) struct Latch {
    value: Mutex<Vec<Ended>>,
    changed: Condvar,
}

impl Latch {
    pub(super) fn set(&self, ended: Ended) {
        lock(&self.value).push(ended);
        self.changed.notify_all();
    }

    pub(super) fn is_set_to(&self, ended: Ended) -> bool {
        lock(&self.value).contains(&ended)
    }

    pub(super) fn wait(&self) -> Ended {
        let mut value = lock(&self.value);
        loop {
            if let Some(ended) = value.first() {
                return *ended;
            }
            value = self.changed.wait(value).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for one particular end; false when `timeout` came first.
    pub(super) fn wait_for(&self, ended: Ended, timeout: Duration) -> bool {
        let value = lock(&self.value);
        let waiting = self.changed.wait_timeout_while(value, timeout, |value| !value.contains(&ended));
        waiting.unwrap_or_else(PoisonError::into_inner).0.contains(&ended)
    }
}

/// Notifications on their way to the sending thread.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    pending: BTreeSet<Invalidation>,
    events: Vec<Event>,
    is_sending: bool,
    is_closed: bool,
}

impl Queue {
    /// Takes both in together; of more events than have room the rest is lost.
    pub(super) fn add(&self, invalidations: Vec<Invalidation>, events: Vec<Event>) {
        let mut state = lock(&self.state);
        let room = MAX_EVENTS.saturating_sub(state.events.len());
        state.events.extend(events.into_iter().take(room));
        for invalidation in invalidations {
            while state.pending.len() >= MAX_PENDING && !state.is_closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.pending.insert(invalidation);
            if state.pending.len() == MAX_PENDING {
                self.changed.notify_all();
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Everything pending, once there is something; `None` when the queue is closed.
    pub(super) fn take(&self) -> Option<(BTreeSet<Invalidation>, Vec<Event>)> {
        let mut state = lock(&self.state);
        while state.pending.is_empty() && state.events.is_empty() && !state.is_closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_closed {
            return None;
        }
        state.is_sending = true;
        let batch = (std::mem::take(&mut state.pending), std::mem::take(&mut state.events));
        drop(state);
        self.changed.notify_all();
        Some(batch)
    }

    pub(super) fn sent(&self) {
        lock(&self.state).is_sending = false;
        self.changed.notify_all();
    }

    pub(super) fn settle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.state);
        while (state.is_sending || !state.pending.is_empty() || !state.events.is_empty()) && !state.is_closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.pending.clear();
        state.events.clear();
        drop(state);
        self.changed.notify_all();
    }
}
