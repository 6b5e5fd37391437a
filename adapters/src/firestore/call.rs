//! One question to the service and its answer.
//!
//! Invariant: no redirect is followed, so that a token reaches only the host that was named; no answer takes more memory than it
//! was allowed; a token is renewed once when it is refused. Nothing else is tried again here: the engine's outbox does that.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Url};
use serde_json::Value;

use super::failure::{Failure, What, refusal};
use super::site::Site;
use super::token::Tokens;
use crate::wire::{self, Broken, Head, body_of};
use crate::{AdapterError, ErrorKind};

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
        let http = wire::client(site.is_here(), patience)?;
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
        let answer = request.body(body).send().await.map_err(|error| Broken::of(&error))?;
        let head = Head::of(&answer);
        let body = body_of(answer, MAX_ANSWER_BYTES).await?;
        if head.code != 200 {
            return Err(refusal(&head, &body));
        }
        serde_json::from_slice(&body).map_err(|error| match error.is_eof() && !body.is_empty() {
            true => Broken::early().into(),
            false => Failure::new(ErrorKind::Corrupt, "what answers is not Firestore (no JSON); check the address"),
        })
    }
}
