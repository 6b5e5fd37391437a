//! `sync-config.json`: found, read, checked, layered, reloaded, consented to.
//!
//! The way through: [`discover`] finds a [`ConfigPath`], [`ConfigFile::parse`] reads it or names every problem with its
//! place, [`Settings::resolve`] lays environment and flags over it, [`trust`] says what must be asked first.
//!
//! Invariants: no secret is accepted from a file or shown from anywhere; an unusable config changes nothing that is in
//! force. Prints nothing, asks nothing, watches nothing.

pub mod address;
mod check;
mod discover;
mod document;
pub mod edit;
mod error;
mod explain;
mod file;
pub mod init;
mod layer;
mod merge;
mod nearest;
mod parse;
mod problem;
mod quantity;
mod reload;
mod resolve;
mod schema;
mod settings;
pub mod trust;
mod typed;
mod warning;

pub use address::Address;
pub use check::{MAX_DATABASES, MAX_MERGE_GLOBS, MAX_PEERS, MAX_TABLES};
pub use discover::{CONFIG_FILE_NAME, CONTENT_FOLDERS, ConfigPath, discover};
pub use error::ConfigError;
pub use explain::{Explained, Matched, explain};
pub use file::{Config, Database, Encryption, MergeKind, Peer, Root, Trust};
pub use layer::{Layered, Source};
pub use merge::MergeRules;
pub use parse::{ConfigFile, MAX_CONFIG_BYTES};
pub use problem::{Problem, Problems};
pub use quantity::{
    ByteCount, MAX_FILE_BYTES_LIMIT, MAX_INTERVAL_SECS, MAX_RETENTION_SECS, MIN_RETENTION_SECS, QuantityError,
    Retention,
};
pub use reload::{Reloaded, reload, reload_bytes};
pub use schema::{SCHEMA_FILE_NAME, schema_text};
pub use settings::{Flags, PeerSetting, Row, Settings, VARIABLES};
pub use warning::{Warning, unmatched};

#[cfg(test)]
mod tests;
