//! The parts of the comparison, in the order of docs/performance.md.
//!
//! Every goal stands beside its figure; where another tool is not installed, the line says so.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::OptionalExtension;

use crate::measure::{Cost, median, percentile, run, usage};
use crate::place::{Place, fill, has, size_bytes, until};
use crate::table::{Goal, Table};
use crate::{Options, backends, exchange, million, peers, view, words};

const SMALL_COUNT: usize = 10_000;
const LARGE_COUNT: usize = 100_000;
const LATENCY_EDITS: usize = 200;
/// How often each of two things is done, in turn.
const ROUNDS: usize = 7;
/// A file counts as stable this long after its last change; `larder` waits it out, so that a half-written file is no version.
const QUIET_MS: f64 = larder::sync::QUIET_MS as f64;

/// Runs all parts, or the one that was asked for.
pub fn compare(options: &Options) {
    let counts = if options.large { &[SMALL_COUNT, LARGE_COUNT][..] } else { &[SMALL_COUNT] };
    let wants = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    describe_machine();
    for &count in counts {
        if wants("mirror") {
            first_mirror(options, count);
        }
        if ["noop", "edit", "rename", "idle"].iter().any(|name| wants(name)) {
            settled_tree(options, count, &wants);
        }
    }
    if wants("daemon") {
        daemon_latency(options);
    }
    if wants("http") {
        http_latency(options);
    }
    if wants("append") {
        append_to_a_long_log(options);
    }
    if wants("folder") {
        exchange::folder_store(options);
        exchange::latency(options);
    }
    if wants("live") {
        exchange::live_appends(options);
    }
    if wants("postgres") {
        backends::postgres(options);
    }
    if wants("supabase") {
        backends::supabase(options);
    }
    if wants("view") {
        view::view(options);
    }
    // Minutes of making: only when asked for.
    match options.only.as_deref() {
        Some("origins") => exchange::many_origins(options),
        Some("peers") => peers::beside_others(options),
        Some("million") => million::million(options),
        Some("search") => words::search(options),
        _ => {}
    }
    if wants("syncthing") {
        exchange::beside_syncthing(options);
    }
}

fn describe_machine() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("{cores} cores, Linux {}; medians; ratios are larder / other, less is better", kernel.trim());
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// All files into ledger and SQLite for the first time, durable at the end.
fn first_mirror(options: &Options, count: usize) {
    let rounds = if count > SMALL_COUNT { 3 } else { 5 };
    let place = Place::new(&options.larder);
    let source = place.path("source");
    fill(&source, count);
    let mut costs: [Vec<Cost>; 5] = Default::default();
    for round in 0..rounds {
        let project = place.project(&format!("project-{round}"));
        fs::remove_dir(project.join("files")).expect("remove");
        fs::rename(&source, project.join("files")).expect("move the tree in");
        costs[0].push(run(place.larder(&project, None, &["sync"])));
        fs::rename(project.join("files"), &source).expect("move the tree out");
        fs::remove_dir_all(&project).expect("remove");

        let this = std::env::current_exe().expect("this program has a path");
        let database = place.path("bare.db");
        let mut bare = Command::new(this);
        bare.arg("bare-loop").arg(&source).arg(&database);
        costs[1].push(run(bare));
        fs::remove_file(&database).expect("remove");

        let copy = place.path("copy");
        let from = format!("{}/", text(&source));
        if has("rsync") {
            costs[2].push(run(command("rsync", &["-a", &from, text(&copy)])));
            fs::remove_dir_all(&copy).expect("remove");
            // As many syncs as files: once is enough to know.
            if round == 0 {
                costs[3].push(run(command("rsync", &["-a", "--fsync", &from, text(&copy)])));
                fs::remove_dir_all(&copy).expect("remove");
            }
        }
        if has("git") {
            costs[4].push(git_first_commit(&place, &source));
        }
    }

    let table = Table::begin(&format!("First mirror of {count} small files"));
    let ours = &costs[0];
    let wall = |costs: &[Cost]| median(costs, |cost| cost.wall_ms);
    let cpu = |costs: &[Cost]| median(costs, |cost| cost.cpu_ms);
    table.ratio("wall / bare loop", wall(ours), wall(&costs[1]), "ms", Goal::AtMost(2.0));
    table.ratio("CPU / bare loop", cpu(ours), cpu(&costs[1]), "ms", Goal::None);
    if costs[2].is_empty() {
        table.absent("/ rsync -a", "rsync is not installed");
    } else {
        table.ratio("wall / rsync -a", wall(ours), wall(&costs[2]), "ms", Goal::AtMost(1.0));
        table.ratio("CPU / rsync -a", cpu(ours), cpu(&costs[2]), "ms", Goal::AtMost(1.0));
        table.ratio("wall / rsync -a --fsync", wall(ours), wall(&costs[3]), "ms", Goal::AtMost(0.35));
    }
    if costs[4].is_empty() {
        table.absent("/ git add, commit", "git is not installed");
    } else {
        table.ratio("wall / git add, commit", wall(ours), wall(&costs[4]), "ms", Goal::None);
    }
    syncthing(&table, &place, &source, wall(ours), count);
    let bound_kib = 40.0 * 1024.0 + 200.0 * count as f64 / 1024.0;
    let peak = median(ours, |cost| cost.peak_kib);
    table.ratio("peak memory / (40 MiB + 200 B a file)", peak, bound_kib, "KiB", Goal::AtMost(1.0));
}

