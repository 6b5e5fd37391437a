//! `state.db`: what only this machine knows and nothing else can tell again.
//!
//! Bases (what each file on disk agrees with), intents (replaces about to happen), the undo list, pinned keys, cursors,
//! watermarks, what waits and why, and the journal that `status` is computed from.
//!
//! Invariant: one commit a batch; an intent is durable before the rename it speaks of, a base only after it.
//! It holds no contents and nothing that travels. Losing it costs no data: the next start is a first contact.

mod base;
mod intent;
mod journal;

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use rusqlite_migration::{M, Migrations};

pub use base::{Base, BaseStat};
pub use intent::{Displaced, Intent, UndoStep};
pub use journal::{Direction, PeerLine, Pending, Problem};

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// SQLite refused.
    #[error("{doing} in state.db: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's word.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer release.
    #[error("open state.db: it was written by a newer release of larder; upgrade larder on this machine")]
    TooNew,
    /// The file is damaged.
    #[error(
        "open state.db: it is damaged ({why}); move it away and run `larder up`: files are compared afresh, nothing is lost"
    )]
    Damaged {
        /// SQLite's word.
        why: String,
    },
    /// A stored value has the wrong form.
    #[error("read {what} from state.db: the stored value has the wrong form")]
    Form {
        /// Which value.
        what: &'static str,
    },
}

type Result<T> = std::result::Result<T, StateError>;

