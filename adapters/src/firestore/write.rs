//! Writes: a record's entry, its row and its pieces in one commit, each under a precondition on the very state that was seen.
//!
//! Many records share a commit, and a commit is all or nothing: if one of them stands otherwise than was thought, all are read, those that
//! lost are answered and the others go again with what was read. Invariant: a write is acknowledged only if it will be told: should
//! its stamp lie further behind its commit than half of what readers look back, the entry is stamped again before.

use std::time::Duration;

use serde_json::{Value, json};

use super::call::Caller;
use super::entry::{
    CHANGED_AT, ENTRIES, Entry, FILES, Kind, PIECES, Piece, Standing, own_moments, own_revision, row_fields,
};
use super::failure::{Failure, What};
use super::name::document_name;
use super::read::{OVERLAP, strange};
use super::value::{Moment, bytes, moment, text};
use crate::{
    AdapterError, Body, Capabilities, ErrorKind, Expected, Record, RecordId, Revision, Write, batch_delete_revision,
};

/// A piece holds chunks up to this together; a document may have 1 MiB.
pub(super) const PIECE_BYTES: usize = 900 * 1024;
/// Writes of one commit, a stamp counted as one; the service takes 500.
const MAX_WRITES: usize = 480;
/// Bytes of one commit as it is sent; the service takes 10 MiB.
const MAX_COMMIT_BYTES: usize = 6 * 1024 * 1024;
/// What one write takes beside its content.
const WRITE_BYTES: usize = 3 * 1024;
/// Pieces of one record: those it had and those it gets must go and come in one commit. About 190 MB.
const MAX_PIECES: usize = 220;
/// So many small pieces at the end of a record that grows are put together.
const SMALL_PIECES: usize = 16;
const ATTEMPTS: u32 = 8;
const FIRST_REST: Duration = Duration::from_millis(20);
/// A stamp further behind its commit is made anew, so that readers that look back `OVERLAP` miss none.
const MAX_LAG: Duration = Duration::from_secs(OVERLAP.as_secs() / 2);

type Answer = Result<Revision, AdapterError>;

/// What a write may build on.
struct Known {
    /// The entry's `updateTime`; `None` if there is no entry.
    entry: Option<Moment>,
    /// The row's document, and its `updateTime` if it is there.
    file: (String, Option<Moment>),
    pieces: Vec<Piece>,
    /// Chunks of the last of the kept pieces, which are to be put together: from which piece on, and what is in them.
    tail: Option<(usize, Vec<Vec<u8>>)>,
}

/// One item of a batch on its way.
struct Item<'a> {
    at: usize,
    write: &'a Write,
    id: RecordId,
    /// `None` if the record has to be read first.
    known: Option<Known>,
}

/// What one item sends.
struct Plan {
    /// Pieces too many for one commit, sent before it.
    ahead: Vec<Value>,
    writes: Vec<Value>,
    /// Which of the writes are the entry and the row.
    entry_at: usize,
    file_at: Option<usize>,
    kind: Kind,
}

