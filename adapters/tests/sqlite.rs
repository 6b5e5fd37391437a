//! What is particular to the SQLite backend: the file, plain SQL beside us, damage, and listening.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use larder_adapters::contract::text_record;
use larder_adapters::{
    AdapterError, Body, Cursor, ErrorKind, Expected, FileSyncAdapter, OpenContext, Query, Record, RecordId, Row,
    RowContent, SHARED_OWNER, Selection, SqliteAdapter, Subscription, Wake, Write, open, resolve_backend,
};
use rusqlite::Connection;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("sync.db")
    }

    fn try_open(&self) -> Result<SqliteAdapter, AdapterError> {
        let context = OpenContext { wait_ms: 50, ..OpenContext::new(self.folder.path()) };
        SqliteAdapter::open("sync.db".as_ref(), &context)
    }

    fn open(&self) -> SqliteAdapter {
        SqliteAdapter::open("sync.db".as_ref(), &OpenContext::new(self.folder.path())).expect("it opens")
    }

    fn refused(&self) -> AdapterError {
        match self.try_open() {
            Ok(_) => panic!("a refusal was expected"),
            Err(error) => error,
        }
    }

    fn sql(&self, sql: &str) {
        let connection = Connection::open(self.path()).expect("it opens");
        connection.busy_timeout(PATIENCE).expect("a timeout");
        connection.execute_batch(sql).expect("plain SQL works");
    }

    fn text(&self, sql: &str) -> String {
        let connection = Connection::open(self.path()).expect("it opens");
        connection.query_row(sql, [], |row| row.get(0)).expect("one value")
    }
}

fn id(path: &str) -> RecordId {
    RecordId::new("app", SHARED_OWNER, path)
}

fn put(adapter: &SqliteAdapter, path: &str, text: &str) {
    adapter.set(&text_record("app", path, text), &Expected::Absent).expect("nothing stands there");
}

fn changes(adapter: &SqliteAdapter, after: &Cursor) -> (Vec<Row>, Cursor) {
    let page = adapter.query(&Query::changes("app", None, after.clone(), 1000)).expect("a page");
    assert!(!page.more);
    (page.rows, page.cursor)
}

/// The changes since `after` as `path=text`, deletions as `path-`.
fn told(adapter: &SqliteAdapter, after: &Cursor) -> Vec<String> {
    let tell = |row: Row| match row.content {
        RowContent::Text(text) => format!("{}={text}", row.path),
        RowContent::Absent => format!("{}-", row.path),
        other => format!("{}:{other:?}", row.path),
    };
    let mut told: Vec<String> = changes(adapter, after).0.into_iter().map(tell).collect();
    told.sort();
    told
}

#[test]
fn files_holds_seven_columns_and_only_text_rows() {
    let bench = Bench::new();
    let adapter = bench.open();
    put(&adapter, "a.md", "text");
    let chunks = Body::Chunks { keep: 0, add: vec![vec![0xFF]] };
    let binary = Record { body: chunks.clone(), ..text_record("app", "b.bin", "") };
    let artifact = Record { body: chunks, mirror: None, ..text_record("app-ledger", "cp-1", "") };
    adapter.set(&binary, &Expected::Absent).expect("nothing stands there");
    adapter.set(&artifact, &Expected::Absent).expect("nothing stands there");

    let columns = bench.text("SELECT group_concat(name) FROM pragma_table_info('files')");
    assert_eq!(columns, "id,path,content,app,owner_id,last_updated,created_at");
    assert_eq!(bench.text("SELECT group_concat(id) FROM files"), "app:a.md");
    assert_eq!(bench.text("SELECT group_concat(id) FROM files_all"), "app:a.md,app:b.bin");
    let row = "SELECT concat_ws('|', path, content, app, owner_id, last_updated, created_at) FROM files";
    assert_eq!(bench.text(row), "a.md|text|app|shared|2023-11-14T22:13:20.123Z|2020-09-13T12:26:40.456Z");
}

