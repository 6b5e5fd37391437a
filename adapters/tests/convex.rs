//! Convex: the contract over the functions that Larder ships, run by the vendor's own mock behind its HTTP interface.
//!
//! `convex_server/server.mjs` needs Node and the packages that `scripts/test` installs (`LARDER_CONVEX_NODE` names their folder); without
//! them each test says so and is skipped. `convex_server/client.mjs` is the vendor's client, which checks the server and writes beside us.

#[path = "servers/convex.rs"]
mod convex_server;
#[path = "servers/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use convex_server::{Deployment, SECRET};
use larder_adapters::contract::{self, ForeignHand, text_record};
use larder_adapters::{
    AdapterError, Body, ConvexAdapter, ConvexListening, Cursor, ErrorKind, Expected, FileSyncAdapter, OpenContext,
    Query, Record, RecordId, RowContent, Subscription, Wake, Write,
};
use skip::skip;

/// A deployment, or a reason not to go on.
fn start(test: &str) -> Option<Deployment> {
    Deployment::start(Path::new(env!("CARGO_MANIFEST_DIR"))).map_err(|reason| skip(test, reason)).ok()
}

/// However loaded the machine is, what is waited for comes within this.
const PATIENCE: Duration = Duration::from_secs(120);

impl Deployment {
    fn open(&self) -> ConvexAdapter {
        open_with(&self.url, &[("CONVEX_LARDER_SECRET", SECRET), ("CONVEX_SWEEP_SECS", "never")]).expect("it opens")
    }

    /// A handle that looks through all rows at each read.
    fn open_sweeping(&self) -> ConvexAdapter {
        open_with(&self.url, &[("CONVEX_LARDER_SECRET", SECRET), ("CONVEX_SWEEP_SECS", "0")]).expect("it opens")
    }

    /// A handle that listens so.
    fn open_listening(&self, listening: ConvexListening) -> ConvexAdapter {
        let env = [("CONVEX_LARDER_SECRET", SECRET), ("CONVEX_SWEEP_SECS", "never")];
        open_listening(&self.url, &env, listening).expect("it opens")
    }

    /// Makes the socket misbehave; how many questions stand.
    fn socket(&self, act: &str) -> u64 {
        self.client(&["socket", act]).parse().expect("a number")
    }

    /// Calls, and documents that functions read, since the last look.
    fn counts(&self) -> (u64, u64) {
        let counts: serde_json::Value = serde_json::from_str(&self.client(&["counts"])).expect("counts");
        (counts["calls"].as_u64().expect("a number"), counts["documents"].as_u64().expect("a number"))
    }

    /// Runs the vendor's client; what it printed.
    fn client(&self, words: &[&str]) -> String {
        let done = self.client_command(words).output().expect("node starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }
}

fn open_with(address: &str, env: &[(&str, &str)]) -> Result<ConvexAdapter, AdapterError> {
    open_listening(address, env, ConvexListening::Clock { every_ms: 20 })
}

fn open_listening(
    address: &str,
    env: &[(&str, &str)],
    listening: ConvexListening,
) -> Result<ConvexAdapter, AdapterError> {
    let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let folder = std::env::temp_dir();
    let context = OpenContext { env: &lookup, ..OpenContext::new(&folder) };
    ConvexAdapter::open_listening(address, &context, listening)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, AdapterError>, kind: ErrorKind, part: &str) {
    let error = answer.expect_err("it is refused");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.to_string().contains(part), "{error}");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
}

/// A program that writes through the functions for others, over plain HTTP.
struct FunctionHand<'a>(&'a Deployment);

impl FunctionHand<'_> {
    fn call(&self, function: &str, args: &serde_json::Value) {
        let body = serde_json::json!({ "path": function, "args": args, "format": "json" }).to_string();
        let host = self.0.url.trim_start_matches("http://");
        let mut line = TcpStream::connect(host).expect("it listens");
        let head = format!(
            "POST /api/mutation HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        line.write_all(format!("{head}{body}").as_bytes()).expect("it is sent");
        let mut answer = String::new();
        line.read_to_string(&mut answer).expect("it answers");
        assert!(answer.contains("\"success\""), "{answer}");
    }
}

