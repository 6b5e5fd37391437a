//! The store on this side, as the exchange needs it; the ledger on disk is one, a map in the tests another.
//!
//! Invariant: `put` stores nothing whose bytes it has not proven to be what the name says.

use crate::ledger::{
    ArrivingPack, ArtifactName, Certificate, Checkpoint, Closed, Damage, Ledger, LedgerError, PublicKey, verify_bytes,
};
use crate::model::{ArtifactHash, Chain, OriginName, Space};
use crate::transport::Body;

/// Why the local store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It is not here.
    #[error("read {name}: not here")]
    Missing {
        /// Which artifact.
        name: ArtifactName,
    },
    /// The bytes are not what the name says.
    #[error("take {name}: {why}")]
    Refused {
        /// Which artifact.
        name: ArtifactName,
        /// What is wrong with them.
        why: String,
    },
    /// A newer release wrote it.
    #[error("take {name}: written by a newer release, upgrade larder")]
    Newer {
        /// Which artifact.
        name: ArtifactName,
    },
    /// The disk, or whatever holds the store, failed.
    #[error("use the ledger: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A person, by key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// What counts.
    pub key: PublicKey,
    /// A label.
    pub name: String,
}

impl Owner {
    /// Who vouches for a device.
    pub fn of(cert: &Certificate) -> Owner {
        Owner { key: cert.key, name: cert.owner.clone() }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:.8})", larder_patterns::shown(&self.name), self.key.to_string())
    }
}

/// What the exchange has to know of a verified checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointFacts {
    /// The project it says it belongs to.
    pub app: String,
    /// The hash of its bytes.
    pub hash: ArtifactHash,
    /// The hash of its predecessor; none for the first.
    pub prev: Option<ArtifactHash>,
    /// The key that signed it.
    pub key: [u8; 32],
    /// Whose device that is.
    pub owner: Owner,
    /// The number of the chain's last version so far.
    pub last_n: u64,
    /// How many versions came with it.
    pub versions: u64,
    /// Records artifacts that came with it: metadata, without which it is not taken.
    pub records: Vec<ArtifactName>,
    /// Packs that came with it: bulk, which may follow.
    pub packs: Vec<ArtifactName>,
    /// What a snapshot lists (records first); `None` for any other checkpoint.
    pub snapshot: Option<Vec<ArtifactName>>,
    /// Below this number it says that nothing need be kept; 1 if it says nothing of that.
    pub floor: u64,
    /// Chains of earlier generations that it stands for.
    pub closed: Vec<Closed>,
}

impl CheckpointFacts {
    /// Every artifact it names, each of which the store that holds it should hold: packs first, as they are offered.
    pub fn parts(&self) -> impl Iterator<Item = &ArtifactName> {
        self.packs.iter().chain(self.snapshot.iter().flatten()).chain(&self.records)
    }
}

/// An artifact that comes in parts. Dropped before its end, it leaves nothing.
pub trait Incoming {
    /// The next part.
    fn add(&mut self, bytes: &[u8]) -> Result<(), LocalError>;

    /// That was all: verifies the whole and stores it, durably. Errors: Refused if it is not what its name says.
    fn finish(self: Box<Self>) -> Result<(), LocalError>;
}

/// The artifacts of this machine. Safe together with whoever publishes meanwhile.
pub trait LocalStore {
    /// The chains of a space, in order.
    fn chains(&self, space: &Space) -> Result<Vec<Chain>, LocalError>;

    /// The checkpoints of a chain with a number of at least `from_seq`, by number, then hash.
    fn checkpoints(&self, chain: &Chain, from_seq: u64) -> Result<Vec<ArtifactName>, LocalError>;

    /// What an origin's artifacts fill here, in stored bytes.
    fn held_bytes(&self, origin: &OriginName) -> Result<u64, LocalError>;

    /// True if the artifact is here.
    fn has(&self, name: &ArtifactName) -> Result<bool, LocalError>;

    /// Its bytes as they travel, proven to be what the name says.
    fn read(&self, name: &ArtifactName) -> Result<Vec<u8>, LocalError>;

    /// As `read`, of an artifact that is better read in parts: what is not what the name says ends in an error in place of the
    /// end. `None` for one that is small, or not here: that is for `read` to say.
    fn open(&self, name: &ArtifactName) -> Result<Option<Body>, LocalError> {
        let _ = name;
        Ok(None)
    }

    /// Takes an artifact that comes in parts; `None` where `put` has to have it whole, as what is here already.
    fn receive<'a>(&'a self, name: &'a ArtifactName) -> Result<Option<Box<dyn Incoming + 'a>>, LocalError> {
        let _ = name;
        Ok(None)
    }

    /// Verifies that `bytes` are the checkpoint `name`, alone: form, hash, chain, number, signature.
    ///
    /// Pure. Errors: Refused, Newer.
    fn inspect(&self, name: &ArtifactName, bytes: &[u8]) -> Result<CheckpointFacts, LocalError>;

