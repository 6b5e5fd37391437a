//! From the bytes of a config file to its fields, or to every problem in it with its place.
//!
//! Invariant: never panics, whatever the bytes are; what is accepted has only patterns that compile, values within
//! their bounds and no secret. Pure: reads no file and no environment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use larder_patterns::{Channel, PatternWarning, Rules};

use super::check::Checker;
use super::document::{self, Content, Node, Step, dotted};
use super::error::ConfigError;
use super::file::Config;
use super::merge::MergeRules;
use super::problem::{MAX_PROBLEMS, Problem, Problems};
use super::typed::typed;

/// Larger config files are refused.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A config file that was read and found good.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// The fields as written.
    pub config: Config,
    /// Its patterns, compiled.
    pub rules: Arc<Rules>,
    /// What is worth knowing about its patterns.
    pub pattern_warnings: Vec<PatternWarning>,
    /// How concurrent edits are united.
    pub merge: Arc<MergeRules>,
    lines: BTreeMap<String, usize>,
}

impl ConfigFile {
    /// Reads the bytes of a config file; `file` is only named in problems.
    ///
    /// Errors: the syntax error, or up to 20 problems in the order of the file.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<ConfigFile, ConfigError> {
        let text = decode(bytes, file)?;
        let invalid = |items: Vec<Problem>| {
            ConfigError::Invalid(Problems { file: file.to_owned(), items, text: Arc::from(text) })
        };
        let document = document::parse(text).map_err(|problem| {
            let at = Problem::at(text, problem.span, "", problem.sentence);
            invalid(vec![at.label(problem.label).help(problem.help)])
        })?;
        let (config, mut problems) = typed(text, &document);
        let mut checker = Checker { text, document: &document, problems: Vec::new() };
        let compiled = checker.check(&config);
        problems.append(&mut checker.problems);
        match compiled {
            Some((rules, pattern_warnings, merge)) if problems.is_empty() => Ok(ConfigFile {
                config,
                rules: Arc::new(rules),
                pattern_warnings,
                merge: Arc::new(merge),
                lines: lines(text, &document),
            }),
            _ => {
                problems.sort_by_key(|problem| (problem.line, problem.column));
                problems.truncate(MAX_PROBLEMS);
                Err(invalid(problems))
            }
        }
    }

    /// The line a key stands on, from 1: `backend`, `peers.laptop`, `syncFilePatterns[2]`; `None` if it is not there.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied()
    }

    /// The line a pattern stands on, from 1.
    pub fn line_of_pattern(&self, list: Channel, index: usize) -> Option<usize> {
        self.line_of(&format!("{}[{index}]", list.config_key()))
    }
}

fn decode<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a str, ConfigError> {
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { file: file.to_owned(), limit_bytes: MAX_CONFIG_BYTES });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotUtf8 { file: file.to_owned(), line }
    })
}

// Top-level keys, their members and their elements; deeper places are never asked for.
fn lines(text: &str, document: &Node) -> BTreeMap<String, usize> {
    let mut spots: Vec<(String, usize)> = Vec::new();
    let Content::Object(members) = &document.content else {
        return BTreeMap::new();
    };
    for member in members {
        let top = Step::Key(member.name.clone());
        spots.push((member.name.clone(), member.name_span.start));
        match &member.value.content {
            Content::Object(inner) => spots
                .extend(inner.iter().map(|m| (dotted(&[top.clone(), Step::Key(m.name.clone())]), m.name_span.start))),
            Content::List(items) => spots.extend(
                items.iter().enumerate().map(|(i, item)| (dotted(&[top.clone(), Step::Index(i)]), item.span.start)),
            ),
            _ => {}
        }
    }
    spots.sort_by_key(|(_, at)| *at);
    number_lines(text, spots)
}

// One pass over the text, however many spots there are.
fn number_lines(text: &str, spots: Vec<(String, usize)>) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    let (mut line, mut counted_to) = (1, 0);
    for (key, at) in spots {
        line += text.as_bytes()[counted_to..at].iter().filter(|byte| **byte == b'\n').count();
        counted_to = at;
        lines.insert(key, line);
    }
    lines
}
