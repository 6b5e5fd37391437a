//! What is worth knowing about a config that works: patterns that may not mean what was meant, or match nothing.
//!
//! Invariant: a warning never stops anything; it names the key and the line. Pure.

use std::fmt;

use larder_patterns::{Channel, PatternRef};
use serde::Serialize;

use super::settings::{Settings, meant_variable};
use crate::env::Env;

/// One thing worth knowing, for `status` and `larder config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The key it is about, as `syncFilePatterns[2]`; a variable's name for the environment.
    pub key: String,
    /// The line of the config it stands on, from 1; `None` if it stands elsewhere.
    pub line: Option<usize>,
    /// What is worth knowing, as one clause.
    pub sentence: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "sync-config.json:{line}: {}", self.sentence),
            None => f.write_str(&self.sentence),
        }
    }
}

/// What the config and the environment alone tell.
pub(super) fn collect(settings: &Settings, env: &Env) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if settings.rules.positive_patterns().next().is_none() {
        let sentence = "no pattern names any file, so nothing is kept: add `syncFilePatterns`".to_owned();
        warnings.push(Warning { key: "syncFilePatterns".to_owned(), line: None, sentence });
    }
    for warning in &settings.file.pattern_warnings {
        warnings.push(at_pattern(settings, warning.list, warning.index, warning.to_string()));
    }
    if !settings.databases.value.is_empty() {
        let sentence = "`databases` is kept for later: this release does not sync rows yet".to_owned();
        warnings.push(Warning { key: "databases".to_owned(), line: settings.line_of("databases"), sentence });
    }
    if settings.file.config.merge.as_ref().is_some_and(|merge| !merge.is_empty()) {
        let sentence = "`merge` has no effect in this release: appended lines of *.jsonl, *.ndjson and *.log are united, of all other concurrent edits the later one stands; `larder explain PATH` says which".to_owned();
        warnings.push(Warning { key: "merge".to_owned(), line: settings.line_of("merge"), sentence });
    }
    for (name, meant) in env.vars.keys().filter_map(|name| Some((name, meant_variable(name)?))) {
        let name = larder_patterns::shown(name);
        let sentence = format!("the environment variable {name} is not known: did you mean {meant}?");
        warnings.push(Warning { key: name, line: None, sentence });
    }
    warnings
}

/// The patterns that name nothing, given how many admitted files each positive pattern matched in a scan.
pub fn unmatched(settings: &Settings, hits: impl Fn(&PatternRef) -> u64) -> Vec<Warning> {
    let empty = settings.rules.positive_patterns().filter(|pattern| hits(pattern) == 0);
    empty
        .map(|pattern| {
            let sentence = format!("the pattern {pattern} matches no file");
            at_pattern(settings, pattern.list, pattern.index, sentence)
        })
        .collect()
}

fn at_pattern(settings: &Settings, list: Channel, index: usize, sentence: String) -> Warning {
    let key = format!("{}[{index}]", list.config_key());
    Warning { key, line: settings.line_of_pattern(list, index), sentence }
}
