//! The stand-in as an HTTP/1.1 server on this machine alone: routes, tokens, counters, and faults on demand.
//!
//! Invariant: one request is answered at a time, so that a test sees one order of things; the server ends with its handle.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::query::Asked;
use super::request::{Lines, Request, decoded};
use super::store::{Answer, Refusal, State, Store, invalid, known, shown, time_text};
use super::token::ServiceAccount;

const MAX_REQUEST_BYTES: usize = 10 * 1024 * 1024;
/// The project that exists; asking for any other is forbidden.
pub const PROJECT: &str = "lab";

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This is answered instead: code, one more header, body.
    Answer(u16, &'static str, &'static str),
    /// The answer breaks off in its middle; what was asked for is done.
    Truncated,
    /// The line breaks before anything is done.
    Lost,
}

struct Planned {
    verb: &'static str,
    /// So many go well before.
    skip: usize,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct House {
    store: Store,
    requests: Vec<String>,
    documents_read: usize,
    faults: Vec<Planned>,
    /// Names of tokens that are good; empty if everybody is believed.
    tokens: BTreeSet<String>,
    account: Option<ServiceAccount>,
    tokens_given: usize,
    token_secs: u64,
    clock_ahead_secs: i64,
}

/// A running stand-in.
pub struct Firestore {
    lines: Lines,
    house: Arc<Mutex<House>>,
}

fn lock(house: &Mutex<House>) -> MutexGuard<'_, House> {
    house.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Firestore {
    /// Starts one that believes everybody, as an emulator does.
    pub fn start() -> Firestore {
        let house = Arc::new(Mutex::new(House::default()));
        let inside = Arc::clone(&house);
        let lines = Lines::accept(move |line, over| serve(line, &inside, over));
        Firestore { lines, house }
    }

    /// Starts one that wants tokens of a service account, and gives them.
    pub fn start_with_account() -> Firestore {
        let server = Firestore::start();
        let mut house = lock(&server.house);
        house.account = Some(ServiceAccount::new());
        house.token_secs = 3_600;
        drop(house);
        server
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.lines.address.to_string()
    }

    /// The text of the account's file.
    pub fn account_file(&self) -> String {
        let house = lock(&self.house);
        let account = house.account.as_ref().expect("it was started with an account");
        account.file(PROJECT, &format!("http://{}/token", self.lines.address))
    }

    /// The next `times` requests of a verb (`commit`, `runQuery`, `token`; empty for any) go wrong.
    pub fn fail(&self, verb: &'static str, times: usize, fault: Fault) {
        self.fail_after(verb, 0, times, fault);
    }

    /// The same, after so many of them went well.
    pub fn fail_after(&self, verb: &'static str, skip: usize, times: usize, fault: Fault) {
        lock(&self.house).faults.push(Planned { verb, skip, left: times, fault });
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        lock(&self.house).faults.clear();
    }

    /// Tokens are given for so many seconds from now on, and those that were given are good no more.
    pub fn revoke_tokens(&self, token_secs: u64) {
        let mut house = lock(&self.house);
        house.tokens.clear();
        house.token_secs = token_secs;
    }

    pub fn tokens_given(&self) -> usize {
        lock(&self.house).tokens_given
    }

    /// The service's clock goes on by so much.
    pub fn advance_ms(&self, ms: u64) {
        lock(&self.house).store.ahead_ns += ms * 1_000_000;
    }

    /// The clock of the token service is ahead of this machine's.
    pub fn set_clock_ahead_secs(&self, secs: i64) {
        lock(&self.house).clock_ahead_secs = secs;
    }

    /// Stamps lie so far behind their commits from now on.
    pub fn set_stamp_lag_ms(&self, ms: u64) {
        lock(&self.house).store.stamp_lag_ns = ms * 1_000_000;
    }

    /// The verbs that were asked since the last call, and how many documents were read for them.
    pub fn take_counts(&self) -> (Vec<String>, usize) {
        let mut house = lock(&self.house);
        let read = std::mem::take(&mut house.documents_read);
        (std::mem::take(&mut house.requests), read)
    }

    /// Commits writes as any other program would, past the counters.
    pub fn commit(&self, writes: &[Value]) {
        lock(&self.house).store.commit(writes, None).expect("it commits");
    }

    /// The whole name of a document.
    pub fn document(&self, collection: &str, name: &str) -> String {
        format!("projects/{PROJECT}/databases/(default)/documents/{collection}/{name}")
    }

    /// The documents of a collection: names and fields.
    pub fn documents(&self, collection: &str) -> Vec<(String, Value)> {
        let parent = format!("projects/{PROJECT}/databases/(default)/documents");
        let house = lock(&self.house);
        let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let all = house.store.collection(&parent, collection, u64::MAX);
        all.map(|(name, state)| (last(name), Value::Object(state.fields.clone()))).collect()
    }
}

fn serve(line: &TcpStream, house: &Mutex<House>, over: &AtomicBool) -> std::io::Result<()> {
    line.set_nodelay(true)?;
    let mut reader = BufReader::new(line.try_clone()?);
    let mut writer = line;
    while let Some(request) = Request::read(&mut reader)? {
        if over.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut house = lock(house);
        let verb = verb_of(&request);
        house.requests.push(verb.clone());
        let fault = house.take_fault(&verb);
        let (code, header, body) = match &fault {
            Some(Fault::Lost) => return Ok(()),
            Some(Fault::Answer(code, header, body)) => (*code, (*header).to_owned(), (*body).to_owned()),
            _ => house.answer(&request, &verb),
        };
        let date = house.date();
        drop(house);
        let header = if header.is_empty() { header } else { format!("{header}\r\n") };
        let head = format!(
            "HTTP/1.1 {code} -\r\nContent-Type: application/json; charset=UTF-8\r\nDate: {date}\r\n{header}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let cut = if matches!(fault, Some(Fault::Truncated)) { body.len() / 2 } else { body.len() };
        writer.write_all(&[head.as_bytes(), &body.as_bytes()[..cut]].concat())?;
        if cut < body.len() {
            return line.shutdown(std::net::Shutdown::Both);
        }
    }
    Ok(())
}

fn verb_of(request: &Request) -> String {
    let last = request.path.last().map_or("", String::as_str);
    match (request.path.first().map(String::as_str), last.rsplit_once(':')) {
        (Some("v1"), Some((_, verb))) if request.method == "POST" => verb.to_owned(),
        (Some("v1"), _) => request.method.clone(),
        _ => last.to_owned(),
    }
}

/// Codes of the service's statuses: several share one.
fn code_of(status: &str) -> u16 {
    match status {
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" => 400,
        "UNAUTHENTICATED" => 401,
        "PERMISSION_DENIED" => 403,
        "NOT_FOUND" => 404,
        "ALREADY_EXISTS" | "ABORTED" => 409,
        "RESOURCE_EXHAUSTED" => 429,
        "UNIMPLEMENTED" => 501,
        "UNAVAILABLE" => 503,
        _ => 500,
    }
}

impl House {
    fn take_fault(&mut self, verb: &str) -> Option<Fault> {
        let is_due = |planned: &&mut Planned| planned.left > 0 && (planned.verb.is_empty() || planned.verb == verb);
        let planned = self.faults.iter_mut().find(is_due)?;
        if planned.skip > 0 {
            planned.skip -= 1;
            return None;
        }
        planned.left -= 1;
        Some(planned.fault.clone())
    }

    fn date(&self) -> String {
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(self.clock_ahead_secs);
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap_or_default()
    }

    fn answer(&mut self, request: &Request, verb: &str) -> (u16, String, String) {
        if request.path.first().is_some_and(|first| first == "token") {
            return self.give_token(request);
        }
        let streams = matches!(verb, "runQuery" | "batchGet");
        match self.route(request, verb) {
            Ok(answer) => (200, String::new(), answer.to_string()),
            Err(Refusal(status, message)) => {
                let code = code_of(status);
                let error = json!({ "error": { "code": code, "message": message, "status": status } });
                let body = if streams { json!([error]) } else { error };
                (code, String::new(), body.to_string())
            }
        }
    }

    fn give_token(&mut self, request: &Request) -> (u16, String, String) {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        let field = |wanted: &str| pairs.clone().find(|(name, _)| *name == wanted).map(|(_, value)| decoded(value));
        let refused = |why: &str| {
            let body = json!({ "error": "invalid_grant", "error_description": why });
            (400, String::new(), body.to_string())
        };
        let Some(account) = &self.account else { return refused("no account") };
        if field("grant_type").as_deref() == Some("refresh_token") {
            if field("refresh_token").as_deref() != Some("refresh-geheim") {
                return refused("Token has been expired or revoked.");
            }
        } else {
            let audience = request_audience(request);
            let assertion = field("assertion").unwrap_or_default();
            if let Err(why) = account.check(&assertion, &audience, "/datastore", self.clock_ahead_secs) {
                return refused(why);
            }
        }
        self.tokens_given += 1;
        let token = format!("ya29.token-{}", self.tokens_given);
        self.tokens.insert(token.clone());
        let body = json!({ "access_token": token, "expires_in": self.token_secs, "token_type": "Bearer" });
        (200, String::new(), body.to_string())
    }

    fn route(&mut self, request: &Request, verb: &str) -> Answer<Value> {
        if self.account.is_some() && !request.bearer().is_some_and(|token| self.tokens.contains(token)) {
            let why = "Request had invalid authentication credentials. Expected OAuth 2 access token.";
            return Err(Refusal("UNAUTHENTICATED", why.to_owned()));
        }
        if request.body.len() > MAX_REQUEST_BYTES {
            return invalid(format!("Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes."));
        }
        let body: Value = match request.body.is_empty() {
            true => json!({}),
            false => serde_json::from_slice(&request.body).or_else(|_| invalid("Invalid JSON payload received."))?,
        };
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let ["v1", "projects", project, "databases", database, first, rest @ ..] = path.as_slice() else {
            return Err(Refusal("NOT_FOUND", "Method not found.".to_owned()));
        };
        if *project != PROJECT {
            return Err(Refusal("PERMISSION_DENIED", "Missing or insufficient permissions.".to_owned()));
        }
        if *database != "(default)" {
            return Err(Refusal("NOT_FOUND", format!("The database {database} does not exist for project {PROJECT}")));
        }
        let mut names = vec![*first];
        names.extend(rest);
        let joined = names.join("/");
        let joined = if request.method == "POST" {
            joined.rsplit_once(':').map_or(joined.as_str(), |(path, _)| path)
        } else {
            &joined
        };
        let name = format!("projects/{project}/databases/{database}/{joined}");
        match verb {
            "commit" => self.commit(&body),
            "batchGet" => self.batch_get(&body),
            "runQuery" => self.run_query(&name, &body),
            "batchWrite" => self.batch_write(&body),
            "beginTransaction" => Ok(json!({ "transaction": self.store.begin() })),
            "rollback" => {
                self.store.rollback(body.get("transaction").and_then(Value::as_str).unwrap_or_default());
                Ok(json!({}))
            }
            "listCollectionIds" => Ok(json!({ "collectionIds": self.store.collections(&name) })),
            "GET" | "PATCH" | "DELETE" | "POST" => self.one(request, verb, &name, &body, rest.len()),
            _ => Err(Refusal("UNIMPLEMENTED", format!("{verb} is not known here"))),
        }
    }

    fn commit(&mut self, body: &Value) -> Answer<Value> {
        known(body, &["writes", "transaction", "database"])?;
        let writes = body.get("writes").and_then(Value::as_array).cloned().unwrap_or_default();
        self.store.commit(&writes, body.get("transaction").and_then(Value::as_str))
    }

    fn batch_write(&mut self, body: &Value) -> Answer<Value> {
        known(body, &["writes", "labels", "database"])?;
        let (mut results, mut statuses) = (Vec::new(), Vec::new());
        for write in body.get("writes").and_then(Value::as_array).into_iter().flatten() {
            match self.store.commit(std::slice::from_ref(write), None) {
                Ok(done) => {
                    results.push(done["writeResults"][0].clone());
                    statuses.push(json!({}));
                }
                Err(Refusal(status, message)) => {
                    results.push(json!({}));
                    statuses
                        .push(json!({ "code": if status == "ALREADY_EXISTS" { 6 } else { 9 }, "message": message }));
                }
            }
        }
        Ok(json!({ "writeResults": results, "status": statuses }))
    }

    /// The moment of a read, and the transaction it belongs to.
    fn consistency(&mut self, body: &Value) -> Answer<(u64, Option<String>)> {
        let read_ns = self.store.read_time(body.get("readTime").and_then(Value::as_str))?;
        let named = body.get("transaction").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
        let transaction = if body.get("newTransaction").is_some() { Some(self.store.begin()) } else { named };
        Ok((read_ns, transaction))
    }

    fn batch_get(&mut self, body: &Value) -> Answer<Value> {
        known(body, &["documents", "mask", "transaction", "newTransaction", "readTime", "database"])?;
        let (read_ns, transaction) = self.consistency(body)?;
        let mask = body.get("mask").map(mask_of);
        let mut answer = Vec::new();
        if let (Some(id), true) = (&transaction, body.get("newTransaction").is_some()) {
            answer.push(json!({ "transaction": id, "readTime": time_text(read_ns) }));
        }
        for name in body.get("documents").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if let Some(id) = &transaction {
                self.store.note_read(id, name)?;
            }
            self.documents_read += 1;
            answer.push(match self.store.state(name, read_ns) {
                Some(state) => json!({ "found": shown(name, state, mask.as_deref()), "readTime": time_text(read_ns) }),
                None => json!({ "missing": name, "readTime": time_text(read_ns) }),
            });
        }
        Ok(Value::Array(answer))
    }

    fn run_query(&mut self, parent: &str, body: &Value) -> Answer<Value> {
        known(body, &["structuredQuery", "transaction", "newTransaction", "readTime", "parent"])?;
        let (read_ns, transaction) = self.consistency(body)?;
        let asked = Asked::parse(body.get("structuredQuery").unwrap_or(&Value::Null))?;
        let found = asked.run(self.store.collection(parent, &asked.collection, read_ns));
        // A query that finds nothing is billed as one.
        self.documents_read += found.len().max(1);
        let show = |(name, state): (&String, &State)| json!({ "document": shown(name, state, asked.select.as_deref()), "readTime": time_text(read_ns) });
        let names: Vec<String> = found.iter().map(|(name, _)| (*name).clone()).collect();
        let mut answer: Vec<Value> = found.into_iter().map(show).collect();
        for name in names {
            if let Some(id) = &transaction {
                self.store.note_read(id, &name)?;
            }
        }
        if answer.is_empty() {
            answer.push(json!({ "readTime": time_text(read_ns) }));
        }
        if let Some(id) = transaction {
            answer[0]["transaction"] = json!(id);
        }
        Ok(Value::Array(answer))
    }

    /// One document by its address, or a collection's list.
    fn one(&mut self, request: &Request, verb: &str, name: &str, body: &Value, depth: usize) -> Answer<Value> {
        let parameter =
            |wanted: &str| request.query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let now = self.store.now_ns();
        let missing = || Refusal("NOT_FOUND", format!("Document \"{name}\" not found."));
        let condition = match (parameter("currentDocument.exists"), parameter("currentDocument.updateTime")) {
            (Some(exists), _) => Some(json!({ "exists": exists == "true" })),
            (None, Some(time)) => Some(json!({ "updateTime": time })),
            (None, None) => None,
        };
        let with_condition = |mut write: Value| {
            if let Some(condition) = condition {
                write["currentDocument"] = condition;
            }
            write
        };
        match (verb, depth % 2) {
            ("GET", 0) => {
                self.documents_read += 1;
                self.store.state(name, now).map(|state| shown(name, state, None)).ok_or_else(missing)
            }
            ("GET", _) => {
                let (parent, id) = name.rsplit_once('/').unwrap_or_default();
                let after = parameter("pageToken").unwrap_or_default();
                let size = parameter("pageSize").and_then(|size| size.parse().ok()).unwrap_or(20usize);
                let all = self.store.collection(parent, id, now);
                let mut rest = all.filter(|(name, _)| **name > after).peekable();
                let page: Vec<_> = rest.by_ref().take(size).collect();
                self.documents_read += page.len();
                let documents: Vec<Value> = page.iter().map(|(name, state)| shown(name, state, None)).collect();
                let mut answer = json!({ "documents": documents });
                if let (Some((last, _)), Some(_)) = (page.last(), rest.peek()) {
                    answer["nextPageToken"] = json!(last);
                }
                Ok(answer)
            }
            ("DELETE", 0) => {
                self.store.commit(&[with_condition(json!({ "delete": name }))], None)?;
                Ok(json!({}))
            }
            ("POST", 1) => {
                let id = parameter("documentId").unwrap_or_else(|| format!("auto{}", self.requests.len()));
                let name = format!("{name}/{id}");
                let update =
                    json!({ "name": name, "fields": body.get("fields").cloned().unwrap_or_else(|| json!({})) });
                self.store.commit(&[json!({ "update": update, "currentDocument": { "exists": false } })], None)?;
                self.store.state(&name, u64::MAX).map(|state| shown(&name, state, None)).ok_or_else(missing)
            }
            ("PATCH", 0) => {
                let update =
                    json!({ "name": name, "fields": body.get("fields").cloned().unwrap_or_else(|| json!({})) });
                let masked: Vec<&String> = request
                    .query
                    .iter()
                    .filter(|(name, _)| name == "updateMask.fieldPaths")
                    .map(|(_, value)| value)
                    .collect();
                let mut write = with_condition(json!({ "update": update }));
                if !masked.is_empty() {
                    write["updateMask"] = json!({ "fieldPaths": masked });
                }
                self.store.commit(&[write], None)?;
                self.store.state(name, u64::MAX).map(|state| shown(name, state, None)).ok_or_else(missing)
            }
            _ => Err(Refusal("NOT_FOUND", "Method not found.".to_owned())),
        }
    }
}

fn mask_of(mask: &Value) -> Vec<String> {
    let paths = mask.get("fieldPaths").and_then(Value::as_array).into_iter().flatten();
    paths.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn request_audience(request: &Request) -> String {
    // The address under which the token service was named in the account's file.
    let body = String::from_utf8_lossy(&request.body);
    let assertion = body.split('&').find_map(|pair| pair.strip_prefix("assertion=")).map(decoded).unwrap_or_default();
    let claims =
        assertion.split('.').nth(1).and_then(|part| data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).ok());
    let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let audience = claims.and_then(|claims| claims.get("aud")?.as_str().map(str::to_owned)).unwrap_or_default();
    if audience.ends_with("/token") { audience } else { String::new() }
}
