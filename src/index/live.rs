//! Which contents something needs, over all spaces that are known here.
//!
//! Invariant: a content may go only if every version that has it is an ancestor, within its own slot, of a version that the caller
//! calls settled; a slot with several heads keeps everything, because a merge may need any ancestor. Reads only.

use std::collections::{BTreeMap, HashSet};

use super::lineage::{Descendant, load_forks};
use super::row::{SlotRow, VersionRow};
use super::{Dropped, IndexError, Reader};
use crate::model::{Chain, ContentHash, Hlc, OriginName, RelPath, SegmentHash, SegmentRef, VersionId};

/// Segments looked for at once: where so many are named, there may be more.
pub const MAX_UNPLACED: usize = 100_000;

/// A version that stands at its place in a chain: enough to judge whether everybody knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Succession<'a> {
    /// Who published it, where.
    pub chain: &'a Chain,
    /// Its number in that chain.
    pub n: u64,
    /// When.
    pub hlc: Hlc,
}

/// A content that nothing needs any more, by a version that had it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superseded {
    /// The content.
    pub content: ContentHash,
    /// Its bytes.
    pub size: u64,
    /// The newest version that had it.
    pub id: VersionId,
    /// Its path.
    pub path: RelPath,
    /// When that version was made.
    pub hlc: Hlc,
}

impl Reader {
    /// The contents that some version of `chain` has and nothing needs: every version that has one of them was succeeded, in its
    /// slot, by one that is `settled`, and none of them is `held`. Oldest first.
    pub fn superseded(
        &self,
        chain: &Chain,
        held: &HashSet<ContentHash>,
        settled: impl Fn(&Succession<'_>) -> bool,
    ) -> Result<Vec<Superseded>, IndexError> {
        let own = self.names.chain_id(&self.conn, chain)?;
        let mut needed: HashSet<ContentHash> = held.clone();
        let mut found: BTreeMap<ContentHash, Superseded> = BTreeMap::new();
        let forks = load_forks(&self.conn)?;
        let mut sids = self.conn.prepare("SELECT sid FROM slots")?;
        for sid in sids.query_map([], |row| row.get(0))? {
            let slot = SlotRow::load(&self.conn, sid?)?;
            let (mut rows, mut next) = (Vec::new(), slot.last);
            while next != 0 {
                let row = VersionRow::load(&self.conn, next)?;
                next = row.prev;
                rows.push(row);
            }
            let open = slot.heads.len() > 1;
            // A version's clock value is never below its parents', so successors come first.
            rows.sort_by_key(|row| std::cmp::Reverse((row.hlc, row.id)));
            let mut tops: Vec<Descendant> = Vec::new();
            for row in rows {
                let mut gone = false;
                for top in &tops {
                    gone = gone || (!open && top.descends_from(&self.conn, &forks, &row)?);
                }
                match row.content {
                    Some(content) if !gone => {
                        needed.insert(content);
                    }
                    Some(content) if Some(row.cid) == own && !found.contains_key(&content) => {
                        let (size, id, hlc) = (row.size, row.id, row.hlc);
                        let path = self.slot(row.sid)?.path;
                        found.insert(content, Superseded { content, size, id, path, hlc });
                    }
                    _ => {}
                }
                let of = self.names.chain(&self.conn, row.cid)?;
                if !gone && settled(&Succession { chain: &of.chain, n: row.n, hlc: row.hlc }) {
                    tops.push(Descendant::new(row)?);
                }
            }
        }
        let mut superseded: Vec<Superseded> =
            found.into_values().filter(|found| found.size > 0 && !needed.contains(&found.content)).collect();
        superseded.sort_by_key(|superseded| (superseded.hlc, superseded.id));
        Ok(superseded)
    }

    /// The segments of these contents that no other content needs: everything that a version has and is not among them.
    pub fn segments_of_none(&self, gone: &HashSet<ContentHash>) -> Result<HashSet<SegmentHash>, IndexError> {
        let mut segments = HashSet::new();
        self.each_content(|content, size| {
            if gone.contains(&content)
                && let Some(manifest) = self.manifest(&content, size)?
            {
                segments.extend(manifest.segments.iter().map(|SegmentRef(segment, _)| *segment));
            }
            Ok(())
        })?;
        if segments.is_empty() {
            return Ok(segments);
        }
        self.each_content(|content, size| {
            if !gone.contains(&content)
                && let Some(manifest) = self.manifest(&content, size)?
            {
                for SegmentRef(segment, _) in &manifest.segments {
                    segments.remove(segment);
                }
            }
            Ok(())
        })?;
        Ok(segments)
    }

    /// Segments without a place that a content needs: one that nobody dropped, or that a head has, or is `held`, although somebody did.
    pub fn unplaced(&self, held: &HashSet<ContentHash>) -> Result<HashSet<SegmentHash>, IndexError> {
        let heads = self.contents_of_heads()?;
        let mut unplaced = HashSet::new();
        self.each_content(|content, size| {
            if unplaced.len() < MAX_UNPLACED {
                let missing = self.missing_segments(&content, size, MAX_UNPLACED)?;
                let needed = heads.contains(&content) || held.contains(&content);
                let is_gone = |gone: Option<Dropped>| gone.is_some_and(|gone| gone.purged || !needed);
                if !missing.is_empty() && !is_gone(self.dropped(&content)?) {
                    unplaced.extend(missing);
                }
            }
            Ok(())
        })?;
        Ok(unplaced)
    }

    /// The contents of every head, of all slots.
    pub fn contents_of_heads(&self) -> Result<HashSet<ContentHash>, IndexError> {
        let mut contents = HashSet::new();
        let mut sids = self.conn.prepare("SELECT sid FROM slots")?;
        for sid in sids.query_map([], |row| row.get(0))? {
            for head in SlotRow::load(&self.conn, sid?)?.heads {
                contents.extend(VersionRow::load(&self.conn, head.vid)?.content);
            }
        }
        Ok(contents)
    }

    /// Origins that a person took out of the account of who has seen what, and when.
    pub fn retired(&self) -> Result<Vec<(OriginName, Hlc)>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT origin, max(hlc) FROM retired GROUP BY origin ORDER BY origin")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        let mut retired = Vec::new();
        for row in rows {
            let (origin, hlc) = row?;
            let origin = origin.parse().map_err(|_| IndexError::damaged("an origin's name does not parse"))?;
            retired.push((origin, Hlc::from_u64(hlc.cast_unsigned())));
        }
        Ok(retired)
    }

    pub(super) fn each_content(
        &self,
        mut visit: impl FnMut(ContentHash, u64) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut statement =
            self.conn.prepare("SELECT DISTINCT content, size FROM versions WHERE content IS NOT NULL AND size > 0")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let content = super::reader::content_hash(row.get_ref(0)?.as_blob()?)?;
            visit(content, row.get::<_, i64>(1)?.cast_unsigned())?;
        }
        Ok(())
    }
}
