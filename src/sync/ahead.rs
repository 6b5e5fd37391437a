//! Rows ahead: while the next batch is recorded, the rows of the one before are written beside it.
//!
//! Invariant: a row is written here only for a path whose first version this run has made, which ledger and index hold
//! already, and only where no row stands. Everything else, and whatever goes wrong, is left to the mirror, which judges it
//! as if nothing had been tried; the mark moves past slots that are written or left to it by name, never past others.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use larder_adapters::{Body, Expected, FileSyncAdapter, MirrorEntry, Record as RowRecord, Write};

use super::mirror::{Answer, BATCH_BYTES, Sent, is_down};
use super::{Engine, Report, Result};
use crate::index::{ContentReader, Item, Slot};
use crate::ledger::{ArtifactName, BlockAddress, Place};
use crate::model::{Channel, Content, ContentKind, Hlc, Record, RelPath, SegmentHash, Space, VersionId};

/// Fewer versions than this are not worth a thread.
const WORTH_VERSIONS: usize = 256;

/// The rows written beside recording, in one run.
pub(super) struct Ahead {
    /// Up to which row of the index slots are written, or left by name.
    reached: i64,
    under_way: Option<UnderWay>,
    done: Done,
}

struct UnderWay {
    thread: JoinHandle<Done>,
    /// Up to which row of the index its batch goes.
    mark: i64,
}

/// What came of writing.
#[derive(Default)]
struct Done {
    left: Vec<Slot>,
    rows: u64,
    bytes: u64,
    is_down: bool,
}

