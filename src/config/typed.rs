//! From the tree of a config file to its fields: every unknown key and every value of a wrong type, each with its place.
//!
//! Invariant: what comes back without problems is exactly what the file says. Pure.

use serde_json::Value;
use serde_path_to_error::Segment;

use super::document::{Content, Node, Step, dotted, shorten};
use super::file::{APP_ID_NEEDED, Config, MergeKind, OWNER_ID_NEEDED};
use super::nearest::nearest;
use super::problem::{MAX_PROBLEMS, Problem};
use super::quantity::{INTERVAL_NEEDED, RETENTION_NEEDED, SIZE_NEEDED};

/// Reads the fields. Each key or value that does not fit is noted and taken out, and the rest is tried again.
///
/// With problems the fields are the good ones only, or the defaults.
pub(super) fn typed(text: &str, document: &Node) -> (Config, Vec<Problem>) {
    let mut value = document.to_json();
    let mut problems = Vec::new();
    if !refuse_lists(text, document, &mut value, &mut problems) {
        return (Config::default(), problems);
    }
    while problems.len() < MAX_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, Config>(&value) {
            Ok(config) => return (config, problems),
            Err(error) => error,
        };
        let steps = steps_of(&error);
        let problem = type_problem(text, document, &steps, &error.inner().to_string());
        // A key that is missing because its misspelt form was just taken out is no second problem.
        let inside =
            |earlier: &Problem| earlier.key.strip_prefix(&problem.key).is_some_and(|rest| rest.starts_with('.'));
        if !problem.sentence.contains("` has no `") || !problems.iter().any(inside) {
            problems.push(problem);
        }
        if !take_out(&mut value, &steps) {
            break;
        }
    }
    (Config::default(), problems)
}

// A list in place of an object is refused here: serde would read it by position. False if nothing is left to read.
fn refuse_lists(text: &str, document: &Node, value: &mut Value, problems: &mut Vec<Problem>) -> bool {
    let key = |name: &str| Step::Key(name.to_owned());
    let (databases, _) = document.follow(&[key("databases")]);
    let database_count = match &databases.content {
        Content::List(items) => items.len(),
        _ => 0,
    };
    let database = |i: usize| vec![key("databases"), Step::Index(i)];
    let places = [vec![], vec![key("encryption")]].into_iter().chain((0..database_count).map(database));
    for steps in places {
        let (node, _) = document.follow(&steps);
        let arrived = steps.is_empty() || !std::ptr::eq(node, document);
        if arrived && matches!(node.content, Content::List(_)) {
            problems.push(type_problem(text, document, &steps, ""));
            if !take_out(value, &steps) || problems.len() >= MAX_PROBLEMS {
                return false;
            }
        }
    }
    true
}

fn steps_of(error: &serde_path_to_error::Error<serde_json::Error>) -> Vec<Step> {
    let steps = error.path().iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    steps.collect()
}

// True if something was taken out, so that the next round has less to read.
fn take_out(value: &mut Value, steps: &[Step]) -> bool {
    // Taking an element out of a list would move the places of those behind it: the whole list goes.
    let keys = steps.iter().rposition(|step| matches!(step, Step::Key(_))).map_or(&steps[..0], |at| &steps[..=at]);
    let Some((Step::Key(last), parents)) = keys.split_last() else {
        return false;
    };
    let mut parent = value;
    for step in parents {
        let child = match step {
            Step::Key(name) => parent.get_mut(name),
            Step::Index(i) => parent.get_mut(i),
        };
        let Some(child) = child else { return false };
        parent = child;
    }
    parent.as_object_mut().is_some_and(|map| map.remove(last).is_some())
}

