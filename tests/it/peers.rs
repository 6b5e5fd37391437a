//! Peers by hand: named, tried, joined and taken out with the commands, and met by daemons.

use std::fs;

use crate::support::{CONFIG, DAEMON_DEADLINE, Lab, Project, until};

fn add(project: &Project, lab: &Lab) {
    project.run(["peers", "add", "share", &lab.path("share").to_string_lossy()]).expect(0).says("added share");
}

/// A lab with a folder to share.
fn lab() -> Lab {
    let lab = Lab::new();
    fs::create_dir(lab.path("share")).expect("make the folder");
    lab
}

#[test]
fn a_peer_is_named_tried_used_and_taken_out_again() {
    let lab = lab();
    let commented = CONFIG.replacen('{', "{ // ours\n", 1);
    let (a, b) = (lab.project("a", &commented), lab.project("b", &commented));
    a.write("shared/a.md", "a\n");
    a.write("logs/x.log", "a\n");
    b.write("logs/x.log", "b\n");

    for project in [&a, &b] {
        project.run(["peers"]).expect(0).says("no peers");
        project.run(["peers", "add", "share", "/nowhere/else", "--dry-run"]).expect(2).says("no such folder");
        add(project, &lab);
        project.run(["peers", "test"]).expect(0);
        project.sync();
    }
    let config = String::from_utf8(a.read("sync-config.json").expect("is there")).expect("text");
    assert!(config.contains("// ours") && config.contains("\"share\""), "{config}");
    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    assert_eq!(b.read("logs/x.log").as_deref(), Some(&b"b\n"[..]));

    let listed = a.run(["peers", "list", "--json"]).expect(0).json();
    assert_eq!((&listed["peers"][0]["name"], &listed["peers"][0]["ok"]), (&"share".into(), &true.into()));
    let tried = a.run(["peers", "test", "share", "--json"]).expect(0).json();
    assert_eq!(tried["peers"][0]["state"], "holds-project");
    a.run(["status"]).expect(0).says("peer").says("share pull: last success");

    a.run(["peers", "remove", "share", "--dry-run"]).expect(0).says("would be removed");
    a.run(["peers", "remove", "share"]).expect(0);
    a.run(["peers", "list"]).expect(0).says("no peers");
    a.sync();
    assert!(!a.run(["status", "--json"]).expect(0).said().contains("peer share"));
    a.verify();
    b.verify();
}

#[test]
fn status_says_that_the_next_run_would_be_refused_until_somebody_agrees() {
    let lab = lab();
    let share = lab.path("share").to_string_lossy().into_owned();
    let config = CONFIG.replacen('{', &format!("{{ \"peers\": {{ \"share\": \"{share}\" }},"), 1);
    let project = lab.project("project", &config);
    project.write("shared/a.md", "a\n");
    let refused = |project: &Project| {
        for command in ["sync", "status"] {
            project.run([command]).expect(1).says(&format!("give files to the peer share at {share}")).says("--trust");
        }
    };

    refused(&project);
    project.run(["sync", "--trust"]).expect(0);
    let status = project.run(["status", "--json"]).expect(0).json();
    assert_eq!(status["stopped"], serde_json::Value::Null);

    // Consent is a folder's.
    let moved = project.at(&lab.path("moved"));
    fs::rename(&project.dir, &moved.dir).expect("move the project");
    refused(&moved);
}

#[test]
fn who_connects_to_the_address_that_a_config_came_with_agrees_to_it_and_to_nothing_else() {
    let lab = lab();
    let share = lab.path("share").to_string_lossy().into_owned();
    let peer = format!("\"share\": \"{share}\"");
    let private = format!("\"share\": {{ \"url\": \"{share}\", \"private\": true }}");
    let elsewhere = format!("{peer}, \"other\": \"{}\"", lab.path("other").display());
    for (name, peers, refused) in [
        ("alone", &peer, None),
        ("private", &private, Some("give private files to the peer share")),
        ("elsewhere", &elsewhere, Some("give files to the peer other")),
    ] {
        let project = lab.project(name, &CONFIG.replacen('{', &format!("{{ \"peers\": {{ {peers} }},"), 1));
        project.write("shared/a.md", "a\n");

        let connected = project.run(["connect", &share]);

        match refused {
            None => drop(connected.expect(0).says("1 artifact sent")),
            Some(item) => drop(connected.expect(1).says(item).says("--trust")),
        }
    }
}

