//! Any database behind `FileSyncAdapter` as a place for artifacts: machines that share nothing but a database
//! exchange signed chains through it.
//!
//! An artifact `<app>/<rest>` is a chunked record of the app `<app>-ledger` at the path `<rest>`, owned by `shared` or by
//! its private space. Invariant: a record is written once, whole, expecting nothing there; nothing in it is believed.
//! Knows nothing of mirrored rows: those belong to the app itself and to `sync::mirror`.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_adapters::{
    self as adapters, AdapterError, Body, Cursor, ErrorKind, Expected, FileSyncAdapter, OpenContext, Query, Record,
    RecordId, Row, RowContent, SHARED_OWNER, Selection, Subscription,
};

use super::signal::Signal;
use super::{
    Depth, ListRequest, Listing, Mending, Opening, Put, Removing, Transport, TransportError, TransportErrorKind,
    WaitHint, Wake, check_name, is_after, listed_as, memory,
};

/// Artifacts are cut into chunks of this size, or of the backend's limit if that is smaller.
const CHUNK_BYTES: u64 = 1 << 20;
/// Chunks read in one request.
const CHUNKS_PER_READ: u32 = 16;
/// A record of more chunks than this is no artifact of ours.
const MAX_CHUNKS: u32 = 1 << 20;
/// Requests that one page of a listing may cost.
const MAX_QUERIES_PER_PAGE: usize = 20_000;
/// Rows of the change feed read at once while waiting.
const FEED_PAGE_ROWS: usize = 1000;
/// Own puts remembered so that they do not wake us; beyond, a wake may be for nothing.
const MAX_OWN_PUTS: usize = 10_000;

/// The app whose records are the artifacts of `app`.
pub(crate) fn ledger_app(app: &str) -> String {
    format!("{app}-ledger")
}

/// A database as a transport.
pub struct BackendTransport {
    adapter: Arc<dyn FileSyncAdapter>,
    ledger_app: String,
    root: String,
    label: String,
    feed: Mutex<Feed>,
    signal: Arc<Signal>,
    // Declared last but one user of `signal`: dropping it ends the calls into it.
    subscription: Mutex<Option<Subscription>>,
}

struct Feed {
    cursor: Cursor,
    own_puts: HashSet<(RecordId, adapters::Revision)>,
}

impl BackendTransport {
    /// Makes the artifacts of `app` in `adapter` a transport.
    ///
    /// Errors: the adapter's, from reading where its feed stands.
    pub fn new(
        adapter: Arc<dyn FileSyncAdapter>,
        app: &str,
        label: impl Into<String>,
    ) -> Result<BackendTransport, TransportError> {
        let label = label.into();
        let ledger_app = ledger_app(app);
        let newest = Query { owner: None, ..Query::paths(&ledger_app, SHARED_OWNER, "", None, 1) };
        let page = adapter.query(&newest).map_err(|error| explain("open", &label, error))?;
        Ok(BackendTransport {
            adapter,
            ledger_app,
            root: format!("{app}/"),
            label,
            feed: Mutex::new(Feed { cursor: page.cursor, own_puts: HashSet::new() }),
            signal: Arc::default(),
            subscription: Mutex::new(None),
        })
    }

