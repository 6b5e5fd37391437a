//! Compare-and-set: many records in one transaction, each checked before it is touched.
//!
//! Invariant: an item that is refused has changed nothing, so one transaction needs no savepoints; every item that is applied takes the next
//! change number, as the triggers (off on this connection) would have given it.

use rusqlite::{CachedStatement, Transaction, TransactionBehavior, params};

use super::read::{numbered, revision};
use super::session::{Session, Sync};
use crate::stamp;
use crate::{
    AdapterError, Body, Capabilities, ErrorKind, Expected, Record, RecordId, Revision, SHARED_OWNER, Write,
    batch_delete_revision,
};

/// One item, borrowed.
pub(super) enum Change<'a> {
    Set { record: &'a Record, expected: &'a Expected },
    Delete { id: &'a RecordId, expected: &'a Expected },
}

impl Change<'_> {
    /// Of content.
    fn bytes(&self) -> usize {
        match self {
            Self::Set { record, .. } => match &record.body {
                Body::Text(text) => text.len(),
                Body::Chunks { add, .. } => add.iter().map(Vec::len).sum(),
            },
            Self::Delete { .. } => 0,
        }
    }
}

impl<'a> From<&'a Write> for Change<'a> {
    fn from(write: &'a Write) -> Self {
        match write {
            Write::Set { record, expected } => Self::Set { record, expected },
            Write::Delete { id, expected } => Self::Delete { id, expected },
        }
    }
}

type Answer = Result<Revision, AdapterError>;

