//! The line to a server: what comes over it is bounded, and how long it wants to be left alone is heard.
//!
//! Invariant: no answer is taken beyond its bound, whatever its headers promise. Knows nothing of buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

/// The largest answer, in bytes: above any artifact.
const MAX_ANSWER_BYTES: usize = 128 << 20;
/// The largest page of a listing, in bytes: 1,000 keys of the longest kind, each with what stands beside it.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// In the queries of listings.
const LISTINGS: [&str; 2] = ["list-type=2", "comp=list"];
/// The largest answer that says no, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries after the first.
const MAX_RETRIES: usize = 3;
/// No further try is begun after this.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A server that names a longer wait is not believed, in milliseconds.
const MAX_RETRY_AFTER_MS: u64 = 3_600_000;

/// Makes lines that share one ear for `Retry-After`.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    retry_after_ms: Arc<AtomicU64>,
}

impl Line {
    /// What the server asked for last, in milliseconds; 0 if nothing.
    pub fn retry_after_ms(&self) -> u64 {
        self.retry_after_ms.load(Ordering::Relaxed)
    }
}

/// How long and how often a request is tried.
pub(super) fn retries() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT }
}

/// Whole requests have no time of their own here: how long one may take depends on its size, which the caller knows.
pub(super) fn client_options() -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT)
}

impl HttpConnector for Line {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(BoundedService { client, line: self.clone() }))
    }
}

#[derive(Debug)]
struct BoundedService {
    client: HttpClient,
    line: Line,
}

#[async_trait]
impl HttpService for BoundedService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let most = if LISTINGS.iter().any(|mark| query.contains(mark)) { MAX_PAGE_BYTES } else { MAX_ANSWER_BYTES };
        let (parts, body) = self.client.execute(request).await?.into_parts();
        let seconds: Option<u64> = parts.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let wait_ms = seconds.map_or(0, |seconds| seconds.saturating_mul(1000).min(MAX_RETRY_AFTER_MS));
        self.line.retry_after_ms.store(wait_ms, Ordering::Relaxed);
        let bound = if parts.status.is_success() { most } else { MAX_REFUSAL_BYTES };
        let body = Limited::new(body, bound).map_err(|error| HttpError::new_boxed(HttpErrorKind::Decode, error));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}
