//! The tables of `fts.db`, and how the file is opened, judged, made and forgotten from.
//!
//! Invariant: a file that is not exactly this release's, or was filled from another index, is emptied before it is used. Connections live
//! for one use, so that a file that was replaced beneath them is never gone on with. What a table holds is told in `docs/format.md`.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, ffi};

use super::SearchError;
use crate::index::Reader;
use crate::model::VersionId;

/// Raised with every change of a table or of what enters it.
const SCHEMA: i64 = 2;
/// "LFTS".
const APPLICATION_ID: i64 = 0x4c46_5453;
/// Another process fills one batch at a time.
const BUSY_TIMEOUT_MS: u64 = 20_000;
/// Pages kept by one connection, in KiB.
const CACHE_KIB: i64 = 8_192;

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE docs(doc INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL, live INTEGER NOT NULL);
CREATE INDEX docs_old ON docs(doc, bytes) WHERE live = 0;
CREATE INDEX docs_bytes ON docs(bytes);
CREATE TABLE places(vid INTEGER PRIMARY KEY, doc INTEGER NOT NULL, sid INTEGER NOT NULL, current INTEGER NOT NULL);
CREATE INDEX places_doc ON places(doc);
CREATE INDEX places_sid ON places(sid) WHERE current = 1;
CREATE VIRTUAL TABLE text USING fts5(body, content='', contentless_delete=1, tokenize='unicode61 remove_diacritics 2');
";

/// The words, open for one use.
pub struct Fts {
    pub(super) conn: Connection,
}

impl Fts {
    /// Opens the file for an index; makes or empties it if it is not of that index. Errors: `Damaged`, to be removed and tried again.
    pub fn open(path: &Path, epoch: u64) -> Result<Fts, SearchError> {
        let mut conn = Connection::open(path)?;
        leave_to_its_user(path);
        conn.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        let _: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        if !is_of(&conn, epoch)? {
            let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have been faster.
            if !is_of(&transaction, epoch)? {
                make(&transaction, epoch)?;
            }
            transaction.commit()?;
        }
        Ok(Fts { conn })
    }

    pub(super) fn number(&self, key: &str) -> Result<i64, SearchError> {
        number(&self.conn, key)
    }

    /// Takes versions out, with their words unless another version has the same content.
    fn forget(&mut self, numbers: &[i64], rewrite: Rewrite) -> Result<bool, SearchError> {
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut is_changed = false;
        for vid in numbers {
            is_changed |= remove_place(&transaction, *vid)?;
        }
        let is_due = is_changed || rewrite == Rewrite::Always;
        if is_due {
            // Until its parts are merged, an index of words still holds those of deleted rows.
            transaction.execute("INSERT INTO text(text) VALUES('optimize')", [])?;
        }
        transaction.commit()?;
        if is_due {
            self.conn.execute_batch("VACUUM")?;
            let moved = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))?;
            if moved != 0 {
                // It went on reading for longer than anybody waits: the log may hold the words still.
                return Err(SearchError::Sqlite(rusqlite::Error::SqliteFailure(
                    ffi::Error::new(ffi::SQLITE_BUSY),
                    None,
                )));
            }
        }
        Ok(is_changed)
    }
}

/// When the file is written anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rewrite {
    /// If something was taken out.
    IfChanged,
    /// In any case.
    Always,
}

/// Forgets what versions say, so that no word of them is found or left in the file at `path`. To be called before, or after, their
/// contents are gone: what cannot be read does not enter again. True if there was something to forget.
pub fn forget(path: &Path, index: &Reader, versions: &[VersionId]) -> Result<bool, SearchError> {
    take_out(path, index, versions, Rewrite::IfChanged)
}

/// The same for what must be in no byte of the file: what was taken out long ago, with what replaced it, is still where it was.
pub fn wipe(path: &Path, index: &Reader, versions: &[VersionId]) -> Result<bool, SearchError> {
    take_out(path, index, versions, Rewrite::Always)
}