impl Caller {
    /// Applies writes in their order, each by itself.
    pub(super) async fn apply(&self, writes: &[Write], limits: &Capabilities) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = writes.iter().map(|_| None).collect();
        let mut group: Vec<Item<'_>> = Vec::new();
        let (mut count, mut size) = (0, 0);
        for (at, write) in writes.iter().enumerate() {
            if let Write::Set { record, .. } = write
                && let Err(error) = limits.check(record)
            {
                answers[at] = Some(Err(error));
                continue;
            }
            let item = Item::new(at, write);
            let (more, bytes) = item.cost();
            let twice = group.iter().any(|other| other.id == item.id);
            if !group.is_empty() && (twice || MAX_WRITES < count + more || MAX_COMMIT_BYTES < size + bytes) {
                self.apply_group(std::mem::take(&mut group), &mut answers).await;
                (count, size) = (0, 0);
            }
            (count, size) = (count + more, size + bytes);
            group.push(item);
        }
        self.apply_group(group, &mut answers).await;
        let unanswered = || Err(AdapterError::new(ErrorKind::Unavailable, "write: no answer"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// Applies items whose writes fit into one commit. One that is refused by itself does not stop the others.
    async fn apply_group(&self, items: Vec<Item<'_>>, answers: &mut [Option<Answer>]) {
        let mut waiting = vec![items];
        while let Some(mut items) = waiting.pop() {
            match self.try_group(&mut items, answers).await {
                Ok(()) => {}
                Err(failure) if 1 < items.len() && is_about_one(&failure) => {
                    waiting.extend(items.into_iter().rev().map(|item| vec![item]));
                }
                Err(failure) => {
                    for item in items {
                        answers[item.at] = Some(Err(failure.error(&format!("write {}", item.id))));
                    }
                }
            }
        }
    }

    async fn try_group(&self, items: &mut Vec<Item<'_>>, answers: &mut [Option<Answer>]) -> Result<(), Failure> {
        let mut rest = FIRST_REST;
        for _ in 0..ATTEMPTS {
            self.judge(items, answers).await?;
            if items.is_empty() {
                return Ok(());
            }
            let plans = Self::plans(self, items, answers);
            if items.is_empty() {
                return Ok(());
            }
            for plan in &plans {
                self.send_ahead(&plan.ahead).await?;
            }
            let writes: Vec<&Value> = plans.iter().flat_map(|plan| &plan.writes).collect();
            match self.ask("commit", &json!({ "writes": writes })).await {
                Ok(answer) => return self.acknowledge(items, &plans, &answer, answers).await,
                Err(failure) if matches!(failure.what, What::Precondition | What::Aborted) => {
                    if failure.what == What::Aborted {
                        tokio::time::sleep(rest).await;
                        rest *= 2;
                    }
                    items.iter_mut().for_each(|item| item.known = None);
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "others keep writing beside it"))
    }

    /// Reads the records of which too little is known, and answers those that lost already.
    async fn judge(&self, items: &mut Vec<Item<'_>>, answers: &mut [Option<Answer>]) -> Result<(), Failure> {
        let ids: Vec<RecordId> = items.iter().filter(|item| item.known.is_none()).map(|item| item.id.clone()).collect();
        let mut standings = self.standings_anywhere(&ids, false).await?.into_iter();
        let mut left = Vec::with_capacity(items.len());
        for mut item in std::mem::take(items) {
            if item.known.is_some() {
                left.push(item);
                continue;
            }
            let standing = standings.next().ok_or_else(strange)?;
            match item.judge(standing) {
                Ok(mut known) => {
                    known.tail = self.small_tail(item.write, &known.pieces).await?;
                    item.known = Some(known);
                    left.push(item);
                }
                Err(answer) => answers[item.at] = Some(answer),
            }
        }
        *items = left;
        Ok(())
    }

    /// What each item sends; one that cannot be sent is answered and taken out.
    fn plans(&self, items: &mut Vec<Item<'_>>, answers: &mut [Option<Answer>]) -> Vec<Plan> {
        let mut plans = Vec::with_capacity(items.len());
        items.retain(|item| {
            let Some(known) = &item.known else { return false };
            match self.plan(item, known) {
                Ok(plan) => {
                    plans.push(plan);
                    true
                }
                Err(error) => {
                    answers[item.at] = Some(Err(error));
                    false
                }
            }
        });
        plans
    }

    fn plan(&self, item: &Item<'_>, known: &Known) -> Result<Plan, AdapterError> {
        let (file_name, file_time) = (&known.file.0, known.file.1);
        let remove_row = |writes: &mut Vec<Value>| {
            file_time.map(|time| {
                writes.push(json!({
                    "delete": self.document(FILES, file_name), "currentDocument": { "updateTime": time.to_string() },
                }));
                writes.len() - 1
            })
        };
        let (mut writes, mut ahead) = (Vec::new(), Vec::new());
        let (entry, kept, file_at) = match item.write {
            Write::Delete { id, .. } => {
                remove_row(&mut writes);
                (Entry::new(id.clone(), Kind::Gone), Vec::new(), None)
            }
            Write::Set { record, .. } => match &record.body {
                Body::Text(content) => {
                    let condition =
                        file_time.map_or(json!({ "exists": false }), |time| json!({ "updateTime": time.to_string() }));
                    let fields = row_fields(record, content);
                    let row = json!({ "name": self.document(FILES, file_name), "fields": fields });
                    writes.push(json!({ "update": row, "currentDocument": condition }));
                    let mut entry = Entry::of_record(record, Kind::Text, Vec::new());
                    entry.file = Some(file_name.clone()).filter(|name| *name != document_name(&item.id));
                    (entry, Vec::new(), Some(0))
                }
                Body::Chunks { keep, add } => {
                    remove_row(&mut writes);
                    let mut pieces = kept_pieces(&known.pieces, *keep as usize);
                    let mut chunks: Vec<&Vec<u8>> = add.iter().collect();
                    if let Some((from, tail)) = &known.tail {
                        pieces.truncate(*from);
                        chunks.splice(0..0, tail);
                    }
                    let (added, sends) = self.pack(record, &chunks);
                    let sent: usize = sends.iter().map(|(bytes, _)| bytes).sum();
                    let sends = sends.into_iter().map(|(_, write)| write);
                    if sent < MAX_COMMIT_BYTES {
                        writes.extend(sends)
                    } else {
                        ahead.extend(sends)
                    }
                    pieces.extend(added);
                    if MAX_PIECES < pieces.len() {
                        let message = format!(
                            "write {}: it would be {} documents of 900 KiB, the limit is {MAX_PIECES}",
                            item.id,
                            pieces.len()
                        );
                        return Err(AdapterError::new(ErrorKind::TooLarge, message));
                    }
                    (Entry::of_record(record, Kind::Chunks, pieces.clone()), pieces, None)
                }
            },
        };
        for piece in known.pieces.iter().filter(|old| kept.iter().all(|piece| piece.name != old.name)) {
            writes.push(json!({ "delete": self.document(PIECES, &piece.name) }));
        }
        let kind = entry.kind;
        writes.push(self.entry_write(&entry, known.entry));
        Ok(Plan { ahead, entry_at: writes.len() - 1, writes, file_at, kind })
    }

    /// An entry's write: it replaces the state that was seen and is stamped by the service.
    pub(super) fn entry_write(&self, entry: &Entry, seen: Option<Moment>) -> Value {
        let condition = seen.map_or(json!({ "exists": false }), |time| json!({ "updateTime": time.to_string() }));
        json!({
            "update": { "name": self.document(ENTRIES, &document_name(&entry.id)), "fields": entry.fields() },
            "updateTransforms": [{ "fieldPath": CHANGED_AT, "setToServerValue": "REQUEST_TIME" }],
            "currentDocument": condition,
        })
    }

    /// Puts chunks into pieces as large as a document may be: the list for the entry, and the writes with their sizes.
    fn pack(&self, record: &Record, chunks: &[&Vec<u8>]) -> (Vec<Piece>, Vec<(usize, Value)>) {
        let id = record.id();
        let (mut pieces, mut sends): (Vec<Piece>, Vec<(usize, Value)>) = (Vec::new(), Vec::new());
        for (sizes, content) in crate::pieces::pack(chunks.iter().copied(), PIECE_BYTES) {
            let name = crate::pieces::name(&id, &content);
            let sizes = sizes.into_iter().map(|size| u32::try_from(size).unwrap_or(u32::MAX)).collect();
            if pieces.iter().all(|piece| piece.name != name) {
                let fields = json!({ "id": text(id.as_str()), "bytes": bytes(&content) });
                let write = json!({ "update": { "name": self.document(PIECES, &name), "fields": fields } });
                sends.push((content.len() / 3 * 4 + WRITE_BYTES, write));
            }
            pieces.push(Piece { name, sizes });
        }
        (pieces, sends)
    }

    /// The small pieces at the end of a record that only grows, once there are many: each append would leave one more.
    async fn small_tail(&self, write: &Write, pieces: &[Piece]) -> Result<Option<(usize, Vec<Vec<u8>>)>, Failure> {
        let keep = match write {
            Write::Set { record: Record { body: Body::Chunks { keep, .. }, .. }, .. } => *keep as usize,
            _ => 0,
        };
        let kept = kept_pieces(pieces, keep);
        let mut bytes = 0;
        let is_small = |piece: &&Piece| {
            bytes += piece.sizes.iter().map(|size| *size as usize).sum::<usize>();
            bytes <= PIECE_BYTES
        };
        let from = kept.len() - kept.iter().rev().take_while(is_small).count();
        if kept.len() - from < SMALL_PIECES {
            return Ok(None);
        }
        Ok(self.contents(&kept[from..]).await?.map(|chunks| (from, chunks)))
    }

    /// Pieces of a content that no single commit holds. They are there before anything names them; a stop leaves them behind unnamed.
    async fn send_ahead(&self, writes: &[Value]) -> Result<(), Failure> {
        let at_once = (MAX_COMMIT_BYTES / (PIECE_BYTES / 3 * 4 + WRITE_BYTES)).max(1);
        for some in writes.chunks(at_once) {
            self.ask("commit", &json!({ "writes": some })).await?;
        }
        Ok(())
    }

    async fn acknowledge(
        &self,
        items: &[Item<'_>],
        plans: &[Plan],
        answer: &Value,
        answers: &mut [Option<Answer>],
    ) -> Result<(), Failure> {
        let early = || Failure::new(ErrorKind::Unavailable, "the answer ended too early");
        let results = answer.get("writeResults").and_then(Value::as_array).ok_or_else(early)?;
        let moment_at = |value: Option<&Value>| Moment::parse(value?.as_str()?);
        let committed = moment_at(answer.get("commitTime")).ok_or_else(early)?;
        let time = |at: usize| moment_at(results.get(at)?.get("updateTime"));
        let mut first = 0;
        for (item, plan) in items.iter().zip(plans) {
            let written = time(first + plan.entry_at).ok_or_else(early)?;
            let stamp = results[first + plan.entry_at].get("transformResults").and_then(|results| results.get(0));
            let stamp = stamp.and_then(|stamp| moment_at(stamp.get("timestampValue")));
            if stamp.is_some_and(|stamp| MAX_LAG < committed.since(stamp)) {
                self.stamp_again(&item.id, written).await?;
            }
            let revision = match (item.write, plan.kind) {
                (Write::Delete { .. }, _) => batch_delete_revision(),
                (_, Kind::Chunks) => Revision::new(format!("c:{}", written.as_text())),
                _ => {
                    let row = plan.file_at.and_then(|at| time(first + at)).unwrap_or(written);
                    Revision::new(own_revision(written, row))
                }
            };
            answers[item.at] = Some(Ok(revision));
            first += plan.writes.len();
        }
        Ok(())
    }

    /// Stamps an entry anew whose commit took so long that readers may have passed its stamp.
    async fn stamp_again(&self, id: &RecordId, written: Moment) -> Result<(), Failure> {
        let name = self.document(ENTRIES, &document_name(id));
        let touched = json!({
            "update": { "name": name, "fields": { "written_at": moment(written) } },
            "updateMask": { "fieldPaths": ["written_at"] },
            "updateTransforms": [{ "fieldPath": CHANGED_AT, "setToServerValue": "REQUEST_TIME" }],
            "currentDocument": { "updateTime": written.to_string() },
        });
        match self.ask("commit", &json!({ "writes": [touched] })).await {
            // Somebody wrote it since, and stamped it.
            Err(failure) if failure.what == What::Precondition => Ok(()),
            other => other.map(drop),
        }
    }
}

impl<'a> Item<'a> {
    fn new(at: usize, write: &'a Write) -> Item<'a> {
        let (id, expected) = match write {
            Write::Set { record, expected } => (record.id(), expected),
            Write::Delete { id, expected } => (id.clone(), expected),
        };
        let known = Self::guess(write, &id, expected);
        Item { at, write, id, known }
    }

    /// What may be built on unread: the commit itself finds out if it is otherwise.
    fn guess(write: &Write, id: &RecordId, expected: &Expected) -> Option<Known> {
        let file = |time| (document_name(id), time);
        match (write, expected) {
            (Write::Set { record, .. }, Expected::Absent) => {
                let blind = match &record.body {
                    Body::Text(_) => true,
                    // Whether there is a row beside it, no precondition of this commit would find.
                    Body::Chunks { keep, .. } => *keep == 0 && record.mirror.is_none(),
                };
                blind.then(|| Known { entry: None, file: file(None), pieces: Vec::new(), tail: None })
            }
            (Write::Set { record, .. }, Expected::Revision(revision)) => {
                if matches!(record.body, Body::Chunks { keep, .. } if keep > 0) {
                    return None;
                }
                let (written, changed) = own_moments(revision)?;
                Some(Known { entry: Some(written), file: file(Some(changed)), pieces: Vec::new(), tail: None })
            }
            (Write::Delete { .. }, Expected::Revision(revision)) => {
                let (written, changed) = own_moments(revision)?;
                Some(Known { entry: Some(written), file: file(Some(changed)), pieces: Vec::new(), tail: None })
            }
            (Write::Delete { .. }, Expected::Absent) => None,
        }
    }

    /// Writes and bytes of the commit that this takes; pieces that go ahead count as one commit's worth.
    fn cost(&self) -> (usize, usize) {
        match self.write {
            Write::Delete { .. } => (4, 2 * WRITE_BYTES),
            Write::Set { record, .. } => match &record.body {
                Body::Text(content) => (3, 2 * WRITE_BYTES + json_bytes(content)),
                Body::Chunks { add, .. } => {
                    let bytes: usize = add.iter().map(Vec::len).sum();
                    (4 + 2 * bytes.div_ceil(PIECE_BYTES), 2 * WRITE_BYTES + bytes / 3 * 4 + add.len() * 8)
                }
            },
        }
    }

    /// Compares what was expected with what stands: what to build on, or the answer.
    fn judge(&self, standing: Standing) -> Result<Known, Answer> {
        let conflict = |found: &str| Err(Err(AdapterError::conflict(&self.id, found)));
        let (expected, is_delete) = match self.write {
            Write::Set { expected, .. } => (expected, false),
            Write::Delete { expected, .. } => (expected, true),
        };
        if is_delete && !standing.is_there() {
            return Err(match expected {
                Expected::Absent => Ok(batch_delete_revision()),
                Expected::Revision(_) => {
                    Err(AdapterError::new(ErrorKind::NotFound, format!("delete {}: it is gone already", self.id)))
                }
            });
        }
        match expected {
            Expected::Absent if standing.has_content() => return conflict("it is there already"),
            Expected::Revision(revision) if *revision != standing.revision() => {
                return conflict("it has changed since it was read");
            }
            _ => {}
        }
        if standing.is_blocked && !is_delete {
            let name = document_name(&self.id);
            let message =
                format!("write {}: the document {FILES}/{name} says that it is another file; rename it", self.id);
            return Err(Err(AdapterError::new(ErrorKind::Unsupported, message)));
        }
        let entry = standing.entry.as_ref();
        let chunks = entry.filter(|entry| entry.kind == Kind::Chunks && standing.file.is_none());
        if let Write::Set { record, .. } = self.write
            && let Body::Chunks { keep, .. } = record.body
            && chunks.map_or(0, |entry| entry.pieces.iter().map(|piece| piece.sizes.len()).sum()) < keep as usize
        {
            return conflict("it has fewer chunks than are to be kept");
        }
        let usual = || document_name(&self.id);
        let file_name = standing.file.as_ref().map(|file| file.name.clone()).unwrap_or_else(usual);
        let pieces = entry.map(|entry| entry.pieces.clone()).unwrap_or_default();
        let file = (file_name, standing.file.as_ref().map(|file| file.update_time));
        Ok(Known { entry: entry.map(|entry| entry.update_time), file, pieces, tail: None })
    }
}

/// The pieces that hold the first `keep` chunks; the last of them may hold more than count.
fn kept_pieces(pieces: &[Piece], keep: usize) -> Vec<Piece> {
    let (mut kept, mut left) = (Vec::new(), keep);
    for piece in pieces {
        if left == 0 {
            break;
        }
        let sizes: Vec<u32> = piece.sizes.iter().take(left).copied().collect();
        left -= sizes.len();
        kept.push(Piece { name: piece.name.clone(), sizes });
    }
    kept
}

/// The bytes a text takes in a request.
fn json_bytes(text: &str) -> usize {
    let byte = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(byte).sum()
}

/// Whether a failure may be one item's own fault.
fn is_about_one(failure: &Failure) -> bool {
    matches!(failure.what, What::Kind(ErrorKind::TooLarge | ErrorKind::Unsupported))
}
