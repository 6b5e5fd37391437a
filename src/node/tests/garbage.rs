//! Laws of garbage: what every machine knows to be replaced goes, nothing else does, and what went does not come back.

use std::collections::BTreeSet;

use super::*;
use crate::ledger::{ArtifactName, Ledger};
use crate::model::{Content, ContentHash, ContentKind, OriginName};
use crate::node::{Glance, verify};
use crate::sync::Collected;

pub(super) const DAY_MS: u64 = 24 * 3600 * 1000;
pub(super) const START_MS: u64 = 1_800_000_000_000;

/// A machine with a clock of the test's, a backend of its own and this folder as its peer.
pub(super) fn machine(host: &'static str, clock: &Arc<ManualClock>, store: &Path) -> Machine {
    let mut machine = Machine::timed(host, &backend(), clock);
    meet_in(&machine, store);
    reopen(&mut machine);
    machine
}

pub(super) fn meet_in(machine: &Machine, store: &Path) {
    let peers = serde_json::json!({ "there": store });
    let text = CONFIG.replacen('{', &format!(r#"{{ "retention": "30d", "peers": {peers}, "#), 1);
    std::fs::write(machine.path("sync-config.json"), text).expect("writes");
}

pub(super) fn reopen(machine: &mut Machine) {
    machine.node = None;
    let options = OpenOptions { trust: true, ..machine.options() };
    machine.node = Some(Node::open(&machine.env(), &options, Arc::new(NoProgress)).expect("opens"));
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START_MS))
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Collects, and proves that a dry run said so.
pub(super) fn collect(machine: &mut Machine) -> Collected {
    let planned = machine.node().collect(true).expect("looks");
    let done = machine.node().collect(false).expect("collects");
    assert_eq!(planned, done, "a dry run names exactly what the run then does");
    done
}

pub(super) fn expect_sound(machine: &mut Machine) {
    let verified = verify(&machine.env(), &machine.options(), Depth::Bytes).expect("verifies");
    let damage: Vec<_> = verified.findings.iter().filter(|found| found.damage).collect();
    assert!(damage.is_empty(), "{}: {damage:#?}", machine.host);
}

pub(super) fn ledger(machine: &Machine) -> Ledger {
    Ledger::open(&machine.path(".larder")).expect("opens")
}

pub(super) fn origin(machine: &mut Machine) -> OriginName {
    machine.node().engine.origin().clone()
}

/// Checkpoints of an origin's shared chain in a machine's ledger, by number.
fn numbers(machine: &Machine, origin: &OriginName) -> Vec<u64> {
    let ledger = ledger(machine);
    let chains = ledger.chains().expect("lists").into_iter().filter(|chain| chain.origin == *origin);
    let names = chains.flat_map(|chain| ledger.checkpoint_names(&chain, 0).expect("lists"));
    names.filter_map(|name| if let ArtifactName::Checkpoint { seq, .. } = name { Some(seq) } else { None }).collect()
}

pub(super) fn names_there(store: &Path) -> BTreeSet<String> {
    tree(store).into_iter().map(|(name, _)| name).collect()
}

fn paths(done: &Collected) -> Vec<&str> {
    done.dropped.iter().map(|gone| gone.path.as_str()).collect()
}

/// Two machines that know of three contents of one path, all replaced 40 days ago and seen by both.
fn aged_pair(clock: &Arc<ManualClock>, store: &Path) -> (Machine, Machine) {
    let (mut a, mut b) = (machine("a", clock, store), machine("b", clock, store));
    for text in ["one\n", "two, which is longer\n", "three\n"] {
        a.write("x.txt", text);
        a.run();
        clock.advance(1000);
    }
    converge(&mut [&mut a, &mut b]);
    clock.advance(40 * DAY_MS);
    b.write("b.md", "b speaks\n");
    converge(&mut [&mut a, &mut b]);
    (a, b)
}

#[test]
fn what_every_machine_saw_replaced_is_dropped_after_retention_and_the_rest_stays() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());

    let done = collect(&mut a);
    converge(&mut [&mut a, &mut b]);

    assert_eq!(paths(&done), ["x.txt", "x.txt"]);
    assert!(done.removed.is_empty(), "artifacts stay for a week: {done:?}");
    for machine in [&mut a, &mut b] {
        expect_sound(machine);
        assert_eq!(machine.read("x.txt").as_deref(), Some("three\n"));
        let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
        let gone = Content { hash: ContentHash::of(b"one\n"), size: 4, kind: ContentKind::File { exec: false } };
        let told = glance.bytes_of(&gone).expect_err("gone").message;
        assert!(told.contains("was dropped on 2027-") && told.contains(" by a-"), "{told}");
        let now = Content { hash: ContentHash::of(b"three\n"), size: 6, ..gone };
        assert_eq!(glance.bytes_of(&now).expect("is here"), b"three\n");
    }
    assert_eq!(collect(&mut a).dropped, [], "nothing is dropped twice");
}

