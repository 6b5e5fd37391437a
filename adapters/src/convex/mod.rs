//! Convex: a deployment that runs the functions Larder ships in `adapters/convex/`, asked over its HTTP interface.
//!
//! Each mutation there is one transaction that gives the next change number, so that feed, revisions and cursors are plain numbers. That
//! something changed is heard over the vendor's sync socket, or asked for by the clock where there is none.
//! Invariant: nothing is decided here that the functions decide; a call is one function, and what changed is what HTTP answers. Deliberately
//! absent: the vendor's crate (it brings a second TLS library and switches on a feature of `serde_json` that changes hashed bytes).

mod call;
mod live;
mod row;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::adapter::write_one;
use crate::lock;
use crate::pieces::spanning;
use crate::{
    AdapterError, Backend, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits, OpenContext, Page,
    Query, Record, RecordId, Revision, Row, RowContent, Selection, Sink, Subscription, Wake, Write,
    batch_delete_revision,
};
use call::{Caller, Failure};
use live::Bell;
use row::{PIECE_BYTES, Piece, Sending, chunks_of, cursor, number, pieces_of, place_of, revision, row_of, strange};

/// This backend's line in the table.
pub(crate) const BACKEND: Backend = Backend {
    scheme: "convex",
    aliases: &[],
    summary: "a Convex deployment with Larder's functions (adapters/convex), shared by machines anywhere",
    default_address: "",
    is_file: false,
    settings: call::SETTINGS,
    ddl: || {
        let (schema, larder) = (include_str!("../../convex/schema.ts"), include_str!("../../convex/larder.ts"));
        let files = include_str!("../../convex/files.ts");
        format!("// convex/schema.ts\n{schema}\n// convex/larder.ts\n{larder}\n// convex/files.ts\n{files}")
    },
    open: |url, context| Ok(Arc::new(ConvexAdapter::open(&url.address, context)?)),
};

// A document may have 1 MiB, its names and its other fields included.
const TEXT_LIMIT_BYTES: u64 = 900 * 1024;
const PAGE_ROWS: usize = 1_000;
const BATCH_ROWS: usize = 200;
/// Writes, and bytes, of one call; a function takes 8 MiB and a transaction 8,192 writes.
const CALL_ROWS: usize = 200;
const CALL_BYTES: usize = 3 * 1024 * 1024;
/// Records asked for by name at once, each up to 1 MiB.
const NAMES_AT_ONCE: usize = 6;
/// Pieces sent or asked for at once.
const PIECES_AT_ONCE: usize = 4;
/// A record is read again so often if its chunks vanish while they are read, and pieces sent again if they do.
const TRIES: u32 = 4;
/// One small question each time, from each of the two spaces that a daemon listens to.
const POLL_SOON: Duration = Duration::from_secs(2);
const POLL_RARELY: Duration = Duration::from_secs(15);
const POLL_BROKEN: Duration = Duration::from_secs(60);
/// While the socket tells of changes: it promises no delivery.
const POLL_LIVE: Duration = Duration::from_secs(60);
/// From one question that a hint set off to the next; hints in between are one.
const SPACING: Duration = Duration::from_millis(100);

/// How a handle hears of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvexListening {
    /// Over the socket, and by the clock while there is none.
    Usual,
    /// By the clock alone, every so many milliseconds, however quiet it is.
    Clock {
        /// Between two questions, in milliseconds.
        every_ms: u64,
    },
    /// Over the socket alone.
    Socket,
}

impl ConvexListening {
    /// The shortest and the longest time between two questions.
    fn pace(self) -> (Duration, Duration) {
        match self {
            ConvexListening::Usual => (POLL_SOON, POLL_RARELY),
            ConvexListening::Clock { every_ms } => (Duration::from_millis(every_ms), Duration::from_millis(every_ms)),
            ConvexListening::Socket => (NEVER, NEVER),
        }
    }

    fn rest_while_live(self) -> Duration {
        if self == ConvexListening::Usual { POLL_LIVE } else { NEVER }
    }
}

const NEVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A mirror in a Convex deployment.
pub struct ConvexAdapter {
    shared: Arc<Shared>,
    capabilities: Capabilities,
}

struct Shared {
    caller: Arc<Caller>,
    bell: Arc<Bell>,
    listening: ConvexListening,
    /// Names the deployment's data.
    instance: Mutex<String>,
    next_sweeps: Mutex<HashMap<String, Instant>>,
    degraded: Mutex<Option<String>>,
    closed: AtomicBool,
}

impl fmt::Debug for ConvexAdapter {
    /// The deployment's host and no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConvexAdapter({})", self.shared.caller.place())
    }
}

impl ConvexAdapter {
    /// Opens the deployment that `address` or `CONVEX_URL` names.
    ///
    /// Errors: `Denied` for a secret that is missing or wrong, `Unsupported` for settings that make no sense, `Corrupt` for functions that are
    /// not deployed or of another release, `Unavailable` if it cannot be reached.
    pub fn open(address: &str, context: &OpenContext<'_>) -> Result<ConvexAdapter, AdapterError> {
        ConvexAdapter::open_listening(address, context, ConvexListening::Usual)
    }

    /// The same, hearing of changes as told. Errors: as of `open`.
    pub fn open_listening(
        address: &str,
        context: &OpenContext<'_>,
        listening: ConvexListening,
    ) -> Result<ConvexAdapter, AdapterError> {
        let shared = Shared {
            caller: Arc::new(Caller::of(address, context)?),
            bell: Arc::default(),
            listening,
            instance: Mutex::default(),
            next_sweeps: Mutex::default(),
            degraded: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        let capabilities = Capabilities {
            name: "convex".to_owned(),
            live: !matches!(listening, ConvexListening::Clock { .. }),
            foreign_edits: ForeignEdits::Sweep,
            text_limit_bytes: TEXT_LIMIT_BYTES,
            chunk_limit_bytes: PIECE_BYTES as u64,
            batch_rows: BATCH_ROWS,
            page_rows: PAGE_ROWS,
            own: true,
        };
        let adapter = ConvexAdapter { shared: Arc::new(shared), capabilities };
        adapter.run("open", adapter.shared.open())?;
        Ok(adapter)
    }

    fn run<T>(&self, doing: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, AdapterError> {
        self.check_open()?;
        let doing = format!("{doing} Convex at {}", self.shared.caller.place());
        let done = crate::drive::block_on(work);
        let done = done.map_err(|error| AdapterError::caused(ErrorKind::Unavailable, doing.clone(), error))?;
        done.map_err(|failure| failure.error(&doing))
    }

    fn check_open(&self) -> Result<(), AdapterError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed convex backend"));
        }
        Ok(())
    }
}

impl Shared {
    async fn open(&self) -> Result<(), Failure> {
        let instance = self.caller.mutation("open", json!({})).await?;
        *lock(&self.instance) = instance.as_str().ok_or_else(strange)?.to_owned();
        Ok(())
    }

    /// What names the deployment's data now, and its last change.
    async fn newest(&self) -> Result<(String, u64), Failure> {
        let newest = self.caller.query("newest", json!({})).await?;
        if newest.is_null() {
            self.open().await?;
            return Ok((lock(&self.instance).clone(), 0));
        }
        let instance = newest.get("instance").and_then(Value::as_str).ok_or_else(strange)?.to_owned();
        lock(&self.instance).clone_from(&instance);
        Ok((instance, number(&newest, "change").ok_or_else(strange)?))
    }

    async fn changes(&self, query: &Query, after: &Cursor, limit: usize) -> Result<Page, Failure> {
        self.sweep_if_due(&query.app).await?;
        let (instance, newest) = self.newest().await?;
        let mut after = place_of(after, &instance, newest);
        loop {
            let args = json!({
                "app": query.app, "owner": query.owner, "after": after, "limit": limit, "withContent": query.with_content,
            });
            let page = self.page("changes", args, &instance, query.with_content).await?;
            // Pages of another owner's rows only are passed over.
            if !page.more || !page.rows.is_empty() {
                return Ok(page);
            }
            after = place_of(&page.cursor, &instance, u64::MAX);
        }
    }

