//! The parts of the comparison that exchange between machines, over a folder store and beside Syncthing.
//!
//! A machine is a project with a state of its own. Every goal stands beside its figure.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::measure::{Cost, MemoryWatch, Usage, median, percentile, proportional_kib, run, usage};
use crate::place::{Place, Running, size_bytes, until, until_at_last};
use crate::table::{Goal, Table};

const SMALL_COUNT: usize = 10_000;
const LARGE_COUNT: usize = 100_000;
/// Each file, in bytes.
const FILE_BYTES: usize = 11_000;
const QUIET_MS: f64 = larder::sync::QUIET_MS as f64;
const EDITS: usize = 100;
/// One-shot runs of the writer, and of the reader, with one line more.
const APPENDS: usize = 11;

/// What crosses between machines over a folder.
pub fn folder_store(options: &Options) {
    let mut appended = Vec::new();
    for count in [SMALL_COUNT, LARGE_COUNT] {
        if count == SMALL_COUNT || options.large {
            appended.push(one_store(options, count));
        }
    }
    if let [small, large] = appended.as_slice() {
        let table = Table::begin("The same append at ten times the files");
        for (what, at) in [("writer", 0), ("reader", 1)] {
            table.ratio(
                &format!("{what}, 100,000 / 10,000 files, above nothing to do"),
                large[at],
                small[at],
                "ms",
                Goal::AtMost(1.2),
            );
        }
    }
}

/// A project whose config names a store, and nothing else beyond its folder.
fn machine(place: &Place, name: &str, patterns: &str, store: Option<&Path>) -> PathBuf {
    let project = place.path(name);
    fs::create_dir_all(project.join("files")).expect("make the project");
    let peers = store.map_or(String::new(), |store| format!(r#""peers": {{ "store": "{}" }}, "#, store.display()));
    let config = format!(r#"{{ "appId": "bench", "syncFilePatterns": ["{patterns}"], {peers}"intervalSecs": 3600 }}"#);
    fs::write(project.join("sync-config.json"), config).expect("write the config");
    project
}

/// `count` logs of lines, 20 a folder.
fn fill_logs(folder: &Path, count: usize) {
    for n in 0..count {
        let parent = folder.join(format!("{:03}/{:03}", n / 2000, n / 20 % 100));
        if n.is_multiple_of(20) {
            fs::create_dir_all(&parent).expect("make a folder");
        }
        let mut text = String::with_capacity(FILE_BYTES + 200);
        let mut state = n as u64 + 1;
        while text.len() < FILE_BYTES {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            text.push_str(&format!(
                "{{\"at\":{},\"agent\":\"planner\",\"said\":\"{:x} of {n}\"}}\n",
                state >> 20,
                state
            ));
        }
        fs::write(parent.join(format!("log-{n:06}.jsonl")), text).expect("write a file");
    }
}

fn sync(place: &Place, project: &Path, args: &[&str]) -> Cost {
    // Whoever names a store in a config agrees to it.
    let mut all = vec!["sync", "--trust"];
    all.extend(args);
    run(place.larder(project, None, &all))
}

fn files_below(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files_below(&entry.path())),
            Ok(metadata) => found.push((entry.path(), metadata.len())),
            Err(_) => {}
        }
    }
    found
}

