//! Requests to a project's API: what is sent, what is believed of the answer, and the words of a failure.
//!
//! Invariant: the key goes to the host that was named, over TLS or to this machine, in headers alone; a redirect is never followed. No answer
//! takes more memory than its bound, and what is no JSON of the API is no answer.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{AdapterError, ErrorKind};

const MAX_ANSWER_BYTES: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// A line that is slower is none.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// An idle connection is given up before the server does.
const IDLE: Duration = Duration::from_secs(8);
const USUAL_WAIT_MS: u64 = 5_000;
const MAX_WAIT_SECONDS: u64 = 3_600;

/// A project's API and the key to it.
pub(super) struct Line {
    client: Client,
    base: Url,
    headers: HeaderMap,
    /// The host, for sentences.
    pub shown: String,
    key: String,
    token: Option<String>,
    tls: std::sync::Arc<rustls::ClientConfig>,
}

/// What the variables say.
pub(super) struct Keys {
    pub url: String,
    pub key: String,
    pub token: Option<String>,
}

fn refused(why: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Unsupported, format!("use supabase: {}", why.into()))
}

impl Keys {
    /// Errors: `Unsupported` with the variable that is missing, or for a key that passes every rule.
    pub fn read(address: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Keys, AdapterError> {
        let var = |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let url = match address {
            "" => var("SUPABASE_URL"),
            address => Some(if address.starts_with("//") { format!("https:{address}") } else { address.to_owned() }),
        };
        let url = url.ok_or_else(|| refused("set SUPABASE_URL to the project's address, as https://ID.supabase.co"))?;
        let key = var("SUPABASE_PUBLISHABLE_KEY").or_else(|| var("SUPABASE_ANON_KEY"));
        let key = key.ok_or_else(|| refused("set SUPABASE_PUBLISHABLE_KEY or SUPABASE_ANON_KEY"))?;
        if key.starts_with("sb_secret_") || role_of(&key).as_deref() == Some("service_role") {
            return Err(refused(
                "this is the project's secret key, which passes every rule; name the publishable or anon key",
            ));
        }
        Ok(Keys { url, key, token: var("SUPABASE_ACCESS_TOKEN") })
    }
}

/// The role in a token's claims; believed for a warning only.
fn role_of(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(claims.trim_end_matches('=').as_bytes()).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(claims.get("role")?.as_str()?.to_owned())
}

impl Line {
    pub fn new(keys: &Keys) -> Result<Line, AdapterError> {
        let mut base: Url = keys.url.parse().map_err(|_| refused("SUPABASE_URL is no address"))?;
        let host = base.host_str().map(str::to_owned).ok_or_else(|| refused("SUPABASE_URL names no host"))?;
        let is_here = matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]");
        if !(base.scheme() == "https" || (base.scheme() == "http" && is_here)) {
            return Err(refused("SUPABASE_URL must begin with https:// (http:// is spoken to this machine alone)"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refused("SUPABASE_URL holds a password; the key goes into SUPABASE_PUBLISHABLE_KEY"));
        }
        base.set_query(None);
        base.set_fragment(None);
        let path = format!("{}/rest/v1/rpc/", base.path().trim_end_matches('/').trim_end_matches("/rest/v1"));
        base.set_path(&path);
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| refused("a key has characters that no key has"))?;
            value.set_sensitive(true);
            Ok::<HeaderValue, AdapterError>(value)
        };
        let mut headers = HeaderMap::new();
        headers.insert("apikey", secret(&keys.key)?);
        // A publishable key is no token; the older anon key is one.
        let token = keys.token.as_ref().or((keys.key.split('.').count() == 3).then_some(&keys.key));
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, secret(&format!("Bearer {token}"))?);
        }
        let tls = crate::socket::tls();
        let client = Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .redirect(redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE)
            .connect_timeout(CONNECT)
            .build()
            .map_err(|_| refused("no client for requests can be made"))?;
        let (key, token) = (keys.key.clone(), token.cloned());
        Ok(Line { client, base, headers, shown: host, key, token, tls: std::sync::Arc::new(tls) })
    }

    /// Where the Realtime socket is, with the key in it.
    pub fn socket_address(&self, version: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}/realtime/v1/websocket", url.path().trim_end_matches("/rest/v1/rpc/"));
        url.set_path(&path);
        url.query_pairs_mut().append_pair("apikey", &self.key).append_pair("vsn", version);
        url
    }

    /// Whose token goes along, if there is one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// What TLS is spoken with.
    pub fn tls(&self) -> std::sync::Arc<rustls::ClientConfig> {
        self.tls.clone()
    }

    /// Calls a function of the API.
    pub async fn call<T: DeserializeOwned>(
        &self,
        function: &str,
        arguments: &impl Serialize,
    ) -> Result<T, AdapterError> {
        let error = |kind, why: String| AdapterError::new(kind, format!("ask supabase at {}: {why}", self.shown));
        let body = serde_json::to_vec(arguments)
            .map_err(|_| error(ErrorKind::Unsupported, "a question is no JSON".to_owned()))?;
        let url = self
            .base
            .join(function)
            .map_err(|_| error(ErrorKind::Unsupported, "a function has no address".to_owned()))?;
        let limit = until_answer(body.len());
        let asked =
            self.client.post(url).headers(self.headers.clone()).header("content-type", "application/json").body(body);
        let late = |_| error(ErrorKind::Unavailable, LATE.to_owned());
        let sent = tokio::time::timeout(limit, asked.send()).await.map_err(late)?;
        let mut response = sent.map_err(|failed| error(ErrorKind::Unavailable, words(&failed)))?;
        let status = response.status();
        if status.is_redirection() {
            let why = "it redirects elsewhere, where the key is not sent; name that address itself in SUPABASE_URL";
            // A network that wants a sign-in first redirects, too: files are recorded all the same.
            return Err(error(ErrorKind::Denied, why.to_owned()));
        }
        let wait_ms = retry_after_ms(response.headers());
        let mut bytes = Vec::new();
        loop {
            let part = tokio::time::timeout(ANSWER, response.chunk()).await.map_err(late)?;
            let Some(part) = part.map_err(|failed| error(ErrorKind::Unavailable, words(&failed)))? else { break };
            if MAX_ANSWER_BYTES < bytes.len() + part.len() {
                return Err(error(ErrorKind::Corrupt, format!("its answer is longer than {MAX_ANSWER_BYTES} bytes")));
            }
            bytes.extend_from_slice(&part);
        }
        if status.is_success() {
            let read = serde_json::from_slice(&bytes);
            return read.map_err(|_| error(ErrorKind::Corrupt, NO_API.to_owned()));
        }
        let (kind, why) = meaning(status, wait_ms, &bytes);
        Err(error(kind, why))
    }
}

