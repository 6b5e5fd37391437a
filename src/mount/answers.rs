//! What the view answers to each question of the kernel, whichever way the question came: `fuse` carries one way, `ring` the other.
//!
//! Invariant: an answer depends on the question and the view alone, never on how it was carried; a question is counted before it is answered.
//! Every error is a number of the system's; why, in words, is told to who can be told. Knows no bytes of the protocol.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use super::catalog::Catalog;
use super::counters::{Counters, count};
use super::listing::Entry;
use super::node::{NodeId, Place};
use super::replay::{Doing, Replayer};
use super::scout::Scout;
use super::session::Teller;
use super::through::Through;
use super::told::Told;
use super::view::{Attr, Node, NodeKind, Statfs, View, ViewError};

/// How long the kernel may keep an answer; whatever changes earlier is notified.
pub(super) const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The same for a name that means something else as time goes by.
const MOMENT: Duration = Duration::from_secs(1);
/// Sentences that are not said again while they are among the last that were.
const MAX_TOLD: usize = 64;
/// A number that the view never makes.
const GONE_NODE: u64 = 1 << 63;
/// Block size told to `df` and `stat`.
pub(super) const BLOCK_BYTES: u32 = 4096;
/// Lines asked of the view at once; a reply that has room for more asks again.
const LISTING_LINES: usize = 96;

/// Who owns what is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Who answers the kernel.
pub(super) struct Answers<C> {
    pub(super) view: Arc<View<C>>,
    pub(super) counters: Arc<Counters>,
    pub(super) owner: Owner,
    /// Others than the owner may look, too. Who comes through the device was looked at by the library.
    pub(super) allow_other: bool,
    /// Extended attributes tell who wrote what.
    pub(super) xattrs: bool,
    /// The one thread that may ask for changes, none of which changes anything.
    pub(super) replayer: Arc<Replayer>,
    /// Long files are read from copies, if the kernel agrees.
    pub(super) through: Option<Arc<Through>>,
    pub(super) teller: Teller,
    pub(super) scout: Scout<C>,
    /// What was told lately.
    pub(super) told: Mutex<VecDeque<String>>,
    pub(super) listed: Mutex<Told>,
}

/// What a name means, and how long the kernel may keep that.
pub(super) struct Shown {
    pub(super) lifetime: Duration,
    pub(super) attr: FileAttr,
}

/// A line of a listing for the kernel.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    /// Where the listing goes on after it.
    pub(super) offset: u64,
    pub(super) shown: Shown,
}

fn errno(error: &ViewError) -> Errno {
    match error {
        ViewError::NotFound { .. } => Errno::ENOENT,
        ViewError::NameTooLong { .. } => Errno::ENAMETOOLONG,
        ViewError::NotFolder { .. } => Errno::ENOTDIR,
        ViewError::IsFolder { .. } => Errno::EISDIR,
        ViewError::NotLink { .. } => Errno::EINVAL,
        ViewError::LinkOutside { .. } => Errno::EPERM,
        ViewError::Unknown { .. } => Errno::ESTALE,
        ViewError::Catalog(_) => Errno::EIO,
    }
}

fn with_causes(error: &ViewError) -> String {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        sentence.push_str(&format!(": {error}"));
        cause = error.source();
    }
    sentence
}

impl<C> Answers<C> {
    /// The error number for an answer that failed. Why is told to who can be told: the asker learns only "input/output error".
    fn refuse(&self, error: &ViewError) -> Errno {
        if matches!(error, ViewError::Catalog(_) | ViewError::LinkOutside { .. }) {
            let sentence = with_causes(error);
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = !told.contains(&sentence);
            if is_new {
                if told.len() >= MAX_TOLD {
                    told.pop_front();
                }
                told.push_back(sentence.clone());
            }
            drop(told);
            if is_new {
                self.teller.tell(&sentence);
            }
        }
        errno(error)
    }
}

