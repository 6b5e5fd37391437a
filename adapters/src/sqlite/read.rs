//! Questions: one record, one page of changes, one page of paths.
//!
//! Invariant: a page is read in one transaction, and its cursor never passes a change that the page does not tell.
//! Ids are ordered as `files` orders them, by bytes; within one owner that is the order of paths.

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, OptionalExtension, Transaction, params};

use super::session::Session;
use crate::record::{Named, after_prefix, escaped};
use crate::stamp;
use crate::{
    AdapterError, Cursor, ErrorKind, MirrorEntry, Page, Query, RecordId, Revision, Row, RowContent, SHARED_OWNER,
    Selection,
};

// A row that another program wrote may be longer than our limit; beyond this it is no file of a project, and memory is bounded.
const FOREIGN_TEXT_LIMIT_BYTES: i64 = 32 * 1024 * 1024;

impl Session {
    pub(super) fn query(&mut self, query: &Query, limit: usize) -> Result<Page, AdapterError> {
        let failed = self.failed("query");
        let Self { connection, instance, .. } = self;
        let transaction = connection.transaction().map_err(&failed)?;
        let reading = Reading { transaction: &transaction, instance, space: Space::of(query) };
        let page = match &query.select {
            Selection::Changes { after } => reading.changes(after, limit, query.with_content),
            Selection::Paths { prefix, after } => {
                reading.paths(query.owner.as_deref(), prefix, after.as_deref(), limit, query.with_content)
            }
        };
        page.map_err(failed)
    }

    pub(super) fn get(&mut self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        Ok(self.get_many(std::slice::from_ref(id))?.pop().flatten())
    }

    /// One transaction for all: taking and leaving SQLite's locks costs more than reading a row.
    pub(super) fn get_many(&mut self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        let failed = self.failed("read");
        let Self { connection, instance, .. } = self;
        let transaction = match ids {
            [_] => None,
            _ => Some(connection.unchecked_transaction().map_err(&failed)?),
        };
        let mut statement = connection.prepare_cached(ROW).map_err(&failed)?;
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            let row = load(&mut statement, instance, id, true).map_err(&failed)?;
            rows.push(row.filter(|row| row.content != RowContent::Absent || row.mirror.is_some()));
        }
        if let Some(transaction) = transaction {
            transaction.commit().map_err(failed)?;
        }
        Ok(rows)
    }

    pub(super) fn read_chunks(&mut self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        let failed = self.failed("read chunks in");
        let end = i64::from(first) + i64::from(count);
        let mut statement = self.connection.prepare_cached(CHUNKS).map_err(&failed)?;
        let rows = statement.query_map(params![id.as_str(), first, end], |row| row.get(0)).map_err(&failed)?;
        let chunks: Vec<Vec<u8>> = rows.collect::<Result<_, _>>().map_err(&failed)?;
        if chunks.is_empty() {
            let chunked = "SELECT bytes FROM file_chunked WHERE id = ?1";
            let found =
                self.connection.query_row(chunked, [id.as_str()], |row| row.get(0)).optional().map_err(failed)?;
            let missing = || AdapterError::new(ErrorKind::NotFound, format!("read chunks of {id}: there are none"));
            let only: Option<Vec<u8>> = found.ok_or_else(missing)?;
            return Ok(only.into_iter().filter(|_| first == 0 && count > 0).collect());
        }
        Ok(chunks)
    }

    /// Whether the space has a change after `place`, and the place of the newest change of any space.
    pub(super) fn changed_since(&mut self, query: &Query, after: &Cursor) -> Result<(bool, Cursor), AdapterError> {
        let failed = self.failed("query");
        let Self { connection, instance, .. } = self;
        let transaction = connection.transaction().map_err(&failed)?;
        let reading = Reading { transaction: &transaction, instance, space: Space::of(query) };
        let newest = reading.newest().map_err(&failed)?;
        let found = reading.changed_ids(reading.place_of(after, newest), 1).map_err(&failed)?;
        Ok((!found.is_empty(), reading.cursor(newest)))
    }

    /// The number of the newest change of any space.
    pub(super) fn changes_counted(&mut self) -> Result<u64, AdapterError> {
        let failed = self.failed("query");
        let mut statement = self.connection.prepare_cached(NEWEST).map_err(&failed)?;
        let newest: i64 = statement.query_row([], |row| row.get(0)).map_err(failed)?;
        Ok(newest.unsigned_abs())
    }
}

