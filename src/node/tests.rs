//! Laws of a whole node: machines in one process, each with its own folder, over one backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_adapters::{FileSyncAdapter, MemoryAdapter, Query, RecordId, RowContent};

use super::{Node, OpenOptions, RunOptions, Way};
use crate::env::{Env, ManualClock, Random};
use crate::ledger::Depth;
use crate::model::RelPath;
use crate::state::Intent;
use crate::sync::resolve::Outcome;
use crate::sync::{Change, NoProgress, Report};

mod ahead;
mod archive;
mod closed;
mod displaced;
mod durable;
mod garbage;
mod hostile;
mod idle;
mod in_place;
mod inbox;
mod lost;
mod members;
mod origins;
mod peers;
mod purge;
mod race;
mod rest;
mod search;
mod settle;
mod skew;
mod star;
mod stores;
mod turns;
mod weather;

const CONFIG: &str = r#"{ "appId": "demo", "syncFilePatterns": ["**/*.md", "**/*.json", "**/*.jsonl", "**/*.txt"], "archiveFilePatterns": ["runs/**"] }"#;

/// One machine: a project folder and the node that works in it.
struct Machine {
    dir: tempfile::TempDir,
    home: tempfile::TempDir,
    node: Option<Node>,
    host: &'static str,
    adapter: Arc<dyn FileSyncAdapter>,
    clock: Option<Arc<ManualClock>>,
    random: Option<Arc<dyn Random>>,
}

impl Machine {
    /// With a clock that moves only when told.
    fn timed(host: &'static str, adapter: &Arc<dyn FileSyncAdapter>, clock: &Arc<ManualClock>) -> Machine {
        Machine { clock: Some(clock.clone()), ..Machine::new(host, adapter) }
    }

    fn new(host: &'static str, adapter: &Arc<dyn FileSyncAdapter>) -> Machine {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("sync-config.json"), CONFIG).expect("writes");
        let home = tempfile::tempdir().expect("a folder");
        Machine { dir, home, node: None, host, adapter: adapter.clone(), clock: None, random: None }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions {
            start_dir: self.dir.path().to_owned(),
            adapter: Some(self.adapter.clone()),
            ..OpenOptions::default()
        }
    }

    fn env(&self) -> Env {
        let mut env = Env::system();
        env.host = self.host.to_owned();
        env.vars.clear();
        env.state_home = self.home.path().to_owned();
        env.pause = Arc::new(|_| {});
        if let Some(clock) = &self.clock {
            env.clock = clock.clone();
        }
        if let Some(random) = &self.random {
            env.random = random.clone();
        }
        env
    }

    fn node(&mut self) -> &mut Node {
        if self.node.is_none() {
            self.node = Some(Node::open(&self.env(), &self.options(), Arc::new(NoProgress)).expect("opens"));
        }
        self.node.as_mut().expect("was opened above")
    }

    fn restart(&mut self) {
        self.node = None;
    }

    fn run(&mut self) -> Report {
        self.node().run(&Default::default()).expect("runs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
        std::fs::write(path, text).expect("writes");
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    fn conflicts(&mut self) -> usize {
        self.node().engine.conflict_count().expect("counts")
    }
}

fn backend() -> Arc<dyn FileSyncAdapter> {
    Arc::new(MemoryAdapter::new())
}

/// Runs all machines until nobody does anything any more.
fn converge(machines: &mut [&mut Machine]) {
    for _ in 0..6 {
        let mut busy = false;
        for machine in machines.iter_mut() {
            busy |= !machine.run().is_empty();
        }
        if !busy {
            return;
        }
    }
    panic!("six rounds were not enough");
}

/// An intent of `b` to replace what it has at a path by what it was told, or to append the rest; left open, as by a stop.
fn open_intent(b: &mut Machine, path: &str, appends: bool) -> Intent {
    b.node().run(&RunOptions { way: Way::Push, ..RunOptions::default() }).expect("fetches");
    let intent = intent_to_write(b, path, appends);
    b.node().engine.state.add_intent(&intent).expect("opens the intent");
    intent
}

/// The same, of what was fetched before, and not yet open.
fn intent_to_write(b: &mut Machine, path: &str, appends: bool) -> Intent {
    let path = RelPath::parse(path).expect("a path");
    let engine = &b.node().engine;
    let base = engine.state.base(&path).expect("reads").expect("a base");
    let resolution = engine.resolution(&engine.slot_of(base.channel, &path)).expect("resolves");
    let Outcome::Content(content) = resolution.outcome else { panic!("{resolution:?}") };
    Intent {
        id: "stopped".to_owned(),
        path,
        channel: base.channel,
        old_versions: base.versions,
        old_hash: Some(base.hash),
        new_versions: resolution.versions,
        new_hash: Some(content.hash),
        new_size: content.size,
        new_kind: content.kind,
        beside: false,
        append_from: appends.then_some(base.stat.size),
    }
}

fn tree(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("lists").flatten() {
            let path = entry.path();
            if path.file_name().is_some_and(|name| name == ".larder") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
                files.push((name, std::fs::read(&path).expect("reads")));
            }
        }
    }
    files.sort();
    files
}

