//! What is due, and running it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_adapters::{FileSyncAdapter, Subscription};

use super::Carry;
use super::absent::Absences;
use super::notes::{Note, Notes};
use super::up::{LONGEST_SLEEP, config_path, mount_view, subscribe};
use super::wait::Waiters;
use crate::chunk::is_line_file;
use crate::model::RelPath;
use crate::mount::Followed;
use crate::node::{ChangeRequest, Errand, Errands, Node, NodeError, RunOptions};
use crate::scan::{self, EntryKind};
use crate::search::{FillGate, Filler};
use crate::sync::{Asked, Progress, Report, Scope};
use crate::transport::{BACKEND_BELL, Cancel};
use crate::watch::{Debounce, Hint, Observed, Patience, RescanReason, Settled, Watcher, Writer};

/// After a failed run the next one waits at least this long.
const RETRY: Duration = Duration::from_secs(5);
/// A whole rescan at least this often, in case a hint was never given.
const WHOLE_LOOK: Duration = Duration::from_secs(3600);

/// A run is large if it made or wrote more than this ..
const LARGE_ITEMS: u64 = 200;
/// .. or moved more bytes ..
const LARGE_BYTES: u64 = 4 << 20;
/// .. and one that took this long read much, whatever came of it: the rows that it wrote itself, as a rule.
const LONG: Duration = Duration::from_millis(100);
/// Sentences of the view that `status` repeats.
const MAX_NOT_SHOWN: usize = 10;

/// Why the last run failed, and what to do.
pub(super) struct Failure {
    pub code: u8,
    pub message: String,
    pub hint: Option<String>,
}

/// The loop's state.
pub(super) struct Cycle {
    node: Node,
    progress: Arc<dyn Progress>,
    watcher: Watcher,
    mounted: Option<Followed>,
    /// How the kernel gets what the view shows.
    carry: Carry,
    subscriptions: Vec<Subscription>,
    /// Whom they are of: a backend that was away is opened later, and one that was made anew is opened again.
    listened_to: Option<Arc<dyn FileSyncAdapter>>,
    debounce: Debounce,
    /// Edits that the run under way does not look at wait until they rest.
    unsettled: Arc<AtomicBool>,
    trees: BTreeSet<RelPath>,
    whole: bool,
    backend: bool,
    /// Those that rang.
    peers: BTreeSet<String>,
    /// What the last runs left because others waited, as whom to ask.
    left: Option<Asked>,
    waiters: Option<Waiters>,
    absences: Absences,
    /// Thrown at the end, when nobody waits for a place any more.
    over: Cancel,
    inbox: bool,
    started: Instant,
    last_exchange: Instant,
    last_whole: Instant,
    not_before: Option<Instant>,
    last_error: Option<Failure>,
    /// Why the last run recorded and wrote nothing.
    stopped: Option<String>,
    notes: Option<Notes>,
    served_at: Option<String>,
    /// Opened between runs, for the thread that keeps the words of `search` up to date.
    gate: Arc<FillGate>,
    filler: Option<Filler>,
    /// What the view could not show lately, and why.
    not_shown: Vec<String>,
}

impl Cycle {
    pub fn new(node: Node, watcher: Watcher, mounted: Option<Followed>, progress: Arc<dyn Progress>) -> Cycle {
        let now = Instant::now();
        let gate = Arc::new(FillGate::default());
        // Without it, whoever searches takes in what is new.
        let filler = Filler::start(node.dirs.larder.clone(), Arc::clone(&gate)).ok();
        Cycle {
            gate,
            filler,
            not_shown: Vec::new(),
            node,
            progress,
            watcher,
            mounted,
            carry: Carry::default(),
            subscriptions: Vec::new(),
            listened_to: None,
            debounce: Debounce::new(Patience::default()),
            unsettled: Arc::default(),
            trees: BTreeSet::new(),
            whole: true,
            backend: true,
            peers: BTreeSet::new(),
            left: None,
            waiters: None,
            absences: Absences::default(),
            over: Cancel::new(),
            inbox: false,
            started: now,
            last_exchange: now,
            last_whole: now,
            not_before: None,
            last_error: None,
            stopped: None,
            notes: None,
            served_at: None,
        }
    }

