//! What went wrong, sorted by what a person or script can do about it.
//!
//! Invariant: each kind has one exit code; every user error carries what to do.

use crate::config::ConfigError;
use crate::index::IndexError;
use crate::ledger::{IdentityError, LedgerError};
use crate::scan::ScanError;
use crate::state::StateError;
use crate::sync::SyncError;
use larder_adapters::{AdapterError, ErrorKind};

/// Who can do something about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The user: exit code 1.
    User,
    /// A peer or backend is away: exit code 2.
    Unavailable,
    /// Conflicts or held deletions remain: exit code 3.
    Conflicts,
    /// Damage was found: exit code 4.
    Damage,
    /// A defect of Larder or of the machine: exit code 70.
    Internal,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::User => 1,
            Kind::Unavailable => 2,
            Kind::Conflicts => 3,
            Kind::Damage => 4,
            Kind::Internal => 70,
        }
    }
}

/// One clear sentence, what to do, and the kind.
#[derive(Debug)]
pub struct NodeError {
    /// Who can do something.
    pub kind: Kind,
    /// What went wrong. May have several lines (a config error shows its place).
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl NodeError {
    /// An error of the user's, with what to do.
    pub fn user(message: impl Into<String>, hint: impl Into<String>) -> NodeError {
        NodeError { kind: Kind::User, message: message.into(), hint: Some(hint.into()) }
    }

    /// An error of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> NodeError {
        NodeError { kind, message: message.into(), hint: None }
    }
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}

impl From<ConfigError> for NodeError {
    fn from(error: ConfigError) -> NodeError {
        // Problems in a file are drawn, and the drawing holds its own help.
        let message = match (&error, std::error::Error::source(&error)) {
            (ConfigError::Invalid(_), _) => error.render(false),
            (_, Some(source)) => format!("cannot {error}: {source}"),
            (_, None) => format!("cannot {error}"),
        };
        NodeError { kind: Kind::User, message, hint: error.hint() }
    }
}

impl From<StateError> for NodeError {
    fn from(error: StateError) -> NodeError {
        let kind = match error {
            StateError::TooNew => Kind::User,
            StateError::Damaged { .. } | StateError::Form { .. } => Kind::Damage,
            StateError::Sqlite { .. } => Kind::Internal,
        };
        NodeError::new(kind, error.to_string())
    }
}

impl From<LedgerError> for NodeError {
    fn from(error: LedgerError) -> NodeError {
        let kind = match error {
            LedgerError::Missing { .. } | LedgerError::Damaged { .. } | LedgerError::Order { .. } => Kind::Damage,
            _ => Kind::Internal,
        };
        NodeError::new(kind, error.to_string())
    }
}

impl From<IdentityError> for NodeError {
    fn from(error: IdentityError) -> NodeError {
        NodeError::new(Kind::User, error.to_string())
    }
}

impl From<IndexError> for NodeError {
    fn from(error: IndexError) -> NodeError {
        let kind = if error.is_damage() { Kind::Damage } else { Kind::Internal };
        let hint = error.is_damage().then(|| "run `larder rebuild`".to_owned());
        NodeError { kind, message: error.to_string(), hint }
    }
}

impl From<AdapterError> for NodeError {
    fn from(error: AdapterError) -> NodeError {
        let kind = match error.kind {
            ErrorKind::Unsupported => Kind::User,
            ErrorKind::Corrupt => Kind::Damage,
            _ => Kind::Unavailable,
        };
        NodeError::new(kind, error.to_string())
    }
}

impl From<ScanError> for NodeError {
    fn from(error: ScanError) -> NodeError {
        NodeError::new(Kind::User, error.to_string())
    }
}

impl From<SyncError> for NodeError {
    fn from(error: SyncError) -> NodeError {
        match error {
            SyncError::State(error) => error.into(),
            SyncError::Ledger(error) => error.into(),
            SyncError::Index(error) => error.into(),
            SyncError::Scan(error) => error.into(),
            SyncError::Adapter(error) => error.into(),
            refused @ SyncError::Refused { .. } => NodeError::new(Kind::User, refused.to_string()),
            SyncError::Marker(message) => NodeError::new(Kind::User, message),
            SyncError::Transport(error) => NodeError::new(Kind::Unavailable, error.to_string()),
            other => NodeError::new(Kind::Internal, other.to_string()),
        }
    }
}
