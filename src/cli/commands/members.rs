//! `larder peers accept` and `larder peers members`: whose files are taken in here.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{ChangeRequest, NodeError, Verdict, standing_word};
use crate::sync::{Known, Standing};

/// What `larder peers accept` takes.
#[derive(Args, Debug)]
pub struct AcceptArgs {
    /// The owner: its key, the first digits of it (at least eight), its name or a machine's; shows who waits if left out
    who: Option<String>,
    #[command(flatten)]
    dry: Dry,
}

/// What `larder peers members` takes.
#[derive(Args, Debug)]
pub struct MembersArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// List them
    List,
    /// Take one out: nothing new of it is taken; what was taken in stays
    Remove {
        /// The owner: its key, the first digits of it (at least eight), its name or a machine's
        who: String,
        #[command(flatten)]
        dry: Dry,
    },
}

/// Lets an owner in, or lists who waits.
pub fn accept(context: &Context, args: &AcceptArgs) -> Result<Answer, NodeError> {
    match &args.who {
        Some(who) => judge(context, Verdict::Accept, who, args.dry.dry_run),
        None => {
            let mut waiting = context.glance()?.owners()?;
            waiting.retain(|known| known.standing == Standing::Waiting);
            let line = |known: &Known| format!("{}\n    larder peers accept {}", described(known), known.key);
            let mut lines: Vec<String> = waiting.iter().map(line).collect();
            if lines.is_empty() {
                lines.push("nobody waits to be accepted".to_owned());
            }
            Ok(Answer::new(lines, json!({ "waiting": waiting })))
        }
    }
}

/// Lists the owners, or takes one out.
pub fn members(context: &Context, args: &MembersArgs) -> Result<Answer, NodeError> {
    if let Some(What::Remove { who, dry }) = &args.what {
        return judge(context, Verdict::Remove, who, dry.dry_run);
    }
    let known = context.glance()?.owners()?;
    let mut lines: Vec<String> = known.iter().map(described).collect();
    if lines.is_empty() {
        lines.push("nobody is known here yet: nothing ran".to_owned());
    }
    Ok(Answer::new(lines, json!({ "members": known })))
}

fn judge(context: &Context, verdict: Verdict, who: &str, dry_run: bool) -> Result<Answer, NodeError> {
    act(context, &ChangeRequest::JudgeOwner { verdict, who: who.to_owned(), dry_run })
}

fn described(known: &Known) -> String {
    let origins: Vec<&str> = known.origins.iter().map(|origin| origin.as_str()).collect();
    let machines = if origins.is_empty() { "no machine yet".to_owned() } else { origins.join(", ") };
    let owner = larder_patterns::shown(&known.owner);
    format!("{owner}  {}  {}  ({machines})", known.key, standing_word(known.standing))
}
