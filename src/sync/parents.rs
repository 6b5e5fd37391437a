//! Parents: what an edit that was found on the disk stands on.
//!
//! Invariant: an edit stands on the whole base of its file, or on what was recorded of this very file after it; without a base it stands on
//! what a stop explains, on what is gone, or on nothing. What the disk holds of what is known already is no edit.

use super::{Engine, Result};
use crate::index::{Slot, Stored};
use crate::model::{Content, VersionId};
use crate::state::Base;

/// Versions of one path looked at for a known content.
const MAX_HISTORY: usize = 100_000;
/// The answer to: what does this edit stand on?
pub(super) enum Parents {
    /// These versions; the edit is new.
    Of(Vec<Stored>),
    /// It is no edit: the disk holds what these versions resolve to.
    Known(Vec<VersionId>),
}

impl Engine {
    /// The versions that an edit of a file with this base stands on.
    ///
    /// After a crash between the ledger and the state, the base is older than what was last recorded of this very file:
    /// then the edit stands on that. Versions that a row or a command made are none of the file's.
    pub(super) fn parents_of_base(&mut self, slot: &Slot, base: &Base, heads: &[Stored]) -> Result<Vec<Stored>> {
        if let ([head], [known]) = (heads, base.versions.as_slice())
            && head.id == *known
        {
            // Nothing of this path can be newer than its only head.
            return Ok(heads.to_vec());
        }
        let mut parents = Vec::with_capacity(base.versions.len());
        for id in &base.versions {
            parents.extend(self.index.version(id)?);
        }
        let Some(last) = self.last_of_file(slot)? else { return Ok(parents) };
        let newer = !base.versions.contains(&last.id);
        let descends = parents.iter().all(|parent| last.version.descends_from(&parent.version.dot));
        Ok(if newer && descends && !parents.is_empty() { vec![last] } else { parents })
    }

    /// The newest version of a path that was made here, of the file itself.
    fn last_of_file(&mut self, slot: &Slot) -> Result<Option<Stored>> {
        let chain = self.own_chain(&slot.space)?.chain.clone();
        let Some(own) = self.index.lane_of(&chain, slot)? else { return Ok(None) };
        Ok(self.index.version(&own.id)?.filter(|last| last.version.via.is_none()))
    }

    /// The same, if it is one of `heads` and has content.
    fn own_last(&mut self, slot: &Slot, heads: &[Stored]) -> Result<Option<Stored>> {
        let chain = self.own_chain(&slot.space)?.chain.clone();
        let may_be = |head: &Stored| head.version.content().is_some() && head.version.dot.lane.is_of(&chain);
        if !heads.iter().any(may_be) {
            return Ok(None);
        }
        let last = self.last_of_file(slot)?.filter(|last| last.version.content().is_some());
        Ok(last.filter(|last| heads.iter().any(|head| head.id == last.id)))
    }

    /// Which versions an edit descends from, or which it already is.
    pub(super) fn parents_for(
        &mut self,
        slot: &Slot,
        base: Option<&Base>,
        heads: &[Stored],
        content: &Content,
        first_contact: bool,
    ) -> Result<Parents> {
        let is_content = |stored: &&Stored| stored.version.content().as_ref() == Some(content);
        if let Some(base) = base {
            let parents = self.parents_of_base(slot, base, heads)?;
            // A crash between the ledger and the state: the very edit is a head already.
            let descends = |head: &Stored| parents.iter().all(|parent| head.version.descends_from(&parent.version.dot));
            if let Some(head) = heads.iter().filter(is_content).find(|head| descends(head)) {
                return Ok(Parents::Known(vec![head.id]));
            }
            return Ok(Parents::Of(parents));
        }
        if heads.is_empty() {
            return Ok(Parents::Of(Vec::new()));
        }
        if let Some(own) = self.own_last(slot, heads)? {
            // Without a base only a crash explains an own version with content: the file is an edit of that.
            let is_it = own.version.content().as_ref() == Some(content);
            return Ok(if is_it { Parents::Known(vec![own.id]) } else { Parents::Of(vec![own]) });
        }
        let all_gone = heads.iter().all(|head| head.version.content().is_none());
        if !all_gone {
            let resolution = self.resolution(slot)?;
            if resolution.outcome == super::resolve::Outcome::Content(*content) {
                return Ok(Parents::Known(resolution.versions));
            }
        }
        if first_contact {
            let known = self.index.history(slot, MAX_HISTORY)?;
            if let Some(same) = known.iter().find(is_content) {
                return Ok(Parents::Known(vec![same.id]));
            }
            return Ok(Parents::Of(Vec::new()));
        }
        Ok(Parents::Of(if all_gone { heads.to_vec() } else { Vec::new() }))
    }
}
