//! A strict stand-in for Google Cloud Storage, as its XML interface is documented: buckets of objects with generations, tokens of a
//! service account, and conditions of puts. It is itself checked by Google's own client (`gcs.rs`).
//!
//! Invariants: one request is answered at a time; what it accepts, the service accepts: a header or a part of a query that the
//! documentation does not have for a call is refused. Deliberately absent: uploads in parts, versions of objects, access lists.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use md5::{Digest, Md5};

use crate::firestore_server::request::{Lines, Request, decoded};
use crate::firestore_server::token::ServiceAccount;

/// The bucket that exists.
pub const BUCKET: &str = "lab-bucket";
/// What the token service gives for an assertion.
const TOKEN: &str = "ya29.geheim";
/// What the service lists at most, whatever is asked for.
const MAX_KEYS: usize = 1000;
const CREATED: &str = "2026-01-02T03:04:05.678Z";
const CREATED_HTTP: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
/// What a client may ask for; the service takes no others for these calls.
const LIST_QUERY: [&str; 8] =
    ["list-type", "prefix", "delimiter", "max-keys", "start-after", "continuation-token", "marker", "fetch-owner"];

struct Object {
    bytes: Vec<u8>,
    generation: u64,
}

struct House {
    account: ServiceAccount,
    revoked: bool,
    objects: BTreeMap<String, Object>,
    generations: u64,
}

/// A running stand-in; ends with its handle.
pub struct CloudStorage {
    lines: Lines,
    house: Arc<Mutex<House>>,
}

fn lock(house: &Mutex<House>) -> MutexGuard<'_, House> {
    house.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CloudStorage {
    /// Starts one with an empty bucket.
    pub fn start() -> CloudStorage {
        let house = House { account: ServiceAccount::new(), revoked: false, objects: BTreeMap::new(), generations: 0 };
        let house = Arc::new(Mutex::new(house));
        let inside = Arc::clone(&house);
        let lines = Lines::accept(move |line, _| serve(line, &inside));
        CloudStorage { lines, house }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.lines.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.lines.address.port()
    }

    /// The text of the file of the account that may read and write.
    pub fn account_file(&self) -> String {
        lock(&self.house).account.file("lab", &self.token_url())
    }

    /// Where tokens are given.
    pub fn token_url(&self) -> String {
        format!("{}/token", self.url())
    }

    /// The account may do nothing any more, or everything again.
    pub fn set_revoked(&self, revoked: bool) {
        lock(&self.house).revoked = revoked;
    }

    /// The keys that stand in the bucket, in order.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.house).objects.keys().cloned().collect()
    }

    /// An object's bytes.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        lock(&self.house).objects.get(key).map(|object| object.bytes.clone())
    }
}

/// What is answered: a status, headers and a body.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    fn xml(status: u16, body: String) -> Answer {
        let answer = Answer::new(status).with("Content-Type", "application/xml; charset=UTF-8");
        Answer { body: format!("<?xml version='1.0' encoding='UTF-8'?>{body}").into_bytes(), ..answer }
    }

    fn refusal(status: u16, code: &str, message: &str) -> Answer {
        Answer::xml(status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
    }
}

fn serve(line: &TcpStream, house: &Mutex<House>) -> io::Result<()> {
    line.set_nodelay(true)?;
    let mut reader = BufReader::new(line.try_clone()?);
    let mut writer = line;
    while let Some(request) = Request::read(&mut reader)? {
        let answer = lock(house).answer(&request);
        let mut head = format!("HTTP/1.1 {} -\r\n", answer.status);
        for (name, value) in &answer.headers {
            write!(head, "{name}: {value}\r\n").expect("a string");
        }
        // Of a HEAD the length says what a GET would bring.
        write!(head, "Content-Length: {}\r\n\r\n", answer.body.len()).expect("a string");
        let body: &[u8] = if request.method == "HEAD" { &[] } else { &answer.body };
        writer.write_all(&[head.as_bytes(), body].concat())?;
    }
    Ok(())
}