fn row(adapter: &Arc<dyn FileSyncAdapter>, path: &str) -> Option<String> {
    match adapter.get(&RecordId::new("demo", "shared", path)).expect("reads")?.content {
        RowContent::Text(text) => Some(text),
        _ => None,
    }
}

#[test]
fn files_of_one_machine_arrive_on_the_other() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("notes/one.md", "# one\n");
    a.write("data/x.json", "{}");
    a.write("empty.md", "");

    converge(&mut [&mut a, &mut b]);

    assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
    assert_eq!(b.read("notes/one.md").as_deref(), Some("# one\n"));
    assert_eq!(row(&backend, "data/x.json").as_deref(), Some("{}"));
}

#[test]
fn edits_deletes_and_renames_travel_and_nothing_happens_twice() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    for name in ["keep.md", "edit.md", "gone.md", "from.md"] {
        a.write(name, name);
    }
    converge(&mut [&mut a, &mut b]);

    b.write("edit.md", "edited on b");
    std::fs::remove_file(b.path("gone.md")).expect("removes");
    std::fs::rename(b.path("from.md"), b.path("to.md")).expect("renames");
    let report = b.run();
    converge(&mut [&mut a, &mut b]);

    assert!(
        report
            .recorded
            .iter()
            .any(|(path, change)| path == "to.md" && *change == Change::Renamed { from: "from.md".to_owned() }),
        "{report:?}"
    );
    assert_eq!(a.read("edit.md").as_deref(), Some("edited on b"));
    assert_eq!((a.read("gone.md"), a.read("from.md")), (None, None));
    assert_eq!(a.read("to.md").as_deref(), Some("from.md"));
    assert_eq!(row(&backend, "gone.md"), None);
    assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
    assert_eq!(a.conflicts(), 0);
}

#[test]
fn two_offline_edits_of_one_file_give_one_winner_and_a_listed_loser_on_both() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.txt", "base");
    converge(&mut [&mut a, &mut b]);

    a.write("x.txt", "from a");
    b.write("x.txt", "from b, which is longer");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);

    assert_eq!(a.read("x.txt"), b.read("x.txt"));
    assert_eq!((a.conflicts(), b.conflicts()), (1, 1));
    let path = RelPath::parse("x.txt").expect("a path");
    a.node().resolve_conflict(&path, None, false).expect("settles");
    converge(&mut [&mut a, &mut b]);
    assert_eq!((a.conflicts(), b.conflicts()), (0, 0));
}

#[test]
fn lines_appended_on_both_sides_are_all_there_once() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("log.jsonl", "{\"n\":0}\n");
    converge(&mut [&mut a, &mut b]);

    a.write("log.jsonl", "{\"n\":0}\n{\"a\":1}\n{\"same\":1}\n");
    b.write("log.jsonl", "{\"n\":0}\n{\"b\":1}\n");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);

    let text = a.read("log.jsonl").expect("is there");
    assert_eq!(Some(&text), b.read("log.jsonl").as_ref());
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["{\"a\":1}", "{\"b\":1}", "{\"n\":0}", "{\"same\":1}"]);
    assert_eq!(a.conflicts() + b.conflicts(), 0);

    b.write("log.jsonl", &format!("{text}{{\"after\":1}}\n"));
    converge(&mut [&mut a, &mut b]);
    assert_eq!(a.read("log.jsonl"), b.read("log.jsonl"));
    assert!(a.read("log.jsonl").expect("is there").ends_with("{\"after\":1}\n"));
}

#[test]
fn a_delete_that_meets_an_edit_leaves_the_edit() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.md", "base");
    converge(&mut [&mut a, &mut b]);

    std::fs::remove_file(a.path("x.md")).expect("removes");
    b.write("x.md", "edited");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);

    assert_eq!(a.read("x.md").as_deref(), Some("edited"));
    assert_eq!(b.read("x.md").as_deref(), Some("edited"));
}

#[test]
fn what_changed_while_the_daemon_was_down_is_noticed() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("edit.md", "1");
    a.write("gone.md", "1");
    converge(&mut [&mut a, &mut b]);

    a.restart();
    a.write("edit.md", "2");
    a.write("new.md", "2");
    std::fs::remove_file(a.path("gone.md")).expect("removes");
    converge(&mut [&mut a, &mut b]);

    assert_eq!(b.read("edit.md").as_deref(), Some("2"));
    assert_eq!(b.read("new.md").as_deref(), Some("2"));
    assert_eq!(b.read("gone.md"), None);
}