#[test]
fn what_can_be_no_peer_is_refused_with_a_sentence_and_the_config_stays() {
    let lab = lab();
    let a = lab.project("a", CONFIG);
    fs::create_dir(a.path("inside")).expect("make a folder");
    fs::create_dir(lab.path("photos")).expect("make a folder");
    fs::write(lab.path("photos/1.jpg"), "x").expect("write a file");
    let (photos, share) = (lab.path("photos"), lab.path("share"));
    let (photos, share) = (photos.to_string_lossy(), share.to_string_lossy());

    let before = a.read("sync-config.json");
    for (args, said) in [
        (["add", "x", ""], "empty"),
        (["add", "x", "ftp://h/x"], "is no kind of peer"),
        (["add", "x", "https://h/x"], "nothing may follow the port"),
        (["add", "x", "wss://h/x"], "no transport is called"),
        (["add", "x", "https://user:pw@h/x"], "password"),
        (["add", "x", "s3://bucket//x"], "between single `/`"),
        (["add", "x", "az://container"], "AZURE_STORAGE_ACCOUNT_NAME"),
        (["add", "x", "inside"], "inside the project"),
        (["add", "x", &photos], "holds other things"),
        (["add", "no/name", &share], "no/name"),
    ] {
        let mut command = vec!["peers"];
        command.extend(args);
        let outcome = a.run(command).expect(1).says(said);
        assert!(!outcome.said().contains("pw"), "{outcome:#?}");
    }
    for command in [["peers", "remove", "x"], ["peers", "test", "x"], ["peers", "join", "x"]] {
        a.run(command).expect(1).says("no peer is called x").says("peers add");
    }

    assert_eq!(a.read("sync-config.json"), before);
    assert_eq!(fs::read_dir(lab.path("share")).expect("list it").count(), 0);
    assert!(!a.path("s3:").exists());
}

#[test]
fn two_projects_begun_apart_are_joined_by_a_word() {
    let lab = lab();
    let (a, b) = (lab.project("a", CONFIG), lab.project("b", CONFIG));
    a.write("shared/a.md", "a\n");
    b.write("shared/b.md", "b\n");
    a.sync();
    b.sync();
    add(&a, &lab);
    a.sync();

    let share = lab.path("share");
    let share = share.to_string_lossy();
    b.run(["peers", "add", "share", &share]).expect(1).says("another project of that name").says("--join");
    b.run(["peers", "list"]).expect(0).says("no peers");
    b.run(["peers", "add", "share", &share, "--join"]).expect(0);
    b.sync();
    a.sync();

    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    assert_eq!(a.read("shared/b.md").as_deref(), Some(&b"b\n"[..]));

    fs::remove_dir_all(&*share).expect("lose the disk");
    a.run(["sync"]).expect(2).says("no such folder");
    fs::create_dir(&*share).expect("an empty mount point");
    a.run(["sync"]).expect(2).says("is its disk mounted");
    a.run(["status"]).expect(2).says("is its disk mounted");
    a.run(["peers", "join", "share"]).expect(0);
    a.sync();
    b.run(["sync"]).expect(2);
    b.run(["peers", "join", "share"]).expect(0);
    b.sync();
    assert_eq!(a.read("shared/b.md").as_deref(), Some(&b"b\n"[..]));
}

