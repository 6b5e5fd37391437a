//! Supabase under the contract and under what only it can do wrong: a real PostgREST on a real PostgreSQL.
//!
//! Each test starts a service of its own and skips itself aloud where the programs are not installed.

#[path = "servers/postgres.rs"]
mod postgres_server;
#[path = "servers/skip.rs"]
mod skip;
#[path = "servers/supabase.rs"]
mod supabase_server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use larder_adapters::contract::{self, ForeignHand, text_record};
use larder_adapters::{
    AdapterError, Body, Cursor, ErrorKind, Expected, FileSyncAdapter, OpenContext, Query, Record, RecordId, Revision,
    Row, RowContent, SHARED_OWNER, Subscription, SupabaseAdapter, Wake, Write,
};
use postgres_server::Postgres;
use skip::skip;
use supabase_server::{KEY, Service};

/// A service without tables, or a reason not to go on.
fn service(test: &str) -> Option<Service> {
    Service::start().map_err(|reason| skip(test, reason)).ok()
}

fn try_open(url: &str, key: &str, token: Option<&str>) -> Result<SupabaseAdapter, AdapterError> {
    let env = |name: &str| match name {
        "SUPABASE_URL" => Some(url.to_owned()),
        "SUPABASE_PUBLISHABLE_KEY" => Some(key.to_owned()),
        "SUPABASE_ACCESS_TOKEN" => token.map(str::to_owned),
        _ => None,
    };
    SupabaseAdapter::open("", &OpenContext { env: &env, ..OpenContext::new("/".as_ref()) })
}

fn open(url: &str, token: Option<&str>) -> Arc<dyn FileSyncAdapter> {
    Arc::new(try_open(url, KEY, token).unwrap_or_else(|error| panic!("{error}")))
}

/// Plain SQL by psql, which knows nothing of Larder.
struct SqlHand<'a>(&'a Postgres);

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl ForeignHand for SqlHand<'_> {
    fn put(&self, app: &str, path: &str, text: &str) {
        let (app, path, text) = (quoted(app), quoted(path), quoted(text));
        let update = format!("UPDATE files SET content = {text} WHERE app = {app} AND path = {path} RETURNING 1");
        if self.0.sql("lab", &format!("WITH u AS ({update}) SELECT count(*) FROM u")) == "0" {
            self.0.sql("lab", &format!("INSERT INTO files (app, path, content) VALUES ({app}, {path}, {text})"));
        }
    }

    fn delete(&self, app: &str, path: &str) {
        self.0.sql("lab", &format!("DELETE FROM files WHERE app = {} AND path = {}", quoted(app), quoted(path)));
    }
}

/// The laws write private rows of two owners, so they run with the rights of everybody.
#[test]
fn supabase_keeps_the_contract() {
    let Some(service) = service("supabase_keeps_the_contract") else { return };
    service.prepare();
    service
        .server
        .sql("lab", "CREATE OR REPLACE FUNCTION larder_may(owner text) RETURNS boolean LANGUAGE sql AS 'SELECT true'");
    let url = service.url();
    let make = || open(&url, None);

    contract::run_contract(&make);
    contract::run_foreign_contract(&make, &SqlHand(&service.server));
}

fn of_owner(owner: &str, path: &str) -> Record {
    Record { owner: owner.to_owned(), ..text_record("app", path, "text") }
}

fn paths(adapter: &dyn FileSyncAdapter) -> Vec<(String, String)> {
    let page = adapter.query(&Query::changes("app", None, Cursor::start(), 100)).expect("it answers");
    page.rows.into_iter().map(|row: Row| (row.owner, row.path)).collect()
}

