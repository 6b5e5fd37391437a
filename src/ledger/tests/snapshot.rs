//! Snapshots list exactly what their chain holds.

use std::collections::BTreeSet;

use super::fixture::*;
use crate::ledger::*;
use crate::model::SegmentHash;

fn listed_lines(house: &House, snapshot: &Checkpoint) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let visited = house.ledger.each_listed_record(snapshot, |line, _| {
        lines.push(line.to_vec());
        Ok::<(), LedgerError>(())
    });
    visited.expect("listed records");
    lines.sort();
    lines
}

fn segments(places: Vec<(SegmentHash, Place)>) -> BTreeSet<SegmentHash> {
    places.into_iter().map(|(segment, _)| segment).collect()
}

fn check(house: &House) -> Checkpoint {
    let snapshot = house.checkpoints().pop().expect("a snapshot");
    assert_eq!(listed_lines(house, &snapshot), all_lines(house));
    let own = house.checkpoints().iter().flat_map(|c| house.ledger.segment_places(c).expect("places")).collect();
    let listed = house.ledger.listed_places(&snapshot).expect("places");
    for (segment, place) in &listed {
        house.ledger.read_segment(*segment, place).expect("a listed segment");
    }
    assert_eq!(segments(listed), segments(own));
    assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new());
    snapshot
}

#[test]
fn readers_that_begin_at_a_snapshot_get_the_same() {
    let mut house = House::new(21);
    for i in 0..12 {
        house.publish(&[("log.jsonl", prose(i, 3_000)), ("same", b"same".to_vec())]);
    }
    house.publish(&[("big", noise(1, 2 << 20))]);

    house.snapshot();

    let snapshot = check(&house);
    let listed = snapshot.body.snapshot.expect("a list");
    assert_eq!(listed.since.len(), 13);
    assert_eq!((listed.records.len(), listed.packs.len()), (1, 2));
    assert_eq!((listed.previous, listed.floor), (None, 1));
}

#[test]
fn ten_snapshots_are_merged_into_one_level_up() {
    let mut house = House::new(22);

    for i in 0..23 {
        house.publish(&[("a", prose(i, 2_000)), ("b", prose(i + 100, 50))]);
        house.snapshot();
    }

    let snapshot = check(&house);
    let listed = snapshot.body.snapshot.expect("a list");
    let levels: Vec<u32> = listed.records.iter().map(|listed| listed.2).collect();
    assert_eq!(levels.iter().filter(|level| **level == 1).count(), 2, "{levels:?}");
    assert_eq!(listed.records.len(), 5, "{levels:?}");
    assert_eq!(listed.packs.len(), 5);
    assert_eq!(listed.since.len(), 1);
    assert!(listed.previous.is_some());
}

#[test]
fn a_snapshot_is_due_after_enough_small_checkpoints() {
    let mut house = House::new(23);
    house.publish(&[("a", noise(1, 150_000))]);
    let few = house.ledger.gathered(&house.chain(), house.tip.expect("a tip")).expect("a count");
    for i in 0..60 {
        house.publish(&[("a", noise(i, 150_000))]);
    }

    let many = house.ledger.gathered(&house.chain(), house.tip.expect("a tip")).expect("a count");
    house.snapshot();
    let after = house.ledger.gathered(&house.chain(), house.tip.expect("a tip")).expect("a count");

    assert!((few.checkpoints, few.is_due()) == (1, false));
    assert!(many.is_due(), "{many:?}");
    assert_eq!(after, Gathered::default());
}

#[test]
fn a_chain_goes_on_after_a_snapshot() {
    let mut house = House::new(24);
    house.publish(&[("a", prose(1, 10))]);
    house.snapshot();
    house.publish(&[("a", prose(2, 10))]);

    let mut cursor = ChainCursor::start(house.chain());
    for checkpoint in house.checkpoints() {
        cursor.accept(&checkpoint).expect("it follows");
    }

    assert_eq!(cursor.tip(), house.tip);
    assert_eq!(house.tip.map(|tip| (tip.seq, tip.last_n)), Some((3, 2)));
}

