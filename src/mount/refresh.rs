//! What the kernel must forget when new versions arrive.
//!
//! Invariant: computed from the changes and the catalog *after* them, without remembering what was shown: every name whose meaning
//! may have changed is listed; a folder's own name only if the folder may have come or gone, because forgetting a folder costs
//! the kernel everything below it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use super::catalog::{Catalog, CatalogError, Change, DirId, OriginId, OriginRow, PathFacts, PathId, Tree};
use super::event::{Event, Happened};
use super::moment::moment_name;
use super::naming::{MAX_BESIDE, MAX_NAME_BYTES, beside, head_name, name_heads};
use super::node::{NodeId, Place};
use super::provenance::PROVENANCE_NAME;
use super::view::{NodeKind, View, ViewError};
use crate::model::Hlc;

/// Deepest folder; paths have at most 128 components, so a deeper one means that the catalog goes in circles.
const MAX_DEPTH: usize = 256;

/// Something the kernel holds and must ask again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Invalidation {
    /// The folder whose listing and attributes are out of date, or the file whose bytes are.
    pub parent: NodeId,
    /// The name in it that means something else now; `None` if only the listing is out of date.
    pub name: Option<String>,
}

impl<C: Catalog> View<C> {
    /// Lists what `changes`, which the catalog already shows, made out of date. Sorted, each once.
    ///
    /// Changes that became visible together must be given together: a folder that two of them made is new to both.
    pub fn refresh(&self, changes: &[Change]) -> Result<Vec<Invalidation>, ViewError> {
        let mut paths: BTreeMap<PathId, Touched> = BTreeMap::new();
        for change in changes {
            let touched = match paths.entry(change.path) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let unknown = ViewError::Unknown { node: Place::Versions(change.path).node() };
                    let facts = self.catalog.path(change.path)?.ok_or(unknown)?;
                    new.insert(Touched { facts, versions: 0, by: BTreeSet::new(), since: change.hlc })
                }
            };
            touched.versions += 1;
            touched.since = touched.since.min(change.hlc);
            touched.by.insert(change.origin);
        }
        let origins = self.catalog.origins()?;
        let mut sweep = Sweep { view: self, origins: &origins, depths: BTreeMap::new(), stale: BTreeSet::new() };
        let starred = self.catalog.has_stars()?.then_some(Tree::Starred);
        for tree in [Tree::Merged, Tree::Trash, Tree::Conflicts].into_iter().chain(starred) {
            sweep.run(tree, paths.values().map(|touched| &touched.facts))?;
        }
        for origin in &origins {
            let own = paths.values().filter(|touched| touched.by.contains(&origin.id));
            sweep.run(Tree::Origin(origin.id), own.map(|touched| &touched.facts))?;
        }
        for (time, at) in self.catalog.times() {
            let then = paths.values().filter(|touched| touched.since <= at);
            match sweep.run(Tree::At(time), then.map(|touched| &touched.facts)) {
                // Something of it was let go: the kernel lets the whole folder go.
                Err(ViewError::Catalog(CatalogError::LetGo { .. })) => {
                    sweep.note(Place::Times.node(), Some(moment_name(at)));
                }
                other => other?,
            }
        }
        for find in self.catalog.finds() {
            sweep.run(Tree::Found(find), paths.values().map(|touched| &touched.facts))?;
        }
        let mut first_seen = Vec::new();
        for (path, touched) in &paths {
            // A version more than those that are new was there before, and so was the path's folder.
            if !self.catalog.has_more_versions(*path, touched.versions)? {
                first_seen.push(&touched.facts);
            }
            sweep.note_versions(*path, &touched.facts);
            sweep.note_heads(*path, &touched.facts)?;
        }
        sweep.run(Tree::History, first_seen.into_iter())?;
        Ok(sweep.stale.into_iter().collect())
    }
}

/// Changes of which watchers are told at once; what comes in larger heaps nobody follows name by name.
const MAX_EVENTS: usize = 4_096;

