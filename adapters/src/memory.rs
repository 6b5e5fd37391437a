//! The reference backend: the semantics of the seam in the plainest form, in memory, deterministic.
//!
//! Handles made by `clone` share one store. Invariant: `log` names each id at most once, at its newest change number.
//! Deliberately absent: persistence, limits of a service, threads; sinks are called by the writer, after its write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock;
use crate::{
    AdapterError, Body, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits, MirrorEntry, Page,
    Query, Record, RecordId, Revision, Row, RowContent, Selection, Sink, Subscription, Wake,
};

/// A backend in memory; for tests, simulations and as the contract's reference.
pub struct MemoryAdapter {
    store: Arc<Store>,
    capabilities: Capabilities,
    closed: AtomicBool,
}

#[derive(Default)]
struct Store {
    state: Mutex<State>,
    listeners: Mutex<Vec<Arc<Listener>>>,
}

#[derive(Default)]
struct State {
    last_change: u64,
    log: BTreeMap<u64, RecordId>,
    entries: BTreeMap<RecordId, Entry>,
}

#[derive(Clone, Default)]
struct Entry {
    change: u64,
    content: Option<Content>,
    mirror: Option<(MirrorEntry, u64)>,
    last_updated_ms: u64,
    created_at_ms: u64,
}

#[derive(Clone)]
enum Content {
    Text(String),
    Chunks(Vec<Vec<u8>>),
}

struct Listener {
    app: String,
    owner: Option<String>,
    // Held while the sink runs, so that dropping the subscription waits for a call that is under way.
    sink: Mutex<Option<Sink>>,
}

impl Default for MemoryAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for MemoryAdapter {
    /// Another handle on the same store.
    fn clone(&self) -> Self {
        Self::on(Arc::clone(&self.store))
    }
}

impl MemoryAdapter {
    /// An empty store.
    pub fn new() -> Self {
        Self::on(Arc::default())
    }

    fn on(store: Arc<Store>) -> Self {
        let capabilities = Capabilities {
            name: "memory".to_owned(),
            live: true,
            foreign_edits: ForeignEdits::ChangeLog,
            text_limit_bytes: 256 * 1024,
            chunk_limit_bytes: 16 * 1024 * 1024,
            batch_rows: 10_000,
            page_rows: 10_000,
            own: true,
        };
        Self { store, capabilities, closed: AtomicBool::new(false) }
    }

    /// Writes a text row as a program would that knows only `files`: the mirror entry stays as it is.
    pub fn foreign_set(&self, id: &RecordId, text: &str) {
        let mut state = lock(&self.store.state);
        let mut entry = state.entries.get(id).cloned().unwrap_or_default();
        entry.content = Some(Content::Text(text.to_owned()));
        state.record(id, entry);
        drop(state);
        self.store.wake(id);
    }

    /// Deletes a row as a program would that knows only `files`: the mirror entry stays as it is.
    pub fn foreign_delete(&self, id: &RecordId) {
        let mut state = lock(&self.store.state);
        let Some(mut entry) = state.entries.get(id).cloned().filter(|entry| entry.content.is_some()) else {
            return;
        };
        entry.content = None;
        state.record(id, entry);
        drop(state);
        self.store.wake(id);
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, AdapterError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed memory backend"));
        }
        Ok(lock(&self.store.state))
    }
}

