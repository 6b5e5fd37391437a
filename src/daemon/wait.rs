//! Waiting for news of peers: one thread beside each open place, which rings the loop.
//!
//! Invariant: a thread waits on the very handle that the engine exchanges over, so what is put from here rings nobody; a handle
//! that the engine gave up is waited on no more. A ring is a hint, and one that is never given costs at most the interval.
//! Exchanges nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::notes::{Note, Notes};
use super::up::LONGEST_SLEEP;
use crate::transport::{Cancel, Transport, TransportErrorKind, WaitHint, Wake};

/// A wait that ended with an error begins again at the earliest so long after it began.
const AGAIN: Duration = Duration::from_secs(5);

/// The threads that wait, by the peers' names.
pub(super) struct Waiters {
    notes: Notes,
    waiting: BTreeMap<String, Waiter>,
}

struct Waiter {
    place: Arc<dyn Transport>,
    cancel: Cancel,
    since: Instant,
    /// What it found: that the place cannot tell.
    thread: Option<JoinHandle<Told>>,
    is_mute: bool,
}

/// Why a thread ended.
#[derive(PartialEq, Eq)]
enum Told {
    /// The place cannot tell of news: it is asked every interval.
    Mute,
    /// It was called off, or the line broke: the next exchange finds out.
    Over,
}

impl Waiters {
    pub fn new(notes: &Notes) -> Waiters {
        Waiters { notes: notes.clone(), waiting: BTreeMap::new() }
    }

    /// Waits from now on at these places and no others.
    pub fn follow(&mut self, places: Vec<(String, Arc<dyn Transport>)>) {
        self.waiting.retain(|name, waiter| {
            waiter.reap();
            let open = places.iter().find(|(open, _)| open == name);
            let same = open.is_some_and(|(_, place)| Arc::ptr_eq(place, &waiter.place));
            same && (waiter.is_waiting() || waiter.is_mute || waiter.since.elapsed() < AGAIN)
        });
        for (name, place) in places {
            if !self.waiting.contains_key(&name) {
                let waiter = Waiter::start(&name, place, &self.notes);
                self.waiting.insert(name, waiter);
            }
        }
    }

    /// The peers that cannot tell of news.
    pub fn mute(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().filter(|(_, waiter)| waiter.is_mute).map(|(name, _)| name.as_str())
    }
}

impl Waiter {
    fn start(name: &str, place: Arc<dyn Transport>, notes: &Notes) -> Waiter {
        let cancel = Cancel::new();
        let (name, notes) = (name.to_owned(), notes.clone());
        let (at, hint) =
            (place.clone(), WaitHint { timeout_ms: LONGEST_SLEEP.as_millis() as u64, cancel: cancel.clone() });
        let body = move || wait(&*at, &hint, || notes.try_send(Note::Peer(name.clone())));
        // Without a thread there are no hints, and the interval does it alone.
        let thread = std::thread::Builder::new().name("larder-peer-wait".to_owned()).spawn(body).ok();
        Waiter { place, cancel, since: Instant::now(), thread, is_mute: false }
    }

    fn is_waiting(&self) -> bool {
        self.thread.is_some()
    }

    fn reap(&mut self) {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(Ok(told)) = self.thread.take().map(JoinHandle::join)
        {
            self.is_mute = told == Told::Mute;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Not joined: a place that hangs must not hang whoever lets go of it.
        self.cancel.cancel();
    }
}

/// Rings for each piece of news until nobody hears, the place cannot tell, or the line breaks.
fn wait(place: &dyn Transport, hint: &WaitHint, ring: impl Fn() -> bool) -> Told {
    loop {
        match place.wait(hint) {
            Ok(Wake::Changed) if !ring() => return Told::Over,
            Ok(Wake::Changed | Wake::Timeout) => {}
            Ok(Wake::Cancelled) => return Told::Over,
            Err(error) if error.kind == TransportErrorKind::Unsupported => return Told::Mute,
            Err(_) => {
                // An exchange tells why, and status with it.
                ring();
                return Told::Over;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::notes::{Inbox, notes};
    use super::*;
    use crate::transport::faulty::Moment;
    use crate::transport::{FaultPlan, FaultyTransport, MemoryPlace};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn rung(inbox: &Inbox) -> Option<String> {
        match inbox.recv_timeout(PATIENCE) {
            Ok(Note::Peer(name)) => Some(name),
            _ => None,
        }
    }

    fn visitor(place: &Arc<MemoryPlace>) -> Arc<dyn Transport> {
        Arc::new(place.visit("memory"))
    }

    /// Ends a wait in good order: nothing rings after it.
    fn end(waiters: &mut Waiters, name: &str) {
        let mut waiter = waiters.waiting.remove(name).expect("it waits");
        waiter.cancel.cancel();
        let thread = waiter.thread.take().expect("it runs");
        assert!(thread.join().is_ok_and(|told| told == Told::Over));
    }

    #[test]
    fn news_of_a_peer_rings_with_its_name_and_what_is_put_from_here_does_not() {
        let (notes, inbox) = notes();
        let place = MemoryPlace::new();
        let (ours, theirs) = (visitor(&place), visitor(&place));
        let mut waiters = Waiters::new(&notes);
        waiters.follow(vec![("usb".to_owned(), ours.clone())]);

        ours.put_new("app/a", b"1").expect("puts");
        theirs.put_new("app/b", b"2").expect("puts");

        assert_eq!(rung(&inbox).as_deref(), Some("usb"));
        end(&mut waiters, "usb");
        assert!(inbox.try_iter().next().is_none(), "one ring for one piece of news");
    }

    #[test]
    fn a_place_that_was_given_up_rings_no_more_and_the_one_in_its_stead_does() {
        let (notes, inbox) = notes();
        let (old, new) = (MemoryPlace::new(), MemoryPlace::new());
        let mut waiters = Waiters::new(&notes);
        waiters.follow(vec![("usb".to_owned(), visitor(&old))]);
        waiters.follow(vec![("usb".to_owned(), visitor(&new))]);

        visitor(&old).put_new("app/a", b"1").expect("puts");
        visitor(&new).put_new("app/b", b"2").expect("puts");

        assert_eq!(rung(&inbox).as_deref(), Some("usb"));
        end(&mut waiters, "usb");
        assert!(inbox.try_iter().next().is_none(), "the old place rang");
    }

    #[test]
    fn a_line_that_broke_rings_once_and_is_not_waited_on_again_at_once() {
        let (notes, inbox) = notes();
        let dead = FaultPlan::DieAt { call: 0, moment: Moment::Before };
        let place: Arc<dyn Transport> = Arc::new(FaultyTransport::new(visitor(&MemoryPlace::new()), dead));
        let mut waiters = Waiters::new(&notes);
        waiters.follow(vec![("usb".to_owned(), place.clone())]);
        assert_eq!(rung(&inbox).as_deref(), Some("usb"));
        let begun = waiters.waiting["usb"].since;

        waiters.follow(vec![("usb".to_owned(), place.clone())]);
        assert_eq!(waiters.waiting["usb"].since, begun);
        waiters.waiting.get_mut("usb").expect("it is known").since -= AGAIN;
        while waiters.waiting["usb"].thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
        waiters.follow(vec![("usb".to_owned(), place)]);

        assert_eq!(rung(&inbox).as_deref(), Some("usb"), "it is tried again later");
    }
}
