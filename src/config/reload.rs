//! Picks up an edited config while running.
//!
//! Invariant: an error changes nothing: the caller keeps what it had and shows the error. Pure over the bytes; who
//! watches the file, and who asks for consent again, is the caller's business.

use std::collections::BTreeSet;

use super::discover::ConfigPath;
use super::error::ConfigError;
use super::parse::ConfigFile;
use super::settings::{Flags, Row, Settings};
use crate::env::Env;

/// An edited config that is good.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// The values in force from now on.
    pub settings: Settings,
    /// The keys whose value changed, in order; a peer's is `peers.<name>`. Empty if only comments or lines moved.
    pub changed_keys: Vec<String>,
}

/// Reads the file again and compares.
pub fn reload(config: &ConfigPath, previous: &Settings, env: &Env, flags: &Flags) -> Result<Reloaded, ConfigError> {
    reload_bytes(&config.read()?, config, previous, env, flags)
}

/// Compares the bytes of an edited config with what is in force.
pub fn reload_bytes(
    bytes: &[u8],
    config: &ConfigPath,
    previous: &Settings,
    env: &Env,
    flags: &Flags,
) -> Result<Reloaded, ConfigError> {
    let file = ConfigFile::parse(bytes, config.file())?;
    let settings = Settings::resolve(config, file, env, flags)?;
    let changed_keys = changed_keys(previous, &settings);
    Ok(Reloaded { settings, changed_keys })
}

fn changed_keys(previous: &Settings, settings: &Settings) -> Vec<String> {
    let pairs =
        |rows: Vec<Row>| -> BTreeSet<(String, String)> { rows.into_iter().map(|row| (row.key, row.value)).collect() };
    let (before, after) = (pairs(previous.table()), pairs(settings.table()));
    let mut changed: BTreeSet<String> = before.symmetric_difference(&after).map(|(key, _)| key.clone()).collect();
    // The table masks secrets: another password is a change that it does not show.
    if previous.backend.value != settings.backend.value {
        changed.insert("backend".to_owned());
    }
    let address = |peers: &Settings, name: &str| peers.peers.get(name).map(|peer| peer.value.address.clone());
    let moved = settings.peers.keys().filter(|name| address(previous, name) != address(settings, name));
    changed.extend(moved.map(|name| format!("peers.{name}")));
    changed.into_iter().collect()
}
