//! Who writes: cloned disks, restored backups and lost machines, each told of and settled with the command it names.
//!
//! A disk is cloned by putting what stood in a folder back into that very folder: everything that identifies it is the same.

use std::fs;

use crate::support::{CONFIG, Lab, Outcome, Project, restore};

/// A lab with a folder to share, and a project that meets others there.
pub fn lab() -> (Lab, Project) {
    let lab = Lab::new();
    fs::create_dir(lab.path("share")).expect("make the folder");
    let a = member(&lab, "a");
    (lab, a)
}

/// One more that meets them there.
pub fn member(lab: &Lab, name: &str) -> Project {
    let project = lab.project(name, CONFIG);
    add(&project, lab);
    project
}

fn add(project: &Project, lab: &Lab) {
    project.run(["peers", "add", "share", &lab.path("share").to_string_lossy()]).expect(0);
}

/// Keeps a project's disk as it is now.
fn image(lab: &Lab, project: &Project, name: &str) {
    restore(&project.dir, &lab.path(name));
}

/// Puts a kept disk in the project's place.
fn boot(lab: &Lab, project: &Project, name: &str) {
    restore(&lab.path(name), &project.dir);
}

fn name_of(project: &Project) -> String {
    project.run(["origin", "show", "--json"]).expect(0).json()["origin"].as_str().expect("a name").to_owned()
}

/// The ids of all versions, sorted.
fn versions(project: &Project) -> Vec<String> {
    let log = project.run(["log", "--json", "-n", "1000"]).expect(0).json();
    let ids = log["versions"].as_array().expect("a list").iter().map(|version| version["id"].to_string());
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids
}

/// How many generations of an origin are known.
fn generations(project: &Project, origin: &str) -> usize {
    let listed = project.run(["origin", "list", "--json"]).expect(0).json();
    let origins = listed["origins"].as_array().expect("a list").clone();
    origins.into_iter().find(|line| line["origin"] == origin).expect("is listed")["generations"]
        .as_array()
        .map_or(0, Vec::len)
}

#[track_caller]
fn holds(project: &Project, files: &[(&str, &str)]) {
    for (path, text) in files {
        let there = project.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(there.as_deref(), Some(*text), "{path} in {:?}", project.dir);
    }
}

/// A sync that stops because somebody else writes as this machine; `status` tells the same.
#[track_caller]
fn is_told(project: &Project, origin: &str, what: &str) -> Outcome {
    let adopt = format!("larder origin adopt {origin}");
    project.run(["status"]).expect(1).says(what).says(&adopt);
    project.run(["sync"]).expect(1).says(what).says(&adopt).says("larder origin new")
}

#[test]
fn a_cloned_disk_is_told_of_before_its_numbers_collide_and_becomes_a_machine_of_its_own() {
    let (lab, a) = lab();
    a.write("shared/one.md", "one\n");
    a.write("logs/x.log", "x\n");
    a.sync();
    image(&lab, &a, "clone");
    a.write("shared/by-the-first.md", "first\n");
    a.sync();
    let name = name_of(&a);
    image(&lab, &a, "first");

    boot(&lab, &a, "clone");
    a.write("shared/by-the-clone.md", "clone\n");
    let before = versions(&a);
    a.run(["sync"]).expect(1).says("went on without this folder").says("origin new");
    is_told(&a, &name, "went on without this folder");
    let mut daemon = a.up();
    daemon.wait_for("nothing is recorded or written here");
    daemon.stop();
    assert_eq!(versions(&a), before, "nothing is recorded under a name that another machine uses");
    a.run(["origin", "new", "--dry-run"]).expect(0).says(&name);
    a.run(["origin", "new"]).expect(0);
    a.sync();
    assert_ne!(name_of(&a), name);
    a.verify();
    image(&lab, &a, "clone");

    boot(&lab, &a, "first");
    a.sync();
    assert_eq!(name_of(&a), name);
    let all = [
        ("shared/one.md", "one\n"),
        ("shared/by-the-first.md", "first\n"),
        ("shared/by-the-clone.md", "clone\n"),
        ("logs/x.log", "x\n"),
    ];
    holds(&a, &all);
    a.run(["status"]).expect(0);
    a.verify();
    let logs = a.run(["log", "logs/x.log", "--json"]).expect(0).json();
    assert_eq!(logs["versions"].as_array().map(Vec::len), Some(2), "both machines have the file of their own: {logs}");
    boot(&lab, &a, "clone");
    a.sync();
    holds(&a, &all);
}

