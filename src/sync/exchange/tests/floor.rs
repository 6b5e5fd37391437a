//! Floors: what stands below is neither offered nor fetched, whoever still holds it; who is new begins at a snapshot.

use std::collections::BTreeSet;

use super::super::{Budget, Finding};
use super::fleet::*;
use crate::index::{Floor, Index, replay};
use crate::ledger::{ArtifactKind, ArtifactName, Ledger};
use crate::model::{
    Channel, Content, ContentHash, ContentKind, Dot, Hlc, Lane, RelPath, Space, State, Vector, Version,
};
use crate::transport::Transport;

fn seq(name: &ArtifactName) -> u64 {
    if let ArtifactName::Checkpoint { seq, .. } = name { *seq } else { 0 }
}

/// A snapshot that lists one records artifact and one pack.
fn snapshot(text: &str, floor: u64) -> Load {
    let (records, pack) = (format!("all records {text}").into_bytes(), format!("all packs {text}").into_bytes());
    Load { snapshot: Some((vec![records], vec![pack])), floor, ..Load::default() }
}

fn numbers(store: &PlaceStore) -> Vec<u64> {
    checkpoints(store).iter().map(seq).collect()
}

/// What the caller of an exchange knows of a chain whose fourth checkpoint told this floor.
fn accept(machine: &mut Machine, writer: &Writer, floor: u64) {
    let floor = Floor { seq: floor, at: floor, told: Hlc::from_u64(0) };
    machine.config.floors.insert(writer.chain.clone(), floor);
}

#[test]
fn who_is_new_begins_at_the_newest_snapshot_and_never_fetches_what_is_below_its_floor() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    for text in ["one", "two", "three"] {
        a.publish_full(text);
    }
    let newest = a.publish(&snapshot("four", 4));
    a.publish_full("five");
    a.meets(&spot);

    let report = b.meets(&spot);

    assert_eq!(numbers(&b.store), [4, 5]);
    assert_eq!(report.imported().next(), Some(&newest), "the snapshot comes first");
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(
        report.pulled.len(),
        2 + 1 + 3,
        "a snapshot with what it lists, a checkpoint with what it names: {report:?}"
    );
    accept(&mut b, &a.writer, 4);
    let again = b.meets(&spot);
    assert!(again.pulled.is_empty() && again.pushed.is_empty() && again.is_complete(), "{again:?}");
    assert_eq!(again.requests.get, 0);
}

#[test]
fn where_nothing_was_dropped_the_snapshot_comes_first_and_the_rest_is_taken_too() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    a.publish_full("one");
    a.publish_full("two");
    let newest = a.publish(&snapshot("three", 1));
    a.publish_full("four");
    a.meets(&spot);

    let report = b.meets(&spot);

    assert_eq!(report.imported().map(seq).collect::<Vec<_>>(), [3, 4, 1, 2]);
    assert_eq!(report.imported().next(), Some(&newest));
    assert_eq!(b.store.bytes(), store.bytes());
    assert!(is_sound(&b.store, true));
}

#[test]
fn with_a_small_budget_a_chain_is_taken_forwards_and_every_exchange_gets_on() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    for text in ["one", "two", "three", "four", "five"] {
        a.publish_full(text);
    }
    a.publish(&snapshot("six", 1));
    a.meets(&spot);
    b.config.budget = Budget { requests: 9, bytes: 1 << 20 };

    let mut rounds = 0;
    while b.store.bytes() != store.bytes() {
        let before = b.store.names().len();
        b.meets(&spot);
        rounds += 1;
        assert!(b.store.names().len() > before && rounds < 20, "round {rounds} got nothing");
    }
}

#[test]
fn what_is_below_a_floor_is_neither_offered_nor_fetched_whoever_still_holds_it() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let ((old, to_old), (new, to_new)) = (place("old"), place("new"));
    for text in ["one", "two", "three"] {
        a.publish_full(text);
    }
    a.meets(&to_old);
    b.meets(&to_old);
    a.publish(&snapshot("four", 4));
    let writer = a.writer.clone();
    for machine in [&mut a, &mut b] {
        accept(machine, &writer, 4);
    }

    a.meets(&to_new);
    assert_eq!(numbers(&new), [4], "not offered, though it is here");
    b.meets(&to_new);
    assert_eq!(numbers(&b.store), [1, 2, 3, 4]);
    let mut c = Machine::new("c-1", 3);
    accept(&mut c, &writer, 4);
    let report = c.meets(&to_old);
    assert_eq!(numbers(&c.store), [] as [u64; 0], "not fetched, though it is there");
    assert!(report.waiting.is_empty() && report.phantoms.is_empty(), "{report:?}");
    // The owner removed it here: that it stands there is no second writer.
    for name in a.store.names().into_iter().filter(|name| (1..4).contains(&seq(name))) {
        a.store.damage(&name, None);
    }
    let report = a.meets(&to_old);
    assert!(!report.stops_publishing(), "{report:?}");
    assert_eq!(numbers(&a.store), [4]);
    assert_eq!(numbers(&old), [1, 2, 3, 4]);
}

#[test]
fn a_floor_that_sinks_is_named_and_the_higher_one_stays() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    for text in ["one", "two", "three"] {
        a.publish_full(text);
    }
    a.publish(&snapshot("four", 4));
    a.meets(&spot);
    b.meets(&spot);
    accept(&mut b, &a.writer, 4);
    let lower = a.publish(&snapshot("five", 2));
    a.meets(&spot);

    let report = b.meets(&spot);

    let named = Finding::FloorLowered { name: lower, floor: 2, accepted: 4 };
    assert!(report.findings.contains(&named), "{:?}", report.findings);
    assert_eq!(numbers(&b.store), [4, 5]);
}

