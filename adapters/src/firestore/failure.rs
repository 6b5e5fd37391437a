//! What goes wrong between here and the service, each with the kind to act on and the sentence that helps.
//!
//! Invariant: `error.status` decides, never the HTTP code alone (409 is two things, 400 three); a sentence holds no token, no key,
//! and of what the service said only a bounded, printable part.

use serde_json::Value;

use crate::wire::{Broken, Head, USUAL_WAIT_MS, shown};
use crate::{AdapterError, ErrorKind};

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What it means to whoever asked.
    pub(super) what: What,
    /// A clause for people.
    pub(super) said: String,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A precondition of a write does not hold: another state stands.
    Precondition,
    /// Writes got into each other's way; nothing was written.
    Aborted,
    /// The token is not taken.
    Unauthenticated,
    /// An answer that is larger than was allowed.
    TooLong,
    /// Something for the caller of the adapter.
    Kind(ErrorKind),
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, said: impl Into<String>) -> Failure {
        Failure { what: What::Kind(kind), said: said.into() }
    }

    /// The error that says what we were doing.
    pub(super) fn error(&self, doing: &str) -> AdapterError {
        let kind = match self.what {
            What::Kind(kind) => kind,
            What::Precondition => ErrorKind::Conflict,
            What::Aborted => ErrorKind::Unavailable,
            What::Unauthenticated => ErrorKind::Denied,
            What::TooLong => ErrorKind::Corrupt,
        };
        AdapterError::new(kind, format!("{doing}: {}", self.said))
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Failure {
        match broken {
            Broken::TooLong(limit) => {
                Failure { what: What::TooLong, said: format!("the answer is longer than {limit} bytes") }
            }
            Broken::Line(said) => Failure::new(ErrorKind::Unavailable, said),
        }
    }
}

/// Understands an answer that is no success.
pub(super) fn refusal(head: &Head, body: &[u8]) -> Failure {
    if let Some(host) = &head.redirect {
        let said =
            format!("the address redirects to {}, and a token is not taken there; set the right one", shown(host));
        return Failure::new(ErrorKind::Denied, said);
    }
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    // Calls that stream answer an array, errors included.
    let error = parsed.as_ref().map(|value| value.get(0).unwrap_or(value)).and_then(|value| value.get("error"));
    let status = error.and_then(|error| error.get("status")).and_then(Value::as_str);
    let message = error.and_then(|error| error.get("message")).and_then(Value::as_str).unwrap_or("");
    match status {
        Some(status) => by_status(status, message, head),
        None => by_code(head),
    }
}

fn by_status(status: &str, message: &str, head: &Head) -> Failure {
    let said = shown(message);
    let kind = |kind, clause: String| Failure::new(kind, clause);
    match status {
        "ALREADY_EXISTS" => Failure { what: What::Precondition, said },
        "FAILED_PRECONDITION" if message.contains("requires an index") || message.contains("index is") => {
            kind(ErrorKind::Unsupported, format!("an index was switched off that every field has by itself ({said})"))
        }
        "FAILED_PRECONDITION" => Failure { what: What::Precondition, said },
        "NOT_FOUND" if is_about_the_database(message) => kind(
            ErrorKind::Denied,
            format!("there is no such Firestore database; make it in native mode or name another ({said})"),
        ),
        "NOT_FOUND" => Failure { what: What::Precondition, said },
        "ABORTED" => Failure { what: What::Aborted, said },
        "UNAUTHENTICATED" => Failure { what: What::Unauthenticated, said: refused_token(&said) },
        "PERMISSION_DENIED" => {
            let clause = "the account may not use this project's Firestore; give it the role Cloud Datastore User, or name another project";
            kind(ErrorKind::Denied, format!("{clause} ({said})"))
        }
        "RESOURCE_EXHAUSTED" => throttled(head, format!("the service asks for a slower pace ({said})")),
        "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "INTERNAL" | "UNKNOWN" | "CANCELLED" => {
            away(head, format!("the service is away ({said})"))
        }
        "INVALID_ARGUMENT" | "OUT_OF_RANGE" if is_about_size(message) => kind(ErrorKind::TooLarge, said),
        "UNIMPLEMENTED" => kind(ErrorKind::Unsupported, format!("this server cannot do that ({said})")),
        _ => kind(ErrorKind::Unsupported, format!("{} ({said})", shown(status))),
    }
}