#[test]
fn a_folder_that_went_is_noticed_below_a_path_that_looked_like_a_file() {
    let backend = backend();
    let mut a = Machine::new("a", &backend);
    a.write("d/new.md/x.md", "x");
    a.write("d/new-x.md", "another");
    a.run();

    std::fs::rename(a.path("d/new.md"), a.home.path().join("away")).expect("moves");
    let path = RelPath::parse("d/new.md").expect("a path");
    let scope = crate::sync::Scope::Some { paths: vec![path], trees: vec![] };
    let report = a.node().run(&super::RunOptions { scope, ..Default::default() }).expect("runs");

    assert_eq!(report.recorded, [("d/new.md/x.md".to_owned(), Change::Deleted)]);
}

#[test]
fn a_stale_checkout_never_wins() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.md", "old");
    a.run();
    a.write("x.md", "new");
    converge(&mut [&mut a, &mut b]);

    let mut c = Machine::new("c", &backend);
    c.write("x.md", "old");
    c.write("other.md", "only on c");
    converge(&mut [&mut c, &mut a, &mut b]);
    converge(&mut [&mut c, &mut a, &mut b]);

    assert_eq!(c.read("x.md").as_deref(), Some("new"));
    assert_eq!(a.read("x.md").as_deref(), Some("new"));
    assert_eq!(a.read("other.md").as_deref(), Some("only on c"));
}

#[test]
fn a_vanished_tree_waits_for_a_person() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    for i in 0..60 {
        a.write(&format!("d/{i}.md"), &format!("file {i}"));
    }
    converge(&mut [&mut a, &mut b]);

    std::fs::remove_dir_all(a.path("d")).expect("removes");
    a.run();
    b.run();

    assert_eq!(b.node().engine.held_deletions().expect("lists").len(), 60);
    assert!(b.read("d/7.md").is_some());
    assert!(row(&backend, "d/7.md").is_some());

    a.node().restore_deletions().expect("restores");
    converge(&mut [&mut a, &mut b]);
    assert_eq!(a.read("d/7.md").as_deref(), Some("file 7"));
    assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
}

const MINUTE_MS: u64 = 60_000;

/// Two machines with one clock that both have `files` files in `d/`.
fn timed_pair(files: usize) -> (Machine, Machine, Arc<ManualClock>) {
    let backend = backend();
    // Later than any file is written: a file from the future would count as still being written.
    let clock = Arc::new(ManualClock::new(4_000_000_000_000));
    let (mut a, mut b) = (Machine::timed("a", &backend, &clock), Machine::timed("b", &backend, &clock));
    for i in 0..files {
        a.write(&format!("d/{i}.md"), &format!("file {i}"));
    }
    converge(&mut [&mut a, &mut b]);
    clock.advance(60 * MINUTE_MS);
    (a, b, clock)
}

impl Machine {
    fn delete(&self, files: std::ops::Range<usize>) {
        files.for_each(|i| std::fs::remove_file(self.path(&format!("d/{i}.md"))).expect("removes"));
    }

    fn held(&mut self) -> usize {
        self.node().engine.held_deletions().expect("lists").len()
    }
}

#[test]
fn what_was_made_anew_since_is_no_held_deletion_and_is_never_written_over() {
    let (mut a, mut b, _) = timed_pair(60);
    a.delete(0..60);
    converge(&mut [&mut a, &mut b]);
    assert_eq!((a.held(), b.held()), (60, 60));

    for i in 0..40 {
        a.write(&format!("d/{i}.md"), &format!("new {i}"));
    }
    a.run();
    b.run();
    assert_eq!((a.held(), b.held()), (20, 20), "the others still wait");
    a.write("d/0.md", "newer 0");
    a.node().restore_deletions().expect("restores");
    converge(&mut [&mut a, &mut b]);

    let read = |name: &str| (a.read(name), b.read(name));
    let both = |text: &str| (Some(text.to_owned()), Some(text.to_owned()));
    assert_eq!(read("d/0.md"), both("newer 0"));
    assert_eq!((read("d/7.md"), read("d/50.md")), (both("new 7"), both("file 50")));
    assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
    assert_eq!((a.held(), b.held()), (0, 0));
    assert_eq!(a.node().engine.conflict_count().expect("counts"), 0);
}

#[test]
fn deletions_are_counted_over_ten_minutes_across_runs_and_restarts() {
    let (mut a, mut b, clock) = timed_pair(60);

    a.delete(0..20);
    a.run();
    a.restart();
    b.run();
    assert_eq!((a.held(), b.held()), (0, 0));
    assert_eq!(b.read("d/3.md"), None);
    clock.advance(9 * MINUTE_MS);
    a.delete(20..30);
    a.run();
    b.restart();
    b.run();

    // What was done is done; what came after it waits, at the sender and at every receiver.
    assert_eq!((a.held(), b.held()), (10, 10));
    assert!(b.read("d/25.md").is_some());
}

#[test]
fn slow_deletions_never_wait_not_even_when_they_arrive_together() {
    let (mut a, mut b, clock) = timed_pair(60);

    for first in [0, 20] {
        a.delete(first..first + 20);
        a.run();
        clock.advance(11 * MINUTE_MS);
    }
    b.run();

    assert_eq!((a.held(), b.held()), (0, 0));
    assert_eq!((b.read("d/3.md"), b.read("d/33.md")), (None, None));
    assert!(b.read("d/45.md").is_some());
}