    /// Writes an artifact as a record.
    fn set(&self, path: &str, bytes: &[u8], expected: &Expected) -> Result<(), AdapterError> {
        let chunk_bytes = CHUNK_BYTES.min(self.adapter.capabilities().chunk_limit_bytes).max(1) as usize;
        let record = Record {
            app: self.ledger_app.clone(),
            owner: owner_of(path).to_owned(),
            path: path.to_owned(),
            body: Body::Chunks { keep: 0, add: bytes.chunks(chunk_bytes).map(<[u8]>::to_vec).collect() },
            last_updated_ms: 0,
            created_at_ms: 0,
            mirror: None,
        };
        let revision = self.adapter.set(&record, expected)?;
        let mut feed = self.feed();
        if feed.own_puts.len() == MAX_OWN_PUTS {
            feed.own_puts.clear();
        }
        feed.own_puts.insert((record.id(), revision));
        Ok(())
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_id(&self, path: &str) -> RecordId {
        RecordId::new(&self.ledger_app, owner_of(path), path)
    }

    /// The first row after `after` whose path starts with `prefix`, and its followers up to `limit`.
    fn rows(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<adapters::Page, TransportError> {
        let mut query = Query::paths(&self.ledger_app, owner_of(prefix), prefix, after, limit);
        if !prefix.contains('/') {
            query.owner = None;
        }
        self.adapter.query(&query).map_err(|error| explain("list", prefix, error))
    }

    fn list_below(&self, request: &ListRequest, path_prefix: &str) -> Result<Listing, TransportError> {
        let mut listing = Listing::default();
        // Where the next query goes on, as a path; `after` may lie before everything below the root.
        let mut after = request.after.as_deref().and_then(|after| self.path_after(after));
        for _ in 0..MAX_QUERIES_PER_PAGE {
            let wanted = (request.page_names() - listing.names.len()).saturating_add(1);
            // Among children, rows of one folder may follow each other by the thousand: one is enough to know it.
            let limit = if request.depth == Depth::Children { 1 } else { wanted };
            let page = self.rows(path_prefix, after.as_deref(), limit)?;
            for row in &page.rows {
                after = Some(row.path.clone());
                let name = format!("{}{}", self.root, row.path);
                let Some(entry) = listed_as(&name, &request.prefix, request.depth) else {
                    continue;
                };
                if entry.ends_with('/') {
                    after = Some(past_folder(&entry[self.root.len()..]));
                }
                if !is_artifact_path(&row.path) || !is_after(entry, request.after.as_deref()) {
                    continue;
                }
                if listing.names.len() == request.page_names() {
                    listing.more = true;
                    return Ok(listing);
                }
                listing.names.push(entry.to_owned());
            }
            if !page.more || page.rows.is_empty() {
                return Ok(listing);
            }
        }
        listing.more = !listing.names.is_empty();
        Ok(listing)
    }

    fn path_after(&self, after: &str) -> Option<String> {
        let path = after.strip_prefix(&self.root)?;
        if path.ends_with('/') {
            Some(past_folder(path))
        } else {
            Some(path.to_owned()).filter(|path| !path.is_empty())
        }
    }

    fn row(&self, action: &'static str, path: &str) -> Result<Option<Row>, TransportError> {
        self.adapter.get(&self.record_id(path)).map_err(|error| explain(action, path, error))
    }

    /// Reads a chunked record of `size_bytes`, keeping `range` of it.
    fn read_chunked(
        &self,
        path: &str,
        chunk_count: u32,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<Vec<u8>, TransportError> {
        let corrupt = |detail: String| TransportError::new(TransportErrorKind::Corrupt, "get", path, detail);
        if chunk_count > MAX_CHUNKS {
            return Err(corrupt(format!("{chunk_count} chunks are more than {MAX_CHUNKS}")));
        }
        let id = self.record_id(path);
        let mut kept = Vec::with_capacity((range.end - range.start) as usize);
        let mut at = 0u64;
        let mut next = 0;
        while next < chunk_count && at < range.end {
            let count = CHUNKS_PER_READ.min(chunk_count - next);
            let chunks = self.adapter.read_chunks(&id, next, count).map_err(|error| explain("get", path, error))?;
            if chunks.is_empty() || chunks.len() > count as usize {
                return Err(corrupt(format!("chunk {next} of {chunk_count} is missing")));
            }
            for chunk in &chunks {
                let len = chunk.len() as u64;
                let from = range.start.clamp(at, at + len) - at;
                let to = range.end.clamp(at, at + len) - at;
                kept.extend_from_slice(&chunk[from as usize..to as usize]);
                at += len;
            }
            next += chunks.len() as u32;
        }
        let whole = next < chunk_count || at == size_bytes;
        if whole && kept.len() as u64 == range.end - range.start {
            return Ok(kept);
        }
        Err(corrupt(format!("its chunks hold {at} bytes, not {size_bytes}")))
    }

    /// True if a record that we did not put ourselves came since this was last true.
    fn take_news(&self) -> Result<bool, TransportError> {
        let mut feed = self.feed();
        let mut news = false;
        loop {
            let mut query = Query::changes(&self.ledger_app, None, feed.cursor.clone(), FEED_PAGE_ROWS);
            query.with_content = false;
            let page = self.adapter.query(&query).map_err(|error| explain("wait", &self.label, error))?;
            for row in page.rows {
                news |= !feed.own_puts.remove(&(row.id, row.revision));
            }
            let advanced = page.cursor != feed.cursor;
            feed.cursor = page.cursor;
            if !page.more || !advanced {
                return Ok(news);
            }
        }
    }

    fn subscribe_once(&self) -> Result<(), TransportError> {
        let mut subscription = self.subscription.lock().unwrap_or_else(PoisonError::into_inner);
        if subscription.is_none() {
            let signal = self.signal.clone();
            let cursor = self.feed().cursor.clone();
            let select = Selection::Changes { after: cursor.clone() };
            let query = Query { app: self.ledger_app.clone(), owner: None, select, limit: 1, with_content: false };
            let sink = Box::new(move |_| signal.raise());
            let made = self.adapter.subscribe(&query, cursor, sink);
            *subscription = Some(made.map_err(|error| explain("wait", &self.label, error))?);
        }
        Ok(())
    }
}

impl Transport for BackendTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        if let Some(path_prefix) = request.prefix.strip_prefix(&self.root) {
            return self.list_below(request, path_prefix);
        }
        if !request.prefix.is_empty() {
            return Ok(Listing::default());
        }
        if request.depth == Depth::All {
            return self.list_below(request, "");
        }
        let below = ListRequest { limit: 1, ..ListRequest::new(&self.root, Depth::All) };
        let empty = self.list_below(&below, "")?.names.is_empty();
        let due = !empty && is_after(&self.root, request.after.as_deref());
        Ok(Listing { names: if due { vec![self.root.clone()] } else { Vec::new() }, more: false })
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let missing = || TransportError::new(TransportErrorKind::NotFound, "get", name, "no such record");
        let path = name.strip_prefix(&self.root).filter(|path| is_artifact_path(path)).ok_or_else(missing)?;
        check_name(name).map_err(|_| missing())?;
        let row = self.row("get", path)?.ok_or_else(missing)?;
        match row.content {
            RowContent::Chunked { chunk_count, size_bytes } => {
                let range = memory::bounded(name, size_bytes, range, max_bytes)?;
                self.read_chunked(path, chunk_count, size_bytes, range)
            }
            // Not as we write them, but the bytes are what counts, and those are verified above.
            RowContent::Text(text) => memory::cut(name, text.as_bytes(), range, max_bytes),
            RowContent::Absent => Err(missing()),
            RowContent::Unread | RowContent::Invalid(_) => {
                Err(TransportError::new(TransportErrorKind::Corrupt, "get", name, "its row is no artifact"))
            }
        }
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        check_name(name)?;
        let unsupported = || {
            let detail = format!("this place takes artifacts below `{}`", self.root);
            TransportError::new(TransportErrorKind::Unsupported, "put", name, detail)
        };
        let path = name.strip_prefix(&self.root).filter(|path| is_artifact_path(path)).ok_or_else(unsupported)?;
        match self.set(path, bytes, &Expected::Absent) {
            Ok(()) => Ok(Put::Written),
            Err(error) if error.kind == ErrorKind::Conflict => self.compare(name, bytes),
            Err(error) => Err(explain("put", name, error)),
        }
    }

    fn mending(&self) -> Option<&dyn Mending> {
        Some(self)
    }

    fn removing(&self) -> Option<&dyn Removing> {
        Some(self)
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        let started = Instant::now();
        let timeout = Duration::from_millis(hint.timeout_ms);
        let signal = self.signal.clone();
        let _hook = hint.cancel.on_cancel(move || signal.raise());
        if hint.timeout_ms > 0 {
            self.subscribe_once()?;
        }
        loop {
            if hint.cancel.is_cancelled() {
                return Ok(Wake::Cancelled);
            }
            // Lowered before the look: what comes after the look raises it again and the sleep below ends at once.
            self.signal.lower();
            if self.take_news()? {
                return Ok(Wake::Changed);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Wake::Timeout);
            }
            if hint.cancel.is_cancelled() {
                return Ok(Wake::Cancelled);
            }
            self.signal.sleep(left);
        }
    }

