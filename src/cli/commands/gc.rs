//! `larder gc`: what was replaced long ago and every machine knows of is let go.

use serde_json::json;

use crate::cli::act::{errand, strange};
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{count, size};
use crate::node::{Errand, Errands, NodeError};
use crate::sync::Collected;

/// Lines of each kind that people are shown.
const MAX_LINES: usize = 50;

/// Collects garbage.
pub fn run(context: &Context, args: &Dry) -> Result<Answer, NodeError> {
    let Errands::Collected(done) = errand(context, Errand::Collect { dry_run: args.dry_run })? else {
        return Err(strange());
    };
    let dropped: Vec<_> = done
        .dropped
        .iter()
        .map(|gone| json!({ "path": gone.path, "version": gone.version, "content": gone.content, "size": gone.size }))
        .collect();
    let stores: Vec<_> = done
        .stores
        .iter()
        .map(|store| {
            let (name, why) = (larder_patterns::shown(&store.store), store.why.as_deref().map(larder_patterns::shown));
            json!({ "store": name, "removed": store.removed, "why": why })
        })
        .collect();
    let object = json!({
        "dry_run": args.dry_run,
        "dropped": dropped,
        "swept": done.swept,
        "removed": done.removed,
        "freed_bytes": done.freed_bytes,
        "rescued": done.rescued,
        "stores": stores,
        "silent": done.silent,
        "held_back": done.held_back,
    });
    Ok(Answer::new(lines(&done, args.dry_run), object))
}

fn lines(done: &Collected, dry_run: bool) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (drops, removes) = if dry_run { ("would drop", "would remove") } else { ("dropped", "removed") };
    for gone in done.dropped.iter().take(MAX_LINES) {
        let id = gone.version.get(..10).unwrap_or(&gone.version);
        lines.push(format!("{drops} {} {id} ({})", gone.path, size(gone.size)));
    }
    if done.dropped.len() > MAX_LINES {
        lines.push(format!("and {} more", done.dropped.len() - MAX_LINES));
    }
    if !done.removed.is_empty() {
        let artifacts = count(done.removed.len() as u64, "artifact");
        lines.push(format!("{removes} {artifacts} here, {}", size(done.freed_bytes)));
    }
    for store in &done.stores {
        let name = larder_patterns::shown(&store.store);
        if !store.removed.is_empty() {
            lines.push(format!("{removes} {} in {name}", count(store.removed.len() as u64, "artifact")));
        }
        lines.extend(store.why.as_ref().map(|why| format!("{name}: {}", larder_patterns::shown(why))));
    }
    lines.extend(done.silent.iter().map(|origin| format!("{origin} said nothing for longer than `retention`")));
    lines.extend(done.held_back.iter().map(|why| format!("nothing more is dropped: {why}")));
    if lines.is_empty() {
        lines.push("nothing to let go".to_owned());
    }
    lines
}
