//! The values in force for one project, each with the layer it came from.
//!
//! Invariant: the same file, environment and flags give the same settings; every value is within its bounds. Opens
//! nothing: whether a folder or a database is there is for those who use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use larder_patterns::{Channel, PatternLists, Rules};
use serde::Serialize;

use super::address::{self, Address};
use super::discover::{CONTENT_FOLDERS, ConfigPath};
use super::error::ConfigError;
use super::file::{
    APP_ID_NEEDED, Database, Encryption, OWNER_ID_NEEDED, Root, is_app_id, is_owner_id,
};
use super::layer::{Layered, Source};
use super::merge::MergeRules;
use super::nearest::nearest;
use super::parse::{ConfigFile, MAX_PEERS, pattern_lists};
use super::quantity::{ByteCount, INTERVAL_NEEDED, MAX_INTERVAL_SECS, Retention};
use super::warning::Warning;
use crate::env::Env;

/// The variables that override the file.
pub const VARIABLES: [&str; 8] = [
    "FILE_SYNC_BACKEND",
    "LARDER_APP_ID",
    "LARDER_OWNER_ID",
    "LARDER_INTERVAL_SECS",
    "LARDER_RESPECT_GITIGNORE",
    "LARDER_MAX_FILE_BYTES",
    "LARDER_RETENTION",
    "LARDER_PEERS",
];

const DEFAULT_BACKEND: &str = "sqlite:sync.db";
const DEFAULT_OWNER: &str = "shared";
const DEFAULT_INTERVAL_SECS: u32 = 30;
const DEFAULT_MAX_FILE_BYTES: u64 = 1 << 30;
const DEFAULT_RETENTION_SECS: u64 = 90 * 24 * 60 * 60;

/// What the command line says, as typed; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--backend`
    pub backend: Option<String>,
    /// `--app-id`
    pub app_id: Option<String>,
    /// `--owner-id`
    pub owner_id: Option<String>,
    /// `--interval-secs`
    pub interval_secs: Option<String>,
    /// `--respect-gitignore`
    pub respect_gitignore: Option<String>,
    /// `--max-file-bytes`
    pub max_file_bytes: Option<String>,
    /// `--retention`
    pub retention: Option<String>,
    /// `--peer name=address`, each added to or replacing one of the file.
    pub peers: Vec<String>,
}

/// A peer as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSetting {
    /// A folder's path (absolute) or a URL.
    pub address: Address,
    /// Whether it is one's own, so that private files may go there.
    pub private: bool,
    /// Whether to take from it.
    pub pull: bool,
    /// Whether to give to it.
    pub push: bool,
}

/// The values in force for one project.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file they were read from.
    pub config: ConfigPath,
    /// What paths and patterns are relative to: the config's folder or its parent.
    pub root: Layered<Root>,
    /// That folder, absolute.
    pub root_dir: PathBuf,
    /// The pattern lists as written.
    pub patterns: PatternLists,
    /// The patterns, compiled.
    pub rules: Arc<Rules>,
    /// How concurrent edits are united.
    pub merge: Arc<MergeRules>,
    /// The name this project shares with its copies elsewhere.
    pub app_id: Layered<String>,
    /// Whose rows these are in the backend.
    pub owner_id: Layered<String>,
    /// The mirror's address; relative files are below the project folder.
    pub backend: Layered<Address>,
    /// The peers by name.
    pub peers: BTreeMap<String, Layered<PeerSetting>>,
    /// Seconds between automatic exchanges; 0 = only on command.
    pub interval_secs: Layered<u32>,
    /// Whether files that `.gitignore` names are left out.
    pub respect_gitignore: Layered<bool>,
    /// Larger files are skipped and listed.
    pub max_file_bytes: Layered<ByteCount>,
    /// Databases for row sync, paths relative to the project folder.
    pub databases: Layered<Vec<Database>>,
    /// How what leaves is sealed.
    pub encryption: Layered<Option<Encryption>>,
    /// How long superseded contents and trash are kept.
    pub retention: Layered<Retention>,
    /// What is worth knowing, for `status`.
    pub warnings: Vec<Warning>,
    pub(super) file: Arc<ConfigFile>,
}

/// One line of `larder config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The key as in the file; a peer's is `peers.<name>`.
    pub key: String,
    /// The value as JSON would have it, secrets masked.
    pub value: String,
    /// Where it came from.
    pub source: String,
}

