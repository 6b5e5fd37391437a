//! Laws of the server and of the transport that visits it, over a real line of this machine.
//!
//! Nothing sleeps: what must time out is given no time, and what must be woken is waited for with a deadline.

mod admission;
mod hostile;
mod laws;
mod pairing;
mod project;
mod slow;
mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tempfile::TempDir;

use super::*;
use crate::env::{Env, ManualClock};
use crate::ledger::Identity;
use crate::model::Hash;
use crate::transport::http::token::{Claims, Nonce};
use crate::transport::http::{Credentials, HttpTransport, Patience, pair};
use crate::transport::{MemoryPlace, Transport, TransportError, TransportErrorKind};

/// When every test begins.
const START_MS: u64 = 1_900_000_000_000;
const BIG: u64 = 1 << 30;
/// No test waits longer for what must come.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server on a free port, in a world of its own.
struct Scene {
    dir: TempDir,
    /// Kept for as long.
    dirs: Vec<TempDir>,
    env: Env,
    clock: Arc<ManualClock>,
    server: Server,
    desk: Desk,
    arrivals: Arc<AtomicUsize>,
}

/// A place that takes anything.
fn anything(place: Arc<dyn Transport>) -> Shelf {
    Shelf { place, gate: Gate::Opaque { max_bytes: 8 << 20 }, app: None, watched: None }
}

fn in_memory() -> Shelf {
    anything(Arc::new(MemoryPlace::new().visit("memory:served")))
}

fn here() -> ServeOptions {
    ServeOptions::at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn scene(shelf: Shelf) -> Scene {
    scene_with(shelf, &here())
}

fn scene_with(shelf: Shelf, options: &ServeOptions) -> Scene {
    let dir = tempfile::tempdir().expect("a folder");
    let (env, clock) = Env::fixed(START_MS, 7, "server", dir.path().join("state"));
    let desk = Desk::open(&dir.path().join("desk")).expect("a desk");
    let id = desk.server_id(&env).expect("an id");
    let arrivals = Arc::new(AtomicUsize::new(0));
    let count = arrivals.clone();
    let on_arrival: OnArrival = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let server = Server::start(&env, (shelf, desk.clone(), id), options, on_arrival).expect("it serves");
    Scene { dir, dirs: Vec::new(), env, clock, server, desk, arrivals }
}

/// A device of an owner: the same owner's devices share a home.
fn device(home: &Path, name: &str) -> Arc<Identity> {
    let seed = name.bytes().fold(11, |sum, byte| sum * 31 + u64::from(byte));
    let (env, _) = Env::fixed(START_MS, seed, name, home.join("state"));
    let identity = Identity::create(&home.join(name), &env, "me").expect("an identity");
    Arc::new(identity)
}

impl Scene {
    fn url(&self) -> String {
        self.server.url()
    }

    /// Pairs a device of the scene's own owner.
    fn paired(&self, name: &str) -> Credentials {
        self.pair(device(self.dir.path(), name)).expect("the code is right")
    }

    fn pair(&self, identity: Arc<Identity>) -> Result<Credentials, TransportError> {
        let code = self.desk.invite(&self.env).expect("a code");
        let pin = pair(&self.url(), "app", &identity, &code, Plain::Refused)?;
        Ok(Credentials { identity, pin })
    }

    fn visit(&self, credentials: &Credentials) -> Result<HttpTransport, TransportError> {
        HttpTransport::connect(&self.url(), "app", credentials.clone(), Patience::default())
    }

    /// A request by hand; the status and the rest of the answer.
    fn ask(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.server.address()).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("sets it");
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let request = format!("{head}\r\nhost: x\r\nconnection: close\r\n{length}\r\n");
        stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(body)).expect("sent");
        let mut answer = Vec::new();
        // A server that hangs up on what it refuses may do so before all of it was read.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }

    /// What a server says a token must name.
    fn epoch(&self) -> String {
        let (status, answer) = self.ask("GET /v1/app/news HTTP/1.1", b"");
        assert_eq!(status, 401, "{answer}");
        let line = answer.lines().find_map(|line| line.strip_prefix("larder-epoch: ")).expect("a challenge");
        line.to_owned()
    }

    /// Claims that are right in every way.
    fn claims(&self, credentials: &Credentials, method: &str, target: &str, body: &[u8]) -> Claims {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let iat = START_MS / 1000;
        Claims {
            aud: credentials.pin.server.clone(),
            body: Hash::of(body),
            epoch: self.epoch(),
            exp: iat + 300,
            iat,
            jti: Nonce { visitor: "0".repeat(32), number: NEXT.fetch_add(1, Ordering::SeqCst) as u64 },
            method: method.to_owned(),
            sub: credentials.identity.public_key(),
            target: target.to_owned(),
        }
    }

    fn ask_with(&self, head: (&str, &str), token: &str, body: &[u8]) -> (u16, String) {
        self.ask(&format!("{} {} HTTP/1.1\r\nauthorization: Bearer {token}", head.0, head.1), body)
    }
}

fn kind<T>(outcome: Result<T, TransportError>) -> Option<TransportErrorKind> {
    outcome.err().map(|error| error.kind)
}

/// A pack that proves itself, and its name in the store.
fn pack(chain: &str, bytes: &[u8]) -> String {
    format!("app/{chain}/packs/{}.pack", Hash::of(bytes))
}
