//! Stores: the exchange with the backend and with any other store, and replaying what came.
//!
//! Invariant: what an exchange imported is in the index before anything is decided; an own chain that somebody else went
//! on with stops publishing until a person settles it. Rows are written whatever the exchange says: a mirror is a mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_adapters::FileSyncAdapter;

use super::exchange::{
    self, AllTheTime, Direction, ExchangeConfig, Finding, Journal, JournalError, Need, Thoroughness, Trust, Turn,
    Watermark,
};
use super::own::{twin_sentence, way_on};
use super::plan::UNPLACED;
use super::{Engine, Report, Result, SyncError};
use crate::index::{ReplayProblem, Slot};
use crate::ledger::{ArtifactName, LedgerError, NotedDamage};
use crate::model::{Chain, OriginName, Space, Version};
use crate::state::{self, Problem, State};
use crate::transport::marker::{self, ProjectId};
use crate::transport::{BackendTransport, Marker, Transport, TransportError, TransportErrorKind};

/// Problems of one kind that are kept of one exchange.
const MAX_TOLD: usize = 20;
const DAY_MS: u64 = 24 * 3_600_000;
/// The project's id in the backend, in `state.db`.
pub(super) const PROJECT: &str = "project";
/// Which database the marks of rows were made with, in `state.db`.
const ROW_STORE: &str = "row_store";
/// How many changes that database had counted when rows were last written, in `state.db`.
pub(super) const ROW_CHANGES: &str = "row_changes";
/// The address of the backend that the lines of `status` tell of, secrets masked, in `state.db`.
pub const BACKEND_MET: &str = "backend_met";
/// Ends the source of what is damaged in a store, after that of the store's other problems.
pub const DAMAGE_THERE: &str = " damage";
/// Rounds of one exchange, each within its budget.
const MAX_ROUNDS: u32 = 10_000;
/// Slots whose clocks are looked at after one replay.
const MAX_OBSERVED: usize = 2_000;
/// Edits on top of each other that are followed back to the one whose clock was ahead.
const MAX_STEPS_BACK: usize = 1_000;

/// How far the exchange with a store has come is remembered, or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// From one exchange to the next.
    Kept,
    /// It is met once, or emptied by us: what it held says nothing about what it holds.
    None,
}

/// The exchange's journal, kept in `state.db`.
struct StateJournal<'a>(&'a State, Marks);

/// Something was asked for in vain that may be had, or taken, the next time.
fn has_broken_off(done: &exchange::Report) -> bool {
    broken_off(done).is_some()
}

/// Under which name `status` tells of artifacts in a backend.
fn exchange_line(adapter: &dyn FileSyncAdapter) -> String {
    format!("{}:exchange", adapter.capabilities().name)
}

/// Why something that was offered is not there, whatever the reason but those that are told by themselves: a place that refuses
/// us, and other bytes under the name.
fn undelivered(done: &exchange::Report) -> Option<&TransportError> {
    use TransportErrorKind::{Conflict, Denied};
    let declined = done.problems.iter().find_map(|problem| match problem {
        exchange::Problem::Remote(error) => Some(error).filter(|error| error.action == "put"),
        _ => None,
    });
    broken_off(done).or(declined.filter(|error| !matches!(error.kind, Conflict | Denied)))
}

fn broken_off(done: &exchange::Report) -> Option<&TransportError> {
    done.problems.iter().find_map(|problem| match problem {
        exchange::Problem::Remote(error) => Some(error).filter(|error| error.is_about_the_place()),
        _ => None,
    })
}

fn journal_error(error: state::StateError) -> JournalError {
    JournalError(Box::new(error))
}

impl Journal for StateJournal<'_> {
    fn accepted_key(&self, chain: &Chain) -> std::result::Result<Option<[u8; 32]>, JournalError> {
        self.0.key(&chain.to_string()).map_err(journal_error)
    }

    fn pin_key(&mut self, chain: &Chain, key: [u8; 32]) -> std::result::Result<(), JournalError> {
        self.0.pin_key(&chain.to_string(), &key).map_err(journal_error)
    }

    fn watermark(&self, store: &str, chain: &Chain) -> std::result::Result<Watermark, JournalError> {
        if self.1 == Marks::None {
            return Ok(Watermark::default());
        }
        let Some((seq, holes)) = self.0.watermark(store, &chain.to_string()).map_err(journal_error)? else {
            return Ok(Watermark::default());
        };
        // A hole that no longer parses is only asked for again through a whole listing.
        let holes: BTreeSet<ArtifactName> = holes.lines().filter_map(|name| name.parse().ok()).collect();
        Ok(Watermark { seq, holes })
    }

    fn set_watermark(
        &mut self,
        store: &str,
        chain: &Chain,
        watermark: &Watermark,
    ) -> std::result::Result<(), JournalError> {
        if self.1 == Marks::None {
            return Ok(());
        }
        let holes: Vec<String> = watermark.holes.iter().map(ArtifactName::to_string).collect();
        self.0.set_watermark(store, &chain.to_string(), watermark.seq, &holes.join("\n")).map_err(journal_error)
    }
}