impl Session {
    /// Applies all items in one transaction; an `Err` means that none of them was.
    pub(super) fn apply(&mut self, changes: &[&Change<'_>], sync: Sync) -> Result<Vec<Answer>, AdapterError> {
        let failed = self.failed("write");
        self.expect(changes.iter().map(|change| change.bytes()).sum(), sync).map_err(&failed)?;
        let Self { connection, instance, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        let answers = Writing::new(&transaction, instance).and_then(|mut writing| writing.apply_all(changes));
        let answers = answers.map_err(&failed)?;
        transaction.commit().map_err(failed)?;
        self.note_commit();
        Ok(answers)
    }

    /// While the file is filled for the first time: applies all that `writes` yields in one transaction, however much it is. `None`,
    /// and nothing taken, at any other time; an `Err` means that none of it was applied.
    pub(super) fn fill(
        &mut self,
        writes: &mut dyn Iterator<Item = Write>,
        limits: &Capabilities,
    ) -> Result<Option<Vec<Answer>>, AdapterError> {
        let failed = self.failed("write");
        if !self.expect_filling().map_err(&failed)? {
            return Ok(None);
        }
        let Self { connection, instance, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        let answers = Writing::new(&transaction, instance)
            .and_then(|mut writing| writes.map(|write| writing.apply_if_fit(&write, limits)).collect());
        let answers: Vec<Answer> = answers.map_err(&failed)?;
        transaction.commit().map_err(failed)?;
        self.note_commit();
        Ok(Some(answers))
    }
}

/// An only chunk up to this size stands in its record's line.
const INLINE_BYTES: usize = 8 * 1024;

const NEWEST: &str =
    "SELECT max(coalesce((SELECT max(n) FROM file_changes), 0), coalesce((SELECT max(revision) FROM file_mirror), 0))";

const STATE: &str = "
SELECT f.rowid IS NOT NULL, k.chunk_count, k.size_bytes, m.revision, c.n, k.bytes IS NOT NULL
FROM (SELECT ?1 AS id) AS x
LEFT JOIN files AS f ON f.id = x.id
LEFT JOIN file_chunked AS k ON k.id = x.id
LEFT JOIN file_mirror AS m ON m.id = x.id
LEFT JOIN file_changes AS c ON c.id = x.id";

const NEW_MIRROR: &str =
    "INSERT INTO file_mirror (revision, id, version, content_hash) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
const NEW_TEXT: &str = "INSERT INTO files (id, path, content, app, owner_id, last_updated, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
const MIRROR: &str = "INSERT INTO file_mirror (revision, id, version, content_hash) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, version = excluded.version, content_hash = excluded.content_hash";
const CHANGED: &str = "INSERT INTO file_changes (n, id) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET n = excluded.n";
const TEXT: &str = "INSERT INTO files (id, path, content, app, owner_id, last_updated, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (id) DO UPDATE SET path = excluded.path, content = excluded.content, app = excluded.app,
        owner_id = excluded.owner_id, last_updated = excluded.last_updated, created_at = excluded.created_at";
const CHUNKED: &str =
    "INSERT INTO file_chunked (id, path, app, owner_id, last_updated, created_at, chunk_count, size_bytes, bytes)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (id) DO UPDATE SET chunk_count = excluded.chunk_count, size_bytes = excluded.size_bytes, bytes = excluded.bytes,
        last_updated = excluded.last_updated, created_at = excluded.created_at";

/// What stands under an id.
struct State {
    has_text: bool,
    chunks: Option<(u32, i64)>,
    /// The only chunk stands in the record's line.
    is_inline: bool,
    mirrored: Option<i64>,
    noted: Option<i64>,
}

impl State {
    fn is_present(&self) -> bool {
        self.has_text || self.chunks.is_some()
    }

    fn change(&self) -> i64 {
        self.noted.max(self.mirrored).unwrap_or(0)
    }
}

struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    instance: &'a str,
    last_change: i64,
    new_mirror: CachedStatement<'a>,
    new_text: CachedStatement<'a>,
    state: CachedStatement<'a>,
    stamps: Stamps,
}

impl<'a> Writing<'a> {
    fn new(transaction: &'a Transaction<'a>, instance: &'a str) -> rusqlite::Result<Self> {
        Ok(Self {
            transaction,
            instance,
            last_change: transaction.prepare_cached(NEWEST)?.query_row([], |row| row.get(0))?,
            new_mirror: transaction.prepare_cached(NEW_MIRROR)?,
            new_text: transaction.prepare_cached(NEW_TEXT)?,
            state: transaction.prepare_cached(STATE)?,
            stamps: Stamps::default(),
        })
    }

    fn apply_all(&mut self, changes: &[&Change<'_>]) -> rusqlite::Result<Vec<Answer>> {
        changes.iter().map(|change| self.apply(change)).collect()
    }

    fn apply_if_fit(&mut self, write: &Write, limits: &Capabilities) -> rusqlite::Result<Answer> {
        match write {
            Write::Set { record, .. } => match limits.check(record) {
                Ok(()) => self.apply(&write.into()),
                Err(refusal) => Ok(Err(refusal)),
            },
            Write::Delete { .. } => self.apply(&write.into()),
        }
    }

    fn apply(&mut self, change: &Change<'_>) -> rusqlite::Result<Answer> {
        match change {
            Change::Set { record, expected } => self.set(record, expected),
            Change::Delete { id, expected } => self.delete(id, expected),
        }
    }

    fn set(&mut self, record: &Record, expected: &Expected) -> rusqlite::Result<Answer> {
        let id = record.id();
        if *expected == Expected::Absent && self.create_text(&id, record)? {
            return Ok(Ok(revision(self.instance, self.last_change)));
        }
        let state = self.state(&id)?;
        if let Some(conflict) = self.conflict(&id, &state, expected) {
            return Ok(Err(conflict));
        }
        match &record.body {
            Body::Chunks { keep, .. } if state.chunks.map_or(0, |(count, _)| count) < *keep => {
                return Ok(Err(AdapterError::conflict(&id, "it has fewer chunks than are to be kept")));
            }
            Body::Chunks { keep, add } => self.put_chunks(&id, record, &state, *keep, add)?,
            Body::Text(text) => self.put_text(&id, record, &state, text)?,
        }
        self.number(&id, record, &state)?;
        Ok(Ok(revision(self.instance, self.last_change)))
    }

    /// The way of a first mirror: two inserts and no question. Answers false, having changed nothing, if anything stands there.
    fn create_text(&mut self, id: &RecordId, record: &Record) -> rusqlite::Result<bool> {
        let (Body::Text(text), Some(mirror)) = (&record.body, &record.mirror) else {
            return Ok(false);
        };
        let change = self.last_change + 1;
        let entry = params![change, id.as_str(), mirror.version, mirror.content_hash.as_slice()];
        if self.new_mirror.execute(entry)? == 0 {
            return Ok(false);
        }
        let (updated, created) = self.stamps.of(record);
        let row = params![id.as_str(), record.path, text, record.app, owner(record), updated, created];
        if self.new_text.execute(row)? == 0 {
            run(self.transaction, "DELETE FROM file_mirror WHERE revision = ?1", params![change])?;
            return Ok(false);
        }
        self.last_change = change;
        Ok(true)
    }

    fn put_text(&mut self, id: &RecordId, record: &Record, state: &State, text: &str) -> rusqlite::Result<()> {
        if state.chunks.is_some() {
            self.drop_chunks(id)?;
        }
        let transaction = self.transaction;
        let (updated, created) = self.stamps.of(record);
        run(transaction, TEXT, params![id.as_str(), record.path, text, record.app, owner(record), updated, created])
    }

    fn put_chunks(
        &mut self,
        id: &RecordId,
        record: &Record,
        state: &State,
        keep: u32,
        add: &[Vec<u8>],
    ) -> rusqlite::Result<()> {
        if state.has_text {
            run(self.transaction, "DELETE FROM files WHERE id = ?1", params![id.as_str()])?;
        }
        let inline = match add {
            [only] if keep == 0 && only.len() <= INLINE_BYTES => Some(only),
            _ => None,
        };
        let mut size = 0;
        if let Some((count, size_bytes)) = state.chunks {
            if state.is_inline && keep > 0 {
                run(
                    self.transaction,
                    "INSERT INTO file_chunks (id, n, bytes) SELECT id, 0, bytes FROM file_chunked WHERE id = ?1",
                    params![id.as_str()],
                )?;
            }
            size = if keep == 0 { 0 } else { size_bytes };
            if keep < count && !state.is_inline {
                size = size_bytes - self.cut_chunks(id, keep)?;
            }
        }
        let count = keep + add.len() as u32;
        for (n, bytes) in (keep..).zip(add) {
            if inline.is_none() {
                run(
                    self.transaction,
                    "INSERT INTO file_chunks (id, n, bytes) VALUES (?1, ?2, ?3)",
                    params![id.as_str(), n, bytes],
                )?;
            }
            size += bytes.len() as i64;
        }
        let (updated, created) = self.stamps.of(record);
        let row = params![id.as_str(), record.path, record.app, owner(record), updated, created, count, size, inline];
        self.transaction.prepare_cached(CHUNKED)?.execute(row).map(drop)
    }

    /// Removes the chunks from `keep` on; returns their bytes.
    fn cut_chunks(&self, id: &RecordId, keep: u32) -> rusqlite::Result<i64> {
        // A blob's length stands in its row's head: dropped bytes are not read.
        let dropped = "SELECT coalesce(sum(length(bytes)), 0) FROM file_chunks WHERE id = ?1 AND n >= ?2";
        let bytes =
            self.transaction.prepare_cached(dropped)?.query_row(params![id.as_str(), keep], |row| row.get(0))?;
        run(self.transaction, "DELETE FROM file_chunks WHERE id = ?1 AND n >= ?2", params![id.as_str(), keep])?;
        Ok(bytes)
    }

    /// Gives the record the next change number, in its mirror entry or, if it projects nothing, among the changes.
    fn number(&mut self, id: &RecordId, record: &Record, state: &State) -> rusqlite::Result<()> {
        self.last_change += 1;
        let Some(mirror) = &record.mirror else {
            return self.note(id, state);
        };
        let entry = params![self.last_change, id.as_str(), mirror.version, mirror.content_hash.as_slice()];
        run(self.transaction, MIRROR, entry)?;
        if state.noted.is_some() {
            run(self.transaction, "DELETE FROM file_changes WHERE id = ?1", params![id.as_str()])?;
        }
        Ok(())
    }

    fn note(&self, id: &RecordId, state: &State) -> rusqlite::Result<()> {
        run(self.transaction, CHANGED, params![self.last_change, id.as_str()])?;
        if state.mirrored.is_some() {
            run(self.transaction, "DELETE FROM file_mirror WHERE id = ?1", params![id.as_str()])?;
        }
        Ok(())
    }

    fn delete(&mut self, id: &RecordId, expected: &Expected) -> rusqlite::Result<Answer> {
        let state = self.state(id)?;
        if !state.is_present() && state.mirrored.is_none() {
            return Ok(match expected {
                Expected::Absent => Ok(batch_delete_revision()),
                Expected::Revision(_) => {
                    Err(AdapterError::new(ErrorKind::NotFound, format!("delete {id}: it is gone already")))
                }
            });
        }
        if let Some(conflict) = self.conflict(id, &state, expected) {
            return Ok(Err(conflict));
        }
        if state.has_text {
            run(self.transaction, "DELETE FROM files WHERE id = ?1", params![id.as_str()])?;
        }
        if state.chunks.is_some() {
            self.drop_chunks(id)?;
        }
        self.last_change += 1;
        self.note(id, &state)?;
        Ok(Ok(batch_delete_revision()))
    }

    fn drop_chunks(&self, id: &RecordId) -> rusqlite::Result<()> {
        run(self.transaction, "DELETE FROM file_chunks WHERE id = ?1", params![id.as_str()])?;
        run(self.transaction, "DELETE FROM file_chunked WHERE id = ?1", params![id.as_str()])
    }

    fn conflict(&self, id: &RecordId, state: &State, expected: &Expected) -> Option<AdapterError> {
        match expected {
            Expected::Absent if state.is_present() => Some(AdapterError::conflict(id, "it is there already")),
            Expected::Revision(expected) if numbered(expected.as_str(), self.instance) != Some(state.change()) => {
                Some(AdapterError::conflict(id, "it has changed since it was read"))
            }
            _ => None,
        }
    }

    fn state(&mut self, id: &RecordId) -> rusqlite::Result<State> {
        self.state.query_row([id.as_str()], |row| {
            let size: Option<i64> = row.get(2)?;
            Ok(State {
                has_text: row.get(0)?,
                chunks: row.get::<_, Option<u32>>(1)?.zip(size),
                mirrored: row.get(3)?,
                noted: row.get(4)?,
                is_inline: row.get(5)?,
            })
        })
    }
}

fn run(transaction: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
    transaction.prepare_cached(sql)?.execute(params).map(drop)
}

fn owner(record: &Record) -> &str {
    if record.owner.is_empty() { SHARED_OWNER } else { &record.owner }
}

/// The two moments of the last record as text: they are mostly equal, and neighbours in a batch often share them.
#[derive(Default)]
struct Stamps {
    updated: Stamp,
    created: Stamp,
}

#[derive(Default)]
struct Stamp {
    ms: u64,
    text: String,
}

impl Stamps {
    fn of(&mut self, record: &Record) -> (&str, &str) {
        let updated = self.updated.at(record.last_updated_ms);
        if record.created_at_ms == record.last_updated_ms {
            return (updated, updated);
        }
        (updated, self.created.at(record.created_at_ms))
    }
}

impl Stamp {
    fn at(&mut self, ms: u64) -> &str {
        if self.ms != ms || self.text.is_empty() {
            *self = Self { ms, text: stamp::format(ms) };
        }
        &self.text
    }
}