impl Settings {
    /// Finds out what is in force.
    ///
    /// Errors: `ConfigError::Value`, naming the variable or flag that holds something unusable.
    pub fn resolve(
        config: &ConfigPath,
        file: ConfigFile,
        env: &Env,
        flags: &Flags,
    ) -> Result<Settings, ConfigError> {
        let layers = Layers {
            file: &file,
            env,
            flags,
        };
        let patterns = pattern_lists(&file.config);
        let root = layers.root(&patterns, config.dir());
        let root_dir = match root.value {
            Root::Here => config.dir().to_owned(),
            Root::Parent => config.dir().parent().unwrap_or(config.dir()).to_owned(),
        };
        let mut settings = Settings {
            app_id: layers.app_id(config.dir())?,
            owner_id: layers.owner_id()?,
            backend: layers.backend()?,
            peers: layers.peers(config.dir())?,
            interval_secs: layers.interval_secs()?,
            respect_gitignore: layers.respect_gitignore()?,
            max_file_bytes: layers.max_file_bytes()?,
            retention: layers.retention()?,
            databases: layers.databases(),
            encryption: layers.encryption(),
            rules: file.rules.clone(),
            merge: file.merge.clone(),
            warnings: Vec::new(),
            config: config.clone(),
            root,
            root_dir,
            patterns,
            file: Arc::new(file),
        };
        settings.warnings = super::warning::collect(&settings, env);
        Ok(settings)
    }

    /// Reads the file and finds out what is in force.
    pub fn load(config: &ConfigPath, env: &Env, flags: &Flags) -> Result<Settings, ConfigError> {
        let file = ConfigFile::parse(&config.read()?, config.file())?;
        Settings::resolve(config, file, env, flags)
    }

    /// The project folder: it holds the config, `.larder/` and `sync.db`.
    pub fn project_dir(&self) -> &Path {
        self.config.dir()
    }

    /// The line of the config a key stands on; see `ConfigFile::line_of`.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        self.file.line_of(key)
    }

    /// The line of the config a pattern stands on.
    pub fn line_of_pattern(&self, list: Channel, index: usize) -> Option<usize> {
        self.file.line_of_pattern(list, index)
    }

    /// Every value with where it came from, in the order of the documentation; secrets masked.
    pub fn table(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for list in [Channel::Shared, Channel::Private, Channel::Archive] {
            let key = list.config_key();
            rows.push(row(
                key,
                self.patterns.list(list),
                &self.source_in_file(key),
            ));
        }
        rows.push(row("root", &self.root.value, &self.root.source));
        rows.push(row("appId", &self.app_id.value, &self.app_id.source));
        rows.push(row("ownerId", &self.owner_id.value, &self.owner_id.source));
        rows.push(row(
            "backend",
            &self.backend.value.to_string(),
            &self.backend.source,
        ));
        for (name, peer) in &self.peers {
            rows.push(row(
                &format!("peers.{name}"),
                &peer.value.masked(),
                &peer.source,
            ));
        }
        rows.push(row(
            "intervalSecs",
            &self.interval_secs.value,
            &self.interval_secs.source,
        ));
        rows.push(row(
            "respectGitignore",
            &self.respect_gitignore.value,
            &self.respect_gitignore.source,
        ));
        rows.push(row(
            "maxFileBytes",
            &self.max_file_bytes.value.to_string(),
            &self.max_file_bytes.source,
        ));
        rows.push(row(
            "merge",
            &self.file.config.merge.clone().unwrap_or_default(),
            &self.source_in_file("merge"),
        ));
        rows.push(row(
            "databases",
            &self.databases.value,
            &self.databases.source,
        ));
        rows.push(row(
            "encryption",
            &self.encryption.value,
            &self.encryption.source,
        ));
        rows.push(row(
            "retention",
            &self.retention.value.to_string(),
            &self.retention.source,
        ));
        rows
    }

    fn source_in_file(&self, key: &str) -> Source {
        self.line_of(key)
            .map_or(Source::BuiltIn, |line| Source::File { line })
    }
}

fn row(key: &str, value: &(impl Serialize + ?Sized), source: &Source) -> Row {
    let value = serde_json::to_string(value).unwrap_or_default();
    Row {
        key: larder_patterns::shown(key),
        value,
        source: source.to_string(),
    }
}

impl PeerSetting {
    // Only what differs from a plain address is shown, as one would write it.
    fn masked(&self) -> serde_json::Value {
        let url = self.address.to_string();
        if !self.private && self.pull && self.push {
            return serde_json::Value::String(url);
        }
        serde_json::json!({ "url": url, "private": self.private, "pull": self.pull, "push": self.push })
    }
}

// The three layers above the built-in one.
struct Layers<'a> {
    file: &'a ConfigFile,
    env: &'a Env,
    flags: &'a Flags,
}

// A key's name in each layer.
struct Names {
    key: &'static str,
    variable: &'static str,
    flag: &'static str,
}