    async fn page(&self, function: &str, args: Value, instance: &str, with_content: bool) -> Result<Page, Failure> {
        let answer = self.caller.query(function, args).await?;
        let rows = answer.get("rows").and_then(Value::as_array).ok_or_else(strange)?;
        let rows = rows.iter().map(|row| row_of(row, instance, with_content)).collect::<Option<Vec<Row>>>();
        let place = number(&answer, "place").ok_or_else(strange)?;
        let more = answer.get("more").and_then(Value::as_bool).ok_or_else(strange)?;
        Ok(Page { rows: rows.ok_or_else(strange)?, cursor: cursor(instance, place), more })
    }

    async fn paths(&self, query: &Query, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Failure> {
        let instance = lock(&self.instance).clone();
        let args = json!({
            "app": query.app, "owner": query.owner, "prefix": prefix, "after": after, "limit": limit,
            "withContent": query.with_content,
        });
        self.page("paths", args, &instance, query.with_content).await
    }

    async fn shown(&self, ids: &[RecordId]) -> Result<Vec<Value>, Failure> {
        let mut shown = Vec::with_capacity(ids.len());
        for some in ids.chunks(NAMES_AT_ONCE) {
            let names: Vec<&str> = some.iter().map(RecordId::as_str).collect();
            let answer = self.caller.query("get", json!({ "ids": names })).await?;
            shown.extend(answer.as_array().filter(|all| all.len() == some.len()).ok_or_else(strange)?.iter().cloned());
        }
        Ok(shown)
    }

    async fn rows(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, Failure> {
        let instance = lock(&self.instance).clone();
        let row = |shown: &Value| match shown.is_null() {
            true => Ok(None),
            false => row_of(shown, &instance, true).map(Some).ok_or_else(strange),
        };
        let rows = self.shown(ids).await?.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let is_there = |row: &Row| row.content != RowContent::Absent || row.mirror.is_some();
        Ok(rows.into_iter().map(|row| row.filter(is_there)).collect())
    }

    async fn chunks(&self, id: &RecordId, first: usize, count: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let missing = || Failure::new(ErrorKind::NotFound, "there are none");
        for _ in 0..TRIES {
            let shown = self.shown(std::slice::from_ref(id)).await?.pop().ok_or_else(strange)?;
            if shown.get("kind").and_then(Value::as_str) != Some("chunks") {
                return Err(missing());
            }
            let pieces = pieces_of(&shown).ok_or_else(strange)?;
            let (wanted, before) = spanning(pieces.iter().map(|piece| piece.sizes.len()), first, count);
            if let Some(chunks) = self.contents(&pieces[wanted]).await? {
                return Ok(chunks.into_iter().skip(first - before.min(first)).take(count).collect());
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "others keep writing it"))
    }

    /// The chunks of some pieces; `None` if one is not there.
    async fn contents(&self, pieces: &[Piece]) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let mut chunks = Vec::new();
        for some in pieces.chunks(PIECES_AT_ONCE) {
            let names: Vec<&str> = some.iter().map(|piece| piece.name.as_str()).collect();
            let answer = self.caller.query("pieces", json!({ "names": names })).await?;
            let found = answer.as_array().filter(|all| all.len() == some.len()).ok_or_else(strange)?;
            for (piece, data) in some.iter().zip(found) {
                let Some(whole) = data.as_str().and_then(|data| chunks_of(piece, data)) else { return Ok(None) };
                chunks.extend(whole);
            }
        }
        Ok(Some(chunks))
    }

    async fn apply(&self, writes: &[Write], limits: &Capabilities) -> Vec<Result<Revision, AdapterError>> {
        let instance = lock(&self.instance).clone();
        let mut answers: Vec<Option<Result<Revision, AdapterError>>> = writes.iter().map(|_| None).collect();
        let mut group: Vec<(usize, Sending)> = Vec::new();
        let mut bytes = 0;
        for (at, write) in writes.iter().enumerate() {
            if let Write::Set { record, .. } = write
                && let Err(error) = limits.check(record)
            {
                answers[at] = Some(Err(error));
                continue;
            }
            let Some(sending) = Sending::of(write, &instance) else {
                answers[at] = Some(self.of_another(write).await);
                continue;
            };
            if !group.is_empty() && (group.len() == CALL_ROWS || CALL_BYTES < bytes + sending.bytes) {
                self.send(&mut group, writes, &instance, &mut answers).await;
                bytes = 0;
            }
            bytes += sending.bytes;
            group.push((at, sending));
        }
        self.send(&mut group, writes, &instance, &mut answers).await;
        let unanswered = || Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// What a revision that nothing here can have means: another state stands, or nothing.
    async fn of_another(&self, write: &Write) -> Result<Revision, AdapterError> {
        let Write::Delete { id, .. } = write else {
            let Write::Set { record, .. } = write else { return Ok(batch_delete_revision()) };
            return Err(AdapterError::conflict(&record.id(), "it has changed since it was read"));
        };
        match self.rows(std::slice::from_ref(id)).await.map(|mut rows| rows.pop().flatten()) {
            Ok(None) => Err(AdapterError::new(ErrorKind::NotFound, format!("delete {id}: it is gone already"))),
            Ok(Some(_)) => Err(AdapterError::conflict(id, "it has changed since it was read")),
            Err(failure) => Err(failure.error(&format!("write {id}"))),
        }
    }

    async fn send(
        &self,
        group: &mut Vec<(usize, Sending)>,
        writes: &[Write],
        instance: &str,
        answers: &mut [Option<Result<Revision, AdapterError>>],
    ) {
        let group = std::mem::take(group);
        let Err(mut failure) = self.try_send(&group, writes, instance, answers).await else { return };
        let is_many = 1 < group.len();
        for item in group {
            let at = item.0;
            if answers[at].is_some() {
                continue;
            }
            // One of them, or all together, is too much for what stands between: each by itself tells which.
            if is_many && failure.kind == ErrorKind::TooLarge {
                match self.try_send(std::slice::from_ref(&item), writes, instance, answers).await {
                    Ok(()) => continue,
                    Err(of_this) => failure = of_this,
                }
            }
            answers[at].get_or_insert_with(|| Err(failure.error(&format!("write {}", id_of(&writes[at])))));
        }
    }

    async fn try_send(
        &self,
        group: &[(usize, Sending)],
        writes: &[Write],
        instance: &str,
        answers: &mut [Option<Result<Revision, AdapterError>>],
    ) -> Result<(), Failure> {
        if group.is_empty() {
            return Ok(());
        }
        let mut left: Vec<&(usize, Sending)> = group.iter().collect();
        for _ in 0..TRIES {
            for (at, sending) in &left {
                self.put_pieces(id_of(&writes[*at]).as_str(), &sending.pieces).await?;
            }
            let sent: Vec<&Value> = left.iter().map(|(_, sending)| &sending.write).collect();
            let answer = self.caller.mutation("apply", json!({ "writes": sent })).await?;
            let told = answer.as_array().filter(|told| told.len() == left.len()).ok_or_else(strange)?;
            let mut again = Vec::new();
            for (item, told) in left.into_iter().zip(told) {
                match judged(&writes[item.0], told, instance) {
                    Some(answer) => answers[item.0] = Some(answer),
                    None => again.push(item),
                }
            }
            left = again;
            if left.is_empty() {
                return self.tidy().await;
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "others keep removing its pieces"))
    }

    async fn put_pieces(&self, id: &str, pieces: &[(String, String)]) -> Result<(), Failure> {
        for some in pieces.chunks(PIECES_AT_ONCE) {
            let some: Vec<Value> = some.iter().map(|(name, data)| json!({ "name": name, "data": data })).collect();
            self.caller.mutation("putPieces", json!({ "id": id, "pieces": some })).await?;
        }
        Ok(())
    }

    /// Removes what no record names any more, as far as there is any; what fails is left to the next write.
    async fn tidy(&self) -> Result<(), Failure> {
        while matches!(self.caller.mutation("tidy", json!({})).await, Ok(Value::Bool(true))) {}
        Ok(())
    }

    /// Looks through an app's rows for what was changed past the functions, if that is due.
    async fn sweep_if_due(&self, app: &str) -> Result<(), Failure> {
        let Some(every) = self.caller.sweep_every else { return Ok(()) };
        let now = Instant::now();
        if lock(&self.next_sweeps).get(app).is_some_and(|next| now < *next) {
            return Ok(());
        }
        lock(&self.next_sweeps).insert(app.to_owned(), now + every);
        for rows in [true, false] {
            let mut at = Value::Null;
            loop {
                let args = json!({ "app": app, "rows": rows, "cursor": at });
                let answer = self.caller.mutation("sweep", args).await?;
                if answer.get("done").and_then(Value::as_bool).ok_or_else(strange)? {
                    break;
                }
                at = answer.get("cursor").cloned().ok_or_else(strange)?;
            }
        }
        Ok(())
    }

    /// Asks at each hint, and by the clock, until `stop`, and tells `sink`.
    async fn listen(&self, query: Query, from: Cursor, sink: Sink, mut hints: watch::Receiver<u64>, stop: &Notify) {
        let (mut place, mut quiet_since, mut failures) = (from, Instant::now(), 0u32);
        loop {
            // What is told from here on may not be in the answer.
            hints.mark_unchanged();
            let asked = tokio::select! {
                asked = self.heard(&query, &place) => asked,
                // A request under way is dropped: nothing waits for a service that hangs.
                () = stop.notified() => return,
            };
            let (rest, least) = match asked {
                Ok((changed, next)) => {
                    (failures, place) = (0, next);
                    *lock(&self.degraded) = None;
                    if changed {
                        quiet_since = Instant::now();
                        sink(Wake::Changed);
                    }
                    (self.rest(quiet_since), SPACING)
                }
                Err(failure) => {
                    failures = failures.saturating_add(1);
                    let rest = self.rest_after(&failure, failures);
                    if failures == 1 {
                        sink(Wake::Lost { reason: failure.error("ask Convex for changes").to_string() });
                    }
                    // A hint is no reason to ask a service sooner than it wants.
                    (rest, rest)
                }
            };
            tokio::select! {
                () = rested(rest, least, &mut hints) => {}
                () = stop.notified() => return,
            }
        }
    }

    /// A listener more, who may never get a hint.
    fn hints(&self) -> watch::Receiver<u64> {
        let caller = (!matches!(self.listening, ConvexListening::Clock { .. })).then_some(&self.caller);
        self.bell.join(caller)
    }

    fn told_by_nobody(&self) -> Option<String> {
        let (why, place) = (self.bell.mute()?, self.caller.place());
        let seconds = [POLL_SOON, POLL_RARELY].map(|pace| pace.as_secs());
        let [soon, rarely] = seconds;
        Some(format!("convex at {place} tells of no changes ({why}): it is asked every {soon} to {rarely} seconds"))
    }

    /// How long nothing is asked after an answer, unless a hint comes.
    fn rest(&self, quiet_since: Instant) -> Duration {
        let (soon, rarely) = self.listening.pace();
        let by_clock = (quiet_since.elapsed() / 8).clamp(soon, rarely);
        if self.bell.is_live() { self.listening.rest_while_live().max(by_clock) } else { by_clock }
    }

    /// Notes why there was no answer, for `status`; how long to wait before the next question.
    fn rest_after(&self, failure: &Failure, failures: u32) -> Duration {
        let reason = failure.error("ask Convex for changes").to_string();
        *lock(&self.degraded) = Some(format!("convex: {reason}; asked again and again"));
        match failure.kind {
            ErrorKind::Throttled { retry_after_ms } => Duration::from_millis(retry_after_ms),
            _ => self.listening.pace().0.min(POLL_SOON).saturating_mul(1 << failures.min(10)).min(POLL_BROKEN),
        }
    }

    /// Whether the space changed after a place, and the place after it all. One small question while nothing did.
    async fn heard(&self, query: &Query, from: &Cursor) -> Result<(bool, Cursor), Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Ok((false, from.clone()));
        }
        let (instance, newest) = self.newest().await?;
        let after = place_of(from, &instance, newest);
        if after == newest {
            return Ok((false, cursor(&instance, newest)));
        }
        let args = json!({ "app": query.app, "owner": query.owner, "after": after, "limit": 1, "withContent": false });
        let page = self.page("changes", args, &instance, false).await?;
        Ok((!page.rows.is_empty(), cursor(&instance, newest)))
    }
}

