//! `larder init`: looks at a project and proposes a config for it.
//!
//! Invariant: every proposed pattern admits at least one listed file (but for the default set of an empty project),
//! denied files are never what a pattern is for, and the text is a valid config. `propose` is pure; only `survey` reads
//! folders, within bounds and without following links. Writes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use larder_patterns::{Channel, PatternLists, RelPath, Rules, denied};

/// Deeper folders are not looked into.
const MAX_SURVEY_DEPTH: usize = 8;
/// The survey stops after so many entries; shallow ones come first.
const MAX_SURVEY_ENTRIES: usize = 20_000;
/// At most so many folders get patterns of their own.
const MAX_PROPOSED_FOLDERS: usize = 24;
/// A folder with another name needs so many files to be proposed.
const MIN_FILES_OF_UNKNOWN_FOLDER: usize = 3;

/// What agents and people write down: the files worth keeping the same.
const ARTIFACT_EXTENSIONS: [&str; 11] =
    ["csv", "json", "jsonl", "md", "mdc", "ndjson", "toml", "tsv", "txt", "yaml", "yml"];

/// Folders that are proposed as soon as one such file is in them.
const KNOWN_FOLDERS: [&str; 24] = [
    "artifacts",
    "config",
    "configs",
    "content",
    "context",
    "data",
    "docs",
    "knowledge",
    "memories",
    "memory",
    "notes",
    "outputs",
    "plans",
    "prompts",
    "reports",
    "research",
    "results",
    "rules",
    "skills",
    "specs",
    "tasks",
    "templates",
    "workflows",
    "agents",
];

/// Folders that tools fill; never looked into. Dot folders are skipped too, but for `AGENT_FOLDERS`.
const SKIPPED_FOLDERS: [&str; 14] = [
    "__pycache__",
    "bin",
    "build",
    "coverage",
    "dist",
    "env",
    "obj",
    "out",
    "site-packages",
    "target",
    "tmp",
    "vendor",
    "venv",
    "bower_components",
];
const AGENT_FOLDERS: [&str; 6] = [".claude", ".codex", ".cursor", ".gemini", ".github", ".windsurf"];
/// Folders whose files belong to one machine.
const LOG_FOLDERS: [&str; 5] = ["log", "logs", "sessions", "transcripts", "traces"];

/// Patterns for what agents read, proposed if they match.
const AGENT_PATTERNS: [&str; 15] = [
    "**/CLAUDE.md",
    "**/AGENTS.md",
    "**/GEMINI.md",
    ".claude/commands/**",
    ".claude/agents/**",
    ".claude/skills/**",
    ".claude/rules/**",
    ".claude/output-styles/**",
    ".codex/prompts/**",
    ".cursor/rules/**",
    ".gemini/commands/**",
    ".github/copilot-instructions.md",
    ".github/prompts/**",
    ".windsurf/rules/**",
    ".cursorrules",
];
const PRIVATE_PATTERNS: [&str; 2] = ["**/CLAUDE.local.md", "**/*.local.{json,md,toml,yaml,yml}"];
const TOP_PATTERN: &str = "*.md";
const LOG_PATTERN: &str = "**/*.log";

const DEFAULT_SHARED: [&str; 7] = [
    "**/CLAUDE.md",
    "**/AGENTS.md",
    ".claude/{agents,commands,skills}/**",
    "artifacts/**/*.{json,jsonl,md,toml,yaml,yml}",
    "data/**/*.{json,jsonl,md,toml,yaml,yml}",
    "docs/**/*.md",
    "prompts/**/*.md",
];

/// What stands in a project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Files, relative to the project folder.
    pub files: Vec<RelPath>,
    /// True if the survey stopped at a bound.
    pub truncated: bool,
}

/// A config for a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The text of a `sync-config.json`, with comments.
    pub text: String,
    /// What was found, one line each: `data/**/*.json: 12 files`. Empty if nothing was, and the text has defaults.
    pub found: Vec<String>,
}

