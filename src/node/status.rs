//! Status: what is known of a project at this moment, from the journal and the index alone.
//!
//! Invariant: the disk tree is never touched and no lock is taken, so it answers at once, daemon or not; what it says
//! is what the journal holds. A failure is shown until a later success of the same line.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::error::{Kind, NodeError};
use super::open::{Glance, warning_of_backend};
use crate::config::PeerSetting;
use crate::index::Index;
use crate::ledger::{ArtifactName, HEALING, Ledger};
use crate::state::{PeerLine, State};
use crate::sync::plan::UNPLACED;
use crate::sync::resolve::resolve;
use crate::sync::{BACKEND_MET, DAMAGE_THERE, IndexGraph, PEER_LINE, Stop, stops};

/// Conflicts, pending paths and problems listed; more are counted.
pub const MAX_LISTED: usize = 1_000;

/// The journal's line of the backend as a whole: opened and asked, whatever was exchanged.
const WHOLE_RUN: &str = "backend";

/// Who notices damage that an exchange may heal.
const DAMAGE: &str = "damage";

/// What is known of a project. The JSON form is stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The config file.
    pub config: String,
    /// The folder that paths are relative to.
    pub root: String,
    /// The id shared with copies elsewhere.
    pub app: String,
    /// Whose rows these are.
    pub owner: String,
    /// Who this install is; none before the first run.
    pub origin: Option<String>,
    /// Why nothing is recorded or written here: somebody else writes, or wrote, as this machine, or the next run would be refused.
    pub stopped: Option<StopStatus>,
    /// What is missing beside the ledger, so that little can be told, and what makes it anew.
    pub missing: Option<String>,
    /// The process that holds the project.
    pub running_pid: Option<u32>,
    /// The backend.
    pub backend: BackendStatus,
    /// The peers of the config, by name.
    pub peers: Vec<PeerStatus>,
    /// What is recorded.
    pub counts: CountStatus,
    /// Chains that were begun at a snapshot, on its signature: what came before it was never here, or was dropped.
    pub verified_from: Vec<VerifiedFrom>,
    /// Paths that wait.
    pub pending: Vec<PendingStatus>,
    /// Rows that the backend has not taken yet.
    pub outbox: Vec<OutboxStatus>,
    /// What is wrong with single things.
    pub problems: Vec<ProblemStatus>,
    /// Paths with edits that could not both be kept in place.
    pub conflicts: Vec<String>,
    /// Paths that were moved away and live on, because they were edited elsewhere.
    pub revived: Vec<RevivedStatus>,
    /// Deletions that wait for approval.
    pub held_deletions: Vec<String>,
    /// Worth knowing about the config.
    pub warnings: Vec<String>,
}

/// The backend and how the last contacts went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BackendStatus {
    /// Its address, secrets masked.
    pub address: String,
    /// True if there was a success and no failure after it.
    pub ok: bool,
    /// One for each store and direction.
    pub lines: Vec<ContactStatus>,
}

/// A peer and how the last contacts went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PeerStatus {
    /// What the config calls it.
    pub name: String,
    /// Its address, secrets masked.
    pub address: String,
    /// True if it was reached in every direction the config allows, and no failure came after it.
    pub ok: bool,
    /// One for each direction.
    pub lines: Vec<ContactStatus>,
}

impl BackendStatus {
    /// `ok`, `failing` or `never reached`.
    pub fn word(&self) -> &'static str {
        contact_word(self.ok, &self.lines)
    }
}

fn contact_word(ok: bool, lines: &[ContactStatus]) -> &'static str {
    if ok {
        "ok"
    } else if lines.iter().any(|line| line.failure_ms.is_some()) {
        "failing"
    } else {
        "never reached"
    }
}

impl PeerStatus {
    fn of(name: &str, setting: &PeerSetting, lines: &[PeerLine]) -> PeerStatus {
        let store = format!("{PEER_LINE}{name}");
        let own: Vec<&PeerLine> = lines.iter().filter(|line| line.store == store).collect();
        let reached = |way: &str| {
            own.iter().any(|line| line.direction == way && line.success_ms.is_some() && line.failure_ms.is_none())
        };
        PeerStatus {
            name: larder_patterns::shown(name),
            address: setting.address.to_string(),
            ok: (!setting.pull || reached("pull")) && (!setting.push || reached("push")),
            lines: own.into_iter().map(ContactStatus::from).collect(),
        }
    }

