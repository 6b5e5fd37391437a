//! From the bytes of a config file to its fields, or to every problem in it with its place.
//!
//! Invariant: never panics, whatever the bytes are; what is accepted has only patterns that compile, values within
//! their bounds and no secret. Pure: reads no file and no environment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use larder_patterns::{Channel, PatternError, PatternLists, PatternWarning, Rules};
use serde_json::Value;
use serde_path_to_error::Segment;

use super::address;
use super::document::{self, Content, Node, Step, dotted, shorten};
use super::error::ConfigError;
use super::file::{APP_ID_NEEDED, Config, MergeKind, OWNER_ID_NEEDED};
use super::merge::MergeRules;
use super::nearest::nearest;
use super::problem::{MAX_PROBLEMS, Problem, Problems};
use super::quantity::{INTERVAL_NEEDED, RETENTION_NEEDED, SIZE_NEEDED};

/// Larger config files are refused.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// More peers are refused.
pub const MAX_PEERS: usize = 256;
/// More merge globs are refused.
pub const MAX_MERGE_GLOBS: usize = 256;
/// More databases are refused.
pub const MAX_DATABASES: usize = 64;
/// More tables of one database are refused.
pub const MAX_TABLES: usize = 1024;

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
            ConfigError::Invalid(Problems {
                file: file.to_owned(),
                items,
                text: Arc::from(text),
            })
        };
        let document = document::parse(text).map_err(|problem| {
            let at = Problem::at(text, problem.span, "", problem.sentence);
            invalid(vec![at.label(problem.label).help(problem.help)])
        })?;
        let (config, mut problems) = typed(text, &document);
        let mut checker = Checker {
            text,
            document: &document,
            problems: Vec::new(),
        };
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
        return Err(ConfigError::TooLarge {
            file: file.to_owned(),
            limit_bytes: MAX_CONFIG_BYTES,
        });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotUtf8 {
            file: file.to_owned(),
            line,
        }
    })
}

// Finds every key and value that does not fit: each is noted, taken out, and the rest is tried again.
fn typed(text: &str, document: &Node) -> (Config, Vec<Problem>) {
    let mut value = document.to_json();
    let mut problems = Vec::new();
    while problems.len() < MAX_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, Config>(&value) {
            Ok(config) => return (config, problems),
            Err(error) => error,
        };
        let steps = steps_of(&error);
        problems.push(type_problem(
            text,
            document,
            &steps,
            &error.inner().to_string(),
        ));
        if !take_out(&mut value, &steps) {
            break;
        }
    }
    (Config::default(), problems)
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
    let keys = steps
        .iter()
        .rposition(|step| matches!(step, Step::Key(_)))
        .map_or(&steps[..0], |at| &steps[..=at]);
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
    parent
        .as_object_mut()
        .is_some_and(|map| map.remove(last).is_some())
}

