//! One question to the service and its answer.
//!
//! Invariant: no redirect is followed, so that a token reaches only the host that was named; no answer takes more memory than it
//! was allowed; a token is renewed once when it is refused. Nothing else is tried again here: the engine's outbox does that.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect};
use serde_json::Value;

use super::failure::{Failure, Head, What, refusal, shown, wait_ms};
use super::site::Site;
use super::token::Tokens;
use crate::{AdapterError, ErrorKind};

const CONNECT: Duration = Duration::from_secs(10);
/// An answer holds at most so much; what is asked for is cut so that it stays far below.
pub(super) const MAX_ANSWER_BYTES: u64 = 96 * 1024 * 1024;

/// The line to one database.
pub(super) struct Caller {
    http: Client,
    endpoint: Url,
    database: String,
    tokens: Tokens,
}

impl Caller {
    pub(super) fn new(site: Site, patience: Duration) -> Result<Caller, AdapterError> {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(patience)
            .user_agent("larder");
        // An emulator beside us needs no certificates, and a machine without any must reach it.
        let builder = if site.is_here() { builder.no_proxy().tls_certs_only([]) } else { builder };
        let http = builder.build().map_err(|error| {
            let why = shown(&innermost(&error));
            AdapterError::new(ErrorKind::Unavailable, format!("use Firestore: no encrypted line can be made ({why})"))
        })?;
        Ok(Caller { http, endpoint: site.endpoint, database: site.database, tokens: Tokens::of(site.account) })
    }

    /// The name of a document, as requests write it.
    pub(super) fn document(&self, collection: &str, name: &str) -> String {
        format!("{}/documents/{collection}/{name}", self.database)
    }

    /// The database as it is named to people.
    pub(super) fn place(&self) -> &str {
        &self.database
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// Asks `documents:<verb>`.
    pub(super) async fn ask(&self, verb: &str, body: &Value) -> Result<Value, Failure> {
        let bytes = body.to_string();
        let bearer = self.tokens.bearer(&self.http).await?;
        match self.ask_as(&bearer, verb, bytes.clone()).await {
            Err(failure) if failure.what == What::Unauthenticated && self.tokens.forget(&bearer).await => {
                let renewed = self.tokens.bearer(&self.http).await?;
                self.ask_as(&renewed, verb, bytes).await
            }
            other => other,
        }
    }

    async fn ask_as(&self, bearer: &str, verb: &str, body: String) -> Result<Value, Failure> {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("/v1/{}/documents:{verb}", self.database));
        let request = self.http.post(url).header(AUTHORIZATION, bearer).header(CONTENT_TYPE, "application/json");
        let answer = request.body(body).send().await.map_err(|error| broken(verb, &error))?;
        let head = head_of(&answer);
        let body = body_of(answer, MAX_ANSWER_BYTES).await?;
        if head.code != 200 {
            return Err(refusal(&head, &body));
        }
        serde_json::from_slice(&body).map_err(|error| match error.is_eof() && !body.is_empty() {
            true => Failure::new(ErrorKind::Unavailable, "the answer ended too early"),
            false => Failure::new(ErrorKind::Corrupt, "what answers is not Firestore (no JSON); check the address"),
        })
    }
}

pub(super) fn head_of(answer: &Response) -> Head {
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let target = || {
        let target = answer.url().join(header(LOCATION)?).ok()?;
        target.host_str().map(str::to_owned)
    };
    let redirect = answer.status().is_redirection().then(|| target().unwrap_or_else(|| "nowhere".to_owned()));
    Head { code: answer.status().as_u16(), retry_after_ms: header(RETRY_AFTER).map(wait_ms), redirect }
}

pub(super) async fn body_of(mut answer: Response, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(part)) if body.len() as u64 + part.len() as u64 > max_bytes => {
                return Err(Failure::too_long(max_bytes));
            }
            Ok(Some(part)) => body.extend_from_slice(&part),
            Ok(None) => return Ok(body),
            Err(_) => return Err(Failure::new(ErrorKind::Unavailable, "the answer ended too early")),
        }
    }
}

/// A line that could not be made or broke.
pub(super) fn broken(doing: &str, error: &reqwest::Error) -> Failure {
    let why = match () {
        () if error.is_timeout() => "no answer in time".to_owned(),
        () if error.is_connect() => format!("it cannot be reached ({})", shown(&innermost(error))),
        () => format!("the line broke ({})", shown(&innermost(error))),
    };
    Failure::new(ErrorKind::Unavailable, format!("{doing}: {why}"))
}

/// The cause at the bottom, which names no address.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, error) { "no reason given".to_owned() } else { cause.to_string() }
}
