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
    assert_eq!(state.count_live(false, Some("b")).expect("counts"), 2);
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
fn a_commit_that_fails_leaves_nothing_open_and_later_ones_as_durable_as_ever() {
    let mut state = State::in_memory().expect("opens");
    // A reference to nothing is refused by the commit.
    let tables = "PRAGMA foreign_keys=ON; CREATE TABLE a(id INTEGER PRIMARY KEY);
        CREATE TABLE b(id INTEGER REFERENCES a(id) DEFERRABLE INITIALLY DEFERRED);";
    state.connection.execute_batch(tables).expect("creates");

    let failed: std::result::Result<(), StateError> = state.quick_transaction(|state| {
        state.set_base(&base("a"))?;
        state.connection.execute_batch("INSERT INTO b VALUES(1)").map_err(sqlite("refer"))
    });

    assert!(failed.is_err());
    let level = state.connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0)).expect("tells");
    assert_eq!(level, 2, "commits wait for the disk");
    let done: std::result::Result<(), StateError> = state.transaction(|state| state.set_base(&base("b")));
    done.expect("goes on");
    assert_eq!((state.base(&path("a")).expect("reads"), state.count_live(false, None).expect("counts")), (None, 1));
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

fn intent(name: &str, append_from: Option<u64>) -> Intent {
    Intent {
        id: format!("id-{name}"),
        path: path(name),
        channel: Channel::Shared,
        old_versions: vec![VersionId::of(b"1")],
        old_hash: Some(ContentHash::of(b"old")),
        new_versions: vec![VersionId::of(b"2")],
        new_hash: Some(ContentHash::of(b"new")),
        new_size: 9,
        new_kind: ContentKind::File { exec: false },
        beside: false,
        append_from,
    }
}

#[test]
fn intents_come_back_as_they_were_opened() {
    let state = State::in_memory().expect("opens");
    let intents = [intent("a.log", Some(6)), intent("b.md", None)];

    for intent in &intents {
        state.add_intent(intent).expect("opens the intent");
    }

    assert_eq!(state.intents().expect("lists"), intents);
}

#[test]
fn a_state_of_the_first_release_keeps_what_it_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.db");
    let first = rusqlite::Connection::open(&file).expect("creates");
    first.execute_batch(SCHEMA).and_then(|()| first.execute_batch("PRAGMA user_version=1")).expect("the first schema");
    let old = "INSERT INTO intents VALUES('id-a', 'a.md', 'shared', x'', NULL, x'', NULL, 0, 0, 0)";
    first.execute(old, []).expect("an open intent");
    drop(first);

    let state = State::open(&file).expect("opens");

    let kept = state.intents().expect("lists");
    assert_eq!((kept.len(), kept[0].id.as_str(), kept[0].append_from), (1, "id-a", None));
    state.add_intent(&intent("b.log", Some(3))).expect("opens another");
}

/// Bytes of the log: what was written since the file was made.
fn log_bytes(file: &std::path::Path) -> u64 {
    std::fs::metadata(file.with_extension("db-wal")).map_or(0, |log| log.len())
}

#[test]
fn doing_nothing_again_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.db");
    let mut state = State::open(&file).expect("creates");
    let mut act = |now_ms: i64| {
        let done: Result<()> = state.transaction(|state| {
            state.set_meta_i64("mirrored", 7)?;
            state.clear_recordings()?;
            state.note_success("sqlite", Direction::Push, now_ms)
        });
        done.expect("commits");
        log_bytes(&file)
    };

    let first = act(1_000_000);

    assert!(first > 0);
    assert_eq!(act(1_000_001), first);
}

/// A state with one base, closed; its log stands beside it.
fn closed_with_a_log() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.db");
    let state = State::open(&file).expect("creates");
    state.set_base(&base("a")).expect("sets");
    drop(state);
    assert!(log_bytes(&file) > 0);
    (folder, file)
}

#[test]
fn a_short_log_is_kept_and_read_again_and_a_long_one_is_moved_in() {
    let (_folder, file) = closed_with_a_log();

    let mut state = State::open(&file).expect("opens again");
    assert_eq!(state.base(&path("a")).expect("reads"), Some(base("a")));
    let many: Result<()> = state
        .transaction(|state| (0..8000).try_for_each(|n| state.set_base(&base(&format!("a/rather/long/folder/{n}")))));
    many.expect("sets many");
    assert!(log_bytes(&file) > KEPT_LOG_BYTES);
    drop(state);

    assert_eq!(log_bytes(&file), 0);
    let state = State::open_read_only(&file).expect("opens").expect("is there");
    assert_eq!(state.count_live(false, None).expect("counts"), 8001);
}

#[test]
fn the_log_of_a_file_that_was_moved_away_is_not_taken_for_the_new_ones() {
    let (folder, file) = closed_with_a_log();

    std::fs::rename(&file, folder.path().join("moved.db")).expect("moves away");
    let state = State::open(&file).expect("makes another");

    assert_eq!(state.base(&path("a")).expect("reads"), None);
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

#[test]
fn marks_of_rows_outlive_a_killed_holder_and_not_a_machine_that_stopped_under_one() {
    let mut state = State::in_memory().expect("opens");
    let mut marked = |boot: &str, left_open: bool| {
        state.set_meta_i64("mirrored", 7).expect("sets");
        state.note_boot(boot, left_open).expect("notes");
        state.meta_i64("mirrored").expect("reads")
    };

    assert_eq!(marked("monday", false), Some(7));
    assert_eq!(marked("monday", true), Some(7), "killed: the system kept what was written");
    assert_eq!(marked("tuesday", false), Some(7), "shut down in good order");
    assert_eq!(marked("wednesday", true), None);
    assert_eq!(marked("wednesday", true), Some(7));
}
