//! The view: names, attributes and contents over a [`Catalog`], by node number. Knows nothing of FUSE.
//!
//! Invariant: every answer is a function of the node number and the catalog; the view remembers nothing about what it told anybody, so
//! forgetting costs nothing. A file's number names one immutable state: a new version of a path is a new number, and the old one
//! goes on reading the old bytes.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};

use super::catalog::{Catalog, CatalogError, Child, DirFacts, DirId, FileId, FileRow, PathId, Totals, Tree};
use super::moment::{end_of, moment_name, named_moment, parse_moment};
use super::naming::{MAX_NAME_BYTES, Named, before_beside, name_files, name_heads, name_versions, parse_time_name};
use super::node::{NodeId, Place};
use super::provenance::PROVENANCE_NAME;
use crate::env::Clock;
use crate::model::{ContentHash, ContentKind, Hlc};
use crate::scan::{LinkProblem, check_link_target};

/// Most bytes of one `read`.
const MAX_READ_BYTES: usize = 1 << 20;
/// Pairs known to be prefix and whole that are remembered; all are dropped when there are more.
const MAX_PREFIXES: usize = 4096;

const README: &str = include_str!("README.txt");

/// The top-level folders, in the order of the listing.
pub(super) const TREES: [(&str, Place); 8] = [
    ("merged", Place::Dir(Tree::Merged, DirId::ROOT)),
    ("origins", Place::Origins),
    ("history", Place::Dir(Tree::History, DirId::ROOT)),
    ("at", Place::Times),
    ("conflicts", Place::Dir(Tree::Conflicts, DirId::ROOT)),
    ("starred", Place::Dir(Tree::Starred, DirId::ROOT)),
    ("trash", Place::Dir(Tree::Trash, DirId::ROOT)),
    ("search", Place::Searches),
];
pub(super) const README_NAME: &str = "README.txt";

/// Why the view has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No such name.
    #[error("look up {name:?}: no such name")]
    NotFound {
        /// The name.
        name: String,
        /// True if [`View::refresh`] will tell when the name comes to be, so that its absence may be remembered.
        is_lasting: bool,
    },
    /// A name that no file can have.
    #[error("look up a name of {bytes} bytes: at most {MAX_NAME_BYTES} are possible")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The node is a file.
    #[error("node {node:x} is no folder", node = node.0)]
    NotFolder {
        /// Which.
        node: NodeId,
    },
    /// The node is a folder.
    #[error("node {node:x} is a folder", node = node.0)]
    IsFolder {
        /// Which.
        node: NodeId,
    },
    /// The node is no symbolic link.
    #[error("node {node:x} is no link", node = node.0)]
    NotLink {
        /// Which.
        node: NodeId,
    },
    /// The link would lead out of the view.
    #[error("follow the link {node:x}: {problem}", node = node.0)]
    LinkOutside {
        /// Which.
        node: NodeId,
        /// Why.
        problem: LinkProblem,
    },
    /// The number means nothing (any more): the index was rebuilt beneath a mount, or somebody guessed.
    #[error("node {node:x} is unknown", node = node.0)]
    Unknown {
        /// Which.
        node: NodeId,
    },
    /// The catalog has no answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What kind of thing a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// The metadata of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits: 0555 folders, 0444 files, 0555 executable files, 0777 links.
    pub mode: u16,
    /// Bytes; 0 for folders.
    pub size: u64,
    /// Modification time: the wall part of the version's clock.
    pub mtime_ms: u64,
    /// 1 throughout; for a folder it means "not counted", as on btrfs.
    pub links: u32,
}

/// A node with its metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its metadata.
    pub attr: Attr,
}

/// Sums for `df`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statfs {
    /// Bytes of all files of `merged/`, or more.
    pub bytes: u64,
    /// Files of `merged/`, or more.
    pub files: u64,
    /// Longest name.
    pub max_name_bytes: u32,
}

