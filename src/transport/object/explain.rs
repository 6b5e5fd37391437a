//! What a service's refusal means for the person who named the bucket.
//!
//! Invariant: nothing that a server or a library said is passed on but a status, a code of letters and digits, and what the
//! system says of a line: addresses with tokens in their query, keys and headers stay where they are. Pure.

use std::error::Error as StdError;
use std::time::Duration;

use super::line::Line;
use crate::transport::error::printable;
use crate::transport::{TransportError, TransportErrorKind};

/// Stands in the text of every answer that was no success, before its number.
const STATUS_MARK: &str = "status code: ";
/// Where clouds hand out keys to their own machines; part of the address in the text of a failed try.
const METADATA_MARKS: [&str; 5] =
    ["169.254.", "metadata.google.internal", "/latest/api/token", "/computeMetadata/", "/metadata/identity"];
const MAX_CODE_CHARS: usize = 64;
const DEFAULT_RETRY_AFTER_MS: u64 = 5_000;

/// Whose bucket it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    S3,
    Google,
    Azure,
}

impl Service {
    /// Where keys are looked for, as the rest of a sentence.
    fn credentials(self) -> &'static str {
        match self {
            Service::S3 => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            Service::Google => "set GOOGLE_APPLICATION_CREDENTIALS to the file with the key of a service account",
            Service::Azure => "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or the AZURE_CLIENT_ variables",
        }
    }

    fn bucket(self) -> &'static str {
        if self == Service::Azure { "container" } else { "bucket" }
    }
}

/// What every sentence needs to know.
#[derive(Clone)]
pub(super) struct Scene {
    pub service: Service,
    /// What people call the place; the key of what is remembered about it.
    pub label: String,
    /// The bucket's name.
    pub bucket: String,
    /// Heard what the server asked for.
    pub line: Line,
}

impl Scene {
    fn error(
        &self,
        kind: TransportErrorKind,
        action: &'static str,
        name: &str,
        detail: impl Into<String>,
    ) -> TransportError {
        TransportError::new(kind, action, name, detail)
    }

    /// Where keys are looked for, as the rest of a sentence.
    pub fn credentials(&self) -> &'static str {
        self.service.credentials()
    }

    /// The bucket itself is missing.
    pub fn no_bucket(&self, action: &'static str) -> TransportError {
        let word = self.service.bucket();
        let detail = format!("there is no {word} called `{}` there: make it, or name another", printable(&self.bucket));
        self.error(TransportErrorKind::Denied, action, &self.label, detail)
    }

    /// Nothing came for too long.
    pub fn silent(&self, action: &'static str, name: &str, waited: Duration) -> TransportError {
        let detail = format!("the server gave no answer within {} seconds", waited.as_secs());
        self.error(TransportErrorKind::Unavailable, action, name, detail)
    }

    /// A put onto an existing key went through.
    pub fn ignores_conditions(&self) -> TransportError {
        let detail = "this server ignores the condition of a put (If-None-Match), so it cannot keep one machine from \
                      writing over what another one wrote: use a server that honours it, or end the address in \
                      `?conditional=no` if that is well for you";
        self.error(TransportErrorKind::Denied, "put", &self.label, detail)
    }

    /// No keys were found, and this machine is not one that its cloud hands some out to.
    fn no_credentials(&self) -> TransportError {
        let detail = format!("no credentials were found: {}", self.service.credentials());
        self.error(TransportErrorKind::Denied, "open", &self.label, detail)
    }

    /// Words any failure of the crate.
    pub fn explain(&self, action: &'static str, name: &str, error: object_store::Error) -> TransportError {
        let text = error.to_string();
        let status = status_of(&text);
        if METADATA_MARKS.iter().any(|mark| text.contains(mark)) {
            return self.no_credentials();
        }
        match (&error, status) {
            (object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. }, _)
            | (_, Some(501)) => self.error(TransportErrorKind::Unsupported, action, name, "this server cannot do it"),
            (object_store::Error::InvalidPath { .. }, _) => {
                let detail = "a key stands there that is no path (an empty part, `..` or a control character)";
                self.error(TransportErrorKind::Corrupt, action, name, detail)
            }
            (_, Some(status)) => self.answered(action, name, status, &code_of(&text)),
            (object_store::Error::NotFound { .. }, None) => {
                self.error(TransportErrorKind::NotFound, action, name, "not here")
            }
            (_, None) if text.contains("Received redirect without LOCATION") => self.answered(action, name, 301, ""),
            (_, None) => {
                let why = innermost(&error);
                self.error(TransportErrorKind::Unavailable, action, name, format!("the line failed: {why}"))
            }
        }
    }

    /// Words an answer by its status and code.
    fn answered(&self, action: &'static str, name: &str, status: u16, code: &str) -> TransportError {
        use TransportErrorKind::{Denied, NotFound, Throttled, TooLarge, Unavailable};
        let said = if code.is_empty() { status.to_string() } else { format!("{status} {code}") };
        let keys = self.service.credentials();
        let (kind, detail) = match (status, code) {
            (404, "NoSuchBucket" | "ContainerNotFound") => return self.no_bucket(action),
            (404, _) => (NotFound, "not here".to_owned()),
            (429, _) | (503, "SlowDown" | "ServerBusy" | "") => {
                let asked = self.line.retry_after_ms();
                let retry_after_ms = if asked == 0 { DEFAULT_RETRY_AFTER_MS } else { asked };
                (Throttled { retry_after_ms }, format!("the server wants fewer requests ({said})"))
            }
            (_, "InvalidAccessKeyId" | "InvalidSecurity") => {
                (Denied, format!("the access key is not known there: {keys} ({said})"))
            }
            (_, "SignatureDoesNotMatch" | "AuthenticationFailed") => {
                (Denied, format!("the secret does not fit the key: {keys} ({said})"))
            }
            (_, "RequestTimeTooSkewed" | "RequestExpired") => {
                (Denied, format!("this machine's clock is too far from the server's: set it ({said})"))
            }
            (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") => {
                (Denied, format!("the session's token is not valid any more: get a new one ({said})"))
            }
            (301 | 307, _)
            | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                (Denied, format!("the bucket is in another region or at another endpoint: set AWS_REGION ({said})"))
            }
            (401, _) => (Denied, format!("these credentials are not accepted there: {keys} ({said})")),
            (400 | 403, _) => (Denied, format!("the server refuses it: may these credentials do that? ({said})")),
            (413, _) => (TooLarge, format!("it is more than the server takes ({said})")),
            (408 | 500.., _) => (Unavailable, format!("the server failed ({said})")),
            _ => (Denied, format!("the server refuses it ({said})")),
        };
        self.error(kind, action, name, detail)
    }
}

