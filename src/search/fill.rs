//! From versions to words, a batch at a time.
//!
//! Invariant: a batch is one transaction that ends with the mark of how far it came, so a stop at any moment repeats at most one batch
//! and a mark never stands for what is not here. Costs what changed: a slot is looked at when the index says that it did. Bounded: text
//! of one file, of everything current and of everything past each have a bound; what passes one is not found, never half of it.

use larder_patterns::{RelPath, denied, denied_content};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::SearchError;
use super::script::apart;
use super::store::{Fts, number, recount, remove_place, set_number};
use crate::chunk::is_line_file;
use crate::index::{ContentError, ContentReader, NumberedVersion, Reader};
use crate::model::{Content, ContentKind};

/// Text of one file that enters; what stands behind it in a longer one is not found.
pub(super) const MAX_TEXT_BYTES: u64 = 4 << 20;
/// Text of everything; what comes after is not found.
const MAX_TOTAL_BYTES: u64 = 2 << 30;
/// Text of what is past; the oldest goes.
const MAX_PAST_BYTES: i64 = 256 << 20;
/// A past version of a longer file is not kept.
const MAX_PAST_FILE_BYTES: u64 = 1 << 20;
/// Rows looked at in one batch.
const BATCH_ROWS: usize = 2_048;
/// Text that ends a batch.
const BATCH_BYTES: u64 = 8 << 20;
/// Bytes that are looked at before a long file is read: NUL is in no text.
const HEAD_BYTES: u64 = 8 << 10;

/// How far everything current was looked at: a row of the index.
const MARK: &str = "row";
/// Down to which row the past was looked at; 0 when all of it was.
const PAST_MARK: &str = "past";

impl Fts {
    /// Takes in one batch of what changed. True if there is more.
    pub fn fill(&mut self, index: &Reader, contents: &ContentReader) -> Result<bool, SearchError> {
        if index.slot_numbers_since(self.number(MARK)?, 1)?.is_empty() {
            return Ok(false);
        }
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have come further meanwhile.
        let from = number(&transaction, MARK)?;
        if from == 0 {
            // The past of what is there already is taken in when somebody asks for it.
            set_number(&transaction, PAST_MARK, index.max_row()?)?;
        }
        let mut batch = Batch { conn: &transaction, index, contents, bytes: 0, total: total_bytes(&transaction)? };
        let rows = index.slot_numbers_since(from, BATCH_ROWS)?;
        let mut mark = from;
        let mut seen = std::collections::HashSet::new();
        for (row, sid) in &rows {
            if seen.insert(*sid) {
                batch.slot(*sid)?;
            }
            mark = *row;
            if batch.bytes >= BATCH_BYTES {
                break;
            }
        }
        trim(&transaction)?;
        set_number(&transaction, MARK, mark)?;
        transaction.commit()?;
        Ok(rows.last().is_some_and(|(last, _)| mark < *last) || rows.len() == BATCH_ROWS)
    }

    /// Up to which row of the index everything current was taken in.
    pub(super) fn filled(&self) -> Result<u64, SearchError> {
        Ok(self.number(MARK)?.cast_unsigned())
    }

    /// Takes in one batch of the past of what was there when the file was made, newest first. True if there is more.
    pub fn fill_past(&mut self, index: &Reader, contents: &ContentReader) -> Result<bool, SearchError> {
        let from = self.number(PAST_MARK)?;
        if from == 0 {
            return Ok(false);
        }
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut batch = Batch { conn: &transaction, index, contents, bytes: 0, total: total_bytes(&transaction)? };
        let mut mark = from;
        for vid in (1..=from).rev().take(BATCH_ROWS) {
            batch.past_version(vid)?;
            mark = vid - 1;
            if batch.bytes >= BATCH_BYTES {
                break;
            }
        }
        if past_bytes(&transaction)? >= MAX_PAST_BYTES {
            mark = 0;
        }
        set_number(&transaction, PAST_MARK, mark)?;
        transaction.commit()?;
        Ok(mark > 0)
    }
}

struct Batch<'a> {
    conn: &'a Connection,
    index: &'a Reader,
    contents: &'a ContentReader,
    /// Text taken in by this batch.
    bytes: u64,
    /// Text of everything.
    total: u64,
}