#[test]
fn who_was_away_while_the_chain_was_cut_goes_on_at_the_snapshot() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    a.publish_full("one");
    a.publish_full("two");
    a.meets(&spot);
    b.meets(&spot);
    for text in ["three", "four"] {
        a.publish_full(text);
    }
    a.publish(&snapshot("five", 5));
    a.meets(&spot);
    for name in store.names().into_iter().filter(|name| (1..5).contains(&seq(name))) {
        store.damage(&name, None);
    }

    let report = b.meets(&spot);
    assert_eq!(report.imported().map(seq).collect::<Vec<_>>(), [5]);
    assert!(report.waiting.is_empty() && report.findings.is_empty(), "{report:?}");
    assert_eq!(numbers(&store), [5], "what was let go is not given back");
    let kinds: BTreeSet<ArtifactKind> = report.pulled.iter().map(ArtifactName::kind).collect();
    assert_eq!(kinds.len(), 3);
    accept(&mut b, &a.writer, 5);
    a.publish_full("six");
    a.meets(&spot);
    assert_eq!(b.meets(&spot).imported().count(), 1);
    assert!(spot.label() == "spot" && numbers(&store) == [5, 6]);
}

/// The line of a version of a path of its own.
fn line(writer: &Writer, n: u64) -> Vec<u8> {
    let content = Content { hash: ContentHash::of(&[n as u8]), size: 1, kind: ContentKind::File { exec: false } };
    let version = Version {
        parents: Vec::new(),
        dot: Dot { lane: Lane { origin: writer.chain.origin.clone(), generation: 1, first: n }, n },
        vector: Vector::new(),
        hlc: Hlc::new(1_800_000_000_000, n as u16),
        born: Hlc::new(1_800_000_000_000, n as u16),
        channel: Channel::Shared,
        path: RelPath::parse(&format!("{n}.md")).expect("a path"),
        state: State::Content(content),
        moved_from: None,
        via: None,
        adopted: false,
    };
    let mut line = version.to_line().1;
    line.push(b'\n');
    line
}

#[test]
fn a_snapshot_that_would_let_versions_go_raises_no_floor_and_begins_no_chain() {
    for listed in [0, 1, 2] {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&folder.path().join("here")).expect("opens");
        let behind = Ledger::open(&folder.path().join("behind")).expect("opens");
        let mut writer = Writer::new("a-1", 1);
        let lines: Vec<Vec<u8>> = (1..=2).map(|n| line(&writer, n)).collect();
        let mut artifacts = Vec::new();
        for line in &lines {
            artifacts.extend(writer.next(&Load { records: vec![line.clone()], ..Load::default() }));
        }
        let snapshot = Load { snapshot: Some((lines[..listed].to_vec(), Vec::new())), floor: 3, ..Load::default() };
        let last = writer.next(&snapshot);
        for (name, bytes) in artifacts.iter().chain(&last) {
            ledger.put(name, bytes).expect("takes it");
        }
        for (name, bytes) in &last {
            behind.put(name, bytes).expect("takes it");
        }
        let whole = listed == 2;

        let open = |name: &str| Index::open(&folder.path().join(name), 1).expect("opens").0;
        let (mut index, mut fresh, mut joined) = (open("index"), open("fresh"), open("joined"));
        let before = Ledger::open(&folder.path().join("before")).expect("opens");
        for (name, bytes) in &artifacts {
            before.put(name, bytes).expect("takes it");
        }
        replay(&mut index, &before).expect("replays");
        let done = replay(&mut index, &ledger).expect("replays");
        replay(&mut fresh, &ledger).expect("replays");
        let begun = replay(&mut joined, &behind).expect("replays");

        assert_eq!(done.problems.is_empty(), whole, "{listed}: {:?}", done.problems);
        for index in [&index, &fresh] {
            assert_eq!(index.slots(&Space::shared(), None, 9).expect("lists").len(), 2, "{listed}");
            assert_eq!(index.floor(&writer.chain).expect("reads").seq, if whole { 3 } else { 1 }, "{listed}");
        }
        assert_eq!(begun.problems.iter().any(|problem| problem.stops_chain), !whole, "{listed}");
        assert_eq!(ledger.stands_alone(&writer.chain, 3).expect("looks"), whole);
    }
}

#[test]
fn a_branch_beside_the_snapshot_at_a_floor_is_taken_though_nobody_holds_what_was_before_both() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (north, to_north) = place("north");
    a.publish_full("one");
    a.publish_full("two");
    let mut clone = Machine::new("a-1", 1);
    clone.writer = a.writer.clone();
    let newest = a.publish(&snapshot("three", 3));
    let branch = [clone.publish_full("branch"), clone.publish_full("goes on")];
    // The store holds what counts, and no more.
    for (name, bytes) in a.store.bytes().0.into_iter().chain(clone.store.bytes().0) {
        let counts = name.kind() != ArtifactKind::Checkpoint || seq(&name) >= 3;
        counts.then(|| north.damage(&name, Some(&bytes)));
    }

    let report = b.meets(&to_north);
    let again = b.meets(&to_north);

    let mut all = vec![newest, branch[0].clone(), branch[1].clone()];
    all.sort();
    assert_eq!(checkpoints(&b.store), all, "{report:?}");
    assert!(again.pulled.is_empty() && again.waiting.is_empty(), "{again:?}");
}