/// On what terms one store is exchanged with.
pub(super) struct Terms {
    /// The journal's line.
    pub line: String,
    /// Whose problems are replaced by those found.
    pub problems: String,
    /// The directions that the journal tells of.
    pub ways: Vec<state::Direction>,
    /// What is meant for this store.
    pub spaces: Vec<Space>,
    /// Which way artifacts go.
    pub direction: Direction,
    /// False if nobody else reads there.
    pub push: bool,
    /// Whether it is remembered how far the exchange came.
    pub marks: Marks,
    /// Who is believed there.
    pub trust: Trust,
    /// What stands there and is to be taken although no checkpoint there names it: one that is here does.
    pub late: Vec<ArtifactName>,
    /// Whether it may be left for edits that wait.
    pub gives_way: bool,
}

/// What exchanges with one store told, for the next one.
#[derive(Default)]
pub(super) struct Told {
    /// What the last pull had to say; a push alone says nothing of it.
    pulled: Vec<Problem>,
    /// What the store holds with wrong bytes, as the last pull found.
    wrong: BTreeSet<ArtifactName>,
    /// What the last pull would not take for another reason.
    refused: Vec<Problem>,
    /// What others ask for there although it is right as seen from here.
    checked: BTreeSet<ArtifactName>,
    /// Why something that the last push offered did not get there, although the place answered else.
    pub(super) undelivered: Option<String>,
    /// What was too large for the place, and how it said so. It is offered again when a person asks, or all is listed.
    too_large: BTreeMap<ArtifactName, String>,
    /// How long the place asked to be left alone when the last exchange ended, in milliseconds.
    wait_ms: Option<u64>,
    /// The last pull found chains of owners who are not accepted.
    strangers: bool,
    /// Chains that the last pull found to be the same on both sides, and their newest checkpoint.
    even: BTreeMap<Chain, ArtifactName>,
}

impl Engine {
    /// Exchanges artifacts with the backend and replays what came. Does nothing without a backend.
    pub fn exchange_backend(&mut self, direction: Direction, report: &mut Report) -> Result<()> {
        if let Some(adapter) = &self.adapter {
            self.left_over.take_up(&exchange_line(&**adapter), direction);
        }
        let Some(transport) = self.backend_transport()? else { return Ok(()) };
        let Some(adapter) = self.adapter.clone() else { return Ok(()) };
        let mut spaces = vec![Space::shared()];
        if adapter.capabilities().own {
            spaces.push(self.private_space.clone());
        }
        let push = marker::has_other_writers(&adapter, &self.policy.app, self.identity.origin())?;
        let line = exchange_line(&*adapter);
        let terms = Terms {
            line: line.clone(),
            problems: "exchange".to_owned(),
            ways: vec![state::Direction::Pull, state::Direction::Push],
            spaces,
            direction,
            push,
            marks: Marks::Kept,
            trust: self.policy.trust,
            late: Vec::new(),
            gives_way: true,
        };
        let failure = self.exchange_store(&*transport, terms, report)?;
        if let (Some(why), Some(wait_ms)) = (&failure, self.wait_asked_by(&line)) {
            self.let_backend_rest(wait_ms, why);
        }
        self.rows_wait = self.told.get(&line).is_some_and(|told| told.strangers);
        match failure {
            Some(why) if report.backend_error.is_none() => report.backend_error = Some(why),
            _ => {}
        }
        Ok(())
    }

    /// Why something that the last push offered to the backend is not there, although it answered else. Who trusts a run's end trusts that
    /// all of it arrived.
    pub fn undelivered_to_backend(&self) -> Option<String> {
        self.told.get(&exchange_line(&**self.adapter.as_ref()?))?.undelivered.clone()
    }

