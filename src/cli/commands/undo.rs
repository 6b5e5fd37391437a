//! `larder undo`: take back what the last run changed in this folder.

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{ChangeRequest, NodeError};

/// Undoes.
pub fn run(context: &Context, args: &Dry) -> Result<Answer, NodeError> {
    act(context, &ChangeRequest::Undo { dry_run: args.dry_run })
}
