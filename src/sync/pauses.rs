//! Pauses: a place that kept a run waiting in vain is not tried at every interval.
//!
//! Invariant: whoever waits for a place that hangs waits for nothing else meanwhile, so the longer a try took, and the more of them
//! failed, the longer the next one is put off, up to a bound. A place that fails at once is tried as often as any other. Known to the
//! running process alone; who asks for a place by hand does not ask here.

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
            self.0.remove(name);
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
