//! The values in force for one project, each with the layer it came from.
//!
//! Invariant: the same file, environment and flags give the same settings; every value is within its bounds. Opens
//! nothing: whether a folder or a database is there is for those who use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_patterns::{Channel, PatternLists, Rules};
use serde::Serialize;

use super::address::Address;
use super::check::pattern_lists;
use super::discover::ConfigPath;
use super::error::ConfigError;
use super::file::{Database, Encryption, Root, Trust};
use super::layer::{Layered, Source};
use super::merge::MergeRules;
use super::nearest::nearest;
use super::parse::ConfigFile;
use super::quantity::{ByteCount, Retention};
use super::resolve::Layers;
use super::warning::Warning;
use crate::env::Env;

/// The variables that override the file.
pub const VARIABLES: [&str; 9] = [
    "FILE_SYNC_BACKEND",
    "LARDER_APP_ID",
    "LARDER_OWNER_ID",
    "LARDER_INTERVAL_SECS",
    "LARDER_RESPECT_GITIGNORE",
    "LARDER_MAX_FILE_BYTES",
    "LARDER_MAX_ORIGIN_BYTES",
    "LARDER_RETENTION",
    "LARDER_PEERS",
];

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
    /// Whose files are taken from it; the project's word if there is none.
    pub trust: Option<Trust>,
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
    /// Whose files are taken from the backend, and from peers that say nothing of their own.
    pub trust: Layered<Trust>,
    /// Seconds between automatic exchanges; 0 = only on command.
    pub interval_secs: Layered<u32>,
    /// Whether files that `.gitignore` names are left out.
    pub respect_gitignore: Layered<bool>,
    /// Larger files are skipped and listed.
    pub max_file_bytes: Layered<ByteCount>,
    /// What one other machine may fill here.
    pub max_origin_bytes: Layered<ByteCount>,
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
    pub fn resolve(config: &ConfigPath, file: ConfigFile, env: &Env, flags: &Flags) -> Result<Settings, ConfigError> {
        let layers = Layers { file: &file, env, flags };
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
            trust: layers.trust(),
            interval_secs: layers.interval_secs()?,
            respect_gitignore: layers.respect_gitignore()?,
            max_file_bytes: layers.max_file_bytes()?,
            max_origin_bytes: layers.max_origin_bytes()?,
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
            rows.push(row(key, self.patterns.list(list), &self.source_in_file(key)));
        }
        rows.push(row("root", &self.root.value, &self.root.source));
        rows.push(row("appId", &self.app_id.value, &self.app_id.source));
        rows.push(row("ownerId", &self.owner_id.value, &self.owner_id.source));
        rows.push(row("backend", &self.backend.value.to_string(), &self.backend.source));
        for (name, peer) in &self.peers {
            rows.push(row(&format!("peers.{name}"), &peer.value.masked(), &peer.source));
        }
        rows.push(row("trust", &self.trust.value, &self.trust.source));
        rows.push(row("intervalSecs", &self.interval_secs.value, &self.interval_secs.source));
        rows.push(row("respectGitignore", &self.respect_gitignore.value, &self.respect_gitignore.source));
        rows.push(row("maxFileBytes", &self.max_file_bytes.value.to_string(), &self.max_file_bytes.source));
        rows.push(row("maxOriginBytes", &self.max_origin_bytes.value.to_string(), &self.max_origin_bytes.source));
        rows.push(row("merge", &self.file.config.merge.clone().unwrap_or_default(), &self.source_in_file("merge")));
        rows.push(row("databases", &self.databases.value, &self.databases.source));
        rows.push(row("encryption", &self.encryption.value, &self.encryption.source));
        rows.push(row("retention", &self.retention.value.to_string(), &self.retention.source));
        rows
    }

    fn source_in_file(&self, key: &str) -> Source {
        self.line_of(key).map_or(Source::BuiltIn, |line| Source::File { line })
    }
}

fn row(key: &str, value: &(impl Serialize + ?Sized), source: &Source) -> Row {
    let value = serde_json::to_string(value).unwrap_or_default();
    Row { key: larder_patterns::shown(key), value, source: source.to_string() }
}

impl PeerSetting {
    // Only what differs from a plain address is shown, as one would write it.
    fn masked(&self) -> serde_json::Value {
        let url = self.address.to_string();
        if !self.private && self.pull && self.push && self.trust.is_none() {
            return serde_json::Value::String(url);
        }
        let mut value =
            serde_json::json!({ "url": url, "private": self.private, "pull": self.pull, "push": self.push });
        if let Some(trust) = self.trust {
            value["trust"] = serde_json::json!(trust);
        }
        value
    }
}

/// The known variable that an unknown one of ours most likely meant.
pub(super) fn meant_variable(name: &str) -> Option<&'static str> {
    const PREFIX: &str = "LARDER_";
    let own = name.strip_prefix(PREFIX).filter(|_| !VARIABLES.contains(&name))?;
    let known = VARIABLES.iter().filter_map(|known| known.strip_prefix(PREFIX));
    let meant = nearest(own, known)?;
    VARIABLES.into_iter().find(|known| known.strip_prefix(PREFIX) == Some(meant))
}