/// What an append costs writer and reader above doing nothing, in milliseconds.
fn one_store(options: &Options, count: usize) -> [f64; 2] {
    let place = Place::new(&options.larder);
    let writer = machine(&place, "writer", "files/**", None);
    fill_logs(&writer.join("files"), count);
    sync(&place, &writer, &[]);
    let rounds = if count > SMALL_COUNT { 1 } else { 3 };
    let (mut exports, mut copies, mut imports, mut landings) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut store = PathBuf::new();
    let mut reader = PathBuf::new();
    for round in 0..rounds {
        let copy = place.path("copy");
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(writer.join("files")).arg(&copy);
        copies.push(run(cp));
        fs::remove_dir_all(&copy).expect("remove");

        store = place.path(format!("store-{round}"));
        fs::create_dir(&store).expect("make the store");
        machine(&place, "writer", "files/**", Some(&store));
        exports.push(sync(&place, &writer, &[]));

        let viewer = machine(&place, &format!("viewer-{round}"), "none/**", Some(&store));
        // Only to have it in the index: `sync` would make rows of it as well.
        imports.push(run(place.larder(&viewer, None, &["pull", "--trust"])));
        reader = machine(&place, &format!("reader-{round}"), "files/**", Some(&store));
        landings.push(sync(&place, &reader, &[]));
        assert_eq!(size_bytes(&reader.join("files")), size_bytes(&writer.join("files")), "all of it arrived");
        sync(&place, &writer, &[]);
    }
    let table = Table::begin(&format!("{count} logs of 11 KB over a folder store"));
    let wall = |costs: &[Cost]| median(costs, |cost| cost.wall_ms);
    let held = files_below(&store);
    table.ratio("first export / cp -a", wall(&exports), wall(&copies), "ms", Goal::AtMost(1.5));
    table.figure(
        "files in the store after it",
        held.len() as f64,
        "files",
        Goal::AtMost(40.0 * count as f64 / 10_000.0),
    );
    table.ratio("import, the index complete / cp -a", wall(&imports), wall(&copies), "ms", Goal::AtMost(2.0));
    table.ratio("import, and every file and row written / cp -a", wall(&landings), wall(&copies), "ms", Goal::None);
    table.figure("peak memory of the import", median(&imports, |cost| cost.peak_kib) / 1024.0, "MiB", Goal::None);

    let (with, without): (Vec<Cost>, Vec<Cost>) = (0..7)
        .map(|_| {
            machine(&place, "writer", "files/**", Some(&store));
            let with = sync(&place, &writer, &[]);
            machine(&place, "writer", "files/**", None);
            (with, sync(&place, &writer, &[]))
        })
        .unzip();
    machine(&place, "writer", "files/**", Some(&store));
    sync(&place, &writer, &[]);
    let noop = wall(&with);
    table.figure("nothing new: what the store adds to a run", noop - wall(&without), "ms", Goal::AtMost(50.0));
    appends(&table, &place, [&writer, &reader], &store)
}

/// Each run that has something to do stands beside one that has not, right before it: the difference of two such is less than what
/// either varies by from one minute to the next.
fn appends(table: &Table, place: &Place, [writer, reader]: [&Path; 2], store: &Path) -> [f64; 2] {
    let log = Path::new("files/000/000/log-000003.jsonl");
    let (mut wrote, mut read) = (Vec::<Cost>::new(), Vec::<Cost>::new());
    let (mut files, mut bytes) = (Vec::new(), Vec::new());
    let (mut above_writer, mut above_reader) = (Vec::new(), Vec::new());
    for n in 0..APPENDS {
        let idle = [sync(place, writer, &[]), sync(place, reader, &[])].map(|cost| cost.wall_ms);
        let before = files_below(store);
        let mut file = fs::File::options().append(true).open(writer.join(log)).expect("open the log");
        writeln!(file, "{{\"appended\":{n}}}").expect("append");
        drop(file);
        std::thread::park_timeout(Duration::from_millis(larder::sync::QUIET_MS));
        wrote.push(sync(place, writer, &[]));
        let after = files_below(store);
        files.push((after.len() - before.len()) as f64);
        let sum = |files: &[(PathBuf, u64)]| files.iter().map(|(_, size)| *size).sum::<u64>();
        bytes.push((sum(&after) - sum(&before)) as f64 / 1024.0);
        read.push(sync(place, reader, &[]));
        assert_eq!(fs::read(reader.join(log)).ok(), fs::read(writer.join(log)).ok(), "the line arrived");
        above_writer.push(wrote[n].wall_ms - idle[0]);
        above_reader.push(read[n].wall_ms - idle[1]);
    }
    let wall = |costs: &[Cost]| median(costs, |cost| cost.wall_ms);
    table.figure("one line more: new files in the store", percentile(files, 1.0), "files", Goal::AtMost(3.0));
    table.figure("one line more: bytes in the store", percentile(bytes, 1.0), "KiB", Goal::AtMost(8.0));
    table.figure("one line more: one-shot run of the writer", wall(&wrote), "ms", Goal::AtMost(150.0));
    table.figure("one line more: one-shot run of the reader", wall(&read), "ms", Goal::AtMost(150.0));
    [percentile(above_writer, 0.5), percentile(above_reader, 0.5)]
}

