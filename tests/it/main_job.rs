//! The main job as a person sees it: two folders kept the same through one SQLite file, rows that plain SQL may change.
//!
//! Invariant of every test: at its end `larder verify` is clean and SQLite finds the database whole.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::{
    CONFIG, DAEMON_DEADLINE, Daemon, Lab, Leaf, Project, Rows, has_program, is_root, seed, skip, until,
};
use crate::tracer;

/// Syncs until nothing more can be under way between the two: A to B, B to A, and A's answer.
fn converge(a: &Project, b: &Project) {
    for project in [a, b, a, b] {
        project.sync_any();
    }
}

#[track_caller]
fn assert_same(a: &Project, b: &Project) {
    let (left, right) = (a.tree("shared"), b.tree("shared"));
    let names = |tree: &std::collections::BTreeMap<Vec<u8>, Leaf>| {
        tree.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&left), names(&right));
    for (name, leaf) in &left {
        assert!(right[name] == *leaf, "differs: {}", String::from_utf8_lossy(name));
    }
}

#[track_caller]
fn close(lab: &Lab, projects: &[&Project]) {
    for project in projects {
        project.verify();
    }
    lab.rows().check();
}

fn text(project: &Project, path: &str) -> Option<String> {
    project.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn files_of_every_kind_arrive_byte_for_byte() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/plain.md", "# plain\n");
    a.write("shared/empty.json", "");
    a.write("shared/binary.bin", (0..=255).cycle().take(3 << 20).collect::<Vec<u8>>());
    a.write("shared/one-line.json", format!("\"{}\"", "x".repeat(600_000)));
    a.write("shared/latin-1.txt", b"caf\xe9\n");
    a.write("shared/gr\u{fc}n/\u{65e5}\u{672c}/\u{1f33f}.md", "leaf\n");
    a.write(format!("shared/{}", "n".repeat(255)), "255 bytes of name\n");
    a.write("shared/new\nline and \x1b[31mred\x1b[0m.md", "hostile name\n");
    a.write("shared/ leading and trailing ", "spaces\n");
    a.write(format!("shared/{}leaf.md", "deep/".repeat(60)), "deep\n");
    a.write("shared/.hidden/.dot", "dot files count\n");
    a.write("shared/run.sh", "#!/bin/sh\n");
    fs::set_permissions(a.path("shared/run.sh"), fs::Permissions::from_mode(0o755)).expect("chmod");
    symlink("plain.md", a.path("shared/link.md")).expect("link");

    a.sync();
    b.sync();

    assert_same(&a, &b);
    assert_eq!(b.tree("shared").len(), 13);
    assert_eq!(b.tree("shared")[b"link.md".as_slice()], Leaf::Link(b"plain.md".to_vec()));
    assert_eq!(lab.rows().content("shared/plain.md").as_deref(), Some("# plain\n"));
    close(&lab, &[&a, &b]);
}

#[test]
fn changes_of_every_kind_arrive() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for name in ["edited", "emptied", "deleted", "renamed", "mode", "to-folder"] {
        a.write(format!("shared/{name}"), format!("{name}\n"));
    }
    a.write("shared/folder/leaf", "leaf\n");
    a.write("shared/log.jsonl", "{\"n\":1}\n");
    converge(&a, &b);

    b.write("shared/edited", "edited again\n");
    b.write("shared/emptied", "");
    b.remove("shared/deleted");
    fs::rename(b.path("shared/renamed"), b.path("shared/renamed-to")).expect("rename");
    fs::set_permissions(b.path("shared/mode"), fs::Permissions::from_mode(0o755)).expect("chmod");
    b.append("shared/log.jsonl", "{\"n\":2}\n");
    b.remove("shared/to-folder");
    b.write("shared/to-folder/leaf", "a folder now\n");
    fs::remove_dir_all(b.path("shared/folder")).expect("remove");
    b.write("shared/folder", "a file now\n");
    converge(&b, &a);

    assert_same(&a, &b);
    assert_eq!(text(&a, "shared/edited").as_deref(), Some("edited again\n"));
    assert_eq!(text(&a, "shared/emptied").as_deref(), Some(""));
    assert_eq!(text(&a, "shared/log.jsonl").as_deref(), Some("{\"n\":1}\n{\"n\":2}\n"));
    assert_eq!(text(&a, "shared/to-folder/leaf").as_deref(), Some("a folder now\n"));
    assert_eq!(text(&a, "shared/folder").as_deref(), Some("a file now\n"));
    assert!(!a.path("shared/deleted").exists() && !a.path("shared/renamed").exists());
    assert!(lab.rows().content("shared/deleted").is_none());
    close(&lab, &[&a, &b]);
}

