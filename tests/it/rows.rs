//! What has a row in the database and what has none, seen from outside.
//!
//! Invariant: what can have no row waits for none, and no private content stands under the name that everybody's rows have.

use std::os::unix::fs::symlink;

use crate::support::{CONFIG, Lab, Project, Rows};

/// The paths and owners of the rows of a project's own database.
fn owners(project: &Project) -> Vec<(String, String)> {
    let connection = rusqlite::Connection::open(project.path("sync.db")).expect("open the database");
    let mut rows = connection.prepare("SELECT path, owner_id FROM files ORDER BY path").expect("read rows");
    let pairs = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("read rows");
    pairs.map(|pair| pair.expect("two texts")).collect()
}

/// What `status` says waits for a row.
fn outbox(project: &Project) -> serde_json::Value {
    project.run(["status", "--json"]).json()["outbox"].clone()
}

fn pair(path: &str, owner: &str) -> (String, String) {
    (path.to_owned(), owner.to_owned())
}

#[test]
fn private_files_have_no_row_under_the_name_that_stands_for_everybody() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    project.write("shared/plan.md", "plan\n");
    project.write("mine/diary.md", "private\n");

    let planned = project.run(["sync", "--dry-run", "--json"]).expect(0).json();
    let done = project.run(["sync", "--json"]).expect(0).json();

    assert_eq!(owners(&project), [pair("shared/plan.md", "shared")]);
    assert_eq!((&planned["rows_written"], &done["rows_written"]), (&1.into(), &1.into()));
    let next = project.run(["sync", "--json"]).expect(0).json();
    assert_eq!((&next["rows_written"], &next["rows_deleted"]), (&0.into(), &0.into()), "{next:#}");
    assert_eq!(project.read("mine/diary.md").as_deref(), Some(&b"private\n"[..]));
    project.verify();
}

#[test]
fn private_files_of_an_owner_with_a_name_have_rows_under_that_name() {
    let lab = Lab::new();
    let project = lab.project("project", &CONFIG.replacen('{', "{ \"ownerId\": \"ann\",", 1));
    project.write("shared/plan.md", "plan\n");
    project.write("mine/diary.md", "private\n");

    for _ in 0..2 {
        project.sync();

        assert_eq!(owners(&project), [pair("mine/diary.md", "ann"), pair("shared/plan.md", "shared")]);
    }
}

#[test]
fn whoever_names_an_owner_later_has_rows_of_his_private_files_at_the_next_run() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    project.write("shared/plan.md", "plan\n");
    project.write("mine/diary.md", "private\n");
    project.sync();
    assert_eq!(owners(&project), [pair("shared/plan.md", "shared")]);

    project.write("sync-config.json", CONFIG.replacen('{', "{ \"ownerId\": \"ann\",", 1));
    project.sync();

    assert_eq!(owners(&project), [pair("mine/diary.md", "ann"), pair("shared/plan.md", "shared")]);
}

#[test]
fn a_link_waits_for_no_row_and_takes_that_of_the_text_before_it_away() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    project.write("shared/plan.md", "plan\n");
    project.write("shared/now.md", "a text at first\n");
    symlink("plan.md", project.path("shared/link.md")).expect("make a link");
    project.sync();
    let rows = Rows::open(&project.path("sync.db"));
    assert_eq!(rows.content("shared/now.md").as_deref(), Some("a text at first\n"));

    project.remove("shared/now.md");
    symlink("plan.md", project.path("shared/now.md")).expect("make a link");
    project.sync();

    assert_eq!(outbox(&project), serde_json::json!([]));
    assert_eq!((rows.content("shared/now.md"), rows.count()), (None, 1));
    project.sync();
    assert!(project.path("shared/now.md").is_symlink(), "no row makes a file of a link");
}

#[test]
fn approved_deletions_of_archive_files_wait_for_no_row() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    for n in 0..40 {
        project.write(format!("logs/{n}.log"), format!("{n}\n"));
    }
    project.sync();
    std::fs::remove_dir_all(project.path("logs")).expect("remove");
    project.run(["sync"]).expect(3);

    project.run(["deletes", "approve"]).expect(0);

    project.sync();
    assert_eq!(outbox(&project), serde_json::json!([]));
}

#[test]
fn a_database_that_an_older_copy_replaced_has_every_row_again_after_the_next_sync() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    for name in ["kept", "edited", "deleted"] {
        project.write(format!("shared/{name}.md"), format!("{name} at first\n"));
    }
    project.sync();
    let database = project.path("sync.db");
    std::fs::copy(&database, lab.path("older.db")).expect("copy the database");
    project.write("shared/edited.md", "edited later\n");
    project.write("shared/new.md", "new\n");
    project.remove("shared/deleted.md");
    project.sync();

    for beside in ["sync.db", "sync.db-wal", "sync.db-shm"] {
        let _ = std::fs::remove_file(project.path(beside));
    }
    std::fs::copy(lab.path("older.db"), &database).expect("put the copy back");
    // As many as stand in for the changes that are missing there.
    for n in 0..9 {
        project.write(format!("shared/later-{n}.md"), "later\n");
    }
    project.sync();

    let rows = Rows::open(&database);
    let of = |name: &str| rows.content(&format!("shared/{name}.md"));
    assert_eq!(of("edited").as_deref(), Some("edited later\n"));
    assert_eq!(of("new").as_deref(), Some("new\n"));
    assert_eq!(of("deleted"), None);
    assert_eq!(rows.count(), 12);
    assert_eq!(project.read("shared/edited.md").as_deref(), Some(&b"edited later\n"[..]), "no file changes");
    assert_eq!(project.read("shared/deleted.md"), None);
    project.verify();
}