/// The view of one catalog.
pub struct View<C> {
    pub(super) catalog: C,
    clock: Option<Arc<dyn Clock>>,
    prefixes: Mutex<HashSet<(ContentHash, ContentHash)>>,
}

impl<C: Catalog> View<C> {
    /// The view of `catalog`.
    pub fn new(catalog: C) -> View<C> {
        View { catalog, clock: None, prefixes: Mutex::new(HashSet::new()) }
    }

    /// With a clock, by which `1h` and `yesterday` mean something below `at/`.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> View<C> {
        View { clock: Some(clock), ..self }
    }

    /// The number of the root.
    pub fn root() -> NodeId {
        NodeId::ROOT
    }

    /// The catalog beneath.
    pub fn catalog(&self) -> &C {
        &self.catalog
    }

    /// Finds one name of a folder. `.` and `..` are the kernel's business.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Node, ViewError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(ViewError::NameTooLong { bytes: name.len() });
        }
        let not_found = || {
            let name = name.to_string_lossy().into_owned();
            let is_lasting = parse_time_name(&name).is_none();
            ViewError::NotFound { name, is_lasting }
        };
        // Paths of the archive are UTF-8: nothing else can be here.
        let text = name.to_str().ok_or_else(not_found)?;
        let found = match self.place(parent)? {
            Place::Root => self.lookup_root(text)?,
            Place::Origins => {
                let origins = self.catalog.origins()?;
                let origin = origins.into_iter().find(|origin| origin.name.as_str() == text);
                origin.map(|origin| self.dir_node(Tree::Origin(origin.id), DirId::ROOT)).transpose()?
            }
            Place::Times => self.lookup_time(text)?,
            Place::Searches => {
                let find = self.catalog.find(text)?;
                find.map(|find| self.dir_node(Tree::Found(find), DirId::ROOT)).transpose()?
            }
            Place::Dir(tree, dir) => self.lookup_dir(tree, dir, text)?,
            Place::Versions(path) => self.lookup_version(path, text)?,
            Place::Heads(path) => self.lookup_head(path, text)?,
            Place::Readme | Place::Provenance(_) | Place::Spelling(_) | Place::File(_) => {
                return Err(ViewError::NotFolder { node: parent });
            }
        };
        found.ok_or_else(not_found)
    }

    /// The metadata of a node.
    pub fn attr(&self, node: NodeId) -> Result<Attr, ViewError> {
        match self.place(node)? {
            Place::Root | Place::Origins | Place::Times | Place::Searches => {
                Ok(folder_attr(self.root_facts()?.changed))
            }
            Place::Spelling(wall_ms) => {
                let at = end_of(wall_ms);
                Ok(file_attr(ContentKind::Link, moment_name(at).len() as u64, at))
            }
            Place::Dir(Tree::At(time), dir) => {
                let at = self.catalog.time(time).ok_or(ViewError::Unknown { node })?;
                Ok(folder_attr(self.dir_facts(dir)?.changed.min(at)))
            }
            Place::Readme => {
                Ok(file_attr(ContentKind::File { exec: false }, README.len() as u64, self.root_facts()?.changed))
            }
            Place::Dir(_, dir) => Ok(folder_attr(self.dir_facts(dir)?.changed)),
            Place::Provenance(dir) => {
                let size = self.provenance_of_folder(dir)?.len() as u64;
                Ok(file_attr(ContentKind::File { exec: false }, size, self.dir_facts(dir)?.changed))
            }
            Place::Versions(path) | Place::Heads(path) => self.path_attr(path),
            Place::File(file) => Ok(row_attr(&self.row(file)?)),
        }
    }

    /// Reads up to `len` bytes of a file; fewer only at its end.
    pub fn read(&self, node: NodeId, offset: u64, len: usize) -> Result<Vec<u8>, ViewError> {
        let len = len.min(MAX_READ_BYTES);
        match self.place(node)? {
            Place::Readme => Ok(part(README.as_bytes(), offset, len)),
            Place::Provenance(dir) => Ok(part(self.provenance_of_folder(dir)?.as_bytes(), offset, len)),
            Place::File(file) => self.read_row(&self.row(file)?, offset, len),
            _ => Err(ViewError::IsFolder { node }),
        }
    }

    /// The same into a buffer: returns how many bytes there were, fewer than it has room for only at the end.
    pub fn read_into(&self, node: NodeId, offset: u64, out: &mut [u8]) -> Result<usize, ViewError> {
        let Place::File(file) = self.place(node)? else {
            let bytes = self.read(node, offset, out.len())?;
            out[..bytes.len()].copy_from_slice(&bytes);
            return Ok(bytes.len());
        };
        let row = self.row(file)?;
        let len = left_of(&row, offset).min(out.len()).min(MAX_READ_BYTES);
        if len > 0 {
            self.fill_from_row(&row, offset, &mut out[..len])?;
        }
        Ok(len)
    }

    /// What a regular file of the archive shows; `None` for whatever else there is.
    pub fn file_row(&self, node: NodeId) -> Result<Option<FileRow>, ViewError> {
        match self.place(node)? {
            Place::File(file) => Ok(Some(self.row(file)?).filter(|row| row.content.kind != ContentKind::Link)),
            _ => Ok(None),
        }
    }

    /// The target of a symbolic link, as it was recorded. Errors: `LinkOutside`, for one that no project would have recorded.
    pub fn read_link(&self, node: NodeId) -> Result<Vec<u8>, ViewError> {
        let file = match self.place(node)? {
            Place::File(file) => file,
            Place::Spelling(wall_ms) => return Ok(moment_name(end_of(wall_ms)).into_bytes()),
            _ => return Err(ViewError::NotLink { node }),
        };
        let row = self.row(file)?;
        if row.content.kind != ContentKind::Link {
            return Err(ViewError::NotLink { node });
        }
        let len = usize::try_from(row.content.size).unwrap_or(usize::MAX).min(MAX_READ_BYTES);
        let target = self.read_row(&row, 0, len)?;
        let path = self.catalog.path_of(file)?.ok_or(ViewError::Unknown { node })?;
        // In every tree a link stands at least as deep as in the project, so what stays in one stays in the other.
        match check_link_target(&path, &target) {
            Ok(_) => Ok(target),
            Err(problem) => Err(ViewError::LinkOutside { node, problem }),
        }
    }

    /// False for a name whose meaning changes with no notice from [`View::refresh`]: as time goes by, or as more is found.
    pub fn is_lasting(&self, node: NodeId) -> bool {
        !matches!(Place::of(node), Some(Place::Spelling(_) | Place::Dir(Tree::Found(_), DirId::ROOT)))
    }

    /// The moment that a text means now; see [`parse_moment`]. Without a clock only absolute ones are understood.
    pub fn moment(&self, text: &str) -> Option<Hlc> {
        match &self.clock {
            Some(clock) => parse_moment(text, clock.wall_ms()),
            None => parse_moment(text, 0),
        }
    }

    /// Sums for `df`.
    pub fn statfs(&self) -> Result<Statfs, ViewError> {
        let Totals { bytes, files } = self.catalog.totals()?;
        Ok(Statfs { bytes, files, max_name_bytes: MAX_NAME_BYTES as u32 })
    }

    pub(super) fn place(&self, node: NodeId) -> Result<Place, ViewError> {
        Place::of(node).ok_or(ViewError::Unknown { node })
    }

    pub(super) fn row(&self, file: FileId) -> Result<FileRow, ViewError> {
        self.catalog.file(file)?.ok_or(ViewError::Unknown { node: Place::File(file).node() })
    }

    pub(super) fn dir_facts(&self, dir: DirId) -> Result<DirFacts, ViewError> {
        let unknown = ViewError::Unknown { node: Place::Dir(Tree::Merged, dir).node() };
        self.catalog.dir(dir)?.ok_or(unknown)
    }

    fn root_facts(&self) -> Result<DirFacts, ViewError> {
        self.dir_facts(DirId::ROOT)
    }

    fn read_row(&self, row: &FileRow, offset: u64, len: usize) -> Result<Vec<u8>, ViewError> {
        let len = len.min(left_of(row, offset));
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; len];
        self.fill_from_row(row, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// All of `out`, which lies in the file.
    fn fill_from_row(&self, row: &FileRow, offset: u64, out: &mut [u8]) -> Result<(), ViewError> {
        let got = self.catalog.read_into(row, offset, out)?;
        if got == out.len() {
            return Ok(());
        }
        let what = format!("read {} at {offset}: {got} of {} bytes", row.content.hash, out.len());
        Err(CatalogError::Broken { what, source: None }.into())
    }

    // Names.

    fn lookup_root(&self, name: &str) -> Result<Option<Node>, ViewError> {
        let tree = TREES.iter().find(|(tree, _)| *tree == name).map(|(_, place)| *place);
        let place = tree.or((name == README_NAME).then_some(Place::Readme));
        place.map(|place| self.node(place)).transpose()
    }

    fn lookup_time(&self, name: &str) -> Result<Option<Node>, ViewError> {
        if let Some(at) = named_moment(name) {
            return self.dir_node(Tree::At(self.catalog.time_id(at)?), DirId::ROOT).map(Some);
        }
        let Some(at) = self.moment(name) else { return Ok(None) };
        // What the link leads to must be there.
        self.catalog.time_id(at)?;
        self.node(Place::Spelling(at.wall_ms())).map(Some)
    }

    fn lookup_dir(&self, tree: Tree, dir: DirId, name: &str) -> Result<Option<Node>, ViewError> {
        let bases = before_beside(name);
        for own in std::iter::once(name).chain(bases.iter().map(String::as_str)) {
            let Some(child) = self.catalog.child(tree, dir, own)? else { continue };
            let names = self.name_child(tree, &child)?;
            if let Some((_, node)) = names.into_iter().find(|(found, _)| found == name)
                && self.is_its_own(tree, dir, &child, name)?
            {
                return Ok(Some(node));
            }
        }
        let own_path = match tree {
            Tree::History | Tree::Conflicts => self.dir_facts(dir)?.path,
            _ => None,
        };
        match (tree, own_path) {
            (Tree::Merged, _) if name == PROVENANCE_NAME => self.node(Place::Provenance(dir)).map(Some),
            (Tree::History, Some(path)) => self.lookup_version(path, name),
            (Tree::Conflicts, Some(path)) => self.lookup_head(path, name),
            _ => Ok(None),
        }
    }

    fn lookup_version(&self, path: PathId, name: &str) -> Result<Option<Node>, ViewError> {
        let Some(hlc) = parse_time_name(name) else { return Ok(None) };
        let named = name_versions(None, self.catalog.versions_at(path, hlc)?);
        Ok(find_named(&named, name))
    }

    fn lookup_head(&self, path: PathId, name: &str) -> Result<Option<Node>, ViewError> {
        Ok(find_named(&name_heads(self.catalog.heads(path)?), name))
    }

    /// The names that one child gives rise to: itself, and those beside it.
    pub(super) fn name_child(&self, tree: Tree, child: &Child) -> Result<Vec<(String, Node)>, ViewError> {
        let mut names = Vec::new();
        let path_folder = match (tree, child.path) {
            (Tree::History, Some(path)) => Some(Place::Versions(path)),
            (Tree::Conflicts, Some(path)) => Some(Place::Heads(path)),
            _ => None,
        };
        if child.is_dir_hidden {
            // Its name is taken all the same.
        } else if let Some(dir) = child.dir {
            names.push((child.name.clone(), self.dir_node(tree, dir)?));
        } else if let Some(place) = path_folder {
            names.push((child.name.clone(), self.node(place)?));
        }
        if path_folder.is_none() {
            let files = name_files(child, |shorter, longer| self.is_prefix(shorter, longer));
            let united = self.united(child, &files);
            let is_shown = |named: &Named| {
                !child.hidden.contains(&named.file.id) || united.iter().any(|file| self.holds(&named.file, file))
            };
            names.extend(
                files.iter().filter(|named| is_shown(named)).map(|named| (named.name.clone(), row_node(&named.file))),
            );
        }
        Ok(names)
    }

    /// The files that are to be shown and have no name, because another one of the same bytes or more stands for them.
    fn united<'c>(&self, child: &'c Child, named: &[Named]) -> Vec<&'c FileRow> {
        if child.hidden.is_empty() {
            return Vec::new();
        }
        let is_named = |file: &FileRow| named.iter().any(|named| named.file.id == file.id);
        child.files.iter().filter(|file| !child.hidden.contains(&file.id) && !is_named(file)).collect()
    }

    fn holds(&self, longer: &FileRow, file: &FileRow) -> bool {
        longer.content == file.content || (file.content.size < longer.content.size && self.is_prefix(file, longer))
    }

    /// Bytes that cannot be read make no listing fail: such a file is no prefix, and its own read will say what is wrong with it.
    fn is_prefix(&self, shorter: &FileRow, longer: &FileRow) -> bool {
        let key = (shorter.content.hash, longer.content.hash);
        if self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return true;
        }
        // It may read long files to their ends.
        let answer = self.catalog.apart(|| self.catalog.is_prefix(shorter, longer)).unwrap_or(false);
        // "No" is not remembered: it may only mean that the bytes are not here yet.
        if answer {
            let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
            if prefixes.len() >= MAX_PREFIXES {
                prefixes.clear();
            }
            prefixes.insert(key);
        }
        answer
    }

    // Nodes.

    pub(super) fn node(&self, place: Place) -> Result<Node, ViewError> {
        let id = place.node();
        Ok(Node { id, attr: self.attr(id)? })
    }

    pub(super) fn dir_node(&self, tree: Tree, dir: DirId) -> Result<Node, ViewError> {
        self.node(Place::Dir(tree, dir))
    }

    pub(super) fn path_dir(&self, path: PathId) -> Result<DirId, ViewError> {
        let facts = self.catalog.path(path)?;
        Ok(facts.ok_or(ViewError::Unknown { node: Place::Versions(path).node() })?.dir)
    }

    fn path_attr(&self, path: PathId) -> Result<Attr, ViewError> {
        let dir = self.path_dir(path)?;
        Ok(folder_attr(self.dir_facts(dir)?.changed))
    }
}

