//! Stars: which paths a person marked, as the events of all chains say.
//!
//! Invariant: a star is about a path of one space, and all that stands there or one origin's archive file of it; whether it is on
//! follows from the set of events alone: of those that no other one about the same star supersedes, the highest by (clock, hash) decides.
//! A star outlives what it marks: a deleted path keeps its own, and shows nothing. Slots of a star that changed count as changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::batch::Batch;
use super::names::ChainRow;
use super::row::state;
use super::{IndexError, Reader};
use crate::model::{Hash, Hlc, MetaEvent, OriginName, RelPath, Space};

/// What is known of one star.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Star {
    /// Which path.
    pub path: RelPath,
    /// Of which space.
    pub space: Space,
    /// Whose archive file alone; `None` for all that stands there.
    pub origin: Option<OriginName>,
    /// False if it was taken away.
    pub is_on: bool,
    /// Who said so.
    pub by: OriginName,
    /// When.
    pub hlc: Hlc,
    /// The events that nothing supersedes yet, sorted: a new one names them.
    pub heads: Vec<Hash>,
}

/// One event as its row has it.
struct Said {
    hash: Hash,
    by: OriginName,
    hlc: Hlc,
    is_on: bool,
    prev: Vec<u8>,
}

/// Path, space, origin or nothing.
type StarKey = (String, Space, String);

impl Batch<'_> {
    /// Keeps what an event says about a star.
    pub(super) fn note_star(&mut self, chain: &ChainRow, event: &MetaEvent) -> Result<(), IndexError> {
        let Some(word) = event.as_star() else { return Ok(()) };
        let prev: Vec<u8> = event.prev.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let origin = word.origin.as_ref().map_or("", OriginName::as_str);
        let insert = "INSERT OR IGNORE INTO stars(path, spid, origin, hash, cid, hlc, is_on, prev)
                      VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let mut insert = self.conn.prepare_cached(insert)?;
        let hlc = event.hlc.as_u64().cast_signed();
        let of = (word.path.as_str(), chain.spid, origin, event.hash());
        let (path, spid, origin, hash) = of;
        let row = (path, spid, origin, *hash.as_bytes(), chain.cid, hlc, word.is_on, prev);
        if insert.execute(row)? == 0 {
            return Ok(());
        }
        for slot in self.reader.slots_of_star(path, spid, origin, false)? {
            self.touch(slot)?;
        }
        Ok(())
    }
}

impl Reader {
    /// True if anybody ever said anything about a star.
    pub fn has_stars(&self) -> Result<bool, IndexError> {
        Ok(self.conn.prepare_cached("SELECT 1 FROM stars LIMIT 1")?.exists([])?)
    }

    /// Every star, those that were taken away too, in the order of paths.
    pub fn stars(&self) -> Result<Vec<Star>, IndexError> {
        self.judged(None)
    }

    /// The stars of one path, in every space.
    pub fn stars_of(&self, path: &RelPath) -> Result<Vec<Star>, IndexError> {
        self.judged(Some(path.as_str()))
    }

    /// The rows of the slots that show anything now and have a star.
    pub fn starred_slots(&self) -> Result<BTreeSet<i64>, IndexError> {
        let mut slots = BTreeSet::new();
        for star in self.stars()?.iter().filter(|star| star.is_on) {
            let Some(spid) = self.names.space_id(&self.conn, &star.space)? else { continue };
            let origin = star.origin.as_ref().map_or("", OriginName::as_str);
            slots.extend(self.slots_of_star(star.path.as_str(), spid, origin, true)?);
        }
        Ok(slots)
    }

    /// The slots that a star is about: all of its path, or one origin's.
    fn slots_of_star(&self, path: &str, spid: i64, origin: &str, only_live: bool) -> Result<Vec<i64>, IndexError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(did) = self.names.dir_id(&self.conn, dir)? else { return Ok(Vec::new()) };
        let mut statement = self.conn.prepare_cached(
            "SELECT sid FROM slots WHERE did = ?1 AND name = ?2 AND spid = ?3 AND (state & ?5 != 0 OR NOT ?6)
             AND (?4 = '' OR oid = (SELECT o.oid FROM origins o WHERE o.name = ?4))",
        )?;
        let slots = statement.query_map((did, name, spid, origin, state::LIVE, only_live), |row| row.get(0))?;
        Ok(slots.collect::<Result<_, _>>()?)
    }

    fn judged(&self, path: Option<&str>) -> Result<Vec<Star>, IndexError> {
        let mut stars = Vec::new();
        for ((path, space, origin), said) in self.star_events(path)? {
            let path = RelPath::parse(&path).map_err(|error| IndexError::damaged(error.to_string()))?;
            let origin = if origin.is_empty() { None } else { Some(parse_origin(&origin)?) };
            let superseded: HashSet<&[u8]> = said.iter().flat_map(|one| one.prev.chunks_exact(32)).collect();
            let is_head = |one: &&Said| !superseded.contains(one.hash.as_bytes().as_slice());
            let heads: BTreeMap<(Hlc, Hash), &Said> =
                said.iter().rev().filter(is_head).map(|one| ((one.hlc, one.hash), one)).collect();
            // Events that name each other in a circle cannot be made: each would have to hold the other's hash.
            let Some((_, last)) = heads.last_key_value() else { continue };
            let (is_on, by, hlc) = (last.is_on, last.by.clone(), last.hlc);
            let mut heads: Vec<Hash> = heads.keys().map(|(_, hash)| *hash).collect();
            heads.sort_unstable();
            stars.push(Star { path, space, origin, is_on, by, hlc, heads });
        }
        Ok(stars)
    }

    /// The events by star; of one that stands in several chains, the lowest name of an origin comes first.
    fn star_events(&self, path: Option<&str>) -> Result<BTreeMap<StarKey, Vec<Said>>, IndexError> {
        let sql = match path {
            Some(_) => "SELECT path, spid, origin, hash, cid, hlc, is_on, prev FROM stars WHERE path = ?1",
            None => "SELECT path, spid, origin, hash, cid, hlc, is_on, prev FROM stars WHERE ?1 IS NULL",
        };
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([path])?;
        let mut events: BTreeMap<StarKey, Vec<Said>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let key = (row.get(0)?, self.names.space(&self.conn, row.get(1)?)?, row.get(2)?);
            let by = self.names.chain(&self.conn, row.get(4)?)?.chain.origin;
            let (hash, hlc) = (Hash::from_bytes(row.get(3)?), Hlc::from_u64(row.get::<_, i64>(5)?.cast_unsigned()));
            events.entry(key).or_default().push(Said { hash, by, hlc, is_on: row.get(6)?, prev: row.get(7)? });
        }
        for said in events.values_mut() {
            said.sort_by(|a, b| (a.hash, &a.by).cmp(&(b.hash, &b.by)));
        }
        Ok(events)
    }
}

