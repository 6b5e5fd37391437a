//! One run: rows and artifacts in, record, resolve, materialise, artifacts and rows out.
//!
//! Invariant: an exchange precedes the first look at the disk, so that a first contact knows what others have; a backend or peer
//! that fails does not stop what can be done without it, and is named in the report.

use larder_adapters::ErrorKind;

use super::status::{
    conflicts_remain, damage_remains, damage_there, held_remain, is_damage_there, stopped, unplaced_remain,
};
use super::{Kind, Node, NodeError};
use crate::sync::exchange::Direction;
use crate::sync::{Asked, Peer, Report, Scope, SyncError};
use crate::transport::{Bundle, BundleWriter};

/// Which way a run goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Both.
    #[default]
    Both,
    /// What is here goes out; no file here changes.
    Push,
    /// What is elsewhere comes in; the backend's rows stay.
    Pull,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What to look at.
    pub scope: Scope,
    /// Which way.
    pub way: Way,
    /// Only list what would be done to files and rows. Artifacts are fetched all the same, as they change nothing.
    pub dry_run: bool,
    /// Whom to ask for news first; a run after a local edit need ask nobody.
    pub asked: Asked,
    /// Look into the inbox; who asks everybody does so anyway.
    pub inbox: bool,
    /// The places beside the backend to exchange with.
    pub places: Places,
    /// Beside a daemon, whoever asks does not wait until everybody has everything: what goes on is in the report.
    pub takes_turns: bool,
}

/// The places beside the backend that a run exchanges with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Places {
    /// The peers of the config.
    #[default]
    OfConfig,
    /// This one, whether the config names it or not.
    Only(Peer),
}

/// Whom a run exchanges with beside the backend.
pub(super) enum Partners<'a> {
    /// Places.
    Places(&'a Places),
    /// A bundle under construction, which is given to.
    Export { writer: &'a BundleWriter, private: bool },
    /// A bundle, which is taken from.
    Import { bundle: &'a Bundle, joins: bool },
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            scope: Scope::All,
            way: Way::Both,
            dry_run: false,
            asked: Asked::Everybody,
            inbox: false,
            places: Places::OfConfig,
            takes_turns: false,
        }
    }
}

impl Node {
    /// Runs once. Errors are those that stop everything; the rest is in the report.
    pub fn run(&mut self, options: &RunOptions) -> Result<Report, NodeError> {
        self.run_with(options, &Partners::Places(&options.places))
    }

    /// The same with these partners beside the backend.
    pub(super) fn run_with(&mut self, options: &RunOptions, partners: &Partners) -> Result<Report, NodeError> {
        let report = self.steps(options, partners)?;
        self.engine.end_run();
        Ok(report)
    }

