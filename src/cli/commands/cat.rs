//! `larder cat PATH`: what is recorded of a file, byte for byte.

use std::path::PathBuf;

use clap::Args;
use data_encoding::BASE64;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::NodeError;

/// What `larder cat` takes.
#[derive(Args, Debug)]
pub struct CatArgs {
    /// The file
    path: PathBuf,
    /// Which version, by its id from `larder log`
    #[arg(long, value_name = "ID")]
    version: Option<String>,
}

/// Writes the bytes to stdout as they are; with `--json` as text or base64.
pub fn run(context: &Context, args: &CatArgs) -> Result<Option<Answer>, NodeError> {
    let glance = context.glance()?;
    let path = context.file_path(&glance.settings, &args.path)?;
    let bytes = match &args.version {
        Some(id) => {
            let stored = glance.version_of(&path, id)?;
            stored.version.content().map(|content| glance.bytes_of(&content)).transpose()?
        }
        None => {
            let mut found = None;
            for slot in glance.known_slots(&path)? {
                found = found.or(glance.bytes_now(&slot)?);
            }
            found
        }
    };
    let deleted = || {
        let hint = format!("`larder log {0}` lists its versions, `larder restore {0}` brings it back", path.shown());
        NodeError::user(format!("{} is deleted", path.shown()), hint)
    };
    let bytes = bytes.ok_or_else(deleted)?;
    if !context.out.is_json() {
        context.out.bytes(&bytes);
        return Ok(None);
    }
    let object = match std::str::from_utf8(&bytes) {
        Ok(text) => json!({ "path": path.shown(), "size": bytes.len(), "encoding": "utf-8", "content": text }),
        Err(_) => {
            json!({ "path": path.shown(), "size": bytes.len(), "encoding": "base64", "content": BASE64.encode(&bytes) })
        }
    };
    Ok(Some(Answer::new(Vec::new(), object)))
}
