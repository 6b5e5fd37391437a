//! One connection to the file, with the settings that make sharing it safe.
//!
//! Invariant: a session knows the inode it opened and the instance it read, so a replaced file is noticed and its revisions never match.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::failure::failed;
use super::schema::{self, MigrationFailure};
use crate::{AdapterError, ErrorKind};

// 3.51.3 ends a bug by which two processes could reset the WAL under each other and corrupt the file.
const OLDEST_SQLITE: i32 = 3_051_003;
// Only a new file takes it. 100,000 rows against a bare loop (4 KiB pages), one run each on a busy machine: 1.5 to 1.7 x with 4 KiB,
// 1.4 to 1.5 with 8, 1.2 with 16; but one edit writes about five pages, so larger ones cost each append.
const PAGE_BYTES: i64 = 4 * 1024;
// With 8 KiB pages, 2, 16 and 64 MiB made no difference beyond the noise of those runs.
const WRITER_CACHE_KIB: i64 = 4 * 1024;
const READER_CACHE_KIB: i64 = 2 * 1024;
// A first mirror leaves a WAL of its own size behind; it is cut back to this at the next reset.
const WAL_KEPT_BYTES: i64 = 16 * 1024 * 1024;
const RETRY_WAL: Duration = Duration::from_millis(5);
// A smaller batch that may wait for its sync is dearer without a log: there it cannot wait, and is synced three times.
const FILL_BYTES: usize = 2 * 1024 * 1024;

// Something new each time: a page that would come to hold what it holds is not written, and then nothing is synced.
const COUNT_SYNC: &str =
    "INSERT INTO file_store (key, value) VALUES ('syncs', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1";

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Creates the file and its schema; writes.
    Writer,
    /// Only reads; never creates anything.
    Reader,
}

/// When a commit reaches the disk for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// Before it is acknowledged.
    Now,
    /// With the next commit that is synced. The file is whole after a power cut all the same.
    Later,
}

impl Sync {
    /// SQLite's word for it.
    fn level(self) -> &'static str {
        match self {
            Self::Now => "FULL",
            Self::Later => "NORMAL",
        }
    }
}

/// An open connection.
pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) path: std::path::PathBuf,
    /// Names this very database; a part of every revision and cursor.
    pub(super) instance: String,
    inode: Option<Inode>,
    /// As the connection is set now.
    sync: Sync,
    /// Commits were acknowledged that no sync has reached for certain.
    is_behind: bool,
    /// Only a log can wait for its sync and leave the file whole, and lets others read meanwhile.
    pub(super) has_log: bool,
    /// It was made here and is being filled for the first time: without a log, every page is written once.
    is_filling: bool,
    has_written: bool,
}

type Inode = (u64, u64);

impl Session {
    /// Opens the file at `path`; a writer brings its schema up to date.
    pub(super) fn open(path: &Path, role: Role, wait_ms: u64) -> Result<Self, AdapterError> {
        let failed = |error| failed("open", path, error);
        if rusqlite::version_number() < OLDEST_SQLITE {
            let found = rusqlite::version();
            let message = format!("open {}: SQLite {found} can corrupt shared files, 3.51.3 is needed", path.display());
            return Err(AdapterError::new(ErrorKind::Unsupported, message));
        }
        let flags = match role {
            Role::Writer => OpenFlags::SQLITE_OPEN_CREATE,
            Role::Reader => OpenFlags::empty(),
        };
        let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        configure(&connection, role, wait_ms).map_err(failed)?;
        let is_filling = role == Role::Writer && is_empty(&connection).map_err(failed)?;
        if role == Role::Writer && !is_filling {
            ensure_wal(&connection, Duration::from_millis(wait_ms)).map_err(failed)?;
        }
        if role == Role::Writer {
            migrate(&mut connection, path)?;
            // From here on `write` numbers its own changes.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(failed)?;
        }
        let instance = "SELECT value FROM file_store WHERE key = 'instance'";
        let instance = connection.query_row(instance, [], |row| row.get(0)).map_err(failed)?;
        let (inode, has_log) = (inode(path), journal_mode(&connection).map_err(failed)? == WAL);
        let path = path.to_owned();
        Ok(Self {
            connection,
            path,
            instance,
            inode,
            sync: Sync::Now,
            is_behind: false,
            has_log,
            is_filling,
            has_written: false,
        })
    }

    /// From here on commits are synced so; one of `bytes` comes next, and a small one that may wait wants a log.
    pub(super) fn expect(&mut self, bytes: usize, sync: Sync) -> rusqlite::Result<()> {
        if sync == Sync::Later && bytes < FILL_BYTES {
            self.end_filling()?;
        }
        if self.has_log && !self.has_written {
            self.begin_log()?;
        }
        self.has_written = true;
        self.sync_commits(sync)
    }