#[test]
fn the_share_is_of_what_was_live_when_the_window_began() {
    let (mut a, _, clock) = timed_pair(200);

    // A fifth of 200 in two steps; of the 170 that are left after the first it would be more.
    for range in [0..30, 30..40] {
        a.delete(range);
        a.run();
        clock.advance(MINUTE_MS);
    }
    assert_eq!(a.held(), 0);
    a.delete(40..41);
    a.run();

    assert_eq!(a.held(), 1);
}

#[test]
fn moves_and_files_that_came_back_and_approved_deletions_are_not_counted() {
    let (mut a, mut b, clock) = timed_pair(90);

    for i in 60..90 {
        std::fs::create_dir_all(a.path("moved")).expect("makes");
        std::fs::rename(a.path(&format!("d/{i}.md")), a.path(&format!("moved/{i}.md"))).expect("renames");
    }
    a.run();
    a.delete(0..20);
    a.run();
    clock.advance(MINUTE_MS);
    (0..20).for_each(|i| a.write(&format!("d/{i}.md"), "back again"));
    a.run();
    a.delete(20..40);
    a.run();
    assert_eq!(a.held(), 0);

    a.delete(0..20);
    a.run();
    assert_eq!(a.held(), 20);
    a.node().approve_deletions().expect("approves");
    a.delete(40..45);
    a.run();
    assert_eq!(a.held(), 0);
    converge(&mut [&mut b, &mut a]);
    assert_eq!((a.held(), b.held()), (0, 0));
    assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
}

#[test]
fn approved_deletions_happen_on_disk_and_in_rows() {
    let backend = backend();
    let mut a = Machine::new("a", &backend);
    for i in 0..60 {
        a.write(&format!("d/{i}.md"), &format!("file {i}"));
    }
    a.run();
    std::fs::remove_dir_all(a.path("d")).expect("removes");
    a.run();
    assert!(row(&backend, "d/7.md").is_some());

    a.node().approve_deletions().expect("approves");

    assert_eq!(row(&backend, "d/7.md"), None);
    assert!(a.node().engine.held_deletions().expect("lists").is_empty());
}

#[test]
fn one_approval_satisfies_every_receiver() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    for i in 0..60 {
        a.write(&format!("d/{i}.md"), &format!("file {i}"));
    }
    converge(&mut [&mut a, &mut b]);
    std::fs::remove_dir_all(a.path("d")).expect("removes");
    a.run();
    b.run();
    assert!(b.read("d/7.md").is_some());

    a.node().approve_deletions().expect("approves");
    converge(&mut [&mut b, &mut a]);

    assert_eq!(b.read("d/7.md"), None);
    assert!(b.node().engine.held_deletions().expect("lists").is_empty());
}

#[test]
fn archive_files_never_land_in_another_tree() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("runs/1.log", "from a\n");
    b.write("runs/1.log", "from b\n");

    converge(&mut [&mut a, &mut b]);

    assert_eq!(a.read("runs/1.log").as_deref(), Some("from a\n"));
    assert_eq!(b.read("runs/1.log").as_deref(), Some("from b\n"));
    assert_eq!(a.conflicts(), 0);
}

#[test]
fn the_dry_run_lists_what_the_real_run_does_and_does_nothing() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("one.md", "1");
    converge(&mut [&mut a, &mut b]);
    a.write("one.md", "2");
    a.write("two.md", "2");
    a.run();
    b.write("three.md", "3");

    let options = super::RunOptions { dry_run: true, ..Default::default() };
    let planned = b.node().run(&options).expect("plans");
    assert_eq!(b.read("one.md").as_deref(), Some("1"));
    let done = b.run();

    assert_eq!(planned.written, done.written);
    assert_eq!(planned.recorded, done.recorded);
    assert_eq!(planned.rows_written, done.rows_written, "{planned:?} {done:?}");
}

#[test]
fn undo_brings_back_what_the_last_run_replaced() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.md", "first");
    converge(&mut [&mut a, &mut b]);
    a.write("x.md", "second");
    a.run();
    b.run();
    assert_eq!(b.read("x.md").as_deref(), Some("second"));

    b.node().undo(false).expect("undoes");
    converge(&mut [&mut a, &mut b]);

    assert_eq!(b.read("x.md").as_deref(), Some("first"));
    assert_eq!(a.read("x.md").as_deref(), Some("first"));
}

