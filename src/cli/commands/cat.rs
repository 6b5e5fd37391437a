//! `larder cat PATH`: what is recorded of a file, byte for byte, as a mounted view shows it.

use std::path::PathBuf;

use clap::Args;
use data_encoding::BASE64;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::look::{Look, WhichTree, view_error};
use crate::cli::out::Answer;
use crate::model::RelPath;
use crate::mount::{Node, NodeKind, ViewError};
use crate::node::NodeError;

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

/// What `larder cat` takes.
#[derive(Args, Debug)]
pub struct CatArgs {
    /// The file
    path: PathBuf,
    /// Which version, by its id from `larder log`
    #[arg(long, value_name = "ID", conflicts_with_all = ["at", "origin"])]
    version: Option<String>,
    #[command(flatten)]
    which: WhichTree,
}

/// Writes the bytes to stdout as they are; with `--json` as text or base64.
pub fn run(context: &Context, args: &CatArgs) -> Result<Option<Answer>, NodeError> {
    if let Some(id) = &args.version {
        return one_version(context, args, id);
    }
    let look = Look::open(context, &args.which)?;
    let (path, node) = look.find(context, Some(&args.path))?;
    let (Some(path), NodeKind::File | NodeKind::Link) = (path, node.attr.kind) else {
        return Err(NodeError::user("this is a folder", "`larder ls` lists what is in it"));
    };
    let mut whole = Vec::new();
    let mut offset = 0;
    while offset < node.attr.size {
        let piece = look.view.read(node.id, offset, PIECE_BYTES).map_err(|error| unreadable(&look, node, error))?;
        offset += piece.len() as u64;
        if context.out.is_json() {
            whole.extend(piece);
        } else {
            context.out.bytes(&piece);
        }
    }
    Ok(context.out.is_json().then(|| answer(&path, &whole)))
}

/// What the facade says of such a content is more than what the view knows.
fn unreadable(look: &Look, node: Node, error: ViewError) -> NodeError {
    let content = look.view.file(node.id).map(|row| row.content);
    let told = content.ok().and_then(|content| look.glance.gone(&content).and(look.glance.bytes_of(&content).err()));
    told.unwrap_or_else(|| view_error(error))
}

fn one_version(context: &Context, args: &CatArgs, id: &str) -> Result<Option<Answer>, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, &args.path)?;
    let deleted = || {
        let hint = format!("`larder log {0}` lists its versions, `larder restore {0}` brings it back", path.shown());
        NodeError::user(format!("{} is deleted", path.shown()), hint)
    };
    let content = glance.version_of(&path, id)?.version.content().ok_or_else(deleted)?;
    let bytes = glance.bytes_of(&content)?;
    if context.out.is_json() {
        return Ok(Some(answer(&path, &bytes)));
    }
    context.out.bytes(&bytes);
    Ok(None)
}

fn answer(path: &RelPath, bytes: &[u8]) -> Answer {
    let (encoding, content) = match std::str::from_utf8(bytes) {
        Ok(text) => ("utf-8", text.to_owned()),
        Err(_) => ("base64", BASE64.encode(bytes)),
    };
    let object = json!({ "path": path.shown(), "size": bytes.len(), "encoding": encoding, "content": content });
    Answer::new(Vec::new(), object)
}