impl Layers<'_> {
    fn file_source(&self, key: &str) -> Source {
        Source::File {
            line: self.file.line_of(key).unwrap_or(1),
        }
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
            read(text).map_err(|sentence| ConfigError::Value {
                place: place.to_owned(),
                sentence,
            })
        };
        let in_env = self
            .env
            .var(names.variable)
            .map(|text| read_at(names.variable, text))
            .transpose()?;
        let in_flag = flag.map(|text| read_at(names.flag, text)).transpose()?;
        let file_source = self.file_source(names.key);
        let value = Layered::built_in(built_in).over(in_file, file_source);
        Ok(value
            .over(in_env, Source::Env(names.variable))
            .over(in_flag, Source::Flag(names.flag)))
    }

    fn app_id(&self, dir: &Path) -> Result<Layered<String>, ConfigError> {
        let names = Names {
            key: "appId",
            variable: "LARDER_APP_ID",
            flag: "--app-id",
        };
        let in_file = self.file.config.app_id.clone();
        self.layered(
            &names,
            default_app_id(dir),
            in_file,
            self.flags.app_id.as_deref(),
            |text| checked(text, is_app_id, APP_ID_NEEDED),
        )
    }

    fn owner_id(&self) -> Result<Layered<String>, ConfigError> {
        let names = Names {
            key: "ownerId",
            variable: "LARDER_OWNER_ID",
            flag: "--owner-id",
        };
        let in_file = self.file.config.owner_id.clone();
        self.layered(
            &names,
            DEFAULT_OWNER.to_owned(),
            in_file,
            self.flags.owner_id.as_deref(),
            |text| checked(text, is_owner_id, OWNER_ID_NEEDED),
        )
    }

    fn backend(&self) -> Result<Layered<Address>, ConfigError> {
        let names = Names {
            key: "backend",
            variable: "FILE_SYNC_BACKEND",
            flag: "--backend",
        };
        let flag = self.flags.backend.as_deref();
        if let Some(secret) = flag.and_then(address::secret) {
            return Err(argument_secret("--backend", &secret, "FILE_SYNC_BACKEND"));
        }
        let in_file = self
            .file
            .config
            .backend
            .as_deref()
            .map(|text| Address::new(text.trim()));
        self.layered(
            &names,
            Address::new(DEFAULT_BACKEND),
            in_file,
            flag,
            |text| address::check_backend(text).map(|()| Address::new(text.trim())),
        )
    }

    fn interval_secs(&self) -> Result<Layered<u32>, ConfigError> {
        let names = Names {
            key: "intervalSecs",
            variable: "LARDER_INTERVAL_SECS",
            flag: "--interval-secs",
        };
        let in_file = self.file.config.interval_secs;
        self.layered(
            &names,
            DEFAULT_INTERVAL_SECS,
            in_file,
            self.flags.interval_secs.as_deref(),
            |text| {
                let secs = text
                    .trim()
                    .parse()
                    .ok()
                    .filter(|secs| *secs <= MAX_INTERVAL_SECS);
                secs.ok_or_else(|| must_be(INTERVAL_NEEDED, text))
            },
        )
    }

    fn respect_gitignore(&self) -> Result<Layered<bool>, ConfigError> {
        let names = Names {
            key: "respectGitignore",
            variable: "LARDER_RESPECT_GITIGNORE",
            flag: "--respect-gitignore",
        };
        let in_file = self.file.config.respect_gitignore;
        self.layered(
            &names,
            false,
            in_file,
            self.flags.respect_gitignore.as_deref(),
            |text| match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(must_be("true or false", text)),
            },
        )
    }

    fn max_file_bytes(&self) -> Result<Layered<ByteCount>, ConfigError> {
        let names = Names {
            key: "maxFileBytes",
            variable: "LARDER_MAX_FILE_BYTES",
            flag: "--max-file-bytes",
        };
        let built_in =
            ByteCount::new(DEFAULT_MAX_FILE_BYTES).expect("the default lies within the bounds");
        let in_file = self.file.config.max_file_bytes;
        self.layered(
            &names,
            built_in,
            in_file,
            self.flags.max_file_bytes.as_deref(),
            quantity,
        )
    }

    fn retention(&self) -> Result<Layered<Retention>, ConfigError> {
        let names = Names {
            key: "retention",
            variable: "LARDER_RETENTION",
            flag: "--retention",
        };
        let built_in =
            Retention::new(DEFAULT_RETENTION_SECS).expect("the default lies within the bounds");
        let in_file = self.file.config.retention;
        self.layered(
            &names,
            built_in,
            in_file,
            self.flags.retention.as_deref(),
            quantity,
        )
    }

    fn databases(&self) -> Layered<Vec<Database>> {
        let in_file = self.file.config.databases.clone();
        Layered::built_in(Vec::new()).over(in_file, self.file_source("databases"))
    }

    fn encryption(&self) -> Layered<Option<Encryption>> {
        let in_file = self.file.config.encryption.clone().map(Some);
        Layered::built_in(None).over(in_file, self.file_source("encryption"))
    }

    fn root(&self, patterns: &PatternLists, dir: &Path) -> Layered<Root> {
        let built_in = Layered::built_in(default_root(patterns, dir));
        built_in.over(self.file.config.root, self.file_source("root"))
    }

    fn peers(&self, dir: &Path) -> Result<BTreeMap<String, Layered<PeerSetting>>, ConfigError> {
        let mut peers = BTreeMap::new();
        for (name, peer) in self.file.config.peers.iter().flatten() {
            let address = self.peer_address(&peer.url, dir);
            let value = PeerSetting {
                address,
                private: peer.private,
                pull: peer.pull,
                push: peer.push,
            };
            let source = self.file_source(&format!("peers.{name}"));
            peers.insert(name.clone(), Layered { value, source });
        }
        let listed = self
            .env
            .var("LARDER_PEERS")
            .unwrap_or_default()
            .split([';', '\n']);
        let in_env = listed.map(str::trim).filter(|entry| !entry.is_empty());
        for entry in in_env {
            self.add_peer(&mut peers, entry, Source::Env("LARDER_PEERS"), dir)?;
        }
        for entry in &self.flags.peers {
            if let Some(secret) = entry
                .split_once('=')
                .and_then(|(_, url)| address::secret(url))
            {
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
        let refuse = |sentence: String| ConfigError::Value {
            place: place.clone(),
            sentence,
        };
        let (name, url) = entry
            .split_once('=')
            .ok_or_else(|| refuse(must_be("`name=address`", &address::shown(entry))))?;
        let (name, url) = (name.trim(), url.trim());
        if !is_owner_id(name) {
            return Err(refuse(format!("the peer's name must be {OWNER_ID_NEEDED}")));
        }
        address::check_peer(url)
            .map_err(|why| refuse(format!("the address of `{name}` cannot be used: {why}")))?;
        if peers.len() >= MAX_PEERS && !peers.contains_key(name) {
            return Err(refuse(format!("more than {MAX_PEERS} peers")));
        }
        let rights = peers
            .get(name)
            .map(|peer| (peer.value.private, peer.value.pull, peer.value.push));
        let (private, pull, push) = rights.unwrap_or((false, true, true));
        let value = PeerSetting {
            address: self.peer_address(url, dir),
            private,
            pull,
            push,
        };
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
    if good(text) {
        Ok(text.to_owned())
    } else {
        Err(must_be(needed, text))
    }
}

fn quantity<T: FromStr<Err = super::quantity::QuantityError>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error: super::quantity::QuantityError| must_be(error.needed, text))
}

