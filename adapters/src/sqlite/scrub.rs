//! What was deleted or replaced, taken out of the file: free pages, what is left between rows, and the log.
//!
//! Invariant: only tables of ours are ever written anew. A program that shares the file may go by row numbers, which writing a table anew
//! may change, so that such a file is left to a person. Costs what the file holds, so nobody does it but after a purge.

use super::schema::TABLES_OF_OURS;
use super::session::Session;
use crate::{AdapterError, ErrorKind};

impl Session {
    /// As `FileSyncAdapter::scrub`.
    pub(super) fn scrub(&mut self) -> Result<Option<String>, AdapterError> {
        let failed = self.failed("take what was deleted out of");
        if self.is_shared().map_err(&failed)? {
            let path = self.path.display();
            return Ok(Some(format!(
                "{path} holds tables of other programs; its free pages may hold what was deleted until somebody runs `VACUUM` in it"
            )));
        }
        self.connection.flush_prepared_statement_cache();
        self.connection.execute_batch("VACUUM").map_err(&failed)?;
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match moved.map_err(&failed)? {
            0 => Ok(None),
            _ => Err(AdapterError::new(
                ErrorKind::Unavailable,
                format!("take what was deleted out of {}: another program reads its log", self.path.display()),
            )),
        }
    }

    /// True if somebody made a table in it that is none of ours.
    fn is_shared(&self) -> rusqlite::Result<bool> {
        let mut tables = self.connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
        let names = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(names.iter().any(|name| !name.starts_with("sqlite_") && !TABLES_OF_OURS.contains(&name.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::{Role, Session, Sync};
    use super::*;
    use crate::{Expected, Write};

    /// Writes a row, and another text over it; returns a part of the first.
    fn replaced(session: &mut Session) -> String {
        let text: String = (0..400).map(|n| format!("{n} of a secret, ")).collect();
        for (text, expected) in [(text.as_str(), Expected::Absent), ("clean", Expected::Absent)] {
            let record = crate::contract::text_record("app", "a.md", text);
            if text == "clean" {
                let delete = Write::Delete { id: record.id(), expected: revision(session) };
                session.apply(&[&(&delete).into()], Sync::Now).expect("deletes");
            }
            let set = Write::Set { record, expected };
            let answers = session.apply(&[&(&set).into()], Sync::Now).expect("writes");
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        }
        text[2_000..2_048].to_owned()
    }

    fn revision(session: &mut Session) -> Expected {
        let id = crate::contract::text_record("app", "a.md", "").id();
        Expected::Revision(session.get(&id).expect("reads").expect("a row").revision)
    }

    fn holds(session: &Session, needle: &str) -> bool {
        ["", "-wal"].iter().any(|suffix| {
            let mut path = session.path.clone().into_os_string();
            path.push(suffix);
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
        })
    }

    #[test]
    fn what_was_deleted_is_in_no_byte_of_the_file_or_its_log() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = Session::open(&dir.path().join("sync.db"), Role::Writer, 1_000).expect("opens");
        let secret = replaced(&mut session);
        assert!(holds(&session, &secret), "SQLite leaves it where it was");

        assert_eq!(session.scrub().expect("writes all anew"), None);

        assert!(!holds(&session, &secret));
        let reader = Session::open(&session.path, Role::Reader, 0).expect("opens");
        let rows = reader.connection.query_row("SELECT content FROM files", [], |row| row.get::<_, String>(0));
        assert_eq!(rows.expect("reads"), "clean");
    }

    #[test]
    fn a_file_that_other_programs_share_is_left_to_a_person() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = Session::open(&dir.path().join("sync.db"), Role::Writer, 1_000).expect("opens");
        let secret = replaced(&mut session);
        let other = rusqlite::Connection::open(&session.path).expect("opens");
        other
            .execute_batch("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1), (2); DELETE FROM theirs WHERE x = 1")
            .expect("writes");

        let told = session.scrub().expect("looks").expect("a sentence");

        assert!(told.contains("`VACUUM`") && holds(&session, &secret), "{told}");
        let row = other.query_row("SELECT rowid FROM theirs", [], |row| row.get::<_, i64>(0));
        assert_eq!(row.expect("reads"), 2);
    }

    #[test]
    fn a_file_that_somebody_reads_is_tried_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = Session::open(&dir.path().join("sync.db"), Role::Writer, 0).expect("opens");
        let secret = replaced(&mut session);
        let reader = rusqlite::Connection::open(&session.path).expect("opens");
        reader.execute_batch("BEGIN; SELECT count(*) FROM files").expect("reads");

        let refused = session.scrub().expect_err("is put off");
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");

        reader.execute_batch("COMMIT").expect("ends");
        assert_eq!(session.scrub().expect("writes all anew"), None);
        assert!(!holds(&session, &secret));
    }
}
