//! A slot with many versions side by side, kept in memory while it is written to.
//!
//! Exists because whoever may publish may publish thousands of concurrent versions of one path: comparing each with all
//! heads, or looking for its twin among all versions, would cost the square of their number.
//! Invariant: the heads, the standing and the lanes are what folding one by one (`heads`) gives, from parents alone, so no fork
//! makes them wrong; a version costs what it says itself, not what the slot holds. Nothing here is more than a copy: it is read
//! from the tables, and dropped when they changed without it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension};

use super::IndexError;
use super::codec::HeadRef;
use super::heads::Standing;
use super::lineage::Descendant;
use super::row::{Rank, SlotRow, VersionRow, state};
use crate::model::{Content, Hlc, Reason};

/// Heads up to which a slot is folded by comparing with each of them.
const FEW_HEADS: usize = 8;
/// Versions of crowded slots kept from one transaction to the next; about 200 bytes each.
const MAX_KEPT_VERSIONS: usize = 200_000;

/// The crowded slots that are in memory.
pub(super) struct Crowds {
    /// Slots with more heads than this are crowded.
    pub few_heads: usize,
    crowds: HashMap<i64, Crowd>,
    /// Those whose rows in the tables are behind.
    behind: BTreeSet<i64>,
}

impl Default for Crowds {
    fn default() -> Crowds {
        Crowds { few_heads: FEW_HEADS, crowds: HashMap::new(), behind: BTreeSet::new() }
    }
}

impl Crowds {
    pub fn get(&self, sid: i64) -> Option<&Crowd> {
        self.crowds.get(&sid)
    }

    pub fn get_mut(&mut self, sid: i64) -> Option<&mut Crowd> {
        self.crowds.get_mut(&sid)
    }

    /// The crowd of a slot, read from the tables if it is not here.
    pub fn gather(&mut self, conn: &Connection, slot: &SlotRow) -> Result<&mut Crowd, IndexError> {
        match self.crowds.entry(slot.sid) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => Ok(entry.insert(Crowd::load(conn, slot)?)),
        }
    }

    pub fn forget(&mut self, sid: i64) {
        self.crowds.remove(&sid);
        self.behind.remove(&sid);
    }

    /// The row of a slot, without heads if it is crowded.
    pub fn find(
        &mut self,
        conn: &Connection,
        (did, name): (i64, &str),
        (spid, oid): (i64, i64),
    ) -> Result<Option<SlotRow>, IndexError> {
        if self.crowds.is_empty() {
            return SlotRow::find(conn, did, name, spid, oid);
        }
        let mut statement =
            conn.prepare_cached("SELECT sid, last FROM slots WHERE did = ?1 AND name = ?2 AND spid = ?3 AND oid = ?4")?;
        let key = (did, name, spid, oid);
        let found: Option<(i64, i64)> = statement.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((sid, last)) = found else { return Ok(None) };
        match self.crowds.get(&sid) {
            Some(crowd) if self.behind.contains(&sid) || crowd.row.last == last => return Ok(Some(crowd.row.clone())),
            Some(_) => self.forget(sid),
            None => {}
        }
        SlotRow::load(conn, sid).map(Some)
    }

    /// Remembers the row of a crowded slot, to be written by `write`; false if the slot is none.
    pub fn keep(&mut self, slot: &SlotRow) -> bool {
        let Some(crowd) = self.crowds.get_mut(&slot.sid) else { return false };
        crowd.row = SlotRow { heads: Vec::new(), ..slot.clone() };
        self.behind.insert(slot.sid);
        true
    }

    /// The rows that are behind, whole, once each.
    pub fn take_behind(&mut self) -> Vec<SlotRow> {
        let behind = std::mem::take(&mut self.behind);
        let crowds = behind.iter().filter_map(|sid| self.crowds.get(sid));
        crowds.map(|crowd| SlotRow { heads: crowd.heads(), ..crowd.row.clone() }).collect()
    }

    /// Lets go of everything if it is more than should stay in memory.
    pub fn shrink(&mut self) {
        if self.crowds.values().map(|crowd| crowd.versions).sum::<usize>() > MAX_KEPT_VERSIONS {
            self.crowds.clear();
        }
    }
}