impl Ahead {
    /// Waits for the batch under way.
    fn settle(&mut self) {
        let Some(UnderWay { thread, mark }) = self.under_way.take() else { return };
        let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.done.rows += done.rows;
        self.done.bytes += done.bytes;
        self.done.left.extend(done.left);
        self.done.is_down |= done.is_down;
        if !self.done.is_down {
            self.reached = mark;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Nobody asked: the rows are found as they are by the next run, as after a kill.
        if let Some(UnderWay { thread, .. }) = self.under_way.take() {
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// From here to the next `mirror`, rows of new paths are written as soon as their batch is durable.
    pub fn mirror_ahead(&mut self) -> Result<()> {
        let waits = self.adapter.is_none() || self.state.any_outbox()?;
        let ahead = || Ahead { reached: self.mirrored, under_way: None, done: Done::default() };
        self.ahead = (!waits).then(ahead);
        Ok(())
    }

    /// Begins to write the rows of a batch that the index has just taken in as its rows after `before`.
    pub(super) fn write_ahead(&mut self, before: i64, item: Item) -> Result<()> {
        let has_rows = self.adapter.as_ref().is_some_and(|adapter| self.has_rows(&**adapter, &item.chain.space));
        let (Some(ahead), Some(adapter)) = (&mut self.ahead, &self.adapter) else { return Ok(()) };
        if item.records.len() < WORTH_VERSIONS {
            return Ok(());
        }
        ahead.settle();
        if ahead.done.is_down || ahead.reached != before {
            return Ok(());
        }
        if !has_rows {
            return Ok(());
        }
        let mark = self.index.max_row()?;
        let (adapter, contents, app) = (adapter.clone(), self.contents.clone(), self.policy.app.clone());
        let owner = self.owner_in(&item.chain.space);
        let space = item.chain.space.clone();
        let batch = Batch::of(item);
        let writer = Writer { adapter, contents, app, owner, space, sent: None, done: Done::default() };
        let work = move || writer.write(batch);
        let thread = std::thread::Builder::new().name("larder-rows".to_owned()).spawn(work).ok();
        if let Some(ahead) = &mut self.ahead {
            // Where no thread is to be had, the mirror finds the mark where it was.
            ahead.under_way = thread.map(|thread| UnderWay { thread, mark });
        }
        Ok(())
    }

    /// Counts what was written ahead, moves the mark past it, and hands over the slots that were left.
    pub(super) fn settle_ahead(&mut self, report: &mut Report) -> Vec<Slot> {
        let Some(mut ahead) = self.ahead.take() else { return Vec::new() };
        ahead.settle();
        report.rows_written += ahead.done.rows;
        report.row_bytes += ahead.done.bytes;
        self.mirrored = self.mirrored.max(ahead.reached);
        std::mem::take(&mut ahead.done.left)
    }
}

/// What is known of a version and its row needs; a tenth of the version's memory.
struct Fresh {
    path: RelPath,
    /// What the row shows, if the version is the path's first.
    content: Option<Content>,
    id: VersionId,
    hlc: Hlc,
    /// Where its bytes stand, if in this batch and in one piece.
    place: Option<(usize, BlockAddress, u32)>,
}

/// The versions of one batch, and the artifacts that hold its segments.
struct Batch {
    fresh: Vec<Fresh>,
    artifacts: Vec<ArtifactName>,
}

impl Batch {
    fn of(item: Item) -> Batch {
        let mut artifacts: Vec<ArtifactName> = Vec::new();
        let mut places = HashMap::with_capacity(item.places.len());
        for (segment, place) in item.places {
            if artifacts.last() != Some(&place.artifact) {
                artifacts.push(place.artifact);
            }
            places.insert(segment, (artifacts.len() - 1, place.block, place.start));
        }
        let fresh = |record| {
            let Record::Version(id, version) = record else { return None };
            let content = version.content().filter(|_| version.parents.is_empty());
            let place = content.and_then(|content| places.get(&SegmentHash(content.hash.0)).copied());
            let is_row = version.channel != Channel::Archive;
            is_row.then_some(Fresh { path: version.path, content, id, hlc: version.hlc, place })
        };
        Batch { fresh: item.records.into_iter().filter_map(fresh).collect(), artifacts }
    }
}

/// Writes the rows of one batch, on a thread of its own.
struct Writer {
    adapter: Arc<dyn FileSyncAdapter>,
    contents: Arc<ContentReader>,
    app: String,
    owner: String,
    space: Space,
    sent: Option<Sent>,
    done: Done,
}

impl Writer {
    fn write(mut self, batch: Batch) -> Done {
        if !self.fill(&batch) {
            self.send_all(&batch);
        }
        self.done
    }

    /// Has a new backend take all rows in one go; false, and nothing done, if it is not new.
    fn fill(&mut self, batch: &Batch) -> bool {
        let (adapter, mut slots) = (self.adapter.clone(), Vec::with_capacity(batch.fresh.len()));
        let mut rest = batch.fresh.iter();
        let mut writes = std::iter::from_fn(|| {
            let (slot, write) = rest.find_map(|fresh| self.row_of(fresh, &batch.artifacts))?;
            slots.push(slot);
            Some(write)
        });
        let Some(answers) = adapter.fill(&mut writes) else { return false };
        let untaken: Vec<Slot> = rest.map(|fresh| self.slot_of(fresh)).collect();
        self.done.left.extend(untaken);
        self.take_answers(slots, answers);
        true
    }

    fn send_all(&mut self, batch: &Batch) {
        let (mut slots, mut writes, mut sent_bytes) = (Vec::new(), Vec::new(), self.done.bytes);
        for fresh in &batch.fresh {
            let Some((slot, write)) = self.row_of(fresh, &batch.artifacts) else { continue };
            slots.push(slot);
            writes.push(write);
            let is_large = self.done.bytes - sent_bytes >= BATCH_BYTES as u64;
            if is_large || writes.len() >= self.adapter.capabilities().batch_rows.max(1) {
                self.send(std::mem::take(&mut slots), std::mem::take(&mut writes));
                sent_bytes = self.done.bytes;
            }
            if self.done.is_down {
                return;
            }
        }
        self.send(slots, writes);
        self.settle();
    }

    /// The row of a path's first version, counted; `None` if that is for the mirror to say, to which it is left then.
    fn row_of(&mut self, fresh: &Fresh, artifacts: &[ArtifactName]) -> Option<(Slot, Write)> {
        let slot = self.slot_of(fresh);
        let Some((content, text)) = self.text_of(fresh, artifacts) else {
            self.done.left.push(slot);
            return None;
        };
        self.done.bytes += text.len() as u64;
        Some((slot, self.write_of(fresh, &content, text)))
    }

    fn slot_of(&self, fresh: &Fresh) -> Slot {
        Slot { space: self.space.clone(), origin: None, path: fresh.path.clone() }
    }

    /// What the row of a path's first version holds; `None` if that is for the mirror to say.
    fn text_of(&self, fresh: &Fresh, artifacts: &[ArtifactName]) -> Option<(Content, String)> {
        let limits = self.adapter.capabilities();
        let small = |content: &Content| content.kind != ContentKind::Link && content.size <= limits.text_limit_bytes;
        let content = fresh.content.filter(small)?;
        let bytes = match fresh.place {
            Some((artifact, block, start)) => {
                let (artifact, len) = (artifacts[artifact].clone(), content.size as u32);
                self.contents.read_placed(&content, &Place { artifact, block, start, len }).ok()?
            }
            None => self.contents.read_all(&content).ok()?,
        };
        limits.admits_text(&bytes)?;
        Some((content, String::from_utf8(bytes).ok()?))
    }

    fn write_of(&self, fresh: &Fresh, content: &Content, text: String) -> Write {
        let entry = MirrorEntry { version: Engine::version_text(&[fresh.id]), content_hash: *content.hash.as_bytes() };
        let record = RowRecord {
            app: self.app.clone(),
            owner: self.owner.clone(),
            path: fresh.path.as_str().to_owned(),
            body: Body::Text(text),
            last_updated_ms: fresh.hlc.wall_ms(),
            // The first version of a path is its birth.
            created_at_ms: fresh.hlc.wall_ms(),
            mirror: Some(entry),
        };
        Write::Set { record, expected: Expected::Absent }
    }

    /// Waits for the rows under way, then gives these to a thread.
    fn send(&mut self, slots: Vec<Slot>, writes: Vec<Write>) {
        self.settle();
        if !writes.is_empty() && !self.done.is_down {
            self.sent = Some(Sent::new(self.adapter.clone(), slots, writes, None));
        }
    }

    fn settle(&mut self) {
        let Some(mut sent) = self.sent.take() else { return };
        let answers: Vec<Answer> = sent.answers();
        self.take_answers(sent.take_slots(), answers);
    }

    fn take_answers(&mut self, slots: Vec<Slot>, answers: Vec<Answer>) {
        for (slot, answer) in slots.into_iter().zip(answers) {
            match answer {
                Ok(_) => self.done.rows += 1,
                Err(error) => {
                    self.done.is_down |= is_down(&error);
                    self.done.left.push(slot);
                }
            }
        }
    }
}
