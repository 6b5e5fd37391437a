//! One record as it stands: the entry that Larder keeps in `file_mirror`, the row in `files`, and what the two mean together.
//!
//! Entry and row are written in one commit. Invariant: a row whose `updateTime` is not after the moment its entry was written holds what
//! was written then (a write that changes nothing keeps the older time); any later one is somebody else's. An entry may be touched
//! without the row, to tell of an edit that was seen: then `written_at` keeps the moment that counts.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::name::document_name;
use super::value::{Fields, Moment, bytes_of, count, count_of, kind_of, moment, moment_of, text, text_of};
use crate::record::escaped;
use crate::stamp;
use crate::{MirrorEntry, Record, RecordId, Revision, Row, RowContent, SHARED_OWNER};

pub(super) const FILES: &str = "files";
pub(super) const ENTRIES: &str = "file_mirror";
pub(super) const PIECES: &str = "file_chunks";
/// The field that a feed is read along; the service sets it.
pub(super) const CHANGED_AT: &str = "changed_at";
/// What a row that was deleted is noted as.
const GONE: &str = "gone";

/// A document as it was read.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The last part of its name.
    pub(super) name: String,
    pub(super) update_time: Moment,
    pub(super) create_time: Moment,
    pub(super) fields: Fields,
}

impl Document {
    /// Reads one as the service answers it.
    pub(super) fn parse(value: &Value) -> Option<Document> {
        let name = value.get("name")?.as_str()?.rsplit('/').next()?.to_owned();
        let time = |field: &str| Moment::parse(value.get(field)?.as_str()?);
        let fields = value.get("fields").and_then(Value::as_object).cloned().unwrap_or_default();
        Some(Document { name, update_time: time("updateTime")?, create_time: time("createTime")?, fields })
    }

    /// The record that a row of `files` says it is; `None` if it is none of ours.
    pub(super) fn record_id(&self) -> Option<RecordId> {
        let part = |name: &str| text_of(&self.fields, name).filter(|part| !part.is_empty() && !part.contains('\0'));
        Some(RecordId::new(part("app")?, part("owner_id").unwrap_or(SHARED_OWNER), part("path")?))
    }
}

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing any more.
    Gone,
    /// A row that somebody else made and we never wrote.
    Foreign,
    /// A row of `files`.
    Text,
    /// Pieces in `file_chunks`.
    Chunks,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Gone => GONE,
            Kind::Foreign => "foreign",
            Kind::Text => "text",
            Kind::Chunks => "chunks",
        }
    }
}

/// A document of `file_chunks` and the lengths of the chunks in it that count, from its first on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) sizes: Vec<u32>,
}

/// What Larder keeps of a record.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: RecordId,
    pub(super) kind: Kind,
    pub(super) mirror: Option<MirrorEntry>,
    /// The row's document, if its name is not the usual one.
    pub(super) file: Option<String>,
    /// When entry and row were written, if the entry was touched since.
    pub(super) written_at: Option<Moment>,
    /// The state of the row that was told of: its `updateTime`, or that it is gone.
    pub(super) noted: Option<String>,
    pub(super) pieces: Vec<Piece>,
    pub(super) last_updated_ms: u64,
    pub(super) created_at_ms: u64,
    /// When the entry was changed last; meaningless in one that is to be written.
    pub(super) update_time: Moment,
}

impl Entry {
    /// An entry about to be written for `id`.
    pub(super) fn new(id: RecordId, kind: Kind) -> Entry {
        Entry {
            id,
            kind,
            mirror: None,
            file: None,
            written_at: None,
            noted: None,
            pieces: Vec::new(),
            last_updated_ms: 0,
            created_at_ms: 0,
            update_time: Moment::START,
        }
    }

    pub(super) fn of_record(record: &Record, kind: Kind, pieces: Vec<Piece>) -> Entry {
        Entry {
            mirror: record.mirror.clone(),
            pieces,
            last_updated_ms: record.last_updated_ms,
            created_at_ms: record.created_at_ms,
            ..Entry::new(record.id(), kind)
        }
    }