#[test]
fn a_reader_waits_for_the_first_fill_of_its_own_handle_however_long_it_takes() {
    let bench = Bench::new();
    let adapter = bench.try_open().expect("it opens");
    assert!(adapter.get(&id("0.md")).expect("it is read").is_none());
    let (begun, begins) = channel();
    let (go_on, goes_on) = channel();
    let (told, tells) = channel();
    // More than the cache holds: pages reach the file before the commit, and nobody else may read it.
    let (handle, long) = (&adapter, &"x".repeat(200 << 10));
    let mut writes = (0..64).map(move |n| {
        if n == 63 {
            begun.send(()).expect("somebody waits");
            goes_on.recv().expect("is told to go on");
        }
        let record = text_record("app", &format!("{n}.md"), long);
        Write::Set { record, expected: Expected::Absent }
    });

    let (filled, looked) = std::thread::scope(|scope| {
        let filling = scope.spawn(move || handle.fill(&mut writes));
        begins.recv().expect("the fill is under way");
        let looking = scope.spawn(move || {
            let looked = handle.get(&id("0.md"));
            // It may be over before anybody listens.
            let _ = told.send(());
            looked
        });
        // Longer than the handle waits for other programs.
        let early = tells.recv_timeout(Duration::from_millis(300));
        go_on.send(()).expect("the fill waits");
        let looked = looking.join().expect("it looks");
        assert!(early.is_err(), "{looked:?}");
        (filling.join().expect("it fills"), looked)
    });

    assert!(filled.expect("it is new").iter().all(Result::is_ok));
    assert!(looked.expect("it is read").is_some());
}

#[test]
fn insert_without_id_owner_or_times_is_a_row() {
    let bench = Bench::new();
    let adapter = bench.open();

    bench.sql("INSERT INTO files (path, content, app) VALUES ('a.md', 'one', 'app')");
    bench.sql("INSERT INTO files (id, path, content, app, owner_id, last_updated) VALUES (NULL, 'b.md', 'two', 'app', NULL, '')");
    bench.sql("INSERT INTO files (path, content, app, owner_id) VALUES ('a.md', 'three', 'app', 'u-bo-1')");

    assert_eq!(told(&adapter, &Cursor::start()), ["a.md=one", "a.md=three", "b.md=two"]);
    assert_eq!(
        bench.text("SELECT group_concat(id) FROM (SELECT id FROM files ORDER BY id)"),
        "app:a.md,app:b.md,app:u-bo-1:a.md"
    );
    assert!(adapter.get(&id("a.md")).expect("a row").expect("it is there").last_updated_ms > 1_700_000_000_000);
    assert_eq!(adapter.get(&id("b.md")).expect("a row").expect("it is there").last_updated_ms, 0);
}

#[test]
fn another_tools_ids_are_renamed_and_its_upsert_goes_on_working() {
    let bench = Bench::new();
    let adapter = bench.open();
    put(&adapter, "a.md", "ours");
    let (_, cursor) = changes(&adapter, &Cursor::start());
    let upsert = |text: &str| {
        bench.sql(&format!(
            "INSERT INTO files (id, path, content, app) VALUES ('uuid-1', 'a.md', '{text}', 'app')
             ON CONFLICT (id) DO UPDATE SET content = excluded.content"
        ));
    };

    upsert("one");
    upsert("two");

    assert_eq!(told(&adapter, &cursor), ["a.md=two"]);
    assert_eq!(bench.text("SELECT group_concat(id || '=' || content) FROM files"), "app:a.md=two");
    let row = adapter.get(&id("a.md")).expect("a row").expect("it is there");
    assert!(row.is_foreign() && row.mirror.is_some());
}

