//! The view through the real program: what stood when, without a mount and with one, and the tree as plain files.
//!
//! Invariant: times come from runs that are told an earlier clock, never from waiting.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::guardian::{guardian_of, send};
use crate::support::{DAEMON_DEADLINE, Lab, finish, has_program, is_root, skip, until};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

#[test]
fn ls_and_cat_show_the_tree_as_it_was() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/docs/a.md", "old\n");
    a.write("shared/gone.md", "gone\n");
    a.sync_ago(10 * DAY_MS);
    a.write("shared/docs/a.md", "new\n");
    a.remove("shared/gone.md");
    // A deletion is believed at the second look.
    a.sync_ago(2 * HOUR_MS);
    a.sync_ago(2 * HOUR_MS - 1000);
    a.write("shared/later.md", "later\n");
    a.sync();

    let names = |words: &[&str]| {
        let listed = a.run([&["ls", "-R", "--json"], words].concat()).expect(0).json();
        let entries = listed["entries"].as_array().expect("a list").clone();
        entries.iter().map(|entry| entry["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["shared/docs/a.md", "shared/later.md"]);
    assert_eq!(names(&["--at", "1h"]), ["shared/docs/a.md"]);
    assert_eq!(names(&["--at", "3d"]), ["shared/docs/a.md", "shared/gone.md"]);
    assert!(names(&["--at", "11d"]).is_empty());
    assert_eq!(a.run(["cat", "shared/docs/a.md"]).expect(0).out, "new\n");
    assert_eq!(a.run(["cat", "shared/docs/a.md", "--at", "1d"]).expect(0).out, "old\n");
    assert_eq!(a.run(["cat", "shared/gone.md", "--at", "1d"]).expect(0).out, "gone\n");
    a.run(["cat", "shared/gone.md"]).expect(1).says("is deleted");
    a.run(["cat", "shared/later.md", "--at", "1h"]).expect(1).says("was not there");
    a.run(["cat", "shared/docs"]).expect(1).says("folder");
    a.run(["ls", "nowhere"]).expect(1).says("nothing is recorded");
    a.run(["ls", "--at", "soon"]).expect(1).says("no time");
    a.run(["ls", "--origin", "nobody-aaaaaa"]).expect(1).says("no machine");
}

#[test]
fn each_machine_is_shown_as_it_published() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("logs/run.txt", "of a\n");
    b.write("logs/run.txt", "of b\n");
    for project in [&a, &b, &a] {
        project.sync();
    }
    let origin = |project: &crate::support::Project| {
        project.run(["origin", "--json"]).expect(0).json()["origin"].as_str().expect("a name").to_owned()
    };
    let (of_a, of_b) = (origin(&a), origin(&b));

    assert_eq!(a.run(["cat", "logs/run.txt", "--origin", &of_b]).expect(0).out, "of b\n");
    assert_eq!(b.run(["cat", "logs/run.txt", "--origin", &of_a]).expect(0).out, "of a\n");
    a.run(["cat", "logs/run.txt"]).expect(1).says(&format!("run.{of_b}.txt"));
    assert_eq!(a.run(["cat", &format!("logs/run.{of_b}.txt")]).expect(0).out, "of b\n");
    let listed = a.run(["ls", "logs", "--json"]).expect(0).json();
    assert_eq!(listed["entries"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["entries"][0]["path"], "logs/run.txt");
}

#[test]
fn the_tree_is_written_as_plain_files_and_never_over_anything() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/docs/a.md", "old\n");
    a.write("shared/run.sh", "#!/bin/sh\n");
    fs::set_permissions(a.path("shared/run.sh"), fs::Permissions::from_mode(0o755)).expect("make it executable");
    a.sync_ago(2 * DAY_MS);
    a.write("shared/docs/a.md", "new\n");
    a.sync();
    let copy = |name: &str| a.at(&lab.path(name));
    let text = |name: &str| lab.path(name).to_str().expect("UTF-8").to_owned();

    a.run(["export", "--tree", &text("dry"), "--dry-run"]).expect(0).says("would write 2 files");
    assert!(!lab.path("dry").exists());
    a.run(["export", "--tree", &text("now")]).expect(0).says("wrote 2 files");
    a.run(["export", "--tree", &text("then"), "--at", "1d"]).expect(0);

    assert_eq!(copy("now").tree("shared"), a.tree("shared"));
    assert_eq!(copy("then").read("shared/docs/a.md").as_deref(), Some(&b"old\n"[..]));
    a.run(["export", "--tree", &text("now")]).expect(1).says("not empty");
    a.run(["export", "--tree", a.path("copy").to_str().expect("UTF-8")]).expect(1).says("inside the project");
    a.run(["export", "--at", "1d", &text("file")]).expect(1).says("--tree");
    a.run(["export"]).expect(1);
}

#[test]
fn stars_are_given_beside_a_daemon_and_shown_on_the_other_machine() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/docs/a.md", "a\n");
    a.write("shared/docs/b.md", "b\n");
    a.write("logs/run.txt", "of a\n");
    b.write("logs/run.txt", "of b\n");
    for project in [&a, &b, &a] {
        project.sync();
    }
    let of_b = b.run(["origin", "--json"]).expect(0).json()["origin"].as_str().expect("a name").to_owned();
    a.run(["star"]).expect(0).says("nothing has a star");
    a.run(["star", "nowhere.md"]).expect(1).says("has no versions");
    a.run(["star", "shared/docs"]).expect(1).says("has no versions");
    a.run(["star", "--remove"]).expect(1);

    a.run(["star", "shared/docs/a.md", "--dry-run"]).expect(0).says("would star shared/docs/a.md");
    let daemon = a.up();
    a.run(["star", "shared/docs/a.md"]).expect(0).says("starred shared/docs/a.md");
    let given = a.run(["star", "logs/run.txt", "--origin", &of_b, "--json"]).expect(0).json();
    assert_eq!((&given["by"], &given["stars"][0]["changed"]), (&"daemon".into(), &true.into()));
    a.run(["star", "shared/docs/a.md"]).expect(0).says("has a star already");
    daemon.stop();
    b.sync();

    let listed = b.run(["star", "--json"]).expect(0).json();
    let paths: Vec<&str> =
        listed["stars"].as_array().expect("a list").iter().filter_map(|star| star["path"].as_str()).collect();
    assert_eq!(paths, ["logs/run.txt", "shared/docs/a.md"]);
    assert_eq!(
        b.run(["ls", "--what", "all"]).expect(0).out,
        "conflicts/\nhistory/\nmerged/\norigins/\nstarred/\ntrash/\n"
    );
    b.run(["ls", "-R", "--what", "all"]).expect(0).says("starred/shared/docs/a.md");
    let starred = b.run(["ls", "-R", "--what", "starred"]).expect(0).out;
    assert_eq!(starred, format!("logs/run.{of_b}.txt\nshared/docs/a.md\n"));
    assert_eq!(b.run(["cat", "--what", "starred", "shared/docs/a.md"]).expect(0).out, "a\n");
    b.run(["cat", "--what", "starred", "shared/docs/b.md"]).expect(1).says("is not in what `--what starred` shows");
    let copy = lab.path("copy");
    b.run(["export", "--tree", copy.to_str().expect("UTF-8"), "--what", "all"]).expect(0);
    assert_eq!(fs::read(copy.join("starred/shared/docs/a.md")).expect("bytes"), b"a\n");
    assert_eq!(fs::read(copy.join(format!("origins/{of_b}/logs/run.txt"))).expect("bytes"), b"of b\n");
    b.run(["star", "shared/docs/a.md", "--remove"]).expect(0).says("took the star of shared/docs/a.md away");
    b.run(["star"]).expect(0).says(&format!("logs/run.txt of {of_b}  (by "));
}