impl ForeignHand for FunctionHand<'_> {
    fn put(&self, app: &str, path: &str, text: &str) {
        let args = serde_json::json!({ "secret": SECRET, "app": app, "path": path, "content": text });
        self.call("files:put", &args);
    }

    fn delete(&self, app: &str, path: &str) {
        self.call("files:remove", &serde_json::json!({ "secret": SECRET, "app": app, "path": path }));
    }
}

macro_rules! each_foreign_law {
    ([$make:expr, $hand:expr] $($law:ident)*) => {
        $(eprintln!("law: {}", stringify!($law)); contract::$law($make, $hand);)*
    };
}

#[test]
fn the_functions_keep_the_contract() {
    let Some(deployment) = start("the_functions_keep_the_contract") else { return };
    contract::run_contract(&|| Arc::new(deployment.open()));
}

#[test]
fn the_functions_keep_the_contract_of_foreign_edits() {
    let Some(deployment) = start("the_functions_keep_the_contract_of_foreign_edits") else { return };
    let make = || Arc::new(deployment.open()) as Arc<dyn FileSyncAdapter>;
    let hand = FunctionHand(&deployment);
    larder_adapters::with_foreign_laws! { each_foreign_law, [&make, &hand] }
}

#[test]
fn the_vendors_client_sees_what_we_see_and_writes_beside_us() {
    let Some(deployment) = start("the_vendors_client_sees_what_we_see_and_writes_beside_us") else {
        return;
    };
    let adapter = deployment.open();
    assert_eq!(deployment.client(&["check"]), "checked");
    adapter.set(&text_record("app", "a.md", "ours"), &Expected::Absent).expect("it is written");
    assert_eq!(deployment.client(&["read", "app", "a.md"]), "ours");

    deployment.client(&["put", "app", "a.md", "theirs"]);

    let row = adapter.get(&RecordId::new("app", "shared", "a.md")).expect("it answers").expect("it is there");
    assert_eq!((&row.content, row.is_foreign()), (&RowContent::Text("theirs".to_owned()), true));
    deployment.client(&["delete", "app", "a.md"]);
    let row = adapter.get(&row.id).expect("it answers").expect("its entry stands");
    assert_eq!((&row.content, row.is_foreign()), (&RowContent::Absent, true));
}

#[test]
fn rows_changed_past_the_functions_are_found_by_looking_through_all() {
    let Some(deployment) = start("rows_changed_past_the_functions_are_found_by_looking_through_all") else {
        return;
    };
    let adapter = deployment.open_sweeping();
    let changes = |after: Cursor| {
        let page = adapter.query(&Query::changes("app", None, after, 10)).expect("it answers");
        let told: Vec<(String, RowContent)> = page.rows.into_iter().map(|row| (row.path, row.content)).collect();
        (told, page.cursor)
    };
    adapter.set(&text_record("app", "a", "ours"), &Expected::Absent).expect("it is written");
    adapter.set(&text_record("app", "b", "ours"), &Expected::Absent).expect("it is written");
    let (_, cursor) = changes(Cursor::start());
    let text = |text: &str| RowContent::Text(text.to_owned());

    deployment.client(&["raw-edit", "app:a", "theirs"]);
    deployment.client(&["raw-insert", "app", "c", "new"]);
    deployment.client(&["raw-delete", "app:b"]);

    let (mut told, cursor) = changes(cursor);
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("a", text("theirs")), ("b", RowContent::Absent), ("c", text("new"))];
    assert_eq!(told, expected.map(|(path, content)| (path.to_owned(), content)));
    assert!(changes(cursor).0.is_empty(), "told once");
}

