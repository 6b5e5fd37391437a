//! Mirror: the winner of each path as a row of the backend.
//!
//! Invariant: a row is only written from versions already in the ledger, by compare-and-set. The outbox is the span of
//! index rows not yet mirrored plus the paths that failed: paths, not values, so draining writes the winner of that
//! moment. A lost race is left to the foreign-edit reader and tried again; nothing is overwritten unseen.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use larder_adapters::{
    AdapterError, Body, ErrorKind, Expected, FileSyncAdapter, MirrorEntry, Record, RecordId, Revision, Row,
    SHARED_OWNER, Write,
};

use super::content::shape_of;
use super::resolve::{Outcome, Resolution};
use super::stores::ROW_CHANGES;
use super::{Engine, Report, Result, SyncError};
use crate::index::{Slot, Stored};
use crate::model::{Channel, ContentKind, RelPath, Space};
use crate::state::Direction;

/// Slots looked at per page; their rows are one batch, unless they are large.
const PAGE_SLOTS: usize = 1_000;
/// Rows read at once, to see what stands in them.
const LOOK_SLOTS: usize = 64;
/// Row contents gathered before a batch is written, in bytes. Two batches are in memory: one is written while the next is read.
pub(super) const BATCH_BYTES: usize = 1 << 20;
const FIRST_RETRY_MS: i64 = 500;
const LONGEST_RETRY_MS: i64 = 5 * 60 * 1000;

/// One row to be written, and whose it is.
struct Item {
    slot: Slot,
    write: Write,
    bytes: u64,
}

/// A batch that a thread of its own is writing while the next one is read. Dropping it waits for the thread.
pub(super) struct Sent {
    slots: Vec<Slot>,
    writer: Option<JoinHandle<Vec<Answer>>>,
    /// How far rows are mirrored once this batch is.
    mark: Option<i64>,
}

impl Sent {
    pub(super) fn new(
        adapter: Arc<dyn FileSyncAdapter>,
        slots: Vec<Slot>,
        writes: Vec<Write>,
        mark: Option<i64>,
    ) -> Sent {
        let writer = std::thread::spawn(move || adapter.write_batch_unsynced(&writes));
        Sent { slots, writer: Some(writer), mark }
    }

