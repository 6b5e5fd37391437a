//! A deadline for places that may never answer: a folder of a file server that is gone blocks whoever touches it, for ever, and a server
//! may take a connection and say nothing.
//!
//! Each such place gets a thread of its own that does what is asked there, one thing after another. Invariant: the caller is answered
//! within the time allowed, by what came of it or by Unavailable; what was begun goes on in the thread and is never done twice by it.
//! A place that did not answer is not asked again until it did. What is
//! much goes on without whoever asked, if others wait for him. A thread that is stuck is left behind: nothing can call it back, and
//! it does not keep the process from ending. Knows nothing of artifacts.

mod backend;
mod late;
mod standing;
mod worker;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{
    Body, ListRequest, Listing, Mending, Put, Removing, Transport, TransportError, TransportErrorKind, WaitHint, Wake,
};
pub use backend::{CALL, DeadlineBackend};
use late::Late;
pub use standing::Haste;
pub use worker::{BACKEND_BELL, Bell, Deadlines, OthersWait};
use worker::{OPEN_PLACE, Worker, lock};

/// How long a folder may take to answer, without what the bytes take.
pub const ANSWER: Duration = Duration::from_secs(30);

/// Does something once with what may never answer, within the time that a folder has.
///
/// Errors: Unavailable if there was no answer; what `work` says.
pub fn once<T: Send + 'static>(
    label: &str,
    action: &'static str,
    work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
) -> Result<T, TransportError> {
    Worker::begin(label, Some(ANSWER), Deadlines::default())?.ask(action, 0, work)
}

/// A place behind a deadline.
pub struct DeadlineTransport {
    place: Arc<dyn Transport>,
    worker: Worker,
    /// Bytes put and not settled yet: settling may have to write them all.
    unsettled_bytes: AtomicU64,
    /// What came for whoever did not wait for it: it is his when he asks again.
    late: Arc<Mutex<Late>>,
    /// The last that was refused when nobody waited for it any more, and why.
    refused: Arc<Mutex<Option<(String, TransportError)>>>,
}

impl DeadlineTransport {
    /// Opens a place, which may take as long as any answer, and puts it behind a deadline: so long if nobody is in haste, or, with
    /// `None`, as long as it takes the place to end everything by itself. `label` is the place's for as long as the process lives.
    ///
    /// Errors: Unavailable if it does not answer; what `open` says.
    pub fn open(
        label: &str,
        usual: Option<Duration>,
        deadlines: Deadlines,
        open: impl FnOnce() -> Result<Arc<dyn Transport>, TransportError> + Send + 'static,
    ) -> Result<DeadlineTransport, TransportError> {
        let worker = Worker::begin(label, usual, deadlines)?;
        let place = worker.ask(OPEN_PLACE, 0, open)?;
        worker.keep(place.clone());
        Ok(DeadlineTransport {
            place,
            worker,
            unsettled_bytes: AtomicU64::new(0),
            late: Arc::default(),
            refused: Arc::default(),
        })
    }

    fn have<T: Send + 'static>(
        &self,
        action: &'static str,
        bytes: u64,
        work: impl FnOnce(&dyn Transport) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        lock(&self.late).forget_old(Instant::now());
        let place = self.place.clone();
        self.worker.ask(action, bytes, move || work(&*place))
    }

    /// What goes on after whoever asked has left is settled with all that was put before: he will only look whether it is there. If it
    /// was refused, he is told when he offers it again.
    fn put_much(
        &self,
        name: &str,
        bytes: u64,
        put: impl FnOnce(&dyn Transport) -> Result<Put, TransportError> + Send + 'static,
    ) -> Result<Put, TransportError> {
        if let Some((_, refusal)) = lock(&self.refused).take_if(|(refused, _)| refused == name) {
            return Err(refusal);
        }
        let (place, same, refused) = (self.place.clone(), self.place.clone(), self.refused.clone());
        let name = name.to_owned();
        let late = move |done: Result<Put, TransportError>| match done {
            Ok(_) => same.settle_puts(),
            Err(error) => {
                *lock(&refused) = (error.kind != TransportErrorKind::Unavailable).then_some((name, error));
                Ok(())
            }
        };
        self.worker.ask_much("put", bytes, late, move || put(&*place))
    }

    fn have_mended<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce(&dyn Mending) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        self.have("mend", bytes, |place| match place.mending() {
            Some(mending) => work(mending),
            None => Err(TransportError::new(TransportErrorKind::Unsupported, "mend", place.label(), "it cannot")),
        })
    }
}

