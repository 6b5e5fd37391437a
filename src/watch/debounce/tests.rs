//! Saves as tables: what happens to a file at which millisecond, and what is released when.

use super::*;

/// One thing that happens to the only file of a story.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Its content is now this state of this inode, with an event.
    Write { inode: u64, state: i64 },
    /// It is gone, with an event.
    Remove,
    /// It changes, and the event was lost.
    WriteUnheard { inode: u64, state: i64 },
    /// A writer opened it; opening makes no event.
    Open,
    /// The writer closed it, with an event.
    Close,
}
use Step::{Close, Open, Remove, Write, WriteUnheard};

const QUIET: u64 = 50;

fn stat(inode: u64, state: i64) -> Stat {
    Stat {
        size: u64::try_from(state).expect("states count from 0"),
        mtime_ns: state,
        ctime_ns: state,
        inode,
        device: 1,
        mode: 0o100_644,
    }
}

fn path() -> RelPath {
    RelPath::parse("data/x").expect("a path")
}

/// A file as the steps leave it.
#[derive(Default)]
struct File {
    stat: Option<Stat>,
    open: bool,
}

impl File {
    fn apply(&mut self, step: Step) {
        match step {
            Write { inode, state } | WriteUnheard { inode, state } => self.stat = Some(stat(inode, state)),
            Remove => self.stat = None,
            Open => self.open = true,
            Close => self.open = false,
        }
    }

    fn look(&self) -> Observed {
        let writer = if self.open { Writer::HoldsOpen } else { Writer::None };
        self.stat.map_or(Observed::Absent, |stat| Observed::Present { stat, writer })
    }
}

/// Plays a story millisecond by millisecond, waking only at deadlines; returns what was released when, as `state` or `gone`.
fn play(is_line_file: bool, until_ms: u64, steps: &[(u64, Step)]) -> Vec<(u64, String)> {
    let mut debounce = Debounce::new(Patience::default());
    let mut file = File { stat: Some(stat(1, 0)), open: false };
    let mut released = Vec::new();
    for now_ms in 0..=until_ms {
        for (_, step) in steps.iter().filter(|(at_ms, _)| *at_ms == now_ms) {
            file.apply(*step);
            if !matches!(step, WriteUnheard { .. } | Open) {
                assert!(debounce.touched(&path(), is_line_file, now_ms, file.look()));
            }
        }
        if debounce.next_deadline().is_some_and(|due_ms| due_ms <= now_ms) {
            let settled = debounce.ready(now_ms, |_| file.look());
            released.extend(settled.into_iter().map(|settled| (now_ms, told(&settled))));
        }
    }
    released
}

fn told(settled: &Settled) -> String {
    match settled {
        Settled::Stable { seen: Observed::Present { stat, .. }, .. } => stat.mtime_ns.to_string(),
        Settled::Stable { seen, .. } => if *seen == Observed::Absent { "gone" } else { "unknown" }.to_owned(),
        Settled::Growing { stat, .. } => format!("{}..", stat.mtime_ns),
    }
}

fn write(inode: u64, state: i64) -> Step {
    Write { inode, state }
}

#[test]
fn each_way_of_saving_gives_one_version() {
    let ten_partial_writes: Vec<(u64, Step)> = (0..10).map(|n| (10 + 20 * n, write(1, n as i64 + 1))).collect();
    for (name, steps, expected) in [
        ("one write", vec![(10, write(1, 5))], vec![(60, "5")]),
        ("ten partial writes 20 ms apart", ten_partial_writes, vec![(240, "10")]),
        ("truncate and write", vec![(10, write(1, 0)), (15, write(1, 5)), (16, Close)], vec![(66, "5")]),
        ("rename over", vec![(10, write(2, 5))], vec![(60, "5")]),
        (
            "keep a backup: rename away, write new",
            vec![(10, Remove), (12, write(2, 1)), (30, write(2, 5))],
            vec![(80, "5")],
        ),
        ("delete and create within the quiet time", vec![(10, Remove), (59, write(2, 5))], vec![(109, "5")]),
        ("save twice", vec![(10, write(1, 5)), (40, write(1, 6))], vec![(90, "6")]),
        ("save, rest, save", vec![(10, write(1, 5)), (100, write(1, 6))], vec![(60, "5"), (150, "6")]),
        ("rights only", vec![(10, Close)], vec![(60, "0")]),
    ] {
        let expected: Vec<(u64, String)> = expected.into_iter().map(|(at, told)| (at, told.to_owned())).collect();
        assert_eq!(play(false, 1_000, &steps), expected, "{name}");
    }
}

#[test]
fn a_deletion_is_told_once_the_absence_rests() {
    for (name, steps, expected) in [
        ("deleted", vec![(10, Remove)], vec![(60, "gone")]),
        ("made and deleted", vec![(10, write(1, 5)), (20, Remove)], vec![(70, "gone")]),
        ("deleted, made, deleted", vec![(10, Remove), (20, write(2, 1)), (30, Remove)], vec![(80, "gone")]),
        ("deleted, rests, made", vec![(10, Remove), (100, write(2, 5))], vec![(60, "gone"), (150, "5")]),
    ] {
        let expected: Vec<(u64, String)> = expected.into_iter().map(|(at, told)| (at, told.to_owned())).collect();
        assert_eq!(play(false, 1_000, &steps), expected, "{name}");
    }
}

