//! Manifests and places of segments: from a content to the blocks that hold its bytes.
//!
//! Invariant: a manifest that is handed out adds up to its content's size. Deltas are resolved at most 64 deep and to at
//! most `MAX_RESOLVED_SEGMENTS`. Several manifests of one content (cut by different releases) are all kept; which one
//! answers depends on the set alone.

use rusqlite::Connection;

use super::codec::{decode_segments, encode_segments};
use super::reader::content_hash;
use super::{IndexError, Reader};
use crate::ledger::{BlockAddress, Place};
use crate::model::{ContentHash, Hash, Manifest, ManifestDelta, SegmentHash, SegmentRef};

/// Segments of one resolved manifest; 36 MB of memory, contents of some 60 GB.
pub const MAX_RESOLVED_SEGMENTS: usize = 1_000_000;
/// Deltas may stand on each other at most this deep: the format's bound, `model::manifest::MAX_DELTA_DEPTH`.
const MAX_DELTA_DEPTH: u32 = 64;
/// Contents up to this many bytes may do without a manifest: the longest a segment may be.
const MAX_IMPLIED_BYTES: u64 = 16 << 20;
/// Manifests of one content that are tried.
const MAX_CANDIDATES: usize = 4;
/// Contents looked at for one manifest: an honest one needs at most 65.
const MAX_LOOKUPS: u32 = 300;

impl Reader {
    /// The manifest of a content: recorded, or implied for a content of at most one segment.
    ///
    /// `None` if it is recorded nowhere that was applied, or only as a delta on one that is not here.
    pub fn manifest(&self, content: &ContentHash, size: u64) -> Result<Option<Manifest>, IndexError> {
        resolve(&self.conn, content, size)
    }

    /// How many deltas stand below a content's manifest: 0 for a full or an implied one.
    ///
    /// A writer extends only manifests below `MAX_DELTA_DEPTH`.
    pub fn manifest_depth(&self, content: &ContentHash) -> Result<u32, IndexError> {
        Ok(delta_chain(&self.conn, content)?.1)
    }

