//! What every command gets: the world, where to look for the project, and where answers go.
//!
//! Invariant: a command takes paths, clock and settings from here, never from the process.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::Global;
use super::out::Out;
use super::progress::Bars;
use crate::config::{Settings, address};
use crate::env::Env;
use crate::model::RelPath;
use crate::node::{Glance, NodeError, OpenOptions};
use crate::sync::{NoProgress, Progress};

/// What every command gets.
pub struct Context {
    /// Clock, randomness, variables.
    pub env: Env,
    /// How to find the project.
    pub open: OpenOptions,
    /// Where answers go.
    pub out: Out,
}

/// A command waits so long for another one of this project, and for a daemon that is starting or dying.
const PATIENCE: Duration = Duration::from_secs(10);

impl Context {
    /// From what was typed.
    pub fn new(env: Env, global: &Global, out: Out) -> Context {
        let start_dir = global.project.clone().unwrap_or_else(|| PathBuf::from("."));
        let flags = global.settings.to_flags();
        let config = global.config.clone();
        let patience = Some(Instant::now() + PATIENCE);
        let open = OpenOptions { start_dir, config, flags, patience, ..OpenOptions::default() };
        Context { env, open, out }
    }

    /// The global arguments, for a process that does the same as this one.
    pub fn retyped(&self) -> Vec<OsString> {
        let flags = &self.open.flags;
        let mut words: Vec<OsString> = vec!["--project".into(), self.open.start_dir.clone().into()];
        if let Some(config) = &self.open.config {
            words.extend(["--config".into(), config.clone().into()]);
        }
        let values = [
            ("--backend", &flags.backend),
            ("--app-id", &flags.app_id),
            ("--owner-id", &flags.owner_id),
            ("--interval-secs", &flags.interval_secs),
            ("--respect-gitignore", &flags.respect_gitignore),
            ("--max-file-bytes", &flags.max_file_bytes),
            ("--retention", &flags.retention),
        ];
        let given = values.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let peers = flags.peers.iter().map(|peer| ("--peer", peer));
        words.extend(given.chain(peers).map(|(name, value)| format!("{name}={value}").into()));
        words
    }

    /// Now, in wall milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.env.clock.wall_ms()
    }

    /// Opens the project for reading. Errors: what it needs is missing, so that an answer would be a wrong one.
    pub fn glance(&self) -> Result<Glance, NodeError> {
        let glance = self.glance_at_what_is_there()?;
        match glance.missing {
            Some(missing) => Err(missing.error()),
            None => Ok(glance),
        }
    }

    /// The same, for who tells of what is missing.
    pub fn glance_at_what_is_there(&self) -> Result<Glance, NodeError> {
        Glance::open(&self.env, &self.open)
    }

    /// The same, with what a flag of the command says about trust.
    pub fn trusting(&self, trust: bool) -> OpenOptions {
        OpenOptions { trust, ..self.open.clone() }
    }

    /// Bars on a terminal, and a word if nothing moves; silence elsewhere.
    pub fn progress(&self) -> Arc<dyn Progress> {
        if self.out.shows_progress() { Arc::new(Bars::of_command()) } else { Arc::new(NoProgress) }
    }

    /// The same for what goes on until it is stopped: that nothing moves is as it should be.
    pub fn lasting_progress(&self) -> Arc<dyn Progress> {
        if self.out.shows_progress() { Arc::new(Bars::new()) } else { Arc::new(NoProgress) }
    }

    /// A path as typed, which is relative to the current folder, as a path of the project.
    ///
    /// From outside the project's root it is taken as relative to the root.
    pub fn project_path(&self, settings: &Settings, typed: &Path) -> Result<Option<RelPath>, NodeError> {
        let below = relative_to_root(&self.open.start_dir, &settings.root_dir, typed);
        let Some(text) = below.to_str() else {
            return Err(NodeError::user(
                format!("{} is not UTF-8", larder_patterns::shown(&below.to_string_lossy())),
                "only names in UTF-8 are kept",
            ));
        };
        if text.is_empty() {
            return Ok(None);
        }
        let refused = |error: larder_patterns::PathError| {
            NodeError::user(format!("{}: {error}", larder_patterns::shown(text)), "name a path inside the project")
        };
        RelPath::parse(text).map(Some).map_err(refused)
    }

    /// An address as typed: a relative path is relative to the current folder, and becomes absolute, because the config and
    /// a daemon have another one.
    pub fn address(&self, typed: &str) -> String {
        if address::scheme(typed).is_some() || typed.is_empty() {
            return typed.to_owned();
        }
        let at_home = typed.strip_prefix("~/").and_then(|rest| Some(Path::new(self.env.var("HOME")?).join(rest)));
        let path = at_home.unwrap_or_else(|| self.open.start_dir.join(typed));
        let absolute = std::path::absolute(&path).unwrap_or(path);
        // What exists is written as links lead: `..` is gone then.
        absolute.canonicalize().unwrap_or(absolute).to_string_lossy().into_owned()
    }

    /// A file anywhere, as typed relative to the current folder, absolute.
    pub fn outside_file(&self, typed: &Path) -> Result<PathBuf, NodeError> {
        let path = self.open.start_dir.join(typed);
        let absolute = std::path::absolute(&path).unwrap_or(path);
        if absolute.to_str().is_some() {
            return Ok(absolute);
        }
        let shown = larder_patterns::shown(&absolute.to_string_lossy());
        Err(NodeError::user(format!("{shown} is not UTF-8"), "name a file that is"))
    }

    /// As `project_path`, for commands that need a file.
    pub fn file_path(&self, settings: &Settings, typed: &Path) -> Result<RelPath, NodeError> {
        let whole = || NodeError::user("the project's root is no file", "name a file in it");
        self.project_path(settings, typed)?.ok_or_else(whole)
    }
}

/// Lexical: the path need not exist, and a link in it is the recorded thing itself.
fn relative_to_root(start_dir: &Path, root_dir: &Path, typed: &Path) -> PathBuf {
    let start = start_dir.canonicalize().unwrap_or_else(|_| start_dir.to_owned());
    let mut absolute = PathBuf::new();
    for component in start.join(typed).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                absolute.pop();
            }
            other => absolute.push(other),
        }
    }
    match absolute.strip_prefix(root_dir) {
        Ok(below) => below.to_owned(),
        Err(_) => typed.components().filter(|component| *component != Component::CurDir).collect(),
    }
}
