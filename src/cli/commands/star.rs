//! `larder star [PATH]`: marks a file for all machines of the project, takes the mark away, or lists what is marked.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{rfc3339, time};
use crate::index::Star;
use crate::model::OriginName;
use crate::node::{Behind, ChangeRequest, NodeError};

/// What `larder star` takes.
#[derive(Args, Debug)]
pub struct StarArgs {
    /// The file; without it what is marked is listed
    path: Option<PathBuf>,
    /// Take the star away
    #[arg(long, requires = "path")]
    remove: bool,
    /// This machine's archive file alone, not all that stands at the path
    #[arg(long, value_name = "ORIGIN", requires = "path")]
    origin: Option<String>,
    #[command(flatten)]
    dry: Dry,
}

/// Marks, or lists.
pub fn run(context: &Context, args: &StarArgs) -> Result<Answer, NodeError> {
    let Some(path) = &args.path else { return list(context) };
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, path)?;
    let origin = args.origin.as_deref().map(parse_origin).transpose()?;
    if !args.remove {
        // Said before anything is opened for writing; a folder has no versions of its own.
        glance.known_slots(&path)?;
    }
    drop(glance);
    act(context, &ChangeRequest::Star { path, origin, on: !args.remove, dry_run: args.dry.dry_run })
}

fn parse_origin(text: &str) -> Result<OriginName, NodeError> {
    text.parse().map_err(|_| {
        let message = format!("no machine {} is known here", larder_patterns::shown(text));
        NodeError::user(message, "`larder origin list` lists them")
    })
}

fn list(context: &Context) -> Result<Answer, NodeError> {
    let stars = context.glance()?.stars()?;
    let mut lines: Vec<String> = stars.iter().map(line).collect();
    if lines.is_empty() {
        lines.push("nothing has a star; `larder star PATH` gives one".to_owned());
    }
    let objects: Vec<Value> = stars.iter().map(object).collect();
    Ok(Answer::new(lines, json!({ "stars": objects })))
}

fn line((star, behind): &(Star, Behind)) -> String {
    let of = star.origin.as_ref().map_or(String::new(), |origin| format!(" of {origin}"));
    let what = match behind {
        Behind::Shown => String::new(),
        Behind::Deleted => ", deleted now".to_owned(),
        Behind::Moved(to) => format!(", moved to {}", to.shown()),
        Behind::Unknown => ", not here yet".to_owned(),
    };
    format!("{}{of}  (by {}, {}{what})", star.path.shown(), star.by, time(star.hlc.wall_ms()))
}

fn object((star, behind): &(Star, Behind)) -> Value {
    let (state, moved_to) = match behind {
        Behind::Shown => ("shown", None),
        Behind::Deleted => ("deleted", None),
        Behind::Moved(to) => ("moved", Some(to.shown())),
        Behind::Unknown => ("unknown", None),
    };
    json!({
        "path": star.path.shown(),
        "space": star.space.to_string(),
        "origin": star.origin.as_ref().map(ToString::to_string),
        "by": star.by.to_string(),
        "time": rfc3339(star.hlc.wall_ms()),
        "state": state,
        "moved_to": moved_to,
    })
}