    /// `ok`, `failing` or `never reached`.
    pub fn word(&self) -> &'static str {
        contact_word(self.ok, &self.lines)
    }

    /// Why it is not ok; `None` if it is.
    fn failure(&self) -> Option<String> {
        let error = || self.lines.iter().find_map(|line| line.error.clone());
        let name = &self.name;
        (!self.ok).then(|| match error() {
            Some(error) => format!("the last exchange with the peer {name} failed: {error}"),
            None => format!("the peer {name} was never reached"),
        })
    }
}

/// One store in one direction. Times in wall milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContactStatus {
    /// Which store.
    pub store: String,
    /// `push` or `pull`.
    pub direction: String,
    /// The last success.
    pub success_ms: Option<i64>,
    /// The failure after it.
    pub failure_ms: Option<i64>,
    /// What it said.
    pub error: Option<String>,
}

/// Sums over what is recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CountStatus {
    /// Files with content now.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Versions, of all paths and origins.
    pub versions: u64,
    /// Versions that wait for their parents.
    pub waiting: u64,
    /// Versions left out, because they break a rule.
    pub rejected: u64,
    /// Records of kinds this release does not know.
    pub unknown: u64,
    /// Everything that waits for an upgrade: those records, and checkpoints that only a newer release can read.
    pub upgrade: u64,
    /// All deletions that wait for approval, listed or not.
    pub held_deletions: u64,
    /// All paths with edits that could not both be kept in place, listed or not.
    pub conflicts: u64,
    /// All files of other machines that have no place here until a person moves what stands in it.
    pub unplaced: u64,
    /// By who published.
    pub origins: Vec<OriginStatus>,
}

/// A chain whose first checkpoints are not here.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifiedFrom {
    /// Which chain.
    pub chain: String,
    /// The first checkpoint that was verified here, as `cp-<number>`.
    pub checkpoint: String,
}

/// What one origin published.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OriginStatus {
    /// Who.
    pub origin: String,
    /// How many versions.
    pub versions: u64,
    /// Files to which its own newest version gives content.
    pub files: u64,
}

/// Why nothing is recorded or written here.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StopStatus {
    /// What was seen.
    pub why: String,
    /// What settles it.
    pub way_on: String,
}

impl From<&Stop> for StopStatus {
    fn from(stop: &Stop) -> StopStatus {
        StopStatus { why: larder_patterns::shown(&stop.why), way_on: stop.way_on.clone() }
    }
}

impl StopStatus {
    /// What the next run would end with.
    fn of_refusal(error: &NodeError) -> StopStatus {
        let why = error.message.lines().map(|line| line.trim().trim_start_matches("- ")).collect::<Vec<_>>();
        let why = match &*why {
            [what, items @ ..] if !items.is_empty() => format!("{what} {}", items.join(", ")),
            whole => whole.concat(),
        };
        StopStatus { why, way_on: error.hint.clone().unwrap_or_default() }
    }
}

/// A path that waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PendingStatus {
    /// Where.
    pub path: String,
    /// What waits: `write`, `record`, `row`, `unplaced`.
    pub what: String,
    /// For what.
    pub why: String,
    /// Since when, in wall milliseconds.
    pub since_ms: i64,
}

/// A path that was moved away and lives on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RevivedStatus {
    /// The old path, which has the edit.
    pub path: String,
    /// The new path, which has what was moved.
    pub moved_to: String,
}

/// A row that the backend has not taken yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OutboxStatus {
    /// Where.
    pub path: String,
    /// Failed tries.
    pub attempts: u32,
    /// Tried again at this wall time, in milliseconds.
    pub next_ms: i64,
    /// What the last one said.
    pub error: String,
}

/// Something wrong that does not stop the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProblemStatus {
    /// Who noticed: `scan`, `patterns`, `exchange`, `peer <name>`, `ledger`, `damage`, `rows`, `clocks`, ..
    pub source: String,
    /// Where.
    pub path: String,
    /// What and what to do.
    pub what: String,
}