/// Appends that each size sees with running daemons.
const LIVE_APPENDS: usize = 41;

/// One line more with a running daemon on either side, at both sizes in turn.
pub fn live_appends(options: &Options) {
    let mut pairs: Vec<LivePair> = Vec::new();
    for count in [SMALL_COUNT, LARGE_COUNT] {
        if count == SMALL_COUNT || options.large {
            pairs.push(LivePair::start(options, count));
        }
    }
    let mut took: Vec<[Vec<f64>; 2]> = pairs.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for n in 0..LIVE_APPENDS {
        for (pair, took) in pairs.iter().zip(&mut took) {
            for (all, one) in took.iter_mut().zip(pair.append(n)) {
                all.push(one);
            }
        }
    }
    let table = Table::begin("One line more, running daemons and a folder store between them");
    let whats = ["end of the write to the artifact in the store", "artifact in the store to bytes at the reader"];
    let p50 = |size: usize, side: usize| percentile(took[size][side].clone(), 0.5);
    for (side, what) in whats.iter().enumerate() {
        for (size, pair) in pairs.iter().enumerate() {
            let what = format!("{} files: {what}, p50", pair.count);
            table.figure(&what, p50(size, side), "ms", Goal::AtMost(150.0));
        }
        if pairs.len() == 2 {
            let what = format!("{what}: {LARGE_COUNT} / {SMALL_COUNT} files");
            table.ratio(&what, p50(1, side), p50(0, side), "ms", Goal::AtMost(1.2));
        }
    }
}

/// A writer and a reader with daemons, the same files on both, and a store between them.
struct LivePair {
    /// Before the place, which their folders go with.
    _daemons: [Running; 2],
    count: usize,
    place: Place,
    writer: PathBuf,
    reader: PathBuf,
    /// The writer's checkpoints in the store.
    checkpoints: PathBuf,
}

impl LivePair {
    fn start(options: &Options, count: usize) -> LivePair {
        let place = Place::new(&options.larder);
        let store = place.path("store");
        fs::create_dir(&store).expect("make the store");
        let writer = machine(&place, "writer", "files/**", Some(&store));
        fill_logs(&writer.join("files"), count);
        sync(&place, &writer, &[]);
        let chain = fs::read_dir(store.join("bench/shared")).expect("the store has the space").flatten().next();
        let checkpoints = chain.expect("and one chain").path().join("checkpoints");
        let reader = machine(&place, "reader", "files/**", Some(&store));
        for project in [&reader, &writer, &reader] {
            sync(&place, project, &[]);
        }
        let _daemons = [place.up(&writer, None), place.up(&reader, None)];
        LivePair { _daemons, count, place, writer, reader, checkpoints }
    }

