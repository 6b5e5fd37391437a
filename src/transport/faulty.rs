//! Wraps any transport and misbehaves as real places do, reproducibly from a seed. Ships, so that simulations outside
//! the unit tests can use it.
//!
//! Invariant: the wrapped place itself is never damaged; an acknowledged put arrives, at the latest at `settle`.
//! It lies only in ways a caller must survive: errors before and after the deed, short listings, cut bodies, names
//! twice or out of order, puts that others see late and in another order.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ListRequest, Listing, Put, Transport, TransportError, TransportErrorKind, WaitHint, Wake};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPlan {
    /// Each kind of fault with this chance, out of 1000.
    Seeded {
        /// The same seed and calls give the same faults.
        seed: u64,
        /// 0 is a faithful wrapper.
        per_mille: u32,
    },
    /// From call number `call` (from 0) on nothing works: the caller was killed there.
    DieAt {
        /// The first call that fails.
        call: u64,
        /// Whether that call still reaches the place.
        moment: Moment,
    },
}

/// On which side of the deed an error strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Nothing was done.
    Before,
    /// It was done, but the caller does not know.
    After,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost(Moment),
    Mangled,
}

/// The wrapper.
pub struct FaultyTransport {
    inner: Arc<dyn Transport>,
    plan: FaultPlan,
    state: Mutex<State>,
}

struct State {
    draws: u64,
    calls: u64,
    late: Vec<(String, Vec<u8>)>,
    /// Put, and not settled.
    staged: Vec<(String, Vec<u8>)>,
}

impl FaultyTransport {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Transport>, plan: FaultPlan) -> FaultyTransport {
        let draws = match plan {
            FaultPlan::Seeded { seed, .. } => seed,
            FaultPlan::DieAt { .. } => 0,
        };
        FaultyTransport {
            inner,
            plan,
            state: Mutex::new(State { draws, calls: 0, late: Vec::new(), staged: Vec::new() }),
        }
    }

    /// Calls so far.
    pub fn call_count(&self) -> u64 {
        self.lock().calls
    }

    /// Lets every put that is under way arrive. Errors: the wrapped transport's.
    pub fn settle(&self) -> Result<(), TransportError> {
        let late = std::mem::take(&mut self.lock().late);
        late.iter().try_for_each(|(name, bytes)| self.inner.put_new(name, bytes).map(|_| ()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> Fate {
        let mut state = self.lock();
        let call = state.calls;
        state.calls += 1;
        match self.plan {
            FaultPlan::DieAt { call: last, moment } if call == last => Fate::Lost(moment),
            FaultPlan::DieAt { call: last, .. } if call > last => Fate::Lost(Moment::Before),
            FaultPlan::DieAt { .. } => Fate::Kept,
            FaultPlan::Seeded { per_mille, .. } => match state.draw(1000) {
                n if n < per_mille => Fate::Lost(Moment::Before),
                n if n < per_mille.saturating_mul(2) => Fate::Lost(Moment::After),
                n if n < per_mille.saturating_mul(3) => Fate::Mangled,
                _ => Fate::Kept,
            },
        }
    }

    /// Does the deed unless the fault came before it, and tells of it unless the fault came after.
    fn suffer<T>(
        &self,
        verb: (&'static str, &str),
        fate: Fate,
        deed: impl FnOnce() -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let lost = |detail| TransportError::new(TransportErrorKind::Unavailable, verb.0, verb.1, detail);
        match fate {
            Fate::Lost(Moment::Before) => Err(lost("the line broke before it")),
            Fate::Lost(Moment::After) => deed().and_then(|_| Err(lost("the line broke after it"))),
            Fate::Kept | Fate::Mangled => deed(),
        }
    }

    /// Lets one late put arrive now and then, any of them.
    fn let_one_arrive(&self) -> Result<(), TransportError> {
        let arrived = {
            let mut state = self.lock();
            match u32::try_from(state.late.len()) {
                Ok(count) if count > 0 && state.draw(2) == 0 => {
                    let at = state.draw(count) as usize;
                    Some(state.late.swap_remove(at))
                }
                _ => None,
            }
        };
        arrived.map_or(Ok(()), |(name, bytes)| self.inner.put_new(&name, &bytes).map(|_| ()))
    }

    fn mangle_listing(&self, mut listing: Listing) -> Listing {
        let count = u32::try_from(listing.names.len()).unwrap_or(u32::MAX);
        let mut state = self.lock();
        let at = state.draw(count.max(1)) as usize;
        match state.draw(3) {
            // Short, and it does not say so.
            0 => {
                listing.names.truncate(at);
                listing.more = false;
            }
            1 => listing.names.reverse(),
            _ => listing.names.extend(listing.names.get(at).cloned()),
        }
        listing
    }

    fn mangle_bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let at = self.lock().draw(count.max(1)) as usize;
        bytes.truncate(at);
        bytes
    }
}

impl State {
    /// A number below `bound`, which is at least 1 (splitmix64).
    fn draw(&mut self, bound: u32) -> u32 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.draws;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z % u64::from(bound)) as u32
    }
}