#[test]
fn nothing_to_do_changes_nothing() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    converge(&a, &b);
    let ledger_before = a.tree(".larder/ledger");

    for _ in 0..3 {
        converge(&a, &b);
    }

    assert_eq!(a.tree(".larder/ledger").len(), ledger_before.len());
    close(&lab, &[&a, &b]);
}

#[test]
fn one_edit_waits_for_the_disk_eight_times_and_doing_nothing_never() {
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    for text in ["first\n", "second\n"] {
        a.write("shared/plan.md", text);
        a.sync();
        // Takes in its own row.
        a.sync();
    }
    let first = match tracer::syncs(a.command(["sync"])) {
        Ok(count) => count,
        Err(error) => return skip("the tracer", &format!("ptrace or seccomp is not permitted here ({error})")),
    };
    assert_eq!(first, 0, "nothing to do");

    a.write("shared/plan.md", "third\n");
    let edit = tracer::syncs(a.command(["sync"])).expect("traced before");
    // The checkpoint and its folder, the base, the row, and, as the last one to leave, the log and the database; twice the folder of a
    // log that is new to the process.
    assert_eq!(edit, 8);
    let after = tracer::syncs(a.command(["sync"])).expect("traced before");
    assert_eq!(after, 0, "the row that it reads back is its own");
}

#[test]
fn concurrent_edits_converge_and_the_loser_is_listed_until_somebody_settles_it() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/plan.md", "plan\n");
    converge(&a, &b);

    a.write("shared/plan.md", "plan of a\n");
    b.write("shared/plan.md", "plan of b\n");
    converge(&a, &b);

    assert_same(&a, &b);
    for project in [&a, &b] {
        project.run(["sync"]).expect(3);
        project.run(["conflicts"]).says("shared/plan.md");
        project.run(["status"]).says("shared/plan.md");
    }
    // Both sides are still readable on both machines.
    let shown = a.run(["conflicts", "show", "shared/plan.md"]).said() + &text(&a, "shared/plan.md").unwrap_or_default();
    assert!(shown.contains("plan of a") && shown.contains("plan of b"), "{shown}");

    a.write("shared/plan.md", "plan of both\n");
    a.sync_any();
    a.run(["conflicts", "resolve", "shared/plan.md"]).expect(0);
    converge(&a, &b);
    for project in [&a, &b] {
        project.sync();
        assert_eq!(text(project, "shared/plan.md").as_deref(), Some("plan of both\n"));
        assert!(!project.run(["conflicts"]).said().contains("plan.md"));
    }
    close(&lab, &[&a, &b]);
}

#[test]
fn lines_appended_on_both_sides_are_there_once_each() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/log.jsonl", "{\"n\":0}\n");
    converge(&a, &b);

    a.append("shared/log.jsonl", "{\"from\":\"a\"}\n");
    b.append("shared/log.jsonl", "{\"from\":\"b\"}\n");
    converge(&a, &b);

    assert_same(&a, &b);
    let log = text(&a, "shared/log.jsonl").expect("the log");
    let mut lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.remove(0), "{\"n\":0}");
    lines.sort_unstable();
    assert_eq!(lines, ["{\"from\":\"a\"}", "{\"from\":\"b\"}"]);
    assert!(!a.run(["conflicts"]).said().contains("log.jsonl"));
    close(&lab, &[&a, &b]);
}

#[test]
fn an_edit_outlives_a_concurrent_deletion() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/kept.md", "first\n");
    converge(&a, &b);

    a.remove("shared/kept.md");
    b.write("shared/kept.md", "edited meanwhile\n");
    converge(&a, &b);

    assert_eq!(text(&a, "shared/kept.md").as_deref(), Some("edited meanwhile\n"));
    assert_same(&a, &b);
    close(&lab, &[&a, &b]);
}

#[test]
fn plain_sql_reaches_the_disk() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/edited.md", "old\n");
    a.write("shared/deleted.md", "old\n");
    converge(&a, &b);
    let rows = lab.rows();

    rows.execute("UPDATE files SET content = 'new' || char(10) WHERE path = 'shared/edited.md'", []);
    rows.execute("DELETE FROM files WHERE path = 'shared/deleted.md'", []);
    insert(&rows, "shared/inserted.md", "made by SQL\n");
    converge(&a, &b);

    assert_eq!(text(&a, "shared/edited.md").as_deref(), Some("new\n"));
    assert_eq!(text(&b, "shared/inserted.md").as_deref(), Some("made by SQL\n"));
    assert!(!a.path("shared/deleted.md").exists());
    assert_same(&a, &b);
    a.run(["log", "shared/edited.md"]).expect(0).says("backend");
    close(&lab, &[&a, &b]);
}

