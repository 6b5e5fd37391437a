//! `larder conflicts`: edits that could not both be kept in place, and how to settle them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::log;
use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::index::Stored;
use crate::model::RelPath;
use crate::node::{ChangeRequest, Glance, Kind, NodeError, OpenConflict};

/// Longer contents are not printed by `show`, in bytes.
const MAX_SHOWN_BYTES: usize = 256 << 10;

/// What `larder conflicts` takes.
#[derive(Args, Debug)]
pub struct ConflictsArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Show which files have conflicts
    List,
    /// Print all sides of one
    Show {
        /// The file
        path: PathBuf,
    },
    /// Settle one: what is shown now wins, or the version picked
    Resolve {
        /// The file
        path: PathBuf,
        /// The version that wins, by its id
        #[arg(long, value_name = "ID")]
        pick: Option<String>,
        #[command(flatten)]
        dry: Dry,
    },
    /// Bring back what stood there before it was settled
    Undo {
        /// The file
        path: PathBuf,
        #[command(flatten)]
        dry: Dry,
    },
}

/// Lists, shows, settles or takes a settlement back.
pub fn run(context: &Context, args: &ConflictsArgs) -> Result<Answer, NodeError> {
    match &args.what {
        None | Some(What::List) => list(context),
        Some(What::Show { path }) => show(context, path),
        Some(What::Resolve { path, pick, dry }) => resolve(context, path, pick.as_deref(), dry.dry_run),
        Some(What::Undo { path, dry }) => undo(context, path, dry.dry_run),
    }
}

fn list(context: &Context) -> Result<Answer, NodeError> {
    let conflicts = context.glance()?.conflicts()?;
    let mut lines = Vec::new();
    for conflict in &conflicts {
        lines.push(conflict.slot.path.shown());
        for (side, stored) in sides(conflict) {
            lines.push(format!("  {side:<6}  {}", log::line(stored)));
        }
    }
    if conflicts.is_empty() {
        lines.push("no conflicts".to_owned());
    }
    let objects: Vec<Value> = conflicts.iter().map(object).collect();
    let remains = (!conflicts.is_empty()).then(|| NodeError {
        kind: Kind::Conflicts,
        message: match conflicts.len() {
            1 => "1 file has edits that could not both be kept in place".to_owned(),
            count => format!("{count} files have edits that could not both be kept in place"),
        },
        hint: Some(
            "`larder conflicts show PATH` prints both, `larder conflicts resolve PATH [--pick ID]` settles it"
                .to_owned(),
        ),
    });
    Ok(Answer::new(lines, json!({ "conflicts": objects })).with_remains(remains))
}

fn sides(conflict: &OpenConflict) -> impl Iterator<Item = (&'static str, &Stored)> {
    let winner = conflict.winner.iter().map(|stored| ("shown", stored));
    winner.chain(conflict.losers.iter().map(|stored| ("beside", stored)))
}

fn object(conflict: &OpenConflict) -> Value {
    let losers: Vec<Value> = conflict.losers.iter().map(log::object).collect();
    json!({ "path": conflict.slot.path.shown(), "winner": conflict.winner.as_ref().map(log::object), "losers": losers })
}

fn find(glance: &Glance, path: &RelPath) -> Result<OpenConflict, NodeError> {
    let found = glance.conflicts()?.into_iter().find(|conflict| conflict.slot.path == *path);
    found.ok_or_else(|| NodeError::user(format!("{} has no conflict", path.shown()), "`larder conflicts` lists them"))
}

fn show(context: &Context, typed: &std::path::Path) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, typed)?;
    let conflict = find(&glance, &path)?;
    let mut lines = Vec::new();
    let mut contents = Vec::new();
    for (side, stored) in sides(&conflict) {
        lines.push(format!("=== {side}: {}", log::line(stored)));
        let text = shown_content(&glance, stored)?;
        lines.extend(text.lines().map(larder_patterns::shown));
        contents.push(json!({ "side": side, "version": stored.id.to_string(), "content": text }));
    }
    let mut object = object(&conflict);
    object["contents"] = Value::Array(contents);
    Ok(Answer::new(lines, object))
}

fn shown_content(glance: &Glance, stored: &Stored) -> Result<String, NodeError> {
    let Some(content) = stored.version.content() else { return Ok("(deleted)".to_owned()) };
    if content.size > MAX_SHOWN_BYTES as u64 {
        return Ok(format!("({} bytes: print it with `larder cat --version`)", content.size));
    }
    let bytes = glance.bytes_of(&content)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|_| format!("({} bytes that are no text)", content.size)))
}

fn resolve(context: &Context, typed: &std::path::Path, pick: Option<&str>, dry_run: bool) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, typed)?;
    let pick = pick.map(|id| glance.version_of(&path, id)).transpose()?;
    drop(glance);
    act(context, &ChangeRequest::ResolveConflict { path, pick: pick.map(|stored| stored.id), dry_run })
}

fn undo(context: &Context, typed: &std::path::Path, dry_run: bool) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, typed)?;
    let before = glance.before_settlement(&path)?;
    drop(glance);
    act(context, &ChangeRequest::Restore { path, version: before, dry_run })
}
