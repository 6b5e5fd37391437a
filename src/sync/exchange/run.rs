//! One exchange under way: the phases, the requests and what they may cost.
//!
//! Invariant: every request is counted and within the budget; a request that fails is a problem of one item, until
//! three in a row say that the place itself is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::journal::{Journal, Watermark};
use super::local::{CheckpointFacts, Incoming, LocalError, LocalStore};
use super::report::{Cause, Finding, Problem, Report};
use super::{ExchangeConfig, JournalError, Phase, Progress, Turn};
use crate::index::{ClosedEnd, Floor};
use crate::ledger::{ArtifactName, max_artifact_bytes, proves_wrong};
use crate::model::{Chain, OriginName};
use crate::transport::{Body, ListRequest, Listing, Put, Transport, TransportError, TransportErrorKind};

/// After this many failures in a row the place counts as gone.
const MAX_FAILURES_IN_A_ROW: u32 = 3;
/// After this many bad artifacts a chain is left for this time.
pub(super) const MAX_BAD_PER_CHAIN: u64 = 256;
/// Facts of checkpoints that are kept at once.
pub(super) const MAX_KNOWN: usize = 4_096;
/// A report names at most this many problems; more of them say nothing new.
const MAX_PROBLEMS: usize = 10_000;

/// Why a phase ends before its work does.
pub(super) enum Stop {
    /// The budget is spent: no failure.
    Budget,
    /// Others wait: no failure either.
    Turn,
    /// Nothing more can be done.
    Broken(Cause),
}

impl From<LocalError> for Stop {
    fn from(error: LocalError) -> Stop {
        Stop::Broken(error.into())
    }
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Stop {
        Stop::Broken(error.into())
    }
}

/// What is known of one chain during one exchange.
pub(super) struct View {
    pub chain: Chain,
    /// What the journal says.
    pub mark: Watermark,
    /// Checkpoints that the store lists or was given; from `mark.seq` on, or all.
    pub remote: BTreeSet<ArtifactName>,
    /// The parts that the store holds; `None` if that was not listed and is to be assumed.
    pub remote_parts: Option<BTreeSet<ArtifactName>>,
    /// Checkpoints that are here, from the number before the watermark on.
    pub here: BTreeSet<ArtifactName>,
    /// Checkpoints that came from this store in this exchange.
    pub taken: BTreeSet<ArtifactName>,
    /// The parts were listed, or were tried to be.
    pub asked_for_parts: bool,
    /// Parts to be got once all metadata is here.
    pub bulk: BTreeSet<ArtifactName>,
    /// Parts that one of the sides lacks.
    pub holes: BTreeSet<ArtifactName>,
    /// Nothing of this chain may move: its listing failed, or it is our own and not alone ours.
    pub closed: bool,
    /// Nothing changed since the watermark: the store said so in its heads.
    pub quiet: bool,
    /// The holes are known, so that the watermark may move.
    pub compared: bool,
    /// Bad artifacts met so far.
    pub bad: u64,
}

impl View {
    pub fn new(chain: Chain, mark: Watermark) -> View {
        View {
            chain,
            mark,
            remote: BTreeSet::new(),
            remote_parts: None,
            here: BTreeSet::new(),
            taken: BTreeSet::new(),
            asked_for_parts: false,
            bulk: BTreeSet::new(),
            holes: BTreeSet::new(),
            closed: false,
            quiet: false,
            compared: false,
            bad: 0,
        }
    }

    /// Forgets what stands below a floor that rose: it is neither offered nor fetched any more.
    pub fn rise(&mut self, floor: u64) {
        for names in [&mut self.here, &mut self.remote, &mut self.taken] {
            names.retain(|name| name.seq() >= floor);
        }
        if self.mark.seq < floor {
            // Parts of what is below are nobody's hole; those of what stands are compared anew.
            self.mark = Watermark::default();
            self.holes.clear();
            self.bulk.clear();
        }
    }

    /// True if the store may hold this part.
    pub fn may_be_there(&self, part: &ArtifactName) -> bool {
        self.remote_parts.as_ref().is_none_or(|parts| parts.contains(part))
    }
}

/// What a request for an artifact gave.
pub(super) enum Fetched {
    Bytes(Vec<u8>),
    /// Not there, or not in a form that can be taken; the report says which.
    Nothing,
}

