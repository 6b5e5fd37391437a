//! What comes in wrong gets a clear sentence, the right exit code, and loses nothing.
//!
//! Invariant of every test: the good files beside the bad thing still arrive, and `larder verify` is clean at the end.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{
    CONFIG, DAEMON_DEADLINE, Daemon, Lab, NOBODY, Outcome, Project, Rows, finish, has_program, is_root, skip,
    started_by, until,
};
use crate::tracer::{self, Act};

#[track_caller]
fn arrived(project: &Project, path: &str, content: &str) {
    assert_eq!(project.read(path).as_deref(), Some(content.as_bytes()), "{path}");
}

#[test]
fn a_malformed_config_is_shown_with_its_place_and_the_nearest_key() {
    let lab = Lab::new();
    let cases: [(&str, &[&str]); 7] = [
        ("{\n  \"syncFilePatern\": [\"**/*.md\"]\n}", &["sync-config.json:2:3", "syncFilePatterns"]),
        ("{\n  \"syncFilePatterns\": \"**/*.md\"\n}", &["sync-config.json:2:"]),
        ("{\n  \"syncFilePatterns\": [\"a/[z\"]\n}", &["sync-config.json:2:", "a/[z"]),
        ("{\n  \"intervalSecs\": \"soon\"\n}", &["sync-config.json:2:", "intervalSecs"]),
        ("{\n  \"syncFilePatterns\": [\"**\"],\n", &["sync-config.json:"]),
        ("{ \"root\": \"../..\" }", &["sync-config.json:1:", "root"]),
        ("", &["sync-config.json"]),
    ];
    for (number, (config, parts)) in cases.into_iter().enumerate() {
        let project = lab.project(&format!("project-{number}"), config);
        project.write("note.md", "note\n");

        for command in ["sync", "status", "config", "up"] {
            let mut outcome = project.run([command]).expect(1);
            for part in parts {
                outcome = outcome.says(part);
            }
        }
        arrived(&project, "note.md", "note\n");
    }
}

#[test]
fn an_unknown_backend_is_refused_with_the_ones_there_are() {
    let lab = Lab::new();
    let a = lab.project("a", CONFIG).with_var("FILE_SYNC_BACKEND", "oracel:thing");
    a.write("shared/note.md", "note\n");

    a.run(["sync"]).expect(1).says("oracel").says("sqlite");
    arrived(&a, "shared/note.md", "note\n");
    assert!(!a.path("oracel:thing").exists());
}

#[test]
fn a_backend_outside_the_folder_needs_consent_once() {
    let lab = Lab::new();
    let config = CONFIG.replace("\"appId\"", "\"backend\": \"sqlite:../elsewhere.db\", \"appId\"");
    let a = lab.project("a", &config);
    a.write("shared/note.md", "note\n");

    a.run(["sync"]).expect(1).says("`larder sync --trust` agrees");
    assert!(!lab.path("elsewhere.db").exists());

    a.run(["sync", "--trust"]).expect(0);
    a.sync();
    assert_eq!(Rows::open(&lab.path("elsewhere.db")).content("shared/note.md").as_deref(), Some("note\n"));
    a.verify();
}

/// A pair whose folders belong to nobody, run as nobody; `None` (aloud) where the tests do not run as root.
fn pair_of_nobody(lab: &Lab, test: &str) -> Option<(Project, Project)> {
    if !is_root() {
        skip(test, "only root can run a command as somebody else");
        return None;
    }
    let (a, b) = lab.pair();
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
    give_away(&lab.path(""));
    Some((a.with_user(NOBODY), b.with_user(NOBODY)))
}

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            give_away(&entry.expect("list").path());
        }
    }
}

fn is_runnable_by_nobody(test: &str) -> bool {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    let runs = command.arg("--version").uid(NOBODY).gid(NOBODY).output().is_ok_and(|output| output.status.success());
    if !runs {
        skip(test, "the folder of the built binary is closed to other users");
    }
    runs
}

#[test]
fn an_unreadable_file_is_named_and_the_others_go_on() {
    const TEST: &str = "an_unreadable_file_is_named_and_the_others_go_on";
    let lab = Lab::new();
    let Some((a, b)) = pair_of_nobody(&lab, TEST) else {
        return;
    };
    if !is_runnable_by_nobody(TEST) {
        return;
    }
    a.write("shared/before.md", "before\n");
    a.write("shared/open.md", "open\n");
    give_away(&a.dir);
    a.sync();
    b.sync();
    fs::set_permissions(a.path("shared/before.md"), fs::Permissions::from_mode(0o000)).expect("chmod");
    a.write("shared/closed.md", "closed\n");
    fs::set_permissions(a.path("shared/closed.md"), fs::Permissions::from_mode(0o000)).expect("chmod");
    fs::create_dir(a.path("shared/folder")).expect("make");
    a.write("shared/folder/inside.md", "inside\n");
    fs::set_permissions(a.path("shared/folder"), fs::Permissions::from_mode(0o000)).expect("chmod");
    a.write("shared/open.md", "open, edited\n");
    chown(a.path("shared/closed.md"), Some(0), Some(0)).expect("chown");
    chown(a.path("shared/folder"), Some(0), Some(0)).expect("chown");

    a.run(["sync"]).says("shared/closed.md").says("shared/folder");
    b.sync();

    arrived(&b, "shared/open.md", "open, edited\n");
    arrived(&b, "shared/before.md", "before\n");
    a.run(["status"]).says("shared/closed.md");
    fs::set_permissions(a.path("shared/folder"), fs::Permissions::from_mode(0o755)).expect("chmod");
    a.verify();
    b.verify();
}

