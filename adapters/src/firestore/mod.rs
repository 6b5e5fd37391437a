//! Google's Firestore over its REST interface: one entry a record beside the collection `files`, which any program may write.
//!
//! `files` holds seven fields and nothing of ours; `file_mirror` says which version a row projects and carries the feed, `file_chunks` holds what
//! is no text, `file_store` names the database. Invariant: each record changes in one commit under preconditions on what was seen.
//! Deliberately absent: gRPC and with it pushed changes, retries of writes, composite indexes (every query needs one field).

mod call;
mod entry;
mod failure;
mod listen;
mod name;
mod read;
mod site;
mod sweep;
mod token;
mod value;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::adapter::write_one;
use crate::lock;
use crate::{
    AdapterError, Backend, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits, OpenContext, Page,
    Query, Record, RecordId, Revision, Row, Selection, Sink, Subscription, Write,
};
use call::Caller;
use failure::Failure;
use listen::{Listeners, Pace};
use read::Place;
use site::Site;

/// This backend's line in the table.
pub(crate) const BACKEND: Backend = Backend {
    scheme: "firestore",
    aliases: &["firebase"],
    summary: "Google's Firestore: documents that any program may read and write, shared by machines anywhere",
    default_address: "",
    is_file: false,
    settings: site::SETTINGS,
    ddl: String::new,
    open: |url, context| Ok(Arc::new(FirestoreAdapter::open(&url.address, context)?)),
};

// A document may have 1 MiB, its names and its other fields included.
const TEXT_LIMIT_BYTES: u64 = 900 * 1024;
const CHUNK_LIMIT_BYTES: u64 = write::PIECE_BYTES as u64;
const PAGE_ROWS: usize = 1_000;
/// Two commits' worth: more gathered at once would only sit in memory.
const BATCH_ROWS: usize = 320;
/// The longest wait for one answer; a commit of 6 MiB over a slow line takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A mirror in a Firestore database.
pub struct FirestoreAdapter {
    shared: Arc<Shared>,
    capabilities: Capabilities,
}

impl fmt::Debug for FirestoreAdapter {
    /// The database's name and nothing of the account.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirestoreAdapter({})", self.shared.caller.place())
    }
}

/// What a handle and the thread that asks for changes have in common.
struct Shared {
    caller: Caller,
    pace: Pace,
    sweep_every: Option<Duration>,
    /// When an app's rows are to be looked through next, as far as this handle knows.
    next_sweeps: Mutex<HashMap<String, Instant>>,
    listeners: Listeners,
    degraded: Mutex<Option<String>>,
    /// Names the database, as it was asked last.
    instance: Mutex<String>,
    closed: AtomicBool,
}

impl FirestoreAdapter {
    /// Opens the database that `address` (`PROJECT`, `PROJECT/DATABASE`, or empty) and the environment name.
    ///
    /// Errors: `Denied` for credentials that cannot be used or are refused, `Unsupported` for settings that make no sense,
    /// `Unavailable` if the service cannot be reached.
    pub fn open(address: &str, context: &OpenContext<'_>) -> Result<FirestoreAdapter, AdapterError> {
        FirestoreAdapter::open_at(address, context, Pace::default())
    }

    /// The same, asking for changes every `poll_ms` milliseconds, however quiet it is; for tests and for a server of one's own.
    pub fn open_polling(
        address: &str,
        context: &OpenContext<'_>,
        poll_ms: u64,
    ) -> Result<FirestoreAdapter, AdapterError> {
        let every = Duration::from_millis(poll_ms);
        FirestoreAdapter::open_at(address, context, Pace { soon: every, rarely: every })
    }

