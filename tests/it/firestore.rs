//! Firestore through the shipped binary, over the strict stand-in: machines that share nothing else converge, a program of the vendor's
//! own client writes beside them, and what is wrong is said in one sentence and loses nothing.
//!
//! The stand-in is checked by two clients of the vendor, which `scripts/test` installs (`LARDER_FIRESTORE_NODE`,
//! `LARDER_FIRESTORE_PYTHON`); each test has a server of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::firestore_server::{Fault, Firestore};
use crate::support::{CONFIG, DAEMON_DEADLINE, Lab, Project, finish, skip, until};

/// A project on a machine of its own that mirrors into the server and looks through its rows at each run.
fn machine(lab: &Lab, name: &str, server: &Firestore) -> Project {
    let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
    let project = project.with_var("FILE_SYNC_BACKEND", "firestore:lab").with_var("FIRESTORE_SWEEP_SECS", "0");
    project.with_var("FIRESTORE_EMULATOR_HOST", &server.host())
}

/// Two of them that know of each other: a backend begins to carry artifacts with its second writer.
fn pair(lab: &Lab, server: &Firestore) -> (Project, Project) {
    let (a, b) = (machine(lab, "a", server), machine(lab, "b", server));
    for project in [&a, &b, &a] {
        project.sync_any();
    }
    (a, b)
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists())
}