impl FileSyncAdapter for MemoryAdapter {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let limit = query.rows_of_page(self.capabilities.page_rows)?;
        let state = self.open_state()?;
        Ok(match &query.select {
            Selection::Changes { after } => state.changes(query, after, limit),
            Selection::Paths { prefix, after } => state.paths(query, prefix, after.as_deref(), limit),
        })
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        let state = self.open_state()?;
        let entry = state.entries.get(id).filter(|entry| entry.content.is_some() || entry.mirror.is_some());
        Ok(entry.and_then(|entry| entry.row(id, true)))
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        let state = self.open_state()?;
        match state.entries.get(id).and_then(|entry| entry.content.as_ref()) {
            Some(Content::Chunks(chunks)) => {
                Ok(chunks.iter().skip(first as usize).take(count as usize).cloned().collect())
            }
            _ => Err(AdapterError::new(ErrorKind::NotFound, format!("read chunks of {id}: there are none"))),
        }
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        self.capabilities.check(record)?;
        let id = record.id();
        let mut state = self.open_state()?;
        let entry = state.entries.get(&id).cloned().unwrap_or_default();
        entry.expect(&id, expected)?;
        let entry = entry.replaced(&id, record, state.last_change + 1)?;
        let change = state.record(&id, entry);
        drop(state);
        self.store.wake(&id);
        Ok(revision(change))
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        let mut state = self.open_state()?;
        let entry = state.entries.get(id).cloned().unwrap_or_default();
        if entry.content.is_none() && entry.mirror.is_none() {
            return match expected {
                Expected::Absent => Ok(()),
                Expected::Revision(_) => {
                    Err(AdapterError::new(ErrorKind::NotFound, format!("delete {id}: it is gone already")))
                }
            };
        }
        entry.expect(id, expected)?;
        state.record(id, Entry::default());
        drop(state);
        self.store.wake(id);
        Ok(())
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        let state = self.open_state()?;
        let late = !state.changes(query, &from, 1).rows.is_empty();
        let (app, owner) = (query.app.clone(), query.owner.clone());
        let listener = Arc::new(Listener { app, owner, sink: Mutex::new(Some(sink)) });
        lock(&self.store.listeners).push(Arc::clone(&listener));
        drop(state);
        if late {
            listener.wake();
        }
        let store = Arc::clone(&self.store);
        Ok(Subscription::new(move || {
            lock(&store.listeners).retain(|other| !Arc::ptr_eq(other, &listener));
            *lock(&listener.sink) = None;
        }))
    }

    /// Nothing is kept of what was deleted but what memory holds.
    fn scrub(&self) -> Result<Option<String>, AdapterError> {
        Ok(None)
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl State {
    fn record(&mut self, id: &RecordId, mut entry: Entry) -> u64 {
        self.log.remove(&entry_change(self.entries.get(id)));
        self.last_change += 1;
        entry.change = self.last_change;
        self.log.insert(self.last_change, id.clone());
        self.entries.insert(id.clone(), entry);
        self.last_change
    }

    fn changes(&self, query: &Query, after: &Cursor, limit: usize) -> Page {
        let after: u64 = after.as_str().parse().ok().filter(|&change| change <= self.last_change).unwrap_or(0);
        let mut rows = Vec::new();
        let mut place = self.last_change;
        let mut more = false;
        for id in self.log.range(after + 1..).map(|(_, id)| id).filter(|id| selects(query, id)) {
            if rows.len() == limit {
                more = true;
                break;
            }
            let entry = &self.entries[id];
            rows.extend(entry.row(id, query.with_content));
            place = entry.change;
        }
        let place = if more { place } else { self.last_change };
        Page { rows, cursor: Cursor::from_text(place.to_string()), more }
    }

    fn paths(&self, query: &Query, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let present = self.entries.iter().filter(|(id, entry)| selects(query, id) && entry.content.is_some());
        let rows = present.filter_map(|(id, entry)| entry.row(id, query.with_content));
        let admitted = |row: &Row| row.path.starts_with(prefix) && after.is_none_or(|after| after < row.path.as_str());
        let mut rows: Vec<Row> = rows.filter(admitted).collect();
        rows.sort_by(|a, b| (&a.path, &a.owner).cmp(&(&b.path, &b.owner)));
        let more = cut_between_paths(&mut rows, limit);
        Page { rows, cursor: Cursor::from_text(self.last_change.to_string()), more }
    }
}

/// Cuts sorted rows after `limit`, but never between two rows of one path. Returns whether anything was cut.
fn cut_between_paths(rows: &mut Vec<Row>, limit: usize) -> bool {
    let mut end = limit;
    while 0 < end && end < rows.len() && rows[end].path == rows[end - 1].path {
        end += 1;
    }
    let more = end < rows.len();
    rows.truncate(end);
    more
}

impl Entry {
    fn expect(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        match expected {
            Expected::Absent if self.content.is_some() => Err(AdapterError::conflict(id, "it is there already")),
            Expected::Revision(expected) if *expected != revision(self.change) => {
                Err(AdapterError::conflict(id, "it has changed since it was read"))
            }
            _ => Ok(()),
        }
    }

    fn replaced(self, id: &RecordId, record: &Record, change: u64) -> Result<Self, AdapterError> {
        let content = match &record.body {
            Body::Text(text) => Content::Text(text.clone()),
            Body::Chunks { keep, add } => {
                let keep = *keep as usize;
                let mut chunks = match self.content {
                    Some(Content::Chunks(chunks)) => chunks,
                    _ => Vec::new(),
                };
                if chunks.len() < keep {
                    return Err(AdapterError::conflict(id, "it has fewer chunks than are to be kept"));
                }
                chunks.truncate(keep);
                chunks.extend(add.iter().cloned());
                Content::Chunks(chunks)
            }
        };
        Ok(Self {
            change,
            content: Some(content),
            mirror: record.mirror.clone().map(|mirror| (mirror, change)),
            last_updated_ms: record.last_updated_ms,
            created_at_ms: record.created_at_ms,
        })
    }

    fn row(&self, id: &RecordId, with_content: bool) -> Option<Row> {
        let (app, owner, path) = id.parts()?;
        let content = match &self.content {
            None => RowContent::Absent,
            Some(Content::Text(text)) if with_content => RowContent::Text(text.clone()),
            Some(Content::Text(_)) => RowContent::Unread,
            Some(Content::Chunks(chunks)) => RowContent::Chunked {
                chunk_count: chunks.len() as u32,
                size_bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(),
            },
        };
        Some(Row {
            id: id.clone(),
            app,
            owner,
            path,
            content,
            revision: revision(self.change),
            mirror: self.mirror.as_ref().map(|(mirror, _)| mirror.clone()),
            mirrored_revision: self.mirror.as_ref().map(|&(_, change)| revision(change)),
            last_updated_ms: self.last_updated_ms,
            created_at_ms: self.created_at_ms,
        })
    }
}

impl Store {
    fn wake(&self, id: &RecordId) {
        let Some((app, owner, _)) = id.parts() else {
            return;
        };
        let hears = |listener: &&Arc<Listener>| {
            listener.app == app && listener.owner.as_ref().is_none_or(|wanted| *wanted == owner)
        };
        let listeners: Vec<Arc<Listener>> = lock(&self.listeners).iter().filter(hears).cloned().collect();
        for listener in listeners {
            listener.wake();
        }
    }
}

impl Listener {
    fn wake(&self) {
        if let Some(sink) = &*lock(&self.sink) {
            sink(Wake::Changed);
        }
    }
}

fn selects(query: &Query, id: &RecordId) -> bool {
    let Some((app, owner, _)) = id.parts() else {
        return false;
    };
    app == query.app && query.owner.as_ref().is_none_or(|wanted| *wanted == owner)
}

fn entry_change(entry: Option<&Entry>) -> u64 {
    entry.map_or(0, |entry| entry.change)
}

fn revision(change: u64) -> Revision {
    Revision::new(change.to_string())
}
