//! Origins: who writes in this project, and who this folder is from now on.
//!
//! Invariant: an identity changes only by a person's word, under the project's lock; what the one before recorded stays, and
//! nothing on disk is touched. An origin that there was already is only continued with a generation above all that is known, and drawn
//! there, so that two machines that adopt it at once write two chains. Every store must be heard, unless one that holds the newest
//! that is known here answers, or a person does without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{Kind, NodeError};
use super::identity::{refuse_another_users, set_aside_foreign};
use super::open::{Glance, Node, OpenOptions, ProjectDirs, backend_of, create_private_folder, require_consent};
use crate::config::Settings;
use crate::env::Env;
use crate::ledger::{ArtifactName, Identity, Ledger};
use crate::model::{Chain, OriginName, Space};
use crate::sync::{Progress, SyncError, open_peer};
use crate::transport::{BackendTransport, Deadlines, Depth, ListRequest, MAX_PAGE_NAMES, Transport, TransportError};

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

/// How many generations above the last one a new one is drawn from: two that draw at once meet once in a million times.
const GENERATIONS_DRAWN: u32 = 1 << 20;
/// What a person calls the project's database among stores.
const BACKEND: &str = "backend";
/// Bytes of a checkpoint that are asked for to see that it is there.
const LOOK_BYTES: u64 = 1 << 20;

/// Whom a folder is to go on as.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Adoption {
    /// Its name.
    pub name: String,
    /// Stores that need not be heard: peers by name, or `backend`.
    pub without: Vec<String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// An origin that goes on here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Adopted {
    /// Its name.
    pub origin: OriginName,
    /// The generation that is written from now on; a dry run draws none.
    pub generation: Option<u32>,
    /// Stores that were not heard.
    pub unheard: Vec<String>,
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
    if dirs.larder.join("device.key").exists() {
        refuse_another_users(&dirs, env)?;
    }
    create_private_folder(&dirs.larder)?;
    let lock = options.lock_of(&dirs)?;
    let identity = Identity::create(&dirs.larder, env, &settings.owner_id.value)?;
    drop(Node::assemble(env, options, settings, dirs, lock, identity, progress)?);
    Ok(())
}

/// Goes on as an origin that there was already: one whose machine is lost, or this very one after a restored backup or
/// when another machine wrote as it. A dry run says only whether it may.
///
/// Errors: User if nobody knows the name or a store's, or for no consent; Unavailable if a store that matters cannot be heard.
pub fn adopt_origin(
    env: &Env,
    options: &OpenOptions,
    adoption: &Adoption,
    progress: Arc<dyn Progress>,
) -> Result<Adopted, NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, options.trust)?;
    let dirs = ProjectDirs::of(&settings.config);
    let name = &adoption.name;
    refuse_no_name(name)?;
    refuse_no_store(&settings, &adoption.without)?;
    let heard = Heard::listen(&settings, env, options, &dirs, adoption)?;
    heard.judge(name, &adoption.without)?;
    let unheard = heard.unheard.into_iter().map(|(store, _)| store).collect();
    let (origin, last) = last_of(name, &heard.chains)?;
    if adoption.dry_run {
        return Ok(Adopted { origin, generation: None, unheard });
    }
    let generation = drawn(env, last).ok_or_else(|| unknown(name, &heard.chains))?;
    let owner = settings.owner_id.value.clone();
    if options.lock.is_none() {
        set_aside_foreign(&dirs, env, &owner)?;
    }
    create_private_folder(&dirs.larder)?;
    let lock = options.lock_of(&dirs)?;
    let identity = Identity::adopt(&dirs.larder, env, &owner, origin.clone(), generation)?;
    drop(Node::assemble(env, options, settings, dirs, lock, identity, progress)?);
    Ok(Adopted { origin, generation: Some(generation), unheard })
}

fn refuse_no_name(name: &str) -> Result<(), NodeError> {
    name.parse::<OriginName>().map(drop).map_err(|_| {
        let message = format!("no machine can be called {}", larder_patterns::shown(name));
        NodeError::user(message, "`larder origin list` shows those that are known here")
    })
}

