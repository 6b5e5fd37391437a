//! The table of backends, and how a name or URL from configuration finds its line.
//!
//! Invariant: a backend is known everywhere as soon as its line stands in `BACKENDS`, or was given to `add_backends` by a program that has
//! one of its own; nothing else lists them.
//! Deliberately absent: reading the environment or a config file. Values are handed in.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::{AdapterError, ErrorKind, FileSyncAdapter};

/// Opens the backend at an address.
pub type OpenBackend = fn(&BackendUrl, &OpenContext<'_>) -> Result<Arc<dyn FileSyncAdapter>, AdapterError>;

/// One line of the table.
pub struct Backend {
    /// The URL's scheme, which is also the name `FILE_SYNC_BACKEND` takes.
    pub scheme: &'static str,
    /// Other schemes that mean this backend.
    pub aliases: &'static [&'static str],
    /// One line for `larder backend list`.
    pub summary: &'static str,
    /// The address when only the name is given.
    pub default_address: &'static str,
    /// Whether the address is a path of a file, so that a relative one is below the project.
    pub is_file: bool,
    /// Names of the environment variables it reads through `OpenContext::env`.
    pub settings: &'static [&'static str],
    /// What the service needs, as statements to run; empty if there is nothing to prepare.
    pub ddl: fn() -> String,
    /// Opens it, creating its schema where it may.
    pub open: OpenBackend,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.scheme)
    }
}

/// The backends of this crate; `backends` lists those of other crates, too.
pub const BACKENDS: &[Backend] = &[
    crate::sqlite::BACKEND,
    crate::postgres::BACKEND,
    crate::supabase::BACKEND,
    crate::firestore::BACKEND,
    crate::convex::BACKEND,
];

static ADDED: OnceLock<&'static [Backend]> = OnceLock::new();

/// Adds backends of other crates, for the whole process: the first thing that their program's `main` does.
///
/// Shape: once a process, all together; a name that is taken already stays who it was. Panics if it is called twice.
pub fn add_backends(added: &'static [Backend]) {
    assert!(ADDED.set(added).is_ok(), "backends are added once a process, all together");
}

/// Every backend there is: those of this crate, then those that were added.
pub fn backends() -> impl Iterator<Item = &'static Backend> {
    BACKENDS.iter().chain(ADDED.get().copied().unwrap_or_default())
}

/// Where a backend is: a known scheme and an address in that backend's own form.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// A scheme of `backends`.
    pub scheme: &'static str,
    /// What follows the colon; for a file its path, absolute or below the project.
    pub address: String,
}

impl fmt::Display for BackendUrl {
    /// The URL with a password in it replaced by `***`, fit for `status` and errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, without_secret(&self.address))
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a backend may use of the world while it opens.
pub struct OpenContext<'a> {
    /// The folder that holds the config; relative file addresses are below it.
    pub project_dir: &'a Path,
    /// Looks up an environment variable; only those of `Backend::settings` are asked for.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// How long a call waits for another writer before it is `Unavailable`, in milliseconds.
    pub wait_ms: u64,
}

/// How long a call waits for another writer unless a caller says otherwise, in milliseconds.
pub const DEFAULT_WAIT_MS: u64 = 10_000;

impl<'a> OpenContext<'a> {
    /// A context without environment and with the usual wait.
    pub fn new(project_dir: &'a Path) -> Self {
        Self { project_dir, env: &|_| None, wait_ms: DEFAULT_WAIT_MS }
    }
}

/// Finds the backend that a config value or `FILE_SYNC_BACKEND` names: `sqlite`, `sqlite:data/sync.db`.
///
/// Relative file addresses become absolute below `project_dir`. `Unsupported` names the known name that is near enough to be meant, and lists all.
pub fn resolve_backend(value: &str, project_dir: &Path) -> Result<BackendUrl, AdapterError> {
    let value = value.trim();
    let (name, address) = value.split_once(':').map_or((value, None), |(name, address)| (name, Some(address)));
    let lower = name.to_ascii_lowercase();
    let known = |backend: &&Backend| backend.scheme == lower || backend.aliases.contains(&lower.as_str());
    let Some(backend) = backends().find(known) else {
        return Err(unknown_backend(name));
    };
    let address = address.filter(|address| !address.is_empty()).unwrap_or(backend.default_address);
    let address = if backend.is_file { file_address(address, project_dir) } else { address.to_owned() };
    Ok(BackendUrl { scheme: backend.scheme, address })
}

/// Opens the backend that `url` names; `url` may be everything `resolve_backend` takes.
pub fn open(url: &str, context: &OpenContext<'_>) -> Result<Arc<dyn FileSyncAdapter>, AdapterError> {
    let url = resolve_backend(url, context.project_dir)?;
    let Some(backend) = backends().find(|backend| backend.scheme == url.scheme) else {
        return Err(unknown_backend(url.scheme));
    };
    (backend.open)(&url, context)
}

fn file_address(address: &str, project_dir: &Path) -> String {
    let path = address.strip_prefix("//").unwrap_or(address);
    project_dir.join(path).to_string_lossy().into_owned()
}

fn unknown_backend(name: &str) -> AdapterError {
    let known: Vec<&str> = backends().map(|backend| backend.scheme).collect();
    let list = known.join(", ");
    let typed = name.to_ascii_lowercase();
    let nearest = known.into_iter().map(|scheme| (strsim::osa_distance(&typed, scheme), scheme)).min();
    // A third of the word may be wrong, and at least one letter: what is further off was not meant.
    let meant = nearest.filter(|(steps, _)| *steps <= (typed.chars().count() / 3).max(1));
    let meant = meant.map(|(_, scheme)| format!("nearest known is `{scheme}`, ")).unwrap_or_default();
    AdapterError::new(ErrorKind::Unsupported, format!("find backend `{name}`: {meant}known are: {list}"))
}

fn without_secret(address: &str) -> String {
    let Some((before, host)) = address.rsplit_once('@') else {
        return address.to_owned();
    };
    let (lead, user) = before.rsplit_once('/').map_or(("", before), |(lead, user)| (lead, user));
    match user.split_once(':') {
        Some((user, _)) if lead.is_empty() => format!("{user}:***@{host}"),
        Some((user, _)) => format!("{lead}/{user}:***@{host}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_suggested_only_if_it_is_near_enough_to_be_meant() {
        for (typed, meant) in [
            ("postgrse", Some("`postgres`")),
            ("SQLTE:x.db", Some("`sqlite`")),
            ("convx", Some("`convex`")),
            ("nosuch", None),
            ("mongodb", None),
            ("x", None),
        ] {
            let error = resolve_backend(typed, Path::new("/")).expect_err("nobody has that name").to_string();

            assert_eq!(error.contains("nearest known is"), meant.is_some(), "{typed}: {error}");
            assert!(meant.is_none_or(|meant| error.contains(meant)), "{typed}: {error}");
            assert!(error.contains("known are: sqlite, postgres"), "{typed}: {error}");
        }
    }
}
