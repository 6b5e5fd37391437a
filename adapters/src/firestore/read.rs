//! Questions: some records, one page of changes, one page of names, chunks.
//!
//! Invariant: a page is read as of one moment (the first answer says which, the others are asked as of it), and a cursor never passes
//! a change that was not told. Along `changed_at` the service's clock decides, which may run a little behind the order of commits:
//! a feed is therefore read from `OVERLAP` before the moment up to which everything was told, and what was told is left out by
//! its `updateTime`, which is the order of commits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::call::Caller;
use super::entry::{
    CHANGED_AT, Document, ENTRIES, Entry, FILES, Kind, PIECES, Piece, Standing, chunks_of, key, listed,
};
use super::failure::{Failure, What};
use super::name::document_name;
use super::value::{Moment, moment, text};
use crate::pieces::spanning;
use crate::record::after_prefix;
use crate::{Cursor, ErrorKind, Page, Query, RecordId, Row, RowContent};

/// Between the moment that the service stamps a write with and the one it is committed at lies at most this; see `write`.
pub(super) const OVERLAP: Duration = Duration::from_secs(10);
/// Documents asked for by name at once, without and with their texts.
const NAMES_AT_ONCE: usize = 300;
const TEXTS_AT_ONCE: usize = 24;
/// Paths that one query compares with; the service takes 30.
const PATHS_AT_ONCE: usize = 30;
/// Pieces asked for at once; each is just under 1 MiB.
const PIECES_AT_ONCE: usize = 8;
/// Documents of one answer to a query; entries are small.
const QUERY_ROWS: usize = 1_000;
/// A record is read again so often if its chunks vanish while they are read.
const CHUNK_TRIES: u32 = 5;
/// The fields of a row that are read when its text is not.
const ROW_FACTS: [&str; 6] = ["app", "owner_id", "path", "last_updated", "created_at", "kind"];
const ENTRY_FACTS: [&str; 8] = ["id", "version", "content_hash", "file", "written_at", "noted", "pieces", CHANGED_AT];

/// What an answer told, and as of when.
pub(super) struct Found {
    pub(super) documents: Vec<Document>,
    pub(super) read_time: Moment,
}

impl Caller {
    /// Runs one query over a collection.
    pub(super) async fn query(
        &self,
        collection: &str,
        mut query: Value,
        limit: usize,
        as_of: Option<Moment>,
    ) -> Result<Found, Failure> {
        query["from"] = json!([{ "collectionId": collection }]);
        query["limit"] = json!(limit);
        let mut body = json!({ "structuredQuery": query });
        if let Some(as_of) = as_of {
            body["readTime"] = json!(as_of.to_string());
        }
        let answer = self.ask("runQuery", &body).await?;
        let parts = answer.as_array().ok_or_else(strange)?;
        let read_time = read_time_of(parts).ok_or_else(strange)?;
        let documents = parts.iter().filter_map(|part| part.get("document")).map(Document::parse);
        Ok(Found { documents: documents.collect::<Option<_>>().ok_or_else(strange)?, read_time })
    }