impl<C: Catalog> View<C> {
    /// What `changes`, which the catalog already shows, are to somebody who watches the folders of `merged/`.
    ///
    /// A new folder is told of instead of what is in it. A file that was deleted earlier and is back counts as modified, and one whose
    /// bytes are the same too; one that came and went between two looks as deleted.
    pub fn events(&self, changes: &[Change]) -> Result<Vec<Event>, ViewError> {
        if changes.len() > MAX_EVENTS {
            return Ok(Vec::new());
        }
        let mut counts: BTreeMap<PathId, usize> = BTreeMap::new();
        for change in changes {
            // What changed without a version of its own was there before.
            *counts.entry(change.path).or_default() += usize::from(change.hlc != Hlc::from_u64(0));
        }
        let mut new = BTreeSet::new();
        for (path, count) in &counts {
            if !self.catalog.has_more_versions(*path, *count)? {
                new.insert(*path);
            }
        }
        let mut events = BTreeSet::new();
        for path in counts.keys() {
            events.extend(self.event(*path, &new)?);
        }
        Ok(events.into_iter().collect())
    }

    fn event(&self, path: PathId, new: &BTreeSet<PathId>) -> Result<Option<Event>, ViewError> {
        let Some(facts) = self.catalog.path(path)? else { return Ok(None) };
        let folder = Place::Dir(Tree::Merged, facts.dir).node();
        let node = match self.lookup(folder, OsStr::new(&facts.name)) {
            Ok(node) => Some(node),
            Err(ViewError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let happened = match node.map(|node| node.attr) {
            None if !self.catalog.has_more_versions(path, 0)? => return Ok(None),
            None => Happened::Deleted,
            Some(attr) if attr.kind != NodeKind::File => return Ok(None),
            Some(_) if new.contains(&path) => Happened::Created,
            Some(attr) => Happened::Modified { size: attr.size },
        };
        let (mut happened, mut name, mut parent, mut at) = (happened, facts.name, facts.dir, facts.dir);
        let mut above = Vec::new();
        while at != DirId::ROOT {
            let dir = self.dir_facts(at)?;
            if happened != Happened::Deleted && self.is_new_folder(at, new)? {
                (happened, name, parent) = (Happened::FolderCreated, dir.name.clone(), dir.parent);
                above.clear();
            } else {
                above.push(dir.name.clone());
            }
            if above.len() > MAX_DEPTH {
                return Err(ViewError::Unknown { node: folder });
            }
            at = dir.parent;
        }
        let folders: String = above.iter().rev().map(|folder| format!("{folder}/")).collect();
        let parent = Place::Dir(Tree::Merged, parent).node();
        Ok(Some(Event { happened, path: format!("merged/{folders}{name}"), parent, name }))
    }

    /// True if nothing below a folder is older than the changes. Recursion is bounded by the depth of a path.
    fn is_new_folder(&self, dir: DirId, new: &BTreeSet<PathId>) -> Result<bool, ViewError> {
        for child in self.catalog.children(Tree::History, dir, 0, new.len() + 1)? {
            let is_new = child.path.is_none_or(|path| new.contains(&path))
                && child.dir.map_or(Ok(true), |dir| self.is_new_folder(dir, new))?;
            if !is_new {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// One path among the changes.
struct Touched {
    facts: PathFacts,
    versions: usize,
    by: BTreeSet<OriginId>,
    /// The lowest clock value of its changes.
    since: Hlc,
}

/// Collects what is stale, walking from changed names up to the roots of the trees.
struct Sweep<'a, C> {
    view: &'a View<C>,
    origins: &'a [OriginRow],
    depths: BTreeMap<DirId, usize>,
    stale: BTreeSet<Invalidation>,
}

/// Changed names of one folder, and whether files may stand beside each.
type Names = BTreeMap<String, bool>;

impl<C: Catalog> Sweep<'_, C> {
    fn run<'f>(&mut self, tree: Tree, changed: impl Iterator<Item = &'f PathFacts>) -> Result<(), ViewError> {
        // By depth, deepest first: whether a folder is new is known once all below it are.
        let mut levels: BTreeMap<usize, BTreeMap<DirId, Names>> = BTreeMap::new();
        for facts in changed {
            let depth = self.depth(facts.dir)?;
            let names = levels.entry(depth).or_default().entry(facts.dir).or_default();
            *names.entry(facts.name.clone()).or_default() |= facts.beside || facts.same_dir.is_some();
        }
        while let Some((depth, dirs)) = levels.pop_last() {
            for (dir, names) in dirs {
                self.note_names(tree, dir, &names);
                if let Some((parent, name, beside)) = self.renewed(tree, dir, &names)? {
                    let above = levels.entry(depth.saturating_sub(1)).or_default();
                    *above.entry(parent).or_default().entry(name).or_default() |= beside;
                }
            }
        }
        Ok(())
    }

    fn note_names(&mut self, tree: Tree, dir: DirId, names: &Names) {
        let parent = Place::Dir(tree, dir).node();
        if tree == Tree::Merged {
            // The text is made anew under its number, so what the kernel holds of it goes, and its size is asked again.
            self.note(parent, Some(PROVENANCE_NAME.to_owned()));
            self.note(Place::Provenance(dir).node(), None);
        }
        for (name, has_beside) in names {
            self.note(parent, Some(name.clone()));
            if *has_beside {
                // Who stood beside the name before cannot be seen any more, so it may have been anybody.
                let origins = self.origins.iter().map(|origin| &origin.name);
                let names = origins.flat_map(|origin| (1..=MAX_BESIDE).map(|number| beside(name, origin, number)));
                let possible = names.filter(|name| name.len() <= MAX_NAME_BYTES);
                self.stale.extend(possible.map(|name| Invalidation { parent, name: Some(name) }));
            }
        }
    }

    /// The folder's own place in the folder above, if it may have come or gone with these names.
    fn renewed(&mut self, tree: Tree, dir: DirId, names: &Names) -> Result<Option<(DirId, String, bool)>, ViewError> {
        // A name that did not change was there before, and so was the folder.
        let children = self.view.catalog.children(tree, dir, 0, names.len() + 1)?;
        if children.iter().any(|child| !names.contains_key(&child.name)) {
            return Ok(None);
        }
        if dir != DirId::ROOT {
            let facts = self.view.dir_facts(dir)?;
            return Ok(Some((facts.parent, facts.name, facts.path.is_some())));
        }
        if let Tree::Origin(id) = tree {
            let name = self.origins.iter().find(|origin| origin.id == id).map(|origin| origin.name.to_string());
            self.note(Place::Origins.node(), name);
        }
        Ok(None)
    }

    fn note_versions(&mut self, path: PathId, facts: &PathFacts) {
        self.note(Place::Dir(Tree::History, facts.dir).node(), None);
        self.note(facts.same_dir.map_or(Place::Versions(path), |dir| Place::Dir(Tree::History, dir)).node(), None);
        self.note(Place::Versions(path).node(), None);
    }

    fn note_heads(&mut self, path: PathId, facts: &PathFacts) -> Result<(), ViewError> {
        let heads = name_heads(self.view.catalog.heads(path)?);
        let mut names: BTreeSet<String> = heads.into_iter().map(|named| named.name).collect();
        // Whose head went cannot be seen any more, so it may have been anybody's.
        for origin in self.origins {
            names.extend([head_name(&origin.name, 1), head_name(&origin.name, 2)]);
        }
        let folder = facts.same_dir.map(|dir| Place::Dir(Tree::Conflicts, dir));
        for parent in [Some(Place::Heads(path)), folder].into_iter().flatten() {
            for name in &names {
                self.note(parent.node(), Some(name.clone()));
            }
        }
        Ok(())
    }

    fn note(&mut self, parent: NodeId, name: Option<String>) {
        self.stale.insert(Invalidation { parent, name });
    }

    fn depth(&mut self, dir: DirId) -> Result<usize, ViewError> {
        let mut above = Vec::new();
        let mut at = dir;
        let known = loop {
            match self.depths.get(&at) {
                Some(depth) => break *depth,
                None if at == DirId::ROOT => break 0,
                None => above.push(at),
            }
            if above.len() > MAX_DEPTH {
                return Err(ViewError::Unknown { node: Place::Dir(Tree::Merged, dir).node() });
            }
            at = self.view.dir_facts(at)?.parent;
        };
        for (below, dir) in (1..).zip(above.iter().rev()) {
            self.depths.insert(*dir, known + below);
        }
        Ok(known + above.len())
    }
}