pub(super) struct Run<'a> {
    pub local: &'a dyn LocalStore,
    pub remote: &'a dyn Transport,
    pub config: &'a ExchangeConfig,
    pub journal: &'a mut dyn Journal,
    pub report: Report,
    pub refuses_writes: bool,
    pub bar: Bar<'a>,
    turn: &'a dyn Turn,
    /// What is damaged here may be fetched whatever its origin fills.
    pub healing: bool,
    /// The highest floors that were accepted, those of checkpoints that came just now too.
    pub floors: BTreeMap<Chain, Floor>,
    /// Where closed chains end, those of words that came just now too.
    pub closed: BTreeMap<Chain, Vec<ClosedEnd>>,
    /// What was told of chains of which nothing was ever here: it is believed once what a store holds of them does not belie it.
    pub hearsay: BTreeMap<Chain, (Floor, Vec<ClosedEnd>)>,
    /// Checkpoints that were fetched before their turn.
    pub held: BTreeMap<ArtifactName, Vec<u8>>,
    /// Checkpoints of which the facts were proven in this exchange.
    pub known: BTreeMap<ArtifactName, Arc<CheckpointFacts>>,
    /// Origins that were found to fill their share.
    full: BTreeSet<OriginName>,
    bytes: u64,
    failures_in_a_row: u32,
}

/// How far a phase has come: what was done, and what is known to be left of it.
pub(super) struct Bar<'a> {
    progress: &'a dyn Progress,
    step: &'static str,
    done: u64,
    left: u64,
}

impl Bar<'_> {
    /// Begins a phase with so much known to be done in it.
    pub fn begin(&mut self, step: &'static str, left: usize) {
        (self.step, self.done, self.left) = (step, 0, left as u64);
    }

    /// More was found to be done.
    pub fn add(&mut self, more: usize) {
        self.left += more as u64;
    }

    /// One of it is done.
    pub fn step(&mut self) {
        (self.done, self.left) = (self.done + 1, self.left.saturating_sub(1));
        self.progress.at(self.step, self.done, self.done + self.left);
    }
}