#[test]
fn a_read_only_target_waits_and_is_named() {
    const TEST: &str = "a_read_only_target_waits_and_is_named";
    let lab = Lab::new();
    let Some((a, b)) = pair_of_nobody(&lab, TEST) else {
        return;
    };
    if !is_runnable_by_nobody(TEST) {
        return;
    }
    a.write("shared/closed/one.md", "one\n");
    a.write("shared/open/two.md", "two\n");
    give_away(&a.dir);
    a.sync();
    b.sync();
    fs::set_permissions(b.path("shared/closed"), fs::Permissions::from_mode(0o555)).expect("chmod");
    a.write("shared/closed/one.md", "one, edited\n");
    a.write("shared/open/two.md", "two, edited\n");
    a.sync();

    let outcome = b.run(["sync"]);

    assert_ne!(outcome.code, Some(70), "{outcome:#?}");
    outcome.says("shared/closed/one.md");
    arrived(&b, "shared/closed/one.md", "one\n");
    arrived(&b, "shared/open/two.md", "two, edited\n");
    fs::set_permissions(b.path("shared/closed"), fs::Permissions::from_mode(0o755)).expect("chmod");
    b.sync();
    arrived(&b, "shared/closed/one.md", "one, edited\n");
    a.verify();
    b.verify();
}

#[test]
fn pipes_sockets_and_devices_are_passed_by() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/fine.md", "fine\n");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, a.path("shared/pipe.md"), rustix::fs::FileType::Fifo, mode, 0)
        .expect("mkfifo");
    let _socket = UnixListener::bind(a.path("shared/socket.md")).expect("bind");
    if is_root() {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            a.path("shared/null.md"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            null,
        )
        .expect("mknod");
    }

    a.sync();
    b.sync();

    arrived(&b, "shared/fine.md", "fine\n");
    assert_eq!(b.tree("shared").len(), 1);
    a.run(["status"]).says("shared/pipe.md");
    a.verify();
    b.verify();
}

#[test]
fn a_link_out_of_the_root_is_never_followed_and_never_written() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    fs::write(lab.path("secret.txt"), "secret\n").expect("write");
    fs::create_dir(lab.path("outside")).expect("make");
    fs::write(lab.path("outside/inner.md"), "outside\n").expect("write");
    a.write("shared/fine.md", "fine\n");
    symlink("../../secret.txt", a.path("shared/up.md")).expect("link");
    symlink(lab.path("secret.txt"), a.path("shared/absolute.md")).expect("link");
    symlink(lab.path("outside"), a.path("shared/folder")).expect("link");

    a.run(["sync"]);
    b.run(["sync"]);

    arrived(&b, "shared/fine.md", "fine\n");
    for name in ["up.md", "absolute.md", "folder", "folder/inner.md"] {
        assert!(b.path("shared").join(name).symlink_metadata().is_err(), "{name}");
    }
    assert!(lab.rows().content("shared/folder/inner.md").is_none());

    // A folder of b that turned into a link must not lead writes out of the root either.
    a.write("shared/deep/one.md", "one\n");
    symlink(lab.path("outside"), b.path("shared/deep")).expect("link");
    a.run(["sync"]);
    b.run(["sync"]);
    assert!(!lab.path("outside/one.md").exists());
    assert_eq!(fs::read(lab.path("outside/inner.md")).expect("still there"), b"outside\n");
    a.verify();
    b.verify();
}

#[test]
fn hostile_names_reach_no_terminal_as_they_are() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/\x1b[2J\x07evil\r.md", "evil\n");
    a.write("shared/line\nbreak.md", "break\n");
    a.sync();
    a.write("shared/\x1b[2J\x07evil\r.md", "edited\n");

    for command in [
        &["status"][..],
        &["log"],
        &["diff"],
        &["sync"],
        &["log", "--json"],
        &["explain", "shared/\x1b[2J\x07evil\r.md"],
    ] {
        let said = a.run(command).said();
        assert!(!said.contains(['\x1b', '\x07', '\r']), "{command:?}: {said:?}");
    }
    a.verify();
}