#[test]
fn every_way_to_write_files_is_told() {
    let cases: &[(&str, &[&str])] = &[
        ("UPDATE files SET content = 'new' WHERE path = 'a'", &["a=new"]),
        ("UPDATE files SET path = 'c' WHERE path = 'a'", &["a-", "c=text a"]),
        ("UPDATE files SET path = 'b' WHERE path = 'a'", &["a-", "b=text a"]),
        ("UPDATE files SET id = 'odd' WHERE path = 'a'", &["a=text a"]),
        ("UPDATE files SET owner_id = 'u-bo-1' WHERE path = 'a'", &["a-", "a=text a"]),
        ("UPDATE OR REPLACE files SET id = 'app:b' WHERE path = 'a'", &["a=text a", "b-"]),
        ("UPDATE files SET app = 'elsewhere' WHERE path = 'a'", &["a-"]),
        ("DELETE FROM files WHERE path = 'a'", &["a-"]),
        ("DELETE FROM files", &["a-", "b-"]),
        ("INSERT OR REPLACE INTO files (id, path, content, app) VALUES ('app:a', 'a', 'new', 'app')", &["a=new"]),
        ("INSERT OR REPLACE INTO files (id, path, content, app) VALUES ('app:a', 'c', 'new', 'app')", &["a-", "c=new"]),
        ("REPLACE INTO files (path, content, app) VALUES ('a', 'new', 'app')", &["a=new"]),
        ("INSERT OR IGNORE INTO files (id, path, content, app) VALUES ('app:a', 'a', 'new', 'app')", &[]),
        ("INSERT OR IGNORE INTO files (path, content, app) VALUES ('c', 'new', 'app')", &["c=new"]),
        ("INSERT INTO files (id, content) VALUES ('app:c', 'new')", &["c=new"]),
        ("INSERT INTO files (content) VALUES ('nobody''s')", &[]),
        ("INSERT INTO files (path, app) VALUES ('c', 'app')", &["c:Invalid(\"content is null, not text\")"]),
        (
            "INSERT INTO files (path, app, content) VALUES ('c', 'app', x'FF')",
            &["c:Invalid(\"content is blob and not UTF-8\")"],
        ),
        ("INSERT INTO files (path, app, content) VALUES ('c', 'app', 17)", &["c=17"]),
        (
            "BEGIN; DELETE FROM files WHERE path = 'a'; INSERT INTO files (path, content, app) VALUES ('a', 'new', 'app'); COMMIT",
            &["a=new"],
        ),
        ("BEGIN; DELETE FROM files; ROLLBACK", &[]),
        (
            "PRAGMA recursive_triggers = ON; INSERT OR REPLACE INTO files (id, path, content, app) VALUES ('app:a', 'b', 'new', 'app')",
            &["a-", "b=new"],
        ),
    ];

    for (sql, expected) in cases {
        let bench = Bench::new();
        let adapter = bench.open();
        put(&adapter, "a", "text a");
        put(&adapter, "b", "text b");
        let (_, cursor) = changes(&adapter, &Cursor::start());

        bench.sql(sql);

        assert_eq!(told(&adapter, &cursor), *expected, "{sql}");
        let all = changes(&adapter, &Cursor::start()).0;
        let mut ids: Vec<&str> = all.iter().map(|row| row.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len(), "{sql}: an id is told twice");
    }
}

#[test]
fn sqlite3_program_writes_rows_that_are_told() {
    let bench = Bench::new();
    let adapter = bench.open();
    put(&adapter, "a", "ours");
    put(&adapter, "b", "ours");
    let (_, cursor) = changes(&adapter, &Cursor::start());
    let sql = "UPDATE files SET content = 'theirs' WHERE path = 'a'; DELETE FROM files WHERE path = 'b';
        INSERT INTO files (path, content, app) VALUES ('c', 'theirs', 'app');";

    match Command::new("sqlite3").arg(bench.path()).arg(sql).status() {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            eprintln!("not run: no sqlite3 program here ({error})");
            return;
        }
    }

    assert_eq!(told(&adapter, &cursor), ["a=theirs", "b-", "c=theirs"]);
}

#[test]
fn many_starters_make_one_schema() {
    const STARTERS: usize = 16;
    let bench = Bench::new();
    let barrier = Barrier::new(STARTERS);
    let start = |n: usize| {
        barrier.wait();
        let adapter = bench.open();
        put(&adapter, &n.to_string(), "text");
    };
    let start = &start;

    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|n| scope.spawn(move || start(n))).collect();
        starters.into_iter().for_each(|starter| starter.join().expect("a starter failed"));
    });

    assert_eq!(changes(&bench.open(), &Cursor::start()).0.len(), STARTERS);
}

#[test]
fn table_of_another_tool_is_taken_over_with_its_rows() {
    let bench = Bench::new();
    let table = "CREATE TABLE files (id TEXT PRIMARY KEY, path TEXT NOT NULL, content TEXT, app TEXT NOT NULL, owner_id TEXT, last_updated TEXT, created_at TEXT);";
    bench.sql(table);
    bench.sql("INSERT INTO files VALUES ('app:a', 'a', 'one', 'app', 'shared', '', ''), ('odd', 'b', 'two', 'app', NULL, '', '')");

    let adapter = bench.open();

    assert_eq!(told(&adapter, &Cursor::start()), ["a=one", "b=two"]);
    assert_eq!(told(&bench.open(), &Cursor::start()), ["a=one", "b=two"]);
}

