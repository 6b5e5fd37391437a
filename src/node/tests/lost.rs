//! Laws of what is lost for good: it is awaited for as long as something may need it, and no longer.

use memchr::memmem;

use super::garbage::{DAY_MS, clock, collect, expect_sound, folder, machine, reopen};
use super::purge::{holders, holders_there, purge, secret, versions};
use super::*;
use crate::ledger::{ArtifactKind, ArtifactName, verify_bytes};
use crate::node::verify;

/// The packs of the machine's own shared chain, oldest first by what was published with them.
fn packs(machine: &mut Machine) -> Vec<ArtifactName> {
    let engine = &machine.node().engine;
    let chains = engine.ledger.chains().expect("lists").into_iter().filter(|chain| chain.space.is_shared());
    let names = chains.flat_map(|chain| engine.ledger.artifact_names(&chain).expect("lists"));
    names.filter(|name| name.kind() == ArtifactKind::Pack).collect()
}

/// Takes a pack away here and in the store, or leaves this much of it.
fn lose(machine: &mut Machine, store: &Path, name: &ArtifactName, left_bytes: Option<usize>) {
    let here = machine.node().engine.ledger.path(name);
    for path in [here, store.join("demo").join(name.to_string())] {
        let bytes = std::fs::read(&path).expect("stands there");
        std::fs::remove_file(&path).expect("removes");
        if let Some(left) = left_bytes {
            std::fs::write(&path, &bytes[..left]).expect("writes");
        }
    }
    verify(&machine.env(), &machine.options(), Depth::Bytes).expect("looks");
}

fn damaged(machine: &mut Machine) -> Vec<ArtifactName> {
    machine.node().engine.known_damage().expect("lists").into_iter().map(|noted| noted.name).collect()
}

fn exit_code(machine: &mut Machine) -> Option<u8> {
    let report = machine.run();
    machine.node().remains(&report).expect("looks").map(|error| error.kind.exit_code())
}

#[test]
fn what_is_lost_for_good_ends_with_its_purge() {
    for left_bytes in [None, Some(300_000)] {
        let (clock, store) = (clock(), folder());
        let mut a = machine("a", &clock, store.path());
        let text = secret(1, 800_000);
        a.write("x.txt", &text);
        a.run();
        let pack = packs(&mut a).remove(0);
        a.write("x.txt", "two\n");
        a.write("kept.txt", &secret(2, 400_000));
        a.run();
        lose(&mut a, store.path(), &pack, left_bytes);
        assert_eq!((exit_code(&mut a), damaged(&mut a)), (Some(4), vec![pack.clone()]));
        let old = versions(&mut a, "x.txt")[1];

        purge(&mut a, "x.txt", Some(old));

        assert_eq!((exit_code(&mut a), damaged(&mut a)), (None, vec![]), "{left_bytes:?}");
        assert!(!a.node().engine.ledger.has(&pack) && !store.path().join("demo").join(pack.to_string()).exists());
        expect_sound(&mut a);
        let before = a.node().engine.ledger.chains().expect("lists").len();
        let published = packs(&mut a);
        a.run();
        assert_eq!((a.node().engine.ledger.chains().expect("lists").len(), packs(&mut a)), (before, published));
        let mut b = machine("b", &clock, store.path());
        converge(&mut [&mut a, &mut b]);
        assert_eq!((b.read("x.txt"), b.read("kept.txt")), (a.read("x.txt"), a.read("kept.txt")));
        assert_eq!((exit_code(&mut b), exit_code(&mut a)), (None, None));
    }
}

#[test]
fn what_is_lost_for_good_ends_with_its_collection() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    a.write("x.txt", &secret(3, 800_000));
    a.run();
    let pack = packs(&mut a).remove(0);
    a.write("x.txt", "two\n");
    a.run();
    a.node().engine.state.remove_undo(1).expect("forgets");
    lose(&mut a, store.path(), &pack, None);
    assert_eq!(exit_code(&mut a), Some(4));
    clock.advance(31 * DAY_MS);

    assert_eq!(collect(&mut a).dropped.len(), 1);

    assert_eq!((exit_code(&mut a), damaged(&mut a)), (None, vec![]));
    expect_sound(&mut a);
}

#[test]
fn a_lost_pack_is_awaited_while_anything_needs_it_and_let_go_once_it_is_back() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    let (text, kept) = (secret(4, 400_000), secret(5, 400_000));
    a.write("x.txt", &text);
    a.write("kept.txt", &kept);
    a.run();
    let pack = packs(&mut a).remove(0);
    let there = store.path().join("demo").join(pack.to_string());
    let good = std::fs::read(&there).expect("reads");
    for name in ["x.txt", "kept.txt"] {
        a.write(name, "two\n");
    }
    a.run();
    lose(&mut a, store.path(), &pack, None);
    let old = versions(&mut a, "x.txt")[1];

    purge(&mut a, "x.txt", Some(old));
    assert_eq!((exit_code(&mut a), damaged(&mut a)), (Some(4), vec![pack.clone()]));
    // A file syncer brings it back.
    std::fs::write(&there, &good).expect("writes");
    reopen(&mut a);
    a.run();

    assert_eq!((exit_code(&mut a), damaged(&mut a)), (None, vec![]));
    assert_eq!(holders(&a.path(".larder"), &text[..48]), [] as [String; 0]);
    assert_eq!(holders_there(store.path(), &text[..48]), [] as [String; 0]);
    assert!(!holders(&a.path(".larder"), &kept[..48]).is_empty(), "nobody purged it");
    expect_sound(&mut a);
}