#[test]
fn private_rows_are_their_owners_alone() {
    let Some(service) = service("private_rows_are_their_owners_alone") else { return };
    service.prepare();
    let (url, ann, bob) = (service.url(), service.token("ann"), service.token("bob"));
    let (nobody, ann, bob) = (open(&url, None), open(&url, Some(&ann)), open(&url, Some(&bob)));
    assert!(!nobody.capabilities().own && ann.capabilities().own);

    for adapter in [&nobody, &ann, &bob] {
        let name = if adapter.capabilities().own { "shared by one" } else { "shared by nobody" };
        // The second finds it there.
        let _ = adapter.set(&of_owner(SHARED_OWNER, name), &Expected::Absent);
    }
    let mine = ann.set(&of_owner("ann", "diary.md"), &Expected::Absent).expect("it is hers");
    ann.set(&of_owner("u-ann-12345678", "artifact"), &Expected::Absent).expect("her space too");

    // One refused row does not stop the others of its batch.
    let set = |owner: &str, path: &str| Write::Set { record: of_owner(owner, path), expected: Expected::Absent };
    let answers = bob.write_batch(&[set("bob", "his.md"), set("ann", "forged.md"), set(SHARED_OWNER, "more.md")]);
    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Unsupported), None]);
    assert!(bob.get(&of_owner("ann", "diary.md").id()).expect("it answers").is_none());
    assert!(bob.set(&of_owner("ann", "diary.md"), &Expected::Revision(mine.clone())).is_err());
    assert!(bob.set(&of_owner("u-ann-12345678", "artifact"), &Expected::Absent).is_err());
    assert!(bob.delete(&of_owner("ann", "diary.md").id(), &Expected::Revision(mine)).is_err());
    assert!(nobody.set(&of_owner("ann", "x"), &Expected::Absent).is_err());

    assert!(paths(&*nobody).iter().all(|(owner, _)| owner == SHARED_OWNER));
    assert!(paths(&*bob).iter().all(|(owner, _)| owner == SHARED_OWNER || owner == "bob"));
    assert_eq!(paths(&*ann).iter().filter(|(owner, _)| owner != SHARED_OWNER).count(), 2);
    let seen = "SET ROLE anon; SELECT count(*) FROM files_all WHERE owner_id <> 'shared'";
    assert_eq!(service.server.sql("lab", seen), "0");
    assert_eq!(service.server.sql("lab", "SELECT content FROM files WHERE path = 'diary.md'"), "text");
}

