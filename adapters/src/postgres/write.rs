//! Compare-and-set: many records in one transaction, in a few statements however many they are.
//!
//! Order of locks: rows of `files` first, then lines of `file_mirror`, as every other program's triggers take them. A batch waits for
//! nobody who holds a row: what is held is left and tried alone afterwards, so that no other program ever loses a deadlock to us.
//! Invariant: an item that is refused has changed nothing when its transaction commits; of one record a round has one item.

use std::collections::{HashMap, HashSet};

use tokio_postgres::types::{ToSql, Type};

use super::connect::Session;
use super::failure::Failure;
use super::read::{fits, numbered, revision};
use super::schema::MAX_ID_BYTES;
use crate::{
    AdapterError, Body, ErrorKind, Expected, Record, RecordId, Revision, SHARED_OWNER, Write, batch_delete_revision,
    stamp,
};

/// Bytes of chunks in one statement; the protocol takes 1 GiB.
const CHUNK_STATEMENT_BYTES: usize = 8 << 20;
/// Tries of an item whose transaction met another.
const MAX_TRIES: u32 = 5;

/// One item, borrowed, under its name.
pub(super) struct Item<'a> {
    pub id: RecordId,
    pub change: Change<'a>,
}

pub(super) enum Change<'a> {
    Set { record: &'a Record, expected: &'a Expected },
    Delete { expected: &'a Expected },
}

impl<'a> Item<'a> {
    pub fn set(record: &'a Record, expected: &'a Expected) -> Item<'a> {
        Item { id: record.id(), change: Change::Set { record, expected } }
    }

    pub fn delete(id: &RecordId, expected: &'a Expected) -> Item<'a> {
        Item { id: id.clone(), change: Change::Delete { expected } }
    }

    fn expected(&self) -> &Expected {
        match &self.change {
            Change::Set { expected, .. } | Change::Delete { expected } => expected,
        }
    }

    fn text(&self) -> Option<(&'a Record, &'a str)> {
        match &self.change {
            Change::Set { record, .. } => match &record.body {
                Body::Text(text) => Some((record, text)),
                Body::Chunks { .. } => None,
            },
            Change::Delete { .. } => None,
        }
    }

    fn chunks(&self) -> Option<(&'a Record, u32, &'a [Vec<u8>])> {
        match &self.change {
            Change::Set { record, .. } => match &record.body {
                Body::Chunks { keep, add } => Some((record, *keep, add)),
                Body::Text(_) => None,
            },
            Change::Delete { .. } => None,
        }
    }

    fn is_creation_of_text(&self) -> bool {
        self.text().is_some() && *self.expected() == Expected::Absent
    }

    /// Refuses what no row can be named. `TooLarge`.
    pub fn check(&self) -> Result<(), AdapterError> {
        if fits(&self.id) {
            return Ok(());
        }
        let size = self.id.as_str().len();
        Err(AdapterError::new(
            ErrorKind::TooLarge,
            format!("write a record: its name has {size} bytes, the limit is {MAX_ID_BYTES}"),
        ))
    }
}

impl<'a> From<&'a Write> for Item<'a> {
    fn from(write: &'a Write) -> Self {
        match write {
            Write::Set { record, expected } => Item::set(record, expected),
            Write::Delete { id, expected } => Item::delete(id, expected),
        }
    }
}

pub(super) type Answer = Result<Revision, AdapterError>;

/// Whether rows that others hold are waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Wait,
    Skip,
}

/// What became of one item in one transaction.
enum Fate {
    Done(Answer),
    /// Somebody held its row.
    Held,
}

