//! Cut off anywhere and run again: nothing lost, nothing doubled, and never a checkpoint before its parts.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{Budget, Phase, Thoroughness, Turn, exchange_in_turn};
use super::fleet::*;
use crate::transport::faulty::Moment;
use crate::transport::{
    FaultPlan, ListRequest, Listing, MemoryTransport, Put, Transport, TransportError, WaitHint, Wake,
};

/// Two machines with things to give each other through a place.
fn before() -> (Machine, Machine, PlaceStore) {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    for n in 0..3 {
        a.publish_full(&format!("a {n}"));
        b.publish_full(&format!("b {n}"));
    }
    b.publish(&Load { hlc: 9, ..Load::default() });
    b.meets(&spot);
    (a, b, store)
}

#[test]
fn killed_between_any_two_calls_and_run_again_nothing_is_lost_or_doubled() {
    let mut calls_needed = 0;
    for moment in [Moment::Before, Moment::After] {
        for call in 0.. {
            let (mut a, mut b, store) = before();
            let everything = a.store.names().len() + b.store.names().len();
            let line = faulty(&store, "spot", FaultPlan::DieAt { call, moment });
            let cut = a.meet(&line);
            assert!(is_sound(&store, true), "call {call} {moment:?}: a checkpoint came before its parts");
            assert!(is_sound(&a.store, false), "call {call} {moment:?}: taken before its records");
            // Another machine reads what is there while the first is dead.
            let mut c = Machine::new("c-1", 3);
            c.meets(&store.0.visit("spot"));
            assert!(is_sound(&c.store, true) && checkpoints(&c.store) == checkpoints(&store), "call {call} {moment:?}");

            let again = a.meets(&store.0.visit("spot"));
            b.meets(&store.0.visit("spot"));

            assert!(again.is_complete(), "call {call} {moment:?}: {again:?}");
            assert!(again.findings.is_empty(), "call {call} {moment:?}: {again:?}");
            assert_eq!(store.names().len(), everything, "call {call} {moment:?}");
            assert_eq!(a.store.bytes(), store.bytes(), "call {call} {moment:?}");
            assert_eq!(b.store.bytes(), store.bytes(), "call {call} {moment:?}");
            if cut.is_ok_and(|report| report.problems.is_empty()) {
                calls_needed = call;
                break;
            }
        }
    }
    // 2 lists, 10 gets, 9 puts and a list of the other chain: the enumeration really reached the end.
    assert!(calls_needed >= 20, "{calls_needed}");
}

/// Others always wait.
pub struct Crowd;

impl Turn for Crowd {
    fn is_over(&self, _phase: Phase) -> bool {
        true
    }
}

#[test]
fn who_gives_way_after_each_artifact_gets_everything_over_one_at_a_time() {
    let (mut a, _, store) = before();
    let mut rounds = 0;
    loop {
        let spot = store.0.visit("spot");
        let (config, journal) = (&a.config, &mut a.journal);
        let told = exchange_in_turn(&a.store, &spot, config, journal, &crate::sync::NoProgress, &Crowd);
        let report = told.expect("a place in memory is always there");
        assert!(is_sound(&store, true) && is_sound(&a.store, false));
        // A checkpoint from there comes with its records, and one that goes there behind its parts.
        assert!(report.pulled.len() + report.pushed.len() <= 3, "{report:?}");
        rounds += 1;
        if !report.gave_way {
            assert!(report.is_complete() && report.findings.is_empty(), "{report:?}");
            break;
        }
        assert!(!report.is_complete() && rounds < 40, "{report:?}");
    }
    assert!(rounds > 8, "{rounds}");
    assert_eq!(a.store.bytes(), store.bytes());
}

#[test]
fn a_budget_of_any_size_gets_everything_over_in_enough_exchanges() {
    for requests in [5, 7, 15] {
        let (mut a, _, store) = before();
        a.config.budget = Budget { requests, ..Budget::default() };
        let mut rounds = 0;
        while a.store.names().len() < 19 || store.names().len() < 19 {
            let report = a.meets(&store.0.visit("spot"));
            assert!(report.requests.total() <= requests);
            assert!(is_sound(&store, true) && is_sound(&a.store, false));
            rounds += 1;
            assert!(rounds < 60, "{requests} requests never suffice");
        }
        assert!(rounds > 1);
    }
}

#[test]
fn a_lost_journal_costs_requests_and_nothing_else() {
    let (mut a, _, store) = before();
    let spot = store.0.visit("spot");
    a.meets(&spot);
    a.journal = super::super::MemoryJournal::default();

    let report = a.meets(&spot);

    assert!(report.is_complete() && report.pulled.is_empty() && report.pushed.is_empty());
}

#[test]
fn a_short_listing_deletes_nothing_and_a_store_that_lost_everything_is_named_and_filled_again() {
    let (mut a, _, store) = before();
    a.meets(&store.0.visit("spot"));
    let before = a.store.bytes();
    let (empty, elsewhere) = place("spot");

    let report = a.meets(&elsewhere);

    assert_eq!(report.findings.len(), 2, "{report:?}");
    assert!(!report.stops_publishing());
    assert_eq!(a.store.bytes(), before);
    assert_eq!(empty.bytes(), before);
    assert!(a.meets(&elsewhere).is_complete());
}

#[test]
fn a_store_rolled_back_to_last_week_is_noticed_and_brought_up_again() {
    let (mut a, _, store) = before();
    a.meets(&store.0.visit("spot"));
    let (old, spot) = place("spot");
    for (name, bytes) in store.bytes().0 {
        let last_week = matches!(&name, crate::ledger::ArtifactName::Checkpoint { seq, .. } if *seq <= 2);
        if last_week {
            old.damage(&name, Some(&bytes));
        }
    }

    let report = a.meets(&spot);

    assert_eq!(report.findings.len(), 2, "{report:?}");
    assert_eq!(old.bytes(), store.bytes());
}

#[test]
fn what_a_store_lost_below_the_watermark_is_found_by_a_whole_listing() {
    let (mut a, _, store) = before();
    a.meets(&store.0.visit("spot"));
    let lost = a.writer.pack_name(b"pack a 0");
    store.damage(&lost, None);
    assert!(a.meets(&store.0.visit("spot")).pushed.is_empty());

    a.config.thoroughness = Thoroughness::Whole;
    let report = a.meets(&store.0.visit("spot"));

    assert_eq!(report.pushed, [lost]);
}

/// A place whose listings are stale, and that counts how often puts were settled.
struct Stale {
    inner: MemoryTransport,
    settled: AtomicU64,
}

impl Transport for Stale {
    fn list(&self, _: &ListRequest) -> Result<Listing, TransportError> {
        Ok(Listing::default())
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        self.inner.get(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.inner.put_new(name, bytes)
    }

    fn settle_puts(&self) -> Result<(), TransportError> {
        self.settled.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.inner.wait(hint)
    }

    fn label(&self) -> &str {
        "stale"
    }
}

#[test]
fn what_a_put_found_there_is_settled_too_as_its_writer_may_have_died_before() {
    let (mut a, _, store) = before();
    a.meets(&store.0.visit("spot"));
    let stale = Stale { inner: store.0.visit("spot"), settled: AtomicU64::new(0) };

    let report = a.meets(&stale);

    assert!(report.pushed.is_empty() && report.requests.put > 0, "all of it was there: {report:?}");
    assert_eq!(stale.settled.load(Ordering::SeqCst), 1);
}