#[test]
fn two_machines_that_wrote_as_one_are_both_told_and_both_branches_are_kept() {
    let (lab, a) = lab();
    let b = member(&lab, "b");
    for text in ["zero\n", "one\n"] {
        a.write("shared/one.md", text);
        a.sync();
    }
    b.sync();
    let name = name_of(&a);
    image(&lab, &a, "clone");
    a.write("shared/by-the-first.md", "first\n");
    a.write("shared/one.md", "one of the first\n");
    a.sync();
    image(&lab, &a, "first");

    boot(&lab, &a, "clone");
    fs::rename(lab.path("share"), lab.path("away")).expect("the disk is not there");
    a.write("shared/by-the-clone.md", "clone\n");
    a.run(["sync"]).expect(2);
    fs::rename(lab.path("away"), lab.path("share")).expect("it is again");
    a.run(["sync"]).expect(1).says(&format!("two machines write as {name}")).says("cp-");
    is_told(&a, &name, "two machines write as");
    a.run(["restore", "shared/one.md"]).expect(1).says("origin new");
    // Out of reach, the store cannot tell that all is well either.
    fs::rename(lab.path("share"), lab.path("away")).expect("the disk is not there");
    a.run(["sync"]).expect(1).says("two machines write as");
    fs::rename(lab.path("away"), lab.path("share")).expect("it is again");
    a.run(["origin", "new"]).expect(0);
    a.sync();
    image(&lab, &a, "clone");

    b.sync();
    b.run(["status"]).says("two machines wrote checkpoint").says("origin adopt");
    b.run(["verify"]).expect(4).says("two writers behind one chain");

    boot(&lab, &a, "first");
    is_told_after_sync(&a, &name);
    a.run(["origin", "adopt", &name]).expect(0).says("generation ");
    a.sync();
    let all = [
        ("shared/one.md", "one of the first\n"),
        ("shared/by-the-first.md", "first\n"),
        ("shared/by-the-clone.md", "clone\n"),
    ];
    for _ in 0..2 {
        holds(&a, &all);
        a.run(["status"]).expect(0);
        a.verify();
        boot(&lab, &a, "clone");
        a.sync();
    }
    b.sync();
    holds(&b, &all);
    let status = b.run(["status"]).expect(0);
    assert!(!status.said().contains("two machines"), "what is settled is no problem any more: {status:#?}");
    b.verify();
    assert_eq!(versions(&a), versions(&b));
}

/// As `is_told`, of a machine that has not looked yet.
#[track_caller]
fn is_told_after_sync(project: &Project, origin: &str) {
    project.run(["sync"]).expect(1).says("two machines write as");
    is_told(project, origin, "two machines write as");
}

#[test]
fn a_restored_backup_goes_on_as_the_next_generation_without_a_double_of_anything() {
    let (lab, a) = lab();
    let b = member(&lab, "b");
    a.write("shared/one.md", "1\n");
    a.write("mine/own.md", "1\n");
    a.write("logs/x.log", "1\n");
    a.sync();
    image(&lab, &a, "backup");
    for n in 2..5 {
        a.write("shared/one.md", format!("{n}\n"));
        a.append("logs/x.log", format!("{n}\n"));
        a.write(format!("shared/{n}.md"), "new\n");
        a.sync();
    }
    b.sync();
    let (name, known) = (name_of(&a), versions(&b));

    boot(&lab, &a, "backup");
    a.run(["sync"]).expect(1);
    is_told(&a, &name, "went on without this folder");
    a.run(["origin", "adopt", &name, "--dry-run"]).expect(0).says("in a later generation");
    is_told(&a, &name, "went on without this folder");
    a.run(["origin", "adopt", &name]).expect(0);
    a.sync();

    holds(&a, &[("shared/one.md", "4\n"), ("shared/3.md", "new\n"), ("mine/own.md", "1\n"), ("logs/x.log", "1\n")]);
    assert_eq!(name_of(&a), name);
    assert_eq!(generations(&a, &name), 2);
    a.verify();
    a.run(["status"]).expect(0);
    a.write("shared/one.md", "5\n");
    a.sync();
    b.sync();
    holds(&b, &[("shared/one.md", "5\n")]);
    // The archive file of the backup is an edit of what stood there: shorter, and recorded as that.
    let new: Vec<String> = versions(&b).into_iter().filter(|id| !known.contains(id)).collect();
    assert!(new.len() <= 2, "{new:?}");
    b.verify();
}

