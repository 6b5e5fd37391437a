//! Laws of closed chains: what a later generation says again may go from an earlier one, and whoever held more of it loses nothing.

use super::garbage::{DAY_MS, clock, collect, expect_sound, folder, ledger, machine, origin, reopen};
use super::purge::{expect_nowhere, holders, holders_there, purge, purge_problems, same_owner, secret, versions};
use super::*;
use crate::env::SeededRandom;
use crate::ledger::{Closed, ClosedTip, Sweep, Writer};
use crate::model::{Chain, VersionId};
use crate::node::{Adoption, Glance, adopt_origin, new_origin};

/// Goes on as `name`, by a generation that this seed draws.
pub(super) fn adopt(machine: &mut Machine, name: &str, seed: u64) {
    machine.restart();
    let env = Env { random: Arc::new(SeededRandom::new(seed)), ..machine.env() };
    let adoption = Adoption { name: name.to_owned(), ..Adoption::default() };
    adopt_origin(&env, &machine.options(), &adoption, Arc::new(NoProgress)).expect("adopts");
    reopen(machine);
}

fn rebuild(machine: &mut Machine) {
    machine.restart();
    crate::node::rebuild(&machine.env(), &machine.options(), false).expect("rebuilds");
    reopen(machine);
}

/// The first generation's chain of an origin.
fn first_chain(machine: &mut Machine, name: &str) -> Chain {
    let chains = ledger(machine).chains().expect("lists");
    chains.into_iter().find(|chain| chain.origin.as_str() == name && chain.generation == 1).expect("is here")
}

/// Everything that is known of every path, newest first: ids, without row numbers.
fn history(machine: &mut Machine) -> Vec<String> {
    let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
    let mut all: Vec<String> = glance.log(None, 10_000).expect("lists").iter().map(|one| one.id.to_string()).collect();
    all.sort();
    all
}

/// What the first generation wrote, small and large, with a secret that was replaced.
fn write_a_past(lost: &mut Machine, clock: &ManualClock, text: &str) {
    lost.write("small.txt", text);
    lost.write("large.txt", &secret(21, 400_000));
    lost.write("gone.txt", "gone\n");
    lost.run();
    lost.write("small.txt", "clean\n");
    lost.write("log.jsonl", "{\"a\":1}\n");
    std::fs::remove_file(lost.path("gone.txt")).expect("removes");
    clock.advance(1000);
    lost.run();
}

#[test]
fn what_is_purged_goes_from_a_chain_that_was_closed_and_all_else_of_it_stays() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    let (mut b, mut c) = (machine("b", &clock, store.path()), machine("c", &clock, store.path()));
    same_owner(&lost, &mut b);
    let text = secret(20, 3_000);
    write_a_past(&mut lost, &clock, &text);
    let name = origin(&mut lost).to_string();
    converge(&mut [&mut b, &mut c]);
    c.write("large.txt", &format!("{}more\n", secret(21, 400_000)));
    converge(&mut [&mut b, &mut c]);
    drop(lost);
    adopt(&mut b, &name, 1);
    converge(&mut [&mut b, &mut c]);
    let before = history(&mut b);
    assert!(!holders(&c.path(".larder"), &text[..48]).is_empty());

    let old = versions(&mut b, "small.txt")[1];
    let done = purge(&mut b, "small.txt", Some(old));
    converge(&mut [&mut b, &mut c]);

    assert_eq!((done.purged.len(), done.elsewhere.len()), (1, 0), "{done:?}");
    assert!(!done.artifacts.is_empty() && done.stores.iter().any(|there| !there.removed.is_empty()), "{done:?}");
    expect_nowhere(&mut [&mut b, &mut c], store.path(), &text);
    let mut d = machine("d", &clock, store.path());
    converge(&mut [&mut b, &mut c, &mut d]);
    for machine in [&mut b, &mut c, &mut d] {
        assert_eq!(history(machine), before, "{}", machine.host);
        rebuild(machine);
        assert_eq!(history(machine), before, "{}", machine.host);
        assert_eq!(machine.read("small.txt").as_deref(), Some("clean\n"));
        assert!(machine.read("large.txt").is_some_and(|large| large.ends_with("more\n")));
        assert_eq!(machine.read("log.jsonl").as_deref(), Some("{\"a\":1}\n"));
        assert_eq!(purge_problems(machine), [] as [String; 0]);
        assert_eq!(machine.conflicts(), 0);
        let path = RelPath::parse("gone.txt").expect("a path");
        let back = versions(machine, "gone.txt")[0];
        machine.node().restore(&path, &back, false).expect("what was not purged is restored");
    }
    expect_nowhere(&mut [&mut b, &mut c, &mut d], store.path(), &text);
}

