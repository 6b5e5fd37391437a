//! What is lost for good: packs that nobody can read and that nothing needs any more.
//!
//! Invariant: an artifact is awaited for as long as something may need it. A pack of the own chain is listed no more once every segment
//! that had its place in it was let go; a note of damage goes once its artifact does not count, which only a chain tells that stands here
//! without a gap from its floor to its tip. Concludes nothing from what merely cannot be read now.

use std::collections::{BTreeSet, HashSet};

use super::{Engine, Result};
use crate::index::MAX_UNPLACED;
use crate::ledger::{ArtifactKind, ArtifactName, LedgerError, NotedDamage, ShortHash};
use crate::model::{ArtifactHash, Chain, ContentHash, SegmentHash};

impl Engine {
    /// The packs of a chain that cannot say what they hold, or are gone, and of which nothing is needed but what is `gone`: all such, or
    /// none, and none while other chains lack any.
    pub(super) fn needless_packs(&self, chain: &Chain, gone: &HashSet<SegmentHash>) -> Result<HashSet<ArtifactHash>> {
        let mut needless = HashSet::new();
        let lost = self.lost_packs(chain)?;
        if lost.is_empty() {
            return Ok(needless);
        }
        // What stands in one of them may stand in another one too, and in that one alone elsewhere.
        let noted = self.ledger.noted_damage()?;
        let others =
            noted.iter().map(|noted| noted.name.chain()).filter(|noted| *noted != chain).collect::<BTreeSet<_>>();
        for other in others {
            if !self.lost_packs(other)?.is_empty() {
                return Ok(needless);
            }
        }
        let count = lost.len();
        let awaited = self.index.unplaced(&self.state.base_contents()?)?;
        let is_awaited = awaited.len() >= MAX_UNPLACED || awaited.iter().any(|segment| !gone.contains(segment));
        for name in lost {
            let layout = self.index.pack_layout(&name)?;
            let is_needed = layout.places(&name).any(|(segment, _)| !gone.contains(&segment));
            // One of which nothing has its place there may hold whatever stands nowhere: perhaps it was never read.
            let may_be_needed = layout.segment_count() == 0 && is_awaited;
            if let ArtifactName::Pack { hash, .. } = name
                && !is_needed
                && !may_be_needed
            {
                needless.insert(hash);
            }
        }
        if needless.len() < count {
            needless.clear();
        }
        Ok(needless)
    }

    /// True if a chain lists a pack that is lost and that nothing needs, once these contents are gone.
    pub(super) fn lists_needless(&self, chain: &Chain, dropped: &[ContentHash]) -> Result<bool> {
        let lost = self.lost_packs(chain)?;
        if lost.is_empty() {
            return Ok(false);
        }
        let standing = self.ledger.standing(chain, self.index.floor(chain)?.seq)?;
        if lost.iter().all(|name| !standing.contains(name)) {
            return Ok(false);
        }
        let needless = self.needless_packs(chain, &self.segments_gone(dropped)?)?;
        let is_listed =
            |hash: &ArtifactHash| standing.contains(&ArtifactName::Pack { chain: chain.clone(), hash: *hash });
        Ok(needless.iter().any(is_listed))
    }

    /// The segments that nothing needs once these contents are gone: theirs alone, and whatever is purged.
    pub(super) fn segments_gone(&self, dropped: &[ContentHash]) -> Result<HashSet<SegmentHash>> {
        let mut gone = self.index.segments_of_none(&dropped.iter().copied().collect())?;
        gone.extend(self.index.purged_segments()?);
        Ok(gone)
    }

    /// The packs of a chain that were noted as damaged or lost and cannot say what they hold.
    pub(super) fn lost_packs(&self, chain: &Chain) -> Result<Vec<ArtifactName>> {
        let mut lost = Vec::new();
        for NotedDamage { name, .. } in self.ledger.noted_damage()? {
            let is_meant = name.kind() == ArtifactKind::Pack && name.chain() == chain;
            // A disk that fails to read it may read it the next time.
            if is_meant
                && let Err(LedgerError::Damaged { .. } | LedgerError::Missing { .. }) = self.ledger.pack_index(&name)
            {
                lost.push(name);
            }
        }
        Ok(lost)
    }

    /// Forgets damage of what is whole again, and returns the names. What of it holds anything purged is let go by the next look.
    pub(super) fn forget_healed(&self) -> Result<Vec<ArtifactName>> {
        let healed = self.ledger.forget_healed()?;
        self.index.note_whole_again(&self.ledger, &healed)?;
        Ok(healed)
    }

    /// Forgets that artifacts were damaged or lost which do not count any more: nobody needs their good bytes, and no store keeps them.
    pub(super) fn forget_needless_damage(&self) -> Result<()> {
        let noted: Vec<ArtifactName> = self.ledger.noted_damage()?.into_iter().map(|noted| noted.name).collect();
        if noted.is_empty() {
            return Ok(());
        }
        for (chain, floor) in self.index.floors()? {
            let of_chain: Vec<&ArtifactName> = noted.iter().filter(|name| *name.chain() == chain).collect();
            let (checkpoints, others): (Vec<&ArtifactName>, Vec<&ArtifactName>) =
                of_chain.into_iter().partition(|name| name.kind() == ArtifactKind::Checkpoint);
            let (below, above): (Vec<_>, Vec<_>) = checkpoints.into_iter().partition(|name| name.seq() < floor.seq);
            for name in below {
                self.ledger.forget_note(name)?;
            }
            // A checkpoint that counts and is lost may name any of the others.
            if others.is_empty() || !above.is_empty() {
                continue;
            }
            let Some(standing) = self.all_that_counts(&chain, floor.seq)? else { continue };
            for name in others.into_iter().filter(|name| !standing.contains(name)) {
                self.ledger.forget_note(name)?;
            }
        }
        Ok(())
    }

    /// What counts of a chain with this floor. `None` unless every checkpoint from the floor to the last one that is known is here and sound.
    fn all_that_counts(&self, chain: &Chain, floor: u64) -> Result<Option<BTreeSet<ArtifactName>>> {
        let Some((last, hash)) = self.index.applied(chain)? else { return Ok(None) };
        let names = self.ledger.checkpoint_names(chain, floor - 1)?;
        // A second one on a number may be of a branch that goes on elsewhere.
        let is_row = names.iter().map(ArtifactName::seq).eq(floor..=last);
        let tip = ArtifactName::Checkpoint { chain: chain.clone(), seq: last, hash: ShortHash::of(&hash) };
        if !is_row || names.last() != Some(&tip) || names.iter().any(|name| self.ledger.read_checkpoint(name).is_err())
        {
            return Ok(None);
        }
        Ok(Some(self.ledger.standing(chain, floor)?))
    }
}
