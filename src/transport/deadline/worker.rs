//! The thread of one place, and what all such threads have in common.
//!
//! Invariant: one answer is had or given up, never both; what was given up is done once, in the thread, and counted until it is.
//! Knows nothing of what is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::{Cancel, Transport, TransportError, TransportErrorKind};
use super::standing::{Answer, Haste, Standing};

/// Told the name of a place whose answer came after all.
pub type Bell = Arc<dyn Fn(&str) + Send + Sync>;

/// How long the places of one project are waited for. Clones share it.
///
/// Who is never told that anything waits, as a command, gives each place all its time.
#[derive(Clone, Default)]
pub struct Deadlines {
    shared: Arc<Mutex<Shared>>,
    /// What the bell calls the place.
    place: Option<String>,
}

#[derive(Default)]
struct Shared {
    haste: Haste,
    run: u64,
    over: Cancel,
    bell: Option<Bell>,
}

impl Deadlines {
    /// From here on whoever waits for a place keeps others waiting. `bell` is rung, from any thread, when a place answered that had been
    /// given up; nobody waits any more once `over` is thrown.
    pub fn hurry(&self, bell: Bell, over: Cancel) {
        let mut shared = lock(&self.shared);
        (shared.haste, shared.bell, shared.over) = (Haste::Unasked, Some(bell), over);
    }

    /// A run begins, which somebody asked for or not.
    pub fn begin_run(&self, is_asked: bool) {
        let mut shared = lock(&self.shared);
        shared.run += 1;
        if shared.haste != Haste::None {
            shared.haste = if is_asked { Haste::Asked } else { Haste::Unasked };
        }
    }

    /// What waits in the run under way.
    pub fn haste(&self) -> Haste {
        lock(&self.shared).haste
    }

    /// These, for the place that the bell calls so.
    pub fn of_place(&self, name: &str) -> Deadlines {
        Deadlines { shared: self.shared.clone(), place: Some(name.to_owned()) }
    }

