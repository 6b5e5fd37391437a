//! A store carried by a real file syncer: each machine has its own copy of the folder, and Syncthing keeps the copies the same.
//!
//! Invariant: the syncer sees nothing but files that are written once; it never has a conflict of its own to settle.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{CONFIG, Lab, Leaf, Project, skip, until};

/// The syncer scans and connects at its own pace.
const CARRIED: Duration = Duration::from_secs(120);

/// One running Syncthing; ended when dropped.
struct Syncthing {
    child: Child,
    log: PathBuf,
}

impl Drop for Syncthing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

fn syncthing(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new("syncthing");
    command.args(args).arg("--home").arg(home).env("HOME", home).env("STNOUPGRADE", "1");
    command
}

/// The benches use the same one.
const SYNCTHING_CONFIG: &str = include_str!("../data/syncthing-config.xml");

/// One of two on loopback alone that share a folder.
fn syncthing_config(folder: &Path, ids: &[String; 2], ports: [u16; 2], port: u16, scan: &str) -> String {
    let [port0, port1] = ports.map(|port| port.to_string());
    let (folder, port) = (folder.display().to_string(), port.to_string());
    let values: [(&str, &str); 7] = [
        ("{folder}", &folder),
        ("{id0}", &ids[0]),
        ("{id1}", &ids[1]),
        ("{port0}", &port0),
        ("{port1}", &port1),
        ("{port}", &port),
        ("{scan}", scan),
    ];
    values.into_iter().fold(SYNCTHING_CONFIG.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Two of them on loopback alone, each with one of two folders.
fn carry(lab: &Lab, folders: [&Path; 2]) -> [Syncthing; 2] {
    let homes = ["carrier-a", "carrier-b"].map(|name| lab.path(name));
    let ids = homes.each_ref().map(|home| {
        let made = syncthing(&["generate"], home).output().expect("generate keys");
        assert!(made.status.success(), "{made:?}");
        let told = syncthing(&["--device-id"], home).output().expect("ask for the id");
        String::from_utf8(told.stdout).expect("text").trim().to_owned()
    });
    let ports = [free_port(), free_port()];
    let start = |n: usize| {
        let config = syncthing_config(folders[n], &ids, ports, ports[n], r#"rescanIntervalS="1" fsWatcherDelayS="1""#);
        fs::write(homes[n].join("config.xml"), config).expect("write its config");
        let log = lab.path(format!("carrier-{n}.log"));
        let said = fs::File::create(&log).expect("make its log");
        let mut serve = syncthing(&["serve", "--no-browser", "--no-restart"], &homes[n]);
        serve.stdin(Stdio::null()).stdout(said.try_clone().expect("share")).stderr(said);
        Syncthing { child: serve.spawn().expect("start syncthing"), log }
    };
    [start(0), start(1)]
}

/// A machine of its own, with its own copy of the store.
fn machine(lab: &Lab, name: &str) -> (Project, PathBuf) {
    let store = lab.path(format!("store-{name}"));
    fs::create_dir(&store).expect("make the folder");
    let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
    project.run(["peers", "add", "carried", &store.to_string_lossy()]).expect(0);
    (project, store)
}

/// The store's names, without what the syncer and a writer keep for themselves.
fn artifacts(store: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("list the store").flatten() {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            match entry.file_type().expect("a kind").is_dir() {
                _ if hidden => {}
                true => folders.push(path),
                false => names.push(path.strip_prefix(store).expect("below").to_string_lossy().into_owned()),
            }
        }
    }
    names.sort();
    names
}

#[test]
fn a_store_carried_by_syncthing_brings_edits_of_both_sides_together() {
    if Command::new("syncthing").arg("--version").output().is_err() {
        return skip("a_store_carried_by_syncthing_brings_edits_of_both_sides_together", "syncthing is not installed");
    }
    let lab = Lab::new();
    let ((a, store_a), (b, store_b)) = (machine(&lab, "a"), machine(&lab, "b"));
    let _carriers = carry(&lab, [&store_a, &store_b]);
    let (up_a, up_b) = (a.up(), b.up());

    // Both at once, again and again, in files of their own and in one that both append to.
    a.write("shared/log.jsonl", "{\"n\":0}\n");
    until("b has the log", CARRIED, || b.read("shared/log.jsonl").is_some());
    for n in 1..=20 {
        for (project, name) in [(&a, "a"), (&b, "b")] {
            project.write(format!("shared/{name}/{n}.md"), format!("{name} {n}\n"));
            project.append("shared/log.jsonl", format!("{{\"by\":\"{name}\",\"n\":{n}}}\n"));
        }
    }
    b.write("shared/gone.md", "soon gone\n");
    until("a has it", CARRIED, || a.read("shared/gone.md").is_some());
    a.remove("shared/gone.md");

    let whole = |tree: &std::collections::BTreeMap<Vec<u8>, Leaf>| {
        let Some(Leaf::File { bytes, .. }) = tree.get(&b"log.jsonl"[..]) else { return false };
        tree.len() == 41 && bytes.iter().filter(|byte| **byte == b'\n').count() == 41
    };
    until("both hold everything of both", CARRIED, || {
        let (here, there) = (a.tree("shared"), b.tree("shared"));
        here == there && whole(&here)
    });
    until("the copies of the store are the same", CARRIED, || artifacts(&store_a) == artifacts(&store_b));
    up_a.stop();
    up_b.stop();

    let names = artifacts(&store_a);
    assert!(names.iter().all(|name| !name.contains("sync-conflict")), "{names:#?}");
    for project in [&a, &b] {
        project.run(["conflicts"]).expect(0);
        project.verify();
    }
}