impl Batch<'_> {
    /// Makes what is current of a slot what is found of it.
    fn slot(&mut self, sid: i64) -> Result<(), SearchError> {
        let path = self.index.slot_of_number(sid)?.path;
        let heads = self.index.heads_numbered(sid)?;
        let mut current = self.conn.prepare_cached("SELECT vid FROM places WHERE sid = ?1 AND current = 1")?;
        let known: Vec<i64> = current.query_map([sid], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for vid in known.iter().filter(|vid| heads.iter().all(|head| head.number != **vid)) {
            self.supersede(*vid, &path)?;
        }
        if denied(&path).is_some() {
            return Ok(());
        }
        for head in heads.iter().filter(|head| !known.contains(&head.number)) {
            self.place(head, sid, true)?;
        }
        Ok(())
    }

    /// A version is past now. What a line file held is in what follows it.
    fn supersede(&self, vid: i64, path: &RelPath) -> Result<(), SearchError> {
        let mut find =
            self.conn.prepare_cached("SELECT d.doc, d.bytes FROM places p JOIN docs d USING(doc) WHERE p.vid = ?1")?;
        let found: Option<(i64, i64)> = find.query_row([vid], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((doc, bytes)) = found else { return Ok(()) };
        if is_line_file(path) || bytes.cast_unsigned() > MAX_PAST_FILE_BYTES {
            remove_place(self.conn, vid)?;
            return Ok(());
        }
        self.conn.prepare_cached("UPDATE places SET current = 0 WHERE vid = ?1")?.execute([vid])?;
        recount(self.conn, doc)
    }

    fn past_version(&mut self, vid: i64) -> Result<(), SearchError> {
        let Some(version) = self.index.version_numbered(vid)? else { return Ok(()) };
        let Some(content) = version.content.filter(|content| content.size <= MAX_PAST_FILE_BYTES) else {
            return Ok(());
        };
        let is_known = self.conn.prepare_cached("SELECT 1 FROM places WHERE vid = ?1")?.exists([vid])?;
        if is_known || content.size == 0 {
            return Ok(());
        }
        let stored = self.index.version_at(&version.id)?;
        let Some((slot, _)) = stored.filter(|(slot, _)| !is_line_file(&slot.path) && denied(&slot.path).is_none())
        else {
            return Ok(());
        };
        // The same id in two spaces is two versions; either stands for both here.
        let Some(sid) = self.index.path_number(&slot.path)? else { return Ok(()) };
        self.place(&version, sid, false)
    }

    fn place(&mut self, version: &NumberedVersion, sid: i64, is_current: bool) -> Result<(), SearchError> {
        let Some(content) = version.content else { return Ok(()) };
        let Some(doc) = self.document(&content)? else { return Ok(()) };
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO places(vid, doc, sid, current) VALUES(?1, ?2, ?3, ?4)")?
            .execute((version.number, doc, sid, is_current))?;
        recount(self.conn, doc)
    }

    /// The row of a content, made if it is a text that can be read; `None` if it is none.
    fn document(&mut self, content: &Content) -> Result<Option<i64>, SearchError> {
        let mut find = self.conn.prepare_cached("SELECT doc FROM docs WHERE hash = ?1")?;
        let known: Option<i64> = find.query_row([content.hash.as_bytes()], |row| row.get(0)).optional()?;
        if known.is_some() {
            return Ok(known);
        }
        let Some(text) = text_of(self.contents, content)? else { return Ok(None) };
        let bytes = text.len() as u64;
        if self.total.saturating_add(bytes) > MAX_TOTAL_BYTES {
            return Ok(None);
        }
        self.bytes += bytes;
        self.total += bytes;
        let mut insert = self.conn.prepare_cached("INSERT INTO docs(hash, bytes, live) VALUES(?1, ?2, 0)")?;
        insert.execute((content.hash.as_bytes(), bytes.cast_signed()))?;
        let doc = self.conn.last_insert_rowid();
        self.conn.prepare_cached("INSERT INTO text(rowid, body) VALUES(?1, ?2)")?.execute((doc, apart(&text)))?;
        Ok(Some(doc))
    }
}

/// The beginning of a content as text; `None` if it is none, is denied, or is not here. What comes later is told of by the index.
pub(super) fn text_of(contents: &ContentReader, content: &Content) -> Result<Option<String>, SearchError> {
    if !matches!(content.kind, ContentKind::File { .. }) || content.size == 0 {
        return Ok(None);
    }
    if content.size > HEAD_BYTES {
        let Some(head) = read(contents, content, HEAD_BYTES)? else { return Ok(None) };
        if is_refused(&head) {
            return Ok(None);
        }
    }
    let Some(bytes) = read(contents, content, content.size.min(MAX_TEXT_BYTES))? else { return Ok(None) };
    if is_refused(&bytes) {
        return Ok(None);
    }
    let is_cut = content.size > MAX_TEXT_BYTES;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        // The cut may go through a character, and through nothing else.
        Err(error) if is_cut && error.utf8_error().error_len().is_none() => {
            let whole = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(whole);
            String::from_utf8(bytes).ok()
        }
        Err(_) => None,
    })
}

fn is_refused(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD_BYTES as usize)];
    head.contains(&0) || denied_content(head).is_some()
}

fn read(contents: &ContentReader, content: &Content, len: u64) -> Result<Option<Vec<u8>>, SearchError> {
    match contents.read(content, 0, len) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ContentError::Index(error)) => Err(error.into()),
        // Missing or damaged: noted by the reader, and told of again when it is healed.
        Err(_) => Ok(None),
    }
}

fn total_bytes(conn: &Connection) -> Result<u64, SearchError> {
    let mut sum = conn.prepare_cached("SELECT ifnull(sum(bytes), 0) FROM docs")?;
    Ok(sum.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

fn past_bytes(conn: &Connection) -> Result<i64, SearchError> {
    let mut sum = conn.prepare_cached("SELECT ifnull(sum(bytes), 0) FROM docs WHERE live = 0")?;
    Ok(sum.query_row([], |row| row.get(0))?)
}

/// Lets the oldest of the past go until the rest is within its bound.
fn trim(conn: &Connection) -> Result<(), SearchError> {
    let mut over = past_bytes(conn)? - MAX_PAST_BYTES;
    if over <= 0 {
        return Ok(());
    }
    let mut oldest = conn.prepare_cached("SELECT doc, bytes FROM docs WHERE live = 0 ORDER BY doc")?;
    let mut rows = oldest.query([])?;
    let mut gone = Vec::new();
    while over > 0
        && let Some(row) = rows.next()?
    {
        gone.push(row.get::<_, i64>(0)?);
        over -= row.get::<_, i64>(1)?;
    }
    for doc in gone {
        conn.prepare_cached("DELETE FROM places WHERE doc = ?1")?.execute([doc])?;
        recount(conn, doc)?;
    }
    Ok(())
}