fn insert(rows: &Rows, path: &str, content: &str) {
    rows.execute(
        "INSERT INTO files (id, path, content, app, owner_id) VALUES ('lab:' || ?1, ?1, ?2, 'lab', 'shared')",
        [path, content],
    );
}

#[test]
fn the_sqlite3_program_is_a_writer_like_any_other() {
    if !has_program("sqlite3") {
        return skip("the_sqlite3_program_is_a_writer_like_any_other", "the program sqlite3 is not installed");
    }
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/note.md", "old\n");
    a.sync();

    let status = std::process::Command::new("sqlite3")
        .arg(lab.path("shared.db"))
        .arg("UPDATE files SET content = 'from the shell' WHERE path = 'shared/note.md'")
        .status()
        .expect("run sqlite3");
    assert!(status.success());
    a.sync();

    assert_eq!(text(&a, "shared/note.md").as_deref(), Some("from the shell"));
    close(&lab, &[&a]);
}

#[test]
fn sql_that_meets_an_unsent_edit_loses_neither() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for name in ["edited", "deleted", "inserted"] {
        if name != "inserted" {
            a.write(format!("shared/{name}.md"), "old\n");
        }
    }
    converge(&a, &b);
    let rows = lab.rows();

    for name in ["edited", "deleted", "inserted"] {
        a.write(format!("shared/{name}.md"), "unsent edit\n");
    }
    rows.execute("UPDATE files SET content = 'row edit' || char(10) WHERE path = 'shared/edited.md'", []);
    rows.execute("DELETE FROM files WHERE path = 'shared/deleted.md'", []);
    insert(&rows, "shared/inserted.md", "row edit\n");
    converge(&a, &b);

    assert_same(&a, &b);
    // An edit outlives the deletion; of two edits one stands on disk and the other is listed.
    assert_eq!(text(&a, "shared/deleted.md").as_deref(), Some("unsent edit\n"));
    for name in ["edited", "inserted"] {
        let path = format!("shared/{name}.md");
        let listed = a.run(["conflicts", "show", &path]).said();
        let all = listed + &text(&a, &path).expect("the file");
        assert!(all.contains("unsent edit") && all.contains("row edit"), "{name}: {all}");
        let row = rows.content(&path).expect("a row");
        assert_eq!(Some(row), text(&a, &path), "the row shows what the disk shows");
    }
    close(&lab, &[&a, &b]);
}

#[test]
fn daemons_keep_two_folders_the_same_and_catch_up_after_a_pause() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/first.md", "first\n");
    let (daemon_a, daemon_b) = (a.up(), b.up());
    arrives(&b, "shared/first.md", "first\n");

    b.write("shared/first.md", "edited on b\n");
    arrives(&a, "shared/first.md", "edited on b\n");
    a.write("shared/a/new/folder/file.md", "deep\n");
    arrives(&b, "shared/a/new/folder/file.md", "deep\n");
    b.write("shared/gone.md", "soon gone\n");
    arrives(&a, "shared/gone.md", "soon gone\n");

    // While a's daemon is down: created, edited, deleted on a; edited on b.
    daemon_a.stop();
    a.write("shared/created.md", "while down\n");
    a.write("shared/first.md", "edited while down\n");
    a.remove("shared/gone.md");
    b.write("shared/other.md", "meanwhile\n");
    let daemon_a = a.up();
    arrives(&b, "shared/created.md", "while down\n");
    arrives(&b, "shared/first.md", "edited while down\n");
    arrives(&a, "shared/other.md", "meanwhile\n");
    until("the deletion arrives", DAEMON_DEADLINE, || !b.path("shared/gone.md").exists());

    lab.rows().execute("UPDATE files SET content = 'by SQL' WHERE path = 'shared/other.md'", []);
    arrives(&a, "shared/other.md", "by SQL");
    arrives(&b, "shared/other.md", "by SQL");

    daemon_a.stop();
    daemon_b.stop();
    assert_same(&a, &b);
    close(&lab, &[&a, &b]);
}

