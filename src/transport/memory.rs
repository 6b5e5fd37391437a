//! A place inside this process: the reference every other transport is measured against, and the tests' fleet.
//!
//! Invariant: no entry ever changes, and none goes but by its writer's word. Nothing is written to disk.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::{
    Depth, ListRequest, Listing, Opening, Put, Removing, Transport, TransportError, TransportErrorKind, WaitHint, Wake,
    check_name, is_after, listed_as,
};

/// The place itself; [`MemoryPlace::visit`] opens handles on it.
#[derive(Default)]
pub struct MemoryPlace {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    artifacts: BTreeMap<String, Arc<[u8]>>,
    put_count: u64,
}

impl MemoryPlace {
    /// An empty place.
    pub fn new() -> Arc<MemoryPlace> {
        Arc::default()
    }

    /// Opens a handle.
    pub fn visit(self: &Arc<Self>, label: impl Into<String>) -> MemoryTransport {
        let heard = Heard { own_puts: 0, foreign_puts: self.lock().put_count };
        MemoryTransport { place: self.clone(), label: label.into(), heard: Mutex::new(heard) }
    }

    /// Every artifact, for tests that compare or damage places.
    pub fn artifacts(&self) -> BTreeMap<String, Arc<[u8]>> {
        self.lock().artifacts.clone()
    }

    /// One artifact.
    pub fn artifact(&self, name: &str) -> Option<Arc<[u8]>> {
        self.lock().artifacts.get(name).cloned()
    }

    /// The names below `prefix`, in order.
    pub fn names_below(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        let names = state.artifacts.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        names.map(|(name, _)| name).take_while(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Damages the place as a bad disk would: other bytes under a name, or none. For tests.
    pub fn damage(&self, name: &str, bytes: Option<&[u8]>) {
        let mut state = self.lock();
        match bytes {
            Some(bytes) => state.artifacts.insert(name.to_owned(), bytes.into()),
            None => state.artifacts.remove(name),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one insert: a panic elsewhere cannot leave it half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on a [`MemoryPlace`].
pub struct MemoryTransport {
    place: Arc<MemoryPlace>,
    label: String,
    heard: Mutex<Heard>,
}

struct Heard {
    own_puts: u64,
    foreign_puts: u64,
}

impl MemoryTransport {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if others put something since this was last true. The place's lock is held by the caller.
    fn take_news(&self, state: &State) -> bool {
        let mut heard = self.heard();
        let foreign_puts = state.put_count - heard.own_puts;
        let news = foreign_puts > heard.foreign_puts;
        heard.foreign_puts = foreign_puts;
        news
    }
}

impl Transport for MemoryTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        Ok(page(&self.place.lock().artifacts, request))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let artifact = self.place.lock().artifacts.get(name).cloned();
        let artifact =
            artifact.ok_or_else(|| TransportError::new(TransportErrorKind::NotFound, "get", name, "not here"))?;
        cut(name, &artifact, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        check_name(name)?;
        let mut state = self.place.lock();
        if let Some(there) = state.artifacts.get(name) {
            let same = **there == *bytes;
            let conflict = || TransportError::new(TransportErrorKind::Conflict, "put", name, "other bytes stand there");
            return if same { Ok(Put::AlreadyThere) } else { Err(conflict()) };
        }
        state.artifacts.insert(name.to_owned(), bytes.into());
        state.put_count += 1;
        self.heard().own_puts += 1;
        self.place.changed.notify_all();
        Ok(Put::Written)
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        let place = self.place.clone();
        let _hook = hint.cancel.on_cancel(move || {
            // Taking the lock closes the gap between a waiter's last look and its sleep.
            drop(place.lock());
            place.changed.notify_all();
        });
        let started = Instant::now();
        let timeout = Duration::from_millis(hint.timeout_ms);
        let mut state = self.place.lock();
        loop {
            if hint.cancel.is_cancelled() {
                return Ok(Wake::Cancelled);
            }
            if self.take_news(&state) {
                return Ok(Wake::Changed);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Wake::Timeout);
            }
            let woken = self.place.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn removing(&self) -> Option<&dyn Removing> {
        Some(self)
    }
}

impl Removing for MemoryTransport {
    fn remove(&self, name: &str) -> Result<(), TransportError> {
        self.place.lock().artifacts.remove(name);
        Ok(())
    }
}

/// One page of names out of a whole store's.
pub(crate) fn page<T>(artifacts: &BTreeMap<String, T>, request: &ListRequest) -> Listing {
    let after = request.after.as_deref();
    // A folder sorts before what stands below it, so nothing before the later of the two can matter.
    let start = after.map_or(request.prefix.as_str(), |after| after.max(&request.prefix));
    let mut listing = Listing::default();
    for name in artifacts.range::<str, _>((Bound::Included(start), Bound::Unbounded)).map(|(name, _)| name) {
        if !name.starts_with(&request.prefix) {
            break;
        }
        let Some(entry) = listed_as(name, &request.prefix, request.depth) else {
            continue;
        };
        let again = request.depth == Depth::Children && listing.names.last().is_some_and(|last| last == entry);
        if again || !is_after(entry, after) {
            continue;
        }
        if listing.names.len() == request.page_names() {
            listing.more = true;
            break;
        }
        listing.names.push(entry.to_owned());
    }
    listing
}

/// The part of `bytes` that was asked for, or TooLarge.
pub(crate) fn cut(
    name: &str,
    bytes: &[u8],
    range: Option<Range<u64>>,
    max_bytes: u64,
) -> Result<Vec<u8>, TransportError> {
    let range = bounded(name, bytes.len() as u64, range, max_bytes)?;
    // Both fit: they are at most the length of a slice.
    Ok(bytes[range.start as usize..range.end as usize].to_vec())
}

/// The part of `range` that exists of `size_bytes`, in order; TooLarge if it is more than `max_bytes`.
pub(crate) fn bounded(
    name: &str,
    size_bytes: u64,
    range: Option<Range<u64>>,
    max_bytes: u64,
) -> Result<Range<u64>, TransportError> {
    let range = range.unwrap_or(0..size_bytes);
    let end = range.end.min(size_bytes);
    let start = range.start.min(end);
    if end - start <= max_bytes {
        return Ok(start..end);
    }
    let detail = format!("{} bytes are more than the {max_bytes} allowed", end - start);
    Err(TransportError::new(TransportErrorKind::TooLarge, "get", name, detail))
}

/// Opens `memory:NAME`: the same name is the same place for as long as the process lives.
pub fn open(address: &str, _opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    static PLACES: OnceLock<Mutex<HashMap<String, Arc<MemoryPlace>>>> = OnceLock::new();
    let name = address.strip_prefix("memory:").unwrap_or(address);
    let places = PLACES.get_or_init(Mutex::default);
    let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
    let place = places.entry(name.to_owned()).or_default();
    Ok(Arc::new(place.visit(address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Cancel, contract};

    #[test]
    fn memory_keeps_the_transport_contract() {
        contract::run(&|| {
            let place = MemoryPlace::new();
            Box::new(move || Arc::new(place.visit("memory:test")) as Arc<dyn Transport>)
        });
    }

    #[test]
    fn a_cancel_between_look_and_sleep_is_not_missed() {
        let place = MemoryPlace::new();
        let cancel = Cancel::new();
        let hint = WaitHint { timeout_ms: 600_000, cancel: cancel.clone() };

        let waiter = std::thread::spawn(move || place.visit("memory:test").wait(&hint));
        cancel.cancel();

        assert_eq!(waiter.join().expect("the waiter ends").expect("memory waits"), Wake::Cancelled);
    }
}