#[test]
fn what_a_person_changed_and_nobody_recorded_yet_is_recorded_before_anything_is_put_on_top_of_it() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    let both = ["x.md", "y.md", "z.md"];
    both.iter().for_each(|name| a.write(name, "first"));
    converge(&mut [&mut a, &mut b]);
    both.iter().for_each(|name| a.write(name, "second"));
    a.run();
    b.run();

    b.write("x.md", "by hand");
    std::fs::remove_file(b.path("y.md")).expect("removes");
    let planned = b.node().undo(true).expect("plans");
    let report = b.node().undo(false).expect("undoes");
    assert_eq!(planned.recorded, report.recorded);
    let told: Vec<&str> = report.problems.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(told, ["x.md", "y.md"]);
    assert_eq!(
        (b.read("x.md").as_deref(), b.read("y.md"), b.read("z.md").as_deref()),
        (Some("by hand"), None, Some("first"))
    );

    b.write("z.md", "by hand");
    let z = RelPath::parse("z.md").expect("a path");
    let glance = super::Glance::open(&b.env(), &b.options()).expect("opens");
    let second = glance.version_before(&z, 1).expect("is known").id;
    b.node().restore(&z, &second, false).expect("restores");
    assert_eq!(b.read("z.md").as_deref(), Some("second"));
    let log = super::Glance::open(&b.env(), &b.options()).expect("opens").log(Some(&z), 10).expect("lists");
    let by_hand = crate::model::ContentHash::of(b"by hand");
    assert!(log.iter().any(|stored| stored.version.content().is_some_and(|content| content.hash == by_hand)));
    converge(&mut [&mut a, &mut b]);
    assert_eq!(b.node().engine.conflict_count().expect("counts"), 0);
    assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
}

#[test]
fn a_conflict_that_was_merged_by_hand_is_settled_by_what_stands_there() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.md", "first");
    converge(&mut [&mut a, &mut b]);
    a.write("x.md", "of a");
    b.write("x.md", "of b");
    a.run();
    b.run();
    assert_eq!(b.node().engine.conflict_count().expect("counts"), 1);

    b.write("x.md", "of both");
    b.node().resolve_conflict(&RelPath::parse("x.md").expect("a path"), None, false).expect("settles");
    converge(&mut [&mut a, &mut b]);

    assert_eq!((a.read("x.md").as_deref(), b.read("x.md").as_deref()), (Some("of both"), Some("of both")));
    assert_eq!(b.node().engine.conflict_count().expect("counts"), 0);
}

#[test]
fn undo_takes_back_one_run_also_when_each_run_is_a_process_of_its_own() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.md", "first");
    a.write("kept.md", "kept");
    converge(&mut [&mut a, &mut b]);
    for text in ["second", "third"] {
        a.write("x.md", text);
        a.run();
        b.restart();
        b.run();
    }

    b.restart();
    b.node().undo(false).expect("undoes");

    assert_eq!(b.read("x.md").as_deref(), Some("second"));
    assert_eq!(b.read("kept.md").as_deref(), Some("kept"));
}

#[test]
fn undo_of_a_file_that_was_merged_brings_bytes_that_everybody_can_read() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("log.jsonl", "{\"n\":0}\n");
    converge(&mut [&mut a, &mut b]);
    a.write("log.jsonl", "{\"n\":0}\n{\"a\":1}\n");
    b.write("log.jsonl", "{\"n\":0}\n{\"b\":1}\n");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);
    let merged = b.read("log.jsonl").expect("is there");
    assert!(merged.contains("\"a\"") && merged.contains("\"b\""), "{merged}");
    // Once by a rewrite, which takes the merged file away, once by an append to it.
    for next in ["rewritten\n".to_owned(), format!("{merged}{{\"a\":2}}\n")] {
        a.write("log.jsonl", &next);
        a.run();
        b.restart();
        b.run();
        assert_eq!(b.read("log.jsonl").as_ref(), Some(&next));

        let report = b.node().undo(false).expect("undoes");
        converge(&mut [&mut a, &mut b]);

        assert_eq!(report.problems, Vec::new());
        assert_eq!((a.read("log.jsonl").as_ref(), b.read("log.jsonl").as_ref()), (Some(&merged), Some(&merged)));
        for machine in [&mut a, &mut b] {
            machine.restart();
            assert_eq!(machine.verify(Depth::Bytes).findings, []);
        }
    }
}

#[test]
fn a_pattern_that_waited_for_files_of_another_machine_is_not_said_to_match_nothing() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    let idle = |machine: &Machine| {
        let problems = machine.glance_status().problems.into_iter();
        problems.filter(|problem| problem.source == "patterns").map(|problem| problem.path).collect::<Vec<_>>()
    };
    b.run();
    assert!(idle(&b).iter().any(|pattern| pattern == "**/*.md"), "{:?}", idle(&b));
    a.write("x.md", "first");
    // Not until nothing happens: B must not look at the whole tree after the file came.
    a.run();
    b.run();
    a.run();
    b.run();

    assert_eq!(b.read("x.md").as_deref(), Some("first"));
    assert!(idle(&b).iter().all(|pattern| pattern != "**/*.md"), "{:?}", idle(&b));
    assert!(idle(&b).iter().any(|pattern| pattern == "runs/**"), "{:?}", idle(&b));
}