#[test]
fn what_cannot_work_is_one_sentence_without_a_secret() {
    let Some(service) = service("what_cannot_work_is_one_sentence_without_a_secret") else { return };
    let refusal = |url: &str, key: &str, token: Option<&str>| try_open(url, key, token).map(|_| ()).expect_err(url);
    let unprepared = refusal(&service.url(), "sb_publishable_geheim", None);
    service.prepare();
    drop(open(&service.url(), None));
    let canned = |answer: &'static str| service.twisted(Arc::new(move |_| Some(answer.as_bytes().to_vec())));
    let html = canned("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>Welcome</html>");
    let gone =
        canned("HTTP/1.1 522 Gone\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>Timed out</html>");
    let cut = canned(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\nconnection: close\r\n\r\n{\"api\":1,",
    );
    let busy = canned("HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let elsewhere = Box::leak(format!("HTTP/1.1 307 Go\r\nlocation: {}/rest/v1/rpc/larder_hello\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", service.url()).into_boxed_str());
    let moved = canned(elsewhere);
    let before = service.requests.load(Ordering::Relaxed);
    for (error, kind, says) in [
        (unprepared, ErrorKind::Corrupt, "larder backend ddl supabase"),
        (refusal(&service.url(), KEY, Some("geheim.geheim.geheim")), ErrorKind::Denied, "refuses the key"),
        (refusal("http://127.0.0.1:1", "sb_publishable_geheim", None), ErrorKind::Unavailable, "cannot be reached"),
        (
            refusal("https://no-such-host.invalid", "sb_publishable_geheim", None),
            ErrorKind::Unavailable,
            "cannot be reached",
        ),
        (refusal(&html, KEY, None), ErrorKind::Corrupt, "none of the API"),
        (refusal(&gone, KEY, None), ErrorKind::Unavailable, "522"),
        (refusal(&cut, KEY, None), ErrorKind::Unavailable, "cut off"),
        (refusal(&busy, KEY, None), ErrorKind::Throttled { retry_after_ms: 7_000 }, "too many"),
        (refusal(&moved, KEY, None), ErrorKind::Denied, "redirects"),
    ] {
        let said = error.to_string();
        assert_eq!(error.kind, kind, "{said}");
        assert!(said.contains(says) && !said.contains("geheim") && !said.contains('\n'), "{said:?}, not {says:?}");
    }
    assert_eq!(
        service.requests.load(Ordering::Relaxed),
        before + 1,
        "only the bad token reached the service: the redirect was not followed"
    );

    service.server.sql("lab", "ALTER TABLE files DISABLE TRIGGER larder_noted");
    let error = refusal(&service.url(), KEY, None);
    assert!(error.kind == ErrorKind::Corrupt && error.message.contains("trigger"), "{error}");
}

/// Whatever was lost of the schema, what `ddl` prints makes it again; nothing that is left is lost with it or reads as deleted, and an
/// adapter that was open all the while goes on with what is there now.
#[test]
fn the_ddl_makes_again_what_is_missing_and_nothing_reads_as_deleted() {
    let Some(service) = service("the_ddl_makes_again_what_is_missing_and_nothing_reads_as_deleted") else { return };
    service.prepare();
    let adapter = open(&service.url(), None);
    let long = vec![vec![7u8; 300_000], vec![9u8; 1000]];
    let record = |path: &str, body: Body| Record { body, ..of_owner(SHARED_OWNER, path) };
    let rows = |after: Cursor| adapter.query(&Query::changes("app", None, after, 1_000));
    // What is lost, whether machines have to begin anew, and whether the text, the row of another program and the chunks are left.
    let losses = [
        ("SELECT 1", false, [true, true, true]),
        ("DROP FUNCTION larder_paths", false, [true, true, true]),
        ("DROP VIEW files_all", false, [true, true, true]),
        ("ALTER TABLE files DISABLE TRIGGER larder_noted", true, [true, true, true]),
        ("DROP TRIGGER larder_named ON files", true, [true, true, true]),
        ("DROP SEQUENCE file_changes_n CASCADE", true, [true, true, true]),
        ("DROP TABLE file_mirror CASCADE", true, [true, true, true]),
        ("DROP TABLE file_store CASCADE", true, [true, true, true]),
        ("DROP TABLE file_chunks CASCADE", true, [true, true, false]),
        ("DROP TABLE file_chunked CASCADE", true, [true, true, false]),
        ("DROP TABLE files CASCADE", true, [false, false, true]),
    ];
    for (number, (loss, is_another, left)) in losses.into_iter().enumerate() {
        let paths = ["text", "row", "chunks"].map(|name| format!("{number}/{name}"));
        let text = record(&paths[0], Body::Text("text".to_owned()));
        let made = adapter.set(&text, &Expected::Absent).expect("writes");
        adapter
            .set(&record(&paths[2], Body::Chunks { keep: 0, add: long.clone() }), &Expected::Absent)
            .expect("writes chunks");
        SqlHand(&service.server).put("app", &paths[1], "theirs");
        let cursor = rows(Cursor::start()).expect("reads").cursor;
        let known = adapter.store_id();

        service.server.sql("lab", loss);
        service.prepare();
        postgres_server::until("its functions are known", || rows(cursor.clone()).is_ok());

        assert_eq!(adapter.store_id() != known, is_another, "{loss}");
        let now = rows(Cursor::start()).expect("reads").rows;
        for (path, is_left) in paths.iter().zip(left) {
            let row = now.iter().find(|row| row.path == *path);
            let is_there = row.is_some_and(|row| row.content != RowContent::Absent);
            assert_eq!((row.is_some(), is_there), (is_left, is_left), "{path} after {loss}");
        }
        if left[2] {
            let id = RecordId::new("app", SHARED_OWNER, &paths[2]);
            assert_eq!(adapter.read_chunks(&id, 0, 9).expect("reads"), long);
        }
        // What was known of a row before is refused where it is another's now, and right where it is not.
        let again = adapter.set(&text, &Expected::Revision(made));
        assert_eq!(again.is_err(), is_another, "{loss}: {again:?}");
        adapter
            .set(&record(&format!("{number}/new"), Body::Text("new".to_owned())), &Expected::Absent)
            .expect("writes");
    }
}

/// A write whose answer is lost is tried again without doubling anything.
#[test]
fn a_lost_answer_is_found_out_by_the_retry() {
    let Some(service) = service("a_lost_answer_is_found_out_by_the_retry") else { return };
    service.prepare();
    let lost = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (twist, inner) = (lost.clone(), service.url());
    let port = inner.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port");
    let url = service.twisted(Arc::new(move |head| {
        if !(head.contains("larder_write") && twist.load(Ordering::Acquire)) {
            return None;
        }
        // It is done there, and nobody hears of it: the body is known to this test.
        let body = r#"{"items":[{"op":"text","id":"app:a.md","absent":true,"n":"-1","path":"a.md","app":"app","owner":"shared","text":"mine","updated":"2023-11-14T22:13:20.123Z","created":"2023-11-14T22:13:20.123Z"}],"waits":true}"#;
        let request = format!(
            "POST /rest/v1/rpc/larder_write HTTP/1.1\r\nHost: x\r\napikey: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        use std::io::{Read, Write};
        let mut line = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the service is there");
        line.write_all(request.as_bytes()).expect("it listens");
        line.read_to_end(&mut Vec::new()).expect("it answers");
        Some(Vec::new())
    }));
    let adapter = open(&url, None);
    let record = Record { mirror: None, ..text_record("app", "a.md", "mine") };

    lost.store(true, Ordering::Release);
    let error = adapter.set(&record, &Expected::Absent).expect_err("its answer is lost");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    lost.store(false, Ordering::Release);

    let error = adapter.set(&record, &Expected::Absent).expect_err("it is there already");
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(service.server.sql("lab", "SELECT count(*), min(content) FROM files"), "1|mine");
}

/// A first mirror is written by a few statements a batch; a batch with anything else in it is judged item by item, and nothing is done twice.
#[test]
fn new_texts_go_in_at_once_and_what_is_not_new_stops_no_other() {
    const TEST: &str = "new_texts_go_in_at_once_and_what_is_not_new_stops_no_other";
    let service = match Service::start_with(&["track_functions=all"]) {
        Ok(service) => service,
        Err(why) => return skip(TEST, why),
    };
    service.prepare();
    let adapter = open(&service.url(), None);
    let set = |record: Record| Write::Set { record, expected: Expected::Absent };
    let texts = |names: std::ops::Range<u32>| names.map(|n| set(text_record("app", &format!("f{n:03}"), "text")));

    let fresh = adapter.write_batch(&texts(0..200).collect::<Vec<Write>>());
    let rows = adapter.query(&Query::changes("app", None, Cursor::start(), 1_000)).expect("it answers").rows;
    let told: Vec<&Revision> = fresh.iter().map(|answer| answer.as_ref().expect("it is new")).collect();
    assert_eq!(rows.iter().map(|row| &row.revision).collect::<Vec<_>>(), told, "each its own number, in order");
    assert!(rows.iter().all(|row| !row.is_foreign()));

    let chunks = Record { body: Body::Chunks { keep: 0, add: vec![vec![1; 9]] }, ..text_record("app", "f300", "") };
    let chunked = adapter.set(&chunks, &Expected::Absent).expect("it is new");
    let gone = adapter.set(&text_record("app", "f301", "old"), &Expected::Absent).expect("it is new");
    adapter.delete(&text_record("app", "f301", "").id(), &Expected::Revision(gone)).expect("it is ours");
    let private = Record { owner: "somebody".to_owned(), ..text_record("app", "f302", "text") };
    let mixed: Vec<Write> =
        texts(199..202).chain(texts(300..302)).chain([set(private)]).chain(texts(303..305)).collect();
    let answers = adapter.write_batch(&mixed);
    let kinds: Vec<Option<ErrorKind>> =
        answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind)).collect();
    let (conflict, refused) = (Some(ErrorKind::Conflict), Some(ErrorKind::Unsupported));
    assert_eq!(kinds, [conflict, None, None, conflict, None, refused, None, None]);
    let row = adapter.get(&chunks.id()).expect("it answers").expect("it stands");
    assert_eq!(row.revision, chunked, "left as it was");
    let count = "SELECT count(*) || ' ' || (SELECT count(*) FROM file_mirror) || ' ' || (SELECT count(*) FROM file_chunked) FROM files";
    assert_eq!(service.server.sql("lab", count), "205 206 1");

    // Judged one by one were those that stood alone, and the mixed ones.
    service.end_sessions();
    let calls = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'larder_write_one'";
    assert_eq!(settled(&service.server, calls), 3 + mixed.len() as i64);
}

/// A change costs what it touches, however much there is: the rows that the database reads, and the requests.
#[test]
fn one_change_of_many_reads_few_rows_in_few_requests() {
    const ROWS: u32 = 100_000;
    let Some(service) = service("one_change_of_many_reads_few_rows_in_few_requests") else { return };
    service.prepare();
    service.server.sql(
        "lab",
        &format!(
            "BEGIN; SET LOCAL larder.writes = 'on';
            INSERT INTO files (id, path, content, app) SELECT 'app:f' || n, 'f' || n, 'text', 'app' FROM generate_series(1, {ROWS}) AS n;
            INSERT INTO file_mirror (id, n, xid, revision, version, content_hash)
                SELECT 'app:f' || n, n, pg_current_xact_id(), n, 'ab', decode(repeat('ab', 32), 'hex') FROM generate_series(1, {ROWS}) AS n;
            SELECT setval('file_changes_n', {ROWS}); COMMIT; ANALYZE"
        ),
    );
    let adapter = open(&service.url(), None);
    let newest = Query { limit: 1, ..Query::paths("app", SHARED_OWNER, "f7777", None, 1) };
    let cursor = adapter.query(&newest).expect("it answers").cursor;
    service.end_sessions();
    let counted = "SELECT sum(seq_tup_read) + sum(idx_tup_fetch) FROM pg_stat_user_tables";
    let before = (settled(&service.server, counted), service.requests.load(Ordering::Relaxed));

    service.server.sql("lab", "UPDATE files SET content = 'theirs' WHERE id = 'app:f7777'");
    let page = adapter.query(&Query::changes("app", None, cursor, 100)).expect("it answers");
    assert_eq!(page.rows.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), ["f7777"]);
    let seen = Expected::Revision(page.rows[0].revision.clone());
    adapter.set(&text_record("app", "f7777", "ours"), &seen).expect("the state was seen");

    assert_eq!(service.requests.load(Ordering::Relaxed) - before.1, 2);
    let listed = adapter.query(&Query::paths("app-ledger", SHARED_OWNER, "shared/", None, 1)).expect("it answers");
    assert!(listed.rows.is_empty());

    service.end_sessions();
    let read = settled(&service.server, counted) - before.0;
    assert!(read < 200, "{read} rows were read");
}

