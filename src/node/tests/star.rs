//! Laws of stars: what a person marks is marked on every machine of the project, whatever comes and goes beside it.

use super::garbage::{clock, collect, expect_sound, folder, machine, origin, reopen};
use super::*;
use crate::model::OriginName;
use crate::node::{Behind, ChangeRequest, Glance, Kind};
use crate::sync::StarChange;

fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a path")
}

/// Gives or takes a star, and proves that a dry run said so.
fn star(machine: &mut Machine, text: &str, origin: Option<OriginName>, on: bool) -> StarChange {
    let request = |dry_run| ChangeRequest::Star { path: path(text), origin: origin.clone(), on, dry_run };
    let planned = machine.node().change(&request(true)).expect("looks").stars;
    let done = machine.node().change(&request(false)).expect("says").stars;
    assert_eq!(planned, done, "a dry run names exactly what the run then does");
    done.into_iter().next().expect("one")
}

/// What is listed: path, whose, and what stands behind it.
fn listed(machine: &mut Machine) -> Vec<(String, Option<OriginName>, Behind)> {
    let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
    glance.stars().expect("lists").into_iter().map(|(star, behind)| (star.path.shown(), star.origin, behind)).collect()
}

fn shown(machine: &mut Machine) -> Vec<String> {
    let listed = listed(machine).into_iter().filter(|(_, _, behind)| *behind == Behind::Shown);
    listed.map(|(path, _, _)| path).collect()
}

#[test]
fn a_star_travels_to_every_machine_and_survives_a_new_index() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("docs/a.md", "a\n");
    b.write("b.md", "b\n");
    converge(&mut [&mut a, &mut b]);

    let given = star(&mut a, "docs/a.md", None, true);
    assert!(given.changed && given.on);
    star(&mut a, "b.md", None, true);
    converge(&mut [&mut a, &mut b]);
    let mut late = machine("c", &clock, store.path());
    converge(&mut [&mut a, &mut b, &mut late]);

    for machine in [&mut a, &mut b, &mut late] {
        assert_eq!(shown(machine), ["b.md", "docs/a.md"], "{}", machine.host);
        machine.restart();
        std::fs::remove_file(machine.path(".larder/index.db")).expect("removes");
        reopen(machine);
        assert_eq!(shown(machine), ["b.md", "docs/a.md"], "{}", machine.host);
        expect_sound(machine);
    }
    assert!(!star(&mut b, "b.md", None, true).changed, "it has one already, from another machine");
}

#[test]
fn what_is_said_last_stands_and_nothing_is_published_that_changes_nothing() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("a.md", "a\n");
    converge(&mut [&mut a, &mut b]);

    // One far ahead of the other: the later word is the one that knew the first.
    clock.advance(3_600_000);
    star(&mut a, "a.md", None, true);
    converge(&mut [&mut a, &mut b]);
    assert!(star(&mut b, "a.md", None, false).changed);
    let ledger = tree(&b.path(".larder/ledger"));
    assert!(!star(&mut b, "a.md", None, false).changed);
    assert_eq!(tree(&b.path(".larder/ledger")), ledger);
    converge(&mut [&mut a, &mut b]);

    assert!(listed(&mut a).is_empty() && listed(&mut b).is_empty());
    star(&mut a, "a.md", None, true);
    converge(&mut [&mut a, &mut b]);
    assert_eq!((shown(&mut a), shown(&mut b)), (vec!["a.md".to_owned()], vec!["a.md".to_owned()]));
}

