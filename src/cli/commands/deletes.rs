//! `larder deletes`: the deletions that the brake holds back.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::report;
use crate::cli::text::count;
use crate::model::{RelPath, VersionId};
use crate::node::NodeError;
use crate::sync::Report;

/// What `larder deletes` takes.
#[derive(Args, Debug)]
pub struct DeletesArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Show which deletions wait
    List,
    /// Let them happen, here and in the backend
    Approve(Dry),
    /// Take them back: the files return everywhere
    Restore(Dry),
}

type Held = Vec<(VersionId, RelPath, String)>;

/// Lists, approves or takes back.
pub fn run(context: &Context, args: &DeletesArgs) -> Result<Answer, NodeError> {
    match &args.what {
        None | Some(What::List) => listed(&held(context)?, "waits: deletion of"),
        Some(What::Approve(Dry { dry_run: true })) => listed(&held(context)?, "would delete"),
        Some(What::Restore(Dry { dry_run: true })) => listed(&held(context)?, "would bring back"),
        Some(What::Approve(Dry { dry_run: false })) => {
            let held = held(context)?;
            settle(context, &held, "approved", |node| Ok(node.approve_deletions()?.1))
        }
        Some(What::Restore(Dry { dry_run: false })) => {
            let held = held(context)?;
            settle(context, &held, "brought back", crate::node::Node::restore_deletions)
        }
    }
}

fn held(context: &Context) -> Result<Held, NodeError> {
    let glance = context.glance()?;
    Ok(glance.state.as_ref().map(crate::state::State::held).transpose()?.unwrap_or_default())
}

fn listed(held: &Held, verb: &str) -> Result<Answer, NodeError> {
    let mut lines: Vec<String> = held.iter().map(|(_, path, origin)| format!("{verb} {} (by {origin})", path.shown())).collect();
    if held.is_empty() {
        lines.push("no deletions wait".to_owned());
    }
    Ok(Answer::new(lines, json!({ "deletions": objects(held) })))
}

fn objects(held: &Held) -> Vec<Value> {
    let object = |(version, path, origin): &(VersionId, RelPath, String)| {
        json!({ "path": path.shown(), "origin": origin, "version": version.to_string() })
    };
    held.iter().map(object).collect()
}

fn settle(
    context: &Context,
    held: &Held,
    verb: &str,
    act: impl FnOnce(&mut crate::node::Node) -> Result<Report, NodeError>,
) -> Result<Answer, NodeError> {
    if held.is_empty() {
        return listed(held, verb);
    }
    let mut node = context.node()?;
    let report = act(&mut node)?;
    let remains = node.remains(&report)?;
    let mut answer = report::answer(&report, false).with_remains(remains);
    answer.lines.insert(0, format!("{verb} {}", count(held.len() as u64, "deletion")));
    answer.object.insert("deletions".to_owned(), Value::Array(objects(held)));
    Ok(answer)
}
