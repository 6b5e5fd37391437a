//! Foreign edits: rows that programs other than Larder inserted, changed or deleted become versions.
//!
//! Invariant: the parent of a foreign edit is what the row's mirror entry projects, whatever the text says; a row whose
//! entry names versions that are not here waits. Two observers make versions that count as one. No clock or vector in a
//! row is believed.

use std::collections::BTreeSet;

use larder_adapters::{Cursor, Query, Row, RowContent};
use larder_patterns::denied_content;

use super::publish::{Draft, Piece};
use super::{Change, Engine, Report, Result};
use crate::chunk::{self, CutKind};
use crate::index::{Slot, Stored};
use crate::model::{
    Channel, Content, ContentHash, ContentKind, Manifest, Reason, RelPath, State as VersionState, VersionId,
};
use crate::state::Direction;

/// Rows asked for at once: at first, and at most.
const PAGE_ROWS: [usize; 2] = [64, 1_000];
/// A page is to hold about so many bytes of text.
const PAGE_BYTES: usize = 1 << 20;
/// Versions of one path looked at for an edit that is recorded already.
const MAX_HISTORY: usize = 10_000;
/// Foreign rows held in memory between reading and recording.
const MAX_ROWS: usize = 200_000;

/// Rows that changed, and where the feed goes on.
pub struct RowsRead {
    rows: Vec<Row>,
    /// Rows that project versions which are not here.
    awaited: u64,
    /// Rows that project versions which others have replaced.
    stale: Vec<Slot>,
    cursor: Cursor,
    more: bool,
}

/// How many rows to ask for after these: rows of one project are much alike.
fn next_page_rows(rows: &[Row]) -> usize {
    let text_bytes = |row: &Row| match &row.content {
        RowContent::Text(text) => text.len(),
        _ => 0,
    };
    let bytes: usize = rows.iter().map(text_bytes).sum();
    let [first, most] = PAGE_ROWS;
    let fitting = (rows.len() * PAGE_BYTES).checked_div(bytes);
    fitting.map_or(first.max(rows.len()), |fitting| fitting.clamp(4, most))
}

/// What one foreign row means.
enum Verdict {
    Nothing,
    Waits(String),
    Refused(String),
    Edit(Box<Draft>, Option<(Manifest, Vec<u8>)>, Change),
}

impl Engine {
    /// Reads what changed in the backend since the last time. Compare it only after an exchange that follows.
    pub fn read_rows(&self) -> Result<Option<RowsRead>> {
        let Some(adapter) = &self.adapter else { return Ok(None) };
        let stored = self.state.meta_text("row_cursor")?;
        let mut read = RowsRead {
            rows: Vec::new(),
            awaited: 0,
            stale: Vec::new(),
            cursor: Cursor::from_text(stored.unwrap_or_default()),
            more: false,
        };
        let mut page_rows = PAGE_ROWS[0];
        loop {
            let page = adapter.query(&Query::changes(&self.policy.app, None, read.cursor.clone(), page_rows))?;
            page_rows = next_page_rows(&page.rows);
            for row in page.rows {
                if row.is_foreign() {
                    read.rows.push(row);
                } else if self.projects_unknown(&row)? {
                    read.awaited += 1;
                } else if let Some(slot) = self.shown_stale(&row)? {
                    read.stale.push(slot);
                }
            }
            read.cursor = page.cursor;
            read.more = page.more && read.rows.len() + read.stale.len() >= MAX_ROWS;
            if !page.more || read.more {
                return Ok(Some(read));
            }
        }
    }