impl Glance {
    /// What is known now.
    pub fn status(&self) -> Result<Status, NodeError> {
        let settings = &self.settings;
        let shown = |path: &std::path::Path| larder_patterns::shown(&path.to_string_lossy());
        let mut status = Status {
            config: shown(settings.config.file()),
            root: shown(&settings.root_dir),
            app: larder_patterns::shown(&settings.app_id.value),
            owner: larder_patterns::shown(&settings.owner_id.value),
            origin: self.identity.as_ref().map(|identity| identity.origin().to_string()),
            running_pid: self.dirs.holder(),
            warnings: settings.warnings.iter().map(ToString::to_string).chain(warning_of_backend(settings)).collect(),
            ..Status::default()
        };
        status.backend.address = settings.backend.value.to_string();
        if let Some(state) = &self.state {
            status.read_suspicion(&self.dirs.index());
            status.read_journal(state)?;
            status.stopped = stops(state)?.first().map(StopStatus::from);
        }
        status.missing = self.missing.map(|missing| format!("{} is missing: {}", missing.path(), missing.way_on()));
        status.stopped = self.refused.as_ref().map(StopStatus::of_refusal).or(status.stopped);
        let lines = self.state.as_ref().map(State::peer_lines).transpose()?.unwrap_or_default();
        let peers = settings.peers.iter();
        status.peers = peers.map(|(name, setting)| PeerStatus::of(name, &setting.value, &lines)).collect();
        let ledger = Ledger::open(&self.dirs.larder)?;
        status.read_damage(&ledger)?;
        status.verified_from = self.verified_from(&ledger)?;
        let CountStatus { held_deletions, unplaced, .. } = status.counts;
        status.counts = CountStatus { held_deletions, unplaced, ..self.counts()? };
        let newer = crate::sync::exchange::Need::Upgrade.to_string();
        let checkpoints: BTreeSet<&str> =
            status.problems.iter().filter(|problem| problem.what == newer).map(|problem| &*problem.path).collect();
        status.counts.upgrade = status.counts.unknown + checkpoints.len() as u64;
        let conflicts = self.conflicts()?;
        status.counts.conflicts = conflicts.len() as u64;
        status.conflicts = conflicts.into_iter().take(MAX_LISTED).map(|found| found.slot.path.shown()).collect();
        status.revived = self.revived()?;
        Ok(status)
    }

    fn verified_from(&self, ledger: &Ledger) -> Result<Vec<VerifiedFrom>, NodeError> {
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let mut begun = Vec::new();
        for chain in ledger.chains()? {
            let floor = index.floor(&chain)?.seq;
            let first = ledger.checkpoint_names(&chain, floor - 1)?.into_iter().next();
            if let Some(ArtifactName::Checkpoint { seq, .. }) = first.filter(|_| begun.len() < MAX_LISTED)
                && seq > 1
            {
                begun.push(VerifiedFrom { chain: chain.to_string(), checkpoint: format!("cp-{seq}") });
            }
        }
        Ok(begun)
    }

    fn revived(&self) -> Result<Vec<RevivedStatus>, NodeError> {
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let told = |revived: crate::index::Revived| RevivedStatus {
            path: revived.slot.path.shown(),
            moved_to: revived.moved_to.shown(),
        };
        Ok(index.revived(MAX_LISTED)?.into_iter().map(told).collect())
    }

    fn counts(&self) -> Result<CountStatus, NodeError> {
        let Some(index) = &self.index else { return Ok(CountStatus::default()) };
        let counts = index.counts()?;
        let origin = |one: &crate::index::OriginCounts| OriginStatus {
            origin: one.origin.to_string(),
            versions: one.versions,
            files: one.live_files,
        };
        Ok(CountStatus {
            files: counts.live_files,
            bytes: counts.live_bytes,
            versions: counts.versions,
            waiting: counts.waiting,
            rejected: counts.rejected,
            unknown: counts.unknown,
            upgrade: counts.unknown,
            held_deletions: 0,
            conflicts: 0,
            unplaced: 0,
            origins: counts.origins.iter().map(origin).collect(),
        })
    }

    /// Every path whose heads could not be united, with winner and losers.
    pub fn conflicts(&self) -> Result<Vec<OpenConflict>, NodeError> {
        let (Some(index), Some(contents)) = (&self.index, &self.contents) else { return Ok(Vec::new()) };
        let graph = IndexGraph::new(index, contents);
        let mut open = Vec::new();
        for conflict in index.conflicts(super::history::MAX_CONFLICTS)? {
            let resolution = resolve(&conflict.heads, &graph);
            if resolution.is_conflict() {
                open.push(OpenConflict { slot: conflict.slot, winner: resolution.winner, losers: resolution.losers });
            }
        }
        Ok(open)
    }
}