/// The number of an answer that was no success.
fn status_of(text: &str) -> Option<u16> {
    let after = &text[text.find(STATUS_MARK)? + STATUS_MARK.len()..];
    after.get(..3)?.parse().ok()
}

/// The code in the body of such an answer; empty if there is none of the usual form.
fn code_of(text: &str) -> String {
    let after = text.split_once("<Code>").map_or("", |(_, after)| after);
    let code = after.split_once("</Code>").map_or("", |(code, _)| code).trim();
    let plain = code.len() <= MAX_CODE_CHARS && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    if plain { code.to_owned() } else { String::new() }
}

/// What lies at the bottom: the system's or the TLS library's word, which names no address.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    let text = at.to_string();
    // A text with an address in it could hold what stands in its query.
    if text.contains("://") { "no connection".to_owned() } else { printable(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        let line = Line::default();
        Scene { service: Service::S3, label: "s3://b".to_owned(), bucket: "b".to_owned(), line }
    }

    fn answer(status: &str, code: &str) -> object_store::Error {
        let text = format!(
            "Error performing GET https://host/b?sig=geheim in 3ms - Server returned non-2xx status code: {status}: \
             <Error><Code>{code}</Code><Message>key geheim</Message></Error>"
        );
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn an_answer_is_sorted_by_what_a_person_can_do_and_nothing_secret_is_told() {
        use TransportErrorKind::{Denied, NotFound, Throttled, Unavailable, Unsupported};
        for (status, code, kind, part) in [
            ("404 Not Found", "NoSuchKey", NotFound, "not here"),
            ("404 Not Found", "NoSuchBucket", Denied, "no bucket called `b`"),
            ("403 Forbidden", "InvalidAccessKeyId", Denied, "access key is not known"),
            ("403 Forbidden", "SignatureDoesNotMatch", Denied, "secret does not fit"),
            ("403 Forbidden", "RequestTimeTooSkewed", Denied, "clock"),
            ("400 Bad Request", "ExpiredToken", Denied, "token is not valid any more"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", Denied, "AWS_REGION"),
            ("301 Moved Permanently", "", Denied, "AWS_REGION"),
            ("403 Forbidden", "AccessDenied", Denied, "403 AccessDenied"),
            (
                "401 Unauthorized",
                "AuthenticationRequired",
                Denied,
                "these credentials are not accepted there: set AWS_",
            ),
            ("403 Forbidden", "Access geheim", Denied, "(403)"),
            ("429 Too Many Requests", "", Throttled { retry_after_ms: DEFAULT_RETRY_AFTER_MS }, "fewer requests"),
            ("503 Service Unavailable", "SlowDown", Throttled { retry_after_ms: DEFAULT_RETRY_AFTER_MS }, "fewer"),
            ("500 Internal Server Error", "InternalError", Unavailable, "500 InternalError"),
            ("501 Not Implemented", "NotImplemented", Unsupported, "cannot do it"),
            ("418 I'm a teapot", "", Denied, "418"),
        ] {
            let error = scene().explain("get", "app/a", answer(status, code));
            assert_eq!(error.kind, kind, "{status} {code}");
            assert!(error.detail.contains(part), "{status} {code}: {error}");
            assert!(!format!("{error} {error:?}").contains("geheim"), "{error:?}");
        }
    }

    #[test]
    fn a_broken_line_tells_the_systems_word_and_no_address() {
        let refused = std::io::Error::from_raw_os_error(111);
        let error = object_store::Error::Generic { store: "S3", source: Box::new(refused) };
        let error = scene().explain("list", "app/", error);
        assert_eq!((error.kind, error.detail.contains("os error 111")), (TransportErrorKind::Unavailable, true));

        let error = object_store::Error::Generic { store: "S3", source: "at https://host/?sig=geheim".into() };
        let error = scene().explain("list", "app/", error);
        assert!(!error.to_string().contains("geheim"), "{error}");

        let error = object_store::Error::Generic { store: "S3", source: "PUT http://169.254.169.254/x failed".into() };
        let error = scene().explain("list", "app/", error);
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
        assert_eq!(error.kind, TransportErrorKind::Denied);
    }
}
