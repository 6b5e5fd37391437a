//! `larder deletes`: the deletions that the brake holds back.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::count;
use crate::model::{RelPath, VersionId};
use crate::node::{ChangeRequest, NodeError, held_remain};

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
        None | Some(What::List) => {
            let held = held(context)?;
            Ok(listed(&held, "waits: deletion of")?.with_remains(held_remain(held.len())))
        }
        Some(What::Approve(Dry { dry_run: true })) => listed(&held(context)?, "would delete"),
        Some(What::Restore(Dry { dry_run: true })) => listed(&held(context)?, "would bring back"),
        Some(What::Approve(Dry { dry_run: false })) => settle(context, "approved", &ChangeRequest::ApproveDeletions),
        Some(What::Restore(Dry { dry_run: false })) => settle(context, "took back", &ChangeRequest::RestoreDeletions),
    }
}

fn held(context: &Context) -> Result<Held, NodeError> {
    let glance = context.glance()?;
    Ok(glance.state.as_ref().map(crate::state::State::held).transpose()?.unwrap_or_default())
}

fn listed(held: &Held, verb: &str) -> Result<Answer, NodeError> {
    let mut lines: Vec<String> =
        held.iter().map(|(_, path, origin)| format!("{verb} {} (by {origin})", path.shown())).collect();
    if held.is_empty() {
        lines.push("no deletions wait".to_owned());
    }
    Ok(Answer::new(lines, json!({ "deletions": objects(held) })))
}

fn objects(held: &Held) -> Vec<Value> {
    let object = |(version, path, origin): &(VersionId, RelPath, String)| json!({ "path": path.shown(), "origin": origin, "version": version.to_string() });
    held.iter().map(object).collect()
}

fn settle(context: &Context, verb: &str, change: &ChangeRequest) -> Result<Answer, NodeError> {
    let held = held(context)?;
    if held.is_empty() {
        return listed(&held, verb);
    }
    let mut answer = act(context, change)?;
    answer.lines.insert(0, format!("{verb} {}", count(held.len() as u64, "deletion")));
    answer.object.insert("deletions".to_owned(), Value::Array(objects(&held)));
    Ok(answer)
}