#[test]
fn a_program_that_leaves_the_database_takes_no_log_with_it() {
    // A process that closes any descriptor of a database drops all its locks on it. Then the next program to leave
    // believes that it was the last, deletes the write-ahead log, and what the daemons write goes nowhere.
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/plan.md", "plan\n");
    let (daemon_a, daemon_b) = (a.up(), b.up());
    arrives(&b, "shared/plan.md", "plan\n");

    for round in 0..5 {
        // Another program, as a person uses it; a connection of this process stands in where it is missing.
        let looked =
            std::process::Command::new("sqlite3").arg(lab.path("shared.db")).arg("SELECT count(*) FROM files").output();
        if !looked.is_ok_and(|output| output.status.success()) {
            assert_eq!(lab.rows().count(), 1);
        }
        assert!(lab.path("shared.db-wal").exists(), "round {round}: the log was deleted under running daemons");
        let wanted = format!("edit {round}\n");
        b.write("shared/plan.md", &wanted);
        until(&format!("the row shows edit {round}"), DAEMON_DEADLINE, || {
            lab.rows().content("shared/plan.md").as_deref() == Some(wanted.as_str())
        });
    }

    daemon_a.stop();
    daemon_b.stop();
    close(&lab, &[&a, &b]);
}

#[test]
fn sql_in_the_middle_of_an_exchange_is_never_overwritten_unrecorded() {
    const ROUNDS: u32 = 8;
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/plan.md", "plan\n");
    let (daemon_a, daemon_b) = (a.up(), b.up());
    arrives(&b, "shared/plan.md", "plan\n");
    until("the row is there", DAEMON_DEADLINE, || lab.rows().content("shared/plan.md").is_some());

    for round in 0..ROUNDS {
        b.append("shared/plan.md", format!("edit {round}\n"));
        let edited = text(&b, "shared/plan.md").expect("the plan");
        arrives(&a, "shared/plan.md", &edited);
        // The row may or may not show b's edit yet: plain SQL cannot know.
        let sql = "UPDATE files SET content = content || ?1 WHERE path = 'shared/plan.md'";
        lab.rows().execute(sql, [format!("row edit {round}\n")]);
        // On disk or listed as a conflict: either will do, silence will not.
        until(&format!("row edit {round} is on a's disk or listed"), DAEMON_DEADLINE, || {
            let wanted = format!("row edit {round}\n");
            text(&a, "shared/plan.md").is_some_and(|plan| plan.contains(&wanted))
                || a.run(["conflicts", "show", "shared/plan.md"]).said().contains(&wanted)
        });
    }

    daemon_a.stop();
    daemon_b.stop();
    converge(&a, &b);
    assert_same(&a, &b);
    close(&lab, &[&a, &b]);
}

#[track_caller]
fn arrives(project: &Project, path: &str, content: &str) {
    until(&format!("{path} is {content:?} in {:?}", project.dir), DAEMON_DEADLINE, || {
        text(project, path).as_deref() == Some(content)
    });
}

#[test]
fn ten_partial_writes_become_one_version() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/marker.md", "0\n");
    let daemon = a.up();

    for part in 0..10 {
        a.append("shared/slow.md", format!("part {part}\n"));
    }
    let whole = text(&a, "shared/slow.md");
    until("the row is there", DAEMON_DEADLINE, || lab.rows().content("shared/slow.md") == whole);
    daemon.stop();

    let log = a.run(["log", "shared/slow.md", "--json"]).expect(0).json();
    let versions = log["versions"].as_array().expect("a list of versions");
    assert_eq!(versions.len(), 1, "{log:#}");
    close(&lab, &[&a]);
}

#[test]
fn private_files_stay_among_ones_own_machines_and_archive_files_at_home() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    let stranger =
        lab.project("stranger", CONFIG).with_backend(&lab.path("shared.db")).with_home(&lab.path("strangers-home"));
    for project in [&a, &b, &stranger] {
        let name = project.dir.file_name().expect("a name").to_string_lossy();
        project.write(format!("shared/{name}.md"), format!("{name}\n"));
        project.write(format!("mine/{name}.md"), format!("private of {name}\n"));
        project.write("logs/run.jsonl", format!("{{\"of\":\"{name}\"}}\n"));
    }

    for project in [&a, &b, &stranger, &a, &b, &stranger] {
        project.sync();
    }

    for project in [&a, &b, &stranger] {
        assert_eq!(project.tree("shared").len(), 3, "{:?}", project.dir);
        let name = project.dir.file_name().expect("a name").to_string_lossy().into_owned();
        let log = text(project, "logs/run.jsonl");
        assert_eq!(log, Some(format!("{{\"of\":\"{name}\"}}\n")), "archive files of others do not land");
    }
    assert!(!stranger.path("mine/a.md").exists() && !a.path("mine/stranger.md").exists());
    close(&lab, &[&a, &b, &stranger]);
}