#[test]
fn foreign_table_that_does_not_fit_is_refused_untouched() {
    let twins = "CREATE TABLE files (id TEXT PRIMARY KEY, path, content, app, owner_id, last_updated, created_at);
        INSERT INTO files (id, path, content, app) VALUES ('1', 'a', 'one', 'app'), ('2', 'a', 'two', 'app')";
    for (sql, sentence) in [
        ("CREATE TABLE files (name TEXT, size INTEGER)", "another program's table"),
        ("CREATE VIEW files AS SELECT 1 AS id", "another program's table"),
        (twins, "several rows for a"),
    ] {
        let bench = Bench::new();
        bench.sql(sql);

        let error = bench.refused();

        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(sentence), "{error}");
        assert_eq!(bench.text("SELECT group_concat(name) FROM sqlite_schema WHERE type <> 'index'"), "files");
    }
}

/// As the first version of the schema had them.
const FIRST_CHUNKED: &str = "
    INSERT INTO file_chunks (id, n, bytes) SELECT id, 0, bytes FROM file_chunked WHERE bytes IS NOT NULL;
    DROP VIEW files_all;
    CREATE TABLE before (id TEXT PRIMARY KEY NOT NULL, path TEXT NOT NULL, app TEXT NOT NULL, owner_id TEXT NOT NULL,
        chunk_count INTEGER NOT NULL, size_bytes INTEGER NOT NULL, last_updated TEXT NOT NULL, created_at TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO before SELECT id, path, app, owner_id, chunk_count, size_bytes, last_updated, created_at FROM file_chunked;
    DROP TABLE file_chunked;
    ALTER TABLE before RENAME TO file_chunked;
    CREATE VIEW files_all AS SELECT id, path FROM file_chunked;
    PRAGMA user_version = 1;";

#[test]
fn chunks_of_the_first_schema_are_read_and_grow() {
    let bench = Bench::new();
    let adapter = bench.open();
    let record = |path: &str, keep: u32, add: &[&[u8]]| Record {
        body: Body::Chunks { keep, add: add.iter().map(|chunk| chunk.to_vec()).collect() },
        ..text_record("app", path, "")
    };
    let small = adapter.set(&record("small", 0, &[b"one"]), &Expected::Absent).expect("it is new");
    adapter.set(&record("long", 0, &[b"one", b"two"]), &Expected::Absent).expect("it is new");
    drop(adapter);
    bench.sql(FIRST_CHUNKED);

    let adapter = bench.open();
    assert_eq!(adapter.read_chunks(&id("long"), 0, 9).expect("they are there"), [b"one", b"two"]);
    assert_eq!(adapter.read_chunks(&id("small"), 0, 9).expect("it is there"), [b"one"]);
    let small = adapter.set(&record("small", 1, &[b"two"]), &Expected::Revision(small)).expect("it grows");
    assert_eq!(adapter.read_chunks(&id("small"), 0, 9).expect("they are there"), [b"one", b"two"]);
    adapter.set(&record("small", 0, &[b"new"]), &Expected::Revision(small)).expect("it is replaced");
    assert_eq!(adapter.read_chunks(&id("small"), 0, 9).expect("it is there"), [b"new"]);
    assert_eq!(
        bench.text("SELECT group_concat(path || chunk_count, ' ') FROM (SELECT * FROM files_all ORDER BY path)"),
        "long2 small1"
    );
    drop(adapter);
    assert_eq!(bench.text("PRAGMA integrity_check"), "ok");
    drop(bench.open());
}

#[test]
fn newer_schema_is_refused_with_a_sentence() {
    let bench = Bench::new();
    drop(bench.open());
    bench.sql("PRAGMA user_version = 99");

    let error = bench.refused();

    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("newer release"), "{error}");
}

#[test]
fn file_that_is_no_database_is_corrupt_and_stays_as_it_is() {
    let bench = Bench::new();
    let bytes = b"These are notes, not a database. ".repeat(100);
    std::fs::write(bench.path(), &bytes).expect("it can be written");

    let error = bench.refused();

    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("not an SQLite database"), "{error}");
    assert_eq!(std::fs::read(bench.path()).expect("it is there"), bytes);
}

