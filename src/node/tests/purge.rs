//! Laws of purge: what a person lets go by name is nowhere any more, comes back from nowhere, and takes nothing else along.

use memchr::memmem;

use super::garbage::{
    DAY_MS, Dice, clock, collect, expect_sound, folder, ledger, machine, names_there, origin, reopen,
};
use super::*;
use crate::ledger::Ledger;
use crate::model::{Content, ContentHash, ContentKind, VersionId};
use crate::node::Glance;
use crate::sync::PurgeReport;

/// Text that no compressor shortens much and that stands nowhere else.
pub(super) fn secret(seed: u64, bytes: usize) -> String {
    let mut dice = Dice(seed);
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(&format!("{:08x}", dice.below(1 << 31)));
        if text.len().is_multiple_of(64) {
            text.push('\n');
        }
    }
    text
}

/// Every artifact and every other file below a `.larder` that holds these bytes, whatever they are packed in.
pub(super) fn holders(larder: &Path, needle: &str) -> Vec<String> {
    let holds = |bytes: &[u8]| memmem::find(bytes, needle.as_bytes()).is_some();
    let mut found = Vec::new();
    let mut folders = vec![larder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("lists").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes)) {
                found.push(path.display().to_string());
            }
        }
    }
    let ledger = Ledger::open(larder).expect("opens");
    for chain in ledger.chains().expect("lists") {
        for name in ledger.artifact_names(&chain).expect("lists") {
            for (segment, place) in ledger.places_in(&name).expect("reads") {
                if holds(&ledger.read_segment(segment, &place).expect("reads")) {
                    found.push(name.to_string());
                }
            }
        }
    }
    found
}

/// The same of a folder store.
pub(super) fn holders_there(store: &Path, needle: &str) -> Vec<String> {
    let larder = folder();
    std::os::unix::fs::symlink(store.join("demo"), larder.path().join("ledger")).expect("links");
    holders(larder.path(), needle)
}

/// Purges, and proves that a dry run said so.
pub(super) fn purge(machine: &mut Machine, path: &str, version: Option<VersionId>) -> PurgeReport {
    let path = RelPath::parse(path).expect("a path");
    let planned = machine.node().purge(&path, version.as_ref(), true).expect("looks").purge.expect("a plan");
    let done = machine.node().purge(&path, version.as_ref(), false).expect("purges").purge.expect("a report");
    assert_eq!(planned, done, "a dry run names exactly what the run then does");
    done
}

/// The versions of a path that have a content, newest first.
pub(super) fn versions(machine: &mut Machine, path: &str) -> Vec<VersionId> {
    let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
    let log = glance.log(Some(&RelPath::parse(path).expect("a path")), 100).expect("lists");
    log.into_iter().filter(|stored| stored.version.content().is_some()).map(|stored| stored.id).collect()
}

fn told(machine: &mut Machine, text: &str) -> String {
    let glance = Glance::open(&machine.env(), &machine.options()).expect("opens");
    let content = Content {
        hash: ContentHash::of(text.as_bytes()),
        size: text.len() as u64,
        kind: ContentKind::File { exec: false },
    };
    glance.bytes_of(&content).expect_err("gone").message
}

pub(super) fn purge_problems(machine: &mut Machine) -> Vec<String> {
    let problems = machine.glance_status().problems.into_iter();
    problems.filter(|problem| problem.source == "purge").map(|problem| problem.what).collect()
}

/// The same person on another machine.
pub(super) fn same_owner(from: &Machine, to: &mut Machine) {
    to.restart();
    std::fs::remove_dir_all(to.path(".larder")).expect("removes");
    std::fs::copy(from.home.path().join("owner.key"), to.home.path().join("owner.key")).expect("copies");
    reopen(to);
}

pub(super) fn expect_nowhere(machines: &mut [&mut Machine], store: &Path, text: &str) {
    let needle = &text[..48];
    for machine in machines.iter_mut() {
        let found = holders(&machine.path(".larder"), needle);
        assert!(found.is_empty(), "{}: {found:?}", machine.host);
        assert!(told(machine, text).contains("was purged on 2027-"), "{}", told(machine, text));
        expect_sound(machine);
    }
    assert_eq!(holders_there(store, needle), [] as [String; 0]);
}

