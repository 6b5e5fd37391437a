//! Pauses: a place that kept a run waiting in vain is not tried at every interval.
//!
//! Invariant: whoever waits for a place that hangs waits for nothing else meanwhile, so the longer a try took, and the more of them
//! failed, the longer the next one is put off, up to a bound; one that fails at once is tried as often as any other. How long a try may
//! take is not said here but by `transport::deadline`: this is for what answers small questions and hangs over the larger ones. Known
//! to the running process alone; who asks for a place by hand does not ask here.

use std::collections::BTreeMap;

/// Tries that end sooner keep nobody waiting.
const SHORT_MS: u64 = 2_000;
/// A first pause is this many times as long as the try was.
const FACTOR: u64 = 4;
/// The longest.
const LONGEST_MS: u64 = 600_000;

#[derive(Clone, Copy)]
struct Pause {
    since_ms: u64,
    length_ms: u64,
}

/// By the peers' names; times are wall milliseconds.
#[derive(Default)]
pub(super) struct Pauses(BTreeMap<String, Pause>);

impl Pauses {
    /// True if it is not to be tried yet.
    pub(super) fn holds(&self, name: &str, now_ms: u64) -> bool {
        // A clock that was set back ends all of them.
        self.0
            .get(name)
            .is_some_and(|pause| now_ms.checked_sub(pause.since_ms).is_some_and(|passed| passed < pause.length_ms))
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
}
