//! What must be asked, when it must be asked again, and where the answer is kept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{env, settings};
use crate::config::trust::{grant, is_inside_backend, reach, reach_hash, required_consent, revoke};
use crate::config::{ConfigFile, ConfigPath, Flags, Settings};
use crate::env::Env;

fn home() -> (tempfile::TempDir, Env) {
    let home = tempfile::tempdir().expect("a folder");
    let mut env = env(&[]);
    env.state_home = home.path().join("state/larder");
    (home, env)
}

fn items(text: &str) -> Vec<String> {
    reach(&settings(text)).into_iter().collect()
}

#[test]
fn what_stays_inside_the_folder_asks_nothing() {
    let (_home, env) = home();
    for text in [
        "{}",
        r#"{"backend": "sqlite"}"#,
        r#"{"backend": "sqlite:data/x.db", "syncFilePatterns": ["**"], "intervalSecs": 5}"#,
        r#"{"backend": "sqlite:///home/anna/project/x.db"}"#,
        r#"{"peers": {}, "databases": [], "encryption": {"enabled": false, "keyFile": "key"}}"#,
    ] {
        assert_eq!(required_consent(&settings(text), &env), None, "{text}");
    }
}

#[test]
fn everything_that_reaches_beyond_is_an_item() {
    let cases = [
        (r#"{"root": ".."}"#, vec!["keep files of the folder above: /home/anna"]),
        (r#"{"backend": "postgres"}"#, vec!["mirror files into the backend postgres"]),
        (r#"{"backend": "sqlite:../x.db"}"#, vec!["mirror files into the backend sqlite:../x.db"]),
        (r#"{"backend": "sqlite:a/../../x.db"}"#, vec!["mirror files into the backend sqlite:a/../../x.db"]),
        (
            r#"{"backend": "sqlite:/home/anna/project2/x.db"}"#,
            vec!["mirror files into the backend sqlite:/home/anna/project2/x.db"],
        ),
        (r#"{"peers": {"a": {"url": "/mnt", "push": false}}}"#, vec!["take files from the peer a at /mnt"]),
        (
            r#"{"peers": {"a": {"url": "/mnt", "private": true, "pull": false}}}"#,
            vec!["give files to the peer a at /mnt", "give private files to the peer a at /mnt"],
        ),
        (r#"{"databases": [{"path": "a.db", "tables": ["t"]}]}"#, vec!["share rows of the table t in a.db"]),
        (r#"{"encryption": {"enabled": false, "keyFile": "/etc/key"}}"#, vec!["read the key file /etc/key"]),
    ];
    for (text, expected) in cases {
        assert_eq!(items(text), expected, "{text}");
    }
}

#[test]
fn consent_is_asked_once() {
    let (_home, env) = home();
    let settings = settings(r#"{"backend": "postgres", "peers": {"a": "/mnt"}}"#);

    let request = required_consent(&settings, &env).expect("something is asked");
    grant(&settings, &env).expect("kept");

    assert_eq!((request.items.len(), request.widened), (3, false));
    assert_eq!(required_consent(&settings, &env), None);
}

#[test]
fn consent_is_asked_again_when_it_widens() {
    let (_home, env) = home();
    let narrow = r#"{"peers": {"a": {"url": "/mnt", "push": false}}}"#;
    grant(&settings(narrow), &env).expect("kept");

    let cases = [
        (r#"{"peers": {"a": {"url": "/mnt"}}}"#, vec!["give files to the peer a at /mnt"]),
        (r#"{"peers": {"a": {"url": "/media", "push": false}}}"#, vec!["take files from the peer a at /media"]),
        (
            r#"{"peers": {"a": {"url": "/mnt", "push": false, "private": true}}}"#,
            vec!["take private files from the peer a at /mnt"],
        ),
        (
            r#"{"peers": {"a": {"url": "/mnt", "push": false}}, "backend": "convex"}"#,
            vec!["mirror files into the backend convex"],
        ),
    ];
    for (wider, expected) in cases {
        let request = required_consent(&settings(wider), &env).expect("it widened");
        assert_eq!(
            (request.items, request.widened),
            (expected.into_iter().map(str::to_owned).collect(), true),
            "{wider}"
        );
    }
}

#[test]
fn a_narrower_config_asks_nothing() {
    let (_home, env) = home();
    grant(&settings(r#"{"backend": "postgres", "peers": {"a": "/mnt", "b": "/media"}}"#), &env).expect("kept");

    for narrower in [r#"{"backend": "postgres"}"#, r#"{"peers": {"a": {"url": "/mnt", "pull": false}}}"#, "{}"] {
        assert_eq!(required_consent(&settings(narrower), &env), None, "{narrower}");
    }
}

#[test]
fn env_is_consent_by_itself() {
    let (_home, mut env) = home();
    env.vars.insert("FILE_SYNC_BACKEND".to_owned(), "postgres".to_owned());
    env.vars.insert("LARDER_PEERS".to_owned(), "a=/mnt".to_owned());
    let flags = Flags { peers: vec!["b=/media".to_owned()], ..Flags::default() };

    let named = super::resolve(r#"{"backend": "convex"}"#, &env, &flags).expect("good");

    assert_eq!(required_consent(&named, &env), None);
}

#[test]
fn a_variable_that_only_holds_the_address_is_no_consent() {
    let (_home, mut env) = home();
    env.vars.insert("DATABASE_URL".to_owned(), "postgres://prod".to_owned());

    let settings = super::resolve(r#"{"backend": "postgres"}"#, &env, &Flags::default()).expect("good");

    assert!(required_consent(&settings, &env).is_some());
}

#[test]
fn consent_belongs_to_one_project_folder() {
    let (_home, env) = home();
    let text = br#"{"backend": "postgres"}"#;
    let at = |dir: &str| {
        let config = ConfigPath::assumed(dir);
        let file = ConfigFile::parse(text, config.file()).expect("good");
        Settings::resolve(&config, file, &env, &Flags::default()).expect("good")
    };
    grant(&at("/a"), &env).expect("kept");

    assert!(required_consent(&at("/a"), &env).is_none());
    assert!(required_consent(&at("/b"), &env).is_some());
}

#[test]
fn consent_is_kept_for_oneself_alone_and_can_be_taken_back() {
    let (home, env) = home();
    let settings = settings(r#"{"backend": "postgres"}"#);
    grant(&settings, &env).expect("kept");

    let folder = env.state_home.join("trust");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let files: Vec<_> =
        std::fs::read_dir(&folder).expect("there").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!((mode(&folder), files.len(), mode(&files[0])), (0o700, 1, 0o600));

    revoke(&settings, &env).expect("gone");
    revoke(&settings, &env).expect("still gone");
    assert!(required_consent(&settings, &env).is_some());
    drop(home);
}

#[test]
fn a_damaged_consent_is_none() {
    let (_home, env) = home();
    let settings = settings(r#"{"backend": "postgres"}"#);
    grant(&settings, &env).expect("kept");
    let folder = env.state_home.join("trust");
    let file = std::fs::read_dir(&folder).expect("there").next().expect("one").expect("an entry").path();

    for damage in [
        "",
        "{",
        "{\"items\":[],\"kind\":\"other\",\"path\":\"\",\"v\":1}",
        "{\"items\":[\"mirror files into the backend postgres\"],\"kind\":\"trust\",\"path\":\"\",\"v\":2}",
    ] {
        std::fs::write(&file, damage).expect("written");
        assert!(required_consent(&settings, &env).is_some(), "{damage}");
    }
}

#[test]
fn an_unwritable_place_is_an_error_that_names_it() {
    let (home, mut env) = home();
    std::fs::write(home.path().join("file"), "").expect("written");
    env.state_home = home.path().join("file");

    let error = grant(&settings(r#"{"backend": "postgres"}"#), &env).expect_err("a file is no folder");

    assert!(error.to_string().starts_with("keep consent at "), "{error}");
}

#[test]
fn a_link_that_leads_out_is_not_inside() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().canonicalize().expect("a real folder").join("project");
    std::fs::create_dir_all(dir.join("real")).expect("made");
    std::os::unix::fs::symlink("/", dir.join("out")).expect("linked");
    std::os::unix::fs::symlink("real", dir.join("in")).expect("linked");
    std::os::unix::fs::symlink("/nonexistent", dir.join("dangling")).expect("linked");

    for (backend, expected) in [
        ("sqlite:real/x.db", true),
        ("sqlite:new/x.db", true),
        ("sqlite:in/x.db", true),
        ("sqlite:out/x.db", false),
        ("sqlite:out/new/x.db", false),
        ("sqlite:dangling", false),
        ("memory", true),
        ("postgres", false),
    ] {
        assert_eq!(is_inside_backend(backend, &dir), expected, "{backend}");
    }
}

#[test]
fn the_hash_speaks_of_the_reach_alone() {
    let base = reach_hash(&settings(r#"{"backend": "postgres", "peers": {"a": "/mnt"}}"#));

    assert_eq!(
        base,
        reach_hash(&settings(
            "{\n \"peers\": {\"a\": {\"url\": \"/mnt\"}}, \"backend\": \"postgres\", \"intervalSecs\": 1}"
        ))
    );
    assert_ne!(base, reach_hash(&settings(r#"{"backend": "postgres", "peers": {"a": "/mnt2"}}"#)));
    assert_eq!(base.short(16), reach_hash(&settings(r#"{"backend": "postgres", "peers": {"a": "/mnt"}}"#)).short(16));
}

#[test]
fn items_of_a_strangers_config_are_safe_to_show() {
    let text = r#"{"databases": [{"path": "a\u001b[2Jb\nc", "tables": ["t\u202e"]}]}"#;

    let items = items(text);

    assert!(items.iter().all(|item| !item.chars().any(|c| c.is_control() || c == '\u{202e}')), "{items:?}");
}