fn refuse_no_store(settings: &Settings, without: &[String]) -> Result<(), NodeError> {
    match without.iter().find(|name| *name != BACKEND && !settings.peers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let message = format!("no store of this project is called {}", larder_patterns::shown(name));
            Err(NodeError::user(message, "name a peer as `larder peers list` does, or `backend`"))
        }
    }
}

/// The highest generation that is known of a name.
fn last_of(name: &str, known: &BTreeSet<Chain>) -> Result<(OriginName, u32), NodeError> {
    let own = known.iter().filter(|chain| chain.origin.as_str() == name);
    let last = own.max_by_key(|chain| chain.generation).ok_or_else(|| unknown(name, known))?;
    Ok((last.origin.clone(), last.generation))
}

/// A generation above the last one that nobody else who draws at this moment will have.
fn drawn(env: &Env, last: u32) -> Option<u32> {
    let mut bytes = [0u8; 4];
    env.random.fill(&mut bytes);
    last.checked_add(1)?.checked_add(u32::from_le_bytes(bytes) % GENERATIONS_DRAWN)
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

/// What the ledger here and the stores of the config say.
#[derive(Default)]
struct Heard {
    /// Every chain that any of them holds.
    chains: BTreeSet<Chain>,
    /// Stores that did not answer, and why.
    unheard: Vec<(String, String)>,
    /// A store that answered holds the newest of the name that is known here.
    holds_newest: bool,
}

impl Heard {
    fn listen(
        settings: &Settings,
        env: &Env,
        options: &OpenOptions,
        dirs: &ProjectDirs,
        adoption: &Adoption,
    ) -> Result<Heard, NodeError> {
        let mut heard = Heard::default();
        let mut newest = None;
        if dirs.larder.is_dir() {
            let ledger = Ledger::open(&dirs.larder)?;
            heard.chains.extend(ledger.chains()?);
            newest = newest_of(&ledger, &adoption.name)?;
            if let Ok(identity) = Identity::load(&dirs.larder) {
                // It may have written nothing yet.
                heard.chains.insert(identity.chain(Space::shared()));
            }
        }
        let app = &settings.app_id.value;
        let newest = newest.map(|name| format!("{app}/{name}"));
        for (name, peer) in &settings.peers {
            let place = open_peer(env, &peer.value.address, app, &settings.root_dir, &dirs.larder);
            heard.ask(name, app, newest.as_deref(), place.as_deref().map_err(ToString::to_string));
        }
        let place =
            BackendTransport::new(backend_of(options, settings, env, &Deadlines::default())?, app, "the backend")
                .map_err(SyncError::from)?;
        heard.ask(BACKEND, app, newest.as_deref(), Ok(&place));
        Ok(heard)
    }

    fn ask(&mut self, store: &str, app: &str, newest: Option<&str>, place: Result<&dyn Transport, String>) {
        let asked = place.and_then(|place| {
            chains_of(place, app, &mut self.chains).map_err(|error| error.to_string())?;
            let is_there = |name: &str| place.get(name, Some(0..1), LOOK_BYTES).is_ok();
            self.holds_newest |= newest.is_some_and(is_there);
            Ok(())
        });
        if let Err(why) = asked {
            self.unheard.push((store.to_owned(), why));
        }
    }

    /// A store that is away may hold a later generation; then this folder is told when it meets that store.
    fn judge(&self, name: &str, without: &[String]) -> Result<(), NodeError> {
        let matters = |(store, _): &&(String, String)| !self.holds_newest && !without.contains(store);
        let Some((store, why)) = self.unheard.iter().find(matters) else { return Ok(()) };
        let hint = format!(
            "what {name} wrote last may stand there, so it must be heard first; if it is gone for good, take it out of the config; `larder origin adopt {name} --without {store}` goes on without it"
        );
        Err(NodeError { hint: Some(hint), ..NodeError::new(Kind::Unavailable, format!("{store}: {why}")) })
    }
}

/// The newest checkpoint of an origin's newest shared chain that is here.
fn newest_of(ledger: &Ledger, name: &str) -> Result<Option<ArtifactName>, NodeError> {
    let own = ledger.chains()?.into_iter().filter(|chain| chain.origin.as_str() == name && chain.space.is_shared());
    let Some(chain) = own.max_by_key(|chain| chain.generation) else { return Ok(None) };
    Ok(ledger.checkpoint_names(&chain, 0)?.pop())
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
