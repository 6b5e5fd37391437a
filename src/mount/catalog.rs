//! What the view asks of whoever knows the archive: folders, files, versions and their bytes, by stable numbers.
//!
//! Invariant: a number handed out names the same thing for as long as the index lives, and a [`FileId`] never gets other bytes: a new
//! version of a path is a new id. The view derives inode numbers from these, so it needs no table of its own.
//! Says nothing of SQLite, of FUSE, or of how names in the view are made.

use std::sync::Arc;

use crate::index::Proven;
use crate::model::{Content, Hash, Hlc, OriginName, RelPath};

/// Largest [`DirId`]: 40 bits.
pub const MAX_DIR_ID: u64 = (1 << 40) - 1;
/// Largest [`OriginId`]: 20 bits.
pub const MAX_ORIGIN_ID: u32 = (1 << 20) - 1;
/// Largest [`PathId`] and largest cursor of [`Catalog::children`]: 48 bits.
pub const MAX_PATH_ID: u64 = (1 << 48) - 1;
/// Largest [`FileId`]: 60 bits.
pub const MAX_FILE_ID: u64 = (1 << 60) - 1;

/// Largest [`TimeId`]: 19 bits.
pub const MAX_TIME_ID: u32 = (1 << 19) - 1;

/// Largest [`FindId`]: 16 bits.
pub const MAX_FIND_ID: u32 = (1 << 16) - 1;

/// A folder that some path lies in, whatever tree shows it; at most [`MAX_DIR_ID`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DirId(pub u64);

impl DirId {
    /// The project's root.
    pub const ROOT: DirId = DirId(0);
}

/// A path that ever had a version; at most [`MAX_PATH_ID`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathId(pub u64);

/// One immutable file state: a version, or the outcome of merging several; 1..=[`MAX_FILE_ID`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u64);

/// An origin; at most [`MAX_ORIGIN_ID`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OriginId(pub u32);

/// A moment that somebody looks at, for as long as [`Catalog::time`] knows it; at most [`MAX_TIME_ID`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimeId(pub u32);

/// What was found for some words, for as long as [`Catalog::finds`] has it; at most [`MAX_FIND_ID`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FindId(pub u32);

/// One of the trees of the view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tree {
    /// What everybody converges on, archive files of all origins united.
    Merged,
    /// One origin exactly as it published.
    Origin(OriginId),
    /// Every version of every path.
    History,
    /// The merged tree as of a moment, by what is known now.
    At(TimeId),
    /// Of the merged tree, what holds some words.
    Found(FindId),
    /// Of the merged tree, what a person marked.
    Starred,
    /// The open heads of paths in conflict.
    Conflicts,
    /// The last contents of what is deleted.
    Trash,
}

/// An origin and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginRow {
    /// Its number.
    pub id: OriginId,
    /// Its name.
    pub name: OriginName,
}

/// What is known of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirFacts {
    /// The folder around it; the root is its own.
    pub parent: DirId,
    /// Its last component; empty for the root.
    pub name: String,
    /// The path of the same name, if one ever had a version: `a` when this is the folder of `a/b`.
    pub path: Option<PathId>,
    /// The newest change directly in it that is known; only shown, as its modification time.
    pub changed: Hlc,
}

/// What is known of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathFacts {
    /// The folder it lies in.
    pub dir: DirId,
    /// Its last component.
    pub name: String,
    /// The folder of the same name, if some path ever lay below it.
    pub same_dir: Option<DirId>,
    /// True if it ever had versions in the archive channel or in two spaces: only then can files stand beside its name.
    pub beside: bool,
}

/// One file state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRow {
    /// Its number.
    pub id: FileId,
    /// Who made it.
    pub origin: OriginRow,
    /// True for a file of the archive channel: it belongs to `origin` alone and never compares with others'.
    pub archive: bool,
    /// Its bytes, by name and size, and its kind.
    pub content: Content,
    /// When; shown as modification time.
    pub hlc: Hlc,
    /// The version's id, or a hash over the ids that were merged; orders what nothing else orders.
    pub version: Hash,
}