    /// How long one line took into the store, and from there to the reader, in milliseconds.
    fn append(&self, n: usize) -> [f64; 2] {
        let log = Path::new("files/000/000/log-000003.jsonl");
        let held = || fs::read_dir(&self.checkpoints).map_or(0, Iterator::count);
        let before = held();
        let mut file = fs::File::options().append(true).open(self.writer.join(log)).expect("open the log");
        writeln!(file, "{{\"appended\":{n}}}").expect("append");
        drop(file);
        let wanted = fs::metadata(self.writer.join(log)).expect("it is there").len();
        let start = Instant::now();
        until("the line is in the store", || held() > before);
        let stored = start.elapsed();
        until("the line arrives", || fs::metadata(self.reader.join(log)).is_ok_and(|at| at.len() == wanted));
        let arrived = start.elapsed();
        // What both still do of it is not the next one's.
        for project in [&self.writer, &self.reader] {
            sync(&self.place, project, &[]);
        }
        [stored, arrived - stored].map(|time| time.as_secs_f64() * 1000.0)
    }
}

/// From the end of a write in one machine to the bytes in the other, each with a daemon and a backend of its own.
pub fn latency(options: &Options) {
    let place = Place::new(&options.larder);
    let store = place.path("store");
    fs::create_dir(&store).expect("make the store");
    let (a, b) = (machine(&place, "a", "files/**", Some(&store)), machine(&place, "b", "files/**", Some(&store)));
    fs::write(a.join("files/note.md"), "first\n").expect("write");
    for project in [&a, &b] {
        sync(&place, project, &[]);
    }
    let (_up_a, _up_b) = (place.up(&a, None), place.up(&b, None));
    let table = Table::begin(&format!("Running daemons and a folder between them, {EDITS} edits one after the other"));
    report_latency(&table, arrivals(&a, &b));
}

