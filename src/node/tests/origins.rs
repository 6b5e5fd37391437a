//! Laws of adopting: two machines that go on as one at once are two writers of two chains, and the one that stops loses nothing.

use super::garbage::{clock, expect_sound, folder, machine, meet_in, origin, reopen};
use super::*;
use crate::env::SeededRandom;
use crate::node::{Adopted, Adoption, Glance, adopt_origin, new_origin};

/// Adopts by a generation that this seed draws.
fn adopt(machine: &mut Machine, name: &str, seed: u64) -> Adopted {
    machine.restart();
    let env = Env { random: Arc::new(SeededRandom::new(seed)), ..machine.env() };
    let adoption = Adoption { name: name.to_owned(), ..Adoption::default() };
    let adopted = adopt_origin(&env, &machine.options(), &adoption, Arc::new(NoProgress)).expect("adopts");
    reopen(machine);
    adopted
}

fn versions(machine: &mut Machine, path: &str) -> usize {
    let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
    glance.log(Some(&RelPath::parse(path).expect("a path")), 100).expect("lists").len()
}

#[test]
fn two_machines_that_adopt_one_at_once_write_two_chains_and_who_stops_loses_nothing() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    lost.write("old.txt", "old\n");
    lost.run();
    let name = origin(&mut lost).to_string();
    drop(lost);
    let mut machines = ["b", "c"].map(|host| machine(host, &clock, store.path()));
    let mut drawn = Vec::new();
    for (machine, seed) in machines.iter_mut().zip([1, 2]) {
        // Neither has told anybody when the other one asks.
        drawn.push(adopt(machine, &name, seed).generation.expect("is drawn"));
        clock.advance(1000);
    }
    assert!(drawn.iter().all(|generation| *generation > 1) && drawn[0] != drawn[1], "{drawn:?}");
    machines.sort_by_key(|machine| drawn[usize::from(machine.host == "c")]);
    let [stopped, goes_on] = &mut machines;
    for machine in [&mut *stopped, &mut *goes_on] {
        machine.write(&format!("by-{}.txt", machine.host), "first\n");
    }
    // Both worked as it before either heard of the other.
    assert_eq!(stopped.run().stopped, None);
    assert_eq!(goes_on.run().stopped, None);

    stopped.write("unpublished.txt", "in between\n");
    let why = stopped.run().stopped.expect("is told");
    assert!(why.contains("goes on elsewhere as generation") && why.contains("`larder origin new`"), "{why}");
    stopped.restart();
    new_origin(&stopped.env(), &stopped.options(), Arc::new(NoProgress)).expect("becomes another one");
    reopen(stopped);
    let mut third = machine("d", &clock, store.path());
    converge(&mut [&mut *stopped, &mut *goes_on, &mut third]);

    assert_ne!(origin(stopped).to_string(), name);
    assert_eq!(origin(goes_on).to_string(), name);
    for machine in [stopped, goes_on, &mut third] {
        for path in ["old.txt", "by-b.txt", "by-c.txt", "unpublished.txt"] {
            assert!(machine.read(path).is_some(), "{}: {path}", machine.host);
            assert_eq!(versions(machine, path), 1, "{}: {path} is there once", machine.host);
        }
        assert_eq!(machine.glance_status().stopped, None);
        assert_eq!(machine.conflicts(), 0);
        expect_sound(machine);
    }
}

#[test]
fn whoever_stops_may_go_on_as_the_same_one_in_a_generation_above_both() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    lost.write("old.txt", "old\n");
    lost.run();
    let name = origin(&mut lost).to_string();
    let mut machines = ["b", "c"].map(|host| machine(host, &clock, store.path()));
    let [b, c] = &mut machines;
    let first = adopt(b, &name, 1).generation.expect("is drawn");
    b.write("by-b.txt", "b\n");
    b.run();

    let second = adopt(c, &name, 2).generation.expect("is drawn");
    c.write("by-c.txt", "c\n");
    c.run();

    assert!(first < second, "above all that is known");
    assert!(b.run().stopped.is_some(), "the one before is told");
    let third = adopt(b, &name, 3).generation.expect("is drawn");
    assert!(second < third);
    assert_eq!(b.run().stopped, None);
    assert!(c.run().stopped.is_some());
    assert_eq!((b.read("by-c.txt").as_deref(), b.read("by-b.txt").as_deref()), (Some("c\n"), Some("b\n")));
    assert_eq!(versions(b, "by-b.txt"), 1);
    expect_sound(b);
}

