//! The one error of the seam: a kind to act on and a sentence to show.
//!
//! Invariant: the message follows "failed to", names the thing and holds no secret.

use std::error::Error;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such thing; for a delete that is retried this means done.
    NotFound,
    /// Somebody else wrote first: read again, then decide.
    Conflict,
    /// The backend refuses us: credentials, policy, a read-only file. Retrying changes nothing; a person does.
    Denied,
    /// Too fast: again after this many milliseconds.
    Throttled {
        /// How long to wait, in milliseconds.
        retry_after_ms: u64,
    },
    /// The backend or the way to it is gone, locked or full for now: again with backoff. The write may have happened.
    Unavailable,
    /// Beyond a limit of `Capabilities`.
    TooLarge,
    /// This backend, this release or this name cannot do that at all.
    Unsupported,
    /// What is stored or answered makes no sense.
    Corrupt,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable)
    }
}

/// An error of a backend.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AdapterError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// A lower-case fragment that follows "failed to".
    pub message: String,
    /// What the backend's own library said.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl AdapterError {
    /// An error nobody else caused.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause.
    pub fn caused(kind: ErrorKind, message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self { kind, message: message.into(), source: Some(Box::new(source)) }
    }

    /// A lost race over `id`.
    pub fn conflict(id: &crate::RecordId, found: &str) -> Self {
        Self::new(ErrorKind::Conflict, format!("write {id}: {found}"))
    }
}
