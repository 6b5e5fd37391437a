//! Row numbers for whoever must name things by a number: the mount, whose inode numbers they become.
//!
//! Invariant: a number names the same thing as long as `Reader::epoch` stays the same. Numbers are the one thing here that depends
//! on the order in which artifacts came; nothing that is shown may be ordered by them.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension};

use super::names::child_dir;
use super::presence::{CONFLICTS, MERGED, TRASH, origin_tree};
use super::reader::find_versions;
use super::row::{SlotRow, VersionRow, note_loaded, state};
use super::schema::ROOT_DIR;
use super::{IndexError, Reader, Slot, Stored, Tree};
use crate::model::{Content, Hlc, OriginName, RelPath, Space, VersionId};

/// The root directory's number.
pub const ROOT_DIR_NUMBER: i64 = ROOT_DIR;

/// A filter that lets every slot through.
const ANY_STATE: i64 = -1;
/// Slots of a directory, each with its only head if it has just one and passes the filter `?3`: one question instead of one a slot.
macro_rules! slots_with_head {
    ($chosen:literal) => {
        concat!(
            "SELECT s.sid, s.did, s.spid, s.oid, s.last, s.heads, s.state, s.author, s.own, s.name, v.vid, v.id, v.sid, v.prev,
               v.cid, v.n, v.lag, v.hlc, v.age, v.flags, v.content, v.size, v.ext
             FROM slots s LEFT JOIN versions v ON v.vid = s.last AND s.heads IS NULL AND (?3 = -1 OR s.state & ?3)
             WHERE s.did = ?1 AND ",
            $chosen
        )
    };
}
const ONE_NAME: &str = slots_with_head!("s.name = ?2");
const NAMES_AFTER: &str = slots_with_head!("s.name > ?2 ORDER BY s.name");
/// Where the name stands in them; the version follows.
const NAME_COLUMN: usize = 9;

/// A version with its numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedVersion {
    /// Its own.
    pub number: i64,
    /// Its id.
    pub id: VersionId,
    /// Its content; `None` for a tombstone.
    pub content: Option<Content>,
    /// Its clock value.
    pub hlc: Hlc,
    /// Its origin's number.
    pub origin_number: i64,
    /// Its origin.
    pub origin: OriginName,
    /// True in the archive channel.
    pub archive: bool,
}

/// A slot with its number, without its path: who lists a folder knows that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedSlot {
    /// Its own.
    pub number: i64,
    /// Its space.
    pub space: Space,
    /// Its origin in the archive channel.
    pub origin: Option<OriginName>,
    /// The version shown: the head that sorts highest; of `Tree::Origin` the origin's own newest.
    pub shown: NumberedVersion,
    /// How many heads it has; above 1, ask the resolver.
    pub heads: usize,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedName {
    /// The last component.
    pub name: String,
    /// The directory, if it has something to show in the tree.
    pub dir: Option<i64>,
    /// The lowest number of all slots at the path, whether the tree shows them or not: stands for the path.
    pub path: Option<i64>,
    /// The slots that the tree shows, in order of slot.
    pub slots: Vec<NumberedSlot>,
}

/// What one version changed in its directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirChange {
    /// The directory.
    pub dir: i64,
    /// The version's clock value.
    pub hlc: Hlc,
    /// That of the version in whose place it stands; zero if it is the first of its slot.
    pub replaced: Hlc,
}

/// Which names of a directory are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names<'a> {
    /// This one.
    One(&'a str),
    /// Those after a name (all of them, after an empty one), up to so many: fewer only at the end.
    After(&'a str, usize),
}

/// One state of the index, for as long as it lives.
struct Moment<'a>(&'a Connection);

impl Moment<'_> {
    fn begin(conn: &Connection) -> Result<Moment<'_>, IndexError> {
        // Kept like any other statement: compiling it costs more than a look-up.
        conn.prepare_cached("BEGIN")?.execute([])?;
        Ok(Moment(conn))
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        // Nothing was written, so ending it either way is the same; but it must end, or all that follows would be of this moment.
        let ended = self.0.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
        if ended.is_err() && !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

impl Reader {
    /// Runs `answer` on one state of the index, however many questions it asks.
    pub fn consistently<T, E: From<IndexError>>(&self, answer: impl FnOnce(&Reader) -> Result<T, E>) -> Result<T, E> {
        // Whoever reads from one moment already goes on in it.
        if !self.conn.is_autocommit() {
            return answer(self);
        }
        let moment = Moment::begin(&self.conn)?;
        let outcome = answer(self);
        drop(moment);
        outcome
    }

    /// Reads from one moment until `end_reading` or the next `apply`: many small reads then share one transaction.
    pub fn begin_reading(&self) -> Result<(), IndexError> {
        if self.conn.is_autocommit() {
            self.conn.execute_batch("BEGIN")?;
        }
        Ok(())
    }