#[test]
fn what_is_denied_never_leaves_and_never_lands() {
    let lab = Lab::new();
    let config = CONFIG.replace("\"shared/**\"", "\"**\"");
    let pair = ["a", "b"].map(|name| lab.project(name, &config).with_backend(&lab.path("shared.db")));
    let [a, b] = pair;
    a.write("fine.md", "fine\n");
    let denied =
        [".env", "sub/.ENV.local", "id_rsa", "key.pem", ".git/config", "node_modules/x/index.js", "data.db", ".npmrc"];
    for name in denied {
        a.write(name, "secret\n");
    }
    a.write("looks-harmless.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n");
    a.write("also-harmless.txt", b"SQLite format 3\0and the rest");
    a.run(["sync"]);

    let rows = lab.rows();
    for path in [".env", "../outside.md", "/tmp/outside.md", "sub/../../outside.md", "x/.git/hooks/post-checkout"] {
        rows.execute(
            "INSERT INTO files (id, path, content, app, owner_id) VALUES ('lab:' || ?1, ?1, 'planted', 'lab', 'shared')",
            [path],
        );
    }
    for project in [&b, &a, &b] {
        project.run(["sync"]);
    }

    arrived(&b, "fine.md", "fine\n");
    for name in denied.into_iter().chain(["looks-harmless.txt", "also-harmless.txt", "x/.git/hooks/post-checkout"]) {
        assert!(!b.path(name).exists(), "{name} landed");
    }
    assert!(!lab.path("outside.md").exists());
    let dump = [a.tree(".larder/ledger"), b.tree(".larder/ledger")];
    assert!(dump.iter().all(|tree| !tree.is_empty()));
    for path in denied.into_iter().filter(|path| *path != ".env") {
        assert!(rows.content(path).is_none(), "{path} has a row");
    }
    a.verify();
    b.verify();
}

#[test]
fn a_file_above_the_bound_is_listed_and_the_others_go_on() {
    let lab = Lab::new();
    let config = CONFIG.replace("\"appId\"", "\"maxFileBytes\": 1000, \"appId\"");
    let a = lab.project("a", &config).with_backend(&lab.path("shared.db"));
    a.write("shared/large.md", "x".repeat(1001));
    a.write("shared/small.md", "small\n");

    a.run(["sync"]);

    a.run(["status"]).says("shared/large.md");
    assert_eq!(lab.rows().content("shared/small.md").as_deref(), Some("small\n"));
    assert!(lab.rows().content("shared/large.md").is_none());
    a.verify();
}

/// A small file system in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> std::io::Result<SmallDisk> {
        fs::create_dir_all(&at)?;
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at).status()?;
        if status.success() { Ok(SmallDisk(at)) } else { Err(std::io::Error::other("mount refused")) }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still stand in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    const TEST: &str = "a_full_disk_loses_nothing_and_goes_on_when_there_is_room";
    if !is_root() {
        return skip(TEST, "only root can mount a small disk");
    }
    let lab = Lab::new();
    let Ok(disk) = SmallDisk::mount(lab.path("small"), "6m") else {
        return skip(TEST, "mounting is not permitted here");
    };
    let (a, _) = lab.pair();
    let b = lab.project("small/b", CONFIG).with_backend(&lab.path("shared.db"));
    a.write("shared/kept.md", "kept\n");
    a.sync();
    b.sync();
    for n in 0..12 {
        // Different everywhere, so that neither compression nor deduplication makes it small.
        let bytes: Vec<u8> = blake3::Hasher::new().update(&[n]).finalize_xof().bytes(1 << 20);
        a.write(format!("shared/{n}.bin"), bytes);
    }
    a.write("shared/kept.md", "kept, edited\n");
    a.sync();

    let outcome = b.run(["sync"]);

    assert!(!matches!(outcome.code, Some(0 | 70) | None), "{outcome:#?}");
    let kept = b.read("shared/kept.md").expect("never gone");
    assert!(kept == b"kept\n" || kept == b"kept, edited\n", "torn: {kept:?}");
    for (name, leaf) in b.tree("shared") {
        let source = a.tree("shared").remove(&name);
        assert!(name == b"kept.md" || source == Some(leaf), "torn: {}", String::from_utf8_lossy(&name));
    }

    let grown = Command::new("mount").args(["-o", "remount,size=200m"]).arg(&disk.0).status().expect("run mount");
    assert!(grown.success());
    b.sync();
    assert_eq!(b.tree("shared"), a.tree("shared"));
    a.verify();
    b.verify();
}

#[test]
fn a_daemon_that_begins_on_a_full_disk_goes_on_when_there_is_room() {
    const TEST: &str = "a_daemon_that_begins_on_a_full_disk_goes_on_when_there_is_room";
    if !is_root() {
        return skip(TEST, "only root can mount a small disk");
    }
    let lab = Lab::new();
    let Ok(disk) = SmallDisk::mount(lab.path("small"), "6m") else {
        return skip(TEST, "mounting is not permitted here");
    };
    let (a, _) = lab.pair();
    let b = lab.project("small/b", CONFIG).with_backend(&lab.path("shared.db"));
    b.sync();
    a.write("shared/one.md", "one\n");
    a.sync();
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 8 << 20]).expect_err("the disk is full before that");

    let mut daemon = Daemon::start(b.command(["up"]));
    daemon.wait_for("a run failed and is tried again");
    assert_eq!(b.read("shared/one.md"), None);
    fs::remove_file(&filler).expect("removes");
    daemon.wait_ready();

    until("the file arrives", DAEMON_DEADLINE, || b.read("shared/one.md").is_some());
    daemon.stop();
    b.verify();
}

