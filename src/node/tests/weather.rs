//! A day on a bad line: machines that share nothing but a backend that goes away, throttles, delays, repeats and drops answers.
//!
//! Simulated: the clock moves only when told, and every fault comes from one seed. What must hold at the end of the day is what people would
//! ask for: everything written is there, once; all disks and all rows agree; nothing waits.

use std::collections::{BTreeMap, BTreeSet};

use larder_adapters::{Body, Expected, Fault, FaultRates, FaultyAdapter, Record, Row};

use super::*;
use crate::env::SeededRandom;
use crate::index::Slot;
use crate::model::{ContentHash, Space};
use crate::node::RunOptions;
use crate::scan::{Alone, Listing};
use crate::state::Problem;
use crate::sync::{Asked, Scope};

const HOURS: u64 = 24;
const ROUNDS_PER_HOUR: u64 = 3;
const ROUND_MS: u64 = 3_600_000 / ROUNDS_PER_HOUR;
const PATHS: u64 = 16;
const CONFIG: &str = r#"{ "appId": "demo", "syncFilePatterns": ["**/*.md", "**/*.jsonl"] }"#;
const LOG: &str = "log.jsonl";

/// What an hour is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Clear,
    /// Nothing arrives.
    Gone,
    /// It goes in the middle of what a run does.
    GoneMidway,
    /// Two calls of three are told to wait.
    Throttled,
    /// What was asked is done, and nobody hears so.
    AnswersLost,
    /// Much arrives twice.
    Repeated,
    /// Writes arrive after others that were sent later.
    Delayed,
    Rough,
}

const WEATHERS: [Weather; 8] = [
    Weather::Clear,
    Weather::Gone,
    Weather::GoneMidway,
    Weather::Throttled,
    Weather::AnswersLost,
    Weather::Repeated,
    Weather::Delayed,
    Weather::Rough,
];

impl Weather {
    fn rates(self) -> FaultRates {
        let fine = FaultRates::default();
        match self {
            Weather::Clear | Weather::Gone | Weather::GoneMidway => fine,
            Weather::Throttled => FaultRates { throttled: 650, retry_after_ms: 30_000, ..fine },
            Weather::AnswersLost => FaultRates { error_after: 300, ..fine },
            Weather::Repeated => FaultRates { repeated: 500, ..fine },
            Weather::Delayed => FaultRates { write_delayed: 400, ..fine },
            Weather::Rough => FaultRates::rough(),
        }
    }
}

/// A small generator of its own, so that a seed gives one history.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A machine and its own line to the backend.
struct Station {
    machine: Machine,
    line: Arc<FaultyAdapter>,
}

/// Who wrote a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hand {
    File,
    Row,
}

struct Day {
    dice: Dice,
    clock: Arc<ManualClock>,
    memory: MemoryAdapter,
    stations: Vec<Station>,
    /// Every text that was ever written, no two alike.
    texts: BTreeMap<(String, String), Hand>,
    lines: BTreeSet<String>,
    count: u64,
    met: BTreeMap<Weather, u64>,
}

impl Day {
    fn begin(seed: u64) -> Day {
        let clock = Arc::new(ManualClock::new(4_000_000_000_000));
        let memory = MemoryAdapter::new();
        let station = |(n, host): (u64, &'static str)| {
            let line = Arc::new(FaultyAdapter::new(Arc::new(memory.clone()), seed * 3 + n, FaultRates::default()));
            let adapter: Arc<dyn FileSyncAdapter> = line.clone();
            let random: Option<Arc<dyn Random>> = Some(Arc::new(SeededRandom::new(seed * 1_000 + n)));
            let machine = Machine { random, ..Machine::timed(host, &adapter, &clock) };
            machine.write("sync-config.json", CONFIG);
            Station { machine, line }
        };
        let stations = (0..).zip(["a", "b", "c"]).map(station).collect();
        let (texts, lines) = (BTreeMap::new(), BTreeSet::new());
        let mut day = Day { dice: Dice(seed), clock, memory, stations, texts, lines, count: 0, met: BTreeMap::new() };
        // A log that two machines begin by themselves has no common line to merge by: all begin with the same one.
        day.append(0);
        day.clear();
        day
    }

