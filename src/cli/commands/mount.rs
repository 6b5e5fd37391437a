//! `larder mount DIR` and `larder umount DIR`: the read-only view.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{Kind, NodeError};

/// What `larder mount` takes.
#[derive(Args, Debug)]
pub struct MountArgs {
    /// An empty folder outside the project; it is made if it is not there
    dir: PathBuf,
}

/// What `larder umount` takes.
#[derive(Args, Debug)]
pub struct UmountArgs {
    /// Where the view is mounted
    dir: PathBuf,
}

/// Mounts.
pub fn run(_context: &Context, _args: &MountArgs) -> Result<Answer, NodeError> {
    let message = "this build cannot mount by itself yet";
    Err(NodeError::user(message, "run `larder up --mount DIR`"))
}

/// Takes a view down, also one whose daemon is gone.
#[cfg(target_os = "linux")]
pub fn take_down(_context: &Context, args: &UmountArgs) -> Result<Answer, NodeError> {
    use crate::mount::{PlaceError, unmount_path};

    let shown = larder_patterns::shown(&args.dir.to_string_lossy());
    unmount_path(&args.dir).map_err(|error| {
        let hint = match &error {
            PlaceError::NotMounted { .. } => "nothing has to be done",
            _ => "close what still uses it, then try again",
        };
        NodeError { kind: Kind::User, message: error.to_string(), hint: Some(hint.to_owned()) }
    })?;
    Ok(Answer::new(vec![format!("unmounted {shown}")], json!({ "unmounted": shown })))
}

/// There is no view elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn take_down(_context: &Context, _args: &UmountArgs) -> Result<Answer, NodeError> {
    Err(NodeError::new(Kind::User, "views are mounted on Linux only"))
}
