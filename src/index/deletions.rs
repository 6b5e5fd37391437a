//! Which paths one chain deleted around some time, for whoever counts deletions; and which moves an edit took back.
//!
//! Invariant: counting costs the versions that the chain published in that time, not its history: within a chain the clock rises with
//! the number. Moves are no deletions, and a path that has content again was not deleted.

use rusqlite::Row;

use super::codec::Flags;
use super::row::{VersionRow, state};
use super::{IndexError, Reader, Slot};
use crate::model::{Chain, Hlc, Reason, RelPath, State, VersionId};

/// Versions looked at in each direction; a chain that published more in that time is counted in part.
const MAX_LOOKED_AT: usize = 500_000;

/// A path that is deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deletion {
    /// The tombstone.
    pub id: VersionId,
    /// Where.
    pub path: RelPath,
    /// When, by the clock of who did it.
    pub hlc: Hlc,
}

/// A path that was moved away and has content all the same, because somebody edited it without knowing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revived {
    /// The old path.
    pub slot: Slot,
    /// Where it was moved.
    pub moved_to: RelPath,
}

/// A span of a chain: versions around number `n`, as long as their clock is within bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Where to begin; looked at in both directions.
    pub n: u64,
    /// The first clock value that counts, in wall milliseconds.
    pub from_ms: u64,
    /// The last one.
    pub to_ms: u64,
}

impl Reader {
    /// The paths that `chain` deleted within a span and that are still deleted, oldest first.
    pub fn deletions(&self, chain: &Chain, span: Span) -> Result<Vec<Deletion>, IndexError> {
        let Some(cid) = self.names.chain_id(&self.conn, chain)? else { return Ok(Vec::new()) };
        let columns = "SELECT v.vid, v.hlc, v.flags, s.state FROM versions v JOIN slots s ON s.sid = v.sid";
        let earlier = format!("{columns} WHERE v.cid = ?1 AND v.n < ?2 ORDER BY v.n DESC");
        let later = format!("{columns} WHERE v.cid = ?1 AND v.n >= ?2 ORDER BY v.n");
        let mut found = Vec::new();
        self.deleted(&earlier, cid, span, &mut found)?;
        found.reverse();
        self.deleted(&later, cid, span, &mut found)?;
        let mut deletions = Vec::with_capacity(found.len());
        for vid in found {
            let row = VersionRow::load(&self.conn, vid)?;
            deletions.push(Deletion { id: row.id, path: self.slot(row.sid)?.path, hlc: row.hlc });
        }
        Ok(deletions)
    }

    /// The paths of which one head is a move away and another has content, in order; at most `limit`.
    pub fn revived(&self, limit: usize) -> Result<Vec<Revived>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT sid FROM slots WHERE heads IS NOT NULL AND state & 1")?;
        let mut rows = statement.query([])?;
        let mut revived = Vec::new();
        while let Some(row) = rows.next()?
            && revived.len() < limit
        {
            let slot = self.slot(row.get(0)?)?;
            let moved = self.heads(&slot)?.into_iter().find_map(|head| match head.version.state {
                State::Tombstone { moved_to, .. } => moved_to,
                State::Content(_) => None,
            });
            revived.extend(moved.map(|moved_to| Revived { slot, moved_to }));
        }
        revived.sort_by(|a, b| a.slot.cmp(&b.slot));
        Ok(revived)
    }

    fn deleted(&self, sql: &str, cid: i64, span: Span, found: &mut Vec<i64>) -> Result<(), IndexError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query((cid, span.n.cast_signed()))?;
        for _ in 0..MAX_LOOKED_AT {
            let Some(row) = rows.next()? else { break };
            let wall_ms = Hlc::from_u64(row.get::<_, i64>(1)?.cast_unsigned()).wall_ms();
            if wall_ms < span.from_ms || span.to_ms < wall_ms {
                break;
            }
            if is_deletion(row)? {
                found.push(row.get(0)?);
            }
        }
        Ok(())
    }
}

fn is_deletion(row: &Row<'_>) -> Result<bool, IndexError> {
    let reason = Flags(row.get(2)?).kind().and_then(Result::err);
    let live = row.get::<_, i64>(3)? & state::LIVE != 0;
    Ok(matches!(reason, Some(Reason::User | Reason::Trash)) && !live)
}