    fn append(&mut self, at: usize) {
        let machine = &self.stations[at].machine;
        let line = format!("{{\"by\":\"{}\",\"n\":{}}}\n", machine.host, self.count);
        machine.write(LOG, &(machine.read(LOG).unwrap_or_default() + &line));
        self.lines.insert(line);
    }

    fn next_text(&mut self, by: &str) -> String {
        self.count += 1;
        // No two of one length, however coarse the clock of the disk.
        format!("text {} by {by}\n{}\n", self.count, "-".repeat(self.count as usize))
    }

    fn row_id(path: &str) -> RecordId {
        RecordId::new("demo", "shared", path)
    }

    /// Somebody at a machine does something.
    fn act(&mut self, at: usize) {
        let path = format!("d{}/{}.md", self.dice.below(3), self.dice.below(PATHS));
        let host = self.stations[at].machine.host;
        let text = self.next_text(host);
        let machine = &self.stations[at].machine;
        match self.dice.below(8) {
            0..4 => {
                machine.write(&path, &text);
                self.texts.insert((path, text), Hand::File);
            }
            4 => drop(std::fs::remove_file(machine.path(&path))),
            5 => {
                let target = format!("d{}/{}.md", self.dice.below(3), self.dice.below(PATHS));
                if machine.read(&path).is_some() && machine.read(&target).is_none() {
                    std::fs::create_dir_all(machine.path(&target).parent().expect("a parent")).expect("creates");
                    std::fs::rename(machine.path(&path), machine.path(&target)).expect("renames");
                }
            }
            _ => self.append(at),
        }
    }

    /// Another program writes a row, unless what it wrote there last was not taken in yet: a row holds one text.
    fn act_on_rows(&mut self) {
        let path = format!("d{}/{}.md", self.dice.below(3), self.dice.below(PATHS));
        let id = Day::row_id(&path);
        let row = self.memory.get(&id).expect("memory does not fail");
        if row.as_ref().is_some_and(Row::is_foreign) {
            return;
        }
        match self.dice.below(4) {
            0 => self.memory.foreign_delete(&id),
            _ => {
                let text = self.next_text("a program");
                self.memory.foreign_set(&id, &text);
                self.texts.insert((path, text), Hand::Row);
            }
        }
    }

    /// Another hour begins.
    fn change_weather(&mut self) {
        // Mostly it is the service, sometimes one machine's own line.
        let common = self.dice.one(&WEATHERS);
        for at in 0..self.stations.len() {
            let weather = if self.dice.below(4) == 0 { self.dice.one(&WEATHERS) } else { common };
            *self.met.entry(weather).or_default() += 1;
            let line = &self.stations[at].line;
            line.come_back();
            line.set_rates(weather.rates());
            match weather {
                Weather::Gone => line.go_away_after(0),
                Weather::GoneMidway => line.go_away_after(self.dice.below(40)),
                _ => {}
            }
        }
    }

    fn hour(&mut self) {
        self.change_weather();
        for _ in 0..ROUNDS_PER_HOUR {
            self.clock.advance(ROUND_MS);
            if self.dice.below(3) == 0 {
                self.act_on_rows();
            }
            for at in 0..self.stations.len() {
                self.act(at);
                self.stations[at].machine.run();
                if self.dice.below(20) == 0 {
                    self.stations[at].machine.restart();
                }
            }
        }
    }

    /// The weather clears, everything on its way arrives, and all machines run until nobody has anything left to do.
    fn clear(&mut self) {
        for station in &self.stations {
            station.line.come_back();
            station.line.set_rates(FaultRates::default());
            station.line.release_writes();
        }
        self.clock.advance(3_600_000);
        converge(&mut self.stations.iter_mut().map(|station| &mut station.machine).collect::<Vec<_>>());
    }

