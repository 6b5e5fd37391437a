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
use super::standing::{Answer, Haste, Load, SLOWEST_BYTES_PER_SECOND, Standing};

/// What the bell calls the backend; no peer can have that name.
pub const BACKEND_BELL: &str = "";

/// Told the name of a place whose answer came after all.
pub type Bell = Arc<dyn Fn(&str) + Send + Sync>;

/// Says whether others wait for the run under way.
pub type OthersWait = Arc<dyn Fn() -> bool + Send + Sync>;

/// What is done, in the thread, with an answer that nobody waited for any more.
pub(super) type Late<T> = Box<dyn FnOnce(Result<T, TransportError>) -> Result<(), TransportError> + Send>;

/// How long the places of one project are waited for. Clones share it.
///
/// Who is never told that anything waits, as a command, gives each place all its time.
#[derive(Clone, Default)]
pub struct Deadlines {
    shared: Arc<Mutex<Shared>>,
    /// What the bell calls the place.
    place: Option<String>,
    /// What is asked there is ended elsewhere once nobody waits any more.
    is_ended_elsewhere: bool,
}

#[derive(Default)]
struct Shared {
    haste: Haste,
    run: u64,
    over: Cancel,
    bell: Option<Bell>,
    others_wait: Option<OthersWait>,
    /// The run under way has not recorded yet what it has to.
    has_to_record: bool,
    /// It has to know all that others say before it does.
    has_to_hear: bool,
}

impl Deadlines {
    /// From here on whoever waits for a place keeps others waiting. `bell` is rung, from any thread, when a place answered that had been
    /// given up; `others_wait` says whether that is so at the moment; nobody waits any more once `over` is thrown.
    pub fn hurry(&self, bell: Bell, others_wait: OthersWait, over: Cancel) {
        let mut shared = lock(&self.shared);
        (shared.haste, shared.bell, shared.over) = (Haste::Unasked, Some(bell), over);
        shared.others_wait = Some(others_wait);
    }

    /// Nobody is kept waiting from here on; who is told of late answers is said by `hurry`.
    pub fn hasten(&self) {
        lock(&self.shared).haste = Haste::Unasked;
    }

    /// A run begins, which somebody asked for or not. `has_to_record`: it will look at the disk once it was told what others have.
    pub fn begin_run(&self, is_asked: bool, has_to_record: bool) {
        let mut shared = lock(&self.shared);
        shared.run += 1;
        (shared.has_to_record, shared.has_to_hear) = (has_to_record, false);
        if shared.haste != Haste::None {
            shared.haste = if is_asked { Haste::Asked } else { Haste::Unasked };
        }
    }

    /// It has looked at the disk.
    pub fn has_recorded(&self) {
        lock(&self.shared).has_to_record = false;
    }

    /// Whether the run under way has to know, before it records anything, what it asks for from here on: much of that is waited for as
    /// if somebody had asked.
    pub fn set_has_to_hear(&self, has_to_hear: bool) {
        lock(&self.shared).has_to_hear = has_to_hear;
    }

    /// True if somebody waits for the run under way, and nobody asked for it.
    pub fn somebody_waits(&self) -> bool {
        let others_wait = {
            let shared = lock(&self.shared);
            if shared.haste != Haste::Unasked || shared.has_to_record {
                return shared.haste == Haste::Unasked;
            }
            shared.others_wait.clone()
        };
        others_wait.is_some_and(|others_wait| others_wait())
    }

    /// What waits in the run under way.
    pub fn haste(&self) -> Haste {
        lock(&self.shared).haste
    }

    /// These, for the place that the bell calls so.
    pub fn of_place(&self, name: &str) -> Deadlines {
        Deadlines { shared: self.shared.clone(), place: Some(name.to_owned()), is_ended_elsewhere: false }
    }

    /// These, for a backend over a network: `larder_adapters::drive::end` ends what it was asked, a moment after the program was told to end.
    pub fn of_backend(&self) -> Deadlines {
        Deadlines { is_ended_elsewhere: true, ..self.of_place(BACKEND_BELL) }
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

/// The least time that a place has for what is much before it is left for others.
#[cfg(not(test))]
const LEAVE_AFTER: Duration = super::standing::UNASKED;
#[cfg(test)]
const LEAVE_AFTER: Duration = Duration::from_millis(20);

/// How often it is asked whether others wait meanwhile.
const LOOK: Duration = Duration::from_millis(50);

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
        load: impl Into<Load>,
        work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        self.ask_or_leave(action, load.into(), None, work)
    }

