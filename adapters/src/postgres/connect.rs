//! One connection: opened as `sslmode` says, looked at once, and let go when it is lost.
//!
//! Invariant: statements are never prepared by name and no setting outlives a transaction, so that a pooler in transaction mode
//! between us and the server changes nothing.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::Failure;
use super::settings::{Settings, SslWish};
use super::{schema, tls};
use crate::{AdapterError, ErrorKind};

/// A server that can be connected to.
pub(super) struct Server {
    pub settings: Settings,
    tls: MakeRustlsConnect,
    wait: Duration,
}

type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
pub(super) type Line = (Client, Connection<Socket, Stream>);

/// A connection that is in use, and what drives it.
pub(super) struct Session {
    pub client: Client,
    /// Names this very database; a part of every revision and cursor.
    pub facts: schema::Facts,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Server {
    pub fn new(settings: Settings, wait_ms: u64) -> Result<Server, AdapterError> {
        let tls = tls::connector(&settings)?;
        let wait = settings.connect_timeout.unwrap_or(Duration::from_millis(wait_ms.max(1)));
        Ok(Server { settings, tls, wait })
    }

    /// How long an answer is waited for before a row lock is given up, in milliseconds.
    pub fn wait_ms(&self) -> u128 {
        self.wait.as_millis()
    }

    /// Opens a connection, in the order of attempts that `sslmode` means.
    pub async fn connect(&self) -> Result<Line, Failure> {
        let attempts: &[SslMode] = match self.settings.ssl {
            _ if self.settings.is_local_socket() => &[SslMode::Disable],
            SslWish::Disable => &[SslMode::Disable],
            SslWish::Allow => &[SslMode::Disable, SslMode::Require],
            SslWish::Prefer => &[SslMode::Prefer, SslMode::Disable],
            _ => &[SslMode::Require],
        };
        let mut failure = None;
        for mode in attempts {
            match self.attempt(*mode).await {
                Ok(line) => return Ok(line),
                // A wrong password is not made right by another line, and locks accounts.
                Err(found) if found.kind == ErrorKind::Denied && found.code.as_deref() != Some("28000") => {
                    return Err(found);
                }
                Err(found) => failure = failure.or(Some(found)),
            }
        }
        Err(failure.unwrap_or_else(|| Failure::lost("no attempt was made")))
    }

    async fn attempt(&self, mode: SslMode) -> Result<Line, Failure> {
        let mut config = self.settings.config.clone();
        config.ssl_mode(mode);
        match tokio::time::timeout(self.wait, config.connect(self.tls.clone())).await {
            Ok(line) => Ok(line?),
            Err(_) => Err(Failure::lost(format!("it did not answer within {} ms", self.wait.as_millis()))),
        }
    }

    /// Opens a session: a connection to a database whose schema is ours and up to date.
    pub async fn session(&self) -> Result<Session, Failure> {
        let (client, connection) = self.connect().await?;
        let driver = tokio::spawn(async move {
            // How it ended is told to whoever asks next.
            let _ = connection.await;
        });
        let mut session = Session { client, facts: schema::Facts::default(), driver };
        session.facts = schema::ensure(&session.client).await?;
        Ok(session)
    }
}