/// Lists a project's files, shallow ones first, without following links.
///
/// Folders that cannot be read, names that are no paths of ours and denied names are left out.
pub fn survey(project_dir: &Path) -> Listing {
    let mut listing = Listing::default();
    let mut entry_count = 0;
    let mut folders: VecDeque<(PathBuf, Option<RelPath>, usize)> = VecDeque::from([(project_dir.to_owned(), None, 0)]);
    while let Some((folder, relative, depth)) = folders.pop_front() {
        for (name, is_folder) in read_folder(&folder, MAX_SURVEY_ENTRIES - entry_count) {
            entry_count += 1;
            let path = match &relative {
                Some(parent) => parent.join(&name),
                None => RelPath::parse(&name),
            };
            let Some(path) = path.ok().filter(|path| denied(path).is_none()) else {
                continue;
            };
            if !is_folder {
                listing.files.push(path);
            } else if depth + 1 < MAX_SURVEY_DEPTH && is_looked_into(&name) {
                folders.push_back((folder.join(&name), Some(path), depth + 1));
            } else {
                listing.truncated |= is_looked_into(&name);
            }
        }
        if entry_count >= MAX_SURVEY_ENTRIES {
            listing.truncated = true;
            break;
        }
    }
    listing
}

fn is_looked_into(folder_name: &str) -> bool {
    let hidden = folder_name.starts_with('.') && !AGENT_FOLDERS.contains(&folder_name);
    !hidden && !SKIPPED_FOLDERS.contains(&folder_name)
}

// Names and whether they are folders, in order; links and devices are left out.
fn read_folder(folder: &Path, limit: usize) -> Vec<(String, bool)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let named = entries.take(limit).filter_map(|entry| {
        let entry = entry.ok()?;
        let kind = entry.file_type().ok()?;
        let name = entry.file_name().into_string().ok()?;
        (kind.is_dir() || kind.is_file()).then_some((name, kind.is_dir()))
    });
    let mut named: Vec<(String, bool)> = named.collect();
    named.sort();
    named
}

/// Proposes a config for the project in a folder: [`propose`], with the name that its copies share whatever their folders are called.
pub fn propose_in(dir: &Path, files: &[RelPath]) -> Proposal {
    let mut proposal = propose(files);
    let app_id = serde_json::Value::String(super::resolve::default_app_id(dir));
    let named = format!(
        "{{\n  // The name that this project shares with its copies on other machines, whatever their folders are called.\n  \"appId\": {app_id},\n\n"
    );
    proposal.text = proposal.text.replacen("{\n", &named, 1);
    proposal
}

/// Proposes a config for a project that holds `files`; pure, and the same for any order of them.
pub fn propose(files: &[RelPath]) -> Proposal {
    let files: BTreeSet<&RelPath> = files.iter().filter(|path| denied(path).is_none()).collect();
    let files: Vec<&RelPath> = files.into_iter().collect();
    let mut chosen: Vec<Chosen> = Vec::new();
    for channel in [Channel::Shared, Channel::Private, Channel::Archive] {
        let candidates = match channel {
            Channel::Shared => shared_candidates(&files),
            Channel::Private => PRIVATE_PATTERNS.map(str::to_owned).to_vec(),
            Channel::Archive => archive_candidates(&files),
        };
        chosen.extend(candidates.into_iter().filter_map(|pattern| Chosen::of(pattern, channel, &files)));
    }
    let found: Vec<String> = chosen.iter().map(Chosen::described).collect();
    if chosen.is_empty() {
        let defaults = DEFAULT_SHARED.map(|text| (text, Channel::Shared));
        let logs = [(LOG_PATTERN, Channel::Archive)];
        let all = defaults.into_iter().chain(logs);
        chosen = all.map(|(text, channel)| Chosen { pattern: text.to_owned(), channel, file_count: 0 }).collect();
    }
    Proposal { text: render(&chosen), found }
}

struct Chosen {
    pattern: String,
    channel: Channel,
    file_count: usize,
}

impl Chosen {
    // Only what compiles and admits something is proposed.
    fn of(pattern: String, channel: Channel, files: &[&RelPath]) -> Option<Chosen> {
        let mut lists = PatternLists::default();
        match channel {
            Channel::Shared => lists.shared.push(pattern.clone()),
            Channel::Private => lists.private.push(pattern.clone()),
            Channel::Archive => lists.archive.push(pattern.clone()),
        }
        let (rules, _) = Rules::compile(&lists).ok()?;
        let file_count = files.iter().filter(|path| rules.admit(path).is_ok()).count();
        (file_count > 0).then_some(Chosen { pattern, channel, file_count })
    }

    fn described(&self) -> String {
        let files = if self.file_count == 1 { "file" } else { "files" };
        let channel = match self.channel {
            Channel::Shared => String::new(),
            other => format!(" ({other})"),
        };
        format!("{}: {} {files}{channel}", larder_patterns::shown(&self.pattern), self.file_count)
    }
}

