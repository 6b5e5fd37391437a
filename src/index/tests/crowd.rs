//! Many versions side by side: the same heads as folding one by one against all, at a cost that grows with what came.

use proptest::prelude::*;
use rusqlite::Connection;

use super::fleet::{Fleet, chain, content};
use super::law::{check_model, steps};
use super::model::Model;
use super::rule::{item, version};
use super::{apply_split, dump, fresh};
use crate::index::codec::HeadRef;
use crate::index::lineage::{Descendant, Forks, load_forks};
use crate::index::row::{LOADED, SlotRow, VersionRow};
use crate::index::{Index, Item};
use crate::model::{Chain, Dot, Hlc, Lane, Reason, Space, State, Version};

/// The definition: each version is compared with every head, and looks for its twin among all versions of the slot.
fn heads_by_definition(conn: &Connection, forks: &Forks, slot: &SlotRow) -> Vec<HeadRef> {
    let mut rows = Vec::new();
    let mut next = slot.last;
    while next != 0 {
        rows.push(VersionRow::load(conn, next).expect("a row"));
        next = rows.last().expect("just pushed").prev;
    }
    rows.reverse();
    let mut heads: Vec<(VersionRow, bool)> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let new = Descendant::new(row.clone()).expect("a vector");
        let is_below = |head: &VersionRow| new.descends_from(conn, forks, head).expect("lineage");
        let (dominated, mut kept): (Vec<_>, Vec<_>) = heads.into_iter().partition(|(head, _)| is_below(head));
        let is_twin = |a: &VersionRow, b: &VersionRow| a.is_twin(b).expect("comparable");
        for (head, shadowed) in &mut kept {
            *shadowed = *shadowed || dominated.iter().any(|(twin, _)| is_twin(head, twin));
        }
        let is_head = |vid: i64| kept.iter().any(|(head, _)| head.vid == vid);
        let succeeded = rows[..at].iter().any(|twin| !is_head(twin.vid) && is_twin(twin, row));
        let shadowed = succeeded && !kept.is_empty();
        kept.push((row.clone(), shadowed));
        heads = kept;
    }
    heads.into_iter().map(|(row, shadowed)| HeadRef { vid: row.vid, shadowed }).collect()
}