    fn expect_agreement(&mut self) {
        let files = tree(self.stations[0].machine.dir.path());
        for station in &mut self.stations {
            let machine = &mut station.machine;
            assert_eq!(tree(machine.dir.path()), files, "{}", machine.host);
            let engine = &machine.node().engine;
            assert_eq!(engine.state.outbox().expect("lists"), [], "{}", machine.host);
            assert_eq!(engine.state.pending().expect("lists").len(), 0, "{}", machine.host);
            assert_eq!(engine.problems().expect("lists"), [], "{}", machine.host);
        }
        let all = Query { with_content: true, ..Query::paths("demo", "shared", "", None, 10_000) };
        let page = self.memory.query(&all).expect("lists");
        let text = |row: Row| match row.content {
            RowContent::Text(text) => text.into_bytes(),
            other => panic!("{}: {other:?}", row.path),
        };
        let rows: Vec<_> = page.rows.into_iter().map(|row| (row.path.clone(), text(row))).collect();
        let files: Vec<_> = files.into_iter().filter(|(name, _)| name != "sync-config.json").collect();
        assert_eq!(rows, files);
    }

    /// Every text is a version of its path on every machine: one if a person wrote the file, one an observer if a program wrote the row.
    fn expect_nothing_lost_or_doubled(&mut self) {
        let machines = self.stations.len();
        for station in &mut self.stations {
            let host = station.machine.host;
            let index = &station.machine.node().engine.index;
            for ((path, text), hand) in &self.texts {
                let path = RelPath::parse(path).expect("a path");
                let slot = Slot { space: Space::shared(), origin: None, path: path.clone() };
                let hash = ContentHash::of(text.as_bytes());
                let made = index.history(&slot, 10_000).expect("reads").into_iter().filter(|stored| {
                    let version = &stored.version;
                    version.content().is_some_and(|content| content.hash == hash) && version.moved_from.is_none()
                });
                let made = made.count();
                let most = if *hand == Hand::File { 1 } else { machines };
                assert!((1..=most).contains(&made), "{host}: {path} has {made} versions of {text:?}");
            }
        }
        let log = self.stations[0].machine.read(LOG).unwrap_or_default();
        let mut lines: Vec<&str> = log.split_inclusive('\n').collect();
        lines.sort_unstable();
        let mut expected: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }
}

#[test]
fn after_a_day_of_bad_weather_nothing_is_lost_nothing_doubled_and_nothing_waits() {
    let seed = 1;
    println!("seed {seed}");
    let mut day = Day::begin(seed);
    (0..HOURS).for_each(|_| day.hour());
    day.clear();

    assert_eq!(day.met.len(), WEATHERS.len(), "{:?}", day.met);
    day.expect_agreement();
    day.expect_nothing_lost_or_doubled();
    for station in &mut day.stations {
        let machine = &mut station.machine;
        assert!(station.line.injected_count() > 100, "{}", machine.host);
        machine.restart();
        assert_eq!(machine.verify(Depth::Bytes).findings, [], "{}", machine.host);
    }
}

#[test]
fn a_write_that_comes_after_its_row_was_deleted_does_not_bring_the_row_back() {
    let memory = MemoryAdapter::new();
    let backend: Arc<dyn FileSyncAdapter> = Arc::new(memory.clone());
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("x.md", "text");
    converge(&mut [&mut a, &mut b]);
    let row = memory.get(&Day::row_id("x.md")).expect("reads").expect("is there");
    std::fs::remove_file(a.path("x.md")).expect("removes");
    converge(&mut [&mut a, &mut b]);

    let late = Record {
        app: row.app,
        owner: row.owner,
        path: row.path,
        body: Body::Text("text".to_owned()),
        last_updated_ms: row.last_updated_ms,
        created_at_ms: row.created_at_ms,
        mirror: row.mirror,
    };
    memory.set(&late, &Expected::Absent).expect("nothing stands there");
    converge(&mut [&mut b, &mut a]);

    assert_eq!(super::row(&backend, "x.md"), None);
    assert_eq!((a.read("x.md"), b.read("x.md")), (None, None));
}