#[test]
fn a_run_with_nothing_to_do_does_nothing() {
    let backend = backend();
    let mut a = Machine::new("a", &backend);
    a.write("x.md", "1");
    a.run();

    assert!(a.run().is_empty());
    a.restart();
    assert!(a.run().is_empty());
}

#[test]
fn rows_hold_exactly_what_the_files_hold() {
    let backend = backend();
    let mut a = Machine::new("a", &backend);
    for i in 0..40 {
        a.write(&format!("d/{i}.md"), &format!("file {i}\n"));
    }
    a.run();

    let page = backend.query(&Query::paths("demo", "shared", "", None, 1000)).expect("lists");
    assert_eq!(page.rows.len(), 40);
    for i in 0..40 {
        assert_eq!(row(&backend, &format!("d/{i}.md")), Some(format!("file {i}\n")));
    }
}

#[test]
fn rows_edited_by_another_program_reach_the_disk() {
    let memory = MemoryAdapter::new();
    let backend: Arc<dyn FileSyncAdapter> = Arc::new(memory.clone());
    let mut a = Machine::new("a", &backend);
    a.write("x.md", "mine");
    a.write("gone.md", "mine");
    a.run();

    memory.foreign_set(&RecordId::new("demo", "shared", "x.md"), "theirs");
    memory.foreign_set(&RecordId::new("demo", "shared", "new.md"), "inserted");
    memory.foreign_delete(&RecordId::new("demo", "shared", "gone.md"));
    a.run();

    assert_eq!(a.read("gone.md"), None);

    assert_eq!(a.read("x.md").as_deref(), Some("theirs"));
    assert_eq!(a.read("new.md").as_deref(), Some("inserted"));
    assert!(a.run().is_empty());
}

#[test]
fn a_row_edited_while_the_file_has_an_unsent_edit_becomes_a_conflict_and_loses_nothing() {
    let memory = MemoryAdapter::new();
    let backend: Arc<dyn FileSyncAdapter> = Arc::new(memory.clone());
    let mut a = Machine::new("a", &backend);
    a.write("x.txt", "base");
    a.run();

    a.write("x.txt", "edited here");
    memory.foreign_set(&RecordId::new("demo", "shared", "x.txt"), "edited there");
    a.run();
    a.run();

    assert_eq!(a.conflicts(), 1);
    assert_eq!(a.read("x.txt"), row(&backend, "x.txt"));
    let slot = a.node().engine.slot_by_rules(&RelPath::parse("x.txt").expect("a path")).expect("a slot");
    assert_eq!(a.node().engine.reader().expect("opens").heads(&slot).expect("reads").len(), 2);
}

#[test]
fn a_folder_that_is_renamed_and_renamed_back_is_moved_both_times() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    for i in 0..40 {
        a.write(&format!("d/{i}.md"), &format!("text {i}"));
    }
    a.write("d/long.jsonl", &"{\"line\": 1}\n".repeat(20_000));
    converge(&mut [&mut a, &mut b]);

    for (from, to) in [("d", "e"), ("e", "d"), ("d", "e")] {
        std::fs::rename(a.path(from), a.path(to)).expect("renames");
        let report = a.run();

        let moved = |(path, change): &(String, Change)| {
            let old = path.replacen(to, from, 1);
            *change == Change::Renamed { from: old }
        };
        assert_eq!(report.recorded.len(), 41, "{:?}", report.recorded);
        assert!(report.recorded.iter().all(moved), "{:?}", report.recorded);
        assert!(a.node().engine.held_deletions().expect("lists").is_empty(), "a move is no deletion");
        b.run();
        assert!(!b.path(from).exists() && b.read(&format!("{to}/7.md")).as_deref() == Some("text 7"));
    }
    assert_eq!((a.conflicts(), b.conflicts()), (0, 0));
    assert_eq!(b.read("e/long.jsonl"), a.read("e/long.jsonl"));
}

#[test]
fn a_merged_log_that_moves_with_its_folder_keeps_every_line() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("d/log.jsonl", "{\"n\":0}\n");
    converge(&mut [&mut a, &mut b]);
    a.write("d/log.jsonl", "{\"n\":0}\n{\"a\":1}\n");
    b.write("d/log.jsonl", "{\"n\":0}\n{\"b\":1}\n");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);
    let merged = a.read("d/log.jsonl").expect("is there");
    assert!(merged.contains("\"a\"") && merged.contains("\"b\""), "{merged}");

    // What stands there was computed, never published: no version has these bytes.
    std::fs::rename(a.path("d"), a.path("e")).expect("renames");
    a.run();
    b.run();

    assert_eq!(b.read("e/log.jsonl"), Some(merged));
}