const CHUNKS: &str = "SELECT bytes FROM file_chunks WHERE id = ?1 AND n >= ?2 AND n < ?3 ORDER BY n";

const NEWEST: &str =
    "SELECT max(coalesce((SELECT max(n) FROM file_changes), 0), coalesce((SELECT max(revision) FROM file_mirror), 0))";

const ROW: &str = "
SELECT f.rowid, typeof(f.content), octet_length(f.content),
    CASE WHEN ?2 AND octet_length(f.content) <= ?3 THEN f.content END,
    f.last_updated, f.created_at,
    k.chunk_count, k.size_bytes, k.last_updated, k.created_at,
    m.version, m.content_hash, m.revision, c.n
FROM (SELECT ?1 AS id) AS x
LEFT JOIN files AS f ON f.id = x.id
LEFT JOIN file_chunked AS k ON k.id = x.id
LEFT JOIN file_mirror AS m ON m.id = x.id
LEFT JOIN file_changes AS c ON c.id = x.id";

struct Reading<'a> {
    transaction: &'a Transaction<'a>,
    instance: &'a str,
    space: Space,
}

impl Reading<'_> {
    fn changes(&self, after: &Cursor, limit: usize, with_content: bool) -> rusqlite::Result<Page> {
        let newest = self.newest()?;
        let mut changed = self.changed_ids(self.place_of(after, newest), limit + 1)?;
        let more = changed.len() > limit;
        changed.truncate(limit);
        let place = if more { changed.last().map_or(newest, |(n, _)| *n) } else { newest };
        let rows = self.rows(changed.into_iter().map(|(_, id)| id), with_content)?;
        Ok(Page { rows, cursor: self.cursor(place), more })
    }

    fn paths(
        &self,
        owner: Option<&str>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        with_content: bool,
    ) -> rusqlite::Result<Page> {
        let app = &self.space.app;
        let mut named = match owner {
            // Owners interleave with paths in the order of ids, so every name of the app is looked at, but no content.
            None => self.ids(&Span::below(&format!("{app}:"), "", None), usize::MAX)?,
            Some("" | SHARED_OWNER) => {
                let mut plain = Span::below(&format!("{app}:"), prefix, after);
                plain.no_colon = true;
                let mut named = self.ids(&plain, limit + 1)?;
                named.extend(self.ids(&Span::below(&format!("{app}:shared:"), prefix, after), limit + 1)?);
                named
            }
            Some(owner) => self.ids(&Span::below(&format!("{app}:{}:", escaped(owner)), prefix, after), limit + 1)?,
        };
        named.retain(|name| name.path.starts_with(prefix) && after.is_none_or(|after| after < name.path.as_str()));
        named.sort_by(|a, b| (&a.path, &a.owner).cmp(&(&b.path, &b.owner)));
        let mut end = limit.min(named.len());
        while end < named.len() && named[end].path == named[end - 1].path {
            end += 1;
        }
        let more = end < named.len();
        named.truncate(end);
        let rows = self.rows(named.into_iter().map(|name| name.id), with_content)?;
        Ok(Page { rows, cursor: self.cursor(self.newest()?), more })
    }

    fn rows(&self, ids: impl Iterator<Item = RecordId>, with_content: bool) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self.transaction.prepare_cached(ROW)?;
        let mut rows = Vec::new();
        for id in ids {
            rows.extend(load(&mut statement, self.instance, &id, with_content)?);
        }
        Ok(rows)
    }

    /// The ids of the space that changed after `place`, oldest change first, each at its newest change.
    fn changed_ids(&self, place: i64, limit: usize) -> rusqlite::Result<Vec<(i64, RecordId)>> {
        let space = &self.space.condition;
        let sql = format!(
            "SELECT revision AS n, id FROM file_mirror AS m WHERE revision > ?1 AND ({space})
                AND NOT EXISTS (SELECT 1 FROM file_changes AS c WHERE c.id = m.id AND c.n > m.revision)
            UNION ALL
            SELECT n, id FROM file_changes AS c WHERE n > ?1 AND ({space})
                AND NOT EXISTS (SELECT 1 FROM file_mirror AS m WHERE m.id = c.id AND m.revision > c.n)
            ORDER BY n"
        );
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let Space { low, high, nested, .. } = &self.space;
        let mut found = statement.query(params![place, low, high, nested])?;
        let mut changed = Vec::new();
        while changed.len() < limit
            && let Some(row) = found.next()?
        {
            // A name that no record can have is none of ours.
            if let Some(id) = row.get_ref(1)?.as_str().ok().and_then(RecordId::parse) {
                changed.push((row.get(0)?, id));
            }
        }
        Ok(changed)
    }

    /// The ids of present records in a span, in order.
    fn ids(&self, span: &Span, limit: usize) -> rusqlite::Result<Vec<Named>> {
        let colon = if span.no_colon { "AND instr(substr(id, ?3), ':') = 0" } else { "AND ?3 = ?3" };
        let sql = format!(
            "SELECT id FROM files WHERE id >= ?1 AND id < ?2 {colon}
            UNION
            SELECT id FROM file_chunked WHERE id >= ?1 AND id < ?2 {colon}
            ORDER BY id"
        );
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let mut found = statement.query(params![span.from, span.until, span.path_at])?;
        let mut named = Vec::new();
        while named.len() < limit
            && let Some(row) = found.next()?
        {
            named.extend(row.get_ref(0)?.as_str().ok().and_then(Named::parse));
        }
        Ok(named)
    }

    fn newest(&self) -> rusqlite::Result<i64> {
        self.transaction.prepare_cached(NEWEST)?.query_row([], |row| row.get(0))
    }

    fn cursor(&self, place: i64) -> Cursor {
        Cursor::from_text(format!("{}.{place}", self.instance))
    }

    /// A cursor of another database, or of a later state of this one than a restored copy has, is the start.
    fn place_of(&self, cursor: &Cursor, newest: i64) -> i64 {
        let place = numbered(cursor.as_str(), self.instance).filter(|&place| place <= newest);
        place.unwrap_or(0)
    }
}

