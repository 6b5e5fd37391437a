//! What an exchange did, what waits, what is wrong: facts for `status` and for the engine.
//!
//! Invariant: everything that was passed over is in here by name or in a count; nothing is only logged.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::JournalError;
use super::local::{LocalError, Owner};
use crate::ledger::{ArtifactKind, ArtifactName};
use crate::model::{Chain, Hash, OriginName};
use crate::transport::TransportError;

/// Requests made, by verb.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Requests {
    /// Pages listed.
    pub list: u64,
    /// Artifacts asked for.
    pub get: u64,
    /// Artifacts offered.
    pub put: u64,
    /// Questions for the heads of all chains at once.
    pub heads: u64,
}

impl Requests {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.list + self.get + self.put + self.heads
    }
}

/// What something waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// The checkpoint with this number, which no side could give.
    Checkpoint {
        /// Its number.
        seq: u64,
    },
    /// A records artifact of it.
    Records {
        /// Which.
        name: ArtifactName,
    },
    /// Somebody who accepts the chain's owner.
    Owner(Owner),
    /// A newer release of Larder.
    Upgrade,
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Need::Checkpoint { seq } => write!(f, "waits for checkpoint {seq} before it, which has not come yet"),
            Need::Records { name } => write!(f, "waits for {name}, which has not come yet"),
            Need::Owner(owner) => write!(
                f,
                "waits unread: its owner {owner} is not accepted here; `larder peers accept {}` lets it in",
                owner.key
            ),
            Need::Upgrade => f.write_str("waits for an upgrade of larder: a newer release wrote it"),
        }
    }
}

/// Something that is there and cannot be taken yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The checkpoint; those after it in its chain wait with it.
    pub name: ArtifactName,
    /// For what.
    pub need: Need,
}

/// One item that went wrong while the others went on.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The place did not do it.
    #[error(transparent)]
    Remote(#[from] TransportError),
    /// Bytes from outside, or our own, are not what their name says.
    #[error("take {name}: {why}")]
    Refused {
        /// Which artifact.
        name: ArtifactName,
        /// What is wrong with it.
        why: String,
    },
    /// A newer release wrote it.
    #[error("{}", Need::Upgrade)]
    Newer {
        /// Which artifact.
        name: ArtifactName,
    },
    /// A chain's owner was taken out of those who may write.
    #[error(
        "take more of {chain}: its owner {owner} was removed; what was taken in stays; `larder peers accept {}` lets it in again",
        owner.key
    )]
    Removed {
        /// Which chain.
        chain: Chain,
        /// Whose.
        owner: Owner,
    },
    /// A chain is left for now because too much of it is bad.
    #[error("go on with {chain}: {bad} of its artifacts in the store are bad")]
    GaveUp {
        /// Which chain.
        chain: Chain,
        /// How many were tried.
        bad: u64,
    },
    /// An origin fills its share of this machine.
    #[error("fetch more of {origin}: it fills {held_bytes} bytes here, and maxOriginBytes allows {limit_bytes}")]
    OriginFull {
        /// Which origin.
        origin: OriginName,
        /// What it fills.
        held_bytes: u64,
        /// What it may.
        limit_bytes: u64,
    },
}

/// A chain is not as its writer alone would leave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Our own chain goes on in the store: a restored backup or a cloned disk. Publishing must stop.
    OwnChainAhead {
        /// Our chain.
        chain: Chain,
        /// The last number here.
        here: u64,
        /// The first checkpoint there that is not here.
        there: ArtifactName,
    },
    /// Our own chain has another checkpoint on a number: two writers. Publishing must stop.
    OwnChainForked {
        /// Our chain.
        chain: Chain,
        /// Ours on that number, or our last one.
        here: Option<ArtifactName>,
        /// Theirs.
        there: ArtifactName,
    },
    /// Somebody's chain has several checkpoints on one number. Both branches are kept; the watermark stays below.
    Forked {
        /// Their chain.
        chain: Chain,
        /// The lowest such number.
        seq: u64,
        /// All checkpoints on it.
        names: Vec<ArtifactName>,
    },
    /// A checkpoint is signed by another key than its chain's; it and what follows it are refused.
    KeyChanged {
        /// The checkpoint.
        name: ArtifactName,
        /// The fingerprint of the accepted key.
        accepted: String,
        /// The fingerprint of the other.
        found: String,
    },
    /// A snapshot says that more must be kept than an earlier one of its chain said: what was dropped stays dropped.
    FloorLowered {
        /// The later snapshot.
        name: ArtifactName,
        /// What it says.
        floor: u64,
        /// What was accepted before.
        accepted: u64,
    },
    /// The store once held checkpoints that it does not list now: rolled back, or another disk. It is filled again.
    StoreRolledBack {
        /// Which chain.
        chain: Chain,
        /// What it held.
        held: u64,
    },
}

