//! What `status` asks: counts, conflicts, and what is named but not here.
//!
//! Invariant: answering costs what is open or missing, never the archive; sums are kept while versions are applied.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use rusqlite::OptionalExtension;

use super::row::{SlotRow, VersionRow, state};
use super::{IndexError, Reader, Slot, Stored};
use crate::model::{Chain, OriginName, SegmentHash, VersionId};

/// Sums over everything applied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Versions applied.
    pub versions: u64,
    /// Paths that ever had one (of an archive: origin and path).
    pub slots: u64,
    /// Paths that have content now.
    pub live_files: u64,
    /// Bytes of their contents, deduplicated by nothing.
    pub live_bytes: u64,
    /// Paths whose heads have different contents.
    pub conflicts: u64,
    /// Versions whose parents are not here.
    pub waiting: u64,
    /// Versions left out, because they break a rule.
    pub rejected: u64,
    /// Records of kinds that this release does not know.
    pub unknown: u64,
    /// By who published, in order of name.
    pub origins: Vec<OriginCounts>,
}

/// Sums of one origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginCounts {
    /// Who.
    pub origin: OriginName,
    /// Versions it published.
    pub versions: u64,
    /// Paths to which its own newest version gives content.
    pub live_files: u64,
    /// Bytes of these.
    pub live_bytes: u64,
}

/// A slot with heads of different contents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Where.
    pub slot: Slot,
    /// The heads, the one that sorts highest first; tombstones among them.
    pub heads: Vec<Stored>,
}

/// A head whose bytes are not all here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingBytes {
    /// Where.
    pub slot: Slot,
    /// Which version.
    pub id: VersionId,
    /// The segments without a place; empty if the manifest itself is missing.
    pub segments: Vec<SegmentHash>,
}

/// A version whose parents are not here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingParents {
    /// The chain that published it.
    pub chain: Chain,
    /// Which version waits.
    pub id: VersionId,
    /// For which ones.
    pub parents: Vec<VersionId>,
}

/// Segments named for one head.
const MAX_SEGMENTS_LISTED: usize = 10_000;

impl Reader {
    /// The sums.
    pub fn counts(&self) -> Result<Counts, IndexError> {
        let sum = |sql: &str| -> Result<u64, IndexError> {
            Ok(self.conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
        };
        Ok(Counts {
            versions: sum("SELECT value FROM meta WHERE key = 'versions'")?,
            slots: sum("SELECT value FROM meta WHERE key = 'slots'")?,
            live_files: sum("SELECT value FROM meta WHERE key = 'live'")?,
            live_bytes: sum("SELECT value FROM meta WHERE key = 'bytes'")?,
            conflicts: sum("SELECT count(*) FROM slots WHERE heads IS NOT NULL AND state & 2")?,
            waiting: sum("SELECT count(*) FROM waiting")?,
            rejected: sum("SELECT count(*) FROM rejected")?,
            unknown: sum("SELECT ifnull(sum(count), 0) FROM unknown")?,
            origins: self.origin_counts()?,
        })
    }

    /// Everybody who published a version or is named by a chain, in order of name.
    pub fn origins(&self) -> Result<Vec<OriginName>, IndexError> {
        Ok(self.origin_counts()?.into_iter().map(|counts| counts.origin).collect())
    }

    /// The slots whose heads have different contents; whether a merge settles one is the resolver's question.
    ///
    /// In no particular order; at most `limit`.
    pub fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT sid FROM slots WHERE heads IS NOT NULL AND state & 2 LIMIT ?1")?;
        let sids = statement.query_map([limit as u64 as i64], |row| row.get(0))?;
        let mut conflicts = Vec::new();
        for sid in sids {
            let slot = self.slot(sid?)?;
            let heads = self.heads(&slot)?;
            conflicts.push(Conflict { slot, heads });
        }
        conflicts.sort_by(|a, b| a.slot.cmp(&b.slot));
        Ok(conflicts)
    }