#[test]
fn each_deployment_has_a_name_of_its_own() {
    let test = "each_deployment_has_a_name_of_its_own";
    let (Some(one), Some(other)) = (start(test), start(test)) else { return };
    let name = one.open().store_id();
    assert!(name.as_ref().is_some_and(|name| !name.is_empty()) && one.open().store_id() == name);
    assert_ne!(other.open().store_id(), name);
}

#[test]
fn what_was_replaced_leaves_no_pieces_behind() {
    let Some(deployment) = start("what_was_replaced_leaves_no_pieces_behind") else { return };
    let adapter = deployment.open();
    let record = |byte: u8| Record {
        body: Body::Chunks { keep: 0, add: (0..9).map(|n| vec![byte + n; 700 * 1024]).collect() },
        ..text_record("app", "pack", "")
    };
    let first = adapter.set(&record(0), &Expected::Absent).expect("it is written");
    let second = adapter.set(&record(100), &Expected::Revision(first)).expect("it is written");
    let chunks = adapter.read_chunks(&record(0).id(), 8, 1).expect("it is there");
    assert!(chunks == [vec![108; 700 * 1024]]);
    assert_eq!(deployment.client(&["count", "fileChunks"]), "9");

    adapter.delete(&record(0).id(), &Expected::Revision(second)).expect("it is ours");

    assert_eq!(deployment.client(&["count", "fileChunks"]), "0");
}

#[test]
fn what_is_wrong_is_one_sentence_without_the_secret() {
    let Some(deployment) = start("what_is_wrong_is_one_sentence_without_the_secret") else { return };
    let with = |url: &str, secret: &str| open_with("", &[("CONVEX_URL", url), ("CONVEX_LARDER_SECRET", secret)]);

    refused(with(&deployment.url, "other"), ErrorKind::Denied, "is not the deployment's LARDER_SECRET");
    refused(with(&deployment.url, ""), ErrorKind::Denied, "set CONVEX_LARDER_SECRET");
    refused(with("", SECRET), ErrorKind::Unsupported, "set CONVEX_URL");
    refused(with("http://convex.example", SECRET), ErrorKind::Unsupported, "https://");
    refused(with("http://127.0.0.1:1", SECRET), ErrorKind::Unavailable, "cannot be reached");
}

/// Something that answers every request with the same bytes.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for line in listener.incoming().take(1) {
            let mut line = line.expect("a line");
            let mut request = [0; 4096];
            let _ = line.read(&mut request).expect("a request");
            line.write_all(answer.as_bytes()).expect("it is answered");
        }
    });
    format!("http://{address}")
}

#[test]
fn what_answers_and_is_not_convex_is_said_so_and_gets_no_secret_by_a_redirect() {
    let open = |answer| open_with(&answering(answer), &[("CONVEX_LARDER_SECRET", SECRET)]);
    let redirect = "HTTP/1.1 302 -\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n";
    refused(open(redirect), ErrorKind::Denied, "evil.example");
    refused(open("HTTP/1.1 200 -\r\nContent-Length: 6\r\n\r\n<html>"), ErrorKind::Corrupt, "is not Convex");
    let cut = "HTTP/1.1 200 -\r\nContent-Length: 90\r\nConnection: close\r\n\r\n{\"status\":\"succ";
    refused(open(cut), ErrorKind::Unavailable, "ended too early");
    let away = "HTTP/1.1 503 -\r\nRetry-After: 3\r\nContent-Length: 6\r\n\r\n<html>";
    refused(open(away), ErrorKind::Throttled { retry_after_ms: 3_000 }, "away");
}

