//! `larder sync`, `push` and `pull`: one run, here or by the daemon that holds the project.

use clap::Args;

use crate::cli::act::{act_trusting, ask_daemon, by_daemon};
use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::daemon::Request;
use crate::node::{ChangeRequest, NodeError, Way, is_address};

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

/// What `larder push` takes.
#[derive(Args, Debug)]
pub struct PushArgs {
    /// Only to this place: a peer's name, a folder's path or a URL
    #[arg(long, value_name = "PEER|ADDRESS")]
    to: Option<String>,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// What `larder pull` takes.
#[derive(Args, Debug)]
pub struct PullArgs {
    /// Only from this place: a peer's name, a folder's path or a URL
    #[arg(long, value_name = "PEER|ADDRESS")]
    from: Option<String>,
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
    let change = ChangeRequest::Run { way: Way::Both, peer: None, dry_run: args.dry.dry_run };
    act_trusting(context, &change, args.trust.trust)
}

/// Out only.
pub fn push(context: &Context, args: &PushArgs) -> Result<Answer, NodeError> {
    one_way(context, Way::Push, args.to.as_deref(), &args.dry, &args.trust)
}

/// In only.
pub fn pull(context: &Context, args: &PullArgs) -> Result<Answer, NodeError> {
    one_way(context, Way::Pull, args.from.as_deref(), &args.dry, &args.trust)
}

fn one_way(context: &Context, way: Way, place: Option<&str>, dry: &Dry, trust: &Trust) -> Result<Answer, NodeError> {
    let peer = place.map(|place| if is_address(place) { context.address(place) } else { place.to_owned() });
    act_trusting(context, &ChangeRequest::Run { way, peer, dry_run: dry.dry_run }, trust.trust)
}
