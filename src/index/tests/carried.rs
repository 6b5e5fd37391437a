//! Whose carried lines count, in whatever order they, the word and the earlier chain come; and that words which waited are heard.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use crate::index::{Index, Item, Reach, SnapshotNote, replay};
use crate::ledger::tests::fixture::*;
use crate::ledger::*;
use crate::model::*;

/// A house that went on as generation 5 and said its first chain again.
fn closed_house(seed: u64) -> (House, Chain) {
    let mut house = House::new(seed);
    house.publish(&[("a.txt", b"a".to_vec())]);
    house.publish(&[("b.txt", b"b".to_vec()), ("c.bin", noise(seed, 300_000))]);
    let first = house.chain();
    house.adopt(5);
    let closable = house.ledger.closable(&first, 1, &[]).expect("reads").expect("is all here");
    house.carry(&closable);
    house.close(&[closable.word]);
    house.publish(&[("later.txt", b"later".to_vec())]);
    (house, first)
}

/// Another owner's house that goes on under the name of a chain, says versions of it that nobody wrote, and a word with this certificate.
fn impostor(first: &Chain, certify: impl Fn(&SigningKey) -> (Certificate, PublicKey)) -> House {
    let mut other = House::new(71);
    let larder = other.larder();
    other.identity = Identity::adopt(&larder, &other.env, "mallory", first.origin.clone(), 99).expect("adopted");
    other.publish(&[("x.txt", b"x".to_vec())]);
    let space = Space::shared();
    let mut batch = other.batch(&space);
    for n in 1..=3 {
        let (_, line) = version(first, n, &format!("forged-{n}"), b"x").to_line();
        batch.carried(&Record::parse(&line).expect("parses").carry(&line)).expect("said");
    }
    let published = batch.finish(Hlc::new(WALL_MS, 4), BTreeMap::new()).expect("published").expect("something");
    other.tip = Some(published.tip);
    let hex = std::fs::read_to_string(other.env.state_home.join("owner.key")).expect("reads");
    let seed = data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).expect("hex");
    let (cert, key) = certify(&SigningKey::from_bytes(&seed.try_into().expect("32 bytes")));
    let tips = vec![ClosedTip(ArtifactHash::of(b"nothing"), 3)];
    other.close(&[Closed { cert, chain: first.clone(), key, seq: 1_000, tips }]);
    other
}

fn copy(from: &Ledger, chain: &Chain, to: &Ledger) {
    for name in from.artifact_names(chain).expect("lists") {
        let bytes = std::fs::read(from.path(&name)).expect("reads");
        to.put(&name, &bytes).expect("put");
    }
}

/// What an index tells of these chains, without row numbers.
fn told(index: &Index, chains: &[Chain]) -> String {
    let mut text = format!("{:?}\n", index.counts().expect("counts"));
    for chain in chains {
        let (floor, last_n) = (index.floor(chain).expect("reads").seq, index.last_n(chain).expect("reads"));
        let mut ends = index.closed_ends(chain).expect("reads");
        ends.sort_by_key(|end| (end.tip.seq, end.tip.hash, end.by.clone()));
        let mut voices: Vec<String> =
            index.voices(chain).expect("reads").iter().map(|voice| voice.by.to_string()).collect();
        voices.sort();
        text += &format!("{chain} {floor} {last_n} {ends:?} {voices:?} {:?}\n", index.applied(chain).expect("reads"));
    }
    text
}

fn anew(ledger: &Ledger, folder: &std::path::Path) -> Index {
    let mut index = Index::recreate(&folder.join("anew.db"), 9).expect("an index");
    replay(&mut index, ledger).expect("replayed");
    index
}

