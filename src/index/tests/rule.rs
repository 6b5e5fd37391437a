//! What is left out, what waits, and what two observers wrote once.

use super::fleet::{Fleet, Step, chain, content, path, place};
use super::fresh;
use crate::index::{Index, Item, Slot};
use crate::model::{
    ArtifactHash, Chain, Channel, Dot, Hash, Hlc, Lane, Record, SegmentHash, Space, State, Vector, Version, VersionId,
};

pub(super) fn version(origin: &str, first: u64, n: u64, at: &str, parents: &[&Version]) -> Version {
    let mut vector = Vector::new();
    for parent in parents {
        vector.join(&parent.full_vector());
    }
    let lane = Lane { origin: chain(origin).origin, generation: 1, first };
    vector.remove(&lane);
    let mut ids: Vec<VersionId> = parents.iter().map(|parent| parent.to_line().0).collect();
    ids.sort();
    Version {
        parents: ids,
        dot: Dot { lane, n },
        vector,
        hlc: Hlc::from_u64(100 + n),
        born: Hlc::from_u64(1),
        channel: Channel::Shared,
        path: path(at),
        state: State::Content(content(1).0),
        moved_from: None,
        via: None,
        adopted: false,
    }
}

pub(super) fn item(chain: Chain, seq: u64, versions: &[&Version]) -> Item {
    let records = versions.iter().map(|v| Record::Version(v.to_line().0, Box::new((*v).clone()))).collect();
    Item::following(chain, (seq, ArtifactHash(Hash::of(&seq.to_le_bytes()))), records, Vec::new())
}

fn slot(at: &str) -> Slot {
    Slot { space: Space::shared(), origin: None, path: path(at) }
}

fn heads(index: &Index, at: &str) -> Vec<VersionId> {
    index.heads(&slot(at)).expect("heads").iter().map(|head| head.id).collect()
}

#[test]
fn a_version_that_breaks_a_rule_is_left_out_and_stops_no_other() {
    let good = version("a-1", 1, 1, "x", &[]);
    let fine = version("a-1", 1, 9, "x", &[&good]);
    let mut forged = version("a-1", 2, 2, "y", &[]);
    forged.vector.insert(&Dot { lane: Lane { origin: chain("b-2").origin, generation: 1, first: 1 }, n: 1 });
    let mut lying = version("a-1", 3, 3, "x", &[&good]);
    lying.vector = Vector::new();
    let strange = version("b-2", 4, 4, "y", &[]);
    let mut private = version("a-1", 5, 5, "y", &[]);
    private.channel = Channel::Private;
    let no_lane = version("a-1", 1, 6, "y", &[]);
    let mut early = version("a-1", 8, 8, "x", &[&good]);
    early.hlc = Hlc::from_u64(1);
    let bad = [&forged, &lying, &strange, &private, &no_lane, &early];
    let all: Vec<&Version> = [&good].into_iter().chain(bad).chain([&fine]).collect();
    let (_folder, mut index) = fresh();

    let applied = index.apply(&[item(chain("a-1"), 1, &all)]).expect("applied");

    let named: Vec<VersionId> = applied.rejected.iter().map(|rejected| rejected.id).collect();
    assert_eq!(named, bad.map(|v| v.to_line().0));
    assert_eq!(heads(&index, "x"), [fine.to_line().0]);
    assert_eq!(index.slots(&Space::shared(), None, 10).expect("slots"), [slot("x")]);
    assert_eq!((index.counts().expect("counts").rejected, index.last_n(&chain("a-1")).expect("n")), (6, 9));
}

