//! `larder ls [PATH]`: what is recorded in a folder.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{ID_DIGITS, rfc3339, size, time};
use crate::index::{DirEntry, Entry, EntryKind};
use crate::node::NodeError;

/// What `larder ls` takes.
#[derive(Args, Debug)]
pub struct LsArgs {
    /// A folder, or a file
    path: Option<PathBuf>,
    /// Everything below it
    #[arg(long, short = 'R')]
    recursive: bool,
    /// With time, size, origin and version
    #[arg(long, short)]
    long: bool,
}

/// Lists.
pub fn run(context: &Context, args: &LsArgs) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = args.path.as_deref().map(|typed| context.project_path(&glance.settings, typed)).transpose()?.flatten();
    let dir = path.as_ref().map_or("", |path| path.as_str());
    let mut entries = glance.list(dir, args.recursive)?;
    if let (Some(path), true) = (&path, entries.is_empty()) {
        let found = glance.list(path.parent().unwrap_or_default(), false)?;
        entries = found.into_iter().filter(|entry| entry.name == path.file_name()).collect();
        if entries.is_empty() {
            let hint = "`larder ls` lists what is recorded, `larder log PATH` what was";
            return Err(NodeError::user(format!("nothing is recorded at {}", path.shown()), hint));
        }
    }
    let lines = entries.iter().flat_map(|entry| lines(entry, args.long)).collect();
    let objects: Vec<Value> = entries.iter().flat_map(objects).collect();
    Ok(Answer::new(lines, json!({ "entries": objects })))
}

fn lines(entry: &DirEntry, long: bool) -> Vec<String> {
    let name = larder_patterns::shown(&entry.name);
    match &entry.kind {
        EntryKind::Dir => vec![format!("{name}/")],
        EntryKind::Slots(slots) if long => slots.iter().map(|slot| long_line(&name, slot)).collect(),
        EntryKind::Slots(_) => vec![name],
    }
}

fn long_line(name: &str, entry: &Entry) -> String {
    let bytes = entry.content.map_or(0, |content| content.size);
    let many = if entry.heads > 1 { format!("  ({} heads)", entry.heads) } else { String::new() };
    format!(
        "{}  {}  {:>10}  {}  {name}{many}",
        entry.id.0.short(ID_DIGITS),
        time(entry.hlc.wall_ms()),
        size(bytes),
        entry.origin
    )
}

fn objects(entry: &DirEntry) -> Vec<Value> {
    let name = larder_patterns::shown(&entry.name);
    match &entry.kind {
        EntryKind::Dir => vec![json!({ "name": name, "kind": "dir" })],
        EntryKind::Slots(slots) => slots.iter().map(|slot| object(&name, slot)).collect(),
    }
}

fn object(name: &str, entry: &Entry) -> Value {
    json!({
        "name": name,
        "kind": "file",
        "path": entry.slot.path.shown(),
        "space": entry.slot.space.to_string(),
        "archive_of": entry.slot.origin.as_ref().map(ToString::to_string),
        "version": entry.id.to_string(),
        "size": entry.content.map(|content| content.size),
        "time": rfc3339(entry.hlc.wall_ms()),
        "origin": entry.origin.to_string(),
        "heads": entry.heads,
    })
}
