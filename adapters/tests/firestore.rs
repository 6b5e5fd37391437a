//! Firestore: the contract over a strict stand-in, and what only this service does: tokens, faults, stamps, names, costs.
//!
//! The stand-in (`firestore_server`) is checked by the vendor's own clients in `tests/it/firestore.rs`.

mod firestore_server;

use std::sync::Arc;

use firestore_server::{Fault, Firestore};
use larder_adapters::contract::{ForeignHand, text_record};
use larder_adapters::{
    AdapterError, Body, Cursor, ErrorKind, Expected, FileSyncAdapter, FirestoreAdapter, OpenContext, Query, Record,
    RecordId, Revision, RowContent, Write,
};

/// Handles on one server, which lives as long as the maker of handles.
fn firestore_on(server: Arc<Firestore>) -> impl Fn() -> Arc<dyn FileSyncAdapter> {
    move || {
        let host = server.host();
        let env = move |name: &str| match name {
            "FIRESTORE_EMULATOR_HOST" => Some(host.clone()),
            "FIRESTORE_SWEEP_SECS" => Some("0".to_owned()),
            _ => None,
        };
        let folder = std::env::temp_dir();
        let context = OpenContext { env: &env, ..OpenContext::new(&folder) };
        Arc::new(FirestoreAdapter::open_polling("lab", &context, 20).expect("it opens"))
    }
}

/// A program that writes documents of seven fields, now under the usual name and now under one of its own, with a stamp or without.
struct DocumentHand(Arc<Firestore>);

impl DocumentHand {
    fn name_of(&self, app: &str, path: &str) -> String {
        let text = |name: &str| serde_json::json!({ "stringValue": name });
        let is_row = |fields: &serde_json::Value| fields["app"] == text(app) && fields["path"] == text(path);
        let stands = self.0.documents("files").into_iter().find(|(_, fields)| is_row(fields));
        stands.map_or_else(|| format!("theirs-{app}-{path}"), |(name, _)| name)
    }
}

impl ForeignHand for DocumentHand {
    fn put(&self, app: &str, path: &str, text: &str) {
        let value = |text: &str| serde_json::json!({ "stringValue": text });
        let fields = serde_json::json!({ "app": value(app), "path": value(path), "content": value(text) });
        let name = self.0.document("files", &self.name_of(app, path));
        let mask = serde_json::json!({ "fieldPaths": ["app", "path", "content"] });
        self.0.commit(&[serde_json::json!({ "update": { "name": name, "fields": fields }, "updateMask": mask })]);
    }

    fn delete(&self, app: &str, path: &str) {
        let name = self.0.document("files", &self.name_of(app, path));
        self.0.commit(&[serde_json::json!({ "delete": name })]);
    }
}

fn firestore_and_hand() -> (impl Fn() -> Arc<dyn FileSyncAdapter>, DocumentHand) {
    let server = Arc::new(Firestore::start());
    (firestore_on(Arc::clone(&server)), DocumentHand(server))
}

larder_adapters::contract_tests!(firestore_keeps, firestore_on(Arc::new(Firestore::start())));
larder_adapters::foreign_tests!(firestore_keeps_foreign, firestore_and_hand());

const CHUNKED: &[&[u8]] = &[b"one", b"two"];

/// What a handle is opened with: names and values of the environment.
type Env<'a> = &'a [(&'a str, &'a str)];

fn open_with(address: &str, env: Env<'_>) -> Result<FirestoreAdapter, AdapterError> {
    let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let folder = std::env::temp_dir();
    let context = OpenContext { env: &lookup, wait_ms: 1_000, ..OpenContext::new(&folder) };
    FirestoreAdapter::open_polling(address, &context, 20)
}

/// A handle as most tests want it: it looks for foreign edits only when asked to (`sweep` of 0) or never.
fn open(server: &Firestore, sweep: &str) -> FirestoreAdapter {
    let host = server.host();
    open_with("lab", &[("FIRESTORE_EMULATOR_HOST", &host), ("FIRESTORE_SWEEP_SECS", sweep)]).expect("it opens")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, AdapterError>, kind: ErrorKind, part: &str) {
    let error = answer.expect_err("it is refused");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.to_string().contains(part), "{error}");
    for secret in ["refresh-geheim", "ya29", "PRIVATE"] {
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
}

