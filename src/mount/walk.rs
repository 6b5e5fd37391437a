//! Paths in the view, for those who ask without a kernel: commands and the plain tree.
//!
//! Invariant: what is found here has the names that a mount shows. Links are never followed. One page of a listing is in memory.

use std::ffi::OsStr;

use super::catalog::{Catalog, FileRow, Tree};
use super::listing::Entry;
use super::node::{NodeId, Place};
use super::view::{Node, README_NAME, View, ViewError};
use crate::model::Hlc;

/// Lines asked for at once.
const PAGE_LINES: usize = 1024;

/// Folders and files of the view's root that are no part of a copy: what changes with the clock, what is looked for, and what they are.
const NOT_COPIED: [&str; 3] = ["at", "search", README_NAME];

/// One of the trees in which a path of the project can be looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Top {
    /// What everybody converges on.
    Merged,
    /// The same as of a moment.
    At(Hlc),
    /// One origin as it published.
    Origin(String),
    /// A folder of the view by its name there, such as `starred`.
    Folder(&'static str),
    /// The whole view.
    All,
}

impl<C: Catalog> View<C> {
    /// The folder in which the project's paths stand. Errors: no such origin; a moment of which something was let go.
    pub fn top(&self, top: &Top) -> Result<Node, ViewError> {
        match top {
            Top::Merged => self.find(NodeId::ROOT, "merged"),
            Top::Folder(name) => self.find(NodeId::ROOT, name),
            Top::All => self.find(NodeId::ROOT, ""),
            Top::Origin(origin) => self.lookup(self.find(NodeId::ROOT, "origins")?.id, OsStr::new(origin)),
            Top::At(at) => {
                let tree = Tree::At(self.catalog.time_id(*at)?);
                self.dir_node(tree, super::catalog::DirId::ROOT)
            }
        }
    }

    /// What stands at `path`, component by component, below a folder; `""` is the folder itself.
    pub fn find(&self, folder: NodeId, path: &str) -> Result<Node, ViewError> {
        let mut node = Node { id: folder, attr: self.attr(folder)? };
        for name in path.split('/').filter(|name| !name.is_empty()) {
            node = self.lookup(node.id, OsStr::new(name))?;
        }
        Ok(node)
    }

    /// Everything directly in a folder, without `.` and `..`, in order of name.
    pub fn entries(&self, folder: NodeId) -> Result<Vec<Entry>, ViewError> {
        let mut entries: Vec<Entry> = Vec::new();
        // Beyond `.` and `..`.
        let mut offset = 2;
        loop {
            let page = self.read_dir(folder, offset, PAGE_LINES)?;
            let Some(last) = page.last() else { break };
            offset = last.offset;
            entries.extend(page);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The same, without what is no part of a copy of the view.
    pub fn copied_entries(&self, folder: NodeId) -> Result<Vec<Entry>, ViewError> {
        let mut entries = self.entries(folder)?;
        entries.retain(|entry| folder != NodeId::ROOT || !NOT_COPIED.contains(&entry.name.as_str()));
        Ok(entries)
    }

    /// What is known of a file or link.
    pub fn file(&self, node: NodeId) -> Result<FileRow, ViewError> {
        match self.place(node)? {
            Place::File(file) => self.row(file),
            _ => Err(ViewError::IsFolder { node }),
        }
    }

    /// The names under which the files of a path stand beside it in a folder, where they cannot have its own name.
    pub fn beside(&self, folder: NodeId, name: &str) -> Result<Vec<String>, ViewError> {
        let Place::Dir(tree, dir) = self.place(folder)? else { return Ok(Vec::new()) };
        let Some(child) = self.catalog.child(tree, dir, name)? else { return Ok(Vec::new()) };
        Ok(self.name_child(tree, &child)?.into_iter().map(|(name, _)| name).collect())
    }
}
