//! Which layer wins, what is shown of it, and what a reload changes.

use std::path::Path;

use proptest::prelude::*;

use super::{PROJECT_DIR, env, resolve, settings};
use crate::config::{
    ByteCount, ConfigError, ConfigFile, ConfigPath, Flags, MergeKind, Reloaded, Retention, Root, Settings, Source,
    explain, reload_bytes, unmatched,
};
use larder_patterns::{Channel, RelPath};

fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a path")
}

#[test]
fn built_in_values_hold_if_nobody_speaks() {
    let settings = settings("{}");

    assert_eq!(settings.app_id.value, "project");
    assert_eq!(settings.owner_id.value, "shared");
    assert_eq!(settings.backend.value.reveal(), "sqlite:sync.db");
    assert_eq!(settings.interval_secs.value, 30);
    assert!(!settings.respect_gitignore.value);
    assert_eq!(settings.max_file_bytes.value, ByteCount::new(1 << 30).expect("in bounds"));
    assert_eq!(settings.retention.value, Retention::new(90 * 86_400).expect("in bounds"));
    assert_eq!(settings.root.value, Root::Here);
    assert_eq!(settings.root_dir, Path::new(PROJECT_DIR));
    assert!(settings.peers.is_empty());
    assert!(settings.table().iter().all(|row| row.source == "built-in"));
    assert_eq!(settings.warnings.len(), 1, "nothing is named: {:?}", settings.warnings);
}

proptest! {
    // Whatever subset of layers speaks, the highest that does wins and is named.
    #[test]
    fn the_highest_layer_that_speaks_wins(file: bool, in_env: bool, in_flag: bool) {
        let text = if file { "{\n\"intervalSecs\": 1, \"appId\": \"f\", \"backend\": \"f\", \"ownerId\": \"f\", \"maxFileBytes\": 1, \"retention\": \"1d\", \"respectGitignore\": false, \"peers\": {\"p\": \"/f\"}}" } else { "{}" };
        let vars = [("LARDER_INTERVAL_SECS", "2"), ("LARDER_APP_ID", "e"), ("FILE_SYNC_BACKEND", "e"), ("LARDER_OWNER_ID", "e"), ("LARDER_MAX_FILE_BYTES", "2"), ("LARDER_RETENTION", "2d"), ("LARDER_RESPECT_GITIGNORE", "true"), ("LARDER_PEERS", "p=/e")];
        let flag = |text: &str| in_flag.then(|| text.to_owned());
        let flags = Flags { backend: flag("g"), app_id: flag("g"), owner_id: flag("g"), interval_secs: flag("3"), respect_gitignore: flag("false"), max_file_bytes: flag("3"), retention: flag("3d"), peers: flag("p=/g").into_iter().collect() };

        let settings = resolve(text, &env(if in_env { &vars } else { &[] }), &flags).expect("all are good");

        let rank = if in_flag { 3 } else if in_env { 2 } else { u32::from(file) };
        let source = |variable: &'static str, name: &'static str| match rank {
            3 => Source::Flag(name),
            2 => Source::Env(variable),
            1 => Source::File { line: 2 },
            _ => Source::BuiltIn,
        };
        let letter = ["", "f", "e", "g"][rank as usize];
        prop_assert_eq!(&settings.interval_secs.source, &source("LARDER_INTERVAL_SECS", "--interval-secs"));
        prop_assert_eq!(settings.interval_secs.value, if rank == 0 { 30 } else { rank });
        prop_assert_eq!(&settings.backend.source, &source("FILE_SYNC_BACKEND", "--backend"));
        prop_assert_eq!(settings.backend.value.reveal(), if rank == 0 { "sqlite:sync.db" } else { letter });
        prop_assert_eq!(&settings.app_id.source, &source("LARDER_APP_ID", "--app-id"));
        prop_assert_eq!(&settings.owner_id.source, &source("LARDER_OWNER_ID", "--owner-id"));
        prop_assert_eq!(&settings.max_file_bytes.source, &source("LARDER_MAX_FILE_BYTES", "--max-file-bytes"));
        prop_assert_eq!(&settings.retention.source, &source("LARDER_RETENTION", "--retention"));
        prop_assert_eq!(settings.respect_gitignore.value, rank == 2);
        prop_assert_eq!(settings.peers.get("p").map(|peer| peer.value.address.reveal().to_owned()), (rank > 0).then(|| format!("/{letter}")));
    }
}