#[test]
fn children_wait_for_parents_through_any_number_of_generations() {
    let first = version("a-1", 1, 1, "x", &[]);
    let second = version("b-2", 1, 1, "x", &[&first]);
    let third = version("a-1", 1, 2, "x", &[&second]);
    let fourth = version("b-2", 1, 2, "y", &[&third]);
    let fourth = Version {
        dot: Dot { lane: Lane { first: 2, ..fourth.dot.lane.clone() }, n: 2 },
        ..version("b-2", 2, 2, "y", &[&third])
    };
    let (_folder, mut index) = fresh();

    let waiting = index.apply(&[item(chain("b-2"), 1, &[&second, &fourth])]).expect("applied").waiting;
    let more = index.apply(&[item(chain("a-1"), 2, &[&third])]).expect("applied").waiting;
    let missing = index.missing_parents(10).expect("missing");
    let applied = index.apply(&[item(chain("a-1"), 1, &[&first])]).expect("applied");

    assert_eq!((waiting, more, missing.len(), applied.waiting), (2, 3, 3, 0));
    assert_eq!(heads(&index, "x"), [third.to_line().0]);
    assert_eq!(heads(&index, "y"), [fourth.to_line().0]);
    assert_eq!(applied.touched.len(), 2);
    assert_eq!(index.applied(&chain("a-1")).expect("applied").map(|(seq, _)| seq), Some(2));
}

#[test]
fn two_observers_of_one_foreign_edit_count_as_one() {
    let base = version("a-1", 1, 1, "x", &[]);
    let seen_by_a = version("a-1", 1, 2, "x", &[&base]);
    let seen_by_b = version("b-2", 1, 1, "x", &[&base]);
    let edit = version("a-1", 1, 3, "x", &[&seen_by_a]);
    for order in [[&base, &seen_by_a, &seen_by_b, &edit], [&base, &seen_by_a, &edit, &seen_by_b]] {
        let (_folder, mut index) = fresh();

        for (seq, version) in order.iter().enumerate() {
            let origin = Chain { origin: version.dot.lane.origin.clone(), ..chain("a-1") };
            index.apply(&[item(origin, seq as u64 + 1, &[version])]).expect("applied");
        }

        assert_eq!(heads(&index, "x"), [edit.to_line().0]);
        assert_eq!(index.conflicts(10).expect("conflicts"), []);
    }
}

#[test]
fn both_branches_of_a_fork_are_kept_and_concurrent() {
    let base = version("a-1", 1, 1, "x", &[]);
    let one = version("a-1", 1, 2, "x", &[&base]);
    let two = Version { state: State::Content(content(2).0), ..version("a-1", 1, 2, "x", &[&base]) };
    // By its vector this one covers `one` too.
    let three = Version { state: State::Content(content(3).0), ..version("a-1", 1, 3, "x", &[&two]) };
    let (_folder, mut index) = fresh();

    index.apply(&[item(chain("a-1"), 1, &[&base, &one])]).expect("applied");
    let applied = index.apply(&[item(chain("a-1"), 2, &[&two, &three])]).expect("applied");

    assert_eq!(applied.forks.iter().map(|fork| fork.n).collect::<Vec<_>>(), [2]);
    let mut expected = [one.to_line().0, three.to_line().0];
    expected.sort();
    let mut told = heads(&index, "x");
    told.sort();
    assert_eq!(told, expected);
    let common = index.common_ancestor(&told).expect("common").map(|stored| stored.id);
    assert_eq!(common, Some(base.to_line().0));
    assert_eq!(index.forks().expect("forks"), [(chain("a-1"), 2)]);
}

#[test]
fn a_lane_carried_to_another_path_makes_parents_decide() {
    let first = version("a-1", 1, 1, "x", &[]);
    let edit = version("a-1", 1, 2, "x", &[&first]);
    // Moved away without knowing of `edit`, and back: by its vector `back` covers `edit`.
    let away = version("a-1", 1, 3, "y", &[&first]);
    let back = version("b-2", 5, 5, "x", &[&away]);
    let versions = [(&first, 1), (&edit, 2), (&away, 3), (&back, 1)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 3, 1]] {
        let (_folder, mut index) = fresh();

        for i in order {
            let (version, seq) = versions[i];
            let origin = Chain { origin: version.dot.lane.origin.clone(), ..chain("a-1") };
            index.apply(&[item(origin, seq, &[version])]).expect("applied");
        }

        let mut expected = [edit.to_line().0, back.to_line().0];
        expected.sort();
        let mut told = heads(&index, "x");
        told.sort();
        assert_eq!(told, expected);
        assert_eq!(index.forks().expect("forks"), [(chain("a-1"), 1)]);
    }
}

