//! The line to one server: requests with deadlines, answers within bounds, and the words of a failure.
//!
//! Invariant: no answer takes more memory than it was allowed; redirects are not followed; a token is made for one request and sent
//! in a header alone; what answers without saying that it is a Larder is not believed. Drives nothing itself.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};

use super::super::{TransportError, TransportErrorKind};
use super::tls::{self, Belief, Seen};
use super::token::{self, Claims, LIFETIME_SECONDS, Nonce};
use super::{Credentials, wire};
use crate::model::Hash;

/// An idle connection is given up before the server does.
const IDLE: Duration = Duration::from_secs(8);
/// A refusal that does not say how long to wait.
const USUAL_WAIT_MS: u64 = 5_000;
const MAX_WAIT_SECONDS: u64 = 3_600;
/// A server whose clock is so far from where it was believed to be had it set.
const CLOCK_MOVED_MS: u64 = 10_000;

/// How long to wait for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For a connection, in milliseconds.
    pub connect_ms: u64,
    /// For the next byte of an answer, in milliseconds.
    pub read_ms: u64,
    /// A body has the time that it takes at this pace, beside that.
    pub slowest_bytes_per_second: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        // Longer than the server lets a question for news rest.
        Patience {
            connect_ms: 10_000,
            read_ms: wire::MAX_NEWS_WAIT_MS + 10_000,
            slowest_bytes_per_second: wire::SLOWEST_BYTES_PER_SECOND,
        }
    }
}

impl Patience {
    fn read(&self) -> Duration {
        Duration::from_millis(self.read_ms)
    }

    /// Until an answer begins: it does after all of the question came.
    fn answer(&self, body_bytes: usize) -> Duration {
        let body_ms = (body_bytes as u64).saturating_mul(1000) / self.slowest_bytes_per_second.max(1);
        self.read() + Duration::from_millis(body_ms)
    }
}

/// Where a server is: `http://` or `https://`, a host and a port, and nothing behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    url: Url,
}

impl Site {
    /// Reads an address. Errors: what is wrong with it, as one clause.
    pub fn parse(address: &str) -> Result<Site, String> {
        let url = Url::parse(address).map_err(|error| error.to_string())?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("it must be `http://HOST:PORT` or `https://HOST:PORT`".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("no user or password belongs into it: a device is paired".to_owned());
        }
        if !bare {
            return Err("nothing may follow the port: the project's name is known".to_owned());
        }
        Ok(Site { url })
    }

    /// Scheme, host and port, in one spelling.
    pub fn address(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// True if the line is encrypted, or does not leave this machine.
    pub fn is_safe(&self) -> bool {
        let here = match self.url.host_str() {
            Some("localhost") => true,
            Some(host) => {
                let plain = host.trim_start_matches('[').trim_end_matches(']');
                plain.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
            None => false,
        };
        here || self.url.scheme() == "https"
    }
}

/// A request.
pub(super) struct Question<'a> {
    pub action: &'static str,
    /// What it is about, for people.
    pub name: &'a str,
    pub method: Method,
    pub target: String,
    /// The first byte that is wanted and the last, both included.
    pub range: Option<(u64, u64)>,
    pub body: Option<&'a [u8]>,
    /// The answer's bytes that are taken.
    pub max_bytes: u64,
}

impl<'a> Question<'a> {
    pub fn get(action: &'static str, name: &'a str, target: String, max_bytes: u64) -> Question<'a> {
        Question { action, name, method: Method::GET, target, range: None, body: None, max_bytes }
    }

    fn error(&self, kind: TransportErrorKind, detail: impl Into<String>) -> TransportError {
        TransportError::new(kind, self.action, self.name, detail)
    }
}

/// What the server said last about itself.
struct Session {
    epoch: String,
    /// Its clock, and ours at that moment.
    now_ms: u64,
    heard: Instant,
}

/// One visitor's line.
pub(super) struct Line {
    client: Client,
    site: Site,
    patience: Patience,
    credentials: Option<Credentials>,
    visitor: String,
    requests: Mutex<u64>,
    session: Mutex<Option<Session>>,
}

