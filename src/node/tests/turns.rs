//! Laws of turns: an exchange with a slow place keeps nobody waiting for long, and comes to its end all the same.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::peers::{at, folder, machine, names, set_peers};
use super::*;
use crate::node::RunOptions;
use crate::sync::{Asked, Scope};
use crate::transport::{
    Cancel, DeadlineTransport, FolderTransport, ListRequest, Listing, Put, Transport, TransportError,
    TransportErrorKind, WaitHint, Wake,
};

/// What a slow place takes for each thing that is asked of it.
const ANSWER_MS: u64 = 500;
/// Files that one machine has and the place has not.
const BACKLOG: usize = 60;
/// What one share takes at most, with finding out what there is to do.
const LONGEST_MS: u64 = 10_000;

/// A place that takes its time.
struct Slow(Arc<dyn Transport>, Arc<ManualClock>);

impl Slow {
    fn pass(&self) -> &dyn Transport {
        self.1.advance(ANSWER_MS);
        &*self.0
    }
}

impl Transport for Slow {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.pass().list(request)
    }

    fn get(&self, name: &str, range: Option<std::ops::Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        self.pass().get(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.pass().put_new(name, bytes)
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.0.wait(hint)
    }

    fn label(&self) -> &str {
        self.0.label()
    }
}

/// A machine and the switch that says whether others wait for its runs.
struct Busy {
    machine: Machine,
    clock: Arc<ManualClock>,
    others_wait: Arc<AtomicBool>,
}

impl Busy {
    /// As a running project is, over a slow place.
    fn new(mut machine: Machine, clock: &Arc<ManualClock>, store: &Path) -> Busy {
        let others_wait = Arc::new(AtomicBool::new(false));
        let waiting = others_wait.clone();
        let engine = &mut machine.node().engine;
        let do_wait = Arc::new(move || waiting.load(Ordering::SeqCst));
        engine.deadlines().hurry(Arc::new(|_| ()), do_wait, Cancel::new());
        let peer = engine.policy.peers[0].clone();
        let folder = store.to_owned();
        let its_clock = clock.clone();
        engine.wrap_place(&peer, |place| {
            let plain = Arc::new(FolderTransport::open(&folder, place.label()).expect("opens"));
            Arc::new(Slow(plain, its_clock))
        });
        Busy { machine, clock: clock.clone(), others_wait }
    }

    /// One run, and what it left, as whom to ask next.
    fn run(&mut self, asked: Asked, paths: &[&str]) -> (Report, Option<Asked>) {
        let paths = paths.iter().map(|path| RelPath::parse(path).expect("a path")).collect();
        let scope = Scope::Some { paths, trees: Vec::new() };
        let node = self.machine.node();
        let report = node.run(&RunOptions { asked, scope, ..RunOptions::default() }).expect("runs");
        assert!(report.peer_errors.is_empty(), "{report:?}");
        (report, node.engine.left_over(false))
    }

    fn took_ms(&mut self, asked: Asked, paths: &[&str]) -> (u64, Option<Asked>) {
        let began_ms = self.now_ms();
        let (_, left) = self.run(asked, paths);
        (self.now_ms() - began_ms, left)
    }

    fn now_ms(&self) -> u64 {
        crate::env::Clock::wall_ms(&*self.clock)
    }

    /// Goes on while something is left; how many runs that took.
    fn go_on(&mut self, mut left: Option<Asked>) -> usize {
        let mut runs = 0;
        while let Some(asked) = left {
            runs += 1;
            assert!(runs <= 10 * BACKLOG, "it comes to no end");
            left = self.run(asked, &[]).1;
            assert!(left.is_none() || self.machine.node().engine.left_over(true).is_some(), "it came no closer");
        }
        runs
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(4_000_000_000_000))
}

fn timed(host: &'static str, clock: &Arc<ManualClock>, store: &Path) -> Machine {
    let mut machine = Machine { clock: Some(clock.clone()), ..machine(host, &at(store)) };
    machine.restart();
    machine
}

/// One version after the other.
fn fill(machine: &mut Machine, clock: &Arc<ManualClock>) {
    for n in 0..BACKLOG {
        machine.write(&format!("{n}.md"), &format!("{n}\n"));
        machine.run();
        clock.advance(1_000);
    }
}