#[test]
fn an_unusable_variable_or_flag_is_an_error_that_names_it() {
    let cases = [
        ("LARDER_INTERVAL_SECS", "soon"),
        ("LARDER_INTERVAL_SECS", "604801"),
        ("LARDER_APP_ID", "a/b"),
        ("LARDER_OWNER_ID", ":"),
        ("LARDER_MAX_FILE_BYTES", "many"),
        ("LARDER_RETENTION", "1h"),
        ("LARDER_RESPECT_GITIGNORE", "maybe"),
        ("LARDER_PEERS", "/mnt/share"),
        ("LARDER_PEERS", "a=ftp://h"),
        ("FILE_SYNC_BACKEND", "://"),
    ];
    for (name, value) in cases {
        let result = resolve("{}", &env(&[(name, value)]), &Flags::default());
        assert!(
            matches!(&result, Err(ConfigError::Value { place, .. }) if place == name),
            "{name}={value}: {result:?}"
        );
    }
    let flags = Flags { interval_secs: Some("x".to_owned()), ..Flags::default() };
    let error = resolve("{}", &env(&[]), &flags).expect_err("no number");
    assert!(error.render(false).starts_with("error: cannot use --interval-secs: it must be a whole number"), "{error}");
}

#[test]
fn an_empty_variable_says_nothing() {
    let settings = resolve("{\"appId\": \"a\"}", &env(&[("LARDER_APP_ID", "")]), &Flags::default()).expect("good");

    assert_eq!(settings.app_id.value, "a");
}

#[test]
fn a_secret_passes_from_the_environment_and_is_never_shown() {
    let vars =
        [("FILE_SYNC_BACKEND", "postgres://me:geheim@db/x"), ("LARDER_PEERS", "nas=https://geheim@nas/x; usb=/mnt")];

    let settings = resolve("{}", &env(&vars), &Flags::default()).expect("good");

    assert_eq!(settings.backend.value.reveal(), "postgres://me:geheim@db/x");
    assert_eq!(settings.peers.len(), 2);
    let shown = format!("{:?} {:?}", settings.table(), settings);
    assert!(shown.contains("postgres://me:***@db/x") && !shown.contains("geheim"), "{shown}");
}

#[test]
fn a_secret_in_a_flag_is_refused() {
    for flags in [
        Flags { backend: Some("postgres://me:geheim@db/x".to_owned()), ..Flags::default() },
        Flags { peers: vec!["a=https://geheim@nas/x".to_owned()], ..Flags::default() },
    ] {
        let error = resolve("{}", &env(&[]), &flags).expect_err("a secret in the arguments");
        assert!(!error.render(false).contains("geheim") && error.to_string().contains("list of processes"), "{error}");
    }
}

#[test]
fn a_misspelt_variable_is_a_warning() {
    let settings = resolve("{}", &env(&[("LARDER_INTERVALL_SECS", "5"), ("LARDER_BLESS", "1")]), &Flags::default());

    let warnings = settings.expect("good").warnings;
    let named: Vec<_> = warnings.iter().filter(|warning| warning.key.starts_with("LARDER_")).collect();
    assert_eq!(named.len(), 1);
    assert!(named[0].sentence.ends_with("did you mean LARDER_INTERVAL_SECS?"), "{}", named[0]);
}

