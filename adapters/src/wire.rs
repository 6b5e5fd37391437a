//! Answers over HTTP within bounds, and what is said of a line that broke; for the backends that are asked that way.
//!
//! Invariant: clients made here follow no redirect, so that a secret reaches only the host that was named; nothing that somebody else
//! said is shown but bounded and printable. Knows no service.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect};

use crate::{AdapterError, ErrorKind};

const CONNECT: Duration = Duration::from_secs(10);
/// A refusal that does not say how long to wait.
pub(crate) const USUAL_WAIT_MS: u64 = 5_000;
/// However long a service wants us to wait, we ask again after this.
const MAX_WAIT_MS: u64 = 3_600_000;
const MAX_SAID_CHARS: usize = 300;

/// A client for one service; one on this machine needs no certificates, and a machine without any must reach it.
pub(crate) fn client(is_here: bool, patience: Duration) -> Result<Client, AdapterError> {
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(patience)
        .user_agent("larder");
    let builder = if is_here { builder.no_proxy().tls_certs_only([]) } else { builder };
    builder.build().map_err(|error| {
        let why = shown(&innermost(&error));
        AdapterError::new(ErrorKind::Unavailable, format!("make an encrypted line: {why}"))
    })
}

/// True if an address does not leave this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            plain.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
        None => false,
    }
}

/// An address that a secret may be sent to: encrypted, or on this machine. The error says what is wrong, as one clause.
pub(crate) fn safe_url(name: &str, address: &str) -> Result<Url, String> {
    let url = Url::parse(address).ok().filter(Url::has_host);
    let url = url.ok_or_else(|| format!("{name} must be an address that begins with https://"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{name} holds a user or a password, which no address of this service has"));
    }
    if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) {
        return Ok(url);
    }
    Err(format!("{name} must begin with https://, or a key would cross the network in the open"))
}

/// What the head of an answer tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) code: u16,
    /// In milliseconds.
    pub(crate) retry_after_ms: Option<u64>,
    /// The host a redirect points at.
    pub(crate) redirect: Option<String>,
}

impl Head {
    pub(crate) fn of(answer: &Response) -> Head {
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let target = || {
            let target = answer.url().join(header(LOCATION)?).ok()?;
            target.host_str().map(str::to_owned)
        };
        let redirect = answer.status().is_redirection().then(|| target().unwrap_or_else(|| "nowhere".to_owned()));
        Head { code: answer.status().as_u16(), retry_after_ms: header(RETRY_AFTER).map(wait_ms), redirect }
    }

    /// What an answer without the service's own words means.
    pub(crate) fn kind(&self) -> ErrorKind {
        match (self.code, self.retry_after_ms) {
            (429, wait) => ErrorKind::Throttled { retry_after_ms: wait.unwrap_or(USUAL_WAIT_MS) },
            (500..=599, Some(retry_after_ms)) => ErrorKind::Throttled { retry_after_ms },
            (500..=599, None) => ErrorKind::Unavailable,
            (300..=399 | 401 | 403, _) => ErrorKind::Denied,
            (413, _) => ErrorKind::TooLarge,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// How long a `Retry-After` of so many seconds is; a date in it counts as the usual wait.
pub(crate) fn wait_ms(header: &str) -> u64 {
    let seconds = header.trim().parse::<u64>().ok();
    seconds.map_or(USUAL_WAIT_MS, |seconds| seconds.saturating_mul(1_000).min(MAX_WAIT_MS))
}

/// Why there is no whole answer.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    /// It is longer than was allowed, in bytes.
    TooLong(u64),
    /// The line broke, or never stood; a clause.
    Line(String),
}

impl Broken {
    pub(crate) fn early() -> Broken {
        Broken::Line("the answer ended too early".to_owned())
    }

    /// A line that could not be made or broke.
    pub(crate) fn of(error: &reqwest::Error) -> Broken {
        Broken::Line(match () {
            () if error.is_timeout() => "no answer in time".to_owned(),
            () if error.is_connect() => format!("it cannot be reached ({})", shown(&innermost(error))),
            () => format!("the line broke ({})", shown(&innermost(error))),
        })
    }
}

/// The whole body of an answer.
pub(crate) async fn body_of(mut answer: Response, max_bytes: u64) -> Result<Vec<u8>, Broken> {
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(part)) if body.len() as u64 + part.len() as u64 > max_bytes => {
                return Err(Broken::TooLong(max_bytes));
            }
            Ok(Some(part)) => body.extend_from_slice(&part),
            Ok(None) => return Ok(body),
            Err(_) => return Err(Broken::early()),
        }
    }
}

/// The cause at the bottom, which names no address.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, error) { "no reason given".to_owned() } else { cause.to_string() }
}

/// What somebody else said, fit for a line: bounded and printable.
pub(crate) fn shown(said: &str) -> String {
    let mut line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SAID_CHARS).collect();
    if line.trim().is_empty() {
        line = "no reason given".to_owned();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_to_no_address_that_is_open_or_holds_another() {
        assert!(safe_url("URL", "https://a.example").is_ok() && safe_url("URL", "http://127.0.0.1:9").is_ok());
        for wrong in [
            "http://a.example",
            "https://geheim@a.example",
            "https://a:geheim@a.example",
            "geheim",
            "mailto:geheim",
            "",
        ] {
            let why = safe_url("URL", wrong).expect_err(wrong);
            assert!(why.starts_with("URL ") && !why.contains("geheim"), "{why}");
        }
    }
}