/// Waits for `rest`, or for a hint after `least`.
async fn rested(rest: Duration, least: Duration, hints: &mut watch::Receiver<u64>) {
    tokio::time::sleep(least.min(rest)).await;
    tokio::select! {
        () = tokio::time::sleep(rest.saturating_sub(least)) => {}
        // There is a bell as long as there is a handle.
        _ = hints.changed() => {}
    }
}

fn id_of(write: &Write) -> RecordId {
    match write {
        Write::Set { record, .. } => record.id(),
        Write::Delete { id, .. } => id.clone(),
    }
}

/// What a function said of one write; `None` if its pieces were not there.
fn judged(write: &Write, told: &Value, instance: &str) -> Option<Result<Revision, AdapterError>> {
    let id = id_of(write);
    Some(match (told.get("error").and_then(Value::as_str), number(told, "change")) {
        (None, Some(_)) if matches!(write, Write::Delete { .. }) => Ok(batch_delete_revision()),
        (None, Some(change)) => Ok(revision(instance, change)),
        (Some("PIECES"), _) => return None,
        (Some("NOT_FOUND"), _) => {
            Err(AdapterError::new(ErrorKind::NotFound, format!("delete {id}: it is gone already")))
        }
        (Some("CONFLICT"), _) => {
            let found = told.get("found").and_then(Value::as_str).unwrap_or("it has changed");
            Err(AdapterError::conflict(&id, &crate::wire::shown(found)))
        }
        _ => Err(strange().error(&format!("write {id}"))),
    })
}