    pub(super) fn parse(document: &Document) -> Option<Entry> {
        let fields = &document.fields;
        let kind = match text_of(fields, "kind")? {
            GONE => Kind::Gone,
            "foreign" => Kind::Foreign,
            "text" => Kind::Text,
            "chunks" => Kind::Chunks,
            _ => return None,
        };
        Some(Entry {
            id: RecordId::parse(text_of(fields, "id")?)?,
            kind,
            mirror: text_of(fields, "version").map(|version| mirror_entry(version, fields)),
            file: text_of(fields, "file").map(str::to_owned),
            written_at: moment_of(fields, "written_at"),
            noted: text_of(fields, "noted").map(str::to_owned),
            pieces: pieces_of(text_of(fields, "pieces").unwrap_or_default())?,
            last_updated_ms: count_of(fields, "last_updated").unwrap_or(0),
            created_at_ms: count_of(fields, "created_at").unwrap_or(0),
            update_time: document.update_time,
        })
    }

    /// The fields to be written; the service adds `changed_at`.
    pub(super) fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("id", text(self.id.as_str()));
        put("kind", text(self.kind.word()));
        if self.kind != Kind::Gone {
            // A deletion is in no listing, only in the feed.
            let (app, owner, path) = self.id.parts().unwrap_or_default();
            put("key", text(&key(&app, &owner, &path)));
            put("listed", text(&listed(&app, &path)));
            if self.kind != Kind::Chunks {
                put("row", text(&listed(&app, &path)));
            }
            put("last_updated", count(self.last_updated_ms));
            put("created_at", count(self.created_at_ms));
        }
        if let Some(mirror) = &self.mirror {
            put("version", text(&mirror.version));
            put("content_hash", text(&HEXLOWER.encode(&mirror.content_hash)));
        }
        if self.kind == Kind::Chunks {
            put("pieces", text(&pieces_text(&self.pieces)));
        }
        if let Some(file) = &self.file {
            put("file", text(file));
        }
        if let Some(written_at) = self.written_at {
            put("written_at", moment(written_at));
        }
        if let Some(noted) = &self.noted {
            put("noted", text(noted));
        }
        fields
    }

    /// When row and entry were written together.
    pub(super) fn mirrored_at(&self) -> Moment {
        self.written_at.unwrap_or(self.update_time)
    }

    /// The document of the row, whether it is there or not.
    pub(super) fn file_name(&self) -> String {
        self.file.clone().unwrap_or_else(|| document_name(&self.id))
    }

    /// Artifacts: nobody who knows only `files` can have to do with them.
    pub(super) fn is_plain(&self) -> bool {
        self.kind == Kind::Chunks && self.mirror.is_none()
    }
}

/// What listings of one owner are ordered by.
pub(super) fn key(app: &str, owner: &str, path: &str) -> String {
    let owner = if owner.is_empty() { SHARED_OWNER } else { owner };
    format!("{}:{}:{path}", escaped(app), escaped(owner))
}

/// What listings over every owner are ordered by.
pub(super) fn listed(app: &str, path: &str) -> String {
    format!("{}:{path}", escaped(app))
}

fn mirror_entry(version: &str, fields: &Fields) -> MirrorEntry {
    // A hash of another length was not written by us and matches nothing.
    let hash = text_of(fields, "content_hash").and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
    let content_hash = hash.and_then(|hash| hash.try_into().ok()).unwrap_or([0; 32]);
    MirrorEntry { version: version.to_owned(), content_hash }
}

/// `<name>:<length>,<length>;..`: short, and readable by whoever has to repair something by hand.
pub(super) fn pieces_text(pieces: &[Piece]) -> String {
    let sizes = |piece: &Piece| piece.sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    pieces.iter().map(|piece| format!("{}:{}", piece.name, sizes(piece))).collect::<Vec<_>>().join(";")
}

fn pieces_of(text: &str) -> Option<Vec<Piece>> {
    let piece = |text: &str| {
        let (name, sizes) = text.split_once(':')?;
        let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
        Some(Piece { name: name.to_owned(), sizes })
    };
    text.split(';').filter(|text| !text.is_empty()).map(piece).collect()
}

/// A record: its entry and its row, each if it is there.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) id: RecordId,
    pub(super) entry: Option<Entry>,
    /// The row, if it is this record's.
    pub(super) file: Option<Document>,
    /// Another record's row has the name that this one's would have.
    pub(super) is_blocked: bool,
}

impl Standing {
    pub(super) fn new(id: RecordId, entry: Option<Entry>, file: Option<Document>) -> Standing {
        let is_ours = file.as_ref().is_none_or(|file| file.record_id().as_ref() == Some(&id));
        let (file, is_blocked) = if is_ours { (file, false) } else { (None, true) };
        Standing { id, entry, file, is_blocked }
    }

    fn kind(&self) -> Kind {
        self.entry.as_ref().map_or(Kind::Gone, |entry| entry.kind)
    }

