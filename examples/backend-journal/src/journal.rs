//! A backend in one text file: every change is a line of JSON at its end, and a row is what its last line says.
//!
//! Other programs join in by appending `{"id":"<app>:<path>","text":"..."}`, or the same without `text` to delete.
//! Invariant: a line is appended under the file's lock, after every line before it was read; its number is the row's revision.
//! Deliberately absent: making the file shorter. A backend for daily use would rewrite it now and then.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_adapters::{
    AdapterError, Backend, BackendUrl, Body, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, ForeignEdits,
    MirrorEntry, OpenContext, Page, Query, Record, RecordId, Revision, Row, RowContent, Selection, Sink, Subscription,
    Wake,
};
use serde::{Deserialize, Serialize};

/// The line for the table: `FILE_SYNC_BACKEND=journal`, or `journal:PATH`.
pub const BACKEND: Backend = Backend {
    scheme: "journal",
    aliases: &[],
    summary: "one text file, a line a change",
    default_address: "rows.journal",
    is_file: true,
    settings: &[],
    ddl: String::new,
    open: |url, context| Ok(Arc::new(Journal::open(url, context)?)),
};

/// How often a subscription looks for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One line of the file. Without `text` and `chunks` the row is gone.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<String>>,
    /// Only Larder's own lines say which version they show.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<(String, String)>,
    /// True on Larder's own lines: whatever entry stood before is gone.
    #[serde(default)]
    own: bool,
    #[serde(default)]
    last_updated_ms: u64,
    #[serde(default)]
    created_at_ms: u64,
}

/// What the last lines of a row say.
#[derive(Clone, Default)]
struct Entry {
    number: u64,
    content: Option<Content>,
    /// The version shown and the number of the line that said so.
    mirror: Option<(MirrorEntry, u64)>,
    last_updated_ms: u64,
    created_at_ms: u64,
}

#[derive(Clone)]
enum Content {
    Text(String),
    Chunks(Vec<Vec<u8>>),
}

/// Everything up to a place in the file.
#[derive(Default)]
struct Rows {
    read_bytes: u64,
    last_number: u64,
    feed: BTreeMap<u64, RecordId>,
    entries: BTreeMap<RecordId, Entry>,
}

/// A handle on a journal. Several, in several processes, may share the file.
pub struct Journal {
    file: Arc<Mutex<File>>,
    rows: Mutex<Rows>,
    capabilities: Capabilities,
    is_closed: AtomicBool,
}

fn failed(doing: &str, error: std::io::Error) -> AdapterError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        std::io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    AdapterError::caused(kind, format!("{doing} the journal: {error}"), error)
}

impl Journal {
    /// Opens the file, making it if need be.
    pub fn open(url: &BackendUrl, _context: &OpenContext<'_>) -> Result<Journal, AdapterError> {
        let path = PathBuf::from(&url.address);
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let capabilities = Capabilities {
            name: "journal".to_owned(),
            live: false,
            foreign_edits: ForeignEdits::ChangeLog,
            text_limit_bytes: 256 * 1024,
            chunk_limit_bytes: 1024 * 1024,
            batch_rows: 1_000,
            page_rows: 1_000,
            own: true,
        };
        Ok(Journal {
            file: Arc::new(Mutex::new(opened.map_err(|error| failed("open", error))?)),
            rows: Mutex::default(),
            capabilities,
            is_closed: AtomicBool::new(false),
        })
    }

    /// Brings the rows up to the file's end and does something with both, alone in all processes.
    fn with<T>(&self, act: impl FnOnce(&mut Rows, &mut File) -> Result<T, AdapterError>) -> Result<T, AdapterError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(AdapterError::new(ErrorKind::Unavailable, "use a closed journal"));
        }
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut rows = self.rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.lock().map_err(|error| failed("lock", error))?;
        let done = rows.catch_up(&mut file).and_then(|()| act(&mut rows, &mut file));
        let unlocked = file.unlock().map_err(|error| failed("unlock", error));
        done.and_then(|value| unlocked.map(|()| value))
    }

    fn append(rows: &mut Rows, file: &mut File, line: &Line) -> Result<Revision, AdapterError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed("write", error.into()))?;
        bytes.push(b'\n');
        // A line is durable before it is acknowledged.
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(|error| failed("write", error))?;
        rows.catch_up(file)?;
        Ok(revision(rows.last_number))
    }
}