fn shared_candidates(files: &[&RelPath]) -> Vec<String> {
    let mut candidates = AGENT_PATTERNS.map(str::to_owned).to_vec();
    candidates.push(TOP_PATTERN.to_owned());
    candidates.extend(folder_patterns(files));
    candidates
}

fn archive_candidates(files: &[&RelPath]) -> Vec<String> {
    let mut candidates = vec![LOG_PATTERN.to_owned()];
    for folder in LOG_FOLDERS {
        let below = files.iter().filter(|path| top_folder(path) == Some(folder));
        let extensions: BTreeSet<&str> = below.filter_map(|path| artifact_extension(path)).collect();
        candidates.extend(folder_pattern(folder, &extensions));
    }
    candidates
}

#[derive(Default)]
struct FolderCount<'a> {
    artifact_count: usize,
    file_count: usize,
    extensions: BTreeSet<&'a str>,
}

// One pattern for every top folder that holds artifacts, by its name or by what is in it.
fn folder_patterns(files: &[&RelPath]) -> Vec<String> {
    let mut folders: BTreeMap<&str, FolderCount<'_>> = BTreeMap::new();
    for path in files {
        let Some(folder) = top_folder(path).filter(|folder| !folder.starts_with('.')) else {
            continue;
        };
        let count = folders.entry(folder).or_default();
        count.file_count += 1;
        if let Some(extension) = artifact_extension(path) {
            count.artifact_count += 1;
            count.extensions.insert(extension);
        }
    }
    let proposed = folders.iter().filter(|(name, count)| is_proposed(name, count));
    proposed.filter_map(|(name, count)| folder_pattern(name, &count.extensions)).take(MAX_PROPOSED_FOLDERS).collect()
}

fn is_proposed(name: &str, count: &FolderCount<'_>) -> bool {
    if LOG_FOLDERS.contains(&name) {
        return false;
    }
    let known = KNOWN_FOLDERS.contains(&name.to_ascii_lowercase().as_str());
    // Four of five files are artifacts: a folder of source code is not.
    let mostly =
        count.artifact_count >= MIN_FILES_OF_UNKNOWN_FOLDER && count.artifact_count * 5 >= count.file_count * 4;
    count.artifact_count > 0 && (known || mostly)
}

// `data/**/*.{json,md}`; none for a name that would be read as a glob.
fn folder_pattern(folder: &str, extensions: &BTreeSet<&str>) -> Option<String> {
    let plain = folder.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ' '));
    let extensions: Vec<&str> = extensions.iter().copied().collect();
    match extensions.as_slice() {
        _ if !plain => None,
        [] => None,
        [only] => Some(format!("{folder}/**/*.{only}")),
        several => Some(format!("{folder}/**/*.{{{}}}", several.join(","))),
    }
}

fn top_folder(path: &RelPath) -> Option<&str> {
    path.as_str().split_once('/').map(|(folder, _)| folder)
}

fn artifact_extension(path: &RelPath) -> Option<&str> {
    path.extension().filter(|extension| ARTIFACT_EXTENSIONS.contains(extension))
}

fn render(chosen: &[Chosen]) -> String {
    let mut text = String::from(
        "// What larder keeps the same on every machine. `larder explain PATH` says what happens to a file and why;\n\
         // `larder config` shows every value in force. Comments and trailing commas are allowed.\n{\n",
    );
    let lists = [
        (Channel::Shared, "All machines converge on one file. A `!` in front excludes, whatever the order."),
        (Channel::Private, "The same, but only among your own machines."),
        (Channel::Archive, "Kept for each machine on its own and never merged: logs, sessions."),
    ];
    for (channel, comment) in lists {
        let patterns: Vec<&Chosen> = chosen.iter().filter(|one| one.channel == channel).collect();
        text.push_str(&format!("  // {comment}\n  \"{}\": [", channel.config_key()));
        for one in &patterns {
            let pattern = serde_json::Value::String(one.pattern.clone());
            text.push_str(&format!("\n    {pattern},"));
        }
        text.push_str(if patterns.is_empty() { "],\n\n" } else { "\n  ],\n\n" });
    }
    text.push_str(
        "  // Patterns are relative to this file's folder.\n  \"root\": \".\",\n\n  \
         // Seconds between automatic exchanges; 0 exchanges only on command.\n  \"intervalSecs\": 30,\n}\n",
    );
    text
}