/// The address of a proxy to a deployment that takes no request body of more bytes.
fn behind_a_proxy(deployment: &Deployment, max_body_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let target = deployment.url.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        for line in listener.incoming() {
            let (mut line, target) = (line.expect("a line"), target.clone());
            std::thread::spawn(move || {
                let (mut request, mut part) = (Vec::new(), [0; 65_536]);
                let (head, body_bytes) = loop {
                    let count = line.read(&mut part).unwrap_or(0);
                    request.extend_from_slice(&part[..count]);
                    let end = request.windows(4).position(|four| four == b"\r\n\r\n");
                    let text = String::from_utf8_lossy(&request[..end.unwrap_or(0)]).to_lowercase();
                    let length =
                        text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
                    let length: usize = length.unwrap_or(0);
                    if count == 0 || end.is_some_and(|end| end + 4 + length <= request.len()) {
                        break (end.unwrap_or(0), length);
                    }
                };
                if max_body_bytes < body_bytes {
                    let _ = line.write_all(b"HTTP/1.1 413 -\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>");
                    return;
                }
                let mut there = TcpStream::connect(target).expect("the deployment answers");
                request.splice(head..head, *b"\r\nConnection: close");
                let _ = there.write_all(&request).and_then(|()| std::io::copy(&mut there, &mut line));
            });
        }
    });
    format!("http://{address}")
}

#[test]
fn what_is_too_much_for_a_proxy_stops_no_other() {
    let Some(deployment) = start("what_is_too_much_for_a_proxy_stops_no_other") else { return };
    let adapter = open_with(&behind_a_proxy(&deployment, 100_000), &[("CONVEX_LARDER_SECRET", SECRET)]).expect("opens");
    let write =
        |path: &str, text: &str| Write::Set { record: text_record("app", path, text), expected: Expected::Absent };

    let answers = adapter.write_batch(&[write("a", "1"), write("long", &"x".repeat(200_000)), write("b", "2")]);

    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::TooLarge), None]);
}

fn listen(adapter: &ConvexAdapter, from: Cursor) -> (Subscription, Receiver<Wake>) {
    let (tell, heard) = channel();
    let sink = Box::new(move |wake| {
        // Nobody may listen any more.
        let _ = tell.send(wake);
    });
    (adapter.subscribe(&Query::changes("app", None, from.clone(), 1), from, sink).expect("it subscribes"), heard)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until an app's row shows this text to whoever is woken.
fn until_told(adapter: &ConvexAdapter, heard: &Receiver<Wake>, path: &str, text: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        heard.recv_timeout(end.saturating_duration_since(Instant::now())).expect("it is told in time");
        let row = adapter.get(&RecordId::new("app", "shared", path)).expect("it answers");
        if row.is_some_and(|row| row.content == RowContent::Text(text.to_owned())) {
            return;
        }
    }
}

/// The vendor's client that prints a file's text whenever it changes; gone with its handle.
struct Watcher(Child, BufReader<ChildStdout>);

