//! A project as it is served: its ledger, its inbox, its markers; and what machines exchange through it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ledger::{Batch, Ledger, Tip, Writer};
use crate::model::{
    Channel, Content, ContentHash, ContentKind, Dot, Hlc, Lane, RelPath, SegmentHash, Space, State as VersionState,
    Vector, Version,
};
use crate::state::State;
use crate::sync::exchange::{ExchangeConfig, MemoryJournal, Report, exchange};
use crate::transport::marker::ProjectId;
use crate::transport::{Cancel, Depth, ListRequest, Marker, Put, WaitHint, Wake};

/// A machine with a ledger of its own.
struct Machine {
    identity: Arc<Identity>,
    ledger: Ledger,
    journal: MemoryJournal,
    tip: Option<Tip>,
}

impl Machine {
    fn new(home: &Path, name: &str) -> Machine {
        let identity = device(home, name);
        let ledger = Ledger::open(&home.join(name)).expect("a ledger");
        Machine { identity, ledger, journal: MemoryJournal::default(), tip: None }
    }

    /// Publishes one checkpoint with a file of so many bytes.
    fn publish(&mut self, path: &str, len: usize) {
        let space = Space::shared();
        let writer = Writer { app: "app", identity: &self.identity, space: &space };
        let mut batch = Batch::new(&self.ledger, writer, self.tip).expect("a batch");
        let mut bytes = vec![0; len];
        crate::env::Random::fill(&crate::env::SeededRandom::new(len as u64), &mut bytes);
        batch.segment(SegmentHash::of(&bytes), &bytes).expect("a segment");
        let (chain, n) = (batch.chain().clone(), batch.next_n());
        let lane = Lane { origin: chain.origin, generation: chain.generation, first: n };
        let kind = ContentKind::File { exec: false };
        let content = Content { hash: ContentHash::of(&bytes), size: bytes.len() as u64, kind };
        let version = Version {
            parents: Vec::new(),
            dot: Dot { lane, n },
            vector: Vector::new(),
            hlc: Hlc::new(START_MS, 0),
            born: Hlc::new(START_MS, 0),
            channel: Channel::Shared,
            path: RelPath::parse(path).expect("a path"),
            state: VersionState::Content(content),
            moved_from: None,
            via: None,
            adopted: false,
        };
        batch.version(version).expect("a version");
        let published = batch.finish(Hlc::new(START_MS, 1), BTreeMap::new()).expect("published");
        self.tip = published.map(|published| published.tip);
    }

    fn exchange(&mut self, place: &dyn Transport) -> Report {
        let spaces = vec![Space::shared(), self.identity.private_space()];
        let own = spaces.iter().map(|space| self.identity.chain(space.clone())).collect();
        let config = ExchangeConfig { own, ..ExchangeConfig::new("app", spaces) };
        exchange(&self.ledger, place, &config, &mut self.journal).expect("exchanged")
    }

    fn names(&self) -> BTreeSet<String> {
        self.ledger.list("", "", 10_000).expect("listed").into_iter().collect()
    }
}

/// A machine that is served, and the scene of its server.
fn served() -> (Machine, Scene) {
    let home = tempfile::tempdir().expect("a folder");
    let mut hub = Machine::new(home.path(), "hub");
    hub.publish("hub.md", 10);
    let shelf = Shelf::of_project(&home.path().join("hub"), "app").expect("a shelf");
    let mut scene = scene(shelf);
    scene.dirs.push(home);
    (hub, scene)
}

fn guest(scene: &Scene, name: &str) -> (Machine, HttpTransport) {
    let machine = Machine::new(scene.dir.path(), name);
    let credentials = scene.pair(machine.identity.clone()).expect("paired");
    let visitor = scene.visit(&credentials).expect("let in");
    (machine, visitor)
}

#[test]
fn machines_meet_at_a_served_project_whose_ledger_stays_its_own() {
    let (hub, scene) = served();
    let before = hub.names();
    let ((mut a, at_a), (mut b, at_b)) = (guest(&scene, "a"), guest(&scene, "b"));
    a.publish("small.md", 100);
    a.publish("large.bin", 400_000);

    a.exchange(&at_a);
    b.publish("b.md", 200);
    b.exchange(&at_b);
    a.exchange(&at_a);

    assert_eq!(a.names(), b.names());
    assert!(a.names().len() > before.len() && before.is_subset(&a.names()));
    assert_eq!(hub.names(), before, "what others put waits for the project's own exchange");
    assert_eq!(scene.arrivals.load(Ordering::SeqCst), 3, "once for each checkpoint");
}

#[test]
fn nothing_new_costs_one_request_a_space() {
    let (_hub, scene) = served();
    let (mut a, at_a) = guest(&scene, "a");
    a.publish("a.md", 400_000);
    a.exchange(&at_a);

    for _ in 0..2 {
        let report = a.exchange(&at_a);
        assert_eq!((report.requests.heads, report.requests.total()), (2, 2), "{report:?}");
    }
    let (_, again) = guest(&scene, "c");
    assert_eq!(again.heads("app/shared/").expect("asked").expect("told").len(), 2);
}

