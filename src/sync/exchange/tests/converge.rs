//! However machines meet, they end with the same artifacts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Thoroughness, exchange_in_turn};
use super::fleet::*;
use crate::ledger::ArtifactKind;
use crate::transport::{FaultPlan, Transport};

/// A small generator, so that a seed is all a failure needs.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn machines_that_meet_at_random_over_bad_lines_end_with_the_same_artifacts() {
    for seed in 0..20 {
        simulate(seed, 60);
    }
}

#[test]
fn without_faults_random_meetings_converge_too() {
    for seed in 100..106 {
        simulate(seed, 0);
    }
}

fn simulate(seed: u64, per_mille: u32) {
    const MACHINES: usize = 4;
    const PLACES: usize = 2;
    let mut dice = Dice(seed);
    let origins = ["a-1", "b-1", "c-1", "d-1"];
    let mut machines: Vec<Machine> = origins.iter().zip(1..).map(|(origin, key)| Machine::new(origin, key)).collect();
    let mut stores: Vec<PlaceStore> = machines.iter().map(|machine| machine.store.clone()).collect();
    stores.extend((0..PLACES).map(|n| place(&format!("place {n}")).0));
    let mut published = Contents::default();

    for step in 0..60 {
        let who = dice.roll(MACHINES as u64) as usize;
        if dice.roll(3) == 0 {
            let text = format!("{seed} {step}");
            match dice.roll(3) {
                0 => machines[who].publish(&Load { hlc: step, ..Load::default() }),
                _ => machines[who].publish_full(&text),
            };
            let own = machines[who].writer.chain.clone();
            let all = machines[who].store.bytes();
            published.0.extend(all.0.into_iter().filter(|(name, _)| *name.chain() == own));
            continue;
        }
        let other = dice.roll(stores.len() as u64) as usize;
        if other != who {
            let plan = FaultPlan::Seeded { seed: seed * 1000 + step, per_mille };
            let line = faulty(&stores[other], &format!("store {other}"), plan);
            // An exchange that ends early is part of the game.
            let _ = machines[who].meet(&line);
            line.settle().expect("memory takes them");
        }
    }
    // Two rounds over good lines: once around for everybody's news, once more for what came last.
    for _ in 0..2 {
        for (who, machine) in machines.iter_mut().enumerate() {
            for (other, store) in stores.iter().enumerate().filter(|(other, _)| *other != who) {
                let line = store.0.visit(format!("store {other}"));
                machine.meets(&line);
            }
        }
    }

    for (n, store) in stores.iter().enumerate() {
        assert_eq!(store.bytes(), published, "seed {seed} per mille {per_mille}: store {n} differs");
    }
    for (who, machine) in machines.iter_mut().enumerate() {
        let other = (who + 1) % MACHINES;
        let report = machine.meets(&stores[other].0.visit(format!("store {other}")));
        assert!(report.is_complete(), "seed {seed}: {report:?}");
        assert!(report.findings.is_empty(), "seed {seed}: {report:?}");
    }
}

#[test]
fn machines_that_never_meet_converge_through_a_third() {
    let (mut a, mut b, mut c) = (Machine::new("a-1", 1), Machine::new("b-1", 2), Machine::new("c-1", 3));
    let ((_, north), (south_store, south)) = (place("north"), place("south"));
    a.publish_full("one");
    b.publish_full("two");

    a.meets(&north);
    c.meets(&north);
    c.meets(&south);
    b.meets(&south);
    c.meets(&south);
    c.meets(&north);
    a.meets(&north);

    assert_eq!(a.store.bytes(), b.store.bytes());
    assert_eq!(a.store.names().len(), 6);
    assert!(is_sound(&south_store, true));
}

#[test]
fn nothing_new_costs_one_list_of_chains_and_one_list_for_each() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    for n in 0..5 {
        a.publish_full(&format!("a {n}"));
        b.publish_full(&format!("b {n}"));
    }
    for _ in 0..2 {
        a.meets(&spot);
        b.meets(&spot);
    }

    for machine in [&mut a, &mut b] {
        let report = machine.meets(&spot);
        let requests = report.requests;
        assert_eq!((requests.list, requests.get, requests.put, requests.heads), (1 + 2, 0, 0, 0));
        assert!(report.is_complete() && report.pulled.is_empty() && report.pushed.is_empty());
    }
}

