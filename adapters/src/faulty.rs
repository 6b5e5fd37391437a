//! A backend that fails on purpose, around any other: seeded, so that a failing run can be told again from its seed.
//!
//! Invariant: a fault never changes what a call means, only whether, when and how often it arrives and what the caller hears of it; with every
//! rate at 0 and no script it is the inner backend. Deliberately absent: clocks (what is delayed comes with one of the next calls) and stale
//! reads, which the seam forbids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    AdapterError, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, Page, Query, Record, RecordId, Revision,
    Row, Sink, Subscription, Wake,
};

/// How often what goes wrong, each in calls (or wakes) of 1,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// The call does not reach the backend: `Unavailable`, nothing happened.
    pub error_before: u16,
    /// The call happened and its answer is lost: `Unavailable` all the same.
    pub error_after: u16,
    /// The call is refused: `Throttled`, nothing happened.
    pub throttled: u16,
    /// What a throttled caller is told to wait, in milliseconds.
    pub retry_after_ms: u64,
    /// The call arrives twice, as a proxy repeats it; the second answer is heard.
    pub repeated: u16,
    /// A write is on its way for longer than anybody waits: `Unavailable`, and it arrives before one of the next eight calls.
    pub write_delayed: u16,
    /// A wake comes only with the next call of any method.
    pub wake_delayed: u16,
    /// A wake comes twice.
    pub wake_repeated: u16,
    /// A wake never comes. A real backend tells `Lost` then; the caller must do with its own pace here.
    pub wake_dropped: u16,
}

impl FaultRates {
    /// Everything goes wrong now and then: about one call in five.
    pub fn rough() -> Self {
        let (error_before, error_after, throttled, retry_after_ms) = (60, 60, 40, 20);
        let (repeated, write_delayed) = (20, 20);
        let (wake_delayed, wake_repeated, wake_dropped) = (150, 150, 100);
        Self {
            error_before,
            error_after,
            throttled,
            retry_after_ms,
            repeated,
            write_delayed,
            wake_delayed,
            wake_repeated,
            wake_dropped,
        }
    }
}

/// One thing that goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As `FaultRates::error_before`.
    ErrorBefore,
    /// As `FaultRates::error_after`.
    ErrorAfter,
    /// As `FaultRates::throttled`; the number is what the caller is told, in milliseconds.
    Throttled(u64),
    /// As `FaultRates::repeated`.
    Repeated,
    /// As `FaultRates::write_delayed`; what is no write is only not answered. The number is that of calls until it arrives.
    Delayed(u64),
    /// The backend refuses with this kind; nothing happened.
    Refused(ErrorKind),
}

type LateWrite = Box<dyn FnOnce() + Send>;

/// Wraps a backend and makes it fail.
///
/// Counted are `query`, `get`, `read_chunks`, `set` and `delete`, each item of a `write_batch` as its own call.
pub struct FaultyAdapter {
    inner: Arc<dyn FileSyncAdapter>,
    faults: Arc<Mutex<Faults>>,
}

struct Faults {
    state: u64,
    rates: FaultRates,
    script: BTreeMap<u64, Fault>,
    calls: u64,
    injected: u64,
    /// The call from which on the backend is gone.
    gone_from: Option<u64>,
    late: Vec<Arc<Sink>>,
    /// Writes on their way, each with the call before which it arrives.
    late_writes: Vec<(u64, LateWrite)>,
}

impl FaultyAdapter {
    /// Wraps `inner`; the same seed and the same calls meet the same faults.
    pub fn new(inner: Arc<dyn FileSyncAdapter>, seed: u64, rates: FaultRates) -> Self {
        // Xorshift stays at 0 for ever; neighbouring seeds are spread by an odd factor.
        let state = (seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xD134_2543_DE82_EF95) | 1;
        let faults = Faults {
            state,
            rates,
            script: BTreeMap::new(),
            calls: 0,
            injected: 0,
            gone_from: None,
            late: Vec::new(),
            late_writes: Vec::new(),
        };
        Self { inner, faults: Arc::new(Mutex::new(faults)) }
    }

    /// Makes the `n`th call from now fail so; 1 is the next one. Scripted faults come before drawn ones.
    pub fn fail_nth(&self, n: u64, fault: Fault) {
        let mut faults = lock(&self.faults);
        let call = faults.calls + n;
        faults.script.insert(call, fault);
    }

    /// Goes on with other rates: all at 0 heals it.
    pub fn set_rates(&self, rates: FaultRates) {
        lock(&self.faults).rates = rates;
    }

    /// The backend goes away after this many more calls, 0 for at once, until `come_back`.
    pub fn go_away_after(&self, calls: u64) {
        let mut faults = lock(&self.faults);
        faults.gone_from = Some(faults.calls + calls + 1);
    }

    /// Ends what `go_away_after` began.
    pub fn come_back(&self) {
        lock(&self.faults).gone_from = None;
    }

    /// How many calls were made so far.
    pub fn call_count(&self) -> u64 {
        lock(&self.faults).calls
    }

    /// How many of them failed on purpose.
    pub fn injected_count(&self) -> u64 {
        lock(&self.faults).injected
    }

    /// Tells every delayed wake now.
    pub fn release_wakes(&self) {
        let late = std::mem::take(&mut lock(&self.faults).late);
        for sink in late {
            sink(Wake::Changed);
        }
    }

    /// Lets every write arrive that is still on its way.
    pub fn release_writes(&self) {
        self.arrive(u64::MAX);
    }