#[test]
fn what_is_purged_is_found_nowhere_on_three_machines_and_in_no_store() {
    let (clock, store) = (clock(), folder());
    let mut machines = ["a", "b", "c"].map(|host| machine(host, &clock, store.path()));
    let [a, b, c] = &mut machines;
    // One that stands in a checkpoint, and one in a pack beside what stays.
    let (small, large, kept) = (secret(1, 3_000), secret(2, 400_000), secret(3, 500_000));
    a.write("small.txt", &small);
    a.write("large.txt", &large);
    a.write("kept.txt", &kept);
    b.write("b.md", "b\n");
    converge(&mut [&mut *a, &mut *b, &mut *c]);
    for (name, text) in [("small.txt", "clean\n"), ("large.txt", "clean, too\n")] {
        a.write(name, text);
    }
    clock.advance(1000);
    converge(&mut [&mut *a, &mut *b, &mut *c]);
    assert!(
        !holders(&b.path(".larder"), &small[..48]).is_empty() && !holders_there(store.path(), &large[..48]).is_empty()
    );

    for (name, size) in [("small.txt", small.len()), ("large.txt", large.len())] {
        let old = versions(a, name)[1];
        let done = purge(a, name, Some(old));
        assert_eq!((done.purged.len(), done.purged[0].size), (1, size as u64), "{done:?}");
        assert!(done.kept.is_empty() && done.waits.is_empty() && done.on_disk.is_empty(), "{done:?}");
        assert!(done.stores.iter().any(|there| there.store == "there" && !there.removed.is_empty()), "{done:?}");
    }
    assert_eq!(holders_there(store.path(), &large[..48]), [] as [String; 0], "the store was emptied at once");
    converge(&mut [&mut *a, &mut *b, &mut *c]);

    for text in [&small, &large] {
        expect_nowhere(&mut [&mut *a, &mut *b, &mut *c], store.path(), text);
    }
    let mut d = machine("d", &clock, store.path());
    converge(&mut [&mut *a, &mut *b, &mut *c, &mut d]);
    expect_nowhere(&mut [&mut d], store.path(), &small);
    for machine in [a, b, c, &mut d] {
        assert_eq!(machine.read("small.txt").as_deref(), Some("clean\n"));
        assert_eq!(machine.read("kept.txt").as_deref(), Some(&*kept));
        assert_eq!(purge_problems(machine), [] as [String; 0]);
        assert_eq!(collect(machine).dropped, []);
    }
}

#[test]
fn what_is_purged_comes_back_from_no_old_store_no_bundle_and_no_row() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let memory = Arc::new(MemoryAdapter::new());
    b.adapter = memory.clone();
    reopen(&mut b);
    let text = secret(4, 3_000);
    a.write("x.txt", &text);
    converge(&mut [&mut a, &mut b]);
    let bundle = store.path().with_extension("bundle");
    let export = crate::node::ExportRequest { file: bundle.clone(), ..export_all() };
    b.node().export(&export).expect("exports");
    a.write("x.txt", "clean\n");
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let kept_by_a_syncer = tree(store.path());
    let old = versions(&mut a, "x.txt")[1];

    purge(&mut a, "x.txt", Some(old));
    converge(&mut [&mut a, &mut b]);
    for (name, bytes) in kept_by_a_syncer {
        let path = store.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
        std::fs::write(path, bytes).expect("writes");
    }
    for machine in [&mut a, &mut b] {
        reopen(machine);
        let import = crate::node::ImportRequest { file: bundle.clone(), ..import_all() };
        machine.node().import(&import).expect("imports");
    }
    memory.foreign_set(&RecordId::new("demo", "shared", "x.txt"), &text);
    let refused = b.run();
    converge_quietly(&mut [&mut a, &mut b]);

    assert!(
        refused.problems.iter().any(|(path, what)| path == "x.txt" && what.contains("was purged on")),
        "{refused:?}"
    );
    for machine in [&mut a, &mut b] {
        assert_eq!(holders(&machine.path(".larder"), &text[..48]), [] as [String; 0], "{}", machine.host);
        assert_eq!(machine.read("x.txt").as_deref(), Some("clean\n"));
        assert!(told(machine, &text).contains("was purged"));
        expect_sound(machine);
    }
    let path = RelPath::parse("x.txt").expect("a path");
    let restored = a.node().restore(&path, &old, false).expect_err("is gone").message;
    assert!(restored.contains("was purged on 2027-") && restored.contains(" by a-"), "{restored}");
}

