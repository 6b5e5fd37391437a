//! `larder rebuild`: the index made anew from the ledger.

use serde_json::json;

use crate::cli::act::{errand, strange};
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::count;
use crate::node::{Errand, Errands, Kind, NodeError};

/// Rebuilds.
pub fn run(context: &Context, args: &Dry) -> Result<Answer, NodeError> {
    let Errands::Remade(done) = errand(context, Errand::Rebuild { dry_run: args.dry_run })? else {
        return Err(strange());
    };
    let problems: Vec<String> = done.problems.iter().map(|(chain, why)| format!("{chain}: {why}")).collect();
    let mut lines: Vec<String> = problems.iter().map(|problem| format!("! {problem}")).collect();
    let verb = if args.dry_run { "would rebuild from" } else { "rebuilt from" };
    let checkpoints = count(done.checkpoints as u64, "checkpoint");
    lines.push(format!("{verb} {checkpoints}: {}, {}", count(done.files, "file"), count(done.versions, "version")));
    let object = json!({
        "dry_run": args.dry_run,
        "checkpoints": done.checkpoints,
        "files": done.files,
        "versions": done.versions,
        "rejected": done.rejected,
        "unknown": done.unknown,
        "problems": problems,
    });
    let remains = (!problems.is_empty()).then(|| NodeError {
        kind: Kind::Damage,
        message: format!("{} could not be followed to their end", count(problems.len() as u64, "chain")),
        hint: Some("`larder verify` names what is damaged and what repairs it".to_owned()),
    });
    Ok(Answer::new(lines, object).with_remains(remains))
}