#[test]
fn a_larder_folder_restored_by_itself_is_refused_until_a_word_says_what_it_is() {
    let (lab, a) = lab();
    a.write("shared/one.md", "1\n");
    a.sync();
    image(&lab, &a, "backup");
    a.write("shared/one.md", "2\n");
    a.sync();
    let (name, known) = (name_of(&a), versions(&a));
    // Never empty in between, so that the folder's number is not used again.
    fs::rename(a.path(".larder"), a.path(".larder-lost")).expect("set aside");
    restore(&lab.path("backup/.larder"), &a.path(".larder"));
    fs::remove_dir_all(a.path(".larder-lost")).expect("remove");

    for told in ["sync", "status"] {
        a.run([told]).expect(1).says("restored from a backup").says(&format!("larder origin adopt {name}"));
    }
    a.run(["origin", "adopt", &name]).expect(0);
    a.run(["status"]).expect(0);
    a.sync();

    holds(&a, &[("shared/one.md", "2\n")]);
    assert_eq!(versions(&a), known);
    a.verify();
}

#[test]
fn a_lost_machine_is_adopted_from_a_store_without_a_double_of_anything() {
    let (lab, a) = lab();
    let b = member(&lab, "b");
    a.write("logs/x.log", "");
    for n in 0..3 {
        a.write("shared/one.md", format!("{n}\n"));
        a.append("logs/x.log", format!("{n}\n"));
        a.sync();
    }
    b.sync();
    let (name, known) = (name_of(&a), versions(&b));
    fs::remove_dir_all(&a.dir).expect("the machine is lost");
    let anew = lab.project("a", CONFIG).with_home(&lab.path("new-home"));
    anew.write("shared/one.md", "2\n");
    anew.write("logs/x.log", "0\n1\n2\n");

    anew.run(["origin", "adopt", &name]).expect(1).says("nobody knows a machine called");
    anew.run(["origin", "adopt", "No Name"]).expect(1).says("no machine can be called");
    add(&anew, &lab);
    anew.run(["origin", "adopt", "nobody-abc234"]).expect(1).says(&name);
    fs::rename(lab.path("share"), lab.path("away")).expect("the disk is not there");
    anew.run(["origin", "adopt", &name]).expect(2).says("must be heard first").says("--without share");
    anew.run(["origin", "adopt", &name, "--without", "nowhere"]).expect(1).says("no store of this project is called");
    fs::rename(lab.path("away"), lab.path("share")).expect("it is again");
    assert!(!anew.path(".larder/origin.json").exists());
    anew.run(["origin", "adopt", &name]).expect(0).says("generation ");
    anew.sync();

    assert_eq!(versions(&anew), known, "files equal to what is known record nothing");
    holds(&anew, &[("shared/one.md", "2\n"), ("logs/x.log", "0\n1\n2\n")]);
    assert_eq!(name_of(&anew), name);
    anew.append("logs/x.log", "3\n");
    anew.sync();
    b.sync();
    let listed = b.run(["origin", "list"]).expect(0);
    assert_eq!(listed.out.matches(&name).count(), 1, "it does not appear twice: {listed:#?}");
    assert_eq!(generations(&b, &name), 2);
    assert_eq!(versions(&b).len(), known.len() + 1);
    for project in [&anew, &b] {
        project.run(["status"]).expect(0);
        project.verify();
    }
}

#[test]
fn a_machine_that_was_taken_for_lost_is_told_and_goes_on_under_a_name_of_its_own() {
    let (lab, a) = lab();
    let b = member(&lab, "b");
    a.write("shared/one.md", "one\n");
    a.sync();
    let name = name_of(&a);
    b.sync();
    b.run(["origin", "adopt", &name]).expect(0);
    b.write("shared/two.md", "two\n");
    b.sync();

    a.write("shared/three.md", "three\n");
    a.run(["sync"]).expect(1).says("goes on elsewhere as generation ").says("origin new");
    is_told(&a, &name, "goes on elsewhere as generation ");
    a.run(["origin", "new"]).expect(0);
    a.sync();
    b.sync();

    let all = [("shared/one.md", "one\n"), ("shared/two.md", "two\n"), ("shared/three.md", "three\n")];
    for project in [&a, &b] {
        holds(project, &all);
        project.run(["status"]).expect(0);
        project.verify();
    }
}

