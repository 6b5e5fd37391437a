//! Proof that the index is what the ledger says: a second one is made from the ledger alone, and both are asked the same.
//!
//! Invariant: the project's own index is only read; the other one stands in a folder of its own and is gone afterwards. Row numbers,
//! which depend on the order in which artifacts came, are never compared.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::error::{Kind, NodeError};
use crate::index::{Index, Reader, Slot, Tree, replay};
use crate::ledger::Ledger;
use crate::model::VersionId;
use crate::sync::SyncError;

/// Differences that are named; one is enough to make the index anew.
const MAX_DIFFERENCES: usize = 20;
const ALL: usize = usize::MAX >> 1;

/// Says where the index differs from one that is made anew from the ledger; nothing if it does not.
pub(super) fn differences(index: &Reader, ledger: &Ledger) -> Result<Vec<String>, NodeError> {
    let scratch = tempfile::tempdir();
    let scratch = scratch.map_err(|error| NodeError::new(Kind::Internal, format!("make a folder: {error}")))?;
    let mut anew = Index::recreate(&scratch.path().join("index.db"), 1)?;
    replay(&mut anew, ledger).map_err(SyncError::from)?;
    let mut found = Vec::new();
    let (ours, theirs) = (slots(index)?, slots(&anew)?);
    let only = ours.symmetric_difference(&theirs).map(|slot| format!("{} is known to one only", slot.path.shown()));
    found.extend(only.take(MAX_DIFFERENCES));
    for slot in ours.intersection(&theirs) {
        if found.len() >= MAX_DIFFERENCES {
            break;
        }
        if heads(index, slot)? != heads(&anew, slot)? {
            found.push(format!("{} has other heads", slot.path.shown()));
        } else if history(index, slot)? != history(&anew, slot)? {
            found.push(format!("{} has other versions", slot.path.shown()));
        }
    }
    let (ours, theirs) = (index.counts()?, anew.counts()?);
    if found.is_empty() && ours != theirs {
        found.push(format!("its sums differ: {ours:?} instead of {theirs:?}"));
    }
    Ok(found)
}

fn slots(index: &Reader) -> Result<BTreeSet<Slot>, NodeError> {
    let mut slots = BTreeSet::new();
    index.walk_tree(&Tree::History, None, &mut |entries| {
        slots.extend(entries.into_iter().map(|entry| entry.slot));
        ControlFlow::Continue(())
    })?;
    Ok(slots)
}

fn heads(index: &Reader, slot: &Slot) -> Result<BTreeSet<VersionId>, NodeError> {
    Ok(index.heads(slot)?.into_iter().map(|head| head.id).collect())
}

fn history(index: &Reader, slot: &Slot) -> Result<BTreeSet<VersionId>, NodeError> {
    Ok(index.history(slot, ALL)?.into_iter().map(|stored| stored.id).collect())
}