    /// True if a row shows a version that is not here: its machine has not sent it yet.
    fn projects_unknown(&self, row: &Row) -> Result<bool> {
        let versions = row.mirror.iter().flat_map(|entry| entry.version.split(','));
        for id in versions.filter_map(|text| text.parse::<VersionId>().ok()) {
            if !self.index.has_version(&id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The slot of a row that shows what its path was: a write that was on its way for longer than its writer waited came after
    /// newer ones, or after the row was deleted.
    fn shown_stale(&self, row: &Row) -> Result<Option<Slot>> {
        let (Some(entry), Some(slot)) = (&row.mirror, self.slot_of_row(row)) else { return Ok(None) };
        let heads: BTreeSet<String> = self.index.heads(&slot)?.iter().map(|head| head.id.to_string()).collect();
        if entry.version.split(',').map(str::to_owned).collect::<BTreeSet<_>>() == heads {
            return Ok(None);
        }
        // Of several heads not all need be in what the path resolves to.
        let is_shown = heads.len() > 1 && Self::version_text(&self.resolution(&slot)?.versions) == entry.version;
        Ok((!is_shown).then_some(slot))
    }

    /// Says that files of another machine are known by their rows only, until an exchange brings them.
    fn say_awaited(&self, read: &RowsRead, dry_run: bool, report: &mut Report) -> Result<()> {
        let before = self.state.meta_i64("awaited_rows")?.unwrap_or(0);
        let awaited = if report.pulled > 0 { 0 } else { before.max(read.awaited as i64) };
        if awaited > 0 {
            let what = format!("{awaited} files of another machine wait until it runs once more");
            report.waiting.push(("(backend)".to_owned(), what));
        }
        if awaited != before && !dry_run {
            self.state.set_meta_i64("awaited_rows", awaited)?;
        }
        Ok(())
    }

    /// Records what was read, and the rows that waited before. True if there is more to read.
    pub fn record_rows_read(&mut self, read: &RowsRead, dry_run: bool, report: &mut Report) -> Result<bool> {
        self.say_awaited(read, dry_run, report)?;
        if self.rows_wait {
            let what =
                "its rows are not read while a chain there waits for its owner to be accepted: `larder peers accept`";
            report.waiting.push(("(backend)".to_owned(), what.to_owned()));
            return Ok(false);
        }
        let mut rows = read.rows.clone();
        rows.extend(self.rows_that_waited(&rows)?);
        self.record_rows(&rows, dry_run, report)?;
        if !dry_run {
            // Before the cursor passes them.
            read.stale.iter().try_for_each(|slot| self.look_again(slot))?;
            let now = self.now_ms() as i64;
            let name = self.adapter.as_ref().map(|adapter| adapter.capabilities().name.clone()).unwrap_or_default();
            if self.state.meta_text("row_cursor")?.unwrap_or_default() != read.cursor.as_str() {
                // One that a power cut took back costs a second look at some rows.
                self.state.quickly(|| self.state.set_meta("row_cursor", Some(read.cursor.as_str().as_bytes())))?;
            }
            self.state.note_success(&name, Direction::Pull, now)?;
        }
        Ok(read.more)
    }

    fn rows_that_waited(&self, fresh: &[Row]) -> Result<Vec<Row>> {
        let Some(adapter) = &self.adapter else { return Ok(Vec::new()) };
        let mut rows = Vec::new();
        for pending in self.state.pending()?.into_iter().filter(|pending| pending.what == "row") {
            let Ok(path) = RelPath::parse(&pending.path) else { continue };
            let Ok(admitted) = self.policy.rules.admit(&path) else { continue };
            let id = self.record_id(&self.slot_of(admitted.channel(), &path));
            if fresh.iter().all(|row| row.id != id) {
                match adapter.get(&id)? {
                    Some(row) if row.is_foreign() => rows.push(row),
                    _ => self.state.clear_pending(&path, "row")?,
                }
            }
        }
        Ok(rows)
    }

    /// Turns foreign rows into versions under this origin.
    pub(super) fn record_rows(&mut self, rows: &[Row], dry_run: bool, report: &mut Report) -> Result<()> {
        let now = self.now_ms() as i64;
        let mut drafts: Vec<(Draft, Vec<Piece>)> = Vec::new();
        let mut problems = Vec::new();
        for row in rows {
            let path = RelPath::parse(&row.path).ok();
            match self.judge_row(row)? {
                Verdict::Nothing => self.clear_row_wait(path.as_ref())?,
                Verdict::Waits(why) => {
                    report.waiting.push((row.path.clone(), why.clone()));
                    if let (Some(path), false) = (&path, dry_run) {
                        self.state.set_pending(path, "row", &why, now)?;
                    }
                }
                Verdict::Refused(why) => {
                    problems.push(crate::state::Problem { path: larder_patterns::shown(&row.path), what: why });
                }
                Verdict::Edit(draft, content, change) => {
                    report.recorded_rows.push((draft.slot.path.shown(), change));
                    let pieces = content.map(|(manifest, bytes)| Piece::of(&manifest, &bytes)).unwrap_or_default();
                    drafts.push((*draft, pieces));
                    self.clear_row_wait(path.as_ref())?;
                }
            }
        }
        report.problems.extend(problems.iter().map(|p| (p.path.clone(), p.what.clone())));
        if dry_run {
            return Ok(());
        }
        if !problems.is_empty() {
            self.state.set_problems("rows", &problems, now)?;
        }
        self.publish_drafts(drafts, report)
    }

    fn clear_row_wait(&self, path: Option<&RelPath>) -> Result<()> {
        match path {
            Some(path) if !self.state.pending()?.is_empty() => Ok(self.state.clear_pending(path, "row")?),
            _ => Ok(()),
        }
    }

    /// The slot a row belongs to, if its path and owner are ours and admitted.
    pub(super) fn slot_of_row(&self, row: &Row) -> Option<Slot> {
        let path = RelPath::parse(&row.path).ok()?;
        let channel = self.channel_of_row(row)?;
        Some(self.slot_of(channel, &path))
    }

    fn channel_of_row(&self, row: &Row) -> Option<Channel> {
        if row.owner == larder_adapters::SHARED_OWNER {
            Some(Channel::Shared)
        } else {
            (row.owner == self.policy.owner).then_some(Channel::Private)
        }
    }

    fn judge_row(&self, row: &Row) -> Result<Verdict> {
        let Some(channel) = self.channel_of_row(row) else { return Ok(Verdict::Nothing) };
        if !row.is_foreign() {
            return Ok(Verdict::Nothing);
        }
        let path = match RelPath::parse(&row.path) {
            Ok(path) => path,
            Err(error) => {
                return Ok(Verdict::Refused(format!("a row of another program has a path no file can have: {error}")));
            }
        };
        match self.policy.rules.admit_from_outside(&path) {
            Err(refusal) => {
                return Ok(Verdict::Refused(format!("a row of another program is not taken in: {refusal}")));
            }
            Ok(admitted) if admitted.channel() != channel => {
                let what = format!(
                    "a row of another program has owner {:?}, but the path is {}",
                    row.owner,
                    admitted.channel()
                );
                return Ok(Verdict::Refused(what));
            }
            Ok(_) => {}
        }
        let slot = self.slot_of(channel, &path);
        let parents = match self.parents_of_row(&slot, row)? {
            Ok(parents) => parents,
            Err(why) => return Ok(Verdict::Waits(why)),
        };
        if self.is_row_recorded(&slot, row)? {
            return Ok(Verdict::Nothing);
        }
        match &row.content {
            RowContent::Text(text) => self.judge_text(slot, channel, row, text, parents),
            RowContent::Absent => Ok(self.row_edit(slot, channel, parents, None)),
            RowContent::Unread | RowContent::Chunked { .. } => Ok(Verdict::Nothing),
            RowContent::Invalid(why) => Ok(Verdict::Refused(why.clone())),
        }
    }

    fn judge_text(&self, slot: Slot, channel: Channel, row: &Row, text: &str, parents: Vec<Stored>) -> Result<Verdict> {
        let bytes = text.as_bytes();
        if let Some(denied) = denied_content(&bytes[..bytes.len().min(larder_patterns::CONTENT_HEAD_BYTES)]) {
            return Ok(Verdict::Refused(format!("a row of another program is not taken in: {denied}")));
        }
        if bytes.len() as u64 > self.policy.max_file_bytes {
            return Ok(Verdict::Refused("a row of another program is larger than maxFileBytes".to_owned()));
        }
        let unchanged = row.mirror.as_ref().is_some_and(|entry| entry.content_hash == *blake3::hash(bytes).as_bytes());
        if unchanged {
            return Ok(Verdict::Nothing);
        }
        let manifest = chunk::split_bytes(CutKind::of(&slot.path), bytes);
        if let Some(purged) = self.index.dropped(&manifest.content)?.filter(|dropped| dropped.purged) {
            return Ok(Verdict::Refused(format!(
                "a row of another program holds a content that was {}; it is not taken in again: change the row, or delete it",
                purged.sentence()
            )));
        }
        Ok(self.row_edit(slot, channel, parents, Some((manifest, bytes.to_vec()))))
    }

    fn row_edit(
        &self,
        slot: Slot,
        channel: Channel,
        parents: Vec<Stored>,
        content: Option<(Manifest, Vec<u8>)>,
    ) -> Verdict {
        let had_content = parents.iter().find_map(|parent| parent.version.content());
        let state = match &content {
            None => VersionState::Tombstone { reason: Reason::User, moved_to: None },
            Some((manifest, _)) => VersionState::Content(Content {
                hash: manifest.content,
                size: manifest.size,
                kind: had_content.map_or(ContentKind::File { exec: false }, |content| content.kind),
            }),
        };
        let change = match (&content, had_content) {
            (None, _) => Change::Deleted,
            (Some(_), Some(_)) => Change::Edited,
            (Some(_), None) => Change::Created,
        };
        let backend = self.adapter.as_ref().map(|adapter| adapter.capabilities().name.clone()).unwrap_or_default();
        let draft = Draft {
            slot,
            channel,
            parents,
            state,
            moved_from: None,
            via: Some(format!("backend:{backend}")),
            adopted: false,
        };
        Verdict::Edit(Box::new(draft), content, change)
    }

    /// The versions a row projects. The inner error says why it waits.
    fn parents_of_row(&self, slot: &Slot, row: &Row) -> Result<std::result::Result<Vec<Stored>, String>> {
        let Some(entry) = &row.mirror else {
            let heads = self.index.heads(slot)?;
            let all_gone = heads.iter().all(|head| head.version.content().is_none());
            return Ok(Ok(if all_gone { heads } else { Vec::new() }));
        };
        let mut parents = Vec::new();
        for text in entry.version.split(',').filter(|text| !text.is_empty()) {
            let Ok(id) = text.parse::<VersionId>() else {
                return Ok(Err(
                    "its mirror entry names no version; delete the entry to have the row taken as new".to_owned()
                ));
            };
            match self.index.version(&id)? {
                Some(stored) if stored.version.path == slot.path => parents.push(stored),
                Some(_) => return Ok(Err("its mirror entry names a version of another path".to_owned())),
                None => return Ok(Err(format!("waits for version {}.. from another machine", id.0.short(8)))),
            }
        }
        Ok(Ok(parents))
    }

    /// True if what another program wrote into the row is already a version with the right parents. Chunks are Larder's alone: where
    /// their line was lost with its table, nobody's edit stands in them.
    pub(super) fn is_row_recorded(&self, slot: &Slot, row: &Row) -> Result<bool> {
        let hash = match &row.content {
            RowContent::Text(text) => Some(ContentHash::of(text.as_bytes())),
            RowContent::Absent => None,
            RowContent::Chunked { .. } => return Ok(true),
            RowContent::Unread | RowContent::Invalid(_) => return Ok(false),
        };
        if hash.is_some() && row.mirror.as_ref().map(|entry| entry.content_hash) == hash.map(|hash| *hash.as_bytes()) {
            return Ok(true);
        }
        let projected = row.mirror.as_ref().map(|entry| entry.version.as_str());
        for stored in self.index.history(slot, MAX_HISTORY)? {
            let same_state = stored.version.content().map(|content| content.hash) == hash;
            let same_parents = match projected {
                Some(projected) => Self::version_text(&stored.version.parents) == projected,
                None => stored.version.via.is_some() || stored.version.parents.is_empty(),
            };
            if same_state && same_parents {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