/// One name in a folder of one tree: a folder, a path, or both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    /// Stands for the name in this folder, so that a listing goes on after it: 1..=[`MAX_PATH_ID`], and for no other name, whatever comes
    /// or goes. A name may get another one; the earlier one still stands for it.
    pub cursor: u64,
    /// The last component.
    pub name: String,
    /// The folder, if anything of this tree lies below it.
    pub dir: Option<DirId>,
    /// The path, if it is itself in this tree.
    pub path: Option<PathId>,
    /// The candidates for the name; left empty for `History` and `Conflicts`, where a path is a folder.
    ///
    /// `Merged` and `At`: what `sync::resolve` shows of each space, private before shared, then each origin's archive file.
    /// `Origin`: the newest version that this origin made, unless it is a tombstone. `Trash`: the last content before each tombstone.
    pub files: Vec<FileRow>,
    /// Candidates that take part in the naming and are not shown: of `Found`, files without the words; of `Starred`, those without a star.
    pub hidden: Vec<FileId>,
    /// The same of the folder.
    pub is_dir_hidden: bool,
}

/// One new version: what [`super::View::refresh`] is told about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Change {
    /// Where.
    pub path: PathId,
    /// Whose.
    pub origin: OriginId,
    /// Its clock value: the tree as of this and any later moment may have changed. 0 if any may.
    pub hlc: Hlc,
}

/// Sums over everything that can be read through the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Bytes of all files of `merged/`, or more.
    pub bytes: u64,
    /// Files of `merged/`, or more.
    pub files: u64,
}