    /// Exchanges artifacts with one store, notes how it went and replays what came. Returns why the store failed, if it
    /// did; what came before that is kept.
    pub(super) fn exchange_store(
        &mut self,
        place: &dyn Transport,
        terms: Terms,
        report: &mut Report,
    ) -> Result<Option<String>> {
        let own = terms.spaces.iter().map(|space| self.identity.chain(space.clone())).collect();
        self.forget_needless_damage()?;
        let noted = self.ledger.noted_damage()?.into_iter().map(|noted| noted.name);
        // Whatever its origin fills, what is here and damaged is put right.
        let (offered, late): (Vec<_>, Vec<_>) = terms.late.iter().cloned().partition(|name| self.ledger.has(name));
        let wanted = noted.chain(offered).collect();
        let thoroughness = match terms.marks {
            Marks::Kept => self.thoroughness(place.label(), &terms.line),
            Marks::None => Thoroughness::Whole,
        };
        let told = self.told.entry(terms.line.clone()).or_default();
        if thoroughness == Thoroughness::Whole {
            told.checked.clear();
            told.too_large.clear();
        }
        let (wrong_there, checked) = (told.wrong.clone(), told.checked.clone());
        let too_large = told.too_large.clone();
        // Who asks the store anew is not told what it held before.
        let asks = terms.direction != Direction::Push || thoroughness == Thoroughness::Whole;
        if asks {
            told.even.clear();
        }
        let even = told.even.clone();
        let mut config = ExchangeConfig {
            own,
            wrong_there,
            checked,
            too_large,
            even,
            trust: terms.trust,
            members: self.members(terms.trust)?,
            apart: if terms.trust == Trust::Members { self.apart()? } else { BTreeMap::new() },
            direction: terms.direction,
            push: terms.push && self.publishing_stopped.is_empty(),
            thoroughness,
            max_origin_bytes: self.policy.max_origin_bytes,
            held_bytes: self.held_bytes.clone(),
            wanted,
            late,
            floors: self.index.floors()?.into_iter().collect(),
            closed: self.closed_ends()?,
            budget: self.exchange_budget,
            ..ExchangeConfig::new(&self.policy.app, terms.spaces.clone())
        };
        for chain in &config.own {
            self.state.pin_key(&chain.to_string(), self.identity.public_key().as_bytes())?;
        }
        let share = self.begin_share()?;
        let turn: &dyn Turn = if terms.gives_way { &share } else { &AllTheTime };
        let (mut pulled, mut rounds, mut wait_ms) = (0, 0, None);
        let (done, failure) = loop {
            let journal = &mut StateJournal(&self.state, terms.marks);
            let outcome = exchange::exchange_in_turn(&*self.ledger, place, &config, journal, &*self.progress, turn);
            let (done, failure) = match outcome {
                // Everything else was done, but what is here did not get there.
                Ok(done) => {
                    let whole = config.thoroughness == Thoroughness::Whole && !done.unheard && !done.is_at_work;
                    let whole = whole && !has_broken_off(&done);
                    if terms.marks == Marks::Kept {
                        self.note_look(place.label(), whole, &done);
                    }
                    let refused = done.refused.clone();
                    (done, refused)
                }
                Err(error) => {
                    wait_ms = match &error.cause {
                        exchange::Cause::Remote(error) => error.wait_ms(),
                        exchange::Cause::Local(_) | exchange::Cause::Journal(_) => None,
                    };
                    (*error.done, Some(error.cause.to_string()))
                }
            };
            config.too_large.extend(done.too_large.clone());
            pulled += done.pulled.len() as u64;
            report.pushed += done.pushed.len() as u64;
            report.mended.extend(done.mended.iter().map(ArtifactName::to_string));
            self.settle_damage(&done, report)?;
            self.held_bytes.clone_from(&done.held_bytes);
            let moved = !done.pulled.is_empty() || !done.pushed.is_empty();
            rounds += 1;
            let has_left = done.budget_spent && !done.gave_way;
            if !(has_left && moved && failure.is_none() && rounds < MAX_ROUNDS) {
                break (done, failure);
            }
            // A budget bounds one round, not the job: what is left over comes now, from where this one ended.
            config.thoroughness = Thoroughness::News;
            config.held_bytes.clone_from(&self.held_bytes);
        };
        report.pulled += pulled;
        let told = self.told.entry(terms.line.clone()).or_default();
        (told.too_large, told.wait_ms) = (config.too_large, wait_ms);
        if failure.is_none() && terms.marks == Marks::Kept && terms.direction != Direction::Push {
            self.told.entry(terms.line.clone()).or_default().even.clone_from(&done.even);
        }
        self.keep_apart(place, &done)?;
        if done.gave_way {
            // How it went is told at its end.
            self.left_over.leave(&terms.line, terms.direction, done.is_at_work);
        } else {
            self.note_exchange(&terms, &done, failure.as_deref())?;
        }
        // Later rounds ask for news only.
        let heard_all = rounds == 1 && thoroughness == Thoroughness::Whole && !done.unheard && !done.gave_way;
        self.note_stops(&terms.line, &done, failure.is_none() && heard_all)?;
        if pulled > 0 {
            self.replay()?;
        }
        Ok(failure)
    }