#[test]
fn a_purge_takes_its_bytes_out_of_a_damaged_pack_and_writes_no_snapshot_for_one_that_it_cannot_copy() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    let (text, kept) = (secret(6, 400_000), secret(7, 400_000));
    a.write("x.txt", &text);
    a.write("kept.txt", &kept);
    a.run();
    let pack = packs(&mut a).remove(0);
    for name in ["x.txt", "kept.txt"] {
        a.write(name, "two\n");
    }
    a.run();
    let path = a.node().engine.ledger.path(&pack);
    let good = std::fs::read(&path).expect("reads");
    // The first segment of what stays.
    let places = a.node().engine.ledger.places_in(&pack).expect("reads");
    let holds = |bytes: &[u8]| memmem::find(kept.as_bytes(), bytes).is_some();
    let place = places.iter().map(|(segment, place)| (segment, place.clone())).find(|(segment, place)| {
        holds(&a.node.as_ref().expect("open").engine.ledger.read_segment(**segment, place).expect("reads"))
    });
    let (_, place) = place.expect("a segment of it");
    let mut wrong = good.clone();
    wrong[place.block.offset as usize + 9] ^= 1;
    for path in [path.clone(), store.path().join("demo").join(pack.to_string())] {
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, &wrong).expect("writes");
    }
    verify(&a.env(), &a.options(), Depth::Bytes).expect("looks");
    let old = versions(&mut a, "x.txt")[1];

    purge(&mut a, "x.txt", Some(old));
    assert_eq!(damaged(&mut a), vec![pack.clone()]);
    let count = |machine: &mut Machine| {
        let ledger = &machine.node().engine.ledger;
        let chains = ledger.chains().expect("lists");
        chains.iter().map(|chain| ledger.checkpoint_names(chain, 0).expect("lists").len()).sum::<usize>()
    };
    let before = count(&mut a);
    a.run();
    a.run();
    assert_eq!(count(&mut a), before, "nothing is to be said anew");
    for name in packs(&mut a).iter().filter(|name| **name != pack) {
        let ledger = &a.node().engine.ledger;
        assert!(verify_bytes(name, &ledger.read_whole(name).expect("reads")).is_ok());
        for (segment, place) in ledger.places_in(name).expect("reads") {
            ledger.read_segment(segment, &place).expect("what was copied is right");
        }
    }

    // Somebody has it whole after all.
    std::fs::write(store.path().join("demo").join(pack.to_string()), &good).expect("writes");
    reopen(&mut a);
    a.run();
    assert_eq!(damaged(&mut a), vec![]);
    assert_eq!(holders(&a.path(".larder"), &text[..48]), [] as [String; 0]);
    assert!(!holders(&a.path(".larder"), &kept[..48]).is_empty());
    expect_sound(&mut a);
}

#[test]
fn what_does_not_count_any_more_is_not_asked_for_and_what_a_lost_tip_may_name_is() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    a.write("x.txt", &secret(8, 400_000));
    a.run();
    a.write("x.txt", "two\n");
    a.write("kept.txt", &secret(9, 400_000));
    a.run();
    a.node().engine.state.remove_undo(1).expect("forgets");
    clock.advance(31 * DAY_MS);
    assert_eq!(collect(&mut a).dropped.len(), 1);
    a.write("late.txt", &secret(10, 400_000));
    a.run();
    let engine = &a.node().engine;
    let floors = engine.index.floors().expect("lists");
    let (chain, floor) = floors.first().expect("something went").clone();
    let is_pack = |name: &ArtifactName| name.kind() == ArtifactKind::Pack;
    let needless = engine.ledger.garbage(&chain, floor.seq).expect("lists").into_iter().find(is_pack);
    let below = engine.ledger.checkpoint_names(&chain, 0).expect("lists").remove(0);
    let needed = engine.ledger.standing(&chain, floor.seq).expect("lists").into_iter().find(is_pack);
    let tip = engine.ledger.checkpoint_names(&chain, floor.seq).expect("lists").pop().expect("the last");
    let (needless, needed) = (needless.expect("one went"), needed.expect("one stays"));
    let all = [&needless, &below, &needed, &tip];
    for name in all {
        engine.ledger.note_damage(name, "is lost").expect("notes");
        for path in [engine.ledger.path(name), store.path().join("demo").join(name.to_string())] {
            std::fs::rename(&path, path.with_extension("away")).unwrap_or_default();
        }
    }
    let back = |machine: &mut Machine, name: &ArtifactName| {
        let path = machine.node().engine.ledger.path(name);
        std::fs::rename(path.with_extension("away"), &path).expect("is brought back");
    };

    // While the tip is lost it may name anything but what is below the floor.
    let lost = damaged(&mut a);
    assert!(
        !lost.contains(&below) && lost.contains(&tip) && lost.contains(&needed) && lost.contains(&needless),
        "{lost:?}"
    );
    back(&mut a, &tip);
    assert_eq!(damaged(&mut a), vec![needed.clone()]);
    // The tip alone is gone, and nobody noticed.
    let engine = &a.node().engine;
    engine.ledger.note_damage(&needless, "is lost").expect("notes");
    let path = engine.ledger.path(&tip);
    std::fs::rename(&path, path.with_extension("away")).expect("is lost");
    assert_eq!(damaged(&mut a).len(), 2);
    back(&mut a, &tip);
    back(&mut a, &needed);
    assert_eq!(damaged(&mut a), vec![]);
}
