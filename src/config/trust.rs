//! Consent: what a config reaches beyond its folder is asked once per project, and again when it widens.
//!
//! What reaches beyond: a parent as root, a backend that is no SQLite file inside the project folder, peers, databases,
//! a key file outside. Each is an item, a stable sentence; consent is the set of items that were agreed to, so
//! a narrower config asks nothing and a wider one names only what is new. What environment and flags name is consent by
//! itself and never an item.
//!
//! Kept in `<state home>/trust/<hash of the project's real path>.json`, mode 0600, written by rename. A file that cannot
//! be understood is no consent. Asks nobody: the caller shows the request and, where a person said so, calls `grant`.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::address;
use super::error::ConfigError;
use super::file::Root;
use super::layer::Layered;
use super::settings::{PeerSetting, Settings};
use crate::env::Env;
use crate::model::Hash;

/// What a person does who agrees. Whatever command was refused, it goes on where one of these was.
pub const HOW_TO_AGREE: &str =
    "read it; `larder sync --trust` agrees and runs once, `larder up --trust` agrees and goes on until it is stopped";
/// The same for what a running daemon refused: it takes nobody's word while it runs.
pub const HOW_TO_AGREE_LATER: &str = "read it; if you agree, stop this larder and start it with `larder up --trust`";

const MAX_CONSENT_BYTES: u64 = 1 << 20;

/// What has to be agreed to before the settings may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is new, one line each, fit for a terminal.
    pub items: Vec<String>,
    /// True if the project was agreed to before and now reaches further.
    pub widened: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Consent {
    items: BTreeSet<String>,
    kind: String,
    path: String,
    v: u32,
}

/// Everything the config file itself reaches beyond its folder, one stable line each, in order.
pub fn reach(settings: &Settings) -> BTreeSet<String> {
    let dir = settings.project_dir();
    let mut items = BTreeSet::new();
    if settings.root.value == Root::Parent {
        items.insert(format!("keep files of the folder above: {}", shown(&settings.root_dir)));
    }
    if !settings.backend.source.is_own_word() && !is_inside_backend(settings.backend.value.reveal(), dir) {
        items.insert(format!("mirror files into the backend {}", settings.backend.value));
    }
    for (name, peer) in &settings.peers {
        items.extend(peer_items(name, peer));
    }
    for database in &settings.databases.value {
        let file = larder_patterns::shown(&database.path);
        items.extend(
            database
                .tables
                .iter()
                .map(|table| format!("share rows of the table {} in {file}", larder_patterns::shown(table))),
        );
    }
    let key_file = settings.encryption.value.as_ref().and_then(|encryption| encryption.key_file.as_ref());
    if let Some(file) = key_file.filter(|file| !is_inside(&dir.join(file), dir)) {
        items.insert(format!("read the key file {}", larder_patterns::shown(file)));
    }
    items
}

fn peer_items(name: &str, peer: &Layered<PeerSetting>) -> Vec<String> {
    if peer.source.is_own_word() {
        return Vec::new();
    }
    let (name, address) = (larder_patterns::shown(name), &peer.value.address);
    let rights = [
        (peer.value.push, "give files to"),
        (peer.value.pull, "take files from"),
        (peer.value.private && peer.value.push, "give private files to"),
        (peer.value.private && peer.value.pull, "take private files from"),
    ];
    let held = rights.into_iter().filter(|(held, _)| *held);
    held.map(|(_, right)| format!("{right} the peer {name} at {address}")).collect()
}

/// True if nothing has to be agreed to but an exchange of shared files with this one peer.
pub fn asks_only_for(settings: &Settings, env: &Env, name: &str) -> bool {
    let Some(peer) = settings.peers.get(name) else { return false };
    let plain = Layered { value: PeerSetting { private: false, ..peer.value.clone() }, source: peer.source.clone() };
    let of_it = peer_items(name, &plain);
    required_consent(settings, env).is_some_and(|request| request.items.iter().all(|item| of_it.contains(item)))
}

