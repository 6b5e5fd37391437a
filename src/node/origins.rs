//! Origins: who writes in this project, and who this folder is from now on.
//!
//! Invariant: an identity changes only by a person's word, under the project's lock; what the one before recorded stays, and
//! nothing on disk is touched. An origin that there was already is only continued with a generation above all that any store
//! or the ledger holds, so every store must be heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{Kind, NodeError};
use super::open::{
    Glance, Node, OpenOptions, ProjectDirs, backend_of, create_private_folder, require_consent, set_aside_foreign,
};
use crate::config::Settings;
use crate::env::Env;
use crate::ledger::{ArtifactName, Identity, Ledger};
use crate::model::{Chain, OriginName, Space};
use crate::sync::{Progress, SyncError, open_peer};
use crate::transport::{BackendTransport, Depth, ListRequest, MAX_PAGE_NAMES, Transport, TransportError};

/// Pages of one folder of a store that are looked at.
const MAX_PAGES: usize = 100;

/// One origin that is known here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OriginLine {
    /// Its name.
    pub origin: String,
    /// True if it is this folder.
    pub here: bool,
    /// The generations of its chains that are here, ascending.
    pub generations: Vec<u32>,
    /// Versions it published.
    pub versions: u64,
    /// Files to which its own newest version gives content.
    pub files: u64,
    /// When it last published, as far as is known here, in wall milliseconds by its own clock.
    pub last_ms: Option<u64>,
    /// Two machines wrote as it, and none went on as a later generation yet.
    pub forked: bool,
}

/// An origin that goes on here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Adopted {
    /// Its name.
    pub origin: OriginName,
    /// The generation that is written from now on.
    pub generation: u32,
}

impl Glance {
    /// Every origin whose chains are here, by name; and this one.
    pub fn origins(&self) -> Result<Vec<OriginLine>, NodeError> {
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let ledger = Ledger::open(&self.dirs.larder)?;
        let own = self.identity.as_ref().map(Identity::origin);
        let mut chains: BTreeMap<OriginName, Vec<Chain>> = BTreeMap::new();
        chains.extend(own.map(|own| (own.clone(), Vec::new())));
        for chain in ledger.chains()? {
            chains.entry(chain.origin.clone()).or_default().push(chain);
        }
        let counts = index.counts()?.origins;
        let mut lines = Vec::new();
        for (origin, chains) in chains {
            let generations: BTreeSet<u32> = chains.iter().map(|chain| chain.generation).collect();
            let newest = generations.last().copied();
            let counted = counts.iter().find(|counted| counted.origin == origin);
            let mut line = OriginLine {
                here: own == Some(&origin),
                origin: origin.to_string(),
                generations: generations.into_iter().collect(),
                versions: counted.map_or(0, |counted| counted.versions),
                files: counted.map_or(0, |counted| counted.live_files),
                last_ms: None,
                forked: false,
            };
            for chain in &chains {
                line.look_at(&ledger, chain, newest)?;
            }
            lines.push(line);
        }
        Ok(lines)
    }
}

impl OriginLine {
    fn look_at(&mut self, ledger: &Ledger, chain: &Chain, newest: Option<u32>) -> Result<(), NodeError> {
        let names = ledger.checkpoint_names(chain, 0)?;
        // What cannot be read is named by `verify`; here it only tells no time.
        let last = names.last().and_then(|name| ledger.read_checkpoint(name).ok());
        self.last_ms = self.last_ms.max(last.map(|checkpoint| checkpoint.body.hlc.wall_ms()));
        let mut numbers = BTreeSet::new();
        let forked = names.iter().any(|name| match name {
            ArtifactName::Checkpoint { seq, .. } => !numbers.insert(*seq),
            _ => false,
        });
        self.forked |= forked && newest == Some(chain.generation);
        Ok(())
    }
}

/// Makes this folder a machine of its own, in place of whatever it was. Everything recorded stays.
pub fn new_origin(env: &Env, options: &OpenOptions, progress: Arc<dyn Progress>) -> Result<(), NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, options.trust)?;
    let dirs = ProjectDirs::of(&settings.config);
    create_private_folder(&dirs.larder)?;
    let lock = options.lock_of(&dirs)?;
    let identity = Identity::create(&dirs.larder, env, &settings.owner_id.value)?;
    drop(Node::assemble(env, options, settings, dirs, lock, identity, progress)?);
    Ok(())
}

