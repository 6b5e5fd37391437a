//! Peers over HTTP: real programs that pair, exchange through `larder serve`, wait for each other, and are let in no more.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use crate::support::{CONFIG, DAEMON_DEADLINE, Daemon, Lab, Outcome, Project, finish, until};

/// A machine of a lab: its own home, so that it is another one.
pub fn machine(lab: &Lab, name: &str) -> Project {
    lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")))
}

/// A machine of the same owner.
fn own_machine(lab: &Lab, name: &str) -> Project {
    lab.project(name, &CONFIG.replace("\"lab\",", "\"lab\", \"peers\": {},"))
}

/// An address nobody listens at.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string()
}

fn up_serving(project: &Project, address: &str) -> Daemon {
    project.up_with(["--serve", address])
}

fn serve(project: &Project, args: &[&str]) -> Daemon {
    let mut command = project.command(["serve"]);
    command.args(args);
    let mut server = Daemon::start(command);
    server.wait_ready();
    server
}

/// Pairs with the code given on standard input.
fn pair_with(project: &Project, code: &str, args: &[&str]) -> Outcome {
    let mut command = project.command(["peers", "pair"]);
    let mut child = command.args(args).stdin(Stdio::piped()).spawn().expect("start it");
    // One that refuses before it reads hangs up.
    let _ = child.stdin.take().expect("piped").write_all(code.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn invite(server: &Project, args: &[&str]) -> String {
    let mut command = server.command(["peers", "invite", "--json"]);
    command.args(args);
    finish(command).expect(0).json()["code"].as_str().expect("a code").to_owned()
}

/// Names the server in a project's config and has it let the project in.
pub fn join(project: &Project, server: &Project, address: &str) {
    let code = invite(server, &[]);
    pair_with(project, &code, &["hub", &format!("http://{address}")]).expect(0).says("paired hub");
}

#[test]
fn two_projects_exchange_through_one_that_serves() {
    let lab = Lab::new();
    let (hub, a, b) = (machine(&lab, "hub"), machine(&lab, "a"), machine(&lab, "b"));
    hub.write("shared/hub.md", "hub\n");
    a.write("shared/a.md", "a\n");
    a.write("logs/x.log", "a\n");
    let address = free_address();
    let daemon = up_serving(&hub, &address);

    let url = format!("http://{address}");
    a.run(["peers", "add", "hub", &url]).expect(2).says("not paired").says("peers invite");
    a.run(["peers", "test"]).expect(2).says("not paired");
    for project in [&a, &b] {
        join(project, &hub, &address);
        project.run(["peers", "test", "hub"]).expect(0).says("holds this project");
    }
    a.sync();
    b.sync();
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    b.write("shared/large.bin", &large);
    b.append("shared/a.md", "b\n");
    b.sync();
    a.sync();

    for project in [&a, &b] {
        assert_eq!(project.read("shared/a.md").as_deref(), Some(&b"a\nb\n"[..]));
        assert_eq!(project.read("shared/hub.md").as_deref(), Some(&b"hub\n"[..]));
        assert!(project.read("shared/large.bin").as_deref() == Some(&large));
    }
    until("the hub has it", DAEMON_DEADLINE, || hub.read("shared/large.bin").as_deref() == Some(&large));
    until("the hub has it", DAEMON_DEADLINE, || hub.read("shared/a.md").as_deref() == Some(b"a\nb\n"));
    assert_eq!(b.read("logs/x.log"), None, "an archive lands in nobody else's tree");
    a.run(["status"]).expect(0).says("hub push: last success");
    until("the inbox is empty", DAEMON_DEADLINE, || {
        hub.tree(".larder/inbox").keys().all(|name| name == b"larder-store.json" || name.starts_with(b".larder-tmp"))
    });
    daemon.stop();
    a.run(["sync"]).expect(2).says("cannot be reached");
    [&hub, &a, &b].into_iter().for_each(Project::verify);
}

#[test]
fn private_files_go_to_the_owners_own_devices_alone() {
    let lab = Lab::new();
    let (hub, mine, theirs) = (own_machine(&lab, "hub"), own_machine(&lab, "mine"), machine(&lab, "theirs"));
    hub.write("mine/secret.md", "secret\n");
    let address = free_address();
    let daemon = up_serving(&hub, &address);
    for project in [&mine, &theirs] {
        join(project, &hub, &address);
        let config = String::from_utf8(project.read("sync-config.json").expect("there")).expect("text");
        let url = format!("\"http://{address}\"");
        let own = format!("{{ \"url\": {url}, \"private\": true }}");
        project.write("sync-config.json", config.replace(&url, &own));
        project.run(["sync", "--trust"]);
    }

    assert_eq!(mine.read("mine/secret.md").as_deref(), Some(&b"secret\n"[..]));
    assert_eq!(theirs.read("mine/secret.md"), None);
    assert!(theirs.tree(".larder/ledger").keys().all(|name| !String::from_utf8_lossy(name).contains("mine")));
    daemon.stop();
}

#[test]
fn a_plain_folder_is_served_for_projects_that_share_nothing_else() {
    let lab = Lab::new();
    let (a, b) = (machine(&lab, "a"), machine(&lab, "b"));
    fs::create_dir(lab.path("store")).expect("make the folder");
    let keeper = lab.project("keeper", CONFIG).with_home(&lab.path("home-keeper"));
    let (store, address) = (lab.path("store"), free_address());
    let store = store.to_string_lossy();
    let server = serve(&keeper, &["--store", &store, "--listen", &address]);
    let url = format!("http://{address}");
    for project in [&a, &b] {
        let code = invite(&keeper, &["--store", &store]);
        pair_with(project, &code, &["hub", &url]).expect(0);
    }

    a.write("shared/a.md", "a\n");
    a.sync();
    b.sync();
    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    let devices = keeper.run(["peers", "devices", "--store", &store, "--json"]).expect(0).json();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2));
    let files: Vec<String> = fs::read_dir(&*store)
        .expect("list")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(files.iter().all(|name| ["lab", "larder-store.json", ".larder-tmp"].contains(&&**name)), "{files:?}");
    server.stop();
}