    /// How long the place of a line asked to be left alone when the last exchange with it ended.
    pub(super) fn wait_asked_by(&self, line: &str) -> Option<u64> {
        self.told.get(line)?.wait_ms
    }

    /// A person asks: what places would not take for its size is offered to them again, as they may be set up otherwise by now.
    pub fn offer_large_again(&mut self) {
        self.told.values_mut().for_each(|told| told.too_large.clear());
    }

    /// What a store held, and what it would take, says nothing of what it does once it is opened anew.
    pub(super) fn forget_even(&mut self, line: &str) {
        if let Some(told) = self.told.get_mut(line) {
            told.even.clear();
            told.too_large.clear();
        }
    }

    /// Notes what the exchange found damaged here, and forgets what is whole again.
    fn settle_damage(&mut self, done: &exchange::Report, report: &mut Report) -> Result<()> {
        for name in &done.damaged {
            self.ledger.note_damage(name, "its bytes are not what its name says")?;
        }
        report.healed.extend(self.forget_healed()?.iter().map(ArtifactName::to_string));
        Ok(())
    }

    /// What the journal holds of problems, each with who noticed it.
    pub fn problems(&self) -> Result<Vec<(String, Problem)>> {
        Ok(self.state.problems()?)
    }

    /// How many files of elsewhere wait until a person makes place for them.
    pub fn unplaced_count(&self) -> Result<u64> {
        Ok(self.state.count_pending(UNPLACED)?)
    }

    /// What is known to be damaged or lost here, and no store gave yet. What a person put right by hand is forgotten.
    pub fn known_damage(&self) -> Result<Vec<NotedDamage>> {
        self.forget_healed()?;
        self.forget_needless_damage()?;
        Ok(self.ledger.noted_damage()?)
    }

    /// Notes when all of a store was listed. One that ended before both sides were compared is gone on with by news alone, which is how it
    /// comes to an end soonest, and counts no more after that.
    fn note_look(&mut self, store: &str, is_whole: bool, done: &exchange::Report) {
        if is_whole {
            self.whole_exchanges_ms.insert(store.to_owned(), self.now_ms());
            if !done.has_compared {
                self.uncompared.insert(store.to_owned());
            }
        }
        let is_over = !done.gave_way && !done.budget_spent;
        if is_over && self.uncompared.remove(store) {
            self.whole_exchanges_ms.remove(store);
        }
    }

    /// Everything is listed once a run of the program, once a day, and while somebody else was seen there to go on as we;
    /// else only news. One in which a request broke off does not count.
    fn thoroughness(&mut self, store: &str, line: &str) -> Thoroughness {
        let now = self.now_ms();
        let last = self.whole_exchanges_ms.get(store);
        let due = last.is_none_or(|&last| now.saturating_sub(last) > DAY_MS || now < last)
            || self.publishing_stopped.contains_key(line);
        if due { Thoroughness::Whole } else { Thoroughness::News }
    }