/// Goes on as an origin that there was already: one whose machine is lost, or this very one after a restored backup or
/// when another machine wrote as it. With `dry_run` says only which generation it would be.
///
/// Errors: User if nobody knows the name, or for no consent; Unavailable if a store cannot be heard.
pub fn adopt_origin(
    env: &Env,
    options: &OpenOptions,
    name: &str,
    dry_run: bool,
    progress: Arc<dyn Progress>,
) -> Result<Adopted, NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, options.trust)?;
    let dirs = ProjectDirs::of(&settings.config);
    refuse_no_name(name)?;
    let adopted = next_of(name, &heard_chains(&settings, env, options, &dirs)?)?;
    if dry_run {
        return Ok(adopted);
    }
    let owner = settings.owner_id.value.clone();
    if options.lock.is_none() {
        set_aside_foreign(&dirs, env, &owner)?;
    }
    create_private_folder(&dirs.larder)?;
    let lock = options.lock_of(&dirs)?;
    let identity = Identity::adopt(&dirs.larder, env, &owner, adopted.origin.clone(), adopted.generation)?;
    drop(Node::assemble(env, options, settings, dirs, lock, identity, progress)?);
    Ok(adopted)
}

fn refuse_no_name(name: &str) -> Result<(), NodeError> {
    name.parse::<OriginName>().map(drop).map_err(|_| {
        let message = format!("no machine can be called {}", larder_patterns::shown(name));
        NodeError::user(message, "`larder origin list` shows those that are known here")
    })
}

/// The generation after the highest that is known.
fn next_of(name: &str, known: &BTreeSet<Chain>) -> Result<Adopted, NodeError> {
    let own = known.iter().filter(|chain| chain.origin.as_str() == name);
    let last = own.max_by_key(|chain| chain.generation).ok_or_else(|| unknown(name, known))?;
    let generation = last.generation.checked_add(1).ok_or_else(|| unknown(name, known))?;
    Ok(Adopted { origin: last.origin.clone(), generation })
}

fn unknown(name: &str, known: &BTreeSet<Chain>) -> NodeError {
    let names: BTreeSet<&str> = known.iter().map(|chain| chain.origin.as_str()).collect();
    let names: Vec<&str> = names.into_iter().take(20).collect();
    let hint = match names.as_slice() {
        [] => "no store and no ledger here holds anything: name the store first with `larder peers add`".to_owned(),
        _ => format!("known here and in the stores are {}", names.join(", ")),
    };
    NodeError::user(format!("nobody knows a machine called {name}"), hint)
}

/// Every chain that the ledger here or any store of the config holds.
fn heard_chains(
    settings: &Settings,
    env: &Env,
    options: &OpenOptions,
    dirs: &ProjectDirs,
) -> Result<BTreeSet<Chain>, NodeError> {
    let mut known = BTreeSet::new();
    if dirs.larder.is_dir() {
        known.extend(Ledger::open(&dirs.larder)?.chains()?);
        if let Ok(identity) = Identity::load(&dirs.larder) {
            // It may have written nothing yet.
            known.insert(identity.chain(Space::shared()));
        }
    }
    let app = &settings.app_id.value;
    let unheard = |name: &str, error: TransportError| {
        let hint = "its generations may stand there, so it must be heard first; if it is gone for good, take it out of the config";
        NodeError { hint: Some(hint.to_owned()), ..NodeError::new(Kind::Unavailable, format!("{name}: {error}")) }
    };
    for (name, peer) in &settings.peers {
        let place = open_peer(env, &peer.value.address, app, &settings.root_dir, &dirs.larder)
            .map_err(|error| unheard(name, error))?;
        chains_of(&*place, app, &mut known).map_err(|error| unheard(name, error))?;
    }
    let place =
        BackendTransport::new(backend_of(options, settings, env)?, app, "the backend").map_err(SyncError::from)?;
    chains_of(&place, app, &mut known).map_err(|error| unheard("the backend", error))?;
    Ok(known)
}

fn chains_of(place: &dyn Transport, app: &str, known: &mut BTreeSet<Chain>) -> Result<(), TransportError> {
    let top = format!("{app}/");
    for space in folders(place, &top)? {
        let folders = folders(place, &format!("{top}{space}/"))?;
        // What is no chain's folder, as the markers', does not parse.
        known.extend(folders.iter().filter_map(|folder| format!("{space}/{folder}").parse::<Chain>().ok()));
    }
    Ok(())
}

/// The names of the folders directly below a prefix.
fn folders(place: &dyn Transport, prefix: &str) -> Result<Vec<String>, TransportError> {
    let mut request = ListRequest { limit: MAX_PAGE_NAMES, ..ListRequest::new(prefix, Depth::Children) };
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES {
        let listing = place.list(&request)?;
        let names = listing.names.iter().filter_map(|name| name.strip_prefix(prefix)?.strip_suffix('/'));
        found.extend(names.map(str::to_owned));
        request.after = listing.names.last().cloned();
        if !listing.more || listing.names.is_empty() {
            break;
        }
    }
    Ok(found)
}
