//! The subscriptions of one handle on a network backend: who is told, by whatever hears.
//!
//! Invariant: after every (re)connection everybody is woken: what happened meanwhile is found by their own cursors. A dropped subscription
//! is never told again, and with the last one goes whatever heard for it.
//! Deliberately absent: how changes are heard. That is the backend's [`Source`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::lock;
use crate::record::escaped;
use crate::{AdapterError, ErrorKind, Query, Sink, Subscription, Wake, drive};

const FIRST_REST: Duration = Duration::from_millis(200);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Characters of an app's name that a notification carries.
const APP_CHARS: usize = 1_000;

/// Hears of changes over one connection.
pub(crate) trait Source: Send + Sync + 'static {
    /// Hears until the connection ends, and tells `ears`. Cancelled by dropping.
    fn hear(&self, ears: &Ears) -> impl Future<Output = Result<(), AdapterError>> + Send;
}

/// The subscriptions of one handle.
pub(crate) struct Hub<S> {
    source: S,
    ears: Ears,
}

/// Those who want to be told.
#[derive(Default)]
pub(crate) struct Ears {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    listeners: BTreeMap<u64, Arc<Listener>>,
    task: Option<JoinHandle<()>>,
    /// The task hears, or asks by itself: who comes now need not wait for it.
    is_set_up: bool,
    degraded: Option<String>,
}

struct Listener {
    app: String,
    // Held while the sink runs, so that dropping the subscription waits for a call that is under way.
    sink: Mutex<Option<Sink>>,
}

impl Listener {
    fn tell(&self, wake: Wake) {
        if let Some(sink) = &*lock(&self.sink) {
            sink(wake);
        }
    }
}

impl Ears {
    /// From here on what changes is heard, or asked for as `degraded` says. Everybody is woken.
    pub fn set_up(&self, degraded: Option<String>) {
        {
            let mut state = lock(&self.state);
            state.degraded = degraded;
            state.is_set_up = true;
        }
        self.tell_all(|_| true, &Wake::Changed);
    }

    /// Something of this app changed; its name is as in record ids, and may be cut.
    pub fn changed(&self, app: &str) {
        let app: String = app.chars().take(APP_CHARS).collect();
        self.tell_all(|listener| listener.app == app, &Wake::Changed);
    }

    /// Something changed, nobody knows where.
    pub fn changed_somewhere(&self) {
        self.tell_all(|_| true, &Wake::Changed);
    }

    fn tell_all(&self, concerns: impl Fn(&Listener) -> bool, wake: &Wake) {
        let listeners: Vec<Arc<Listener>> =
            lock(&self.state).listeners.values().filter(|listener| concerns(listener)).cloned().collect();
        for listener in listeners {
            listener.tell(wake.clone());
        }
    }
}

impl<S: Source> Hub<S> {
    pub fn new(source: S) -> Arc<Hub<S>> {
        Arc::new(Hub { source, ears: Ears::default() })
    }

    /// Lines for `status`.
    pub fn status(&self) -> Vec<String> {
        lock(&self.ears.state).degraded.iter().cloned().collect()
    }

    pub fn subscribe(self: &Arc<Self>, query: &Query, sink: Sink) -> Result<Subscription, AdapterError> {
        let handle = drive::handle()
            .map_err(|error| AdapterError::caused(ErrorKind::Unavailable, "subscribe: start a thread", error))?;
        let app = escaped(&query.app).chars().take(APP_CHARS).collect();
        let listener = Arc::new(Listener { app, sink: Mutex::new(Some(sink)) });
        let (key, late) = {
            let mut state = lock(&self.ears.state);
            let key = state.next;
            state.next += 1;
            state.listeners.insert(key, Arc::clone(&listener));
            if state.task.is_none() {
                state.task = Some(handle.spawn(Arc::clone(self).run()));
            }
            (key, state.is_set_up)
        };
        if late {
            // What came between its cursor and now was told to nobody.
            listener.tell(Wake::Changed);
        }
        let hub = Arc::clone(self);
        Ok(Subscription::new(move || {
            *lock(&listener.sink) = None;
            hub.leave(key);
        }))
    }

    fn leave(&self, key: u64) {
        let ended = {
            let mut state = lock(&self.ears.state);
            state.listeners.remove(&key);
            if state.listeners.is_empty() { state.end() } else { None }
        };
        join(ended);
    }

    /// Ends every subscription's wakes.
    pub fn close(&self) {
        let (ended, listeners) = {
            let mut state = lock(&self.ears.state);
            (state.end(), std::mem::take(&mut state.listeners))
        };
        for listener in listeners.values() {
            *lock(&listener.sink) = None;
        }
        join(ended);
    }

    async fn run(self: Arc<Self>) {
        let mut rest = FIRST_REST;
        loop {
            let reason = match self.source.hear(&self.ears).await {
                Ok(()) => "listen: the connection ended".to_owned(),
                Err(error) => error.message,
            };
            let was_set_up = std::mem::replace(&mut lock(&self.ears.state).is_set_up, false);
            if was_set_up {
                rest = FIRST_REST;
            }
            if was_set_up || rest == FIRST_REST {
                self.ears.tell_all(|_| true, &Wake::Lost { reason });
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        }
    }
}

impl State {
    fn end(&mut self) -> Option<JoinHandle<()>> {
        self.is_set_up = false;
        self.degraded = None;
        self.task.take()
    }
}

/// Waits until an aborted task is gone, and its connection with it.
fn join(task: Option<JoinHandle<()>>) {
    if let Some(task) = task {
        task.abort();
        // It was aborted: that is what it says.
        let _ = drive::block_on(task);
    }
}
