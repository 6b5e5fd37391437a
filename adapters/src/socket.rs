//! A WebSocket to one service, for the backends that are told of changes over one.
//!
//! Invariant: it goes to the host that was named and nowhere else, over TLS or to this machine; a redirect is no socket. No message takes more
//! memory than its bound, and no failure repeats the address, which may hold a key. Knows no service.

use std::sync::Arc;

use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::wire::shown;

/// The longest message, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// What a socket goes over: TLS, or a plain line on this machine.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// An open socket.
pub(crate) type Socket = WebSocketStream<Box<dyn Wire>>;

/// Opens the socket at an address whose scheme is `https` or `http`; `tls` is asked for with the former alone.
///
/// Errors: a clause without the address.
pub(crate) async fn open(address: &Url, tls: impl FnOnce() -> Arc<ClientConfig>) -> Result<Socket, String> {
    let is_tls = address.scheme() == "https";
    let host = address.host_str().ok_or("its address names no host")?.trim_matches(['[', ']']).to_owned();
    let port = address.port_or_known_default().ok_or("its address names no port")?;
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| shown(&error.to_string()))?;
    // Small messages that somebody waits for.
    let _ = tcp.set_nodelay(true);
    let wire: Box<dyn Wire> = if is_tls { Box::new(encrypted(host, tcp, tls()).await?) } else { Box::new(tcp) };
    let rest = address.as_str().split_once("://").map_or("", |(_, rest)| rest);
    let request = format!("{}://{rest}", if is_tls { "wss" } else { "ws" });
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    match client_async_with_config(request, wire, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => Err(format!("the handshake was refused, HTTP {}", answer.status().as_u16())),
        Err(_) => Err("the handshake was refused".to_owned()),
    }
}

async fn encrypted(
    host: String,
    tcp: TcpStream,
    tls: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host).map_err(|_| "its host has no name")?;
    TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| shown(&error.to_string()))
}

/// TLS with the machine's own roots.
pub(crate) fn tls() -> ClientConfig {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what its own defaults need")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