fn export_all() -> crate::node::ExportRequest {
    crate::node::ExportRequest { file: PathBuf::new(), private: false, replace: false, dry_run: false }
}

fn import_all() -> crate::node::ImportRequest {
    crate::node::ImportRequest { file: PathBuf::new(), join: false, dry_run: false }
}

#[test]
fn what_something_else_needs_stays_and_is_named_until_that_is_purged_too() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let text = secret(5, 3_000);
    a.write("one.txt", &text);
    a.write("two.txt", &text);
    converge(&mut [&mut a, &mut b]);

    let first = purge(&mut a, "one.txt", None);
    converge(&mut [&mut a, &mut b]);

    assert!(first.purged.is_empty() && first.artifacts.is_empty(), "{first:?}");
    assert_eq!(first.kept.len(), 1);
    assert_eq!(first.kept[0].by.iter().map(|by| by.path.as_str()).collect::<Vec<_>>(), ["two.txt"]);
    let mut c = machine("c", &clock, store.path());
    converge(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.read("one.txt").as_deref(), Some(&*text), "nothing was lost");

    for machine in [&mut a, &mut b, &mut c] {
        machine.write("one.txt", "clean\n");
        machine.write("two.txt", "clean\n");
    }
    a.run();
    converge(&mut [&mut a, &mut b, &mut c]);
    let second = purge(&mut a, "two.txt", None);
    converge(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(second.purged.len(), 1, "{second:?}");
    expect_nowhere(&mut [&mut a, &mut b, &mut c], store.path(), &text);
}

#[test]
fn a_displaced_copy_that_was_never_read_is_named_by_a_purge_and_goes_once_it_can_be_read() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let text = secret(31, 3_000);
    a.write("x.txt", &text);
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "clean\n");
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let [row] = &b.node().engine.state.displaced().expect("lists")[..] else { panic!("one is displaced") };
    let row = crate::state::Displaced { hash: None, ..row.clone() };
    b.node().engine.state.set_displaced(&row).expect("writes");
    let (place, away) = (b.path(".larder/displaced").join(&row.id), b.home.path().join("away"));
    std::fs::rename(&place, &away).expect("renames");
    // It stands there and cannot be read, whoever tries.
    std::fs::create_dir(&place).expect("creates");
    let old = versions(&mut a, "x.txt")[1];
    let told = |machine: &Machine| {
        let problems = machine.glance_status().problems.into_iter();
        problems.filter(|problem| problem.source == "purged displaced").map(|problem| problem.path).collect::<Vec<_>>()
    };

    purge(&mut a, "x.txt", Some(old));
    converge(&mut [&mut a, &mut b]);
    assert_eq!(told(&b), ["x.txt"]);
    std::fs::remove_dir(&place).expect("removes");
    std::fs::rename(&away, &place).expect("renames");
    converge(&mut [&mut a, &mut b]);

    assert_eq!(told(&b), [""; 0]);
    expect_nowhere(&mut [&mut a, &mut b], store.path(), &text);
}

#[test]
fn what_was_merged_of_something_purged_and_then_displaced_goes_too() {
    let (clock, store) = (clock(), folder());
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|host| machine(host, &clock, store.path()));
    a.write("log.jsonl", "{\"n\":0}\n");
    converge(&mut [&mut a, &mut b, &mut c]);
    let line = "{\"the\":\"line which is to go and is long enough to be found anywhere\"}\n";
    let text = format!("{{\"n\":0}}\n{line}");
    a.write("log.jsonl", &text);
    b.write("log.jsonl", "{\"n\":0}\n{\"b\":1}\n");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b, &mut c]);
    assert!(c.read("log.jsonl").is_some_and(|text| text.contains(line.trim_end()) && text.contains("\"b\"")));
    clock.advance(1000);
    a.write("log.jsonl", "{\"written\":\"anew\"}\n");
    converge(&mut [&mut a, &mut b, &mut c]);
    let hash = ContentHash::of(text.as_bytes());
    let with_line = a.node().engine.reader().expect("opens").versions_of_content(&hash).expect("reads")[0];

    purge(&mut a, "log.jsonl", Some(with_line));
    converge(&mut [&mut a, &mut b, &mut c]);

    for machine in [&mut a, &mut b, &mut c] {
        assert_eq!(holders(&machine.path(".larder"), line.trim_end()), [] as [String; 0], "{}", machine.host);
    }
}

