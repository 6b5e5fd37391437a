//! Edits by programs that know only `files`: seen, and noted in the record's entry so that every reader's feed tells of them.
//!
//! A row that carries the service's own timestamp in `last_updated` is found by asking for newer ones; any other, and each deletion, by
//! looking through all rows of an app. Invariant: a note is written only over the entry that was read, and changes neither the row nor
//! what the entry projects. Whoever looks through the rows says so in the database, so that many machines do it as often as one.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::call::Caller;
use super::entry::{ENTRIES, Entry, FILES, Kind, Standing, listed};
use super::failure::{Failure, What};
use super::name::document_name;
use super::read::{OVERLAP, compare, strange};
use super::value::{Moment, moment, moment_of, text};
use crate::RecordId;
use crate::record::after_prefix;

pub(super) const STORE: &str = "file_store";
const INSTANCE: &str = "instance";
const SWEPT_AT: &str = "swept_at";
const PAGE_ROWS: usize = 1_000;
/// Records read and noted at once.
const NOTES_AT_ONCE: usize = 100;

/// A record whose row may be somebody else's, and the document it was seen in, if it was.
type Seen = (RecordId, Option<String>);

impl Caller {
    /// What names this very database: made once, by whoever comes first.
    pub(super) async fn instance(&self) -> Result<String, Failure> {
        if let Some(found) = self.one(STORE, INSTANCE).await? {
            return Ok(self.named(found.create_time));
        }
        let made = json!({
            "update": { "name": self.document(STORE, INSTANCE), "fields": { "made_by": text("larder") } },
            "currentDocument": { "exists": false },
        });
        match self.ask("commit", &json!({ "writes": [made] })).await {
            Ok(_) => {}
            Err(failure) if failure.what == What::Precondition => {}
            Err(failure) => return Err(failure),
        }
        let found = self.one(STORE, INSTANCE).await?.ok_or_else(strange)?;
        Ok(self.named(found.create_time))
    }

    fn named(&self, made: Moment) -> String {
        let named = format!("{} {}", self.database(), made.as_text());
        blake3::hash(named.as_bytes()).to_hex()[..12].to_owned()
    }

    /// Whether it is ours to look through an app's rows now; if not, how long until it is due.
    pub(super) async fn claim_sweep(&self, app: &str, every: Duration) -> Result<Result<(), Duration>, Failure> {
        let name = format!("sweep:{}", document_name(&RecordId::new(app, "", "rows")));
        let found = self.query(STORE, json!({ "where": compare("sweep", "EQUAL", text(&name)) }), 1, None).await?;
        let last = found.documents.first();
        let swept_at = last.and_then(|document| moment_of(&document.fields, SWEPT_AT)).unwrap_or(Moment::START);
        let ago = found.read_time.since(swept_at);
        if ago < every {
            return Ok(Err(every - ago));
        }
        let seen =
            last.map_or(json!({ "exists": false }), |last| json!({ "updateTime": last.update_time.to_string() }));
        let claim = json!({
            "update": { "name": self.document(STORE, &name), "fields": { "sweep": text(&name) } },
            "updateTransforms": [{ "fieldPath": SWEPT_AT, "setToServerValue": "REQUEST_TIME" }],
            "currentDocument": seen,
        });
        match self.ask("commit", &json!({ "writes": [claim] })).await {
            Ok(_) => Ok(Ok(())),
            Err(failure) if matches!(failure.what, What::Precondition | What::Aborted) => Ok(Err(every)),
            Err(failure) => Err(failure),
        }
    }