/// How long each edit took to be in the other folder, in milliseconds.
fn arrivals(a: &Path, b: &Path) -> Vec<f64> {
    let mut arrived = Vec::new();
    for edit in 0..EDITS {
        let wanted = format!("edit {edit}\n");
        fs::write(a.join("files/note.md"), &wanted).expect("write");
        let start = Instant::now();
        until("the edit arrives", || fs::read(b.join("files/note.md")).is_ok_and(|bytes| bytes == wanted.as_bytes()));
        arrived.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    arrived
}

fn report_latency(table: &Table, arrived: Vec<f64>) {
    for (share, goal, name) in [(0.5, 60.0, "p50"), (0.99, 250.0, "p99")] {
        let whole = percentile(arrived.clone(), share);
        let what = format!("edit in A to bytes in B, {name} after the file is stable");
        table.figure(&what, whole - QUIET_MS, "ms", Goal::AtMost(goal));
    }
}

/// One change among 1,000 machines that keep 1,000 files each.
pub fn many_origins(options: &Options) {
    const ORIGINS: usize = 1000;
    const FILES: usize = 1000;
    let place = Place::new(&options.larder);
    let store = place.path("store");
    fs::create_dir(&store).expect("make the store");
    let reader = machine(&place, "reader", "none/**", Some(&store));
    sync(&place, &reader, &[]);
    let maker = place.path("maker");
    fs::create_dir_all(maker.join("files")).expect("make the project");
    let config = r#"{ "appId": "bench", "archiveFilePatterns": ["files/**"] }"#;
    fs::write(maker.join("sync-config.json"), config).expect("write the config");
    for origin in 0..ORIGINS {
        become_another(&place, &maker);
        for file in 0..FILES {
            let text = format!("{origin} says {file}\n");
            fs::write(maker.join(format!("files/note-{file:04}.md")), text).expect("write a file");
        }
        sync(&place, &maker, &[]);
        carry(&maker, &store);
    }

    let table = Table::begin(&format!("{ORIGINS} origins of {FILES} files each, over a folder store"));
    let first = sync(&place, &reader, &[]);
    table.figure("the first exchange of all", first.wall_ms / 1000.0, "s", Goal::None);
    table.figure("peak memory of it", first.peak_kib / 1024.0, "MiB", Goal::None);
    let (mut idle, mut changed) = (Vec::new(), Vec::new());
    for round in 0..5 {
        idle.push(sync(&place, &reader, &[]));
        fs::write(maker.join("files/note-0000.md"), format!("changed {round}\n")).expect("write a file");
        sync(&place, &maker, &[]);
        carry(&maker, &store);
        changed.push(sync(&place, &reader, &[]));
    }
    table.figure("nothing new, one-shot", median(&idle, |cost| cost.wall_ms), "ms", Goal::None);
    table.figure("exchange of one change, one-shot", median(&changed, |cost| cost.wall_ms), "ms", Goal::AtMost(1000.0));
    let peak = median(&changed, |cost| cost.peak_kib) / 1024.0;
    table.figure("peak memory of it", peak, "MiB", Goal::AtMost(100.0));
}

/// Forgets who the machine of `project` was.
fn become_another(place: &Place, project: &Path) {
    for gone in [project.join(".larder"), place.path("state").join("larder/devices")] {
        let _ = fs::remove_dir_all(gone);
    }
    for gone in ["sync.db", "sync.db-wal", "sync.db-shm"] {
        let _ = fs::remove_file(project.join(gone));
    }
}

/// Copies what a ledger holds and a store lacks, as any tool that carries files would.
fn carry(project: &Path, store: &Path) {
    let ledger = project.join(".larder/ledger");
    for (file, _) in files_below(&ledger) {
        let target = store.join("bench").join(file.strip_prefix(&ledger).expect("it is below"));
        if !target.exists() {
            fs::create_dir_all(target.parent().expect("it has a folder")).expect("make a folder");
            fs::copy(file, target).expect("copy");
        }
    }
}

/// Two machines from nothing to the same files, both tools with two running daemons.
pub fn beside_syncthing(options: &Options) {
    let table = Table::begin(&format!("First sync of {SMALL_COUNT} logs between two running daemons"));
    if Command::new("syncthing").arg("--version").stdout(Stdio::null()).status().is_err() {
        return table.absent("/ syncthing", "syncthing is not installed");
    }
    let (ours, theirs) = (larder_pair(options), syncthing_pair(options));
    table.ratio("wall", ours.wall_ms, theirs.wall_ms, "ms", Goal::AtMost(0.2));
    table.ratio("CPU of both daemons", ours.cpu_ms, theirs.cpu_ms, "ms", Goal::AtMost(0.25));
    table.ratio("memory of both daemons, at most", ours.peak_kib, theirs.peak_kib, "KiB", Goal::AtMost(0.25));
    table.ratio("memory of both daemons, at rest", ours.rest_kib, theirs.rest_kib, "KiB", Goal::AtMost(0.25));
    let (most, at_rest) = ("the same at one moment, what both map counted once, at most", "the same, at rest");
    table.ratio(most, ours.peak_pss_kib, theirs.peak_pss_kib, "KiB", Goal::None);
    table.ratio(at_rest, ours.rest_pss_kib, theirs.rest_pss_kib, "KiB", Goal::None);
}

/// What two daemons took to be the same.
struct Pair {
    wall_ms: f64,
    cpu_ms: f64,
    peak_kib: f64,
    rest_kib: f64,
    /// At one moment, with what both map counted once.
    peak_pss_kib: f64,
    rest_pss_kib: f64,
}

/// After which daemons that have nothing to do are at rest.
const REST: Duration = Duration::from_secs(10);

/// The sum over daemons that started at `start` and are the same now.
fn used(start: Instant, pids: [u32; 2], memory: MemoryWatch) -> Pair {
    let wall_ms = start.elapsed().as_secs_f64() * 1000.0;
    let sum = |figure: fn(&Usage) -> f64| pids.iter().map(|pid| figure(&usage(*pid))).sum();
    let cpu_ms = sum(|used| used.cpu_ms);
    std::thread::park_timeout(REST);
    Pair {
        wall_ms,
        cpu_ms,
        peak_kib: sum(|used| used.peak_kib),
        rest_kib: sum(|used| used.resident_kib),
        peak_pss_kib: memory.most_kib(),
        rest_pss_kib: proportional_kib(&pids),
    }
}

fn larder_pair(options: &Options) -> Pair {
    let place = Place::new(&options.larder);
    let store = place.path("store");
    fs::create_dir(&store).expect("make the store");
    let (a, b) = (machine(&place, "a", "files/**", None), machine(&place, "b", "files/**", None));
    fill_logs(&a.join("files"), SMALL_COUNT);
    let wanted = size_bytes(&a.join("files"));
    for project in [&a, &b] {
        let path = store.to_str().expect("temporary paths are UTF-8");
        run(place.larder(project, None, &["peers", "add", "store", path]));
    }
    let start = Instant::now();
    let daemons: [Running; 2] = [place.launch(&b, None, &[]), place.launch(&a, None, &[])];
    let pids = daemons.each_ref().map(Running::pid);
    let memory = MemoryWatch::start(pids.to_vec());
    until_at_last("b has what a has", || size_bytes(&b.join("files")) == wanted);
    used(start, pids, memory)
}

/// A child that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn syncthing_pair(options: &Options) -> Pair {
    let place = Place::new(&options.larder);
    let folders = ["from", "to"].map(|name| place.path(name));
    for folder in &folders {
        fs::create_dir(folder).expect("make a folder");
    }
    fill_logs(&folders[0], SMALL_COUNT);
    let wanted = size_bytes(&folders[0]);
    let homes = ["home-0", "home-1"].map(|name| place.path(name));
    let command = |home: &Path, args: &[&str]| {
        let mut command = Command::new("syncthing");
        command.args(args).arg("--home").arg(home).env("HOME", home).env("STNOUPGRADE", "1");
        // Without the process that only watches over the one that works.
        command.env("STMONITORED", "yes").stdin(Stdio::null());
        command
    };
    let ids = homes.each_ref().map(|home| {
        run(command(home, &["generate"]));
        let told = command(home, &["--device-id"]).output().expect("ask for the id");
        String::from_utf8(told.stdout).expect("text").trim().to_owned()
    });
    let ports = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port());
    for n in 0..2 {
        // As the tests have it, but looked at by its watcher alone.
        let values: [(&str, String); 7] = [
            ("{folder}", folders[n].display().to_string()),
            ("{id0}", ids[0].clone()),
            ("{id1}", ids[1].clone()),
            ("{port0}", ports[0].to_string()),
            ("{port1}", ports[1].to_string()),
            ("{port}", ports[n].to_string()),
            ("{scan}", r#"rescanIntervalS="3600""#.to_owned()),
        ];
        let text = include_str!("../../tests/data/syncthing-config.xml").to_owned();
        let config = values.into_iter().fold(text, |text, (name, value)| text.replace(name, &value));
        fs::write(homes[n].join("config.xml"), config).expect("write its config");
    }
    let start = Instant::now();
    let serve = |home: &PathBuf| {
        let mut serve = command(home, &["serve", "--no-browser", "--no-restart"]);
        serve.stdout(Stdio::null()).stderr(Stdio::null());
        Ended(serve.spawn().expect("start syncthing"))
    };
    let mut daemons = [serve(&homes[1]), serve(&homes[0])];
    let pids = daemons.each_ref().map(|daemon| daemon.0.id());
    let memory = MemoryWatch::start(pids.to_vec());
    let arrived =
        || files_below(&folders[1]).iter().filter(|(path, _)| !is_own(path)).map(|(_, size)| size).sum::<u64>();
    until_at_last("the other has all", || {
        let runs = |daemon: &mut Ended| matches!(daemon.0.try_wait(), Ok(None));
        assert!(daemons.iter_mut().all(runs), "syncthing ended by itself");
        arrived() == wanted
    });
    used(start, pids, memory)
}

/// What Syncthing keeps for itself in a folder.
fn is_own(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with('.'))
}
