//! Which folders are watched, which are polled, and the walk that finds them.
//!
//! Invariant: a folder is watched before it is listed, so what is made in it meanwhile is either listed or reported.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;

use larder_patterns::{RelPath, Rules};

use super::backend::{Backend, WatchFailure};
use super::mode::{MAX_POLLED_TREES, Mode, PollReason, Polled};
use crate::scan::{Folder, FolderError, IgnoreStack, NameKind, Names, Root};

/// What decides whether a folder is of interest.
pub(super) struct Interest<'i> {
    pub(super) root: &'i Root,
    pub(super) rules: &'i Rules,
    pub(super) respect_gitignore: bool,
    /// The folders above paths that are of interest whatever the rules say.
    pub(super) also_folders: &'i BTreeSet<RelPath>,
}

impl Interest<'_> {
    /// Tells whether a folder may contain something of interest.
    pub(super) fn in_folder(&self, path: &RelPath) -> bool {
        self.also_folders.contains(path) || self.rules.may_contain(path)
    }

    fn ignores(&self, above: &IgnoreStack, path: Option<&RelPath>, folder: &Folder) -> IgnoreStack {
        if self.respect_gitignore { above.entering(path, folder) } else { above.clone() }
    }

    /// Returns the ignore rules that hold where `path` stands; none if it cannot be reached or is ignored.
    fn ignores_above(&self, path: &RelPath) -> Option<IgnoreStack> {
        if !self.respect_gitignore {
            return Some(IgnoreStack::default());
        }
        let mut ignores = IgnoreStack::of_repository(self.root);
        let folder = Folder::open_root(self.root).ok()?;
        ignores = self.ignores(&ignores, None, &folder);
        for above in path.ancestors() {
            if ignores.ignores(above.as_str(), true) {
                return None;
            }
            let folder = Folder::open_below(self.root, &above).ok()?;
            ignores = self.ignores(&ignores, Some(&above), &folder);
        }
        (!ignores.ignores(path.as_str(), true)).then_some(ignores)
    }
}

/// What was known of a folder that went.
pub(super) struct Forgotten {
    /// The folders whose watches must be ended.
    pub(super) watched: Vec<RelPath>,
    /// Something in it was watched, polled or unreadable.
    pub(super) was_known: bool,
}

/// The watched and the polled folders below a root.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root_watched: bool,
    watched: BTreeSet<RelPath>,
    unreadable: BTreeSet<RelPath>,
    polled: BTreeMap<Option<RelPath>, PollReason>,
}

impl Tree {
    /// Watches a folder and all below it that is of interest; none is the root.
    pub(super) fn add(&mut self, backend: &mut dyn Backend, interest: &Interest<'_>, top: Option<RelPath>) {
        let ignores = match &top {
            None if interest.respect_gitignore => IgnoreStack::of_repository(interest.root),
            None => IgnoreStack::default(),
            Some(path) => match interest.ignores_above(path) {
                Some(ignores) => ignores,
                None => return,
            },
        };
        // Level by level: should the watches run out, the deepest folders go without. A path's components bound the levels.
        let mut level = vec![(top, ignores)];
        while !level.is_empty() {
            level = self.add_level(backend, interest, level);
        }
        self.bound_polled();
    }

