//! Asks for changes again and again, one thread a handle, and tells the subscriptions that they concern.
//!
//! The service pushes only over gRPC, which this is not. Invariant: after a change the next question follows soon, in quiet times ever
//! more rarely, and never is more than one request a second sent while nothing changes. Deliberately absent: reading rows.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Shared;
use super::failure::{Failure, What};
use super::read::Place;
use crate::lock;
use crate::{AdapterError, Cursor, ErrorKind, Query, Sink, Subscription, Wake};

/// How often is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After a change. Two requests are sent each time.
    pub(super) soon: Duration,
    /// After a long quiet time.
    pub(super) rarely: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { soon: Duration::from_secs(2), rarely: Duration::from_secs(15) }
    }
}

impl Pace {
    /// An eighth of the time that nothing changed, within bounds.
    fn after_quiet(self, quiet: Duration) -> Duration {
        (quiet / 8).clamp(self.soon, self.rarely)
    }
}

/// Those who listen, and the thread that asks for them.
#[derive(Default)]
pub(super) struct Listeners {
    all: Mutex<Vec<Arc<Listener>>>,
    /// Somebody came, or went, or the handle was closed.
    bell: Notify,
    /// Whether the thread runs.
    runs: Mutex<bool>,
}

struct Listener {
    query: Query,
    /// Where its caller stands, until it was told of what it missed.
    from: Mutex<Option<Cursor>>,
    // Held while the sink runs, so that dropping the subscription waits for a call that is under way.
    sink: Mutex<Option<Sink>>,
}

impl Listener {
    fn tell(&self, wake: Wake) {
        if let Some(sink) = &*lock(&self.sink) {
            sink(wake);
        }
    }

    fn hears(&self, app: &str, owner: &str) -> bool {
        self.query.app == app && self.query.owner.as_deref().is_none_or(|wanted| wanted == owner)
    }
}

pub(super) fn listen(
    shared: &Arc<Shared>,
    query: &Query,
    from: Cursor,
    sink: Sink,
) -> Result<Subscription, AdapterError> {
    let listener =
        Arc::new(Listener { query: query.clone(), from: Mutex::new(Some(from)), sink: Mutex::new(Some(sink)) });
    lock(&shared.listeners.all).push(Arc::clone(&listener));
    let mut runs = lock(&shared.listeners.runs);
    if !*runs {
        let body = Arc::clone(shared);
        let spawned = std::thread::Builder::new().name("larder-firestore".to_owned()).spawn(move || {
            // Without a runtime nobody could have subscribed.
            let _ = crate::drive::block_on(ask_on(&body));
        });
        spawned.map_err(|error| AdapterError::caused(ErrorKind::Unavailable, "subscribe: start a thread", error))?;
        *runs = true;
    }
    drop(runs);
    shared.listeners.bell.notify_one();
    let shared = Arc::clone(shared);
    Ok(Subscription::new(move || {
        lock(&shared.listeners.all).retain(|other| !Arc::ptr_eq(other, &listener));
        *lock(&listener.sink) = None;
        shared.listeners.bell.notify_one();
    }))
}

impl Listeners {
    /// Ends the thread soon; nobody is told anything more.
    pub(super) fn close(&self) {
        lock(&self.all).clear();
        self.bell.notify_one();
    }

    fn everybody(&self) -> Vec<Arc<Listener>> {
        lock(&self.all).clone()
    }

    /// Says that the thread ends, unless somebody came meanwhile.
    fn may_end(&self) -> bool {
        let mut runs = lock(&self.runs);
        let ends = lock(&self.all).is_empty();
        *runs = !ends;
        ends
    }
}

