//! What the functions of the API are told and answer, as JSON.
//!
//! Invariant: numbers that can pass 2^53 are texts; bytes are base64. What is missing in an answer is an error, never a default that means
//! something.

use serde::Deserialize;
use serde_json::{Value, json};

use super::FOREIGN_TEXT_LIMIT_BYTES;
use crate::postgres::read::{numbered, revision};
use crate::{
    AdapterError, Body, ErrorKind, Expected, MirrorEntry, Record, RecordId, Revision, Row, RowContent, SHARED_OWNER,
    batch_delete_revision, stamp,
};

#[derive(Deserialize)]
pub(super) struct Hello {
    pub api: u32,
    pub instance: String,
    pub owner: Option<String>,
    pub triggers: u32,
}

#[derive(Deserialize)]
pub(super) struct Changed {
    pub seen: String,
    pub apps: Vec<String>,
}

/// A page.
#[derive(Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    pub unknown: bool,
    #[serde(default)]
    pub seen: String,
    /// Names the database, as `larder_hello` does; empty where nobody asked that since it was made. Older functions do not tell it.
    #[serde(default)]
    pub instance: Option<String>,
    #[serde(default)]
    pub more: bool,
    #[serde(default)]
    pub rows: Vec<Found>,
}

/// A record as it stands.
#[derive(Deserialize)]
pub(super) struct Found {
    pub id: String,
    xid: String,
    n: String,
    revision: Option<String>,
    version: Option<String>,
    hash: Option<String>,
    is_text: bool,
    size: Option<u64>,
    content: Option<String>,
    updated: Option<String>,
    created: Option<String>,
    chunk_count: Option<u32>,
    size_bytes: Option<u64>,
}

impl Found {
    /// Its transaction and number.
    pub fn place(&self) -> Option<(u64, i64)> {
        Some((self.xid.parse().ok()?, self.n.parse().ok()?))
    }

    /// The row; the inner `None` if it names nothing, the outer if it makes no sense.
    pub fn row(self, id: RecordId, instance: &str, with_content: bool) -> Option<Option<Row>> {
        let Some((app, owner, path)) = id.parts() else { return Some(None) };
        let change: i64 = self.n.parse().ok()?;
        let mirrored = match &self.revision {
            Some(number) => Some(number.parse::<i64>().ok()?),
            None => None,
        };
        let stamp = |text: &Option<String>| text.as_deref().map_or(0, stamp::parse);
        let (last_updated_ms, created_at_ms) = (stamp(&self.updated), stamp(&self.created));
        let hash = self.hash.as_deref().and_then(|hash| data_encoding::HEXLOWER.decode(hash.as_bytes()).ok());
        let entry = |version| MirrorEntry {
            version,
            // A hash of another length was not written by us and matches nothing.
            content_hash: hash.and_then(|hash| hash.try_into().ok()).unwrap_or([0; 32]),
        };
        let mirror = mirrored.and(self.version).map(entry);
        let content = match (self.is_text, self.chunk_count) {
            (true, _) if !with_content => RowContent::Unread,
            (true, _) => match (self.size, self.content) {
                (None, _) => RowContent::Invalid("content is null, not text".to_owned()),
                (Some(_), Some(text)) => RowContent::Text(text),
                (Some(size), None) => {
                    RowContent::Invalid(format!("content of {size} bytes, the limit is {FOREIGN_TEXT_LIMIT_BYTES}"))
                }
            },
            (false, Some(chunk_count)) => RowContent::Chunked { chunk_count, size_bytes: self.size_bytes? },
            (false, None) => RowContent::Absent,
        };
        Some(Some(Row {
            app,
            owner,
            path,
            content,
            revision: revision(instance, change),
            mirrored_revision: mirror.as_ref().and(mirrored).map(|change| revision(instance, change)),
            mirror,
            last_updated_ms,
            created_at_ms,
            id,
        }))
    }
}

/// What became of one item.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    pub held: bool,
    n: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    missing: bool,
    conflict: Option<String>,
    refused: Option<String>,
    why: Option<String>,
}

impl Answer {
    pub fn told(self, id: &RecordId, instance: &str) -> Result<Revision, AdapterError> {
        let error = |kind, why: String| Err(AdapterError::new(kind, format!("write {id}: {why}")));
        if let Some(change) = self.n.and_then(|n| n.parse().ok()) {
            return Ok(revision(instance, change));
        }
        if self.deleted {
            return Ok(batch_delete_revision());
        }
        if self.missing {
            return Err(AdapterError::new(ErrorKind::NotFound, format!("delete {id}: it is gone already")));
        }
        if let Some(found) = self.conflict {
            return Err(AdapterError::conflict(id, &found));
        }
        let why = self.why.unwrap_or_default();
        match self.refused.as_deref() {
            // Of this row alone; a key that may write nothing was told so when it was tried first.
            Some("42501") => {
                error(ErrorKind::Unsupported, format!("the project's rules refuse it to this key ({why})"))
            }
            Some(code) if code.starts_with("54") || code.starts_with("22") => error(ErrorKind::TooLarge, why),
            _ => error(ErrorKind::Corrupt, "its answer makes no sense".to_owned()),
        }
    }
}

/// One item of `larder_write`.
pub(super) fn item(id: &RecordId, record: Option<&Record>, expected: &Expected, instance: &str) -> Value {
    let (absent, n) = match expected {
        Expected::Absent => (true, -1),
        // A revision of elsewhere fits nothing.
        Expected::Revision(revision) => (false, numbered(revision, instance).unwrap_or(-1)),
    };
    let mut item = json!({ "op": "delete", "id": id.as_str(), "absent": absent, "n": n.to_string() });
    let Some(record) = record else { return item };
    item["path"] = json!(record.path);
    item["app"] = json!(record.app);
    item["owner"] = json!(if record.owner.is_empty() { SHARED_OWNER } else { &record.owner });
    item["updated"] = json!(stamp::format(record.last_updated_ms));
    item["created"] = json!(stamp::format(record.created_at_ms));
    if let Some(mirror) = &record.mirror {
        item["version"] = json!(mirror.version);
        item["hash"] = json!(data_encoding::HEXLOWER.encode(&mirror.content_hash));
    }
    match &record.body {
        Body::Text(text) => {
            item["op"] = json!("text");
            item["text"] = json!(text);
        }
        Body::Chunks { keep, add } => {
            item["op"] = json!("chunks");
            item["keep"] = json!(keep);
            item["bytes"] = json!(add.iter().map(Vec::len).sum::<usize>());
            item["add"] = add.iter().map(|chunk| json!(data_encoding::BASE64.encode(chunk))).collect();
        }
    }
    item
}
