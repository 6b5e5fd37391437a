//! Recording where segments stand.
//!
//! Invariant: of several places of one segment the lowest (artifact, block, start) is kept, whichever came first.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension};

use super::{IndexError, Reader};
use crate::ledger::{ArtifactName, BlockAddress, PackIndex, Place};
use crate::model::{Hash, SegmentHash};

/// Segments remembered one by one, at some 12 bytes each.
const MAX_REMEMBERED: usize = 250_000;

/// The segments placed since the index was empty, so that a first filling asks no table about what is new to it.
///
/// Never forgets a segment it was told of: it forgets all, and then every segment may have a place.
#[derive(Default)]
pub(super) struct Placed(Option<HashSet<u64>>);

impl Placed {
    /// Begins with an index that has no places; knows nothing of any other.
    pub fn load(conn: &Connection) -> Result<Placed, IndexError> {
        let empty = !conn.prepare("SELECT 1 FROM segments")?.exists([])?;
        Ok(Placed(empty.then(HashSet::new)))
    }

    /// Remembers a segment that has a place from here on.
    pub fn note(&mut self, segment: &SegmentHash) {
        let Some(known) = &mut self.0 else { return };
        if known.len() < MAX_REMEMBERED {
            known.insert(short(segment));
        } else {
            self.forget();
        }
    }

    /// False only if the segment has no place.
    pub fn may_contain(&self, segment: &SegmentHash) -> bool {
        self.0.as_ref().is_none_or(|known| known.contains(&short(segment)))
    }

    /// Gives the memory back.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// Enough of a hash to tell that two differ.
fn short(segment: &SegmentHash) -> u64 {
    let (first, _) = segment.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

struct Row<'a> {
    segment: &'a SegmentHash,
    bid: i64,
    place: &'a Place,
}

/// Stores the places of one transaction.
pub(super) fn store<'a>(
    reader: &Reader,
    places: impl Iterator<Item = &'a (SegmentHash, Place)>,
) -> Result<(), IndexError> {
    let conn = &reader.conn;
    let mut blocks = Blocks { conn, artifacts: HashMap::new(), last: None };
    let mut rows = Vec::new();
    for (segment, place) in places {
        rows.push(Row { segment, bid: blocks.row(place)?, place });
    }
    // In key order every page is filled once, from left to right.
    rows.sort_unstable_by_key(|row| row.segment);
    let mut insert = conn
        .prepare_cached("INSERT INTO segments(hash, bid, start, len) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?;
    for row in rows {
        let added = insert.execute((row.segment.as_bytes(), row.bid, row.place.start, row.place.len))?;
        if added == 0 {
            keep_lowest(reader, &row)?;
        }
    }
    Ok(())
}

fn keep_lowest(reader: &Reader, row: &Row<'_>) -> Result<(), IndexError> {
    let key = |place: &Place| (place.artifact.clone(), place.block, place.start);
    let current = reader.place(row.segment)?;
    if current.is_some_and(|current| key(&current) <= key(row.place)) {
        return Ok(());
    }
    reader.conn.prepare_cached("UPDATE segments SET bid = ?2, start = ?3, len = ?4 WHERE hash = ?1")?.execute((
        row.segment.as_bytes(),
        row.bid,
        row.place.start,
        row.place.len,
    ))?;
    Ok(())
}

/// Rows of artifacts and blocks, with the last one at hand: places come block by block.
struct Blocks<'a> {
    conn: &'a Connection,
    artifacts: HashMap<&'a ArtifactName, i64>,
    last: Option<(&'a ArtifactName, BlockAddress, i64)>,
}

impl<'a> Blocks<'a> {
    fn row(&mut self, place: &'a Place) -> Result<i64, IndexError> {
        if let Some((artifact, block, bid)) = &self.last
            && *block == place.block
            && **artifact == place.artifact
        {
            return Ok(*bid);
        }
        let aid = self.artifact(&place.artifact)?;
        let key = (aid, place.block.offset.cast_signed(), place.block.stored_len, place.block.raw_len);
        let find = "SELECT bid FROM blocks WHERE aid = ?1 AND offset = ?2 AND stored = ?3 AND raw = ?4";
        let insert = "INSERT INTO blocks(aid, offset, stored, raw) VALUES(?1, ?2, ?3, ?4)";
        let found = self.conn.prepare_cached(find)?.query_row(key, |row| row.get(0)).optional()?;
        let bid = match found {
            Some(bid) => bid,
            None => self.conn.prepare_cached(insert)?.insert(key)?,
        };
        self.last = Some((&place.artifact, place.block, bid));
        Ok(bid)
    }

    fn artifact(&mut self, name: &'a ArtifactName) -> Result<i64, IndexError> {
        if let Some(aid) = self.artifacts.get(name) {
            return Ok(*aid);
        }
        let text = name.to_string();
        let find = "SELECT aid FROM artifacts WHERE name = ?1";
        let found = self.conn.prepare_cached(find)?.query_row([&text], |row| row.get(0)).optional()?;
        let aid = match found {
            Some(aid) => aid,
            None => self.conn.prepare_cached("INSERT INTO artifacts(name) VALUES(?1)")?.insert([&text])?,
        };
        self.artifacts.insert(name, aid);
        Ok(aid)
    }
}

impl Reader {
    /// What stands where in a pack, as far as no lower place holds it as well; for a pack that cannot say so itself. Looks at every segment.
    pub fn pack_layout(&self, pack: &ArtifactName) -> Result<PackIndex, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT b.offset, b.stored, b.raw, s.hash, s.len FROM artifacts a JOIN blocks b ON b.aid = a.aid
             JOIN segments s ON s.bid = b.bid WHERE a.name = ?1 ORDER BY b.offset, s.start",
        )?;
        let mut rows = statement.query([pack.to_string()])?;
        let mut blocks: Vec<(BlockAddress, Vec<(SegmentHash, u32)>)> = Vec::new();
        while let Some(row) = rows.next()? {
            let offset = row.get::<_, i64>(0)?.cast_unsigned();
            let address = BlockAddress { offset, stored_len: row.get(1)?, raw_len: row.get(2)? };
            let hash: [u8; 32] = row.get(3)?;
            let segment = (SegmentHash(Hash::from_bytes(hash)), row.get(4)?);
            match blocks.last_mut().filter(|(last, _)| *last == address) {
                Some((_, segments)) => segments.push(segment),
                None => blocks.push((address, vec![segment])),
            }
        }
        Ok(PackIndex::of(blocks))
    }

    /// Packs that applied checkpoints name and whose places are not known yet.
    pub fn absent_packs(&self) -> Result<Vec<ArtifactName>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT name FROM absent ORDER BY name")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        let parse = |name: String| name.parse().map_err(|_| IndexError::damaged("an artifact's name does not parse"));
        names.map(|name| parse(name?)).collect()
    }
}

/// Remembers packs that are not here, and forgets the one that came.
pub(super) fn note_absent(
    conn: &Connection,
    absent: &[ArtifactName],
    came: Option<&ArtifactName>,
) -> Result<(), IndexError> {
    for name in absent {
        let insert = "INSERT INTO absent(name) VALUES(?1) ON CONFLICT DO NOTHING";
        conn.prepare_cached(insert)?.execute([name.to_string()])?;
    }
    if let Some(name) = came {
        conn.prepare_cached("DELETE FROM absent WHERE name = ?1")?.execute([name.to_string()])?;
    }
    Ok(())
}