fn changes(adapter: &FirestoreAdapter, app: &str, after: Cursor) -> (Vec<String>, Cursor) {
    let page = adapter.query(&Query::changes(app, None, after, 1_000)).expect("it answers");
    assert!(!page.more);
    (page.rows.into_iter().map(|row| row.path).collect(), page.cursor)
}

fn set(adapter: &FirestoreAdapter, path: &str, text: &str, expected: &Expected) -> Revision {
    adapter.set(&text_record("app", path, text), expected).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An account's file and the settings that name it and the server.
struct Account {
    server: Firestore,
    dir: tempfile::TempDir,
}

impl Account {
    fn new() -> Account {
        let account = Account { server: Firestore::start_with_account(), dir: tempfile::tempdir().expect("a folder") };
        account.write(&account.server.account_file());
        account
    }

    fn write(&self, text: &str) {
        std::fs::write(self.dir.path().join("account.json"), text).expect("it is written");
    }

    fn open(&self, address: &str) -> Result<FirestoreAdapter, AdapterError> {
        let file = self.dir.path().join("account.json").display().to_string();
        let endpoint = format!("http://{}", self.server.host());
        let env = [("GOOGLE_APPLICATION_CREDENTIALS", file.as_str()), ("FIRESTORE_ENDPOINT", endpoint.as_str())];
        open_with(address, &env)
    }
}

#[test]
fn a_token_is_asked_for_once_and_renewed_when_it_is_refused() {
    let account = Account::new();
    let adapter = account.open("").expect("the file names its project");
    for n in 0..5 {
        set(&adapter, &n.to_string(), "text", &Expected::Absent);
    }
    assert_eq!(account.server.tokens_given(), 1);

    account.server.revoke_tokens(3_600);
    set(&adapter, "after", "text", &Expected::Absent);

    assert_eq!(account.server.tokens_given(), 2);
}

#[test]
fn a_token_is_renewed_before_its_end() {
    let account = Account::new();
    account.server.revoke_tokens(0);
    let adapter = account.open("").expect("it opens");
    let before = account.server.tokens_given();

    set(&adapter, "a", "text", &Expected::Absent);

    assert!(before < account.server.tokens_given(), "a token without a life is used for nothing");
}

#[test]
fn what_is_wrong_with_an_account_is_one_sentence_without_its_secrets() {
    let account = Account::new();
    refused(account.open("elsewhere"), ErrorKind::Denied, "name another project");
    refused(account.open("lab/other"), ErrorKind::Denied, "no such Firestore database");

    account.server.set_clock_ahead_secs(-7_200);
    refused(account.open(""), ErrorKind::Denied, "the clock of this machine is 120 minutes ahead");
    account.server.set_clock_ahead_secs(0);

    let other = Firestore::start_with_account().account_file();
    let others = other.replace("/token\"", "/elsewhere\"");
    let token_uri = format!("http://{}/token", account.server.host());
    let mut file: serde_json::Value = serde_json::from_str(&others).expect("JSON");
    file["token_uri"] = token_uri.into();
    account.write(&file.to_string());
    refused(account.open(""), ErrorKind::Denied, "Invalid JWT Signature");

    file["private_key"] = "geheim".into();
    account.write(&file.to_string());
    refused(account.open(""), ErrorKind::Denied, "its private_key is no RSA key");
    file["token_uri"] = "http://tokens.example/token".into();
    account.write(&file.to_string());
    refused(account.open(""), ErrorKind::Unsupported, "https://");
    account.write("{\"type\": \"external_account\"}");
    refused(account.open(""), ErrorKind::Denied, "external_account");
    account.write("geheim");
    refused(account.open(""), ErrorKind::Denied, "it is not JSON");
    std::fs::remove_file(account.dir.path().join("account.json")).expect("it was there");
    refused(account.open(""), ErrorKind::Denied, "names the file of a service account");
}

#[test]
fn gclouds_login_is_used_where_no_account_is_named() {
    let account = Account::new();
    let write = |refresh: &str| {
        let login = serde_json::json!({
            "type": "authorized_user", "client_id": "id", "client_secret": "s", "refresh_token": refresh,
            "token_uri": format!("http://{}/token", account.server.host()),
        });
        let file = account.dir.path().join("application_default_credentials.json");
        std::fs::write(file, login.to_string()).expect("it is written");
    };
    let folder = account.dir.path().display().to_string();
    let endpoint = format!("http://{}", account.server.host());
    let env = [("CLOUDSDK_CONFIG", folder.as_str()), ("FIRESTORE_ENDPOINT", endpoint.as_str())];
    write("refresh-geheim");
    set(&open_with("lab", &env).expect("it opens"), "a", "text", &Expected::Absent);
    refused(open_with("", &env), ErrorKind::Unsupported, "GOOGLE_CLOUD_PROJECT");

    write("ended");
    refused(open_with("lab", &env), ErrorKind::Denied, "gcloud's login is refused");
}

#[test]
fn a_machine_without_any_account_says_what_to_set() {
    let env = [("GCE_METADATA_HOST", "127.0.0.1:1"), ("CLOUDSDK_CONFIG", "/nowhere"), ("GOOGLE_CLOUD_PROJECT", "lab")];
    refused(open_with("", &env), ErrorKind::Denied, "set GOOGLE_APPLICATION_CREDENTIALS");
}

#[test]
fn every_failure_of_the_service_has_its_kind_and_loses_nothing() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    let first = set(&adapter, "a", "one", &Expected::Absent);
    let html = "<html>proxy</html>";
    let cases = [
        (Fault::Answer(503, "Retry-After: 7", html), ErrorKind::Throttled { retry_after_ms: 7_000 }, "away"),
        (Fault::Answer(429, "", html), ErrorKind::Throttled { retry_after_ms: 5_000 }, "slower"),
        (Fault::Answer(500, "", html), ErrorKind::Unavailable, "away"),
        (Fault::Answer(200, "", html), ErrorKind::Corrupt, "not Firestore"),
        (Fault::Answer(404, "", html), ErrorKind::Corrupt, "not Firestore"),
        (Fault::Answer(302, "Location: https://evil.example/x", ""), ErrorKind::Denied, "evil.example"),
        (Fault::Truncated, ErrorKind::Unavailable, "ended too early"),
        (Fault::Lost, ErrorKind::Unavailable, "broke"),
    ];
    for (fault, kind, part) in cases {
        server.fail("commit", 1, fault.clone());
        let answer = adapter.set(&text_record("app", "b", "two"), &Expected::Absent);
        refused(answer, kind, part);
        server.fail("batchGet", 1, fault);
        refused(adapter.get(&RecordId::new("app", "shared", "a")), kind, part);
        server.heal();
        // What was done although its answer broke off is there; what was not is written now.
        let b = text_record("app", "b", "two");
        match adapter.set(&b, &Expected::Absent) {
            Ok(revision) => adapter.delete(&b.id(), &Expected::Revision(revision)).expect("it is ours"),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
                let row = adapter.get(&b.id()).expect("it answers").expect("it was written");
                assert_eq!((row.content.clone(), row.is_foreign()), (RowContent::Text("two".to_owned()), false));
                adapter.delete(&b.id(), &Expected::Revision(row.revision)).expect("it is ours");
            }
        }
    }
    set(&adapter, "a", "two", &Expected::Revision(first));
}

