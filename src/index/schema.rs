//! The tables of `index.db`, and how the file is opened, judged and made.
//!
//! Invariant: nothing here is the only copy of anything. A file that is damaged, older or newer is deleted and made
//! anew; the caller then replays the ledger. What a table holds is told in `docs/format.md`, section "index.db".

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::IndexError;

/// Raised with every change of a table or of what a blob in it holds.
pub(super) const SCHEMA: i64 = 6;
/// "LIDX": tells an index from any other SQLite file.
const APPLICATION_ID: i64 = 0x4c49_4458;
const BUSY_TIMEOUT_MS: u64 = 10_000;
const STATEMENTS: usize = 128;
// All connections of a process share one pool here, in which a cache may grow past its own bound as long as the pool does not pass the
// sum of all bounds counted in pages, whatever their size. So the pool needs a bound in bytes. What is dirty may pass it.
const ALL_CACHES_BYTES: i64 = 8 << 20;
/// A log up to this many bytes stays beside the file when the last connection closes: moving it in writes and syncs every
/// page, which no edit should wait for, and reading it again at the next start costs less than a millisecond.
const KEPT_LOG_BYTES: u64 = 1 << 20;

/// The root directory's row; its parent is 0, which is no row.
pub(super) const ROOT_DIR: i64 = 1;

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE spaces(spid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE origins(oid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, versions INTEGER NOT NULL DEFAULT 0,
  live INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0);
CREATE TABLE chains(cid INTEGER PRIMARY KEY, spid INTEGER NOT NULL, oid INTEGER NOT NULL, generation INTEGER NOT NULL,
  seq INTEGER, hash BLOB, last_n INTEGER NOT NULL DEFAULT 0, seen_n INTEGER NOT NULL DEFAULT 0, forked INTEGER,
  floor INTEGER NOT NULL DEFAULT 1, floor_at INTEGER NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0, UNIQUE(spid, oid, generation));
CREATE TABLE closed(cid INTEGER, seq INTEGER, hash BLOB, last_n INTEGER NOT NULL, key BLOB NOT NULL, by INTEGER NOT NULL,
  PRIMARY KEY(cid, seq, hash, by)) WITHOUT ROWID;
CREATE TABLE ahead(cid INTEGER, seq INTEGER, hash BLOB NOT NULL, PRIMARY KEY(cid, seq)) WITHOUT ROWID;
CREATE TABLE unknown(cid INTEGER, seq INTEGER, hash BLOB, count INTEGER NOT NULL, PRIMARY KEY(cid, seq, hash)) WITHOUT ROWID;

CREATE TABLE dirs(did INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE(parent, name));
CREATE TABLE presence(did INTEGER, tree INTEGER, entries INTEGER NOT NULL, PRIMARY KEY(did, tree)) WITHOUT ROWID;
CREATE TABLE slots(sid INTEGER PRIMARY KEY, did INTEGER NOT NULL, name TEXT NOT NULL, spid INTEGER NOT NULL,
  oid INTEGER NOT NULL, last INTEGER NOT NULL, heads BLOB, state INTEGER NOT NULL, author INTEGER NOT NULL, own INTEGER,
  UNIQUE(did, name, spid, oid));
CREATE INDEX slots_open ON slots(sid) WHERE heads IS NOT NULL;
CREATE TABLE authors(sid INTEGER, cid INTEGER, vid INTEGER NOT NULL, PRIMARY KEY(sid, cid)) WITHOUT ROWID;

CREATE TABLE versions(vid INTEGER PRIMARY KEY, id BLOB NOT NULL, sid INTEGER NOT NULL, prev INTEGER NOT NULL,
  cid INTEGER NOT NULL, n INTEGER NOT NULL, lag INTEGER NOT NULL, hlc INTEGER NOT NULL, age INTEGER NOT NULL,
  flags INTEGER NOT NULL, content BLOB, size INTEGER, ext BLOB);
CREATE INDEX versions_id ON versions(substr(id, 1, 8));
CREATE INDEX versions_dot ON versions(cid, n);
CREATE TABLE touches(vid INTEGER PRIMARY KEY, sid INTEGER NOT NULL);
CREATE TABLE waiting(wid INTEGER PRIMARY KEY, id BLOB NOT NULL, cid INTEGER NOT NULL, line BLOB NOT NULL, UNIQUE(id, cid));
CREATE TABLE wants(parent BLOB, wid INTEGER, PRIMARY KEY(parent, wid)) WITHOUT ROWID;
CREATE TABLE rejected(id BLOB, cid INTEGER, path TEXT NOT NULL, why TEXT NOT NULL, PRIMARY KEY(id, cid)) WITHOUT ROWID;

CREATE TABLE manifests(content BLOB, key BLOB, size INTEGER NOT NULL, extends BLOB, keep INTEGER NOT NULL,
  added BLOB NOT NULL, whole INTEGER NOT NULL, PRIMARY KEY(content, key)) WITHOUT ROWID;
CREATE TABLE artifacts(aid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE blocks(bid INTEGER PRIMARY KEY, aid INTEGER NOT NULL, offset INTEGER NOT NULL, stored INTEGER NOT NULL,
  raw INTEGER NOT NULL, UNIQUE(aid, offset, stored, raw));
CREATE TABLE segments(hash BLOB PRIMARY KEY, bid INTEGER NOT NULL, start INTEGER NOT NULL, len INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE orphans(hash BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE dropped(hash BLOB, cid INTEGER, PRIMARY KEY(hash, cid)) WITHOUT ROWID;
CREATE TABLE absent(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE retired(origin TEXT, hlc INTEGER, PRIMARY KEY(origin, hlc)) WITHOUT ROWID;
CREATE TABLE approved(id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE members(hash BLOB, cid INTEGER, line BLOB NOT NULL, PRIMARY KEY(hash, cid)) WITHOUT ROWID;
CREATE TABLE purges(id BLOB, cid INTEGER, hlc INTEGER, PRIMARY KEY(id, cid, hlc)) WITHOUT ROWID;
CREATE TABLE purged(hash BLOB PRIMARY KEY, cid INTEGER NOT NULL, hlc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE purged_segments(hash BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE holding(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE stars(path TEXT, spid INTEGER, origin TEXT, hash BLOB, cid INTEGER, hlc INTEGER NOT NULL,
  is_on INTEGER NOT NULL, prev BLOB NOT NULL, PRIMARY KEY(path, spid, origin, hash, cid)) WITHOUT ROWID;
CREATE TABLE lacks(vid INTEGER PRIMARY KEY, hash BLOB NOT NULL);
CREATE INDEX lacks_hash ON lacks(hash);
INSERT INTO dirs VALUES(1, 0, '');
INSERT INTO meta VALUES('versions', 0), ('slots', 0), ('live', 0), ('bytes', 0);
";

/// Why a new index was made; the caller replays the whole ledger into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FreshReason {
    /// There was none.
    Absent,
    /// It contradicted itself.
    Damaged(String),
    /// Another release wrote it, newer or older.
    OtherSchema(i64),
}

/// What `Index::open` found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// The index as it was left; replay what came since.
    Existing,
    /// A new, empty one.
    Fresh {
        /// Why.
        reason: FreshReason,
    },
}

/// Opens the index for writing, deleting and making it anew if it is no good.
pub(super) fn open_or_create(path: &Path, epoch: u64) -> Result<(Connection, Opened), IndexError> {
    let reason = match std::fs::metadata(path) {
        Ok(file) if file.len() > 0 => match open_existing(path) {
            Ok(conn) => return Ok((conn, Opened::Existing)),
            Err(IndexError::Newer { found, .. }) => FreshReason::OtherSchema(found),
            Err(IndexError::Damaged { what }) => FreshReason::Damaged(what),
            Err(other) => return Err(other),
        },
        Ok(_) => FreshReason::Absent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => FreshReason::Absent,
        Err(source) => return Err(IndexError::File { path: path.to_owned(), source }),
    };
    remove(path)?;
    Ok((create(path, epoch)?, Opened::Fresh { reason }))
}

/// Opens an index for reading only.
pub(super) fn open_reader(path: &Path) -> Result<Connection, IndexError> {
    if !path.exists() {
        return Err(IndexError::Absent { path: path.to_owned() });
    }
    // Read-write flags, because a reader of a WAL database maps its shared memory; query_only keeps it from writing.
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    judge(&conn)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// To be called before a connection closes: a short log is left as it is.
pub(super) fn keep_short_log(conn: &Connection) {
    let log_bytes = conn.path().map_or(0, |path| log_bytes(Path::new(path)));
    if log_bytes <= KEPT_LOG_BYTES {
        // Refused, the log is moved into the file as ever.
        let _ = conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
}

/// Bytes of the write-ahead log beside an index; 0 if there is none.
pub(super) fn log_bytes(path: &Path) -> u64 {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    std::fs::metadata(name).map_or(0, |file| file.len())
}

fn suspicion(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-suspect");
    name.into()
}

/// Which file stands at `path`: device and number. As long as somebody has it open the number is nobody else's.
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.dev(), facts.ino()))
}

/// Notes that damage was met in that file; refused, it is met again.
pub(super) fn suspect(path: &Path, (device, inode): (u64, u64)) {
    let _ = std::fs::write(suspicion(path), format!("{device} {inode}\n"));
}

/// True if damage was met in the file that stands there now. A note that says of no file counts: it may have been cut off.
pub(super) fn is_suspect(path: &Path) -> bool {
    let Ok(note) = std::fs::read_to_string(suspicion(path)) else { return false };
    let mut numbers = note.split_ascii_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(device)), Some(Ok(inode))) => file_at(path) == Some((device, inode)),
        _ => true,
    }
}

/// The index was looked through and is sound.
pub(super) fn acquit(path: &Path) -> Result<(), IndexError> {
    let path = suspicion(path);
    std::fs::remove_file(&path).map_err(|source| IndexError::File { path, source })
}

/// What is damaged, if anything is. Reads the whole file.
pub(super) fn damage_of(path: &Path) -> Result<Option<String>, IndexError> {
    let look = || -> Result<String, IndexError> {
        Ok(connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?)
    };
    match look() {
        Ok(found) if found == "ok" => Ok(None),
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_damage() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Deletes the index with its write-ahead files.
pub(super) fn remove(path: &Path) -> Result<(), IndexError> {
    for suffix in ["-wal", "-shm", "-journal", "-suspect", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        match std::fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(IndexError::File { path: file, source }),
        }
    }
    Ok(())
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, IndexError> {
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    #[cfg(test)]
    super::traced::note_opened(&conn);
    conn.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Plans do not depend on bound values; without this, statements are compiled again at every binding.
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // 8 MiB of pages; the kernel's cache holds the rest. A mapping would turn a truncated file into a signal.
    conn.pragma_update(None, "cache_size", -8_192)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    let _: i64 = conn.pragma_update_and_check(None, "soft_heap_limit", ALL_CACHES_BYTES, |row| row.get(0))?;
    Ok(conn)
}

fn open_existing(path: &Path) -> Result<Connection, IndexError> {
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    judge(&conn)?;
    write_settings(&conn)?;
    Ok(conn)
}

fn write_settings(conn: &Connection) -> Result<(), IndexError> {
    // A checkpoint syncs, so it never happens by itself on the path of an edit: see `Index::rest`.
    let _: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    let _: i64 = conn.pragma_update_and_check(None, "wal_autocheckpoint", 0, |row| row.get(0))?;
    // One that was moved into the file is cut when it begins again: its length says what waits in it.
    let _: i64 =
        conn.pragma_update_and_check(None, "journal_size_limit", KEPT_LOG_BYTES.cast_signed(), |row| row.get(0))?;
    Ok(())
}

fn judge(conn: &Connection) -> Result<(), IndexError> {
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(IndexError::damaged("the file is no larder index"));
    }
    if found != SCHEMA {
        return Err(IndexError::Newer { found, known: SCHEMA });
    }
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let root: Option<i64> = conn.query_row("SELECT (SELECT parent FROM dirs WHERE did = 1)", [], |row| row.get(0))?;
    if root != Some(0) || pages == 0 {
        return Err(IndexError::damaged("the root directory's row is missing"));
    }
    Ok(())
}

fn create(path: &Path, epoch: u64) -> Result<Connection, IndexError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let conn = connect(path, flags)?;
    conn.pragma_update(None, "page_size", 4096)?;
    write_settings(&conn)?;
    let transaction = conn.unchecked_transaction()?;
    conn.execute_batch(TABLES)?;
    conn.execute("INSERT INTO meta VALUES('epoch', ?1)", [epoch.cast_signed()])?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()?;
    Ok(conn)
}
