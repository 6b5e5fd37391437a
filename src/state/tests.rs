//! Laws of the state: what a transaction promises, what a base and an intent give back.

use super::*;
use crate::model::{Channel, ContentHash, ContentKind, RelPath, VersionId};

fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a path")
}

fn base(name: &str) -> Base {
    Base {
        path: path(name),
        channel: Channel::Shared,
        versions: vec![VersionId::of(b"1"), VersionId::of(b"2")],
        hash: ContentHash::of(name.as_bytes()),
        kind: ContentKind::File { exec: true },
        stat: BaseStat { size: 5, mtime_ns: -3, ctime_ns: 7, inode: u64::MAX, device: 9 },
        resume: Some(vec![1, 2, 3]),
    }
}

#[test]
fn a_base_comes_back_as_it_was_set() {
    let state = State::in_memory().expect("opens");

    state.set_base(&base("a/b.json")).expect("sets");

    assert_eq!(state.base(&path("a/b.json")).expect("reads"), Some(base("a/b.json")));
    assert_eq!(state.base(&path("a/c.json")).expect("reads"), None);
}

#[test]
fn stats_come_in_byte_order_and_below_a_folder_only_its_own() {
    let state = State::in_memory().expect("opens");
    for name in ["b/x", "a", "b-1", "b/y", "c"] {
        state.set_base(&base(name)).expect("sets");
    }

    let list = |below: Option<&RelPath>| {
        let mut seen = Vec::new();
        let done: std::result::Result<(), StateError> = state.for_each_stat(below, |path, _, _, _| {
            seen.push(path.to_owned());
            Ok(())
        });
        done.expect("lists");
        seen
    };

    assert_eq!(list(None), ["a", "b-1", "b/x", "b/y", "c"]);
    assert_eq!(list(Some(&path("b"))), ["b/x", "b/y"]);
    assert_eq!(state.count_bases(Some("b")).expect("counts"), 2);
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let mut state = State::in_memory().expect("opens");

    let failed: std::result::Result<(), StateError> = state.transaction(|state| {
        state.set_base(&base("a"))?;
        Err(StateError::Form { what: "a test" })
    });

    assert!(failed.is_err());
    assert_eq!(state.base(&path("a")).expect("reads"), None);
}

#[test]
fn a_success_turns_its_own_line_green_and_no_other() {
    let state = State::in_memory().expect("opens");
    state.note_failure("sqlite", Direction::Push, 10, "locked").expect("notes");
    state.note_failure("sqlite", Direction::Pull, 11, "locked").expect("notes");

    state.note_success("sqlite", Direction::Push, 20).expect("notes");

    let lines = state.peer_lines().expect("lists");
    assert_eq!(lines[0].error.as_deref(), Some("locked"));
    assert_eq!((lines[1].error.as_deref(), lines[1].success_ms), (None, Some(20)));
}

#[test]
fn the_reason_of_a_wait_keeps_its_first_time() {
    let state = State::in_memory().expect("opens");
    state.set_pending(&path("a"), "write", "open for writing", 5).expect("notes");
    state.set_pending(&path("a"), "write", "open for writing", 9).expect("notes");

    assert_eq!(state.pending().expect("lists")[0].since_ms, 5);
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.db");
    std::fs::write(&file, vec![7u8; 9000]).expect("writes");

    let error = State::open(&file).err().expect("refused");

    assert!(error.to_string().contains("move it away"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.db");
    drop(State::open(&file).expect("creates"));
    rusqlite::Connection::open(&file).and_then(|c| c.execute_batch("PRAGMA user_version=99")).expect("raises");

    let error = State::open(&file).err().expect("refused");

    assert!(error.to_string().contains("upgrade larder"), "{error}");
}
