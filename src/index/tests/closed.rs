//! Chains that a later generation stands for, and branches beside the snapshot at a floor: nothing of them is missed when an index is made anew.

use crate::index::{Index, replay};
use crate::ledger::tests::fixture::*;
use crate::ledger::*;
use crate::model::*;

/// A house that went on as generation 5, its first chain, and what may be said of that.
fn adopted(seed: u64) -> (House, Chain, Closable) {
    let mut house = House::new(seed);
    house.publish(&[("a.txt", b"a".to_vec())]);
    house.publish(&[("b.txt", b"b".to_vec()), ("c.bin", noise(seed, 300_000))]);
    let first = house.chain();
    house.adopt(5);
    let closable = house.ledger.closable(&first, 1, &[]).expect("reads").expect("is all here");
    (house, first, closable)
}

fn floor(house: &House, chain: &Chain) -> u64 {
    let mut index = Index::recreate(&house.folder.path().join("index.db"), 1).expect("an index");
    let replayed = replay(&mut index, &house.ledger).expect("replayed");
    assert!(replayed.problems.iter().all(|problem| !problem.stops_chain), "{replayed:?}");
    index.floor(chain).expect("reads").seq
}

#[test]
fn a_word_of_which_nothing_is_listed_again_proves_nothing_and_the_chain_stands_for_itself() {
    let (mut house, first, closable) = adopted(47);
    house.publish(&[("d.txt", b"d".to_vec())]);
    house.close(std::slice::from_ref(&closable.word));
    assert_eq!(house.checkpoints().pop().expect("one").closed(), [&closable.word]);
    assert_eq!(floor(&house, &first), 1);
}

#[test]
fn a_chain_is_closed_once_everything_of_it_is_listed_anew_and_then_nothing_of_it_is_missed() {
    let (mut house, first, closable) = adopted(43);
    house.carry(&closable);
    house.close(std::slice::from_ref(&closable.word));
    assert_eq!(floor(&house, &first), 3);
    let garbage = house.ledger.garbage(&first, 3).expect("lists");
    assert_eq!(garbage.len(), house.ledger.artifact_names(&first).expect("lists").len());

    house.ledger.remove_garbage(&garbage).expect("removes");

    assert_eq!(house.findings(Depth::Bytes), Vec::<String>::new());
    let mut index = Index::recreate(&house.folder.path().join("index.db"), 2).expect("an index");
    replay(&mut index, &house.ledger).expect("replayed");
    assert_eq!((index.counts().expect("counts").versions, index.last_n(&first).expect("reads")), (3, 3));
    assert_eq!(index.closed_ends(&first).expect("reads").len(), 1);
    // And again, with nothing new: the index is not taken for another ledger's.
    let again = replay(&mut index, &house.ledger).expect("replayed");
    assert!(again.stale.is_empty() && again.checkpoints == 0 && again.problems.is_empty(), "{again:?}");
}

#[test]
fn a_branch_beside_the_snapshot_at_the_floor_is_read_when_nothing_below_is_here_any_more() {
    let mut house = House::new(46);
    for text in ["one", "two", "three"] {
        house.publish(&[("x.txt", text.into())]);
    }
    let (chain, fork) = (house.chain(), house.tip);
    house.sweep(&[b"one"]);
    house.publish(&[("after.txt", b"after".to_vec())]);
    house.tip = fork;
    house.publish(&[("branch.txt", b"branch".to_vec())]);
    house.publish(&[("branch.txt", b"went on".to_vec())]);
    let garbage = house.ledger.garbage(&chain, 4).expect("lists");
    assert!(garbage.len() >= 3 && house.ledger.stands_alone(&chain, 4).expect("reads"));
    house.ledger.remove_garbage(&garbage).expect("removes");

    let mut index = Index::recreate(&house.folder.path().join("index.db"), 1).expect("an index");
    let replayed = replay(&mut index, &house.ledger).expect("replayed");
    assert!(replayed.problems.is_empty(), "{:?}", replayed.problems);
    assert_eq!(index.counts().expect("counts").versions, 3 + 1 + 2);
    assert_eq!(index.floor(&chain).expect("reads").seq, 4);
    let again = replay(&mut index, &house.ledger).expect("replayed");
    assert!(again.problems.is_empty() && again.stale.is_empty(), "{again:?}");
}