#[test]
fn a_moment_can_be_shown_whole_from_when_the_last_dropped_content_was_replaced() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());
    let horizon = |machine: &Machine| {
        let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
        glance.index().expect("an index").horizon().expect("answers")
    };
    assert_eq!(horizon(&a), None, "nothing was let go");

    collect(&mut a);
    converge(&mut [&mut a, &mut b]);

    for machine in [&a, &b] {
        let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
        let log = glance.log(Some(&RelPath::parse("x.txt").expect("a path")), 10).expect("lists");
        assert_eq!(horizon(machine), Some(log[0].version.hlc), "{}", machine.host);
    }
}

#[test]
fn artifacts_go_a_week_later_everywhere_and_no_holder_brings_them_back() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());
    let kept_by_a_syncer = tree(store.path());
    collect(&mut a);
    converge(&mut [&mut a, &mut b]);
    collect(&mut b);
    clock.advance(8 * DAY_MS);
    let of_b = |names: BTreeSet<String>| names.into_iter().filter(|name| name.contains("/b-")).collect::<Vec<_>>();
    let before = of_b(names_there(store.path()));

    let (here, there) = (collect(&mut a), collect(&mut b));

    assert_eq!(of_b(names_there(store.path())), before, "what another machine wrote is its own to take away");
    let own = origin(&mut a);
    assert!(!here.removed.is_empty() && !there.removed.is_empty(), "{here:?} {there:?}");
    assert!(here.stores.iter().any(|store| !store.removed.is_empty()), "{:?}", here.stores);
    for machine in [&a, &b] {
        assert!(numbers(machine, &own).iter().all(|seq| *seq >= 4), "{:?}", numbers(machine, &own));
    }
    // A syncer that was away gives everything back to the folder.
    for (name, bytes) in kept_by_a_syncer {
        let path = store.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
        std::fs::write(path, bytes).expect("writes");
    }
    for machine in [&mut a, &mut b] {
        machine.restart();
        reopen(machine);
    }
    converge(&mut [&mut a, &mut b]);
    for machine in [&mut a, &mut b] {
        assert!(numbers(machine, &own).iter().all(|seq| *seq >= 4), "{:?}", numbers(machine, &own));
        expect_sound(machine);
        assert_eq!(machine.read("x.txt").as_deref(), Some("three\n"));
    }
    assert!(collect(&mut a).stores.iter().any(|store| !store.removed.is_empty()), "taken away again");
    assert!(
        names_there(store.path()).iter().all(|name| !name.contains("cp-0000000000000001-") || !name.contains("/a-"))
    );
}

#[test]
fn a_dry_collection_claims_no_backend() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());
    collect(&mut a);
    converge(&mut [&mut a, &mut b]);
    clock.advance(8 * DAY_MS);
    let fresh = backend();
    a.node().engine.set_adapter(Some(fresh.clone()));

    let planned = a.node().collect(true).expect("looks");

    assert!(!planned.removed.is_empty(), "there is something to take away from places: {planned:?}");
    assert_eq!(crate::transport::Marker::of_backend(&fresh, "demo", None).expect("asked"), None);
}