impl Session {
    /// Applies items in order; an `Err` says that the connection failed and which were not answered is unknown.
    pub(super) async fn apply(&self, items: &[&Item<'_>], wait_ms: u128, shown: &str) -> Result<Vec<Answer>, Failure> {
        let mut answers: Vec<Answer> = Vec::with_capacity(items.len());
        let mut rest = items;
        while !rest.is_empty() {
            let (round, after) = rest.split_at(distinct(rest));
            answers.extend(self.apply_round(round, wait_ms, shown).await?);
            rest = after;
        }
        Ok(answers)
    }

    async fn apply_round(&self, round: &[&Item<'_>], wait_ms: u128, shown: &str) -> Result<Vec<Answer>, Failure> {
        if let [only] = round {
            return Ok(vec![self.apply_alone(only, wait_ms, shown).await?]);
        }
        let fates = match self.transaction(round, Held::Skip, wait_ms).await {
            Ok(fates) => fates,
            Err(failure) if failure.is_lost => return Err(failure),
            // One of them is at fault: each by itself tells which.
            Err(_) => round.iter().map(|_| Fate::Held).collect(),
        };
        let mut answers = Vec::with_capacity(round.len());
        for (item, fate) in round.iter().zip(fates) {
            answers.push(match fate {
                Fate::Done(answer) => answer,
                Fate::Held => self.apply_alone(item, wait_ms, shown).await?,
            });
        }
        Ok(answers)
    }

    async fn apply_alone(&self, item: &Item<'_>, wait_ms: u128, shown: &str) -> Result<Answer, Failure> {
        for tried in 1.. {
            match self.transaction(&[item], Held::Wait, wait_ms).await {
                Ok(mut fates) => match fates.pop() {
                    Some(Fate::Done(answer)) => return Ok(answer),
                    _ => return Err(Failure::lost("it gave no answer")),
                },
                Err(failure) if failure.is_lost => return Err(failure),
                Err(failure) if failure.is_collision() && tried < MAX_TRIES => {}
                Err(failure) => return Ok(Err(failure.told(&format!("write {} to", item.id), shown))),
            }
        }
        unreachable!("the loop ends with an answer")
    }

    async fn transaction(&self, items: &[&Item<'_>], held: Held, wait_ms: u128) -> Result<Vec<Fate>, Failure> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL larder.writes = 'on'; SET LOCAL lock_timeout = {wait_ms}"
        );
        self.client.batch_execute(&begin).await?;
        let mut writing =
            Writing { session: self, items, held, states: HashMap::new(), fates: HashMap::new(), bad: HashSet::new() };
        match writing.run().await {
            Ok(()) => {
                self.client.batch_execute("COMMIT").await?;
                Ok(writing.into_fates())
            }
            Err(failure) => {
                // The connection may be gone, and then so is the transaction.
                let _ = self.client.batch_execute("ROLLBACK").await;
                Err(failure)
            }
        }
    }
}

/// How many items from the first on name different records.
fn distinct(items: &[&Item<'_>]) -> usize {
    let mut seen = HashSet::with_capacity(items.len());
    items.iter().take_while(|item| seen.insert(item.id.as_str())).count()
}

/// What stands under an id, locked by us.
#[derive(Clone, Default)]
struct State {
    has_text: bool,
    /// Number of its line, and whether the line projects a version.
    line: Option<(i64, bool)>,
    chunks: Option<(i64, i64)>,
}

impl State {
    fn is_present(&self) -> bool {
        self.has_text || self.chunks.is_some()
    }
}

struct Writing<'s, 'i> {
    session: &'s Session,
    items: &'s [&'s Item<'i>],
    held: Held,
    states: HashMap<&'s str, State>,
    fates: HashMap<&'s str, Fate>,
    /// Texts that were put although their record turns out to be another's: taken back before the end.
    bad: HashSet<&'s str>,
}

impl<'s, 'i> Writing<'s, 'i> {
    fn into_fates(mut self) -> Vec<Fate> {
        let missing = || Fate::Done(Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer")));
        let items = self.items;
        items.iter().map(|item| self.fates.remove(item.id.as_str()).unwrap_or_else(missing)).collect()
    }

    fn open(&self) -> Vec<&'s Item<'i>> {
        self.items.iter().copied().filter(|item| !self.fates.contains_key(item.id.as_str())).collect()
    }

    fn settle(&mut self, item: &'s Item<'i>, answer: Answer) {
        self.fates.insert(item.id.as_str(), Fate::Done(answer));
    }

    fn conflict(&mut self, item: &'s Item<'i>, found: &str) {
        self.settle(item, Err(AdapterError::conflict(&item.id, found)));
    }

    async fn run(&mut self) -> Result<(), Failure> {
        self.lock_texts().await?;
        self.put_new_texts().await?;
        self.number_creations().await?;
        self.lock_lines().await?;
        self.judge();
        self.number().await?;
        self.take_back().await?;
        self.put_contents().await?;
        self.notify().await
    }

    async fn ids(&self, sql: &str, ids: &[&str]) -> Result<HashSet<String>, Failure> {
        let rows = self.session.client.query_typed(sql, &[(&ids, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Locks the rows that stand, of all but creations: those find out by inserting.
    async fn lock_texts(&mut self) -> Result<(), Failure> {
        let items: Vec<&'s Item<'i>> = self.open().into_iter().filter(|item| !item.is_creation_of_text()).collect();
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let lock = "SELECT id FROM files WHERE id = ANY ($1) ORDER BY id FOR UPDATE";
        let locked = match self.held {
            Held::Wait => self.ids(lock, &ids).await?,
            Held::Skip => {
                let locked = self.ids(&format!("{lock} SKIP LOCKED"), &ids).await?;
                let there = self.ids("SELECT id FROM files WHERE id = ANY ($1)", &ids).await?;
                for item in &items {
                    let id = item.id.as_str();
                    if there.contains(id) && !locked.contains(id) {
                        self.fates.insert(id, Fate::Held);
                    }
                }
                locked
            }
        };
        for item in items {
            let has_text = locked.contains(item.id.as_str());
            self.states.insert(item.id.as_str(), State { has_text, ..State::default() });
        }
        Ok(())
    }

    /// Texts where no row stands are put first, so that rows are locked before lines.
    async fn put_new_texts(&mut self) -> Result<(), Failure> {
        let is_new = |item: &&&Item<'_>| !self.states.get(item.id.as_str()).is_some_and(|state| state.has_text);
        let items: Vec<&'s Item<'i>> =
            self.open().iter().filter(|item| item.text().is_some()).filter(is_new).copied().collect();
        if items.is_empty() {
            return Ok(());
        }
        let moments = self.session.facts.moments;
        let (updated, created) = (moments.last_updated.written("t.updated"), moments.created_at.written("t.created"));
        let sql = format!(
            "INSERT INTO files (id, path, content, app, owner_id, last_updated, created_at)
            SELECT t.id, t.path, t.content, t.app, t.owner, {updated}, {created} FROM {TEXTS}
            ON CONFLICT (id) DO NOTHING RETURNING id"
        );
        let put = self.put_texts(&sql, &items).await?;
        for item in items {
            if !put.contains(item.id.as_str()) {
                self.conflict(item, "it is there already");
            }
        }
        Ok(())
    }

    async fn put_texts(&self, sql: &str, items: &[&'s Item<'i>]) -> Result<HashSet<String>, Failure> {
        let mut stamps = Stamps::default();
        let (mut ids, mut paths, mut contents) = (Vec::new(), Vec::new(), Vec::new());
        let (mut apps, mut owners, mut updated, mut created) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for item in items {
            let Some((record, text)) = item.text() else { continue };
            ids.push(item.id.as_str());
            paths.push(record.path.as_str());
            contents.push(text);
            apps.push(record.app.as_str());
            owners.push(owner(record));
            updated.push(stamps.of(record.last_updated_ms));
            created.push(stamps.of(record.created_at_ms));
        }
        let array = Type::TEXT_ARRAY;
        let columns: [&(dyn ToSql + Sync); 7] = [&ids, &paths, &contents, &apps, &owners, &updated, &created];
        let parameters = columns.map(|column| (column, array.clone()));
        let rows = self.session.client.query_typed(sql, &parameters).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Most of a first mirror: a line where none was. Whose line is there already is judged like any other.
    async fn number_creations(&mut self) -> Result<(), Failure> {
        let items: Vec<&'s Item<'i>> = self.open().into_iter().filter(|item| item.is_creation_of_text()).collect();
        self.insert_lines(&items).await
    }

    /// Inserts the lines of items where there is none; each that got one is done.
    async fn insert_lines(&mut self, items: &[&'s Item<'i>]) -> Result<(), Failure> {
        let sql = format!(
            "INSERT INTO file_mirror (id, n, xid, revision, version, content_hash)
            SELECT t.id, t.n, pg_current_xact_id(), CASE WHEN t.version IS NOT NULL THEN t.n END, t.version, t.hash
            FROM (SELECT *, nextval('file_changes_n') AS n FROM {LINES}) AS t
            ON CONFLICT (id) DO NOTHING RETURNING id, n"
        );
        self.put_lines(&sql, items).await
    }

    async fn put_lines(&mut self, sql: &str, items: &[&'s Item<'i>]) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let (mut ids, mut versions, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            let mirror = match &item.change {
                Change::Set { record, .. } => record.mirror.as_ref(),
                Change::Delete { .. } => None,
            };
            ids.push(item.id.as_str());
            versions.push(mirror.map(|mirror| mirror.version.as_str()));
            hashes.push(mirror.map(|mirror| mirror.content_hash.as_slice()));
        }
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&ids, Type::TEXT_ARRAY), (&versions, Type::TEXT_ARRAY), (&hashes, Type::BYTEA_ARRAY)];
        let by_id: HashMap<&str, &'s Item<'i>> = items.iter().map(|item| (item.id.as_str(), *item)).collect();
        for row in self.session.client.query_typed(sql, &parameters).await? {
            let id: &str = row.try_get(0)?;
            if let Some(item) = by_id.get(id).copied() {
                let change = revision(&self.session.facts.instance, row.try_get(1)?);
                let is_delete = matches!(item.change, Change::Delete { .. });
                self.settle(item, Ok(if is_delete { batch_delete_revision() } else { change }));
            }
        }
        Ok(())
    }

    /// Locks the lines of all that is open, and reads what stands.
    async fn lock_lines(&mut self) -> Result<(), Failure> {
        let items = self.open();
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let skip = if self.held == Held::Skip { " SKIP LOCKED" } else { "" };
        let lock = format!(
            "SELECT id, n, version IS NOT NULL FROM file_mirror WHERE id = ANY ($1) ORDER BY id FOR UPDATE{skip}"
        );
        let rows = self.session.client.query_typed(&lock, &[(&ids, Type::TEXT_ARRAY)]).await?;
        let mut lines: HashMap<String, (i64, bool)> = HashMap::with_capacity(rows.len());
        for row in &rows {
            lines.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
        }
        let there = match self.held {
            Held::Skip => self.ids("SELECT id FROM file_mirror WHERE id = ANY ($1)", &ids).await?,
            Held::Wait => HashSet::new(),
        };
        // Only now that the lines are ours does what is read stay so.
        let chunked = "SELECT id, chunk_count, size_bytes FROM file_chunked WHERE id = ANY ($1)";
        let mut chunks: HashMap<String, (i64, i64)> = HashMap::new();
        for row in self.session.client.query_typed(chunked, &[(&ids, Type::TEXT_ARRAY)]).await? {
            chunks.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
        }
        for item in items {
            let id = item.id.as_str();
            let line = lines.get(id).copied();
            if line.is_none() && there.contains(id) {
                self.fates.insert(id, Fate::Held);
                self.take_text_back(item);
                continue;
            }
            let state = self.states.entry(id).or_default();
            state.line = line;
            state.chunks = chunks.get(id).copied();
        }
        Ok(())
    }

    /// A text that was put where none stood goes again.
    fn take_text_back(&mut self, item: &'s Item<'i>) {
        let stood = self.states.get(item.id.as_str()).is_some_and(|state| state.has_text);
        if item.text().is_some() && !stood {
            self.bad.insert(item.id.as_str());
        }
    }

    fn judge(&mut self) {
        for item in self.open() {
            let state = self.states.get(item.id.as_str()).cloned().unwrap_or_default();
            if let Some(refusal) = self.refusal(item, &state) {
                self.take_text_back(item);
                self.settle(item, refusal);
            }
        }
    }

    /// The answer to an item that changes nothing.
    fn refusal(&self, item: &Item<'_>, state: &State) -> Option<Answer> {
        let is_projected = state.line.is_some_and(|(_, is_projected)| is_projected);
        if matches!(item.change, Change::Delete { .. }) && !state.is_present() && !is_projected {
            return Some(match item.expected() {
                Expected::Absent => Ok(batch_delete_revision()),
                Expected::Revision(_) => {
                    Err(AdapterError::new(ErrorKind::NotFound, format!("delete {}: it is gone already", item.id)))
                }
            });
        }
        let change = state.line.map_or(0, |(n, _)| n);
        let conflict = |found| Some(Err(AdapterError::conflict(&item.id, found)));
        match item.expected() {
            Expected::Absent if state.is_present() => return conflict("it is there already"),
            Expected::Revision(expected) if numbered(expected, &self.session.facts.instance) != Some(change) => {
                return conflict("it has changed since it was read");
            }
            _ => {}
        }
        match item.chunks() {
            Some((_, keep, _)) if state.chunks.map_or(0, |(count, _)| count) < i64::from(keep) => {
                conflict("it has fewer chunks than are to be kept")
            }
            _ => None,
        }
    }

    /// Gives each open item its number; one whose line somebody else made just now is refused.
    async fn number(&mut self) -> Result<(), Failure> {
        let has_line = |writing: &Self, item: &&'s Item<'i>| {
            writing.states.get(item.id.as_str()).is_some_and(|state| state.line.is_some())
        };
        let (old, new): (Vec<_>, Vec<_>) = self.open().into_iter().partition(|item| has_line(self, item));
        self.insert_lines(&new).await?;
        let lost: Vec<&'s Item<'i>> = self.open().into_iter().filter(|item| !has_line(self, item)).collect();
        for item in lost {
            self.take_text_back(item);
            self.conflict(item, "it is there already");
        }
        let sql = format!(
            "UPDATE file_mirror AS m SET n = t.n, xid = pg_current_xact_id(), version = t.version, content_hash = t.hash,
                revision = CASE WHEN t.version IS NOT NULL THEN t.n END
            FROM (SELECT *, nextval('file_changes_n') AS n FROM {LINES}) AS t
            WHERE m.id = t.id RETURNING m.id, m.n"
        );
        self.put_lines(&sql, &old).await
    }

    fn applied(&self) -> Vec<&'s Item<'i>> {
        let is_applied = |item: &&Item<'_>| matches!(self.fates.get(item.id.as_str()), Some(Fate::Done(Ok(_))));
        self.items.iter().copied().filter(is_applied).collect()
    }

    async fn take_back(&self) -> Result<(), Failure> {
        let bad: Vec<&str> = self.bad.iter().copied().collect();
        self.each("DELETE FROM files WHERE id = ANY ($1)", &bad).await
    }

    async fn each(&self, sql: &str, ids: &[&str]) -> Result<(), Failure> {
        if !ids.is_empty() {
            self.session.client.execute_typed(sql, &[(&ids, Type::TEXT_ARRAY)]).await?;
        }
        Ok(())
    }

    /// Everything but the texts that were put already.
    async fn put_contents(&self) -> Result<(), Failure> {
        let applied = self.applied();
        let state = |item: &Item<'_>| self.states.get(item.id.as_str()).cloned().unwrap_or_default();
        let (mut texts, mut texts_gone, mut chunks_gone, mut chunked) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for item in applied {
            let state = state(item);
            match item.text() {
                Some(_) if state.has_text => texts.push(item),
                None if state.has_text => texts_gone.push(item.id.as_str()),
                _ => {}
            }
            match item.chunks() {
                Some(_) => chunked.push((item, state.chunks)),
                None if state.chunks.is_some() => chunks_gone.push(item.id.as_str()),
                None => {}
            }
        }
        if !texts.is_empty() {
            let moments = self.session.facts.moments;
            let (updated, created) =
                (moments.last_updated.written("t.updated"), moments.created_at.written("t.created"));
            let sql = format!(
                "UPDATE files AS f SET path = t.path, content = t.content, app = t.app, owner_id = t.owner,
                    last_updated = {updated}, created_at = {created} FROM {TEXTS} WHERE f.id = t.id RETURNING f.id"
            );
            self.put_texts(&sql, &texts).await?;
        }
        self.each("DELETE FROM files WHERE id = ANY ($1)", &texts_gone).await?;
        self.each("DELETE FROM file_chunks WHERE id = ANY ($1)", &chunks_gone).await?;
        self.each("DELETE FROM file_chunked WHERE id = ANY ($1)", &chunks_gone).await?;
        self.put_chunks(&chunked).await
    }

    async fn put_chunks(&self, items: &[(&'s Item<'i>, Option<(i64, i64)>)]) -> Result<(), Failure> {
        if items.is_empty() {
            return Ok(());
        }
        let cut = self.cut_chunks(items).await?;
        let mut stamps = Stamps::default();
        let (mut ids, mut paths, mut apps, mut owners) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut counts, mut sizes, mut updated, mut created) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut chunk_ids, mut numbers, mut bytes, mut held) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (item, before) in items {
            let Some((record, keep, add)) = item.chunks() else { continue };
            let id = item.id.as_str();
            let kept = before.map_or(0, |(_, size)| size) - cut.get(id).copied().unwrap_or(0);
            ids.push(id);
            paths.push(record.path.as_str());
            apps.push(record.app.as_str());
            owners.push(owner(record));
            counts.push(i64::from(keep) + add.len() as i64);
            sizes.push(kept + add.iter().map(|chunk| chunk.len() as i64).sum::<i64>());
            updated.push(stamps.of(record.last_updated_ms));
            created.push(stamps.of(record.created_at_ms));
            for (n, chunk) in (i64::from(keep)..).zip(add) {
                chunk_ids.push(id);
                numbers.push(n);
                bytes.push(chunk.as_slice());
                held += chunk.len();
                if CHUNK_STATEMENT_BYTES <= held {
                    self.insert_chunks(&chunk_ids, &numbers, &bytes).await?;
                    (chunk_ids, numbers, bytes, held) = (Vec::new(), Vec::new(), Vec::new(), 0);
                }
            }
        }
        self.insert_chunks(&chunk_ids, &numbers, &bytes).await?;
        let sql = "INSERT INTO file_chunked (id, path, app, owner_id, chunk_count, size_bytes, last_updated, created_at)
            SELECT t.id, t.path, t.app, t.owner, t.count, t.size, t.updated::timestamptz, t.created::timestamptz
            FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[])
                AS t (id, path, app, owner, count, size, updated, created)
            ON CONFLICT (id) DO UPDATE SET chunk_count = excluded.chunk_count, size_bytes = excluded.size_bytes,
                last_updated = excluded.last_updated, created_at = excluded.created_at";
        let text = Type::TEXT_ARRAY;
        let number = Type::INT8_ARRAY;
        let parameters: [(&(dyn ToSql + Sync), Type); 8] = [
            (&ids, text.clone()),
            (&paths, text.clone()),
            (&apps, text.clone()),
            (&owners, text.clone()),
            (&counts, number.clone()),
            (&sizes, number),
            (&updated, text.clone()),
            (&created, text),
        ];
        self.session.client.execute_typed(sql, &parameters).await?;
        Ok(())
    }

    /// Removes the chunks that are not kept; returns their bytes by record.
    async fn cut_chunks(&self, items: &[(&'s Item<'i>, Option<(i64, i64)>)]) -> Result<HashMap<String, i64>, Failure> {
        let old = items.iter().filter(|(_, before)| before.is_some());
        let kept = old.filter_map(|(item, _)| Some((item.id.as_str(), i64::from(item.chunks()?.1))));
        let (ids, keeps): (Vec<&str>, Vec<i64>) = kept.unzip();
        let mut cut = HashMap::new();
        if ids.is_empty() {
            return Ok(cut);
        }
        let sql = "DELETE FROM file_chunks AS k USING unnest($1::text[], $2::bigint[]) AS t (id, keep)
            WHERE k.id = t.id AND k.n >= t.keep RETURNING k.id, octet_length(k.bytes)::bigint";
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&ids, Type::TEXT_ARRAY), (&keeps, Type::INT8_ARRAY)];
        for row in self.session.client.query_typed(sql, &parameters).await? {
            *cut.entry(row.try_get(0)?).or_insert(0) += row.try_get::<_, i64>(1)?;
        }
        Ok(cut)
    }

    async fn insert_chunks(&self, ids: &[&str], numbers: &[i64], bytes: &[&[u8]]) -> Result<(), Failure> {
        if ids.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO file_chunks (id, n, bytes) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[])";
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&ids, Type::TEXT_ARRAY), (&numbers, Type::INT8_ARRAY), (&bytes, Type::BYTEA_ARRAY)];
        self.session.client.execute_typed(sql, &parameters).await?;
        Ok(())
    }

    /// Once an app, at the commit.
    async fn notify(&self) -> Result<(), Failure> {
        let apps: HashSet<&str> = self.applied().iter().filter_map(|item| item.id.as_str().split(':').next()).collect();
        if apps.is_empty() {
            return Ok(());
        }
        let apps: Vec<&str> = apps.into_iter().collect();
        self.each("SELECT pg_notify('larder', left(app, 1000)) FROM unnest($1::text[]) AS app", &apps).await
    }
}

const TEXTS: &str = "unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS t (id, path, content, app, owner, updated, created)";
const LINES: &str = "unnest($1::text[], $2::text[], $3::bytea[]) AS l (id, version, hash)";

fn owner(record: &Record) -> &str {
    if record.owner.is_empty() { SHARED_OWNER } else { &record.owner }
}

/// Neighbours in a batch often share their moments.
#[derive(Default)]
struct Stamps(HashMap<u64, String>);

impl Stamps {
    fn of(&mut self, ms: u64) -> String {
        self.0.entry(ms).or_insert_with(|| stamp::format(ms)).clone()
    }
}