impl Rows {
    /// Reads the lines that were appended since. What a writer left half-written, killed, is cut off.
    fn catch_up(&mut self, file: &mut File) -> Result<(), AdapterError> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.read_bytes)).map_err(|error| failed("read", error))?;
        file.read_to_end(&mut bytes).map_err(|error| failed("read", error))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        for line in bytes[..whole].split_inclusive(|&byte| byte == b'\n') {
            self.last_number += 1;
            // What is no line of ours is a line all the same, so that all count alike.
            if let Ok(line) = serde_json::from_slice(line) {
                self.take(line);
            }
        }
        self.read_bytes += whole as u64;
        if whole < bytes.len() {
            file.set_len(self.read_bytes).map_err(|error| failed("mend", error))?;
        }
        Ok(())
    }

    fn take(&mut self, line: Line) {
        let Some(id) = RecordId::parse(&line.id) else { return };
        let number = self.last_number;
        let before = self.entries.remove(&id).unwrap_or_default();
        self.feed.remove(&before.number);
        let content = match (line.text, line.chunks) {
            (Some(text), _) => Some(Content::Text(text)),
            (None, Some(chunks)) => Some(Content::Chunks(chunks.iter().map(|hex| from_hex(hex)).collect())),
            (None, None) => None,
        };
        let shown = line.entry.and_then(|(version, hash)| {
            let content_hash = from_hex(&hash).try_into().ok()?;
            Some((MirrorEntry { version, content_hash }, number))
        });
        let mirror = if line.own { shown } else { before.mirror };
        let (last_updated_ms, created_at_ms) = (line.last_updated_ms, line.created_at_ms);
        self.feed.insert(number, id.clone());
        self.entries.insert(id, Entry { number, content, mirror, last_updated_ms, created_at_ms });
    }

    fn entry(&self, id: &RecordId) -> Entry {
        self.entries.get(id).cloned().unwrap_or_default()
    }

    fn changes(&self, query: &Query, after: &Cursor, limit: usize) -> Page {
        // A number beyond the end is of another file: all is told again.
        let after = after.as_str().parse().ok().filter(|&number| number <= self.last_number).unwrap_or(0);
        let mut page = Page { rows: Vec::new(), cursor: Cursor::start(), more: false };
        let mut reached = self.last_number;
        for (&number, id) in self.feed.range(after + 1..).filter(|(_, id)| selects(query, id)) {
            if page.rows.len() == limit {
                page.more = true;
                break;
            }
            page.rows.extend(self.entries[id].row(id, query.with_content));
            reached = number;
        }
        let reached = if page.more { reached } else { self.last_number };
        Page { cursor: Cursor::from_text(reached.to_string()), ..page }
    }

    fn paths(&self, query: &Query, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let present = self.entries.iter().filter(|(id, entry)| selects(query, id) && entry.content.is_some());
        let mut rows: Vec<Row> = present.filter_map(|(id, entry)| entry.row(id, query.with_content)).collect();
        rows.retain(|row| row.path.starts_with(prefix) && after.is_none_or(|after| after < row.path.as_str()));
        rows.sort_by(|a, b| (&a.path, &a.owner).cmp(&(&b.path, &b.owner)));
        // Two owners' rows of one path stay on one page.
        let mut end = limit.min(rows.len());
        while 0 < end && end < rows.len() && rows[end].path == rows[end - 1].path {
            end += 1;
        }
        let more = end < rows.len();
        rows.truncate(end);
        Page { rows, cursor: Cursor::from_text(self.last_number.to_string()), more }
    }
}

impl Entry {
    fn expect(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        match expected {
            Expected::Absent if self.content.is_some() => Err(AdapterError::conflict(id, "it is there already")),
            Expected::Revision(seen) if *seen != revision(self.number) => {
                Err(AdapterError::conflict(id, "it has changed since it was read"))
            }
            _ => Ok(()),
        }
    }

