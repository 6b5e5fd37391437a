//! The house's own rules, held over its sources: layers, openings, no leftovers, and documents that tell the truth.
//!
//! The layers are read from the table in ARCHITECTURE.md, so that the page cannot drift from the code. Looks at text,
//! not at syntax: what it cannot see (a re-export used from below) review has to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository with one of these extensions, what is built or kept left out.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let walk = ignore::WalkBuilder::new(root())
        .hidden(false)
        .filter_entry(|entry| !matches!(entry.file_name().to_str(), Some(".git" | "target" | ".larder")))
        .build();
    let mut found: Vec<PathBuf> = walk
        .map(|entry| entry.expect("list the repository").into_path())
        .filter(|path| path.is_file() && has_extension(path, extensions))
        .collect();
    found.sort();
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    extensions.contains(&extension)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path:?}: {error}"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[track_caller]
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Module -> its place in the reading order of the table in ARCHITECTURE.md: a layer a line, lowest first, and within a
/// line whoever is used before whoever uses it.
fn layers() -> BTreeMap<String, usize> {
    let page = read(&root().join("ARCHITECTURE.md"));
    let mut layers = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells[1].parse::<u32>().is_err() {
            continue;
        }
        for name in cells[2].split('`').skip(1).step_by(2) {
            layers.insert(name.to_owned(), layers.len());
        }
    }
    layers
}