#[test]
fn a_star_stays_with_its_path_through_deletion_and_garbage_collection() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("a.md", "a\n");
    a.write("m.md", "moves, and is long enough to be known again\n");
    converge(&mut [&mut a, &mut b]);
    star(&mut a, "a.md", None, true);
    star(&mut b, "m.md", None, true);
    converge(&mut [&mut a, &mut b]);

    std::fs::remove_file(b.path("a.md")).expect("removes");
    std::fs::rename(b.path("m.md"), b.path("n.md")).expect("renames");
    converge(&mut [&mut a, &mut b]);
    clock.advance(40 * 86_400_000);
    b.write("b.md", "b speaks\n");
    converge(&mut [&mut a, &mut b]);
    collect(&mut a);
    converge(&mut [&mut a, &mut b]);

    for machine in [&mut a, &mut b] {
        let expected =
            [("a.md".to_owned(), None, Behind::Deleted), ("m.md".to_owned(), None, Behind::Moved(path("n.md")))];
        assert_eq!(listed(machine), expected, "{}", machine.host);
    }
    b.write("a.md", "again\n");
    converge(&mut [&mut a, &mut b]);
    assert_eq!(shown(&mut a), ["a.md"]);
    assert!(star(&mut a, "m.md", None, false).changed, "a star can be taken from what is not there any more");
    assert_eq!(listed(&mut a).len(), 1);
}

#[test]
fn one_machines_archive_file_has_a_star_of_its_own() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("runs/1.log", "a\n");
    b.write("runs/1.log", "b\n");
    converge(&mut [&mut a, &mut b]);
    let of_b = origin(&mut b);

    star(&mut a, "runs/1.log", Some(of_b.clone()), true);
    converge(&mut [&mut a, &mut b]);

    assert_eq!(listed(&mut b), [("runs/1.log".to_owned(), Some(of_b.clone()), Behind::Shown)]);
    star(&mut b, "runs/1.log", None, true);
    assert!(!star(&mut b, "runs/1.log", Some(of_b.clone()), true).changed);
    assert!(star(&mut b, "runs/1.log", None, false).changed);
    assert!(listed(&mut b).is_empty(), "without a machine's name every star of the path goes");
    star(&mut b, "runs/1.log", None, true);
    let request = ChangeRequest::Star { path: path("runs/1.log"), origin: Some(of_b), on: false, dry_run: false };
    let refused = b.node().change(&request).expect_err("it is the whole path's");
    assert!(refused.kind == Kind::User && refused.message.contains("without `--origin`"), "{refused:?}");
}

#[test]
fn what_is_not_recorded_gets_no_star() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    a.write("docs/a.md", "a\n");
    a.write(".env", "SECRET=1\n");
    a.run();

    for (text, origin) in [("nowhere.md", None), ("docs", None), (".env", None), ("docs/a.md", Some("desk-abc234"))] {
        let origin = origin.map(|origin| origin.parse().expect("an origin"));
        let request = ChangeRequest::Star { path: path(text), origin, on: true, dry_run: false };
        let refused = a.node().change(&request).expect_err("nothing is there");
        assert_eq!((refused.kind, refused.message.lines().count()), (Kind::User, 1), "{refused:?}");
    }
    assert!(listed(&mut a).is_empty());
}

#[test]
fn the_star_of_a_private_path_is_named_in_the_private_space_alone() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    let text = std::fs::read_to_string(a.path("sync-config.json")).expect("reads");
    let text = text.replacen('{', r#"{ "privateSyncFilePatterns": ["own/**"], "#, 1);
    std::fs::write(a.path("sync-config.json"), text).expect("writes");
    reopen(&mut a);
    a.write("own/diary.md", "dear diary\n");
    a.write("all.md", "all\n");
    a.run();

    star(&mut a, "own/diary.md", None, true);
    star(&mut a, "all.md", None, true);

    assert_eq!(shown(&mut a), ["all.md", "own/diary.md"]);
    let text_of = |(name, bytes): (String, Vec<u8>)| format!("{name} {}", String::from_utf8_lossy(&bytes));
    let there: Vec<String> = tree(store.path()).into_iter().map(text_of).collect();
    assert!(there.iter().any(|text| text.contains("all.md")) && !there.iter().any(|text| text.contains("diary")));
}