#[test]
fn a_small_edit_costs_one_get_on_the_reader_and_one_put_on_the_writer() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    a.publish_full("first");
    a.meets(&spot);
    b.meets(&spot);
    let edit = a.publish(&Load { hlc: 7, ..Load::default() });

    let (wrote, read) = (a.meets(&spot), b.meets(&spot));

    assert_eq!((wrote.requests.list, wrote.requests.get, wrote.requests.put), (2, 0, 1));
    assert_eq!((read.requests.list, read.requests.get, read.requests.put), (2, 1, 0));
    assert_eq!(read.imported().collect::<Vec<_>>(), [&edit]);
}

/// A place that tells its heads in one request.
struct WithHeads<T>(T, Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl<T: Transport> Transport for WithHeads<T> {
    fn list(
        &self,
        request: &crate::transport::ListRequest,
    ) -> Result<crate::transport::Listing, crate::transport::TransportError> {
        self.0.list(request)
    }
    fn get(
        &self,
        name: &str,
        range: Option<std::ops::Range<u64>>,
        max_bytes: u64,
    ) -> Result<Vec<u8>, crate::transport::TransportError> {
        self.0.get(name, range, max_bytes)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<crate::transport::Put, crate::transport::TransportError> {
        self.0.put_new(name, bytes)
    }
    fn wait(
        &self,
        hint: &crate::transport::WaitHint,
    ) -> Result<crate::transport::Wake, crate::transport::TransportError> {
        self.0.wait(hint)
    }
    fn label(&self) -> &str {
        self.0.label()
    }
    fn heads(&self, _: &str) -> Result<Option<Vec<String>>, crate::transport::TransportError> {
        Ok(Some((self.1)()))
    }
}

fn place_with_heads() -> (Arc<PlaceStore>, WithHeads<crate::transport::MemoryTransport>) {
    let (store, spot) = place("spot");
    let store = Arc::new(store);
    let its_store = store.clone();
    let heads = move || {
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        for name in its_store.names().iter().filter(|name| name.kind() == ArtifactKind::Checkpoint) {
            newest.insert(name.chain().to_string(), format!("{APP}/{name}"));
        }
        newest.into_values().collect()
    };
    (store, WithHeads(spot, Arc::new(heads)))
}

#[test]
fn where_heads_tell_nothing_of_a_chain_its_parts_that_came_before_its_first_checkpoint_are_not_sent_again() {
    let mut a = Machine::new("a-1", 1);
    let (store, spot) = place_with_heads();
    let packs = (0..6u8).map(|n| vec![n; 40]).collect();
    a.publish(&Load { packs, ..Load::default() });
    // Not its first look, which lists everything.
    a.config.thoroughness = Thoroughness::News;
    let mut puts = 0;
    loop {
        let (config, journal) = (&a.config, &mut a.journal);
        let told = exchange_in_turn(&a.store, &spot, config, journal, &crate::sync::NoProgress, &super::cut::Crowd);
        let report = told.expect("a place in memory is always there");
        puts += report.requests.put;
        assert!(puts <= 20, "it comes to no end");
        if !report.gave_way {
            break;
        }
    }

    assert_eq!(store.bytes(), a.store.bytes());
    assert_eq!(puts as usize, a.store.names().len());
}

#[test]
fn a_place_that_tells_its_heads_costs_one_request_when_nothing_is_new() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place_with_heads();
    a.publish_full("one");
    a.meets(&spot);
    b.meets(&spot);
    let quiet = b.meets(&spot).requests;
    a.publish_full("two");
    a.meets(&spot);
    let news = b.meets(&spot);

    assert_eq!((quiet.total(), quiet.heads), (1, 1));
    assert_eq!(news.imported().count(), 1);
    assert_eq!(a.store.bytes(), b.store.bytes());
}