#[test]
fn files_on_another_disk_are_durable_before_they_take_their_places_and_their_places_after() {
    const TEST: &str = "files_on_another_disk_are_durable_before_they_take_their_places_and_their_places_after";
    if !is_root() {
        return skip(TEST, "only root can mount a small disk");
    }
    let lab = Lab::new();
    let (a, _) = lab.pair();
    let Ok(disk) = SmallDisk::mount(lab.path("small"), "16m") else {
        return skip(TEST, "mounting is not permitted here");
    };
    let b = lab.project("small/b", CONFIG).with_backend(&lab.path("shared.db"));
    // What is staged and recorded stands elsewhere than the files.
    let Ok(_own) = SmallDisk::mount(b.path(".larder"), "64m") else {
        return skip(TEST, "mounting is not permitted here");
    };
    let device = fs::metadata(&disk.0).expect("look at the disk").dev();
    // Few of one folder wait for the disk one by one, many of many folders all at once.
    let few = ["0/0.md", "0/1.md"].map(str::to_owned).to_vec();
    let many: Vec<String> = (0..12).map(|n| format!("{n}/many.md")).collect();
    for names in [few, many] {
        let paths: Vec<String> = names.iter().map(|name| format!("shared/{name}")).collect();
        for text in [Some("written\n"), Some("edited\n"), None] {
            for path in &paths {
                text.map_or_else(|| a.remove(path), |text| a.write(path, text));
            }
            a.sync();

            let acts = match tracer::acts_on(b.command(["sync"]), device) {
                Ok(acts) => acts,
                Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
            };

            let expected: &[Act] = match text {
                Some(_) => &[Act::Synced, Act::Named, Act::Synced],
                None => &[Act::Named, Act::Synced],
            };
            assert_eq!(acts, expected, "{} files, {text:?}", paths.len());
            for path in &paths {
                assert_eq!(b.read(path).as_deref(), text.map(str::as_bytes), "{path}");
            }
        }
    }
    a.verify();
    b.verify();
}

#[test]
fn a_file_that_the_disk_does_not_give_holds_up_no_other_and_is_named() {
    const TEST: &str = "a_file_that_the_disk_does_not_give_holds_up_no_other_and_is_named";
    let reads = [libc::SYS_read, libc::SYS_pread64];
    // Read at once, and in pieces.
    for (name, bytes) in [("small.md", 10), ("large.md", 300_000), ("large.jsonl", 300_000)] {
        let lab = Lab::new();
        let (a, b) = lab.pair();
        let path = format!("shared/{name}");
        a.write(&path, "one line\n".repeat(bytes / 9));
        a.write("shared/beside.md", "beside\n");

        let ended = tracer::run_refusing(a.command(["sync"]), &reads, libc::EIO, |file| file.ends_with(name));
        let code = match ended {
            Ok(code) => code,
            Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
        };

        assert_eq!(code, 0, "{name}");
        a.run(["status"]).says(&path).says("cannot be read");
        b.sync();
        arrived(&b, "shared/beside.md", "beside\n");
        assert!(!b.path(&path).exists(), "{name}");
        a.sync();
        b.sync();
        assert_eq!(b.read(&path), a.read(&path), "{name}");
    }
}

#[test]
fn what_was_staged_and_cannot_be_made_durable_does_not_stay_on_a_full_disk() {
    const TEST: &str = "what_was_staged_and_cannot_be_made_durable_does_not_stay_on_a_full_disk";
    let syncs = [libc::SYS_fsync, libc::SYS_fdatasync];
    let lab = Lab::new();
    let (a, b) = lab.pair();
    ["one", "two"].iter().for_each(|name| a.write(format!("shared/{name}.md"), "text\n"));
    a.sync();
    let stage = b.path(".larder/displaced");

    let is_staged = |file: &Path| file.parent().is_some_and(|folder| folder.ends_with(".larder/displaced"));
    let code = match tracer::run_refusing(b.command(["sync"]), &syncs, libc::ENOSPC, is_staged) {
        Ok(code) => code,
        Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
    };

    assert_ne!(code, 0);
    assert_eq!(fs::read_dir(stage).expect("list").count(), 0);
    b.sync();
    arrived(&b, "shared/one.md", "text\n");
}

#[test]
fn what_comes_for_a_folder_on_another_disk_waits_until_it_is_the_projects_own() {
    const TEST: &str = "what_comes_for_a_folder_on_another_disk_waits_until_it_is_the_projects_own";
    if !is_root() {
        return skip(TEST, "only root can mount a small disk");
    }
    let lab = Lab::new();
    let (a, b) = lab.pair();
    let names = ["shared/disk/kept.md", "shared/disk/below/kept.md", "shared/other.md"];
    names.iter().for_each(|name| a.write(name, "one\n"));
    a.sync();
    b.sync();
    let Ok(disk) = SmallDisk::mount(b.path("shared/disk"), "1m") else {
        return skip(TEST, "mounting is not permitted here");
    };
    b.write("shared/disk/kept.md", "of the disk\n");
    names.iter().for_each(|name| a.write(name, "two\n"));
    a.write("shared/disk/new/new.md", "new\n");
    a.sync();

    b.run(["sync"]);

    assert_eq!(b.read("shared/other.md").as_deref(), Some(&b"two\n"[..]));
    let on_it: Vec<_> = b.tree("shared/disk").into_iter().collect();
    assert_eq!(on_it.len(), 1, "{on_it:?}");
    assert_eq!(b.read("shared/disk/kept.md").as_deref(), Some(&b"of the disk\n"[..]));
    b.run(["status"]).says("it is on another file system, and left out");
    a.sync();
    assert_eq!(a.read("shared/disk/kept.md").as_deref(), Some(&b"two\n"[..]), "nothing of it was taken as an edit");

    drop(disk);
    b.sync();
    assert_eq!(b.tree("shared"), a.tree("shared"));
    b.verify();
}

