//! What went wrong, sorted by what a person or script can do about it.
//!
//! Invariant: each kind has one exit code; every user error carries what to do.

use crate::config::ConfigError;
use crate::index::IndexError;
use crate::ledger::{IdentityError, LedgerError};
use crate::scan::ScanError;
use crate::search::SearchError;
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

    /// Of what a backend says, whenever it says it.
    ///
    /// One whose tables are missing, or where something else answers, is one that cannot be used: what was recorded is here, and whole.
    pub(super) fn of_backend(kind: ErrorKind) -> Kind {
        match kind {
            ErrorKind::Unsupported => Kind::User,
            _ => Kind::Unavailable,
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

/// What to do about a full disk.
const MAKE_ROOM: &str = "make room on the disk and run it again; nothing is lost";

impl NodeError {
    /// True if the disk was full: what runs on finds room some day, without anybody who asks for it again.
    pub fn is_about_room(&self) -> bool {
        self.hint.as_deref() == Some(MAKE_ROOM)
    }

    /// An error of the user's, with what to do.
    pub fn user(message: impl Into<String>, hint: impl Into<String>) -> NodeError {
        NodeError { kind: Kind::User, message: message.into(), hint: Some(hint.into()) }
    }

    /// What the machine refused: a full disk or a missing right is the user's to mend, the rest is a defect.
    pub(super) fn of_machine(error: &(dyn std::error::Error + 'static)) -> NodeError {
        let hint = match refusal(error) {
            Some(Refusal::NoSpace) => MAKE_ROOM,
            Some(Refusal::NoRight) => "check who owns the project's folder, and that it can be written to",
            None => return NodeError::new(Kind::Internal, error.to_string()),
        };
        NodeError::user(error.to_string(), hint)
    }

    /// An error of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> NodeError {
        NodeError { kind, message: message.into(), hint: None }
    }
}

/// What a machine refuses for a reason that a person can mend.
enum Refusal {
    NoSpace,
    NoRight,
}

/// Looks for it in an error and in what caused it.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    use std::io::ErrorKind as Io;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            match error.kind() {
                Io::StorageFull | Io::QuotaExceeded => return Some(Refusal::NoSpace),
                Io::PermissionDenied | Io::ReadOnlyFilesystem => return Some(Refusal::NoRight),
                _ => {}
            }
        }
        if let Some(rusqlite::Error::SqliteFailure(failure, _)) = error.downcast_ref::<rusqlite::Error>() {
            match failure.code {
                rusqlite::ErrorCode::DiskFull => return Some(Refusal::NoSpace),
                rusqlite::ErrorCode::ReadOnly
                | rusqlite::ErrorCode::PermissionDenied
                | rusqlite::ErrorCode::CannotOpen => {
                    return Some(Refusal::NoRight);
                }
                _ => {}
            }
        }
        next = error.source();
    }
    None
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
            StateError::Sqlite { ref source, .. } if is_other_file(source) => {
                let hint =
                    "move .larder/state.db away and run `larder sync`: files are compared afresh, nothing is lost";
                return NodeError { hint: Some(hint.to_owned()), ..NodeError::new(Kind::Damage, error.to_string()) };
            }
            StateError::Sqlite { .. } => return NodeError::of_machine(&error),
        };
        NodeError::new(kind, error.to_string())
    }
}

/// The file is not as this release made it: a table is missing, or pages are damaged.
fn is_other_file(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    matches!(error.sqlite_error_code(), Some(Unknown | DatabaseCorrupt | NotADatabase))
}

impl From<LedgerError> for NodeError {
    fn from(error: LedgerError) -> NodeError {
        let kind = match error {
            LedgerError::Missing { .. } | LedgerError::Damaged { .. } | LedgerError::Order { .. } => Kind::Damage,
            _ => return NodeError::of_machine(&error),
        };
        let hint = Some("run `larder verify`: it names what is damaged and what repairs it".to_owned());
        NodeError { kind, message: error.to_string(), hint }
    }
}

impl From<IdentityError> for NodeError {
    fn from(error: IdentityError) -> NodeError {
        let hint = "check who may read .larder/origin.json and device.key; if they are gone or damaged, `larder origin new` makes this folder a machine of its own, and nothing is lost";
        NodeError::user(error.to_string(), hint)
    }
}

impl From<IndexError> for NodeError {
    fn from(error: IndexError) -> NodeError {
        match error {
            error if error.is_damage() => {
                let hint = Some("run `larder rebuild`".to_owned());
                NodeError { kind: Kind::Damage, message: error.to_string(), hint }
            }
            IndexError::Newer { .. } => NodeError::user(error.to_string(), "upgrade larder on this machine"),
            IndexError::Absent { .. } => NodeError::user(error.to_string(), "run `larder sync` once"),
            other => NodeError::of_machine(&other),
        }
    }
}

impl From<SearchError> for NodeError {
    fn from(error: SearchError) -> NodeError {
        match error {
            SearchError::Index(error) => error.into(),
            other => NodeError::of_machine(&other),
        }
    }
}

impl From<AdapterError> for NodeError {
    fn from(error: AdapterError) -> NodeError {
        NodeError::new(Kind::of_backend(error.kind), error.to_string())
    }
}

impl From<ScanError> for NodeError {
    fn from(error: ScanError) -> NodeError {
        NodeError::user(error.to_string(), "`larder doctor` looks at the folder and its permissions")
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
            refused @ SyncError::Refused { .. } => {
                NodeError::user(refused.to_string(), "`larder status` shows how things stand")
            }
            SyncError::Stopped(stop) => super::status::stopped(&stop),
            SyncError::Marker(message) => NodeError::new(Kind::User, message),
            SyncError::Transport(error) => NodeError::new(Kind::Unavailable, error.to_string()),
            other => NodeError::of_machine(&other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_missing_right_are_the_users_to_mend() {
        let failed = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        let of_state =
            |code| NodeError::from(SyncError::State(StateError::Sqlite { doing: "write", source: failed(code) }));
        let of_io = |kind| NodeError::from(SyncError::Io { doing: "write", source: std::io::Error::from(kind) });

        for error in [of_state(rusqlite::ffi::SQLITE_FULL), of_io(std::io::ErrorKind::StorageFull)] {
            assert_eq!(error.kind, Kind::User);
            assert!(error.hint.is_some_and(|hint| hint.contains("make room")));
        }
        assert_eq!(of_io(std::io::ErrorKind::PermissionDenied).kind, Kind::User);
        assert_eq!(of_state(rusqlite::ffi::SQLITE_MISUSE).kind, Kind::Internal);
    }

    #[test]
    fn a_state_without_its_tables_is_damage_and_the_sentence_says_what_to_do() {
        let connection = rusqlite::Connection::open_in_memory().expect("opens");
        let Err(source) = connection.prepare("SELECT 1 FROM peers") else { panic!("there is no such table") };

        let error = NodeError::from(StateError::Sqlite { doing: "list peers", source });

        assert_eq!(error.kind, Kind::Damage);
        assert!(error.hint.is_some_and(|hint| hint.contains("run `larder sync`")));
    }
}