#[test]
fn a_damaged_pack_of_an_earlier_generation_keeps_no_purge_from_all_else_and_is_said_again_by_no_run() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    let mut b = machine("b", &clock, store.path());
    same_owner(&lost, &mut b);
    lost.write("large.txt", &secret(30, 400_000));
    lost.write("small.txt", &secret(31, 3_000));
    lost.run();
    lost.write("small.txt", "clean\n");
    lost.run();
    let name = origin(&mut lost).to_string();
    converge(&mut [&mut b]);
    drop(lost);
    adopt(&mut b, &name, 1);
    let text = secret(32, 3_000);
    b.write("later.txt", &text);
    b.run();
    b.write("later.txt", "clean\n");
    b.run();
    let held = ledger(&b);
    let names = held.chains().expect("lists").into_iter().flat_map(|chain| held.artifact_names(&chain).expect("lists"));
    let pack = names.into_iter().find(|name| name.to_string().ends_with(".pack")).expect("a pack");
    let mut wrong = held.read_whole(&pack).expect("reads");
    wrong[100] ^= 1;
    for path in [held.path(&pack), store.path().join("demo").join(pack.to_string())] {
        std::fs::remove_file(&path).expect("removes");
    }
    std::fs::write(held.path(&pack), &wrong).expect("writes");
    let row = RecordId::new("demo-ledger", "shared", &pack.to_string());
    let stands = b.adapter.get(&row).expect("reads").expect("adopting brought it there").revision;
    b.adapter.delete(&row, &larder_adapters::Expected::Revision(stands)).expect("deletes");
    crate::node::verify(&b.env(), &b.options(), Depth::Bytes).expect("looks");

    for name in ["small.txt", "later.txt"] {
        let path = RelPath::parse(name).expect("a path");
        let old = versions(&mut b, name)[1];
        b.node().purge(&path, Some(&old), false).expect("purges");
    }
    b.run();

    assert_eq!(holders_there(store.path(), &text[..48]), [] as [String; 0], "what stands elsewhere goes");
    let count = |machine: &Machine| {
        let ledger = ledger(machine);
        let chains = ledger.chains().expect("lists");
        chains.iter().map(|chain| ledger.checkpoint_names(chain, 0).expect("lists").len()).sum::<usize>()
    };
    let before = count(&b);
    for _ in 0..3 {
        b.run();
    }
    assert_eq!(count(&b), before);
}

/// Works where no store can be reached.
fn work_away(machine: &mut Machine, store: &Path, files: &[(&str, &str)], clock: &ManualClock) {
    let away = store.with_extension("away");
    std::fs::rename(store, &away).expect("goes away");
    for (name, text) in files {
        machine.write(name, text);
        clock.advance(1000);
        machine.run();
    }
    std::fs::rename(&away, store).expect("comes back");
}

/// Becomes a machine of its own.
fn begin_anew(machine: &mut Machine) {
    machine.restart();
    new_origin(&machine.env(), &machine.options(), Arc::new(NoProgress)).expect("becomes another one");
    reopen(machine);
}