    /// True if what comes next fills a new file and needs no log.
    pub(super) fn expect_filling(&mut self) -> rusqlite::Result<bool> {
        if self.is_filling {
            // Somebody else may have turned the log on; the connection knows when it has looked into the file.
            self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            self.has_log = journal_mode(&self.connection)? == WAL;
            self.is_filling = !self.has_log;
        }
        if self.is_filling {
            self.has_written = true;
            self.sync_commits(Sync::Now)?;
        }
        Ok(self.is_filling)
    }

    /// Writes the head of an empty log together with a page, unsynced: the first commit then has one sync to wait for, not two.
    ///
    /// SQLite syncs a log's head by itself so that frames of its former use cannot be taken for new ones after a power cut. An empty
    /// file has none, and stays empty while the write lock is held.
    fn begin_log(&mut self) -> rusqlite::Result<()> {
        if self.log_bytes() > 0 {
            return Ok(());
        }
        let before = self.sync;
        self.connection.pragma_update(None, "synchronous", "OFF")?;
        let begun = self.write_first_frame();
        self.connection.pragma_update(None, "synchronous", before.level())?;
        begun
    }

    fn write_first_frame(&mut self) -> rusqlite::Result<()> {
        let lock = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        if self.log_bytes() > 0 {
            return Ok(());
        }
        lock.execute(COUNT_SYNC, [])?;
        lock.commit()
    }

    /// How long the log is; one that cannot be looked at may hold anything.
    fn log_bytes(&self) -> u64 {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        match fs::metadata(log) {
            Ok(log) => log.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => u64::MAX,
        }
    }

    /// Turns the log on, unless somebody reads just now: then the next batch, or whoever opens the file next, does.
    fn end_filling(&mut self) -> rusqlite::Result<()> {
        if !self.is_filling {
            return Ok(());
        }
        match ensure_wal(&self.connection, Duration::ZERO) {
            Err(error) if is_busy(&error) => return Ok(()),
            other => other?,
        }
        self.has_log = journal_mode(&self.connection)? == WAL;
        self.is_filling = false;
        Ok(())
    }

    fn sync_commits(&mut self, sync: Sync) -> rusqlite::Result<()> {
        let sync = if self.has_log { sync } else { Sync::Now };
        if self.sync != sync {
            self.connection.pragma_update(None, "synchronous", sync.level())?;
            self.sync = sync;
        }
        Ok(())
    }

    /// Notes that a commit went through.
    pub(super) fn note_commit(&mut self) {
        self.is_behind |= self.sync == Sync::Later;
    }

    /// Makes every commit so far durable: a synced one takes those before it along, if it writes anything.
    pub(super) fn sync_writes(&mut self) -> Result<(), AdapterError> {
        if !self.is_behind {
            return Ok(());
        }
        let failed = self.failed("sync");
        self.sync_commits(Sync::Now).map_err(&failed)?;
        self.connection.execute(COUNT_SYNC, []).map_err(failed)?;
        self.is_behind = false;
        Ok(())
    }

    /// Whether `path` still names the file this session has open.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        self.inode == inode(path)
    }

    pub(super) fn failed(&self, doing: &str) -> impl Fn(rusqlite::Error) -> AdapterError + use<> {
        let (doing, path) = (doing.to_owned(), self.path.clone());
        move |error| failed(&doing, &path, error)
    }
}

fn configure(connection: &Connection, role: Role, wait_ms: u64) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(wait_ms))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    match role {
        Role::Writer => {
            connection.pragma_update(None, "page_size", PAGE_BYTES)?;
            // FULL: an acknowledged write leaves the outbox, so it must outlive a power cut. It costs one fsync a batch.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", WAL_KEPT_BYTES / PAGE_BYTES)?;
            connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)
        }
        Role::Reader => {
            connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
            connection.pragma_update(None, "query_only", true)
        }
    }
}

const WAL: &str = "wal";

fn journal_mode(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))
}

/// Whether nobody ever made a table in it.
fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

/// Turns WAL on. SQLite does not wait for its lock here, so two starters are kept apart by asking again.
fn ensure_wal(connection: &Connection, wait: Duration) -> rusqlite::Result<()> {
    let deadline = Instant::now() + wait;
    loop {
        let turned = match journal_mode(connection) {
            Ok(mode) if mode == WAL => return Ok(()),
            Ok(_) => connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)),
            Err(error) => Err(error),
        };
        match turned {
            Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(RETRY_WAL),
            // Where shared memory is not to be had the mode stays what it is, and everything works, one at a time.
            other => return other.map(drop),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), AdapterError> {
    schema::migrate(connection).map_err(|failure| match failure {
        MigrationFailure::Sqlite(error) => failed("create tables in", path, error),
        MigrationFailure::Refused(sentence) => {
            AdapterError::new(ErrorKind::Unsupported, format!("use {}: {sentence}", path.display()))
        }
    })
}