#[test]
fn a_new_machine_begins_at_the_snapshot_and_status_says_from_where() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());
    collect(&mut a);
    converge(&mut [&mut a, &mut b]);
    let own = origin(&mut a);
    let floor = *numbers(&a, &own).iter().max().expect("a snapshot");

    let mut c = machine("c", &clock, store.path());
    converge(&mut [&mut c, &mut a, &mut b]);

    assert_eq!(numbers(&c, &own).first(), Some(&floor), "what is below the floor is not fetched");
    assert_eq!(tree(a.dir.path()).len(), tree(c.dir.path()).len());
    assert_eq!(c.read("x.txt").as_deref(), Some("three\n"));
    let begun = c.glance_status().verified_from;
    assert!(begun.iter().any(|from| from.chain.contains(own.as_str()) && from.checkpoint == format!("cp-{floor}")));
    expect_sound(&mut c);
    c.write("x.txt", "edited by c\n");
    converge(&mut [&mut c, &mut a, &mut b]);
    assert_eq!(a.read("x.txt").as_deref(), Some("edited by c\n"));
}

#[test]
fn who_has_not_seen_what_replaced_it_holds_it_back_until_he_is_silent_or_retired() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("x.txt", "one\n");
    b.write("b.md", "b\n");
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "two\n");
    a.run();
    clock.advance(29 * DAY_MS);
    assert_eq!(collect(&mut a).dropped, [], "younger than retention");
    clock.advance(2 * DAY_MS);

    let silent = collect(&mut a);

    assert_eq!(paths(&silent), ["x.txt"], "b said nothing for 31 days");
    assert_eq!(silent.silent.len(), 1);
    assert!(a.glance_status().problems.iter().any(|problem| problem.source == "members"));
}

#[test]
fn a_member_who_speaks_and_has_not_seen_it_holds_it_back_and_retiring_him_lets_it_go() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("x.txt", "one\n");
    b.write("b.md", "b\n");
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "two\n");
    a.run();
    clock.advance(31 * DAY_MS);
    // b gives what it wrote and takes nothing: it has not seen the edit.
    b.write("b.md", "b, again\n");
    b.node().run(&crate::node::RunOptions { asked: crate::sync::Asked::Nobody, ..Default::default() }).expect("runs");
    a.run();

    assert_eq!(collect(&mut a).dropped, [], "b has not seen it");
    let gone = origin(&mut b);
    a.node().engine.retire(&gone).expect("retires");
    assert_eq!(paths(&collect(&mut a)), ["x.txt"]);
}

#[test]
fn what_was_heard_is_told_alone_a_day_later_and_only_once() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("x.txt", "one\n");
    converge(&mut [&mut a, &mut b]);
    let own = origin(&mut b);
    assert_eq!(numbers(&b, &own), [] as [u64; 0]);

    clock.advance(DAY_MS + 1000);
    b.run();
    assert_eq!(numbers(&b, &own), [1]);
    for _ in 0..5 {
        clock.advance(2 * DAY_MS);
        converge(&mut [&mut a, &mut b]);
    }

    assert_eq!(numbers(&b, &own), [1], "what says nothing of versions is not answered");
    let a_own = origin(&mut a);
    assert_eq!(numbers(&a, &a_own), [1]);
}

#[test]
fn what_a_machine_brought_back_while_another_dropped_it_is_published_anew() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());
    // b goes back to the first text, which stands in a pack of a, and a drops it before it hears of that.
    b.write("x.txt", "one\n");
    let b_alone = crate::node::RunOptions { asked: crate::sync::Asked::Nobody, ..Default::default() };
    std::fs::rename(store.path(), store.path().with_extension("away")).expect("moves");
    b.node().run(&b_alone).expect("runs");
    std::fs::rename(store.path().with_extension("away"), store.path()).expect("moves back");
    assert_eq!(paths(&collect(&mut a)), ["x.txt", "x.txt"]);

    converge(&mut [&mut a, &mut b]);
    let mut c = machine("c", &clock, store.path());
    converge(&mut [&mut a, &mut b, &mut c]);

    for machine in [&mut a, &mut b, &mut c] {
        assert_eq!(machine.read("x.txt").as_deref(), Some("one\n"), "{}", machine.host);
        expect_sound(machine);
    }
    clock.advance(8 * DAY_MS);
    for machine in [&mut a, &mut b, &mut c] {
        collect(machine);
        expect_sound(machine);
    }
    let mut d = machine("d", &clock, store.path());
    converge(&mut [&mut a, &mut b, &mut c, &mut d]);
    assert_eq!(d.read("x.txt").as_deref(), Some("one\n"));
}

