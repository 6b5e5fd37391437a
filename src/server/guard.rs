//! Which requests were seen before: no token is good twice.
//!
//! A visitor numbers its requests; for each visitor the highest number and the ones just below it are remembered. Invariant:
//! memory is bounded whatever is sent; a visitor is forgotten only once no token of its can be good any more, and beyond the bound
//! newcomers wait: nothing is ever let through because there was no room to remember it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ledger::PublicKey;
use crate::transport::http::token::Nonce;

/// Numbers below the highest that are told apart; requests of one visitor do not overtake each other by more.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;
/// Visitors remembered, in all and for one device.
const MAX_VISITORS: usize = 8_192;
const MAX_VISITORS_PER_DEVICE: usize = 512;

/// What is known of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// It was not seen before.
    Fresh,
    /// It was, or may have been.
    Seen,
    /// There is no room to remember it: again later.
    Full,
}

struct Window {
    highest: u64,
    seen: [u64; WORDS],
    /// When the last of its tokens is worthless, in seconds.
    until_s: u64,
}

/// Remembers requests.
#[derive(Default)]
pub struct Guard {
    visitors: Mutex<HashMap<(PublicKey, String), Window>>,
}

impl Guard {
    /// Takes note of a request; `until_s` is when its token is worthless.
    pub fn note(&self, device: PublicKey, nonce: &Nonce, until_s: u64, now_s: u64) -> Freshness {
        let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        let who = (device, nonce.visitor.clone());
        if !visitors.contains_key(&who) {
            let of_device = |visitors: &HashMap<(PublicKey, String), Window>| {
                visitors.keys().filter(|(key, _)| *key == device).count()
            };
            let full = |visitors: &HashMap<_, _>| {
                visitors.len() >= MAX_VISITORS || of_device(visitors) >= MAX_VISITORS_PER_DEVICE
            };
            if full(&visitors) {
                visitors.retain(|_, window| now_s < window.until_s);
                if full(&visitors) {
                    return Freshness::Full;
                }
            }
        }
        let window = visitors.entry(who).or_insert(Window { highest: 0, seen: [0; WORDS], until_s });
        window.until_s = window.until_s.max(until_s);
        if window.take(nonce.number) { Freshness::Fresh } else { Freshness::Seen }
    }
}

impl Window {
    /// True if the number was not taken before.
    fn take(&mut self, number: u64) -> bool {
        if number == 0 || number.saturating_add(WINDOW) <= self.highest {
            return false;
        }
        if number > self.highest {
            let passed = (number - self.highest).min(WINDOW);
            // Slots are used in turn: those that the window moved past are free again.
            for skipped in 1..=passed {
                let at = (self.highest.wrapping_add(skipped) % WINDOW) as usize;
                self.seen[at / 64] &= !(1 << (at % 64));
            }
            if passed == WINDOW {
                self.seen = [0; WORDS];
            }
            self.highest = number;
        }
        let at = (number % WINDOW) as usize;
        let bit = 1 << (at % 64);
        let taken = self.seen[at / 64] & bit != 0;
        self.seen[at / 64] |= bit;
        !taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use std::collections::HashSet;

    fn device(n: u8) -> PublicKey {
        PublicKey::of(&SigningKey::from_bytes(&[n; 32]))
    }

    fn nonce(visitor: u32, number: u64) -> Nonce {
        Nonce { visitor: format!("{visitor:032x}"), number }
    }

    #[test]
    fn no_number_is_taken_twice_in_whatever_order_they_come() {
        let guard = Guard::default();
        let mut taken = HashSet::new();
        let mut draw = 7u64;
        let mut number = 1u64;
        for _ in 0..50_000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number = match draw >> 62 {
                0 => number.saturating_sub((draw >> 20) % 1_300),
                1 => number + (draw >> 20) % 1_500,
                _ => number + 1,
            };
            if guard.note(device(1), &nonce(1, number), 400, 100) == Freshness::Fresh {
                assert!(taken.insert(number), "{number} twice");
            }
        }
        assert!(taken.len() > 10_000);
        assert_eq!(guard.note(device(1), &nonce(1, u64::MAX), 400, 100), Freshness::Fresh);
        assert_eq!(guard.note(device(1), &nonce(1, u64::MAX), 400, 100), Freshness::Seen);
        assert_eq!(guard.note(device(2), &nonce(1, u64::MAX), 400, 100), Freshness::Fresh, "another device's");
    }

    #[test]
    fn numbers_in_order_are_all_taken_and_overtaking_a_little_is_allowed() {
        let guard = Guard::default();
        for number in 1..=5_000u64 {
            let swapped = if number % 2 == 0 { number - 1 } else { number + 1 };
            assert_eq!(guard.note(device(1), &nonce(1, swapped), 400, 100), Freshness::Fresh, "{swapped}");
        }
    }

    #[test]
    fn beyond_the_bound_newcomers_wait_until_old_tokens_are_worthless() {
        let guard = Guard::default();
        for visitor in 0..MAX_VISITORS_PER_DEVICE as u32 {
            assert_eq!(guard.note(device(1), &nonce(visitor, 1), 400, 100), Freshness::Fresh);
        }

        assert_eq!(guard.note(device(1), &nonce(9_999, 1), 400, 399), Freshness::Full);
        assert_eq!(guard.note(device(2), &nonce(9_999, 1), 400, 399), Freshness::Fresh);
        assert_eq!(guard.note(device(1), &nonce(0, 1), 400, 399), Freshness::Seen);
        assert_eq!(guard.note(device(1), &nonce(0, 2), 400, 399), Freshness::Fresh);
        assert_eq!(guard.note(device(1), &nonce(9_999, 1), 800, 400), Freshness::Fresh);
    }
}