fn check_definition(index: &Index) {
    let forks = load_forks(&index.conn).expect("forks");
    let mut statement = index.conn.prepare("SELECT sid FROM slots").expect("slots");
    let sids: Vec<i64> =
        statement.query_map([], |row| row.get(0)).expect("rows").map(|sid| sid.expect("a row")).collect();
    for sid in sids {
        let slot = SlotRow::load(&index.conn, sid).expect("a slot");
        assert_eq!(slot.heads, heads_by_definition(&index.conn, &forks, &slot), "heads of slot {sid}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn crowded_or_not_a_slot_has_the_heads_of_the_definition(steps in steps(), sizes in proptest::collection::vec(0usize..8, 0..8)) {
        let fleet = Fleet::run(&steps);
        let (_folder, mut few) = fresh();
        let (_other, mut crowded) = fresh();
        crowded.known.crowds.few_heads = 0;

        apply_split(&mut few, &fleet.items, &sizes);
        apply_split(&mut crowded, &fleet.items, &sizes);

        check_definition(&few);
        check_definition(&crowded);
        check_model(&crowded, &Model::new(&Space::shared(), fleet.all.clone()));
        prop_assert_eq!(dump(&few, &fleet.chains()), dump(&crowded, &fleet.chains()));
    }
}

const MANY: u64 = 5_000;
const A_TRANSACTION: usize = 256;
/// Version rows read for one version, whatever the slot holds.
const MAX_ROWS_EACH: u64 = 12;

/// Applies versions of one chain, a checkpoint each, and returns how many rows were read for each.
fn rows_for_each(index: &mut Index, chain: &Chain, versions: &[Version]) -> u64 {
    let items: Vec<Item> =
        versions.iter().enumerate().map(|(i, version)| item(chain.clone(), i as u64 + 1, &[version])).collect();
    LOADED.with(|count| count.set(0));
    for transaction in items.chunks(A_TRANSACTION) {
        index.apply(transaction).expect("applied");
    }
    LOADED.with(|count| count.get()) / versions.len() as u64
}

fn numbered(n: u64) -> Version {
    let mut bytes = content(1).0;
    bytes.hash = crate::model::ContentHash::of(&n.to_le_bytes());
    Version { state: State::Content(bytes), hlc: Hlc::from_u64(100 + n), ..version("a-1", n, n, "x", &[]) }
}

#[test]
fn thousands_of_concurrent_heads_of_one_path_cost_each_what_one_costs() {
    let tombstone = |n| Version {
        state: State::Tombstone { reason: Reason::User, moved_to: None },
        ..version("a-1", n, n, "x", &[])
    };
    let first = numbered(1);
    // All on one lane and beside each other, as by a chain with many writers.
    let forked = |n| if n == 1 { first.clone() } else { version("a-1", 1, n, "x", &[&first]) };
    type Shape<'s> = Box<dyn Fn(u64) -> Version + 's>;
    let shapes: [(&str, Shape<'_>); 3] =
        [("contents", Box::new(numbered)), ("tombstones", Box::new(tombstone)), ("a forked lane", Box::new(forked))];
    for (shape, make) in shapes {
        let versions: Vec<Version> = (1..=MANY).map(make).collect();
        let (_folder, mut index) = fresh();

        let rows = rows_for_each(&mut index, &chain("a-1"), &versions);

        assert!(rows <= MAX_ROWS_EACH, "{shape}: {rows} rows for each version");
        let slot = crate::index::Slot::of(&Space::shared(), &versions[0]);
        let heads = index.heads(&slot).expect("heads").len() as u64;
        assert_eq!(heads, if shape == "a forked lane" { MANY - 1 } else { MANY }, "{shape}");
    }
}

#[test]
fn a_crowd_ends_with_the_version_that_descends_from_all_of_it() {
    const CROWD: u64 = 300;
    let mut versions: Vec<Version> = (1..=CROWD).map(numbered).collect();
    let merge = version("a-1", CROWD + 1, CROWD + 1, "x", &versions.iter().collect::<Vec<_>>());
    let lane = Lane { first: CROWD, ..merge.dot.lane.clone() };
    let mut vector = merge.vector.clone();
    vector.remove(&lane);
    versions.push(Version { dot: Dot { lane, n: CROWD + 1 }, vector, hlc: Hlc::from_u64(9_000), ..merge });
    let (_folder, mut index) = fresh();

    rows_for_each(&mut index, &chain("a-1"), &versions);

    let slot = crate::index::Slot::of(&Space::shared(), &versions[0]);
    let heads = index.heads(&slot).expect("heads");
    assert_eq!(heads.iter().map(|head| head.id).collect::<Vec<_>>(), [versions[CROWD as usize].to_line().0]);
    assert_eq!((index.conflicts(10).expect("conflicts"), index.counts().expect("counts").live_files), (vec![], 1));
}

#[test]
fn two_lanes_of_one_writer_in_turn_are_not_walked_through_for_each_version() {
    let mut versions = vec![numbered(1), numbered(2)];
    for n in 3..=MANY / 5 {
        // Descends from the one before, which is of the other lane.
        let (last, before) = (&versions[versions.len() - 1], &versions[versions.len() - 2]);
        let parents: Vec<&Version> = if n == 3 { vec![last, before] } else { vec![last] };
        versions.push(Version { hlc: Hlc::from_u64(100 + n), ..version("a-1", 2 - n % 2, n, "x", &parents) });
    }
    let (_folder, mut index) = fresh();

    let rows = rows_for_each(&mut index, &chain("a-1"), &versions);

    assert!(rows <= MAX_ROWS_EACH, "{rows} rows for each version");
    assert_eq!((index.forks().expect("forks"), index.conflicts(10).expect("conflicts")), (vec![], vec![]));
    check_definition(&index);
}
