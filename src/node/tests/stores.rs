//! Laws of the backend as a store of the exchange: what `status` tells of it, and what a run does when it is not what it was.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use larder_adapters::{
    AdapterError, Body, Capabilities, Cursor, ErrorKind, Expected, Page, Record, Revision, Row, Sink, Subscription,
};

use super::*;
use crate::node::Kind;
use crate::sync::Asked;

/// A database that can be emptied, and that may take no artifact that is longer than a text.
struct Replaceable {
    inner: Mutex<(u32, Arc<MemoryAdapter>)>,
    takes_chunks: Mutex<bool>,
    /// Packs that were offered.
    packs: AtomicU32,
    /// What every question is answered with.
    refuses: Mutex<Option<ErrorKind>>,
    /// Questions and writes.
    asked: AtomicU32,
    capabilities: Capabilities,
}

impl Replaceable {
    fn new() -> Arc<Replaceable> {
        let inner = Arc::new(MemoryAdapter::new());
        let capabilities = inner.capabilities().clone();
        Arc::new(Replaceable {
            inner: Mutex::new((0, inner)),
            takes_chunks: Mutex::new(true),
            packs: AtomicU32::new(0),
            refuses: Mutex::new(None),
            asked: AtomicU32::new(0),
            capabilities,
        })
    }

    fn empty(&self) {
        let mut inner = self.inner.lock().expect("nobody panicked");
        *inner = (inner.0 + 1, Arc::new(MemoryAdapter::new()));
    }

    fn takes_chunks(&self, takes: bool) {
        *self.takes_chunks.lock().expect("nobody panicked") = takes;
    }

    fn refuses(&self, kind: Option<ErrorKind>) {
        *self.refuses.lock().expect("nobody panicked") = kind;
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    fn hears(&self) -> Result<(), AdapterError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let kind = *self.refuses.lock().expect("nobody panicked");
        kind.map_or(Ok(()), |kind| Err(AdapterError::new(kind, "ask the service: it says no")))
    }

    fn now(&self) -> Arc<MemoryAdapter> {
        self.inner.lock().expect("nobody panicked").1.clone()
    }
}

impl FileSyncAdapter for Replaceable {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn store_id(&self) -> Option<String> {
        Some(self.inner.lock().expect("nobody panicked").0.to_string())
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        self.hears()?;
        self.now().query(query)
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        self.hears()?;
        self.now().get(id)
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        self.now().read_chunks(id, first, count)
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        self.hears()?;
        let is_pack = matches!(record.body, Body::Chunks { .. }) && record.path.ends_with(".pack");
        self.packs.fetch_add(u32::from(is_pack), Ordering::Relaxed);
        if is_pack && !*self.takes_chunks.lock().expect("nobody panicked") {
            return Err(AdapterError::new(
                ErrorKind::TooLarge,
                "write a pack: it is more than the gateway lets through",
            ));
        }
        self.now().set(record, expected)
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        self.now().delete(id, expected)
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        self.now().subscribe(query, from, sink)
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.now().close()
    }
}

#[test]
fn a_database_that_was_emptied_beneath_a_running_project_is_filled_again() {
    let store = Replaceable::new();
    let shared: Arc<dyn FileSyncAdapter> = store.clone();
    let (mut a, mut b) = (Machine::new("a", &shared), Machine::new("b", &shared));
    a.write("notes.md", "one\n");
    a.write("large.txt", &super::purge::secret(1, 400_000));
    converge(&mut [&mut a, &mut b]);

    store.empty();
    a.write("later.md", "later\n");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b]);

    assert_eq!(b.read("later.md").as_deref(), Some("later\n"));
    assert_eq!((a.read("notes.md").as_deref(), b.read("notes.md").as_deref()), (Some("one\n"), Some("one\n")));
    assert_eq!(
        (row(&shared, "notes.md").as_deref(), row(&shared, "later.md").as_deref()),
        (Some("one\n"), Some("later\n"))
    );
    let mut new = Machine::new("c", &shared);
    new.run();
    converge(&mut [&mut a, &mut b, &mut new]);
    assert_eq!(new.read("large.txt"), a.read("large.txt"), "who comes later finds all of it there");
}