fn parse_origin(text: &str) -> Result<OriginName, IndexError> {
    text.parse().map_err(|_| IndexError::damaged("an origin's name does not parse"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Item;
    use crate::index::tests::fresh;
    use crate::model::{ArtifactHash, Chain, Record, StarWord};

    const DESK: &str = "shared/desk-abc234~1";
    const HALL: &str = "shared/hall-xyz234~1";

    fn event(path: &str, is_on: bool, wall_ms: u64, prev: &[&MetaEvent]) -> MetaEvent {
        let word = StarWord { path: RelPath::parse(path).expect("a path"), origin: None, is_on };
        MetaEvent::star(&word, Hlc::new(wall_ms, 0), prev.iter().map(|event| event.hash()).collect())
    }

    /// One checkpoint a line: (chain, number, event).
    fn items(said: &[(&str, u64, &MetaEvent)]) -> Vec<Item> {
        let item = |(chain, seq, event): &(&str, u64, &MetaEvent)| {
            let chain: Chain = chain.parse().expect("a chain");
            let hash = ArtifactHash(Hash::of(format!("{chain} {seq}").as_bytes()));
            Item::following(chain, (*seq, hash), vec![Record::Meta((*event).clone())], Vec::new())
        };
        said.iter().map(item).collect()
    }

    fn stars_after(items: &[&Item]) -> Vec<Star> {
        let (_folder, mut index) = fresh();
        for item in items {
            index.apply(std::slice::from_ref(*item)).expect("applied");
        }
        index.stars().expect("stars")
    }

    #[test]
    fn stars_are_the_same_in_whatever_order_the_events_come() {
        let on = event("a.md", true, 1_000, &[]);
        let off = event("a.md", false, 2_000, &[&on]);
        // Made on a machine whose clock is behind, which knew the second one.
        let again = event("a.md", true, 500, &[&off]);
        let other = event("b.md", true, 1_500, &[]);
        let items = items(&[(DESK, 1, &on), (DESK, 2, &off), (HALL, 1, &again), (HALL, 2, &other)]);

        let first = stars_after(&[&items[0], &items[1], &items[2], &items[3]]);

        let told: Vec<(&str, bool, &str)> =
            first.iter().map(|star| (star.path.as_str(), star.is_on, star.by.as_str())).collect();
        assert_eq!(told, [("a.md", true, "hall-xyz234"), ("b.md", true, "hall-xyz234")]);
        assert_eq!(first[0].heads, [again.hash()]);
        for order in [[3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            assert_eq!(stars_after(&order.map(|at| &items[at])), first, "{order:?}");
        }
    }

    #[test]
    fn of_stars_set_apart_the_later_word_stands_and_a_new_one_knows_both() {
        let (on, off) = (event("a.md", true, 2_000, &[]), event("a.md", false, 1_000, &[]));
        let items = items(&[(DESK, 1, &on), (HALL, 1, &off)]);

        let stars = stars_after(&[&items[0], &items[1]]);

        let mut both = vec![on.hash(), off.hash()];
        both.sort_unstable();
        assert_eq!(stars.iter().map(|star| (star.is_on, star.heads.clone())).collect::<Vec<_>>(), [(true, both)]);
    }

    #[test]
    fn an_event_about_one_star_supersedes_none_of_another() {
        let on = event("a.md", true, 1_000, &[]);
        let elsewhere = event("b.md", false, 2_000, &[&on]);
        let items = items(&[(DESK, 1, &on), (HALL, 1, &elsewhere)]);

        let stars = stars_after(&[&items[0], &items[1]]);

        assert_eq!(stars.iter().map(|star| star.is_on).collect::<Vec<_>>(), [true, false]);
    }
}