/// A counter once it stands still.
fn settled(server: &Postgres, sql: &str) -> i64 {
    let read = || server.sql("lab", sql).parse::<i64>().expect("a number");
    let (mut last, mut same) = (read(), 0);
    while same < 20 {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        let now = read();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

const PATIENCE: Duration = Duration::from_secs(30);

fn listen(adapter: &dyn FileSyncAdapter) -> (Subscription, Receiver<Wake>) {
    let (told, heard) = channel();
    let sink = Box::new(move |wake| {
        // The listening test may have ended already.
        let _ = told.send(wake);
    });
    let query = Query::changes("app", None, Cursor::start(), 1);
    (adapter.subscribe(&query, Cursor::start(), sink).expect("it subscribes"), heard)
}

#[test]
fn changes_are_told_by_the_socket_in_both_versions_and_asked_for_without_it() {
    let Some(service) = service("changes_are_told_by_the_socket_in_both_versions_and_asked_for_without_it") else {
        return;
    };
    service.prepare();
    for (speaks, is_degraded) in [(2, false), (1, false), (0, true)] {
        service.speaks.store(speaks, Ordering::Release);
        let (reader, writer) = (open(&service.url(), None), open(&service.url(), None));
        let (subscription, heard) = listen(&*reader);
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed), "whoever subscribed asks once");
        assert_eq!(reader.status().len(), usize::from(is_degraded), "{:?}", reader.status());
        assert!(reader.status().iter().all(|line| !line.contains(KEY)), "{:?}", reader.status());

        writer.set(&text_record("app", &format!("{speaks}.md"), ""), &Expected::Absent).expect("nothing stands there");
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
        writer
            .set(&text_record("other", &format!("{speaks}.md"), ""), &Expected::Absent)
            .expect("nothing stands there");
        service.server.sql("lab", "SET ROLE anon; UPDATE files SET content = 'theirs' WHERE app = 'app'");
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Wake::Changed));
        drop(subscription);
    }
}