/// Flips a byte in the middle of every artifact of one kind in a machine's ledger; how many there were.
fn rot(machine: &Machine, kind: &str) -> usize {
    let ledger = machine.path(".larder/ledger");
    let hit: Vec<PathBuf> = tree(&ledger)
        .into_iter()
        .map(|(name, _)| ledger.join(name))
        .filter(|p| p.to_string_lossy().contains(kind))
        .collect();
    for path in &hit {
        let mut bytes = std::fs::read(path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("writes");
    }
    hit.len()
}

impl Machine {
    fn verify(&self, depth: Depth) -> super::Verified {
        super::verify(&self.env(), &self.options(), depth).expect("looks")
    }

    fn glance_status(&self) -> super::Status {
        super::Glance::open(&self.env(), &self.options()).expect("opens").status().expect("tells")
    }
}

#[test]
fn damage_is_found_said_and_healed_by_the_next_exchange() {
    for kind in ["/checkpoints/", "/packs/"] {
        let backend = backend();
        let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
        for i in 0..40 {
            a.write(&format!("d/{i}.md"), &noise(i));
        }
        converge(&mut [&mut a, &mut b]);
        a.restart();
        let hit = rot(&a, kind);
        assert!(hit > 0, "{kind}");

        let found = a.verify(Depth::Bytes);
        assert_eq!(found.remains().map(|error| error.kind), Some(super::Kind::Damage), "{found:?}");
        let status = a.glance_status();
        assert_eq!(damage_said(&a), hit);
        assert_eq!(status.remains().map(|error| error.kind), Some(super::Kind::Damage));

        let report = a.run();
        assert_eq!(report.healed.len(), hit, "{report:?}");
        assert!(a.node().remains(&report).expect("looks").is_none());
        a.restart();
        assert_eq!(a.verify(Depth::Bytes).findings, []);
        assert_eq!(damage_said(&a), 0);
        let kept = std::fs::read_dir(a.path(".larder/quarantine")).expect("lists").count();
        assert_eq!(kept, hit);
        converge(&mut [&mut a, &mut b]);
        assert_eq!(tree(a.dir.path()), tree(b.dir.path()));
    }
}

#[test]
fn damage_of_an_earlier_checkpoint_stops_no_edit() {
    let backend = backend();
    let mut a = Machine::new("a", &backend);
    a.write("x.md", "first");
    a.run();
    assert_eq!(rot(&a, "/checkpoints/"), 1);

    // So many that it is asked whether a snapshot is due, which reads what came before; half of them by a new process each.
    for i in 0..140 {
        if i % 2 == 0 {
            a.restart();
        }
        a.write("y.md", &format!("edit {i}"));
        let report = a.run();
        assert_eq!((report.recorded.len(), report.rows_written), (1, 1), "edit {i}: {report:?}");
    }

    assert_eq!(row(&backend, "y.md").as_deref(), Some("edit 139"));
    assert_eq!(damage_said(&a), 1);
    let remains = a.node().remains(&Report::default()).expect("looks");
    assert_eq!(remains.map(|error| error.kind), Some(super::Kind::Damage));
}

#[test]
fn a_link_that_is_kept_is_no_problem_and_one_that_is_not_is_told_once() {
    use std::os::unix::fs::symlink;
    let backend = backend();
    let mut a = Machine::new("a", &backend);
    a.write("real/x.md", "kept");
    for (target, link) in [("real/x.md", "kept.md"), ("/etc/passwd", "outside.md"), ("real", "folder")] {
        symlink(target, a.path(link)).expect("links");
    }

    let report = a.run();

    let mut recorded: Vec<&str> = report.recorded.iter().map(|(path, _)| path.as_str()).collect();
    recorded.sort_unstable();
    assert_eq!(recorded, ["kept.md", "real/x.md"]);
    let mut problems: Vec<&str> = report.problems.iter().map(|(path, _)| path.as_str()).collect();
    problems.sort_unstable();
    assert_eq!(problems, ["folder", "outside.md"], "{:?}", report.problems);
}

#[test]
fn damage_met_while_reading_is_noted_and_healed_without_a_restart() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    for i in 0..40 {
        a.write(&format!("d/{i}.md"), &noise(i));
    }
    converge(&mut [&mut a, &mut b]);
    a.restart();
    let hit = rot(&a, "/packs/");
    let contents = a.node().engine.contents();

    // Whichever block was hit, one of the files is in it.
    let all: Vec<_> = (0..40).map(|i| slot_content(&mut a, &format!("d/{i}.md"))).collect();
    assert!(all.iter().any(|content| contents.read_all(content).is_err()));
    assert_eq!(damage_said(&a), hit);
    a.run();

    assert!(all.iter().all(|content| contents.read_all(content).is_ok()));
    assert_eq!(contents.read_all(&all[7]).expect("reads"), noise(7).as_bytes());
    assert_eq!(damage_said(&a), 0);
}