#[test]
fn damaged_database_is_corrupt_with_what_to_do() {
    let bench = Bench::new();
    let adapter = bench.open();
    for n in 0..300 {
        put(&adapter, &n.to_string(), &"text ".repeat(100));
    }
    adapter.close().expect("it closes");
    let mut bytes = std::fs::read(bench.path()).expect("it is there");
    let header = 100;
    bytes[header..].iter_mut().for_each(|byte| *byte = 0xA5);
    std::fs::write(bench.path(), bytes).expect("it can be written");

    let error = bench.refused();

    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("move it aside"), "{error}");
}

#[test]
fn places_that_can_be_no_database_are_refused_by_name() {
    let bench = Bench::new();
    let at = |path: &str| {
        let answer = SqliteAdapter::open(path.as_ref(), &OpenContext::new(bench.folder.path()));
        answer.map(drop).expect_err("a refusal was expected")
    };

    let folder = at(".");
    assert_eq!((folder.kind, folder.message.contains("it is a folder")), (ErrorKind::Unsupported, true));
    let nowhere = at("no/such/folder/sync.db");
    assert_eq!((nowhere.kind, nowhere.message.contains("no/such/folder/sync.db")), (ErrorKind::NotFound, true));
    #[cfg(unix)]
    {
        let socket = bench.folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(socket).expect("a socket");
        assert_eq!(at("socket").kind, ErrorKind::Unsupported);
    }
}

#[test]
fn lock_held_too_long_is_unavailable_and_loses_nothing() {
    let bench = Bench::new();
    let adapter = bench.try_open().expect("it opens");
    let other = Connection::open(bench.path()).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");

    let error = adapter.set(&text_record("app", "a", "one"), &Expected::Absent).expect_err("it is locked");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(adapter.get(&id("a")).expect("reading does not wait").is_none());

    other.execute_batch("COMMIT").expect("it ends");
    put(&adapter, "a", "one");
}

#[test]
fn starter_waits_for_a_lock_and_then_gives_up() {
    let bench = Bench::new();
    let other = Connection::open(bench.path()).expect("it opens");
    other.execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE").expect("nobody else writes");

    assert_eq!(bench.refused().kind, ErrorKind::Unavailable);

    other.execute_batch("COMMIT").expect("it ends");
    assert!(bench.try_open().is_ok());
}

/// A small batch that may wait for its sync is what a new database begins its log with.
fn begin_log(adapter: &SqliteAdapter) {
    let write = Write::Set { record: text_record("other", "x", "x"), expected: Expected::Absent };
    assert!(adapter.write_batch_unsynced(&[write]).iter().all(Result::is_ok));
    adapter.sync_writes().expect("syncs");
}

#[test]
fn replaced_file_is_noticed_and_its_old_revisions_match_nothing() {
    let bench = Bench::new();
    let adapter = bench.open();
    put(&adapter, "a", "old");
    begin_log(&adapter);
    let (rows, cursor) = changes(&adapter, &Cursor::start());
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", bench.path().display())).expect("it is there");
    }

    assert!(told(&adapter, &cursor).is_empty());
    let put_again = adapter.set(&text_record("app", "a", "new"), &Expected::Absent).expect("nothing stands there");

    assert_ne!(put_again, rows[0].revision);
    assert_eq!(told(&adapter, &cursor), ["a=new"]);
    let stale = adapter.set(&text_record("app", "a", "x"), &Expected::Revision(rows[0].revision.clone()));
    assert_eq!(stale.expect_err("another database's revision").kind, ErrorKind::Conflict);
    assert_eq!(bench.text("SELECT content FROM files"), "new");
}