#[test]
fn many_files_arrive_where_a_process_may_open_few() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for n in 0..400 {
        a.write(format!("shared/{}/{n}.md", n % 40), format!("{n}\n"));
    }
    a.sync();

    let sync = b.command(["sync"]);
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 200 && exec \"$@\"", "sh"]).arg(sync.get_program()).args(sync.get_args());
    few.env_clear().envs(sync.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = few.output().expect("it starts");

    assert!(output.status.success(), "{output:?}");
    assert_eq!(b.tree("shared"), a.tree("shared"));
    b.verify();
}

trait Bytes {
    fn bytes(self, count: usize) -> Vec<u8>;
}

impl Bytes for blake3::OutputReader {
    fn bytes(mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

#[test]
fn a_locked_database_is_waited_for_or_named_and_nothing_is_lost() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let rows = lab.rows();
    rows.execute("BEGIN EXCLUSIVE", []);
    a.write("shared/one.md", "edited while locked\n");

    let outcome = a.run(["sync"]);
    assert_eq!(outcome.code, Some(2), "the backend is not available: {outcome:#?}");
    assert!(outcome.said().contains("locked") || outcome.said().contains("busy"), "{outcome:#?}");

    rows.execute("ROLLBACK", []);
    a.sync();
    b.sync();
    arrived(&b, "shared/one.md", "edited while locked\n");
    a.verify();
    b.verify();
}

#[test]
fn a_corrupt_database_is_named_and_left_as_it_is() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    let garbage = b"SQLite format 3\0"
        .iter()
        .copied()
        .chain((0..20_000u32).map(|n| n.to_le_bytes()[0] ^ 0x5a))
        .collect::<Vec<u8>>();
    fs::write(lab.path("shared.db"), &garbage).expect("write");
    a.write("shared/one.md", "one\n");

    let outcome = a.run(["sync"]);
    assert!(matches!(outcome.code, Some(2 | 4)), "{outcome:#?}");
    outcome.says("shared.db");
    assert_eq!(fs::read(lab.path("shared.db")).expect("read"), garbage);

    // With the damage out of the way, everything is there again: the ledger is the truth.
    for leftover in ["shared.db", "shared.db-wal", "shared.db-shm", "shared.db-journal"] {
        let _ = fs::remove_file(lab.path(leftover));
    }
    a.sync();
    assert_eq!(lab.rows().content("shared/one.md").as_deref(), Some("one\n"));
    a.verify();
}

#[test]
fn a_database_that_is_somebody_elses_or_newer_is_refused() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    let rows = lab.rows();
    rows.execute("CREATE TABLE files (id INTEGER PRIMARY KEY, blob_of_mine BLOB)", []);
    a.write("shared/one.md", "one\n");
    let outcome = a.run(["sync"]);
    assert!(matches!(outcome.code, Some(1 | 2 | 4)), "{outcome:#?}");
    assert!(outcome.said().contains("files"), "{outcome:#?}");
    drop(rows);

    fs::remove_file(lab.path("shared.db")).expect("remove");
    a.sync();
    lab.rows().execute("PRAGMA user_version = 9999", []);
    let outcome = a.run(["sync"]);
    assert!(!matches!(outcome.code, Some(0 | 70) | None), "{outcome:#?}");
    outcome.says("newer");
}

#[test]
fn a_second_daemon_says_so_and_ends() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/one.md", "one\n");
    let daemon = a.up();

    a.run(["up"]).expect(1).says(&daemon.pid().to_string());
    // A command beside the daemon goes through it instead.
    a.write("shared/two.md", "two\n");
    a.sync();
    assert_eq!(lab.rows().content("shared/two.md").as_deref(), Some("two\n"));
    daemon.stop();
    a.verify();
}

#[test]
fn commands_at_once_wait_for_each_other() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    (0..20).for_each(|n| a.write(format!("shared/{n}.md"), format!("{n}\n")));

    let started: Vec<_> =
        (0..3).map(|_| a.command(["sync"]).stderr(Stdio::piped()).spawn().expect("it starts")).collect();

    for one in started {
        let output = one.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(lab.rows().content("shared/19.md").as_deref(), Some("19\n"));
    a.verify();
}

