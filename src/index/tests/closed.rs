//! Chains that a later generation stands for, and branches beside the snapshot at a floor: nothing of them is missed when an index is made anew.

use crate::env::Env;
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

#[test]
fn a_word_that_counts_fewer_versions_than_stand_here_closes_nothing() {
    let (mut house, first, closable) = adopted(48);
    house.publish(&[("d.txt", b"d".to_vec())]);
    let hash = ArtifactHash::of(b"nothing");
    let lie = Closed { seq: 1_000_000, tips: vec![ClosedTip(hash, 0)], ..closable.word };
    house.close(std::slice::from_ref(&lie));
    assert_eq!(floor(&house, &first), 1);
}

#[test]
fn a_word_of_another_owner_that_came_before_the_chain_itself_hides_nothing_of_it() {
    word_of_another_owner(49, |own, _, _| (own.cert.clone(), own.key));
}

#[test]
fn nor_does_one_that_names_the_right_device_certified_by_that_other_owner() {
    word_of_another_owner(57, |own, env, device| {
        let owner_key = Identity::owner_signing_key(env);
        assert_eq!(PublicKey::of(&owner_key), own.cert.key);
        (Certificate::issue(&owner_key, "mallory", device, &own.chain.origin), device)
    });
}

/// A word about a chain by whoever took its origin's name, once before the chain comes and once after it.
fn word_of_another_owner(seed: u64, sign: impl Fn(&CheckpointBody, &Env, PublicKey) -> (Certificate, PublicKey)) {
    let mut house = House::new(seed);
    house.publish(&[("a.txt", b"a".to_vec())]);
    house.publish(&[("b.txt", b"b".to_vec())]);
    let first = house.chain();
    let mut other = House::new(seed + 1);
    let origin = first.origin.clone();
    other.identity = Identity::adopt(&other.larder(), &other.env, "mallory", origin, 99).expect("adopted");
    other.publish(&[("x.txt", b"x".to_vec())]);
    let own = other.checkpoints().pop().expect("one").body;
    let (cert, key) = sign(&own, &other.env, house.identity.public_key());
    let tips = vec![ClosedTip(ArtifactHash::of(b"nothing"), 0)];
    let word = Closed { cert, chain: first.clone(), key, seq: 1_000_000, tips };
    other.close(std::slice::from_ref(&word));

    let mut index = Index::recreate(&other.folder.path().join("index.db"), 1).expect("an index");
    replay(&mut index, &other.ledger).expect("replayed");
    for name in house.ledger.artifact_names(&first).expect("lists") {
        let bytes = std::fs::read(house.ledger.root().join(name.to_string())).expect("reads");
        other.ledger.put(&name, &bytes).expect("put");
    }
    let replayed = replay(&mut index, &other.ledger).expect("replayed");
    let came = index.counts().expect("counts").versions;
    let mut anew = Index::recreate(&other.folder.path().join("anew.db"), 2).expect("an index");
    replay(&mut anew, &other.ledger).expect("replayed");
    assert_eq!(anew.counts().expect("counts").versions, 3, "made anew");
    assert!(came == 3 || !replayed.stale.is_empty(), "{came}, {replayed:?}");

    // Where the chain was first, the word is not believed either.
    other.close(std::slice::from_ref(&Closed { seq: 2_000_000, ..word }));
    replay(&mut anew, &other.ledger).expect("replayed");
    assert_eq!((anew.floor(&first).expect("reads").seq, anew.counts().expect("counts").versions), (1, 3));
}

#[test]
fn a_carried_version_that_nobody_wrote_takes_no_place_of_one_that_stands_here() {
    let (mut house, first, closable) = adopted(51);
    let forged: Vec<Version> = (1..=3).map(|n| version(&first, n, &format!("forged-{n}"), b"forged")).collect();
    let space = Space::shared();
    let mut batch = house.batch(&space);
    batch.segment(SegmentHash::of(b"forged"), b"forged").expect("said");
    for version in forged {
        let (_, line) = version.to_line();
        let record = Record::parse(&line).expect("parses");
        batch.carried(&record.carry(&line)).expect("said");
    }
    let published =
        batch.finish(Hlc::new(WALL_MS, 4), std::collections::BTreeMap::new()).expect("published").expect("something");
    house.tip = Some(published.tip);
    house.close(std::slice::from_ref(&closable.word));
    let mut index = Index::recreate(&house.folder.path().join("index.db"), 2).expect("an index");
    let replayed = replay(&mut index, &house.ledger).expect("replayed");
    assert_eq!(index.floor(&first).expect("reads").seq, 1, "{replayed:?} {:?}", index.counts());
}

#[test]
fn a_purge_by_another_machine_of_the_owner_counts_when_nothing_of_the_closed_chain_is_here_any_more() {
    let mut house = House::new(53);
    house.publish(&[("a.txt", b"secret".to_vec())]);
    let (first, origin) = (house.chain(), house.identity.origin().clone());
    let (id, _) = version(&first, 1, "a.txt", b"secret").to_line();
    house.identity = Identity::create(&house.larder(), &house.env, "anna").expect("another machine");
    house.tip = None;
    let space = Space::shared();
    let mut batch = house.batch(&space);
    let word = MetaEvent::purge(batch.chain().to_string(), Hlc::new(WALL_MS, 1), &[id]);
    batch.record(RecordLine::Meta(word)).expect("said");
    batch.finish(Hlc::new(WALL_MS, 1), std::collections::BTreeMap::new()).expect("published").expect("something");
    house.identity = Identity::adopt(&house.larder(), &house.env, "anna", origin, 5).expect("adopted");
    house.tip = None;
    let closable = house.ledger.closable(&first, 1, &[]).expect("reads").expect("is all here");
    house.carry(&closable);
    house.close(std::slice::from_ref(&closable.word));
    let purged = |name: &str| {
        let mut index = Index::recreate(&house.folder.path().join(name), 1).expect("an index");
        replay(&mut index, &house.ledger).expect("replayed");
        index.purged(&ContentHash::of(b"secret")).expect("reads").is_some()
    };
    assert!(purged("before.db"));
    house.ledger.remove_garbage(&house.ledger.garbage(&first, 2).expect("lists")).expect("removes");
    assert!(purged("after.db"));
}
