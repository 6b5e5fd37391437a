//! Lays environment and flags over the file: built-in < file < environment < flag, key by key.
//!
//! Invariant: a value of a higher layer replaces the lower one whole; a text that cannot be understood is an error that
//! names its variable or flag, never a silent default. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use larder_patterns::{Channel, PatternLists};

use super::address::{self, Address};
use super::check::MAX_PEERS;
use super::discover::CONTENT_FOLDERS;
use super::error::ConfigError;
use super::file::{APP_ID_NEEDED, Database, Encryption, OWNER_ID_NEEDED, Root, Trust, is_app_id, is_owner_id};
use super::layer::{Layered, Source};
use super::parse::ConfigFile;
use super::quantity::{ByteCount, INTERVAL_NEEDED, MAX_INTERVAL_SECS, QuantityError, Retention};
use super::settings::{Flags, PeerSetting};
use crate::env::Env;

const DEFAULT_BACKEND: &str = "sqlite:sync.db";
const DEFAULT_OWNER: &str = "shared";
const DEFAULT_INTERVAL_SECS: u32 = 30;
const DEFAULT_MAX_FILE_BYTES: u64 = 1 << 30;
const DEFAULT_MAX_ORIGIN_BYTES: u64 = 64 << 30;
const DEFAULT_RETENTION_SECS: u64 = 90 * 24 * 60 * 60;

// The three layers above the built-in one.
pub(super) struct Layers<'a> {
    pub(super) file: &'a ConfigFile,
    pub(super) env: &'a Env,
    pub(super) flags: &'a Flags,
}

// A key's name in each layer.
struct Names {
    key: &'static str,
    variable: &'static str,
    flag: &'static str,
}