#[test]
fn a_server_alone_hands_on_what_waits_for_its_project_and_tells_a_daemon() {
    let lab = Lab::new();
    let (hub, a, b) = (machine(&lab, "hub"), machine(&lab, "a"), machine(&lab, "b"));
    hub.write("shared/hub.md", "hub\n");
    let address = free_address();
    hub.run(["serve", "--listen", &address]).expect(1).says("never ran").says("larder sync");
    hub.sync();
    let server = serve(&hub, &["--listen", &address]);
    for project in [&a, &b] {
        join(project, &hub, &address);
    }
    a.write("shared/a.md", "a\n");
    a.sync();
    b.sync();
    assert_eq!(b.read("shared/a.md").as_deref(), Some(&b"a\n"[..]), "devices meet though the project rests");
    assert_eq!(hub.read("shared/a.md"), None);

    hub.sync();
    assert_eq!(hub.read("shared/a.md").as_deref(), Some(&b"a\n"[..]));
    let daemon = hub.up();
    a.append("shared/a.md", "more\n");
    a.sync();
    until("the daemon was told", DAEMON_DEADLINE, || hub.read("shared/a.md").as_deref() == Some(b"a\nmore\n"));
    daemon.stop();
    server.stop();
    [&hub, &a, &b].into_iter().for_each(Project::verify);
}

#[test]
fn wrong_codes_are_refused_and_a_revoked_device_stays_out() {
    let lab = Lab::new();
    let (hub, a) = (machine(&lab, "hub"), machine(&lab, "a"));
    hub.write("shared/hub.md", "hub\n");
    let address = free_address();
    let daemon = up_serving(&hub, &address);
    let url = format!("http://{address}");

    pair_with(&a, "", &["hub", &url]).expect(1).says("12 letters and digits").says("peers remove hub");
    pair_with(&a, "aaaa-bbbb-cccc", &["hub"]).expect(1).says("not good").says("peers invite");
    hub.run(["peers", "invite"]).expect(0);
    hub.run(["peers", "invite", "--dry-run"]).expect(0).says("the earlier one");
    hub.run(["peers", "invite"]).expect(0).says("the earlier code, which nobody used yet, is worth nothing any more");
    let code = invite(&hub, &[]);
    for _ in 0..5 {
        pair_with(&a, "aaaa-bbbb-cccc", &["hub"]).expect(1).says("not good");
    }
    pair_with(&a, &code, &["hub"]).expect(1).says("not good");
    hub.run(["peers", "devices"]).expect(0).says("no devices");
    a.run(["peers", "pair", "other"]).expect(1);

    pair_with(&a, &invite(&hub, &[]).to_uppercase(), &["hub"]).expect(0);
    a.sync();
    let listed = hub.run(["peers", "devices", "--json"]).expect(0).json();
    let name = listed["devices"][0]["name"].as_str().expect("a name").to_owned();
    hub.run(["peers", "devices", "revoke", "nobody"]).expect(1).says("no device is called");
    hub.run(["peers", "devices", "revoke", &name, "--dry-run"]).expect(0).says("would be revoked");
    a.sync();
    hub.run(["peers", "devices", "revoke", &name]).expect(0).says("revoked");
    a.run(["sync"]).expect(2).says("not let in");
    pair_with(&a, &invite(&hub, &[]), &["hub"]).expect(0);
    a.sync();

    for folder in ["hub/.larder/serve", "a/.larder/servers"] {
        for entry in fs::read_dir(lab.path(folder)).expect("list").flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            assert!(!text.contains(&code) && !text.contains(&code.replace('-', "")), "{entry:?}");
        }
    }
    daemon.stop();
}

