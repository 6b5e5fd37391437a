//! The view beside ext4: one tree, united from three machines, read through a mount and as plain files on the same disk.
//!
//! Invariant: both sides do the same work in turn (ext4, view, ext4, view); a ratio is ext4's time over the view's, the median over the
//! pairs, so 1 is the file system's own speed and more is faster. What loops over many files runs in this process: no start of a
//! program counts. Cold means that the kernel dropped all it kept right before; where that is not allowed, the table says so.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Options;
use crate::measure::{run, usage};
use crate::place::{Place, Running, has, until};
use crate::table::{Goal, Pair, Table};
use crate::tree::{BIG_BYTES, NEEDLE, SMALL_COUNT, files_of, make_tree, tops};

const WARM_ROUNDS: usize = 7;
const COLD_ROUNDS: usize = 5;
/// Bytes of one read of whole files.
const READ_BYTES: usize = 128 << 10;
const RANDOM_READS: usize = 20_000;
const COLD_RANDOM_READS: usize = 500;

/// One tree on ext4 and in a view.
pub struct Sides {
    /// The plain files.
    pub plain: PathBuf,
    /// The same in `merged/`.
    pub shown: PathBuf,
}

/// The whole comparison.
pub fn view(options: &Options) {
    let place = Place::new(&options.larder);
    let (sides, view) = sides(&place);
    let mut view = Some(view);
    let files = Files::of(&sides.plain);
    check_same(&sides, &files);
    let cases = cases();
    let table = Table::beside(&format!("The view beside ext4, warm: {SMALL_COUNT} files of three machines"), "ext4");
    for case in &cases {
        table.faster(case.what, &in_turn(case, &sides, &files, WARM_ROUNDS, None), case.warm);
    }
    let table = Table::beside("The same, cold", "ext4");
    if let Err(why) = drop_caches() {
        return table.absent("everything", &why);
    }
    for case in cases.iter().filter(|case| case.has_cold) {
        let mut anew = || {
            // What the process itself kept is as warm as what the kernel did.
            drop(view.take());
            view = Some(mount(&place));
        };
        table.faster(case.what, &in_turn(case, &sides, &files, COLD_ROUNDS, Some(&mut anew)), case.cold);
    }
    let peak_kib = view.take().map_or(f64::NAN, |view| usage(view.pid()).peak_kib);
    table.figure("memory of the view's process, at most", peak_kib / 1024.0, "MiB", Goal::None);
    from_copies(&place, &sides, &files, &cases);
    through_rings(&place, &sides, &files, &cases);
}

/// The view whose requests come through io_uring. Warm, nobody is asked, so there is nothing to compare.
fn through_rings(place: &Place, sides: &Sides, files: &Files, cases: &[Case]) {
    let table = Table::beside("The same with `--io-uring`, cold", "ext4");
    let offer = Path::new("/sys/module/fuse/parameters/enable_uring");
    let before = fs::read_to_string(offer).unwrap_or_default();
    if let Err(why) = fs::write(offer, "1") {
        return table.absent("everything", &format!("it cannot be turned on: {why}"));
    }
    let mount = || place.mount_with(&place.path("viewer"), &place.path("mount"), &["--io-uring"]);
    let mut view = match mount() {
        Ok(view) => Some(view),
        Err(why) => return table.absent("everything", &why),
    };
    for case in cases.iter().filter(|case| case.has_cold) {
        let mut anew = || {
            drop(view.take());
            view = mount().ok();
        };
        table.faster(case.what, &in_turn(case, sides, files, COLD_ROUNDS, Some(&mut anew)), case.cold);
    }
    let peak_kib = view.take().map_or(f64::NAN, |view| usage(view.pid()).peak_kib);
    table.figure("memory of the view's process, at most", peak_kib / 1024.0, "MiB", Goal::None);
    let _ = fs::write(offer, before.trim());
}

