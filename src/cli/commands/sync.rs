//! `larder sync`, `push` and `pull`: one run, here or by the daemon that holds the project.

use clap::Args;

use crate::cli::act::{act_trusting, ask_daemon, by_daemon};
use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::daemon::Request;
use crate::node::{ChangeRequest, NodeError, Way};

/// What `larder sync` takes.
#[derive(Args, Debug)]
pub struct SyncArgs {
    /// `now` says the same and may be left out
    #[arg(value_parser = ["now"], hide = true)]
    now: Option<String>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// What `larder push` and `larder pull` take.
#[derive(Args, Debug)]
pub struct WayArgs {
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// Both ways. A daemon is asked for what is due: it knows what changed and need not look at everything.
pub fn run(context: &Context, args: &SyncArgs) -> Result<Answer, NodeError> {
    if !args.dry.dry_run
        && let Some(reply) = ask_daemon(context, &Request::Sync)?
    {
        return by_daemon(context, reply, false);
    }
    let change = ChangeRequest::Run { way: Way::Both, dry_run: args.dry.dry_run };
    act_trusting(context, &change, args.trust.trust)
}

/// One way only.
pub fn one_way(context: &Context, way: Way, args: &WayArgs) -> Result<Answer, NodeError> {
    act_trusting(context, &ChangeRequest::Run { way, dry_run: args.dry.dry_run }, args.trust.trust)
}