    pub(super) fn take_slots(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.slots)
    }

    /// Waits for the thread; there are as many answers as slots.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        let written = self.writer.take().map(JoinHandle::join);
        written.map_or_else(Vec::new, |written| written.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        // Answers nobody waits for: the rows are found as they are by the next run, as after a kill.
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Where batches go: to a thread of their own, or, the last ones, into the backend at once.
#[derive(Default)]
struct Outlet {
    sent: Option<Sent>,
    /// Whose rows that batch deletes.
    deletes: BTreeSet<Slot>,
    /// The row up to which the page under way reaches, if another page follows it.
    mark: Option<i64>,
}

pub(super) type Answer = std::result::Result<Revision, AdapterError>;

/// What a slot's row needs.
enum Need {
    /// It is right already, or not ours to write now.
    Nothing,
    /// This write.
    Row(Box<Item>),
    /// It cannot be written now.
    Later(String),
    /// Another program wrote the row, and that edit is no version yet.
    Foreign(Box<Row>),
}

fn deletes_among(slots: &[Slot], writes: &[Write]) -> BTreeSet<Slot> {
    let both = slots.iter().zip(writes);
    both.filter(|(_, write)| matches!(write, Write::Delete { .. })).map(|(slot, _)| slot.clone()).collect()
}

/// What was counted when it was sent, and was not done.
fn uncount(report: &mut Report, is_delete: bool) {
    let count = if is_delete { &mut report.rows_deleted } else { &mut report.rows_written };
    *count = count.saturating_sub(1);
}

impl Engine {
    /// Writes every row that differs from what its path resolves to. One failing row does not stop the others.
    pub fn mirror(&mut self, dry_run: bool, report: &mut Report) -> Result<()> {
        self.left_over.take_up_rows();
        let Some(adapter) = self.adapter.clone() else { return Ok(()) };
        let before = self.mirrored;
        let reached = self.mirror_new(&*adapter, dry_run, report);
        if dry_run {
            return reached.map(drop);
        }
        // Before anything says that the rows are there.
        if let Err(error) = adapter.sync_writes() {
            self.mirrored = before;
            return Err(error.into());
        }
        if !reached? {
            return Ok(());
        }
        self.record_late_rows(&*adapter, report)?;
        let now = self.now_ms() as i64;
        let (mirrored, name, is_done) =
            (self.mirrored, adapter.capabilities().name.clone(), !self.left_over.has_rows());
        let counted = adapter.changes_counted()?;
        // A mark that a power cut took back costs a second look at some rows.
        self.state.quick_transaction(|state| {
            state.set_meta_i64("mirrored", mirrored)?;
            if let Some(counted) = counted {
                state.set_meta_i64(ROW_CHANGES, counted.cast_signed())?;
            }
            if is_done {
                state.note_success(&name, Direction::Push, now)?;
            }
            Ok::<(), SyncError>(())
        })
    }

    /// Writes what failed before and is due, and every row that is new since the mark. False if the backend could not be reached.
    fn mirror_new(&mut self, adapter: &dyn FileSyncAdapter, dry_run: bool, report: &mut Report) -> Result<bool> {
        self.mirror_due(adapter, dry_run, report)?;
        let left = self.settle_ahead(report);
        if !self.mirror_slots(adapter, &left, dry_run, report)? {
            return Ok(false);
        }
        let last = self.index.max_row()?;
        let mut from = self.mirrored;
        let mut outlet = Outlet::default();
        let share = self.begin_share()?.with_nothing_to_find_out();
        while from < last {
            let page = self.index.slots_since(from, PAGE_SLOTS)?;
            let Some((next, _)) = page.last() else { break };
            from = *next;
            let slots: Vec<Slot> = page.into_iter().map(|(_, slot)| slot).collect();
            outlet.mark = (from < last).then_some(from);
            if !self.mirror_page(adapter, &slots, &mut outlet, dry_run, report)? {
                return Ok(false);
            }
            self.progress.at("mirroring", from as u64, last as u64);
            if from < last && share.is_over() {
                self.left_over.leave_rows();
                break;
            }
        }
        if !self.settle_sent(adapter, &mut outlet, report)? {
            return Ok(false);
        }
        if self.left_over.has_rows() {
            return Ok(true);
        }
        if !dry_run && self.mirrored < last {
            self.mirrored = last;
        }
        Ok(true)
    }

    /// Edits by other programs that a write ran into: they become versions, then their rows are due at once.
    fn record_late_rows(&mut self, adapter: &dyn FileSyncAdapter, report: &mut Report) -> Result<()> {
        let rows = std::mem::take(&mut self.late_rows);
        if rows.is_empty() || self.rows_wait {
            return Ok(());
        }
        self.record_rows(&rows, false, report)?;
        let slots: Vec<Slot> = rows.iter().filter_map(|row| self.slot_of_row(row)).collect();
        self.mirror_slots(adapter, &slots, false, report).map(drop)
    }

    /// Rows that failed before and are due again.
    fn mirror_due(&mut self, adapter: &dyn FileSyncAdapter, dry_run: bool, report: &mut Report) -> Result<()> {
        let now = self.now_ms() as i64;
        let (due, rowless): (Vec<Slot>, Vec<Slot>) = self
            .state
            .outbox()?
            .into_iter()
            .filter(|(_, _, _, next_ms, _)| *next_ms <= now)
            .map(|(channel, path, ..)| self.slot_of(channel, &path))
            .partition(|slot| slot.origin.is_none() && self.is_named(&slot.space));
        if !dry_run {
            // What can have no row in any backend waits for none.
            rowless.iter().try_for_each(|slot| self.state.clear_outbox(&slot.path))?;
        }
        self.mirror_slots(adapter, &due, dry_run, report).map(drop)
    }

    /// Mirrors some slots. False if the backend could not be reached at all.
    fn mirror_slots(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slots: &[Slot],
        dry_run: bool,
        report: &mut Report,
    ) -> Result<bool> {
        self.mirror_page(adapter, slots, &mut Outlet::default(), dry_run, report)
    }

    /// As `mirror_slots`; the last batch may still be under way in the outlet.
    fn mirror_page(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slots: &[Slot],
        outlet: &mut Outlet,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<bool> {
        self.index.begin_reading()?;
        self.contents.begin_reading()?;
        let reached = self.mirror_reading(adapter, slots, outlet, dry_run, report);
        self.contents.end_reading()?;
        self.index.end_reading()?;
        reached
    }

    fn mirror_reading(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slots: &[Slot],
        outlet: &mut Outlet,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<bool> {
        let mut batch: Vec<Item> = Vec::new();
        let mut batch_bytes = 0;
        // A path that changed many times is looked at once.
        let mut seen = HashSet::new();
        let with_row = slots.iter().filter(|slot| self.has_row(adapter, slot));
        let mirrored: Vec<&Slot> = with_row.filter(|slot| seen.insert(*slot)).collect();
        for group in mirrored.chunks(LOOK_SLOTS) {
            let looks = match self.look(adapter, group) {
                Err(SyncError::Adapter(error)) if is_down(&error) => {
                    if !dry_run {
                        let next_ms = self.postpone_after(group[0], &error)?;
                        self.state.hold_outbox(next_ms)?;
                    }
                    return self.backend_down(adapter, &error, report);
                }
                looks => looks?,
            };
            for (slot, (resolution, row)) in group.iter().zip(looks) {
                match self.need(adapter, slot, &resolution, row) {
                    Ok(Need::Nothing) if !self.state.any_outbox()? => {}
                    Ok(Need::Nothing) => self.state.clear_outbox(&slot.path)?,
                    Ok(Need::Later(why)) => self.postpone(slot, &why)?,
                    Ok(Need::Foreign(row)) => {
                        self.postpone(slot, "another program wrote its row; that edit is recorded first")?;
                        self.late_rows.push(*row);
                    }
                    Ok(Need::Row(item)) => {
                        batch_bytes += item.bytes as usize;
                        batch.push(*item);
                    }
                    Err(SyncError::Adapter(error)) if is_down(&error) => {
                        return self.backend_down(adapter, &error, report);
                    }
                    Err(error) => return Err(error),
                }
                if batch_bytes >= BATCH_BYTES || batch.len() >= adapter.capabilities().batch_rows.max(1) {
                    let items = std::mem::take(&mut batch);
                    if !self.pass_on(adapter, items, outlet, None, dry_run, report)? {
                        return Ok(false);
                    }
                    batch_bytes = 0;
                }
            }
        }
        let mark = outlet.mark;
        self.pass_on(adapter, batch, outlet, mark, dry_run, report)
    }

    /// What some slots resolve to, and their rows as they stand.
    fn look(&self, adapter: &dyn FileSyncAdapter, slots: &[&Slot]) -> Result<Vec<(Resolution, Option<Row>)>> {
        let mut looks = Vec::with_capacity(slots.len());
        let (mut asked, mut ids) = (Vec::new(), Vec::new());
        for slot in slots {
            let resolution = self.resolution(slot)?;
            if !matches!(resolution.outcome, Outcome::Pending(_)) && !self.is_fresh(&resolution) {
                asked.push(looks.len());
                ids.push(self.record_id(slot));
            }
            looks.push((resolution, None));
        }
        for (at, row) in asked.into_iter().zip(adapter.get_many(&ids)?) {
            looks[at].1 = row;
        }
        Ok(looks)
    }

    /// A path whose only version was made here can hardly have a row; the write itself finds out if it does.
    fn is_fresh(&self, resolution: &Resolution) -> bool {
        let own = self.identity.origin();
        let is_first = |winner: &Stored| winner.version.parents.is_empty() && winner.version.dot.lane.origin == *own;
        resolution.versions.len() == 1 && resolution.winner.as_ref().is_some_and(is_first)
    }

    /// Rows of what a dry run only listed as recorded.
    pub fn plan_rows_of_recorded(&mut self, report: &mut Report) {
        let planned = std::mem::take(&mut self.planned_rows);
        let Some(adapter) = self.adapter.clone() else { return };
        for (path, change) in &report.recorded {
            let counted = planned.contains(path) || self.is_without_row(&*adapter, path);
            match change {
                _ if counted => {}
                super::Change::Deleted => report.rows_deleted += 1,
                super::Change::Renamed { .. } => {
                    report.rows_written += 1;
                    report.rows_deleted += 1;
                }
                super::Change::Created | super::Change::Edited | super::Change::Adopted => report.rows_written += 1,
            }
        }
    }

    fn is_without_row(&self, adapter: &dyn FileSyncAdapter, path: &str) -> bool {
        let admitted = RelPath::parse(path).ok().and_then(|path| self.policy.rules.admit(&path).ok());
        admitted.is_some_and(|admitted| !self.has_row(adapter, &self.slot_of(admitted.channel(), admitted.path())))
    }

    /// Notes it, for `status` and for who asked for this run.
    fn backend_down(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        error: &AdapterError,
        report: &mut Report,
    ) -> Result<bool> {
        let now = self.now_ms() as i64;
        let name = adapter.capabilities().name.clone();
        self.state.note_failure(&name, Direction::Push, now, &error.to_string())?;
        if let ErrorKind::Throttled { retry_after_ms } = error.kind {
            self.let_backend_rest(retry_after_ms, &error.to_string());
        }
        report.backend_error.get_or_insert_with(|| error.to_string());
        Ok(false)
    }

    /// Works out what the row of a slot needs.
    fn need(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slot: &Slot,
        resolution: &Resolution,
        row: Option<Row>,
    ) -> Result<Need> {
        if let Outcome::Pending(why) = &resolution.outcome {
            return Ok(Need::Later((*why).to_owned()));
        }
        if self.is_held(resolution)? {
            return Ok(Need::Nothing);
        }
        self.need_given(adapter, slot, resolution, self.record_id(slot), row)
    }

    fn need_given(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slot: &Slot,
        resolution: &Resolution,
        id: RecordId,
        row: Option<Row>,
    ) -> Result<Need> {
        let entry_text = Self::version_text(&resolution.versions);
        if let Some(row) = &row {
            if row.is_foreign() && !self.is_row_recorded(slot, row)? {
                return Ok(Need::Foreign(Box::new(row.clone())));
            }
            let projected = row.mirror.as_ref().is_some_and(|entry| entry.version == entry_text);
            if projected && !row.is_foreign() {
                return Ok(Need::Nothing);
            }
        }
        let expected = match &row {
            Some(row) => Expected::Revision(row.revision.clone()),
            None => Expected::Absent,
        };
        let item = match &resolution.outcome {
            outcome if is_rowless(outcome) => {
                if row.is_none() {
                    return Ok(Need::Nothing);
                }
                Item { slot: slot.clone(), write: Write::Delete { id, expected }, bytes: 0 }
            }
            _ => match self.row_record(adapter, slot, resolution, &entry_text, row.as_ref())? {
                Some((record, bytes)) => Item { slot: slot.clone(), write: Write::Set { record, expected }, bytes },
                None if self.is_purged(resolution)? => return Ok(Need::Nothing),
                None => return Ok(Need::Later("its bytes are not here yet".to_owned())),
            },
        };
        Ok(Need::Row(Box::new(item)))
    }

    /// The record of a resolved content: text, or chunks of which only the changed end is written.
    fn row_record(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slot: &Slot,
        resolution: &Resolution,
        entry: &str,
        row: Option<&Row>,
    ) -> Result<Option<(Record, u64)>> {
        let Some(winner) = &resolution.winner else { return Ok(None) };
        let limits = adapter.capabilities();
        let Some((body, content_hash)) = self.row_body(limits, &slot.path, resolution, row)? else { return Ok(None) };
        let bytes = match &body {
            Body::Text(text) => text.len() as u64,
            Body::Chunks { add, .. } => add.iter().map(|chunk| chunk.len() as u64).sum(),
        };
        let record = Record {
            app: self.policy.app.clone(),
            owner: self.owner_of(slot),
            path: slot.path.as_str().to_owned(),
            body,
            last_updated_ms: winner.version.hlc.wall_ms(),
            created_at_ms: winner.version.born.wall_ms(),
            mirror: Some(MirrorEntry { version: entry.to_owned(), content_hash: *content_hash.as_bytes() }),
        };
        Ok(Some((record, bytes)))
    }

    /// Settles the batch under way, then writes this one: beside what follows, if another page does. False if the backend is down.
    fn pass_on(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        items: Vec<Item>,
        outlet: &mut Outlet,
        mark: Option<i64>,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<bool> {
        if !self.settle_sent(adapter, outlet, report)? {
            return Ok(false);
        }
        self.count_items(&items, dry_run, report);
        if dry_run {
            return Ok(true);
        }
        let (slots, writes): (Vec<Slot>, Vec<Write>) = items.into_iter().map(|item| (item.slot, item.write)).unzip();
        let deletes = deletes_among(&slots, &writes);
        match &self.adapter {
            Some(shared) if outlet.mark.is_some() && !writes.is_empty() => {
                outlet.sent = Some(Sent::new(shared.clone(), slots, writes, mark));
                outlet.deletes = deletes;
                Ok(true)
            }
            _ => {
                let answers = if writes.is_empty() { Vec::new() } else { adapter.write_batch(&writes) };
                self.settle_answers(adapter, &slots, &deletes, answers, mark, report)
            }
        }
    }

    fn count_items(&mut self, items: &[Item], dry_run: bool, report: &mut Report) {
        for item in items {
            if dry_run {
                self.planned_rows.insert(item.slot.path.shown());
            }
            match item.write {
                Write::Set { .. } => report.rows_written += 1,
                Write::Delete { .. } => report.rows_deleted += 1,
            }
            report.row_bytes += item.bytes;
        }
    }

    /// Waits for the batch under way, if there is one.
    fn settle_sent(&mut self, adapter: &dyn FileSyncAdapter, outlet: &mut Outlet, report: &mut Report) -> Result<bool> {
        let Some(mut sent) = outlet.sent.take() else { return Ok(true) };
        let answers = sent.answers();
        let deletes = std::mem::take(&mut outlet.deletes);
        self.settle_answers(adapter, &sent.slots, &deletes, answers, sent.mark, report)
    }

    /// Settles each item by its own answer. False if the backend is down.
    fn settle_answers(
        &mut self,
        adapter: &dyn FileSyncAdapter,
        slots: &[Slot],
        deletes: &BTreeSet<Slot>,
        answers: Vec<Answer>,
        mark: Option<i64>,
        report: &mut Report,
    ) -> Result<bool> {
        let mut down = None;
        let waits = self.state.any_outbox()?;
        for (slot, answer) in slots.iter().zip(answers) {
            match answer {
                Ok(_) if waits => self.state.clear_outbox(&slot.path)?,
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::Conflict => {
                    uncount(report, deletes.contains(slot));
                    self.write_again(adapter, slot, report)?;
                }
                // Only of a row that was to be deleted: somebody else did.
                Err(error) if error.kind == ErrorKind::NotFound => {
                    uncount(report, true);
                    self.write_again(adapter, slot, report)?;
                }
                Err(error) => {
                    uncount(report, deletes.contains(slot));
                    let next_ms = self.postpone_after(slot, &error)?;
                    if is_down(&error) {
                        down = Some((error, next_ms));
                    }
                }
            }
        }
        if let Some((error, next_ms)) = down {
            self.state.hold_outbox(next_ms)?;
            return self.backend_down(adapter, &error, report);
        }
        self.mirrored = mark.unwrap_or(self.mirrored);
        Ok(true)
    }

    /// A lost race: the row is read again and judged once more; what still fails waits in the outbox.
    fn write_again(&mut self, adapter: &dyn FileSyncAdapter, slot: &Slot, report: &mut Report) -> Result<()> {
        let resolution = self.resolution(slot)?;
        let id = self.record_id(slot);
        let row = adapter.get(&id)?;
        match self.need_given(adapter, slot, &resolution, id, row)? {
            Need::Nothing => Ok(self.state.clear_outbox(&slot.path)?),
            Need::Later(why) => self.postpone(slot, &why),
            Need::Foreign(row) => {
                self.late_rows.push(*row);
                self.postpone(slot, "another program wrote its row; that edit is recorded first")
            }
            Need::Row(item) => match adapter.write_batch(std::slice::from_ref(&item.write)).pop() {
                Some(Ok(_)) => {
                    match item.write {
                        Write::Set { .. } => report.rows_written += 1,
                        Write::Delete { .. } => report.rows_deleted += 1,
                    }
                    Ok(self.state.clear_outbox(&slot.path)?)
                }
                Some(Err(error)) => self.postpone_after(slot, &error).map(drop),
                None => self.postpone(slot, "the backend gave no answer"),
            },
        }
    }

    /// A row that is to be looked at in this run, whatever the marks say.
    pub(super) fn look_again(&self, slot: &Slot) -> Result<()> {
        let why = "an older version came back into its row";
        Ok(self.state.set_outbox(channel_of(slot), &slot.path, 0, self.now_ms() as i64, why)?)
    }

    fn postpone(&mut self, slot: &Slot, why: &str) -> Result<()> {
        self.postpone_by(slot, 0, why).map(drop)
    }

    /// Who says how long to wait is not asked sooner. Returns when the row is due, in wall milliseconds.
    fn postpone_after(&mut self, slot: &Slot, error: &AdapterError) -> Result<i64> {
        let least_ms = match error.kind {
            ErrorKind::Throttled { retry_after_ms } => i64::try_from(retry_after_ms).unwrap_or(LONGEST_RETRY_MS),
            _ => 0,
        };
        self.postpone_by(slot, least_ms.min(LONGEST_RETRY_MS), &error.to_string())
    }

    fn postpone_by(&mut self, slot: &Slot, least_ms: i64, why: &str) -> Result<i64> {
        let now = self.now_ms() as i64;
        let attempts = self.state.outbox_attempts(&slot.path)?;
        let backoff = FIRST_RETRY_MS.saturating_mul(1 << attempts.min(20)).min(LONGEST_RETRY_MS).max(least_ms);
        let mut jitter = [0u8; 2];
        self.env.random.fill(&mut jitter);
        let jitter = i64::from(u16::from_le_bytes(jitter)) * backoff / (4 * 65_536);
        let next_ms = now + backoff + jitter;
        self.state.set_outbox(channel_of(slot), &slot.path, attempts + 1, next_ms, why)?;
        Ok(next_ms)
    }

    /// The id of a slot's row.
    pub(super) fn record_id(&self, slot: &Slot) -> RecordId {
        RecordId::new(&self.policy.app, &self.owner_of(slot), slot.path.as_str())
    }

    pub(super) fn owner_of(&self, slot: &Slot) -> String {
        self.owner_in(&slot.space)
    }

    /// Whether a slot's content can stand in a row: an archive file's cannot, which has one for each origin.
    fn has_row(&self, adapter: &dyn FileSyncAdapter, slot: &Slot) -> bool {
        slot.origin.is_none() && self.has_rows(adapter, &slot.space)
    }

    /// Whether files of a space have rows in this backend.
    pub(super) fn has_rows(&self, adapter: &dyn FileSyncAdapter, space: &Space) -> bool {
        self.is_named(space) && (space.is_shared() || adapter.capabilities().own)
    }

    /// Whether there is a name for rows of a space.
    ///
    /// Private ones need a name of one's own: under the name that stands for everybody they would be everybody's to read,
    /// and one row with a shared file of that path.
    fn is_named(&self, space: &Space) -> bool {
        space.is_shared() || self.policy.owner != SHARED_OWNER
    }

    /// Whose the rows of a space are.
    pub(super) fn owner_in(&self, space: &Space) -> String {
        if space.is_shared() { SHARED_OWNER.to_owned() } else { self.policy.owner.clone() }
    }
}

/// Nothing, or a link, whose text in a row would become a file.
fn is_rowless(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Absent | Outcome::Unknown => true,
        Outcome::Pending(_) => false,
        Outcome::Content(_) | Outcome::Appended(_) => {
            shape_of(outcome).is_some_and(|(_, kind)| kind == ContentKind::Link)
        }
    }
}

fn channel_of(slot: &Slot) -> Channel {
    if slot.space.is_shared() { Channel::Shared } else { Channel::Private }
}

/// True if the backend itself is away, rather than one row refused.
pub(super) fn is_down(error: &AdapterError) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Throttled { .. } | ErrorKind::Corrupt)
}