#[test]
fn lines_carried_by_another_owner_are_nobodys_versions_in_whatever_order_they_come() {
    let mut house = House::new(61);
    house.publish(&[("a.txt", b"a".to_vec())]);
    house.publish(&[("b.txt", b"b".to_vec()), ("c.txt", b"c".to_vec())]);
    let first = house.chain();
    let device = house.identity.public_key();
    let origin = first.origin.clone();
    // A word about a device of his own, and one by which he vouches for the device of the other owner.
    for own in [true, false] {
        let other = impostor(&first, |owner| {
            let key = if own { PublicKey::of(owner) } else { device };
            (Certificate::issue(owner, "mallory", key, &origin), key)
        });
        let chains = [first.clone(), other.chain()];
        for order in [[0, 1], [1, 0]] {
            let there = House::new(62);
            let mut index = Index::recreate(&there.folder.path().join("index.db"), 1).expect("an index");
            let mut stale = false;
            for which in order {
                let from = if which == 0 { &house.ledger } else { &other.ledger };
                copy(from, &chains[which], &there.ledger);
                stale |= !replay(&mut index, &there.ledger).expect("replayed").stale.is_empty();
            }
            let made_anew = anew(&there.ledger, there.folder.path());
            assert_eq!(made_anew.counts().expect("counts").versions, 4, "{own} {order:?}");
            assert_eq!(made_anew.floor(&first).expect("reads").seq, 1, "{own} {order:?}");
            assert!(made_anew.closed_ends(&first).expect("reads").is_empty());
            // Who heard the word before the chain finds that out, and makes the index anew.
            assert!(stale || told(&index, &chains) == told(&made_anew, &chains), "{own} {order:?}");
            assert_eq!(stale, order == [1, 0]);
        }
    }
}

#[test]
fn a_carried_line_counts_once_its_owner_said_for_what_it_stands_and_every_order_gives_the_same() {
    let (house, first) = closed_house(63);
    let later = house.chain();
    let chains = [first.clone(), later.clone()];
    let names = house.ledger.artifact_names(&later).expect("lists");
    let (checkpoints, parts): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.kind() == ArtifactKind::Checkpoint);
    let earlier = house.ledger.artifact_names(&first).expect("lists");
    let groups: [Vec<ArtifactName>; 4] =
        [earlier, checkpoints[..1].to_vec(), checkpoints[1..2].to_vec(), checkpoints[2..].to_vec()];
    let orders = [[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3], [1, 2, 3, 0], [2, 0, 1, 3], [2, 3, 1, 0], [3, 2, 1, 0]];
    for order in orders {
        let there = House::new(64);
        parts.iter().for_each(|name| put(&house, &there, name));
        let mut index = Index::recreate(&there.folder.path().join("index.db"), 1).expect("an index");
        for which in order {
            groups[which].iter().for_each(|name| put(&house, &there, name));
            let replayed = replay(&mut index, &there.ledger).expect("replayed");
            assert!(replayed.stale.is_empty(), "{order:?} {which}");
        }
        let made_anew = anew(&there.ledger, there.folder.path());
        assert_eq!(told(&index, &chains), told(&made_anew, &chains), "{order:?}");
        assert_eq!((index.counts().expect("counts").versions, index.floor(&first).expect("reads").seq), (4, 3));
    }
    // Before the word nobody who has not the earlier chain knows any of it.
    let there = House::new(65);
    parts.iter().chain(&checkpoints[..1]).for_each(|name| put(&house, &there, name));
    assert_eq!(anew(&there.ledger, there.folder.path()).counts().expect("counts").versions, 0);
}

#[test]
fn who_let_a_closed_chain_go_believes_nobody_elses_word_about_it_afterwards() {
    let (house, first) = closed_house(69);
    let device = house.ledger.writer_of(&first).expect("reads").expect("is known").0;
    let other = impostor(&first, |owner| (Certificate::issue(owner, "mallory", device, &first.origin), device));
    let garbage = house.ledger.garbage(&first, 3).expect("lists");
    house.ledger.remove_garbage(&garbage).expect("removes");
    assert_eq!(house.ledger.artifact_names(&first).expect("lists"), []);

    copy(&other.ledger, &other.chain(), &house.ledger);

    let index = anew(&house.ledger, house.folder.path());
    assert_eq!((index.counts().expect("counts").versions, index.floor(&first).expect("reads").seq), (5, 3));
    assert!(index.voices(&first).expect("reads").iter().all(|voice| voice.by == house.chain()));
}