#[test]
fn one_bad_item_of_a_commit_stops_no_other() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    // Below our limit, beyond the service's: its path and its id take room too.
    let path = "p".repeat(64_500);
    let long = "x".repeat(adapter.capabilities().text_limit_bytes as usize);
    let write =
        |path: &str, text: &str| Write::Set { record: text_record("app", path, text), expected: Expected::Absent };

    let answers = adapter.write_batch(&[write("a", "1"), write(&path, &long), write("b", "2")]);

    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::TooLarge), None]);
}

#[test]
fn what_is_too_much_for_a_proxy_stops_no_other() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    let write = |path: &str| Write::Set { record: text_record("app", path, "text"), expected: Expected::Absent };
    // All of them together, then the second of them by itself.
    let full = || Fault::Answer(413, "", "<html>too large</html>");
    server.fail("commit", 1, full());
    server.fail_after("commit", 1, 1, full());

    let answers = adapter.write_batch(&[write("a"), write("b"), write("c")]);

    let kinds: Vec<Option<ErrorKind>> = answers.iter().map(|answer| answer.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::TooLarge), None]);
}

#[test]
fn a_change_among_many_costs_the_same_as_among_few() {
    let server = Firestore::start();
    let adapter = open(&server, "600");
    let other = open(&server, "600");
    let mut costs = Vec::new();
    let (_, mut cursor) = changes(&other, "app", Cursor::start());
    for many in [10, 2_000] {
        let write =
            |n| Write::Set { record: text_record("app", &format!("{many}/{n}"), "text"), expected: Expected::Absent };
        adapter
            .write_batch(&(0..many).map(write).collect::<Vec<_>>())
            .into_iter()
            .for_each(|answer| drop(answer.expect("written")));
        loop {
            let page = other.query(&Query::changes("app", None, cursor, 1_000)).expect("it answers");
            cursor = page.cursor;
            if !page.more {
                break;
            }
        }
        // What was told lies further back than readers look.
        server.advance_ms(11_000);
        (_, cursor) = changes(&other, "app", cursor);
        set(&adapter, &format!("{many}/new"), "text", &Expected::Absent);
        server.take_counts();

        let (told, next) = changes(&other, "app", cursor);

        assert_eq!(told, [format!("{many}/new")]);
        let (requests, read) = server.take_counts();
        costs.push((requests.len(), read));
        let (told, next) = changes(&other, "app", next);
        assert!(told.is_empty());
        cursor = next;
        server.take_counts();
    }
    assert_eq!(costs[0], costs[1], "requests and documents read");
    assert!(costs[1].0 <= 4 && costs[1].1 <= 5, "{costs:?}");
}