#[test]
fn a_machine_that_was_away_for_a_year_brings_nothing_back_and_loses_no_edit() {
    let (clock, store) = (clock(), folder());
    let mut machines = ["a", "b", "c"].map(|host| machine(host, &clock, store.path()));
    let [a, b, c] = &mut machines;
    for name in ["kept", "edited", "both", "gone"] {
        a.write(&format!("{name}.txt"), &format!("{name}\n"));
    }
    c.write("c.md", "c\n");
    let mut log = "{\"n\":0}\n".to_owned();
    a.write("log.jsonl", &log);
    converge(&mut [&mut *a, &mut *b, &mut *c]);
    c.write("log.jsonl", &format!("{log}{{\"by\":\"c\"}}\n"));
    // c works on, alone, and is not heard of for a year, while the others replace what it stands on.
    c.write("both.txt", "both, edited by c\n");
    for round in 0..8u64 {
        a.write("edited.txt", &format!("edited {round}\n"));
        log.push_str(&format!("{{\"round\":{round}}}\n"));
        a.write("log.jsonl", &log);
        b.write("both.txt", &format!("both, edited by b {round}\n"));
        if round == 2 {
            std::fs::remove_file(a.path("gone.txt")).expect("removes");
        }
        converge(&mut [&mut *a, &mut *b]);
        clock.advance(50 * DAY_MS);
        for machine in [&mut *a, &mut *b] {
            collect(machine);
        }
    }
    let told = a.glance_status().problems.into_iter().filter(|problem| problem.source == "members");
    assert!(told.into_iter().any(|problem| problem.path.starts_with("c-")));
    let own = origin(a);
    assert!(numbers(a, &own)[0] > 4, "the history is cut: {:?}", numbers(a, &own));

    converge(&mut [&mut *c, &mut *a, &mut *b]);

    for machine in [&mut *a, &mut *b, &mut *c] {
        assert_eq!(machine.read("gone.txt"), None, "{}", machine.host);
        assert_eq!(machine.read("kept.txt").as_deref(), Some("kept\n"));
        assert_eq!(machine.read("edited.txt").as_deref(), Some("edited 7\n"));
        expect_sound(machine);
        let conflicts = machine.conflicts();
        let shown = machine.read("log.jsonl").expect("is there");
        let joined = shown.contains("\"c\"") && shown.contains("\"round\":7");
        assert!(joined || conflicts > 0, "{}: {shown}", machine.host);
        assert_eq!(machine.glance_status().pending, [], "{}: nobody waits for what is gone", machine.host);
        let both = machine.read("both.txt").expect("is there");
        assert!(
            conflicts > 0 || (both.contains("by c") && both.contains("by b")),
            "{}: {conflicts} {both}",
            machine.host
        );
        let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
        for text in ["both, edited by c\n", "both, edited by b 7\n"] {
            let content = Content {
                hash: ContentHash::of(text.as_bytes()),
                size: text.len() as u64,
                kind: ContentKind::File { exec: false },
            };
            assert_eq!(glance.bytes_of(&content).expect("is here"), text.as_bytes(), "{}", machine.host);
        }
    }
    clock.advance(8 * DAY_MS);
    for machine in [&mut *a, &mut *b, &mut *c] {
        collect(machine);
    }
    clock.advance(8 * DAY_MS);
    for machine in [&mut *c, &mut *a, &mut *b] {
        collect(machine);
        expect_sound(machine);
    }
    assert!(numbers(c, &own)[0] > 4, "c lets go what a let go: {:?}", numbers(c, &own));
}