/// The number in `<instance>.<number>`, if it is of this database.
pub(super) fn numbered(text: &str, instance: &str) -> Option<i64> {
    let (of, number) = text.split_once('.')?;
    if of == instance { number.parse().ok() } else { None }
}

pub(super) fn revision(instance: &str, change: i64) -> Revision {
    Revision::new(format!("{instance}.{change}"))
}

/// Which ids belong to a query, as a condition over ?2 (lower bound), ?3 (upper bound), ?4 (begin of names with an owner).
struct Space {
    app: String,
    condition: &'static str,
    low: String,
    high: String,
    nested: String,
}

impl Space {
    fn of(query: &Query) -> Self {
        let app = escaped(&query.app);
        // The unary plus keeps the planner on the change number, which is what the order and the limit are about.
        let within = "+id >= ?2 AND +id < ?3 AND ?4 = ?4";
        let (low, condition) = match query.owner.as_deref() {
            None => (format!("{app}:"), within),
            Some("" | SHARED_OWNER) => (
                format!("{app}:"),
                "+id >= ?2 AND +id < ?3 AND (instr(substr(id, length(?2) + 1), ':') = 0 OR substr(id, 1, length(?4)) = ?4)",
            ),
            Some(owner) => (format!("{app}:{}:", escaped(owner)), within),
        };
        let nested = format!("{app}:{SHARED_OWNER}:");
        Self { high: after_prefix(&low), app, condition, low, nested }
    }
}