#[test]
fn daemons_that_share_only_a_folder_keep_each_other_up_to_date() {
    let lab = lab();
    // Nothing is due for an hour: they hear of each other's news.
    let rarely = CONFIG.replace(r#""intervalSecs": 1"#, r#""intervalSecs": 3600"#);
    let (a, b) = (lab.project("a", &rarely), lab.project("b", &rarely));
    for project in [&a, &b] {
        add(project, &lab);
    }
    let (up_a, up_b) = (a.up(), b.up());

    a.write("shared/a.md", "a\n");
    until("the file is on b", DAEMON_DEADLINE, || b.read("shared/a.md").as_deref() == Some(b"a\n"));
    b.append("shared/a.md", "b\n");
    until("the edit is on a", DAEMON_DEADLINE, || a.read("shared/a.md").as_deref() == Some(b"a\nb\n"));
    b.remove("shared/a.md");
    until("it is gone on a", DAEMON_DEADLINE, || a.read("shared/a.md").is_none());

    up_a.stop();
    up_b.stop();
    a.verify();
    b.verify();
}

#[test]
fn a_place_named_on_the_command_line_is_given_to_and_taken_from_alone() {
    let lab = lab();
    for name in ["stick", "other"] {
        fs::create_dir(lab.path(name)).expect("make the folder");
    }
    let (a, b) = (lab.project("a", CONFIG), lab.project("b", CONFIG));
    add(&a, &lab);
    a.write("shared/a.md", "a\n");
    let (share, stick, other) = (lab.path("share"), lab.path("stick"), lab.path("other"));
    let listed = |folder: &std::path::Path| fs::read_dir(folder).expect("list it").count();

    a.run(["push", "--to", "../stick", "--dry-run"]).expect(0).says("would record adopted shared/a.md");
    assert_eq!(listed(&stick), 0);
    let mut from_inside = a.command(["push", "--to", "../stick"]);
    from_inside.current_dir(&a.dir);
    crate::support::finish(from_inside).expect(0).says("sent");
    assert_eq!((listed(&share), listed(&stick) > 0), (0, true));
    a.run(["push", "--to", "share", "--json"]).expect(0);
    assert!(listed(&share) > 0);

    b.run(["pull", "--from", &stick.to_string_lossy(), "--dry-run"]).expect(0).says("to receive");
    assert!(!b.path(".larder/ledger/shared").exists(), "a dry run takes nothing from a place that no config names");
    b.run(["pull", "--from", &stick.to_string_lossy()]).expect(0).says("wrote new shared/a.md");
    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    b.run(["peers", "list"]).expect(0).says("no peers");
    b.run(["status"]).expect(0);

    a.run(["push", "--to", "nowhere"]).expect(1).says("no peer is called nowhere");
    a.run(["push", "--to", "./nowhere"]).expect(2).says("there is no such folder");
    a.run(["pull", "--from", "ftp://x/y"]).expect(1).says("is no kind of peer");
    a.sync();
    a.run(["status"]).expect(0);

    // The same beside a daemon, which runs it with the paths as they were typed.
    let up = a.up();
    a.write("shared/b.md", "b\n");
    a.run(["push", "--to", &other.to_string_lossy(), "--json"]).expect(0).says("\"by\": \"daemon\"");
    assert!(listed(&other) > 0);
    up.stop();
    b.run(["pull", "--from", &other.to_string_lossy()]).expect(0);
    assert_eq!(b.read("shared/b.md").as_deref(), Some(&b"b\n"[..]));
}

#[test]
fn connect_names_the_place_and_exchanges_with_it_at_once() {
    let lab = lab();
    let (a, b) = (lab.project("a", CONFIG), lab.project("b", CONFIG));
    a.write("shared/a.md", "a\n");
    let share = lab.path("share");
    let share = share.to_string_lossy();

    a.run(["connect", &share, "--dry-run"]).expect(0).says("would be connected: share");
    assert_eq!(fs::read_dir(&*share).expect("list it").count(), 0);
    a.run(["peers", "list"]).expect(0).says("no peers");
    a.run(["connect", &share]).expect(0).says("connected: share at").says("sent");
    let again = a.run(["connect", &share, "--json"]).expect(0).json();
    assert_eq!((&again["name"], &again["pushed"]), (&"share".into(), &0.into()));

    let up = b.up();
    b.run(["connect", &share, "--name", "nas"]).expect(1).says("another project of that name").says("--join");
    let reply = b.run(["connect", &share, "--name", "nas", "--join", "--json"]).expect(0).json();
    assert_eq!((&reply["name"], &reply["by"]), (&"nas".into(), &"daemon".into()));
    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    a.write("shared/a.md", "more\n");
    a.sync();
    until("the daemon goes on with its new peer", DAEMON_DEADLINE, || {
        b.read("shared/a.md").as_deref() == Some(b"more\n")
    });
    up.stop();

    b.run(["connect", &lab.path("away").to_string_lossy()]).expect(2).says("connected: away").says("no such folder");
    b.run(["connect", "ftp://x"]).expect(1).says("is no kind of peer");
    b.run(["peers", "list"]).expect(0).says("nas").says("away");
}