impl Layers<'_> {
    fn file_source(&self, key: &str) -> Source {
        Source::File { line: self.file.line_of(key).unwrap_or(1) }
    }

    fn layered<T>(
        &self,
        names: &Names,
        built_in: T,
        in_file: Option<T>,
        flag: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Layered<T>, ConfigError> {
        let read_at = |place: &str, text: &str| {
            read(text).map_err(|sentence| ConfigError::Value { place: place.to_owned(), sentence })
        };
        let in_env = self.env.var(names.variable).map(|text| read_at(names.variable, text)).transpose()?;
        let in_flag = flag.map(|text| read_at(names.flag, text)).transpose()?;
        let file_source = self.file_source(names.key);
        let value = Layered::built_in(built_in).over(in_file, file_source);
        Ok(value.over(in_env, Source::Env(names.variable)).over(in_flag, Source::Flag(names.flag)))
    }

    pub(super) fn app_id(&self, dir: &Path) -> Result<Layered<String>, ConfigError> {
        let names = Names { key: "appId", variable: "LARDER_APP_ID", flag: "--app-id" };
        let in_file = self.file.config.app_id.clone();
        self.layered(&names, default_app_id(dir), in_file, self.flags.app_id.as_deref(), |text| {
            checked(text, is_app_id, APP_ID_NEEDED)
        })
    }

    pub(super) fn owner_id(&self) -> Result<Layered<String>, ConfigError> {
        let names = Names { key: "ownerId", variable: "LARDER_OWNER_ID", flag: "--owner-id" };
        let in_file = self.file.config.owner_id.clone();
        self.layered(&names, DEFAULT_OWNER.to_owned(), in_file, self.flags.owner_id.as_deref(), |text| {
            checked(text, is_owner_id, OWNER_ID_NEEDED)
        })
    }

    pub(super) fn backend(&self) -> Result<Layered<Address>, ConfigError> {
        let names = Names { key: "backend", variable: "FILE_SYNC_BACKEND", flag: "--backend" };
        let flag = self.flags.backend.as_deref();
        if let Some(secret) = flag.and_then(address::secret) {
            return Err(argument_secret("--backend", &secret, "FILE_SYNC_BACKEND"));
        }
        let in_file = self.file.config.backend.as_deref().map(|text| Address::new(text.trim()));
        self.layered(&names, Address::new(DEFAULT_BACKEND), in_file, flag, |text| {
            address::check_backend(text).map(|()| Address::new(text.trim()))
        })
    }

    pub(super) fn trust(&self) -> Layered<Trust> {
        Layered::built_in(Trust::default()).over(self.file.config.trust, self.file_source("trust"))
    }

    pub(super) fn interval_secs(&self) -> Result<Layered<u32>, ConfigError> {
        let names = Names { key: "intervalSecs", variable: "LARDER_INTERVAL_SECS", flag: "--interval-secs" };
        let in_file = self.file.config.interval_secs;
        self.layered(&names, DEFAULT_INTERVAL_SECS, in_file, self.flags.interval_secs.as_deref(), |text| {
            let secs = text.trim().parse().ok().filter(|secs| *secs <= MAX_INTERVAL_SECS);
            secs.ok_or_else(|| must_be(INTERVAL_NEEDED, text))
        })
    }

    pub(super) fn respect_gitignore(&self) -> Result<Layered<bool>, ConfigError> {
        let names =
            Names { key: "respectGitignore", variable: "LARDER_RESPECT_GITIGNORE", flag: "--respect-gitignore" };
        let in_file = self.file.config.respect_gitignore;
        self.layered(&names, false, in_file, self.flags.respect_gitignore.as_deref(), |text| {
            match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(must_be("true or false", text)),
            }
        })
    }

    pub(super) fn max_file_bytes(&self) -> Result<Layered<ByteCount>, ConfigError> {
        let names = Names { key: "maxFileBytes", variable: "LARDER_MAX_FILE_BYTES", flag: "--max-file-bytes" };
        let built_in = ByteCount::new(DEFAULT_MAX_FILE_BYTES).expect("the default lies within the bounds");
        let in_file = self.file.config.max_file_bytes;
        self.layered(&names, built_in, in_file, self.flags.max_file_bytes.as_deref(), quantity)
    }

    pub(super) fn max_origin_bytes(&self) -> Result<Layered<ByteCount>, ConfigError> {
        let names = Names { key: "maxOriginBytes", variable: "LARDER_MAX_ORIGIN_BYTES", flag: "" };
        let built_in = ByteCount::new(DEFAULT_MAX_ORIGIN_BYTES).expect("the default lies within the bounds");
        self.layered(&names, built_in, self.file.config.max_origin_bytes, None, quantity)
    }

    pub(super) fn retention(&self) -> Result<Layered<Retention>, ConfigError> {
        let names = Names { key: "retention", variable: "LARDER_RETENTION", flag: "--retention" };
        let built_in = Retention::new(DEFAULT_RETENTION_SECS).expect("the default lies within the bounds");
        let in_file = self.file.config.retention;
        self.layered(&names, built_in, in_file, self.flags.retention.as_deref(), quantity)
    }

    pub(super) fn databases(&self) -> Layered<Vec<Database>> {
        let in_file = self.file.config.databases.clone();
        Layered::built_in(Vec::new()).over(in_file, self.file_source("databases"))
    }

    pub(super) fn encryption(&self) -> Layered<Option<Encryption>> {
        let in_file = self.file.config.encryption.clone().map(Some);
        Layered::built_in(None).over(in_file, self.file_source("encryption"))
    }

    pub(super) fn root(&self, patterns: &PatternLists, dir: &Path) -> Layered<Root> {
        let built_in = Layered::built_in(default_root(patterns, dir));
        built_in.over(self.file.config.root, self.file_source("root"))
    }

    pub(super) fn peers(&self, dir: &Path) -> Result<BTreeMap<String, Layered<PeerSetting>>, ConfigError> {
        let mut peers = BTreeMap::new();
        for (name, peer) in self.file.config.peers.iter().flatten() {
            let address = self.peer_address(&peer.url, dir);
            let value =
                PeerSetting { address, private: peer.private, pull: peer.pull, push: peer.push, trust: peer.trust };
            let source = self.file_source(&format!("peers.{name}"));
            peers.insert(name.clone(), Layered { value, source });
        }
        let listed = self.env.var("LARDER_PEERS").unwrap_or_default().split([';', '\n']);
        let in_env = listed.map(str::trim).filter(|entry| !entry.is_empty());
        for entry in in_env {
            self.add_peer(&mut peers, entry, Source::Env("LARDER_PEERS"), dir)?;
        }
        for entry in &self.flags.peers {
            if let Some(secret) = entry.split_once('=').and_then(|(_, url)| address::secret(url)) {
                return Err(argument_secret("--peer", &secret, "LARDER_PEERS"));
            }
            self.add_peer(&mut peers, entry, Source::Flag("--peer"), dir)?;
        }
        Ok(peers)
    }

    // What the file says about a peer's rights stays; only its address is replaced.
    fn add_peer(
        &self,
        peers: &mut BTreeMap<String, Layered<PeerSetting>>,
        entry: &str,
        source: Source,
        dir: &Path,
    ) -> Result<(), ConfigError> {
        let place = match &source {
            Source::Env(name) | Source::Flag(name) => (*name).to_owned(),
            Source::BuiltIn | Source::File { .. } => source.to_string(),
        };
        let refuse = |sentence: String| ConfigError::Value { place: place.clone(), sentence };
        let (name, url) =
            entry.split_once('=').ok_or_else(|| refuse(must_be("`name=address`", &address::shown(entry))))?;
        let (name, url) = (name.trim(), url.trim());
        if !is_owner_id(name) {
            return Err(refuse(format!("the peer's name must be {OWNER_ID_NEEDED}")));
        }
        address::check_peer(url).map_err(|why| refuse(format!("the address of `{name}` cannot be used: {why}")))?;
        if peers.len() >= MAX_PEERS && !peers.contains_key(name) {
            return Err(refuse(format!("more than {MAX_PEERS} peers")));
        }
        let rights =
            peers.get(name).map(|peer| (peer.value.private, peer.value.pull, peer.value.push, peer.value.trust));
        let (private, pull, push, trust) = rights.unwrap_or((false, true, true, None));
        let value = PeerSetting { address: self.peer_address(url, dir), private, pull, push, trust };
        peers.insert(name.to_owned(), Layered { value, source });
        Ok(())
    }

    // A folder becomes absolute: below the project folder, or below the home folder for `~/`.
    fn peer_address(&self, url: &str, dir: &Path) -> Address {
        if address::scheme(url).is_some() {
            return Address::new(url);
        }
        let folder = match (url.strip_prefix("~/"), self.env.var("HOME")) {
            (Some(rest), Some(home)) => Path::new(home).join(rest),
            _ => dir.join(url),
        };
        Address::new(folder.to_string_lossy())
    }
}

