//! `larder restore PATH`: an earlier version becomes the newest, here and everywhere.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{ChangeRequest, NodeError};

/// What `larder restore` takes.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The file
    path: PathBuf,
    /// Which version, by its id from `larder log`
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    version: Option<String>,
    /// How many steps back: 1 is the content before the present one
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    at: NonZeroUsize,
    #[command(flatten)]
    dry: Dry,
}

/// Restores.
pub fn run(context: &Context, args: &RestoreArgs) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, &args.path)?;
    let chosen = match &args.version {
        Some(id) => glance.version_of(&path, id)?,
        None => glance.version_before(&path, args.at.get())?,
    };
    drop(glance);
    let change = ChangeRequest::Restore { path, version: chosen.id, dry_run: args.dry.dry_run };
    let mut answer = act(context, &change)?;
    answer.object.insert("version".to_owned(), json!(chosen.id.to_string()));
    Ok(answer)
}