/// How long a question of so many bytes is waited for until its answer begins: the service has to have all of it first.
fn until_answer(body_bytes: usize) -> Duration {
    ANSWER + Duration::from_secs(body_bytes as u64 / SLOWEST_BYTES_PER_SECOND)
}

const LATE: &str = "it did not answer in time";
const NO_API: &str = "its answer is none of the API; is SUPABASE_URL the project's own address?";
const HALF_MADE: &str = "run what `larder backend ddl supabase` prints in the project's SQL editor";

#[derive(serde::Deserialize)]
struct Said {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// PostgREST says a SQLSTATE or a code of its own; what stands before it, neither.
fn meaning(status: StatusCode, wait_ms: u64, bytes: &[u8]) -> (ErrorKind, String) {
    if status == StatusCode::TOO_MANY_REQUESTS {
        return (ErrorKind::Throttled { retry_after_ms: wait_ms }, "too many requests".to_owned());
    }
    let said: Option<Said> = serde_json::from_slice(bytes).ok();
    let (code, message) = said.map_or((None, None), |said| (said.code, said.message));
    let message = message.unwrap_or_else(|| status.to_string()).replace(['\n', '\r'], " ");
    let with = |why: &str| format!("{why} ({message})");
    match code.as_deref() {
        Some("PGRST202" | "PGRST205" | "42883" | "42P01" | "42703" | "PGRST106" | "PGRST204") => {
            (ErrorKind::Corrupt, with(&format!("a table or function is missing or another one: {HALF_MADE}")))
        }
        Some("PGRST301" | "PGRST302" | "PGRST303") => (ErrorKind::Denied, with("it refuses the key or token")),
        Some("42501") => (ErrorKind::Denied, with(&format!("the key's role lacks a right: {HALF_MADE}"))),
        Some("25006") => (ErrorKind::Denied, with("it may only be read just now")),
        Some("57014") => (ErrorKind::Unavailable, with("it took longer than the service allows")),
        Some("PGRST000" | "PGRST001" | "PGRST002" | "PGRST003") => {
            (ErrorKind::Unavailable, with("its database is away"))
        }
        Some(code) if matches!(code.get(..2), Some("08" | "40" | "53" | "55" | "57" | "58")) => {
            (ErrorKind::Unavailable, message)
        }
        Some(code) if code.starts_with("54") || code.starts_with("22") => (ErrorKind::TooLarge, message),
        _ if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN => {
            (ErrorKind::Denied, with("it refuses the key"))
        }
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => (ErrorKind::TooLarge, message),
        _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            (ErrorKind::Unavailable, format!("it says {status}"))
        }
        Some(code) => (ErrorKind::Corrupt, format!("{message} ({code})")),
        None => (ErrorKind::Corrupt, NO_API.to_owned()),
    }
}