    fn label(&self) -> &str {
        &self.label
    }
}

impl BackendTransport {
    /// What stands under a name that could not be written.
    fn compare(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        match self.get(name, None, bytes.len() as u64) {
            Ok(there) if there == bytes => Ok(Put::AlreadyThere),
            Err(error) if !matches!(error.kind, TransportErrorKind::TooLarge | TransportErrorKind::Corrupt) => {
                Err(error)
            }
            _ => Err(TransportError::new(TransportErrorKind::Conflict, "put", name, "other bytes stand there")),
        }
    }
}

/// Private spaces have their artifacts under an owner of their own, so that a service can guard them by row.
fn owner_of(path: &str) -> &str {
    match path.split_once('/') {
        Some((space, _)) if space.starts_with("u-") => space,
        _ => SHARED_OWNER,
    }
}

/// The marker and the list of writers stand beside the artifacts and are none.
fn is_artifact_path(path: &str) -> bool {
    !path.is_empty() && path != super::marker::MARKER_PATH && !path.starts_with(super::marker::WRITERS_PREFIX)
}

/// A path that sorts after everything below `folder` (which ends in `/`) and before what follows it.
fn past_folder(folder: &str) -> String {
    format!("{folder}\u{10FFFF}")
}

/// Says what an adapter said, as a transport.
pub(crate) fn explain(action: &'static str, name: &str, error: AdapterError) -> TransportError {
    let kind = match error.kind {
        ErrorKind::NotFound => TransportErrorKind::NotFound,
        ErrorKind::Conflict => TransportErrorKind::Conflict,
        ErrorKind::Denied => TransportErrorKind::Denied,
        ErrorKind::Throttled { retry_after_ms } => TransportErrorKind::Throttled { retry_after_ms },
        ErrorKind::Unavailable => TransportErrorKind::Unavailable,
        ErrorKind::TooLarge => TransportErrorKind::TooLarge,
        ErrorKind::Unsupported => TransportErrorKind::Unsupported,
        ErrorKind::Corrupt => TransportErrorKind::Corrupt,
    };
    TransportError::new(kind, action, name, error.message.clone()).with_source(error)
}