/// The top-level modules that a source names by `crate::` or `super::super::`, comments left out.
fn imports(source: &str) -> BTreeSet<(usize, String)> {
    let mut found = BTreeSet::new();
    for (number, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for (at, path) in code.match_indices("crate::") {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &code[at + path.len()..];
            match rest.strip_prefix('{') {
                Some(group) => {
                    // Groups stay on a line or open one: names until the next brace.
                    let names = group.split(['{', '}']).next().unwrap_or("").split(',');
                    found.extend(names.map(|name| (number + 1, first_name(name.trim()))));
                }
                None => {
                    found.insert((number + 1, first_name(rest)));
                }
            }
        }
    }
    found
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `src/ledger/pack.rs` and `src/ledger.rs` -> `ledger`.
fn module_of(path: &Path) -> Option<String> {
    let inner = path.strip_prefix(root().join("src")).ok()?;
    let first = inner.components().next()?.as_os_str().to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

#[test]
fn modules_import_downward_only() {
    let layers = layers();
    assert!(layers.len() > 10, "the table of ARCHITECTURE.md was not understood: {layers:?}");
    let mut wrong = Vec::new();
    for path in files(&["rs"]) {
        let Some(module) = module_of(&path) else {
            continue;
        };
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = layers.get(&module) else {
            wrong.push(format!("{}: `{module}` has no line in ARCHITECTURE.md", shown(&path)));
            continue;
        };
        for (line, import) in imports(&read(&path)) {
            let Some(other) = layers.get(&import) else {
                continue;
            };
            if import != module && other >= own {
                wrong.push(format!("{}:{line}: `{module}` names `{import}`, which stands after it", shown(&path)));
            }
        }
    }
    assert_none("imports upward", &wrong);
}

#[test]
fn the_walled_crates_import_nothing_from_above() {
    for (package, refused) in [("patterns", &["larder-adapters", "larder."][..]), ("adapters", &["larder."])] {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        for name in refused {
            assert!(!manifest.lines().any(|line| line.starts_with(name)), "{package} depends on {name}");
        }
    }
}

#[test]
fn every_source_opens_with_what_it_is() {
    let silent: Vec<String> =
        files(&["rs"]).iter().filter(|path| !read(path).starts_with("//! ")).map(|path| shown(path)).collect();
    assert_none("does not open with `//! `", &silent);
}

#[test]
fn no_file_names_a_machine() {
    // In two halves, so that this file does not name them either.
    let places = [("/wo", "rk/"), ("/home/run", "ner"), ("/Us", "ers/")].map(|(a, b)| format!("{a}{b}"));
    let mut found = Vec::new();
    for path in files(&["rs", "md", "toml", "json", "sh", "yml", "yaml", "example", ""]) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if places.iter().any(|place| line.contains(place.as_str())) {
                found.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    assert_none("names a place of one machine", &found);
}

#[test]
fn nothing_is_left_for_later_without_an_issue() {
    let words = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")].map(|(a, b)| format!("{a}{b}"));
    let mut found = Vec::new();
    for path in files(&["rs", "md", "sh", ""]) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let says = words.iter().any(|word| line.split(|c: char| !c.is_alphanumeric()).any(|part| part == word));
            if says && !line.contains("issue ") && !line.contains('#') {
                found.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    assert_none("left for later without an issue", &found);
}

/// The part of a source that is only built for tests.
fn test_part<'a>(path: &Path, text: &'a str) -> &'a str {
    let name = shown(path);
    let is_test = name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs");
    if is_test { text } else { text.find("#[cfg(test)]").map_or("", |at| &text[at..]) }
}

#[test]
fn no_test_is_ignored_or_sleeps() {
    let refused = [format!("#[{}", "ignore"), format!("thread::{}", "sleep(")];
    let mut found = Vec::new();
    for path in files(&["rs"]) {
        let text = read(&path);
        let tests = test_part(&path, &text);
        for part in &refused {
            if tests.contains(part.as_str()) {
                found.push(format!("{}: {part}", shown(&path)));
            }
        }
    }
    assert_none("a test that does not say today's truth at once", &found);
}

/// The commands that `larder --help` lists.
fn commands() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_larder")).arg("--help").output().expect("run larder");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    listed
        .take_while(|line| !line.trim().is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("     "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn documents_name_only_commands_that_exist() {
    let commands = commands();
    assert!(commands.contains("sync"), "the help was not understood: {commands:?}");
    let mut wrong = Vec::new();
    for path in files(&["md"]).iter().filter(|path| !shown(path).starts_with("examples/")) {
        for (number, line) in read(path).lines().enumerate() {
            for name in named_commands(line) {
                if !commands.contains(&name) {
                    wrong.push(format!("{}:{}: larder {name}", shown(path), number + 1));
                }
            }
        }
    }
    assert_none("no such command", &wrong);
}

/// `larder NAME` at the start of a code span, after a prompt, or in a list of alternatives.
fn named_commands(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for start in ["`larder ", "$ larder "] {
        for (at, _) in line.match_indices(start) {
            let words = line[at + start.len()..].split(['`', ';', '&', '|']).next().unwrap_or("").split_whitespace();
            let mut skip_value = false;
            let name = words.into_iter().find(|word| {
                let is_flag = word.starts_with("--");
                let is_value = std::mem::replace(&mut skip_value, *word == "--project");
                !is_flag && !is_value
            });
            names.extend(name.map(first_word).filter(|name| !name.is_empty()));
        }
    }
    names
}

fn first_word(word: &str) -> String {
    word.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect()
}

#[test]
fn the_change_log_has_a_line_for_this_version() {
    let log = read(&root().join("CHANGELOG.md"));
    assert!(log.contains(env!("CARGO_PKG_VERSION")), "CHANGELOG.md does not name {}", env!("CARGO_PKG_VERSION"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for path in files(&["md"]).iter().filter(|path| !shown(path).starts_with("examples/")) {
        let folder = path.parent().expect("below the root");
        for (number, line) in read(path).lines().enumerate() {
            for (at, open) in line.match_indices("](") {
                let target = line[at + open.len()..].split([')', '#']).next().unwrap_or("");
                if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                    broken.push(format!("{}:{}: {target}", shown(path), number + 1));
                }
            }
        }
    }
    assert_none("a link that leads nowhere", &broken);
}

#[test]
fn every_line_of_the_promises_names_its_tests_and_they_are_there() {
    let page = read(&root().join("docs/semantics.md"));
    let lines: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    let rows: Vec<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(first, _)| !["line", "---"].contains(first))
        .collect();
    let sources: String = files(&["rs"]).iter().map(|path| read(path)).collect();
    let mut wrong = Vec::new();

    for line in &lines {
        let count = rows.iter().filter(|(first, _)| line.starts_with(first)).count();
        if count != 1 {
            wrong.push(format!("{count} rows for: {line}"));
        }
    }
    for (first, tests) in &rows {
        if !lines.iter().any(|line| line.starts_with(first)) {
            wrong.push(format!("no line begins with: {first}"));
        }
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !tests.starts_with("none: ") {
            wrong.push(format!("no test for: {first}"));
        }
        let gone = named.iter().filter(|test| !sources.contains(&format!("fn {test}(")));
        wrong.extend(gone.map(|test| format!("no test of this name: {test}")));
    }
    assert!(lines.len() > 50, "the page was not understood");
    assert_none("the page of promises", &wrong);
}
