//! The daemon: `larder up`. Watches, runs when something changed, answers over a socket.
//!
//! Placeholder of the running part; the words of the socket are fixed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::node::{NodeError, OpenOptions};
use crate::sync::Progress;

/// How to run the daemon.
#[derive(Clone, Default)]
pub struct UpOptions {
    /// How to find and open the project.
    pub open: OpenOptions,
    /// Where to mount the view.
    pub mount: Option<PathBuf>,
}

/// What is asked of a running daemon; one JSON line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Is anything to be done? Do it, and answer when it is done.
    Sync,
    /// What is known without looking at the disk.
    Status,
    /// End in good order.
    Stop,
}

/// The answer; one JSON line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The report of the run, or the daemon's lines for `status`, as JSON.
    pub body: serde_json::Value,
    /// What went wrong: exit code and sentence.
    pub error: Option<(u8, String)>,
}

/// Runs until SIGTERM, SIGINT or `Request::Stop`. `say` gets plain lines for the user; the line `ready` comes after the first run.
pub fn up(_env: &Env, _options: &UpOptions, _progress: Arc<dyn Progress>, _say: &dyn Fn(&str)) -> Result<(), NodeError> {
    Ok(())
}

/// Asks a running daemon; `None` if none answers on this socket.
pub fn ask(_socket: &Path, _request: &Request) -> Option<Reply> {
    None
}