#[test]
fn what_the_project_publishes_wakes_who_waits_and_what_moves_to_the_ledger_does_not() {
    let (mut hub, scene) = served();
    let (mut a, at_a) = guest(&scene, "a");
    let long = WaitHint { timeout_ms: 60_000, cancel: Cancel::new() };
    let look = WaitHint { timeout_ms: 0, cancel: Cancel::new() };

    hub.publish("hub.md", 20);
    assert_eq!(at_a.wait(&long).expect("asked"), Wake::Changed);
    let chain = format!("app/{}", a.identity.chain(Space::shared()));
    let mut round = |n: usize| {
        a.publish("a.md", 100 + n);
        a.exchange(&at_a);
        for name in at_a.list(&ListRequest::new(format!("{chain}/"), Depth::All)).expect("listed").names {
            let bytes = at_a.get(&name, None, BIG).expect("got");
            let name = name.strip_prefix("app/").expect("of the app").parse().expect("a name");
            hub.ledger.put(&name, &bytes).expect("imported");
        }
        hub.publish("hub.md", 30 + n);
        assert_eq!(at_a.wait(&long).expect("asked"), Wake::Changed);
    };
    // New folders may be told of in vain.
    round(0);
    while at_a.wait(&look).expect("asked") == Wake::Changed {}
    round(1);

    // What the project published wakes, and nothing else did.
    assert_eq!(at_a.wait(&look).expect("asked"), Wake::Timeout);
}

#[test]
fn listings_of_ledger_inbox_and_markers_are_one() {
    let (mut hub, scene) = served();
    let (mut a, at_a) = guest(&scene, "a");
    for n in 0..4 {
        hub.publish("hub.md", 100 + n);
        a.publish("a.md", 200 + n);
    }
    a.exchange(&at_a);
    let larder = hub.ledger.larder().to_owned();
    let (ours, theirs) = (ProjectId::draw(&scene.env), ProjectId::draw(&scene.env));
    let state = State::open(&larder.join("state.db")).expect("a state");
    state.set_meta("project", Some(ours.as_str().as_bytes())).expect("set");
    Marker::set_place(&at_a, "app", &theirs).expect("joined");
    Marker::set_place(&at_a, "app", &ours).expect("known");

    let all = at_a.list(&ListRequest::new("app/", Depth::All)).expect("listed").names;
    assert_eq!(all.iter().filter(|name| name.contains("/checkpoints/")).count(), 9, "{all:#?}");
    assert_eq!(all.iter().filter(|name| name.contains("/markers/")).count(), 2, "{all:#?}");
    for depth in [Depth::All, Depth::Children] {
        for prefix in ["app/", "app/shared/", "app/markers/"] {
            let whole = at_a.list(&ListRequest::new(prefix, depth)).expect("listed").names;
            for limit in [1, 2, 3, 7] {
                let mut request = ListRequest { limit, ..ListRequest::new(prefix, depth) };
                let mut joined = Vec::new();
                for _ in 0..=whole.len() {
                    let page = at_a.list(&request).expect("listed");
                    joined.extend(page.names);
                    if !page.more {
                        break;
                    }
                    request.after = joined.last().cloned();
                }
                assert_eq!(joined, whole, "{prefix} {depth:?} {limit}");
            }
        }
    }
    for name in &all {
        let bytes = at_a.get(name, None, BIG).expect("got");
        assert_eq!(at_a.put_new(name, &bytes).expect("again"), Put::AlreadyThere, "{name}");
    }
    let found = Marker::of_place(&at_a, "app", Some(&BTreeSet::from([ours.clone()])), true).expect("looked");
    assert_eq!(found, Some(ours));
}

#[test]
fn only_what_proves_itself_is_taken() {
    let (mut hub, scene) = served();
    let (mut a, at_a) = guest(&scene, "a");
    hub.publish("hub.md", 400_000);
    a.publish("a.md", 100);
    let chain = a.identity.chain(Space::shared()).to_string();
    let sound = a.ledger.list(&format!("{chain}/checkpoints/"), "", 9).expect("listed").remove(0);
    let bytes = a.ledger.read_whole(&sound.parse().expect("a name")).expect("read");
    let before = at_a.list(&ListRequest::new("app/", Depth::All)).expect("listed");

    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let unsupported = Some(TransportErrorKind::Unsupported);
    for (name, bytes) in [
        (format!("app/{sound}"), &flipped[..]),
        (format!("app/{sound}"), &bytes[..bytes.len() - 1]),
        (format!("app/{}", sound.replace("cp-0000000000000001", "cp-0000000000000002")), &bytes),
        (format!("app/{}", sound.replace(&*chain, "shared/other-abc234~1")), &bytes),
        (pack(&chain, b"x"), b"y"),
        ("app/notes.txt".to_owned(), b"x"),
        ("app/shared/notes.txt".to_owned(), b"x"),
        (format!("app/{chain}/packs/notes.pack"), b"x"),
        (format!("app/{chain}/secrets/{}.pack", "00".repeat(32)), b"x"),
        ("app/markers/x.json".to_owned(), b"x"),
        (format!("app/markers/{}.json", "a".repeat(26)), b"{}"),
        ("app/larder-store.json".to_owned(), b"x"),
    ] {
        assert_eq!(kind(at_a.put_new(&name, bytes)), unsupported, "{name}");
    }
    let large = vec![7; 5_000];
    let marker = format!("app/markers/{}.json", "a".repeat(26));
    assert_eq!(kind(at_a.put_new(&marker, &large)), Some(TransportErrorKind::TooLarge));
    assert_eq!(at_a.list(&ListRequest::new("app/", Depth::All)).expect("listed"), before);
    assert_eq!(at_a.put_new(&format!("app/{sound}"), &bytes).expect("put"), Put::Written);
}