impl FileSyncAdapter for ConvexAdapter {
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
            Selection::Paths { prefix, after } => {
                self.run("query", self.shared.paths(query, prefix, after.as_deref(), limit))
            }
        }
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        Ok(self.get_many(std::slice::from_ref(id))?.pop().flatten())
    }

    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        self.run("read", self.shared.rows(ids))
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        let work = self.shared.chunks(id, first as usize, count as usize);
        self.run(&format!("read chunks of {id} in"), work)
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        write_one(self, Write::Set { record: record.clone(), expected: expected.clone() })
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        write_one(self, Write::Delete { id: id.clone(), expected: expected.clone() }).map(drop)
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        self.check_open()?;
        let (shared, stop) = (Arc::clone(&self.shared), Arc::new(Notify::new()));
        let (query, over) = (query.clone(), Arc::clone(&stop));
        let hints = shared.hints();
        let body = move || {
            // Without a runtime nobody could have subscribed.
            let _ = crate::drive::block_on(shared.listen(query, from, sink, hints, &over));
        };
        let spawned = std::thread::Builder::new().name("larder-convex".to_owned()).spawn(body);
        let shared = Arc::clone(&self.shared);
        let thread = spawned.map_err(|error| {
            shared.bell.leave();
            AdapterError::caused(ErrorKind::Unavailable, "subscribe: start a thread", error)
        })?;
        let thread = Mutex::new(Some(thread));
        Ok(Subscription::new(move || {
            stop.notify_one();
            if let Some(thread) = lock(&thread).take() {
                // A panic in the sink is the sink's own; it has been reported on its thread.
                let _ = thread.join();
            }
            shared.bell.leave();
        }))
    }

    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        match self.run("write", async { Ok(self.shared.apply(writes, &self.capabilities).await) }) {
            Ok(answers) => answers,
            Err(error) => writes.iter().map(|_| Err(AdapterError::new(error.kind, error.message.clone()))).collect(),
        }
    }

    fn status(&self) -> Vec<String> {
        let degraded = lock(&self.shared.degraded).clone();
        degraded.or_else(|| self.shared.told_by_nobody()).into_iter().collect()
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.bell.close();
        Ok(())
    }
}