#[test]
fn an_archive_file_of_one_origin_never_meets_another_s() {
    let archive = |origin: &str, which| Version {
        channel: Channel::Archive,
        state: State::Content(content(which).0),
        ..version(origin, 1, 1, "log", &[])
    };
    let (a, b) = (archive("a-1", 1), archive("b-2", 2));
    let (_folder, mut index) = fresh();

    index.apply(&[item(chain("a-1"), 1, &[&a]), item(chain("b-2"), 1, &[&b])]).expect("applied");

    for (origin, version) in [("a-1", &a), ("b-2", &b)] {
        let slot = Slot { origin: Some(chain(origin).origin), ..slot("log") };
        let heads = index.heads(&slot).expect("heads");
        assert_eq!(heads.iter().map(|head| head.id).collect::<Vec<_>>(), [version.to_line().0]);
    }
    assert_eq!(index.conflicts(10).expect("conflicts"), []);
    let page = index.list_dir(&crate::index::Tree::Merged, "", None, 10).expect("a page");
    assert!(
        matches!(&page[..], [entry] if matches!(&entry.kind, crate::index::EntryKind::Slots(slots) if slots.len() == 2))
    );
}

#[test]
fn the_lowest_place_of_a_segment_is_kept() {
    let segment = SegmentHash::of(b"one");
    let with = |seq: u64, start| Item {
        places: vec![(segment, place(&chain("a-1"), seq, start, 3))],
        ..item(chain("a-1"), seq, &[])
    };
    let items = [with(1, 7), with(2, 0), with(3, 2)];
    let lowest = items.iter().map(|item| &item.places[0].1).min_by_key(|p| (p.artifact.clone(), p.block, p.start));
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (_folder, mut index) = fresh();

        for i in order {
            index.apply(&items[i..=i]).expect("applied");
        }

        assert_eq!(index.place(&segment).expect("asked").as_ref(), lowest);
    }
}

#[test]
fn a_segment_with_a_place_is_never_taken_for_a_new_one() {
    let (one, two) = (SegmentHash::of(b"one"), SegmentHash::of(b"two"));
    let with = |seq: u64, segment| Item {
        places: vec![(segment, place(&chain("a-1"), seq, 0, 3))],
        ..item(chain("a-1"), seq, &[])
    };
    let (_folder, mut index) = fresh();
    assert!(!index.may_have_place(&one), "an empty index knows that it has none");

    index.apply(&[with(1, one)]).expect("applied");

    assert!(index.may_have_place(&one));
    assert!(!index.may_have_place(&two), "nobody placed it");
    let path = std::path::PathBuf::from(index.conn.path().expect("a path"));
    drop(index);
    let (mut again, _) = Index::open(&path, 1).expect("opens");
    assert!(again.may_have_place(&one) && again.may_have_place(&two), "what stood before is asked of the tables");

    again.apply(&[with(2, two)]).expect("applied");

    assert!(again.may_have_place(&two));
}

#[test]
fn a_failed_transaction_leaves_no_trace() {
    let fleet = Fleet::run(&[Step::Edit { writer: 0, path: 3, content: 1, all_heads: true, bytes_come: true }]);
    let (_folder, mut index) = fresh();
    let other = rusqlite::Connection::open(index.conn.path().expect("a path")).expect("another writer");
    other.execute_batch("ALTER TABLE versions RENAME TO hidden").expect("renamed");

    assert!(index.apply(&fleet.items).is_err());
    other.execute_batch("ALTER TABLE hidden RENAME TO versions").expect("renamed back");
    index.apply(&fleet.items).expect("applied");

    assert_eq!(index.counts().expect("counts").versions, 1);
}