fn checked(text: &str, good: fn(&str) -> bool, needed: &str) -> Result<String, String> {
    if good(text) { Ok(text.to_owned()) } else { Err(must_be(needed, text)) }
}

fn quantity<T: FromStr<Err = QuantityError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: QuantityError| must_be(error.needed, text))
}

fn must_be(needed: &str, text: &str) -> String {
    format!("it must be {needed}, not `{}`", super::document::shorten(text))
}

// Every user of the machine can read the arguments of a running program.
fn argument_secret(flag: &str, secret: &str, variable: &str) -> ConfigError {
    let sentence =
        format!("the address holds {secret}, which others can read in the list of processes: use {variable}");
    ConfigError::Value { place: flag.to_owned(), sentence }
}

/// The parent if there are positive patterns and every one of them starts with the folder's own name.
fn default_root(patterns: &PatternLists, dir: &Path) -> Root {
    let Some(name) = dir.file_name().and_then(|name| name.to_str()) else {
        return Root::Here;
    };
    let lists = Channel::ALL.map(|list| patterns.list(list));
    let mut positive = lists.into_iter().flatten().filter(|pattern| !pattern.starts_with('!')).peekable();
    let starts = |pattern: &String| {
        let plain = pattern.trim_start_matches("./");
        plain.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
    };
    if positive.peek().is_some() && positive.all(starts) { Root::Parent } else { Root::Here }
}

/// The name of the project's folder (of the folder above, if the config stands in a content folder), made an id.
pub(super) fn default_app_id(dir: &Path) -> String {
    let in_content = dir.file_name().is_some_and(|name| CONTENT_FOLDERS.iter().any(|folder| name == *folder));
    let folder = if in_content { dir.parent().unwrap_or(dir) } else { dir };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).take(56).collect();
    let plain = plain.trim_matches(['.', '_', '-']);
    match plain {
        "" => "project".to_owned(),
        _ if is_app_id(plain) => plain.to_owned(),
        _ => format!("{plain}-app"),
    }
}
