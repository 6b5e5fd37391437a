//! Supabase: its REST API and the functions that `ddl` puts behind it, with the publishable or anon key alone.
//!
//! The tables, the triggers and the cursor are those of `postgres`; here each call is one request, and the service's rules (row level
//! security) decide what it may touch.
//! Invariant: what must be atomic is one function call. Deliberately absent: tables as PostgREST shows them (a row cap, no transactions).

mod ddl;
mod line;
mod realtime;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::hub::Hub;
use crate::postgres::read::{Place, Space, Span};
use crate::{
    AdapterError, Backend, Body, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits, OpenContext,
    Page, Query, Record, RecordId, Revision, Row, RowContent, Selection, Sink, Subscription, Write, drive,
};
use line::{Keys, Line};
use realtime::Listening;
use wire::{Answer, Found, Hello, Told};

/// This backend's line in the table.
pub(crate) const BACKEND: Backend = Backend {
    scheme: "supabase",
    aliases: &[],
    summary: "a Supabase project by its REST API and Realtime; run its ddl in the SQL editor first",
    default_address: "",
    is_file: false,
    settings: &["SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY", "SUPABASE_ACCESS_TOKEN"],
    ddl: ddl::ddl,
    open: |url, context| Ok(Arc::new(SupabaseAdapter::open(&url.address, context)?)),
};

const TEXT_LIMIT_BYTES: u64 = 256 * 1024;
const CHUNK_LIMIT_BYTES: u64 = 1 << 20;
const PAGE_ROWS: usize = 1_000;
// The service ends a request after a few seconds.
const BATCH_ROWS: usize = 500;
/// Contents in one request.
const REQUEST_BYTES: usize = 2 << 20;
/// Rows with their text asked for in one request.
const ROWS_PER_REQUEST: usize = 64;
const MAX_ID_BYTES: usize = crate::postgres::schema::MAX_ID_BYTES;
const FOREIGN_TEXT_LIMIT_BYTES: u64 = 8 << 20;

/// A mirror in a Supabase project.
pub struct SupabaseAdapter {
    line: Arc<Line>,
    capabilities: Capabilities,
    instance: Mutex<String>,
    hub: Arc<Hub<Listening>>,
    closed: AtomicBool,
}

impl SupabaseAdapter {
    /// Opens the project at `address` (its URL, or empty for `SUPABASE_URL`).
    ///
    /// Errors: `Unsupported` for settings that mean nothing, `Denied` for the key, `Corrupt` if the schema is missing or newer,
    /// `Unavailable` if nobody answers.
    pub fn open(address: &str, context: &OpenContext<'_>) -> Result<Self, AdapterError> {
        let line = Arc::new(Line::new(&Keys::read(address, context.env)?)?);
        let hello = greet(&line)?;
        let capabilities = Capabilities {
            name: "supabase".to_owned(),
            live: true,
            foreign_edits: ForeignEdits::ChangeLog,
            text_limit_bytes: TEXT_LIMIT_BYTES,
            chunk_limit_bytes: CHUNK_LIMIT_BYTES,
            batch_rows: BATCH_ROWS,
            page_rows: PAGE_ROWS,
            // Without a token of one's own, whoever has the key sees what the rows hold.
            own: hello.owner.is_some(),
        };
        let hub = Hub::new(Listening(Arc::clone(&line)));
        Ok(Self { line, capabilities, instance: Mutex::new(hello.instance), hub, closed: AtomicBool::new(false) })
    }