    /// When we wrote the record; `None` if we never did or deleted it.
    fn mirrored_at(&self) -> Option<Moment> {
        self.entry.as_ref().filter(|entry| matches!(entry.kind, Kind::Text | Kind::Chunks)).map(Entry::mirrored_at)
    }

    /// Whether somebody else wrote or deleted the row after us.
    pub(super) fn is_foreign(&self) -> bool {
        match (self.kind(), &self.file) {
            (Kind::Text, Some(file)) => self.mirrored_at().is_none_or(|at| at < file.update_time),
            (Kind::Chunks | Kind::Gone | Kind::Foreign, Some(_)) | (Kind::Text, None) => true,
            (Kind::Chunks | Kind::Gone | Kind::Foreign, None) => false,
        }
    }

    /// The state of the row, as a note says it.
    pub(super) fn row_state(&self) -> String {
        self.file.as_ref().map_or_else(|| GONE.to_owned(), |file| file.update_time.as_text())
    }

    /// `t:` our text, with the row's own time if it is older; `c:` our chunks; `x:` somebody else's state over ours; `g:` nothing.
    pub(super) fn revision(&self) -> Revision {
        let mirrored = self.mirrored_at();
        let at = mirrored.map_or_else(|| "-".to_owned(), Moment::as_text);
        let text = match (self.is_foreign(), self.kind(), &self.file) {
            (true, ..) => format!("x:{}:{at}", self.row_state()),
            (false, Kind::Text, Some(file)) => own_revision(mirrored.unwrap_or(Moment::START), file.update_time),
            (false, Kind::Chunks, _) => format!("c:{at}"),
            _ => format!("g:{}", self.entry.as_ref().map_or(Moment::START, |entry| entry.update_time).as_text()),
        };
        Revision::new(text)
    }

    fn mirrored_revision(&self) -> Option<Revision> {
        let entry = self.entry.as_ref().filter(|entry| entry.mirror.is_some())?;
        if !self.is_foreign() {
            return Some(self.revision());
        }
        let lead = if entry.kind == Kind::Chunks { 'c' } else { 't' };
        Some(Revision::new(format!("{lead}:{}", entry.mirrored_at().as_text())))
    }

    fn content(&self, with_content: bool) -> RowContent {
        match (&self.file, &self.entry) {
            (Some(_), _) if !with_content => RowContent::Unread,
            (Some(file), _) => text_content(file),
            (None, Some(entry)) if entry.kind == Kind::Chunks => RowContent::Chunked {
                chunk_count: entry.pieces.iter().map(|piece| piece.sizes.len() as u32).sum(),
                size_bytes: entry.pieces.iter().flat_map(|piece| &piece.sizes).map(|size| u64::from(*size)).sum(),
            },
            (None, _) => RowContent::Absent,
        }
    }

    pub(super) fn has_content(&self) -> bool {
        self.file.is_some() || self.kind() == Kind::Chunks
    }

    /// Whether there is anything that a delete would remove.
    pub(super) fn is_there(&self) -> bool {
        self.has_content() || self.entry.as_ref().is_some_and(|entry| entry.mirror.is_some())
    }

    /// The record as callers see it.
    pub(super) fn row(&self, with_content: bool) -> Option<Row> {
        let (app, owner, path) = self.id.parts()?;
        let stamps = match (&self.file, &self.entry) {
            (Some(file), _) => [stamp_of(&file.fields, "last_updated"), stamp_of(&file.fields, "created_at")],
            (None, Some(entry)) => [entry.last_updated_ms, entry.created_at_ms],
            (None, None) => [0, 0],
        };
        Some(Row {
            id: self.id.clone(),
            app,
            owner,
            path,
            content: self.content(with_content),
            revision: self.revision(),
            mirror: self.entry.as_ref().and_then(|entry| entry.mirror.clone()),
            mirrored_revision: self.mirrored_revision(),
            last_updated_ms: stamps[0],
            created_at_ms: stamps[1],
        })
    }
}

/// The revision of a text that we wrote, and whose row says when it last really changed.
pub(super) fn own_revision(written: Moment, row_changed: Moment) -> String {
    if written == row_changed {
        return format!("t:{}", written.as_text());
    }
    format!("t:{}+{}", written.as_text(), row_changed.as_text())
}

/// The two moments in the revision of a text that we wrote.
pub(super) fn own_moments(revision: &Revision) -> Option<(Moment, Moment)> {
    let moments = revision.as_str().strip_prefix("t:")?;
    let (written, changed) = moments.split_once('+').unwrap_or((moments, moments));
    Some((Moment::from_text(written)?, Moment::from_text(changed)?))
}

