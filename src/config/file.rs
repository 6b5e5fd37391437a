//! The fields of `sync-config.json`, exactly as they may stand in the file; the JSON Schema is derived from here.
//!
//! Invariant: every field is optional and `None` means "not written", so that the layers above know what the file
//! said. Holds no defaults and resolves nothing: that is `settings`.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::quantity::{ByteCount, Retention, interval_secs};

/// A larder project: which of its files are kept the same on every machine, and where copies go.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Where this schema is, for editors.
    #[serde(rename = "$schema")]
    pub schema: Option<String>,
    /// Globs of the files that all machines keep the same. A glob with `!` in front excludes, whatever the order.
    #[schemars(inner(length(min = 1, max = 200)))]
    pub sync_file_patterns: Option<Vec<String>>,
    /// Globs of the files that only your own machines keep the same.
    #[schemars(inner(length(min = 1, max = 200)))]
    pub private_sync_file_patterns: Option<Vec<String>>,
    /// Globs of files that are kept per machine and never merged, such as logs and sessions.
    #[schemars(inner(length(min = 1, max = 200)))]
    pub archive_file_patterns: Option<Vec<String>>,
    /// What patterns are relative to. Default: the config's folder, or its parent if every pattern starts with the
    /// name of that folder.
    pub root: Option<Root>,
    /// The name this project shares with its copies elsewhere. Default: the name of the folder.
    #[serde(default, deserialize_with = "app_id")]
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub app_id: Option<String>,
    /// Whose rows these are in the backend. Default: `shared`.
    #[serde(default, deserialize_with = "owner_id")]
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"))]
    pub owner_id: Option<String>,
    /// The database that mirrors the files, such as `sqlite:sync.db` (the default) or `postgres`. Never write a
    /// password here: name the backend, and put the address into the environment.
    #[schemars(length(min = 1, max = 2048))]
    pub backend: Option<String>,
    /// Where copies come from and go to, by name: a folder, `https://`, `wss://`, `s3://`, `gs://`, `az://`.
    pub peers: Option<BTreeMap<String, Peer>>,
    /// Whose files are taken from the backend and the peers: `first-use` (the default) takes those of everybody who
    /// writes there, `members` only those of owners whom you, or a member, let in.
    pub trust: Option<Trust>,
    /// Seconds between automatic exchanges; 0 exchanges only on command. Default: 30.
    #[serde(default, deserialize_with = "interval_secs")]
    #[schemars(range(min = 0, max = 604800))]
    pub interval_secs: Option<u32>,
    /// Whether files that `.gitignore` names are left out even if a pattern names them. Default: false.
    pub respect_gitignore: Option<bool>,
    /// Larger files are skipped and listed: a number of bytes, or a text such as "64MiB". Default: "1GiB".
    pub max_file_bytes: Option<ByteCount>,
    /// What one other machine may fill here with its history; more of it is not fetched, and said. Default: "64GiB".
    pub max_origin_bytes: Option<ByteCount>,
    /// How concurrent edits of a file are united, by glob; of several that match, the one with the most literal
    /// characters counts. Kept for later: in this release the file's name alone decides.
    pub merge: Option<BTreeMap<String, MergeKind>>,
    /// SQLite databases whose tables are kept the same row by row.
    pub databases: Option<Vec<Database>>,
    /// Seals what leaves this machine.
    pub encryption: Option<Encryption>,
    /// How long superseded contents and trash are kept, such as "90d" (the default), "12w" or "2y".
    pub retention: Option<Retention>,
}

/// What patterns are relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Root {
    /// The config's folder.
    #[serde(rename = ".")]
    Here,
    /// The folder above the config's.
    #[serde(rename = "..")]
    Parent,
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Root::Here => ".",
            Root::Parent => "..",
        })
    }
}

/// Whose files are taken from a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Everybody's who writes there.
    #[default]
    FirstUse,
    /// Those of owners who were let in.
    Members,
}

/// How concurrent edits of one file are united.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MergeKind {
    /// Line by line, three ways.
    Text,
    /// Key by key; the result is JSON.
    Json,
    /// Key by key; the result is YAML.
    Yaml,
    /// Key by key; the result is TOML.
    Toml,
    /// Lines that either side appended, once each.
    Append,
    /// The last writer's file as a whole; the other stays listed as a conflict.
    Lww,
}