#[test]
fn a_run_of_which_the_backend_did_not_take_all_says_so() {
    let store = Replaceable::new();
    let shared: Arc<dyn FileSyncAdapter> = store.clone();
    let (mut a, mut b) = (Machine::new("a", &shared), Machine::new("b", &shared));
    converge(&mut [&mut a, &mut b]);

    store.takes_chunks(false);
    a.write("large.txt", &super::purge::secret(1, 400_000));
    for _ in 0..2 {
        let report = a.run();
        assert!(report.backend_error.as_deref().is_some_and(|why| why.contains("more than the gateway")), "{report:?}");
        assert_eq!(a.node().remains(&report).expect("tells").map(|error| error.kind), Some(Kind::Unavailable));
        assert_eq!(a.glance_status().remains().map(|error| error.kind), Some(Kind::Unavailable));
    }

    store.takes_chunks(true);
    let report = a.run();
    assert_eq!((report.backend_error, a.glance_status().remains().is_none()), (None, true));
    converge(&mut [&mut a, &mut b]);
    assert_eq!(b.read("large.txt"), a.read("large.txt"));
}

#[test]
fn what_is_too_large_for_a_place_is_sent_to_it_again_only_when_a_person_asks_and_told_until_it_is_there() {
    let store = Replaceable::new();
    let shared: Arc<dyn FileSyncAdapter> = store.clone();
    let (mut a, mut b) = (Machine::new("a", &shared), Machine::new("b", &shared));
    converge(&mut [&mut a, &mut b]);
    let due = || RunOptions { asked: Asked::Due, ..RunOptions::default() };
    let packs = || store.packs.load(Ordering::Relaxed);

    store.takes_chunks(false);
    a.write("large.txt", &super::purge::secret(1, 400_000));
    a.node().run(&due()).expect("runs");
    let offered = packs();
    for round in 0..3 {
        a.write("small.md", &format!("{round}\n"));
        let report = a.node().run(&due()).expect("runs");
        assert!(report.backend_error.as_deref().is_some_and(|why| why.contains("more than the gateway")), "{report:?}");
        assert_eq!(a.glance_status().remains().map(|error| error.kind), Some(Kind::Unavailable));
    }
    assert_eq!((offered > 0, packs()), (true, offered), "it was sent once");
    b.run();
    assert_eq!(b.read("small.md").as_deref(), Some("2\n"), "what is small arrives");

    a.run();
    assert!(packs() > offered, "a person asked");
    store.takes_chunks(true);
    a.run();
    converge(&mut [&mut a, &mut b]);
    assert_eq!(b.read("large.txt"), a.read("large.txt"));
}

#[test]
fn a_backend_that_asks_for_a_slower_pace_is_asked_nothing_until_then_and_then_at_once() {
    let clock = Arc::new(ManualClock::new(4_000_000_000_000));
    let store = Replaceable::new();
    let shared: Arc<dyn FileSyncAdapter> = store.clone();
    let (mut a, mut b) = (Machine::timed("a", &shared, &clock), Machine::timed("b", &shared, &clock));
    converge(&mut [&mut a, &mut b]);
    let run = |machine: &mut Machine, asked: Asked| {
        machine.node().run(&RunOptions { asked, ..RunOptions::default() }).expect("runs")
    };
    let throttled = Some(ErrorKind::Throttled { retry_after_ms: 60_000 });

    store.refuses(throttled);
    run(&mut a, Asked::Due);
    let asked = store.asked();
    for (n, who) in [Asked::Due, Asked::Nobody, Asked::These { backend: true, peers: BTreeSet::new() }, Asked::Due]
        .into_iter()
        .enumerate()
    {
        clock.advance(10_000);
        a.write("a.md", &format!("{n}\n"));
        let report = run(&mut a, who);
        assert!(report.backend_error.as_deref().is_some_and(|why| why.contains("it says no")), "{report:?}");
        assert_eq!(a.glance_status().remains().map(|error| error.kind), Some(Kind::Unavailable));
    }
    assert_eq!(store.asked(), asked, "it was left alone");
    assert_eq!(a.node().engine.next_retry_ms(), Some(20_000));

    store.refuses(None);
    clock.advance(20_000);
    assert_eq!(a.node().engine.next_retry_ms(), Some(0));
    let report = run(&mut a, Asked::Nobody);
    assert_eq!((report.backend_error, a.node().engine.next_retry_ms()), (None, None));
    assert_eq!(row(&shared, "a.md").as_deref(), Some("3\n"));
    run(&mut b, Asked::Due);
    assert_eq!(b.read("a.md").as_deref(), Some("3\n"));

    store.refuses(throttled);
    run(&mut a, Asked::Due);
    let asked = store.asked();
    run(&mut a, Asked::Everybody);
    assert!(store.asked() > asked, "who asks by hand is not put off");
}