    fn open_at(address: &str, context: &OpenContext<'_>, pace: Pace) -> Result<FirestoreAdapter, AdapterError> {
        let site = Site::of(address, context)?;
        let sweep_every = site.sweep_every;
        let caller = Caller::new(site, PATIENCE.min(Duration::from_millis(context.wait_ms.saturating_mul(12))))?;
        let shared = Shared {
            caller,
            pace,
            sweep_every,
            next_sweeps: Mutex::default(),
            listeners: Listeners::default(),
            degraded: Mutex::default(),
            instance: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        let capabilities = Capabilities {
            name: "firestore".to_owned(),
            live: false,
            foreign_edits: ForeignEdits::Sweep,
            text_limit_bytes: TEXT_LIMIT_BYTES,
            chunk_limit_bytes: CHUNK_LIMIT_BYTES,
            batch_rows: BATCH_ROWS,
            page_rows: PAGE_ROWS,
            own: true,
        };
        let adapter = FirestoreAdapter { shared: Arc::new(shared), capabilities };
        adapter.run("open", adapter.shared.instance())?;
        Ok(adapter)
    }

    /// Asks, and says what we were doing if that fails.
    fn run<T>(&self, doing: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, AdapterError> {
        self.check_open()?;
        let place = self.shared.caller.place();
        let done = crate::drive::block_on(work);
        let done =
            done.map_err(|error| AdapterError::caused(ErrorKind::Unavailable, format!("{doing} {place}"), error))?;
        done.map_err(|failure| failure.error(&format!("{doing} {place}")))
    }

    fn check_open(&self) -> Result<(), AdapterError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed firestore backend"));
        }
        Ok(())
    }
}

impl Shared {
    /// Asks what names the database: it may have been emptied or replaced.
    async fn instance(&self) -> Result<String, Failure> {
        let instance = self.caller.instance().await?;
        lock(&self.instance).clone_from(&instance);
        Ok(instance)
    }

    /// Notes what others changed, then reads a page of the feed.
    async fn changes(&self, query: &Query, after: &Cursor, limit: usize) -> Result<Page, Failure> {
        let place = Place::of(after, &self.instance().await?);
        if !place.is_between_pages() {
            if place.is_start() && self.sweep_every.is_some() {
                // Whoever begins here needs every row that anybody left, however long ago.
                self.caller.sweep(&query.app).await?;
            } else {
                self.sweep_if_due(&query.app).await?;
                self.caller.note_stamped(place.told()).await?;
            }
        }
        self.caller.changes(query, place, limit).await
    }

    /// Looks through an app's rows if nobody did for as long as was set.
    async fn sweep_if_due(&self, app: &str) -> Result<(), Failure> {
        let Some(every) = self.sweep_every else { return Ok(()) };
        let now = Instant::now();
        if lock(&self.next_sweeps).get(app).is_some_and(|next| now < *next) {
            return Ok(());
        }
        if !every.is_zero() {
            let claimed = self.caller.claim_sweep(app, every).await?;
            lock(&self.next_sweeps).insert(app.to_owned(), now + claimed.err().unwrap_or(every));
            if claimed.is_err() {
                return Ok(());
            }
        }
        self.caller.sweep(app).await.map(drop)
    }

    fn set_degraded(&self, line: Option<String>) {
        *lock(&self.degraded) = line;
    }
}

impl FileSyncAdapter for FirestoreAdapter {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn store_id(&self) -> Option<String> {
        Some(lock(&self.shared.instance).clone())
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let limit = query.rows_of_page(PAGE_ROWS)?;
        match &query.select {
            Selection::Changes { after } => self.run("query", self.shared.changes(query, after, limit)),
            Selection::Paths { prefix, after } => self.run("query", async {
                let instance = lock(&self.shared.instance).clone();
                self.shared.caller.paths(query, prefix, after.as_deref(), limit, instance).await
            }),
        }
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        Ok(self.get_many(std::slice::from_ref(id))?.pop().flatten())
    }

    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        self.run("read", self.shared.caller.rows(ids))
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        self.run(&format!("read chunks of {id} in"), self.shared.caller.chunks(id, first, count))
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        write_one(self, Write::Set { record: record.clone(), expected: expected.clone() })
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        write_one(self, Write::Delete { id: id.clone(), expected: expected.clone() }).map(drop)
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        self.check_open()?;
        listen::listen(&self.shared, query, from, sink)
    }

    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        let done = self.run("write", async { Ok(self.shared.caller.apply(writes, &self.capabilities).await) });
        match done {
            Ok(answers) => answers,
            Err(error) => writes.iter().map(|_| Err(AdapterError::new(error.kind, error.message.clone()))).collect(),
        }
    }

    fn status(&self) -> Vec<String> {
        lock(&self.shared.degraded).iter().cloned().collect()
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.listeners.close();
        Ok(())
    }
}