/// The hash of everything the config file reaches beyond its folder; the same reach gives the same hash for ever.
pub fn reach_hash(settings: &Settings) -> Hash {
    // No item holds a line end: control characters are escaped.
    let lines: Vec<String> = reach(settings).into_iter().collect();
    Hash::of(lines.join("\n").as_bytes())
}

/// What has to be asked before the settings may be used; `None` if nothing.
pub fn required_consent(settings: &Settings, env: &Env) -> Option<Request> {
    let wanted = reach(settings);
    if wanted.is_empty() {
        return None;
    }
    let agreed = read_consent(&consent_file(settings, env));
    let agreed_items = agreed.as_ref().map(|consent| &consent.items);
    let is_new = |item: &&String| agreed_items.is_none_or(|items| !items.contains(*item));
    let items: Vec<String> = wanted.iter().filter(is_new).cloned().collect();
    (!items.is_empty()).then_some(Request { items, widened: agreed.is_some() })
}

/// Keeps the consent to everything the settings reach now, in place of what was agreed before.
///
/// Atomic: after an error the old consent still stands.
pub fn grant(settings: &Settings, env: &Env) -> Result<(), ConfigError> {
    let file = consent_file(settings, env);
    let consent =
        Consent { items: reach(settings), kind: "trust".to_owned(), path: shown(settings.project_dir()), v: 1 };
    write_consent(&file, &consent).map_err(|source| ConfigError::Trust {
        action: "keep consent at",
        path: file,
        source,
    })
}

/// Forgets the consent of a project. Nothing is wrong if there was none.
pub fn revoke(settings: &Settings, env: &Env) -> Result<(), ConfigError> {
    let file = consent_file(settings, env);
    match std::fs::remove_file(&file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ConfigError::Trust { action: "forget consent at", path: file, source })
        }
        _ => Ok(()),
    }
}

fn consent_file(settings: &Settings, env: &Env) -> PathBuf {
    let name = Hash::of(settings.project_dir().as_os_str().as_bytes()).short(32);
    env.state_home.join("trust").join(format!("{name}.json"))
}

// Whatever is wrong with the file, the answer is to ask again.
fn read_consent(file: &Path) -> Option<Consent> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MAX_CONSENT_BYTES).read_to_end(&mut bytes).ok()?;
    let consent: Consent = serde_json::from_slice(&bytes).ok()?;
    (consent.v == 1 && consent.kind == "trust").then_some(consent)
}

fn write_consent(file: &Path, consent: &Consent) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // A temporary file of this crate is created 0600.
    let mut temporary = tempfile::Builder::new().prefix("_tmp-").tempfile_in(dir)?;
    temporary.write_all(&serde_json::to_vec(consent)?)?;
    temporary.as_file().sync_all()?;
    temporary.persist(file).map_err(|error| error.error)?;
    // The rename is durable only once the folder is.
    File::open(dir)?.sync_all()
}

/// True if the backend needs no consent: in memory, or an SQLite file inside the project folder.
pub fn is_inside_backend(backend: &str, project_dir: &Path) -> bool {
    if address::backend_scheme(backend).eq_ignore_ascii_case("memory") {
        return true;
    }
    address::sqlite_file(backend, project_dir).is_some_and(|file| is_inside(&file, project_dir))
}

// As written, and as links lead: `data/sync.db` may be behind a link to somewhere else.
fn is_inside(path: &Path, dir: &Path) -> bool {
    let plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir));
    if !plain || !path.starts_with(dir) {
        return false;
    }
    let existing = path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
    // A folder that does not exist holds no links that lead elsewhere.
    let Some(existing) = existing.filter(|existing| existing.starts_with(dir)) else {
        return true;
    };
    existing.canonicalize().is_ok_and(|real| real.starts_with(dir))
}

fn shown(path: &Path) -> String {
    larder_patterns::shown(&path.to_string_lossy())
}