#[test]
fn change_numbers_stay_bounded_and_never_repeat() {
    let bench = Bench::new();
    let adapter = bench.open();
    let mut seen = std::collections::HashSet::new();

    for round in 0..50 {
        let revision = adapter.set(&text_record("app", "a", "x"), &Expected::Absent).expect("nothing stands there");
        assert!(seen.insert(revision.as_str().to_owned()));
        match round % 2 {
            0 => bench.sql("DELETE FROM files; INSERT INTO files (path, content, app) VALUES ('a', 'y', 'app')"),
            _ => bench.sql("UPDATE files SET content = 'y'"),
        }
        let row = adapter.get(&id("a")).expect("a row").expect("it is there");
        assert!(seen.insert(row.revision.as_str().to_owned()));
        adapter.delete(&row.id, &Expected::Revision(row.revision)).expect("the state was seen");
        let (rows, _) = changes(&adapter, &Cursor::start());
        assert_eq!(rows.len(), 1);
        assert!(seen.insert(rows[0].revision.as_str().to_owned()));
    }

    assert_eq!(
        bench.text("SELECT (SELECT count(*) FROM file_changes) || ' ' || (SELECT count(*) FROM file_mirror)"),
        "1 0"
    );
}

#[test]
fn append_to_a_long_log_writes_its_tail_and_not_the_log() {
    let bench = Bench::new();
    let adapter = bench.open();
    let sealed: Vec<Vec<u8>> = (0..160u8).map(|n| vec![n; 64 * 1024]).collect();
    let log = |keep, add| Record { body: Body::Chunks { keep, add }, ..text_record("app", "log.jsonl", "") };
    let mut revision = adapter.set(&log(0, sealed), &Expected::Absent).expect("nothing stands there");
    bench.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let wal = || std::fs::metadata(bench.path().with_extension("db-wal")).map_or(0, |wal| wal.len());

    let before = wal();
    for n in 0..10u8 {
        let tail = vec![n; 1024 * (1 + usize::from(n))];
        revision = adapter.set(&log(160, vec![tail]), &Expected::Revision(revision)).expect("nobody else writes");
    }

    let bytes_an_append = (wal() - before) / 10;
    assert!(bytes_an_append <= 64 * 1024, "{bytes_an_append} bytes");
}

/// What this thread has read from files so far, in bytes.
fn read_bytes() -> u64 {
    let counted = std::fs::read_to_string("/proc/thread-self/io").expect("the kernel counts");
    let line = counted.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("what was read");
    line.parse().expect("a number")
}

/// A change costs what it touches, however much there is: pages are counted, by a handle that has none in memory.
#[test]
fn one_change_of_100_000_reads_few_pages() {
    const ROWS: u32 = 100_000;
    let bench = Bench::new();
    drop(bench.open());
    bench.sql(&format!(
        "INSERT INTO files (app, path, content) WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {ROWS})
        SELECT 'app', 'f' || n, 'text' FROM t"
    ));
    let adapter = bench.open();
    let mut names = Query { with_content: false, ..Query::changes("app", None, Cursor::start(), 10_000) };
    let after = loop {
        let page = adapter.query(&names).expect("a page");
        if !page.more {
            break page.cursor;
        }
        names.select = Selection::Changes { after: page.cursor };
    };
    drop(adapter);
    let all_bytes = std::fs::metadata(bench.path()).expect("it is there").len();

    bench.sql("UPDATE files SET content = 'theirs' WHERE id = 'app:f7777'");
    let before = read_bytes();
    let adapter = bench.open();
    let (rows, _) = changes(&adapter, &after);
    assert_eq!(rows.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), ["f7777"]);
    let record = text_record("app", "f7777", "ours");
    adapter.set(&record, &Expected::Revision(rows[0].revision.clone())).expect("the state was seen");
    let listed = adapter.query(&Query::paths("app-ledger", SHARED_OWNER, "shared/", None, 1)).expect("a page");
    assert!(listed.rows.is_empty());

    let read = read_bytes() - before;
    assert!(0 < read && read < 512 * 1024, "{read} bytes of {all_bytes} were read");
}

fn listen(adapter: &SqliteAdapter, from: Cursor) -> (Subscription, Receiver<Wake>) {
    let (told, heard) = channel();
    let sink = Box::new(move |wake| {
        // The test may have ended already.
        let _ = told.send(wake);
    });
    let query = Query::changes("app", Some(SHARED_OWNER), Cursor::start(), 1);
    (adapter.subscribe(&query, from, sink).expect("it can be watched"), heard)
}

#[test]
fn plain_sql_wakes_the_subscriber() {
    let bench = Bench::new();
    let adapter = bench.open();
    let (_subscription, heard) = listen(&adapter, Cursor::start());

    bench.sql("INSERT INTO files (path, content, app) VALUES ('a', 'theirs', 'app')");

    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
    assert!(adapter.status().is_empty(), "{:?}", adapter.status());
}

