//! What needs the project for itself, asked for beside a running daemon: it carries it out and goes on as what the folder is then.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::origin::{lab, member};
use crate::support::{CONFIG, DAEMON_DEADLINE, Daemon, Lab, Project, restore, until};
use crate::view::can_mount;

fn origin(project: &Project) -> serde_json::Value {
    project.run(["origin", "show", "--json"]).expect(0).json()
}

/// A folder that was put back to an earlier day while its newer checkpoints stand in the store; its name.
fn put_back(lab: &Lab, project: &Project) -> String {
    project.write("shared/first.md", "first\n");
    project.sync();
    restore(&project.dir, &lab.path("image"));
    project.write("shared/second.md", "second\n");
    project.sync();
    restore(&lab.path("image"), &project.dir);
    origin(project)["origin"].as_str().expect("a name").to_owned()
}

/// A daemon that records nothing, because the store shows that the folder is behind itself.
fn stopped_daemon(project: &Project) -> Daemon {
    let mut daemon = project.up();
    daemon.wait_for("nothing is recorded or written here");
    daemon
}

#[track_caller]
fn comes(project: &Project, path: &str, text: &str) {
    until(&format!("{path} is there"), DAEMON_DEADLINE, || project.read(path).as_deref() == Some(text.as_bytes()));
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("list").map(|entry| entry.expect("list").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_daemon_becomes_a_new_machine_when_it_is_told_and_goes_on() {
    let (lab, a) = lab();
    let name = put_back(&lab, &a);
    let daemon = stopped_daemon(&a);

    a.run(["origin", "new", "--dry-run"]).expect(0).says(&name);
    assert_eq!(origin(&a)["origin"], *name);
    a.run(["origin", "new"]).expect(0).says("this folder is now");

    assert_ne!(origin(&a)["origin"], *name);
    comes(&a, "shared/second.md", "second\n");
    let b = member(&lab, "b");
    a.write("shared/third.md", "third\n");
    until("the daemon gives an edit to the store", DAEMON_DEADLINE, || {
        b.sync();
        b.read("shared/third.md").is_some()
    });
    daemon.stop();
    a.verify();
    a.sync();
}

#[test]
fn a_daemon_goes_on_as_the_machine_that_is_adopted() {
    let (lab, a) = lab();
    let name = put_back(&lab, &a);
    let daemon = stopped_daemon(&a);

    a.run(["origin", "adopt", "nobody-abc234"]).expect(1).says("nobody knows").says(&name);
    a.run(["origin", "adopt", &name, "--dry-run"]).expect(0).says("would go on as");
    assert_eq!(origin(&a)["generation"], 1);
    a.run(["origin", "adopt", &name]).expect(0).says("goes on as");

    assert_eq!(origin(&a)["origin"], name);
    assert!(origin(&a)["generation"].as_u64().is_some_and(|generation| generation > 1), "{:#}", origin(&a));
    comes(&a, "shared/second.md", "second\n");
    a.run(["status"]).expect(0);
    daemon.stop();
    a.verify();
}

#[test]
fn a_daemon_repairs_and_goes_on() {
    let (lab, a) = lab();
    let daemon = a.up();
    a.write("shared/one.md", "one\n");
    a.run(["sync"]).expect(0);
    let stored = files_below(&lab.path("share/lab/shared"));
    let checkpoint = stored.iter().find(|path| path.to_string_lossy().contains("/cp-")).expect("a checkpoint");
    let good = fs::read(checkpoint).expect("read");
    fs::set_permissions(checkpoint, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(checkpoint, &good[..good.len() / 2]).expect("write");

    a.run(["repair", "--dry-run"]).says("would mend");
    assert_ne!(fs::read(checkpoint).expect("read"), good);
    let repaired = a.run(["repair", "--json"]).expect(0).json();

    assert_eq!(repaired["mended"].as_array().map(Vec::len), Some(1), "{repaired}");
    assert_eq!(fs::read(checkpoint).expect("read"), good);
    a.write("shared/two.md", "two\n");
    let b = member(&lab, "b");
    until("the daemon gives an edit to the store", DAEMON_DEADLINE, || {
        b.sync();
        b.read("shared/two.md").is_some()
    });
    daemon.stop();
    a.verify();
}

#[test]
fn a_daemon_lets_go_what_is_garbage_when_it_is_told() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let (lab, _) = lab();
    let alone = lab.project("alone", CONFIG).with_var("LARDER_RETENTION", "30d");
    for text in ["one\n", "two\n"] {
        alone.write("shared/old.md", text);
        alone.sync_ago(90 * DAY_MS);
    }
    alone.write("shared/new.md", "heard\n");
    alone.sync_ago(50 * DAY_MS);
    let daemon = alone.up();

    let would = alone.run(["gc", "--dry-run", "--json"]).expect(0).json();
    let did = alone.run(["gc", "--json"]).expect(0).json();
    let again = alone.run(["gc", "--json"]).expect(0).json();

    assert_eq!(did["dropped"].as_array().map(Vec::len), Some(1), "{did}");
    assert_eq!(
        (&would["dropped"], would["removed"].as_array().map(Vec::len)),
        (&did["dropped"], did["removed"].as_array().map(Vec::len))
    );
    assert_eq!(again["dropped"].as_array().map(Vec::len), Some(0), "{again}");
    alone.write("shared/after.md", "after\n");
    until("the daemon goes on", DAEMON_DEADLINE, || alone.run(["cat", "shared/after.md"]).code == Some(0));
    daemon.stop();
    alone.verify();
    assert_eq!(alone.read("shared/old.md").as_deref(), Some("two\n".as_bytes()));
}

#[test]
fn a_daemon_makes_its_index_anew_and_its_view_with_it() {
    const TEST: &str = "a_daemon_makes_its_index_anew_and_its_view_with_it";
    if !can_mount(TEST) {
        return;
    }
    let (lab, a) = lab();
    let view = lab.path("view");
    let shown = |name: &str| fs::read_to_string(view.join("merged/shared").join(name)).ok();
    a.write("shared/one.md", "one\n");
    let daemon = a.up_with(["--mount", view.to_str().expect("UTF-8")]);
    assert_eq!(shown("one.md").as_deref(), Some("one\n"));

    a.run(["rebuild", "--dry-run"]).expect(0).says("would rebuild");
    a.run(["rebuild"]).expect(0).says("rebuilt from");
    a.write("shared/two.md", "two\n");

    until("the view goes on", DAEMON_DEADLINE, || shown("two.md").as_deref() == Some("two\n"));
    assert_eq!(shown("one.md").as_deref(), Some("one\n"));
    daemon.stop();
    a.verify();
}