#[test]
fn what_a_person_put_right_by_hand_is_damage_no_more_even_without_a_backend() {
    let mut a = Machine::new("a", &backend());
    a.write("x.md", "text");
    a.run();
    let ledger = a.path(".larder/ledger");
    let good = tree(&ledger);
    rot(&a, "/checkpoints/");
    assert!(a.verify(Depth::Names).remains().is_some());
    let alone = super::RunOptions { asked: crate::sync::Asked::Nobody, ..Default::default() };

    let report = a.node().run(&alone).expect("runs");
    assert_eq!(a.node().remains(&report).expect("looks").map(|error| error.kind), Some(super::Kind::Damage));
    good.iter().for_each(|(name, bytes)| std::fs::write(ledger.join(name), bytes).expect("writes"));
    let report = a.node().run(&alone).expect("runs");

    assert!(a.node().remains(&report).expect("looks").is_none());
    assert_eq!(damage_said(&a), 0);
}

fn damage_said(machine: &Machine) -> usize {
    machine.glance_status().problems.iter().filter(|problem| problem.source == "damage").count()
}

fn slot_content(machine: &mut Machine, path: &str) -> crate::model::Content {
    let engine = &machine.node().engine;
    let slot = engine.slot_by_rules(&RelPath::parse(path).expect("a path")).expect("a slot");
    engine.reader().expect("opens").heads(&slot).expect("reads")[0].version.content().expect("a content")
}

/// Text that does not compress, so that it goes into packs.
fn noise(seed: i32) -> String {
    let mut bytes = vec![0; 20_000];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_lost_pack_is_damage_to_its_writer_and_awaited_by_who_never_had_it() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    for i in 0..40 {
        a.write(&format!("d/{i}.md"), &noise(i));
    }
    converge(&mut [&mut a, &mut b]);
    for machine in [&mut a, &mut b] {
        machine.restart();
        std::fs::remove_dir_all(packs_of(machine)).expect("removes");
    }
    // B is told anew what it has, as if the pack had never come.
    super::rebuild(&b.env(), &b.options(), false).expect("rebuilds");

    let (of_a, of_b) = (a.verify(Depth::Names), b.verify(Depth::Names));

    let heads = |verified: &super::Verified, damage| {
        verified.findings.iter().filter(|found| found.part == "content" && found.damage == damage).count()
    };
    assert_eq!((heads(&of_a, true), heads(&of_a, false)), (40, 0), "{of_a:?}");
    assert_eq!((heads(&of_b, true), heads(&of_b, false)), (0, 40), "{of_b:?}");
    assert!(of_b.remains().is_none(), "{of_b:?}");
    assert!(b.glance_status().remains().is_none());

    converge(&mut [&mut a, &mut b]);
    for machine in [&mut a, &mut b] {
        machine.restart();
        assert_eq!(machine.verify(Depth::Bytes).findings, []);
    }
}

/// The folder of packs of the only chain of a machine.
fn packs_of(machine: &Machine) -> PathBuf {
    let chains = std::fs::read_dir(machine.path(".larder/ledger/shared")).expect("lists");
    let packs = chains.map(|chain| chain.expect("lists").path().join("packs")).find(|packs| packs.exists());
    packs.expect("a pack")
}

#[test]
fn an_edit_of_a_path_that_was_moved_away_revives_it_and_status_says_so() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("old.md", "what was there");
    converge(&mut [&mut a, &mut b]);

    std::fs::rename(a.path("old.md"), a.path("new.md")).expect("renames");
    b.write("old.md", "edited where it was");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);

    for machine in [&a, &b] {
        assert_eq!(machine.read("old.md").as_deref(), Some("edited where it was"));
        assert_eq!(machine.read("new.md").as_deref(), Some("what was there"));
        let revived = machine.glance_status().revived;
        assert_eq!(
            revived.iter().map(|r| (r.path.as_str(), r.moved_to.as_str())).collect::<Vec<_>>(),
            [("old.md", "new.md")]
        );
    }
    std::fs::remove_file(a.path("old.md")).expect("removes");
    converge(&mut [&mut a, &mut b]);
    assert_eq!((a.glance_status().revived, b.glance_status().revived), (Vec::new(), Vec::new()));
    assert_eq!((b.read("old.md"), b.read("new.md").as_deref()), (None, Some("what was there")));
}

#[test]
fn a_bit_set_here_and_an_edit_made_there_are_one_file_everywhere() {
    use std::os::unix::fs::PermissionsExt;
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("tool.txt", "one");
    converge(&mut [&mut a, &mut b]);

    std::fs::set_permissions(a.path("tool.txt"), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    b.write("tool.txt", "two");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);

    for machine in [&mut a, &mut b] {
        assert_eq!(machine.read("tool.txt").as_deref(), Some("two"));
        let mode = std::fs::metadata(machine.path("tool.txt")).expect("is there").permissions().mode();
        assert_eq!((mode & 0o100, machine.conflicts()), (0o100, 0));
    }
    assert_eq!(row(&backend, "tool.txt").as_deref(), Some("two"));
    b.write("tool.txt", "three");
    converge(&mut [&mut a, &mut b]);
    let mode = std::fs::metadata(a.path("tool.txt")).expect("is there").permissions().mode();
    assert_eq!((a.read("tool.txt").as_deref(), mode & 0o100), (Some("three"), 0o100));
}