impl Transport for DeadlineTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        let request = request.clone();
        self.have("list", 0, move |place| place.list(&request))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        if range.is_some() {
            // The parts before it would be lost.
            let name = name.to_owned();
            return self.have("get", max_bytes, move |place| place.get(&name, range, max_bytes));
        }
        let came = lock(&self.late).take(Instant::now(), name);
        if let Some(bytes) = came.filter(|bytes| bytes.len() as u64 <= max_bytes) {
            return Ok(bytes);
        }
        let (place, kept) = (self.place.clone(), self.late.clone());
        let (name, asked) = (name.to_owned(), name.to_owned());
        let keep = move |bytes: Result<Vec<u8>, TransportError>| {
            if let Ok(bytes) = bytes {
                lock(&kept).keep(Instant::now(), asked, bytes);
            }
            Ok(())
        };
        self.worker.ask_much("get", max_bytes, keep, move || place.get(&name, None, max_bytes))
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        self.have("put", bytes.len() as u64, move |place| place.put_new(&name, &bytes))
    }

    fn put_later(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        self.unsettled_bytes.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        self.put_much(&name.clone(), bytes.len() as u64, move |place| place.put_later(&name, &bytes))
    }

    fn put_from(&self, name: &str, body: Body) -> Result<Put, TransportError> {
        let (name, bytes) = (name.to_owned(), body.size_bytes);
        self.unsettled_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.put_much(&name.clone(), bytes, move |place| place.put_from(&name, body))
    }

    fn part_bytes(&self) -> Option<u64> {
        self.place.part_bytes()
    }

    fn settle_puts(&self) -> Result<(), TransportError> {
        let bytes = self.unsettled_bytes.swap(0, Ordering::AcqRel);
        self.have("settle", bytes, |place| place.settle_puts())
    }

    /// Waits beside the thread, which others need meanwhile: whoever waits has a thread of his own to lose.
    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.place.wait(hint)
    }

    fn label(&self) -> &str {
        self.place.label()
    }

    fn heads(&self, prefix: &str) -> Result<Option<Vec<String>>, TransportError> {
        let prefix = prefix.to_owned();
        self.have("list", 0, move |place| place.heads(&prefix))
    }

    fn mending(&self) -> Option<&dyn Mending> {
        self.place.mending().map(|_| self as &dyn Mending)
    }

    fn removing(&self) -> Option<&dyn Removing> {
        self.place.removing().map(|_| self as &dyn Removing)
    }
}

impl Removing for DeadlineTransport {
    fn remove(&self, name: &str) -> Result<(), TransportError> {
        let name = name.to_owned();
        self.have("remove", 0, move |place| match place.removing() {
            Some(removing) => removing.remove(&name),
            None => Err(TransportError::new(TransportErrorKind::Unsupported, "remove", place.label(), "it cannot")),
        })
    }

    fn remove_set_aside(&self) -> Result<(), TransportError> {
        self.have("remove", 0, move |place| place.removing().map_or(Ok(()), Removing::remove_set_aside))
    }
}

impl Mending for DeadlineTransport {
    fn ask(&self, name: &str) -> Result<(), TransportError> {
        let name = name.to_owned();
        self.have_mended(0, move |mending| mending.ask(&name))
    }

    fn asked(&self, app: &str) -> Result<Option<Vec<String>>, TransportError> {
        let app = app.to_owned();
        self.have_mended(0, move |mending| mending.asked(&app))
    }

    fn settle(&self, name: &str) -> Result<(), TransportError> {
        let name = name.to_owned();
        self.have_mended(0, move |mending| mending.settle(&name))
    }

