//! `larder export` and `import`: a whole project in one file, for machines that no line joins.

use std::path::PathBuf;

use clap::Args;

use crate::cli::act::act_trusting;
use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{ChangeRequest, ExportRequest, ImportRequest, NodeError};

/// What `larder export` takes.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The file to write
    file: PathBuf,
    /// One's own private files too
    #[arg(long)]
    private: bool,
    /// Put it in the place of what stands there
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// What `larder import` takes.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// A file that `larder export` wrote
    file: PathBuf,
    /// It is this project's, although another one is in it
    #[arg(long)]
    join: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// Records what changed and writes everything into one file.
pub fn export(context: &Context, args: &ExportArgs) -> Result<Answer, NodeError> {
    let (private, replace, dry_run) = (args.private, args.replace, args.dry.dry_run);
    let request = ExportRequest { file: context.outside_file(&args.file)?, private, replace, dry_run };
    act_trusting(context, &ChangeRequest::Export(request), args.trust.trust)
}

/// Takes what is whole in such a file.
pub fn import(context: &Context, args: &ImportArgs) -> Result<Answer, NodeError> {
    let (join, dry_run) = (args.join, args.dry.dry_run);
    let request = ImportRequest { file: context.outside_file(&args.file)?, join, dry_run };
    act_trusting(context, &ChangeRequest::Import(request), args.trust.trust)
}