    fn note_exchange(&mut self, terms: &Terms, done: &exchange::Report, failure: Option<&str>) -> Result<()> {
        let now = self.now_ms() as i64;
        let undelivered =
            undelivered(done).filter(|_| terms.direction == Direction::Push).map(TransportError::to_string);
        let failure = failure.or(undelivered.as_deref());
        for &way in &terms.ways {
            match failure {
                None => self.state.note_success(&terms.line, way, now)?,
                Some(why) => self.state.note_failure(&terms.line, way, now, why)?,
            }
        }
        let forked = done.findings.iter().any(|finding| matches!(finding, Finding::Forked { .. }));
        let chains = if forked { self.ledger.chains()? } else { Vec::new() };
        let open = done.findings.iter().filter(|finding| !self.is_settled(finding, &chains));
        let mut problems: Vec<Problem> = open.filter(|finding| !is_refusal(finding)).map(finding_problem).collect();
        let is_told_apart = |problem: &&exchange::Problem| {
            matches!(problem, exchange::Problem::Refused { .. } | exchange::Problem::OriginFull { .. })
        };
        let others = done.problems.iter().filter(|problem| !is_told_apart(problem));
        problems.extend(others.take(MAX_TOLD).map(exchange_problem));
        problems.extend(
            done.waiting
                .iter()
                .take(MAX_TOLD)
                .map(|waiting| Problem { path: waiting.name.to_string(), what: waiting.need.to_string() }),
        );
        // What is damaged here is told by its own note, what is damaged there below.
        let damaged = self.ledger.noted_damage()?;
        let awaited = done.phantoms.iter().filter(|name| damaged.iter().all(|noted| noted.name != **name));
        problems.extend(awaited.take(MAX_TOLD).map(|name| Problem {
            path: name.to_string(),
            what: "named by another machine and not here yet; asked for at each exchange".to_owned(),
        }));
        self.note_damage_there(terms, done)?;
        let told = self.told.entry(terms.line.clone()).or_default();
        told.undelivered = undelivered;
        if terms.direction == Direction::Push {
            let known: BTreeSet<String> = problems.iter().map(|problem| problem.path.clone()).collect();
            problems.extend(told.pulled.iter().filter(|problem| !known.contains(&problem.path)).cloned());
        } else {
            told.pulled = problems.clone();
            told.strangers = done.waiting.iter().any(|waiting| matches!(waiting.need, Need::Owner(_)));
        }
        problems.retain(|problem| told.wrong.iter().all(|name| name.to_string() != problem.path));
        Ok(self.state.set_problems(&terms.problems, &problems, now)?)
    }

    /// Only who asks for artifacts learns which are wrong there; whoever mends some forgets those.
    fn note_damage_there(&mut self, terms: &Terms, done: &exchange::Report) -> Result<()> {
        let told = self.told.entry(terms.line.clone()).or_default();
        if terms.direction != Direction::Push {
            told.wrong = done.wrong_there.clone();
        }
        told.checked.extend(done.checked.iter().cloned());
        told.wrong.retain(|name| !done.mended.contains(name));
        let mut problems: Vec<Problem> = told.wrong.iter().take(MAX_TOLD).map(damage_there).collect();
        if terms.direction == Direction::Push {
            problems.extend(told.refused.iter().cloned());
        } else {
            told.refused =
                refused_there(done).filter(|refused| problems.iter().all(|known| known.path != refused.path)).collect();
            problems.extend(told.refused.iter().cloned());
        }
        let source = format!("{}{DAMAGE_THERE}", terms.problems);
        Ok(self.state.set_problems(&source, &problems, self.now_ms() as i64)?)
    }

    /// The backend as a transport, made once; claims the backend for this project and registers this origin, but in a dry run.
    pub(super) fn backend_transport(&mut self) -> Result<Option<Arc<BackendTransport>>> {
        let Some(adapter) = self.adapter.clone() else { return Ok(None) };
        if let Some(transport) = &self.transport {
            if self.met_store == adapter.store_id() {
                return Ok(Some(transport.clone()));
            }
            // It was emptied or replaced beneath us: what is known of it is another's.
            self.whole_exchanges_ms.remove(transport.label());
            self.transport = None;
        }
        let app = self.policy.app.clone();
        let known = self.kept_project()?;
        let label = format!("backend {}", adapter.capabilities().name);
        if self.dry_run {
            // What nobody claimed holds nothing; what is claimed is looked at, and stays as it is.
            let held = Marker::of_backend(&adapter, &app, known.as_ref())?;
            let look = held.map(|_| BackendTransport::new(adapter, &app, label)).transpose()?;
            return Ok(look.map(Arc::new));
        }
        let project = Marker::claim(&adapter, &app, known.as_ref(), &self.env)?;
        self.state.set_meta(PROJECT, Some(project.as_str().as_bytes()))?;
        marker::register_writer(&adapter, &app, self.identity.origin())?;
        self.meet_store(&adapter)?;
        self.met_store = adapter.store_id();
        self.forget_even(&format!("{}:exchange", adapter.capabilities().name));
        let transport = Arc::new(BackendTransport::new(adapter, &app, label)?);
        self.transport = Some(transport.clone());
        Ok(Some(transport))
    }

