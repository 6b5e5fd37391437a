//! What can go wrong at a place, sorted by what the caller can do about it.

use std::error::Error;
use std::fmt;

const MAX_SHOWN_NAME_CHARS: usize = 200;

/// What the caller can do about a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportErrorKind {
    /// No such artifact: it may come later.
    NotFound,
    /// Other bytes stand under the name: nothing helps but looking at both.
    Conflict,
    /// The place refuses us: a person has to act.
    Denied,
    /// Too many requests: again after the wait.
    Throttled {
        /// Milliseconds.
        retry_after_ms: u64,
    },
    /// Not reachable, or it broke off: again later.
    Unavailable,
    /// What was asked last is still being done, and whoever asked does not wait for it: its end is heard of.
    AtWork,
    /// More bytes than the bound that was given.
    TooLarge,
    /// The place cannot do this at all.
    Unsupported,
    /// The place holds damaged bytes and knows it.
    Corrupt,
}

/// Why a place did not do what was asked.
#[derive(Debug)]
pub struct TransportError {
    /// What the caller can do about it.
    pub kind: TransportErrorKind,
    /// The verb: `list`, `get`, `put`, `wait`, `open`.
    pub action: &'static str,
    /// What it was about, printable, cut at 200 characters.
    pub name: String,
    /// A lower-case fragment that says what happened.
    pub detail: String,
    /// What lies below.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl TransportError {
    /// Builds an error; `name` is made printable.
    pub fn new(
        kind: TransportErrorKind,
        action: &'static str,
        name: &str,
        detail: impl Into<String>,
    ) -> TransportError {
        TransportError { kind, action, name: printable(name), detail: detail.into(), source: None }
    }

    /// Adds what lies below.
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> TransportError {
        TransportError { source: Some(source.into()), ..self }
    }

    /// How long the place asks to be left alone, in milliseconds; `None` if it does not.
    pub fn wait_ms(&self) -> Option<u64> {
        match self.kind {
            TransportErrorKind::Throttled { retry_after_ms } => Some(retry_after_ms),
            _ => None,
        }
    }

    /// True if the whole place is out of reach, so that the next request would fail as well.
    pub fn is_about_the_place(&self) -> bool {
        matches!(self.kind, TransportErrorKind::Unavailable | TransportErrorKind::Throttled { .. })
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.action, self.name, self.detail)
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// A text from outside as it may be shown: control characters escaped, cut at 200 characters.
pub(crate) fn printable(text: &str) -> String {
    let cut: String = text.chars().take(MAX_SHOWN_NAME_CHARS).collect();
    larder_patterns::shown(&cut)
}
