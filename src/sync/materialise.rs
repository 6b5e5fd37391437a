//! Materialise: what paths resolve to is written to disk, in batches.
//!
//! Invariant: every path whose heads changed is judged once by what stands there, and again while it waits. `plan` decides, `apply` changes the disk.

use rustix::process::{Resource, getrlimit};

use super::content::shape_of;
use super::place::{PlaceError, Spot, Standing};
use super::plan::{Action, BaseFacts, Disk, REFUSED, Sight, WAITS, plan};
use super::resolve::{Outcome, Resolution};
use super::{Change, Engine, Report, Result, SyncError};
use crate::index::Slot;
use crate::model::{ContentKind, RelPath};
use crate::scan;
use crate::state::{Base, Pending};

/// Slots looked at per page.
const PAGE_SLOTS: usize = 2_000;
/// Files changed under one set of intents.
const BATCH_FILES: usize = 2_000;
/// Bytes staged for one set of intents.
const BATCH_BYTES: u64 = 256 << 20;
/// Whatever a process may have open, in batches smaller than this every file would wait for the disk alone.
const FEWEST_AT_ONCE: u64 = 16;
/// How many files are changed at once by a process that may have so many open: half of them are for everything else.
fn files_at_once(may_open: Option<u64>) -> usize {
    let half = may_open.map_or(u64::MAX, |files| files / 2).max(FEWEST_AT_ONCE);
    usize::try_from(half).unwrap_or(BATCH_FILES).min(BATCH_FILES)
}

/// One path to be changed on disk.
pub(super) struct Step {
    pub(super) slot: Slot,
    pub(super) resolution: Resolution,
    pub(super) base: Option<Base>,
    pub(super) remove: bool,
}

impl Step {
    /// Where.
    pub(super) fn path(&self) -> &RelPath {
        &self.slot.path
    }

    /// The head that decided.
    pub(super) fn winner(&self) -> Option<&crate::index::Stored> {
        self.resolution.winner.as_ref()
    }

    /// True if a file of ours stands there.
    pub(super) fn has_base(&self) -> bool {
        self.base.is_some()
    }
}

/// What was decided of a path whose file stays as it is.
enum Noted {
    Settled,
    /// The base's file already holds what was resolved.
    Adopted,
    /// Gone on both sides.
    Forgotten,
    Waits {
        what: &'static str,
        why: String,
    },
}

/// Why a path of elsewhere has no place here; what `.gitignore` files say may change without a word.
const IGNORED_HERE: &str = "a .gitignore here names it, and `respectGitignore` is on";
/// In `state.db`: by which rules the paths that wait as refused were judged last.
const REFUSED_BY: &str = "refused_by";

impl Engine {
    /// Brings the disk to what the heads say. With `dry_run` only lists it.
    pub fn materialise(&mut self, dry_run: bool, report: &mut Report) -> Result<()> {
        let rules = Some(self.policy.fingerprint.clone());
        let before = self.state.meta_text(REFUSED_BY)?;
        let same_rules = before == rules;
        let retry = self.paths_that_wait(same_rules)?;
        self.materialise_slots(&retry, dry_run, report)?;
        if !same_rules && before.is_some() {
            self.materialise_let_go(dry_run, report)?;
        }
        if !same_rules && !dry_run {
            self.state.set_meta(REFUSED_BY, rules.as_deref().map(str::as_bytes))?;
        }
        let last = self.index.max_row()?;
        let mut from = self.materialised;
        while from < last {
            let page = self.index.slots_since(from, PAGE_SLOTS)?;
            let Some((next, _)) = page.last() else { break };
            from = *next;
            let slots: Vec<Slot> =
                page.into_iter().map(|(_, slot)| slot).filter(|slot| slot.origin.is_none()).collect();
            self.materialise_slots(&slots, dry_run, report)?;
            if !dry_run {
                self.materialised = from;
            }
            self.progress.at("writing files", from as u64, last as u64);
        }
        if !dry_run && self.state.meta_i64("materialised")? != Some(last) {
            self.materialised = last;
            self.save_marks()?;
        }
        Ok(())
    }

