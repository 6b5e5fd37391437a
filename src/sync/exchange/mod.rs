//! The exchange: makes two stores hold the same artifacts, written once above `Transport`.
//!
//! It is a set union of immutable files, so it may be cut off anywhere, run again, run twice, and run with stores that
//! list late, short or falsely. Invariants: nothing is stored here that was not verified as what its name says; a
//! checkpoint is stored only after its predecessor and its records; a checkpoint is offered only after its parts; a
//! listing never removes anything, here or there. What it remembers (`Journal`) only makes the next run cheaper.
//!
//! It decides nothing about files or versions or whose turn it is, does not wait, retry or sleep: it reports, and the caller acts.

mod heal;
mod journal;
mod local;
mod look_back;
mod mend;
mod pull;
mod push;
mod report;
mod run;
mod settle;
mod survey;

#[cfg(test)]
mod tests;

pub use journal::{Journal, JournalError, MAX_HOLES, MemoryJournal, Watermark};
pub use local::{CheckpointFacts, Incoming, LocalError, LocalStore, Owner};
pub use report::{Cause, ExchangeError, Finding, Need, Problem, Report, Requests, Waiting};

use std::collections::{BTreeMap, BTreeSet};

use super::members::Members;
use super::{NoProgress, Progress};
use crate::index::{ClosedEnd, Floor};
use crate::ledger::ArtifactName;
use crate::model::{Chain, OriginName, Space};
use crate::transport::Transport;

/// Which way artifacts go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Both.
    Both,
    /// Only to the store.
    Push,
    /// Only from the store.
    Pull,
}

/// What is done with a chain of an owner who is neither accepted nor removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// It is taken, and its key remembered: for stores that the user named.
    FirstUse,
    /// It waits until somebody accepts the owner.
    Members,
}

/// How much of each chain is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thoroughness {
    /// From the watermark on: one page for a chain without news.
    News,
    /// Everything: finds what a damaged or rolled-back store lost below the watermark, and forks there.
    Whole,
}

/// How much one exchange may cost; what is left over comes at the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Requests to the store.
    pub requests: u64,
    /// Bytes got and put.
    pub bytes: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { requests: 1_000_000, bytes: 64 << 30 }
    }
}

/// What of an exchange is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// What other machines say: checkpoints and records come.
    Metadata,
    /// What is here goes out.
    Sending,
    /// Contents come.
    Contents,
}

/// Says whose turn it is: an exchange keeps whoever made it from everything else.
pub trait Turn {
    /// True if others wait, and what was moved is enough for now. Asked once something was moved, between two artifacts.
    fn is_over(&self, phase: Phase) -> bool;

    /// Told before the first artifact of each phase.
    fn begins(&self, _phase: Phase) {}

    /// False if others wait and there is no time for what moves nothing by itself, and is lost at the end of the turn.
    fn has_time_to_look(&self) -> bool {
        true
    }
}

/// Nobody else waits.
pub struct AllTheTime;

impl Turn for AllTheTime {
    fn is_over(&self, _phase: Phase) -> bool {
        false
    }
}