#[test]
fn a_stamp_behind_its_commit_is_still_told() {
    let server = Firestore::start();
    let (adapter, reader) = (open(&server, "never"), open(&server, "never"));
    let (_, cursor) = changes(&reader, "app", Cursor::start());
    // Slower than readers look back: the writer stamps again before it acknowledges.
    server.advance_ms(60_000);
    let (_, cursor) = changes(&reader, "app", cursor);
    server.set_stamp_lag_ms(30_000);
    let revision = set(&adapter, "late", "text", &Expected::Absent);
    server.set_stamp_lag_ms(0);
    let (told, cursor) = changes(&reader, "app", cursor);
    assert!(told.is_empty() || told == ["late"]);

    // Within what readers look back nothing has to be done again.
    server.set_stamp_lag_ms(4_000);
    set(&adapter, "behind", "text", &Expected::Absent);
    let (told, _) = changes(&reader, "app", cursor);

    assert_eq!(told, ["behind"]);
    let row = adapter.get(&RecordId::new("app", "shared", "late")).expect("it answers").expect("it is there");
    assert_eq!((row.is_foreign(), row.revision), (false, revision));
}

#[test]
fn a_commit_far_behind_its_stamp_is_stamped_again_and_its_revision_stays() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    server.set_stamp_lag_ms(6_000);
    server.take_counts();

    let revision = set(&adapter, "late", "text", &Expected::Absent);

    let (requests, _) = server.take_counts();
    assert_eq!(requests, ["commit", "commit"]);
    server.set_stamp_lag_ms(0);
    set(&adapter, "late", "more", &Expected::Revision(revision));
}