/// Refuses a path that can be no database before SQLite makes a riddle of it.
pub(super) fn check_place(path: &Path) -> Result<(), AdapterError> {
    let refuse = |kind, why: &str| Err(AdapterError::new(kind, format!("open {}: {why}", path.display())));
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => refuse(ErrorKind::Unsupported, "it is a folder; name a file in it"),
        Ok(found) if !found.is_file() => refuse(ErrorKind::Unsupported, "it is no regular file"),
        // Asked, not tried: closing any handle to the file would drop the locks that this process's connections hold on
        // it, and the next program to close the database would take the log away from under them.
        Ok(_) if may_not_read(path) => refuse(ErrorKind::Denied, "it may not be read; make it readable and writable"),
        // SQLite would open it for reading and leave a log and its memory beside it, as read-only as itself, which then keep
        // it from being written even when it may be.
        Ok(_) if may_not_write(path) || (!has_log(path) && path.parent().is_some_and(may_not_write)) => {
            refuse(ErrorKind::Denied, ONLY_READ)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent().map(|at| (at, fs::metadata(at))) {
            Some((at, Ok(parent))) if parent.is_dir() && may_not_write(at) => refuse(ErrorKind::Denied, ONLY_READ),
            Some((_, Ok(parent))) if parent.is_dir() => Ok(()),
            _ => refuse(ErrorKind::NotFound, "its folder does not exist; make it or name another"),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            refuse(ErrorKind::Denied, "its folder may not be entered")
        }
        Err(error) => Err(AdapterError::caused(ErrorKind::Unavailable, format!("open {}", path.display()), error)),
    }
}

const ONLY_READ: &str = "it may only be read; make the file and its folder writable";

/// True if somebody has it open, so that nothing has to be made beside it.
fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Path::new(&log).exists()
}

#[cfg(unix)]
fn may_not_write(path: &Path) -> bool {
    use rustix::io::Errno;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    matches!(rustix::fs::access(path, rustix::fs::Access::WRITE_OK), Err(Errno::ACCESS | Errno::ROFS))
}

#[cfg(not(unix))]
fn may_not_write(_path: &Path) -> bool {
    false
}

#[cfg(unix)]
fn may_not_read(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK) == Err(rustix::io::Errno::ACCESS)
}