    /// What earlier rules let go and these keep comes back where nothing stands any more: that somebody removed it meanwhile was nobody's
    /// to see. What stands there was found by the look that came before.
    fn materialise_let_go(&mut self, dry_run: bool, report: &mut Report) -> Result<()> {
        let (mut from, last) = (0, self.materialised);
        while from < last {
            let page = self.index.slots_since(from, PAGE_SLOTS)?;
            let Some((next, _)) = page.last() else { break };
            from = *next;
            let mut slots = Vec::new();
            for (_, slot) in page {
                let is_kept = slot.origin.is_none() && self.refusal(&slot).is_none();
                if is_kept && self.state.base(&slot.path)?.is_none() {
                    slots.push(slot);
                }
            }
            self.materialise_slots(&slots, dry_run, report)?;
        }
        Ok(())
    }

    /// What is tried again: with the same rules not what they refused.
    fn paths_that_wait(&self, same_rules: bool) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        let is_due = |pending: &Pending| {
            WAITS.contains(&&*pending.what) && (pending.what != REFUSED || !same_rules || pending.why == IGNORED_HERE)
        };
        for pending in self.state.pending()?.into_iter().filter(is_due) {
            let Ok(path) = RelPath::parse(&pending.path) else { continue };
            let channel = self.policy.rules.admit(&path).map(|admitted| admitted.channel());
            slots.push(self.slot_of(channel.unwrap_or(crate::model::Channel::Shared), &path));
        }
        Ok(slots)
    }

    fn materialise_slots(&mut self, slots: &[Slot], dry_run: bool, report: &mut Report) -> Result<()> {
        let mut slots: Vec<&Slot> = slots.iter().collect();
        slots.sort();
        slots.dedup();
        let mut removals = Vec::new();
        let mut writes = Vec::new();
        for slot in slots {
            if self.unfinished.contains(&slot.path) {
                report.waiting.push((slot.path.shown(), "a change of it was interrupted".to_owned()));
                continue;
            }
            let base = self.state.base(&slot.path)?.filter(|base| self.space_of(base.channel) == slot.space);
            let resolution = self.resolution(slot)?;
            let same = base.as_ref().is_some_and(|base| base.versions == resolution.versions);
            if same || self.is_purged(&resolution)? {
                self.clear_waits(&slot.path, dry_run)?;
                continue;
            }
            let step = Step { slot: slot.clone(), remove: resolution.outcome == Outcome::Absent, resolution, base };
            if step.remove { removals.push(step) } else { writes.push(step) }
        }
        self.apply_brake(&removals, dry_run)?;
        // Removals come first: a file may have to make room for a folder of its name, or for its twin.
        self.run_steps(removals, dry_run, report)?;
        self.run_steps(writes, dry_run, report)
    }

    fn run_steps(&mut self, steps: Vec<Step>, dry_run: bool, report: &mut Report) -> Result<()> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut notes = Vec::new();
        // Each holds its folder open until all have their names.
        let most = files_at_once(getrlimit(Resource::Nofile).current);
        let root = self.root.clone();
        let mut ignored = self.policy.respect_gitignore.then(|| scan::Ignored::new(&root));
        for step in steps {
            match self.decide(&step, ignored.as_mut())? {
                Action::Nothing => notes.push((step, Noted::Settled)),
                Action::Adopt => notes.push((step, Noted::Adopted)),
                Action::Forget => notes.push((step, Noted::Forgotten)),
                Action::Wait { what, why } => {
                    report.waiting.push((step.slot.path.shown(), why.clone()));
                    notes.push((step, Noted::Waits { what, why }));
                }
                Action::Write | Action::Remove => {
                    report.written.push((step.slot.path.shown(), change_of(&step)));
                    bytes += shape_of(&step.resolution.outcome).map_or(0, |(size, _)| size);
                    batch.push(step);
                }
            }
            if batch.len() >= most || bytes >= BATCH_BYTES {
                self.apply(std::mem::take(&mut batch), dry_run, report)?;
                bytes = 0;
            }
        }
        if !dry_run {
            self.note_all(notes)?;
        }
        self.apply(batch, dry_run, report)
    }

    /// Notes in one commit what was decided of paths whose files stay as they are.
    fn note_all(&mut self, notes: Vec<(Step, Noted)>) -> Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let now = self.now_ms() as i64;
        let waits_stand = self.state.any_pending()?;
        self.state.transaction(|state| {
            for (step, note) in notes {
                let path = &step.slot.path;
                let awaited = match &note {
                    Noted::Waits { what, why } => {
                        state.set_pending(path, what, why, now)?;
                        Some(*what)
                    }
                    Noted::Forgotten => {
                        state.remove_base(path)?;
                        None
                    }
                    Noted::Adopted => {
                        if let Some(base) = step.base {
                            state.set_base(&Base { versions: step.resolution.versions, ..base })?;
                        }
                        None
                    }
                    Noted::Settled => None,
                };
                // What it waited for before is not what it waits for now.
                for what in WAITS.iter().filter(|what| waits_stand && Some(**what) != awaited) {
                    state.clear_pending(path, what)?;
                }
            }
            Ok::<(), SyncError>(())
        })
    }

    fn clear_waits(&self, path: &RelPath, dry_run: bool) -> Result<()> {
        if dry_run || !self.state.any_pending()? {
            return Ok(());
        }
        for what in WAITS {
            self.state.clear_pending(path, what)?;
        }
        Ok(())
    }

    /// Gathers what the planner wants to know of one path.
    fn decide(&self, step: &Step, ignored: Option<&mut scan::Ignored<'_>>) -> Result<Action> {
        let path = &step.slot.path;
        let is_ignored = ignored.is_some_and(|ignored| ignored.names(path));
        let refused = self.refusal(&step.slot).or_else(|| is_ignored.then(|| IGNORED_HERE.to_owned()));
        let spot = Spot::open(&self.root, path, false);
        let standing = match &spot {
            Ok(Some(spot)) => spot.standing().map_err(|source| SyncError::Place { path: path.shown(), source })?,
            Ok(None) => Standing::Absent,
            // Above it, where a folder has to be: it is neither a folder nor anything that may be followed.
            Err(PlaceError::InTheWay { .. }) => Standing::Special,
            Err(error) => return Ok(Action::Wait { what: "write", why: error.to_string() }),
        };
        let disk = match (&standing, &step.base) {
            (Standing::Absent, _) => Disk::Absent,
            (Standing::File(kind, stat), Some(base)) if *kind == base.kind && *stat == base.stat => Disk::AsBase,
            (Standing::File(..), _) => Disk::Unrecorded,
            (Standing::Folder, _) => Disk::InTheWay("a folder stands in its place"),
            (Standing::Special, _) if spot.is_err() => {
                Disk::InTheWay("a file or a link stands where a folder above it has to be")
            }
            (Standing::Special, _) => Disk::InTheWay("a pipe, a socket or a device stands in its place"),
        };
        let creates = disk == Disk::Absent && step.base.is_none() && !step.remove;
        let twins = match &spot {
            Ok(Some(spot)) if creates => spot.twins().unwrap_or_default(),
            _ => Vec::new(),
        };
        let open_for_writing = disk == Disk::AsBase
            && matches!(standing, Standing::File(ContentKind::File { .. }, _))
            && scan::open_for_writing_elsewhere(&self.root, path).unwrap_or(false);
        let facts = step.base.as_ref().map(|base| BaseFacts {
            versions: base.versions.clone(),
            hash: base.hash,
            kind: base.kind,
        });
        Ok(plan(&Sight {
            base: facts.as_ref(),
            disk,
            resolution: &step.resolution,
            refused: refused.as_deref(),
            held: self.is_held(&step.resolution)?,
            twin: twins.first().map(String::as_str),
            open_for_writing,
        }))
    }

    /// Why today's rules keep a path of elsewhere off this disk.
    fn refusal(&self, slot: &Slot) -> Option<String> {
        match self.policy.rules.admit_from_outside(&slot.path) {
            Err(refusal) => Some(refusal.to_string()),
            Ok(admitted) if self.slot_of(admitted.channel(), &slot.path) != *slot => {
                Some(format!("the patterns here say {}, the other machine another channel", admitted.channel()))
            }
            Ok(_) => None,
        }
    }
}

fn change_of(step: &Step) -> Change {
    match (step.remove, &step.base) {
        (true, _) => Change::Deleted,
        (false, Some(_)) => Change::Edited,
        (false, None) => Change::Created,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_files_are_changed_at_once_than_half_of_what_may_be_open() {
        let at_once = [None, Some(1 << 20), Some(1024), Some(200), Some(3)].map(files_at_once);

        assert_eq!(at_once, [BATCH_FILES, BATCH_FILES, 512, 100, 16]);
    }
}