    /// Marks of rows are worth something for the very database they were made with: another one is filled from the first row.
    fn meet_store(&mut self, adapter: &Arc<dyn FileSyncAdapter>) -> Result<()> {
        let name = &adapter.capabilities().name;
        let store = format!("{name} {}", adapter.store_id().unwrap_or_default());
        // Private files have rows under an owner's name alone: under another one all of them are looked at again.
        let met = if self.policy.owner == larder_adapters::SHARED_OWNER {
            store
        } else {
            format!("{store} {}", self.policy.owner)
        };
        match self.state.meta_text(ROW_STORE)? {
            Some(known) if known == met => return Ok(()),
            // Kept by a release that had one backend: what it is was never noted.
            None if name == "sqlite" => {}
            _ => {
                self.mirrored = 0;
                self.state.set_meta_i64("mirrored", 0)?;
                self.state.set_meta_i64("awaited_rows", 0)?;
            }
        }
        Ok(self.state.set_meta(ROW_STORE, Some(met.as_bytes()))?)
    }

    /// Where an older copy took the database's place, what was written since is not in it, and no feed tells of a row that is
    /// missing: all rows are looked at again. Asked before this run writes any, which would count as changes.
    pub fn look_for_older_copy(&mut self) -> Result<()> {
        // Whoever asks next says why the backend cannot be asked.
        let counted = self.adapter.as_ref().and_then(|adapter| adapter.changes_counted().ok().flatten());
        let (Some(counted), Some(known)) = (counted, self.state.meta_i64(ROW_CHANGES)?) else { return Ok(()) };
        let counted = counted.cast_signed();
        if counted >= known {
            return Ok(());
        }
        self.mirrored = 0;
        self.state.transaction(|state| {
            state.set_meta_i64("mirrored", 0)?;
            state.set_meta_i64(ROW_CHANGES, counted)?;
            Ok::<(), SyncError>(())
        })
    }

    /// The project's id in the backend; `None` before it was reached.
    pub(super) fn kept_project(&self) -> Result<Option<ProjectId>> {
        Ok(self.state.meta_text(PROJECT)?.and_then(|text| ProjectId::try_from(text).ok()))
    }

    /// Brings the index up to the ledger.
    pub fn replay(&mut self) -> Result<()> {
        let done = crate::index::replay(&mut self.index, &self.ledger)?;
        self.note_replay(&done.problems)?;
        if done.checkpoints > 0 {
            self.seen_told.clear();
        }
        self.rescue_due |= done.floors_rose;
        // What was purged has no place any more, also for whoever looked it up before.
        self.contents.forget_prepared();
        self.observe_clocks(&done.touched)?;
        // Tips are read again: an own chain may have come back from a store.
        self.chains.clear();
        Ok(())
    }

    /// Notes for `status`, and for the next exchange, what a replay could not apply. A pack that has not come yet is no
    /// damage: the exchange tells of it.
    pub fn note_replay(&self, problems: &[ReplayProblem]) -> Result<()> {
        let damage = problems.iter().filter(|problem| !is_awaited(&problem.error));
        let mut told = Vec::new();
        for problem in damage {
            self.ledger.note_error(&problem.error);
            told.push(Problem { path: problem.chain.to_string(), what: problem.error.to_string() });
        }
        Ok(self.state.set_problems("ledger", &told, self.now_ms() as i64)?)
    }
}

fn is_awaited(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Missing { name: ArtifactName::Pack { .. } })
}

impl Engine {
    /// Raises the clock's floor to what came, unless it is far ahead; that is shown.
    fn observe_clocks(&mut self, touched: &[Slot]) -> Result<()> {
        let wall_ms = self.now_ms();
        let mut ahead = Vec::new();
        for slot in touched.iter().take(MAX_OBSERVED) {
            for head in self.index.heads(slot)? {
                if !self.clock.observe(wall_ms, head.version.hlc) {
                    let origin = self.whose_clock_is_ahead(&head.version)?;
                    let it = if origin == head.version.dot.lane.origin { "it" } else { "what it stands on" };
                    let what = format!(
                        "{origin} wrote {it} with a clock far ahead of this machine's; it is kept and orders nothing else"
                    );
                    ahead.push(Problem { path: slot.path.shown(), what });
                }
            }
        }
        if touched.is_empty() {
            return Ok(());
        }
        Ok(self.state.set_problems("clocks", &ahead, wall_ms as i64)?)
    }