/// Why the catalog has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The bytes are named but not here yet; the next exchange asks for them.
    #[error("read {content}: its bytes are not here yet")]
    Absent {
        /// Which content.
        content: String,
    },
    /// The bytes are nowhere any more, because somebody said so.
    #[error("its content was {how}")]
    Gone {
        /// Purged or dropped, by whom and when.
        how: String,
    },
    /// The tree as of a moment, of which something was let go since.
    #[error("show {at}: some of what stood then was let go since; the oldest that can be shown whole is {since}")]
    LetGo {
        /// The moment.
        at: String,
        /// The first that can be shown.
        since: String,
    },
    /// Something below is damaged or failed.
    #[error("{what}")]
    Broken {
        /// What was attempted.
        what: String,
        /// What came of it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// Hands the kernel bytes of files before it asks for them.
pub trait Giver: Send + Sync {
    /// Another number once something may not be handed on any more; take it before bytes are looked up. `None` once it is over.
    fn turn(&self) -> Option<u64>;

    /// Hands on all bytes of each file that the kernel knows, soon, if the turn is not over and not too much waits already.
    fn give(&self, files: Vec<(FileId, Proven)>, turn: u64);
}

/// Everything the view needs to know. Read-only, safe to call from several threads at once.
///
/// Every method answers from one consistent state of its own; two calls may see two states, and the view copes with that.
pub trait Catalog: Send + Sync {
    /// Asks several questions, which then cost less than one by one; they may all be answered from one state, as of the first.
    fn together<T>(&self, ask: impl FnOnce() -> T) -> T {
        ask()
    }

    /// Within [`Catalog::together`]: what takes long and needs no state, so that none is held meanwhile.
    fn apart<T>(&self, ask: impl FnOnce() -> T) -> T {
        ask()
    }

    /// A number for what can be listed now; another one from the moment on at which a change is about to be told. What was listed under
    /// one number is at most as old as what the kernel remembers. `None`: nobody knows, and nothing may be listed ahead.
    fn turn(&self) -> Option<u64> {
        None
    }

    /// By whom the kernel may be handed bytes that it will ask for; the one told last.
    fn give_by(&self, _giver: Arc<dyn Giver>) {}

    /// The kernel knows these files, of one folder, since a moment ago: whoever listed it may be about to read them.
    fn listed(&self, _files: &[FileId]) {}

    /// All origins, in the order of their numbers.
    fn origins(&self) -> Result<Vec<OriginRow>, CatalogError>;

    /// Hands out the number of a moment. Errors: `LetGo`, if the tree as of then cannot be shown whole.
    fn time_id(&self, at: Hlc) -> Result<TimeId, CatalogError>;

    /// The moment of a number; `None` if it was forgotten, because many others were asked for.
    fn time(&self, id: TimeId) -> Option<Hlc>;

    /// The moments that have a number.
    fn times(&self) -> Vec<(TimeId, Hlc)>;

    /// Finds what holds some words, and hands out the number of that; `None` if nobody would mean this as a search.
    ///
    /// Words that are looked for again have the same number until something else is found.
    fn find(&self, words: &str) -> Result<Option<FindId>, CatalogError>;

    /// What was found lately.
    fn finds(&self) -> Vec<FindId>;

    /// False only if nobody ever gave a star: then `Starred` shows nothing and no change makes it show anything.
    fn has_stars(&self) -> Result<bool, CatalogError>;

    /// What is known of a folder; `None` if the number was never handed out.
    fn dir(&self, dir: DirId) -> Result<Option<DirFacts>, CatalogError>;

    /// What is known of a path; `None` if the number was never handed out.
    fn path(&self, path: PathId) -> Result<Option<PathFacts>, CatalogError>;

    /// Up to `limit` names of a folder in the order of names, from the first after the one that the cursor `after` stands for; 0 stands
    /// before all. Fewer only at the end. Costs what is handed out, however many names the folder has.
    fn children(&self, tree: Tree, dir: DirId, after: u64, limit: usize) -> Result<Vec<Child>, CatalogError>;

    /// The name that a cursor stands for in a folder, whether a tree shows it or not; `None` if it never stood for one there.
    fn name_at(&self, dir: DirId, cursor: u64) -> Result<Option<String>, CatalogError>;

    /// One name of a folder.
    fn child(&self, tree: Tree, dir: DirId, name: &str) -> Result<Option<Child>, CatalogError>;

    /// Up to `limit` versions of a path that have a content, in the order of (clock, version), above `after`.
    fn versions(&self, path: PathId, after: Option<FileId>, limit: usize) -> Result<Vec<FileRow>, CatalogError>;

    /// True if a path has more than `count` versions with a content; costs no more than these.
    fn has_more_versions(&self, path: PathId, count: usize) -> Result<bool, CatalogError> {
        Ok(self.versions(path, None, count.saturating_add(1))?.len() > count)
    }

    /// The versions of a path with a content and exactly this clock value, in the order of `version`.
    fn versions_at(&self, path: PathId, hlc: Hlc) -> Result<Vec<FileRow>, CatalogError>;

    /// The open heads of a path in conflict that have a content, the winner first; none if it is in no conflict.
    fn heads(&self, path: PathId) -> Result<Vec<FileRow>, CatalogError>;

    /// One file state, also one that nothing shows any more; `None` if the number was never handed out.
    fn file(&self, file: FileId) -> Result<Option<FileRow>, CatalogError>;

    /// The path of the project at which a file state was recorded; `None` if the number was never handed out.
    fn path_of(&self, file: FileId) -> Result<Option<RelPath>, CatalogError>;

    /// Exactly `len` bytes from `offset`; the caller has checked both against the size.
    ///
    /// Never waits for an exchange: what is not here is [`CatalogError::Absent`].
    fn read(&self, row: &FileRow, offset: u64, len: usize) -> Result<Vec<u8>, CatalogError> {
        let mut bytes = vec![0; len];
        let got = self.read_into(row, offset, &mut bytes)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The same into a buffer; returns how many bytes there were.
    fn read_into(&self, row: &FileRow, offset: u64, out: &mut [u8]) -> Result<usize, CatalogError>;

    /// Sums for `df`.
    fn totals(&self) -> Result<Totals, CatalogError>;

    /// True if `shorter` is a prefix of `longer`; bytes that are not here are no prefix of anything.
    ///
    /// An index that knows the segments answers without reading; this one compares block by block and stops at the first difference.
    fn is_prefix(&self, shorter: &FileRow, longer: &FileRow) -> Result<bool, CatalogError> {
        const BLOCK_BYTES: u64 = 128 * 1024;
        let mut offset = 0;
        while offset < shorter.content.size {
            let len = usize::try_from(BLOCK_BYTES.min(shorter.content.size - offset)).unwrap_or(usize::MAX);
            let (a, b) = match (self.read(shorter, offset, len), self.read(longer, offset, len)) {
                (Err(CatalogError::Absent { .. } | CatalogError::Gone { .. }), _)
                | (_, Err(CatalogError::Absent { .. } | CatalogError::Gone { .. })) => return Ok(false),
                (a, b) => (a?, b?),
            };
            if a != b {
                return Ok(false);
            }
            offset += BLOCK_BYTES;
        }
        Ok(true)
    }
}