#[test]
fn words_are_found_by_the_program_beside_a_daemon_and_after_damage() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/docs/a.md", "# Fruit\n\nan apple a day\n");
    b.write("logs/run.jsonl", "{\"fruit\":\"apple\"}\n");
    for project in [&b, &a] {
        project.sync();
    }
    let hits = |words: &[&str]| {
        let found = a.run([&["search", "--json"], words].concat()).expect(0).json();
        found["hits"].as_array().expect("a list").len()
    };

    assert_eq!(hits(&["apple"]), 2);
    assert_eq!(hits(&["apple", "path:docs"]), 1);
    assert_eq!(hits(&["\"apple a day\""]), 1);
    a.run(["search", "apple", "path:docs"]).expect(0).says("shared/docs/a.md").says(":3: an apple a day");
    a.run(["search", "plum"]).expect(0).says("nothing was found");
    a.run(["search", "--", "-apple"]).expect(1).says("at least one word");
    let daemon = a.up();
    a.write("shared/docs/b.md", "another apple\n");
    a.sync();
    assert_eq!(hits(&["apple"]), 3);
    daemon.stop();

    fs::write(a.path(".larder/fts.db"), "damaged").expect("damage it");
    assert_eq!(hits(&["apple"]), 3);
    a.run(["rebuild"]).expect(0);
    assert!(!a.path(".larder/fts.db").exists());
    assert_eq!(hits(&["apple"]), 3);
}