#[test]
fn a_machine_that_was_taken_for_lost_brings_what_it_had_not_told_behind_a_chain_that_was_closed() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    let (mut b, mut c) = (machine("b", &clock, store.path()), machine("c", &clock, store.path()));
    same_owner(&lost, &mut b);
    let text = secret(30, 3_000);
    write_a_past(&mut lost, &clock, &text);
    let name = origin(&mut lost).to_string();
    converge(&mut [&mut b, &mut c]);
    let branch = [("small.txt", "edited away\n"), ("new.txt", "new\n"), ("log.jsonl", "{\"a\":1}\n{\"b\":2}\n")];
    work_away(&mut lost, store.path(), &branch, &clock);
    adopt(&mut b, &name, 1);
    converge(&mut [&mut b, &mut c]);
    let old = versions(&mut b, "small.txt")[1];
    purge(&mut b, "small.txt", Some(old));
    converge(&mut [&mut b, &mut c]);
    expect_nowhere(&mut [&mut b, &mut c], store.path(), &text);

    let why = lost.run().stopped.expect("is told");
    assert!(why.contains("goes on elsewhere as generation"), "{why}");
    assert_eq!(holders_there(store.path(), &text[..48]), [] as [String; 0], "it brings nothing back");
    begin_anew(&mut lost);
    converge(&mut [&mut lost, &mut b, &mut c]);

    let mut d = machine("d", &clock, store.path());
    converge(&mut [&mut lost, &mut b, &mut c, &mut d]);
    let all = history(&mut lost);
    for machine in [&mut lost, &mut b, &mut c, &mut d] {
        for _ in 0..2 {
            assert_eq!(history(machine), all, "{}", machine.host);
            for (name, text) in branch {
                assert_eq!(machine.read(name).as_deref(), Some(text), "{}: {name}", machine.host);
            }
            let status = machine.glance_status();
            assert_eq!((status.counts.waiting, machine.conflicts()), (0, 0), "{}", machine.host);
            rebuild(machine);
        }
        assert_eq!(purge_problems(machine), [] as [String; 0], "{}", machine.host);
    }
    expect_nowhere(&mut [&mut lost, &mut b, &mut c, &mut d], store.path(), &text);

    // What it had not told may be purged as well: the chain is closed again, further on.
    let told = secret(31, 3_000);
    b.write("after.txt", &told);
    b.run();
    clock.advance(1000);
    let late = versions(&mut b, "new.txt")[0];
    for machine in [&mut lost, &mut b, &mut c, &mut d] {
        machine.write("new.txt", "other\n");
    }
    b.run();
    converge(&mut [&mut b, &mut lost, &mut c, &mut d]);
    let done = purge(&mut b, "new.txt", Some(late));
    converge(&mut [&mut b, &mut lost, &mut c, &mut d]);
    assert_eq!(done.purged.len(), 1, "{done:?}");
    let first = first_chain(&mut b, &name);
    for machine in [&mut lost, &mut b, &mut c, &mut d] {
        let ledger = ledger(machine);
        let floor = machine.node().engine.index.floor(&first).expect("reads").seq;
        assert_eq!(ledger.checkpoint_names(&first, floor - 1).expect("lists"), [], "{}", machine.host);
        expect_sound(machine);
    }
}

