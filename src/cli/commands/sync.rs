//! `larder sync`, `push` and `pull`: one run, here or by the daemon that holds the project.

use clap::Args;

use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::report;
use crate::daemon::{self, Request};
use crate::node::{Glance, Kind, Node, NodeError, RunOptions, Way};
use crate::sync::Report;

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

/// Both ways.
pub fn run(context: &Context, args: &SyncArgs) -> Result<Answer, NodeError> {
    if !args.dry.dry_run
        && let Some(answer) = by_daemon(context)?
    {
        return Ok(answer);
    }
    let options = RunOptions { dry_run: args.dry.dry_run, ..RunOptions::default() };
    run_here(context, &options, &args.trust)
}

/// One way only.
pub fn one_way(context: &Context, way: Way, args: &WayArgs) -> Result<Answer, NodeError> {
    let options = RunOptions { way, dry_run: args.dry.dry_run, ..RunOptions::default() };
    run_here(context, &options, &args.trust)
}

fn run_here(context: &Context, options: &RunOptions, trust: &Trust) -> Result<Answer, NodeError> {
    let open = context.trusting(trust.trust);
    let progress = context.progress();
    let mut node = Node::open(&context.env, &open, progress.clone())?;
    let report = node.run(options)?;
    let remains = node.remains(&report)?;
    drop(node);
    // The last owner of the bar clears it before the answer is printed.
    drop(progress);
    let mut answer = report::answer(&report, options.dry_run).with_remains(remains);
    answer.object.insert("by".to_owned(), "command".into());
    Ok(answer)
}

/// A daemon that holds the project does the run; `None` if none does.
fn by_daemon(context: &Context) -> Result<Option<Answer>, NodeError> {
    let glance = match Glance::open(&context.env, &context.open) {
        Ok(glance) => glance,
        // What is wrong with the project is said by the run itself.
        Err(error) if error.kind != Kind::User => return Ok(None),
        Err(error) => return Err(error),
    };
    if glance.holder().is_none() {
        return Ok(None);
    }
    let Some(reply) = daemon::ask(&glance.dirs.socket(), &Request::Sync) else { return Ok(None) };
    let report: Report = match serde_json::from_value(reply.body) {
        Ok(report) => report,
        Err(_) if reply.error.is_some() => Report::default(),
        Err(error) => {
            return Err(NodeError {
                kind: Kind::Internal,
                message: format!("the running larder answered something unknown: {error}"),
                hint: Some("it may be of another release: stop it and start it again".to_owned()),
            });
        }
    };
    let remains = reply.error.map(|(code, message)| NodeError { kind: kind_of(code), message, hint: hint_of(code) });
    let mut answer = report::answer(&report, false).with_remains(remains);
    answer.object.insert("by".to_owned(), "daemon".into());
    Ok(Some(answer))
}

fn kind_of(code: u8) -> Kind {
    let kinds = [Kind::User, Kind::Unavailable, Kind::Conflicts, Kind::Damage];
    kinds.into_iter().find(|kind| kind.exit_code() == code).unwrap_or(Kind::Internal)
}

fn hint_of(code: u8) -> Option<String> {
    let hint = match kind_of(code) {
        Kind::Conflicts => "see `larder status`, `larder conflicts` and `larder deletes`",
        Kind::Unavailable => "files are kept here meanwhile; it is tried again by itself",
        Kind::Damage => "run `larder verify`: it names what is damaged and what repairs it",
        Kind::User | Kind::Internal => return None,
    };
    Some(hint.to_owned())
}