    fn call<T: serde::de::DeserializeOwned>(&self, function: &str, arguments: &Value) -> Result<T, AdapterError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed supabase backend"));
        }
        blocking(self.line.call(function, arguments))
    }

    fn instance(&self) -> String {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks anew whose tables these are. Errors: `Corrupt` if they say two things of that.
    fn meet_again(&self, known: &str) -> Result<(), AdapterError> {
        let hello = greet(&self.line)?;
        if hello.instance == known {
            return Err(self.odd());
        }
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = hello.instance;
        Ok(())
    }

    fn changes(&self, query: &Query, place: &Place, limit: usize) -> Result<Page, AdapterError> {
        let instance = self.instance();
        let space = Space::of(query);
        let nested = query.owner.as_deref().filter(|owner| matches!(*owner, "" | crate::SHARED_OWNER));
        let (until, after) = match place {
            Place::Amid { until, xid, n, .. } => (Some(until.clone()), Some((xid.to_string(), n.to_string()))),
            _ => (None, None),
        };
        let (after_xid, after_n) = after.unzip();
        let told: Told = self.call(
            "larder_changes",
            &json!({
                "low": space.low, "high": space.high, "nested": nested.map(|_| &space.nested), "since": place.since(),
                "until": until, "after_xid": after_xid, "after_n": after_n, "most": limit, "texts": query.with_content,
            }),
        )?;
        if told.instance.as_ref().is_some_and(|now| *now != instance) {
            // Its tables were made anew: they are read from their beginning.
            self.meet_again(&instance)?;
            return self.changes(query, &Place::Start, limit);
        }
        if told.unknown {
            return self.changes(query, &Place::Start, limit);
        }
        let until = until.unwrap_or(told.seen);
        let next = match told.rows.last().filter(|_| told.more) {
            Some(last) => {
                let (xid, n) = last.place().ok_or_else(|| self.odd())?;
                Place::Amid { since: place.since().map(str::to_owned), until, xid, n }
            }
            None => Place::After(until),
        };
        let rows = self.rows_of(told.rows, &instance, query.with_content)?;
        Ok(Page { rows, cursor: next.cursor(&instance), more: told.more })
    }

    fn paths(&self, query: &Query, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, AdapterError> {
        let instance = self.instance();
        let spans = Span::all(query, prefix, after);
        let column = |part: fn(&Span) -> Value| spans.iter().map(part).collect::<Vec<Value>>();
        let told: Told = self.call(
            "larder_paths",
            &json!({
                "froms": column(|span| json!(span.from)), "untils": column(|span| json!(span.until)),
                "path_ats": column(|span| json!(span.path_at)), "plain": column(|span| json!(span.no_colon)),
                "is_app": query.owner.is_none(), "prefix": prefix, "after": after, "most": limit, "texts": query.with_content,
            }),
        )?;
        let rows = self.rows_of(told.rows, &instance, query.with_content)?;
        Ok(Page { rows, cursor: Place::After(told.seen).cursor(&instance), more: told.more })
    }

    fn rows_of(&self, found: Vec<Found>, instance: &str, with_content: bool) -> Result<Vec<Row>, AdapterError> {
        let mut rows = Vec::with_capacity(found.len());
        for found in found {
            // A name that no record can have is none of ours.
            if let Some(id) = RecordId::parse(&found.id) {
                rows.extend(found.row(id, instance, with_content).ok_or_else(|| self.odd())?);
            }
        }
        Ok(rows)
    }

    fn odd(&self) -> AdapterError {
        let why = format!("ask supabase at {}: a row of its answer makes no sense", self.line.shown);
        AdapterError::new(ErrorKind::Corrupt, why)
    }

    /// Answers each item; what somebody held is tried alone.
    fn write(&self, items: &[Item<'_>]) -> Vec<Result<Revision, AdapterError>> {
        let instance = self.instance();
        let mut answers: Vec<Result<Revision, AdapterError>> = Vec::with_capacity(items.len());
        let mut rest = items;
        while !rest.is_empty() {
            let (group, after) = rest.split_at(group_of(rest));
            rest = after;
            if let [only] = group {
                answers.push(self.write_alone(only, &instance));
                continue;
            }
            match self.send(group, false, &instance) {
                Ok(told) => {
                    for (item, answer) in group.iter().zip(told) {
                        let is_held = matches!(answer, Answer { held: true, .. });
                        answers.push(if is_held {
                            self.write_alone(item, &instance)
                        } else {
                            answer.told(&item.id, &instance)
                        });
                    }
                }
                Err(error) if error.kind.is_transient() || error.kind == ErrorKind::Denied => {
                    answers.extend(group.iter().map(|_| Err(AdapterError::new(error.kind, error.message.clone()))));
                }
                // One of them is at fault: each by itself tells which.
                Err(_) => answers.extend(group.iter().map(|item| self.write_alone(item, &instance))),
            }
        }
        answers
    }

    fn write_alone(&self, item: &Item<'_>, instance: &str) -> Result<Revision, AdapterError> {
        let mut told = self.send(std::slice::from_ref(item), true, instance)?;
        told.pop().ok_or_else(|| self.odd())?.told(&item.id, instance)
    }

    fn send(&self, items: &[Item<'_>], waits: bool, instance: &str) -> Result<Vec<Answer>, AdapterError> {
        let items: Vec<Value> = items.iter().map(|item| item.json(instance)).collect();
        let told: Vec<Answer> = self.call("larder_write", &json!({ "items": items, "waits": waits }))?;
        if told.len() == items.len() { Ok(told) } else { Err(self.odd()) }
    }

    fn apply(&self, items: Vec<Item<'_>>) -> Vec<Result<Revision, AdapterError>> {
        let refused: Vec<Option<AdapterError>> = items.iter().map(|item| item.refusal(&self.capabilities)).collect();
        let mut fit = Vec::new();
        for (item, refusal) in items.into_iter().zip(&refused) {
            if refusal.is_none() {
                fit.push(item);
            }
        }
        let mut written = self.write(&fit).into_iter();
        let missing = || Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer"));
        refused.into_iter().map(|refusal| refusal.map_or_else(|| written.next().unwrap_or_else(missing), Err)).collect()
    }
}

/// Who answers, and whether its tables are this release's. Errors: as `open`.
fn greet(line: &Line) -> Result<Hello, AdapterError> {
    let hello: Hello = blocking(line.call("larder_hello", &json!({})))?;
    let told = |kind, why: &str| Err(AdapterError::new(kind, format!("use supabase at {}: {why}", line.shown)));
    if ddl::VERSION < hello.api {
        return told(ErrorKind::Corrupt, "a newer release made its tables; upgrade this one");
    }
    if hello.triggers < 3 {
        let why = "a trigger on files is missing or switched off, so edits of others would be missed; \
            `larder backend ddl supabase` prints it";
        return told(ErrorKind::Corrupt, why);
    }
    Ok(hello)
}

/// One item, borrowed, under its name.
struct Item<'a> {
    id: RecordId,
    record: Option<&'a Record>,
    expected: &'a Expected,
}

impl<'a> From<&'a Write> for Item<'a> {
    fn from(write: &'a Write) -> Self {
        match write {
            Write::Set { record, expected } => Item { id: record.id(), record: Some(record), expected },
            Write::Delete { id, expected } => Item { id: id.clone(), record: None, expected },
        }
    }
}

impl Item<'_> {
    fn bytes(&self) -> usize {
        match self.record.map(|record| &record.body) {
            Some(Body::Text(text)) => text.len(),
            Some(Body::Chunks { add, .. }) => add.iter().map(Vec::len).sum(),
            None => 0,
        }
    }

    fn refusal(&self, limits: &Capabilities) -> Option<AdapterError> {
        let size = self.id.as_str().len();
        if MAX_ID_BYTES < size {
            let why = format!("write a record: its name has {size} bytes, the limit is {MAX_ID_BYTES}");
            return Some(AdapterError::new(ErrorKind::TooLarge, why));
        }
        self.record.and_then(|record| limits.check(record).err())
    }

    fn json(&self, instance: &str) -> Value {
        wire::item(&self.id, self.record, self.expected, instance)
    }
}