#[cfg(not(unix))]
fn may_not_read(_path: &Path) -> bool {
    false
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<Inode> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

// Elsewhere an open database cannot be replaced.
#[cfg(not(unix))]
fn inode(_path: &Path) -> Option<Inode> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synchronous(session: &Session) -> i64 {
        session.connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).expect("asks")
    }

    fn log_bytes(session: &Session) -> u64 {
        fs::metadata(session.path.with_extension("db-wal")).map_or(0, |log| log.len())
    }

    /// A session with one commit that waits for its sync.
    fn behind(dir: &tempfile::TempDir) -> Session {
        let mut session = Session::open(&dir.path().join("sync.db"), Role::Writer, 0).expect("opens");
        let record = crate::contract::text_record("app", "a.md", "text");
        let set = crate::Write::Set { record, expected: crate::Expected::Absent };
        let answers = session.apply(&[&(&set).into()], Sync::Later).expect("writes");
        assert!(answers.iter().all(Result::is_ok));
        session
    }

    #[test]
    fn commits_are_synced_unless_they_may_wait_and_then_until_the_sync() {
        const FULL: i64 = 2;
        const NORMAL: i64 = 1;
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = Session::open(&dir.path().join("sync.db"), Role::Writer, 1_000).expect("opens");
        assert_eq!(synchronous(&session), FULL);
        drop(session);

        session = behind(&dir);
        assert_eq!(synchronous(&session), NORMAL);
        session.sync_writes().expect("syncs");
        assert_eq!(synchronous(&session), FULL);
    }

    #[test]
    fn a_commit_that_wrote_nothing_is_no_sync_of_those_before_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = behind(&dir);
        session.apply(&[], Sync::Now).expect("nothing to write");
        let before = log_bytes(&session);

        session.sync_writes().expect("syncs");

        let after = log_bytes(&session);
        assert!(after > before, "{after} bytes of log after {before}: nothing was committed");
        session.sync_writes().expect("twice is once");
        assert_eq!(log_bytes(&session), after);
    }

    #[test]
    fn a_sync_that_failed_is_made_by_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = behind(&dir);
        let other = Connection::open(&session.path).expect("opens");
        other.execute_batch("BEGIN IMMEDIATE").expect("locks");
        assert!(session.sync_writes().is_err());
        other.execute_batch("ROLLBACK").expect("unlocks");
        let before = log_bytes(&session);

        session.sync_writes().expect("syncs");

        assert!(log_bytes(&session) > before);
    }

    fn mode(session: &Session) -> String {
        journal_mode(&session.connection).expect("asks")
    }

    /// Writes one row of so many bytes that may wait for its sync.
    fn write_later(session: &mut Session, path: &str, bytes: usize) {
        let record = crate::contract::text_record("app", path, &"x".repeat(bytes));
        let set = crate::Write::Set { record, expected: crate::Expected::Absent };
        let answers = session.apply(&[&(&set).into()], Sync::Later).expect("writes");
        assert!(answers.iter().all(Result::is_ok));
    }

    #[test]
    fn a_new_database_is_filled_without_a_log_and_synced_and_has_one_afterwards() {
        const FULL: i64 = 2;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sync.db");
        let mut session = Session::open(&path, Role::Writer, 1_000).expect("opens");
        write_later(&mut session, "a.md", FILL_BYTES);
        assert_eq!((mode(&session).as_str(), synchronous(&session), log_bytes(&session)), ("delete", FULL, 0));

        session.sync_writes().expect("it is synced already");
        write_later(&mut session, "b.md", 10);

        assert_eq!(mode(&session), WAL, "what comes after the filling is small");
        assert_ne!(synchronous(&session), FULL, "it waits, now that it can");
        let reader = Session::open(&path, Role::Reader, 0).expect("opens");
        assert_eq!(
            reader.connection.query_row("SELECT count(*) FROM files", [], |row| row.get::<_, i64>(0)).expect("asks"),
            2
        );
    }

    /// Small batches would begin the log: what fills a file comes in one go instead, however small its pieces are.
    #[test]
    fn what_fills_a_new_database_is_written_once_until_somebody_else_opens_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sync.db");
        let mut session = Session::open(&path, Role::Writer, 1_000).expect("opens");
        let limits = crate::FileSyncAdapter::capabilities(&crate::MemoryAdapter::new()).clone();
        let set = |n: usize| {
            let record = crate::contract::text_record("app", &format!("{n}.md"), &n.to_string());
            crate::Write::Set { record, expected: crate::Expected::Absent }
        };

        for round in 0..3 {
            let answers = session.fill(&mut (round * 100..round * 100 + 100).map(set), &limits).expect("writes");
            assert_eq!(answers.map(|answers| answers.iter().filter(|answer| answer.is_ok()).count()), Some(100));
            assert_eq!((mode(&session).as_str(), log_bytes(&session)), ("delete", 0));
        }
        let other = Session::open(&path, Role::Writer, 1_000).expect("opens");
        let rows = other.connection.query_row("SELECT count(*) FROM files", [], |row| row.get::<_, i64>(0));
        assert_eq!(rows.expect("asks"), 300);
        let mut untouched = (0..5).map(set);
        assert!(session.fill(&mut untouched, &limits).expect("looks").is_none());
        assert_eq!(untouched.len(), 5);
        assert_eq!(mode(&session), WAL);
    }

    #[test]
    fn a_small_batch_that_may_wait_begins_the_log_and_so_does_whoever_opens_the_file_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = Session::open(&dir.path().join("small.db"), Role::Writer, 1_000).expect("opens");
        write_later(&mut session, "a.md", 10);
        assert_eq!(mode(&session), WAL);

        let path = dir.path().join("stopped.db");
        drop(Session::open(&path, Role::Writer, 1_000).expect("opens"));
        assert_eq!(mode(&Session::open(&path, Role::Reader, 0).expect("opens")), "delete");
        assert_eq!(mode(&Session::open(&path, Role::Writer, 1_000).expect("opens")), WAL);
    }

    #[test]
    fn a_reader_puts_off_the_log_and_stops_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sync.db");
        let mut session = Session::open(&path, Role::Writer, 0).expect("opens");
        write_later(&mut session, "a.md", FILL_BYTES);
        let reader = Connection::open(&path).expect("opens");
        reader.execute_batch("BEGIN; SELECT count(*) FROM files").expect("reads");

        session.end_filling().expect("is put off");
        assert_eq!(mode(&session), "delete");
        reader.execute_batch("COMMIT").expect("ends");
        write_later(&mut session, "b.md", 10);

        assert_eq!(mode(&session), WAL);
    }

    #[test]
    fn without_a_log_no_commit_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut session = Session::open(&dir.path().join("sync.db"), Role::Writer, 1_000).expect("opens");
        session.has_log = false;

        session.sync_commits(Sync::Later).expect("sets");

        assert_eq!(synchronous(&session), 2);
    }
}
