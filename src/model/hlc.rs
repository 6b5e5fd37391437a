//! The hybrid logical clock: 48 bits of wall milliseconds, 16 of counter. It orders only what is truly concurrent.
//!
//! Invariant: `HlcClock::tick` never returns a value at or below its floor or any parent it was given.
//! The clock does not read the time (it is handed in) and does not persist itself (`floor` is saved by the caller).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const COUNTER_BITS: u32 = 16;
const MAX_WALL_MS: u64 = (1 << 48) - 1;

/// A received HLC further ahead of the wall clock than this does not raise the floor.
pub const MAX_DRIFT_MS: u64 = 5 * 60 * 1000;

/// Why a text is no HLC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse clock value {text:?}: 16 lower-case hex digits are needed")]
pub struct HlcError {
    /// The text as it came, cut at 40 characters.
    pub text: String,
}

/// One instant. Ordered as a number; the text form (16 hex digits) has the same order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(u64);

impl Hlc {
    /// Builds an instant; the wall time is clamped to 48 bits.
    pub fn new(wall_ms: u64, counter: u16) -> Hlc {
        Hlc(wall_ms.min(MAX_WALL_MS) << COUNTER_BITS | u64::from(counter))
    }

    /// Takes the packed form as a database holds it.
    pub const fn from_u64(packed: u64) -> Hlc {
        Hlc(packed)
    }

    /// The packed form.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Wall milliseconds since 1970.
    pub const fn wall_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The smallest instant above this one; saturates at the end of time.
    pub const fn next(self) -> Hlc {
        Hlc(self.0.saturating_add(1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms+{}", self.wall_ms(), self.0 & 0xffff)
    }
}

impl FromStr for Hlc {
    type Err = HlcError;

    fn from_str(text: &str) -> Result<Hlc, HlcError> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(packed) if digits => Ok(Hlc(packed)),
            _ => Err(HlcError { text: text.chars().take(40).collect() }),
        }
    }
}

impl Serialize for Hlc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hlc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hlc, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hands out instants for one origin.
#[derive(Debug, Clone)]
pub struct HlcClock {
    floor: Hlc,
}

impl HlcClock {
    /// Continues above `floor`, the highest value handed out or accepted before.
    pub fn new(floor: Hlc) -> HlcClock {
        HlcClock { floor }
    }

    /// The highest value so far; persist it.
    pub fn floor(&self) -> Hlc {
        self.floor
    }

    /// The next instant: above the floor, above `parents`, and at the wall clock when that is ahead of both.
    ///
    /// A parent far in the future moves the result past it but not the floor, so that one broken clock elsewhere
    /// does not drag this machine's later edits along.
    pub fn tick(&mut self, wall_ms: u64, parents: Option<Hlc>) -> Hlc {
        let own = Hlc::new(wall_ms, 0).max(self.floor.next());
        let result = match parents {
            Some(parent) => own.max(parent.next()),
            None => own,
        };
        self.floor = if result.wall_ms() <= wall_ms.saturating_add(MAX_DRIFT_MS) { result } else { own };
        result
    }

    /// Takes notice of a foreign instant. Returns false if it is too far ahead to raise the floor.
    pub fn observe(&mut self, wall_ms: u64, foreign: Hlc) -> bool {
        let near = foreign.wall_ms() <= wall_ms.saturating_add(MAX_DRIFT_MS);
        if near {
            self.floor = self.floor.max(foreign);
        }
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_parent_ten_years_ahead_does_not_drag_the_floor_along() {
        let ten_years_ms = 10 * 365 * 24 * 3_600_000;
        let mut clock = HlcClock::new(Hlc::default());

        let child = clock.tick(1_000, Some(Hlc::new(ten_years_ms, 0)));
        let other = clock.tick(1_001, None);

        assert!(child > Hlc::new(ten_years_ms, 0));
        assert!(other.wall_ms() <= 1_001 + MAX_DRIFT_MS);
    }

    #[test]
    fn a_clock_set_back_an_hour_still_moves_forward() {
        let mut clock = HlcClock::new(Hlc::default());

        let before = clock.tick(7_200_000, None);
        let after = clock.tick(3_600_000, None);

        assert!(after > before);
    }

    proptest! {
        #[test]
        fn every_tick_is_above_floor_and_parents(walls in proptest::collection::vec(0u64..1 << 40, 1..40), parent in 0u64..1 << 56) {
            let mut clock = HlcClock::new(Hlc::default());
            let mut last_own = Hlc::default();

            for (i, wall_ms) in walls.into_iter().enumerate() {
                let parents = (i % 3 == 0).then_some(Hlc::from_u64(parent));
                let floor = clock.floor();
                let tick = clock.tick(wall_ms, parents);
                prop_assert!(tick > floor);
                prop_assert!(parents.is_none_or(|p| tick > p));
                prop_assert!(clock.floor() >= last_own);
                last_own = clock.floor();
            }
        }

        #[test]
        fn text_has_the_order_of_the_numbers(a: u64, b: u64) {
            let (a, b) = (Hlc::from_u64(a), Hlc::from_u64(b));

            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
            prop_assert_eq!(a.to_string().parse::<Hlc>(), Ok(a));
        }
    }
}
