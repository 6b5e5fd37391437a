//! The engine: record what changed here, resolve heads, materialise results, mirror them into the backend.
//!
//! Invariant: one way round. The disk and foreign rows become versions in the ledger; heads come from the index; only
//! from heads do files and rows change. Each step can be stopped at any instruction and run again.
//! Knows nothing of commands, sockets or mounts.

mod again;
mod ahead;
mod apart;
mod append;
mod apply;
mod ask;
mod brake;
mod bundle;
mod closed;
mod content;
mod daily;
mod displaced;
mod durable;
pub mod exchange;
mod foreign;
mod garbage;
mod graph;
mod grow;
mod in_place;
mod inbox;
mod left;
mod look;
mod lost;
mod materialise;
mod members;
mod mirror;
mod observe;
mod own;
mod parents;
mod pauses;
mod peers;
pub mod place;
pub mod plan;
mod publish;
mod purge;
pub(crate) mod record;
mod remake;
pub mod resolve;
mod scrub;
mod seen;
mod settle;
mod stage;
mod star;
mod stores;
mod take;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use larder_adapters::{AdapterError, FileSyncAdapter};
use larder_patterns::Rules;

use crate::env::Env;
use crate::index::{ContentReader, Index, IndexError, Slot};
use crate::ledger::{Identity, Ledger, LedgerError, Tip};
use crate::model::{Channel, HlcClock, RelPath, Space, VersionId};
use crate::scan::{Root, ScanError};
use crate::state::{State, StateError};
use place::{PlaceError, Stage};
use resolve::{Resolution, resolve};

pub use apart::{Known, Standing, known_owners};
pub use bundle::BundleReport;
pub use garbage::{Collected, DroppedContent, GRACE_MS, StoreGarbage};
pub use graph::IndexGraph;
pub use inbox::INBOX;
pub use look::{StoreLook, look_through};
pub use observe::{Observation, Scope};
pub use own::{Stop, stops};
pub use peers::{Asked, PEER_LINE, Peer, claimed, held_there, open_peer, projects};
pub use purge::{KeptVersion, PurgeReport, PurgedVersion};
pub use star::StarChange;
pub use stores::{BACKEND_MET, DAMAGE_THERE};

/// Quiet time after which a file that did not change is taken as stable, in milliseconds.
pub const QUIET_MS: u64 = 50;

/// Why a step of the engine stopped.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The local state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The disk.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The backend.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A file could not be put in place.
    #[error("{path}: {source}")]
    Place {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: PlaceError,
    },
    /// Somebody else writes, or wrote, as this machine: nothing is recorded until a person settled it.
    #[error("{0}")]
    Stopped(Stop),
    /// What was asked for cannot be done.
    #[error("{path}: {why}")]
    Refused {
        /// What it was asked of.
        path: String,
        /// Why not.
        why: String,
    },
    /// The backend belongs to something else, or its marker is damaged.
    #[error("{0}")]
    Marker(String),
    /// The backend could not be asked for its artifacts.
    #[error(transparent)]
    Transport(#[from] crate::transport::TransportError),
    /// An operation on Larder's own folder.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
}