/// Asks until nobody listens any more.
async fn ask_on(shared: &Shared) {
    let (mut place, mut quiet_since, mut failures) = (None, Instant::now(), 0u32);
    while !shared.listeners.may_end() {
        let bell = shared.listeners.bell.notified();
        let asked = tokio::select! {
            asked = ask(shared, &mut place) => asked,
            // A request under way is dropped: nothing waits for a service that hangs.
            () = bell => continue,
        };
        let rest = match asked {
            Ok(changed) => {
                failures = 0;
                shared.set_degraded(None);
                if changed {
                    quiet_since = Instant::now();
                }
                shared.pace.after_quiet(quiet_since.elapsed())
            }
            Err(failure) => {
                failures = failures.saturating_add(1);
                let reason = failure.error("ask Firestore for changes").to_string();
                if failures == 1 {
                    let lost = |listener: Arc<Listener>| listener.tell(Wake::Lost { reason: reason.clone() });
                    shared.listeners.everybody().into_iter().for_each(lost);
                }
                shared.set_degraded(Some(format!("firestore: {reason}; asked again and again")));
                rest_after(failure, failures, shared.pace)
            }
        };
        let bell = shared.listeners.bell.notified();
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = bell => {}
        }
    }
}

fn rest_after(failure: Failure, failures: u32, pace: Pace) -> Duration {
    match failure.what {
        What::Kind(ErrorKind::Throttled { retry_after_ms }) => Duration::from_millis(retry_after_ms).max(pace.soon),
        _ => pace.soon.saturating_mul(1 << failures.min(10)).min(Duration::from_secs(60)),
    }
}

/// Asks once; whether anything changed.
async fn ask(shared: &Shared, place: &mut Option<Place>) -> Result<bool, Failure> {
    let instance = match place.take() {
        Some(known) => {
            let told = known.told();
            *place = Some(known);
            shared.caller.note_stamped(told).await?;
            None
        }
        None => Some(shared.instance().await?),
    };
    for listener in shared.listeners.everybody() {
        shared.sweep_if_due(&listener.query.app).await?;
    }
    if let Some(instance) = instance {
        *place = Some(newest(shared, instance).await?);
    }
    let Some(known) = place.as_ref() else { return Ok(false) };
    for listener in shared.listeners.everybody() {
        let Some(from) = lock(&listener.from).clone() else { continue };
        // Whoever stands at the beginning has everything before it; the others are asked for.
        let missed = from.is_start() || missed(shared, &listener, &from).await?;
        *lock(&listener.from) = None;
        if missed {
            listener.tell(Wake::Changed);
        }
    }
    let (ids, next) = shared.caller.changed_since(known).await?;
    *place = Some(next);
    let spaces: Vec<(String, String, String)> = ids.iter().filter_map(crate::RecordId::parts).collect();
    for listener in shared.listeners.everybody() {
        if spaces.iter().any(|(app, owner, _)| listener.hears(app, owner)) {
            listener.tell(Wake::Changed);
        }
    }
    Ok(!ids.is_empty())
}

/// The place after everything there is now.
async fn newest(shared: &Shared, instance: String) -> Result<Place, Failure> {
    let query = serde_json::json!({ "where": super::read::compare("kind", "EQUAL", super::value::text("none")) });
    let found = shared.caller.query(super::entry::ENTRIES, query, 1, None).await?;
    Ok(Place::start(instance).at(found.read_time))
}

async fn missed(shared: &Shared, listener: &Listener, from: &Cursor) -> Result<bool, Failure> {
    let instance = shared.instance().await?;
    let query = Query { limit: 1, with_content: false, ..listener.query.clone() };
    let page = shared.caller.changes(&query, Place::of(from, &instance), 1).await?;
    Ok(!page.rows.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_it_is_quiet_the_more_rarely_is_asked() {
        let pace = Pace::default();
        let rests: Vec<Duration> = (0..1_000).map(|secs| pace.after_quiet(Duration::from_secs(secs))).collect();
        assert!(rests.is_sorted());
        // Two requests each time: at most one a second.
        assert_eq!((rests[0], rests[999]), (Duration::from_secs(2), Duration::from_secs(15)));
    }
}