impl Removing for BackendTransport {
    fn remove(&self, name: &str) -> Result<(), TransportError> {
        let failed = |error| explain("remove", name, error);
        let Some(path) = name.strip_prefix(&self.root).filter(|path| is_artifact_path(path)) else { return Ok(()) };
        let id = self.record_id(path);
        let Some(row) = self.adapter.get(&id).map_err(failed)? else { return Ok(()) };
        match self.adapter.delete(&id, &Expected::Revision(row.revision)) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            done => done.map(drop).map_err(failed),
        }
    }
}

/// A database keeps its own bytes whole, so nobody leaves word in it: that would cost a request at every exchange. What is found
/// wrong all the same is replaced by compare-and-set.
impl Mending for BackendTransport {
    fn mend(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        let failed = |error| explain("mend", name, error);
        let Some(path) = name.strip_prefix(&self.root).filter(|path| is_artifact_path(path)) else {
            return self.put_new(name, bytes).map(drop);
        };
        let found = self.adapter.get(&self.record_id(path)).map_err(failed)?;
        let expected = found.map_or(Expected::Absent, |row| Expected::Revision(row.revision));
        self.set(path, bytes, &expected).map_err(failed)
    }
}

/// Opens a backend's URL as a place for artifacts.
pub fn open(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    let context = OpenContext::new(&opening.base);
    let url = adapters::resolve_backend(address, &opening.base).map_err(|error| explain("open", "a backend", error))?;
    let label = url.to_string();
    let adapter = adapters::open(address, &context).map_err(|error| explain("open", &label, error))?;
    Ok(Arc::new(BackendTransport::new(adapter, &opening.app, label)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::contract;
    use larder_adapters::MemoryAdapter;

    fn transport(adapter: &MemoryAdapter) -> BackendTransport {
        BackendTransport::new(Arc::new(adapter.clone()), "app", "backend:memory").expect("memory opens")
    }

    #[test]
    fn a_backend_keeps_the_transport_contract() {
        contract::run(&|| {
            let adapter = MemoryAdapter::new();
            Box::new(move || Arc::new(transport(&adapter)) as Arc<dyn Transport>)
        });
    }

    #[test]
    fn sqlite_keeps_the_transport_contract() {
        contract::run(&|| {
            let folder = tempfile::tempdir().expect("a folder");
            let opening = Opening::new("app", folder.path());
            Box::new(move || {
                let _keep = &folder;
                crate::transport::open("sqlite:sync.db", &opening).expect("sqlite opens")
            })
        });
    }

    #[test]
    fn artifacts_stand_beside_the_projects_rows_and_are_never_taken_for_them() {
        let adapter = MemoryAdapter::new();
        adapter.foreign_set(&RecordId::new("app", "shared", "notes.md"), "a file of the project");
        let transport = transport(&adapter);

        transport.put_new("app/shared/c~1/packs/p", b"bytes").expect("written");
        transport.put_new("app/u-anna-01234567/c~1/packs/p", b"private").expect("written");

        let all = transport.list(&ListRequest::new("app/", Depth::All)).expect("listed").names;
        assert_eq!(all, ["app/shared/c~1/packs/p", "app/u-anna-01234567/c~1/packs/p"]);
        let private = Query::paths("app-ledger", "u-anna-01234567", "", None, 10);
        assert_eq!(adapter.query(&private).expect("queried").rows.len(), 1);
        let rows = Query::paths("app", "shared", "", None, 10);
        assert_eq!(adapter.query(&rows).expect("queried").rows.len(), 1);
    }

    #[test]
    fn a_row_that_a_program_wrote_under_an_artifacts_name_is_bytes_like_any_other() {
        let adapter = MemoryAdapter::new();
        adapter.foreign_set(&RecordId::new("app-ledger", "shared", "shared/c~1/packs/p"), "junk");
        let transport = transport(&adapter);

        let put = transport.put_new("app/shared/c~1/packs/p", b"bytes").expect_err("a conflict");

        assert_eq!(put.kind, TransportErrorKind::Conflict);
        assert_eq!(transport.get("app/shared/c~1/packs/p", None, 10).expect("got"), b"junk");
        // Who has proven them wrong may replace them.
        transport.mend("app/shared/c~1/packs/p", b"bytes").expect("mended");
        assert_eq!(transport.get("app/shared/c~1/packs/p", None, 10).expect("got"), b"bytes");
    }
}