fn retry_after_ms(headers: &HeaderMap) -> u64 {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    seconds.map_or(USUAL_WAIT_MS, |seconds| seconds.min(MAX_WAIT_SECONDS) * 1_000)
}

/// Its kind, without the address or anything that was sent.
fn words(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(inner) = cause {
        last = Some(inner.to_string());
        cause = inner.source();
    }
    let kind = match () {
        () if error.is_timeout() => LATE,
        () if error.is_connect() => "it cannot be reached",
        () => "its answer was cut off",
    };
    last.map_or(kind.to_owned(), |last| format!("{kind} ({last})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_has_the_time_that_it_takes() {
        assert_eq!(until_answer(100), ANSWER);
        assert_eq!(until_answer(4 << 20), ANSWER + Duration::from_secs(256), "four MiB over a line of 16 KiB a second");
    }

    #[test]
    fn every_answer_has_the_kind_a_caller_can_act_on() {
        for (status, body, kind) in [
            (404, r#"{"code":"PGRST202","message":"Could not find the function"}"#, ErrorKind::Corrupt),
            (404, r#"{"code":"42883","message":"function does not exist"}"#, ErrorKind::Corrupt),
            (401, r#"{"code":"PGRST301","message":"JWSError"}"#, ErrorKind::Denied),
            (401, r#"{"message":"Invalid API key"}"#, ErrorKind::Denied),
            (403, r#"{"code":"42501","message":"new row violates row-level security policy"}"#, ErrorKind::Denied),
            (500, r#"{"code":"57014","message":"canceling statement"}"#, ErrorKind::Unavailable),
            (503, r#"{"code":"PGRST002","message":"schema cache"}"#, ErrorKind::Unavailable),
            (522, "<html>Connection timed out</html>", ErrorKind::Unavailable),
            (404, "<html>not found</html>", ErrorKind::Corrupt),
            (429, "", ErrorKind::Throttled { retry_after_ms: 7 }),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(meaning(status, 7, body.as_bytes()).0, kind, "{status} {body}");
        }
    }

    #[test]
    fn a_key_that_passes_every_rule_and_an_open_line_are_refused() {
        let service = format!("a.{}.c", data_encoding::BASE64URL_NOPAD.encode(br#"{"role":"service_role"}"#));
        let read = |url: &str, key: &str| {
            let env = |name: &str| match name {
                "SUPABASE_URL" => Some(url.to_owned()),
                "SUPABASE_ANON_KEY" => Some(key.to_owned()),
                _ => None,
            };
            Keys::read("", &env).and_then(|keys| Line::new(&keys)).map(|line| line.shown)
        };

        assert_eq!(read("https://id.supabase.co", "sb_publishable_x").expect("it may be used"), "id.supabase.co");
        for (url, key) in [
            ("https://id.supabase.co", service.as_str()),
            ("https://id.supabase.co", "sb_secret_geheim"),
            ("http://id.supabase.co", "sb_publishable_geheim"),
            ("https://a:geheim@id.supabase.co", "sb_publishable_x"),
            ("not an address", "geheim"),
            ("https://id.supabase.co", ""),
        ] {
            let error = read(url, key).expect_err(url);
            assert!(error.kind == ErrorKind::Unsupported && !error.message.contains("geheim"), "{error}");
        }
    }
}