/// The view whose long files the kernel reads from plain copies, and what that costs all the others.
fn from_copies(place: &Place, sides: &Sides, files: &Files, cases: &[Case]) {
    let table = Table::beside("The same with `--passthrough`, which is root's", "ext4");
    let mount = || place.mount_with(&place.path("viewer"), &place.path("mount"), &["--passthrough"]);
    let mut view = match mount() {
        Ok(view) => Some(view),
        Err(why) => return table.absent("everything", &why),
    };
    let case = |what: &str| cases.iter().find(|case| case.what == what).expect("a case");
    let long = case("sequential, one file of 256 MiB");
    let warm = |what, goal| table.faster(what, &in_turn(case(what), sides, files, WARM_ROUNDS, None), goal);
    warm(long.what, Some(0.95));
    warm("random reads of 4 KiB", Some(0.95));
    warm("open, read, close of each", None);
    let forgotten = in_turn(long, sides, files, COLD_ROUNDS, Some(&mut || {}));
    table.faster("sequential, the copy on the disk alone", &forgotten, Some(0.9));
    let mut anew = || {
        drop(view.take());
        view = mount().ok();
    };
    table.faster("sequential, cold: no copy yet", &in_turn(long, sides, files, COLD_ROUNDS, Some(&mut anew)), None);
}

/// Three machines publish a third of the tree each; a fourth, which has none of it on its disk, shows what they have.
pub fn sides(place: &Place) -> (Sides, Running) {
    let plain = place.path("plain");
    make_tree(&plain);
    let store = place.path("store");
    fs::create_dir(&store).expect("make the store");
    for machine in 0..3 {
        let project = place.path(format!("machine-{machine}"));
        let own: Vec<String> = tops(&plain).into_iter().skip(machine).step_by(3).collect();
        let patterns: Vec<String> = own.iter().map(|top| format!("\"files/{top}/**\"")).collect();
        fs::create_dir_all(project.join("files")).expect("make the project");
        configure(&project, &patterns.join(", "), &store);
        for top in &own {
            let to = project.join("files").join(top);
            fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
            let mut copy = Command::new("cp");
            copy.arg("-a").arg(plain.join(top)).arg(to);
            run(copy);
        }
        publish(place, &project);
        fs::remove_dir_all(project).expect("remove");
    }
    let project = place.path("viewer");
    fs::create_dir(&project).expect("make the project");
    configure(&project, "\"none/**\"", &store);
    run(place.larder(&project, None, &["pull", "--trust"]));
    let view = mount(place);
    (Sides { plain, shown: place.path("mount/merged/files") }, view)
}

fn mount(place: &Place) -> Running {
    place.mount(&place.path("viewer"), &place.path("mount"))
}

/// On a slow disk the row of the long file may keep the database for longer than its next batch waits; a second run goes on.
fn publish(place: &Place, project: &Path) {
    let mut sync = place.larder(project, None, &["sync", "--trust"]);
    sync.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !sync.status().is_ok_and(|status| status.success()) {
        run(place.larder(project, None, &["sync", "--trust"]));
    }
}

fn configure(project: &Path, patterns: &str, store: &Path) {
    let config = format!(
        r#"{{ "appId": "bench", "syncFilePatterns": [{patterns}], "peers": {{ "store": "{}" }}, "intervalSecs": 3600 }}"#,
        store.display()
    );
    fs::write(project.join("sync-config.json"), config).expect("write the config");
}

/// The names of a tree, from its root, in the order of a walk.
pub struct Files {
    small: Vec<PathBuf>,
    big: PathBuf,
}

impl Files {
    /// Of the plain side; the other has the same.
    pub fn of(plain: &Path) -> Files {
        let below = |top: &str| {
            let whole = files_of(&plain.join(top)).into_iter();
            whole.map(|path| path.strip_prefix(plain).expect("below it").to_owned()).collect::<Vec<_>>()
        };
        Files { small: below("small"), big: below("big").remove(0) }
    }
}

fn check_same(sides: &Sides, files: &Files) {
    for name in files.small.iter().chain([&files.big]) {
        let (plain, shown) = (fs::read(sides.plain.join(name)), fs::read(sides.shown.join(name)));
        assert!(plain.is_ok_and(|plain| shown.is_ok_and(|shown| plain == shown)), "{} differs", name.display());
    }
}

/// One way of reading a tree.
pub struct Case {
    /// Its name in the table.
    pub what: &'static str,
    warm: Option<f64>,
    cold: Option<f64>,
    has_cold: bool,
    work: fn(&Path, &Files, bool),
}

