//! Connections: how many, how long they may take, and when they end.
//!
//! Invariant: a connection that does not say what it wants, does not take what it is given, or is cut, ends; the rest are not
//! held up by it. Every task ends with the server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::house::{House, Wire};

/// Headers of a request, in bytes and in number: a token and a target of the longest name fit.
const MAX_HEAD_BYTES: usize = 48 << 10;
const MAX_HEADERS: usize = 64;
/// After a failure to accept (no more file handles) nothing is accepted for so long.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop` says so.
pub async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    house: Arc<House>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Beyond the bound a connection is closed at once.
        let Some(wire) = house.connect(from.ip()) else { continue };
        let (tls, router, house) = (tls.clone(), router.clone(), house.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve(stream, from, tls, router, &house, wire.clone()) => {}
                () = wire.cut() => tracing::info!(%from, "a connection of a revoked device was ended"),
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    house: &House,
    wire: Arc<Wire>,
) {
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    let stream = Patient::new(stream, house.limits.write);
    let outcome = match tls {
        None => drive(stream, router, house, wire).await,
        Some(tls) => match tokio::time::timeout(house.limits.header, tls.accept(stream)).await {
            Ok(Ok(stream)) => drive(stream, router, house, wire).await,
            _ => return tracing::debug!(%from, "no TLS handshake"),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(%from, %error, "a connection ended");
    }
}

async fn drive<S>(stream: S, router: Router, house: &House, wire: Arc<Wire>) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router.layer(Extension(wire)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(house.limits.header);
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    builder.serve_connection(TokioIo::new(stream), service).await
}

/// A stream whose other end must take what it is given.
struct Patient<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Patient<S> {
        Patient { stream, patience, stalled: None }
    }

    /// Passes on what was written; a write that waits for too long is an error.
    fn hurry<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.hurry(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.hurry(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.hurry(cx, shut)
    }
}
