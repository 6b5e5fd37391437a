//! Why the index could not answer, as facts a caller can act on.

use std::path::PathBuf;

/// Why the index could not answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file contradicts itself: delete and rebuild it, nothing is lost.
    #[error("read index: damaged: {what}; `larder rebuild` makes it anew")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// A newer release wrote it, and this handle may not delete it.
    #[error("read index: schema {found} is newer than {known}; upgrade larder")]
    Newer {
        /// The file's schema number.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// There is no index to read.
    #[error("open index {path}: it is not there yet; `larder sync` makes it")]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file of the index could not be removed or made.
    #[error("replace index {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// SQLite refused for a reason that is not damage: locked, disk full, no permission.
    #[error("use index: {0}")]
    Sqlite(#[source] rusqlite::Error),
}

impl IndexError {
    /// True if deleting and rebuilding the index heals this.
    pub fn is_damage(&self) -> bool {
        matches!(self, IndexError::Damaged { .. })
    }

    pub(super) fn damaged(what: impl Into<String>) -> IndexError {
        IndexError::Damaged { what: what.into() }
    }
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> IndexError {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let broken_value = matches!(
            error,
            rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        );
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => IndexError::damaged(error.to_string()),
            _ if broken_value => IndexError::damaged(error.to_string()),
            _ => IndexError::Sqlite(error),
        }
    }
}

impl From<rusqlite::types::FromSqlError> for IndexError {
    fn from(error: rusqlite::types::FromSqlError) -> IndexError {
        IndexError::damaged(error.to_string())
    }
}