#[test]
fn an_encrypted_line_needs_no_more_than_a_code() {
    let lab = Lab::new();
    let (hub, a) = (machine(&lab, "hub"), machine(&lab, "a"));
    hub.write("shared/hub.md", "hub\n");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (lab.path("cert.pem"), lab.path("key.pem"));
    fs::write(&cert, made.cert.pem()).expect("write");
    fs::write(&key, made.signing_key.serialize_pem()).expect("write");
    let (cert, key) = (cert.to_string_lossy(), key.to_string_lossy());
    let address = free_address();
    let daemon = hub.up_with(["--serve", &address, "--cert", &cert, "--key", &key]);

    let code = invite(&hub, &[]);
    pair_with(&a, &code, &["hub", &format!("https://{address}")]).expect(0);
    a.sync();
    assert_eq!(a.read("shared/hub.md").as_deref(), Some(&b"hub\n"[..]));
    daemon.stop();
}

#[test]
fn without_tls_no_other_machine_is_served_or_spoken_to_unless_in_words() {
    let lab = Lab::new();
    let a = machine(&lab, "a");
    a.sync();
    a.run(["serve", "--listen", "0.0.0.0:0"]).expect(1).says("--allow-plain-http").says("--cert");
    a.run(["up", "--serve", "0.0.0.0:0"]).expect(1).says("--allow-plain-http");
    a.run(["serve", "--listen", "nowhere at all"]).expect(1).says("HOST:PORT");
    a.run(["serve", "--cert", "/nowhere.pem"]).expect(1).says("--key");
    a.run(["serve", "--cert", "/nowhere.pem", "--key", "/nowhere.pem"]).expect(1).says("nowhere.pem");
    pair_with(&a, "aaaa-bbbb-cccc", &["far", "http://192.0.2.1:7171"]).expect(1).says("--allow-plain-http");
    serve(&a, &["--listen", "0.0.0.0:0", "--allow-plain-http"]).stop();
}

#[test]
fn daemons_that_share_only_a_line_keep_each_other_up_to_date() {
    let lab = Lab::new();
    let (hub, a) = (machine(&lab, "hub"), machine(&lab, "a"));
    hub.write("shared/hub.md", "hub\n");
    let address = free_address();
    let up_hub = up_serving(&hub, &address);
    hub.run(["status"]).expect(0).says(&format!("serving at http://{address}"));
    join(&a, &hub, &address);
    let up_a = a.up();
    assert_eq!(a.read("shared/hub.md").as_deref(), Some(&b"hub\n"[..]));

    a.write("shared/a.md", "a\n");
    until("the file is on the hub", DAEMON_DEADLINE, || hub.read("shared/a.md").as_deref() == Some(b"a\n"));
    hub.append("shared/a.md", "hub\n");
    until("the edit is on a", DAEMON_DEADLINE, || a.read("shared/a.md").as_deref() == Some(b"a\nhub\n"));
    a.remove("shared/a.md");
    until("it is gone on the hub", DAEMON_DEADLINE, || hub.read("shared/a.md").is_none());

    up_a.stop();
    up_hub.stop();
    hub.verify();
    a.verify();
}

#[test]
fn a_server_that_was_killed_is_gone_on_with_by_the_next_one() {
    let lab = Lab::new();
    let (hub, a) = (machine(&lab, "hub"), machine(&lab, "a"));
    hub.write("shared/hub.md", "hub\n");
    let address = free_address();
    let first = up_serving(&hub, &address);
    join(&a, &hub, &address);
    let up_a = a.up();
    for n in 0..20 {
        a.write(format!("shared/{n}.md"), format!("{n}\n"));
        if n == 10 {
            until("something came", DAEMON_DEADLINE, || hub.read("shared/0.md").is_some());
        }
    }
    first.kill();
    a.write("shared/last.md", "last\n");
    let again = up_serving(&hub, &address);

    until("all of it is there", DAEMON_DEADLINE, || {
        hub.tree("shared") == a.tree("shared") && a.tree("shared").len() == 22
    });
    up_a.stop();
    again.stop();
    hub.verify();
    a.verify();
}