/// A machine with much that nobody else has, and this place.
fn with_backlog(clock: &Arc<ManualClock>, store: &Path) -> Machine {
    let mut machine = Machine::timed("a", &backend(), clock);
    fill(&mut machine, clock);
    set_peers(&mut machine, &at(store));
    machine
}

fn complete(names_there: &std::collections::BTreeSet<String>) -> bool {
    names_there.iter().filter(|name| name.contains("/cp-")).count() > BACKLOG
}

#[test]
fn who_sends_much_records_edits_meanwhile_and_sends_all_of_it() {
    let (store, clock) = (folder(), clock());
    let mut a = Busy::new(with_backlog(&clock, store.path()), &clock, store.path());
    a.others_wait.store(true, Ordering::SeqCst);

    let (first_ms, mut left) = a.took_ms(Asked::Due, &[]);
    let mut edits = 0;
    while let Some(asked) = left {
        edits += 1;
        assert!(edits <= 10 * BACKLOG, "it comes to no end");
        let name = format!("edit {edits}.md");
        a.machine.write(&name, "edited\n");
        // What is here is recorded first, by a run that asks nobody.
        let (report, _) = a.run(Asked::Nobody, &[&name]);
        assert_eq!(report.recorded.len(), 1, "{report:?}");
        a.others_wait.store(edits < 3, Ordering::SeqCst);
        let (ms, next) = a.took_ms(asked, &[]);
        assert!(edits == 3 || ms <= LONGEST_MS, "{ms}");
        left = next;
    }

    assert!(first_ms <= LONGEST_MS && edits == 3, "{first_ms} {edits}");
    assert!(complete(&names(store.path())));
    let mut b = machine("b", &at(store.path()));
    b.run();
    assert_eq!(b.read("59.md").as_deref(), Some("59\n"));
    assert_eq!(b.read("edit 3.md").as_deref(), Some("edited\n"));
}

#[test]
fn who_is_in_nobodys_way_sends_all_of_it_in_one_run_and_so_does_who_was_asked() {
    for (others_wait, asked) in [(false, Asked::Due), (true, Asked::Everybody)] {
        let (store, clock) = (folder(), clock());
        let mut a = Busy::new(with_backlog(&clock, store.path()), &clock, store.path());
        a.others_wait.store(others_wait, Ordering::SeqCst);
        a.machine.write("edit.md", "edited\n");

        let (_, left) = a.run(asked.clone(), &["edit.md"]);

        assert_eq!(left, None);
        assert!(complete(&names(store.path())), "{asked:?}");
    }
}

#[test]
fn who_receives_much_records_its_edit_in_that_very_run_and_receives_all_of_it() {
    let (store, clock) = (folder(), clock());
    let (mut a, mut b) = (timed("a", &clock, store.path()), timed("b", &clock, store.path()));
    a.run();
    b.run();
    fill(&mut a, &clock);
    let mut b = Busy::new(b, &clock, store.path());
    b.machine.write("edit.md", "edited\n");

    let began_ms = b.now_ms();
    let (report, left) = b.run(Asked::Due, &["edit.md"]);

    assert!(left.is_some() && report.recorded.len() == 1, "{report:?}");
    assert!(b.now_ms() - began_ms <= 2 * LONGEST_MS, "it takes, and gives");
    let lacks = |b: &Busy| (0..BACKLOG).any(|n| b.machine.read(&format!("{n}.md")).is_none());
    assert!(lacks(&b));
    b.go_on(left);
    assert!(!lacks(&b) && b.machine.glance_status().remains().is_none());
}

#[test]
fn a_first_contact_knows_all_that_others_have_although_somebody_waits() {
    let (store, clock) = (folder(), clock());
    with_backlog(&clock, store.path()).run();
    let c = timed("c", &clock, store.path());
    (0..BACKLOG).for_each(|n| c.write(&format!("{n}.md"), &format!("{n}\n")));
    c.write("only here.md", "c\n");
    let mut c = Busy::new(c, &clock, store.path());
    c.others_wait.store(true, Ordering::SeqCst);

    let node = c.machine.node();
    let first = node.run(&RunOptions { asked: Asked::Due, ..RunOptions::default() }).expect("runs");

    let recorded: Vec<&str> = first.recorded.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!((recorded, c.machine.conflicts()), (vec!["only here.md"], 0));
    let left = c.machine.node().engine.left_over(false);
    c.go_on(left);
    assert_eq!(c.machine.conflicts(), 0);
}