#[test]
fn a_lost_machine_is_adopted_from_a_shared_database_too() {
    let lab = Lab::new();
    let (a, b) = lab.pair();
    a.write("shared/one.md", "one\n");
    a.write("logs/x.log", "x\n");
    for project in [&a, &b, &a] {
        project.sync();
    }
    let (name, known) = (name_of(&a), versions(&b));
    fs::remove_dir_all(&a.dir).expect("the machine is lost");
    let anew = lab.project("a", CONFIG).with_backend(&lab.path("shared.db")).with_home(&lab.path("new-home"));
    anew.write("logs/x.log", "x\n");

    anew.run(["origin", "adopt", &name]).expect(0).says("generation ");
    anew.sync();
    b.sync();

    holds(&anew, &[("shared/one.md", "one\n"), ("logs/x.log", "x\n")]);
    assert_eq!(versions(&anew), known);
    assert_eq!(generations(&b, &name), 2);
    for project in [&anew, &b] {
        project.run(["status"]).expect(0);
        project.verify();
    }
}

#[test]
fn a_store_that_is_away_holds_up_no_adoption_if_another_holds_the_newest_or_a_person_does_without_it() {
    let (lab, a) = lab();
    let second = lab.path("second");
    fs::create_dir(&second).expect("make the folder");
    a.run(["peers", "add", "second", &second.to_string_lossy()]).expect(0);
    a.write("shared/one.md", "one\n");
    a.sync();
    let name = name_of(&a);
    fs::rename(&second, lab.path("away")).expect("the disk is not there");

    a.run(["origin", "adopt", &name]).expect(0).says("second was not heard");
    a.run(["sync"]).expect(2);
    let anew = lab.project("anew", CONFIG).with_home(&lab.path("new-home"));
    add(&anew, &lab);
    let away = format!("share={};second={}", lab.path("share").display(), second.display());
    let anew = anew.with_var("LARDER_PEERS", &away);
    anew.run(["origin", "adopt", &name]).expect(2).says("must be heard first").says("--without second");
    anew.run(["origin", "adopt", &name, "--without", "second"]).expect(0).says("second was not heard");
    fs::rename(lab.path("away"), &second).expect("it is again");
    anew.sync();

    holds(&anew, &[("shared/one.md", "one\n")]);
    assert_eq!(generations(&anew, &name), 3);
    anew.verify();
}

#[test]
fn what_was_set_aside_unread_never_leaves_whatever_the_patterns_say() {
    let (lab, a) = lab();
    let all = r#"{ "appId": "lab", "syncFilePatterns": ["**"], "privateSyncFilePatterns": ["mine/**"] }"#;
    fs::write(a.path("sync-config.json"), all).expect("write the config");
    a.write("mine/diary.md", "nobody else's\n");
    a.write("one.md", "one\n");
    a.run(["sync", "--trust"]).expect(0);
    // As a checkout brings it.
    fs::rename(a.path(".larder"), lab.path("came")).expect("take it away");
    let copied = std::process::Command::new("cp").arg("-r").args([lab.path("came"), a.path(".larder")]).status();
    assert!(copied.expect("cp runs").success());
    let anew = a.with_home(&lab.path("new-home"));

    anew.run(["sync", "--trust"]).says("moved to").says(".larder-set-aside-");

    let aside = anew.tree("").keys().any(|path| path.starts_with(b".larder-set-aside-"));
    assert!(aside, "it is kept for a person to look at");
    let recorded = anew.run(["log", "--json", "-n", "1000"]).expect(0).json();
    let paths: Vec<&str> =
        recorded["versions"].as_array().expect("a list").iter().filter_map(|v| v["path"].as_str()).collect();
    assert!(paths.contains(&"one.md"));
    assert!(!paths.iter().any(|path| path.starts_with(".larder-set-aside-")), "{paths:?}");
}