/// What the twin rule compares.
type Twin = (Vec<i64>, Option<Content>);

/// One crowded slot.
pub(super) struct Crowd {
    /// Its row, without heads.
    row: SlotRow,
    versions: usize,
    heads: BTreeMap<i64, Head>,
    twins: HashMap<Twin, Twins>,
    /// The numbers of each lane here.
    lanes: HashMap<(i64, u64), BTreeSet<u64>>,
    /// Versions of other slots behind which no head of this one is left.
    passed: HashSet<i64>,
    open: Open,
}

struct Head {
    shadowed: bool,
    twin: Twin,
    row: VersionRow,
}

/// Versions that are equal for the twin rule.
#[derive(Default)]
struct Twins {
    /// Some head descends from one of them.
    succeeded: bool,
    /// Those that are heads and count.
    open: Vec<i64>,
}

impl Crowd {
    fn empty(slot: &SlotRow) -> Crowd {
        Crowd {
            row: SlotRow { heads: Vec::new(), ..slot.clone() },
            versions: 0,
            heads: BTreeMap::new(),
            twins: HashMap::new(),
            lanes: HashMap::new(),
            passed: HashSet::new(),
            open: Open::default(),
        }
    }

    fn load(conn: &Connection, slot: &SlotRow) -> Result<Crowd, IndexError> {
        let mut crowd = Crowd::empty(slot);
        let shadowed: HashMap<i64, bool> = slot.heads.iter().map(|head| (head.vid, head.shadowed)).collect();
        for row in rows_of(conn, slot)? {
            let twin = twin_of(&row)?;
            crowd.note(&row);
            let twins = crowd.twins.entry(twin.clone()).or_default();
            match shadowed.get(&row.vid) {
                None => twins.succeeded = true,
                Some(shadowed) => {
                    if !shadowed {
                        twins.open.push(row.vid);
                        crowd.open.add(&row)?;
                    }
                    crowd.heads.insert(row.vid, Head { shadowed: *shadowed, twin, row });
                }
            }
        }
        Ok(crowd)
    }

    /// Folds all versions of a slot anew, as it is needed when a fork makes vectors of its chain unreliable.
    pub fn refolded(conn: &Connection, slot: &SlotRow) -> Result<Crowd, IndexError> {
        let mut crowd = Crowd::empty(slot);
        for row in rows_of(conn, slot)? {
            crowd.fold(conn, Descendant::new(row)?)?;
        }
        Ok(crowd)
    }

    /// The slot as of a moment: only versions up to it, whose ancestors are then among them.
    pub fn as_of(conn: &Connection, slot: &SlotRow, at: Hlc) -> Result<Crowd, IndexError> {
        let mut crowd = Crowd::empty(slot);
        for row in rows_of(conn, slot)?.into_iter().filter(|row| row.hlc <= at) {
            crowd.fold(conn, Descendant::new(row)?)?;
        }
        Ok(crowd)
    }

    /// The rows of the heads that count.
    pub fn into_open_rows(self) -> Vec<VersionRow> {
        self.heads.into_values().filter(|head| !head.shadowed).map(|head| head.row).collect()
    }

    /// The heads, in the order in which they came.
    pub fn heads(&self) -> Vec<HeadRef> {
        self.heads.iter().map(|(vid, head)| HeadRef { vid: *vid, shadowed: head.shadowed }).collect()
    }

    /// What the slot counts as.
    pub fn standing(&self) -> Standing {
        self.open.standing()
    }

    /// The lowest number from which two writers went on the lane of a version that is to come, numbered `n`, and knows it up to
    /// `known`.
    pub fn passed_by(&self, lane: (i64, u64), known: u64, n: u64) -> Option<u64> {
        let lowest = self.lanes.get(&lane)?.range(known + 1..).find(|number| **number != n)?;
        Some(n.min(*lowest))
    }

