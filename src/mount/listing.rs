//! Listings: the lines of a folder from any offset on, without remembering where anybody stopped.
//!
//! Invariant: an offset says by itself where the listing goes on: lines that come or go meanwhile neither repeat nor hide another.
//! `.` and `..` have 1 and 2; a name has its child's cursor and its number among that child's names; versions and heads stand last.
//! Children come in the order of their names, so that a folder of any size costs what is asked of it.

use super::catalog::{Catalog, CatalogError, Child, DirId, FileId, PathId, Tree};
use super::moment::LISTED;
use super::naming::{name_heads, name_versions};
use super::node::{NodeId, Place};
use super::view::{Node, README_NAME, TREES, View, ViewError, row_node};

/// Rows asked of the catalog at once.
const PAGE_ROWS: usize = 256;
/// Most entries of one `read_dir`; more than fit into the largest reply the kernel asks for.
const MAX_ENTRIES: usize = 4096;
/// Names that one child may have: the bits below its cursor in an offset.
const NAME_BITS: u32 = 12;
/// Marks offsets of versions and heads, which stand after the names of a folder.
const VERSION_OFFSET: u64 = 1 << 62;

/// One line of a folder's listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it names.
    pub node: Node,
    /// Where the listing goes on after this line.
    pub offset: u64,
}

impl<C: Catalog> View<C> {
    /// Lists a folder from `offset` (0, or [`Entry::offset`] of the last line), `.` and `..` first; at most `limit` lines.
    ///
    /// What comes or goes meanwhile moves no other line. An empty answer is the end.
    pub fn read_dir(&self, node: NodeId, offset: u64, limit: usize) -> Result<Vec<Entry>, ViewError> {
        self.catalog.together(|| self.read_page(node, offset, limit))
    }

    fn read_page(&self, node: NodeId, offset: u64, limit: usize) -> Result<Vec<Entry>, ViewError> {
        let place = self.place(node)?;
        let mut listing = Listing { entries: Vec::new(), limit: limit.min(MAX_ENTRIES) };
        if offset < 2 {
            self.list_dots(node, place, offset, &mut listing)?;
        }
        match place {
            Place::Root => self.list_root(offset, &mut listing)?,
            Place::Origins => self.list_origins(offset, &mut listing)?,
            Place::Times => self.list_times(offset, &mut listing)?,
            // Words are looked for by name; a listing would make every walk search again.
            Place::Searches => {}
            Place::Dir(tree, dir) => {
                if offset < VERSION_OFFSET {
                    self.list_children(tree, dir, offset, &mut listing)?;
                }
                // A folder that was a file before also has that file's versions.
                match (tree, self.dir_facts(dir)?.path) {
                    (Tree::History, Some(path)) => self.list_versions(path, offset, &mut listing)?,
                    (Tree::Conflicts, Some(path)) => self.list_heads(path, offset, &mut listing)?,
                    _ => {}
                }
            }
            Place::Versions(path) => self.list_versions(path, offset, &mut listing)?,
            Place::Heads(path) => self.list_heads(path, offset, &mut listing)?,
            Place::Readme | Place::Provenance(_) | Place::Spelling(_) | Place::File(_) => {
                return Err(ViewError::NotFolder { node });
            }
        }
        Ok(listing.entries)
    }

    fn list_dots(&self, node: NodeId, place: Place, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        if offset == 0 {
            listing.push(".".to_owned(), Node { id: node, attr: self.attr(node)? }, 1);
        }
        let parent = self.parent(place)?.node();
        listing.push("..".to_owned(), Node { id: parent, attr: self.attr(parent)? }, 2);
        Ok(())
    }

    fn parent(&self, place: Place) -> Result<Place, ViewError> {
        Ok(match place {
            Place::Root | Place::Readme | Place::Origins | Place::Times | Place::Searches | Place::File(_) => {
                Place::Root
            }
            Place::Spelling(_) | Place::Dir(Tree::At(_), DirId::ROOT) => Place::Times,
            Place::Dir(Tree::Found(_), DirId::ROOT) => Place::Searches,
            Place::Provenance(dir) => Place::Dir(Tree::Merged, dir),
            Place::Dir(Tree::Origin(_), DirId::ROOT) => Place::Origins,
            Place::Dir(_, DirId::ROOT) => Place::Root,
            Place::Dir(tree, dir) => Place::Dir(tree, self.dir_facts(dir)?.parent),
            Place::Versions(path) => Place::Dir(Tree::History, self.path_dir(path)?),
            Place::Heads(path) => Place::Dir(Tree::Conflicts, self.path_dir(path)?),
        })
    }

