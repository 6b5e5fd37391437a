//! `larder up`: the daemon in the foreground, until it is stopped.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::mount::CopyArgs;
use super::serve::LineArgs;
use crate::cli::args::Trust;
use crate::cli::context::Context;
use crate::daemon::{self, UpOptions};
use crate::node::NodeError;
use crate::server::LISTEN;

/// What `larder up` takes.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Show all machines' files read-only in this folder meanwhile
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    #[command(flatten)]
    copies: CopyArgs,
    /// Serve paired devices meanwhile, here unless another address is named
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = LISTEN)]
    serve: Option<String>,
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    trust: Trust,
}

/// Runs until it is stopped. With `--json` each line is one object.
pub fn run(context: &Context, args: &UpArgs) -> Result<(), NodeError> {
    let serve = args.serve.as_deref().map(|listen| args.line.at(listen)).transpose()?;
    let copies_bytes = args.copies.bound_bytes();
    if copies_bytes.is_some() && args.mount.is_none() {
        return Err(NodeError::user("--passthrough is about a view, and none is mounted", "add `--mount DIR`"));
    }
    let open = context.trusting(args.trust.trust);
    let options = UpOptions { open, mount: args.mount.clone(), copies_bytes, serve };
    let say = |line: &str| {
        if context.out.is_json() {
            context.out.line(&json!({ "line": line }).to_string());
        } else {
            context.out.line(line);
        }
    };
    daemon::up(&context.env, &options, context.progress(), &say)
}