#[test]
fn a_machine_that_joins_late_gets_everything_and_its_stale_copy_does_not_win() {
    let lab = Lab::new();
    let (a, b) = lab.fresh_pair();
    a.write("shared/plan.md", "version 1\n");
    a.sync();
    a.write("shared/plan.md", "version 2\n");
    a.write("shared/more.md", "more\n");
    a.sync();

    b.write("shared/plan.md", "version 1\n");
    b.write("shared/own.md", "only here\n");
    converge(&b, &a);

    assert_same(&a, &b);
    assert_eq!(text(&b, "shared/plan.md").as_deref(), Some("version 2\n"));
    assert_eq!(text(&a, "shared/own.md").as_deref(), Some("only here\n"));
    close(&lab, &[&a, &b]);
}

#[test]
fn a_narrowed_pattern_deletes_nothing() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/kept.md", "kept\n");
    a.write("shared/dropped.txt", "dropped\n");
    converge(&a, &b);

    a.write("sync-config.json", CONFIG.replace("\"shared/**\"", "\"shared/**\", \"!**/*.txt\""));
    converge(&a, &b);

    for project in [&a, &b] {
        assert_eq!(text(project, "shared/dropped.txt").as_deref(), Some("dropped\n"));
    }
    assert!(lab.rows().content("shared/dropped.txt").is_some());
    close(&lab, &[&a, &b]);
}

#[test]
fn an_emptied_folder_is_held_back_until_somebody_approves() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for n in 0..40 {
        a.write(format!("shared/{n}.md"), format!("{n}\n"));
    }
    converge(&a, &b);

    fs::remove_dir_all(a.path("shared")).expect("remove");
    fs::create_dir(a.path("shared")).expect("make");
    converge(&a, &b);

    assert_eq!(b.tree("shared").len(), 40, "nothing is deleted before it is approved");
    assert_eq!(lab.rows().count(), 40);
    a.run(["sync"]).expect(3);
    a.run(["status"]).says("held");
    a.run(["deletes"]).expect(3).says("shared/7.md");

    a.run(["deletes", "approve"]).expect(0);
    converge(&a, &b);
    assert_eq!(b.tree("shared").len(), 0);
    close(&lab, &[&a, &b]);
}

#[test]
fn status_counts_all_deletions_that_wait_and_lists_a_part() {
    let lab = Lab::new();
    let a = lab.project("a", CONFIG);
    for n in 0..1_010 {
        a.write(format!("shared/{n}.md"), format!("{n}\n"));
    }
    a.sync();
    fs::remove_dir_all(a.path("shared")).expect("remove");
    fs::create_dir(a.path("shared")).expect("make");
    a.run(["sync"]).expect(3);

    a.run(["status"]).expect(3).says("1010 deletions wait for you").says("and 990 more");

    let status = a.run(["status", "--json"]).expect(3).json();
    assert_eq!(status["held_deletions"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(status["counts"]["held_deletions"], 1_010);
}

#[test]
fn a_vanished_project_folder_deletes_nothing() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for n in 0..5 {
        a.write(format!("shared/{n}.md"), format!("{n}\n"));
    }
    converge(&a, &b);

    fs::remove_dir_all(a.path("shared")).expect("remove");
    fs::set_permissions(&a.dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::rename(&a.dir, lab.path("elsewhere")).expect("unmount, as it were");
    assert_ne!(a.run(["sync"]).code, Some(0));
    b.sync();

    assert_eq!(b.tree("shared").len(), 5);
    close(&lab, &[&b]);
}

#[test]
fn undo_takes_back_the_last_sync() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/plan.md", "good\n");
    converge(&a, &b);
    b.write("shared/plan.md", "bad\n");
    b.write("shared/extra.md", "unwanted\n");
    b.sync();
    a.sync();
    assert_eq!(text(&a, "shared/plan.md").as_deref(), Some("bad\n"));

    a.run(["undo"]).expect(0);

    assert_eq!(text(&a, "shared/plan.md").as_deref(), Some("good\n"));
    converge(&a, &b);
    assert_same(&a, &b);
    assert_eq!(text(&b, "shared/plan.md").as_deref(), Some("good\n"));
    close(&lab, &[&a, &b]);
}

#[test]
fn restore_brings_back_what_was_deleted_or_overwritten() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/gone.md", "precious\n");
    a.sync();
    a.remove("shared/gone.md");
    a.sync();

    a.run(["restore", "shared/gone.md"]).expect(0);

    assert_eq!(text(&a, "shared/gone.md").as_deref(), Some("precious\n"));
    close(&lab, &[&a]);
}

