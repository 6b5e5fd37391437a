//! What SQLite's errors mean to the engine, each with the sentence that helps.
//!
//! Invariant: only `DatabaseBusy`, full disks and failing I/O are transient; everything else needs a person.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::{AdapterError, ErrorKind};

/// Translates an error that happened while `doing` something with the database at `path`.
pub(super) fn failed(doing: &str, path: &Path, error: rusqlite::Error) -> AdapterError {
    let (kind, why) = meaning(&error);
    let message = format!("{doing} {}: {why}", path.display());
    AdapterError::caused(kind, message, error)
}

/// The same error for another item of the batch it ended.
pub(super) fn again(error: &AdapterError) -> AdapterError {
    AdapterError::new(error.kind, error.message.clone())
}

fn meaning(error: &rusqlite::Error) -> (ErrorKind, String) {
    let (kind, why) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            (ErrorKind::Unavailable, "another program keeps it locked")
        }
        Some(ErrorCode::NotADatabase) => {
            (ErrorKind::Corrupt, "it is not an SQLite database; name another file as `backend`, or move this one away")
        }
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Corrupt,
            "it is damaged; move it aside with its -wal and -shm, the next run fills a new one from the ledger",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            (ErrorKind::Denied, "it may only be read; make the file and its folder writable")
        }
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full"),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the disk failed or its quota is used up"),
        Some(ErrorCode::CannotOpen) => (ErrorKind::Unavailable, "it cannot be opened"),
        Some(ErrorCode::OutOfMemory) => (ErrorKind::Unavailable, "memory is short"),
        Some(ErrorCode::TooBig) => (ErrorKind::TooLarge, "a value is beyond what SQLite holds"),
        Some(_) => {
            return (ErrorKind::Corrupt, format!("its tables are not as expected ({error})"));
        }
        None => return (ErrorKind::Corrupt, error.to_string()),
    };
    (kind, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn every_failure_has_the_kind_a_caller_can_act_on() {
        let cases = [
            (ffi::SQLITE_BUSY, ErrorKind::Unavailable),
            (ffi::SQLITE_FULL, ErrorKind::Unavailable),
            (ffi::SQLITE_IOERR, ErrorKind::Unavailable),
            (ffi::SQLITE_READONLY, ErrorKind::Denied),
            (ffi::SQLITE_NOTADB, ErrorKind::Corrupt),
            (ffi::SQLITE_CORRUPT, ErrorKind::Corrupt),
            (ffi::SQLITE_ERROR, ErrorKind::Corrupt),
            (ffi::SQLITE_TOOBIG, ErrorKind::TooLarge),
        ];

        for (code, kind) in cases {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(failed("read", Path::new("sync.db"), error).kind, kind, "code {code}");
        }
    }
}