fn type_problem(text: &str, document: &Node, steps: &[Step], message: &str) -> Problem {
    let key = dotted(steps);
    let (node, key_span) = document.follow(steps);
    if message.starts_with("unknown field") {
        return unknown_key(text, steps, key_span, message);
    }
    if let Some(missing) = message.strip_prefix("missing field ").and_then(quoted) {
        let sentence = format!("`{key}` has no `{missing}`");
        return Problem::at(text, node.span.clone(), &key, sentence)
            .help(format!("add `\"{missing}\": ..`"));
    }
    let subject = if steps.is_empty() {
        "the config".to_owned()
    } else {
        format!("`{key}`")
    };
    let sentence = format!(
        "{subject} must be {}, not {}",
        needed(steps),
        node.described()
    );
    let problem = Problem::at(text, node.span.clone(), key, sentence);
    match (&node.content, steps) {
        (Content::Text(word), [Step::Key(top), ..]) if top == "merge" => {
            let meant = nearest(word, MergeKind::ALL.map(MergeKind::as_str));
            meant.map_or(problem.clone(), |known| {
                problem.help(format!("did you mean `{known}`?"))
            })
        }
        (Content::Text(word), [_])
            if word.parse::<f64>().is_ok() || ["true", "false"].contains(&word.as_str()) =>
        {
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
    let known: Vec<&str> = message
        .rsplit_once("expected")
        .map_or("", |(_, list)| list)
        .split('`')
        .skip(1)
        .step_by(2)
        .collect();
    let problem = Problem::at(
        text,
        span,
        dotted(steps),
        format!("unknown key `{}`", shorten(word)),
    );
    match nearest(word, known.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
        None => problem.help(format!("the keys here are {}", known.join(", "))),
    }
}

fn quoted(text: &str) -> Option<&str> {
    text.split('`').nth(1)
}

// What a place needs, for "must be ..".
fn needed(steps: &[Step]) -> &'static str {
    let Some(Step::Key(top)) = steps.first() else {
        return "an object in braces";
    };
    match (top.as_str(), &steps[1..]) {
        ("syncFilePatterns" | "privateSyncFilePatterns" | "archiveFilePatterns", []) => {
            "a list of patterns"
        }
        ("syncFilePatterns" | "privateSyncFilePatterns" | "archiveFilePatterns", _) => {
            "a pattern in quotes"
        }
        ("root", _) => "\".\" (the config's folder) or \"..\" (the folder above it)",
        ("appId", _) => APP_ID_NEEDED,
        ("ownerId", _) => OWNER_ID_NEEDED,
        ("backend", _) => "a text such as \"sqlite:sync.db\" or \"postgres\"",
        ("peers", []) => "an object of names and addresses",
        ("peers", [_]) => "an address, or an object with `url`",
        ("peers", [_, Step::Key(key)]) if key == "url" => "an address",
        ("peers", _) => "true or false",
        ("intervalSecs", _) => INTERVAL_NEEDED,
        ("respectGitignore", _) => "true or false",
        ("maxFileBytes", _) => SIZE_NEEDED,
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

// The checks that types cannot hold: patterns, addresses, secrets, what contradicts itself.
struct Checker<'a> {
    text: &'a str,
    document: &'a Node,
    problems: Vec<Problem>,
}

type Compiled = (Rules, Vec<PatternWarning>, MergeRules);

impl Checker<'_> {
    fn check(&mut self, config: &Config) -> Option<Compiled> {
        self.check_backend(config);
        self.check_peers(config);
        self.check_databases(config);
        self.check_encryption(config);
        let patterns = self.compile_patterns(config);
        let merge = self.compile_merge(config);
        let (rules, warnings) = patterns?;
        Some((rules, warnings, merge?))
    }

    fn value_problem(&self, steps: &[Step], sentence: impl Into<String>) -> Problem {
        let (node, _) = self.document.follow(steps);
        Problem::at(self.text, node.span.clone(), dotted(steps), sentence)
    }

    fn key_problem(&self, steps: &[Step], sentence: impl Into<String>) -> Problem {
        let (_, key_span) = self.document.follow(steps);
        Problem::at(self.text, key_span, dotted(steps), sentence)
    }

    // Each bad pattern is noted and left out, so that one run names them all.
    fn compile_patterns(&mut self, config: &Config) -> Option<(Rules, Vec<PatternWarning>)> {
        let mut lists = pattern_lists(config);
        let mut first_index: BTreeMap<Channel, Vec<usize>> = Channel::ALL
            .map(|list| (list, (0..lists.list(list).len()).collect()))
            .into_iter()
            .collect();
        loop {
            let error = match Rules::compile(&lists) {
                Ok(compiled) => return Some(compiled),
                Err(error) => error,
            };
            let original = first_index
                .get(&error.list)
                .and_then(|left| left.get(error.index))
                .copied()
                .unwrap_or(0);
            self.problems.push(self.pattern_problem(&error, original));
            let removable = error.index < lists.list(error.list).len();
            if !removable || self.problems.len() >= MAX_PROBLEMS {
                return None;
            }
            list_mut(&mut lists, error.list).remove(error.index);
            first_index
                .entry(error.list)
                .or_default()
                .remove(error.index);
        }
    }

    fn pattern_problem(&self, error: &PatternError, index: usize) -> Problem {
        let steps = [
            Step::Key(error.list.config_key().to_owned()),
            Step::Index(index),
        ];
        self.value_problem(
            &steps,
            format!("the pattern cannot be used: {}", error.problem),
        )
    }

    fn compile_merge(&mut self, config: &Config) -> Option<MergeRules> {
        let globs = config.merge.clone().unwrap_or_default();
        let key = |glob: &str| [Step::Key("merge".to_owned()), Step::Key(glob.to_owned())];
        if globs.len() > MAX_MERGE_GLOBS {
            let steps = [Step::Key("merge".to_owned())];
            self.problems.push(self.key_problem(
                &steps,
                format!("`merge` has more than {MAX_MERGE_GLOBS} globs"),
            ));
            return None;
        }
        match MergeRules::compile(&globs) {
            Ok(rules) => Some(rules),
            Err(errors) => {
                for (glob, why) in errors {
                    self.problems.push(
                        self.key_problem(&key(&glob), format!("the glob cannot be used: {why}")),
                    );
                }
                None
            }
        }
    }

    fn check_backend(&mut self, config: &Config) {
        let Some(backend) = &config.backend else {
            return;
        };
        let steps = [Step::Key("backend".to_owned())];
        if let Err(why) = address::check_backend(backend) {
            self.problems
                .push(self.value_problem(&steps, format!("`backend` cannot be used: {why}")));
        } else if let Some(secret) = address::secret(backend) {
            let scheme = address::backend_scheme(backend);
            let variable = address::variable_for(scheme);
            let problem = self.value_problem(
                &steps,
                format!("`backend` holds {secret}, and this file is no place for secrets"),
            );
            self.problems.push(problem.help(format!(
                "write \"backend\": \"{}\" and put the address into the environment variable {variable}",
                shorten(scheme)
            )));
        }
    }

    fn check_peers(&mut self, config: &Config) {
        let Some(peers) = &config.peers else { return };
        if peers.len() > MAX_PEERS {
            let steps = [Step::Key("peers".to_owned())];
            self.problems.push(
                self.key_problem(&steps, format!("`peers` has more than {MAX_PEERS} entries")),
            );
            return;
        }
        for (name, peer) in peers {
            self.check_peer(name, &peer.url);
        }
    }

    fn check_peer(&mut self, name: &str, url: &str) {
        let mut steps = vec![Step::Key("peers".to_owned()), Step::Key(name.to_owned())];
        if !super::file::is_owner_id(name) {
            let sentence = format!("a peer cannot be called `{}`", shorten(name));
            self.problems.push(
                self.key_problem(&steps, sentence)
                    .help(format!("use {OWNER_ID_NEEDED}")),
            );
        }
        if matches!(self.document.follow(&steps).0.content, Content::Object(_)) {
            steps.push(Step::Key("url".to_owned()));
        }
        if let Err(why) = address::check_peer(url) {
            self.problems
                .push(self.value_problem(&steps, format!("the address cannot be used: {why}")));
        } else if let Some(secret) = address::secret(url) {
            let problem = self.value_problem(
                &steps,
                format!("the address holds {secret}, and this file is no place for secrets"),
            );
            self.problems.push(problem.help("leave it out and put the whole address into the environment variable LARDER_PEERS as `name=address`"));
        }
    }

    fn check_databases(&mut self, config: &Config) {
        let databases = config.databases.as_deref().unwrap_or_default();
        let top = Step::Key("databases".to_owned());
        if databases.len() > MAX_DATABASES {
            let sentence = format!("`databases` has more than {MAX_DATABASES} entries");
            self.problems.push(self.key_problem(&[top], sentence));
            return;
        }
        for (i, database) in databases.iter().enumerate() {
            let place = |key: &str| [top.clone(), Step::Index(i), Step::Key(key.to_owned())];
            if database.path.trim().is_empty() || database.path.contains('\0') {
                self.problems
                    .push(self.value_problem(&place("path"), "`path` names no file"));
            }
            let tables = &database.tables;
            if tables.is_empty() || tables.iter().any(|table| table.is_empty()) {
                self.problems.push(self.value_problem(
                    &place("tables"),
                    "`tables` must name at least one table, and none may be empty",
                ));
            } else if tables.len() > MAX_TABLES {
                self.problems.push(self.value_problem(
                    &place("tables"),
                    format!("`tables` names more than {MAX_TABLES} tables"),
                ));
            }
        }
    }

    fn check_encryption(&mut self, config: &Config) {
        let Some(encryption) = &config.encryption else {
            return;
        };
        let place = |key: &str| {
            [
                Step::Key("encryption".to_owned()),
                Step::Key(key.to_owned()),
            ]
        };
        if encryption.keyring.is_some() && encryption.key_file.is_some() {
            let problem = self.key_problem(
                &place("keyFile"),
                "`encryption` names both `keyring` and `keyFile`",
            );
            self.problems.push(problem.help("keep one of them"));
        }
        if encryption.enabled {
            // Accepting it would send plain files where the user was promised sealed ones.
            let problem = self.value_problem(
                &place("enabled"),
                "encryption cannot be turned on in this release",
            );
            self.problems.push(
                problem
                    .help("write false, and name no peer or backend that must not read the files"),
            );
        }
    }
}

/// The three lists as the rules take them; an absent list is empty.
pub(super) fn pattern_lists(config: &Config) -> PatternLists {
    let list = |patterns: &Option<Vec<String>>| patterns.clone().unwrap_or_default();
    PatternLists {
        shared: list(&config.sync_file_patterns),
        private: list(&config.private_sync_file_patterns),
        archive: list(&config.archive_file_patterns),
    }
}

fn list_mut(lists: &mut PatternLists, channel: Channel) -> &mut Vec<String> {
    match channel {
        Channel::Shared => &mut lists.shared,
        Channel::Private => &mut lists.private,
        Channel::Archive => &mut lists.archive,
    }
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
            Content::Object(inner) => spots.extend(inner.iter().map(|m| {
                (
                    dotted(&[top.clone(), Step::Key(m.name.clone())]),
                    m.name_span.start,
                )
            })),
            Content::List(items) => spots.extend(
                items
                    .iter()
                    .enumerate()
                    .map(|(i, item)| (dotted(&[top.clone(), Step::Index(i)]), item.span.start)),
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
        line += text.as_bytes()[counted_to..at]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        counted_to = at;
        lines.insert(key, line);
    }
    lines
}