#[test]
fn the_root_is_the_parent_only_if_every_pattern_starts_with_the_folder() {
    let cases = [
        (r#"{"syncFilePatterns": ["project/a/**", "project/*.md", "!other/**"]}"#, Root::Parent),
        (r#"{"syncFilePatterns": ["project/a/**"], "archiveFilePatterns": ["./project/x"]}"#, Root::Parent),
        (r#"{"syncFilePatterns": ["project/a/**"], "archiveFilePatterns": ["logs/**"]}"#, Root::Here),
        (r#"{"syncFilePatterns": ["project-x/**"]}"#, Root::Here),
        (r#"{"syncFilePatterns": ["project"]}"#, Root::Here),
        (r#"{"syncFilePatterns": ["!project/**"]}"#, Root::Here),
        (r#"{"syncFilePatterns": ["project/**"], "root": "."}"#, Root::Here),
        (r#"{"syncFilePatterns": ["docs/**"], "root": ".."}"#, Root::Parent),
        ("{}", Root::Here),
    ];
    for (text, expected) in cases {
        let settings = settings(text);
        let dir = if expected == Root::Parent { "/home/anna" } else { PROJECT_DIR };
        assert_eq!((settings.root.value, settings.root_dir.as_path()), (expected, Path::new(dir)), "{text}");
    }
}

#[test]
fn the_default_app_is_the_name_of_the_project_folder() {
    let cases = [
        ("/home/anna/notes", "notes"),
        ("/home/anna/My Notes", "My-Notes"),
        ("/home/anna/notes/data", "notes"),
        ("/data", "project"),
        ("/", "project"),
        ("/x/.hidden", "hidden"),
        ("/x/日本", "project"),
        ("/x/notes-ledger", "notes-ledger-app"),
    ];
    for (dir, expected) in cases {
        let config = ConfigPath::assumed(dir);
        let file = ConfigFile::parse(b"{}", config.file()).expect("good");
        let settings = Settings::resolve(&config, file, &env(&[]), &Flags::default()).expect("good");
        assert_eq!(settings.app_id.value, expected, "{dir}");
    }
}

#[test]
fn a_peers_folder_is_found_from_the_project_and_from_home() {
    let text = r#"{"peers": {"a": "../other", "b": "~/share", "c": "https://h/x", "d": {"url": "/mnt", "private": true, "push": false}}}"#;

    let settings = resolve(text, &env(&[("HOME", "/home/anna")]), &Flags::default()).expect("good");

    let addresses: Vec<&str> = settings.peers.values().map(|peer| peer.value.address.reveal()).collect();
    assert_eq!(addresses, ["/home/anna/project/../other", "/home/anna/share", "https://h/x", "/mnt"]);
    let last = &settings.peers["d"].value;
    assert_eq!((last.private, last.pull, last.push), (true, true, false));
}

#[test]
fn the_merge_kind_comes_from_the_most_literal_glob_then_from_the_extension() {
    let text = r#"{"merge": {"**": "lww", "docs/**": "text", "docs/a.json": "toml", "[ab].md": "append"}}"#;
    let with_globs = settings(text);
    let without = settings("{}");

    let cases = [
        ("docs/a.json", MergeKind::Toml),
        ("docs/b.json", MergeKind::Text),
        ("x.json", MergeKind::Lww),
        ("a.md", MergeKind::Append),
    ];
    for (name, expected) in cases {
        assert_eq!(with_globs.merge.kind(&path(name)), expected, "{name}");
    }
    let cases = [
        ("a.JSON", MergeKind::Json),
        ("a.yml", MergeKind::Yaml),
        ("a.toml", MergeKind::Toml),
        ("a.jsonl", MergeKind::Append),
        ("CLAUDE.md", MergeKind::Text),
        ("a.png", MergeKind::Lww),
        ("Makefile", MergeKind::Lww),
    ];
    for (name, expected) in cases {
        assert_eq!(without.merge.kind(&path(name)), expected, "{name}");
    }
}

#[test]
fn a_pattern_without_a_match_is_a_warning_with_its_line() {
    let settings =
        settings("{\n  \"syncFilePatterns\": [\n    \"docs/**\",\n    \"dosc/**\",\n    \"!tmp/**\"\n  ]\n}");

    let warnings = unmatched(&settings, |pattern| u64::from(pattern.text == "docs/**"));

    assert_eq!(warnings.len(), 1);
    assert_eq!(
        warnings[0].to_string(),
        "sync-config.json:4: the pattern \"dosc/**\" (syncFilePatterns[1]) matches no file"
    );
}

#[test]
fn a_rewritten_pattern_is_a_warning_with_its_line() {
    let settings = settings("{\n  \"archiveFilePatterns\": [\"./logs//a.log\"]\n}");

    assert_eq!(settings.warnings.len(), 1);
    assert_eq!((settings.warnings[0].line, settings.warnings[0].key.as_str()), (Some(2), "archiveFilePatterns[0]"));
}

#[test]
fn explain_and_config_say_what_happens_to_concurrent_edits_and_not_what_was_asked_for() {
    let settings = settings(
        r#"{"syncFilePatterns": ["**"], "archiveFilePatterns": ["old/**"], "merge": {"**/*.log": "lww", "*.csv": "append", "*.md": "lww"}}"#,
    );
    let cases = [
        ("a.log", Some(MergeKind::Append), Some(MergeKind::Lww), true),
        ("a.csv", Some(MergeKind::Lww), Some(MergeKind::Append), true),
        ("a.md", Some(MergeKind::Lww), None, false),
        ("a.json", Some(MergeKind::Lww), None, false),
    ];
    for (name, in_force, asked, told) in cases {
        let explained = explain(&settings, &path(name));
        assert_eq!((explained.merge, explained.merge_asked), (in_force, asked), "{name}");
        assert_eq!(explained.sentences.iter().any(|sentence| sentence.contains("has no effect")), told, "{name}");
    }

    assert!(settings.warnings.iter().any(|warning| warning.key == "merge"), "{:?}", settings.warnings);
}

#[test]
fn archived_files_are_never_united() {
    let settings = settings(r#"{"archiveFilePatterns": ["old/**"]}"#);

    assert_eq!(explain(&settings, &path("old/a.log")).merge, None);
}

#[test]
fn explain_names_the_rule_and_its_line() {
    let settings = settings(
        "{\n\"syncFilePatterns\": [\n\"docs/**\",\n\"!docs/tmp/**\",\n\"**\"\n],\n\"privateSyncFilePatterns\": [\"docs/me.md\"],\n\"merge\": {\"docs/*.md\": \"lww\"}\n}",
    );
    let cases = [
        (
            "docs/a.md",
            "docs/a.md is kept in the shared channel, because \"docs/**\" (syncFilePatterns[0], line 3) names it. Also matched, without deciding: \"**\" (syncFilePatterns[2], line 5). Of concurrent edits the later one stands and the other is listed.",
        ),
        (
            "docs/tmp/a.md",
            "docs/tmp/a.md is not kept, because \"!docs/tmp/**\" (syncFilePatterns[1], line 4) excludes it. Also matched, without deciding: \"docs/**\" (syncFilePatterns[0], line 3), \"**\" (syncFilePatterns[2], line 5).",
        ),
        (
            "docs/me.md",
            "docs/me.md is kept in the private channel, because \"docs/me.md\" (privateSyncFilePatterns[0], line 7) names it. Also matched, without deciding: \"docs/**\" (syncFilePatterns[0], line 3), \"**\" (syncFilePatterns[2], line 5). Of concurrent edits the later one stands and the other is listed.",
        ),
    ];
    for (name, expected) in cases {
        assert_eq!(explain(&settings, &path(name)).sentences.join(" "), expected);
    }
    let denied = explain(&settings, &path("x/.env"));
    assert_eq!((denied.kept, denied.decided_by, denied.line), (false, "denylist", None));
    let code = explain(&settings, &path(".mcp.json"));
    assert!(code.kept && code.refused_from_outside.is_some(), "{code:?}");
    let unnamed = explain(&super::settings(r#"{"syncFilePatterns": ["docs/**"]}"#), &path("x.md"));
    assert_eq!(unnamed.sentences, ["x.md is not kept: no pattern names it."]);
}

fn reloaded(before: &str, after: &str) -> Result<Reloaded, ConfigError> {
    let config = ConfigPath::assumed(PROJECT_DIR);
    reload_bytes(after.as_bytes(), &config, &settings(before), &env(&[]), &Flags::default())
}

#[test]
fn a_reload_names_exactly_the_keys_that_changed() {
    let before = r#"{"appId": "a", "syncFilePatterns": ["docs/**"], "peers": {"x": "/x", "y": "/y"}}"#;
    let cases: [(&str, &[&str]); 4] = [
        (
            "// moved\n\n{\"syncFilePatterns\": [\"docs/**\"], \"appId\": \"a\", \"peers\": {\"y\": \"/y\", \"x\": \"/x\"}}",
            &[],
        ),
        (r#"{"appId": "b", "syncFilePatterns": ["docs/**"], "peers": {"x": "/x", "y": "/y"}}"#, &["appId"]),
        (
            r#"{"appId": "a", "syncFilePatterns": ["docs/*"], "peers": {"x": "/z", "w": "/w"}}"#,
            &["peers.w", "peers.x", "peers.y", "syncFilePatterns"],
        ),
        (
            r#"{"appId": "a", "syncFilePatterns": ["docs/**"], "peers": {"x": {"url": "/x", "private": true}, "y": "/y"}, "intervalSecs": 5}"#,
            &["intervalSecs", "peers.x"],
        ),
    ];
    for (after, expected) in cases {
        assert_eq!(reloaded(before, after).expect("good").changed_keys, expected, "{after}");
    }
}

#[test]
fn a_bad_edit_is_an_error_and_changes_nothing() {
    let error = reloaded(r#"{"appId": "a"}"#, r#"{"appId": "#).expect_err("half written");

    assert!(matches!(error, ConfigError::Invalid(_)));
}

#[test]
fn the_lists_reach_the_rules() {
    let settings = settings(
        r#"{"syncFilePatterns": ["a/**"], "privateSyncFilePatterns": ["b/**"], "archiveFilePatterns": ["c/**"]}"#,
    );

    let channel = |text: &str| settings.rules.admit(&path(text)).map(|admitted| admitted.channel()).ok();
    assert_eq!(
        [channel("a/x"), channel("b/x"), channel("c/x"), channel("d/x")],
        [Some(Channel::Shared), Some(Channel::Private), Some(Channel::Archive), None]
    );
}