    /// Reads documents by their whole names, each `None` if it is not there, in their order.
    async fn documents(
        &self,
        names: &[String],
        mask: Option<&[&str]>,
        as_of: Option<Moment>,
    ) -> Result<Vec<Option<Document>>, Failure> {
        let mut found = Vec::with_capacity(names.len());
        let mut waiting: Vec<&[String]> = vec![names];
        while let Some(some) = waiting.pop() {
            match self.some_documents(some, mask, as_of).await {
                Ok(documents) => found.extend(documents),
                Err(failure) if failure.what == What::TooLong && some.len() > 1 => {
                    let (first, second) = some.split_at(some.len() / 2);
                    waiting.extend([second, first]);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    async fn some_documents(
        &self,
        names: &[String],
        mask: Option<&[&str]>,
        as_of: Option<Moment>,
    ) -> Result<Vec<Option<Document>>, Failure> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut body = json!({ "documents": names });
        if let Some(mask) = mask {
            body["mask"] = json!({ "fieldPaths": mask });
        }
        if let Some(as_of) = as_of {
            body["readTime"] = json!(as_of.to_string());
        }
        let answer = self.ask("batchGet", &body).await?;
        let parts = answer.as_array().ok_or_else(strange)?;
        let mut found: Vec<Option<Option<Document>>> = vec![None; names.len()];
        for part in parts {
            let (name, document) = match (part.get("found"), part.get("missing").and_then(Value::as_str)) {
                (Some(found), _) => (found.get("name").and_then(Value::as_str), Document::parse(found)),
                (None, Some(missing)) => (Some(missing), None),
                (None, None) => continue,
            };
            if let Some(at) = names.iter().position(|wanted| Some(wanted.as_str()) == name) {
                found[at] = Some(document);
            }
        }
        // What the answer does not speak of is not known to be missing.
        found
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::new(ErrorKind::Unavailable, "the answer ended too early"))
    }

    /// A document by its place; `None` if it is not there.
    pub(super) async fn one(&self, collection: &str, name: &str) -> Result<Option<Document>, Failure> {
        let names = [self.document(collection, name)];
        Ok(self.documents(&names, None, None).await?.pop().flatten())
    }

    /// Records as they stand, entry and row of each as of one moment.
    pub(super) async fn standings(
        &self,
        ids: &[RecordId],
        with_content: bool,
        as_of: Option<Moment>,
    ) -> Result<Vec<Standing>, Failure> {
        let facts: Vec<&str> = ROW_FACTS.iter().chain(&ENTRY_FACTS).copied().collect();
        let mask = (!with_content).then_some(facts.as_slice());
        let at_once = if with_content { TEXTS_AT_ONCE } else { NAMES_AT_ONCE };
        let mut standings = Vec::with_capacity(ids.len());
        for some in ids.chunks(at_once) {
            let pair = |id: &RecordId| [ENTRIES, FILES].map(|at| self.document(at, &document_name(id)));
            let names: Vec<String> = some.iter().flat_map(pair).collect();
            let mut documents = self.documents(&names, mask, as_of).await?.into_iter();
            for id in some {
                let (entry, file) = (documents.next().flatten(), documents.next().flatten());
                let entry = entry.map(|entry| Entry::parse(&entry).ok_or_else(|| spoilt(id))).transpose()?;
                standings.push(Standing::new(id.clone(), entry, file));
            }
        }
        self.find_elsewhere(&mut standings, mask, as_of).await?;
        Ok(standings)
    }

    /// Reads the rows that stand under a name of somebody else's choice.
    async fn find_elsewhere(
        &self,
        standings: &mut [Standing],
        mask: Option<&[&str]>,
        as_of: Option<Moment>,
    ) -> Result<(), Failure> {
        for standing in standings {
            let Some(file) = standing.entry.as_ref().and_then(|entry| entry.file.clone()) else { continue };
            let names = [self.document(FILES, &file)];
            let document = self.documents(&names, mask, as_of).await?.pop().flatten();
            *standing = Standing::new(standing.id.clone(), standing.entry.take(), document);
        }
        Ok(())
    }

    /// Records as they stand, also those whose row stands under a name that nobody noted yet.
    pub(super) async fn standings_anywhere(
        &self,
        ids: &[RecordId],
        with_content: bool,
    ) -> Result<Vec<Standing>, Failure> {
        let mut standings = self.standings(ids, with_content, None).await?;
        let is_open = |standing: &&mut Standing| {
            standing.file.is_none() && standing.entry.as_ref().is_none_or(|entry| !entry.is_plain())
        };
        let mut open: Vec<&mut Standing> = standings.iter_mut().filter(is_open).collect();
        for some in open.chunks_mut(PATHS_AT_ONCE) {
            let mut by_app: BTreeMap<String, Vec<&mut Standing>> = BTreeMap::new();
            for standing in some {
                let (app, ..) = standing.id.parts().unwrap_or_default();
                by_app.entry(app).or_default().push(standing);
            }
            for (app, standings) in by_app {
                self.find_by_path(&app, standings, with_content).await?;
            }
        }
        Ok(standings)
    }

    async fn find_by_path(&self, app: &str, standings: Vec<&mut Standing>, with_content: bool) -> Result<(), Failure> {
        let path = |standing: &&mut Standing| text(&standing.id.parts().unwrap_or_default().2);
        let paths: Vec<Value> = standings.iter().map(path).collect();
        let filters =
            [compare("app", "EQUAL", text(app)), compare("path", "IN", json!({ "arrayValue": { "values": paths } }))];
        let mut query = json!({ "where": { "compositeFilter": { "op": "AND", "filters": filters } } });
        if !with_content {
            let fields: Vec<Value> = ROW_FACTS.iter().map(|name| json!({ "fieldPath": name })).collect();
            query["select"] = json!({ "fields": fields });
        }
        let found = self.query(FILES, query, QUERY_ROWS, None).await?;
        for standing in standings {
            let row = found.documents.iter().find(|document| document.record_id().as_ref() == Some(&standing.id));
            if let Some(row) = row {
                *standing = Standing::new(standing.id.clone(), standing.entry.take(), Some(row.clone()));
            }
        }
        Ok(())
    }

    pub(super) async fn rows(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, Failure> {
        let standings = self.standings_anywhere(ids, true).await?;
        Ok(standings.iter().map(|standing| standing.row(true).filter(|_| standing.is_there())).collect())
    }

    /// What some entries mean together with their rows, in their order.
    async fn rows_of(&self, entries: Vec<Entry>, with_content: bool, as_of: Moment) -> Result<Vec<Row>, Failure> {
        let facts: Vec<&str> = ROW_FACTS.to_vec();
        let mask = (!with_content).then_some(facts.as_slice());
        let at_once = if with_content { TEXTS_AT_ONCE } else { NAMES_AT_ONCE };
        let mut rows = Vec::with_capacity(entries.len());
        for some in entries.chunks(at_once) {
            let asked: Vec<&Entry> = some.iter().filter(|entry| !entry.is_plain()).collect();
            let names: Vec<String> = asked.iter().map(|entry| self.document(FILES, &entry.file_name())).collect();
            let mut documents = self.documents(&names, mask, Some(as_of)).await?.into_iter();
            for entry in some {
                let file = if entry.is_plain() { None } else { documents.next().flatten() };
                rows.extend(Standing::new(entry.id.clone(), Some(entry.clone()), file).row(with_content));
            }
        }
        Ok(rows)
    }

    pub(super) async fn changes(&self, query: &Query, place: Place, limit: usize) -> Result<Page, Failure> {
        let Place { instance, told, scan, mut position } = place;
        let (mut read_time, mut chosen, mut more) = (None, Vec::new(), false);
        loop {
            // One more than fits, so that `more` is known.
            let asked = QUERY_ROWS.min(limit + 1);
            let found = self.changed_after(told, position.as_ref(), asked, read_time).await?;
            let as_of = *read_time.get_or_insert(found.read_time);
            if as_of < told {
                // A database that was set back: what it knows now is told from the beginning.
                return Box::pin(self.changes(query, Place::start(instance), limit)).await;
            }
            let full = found.documents.len() == asked;
            for document in found.documents {
                let at = super::value::moment_of(&document.fields, CHANGED_AT).unwrap_or(Moment::START);
                let entry = Entry::parse(&document).filter(|entry| is_of(query, &entry.id));
                if let Some(entry) = entry.filter(|entry| told < entry.update_time) {
                    if chosen.len() == limit {
                        more = true;
                        break;
                    }
                    chosen.push(entry);
                }
                position = Some((at, document.name));
            }
            if more || !full {
                let begun = scan.unwrap_or(as_of);
                let rows = self.rows_of(chosen, query.with_content, as_of).await?;
                let place = match position.filter(|_| more) {
                    Some(position) => Place { instance, told, scan: Some(begun), position: Some(position) },
                    None => Place { instance, told: begun, scan: None, position: None },
                };
                return Ok(Page { rows, cursor: place.cursor(), more });
            }
        }
    }

    /// Entries of every space in the order of `changed_at`, from before `told` or from where a page ended.
    async fn changed_after(
        &self,
        told: Moment,
        position: Option<&(Moment, String)>,
        limit: usize,
        as_of: Option<Moment>,
    ) -> Result<Found, Failure> {
        let ascending = |field: &str| json!({ "field": { "fieldPath": field }, "direction": "ASCENDING" });
        let mut query = json!({ "orderBy": [ascending(CHANGED_AT), ascending("__name__")] });
        match position {
            Some((at, name)) => {
                let name = json!({ "referenceValue": self.document(ENTRIES, name) });
                query["startAt"] = json!({ "values": [moment(*at), name], "before": false });
            }
            None => query["where"] = compare(CHANGED_AT, "GREATER_THAN_OR_EQUAL", moment(told.before(OVERLAP))),
        }
        self.query(ENTRIES, query, limit, as_of).await
    }

    /// Whether the space of `query` has a change that `place` does not know, and the place after it all.
    pub(super) async fn changed_since(&self, place: &Place) -> Result<(Vec<RecordId>, Place), Failure> {
        let (mut position, mut read_time, mut ids) = (None, None, Vec::new());
        loop {
            let found = self.changed_after(place.told, position.as_ref(), QUERY_ROWS, read_time).await?;
            let as_of = *read_time.get_or_insert(found.read_time);
            let full = found.documents.len() == QUERY_ROWS;
            for document in found.documents {
                let at = super::value::moment_of(&document.fields, CHANGED_AT).unwrap_or(Moment::START);
                if place.told < document.update_time {
                    ids.extend(Entry::parse(&document).map(|entry| entry.id));
                }
                position = Some((at, document.name));
            }
            if !full {
                return Ok((ids, Place { told: as_of, ..Place::start(place.instance.clone()) }));
            }
        }
    }

    pub(super) async fn paths(
        &self,
        query: &Query,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        instance: String,
    ) -> Result<Page, Failure> {
        let (field, lead) = match query.owner.as_deref() {
            Some(owner) => ("key", key(&query.app, owner, "")),
            None => ("listed", listed(&query.app, "")),
        };
        let mut listing = Listing {
            field,
            low: format!("{lead}{prefix}"),
            high: after_prefix(&format!("{lead}{prefix}")),
            passed: None,
        };
        if let Some(after) = after.filter(|after| prefix <= *after) {
            listing.passed = Some(format!("{lead}{after}"));
        }
        let (mut rows, mut read_time): (Vec<Row>, _) = (Vec::new(), None);
        loop {
            let asked = QUERY_ROWS.min((limit + 1).saturating_sub(rows.len()).max(2));
            let found = self.query(ENTRIES, listing.query(), asked, read_time).await?;
            let as_of = *read_time.get_or_insert(found.read_time);
            let full = found.documents.len() == asked;
            let mut entries: Vec<Entry> = found.documents.iter().filter_map(Entry::parse).collect();
            if full && query.owner.is_none() {
                // Rows of the last path may go on: they are all read with the next question.
                let last = entries.last().and_then(path_of);
                let whole: Vec<Entry> = entries.iter().filter(|entry| path_of(entry) != last).cloned().collect();
                entries = if whole.is_empty() { self.all_of_path(&listing, &entries, as_of).await? } else { whole };
            }
            if let Some(path) = entries.last().and_then(path_of) {
                listing.passed = Some(format!("{lead}{path}"));
            }
            let starts = |row: &Row| row.path.starts_with(prefix) && row.content != RowContent::Absent;
            rows.extend(self.rows_of(entries, query.with_content, as_of).await?.into_iter().filter(starts));
            rows.sort_by(|a, b| (&a.path, &a.owner).cmp(&(&b.path, &b.owner)));
            let end = end_between_paths(&rows, limit);
            if !full || end < rows.len() {
                let more = end < rows.len();
                rows.truncate(end);
                let place = Place { told: as_of, ..Place::start(instance) };
                return Ok(Page { rows, cursor: place.cursor(), more });
            }
        }
    }

    /// The rows of one path that more owners have than one question answers.
    async fn all_of_path(&self, listing: &Listing, some: &[Entry], as_of: Moment) -> Result<Vec<Entry>, Failure> {
        let Some(entry) = some.last() else { return Ok(Vec::new()) };
        let (app, _, path) = entry.id.parts().unwrap_or_default();
        let query = json!({ "where": compare(listing.field, "EQUAL", text(&listed(&app, &path))) });
        let found = self.query(ENTRIES, query, 10 * QUERY_ROWS, Some(as_of)).await?;
        Ok(found.documents.iter().filter_map(Entry::parse).collect())
    }

    pub(super) async fn chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, Failure> {
        let missing = || Failure::new(ErrorKind::NotFound, "there are none");
        let mut before = None;
        for _ in 0..CHUNK_TRIES {
            let standing = self.standings(std::slice::from_ref(id), false, None).await?.pop().ok_or_else(strange)?;
            let entry = standing.entry.filter(|entry| entry.kind == Kind::Chunks).ok_or_else(missing)?;
            if standing.file.is_some() {
                return Err(missing());
            }
            if let Some(chunks) = self.chunks_in(&entry, first as usize, count as usize).await? {
                return Ok(chunks);
            }
            if before == Some(entry.update_time) {
                return Err(Failure::new(
                    ErrorKind::Corrupt,
                    "some of them are missing; the next write puts them right",
                ));
            }
            // The record was written anew while it was read.
            before = Some(entry.update_time);
        }
        Err(Failure::new(ErrorKind::Unavailable, "others keep writing it"))
    }

    /// `None` if a piece is not there.
    async fn chunks_in(&self, entry: &Entry, first: usize, count: usize) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let (wanted, before) = spanning(entry.pieces.iter().map(|piece| piece.sizes.len()), first, count);
        let chunks = self.contents(&entry.pieces[wanted]).await?;
        Ok(chunks.map(|chunks| chunks.into_iter().skip(first - before.min(first)).take(count).collect()))
    }
}

impl Caller {
    /// The chunks of some pieces; `None` if one is not there.
    pub(super) async fn contents(&self, pieces: &[Piece]) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let mut chunks = Vec::new();
        for some in pieces.chunks(PIECES_AT_ONCE) {
            let names: Vec<String> = some.iter().map(|piece| self.document(PIECES, &piece.name)).collect();
            for (piece, document) in some.iter().zip(self.documents(&names, None, None).await?) {
                let Some(whole) = document.and_then(|document| chunks_of(piece, &document)) else { return Ok(None) };
                chunks.extend(whole);
            }
        }
        Ok(Some(chunks))
    }
}

/// A range of a listing.
struct Listing {
    field: &'static str,
    low: String,
    high: String,
    /// Everything up to here is behind us.
    passed: Option<String>,
}

impl Listing {
    fn query(&self) -> Value {
        let from = match &self.passed {
            Some(passed) => compare(self.field, "GREATER_THAN", text(passed)),
            None => compare(self.field, "GREATER_THAN_OR_EQUAL", text(&self.low)),
        };
        let until = compare(self.field, "LESS_THAN", text(&self.high));
        json!({
            "where": { "compositeFilter": { "op": "AND", "filters": [from, until] } },
            "orderBy": [{ "field": { "fieldPath": self.field }, "direction": "ASCENDING" }],
        })
    }
}

pub(super) fn compare(field: &str, op: &str, value: Value) -> Value {
    json!({ "fieldFilter": { "field": { "fieldPath": field }, "op": op, "value": value } })
}

fn path_of(entry: &Entry) -> Option<String> {
    entry.id.parts().map(|(_, _, path)| path)
}

fn is_of(query: &Query, id: &RecordId) -> bool {
    let Some((app, owner, _)) = id.parts() else { return false };
    app == query.app && query.owner.as_ref().is_none_or(|wanted| *wanted == owner)
}

/// Where sorted rows are cut after `limit`, but never between two rows of one path.
fn end_between_paths(rows: &[Row], limit: usize) -> usize {
    let mut end = limit.min(rows.len());
    while 0 < end && end < rows.len() && rows[end].path == rows[end - 1].path {
        end += 1;
    }
    end
}

fn read_time_of(parts: &[Value]) -> Option<Moment> {
    parts.iter().filter_map(|part| Moment::parse(part.get("readTime")?.as_str()?)).max()
}

pub(super) fn strange() -> Failure {
    Failure::new(ErrorKind::Corrupt, "what answers is not Firestore (an answer without its parts); check the address")
}

fn spoilt(id: &RecordId) -> Failure {
    let said =
        format!("its entry in {ENTRIES} is not as Larder writes it ({id}); delete it to have the row taken as new");
    Failure::new(ErrorKind::Corrupt, said)
}

/// A place in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Names this very database.
    instance: String,
    /// Everything that was committed up to here was told.
    told: Moment,
    /// When the pages that are under way began.
    scan: Option<Moment>,
    /// The last entry of the page before.
    position: Option<(Moment, String)>,
}