#[test]
fn parts_that_other_versions_share_stay_and_those_versions_are_named() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let lines: String = secret(6, 200_000);
    let last = "{\"the\":\"last line, which is to go and is long enough to be found\"}\n";
    a.write("log.jsonl", &format!("{lines}\n{last}"));
    converge(&mut [&mut a, &mut b]);
    a.write("log.jsonl", &format!("{lines}\n{{\"another\":1}}\n"));
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let [now, old] = versions(&mut a, "log.jsonl")[..] else { panic!("two versions") };

    let done = purge(&mut a, "log.jsonl", Some(old));
    converge(&mut [&mut a, &mut b]);

    assert_eq!(done.purged.len(), 1, "{done:?}");
    assert_eq!(
        done.kept.iter().map(|kept| (kept.whole, kept.by[0].version.clone())).collect::<Vec<_>>(),
        [(false, now.to_string())]
    );
    for machine in [&mut a, &mut b] {
        assert_eq!(holders(&machine.path(".larder"), last.trim_end()), [] as [String; 0]);
        expect_sound(machine);
    }
    let mut c = machine("c", &clock, store.path());
    converge(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.read("log.jsonl"), a.read("log.jsonl"));
}

#[test]
fn a_strangers_purge_waits_for_the_owner_of_what_it_names_and_is_told() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let mut a2 = machine("a2", &clock, store.path());
    same_owner(&a, &mut a2);
    let text = secret(7, 3_000);
    a.write("x.txt", &text);
    converge(&mut [&mut a, &mut b, &mut a2]);
    a.write("x.txt", "clean\n");
    clock.advance(1000);
    converge(&mut [&mut a, &mut b, &mut a2]);
    let old = versions(&mut a, "x.txt")[1];

    let asked = purge(&mut b, "x.txt", Some(old));
    converge(&mut [&mut b, &mut a, &mut a2]);

    assert!(asked.purged.is_empty() && asked.waits.len() == 1, "{asked:?}");
    for machine in [&mut a, &mut b, &mut a2] {
        assert!(!holders(&machine.path(".larder"), &text[..48]).is_empty(), "{}", machine.host);
        let told = purge_problems(machine);
        let command = format!("`larder purge x.txt --version {}`", old.0.short(10));
        assert!(told.len() == 1 && told[0].contains(&command), "{told:?}");
    }
    // Another machine of the same owner says yes.
    let agreed = purge(&mut a2, "x.txt", Some(old));
    converge(&mut [&mut a2, &mut a, &mut b]);
    assert_eq!(agreed.purged.len(), 1);
    assert!(!agreed.elsewhere.is_empty(), "only a rewrites what a wrote: {agreed:?}");
    expect_nowhere(&mut [&mut a, &mut b, &mut a2], store.path(), &text);
    for machine in [&mut a, &mut b, &mut a2] {
        assert_eq!(purge_problems(machine), [] as [String; 0]);
    }
}

