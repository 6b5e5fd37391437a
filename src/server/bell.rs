//! Telling those who wait that somebody else put something.
//!
//! Invariant: what was put after a cursor was handed out is told to whoever waits from that cursor, however late it asks; a visitor's
//! own puts wake it not; what is told in vain does no harm. What stands in a private space is told only to its owner's devices.
//! Memory is bounded: who asks from too far back is simply told that there is news.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Puts remembered.
const MAX_EVENTS: usize = 4_096;

struct Event {
    seq: u64,
    /// Who put it; `None` if it came another way.
    visitor: Option<String>,
    /// Its private space, if it has one.
    space: Option<String>,
}

#[derive(Default)]
struct State {
    seq: u64,
    events: VecDeque<Event>,
    /// Names that were told of and may be seen appear in the folder once more.
    told: HashSet<String>,
    told_order: VecDeque<String>,
}

impl State {
    /// True if the name was not told of before, as far as that is remembered.
    fn note_told(&mut self, name: &str) -> bool {
        if !self.told.insert(name.to_owned()) {
            return false;
        }
        self.told_order.push_back(name.to_owned());
        if self.told_order.len() > MAX_EVENTS {
            let oldest = self.told_order.pop_front();
            oldest.map(|oldest| self.told.remove(&oldest));
        }
        true
    }
}

/// One server's bell.
pub struct Bell {
    epoch: String,
    state: Mutex<State>,
    seq: watch::Sender<u64>,
}

/// Who listens.
pub struct Listener<'a> {
    /// The visitor: its own puts are no news to it.
    pub visitor: &'a str,
    /// The private space it may hear of.
    pub space: &'a str,
}

impl Bell {
    /// `epoch` tells one start of the server from another.
    pub fn new(epoch: &str) -> Bell {
        Bell { epoch: epoch.to_owned(), state: Mutex::default(), seq: watch::Sender::new(0) }
    }

    /// Somebody put an artifact through the server.
    pub fn ring_put(&self, visitor: &str, name: &str) {
        let mut state = self.lock();
        state.note_told(name);
        self.ring(state, Some(visitor.to_owned()), private_space(name));
    }

    /// An artifact appeared in the folder, put by whomever: news unless it was told of before.
    pub fn ring_seen(&self, name: &str) {
        let mut state = self.lock();
        if state.note_told(name) {
            self.ring(state, None, private_space(name));
        }
    }

    /// Something may have changed.
    pub fn ring_any(&self) {
        self.ring(self.lock(), None, None);
    }

    fn ring(&self, mut state: MutexGuard<'_, State>, visitor: Option<String>, space: Option<String>) {
        state.seq += 1;
        let seq = state.seq;
        state.events.push_back(Event { seq, visitor, space });
        if state.events.len() > MAX_EVENTS {
            state.events.pop_front();
        }
        drop(state);
        self.seq.send_replace(seq);
    }

    /// Where to listen from, and whether something is new since `after`.
    fn look(&self, after: Option<&str>, listener: &Listener<'_>) -> (String, bool) {
        let state = self.lock();
        let cursor = format!("{}-{}", self.epoch, state.seq);
        let after = after.map(|after| after.strip_prefix(&*self.epoch)?.strip_prefix('-')?.parse::<u64>().ok());
        let news = match after {
            None => false,
            // Of an earlier start, or nonsense: nothing is known of what came in between.
            Some(None) => true,
            Some(Some(after)) => {
                let forgotten = state.events.front().is_some_and(|first| first.seq > after.saturating_add(1));
                let heard = |event: &&Event| {
                    let foreign = event.visitor.as_deref() != Some(listener.visitor);
                    event.seq > after && foreign && event.space.as_deref().is_none_or(|space| space == listener.space)
                };
                forgotten || state.events.iter().rev().take_while(|event| event.seq > after).any(|event| heard(&event))
            }
        };
        (cursor, news)
    }

    /// Waits until something is new since `after`, at most until `deadline`. Without `after` only tells where to begin.
    pub async fn wait(
        &self,
        after: Option<&str>,
        listener: &Listener<'_>,
        deadline: tokio::time::Instant,
    ) -> (String, bool) {
        let mut rung = self.seq.subscribe();
        loop {
            // Marked before the look: what rings after it ends the wait below at once.
            rung.mark_unchanged();
            let (cursor, news) = self.look(after, listener);
            if news || after.is_none() {
                return (cursor, news);
            }
            match tokio::time::timeout_at(deadline, rung.changed()).await {
                Ok(Ok(())) => {}
                // The sender lives as long as this does.
                Ok(Err(_)) | Err(_) => return self.look(after, listener),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change keeps the state whole at each of its steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The private space in an artifact's name.
fn private_space(name: &str) -> Option<String> {
    name.split('/').nth(1).filter(|space| space.starts_with("u-")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bell: &Bell, after: &str, visitor: &str, space: &str) -> bool {
        bell.look(Some(after), &Listener { visitor, space }).1
    }

    #[test]
    fn a_put_is_news_to_everybody_else_and_once() {
        let bell = Bell::new("e");
        let (start, news) = bell.look(None, &Listener { visitor: "a", space: "u-x" });
        assert!(!news);

        bell.ring_put("a", "app/shared/c~1/packs/p");
        assert!(!look(&bell, &start, "a", "u-x") && look(&bell, &start, "b", "u-x"));
        let (after, _) = bell.look(Some(&start), &Listener { visitor: "b", space: "u-x" });
        assert!(!look(&bell, &after, "b", "u-x"));

        bell.ring_seen("app/shared/c~1/packs/p");
        assert!(!look(&bell, &after, "b", "u-x"), "the same artifact, seen on the disk");
        bell.ring_seen("app/shared/c~1/packs/q");
        assert!(look(&bell, &after, "a", "u-x") && look(&bell, &after, "b", "u-x"));
    }

    #[test]
    fn what_is_private_is_told_to_its_owners_devices_alone() {
        let bell = Bell::new("e");
        let (start, _) = bell.look(None, &Listener { visitor: "a", space: "" });
        bell.ring_put("c", "app/u-me-01234567/c~1/packs/p");
        assert!(look(&bell, &start, "a", "u-me-01234567") && !look(&bell, &start, "b", "u-you-01234567"));
    }

    #[test]
    fn who_asks_from_too_far_back_or_from_an_earlier_start_is_told_of_news() {
        let bell = Bell::new("e");
        let (start, _) = bell.look(None, &Listener { visitor: "a", space: "" });
        for n in 0..=MAX_EVENTS {
            bell.ring_put("a", &format!("app/shared/{n}"));
        }
        assert!(look(&bell, &start, "a", ""));
        let (now, _) = bell.look(None, &Listener { visitor: "a", space: "" });
        assert!(!look(&bell, &now, "a", ""));
        for nonsense in ["", "f-1", "e-", "e-x", "e"] {
            assert!(look(&bell, nonsense, "a", ""), "{nonsense}");
        }
    }
}