/// A range of ids.
struct Span {
    from: String,
    until: String,
    /// 1-based character at which the path begins.
    path_at: i64,
    /// Only ids whose rest is a shared path rather than an owner and a path.
    no_colon: bool,
}

impl Span {
    fn below(lead: &str, prefix: &str, after: Option<&str>) -> Self {
        let least = format!("{lead}{prefix}");
        let from = match after {
            // The least text above another is that text and a NUL; no path holds one.
            Some(after) => least.clone().max(format!("{lead}{after}\0")),
            None => least.clone(),
        };
        Self { from, until: after_prefix(&least), path_at: lead.chars().count() as i64 + 1, no_colon: false }
    }
}

fn load(
    statement: &mut CachedStatement<'_>,
    instance: &str,
    id: &RecordId,
    with_content: bool,
) -> rusqlite::Result<Option<Row>> {
    let Some((app, owner, path)) = id.parts() else {
        return Ok(None);
    };
    statement.query_row(params![id.as_str(), with_content, FOREIGN_TEXT_LIMIT_BYTES], |row| {
        let mirrored: Option<i64> = row.get(12)?;
        let change = row.get::<_, Option<i64>>(13)?.max(mirrored).unwrap_or(0);
        // Our own writes leave one form only, so a text row beside chunks was written later, by somebody else.
        let (content, stamps) = match row.get_ref(0)? {
            ValueRef::Null => (chunked(row)?, 8),
            _ => (text(row, with_content)?, 4),
        };
        let stamp = |column| Ok::<u64, rusqlite::Error>(row.get_ref(column)?.as_str().map_or(0, stamp::parse));
        Ok(Some(Row {
            id: id.clone(),
            app,
            owner,
            path,
            content,
            revision: revision(instance, change),
            mirror: mirrored.map(|_| mirror_entry(row)).transpose()?,
            mirrored_revision: mirrored.map(|change| revision(instance, change)),
            last_updated_ms: stamp(stamps)?,
            created_at_ms: stamp(stamps + 1)?,
        }))
    })
}

fn chunked(row: &rusqlite::Row<'_>) -> rusqlite::Result<RowContent> {
    Ok(match row.get::<_, Option<u32>>(6)? {
        Some(chunk_count) => RowContent::Chunked { chunk_count, size_bytes: row.get::<_, i64>(7)?.unsigned_abs() },
        None => RowContent::Absent,
    })
}

fn text(row: &rusqlite::Row<'_>, with_content: bool) -> rusqlite::Result<RowContent> {
    if !with_content {
        return Ok(RowContent::Unread);
    }
    let size: i64 = row.get::<_, Option<i64>>(2)?.unwrap_or(0);
    if size > FOREIGN_TEXT_LIMIT_BYTES {
        let sentence = format!("content of {size} bytes, the limit is {FOREIGN_TEXT_LIMIT_BYTES}");
        return Ok(RowContent::Invalid(sentence));
    }
    let kind: String = row.get(1)?;
    Ok(match row.get_ref(3)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => RowContent::Text(text.to_owned()),
            Err(_) => RowContent::Invalid(format!("content is {kind} and not UTF-8")),
        },
        _ => RowContent::Invalid(format!("content is {kind}, not text")),
    })
}

fn mirror_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<MirrorEntry> {
    // A hash of another length was not written by us and matches nothing.
    let content_hash = row.get_ref(11)?.as_blob().ok().and_then(|hash| hash.try_into().ok()).unwrap_or([0; 32]);
    Ok(MirrorEntry { version: row.get(10)?, content_hash })
}
