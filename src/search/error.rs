//! Why a search has no answer, as facts a caller can act on.

use crate::index::IndexError;

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The file contradicts itself; it is made anew at the next attempt.
    #[error("read fts.db: damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// SQLite refused: a full disk, a missing right, or another process that holds it for too long.
    #[error("use fts.db: {0}")]
    Sqlite(#[source] rusqlite::Error),
    /// A file could not be removed.
    #[error("replace fts.db: {0}")]
    File(#[source] std::io::Error),
    /// The index has no answer.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl SearchError {
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, SearchError::Damaged { .. })
    }
}

impl From<rusqlite::Error> for SearchError {
    fn from(error: rusqlite::Error) -> SearchError {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => SearchError::Damaged { what: error.to_string() },
            _ => SearchError::Sqlite(error),
        }
    }
}
