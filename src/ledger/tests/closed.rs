//! Which words about closed chains count, and what of a chain a word may cover.

use super::fixture::*;
use crate::ledger::*;
use crate::model::*;

fn closable(house: &House, chain: &Chain, floor: u64, covered: &[Tip]) -> Option<Closable> {
    house.ledger.closable(chain, floor, covered).expect("reads")
}

/// A house that went on as generation 5, its first chain, and what may be said of that.
fn adopted(seed: u64) -> (House, Chain, Closable) {
    let mut house = House::new(seed);
    house.publish(&[("a.txt", b"a".to_vec())]);
    house.publish(&[("b.txt", b"b".to_vec()), ("c.bin", noise(seed, 300_000))]);
    let first = house.chain();
    house.adopt(5);
    let closable = closable(&house, &first, 1, &[]).expect("is all here");
    (house, first, closable)
}

#[test]
fn a_word_counts_if_one_owner_certified_both_devices_and_the_chain_is_an_earlier_one_of_the_origin() {
    let (mut house, first, Closable { word, .. }) = adopted(41);
    let mut other = House::new(42);
    other.publish(&[("x.txt", b"x".to_vec())]);
    let theirs = other.checkpoints().pop().expect("one").body;
    house.publish(&[("d.txt", b"d".to_vec())]);
    let own = house.checkpoints().pop().expect("one").body;
    let good = word.clone();
    let forged = [
        Closed { cert: theirs.cert.clone(), key: theirs.key, ..word.clone() },
        Closed { cert: theirs.cert.clone(), ..word.clone() },
        Closed { key: theirs.key, ..word.clone() },
        Closed { chain: theirs.chain.clone(), cert: theirs.cert, key: theirs.key, ..word.clone() },
        Closed {
            chain: Chain { generation: 5, ..first.clone() },
            cert: own.cert.clone(),
            key: own.key,
            ..word.clone()
        },
        Closed { chain: Chain { generation: 6, ..first.clone() }, ..word.clone() },
        Closed { chain: Chain { space: own.cert.private_space().expect("a space"), ..first.clone() }, ..word.clone() },
        Closed { seq: 0, ..word.clone() },
        Closed { tips: Vec::new(), ..word.clone() },
        Closed { tips: vec![word.tips[0]; 17], ..word.clone() },
        Closed { tips: vec![ClosedTip(word.tips[0].0, MAX_JSON_INTEGER)], ..word },
    ];
    for (at, word) in forged.into_iter().enumerate() {
        house.close(std::slice::from_ref(&word));
        let said = house.checkpoints().pop().expect("one");
        assert!(said.closed().is_empty(), "{at}: {word:?}");
    }
    house.close(std::slice::from_ref(&good));
    let said = house.checkpoints().pop().expect("one");
    assert_eq!(said.closed().last(), Some(&&good));
}

#[test]
fn a_word_covers_every_branch_up_to_the_end_of_the_shortest_and_no_more_while_one_may_go_on() {
    let mut house = House::new(44);
    house.publish(&[("a.txt", b"a".to_vec())]);
    let (first, fork) = (house.chain(), house.tip);
    for text in ["one", "two", "three"] {
        house.publish(&[("long.txt", text.into())]);
    }
    let long = house.tip;
    house.tip = fork;
    house.publish(&[("short.txt", b"short".to_vec())]);
    let short = house.tip.expect("was published");

    let Closable { word, checkpoints, .. } = closable(&house, &first, 1, &[]).expect("something");
    assert_eq!((word.seq, word.tips.len(), checkpoints.len()), (2, 2, 3));
    let ends: Vec<Tip> = word.ends().collect();
    assert!(ends.contains(&short));
    // The short branch did not go on: whoever holds more of it must be heard.
    assert!(closable(&house, &first, 3, &ends).is_none());
    house.publish(&[("short.txt", b"went on".to_vec())]);
    let later = closable(&house, &first, 3, &ends).expect("both went on").word;
    assert_eq!((later.seq, later.tips.len()), (3, 2));
    assert_ne!(long.expect("was published").seq, later.seq);
}

#[test]
fn nothing_is_closed_of_which_a_part_is_not_here() {
    let (house, first, whole) = adopted(45);
    for name in whole.artifacts.iter().filter(|name| name.kind() != ArtifactKind::Checkpoint) {
        let path = house.ledger.root().join(name.to_string());
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::remove_file(&path).expect("removes");
        assert!(closable(&house, &first, 1, &[]).is_none(), "{name}");
        std::fs::write(&path, bytes).expect("writes");
    }
    assert!(closable(&house, &first, 1, &[]).is_some());
}