/// A place that takes longer for the first of what it gives whole than a place behind a deadline is waited for if others wait.
struct Thin {
    place: Arc<dyn Transport>,
    slow_gets: AtomicUsize,
}

impl Transport for Thin {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.place.list(request)
    }

    fn get(&self, name: &str, range: Option<std::ops::Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let is_slow = self.slow_gets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let began = std::time::Instant::now();
        while is_slow.is_ok() && began.elapsed() < std::time::Duration::from_millis(100) {
            std::thread::yield_now();
        }
        self.place.get(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.place.put_new(name, bytes)
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.place.wait(hint)
    }

    fn label(&self) -> &str {
        self.place.label()
    }
}

#[test]
fn a_first_contact_over_a_thin_line_knows_all_that_others_have() {
    let (store, clock) = (folder(), clock());
    with_backlog(&clock, store.path()).run();
    let c = timed("c", &clock, store.path());
    (0..BACKLOG).for_each(|n| c.write(&format!("{n}.md"), &format!("{n}\n")));
    c.write("only here.md", "c\n");
    let mut c = Busy::new(c, &clock, store.path());
    c.others_wait.store(true, Ordering::SeqCst);
    let engine = &mut c.machine.node().engine;
    let (peer, deadlines) = (engine.policy.peers[0].clone(), engine.deadlines().of_place("thin"));
    engine.wrap_place(&peer, |place| {
        let thin = Arc::new(Thin { place, slow_gets: AtomicUsize::new(2) });
        Arc::new(DeadlineTransport::open("a thin line", None, deadlines, || Ok(thin)).expect("opens"))
    });

    let options = RunOptions { asked: Asked::Due, ..RunOptions::default() };
    let first = c.machine.node().run(&options).expect("runs");

    let recorded: Vec<&str> = first.recorded.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!((recorded, c.machine.conflicts()), (vec!["only here.md"], 0));
}

#[test]
fn what_a_store_lost_is_found_also_if_the_look_at_all_of_it_was_cut_off_by_a_turn() {
    let (store, clock) = (folder(), clock());
    let (mut a, mut b) = (timed("a", &clock, store.path()), timed("b", &clock, store.path()));
    b.write("large.txt", &super::purge::secret(1, 400_000));
    b.run();
    fill(&mut a, &clock);
    let pack = names(store.path()).into_iter().find(|name| name.ends_with(".pack")).expect("a pack");
    std::fs::remove_file(store.path().join(&pack)).expect("lost");
    b.restart();
    let mut b = Busy::new(b, &clock, store.path());
    b.others_wait.store(true, Ordering::SeqCst);

    let (_, left) = b.run(Asked::Due, &["edit.md"]);
    assert!(left.is_some(), "it was cut off");
    b.go_on(left);
    b.run(Asked::Due, &[]);

    assert!(names(store.path()).contains(&pack));
}

#[test]
fn rows_are_left_for_edits_as_well_and_written_to_the_last_one() {
    const FILES: usize = 2_500;
    let (clock, adapter) = (clock(), backend());
    let mut a = Machine::timed("a", &adapter, &clock);
    a.run();
    (0..FILES).for_each(|n| a.write(&format!("{n}.md"), "x"));
    a.node().run(&RunOptions { way: Way::Pull, ..RunOptions::default() }).expect("runs");
    let time = clock.clone();
    let engine = &mut a.node().engine;
    // Whoever asks whether others wait has let time pass.
    let others_wait = Arc::new(move || {
        time.advance(2_500);
        true
    });
    engine.deadlines().hurry(Arc::new(|_| ()), others_wait, Cancel::new());
    let nobody = RunOptions {
        asked: Asked::Nobody,
        scope: Scope::Some { paths: Vec::new(), trees: Vec::new() },
        ..RunOptions::default()
    };

    let first = a.node().run(&nobody).expect("runs");
    let left = a.node().engine.left_over(false);
    let rest = a.node().run(&nobody).expect("runs");

    assert_eq!(left, Some(Asked::These { backend: false, peers: Default::default() }));
    assert_eq!((first.rows_written, rest.rows_written), (2_000, FILES as u64 - 2_000));
    assert_eq!(a.node().engine.left_over(false), None);
}