fn type_problem(text: &str, document: &Node, steps: &[Step], message: &str) -> Problem {
    let key = dotted(steps);
    let (node, key_span) = document.follow(steps);
    if message.starts_with("unknown field") {
        return unknown_key(text, steps, key_span, message);
    }
    if let Some(missing) = message.strip_prefix("missing field ").and_then(quoted) {
        let sentence = format!("`{key}` has no `{missing}`");
        return Problem::at(text, node.span.clone(), &key, sentence).help(format!("add `\"{missing}\": ..`"));
    }
    let subject = if steps.is_empty() { "the config".to_owned() } else { format!("`{key}`") };
    let sentence = format!("{subject} must be {}, not {}", needed(steps), node.described());
    let problem = Problem::at(text, node.span.clone(), key, sentence);
    match (&node.content, steps) {
        (Content::Text(word), [Step::Key(top), ..]) if top == "merge" => {
            let meant = nearest(word, MergeKind::ALL.map(MergeKind::as_str));
            meant.map_or(problem.clone(), |known| problem.help(format!("did you mean `{known}`?")))
        }
        (Content::Text(word), [Step::Key(top)])
            if top == "retention" && word.parse::<u32>().is_ok_and(|days| 0 < days) =>
        {
            problem.help(format!("say the unit: `\"{word}d\"` is so many days"))
        }
        (Content::Text(word), [_]) if word.parse::<f64>().is_ok() || ["true", "false"].contains(&word.as_str()) => {
            problem.help("write it without quotes")
        }
        (Content::Text(_), [Step::Key(top)]) if top.ends_with("Patterns") => {
            problem.help("put it in brackets: `[\"..\"]`")
        }
        _ => problem,
    }
}

fn unknown_key(text: &str, steps: &[Step], span: std::ops::Range<usize>, message: &str) -> Problem {
    let word = match steps.last() {
        Some(Step::Key(word)) => word.as_str(),
        _ => "",
    };
    let known: Vec<&str> =
        message.rsplit_once("expected").map_or("", |(_, list)| list).split('`').skip(1).step_by(2).collect();
    let problem = Problem::at(text, span, dotted(steps), format!("unknown key `{}`", shorten(word)));
    match nearest(word, known.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
        None => problem.help(format!("the keys here are {}", known.join(", "))),
    }
}

fn quoted(text: &str) -> Option<&str> {
    text.split('`').nth(1)
}

const TRUST_NEEDED: &str = "\"first-use\" or \"members\"";

// What a place needs, for "must be ..".
fn needed(steps: &[Step]) -> &'static str {
    let Some(Step::Key(top)) = steps.first() else {
        return "an object in braces";
    };
    match (top.as_str(), &steps[1..]) {
        ("syncFilePatterns" | "privateSyncFilePatterns" | "archiveFilePatterns", []) => "a list of patterns",
        ("syncFilePatterns" | "privateSyncFilePatterns" | "archiveFilePatterns", _) => "a pattern in quotes",
        ("root", _) => "\".\" (the config's folder) or \"..\" (the folder above it)",
        ("appId", _) => APP_ID_NEEDED,
        ("ownerId", _) => OWNER_ID_NEEDED,
        ("backend", _) => "a text such as \"sqlite:sync.db\" or \"postgres\"",
        ("peers", []) => "an object of names and addresses",
        ("peers", [_]) => "an address, or an object with `url`",
        ("peers", [_, Step::Key(key)]) if key == "url" => "an address",
        ("peers", [_, Step::Key(key)]) if key == "trust" => TRUST_NEEDED,
        ("peers", _) => "true or false",
        ("trust", _) => TRUST_NEEDED,
        ("intervalSecs", _) => INTERVAL_NEEDED,
        ("respectGitignore", _) => "true or false",
        ("maxFileBytes" | "maxOriginBytes", _) => SIZE_NEEDED,
        ("merge", []) => "an object of globs and kinds",
        ("merge", _) => "one of text, json, yaml, toml, append, lww",
        ("databases", []) => "a list of objects with `path` and `tables`",
        ("databases", [_]) => "an object with `path` and `tables`",
        ("databases", [_, Step::Key(key)]) if key == "tables" => "a list of table names",
        ("databases", _) => "a text in quotes",
        ("encryption", []) => "an object with `enabled`",
        ("encryption", [Step::Key(key)]) if key == "enabled" => "true or false",
        ("retention", _) => RETENTION_NEEDED,
        _ => "a text in quotes",
    }
}