/// What is exchanged, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeConfig {
    /// The project: the first part of every name in the store, and what every checkpoint must say.
    pub app: String,
    /// The spaces that are meant for this store; nothing of any other is listed, sent or taken.
    pub spaces: Vec<Space>,
    /// The chains this machine writes now. They are never pulled; finding more of them there than here is a finding.
    pub own: Vec<Chain>,
    /// Which way.
    pub direction: Direction,
    /// False: nothing is pushed although the direction would allow it (nobody else reads this backend).
    pub push: bool,
    /// Who is believed.
    pub trust: Trust,
    /// Whose chains are taken in, and whose not any more, whatever the trust.
    pub members: Members,
    /// Chains that are known to wait for their owner to be accepted: they are told, and not asked for.
    pub apart: BTreeMap<Chain, Owner>,
    /// These chains alone; all if it is not said.
    pub only: Option<BTreeSet<Chain>>,
    /// Who only gives: chains of which both sides were found to hold the same, up to this newest checkpoint. While that is the newest
    /// here they are not looked at, and no others are looked for.
    pub even: BTreeMap<Chain, ArtifactName>,
    /// How much is listed.
    pub thoroughness: Thoroughness,
    /// The floors of chains: what stands below is neither offered nor fetched, whoever still holds it.
    pub floors: BTreeMap<Chain, Floor>,
    /// Where closed chains end that others stand for: whoever holds more of one goes on behind that.
    pub closed: BTreeMap<Chain, Vec<ClosedEnd>>,
    /// Artifacts that something here needs whatever the chains say: damaged ones, segments used from other chains.
    pub wanted: Vec<ArtifactName>,
    /// Parts that stand there and are missing here although what names them came before: taken as any other part is.
    pub late: Vec<ArtifactName>,
    /// Artifacts that the store was seen to hold with wrong bytes: word of them is left there.
    pub wrong_there: BTreeSet<ArtifactName>,
    /// Artifacts that others ask for there and that need no second look.
    pub checked: BTreeSet<ArtifactName>,
    /// Artifacts that are too large for the store, and how it said so: they are not offered, and told as if they had been refused again.
    pub too_large: BTreeMap<ArtifactName, String>,
    /// What one origin may fill here, in bytes; of who fills more nothing is fetched any more. Own chains do not count.
    pub max_origin_bytes: u64,
    /// What origins fill here, as far as it is known; else it is looked up.
    pub held_bytes: BTreeMap<OriginName, u64>,
    /// How much it may cost.
    pub budget: Budget,
}

impl ExchangeConfig {
    /// Both ways, first use, news only, the usual budget.
    pub fn new(app: &str, spaces: Vec<Space>) -> ExchangeConfig {
        ExchangeConfig {
            app: app.to_owned(),
            spaces,
            own: Vec::new(),
            direction: Direction::Both,
            push: true,
            trust: Trust::FirstUse,
            members: Members::default(),
            apart: BTreeMap::new(),
            only: None,
            even: BTreeMap::new(),
            thoroughness: Thoroughness::News,
            floors: BTreeMap::new(),
            closed: BTreeMap::new(),
            wanted: Vec::new(),
            late: Vec::new(),
            wrong_there: BTreeSet::new(),
            checked: BTreeSet::new(),
            too_large: BTreeMap::new(),
            max_origin_bytes: u64::MAX,
            held_bytes: BTreeMap::new(),
            budget: Budget::default(),
        }
    }

    fn pulls(&self) -> bool {
        self.direction != Direction::Push
    }

    fn pushes(&self) -> bool {
        self.push && self.direction != Direction::Pull
    }
}

/// Makes `local` and `remote` hold the same artifacts, as far as direction, trust and budget allow.
///
/// Order: what is damaged here and wanted; what each chain has; checkpoints and records from the store; ours to the store (packs, records, checkpoint,
/// chain by chain); packs from the store; watermarks. Idempotent and resumable: every artifact stored is stored for
/// good. One bad item stops no other: it is in the report. Errors: the place or the disk here is out of reach; the
/// error carries the report of what was done before.
pub fn exchange(
    local: &dyn LocalStore,
    remote: &dyn Transport,
    config: &ExchangeConfig,
    journal: &mut dyn Journal,
) -> Result<Report, ExchangeError> {
    exchange_in_turn(local, remote, config, journal, &NoProgress, &AllTheTime)
}

/// The same, telling how far it has come: checkpoints and packs that are still to be sent or received, as far as they are known; and
/// no longer than `turn` says.
pub fn exchange_in_turn(
    local: &dyn LocalStore,
    remote: &dyn Transport,
    config: &ExchangeConfig,
    journal: &mut dyn Journal,
    progress: &dyn Progress,
    turn: &dyn Turn,
) -> Result<Report, ExchangeError> {
    let mut run = run::Run::new((local, remote), config, journal, progress, turn);
    match run.all() {
        Ok(()) => Ok(run.report),
        Err(cause) => Err(ExchangeError { done: Box::new(run.report), cause }),
    }
}