    /// The same for what may take long because it is much: whoever is in haste leaves the place to it once others wait, and is rung
    /// when it is done and `late` did with the answer what is to be done. In haste nothing else is asked there meanwhile: AtWork.
    pub fn ask_much<T: Send + 'static>(
        &self,
        action: &'static str,
        bytes: u64,
        late: impl FnOnce(Result<T, TransportError>) -> Result<(), TransportError> + Send + 'static,
        work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let is_much = bytes >= SLOWEST_BYTES_PER_SECOND;
        self.ask_or_leave(action, bytes.into(), is_much.then(|| Box::new(late) as Late<T>), work)
    }

    fn ask_or_leave<T: Send + 'static>(
        &self,
        action: &'static str,
        load: Load,
        late: Option<Late<T>>,
        work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let began = Instant::now();
        let (haste, run, over) = {
            let shared = lock(&self.deadlines.shared);
            let is_needed = late.is_some() && shared.has_to_hear && shared.haste == Haste::Unasked;
            let over = if self.deadlines.is_ended_elsewhere { Cancel::new() } else { shared.over.clone() };
            (if is_needed { Haste::Asked } else { shared.haste }, shared.run, over)
        };
        let (allowed, may_leave) = {
            let mut standing = lock(&self.standing);
            let work_left = standing.work_left(began);
            if (standing.owes() && work_left.is_none()) || over.is_cancelled() {
                return Err(self.silent(action, &over));
            }
            let is_unasked = haste == Haste::Unasked;
            if work_left.is_some() && is_unasked {
                return Err(self.at_work(action));
            }
            let may_leave = late.is_some() && is_unasked && standing.may_be_left();
            let haste = if may_leave { Haste::None } else { haste };
            let allowed = standing.allowed(haste, run, self.usual, load);
            // Behind what is under way there.
            (allowed.map(|allowed| allowed + work_left.unwrap_or_default()), may_leave)
        };
        let (tell, heard) = mpsc::channel();
        let fate = Arc::new(AtomicU8::new(OPEN));
        let order = self.order(action, fate.clone(), Telling(tell.clone()), late, work);
        lock(&self.work).send(order).map_err(|_| self.silent(action, &over))?;
        let _hook = over.on_cancel(move || drop(tell.send(Heard::Over)));
        let waited = if may_leave { self.wait_or_leave(&heard, allowed) } else { wait(&heard, allowed) };
        if let Waited::Heard(Heard::Outcome(outcome)) = waited {
            lock(&self.standing).told(answer_in(action, &outcome), began.elapsed());
            return outcome;
        }
        let is_left = matches!(waited, Waited::Left);
        // Counted before it is given up, so that the thread never counts down what was not counted.
        if is_left {
            lock(&self.standing).left_at_work(began, allowed);
        } else {
            lock(&self.standing).given_up();
        }
        if fate.compare_exchange(OPEN, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Err(if is_left { self.at_work(action) } else { self.silent(action, &over) });
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
        late: Option<Late<T>>,
        work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
    ) -> Work {
        let (standing, deadlines) = (self.standing.clone(), self.deadlines.clone());
        Box::new(move || {
            let outcome = work();
            if fate.swap(DONE, Ordering::AcqRel) == GIVEN_UP {
                let answer = answer_in(action, &outcome);
                // Before the bell: what is done with it, or closes with it, may take its time, and belongs to this thread.
                let settled = late.map_or(Answer::Said, |late| answer_in(action, &late(outcome)));
                let answer = if settled == Answer::Nothing { settled } else { answer };
                if lock(&standing).came(answer) {
                    deadlines.ring();
                }
                return;
            }
            // Whoever asked may have given up just now.
            let _ = telling.0.send(Heard::Outcome(outcome));
        })
    }

    fn at_work(&self, action: &'static str) -> TransportError {
        TransportError::new(TransportErrorKind::AtWork, action, &self.label, "it is still at what was asked before")
    }

    /// Waits as long as is allowed, or until others wait and had to for as long as anybody does.
    fn wait_or_leave<T>(&self, heard: &Receiver<Heard<T>>, allowed: Option<Duration>) -> Waited<T> {
        let began = Instant::now();
        let mut pause = LEAVE_AFTER;
        loop {
            let left = allowed.map(|allowed| allowed.saturating_sub(began.elapsed()));
            match wait(heard, Some(left.map_or(pause, |left| pause.min(left)))) {
                Waited::TimeUp if left.is_some_and(|left| left <= pause) => return Waited::TimeUp,
                Waited::TimeUp if self.deadlines.somebody_waits() => return Waited::Left,
                Waited::TimeUp => pause = LOOK,
                heard => return heard,
            }
        }
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

/// How a wait ended.
enum Waited<T> {
    Heard(Heard<T>),
    TimeUp,
    /// Others wait.
    Left,
}

/// The first that is heard in time.
fn wait<T>(heard: &Receiver<Heard<T>>, allowed: Option<Duration>) -> Waited<T> {
    let first = match allowed {
        Some(allowed) => heard.recv_timeout(allowed).ok(),
        None => heard.recv().ok(),
    };
    first.map_or(Waited::TimeUp, Waited::Heard)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is whole when it ends: a panic elsewhere cannot leave it half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