#[test]
fn a_purged_head_stays_known_and_no_working_file_is_touched_or_published_again() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let (text, lines) = (secret(8, 3_000), secret(9, 300_000));
    a.write("x.txt", &text);
    a.write("log.jsonl", &lines);
    converge(&mut [&mut a, &mut b]);

    let done = purge(&mut a, "x.txt", None);
    purge(&mut a, "log.jsonl", None);
    converge(&mut [&mut a, &mut b]);
    let mut c = machine("c", &clock, store.path());
    c.write("log.jsonl", &lines);
    converge(&mut [&mut a, &mut b, &mut c]);
    for machine in [&mut a, &mut b, &mut c] {
        // The index, and all bases, are found anew.
        machine.restart();
        crate::node::rebuild(&machine.env(), &machine.options(), false).expect("rebuilds");
        reopen(machine);
        machine.node().engine.state.set_meta("contact_rules", None).expect("forgets");
    }
    converge(&mut [&mut a, &mut b, &mut c]);

    assert_eq!(done.on_disk, ["x.txt"]);
    assert_eq!((a.read("x.txt"), b.read("x.txt")), (Some(text.clone()), Some(text.clone())), "working files stay");
    assert_eq!((c.read("x.txt"), c.read("log.jsonl")), (None, Some(lines.clone())));
    expect_nowhere(&mut [&mut a, &mut b, &mut c], store.path(), &text);
    expect_nowhere(&mut [&mut a, &mut b, &mut c], store.path(), &lines);
    for machine in [&mut a, &mut b, &mut c] {
        assert_eq!(versions(machine, "x.txt").len(), 1, "the head stays known");
        let status = machine.glance_status();
        let problems: Vec<_> = status.problems.iter().filter(|problem| problem.source != "patterns").collect();
        assert!(status.pending.is_empty() && problems.is_empty(), "{:?} {problems:?}", status.pending);
    }
    // What grows from it is published whole, and arrives.
    std::fs::write(b.path("log.jsonl"), format!("{lines}one more line\n")).expect("appends");
    b.write("x.txt", "edited by b\n");
    std::fs::rename(a.path("x.txt"), a.path("y.txt")).expect("renames");
    clock.advance(1000);
    b.run();
    converge(&mut [&mut a, &mut b, &mut c]);
    for machine in [&mut a, &mut b, &mut c] {
        assert_eq!(machine.read("log.jsonl").as_deref(), Some(&*format!("{lines}one more line\n")), "{}", machine.host);
        assert_eq!(
            machine.read("y.txt").as_deref(),
            Some(&*text),
            "{}: a person moved it, which is an edit",
            machine.host
        );
        expect_sound(machine);
    }
}

