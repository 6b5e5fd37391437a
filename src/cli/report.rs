//! How the report of a run reads, whether it was done here or by the daemon.
//!
//! Invariant: every path that something happened to has one line; the object holds the same.

use serde_json::{Value, json};

use super::text::{ID_DIGITS, count, size};
use crate::node::NodeError;
use crate::sync::{Change, PurgeReport, PurgedVersion, Report, StarChange};

/// Lines of one kind after which the rest is counted; `--json` has all.
const MAX_LINES: usize = 1_000;

/// One line for each path, then a summary. `remains` is what has to be looked at afterwards, if anything has.
pub fn lines(report: &Report, dry_run: bool, remains: Option<&NodeError>) -> Vec<String> {
    let (record, write) = if dry_run { ("would record", "would write") } else { ("recorded", "wrote") };
    let from_row = if dry_run { "would record, from the backend," } else { "recorded from the backend" };
    let mut lines = Vec::new();
    push_changes(&mut lines, "+", record, &report.recorded);
    push_changes(&mut lines, "+", from_row, &report.recorded_rows);
    push_changes(&mut lines, "<", write, &report.written);
    push_all(&mut lines, &report.members, |sentence| larder_patterns::shown(sentence));
    if let Some(purge) = &report.purge {
        push_purge(&mut lines, purge, dry_run);
    }
    push_all(&mut lines, &report.stars, |star| starred(star, dry_run));
    push_all(&mut lines, &report.healed, |name| format!("< healed {name}"));
    push_all(&mut lines, &report.mended, |name| format!("> mended {name}"));
    push_all(&mut lines, &report.waiting, |(path, why)| format!("~ waits: {path}: {why}"));
    push_all(&mut lines, &report.problems, |(path, what)| format!("! {path}: {what}"));
    push_all(&mut lines, &report.peer_errors, |(name, why)| format!("! peer {name}: {}", larder_patterns::shown(why)));
    push_all(&mut lines, &report.goes_on, |who| format!("~ the exchange with {who} goes on"));
    if let Some(bundle) = &report.bundle {
        push_all(&mut lines, &bundle.damage, |what| format!("! bundle: {what}"));
        let artifacts = count(bundle.artifacts, "artifact");
        lines.push(format!("bundle {}: {artifacts}, {} bytes", bundle.file, bundle.bytes));
    }
    let is_said = !report.stars.is_empty() && report.is_empty();
    lines.extend((!is_said).then(|| summary(report, dry_run, remains)));
    lines
}

fn starred(star: &StarChange, dry_run: bool) -> String {
    let of = star.origin.as_ref().map_or(String::new(), |origin| format!(" of {origin}"));
    let named = format!("{}{of}", star.path);
    match (star.on, star.changed, dry_run) {
        (true, true, false) => format!("* starred {named}"),
        (true, true, true) => format!("* would star {named}"),
        (true, false, _) => format!("{named} has a star already"),
        (false, true, false) => format!("* took the star of {named} away"),
        (false, true, true) => format!("* would take the star of {named} away"),
        (false, false, _) => format!("{named} has no star"),
    }
}

fn push_purge(lines: &mut Vec<String>, purge: &PurgeReport, dry_run: bool) {
    let (purges, removes) = if dry_run { ("would purge", "would remove") } else { ("purged", "removed") };
    push_all(lines, &purge.purged, |version| format!("- {purges} {}", named(version)));
    for kept in &purge.kept {
        let what = if kept.whole { "stays" } else { "stays in part" };
        lines.push(format!("! {} {what}, because these need it:", named(&kept.named)));
        lines.extend(kept.by.iter().map(|by| format!("    {}", named(by))));
    }
    push_all(lines, &purge.waits, |version| {
        format!("~ waits for a person on {}, or its owner's: {}", version.origin, named(version))
    });
    if purge.before > 0 {
        lines.push(format!("  {} of it purged before", count(purge.before, "version")));
    }
    if !purge.artifacts.is_empty() {
        lines.push(format!("- {removes} {} here", count(purge.artifacts.len() as u64, "artifact")));
    }
    push_all(lines, &purge.copies, |copy| format!("- {removes} {}", larder_patterns::shown(copy)));
    for store in &purge.stores {
        let name = larder_patterns::shown(&store.store);
        if !store.removed.is_empty() {
            lines.push(format!("- {removes} {} in {name}", count(store.removed.len() as u64, "artifact")));
        }
        if let Some(why) = &store.why {
            lines.push(format!("! {name}: {}", larder_patterns::shown(why)));
        } else if store.waits {
            lines.push(format!("~ {name}: what stands for it is not all there yet; the next `larder sync` goes on"));
        }
    }
    if !purge.damaged.is_empty() {
        let artifacts = count(purge.damaged.len() as u64, "artifact");
        lines.push(format!(
            "! {artifacts} of this machine hold it still: they are damaged, and what else stands in them has to be whole first (`larder repair`) or be purged as well"
        ));
    }
    if !purge.elsewhere.is_empty() {
        let artifacts = count(purge.elsewhere.len() as u64, "artifact");
        lines.push(format!("~ {artifacts} of other machines hold it here, until those machines hear of it"));
    }
    push_all(lines, &purge.on_disk, |path| {
        format!(
            "! {path} on this disk still holds it, and is not touched: edit or delete it, or its next edit publishes it anew"
        )
    });
    if !(purge.purged.is_empty() || dry_run) {
        lines.push("  bundles that were exported before may hold it: remove them by hand".to_owned());
    }
}