#[test]
fn a_chain_that_begins_at_a_snapshot_is_sound_and_a_gap_behind_it_is_damage() {
    let mut house = House::new(25);
    for i in 0..3 {
        house.publish(&[("a", prose(i, 2_000))]);
    }
    house.snapshot();
    for i in 3..6 {
        house.publish(&[("a", prose(i, 2_000))]);
    }
    let checkpoints = house.checkpoints();
    let lose = |at: usize| std::fs::remove_file(house.ledger.path(&checkpoints[at].name)).expect("removed");

    (0..3).for_each(lose);
    let findings = house.ledger.verify(Depth::Bytes).expect("verified");
    assert!(matches!(findings[..], [Finding { problem: Problem::Below { from: 1, to: 3 }, wanted: None, .. }]));

    lose(4);
    let findings = house.ledger.verify(Depth::Bytes).expect("verified");
    let gap = |finding: &&Finding| matches!(finding.problem, Problem::Gap { from: 5, to: 5 });
    assert_eq!(findings.iter().find(gap).and_then(|gap| gap.wanted.as_ref()), Some(&checkpoints[4].name));
}

#[test]
fn a_sweep_lists_all_but_what_is_gone_and_what_is_below_its_floor_may_be_missing() {
    let mut house = House::new(26);
    let (old, new) = (noise(1, 1_000), noise(2, 1_000));
    house.publish(&[("a", old.clone())]);
    house.publish(&[("a", new.clone()), ("same", b"same".to_vec())]);
    // A pack of its own, of which most is gone, and one of which little is.
    let (lost, kept) = (noise(3, 200_000), noise(4, 90_000));
    house.publish(&[("b", lost.clone()), ("c", kept.clone())]);
    house.publish(&[("d", noise(5, 300_000)), ("e", noise(6, 20_000))]);

    house.sweep(&[&old, &lost, &noise(6, 20_000)]);

    let snapshot = house.checkpoints().pop().expect("a snapshot");
    let lists = snapshot.body.snapshot.as_ref().expect("lists");
    assert_eq!((lists.floor, lists.dropped.len()), (5, 3));
    assert_eq!(listed_lines(&house, &snapshot), all_lines(&house));
    let there = segments(house.ledger.listed_places(&snapshot).expect("places"));
    for bytes in [&new, &kept, &b"same".to_vec(), &noise(5, 300_000)] {
        assert!(there.contains(&SegmentHash::of(bytes)), "kept");
    }
    assert!(!there.contains(&SegmentHash::of(&old)) && !there.contains(&SegmentHash::of(&lost)));
    assert!(
        there.contains(&SegmentHash::of(&noise(6, 20_000))),
        "a pack that holds mostly what is kept stays as it is"
    );
    assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new());

    let garbage = house.ledger.garbage(&house.chain(), 5).expect("lists");
    assert!(house.ledger.remove_garbage(&garbage).expect("removes") > 200_000);
    assert_eq!(house.ledger.checkpoint_names(&house.chain(), 0).expect("lists").len(), 1);
    assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new());
    assert_eq!(house.ledger.garbage(&house.chain(), 5).expect("lists"), []);
    house.publish(&[("a", old)]);
    assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new());
}

#[test]
fn a_removal_that_is_cut_off_leaves_a_sound_chain() {
    let mut house = House::new(27);
    for i in 0..4 {
        house.publish(&[("a", noise(i, 300_000))]);
    }
    house.sweep(&[&noise(0, 300_000), &noise(1, 300_000)]);
    let garbage = house.ledger.garbage(&house.chain(), 5).expect("lists");
    assert!(garbage.len() >= 6, "{garbage:?}");

    for name in &garbage {
        house.ledger.remove_garbage(std::slice::from_ref(name)).expect("removes");
        assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new(), "after {name}");
    }
}
