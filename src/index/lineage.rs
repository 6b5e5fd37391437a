//! Who descends from whom, among rows of the index.
//!
//! Invariant: exactly ancestry. Vectors answer it, but for versions at or above a number that a chain used twice: there
//! a vector covers both branches, and the parents are walked instead.

use std::collections::{BTreeMap, HashSet};

use rusqlite::Connection;

use super::IndexError;
use super::codec::Lanes;
use super::row::VersionRow;

/// Chains with two writers: chain row -> the lowest number that two versions claim.
pub(super) type Forks = BTreeMap<i64, u64>;

/// A version with its whole vector, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Descendant {
    pub row: VersionRow,
    pub lanes: Lanes,
    pub parents: Vec<i64>,
}

impl Descendant {
    pub fn new(row: VersionRow) -> Result<Descendant, IndexError> {
        let ext = row.ext()?;
        let mut lanes = ext.lanes;
        lanes.insert((row.cid, row.first), row.n);
        Ok(Descendant { lanes, parents: ext.parents, row })
    }

    /// True if this version descends from (or is) `ancestor`.
    pub fn descends_from(&self, conn: &Connection, forks: &Forks, ancestor: &VersionRow) -> Result<bool, IndexError> {
        if self.row.vid == ancestor.vid {
            return Ok(true);
        }
        // A version is applied after its parents, so row numbers rise along every line of descent.
        if self.row.vid < ancestor.vid || !covers(&self.lanes, ancestor) {
            return Ok(false);
        }
        match forks.get(&ancestor.cid) {
            Some(from) if *from <= ancestor.n => walk(conn, self.parents.clone(), ancestor),
            _ => Ok(true),
        }
    }
}

pub(super) fn load_forks(conn: &Connection) -> Result<Forks, IndexError> {
    let mut statement = conn.prepare_cached("SELECT cid, forked FROM chains WHERE forked IS NOT NULL")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
    Ok(rows.collect::<Result<Forks, _>>()?)
}

fn covers(lanes: &Lanes, ancestor: &VersionRow) -> bool {
    lanes.get(&(ancestor.cid, ancestor.first)).is_some_and(|n| ancestor.n <= *n)
}

/// True if `ancestor` is among `stack` or their ancestors; bounded by the versions applied since it that cover it.
pub(super) fn walk(conn: &Connection, mut stack: Vec<i64>, ancestor: &VersionRow) -> Result<bool, IndexError> {
    let mut seen = HashSet::new();
    while let Some(vid) = stack.pop() {
        if vid == ancestor.vid {
            return Ok(true);
        }
        if vid < ancestor.vid || !seen.insert(vid) {
            continue;
        }
        let node = Descendant::new(VersionRow::load(conn, vid)?)?;
        if covers(&node.lanes, ancestor) {
            stack.extend(node.parents);
        }
    }
    Ok(false)
}