#[test]
fn a_throttled_row_is_not_written_before_its_time() {
    let clock = Arc::new(ManualClock::new(4_000_000_000_000));
    let line = Arc::new(FaultyAdapter::new(Arc::new(MemoryAdapter::new()), 1, FaultRates::default()));
    let adapter: Arc<dyn FileSyncAdapter> = line.clone();
    let mut a = Machine::timed("a", &adapter, &clock);
    a.write("x.md", "one");
    a.run();
    // Whichever call it is that writes the row.
    let meets = (1..60).find(|&call| {
        a.write("x.md", &"x".repeat(call as usize + 5));
        line.fail_nth(call, Fault::Throttled(60_000));
        a.node().run(&RunOptions { asked: Asked::Nobody, ..RunOptions::default() }).expect("runs");
        // It was left alone until then.
        let meets = !a.node().engine.state.outbox().expect("lists").is_empty();
        clock.advance(if meets { 0 } else { 60_000 });
        meets
    });

    let wait_ms = a.node().engine.next_retry_ms();
    assert!(meets.is_some() && wait_ms.is_some_and(|ms| ms >= 60_000), "{meets:?} {wait_ms:?}");
}

#[test]
fn whatever_call_is_throttled_no_row_is_tried_before_its_time() {
    let clock = Arc::new(ManualClock::new(4_000_000_000_000));
    let line = Arc::new(FaultyAdapter::new(Arc::new(MemoryAdapter::new()), 1, FaultRates::default()));
    let adapter: Arc<dyn FileSyncAdapter> = line.clone();
    let mut a = Machine::timed("a", &adapter, &clock);
    let names = ["x.md", "y.md", "z.md"];
    names.iter().for_each(|name| a.write(name, "one"));
    a.run();
    let quiet = || RunOptions { asked: Asked::Nobody, ..RunOptions::default() };

    let mut refused = BTreeSet::new();
    for call in 1..60 {
        names.iter().for_each(|name| a.write(name, &"x".repeat(call as usize + 5)));
        line.fail_nth(call, Fault::Throttled(60_000));
        let report = a.node().run(&quiet()).expect("runs");
        let Some(error) = report.backend_error else { break };
        // Artifacts are named by their place, and sent by the next exchange.
        let Some(what) = ["get", "set"].into_iter().find(|what| error.starts_with(what)) else {
            clock.advance(60_000);
            continue;
        };
        refused.insert(what);
        // What is due already is told to wait again: at its look, too.
        line.set_rates(FaultRates { throttled: 1_000, retry_after_ms: 60_000, ..FaultRates::default() });
        for _ in 0..2 {
            let wait_ms = a.node().engine.next_retry_ms();
            assert!(wait_ms.is_some_and(|ms| ms >= 60_000), "call {call}: {wait_ms:?} {error}");
            clock.advance(wait_ms.unwrap_or_default());
            a.node().run(&quiet()).expect("runs");
        }
        line.set_rates(FaultRates::default());
        let wait_ms = a.node().engine.next_retry_ms();
        clock.advance(wait_ms.expect("it waits"));
        assert_eq!(a.node().run(&quiet()).expect("runs").backend_error, None);
        assert_eq!(a.node().engine.next_retry_ms(), None, "call {call}");
    }

    assert_eq!(refused.len(), 2, "the look and the write: {refused:?}");
}

#[test]
fn what_the_disk_does_not_give_is_asked_for_again_by_the_next_run_whatever_that_looks_at() {
    let mut a = Machine::new("a", &backend());
    a.write("a.md", "one");
    a.run();
    a.write("a.md", "two");
    let file = std::fs::File::options().write(true).open(a.path("a.md")).expect("opens");
    let elsewhere = || Scope::Some { paths: vec![RelPath::parse("b.md").expect("a path")], trees: vec![] };
    let run =
        |a: &mut Machine| a.node().run(&RunOptions { scope: elsewhere(), ..RunOptions::default() }).expect("runs");

    // Whoever holds it alone has others told to try again.
    let alone = Alone::with(&file).expect("takes it");
    let whole = a.run();
    let refused = [whole, run(&mut a)].map(|report| report.problems);
    drop(alone);
    drop(file);
    let given = run(&mut a);
    let after = run(&mut a);

    assert!(
        refused.iter().all(|problems| problems.len() == 1 && problems[0].1.contains("cannot be read")),
        "{refused:?}"
    );
    assert_eq!(given.recorded, [("a.md".to_owned(), Change::Edited)]);
    assert_eq!((given.problems, after.problems, after.recorded), (vec![], vec![], vec![]));
}