fn take_out(path: &Path, index: &Reader, versions: &[VersionId], rewrite: Rewrite) -> Result<bool, SearchError> {
    if !path.exists() {
        return Ok(false);
    }
    let mut numbers = Vec::new();
    for id in versions {
        numbers.extend(index.numbers_of(id)?);
    }
    match Fts::open(path, index.epoch()).and_then(|mut fts| fts.forget(&numbers, rewrite)) {
        // What cannot be read cannot be cleaned either.
        Err(error) if error.is_damage() => remove(path).map(|()| true),
        other => other,
    }
}

/// Deletes the file; whoever searches next makes it anew.
pub fn remove(path: &Path) -> Result<(), SearchError> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(SearchError::File(error)),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn number(conn: &Connection, key: &str) -> Result<i64, SearchError> {
    let mut statement = conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?.unwrap_or(0))
}

pub(super) fn set_number(conn: &Connection, key: &str, value: i64) -> Result<(), SearchError> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)")?.execute((key, value))?;
    Ok(())
}

/// Takes one version out, and the content with it if it was the last that had it. False if it was not there.
pub(super) fn remove_place(conn: &Connection, vid: i64) -> Result<bool, SearchError> {
    let mut find = conn.prepare_cached("SELECT doc FROM places WHERE vid = ?1")?;
    let doc: Option<i64> = find.query_row([vid], |row| row.get(0)).optional()?;
    let Some(doc) = doc else { return Ok(false) };
    conn.prepare_cached("DELETE FROM places WHERE vid = ?1")?.execute([vid])?;
    recount(conn, doc)?;
    Ok(true)
}

/// Counts the current versions of a content again; one that no version has goes.
pub(super) fn recount(conn: &Connection, doc: i64) -> Result<(), SearchError> {
    let mut count = conn.prepare_cached("SELECT count(*), ifnull(sum(current), 0) FROM places WHERE doc = ?1")?;
    let (all, live): (i64, i64) = count.query_row([doc], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if all == 0 {
        conn.prepare_cached("DELETE FROM text WHERE rowid = ?1")?.execute([doc])?;
        conn.prepare_cached("DELETE FROM docs WHERE doc = ?1")?.execute([doc])?;
    } else {
        conn.prepare_cached("UPDATE docs SET live = ?2 WHERE doc = ?1 AND live <> ?2")?.execute((doc, live))?;
    }
    Ok(())
}

/// Words that root looks for in another user's project are that user's to go on with: a file of root's would close them to him.
fn leave_to_its_user(path: &Path) {
    use std::os::unix::fs::{MetadataExt, lchown};
    let of_folder = path.parent().and_then(|folder| folder.metadata().ok());
    let of_file = path.symlink_metadata().ok();
    if let (Some(folder), Some(file)) = (of_folder, of_file)
        && rustix::process::geteuid().is_root()
        && folder.uid() != file.uid()
    {
        // A disk that knows no users has nothing to be left to anybody.
        let _ = lchown(path, Some(folder.uid()), Some(folder.gid()));
    }
}

fn is_of(conn: &Connection, epoch: u64) -> Result<bool, SearchError> {
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let schema: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(application == APPLICATION_ID && schema == SCHEMA && number(conn, "epoch")? == epoch.cast_signed())
}

fn make(conn: &Connection, epoch: u64) -> Result<(), SearchError> {
    let mut tables =
        conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
    let names: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    drop(tables);
    // A virtual table first: what it keeps in tables of its own goes with it.
    for name in names.iter().filter(|name| *name == "text").chain(names.iter().filter(|name| *name != "text")) {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS \"{}\"", name.replace('"', "\"\"")))?;
    }
    conn.execute_batch(TABLES)?;
    set_number(conn, "epoch", epoch.cast_signed())?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", SCHEMA)?;
    Ok(())
}