#[test]
fn restore_goes_back_to_what_stood_there_at_a_moment() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    for number in 1..=3 {
        a.write("shared/plan.md", format!("{number}\n"));
        a.sync();
    }
    let versions = a.run(["log", "shared/plan.md", "--json"]).expect(0).json();
    let moment = |back: usize| versions["versions"][back]["time"].as_str().expect("a time").to_owned();

    a.run(["restore", "shared/plan.md", "--at", &moment(1)]).expect(0);
    assert_eq!(text(&a, "shared/plan.md").as_deref(), Some("2\n"));
    a.run(["restore", "shared/plan.md", "--at", &moment(2)]).expect(0);
    assert_eq!(text(&a, "shared/plan.md").as_deref(), Some("1\n"));

    a.run(["restore", "shared/plan.md", "--at", "1y"]).expect(1).says("was not there");
    a.run(["restore", "shared/plan.md", "--at", "soon"]).expect(1).says("is no time");
    a.run(["restore", "shared/plan.md", "--at", "0"]).expect(1).says("--at");
    a.run(["restore", "shared", "--at", &moment(0)]).expect(1).says("a folder").says("larder ls --at");
    assert_eq!(text(&a, "shared/plan.md").as_deref(), Some("1\n"));
    close(&lab, &[&a]);
}

#[test]
fn what_is_missing_beside_the_ledger_is_said_and_made_anew() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    let asks = [&["ls"][..], &["log"], &["conflicts"], &["origin", "list"], &["peers", "members"], &["search", "one"]];

    for (file, part) in [("index.db", "larder rebuild"), ("state.db", "larder sync")] {
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(a.path(format!(".larder/{file}{end}")));
        }
        let missing = format!(".larder/{file} is missing");
        for ask in asks {
            a.run(ask).expect(1).says(&missing).says(part);
        }
        a.run(["status"]).expect(1).says(&missing).says(part);
        let status = a.run(["status", "--json"]).expect(1).json();
        assert!(status["missing"].as_str().is_some_and(|told| told.contains(&missing)), "{status}");
        assert!(status["origin"].is_string(), "who this machine is stands beside it: {status}");
        a.run(["verify"]).expect(4).says(file).says("is missing");
        a.run(["doctor"]).says(&missing);

        a.sync_any();
        a.run(["ls", "shared"]).expect(0).says("one.md");
        a.run(["status"]).expect(0);
    }
    close(&lab, &[&a]);
}

#[test]
fn a_rebuilt_index_tells_the_same() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    for n in 0..6 {
        a.write(format!("shared/{}.md", n % 3), format!("{n}\n"));
        a.sync();
    }
    b.write("shared/1.md", "by b\n");
    converge(&b, &a);
    let told =
        |project: &Project| (project.run(["log", "--json"]).expect(0).out, project.run(["conflicts", "--json"]).out);
    let before = told(&a);

    a.run(["rebuild"]).expect(0);

    assert_eq!(told(&a), before);
    fs::remove_file(a.path(".larder/index.db")).expect("throw the index away");
    a.sync_any();
    assert_eq!(told(&a), before);
    assert_same(&a, &b);
    close(&lab, &[&a, &b]);
}

#[test]
fn a_dry_run_lists_what_the_run_then_does_and_does_nothing() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/new.md", "new\n");
    a.sync();

    let planned = b.run(["sync", "--dry-run"]).expect(0);
    assert!(planned.said().contains("shared/new.md"), "{planned:#?}");
    assert!(!b.path("shared/new.md").exists());
    b.sync();

    assert_eq!(text(&b, "shared/new.md").as_deref(), Some("new\n"));
    close(&lab, &[&a, &b]);
}

#[test]
fn init_writes_a_config_that_works() {
    let lab = Lab::new();
    let a = lab.project("fresh", CONFIG);
    a.remove("sync-config.json");
    a.write("notes/one.md", "one\n");
    a.write("CLAUDE.md", "# rules\n");
    assert_eq!(a.run(["sync"]).code, Some(1), "no config: a user error");

    a.run(["init"]).expect(0);
    a.sync();

    assert_eq!(Rows::open(&a.path("sync.db")).content("notes/one.md").as_deref(), Some("one\n"));
    a.run(["explain", "notes/one.md"]).expect(0).says("notes/");
    a.run(["config"]).expect(0).says("syncFilePatterns");
    assert_eq!(a.run(["init"]).code, Some(1), "an existing config is not overwritten");
    a.verify();
}