fn git_first_commit(place: &Place, source: &Path) -> Cost {
    let store = place.path("store.git");
    let git = |args: &[&str]| {
        let mut command = command("git", &["--git-dir", text(&store), "--work-tree", text(source)]);
        command.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]).args(args);
        command
    };
    run(git(&["init", "-q"]));
    let add = run(git(&["add", "-A"]));
    let commit = run(git(&["commit", "-qm", "all"]));
    fs::remove_dir_all(&store).expect("remove");
    Cost {
        wall_ms: add.wall_ms + commit.wall_ms,
        cpu_ms: add.cpu_ms + commit.cpu_ms,
        peak_kib: add.peak_kib.max(commit.peak_kib),
        written_bytes: add.written_bytes + commit.written_bytes,
    }
}

/// The time syncthing needs to scan the same folder at its start: the least of what it does before anything is sent.
fn syncthing(table: &Table, place: &Place, source: &Path, ours_ms: f64, count: usize) {
    if !has("syncthing") {
        return table.absent("/ syncthing, first scan", "syncthing is not installed");
    }
    let home = place.path("syncthing");
    run(command("syncthing", &["generate", "--home", text(&home), "--no-default-folder"]));
    let config = home.join("config.xml");
    let folder = format!(
        "<folder id=\"bench\" path=\"{}\" type=\"sendonly\" rescanIntervalS=\"0\" fsWatcherEnabled=\"false\"><markerName>.</markerName></folder></configuration>",
        source.display()
    );
    let edited = fs::read_to_string(&config).expect("read").replace("</configuration>", &folder);
    fs::write(&config, edited).expect("write");
    let log = place.path("syncthing.log");
    let start = Instant::now();
    let mut serve =
        command("syncthing", &["serve", "--home", text(&home), "--no-browser", "--no-upgrade", "--no-restart"]);
    serve.env("STNOUPGRADE", "1").env("STTRACE", "model");
    serve.stdout(fs::File::create(&log).expect("make the log"));
    let mut child = serve.spawn().expect("start syncthing");
    until("syncthing has scanned", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("Completed initial scan"))
    });
    let theirs_ms = start.elapsed().as_secs_f64() * 1000.0;
    let _ = child.kill();
    let _ = child.wait();
    table.ratio(&format!("wall / syncthing, first scan of {count}"), ours_ms, theirs_ms, "ms", Goal::None);
}

/// What stands after the first mirror: nothing to do, one edit, a renamed folder, a daemon at rest.
fn settled_tree(options: &Options, count: usize, wants: &dyn Fn(&str) -> bool) {
    let place = Place::new(&options.larder);
    let project = place.project("project");
    fill(&project.join("files"), count);
    // As many files again that nobody named, in folders that no walk may enter.
    fill(&project.join("node_modules"), count);
    run(place.larder(&project, None, &["sync"]));
    run(place.larder(&project, None, &["sync"]));

    let table = Table::begin(&format!("With {count} files mirrored and {count} ignored ones beside them"));
    if wants("noop") {
        nothing_to_do(&table, &place, &project);
    }
    if wants("edit") {
        one_edit(&table, &place, &project);
    }
    if wants("rename") {
        renamed_folder(&table, &place, &project, count);
    }
    if wants("idle") {
        at_rest(&table, &place, &project, count);
    }
}

