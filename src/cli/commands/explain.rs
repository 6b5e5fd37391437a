//! `larder explain PATH`: which rule decides about a path and why, and what keeps what stands there from being kept.

use std::path::PathBuf;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{NodeError, explain};

/// What `larder explain` takes.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// A path, whether it exists or not
    path: PathBuf,
}

/// Explains; needs the config, and the project's files as they are.
pub fn run(context: &Context, args: &ExplainArgs) -> Result<Answer, NodeError> {
    let settings = context.open.settings(&context.env)?;
    let path = context.file_path(&settings, &args.path)?;
    let explained = explain(&settings, &path);
    let object = serde_json::to_value(&explained).unwrap_or_default();
    Ok(Answer::new(explained.sentences, object))
}