impl<'a> Run<'a> {
    pub fn new(
        (local, remote): (&'a dyn LocalStore, &'a dyn Transport),
        config: &'a ExchangeConfig,
        journal: &'a mut dyn Journal,
        progress: &'a dyn Progress,
        turn: &'a dyn Turn,
    ) -> Run<'a> {
        let report = Report { held_bytes: config.held_bytes.clone(), ..Report::default() };
        let bar = Bar { progress, step: "", done: 0, left: 0 };
        let (healing, full) = (false, BTreeSet::new());
        Run {
            local,
            remote,
            config,
            journal,
            report,
            refuses_writes: false,
            bar,
            turn,
            healing,
            floors: config.floors.clone(),
            closed: config.closed.clone(),
            hearsay: BTreeMap::new(),
            held: BTreeMap::new(),
            known: BTreeMap::new(),
            full,
            bytes: 0,
            failures_in_a_row: 0,
        }
    }

    /// All phases. What was done before a stop is settled all the same.
    pub fn all(&mut self) -> Result<(), Cause> {
        let mut views = Vec::new();
        self.healing = true;
        let healed = if self.config.pulls() { self.heal() } else { Ok(()) };
        self.healing = false;
        let surveyed = healed.and_then(|()| self.survey(&mut views));
        let moved = surveyed.and_then(|()| self.move_artifacts(&mut views));
        // Whatever ended the moving: what was put so far is worth its sync.
        let moved = moved.and(self.settle_puts(&mut views));
        let moved = moved.and_then(|()| self.mend());
        let settled = match moved {
            Err(Stop::Broken(cause @ (Cause::Local(_) | Cause::Journal(_)))) => return Err(cause),
            Err(Stop::Broken(cause)) => self.settle(&mut views).map(|()| Some(cause)),
            Err(Stop::Budget) => {
                self.report.budget_spent = true;
                self.settle(&mut views).map(|()| None)
            }
            Err(Stop::Turn) => {
                self.report.gave_way = true;
                self.settle(&mut views).map(|()| None)
            }
            Ok(()) => self.settle(&mut views).map(|()| None),
        };
        match settled {
            Ok(None) | Err(Stop::Budget | Stop::Turn) => Ok(()),
            Ok(Some(cause)) | Err(Stop::Broken(cause)) => Err(cause),
        }
    }

    fn move_artifacts(&mut self, views: &mut [View]) -> Result<(), Stop> {
        views.iter_mut().try_for_each(|view| self.guard_own(view))?;
        if self.config.pulls() {
            self.turn.begins(Phase::Metadata);
            let left = views.iter().map(|view| view.remote.difference(&view.here).count()).sum();
            self.bar.begin("receiving checkpoints", left);
            // Later generations first: they say up to where an earlier one counts no more.
            let mut order: Vec<usize> = (0..views.len()).collect();
            order.sort_by_key(|at| {
                let chain = &views[*at].chain;
                (chain.space.clone(), chain.origin.clone(), std::cmp::Reverse(chain.generation))
            });
            order.into_iter().try_for_each(|at| self.pull_metadata(&mut views[at]))?;
        }
        views.iter_mut().try_for_each(|view| self.compare_parts(view))?;
        self.report.has_compared = true;
        if self.config.pushes() {
            self.turn.begins(Phase::Sending);
            let left = views.iter().map(|view| view.here.difference(&view.remote).count()).sum();
            self.bar.begin("sending", left);
            views.iter_mut().try_for_each(|view| self.push(view))?;
        }
        if self.config.pulls() {
            self.turn.begins(Phase::Contents);
            self.bar.begin("receiving contents", views.iter().map(|view| view.bulk.len()).sum());
            views.iter_mut().try_for_each(|view| self.pull_bulk(view))?;
            self.pull_late()?;
        }
        Ok(())
    }

    /// Makes durable what was put. If that fails nothing is known of it: no watermark moves, and the next exchange looks.
    fn settle_puts(&mut self, views: &mut [View]) -> Result<(), Stop> {
        // Also what was found there: whoever put it may have died before it was durable.
        if self.report.requests.put == 0 {
            return Ok(());
        }
        if self.report.is_at_work {
            // It settles them behind that; the next exchange looks.
            views.iter_mut().for_each(|view| view.closed = true);
            return Ok(());
        }
        self.remote.settle_puts().map_err(|error| {
            self.report.pushed.clear();
            views.iter_mut().for_each(|view| view.closed = true);
            self.report.is_at_work = error.kind == TransportErrorKind::AtWork;
            if self.report.is_at_work { Stop::Turn } else { Stop::Broken(error.into()) }
        })
    }

    /// Below this number nothing of a chain counts.
    pub fn floor(&self, chain: &Chain) -> u64 {
        self.floors.get(chain).map_or(1, |floor| floor.seq)
    }

    /// The name of an artifact in the store.
    pub fn remote_name(&self, name: &ArtifactName) -> String {
        format!("{}/{name}", self.config.app)
    }

    /// Ends the moving between two artifacts if others wait.
    pub fn give_way(&self, phase: Phase) -> Result<(), Stop> {
        let has_moved = !(self.report.pulled.is_empty() && self.report.pushed.is_empty());
        if has_moved && self.turn.is_over(phase) { Err(Stop::Turn) } else { Ok(()) }
    }

    /// Whether there is time for what may be lost when the turn ends.
    pub fn has_time_to_look(&self) -> bool {
        self.turn.has_time_to_look()
    }

    fn spend(&self) -> Result<(), Stop> {
        let budget = &self.config.budget;
        let spent = self.report.requests.total() >= budget.requests || self.bytes >= budget.bytes;
        if spent { Err(Stop::Budget) } else { Ok(()) }
    }

    /// One page, or `None` if it could not be had.
    pub fn list(&mut self, request: &ListRequest) -> Result<Option<Listing>, Stop> {
        self.spend()?;
        self.report.requests.list += 1;
        let answer = self.remote.list(request);
        self.heard(answer)
    }

    /// The heads below a prefix, or `None` if the place cannot tell.
    pub fn heads(&mut self, prefix: &str) -> Result<Option<Vec<String>>, Stop> {
        self.spend()?;
        let answer = self.remote.heads(prefix);
        if !matches!(answer, Ok(None)) {
            self.report.requests.heads += 1;
        }
        Ok(self.heard(answer)?.flatten())
    }

    /// The bytes of an artifact as they came, bounded by its kind. What is merely not there is no problem.
    pub fn get(&mut self, name: &ArtifactName) -> Result<Fetched, Stop> {
        if self.is_full(name)? {
            return Ok(Fetched::Nothing);
        }
        self.spend()?;
        self.report.requests.get += 1;
        let max_bytes = max_artifact_bytes(name.kind());
        match self.remote.get(&self.remote_name(name), None, max_bytes) {
            Err(error) if error.kind == TransportErrorKind::NotFound => {
                self.failures_in_a_row = 0;
                Ok(Fetched::Nothing)
            }
            answer => match self.heard(answer)? {
                // A place that hands out more than was allowed is not believed either.
                Some(bytes) if bytes.len() as u64 <= max_bytes => {
                    self.bytes += bytes.len() as u64;
                    Ok(Fetched::Bytes(bytes))
                }
                _ => Ok(Fetched::Nothing),
            },
        }
    }

    /// True if the origin fills its share here, so that nothing more of it is fetched; said once an exchange.
    fn is_full(&mut self, name: &ArtifactName) -> Result<bool, Stop> {
        let (origin, limit_bytes) = (&name.chain().origin, self.config.max_origin_bytes);
        let own = self.config.own.iter().any(|chain| chain.origin == *origin);
        if self.healing || own || limit_bytes == u64::MAX {
            return Ok(false);
        }
        let known = self.report.held_bytes.get(origin).copied();
        if known.is_some_and(|held| held < limit_bytes) || self.full.contains(origin) {
            return Ok(self.full.contains(origin));
        }
        // Nothing is refused because of a sum that was carried along: something may have gone since.
        let held_bytes = self.local.held_bytes(origin)?;
        self.report.held_bytes.insert(origin.clone(), held_bytes);
        if held_bytes < limit_bytes {
            return Ok(false);
        }
        self.full.insert(origin.clone());
        self.note(Problem::OriginFull { origin: origin.clone(), held_bytes, limit_bytes });
        Ok(true)
    }

    /// Gets an artifact and stores it here. True if it is here now.
    pub fn take(&mut self, name: &ArtifactName) -> Result<bool, Stop> {
        if let Some(part_bytes) = self.remote.part_bytes()
            && let Some(incoming) = self.local.receive(name)?
        {
            return self.take_parts(name, part_bytes, incoming);
        }
        match self.get(name)? {
            Fetched::Bytes(bytes) => self.store(name, &bytes),
            Fetched::Nothing => Ok(false),
        }
    }

    /// The same, a part at a time.
    fn take_parts(
        &mut self,
        name: &ArtifactName,
        part_bytes: u64,
        mut incoming: Box<dyn Incoming + '_>,
    ) -> Result<bool, Stop> {
        if self.is_full(name)? {
            return Ok(false);
        }
        let mut taken: u64 = 0;
        loop {
            let Some(part) = self.get_part(name, taken..taken + part_bytes)? else { return Ok(false) };
            taken += part.len() as u64;
            if let Err(error) = incoming.add(&part) {
                return self.refuse(error).map(|()| false);
            }
            // A part that is short is the last one; after one that ends where the artifact does comes an empty one.
            if (part.len() as u64) < part_bytes {
                break;
            }
        }
        match incoming.finish() {
            Ok(()) => Ok(self.stored(name, taken)),
            Err(error) => {
                // A pack is nothing but what has its hash.
                if matches!(error, LocalError::Refused { .. }) {
                    self.report.wrong_there.insert(name.clone());
                }
                self.refuse(error).map(|()| false)
            }
        }
    }

    fn get_part(&mut self, name: &ArtifactName, range: std::ops::Range<u64>) -> Result<Option<Vec<u8>>, Stop> {
        self.spend()?;
        self.report.requests.get += 1;
        let most = range.end - range.start;
        let part = match self.remote.get(&self.remote_name(name), Some(range), most) {
            Err(error) if error.kind == TransportErrorKind::NotFound => {
                self.failures_in_a_row = 0;
                return Ok(None);
            }
            answer => self.heard(answer)?,
        };
        // A place that hands out more than was asked for is not believed.
        let part = part.filter(|part| part.len() as u64 <= most);
        self.bytes += part.as_ref().map_or(0, |part| part.len() as u64);
        Ok(part)
    }

    /// Stores bytes here if they are what their name says. True if they were.
    pub fn store(&mut self, name: &ArtifactName, bytes: &[u8]) -> Result<bool, Stop> {
        match self.local.put(name, bytes) {
            Ok(()) => Ok(self.stored(name, bytes.len() as u64)),
            Err(error) => self.refuse_theirs(name, bytes, error).map(|()| false),
        }
    }

    /// Counts what is here now.
    fn stored(&mut self, name: &ArtifactName, size_bytes: u64) -> bool {
        self.report.phantoms.remove(name);
        self.report.pulled.push(name.clone());
        if let Some(held) = self.report.held_bytes.get_mut(&name.chain().origin) {
            *held = held.saturating_add(size_bytes);
        }
        true
    }

    /// The same for bytes that the store gave: if they can never be the named ones, the store is damaged.
    pub fn refuse_theirs(&mut self, name: &ArtifactName, bytes: &[u8], error: LocalError) -> Result<(), Stop> {
        if matches!(error, LocalError::Refused { .. }) && proves_wrong(name, bytes) {
            self.report.wrong_there.insert(name.clone());
        }
        self.refuse(error)
    }

    /// Notes bytes that are not what they should be; passes on what is not about the bytes.
    pub fn refuse(&mut self, error: LocalError) -> Result<(), Stop> {
        match error {
            LocalError::Refused { name, why } => {
                self.note(Problem::Refused { name, why });
                Ok(())
            }
            LocalError::Newer { name } => {
                self.note(Problem::Newer { name });
                Ok(())
            }
            other => Err(other.into()),
        }
    }

    /// The same for bytes of our own: they are named, so that somebody can be asked for good ones.
    pub fn refuse_ours(&mut self, name: &ArtifactName, error: LocalError) -> Result<(), Stop> {
        if matches!(error, LocalError::Refused { .. }) {
            self.report.damaged.insert(name.clone());
        }
        self.refuse(error)
    }

    /// Offers an artifact. `None` if the store did not take it; `Some` if it is there now.
    pub fn offer(&mut self, name: &ArtifactName, bytes: &[u8]) -> Result<Option<Put>, Stop> {
        self.spend()?;
        self.report.requests.put += 1;
        let answer = self.remote.put_later(&self.remote_name(name), bytes);
        self.note_size_of(name, &answer);
        if let Err(error) = &answer {
            if error.kind == TransportErrorKind::Denied {
                self.refuses_writes = true;
                self.report.refused.get_or_insert_with(|| error.to_string());
            }
            if error.kind == TransportErrorKind::Conflict && self.is_right_now(name, bytes)? {
                return Ok(Some(Put::AlreadyThere));
            }
        }
        self.bytes += bytes.len() as u64;
        let put = self.heard(answer)?;
        if put == Some(Put::Written) {
            self.report.pushed.push(name.clone());
        }
        Ok(put)
    }

    /// Offers an artifact that is read as it goes. True if it is there now; `None` if it is to be offered whole, which tells what
    /// is wrong with it here or there.
    pub fn offer_from(&mut self, name: &ArtifactName, body: Body) -> Result<Option<bool>, Stop> {
        self.spend()?;
        self.report.requests.put += 1;
        let size_bytes = body.size_bytes;
        let answer = self.remote.put_from(&self.remote_name(name), body);
        self.note_size_of(name, &answer);
        let is_about_it = |error: &TransportError| {
            matches!(
                error.kind,
                TransportErrorKind::Corrupt | TransportErrorKind::Conflict | TransportErrorKind::Denied
            )
        };
        if answer.as_ref().is_err_and(is_about_it) {
            return Ok(None);
        }
        self.bytes += size_bytes;
        let put = self.heard(answer)?;
        if put == Some(Put::Written) {
            self.report.pushed.push(name.clone());
        }
        Ok(Some(put.is_some()))
    }

    /// Keeps in mind what the store would not take for its size: all of it was sent before that was said.
    fn note_size_of(&mut self, name: &ArtifactName, answer: &Result<Put, TransportError>) {
        if let Err(error) = answer
            && error.kind == TransportErrorKind::TooLarge
        {
            self.report.too_large.insert(name.clone(), error.detail.clone());
        }
    }

    /// True for what the store would not take lately for its size; that it is not there is told each time.
    pub fn is_known_as_too_large(&mut self, name: &ArtifactName) -> bool {
        let Some(detail) = self.config.too_large.get(name) else { return false };
        let error = TransportError::new(TransportErrorKind::TooLarge, "put", &self.remote_name(name), detail);
        self.note(error.into());
        true
    }

    /// Turns a failed request into a problem, or into the end if the place is gone.
    pub fn heard<T>(&mut self, answer: Result<T, TransportError>) -> Result<Option<T>, Stop> {
        let error = match answer {
            Ok(value) => {
                self.failures_in_a_row = 0;
                return Ok(Some(value));
            }
            Err(error) => error,
        };
        if error.kind == TransportErrorKind::AtWork {
            self.report.is_at_work = true;
            return Err(Stop::Turn);
        }
        let gone = error.is_about_the_place();
        self.failures_in_a_row = if gone { self.failures_in_a_row + 1 } else { 0 };
        let throttled = matches!(error.kind, TransportErrorKind::Throttled { .. });
        if throttled || self.failures_in_a_row >= MAX_FAILURES_IN_A_ROW {
            return Err(Stop::Broken(error.into()));
        }
        self.note(error.into());
        Ok(None)
    }

    /// Adds a problem to the report.
    pub fn note(&mut self, problem: Problem) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(problem);
        }
    }

    /// Adds a finding to the report, once.
    pub fn find(&mut self, finding: Finding) {
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }
}