fn nothing_to_do(table: &Table, place: &Place, project: &Path) {
    let mut costs: [Vec<Cost>; 4] = Default::default();
    let copy = place.path("copy");
    let from = format!("{}/", text(&project.join("files")));
    if has("rsync") {
        run(command("rsync", &["-a", &from, text(&copy)]));
    }
    for _ in 0..ROUNDS {
        costs[0].push(run(place.larder(project, None, &["sync"])));
        let mut find = command("find", &[".", "-name", "node_modules", "-prune", "-o", "-name", ".larder", "-prune"]);
        find.args(["-o", "-type", "f", "-printf", "%s %T@ %i %p\\n"]).current_dir(project);
        costs[1].push(run(find));
        if has("rsync") {
            costs[2].push(run(command("rsync", &["-a", &from, text(&copy)])));
        }
        costs[3].push(run(place.larder(project, None, &["--version"])));
    }
    let wall = |costs: &[Cost]| median(costs, |cost| cost.wall_ms);
    let noop = wall(&costs[0]);
    table.ratio("nothing to do, one-shot / find -printf", noop, wall(&costs[1]), "ms", Goal::AtMost(1.5));
    let cpu = |costs: &[Cost]| median(costs, |cost| cost.cpu_ms);
    table.ratio("the same, CPU", cpu(&costs[0]), cpu(&costs[1]), "ms", Goal::None);
    if costs[2].is_empty() {
        table.absent("/ rsync -a with nothing to do", "rsync is not installed");
    } else {
        table.ratio("nothing to do / rsync -a", noop, wall(&costs[2]), "ms", Goal::None);
    }
    table.figure("start of the program alone", wall(&costs[3]), "ms", Goal::None);
    table.figure("written by doing nothing", median(&costs[0], |c| c.written_bytes) / 1024.0, "KiB", Goal::None);
    let _ = fs::remove_dir_all(copy);
}

/// Costs of doing nothing and of what `change` prepares, in turn.
fn beside_nothing(place: &Place, project: &Path, rounds: usize, mut change: impl FnMut(usize)) -> [Vec<Cost>; 2] {
    let mut costs: [Vec<Cost>; 2] = Default::default();
    for round in 0..rounds {
        costs[0].push(run(place.larder(project, None, &["sync"])));
        change(round);
        costs[1].push(run(place.larder(project, None, &["sync"])));
        // Takes in what the run itself left to be looked at, so that the next round's first one has nothing to do.
        run(place.larder(project, None, &["sync"]));
    }
    costs
}

fn ratio_to_nothing(table: &Table, what: &str, costs: &[Vec<Cost>; 2], goal: Goal) {
    let [nothing, changed] = costs.each_ref().map(|costs| median(costs, |cost| cost.wall_ms));
    table.ratio(what, changed, nothing, "ms", goal);
}

fn one_edit(table: &Table, place: &Place, project: &Path) {
    let file = project.join("files/000/000/note-000001.md");
    let costs = beside_nothing(place, project, 2 * ROUNDS, |round| {
        fs::write(&file, format!("edited {round}\n")).expect("write");
        // What was written a moment ago is waited for; here it is as old as a person's edit is when a command is typed.
        std::thread::park_timeout(Duration::from_millis(larder::sync::QUIET_MS));
    });
    ratio_to_nothing(table, "one edit, one-shot / nothing to do", &costs, Goal::AtMost(1.2));
    table.figure("one edit, written", median(&costs[1], |c| c.written_bytes) / 1024.0, "KiB", Goal::AtMost(256.0));
}

