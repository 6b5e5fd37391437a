//! Laws of archive files that a person asks for: what is restored stands on the disk, and only what this machine's own file was.

use super::garbage::{clock, folder, machine, reopen};
use super::*;
use crate::model::Channel;
use crate::node::{Adoption, Glance, adopt_origin};

const PATH: &str = "runs/a.log";

fn path() -> RelPath {
    RelPath::parse(PATH).expect("a path")
}

/// Restores what `larder restore PATH` would.
fn restore(machine: &mut Machine) -> Report {
    let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
    let version = glance.version_before(&path(), 1).expect("a version").id;
    drop(glance);
    machine.node().restore(&path(), &version, false).expect("restores")
}

fn expect_quiet(machine: &mut Machine) {
    let report = machine.run();
    assert!(report.recorded.is_empty() && report.written.is_empty() && report.waiting.is_empty(), "{report:?}");
}

#[test]
fn an_archive_file_that_is_restored_is_written_and_a_deleted_one_is_back() {
    let mut machine = Machine::new("a", &backend());
    for text in ["one\n", "two\n"] {
        machine.write(PATH, text);
        machine.run();
    }

    let report = restore(&mut machine);

    assert_eq!(report.written.len(), 1, "{report:?}");
    assert_eq!(machine.read(PATH).as_deref(), Some("one\n"));
    std::fs::remove_file(machine.path(PATH)).expect("removes");
    machine.run();
    restore(&mut machine);
    assert_eq!(machine.read(PATH).as_deref(), Some("one\n"));
    let base = machine.node().engine.state.base(&path()).expect("reads").expect("is there");
    assert_eq!(base.channel, Channel::Archive);
    machine.write(PATH, "three\n");
    machine.run();
    assert_eq!(machine.conflicts(), 0);
    expect_quiet(&mut machine);
    assert_eq!(machine.read(PATH).as_deref(), Some("three\n"));
    assert!(machine.glance_status().pending.is_empty());
}

#[test]
fn another_machines_archive_file_is_no_step_back_of_ones_own() {
    let (clock, store) = (clock(), folder());
    let mut machines = ["a", "b"].map(|host| machine(host, &clock, store.path()));
    for machine in &mut machines {
        for text in ["one", "two"] {
            machine.write(PATH, &format!("{text} of {}\n", machine.host));
            machine.run();
            clock.advance(1000);
        }
    }
    let [a, b] = &mut machines;
    a.run();

    restore(a);
    converge(&mut [&mut *a, &mut *b]);

    assert_eq!(a.read(PATH).as_deref(), Some("one of a\n"));
    assert_eq!(b.read(PATH).as_deref(), Some("two of b\n"));
}

#[test]
fn an_adopted_machines_archive_file_is_written_by_its_restore() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    lost.write(PATH, "one\n");
    lost.run();
    let name = lost.node().engine.origin().to_string();
    drop(lost);
    let mut next = machine("next", &clock, store.path());
    next.run();
    next.restart();
    let adoption = Adoption { name, ..Adoption::default() };
    adopt_origin(&next.env(), &next.options(), &adoption, Arc::new(NoProgress)).expect("adopts");
    reopen(&mut next);
    next.run();
    assert_eq!(next.read(PATH), None);

    restore(&mut next);

    assert_eq!(next.read(PATH).as_deref(), Some("one\n"));
    expect_quiet(&mut next);
}