#[test]
fn a_lock_that_is_let_go_in_a_moment_is_waited_for() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    // Of a process that was killed and is not quite gone.
    let mut dead = Command::new("true").spawn().expect("it starts");
    dead.wait().expect("it ends");
    let lock = fs::File::options().write(true).open(a.path(".larder/lock")).expect("the lock");
    lock.lock().expect("taken");
    lock.write_all_at(format!("{:>10}\n", dead.id()).as_bytes(), 0).expect("written");

    let mut sync = a.command(["sync"]).stderr(Stdio::piped()).spawn().expect("it starts");
    let fds = PathBuf::from(format!("/proc/{}/fd", sync.id()));
    let waits = || {
        let targets = fs::read_dir(&fds).into_iter().flatten().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.filter(|target| *target == a.path(".larder/lock")).count() == 1
    };
    // Seen again and again it holds on to it.
    let mut seen = 0;
    until("it waits, or has ended", DAEMON_DEADLINE, || {
        seen += u32::from(waits());
        seen >= 5 || sync.try_wait().expect("asked").is_some()
    });
    drop(lock);

    let output = sync.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    a.verify();
}

#[test]
fn daemons_whose_projects_vanish_at_once_say_so_and_end() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    b.sync();
    let mut daemons = [a.up(), b.up()];

    // Both at once, while each still hears of the other through the database.
    for project in [&a, &b] {
        fs::rename(
            &project.dir,
            lab.path(format!("gone-{}", project.dir.file_name().expect("a name").to_string_lossy())),
        )
        .expect("move away");
    }

    for daemon in &mut daemons {
        daemon.wait_for("nothing was taken as deleted");
    }
}

#[test]
fn a_moved_project_goes_on_as_itself() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let moved = a.at(&lab.path("moved"));
    fs::rename(&a.dir, &moved.dir).expect("move");
    moved.write("shared/two.md", "two\n");

    moved.sync();
    b.sync();

    arrived(&b, "shared/two.md", "two\n");
    let chains = fs::read_dir(moved.path(".larder/ledger/shared")).expect("list").count();
    assert_eq!(chains, 1, "the same origin as before, and b has published nothing");
    moved.verify();
    b.verify();
}

#[test]
fn a_copied_project_is_detected_and_offered_an_origin_of_its_own() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let clone = a.at(&lab.path("clone"));
    let status = Command::new("cp").arg("-a").arg(&a.dir).arg(&clone.dir).status().expect("run cp");
    assert!(status.success());
    clone.write("shared/two.md", "by the clone\n");

    clone.run(["sync"]).expect(1).says("origin new");
    assert!(lab.rows().content("shared/two.md").is_none(), "nothing is published under another's name");

    clone.run(["origin", "new"]).expect(0);
    clone.sync();
    a.sync();
    arrived(&a, "shared/two.md", "by the clone\n");
    a.verify();
    clone.verify();
}

#[test]
fn a_larder_folder_that_came_with_a_checkout_is_set_aside_unread() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let stranger = a.at(&lab.path("checkout")).with_home(&lab.path("another-home"));
    let status = Command::new("cp").arg("-a").arg(&a.dir).arg(&stranger.dir).status().expect("run cp");
    assert!(status.success());

    let outcome = stranger.run(["sync"]);

    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:#?}");
    arrived(&stranger, "shared/one.md", "one\n");
    let origin = |project: &Project| fs::read(project.path(".larder/origin.json")).ok();
    assert!(outcome.code == Some(1) || origin(&stranger) != origin(&a), "another's identity was used");
}

#[test]
fn a_project_stays_the_same_machine_whatever_state_folder_is_named() {
    let lab = Lab::new();
    let a = lab.project("a", CONFIG);
    a.write("shared/one.md", "one\n");
    a.sync();
    let before = a.tree(".larder/ledger");
    let origin = a.run(["origin"]).expect(0).out;
    let unset = a.clone().with_home(&lab.path("another-home"));

    unset.run(["status"]).expect(0);
    unset.sync();
    a.sync();

    assert_eq!(a.tree(".larder/ledger"), before);
    assert_eq!(a.run(["origin"]).expect(0).out, origin);
    assert_eq!(set_aside(&a), 0);
}

#[test]
fn another_users_project_is_left_alone_and_the_sentence_says_whose_it_is() {
    const TEST: &str = "another_users_project_is_left_alone_and_the_sentence_says_whose_it_is";
    let lab = Lab::new();
    let Some((a, _)) = pair_of_nobody(&lab, TEST) else {
        return;
    };
    if !is_runnable_by_nobody(TEST) {
        return;
    }
    a.write("shared/one.md", "one\n");
    give_away(&a.dir);
    a.sync();
    let before = a.tree(".larder/ledger");
    let root = a.clone().with_user(0).with_home(&lab.path("roots-home"));
    let whose = format!("uid {NOBODY}");

    let commands = [
        &["sync"][..],
        &["sync", "--dry-run"],
        &["gc"],
        &["star", "shared/one.md"],
        &["up"],
        &["rebuild"],
        &["origin", "new"],
        &["serve"],
        &["peers", "invite"],
    ];
    for command in commands {
        root.run(command).expect(1).says(&whose).says(".larder").says("sudo -u");
    }
    root.run(["status"]).expect(1).says(&whose);
    root.run(["doctor"]).says(&whose);
    root.run(["cat", "shared/one.md"]).expect(0).says("one");
    // What root looked for may be looked for by the project's own user.
    for project in [&root, &a] {
        project.run(["search", "one"]).expect(0).says("shared/one.md");
    }

    assert_eq!(set_aside(&a), 0);
    assert_eq!(a.tree(".larder/ledger"), before);
    a.write("shared/one.md", "two\n");
    a.sync().says("shared/one.md");
    a.verify();
}