#[test]
fn a_change_whose_event_was_lost_is_seen_at_the_look() {
    let unheard = |state| WriteUnheard { inode: 1, state };
    let released = play(false, 1_000, &[(10, write(1, 1)), (55, unheard(2)), (100, unheard(3))]);

    // 60: another state than at 10; 110: another than at 60; 160: the same as at 110.
    assert_eq!(released, [(160, "3".to_owned())]);
}

#[test]
fn a_file_that_never_rests_is_never_released_as_whole() {
    let steps: Vec<(u64, Step)> = (0..500).map(|n| (10 + 20 * n, write(1, n as i64 + 1))).collect();

    let released = play(false, 20_000, &steps);

    assert_eq!(released, [(10 + 20 * 499 + QUIET, "500".to_owned())]);
}

#[test]
fn a_line_file_that_never_rests_is_released_each_longest_wait() {
    let steps: Vec<(u64, Step)> = (0..500).map(|n| (10 + 10 * n, write(1, n as i64 + 1))).collect();

    let released = play(true, 20_000, &steps);

    let expected = [(2_010, "201.."), (4_010, "401.."), (5_050, "500")];
    assert_eq!(released, expected.map(|(at, told)| (at, told.to_owned())));
}

#[test]
fn a_line_file_whose_logger_keeps_it_open_is_released_up_to_its_last_line() {
    let released = play(true, 1_000, &[(5, Open), (10, write(1, 5)), (500, write(1, 6)), (700, Close)]);

    let expected = [(60, "5.."), (550, "6.."), (750, "6")];
    assert_eq!(released, expected.map(|(at, told)| (at, told.to_owned())));
}

#[test]
fn a_writer_that_holds_a_file_open_is_waited_for_within_bounds() {
    let closed = play(false, 60_000, &[(5, Open), (10, write(1, 5)), (1_000, Close)]);
    assert_eq!(closed, [(1_050, "5".to_owned())]);

    let never_closed = play(false, 60_000, &[(5, Open), (10, write(1, 5))]);
    assert_eq!(never_closed.len(), 1);
    let (at_ms, told) = &never_closed[0];
    assert_eq!(told, "5");
    let longest = 10 + Patience::default().longest_writer_wait_ms;
    assert!(longest <= *at_ms && *at_ms <= longest + 1_000, "{at_ms}");
}

#[test]
fn a_file_that_cannot_be_looked_at_is_handed_on_once_that_rests() {
    let mut debounce = Debounce::new(Patience::default());
    assert!(debounce.touched(&path(), false, 0, Observed::Unknown));

    let settled = debounce.ready(QUIET, |_| Observed::Unknown);

    let expected = Settled::Stable { path: path(), seen: Observed::Unknown };
    assert_eq!(settled, [expected]);
}

#[test]
fn without_a_waiting_path_there_is_no_deadline() {
    let mut debounce = Debounce::new(Patience::default());
    assert_eq!(debounce.next_deadline(), None);
    assert_eq!(debounce.ready(1_000, |_| unreachable!("nothing to look at")), []);

    assert!(debounce.touched(&path(), false, 1_000, Observed::Absent));
    assert!(debounce.is_waiting(&path()));
    assert_eq!(debounce.pending().collect::<Vec<_>>(), [(&path(), 1_000)]);
    assert_eq!(debounce.next_deadline(), Some(1_050));
    assert_eq!(debounce.ready(1_049, |_| unreachable!("not due")), []);

    assert_eq!(debounce.ready(1_050, |_| Observed::Absent).len(), 1);
    assert_eq!(debounce.next_deadline(), None);
    assert!(!debounce.is_waiting(&path()));

    assert!(debounce.touched(&path(), false, 2_000, Observed::Absent));
    debounce.clear();
    assert_eq!((debounce.next_deadline(), debounce.pending().count()), (None, 0));
}

#[test]
fn a_clock_that_steps_back_releases_nothing_early_and_loses_nothing() {
    let mut debounce = Debounce::new(Patience::default());
    assert!(debounce.touched(&path(), true, 1_000, Observed::Absent));

    assert_eq!(debounce.ready(10, |_| unreachable!("not due")), []);
    assert!(debounce.touched(&path(), true, 500, Observed::Absent));
    assert_eq!(debounce.ready(550, |_| Observed::Absent).len(), 1);
    assert_eq!(debounce.next_deadline(), None);
}

#[test]
fn waiting_is_bounded_and_says_so() {
    let mut debounce = Debounce::new(Patience::default());
    for n in 0..MAX_WAITING {
        let path = RelPath::parse(&n.to_string()).expect("a path");
        assert!(debounce.touched(&path, false, 0, Observed::Absent));
    }

    assert!(!debounce.touched(&path(), false, 0, Observed::Absent));
    let known = RelPath::parse("7").expect("a path");
    assert!(debounce.touched(&known, false, 1, Observed::Absent), "who waits already has a place");
    assert_eq!(debounce.ready(QUIET, |_| Observed::Absent).len(), MAX_WAITING - 1);
    assert_eq!(debounce.next_deadline(), Some(QUIET + 1));
}

#[test]
fn patience_of_nothing_still_ends() {
    let patience = Patience { quiet_ms: 0, longest_line_wait_ms: 0, longest_writer_wait_ms: 0 };
    let mut debounce = Debounce::new(patience);
    let seen = Observed::Present { stat: stat(1, 1), writer: Writer::HoldsOpen };
    assert!(debounce.touched(&path(), true, 0, seen));
    let mut state = 1;

    let settled = debounce.ready(1, |_| {
        state += 1;
        Observed::Present { stat: stat(1, state), writer: Writer::HoldsOpen }
    });

    assert_eq!(settled.len(), 1);
}