/// A path with edits that could not both be kept in place.
pub struct OpenConflict {
    /// Where.
    pub slot: crate::index::Slot,
    /// The head that is on disk.
    pub winner: Option<crate::index::Stored>,
    /// The heads that are not, each readable and restorable.
    pub losers: Vec<crate::index::Stored>,
}

impl Status {
    fn read_journal(&mut self, state: &State) -> Result<(), NodeError> {
        let mut lines = state.peer_lines()?;
        lines.retain(|line| !line.store.starts_with(PEER_LINE));
        // The line of whole runs says nothing new unless the last one failed.
        let told = |line: &&PeerLine| line.store != WHOLE_RUN || line.failure_ms.is_some();
        // The last run may have met another one, by a flag or by what the config said then: that says nothing of this one.
        if state.meta_text(BACKEND_MET)?.is_some_and(|met| met != self.backend.address) {
            lines = state.lines_aside(&self.backend.address)?;
        }
        self.backend.lines = lines.iter().filter(told).map(ContactStatus::from).collect();
        let succeeded = lines.iter().any(|line| line.success_ms.is_some());
        self.backend.ok = succeeded && self.backend.lines.iter().all(|line| line.failure_ms.is_none());
        self.counts.unplaced = state.count_pending(UNPLACED)?;
        self.pending = state.pending()?.into_iter().take(MAX_LISTED).map(PendingStatus::from).collect();
        let held = state.held()?;
        self.counts.held_deletions = held.len() as u64;
        self.held_deletions = held.iter().take(MAX_LISTED).map(|(_, path, _)| path.shown()).collect();
        for (_, path, attempts, next_ms, error) in state.outbox()?.into_iter().take(MAX_LISTED) {
            self.outbox.push(OutboxStatus {
                path: path.shown(),
                attempts,
                next_ms,
                error: larder_patterns::shown(&error),
            });
        }
        for (source, problem) in state.problems()?.into_iter().take(MAX_LISTED) {
            let what = larder_patterns::shown(&problem.what);
            self.problems.push(ProblemStatus { source, path: problem.path, what });
        }
        Ok(())
    }

    fn read_suspicion(&mut self, index: &Path) {
        if Index::is_suspect(index) {
            let what = "damage was met in it; a run without a daemon looks through it and makes it anew, `larder rebuild` does it now";
            let (source, path) = ("index".to_owned(), "(index)".to_owned());
            self.problems.push(ProblemStatus { source, path, what: what.to_owned() });
        }
    }

    fn read_damage(&mut self, ledger: &Ledger) -> Result<(), NodeError> {
        for noted in ledger.noted_damage()?.into_iter().take(MAX_LISTED) {
            let what = format!("{}; {HEALING}", larder_patterns::shown(&noted.why));
            self.problems.push(ProblemStatus { source: DAMAGE.to_owned(), path: noted.name.to_string(), what });
        }
        Ok(())
    }

    /// True if nothing ever ran here.
    pub fn is_new(&self) -> bool {
        self.origin.is_none()
    }

    /// What somebody has to look at; gives the exit code.
    pub fn remains(&self) -> Option<NodeError> {
        if let Some(stop) = &self.stopped {
            return Some(stopped(&Stop { why: stop.why.clone(), way_on: stop.way_on.clone() }));
        }
        let with_hint = |kind, message: String, hint: &str| NodeError { kind, message, hint: Some(hint.to_owned()) };
        let of = |is: fn(&str) -> bool| self.problems.iter().filter(|problem| is(&problem.source)).count();
        let damaged = damage_remains(of(|source| source == DAMAGE)).or_else(|| damage_there(of(is_damage_there)));
        if damaged.is_some() {
            return damaged;
        }
        if self.problems.iter().any(|problem| problem.source == "ledger") {
            let message = "damage was found in the ledger".to_owned();
            return Some(with_hint(
                Kind::Damage,
                message,
                "run `larder verify`: it names what is damaged and what repairs it",
            ));
        }
        if let Some(missing) = &self.missing {
            return Some(NodeError::new(Kind::User, missing.clone()));
        }
        if self.is_new() {
            let message = "nothing was kept yet, the backend was never reached".to_owned();
            return Some(with_hint(
                Kind::Unavailable,
                message,
                "run `larder sync` once, or `larder up` to keep it running",
            ));
        }
        if !self.backend.ok {
            let failed = self.backend.lines.iter().find_map(|line| line.error.clone());
            let message = match failed {
                Some(error) => format!("the last contact with the backend failed: {error}"),
                None => "the backend was never reached".to_owned(),
            };
            return Some(with_hint(
                Kind::Unavailable,
                message,
                "files are kept here meanwhile; `larder sync` tries again",
            ));
        }
        if let Some(message) = self.peers.iter().find_map(PeerStatus::failure) {
            let hint = "everything else was done; `larder sync` tries again";
            return Some(with_hint(Kind::Unavailable, message, hint));
        }
        held_remain(self.counts.held_deletions as usize)
            .or_else(|| conflicts_remain(self.counts.conflicts as usize))
            .or_else(|| unplaced_remain(self.counts.unplaced))
    }
}