    fn steps(&mut self, options: &RunOptions, partners: &Partners) -> Result<Report, NodeError> {
        self.check_in_place()?;
        // Who waits for his own change alone asks nobody for more.
        let is_by_hand = options.asked == Asked::Everybody && !options.takes_turns;
        self.engine.deadlines().begin_run(is_by_hand, !options.scope.is_empty());
        self.engine.begin_turns();
        if is_by_hand {
            self.engine.offer_large_again();
        }
        let has_rested = self.engine.end_backend_rest(is_by_hand);
        self.reopen_backend();
        let mut report = Report::default();
        if let Some(error) = &self.backend_error {
            report.backend_error = Some(error.message.clone());
        }
        if let Some(why) = self.engine.backend_rests() {
            report.backend_error.get_or_insert(why.to_owned());
        }
        self.engine.begin_run(options.dry_run)?;
        if !options.dry_run {
            self.engine.meet_backend(&self.settings.backend.value.to_string())?;
        }
        let mut steps = Steps(std::time::Instant::now());
        let mut rows = None;
        let looks = options.inbox || options.asked.is_everybody();
        let arrived =
            if looks { self.engine.take_inbox(&mut report)? + self.engine.take_apart(&mut report)? } else { 0 };
        // What was not asked while it rested is asked now, whoever asks.
        let asks_backend = options.asked.backend() || has_rested;
        if !options.dry_run && self.may_ask_backend() {
            self.engine.look_for_older_copy()?;
        }
        if asks_backend && self.may_ask_backend() {
            let read = self.engine.read_rows();
            rows = self.soften(read, &mut report)?.flatten();
        }
        let away = self.engine.away_of(&options.asked);
        if options.asked != Asked::Nobody {
            // Before the backend is claimed, which tells whether this project is new here.
            self.exchange_partners(partners, options, Direction::Pull, &mut report)?;
        }
        if asks_backend && self.may_ask_backend() {
            let pulled = self.engine.exchange_backend(Direction::Pull, &mut report);
            self.soften(pulled, &mut report)?;
        }
        if report.pulled > arrived {
            // Among what came may be the word that lets in whoever stands apart.
            self.engine.take_apart(&mut report)?;
        }
        steps.done("exchange in");
        self.engine.look_again_at_own_ends()?;
        report.stopped = self.engine.stopped().map(|stop| stop.to_string());
        if report.stopped.is_some() {
            // Whatever was recorded now would stand on one number with what another machine wrote.
            let now = self.env.clock.wall_ms() as i64;
            self.engine.note_backend(report.backend_error.as_deref(), now)?;
            return Ok(report);
        }
        if !options.dry_run {
            self.engine.claim_generation()?;
        }
        if options.way != Way::Pull && !options.dry_run && report.backend_error.is_none() {
            self.engine.mirror_ahead()?;
        }
        self.engine.record(&options.scope, options.dry_run, &mut report)?;
        self.engine.deadlines().has_recorded();
        steps.done("record");
        if let Some(rows) = rows {
            let recorded = self.engine.record_rows_read(&rows, options.dry_run, &mut report);
            self.soften(recorded, &mut report)?;
        }
        if !options.dry_run {
            self.engine.release_held()?;
            self.engine.rescue_if_due()?;
            self.engine.let_purged_go(&mut report)?;
        }
        if options.way != Way::Push {
            self.engine.materialise(options.dry_run, &mut report)?;
        }
        steps.done("materialise");
        // What came from one goes on to the others.
        let is_late = self.unsent && asks_backend;
        // Who is there again may lack what he could not be given.
        let is_back = away != self.engine.away_of(&options.asked);
        let has_news = report.ledger_bytes > 0 || arrived > 0 || report.pulled > 0 || is_late || is_back;
        let has_news = has_news || options.asked.is_everybody() || self.engine.has_to_give();
        if options.way != Way::Pull && !options.dry_run && has_news {
            if self.may_ask_backend() {
                let pushed = self.engine.exchange_backend(Direction::Push, &mut report);
                self.soften(pushed, &mut report)?;
            }
            self.exchange_partners(partners, options, Direction::Push, &mut report)?;
            self.unsent = report.backend_error.is_some();
            self.engine.empty_stores(&mut report)?;
        }
        steps.done("exchange out");
        if options.way != Way::Pull && self.may_ask_backend() {
            let mirrored = self.engine.mirror(options.dry_run, &mut report);
            self.soften(mirrored, &mut report)?;
            if !options.dry_run && report.backend_error.is_none() {
                self.engine.scrub_backend(&mut report)?;
            }
        }
        steps.done("mirror");
        report.goes_on = self.engine.left_over_with().into_iter().collect();
        if let Some(why) = self.engine.undelivered_to_backend().filter(|_| report.backend_error.is_none()) {
            report.backend_error = Some(why);
            self.unsent = true;
        }
        if options.dry_run {
            self.engine.plan_rows_of_recorded(&mut report);
        } else {
            if options.asked.is_everybody() {
                self.engine.tell_seen(&mut report)?;
            }
            self.engine.sweep_displaced(&mut report)?;
            self.engine.tell_purges(report.pulled > 0 || report.purge.is_some())?;
            self.engine.forget_idle_patterns(&report)?;
            self.engine.rest_index()?;
        }
        report.stopped = self.engine.stopped().map(|stop| stop.to_string());
        let now = self.env.clock.wall_ms() as i64;
        self.engine.note_backend(report.backend_error.as_deref(), now)?;
        Ok(report)
    }

    /// False while the backend asks to be left alone, which it may have said in this very run.
    fn may_ask_backend(&self) -> bool {
        self.engine.backend_rests().is_none()
    }