    fn mend(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        self.have_mended(bytes.len() as u64, move |mending| mending.mend(&name, &bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Condvar, Mutex, mpsc};

    use super::*;
    use crate::transport::Cancel;
    use crate::transport::{Depth, MemoryPlace, contract};

    /// A place that answers only while its door is open.
    struct Door {
        place: Arc<dyn Transport>,
        is_open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    impl Door {
        fn new(label: &str, is_open: bool) -> Arc<Door> {
            let place = Arc::new(MemoryPlace::new().visit(label)) as Arc<dyn Transport>;
            Arc::new(Door { place, is_open: Mutex::new(is_open), opened: Condvar::new(), asked: AtomicUsize::new(0) })
        }

        fn set(&self, is_open: bool) {
            *self.is_open.lock().expect("whole") = is_open;
            self.opened.notify_all();
        }

        fn pass(&self) -> &dyn Transport {
            self.asked.fetch_add(1, Ordering::AcqRel);
            let is_open = self.is_open.lock().expect("whole");
            drop(self.opened.wait_while(is_open, |is_open| !*is_open).expect("whole"));
            &*self.place
        }
    }

    impl Transport for Arc<Door> {
        fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
            self.pass().list(request)
        }

        fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
            self.pass().get(name, range, max_bytes)
        }

        fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
            self.pass().put_new(name, bytes)
        }

        fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
            self.place.wait(hint)
        }

