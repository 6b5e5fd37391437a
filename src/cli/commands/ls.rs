//! `larder ls [PATH]`: what is recorded in a folder, as a mounted view shows it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::look::{Look, WhichTree, view_error};
use crate::cli::out::Answer;
use crate::cli::text::{ID_DIGITS, rfc3339, size, time};
use crate::mount::{FileRow, Node, NodeKind, Recorded};
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
    #[command(flatten)]
    which: WhichTree,
}

/// One line of the listing.
struct Line {
    name: String,
    file: Option<(FileRow, Option<Recorded>)>,
}

/// Lists.
pub fn run(context: &Context, args: &LsArgs) -> Result<Answer, NodeError> {
    let look = Look::open(context, &args.which)?;
    let (path, node) = look.find(context, args.path.as_ref())?;
    // A line says more than a name only to who asked for it.
    let mut listing = Listing { look: &look, is_whole: args.long || context.out.is_json(), lines: Vec::new() };
    let prefix = path.as_ref().map(|path| path.as_str().to_owned());
    match (node.attr.kind, prefix) {
        (NodeKind::Folder, prefix) if args.recursive => listing.walk(node, prefix.as_deref().unwrap_or_default())?,
        (NodeKind::Folder, _) => listing.list(node)?,
        (_, prefix) => {
            let prefix = prefix.unwrap_or_default();
            let name = if args.recursive { prefix.as_str() } else { prefix.rsplit('/').next().unwrap_or_default() };
            listing.file(name, node)?;
        }
    }
    let lines = listing.lines.iter().map(|line| text(line, args.long)).collect();
    let objects: Vec<Value> = listing.lines.iter().map(object).collect();
    Ok(Answer::new(lines, json!({ "entries": objects })))
}

struct Listing<'a> {
    look: &'a Look,
    is_whole: bool,
    lines: Vec<Line>,
}

impl Listing<'_> {
    fn list(&mut self, folder: Node) -> Result<(), NodeError> {
        for entry in self.look.view.copied_entries(folder.id).map_err(view_error)? {
            match entry.node.attr.kind {
                NodeKind::Folder => self.lines.push(Line { name: entry.name, file: None }),
                _ => self.file(&entry.name, entry.node)?,
            }
        }
        Ok(())
    }

    /// Recursion is bounded by the depth of a path.
    fn walk(&mut self, folder: Node, below: &str) -> Result<(), NodeError> {
        for entry in self.look.view.copied_entries(folder.id).map_err(view_error)? {
            let path = if below.is_empty() { entry.name } else { format!("{below}/{}", entry.name) };
            match entry.node.attr.kind {
                NodeKind::Folder => self.walk(entry.node, &path)?,
                _ => self.file(&path, entry.node)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &str, node: Node) -> Result<(), NodeError> {
        let row = self.look.view.file(node.id).map_err(view_error)?;
        let recorded = if self.is_whole {
            self.look.view.catalog().recorded(&row).map_err(|error| view_error(error.into()))?
        } else {
            None
        };
        self.lines.push(Line { name: name.to_owned(), file: Some((row, recorded)) });
        Ok(())
    }
}

fn text(line: &Line, long: bool) -> String {
    let name = larder_patterns::shown(&line.name);
    match &line.file {
        None => format!("{name}/"),
        Some(_) if !long => name,
        Some((row, recorded)) => {
            let id = recorded.as_ref().map_or(row.version, |recorded| recorded.version.0);
            let heads = recorded.as_ref().map_or(1, |recorded| recorded.heads);
            let many = if heads > 1 { format!("  ({heads} heads)") } else { String::new() };
            let when = time(row.hlc.wall_ms());
            let bytes = size(row.content.size);
            format!("{}  {when}  {bytes:>10}  {}  {name}{many}", id.short(ID_DIGITS), row.origin.name)
        }
    }
}

fn object(line: &Line) -> Value {
    let name = larder_patterns::shown(&line.name);
    let Some((row, recorded)) = &line.file else { return json!({ "name": name, "kind": "dir" }) };
    let recorded = recorded.as_ref();
    let archive_of = recorded.and_then(|recorded| recorded.slot.origin.as_ref()).map(ToString::to_string);
    json!({
        "name": name,
        "kind": "file",
        "path": recorded.map(|recorded| recorded.slot.path.shown()),
        "space": recorded.map(|recorded| recorded.slot.space.to_string()),
        "archive_of": archive_of,
        "version": recorded.map(|recorded| recorded.version.to_string()),
        "size": row.content.size,
        "time": rfc3339(row.hlc.wall_ms()),
        "origin": row.origin.name.to_string(),
        "heads": recorded.map(|recorded| recorded.heads),
    })
}