impl House {
    fn answer(&mut self, request: &Request) -> Answer {
        if request.path == ["token"] && request.method == "POST" {
            return self.give_token(request);
        }
        if let Some(refusal) = self.refused(request) {
            return refusal;
        }
        let (bucket, key) = request.path.split_first().expect("a path has a part");
        let key = key.join("/");
        if bucket != BUCKET {
            return Answer::refusal(404, "NoSuchBucket", "The specified bucket does not exist.");
        }
        match (request.method.as_str(), key.is_empty()) {
            ("GET", true) => self.list(request),
            ("GET" | "HEAD", false) => self.get(request, &key),
            ("PUT", false) => self.put(request, key),
            ("DELETE", false) => self.delete(request, &key),
            _ => Answer::refusal(405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
        }
    }

    fn give_token(&self, request: &Request) -> Answer {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        let field = |wanted: &str| pairs.clone().find(|(name, _)| *name == wanted).map(|(_, value)| decoded(value));
        let is_grant = field("grant_type").is_some_and(|grant| grant.ends_with(":jwt-bearer"));
        let claims = self.account.claims(&field("assertion").unwrap_or_default(), 0);
        if !is_grant || claims.is_err() {
            let body = br#"{"error":"invalid_grant","error_description":"Invalid JWT."}"#.to_vec();
            return Answer { body, ..Answer::new(400).with("Content-Type", "application/json") };
        }
        let body = serde_json::json!({ "access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer" });
        Answer { body: body.to_string().into_bytes(), ..Answer::new(200).with("Content-Type", "application/json") }
    }

    /// Who may not, is told so: without a token, with one that is none, or of an account that was taken away.
    fn refused(&self, request: &Request) -> Option<Answer> {
        let Some(token) = request.bearer() else {
            return Some(Answer::refusal(403, "AccessDenied", "Access denied."));
        };
        // A token that the account's key signed itself is as good as one that was given for it.
        let scoped = |claims: serde_json::Value| {
            let scopes = claims["scope"].as_str().unwrap_or_default().to_owned();
            claims.get("aud").is_none() && scopes.split(' ').any(|scope| scope.ends_with("/auth/cloud-platform"))
        };
        let is_good = token == TOKEN || self.account.claims(token, 0).is_ok_and(scoped);
        if !is_good {
            return Some(Answer::refusal(401, "AuthenticationRequired", "Authentication required."));
        }
        self.revoked.then(|| Answer::refusal(403, "AccessDenied", "Access denied."))
    }

    fn put(&mut self, request: &Request, key: String) -> Answer {
        if let Some(refusal) = unknown_query(request, &[]) {
            return refusal;
        }
        if request.header("content-length").is_none() {
            return Answer::refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.");
        }
        // Conditions on an ETag are for reading alone.
        if request.header("if-none-match").is_some() || request.header("if-match").is_some() {
            return Answer::refusal(400, "InvalidArgument", "Invalid argument.");
        }
        let told = request.header("content-md5");
        if told.is_some_and(|told| told != data_encoding::BASE64.encode(&Md5::digest(&request.body))) {
            return Answer::refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received.");
        }
        let stands = self.objects.get(&key).map_or(0, |object| object.generation);
        match request.header("x-goog-if-generation-match").map(str::parse::<u64>) {
            Some(Err(_)) => return Answer::refusal(400, "InvalidArgument", "Invalid argument."),
            Some(Ok(wanted)) if wanted != stands => {
                let message = "At least one of the pre-conditions you specified did not hold.";
                return Answer::refusal(412, "PreconditionFailed", message);
            }
            _ => {}
        }
        self.generations += 1;
        let object = Object { bytes: request.body.clone(), generation: 1_767_323_045_678_000 + self.generations };
        let answer = described(Answer::new(200), &object);
        self.objects.insert(key, object);
        answer
    }

    fn get(&self, request: &Request, key: &str) -> Answer {
        if let Some(refusal) = unknown_query(request, &["generation"]) {
            return refusal;
        }
        let asked = request.asked("generation");
        let is_asked = |object: &&Object| asked.is_none_or(|asked| *asked == object.generation.to_string());
        let Some(object) = self.objects.get(key).filter(is_asked) else {
            return Answer::refusal(404, "NoSuchKey", "The specified key does not exist.");
        };
        let length = object.bytes.len();
        let whole = described(Answer::new(200), object)
            .with("Last-Modified", CREATED_HTTP)
            .with("x-goog-stored-content-encoding", "identity")
            .with("x-goog-stored-content-length", length.to_string())
            .with("Content-Type", "application/octet-stream");
        let Some(range) = request.header("range") else { return Answer { body: object.bytes.clone(), ..whole } };
        let ends = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let (Some(first), last) = (ends.and_then(|(first, _)| first.parse::<usize>().ok()), ends.map(|(_, last)| last))
        else {
            return Answer::refusal(416, "InvalidRange", "The requested range cannot be satisfied.");
        };
        let last = last.and_then(|last| last.parse::<usize>().ok()).unwrap_or(usize::MAX).min(length.saturating_sub(1));
        if first >= length || last < first {
            return Answer::refusal(416, "InvalidRange", "The requested range cannot be satisfied.");
        }
        let part = whole.with("Content-Range", format!("bytes {first}-{last}/{length}"));
        Answer { status: 206, body: object.bytes[first..=last].to_vec(), ..part }
    }

    fn delete(&mut self, request: &Request, key: &str) -> Answer {
        if let Some(refusal) = unknown_query(request, &["generation"]) {
            return refusal;
        }
        match self.objects.remove(key) {
            Some(_) => Answer::new(204),
            None => Answer::refusal(404, "NoSuchKey", "The specified key does not exist."),
        }
    }

    fn list(&self, request: &Request) -> Answer {
        if let Some(refusal) = unknown_query(request, &LIST_QUERY) {
            return refusal;
        }
        let is_newer = request.asked("list-type") == Some("2");
        let of_either = if is_newer { ["marker", ""] } else { ["start-after", "continuation-token"] };
        if of_either.iter().any(|name| request.asked(name).is_some()) {
            return Answer::refusal(400, "InvalidArgument", "Invalid argument.");
        }
        let wanted = request.asked("max-keys").map_or(Ok(MAX_KEYS), str::parse::<usize>);
        let Ok(wanted @ 1..) = wanted else { return Answer::refusal(400, "InvalidArgument", "Invalid argument.") };
        let (prefix, delimiter) = (request.asked("prefix").unwrap_or(""), request.asked("delimiter").unwrap_or(""));
        let token = request.asked("continuation-token").and_then(|token| token.strip_prefix("t:"));
        let after = token.or_else(|| request.asked("start-after")).or_else(|| request.asked("marker"));
        let page = self.page(prefix, delimiter, after, wanted.min(MAX_KEYS));
        let mut said = format!("<Name>{BUCKET}</Name><Prefix>{}</Prefix>", escaped(prefix));
        let next = page.last.filter(|_| page.more).map(|last| escaped(&last));
        write!(said, "<IsTruncated>{}</IsTruncated>", next.is_some()).expect("a string");
        match next {
            Some(next) if is_newer => {
                write!(said, "<NextContinuationToken>t:{next}</NextContinuationToken>").expect("a string");
            }
            Some(next) => write!(said, "<NextMarker>{next}</NextMarker>").expect("a string"),
            None => {}
        }
        if is_newer {
            write!(said, "<KeyCount>{}</KeyCount>", page.count).expect("a string");
        }
        let namespace = "http://doc.s3.amazonaws.com/2006-03-01";
        Answer::xml(200, format!("<ListBucketResult xmlns='{namespace}'>{said}{}</ListBucketResult>", page.entries))
    }

    /// Keys in the order of their bytes, those below one folder as that folder, once.
    fn page(&self, prefix: &str, delimiter: &str, after: Option<&str>, wanted: usize) -> Page {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_owned()));
        let mut page = Page::default();
        for (key, object) in self.objects.range::<String, _>((start, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            let folder = rest.find(delimiter).filter(|_| !delimiter.is_empty()).map(|at| at + delimiter.len());
            let folder = folder.map(|end| &key[..prefix.len() + end]);
            if let Some(folder) = folder
                && [page.last.as_deref(), after].into_iter().flatten().any(|last| last.starts_with(folder))
            {
                continue;
            }
            if page.count == wanted {
                page.more = true;
                break;
            }
            page.count += 1;
            page.last = Some(folder.unwrap_or(key).to_owned());
            let entry = match folder {
                Some(folder) => format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(folder)),
                None => listed(key, object),
            };
            page.entries.push_str(&entry);
        }
        page
    }
}

#[derive(Default)]
struct Page {
    entries: String,
    count: usize,
    last: Option<String>,
    more: bool,
}

fn listed(key: &str, object: &Object) -> String {
    let (key, generation, size) = (escaped(key), object.generation, object.bytes.len());
    let etag = etag(object);
    format!(
        "<Contents><Key>{key}</Key><Generation>{generation}</Generation><MetaGeneration>1</MetaGeneration><LastModified>{CREATED}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
    )
}

/// The MD5 of the bytes, as the service tells of what came in one piece.
fn etag(object: &Object) -> String {
    format!("\"{}\"", data_encoding::HEXLOWER.encode(&Md5::digest(&object.bytes)))
}

fn described(answer: Answer, object: &Object) -> Answer {
    let answer = answer.with("ETag", etag(object)).with("x-goog-generation", object.generation.to_string());
    answer.with("x-goog-metageneration", "1")
}

fn unknown_query(request: &Request, known: &[&str]) -> Option<Answer> {
    let is_known = |(name, _): &(String, String)| known.contains(&name.as_str());
    (!request.query.iter().all(is_known)).then(|| Answer::refusal(400, "InvalidArgument", "Invalid argument."))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