fn named(version: &PurgedVersion) -> String {
    let id = version.version.get(..ID_DIGITS).unwrap_or(&version.version);
    format!("{} {id} by {} ({})", version.path, version.origin, size(version.size))
}

fn push_changes(lines: &mut Vec<String>, sign: &str, verb: &str, changes: &[(String, Change)]) {
    push_all(lines, changes, |(path, change)| format!("{sign} {verb} {}", described(path, change)));
}

fn push_all<T>(lines: &mut Vec<String>, items: &[T], line: impl Fn(&T) -> String) {
    lines.extend(items.iter().take(MAX_LINES).map(line));
    if items.len() > MAX_LINES {
        lines.push(format!("  and {} more", items.len() - MAX_LINES));
    }
}

fn described(path: &str, change: &Change) -> String {
    match change {
        Change::Created => format!("new {path}"),
        Change::Edited => format!("edited {path}"),
        Change::Deleted => format!("deleted {path}"),
        Change::Renamed { from } => format!("renamed {path} (was {from})"),
        Change::Adopted => format!("adopted {path}"),
    }
}

fn summary(report: &Report, dry_run: bool, remains: Option<&NodeError>) -> String {
    let waits = report.waiting.len() as u64;
    let problems = report.problems.len() as u64;
    let recorded = (report.recorded.len() + report.recorded_rows.len()) as u64;
    let done = |what: &'static str, planned: &'static str| if dry_run { planned } else { what };
    let mut said = Vec::new();
    let mut say = |number: u64, text: String| {
        if number > 0 {
            said.push(text);
        }
    };
    say(recorded, format!("{recorded} {}", done("recorded", "to record")));
    let written = report.written.len() as u64;
    say(written, format!("{written} {}", done("written", "to write")));
    say(report.rows_written, format!("{} {}", count(report.rows_written, "row"), done("mirrored", "to mirror")));
    say(report.rows_deleted, format!("{} {}", count(report.rows_deleted, "row"), done("deleted", "to delete")));
    say(report.pushed, format!("{} sent", count(report.pushed, "artifact")));
    say(report.pulled, format!("{} received", count(report.pulled, "artifact")));
    say(report.to_receive, format!("{} to receive", count(report.to_receive, "artifact")));
    let purged = report.purge.as_ref().map_or(0, |purge| purge.purged.len() as u64);
    say(purged, format!("{purged} {}", done("purged", "to purge")));
    say(waits, format!("{waits} waiting"));
    say(problems, count(problems, "problem"));
    if report.stopped.is_some() {
        said.push("stopped before anything was recorded or written".to_owned());
    }
    let nothing = match (dry_run, remains) {
        (true, _) => "nothing to do",
        // What is damaged, away or waits for a person is not up to date, whatever this run did.
        (false, Some(_)) => "nothing changed",
        (false, None) => "everything is up to date",
    };
    if said.is_empty() { nothing.to_owned() } else { said.join(", ") }
}

/// The stable shape; see `docs/commands.md`.
pub fn object(report: &Report, dry_run: bool) -> Value {
    let reasons = |items: &[(String, String)], key: &str| -> Vec<Value> {
        items.iter().map(|(path, why)| json!({ "path": path, key: why })).collect()
    };
    let failed = report.peer_errors.iter();
    let peer_errors: Vec<Value> = failed.map(|(name, why)| json!({ "peer": name, "error": why })).collect();
    let mut object = json!({
        "dry_run": dry_run,
        "recorded": changes(&report.recorded),
        "recorded_rows": changes(&report.recorded_rows),
        "written": changes(&report.written),
        "rows_written": report.rows_written,
        "rows_deleted": report.rows_deleted,
        "pulled": report.pulled,
        "pushed": report.pushed,
        "to_receive": report.to_receive,
        "healed": report.healed,
        "mended": report.mended,
        "waiting": reasons(&report.waiting, "why"),
        "problems": reasons(&report.problems, "what"),
        "ledger_bytes": report.ledger_bytes,
        "row_bytes": report.row_bytes,
        "backend_error": report.backend_error,
        "peer_errors": peer_errors,
        "stopped": report.stopped,
    });
    if !report.goes_on.is_empty() {
        object["goes_on"] = json!(report.goes_on);
    }
    if !report.members.is_empty() {
        object["members"] = json!(report.members);
    }
    if let Some(purge) = &report.purge {
        object["purge"] = json!(purge);
    }
    if !report.stars.is_empty() {
        object["stars"] = json!(report.stars);
    }
    if let Some(bundle) = &report.bundle {
        object["bundle"] = json!({
            "file": bundle.file, "artifacts": bundle.artifacts, "bytes": bundle.bytes, "damage": bundle.damage,
        });
    }
    object
}

fn changes(changes: &[(String, Change)]) -> Vec<Value> {
    let object = |(path, change): &(String, Change)| {
        // `{"what": .., "from": ..}`; a tagged enum always has this form.
        let mut object = serde_json::to_value(change).unwrap_or_default();
        object["path"] = json!(path);
        object
    };
    changes.iter().map(object).collect()
}
