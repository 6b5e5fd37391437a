//! The daemon: `larder up`. Watches, runs when something changed, answers over a socket, keeps the view fresh.
//!
//! Invariant: one loop owns the project; every other thread only sends it a note. While nothing happens nothing wakes but
//! the exchange timer. Whatever a hint says, the disk and the backend are asked. Decides nothing about files itself.

mod absent;
mod cycle;
mod notes;
mod serve;
mod socket;
mod up;
mod wait;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::node::{ChangeRequest, Errand, NodeError, OpenOptions};
use crate::server::ServeOptions;

pub use serve::{Door, Served, desk_beside_server, serve};
pub use socket::{Heard, ask, hear};
pub use up::up;

/// How the kernel gets what a view shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carry {
    /// What plain copies of long files may take, in bytes; `None` = there are none.
    pub copies_bytes: Option<u64>,
    /// Its requests come through io_uring.
    pub rings: bool,
}

/// How to run the daemon.
#[derive(Clone, Default)]
pub struct UpOptions {
    /// How to find and open the project.
    pub open: OpenOptions,
    /// Where to mount the view.
    pub mount: Option<PathBuf>,
    /// How the kernel gets what it shows.
    pub carry: Carry,
    /// How to serve paired devices meanwhile.
    pub serve: Option<ServeOptions>,
}

/// What is asked of a running daemon; one JSON line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Is anything to be done? Do it, and answer when it is done.
    Sync,
    /// What is known without looking at the disk.
    Status,
    /// A change that a person wants; answered when it is done.
    Change(ChangeRequest),
    /// What needs the project for itself: the daemon lends it, and goes on with what it is then.
    Errand(Errand),
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
    /// What the user can do about it, if it is about more than the exit code says.
    #[serde(default)]
    pub hint: Option<String>,
}

impl Reply {
    /// What came of it, and what remains.
    fn told(body: &impl Serialize, remains: Option<(u8, String)>) -> Reply {
        Reply { body: serde_json::to_value(body).unwrap_or_default(), error: remains, hint: None }
    }

    /// Lines for `status`, and why the last run failed if it did.
    fn glanced(lines: &[String], failure: Option<&cycle::Failure>) -> Reply {
        let error = failure.map(|failure| (failure.code, format!("the last run failed: {}", failure.message)));
        let hint = failure.and_then(|failure| failure.hint.clone());
        Reply { body: serde_json::json!({ "lines": lines }), error, hint }
    }

    /// Nothing came of it.
    fn refused(error: &NodeError) -> Reply {
        let said = Some((error.kind.exit_code(), error.message.clone()));
        Reply { body: serde_json::Value::Null, error: said, hint: error.hint.clone() }
    }
}