impl Finding {
    /// True if this machine must not publish until a person said which chain is the real one.
    pub fn stops_publishing(&self) -> bool {
        matches!(self, Finding::OwnChainAhead { .. } | Finding::OwnChainForked { .. })
    }
}

/// What an exchange did.
#[derive(Debug, Default)]
pub struct Report {
    /// Stored here, in the order in which they were.
    pub pulled: Vec<ArtifactName>,
    /// Offered and there now, in order; what was there already is not named.
    pub pushed: Vec<ArtifactName>,
    /// Chains of which both sides hold the same, all of it, and their newest checkpoint.
    pub even: BTreeMap<Chain, ArtifactName>,
    /// Checkpoints that are there and cannot be taken yet.
    pub waiting: Vec<Waiting>,
    /// Artifacts that something here names and that are neither here nor there.
    pub phantoms: BTreeSet<ArtifactName>,
    /// Artifacts that are here with wrong bytes.
    pub damaged: BTreeSet<ArtifactName>,
    /// Artifacts that the store holds with bytes that can never be theirs, and that were not put right.
    pub wrong_there: BTreeSet<ArtifactName>,
    /// Artifacts whose wrong bytes in the store were replaced by ours.
    pub mended: Vec<ArtifactName>,
    /// Artifacts that somebody asks for although their bytes in the store are right as seen from here.
    pub checked: BTreeSet<ArtifactName>,
    /// Artifacts that the store would not take for their size, and how it said so.
    pub too_large: BTreeMap<ArtifactName, String>,
    /// What is wrong with chains.
    pub findings: Vec<Finding>,
    /// What went wrong with single items.
    pub problems: Vec<Problem>,
    /// Names in listings that are no artifacts of the chain that was listed.
    pub ignored_names: u64,
    /// What origins fill here, in bytes, as far as it was asked.
    pub held_bytes: BTreeMap<OriginName, u64>,
    /// What it cost.
    pub requests: Requests,
    /// The budget ran out: the rest comes at the next exchange.
    pub budget_spent: bool,
    /// It stopped because others wait: the rest comes at the next exchange.
    pub gave_way: bool,
    /// It did so in the midst of an artifact, with which the place goes on.
    pub is_at_work: bool,
    /// What both sides hold was compared to the last part: nothing that either lacks was passed by.
    pub has_compared: bool,
    /// A listing was cut off: nothing says what else the store holds, or lacks.
    pub unheard: bool,
    /// Why the place takes nothing from us, if it refused something: a person has to act.
    pub refused: Option<String>,
}

impl Report {
    /// The checkpoints that came, in an order in which they can be replayed: each after its predecessor.
    pub fn imported(&self) -> impl Iterator<Item = &ArtifactName> {
        self.pulled.iter().filter(|name| name.kind() == ArtifactKind::Checkpoint)
    }

    /// True if this machine must not publish until a person said which chain is the real one.
    pub fn stops_publishing(&self) -> bool {
        self.findings.iter().any(Finding::stops_publishing)
    }

    /// True if the other side has nothing we lack, we nothing it lacks, and nothing went wrong.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
            && self.phantoms.is_empty()
            && self.problems.is_empty()
            && !self.budget_spent
            && !self.gave_way
    }
}

/// What ended an exchange early.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The place is out of reach.
    #[error(transparent)]
    Remote(#[from] TransportError),
    /// The ledger here failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The journal here failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An exchange that ended early.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct ExchangeError {
    /// What was done before; what was pulled is stored for good and wants to be replayed.
    pub done: Box<Report>,
    /// What ended it.
    #[source]
    pub cause: Cause,
}

/// A key as it is shown to people.
pub(super) fn fingerprint(key: &[u8; 32]) -> String {
    Hash::of(key).short(8)
}
