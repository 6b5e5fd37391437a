//! The paths as trees: one directory at a time, in order of name, and all slots in order of path.
//!
//! Invariant: a listing costs its page, never what lies below it, and shows no directory that is empty in its tree.
//! A name that is a file here and a folder there gives both entries, the file first. Paths are ordered component by
//! component. Which of several files at one name is shown, and how, is for the view to decide.

use std::ops::ControlFlow;

use rusqlite::Row;

use super::names::child_dir;
use super::presence::{CONFLICTS, MERGED, TRASH, origin_tree};
use super::row::{SlotRow, VersionRow, state};
use super::{IndexError, Reader, Slot};
use crate::model::{Content, Hlc, OriginName, RelPath, Space, VersionId};

/// Names read at once while walking; bounds memory, not answers.
const WALK_NAMES: usize = 256;

/// Which paths a listing shows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Tree {
    /// Paths with content, of all channels and origins.
    Merged,
    /// Paths to which this origin's own newest version gives content.
    Origin(OriginName),
    /// Paths that ever had a version.
    History,
    /// Paths whose heads have different contents.
    Conflicts,
    /// Paths that were deleted, not moved.
    Trash,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The last component.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What a name is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A directory with something to show below it.
    Dir,
    /// At least one; several if spaces share the path, or archives of several origins do. In order of slot.
    Slots(Vec<Entry>),
}

/// A slot with what a listing needs of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which.
    pub slot: Slot,
    /// The version shown: the head that sorts highest; of `Tree::Origin` the origin's own newest.
    pub id: VersionId,
    /// Its content; `None` for a tombstone.
    pub content: Option<Content>,
    /// Its clock value.
    pub hlc: Hlc,
    /// Who published it.
    pub origin: OriginName,
    /// How many heads the slot has; above 1, ask the resolver.
    pub heads: usize,
}

enum Found {
    Dir(i64),
    Slots(Vec<Entry>),
}