    fn ring(&self) {
        let bell = lock(&self.shared).bell.clone();
        if let (Some(bell), Some(place)) = (bell, &self.place) {
            bell(place);
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The thread of one place.
pub(super) struct Worker {
    work: Mutex<Sender<Work>>,
    standing: Arc<Mutex<Standing>>,
    label: String,
    usual: Option<Duration>,
    deadlines: Deadlines,
    kept: Kept,
}

/// The place, for its thread to keep: closing it may block as well, so its last handle goes there.
type Kept = Arc<Mutex<Option<Arc<dyn Transport>>>>;

/// How the place of a label stands, for all who open it: one that is opened anew while it owes an answer would block one more thread.
fn standing_of(label: &str) -> Arc<Mutex<Standing>> {
    static STANDINGS: Mutex<BTreeMap<String, Arc<Mutex<Standing>>>> = Mutex::new(BTreeMap::new());
    lock(&STANDINGS).entry(label.to_owned()).or_default().clone()
}

/// The first thing that is asked of a place.
pub(super) const OPEN_PLACE: &str = "open";

/// What became of one order: whoever changes it first decides.
const OPEN: u8 = 0;
const DONE: u8 = 1;
const GIVEN_UP: u8 = 2;

/// What ends a wait.
enum Heard<T> {
    Outcome(Result<T, TransportError>),
    /// Nobody waits any more.
    Over,
}

/// Tells whoever waits. What ends without a word, because it panicked, is waited for no longer.
struct Telling<T>(Sender<Heard<T>>);

impl<T> Drop for Telling<T> {
    fn drop(&mut self) {
        // As a rule it was told before, and nobody listens.
        let _ = self.0.send(Heard::Over);
    }
}

impl Worker {
    /// Begins the thread. `usual` is how long the place has if nobody is in haste; `None` if it ends everything by itself.
    pub fn begin(label: &str, usual: Option<Duration>, deadlines: Deadlines) -> Result<Worker, TransportError> {
        let (work, orders) = mpsc::channel::<Work>();
        let kept = Kept::default();
        let its_place = kept.clone();
        let run = move || {
            orders.into_iter().for_each(|work| work());
            drop(lock(&its_place).take());
        };
        let thread = std::thread::Builder::new().name("larder-place".to_owned()).spawn(run);
        thread.map_err(|error| {
            let detail = "no thread can be had for it";
            TransportError::new(TransportErrorKind::Unavailable, "open", label, detail).with_source(error)
        })?;
        let (work, label) = (Mutex::new(work), label.to_owned());
        Ok(Worker { work, standing: standing_of(&label), label, usual, deadlines, kept })
    }

    /// Gives the thread the place to keep.
    pub fn keep(&self, place: Arc<dyn Transport>) {
        *lock(&self.kept) = Some(place);
    }

    /// Has the thread do something that moves so many bytes, and waits for it as long as it may take.
    pub fn ask<T: Send + 'static>(
        &self,
        action: &'static str,
        bytes: u64,
        work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let (haste, run, over) = {
            let shared = lock(&self.deadlines.shared);
            (shared.haste, shared.run, shared.over.clone())
        };
        let allowed = {
            let mut standing = lock(&self.standing);
            if standing.owes() || over.is_cancelled() {
                return Err(self.silent(action, &over));
            }
            standing.allowed(haste, run, self.usual, bytes)
        };
        let began = Instant::now();
        let (tell, heard) = mpsc::channel();
        let fate = Arc::new(AtomicU8::new(OPEN));
        let order = self.order(action, fate.clone(), Telling(tell.clone()), work);
        lock(&self.work).send(order).map_err(|_| self.silent(action, &over))?;
        let _hook = over.on_cancel(move || drop(tell.send(Heard::Over)));
        if let Some(Heard::Outcome(outcome)) = wait(&heard, allowed) {
            lock(&self.standing).told(answer_in(action, &outcome), began.elapsed());
            return outcome;
        }
        // Counted before it is given up, so that the thread never counts down what was not counted.
        lock(&self.standing).given_up();
        if fate.compare_exchange(OPEN, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Err(self.silent(action, &over));
        }
        lock(&self.standing).not_given_up();
        // It is done at this very moment, and told next.
        let told = heard.iter().find_map(|heard| match heard {
            Heard::Outcome(outcome) => Some(outcome),
            Heard::Over => None,
        });
        told.unwrap_or_else(|| Err(self.silent(action, &over)))
    }

    /// What the thread does with an order, so that whoever gave it, or else whoever waits for the place, hears of its end.
    fn order<T: Send + 'static>(
        &self,
        action: &'static str,
        fate: Arc<AtomicU8>,
        telling: Telling<T>,
        work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
    ) -> Work {
        let (standing, deadlines) = (self.standing.clone(), self.deadlines.clone());
        Box::new(move || {
            let outcome = work();
            if fate.swap(DONE, Ordering::AcqRel) == GIVEN_UP {
                let is_worth_a_run = lock(&standing).came(answer_in(action, &outcome));
                // Before the bell: what closes with it may take its time, and belongs to this thread.
                drop(outcome);
                if is_worth_a_run {
                    deadlines.ring();
                }
                return;
            }
            // Whoever asked may have given up just now.
            let _ = telling.0.send(Heard::Outcome(outcome));
        })
    }

    fn silent(&self, action: &'static str, over: &Cancel) -> TransportError {
        let detail = if over.is_cancelled() {
            "it was not waited for: the program was told to end"
        } else {
            "it does not answer: what holds it may be gone; everything else goes on without it"
        };
        TransportError::new(TransportErrorKind::Unavailable, action, &self.label, detail)
    }
}

fn answer_in<T>(action: &str, outcome: &Result<T, TransportError>) -> Answer {
    match outcome {
        Err(error) if error.kind == TransportErrorKind::Unavailable => Answer::Nothing,
        Ok(_) if action == OPEN_PLACE => Answer::Opened,
        _ => Answer::Said,
    }
}

/// The first that is heard in time.
fn wait<T>(heard: &Receiver<T>, allowed: Option<Duration>) -> Option<T> {
    match allowed {
        Some(allowed) => heard.recv_timeout(allowed).ok(),
        None => heard.recv().ok(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is whole when it ends: a panic elsewhere cannot leave it half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
