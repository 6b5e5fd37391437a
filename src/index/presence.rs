//! Which directories have something to show in which tree, kept as counts so that no listing scans below itself.
//!
//! Invariant: `presence(did, tree)` is the number of entries of the directory that count in the tree: its slots and its
//! child directories that themselves have a count; a row with 0 does not exist.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use super::IndexError;
use super::row::state;
use super::schema::ROOT_DIR;

/// Live slots.
pub(super) const MERGED: i64 = 0;
/// Slots with heads of different contents.
pub(super) const CONFLICTS: i64 = 1;
/// Deleted slots.
pub(super) const TRASH: i64 = 2;
const FIRST_ORIGIN: i64 = 16;

/// Slots whose newest version by this origin has content.
pub(super) fn origin_tree(oid: i64) -> i64 {
    FIRST_ORIGIN + oid
}

/// Changes of one transaction, not yet written.
#[derive(Default)]
pub(super) struct Presence(HashMap<(i64, i64), i64>);

impl Presence {
    pub fn add(&mut self, did: i64, tree: i64, change: i64) {
        if change != 0 {
            *self.0.entry((did, tree)).or_default() += change;
        }
    }

    /// A slot of `did` went from one state to another.
    pub fn change(&mut self, did: i64, before: i64, after: i64) {
        for (bit, tree) in [(state::LIVE, MERGED), (state::CONFLICT, CONFLICTS), (state::TRASH, TRASH)] {
            self.add(did, tree, i64::from(after & bit != 0) - i64::from(before & bit != 0));
        }
    }

    /// Writes the changes, upwards as far as directories appear or vanish.
    pub fn write(self, conn: &Connection) -> Result<(), IndexError> {
        let mut work: Vec<((i64, i64), i64)> = self.0.into_iter().filter(|(_, change)| *change != 0).collect();
        let mut find = conn.prepare_cached("SELECT entries FROM presence WHERE did = ?1 AND tree = ?2")?;
        let mut parent = conn.prepare_cached("SELECT parent FROM dirs WHERE did = ?1")?;
        while let Some(((did, tree), change)) = work.pop() {
            let before: i64 = find.query_row((did, tree), |row| row.get(0)).optional()?.unwrap_or(0);
            let after = before + change;
            put(conn, did, tree, after)?;
            let step = i64::from(after > 0) - i64::from(before > 0);
            if step != 0 && did != ROOT_DIR {
                work.push(((parent.query_row([did], |row| row.get(0))?, tree), step));
            }
        }
        Ok(())
    }
}

fn put(conn: &Connection, did: i64, tree: i64, entries: i64) -> Result<(), IndexError> {
    if entries == 0 {
        conn.prepare_cached("DELETE FROM presence WHERE did = ?1 AND tree = ?2")?.execute((did, tree))?;
    } else {
        // Below zero only between two changes of one transaction; the row must stay to be counted up again.
        conn.prepare_cached("INSERT OR REPLACE INTO presence(did, tree, entries) VALUES(?1, ?2, ?3)")?
            .execute((did, tree, entries))?;
    }
    Ok(())
}