fn put(from: &House, to: &House, name: &ArtifactName) {
    let bytes = std::fs::read(from.ledger.path(name)).expect("reads");
    to.ledger.put(name, &bytes).expect("put");
}

#[test]
fn a_word_whose_lists_are_not_here_yet_is_heard_when_they_came() {
    let (house, first) = closed_house(66);
    let chains = [first.clone(), house.chain()];
    let records: Vec<ArtifactName> = house.ledger.artifact_names(&house.chain()).expect("lists");
    let records: Vec<&ArtifactName> = records.iter().filter(|name| name.kind() == ArtifactKind::Records).collect();
    assert!(!records.is_empty());
    for name in &records {
        std::fs::rename(house.ledger.path(name), house.folder.path().join(name.file())).expect("goes away");
    }
    let mut index = Index::recreate(&house.folder.path().join("index.db"), 1).expect("an index");
    for _ in 0..2 {
        replay(&mut index, &house.ledger).expect("replayed");
        assert_eq!(index.floor(&first).expect("reads").seq, 1);
    }

    for name in &records {
        std::fs::rename(house.folder.path().join(name.file()), house.ledger.path(name)).expect("comes back");
    }
    replay(&mut index, &house.ledger).expect("replayed");

    assert_eq!(index.floor(&first).expect("reads").seq, 3);
    assert_eq!(told(&index, &chains), told(&anew(&house.ledger, house.folder.path()), &chains));
}

#[test]
fn what_a_newer_release_wrote_is_counted_also_behind_the_next_snapshot() {
    let mut house = House::new(67);
    house.publish(&[("a.txt", b"a".to_vec())]);
    let space = Space::shared();
    let mut batch = house.batch(&space);
    batch.carried(br#"{"kind":"future","v":1}"#).expect("said");
    let published = batch.finish(Hlc::new(WALL_MS, 4), BTreeMap::new()).expect("published").expect("something");
    house.tip = Some(published.tip);
    let mut index = Index::recreate(&house.folder.path().join("index.db"), 1).expect("an index");
    for snapshot in [false, true] {
        if snapshot {
            house.snapshot();
        }
        replay(&mut index, &house.ledger).expect("replayed");
        assert_eq!(index.counts().expect("counts").unknown, 1, "{snapshot}");
    }
    assert_eq!(anew(&house.ledger, house.folder.path()).counts().expect("counts").unknown, 1);
}

#[test]
fn who_stands_for_a_chain_is_found_through_thousands_of_generations() {
    const GENERATIONS: u32 = 3_000;
    let mut house = House::new(68);
    house.publish(&[("a.txt", b"a".to_vec())]);
    let word = house.ledger.closable(&house.chain(), 1, &[]).expect("reads").expect("something").word;
    let of = |generation| Chain { generation, ..word.chain.clone() };
    let mut items = Vec::new();
    for generation in 1..GENERATIONS {
        let said = vec![Closed { chain: of(generation), ..word.clone() }];
        let note = SnapshotNote {
            floor: 1,
            told: Hlc::from_u64(0),
            lists: None,
            closed: said.clone(),
            speaks: said,
            unread: None,
        };
        let (chain, hash) = (of(generation + 1), ArtifactHash::of(&generation.to_le_bytes()));
        items.push(Item { note: Some(note), reach: Reach::Part, ..Item::following(chain, (1, hash), vec![], vec![]) });
    }
    let mut index = Index::recreate(&house.folder.path().join("index.db"), 1).expect("an index");
    index.apply(&items).expect("applied");

    let floor = index.floor(&of(1)).expect("reads").seq;
    assert_eq!(index.stand_in(&of(1), floor).expect("found"), Some((of(GENERATIONS), 1)));
    assert_eq!(index.stand_in(&of(GENERATIONS), 1).expect("found"), None);
}