#[test]
fn a_machine_that_was_away_lets_go_what_it_holds_when_it_hears() {
    let (clock, store) = (clock(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let text = secret(10, 3_000);
    a.write("x.txt", &text);
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "clean\n");
    a.run();
    let old = versions(&mut a, "x.txt")[1];
    purge(&mut a, "x.txt", Some(old));
    clock.advance(400 * DAY_MS);

    // Its file still holds it: the edit takes that away and keeps it aside, and that goes as well.
    b.run();
    b.run();

    assert_eq!(b.read("x.txt").as_deref(), Some("clean\n"));
    expect_nowhere(&mut [&mut a, &mut b], store.path(), &text);
    assert!(
        names_there(store.path()).iter().all(|name| !name.contains("cp-0000000000000001-") || !name.contains("/a-"))
    );
    let own = origin(&mut a);
    assert!(ledger(&b).chains().expect("lists").iter().any(|chain| chain.origin == own));
}

#[test]
fn a_store_that_only_others_reach_is_told_of_until_it_is_empty() {
    let (clock, store, second) = (clock(), folder(), folder());
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    let config = b.path("sync-config.json");
    let text = std::fs::read_to_string(&config).expect("reads");
    let both = serde_json::json!({ "there": store.path(), "second": second.path() });
    let one = serde_json::json!({ "there": store.path() });
    std::fs::write(&config, text.replacen(&one.to_string(), &both.to_string(), 1)).expect("writes");
    reopen(&mut b);
    let text = secret(11, 3_000);
    a.write("x.txt", &text);
    converge(&mut [&mut a, &mut b]);
    a.write("x.txt", "clean\n");
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let old = versions(&mut a, "x.txt")[1];
    assert!(!holders_there(second.path(), &text[..48]).is_empty());

    purge(&mut a, "x.txt", Some(old));
    converge(&mut [&mut a, &mut b]);

    assert_eq!(holders_there(store.path(), &text[..48]), [] as [String; 0]);
    assert!(!holders_there(second.path(), &text[..48]).is_empty(), "it is a's to take away");
    let told = purge_problems(&mut b);
    assert!(told.len() == 1 && told[0].contains("may still stand there"), "{told:?}");
    // A person takes it away by hand.
    for name in names_there(second.path()).iter().filter(|name| name.contains("/a-")) {
        if !store.path().join(name).exists() {
            std::fs::remove_file(second.path().join(name)).expect("removes");
        }
    }
    b.run();
    b.run();
    assert_eq!(purge_problems(&mut b), [] as [String; 0]);
    assert_eq!(holders_there(second.path(), &text[..48]), [] as [String; 0]);
    expect_sound(&mut b);
}

#[test]
fn whatever_is_purged_in_whatever_order_nothing_else_is_lost_and_it_is_nowhere() {
    for seed in [1, 2] {
        play(seed);
    }
}

fn play(seed: u64) {
    println!("seed {seed}");
    let (clock, store, mut dice) = (clock(), folder(), Dice(seed));
    let mut machines = ["a", "b", "c"].map(|host| machine(host, &clock, store.path()));
    let mut purged = 0;
    for step in 0..60u64 {
        let (who, path) = (dice.below(3) as usize, format!("{}.txt", dice.below(4)));
        let path = if dice.below(6) == 0 { "log.jsonl".to_owned() } else { path };
        let machine = &mut machines[who];
        match dice.below(13) {
            0..4 => machine.write(&path, &format!("text {}\n", dice.below(9)).repeat(1 + dice.below(3) as usize)),
            4 => machine.write(&path, &secret(seed * 1000 + step, 100_000)),
            5 => {
                use std::io::Write;
                let mut log = std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(machine.path("log.jsonl"))
                    .expect("opens");
                log.write_all(secret(seed * 2000 + step, 70_000).as_bytes()).expect("appends");
                if dice.below(3) == 0 {
                    drop(std::fs::remove_file(machine.path(&path)));
                }
            }
            6..9 => drop(machine.run()),
            9 => drop(collect(machine)),
            10 | 11 => {
                machine.run();
                let known = Glance::open(&machine.env(), &machine.options()).expect("opens");
                if known.slots_of(&RelPath::parse(&path).expect("a path")).is_ok_and(|slots| !slots.is_empty()) {
                    let ids = versions(machine, &path);
                    let old = ids.get(1).copied().filter(|_| dice.below(2) == 0);
                    if !ids.is_empty() {
                        purged += purge_as_planned(machine, &path, old);
                    }
                }
            }
            _ => clock.advance((1 + dice.below(20)) * DAY_MS),
        }
        clock.advance(1000);
    }
    converge(&mut machines.each_mut());
    for path in 0..4 {
        machines[0].write(&format!("{path}.txt"), &format!("settled {path}\n"));
    }
    machines[0].run();
    converge(&mut machines.each_mut());
    assert!(purged > 0, "seed {seed}: nothing was purged");
    machines[1].write("log.jsonl", "{\"settled\":true}\n");
    machines[1].run();
    converge(&mut machines.each_mut());
    let mut d = machine("d", &clock, store.path());
    let [a, b, c] = &mut machines;
    converge(&mut [&mut *a, &mut *b, &mut *c, &mut d]);
    let gone = |machine: &mut Machine| machine.node().engine.index.purged_contents().expect("reads");
    let all = gone(a);
    for machine in [&mut *a, &mut *b, &mut *c, &mut d] {
        expect_sound(machine);
        assert_eq!(gone(machine), all, "seed {seed}: {}: a function of what was said", machine.host);
        assert_eq!(machine.node().engine.index.holding().expect("reads"), [], "seed {seed}: {}", machine.host);
        for path in 0..4 {
            let name = format!("{path}.txt");
            assert_eq!(
                machine.read(&name).as_deref(),
                Some(&*format!("settled {path}\n")),
                "seed {seed}: {}",
                machine.host
            );
        }
        assert_eq!(machine.read("log.jsonl").as_deref(), Some("{\"settled\":true}\n"), "seed {seed}: {}", machine.host);
        let segments = machine.node().engine.index.purged_segments().expect("reads");
        let ledger = ledger(machine);
        for chain in ledger.chains().expect("lists") {
            for name in ledger.artifact_names(&chain).expect("lists") {
                let places = ledger.places_in(&name).expect("reads");
                assert!(places.iter().all(|(segment, _)| !segments.contains(segment)), "seed {seed}: {name}");
            }
        }
        machine.restart();
        let rebuilt = crate::node::rebuild(&machine.env(), &machine.options(), false).expect("replays");
        assert!(rebuilt.replayed.problems.iter().all(|problem| !problem.stops_chain));
        reopen(machine);
        assert_eq!(gone(machine), all, "seed {seed}: {}: rebuilt", machine.host);
    }
}

/// How many contents went. The run of the purge itself may record edits of the disk; the plan is made after one run.
fn purge_as_planned(machine: &mut Machine, path: &str, version: Option<VersionId>) -> usize {
    purge(machine, path, version).purged.len()
}

/// Runs until nobody does anything; rows that are refused stay as they are.
fn converge_quietly(machines: &mut [&mut Machine]) {
    for _ in 0..4 {
        for machine in machines.iter_mut() {
            machine.run();
        }
    }
}

#[test]
fn what_was_set_aside_in_a_store_as_damaged_goes_with_a_purge() {
    let (clock, store) = (clock(), folder());
    let mut a = machine("a", &clock, store.path());
    let text = secret(22, 400_000);
    a.write("x.txt", &text);
    a.run();
    a.write("x.txt", "clean\n");
    a.run();
    let old = versions(&mut a, "x.txt")[1];
    let tmp = store.path().join(".larder-tmp");
    let (wrong, others) = (tmp.join("~syncthing~wrong-larder-1.tmp"), tmp.join("somebodys.txt"));
    std::fs::create_dir_all(&tmp).expect("creates");
    for path in [&wrong, &others] {
        std::fs::write(path, &text).expect("writes");
    }

    purge(&mut a, "x.txt", Some(old));

    assert!(!wrong.exists() && others.exists());
}

/// Of the file and its log, as they stand on the disk.
fn holds_raw(database: &Path, needle: &[u8]) -> bool {
    ["", "-wal"].iter().any(|suffix| {
        let mut path = database.to_owned().into_os_string();
        path.push(suffix);
        memmem::find(&std::fs::read(path).unwrap_or_default(), needle).is_some()
    })
}

#[test]
fn what_was_purged_is_in_no_byte_of_a_database_that_is_a_file_here() {
    let (clock, store, data) = (clock(), folder(), folder());
    let context = larder_adapters::OpenContext::new(data.path());
    let adapter = larder_adapters::open("sqlite:sync.db", &context).expect("opens");
    let (mut a, mut b) = (machine("a", &clock, store.path()), machine("b", &clock, store.path()));
    for machine in [&mut a, &mut b] {
        machine.adapter = adapter.clone();
        reopen(machine);
    }
    let database = data.path().join("sync.db");
    let (row, packed, late) = (secret(20, 3_000), secret(21, 600_000), secret(23, 3_000));
    for (name, text) in [("row.txt", &row), ("packed.txt", &packed), ("late.txt", &late)] {
        a.write(name, text);
    }
    converge(&mut [&mut a, &mut b]);
    let held = ledger(&a);
    let names = held.chains().expect("lists").into_iter().flat_map(|chain| held.artifact_names(&chain).expect("lists"));
    let pack = names.into_iter().find(|name| name.to_string().ends_with(".pack")).expect("a pack");
    let pack = held.read_whole(&pack).expect("reads");
    for name in ["row.txt", "packed.txt"] {
        a.write(name, "clean\n");
    }
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let artifact = &pack[pack.len() / 2..pack.len() / 2 + 40];
    let needles = [&row.as_bytes()[..40], &late.as_bytes()[..40], artifact];
    let held = |needles: &[&[u8]]| needles.iter().filter(|needle| holds_raw(&database, needle)).count();
    assert_eq!(held(&needles), 3, "it was there, and a row's old text still is");

    // Of one the edit that takes it out is found by the purge's own run.
    a.write("late.txt", "clean\n");
    for (name, at) in [("row.txt", 1), ("packed.txt", 1), ("late.txt", 0)] {
        let old = versions(&mut a, name)[at];
        purge(&mut a, name, Some(old));
    }

    assert_eq!(held(&needles), 0);
    converge(&mut [&mut a, &mut b]);
    assert_eq!(held(&needles), 0, "nor does it come back");

    // What a file still shows its row shows too, until somebody takes it out.
    let head = secret(24, 3_000);
    a.write("head.txt", &head);
    converge(&mut [&mut a, &mut b]);
    purge(&mut a, "head.txt", None);
    clock.advance(1000);
    converge(&mut [&mut a, &mut b]);
    let needles = [&head.as_bytes()[..40]];
    assert_eq!(held(&needles), 1);
    a.write("head.txt", "clean\n");
    converge(&mut [&mut a, &mut b]);
    assert_eq!(held(&needles), 0);
    assert_eq!(purge_problems(&mut a), [] as [String; 0]);
}