#[test]
fn a_folder_that_could_not_be_listed_is_looked_at_by_the_next_run_and_told_of_no_longer() {
    let mut a = Machine::new("a", &backend());
    a.run();
    a.write("notes/a.md", "one");
    let problem = |path: &str| Problem { path: path.to_owned(), what: "cannot be listed".to_owned() };
    a.node().engine.state.set_problems("scan", &[problem("notes"), problem("other")], 0).expect("writes");
    let listing = Listing { unreadable_dirs: vec!["notes".to_owned()], ..Listing::default() };
    a.node().engine.again.unlisted(&listing);

    let scope = Scope::Some { paths: vec![], trees: vec![] };
    let report = a.node().run(&RunOptions { scope, ..RunOptions::default() }).expect("runs");

    assert_eq!(report.recorded, [("notes/a.md".to_owned(), Change::Created)]);
    let told = a.node().engine.state.problems().expect("lists").into_iter().filter(|(source, _)| source == "scan");
    assert_eq!(told.map(|(_, problem)| problem.path).collect::<Vec<_>>(), ["other"]);
}

fn told(a: &mut Machine) -> Vec<(String, String)> {
    let told = a.node().engine.state.problems().expect("lists").into_iter().filter(|(source, _)| source == "scan");
    told.map(|(_, problem)| (problem.path, problem.what)).collect()
}

/// Looks at one path, or, with a `/` behind it, at a folder.
fn look_at(a: &mut Machine, path: &str) {
    let (folder, path) = (path.ends_with('/'), RelPath::parse(path.trim_end_matches('/')).expect("a path"));
    let (paths, trees) = if folder { (vec![], vec![path]) } else { (vec![path], vec![]) };
    let scope = Scope::Some { paths, trees };
    a.node().run(&RunOptions { scope, ..RunOptions::default() }).expect("runs");
}

#[test]
fn what_is_wrong_with_a_path_is_told_by_whoever_looks_at_it_and_no_longer_once_it_is_over() {
    let mut a = Machine::new("a", &backend());
    a.run();
    for name in ["out.md", "docs/out.md"] {
        a.write(name, "");
        std::fs::remove_file(a.path(name)).expect("removes");
        std::os::unix::fs::symlink("../../elsewhere", a.path(name)).expect("links");
    }

    look_at(&mut a, "out.md");
    assert_eq!(told(&mut a).len(), 1, "what nobody looked at is not known");
    look_at(&mut a, "docs/");
    let both = told(&mut a);
    assert!(both.len() == 2 && both.iter().all(|(_, what)| what.contains("outside the project")), "{both:?}");

    look_at(&mut a, "elsewhere.md");
    assert_eq!(told(&mut a), both, "of other paths nothing is said");
    std::fs::remove_file(a.path("docs/out.md")).expect("removes");
    look_at(&mut a, "docs/out.md");
    assert_eq!(told(&mut a), both[1..]);
    a.run();
    assert_eq!(told(&mut a), both[1..], "a look at everything finds the same");
}

#[test]
fn files_behind_a_link_where_their_folder_stood_are_not_taken_as_deleted_and_it_is_told() {
    let mut a = Machine::new("a", &backend());
    for name in ["notes/a.md", "kept.md/a.md", "out.md/a.md", "stays/a.md"] {
        a.write(name, "one");
    }
    a.run();
    for (name, target) in [("notes", "stays"), ("kept.md", "stays"), ("out.md", "../elsewhere")] {
        std::fs::remove_dir_all(a.path(name)).expect("removes");
        std::os::unix::fs::symlink(target, a.path(name)).expect("links");
    }

    look_at(&mut a, "notes/");
    assert!(matches!(&told(&mut a)[..], [(path, what)] if path == "notes" && what.contains("not taken as deleted")));
    let report = a.run();

    assert!(report.recorded.iter().all(|(_, change)| *change != Change::Deleted), "{:?}", report.recorded);
    let told = told(&mut a);
    let [(kept, is_kept), (notes, _), (out, is_out)] = &told[..] else { panic!("{told:?}") };
    assert_eq!([kept, notes, out], ["kept.md", "notes", "out.md"]);
    assert!(told.iter().all(|(_, what)| what.contains("not taken as deleted")), "{told:?}");
    assert!(is_kept.starts_with("it is a link now") && is_out.starts_with("it points outside"), "{told:?}");
}
