//! From a query to hits: catch up, ask, name the places, read the snippets.
//!
//! Invariant: an answer is as new as the index was when it began. A file that is damaged is made anew once, within the same question.

use std::collections::BTreeSet;
use std::path::Path;

use super::fill::text_of;
use super::snippet::snippet;
use super::store::{Fts, remove};
use super::{Query, SearchError};
use crate::index::{ContentReader, Reader};
use crate::model::{Content, Hlc, OriginName, RelPath, VersionId};

/// More contents are not ranked: it costs every one that has the words, and what nearly all have tells none of them apart.
const MAX_RANKED: i64 = if cfg!(test) { 4 } else { 4_096 };
/// Versions with one content that are looked at.
const MAX_PLACES: i64 = 1_000;
/// Of these named in one hit.
const MAX_NAMED: usize = 20;
/// Slots that a folder of the view may hold.
const MAX_FOUND: usize = 10_000;

/// Where a found content stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaceOfHit {
    /// The path.
    pub path: RelPath,
    /// Who wrote it.
    pub origin: OriginName,
    /// Which version.
    pub version: VersionId,
    /// When.
    pub hlc: Hlc,
    /// False if something replaced it.
    pub is_current: bool,
}

/// One found content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Where it stands: the current first, then the newest; at least one.
    pub places: Vec<PlaceOfHit>,
    /// Its size in bytes.
    pub size: u64,
    /// The line that shows it, from 1; 0 if the bytes are not here.
    pub line: u64,
    /// What that line says.
    pub snippet: String,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// The best first.
    pub hits: Vec<Hit>,
    /// True if there were more than the limit.
    pub is_more: bool,
}

/// Takes in what is new, then searches. `path` is where `fts.db` is or will be.
///
/// `told` hears how far taking in what is new has come, before it begins and after each batch: rows of the index that were looked at, of all.
pub fn search(
    path: &Path,
    index: &Reader,
    contents: &ContentReader,
    query: &Query,
    told: &dyn Fn(u64, u64),
) -> Result<Hits, SearchError> {
    healing(path, || {
        let mut fts = Fts::open(path, index.epoch())?;
        let all = index.max_row()?.cast_unsigned();
        told(fts.filled()?, all);
        while fts.fill(index, contents)? {
            told(fts.filled()?, all);
        }
        while query.history && fts.fill_past(index, contents)? {}
        find(&fts, index, contents, query)
    })
}

/// The numbers of the slots of which a current version is found, at most 10,000; after taking in what is new, as long as
/// `may_go_on` says so.
pub fn found_slots(
    path: &Path,
    index: &Reader,
    contents: &ContentReader,
    query: &Query,
    may_go_on: &dyn Fn() -> bool,
) -> Result<BTreeSet<i64>, SearchError> {
    healing(path, || {
        let mut fts = Fts::open(path, index.epoch())?;
        while may_go_on() && fts.fill(index, contents)? {}
        let mut slots = BTreeSet::new();
        each_doc(&fts, query, |doc| {
            for place in places_of(&fts, index, doc, query)? {
                slots.insert(place.slot);
            }
            Ok(slots.len() < MAX_FOUND)
        })?;
        Ok(slots)
    })
}

/// What contradicts itself is made anew, once.
fn healing<T>(path: &Path, mut attempt: impl FnMut() -> Result<T, SearchError>) -> Result<T, SearchError> {
    match attempt() {
        Err(error) if error.is_damage() => {
            remove(path)?;
            attempt()
        }
        other => other,
    }
}

fn find(fts: &Fts, index: &Reader, contents: &ContentReader, query: &Query) -> Result<Hits, SearchError> {
    let mut found: Vec<Vec<Placed>> = Vec::new();
    each_doc(fts, query, |doc| {
        let places = places_of(fts, index, doc, query)?;
        if !places.is_empty() {
            found.push(places);
        }
        Ok(found.len() <= query.limit)
    })?;
    let is_more = found.len() > query.limit;
    found.truncate(query.limit);
    let words = query.words();
    let hit = |places: Vec<Placed>| {
        let content = places[0].content;
        let text = text_of(contents, &content)?;
        let shown = text.map(|text| snippet(&text, &words));
        let (line, snippet) = shown.map_or((0, String::new()), |shown| (shown.line, shown.text));
        let places = places.into_iter().take(MAX_NAMED).map(|placed| placed.place).collect();
        Ok(Hit { places, size: content.size, line, snippet })
    };
    let hits = found.into_iter().map(hit).collect::<Result<_, SearchError>>()?;
    Ok(Hits { hits, is_more })
}

/// Hands on the contents that have the words until told to stop: the best first, or the newest where too many have them.
fn each_doc(
    fts: &Fts,
    query: &Query,
    mut visit: impl FnMut(i64) -> Result<bool, SearchError>,
) -> Result<(), SearchError> {
    let words = query.to_match();
    let count = "SELECT count(*) FROM (SELECT 1 FROM text WHERE text MATCH ?1 LIMIT ?2)";
    let count: i64 = fts.conn.prepare_cached(count)?.query_row((&words, MAX_RANKED + 1), |row| row.get(0))?;
    let order = if count > MAX_RANKED { "rowid DESC" } else { "rank" };
    let mut statement =
        fts.conn.prepare_cached(&format!("SELECT rowid FROM text WHERE text MATCH ?1 ORDER BY {order}"))?;
    let mut rows = statement.query([&words])?;
    while let Some(row) = rows.next()? {
        if !visit(row.get(0)?)? {
            break;
        }
    }
    Ok(())
}

struct Placed {
    place: PlaceOfHit,
    content: Content,
    slot: i64,
}

fn places_of(fts: &Fts, index: &Reader, doc: i64, query: &Query) -> Result<Vec<Placed>, SearchError> {
    let mut statement =
        fts.conn.prepare_cached("SELECT vid, sid, current FROM places WHERE doc = ?1 AND current >= ?2 LIMIT ?3")?;
    let mut rows = statement.query((doc, i64::from(!query.history), MAX_PLACES))?;
    let mut places = Vec::new();
    while let Some(row) = rows.next()? {
        let (vid, slot): (i64, i64) = (row.get(0)?, row.get(1)?);
        let Some(version) = index.version_numbered(vid)? else { continue };
        let Some(content) = version.content else { continue };
        let path = index.slot_of_number(slot)?.path;
        if query.admits(&path, &version.origin, version.hlc) {
            let is_current = row.get(2)?;
            let (origin, hlc) = (version.origin, version.hlc);
            places.push(Placed {
                place: PlaceOfHit { path, origin, version: version.id, hlc, is_current },
                content,
                slot,
            });
        }
    }
    places.sort_by(|a, b| {
        let order = |placed: &Placed| std::cmp::Reverse((placed.place.is_current, placed.place.hlc));
        order(a).cmp(&order(b)).then_with(|| a.place.path.cmp(&b.place.path))
    });
    Ok(places)
}
