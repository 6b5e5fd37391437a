//! PostgreSQL from 13 on: a database that machines, and any SQL program, read and write together.
//!
//! Invariant: whatever changes `files` gives its record a new number in the same transaction: triggers do it for other programs, `write`
//! does it for us. A reader's cursor is the snapshot it read with, so no commit is missed, in whatever order they come.
//! Deliberately absent: merging, a pool, prepared statements and settings that outlive a transaction (poolers). One connection
//! writes, one reads and one listens a handle.

mod connect;
mod failure;
mod listen;
pub(crate) mod read;
pub(crate) mod schema;
mod settings;
mod tls;
mod write;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hub::Hub;
use crate::{
    AdapterError, Backend, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits, OpenContext, Page,
    Query, Record, RecordId, Revision, Row, RowContent, Sink, Subscription, Write, drive,
};
use connect::{Server, Session};
use failure::Failure;
use listen::Listening;
use settings::Settings;
use write::{Answer, Item};

/// This backend's line in the table.
pub(crate) const BACKEND: Backend = Backend {
    scheme: "postgres",
    aliases: &["postgresql"],
    summary: "a PostgreSQL server, 13 or newer; machines meet in it, other programs hear of each other at once",
    default_address: "",
    is_file: false,
    settings: settings::VARIABLES,
    ddl: schema::ddl,
    open: |url, context| Ok(Arc::new(PostgresAdapter::open(&url.address, context)?)),
};

// As in SQLite: a row stays readable in a terminal and a rewrite of it cheap; longer contents are chunked.
const TEXT_LIMIT_BYTES: u64 = 256 * 1024;
// A pack is at most 16 MiB; the server would take 1 GB in one value.
const CHUNK_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
const PAGE_ROWS: usize = 10_000;
const BATCH_ROWS: usize = 5_000;

/// A mirror in a PostgreSQL database.
pub struct PostgresAdapter {
    server: Arc<Server>,
    capabilities: Capabilities,
    instance: Mutex<String>,
    writer: Mutex<Option<Session>>,
    reader: Mutex<Option<Session>>,
    hub: Arc<Hub<Listening>>,
    closed: AtomicBool,
}

/// What a session is for: reading goes on while a batch is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Writer,
    Reader,
}

impl PostgresAdapter {
    /// Opens the database at `address` (a connection string without its `postgres:`, or empty for the variables' own), creating its
    /// tables where there are none.
    ///
    /// Errors: `Unsupported` for settings that mean nothing, an old server, a newer schema or another program's table; `Denied`
    /// for credentials, rights and databases that are not there; `Unavailable` if nobody answers.
    pub fn open(address: &str, context: &OpenContext<'_>) -> Result<Self, AdapterError> {
        let settings = Settings::read(address, context.env)?;
        let server = Arc::new(Server::new(settings, context.wait_ms)?);
        let capabilities = Capabilities {
            name: "postgres".to_owned(),
            live: true,
            foreign_edits: ForeignEdits::ChangeLog,
            text_limit_bytes: TEXT_LIMIT_BYTES,
            chunk_limit_bytes: CHUNK_LIMIT_BYTES,
            batch_rows: BATCH_ROWS,
            page_rows: PAGE_ROWS,
            own: true,
        };
        let adapter = Self {
            hub: Hub::new(Listening(Arc::clone(&server))),
            server,
            capabilities,
            instance: Mutex::default(),
            writer: Mutex::new(None),
            reader: Mutex::new(None),
            closed: AtomicBool::new(false),
        };
        drop(adapter.current(Role::Reader, "open")?);
        Ok(adapter)
    }

    fn told(&self, doing: &str, failure: &Failure) -> AdapterError {
        failure.told(doing, &self.server.settings.shown)
    }