    /// Lets writes arrive that were to come before this call.
    fn arrive(&self, call: u64) {
        let mut faults = lock(&self.faults);
        let on_their_way = std::mem::take(&mut faults.late_writes);
        let (due, later) = on_their_way.into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= call);
        faults.late_writes = later;
        // Arriving wakes listeners, whose fate asks for the lock.
        drop(faults);
        due.into_iter().for_each(|(_, write)| write());
    }

    fn call<T>(&self, name: &str, act: impl Fn() -> Result<T, AdapterError>) -> Result<T, AdapterError> {
        self.write(name, act, || Box::new(|| {}))
    }

    /// One call; `late` is what arrives if it is delayed.
    fn write<T>(
        &self,
        name: &str,
        act: impl Fn() -> Result<T, AdapterError>,
        late: impl FnOnce() -> LateWrite,
    ) -> Result<T, AdapterError> {
        self.release_wakes();
        let (fault, call, is_gone) = {
            let mut faults = lock(&self.faults);
            let fault = faults.next_fault();
            faults.injected += u64::from(fault.is_some());
            (fault, faults.calls, faults.is_gone())
        };
        if !is_gone {
            self.arrive(call);
        }
        let injected = |kind, when: &str| Err(AdapterError::new(kind, format!("{name}: injected fault {when}")));
        match fault {
            None => act(),
            Some(Fault::ErrorBefore) => injected(ErrorKind::Unavailable, "before the call"),
            Some(Fault::Throttled(retry_after_ms)) => injected(ErrorKind::Throttled { retry_after_ms }, "of pace"),
            Some(Fault::Refused(kind)) => injected(kind, "of refusal"),
            Some(Fault::ErrorAfter) => {
                // Whatever the backend answered, the caller does not hear it.
                let _ = act();
                injected(ErrorKind::Unavailable, "after the call")
            }
            Some(Fault::Repeated) => {
                let _ = act();
                act()
            }
            Some(Fault::Delayed(calls)) => {
                lock(&self.faults).late_writes.push((call + calls, late()));
                injected(ErrorKind::Unavailable, "of delay")
            }
        }
    }
}

impl FileSyncAdapter for FaultyAdapter {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn store_id(&self) -> Option<String> {
        self.inner.store_id()
    }

    fn changes_counted(&self) -> Result<Option<u64>, AdapterError> {
        self.inner.changes_counted()
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        self.call("query", || self.inner.query(query))
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        self.call("get", || self.inner.get(id))
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        self.call("read chunks", || self.inner.read_chunks(id, first, count))
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        let late = || -> LateWrite {
            let (inner, record, expected) = (Arc::clone(&self.inner), record.clone(), expected.clone());
            // Nobody hears what becomes of it.
            Box::new(move || drop(inner.set(&record, &expected)))
        };
        self.write("set", || self.inner.set(record, expected), late)
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        let late = || -> LateWrite {
            let (inner, id, expected) = (Arc::clone(&self.inner), id.clone(), expected.clone());
            Box::new(move || drop(inner.delete(&id, &expected)))
        };
        self.write("delete", || self.inner.delete(id, expected), late)
    }

    fn scrub(&self) -> Result<Option<String>, AdapterError> {
        self.call("scrub", || self.inner.scrub())
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        let sink = Arc::new(sink);
        let told = Arc::clone(&sink);
        let faults = Arc::clone(&self.faults);
        let relay: Sink = Box::new(move |wake| {
            let fate = lock(&faults).wake_fate();
            match fate {
                WakeFate::Dropped => {}
                WakeFate::Delayed => lock(&faults).late.push(Arc::clone(&told)),
                WakeFate::Repeated => {
                    told(wake.clone());
                    told(wake);
                }
                WakeFate::Told => told(wake),
            }
        });
        let inner = self.inner.subscribe(query, from, relay)?;
        let faults = Arc::clone(&self.faults);
        Ok(Subscription::new(move || {
            drop(inner);
            lock(&faults).late.retain(|late| !Arc::ptr_eq(late, &sink));
        }))
    }

    fn status(&self) -> Vec<String> {
        self.inner.status()
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.inner.close()
    }
}

enum WakeFate {
    Told,
    Dropped,
    Delayed,
    Repeated,
}

impl Faults {
    fn is_gone(&self) -> bool {
        self.gone_from.is_some_and(|first| first <= self.calls)
    }

    fn next_fault(&mut self) -> Option<Fault> {
        self.calls += 1;
        if self.is_gone() {
            return Some(Fault::ErrorBefore);
        }
        if let Some(fault) = self.script.remove(&self.calls) {
            return Some(fault);
        }
        let rates = self.rates;
        let calls = 1 + (self.state >> 40) % 8;
        let faults = [
            (rates.error_before, Fault::ErrorBefore),
            (rates.error_after, Fault::ErrorAfter),
            (rates.throttled, Fault::Throttled(rates.retry_after_ms)),
            (rates.repeated, Fault::Repeated),
            (rates.write_delayed, Fault::Delayed(calls)),
        ];
        self.draw(&faults)
    }

    fn wake_fate(&mut self) -> WakeFate {
        let rates = self.rates;
        match self.draw(&[(rates.wake_dropped, 0), (rates.wake_delayed, 1), (rates.wake_repeated, 2)]) {
            Some(0) => WakeFate::Dropped,
            Some(1) => WakeFate::Delayed,
            Some(_) => WakeFate::Repeated,
            None => WakeFate::Told,
        }
    }

    fn draw<T: Copy>(&mut self, choices: &[(u16, T)]) -> Option<T> {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let mut drawn = (self.state >> 33) % 1000;
        for &(rate, choice) in choices {
            if drawn < u64::from(rate) {
                return Some(choice);
            }
            drawn -= u64::from(rate);
        }
        None
    }
}

fn lock(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}