/// That a person has to say who goes on as this machine.
pub(super) fn stopped(stop: &Stop) -> NodeError {
    NodeError::user(format!("nothing is recorded or written here: {}", stop.why), stop.way_on.clone())
}

/// That something recorded here is damaged and nobody gave good bytes yet.
pub(super) fn damage_remains(count: usize) -> Option<NodeError> {
    let message = match count {
        0 => return None,
        1 => "1 thing recorded here is damaged or lost".to_owned(),
        _ => format!("{count} things recorded here are damaged or lost"),
    };
    Some(NodeError { kind: Kind::Damage, message, hint: Some(format!("see `larder status`: {HEALING}")) })
}

/// True for the source of what is damaged in a store.
pub(super) fn is_damage_there(source: &str) -> bool {
    source.ends_with(DAMAGE_THERE)
}

/// That a store holds wrong bytes under names that this machine asked for.
pub(super) fn damage_there(count: usize) -> Option<NodeError> {
    let message = match count {
        0 => return None,
        1 => "1 thing that a store holds is damaged there or was refused".to_owned(),
        _ => format!("{count} things that stores hold are damaged there or were refused"),
    };
    let hint =
        "see `larder status`: what is damaged, whoever has it whole puts right with `larder sync` or `larder repair`";
    Some(NodeError { kind: Kind::Damage, message, hint: Some(hint.to_owned()) })
}

/// That deletions wait for a person.
pub fn held_remain(count: usize) -> Option<NodeError> {
    let message = match count {
        0 => return None,
        1 => "1 deletion waits for you".to_owned(),
        _ => format!("{count} deletions wait for you"),
    };
    let hint = Some("see `larder deletes list`, then `larder deletes approve` or `restore`".to_owned());
    Some(NodeError { kind: Kind::Conflicts, message, hint })
}

/// That conflicts wait for a person.
pub(super) fn conflicts_remain(count: usize) -> Option<NodeError> {
    let message = match count {
        0 => return None,
        1 => "1 file has edits that could not both be kept in place".to_owned(),
        _ => format!("{count} files have edits that could not both be kept in place"),
    };
    Some(NodeError { kind: Kind::Conflicts, message, hint: Some("see `larder conflicts`".to_owned()) })
}

/// That files of elsewhere have no place until a person moves what stands in theirs.
pub(super) fn unplaced_remain(count: u64) -> Option<NodeError> {
    let message = match count {
        0 => return None,
        1 => "1 file of another machine has no place here, as something else stands in it".to_owned(),
        _ => format!("{count} files of other machines have no place here, as something else stands in it"),
    };
    Some(NodeError { kind: Kind::Conflicts, message, hint: Some("see what waits in `larder status`".to_owned()) })
}

impl From<&PeerLine> for ContactStatus {
    fn from(line: &PeerLine) -> ContactStatus {
        ContactStatus {
            store: line.store.clone(),
            direction: line.direction.clone(),
            success_ms: line.success_ms,
            failure_ms: line.failure_ms,
            error: line.error.as_deref().map(larder_patterns::shown),
        }
    }
}

impl From<crate::state::Pending> for PendingStatus {
    fn from(pending: crate::state::Pending) -> PendingStatus {
        let (path, why) = (larder_patterns::shown(&pending.path), larder_patterns::shown(&pending.why));
        PendingStatus { path, what: pending.what, why, since_ms: pending.since_ms }
    }
}