        fn label(&self) -> &str {
            self.place.label()
        }
    }

    fn behind(door: &Arc<Door>, allowed_ms: u64) -> Result<DeadlineTransport, TransportError> {
        let place = Arc::new(door.clone()) as Arc<dyn Transport>;
        let usual = Some(Duration::from_millis(allowed_ms));
        DeadlineTransport::open(door.label(), usual, Deadlines::default(), || Ok(place))
    }

    fn nobody() -> OthersWait {
        Arc::new(|| false)
    }

    fn all(place: &DeadlineTransport) -> Result<Listing, TransportError> {
        place.list(&ListRequest::new("", Depth::All))
    }

    #[test]
    fn a_place_that_does_not_answer_is_given_up_and_not_asked_again_until_it_did() {
        let door = Door::new("a silent place", false);
        let place = behind(&door, 20).expect("opens");

        for _ in 0..3 {
            let error = all(&place).expect_err("nobody answers");
            assert_eq!(error.kind, TransportErrorKind::Unavailable);
            assert!(
                error.to_string().contains("a silent place") && error.to_string().contains("does not answer"),
                "{error}"
            );
        }
        assert_eq!(place.get("a/x", None, 10).expect_err("nobody answers").kind, TransportErrorKind::Unavailable);
        assert!(behind(&door, 20).is_err(), "opened anew it owes the same answer");
        assert_eq!(door.asked.load(Ordering::Acquire), 1);

        door.set(true);
        while all(&place).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(place.put_new("a/x", b"x").expect("puts"), Put::Written);
        assert_eq!(all(&place).expect("lists").names, ["a/x"]);
    }

    #[test]
    fn what_was_given_up_may_still_happen_once_and_is_found_there() {
        let door = Door::new("a slow place", false);
        let place = behind(&door, 20).expect("opens");
        assert!(place.put_new("a/x", b"x").is_err());

        door.set(true);
        while all(&place).is_err() {
            std::thread::yield_now();
        }

        assert_eq!(all(&place).expect("lists").names, ["a/x"]);
        assert_eq!(place.put_new("a/x", b"x").expect("puts"), Put::AlreadyThere);
    }

    #[test]
    fn opening_has_a_deadline_too() {
        let door = Door::new("a shut place", false);
        let held = door.clone();
        let usual = Some(Duration::from_millis(20));
        let opened = DeadlineTransport::open("a shut place", usual, Deadlines::default(), move || {
            held.pass();
            Ok(Arc::new(held.clone()) as Arc<dyn Transport>)
        });

        assert_eq!(opened.err().map(|error| error.kind), Some(TransportErrorKind::Unavailable));
        door.set(true);
    }

    #[test]
    fn a_place_that_nobody_waits_for_any_more_rings_once_it_answers() {
        let door = Door::new("a place with a bell", false);
        let (ring, rung) = mpsc::channel();
        let deadlines = Deadlines::default();
        deadlines.hurry(Arc::new(move |name| drop(ring.send(name.to_owned()))), nobody(), Cancel::new());
        let place = Arc::new(door.clone()) as Arc<dyn Transport>;
        let usual = Some(Duration::from_millis(20));
        let place = DeadlineTransport::open(door.label(), usual, deadlines.of_place("nas"), || Ok(place));
        let place = place.expect("opens");

        for _ in 0..3 {
            deadlines.begin_run(false, false);
            assert!(all(&place).is_err());
        }
        assert!(rung.try_recv().is_err(), "it has not answered");
        door.set(true);

        assert_eq!(rung.recv().as_deref(), Ok("nas"));
        assert!(all(&place).is_ok(), "whoever is told finds it there");
        assert!(rung.try_recv().is_err(), "once");
    }

    const MUCH: usize = 2 << 20;

    /// A place of which whoever asks has others waiting for him, and its bell.
    fn beside_others(door: &Arc<Door>) -> (DeadlineTransport, Deadlines, mpsc::Receiver<String>) {
        let (ring, rung) = mpsc::channel();
        let deadlines = Deadlines::default();
        let bell = Arc::new(move |name: &str| drop(ring.send(name.to_owned())));
        deadlines.hurry(bell, Arc::new(|| true), Cancel::new());
        let place = Arc::new(door.clone()) as Arc<dyn Transport>;
        let opened = DeadlineTransport::open(door.label(), Some(ANSWER), deadlines.of_place("nas"), || Ok(place));
        (opened.expect("opens"), deadlines, rung)
    }

    #[test]
    fn much_that_is_given_goes_on_without_whoever_has_others_waiting() {
        let door = Door::new("a thin line up", false);
        let (place, deadlines, rung) = beside_others(&door);

        let left = place.put_later("a/x", &vec![1; MUCH]).expect_err("others wait");
        assert_eq!(left.kind, TransportErrorKind::AtWork);
        assert_eq!(all(&place).expect_err("it is still at it").kind, TransportErrorKind::AtWork);
        assert!(rung.try_recv().is_err());
        door.set(true);

        assert_eq!(rung.recv().as_deref(), Ok("nas"));
        assert_eq!(all(&place).expect("lists").names, ["a/x"]);
        door.set(false);
        assert!(place.put_later("a/y", &vec![2; MUCH]).is_err());
        // Who asks waits behind what is under way.
        deadlines.begin_run(true, false);
        let asking = std::thread::scope(|scope| {
            let asking = scope.spawn(|| all(&place));
            door.set(true);
            asking.join().expect("ends")
        });
        assert_eq!(asking.expect("lists").names, ["a/x", "a/y"]);
    }

    #[test]
    fn much_that_comes_when_nobody_waits_for_it_any_more_is_there_for_whoever_asks_again() {
        let door = Door::new("a thin line down", true);
        let (place, _deadlines, rung) = beside_others(&door);
        let bytes = vec![3; MUCH];
        place.put_new("a/x", &bytes).expect("puts");
        place.put_new("a/y", b"y").expect("puts");
        door.set(false);

        let left = place.get("a/x", None, MUCH as u64).expect_err("others wait");
        assert_eq!(left.kind, TransportErrorKind::AtWork);
        door.set(true);
        assert_eq!(rung.recv().as_deref(), Ok("nas"));
        let asked = door.asked.load(Ordering::Acquire);

        assert_eq!(place.get("a/x", None, MUCH as u64).expect("it came"), bytes);
        assert_eq!(door.asked.load(Ordering::Acquire), asked, "it is not asked for twice");
        assert_eq!(place.get("a/x", None, MUCH as u64).expect("gets"), bytes);
        assert_eq!(door.asked.load(Ordering::Acquire), asked + 1, "it is not kept");
    }

    #[test]
    fn much_that_is_refused_late_is_not_sent_again_before_whoever_gave_it_knows() {
        let door = Door::new("a thin line that refuses", true);
        let (place, _deadlines, rung) = beside_others(&door);
        place.put_new("a/x", b"other bytes").expect("puts");
        door.set(false);
        assert!(place.put_later("a/x", &vec![1; MUCH]).is_err());
        door.set(true);
        assert!(rung.recv().is_ok());
        let asked = door.asked.load(Ordering::Acquire);

        let refused = place.put_later("a/x", &vec![1; MUCH]).expect_err("it was refused");
        assert_eq!(refused.kind, TransportErrorKind::Conflict);
        assert_eq!(door.asked.load(Ordering::Acquire), asked);
        assert!(place.put_later("a/x", &vec![1; MUCH]).is_err());
        assert_eq!(door.asked.load(Ordering::Acquire), asked + 1, "once");
    }

    #[test]
    fn what_came_late_is_nobody_elses() {
        let door = Door::new("a thin line for two", true);
        let (place, _deadlines, rung) = beside_others(&door);
        place.put_new("a/x", &vec![3; MUCH]).expect("puts");
        place.put_new("a/y", b"y").expect("puts");
        door.set(false);
        assert!(place.get("a/x", None, MUCH as u64).is_err());
        door.set(true);
        assert!(rung.recv().is_ok());

        assert_eq!(place.get("a/y", None, MUCH as u64).expect("gets"), b"y");
        let asked = door.asked.load(Ordering::Acquire);
        assert_eq!(place.get("a/x", None, MUCH as u64).expect("it is still there").len(), MUCH);
        assert_eq!(door.asked.load(Ordering::Acquire), asked);
    }

    #[test]
    fn more_than_was_asked_for_is_not_given_because_it_came_late() {
        let door = Door::new("a thin line for little", true);
        let (place, _deadlines, rung) = beside_others(&door);
        place.put_new("a/x", &vec![3; MUCH]).expect("puts");
        door.set(false);
        assert!(place.get("a/x", None, MUCH as u64).is_err());
        door.set(true);
        assert!(rung.recv().is_ok());

        let few = place.get("a/x", None, 10).expect_err("more than was asked for");
        assert_eq!(few.kind, TransportErrorKind::TooLarge);
    }

    #[test]
    fn what_has_to_be_known_first_is_waited_for() {
        let door = Door::new("a thin line with the news", true);
        let (place, deadlines, _rung) = beside_others(&door);
        place.put_new("a/x", &vec![3; MUCH]).expect("puts");
        door.set(false);
        deadlines.set_has_to_hear(true);

        let got = opened_later(&door, || place.get("a/x", None, MUCH as u64));

        assert_eq!(got.expect("gets").len(), MUCH);
        door.set(false);
        deadlines.set_has_to_hear(false);
        let left = place.get("a/x", None, MUCH as u64).expect_err("others wait");
        assert_eq!(left.kind, TransportErrorKind::AtWork);
        door.set(true);
    }

    /// What is asked at a shut door that is opened long after anybody in haste would have left.
    fn opened_later<T: Send>(door: &Door, ask: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let asking = scope.spawn(ask);
            let before = std::time::Instant::now();
            while before.elapsed() < Duration::from_millis(100) {
                std::thread::yield_now();
            }
            door.set(true);
            asking.join().expect("ends")
        })
    }

    #[test]
    fn a_part_is_waited_for_as_those_before_it_would_be_lost() {
        let door = Door::new("a thin line of parts", true);
        let (place, _deadlines, _rung) = beside_others(&door);
        place.put_new("a/x", &vec![3; MUCH]).expect("puts");
        door.set(false);

        let got = opened_later(&door, || place.get("a/x", Some(0..MUCH as u64), MUCH as u64));

        assert_eq!(got.expect("gets").len(), MUCH);
    }

    #[test]
    fn at_the_end_nobody_waits_for_a_place() {
        let door = Door::new("a place at the end", false);
        let (deadlines, over) = (Deadlines::default(), Cancel::new());
        deadlines.hurry(Arc::new(|_| ()), nobody(), over.clone());
        let place = Arc::new(door.clone()) as Arc<dyn Transport>;
        // It would be waited for until it ends by itself.
        let place = DeadlineTransport::open(door.label(), None, deadlines, || Ok(place)).expect("opens");
        let place = Arc::new(place);

        let waiting = std::thread::spawn({
            let place = place.clone();
            move || all(&place).map_err(|error| error.to_string())
        });
        while door.asked.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        over.cancel();

        let why = waiting.join().expect("ends").expect_err("nobody answered");
        assert!(why.contains("told to end"), "{why}");
        assert!(all(&place).is_err() && door.asked.load(Ordering::Acquire) == 1, "nothing is begun any more");
        door.set(true);
    }

    #[test]
    fn behind_a_deadline_the_contract_holds() {
        contract::run(&|| {
            let memory = MemoryPlace::new();
            Box::new(move || {
                let visitor = Arc::new(memory.visit("place")) as Arc<dyn Transport>;
                let opened = DeadlineTransport::open("place", Some(ANSWER), Deadlines::default(), || Ok(visitor));
                Arc::new(opened.expect("opens")) as Arc<dyn Transport>
            })
        });
    }
}