impl Line {
    pub fn new(
        site: Site,
        credentials: Option<Credentials>,
        (belief, seen): (Belief, Seen),
        patience: Patience,
    ) -> Result<Line, TransportError> {
        let address = site.address();
        let failed = |detail: String| TransportError::new(TransportErrorKind::Unavailable, "open", &address, detail);
        // Not the client's own limit for reading: it would run while a body is still being sent.
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config(belief, seen))
            .redirect(redirect::Policy::none())
            .http1_only()
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE)
            .connect_timeout(Duration::from_millis(patience.connect_ms));
        // What is sent and not taken for so long: the other end is gone.
        #[cfg(target_os = "linux")]
        let client = client.tcp_user_timeout(patience.read());
        let client = client.build().map_err(|error| failed(chain(&error)))?;
        let mut visitor = [0; 16];
        getrandom::fill(&mut visitor).map_err(|error| failed(error.to_string()))?;
        let visitor = data_encoding::HEXLOWER.encode(&visitor);
        Ok(Line { client, site, patience, credentials, visitor, requests: Mutex::new(0), session: Mutex::new(None) })
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Asks, and adds the answer's body to `kept`, which holds what came of it also after an error.
    pub async fn ask(&self, question: &Question<'_>, kept: &mut Vec<u8>) -> Result<StatusCode, TransportError> {
        let (epoch, began) = (self.epoch(), Instant::now());
        let sent = self.send(question, epoch.as_deref()).await;
        let response = match sent {
            Ok(response) => response,
            // Who restarted answers before a body is read, and hangs up: the next epoch makes the difference.
            Err(error) if question.body.is_some() && began.elapsed() < self.patience.read() => {
                self.learn_epoch(question).await.map_err(|_| error)?;
                self.send(question, self.epoch().as_deref()).await?
            }
            Err(error) => return Err(error),
        };
        if response.status() == StatusCode::UNAUTHORIZED && self.learn(response.headers()) {
            let again = self.send(question, self.epoch().as_deref()).await?;
            return self.read(question, again, kept).await;
        }
        self.read(question, response, kept).await
    }

    /// Finds out the server's epoch by a request without a body.
    async fn learn_epoch(&self, question: &Question<'_>) -> Result<(), TransportError> {
        let empty = Question::get(question.action, question.name, question.target.clone(), wire::MAX_WORD_BYTES);
        let response = self.send(&empty, None).await?;
        self.learn(response.headers());
        Ok(())
    }

    async fn send(&self, question: &Question<'_>, epoch: Option<&str>) -> Result<Response, TransportError> {
        let url = format!("{}{}", self.site.address(), question.target);
        let mut request = self.client.request(question.method.clone(), url);
        if let Some(token) = epoch.and_then(|epoch| self.token(question, epoch)) {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some((first, last)) = question.range {
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        if let Some(body) = question.body {
            // Said also of an empty one.
            request = request.header(CONTENT_LENGTH, body.len()).body(body.to_vec());
        }
        let limit = self.patience.answer(question.body.map_or(0, <[u8]>::len));
        let sent = in_time(question, limit, request.send()).await?;
        let response = sent.map_err(|error| self.unanswered(question, error))?;
        let speaks = response.headers().get(wire::SPEAKS_HEADER).is_some_and(|value| value == wire::SPEAKS);
        match response.status() {
            _ if speaks => Ok(response),
            status if status.is_redirection() => {
                let detail = "it redirects elsewhere, which is not followed: name that address itself";
                Err(question.error(TransportErrorKind::Unsupported, detail))
            }
            status
                if status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::PAYLOAD_TOO_LARGE].contains(&status) =>
            {
                Err(question.error(kind_of(status, response.headers()), format!("something before it says {status}")))
            }
            _ => Err(question.error(TransportErrorKind::Unsupported, "what answers there is no `larder serve`")),
        }
    }

    /// Why no answer came; who is there and is not believed is no line that broke.
    fn unanswered(&self, question: &Question<'_>, error: reqwest::Error) -> TransportError {
        let Some(why) = doubts(&error) else { return broken(question, error) };
        let pinned = self.credentials.as_ref().is_some_and(|credentials| credentials.pin.certificate.is_some());
        let shows = if pinned {
            "it shows another certificate than when this device was paired with it, and no root of this machine vouches for that one"
        } else {
            "no root of this machine vouches for the certificate that it shows"
        };
        let detail = format!(
            "{shows} ({why}): if it was given a new one, `larder peers pair NAME` with a code of its makes that one known; if not, somebody else answers there"
        );
        question.error(TransportErrorKind::Unavailable, detail).with_source(error.without_url())
    }

    /// A token for this request, marked as not to be shown; `None` for a line without a device.
    fn token(&self, question: &Question<'_>, epoch: &str) -> Option<HeaderValue> {
        let credentials = self.credentials.as_ref()?;
        let number = {
            let mut requests = lock(&self.requests);
            *requests += 1;
            *requests
        };
        let iat = self.server_now_ms()? / 1000;
        let claims = Claims {
            aud: credentials.pin.server.clone(),
            body: Hash::of(question.body.unwrap_or_default()),
            epoch: epoch.to_owned(),
            exp: iat + LIFETIME_SECONDS,
            iat,
            jti: Nonce { visitor: self.visitor.clone(), number },
            method: question.method.as_str().to_owned(),
            sub: credentials.identity.public_key(),
            target: question.target.clone(),
        };
        let token = token::mint(credentials.identity.signing_key(), &claims);
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn epoch(&self) -> Option<String> {
        lock(&self.session).as_ref().map(|session| session.epoch.clone())
    }

    /// The server's clock: a clock of ours that is wrong makes no token worthless.
    fn server_now_ms(&self) -> Option<u64> {
        let session = lock(&self.session);
        session.as_ref().map(|session| session.now_ms.saturating_add(session.heard.elapsed().as_millis() as u64))
    }

    /// Takes over what a refusal says of the server. True if that was not known, so that another token may be good.
    fn learn(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let now_ms = text(wire::NOW_HEADER).and_then(|text| text.parse::<u64>().ok());
        let (Some(epoch), Some(now_ms)) = (text(wire::EPOCH_HEADER), now_ms) else { return false };
        let believed_ms = self.server_now_ms();
        let mut session = lock(&self.session);
        let same = session.as_ref().is_some_and(|session| session.epoch == epoch);
        *session = Some(Session { epoch: epoch.to_owned(), now_ms, heard: Instant::now() });
        !same || believed_ms.is_none_or(|believed_ms| believed_ms.abs_diff(now_ms) > CLOCK_MOVED_MS)
    }

    /// Reads the whole answer; a refusal becomes an error.
    async fn read(
        &self,
        question: &Question<'_>,
        mut response: Response,
        kept: &mut Vec<u8>,
    ) -> Result<StatusCode, TransportError> {
        let status = response.status();
        if !status.is_success() {
            let (kind, mut words) = (kind_of(status, response.headers()), Vec::new());
            self.read_body(question, &mut response, wire::MAX_WORD_BYTES, &mut words).await?;
            if status == StatusCode::RANGE_NOT_SATISFIABLE {
                // Nothing stands there: the artifact ends before.
                return Ok(status);
            }
            let refused: Option<wire::Refused> = serde_json::from_slice(&words).ok();
            let reason =
                refused.map_or_else(|| status.to_string(), |refused| super::super::error::printable(&refused.reason));
            return Err(question.error(kind, reason));
        }
        self.read_body(question, &mut response, question.max_bytes, kept).await?;
        Ok(status)
    }

    async fn read_body(
        &self,
        question: &Question<'_>,
        response: &mut Response,
        max_bytes: u64,
        kept: &mut Vec<u8>,
    ) -> Result<(), TransportError> {
        let too_large = |bytes: u64| {
            question.error(TransportErrorKind::TooLarge, format!("{bytes} bytes are more than the {max_bytes} allowed"))
        };
        if let Some(bytes) = response.content_length().filter(|&bytes| bytes > max_bytes) {
            return Err(too_large(bytes));
        }
        let before = kept.len();
        loop {
            let piece = in_time(question, self.patience.read(), response.chunk()).await?;
            let Some(piece) = piece.map_err(|error| broken(question, error))? else { return Ok(()) };
            let bytes = (kept.len() - before + piece.len()) as u64;
            if bytes > max_bytes {
                return Err(too_large(bytes));
            }
            kept.extend_from_slice(&piece);
        }
    }
}

async fn in_time<T>(
    question: &Question<'_>,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, TransportError> {
    let late = |_| question.error(TransportErrorKind::Unavailable, "no answer in time");
    tokio::time::timeout(limit, work).await.map_err(late)
}

/// What a caller can do about an answer.
fn kind_of(status: StatusCode, headers: &HeaderMap) -> TransportErrorKind {
    let seconds =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    let throttled = |seconds: Option<u64>| TransportErrorKind::Throttled {
        retry_after_ms: seconds.map_or(USUAL_WAIT_MS, |seconds| seconds.min(MAX_WAIT_SECONDS) * 1000),
    };
    match status {
        StatusCode::NOT_FOUND => TransportErrorKind::NotFound,
        StatusCode::CONFLICT => TransportErrorKind::Conflict,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => TransportErrorKind::Denied,
        StatusCode::PAYLOAD_TOO_LARGE => TransportErrorKind::TooLarge,
        StatusCode::TOO_MANY_REQUESTS => throttled(seconds),
        StatusCode::SERVICE_UNAVAILABLE if seconds.is_some() => throttled(seconds),
        StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::INSUFFICIENT_STORAGE
        | StatusCode::REQUEST_TIMEOUT => TransportErrorKind::Unavailable,
        StatusCode::INTERNAL_SERVER_ERROR => TransportErrorKind::Corrupt,
        _ => TransportErrorKind::Unsupported,
    }
}

fn broken(question: &Question<'_>, error: reqwest::Error) -> TransportError {
    let detail = match () {
        () if error.is_connect() => format!("cannot be reached: {}", chain(&error)),
        () if error.is_timeout() => "no answer in time".to_owned(),
        () => format!("the line broke: {}", chain(&error)),
    };
    // Without the address: the name says what it was about.
    question.error(TransportErrorKind::Unavailable, detail).with_source(error.without_url())
}

/// What is wrong with the certificate that was shown; `None` if that is not what is wrong.
fn doubts(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(doubt(why).to_owned());
        }
        // An error of the system passes over what it wraps when it is asked for its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        cause = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// The same in words for people.
fn doubt(why: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Doubt;
    match why {
        Doubt::Expired | Doubt::ExpiredContext { .. } => "it has expired, or this machine's clock is ahead",
        Doubt::NotValidYet | Doubt::NotValidYetContext { .. } => {
            "it is not valid yet, or this machine's clock is behind"
        }
        Doubt::NotValidForName | Doubt::NotValidForNameContext { .. } => "it is for another name than this address has",
        Doubt::UnknownIssuer => "whoever made it is not known here",
        Doubt::Revoked => "it was revoked",
        _ => "it is not in order",
    }
}

/// The last cause says the most; the ones before it only that a request failed.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    super::super::error::printable(&last.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one assignment: a panic elsewhere cannot leave it half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, ExtendedKeyPurpose};

    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_our_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from("example.org").expect("a name");
        for (why, says) in [
            (CertificateError::UnknownIssuer, "not known here"),
            (CertificateError::ExpiredContext { time: at(2), not_after: at(1) }, "it has expired"),
            (CertificateError::NotValidYetContext { time: at(1), not_before: at(2) }, "not valid yet"),
            (CertificateError::NotValidForNameContext { expected: name, presented: Vec::new() }, "another name"),
            (CertificateError::BadEncoding, "not in order"),
            (
                CertificateError::InvalidPurposeContext {
                    required: ExtendedKeyPurpose::ServerAuth,
                    presented: Vec::new(),
                },
                "not in order",
            ),
        ] {
            assert!(doubt(&why).contains(says), "{why:?}: {}", doubt(&why));
        }
    }
}