    /// The facts of a checkpoint that is here, and so was verified when it came. Errors: as `read`.
    fn facts(&self, name: &ArtifactName) -> Result<CheckpointFacts, LocalError> {
        self.inspect(name, &self.read(name)?)
    }

    /// Verifies that `bytes` are `name` and stores them, durably. Idempotent; a damaged copy here is healed.
    fn put(&self, name: &ArtifactName, bytes: &[u8]) -> Result<(), LocalError>;
}

impl From<LedgerError> for LocalError {
    fn from(error: LedgerError) -> LocalError {
        match error {
            LedgerError::Missing { name } => LocalError::Missing { name },
            LedgerError::Damaged { name, damage } => refusal(name, damage),
            LedgerError::Order { name, problem } => LocalError::Refused { name, why: problem.to_string() },
            other => LocalError::Failed(Box::new(other)),
        }
    }
}

fn refusal(name: ArtifactName, damage: Damage) -> LocalError {
    match damage {
        Damage::Version { .. } => LocalError::Newer { name },
        other => LocalError::Refused { name, why: other.to_string() },
    }
}

impl LocalStore for Ledger {
    fn chains(&self, space: &Space) -> Result<Vec<Chain>, LocalError> {
        let mut chains = Ledger::chains(self)?;
        chains.retain(|chain| chain.space == *space);
        Ok(chains)
    }

    fn checkpoints(&self, chain: &Chain, from_seq: u64) -> Result<Vec<ArtifactName>, LocalError> {
        Ok(self.checkpoint_names(chain, from_seq.saturating_sub(1))?)
    }

    fn held_bytes(&self, origin: &OriginName) -> Result<u64, LocalError> {
        Ok(Ledger::held_bytes(self, origin)?)
    }

    fn has(&self, name: &ArtifactName) -> Result<bool, LocalError> {
        Ok(Ledger::has(self, name))
    }

    fn read(&self, name: &ArtifactName) -> Result<Vec<u8>, LocalError> {
        let bytes = self.read_whole(name)?;
        verify_bytes(name, &bytes).map_err(|damage| refusal(name.clone(), damage))?;
        Ok(bytes)
    }

    fn open(&self, name: &ArtifactName) -> Result<Option<Body>, LocalError> {
        let reader = self.open_pack(name)?;
        Ok(reader.map(|reader| Body { size_bytes: reader.size_bytes(), reader: Box::new(reader) }))
    }

    fn receive<'a>(&'a self, name: &'a ArtifactName) -> Result<Option<Box<dyn Incoming + 'a>>, LocalError> {
        Ok(self.receive_pack(name)?.map(|arriving| Box::new(arriving) as Box<dyn Incoming>))
    }

    fn inspect(&self, name: &ArtifactName, bytes: &[u8]) -> Result<CheckpointFacts, LocalError> {
        checkpoint_facts(name, bytes)
    }

    fn facts(&self, name: &ArtifactName) -> Result<CheckpointFacts, LocalError> {
        let checkpoint = Checkpoint::reread(name, &self.read_whole(name)?);
        Ok(facts_of(checkpoint.map_err(|damage| refusal(name.clone(), damage))?))
    }

    fn put(&self, name: &ArtifactName, bytes: &[u8]) -> Result<(), LocalError> {
        Ok(Ledger::put(self, name, bytes).map(|_| ())?)
    }
}

impl Incoming for ArrivingPack<'_> {
    fn add(&mut self, bytes: &[u8]) -> Result<(), LocalError> {
        Ok(ArrivingPack::add(self, bytes)?)
    }

    fn finish(self: Box<Self>) -> Result<(), LocalError> {
        Ok(ArrivingPack::finish(*self)?)
    }
}

/// Verifies a checkpoint alone and takes out what the exchange needs.
pub(super) fn checkpoint_facts(name: &ArtifactName, bytes: &[u8]) -> Result<CheckpointFacts, LocalError> {
    Ok(facts_of(Checkpoint::parse(name, bytes).map_err(|damage| refusal(name.clone(), damage))?))
}

fn facts_of(checkpoint: Checkpoint) -> CheckpointFacts {
    let (mut records, mut packs) = (Vec::new(), Vec::new());
    for part in checkpoint.artifacts() {
        match part {
            ArtifactName::Pack { .. } => packs.push(part),
            _ => records.push(part),
        }
    }
    let snapshot = checkpoint.body.snapshot.as_ref().map(|_| {
        let mut listed: Vec<ArtifactName> = checkpoint.listed().collect();
        listed.sort_by_key(|name| std::cmp::Reverse(name.kind()));
        listed
    });
    let floor = checkpoint.floor();
    let closed = checkpoint.closed().into_iter().cloned().collect();
    CheckpointFacts {
        hash: checkpoint.hash,
        prev: checkpoint.body.prev,
        key: *checkpoint.body.key.as_bytes(),
        owner: Owner::of(&checkpoint.body.cert),
        last_n: checkpoint.body.last_n,
        versions: checkpoint.body.versions,
        app: checkpoint.body.app,
        records,
        packs,
        snapshot,
        floor,
        closed,
    }
}
