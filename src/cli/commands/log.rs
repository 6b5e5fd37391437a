//! `larder log [PATH]`: versions, newest first.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{ID_DIGITS, rfc3339, size, time};
use crate::index::Stored;
use crate::model::{ContentKind, Reason, State, Version};
use crate::node::NodeError;

/// What `larder log` takes.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// A file, or a folder
    path: Option<PathBuf>,
    /// How many versions, at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Lists versions.
pub fn run(context: &Context, args: &LogArgs) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = args.path.as_deref().map(|typed| context.project_path(&glance.settings, typed)).transpose()?.flatten();
    let versions = glance.log(path.as_ref(), args.limit)?;
    let gone = |stored: &Stored| stored.version.content().and_then(|content| glance.gone(&content));
    let told = |stored: &Stored| match gone(stored) {
        Some(gone) => format!("{}  {}", line(stored), gone.sentence()),
        None => line(stored),
    };
    let lines = versions.iter().map(told).collect();
    let with_gone = |stored: &Stored| {
        let mut object = object(stored);
        let told = |purged: bool| {
            let gone = gone(stored).filter(|gone| gone.purged == purged);
            Value::from(gone.map(|gone| json!({ "origin": gone.origin, "day": gone.day() })))
        };
        object["dropped"] = told(false);
        object["purged"] = told(true);
        object
    };
    let objects: Vec<Value> = versions.iter().map(with_gone).collect();
    Ok(Answer::new(lines, json!({ "versions": objects })))
}

/// `2026-11-21 10:15:02Z  laptop-abc234  edited   a.md  0123456789`
pub fn line(stored: &Stored) -> String {
    let version = &stored.version;
    let origin = &version.dot.lane.origin;
    let via = version.via.as_deref().map(|via| format!("  via {}", larder_patterns::shown(via)));
    let moved = match (&version.moved_from, &version.state) {
        (Some(from), _) => format!(" (was {})", from.shown()),
        (None, State::Tombstone { moved_to: Some(to), .. }) => format!(" (now {})", to.shown()),
        _ => String::new(),
    };
    let bytes = version.content().map(|content| format!("  {}", size(content.size)));
    format!(
        "{}  {}  {origin}  {:<8}  {}{moved}{}{}",
        stored.id.0.short(ID_DIGITS),
        time(version.hlc.wall_ms()),
        change(version),
        version.path.shown(),
        bytes.unwrap_or_default(),
        via.unwrap_or_default(),
    )
}

/// One word for what a version did.
pub fn change(version: &Version) -> &'static str {
    match &version.state {
        State::Tombstone { reason: Reason::Move, .. } => "moved",
        State::Tombstone { .. } => "deleted",
        State::Content(_) if version.moved_from.is_some() => "renamed",
        State::Content(_) if version.adopted => "adopted",
        State::Content(_) if version.born == version.hlc => "created",
        State::Content(_) if version.parents.len() > 1 => "settled",
        State::Content(_) => "edited",
    }
}

/// The stable form of a version; see `docs/commands.md`.
pub fn object(stored: &Stored) -> Value {
    let version = &stored.version;
    let content = version.content();
    let parents: Vec<String> = version.parents.iter().map(ToString::to_string).collect();
    json!({
        "id": stored.id.to_string(),
        "path": version.path.shown(),
        "change": change(version),
        "time": rfc3339(version.hlc.wall_ms()),
        "hlc": version.hlc.to_string(),
        "origin": version.dot.lane.origin.to_string(),
        "channel": version.channel.as_str(),
        "size": content.map(|content| content.size),
        "content": content.map(|content| content.hash.to_string()),
        "exec": content.is_some_and(|content| content.kind == ContentKind::File { exec: true }),
        "link": content.is_some_and(|content| content.kind == ContentKind::Link),
        "moved_from": version.moved_from.as_ref().map(|path| path.shown()),
        "moved_to": match &version.state {
            State::Tombstone { moved_to, .. } => moved_to.as_ref().map(|path| path.shown()),
            State::Content(_) => None,
        },
        "parents": parents,
        "via": version.via.as_deref().map(larder_patterns::shown),
    })
}
