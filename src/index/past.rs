//! The index as of an earlier moment: what stood at a path then, by what is known now.
//!
//! Invariant: an answer is a function of the versions whose clock value is not above the moment. A version's clock value is never
//! below its parents' (the writer refuses it), so with a version all its ancestors are among them. A moment costs the versions of the
//! paths that are looked at, and one head each where nothing was written since. Knows nothing of names of moments.

use std::collections::HashMap;

use super::crowd::Crowd;
use super::lineage::{Descendant, Forks, load_forks};
use super::row::{SlotRow, VersionRow};
use super::{IndexError, NumberedName, NumberedSlot, NumberedVersion, Reader, Stored, Tree, WantedNames};
use crate::model::Hlc;

/// Mixes the numbers of `floor_state`: FNV's prime.
const FOLD: u64 = 0x0100_0000_01b3;

/// Which directories had something below them at which moment: kept by the caller, for as long as `Reader::max_row` stays.
pub type Lived = HashMap<(Hlc, i64), bool>;

impl Reader {
    /// Names of a directory as of a moment, in order of name: paths that had a content, and directories above such.
    ///
    /// `shown` is the head that sorted highest then, `heads` how many there were.
    pub fn names_at(
        &self,
        dir: i64,
        wanted: WantedNames<'_>,
        at: Hlc,
        lived: &mut Lived,
    ) -> Result<Vec<NumberedName>, IndexError> {
        let WantedNames::After(after, limit) = wanted else {
            return self.as_of(self.names_numbered(&Tree::History, dir, wanted)?, at, lived);
        };
        let (mut names, mut after) = (Vec::new(), after.to_owned());
        while names.len() < limit {
            let page = WantedNames::After(&after, limit);
            let ever = self.names_numbered(&Tree::History, dir, page)?;
            let Some(last) = ever.last().map(|last| last.name.clone()) else { break };
            let is_end = ever.len() < limit;
            names.extend(self.as_of(ever, at, lived)?);
            if is_end {
                break;
            }
            after = last;
        }
        names.truncate(limit);
        Ok(names)
    }

    /// Of names that ever were, those of a moment.
    fn as_of(&self, ever: Vec<NumberedName>, at: Hlc, lived: &mut Lived) -> Result<Vec<NumberedName>, IndexError> {
        let mut names = Vec::new();
        for mut name in ever {
            let mut slots = Vec::with_capacity(name.slots.len());
            for slot in std::mem::take(&mut name.slots) {
                slots.extend(self.slot_at_moment(slot, at)?);
            }
            name.slots = slots;
            if let Some(child) = name.dir
                && !self.lived_below(child, at, lived)?
            {
                name.dir = None;
            }
            if name.dir.is_some() || !name.slots.is_empty() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The heads of a slot as of a moment, the one that sorts highest first.
    pub fn heads_at(&self, slot: i64, at: Hlc) -> Result<Vec<Stored>, IndexError> {
        self.head_rows_at(slot, at)?.iter().map(|row| self.stored(row, None)).collect()
    }

    /// The same with their numbers.
    pub fn heads_numbered_at(&self, slot: i64, at: Hlc) -> Result<Vec<NumberedVersion>, IndexError> {
        self.head_rows_at(slot, at)?.iter().map(|row| self.numbered(row)).collect()
    }

    /// The first moment from which on everything that stood can still be read; `None` if nothing was ever let go.
    ///
    /// Costs a pass over the versions, and over the history of each path of which something was let go.
    pub fn horizon(&self) -> Result<Option<Hlc>, IndexError> {
        if !self.conn.prepare_cached("SELECT 1 FROM dropped")?.exists([])? {
            return Ok(None);
        }
        let forks = load_forks(&self.conn)?;
        let mut statement = self.conn.prepare_cached(
            "SELECT sid, vid FROM versions WHERE content IN (SELECT hash FROM dropped) AND size > 0 ORDER BY sid",
        )?;
        let mut dropped: Vec<(i64, Vec<i64>)> = Vec::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (sid, vid) = (row.get(0)?, row.get(1)?);
            match dropped.last_mut() {
                Some((last, vids)) if *last == sid => vids.push(vid),
                _ => dropped.push((sid, vec![vid])),
            }
        }
        let mut horizon = None;
        for (sid, vids) in dropped {
            horizon = horizon.max(self.whole_since(sid, &vids, &forks)?);
        }
        Ok(horizon)
    }

    /// Stands for what was let go so far: changes whenever `horizon` may.
    pub fn floor_state(&self) -> Result<u64, IndexError> {
        // A snapshot that lets more go is newer than its chain's last one.
        let mut statement = self.conn.prepare_cached("SELECT told FROM chains WHERE told > 0 ORDER BY cid")?;
        let mut rows = statement.query([])?;
        let mut state = 0u64;
        while let Some(row) = rows.next()? {
            state = state.wrapping_mul(FOLD).wrapping_add(row.get::<_, i64>(0)?.cast_unsigned());
        }
        Ok(state)
    }

    /// A slot as of a moment; `None` if it had no content.
    fn slot_at_moment(&self, slot: NumberedSlot, at: Hlc) -> Result<Option<NumberedSlot>, IndexError> {
        if slot.heads == 1 && slot.shown.hlc <= at {
            return Ok(Some(slot).filter(|slot| slot.shown.content.is_some()));
        }
        let rows = self.head_rows_at(slot.number, at)?;
        let Some(top) = rows.first().filter(|top| top.content.is_some()) else { return Ok(None) };
        Ok(Some(NumberedSlot { shown: self.numbered(top)?, heads: rows.len(), ..slot }))
    }

    fn head_rows_at(&self, slot: i64, at: Hlc) -> Result<Vec<VersionRow>, IndexError> {
        let slot = SlotRow::load(&self.conn, slot)?;
        let mut rows = Vec::with_capacity(slot.heads.len());
        let mut is_now = true;
        for head in &slot.heads {
            let row = VersionRow::load(&self.conn, head.vid)?;
            is_now &= row.hlc <= at;
            if !head.shadowed {
                rows.push(row);
            }
        }
        if !is_now {
            rows = Crowd::as_of(&self.conn, &slot, at)?.into_open_rows();
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.rank()));
        Ok(rows)
    }

