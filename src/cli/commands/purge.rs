//! `larder purge PATH`: the contents of a file's versions go from everywhere, at once and for good.
//!
//! Invariant: nothing goes before a person said so, after seeing what goes: on a terminal by a word, elsewhere by `--yes`.

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;

use clap::Args;

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::{Answer, complain};
use crate::node::{ChangeRequest, NodeError};

/// Longest line that is read as an answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64;

/// What `larder purge` takes.
#[derive(Args, Debug)]
pub struct PurgeArgs {
    /// The file
    path: PathBuf,
    /// This version alone, by its id from `larder log`; all of them if it is not given
    #[arg(long, value_name = "ID")]
    version: Option<String>,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    dry: Dry,
}

/// Purges.
pub fn run(context: &Context, args: &PurgeArgs) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, &args.path)?;
    let version = args.version.as_ref().map(|id| glance.version_of(&path, id)).transpose()?.map(|stored| stored.id);
    glance.known_slots(&path)?;
    drop(glance);
    let change = |dry_run| ChangeRequest::Purge { path: path.clone(), version, dry_run };
    if !args.dry.dry_run && !args.yes {
        let planned = act(context, &change(true));
        agree(context, &path.shown(), planned)?;
    }
    act(context, &change(args.dry.dry_run))
}

fn agree(context: &Context, path: &str, planned: Result<Answer, NodeError>) -> Result<(), NodeError> {
    let planned = planned?;
    let hint = format!("`larder purge {path} --dry-run` lists what goes, `larder purge {path} --yes` lets it go");
    if context.out.is_json() || !std::io::stdin().is_terminal() {
        return Err(NodeError::user("what is purged cannot be brought back, and nobody said yes", hint));
    }
    planned.lines.iter().for_each(|line| complain(line));
    complain("this cannot be taken back; type yes to go on:");
    let mut line = String::new();
    let read = std::io::stdin().lock().take(MAX_ANSWER_BYTES).read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" { Ok(()) } else { Err(NodeError::user("nothing was purged", hint)) }
}
