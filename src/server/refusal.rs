//! Answers that say no: a status that a client can act on, and one sentence.
//!
//! Invariant: every answer says that a Larder speaks. What went wrong on the disk is told to devices that are let in only.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use crate::transport::http::wire::{EPOCH_HEADER, NOW_HEADER, Refused, SPEAKS, SPEAKS_HEADER};
use crate::transport::{TransportError, TransportErrorKind};

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    reason: String,
    retry_after_s: Option<u64>,
    challenge: Option<(String, u64)>,
}

impl Refusal {
    /// A plain no.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Refusal {
        Refusal { status, reason: reason.into(), retry_after_s: None, challenge: None }
    }

    /// Not now.
    pub fn busy(reason: &str, retry_after_s: u64) -> Refusal {
        let retry_after_s = Some(retry_after_s);
        Refusal { retry_after_s, ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason) }
    }

    /// Says what a token must name.
    pub fn with_challenge(self, epoch: &str, now_ms: u64) -> Refusal {
        Refusal { challenge: Some((epoch.to_owned(), now_ms)), ..self }
    }

    /// As it travels.
    pub fn into_response(self) -> Response {
        let body = serde_json::to_vec(&Refused { reason: self.reason }).expect("a text always serialises");
        let mut response = answer(self.status, Body::from(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.retry_after_s.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds))));
        if let Some((epoch, now_ms)) = self.challenge {
            let epoch = HeaderValue::from_str(&epoch).expect("it was drawn from a-z and 2-7");
            headers.insert(EPOCH_HEADER, epoch);
            headers.insert(NOW_HEADER, HeaderValue::from(now_ms));
        }
        response
    }
}

/// An answer of ours.
pub fn answer(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(SPEAKS_HEADER, HeaderValue::from_static(SPEAKS));
    response
}

impl From<TransportError> for Refusal {
    fn from(error: TransportError) -> Refusal {
        let status = match error.kind {
            TransportErrorKind::NotFound => StatusCode::NOT_FOUND,
            TransportErrorKind::Conflict => StatusCode::CONFLICT,
            TransportErrorKind::Denied => StatusCode::FORBIDDEN,
            TransportErrorKind::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            TransportErrorKind::Unavailable | TransportErrorKind::AtWork => StatusCode::INSUFFICIENT_STORAGE,
            TransportErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            TransportErrorKind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
            TransportErrorKind::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, error.detail)
    }
}