fn renamed_folder(table: &Table, place: &Place, project: &Path, count: usize) {
    const FOLDER_COUNT: usize = 1000;
    if count < FOLDER_COUNT {
        return;
    }
    let (one, other) = (project.join("files/one"), project.join("files/other"));
    fill(&one, FOLDER_COUNT);
    for n in 0..FOLDER_COUNT {
        // Names of their own: the fill above has the contents of the first thousand files.
        let path =
            one.join(format!("000/{:03}/note-{n:06}.{}", n / 20, if n.is_multiple_of(3) { "jsonl" } else { "md" }));
        fs::File::options().append(true).open(path).and_then(|mut file| file.write_all(b"own\n")).expect("append");
    }
    run(place.larder(project, None, &["sync"]));
    let packs_before = packs_bytes(project);
    let costs = beside_nothing(place, project, 5, |round| {
        let (from, to) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        fs::rename(from, to).expect("rename");
    });
    // The goal is about doing nothing at 100,000 files; where all else is smaller, a thousand files stay a thousand.
    let goal = if count >= LARGE_COUNT { Goal::AtMost(2.0) } else { Goal::None };
    ratio_to_nothing(table, "rename of a folder of 1,000 / nothing to do", &costs, goal);
    let grown = packs_bytes(project).saturating_sub(packs_before) as f64;
    table.figure("content bytes of five such renames", grown, "B", Goal::AtMost(0.0));
}

fn packs_bytes(project: &Path) -> u64 {
    let mut chains = Vec::new();
    for space in fs::read_dir(project.join(".larder/ledger")).expect("a ledger").flatten() {
        chains.extend(fs::read_dir(space.path()).into_iter().flatten().flatten());
    }
    chains.iter().map(|chain| size_bytes(&chain.path().join("packs"))).sum()
}

fn at_rest(table: &Table, place: &Place, project: &Path, count: usize) {
    const REST: Duration = Duration::from_secs(30);
    let index = fs::metadata(project.join(".larder/index.db")).map_or(f64::NAN, |metadata| metadata.len() as f64);
    table.figure("index, a file", index / count as f64, "B", Goal::AtMost(600.0));
    let daemon = place.up(project, None);
    // What the start leaves behind has to settle first.
    std::thread::park_timeout(Duration::from_secs(5));
    let before = usage(daemon.pid());
    let start = Instant::now();
    while start.elapsed() < REST {
        std::thread::park_timeout(REST.saturating_sub(start.elapsed()));
    }
    let after = usage(daemon.pid());
    let seconds = start.elapsed().as_secs_f64();
    table.figure(
        "daemon at rest, wakeups a second",
        (after.wakeups - before.wakeups) / seconds,
        "/s",
        Goal::AtMost(1.0),
    );
    let share = (after.cpu_ms - before.cpu_ms) / (seconds * 1000.0) * 100.0;
    table.figure("daemon at rest, CPU", share, "%", Goal::AtMost(0.05));
    table.figure("daemon at rest, memory", after.resident_kib / 1024.0, "MiB", Goal::AtMost(30.0));
    let asked: Vec<Cost> = (0..9).map(|_| run(place.larder(project, None, &["status"]))).collect();
    table.figure("status of a running daemon", median(&asked, |cost| cost.wall_ms), "ms", Goal::AtMost(20.0));
    let synced: Vec<Cost> = (0..9).map(|_| run(place.larder(project, None, &["sync"]))).collect();
    table.figure(
        "sync through a running daemon, nothing to do",
        median(&synced, |cost| cost.wall_ms),
        "ms",
        Goal::AtMost(20.0),
    );
}