    /// True if some path below a directory had a content; ends at the first. Recursion is bounded by the depth of a path.
    fn lived_below(&self, dir: i64, at: Hlc, lived: &mut Lived) -> Result<bool, IndexError> {
        if let Some(known) = lived.get(&(at, dir)) {
            return Ok(*known);
        }
        let mut answer = self.lived_in(dir, at)?;
        if !answer {
            let mut children = self.conn.prepare_cached("SELECT did FROM dirs WHERE parent = ?1")?;
            let children: Vec<i64> = children.query_map([dir], |row| row.get(0))?.collect::<Result<_, _>>()?;
            for child in children {
                answer = answer || self.lived_below(child, at, lived)?;
            }
        }
        lived.insert((at, dir), answer);
        Ok(answer)
    }

    fn lived_in(&self, dir: i64, at: Hlc) -> Result<bool, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT sid FROM slots WHERE did = ?1")?;
        let mut rows = statement.query([dir])?;
        while let Some(row) = rows.next()? {
            if self.head_rows_at(row.get(0)?, at)?.iter().any(|head| head.content.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// When the last of these versions of a slot was no longer needed by anything: one version descended from all before it.
    fn whole_since(&self, sid: i64, gone: &[i64], forks: &Forks) -> Result<Option<Hlc>, IndexError> {
        let (mut rows, mut next) = (Vec::new(), SlotRow::load(&self.conn, sid)?.last);
        while next != 0 {
            let row = VersionRow::load(&self.conn, next)?;
            next = row.prev;
            rows.push(row);
        }
        rows.sort_by_key(|row| (row.hlc, row.id));
        let last = rows.last().map(|row| row.hlc);
        let (mut since, mut is_needed, mut heads) = (None, false, Vec::<VersionRow>::new());
        for row in rows {
            let new = Descendant::new(row)?;
            let mut kept = Vec::new();
            for head in heads {
                if !new.descends_from(&self.conn, forks, &head)? {
                    kept.push(head);
                }
            }
            let is_gone = gone.contains(&new.row.vid);
            if kept.is_empty() && is_needed {
                (since, is_needed) = (Some(new.row.hlc), false);
            }
            is_needed |= is_gone;
            kept.push(new.row);
            heads = kept;
        }
        Ok(if is_needed { last } else { since })
    }
}
