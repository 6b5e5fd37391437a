//! The checks of a config that types cannot hold: patterns, addresses, secrets, what contradicts itself.
//!
//! Invariant: each problem points at its own place, and one run names all of them. Pure.

use std::collections::BTreeMap;

use larder_patterns::{Channel, PatternError, PatternLists, PatternWarning, Rules};

use super::address;
use super::document::{Content, Node, Step, dotted, shorten};
use super::file::{Config, OWNER_ID_NEEDED, is_owner_id};
use super::merge::MergeRules;
use super::problem::{MAX_PROBLEMS, Problem};

/// More peers are refused.
pub const MAX_PEERS: usize = 256;
/// More merge globs are refused.
pub const MAX_MERGE_GLOBS: usize = 256;
/// More databases are refused.
pub const MAX_DATABASES: usize = 64;
/// More tables of one database are refused.
pub const MAX_TABLES: usize = 1024;

// The checks that types cannot hold: patterns, addresses, secrets, what contradicts itself.
pub(super) struct Checker<'a> {
    pub(super) text: &'a str,
    pub(super) document: &'a Node,
    pub(super) problems: Vec<Problem>,
}

pub(super) type Compiled = (Rules, Vec<PatternWarning>, MergeRules);

impl Checker<'_> {
    pub(super) fn check(&mut self, config: &Config) -> Option<Compiled> {
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
        let mut first_index: BTreeMap<Channel, Vec<usize>> =
            Channel::ALL.map(|list| (list, (0..lists.list(list).len()).collect())).into_iter().collect();
        loop {
            let error = match Rules::compile(&lists) {
                Ok(compiled) => return Some(compiled),
                Err(error) => error,
            };
            let original = first_index.get(&error.list).and_then(|left| left.get(error.index)).copied().unwrap_or(0);
            self.problems.push(self.pattern_problem(&error, original));
            let removable = error.index < lists.list(error.list).len();
            if !removable || self.problems.len() >= MAX_PROBLEMS {
                return None;
            }
            list_mut(&mut lists, error.list).remove(error.index);
            first_index.entry(error.list).or_default().remove(error.index);
        }
    }

    fn pattern_problem(&self, error: &PatternError, index: usize) -> Problem {
        let steps = [Step::Key(error.list.config_key().to_owned()), Step::Index(index)];
        self.value_problem(&steps, format!("the pattern cannot be used: {}", error.problem))
    }

    fn compile_merge(&mut self, config: &Config) -> Option<MergeRules> {
        let globs = config.merge.clone().unwrap_or_default();
        let key = |glob: &str| [Step::Key("merge".to_owned()), Step::Key(glob.to_owned())];
        if globs.len() > MAX_MERGE_GLOBS {
            let steps = [Step::Key("merge".to_owned())];
            self.problems.push(self.key_problem(&steps, format!("`merge` has more than {MAX_MERGE_GLOBS} globs")));
            return None;
        }
        match MergeRules::compile(&globs) {
            Ok(rules) => Some(rules),
            Err(errors) => {
                for (glob, why) in errors {
                    self.problems.push(self.key_problem(&key(&glob), format!("the glob cannot be used: {why}")));
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
            self.problems.push(self.value_problem(&steps, format!("`backend` cannot be used: {why}")));
        } else if let Some(secret) = address::secret(backend) {
            let scheme = address::backend_scheme(backend);
            let variable = address::variable_for(scheme);
            let problem =
                self.value_problem(&steps, format!("`backend` holds {secret}, and this file is no place for secrets"));
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
            self.problems.push(self.key_problem(&steps, format!("`peers` has more than {MAX_PEERS} entries")));
            return;
        }
        for (name, peer) in peers {
            self.check_peer(name, &peer.url);
        }
    }

    fn check_peer(&mut self, name: &str, url: &str) {
        let mut steps = vec![Step::Key("peers".to_owned()), Step::Key(name.to_owned())];
        if !is_owner_id(name) {
            let sentence = format!("a peer cannot be called `{}`", shorten(name));
            self.problems.push(self.key_problem(&steps, sentence).help(format!("use {OWNER_ID_NEEDED}")));
        }
        if matches!(self.document.follow(&steps).0.content, Content::Object(_)) {
            steps.push(Step::Key("url".to_owned()));
        }
        if let Err(why) = address::check_peer(url) {
            self.problems.push(self.value_problem(&steps, format!("the address cannot be used: {why}")));
        } else if let Some(secret) = address::secret(url) {
            let problem = self
                .value_problem(&steps, format!("the address holds {secret}, and this file is no place for secrets"));
            self.problems.push(problem.help(
                "leave it out and put the whole address into the environment variable LARDER_PEERS as `name=address`",
            ));
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
                self.problems.push(self.value_problem(&place("path"), "`path` names no file"));
            }
            let tables = &database.tables;
            if tables.is_empty() || tables.iter().any(|table| table.is_empty()) {
                self.problems.push(
                    self.value_problem(
                        &place("tables"),
                        "`tables` must name at least one table, and none may be empty",
                    ),
                );
            } else if tables.len() > MAX_TABLES {
                self.problems.push(
                    self.value_problem(&place("tables"), format!("`tables` names more than {MAX_TABLES} tables")),
                );
            }
        }
    }

    fn check_encryption(&mut self, config: &Config) {
        let Some(encryption) = &config.encryption else {
            return;
        };
        let place = |key: &str| [Step::Key("encryption".to_owned()), Step::Key(key.to_owned())];
        if encryption.keyring.is_some() && encryption.key_file.is_some() {
            let problem = self.key_problem(&place("keyFile"), "`encryption` names both `keyring` and `keyFile`");
            self.problems.push(problem.help("keep one of them"));
        }
        if encryption.enabled {
            // Accepting it would send plain files where the user was promised sealed ones.
            let problem = self.value_problem(&place("enabled"), "encryption cannot be turned on in this release");
            self.problems.push(problem.help("write false, and name no peer or backend that must not read the files"));
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