    /// True if the content has a recorded manifest of which every segment has a place.
    ///
    /// False for a content of one segment: ask `has_segment`.
    pub fn knows_content(&self, content: &ContentHash) -> Result<bool, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT DISTINCT size FROM manifests WHERE content = ?1")?;
        let sizes: Vec<i64> = statement.query_map([content.as_bytes()], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for size in sizes {
            let manifest = resolve(&self.conn, content, size.cast_unsigned())?;
            if manifest.is_some() && self.missing_segments(content, size.cast_unsigned(), 1)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a segment's bytes stand.
    pub fn place(&self, segment: &SegmentHash) -> Result<Option<Place>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT b.aid, b.offset, b.stored, b.raw, s.start, s.len FROM segments s
             JOIN blocks b ON b.bid = s.bid WHERE s.hash = ?1",
        )?;
        let mut rows = statement.query([segment.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let artifact = self.names.artifact(&self.conn, row.get(0)?)?;
        let offset = row.get::<_, i64>(1)?.cast_unsigned();
        let block = BlockAddress { offset, stored_len: row.get(2)?, raw_len: row.get(3)? };
        Ok(Some(Place { artifact, block, start: row.get(4)?, len: row.get(5)? }))
    }

    /// How many of the first segments and which ones of a content have no place yet, at most `limit`.
    pub fn missing_segments(
        &self,
        content: &ContentHash,
        size: u64,
        limit: usize,
    ) -> Result<Vec<SegmentHash>, IndexError> {
        let Some(manifest) = self.manifest(content, size)? else { return Ok(Vec::new()) };
        let mut missing = Vec::new();
        for SegmentRef(segment, _) in &manifest.segments {
            if missing.len() >= limit {
                break;
            }
            if !self.has_segment(segment)? && !missing.contains(segment) {
                missing.push(*segment);
            }
        }
        Ok(missing)
    }
}

/// Stores a manifest once. Returns true if it was new.
pub(super) fn store(conn: &Connection, delta: &ManifestDelta) -> Result<bool, IndexError> {
    let key = Hash::of(&delta.to_line());
    let mut statement = conn.prepare_cached(
        "INSERT INTO manifests(content, key, size, extends, keep, added, whole) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO NOTHING",
    )?;
    let whole = quickly_whole(conn, delta)?;
    let added = statement.execute(rusqlite::params![
        delta.content.as_bytes(),
        &key.as_bytes()[..8],
        delta.size.cast_signed(),
        delta.extends.as_ref().map(ContentHash::as_bytes),
        delta.keep as u64 as i64,
        encode_segments(&delta.add),
        whole,
    ])?;
    Ok(added > 0)
}

/// True if every added segment has a place and the extended content is known to be whole: costs the delta, not the file.
fn quickly_whole(conn: &Connection, delta: &ManifestDelta) -> Result<bool, IndexError> {
    for SegmentRef(segment, _) in &delta.add {
        if !placed(conn, segment.as_bytes())? {
            return Ok(false);
        }
    }
    match &delta.extends {
        None => Ok(true),
        Some(base) => Ok(is_whole(conn, base)? || (delta.keep <= 1 && placed(conn, base.as_bytes())?)),
    }
}

fn is_whole(conn: &Connection, content: &ContentHash) -> Result<bool, IndexError> {
    // All manifests of a content must be whole, so that whichever one a delta meant has every segment placed.
    let mut statement = conn.prepare_cached("SELECT min(whole) FROM manifests WHERE content = ?1")?;
    Ok(statement.query_row([content.as_bytes()], |row| row.get::<_, Option<bool>>(0))?.unwrap_or(false))
}

fn placed(conn: &Connection, hash: &[u8; 32]) -> Result<bool, IndexError> {
    Ok(conn.prepare_cached("SELECT 1 FROM segments WHERE hash = ?1")?.exists([hash])?)
}

/// The first thing a content waits for: a segment, or the content itself whose manifest is not here.
pub(super) fn first_missing(conn: &Connection, content: &ContentHash, size: u64) -> Result<Option<Hash>, IndexError> {
    if size == 0 || is_whole(conn, content)? {
        return Ok(None);
    }
    let Some(manifest) = resolve(conn, content, size)? else { return Ok(Some(delta_chain(conn, content)?.0.0)) };
    for SegmentRef(segment, _) in &manifest.segments {
        if !placed(conn, segment.as_bytes())? {
            return Ok(Some(segment.0));
        }
    }
    conn.prepare_cached("UPDATE manifests SET whole = 1 WHERE content = ?1 AND size = ?2")?
        .execute((content.as_bytes(), size.cast_signed()))?;
    Ok(None)
}

/// Follows a content's deltas, the one that would be tried first each time: what they stand on, and how many there are.
fn delta_chain(conn: &Connection, content: &ContentHash) -> Result<(ContentHash, u32), IndexError> {
    let mut base = *content;
    let mut statement = conn
        .prepare_cached("SELECT extends FROM manifests WHERE content = ?1 ORDER BY extends IS NOT NULL, key LIMIT 1")?;
    for depth in 0..MAX_DELTA_DEPTH {
        let mut rows = statement.query([base.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok((base, depth)) };
        match row.get_ref(0)?.as_blob_or_null()? {
            Some(extended) => base = content_hash(extended)?,
            None => return Ok((base, depth)),
        }
    }
    Ok((base, MAX_DELTA_DEPTH))
}

fn resolve(conn: &Connection, content: &ContentHash, size: u64) -> Result<Option<Manifest>, IndexError> {
    let mut left = MAX_LOOKUPS;
    let candidates = candidates(conn, content, 0, &mut left)?;
    match candidates.into_iter().find(|manifest| manifest.size == size) {
        Some(manifest) => Ok(Some(manifest)),
        None if size <= MAX_IMPLIED_BYTES && !is_recorded(conn, content)? => {
            Ok(Some(Manifest::implied(*content, size)))
        }
        None => Ok(None),
    }
}

fn is_recorded(conn: &Connection, content: &ContentHash) -> Result<bool, IndexError> {
    Ok(conn.prepare_cached("SELECT 1 FROM manifests WHERE content = ?1")?.exists([content.as_bytes()])?)
}

/// The recorded manifests of a content, resolved; if there is none, the implied one of its single segment.
fn candidates(
    conn: &Connection,
    content: &ContentHash,
    depth: u32,
    left: &mut u32,
) -> Result<Vec<Manifest>, IndexError> {
    if depth > MAX_DELTA_DEPTH || *left == 0 {
        return Ok(Vec::new());
    }
    *left -= 1;
    let deltas = stored_deltas(conn, content)?;
    let mut found = Vec::new();
    for delta in &deltas {
        match &delta.extends {
            None => found.extend(delta.apply(None).ok()),
            Some(base) => {
                let mut bases = candidates(conn, base, depth + 1, left)?;
                bases.extend(implied_base(conn, base, delta)?);
                found.extend(bases.iter().filter(|b| fits(b, delta)).filter_map(|b| delta.apply(Some(b)).ok()));
            }
        }
        found.truncate(MAX_CANDIDATES);
    }
    Ok(found)
}

fn fits(base: &Manifest, delta: &ManifestDelta) -> bool {
    delta.keep.min(base.segments.len()) + delta.add.len() <= MAX_RESOLVED_SEGMENTS
}

/// A content of one segment that a delta extends: its length is what the delta's size leaves.
fn implied_base(conn: &Connection, base: &ContentHash, delta: &ManifestDelta) -> Result<Option<Manifest>, IndexError> {
    if delta.keep != 1 || is_recorded(conn, base)? {
        return Ok(None);
    }
    let added: u64 = delta.add.iter().map(|segment| u64::from(segment.1)).sum();
    let len = delta.size.checked_sub(added).filter(|len| (1..=MAX_IMPLIED_BYTES).contains(len));
    Ok(len.map(|len| Manifest::implied(*base, len)))
}

fn stored_deltas(conn: &Connection, content: &ContentHash) -> Result<Vec<ManifestDelta>, IndexError> {
    let mut statement = conn.prepare_cached(
        "SELECT size, extends, keep, added FROM manifests WHERE content = ?1 ORDER BY extends IS NOT NULL, key LIMIT ?2",
    )?;
    let mut rows = statement.query((content.as_bytes(), MAX_CANDIDATES as i64))?;
    let mut deltas = Vec::new();
    while let Some(row) = rows.next()? {
        let add = decode_segments(row.get_ref(3)?.as_blob()?);
        deltas.push(ManifestDelta {
            content: *content,
            size: row.get::<_, i64>(0)?.cast_unsigned(),
            extends: row.get_ref(1)?.as_blob_or_null()?.map(content_hash).transpose()?,
            keep: usize::try_from(row.get::<_, i64>(2)?).unwrap_or(usize::MAX),
            add: add.ok_or_else(|| IndexError::damaged("a manifest's segments are cut short"))?,
        });
    }
    Ok(deltas)
}