#[test]
fn of_two_later_generations_each_may_close_the_same_chain_and_the_later_one_closes_the_other() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    let mut machines = ["b", "c"].map(|host| machine(host, &clock, store.path()));
    machines.iter_mut().for_each(|machine| same_owner(&lost, machine));
    let text = secret(32, 3_000);
    write_a_past(&mut lost, &clock, &text);
    let name = origin(&mut lost).to_string();
    drop(lost);
    let [b, c] = &mut machines;
    converge(&mut [&mut *b, &mut *c]);
    adopt(b, &name, 1);
    adopt(c, &name, 2);
    machines.sort_by_key(|machine| machine.node.as_ref().expect("is open").engine.identity.generation());
    let [stopped, goes_on] = &mut machines;
    let other = secret(33, 3_000);
    let away = store.path().with_extension("away");
    std::fs::rename(store.path(), &away).expect("goes away");
    stopped.write("by-the-first.txt", &other);
    stopped.run();
    for machine in [&mut *stopped, &mut *goes_on] {
        let old: VersionId = versions(machine, "small.txt")[1];
        machine.write(&format!("of-{}.txt", machine.host), "kept\n");
        machine.run();
        purge(machine, "small.txt", Some(old));
    }
    std::fs::rename(&away, store.path()).expect("comes back");
    // Both closed it before either heard of the other.
    stopped.run();
    goes_on.run();
    stopped.run();
    begin_anew(stopped);
    let mut d = machine("d", &clock, store.path());
    converge(&mut [&mut *goes_on, &mut *stopped, &mut d]);
    expect_nowhere(&mut [&mut *goes_on, &mut *stopped, &mut d], store.path(), &text);

    let late = versions(goes_on, "by-the-first.txt")[0];
    purge(goes_on, "by-the-first.txt", Some(late));
    converge(&mut [&mut *goes_on, &mut *stopped, &mut d]);
    expect_nowhere(&mut [&mut *goes_on, &mut *stopped, &mut d], store.path(), &other);
    let all = history(goes_on);
    let mut e = machine("e", &clock, store.path());
    converge(&mut [&mut *goes_on, &mut *stopped, &mut d, &mut e]);
    for machine in [stopped, goes_on, &mut d, &mut e] {
        assert_eq!(history(machine), all, "{}", machine.host);
        rebuild(machine);
        assert_eq!(history(machine), all, "{}", machine.host);
        for name in ["large.txt", "log.jsonl", "of-b.txt", "of-c.txt"] {
            assert!(machine.read(name).is_some(), "{}: {name}", machine.host);
        }
    }
}

#[test]
fn who_goes_on_as_another_owners_machine_closes_nothing_and_status_says_so() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    let (mut b, mut c) = (machine("b", &clock, store.path()), machine("c", &clock, store.path()));
    let text = secret(34, 3_000);
    write_a_past(&mut lost, &clock, &text);
    let name = origin(&mut lost).to_string();
    drop(lost);
    converge(&mut [&mut b, &mut c]);
    adopt(&mut b, &name, 1);
    let old = versions(&mut b, "small.txt")[1];
    let done = purge(&mut b, "small.txt", Some(old));
    converge(&mut [&mut b, &mut c]);

    assert!(!done.elsewhere.is_empty() && done.artifacts.is_empty(), "{done:?}");
    let first = first_chain(&mut b, &name);
    for machine in [&mut b, &mut c] {
        assert_eq!(machine.node().engine.index.floor(&first).expect("reads").seq, 1, "{}", machine.host);
        assert!(!holders(&machine.path(".larder"), &text[..48]).is_empty(), "{}", machine.host);
        let told = purge_problems(machine);
        assert!(told.iter().any(|what| what.contains("another owner's")), "{told:?}");
        assert_eq!(machine.read("small.txt").as_deref(), Some("clean\n"));
        expect_sound(machine);
    }
}