fn must_be(needed: &str, text: &str) -> String {
    format!(
        "it must be {needed}, not `{}`",
        super::document::shorten(text)
    )
}

// Every user of the machine can read the arguments of a running program.
fn argument_secret(flag: &str, secret: &str, variable: &str) -> ConfigError {
    let sentence = format!(
        "the address holds {secret}, which others can read in the list of processes: use {variable}"
    );
    ConfigError::Value {
        place: flag.to_owned(),
        sentence,
    }
}

/// The parent if there are positive patterns and every one of them starts with the folder's own name.
fn default_root(patterns: &PatternLists, dir: &Path) -> Root {
    let Some(name) = dir.file_name().and_then(|name| name.to_str()) else {
        return Root::Here;
    };
    let lists = Channel::ALL.map(|list| patterns.list(list));
    let mut positive = lists
        .into_iter()
        .flatten()
        .filter(|pattern| !pattern.starts_with('!'))
        .peekable();
    let starts = |pattern: &String| {
        let plain = pattern.trim_start_matches("./");
        plain
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    if positive.peek().is_some() && positive.all(starts) {
        Root::Parent
    } else {
        Root::Here
    }
}

/// The name of the project's folder (of the folder above, if the config stands in a content folder), made an id.
fn default_app_id(dir: &Path) -> String {
    let in_content = dir
        .file_name()
        .is_some_and(|name| CONTENT_FOLDERS.iter().any(|folder| name == *folder));
    let folder = if in_content {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(56)
        .collect();
    let plain = plain.trim_matches(['.', '_', '-']);
    match plain {
        "" => "project".to_owned(),
        _ if is_app_id(plain) => plain.to_owned(),
        _ => format!("{plain}-app"),
    }
}

/// The known variable that an unknown one of ours most likely meant.
pub(super) fn meant_variable(name: &str) -> Option<&'static str> {
    if VARIABLES.contains(&name) || !name.starts_with("LARDER_") {
        return None;
    }
    nearest(name, VARIABLES)
}
