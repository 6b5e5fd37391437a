//! What came from a place when whoever had asked for it was gone.
//!
//! Invariant: bytes are given once, to whoever asks for that very name, and are kept for a while and up to a bound, so that what
//! nobody asks for again does not stay. Names never get other bytes. Pure: reads no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long it is kept: whoever left comes back with the next runs.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// Bytes that are kept, but for those that came last.
const MAX_BYTES: usize = 32 << 20;

/// What came late from one place, oldest first.
#[derive(Debug, Default)]
pub(super) struct Late(VecDeque<(Instant, String, Vec<u8>)>);

impl Late {
    /// Keeps what came.
    pub fn keep(&mut self, now: Instant, name: String, bytes: Vec<u8>) {
        self.forget_old(now);
        self.0.retain(|(_, kept, _)| *kept != name);
        let mut left = MAX_BYTES.saturating_sub(bytes.len());
        let before = self.0.iter().rev().take_while(|(_, _, kept)| {
            let fits = kept.len() <= left;
            left = left.saturating_sub(kept.len());
            fits
        });
        let stays = before.count();
        self.0.drain(..self.0.len() - stays);
        self.0.push_back((now, name, bytes));
    }

    /// What came under a name; it is kept no longer.
    pub fn take(&mut self, now: Instant, name: &str) -> Option<Vec<u8>> {
        self.forget_old(now);
        let at = self.0.iter().position(|(_, kept, _)| kept == name)?;
        self.0.remove(at).map(|(_, _, bytes)| bytes)
    }

    /// Lets go of what nobody came back for.
    pub fn forget_old(&mut self, now: Instant) {
        self.0.retain(|(came, _, _)| now.saturating_duration_since(*came) < KEPT_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(late: &Late) -> Vec<&str> {
        late.0.iter().map(|(_, name, _)| name.as_str()).collect()
    }

    #[test]
    fn each_is_given_once_and_to_whoever_asks_for_it() {
        let (mut late, now) = (Late::default(), Instant::now());
        late.keep(now, "a".to_owned(), vec![1]);
        late.keep(now, "b".to_owned(), vec![2]);

        assert_eq!((late.take(now, "c"), late.take(now, "a"), late.take(now, "a")), (None, Some(vec![1]), None));
        assert_eq!(late.take(now, "b"), Some(vec![2]));
    }

    #[test]
    fn nothing_stays_that_nobody_comes_back_for() {
        let (mut late, now) = (Late::default(), Instant::now());
        late.keep(now, "a".to_owned(), vec![1]);
        late.keep(now + KEPT_FOR / 2, "b".to_owned(), vec![2]);

        late.forget_old(now + KEPT_FOR);

        assert_eq!(names(&late), ["b"]);
    }

    #[test]
    fn the_oldest_go_when_it_is_too_much_and_the_last_is_kept_however_long_it_is() {
        let (mut late, now) = (Late::default(), Instant::now());
        for (name, len) in [("a", MAX_BYTES / 2), ("b", MAX_BYTES / 4), ("c", MAX_BYTES / 4), ("d", MAX_BYTES / 4)] {
            late.keep(now, name.to_owned(), vec![0; len]);
        }
        assert_eq!(names(&late), ["b", "c", "d"]);

        late.keep(now, "e".to_owned(), vec![0; MAX_BYTES + 1]);
        assert_eq!(names(&late), ["e"]);
    }
}