#[test]
fn what_a_closed_chain_says_is_let_go_by_the_generation_after_it_once_everybody_saw_it_replaced() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let large = secret(35, 400_000);
    a.write("x.txt", &large);
    a.write("kept.txt", &secret(36, 300_000));
    converge(&mut [&mut a, &mut b]);
    let name = origin(&mut a).to_string();
    adopt(&mut a, &name, 1);
    a.write("x.txt", "small now\n");
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let first = first_chain(&mut a, &name);
    // Too young; then b has to say what it holds.
    assert_eq!(collect(&mut a).dropped, []);
    clock.advance(40 * DAY_MS);
    b.write("b.md", "b\n");
    converge(&mut [&mut b, &mut a]);

    let done = collect(&mut a);
    converge(&mut [&mut a, &mut b]);
    assert_eq!(done.dropped.iter().map(|gone| gone.path.as_str()).collect::<Vec<_>>(), ["x.txt"]);
    assert!(done.swept.contains(&first.to_string()), "{done:?}");
    for machine in [&mut a, &mut b] {
        assert_eq!(collect(machine).removed, [] as [String; 0], "a week stays");
    }
    clock.advance(8 * DAY_MS);
    for machine in [&mut a, &mut b] {
        let done = collect(machine);
        assert!(done.removed.iter().any(|name| name.starts_with(&first.to_string())), "{done:?}");
        assert_eq!(ledger(machine).artifact_names(&first).expect("lists"), [], "{}", machine.host);
        assert_eq!(holders(&machine.path(".larder"), &large[..48]), [] as [String; 0]);
    }
    assert_eq!(holders_there(store.path(), &large[..48]), [] as [String; 0]);
    converge(&mut [&mut a, &mut b]);
    let all = history(&mut a);
    let mut d = machine("d", &clock, store.path());
    converge(&mut [&mut a, &mut b, &mut d]);
    for machine in [&mut a, &mut b, &mut d] {
        assert_eq!(history(machine), all, "{}", machine.host);
        rebuild(machine);
        assert_eq!(history(machine), all, "{}", machine.host);
        assert_eq!(machine.read("kept.txt").as_deref(), Some(&*secret(36, 300_000)));
        expect_sound(machine);
    }
    // And later on what it closed goes like everything of its own.
    a.write("kept.txt", "no more\n");
    clock.advance(1000);
    converge(&mut [&mut a, &mut b, &mut d]);
    clock.advance(40 * DAY_MS);
    for machine in [&mut b, &mut d] {
        machine.write(&format!("{}.md", machine.host), "here\n");
    }
    converge(&mut [&mut b, &mut d, &mut a]);
    assert_eq!(collect(&mut a).dropped.iter().map(|gone| gone.path.as_str()).collect::<Vec<_>>(), ["kept.txt"]);
}

#[test]
fn a_word_of_another_owner_about_an_earlier_generation_hides_nothing_from_who_is_new() {
    let (clock, store) = (clock(), folder());
    let mut lost = machine("lost", &clock, store.path());
    let mut b = machine("b", &clock, store.path());
    write_a_past(&mut lost, &clock, &secret(37, 3_000));
    let name = origin(&mut lost).to_string();
    drop(lost);
    converge(&mut [&mut b]);
    adopt(&mut b, &name, 1);
    b.write("by-b.txt", "b\n");
    b.run();
    let first = first_chain(&mut b, &name);
    {
        let engine = &b.node().engine;
        let (identity, ledger) = (engine.identity.clone(), engine.ledger.clone());
        let space = first.space.clone();
        let own = identity.chain(space.clone());
        let names = ledger.checkpoint_names(&own, 0).expect("lists");
        let last = ledger.read_checkpoint(names.last().expect("one")).expect("reads");
        let lie = Closed {
            cert: last.body.cert.clone(),
            chain: first.clone(),
            key: last.body.key,
            seq: 1_000_000,
            tips: vec![ClosedTip(last.hash, 0)],
        };
        let writer = Writer { app: &last.body.app, identity: &identity, space: &space };
        let nothing = std::collections::HashSet::new();
        let sweep = Sweep {
            dropped: &[],
            gone: &nothing,
            purged: &nothing,
            lost: &std::collections::HashSet::new(),
            closed: &[lie],
        };
        let swept = ledger.sweep(writer, last.tip(), last.body.hlc, std::collections::BTreeMap::new(), sweep);
        swept.expect("a snapshot");
    }
    reopen(&mut b);
    b.run();

    let (mut c, mut d) = (machine("c", &clock, store.path()), machine("d", &clock, store.path()));
    converge(&mut [&mut b, &mut c]);
    c.restart();
    reopen(&mut c);
    converge(&mut [&mut c, &mut d, &mut b]);
    for machine in [&mut b, &mut c, &mut d] {
        assert_eq!(machine.read("small.txt").as_deref(), Some("clean\n"), "{}", machine.host);
        assert_eq!(machine.node().engine.index.floor(&first).expect("reads").seq, 1, "{}", machine.host);
        expect_sound(machine);
    }
}
