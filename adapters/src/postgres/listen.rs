//! Hears of other programs' commits: one connection for all subscriptions of a handle, that sleeps in the server's LISTEN.
//!
//! A pooler in transaction mode takes LISTEN and delivers nothing, without an error. So each time after LISTEN a notification is sent to
//! ourselves over another connection; if it does not come, the feed is asked once a second instead, and `status` says so.
//! Invariant: after every (re)connection everybody is woken: what happened meanwhile is found by their own cursors.
//! Deliberately absent: reading rows. A wake is a hint.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::connect::Server;
use super::failure::Failure;
use super::read::changed_apps;
use crate::record::escaped;
use crate::{AdapterError, ErrorKind, Query, Sink, Subscription, Wake, drive};

const PROOF_WITHIN: Duration = Duration::from_secs(2);
/// Between two questions where nothing is heard.
const DEAF: Duration = Duration::from_secs(1);
const FIRST_REST: Duration = Duration::from_millis(200);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Characters of an app's name that a notification carries.
const APP_CHARS: usize = 1_000;

/// The subscriptions of one handle.
pub(super) struct Hub {
    server: Arc<Server>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub fn new(server: Arc<Server>) -> Arc<Hub> {
        Arc::new(Hub { server, state: Mutex::default() })
    }

    /// Lines for `status`.
    pub fn status(&self) -> Vec<String> {
        lock(&self.state).degraded.iter().cloned().collect()
    }

    pub fn subscribe(self: &Arc<Self>, query: &Query, sink: Sink) -> Result<Subscription, AdapterError> {
        let handle = drive::handle()
            .map_err(|error| AdapterError::caused(ErrorKind::Unavailable, "subscribe: start a thread", error))?;
        let app = escaped(&query.app).chars().take(APP_CHARS).collect();
        let listener = Arc::new(Listener { app, sink: Mutex::new(Some(sink)) });
        let (key, late) = {
            let mut state = lock(&self.state);
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
            let mut state = lock(&self.state);
            state.listeners.remove(&key);
            if state.listeners.is_empty() { state.end() } else { None }
        };
        join(ended);
    }

    /// Ends every subscription's wakes.
    pub fn close(&self) {
        let (ended, listeners) = {
            let mut state = lock(&self.state);
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
            let failure = match self.hear(&mut rest).await {
                Ok(()) => Failure::lost("the connection ended"),
                Err(failure) => failure,
            };
            let was_set_up = std::mem::replace(&mut lock(&self.state).is_set_up, false);
            if was_set_up || rest == FIRST_REST {
                let reason = failure.told("listen to", &self.server.settings.shown).message;
                self.tell_all(|_| true, &Wake::Lost { reason });
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    /// Listens until the connection ends.
    async fn hear(&self, rest: &mut Duration) -> Result<(), Failure> {
        let (client, mut connection) = self.server.connect().await?;
        let (told, mut heard) = unbounded_channel();
        let driver = Driver(tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(note) = message
                    && told.send(note.payload().to_owned()).is_err()
                {
                    return;
                }
            }
        }));
        client.batch_execute("LISTEN larder").await?;
        let is_heard = self.prove(&mut heard).await?;
        let degraded = (!is_heard).then(|| {
            let shown = &self.server.settings.shown;
            format!("postgres at {shown} delivers no notifications (a pooler in transaction mode does not): it is asked every second")
        });
        {
            let mut state = lock(&self.state);
            state.degraded = degraded;
            state.is_set_up = true;
        }
        *rest = FIRST_REST;
        if is_heard {
            self.tell_all(|_| true, &Wake::Changed);
            while let Some(app) = heard.recv().await {
                self.tell_all(|listener| listener.app == app, &Wake::Changed);
            }
        } else {
            self.ask(&client).await?;
        }
        drop(driver);
        Ok(())
    }

    /// Whether a notification that another connection sends arrives here.
    async fn prove(&self, heard: &mut UnboundedReceiver<String>) -> Result<bool, Failure> {
        let (client, connection) = self.server.connect().await?;
        let driver = Driver(tokio::spawn(async move {
            // How it ended is told to the question below.
            let _ = connection.await;
        }));
        // Random, so that no app is called so.
        let token: String =
            client.query_typed_one("SELECT md5(random()::text || clock_timestamp()::text)", &[]).await?.try_get(0)?;
        client.execute_typed("SELECT pg_notify('larder', $1)", &[(&token, Type::TEXT)]).await?;
        let wait = async {
            while let Some(payload) = heard.recv().await {
                if payload == token {
                    return true;
                }
            }
            false
        };
        let is_heard = tokio::time::timeout(PROOF_WITHIN, wait).await.unwrap_or(false);
        drop(driver);
        Ok(is_heard)
    }

    /// The feed is asked instead, one question for everybody.
    async fn ask(&self, client: &Client) -> Result<(), Failure> {
        let (_, mut since) = changed_apps(client, None).await?;
        self.tell_all(|_| true, &Wake::Changed);
        loop {
            tokio::time::sleep(DEAF).await;
            let (apps, now) = changed_apps(client, Some(&since)).await?;
            since = now;
            let apps: Vec<String> = apps.iter().map(|app| app.chars().take(APP_CHARS).collect()).collect();
            self.tell_all(|listener| apps.contains(&listener.app), &Wake::Changed);
        }
    }

    fn tell_all(&self, concerns: impl Fn(&Listener) -> bool, wake: &Wake) {
        let listeners: Vec<Arc<Listener>> =
            lock(&self.state).listeners.values().filter(|listener| concerns(listener)).cloned().collect();
        for listener in listeners {
            listener.tell(wake.clone());
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

/// Ends what drives a connection, however its user ends.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