    /// The session of a role; a new one where there is none that lives.
    fn current(&self, role: Role, doing: &str) -> Result<MutexGuard<'_, Option<Session>>, AdapterError> {
        let slot = match role {
            Role::Writer => &self.writer,
            Role::Reader => &self.reader,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed postgres backend"));
        }
        if slot.as_ref().is_none_or(|session| session.client.is_closed()) {
            *slot = None;
            let session = blocking(self.server.session())?.map_err(|failure| self.told(doing, &failure))?;
            self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&session.facts.instance);
            *slot = Some(session);
        }
        Ok(slot)
    }

    /// Asks something that may be asked again: once more, if the line turns out to be dead.
    fn read<T>(&self, doing: &str, ask: impl AsyncFn(&Session) -> Result<T, Failure>) -> Result<T, AdapterError> {
        let mut failed = None;
        for _ in 0..2 {
            let mut slot = self.current(Role::Reader, doing)?;
            let Some(session) = slot.as_ref() else { unreachable!("`current` fills the slot") };
            match blocking(ask(session))? {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    let is_lost = failure.is_lost;
                    if is_lost {
                        *slot = None;
                    }
                    failed = Some(self.told(doing, &failure));
                    if !is_lost {
                        break;
                    }
                }
            }
        }
        Err(failed.unwrap_or_else(|| AdapterError::new(ErrorKind::Unavailable, "ask postgres: no answer")))
    }

    fn apply(&self, items: &[Item<'_>]) -> Vec<Answer> {
        let refusal = |item: &Item<'_>| match &item.change {
            write::Change::Set { record, .. } => self.capabilities.check(record).and_then(|()| item.check()).err(),
            write::Change::Delete { .. } => item.check().err(),
        };
        let refused: Vec<Option<AdapterError>> = items.iter().map(refusal).collect();
        let fit: Vec<&Item<'_>> =
            items.iter().zip(&refused).filter(|(_, no)| no.is_none()).map(|(item, _)| item).collect();
        let mut written = match self.write(&fit) {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                let again = |_| Err(AdapterError::new(error.kind, error.message.clone()));
                fit.iter().map(again).collect::<Vec<Answer>>().into_iter()
            }
        };
        let missing = || Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer"));
        let answer = |refusal: Option<AdapterError>| match refusal {
            Some(error) => Err(error),
            None => written.next().unwrap_or_else(missing),
        };
        refused.into_iter().map(answer).collect()
    }

    /// An error tells that it is unknown which of them happened.
    fn write(&self, items: &[&Item<'_>]) -> Result<Vec<Answer>, AdapterError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let mut slot = self.current(Role::Writer, "write to")?;
        let shown = &self.server.settings.shown;
        let Some(session) = slot.as_ref() else { unreachable!("`current` fills the slot") };
        // A line that died while nobody used it says so before anything is at stake.
        let session = match blocking(session.client.check_connection())? {
            Ok(()) => session,
            Err(_) => {
                *slot = None;
                drop(slot);
                slot = self.current(Role::Writer, "write to")?;
                let Some(session) = slot.as_ref() else { unreachable!("`current` fills the slot") };
                session
            }
        };
        let written = blocking(session.apply(items, self.server.wait_ms(), shown))?;
        written.map_err(|failure| {
            let told = self.told("write to", &failure);
            if failure.is_lost {
                *slot = None;
            }
            told
        })
    }

    fn apply_one(&self, item: Item<'_>) -> Answer {
        match self.apply(&[item]).pop() {
            Some(answer) => answer,
            None => unreachable!("one item has one answer"),
        }
    }
}

fn blocking<T>(work: impl Future<Output = T>) -> Result<T, AdapterError> {
    drive::block_on(work).map_err(|error| AdapterError::caused(ErrorKind::Unavailable, "wait for the database", error))
}

impl FileSyncAdapter for PostgresAdapter {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn store_id(&self) -> Option<String> {
        Some(self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let limit = query.rows_of_page(PAGE_ROWS)?;
        self.read("query", async |session| session.query(query, limit).await)
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        Ok(self.get_many(std::slice::from_ref(id))?.pop().flatten())
    }

    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        let rows = self.read("read", async |session| session.rows(ids, true).await)?;
        let is_there = |row: &Row| row.content != RowContent::Absent || row.mirror.is_some();
        Ok(rows.into_iter().map(|row| row.filter(is_there)).collect())
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        let chunks = self.read("read chunks from", async |session| session.chunks(id, first, count).await)?;
        chunks.ok_or_else(|| AdapterError::new(ErrorKind::NotFound, format!("read chunks of {id}: there are none")))
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        self.apply_one(Item::set(record, expected))
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        self.apply_one(Item::delete(id, expected)).map(drop)
    }

    /// Own writes of this handle wake too, and so does every new connection.
    fn subscribe(&self, query: &Query, _from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        drop(self.current(Role::Reader, "subscribe to")?);
        self.hub.subscribe(query, sink)
    }

    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        let items: Vec<Item<'_>> = writes.iter().map(Item::from).collect();
        self.apply(&items)
    }

    fn status(&self) -> Vec<String> {
        self.hub.status()
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.closed.store(true, Ordering::Release);
        self.hub.close();
        for slot in [&self.writer, &self.reader] {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(())
    }
}

impl Drop for PostgresAdapter {
    fn drop(&mut self) {
        // Subscriptions may outlive the handle: they hear nothing any more.
        self.hub.close();
    }
}