    /// Says how the kernel gets what the view shows when it is mounted anew.
    pub fn set_carry(&mut self, carry: Carry) {
        self.carry = carry;
    }

    /// Says what is thrown when the project is to end.
    pub fn set_over(&mut self, over: Cancel) {
        self.over = over;
    }

    /// Hears from here on of what changes elsewhere; and that edits wait is known to whoever waits for a place.
    pub fn subscribe(&mut self, notes: &Notes) {
        self.notes = Some(notes.clone());
        let answered = notes.clone();
        let bell = Arc::new(move |name: &str| {
            answered.send(if name == BACKEND_BELL { Note::Backend } else { Note::Peer(name.to_owned()) });
        });
        let (waiting, unsettled) = (notes.clone(), self.unsettled.clone());
        let others_wait = Arc::new(move || waiting.wait() || unsettled.load(Ordering::Acquire));
        self.node.engine.deadlines().hurry(bell, others_wait, self.over.clone());
        self.listen();
        self.waiters = Some(Waiters::new(notes));
    }

    /// The first run.
    pub fn run_all(&mut self, say: &dyn Fn(&str)) -> Result<(), NodeError> {
        self.run_due(Some(Asked::Due), say).map(drop)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long nothing will be due.
    pub fn time_to_next(&self) -> Duration {
        let now = Instant::now();
        let held = self.not_before.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
        let mut next = LONGEST_SLEEP;
        let is_rung = self.whole || self.backend || self.inbox || !self.peers.is_empty() || !self.trees.is_empty();
        if is_rung || self.left.is_some() {
            next = Duration::ZERO;
        }
        if let Some(due_ms) = self.debounce.next_deadline() {
            next = next.min(Duration::from_millis(due_ms.saturating_sub(self.now_ms())));
        }
        if let Some(interval) = self.interval() {
            next = next.min((self.last_exchange + interval).saturating_duration_since(now));
        }
        if let Some(due) = self.node.engine.next_retry_ms() {
            next = next.min(Duration::from_millis(due));
        }
        next.max(held)
    }

    fn interval(&self) -> Option<Duration> {
        let seconds = u64::from(self.node.settings.interval_secs.value);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// The backend may have news.
    pub fn backend_changed(&mut self) {
        self.backend = true;
    }

    /// A peer may have news.
    pub fn peer_changed(&mut self, name: String) {
        self.peers.insert(name);
    }

    /// Where paired devices are served, for `status`.
    pub fn set_served_at(&mut self, url: Option<String>) {
        self.served_at = url;
    }

    /// A paired device left something in the inbox.
    pub fn inbox_filled(&mut self) {
        self.inbox = true;
    }

    /// Takes the watcher's hints over.
    pub fn take_hints(&mut self, say: &dyn Fn(&str)) -> Result<(), NodeError> {
        let config = config_path(&self.node);
        let now_ms = self.now_ms();
        for hint in self.watcher.take() {
            match hint {
                Hint::RootGone => return Err(root_gone(&self.node)),
                Hint::Rescan { reason } => {
                    // That rules changed is somebody's word, and nothing went wrong.
                    if reason != RescanReason::RulesChanged {
                        self.node.engine.note_rescan(&reason.to_string())?;
                    }
                    self.whole = true;
                }
                Hint::DirtyTree(tree) => drop(self.trees.insert(tree)),
                Hint::Dirty(path) if Some(&path) == config.as_ref() => self.reload(say),
                Hint::Dirty(path) => {
                    let seen = look(&self.node, &path);
                    if !self.debounce.touched(&path, is_line_file(&path), now_ms, seen) {
                        self.whole = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn reload(&mut self, say: &dyn Fn(&str)) {
        match self.node.reload() {
            // As it was before it was edited.
            Ok(keys) if keys.is_empty() => self.node.engine.note_config_error(None),
            Ok(keys) => {
                say(&format!("the config changed: {}", keys.join(", ")));
                self.watcher.set_rules(self.node.settings.rules.clone());
                self.listen();
                self.whole = true;
                self.node.engine.note_config_error(None);
            }
            Err(error) => {
                say(&format!("the edited config is not used: {}", on_one_line(&error)));
                self.node.engine.note_config_error(Some(&on_one_line(&error)));
            }
        }
    }

    fn listen(&mut self) {
        let Some(notes) = &self.notes else { return };
        self.subscriptions = subscribe(&self.node, notes);
        self.listened_to = self.node.engine.adapter();
    }

    fn listen_if_opened_anew(&mut self) {
        let now = self.node.engine.adapter();
        let is_same = match (&now, &self.listened_to) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (now, before) => now.is_none() && before.is_none(),
        };
        if !is_same {
            self.listen();
        }
    }

    /// Runs what is due, and what `ask` says in any case. `None` if nothing was.
    pub fn run_due(&mut self, ask: Option<Asked>, say: &dyn Fn(&str)) -> Result<Option<Report>, NodeError> {
        let now = Instant::now();
        let is_asked = ask.is_some();
        if !is_asked && self.not_before.is_some_and(|at| now < at) {
            return Ok(None);
        }
        let node = &self.node;
        let settled = self.debounce.ready(self.now_ms(), |path| look(node, path));
        let mut paths = Vec::new();
        let mut growing = Vec::new();
        for one in settled {
            match one {
                Settled::Stable { path, .. } => paths.push(path),
                Settled::Growing { path, .. } => growing.push(path),
            }
        }
        if is_asked {
            // Who asks wants what was just written; the engine itself waits until it is stable.
            paths.extend(self.debounce.pending().map(|(path, _)| path.clone()));
        }
        let whole = self.whole || now >= self.last_whole + WHOLE_LOOK;
        let local = whole || !paths.is_empty() || !growing.is_empty() || !self.trees.is_empty();
        let timer = self.interval().is_some_and(|interval| now >= self.last_exchange + interval);
        // What waits here is recorded before what was left is gone on with.
        let left = self.left.take().filter(|_| !local);
        let goes_on = left.is_some();
        let rung = (self.backend || !self.peers.is_empty())
            .then(|| Asked::These { backend: self.backend, peers: self.peers.clone() });
        let asked = ask.or(timer.then_some(Asked::Due)).or(rung).or(left).unwrap_or(Asked::Nobody);
        let retry = self.node.engine.next_retry_ms() == Some(0);
        if !local && asked == Asked::Nobody && !retry && !self.inbox {
            return Ok(None);
        }
        let trees: Vec<RelPath> = std::mem::take(&mut self.trees).into_iter().collect();
        paths.extend(growing.iter().cloned());
        let scope = if whole { Scope::All } else { Scope::Some { paths, trees } };
        self.node.engine.set_growing(growing);
        let inbox = std::mem::take(&mut self.inbox);
        (self.whole, self.backend) = (false, false);
        self.peers.clear();
        if asked.is_everybody() {
            self.last_exchange = now;
        }
        if whole {
            self.last_whole = now;
        }
        let options = RunOptions { scope: scope.clone(), asked, inbox, ..RunOptions::default() };
        self.unsettled.store(self.debounce.pending().next().is_some(), Ordering::Release);
        self.gate.busy();
        let ran = self.node.run(&options);
        self.gate.rest();
        self.wait_for_peers();
        self.listen_if_opened_anew();
        self.left = self.node.engine.left_over(goes_on);
        match ran {
            Ok(report) => {
                self.after(&report, say);
                if timer && !is_asked && report.is_empty() {
                    self.collect(say);
                }
                if whole || is_large(&report) || now.elapsed() >= LONG {
                    // A look at everything held lists of everything; a daemon at rest needs none of them.
                    self.node.engine.give_memory_back();
                }
                Ok(Some(report))
            }
            Err(error) => {
                self.inbox |= inbox;
                // What was hinted must be looked at again.
                match scope {
                    Scope::All => self.whole = true,
                    Scope::Some { paths, trees } => {
                        self.trees.extend(trees);
                        self.trees.extend(paths);
                    }
                }
                self.not_before = Some(Instant::now() + RETRY);
                Err(error)
            }
        }
    }

    /// Nothing else is to be done: once a day garbage is looked for. What fails is tried a day later.
    fn collect(&mut self, say: &dyn Fn(&str)) {
        match self.node.collect_if_due() {
            Ok(Some(did)) => say(&did),
            Ok(None) => {}
            Err(error) => say(&format!("garbage could not be collected: {error}")),
        }
    }

    /// With an interval of 0 nothing is exchanged unasked.
    fn wait_for_peers(&mut self) {
        let places = if self.interval().is_some() { self.node.engine.open_places() } else { Vec::new() };
        if let Some(waiters) = &mut self.waiters {
            waiters.follow(places);
        }
    }

    /// What a person asked for, done at once.
    pub fn change(&mut self, change: &ChangeRequest, say: &dyn Fn(&str)) -> Result<Report, NodeError> {
        if change.peer().is_some() {
            // It may have been named only now, and the hint that the config changed is still on its way.
            self.reload(say);
        }
        // Whoever asked waits.
        self.unsettled.store(true, Ordering::Release);
        self.gate.busy();
        let report = self.node.change(change);
        self.gate.rest();
        self.left = self.node.engine.left_over(false);
        let report = report?;
        if !change.is_dry_run() {
            self.refresh_view();
        }
        Ok(report)
    }

    /// Lends the project to an errand, and goes on with what it is then: everybody is asked, and everything looked at.
    ///
    /// Errors: outside, the project could not be opened again, or is gone, so that nothing can go on; inside, the errand's.
    pub fn lend(&mut self, errand: &Errand, say: &dyn Fn(&str)) -> Result<Result<Errands, NodeError>, NodeError> {
        let done = errand.run(&self.node.env, &self.node.lending(), self.progress.clone());
        if errand.is_dry_run() {
            return Ok(done);
        }
        // Also if it failed: how far it came only its error tells.
        self.subscriptions.clear();
        self.listened_to = None;
        self.waiters = None;
        self.node = self.node.opened_anew(self.progress.clone())?;
        self.watcher.set_rules(self.node.settings.rules.clone());
        if let Some(notes) = self.notes.clone() {
            self.subscribe(&notes);
        }
        (self.whole, self.backend, self.not_before) = (true, true, None);
        self.renew_view(say);
        if let Err(error) = self.run_due(Some(Asked::Due), say) {
            self.failed(&error, say)?;
        }
        Ok(done)
    }

    fn after(&mut self, report: &Report, say: &dyn Fn(&str)) {
        (self.not_before, self.last_error) = (None, None);
        self.note_stop(report, say);
        let now_ms = self.now_ms();
        self.absences.note(self.node.engine.away(), &report.peer_errors, now_ms).iter().for_each(|line| say(line));
        for (path, change) in report.recorded.iter().chain(&report.recorded_rows).take(20) {
            say(&format!("recorded {path} ({})", change.word()));
        }
        for (path, change) in report.written.iter().take(20) {
            say(&format!("wrote {path} ({})", change.word()));
        }
        let more = (report.recorded.len() + report.recorded_rows.len()).saturating_sub(20)
            + report.written.len().saturating_sub(20);
        if more > 0 {
            say(&format!("and {more} more"));
        }
        self.refresh_view();
    }

    /// A run that recorded nothing is said once; what changed meanwhile is looked for when one does again.
    fn note_stop(&mut self, report: &Report, say: &dyn Fn(&str)) {
        if report.stopped == self.stopped {
            return;
        }
        match &report.stopped {
            Some(why) => say(&format!("nothing is recorded or written here: {why}")),
            None => self.whole = true,
        }
        self.stopped.clone_from(&report.stopped);
    }

    /// The view could not show something: said, and kept for `status`.
    pub fn not_shown(&mut self, sentence: String, say: &dyn Fn(&str)) {
        say(&format!("the view could not {sentence}"));
        if self.not_shown.len() >= MAX_NOT_SHOWN {
            self.not_shown.remove(0);
        }
        self.not_shown.push(sentence);
    }

    /// Mounts the view anew if the index was made anew: its numbers mean something else now.
    fn renew_view(&mut self, say: &dyn Fn(&str)) {
        let Some(notes) = &self.notes else { return };
        let Some(old) = self.mounted.take_if(|mounted| mounted.is_outdated()) else { return };
        let dir = old.mounted().dir().to_owned();
        // Whoever uses it keeps what is open; a mount that cannot be taken down is said by who mounts over it.
        let _ = old.unmount();
        match mount_view(&self.node, &dir, self.carry, notes) {
            Ok(mounted) => self.mounted = Some(mounted),
            Err(why) => say(&format!("the view is gone: {why}; `larder mount {}` shows it again", dir.display())),
        }
    }

    /// Waits until the kernel was told which names of the mounted view changed; most of it was told meanwhile.
    fn refresh_view(&self) {
        if let Some(mounted) = &self.mounted {
            mounted.catch_up();
        }
    }

    /// What remains for a person, as exit code and sentence.
    pub fn remains(&self, report: Option<&Report>) -> Option<(u8, String)> {
        let nothing = Report::default();
        let remains = self.node.remains(report.unwrap_or(&nothing)).ok()??;
        Some((remains.kind.exit_code(), remains.message))
    }

    /// Lines for `status` that only the daemon knows.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.watcher.mode().report();
        lines.extend(self.served_at.iter().map(|url| format!("serving at {url}")));
        lines.extend(self.node.engine.adapter().iter().flat_map(|adapter| adapter.status()));
        let written = self.debounce.pending().take(10);
        lines.extend(written.map(|(path, _)| format!("{}: waits until it is written", path.shown())));
        let mute = self.waiters.iter().flat_map(Waiters::mute);
        let seconds = self.node.settings.interval_secs.value;
        lines.extend(mute.map(|name| format!("the peer {name} cannot tell of news: it is asked every {seconds} s")));
        let left_over = self.node.engine.left_over_with();
        lines.extend(left_over.iter().map(|who| format!("the exchange with {who} goes on between edits")));
        lines.extend(self.next_tries());
        lines.extend(self.not_shown.iter().map(|sentence| format!("the view could not {sentence}")));
        lines.extend(self.stopped.iter().map(|why| format!("nothing is recorded or written here: {why}")));
        lines.extend(self.last_error.iter().map(|failure| format!("the last run failed: {}", failure.message)));
        lines
    }

    /// When those are tried again who are away.
    fn next_tries(&self) -> Vec<String> {
        let interval_ms = self.interval().map(|interval| interval.as_millis() as u64);
        let since_ms = self.last_exchange.elapsed().as_millis() as u64;
        let away = self.node.engine.away_for_ms();
        let mut lines: Vec<String> = away
            .map(|(name, rest_ms)| {
                let when = told_next_try(interval_ms.map(|interval_ms| next_try_ms(rest_ms, since_ms, interval_ms)));
                format!("the peer {name} is away: it is tried again {when}")
            })
            .collect();
        let rests = self.node.engine.backend_rests().and_then(|_| self.node.engine.next_retry_ms());
        lines
            .extend(rests.map(|ms| {
                format!("the backend asks for a slower pace: it is tried again {}", told_next_try(Some(ms)))
            }));
        lines
    }

    /// Why the last run failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.last_error.as_ref()
    }

    /// A run failed: said once, tried again later. Errors: the project folder is gone, or its state; then nothing is tried again.
    pub fn failed(&mut self, error: &NodeError, say: &dyn Fn(&str)) -> Result<(), NodeError> {
        // The watcher tells of it too, but not of every way in which a folder can go.
        if self.node.engine.root().check_present().is_err() {
            return Err(root_gone(&self.node));
        }
        self.node.check_in_place()?;
        if self.last_error.as_ref().is_none_or(|failure| failure.message != error.message) {
            say(&format!("a run failed and is tried again: {error}"));
        }
        let (code, message, hint) = (error.kind.exit_code(), error.message.clone(), error.hint.clone());
        self.last_error = Some(Failure { code, message, hint });
        Ok(())
    }

    /// Ends in good order: threads joined, view unmounted.
    pub fn finish(mut self) {
        if self.node.check_in_place().is_err() {
            return self.leave();
        }
        self.subscriptions.clear();
        self.waiters = None;
        self.filler = None;
        if let Some(mounted) = self.mounted.take() {
            // A mount that is busy stays; `larder umount` and the next start clear it.
            let _ = mounted.unmount();
        }
        drop(self.watcher);
    }

    /// Ends without closing what is open: SQLite would remove the logs of databases that another process made in their place.
    fn leave(mut self) {
        if let Some(mounted) = self.mounted.take() {
            let _ = mounted.unmount();
        }
        // The end of the process closes the files and touches no name.
        std::mem::forget(self);
    }
}

/// In how many milliseconds a place is tried that is left alone for `rest_ms`: at the first exchange that is due after that.
fn next_try_ms(rest_ms: u64, since_exchange_ms: u64, interval_ms: u64) -> u64 {
    let next_ms = interval_ms.saturating_sub(since_exchange_ms);
    let late_ms = rest_ms.saturating_sub(next_ms);
    next_ms.saturating_add(late_ms.div_ceil(interval_ms.max(1)).saturating_mul(interval_ms))
}

/// `None` if nothing is exchanged unasked.
fn told_next_try(next_ms: Option<u64>) -> String {
    match next_ms.map(|ms| ms.div_ceil(1000)) {
        None => "by `larder sync`, as nothing is exchanged unasked (interval 0)".to_owned(),
        Some(0) => "now".to_owned(),
        Some(seconds) if seconds < 120 => format!("in {seconds} s"),
        Some(seconds) => format!("in {} min", seconds.div_ceil(60)),
    }
}

/// True for a run that moved so much that its caches are worth little to the next one.
fn is_large(report: &Report) -> bool {
    let items = report.recorded.len() + report.recorded_rows.len() + report.written.len();
    items as u64 + report.rows_written + report.pulled > LARGE_ITEMS
        || report.ledger_bytes + report.row_bytes > LARGE_BYTES
}

fn root_gone(node: &Node) -> NodeError {
    let root = node.settings.root_dir.display();
    NodeError::user(
        format!("the project folder {root} was moved, removed or unmounted; nothing was taken as deleted"),
        "run `larder up` where it is now",
    )
}

/// What is wrong with a config and what to do, on one line of `status`.
fn on_one_line(error: &NodeError) -> String {
    let said = error.message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    error.hint.as_ref().map_or(said.clone(), |hint| format!("{said}; {hint}"))
}

/// One look at a path, for the debounce.
fn look(node: &Node, path: &RelPath) -> Observed {
    let root = node.engine.root();
    match scan::stat(&root, path) {
        Ok(Some((kind, stat))) => {
            let file = matches!(kind, EntryKind::File { .. }) && !is_line_file(path);
            let held = file && scan::open_for_writing_elsewhere(&root, path).unwrap_or(false);
            Observed::Present { stat, writer: if held { Writer::HoldsOpen } else { Writer::None } }
        }
        Ok(None) => Observed::Absent,
        Err(_) => Observed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_away_is_tried_at_the_first_exchange_after_its_pause() {
        let cases = [(0, 0, 30, 30), (0, 20, 30, 10), (10, 20, 30, 10), (11, 20, 30, 40), (600, 20, 30, 610)];
        for (rest_s, since_s, interval_s, next_s) in cases {
            assert_eq!(next_try_ms(rest_s * 1000, since_s * 1000, interval_s * 1000), next_s * 1000, "{rest_s}");
        }
        // A run that takes longer than the interval.
        assert_eq!(next_try_ms(0, 90_000, 30_000), 0);
        assert_eq!(told_next_try(Some(89_001)), "in 90 s");
        assert_eq!(told_next_try(Some(600_000)), "in 10 min");
        assert!(told_next_try(None).contains("larder sync"));
    }
}