impl<C: Catalog> Answers<C> {
    fn file_attr(&self, node: Node) -> FileAttr {
        let Attr { kind, mode, size, mtime_ms, links } = node.attr;
        let mtime = UNIX_EPOCH + Duration::from_millis(mtime_ms);
        FileAttr {
            ino: INodeNo(node.id.0),
            size,
            blocks: size.div_ceil(512),
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: SystemTime::UNIX_EPOCH,
            kind: file_type(kind),
            perm: mode,
            nlink: links,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    fn shown(&self, node: Node) -> Shown {
        let lifetime = if self.view.is_lasting(node.id) { LIFETIME } else { MOMENT };
        Shown { lifetime, attr: self.file_attr(node) }
    }
}

impl<C: Catalog + 'static> Answers<C> {
    /// What a name means to the thread that asks. A name that is known to be absent is one of node 0.
    pub(super) fn lookup(&self, asked_by: u32, parent: NodeId, name: &OsStr) -> Result<Shown, Errno> {
        count(&self.counters.lookup);
        match self.replayer.doing(asked_by, parent, name) {
            // It comes to be by what that thread does next.
            Doing::Making => return Err(Errno::ENOENT),
            Doing::Removing => return Ok(Shown { lifetime: Duration::ZERO, attr: gone_file() }),
            Doing::Nothing => {}
        }
        match self.view.lookup(parent, name) {
            Ok(node) => Ok(self.shown(node)),
            Err(ViewError::NotFound { is_lasting: true, .. }) => Ok(Shown { lifetime: LIFETIME, attr: absent() }),
            Err(error) => Err(self.refuse(&error)),
        }
    }

    pub(super) fn attr(&self, id: NodeId) -> Result<FileAttr, Errno> {
        count(&self.counters.getattr);
        match self.view.attr(id) {
            Ok(attr) => Ok(self.file_attr(Node { id, attr })),
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// Agrees with the thread that replays changes that a file gets the size it has.
    pub(super) fn resize(&self, asked_by: u32, id: NodeId, size: Option<u64>) -> Result<FileAttr, Errno> {
        count(&self.counters.replayed);
        match self.view.attr(id) {
            Ok(attr) if self.replayer.is_own(asked_by) && size == Some(attr.size) => {
                Ok(self.file_attr(Node { id, attr }))
            }
            _ => Err(Errno::EROFS),
        }
    }

    /// Agrees with it that what is there already has just been made.
    pub(super) fn make(&self, asked_by: u32, parent: NodeId, name: &OsStr, kind: NodeKind) -> Result<Shown, Errno> {
        count(&self.counters.replayed);
        if self.replayer.doing(asked_by, parent, name) != Doing::Making {
            return Err(Errno::EROFS);
        }
        match self.view.lookup(parent, name) {
            Ok(node) if node.attr.kind == kind => Ok(Shown { lifetime: LIFETIME, attr: self.file_attr(node) }),
            _ => Err(Errno::EROFS),
        }
    }

    /// Agrees with it that a name is gone.
    pub(super) fn remove(&self, asked_by: u32, parent: NodeId, name: &OsStr) -> Result<(), Errno> {
        count(&self.counters.replayed);
        match self.replayer.doing(asked_by, parent, name) {
            Doing::Removing => Ok(()),
            _ => Err(Errno::EROFS),
        }
    }

    pub(super) fn link_target(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        count(&self.counters.readlink);
        self.view.read_link(id).map_err(|error| self.refuse(&error))
    }

    /// Bytes of a file into a buffer; fewer than it has room for only at the end.
    pub(super) fn bytes(&self, id: NodeId, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        count(&self.counters.read);
        self.view.read_into(id, offset, out).map_err(|error| self.refuse(&error))
    }

    /// Hands the lines of a folder on to `add` until it says that it is full.
    pub(super) fn list(&self, id: NodeId, offset: u64, mut add: impl FnMut(Line<'_>) -> bool) -> Result<(), Errno> {
        let (mut files, mut is_empty) = (Vec::new(), true);
        let each = |entry: &Entry| {
            let Entry { name, node, offset } = entry;
            is_empty = false;
            if let Some(Place::File(file)) = Place::of(node.id) {
                files.push(file);
            }
            add(Line { name, offset: *offset, shown: self.shown(*node) })
        };
        self.scout.list(id, offset, LISTING_LINES, each).map_err(|error| self.refuse(&error))?;
        let whole = self.listed.lock().unwrap_or_else(PoisonError::into_inner).note(id, offset, is_empty, files);
        if !whole.is_empty() {
            self.view.catalog().listed(&whole);
        }
        Ok(())
    }

    pub(super) fn sums(&self) -> Result<Statfs, Errno> {
        count(&self.counters.statfs);
        self.view.statfs().map_err(|error| self.refuse(&error))
    }

    /// The value of an extended attribute.
    pub(super) fn xattr(&self, id: NodeId, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let attributes = self.xattrs_of(id)?;
        let found = attributes.into_iter().find(|(known, _)| name == *known);
        found.map(|(_, value)| value.into_bytes()).ok_or(Errno::NO_XATTR)
    }

    /// The names of all of them, each ended by a NUL.
    pub(super) fn xattr_names(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        Ok(self.xattrs_of(id)?.iter().flat_map(|(name, _)| name.bytes().chain([0])).collect())
    }

    fn xattrs_of(&self, id: NodeId) -> Result<Vec<(&'static str, String)>, Errno> {
        count(&self.counters.xattr);
        if !self.xattrs {
            return Err(Errno::ENOSYS);
        }
        self.view.attributes(id).map_err(|error| self.refuse(&error))
    }
}

/// Blocks told to `df`: at least one, as some tools take a file system of none for a broken one.
pub(super) fn blocks(sums: &Statfs) -> u64 {
    sums.bytes.div_ceil(u64::from(BLOCK_BYTES)).max(1)
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Folder => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Link => FileType::Symlink,
    }
}

/// What stands for a file that is gone, for the one who tells that it is.
fn gone_file() -> FileAttr {
    FileAttr { ino: INodeNo(GONE_NODE), perm: 0o444, nlink: 1, ..absent() }
}

/// "No such name", to be remembered like any answer.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