#[test]
fn commit_long_after_its_last_write_wakes_the_subscriber() {
    let bench = Bench::new();
    let adapter = bench.open();
    let (_subscription, heard) = listen(&adapter, Cursor::start());
    let mut other = Connection::open(bench.path()).expect("it opens");
    other.execute_batch("PRAGMA cache_size = 10").expect("a pragma");
    let transaction = other.transaction().expect("nobody else writes");
    // Enough to be spilled into the WAL, and told by the kernel, before the commit.
    for n in 0..500 {
        let sql = "INSERT INTO files (path, content, app) VALUES (?1, ?2, 'app')";
        transaction.execute(sql, [n.to_string(), "text ".repeat(500)]).expect("there is room");
    }

    assert!(heard.recv_timeout(Duration::from_millis(100)).is_err(), "nothing is committed yet");
    transaction.commit().expect("there is room");

    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
}

#[test]
fn other_spaces_and_rolled_back_writes_wake_nobody() {
    let bench = Bench::new();
    let adapter = bench.open();
    let (_subscription, heard) = listen(&adapter, Cursor::start());

    bench.sql("INSERT INTO files (path, content, app) VALUES ('a', 'theirs', 'other')");
    bench.sql("INSERT INTO files (path, content, app, owner_id) VALUES ('a', 'theirs', 'app', 'u-bo-1')");
    bench.sql("BEGIN; INSERT INTO files (path, content, app) VALUES ('a', 'theirs', 'app'); ROLLBACK");
    bench.sql("INSERT INTO files (path, content, app) VALUES ('z', 'theirs', 'app')");

    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
    assert!(heard.try_recv().is_err(), "one change, one wake");
}

#[test]
fn vanished_file_is_told_as_lost_and_heard_again() {
    let bench = Bench::new();
    let adapter = bench.open();
    put(&adapter, "a", "old");
    begin_log(&adapter);
    let (_, cursor) = changes(&adapter, &Cursor::start());
    let (_subscription, heard) = listen(&adapter, cursor);

    for suffix in ["-wal", "-shm", ""] {
        std::fs::remove_file(format!("{}{suffix}", bench.path().display())).expect("it is there");
    }
    assert!(matches!(heard.recv_timeout(PATIENCE), Ok(Wake::Lost { .. })));
    put(&adapter, "b", "new");

    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
}

#[test]
fn names_and_urls_find_the_backend() {
    let folder = Path::new("/home/ann/notes");
    for (value, address) in [
        ("sqlite", "/home/ann/notes/sync.db"),
        ("SQLite:", "/home/ann/notes/sync.db"),
        ("sqlite:data/x.db", "/home/ann/notes/data/x.db"),
        ("sqlite:///srv/x.db", "/srv/x.db"),
        (" sqlite3:/srv/a:b.db ", "/srv/a:b.db"),
    ] {
        let url = resolve_backend(value, folder).expect("it is known");
        assert_eq!((url.scheme, url.address.as_str()), ("sqlite", address), "{value}");
    }
    for value in ["sqlit", "postgrse://ann:secret@host/db"] {
        let error = resolve_backend(value, folder).expect_err("it is unknown");
        assert_eq!(error.kind, ErrorKind::Unsupported);
        let nearest = if value.starts_with('p') { "`postgres`" } else { "`sqlite`" };
        assert!(error.message.contains(nearest) && error.message.contains("known are: sqlite, "), "{error}");
        assert!(!error.message.contains("secret"), "{error}");
    }
    for value in ["", "mongo"] {
        assert_eq!(resolve_backend(value, folder).expect_err("it is unknown").kind, ErrorKind::Unsupported);
    }
}

#[test]
fn backend_opened_by_url_is_the_file_beside_the_config() {
    let bench = Bench::new();
    let adapter: Arc<dyn FileSyncAdapter> = open("sqlite", &OpenContext::new(bench.folder.path())).expect("it opens");

    adapter.set(&text_record("app", "a", "one"), &Expected::Absent).expect("nothing stands there");

    assert_eq!(bench.text("SELECT content FROM files"), "one");
    assert_eq!(adapter.capabilities().name, "sqlite");
}