/// How many `.larder` were set aside in a project.
fn set_aside(project: &Project) -> usize {
    let entries = fs::read_dir(&project.dir).expect("list");
    entries.filter(|entry| entry.as_ref().expect("list").file_name().to_string_lossy().contains("set-aside")).count()
}

#[test]
fn damage_in_the_ledger_is_found_named_and_healed() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for n in 0..3 {
        a.write("shared/one.md", format!("{n}\n"));
        a.sync();
        b.sync();
    }
    a.sync();
    a.verify();
    let artifacts = a.tree(".larder/ledger");
    let (name, _) =
        artifacts.iter().find(|(name, _)| name.windows(3).any(|part| part == b"cp-")).expect("a checkpoint");
    let path = a.path(".larder/ledger").join(String::from_utf8_lossy(name).as_ref());
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(&path, bytes).expect("damage");

    a.run(["verify"]).expect(4).says("cp-");
    a.run(["status"]).expect(4).says("cp-").says("larder sync");
    a.sync().says("healed");
    a.verify();
    a.run(["status"]).expect(0);
    b.verify();
}

#[test]
fn state_that_is_damaged_stops_with_a_sentence_and_deletes_nothing() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    b.sync();
    fs::write(a.path(".larder/state.db"), vec![7; 9000]).expect("damage");
    for leftover in ["state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(a.path(".larder").join(leftover));
    }

    let outcome = a.run(["sync"]);

    assert!(!matches!(outcome.code, Some(70) | None), "{outcome:#?}");
    b.sync();
    arrived(&a, "shared/one.md", "one\n");
    arrived(&b, "shared/one.md", "one\n");
}

#[test]
fn another_projects_database_is_refused() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let other = lab
        .project("other", &CONFIG.replace("\"lab\"", "\"lab\", \"ownerId\": \"else\""))
        .with_home(&lab.path("home-2"))
        .with_backend(&lab.path("shared.db"));
    other.write("shared/two.md", "two\n");

    // The same app under another owner's name: rows never share an id.
    other.run(["sync"]);
    a.sync();
    assert_eq!(lab.rows().content("shared/one.md").as_deref(), Some("one\n"));
    a.verify();
}

#[test]
fn unknown_commands_and_paths_are_user_errors() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.sync();
    for args in [
        &["frobnicate"][..],
        &["restore", "shared/never-was.md"],
        &["explain", "../outside"],
        &["umount", "/nowhere"],
        &["sync", "--frob"],
    ] {
        let outcome = a.run(args);
        assert_eq!(outcome.code, Some(1), "{args:?}: {outcome:#?}");
        assert!(!outcome.err.is_empty());
    }
}

