//! How the heads of a slot change when one more version is known.
//!
//! Invariant: folding the versions of a slot in any order that keeps parents before children gives the same heads: the
//! versions that no other of the slot descends from. A head is *shadowed* if another head descends from its twin, a
//! version with the same (path, parents, content, executable bit): two observers of one foreign edit.

use rusqlite::Connection;

use super::IndexError;
use super::codec::HeadRef;
use super::lineage::{Descendant, Forks};
use super::row::{VersionRow, state};
use crate::model::Reason;

/// Versions looked at for a twin that is no head any more.
const MAX_LOOKED_BACK: usize = 64;

/// The heads after `new`, whose ancestors were all folded before it, joins `heads`; `None` if it takes a look too far back.
///
/// `new` is always among them: whatever descends from it is applied later. Costs every head; see `crowd` for many.
pub(super) fn fold(
    conn: &Connection,
    forks: &Forks,
    heads: &[HeadRef],
    new: &Descendant,
) -> Result<Option<Vec<HeadRef>>, IndexError> {
    let (mut kept, mut dominated) = (Vec::new(), Vec::new());
    for head in heads {
        let row = VersionRow::load(conn, head.vid)?;
        if new.descends_from(conn, forks, &row)? {
            dominated.push(row);
        } else {
            kept.push((*head, row));
        }
    }
    for (head, row) in &mut kept {
        // The first version to descend from a twin takes it off the heads, so looking at these is looking at all.
        for twin in &dominated {
            head.shadowed = head.shadowed || row.is_twin(twin)?;
        }
    }
    let shadowed = if kept.is_empty() { Some(false) } else { has_succeeded_twin(conn, new, &kept)? };
    let Some(shadowed) = shadowed else { return Ok(None) };
    let mut heads: Vec<HeadRef> = kept.into_iter().map(|(head, _)| head).collect();
    heads.push(HeadRef { vid: new.row.vid, shadowed });
    Ok(Some(heads))
}

/// True if a twin of `new` was known before and is no head any more; `None` if that is too long a walk.
fn has_succeeded_twin(
    conn: &Connection,
    new: &Descendant,
    kept: &[(HeadRef, VersionRow)],
) -> Result<Option<bool>, IndexError> {
    // A twin has the same parents, so it was applied after them.
    let oldest = new.parents.iter().copied().max().unwrap_or(0);
    let mut next = new.row.prev;
    for _ in 0..MAX_LOOKED_BACK {
        if next <= oldest {
            return Ok(Some(false));
        }
        let row = VersionRow::load(conn, next)?;
        let is_head = kept.iter().any(|(head, _)| head.vid == row.vid);
        if !is_head && row.is_twin(&new.row)? {
            return Ok(Some(true));
        }
        next = row.prev;
    }
    Ok(None)
}

/// What a slot counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Standing {
    /// Bits of `state`.
    pub state: i64,
    /// Size of the head that sorts highest; 0 unless it is live.
    pub bytes: i64,
}

/// Judges the heads that count.
pub(super) fn standing(open: &[VersionRow]) -> Result<Standing, IndexError> {
    let Some(winner) = open.iter().max_by_key(|row| row.rank()) else { return Ok(Standing::default()) };
    if winner.content.is_none() {
        let mut trash = false;
        for row in open {
            trash = trash || row.kind()? != Err(Reason::Move);
        }
        return Ok(Standing { state: if trash { state::TRASH } else { 0 }, bytes: 0 });
    }
    let mut contents = Vec::new();
    for row in open {
        contents.extend(row.content()?.filter(|content| !contents.contains(content)));
    }
    let conflict = if contents.len() > 1 { state::CONFLICT } else { 0 };
    Ok(Standing { state: state::LIVE | conflict, bytes: winner.size.cast_signed() })
}
