//! A catalog in memory: a plain model of the archive for tests of whatever stands above [`Catalog`].
//!
//! Invariant: behaves as the trait says; every answer is computed from the full list of versions, slowly and obviously.
//! Deliberately no resolver: the newest head by (clock, version) wins, and nothing is ever merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::catalog::{
    Catalog, CatalogError, Change, Child, DirFacts, DirId, FileId, FileRow, FindId, Giver, OriginId, OriginRow,
    PathFacts, PathId, TimeId, Totals, Tree,
};
use super::find::{Finds, is_no_search};
use super::moment::{Moments, moment_name};
use crate::model::{Content, ContentHash, ContentKind, Hash, Hlc, OriginName, Reason, RelPath};

/// One version to put into a [`MemoryCatalog`].
#[derive(Clone, Debug)]
pub struct MemoryPut<'a> {
    /// Who.
    pub origin: &'a str,
    /// Where.
    pub path: &'a str,
    /// What; `Err` is a tombstone.
    pub state: Result<(&'a [u8], ContentKind), Reason>,
    /// When.
    pub hlc: Hlc,
    /// True for the archive channel.
    pub archive: bool,
    /// True if it was made without knowing the others' heads.
    pub concurrent: bool,
}

impl<'a> MemoryPut<'a> {
    /// A plain shared file.
    pub fn file(origin: &'a str, path: &'a str, bytes: &'a [u8], wall_ms: u64) -> MemoryPut<'a> {
        let state = Ok((bytes, ContentKind::File { exec: false }));
        MemoryPut { origin, path, state, hlc: Hlc::new(wall_ms, 0), archive: false, concurrent: false }
    }

    /// A deletion.
    pub fn tombstone(origin: &'a str, path: &'a str, reason: Reason, wall_ms: u64) -> MemoryPut<'a> {
        MemoryPut { state: Err(reason), ..MemoryPut::file(origin, path, b"", wall_ms) }
    }
}

/// A catalog that holds everything in memory.
#[derive(Default)]
pub struct MemoryCatalog {
    state: RwLock<State>,
    /// By whom bytes can be handed on; nothing is by itself.
    giver: Mutex<Option<Arc<dyn Giver>>>,
    /// The files of each folder that was listed.
    listed: Mutex<Vec<Vec<FileId>>>,
    /// Held by whoever reads bytes.
    reading: Mutex<()>,
}

#[derive(Default)]
struct State {
    origins: Vec<OriginName>,
    /// By id - 1; the root is not among them.
    dirs: Vec<String>,
    /// By id - 1.
    paths: Vec<String>,
    versions: Vec<Stored>,
    contents: BTreeMap<ContentHash, Vec<u8>>,
    moments: Moments,
    horizon: Hlc,
    finds: Finds<BTreeSet<PathId>>,
    starred: BTreeSet<PathId>,
}

#[derive(Clone)]
struct Stored {
    path: PathId,
    row: FileRow,
    tombstone: Option<Reason>,
    is_head: bool,
    /// It supersedes only what its own origin wrote.
    is_alone: bool,
}

impl MemoryCatalog {
    /// An empty archive.
    pub fn new() -> MemoryCatalog {
        MemoryCatalog::default()
    }

    /// Adds a version. Unless it is `concurrent`, it supersedes every head of its path (in the archive: of its origin).
    pub fn put(&self, put: &MemoryPut<'_>) -> Change {
        let mut state = self.write();
        let origin = state.intern_origin(put.origin);
        let path = state.intern_path(put.path);
        let (bytes, kind) = put.state.unwrap_or((b"", ContentKind::File { exec: false }));
        let content = Content { hash: ContentHash::of(bytes), size: bytes.len() as u64, kind };
        state.contents.insert(content.hash, bytes.to_vec());
        let id = FileId(state.versions.len() as u64 + 1);
        let without_bytes = MemoryPut { state: put.state.map(|(_, kind)| (&b""[..], kind)), ..*put };
        let version = Hash::of(format!("{} {without_bytes:?}", content.hash).as_bytes());
        let change = Change { path, origin: origin.id, hlc: put.hlc };
        let row = FileRow { id, origin, archive: put.archive, content, hlc: put.hlc, version };
        let is_alone = put.archive || put.concurrent;
        let new = Stored { path, row, tombstone: put.state.err(), is_head: true, is_alone };
        for stored in &mut state.versions {
            stored.is_head &= !new.supersedes(stored);
        }
        state.versions.push(new);
        change
    }

