//! The default backend: one SQLite file that several processes, and any SQL program, read and write together.
//!
//! Invariant: whatever changes `files` gives its record a change number above every earlier one in the same transaction: triggers do
//! it for other programs, `write` does it for us on a connection whose triggers are off (half the cost of a first mirror).
//! Deliberately absent: merging, retries, and a pool. One writer, one reader and one listener connection a handle.

mod failure;
mod listen;
mod read;
mod schema;
mod scrub;
mod session;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    AdapterError, Backend, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits, OpenContext, Page,
    Query, Record, RecordId, Revision, Row, Sink, Subscription, Write,
};
use session::{Role, Session, Sync};
use write::Change;

/// This backend's line in the table.
pub(crate) const BACKEND: Backend = Backend {
    scheme: "sqlite",
    aliases: &["sqlite3"],
    summary: "one file beside the config, shared by the processes of this machine; no server, no account",
    default_address: "sync.db",
    is_file: true,
    settings: &[],
    ddl: schema::ddl,
    open: |url, context| Ok(Arc::new(SqliteAdapter::open(Path::new(&url.address), context)?)),
};

// 256 KiB keeps a row readable in a terminal and a rewrite of it cheap; longer contents are chunked, so an append costs its tail.
const TEXT_LIMIT_BYTES: u64 = 256 * 1024;
// A pack is at most 16 MiB; SQLite itself would take 1 GB in one value.
const CHUNK_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
const PAGE_ROWS: usize = 10_000;
// One transaction holds the write lock for about 0.1 s then; a lock held longer starves other projects' edits.
const BATCH_ROWS: usize = 20_000;

/// A mirror in one SQLite file.
pub struct SqliteAdapter {
    path: PathBuf,
    wait_ms: u64,
    capabilities: Capabilities,
    // Dropped in this order, see `close`.
    reader: Mutex<Option<Session>>,
    writer: Mutex<Option<Session>>,
    /// Readers and the writer do not keep each other out, as far as is known.
    has_log: AtomicBool,
    closed: AtomicBool,
    degraded: Arc<Mutex<Option<String>>>,
}

impl SqliteAdapter {
    /// Opens the database at `path`, creating file and schema where there is none.
    ///
    /// Errors: `NotFound` for a missing folder, `Denied` for what may not be written, `Corrupt` for a damaged file or one that is
    /// no SQLite database, `Unsupported` for a folder, a newer schema or an old SQLite, `Unavailable` if it stays locked.
    pub fn open(path: &Path, context: &OpenContext<'_>) -> Result<Self, AdapterError> {
        let path = context.project_dir.join(path);
        session::check_place(&path)?;
        let writer = Session::open(&path, Role::Writer, context.wait_ms)?;
        let capabilities = Capabilities {
            name: "sqlite".to_owned(),
            live: true,
            foreign_edits: ForeignEdits::ChangeLog,
            text_limit_bytes: TEXT_LIMIT_BYTES,
            chunk_limit_bytes: CHUNK_LIMIT_BYTES,
            batch_rows: BATCH_ROWS,
            page_rows: PAGE_ROWS,
            own: true,
        };
        Ok(Self {
            path,
            wait_ms: context.wait_ms,
            capabilities,
            has_log: AtomicBool::new(writer.has_log),
            reader: Mutex::new(None),
            writer: Mutex::new(Some(writer)),
            closed: AtomicBool::new(false),
            degraded: Arc::default(),
        })
    }

    fn with<T>(
        &self,
        role: Role,
        act: impl FnOnce(&mut Session) -> Result<T, AdapterError>,
    ) -> Result<T, AdapterError> {
        let _turn = self.turn(role)?;
        match self.current(role)?.as_mut() {
            Some(session) => act(session),
            None => unreachable!("`current` fills the slot"),
        }
    }