    /// The chunks of a record as they are after a write.
    fn chunks(self, id: &RecordId, keep: u32, add: &[Vec<u8>]) -> Result<Vec<String>, AdapterError> {
        let kept = match self.content {
            Some(Content::Chunks(chunks)) => chunks,
            _ => Vec::new(),
        };
        if kept.len() < keep as usize {
            return Err(AdapterError::conflict(id, "it has fewer chunks than are to be kept"));
        }
        Ok(kept[..keep as usize].iter().chain(add).map(|chunk| to_hex(chunk)).collect())
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
            revision: revision(self.number),
            mirror: self.mirror.as_ref().map(|(entry, _)| entry.clone()),
            mirrored_revision: self.mirror.as_ref().map(|&(_, number)| revision(number)),
            last_updated_ms: self.last_updated_ms,
            created_at_ms: self.created_at_ms,
        })
    }
}

impl FileSyncAdapter for Journal {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let limit = query.rows_of_page(self.capabilities.page_rows)?;
        self.with(|rows, _| {
            Ok(match &query.select {
                Selection::Changes { after } => rows.changes(query, after, limit),
                Selection::Paths { prefix, after } => rows.paths(query, prefix, after.as_deref(), limit),
            })
        })
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        self.with(|rows, _| {
            let entry = rows.entry(id);
            let is_known = entry.content.is_some() || entry.mirror.is_some();
            Ok(if is_known { entry.row(id, true) } else { None })
        })
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        self.with(|rows, _| match rows.entry(id).content {
            Some(Content::Chunks(chunks)) => Ok(chunks.into_iter().skip(first as usize).take(count as usize).collect()),
            _ => Err(AdapterError::new(ErrorKind::NotFound, format!("read chunks of {id}: there are none"))),
        })
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        self.capabilities.check(record)?;
        let id = record.id();
        self.with(|rows, file| {
            let entry = rows.entry(&id);
            entry.expect(&id, expected)?;
            let (text, chunks) = match &record.body {
                Body::Text(text) => (Some(text.clone()), None),
                Body::Chunks { keep, add } => (None, Some(entry.chunks(&id, *keep, add)?)),
            };
            let shown = record.mirror.as_ref().map(|entry| (entry.version.clone(), to_hex(&entry.content_hash)));
            let (last_updated_ms, created_at_ms) = (record.last_updated_ms, record.created_at_ms);
            let id = id.as_str().to_owned();
            Journal::append(
                rows,
                file,
                &Line { id, text, chunks, entry: shown, own: true, last_updated_ms, created_at_ms },
            )
        })
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        self.with(|rows, file| {
            let entry = rows.entry(id);
            if entry.content.is_none() && entry.mirror.is_none() {
                return match expected {
                    Expected::Absent => Ok(()),
                    Expected::Revision(_) => {
                        Err(AdapterError::new(ErrorKind::NotFound, format!("delete {id}: it is gone already")))
                    }
                };
            }
            entry.expect(id, expected)?;
            let id = id.as_str().to_owned();
            let gone =
                Line { id, text: None, chunks: None, entry: None, own: true, last_updated_ms: 0, created_at_ms: 0 };
            Journal::append(rows, file, &gone).map(drop)
        })
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        let mut place = self.with(|rows, file| {
            let is_late = !rows.changes(query, &from, 1).rows.is_empty();
            Ok(if is_late { 0 } else { file.metadata().map_err(|error| failed("read", error))?.len() })
        })?;
        let (file, (stop, stopped)) = (Arc::clone(&self.file), channel::<()>());
        let looking = std::thread::spawn(move || {
            loop {
                let length = file.lock().ok().and_then(|file| file.metadata().ok()).map_or(place, |meta| meta.len());
                if length != place {
                    place = length;
                    sink(Wake::Changed);
                }
                if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Ok(Subscription::new(move || {
            drop(stop);
            // A panic there has been printed; there is nothing to add.
            let _ = looking.join();
        }))
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.is_closed.store(true, Ordering::Release);
        Ok(())
    }
}

fn selects(query: &Query, id: &RecordId) -> bool {
    id.parts()
        .is_some_and(|(app, owner, _)| app == query.app && query.owner.as_ref().is_none_or(|wanted| *wanted == owner))
}

fn revision(number: u64) -> Revision {
    Revision::new(number.to_string())
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// What is no hexadecimal number reads as 0: the contents' hashes tell.
fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | pair.get(1).copied().map_or(0, digit)).collect()
}
