//! Stage: what stands in `.larder/displaced` though nothing names it.
//!
//! Invariant: a file goes only if its bytes are recorded, or if it is a copy whose staging was stopped, of which the ledger has
//! the bytes. What may be the only copy of something (it stood at a path, or a state that was lost may have named it) stays, has a name
//! that no sweep takes, and is told. Where it stood nobody knows, so it is not recorded here.

use std::collections::BTreeSet;

use rustix::fs::{AtFlags, fsync, linkat, unlinkat};
use rustix::io::Errno;

use super::displaced::{Held, held_at};
use super::place::ASIDE;
use super::{Engine, Result, io};
use crate::state::Problem;

/// In `state.db`: this state has seen the stage, so it names whatever was displaced since.
const KNOWN: &str = "stage_known";
/// Who tells of it in `status`.
const SOURCE: &str = "stage";
/// Names tried for a file that is kept.
const MAX_NAMES: usize = 100;
/// Lines of it in `status`.
const MAX_TOLD: usize = 20;

impl Engine {
    /// Removes what no intent and no displaced row names, if nothing is lost with it, and tells of the rest.
    pub(super) fn sweep_stage(&mut self) -> Result<()> {
        let names = self.stage.names().map_err(io("list .larder/displaced"))?;
        let is_known = self.state.meta_text(KNOWN)?.is_some();
        let mut left = Vec::new();
        if !names.is_empty() {
            for name in self.unnamed(names)? {
                left.extend(self.sweep_one(name, is_known)?);
            }
        }
        left.sort_by(|a, b| a.path.cmp(&b.path));
        self.kept_in_stage = left.iter().map(|problem| problem.path.clone()).collect();
        left.truncate(MAX_TOLD);
        self.state.set_problems(SOURCE, &left, self.now_ms() as i64)?;
        if !is_known {
            // A loss of power that takes this away has more told than must be.
            self.state.quickly(|| self.state.set_meta(KNOWN, Some(b"1")))?;
        }
        Ok(())
    }

    /// A person may have taken away what was told.
    pub(super) fn look_at_stage_again(&mut self) -> Result<()> {
        if self.kept_in_stage.is_empty() {
            return Ok(());
        }
        let names = self.stage.names().map_err(io("list .larder/displaced"))?;
        let standing: BTreeSet<String> = names.iter().map(|name| shown(name)).collect();
        if self.kept_in_stage.is_subset(&standing) { Ok(()) } else { self.sweep_stage() }
    }

    fn unnamed(&self, mut names: Vec<String>) -> Result<Vec<String>> {
        let displaced: BTreeSet<String> = self.state.displaced()?.into_iter().map(|one| one.id).collect();
        let intents: BTreeSet<String> = self.state.intents()?.into_iter().map(|intent| intent.id).collect();
        names.retain(|name| !displaced.contains(name) && !intents.contains(name.strip_suffix(ASIDE).unwrap_or(name)));
        Ok(names)
    }

    /// Removes one file, or keeps it and says why.
    fn sweep_one(&self, name: String, is_known: bool) -> Result<Option<Problem>> {
        let (is_recorded, unread) = match held_at(self.stage.dir(), &name) {
            Held::Gone => return Ok(None),
            Held::Unread(why) => (false, Some(why)),
            // What was let go or purged was recorded, and nobody is to have it any more.
            Held::Is(hash, size) => (self.ledger_has(&hash, size)? || self.index.dropped(&hash)?.is_some(), None),
        };
        // Under a name of its own it was staged by this state, and no intent was committed: only the ledger's bytes were.
        let is_torn_copy = is_known && !name.ends_with(ASIDE);
        if unread.is_none() && (is_recorded || is_torn_copy) {
            let removed = self.stage.remove(&name).err();
            return Ok(removed.map(|why| Problem { path: shown(&name), what: not_removed(&why) }));
        }
        let name = if is_torn_copy || name.ends_with(ASIDE) { name } else { self.keep_in_stage(name)? };
        Ok(Some(Problem { path: shown(&name), what: sentence(unread.as_deref()) }))
    }

    /// From the next start on this state counts as one that knows the stage: what was there before it needs a name of its own.
    fn keep_in_stage(&self, name: String) -> Result<String> {
        let dir = self.stage.dir();
        let failed = |errno: Errno| io("keep a file in .larder/displaced")(errno.into());
        for number in 0..MAX_NAMES {
            let kept = if number == 0 { format!("{name}{ASIDE}") } else { format!("{name}-{number}{ASIDE}") };
            // Never over another one, with or without flags of renames: a link replaces nothing.
            match linkat(dir, name.as_str(), dir, kept.as_str(), AtFlags::empty()) {
                Err(Errno::EXIST) => continue,
                linked => linked.map_err(failed)?,
            }
            unlinkat(dir, name.as_str(), AtFlags::empty()).and_then(|()| fsync(dir)).map_err(failed)?;
            return Ok(kept);
        }
        Err(failed(Errno::EXIST))
    }
}

fn shown(name: &str) -> String {
    format!(".larder/displaced/{name}")
}

fn not_removed(why: &std::io::Error) -> String {
    format!(
        "a sync left this file, nobody needs it, and it cannot be removed ({why}); remove it, or the next start tries again"
    )
}

fn sentence(unread: Option<&str>) -> String {
    let unread = unread.map_or_else(String::new, |why| format!(" and cannot be read ({why})"));
    format!(
        "a sync put this file aside, nothing says any more where it stood{unread}, and no version is known to have its bytes; copy it to where it belongs if anybody needs it, then remove it"
    )
}
