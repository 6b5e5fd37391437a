//! Laws of peers: machines that share a folder, each with a backend of its own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::node::{Glance, Kind, RunOptions};
use crate::sync::{Asked, open_peer, projects};
use crate::transport::Cancel;
use crate::transport::deadline::Haste;
use crate::transport::faulty::{FaultPlan, FaultyTransport, Moment};
use crate::transport::marker::ProjectId;
use crate::transport::{
    FolderTransport, ListRequest, Listing, Marker, Put, Transport, TransportError, TransportErrorKind, WaitHint, Wake,
};

/// A machine with a backend of its own and these peers, as the config's text.
pub(super) fn machine(host: &'static str, peers: &str) -> Machine {
    let mut machine = Machine::new(host, &backend());
    set_peers(&mut machine, peers);
    machine
}

pub(super) fn set_peers(machine: &mut Machine, peers: &str) {
    set_config(
        machine,
        &CONFIG.replacen('{', &format!(r#"{{ "privateSyncFilePatterns": ["own/**"], "peers": {peers}, "#), 1),
    );
}

fn set_config(machine: &mut Machine, text: &str) {
    std::fs::write(machine.path("sync-config.json"), text).expect("writes");
    machine.node = None;
    let options = OpenOptions { trust: true, ..machine.options() };
    machine.node = Some(Node::open(&machine.env(), &options, Arc::new(NoProgress)).expect("opens"));
}

pub(super) fn at(folder: &Path) -> String {
    serde_json::json!({ "there": folder }).to_string()
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(super) fn names(folder: &Path) -> BTreeSet<String> {
    tree(folder).into_iter().map(|(name, _)| name).collect()
}

/// The id that a machine has wherever it is known.
fn project(machine: &mut Machine) -> ProjectId {
    let ids = projects(&machine.node().engine.state).expect("reads");
    ids.into_iter().next().expect("it ran")
}

/// What the last run says of the only peer; none if all is well.
fn complaint(report: &Report) -> Option<&str> {
    report.peer_errors.first().map(|(_, why)| why.as_str())
}

#[test]
fn machines_that_share_only_a_folder_converge_on_shared_files() {
    let store = folder();
    let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
    a.write("from-a.md", "a\n");
    a.write("log.jsonl", "{\"n\":0}\n");
    b.write("from-b.md", "b\n");

    converge(&mut [&mut a, &mut b]);
    a.write("log.jsonl", "{\"n\":0}\n{\"by\":\"a\"}\n");
    b.write("log.jsonl", "{\"n\":0}\n{\"by\":\"b\"}\n");
    std::fs::remove_file(b.path("from-a.md")).expect("removes");
    converge(&mut [&mut a, &mut b]);

    assert_eq!((a.read("from-a.md"), a.read("from-b.md").as_deref()), (None, Some("b\n")));
    let log = a.read("log.jsonl").expect("is there");
    assert_eq!(log.lines().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(b.read("log.jsonl"), Some(log));
    assert_eq!(row(&a.adapter, "from-b.md").as_deref(), Some("b\n"));
}

#[test]
fn a_whole_listing_that_was_cut_off_is_made_again_at_the_next_exchange() {
    let store = folder();
    let mut a = machine("a", &at(store.path()));
    for text in ["one\n", "two\n"] {
        a.write("a.md", text);
        a.run();
    }
    let held = names(store.path());
    let first = held.iter().find(|name| name.contains("/cp-")).expect("it was put").clone();

    // The first exchange of a run of the program lists everything: it is cut at each of its calls in turn.
    for call in 0.. {
        let _ = std::fs::remove_file(store.path().join(&first));
        a.restart();
        let peer = a.node().engine.policy.peers[0].clone();
        let plan = FaultPlan::DieAt { call, moment: Moment::Before };
        a.node().engine.wrap_place(&peer, |place| Arc::new(FaultyTransport::new(place, plan)));
        let was_cut = complaint(&a.run()).is_some() || names(store.path()) != held;

        let healthy = |place: Arc<dyn Transport>| -> Arc<dyn Transport> {
            Arc::new(FolderTransport::open(store.path(), place.label()).expect("opens"))
        };
        a.node().engine.wrap_place(&peer, healthy);
        a.run();

        assert_eq!(names(store.path()), held, "{first} is put back after a cut at call {call}");
        if !was_cut {
            assert!(call > 2, "it asks, lists and puts in more than {call} calls");
            return;
        }
    }
}

/// A place on the other side of something that lets no pack through, and says so in this way.
struct Narrow(Arc<dyn Transport>, TransportErrorKind);

impl Transport for Narrow {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.0.list(request)
    }

    fn get(&self, name: &str, range: Option<std::ops::Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        self.0.get(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        if name.ends_with(".pack") {
            return Err(TransportError::new(self.1, "put", name, "it did not come through"));
        }
        self.0.put_new(name, bytes)
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.0.wait(hint)
    }

    fn label(&self) -> &str {
        self.0.label()
    }
}

#[test]
fn a_run_that_could_not_deliver_all_says_so_and_the_next_edit_goes_there_at_once_all_the_same() {
    use TransportErrorKind::{Corrupt, TooLarge, Unavailable, Unsupported};
    for kind in [Unavailable, TooLarge, Unsupported, Corrupt] {
        let store = folder();
        let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
        converge(&mut [&mut a, &mut b]);
        a.write("large.txt", &super::purge::secret(1, 400_000));
        let peer = a.node().engine.policy.peers[0].clone();
        a.node().engine.wrap_place(&peer, |place| Arc::new(Narrow(place, kind)));

        // It is said by each run, not by the first one alone.
        for _ in 0..3 {
            let report = a.run();
            let told = complaint(&report).is_some_and(|why| why.contains(".pack: it did not come through"));
            assert!(told, "{kind:?} {report:?}");
            let remains = a.glance_status().remains();
            assert!(remains.is_some_and(|remains| remains.kind == Kind::Unavailable), "{kind:?}");
        }
        a.write("small.md", "small\n");
        a.node().run(&RunOptions { asked: Asked::Nobody, ..RunOptions::default() }).expect("runs");
        b.run();
        assert_eq!((b.read("small.md").as_deref(), b.read("large.txt")), (Some("small\n"), None), "{kind:?}");

        let wide = |_: Arc<dyn Transport>| -> Arc<dyn Transport> {
            Arc::new(FolderTransport::open(store.path(), peer.address.to_string()).expect("opens"))
        };
        a.node().engine.wrap_place(&peer, wide);
        assert_eq!(complaint(&a.run()), None);
        assert!(a.glance_status().remains().is_none());
        b.run();
        assert_eq!(b.read("large.txt"), a.read("large.txt"));
    }
}

/// A place that answers nobody, and takes a minute for that.
struct Hanging(Arc<dyn Transport>, Arc<ManualClock>, Arc<AtomicU64>);

impl Hanging {
    fn hang<T>(&self, what: &'static str) -> Result<T, TransportError> {
        self.1.advance(60_000);
        self.2.fetch_add(1, Ordering::SeqCst);
        Err(TransportError::new(TransportErrorKind::Unavailable, what, "", "no answer in 60 s"))
    }
}

impl Transport for Hanging {
    fn list(&self, _request: &ListRequest) -> Result<Listing, TransportError> {
        self.hang("list")
    }

    fn get(&self, _name: &str, _range: Option<std::ops::Range<u64>>, _max: u64) -> Result<Vec<u8>, TransportError> {
        self.hang("get")
    }

    fn put_new(&self, _name: &str, _bytes: &[u8]) -> Result<Put, TransportError> {
        self.hang("put")
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.0.wait(hint)
    }

    fn label(&self) -> &str {
        self.0.label()
    }
}

#[test]
fn a_place_that_hangs_keeps_fewer_and_fewer_runs_waiting_and_whoever_asks_for_it_reaches_it_at_once() {
    const INTERVAL_MS: u64 = 30_000;
    let (store, clock) = (folder(), Arc::new(ManualClock::new(4_000_000_000_000)));
    let mut a = Machine { clock: Some(clock.clone()), ..machine("a", &at(store.path())) };
    a.restart();
    a.run();
    let peer = a.node().engine.policy.peers[0].clone();
    let asked = Arc::new(AtomicU64::new(0));
    let hangs = |a: &mut Machine, asks: Asked| {
        let (clock, asked) = (clock.clone(), asked.clone());
        a.node().engine.wrap_place(&peer, |place| Arc::new(Hanging(place, clock.clone(), asked.clone())));
        let before = asked.load(Ordering::SeqCst);
        a.node().run(&RunOptions { asked: asks, ..RunOptions::default() }).expect("runs");
        clock.advance(INTERVAL_MS);
        asked.load(Ordering::SeqCst) > before
    };

    let tried: Vec<usize> = (0..60).filter(|_| hangs(&mut a, Asked::Due)).collect();
    let by_hand = hangs(&mut a, Asked::Everybody);
    let whole = |place: Arc<dyn Transport>| -> Arc<dyn Transport> {
        Arc::new(FolderTransport::open(store.path(), place.label()).expect("opens"))
    };
    a.node().engine.wrap_place(&peer, whole);
    let answered = a.run();
    let next = hangs(&mut a, Asked::Due);

    // A minute each, then 4, 8 and 10 minutes of peace.
    assert_eq!(tried, [0, 8, 24, 44], "tries among runs");
    assert!(by_hand && answered.peer_errors.is_empty() && next);
}

#[test]
fn a_place_that_asks_for_a_slower_pace_is_not_tried_before_unless_a_person_asks() {
    let (store, clock) = (folder(), Arc::new(ManualClock::new(4_000_000_000_000)));
    let mut a = Machine { clock: Some(clock.clone()), ..machine("a", &at(store.path())) };
    a.restart();
    a.run();
    let peer = a.node().engine.policy.peers[0].clone();
    let run = |a: &mut Machine, asked: Asked| {
        let before = names(store.path());
        a.node().run(&RunOptions { asked, ..RunOptions::default() }).expect("runs");
        names(store.path()) != before
    };
    let slower = |a: &mut Machine, seed| {
        let kind = TransportErrorKind::Throttled { retry_after_ms: 600_000 };
        a.node().engine.wrap_place(&peer, |place| Arc::new(Narrow(place, kind)));
        a.write("large.txt", &super::purge::secret(seed, 400_000));
        assert!(!run(a, Asked::Due), "the pack is refused, and what needs it waits");
    };

    slower(&mut a, 1);
    let (early, left_ms) = (run(&mut a, Asked::Due), a.node().engine.away_for_ms().next().map(|(_, ms)| ms));
    clock.advance(600_000);
    let later = run(&mut a, Asked::Due);
    assert_eq!((early, left_ms, later), (false, Some(600_000), true));

    slower(&mut a, 2);
    assert!(run(&mut a, Asked::Everybody), "who asks by hand is not put off");
}

#[test]
fn who_is_there_again_and_rings_is_given_what_he_missed_in_that_very_run() {
    let (store, clock) = (folder(), Arc::new(ManualClock::new(4_000_000_000_000)));
    let mut a = Machine { clock: Some(clock.clone()), ..machine("a", &at(store.path())) };
    a.restart();
    a.run();
    let peer = a.node().engine.policy.peers[0].clone();
    a.node().engine.wrap_place(&peer, |place| Arc::new(Hanging(place, clock.clone(), Arc::default())));
    a.write("late.md", "late\n");
    let edited = RunOptions { asked: Asked::Nobody, ..RunOptions::default() };
    let missed = a.node().run(&edited).expect("runs").peer_errors.len();
    let before = names(store.path());

    let peers = BTreeSet::from([peer.name]);
    let rung = RunOptions { asked: Asked::These { backend: false, peers }, ..RunOptions::default() };
    a.node().run(&rung).expect("runs");

    let after = names(store.path());
    assert!(missed == 1 && after.len() > before.len(), "{after:?}");
}

#[test]
fn places_have_all_their_time_in_a_command_and_none_to_waste_where_edits_wait() {
    let store = folder();
    let mut a = machine("a", &at(store.path()));
    let haste = |a: &mut Machine, asked: Asked| {
        a.node().run(&RunOptions { asked, ..RunOptions::default() }).expect("runs");
        a.node().engine.deadlines().haste()
    };

    let alone = [haste(&mut a, Asked::Everybody), haste(&mut a, Asked::Due)];
    a.node().engine.deadlines().hurry(Arc::new(|_| ()), Arc::new(|| false), Cancel::new());
    let beside = [Asked::Everybody, Asked::Due, Asked::Nobody].map(|asked| haste(&mut a, asked));

    assert_eq!((alone, beside), ([Haste::None; 2], [Haste::Asked, Haste::Unasked, Haste::Unasked]));
}

#[test]
fn what_one_machine_left_in_the_folder_reaches_another_while_it_is_off() {
    let store = folder();
    let mut a = machine("a", &at(store.path()));
    a.write("a.md", "one\n");
    a.run();
    a.write("a.md", "two\n");
    a.run();
    drop(a);

    let mut b = machine("b", &at(store.path()));
    b.run();

    assert_eq!(b.read("a.md").as_deref(), Some("two\n"));
}

#[test]
fn archive_files_of_a_peer_land_only_below_its_origin() {
    let store = folder();
    let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
    a.write("runs/1.log", "a\n");
    b.write("runs/1.log", "b\n");

    converge(&mut [&mut a, &mut b]);

    assert_eq!((a.read("runs/1.log").as_deref(), b.read("runs/1.log").as_deref()), (Some("a\n"), Some("b\n")));
    let origin = a.glance_status().origin.expect("it ran").parse().expect("a name");
    let slot = crate::index::Slot {
        space: crate::model::Space::shared(),
        origin: Some(origin),
        path: RelPath::parse("runs/1.log").expect("a path"),
    };
    assert_eq!(b.node().engine.index.heads(&slot).expect("reads").len(), 1);
}

#[test]
fn private_files_go_only_to_a_peer_that_is_ones_own() {
    for (private, expected) in [(false, false), (true, true)] {
        let store = folder();
        let peers = serde_json::json!({ "there": { "url": store.path(), "private": private } }).to_string();
        let mut a = machine("a", &peers);
        a.write("own/secret.md", "secret\n");
        a.write("shared.md", "shared\n");

        a.run();

        assert!(names(store.path()).iter().any(|name| name.starts_with("demo/shared/")));
        assert_eq!(names(store.path()).iter().any(|name| name.starts_with("demo/u-")), expected);
    }
}

#[test]
fn a_peer_only_given_to_or_only_taken_from_is_used_one_way() {
    let store = folder();
    let way = |pull: bool, push: bool| {
        serde_json::json!({ "there": { "url": store.path(), "pull": pull, "push": push } }).to_string()
    };
    let (mut reader, mut writer) = (machine("reader", &way(true, false)), machine("writer", &way(false, true)));
    reader.write("reader.md", "r\n");
    writer.write("writer.md", "w\n");

    reader.run();
    assert!(names(store.path()).is_empty(), "a store that is only read is not made");
    converge(&mut [&mut writer, &mut reader]);

    assert_eq!(reader.read("writer.md").as_deref(), Some("w\n"));
    assert_eq!(writer.read("reader.md"), None);
    assert!(reader.glance_status().peers[0].ok && writer.glance_status().peers[0].ok);
}

#[test]
fn a_peer_that_is_away_stops_nothing_and_status_says_so_until_it_is_back() {
    let (store, parent) = (folder(), folder());
    let away = parent.path().join("away");
    let peers = serde_json::json!({ "away": away, "far": "wss://far.example/x", "there": store.path() }).to_string();
    let (mut a, mut b) = (machine("a", &peers), machine("b", &at(store.path())));
    a.write("a.md", "a\n");

    let report = a.run();
    b.run();

    assert_eq!(report.peer_errors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["away", "far"]);
    assert_eq!((report.backend_error.as_deref(), b.read("a.md").as_deref()), (None, Some("a\n")));
    assert_eq!(a.node().remains(&report).expect("tells").map(|error| error.kind), Some(Kind::Unavailable));
    let status = a.glance_status();
    assert_eq!(status.peers.iter().map(|peer| peer.ok).collect::<Vec<_>>(), [false, false, true]);
    assert!(status.backend.ok && status.peers[0].lines.iter().all(|line| line.success_ms.is_none()));
    assert!(status.remains().is_some_and(|error| error.message.contains("there is no such folder")), "{status:?}");
    assert!(status.peers[1].lines[0].error.as_deref().is_some_and(|why| why.contains("no transport is called `wss:`")));

    std::fs::create_dir(&away).expect("creates");
    let report = a.run();
    assert_eq!(report.peer_errors.len(), 1);
    assert!(a.glance_status().peers[0].ok && names(&away).contains("larder-store.json"));

    set_peers(&mut a, &at(store.path()));
    a.run();
    let status = a.glance_status();
    assert_eq!((status.peers.len(), status.remains().is_none()), (1, true), "what left the config is forgotten");
    assert!(status.backend.lines.iter().all(|line| !line.store.starts_with("peer ")));
}

#[test]
fn who_is_away_is_not_tried_at_each_edit_and_what_one_tells_goes_on_to_the_others() {
    let (one, parent) = (folder(), folder());
    let two = parent.path().join("two");
    let peers = serde_json::json!({ "one": one.path(), "two": two }).to_string();
    let (mut a, mut b) = (machine("a", &peers), machine("b", &at(one.path())));
    let mut run = |asked| a.node().run(&RunOptions { asked, ..RunOptions::default() }).expect("runs");
    assert_eq!(run(Asked::Everybody).peer_errors.len(), 1);

    std::fs::create_dir(&two).expect("creates");
    b.write("b.md", "b\n");
    b.run();
    let edited = run(Asked::Nobody);
    assert!(edited.peer_errors.is_empty() && names(&two).is_empty(), "it was away and is not tried");
    let rung = run(Asked::These { backend: false, peers: BTreeSet::from(["one".to_owned()]) });
    assert!(rung.pulled > 0 && names(&two).is_empty());
    run(Asked::Everybody);
    let known = names(&two);
    b.write("b.md", "more\n");
    b.run();
    run(Asked::These { backend: false, peers: BTreeSet::from(["one".to_owned()]) });

    assert!(names(&two).len() > known.len(), "what came from one is in the other");
    assert_eq!(a.read("b.md").as_deref(), Some("more\n"));
}

#[test]
fn what_the_rules_here_refuse_is_judged_once_and_again_when_they_change() {
    let store = folder();
    let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
    a.write("a.md", "a\n");
    let narrow = |patterns: &str| {
        format!(r#"{{ "appId": "demo", "syncFilePatterns": [{patterns}], "peers": {} }}"#, at(store.path()))
    };
    set_config(&mut b, &narrow(r#""other/**""#));
    a.run();

    let first = b.run();
    assert_eq!((first.waiting.len(), b.read("a.md")), (1, None), "{first:?}");
    assert!(b.run().waiting.is_empty(), "nothing changed that it could be judged by");
    assert_eq!(b.node().engine.state.pending().expect("reads").len(), 1, "status still tells");
    a.write("a.md", "more\n");
    a.run();
    assert_eq!(b.run().waiting.len(), 1, "a new version is judged");

    set_config(&mut b, &narrow(r#""other/**", "*.md""#));
    b.run();
    assert_eq!(b.read("a.md").as_deref(), Some("more\n"));
    assert!(b.node().engine.state.pending().expect("reads").is_empty());
}

#[test]
fn what_the_rules_let_go_comes_back_when_they_keep_it_again() {
    let store = folder();
    let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
    for name in ["a.md", "b.md", "c.md"] {
        a.write(name, "one\n");
    }
    converge(&mut [&mut a, &mut b]);
    let config = |patterns: &str| {
        format!(r#"{{ "appId": "demo", "syncFilePatterns": [{patterns}], "peers": {} }}"#, at(store.path()))
    };

    set_config(&mut b, &config(r#""other/**""#));
    b.run();
    std::fs::remove_file(b.path("a.md")).expect("removes");
    std::fs::remove_file(a.path("c.md")).expect("removes");
    a.run();
    b.run();
    assert_eq!(b.read("c.md").as_deref(), Some("one\n"), "what is not kept here is not removed either");
    let pending = b.node().engine.state.pending().expect("reads");
    assert!(matches!(&pending[..], [one] if one.path == "c.md" && one.what == "refused"), "{pending:?}");

    set_config(&mut b, &config(r#""*.md""#));
    b.run();
    for name in ["a.md", "b.md"] {
        assert_eq!(b.read(name).as_deref(), Some("one\n"), "{name}");
    }
    converge(&mut [&mut a, &mut b]);
    assert_eq!((a.read("a.md"), b.read("a.md")), (Some("one\n".to_owned()), Some("one\n".to_owned())));
    assert!(b.run().written.is_empty(), "and once");
}

#[test]
fn what_a_gitignore_names_is_neither_written_nor_missed_here() {
    let store = folder();
    let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
    let config = format!(
        r#"{{ "appId": "demo", "respectGitignore": true, "syncFilePatterns": ["**/*.gen", "**/*.md"], "peers": {} }}"#,
        at(store.path())
    );
    set_config(&mut a, &config);
    set_config(&mut b, &config);
    a.write(".gitignore", "*.gen\nout/\n");
    for name in ["z.gen", "out/z.md", "z.md"] {
        b.write(name, "one\n");
    }
    b.run();

    a.run();
    assert_eq!((a.read("z.gen"), a.read("out/z.md"), a.read("z.md").as_deref()), (None, None, Some("one\n")));
    let pending = a.node().engine.state.pending().expect("reads");
    let told: Vec<&str> = pending.iter().filter(|one| one.why.contains(".gitignore")).map(|one| &*one.path).collect();
    assert_eq!(told, ["out/z.md", "z.gen"]);

    std::fs::remove_file(a.path(".gitignore")).expect("removes");
    a.run();
    assert_eq!((a.read("z.gen").as_deref(), a.read("out/z.md").as_deref()), (Some("one\n"), Some("one\n")));
    assert!(a.node().engine.state.pending().expect("reads").is_empty());

    a.write(".gitignore", "*.gen\nout/\n");
    std::fs::remove_file(a.path("z.gen")).expect("removes");
    std::fs::remove_dir_all(a.path("out")).expect("removes");
    for _ in 0..2 {
        assert_eq!(a.run().recorded, [], "nobody looks there");
        b.run();
    }
    assert_eq!((b.read("z.gen").as_deref(), b.read("out/z.md").as_deref()), (Some("one\n"), Some("one\n")));
}

#[test]
fn a_store_that_is_empty_where_it_was_filled_is_refused_and_nothing_is_deleted_or_written() {
    let parent = folder();
    let (store, aside) = (parent.path().join("store"), parent.path().join("aside"));
    std::fs::create_dir(&store).expect("creates");
    let (mut a, mut b) = (machine("a", &at(&store)), machine("b", &at(&store)));
    a.write("a.md", "a\n");
    converge(&mut [&mut a, &mut b]);

    std::fs::rename(&store, &aside).expect("unmounts");
    for empty in [false, true] {
        if empty {
            std::fs::create_dir(&store).expect("an empty mount point");
        }
        b.write("b.md", if empty { "2\n" } else { "1\n" });
        for restarted in [false, true] {
            if restarted {
                set_peers(&mut b, &at(&store));
            }
            let report = b.run();
            assert!(complaint(&report).is_some(), "{empty} {restarted}: {report:?}");
            assert_eq!(b.read("a.md").as_deref(), Some("a\n"));
        }
    }
    assert!(complaint(&b.run()).is_some_and(|why| why.contains("is its disk mounted")));
    assert!(names(&store).is_empty());

    std::fs::remove_dir(&store).expect("removes");
    std::fs::rename(&aside, &store).expect("mounts");
    converge(&mut [&mut b, &mut a]);
    assert_eq!(a.read("b.md").as_deref(), Some("2\n"));
    assert!(b.glance_status().peers[0].ok);
}

#[test]
fn two_projects_of_one_name_mix_only_when_somebody_says_that_they_are_one() {
    let store = folder();
    let (mut a, mut b) = (machine("a", "{}"), machine("b", "{}"));
    a.write("a.md", "a\n");
    b.write("b.md", "b\n");
    a.run();
    b.run();
    set_peers(&mut a, &at(store.path()));
    set_peers(&mut b, &at(store.path()));

    a.run();
    let before = names(store.path());
    let report = b.run();
    assert!(complaint(&report).is_some_and(|why| why.contains("another project of that name")), "{report:?}");
    assert_eq!((b.read("a.md"), names(store.path())), (None, before));

    let own = project(&mut b);
    let address = crate::config::Address::new(store.path().to_string_lossy());
    let larder = b.dir.path().join(".larder");
    let place = open_peer(&b.env(), &address, "demo", b.dir.path(), &larder).expect("opens");
    Marker::set_place(&*place, "demo", &own).expect("joined");
    converge(&mut [&mut b, &mut a]);

    assert_eq!((b.read("a.md").as_deref(), a.read("b.md").as_deref()), (Some("a\n"), Some("b\n")));
}

#[test]
fn artifacts_that_arrive_in_any_order_give_the_same_files() {
    let store = folder();
    let mut a = machine("a", &at(store.path()));
    for n in 0..6 {
        a.write(&format!("d/{n}.txt"), &noise(n));
        a.write("log.jsonl", &"{\"line\":1}\n".repeat(n as usize + 1));
        a.run();
    }
    std::fs::remove_file(a.path("d/3.txt")).expect("removes");
    a.run();
    let all = tree(store.path());

    for seed in 0..2u64 {
        let carried = folder();
        let mut b = machine("b", &at(carried.path()));
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|n| (*n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (seed << 17)).rotate_left(21));
        for (step, n) in order.into_iter().enumerate() {
            let (name, bytes) = &all[n];
            let path = carried.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
            std::fs::write(path, bytes).expect("carried");
            if step % 5 == 0 {
                b.run();
            }
        }
        converge(&mut [&mut b]);

        let files = |machine: &Machine| {
            let mut files = tree(machine.dir.path());
            files.retain(|(name, _)| name.starts_with("d/") || name == "log.jsonl");
            files
        };
        assert!(files(&b) == files(&a), "seed {seed}: {:?}", names(b.dir.path()));
        assert!(b.glance_status().peers[0].ok);
    }
}

#[test]
fn a_store_inside_the_project_is_refused() {
    let mut a = machine("a", r#"{ "inside": "share" }"#);
    std::fs::create_dir(a.path("share")).expect("creates");
    a.write("a.md", "a\n");

    let report = a.run();

    assert!(complaint(&report).is_some_and(|why| why.contains("inside the project")), "{report:?}");
    assert!(names(&a.path("share")).is_empty());
}

#[test]
fn a_dry_run_claims_no_backend_and_gives_a_new_project_no_id() {
    let store = tempfile::tempdir().expect("a folder");
    let backend = backend();
    let mut first = Machine::new("first", &self::backend());
    super::skew::configure(&first, &[store.path()]);
    first.write("x.md", "x");
    first.meets();
    let mut new = Machine::new("new", &backend);
    super::skew::configure(&new, &[store.path()]);
    new.write("own.md", "own");
    let options = OpenOptions { trust: true, ..new.options() };
    new.node = Some(Node::open(&new.env(), &options, Arc::new(NoProgress)).expect("opens"));

    new.node().run(&crate::node::RunOptions { dry_run: true, ..Default::default() }).expect("runs");

    assert_eq!(Marker::of_backend(&backend, "demo", None).expect("asked"), None);
    let notes = backend
        .query(&Query::changes("demo-ledger", None, larder_adapters::Cursor::from_text(String::new()), 10))
        .expect("asked");
    assert_eq!(notes.rows.len(), 0, "{:?}", notes.rows);
    assert!(projects(&new.node().engine.state).expect("asked").is_empty());

    new.meets();
    assert!(Marker::of_backend(&backend, "demo", None).expect("asked").is_some());
    assert_eq!(
        (new.read("x.md").as_deref(), projects(&new.node().engine.state).expect("asked").is_empty()),
        (Some("x"), false)
    );
}

#[test]
fn a_dry_run_leaves_the_place_alone() {
    let store = folder();
    let mut a = machine("a", &at(store.path()));
    a.write("a.md", "a\n");

    a.node().run(&crate::node::RunOptions { dry_run: true, ..Default::default() }).expect("runs");

    assert!(names(store.path()).is_empty());
    assert!(Glance::open(&a.env(), &a.options()).expect("opens").status().expect("tells").peers.len() == 1);
}

#[test]
fn one_run_finishes_an_exchange_whatever_a_round_of_it_may_cost() {
    let store = folder();
    let (mut a, mut b) = (machine("a", &at(store.path())), machine("b", &at(store.path())));
    for n in 0..12 {
        a.write(&format!("{n}.txt"), &noise(n));
        let alone = crate::node::RunOptions { asked: Asked::Nobody, way: crate::node::Way::Pull, ..Default::default() };
        a.node().run(&alone).expect("records");
    }
    for machine in [&mut a, &mut b] {
        machine.node().engine.exchange_budget.requests = 9;
        let report = machine.run();
        assert_eq!(complaint(&report), None);
    }

    assert_eq!(names(store.path()).iter().filter(|name| name.contains("/cp-")).count(), 12);
    assert_eq!((0..12).filter(|n| b.read(&format!("{n}.txt")) == Some(noise(*n))).count(), 12);
}

#[test]
fn an_edited_config_that_reaches_further_is_not_used_and_the_error_says_what_to_do() {
    let there = tempfile::tempdir().expect("a folder");
    let mut a = Machine::new("a", &backend());
    a.run();
    let peers = serde_json::json!({ "there": there.path() });
    std::fs::write(a.path("sync-config.json"), CONFIG.replacen('{', &format!(r#"{{ "peers": {peers}, "#), 1))
        .expect("writes");

    let refused = a.node().reload().expect_err("nobody agreed");

    let hint = refused.hint.expect("something can be done");
    assert!(hint.contains("stop this larder") && hint.contains("`larder up --trust`"), "{hint}");
    assert!(a.node().settings.peers.is_empty());
}
