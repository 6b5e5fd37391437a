//! What the other threads tell the loop, and whether something of it waits.
//!
//! Invariant: a note counts as waiting from before it is sent until it is taken. Nobody who sends one waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::socket::Asked;

/// What the other threads tell the loop.
pub(super) enum Note {
    /// Hints wait in the watcher.
    Watch,
    /// The backend changed, or may have.
    Backend,
    /// The peer of this name has news, or may have.
    Peer(String),
    /// A paired device left something in the inbox.
    Inbox,
    /// Somebody asks over the socket.
    Asked(Asked),
    /// The view could not show something.
    View(String),
    /// A signal: end.
    Stop,
}

/// Where notes are sent to. Clones share it.
#[derive(Clone)]
pub(super) struct Notes {
    notes: Sender<Note>,
    waiting: Arc<AtomicUsize>,
}

/// Where they are taken from.
pub(super) struct Inbox {
    notes: Receiver<Note>,
    waiting: Arc<AtomicUsize>,
}

/// Both ends.
pub(super) fn notes() -> (Notes, Inbox) {
    let ((sender, receiver), waiting) = (channel(), Arc::new(AtomicUsize::new(0)));
    (Notes { notes: sender, waiting: waiting.clone() }, Inbox { notes: receiver, waiting })
}

impl Notes {
    /// Sends one; if nobody takes them any more, nobody needs it.
    pub fn send(&self, note: Note) {
        self.try_send(note);
    }

    /// The same; false if nobody takes them any more.
    pub fn try_send(&self, note: Note) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let is_sent = self.notes.send(note).is_ok();
        if !is_sent {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        is_sent
    }

    /// True while one was not taken yet.
    pub fn wait(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

impl Inbox {
    /// The next one, when it comes.
    pub fn recv(&self) -> Result<Note, RecvError> {
        self.notes.recv().inspect(|_| self.taken())
    }

    /// The next one, if it comes in time.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Note, RecvTimeoutError> {
        self.notes.recv_timeout(timeout).inspect(|_| self.taken())
    }

    /// Those that are here.
    pub fn try_iter(&self) -> impl Iterator<Item = Note> {
        self.notes.try_iter().inspect(|_| self.taken())
    }

    fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_waits_until_it_is_taken_and_one_that_nobody_takes_does_not() {
        let (notes, inbox) = notes();
        assert!(!notes.wait());

        notes.send(Note::Watch);
        assert!(notes.clone().try_send(Note::Backend) && notes.try_send(Note::Inbox));
        assert!(notes.wait());
        assert!(matches!(inbox.recv(), Ok(Note::Watch)));
        assert!(matches!(inbox.recv_timeout(Duration::ZERO), Ok(Note::Backend)));
        assert!(notes.wait());
        assert_eq!(inbox.try_iter().count(), 1);
        assert!(!notes.wait());

        drop(inbox);
        assert!(!notes.try_send(Note::Watch) && !notes.wait());
    }
}
