//! Which kind of merge a path is to get, by the config's globs, then its extension; and which one it gets.
//!
//! What is in force follows from the path alone: the same artifacts must give the same bytes on every machine, and a
//! config is each machine's own (docs/decisions/0008). Invariant: what is asked for depends on the path and the globs alone, never on their order in the file: of several globs
//! that match, the one with the most literal characters counts, then the lower text. Merges nothing itself.

use std::collections::BTreeMap;

use larder_patterns::{PatternLists, RelPath, Rules};

use super::file::MergeKind;
use crate::chunk::is_line_file;

/// Decides the kind of merge of every path.
#[derive(Debug, Clone, Default)]
pub struct MergeRules {
    // The most literal first.
    globs: Vec<MergeGlob>,
}

#[derive(Debug, Clone)]
struct MergeGlob {
    text: String,
    rules: Rules,
    kind: MergeKind,
}

const BY_EXTENSION: [(&str, MergeKind); 33] = [
    ("json", MergeKind::Json),
    ("yaml", MergeKind::Yaml),
    ("yml", MergeKind::Yaml),
    ("toml", MergeKind::Toml),
    ("jsonl", MergeKind::Append),
    ("ndjson", MergeKind::Append),
    ("log", MergeKind::Append),
    ("md", MergeKind::Text),
    ("mdc", MergeKind::Text),
    ("mdx", MergeKind::Text),
    ("txt", MergeKind::Text),
    ("rst", MergeKind::Text),
    ("adoc", MergeKind::Text),
    ("tex", MergeKind::Text),
    ("html", MergeKind::Text),
    ("css", MergeKind::Text),
    ("xml", MergeKind::Text),
    ("ini", MergeKind::Text),
    ("cfg", MergeKind::Text),
    ("conf", MergeKind::Text),
    ("sql", MergeKind::Text),
    ("sh", MergeKind::Text),
    ("py", MergeKind::Text),
    ("rb", MergeKind::Text),
    ("js", MergeKind::Text),
    ("jsx", MergeKind::Text),
    ("ts", MergeKind::Text),
    ("tsx", MergeKind::Text),
    ("go", MergeKind::Text),
    ("rs", MergeKind::Text),
    ("java", MergeKind::Text),
    ("c", MergeKind::Text),
    ("h", MergeKind::Text),
];

impl MergeRules {
    /// Compiles the config's globs.
    ///
    /// Errors: every glob that cannot be used, with why.
    pub fn compile(globs: &BTreeMap<String, MergeKind>) -> Result<MergeRules, Vec<(String, String)>> {
        let mut compiled = Vec::new();
        let mut errors = Vec::new();
        for (text, kind) in globs {
            match compile_one(text) {
                Ok(rules) => compiled.push(MergeGlob { text: text.clone(), rules, kind: *kind }),
                Err(why) => errors.push((text.clone(), why)),
            }
        }
        compiled.sort_by_key(|glob| (std::cmp::Reverse(literal_count(&glob.text)), glob.text.clone()));
        if errors.is_empty() { Ok(MergeRules { globs: compiled }) } else { Err(errors) }
    }

    /// The kind of merge that concurrent edits of `path` get, here and everywhere.
    pub fn in_force(path: &RelPath) -> MergeKind {
        if is_line_file(path) { MergeKind::Append } else { MergeKind::Lww }
    }

    /// The kind of merge that the config, or else the extension, asks for.
    pub fn kind(&self, path: &RelPath) -> MergeKind {
        self.glob_of(path).map_or_else(|| default_kind(path), |glob| glob.kind)
    }

    /// The glob of the config that decides about `path`; `None` if its extension does.
    pub fn deciding_glob(&self, path: &RelPath) -> Option<&str> {
        self.glob_of(path).map(|glob| glob.text.as_str())
    }

    fn glob_of(&self, path: &RelPath) -> Option<&MergeGlob> {
        self.globs.iter().find(|glob| !glob.rules.matching(path).is_empty())
    }
}

fn compile_one(text: &str) -> Result<Rules, String> {
    if text.starts_with('!') {
        return Err("a `!` has no meaning here".to_owned());
    }
    let lists = PatternLists { shared: vec![text.to_owned()], ..PatternLists::default() };
    let (rules, _) = Rules::compile(&lists).map_err(|error| error.problem.to_string())?;
    Ok(rules)
}

fn literal_count(glob: &str) -> usize {
    glob.chars().filter(|c| !matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',')).count()
}

fn default_kind(path: &RelPath) -> MergeKind {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let known = BY_EXTENSION.iter().find(|(name, _)| *name == extension);
    known.map_or(MergeKind::Lww, |(_, kind)| *kind)
}
