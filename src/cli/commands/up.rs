//! `larder up`: the daemon in the foreground, until it is stopped.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::mount::CarryArgs;
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
    carry: CarryArgs,
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
    let carry = args.carry.carry();
    if args.mount.is_none() && (args.carry.passthrough || args.carry.io_uring) {
        let which = if args.carry.passthrough { "--passthrough" } else { "--io-uring" };
        return Err(NodeError::user(format!("{which} is about a view, and none is mounted"), "add `--mount DIR`"));
    }
    let open = context.trusting(args.trust.trust);
    let options = UpOptions { open, mount: args.mount.clone(), carry, serve };
    let say = |line: &str| {
        if context.out.is_json() {
            context.out.line(&json!({ "line": line }).to_string());
        } else {
            context.out.line(line);
        }
    };
    daemon::up(&context.env, &options, context.lasting_progress(), &say)
}
