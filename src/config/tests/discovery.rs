//! Where a config is found, and what is refused in its place.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, ConfigPath, discover};

fn tree(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    let root = home.path().canonicalize().expect("a real folder");
    for file in files {
        let file = root.join(file);
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(file, "{}").expect("written");
    }
    (home, root)
}

fn found(start: &Path) -> Result<PathBuf, ConfigError> {
    discover(start).map(|config| config.file().to_owned())
}

#[test]
fn the_nearest_config_upward_is_found() {
    let (_home, root) = tree(&["sync-config.json", "a/b/sync-config.json", "a/b/c/d/x", "e/f/x"]);

    for (start, expected) in [
        ("a/b/c/d", "a/b/sync-config.json"),
        ("a/b", "a/b/sync-config.json"),
        ("a", "sync-config.json"),
        ("e/f", "sync-config.json"),
    ] {
        assert_eq!(found(&root.join(start)).expect("found"), root.join(expected), "{start}");
    }
}

#[test]
fn a_content_folder_counts_after_the_folder_itself() {
    let (_home, root) = tree(&[
        "p/data/sync-config.json",
        "p/src/deep/x",
        "q/sync-config.json",
        "q/data/sync-config.json",
        "q/src/x",
        "r/other/sync-config.json",
        "r/src/x",
    ]);

    assert_eq!(found(&root.join("p/src/deep")).expect("found"), root.join("p/data/sync-config.json"));
    assert_eq!(found(&root.join("p/data")).expect("found"), root.join("p/data/sync-config.json"));
    assert_eq!(found(&root.join("q/src")).expect("found"), root.join("q/sync-config.json"));
    assert!(
        found(&root.join("r/src")).map_or(true, |file| !file.starts_with(&root)),
        "only named folders are looked into"
    );
}

#[test]
fn two_content_folders_are_an_error_and_not_a_guess() {
    let (_home, root) = tree(&["data/sync-config.json", "artifacts/sync-config.json", "src/x"]);

    assert!(matches!(found(&root.join("src")), Err(ConfigError::Ambiguous { .. })));
}

#[test]
fn a_named_file_or_folder_is_taken_at_its_word() {
    let (_home, root) = tree(&["sync-config.json", "other.json"]);

    assert_eq!(ConfigPath::named(&root).expect("found").file(), root.join("sync-config.json"));
    let other = ConfigPath::named(&root.join("other.json")).expect("found");
    assert_eq!((other.file(), other.dir()), (root.join("other.json").as_path(), root.as_path()));
    assert!(matches!(ConfigPath::named(&root.join("missing")), Err(ConfigError::Read { .. })));
}

#[test]
fn the_project_folder_is_real() {
    let (_home, root) = tree(&["real/sync-config.json"]);
    std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("linked");

    assert_eq!(discover(&root.join("link")).expect("found").dir(), root.join("real"));
}

#[test]
fn what_is_no_regular_file_is_no_config() {
    let (_home, root) = tree(&["x"]);
    fs::create_dir(root.join("sync-config.json")).expect("made");

    assert!(found(&root).map_or(true, |file| !file.starts_with(&root)));
    assert!(matches!(ConfigPath::named(&root.join("sync-config.json")), Err(ConfigError::Read { .. })));
    assert!(matches!(ConfigPath::assumed(&root).read(), Err(ConfigError::NotAFile { .. })));
}

#[test]
fn a_file_larger_than_any_config_is_not_read_whole() {
    let (_home, root) = tree(&["x"]);
    fs::write(root.join("sync-config.json"), vec![b' '; (1 << 20) + 1]).expect("written");

    assert!(matches!(ConfigPath::assumed(&root).read(), Err(ConfigError::TooLarge { .. })));
}

#[test]
fn a_missing_config_says_what_to_run() {
    let error = ConfigError::NotFound { start: PathBuf::from("/x/\u{1b}y") };

    assert_eq!(
        error.render(false),
        "error: cannot find sync-config.json in /x/\\u{1b}y or any folder above it\n  = help: run `larder init` in the project's folder, or name the file with `--config`"
    );
}