#[test]
fn a_tree_without_what_was_purged_says_why_and_has_the_rest() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/secret.md", "a password that slipped in\n");
    a.write("shared/other.md", "stays\n");
    a.sync();
    a.run(["purge", "shared/secret.md", "--yes"]).expect(0);
    let out = lab.path("out");

    let written = a.run(["export", "--tree", out.to_str().expect("UTF-8")]).expect(1);

    assert!(written.out.contains("shared/secret.md: its content was purged on "), "{written:#?}");
    assert_eq!(fs::read_to_string(out.join("shared/other.md")).expect("written"), "stays\n");
    assert!(!out.join("shared/secret.md").exists());
}

/// True if this machine can mount; says aloud if not.
pub fn can_mount(test: &str) -> bool {
    if !Path::new("/dev/fuse").exists() {
        skip(test, "no /dev/fuse");
        return false;
    }
    if !is_root() && !has_program("fusermount3") {
        skip(test, "fusermount3 is not installed");
        return false;
    }
    true
}

#[test]
fn a_view_in_the_background_stays_until_it_is_taken_down_and_a_dead_one_is_cleared() {
    const TEST: &str = "a_view_in_the_background_stays_until_it_is_taken_down_and_a_dead_one_is_cleared";
    if !can_mount(TEST) {
        return;
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let view = lab.path("view");
    let dir = view.to_str().expect("UTF-8");
    let shown = || fs::read_to_string(view.join("merged/shared/one.md")).ok();

    a.run(["mount", "-d", dir]).expect(0).says("mounted at");
    assert_eq!(shown().as_deref(), Some("one\n"));
    a.run(["mount", "-d", dir]).expect(1).says("a view is mounted there already");
    a.run(["umount", dir]).expect(0);
    assert_eq!(shown(), None);
    a.run(["mount", "-d", a.path("inside").to_str().expect("UTF-8")]).expect(1).says("inside the project");
    a.run(["mount", "-o", "rw", dir]).expect(1).says("read-only");
    a.run(["mount", "-o", "sync", dir]).expect(1).says("unknown");

    let mounted = a.run(["mount", "-d", "-o", "ro,nosuid,x-systemd.automount", "--json", dir]).expect(0).json();
    let pid = i32::try_from(mounted["pid"].as_i64().expect("a number")).expect("a process id");
    assert_eq!(shown().as_deref(), Some("one\n"));
    // Without its guardian it stays dead.
    let pid = u32::try_from(pid).expect("a process id");
    for process in [guardian_of(pid), pid] {
        send(process, rustix::process::Signal::KILL);
    }
    until("the view is dead", DAEMON_DEADLINE, || a.run(["doctor"]).expect(0).said().contains("has lost its process"));
    a.run(["doctor", "--fix"]).expect(0).says("was taken down");
    assert!(fs::read_dir(&view).is_ok_and(|mut entries| entries.next().is_none()), "nothing is mounted");
    assert!(!a.run(["doctor"]).expect(0).said().contains(dir));
}

#[test]
fn what_was_purged_is_shown_no_more_by_a_view_in_which_it_was_read() {
    const TEST: &str = "what_was_purged_is_shown_no_more_by_a_view_in_which_it_was_read";
    if !can_mount(TEST) {
        return;
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/secret.md", "geheim\n");
    a.write("shared/kept.md", "kept\n");
    a.sync();
    let dir = lab.path("view");
    a.run(["mount", "-d", dir.to_str().expect("UTF-8")]).expect(0);
    let shown = |path: &str| fs::read(dir.join(path));
    // The kernel holds them from here on, and asks nobody.
    assert_eq!(shown("merged/shared/secret.md").expect("is shown"), b"geheim\n");
    assert_eq!(shown("merged/shared/kept.md").expect("is shown"), b"kept\n");
    let before = fs::File::open(dir.join("merged/shared/secret.md")).expect("opens");

    a.run(["purge", "shared/secret.md", "--yes"]).expect(0);

    until("the view lets go of it", DAEMON_DEADLINE, || shown("merged/shared/secret.md").is_err());
    assert!(before.read_at(&mut [0; 7], 0).is_err(), "nor does an open file show it");
    assert_eq!(shown("merged/shared/kept.md").expect("is shown"), b"kept\n");
    a.run(["umount", dir.to_str().expect("UTF-8")]).expect(0);
}

/// Text that is long enough to be copied and different everywhere.
fn long_text(seed: u64) -> String {
    (0..300_000_u64).map(|line| format!("{:x}\n", (line ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
}

#[test]
fn long_files_are_read_from_copies_that_end_with_a_purge_and_with_the_process() {
    const TEST: &str = "long_files_are_read_from_copies_that_end_with_a_purge_and_with_the_process";
    if !can_mount(TEST) {
        return;
    }
    if !is_root() {
        return skip(TEST, "only root can have the kernel read copies");
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    let (secret, kept) = (long_text(1), long_text(2));
    a.write("shared/secret.txt", &secret);
    a.write("shared/kept.txt", &kept);
    a.sync();
    let view = lab.path("view");
    let dir = view.to_str().expect("UTF-8");
    let shown = |name: &str| fs::read(view.join("merged/shared").join(name));
    a.run(["mount", "-d", "--cache-size", "64MiB", dir]).expect(1).says("--passthrough");
    a.run(["mount", "-d", "--passthrough", "--cache-size", "4KiB", dir]).expect(1).says("1 MiB at least");
    a.run(["mount", "-d", "-o", "cache_size=64MiB", dir]).expect(1).says("add `passthrough`");
    a.run(["up", "--passthrough"]).expect(1).says("add `--mount DIR`");

    let mounted = a.run(["mount", "-d", "-o", "passthrough,cache_size=64MiB", "--json", dir]).expect(0);
    if mounted.said().contains("read as usual") {
        // An older kernel, or a file system that knows no files without a name.
        skip(TEST, "this system has no copies");
    }
    let pid = i32::try_from(mounted.json()["pid"].as_i64().expect("a number")).expect("a process id");
    assert!(shown("secret.txt").expect("is shown") == secret.as_bytes());
    assert!(shown("kept.txt").expect("is shown") == kept.as_bytes());
    let before = fs::File::open(view.join("merged/shared/secret.txt")).expect("opens");
    assert_eq!(before.read_at(&mut [0; 7], 0).expect("bytes"), 7);
    a.run(["purge", "shared/secret.txt", "--yes"]).expect(0);
    until("the view lets go of it", DAEMON_DEADLINE, || shown("secret.txt").is_err());
    assert!(!before.read_at(&mut [0; 7], 0).is_ok_and(|read| read > 0), "nor does an open file show it");
    assert!(shown("kept.txt").expect("is shown") == kept.as_bytes());

    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    until("the view is gone", DAEMON_DEADLINE, || fs::read_dir(&view).is_ok_and(|mut names| names.next().is_none()));
    let left = fs::read_dir(a.path(".larder/cache")).map(Iterator::count).unwrap_or_default();
    assert_eq!(left, 0, "copies have no names");
    a.sync();
    // And with the daemon.
    let daemon = a.up_with(["--mount", dir, "--passthrough"]);
    until("the daemon shows it", DAEMON_DEADLINE, || shown("kept.txt").is_ok_and(|bytes| bytes == kept.as_bytes()));
    daemon.stop();
}

#[test]
fn a_view_with_rings_follows_ends_with_its_process_and_is_the_usual_one_where_there_are_none() {
    const TEST: &str = "a_view_with_rings_follows_ends_with_its_process_and_is_the_usual_one_where_there_are_none";
    if !can_mount(TEST) {
        return;
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/a.md", "one\n");
    a.sync();
    let view = lab.path("view");
    let dir = view.to_str().expect("UTF-8");
    let shown = || fs::read_to_string(view.join("merged/shared/a.md")).unwrap_or_default();
    a.run(["mount", "-d", "--io-uring", "--passthrough", dir]).expect(1).says("--passthrough");
    a.run(["mount", "-d", "-o", "io_uring,passthrough", dir]).expect(1).says("leave one of them out");
    a.run(["up", "--io-uring"]).expect(1).says("add `--mount DIR`");

    // Whoever does not ask for rings is served as before.
    let offer = "/sys/module/fuse/parameters/enable_uring";
    let _ = fs::write(offer, "1");
    let is_offered = fs::read_to_string(offer).is_ok_and(|offer| offer.trim() == "Y");
    let mounted = a.run(["mount", "-d", "-o", "io_uring", "--json", dir]).expect(0);
    assert_eq!(mounted.said().contains("take requests through io_uring"), !is_offered, "{}", mounted.said());
    assert_eq!(shown(), "one\n");
    a.write("shared/a.md", "one\ntwo\n");
    a.sync();
    until("the view follows", DAEMON_DEADLINE, || shown() == "one\ntwo\n");

    let pid = i32::try_from(mounted.json()["pid"].as_i64().expect("a number")).expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    until("the view is gone", DAEMON_DEADLINE, || !view.join("merged").exists());
    let daemon = a.up_with(["--mount", dir, "--io-uring"]);
    until("the daemon shows it", DAEMON_DEADLINE, || shown() == "one\ntwo\n");
    daemon.stop();
    if !is_offered {
        println!("skipped {TEST}: rings; {offer} is not on, and cannot be turned on here");
    }
}

#[test]
fn a_view_is_mounted_anew_when_the_index_was_made_anew() {
    const TEST: &str = "a_view_is_mounted_anew_when_the_index_was_made_anew";
    if !can_mount(TEST) {
        return;
    }
    let lab = Lab::new();
    let (a, b) = lab.pair();
    let view = lab.path("view");
    let dir = view.to_str().expect("UTF-8");
    let shown = |name: &str| fs::read_to_string(view.join("merged/shared").join(name)).ok();
    // Made anew, the index numbers what came in turns one machine after the other.
    for number in 0..4 {
        a.write(format!("shared/a{number}.md"), format!("a{number}\n"));
        b.write(format!("shared/b{number}.md"), format!("b{number}\n"));
        [&a, &b, &a].into_iter().for_each(|project| drop(project.sync()));
    }
    let names: Vec<String> =
        ["a", "b"].iter().flat_map(|by| (0..4).map(move |number| format!("{by}{number}"))).collect();
    let is_right = |name: &String| shown(&format!("{name}.md")).is_some_and(|text| text == format!("{name}\n"));
    let is_wrong = |name: &String| shown(&format!("{name}.md")).is_some_and(|text| text != format!("{name}\n"));
    a.run(["mount", "-d", dir]).expect(0);
    assert!(names.iter().all(is_right));

    a.run(["rebuild"]).expect(0);
    a.write("shared/late.md", "late\n");
    a.sync();

    until("what came after is shown", DAEMON_DEADLINE, || {
        assert!(!names.iter().any(is_wrong), "no file shows the bytes of another");
        shown("late.md").as_deref() == Some("late\n")
    });
    assert!(names.iter().all(is_right));
    a.run(["umount", dir]).expect(0);
}

#[test]
fn a_damaged_index_beneath_a_view_is_said_and_made_anew_by_the_next_run() {
    const TEST: &str = "a_damaged_index_beneath_a_view_is_said_and_made_anew_by_the_next_run";
    if !can_mount(TEST) {
        return;
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    for number in 0..300 {
        a.write(format!("shared/{number:03}.md"), format!("{number}\n"));
    }
    a.sync();
    // Made anew, all of it stands in the file; a short log stays all the same, and would heal it.
    a.run(["rebuild"]).expect(0);
    let _ = fs::remove_file(a.path(".larder/index.db-wal"));
    let view = lab.path("view");
    let dir = view.to_str().expect("UTF-8");
    let shown = || {
        fs::read_dir(view.join("merged/shared")).and_then(Iterator::collect::<Result<Vec<_>, _>>).map(|all| all.len())
    };
    a.run(["mount", "-d", dir]).expect(0);

    // Every page but the first, which says what tables there are.
    let index = a.path(".larder/index.db");
    let file = fs::File::options().write(true).open(&index).expect("the index");
    let bytes = file.metadata().expect("facts").len();
    (4096..bytes).step_by(4096).for_each(|page| file.write_all_at(&[0xaa; 8], page).expect("damaged"));
    assert!(shown().is_err());
    let said = a.run(["status"]).said();
    assert!(said.contains("larder rebuild"), "{said}");

    a.sync();

    until("the view is whole again", DAEMON_DEADLINE, || shown().is_ok_and(|names| names == 300));
    assert!(!a.run(["status"]).expect(0).said().contains("(index)"));
    a.run(["umount", dir]).expect(0);
}

#[test]
fn fstabs_helper_mounts_in_the_background() {
    const TEST: &str = "fstabs_helper_mounts_in_the_background";
    if !can_mount(TEST) {
        return;
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let view = lab.path("view");
    let helper = lab.path("mount.larder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_larder"), &helper).expect("a link");

    let like = a.command(["status"]);
    let mut command = Command::new(&helper);
    command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.arg(&a.dir).arg(&view).args(["-n", "-o", "ro,noatime,_netdev"]);
    finish(command).expect(0).says("mounted at");

    assert_eq!(fs::read_to_string(view.join("merged/shared/one.md")).expect("shown"), "one\n");
    a.run(["umount", view.to_str().expect("UTF-8")]).expect(0);
}

/// The units as they ship, with the program of this build; only where systemd can be asked what it makes of them.
#[test]
fn what_ships_for_systemd_is_as_systemd_reads_it() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let read = |name: &str| fs::read_to_string(shipped.join(name)).expect("it ships");
    let (service, mount) = (read("larder@.service"), read("mnt-project.mount"));
    assert!(service.contains("ExecStart=/usr/local/bin/larder --project %f up"));
    assert!(mount.contains("Type=larder") && mount.contains("Where=/mnt/project"));
    if !has_program("systemd-analyze") {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    let temp = tempfile::tempdir().expect("a folder");
    let service = service.replace("/usr/local/bin/larder", env!("CARGO_BIN_EXE_larder"));
    fs::write(temp.path().join("larder@home-anna-project.service"), service).expect("written");
    fs::write(temp.path().join("mnt-project.mount"), mount).expect("written");

    for (unit, scope) in [("larder@home-anna-project.service", "--user"), ("mnt-project.mount", "--system")] {
        let mut command = Command::new("systemd-analyze");
        command.args([scope, "--man=no", "verify"]).arg(temp.path().join(unit));
        command.env("XDG_RUNTIME_DIR", temp.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = finish(command).expect(0);
        let about_us: Vec<&str> =
            said.err.lines().filter(|line| line.contains("larder") || line.contains(unit)).collect();
        assert!(about_us.is_empty(), "{unit}: {about_us:?}");
    }
}