impl Place {
    pub(super) fn start(instance: String) -> Place {
        Place { instance, told: Moment::START, scan: None, position: None }
    }

    /// A cursor of another database, or that nobody gave out, is the start.
    pub(super) fn of(cursor: &Cursor, instance: &str) -> Place {
        Place::parse(cursor.as_str(), instance).unwrap_or_else(|| Place::start(instance.to_owned()))
    }

    fn parse(cursor: &str, instance: &str) -> Option<Place> {
        let mut parts = cursor.splitn(5, '.');
        let named = parts.next().filter(|named| *named == instance)?;
        let start = Place { told: Moment::from_text(parts.next()?)?, ..Place::start(named.to_owned()) };
        let Some(scan) = parts.next() else { return Some(start) };
        let position = (Moment::from_text(parts.next()?)?, parts.next()?.to_owned());
        Some(Place { scan: Some(Moment::from_text(scan)?), position: Some(position), ..start })
    }

    pub(super) fn cursor(&self) -> Cursor {
        let mut text = format!("{}.{}", self.instance, self.told.as_text());
        if let (Some(scan), Some((at, name))) = (self.scan, &self.position) {
            text.push_str(&format!(".{}.{}.{name}", scan.as_text(), at.as_text()));
        }
        Cursor::from_text(text)
    }

    /// The place after everything up to `told`.
    pub(super) fn at(self, told: Moment) -> Place {
        Place { told, ..self }
    }

    pub(super) fn told(&self) -> Moment {
        self.told
    }

    pub(super) fn is_start(&self) -> bool {
        self.told == Moment::START && self.position.is_none()
    }

    pub(super) fn is_between_pages(&self) -> bool {
        self.position.is_some()
    }
}
