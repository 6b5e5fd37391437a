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

/// The packs of the house, in the order of their names.
fn packs(house: &House) -> Vec<ArtifactName> {
    let names = house.ledger.artifact_names(&house.chain()).expect("lists").into_iter();
    names.filter(|name| name.kind() == ArtifactKind::Pack).collect()
}

/// Flips one byte of an artifact; returns the bytes as they were.
fn flip(house: &House, name: &ArtifactName, at: usize) -> Vec<u8> {
    let good = house.ledger.read_whole(name).expect("reads");
    let mut wrong = good.clone();
    wrong[at] ^= 1;
    put(house, name, &wrong);
    good
}

fn put(house: &House, name: &ArtifactName, bytes: &[u8]) {
    let path = house.ledger.path(name);
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, bytes).expect("written");
}

fn noted(house: &House) -> Vec<ArtifactName> {
    house.ledger.noted_damage().expect("lists").into_iter().map(|noted| noted.name).collect()
}

#[test]
fn damage_in_a_pack_gets_no_new_name_by_which_it_would_be_whole() {
    let mut house = House::new(28);
    for i in 0..11 {
        house.publish(&[("a", noise(i, 300_000))]);
    }
    let harmed = packs(&house).swap_remove(3);
    let good = flip(&house, &harmed, 150_000);

    house.snapshot();

    let snapshot = house.checkpoints().pop().expect("a snapshot");
    let listed = house.ledger.listed_places(&snapshot).expect("places");
    assert_eq!(listed.len(), 11);
    let wrong = listed.iter().filter(|(segment, place)| house.ledger.read_segment(*segment, place).is_err());
    assert_eq!(wrong.map(|(_, place)| &place.artifact).collect::<Vec<_>>(), [&harmed]);
    assert_eq!(noted(&house), std::slice::from_ref(&harmed));
    put(&house, &harmed, &good);
    assert_eq!(house.ledger.forget_healed().expect("looks"), [harmed]);
    check(&house);
}

#[test]
fn a_damaged_pack_is_copied_without_what_is_gone_only_if_all_else_of_it_is_right() {
    let (gone, kept) = (noise(1, 200_000), noise(2, 90_000));
    // One byte of what is gone, one of what stays.
    for (at, is_copied) in [(100_000, true), (250_000, false)] {
        let mut house = House::new(29);
        house.publish(&[("a", gone.clone()), ("b", kept.clone())]);
        let harmed = packs(&house).remove(0);
        flip(&house, &harmed, at);

        house.sweep(&[&gone]);

        let snapshot = house.checkpoints().pop().expect("a snapshot");
        let listed = house.ledger.listed_places(&snapshot).expect("places");
        let (_, place) = listed.iter().find(|(segment, _)| *segment == SegmentHash::of(&kept)).expect("it stays");
        assert_eq!(place.artifact != harmed, is_copied);
        assert_eq!(house.ledger.read_segment(SegmentHash::of(&kept), place).is_ok(), is_copied);
        assert_eq!(listed.iter().any(|(segment, _)| *segment == SegmentHash::of(&gone)), !is_copied);
        assert_eq!(noted(&house), [harmed]);
    }
}
