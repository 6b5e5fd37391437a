//! What a running project does when the ground moves: its state is removed, its config is edited and put back, its runs fail.

use std::fs;

use crate::origin::member;
use crate::support::{CONFIG, DAEMON_DEADLINE, Lab, Project, until};

#[test]
fn a_daemon_whose_state_is_removed_ends_and_writes_nothing_more() {
    let (lab, a) = crate::origin::lab();
    let b = member(&lab, "b");
    a.write("shared/plan.md", "1\n");
    let mut daemon = a.up();
    b.sync();
    fs::remove_dir_all(a.path(".larder")).expect("as `git clean -fdx` does");
    // Whoever works there next has a state of his own.
    a.sync();
    let name = a.run(["origin", "--json"]).expect(0).json()["origin"].clone();

    b.write("shared/new.md", "from b\n");
    b.sync();

    daemon.wait_for("was removed or replaced");
    assert_eq!(daemon.code(), Some(1));
    a.sync();
    assert_eq!(a.run(["origin", "--json"]).expect(0).json()["origin"], name);
    assert_eq!(a.read("shared/new.md").as_deref(), Some(&b"from b\n"[..]));
    let listed = b.run(["origin", "list", "--json"]).expect(0).json();
    let forked = listed["origins"].as_array().expect("a list").iter().any(|line| line["forked"] == true);
    assert!(!forked, "{listed:#}");
    a.verify();
}

#[test]
fn a_removed_state_leaves_what_another_process_made_there_meanwhile() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    project.write("shared/plan.md", "1\n");
    let first = project.up();
    fs::remove_dir_all(project.path(".larder")).expect("remove");
    let second = project.up();
    project.write("shared/plan.md", "2\n");
    project.run(["sync"]).expect(0);

    first.end();

    // The log of a database belongs to who made it, and so does the socket.
    assert!(project.path(".larder/control.sock").exists() && project.path(".larder/state.db-wal").exists());
    project.write("shared/plan.md", "3\n");
    project.run(["sync", "--json"]).expect(0).says("\"by\": \"daemon\"");
    second.kill();
    project.sync();
    project.verify();
}

/// What `status` says of an edited config.
fn config_problem(project: &Project) -> Option<String> {
    let problems = project.run(["status", "--json"]).json()["problems"].clone();
    let told = problems.as_array()?.iter().find(|one| one["source"] == "config")?;
    Some(told["what"].as_str().expect("a sentence").to_owned())
}

#[test]
fn a_config_that_is_put_back_as_it_was_leaves_no_problem() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    project.write("shared/plan.md", "1\n");
    let mut daemon = project.up();
    project.write("sync-config.json", CONFIG.replacen('{', "{ \"peers\": { \"nas\": \"/nas\" },", 1));
    daemon.wait_for("the edited config is not used");
    let told = config_problem(&project).expect("is listed");
    assert!(told.contains("/nas") && told.contains("larder up --trust"), "{told}");
    assert!(!told.contains("\\n"), "one line: {told}");

    project.write("sync-config.json", CONFIG);

    until("the problem goes with its reason", DAEMON_DEADLINE, || config_problem(&project).is_none());
    daemon.stop();
}

#[test]
fn a_changed_pattern_is_no_problem_and_one_that_matches_nothing_is_a_warning() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    let mut daemon = project.up();

    project.write("sync-config.json", CONFIG.replace("shared/**", "other/**"));
    daemon.wait_for("the config changed");
    project.run(["sync"]).expect(0);

    let status = project.run(["status"]).expect(0);
    let told = |word: &str| status.out.lines().any(|line| line.starts_with(word));
    assert!(told("warning   other/**") && !told("problem"), "{status:#?}");
    daemon.stop();
}

#[test]
fn status_fails_as_the_last_run_of_a_daemon_did_until_one_succeeds() {
    let lab = Lab::new();
    let project = lab.project("project", CONFIG);
    project.write("shared/plan.md", "1\n");
    let mut daemon = project.up();
    let staging = project.path(".larder/ledger/.staging");
    fs::remove_dir_all(&staging).expect("remove");
    fs::write(&staging, "in the way").expect("write");
    project.write("shared/plan.md", "2\n");
    daemon.wait_for("a run failed and is tried again");

    let failed = project.run(["status", "--json"]);

    assert!(failed.code != Some(0), "{failed:#?}");
    let said = failed.json()["error"]["message"].as_str().expect("a sentence").to_owned();
    assert!(said.starts_with("the last run failed: "), "{said}");
    fs::remove_file(&staging).expect("out of the way");
    until("a run succeeds", DAEMON_DEADLINE, || project.run(["status"]).code == Some(0));
    daemon.stop();
}
