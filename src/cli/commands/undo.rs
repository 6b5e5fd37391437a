//! `larder undo`: take back what the last run changed in this folder.

use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::report;
use crate::node::NodeError;

/// Undoes.
pub fn run(context: &Context, args: &Dry) -> Result<Answer, NodeError> {
    let mut node = context.node()?;
    let report = node.undo(args.dry_run)?;
    let remains = node.remains(&report)?;
    Ok(report::answer(&report, args.dry_run).with_remains(remains))
}