/// Which names of a directory.
#[derive(Clone, Copy)]
enum Names<'a> {
    After(&'a str),
    Only(&'a str),
}

impl Reader {
    /// The first `limit` names of a directory (`""` for the root) after the name `after`, in order of name.
    ///
    /// A directory that is not there is empty.
    pub fn list_dir(
        &self,
        tree: &Tree,
        dir: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DirEntry>, IndexError> {
        self.dir_entries(tree, dir, Names::After(after.unwrap_or_default()), limit)
    }

    /// What `name` is in a directory: nothing, a directory, slots, or both.
    pub fn lookup(&self, tree: &Tree, dir: &str, name: &str) -> Result<Vec<DirEntry>, IndexError> {
        self.dir_entries(tree, dir, Names::Only(name), 1)
    }

    /// The slots of a path: one, unless spaces share it or several origins archive it.
    pub fn slots_at(&self, path: &RelPath) -> Result<Vec<Slot>, IndexError> {
        let found = self.lookup(&Tree::History, path.parent().unwrap_or_default(), path.file_name())?;
        let slots = found.into_iter().flat_map(|entry| match entry.kind {
            EntryKind::Slots(entries) => entries.into_iter().map(|entry| entry.slot).collect(),
            EntryKind::Dir => Vec::new(),
        });
        Ok(slots.collect())
    }

    /// All slots of a space after the path `after`, in order of path; whole paths, so a little more than `limit`.
    pub fn slots(&self, space: &Space, after: Option<&RelPath>, limit: usize) -> Result<Vec<Slot>, IndexError> {
        let mut slots = Vec::new();
        self.walk_tree(&Tree::History, after, &mut |entries| {
            slots.extend(entries.into_iter().map(|entry| entry.slot).filter(|slot| slot.space == *space));
            if slots.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(slots)
    }

    /// Visits the slots of a space that have content, in order of path, until told to stop.
    pub fn for_each_live_slot(
        &self,
        space: &Space,
        after: Option<&RelPath>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        self.walk_tree(&Tree::Merged, after, &mut |entries| {
            entries.into_iter().filter(|entry| entry.slot.space == *space).try_for_each(&mut *visit)
        })
    }

    /// Visits a tree path by path, with all slots of each.
    pub fn walk_tree(
        &self,
        tree: &Tree,
        after: Option<&RelPath>,
        visit: &mut dyn FnMut(Vec<Entry>) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let after: Vec<&str> = after.map(|path| path.components().collect()).unwrap_or_default();
        self.walk_dir(tree, super::schema::ROOT_DIR, &after, visit).map(|_| ())
    }

    /// Recursion is bounded by the depth of a path.
    fn walk_dir(
        &self,
        tree: &Tree,
        did: i64,
        after: &[&str],
        visit: &mut dyn FnMut(Vec<Entry>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, IndexError> {
        let mut last = String::new();
        if let Some((first, rest)) = after.split_first() {
            // The slot called `first` was passed; what lies in the folder of that name may not have been.
            if let Some(child) = child_dir(&self.conn, did, first)?
                && self.walk_dir(tree, child, rest, visit)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            last = (*first).to_owned();
        }
        loop {
            let found = self.found(tree, did, Names::After(&last), WALK_NAMES)?;
            let Some((name, _)) = found.last() else { return Ok(ControlFlow::Continue(())) };
            last.clone_from(name);
            for (_, found) in found {
                let flow = match found {
                    Found::Slots(entries) => visit(entries),
                    Found::Dir(child) => self.walk_dir(tree, child, &[], visit)?,
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
    }

    fn dir_entries(&self, tree: &Tree, dir: &str, names: Names<'_>, limit: usize) -> Result<Vec<DirEntry>, IndexError> {
        let Some(did) = self.names.dir_id(&self.conn, dir)? else { return Ok(Vec::new()) };
        let found = self.found(tree, did, names, limit)?;
        let entry = |(name, found)| match found {
            Found::Dir(_) => DirEntry { name, kind: EntryKind::Dir },
            Found::Slots(entries) => DirEntry { name, kind: EntryKind::Slots(entries) },
        };
        Ok(found.into_iter().map(entry).collect())
    }

    /// Slots and directories of at most `limit` names, in order of name.
    fn found(&self, tree: &Tree, did: i64, names: Names<'_>, limit: usize) -> Result<Vec<(String, Found)>, IndexError> {
        let origin = match tree {
            Tree::Origin(origin) => match self.names.origin_id(&self.conn, origin)? {
                Some(oid) => Some(oid),
                None => return Ok(Vec::new()),
            },
            _ => None,
        };
        let mut slots = self.slots_of(tree, origin, did, names, limit)?.into_iter().peekable();
        let mut dirs = self.dirs_of(tree, origin, did, names, limit)?.into_iter().peekable();
        let mut found: Vec<(String, Found)> = Vec::new();
        let mut count = 0;
        loop {
            let slot_first = match (slots.peek(), dirs.peek()) {
                (None, None) => return Ok(found),
                (slot, None) => slot.is_some(),
                (None, Some(_)) => false,
                (Some((slot, _)), Some((dir, _))) => slot <= dir,
            };
            let next = if slot_first {
                slots.next().map(|(name, entries)| (name, Found::Slots(entries)))
            } else {
                dirs.next().map(|(name, did)| (name, Found::Dir(did)))
            };
            let Some((name, kind)) = next else { return Ok(found) };
            count += usize::from(found.last().is_none_or(|(last, _)| *last != name));
            if count > limit {
                return Ok(found);
            }
            found.push((name, kind));
        }
    }

    fn slots_of(
        &self,
        tree: &Tree,
        origin: Option<i64>,
        did: i64,
        names: Names<'_>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<Entry>)>, IndexError> {
        let filter = match tree {
            Tree::Merged => state::LIVE,
            Tree::Conflicts => state::CONFLICT,
            Tree::Trash => state::TRASH,
            Tree::History | Tree::Origin(_) => -1,
        };
        let (sql, name) = match names {
            Names::After(name) => (
                "SELECT sid, did, spid, oid, last, heads, state, author, own, name FROM slots
                 WHERE did = ?1 AND name > ?2 AND (?3 = -1 OR state & ?3) ORDER BY name",
                name,
            ),
            Names::Only(name) => (
                "SELECT sid, did, spid, oid, last, heads, state, author, own, name FROM slots
                 WHERE did = ?1 AND name = ?2 AND (?3 = -1 OR state & ?3)",
                name,
            ),
        };
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query((did, name, filter))?;
        let mut found: Vec<(String, Vec<Entry>)> = Vec::new();
        while let Some(row) = rows.next()? {
            let name = row.get_ref(9)?.as_str()?;
            let same = found.last().is_some_and(|(last, _)| last == name);
            if !same && found.len() >= limit {
                break;
            }
            let Some(entry) = self.entry(row, name, origin)? else { continue };
            match found.last_mut() {
                Some((_, entries)) if same => entries.push(entry),
                _ => found.push((name.to_owned(), vec![entry])),
            }
        }
        for (_, entries) in &mut found {
            entries.sort_by(|a, b| a.slot.cmp(&b.slot));
        }
        Ok(found)
    }

    /// A slot's entry; `None` if the tree of `origin` does not show it.
    fn entry(&self, row: &Row<'_>, name: &str, origin: Option<i64>) -> Result<Option<Entry>, IndexError> {
        let slot = SlotRow::read(row)?;
        let shown = match origin {
            Some(oid) => self.newest_of_origin(&slot, oid)?.filter(|own| own.content.is_some()),
            None => slot.open_heads(&self.conn)?.into_iter().max_by_key(VersionRow::rank),
        };
        let Some(shown) = shown else { return Ok(None) };
        Ok(Some(Entry {
            slot: self.slot_at(slot.did, name, slot.spid, slot.oid)?,
            id: shown.id,
            content: shown.content()?,
            hlc: shown.hlc,
            origin: self.names.chain(&self.conn, shown.cid)?.chain.origin,
            heads: slot.heads.iter().filter(|head| !head.shadowed).count(),
        }))
    }

    fn dirs_of(
        &self,
        tree: &Tree,
        origin: Option<i64>,
        did: i64,
        names: Names<'_>,
        limit: usize,
    ) -> Result<Vec<(String, i64)>, IndexError> {
        let counted = match (tree, origin) {
            (_, Some(oid)) => Some(origin_tree(oid)),
            (Tree::Merged, None) => Some(MERGED),
            (Tree::Conflicts, None) => Some(CONFLICTS),
            (Tree::Trash, None) => Some(TRASH),
            (Tree::History | Tree::Origin(_), None) => None,
        };
        let sql = match names {
            Names::After(_) => {
                "SELECT name, did FROM dirs d WHERE parent = ?1 AND name > ?2 AND (?3 IS NULL OR EXISTS
                   (SELECT 1 FROM presence p WHERE p.did = d.did AND p.tree = ?3 AND p.entries > 0))
                 ORDER BY name LIMIT ?4"
            }
            Names::Only(_) => {
                "SELECT name, did FROM dirs d WHERE parent = ?1 AND name = ?2 AND (?3 IS NULL OR EXISTS
                   (SELECT 1 FROM presence p WHERE p.did = d.did AND p.tree = ?3 AND p.entries > 0)) LIMIT ?4"
            }
        };
        let (Names::After(name) | Names::Only(name)) = names;
        let mut statement = self.conn.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((did, name, counted, limit), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