/// All ways, with what is wanted of each: warm, cold.
pub fn cases() -> Vec<Case> {
    let case = |what, warm, cold, work| Case { what, warm, cold, has_cold: true, work };
    let mut cases = vec![
        case("sequential, one file of 256 MiB", Some(0.5), Some(0.7), sequential),
        case("tar of all small files", Some(0.9), Some(2.0), |root, _, _| {
            shell(root, "tar -cf - small | cat >/dev/null")
        }),
        case("cat of all small files", Some(0.9), Some(2.0), |root, _, _| {
            shell(root, "find small -type f -print0 | xargs -0 cat >/dev/null");
        }),
        case("open, read, close of each", Some(0.7), None, open_each),
        Case { has_cold: false, ..case("stat of each", Some(0.75), None, stat_each) },
        case("find", Some(1.2), Some(0.9), |root, _, _| shell(root, "find . -type f | cat >/dev/null")),
        case("ls -lR", Some(1.1), Some(1.8), |root, _, _| shell(root, "ls -lR . | cat >/dev/null")),
        case("random reads of 4 KiB", Some(0.9), Some(0.55), random),
    ];
    if has("rg") {
        let search: fn(&Path, &Files, bool) =
            |root, _, _| shell(root, &format!("rg -uuu -c {NEEDLE} small | cat >/dev/null"));
        cases.insert(3, case("rg", Some(0.8), Some(1.4), search));
    } else {
        println!("rg is not installed: not measured");
    }
    cases
}

/// Does one thing on both sides in turn. Warm, each side has done it once before; cold, `anew` begins the view's process before each.
pub fn in_turn(
    case: &Case,
    sides: &Sides,
    files: &Files,
    rounds: usize,
    mut anew: Option<&mut dyn FnMut()>,
) -> Vec<Pair> {
    let is_warm = anew.is_none();
    if is_warm {
        (case.work)(&sides.plain, files, true);
        (case.work)(&sides.shown, files, true);
    }
    let mut measure = |root: &Path| {
        if let Some(anew) = &mut anew {
            anew();
            drop_caches().expect("it was allowed before");
        }
        let start = Instant::now();
        (case.work)(root, files, is_warm);
        start.elapsed().as_secs_f64() * 1000.0
    };
    (0..rounds)
        .map(|_| {
            let theirs = measure(&sides.plain);
            Pair { theirs, ours: measure(&sides.shown) }
        })
        .collect()
}

/// Makes the kernel forget what it read. Errors: why it may not be asked.
pub fn drop_caches() -> Result<(), String> {
    rustix::fs::sync();
    let why = |error| format!("the kernel's caches cannot be dropped here: {error}");
    fs::write("/proc/sys/vm/drop_caches", "3\n").map_err(why)
}

/// Runs a line of shell in a folder; what a program says is thrown away by another, since some do nothing when nobody listens.
pub fn shell(root: &Path, line: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(root).stdin(Stdio::null());
    let status = command.status().expect("run a shell");
    assert!(status.success(), "{line} in {}: {status}", root.display());
}

fn sequential(root: &Path, files: &Files, _is_warm: bool) {
    let mut buffer = vec![0; READ_BYTES];
    let mut file = fs::File::open(root.join(&files.big)).expect("open");
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).expect("read") {
            0 => break,
            count => bytes += count,
        }
    }
    assert_eq!(bytes, BIG_BYTES, "all of it");
}

fn open_each(root: &Path, files: &Files, _is_warm: bool) {
    let mut buffer = vec![0; READ_BYTES];
    for name in &files.small {
        let mut file = fs::File::open(root.join(name)).expect("open");
        while file.read(&mut buffer).expect("read") == READ_BYTES {}
    }
}

fn stat_each(root: &Path, files: &Files, _is_warm: bool) {
    let total: u64 = files.small.iter().map(|name| fs::symlink_metadata(root.join(name)).expect("stat").len()).sum();
    assert!(total > 0, "they hold something");
}

fn random(root: &Path, files: &Files, is_warm: bool) {
    let file = fs::File::open(root.join(&files.big)).expect("open");
    let (mut buffer, mut state) = ([0; 4096], 88_172_645_463_325_252_u64);
    for _ in 0..if is_warm { RANDOM_READS } else { COLD_RANDOM_READS } {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let page = state % (BIG_BYTES as u64 / 4096);
        file.read_exact_at(&mut buffer, page * 4096).expect("read");
    }
}

/// Waits until a view shows a folder.
pub fn until_shown(dir: &Path) {
    until("the view is there", || fs::read_dir(dir).is_ok());
}