    /// Who gave a version a time that is far ahead: an edit on top of one from the future comes right behind it, whatever its clock says.
    fn whose_clock_is_ahead(&self, version: &Version) -> Result<OriginName> {
        let mut version = version.clone();
        for _ in 0..MAX_STEPS_BACK {
            let mut moved_by = None;
            for parent in &version.parents {
                let parent = self.index.version(parent)?.map(|stored| stored.version);
                moved_by = moved_by.or(parent.filter(|parent| parent.hlc.next() == version.hlc));
            }
            match moved_by {
                Some(parent) => version = parent,
                None => break,
            }
        }
        Ok(version.dot.lane.origin)
    }
}

/// What was refused in a store, whoever is to blame; our own damage has its own note.
fn refused_there(done: &exchange::Report) -> impl Iterator<Item = Problem> {
    let keys = done.findings.iter().filter(|finding| is_refusal(finding)).map(finding_problem);
    let refused = done.problems.iter().filter(|problem| match problem {
        exchange::Problem::Refused { name, .. } => !done.damaged.contains(name) && !done.wrong_there.contains(name),
        exchange::Problem::OriginFull { .. } => true,
        _ => false,
    });
    keys.chain(refused.map(exchange_problem)).take(MAX_TOLD)
}

fn is_refusal(finding: &Finding) -> bool {
    matches!(finding, Finding::KeyChanged { .. })
}

fn exchange_problem(problem: &exchange::Problem) -> Problem {
    let path = match problem {
        exchange::Problem::Refused { name, .. } | exchange::Problem::Newer { name } => name.to_string(),
        exchange::Problem::Remote(error) => error.name.clone(),
        exchange::Problem::GaveUp { chain, .. } | exchange::Problem::Removed { chain, .. } => chain.to_string(),
        exchange::Problem::OriginFull { origin, .. } => origin.to_string(),
    };
    Problem { path, what: problem.to_string() }
}

/// What a store holds with wrong bytes: whose, which, and what repairs it.
fn damage_there(name: &ArtifactName) -> Problem {
    let origin = &name.chain().origin;
    Problem {
        path: name.to_string(),
        what: format!(
            "its bytes in the store are not what its name says; whoever has it whole, as {origin} who wrote it, puts it right there with `larder repair`, in a folder with the next `larder sync` too; what nobody has, nobody needs: remove the file"
        ),
    }
}

fn finding_problem(finding: &Finding) -> Problem {
    let (path, what) = match finding {
        Finding::OwnChainAhead { chain, .. } | Finding::OwnChainForked { chain, .. } => {
            let why = twin_sentence(finding).unwrap_or_default();
            (chain.to_string(), format!("{why}; {}", way_on(&chain.origin)))
        }
        Finding::Forked { chain, seq, names } => {
            let names: Vec<String> = names.iter().map(ArtifactName::file).collect();
            let origin = &chain.origin;
            (
                chain.to_string(),
                format!(
                    "two machines wrote checkpoint {seq} as {origin} ({}); both branches are kept; `larder origin adopt {origin}` on the one that keeps the name and `larder origin new` on the other settle it",
                    names.join(" and ")
                ),
            )
        }
        Finding::KeyChanged { name, accepted, found } => (
            name.to_string(),
            format!("signed by key {found}, but {accepted} was accepted for this machine; it is refused"),
        ),
        Finding::FloorLowered { name, floor, accepted } => (
            name.to_string(),
            format!(
                "it says that checkpoints from {floor} on are to be kept, and an earlier one said from {accepted} on: {} was rolled back, or two machines write as it; what was dropped stays dropped",
                name.chain().origin
            ),
        ),
        Finding::StoreRolledBack { chain, held } => {
            (chain.to_string(), format!("the store lost checkpoints it once had (it held {held}); it is filled again"))
        }
    };
    Problem { path, what }
}

impl From<marker::MarkerError> for SyncError {
    fn from(error: marker::MarkerError) -> SyncError {
        match error {
            marker::MarkerError::Backend(error) => SyncError::Adapter(error),
            marker::MarkerError::Place(error) => SyncError::Transport(error),
            other => SyncError::Marker(other.to_string()),
        }
    }
}