    /// Notes the rows that carry a stamp of the service after `told`.
    pub(super) async fn note_stamped(&self, told: Moment) -> Result<usize, Failure> {
        let mut seen: Vec<Seen> = Vec::new();
        let mut after: Option<(Moment, String)> = None;
        loop {
            let mut query = json!({
                "select": { "fields": fields(&["app", "owner_id", "path", "last_updated"]) },
                "orderBy": [ascending("last_updated"), ascending("__name__")],
                "where": compare("last_updated", "GREATER_THAN_OR_EQUAL", moment(told.before(OVERLAP))),
            });
            if let Some((at, name)) = &after {
                let name = json!({ "referenceValue": self.document(FILES, name) });
                query["startAt"] = json!({ "values": [moment(*at), name], "before": false });
            }
            let found = self.query(FILES, query, PAGE_ROWS, None).await?;
            let full = found.documents.len() == PAGE_ROWS;
            for document in found.documents {
                let at = moment_of(&document.fields, "last_updated").unwrap_or(Moment::START);
                if told < document.update_time {
                    seen.extend(document.record_id().map(|id| (id, Some(document.name.clone()))));
                }
                after = Some((at, document.name));
            }
            if !full {
                return self.note(seen).await;
            }
        }
    }

    /// Looks through all rows of an app and notes what others changed.
    pub(super) async fn sweep(&self, app: &str) -> Result<usize, Failure> {
        // Entries first: what Larder writes meanwhile changes its entry, and a note over the one read here fails.
        let mut entries: HashMap<RecordId, Entry> = HashMap::new();
        let from = listed(app, "");
        let until = after_prefix(&from);
        let mut passed: Option<(String, String)> = None;
        loop {
            let bounds =
                [compare("row", "GREATER_THAN_OR_EQUAL", text(&from)), compare("row", "LESS_THAN", text(&until))];
            let mut query = json!({
                "where": { "compositeFilter": { "op": "AND", "filters": bounds } },
                "orderBy": [ascending("row"), ascending("__name__")],
            });
            if let Some((row, name)) = &passed {
                let name = json!({ "referenceValue": self.document(ENTRIES, name) });
                query["startAt"] = json!({ "values": [text(row), name], "before": false });
            }
            let found = self.query(ENTRIES, query, PAGE_ROWS, None).await?;
            let full = found.documents.len() == PAGE_ROWS;
            for document in found.documents {
                let row = super::value::text_of(&document.fields, "row").unwrap_or_default().to_owned();
                entries.extend(Entry::parse(&document).map(|entry| (entry.id.clone(), entry)));
                passed = Some((row, document.name));
            }
            if !full {
                break;
            }
        }
        let seen = self.changed_rows(app, entries).await?;
        self.note(seen).await
    }

    /// The records whose row is not what their entry says, or that have none.
    async fn changed_rows(&self, app: &str, mut entries: HashMap<RecordId, Entry>) -> Result<Vec<Seen>, Failure> {
        let mut seen: Vec<Seen> = Vec::new();
        let mut met: HashMap<RecordId, ()> = HashMap::new();
        let mut passed: Option<String> = None;
        loop {
            let mut query = json!({
                "select": { "fields": fields(&["app", "owner_id", "path"]) },
                "where": compare("app", "EQUAL", text(app)),
                "orderBy": [ascending("__name__")],
            });
            if let Some(name) = &passed {
                let name = json!({ "referenceValue": self.document(FILES, name) });
                query["startAt"] = json!({ "values": [name], "before": false });
            }
            let found = self.query(FILES, query, PAGE_ROWS, None).await?;
            let full = found.documents.len() == PAGE_ROWS;
            for document in found.documents {
                passed = Some(document.name.clone());
                let Some(id) = document.record_id() else { continue };
                let name = document.name.clone();
                let known = entries.get(&id).filter(|entry| entry.file_name() == name);
                let is_told = known.is_some_and(|entry| {
                    let standing = Standing::new(id.clone(), Some(entry.clone()), Some(document));
                    !standing.is_foreign() || entry.noted.as_ref() == Some(&standing.row_state())
                });
                if known.is_some() {
                    met.insert(id.clone(), ());
                }
                if !is_told {
                    seen.push((id, Some(name)));
                }
            }
            if !full {
                break;
            }
        }
        entries.retain(|id, entry| !met.contains_key(id) && entry.noted.as_deref() != Some("gone"));
        seen.extend(entries.into_keys().map(|id| (id, None)));
        Ok(seen)
    }