/// The service's own client, beside Larder: it writes and ours reads, ours writes and it hears of it.
const CLIENT: &str = r#"
const { createClient } = require('@supabase/supabase-js');
const [, , url, key] = process.argv;
const client = createClient(url, key, { realtime: { transport: require('ws') } });
setTimeout(() => { console.log('failed: no answer in time'); process.exit(1); }, 30000);
const fail = (what, error) => { console.log('failed', what, error && error.message); process.exit(1); };
(async () => {
  const inserted = await client.from('files').insert({ app: 'app', path: 'theirs.md', content: 'of the client' });
  if (inserted.error) fail('insert', inserted.error);
  const upserted = await client.from('files').upsert({ id: 'app:theirs.md', app: 'app', path: 'theirs.md', content: 'newer' });
  if (upserted.error) fail('upsert', upserted.error);
  const told = new Promise((done) => client.channel('any').on('postgres_changes', { event: '*', schema: 'public', table: 'file_mirror' },
    (change) => done(change.new.id)).subscribe((status, error) => {
      if (status === 'SUBSCRIBED') console.log('subscribed'); else console.error(status, error);
      if (status === 'CHANNEL_ERROR') fail('subscribe', error);
    }));
  console.log('told', await told);
  const read = await client.from('files').select('content').eq('path', 'ours.md');
  console.log('read', read.data[0].content);
  const gone = await client.from('files').delete().eq('path', 'theirs.md');
  if (gone.error) fail('delete', gone.error);
  process.exit(0);
})();
"#;

