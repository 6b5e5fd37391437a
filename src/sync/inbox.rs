//! The inbox: what paired devices put here, until it is taken into the ledger by the rules of every exchange.
//!
//! `.larder/inbox/` is a store like any other, filled by a server and emptied here. Invariant: nothing leaves it that is not whole in
//! the ledger, but what does not count any more or was purged; what the exchange refuses or lets wait stays there and is named. Whoever
//! put it is believed at first sight, as with any store that a person named: the device was paired. Knows nothing of servers.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::exchange::{Direction, Trust};
use super::stores::{Marks, Terms};
use super::{Engine, Report, Result, SyncError};
use crate::ledger::{ArtifactKind, ArtifactName, PackIndex};
use crate::model::{SegmentHash, Space};
use crate::state::Problem;
use crate::transport::folder::STORE_FILE;
use crate::transport::{Depth, FolderTransport, ListRequest, Transport};

/// The inbox's folder, in `.larder`.
pub const INBOX: &str = "inbox";
/// Its line in the journal, and whose problems are told under it.
const LINE: &str = "inbox";
/// Pages of names that are looked at for what may go; the next run goes on.
const MAX_PAGES: usize = 100;

/// How long a pack that nothing names waits for its checkpoint.
const LEFT_OVER_MS: u64 = 7 * 24 * 3_600_000;

impl Engine {
    /// Takes what others put here into the ledger, replays it, and empties the inbox of it. Returns how many artifacts came.
    ///
    /// Nothing at all if there is no inbox or nothing in it. An inbox that cannot be read is a problem that is named. Errors:
    /// only what is about this machine.
    pub fn take_inbox(&mut self, report: &mut Report) -> Result<u64> {
        match self.try_inbox(report) {
            Err(SyncError::Transport(error)) => {
                let problem = Problem { path: "(inbox)".to_owned(), what: error.to_string() };
                self.state.set_problems(LINE, &[problem], self.now_ms() as i64)?;
                Ok(0)
            }
            outcome => outcome,
        }
    }

    fn try_inbox(&mut self, report: &mut Report) -> Result<u64> {
        let folder = self.ledger.larder().join(INBOX);
        if !folder.join(STORE_FILE).exists() {
            return Ok(0);
        }
        let place = FolderTransport::open(&folder, LINE)?;
        let mut waiting = self.artifacts_in(&place)?;
        let mut spaces: Vec<Space> = waiting.iter().map(|name| name.chain().space.clone()).collect();
        spaces.sort();
        spaces.dedup();
        // Of another owner's private files only the server knows; they wait for that owner's devices.
        spaces.retain(|space| space.is_shared() || *space == self.private_space);
        if spaces.is_empty() {
            return self.inbox_is_empty();
        }
        let before = report.pulled;
        let terms = Terms {
            line: LINE.to_owned(),
            problems: LINE.to_owned(),
            ways: Vec::new(),
            spaces: spaces.clone(),
            direction: Direction::Pull,
            push: false,
            marks: Marks::None,
            // Who was paired may let in whom he likes: what he hands over is as good as that.
            trust: Trust::FirstUse,
            late: self.awaited_among(&waiting)?,
            gives_way: false,
        };
        if let Some(why) = self.exchange_store(&place, terms, report)? {
            report.problems.push(("(inbox)".to_owned(), why));
        }
        waiting.retain(|name| spaces.contains(&name.chain().space));
        self.empty_inbox(&folder, &waiting)?;
        Ok(report.pulled - before)
    }

    /// What no checkpoint in the inbox names although it is to be taken. Packs that came after the checkpoint that names them was taken in, and
    /// so out of here: a line that breaks in the midst of a pack goes on with the checkpoint and brings the pack another time. And what
    /// is here already: a server takes that only where ours is damaged.
    fn awaited_among(&self, waiting: &[ArtifactName]) -> Result<Vec<ArtifactName>> {
        let is_pack = |name: &&ArtifactName| name.kind() == ArtifactKind::Pack;
        let (here, strange): (Vec<_>, Vec<_>) = waiting.iter().cloned().partition(|name| self.ledger.has(name));
        if strange.iter().find(is_pack).is_none() {
            return Ok(here);
        }
        let awaited: HashSet<ArtifactName> = self.awaited_packs()?.into_iter().collect();
        Ok(here.into_iter().chain(strange.into_iter().filter(|name| awaited.contains(name))).collect())
    }

    /// The last complaint about what stood there is over.
    fn inbox_is_empty(&self) -> Result<u64> {
        for (source, _) in self.state.problems()?.iter().filter(|(source, _)| source.starts_with(LINE)) {
            self.state.set_problems(source, &[], self.now_ms() as i64)?;
        }
        Ok(0)
    }

    fn artifacts_in(&self, place: &FolderTransport) -> Result<Vec<ArtifactName>> {
        let prefix = format!("{}/", self.policy.app);
        let mut request = ListRequest::new(&prefix, Depth::All);
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = place.list(&request)?;
            found.extend(page.names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse::<ArtifactName>().ok()));
            match page.names.last() {
                Some(last) if page.more => request = request.after(last),
                _ => break,
            }
        }
        Ok(found)
    }

    /// Removes what is whole in the ledger: checkpoints last, so that a stop in between leaves what names the rest.
    fn empty_inbox(&self, folder: &Path, names: &[ArtifactName]) -> Result<()> {
        let mut names: Vec<&ArtifactName> = names.iter().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.kind()));
        let purged = self.index.purged_segments()?;
        for name in names {
            // What stands below a floor is taken by nobody any more.
            let floor = self.index.floor(name.chain())?.seq;
            let below = matches!(name, ArtifactName::Checkpoint { seq, .. } if *seq < floor);
            let path = path_in(folder, &self.policy.app, name);
            if below || self.ledger.is_whole(name) || self.is_left_over(&path, name, floor, &purged)? {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// True for a pack with bytes of what is purged that nothing here has named for a week: its checkpoint may be on its way, and other
    /// contents of it stand nowhere else, if its writer is lost.
    fn is_left_over(
        &self,
        path: &Path,
        name: &ArtifactName,
        floor: u64,
        purged: &HashSet<SegmentHash>,
    ) -> Result<bool> {
        if purged.is_empty() || name.kind() != ArtifactKind::Pack || self.ledger.has(name) {
            return Ok(false);
        }
        let Ok(file) = File::open(path) else { return Ok(false) };
        let modified = file.metadata().and_then(|facts| facts.modified()).ok();
        let modified_ms = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_millis());
        if modified_ms.is_none_or(|at| u128::from(self.now_ms()) < at + u128::from(LEFT_OVER_MS)) {
            return Ok(false);
        }
        let index = PackIndex::read(&file).ok();
        let holds = index.is_some_and(|index| index.places(name).any(|(segment, _)| purged.contains(&segment)));
        Ok(holds && !self.ledger.standing(name.chain(), floor)?.contains(name))
    }
}

/// Parts of a parsed name are plain characters: joined, they stay below the folder.
fn path_in(folder: &Path, app: &str, name: &ArtifactName) -> PathBuf {
    folder.join(app).join(name.to_string())
}

/// What could not be removed is tried again by the next run. Not synced: it comes back at worst, and goes again.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SyncError::Io { doing: "empty the inbox", source: error })
        }
        _ => Ok(()),
    }
}