    /// Notes what is to be told of some records. Returns how many were.
    async fn note(&self, seen: Vec<Seen>) -> Result<usize, Failure> {
        let mut noted = 0;
        for some in seen.chunks(NOTES_AT_ONCE) {
            let ids: Vec<RecordId> = some.iter().map(|(id, _)| id.clone()).collect();
            let standings = self.standings(&ids, false, None).await?;
            let mut writes = Vec::new();
            for (standing, (_, name)) in standings.into_iter().zip(some) {
                writes.extend(self.note_of(standing, name.as_deref()).await?);
            }
            noted += writes.len();
            self.write_notes(writes).await?;
        }
        Ok(noted)
    }

    /// The writes that tell of one record; `None` if there is nothing to tell.
    async fn note_of(&self, standing: Standing, name: Option<&str>) -> Result<Option<Vec<Value>>, Failure> {
        let expected = standing.file.as_ref().map(|file| file.name.clone());
        let usual = standing.entry.as_ref().map_or_else(|| document_name(&standing.id), Entry::file_name);
        let elsewhere = name.filter(|name| *name != expected.as_ref().unwrap_or(&usual));
        let mut standing = standing;
        let mut writes = Vec::new();
        if let Some(name) = elsewhere {
            if standing.file.is_some() && standing.is_foreign() {
                // Two foreign rows of one file: the other one is taken in first, and this one by the next look.
                return Ok(None);
            }
            let Some(found) = self.one(FILES, name).await? else { return Ok(None) };
            // The row written last stands, under its own name; what we wrote is in the ledger.
            if let Some(file) = &standing.file {
                let seen = json!({ "updateTime": file.update_time.to_string() });
                writes.push(json!({ "delete": self.document(FILES, &file.name), "currentDocument": seen }));
            }
            let mut entry = standing.entry.take().unwrap_or_else(|| Entry::new(standing.id.clone(), Kind::Gone));
            entry.file = Some(name.to_owned());
            standing = Standing { file: Some(found), ..Standing::new(standing.id.clone(), Some(entry), None) };
        }
        if elsewhere.is_none()
            && (!standing.is_foreign() && standing.entry.as_ref().is_none_or(|e| e.kind != Kind::Foreign))
        {
            return Ok(None);
        }
        let state = standing.row_state();
        if standing.entry.as_ref().is_some_and(|entry| entry.noted.as_ref() == Some(&state)) {
            return Ok(None);
        }
        writes.push(self.noted_entry(&standing, state));
        Ok(Some(writes))
    }

    fn noted_entry(&self, standing: &Standing, state: String) -> Value {
        let seen = standing.entry.as_ref().map(|entry| entry.update_time).filter(|time| *time != Moment::START);
        let old = standing.entry.clone().unwrap_or_else(|| Entry::new(standing.id.clone(), Kind::Gone));
        let kind = match (old.kind, &standing.file) {
            (Kind::Gone | Kind::Foreign, Some(_)) => Kind::Foreign,
            (Kind::Gone | Kind::Foreign, None) => Kind::Gone,
            (kind, _) => kind,
        };
        let is_ours = matches!(kind, Kind::Text | Kind::Chunks);
        let written_at = is_ours.then(|| old.mirrored_at());
        let file = if kind == Kind::Gone { None } else { old.file.clone() };
        self.entry_write(&Entry { kind, written_at, file, noted: Some(state), ..old }, seen)
    }

    /// Each note is written, or somebody else wrote the record meanwhile, and then the next look judges anew.
    async fn write_notes(&self, notes: Vec<Vec<Value>>) -> Result<(), Failure> {
        let mut waiting = vec![notes];
        while let Some(mut notes) = waiting.pop().filter(|notes| !notes.is_empty()) {
            let writes: Vec<&Value> = notes.iter().flatten().collect();
            match self.ask("commit", &json!({ "writes": writes })).await {
                Ok(_) => {}
                Err(failure) if matches!(failure.what, What::Precondition | What::Aborted) => {
                    let half = notes.split_off(notes.len() / 2);
                    if !notes.is_empty() {
                        waiting.extend([half, notes]);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

fn ascending(field: &str) -> Value {
    json!({ "field": { "fieldPath": field }, "direction": "ASCENDING" })
}

fn fields(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "fieldPath": name })).collect()
}