    /// Takes one more version in, whose ancestors all came before.
    pub fn fold(&mut self, conn: &Connection, new: Descendant) -> Result<(), IndexError> {
        let mut gone = Vec::new();
        for vid in self.dominated(conn, &new)? {
            gone.extend(self.heads.remove(&vid));
        }
        for head in gone {
            if !head.shadowed {
                self.open.remove(&head.row)?;
            }
            self.succeed(&head.twin)?;
        }
        let row = new.row;
        let twin = (new.parents, row.content()?);
        self.note(&row);
        let twins = self.twins.entry(twin.clone()).or_default();
        let shadowed = twins.succeeded && !self.heads.is_empty();
        if !shadowed {
            twins.open.push(row.vid);
            self.open.add(&row)?;
        }
        self.heads.insert(row.vid, Head { shadowed, twin, row });
        Ok(())
    }

    fn note(&mut self, row: &VersionRow) {
        self.versions += 1;
        self.lanes.entry((row.cid, row.first)).or_default().insert(row.n);
    }

    /// One of these twins has a successor now: the others do not count any more.
    fn succeed(&mut self, twin: &Twin) -> Result<(), IndexError> {
        let twins = self.twins.entry(twin.clone()).or_default();
        twins.succeeded = true;
        for vid in std::mem::take(&mut twins.open) {
            if let Some(head) = self.heads.get_mut(&vid) {
                head.shadowed = true;
                self.open.remove(&head.row)?;
            }
        }
        Ok(())
    }

    /// The heads that a version descends from. What a version of this slot descends from left the heads when it came itself, so
    /// only versions of other slots are looked behind, each once for ever.
    fn dominated(&mut self, conn: &Connection, new: &Descendant) -> Result<Vec<i64>, IndexError> {
        let oldest = self.heads.keys().next().copied().unwrap_or(i64::MAX);
        let (mut found, mut stack) = (Vec::new(), new.parents.clone());
        while let Some(vid) = stack.pop() {
            if self.heads.contains_key(&vid) {
                found.push(vid);
                continue;
            }
            if vid < oldest || self.passed.contains(&vid) {
                continue;
            }
            let row = VersionRow::load(conn, vid)?;
            if row.sid != self.row.sid {
                self.passed.insert(vid);
                stack.extend(row.ext()?.parents);
            }
        }
        Ok(found)
    }
}

/// All versions of a slot, oldest first.
fn rows_of(conn: &Connection, slot: &SlotRow) -> Result<Vec<VersionRow>, IndexError> {
    let mut rows = Vec::new();
    let mut next = slot.last;
    while next != 0 {
        let row = VersionRow::load(conn, next)?;
        next = row.prev;
        rows.push(row);
    }
    rows.reverse();
    Ok(rows)
}

fn twin_of(row: &VersionRow) -> Result<Twin, IndexError> {
    Ok((row.ext()?.parents, row.content()?))
}

/// The heads that count, added up.
#[derive(Default)]
struct Open {
    /// With the size of each.
    ranks: BTreeMap<Rank, u64>,
    contents: HashMap<Content, usize>,
    /// Tombstones that are no moves.
    trash: usize,
}

impl Open {
    fn add(&mut self, row: &VersionRow) -> Result<(), IndexError> {
        self.ranks.insert(row.rank(), row.size);
        match row.content()? {
            Some(content) => *self.contents.entry(content).or_default() += 1,
            None => self.trash += usize::from(is_trash(row)?),
        }
        Ok(())
    }

    fn remove(&mut self, row: &VersionRow) -> Result<(), IndexError> {
        self.ranks.remove(&row.rank());
        let Some(content) = row.content()? else {
            self.trash -= usize::from(is_trash(row)?);
            return Ok(());
        };
        if let Some(count) = self.contents.get_mut(&content) {
            *count -= 1;
            if *count == 0 {
                self.contents.remove(&content);
            }
        }
        Ok(())
    }

    fn standing(&self) -> Standing {
        let Some((rank, size)) = self.ranks.last_key_value() else { return Standing::default() };
        if !rank.0 {
            return Standing { state: if self.trash > 0 { state::TRASH } else { 0 }, bytes: 0 };
        }
        let conflict = if self.contents.len() > 1 { state::CONFLICT } else { 0 };
        Standing { state: state::LIVE | conflict, bytes: size.cast_signed() }
    }
}

fn is_trash(row: &VersionRow) -> Result<bool, IndexError> {
    Ok(row.kind()? != Err(Reason::Move))
}