#[test]
fn a_project_that_is_kept_running_collects_once_a_day() {
    let (clock, store) = (clock(), folder());
    let (mut a, _b) = aged_pair(&clock, store.path());

    assert_eq!(a.node().collect_if_due().expect("looks"), None, "the first day only begins");
    clock.advance(DAY_MS / 2);
    assert_eq!(a.node().collect_if_due().expect("looks"), None);
    clock.advance(DAY_MS);
    let said = a.node().collect_if_due().expect("collects").expect("there was something");
    assert!(said.contains("2 replaced contents"), "{said}");
    assert_eq!(a.node().collect_if_due().expect("looks"), None);
}

#[test]
fn what_was_dropped_is_not_restored_and_the_sentence_says_who_dropped_it() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = aged_pair(&clock, store.path());
    collect(&mut a);
    converge(&mut [&mut a, &mut b]);
    let path = RelPath::parse("x.txt").expect("a path");
    let glance = Glance::open(&b.env(), &b.options()).expect("opens");
    let oldest = glance.log(Some(&path), 10).expect("lists").pop().expect("the first version");

    let refused = b.node().restore(&path, &oldest.id, false).expect_err("its bytes are gone");

    assert!(refused.message.contains("was dropped on ") && refused.message.contains(" by a-"), "{}", refused.message);
    assert_eq!(b.read("x.txt").as_deref(), Some("three\n"));
    assert!(oldest.version.content().and_then(|content| glance.gone(&content)).is_some());
    expect_sound(&mut b);
}

#[test]
fn a_displaced_file_whose_content_was_let_go_is_no_edit() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("x.txt", "one\n");
    b.write("b.md", "b\n");
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "two\n");
    // b replaces its file, keeps the old one aside, and is next looked at when that is let go.
    converge(&mut [&mut a, &mut b]);
    b.write("b.md", "b has heard\n");
    converge(&mut [&mut a, &mut b]);
    clock.advance(31 * DAY_MS);
    a.node().engine.state.remove_undo(1).expect("forgets");
    let said = collect(&mut a);

    let before = b.node().engine.index.counts().expect("counts").versions;
    converge(&mut [&mut b, &mut a]);

    let after = b.node().engine.index.counts().expect("counts").versions;
    assert!(said.dropped.iter().any(|gone| gone.path == "x.txt"), "{said:?}");
    assert_eq!(after, before, "nothing was edited");
    assert_eq!(b.read("x.txt").as_deref(), Some("two\n"));
}

#[test]
fn nothing_of_an_open_conflict_is_dropped_however_old_it_is() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    a.write("x.txt", "base\n");
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "from a\n");
    b.write("x.txt", "from b, longer\n");
    converge(&mut [&mut a, &mut b]);
    assert_eq!(a.conflicts(), 1);
    clock.advance(60 * DAY_MS);
    a.write("a.md", "a speaks\n");
    b.write("b.md", "b speaks\n");
    converge(&mut [&mut a, &mut b]);

    let done = (collect(&mut a), collect(&mut b));

    assert!(done.0.dropped.is_empty() && done.1.dropped.is_empty(), "{done:?}");
    assert_eq!(a.conflicts(), 1);
}

/// A small generator of its own, so that a seed gives one history.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

/// All hear of all, a month goes by, all speak and collect at times of their own. How much they dropped.
fn age(machines: &mut [Machine; 3], clock: &Arc<ManualClock>, step: u64) -> usize {
    converge(&mut machines.each_mut());
    for path in 0..4 {
        // Whoever edits what two disagreed about settles it.
        machines[step as usize % 3].write(&format!("{path}.txt"), &format!("settled {path} at {step}\n"));
    }
    converge(&mut machines.each_mut());
    clock.advance(32 * DAY_MS);
    for machine in machines.iter_mut() {
        machine.write(&format!("note-{}.md", machine.host), &format!("{step}\n"));
    }
    converge(&mut machines.each_mut());
    let drop_all =
        |machines: &mut [Machine; 3]| -> usize { machines.iter_mut().map(|m| collect(m).dropped.len()).sum() };
    let dropped = drop_all(machines);
    machines[step as usize % 3].run();
    clock.advance(8 * DAY_MS);
    dropped + drop_all(machines)
}

