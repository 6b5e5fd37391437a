//! `FileSyncAdapter`: the seam between the engine and every database it can mirror into.
//!
//! Synchronous, because the engine is synchronous and deterministic; a network backend brings its own small runtime.
//! Invariant: every write is a compare-and-set on one record, atomic and durable when it returns `Ok`.
//! Deliberately absent: retries, conflict resolution, paths' admission, ledger formats. Those live once, above the seam.

use crate::{
    AdapterError, Body, Cursor, ErrorKind, Expected, Page, Query, Record, RecordId, Revision, Row, Wake, Write,
};

/// How a backend learns of rows written by programs that are not Larder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignEdits {
    /// `Selection::Changes` tells every one of them, deletions included.
    ChangeLog,
    /// Some are told only by listing everything, every ten minutes.
    Sweep,
}

/// What a backend can do; fixed while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The backend's name as in `BACKENDS`, for `status` and for `via: backend:<name>`.
    pub name: String,
    /// Whether `subscribe` is woken by changes rather than by a clock.
    pub live: bool,
    /// How foreign edits are found.
    pub foreign_edits: ForeignEdits,
    /// The longest text row, in bytes; longer contents are chunked.
    pub text_limit_bytes: u64,
    /// The longest chunk, in bytes.
    pub chunk_limit_bytes: u64,
    /// The most items of one `write_batch` that are worth gathering.
    pub batch_rows: usize,
    /// The most rows one page holds, whatever `Query::limit` says.
    pub page_rows: usize,
    /// Whether the backend is the user's own, so that private rows may go there.
    pub own: bool,
}

impl Capabilities {
    /// The content as a text row can hold it, or `None` if it is to be chunked.
    ///
    /// A text row is UTF-8, at most `text_limit_bytes` long and without NUL (SQL tools cut at it, Postgres refuses it).
    pub fn admits_text<'a>(&self, content: &'a [u8]) -> Option<&'a str> {
        if content.len() as u64 > self.text_limit_bytes || content.contains(&0) {
            return None;
        }
        std::str::from_utf8(content).ok()
    }

    /// Refuses a record that no backend with these limits can hold. `TooLarge` or `Unsupported`.
    pub fn check(&self, record: &Record) -> Result<(), AdapterError> {
        let refuse = |kind, why: String| Err(AdapterError::new(kind, format!("write {}: {why}", record.id())));
        for (name, part) in [("app", &record.app), ("owner", &record.owner), ("path", &record.path)] {
            if part.is_empty() || part.contains('\0') {
                return refuse(ErrorKind::Unsupported, format!("{name} is empty or holds a NUL"));
            }
        }
        match &record.body {
            Body::Text(text) if text.len() as u64 > self.text_limit_bytes => {
                let (size, limit) = (text.len(), self.text_limit_bytes);
                refuse(ErrorKind::TooLarge, format!("text of {size} bytes, the limit is {limit}"))
            }
            Body::Text(text) if text.contains('\0') => {
                refuse(ErrorKind::Unsupported, "text holds a NUL; chunks can".to_owned())
            }
            Body::Text(_) => Ok(()),
            Body::Chunks { keep, add } => {
                let limit = self.chunk_limit_bytes;
                if let Some(chunk) = add.iter().find(|chunk| chunk.len() as u64 > limit) {
                    let size = chunk.len();
                    return refuse(ErrorKind::TooLarge, format!("chunk of {size} bytes, the limit is {limit}"));
                }
                match u32::try_from(add.len()).ok().and_then(|added| keep.checked_add(added)) {
                    Some(_) => Ok(()),
                    None => refuse(ErrorKind::TooLarge, format!("more than {} chunks", u32::MAX)),
                }
            }
        }
    }
}

/// One write of a backend that writes batches.
pub(crate) fn write_one(adapter: &impl FileSyncAdapter, write: Write) -> Result<Revision, AdapterError> {
    let missing = || Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer"));
    adapter.write_batch(&[write]).pop().unwrap_or_else(missing)
}

/// What is told when a subscribed space may have changed. It may be called from any thread, also from the writer's own:
/// it must only leave a note (send on a channel), never call the adapter or drop the subscription.
pub type Sink = Box<dyn Fn(Wake) + Send + Sync>;

/// A live subscription. Dropping it ends it: afterwards its sink is never called again and its thread is gone.
#[must_use = "dropping a subscription ends it"]
pub struct Subscription {
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Subscription {
    /// A subscription that `stop` ends and joins.
    pub fn new(stop: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { stop: Some(Box::new(stop)) }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscription")
    }
}

/// A database that holds the current rows of projects.
///
/// All methods are safe together, from several threads and, on another handle, from several processes.
pub trait FileSyncAdapter: Send + Sync {
    /// What this backend can do.
    fn capabilities(&self) -> &Capabilities;

