//! What `larder init` proposes, as a table of projects, and that it always is a good config.

use std::fs;

use larder_patterns::{Channel, RelPath};
use proptest::prelude::*;

use super::settings;
use crate::config::init::{propose, propose_in, survey};

fn paths(texts: &[&str]) -> Vec<RelPath> {
    texts.iter().map(|text| RelPath::parse(text).expect("a path")).collect()
}

#[test]
fn a_project_gets_the_patterns_its_files_ask_for() {
    let cases: [(&[&str], &[&str]); 9] = [
        (&["CLAUDE.md", "src/main.rs"], &["**/CLAUDE.md: 1 file", "*.md: 1 file"]),
        (&["data/a.json", "data/x/b.yaml", "data/c.png"], &["data/**/*.{json,yaml}: 2 files"]),
        (&["prompts/a.md"], &["prompts/**/*.md: 1 file"]),
        (&["src/a.rs", "src/b.rs", "src/c.json"], &[]),
        (&["stories/1.md", "stories/2.md", "stories/3.md"], &["stories/**/*.md: 3 files"]),
        (&["stories/1.md", "stories/2.md"], &[]),
        (
            &[".claude/commands/x.md", ".claude/settings.json", ".claude/.credentials.json"],
            &[".claude/commands/**: 1 file"],
        ),
        (
            &["logs/a.log", "logs/b.jsonl", "notes/CLAUDE.local.md"],
            &[
                "notes/**/*.md: 1 file",
                "**/CLAUDE.local.md: 1 file (private)",
                "**/*.local.{json,md,toml,yaml,yml}: 1 file (private)",
                "**/*.log: 1 file (archive)",
                "logs/**/*.jsonl: 1 file (archive)",
            ],
        ),
        (&["data/.env", "data/credentials.json", "data/key.pem", "node_modules/a/CLAUDE.md"], &[]),
    ];
    for (files, expected) in cases {
        assert_eq!(propose(&paths(files)).found, expected, "{files:?}");
    }
}

#[test]
fn a_copy_of_a_proposed_config_names_the_same_project_in_a_folder_of_another_name() {
    for (folder, name) in [("/home/a/crm", "crm"), ("/home/a/My notes", "My-notes")] {
        let text = propose_in(std::path::Path::new(folder), &[]).text;

        assert_eq!(settings(&text).app_id.value, name);
    }
}

#[test]
fn an_empty_project_gets_a_sensible_default() {
    let proposal = propose(&[]);

    let settings = settings(&proposal.text);
    assert!(proposal.found.is_empty());
    assert!(settings.patterns.shared.len() >= 5 && settings.patterns.archive.len() == 1);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn folder_names_that_would_be_globs_are_left_alone() {
    let files = paths(&[
        "a[b]/1.md",
        "a[b]/2.md",
        "a[b]/3.md",
        "!x/1.md",
        "!x/2.md",
        "!x/3.md",
        "a{b/1.md",
        "a{b/2.md",
        "a{b/3.md",
    ]);

    assert!(propose(&files).found.is_empty());
}

#[test]
fn the_order_of_the_listing_does_not_matter() {
    let mut files = paths(&["data/a.json", "CLAUDE.md", "logs/x.log", "docs/a.md"]);
    let forward = propose(&files);
    files.reverse();

    assert_eq!(propose(&files), forward);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_proposal_is_valid_and_each_pattern_admits_a_file(
        names in proptest::collection::vec("(data|docs|logs|\\.claude/commands|my notes|src|x)/[a-c]{1,2}(/[a-b])?\\.(json|md|jsonl|log|rs|local\\.md|env)", 1..30)
    ) {
        let files: Vec<RelPath> = names.iter().filter_map(|name| RelPath::parse(name).ok()).collect();

        let proposal = propose(&files);

        let settings = settings(&proposal.text);
        if !proposal.found.is_empty() {
            for pattern in settings.rules.positive_patterns() {
                let names_one = files.iter().any(|file| settings.rules.matching(file).contains(&pattern) && settings.rules.admit(file).is_ok());
                prop_assert!(names_one, "{} names nothing of {:?}", pattern, names);
            }
        }
    }
}

#[test]
fn a_survey_skips_what_tools_fill_links_and_denied_names() {
    let home = tempfile::tempdir().expect("a folder");
    for file in [
        "data/a.json",
        "target/x.json",
        "node_modules/y.json",
        ".git/z.json",
        ".hidden/w.json",
        ".claude/agents/a.md",
        "data/.env",
    ] {
        let file = home.path().join(file);
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(file, "{}").expect("written");
    }
    std::os::unix::fs::symlink("/", home.path().join("link")).expect("linked");
    std::os::unix::fs::symlink("/etc/hosts", home.path().join("data/hosts.json")).expect("linked");

    let listing = survey(home.path());

    let files: Vec<&str> = listing.files.iter().map(RelPath::as_str).collect();
    assert_eq!((files, listing.truncated), (vec!["data/a.json", ".claude/agents/a.md"], false));
}

#[test]
fn a_survey_stops_at_its_depth() {
    let home = tempfile::tempdir().expect("a folder");
    let deep = home.path().join("a/b/c/d/e/f/g/h/i");
    fs::create_dir_all(&deep).expect("made");
    fs::write(deep.join("x.md"), "").expect("written");

    let listing = survey(home.path());

    assert_eq!((listing.files.len(), listing.truncated), (0, true));
}

#[test]
fn private_and_archive_patterns_stand_in_their_lists() {
    let proposal = propose(&paths(&["CLAUDE.local.md", "sessions/a.jsonl"]));

    let settings = settings(&proposal.text);
    let channel = |text: &str| settings.rules.admit(&RelPath::parse(text).expect("a path")).map(|path| path.channel());
    assert_eq!(channel("CLAUDE.local.md"), Ok(Channel::Private));
    assert_eq!(channel("sessions/b.jsonl"), Ok(Channel::Archive));
}