/// A place that goes on with the first large thing it is given when whoever gave it has left, and is asked nothing else until then.
struct AtWork {
    place: Arc<dyn Transport>,
    /// Whether it is at work, and whether it was.
    is: Arc<[AtomicBool; 2]>,
}

impl AtWork {
    fn pass(&self, what: &'static str) -> Result<&dyn Transport, TransportError> {
        if self.is[0].load(Ordering::SeqCst) { Err(at_work(what)) } else { Ok(&*self.place) }
    }
}

fn at_work(what: &'static str) -> TransportError {
    TransportError::new(TransportErrorKind::AtWork, what, "", "it is still at it")
}

impl Transport for AtWork {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.pass("list")?.list(request)
    }

    fn get(&self, name: &str, range: Option<std::ops::Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        self.pass("get")?.get(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let put = self.pass("put")?.put_new(name, bytes)?;
        if name.ends_with(".pack") && !self.is[1].swap(true, Ordering::SeqCst) {
            self.is[0].store(true, Ordering::SeqCst);
            return Err(at_work("put"));
        }
        Ok(put)
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.place.wait(hint)
    }

    fn label(&self) -> &str {
        self.place.label()
    }
}

#[test]
fn a_place_that_is_at_work_is_no_failure_and_is_gone_on_with_when_it_rings() {
    let (store, clock) = (folder(), clock());
    let mut a = Busy::new(timed("a", &clock, store.path()), &clock, store.path());
    a.run(Asked::Due, &[]);
    let peer = a.machine.node().engine.policy.peers[0].clone();
    let is = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let its = is.clone();
    a.machine.node().engine.wrap_place(&peer, |place| Arc::new(AtWork { place, is: its }));
    a.machine.write("large.txt", &super::purge::secret(1, 400_000));

    let (large, left) = a.run(Asked::Due, &["large.txt"]);
    let held = names(store.path());
    a.machine.write("small.md", "small\n");
    let (small, left_too) = a.run(Asked::Due, &["small.md"]);

    assert_eq!((large.recorded.len(), small.recorded.len()), (1, 1));
    assert_eq!((left, left_too), (None, None), "it rings when it can be gone on with");
    assert_eq!(names(store.path()), held);
    assert!(a.machine.glance_status().remains().is_none());
    assert!(a.machine.node().engine.away().next().is_none());
    is[0].store(false, Ordering::SeqCst);
    let rung = Asked::These { backend: false, peers: [peer.name].into() };
    a.run(rung, &[]);

    assert!(!a.machine.node().engine.has_to_give());
    let mut b = machine("b", &at(store.path()));
    b.run();
    assert_eq!(b.read("large.txt"), a.machine.read("large.txt"));
    assert_eq!(b.read("small.md").as_deref(), Some("small\n"));
}

#[test]
fn who_changes_something_by_hand_does_not_wait_for_all_that_others_lack_and_is_told_of_it() {
    let (store, clock) = (folder(), clock());
    let mut a = Busy::new(with_backlog(&clock, store.path()), &clock, store.path());
    a.others_wait.store(true, Ordering::SeqCst);

    let path = RelPath::parse("0.md").expect("a path");
    let report = a.machine.node().star(&path, None, true, false).expect("stars");

    assert!(report.stars.iter().all(|star| star.changed), "{report:?}");
    assert_eq!(report.goes_on, ["the peer there"]);
    assert!(report.peer_errors.is_empty() && !complete(&names(store.path())));
    a.others_wait.store(false, Ordering::SeqCst);
    let left = a.machine.node().engine.left_over(false);
    a.go_on(left);
    assert!(complete(&names(store.path())));
}