/// What one step did must hold wherever it ends: nothing that a file shows is gone.
///
/// With `closes`, machines go on as later generations of themselves meanwhile.
fn play(seed: u64, closes: bool) {
    println!("seed {seed}");
    let (clock, store, mut dice) = (clock(), folder(), Dice(seed));
    let mut machines = ["a", "b", "c"].map(|host| machine(host, &clock, store.path()));
    let mut dropped = 0;
    for step in 0..48u64 {
        let (who, path) = (dice.below(3) as usize, format!("{}.txt", dice.below(4)));
        let machine = &mut machines[who];
        match dice.below(10) {
            // Few texts, so that what was dropped is written again.
            0..3 => machine.write(&path, &format!("text {}\n", dice.below(9)).repeat(1 + dice.below(3) as usize)),
            3 => machine.write(&path, &format!("big {step} ").repeat(9_000)),
            4 => drop(std::fs::remove_file(machine.path(&path))),
            5..8 => drop(machine.run()),
            8 => dropped += collect(machine).dropped.len(),
            _ => clock.advance((1 + dice.below(25)) * DAY_MS),
        }
        clock.advance(1000);
        if closes && step % 9 == 8 {
            let name = origin(machine).to_string();
            super::closed::adopt(machine, &name, seed * 100 + step);
        }
        if step % 16 == 15 {
            dropped += age(&mut machines, &clock, step);
        }
    }
    clock.advance(9 * DAY_MS);
    machines.iter_mut().for_each(|machine| dropped += collect(machine).dropped.len());
    converge(&mut machines.each_mut());
    assert!(dropped > 0, "seed {seed}: nothing was dropped");

    let [a, b, c] = &mut machines;
    assert_eq!(tree(a.dir.path()).len(), tree(b.dir.path()).len());
    for (name, bytes) in tree(a.dir.path()).into_iter().filter(|(name, _)| name.ends_with(".txt")) {
        for other in [&*b, &*c] {
            assert_eq!(std::fs::read(other.path(&name)).ok().as_deref(), Some(&bytes[..]), "seed {seed}: {name}");
        }
    }
    for machine in [a, b, c] {
        expect_sound(machine);
        let ledger = ledger(machine);
        let floors = machine.node().engine.index.floors().expect("reads");
        for (chain, floor) in floors {
            let below = ledger.checkpoint_names(&chain, 0).expect("lists");
            let old =
                below.iter().filter(|name| matches!(name, ArtifactName::Checkpoint { seq, .. } if *seq < floor.seq));
            let names: Vec<String> = old.map(ArtifactName::to_string).collect();
            // What the last collections let go is younger than a week.
            assert!(names.len() < 40, "seed {seed}: {names:?}");
        }
        let mut anew = machine.node().engine.index.counts().expect("counts");
        machine.restart();
        let rebuilt = crate::node::rebuild(&machine.env(), &machine.options(), true).expect("replays");
        anew.waiting = rebuilt.counts.waiting;
        assert_eq!(rebuilt.counts, anew, "seed {seed}: the index is what the ledger says");
        assert!(
            rebuilt.replayed.problems.iter().all(|problem| !problem.stops_chain),
            "{:?}",
            rebuilt.replayed.problems
        );
    }
    println!("seed {seed}: {dropped} contents dropped");
    let mut d = machine("d", &clock, store.path());
    let [a, b, c] = &mut machines;
    for machine in [&mut *a, &mut *b, &mut *c] {
        reopen(machine);
    }
    converge(&mut [a, b, c, &mut d]);
    expect_sound(&mut d);
    let texts = |machine: &Machine| -> Vec<_> {
        tree(machine.dir.path()).into_iter().filter(|(name, _)| name.ends_with(".txt")).collect()
    };
    assert_eq!(texts(&d), texts(&machines[0]), "seed {seed}: a new machine sees what the others see");
}

#[test]
fn whatever_happens_on_three_machines_nothing_live_is_lost_and_all_converge() {
    for seed in [1, 2, 3] {
        play(seed, false);
    }
}

#[test]
fn whatever_happens_while_machines_go_on_as_later_generations_nothing_live_is_lost_and_all_converge() {
    for seed in [11, 12] {
        play(seed, true);
    }
}