/// From the end of a write to the row, and to the bytes in the other folder.
fn daemon_latency(options: &Options) {
    let place = Place::new(&options.larder);
    let database = place.path("shared.db");
    let (a, b) = (place.project("a"), place.project("b"));
    fill(&a.join("files"), 1000);
    let (_up_a, _up_b) = (place.up(&a, Some(&database)), place.up(&b, Some(&database)));
    let rows = rusqlite::Connection::open(&database).expect("open the database");
    rows.busy_timeout(Duration::from_secs(60)).expect("set the time to wait");
    until("b has what a has", || size_bytes(&b.join("files")) == size_bytes(&a.join("files")));

    let (mut to_row, mut to_disk) = (Vec::new(), Vec::new());
    let mut row = rows.prepare("SELECT content FROM files WHERE path = ?1").expect("prepare");
    for edit in 0..LATENCY_EDITS {
        let path = format!("files/000/000/note-{:06}.md", 1 + edit % 2);
        let wanted = format!("edit {edit}\n");
        fs::write(a.join(&path), &wanted).expect("write");
        let start = Instant::now();
        let (mut row_ms, mut disk_ms) = (None, None);
        until("the edit arrives", || {
            let now_ms = start.elapsed().as_secs_f64() * 1000.0;
            if row_ms.is_none() {
                let content: Option<String> =
                    row.query_row([&path], |row| row.get(0)).optional().expect("read the row");
                row_ms = (content.as_deref() == Some(&wanted)).then_some(now_ms);
            }
            if disk_ms.is_none() {
                disk_ms = fs::read(b.join(&path)).is_ok_and(|bytes| bytes == wanted.as_bytes()).then_some(now_ms);
            }
            row_ms.is_some() && disk_ms.is_some()
        });
        to_row.extend(row_ms);
        to_disk.extend(disk_ms);
    }
    let table = Table::begin(&format!("Running daemons, {LATENCY_EDITS} edits one after the other"));
    for (what, waits, goals) in
        [("edit to row", to_row, [25.0, 100.0]), ("edit in A to bytes in B", to_disk, [60.0, 200.0])]
    {
        for (share, goal, name) in [(0.5, goals[0], "p50"), (0.99, goals[1], "p99")] {
            let whole = percentile(waits.clone(), share);
            table.figure(
                &format!("{what}, {name} after the file is stable"),
                whole - QUIET_MS,
                "ms",
                Goal::AtMost(goal),
            );
            table.figure(&format!("{what}, {name} after the write"), whole, "ms", Goal::None);
        }
    }
}

/// From the end of a write on a paired device to the bytes in the folder of the project that serves, over a line of this machine.
fn http_latency(options: &Options) {
    let place = Place::new(&options.larder);
    let (hub, device) = (place.project("hub"), place.project("device"));
    fill(&hub.join("files"), 1000);
    let listen = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let _up_hub = place.up_with(&hub, None, &["--serve", &listen.to_string()]);
    pair(&place, &hub, &device, &format!("http://{listen}"));
    let start = Instant::now();
    run(place.larder(&device, None, &["sync"]));
    let first_ms = start.elapsed().as_secs_f64() * 1000.0;
    let same = || size_bytes(&device.join("files")) == size_bytes(&hub.join("files"));
    assert!(same(), "the first sync brings everything");
    let nothing: Vec<Cost> = (0..9).map(|_| run(place.larder(&device, None, &["sync"]))).collect();
    let _up_device = place.up(&device, None);

    let table = Table::begin(&format!("A paired device over HTTP, {LATENCY_EDITS} edits one after the other"));
    table.figure("first sync of 1,000 files", first_ms, "ms", Goal::None);
    table.figure("nothing new, one-shot", median(&nothing, |cost| cost.wall_ms), "ms", Goal::None);
    for (what, from, to) in [
        ("on the device to bytes at the server", &device, &hub),
        ("at the server to bytes on the device", &hub, &device),
    ] {
        let waits = edits_one_by_one(from, to);
        for (share, goal, name) in [(0.5, 60.0, "p50"), (0.99, 250.0, "p99")] {
            let whole = percentile(waits.clone(), share);
            let stable = whole - QUIET_MS;
            table.figure(&format!("edit {what}, {name} after the file is stable"), stable, "ms", Goal::AtMost(goal));
            table.figure(&format!("edit {what}, {name} after the write"), whole, "ms", Goal::None);
        }
    }
}

