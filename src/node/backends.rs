//! What a person asks about backends: which there are, whether one works, what it needs, and having it made.
//!
//! Invariant: takes no lock, touches neither files nor `.larder`; a check leaves the service as it was. Secrets are named, never shown.

use std::sync::Arc;

use larder_adapters::{Backend, Checked, FileSyncAdapter, OpenContext, resolve_backend};

use super::error::{Kind, NodeError};
use super::open::{OpenOptions, require_consent};
use crate::config::Settings;
use crate::env::Env;

/// Characters of the app's name that differ from check to check: few, because a service remembers each name for ever.
const CHECK_CHARS: usize = 2;

/// One line of the table of backends, as this project sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BackendLine {
    /// The name `FILE_SYNC_BACKEND` takes.
    pub name: &'static str,
    /// What it is.
    pub summary: &'static str,
    /// Whether this project's rows go there.
    pub live: bool,
    /// The variables it reads, and whether each is set.
    pub settings: Vec<SettingLine>,
}

/// A variable that a backend reads.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SettingLine {
    /// Its name.
    pub name: &'static str,
    /// Whether it has a value.
    pub set: bool,
}

/// Every backend there is. Works outside of projects, too.
pub fn backends(env: &Env, options: &OpenOptions) -> Vec<BackendLine> {
    let settings = options.settings(env).ok();
    let live = settings.as_ref().and_then(|settings| chosen(settings, None).ok());
    let setting = |name: &&'static str| SettingLine { name, set: env.var(name).is_some() };
    let line = |backend: &Backend| BackendLine {
        name: backend.scheme,
        summary: backend.summary,
        live: live.as_ref().is_some_and(|(live, _)| live.scheme == backend.scheme),
        settings: backend.settings.iter().map(setting).collect(),
    };
    larder_adapters::backends().map(line).collect()
}

/// The statements that make what a backend needs; `None` if it makes all of it itself, or needs nothing.
///
/// Errors: User for a name that is none.
pub fn backend_ddl(env: &Env, options: &OpenOptions, name: Option<&str>) -> Result<(&'static str, String), NodeError> {
    let backend = match name {
        // Outside of a project a name is enough.
        Some(name) => named(name)?,
        None => chosen(&options.settings(env)?, None)?.0,
    };
    Ok((backend.scheme, (backend.ddl)()))
}

/// Proves that a backend does what is asked of it, with rows of its own that are gone afterwards.
///
/// Errors: User for a name that is none and for no consent; what the service refuses is in the list.
pub fn check_backend(
    env: &Env,
    options: &OpenOptions,
    name: Option<&str>,
) -> Result<(String, Vec<Checked>), NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, false)?;
    let (backend, address) = chosen(&settings, name)?;
    let app = format!("larder-check-{}", env.random_base32(CHECK_CHARS));
    let done = larder_adapters::check(&|| open(&settings, env, &address), &app);
    Ok((backend.scheme.to_owned(), done))
}

/// Makes what is missing in a backend. A dry run opens nothing.
///
/// Errors: User for a name that is none and for no consent; the backend's.
pub fn migrate_backend(
    env: &Env,
    options: &OpenOptions,
    name: Option<&str>,
    dry_run: bool,
) -> Result<&'static str, NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, false)?;
    let (backend, address) = chosen(&settings, name)?;
    if !dry_run {
        open(&settings, env, &address)?.close()?;
    }
    Ok(backend.scheme)
}

/// The kind of failure that a check ends with, if any step failed.
pub fn check_remains(name: &str, done: &[Checked]) -> Option<NodeError> {
    let failed = done.iter().find_map(|step| step.outcome.as_ref().err().map(|error| (step.name, error)))?;
    Some(NodeError::new(
        Kind::of_backend(failed.1.kind),
        format!("the backend {name} did not pass: {} failed", failed.0),
    ))
}

fn open(
    settings: &Settings,
    env: &Env,
    address: &str,
) -> Result<Arc<dyn FileSyncAdapter>, larder_adapters::AdapterError> {
    let variable = |name: &str| env.var(name).map(str::to_owned);
    let context = OpenContext { env: &variable, ..OpenContext::new(settings.project_dir()) };
    larder_adapters::open(address, &context)
}

/// The backend of this name, or the project's own, and how it is opened. The project's address goes with its own backend.
fn chosen(settings: &Settings, name: Option<&str>) -> Result<(&'static Backend, String), NodeError> {
    let own = settings.backend.value.reveal();
    let of_project = resolve_backend(own, settings.project_dir())?;
    let backend = named(name.unwrap_or(of_project.scheme))?;
    let address = if backend.scheme == of_project.scheme { own.to_owned() } else { backend.scheme.to_owned() };
    Ok((backend, address))
}

fn named(name: &str) -> Result<&'static Backend, NodeError> {
    let url = resolve_backend(name, "".as_ref())?;
    let found = larder_adapters::backends().find(|backend| backend.scheme == url.scheme);
    found.ok_or_else(|| NodeError::user(format!("no backend is called {name}"), "`larder backend list` names them"))
}