    /// What a reader holds while it reads a file that has no log yet: a commit there keeps readers out for as long as the disk needs, and
    /// one of this handle's own is waited for, however long that is.
    fn turn(&self, role: Role) -> Result<Option<MutexGuard<'_, Option<Session>>>, AdapterError> {
        let is_open = || lock(&self.reader).as_ref().is_some_and(|session| session.is_current(&self.path));
        if role == Role::Writer || (self.has_log.load(Ordering::Acquire) && is_open()) {
            return Ok(None);
        }
        // Only a writer makes the schema, also when the file vanished under us.
        let writer = self.current(Role::Writer)?;
        let has_log = writer.as_ref().is_some_and(|session| session.has_log);
        self.has_log.store(has_log, Ordering::Release);
        Ok((!has_log).then_some(writer))
    }

    /// The session of a role, on the file that has the name now; one that was deleted or replaced would take writes into nowhere.
    fn current(&self, role: Role) -> Result<MutexGuard<'_, Option<Session>>, AdapterError> {
        let slot = match role {
            Role::Writer => &self.writer,
            Role::Reader => &self.reader,
        };
        let mut slot = lock(slot);
        if self.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed sqlite backend"));
        }
        if slot.as_ref().is_none_or(|session| !session.is_current(&self.path)) {
            *slot = None;
            session::check_place(&self.path)?;
            *slot = Some(Session::open(&self.path, role, self.wait_ms)?);
        }
        Ok(slot)
    }

    fn apply(&self, changes: &[Change<'_>], sync: Sync) -> Vec<Result<Revision, AdapterError>> {
        let refused = |change: &Change<'_>| match change {
            Change::Set { record, .. } => self.capabilities.check(record).err(),
            Change::Delete { .. } => None,
        };
        let refused: Vec<Option<AdapterError>> = changes.iter().map(refused).collect();
        let fit: Vec<&Change<'_>> =
            changes.iter().zip(&refused).filter(|(_, refusal)| refusal.is_none()).map(|(change, _)| change).collect();
        let written = if fit.is_empty() { Ok(Vec::new()) } else { self.with(Role::Writer, |s| s.apply(&fit, sync)) };
        let mut written = match written {
            Ok(answers) => answers.into_iter(),
            Err(error) => fit.iter().map(|_| Err(failure::again(&error))).collect::<Vec<_>>().into_iter(),
        };
        let missing = || Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer"));
        let answer = |refusal: Option<AdapterError>| match refusal {
            Some(error) => Err(error),
            None => written.next().unwrap_or_else(missing),
        };
        refused.into_iter().map(answer).collect()
    }

    fn apply_one(&self, change: Change<'_>) -> Result<Revision, AdapterError> {
        match self.apply(&[change], Sync::Now).pop() {
            Some(answer) => answer,
            None => unreachable!("one change has one answer"),
        }
    }
}

fn lock(slot: &Mutex<Option<Session>>) -> MutexGuard<'_, Option<Session>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileSyncAdapter for SqliteAdapter {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn store_id(&self) -> Option<String> {
        self.with(Role::Writer, |session| Ok(session.instance.clone())).ok()
    }

    fn changes_counted(&self) -> Result<Option<u64>, AdapterError> {
        self.with(Role::Reader, |session| session.changes_counted().map(Some))
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let limit = query.rows_of_page(PAGE_ROWS)?;
        self.with(Role::Reader, |session| session.query(query, limit))
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        self.with(Role::Reader, |session| session.get(id))
    }

    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        self.with(Role::Reader, |session| session.get_many(ids))
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        self.with(Role::Reader, |session| session.read_chunks(id, first, count))
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        self.apply_one(Change::Set { record, expected })
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        self.apply_one(Change::Delete { id, expected }).map(drop)
    }

    /// Own writes of this handle wake too.
    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        self.with(Role::Reader, |_| Ok(()))?;
        listen::listen(&self.path, self.wait_ms, query, from, sink, Arc::clone(&self.degraded))
    }

    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        let changes: Vec<Change<'_>> = writes.iter().map(Change::from).collect();
        self.apply(&changes, Sync::Now)
    }

    fn write_batch_unsynced(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        let changes: Vec<Change<'_>> = writes.iter().map(Change::from).collect();
        self.apply(&changes, Sync::Later)
    }

    fn fill(&self, writes: &mut dyn Iterator<Item = Write>) -> Option<Vec<Result<Revision, AdapterError>>> {
        let mut taken = 0;
        let mut counted = writes.inspect(|_| taken += 1);
        match self.with(Role::Writer, |session| session.fill(&mut counted, &self.capabilities)) {
            Ok(answers) => answers,
            // Whoever writes the first item in the ordinary way is told.
            Err(_) if taken == 0 => None,
            Err(error) => Some((0..taken).map(|_| Err(failure::again(&error))).collect()),
        }
    }

    fn sync_writes(&self) -> Result<(), AdapterError> {
        self.with(Role::Writer, Session::sync_writes)
    }

    fn scrub(&self) -> Result<Option<String>, AdapterError> {
        self.with(Role::Writer, Session::scrub)
    }

    fn status(&self) -> Vec<String> {
        self.degraded.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn shrink(&self) {
        // One that is at work has something to keep.
        for slot in [&self.reader, &self.writer] {
            if let Some(session) = slot.try_lock().ok().as_deref().and_then(Option::as_ref) {
                // What is not given back now is given back when the cache is full.
                let _ = session.connection.execute_batch("PRAGMA shrink_memory");
            }
        }
    }

    fn close(&self) -> Result<(), AdapterError> {
        // The writer last: whoever leaves last moves the log into the file, and has already synced the log's folder.
        for slot in [&self.reader, &self.writer] {
            let mut slot = lock(slot);
            self.closed.store(true, Ordering::Release);
            *slot = None;
        }
        Ok(())
    }
}