#[test]
fn a_backend_that_cannot_be_used_as_it_is_has_one_exit_code_whenever_that_is_met() {
    let store = Replaceable::new();
    let shared: Arc<dyn FileSyncAdapter> = store.clone();
    let mut a = Machine::new("a", &shared);
    a.run();
    store.refuses(Some(ErrorKind::Corrupt));
    let report = a.run();
    let later = a.node().remains(&report).expect("tells").map(|error| error.kind);

    let mut b = Machine::new("b", &shared);
    b.write("rows.db", &"no database at all\n".repeat(100));
    let text = CONFIG.replacen('{', r#"{ "backend": "sqlite:rows.db", "#, 1);
    std::fs::write(b.path("sync-config.json"), text).expect("writes");
    let options = OpenOptions { adapter: None, ..b.options() };
    b.node = Some(Node::open(&b.env(), &options, Arc::new(NoProgress)).expect("opens without its backend"));
    let report = b.run();
    let at_opening = b.node().remains(&report).expect("tells").map(|error| error.kind);

    assert_eq!((at_opening, later), (Some(Kind::Unavailable), Some(Kind::Unavailable)));
    assert_eq!(b.glance_status().remains().map(|error| error.kind), at_opening);
}

#[test]
fn a_run_with_another_backend_by_a_flag_takes_nothing_from_what_is_known_of_the_configs() {
    let mut a = Machine::new("a", &backend());
    let name = |machine: &Machine, address: &str| {
        let text = CONFIG.replacen('{', &format!(r#"{{ "backend": "{address}", "#), 1);
        std::fs::write(machine.path("sync-config.json"), text).expect("writes");
    };
    name(&a, "sqlite:one.db");
    a.run();
    a.restart();
    let before = a.glance_status().backend;

    // As a flag would name it: for one run.
    name(&a, "sqlite:two.db");
    a.run();
    a.node().engine.state.note_failure("sqlite", crate::state::Direction::Push, 1, "two was away").expect("notes");
    a.restart();
    assert_eq!(a.glance_status().backend.word(), "failing");
    name(&a, "sqlite:one.db");

    assert_eq!((before.word(), a.glance_status().backend), ("ok", before.clone()));
    a.run();
    assert_eq!(a.glance_status().backend.word(), "ok");
    name(&a, "sqlite:two.db");
    assert_eq!(a.glance_status().backend.word(), "failing", "and it is kept of that one, too");
}

#[test]
fn status_tells_of_the_backend_of_now_alone() {
    let mut a = Machine::new("a", &backend());
    let name = |machine: &Machine, address: &str| {
        let text = CONFIG.replacen('{', &format!(r#"{{ "backend": "{address}", "#), 1);
        std::fs::write(machine.path("sync-config.json"), text).expect("writes");
    };
    a.run();
    a.node().engine.state.note_failure("sqlite", crate::state::Direction::Push, 1, "it was away").expect("notes");
    assert_eq!(a.glance_status().backend.word(), "failing");

    name(&a, "sqlite:elsewhere.db");
    let status = a.glance_status();
    assert_eq!((status.backend.word(), status.backend.lines.len()), ("never reached", 0));
    assert_eq!(status.remains().map(|error| error.kind), Some(Kind::Unavailable));

    a.restart();
    a.run();
    let status = a.glance_status();
    assert_eq!((status.backend.word(), status.remains().is_none()), ("ok", true), "{status:?}");
}