    fn list_root(&self, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        let places = TREES.iter().copied().chain([(README_NAME, Place::Readme)]);
        for (at, (name, place)) in (3..).zip(places) {
            if at > offset && !listing.push(name.to_owned(), self.node(place)?, at) {
                break;
            }
        }
        Ok(())
    }

    fn list_origins(&self, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        for origin in self.catalog.origins()? {
            let at = 3 + u64::from(origin.id.0);
            let node = self.dir_node(Tree::Origin(origin.id), DirId::ROOT)?;
            if at > offset && !listing.push(origin.name.to_string(), node, at) {
                break;
            }
        }
        Ok(())
    }

    /// A few spellings; every other one is found by its name.
    fn list_times(&self, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        for (at, name) in (3..).zip(LISTED) {
            let Some(moment) = self.moment(name).filter(|_| at > offset) else { continue };
            match self.catalog.time_id(moment) {
                Err(CatalogError::LetGo { .. }) => continue,
                other => other?,
            };
            if !listing.push(name.to_owned(), self.node(Place::Spelling(moment.wall_ms()))?, at) {
                break;
            }
        }
        Ok(())
    }

    fn list_children(&self, tree: Tree, dir: DirId, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        let mut after = offset >> NAME_BITS;
        if after != 0 {
            // The name at the offset may stand for further ones beside it.
            let Some(name) = self.catalog.name_at(dir, after)? else { return Ok(()) };
            let told = (offset & ((1 << NAME_BITS) - 1)) + 1;
            if let Some(child) = self.catalog.child(tree, dir, &name)?
                && !self.list_child(tree, dir, &child, told as usize, listing)?
            {
                return Ok(());
            }
        }
        while listing.has_room() {
            let rows = PAGE_ROWS.min(listing.room());
            let children = self.catalog.children(tree, dir, after, rows)?;
            let Some(last) = children.last() else { break };
            after = last.cursor;
            let is_last_page = children.len() < rows;
            for child in &children {
                if !self.list_child(tree, dir, child, 0, listing)? {
                    return Ok(());
                }
            }
            if is_last_page {
                break;
            }
        }
        Ok(())
    }

    /// Lists the names of one child but the first `told`; false once the listing is full.
    fn list_child(
        &self,
        tree: Tree,
        dir: DirId,
        child: &Child,
        told: usize,
        listing: &mut Listing,
    ) -> Result<bool, ViewError> {
        let names = (child.cursor << NAME_BITS..).zip(self.name_child(tree, child)?);
        for (at, (name, node)) in names.skip(told) {
            if self.is_its_own(tree, dir, child, &name)? && !listing.push(name, node, at) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// False for a name beside its child that another child has as its own.
    pub(super) fn is_its_own(&self, tree: Tree, dir: DirId, child: &Child, name: &str) -> Result<bool, ViewError> {
        if name == child.name {
            return Ok(true);
        }
        // A part of `merged/` has its names, also those of files that it does not show.
        let tree = if matches!(tree, Tree::Found(_) | Tree::Starred) { Tree::Merged } else { tree };
        let Some(other) = self.catalog.child(tree, dir, name)? else { return Ok(true) };
        Ok(self.name_child(tree, &other)?.iter().all(|(taken, _)| taken != name))
    }

    fn list_versions(&self, path: PathId, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        let mut after = (offset > VERSION_OFFSET).then_some(FileId(offset & !VERSION_OFFSET));
        while listing.has_room() {
            let previous = after.map(|file| self.row(file)).transpose()?;
            let versions = self.catalog.versions(path, after, PAGE_ROWS)?;
            let is_last_page = versions.len() < PAGE_ROWS;
            for named in name_versions(previous.as_ref(), versions) {
                let at = VERSION_OFFSET | named.file.id.0;
                after = Some(named.file.id);
                if !listing.push(named.name, row_node(&named.file), at) {
                    return Ok(());
                }
            }
            if is_last_page {
                break;
            }
        }
        Ok(())
    }

    fn list_heads(&self, path: PathId, offset: u64, listing: &mut Listing) -> Result<(), ViewError> {
        for (at, named) in (VERSION_OFFSET + 1..).zip(name_heads(self.catalog.heads(path)?)) {
            if at > offset && !listing.push(named.name, row_node(&named.file), at) {
                break;
            }
        }
        Ok(())
    }
}

/// A listing being filled.
struct Listing {
    entries: Vec<Entry>,
    limit: usize,
}

impl Listing {
    fn room(&self) -> usize {
        self.limit - self.entries.len()
    }

    fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// False once it is full: the line was not taken.
    fn push(&mut self, name: String, node: Node, offset: u64) -> bool {
        if !self.has_room() {
            return false;
        }
        self.entries.push(Entry { name, node, offset });
        true
    }
}