fn text_content(file: &Document) -> RowContent {
    match (text_of(&file.fields, "content"), file.fields.get("content")) {
        (Some(content), _) if content.contains('\0') => RowContent::Invalid("content holds a NUL".to_owned()),
        (Some(content), _) => RowContent::Text(content.to_owned()),
        (None, Some(value)) => RowContent::Invalid(format!("content is {}, not a text", kind_of(value))),
        (None, None) => RowContent::Invalid("it has no content".to_owned()),
    }
}

/// A moment as whatever program wrote it: a timestamp, a text, a number of milliseconds.
fn stamp_of(fields: &Fields, name: &str) -> u64 {
    let time = || fields.get(name)?.get("timestampValue")?.as_str().map(stamp::parse);
    text_of(fields, name).map(stamp::parse).or_else(time).or_else(|| count_of(fields, name)).unwrap_or(0)
}

/// The seven fields of a row.
pub(super) fn row_fields(record: &Record, content: &str) -> Value {
    json!({
        "id": text(record.id().as_str()), "path": text(&record.path), "content": text(content), "app": text(&record.app),
        "owner_id": text(&record.owner), "last_updated": text(&stamp::format(record.last_updated_ms)),
        "created_at": text(&stamp::format(record.created_at_ms)),
    })
}

/// The chunks of a piece that count.
pub(super) fn chunks_of(piece: &Piece, document: &Document) -> Option<Vec<Vec<u8>>> {
    let bytes = bytes_of(&document.fields, "bytes")?;
    crate::pieces::cut(&bytes, piece.sizes.iter().map(|size| *size as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment_at(n: u64) -> Moment {
        Moment::from_text(&n.to_string()).expect("a number")
    }

    fn id() -> RecordId {
        RecordId::new("app", "shared", "a.md")
    }

    fn entry(kind: Kind, at: u64) -> Entry {
        let mirror = Some(MirrorEntry { version: "v".to_owned(), content_hash: [7; 32] });
        Entry { mirror, update_time: moment_at(at), ..Entry::new(id(), kind) }
    }

    fn row_at(at: u64) -> Document {
        let fields = json!({ "app": text("app"), "path": text("a.md"), "content": text("text") });
        let fields = fields.as_object().cloned().unwrap_or_default();
        Document { name: "n".to_owned(), update_time: moment_at(at), create_time: moment_at(1), fields }
    }

    #[test]
    fn a_row_is_ours_until_it_changes_after_its_entry() {
        let foreign =
            |kind, file: Option<u64>| Standing::new(id(), Some(entry(kind, 50)), file.map(row_at)).is_foreign();
        assert!(!foreign(Kind::Text, Some(50)));
        assert!(!foreign(Kind::Text, Some(40)), "a write that changed nothing keeps the row's older time");
        assert!(foreign(Kind::Text, Some(51)));
        assert!(foreign(Kind::Text, None));
        assert!(foreign(Kind::Chunks, Some(51)) && !foreign(Kind::Chunks, None));
        assert!(
            Standing::new(id(), None, Some(row_at(1))).is_foreign() && !Standing::new(id(), None, None).is_foreign()
        );
    }

    #[test]
    fn a_touched_entry_leaves_every_revision_as_it_was() {
        for kind in [Kind::Text, Kind::Chunks] {
            let before = entry(kind, 50);
            let touched = Entry { written_at: Some(moment_at(50)), update_time: moment_at(90), ..before.clone() };
            for file in [None, Some(row_at(40)), Some(row_at(60))] {
                let revision = |entry: &Entry| Standing::new(id(), Some(entry.clone()), file.clone()).revision();
                assert_eq!(revision(&before), revision(&touched));
            }
        }
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let pieces = vec![
            Piece { name: "ab".to_owned(), sizes: vec![1, 0, 70_000] },
            Piece { name: "cd".to_owned(), sizes: vec![5] },
        ];
        let full = Entry {
            file: Some("theirs".to_owned()),
            written_at: Some(moment_at(123_456_789)),
            noted: Some("77".to_owned()),
            pieces,
            last_updated_ms: 5,
            created_at_ms: 6,
            ..entry(Kind::Chunks, 99)
        };
        let document = Document {
            name: "n".to_owned(),
            update_time: moment_at(99),
            create_time: moment_at(1),
            fields: full.fields(),
        };
        let read = Entry::parse(&document).expect("it is one");
        assert_eq!(format!("{read:?}"), format!("{full:?}"));
    }
}