impl MergeKind {
    /// Every kind.
    pub const ALL: [MergeKind; 6] =
        [MergeKind::Text, MergeKind::Json, MergeKind::Yaml, MergeKind::Toml, MergeKind::Append, MergeKind::Lww];

    /// The name as it stands in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            MergeKind::Text => "text",
            MergeKind::Json => "json",
            MergeKind::Yaml => "yaml",
            MergeKind::Toml => "toml",
            MergeKind::Append => "append",
            MergeKind::Lww => "lww",
        }
    }
}

impl fmt::Display for MergeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A peer: an address alone, or an address and what may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(with = "PeerShape")]
pub struct Peer {
    /// A folder's path or a URL.
    pub url: String,
    /// Whether it is one's own, so that private files may go there.
    pub private: bool,
    /// Whether to take from it.
    pub pull: bool,
    /// Whether to give to it.
    pub push: bool,
    /// Whose files are taken from it; the project's `trust` if it is not said.
    pub trust: Option<Trust>,
}

impl Peer {
    /// A peer of which only the address is known: shared files, both ways.
    pub fn at(url: impl Into<String>) -> Peer {
        Peer { url: url.into(), private: false, pull: true, push: true, trust: None }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PeerFields {
    /// A folder's path or a URL; never with a password or token in it.
    #[schemars(length(min = 1, max = 2048))]
    url: String,
    /// Whether it is your own, so that private files may go there. Default: false.
    private: Option<bool>,
    /// Whether to take from it. Default: true.
    pull: Option<bool>,
    /// Whether to give to it. Default: true.
    push: Option<bool>,
    /// Whose files are taken from it. Default: the project's `trust`.
    trust: Option<Trust>,
}

// Only the schema is made of this: an untagged enum would hide from serde's errors which key was wrong.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum PeerShape {
    /// The address alone.
    Address(#[schemars(length(min = 1, max = 2048))] String),
    /// The address and what may pass.
    Fields(PeerFields),
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Peer, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Peer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or an object with `url`")
            }

            fn visit_str<E: Error>(self, url: &str) -> Result<Peer, E> {
                Ok(Peer::at(url))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Peer, A::Error> {
                let fields = PeerFields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Peer {
                    url: fields.url,
                    private: fields.private.unwrap_or(false),
                    pull: fields.pull.unwrap_or(true),
                    push: fields.push.unwrap_or(true),
                    trust: fields.trust,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A database of which tables are kept the same row by row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The SQLite file, relative to the config's folder.
    #[schemars(length(min = 1))]
    pub path: String,
    /// The tables that are kept the same.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub tables: Vec<String>,
}

/// How what leaves this machine is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// Whether it is on.
    pub enabled: bool,
    /// The name of the keyring's entry that holds the key; not together with `keyFile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyring: Option<String>,
    /// The file that holds the key, relative to the config's folder; not together with `keyring`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

const MAX_LABEL_BYTES: usize = 64;

pub(super) const APP_ID_NEEDED: &str = "1 to 64 characters of a-z, A-Z, 0-9, `.`, `_` and `-`, beginning with a letter or digit and not ending in `-ledger`";
pub(super) const OWNER_ID_NEEDED: &str =
    "1 to 64 characters of a-z, A-Z, 0-9, `.`, `_`, `@`, `+` and `-`, beginning with a letter or digit";

/// Tells whether a text can be an `appId`. `<app>-ledger` is where a backend keeps the artifacts of `<app>`.
pub(super) fn is_app_id(text: &str) -> bool {
    is_label(text, b"._-") && !text.to_ascii_lowercase().ends_with("-ledger")
}

/// Tells whether a text can be an `ownerId`.
pub(super) fn is_owner_id(text: &str) -> bool {
    is_label(text, b"._@+-")
}

fn is_label(text: &str, also: &[u8]) -> bool {
    let starts = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    starts && text.len() <= MAX_LABEL_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || also.contains(&b))
}

fn app_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !is_app_id(&text) => Err(D::Error::custom(APP_ID_NEEDED)),
        text => Ok(text),
    }
}

fn owner_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !is_owner_id(&text) => Err(D::Error::custom(OWNER_ID_NEEDED)),
        text => Ok(text),
    }
}
