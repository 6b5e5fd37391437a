//! What a new version changes about its slot: heads, authors, counts.
//!
//! Invariant: sums and presence are changed by the difference between before and after, so they always equal what a
//! count over all slots would give.

use super::heads::fold;
use super::lineage::Descendant;
use super::names::ChainRow;
use super::presence::origin_tree;
use super::row::{SlotRow, VersionRow, state};
use super::writer::{Key, Lineage, Writer, first_state};
use super::{IndexError, Slot};
use crate::model::{Version, VersionId};

impl Writer<'_, '_> {
    /// Counts a version that opened a new slot.
    pub(super) fn opened(&mut self, chain: &ChainRow, version: &Version, key: &Key) -> Result<(), IndexError> {
        let batch = &mut *self.batch;
        batch.slots += 1;
        batch.presence.change(key.did, 0, first_state(version));
        if let Some(content) = version.content() {
            let size = content.size.cast_signed();
            batch.presence.add(key.did, origin_tree(chain.oid), 1);
            let own = batch.origins.entry(chain.oid).or_default();
            own.live += 1;
            own.bytes += size;
            batch.total.live += 1;
            batch.total.bytes += size;
        }
        batch.touched.insert(batch.known.next_sid - 1);
        batch.applied.touched.push(Slot::of(&chain.chain.space, version));
        Ok(())
    }

    /// Adds a version to a slot that has others.
    pub(super) fn extend(
        &mut self,
        chain: &ChainRow,
        id: VersionId,
        version: &Version,
        mut slot: SlotRow,
        lineage: Lineage,
    ) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        self.check_lane(chain, version, &slot, lineage.lane_before)?;
        let before = self.batch.standing_of(&slot)?;
        let own_before = self.newest_of_origin(&slot, chain.oid)?;
        let vid = self.batch.known.next_row;
        self.put_version(chain, id, version, slot.sid, slot.last, &lineage.ext)?;
        let new = Descendant::new(VersionRow::load(conn, vid)?)?;
        let row = new.row.clone();
        self.fold_in(&mut slot, new)?;
        slot.last = vid;
        self.put_own(chain.cid, &mut slot, &row)?;
        let own_after = self.newest_of_origin(&slot, chain.oid)?;
        self.count_origin(chain.oid, slot.did, own_before.as_ref(), own_after.as_ref());
        self.batch.write_slot(&mut slot, before)?;
        if self.batch.touched.insert(slot.sid) {
            self.batch.applied.touched.push(Slot::of(&chain.chain.space, version));
        }
        Ok(())
    }

    /// Brings the heads up to `new`, one by one while they are few.
    fn fold_in(&mut self, slot: &mut SlotRow, new: Descendant) -> Result<(), IndexError> {
        let (conn, known) = (self.batch.conn, &mut *self.batch.known);
        if let Some(crowd) = known.crowds.get_mut(slot.sid) {
            return crowd.fold(conn, new);
        }
        let few = slot.heads.len() <= known.crowds.few_heads;
        let folded = if few { fold(conn, &known.forks, &slot.heads, &new)? } else { None };
        match folded {
            Some(heads) => {
                slot.heads = heads;
                Ok(())
            }
            None => known.crowds.gather(conn, slot)?.fold(conn, new),
        }
    }

    /// Finds versions of the own lane that this one passes by: two writers went on one lane.
    fn check_lane(
        &mut self,
        chain: &ChainRow,
        version: &Version,
        slot: &SlotRow,
        lane_before: u64,
    ) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        let (first, n) = (version.dot.lane.first, version.dot.n);
        let Some(own) = slot.own_version(conn, chain.cid)? else { return Ok(()) };
        let own = VersionRow::load(conn, own)?;
        let goes_on = own.first == first && own.n == lane_before;
        let opens = first == n && own.n < n;
        if goes_on || opens {
            return Ok(());
        }
        // Asked of all versions here, so they are gathered: the next one in such a lane costs nothing more.
        let crowd = self.batch.known.crowds.gather(conn, slot)?;
        let lowest = crowd.passed_by((chain.cid, first), lane_before, n);
        lowest.map_or(Ok(()), |n| self.fork(chain, n))
    }

    fn put_own(&mut self, cid: i64, slot: &mut SlotRow, new: &VersionRow) -> Result<(), IndexError> {
        let conn = self.batch.conn;
        if let Some(own) = slot.own_version(conn, cid)? {
            let own = VersionRow::load(conn, own)?;
            if (new.n, new.id) < (own.n, own.id) {
                return Ok(());
            }
        }
        if slot.author == cid {
            slot.own = new.vid;
        } else {
            slot.state |= state::MANY;
            let put = "INSERT OR REPLACE INTO authors(sid, cid, vid) VALUES(?1, ?2, ?3)";
            conn.prepare_cached(put)?.execute((slot.sid, cid, new.vid))?;
        }
        Ok(())
    }

    fn newest_of_origin(&self, slot: &SlotRow, oid: i64) -> Result<Option<VersionRow>, IndexError> {
        self.batch.reader.newest_of_origin(slot, oid)
    }

    fn count_origin(&mut self, oid: i64, did: i64, before: Option<&VersionRow>, after: Option<&VersionRow>) {
        let live = |row: Option<&VersionRow>| i64::from(row.is_some_and(|row| row.content.is_some()));
        let bytes = |row: Option<&VersionRow>| row.map_or(0, |row| row.size.cast_signed());
        let sums = self.batch.origins.entry(oid).or_default();
        sums.live += live(after) - live(before);
        sums.bytes += bytes(after) - bytes(before);
        self.batch.presence.add(did, origin_tree(oid), live(after) - live(before));
    }
}