    /// Gives the star to a path, or takes it away. A path that never had a version changes nothing.
    pub fn star(&self, path: &str, is_on: bool) -> Vec<Change> {
        let mut state = self.write();
        let Some(id) = state.path_id(path) else { return Vec::new() };
        if is_on {
            state.starred.insert(id)
        } else {
            state.starred.remove(&id)
        };
        let origins = (0..).zip(&state.origins);
        origins.map(|(origin, _)| Change { path: id, origin: OriginId(origin), hlc: Hlc::from_u64(0) }).collect()
    }

    /// By whom bytes can be handed on, if somebody said so.
    pub fn giver(&self) -> Option<Arc<dyn Giver>> {
        self.giver.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files of each folder that was listed whole, in order.
    pub fn listed_so_far(&self) -> Vec<Vec<FileId>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops the bytes of a content, as if they had not arrived yet.
    pub fn lose_content(&self, bytes: &[u8]) {
        self.write().contents.remove(&ContentHash::of(bytes));
    }

    /// Whoever reads bytes waits until this is dropped, as for a disk that does not answer.
    pub fn hold_readers(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the bytes of a content.
    pub fn bring_content(&self, bytes: &[u8]) {
        self.write().contents.insert(ContentHash::of(bytes), bytes.to_vec());
    }

    /// Earlier moments cannot be shown from now on, as if something had been let go.
    pub fn let_go_before(&self, horizon: Hlc) {
        self.write().horizon = horizon;
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    /// True if `earlier` is no head any more once this is known.
    fn supersedes(&self, earlier: &Stored) -> bool {
        let is_same_slot = earlier.path == self.path && earlier.row.archive == self.row.archive;
        is_same_slot && (!self.is_alone || earlier.row.origin.id == self.row.origin.id)
    }
}

fn position<T: PartialEq>(list: &mut Vec<T>, item: T) -> u64 {
    let at = list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    });
    at as u64
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl State {
    fn intern_origin(&mut self, name: &str) -> OriginRow {
        let name: OriginName = name.parse().expect("tests name origins as the format wants it");
        let at = position(&mut self.origins, name.clone());
        OriginRow { id: OriginId(u32::try_from(at).expect("few origins")), name }
    }

    fn intern_path(&mut self, path: &str) -> PathId {
        let mut parent = split(path).0;
        while !parent.is_empty() {
            position(&mut self.dirs, parent.to_owned());
            parent = split(parent).0;
        }
        PathId(position(&mut self.paths, path.to_owned()) + 1)
    }

    fn dir_text(&self, dir: DirId) -> Option<&str> {
        if dir == DirId::ROOT { Some("") } else { self.dirs.get(usize::try_from(dir.0).ok()? - 1).map(String::as_str) }
    }

    fn dir_id(&self, text: &str) -> Option<DirId> {
        if text.is_empty() {
            Some(DirId::ROOT)
        } else {
            self.dirs.iter().position(|dir| dir == text).map(|at| DirId(at as u64 + 1))
        }
    }

    fn path_id(&self, text: &str) -> Option<PathId> {
        self.paths.iter().position(|path| path == text).map(|at| PathId(at as u64 + 1))
    }

    /// The candidates of a path in a tree: files, or whether its folder of versions or heads is there.
    fn shown(&self, tree: Tree, path: PathId) -> (bool, Vec<FileRow>) {
        let of_path = || self.versions.iter().filter(|stored| stored.path == path);
        let files: Vec<FileRow> = match tree {
            Tree::Merged => self
                .winners(path, None)
                .into_iter()
                .filter(|stored| stored.tombstone.is_none())
                .map(|stored| stored.row)
                .collect(),
            Tree::At(time) => {
                let at = self.moments.get(time);
                let shown = at.map(|at| self.winners(path, Some(at))).unwrap_or_default();
                shown.into_iter().filter(|stored| stored.tombstone.is_none()).map(|stored| stored.row).collect()
            }
            Tree::Found(find) => {
                let is_found = self.finds.get(find).is_some_and(|found| found.contains(&path));
                return if is_found { self.shown(Tree::Merged, path) } else { (false, Vec::new()) };
            }
            Tree::Starred if !self.starred.contains(&path) => return (false, Vec::new()),
            Tree::Starred => return self.shown(Tree::Merged, path),
            Tree::Trash => {
                let gone = self
                    .winners(path, None)
                    .into_iter()
                    .filter(|stored| !matches!(stored.tombstone, None | Some(Reason::Move)));
                gone.filter_map(|tombstone| self.content_before(&tombstone)).collect()
            }
            Tree::Origin(origin) => {
                let newest =
                    of_path().filter(|stored| stored.row.origin.id == origin).max_by_key(|stored| order(stored));
                newest
                    .filter(|stored| stored.tombstone.is_none())
                    .map(|stored| stored.row.clone())
                    .into_iter()
                    .collect()
            }
            Tree::History => return (of_path().any(|stored| stored.tombstone.is_none()), Vec::new()),
            Tree::Conflicts => return (!self.open_heads(path).is_empty(), Vec::new()),
        };
        (!files.is_empty(), files)
    }

    /// The winning head of the shared file, then each origin's archive file.
    fn winners(&self, path: PathId, at: Option<Hlc>) -> Vec<Stored> {
        let known: Vec<&Stored> = self
            .versions
            .iter()
            .filter(|stored| stored.path == path && at.is_none_or(|at| stored.row.hlc <= at))
            .collect();
        let is_head = |place: usize| known[place + 1..].iter().all(|later| !later.supersedes(known[place]));
        let heads = || (0..known.len()).filter(|place| is_head(*place)).map(|place| known[place]);
        let shared = heads()
            .filter(|stored| !stored.row.archive)
            .max_by_key(|stored| (stored.tombstone.is_none(), order(stored)));
        shared.into_iter().chain(heads().filter(|stored| stored.row.archive)).cloned().collect()
    }

    fn content_before(&self, tombstone: &Stored) -> Option<FileRow> {
        let is_before = |stored: &&Stored| {
            let is_same_slot = stored.path == tombstone.path && stored.row.archive == tombstone.row.archive;
            let is_own = !stored.row.archive || stored.row.origin == tombstone.row.origin;
            is_same_slot && is_own && stored.tombstone.is_none()
        };
        self.versions.iter().filter(is_before).max_by_key(|stored| order(stored)).map(|stored| stored.row.clone())
    }

    fn open_heads(&self, path: PathId) -> Vec<FileRow> {
        let is_open = |stored: &&Stored| {
            stored.path == path && stored.is_head && !stored.row.archive && stored.tombstone.is_none()
        };
        let mut heads: Vec<&Stored> = self.versions.iter().filter(is_open).collect();
        heads.sort_by_key(|stored| std::cmp::Reverse(order(stored)));
        if heads.len() < 2 { Vec::new() } else { heads.into_iter().map(|stored| stored.row.clone()).collect() }
    }

    fn list(&self, tree: Tree, dir: DirId) -> Vec<Child> {
        match tree {
            Tree::Found(_) | Tree::Starred => self.part(tree, self.list_whole(Tree::Merged, dir)),
            _ => self.list_whole(tree, dir),
        }
    }

    /// Of the children of `merged/` those that a tree shows, under their names there.
    fn part(&self, tree: Tree, merged: Vec<Child>) -> Vec<Child> {
        let is_below = |path: &str, dir: DirId| {
            self.dir_text(dir).is_some_and(|dir| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
        };
        let has_below = |dir: DirId| {
            let below = (1..).map(PathId).zip(&self.paths).filter(|(_, path)| is_below(path, dir));
            below.into_iter().any(|(id, _)| self.shown(tree, id).0)
        };
        let hide = |mut child: Child| {
            child.is_dir_hidden = child.dir.is_some_and(|dir| !has_below(dir));
            if child.path.is_some_and(|path| !self.shown(tree, path).0) {
                child.hidden = child.files.iter().map(|file| file.id).collect();
            }
            let shows = (child.dir.is_some() && !child.is_dir_hidden) || child.hidden.len() < child.files.len();
            shows.then_some(child)
        };
        merged.into_iter().filter_map(hide).collect()
    }

    fn list_whole(&self, tree: Tree, dir: DirId) -> Vec<Child> {
        let Some(text) = self.dir_text(dir) else { return Vec::new() };
        let mut names: BTreeMap<String, Child> = BTreeMap::new();
        for (at, path) in self.paths.iter().enumerate() {
            let id = PathId(at as u64 + 1);
            let below = if text.is_empty() {
                Some(path.as_str())
            } else {
                path.strip_prefix(text).and_then(|rest| rest.strip_prefix('/'))
            };
            let Some(below) = below else { continue };
            let (is_here, files) = self.shown(tree, id);
            if !is_here {
                continue;
            }
            let (name, rest) = below.split_once('/').map_or((below, None), |(name, rest)| (name, Some(rest)));
            let full = if text.is_empty() { name.to_owned() } else { format!("{text}/{name}") };
            let cursor = self.cursor(&full);
            let hidden = Vec::new();
            let name_of = name.to_owned();
            let empty =
                Child { cursor, name: name_of, dir: None, path: None, files: Vec::new(), hidden, is_dir_hidden: false };
            let child = names.entry(name.to_owned()).or_insert(empty);
            match rest {
                Some(_) => child.dir = self.dir_id(&full),
                None => (child.path, child.files) = (Some(id), files),
            }
        }
        names.into_values().collect()
    }

    /// Odd for folders, even for what is only a path: a name that becomes a folder moves, nothing else does.
    fn cursor(&self, full: &str) -> u64 {
        match (self.dir_id(full), self.path_id(full)) {
            (Some(dir), _) => 2 * dir.0 + 1,
            (None, Some(path)) => 2 * path.0,
            (None, None) => 0,
        }
    }

    fn sorted_versions(&self, path: PathId) -> Vec<FileRow> {
        let mut stored: Vec<&Stored> =
            self.versions.iter().filter(|stored| stored.path == path && stored.tombstone.is_none()).collect();
        stored.sort_by_key(|stored| order(stored));
        stored.into_iter().map(|stored| stored.row.clone()).collect()
    }
}

fn order(stored: &Stored) -> (Hlc, Hash) {
    (stored.row.hlc, stored.row.version)
}

impl Catalog for MemoryCatalog {
    fn turn(&self) -> Option<u64> {
        Some(self.read_state().versions.len() as u64)
    }

    fn give_by(&self, giver: Arc<dyn Giver>) {
        *self.giver.lock().unwrap_or_else(PoisonError::into_inner) = Some(giver);
    }

    fn listed(&self, files: &[FileId]) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).push(files.to_vec());
    }

    fn origins(&self) -> Result<Vec<OriginRow>, CatalogError> {
        let state = self.read_state();
        Ok((0..).zip(&state.origins).map(|(id, name)| OriginRow { id: OriginId(id), name: name.clone() }).collect())
    }

    fn time_id(&self, at: Hlc) -> Result<TimeId, CatalogError> {
        let mut state = self.write();
        if at < state.horizon {
            return Err(CatalogError::LetGo { at: moment_name(at), since: moment_name(state.horizon) });
        }
        Ok(state.moments.number(at))
    }

    fn time(&self, id: TimeId) -> Option<Hlc> {
        self.read_state().moments.get(id)
    }

    fn times(&self) -> Vec<(TimeId, Hlc)> {
        self.read_state().moments.all()
    }

    fn find(&self, words: &str) -> Result<Option<FindId>, CatalogError> {
        if is_no_search(words) {
            return Ok(None);
        }
        let mut state = self.write();
        let holds = |row: &FileRow| {
            let bytes = state.contents.get(&row.content.hash).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            bytes.is_some_and(|text| words.split_whitespace().all(|word| text.contains(word)))
        };
        let paths = (1..=state.paths.len() as u64).map(PathId);
        let found: BTreeSet<PathId> =
            paths.filter(|path| state.shown(Tree::Merged, *path).1.iter().any(holds)).collect();
        let name = Hash::of(format!("{words} {found:?}").as_bytes());
        Ok(Some(state.finds.number(name, found)))
    }

    fn finds(&self) -> Vec<FindId> {
        self.read_state().finds.all()
    }

    fn has_stars(&self) -> Result<bool, CatalogError> {
        // That somebody gave one and it was taken away again is not remembered here.
        Ok(true)
    }

    fn dir(&self, dir: DirId) -> Result<Option<DirFacts>, CatalogError> {
        let state = self.read_state();
        let Some(text) = state.dir_text(dir) else { return Ok(None) };
        let (parent, name) = split(text);
        let in_dir = state.versions.iter().filter(|stored| split(&state.paths[stored.path.0 as usize - 1]).0 == text);
        Ok(Some(DirFacts {
            parent: state.dir_id(parent).unwrap_or(DirId::ROOT),
            name: name.to_owned(),
            path: state.path_id(text),
            changed: in_dir.map(|stored| stored.row.hlc).max().unwrap_or_default(),
        }))
    }

    fn path(&self, path: PathId) -> Result<Option<PathFacts>, CatalogError> {
        let state = self.read_state();
        let Some(text) = usize::try_from(path.0).ok().and_then(|id| state.paths.get(id - 1)) else { return Ok(None) };
        let (dir, name) = split(text);
        Ok(Some(PathFacts {
            dir: state.dir_id(dir).unwrap_or(DirId::ROOT),
            name: name.to_owned(),
            same_dir: state.dir_id(text),
            beside: state.versions.iter().any(|stored| stored.path == path && stored.row.archive),
        }))
    }

    fn children(&self, tree: Tree, dir: DirId, after: u64, limit: usize) -> Result<Vec<Child>, CatalogError> {
        let before = if after == 0 { Some(String::new()) } else { self.name_at(dir, after)? };
        let Some(before) = before else { return Ok(Vec::new()) };
        let children = self.read_state().list(tree, dir);
        Ok(children.into_iter().filter(|child| child.name > before).take(limit).collect())
    }

    fn name_at(&self, dir: DirId, cursor: u64) -> Result<Option<String>, CatalogError> {
        let state = self.read_state();
        let full = if cursor.is_multiple_of(2) {
            usize::try_from(cursor / 2).ok().and_then(|at| state.paths.get(at.checked_sub(1)?)).cloned()
        } else {
            state.dir_text(DirId(cursor / 2)).map(str::to_owned)
        };
        let Some(full) = full else { return Ok(None) };
        let (parent, name) = full.rsplit_once('/').unwrap_or(("", full.as_str()));
        Ok((state.dir_id(parent) == Some(dir)).then(|| name.to_owned()))
    }

    fn child(&self, tree: Tree, dir: DirId, name: &str) -> Result<Option<Child>, CatalogError> {
        Ok(self.read_state().list(tree, dir).into_iter().find(|child| child.name == name))
    }

    fn versions(&self, path: PathId, after: Option<FileId>, limit: usize) -> Result<Vec<FileRow>, CatalogError> {
        let versions = self.read_state().sorted_versions(path);
        let skip = after.and_then(|file| versions.iter().position(|row| row.id == file)).map_or(0, |at| at + 1);
        Ok(versions.into_iter().skip(skip).take(limit).collect())
    }

    fn versions_at(&self, path: PathId, hlc: Hlc) -> Result<Vec<FileRow>, CatalogError> {
        Ok(self.read_state().sorted_versions(path).into_iter().filter(|row| row.hlc == hlc).collect())
    }

    fn heads(&self, path: PathId) -> Result<Vec<FileRow>, CatalogError> {
        Ok(self.read_state().open_heads(path))
    }

    fn file(&self, file: FileId) -> Result<Option<FileRow>, CatalogError> {
        let state = self.read_state();
        Ok(state.versions.iter().find(|stored| stored.row.id == file).map(|stored| stored.row.clone()))
    }

    fn path_of(&self, file: FileId) -> Result<Option<RelPath>, CatalogError> {
        let state = self.read_state();
        let stored = state.versions.iter().find(|stored| stored.row.id == file);
        Ok(stored.and_then(|stored| RelPath::parse(&state.paths[stored.path.0 as usize - 1]).ok()))
    }

    fn read_into(&self, row: &FileRow, offset: u64, out: &mut [u8]) -> Result<usize, CatalogError> {
        let _reading = self.hold_readers();
        let state = self.read_state();
        let absent = || CatalogError::Absent { content: row.content.hash.to_string() };
        let bytes = state.contents.get(&row.content.hash).ok_or_else(absent)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = &bytes[start..start.saturating_add(out.len()).min(bytes.len())];
        out[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn totals(&self) -> Result<Totals, CatalogError> {
        let state = self.read_state();
        let stored = state.versions.iter().filter(|stored| stored.tombstone.is_none());
        let sizes: BTreeSet<(ContentHash, u64)> =
            stored.clone().map(|stored| (stored.row.content.hash, stored.row.content.size)).collect();
        Ok(Totals { bytes: sizes.iter().map(|(_, size)| size).sum(), files: stored.count() as u64 })
    }
}