    /// The heads whose bytes are not all here, at most `limit`.
    pub fn missing_bytes(&self, limit: usize) -> Result<Vec<MissingBytes>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT vid FROM lacks ORDER BY vid")?;
        let mut rows = statement.query([])?;
        let mut missing = Vec::new();
        let mut heads: HashMap<i64, HashSet<i64>> = HashMap::new();
        while let Some(row) = rows.next()?
            && missing.len() < limit
        {
            let row = VersionRow::load(&self.conn, row.get(0)?)?;
            let heads = match heads.entry(row.sid) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let heads = SlotRow::load(&self.conn, row.sid)?.heads;
                    new.insert(heads.iter().filter(|head| !head.shadowed).map(|head| head.vid).collect())
                }
            };
            if let (true, Some(content)) = (heads.contains(&row.vid), row.content)
                && self.purged(&content)?.is_none()
            {
                let segments = self.missing_segments(&content, row.size, MAX_SEGMENTS_LISTED)?;
                missing.push(MissingBytes { slot: self.slot(row.sid)?, id: row.id, segments });
            }
        }
        missing.sort_by(|a, b| (&a.slot, a.id).cmp(&(&b.slot, b.id)));
        Ok(missing)
    }

    /// The versions whose parents are not here, at most `limit`.
    pub fn missing_parents(&self, limit: usize) -> Result<Vec<MissingParents>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT wid, cid, id FROM waiting ORDER BY id, cid LIMIT ?1")?;
        let mut wants = self.conn.prepare_cached("SELECT parent FROM wants WHERE wid = ?1 ORDER BY parent")?;
        let mut rows = statement.query([limit as u64 as i64])?;
        let mut missing = Vec::new();
        while let Some(row) = rows.next()? {
            let chain = self.names.chain(&self.conn, row.get(1)?)?.chain;
            let parents = wants.query_map([row.get::<_, i64>(0)?], |row| row.get::<_, [u8; 32]>(0))?;
            let parents = parents.map(|parent| Ok(VersionId(crate::model::Hash::from_bytes(parent?))));
            let id = VersionId(crate::model::Hash::from_bytes(row.get(2)?));
            missing.push(MissingParents { chain, id, parents: parents.collect::<Result<_, IndexError>>()? });
        }
        Ok(missing)
    }

    /// The newest version by an origin's generations in a slot.
    pub(super) fn newest_of_origin(&self, slot: &SlotRow, oid: i64) -> Result<Option<VersionRow>, IndexError> {
        let first = self.names.chain(&self.conn, slot.author)?;
        let mut newest = (first.oid == oid).then_some((first.chain.generation, slot.own));
        if slot.state & state::MANY != 0 {
            // One look however many chains wrote here: the newest generation of this origin that did.
            let mut statement = self.conn.prepare_cached(
                "SELECT c.generation, a.vid FROM chains c CROSS JOIN authors a ON a.sid = ?1 AND a.cid = c.cid
                 WHERE c.spid = ?2 AND c.oid = ?3 ORDER BY c.generation DESC LIMIT 1",
            )?;
            let key = (slot.sid, slot.spid, oid);
            let other = statement.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            newest = newest.max(other);
        }
        newest.map(|(_, vid)| VersionRow::load(&self.conn, vid)).transpose()
    }

    fn origin_counts(&self) -> Result<Vec<OriginCounts>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT name, versions, live, bytes FROM origins ORDER BY name")?;
        let mut rows = statement.query([])?;
        let mut origins = Vec::new();
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_str()?;
            let number = |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.cast_unsigned());
            origins.push(OriginCounts {
                origin: name.parse().map_err(|_| IndexError::damaged("an origin's name does not parse"))?,
                versions: number(1)?,
                live_files: number(2)?,
                live_bytes: number(3)?,
            });
        }
        Ok(origins)
    }
}

// The statements above say `state & 2`.
const _: () = assert!(state::CONFLICT == 2 && state::LIVE == 1 && state::TRASH == 4);