#[test]
fn two_rows_of_one_file_become_one_and_the_later_stands() {
    let server = Arc::new(Firestore::start());
    let adapter = open(&server, "0");
    set(&adapter, "a", "ours", &Expected::Absent);
    let value = |text: &str| serde_json::json!({ "stringValue": text });
    let fields = serde_json::json!({ "app": value("app"), "path": value("a"), "content": value("theirs") });
    let name = server.document("files", "of-their-own");
    server.commit(&[serde_json::json!({ "update": { "name": name, "fields": fields } })]);

    let (told, cursor) = changes(&adapter, "app", Cursor::start());

    assert_eq!(told, ["a"]);
    let row = adapter.get(&RecordId::new("app", "shared", "a")).expect("it answers").expect("it is there");
    assert_eq!((&row.content, row.is_foreign()), (&RowContent::Text("theirs".to_owned()), true));
    let names: Vec<String> = server.documents("files").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["of-their-own"]);
    // Taken in, it stays where its program looks for it.
    set(&adapter, "a", "both", &Expected::Revision(row.revision));
    assert_eq!(changes(&adapter, "app", cursor).0, ["a"]);
    assert_eq!(server.documents("files")[0].1["content"], value("both"));
}

#[test]
fn a_row_that_carries_the_services_stamp_is_told_without_looking_through_all() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    let (_, cursor) = changes(&adapter, "app", Cursor::start());
    let value = |text: &str| serde_json::json!({ "stringValue": text });
    let fields = serde_json::json!({ "app": value("app"), "path": value("a"), "content": value("theirs") });
    let stamp = serde_json::json!([{ "fieldPath": "last_updated", "setToServerValue": "REQUEST_TIME" }]);
    let name = server.document("files", "app%3Aa");
    server.commit(&[serde_json::json!({ "update": { "name": name, "fields": fields }, "updateTransforms": stamp })]);

    assert_eq!(changes(&adapter, "app", cursor).0, ["a"]);
}

#[test]
fn a_row_stands_at_its_encoded_id_with_seven_fields_and_nothing_of_ours() {
    let server = Firestore::start();
    set(&open(&server, "never"), "docs/a b.md", "text", &Expected::Absent);

    let rows = server.documents("files");

    assert_eq!(rows[0].0, "app%3Adocs%2Fa%20b.md");
    let fields: Vec<&String> = rows[0].1.as_object().expect("fields").keys().collect();
    assert_eq!(fields, ["app", "content", "created_at", "id", "last_updated", "owner_id", "path"]);
}

#[test]
fn what_was_replaced_leaves_no_pieces_behind() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    let chunks = |add: &[&[u8]], keep| Record {
        body: Body::Chunks { keep, add: add.iter().map(|chunk| chunk.to_vec()).collect() },
        ..text_record("app", "a", "")
    };
    let mut revision = adapter.set(&chunks(CHUNKED, 0), &Expected::Absent).expect("it is written");
    for n in 0..40u32 {
        // As a log grows: what stands is kept, one small chunk is added.
        revision =
            adapter.set(&chunks(&[&n.to_le_bytes()], 2 + n), &Expected::Revision(revision)).expect("it is written");
    }
    let all = adapter.read_chunks(&RecordId::new("app", "shared", "a"), 0, 100).expect("they are there");
    assert_eq!(all.len(), 42);
    assert_eq!((all[1].as_slice(), all[41].as_slice()), (CHUNKED[1], 39u32.to_le_bytes().as_slice()));
    assert!(server.documents("file_chunks").len() <= 16, "small pieces are put together");

    adapter.delete(&RecordId::new("app", "shared", "a"), &Expected::Revision(revision)).expect("it is ours");

    assert!(server.documents("file_chunks").is_empty());
}

#[test]
fn a_content_beyond_one_commit_is_there_whole_or_not_at_all() {
    let server = Firestore::start();
    let adapter = open(&server, "never");
    let add: Vec<Vec<u8>> = (0..8u8).map(|n| vec![n; 900 * 1024]).collect();
    let record = Record { body: Body::Chunks { keep: 0, add: add.clone() }, ..text_record("app", "pack", "") };
    server.fail("commit", 1, Fault::Answer(503, "", ""));
    refused(adapter.set(&record, &Expected::Absent), ErrorKind::Unavailable, "away");
    assert!(adapter.get(&record.id()).expect("it answers").is_none());

    adapter.set(&record, &Expected::Absent).expect("it is written");

    assert!(adapter.read_chunks(&record.id(), 0, 20).expect("they are there") == add);
}
