//! `larder restore PATH`: an earlier version becomes the newest, here and everywhere.

use std::num::{NonZeroUsize, ParseIntError};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::json;

use crate::cli::act::act;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::look::{Look, WhichTree, view_error};
use crate::cli::out::Answer;
use crate::ledger::Identity;
use crate::model::{RelPath, VersionId};
use crate::mount::NodeKind;
use crate::node::{ChangeRequest, NodeError};

/// What `larder restore` takes.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The file
    path: PathBuf,
    /// Which version, by its id from `larder log`
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    version: Option<String>,
    /// How many steps back: 1 is the content before the present one; or what stood there then: 1h, yesterday, 2026-07-14
    #[arg(long, value_name = "N|TIME", default_value = "1")]
    at: Point,
    #[command(flatten)]
    dry: Dry,
}

/// Where to go back to.
#[derive(Debug, Clone)]
enum Point {
    Steps(NonZeroUsize),
    Moment(String),
}

impl FromStr for Point {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Point, ParseIntError> {
        // Whatever is no number is a moment, or told to be none by who knows what moments are called.
        match text.parse() {
            Ok(steps) => Ok(Point::Steps(steps)),
            Err(error) if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(error),
            Err(_) => Ok(Point::Moment(text.to_owned())),
        }
    }
}

/// Restores.
pub fn run(context: &Context, args: &RestoreArgs) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, &args.path)?;
    let version = match (&args.version, &args.at) {
        (Some(id), _) => glance.version_of(&path, id)?.id,
        (None, Point::Steps(steps)) => glance.version_before(&path, steps.get())?.id,
        (None, Point::Moment(moment)) => version_then(context, args, moment, &path)?,
    };
    drop(glance);
    let change = ChangeRequest::Restore { path, version, dry_run: args.dry.dry_run };
    let mut answer = act(context, &change)?;
    answer.object.insert("version".to_owned(), json!(version.to_string()));
    Ok(answer)
}

/// The version that stood at the path at a moment, as `larder ls --at` shows it.
fn version_then(context: &Context, args: &RestoreArgs, moment: &str, path: &RelPath) -> Result<VersionId, NodeError> {
    let look = Look::open(context, &WhichTree { at: Some(moment.to_owned()), ..WhichTree::default() })?;
    let (_, node) = look.find(context, Some(&args.path))?;
    let shown = path.shown();
    let refused = |why: &str| {
        let message = format!("{shown} was {why} at {}", larder_patterns::shown(moment));
        NodeError::user(message, format!("name one of `larder log {shown}` by `--version ID`"))
    };
    if node.attr.kind == NodeKind::Folder {
        let hint = format!("name a file of `larder ls --at {} {shown}`", larder_patterns::shown(moment));
        return Err(NodeError { hint: Some(hint), ..refused("a folder") });
    }
    let row = look.view.file(node.id).map_err(view_error)?;
    let recorded = look.view.catalog().recorded(&row).map_err(|error| view_error(error.into()))?;
    let recorded = recorded.ok_or_else(|| refused("no recorded version"))?;
    let own = look.glance.identity.as_ref().map(Identity::origin);
    if recorded.is_merge {
        return Err(refused("put together of several versions"));
    }
    if recorded.slot.origin.as_ref().is_some_and(|origin| Some(origin) != own) {
        return Err(refused("another machine's archive file"));
    }
    Ok(recorded.version)
}