fn by_code(head: &Head) -> Failure {
    let kind = head.kind();
    let said = match (head.code, kind) {
        (401, _) => return Failure { what: What::Unauthenticated, said: refused_token("no reason given") },
        (429, _) => "the service asks for a slower pace".to_owned(),
        (code, ErrorKind::Throttled { .. } | ErrorKind::Unavailable) => format!("the service is away (HTTP {code})"),
        (code, ErrorKind::TooLarge) => {
            format!("something before the service takes no request of this size (HTTP {code})")
        }
        (_, ErrorKind::Denied) => "access is refused, by something that is not Firestore".to_owned(),
        (code, _) => format!("what answers is not Firestore (HTTP {code} without its JSON); check the address"),
    };
    Failure::new(kind, said)
}

fn refused_token(said: &str) -> String {
    format!("the credentials are refused ({said}); check GOOGLE_APPLICATION_CREDENTIALS")
}

fn throttled(head: &Head, said: String) -> Failure {
    Failure::new(ErrorKind::Throttled { retry_after_ms: head.retry_after_ms.unwrap_or(USUAL_WAIT_MS) }, said)
}

fn away(head: &Head, said: String) -> Failure {
    match head.retry_after_ms {
        Some(retry_after_ms) => Failure::new(ErrorKind::Throttled { retry_after_ms }, said),
        None => Failure::new(ErrorKind::Unavailable, said),
    }
}

fn is_about_the_database(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    lower.contains("database") && lower.contains("does not exist")
}

fn is_about_size(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    ["maximum", "too large", "too big", "exceeds"].iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::wait_ms;

    fn understood(code: u16, body: &str) -> What {
        refusal(&Head { code, ..Head::default() }, body.as_bytes()).what
    }

    #[test]
    fn the_status_decides_and_not_the_code() {
        let body = |code: u16, status: &str, message: &str| {
            format!(r#"{{"error":{{"code":{code},"message":"{message}","status":"{status}"}}}}"#)
        };
        let cases = [
            (409, "ALREADY_EXISTS", "", What::Precondition),
            (409, "ABORTED", "", What::Aborted),
            (400, "FAILED_PRECONDITION", "", What::Precondition),
            (400, "FAILED_PRECONDITION", "The query requires an index.", What::Kind(ErrorKind::Unsupported)),
            (400, "INVALID_ARGUMENT", "exceeds the maximum allowed size", What::Kind(ErrorKind::TooLarge)),
            (404, "NOT_FOUND", "No document to update", What::Precondition),
            (404, "NOT_FOUND", "The database (default) does not exist for project x", What::Kind(ErrorKind::Denied)),
            (401, "UNAUTHENTICATED", "", What::Unauthenticated),
            (403, "PERMISSION_DENIED", "", What::Kind(ErrorKind::Denied)),
            (429, "RESOURCE_EXHAUSTED", "", What::Kind(ErrorKind::Throttled { retry_after_ms: USUAL_WAIT_MS })),
            (503, "UNAVAILABLE", "", What::Kind(ErrorKind::Unavailable)),
        ];

        for (code, status, message, what) in cases {
            assert_eq!(understood(code, &body(code, status, message)), what, "{status}");
            assert_eq!(understood(code, &format!("[{}]", body(code, status, message))), what, "{status} in an array");
        }
    }

    #[test]
    fn what_is_no_json_is_judged_by_its_code_and_a_redirect_is_named() {
        assert_eq!(understood(502, "<html>"), What::Kind(ErrorKind::Unavailable));
        assert_eq!(understood(404, "<html>"), What::Kind(ErrorKind::Corrupt));
        assert_eq!(understood(413, "<html>"), What::Kind(ErrorKind::TooLarge));
        let head = Head { code: 302, redirect: Some("evil.example".to_owned()), ..Head::default() };
        let failure = refusal(&head, b"");
        assert_eq!(failure.what, What::Kind(ErrorKind::Denied));
        assert!(failure.said.contains("evil.example"), "{}", failure.said);
    }

    #[test]
    fn a_wait_is_taken_from_the_answer_and_bounded() {
        let head = Head { code: 503, retry_after_ms: Some(wait_ms("7")), ..Head::default() };
        assert_eq!(refusal(&head, b"").what, What::Kind(ErrorKind::Throttled { retry_after_ms: 7_000 }));
        assert_eq!(wait_ms("99999999999"), 3_600_000);
        assert_eq!(wait_ms("Wed, 21 Oct 2026 07:28:00 GMT"), USUAL_WAIT_MS);
    }
}