impl Watcher {
    fn start(deployment: &Deployment, path: &str) -> Watcher {
        let mut command = deployment.client_command(&["watch", "app", path]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("node starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Watcher(child, out)
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("it prints");
        line.trim_end().to_owned()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_contract_of_subscriptions_holds_over_the_socket() {
    let Some(deployment) = start("the_contract_of_subscriptions_holds_over_the_socket") else { return };
    let make = || Arc::new(deployment.open_listening(ConvexListening::Socket)) as Arc<dyn FileSyncAdapter>;
    contract::another_handles_write_wakes_the_subscriber(&make);
    contract::late_subscriber_is_woken_for_what_it_missed(&make);
    contract::dropped_subscription_is_never_called_again(&make);
    contract::closed_handle_refuses_and_leaves_the_others(&make);
}

#[test]
fn changes_are_told_over_the_socket_in_both_directions() {
    let Some(deployment) = start("changes_are_told_over_the_socket_in_both_directions") else { return };
    let adapter = deployment.open_listening(ConvexListening::Socket);
    assert_eq!(deployment.client(&["check-live"]), "checked");
    let (subscription, heard) = listen(&adapter, Cursor::start());
    let mut watcher = Watcher::start(&deployment, "a.md");
    assert_eq!(watcher.next(), "null");

    adapter.set(&text_record("app", "a.md", "ours"), &Expected::Absent).expect("it is written");
    assert_eq!(watcher.next(), "\"ours\"");
    deployment.client(&["live-put", "app", "a.md", "theirs"]);
    assert_eq!(watcher.next(), "\"theirs\"");
    until_told(&adapter, &heard, "a.md", "theirs");
    deployment.socket(r#"{"chunks":true}"#);
    deployment.client(&["put", "app", "a.md", "in parts"]);
    until_told(&adapter, &heard, "a.md", "in parts");

    assert_eq!(adapter.status(), Vec::<String>::new());
    drop(subscription);
    drop(watcher);
    until("no question stands", || deployment.socket("{}") == 0);
}

#[test]
fn a_socket_that_fails_is_said_so_and_the_clock_asks_until_it_is_back() {
    let Some(deployment) = start("a_socket_that_fails_is_said_so_and_the_clock_asks_until_it_is_back") else {
        return;
    };
    let fatal = format!(r#"{{"refuse":true,"say":"{{\"type\":\"FatalError\",\"error\":\"args: {SECRET}\"}}"}}"#);
    let breaks = [
        (r#"{"refuse":true,"drop":true}"#, "HTTP 503"),
        (r#"{"refuse":"redirect","drop":true}"#, "HTTP 302"),
        (r#"{"refuse":true,"say":"<html>"}"#, "HTTP 503"),
        (fatal.as_str(), "HTTP 503"),
    ];
    for (n, (ill, said)) in breaks.into_iter().enumerate() {
        let adapter = deployment.open_listening(ConvexListening::Usual);
        let (_subscription, heard) = listen(&adapter, Cursor::start());
        until("the question stands", || deployment.socket("{}") == 1);

        deployment.socket(ill);
        until("it is said", || {
            let lines = adapter.status().join("\n");
            assert!(!lines.contains(SECRET), "{lines}");
            lines.contains(said) && lines.contains("it is asked every 2 to 15 seconds")
        });
        deployment.client(&["put", "app", "a.md", &format!("text {n}")]);
        until_told(&adapter, &heard, "a.md", &format!("text {n}"));

        deployment.socket(r#"{"refuse":false}"#);
        until("it is told again", || adapter.status().is_empty() && deployment.socket("{}") == 1);
        adapter.close().expect("it closes");
        until("it is gone", || deployment.socket("{}") == 0);
    }
}

#[test]
fn one_change_of_100_000_reads_few_documents() {
    const ROWS: u64 = 100_000;
    let Some(deployment) = start("one_change_of_100_000_reads_few_documents") else { return };
    let adapter = deployment.open();
    deployment.client(&["fill", &ROWS.to_string()]);
    let page = adapter.query(&Query::changes("app", None, Cursor::start(), 1)).expect("it answers");
    let instance = page.cursor.as_str().rsplit_once('.').expect("a deployment and a place").0.to_owned();
    let cursor = Cursor::from_text(format!("{instance}.{ROWS}"));
    let row = adapter.get(&RecordId::new("app", "shared", "f054321")).expect("it answers").expect("it is there");
    deployment.counts();

    adapter.set(&text_record("app", "f054321", "edited"), &Expected::Revision(row.revision)).expect("it is written");
    let (calls, documents) = deployment.counts();
    assert!(calls <= 2 && documents <= 6, "to write: {calls} calls, {documents} documents");

    let page = adapter.query(&Query::changes("app", None, cursor, 100)).expect("it answers");
    let (calls, documents) = deployment.counts();
    assert_eq!(page.rows.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), ["f054321"]);
    assert!(calls <= 2 && documents <= 6, "to hear of it: {calls} calls, {documents} documents");

    let page = adapter.query(&Query::changes("app", None, page.cursor, 100)).expect("it answers");
    let (calls, documents) = deployment.counts();
    assert!(page.rows.is_empty() && calls <= 2 && documents <= 2, "nothing new: {calls} calls, {documents} documents");
}
