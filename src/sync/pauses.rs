//! Pauses: a place that kept a run waiting in vain, or that asks to be left alone, is not tried at every interval.
//!
//! Invariant: whoever waits for a place that hangs waits for nothing else meanwhile, so the longer a try took, and the more of them
//! failed, the longer the next one is put off, up to a bound; one that fails at once is tried as often as any other. How long a try may
//! take is not said here but by `transport::deadline`: this is for what answers small questions and hangs over the larger ones. Known
//! to the running process alone; who asks for a place by hand does not ask here. A backend that asks for a slower pace is not asked at all
//! until then, for whatever it may be, and at once when that time is over.

use std::collections::BTreeMap;

use super::Engine;

/// Tries that end sooner keep nobody waiting.
const SHORT_MS: u64 = 2_000;
/// A first pause is this many times as long as the try was.
const FACTOR: u64 = 4;
/// The longest that follows from how long a try took.
const LONGEST_MS: u64 = 600_000;
/// The longest that a place may ask for.
const LONGEST_ASKED_MS: u64 = 3_600_000;

#[derive(Clone, Copy)]
struct Pause {
    since_ms: u64,
    length_ms: u64,
}

impl Pause {
    /// What is left of it; 0 if it is over. A clock that was set back ends it.
    fn left_ms(&self, now_ms: u64) -> u64 {
        now_ms.checked_sub(self.since_ms).map_or(0, |passed_ms| self.length_ms.saturating_sub(passed_ms))
    }
}

/// A backend that asked to be left alone, and in which words.
pub(super) struct Rest {
    pause: Pause,
    why: String,
}

/// By the peers' names; times are wall milliseconds.
#[derive(Default)]
pub(super) struct Pauses(BTreeMap<String, Pause>);

impl Pauses {
    /// True if it is not to be tried yet.
    pub(super) fn holds(&self, name: &str, now_ms: u64) -> bool {
        self.left_ms(name, now_ms) > 0
    }

    /// How long it is not to be tried yet.
    fn left_ms(&self, name: &str, now_ms: u64) -> u64 {
        self.0.get(name).map_or(0, |pause| pause.left_ms(now_ms))
    }

    /// It asked to be left alone for so long: never for less than how long it kept a run waiting says.
    pub(super) fn asked_for(&mut self, name: &str, now_ms: u64, wait_ms: u64) {
        let length_ms = wait_ms.min(LONGEST_ASKED_MS);
        if length_ms > self.left_ms(name, now_ms) {
            self.0.insert(name.to_owned(), Pause { since_ms: now_ms, length_ms });
        }
    }

    /// A try failed.
    pub(super) fn failed(&mut self, name: &str, began_ms: u64, now_ms: u64) {
        let took_ms = now_ms.saturating_sub(began_ms);
        if took_ms < SHORT_MS {
            // Also one that still owes an answer, or was only probed: how long it hung before is not forgotten for that.
            return;
        }
        let before_ms = self.0.get(name).map_or(0, |pause| pause.length_ms);
        let length_ms = took_ms.saturating_mul(FACTOR).max(before_ms.saturating_mul(2)).min(LONGEST_MS);
        self.0.insert(name.to_owned(), Pause { since_ms: now_ms, length_ms });
    }

    /// It answered.
    pub(super) fn answered(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Engine {
    /// The backend asked to be left alone for so long.
    pub fn let_backend_rest(&mut self, wait_ms: u64, why: &str) {
        let pause = Pause { since_ms: self.now_ms(), length_ms: wait_ms.min(LONGEST_ASKED_MS) };
        self.rest = (pause.length_ms > 0).then(|| Rest { pause, why: why.to_owned() });
    }

    /// Why the backend is not asked now; `None` if it may be.
    pub fn backend_rests(&self) -> Option<&str> {
        self.rest.as_ref().map(|rest| &*rest.why)
    }

    /// A run begins: true if the backend's rest is over, by the clock or because a person asks.
    pub fn end_backend_rest(&mut self, is_by_hand: bool) -> bool {
        let is_over = is_by_hand || self.backend_rest_ms() == Some(0);
        is_over && self.rest.take().is_some()
    }

    /// How long the backend is still left alone; 0 if that is over and no run has begun since.
    pub(super) fn backend_rest_ms(&self) -> Option<u64> {
        self.rest.as_ref().map(|rest| rest.pause.left_ms(self.now_ms()))
    }

    /// The peers of the config that are away, and for how many milliseconds none of them is tried unasked.
    pub fn away_for_ms(&self) -> impl Iterator<Item = (&str, u64)> {
        self.away().map(|name| (name, self.pauses.left_ms(name, self.now_ms())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_in_between_makes_no_pause_shorter_and_an_answer_ends_them() {
        const MINUTE_MS: u64 = 60_000;
        let mut pauses = Pauses::default();
        let length_ms = |pauses: &Pauses, from_ms: u64| {
            (0..).find(|ms| !pauses.holds("nas", from_ms + ms * 1000)).map(|ms| ms * 1000)
        };
        pauses.failed("nas", 0, MINUTE_MS);
        assert_eq!(length_ms(&pauses, MINUTE_MS), Some(4 * MINUTE_MS));

        pauses.failed("nas", 6 * MINUTE_MS, 6 * MINUTE_MS + 100);
        assert!(!pauses.holds("nas", 6 * MINUTE_MS + 100), "it kept nobody waiting");
        pauses.failed("nas", 7 * MINUTE_MS, 8 * MINUTE_MS);
        assert_eq!(length_ms(&pauses, 8 * MINUTE_MS), Some(8 * MINUTE_MS));

        pauses.answered("nas");
        assert!(!pauses.holds("nas", 8 * MINUTE_MS));
    }

    #[test]
    fn a_place_is_left_alone_as_long_as_it_asks_and_never_for_less_than_it_kept_a_run_waiting() {
        let mut pauses = Pauses::default();

        pauses.asked_for("nas", 0, 30_000);
        assert_eq!((pauses.holds("nas", 29_999), pauses.holds("nas", 30_000)), (true, false));

        pauses.failed("nas", 40_000, 100_000);
        pauses.asked_for("nas", 100_000, 5_000);
        assert!(pauses.holds("nas", 339_999), "four times the minute that it took");

        pauses.asked_for("nas", 400_000, u64::MAX);
        assert!(!pauses.holds("nas", 400_000 + LONGEST_ASKED_MS), "nobody is left alone for ever");
    }
}