    fn add_level(
        &mut self,
        backend: &mut dyn Backend,
        interest: &Interest<'_>,
        level: Vec<(Option<RelPath>, IgnoreStack)>,
    ) -> Vec<(Option<RelPath>, IgnoreStack)> {
        let places: Vec<PathBuf> = level.iter().map(|(path, _)| place(interest.root, path.as_ref())).collect();
        let outcomes = backend.watch(&places);
        let mut next = Vec::new();
        for ((path, ignores), outcome) in level.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    self.note_watched(path.as_ref());
                    self.list(interest, path, &ignores, &mut next);
                }
                Err(WatchFailure::Gone) => {}
                Err(WatchFailure::Denied) => self.unreadable.extend(path),
                Err(WatchFailure::Poll(reason)) => {
                    self.polled.insert(path, reason);
                }
            }
        }
        next
    }

    fn note_watched(&mut self, path: Option<&RelPath>) {
        match path {
            None => self.root_watched = true,
            Some(path) => {
                self.unreadable.remove(path);
                self.watched.insert(path.clone());
            }
        }
    }

    fn list(
        &mut self,
        interest: &Interest<'_>,
        path: Option<RelPath>,
        ignores: &IgnoreStack,
        next: &mut Vec<(Option<RelPath>, IgnoreStack)>,
    ) {
        let opened = match &path {
            None => Folder::open_root(interest.root).map_err(FolderError::from),
            Some(path) => Folder::open_below(interest.root, path),
        };
        let folder = match opened {
            Ok(folder) => folder,
            Err(FolderError::Refused(_)) => return self.unreadable.extend(path),
            // Gone, swapped for a link, or covered by a mount: the walk of the engine says what it is.
            Err(_) => return,
        };
        let ignores = interest.ignores(ignores, path.as_ref(), &folder);
        let mut names = Names::default();
        // What could not be listed to its end is found out by the walk of the engine.
        let _ = folder.names(&mut names);
        let prefix = path.map_or(String::new(), |path| format!("{path}/"));
        let folders = names.iter().filter(|(_, kind)| *kind == NameKind::Folder);
        for (name, _) in folders {
            let Ok(name) = std::str::from_utf8(name) else {
                continue;
            };
            let Ok(path) = RelPath::parse(&format!("{prefix}{name}")) else {
                continue;
            };
            if interest.in_folder(&path) && !ignores.ignores(path.as_str(), true) {
                next.push((Some(path), ignores.clone()));
            }
        }
    }

    /// Forgets a folder that went, with all below it.
    ///
    /// The watches that were placed must be ended: those of folders that moved away live on, and the library would take a folder
    /// that comes in their place for watched.
    pub(super) fn forget(&mut self, path: &RelPath) -> Forgotten {
        let watched = remove_tree(&mut self.watched, path);
        let unreadable = remove_tree(&mut self.unreadable, path);
        let before = self.polled.len();
        self.polled.retain(|polled, _| !polled.as_ref().is_some_and(|polled| polled == path || is_below(polled, path)));
        let was_known = !watched.is_empty() || !unreadable.is_empty() || self.polled.len() < before;
        Forgotten { watched, was_known }
    }

    /// Brings the watches in line with other rules.
    pub(super) fn renew(&mut self, backend: &mut dyn Backend, interest: &Interest<'_>) {
        let before = std::mem::take(self);
        self.add(backend, interest, None);
        for path in before.watched.difference(&self.watched) {
            backend.unwatch(&place(interest.root, Some(path)));
        }
    }

    /// Tries once more to watch what is polled; returns the trees that must be looked at, none being all.
    pub(super) fn retry(&mut self, backend: &mut dyn Backend, interest: &Interest<'_>) -> Option<Vec<RelPath>> {
        let polled: Vec<Option<RelPath>> = self.polled.keys().cloned().collect();
        self.polled.clear();
        for path in &polled {
            self.add(backend, interest, path.clone());
        }
        polled.into_iter().collect()
    }

    /// Has a tree polled; none is the root.
    pub(super) fn poll(&mut self, path: Option<RelPath>, reason: PollReason) {
        self.polled.insert(path, reason);
    }

    pub(super) fn is_polling(&self) -> bool {
        !self.polled.is_empty()
    }

    pub(super) fn is_unreadable(&self, path: &RelPath) -> bool {
        self.unreadable.contains(path)
    }

    /// Writes into `mode` what is watched.
    pub(super) fn describe(&self, mode: &mut Mode) {
        mode.watched_dirs = self.watched.len() + usize::from(self.root_watched);
        mode.unreadable = self.unreadable.iter().cloned().collect();
        mode.polled =
            self.polled.iter().map(|(tree, reason)| Polled { tree: tree.clone(), reason: reason.clone() }).collect();
    }

    fn bound_polled(&mut self) {
        if self.polled.len() <= MAX_POLLED_TREES {
            return;
        }
        if let Some((_, reason)) = self.polled.pop_first() {
            self.polled = BTreeMap::from([(None, reason)]);
        }
    }
}

pub(super) fn place(root: &Root, path: Option<&RelPath>) -> PathBuf {
    path.map_or(root.path().to_owned(), |path| root.path().join(path.as_str()))
}

fn is_below(path: &RelPath, folder: &RelPath) -> bool {
    let rest = path.as_str().strip_prefix(folder.as_str());
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Removes a path and all below it; returns what was there.
fn remove_tree(paths: &mut BTreeSet<RelPath>, top: &RelPath) -> Vec<RelPath> {
    // Between the top and what is below it may stand `top-x` and `top.x`: the tree begins at `top/`.
    let first = format!("{top}/");
    let range = (Bound::Included(first.as_str()), Bound::Unbounded);
    let below = paths.range::<str, _>(range).take_while(|path| path.as_str().starts_with(&first));
    let found: Vec<RelPath> = paths.get(top).into_iter().chain(below).cloned().collect();
    for path in &found {
        paths.remove(path);
    }
    found
}