impl From<crate::index::ReplayError> for SyncError {
    fn from(error: crate::index::ReplayError) -> SyncError {
        match error {
            crate::index::ReplayError::Index(error) => SyncError::Index(error),
            crate::index::ReplayError::Ledger(error) => SyncError::Ledger(error),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, SyncError>;

pub(crate) fn io(doing: &'static str) -> impl Fn(std::io::Error) -> SyncError {
    move |source| SyncError::Io { doing, source }
}

/// What the rules of the open project say.
#[derive(Clone)]
pub struct Policy {
    /// Which paths are admitted.
    pub rules: Arc<Rules>,
    /// The project's id in stores.
    pub app: String,
    /// Whose rows the private ones are.
    pub owner: String,
    /// Larger files are skipped and listed, in bytes.
    pub max_file_bytes: u64,
    /// What one other origin may fill here, in bytes.
    pub max_origin_bytes: u64,
    /// Whether git's ignore rules hold.
    pub respect_gitignore: bool,
    /// Changes when the patterns do: newly admitted paths are a first contact.
    pub fingerprint: String,
    /// Who is believed in the backend and in every other place that says nothing of its own.
    pub trust: exchange::Trust,
    /// Where artifacts are exchanged beside the backend, by name.
    pub peers: Vec<Peer>,
}

/// What happened to one path.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Change {
    /// A new path.
    Created,
    /// Another content.
    Edited,
    /// Removed.
    Deleted,
    /// Moved here.
    Renamed {
        /// From where.
        from: String,
    },
    /// Found at first contact.
    Adopted,
}

/// What one run did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Report {
    /// Versions made from the disk.
    pub recorded: Vec<(String, Change)>,
    /// Versions made from rows that other programs wrote.
    pub recorded_rows: Vec<(String, Change)>,
    /// Files changed here.
    pub written: Vec<(String, Change)>,
    /// Rows written to the backend.
    pub rows_written: u64,
    /// Rows deleted from the backend.
    pub rows_deleted: u64,
    /// Artifacts taken from stores.
    pub pulled: u64,
    /// Artifacts given to stores.
    pub pushed: u64,
    /// Artifacts that a place named on the command line holds and that are not here: a dry run leaves them there, because
    /// what is here is written by the next run, whatever it was fetched for.
    pub to_receive: u64,
    /// Owners who were let in or taken out by this command, one sentence each.
    pub members: Vec<String>,
    /// Artifacts that were damaged or lost here and are whole again.
    pub healed: Vec<String>,
    /// Artifacts whose wrong bytes in a store were replaced by the right ones.
    pub mended: Vec<String>,
    /// Paths that wait, with the reason.
    pub waiting: Vec<(String, String)>,
    /// Paths with something wrong, with what to do.
    pub problems: Vec<(String, String)>,
    /// Bytes written to the ledger.
    pub ledger_bytes: u64,
    /// Bytes of row contents written to the backend.
    pub row_bytes: u64,
    /// Why the backend could not be reached, if it could not.
    pub backend_error: Option<String>,
    /// Peers that could not be exchanged with, and why.
    pub peer_errors: Vec<(String, String)>,
    /// With whom the exchange goes on behind this run, as a sentence names them.
    pub goes_on: Vec<String>,
    /// Why nothing was recorded or written: somebody else writes, or wrote, as this machine.
    pub stopped: Option<String>,
    /// The bundle that was written or taken in, if one was.
    pub bundle: Option<BundleReport>,
    /// What was purged, by this command or because this machine heard of it.
    pub purge: Option<PurgeReport>,
    /// Stars that a person gave or took away by this command.
    pub stars: Vec<StarChange>,
}

impl Report {
    /// True if nothing happened.
    pub fn is_empty(&self) -> bool {
        self.recorded.is_empty()
            && self.recorded_rows.is_empty()
            && self.written.is_empty()
            && self.rows_written + self.rows_deleted + self.pulled + self.pushed == 0
    }
}

/// Told how far a long step has come.
pub trait Progress: Send + Sync {
    /// `done` of `total` items of a step; `total` 0 means unknown.
    fn at(&self, step: &'static str, done: u64, total: u64);
}

/// Tells nobody.
pub struct NoProgress;

impl Progress for NoProgress {
    fn at(&self, _step: &'static str, _done: u64, _total: u64) {}
}

/// One own chain and where it ends.
struct OwnChain {
    chain: crate::model::Chain,
    tip: Option<Tip>,
    next_n: u64,
}

/// Everything the steps work on. One per open project, in one process at a time.
pub struct Engine {
    pub(crate) env: Env,
    pub(crate) policy: Policy,
    pub(crate) root: Arc<Root>,
    pub(crate) stage: Stage,
    pub(crate) state: State,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) index: Index,
    pub(crate) contents: Arc<ContentReader>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) adapter: Option<Arc<dyn FileSyncAdapter>>,
    pub(crate) progress: Arc<dyn Progress>,
    clock: HlcClock,
    chains: BTreeMap<Space, OwnChain>,
    private_space: Space,
    /// Row numbers of the index up to which disk and backend agree with the heads.
    materialised: i64,
    mirrored: i64,
    /// The backend as a place for artifacts, once it was claimed.
    transport: Option<Arc<crate::transport::BackendTransport>>,
    /// Which database `transport` was made for.
    met_store: Option<String>,
    /// Peers that were opened, by name.
    open_peers: BTreeMap<String, peers::OpenPeer>,
    /// Peers that failed when they were tried last.
    away: std::collections::BTreeSet<String>,
    /// When those that kept a run waiting are tried again.
    pauses: pauses::Pauses,
    /// The backend asked to be left alone.
    rest: Option<pauses::Rest>,
    /// How long places are waited for.
    deadlines: crate::transport::Deadlines,
    /// What stopped because others waited.
    left_over: turn::LeftOver,
    /// When a store was last listed whole, by its label.
    whole_exchanges_ms: BTreeMap<String, u64>,
    /// Of these the last such look ended before both sides were compared.
    uncompared: BTreeSet<String>,
    /// What one round of an exchange may cost; rounds follow each other until all is done.
    pub(crate) exchange_budget: exchange::Budget,
    /// Something was begun to be published, and whoever asked for it has not been told that all went well.
    publishing: bool,
    /// `fts.db`, if there is one.
    words: PathBuf,
    /// How much is recorded at once.
    pub(crate) batch_versions: record::BatchVersions,
    /// Where somebody else was seen to go on as we, and the sentence: while there is any, nothing is published.
    publishing_stopped: BTreeMap<String, Stop>,
    /// What each origin fills here, in bytes, as far as it was asked.
    held_bytes: BTreeMap<crate::model::OriginName, u64>,
    /// What exchanges told of each store that the next one has to know, by the journal's line.
    told: BTreeMap<String, stores::Told>,
    /// This run only lists.
    dry_run: bool,
    /// A chain in the backend waits for its owner to be accepted: its rows are nobody's edits.
    rows_wait: bool,
    /// The folder that was read in last.
    folders: place::Folders,
    /// Line files that are recorded while they grow.
    growing: std::collections::BTreeSet<RelPath>,
    /// Paths whose interrupted change could not be settled yet.
    unfinished: std::collections::BTreeSet<RelPath>,
    /// Intents whose commit failed, with what was staged for them.
    unannounced: Vec<crate::state::Intent>,
    /// Paths that the next look takes in whatever it is for.
    pub(crate) again: again::Again,
    /// Row number of the index up to which it is known which held deletions still wait.
    held_judged: i64,
    /// How many bytes each displaced file had when it was first looked at, by its id.
    displaced_bytes: BTreeMap<String, u64>,
    /// Files in `.larder/displaced` that nothing names, as they were told.
    kept_in_stage: std::collections::BTreeSet<String>,
    /// The undo list of this run, once it has been begun.
    undo_batch: Option<i64>,
    /// Paths whose rows a dry run would write.
    planned_rows: std::collections::BTreeSet<String>,
    /// Rows that a mirror write found changed by another program.
    late_rows: Vec<larder_adapters::Row>,
    /// Spaces in which everything that is held was told, or is not worth telling alone.
    seen_told: std::collections::BTreeSet<Space>,
    /// What was told and is not in `state.db` yet.
    told_later: BTreeMap<String, String>,
    /// What waits of purges was told in this process.
    purges_told: bool,
    /// Of each space the damage and the purges with which an own chain could not be rewritten.
    swept_in_vain: BTreeMap<Space, crate::model::Hash>,
    /// A floor rose since it was looked whether anything needs what it let go.
    rescue_due: bool,
    /// Rows written while recording goes on, if that was asked for.
    ahead: Option<ahead::Ahead>,
}

/// What `Engine::new` is built from.
pub struct Parts {
    /// Clock, randomness, variables.
    pub env: Env,
    /// What the config says.
    pub policy: Policy,
    /// `.larder`.
    pub larder_dir: PathBuf,
    /// The project's root folder.
    pub root: Arc<Root>,
    /// `state.db`.
    pub state: State,
    /// `.larder/ledger`.
    pub ledger: Arc<Ledger>,
    /// `index.db`, brought up to the ledger.
    pub index: Index,
    /// Reads contents.
    pub contents: Arc<ContentReader>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// The mirror, if there is one.
    pub adapter: Option<Arc<dyn FileSyncAdapter>>,
    /// Told how far long steps have come.
    pub progress: Arc<dyn Progress>,
    /// How long places are waited for, the mirror among them.
    pub deadlines: crate::transport::Deadlines,
}

impl Engine {
    /// Puts the parts together and settles what the last run left open.
    pub fn new(parts: Parts) -> Result<Engine> {
        let stage = Stage::open(&parts.larder_dir.join("displaced")).map_err(io("open .larder/displaced"))?;
        let floor = parts.state.meta_i64("hlc_floor")?.unwrap_or(0) as u64;
        let private_space = parts.identity.private_space();
        let mut engine = Engine {
            clock: HlcClock::new(crate::model::Hlc::from_u64(floor)),
            env: parts.env,
            policy: parts.policy,
            root: parts.root,
            stage,
            state: parts.state,
            ledger: parts.ledger,
            index: parts.index,
            contents: parts.contents,
            identity: parts.identity,
            adapter: parts.adapter,
            progress: parts.progress,
            chains: BTreeMap::new(),
            private_space,
            materialised: 0,
            mirrored: 0,
            transport: None,
            met_store: None,
            open_peers: BTreeMap::new(),
            away: std::collections::BTreeSet::new(),
            pauses: pauses::Pauses::default(),
            rest: None,
            deadlines: parts.deadlines,
            left_over: turn::LeftOver::default(),
            whole_exchanges_ms: BTreeMap::new(),
            uncompared: BTreeSet::new(),
            publishing: false,
            words: parts.larder_dir.join("fts.db"),
            batch_versions: record::BatchVersions::default(),
            exchange_budget: exchange::Budget::default(),
            publishing_stopped: BTreeMap::new(),
            held_bytes: BTreeMap::new(),
            told: BTreeMap::new(),
            dry_run: false,
            rows_wait: false,
            folders: place::Folders::default(),
            growing: std::collections::BTreeSet::new(),
            unfinished: std::collections::BTreeSet::new(),
            unannounced: Vec::new(),
            again: again::Again::default(),
            held_judged: 0,
            displaced_bytes: BTreeMap::new(),
            kept_in_stage: std::collections::BTreeSet::new(),
            undo_batch: None,
            planned_rows: std::collections::BTreeSet::new(),
            late_rows: Vec::new(),
            seen_told: std::collections::BTreeSet::new(),
            told_later: BTreeMap::new(),
            purges_told: false,
            swept_in_vain: BTreeMap::new(),
            rescue_due: false,
            ahead: None,
        };
        engine.begin_identity()?;
        engine.load_marks()?;
        engine.load_stops()?;
        engine.settle()?;
        Ok(engine)
    }