/// How many items from the first on go into one request: different records, within its size.
fn group_of(items: &[Item<'_>]) -> usize {
    let (mut seen, mut bytes) = (std::collections::HashSet::new(), 0);
    let fits = |item: &&Item<'_>| {
        bytes += item.bytes();
        let is_first = seen.is_empty();
        seen.insert(item.id.as_str().to_owned()) && (is_first || (bytes <= REQUEST_BYTES && seen.len() <= BATCH_ROWS))
    };
    items.iter().take_while(fits).count()
}

fn blocking<T>(work: impl Future<Output = Result<T, AdapterError>>) -> Result<T, AdapterError> {
    drive::block_on(work)
        .map_err(|error| AdapterError::caused(ErrorKind::Unavailable, "wait for the database", error))?
}

impl FileSyncAdapter for SupabaseAdapter {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn store_id(&self) -> Option<String> {
        Some(self.instance())
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let limit = query.rows_of_page(PAGE_ROWS)?;
        match &query.select {
            Selection::Changes { after } => self.changes(query, &Place::of(after, &self.instance()), limit),
            Selection::Paths { prefix, after } => self.paths(query, prefix, after.as_deref(), limit),
        }
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        Ok(self.get_many(std::slice::from_ref(id))?.pop().flatten())
    }

    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        let instance = self.instance();
        let mut rows = Vec::with_capacity(ids.len());
        for group in ids.chunks(ROWS_PER_REQUEST) {
            let names: Vec<&str> = group.iter().map(RecordId::as_str).collect();
            let found: Vec<Option<Found>> = self.call("larder_rows", &json!({ "ids": names, "texts": true }))?;
            if found.len() != group.len() {
                return Err(self.odd());
            }
            for (found, id) in found.into_iter().zip(group) {
                let row = match found {
                    Some(found) => found.row(id.clone(), &instance, true).ok_or_else(|| self.odd())?,
                    None => None,
                };
                rows.push(row.filter(|row| row.content != RowContent::Absent || row.mirror.is_some()));
            }
        }
        Ok(rows)
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        let (mut next, end) = (u64::from(first), u64::from(first) + u64::from(count));
        let mut chunks = Vec::new();
        loop {
            let asked = json!({ "record": id.as_str(), "first": next, "until": end });
            let found: Option<Vec<String>> = self.call("larder_chunks", &asked)?;
            let Some(found) = found else {
                let why = format!("read chunks of {id}: there are none");
                return Err(AdapterError::new(ErrorKind::NotFound, why));
            };
            if found.is_empty() || next >= end {
                return Ok(chunks);
            }
            next += found.len() as u64;
            for chunk in found {
                let bytes = data_encoding::BASE64.decode(chunk.as_bytes()).map_err(|_| self.odd())?;
                chunks.push(bytes);
            }
        }
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        let item = Item { id: record.id(), record: Some(record), expected };
        self.apply(vec![item]).pop().unwrap_or_else(|| Err(self.odd()))
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        let item = Item { id: id.clone(), record: None, expected };
        self.apply(vec![item]).pop().unwrap_or_else(|| Err(self.odd())).map(drop)
    }

    /// Own writes of this handle wake too.
    fn subscribe(&self, query: &Query, _from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed supabase backend"));
        }
        self.hub.subscribe(query, sink)
    }

    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        self.apply(writes.iter().map(Item::from).collect())
    }

    fn status(&self) -> Vec<String> {
        self.hub.status()
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.closed.store(true, Ordering::Release);
        self.hub.close();
        Ok(())
    }
}

impl Drop for SupabaseAdapter {
    fn drop(&mut self) {
        // Subscriptions may outlive the handle: they hear nothing any more.
        self.hub.close();
    }
}
