//! The HTTP peer's other side: `larder serve` offers a project, or a plain store, to devices that were paired.
//!
//! Invariant: it serves what stands on the disk and writes only to the inbox or the store, each artifact proven; it decides nothing
//! about versions or files and holds no lock of the project, so that it runs inside `up`, beside it, or alone. Its async runtime
//! is its own and ends with it. Without TLS it listens to this machine alone, unless a person says otherwise.

mod accept;
mod bell;
pub mod desk;
mod gate;
mod guard;
mod heads;
mod house;
mod refusal;
mod routes;
mod shelf;
#[cfg(test)]
mod tests;
mod watching;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::env::Env;
use crate::transport::http::pairing::ROOTS_LINE;
use crate::transport::http::wire::SLOWEST_BYTES_PER_SECOND;
use crate::transport::http::{Plain, server_line};
pub use desk::{Desk, Device};
pub use gate::Gate;
use house::House;
pub use shelf::Shelf;

/// Where a server listens unless it is told.
pub const LISTEN: &str = "127.0.0.1:7171";
/// Blocking reads and writes at once.
const MAX_BLOCKING: usize = 32;
/// What is under way may end so long after the server was told to.
const FAREWELL: Duration = Duration::from_millis(200);

/// Called when a checkpoint came that was not there before; must not block.
pub type OnArrival = Arc<dyn Fn() + Send + Sync>;

/// What bounds a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of those, from one address.
    pub connections_of_one: usize,
    /// For a TLS handshake, and for the head of a request; an idle connection ends after it.
    pub header: Duration,
    /// For a body to begin and end, beside what its length allows.
    pub body: Duration,
    /// A body may take as long as it would at this pace.
    pub slowest_bytes_per_second: u64,
    /// For the other end to take what it asked for.
    pub write: Duration,
    /// Bytes of bodies in memory at once; at least the largest artifact.
    pub bodies_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            connections_of_one: 128,
            header: Duration::from_secs(15),
            body: Duration::from_secs(20),
            slowest_bytes_per_second: SLOWEST_BYTES_PER_SECOND,
            write: Duration::from_secs(30),
            bodies_bytes: 160 << 20,
        }
    }
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether others than this machine may speak without TLS.
    pub plain: Plain,
    /// The certificate chain and the key, each a PEM file.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Bounds.
    pub limits: Limits,
}

impl ServeOptions {
    /// Listens here, without TLS to this machine alone.
    pub fn at(listen: SocketAddr) -> ServeOptions {
        ServeOptions { listen, plain: Plain::Refused, tls: None, limits: Limits::default() }
    }

    /// Says early what would keep a server from starting: an open line, a certificate that cannot be used.
    pub fn check(&self) -> Result<(), ServeError> {
        self.read_tls().map(drop)
    }

    /// The server's side of TLS and its own certificate; `None` for a line without, which is refused beyond this machine.
    fn read_tls(&self) -> Result<Option<(ServerConfig, Vec<u8>)>, ServeError> {
        match &self.tls {
            Some((cert, key)) => read_tls(cert, key).map(Some),
            None if self.plain == Plain::Allowed || self.listen.ip().to_canonical().is_loopback() => Ok(None),
            None => Err(ServeError::Plain { listen: self.listen }),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Everybody on the way could listen.
    #[error(
        "serve at {listen}: without TLS only this machine may be served; name `--cert` and `--key`, or say `--allow-plain-http`"
    )]
    Plain {
        /// Where.
        listen: SocketAddr,
    },
    /// The address is taken, or not this machine's.
    #[error("listen at {listen}: {source}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("use {path} for TLS: {why}", path = larder_patterns::shown(&path.to_string_lossy()))]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something of the machine.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::Io { doing, source }
}

/// A running server; ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    encrypted: bool,
    house: Arc<House>,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
    watching: Vec<watching::Watching>,
}

impl Server {
    /// Starts to serve. `id` is what tokens name as their audience.
    pub fn start(
        env: &Env,
        (shelf, desk, id): (Shelf, Desk, String),
        options: &ServeOptions,
        on_arrival: OnArrival,
    ) -> Result<Server, ServeError> {
        let listen = options.listen;
        let tls = options.read_tls()?;
        let certificate = tls.as_ref().map(|(_, certificate)| &**certificate);
        let lines = vec![server_line(certificate), ROOTS_LINE.to_owned()];
        let watched = shelf.watched.clone();
        let house = House::new((env, options.limits.clone()), shelf, desk, (id, lines), on_arrival);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name("larder-serve")
            .enable_all()
            .build()
            .map_err(io("start threads to serve"))?;
        let listener =
            runtime.block_on(TcpListener::bind(listen)).map_err(|source| ServeError::Listen { listen, source })?;
        let address = listener.local_addr().map_err(|source| ServeError::Listen { listen, source })?;
        let watching = watch_over(&house, watched).map_err(io("watch for changes"))?;
        let (stop, stopped) = watch::channel(false);
        let encrypted = tls.is_some();
        let acceptor = tls.map(|(config, _)| TlsAcceptor::from(Arc::new(config)));
        runtime.spawn(accept::accept(listener, acceptor, routes::router(house.clone()), house.clone(), stopped));
        Ok(Server { address, encrypted, house, stop, runtime: Some(runtime), watching })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a peer's address, as far as this machine can tell.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.encrypted { "https" } else { "http" }, self.address)
    }

    /// A code for one more device.
    pub fn invite(&self) -> Result<String, ServeError> {
        Ok(self.house.desk.invite(&self.house.env).map_err(io("open the door for a device"))?.shown())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody listens any more: then it has ended by itself.
        let _ = self.stop.send(true);
        self.watching.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(FAREWELL);
        }
    }
}

/// Listens to the folders that others change: what is served, and the desk.
fn watch_over(house: &Arc<House>, watched: Option<(PathBuf, String)>) -> std::io::Result<Vec<watching::Watching>> {
    let mut watching = Vec::new();
    if let Some((folder, prefix)) = watched {
        let bell = house.clone();
        watching.push(watching::Watching::start(&folder, move |change| match change {
            watching::Change::Name(name) => {
                // What a checkpoint names comes before it: it alone is worth a look.
                if name.contains("/checkpoints/") {
                    bell.bell.ring_seen(&format!("{prefix}{name}"));
                }
            }
            watching::Change::Anything => bell.bell.ring_any(),
        })?);
    }
    let desk = house.clone();
    watching.push(watching::Watching::start(house.desk.folder(), move |_| desk.look_at_desk())?);
    Ok(watching)
}

/// The server's side of TLS, and its own certificate.
fn read_tls(cert: &Path, key: &Path) -> Result<(ServerConfig, Vec<u8>), ServeError> {
    let wrong = |path: &Path, why: String| ServeError::Tls { path: path.to_owned(), why };
    let open = |path: &Path| File::open(path).map_err(|error| wrong(path, error.to_string()));
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_reader_iter(open(cert)?).collect();
    let chain = chain.map_err(|error| wrong(cert, error.to_string()))?;
    let Some(own) = chain.first().map(|first| first.to_vec()) else {
        return Err(wrong(cert, "it holds no certificate".to_owned()));
    };
    let private = PrivateKeyDer::from_pem_reader(open(key)?).map_err(|error| wrong(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(cert, error.to_string()))?.with_no_client_auth();
    let config = builder.with_single_cert(chain, private).map_err(|error| wrong(key, error.to_string()))?;
    Ok((config, own))
}