impl Transport for FaultyTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        let fate = self.fate();
        self.let_one_arrive()?;
        let listing = self.suffer(("list", &request.prefix), fate, || self.inner.list(request))?;
        Ok(if fate == Fate::Mangled { self.mangle_listing(listing) } else { listing })
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let fate = self.fate();
        self.let_one_arrive()?;
        let bytes = self.suffer(("get", name), fate, || self.inner.get(name, range, max_bytes))?;
        Ok(if fate == Fate::Mangled { self.mangle_bytes(bytes) } else { bytes })
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let fate = self.fate();
        self.let_one_arrive()?;
        if fate == Fate::Mangled {
            super::check_name(name)?;
            let duplicate = self.lock().draw(2) == 0;
            if duplicate {
                self.inner.put_new(name, bytes)?;
            } else {
                self.lock().late.push((name.to_owned(), bytes.to_vec()));
                return Ok(Put::Written);
            }
        }
        self.suffer(("put", name), fate, || self.inner.put_new(name, bytes))
    }

    /// Nothing of it is there before it is settled, and a caller that dies before has put nothing.
    fn put_later(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let fate = self.fate();
        self.let_one_arrive()?;
        self.suffer(("put", name), fate, || {
            super::check_name(name)?;
            match self.inner.get(name, None, u64::MAX) {
                Err(error) if error.kind == TransportErrorKind::NotFound => {}
                _ => return self.inner.put_new(name, bytes),
            }
            self.lock().staged.push((name.to_owned(), bytes.to_vec()));
            Ok(Put::Written)
        })
    }

    fn settle_puts(&self) -> Result<(), TransportError> {
        let staged = std::mem::take(&mut self.lock().staged);
        staged.iter().try_for_each(|(name, bytes)| self.put_new(name, bytes).map(drop))
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        let fate = self.fate();
        self.suffer(("wait", "for news"), fate, || self.inner.wait(hint))
    }

    fn label(&self) -> &str {
        self.inner.label()
    }

    fn mending(&self) -> Option<&dyn super::Mending> {
        self.inner.mending()
    }

    fn removing(&self) -> Option<&dyn super::Removing> {
        self.inner.removing()
    }

    fn heads(&self, prefix: &str) -> Result<Option<Vec<String>>, TransportError> {
        let fate = self.fate();
        self.suffer(("list", prefix), fate, || self.inner.heads(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Depth, MemoryPlace, contract};

    #[test]
    fn a_faithful_wrapper_keeps_the_transport_contract() {
        contract::run(&|| {
            let place = MemoryPlace::new();
            Box::new(move || {
                let plan = FaultPlan::Seeded { seed: 1, per_mille: 0 };
                Arc::new(FaultyTransport::new(Arc::new(place.visit("faulty:test")), plan)) as Arc<dyn Transport>
            })
        });
    }

    #[test]
    fn one_seed_gives_one_run_and_acknowledged_puts_arrive_by_the_end() {
        let run = |seed| {
            let place = MemoryPlace::new();
            let inner = Arc::new(place.visit("faulty:test"));
            let faulty = FaultyTransport::new(inner, FaultPlan::Seeded { seed, per_mille: 150 });
            let mut story = Vec::new();
            for n in 0..200 {
                let name = format!("app/{n:03}");
                let put = faulty.put_new(&name, name.as_bytes());
                let got = faulty.get(&name, None, 100);
                let listed = faulty.list(&ListRequest::new("app/", Depth::All)).map(|l| l.names.len());
                story.push(format!("{:?} {:?} {:?}", put.as_ref().ok(), got.ok(), listed.ok()));
                if put.is_ok() {
                    story.push(name);
                }
            }
            faulty.settle().expect("memory takes them");
            (story, place.artifacts())
        };

        let (story, artifacts) = run(7);
        assert_eq!((story.clone(), artifacts.clone()), run(7));
        assert_ne!(story, run(8).0);
        for name in story.iter().filter(|line| line.starts_with("app/")) {
            assert_eq!(artifacts.get(name).map(|bytes| &bytes[..]), Some(name.as_bytes()));
        }
    }

    #[test]
    fn the_fatal_call_fails_on_the_chosen_side_of_the_deed_and_so_do_all_after_it() {
        for (moment, expected) in [(Moment::Before, 1), (Moment::After, 2)] {
            let place = MemoryPlace::new();
            let faulty = FaultyTransport::new(Arc::new(place.visit("x")), FaultPlan::DieAt { call: 1, moment });

            assert!(faulty.put_new("app/0", b"0").is_ok());
            assert!(faulty.put_new("app/1", b"1").is_err());
            assert!(faulty.put_new("app/2", b"2").is_err());

            assert_eq!(place.artifacts().len(), expected);
        }
    }
}