    /// Ends what `begin_reading` began; nothing if nothing did.
    pub fn end_reading(&self) -> Result<(), IndexError> {
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("COMMIT")?;
        }
        Ok(())
    }

    /// The parent and the name of a directory; the root's parent is 0.
    pub fn dir_numbered(&self, dir: i64) -> Result<Option<(i64, String)>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT parent, name FROM dirs WHERE did = ?1")?;
        Ok(statement.query_row([dir], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// The parent and the name of a directory, and the number that stands for the path of that name, if anything ever was a file there.
    pub fn dir_facts_numbered(&self, dir: i64) -> Result<Option<(i64, String, Option<i64>)>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT d.parent, d.name, (SELECT min(s.sid) FROM slots s WHERE s.did = d.parent AND s.name = d.name)
             FROM dirs d WHERE d.did = ?1",
        )?;
        Ok(statement.query_row([dir], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?)
    }

    /// The number of the directory called `name` in a directory.
    pub fn child_dir_number(&self, dir: i64, name: &str) -> Result<Option<i64>, IndexError> {
        child_dir(&self.conn, dir, name)
    }

    /// The newest clock value among the slots directly in a directory.
    pub fn dir_changed(&self, dir: i64) -> Result<Hlc, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT max(v.hlc), count(*) FROM slots s CROSS JOIN versions v ON v.vid = s.last WHERE s.did = ?1",
        )?;
        let (hlc, rows): (Option<i64>, i64) = statement.query_row([dir], |row| Ok((row.get(0)?, row.get(1)?)))?;
        note_loaded(rows.cast_unsigned());
        Ok(Hlc::from_u64(hlc.unwrap_or(0).cast_unsigned()))
    }

    /// For each version applied after `row`, in that order: its slot's directory, its clock value, and that of the version that the slot
    /// held last before it. At most `limit`; with [`Reader::dir_changed`] of before it tells what that is now.
    pub fn dir_changes_since(&self, row: i64, limit: usize) -> Result<Vec<DirChange>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT s.did, v.hlc, p.hlc FROM versions v CROSS JOIN slots s ON s.sid = v.sid LEFT JOIN versions p ON p.vid = v.prev
             WHERE v.vid > ?1 ORDER BY v.vid LIMIT ?2",
        )?;
        let hlc = |value: i64| Hlc::from_u64(value.cast_unsigned());
        let rows = statement.query_map((row, limit.cast_signed()), |row| {
            let replaced: Option<i64> = row.get(2)?;
            Ok(DirChange { dir: row.get(0)?, hlc: hlc(row.get(1)?), replaced: hlc(replaced.unwrap_or(0)) })
        })?;
        let changes = rows.collect::<Result<Vec<_>, _>>()?;
        note_loaded(changes.len() as u64);
        Ok(changes)
    }

    /// The slots at one name of a directory, all spaces and origins, lowest number first.
    pub fn slots_named(&self, dir: i64, name: &str) -> Result<Vec<(i64, Slot)>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT sid, spid, oid FROM slots WHERE did = ?1 AND name = ?2 ORDER BY sid")?;
        let mut rows = statement.query((dir, name))?;
        let mut slots = Vec::new();
        while let Some(row) = rows.next()? {
            slots.push((row.get(0)?, self.slot_at(dir, name, row.get(1)?, row.get(2)?)?));
        }
        Ok(slots)
    }

    /// The directory and the name of a slot.
    pub fn slot_numbered(&self, slot: i64) -> Result<Option<(i64, String)>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT did, name FROM slots WHERE sid = ?1")?;
        Ok(statement.query_row([slot], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// The number that stands for a path: the lowest of its slots.
    pub fn path_number(&self, path: &RelPath) -> Result<Option<i64>, IndexError> {
        let Some(dir) = self.names.dir_id(&self.conn, path.parent().unwrap_or_default())? else { return Ok(None) };
        self.path_number_in(dir, path.file_name())
    }

    /// The number that stands for the path of a name in a directory.
    pub fn path_number_in(&self, dir: i64, name: &str) -> Result<Option<i64>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT min(sid) FROM slots WHERE did = ?1 AND name = ?2")?;
        Ok(statement.query_row((dir, name), |row| row.get(0))?)
    }

    /// Every origin with its number, in the order of numbers.
    pub fn origins_numbered(&self) -> Result<Vec<(i64, OriginName)>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT oid FROM origins ORDER BY oid")?;
        let numbers: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        numbers.into_iter().map(|oid| Ok((oid, self.names.origin(&self.conn, oid)?))).collect()
    }

    /// The version with this number.
    pub fn version_numbered(&self, number: i64) -> Result<Option<NumberedVersion>, IndexError> {
        let known = self.conn.prepare_cached("SELECT 1 FROM versions WHERE vid = ?1")?.exists([number])?;
        if !known {
            return Ok(None);
        }
        self.numbered(&VersionRow::load(&self.conn, number)?).map(Some)
    }

    /// The versions with these numbers that there are, in their order.
    pub fn versions_numbered(&self, numbers: Range<i64>) -> Result<Vec<NumberedVersion>, IndexError> {
        VersionRow::load_all(&self.conn, numbers)?.iter().map(|row| self.numbered(row)).collect()
    }

    /// The version with this number as the model has it.
    pub fn stored_numbered(&self, number: i64) -> Result<Stored, IndexError> {
        self.stored(&VersionRow::load(&self.conn, number)?, None)
    }

    /// Visits the versions of a slot, newest number first, until `visit` says false.
    pub fn each_version_of(&self, slot: i64, mut visit: impl FnMut(NumberedVersion) -> bool) -> Result<(), IndexError> {
        let mut next = SlotRow::load(&self.conn, slot)?.last;
        while next != 0 {
            let row = VersionRow::load(&self.conn, next)?;
            next = row.prev;
            if !visit(self.numbered(&row)?) {
                break;
            }
        }
        Ok(())
    }

    /// The slots that changed after `row`, in the order in which they did: (row, slot's number). A slot may come more than once.
    pub fn slot_numbers_since(&self, row: i64, limit: usize) -> Result<Vec<(i64, i64)>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT vid, sid FROM (
               SELECT * FROM (SELECT vid, sid FROM versions WHERE vid > ?1 ORDER BY vid LIMIT ?2)
               UNION ALL SELECT * FROM (SELECT vid, sid FROM touches WHERE vid > ?1 ORDER BY vid LIMIT ?2))
             ORDER BY vid LIMIT ?2",
        )?;
        let rows = statement.query_map((row, limit.cast_signed()), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The slot with this number.
    pub fn slot_of_number(&self, slot: i64) -> Result<Slot, IndexError> {
        self.slot(slot)
    }

    /// The numbers of the versions with this id: several if the same bytes stand in two spaces.
    pub fn numbers_of(&self, id: &VersionId) -> Result<Vec<i64>, IndexError> {
        Ok(find_versions(&self.conn, id)?.into_iter().map(|(vid, _)| vid).collect())
    }

    /// The heads of a slot as the model has them, the one that sorts highest first.
    pub fn heads_of(&self, slot: i64) -> Result<Vec<Stored>, IndexError> {
        self.ranked_heads(slot)?.iter().map(|head| self.stored(head, None)).collect()
    }

    /// The heads of a slot, the one that sorts highest first.
    pub fn heads_numbered(&self, slot: i64) -> Result<Vec<NumberedVersion>, IndexError> {
        self.ranked_heads(slot)?.iter().map(|head| self.numbered(head)).collect()
    }

    fn ranked_heads(&self, slot: i64) -> Result<Vec<VersionRow>, IndexError> {
        let mut heads = SlotRow::load(&self.conn, slot)?.open_heads(&self.conn)?;
        heads.sort_by_key(|head| std::cmp::Reverse(head.rank()));
        Ok(heads)
    }

    /// Names of a directory in a tree, in order of name. Costs what is handed out and what stands between and is not in the tree, never
    /// the rest of the directory or what lies below it.
    pub fn names_numbered(&self, tree: &Tree, dir: i64, wanted: Names<'_>) -> Result<Vec<NumberedName>, IndexError> {
        let origin = match tree {
            Tree::Origin(origin) => match self.names.origin_id(&self.conn, origin)? {
                Some(oid) => Some(oid),
                None => return Ok(Vec::new()),
            },
            _ => None,
        };
        // Of both kinds the first so many are enough: what comes after them in one cannot be among the first of both.
        let mut dirs = self.dir_names(tree, origin, dir, wanted)?.into_iter().peekable();
        let limit = match wanted {
            Names::One(_) => 1,
            Names::After(_, limit) => limit,
        };
        let mut names = Vec::new();
        let mut add = |mut found: NumberedName| {
            while let Some((name, did)) = dirs.next_if(|(name, _)| *name <= found.name) {
                if name == found.name {
                    found.dir = Some(did);
                } else if names.len() < limit {
                    names.push(NumberedName { name, dir: Some(did), path: None, slots: Vec::new() });
                }
            }
            if names.len() < limit && (found.dir.is_some() || !found.slots.is_empty()) {
                names.push(found);
            }
            names.len() < limit
        };
        self.each_slot_name(tree, origin, dir, wanted, &mut add)?;
        let rest = dirs.map(|(name, did)| NumberedName { name, dir: Some(did), path: None, slots: Vec::new() });
        names.extend(rest);
        names.truncate(limit);
        Ok(names)
    }

    /// Hands on the names that slots of a directory ever had, shown or not, in order, until told to stop.
    fn each_slot_name(
        &self,
        tree: &Tree,
        origin: Option<i64>,
        dir: i64,
        wanted: Names<'_>,
        visit: &mut dyn FnMut(NumberedName) -> bool,
    ) -> Result<(), IndexError> {
        let filter = match tree {
            Tree::Merged => state::LIVE,
            Tree::Conflicts => state::CONFLICT,
            Tree::Trash => state::TRASH,
            Tree::History | Tree::Origin(_) => ANY_STATE,
        };
        // An origin's own newest need not be the slot's head.
        let joined = if origin.is_some() { 0 } else { filter };
        let (sql, bound) = match wanted {
            Names::One(name) => (ONE_NAME, name),
            Names::After(name, _) => (NAMES_AFTER, name),
        };
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query((dir, bound, joined))?;
        let mut current: Option<NumberedName> = None;
        while let Some(row) = rows.next()? {
            let name = row.get_ref(NAME_COLUMN)?.as_str()?;
            if current.as_ref().is_none_or(|current| current.name != name) {
                let begun = NumberedName { name: name.to_owned(), dir: None, path: None, slots: Vec::new() };
                if let Some(whole) = current.replace(begun)
                    && !visit(in_order(whole))
                {
                    return Ok(());
                }
            }
            let slot = SlotRow::read(row)?;
            let is_wanted = filter == ANY_STATE || slot.state & filter != 0;
            let only_head = VersionRow::read_joined(row, NAME_COLUMN + 1)?;
            let shown = match only_head {
                Some(head) => Some(self.numbered(&head)?),
                None if is_wanted => self.shown(&slot, origin)?,
                None => None,
            };
            let Some(entry) = current.as_mut() else { continue };
            entry.path = Some(entry.path.map_or(slot.sid, |lowest| lowest.min(slot.sid)));
            if let Some(shown) = shown {
                let heads = slot.heads.iter().filter(|head| !head.shadowed).count();
                let origin = (slot.oid != 0).then(|| self.names.origin(&self.conn, slot.oid)).transpose()?;
                let space = self.names.space(&self.conn, slot.spid)?;
                entry.slots.push(NumberedSlot { number: slot.sid, space, origin, shown, heads });
            }
        }
        current.map(|last| visit(in_order(last)));
        Ok(())
    }

    fn shown(&self, slot: &SlotRow, origin: Option<i64>) -> Result<Option<NumberedVersion>, IndexError> {
        let shown = match origin {
            Some(oid) => self.newest_of_origin(slot, oid)?.filter(|own| own.content.is_some()),
            None => slot.open_heads(&self.conn)?.into_iter().max_by_key(VersionRow::rank),
        };
        shown.map(|row| self.numbered(&row)).transpose()
    }

    fn dir_names(
        &self,
        tree: &Tree,
        origin: Option<i64>,
        dir: i64,
        wanted: Names<'_>,
    ) -> Result<Vec<(String, i64)>, IndexError> {
        let counted = match (tree, origin) {
            (_, Some(oid)) => Some(origin_tree(oid)),
            (Tree::Merged, None) => Some(MERGED),
            (Tree::Conflicts, None) => Some(CONFLICTS),
            (Tree::Trash, None) => Some(TRASH),
            (Tree::History | Tree::Origin(_), None) => None,
        };
        const PRESENT: &str = "(?2 IS NULL OR EXISTS
            (SELECT 1 FROM presence p WHERE p.did = d.did AND p.tree = ?2 AND p.entries > 0))";
        let (chosen, bound, limit) = match wanted {
            Names::One(name) => ("name = ?3", name, 1),
            Names::After(name, limit) => ("name > ?3", name, limit),
        };
        let sql =
            format!("SELECT name, did FROM dirs d WHERE parent = ?1 AND {chosen} AND {PRESENT} ORDER BY name LIMIT ?4");
        let mut statement = self.conn.prepare_cached(&sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((dir, counted, bound, limit), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn numbered(&self, row: &VersionRow) -> Result<NumberedVersion, IndexError> {
        let chain = self.names.chain(&self.conn, row.cid)?;
        Ok(NumberedVersion {
            number: row.vid,
            id: row.id,
            content: row.content()?,
            hlc: row.hlc,
            origin_number: chain.oid,
            origin: chain.chain.origin,
            archive: row.flags.channel() == Some(crate::model::Channel::Archive),
        })
    }
}

fn in_order(mut name: NumberedName) -> NumberedName {
    name.slots.sort_by(|a, b| (&a.space, &a.origin).cmp(&(&b.space, &b.origin)));
    name
}