/// Runs one of the vendor's clients; what it printed.
#[track_caller]
fn client(program: &Path, packages: Option<&Path>, server: &Firestore, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.env("FIRESTORE_EMULATOR_HOST", server.host()).args(args);
    if let Some(packages) = packages {
        command.env("NODE_PATH", packages.join("node_modules"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command).expect(0).out.trim_end().to_owned()
}

fn script(name: &str) -> String {
    format!("{}/tests/data/firestore/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn node(packages: &Path, server: &Firestore, words: &[&str]) -> String {
    let script = script("client.cjs");
    let args: Vec<&str> = [script.as_str()].iter().chain(words).copied().collect();
    client(Path::new("node"), Some(packages), server, &args)
}

#[test]
fn the_vendors_clients_find_the_stand_in_as_they_find_the_service() {
    let test = "the_vendors_clients_find_the_stand_in_as_they_find_the_service";
    match named("LARDER_FIRESTORE_NODE") {
        Some(packages) => assert_eq!(node(&packages, &Firestore::start(), &["check"]), "checked"),
        None => skip(test, "LARDER_FIRESTORE_NODE names no folder with @google-cloud/firestore"),
    }
    match named("LARDER_FIRESTORE_PYTHON") {
        Some(python) => {
            let server = Firestore::start();
            assert_eq!(client(&python, None, &server, &[&script("client.py"), &server.host()]), "checked");
        }
        None => skip(test, "LARDER_FIRESTORE_PYTHON names no Python with google-cloud-firestore"),
    }
}

#[test]
fn two_machines_that_share_only_firestore_converge() {
    let lab = Lab::new();
    let server = Firestore::start();
    let (a, b) = pair(&lab, &server);
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/große datei.md", "eins\n");
    a.write("shared/deep/empty.md", "");
    a.write("shared/large.bin", &large);
    b.write("shared/of-b.md", "zwei\n");

    for project in [&a, &b, &a] {
        project.sync();
    }
    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(b.read("shared/large.bin"), Some(large));

    // Edits on both sides of what the other has not seen yet, and a delete that is not the newest change.
    a.remove("shared/of-b.md");
    a.write("shared/große datei.md", "eins\nvon a\n");
    b.write("shared/new.md", "drei\n");
    for project in [&a, &b, &a, &b] {
        project.sync();
    }
    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!((b.read("shared/of-b.md"), a.read("shared/new.md")), (None, Some(b"drei\n".to_vec())));
    for project in [&a, &b] {
        project.verify();
    }
}

#[test]
fn a_program_of_the_vendors_client_writes_edits_and_deletes_beside_two_machines() {
    let Some(packages) = named("LARDER_FIRESTORE_NODE") else {
        let test = "a_program_of_the_vendors_client_writes_edits_and_deletes_beside_two_machines";
        return skip(test, "LARDER_FIRESTORE_NODE names no folder with @google-cloud/firestore");
    };
    let lab = Lab::new();
    let server = Firestore::start();
    let (a, b) = pair(&lab, &server);
    let client = |words: &[&str]| node(&packages, &server, words);
    let settle = || [&a, &b, &a].into_iter().for_each(|project| drop(project.sync()));

    client(&["put", "lab", "shared/theirs.md", "new\n"]);
    settle();
    assert_eq!(a.read("shared/theirs.md"), Some(b"new\n".to_vec()));

    client(&["put", "lab", "shared/theirs.md", "edited\n", "stamp"]);
    settle();
    assert_eq!(b.read("shared/theirs.md"), Some(b"edited\n".to_vec()));

    // And the other way round: what is edited on a disk is what the program reads, under the name it knows.
    b.write("shared/theirs.md", "von b\n");
    b.sync();
    assert_eq!(client(&["read", "lab", "shared/theirs.md"]), "von b");
    settle();

    client(&["delete", "lab", "shared/theirs.md"]);
    settle();
    assert_eq!((a.read("shared/theirs.md"), b.read("shared/theirs.md")), (None, None));
    assert_eq!(client(&["read", "lab", "shared/theirs.md"]), "(none)");
}

#[test]
fn documents_of_firestore_with_hostile_names_land_nowhere_and_stop_no_other() {
    const TEST: &str = "documents_of_firestore_with_hostile_names_land_nowhere_and_stop_no_other";
    let Some(packages) = named("LARDER_FIRESTORE_NODE") else {
        return skip(TEST, "LARDER_FIRESTORE_NODE names no folder with @google-cloud/firestore");
    };
    let lab = Lab::new();
    let server = Firestore::start();
    let (a, _) = pair(&lab, &server);

    for path in ["shared/../../out.md", "/tmp/larder-out.md", "shared/.env", "shared/\u{1b}[2J.md", "shared/fine.md"] {
        node(&packages, &server, &["put", "lab", path, "planted\n"]);
    }
    a.run(["sync"]).expect(0);

    assert_eq!(a.read("shared/fine.md"), Some(b"planted\n".to_vec()));
    assert!(!lab.path("out.md").exists() && !Path::new("/tmp/larder-out.md").exists());
    assert_eq!(a.read("shared/.env"), None);
    let status = a.run(["status"]).expect(0).says("shared/.env").says("no file can have");
    assert!(!status.said().contains('\u{1b}'), "{status:#?}");
    a.verify();
}

#[test]
fn a_service_that_goes_away_in_the_middle_loses_and_doubles_nothing() {
    let lab = Lab::new();
    let server = Firestore::start();
    let (a, b) = pair(&lab, &server);
    for n in 0..400 {
        a.write(format!("shared/{n:03}.md"), format!("text {n}\n"));
    }
    // Some commits go well, one is done although its answer is lost, then nothing is reached any more.
    server.fail_after("commit", 1, 1, Fault::Truncated);
    server.fail("commit", usize::MAX, Fault::Answer(503, "", "<html>away</html>"));
    a.run(["sync"]).expect(2).says("the service is away");
    a.run(["status"]).says("the service is away");
    server.heal();

    until("every row is there", DAEMON_DEADLINE, || {
        a.run(["sync"]);
        server.documents("files").len() == 400
    });
    b.sync();
    assert_eq!(a.tree("shared"), b.tree("shared"));
    for project in [&a, &b] {
        let status = project.run(["status", "--json"]).json();
        assert_eq!((&status["counts"]["versions"], &status["outbox"]), (&400.into(), &serde_json::json!([])));
    }
}

#[test]
fn what_is_wrong_with_the_settings_is_one_sentence_and_nothing_is_lost() {
    let lab = Lab::new();
    let server = Firestore::start_with_account();
    std::fs::write(lab.path("account.json"), server.account_file()).expect("it is written");
    let with = |project: Project| {
        let file = lab.path("account.json").display().to_string();
        let project = project.with_var("GOOGLE_APPLICATION_CREDENTIALS", &file);
        project.with_var("FIRESTORE_ENDPOINT", &format!("http://{}", server.host()))
    };
    let base = with(lab.project("a", CONFIG));
    base.write("shared/a.md", "text\n");
    let on = |backend: &str| base.clone().with_var("FILE_SYNC_BACKEND", backend);

    on("firestore:elsewhere").run(["sync"]).expect(2).says("name another project");
    on("firestore:lab/other").run(["sync"]).expect(2).says("there is no such Firestore database");
    let gone = on("firestore").with_var("FIRESTORE_ENDPOINT", "http://127.0.0.1:1");
    gone.run(["sync"]).expect(2).says("it cannot be reached");
    let open = on("firestore").with_var("FIRESTORE_ENDPOINT", "http://firestore.example");
    open.run(["sync"]).expect(1).says("https://");
    let keyless = on("firestore").with_var("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json");
    keyless.run(["sync"]).expect(2).says("names the file of a service account");
    server.set_clock_ahead_secs(-7_200);
    on("firestore").run(["sync"]).expect(2).says("the clock of this machine is");
    server.set_clock_ahead_secs(0);

    let good = on("firestore");
    good.sync();
    assert_eq!(server.documents("files").len(), 1);
    let said = good.run(["status", "--json"]).said();
    assert!(!said.contains("ya29") && !said.contains("PRIVATE"), "{said}");
}

#[test]
fn a_project_that_moves_to_another_database_fills_it() {
    let lab = Lab::new();
    let (old, new) = (Firestore::start(), Firestore::start());
    // Whatever its clock says, a database is known by when it was begun.
    new.advance_ms(5_000);
    let a = machine(&lab, "a", &old);
    a.write("shared/first.md", "first\n");
    a.sync_any();

    let a = a.with_var("FIRESTORE_EMULATOR_HOST", &new.host());
    a.write("shared/second.md", "second\n");
    a.sync_any();

    assert_eq!((new.documents("files").len(), old.documents("files").len()), (2, 1));
}

#[test]
fn daemons_tell_each_other_through_firestore_alone() {
    let lab = Lab::new();
    let server = Firestore::start();
    let (a, b) = pair(&lab, &server);
    let (_first, _second) = (a.up(), b.up());

    a.write("shared/a.md", "von a\n");
    until("it reaches b", DAEMON_DEADLINE, || b.read("shared/a.md").as_deref() == Some(b"von a\n"));
    b.remove("shared/a.md");
    until("its end reaches a", DAEMON_DEADLINE, || a.read("shared/a.md").is_none());
}

#[test]
fn a_run_without_news_asks_few_questions_however_many_files_there_are() {
    let lab = Lab::new();
    let server = Firestore::start();
    let (a, b) = pair(&lab, &server);
    let (a, b) = (a.with_var("FIRESTORE_SWEEP_SECS", "never"), b.with_var("FIRESTORE_SWEEP_SECS", "never"));
    let mut costs = Vec::new();
    for many in [3, 300] {
        for n in 0..many {
            a.write(format!("shared/{many}/{n}.md"), format!("text {n}\n"));
        }
        for project in [&a, &b, &a, &b] {
            project.sync();
        }
        // What was told lies further back than readers look.
        server.advance_ms(11_000);
        b.sync();
        server.take_counts();
        b.sync();
        let (requests, read) = server.take_counts();
        costs.push((requests.len(), read));
    }
    // A few more where there are packs to be listed; nothing that grows with the files.
    assert!(costs.iter().all(|(requests, read)| *requests <= 30 && *read <= 40), "{costs:?}");
}