    /// A backend's failure goes into the report; everything else stops the run.
    fn soften<T>(&mut self, outcome: Result<T, SyncError>, report: &mut Report) -> Result<Option<T>, NodeError> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(SyncError::Adapter(error)) => {
                self.is_backend_odd |= error.kind == ErrorKind::Corrupt;
                if let ErrorKind::Throttled { retry_after_ms } = error.kind {
                    self.engine.let_backend_rest(retry_after_ms, &error.to_string());
                }
                report.backend_error.get_or_insert(error.to_string());
                Ok(None)
            }
            Err(SyncError::Transport(error)) => {
                if let Some(wait_ms) = error.wait_ms() {
                    self.engine.let_backend_rest(wait_ms, &error.to_string());
                }
                report.backend_error.get_or_insert(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn exchange_partners(
        &mut self,
        partners: &Partners,
        options: &RunOptions,
        direction: Direction,
        report: &mut Report,
    ) -> Result<(), NodeError> {
        let asked = &options.asked;
        match (partners, direction) {
            // What is fetched is written by the next run: a dry run takes only what every run would.
            (Partners::Places(Places::Only(peer)), _) if options.dry_run && !self.is_of_config(peer) => {
                self.engine.count_at(peer, report)?;
            }
            (Partners::Import { bundle, joins }, Direction::Pull) if options.dry_run => {
                self.engine.look_into(bundle, *joins, report)?;
            }
            (Partners::Places(Places::OfConfig), _) => {
                // Once a run, and not on the path of an edit.
                if direction == Direction::Pull {
                    self.engine.forget_other_peers()?;
                }
                self.engine.exchange_peers(asked, direction, report)?;
            }
            (Partners::Places(Places::Only(peer)), _) => {
                self.engine.exchange_with(std::slice::from_ref(peer), asked, direction, report)?;
            }
            (Partners::Export { writer, private }, Direction::Push) => self.engine.export(writer, *private, report)?,
            (Partners::Import { bundle, joins }, Direction::Pull) => self.engine.import(bundle, *joins, report)?,
            _ => {}
        }
        Ok(())
    }

    fn is_of_config(&self, peer: &Peer) -> bool {
        self.settings.peers.get(&peer.name).is_some_and(|setting| setting.value.address == peer.address)
    }

    /// The exit code's reason after a run: what remains for a person or a later run.
    pub fn remains(&self, report: &Report) -> Result<Option<NodeError>, NodeError> {
        if let Some(bundle) = report.bundle.as_ref().filter(|bundle| !bundle.damage.is_empty()) {
            let message = format!("the bundle is damaged ({}); what is whole in it was taken", bundle.damage[0]);
            let hint = "bring it here again, or export it anew; importing twice does no harm".to_owned();
            return Ok(Some(NodeError { kind: Kind::Damage, message, hint: Some(hint) }));
        }
        if let Some(stop) = self.engine.stopped() {
            return Ok(Some(stopped(&stop)));
        }
        if let Some(error) = &report.backend_error {
            let kind = self.backend_error.as_ref().map_or(Kind::Unavailable, |error| error.kind);
            return Ok(Some(NodeError::new(kind, format!("the contact with the backend failed: {error}"))));
        }
        if let Some((name, why)) = report.peer_errors.first() {
            return Ok(Some(NodeError::new(Kind::Unavailable, format!("exchange with the peer {name} failed: {why}"))));
        }
        let damaged = damage_remains(self.engine.known_damage()?.len());
        if damaged.is_some() {
            return Ok(damaged);
        }
        let problems = self.engine.problems()?;
        let there = damage_there(problems.iter().filter(|(source, _)| is_damage_there(source)).count());
        if there.is_some() {
            return Ok(there);
        }
        let held = held_remain(self.engine.held_deletions()?.len());
        if held.is_some() {
            return Ok(held);
        }
        let conflicts = conflicts_remain(self.engine.conflict_count()?);
        if conflicts.is_some() {
            return Ok(conflicts);
        }
        Ok(unplaced_remain(self.engine.unplaced_count()?))
    }
}

/// Tells the log how long each step of a run took.
struct Steps(std::time::Instant);

impl Steps {
    fn done(&mut self, step: &'static str) {
        tracing::debug!(step, ms = self.0.elapsed().as_millis() as u64, "step");
        self.0 = std::time::Instant::now();
    }
}