#[test]
fn the_services_own_client_and_ours_see_each_other() {
    const TEST: &str = "the_services_own_client_and_ours_see_each_other";
    let Some(service) = service(TEST) else { return };
    let Some(modules) = std::env::var_os("LARDER_SUPABASE_JS").filter(|path| std::path::Path::new(path).is_dir())
    else {
        return skip(TEST, "supabase-js (npm: @supabase/supabase-js, ws) is not installed");
    };
    service.prepare();
    let adapter = open(&service.url(), None);
    let script = service.server.folder().join("client.cjs");
    std::fs::write(&script, CLIENT).expect("written");
    let mut command = std::process::Command::new("node");
    command.arg(&script).args([&service.url(), KEY]).env("NODE_PATH", modules).stdout(std::process::Stdio::piped());
    let mut client = command.spawn().expect("node starts");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().expect("piped")));
    let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();

    assert_eq!(line(), "subscribed");
    let page = adapter.query(&Query::changes("app", None, Cursor::start(), 10)).expect("it answers");
    assert_eq!(page.rows.len(), 1);
    assert_eq!(page.rows[0].content, larder_adapters::RowContent::Text("newer".to_owned()));
    assert!(page.rows[0].is_foreign());
    adapter.set(&text_record("app", "ours.md", "of ours"), &Expected::Absent).expect("nothing stands there");

    assert_eq!((line(), line()), ("told app:ours.md".to_owned(), "read of ours".to_owned()));
    assert!(client.wait().expect("it ends").success());
    let page = adapter.query(&Query::changes("app", None, page.cursor, 10)).expect("it answers");
    let gone: Vec<&Row> = page.rows.iter().filter(|row| row.path == "theirs.md").collect();
    assert!(gone.len() == 1 && gone[0].content == larder_adapters::RowContent::Absent);
}