#[test]
fn every_command_speaks_json_and_answers_without_a_daemon() {
    let lab = Lab::new();
    let (a, _) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.sync();
    for command in ["status", "log", "diff", "conflicts", "deletes", "verify", "config", "doctor", "sync"] {
        a.run([command, "--json"]).expect(0).json();
    }
    a.run(["explain", "shared/one.md", "--json"]).expect(0).json();
    for shell in ["bash", "zsh", "fish"] {
        a.run(["completions", shell]).expect(0).says("larder");
    }
    let daemon = a.up();
    a.run(["status", "--json"]).expect(0).json();
    daemon.stop();
}

#[test]
fn a_view_without_a_daemon_follows_what_commands_record_and_ends_with_its_signal() {
    const TEST: &str = "a_view_without_a_daemon_follows_what_commands_record_and_ends_with_its_signal";
    if !Path::new("/dev/fuse").exists() {
        return skip(TEST, "no /dev/fuse");
    }
    if !is_root() && !has_program("fusermount3") {
        return skip(TEST, "fusermount3 is not installed");
    }
    let lab = Lab::new();
    let (a, _) = lab.fresh_pair();
    a.write("shared/one.md", "0\n");
    a.sync();
    let view = lab.path("view");
    let mut mounted = Daemon::start(a.command([OsStr::new("mount"), view.as_os_str()]));
    mounted.wait_for("mounted at");

    for n in 1..5 {
        a.write("shared/one.md", format!("{n}\n"));
        a.write(format!("shared/new-{n}.md"), "new\n");
        a.sync();
        until("the view follows", DAEMON_DEADLINE, || {
            let shown = |path: String| fs::read_to_string(view.join("merged/shared").join(path)).ok();
            shown("one.md".to_owned()) == Some(format!("{n}\n")) && shown(format!("new-{n}.md")).is_some()
        });
    }

    mounted.stop();
    assert!(fs::read_dir(&view).is_ok_and(|mut entries| entries.next().is_none()), "unmounted at the end");
    a.verify();
}

#[test]
fn the_view_shows_all_machines_and_follows_them() {
    const TEST: &str = "the_view_shows_all_machines_and_follows_them";
    if !Path::new("/dev/fuse").exists() {
        return skip(TEST, "no /dev/fuse");
    }
    if !is_root() && !has_program("fusermount3") {
        return skip(TEST, "fusermount3 is not installed");
    }
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    b.write("logs/run.jsonl", "{\"of\":\"b\"}\n");
    b.sync();
    let view = lab.path("view");
    fs::create_dir(&view).expect("make the mount point");

    let daemon = a.up_with([OsStr::new("--mount"), view.as_os_str()]);
    let shown = |path: &str| fs::read_to_string(view.join(path)).ok();
    until("the view is there", DAEMON_DEADLINE, || shown("merged/shared/one.md").as_deref() == Some("one\n"));
    until("b's log is shown", DAEMON_DEADLINE, || {
        shown("merged/logs/run.jsonl").as_deref() == Some("{\"of\":\"b\"}\n")
    });
    a.write("shared/one.md", "two\n");
    until("the view follows", DAEMON_DEADLINE, || shown("merged/shared/one.md").as_deref() == Some("two\n"));
    assert!(fs::write(view.join("merged/shared/one.md"), "no").is_err(), "read-only");
    let history = fs::read_dir(view.join("history/shared/one.md")).expect("list").count();
    assert_eq!(history, 2);

    daemon.stop();
    assert!(fs::read_dir(&view).is_ok_and(|mut entries| entries.next().is_none()), "unmounted at the end");
    close(&lab, &[&a, &b]);
}

#[test]
fn names_that_are_not_utf_8_are_kept_or_named_and_stop_nothing() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    let name = Path::new(OsStr::from_bytes(b"shared/caf\xe9.md"));
    a.write(name, "latin name\n");
    a.write("shared/fine.md", "fine\n");

    let outcome = a.run(["sync"]);
    b.sync();

    assert_eq!(text(&b, "shared/fine.md").as_deref(), Some("fine\n"));
    assert_eq!(a.read(name).as_deref(), Some(b"latin name\n".as_slice()));
    if b.read(name).is_none() {
        let said = outcome.said() + &a.run(["status"]).said();
        assert!(said.contains("caf"), "neither kept nor named: {said}");
    }
    close(&lab, &[&a, &b]);
}