    /// Names this very store: another one, or one that was made anew, has another name. `None` if the backend cannot tell.
    fn store_id(&self) -> Option<String> {
        None
    }

    /// How many changes this very store has counted, whoever made them: fewer than before means that an older copy took its
    /// place. `None` if the backend cannot tell.
    fn changes_counted(&self) -> Result<Option<u64>, AdapterError> {
        Ok(None)
    }

    /// Reads one page; all of it from one moment.
    ///
    /// Errors leave nothing behind; `Unsupported` for a limit of 0.
    fn query(&self, query: &Query) -> Result<Page, AdapterError>;

    /// Reads one record with its text. `None` if there is neither content nor a mirror entry.
    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError>;

    /// Reads several records as `get` does, in their order; what stands between two of them may have changed.
    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        ids.iter().map(|id| self.get(id)).collect()
    }

    /// Reads chunks `first..first + count` of a chunked record, fewer at its end.
    ///
    /// `NotFound` if the record has no chunks. Not atomic with the row: a caller that read the row before compares the hash.
    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError>;

    /// Replaces the state `expected` by `record`, its other form (text or chunks) and its mirror entry included.
    ///
    /// Atomic and durable. `Conflict` if another state stands, and then nothing was written. After `Unavailable` the write may have
    /// happened: a retry is safe and answers `Conflict` then, and `get` shows the own content.
    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError>;

    /// Removes the content and the mirror entry of the state `expected`.
    ///
    /// Atomic and durable. Also acknowledges a foreign deletion, whose mirror entry still stands. With `Expected::Absent`
    /// nothing to remove is `Ok`; with a revision it is `NotFound`; another state is `Conflict`.
    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError>;

    /// Tells `sink` whenever the space of `query` (app and owner; the rest is ignored) may have changed after `from`.
    ///
    /// A hint: repeated, merged or spurious wakes are allowed, own writes may wake; a missed change is not, unless
    /// `Lost` is told. The caller then queries from its own cursor.
    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError>;

    /// Writes many items in order, each as `set` or `delete` would; one that fails does not stop the others.
    ///
    /// Shape: one answer an item, in order; a delete answers `batch_delete_revision()`. Not atomic as a whole, though a backend may make it so.
    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        let apply = |write: &Write| match write {
            Write::Set { record, expected } => self.set(record, expected),
            Write::Delete { id, expected } => self.delete(id, expected).map(|()| batch_delete_revision()),
        };
        writes.iter().map(apply).collect()
    }

    /// As `write_batch`, for one of many batches in a row: what it acknowledges everybody sees at once, and a kill does not
    /// take it back, but until `sync_writes` returns a power cut may. For a backend with nothing to gain it is `write_batch`.
    fn write_batch_unsynced(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        self.write_batch(writes)
    }

    /// Fills an empty backend with items that are made while they are written, in order, each as `set` or `delete` would.
    ///
    /// `None` if that is worth nothing here or now; no item was taken then, and `write_batch_unsynced` is to be used. Shape: one
    /// answer for each item that was taken; when everything failed, items are taken no more. What is acknowledged is durable.
    fn fill(&self, _writes: &mut dyn Iterator<Item = Write>) -> Option<Vec<Result<Revision, AdapterError>>> {
        None
    }

    /// Returns once all that `write_batch_unsynced` acknowledged is durable.
    fn sync_writes(&self) -> Result<(), AdapterError> {
        Ok(())
    }

    /// Lines for `status`: what is degraded and why; empty when all is well.
    fn status(&self) -> Vec<String> {
        Vec::new()
    }

    /// Takes the bytes of what was deleted or replaced out of free space and logs, where those are files of this machine.
    ///
    /// Slow: all that stands there may be written anew. `None` when none of it is left; else a sentence that says where it may be, and
    /// what a person can do. Errors: as `set`; nothing is lost, and a later try is due.
    fn scrub(&self) -> Result<Option<String>, AdapterError> {
        let name = &self.capabilities().name;
        Ok(Some(format!(
            "{name} keeps what was deleted in free space, logs and backups for as long as its keeper lets it"
        )))
    }

    /// Empties caches: nothing may be asked for a while. Changes nothing else.
    fn shrink(&self) {}

    /// Lets go of connections. Idempotent; later calls on this handle are `Unavailable`.
    fn close(&self) -> Result<(), AdapterError>;
}

/// What `write_batch` answers for a deleted record: a revision no row ever has.
pub fn batch_delete_revision() -> Revision {
    Revision::new("deleted")
}