#[test]
fn what_a_broken_disk_left_in_the_inbox_gives_way_to_good_bytes() {
    let (hub, scene) = served();
    let (mut a, at_a) = guest(&scene, "a");
    a.publish("a.md", 100);
    a.exchange(&at_a);
    let inbox = hub.ledger.larder().join("inbox");
    let names = at_a.list(&ListRequest::new("app/shared/", Depth::All)).expect("listed").names;
    let name = names.iter().find(|name| inbox.join(name).exists()).expect("it waits");
    let good = std::fs::read(inbox.join(name)).expect("reads");
    for damaged in [&good[..good.len() / 2], b"", b"other bytes"] {
        std::fs::write(inbox.join(name), damaged).expect("damages it");

        assert_eq!(at_a.put_new(name, &good).expect("put"), Put::Written);
        assert_eq!(at_a.get(name, None, BIG).expect("got"), good);
    }
}

#[test]
fn a_project_of_another_name_is_told_so() {
    let (_hub, scene) = served();
    let identity = device(scene.dir.path(), "a");
    let credentials = scene.pair(identity).expect("paired");

    let visited = HttpTransport::connect(&scene.url(), "other", credentials, Patience::default());
    let error = visited.err().expect("refused");
    assert_eq!(error.kind, TransportErrorKind::Denied);
    assert!(error.to_string().contains("appId"), "{error}");
}

#[test]
fn a_plain_store_is_a_meeting_place_for_every_project() {
    let store = tempfile::tempdir().expect("a folder");
    let scene = scene(Shelf::of_store(store.path()).expect("a shelf"));
    let ((mut a, at_a), (mut b, at_b)) = (guest(&scene, "a"), guest(&scene, "b"));
    a.publish("a.md", 300_000);
    b.publish("b.md", 10);

    a.exchange(&at_a);
    b.exchange(&at_b);
    a.exchange(&at_a);

    assert_eq!(a.names(), b.names());
    let report = a.exchange(&at_a);
    assert_eq!((report.requests.heads, report.requests.total()), (2, 2), "{report:?}");
    // What another program puts into the folder is news as well.
    let direct = crate::transport::FolderTransport::open(store.path(), "folder:store").expect("a store");
    let mut c = Machine::new(scene.dir.path(), "c");
    c.publish("c.md", 10);
    let long = WaitHint { timeout_ms: 60_000, cancel: Cancel::new() };
    let look = WaitHint { timeout_ms: 0, cancel: Cancel::new() };
    while at_a.wait(&look).expect("asked") == Wake::Changed {}
    c.exchange(&direct);
    assert_eq!(at_a.wait(&long).expect("asked"), Wake::Changed);
}

#[test]
fn wrong_bytes_in_a_served_folder_give_way_to_right_ones_and_to_nothing_else() {
    let store = tempfile::tempdir().expect("a folder");
    let scene = scene(Shelf::of_store(store.path()).expect("a shelf"));
    let (mut a, at_a) = guest(&scene, "a");
    a.publish("large.bin", 400_000);
    a.exchange(&at_a);
    let names: Vec<String> = a.names().into_iter().collect();
    let right = |name: &str| std::fs::read(scene.dir.path().join("a/ledger").join(name)).expect("reads");
    assert!(names.len() > 1, "{names:?}");

    for name in &names {
        let there = store.path().join("app").join(name);
        std::fs::set_permissions(&there, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("sets it");
        for wrong in [&right(name)[..100], b"", &[b'x'; 500_000][..]] {
            std::fs::write(&there, wrong).expect("a disk broke");
            let name = format!("app/{name}");
            let refused = at_a.put_new(&name, b"neither");
            assert!(refused.is_err() && std::fs::read(&there).expect("reads") == wrong, "{refused:?}");
            at_a.mending()
                .expect("it can be mended")
                .mend(&name, &right(name.strip_prefix("app/").expect("ours")))
                .expect("mended");
            assert!(at_a.get(&name, None, BIG).expect("reads") == right(name.strip_prefix("app/").expect("ours")));
        }
    }
}
