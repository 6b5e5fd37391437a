//! `larder status`: what is kept, what waits and what is wrong, at once.

use serde_json::{Value, json};

use crate::cli::act;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{ago, count, size};
use crate::daemon::{self, Heard, Request};
use crate::node::{ContactStatus, NodeError, ProblemStatus, Status};

/// Lines of one kind after which the rest is counted; `--json` has all.
const MAX_LINES: usize = 20;
/// The source of patterns that match nothing: on a machine whose archive is empty that is as it should be.
const IDLE_PATTERNS: &str = "patterns";
/// In place of what only the daemon knows.
const AT_WORK: &str = "it is at work: what it alone knows is told when it has time";

/// Computed from the journal and the index; the daemon, if one runs, adds what only it knows.
pub fn run(context: &Context) -> Result<Answer, NodeError> {
    let glance = context.glance_at_what_is_there()?;
    let status = glance.status()?;
    let heard = status.running_pid.map(|_| daemon::hear(&glance.dirs.socket(), &Request::Status));
    let (daemon, failed) = match heard {
        Some(Heard::Reply(reply)) => (reply.body, reply.error.map(|said| act::remains_of(said, reply.hint))),
        Some(Heard::Silence) => (json!({ "lines": [AT_WORK] }), None),
        Some(Heard::Nobody) | None => (Value::Null, None),
    };
    // A struct of strings and numbers always has a JSON form.
    let mut object = serde_json::to_value(&status).unwrap_or_default();
    object["daemon"] = daemon.clone();
    let answer = Answer::new(lines(&status, &daemon, context.now_ms()), object);
    Ok(answer.with_remains(failed.or_else(|| status.remains())))
}

/// The status as people read it.
pub fn lines(status: &Status, daemon: &Value, now_ms: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |name: &str, text: String| lines.push(format!("{name:<9} {text}"));
    say("project", format!("{} (app {}, owner {})", status.root, status.app, status.owner));
    say("origin", status.origin.clone().unwrap_or_else(|| "none yet: nothing ran here".to_owned()));
    if let Some(stop) = &status.stopped {
        say("stopped", format!("{}; {}", stop.why, stop.way_on));
    }
    let running = status.running_pid.map(|pid| format!("yes, process {pid}"));
    say("running", running.unwrap_or_else(|| "no".to_owned()));
    for line in daemon_lines(daemon) {
        say("", line);
    }
    say("backend", format!("{} ({})", status.backend.address, status.backend.word()));
    for line in &status.backend.lines {
        say("", contact(line, now_ms));
    }
    for peer in &status.peers {
        say("peer", format!("{} {} ({})", peer.name, peer.address, peer.word()));
        for line in &peer.lines {
            say("", contact(line, now_ms));
        }
    }
    let counts = &status.counts;
    let kept =
        format!("{}, {}, {}", count(counts.files, "file"), size(counts.bytes), count(counts.versions, "version"));
    say("kept", status.missing.clone().unwrap_or(kept));
    if counts.origins.len() > 1 {
        for origin in &counts.origins {
            say(
                "",
                format!("{}: {}, {}", origin.origin, count(origin.files, "file"), count(origin.versions, "version")),
            );
        }
    }
    for from in &status.verified_from {
        say("begun", format!("{}: verified from {}", from.chain, from.checkpoint));
    }
    push_findings(&mut lines, status, now_ms);
    lines
}

fn push_findings(lines: &mut Vec<String>, status: &Status, now_ms: u64) {
    let counts = &status.counts;
    let ago_of = |ms: i64| ago(now_ms, u64::try_from(ms).unwrap_or(0));
    list(lines, "waits", &status.pending, |pending| {
        let since = if pending.since_ms > 0 { format!(", since {}", ago_of(pending.since_ms)) } else { String::new() };
        format!("{} ({}): {}{since}", pending.path, pending.what, pending.why)
    });
    list(lines, "outbox", &status.outbox, |row| {
        format!("{}: {} ({})", row.path, row.error, count(u64::from(row.attempts), "try"))
    });
    list_of(lines, "conflict", counts.conflicts, &status.conflicts, Clone::clone);
    list(lines, "revived", &status.revived, |revived| {
        let (path, moved_to) = (&revived.path, &revived.moved_to);
        format!(
            "{path}: edited elsewhere after it was moved to {moved_to}; both are kept until one is edited or removed"
        )
    });
    list_of(lines, "held", counts.held_deletions, &status.held_deletions, |path| format!("deletion of {path}"));
    let (warnings, problems): (Vec<&ProblemStatus>, Vec<&ProblemStatus>) =
        status.problems.iter().partition(|problem| problem.source == IDLE_PATTERNS);
    let told = |problem: &&ProblemStatus| format!("{}: {} ({})", problem.path, problem.what, problem.source);
    list(lines, "problem", &problems, told);
    list(lines, "warning", &warnings, told);
    list(lines, "warning", &status.warnings, Clone::clone);
    let late = [
        (counts.waiting, "wait for versions before them that are not here yet"),
        (counts.rejected, "were left out, because they break a rule"),
    ];
    for (number, what) in late.iter().filter(|(number, _)| *number > 0) {
        lines.push(format!("{:<9} {number} records {what}", "problem"));
    }
    if counts.upgrade > 0 {
        let items = count(counts.upgrade, "item");
        let verb = if counts.upgrade == 1 { "waits" } else { "wait" };
        lines.push(format!("{:<9} {items} {verb} for an upgrade: a newer larder wrote what this one cannot read; it is kept and passed on", "newer"));
    }
}

fn list<T>(lines: &mut Vec<String>, name: &str, items: &[T], text: impl Fn(&T) -> String) {
    list_of(lines, name, items.len() as u64, items, text);
}

/// The first of a list that may be the beginning of a longer one.
fn list_of<T>(lines: &mut Vec<String>, name: &str, count: u64, items: &[T], text: impl Fn(&T) -> String) {
    for item in items.iter().take(MAX_LINES) {
        lines.push(format!("{name:<9} {}", text(item)));
    }
    let more = count.saturating_sub(items.len().min(MAX_LINES) as u64);
    if more > 0 {
        lines.push(format!("{:<9} and {more} more", ""));
    }
}

fn contact(line: &ContactStatus, now_ms: u64) -> String {
    let ago_of = |ms: i64| ago(now_ms, u64::try_from(ms).unwrap_or(0));
    let success =
        line.success_ms.map_or_else(|| "never succeeded".to_owned(), |ms| format!("last success {}", ago_of(ms)));
    let failure = line.failure_ms.map(|ms| {
        let error = line.error.as_deref().unwrap_or("no reason was given");
        format!("; failed {}: {error}", ago_of(ms))
    });
    format!("{} {}: {success}{}", line.store, line.direction, failure.unwrap_or_default())
}

/// Lines that only a running daemon knows, such as how it watches.
fn daemon_lines(daemon: &Value) -> Vec<String> {
    match daemon {
        Value::Object(object) => match object.get("lines") {
            Some(Value::Array(lines)) => lines.iter().filter_map(Value::as_str).map(larder_patterns::shown).collect(),
            _ => object.iter().filter_map(|(key, value)| Some(format!("{key}: {}", scalar(value)?))).collect(),
        },
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).map(larder_patterns::shown).collect(),
        _ => Vec::new(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(larder_patterns::shown(text)),
        Value::Number(_) | Value::Bool(_) => Some(json!(value).to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