    /// Row marks are only worth something for the very index they were made with.
    fn load_marks(&mut self) -> Result<()> {
        let epoch = self.index.epoch() as i64;
        let known = self.state.meta_i64("index_epoch")? == Some(epoch);
        let max = self.index.max_row()?;
        let mark = |name: &str| -> Result<i64> {
            let value = self.state.meta_i64(name)?.unwrap_or(0);
            Ok(if known && value <= max { value } else { 0 })
        };
        self.materialised = mark("materialised")?;
        self.mirrored = mark("mirrored")?;
        self.state.set_meta_i64("index_epoch", epoch)?;
        Ok(())
    }

    /// Saves the row marks and the clock's floor; part of a transaction of the caller.
    fn save_marks(&self) -> Result<()> {
        self.save_told()?;
        self.state.set_meta_i64("materialised", self.materialised)?;
        self.state.set_meta_i64("mirrored", self.mirrored)?;
        self.state.set_meta_i64("hlc_floor", self.clock.floor().as_u64() as i64)?;
        Ok(())
    }

    /// Now, in wall milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.env.clock.wall_ms()
    }

    /// The space a channel's versions live in.
    pub fn space_of(&self, channel: Channel) -> Space {
        match channel {
            Channel::Private => self.private_space.clone(),
            Channel::Shared | Channel::Archive => Space::shared(),
        }
    }

    /// The slot of a path in a channel; an archive file is (origin, path).
    pub fn slot_of(&self, channel: Channel, path: &RelPath) -> Slot {
        let origin = (channel == Channel::Archive).then(|| self.identity.origin().clone());
        Slot { space: self.space_of(channel), origin, path: path.clone() }
    }

    /// What a slot resolves to by what is known now.
    pub fn resolution(&self, slot: &Slot) -> Result<Resolution> {
        let heads = self.index.heads(slot)?;
        Ok(resolve(&heads, &IndexGraph::new(&self.index, &self.contents)))
    }

    /// Uses new rules from here on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The ids of a resolution as the mirror's entry holds them.
    pub(crate) fn version_text(versions: &[VersionId]) -> String {
        let ids: Vec<String> = versions.iter().map(VersionId::to_string).collect();
        ids.join(",")
    }
}
