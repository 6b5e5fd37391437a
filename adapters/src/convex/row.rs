//! Records as the functions show them, and writes as they take them.
//!
//! Invariant: a revision and a cursor name the deployment, so that another one's never match. What an answer lacks is `Corrupt`, not guessed.

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};

use super::call::Failure;
use crate::stamp;
use crate::{Body, Cursor, ErrorKind, Expected, MirrorEntry, Record, RecordId, Revision, Row, RowContent, Write};

/// A piece holds chunks up to this together: as base64 it stays below a document's 1 MiB.
pub(super) const PIECE_BYTES: usize = 700 * 1024;

/// A piece of a content: its name and the lengths of the chunks in it that count.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) sizes: Vec<u64>,
}

pub(super) fn strange() -> Failure {
    Failure::new(ErrorKind::Corrupt, "the functions answer something else; deploy those of this release")
}

/// A number as JSON of Convex writes it.
pub(super) fn number(value: &Value, name: &str) -> Option<u64> {
    let value = value.get(name)?;
    value.as_u64().or_else(|| value.as_f64().filter(|n| 0.0 <= *n && n.fract() == 0.0).map(|n| n as u64))
}

pub(super) fn revision(instance: &str, change: u64) -> Revision {
    Revision::new(format!("{instance}.{change}"))
}

pub(super) fn cursor(instance: &str, place: u64) -> Cursor {
    Cursor::from_text(format!("{instance}.{place}"))
}

/// The change that a cursor stands after; the start if it is of another deployment, or of a later state than this one's.
pub(super) fn place_of(cursor: &Cursor, instance: &str, newest: u64) -> u64 {
    let place = cursor.as_str().rsplit_once('.').filter(|(named, _)| *named == instance);
    place.and_then(|(_, place)| place.parse().ok()).filter(|place| *place <= newest).unwrap_or(0)
}

pub(super) fn pieces_of(row: &Value) -> Option<Vec<Piece>> {
    let piece = |piece: &Value| {
        let sizes = piece.get("sizes")?.as_array()?.iter().map(|size| number(&json!({ "n": size }), "n"));
        Some(Piece { name: piece.get("name")?.as_str()?.to_owned(), sizes: sizes.collect::<Option<_>>()? })
    };
    row.get("pieces")?.as_array()?.iter().map(piece).collect()
}

/// Reads one record.
pub(super) fn row_of(shown: &Value, instance: &str, with_content: bool) -> Option<Row> {
    let id = RecordId::parse(shown.get("id")?.as_str()?)?;
    let (app, owner, path) = id.parts()?;
    let change = number(shown, "change")?;
    let content = match shown.get("kind")?.as_str()? {
        "gone" => RowContent::Absent,
        "chunks" => {
            let pieces = pieces_of(shown)?;
            let sizes = || pieces.iter().flat_map(|piece| &piece.sizes);
            RowContent::Chunked { chunk_count: sizes().count() as u32, size_bytes: sizes().sum() }
        }
        _ if !with_content => RowContent::Unread,
        _ => match shown.get("content")?.as_str()? {
            text if text.contains('\0') => RowContent::Invalid("content holds a NUL".to_owned()),
            text => RowContent::Text(text.to_owned()),
        },
    };
    let mirrored = number(shown, "mirroredChange");
    let mirror = shown.get("version").and_then(Value::as_str).map(|version| {
        let hash =
            shown.get("contentHash").and_then(Value::as_str).and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        // A hash of another length was not written by us and matches nothing.
        let content_hash = hash.and_then(|hash| hash.try_into().ok()).unwrap_or([0; 32]);
        MirrorEntry { version: version.to_owned(), content_hash }
    });
    Some(Row {
        id,
        app,
        owner,
        path,
        content,
        revision: revision(instance, change),
        mirrored_revision: mirrored.map(|change| revision(instance, change)),
        mirror,
        last_updated_ms: number(shown, "lastUpdatedMs").unwrap_or(0),
        created_at_ms: number(shown, "createdAtMs").unwrap_or(0),
    })
}

/// A write as the functions take it, and the pieces that have to be there before.
pub(super) struct Sending {
    pub(super) write: Value,
    pub(super) pieces: Vec<(String, String)>,
    /// Bytes of the write as it is sent.
    pub(super) bytes: usize,
}

impl Sending {
    /// `None` if what is expected can stand nowhere here: a revision of another deployment.
    pub(super) fn of(write: &Write, instance: &str) -> Option<Sending> {
        let (id, expected) = match write {
            Write::Set { record, expected } => (record.id(), expected),
            Write::Delete { id, expected } => (id.clone(), expected),
        };
        let (app, owner, path) = id.parts()?;
        let expected = match expected {
            Expected::Absent => json!({ "absent": true, "change": 0 }),
            Expected::Revision(revision) => {
                let (named, change) = revision.as_str().rsplit_once('.')?;
                let change: u64 = change.parse().ok().filter(|_| named == instance)?;
                json!({ "absent": false, "change": change })
            }
        };
        let (updated, created) = match write {
            Write::Set { record, .. } => (record.last_updated_ms, record.created_at_ms),
            Write::Delete { .. } => (0, 0),
        };
        let mut sent = json!({
            "app": app, "owner": owner, "path": path, "expected": expected, "kind": "delete",
            "lastUpdatedMs": updated, "createdAtMs": created,
            "lastUpdated": stamp::format(updated), "createdAt": stamp::format(created),
        });
        let (mut pieces, mut bytes) = (Vec::new(), 1_000 + 2 * id.as_str().len());
        if let Write::Set { record, .. } = write {
            if let Some(mirror) = &record.mirror {
                sent["version"] = json!(mirror.version);
                sent["contentHash"] = json!(HEXLOWER.encode(&mirror.content_hash));
            }
            match &record.body {
                Body::Text(text) => {
                    (sent["kind"], sent["text"]) = (json!("text"), json!(text));
                    bytes += sent["text"].to_string().len();
                }
                Body::Chunks { keep, add } => {
                    let (listed, packed) = pack(record, add);
                    (sent["kind"], sent["keep"], sent["pieces"]) = (json!("chunks"), json!(keep), listed);
                    bytes += 12 * add.len();
                    pieces = packed;
                }
            }
        }
        Some(Sending { write: sent, pieces, bytes })
    }
}

/// Puts chunks into pieces as large as a document may be: the list, and each piece's name and base64.
fn pack(record: &Record, chunks: &[Vec<u8>]) -> (Value, Vec<(String, String)>) {
    let id = record.id();
    let packed = crate::pieces::pack(chunks, PIECE_BYTES).into_iter();
    let named: Vec<(String, Vec<usize>, Vec<u8>)> =
        packed.map(|(sizes, bytes)| (crate::pieces::name(&id, &bytes), sizes, bytes)).collect();
    let listed = named.iter().map(|(name, sizes, _)| json!({ "name": name, "sizes": sizes })).collect();
    (listed, named.into_iter().map(|(name, _, bytes)| (name, BASE64.encode(&bytes))).collect())
}

/// The chunks of a piece that count.
pub(super) fn chunks_of(piece: &Piece, data: &str) -> Option<Vec<Vec<u8>>> {
    let bytes = BASE64.decode(data.as_bytes()).ok()?;
    crate::pieces::cut(&bytes, piece.sizes.iter().map(|size| *size as usize))
}