/// `larder sync` by a clock that is off by so much.
#[track_caller]
fn sync_at(project: &Project, offset: &str) -> Outcome {
    let mut command = started_by(&["faketime", "-f", offset], &project.command(["sync"]));
    // Only the wall clock jumps: files keep the times that the kernel gave them, and pauses last as long as they should.
    command.env("NO_FAKE_STAT", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    finish(command).expect(0)
}

#[test]
fn a_clock_that_jumps_back_and_ten_years_ahead_loses_nothing_and_keeps_the_order() {
    const TEST: &str = "a_clock_that_jumps_back_and_ten_years_ahead_loses_nothing_and_keeps_the_order";
    if !has_program("faketime") {
        return skip(TEST, "`faketime` (package faketime) is missing");
    }
    let lab = Lab::new();
    let (a, b) = lab.pair();
    let contents = ["one", "two, an hour earlier", "three, ten years on", "four", "five, an hour earlier", "six"];
    a.write("shared/kept.md", "kept\n");
    for (n, text) in contents.iter().enumerate() {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        writer.write("shared/one.md", text);
        writer.write(format!("shared/new-{n}.md"), text);
        match n {
            1 | 4 => sync_at(writer, "-1h"),
            2 => sync_at(writer, "+10y"),
            _ => writer.sync(),
        };
        reader.sync();
        arrived(reader, "shared/one.md", text);
        arrived(reader, &format!("shared/new-{n}.md"), text);
    }
    // A deletion by a clock that is behind everything it deletes.
    a.remove("shared/new-0.md");
    sync_at(&a, "-1h");
    b.sync();

    for project in [&a, &b] {
        assert!(!project.path("shared/new-0.md").exists());
        arrived(project, "shared/kept.md", "kept\n");
        let log = project.run(["log", "shared/one.md", "--json"]).expect(0).json();
        let sizes: Vec<u64> =
            log["versions"].as_array().expect("a list").iter().filter_map(|version| version["size"].as_u64()).collect();
        let newest_first: Vec<u64> = contents.iter().rev().map(|text| text.len() as u64).collect();
        assert_eq!(sizes, newest_first, "{log:#}");
        project.run(["conflicts"]).expect(0);
        project.sync().says("up to date");
        project.run(["status"]).expect(0);
        project.verify();
    }
    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(lab.rows().content("shared/one.md").as_deref(), Some("six"));
    assert!(a.run(["status"]).said().contains("clock") || b.run(["status"]).said().contains("clock"));
}

#[test]
fn a_file_or_folder_that_vanishes_at_any_look_is_passed_by_and_the_others_go_on() {
    const TEST: &str = "a_file_or_folder_that_vanishes_at_any_look_is_passed_by_and_the_others_go_on";
    for vanishing in ["edited.md", "new.md", "folder"] {
        let mut nth = 0;
        loop {
            nth += 1;
            let lab = Lab::new();
            let (a, b) = lab.pair();
            a.write("shared/edited.md", "before\n");
            a.write("shared/folder/inside.md", "inside\n");
            a.sync();
            b.sync();
            a.write("shared/edited.md", "edited\n");
            a.write("shared/new.md", "new\n");
            a.write("shared/folder/inside.md", "inside, edited\n");
            a.write("shared/beside.md", "beside\n");
            let path = a.path("shared").join(vanishing);
            let mut vanish = || match path.is_dir() {
                true => fs::remove_dir_all(&path).expect("remove"),
                false => fs::remove_file(&path).expect("remove"),
            };

            let (code, looks) = match tracer::run_beside(a.command(["sync"]), vanishing, nth, &mut vanish) {
                Ok(ended) => ended,
                Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
            };
            let moment = format!("{vanishing} at look {nth}");
            assert_eq!(code, 0, "{moment}");
            if looks < nth {
                assert!(nth > 2, "{moment}: it is looked at before it is read");
                break;
            }
            b.sync();
            arrived(&b, "shared/beside.md", "beside\n");
            a.sync();
            b.sync();
            assert_eq!(a.tree("shared"), b.tree("shared"), "{moment}");
            assert!(!b.path("shared").join(vanishing).exists(), "{moment}");
            for (path, versions) in [("shared/edited.md", 2), ("shared/folder/inside.md", 2), ("shared/beside.md", 1)] {
                let log = a.run(["log", path, "--json"]).expect(0).json();
                let count = log["versions"].as_array().map_or(0, Vec::len);
                assert!(count >= versions, "{moment}: {path} has {count} versions");
            }
            a.verify();
            b.verify();
        }
    }
}

#[test]
fn a_user_whose_watches_are_used_up_is_told_so_and_edits_are_found_all_the_same() {
    const TEST: &str = "a_user_whose_watches_are_used_up_is_told_so_and_edits_are_found_all_the_same";
    // In a user namespace of its own the limit is its own as well: nobody else's changes.
    let words = ["unshare", "-Ur", "sh", "-c", "echo 4 >/proc/sys/user/max_inotify_watches && exec \"$@\"", "sh"];
    let mut try_out = Command::new(words[0]);
    let permitted = try_out.args(&words[1..]).arg("true").output().is_ok_and(|output| output.status.success());
    if !permitted {
        return skip(TEST, "a user namespace with a limit of its own cannot be made here");
    }
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for n in 0..12 {
        a.write(format!("shared/{n}/one.md"), "one\n");
    }
    a.sync();
    let mut daemon = Daemon::start(started_by(&words, &a.command(["up"])));
    daemon.wait_ready();

    a.run(["status"]).says("max_user_watches").says("sysctl");
    for n in 0..12 {
        a.write(format!("shared/{n}/one.md"), "edited\n");
    }
    let rows = lab.rows();
    until("every edit is found by looking", DAEMON_DEADLINE, || {
        (0..12).all(|n| rows.content(&format!("shared/{n}/one.md")).as_deref() == Some("edited\n"))
    });
    daemon.stop();
    b.sync();
    arrived(&b, "shared/11/one.md", "edited\n");
    a.verify();
    b.verify();
}

#[test]
fn an_intent_that_comes_back_with_the_log_after_its_commit_failed_takes_nobodys_file_for_its_own() {
    const TEST: &str = "an_intent_that_comes_back_with_the_log_after_its_commit_failed_takes_nobodys_file_for_its_own";
    let syncs = [libc::SYS_fsync, libc::SYS_fdatasync];
    for lasts in [true, false] {
        let lab = Lab::new();
        let (a, b) = lab.pair();
        a.write("shared/one.md", "theirs\n");
        a.sync();
        let stage = b.path(".larder/displaced");
        let count = || fs::read_dir(&stage).map_or(0, Iterator::count);
        let refused = std::cell::Cell::new(0);

        let code = tracer::run_refusing(b.command(["sync"]), &syncs, libc::ENOSPC, |file| {
            let is_it = file.ends_with(".larder/state.db-wal")
                && (refused.get() == 0 && count() > 0 || lasts && refused.get() > 0);
            refused.set(refused.get() + u32::from(is_it));
            is_it
        });
        let code = match code {
            Ok(code) => code,
            Err(error) => return skip(TEST, &format!("ptrace or seccomp is not permitted here ({error})")),
        };

        assert!(code != 0 && refused.get() > 0, "lasts: {lasts}");
        assert_eq!(count(), usize::from(lasts));
        b.write("shared/one.md", "mine\n");
        b.run(["sync"]).expect(3);
        b.run(["conflicts"]).says("shared/one.md");
        assert_eq!(count(), 0, "lasts: {lasts}");
    }
}