/// How long each edit in `from` took to be in `to`, in milliseconds.
fn edits_one_by_one(from: &Path, to: &Path) -> Vec<f64> {
    let mut waits = Vec::new();
    for edit in 0..LATENCY_EDITS {
        let path = format!("files/000/000/note-{:06}.md", 1 + edit % 2);
        let wanted = format!("edit {edit} in {}\n", text(from));
        fs::write(from.join(&path), &wanted).expect("write");
        let start = Instant::now();
        until("the edit arrives", || fs::read(to.join(&path)).is_ok_and(|bytes| bytes == wanted.as_bytes()));
        waits.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    waits
}

fn pair(place: &Place, hub: &Path, device: &Path, url: &str) {
    let invited = place.larder(hub, None, &["peers", "invite", "--json"]).output().expect("run larder");
    let said: serde_json::Value = serde_json::from_slice(&invited.stdout).expect("an object");
    let mut command = place.larder(device, None, &["peers", "pair", "hub", url]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().expect("run larder");
    let code = said["code"].as_str().expect("a code");
    child.stdin.take().expect("piped").write_all(code.as_bytes()).expect("give the code");
    assert!(child.wait().expect("it ends").success(), "the device is not paired");
}

/// 1 KB more at the end of a JSONL file of 100 MB, seen by a running daemon.
fn append_to_a_long_log(options: &Options) {
    const APPENDS: usize = 20;
    let place = Place::new(&options.larder);
    let database = place.path("shared.db");
    let (a, b) = (place.project("a"), place.project("b"));
    let log: PathBuf = a.join("files/session.jsonl");
    let line = format!("{{\"role\":\"assistant\",\"text\":\"{}\"}}\n", "word ".repeat(194));
    {
        let mut file = std::io::BufWriter::new(fs::File::create(&log).expect("make the log"));
        for n in 0..100_000 {
            writeln!(file, "{{\"n\":{n},\"text\":\"{}\"}}", "word ".repeat(194)).expect("write");
        }
    }
    let (up_a, up_b) = (place.up(&a, Some(&database)), place.up(&b, Some(&database)));
    let size = |project: &Path| fs::metadata(project.join("files/session.jsonl")).map_or(0, |metadata| metadata.len());
    until("b has the log", || size(&b) == size(&a));

    // What goes into the backend goes through its log: emptied before, its frames are what both daemons wrote.
    let rows = rusqlite::Connection::open(&database).expect("open the database");
    rows.busy_timeout(Duration::from_secs(60)).expect("set the time to wait");
    let page_bytes: f64 = rows.query_row("PRAGMA page_size", [], |row| row.get(0)).expect("ask the page size");
    let checkpoint = |mode: &str| -> f64 {
        rows.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1)).expect("look at the log")
    };
    until("the log is empty", || checkpoint("TRUNCATE") == 0.0);
    let ledger_before = size_bytes(&a.join(".larder/ledger"));
    let before = [usage(up_a.pid()), usage(up_b.pid())];
    let mut arrived_ms = Vec::new();
    for _ in 0..APPENDS {
        let mut file = fs::File::options().append(true).open(&log).expect("open the log");
        file.write_all(line.as_bytes()).expect("append");
        let start = Instant::now();
        until("the line arrives", || size(&b) == size(&a));
        arrived_ms.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let after = [usage(up_a.pid()), usage(up_b.pid())];
    let ledger_bytes = size_bytes(&a.join(".larder/ledger")).saturating_sub(ledger_before) as f64;
    // A frame is a page and 24 bytes.
    let backend_bytes = checkpoint("PASSIVE") * (page_bytes + 24.0);
    let per_append = |end: usize, figure: fn(&crate::measure::Usage) -> f64| {
        (figure(&after[end]) - figure(&before[end])) / APPENDS as f64
    };
    let table = Table::begin("1 KB appended to a 100 MB JSONL, running daemons");
    let stored = (ledger_bytes + backend_bytes) / APPENDS as f64 / 1024.0;
    table.figure("written to ledger and backend, an append", stored, "KiB", Goal::AtMost(64.0));
    table.figure("of that, to the ledger", ledger_bytes / APPENDS as f64 / 1024.0, "KiB", Goal::None);
    table.figure("written by the sender in all", per_append(0, |u| u.written_bytes) / 1024.0, "KiB", Goal::None);
    table.figure("CPU of the sender, an append", per_append(0, |u| u.cpu_ms), "ms", Goal::None);
    table.figure("written by the receiver, an append", per_append(1, |u| u.written_bytes) / 1024.0, "KiB", Goal::None);
    table.figure("CPU of the receiver, an append", per_append(1, |u| u.cpu_ms), "ms", Goal::None);
    table.figure("append in A to bytes in B, p50", percentile(arrived_ms, 0.5), "ms", Goal::None);
    if has("rsync") {
        let copy = place.path("copy");
        run(command("rsync", &["-a", text(&log), text(&copy)]));
        fs::File::options()
            .append(true)
            .open(&log)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("append");
        let whole = run(command("rsync", &["-a", text(&log), text(&copy)]));
        table.figure("rsync -a for comparison: written", whole.written_bytes / 1024.0, "KiB", Goal::None);
        table.figure("rsync -a for comparison: CPU", whole.cpu_ms, "ms", Goal::None);
    }
}