/// Up to `len` bytes of `whole` from `offset`.
/// The bytes of a file from an offset on.
fn left_of(row: &FileRow, offset: u64) -> usize {
    usize::try_from(row.content.size.saturating_sub(offset)).unwrap_or(usize::MAX)
}

fn part(whole: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
    whole[start..start.saturating_add(len).min(whole.len())].to_vec()
}

fn find_named(named: &[Named], name: &str) -> Option<Node> {
    named.iter().find(|named| named.name == name).map(|named| row_node(&named.file))
}

pub(super) fn row_node(row: &FileRow) -> Node {
    Node { id: Place::File(row.id).node(), attr: row_attr(row) }
}

fn row_attr(row: &FileRow) -> Attr {
    file_attr(row.content.kind, row.content.size, row.hlc)
}

fn file_attr(kind: ContentKind, size: u64, hlc: Hlc) -> Attr {
    let (kind, mode) = match kind {
        ContentKind::File { exec: false } => (NodeKind::File, 0o444),
        ContentKind::File { exec: true } => (NodeKind::File, 0o555),
        ContentKind::Link => (NodeKind::Link, 0o777),
    };
    Attr { kind, mode, size, mtime_ms: hlc.wall_ms(), links: 1 }
}

fn folder_attr(changed: Hlc) -> Attr {
    Attr { kind: NodeKind::Folder, mode: 0o555, size: 0, mtime_ms: changed.wall_ms(), links: 1 }
}