fn sqlite(doing: &'static str) -> impl Fn(rusqlite::Error) -> StateError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StateError::Damaged { why: source.to_string() },
        _ => StateError::Sqlite { doing, source },
    }
}

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE bases(
  path TEXT PRIMARY KEY, channel TEXT NOT NULL, versions BLOB NOT NULL,
  hash BLOB, size INTEGER NOT NULL, kind INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, device INTEGER NOT NULL,
  resume BLOB
) WITHOUT ROWID, STRICT;
CREATE TABLE recording(
  path TEXT PRIMARY KEY, channel TEXT NOT NULL, versions BLOB NOT NULL,
  hash BLOB, size INTEGER NOT NULL, kind INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, device INTEGER NOT NULL,
  resume BLOB
) WITHOUT ROWID, STRICT;
CREATE TABLE intents(
  id TEXT PRIMARY KEY, path TEXT NOT NULL, channel TEXT NOT NULL, old_versions BLOB NOT NULL, old_hash BLOB,
  new_versions BLOB NOT NULL, new_hash BLOB, new_size INTEGER NOT NULL, new_kind INTEGER NOT NULL, beside INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE displaced(
  id TEXT PRIMARY KEY, path TEXT NOT NULL, channel TEXT NOT NULL, versions BLOB NOT NULL, hash BLOB, since_ms INTEGER NOT NULL,
  beside INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE undo(
  batch INTEGER NOT NULL, path TEXT NOT NULL, channel TEXT NOT NULL, old_hash BLOB, old_size INTEGER NOT NULL,
  old_kind INTEGER NOT NULL, PRIMARY KEY(batch, path)
) WITHOUT ROWID, STRICT;
CREATE TABLE pending(path TEXT NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL, since_ms INTEGER NOT NULL, PRIMARY KEY(path, what)) WITHOUT ROWID, STRICT;
CREATE TABLE outbox(path TEXT PRIMARY KEY, channel TEXT NOT NULL, attempts INTEGER NOT NULL, next_ms INTEGER NOT NULL, error TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE problems(path TEXT NOT NULL, what TEXT NOT NULL, source TEXT NOT NULL, since_ms INTEGER NOT NULL, PRIMARY KEY(source, path)) WITHOUT ROWID, STRICT;
CREATE TABLE keys(chain TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE watermarks(store TEXT NOT NULL, chain TEXT NOT NULL, seq INTEGER NOT NULL, holes TEXT NOT NULL, PRIMARY KEY(store, chain)) WITHOUT ROWID, STRICT;
CREATE TABLE peers(
  store TEXT NOT NULL, direction TEXT NOT NULL, success_ms INTEGER, failure_ms INTEGER, error TEXT, PRIMARY KEY(store, direction)
) WITHOUT ROWID, STRICT;
CREATE TABLE held(version BLOB PRIMARY KEY, path TEXT NOT NULL, origin TEXT NOT NULL, since_ms INTEGER NOT NULL) WITHOUT ROWID, STRICT;
";

/// An append in place knows where it began.
const APPENDS: &str = "ALTER TABLE intents ADD COLUMN append_from INTEGER;";

/// A log up to this many bytes stays beside the file when it is closed: moving it in writes every page a second time, and
/// reading it again at the next start costs less than a millisecond.
const KEPT_LOG_BYTES: u64 = 1 << 20;
/// Small commits write few small pages; rows with long paths still fit one. Only a new file takes it.
const PAGE_BYTES: u32 = 2048;

/// The open `state.db`. One writer at a time: the holder of the project's lock.
pub struct State {
    connection: Connection,
}

impl Drop for State {
    fn drop(&mut self) {
        let log = self.connection.path().map(|path| format!("{path}-wal"));
        let log_bytes = log.and_then(|log| std::fs::metadata(log).ok()).map_or(0, |log| log.len());
        if log_bytes <= KEPT_LOG_BYTES {
            // Refused, the log is moved into the file as ever.
            let keep = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.connection.set_db_config(keep, true);
        }
    }
}

impl State {
    /// Opens or creates the database, brings the schema up to date.
    ///
    /// Errors: damaged, of a newer release, or SQLite's own.
    pub fn open(path: &Path) -> Result<State> {
        let connection = Connection::open(path).map_err(sqlite("open"))?;
        State::prepare(connection)
    }

    /// Reads every page, if the last holder did not end in good order or nobody did so since yesterday.
    ///
    /// What is read between two such looks is still refused as damaged where SQLite finds it so.
    pub fn check_if_due(&self, left_open: bool, now_ms: u64) -> Result<()> {
        const DAY_MS: u64 = 24 * 3_600_000;
        let today = (now_ms / DAY_MS).cast_signed();
        if !left_open && self.meta_i64("checked_day")? == Some(today) {
            return Ok(());
        }
        let verdict = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match verdict.map_err(sqlite("check"))?.as_str() {
            "ok" => self.set_meta_i64("checked_day", today),
            verdict => Err(StateError::Damaged { why: verdict.to_owned() }),
        }
    }

    /// Notes which start of the machine this is.
    ///
    /// If the machine stopped under a holder, the index may lack its newest rows, and others may get their numbers: the marks of how
    /// far its rows were worked off are worth nothing then.
    pub fn note_boot(&mut self, boot: &str, left_open: bool) -> Result<()> {
        if self.meta_text("boot")?.as_deref() == Some(boot) {
            return Ok(());
        }
        self.transaction(|state| {
            if left_open {
                state.set_meta("materialised", None)?;
                state.set_meta("mirrored", None)?;
            }
            state.set_meta("boot", Some(boot.as_bytes()))
        })
    }

    /// A database in memory, for tests and simulations.
    pub fn in_memory() -> Result<State> {
        State::prepare(Connection::open_in_memory().map_err(sqlite("open"))?)
    }

    /// Opens an existing database for reading beside a running daemon; `None` if there is none.
    pub fn open_read_only(path: &Path) -> Result<Option<State>> {
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite("open"))?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite("open"))?;
        Ok(Some(State { connection }))
    }

    fn prepare(mut connection: Connection) -> Result<State> {
        let damaged = |source: rusqlite::Error| StateError::Damaged { why: source.to_string() };
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite("open"))?;
        connection
            .execute_batch(&format!("PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-4096; PRAGMA wal_autocheckpoint=800; PRAGMA journal_size_limit=4194304;"))
            .map_err(damaged)?;
        // Plans do not depend on bound values; without this, statements are compiled again at every binding.
        connection
            .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .map_err(sqlite("configure"))?;
        connection.set_prepared_statement_cache_capacity(128);
        let migrations = Migrations::new(vec![M::up(SCHEMA), M::up(APPENDS)]);
        migrations.to_latest(&mut connection).map_err(|error| match error {
            rusqlite_migration::Error::MigrationDefinition(_) => StateError::TooNew,
            rusqlite_migration::Error::RusqliteError { err, .. } => {
                StateError::Sqlite { doing: "migrate", source: err }
            }
            other => StateError::Damaged { why: other.to_string() },
        })?;
        Ok(State { connection })
    }

    /// Runs `work` in one transaction: all of it or none; durable when this returns.
    pub fn transaction<T, E: From<StateError>>(
        &mut self,
        work: impl FnOnce(&State) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite("begin"))?;
        match work(self) {
            Ok(value) => match self.connection.execute_batch("COMMIT") {
                Ok(()) => Ok(value),
                Err(error) => {
                    self.roll_back();
                    Err(sqlite("commit")(error).into())
                }
            },
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// A transaction that stayed open would be in the way of every later one, and what those commit would not be durable.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // A failed rollback leaves the transaction to the connection's drop, which also undoes it.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Runs `work` in one transaction that a killed process leaves behind whole, but a power cut may lose.
    pub fn quick_transaction<T, E: From<StateError>>(
        &mut self,
        work: impl FnOnce(&State) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.relax(true)?;
        let outcome = self.transaction(work);
        self.relax(false)?;
        outcome
    }

    /// Runs `work` so that what it commits survives a killed process, but maybe not a power cut; part of an open transaction, if
    /// there is one.
    pub(crate) fn quickly<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.connection.is_autocommit() {
            return work();
        }
        self.relax(true)?;
        let outcome = work();
        self.relax(false)?;
        outcome
    }

    fn relax(&self, relaxed: bool) -> Result<()> {
        let level = if relaxed { "PRAGMA synchronous=NORMAL" } else { "PRAGMA synchronous=FULL" };
        self.connection.execute_batch(level).map_err(sqlite("set how commits are synced"))
    }

    /// Commits something else, durably, over whatever a failed commit left in the log: nobody reads that afterwards.
    pub(crate) fn overwrite_log(&mut self) -> Result<()> {
        const COUNT: &str = "log_overwritten";
        self.transaction(|state| state.set_meta_i64(COUNT, state.meta_i64(COUNT)?.unwrap_or(0).wrapping_add(1)))
    }

    /// Empties the cache of pages.
    pub fn shrink(&self) {
        // What is not given back now is given back when the cache is full.
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }

    /// A single value by name.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.connection
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
            .map_err(sqlite("read meta"))
    }

    /// A single number by name.
    pub fn meta_i64(&self, key: &str) -> Result<Option<i64>> {
        let Some(bytes) = self.meta(key)? else { return Ok(None) };
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| StateError::Form { what: "a number" })?;
        Ok(Some(i64::from_le_bytes(bytes)))
    }

    /// A single text by name.
    pub fn meta_text(&self, key: &str) -> Result<Option<String>> {
        let text = self.meta(key)?.map(String::from_utf8).transpose();
        text.map_err(|_| StateError::Form { what: "a text" })
    }

    /// Every value whose name begins with `prefix`, by name.
    pub fn metas_below(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT key, value FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key";
        self.rows("read meta", sql, [prefix], |row| Ok(Ok((row.get(0)?, row.get(1)?))))
    }

    /// Sets a value; `None` removes it. What is there already is not written again: doing nothing writes nothing.
    pub fn set_meta(&self, key: &str, value: Option<&[u8]>) -> Result<()> {
        if self.meta(key)?.as_deref() == value {
            return Ok(());
        }
        let done = match value {
            Some(value) => self
                .connection
                .prepare_cached("INSERT INTO meta(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2")
                .and_then(|mut s| s.execute((key, value))),
            None => {
                self.connection.prepare_cached("DELETE FROM meta WHERE key = ?1").and_then(|mut s| s.execute([key]))
            }
        };
        done.map(drop).map_err(sqlite("write meta"))
    }

    /// Sets a number.
    pub fn set_meta_i64(&self, key: &str, value: i64) -> Result<()> {
        self.set_meta(key, Some(&value.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests;