#[test]
fn random_edits_on_three_machines_converge() {
    const ROUNDS: u64 = 12;
    let lab = Lab::new();
    let (a, b) = lab.pair();
    let c = lab.project("c", CONFIG).with_backend(&lab.path("shared.db"));
    let projects = [&a, &b, &c];
    let mut dice = crate::support::Dice::new(seed("random_edits_on_three_machines_converge"));

    for round in 0..ROUNDS {
        for project in projects {
            for _ in 0..=dice.below(3) {
                let path = format!("shared/{}/{}.md", dice.below(3), dice.below(4));
                match dice.below(4) {
                    0 if project.path(&path).exists() => project.remove(&path),
                    _ => project.write(&path, format!("{round} {}\n", dice.below(1000))),
                }
            }
            if dice.below(3) > 0 {
                project.sync_any();
            }
        }
    }
    for project in projects.into_iter().cycle().take(9) {
        project.sync_any();
    }

    assert_same(&a, &b);
    assert_same(&a, &c);
    close(&lab, &[&a, &b, &c]);
}

#[test]
fn what_goes_on_inside_is_told_on_stderr_if_somebody_asks_and_never_on_stdout() {
    let lab = Lab::new();
    let (a, b) = lab.fresh_pair();
    a.write("shared/one.md", "one\n");
    let run = |level: &str| a.command(["sync", "--json"]).env("LARDER_LOG", level).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let (usual, asked, wrong) = (run(""), run("debug"), run("hyper=trace"));

    for output in [&usual, &asked, &wrong] {
        assert!(output.status.success(), "{output:?}");
        assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok(), "{}", text(&output.stdout));
    }
    assert_eq!(text(&usual.stderr), "");
    assert!(text(&asked.stderr).contains("record"), "{}", text(&asked.stderr));
    assert!(text(&wrong.stderr).starts_with("warning: LARDER_LOG is none of"), "{}", text(&wrong.stderr));
    b.sync();
    close(&lab, &[&a, &b]);
}

#[test]
fn a_file_and_a_folder_of_one_name_wait_for_whoever_renames_one_of_them_and_nothing_is_lost() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/x.md", "a file\n");
    a.sync();
    b.write("shared/x.md/y.md", "in a folder\n");

    b.run(["sync"]).expect(3).says("shared/x.md: a folder stands in its place; give one of the two another name");
    b.run(["status"]).expect(3).says("1 file of another machine has no place here");
    a.run(["sync"]).expect(3).says("shared/x.md/y.md: a file or a link stands where a folder above it has to be");
    assert_eq!(a.run(["status", "--json"]).expect(3).json()["counts"]["unplaced"], 1);

    fs::rename(b.path("shared/x.md"), b.path("shared/z")).expect("rename");
    b.run(["sync"]).expect(0);
    a.run(["sync"]).expect(0);
    for project in [&a, &b] {
        project.run(["sync"]).expect(0);
        project.run(["status"]).expect(0);
        assert_eq!(project.read("shared/x.md").as_deref(), Some(&b"a file\n"[..]));
        assert_eq!(project.read("shared/z/y.md").as_deref(), Some(&b"in a folder\n"[..]));
    }
}

#[test]
fn explain_looks_at_what_stands_there() {
    let lab = Lab::new();
    let config = r#"{"syncFilePatterns": ["**"], "respectGitignore": true, "maxFileBytes": 100}"#;
    let a = lab.project("a", config);
    a.write(".gitignore", "drafts/\n");
    for (name, text) in [("a.md", "one"), ("drafts/a.md", "one"), ("real/a.md", "one")] {
        a.write(name, text);
    }
    a.write("long.md", [b'x'; 101]);
    a.write("key.txt", "-----BEGIN PRIVATE KEY-----\n");
    symlink("../elsewhere", a.path("out")).expect("links");
    symlink("real", a.path("in")).expect("links");
    let cases = [
        ("drafts/a.md", "a .gitignore names it"),
        ("long.md", "larger than maxFileBytes"),
        ("key.txt", "a private key"),
        ("out", "points outside the project"),
        ("in/a.md", "links are not followed"),
    ];

    for (name, why) in cases {
        let explained = a.run(["explain", name, "--json"]).expect(0).json();
        assert_eq!(explained["kept"], false, "{name}");
        assert!(explained["left_out"].as_str().is_some_and(|told| told.contains(why)), "{name}: {explained}");
        a.run(["explain", name]).expect(0).says("left out").says(why);
    }
    for name in ["a.md", "in", "not-there.md", "real"] {
        let explained = a.run(["explain", name, "--json"]).expect(0).json();
        assert!(explained["kept"] == true && explained["left_out"].is_null(), "{name}: {explained}");
    }
    assert!(!a.path(".larder").exists(), "nothing is written");
}
