//! Laws of version skew: a store that a newer release wrote is read as far as it is known, passed on byte for byte, and what
//! waits for an upgrade is counted; neither looking again, nor installing again, nor upgrading sends anything twice.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::ledger::{ArtifactName, Identity, ShortHash, Signature};
use crate::model::{ArtifactHash, Chain, Space, canonical_bytes};

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A machine with a backend of its own that meets others in these folders.
pub(super) fn machine(host: &'static str, stores: &[&Path]) -> Machine {
    let machine = Machine::new(host, &backend());
    configure(&machine, stores);
    machine
}

pub(super) fn configure(machine: &Machine, stores: &[&Path]) {
    let peers: BTreeMap<String, &Path> = stores.iter().enumerate().map(|(n, path)| (format!("s{n}"), *path)).collect();
    let text = CONFIG.replacen('{', &format!(r#"{{ "peers": {}, "#, json!(peers)), 1);
    std::fs::write(machine.path("sync-config.json"), text).expect("writes");
}

impl Machine {
    pub(super) fn meets(&mut self) -> Report {
        if self.node.is_none() {
            let options = OpenOptions { trust: true, ..self.options() };
            self.node = Some(Node::open(&self.env(), &options, Arc::new(NoProgress)).expect("opens"));
        }
        let report = self.run();
        assert!(report.peer_errors.is_empty(), "{report:?}");
        report
    }
}

/// The artifacts of a store below the project's name.
fn artifacts(store: &Path) -> BTreeMap<String, Vec<u8>> {
    tree(&store.join("demo")).into_iter().filter(|(name, _)| name.parse::<ArtifactName>().is_ok()).collect()
}

pub(super) fn line(value: &Value) -> String {
    String::from_utf8(canonical_bytes(value).expect("canonical")).expect("text") + "\n"
}

/// Rewrites the last checkpoint of a machine in a store as a newer release might have written it: fields that nobody knows
/// in every artifact, lines of unknown kinds, a version in a newer form. Returns its name.
fn write_as_newer(machine: &Machine, store: &Path) -> ArtifactName {
    let identity = Identity::load(&machine.path(".larder")).expect("it ran");
    let chain = identity.chain(Space::shared());
    let folder = format!("{chain}/checkpoints/");
    let (last, bytes) = artifacts(store).into_iter().rfind(|(name, _)| name.starts_with(&folder)).expect("it pushed");
    let mut body: Value = serde_json::from_slice(&bytes).expect("JSON");
    let old = body["inline"]["records"].as_str().expect("small enough").to_owned();
    let mut lines = String::new();
    for text in old.lines() {
        let mut record: Value = serde_json::from_str(text).expect("JSON");
        record["mood"] = json!({ "glad": [1, "ü"] });
        lines += &line(&record);
    }
    lines += &line(&json!({ "kind": "poll", "question": "?", "v": 1 }));
    lines += &line(&json!({ "kind": "version", "shape": "round", "v": 2 }));
    body["inline"]["records"] = lines.into();
    body["inline"]["weather"] = "fine".into();
    body["future"] = json!({ "b": [1, "ü"] });
    sign(&mut body, &identity);
    std::fs::remove_file(store.join("demo").join(last)).expect("removes");
    put(store, &chain, body["seq"].as_u64().expect("a number"), &canonical_bytes(&body).expect("canonical"))
}

pub(super) fn sign(body: &mut Value, identity: &Identity) {
    let fields = body.as_object_mut().expect("an object");
    fields.remove("signature");
    let signature = Signature::make(identity.signing_key(), &canonical_bytes(fields).expect("canonical"));
    fields.insert("signature".to_owned(), serde_json::to_value(signature).expect("JSON"));
}

pub(super) fn put(store: &Path, chain: &Chain, seq: u64, bytes: &[u8]) -> ArtifactName {
    let hash = ShortHash::of(&ArtifactHash::of(bytes));
    let name = ArtifactName::Checkpoint { chain: chain.clone(), seq, hash };
    let path = store.join("demo").join(name.to_string());
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
    std::fs::write(path, bytes).expect("writes");
    std::fs::write(store.join("larder-store.json"), r#"{"kind":"store","v":1}"#).expect("writes");
    name
}

#[test]
fn what_a_newer_release_wrote_is_read_as_far_as_known_passed_on_and_counted_and_nothing_is_sent_twice() {
    let (first, second) = (folder(), folder());
    let mut newer = machine("newer", &[first.path()]);
    for text in ["old", "new"] {
        newer.write("x.md", text);
        newer.meets();
    }
    newer.restart();
    let name = write_as_newer(&newer, first.path());
    let unreadable: Chain = "shared/future-aaaaaa~1".parse().expect("a chain");
    put(first.path(), &unreadable, 1, br#"{"v":2}"#);
    let thumbs = first.path().join("demo").join(name.chain().to_string()).join("thumbs");
    std::fs::create_dir(&thumbs).expect("creates");
    std::fs::write(thumbs.join("x.webp"), "a picture").expect("writes");

    let mut older = machine("older", &[first.path(), second.path()]);
    older.write("y.md", "of the older one");
    (0..3).for_each(|_| drop(older.meets()));
    let mut third = machine("third", &[second.path()]);
    (0..2).for_each(|_| drop(third.meets()));

    // Read as far as it is known, on both sides of the machine in between.
    for machine in [&mut older, &mut third] {
        machine.restart();
        assert_eq!(machine.read("x.md").as_deref(), Some("new"));
        assert_eq!(machine.verify(Depth::Bytes).damage_count(), 0, "{:?}", machine.verify(Depth::Bytes).findings);
        assert!(machine.glance_status().remains().is_none(), "{:?}", machine.glance_status());
    }
    // Passed on byte for byte, all but what nobody can verify.
    let (there, passed) = (artifacts(first.path()), artifacts(second.path()));
    let unreadable = format!("{unreadable}/");
    let expected: BTreeMap<_, _> =
        there.clone().into_iter().filter(|(name, _)| !name.starts_with(&unreadable)).collect();
    assert!(passed.contains_key(&name.to_string()));
    assert_eq!(passed, expected);
    assert!(thumbs.join("x.webp").exists());
    // Counted: two lines; and the checkpoint of the store where it stands.
    let counts = older.glance_status().counts;
    assert_eq!((counts.unknown, counts.upgrade), (2, 3));
    assert_eq!(third.glance_status().counts.upgrade, 2);

    // Looked at again; a new index, as an upgrade makes it; a lost state; everything installed again.
    let wipes: [&[&str]; 4] = [&[], &["index.db"], &["state.db", "state.db-wal", "state.db-shm"], &["."]];
    for wiped in wipes {
        older.restart();
        for file in wiped {
            let path = older.path(".larder").join(file);
            // A log may not be there.
            let _ = if *file == "." { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
        (0..2).for_each(|_| drop(older.meets()));
        third.meets();

        assert_eq!(artifacts(first.path()), there, "{wiped:?}");
        assert_eq!(artifacts(second.path()), expected, "{wiped:?}");
        assert_eq!(older.glance_status().counts.upgrade, 3, "{wiped:?}");
    }
}

#[test]
fn an_edit_on_top_of_a_version_from_the_future_is_not_taken_for_its_writers_clock() {
    let shared = backend();
    let now = Arc::new(ManualClock::new(4_000_000_000_000));
    let tomorrow = Arc::new(ManualClock::new(4_000_086_400_000));
    let mut ahead = Machine::timed("ahead", &shared, &tomorrow);
    let (mut right, mut looks) = (Machine::timed("right", &shared, &now), Machine::timed("looks", &shared, &now));
    ahead.write("a.md", "from tomorrow\n");
    converge(&mut [&mut ahead, &mut right]);
    for round in 0..3 {
        right.write("a.md", &format!("{round}\n"));
        now.advance(60_000);
        right.run();
    }
    looks.run();
    right.restart();
    ahead.restart();

    let problems = looks.glance_status().problems;
    let clocks: Vec<&str> =
        problems.iter().filter(|problem| problem.source == "clocks").map(|problem| &*problem.what).collect();

    let [what] = clocks[..] else { panic!("{clocks:?}") };
    assert!(what.starts_with("ahead-") && what.contains("what it stands on"), "{what}");
}