#[test]
fn an_identity_is_made_under_the_lock_that_the_command_has() {
    use crate::node::identity::identity_of;
    use crate::node::lock::take_lock;
    use crate::node::open::{ProjectDirs, create_private_folder};
    let a = Machine::new("a", &backend());
    let (env, mut options) = (a.env(), a.options());
    let settings = options.settings(&env).expect("reads");
    let dirs = ProjectDirs::of(&settings.config);
    create_private_folder(&dirs.larder).expect("creates");
    let lock = Arc::new(take_lock(&dirs, None).expect("is free"));
    assert!(identity_of(&env, &options, &settings).is_err(), "somebody else works here");

    options.lock = Some(lock);

    assert!(identity_of(&env, &options, &settings).is_ok());
}

/// The folder of a machine that never ran, with the `.larder` of another one as a checkout brings it.
fn checked_out() -> (Machine, String) {
    let (mut writer, reader) = (Machine::new("writer", &backend()), Machine::new("reader", &backend()));
    writer.write("a.md", "a\n");
    writer.run();
    let name = origin(&mut writer).to_string();
    let copied = std::process::Command::new("cp").arg("-r").args([writer.path(".larder"), reader.path("")]).status();
    assert!(copied.expect("runs").success());
    (reader, name)
}

fn set_aside(machine: &Machine) -> usize {
    let entries = std::fs::read_dir(machine.path("")).expect("lists");
    entries.filter(|entry| entry.as_ref().expect("lists").file_name().to_string_lossy().contains("set-aside")).count()
}

#[test]
fn what_came_with_a_checkout_is_not_moved_while_a_process_of_another_container_holds_it() {
    let (reader, name) = checked_out();
    // Its holder has a number of a space that cannot be looked into from here.
    let lock = std::fs::File::options().write(true).create(true).truncate(true).open(reader.path(".larder/lock"));
    let lock = lock.expect("opens");
    std::io::Write::write_all(&mut &lock, b"2147483646\n").expect("writes");
    lock.lock().expect("nobody holds it");

    let refused = Node::open(&reader.env(), &reader.options(), Arc::new(NoProgress)).err().expect("somebody holds it");

    assert!(refused.message.contains("already works in this project"), "{refused:?}");
    assert_eq!(set_aside(&reader), 0);
    drop(lock);
    let mut opened = Node::open(&reader.env(), &reader.options(), Arc::new(NoProgress)).expect("opens");
    assert_ne!(opened.engine.origin().to_string(), name);
    assert_eq!(set_aside(&reader), 1);
    drop(opened.run(&Default::default()).expect("runs"));
}

#[test]
fn nobody_pairs_as_who_came_with_a_checkout() {
    use crate::node::identity::identity_of;
    let (reader, name) = checked_out();
    let (env, options) = (reader.env(), reader.options());
    let settings = options.settings(&env).expect("reads");

    let (identity, _) = identity_of(&env, &options, &settings).expect("is made");

    assert_ne!(identity.origin().to_string(), name, "whoever made the checkout has that key");
    assert_eq!(set_aside(&reader), 1);
}

#[test]
fn files_whose_versions_no_ledger_knows_any_more_are_recorded_by_who_begins_anew() {
    let (clock, lost_store, store) = (clock(), folder(), folder());
    let mut a = machine("a", &clock, lost_store.path());
    for name in ["one.txt", "two.txt"] {
        a.write(name, "text\n");
    }
    a.run();
    a.restart();
    // The ledger is gone, here and in the only store.
    std::fs::remove_dir_all(a.path(".larder/ledger")).expect("removes");
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(a.path(&format!(".larder/index.db{end}")));
    }
    meet_in(&a, store.path());

    let options = OpenOptions { trust: true, ..a.options() };
    new_origin(&a.env(), &options, Arc::new(NoProgress)).expect("becomes another one");
    reopen(&mut a);
    let recorded = a.run().recorded;
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert!(a.run().recorded.is_empty(), "once");

    let mut b = machine("b", &clock, store.path());
    b.run();
    assert_eq!((b.read("one.txt").as_deref(), b.read("two.txt").as_deref()), (Some("text\n"), Some("text\n")));
    expect_sound(&mut a);
}
