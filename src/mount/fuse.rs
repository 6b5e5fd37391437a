//! Carries the kernel's requests to the [`View`] and its answers back: nothing but translation and error numbers.
//!
//! Invariant: zero-message mode. `open` and `opendir` answer ENOSYS, so the kernel never sends them again and keeps what it has read;
//! lifetimes are a day; freshness comes from notifications alone, and never from a thread that answers requests: the kernel may
//! hold a lock that the notification needs until that very thread has answered. Where long files are read from copies
//! (`through`), `open` is answered each time instead, which the kernel wants for all files or for none.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::catalog::Catalog;
use super::counters::{Counters, count};
use super::listing::Entry;
use super::node::NodeId;
use super::replay::{Doing, Replayer};
use super::scout::Scout;
use super::session::Teller;
use super::through::Through;
use super::view::{Attr, Node, NodeKind, View, ViewError};

/// How long the kernel may keep an answer; whatever changes earlier is notified.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The same for a name that means something else as time goes by.
const MOMENT: Duration = Duration::from_secs(1);
/// Sentences that are not said again while they are among the last that were.
const MAX_TOLD: usize = 64;
/// A number that the view never makes.
const GONE_NODE: u64 = 1 << 63;
/// Block size told to `df` and `stat`.
const BLOCK_BYTES: u32 = 4096;
/// Largest request: 1 MiB.
const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way in the background.
const MAX_BACKGROUND: u16 = 64;
/// Lines asked of the view at once; a reply that has room for more asks again.
const LISTING_LINES: usize = 96;

/// Who owns what is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The file system that the kernel talks to.
pub(super) struct ViewFs<C> {
    pub(super) view: Arc<View<C>>,
    pub(super) counters: Arc<Counters>,
    pub(super) owner: Owner,
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
    /// Called once, when the kernel has let go of the mount.
    pub(super) on_end: Box<dyn Fn() + Send + Sync>,
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

impl<C> ViewFs<C> {
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

fn with_causes(error: &ViewError) -> String {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        sentence.push_str(&format!(": {error}"));
        cause = error.source();
    }
    sentence
}

impl<C: Catalog> ViewFs<C> {
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

    fn lifetime(&self, node: Node) -> Duration {
        if self.view.is_lasting(node.id) { LIFETIME } else { MOMENT }
    }

    /// Agrees that what is there already has just been made.
    fn make(&self, req: &Request, parent: INodeNo, name: &OsStr, kind: NodeKind, reply: ReplyEntry) {
        count(&self.counters.replayed);
        let id = NodeId(parent.0);
        if self.replayer.doing(req.pid(), id, name) != Doing::Making {
            return reply.error(Errno::EROFS);
        }
        match self.view.lookup(id, name) {
            Ok(node) if node.attr.kind == kind => reply.entry(&LIFETIME, &self.file_attr(node), Generation(0)),
            _ => reply.error(Errno::EROFS),
        }
    }
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

/// Whoever asks with no room wants to know how much is needed.
fn answer_xattr(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match (u32::try_from(bytes.len()), size) {
        (Ok(len), 0) => reply.size(len),
        (Ok(len), size) if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
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

impl<C: Catalog + 'static> Filesystem for ViewFs<C> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        for capability in wanted {
            // An older kernel without one of them is slower, not wrong.
            let _ = config.add_capabilities(capability);
        }
        if let Some(through) = &self.through {
            through.negotiate(config);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        Ok(())
    }

    fn destroy(&mut self) {
        (self.on_end)();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        count(&self.counters.lookup);
        match self.replayer.doing(req.pid(), NodeId(parent.0), name) {
            // It comes to be by what that thread does next.
            Doing::Making => return reply.error(Errno::ENOENT),
            Doing::Removing => return reply.entry(&Duration::ZERO, &gone_file(), Generation(0)),
            Doing::Nothing => {}
        }
        match self.view.lookup(NodeId(parent.0), name) {
            Ok(node) => reply.entry(&self.lifetime(node), &self.file_attr(node), Generation(0)),
            Err(ViewError::NotFound { is_lasting: true, .. }) => reply.entry(&LIFETIME, &absent(), Generation(0)),
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn forget(&self, _req: &Request, _node: INodeNo, _lookups: u64) {
        count(&self.counters.forget);
    }

    fn getattr(&self, _req: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        count(&self.counters.getattr);
        let id = NodeId(node.0);
        match self.view.attr(id) {
            Ok(attr) => reply.attr(&LIFETIME, &self.file_attr(Node { id, attr })),
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        count(&self.counters.replayed);
        let id = NodeId(node.0);
        match self.view.attr(id) {
            Ok(attr) if self.replayer.is_own(req.pid()) && size == Some(attr.size) => {
                reply.attr(&LIFETIME, &self.file_attr(Node { id, attr }));
            }
            _ => reply.error(Errno::EROFS),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.make(req, parent, name, NodeKind::File, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        self.make(req, parent, name, NodeKind::Folder, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        count(&self.counters.replayed);
        match self.replayer.doing(req.pid(), NodeId(parent.0), name) {
            Doing::Removing => reply.ok(),
            _ => reply.error(Errno::EROFS),
        }
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _req: &Request, _node: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn readlink(&self, _req: &Request, node: INodeNo, reply: ReplyData) {
        count(&self.counters.readlink);
        match self.view.read_link(NodeId(node.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn open(&self, _req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        count(&self.counters.open);
        match self.through.as_ref().filter(|through| through.is_allowed(&reply)) {
            Some(through) => through.open(&self.view, NodeId(node.0), flags, reply),
            None => reply.error(Errno::ENOSYS),
        }
    }

    fn release(
        &self,
        _req: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(through) = &self.through {
            through.release(NodeId(node.0), handle);
        }
        // Whoever sees it counted sees what was let go.
        count(&self.counters.release);
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        count(&self.counters.read);
        match self.view.read(NodeId(node.0), offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn flush(&self, _req: &Request, _node: INodeNo, _handle: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        count(&self.counters.other);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        count(&self.counters.opendir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, node: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        count(&self.counters.readdir);
        let filled = self.scout.list(NodeId(node.0), offset, LISTING_LINES, |entry| {
            let Entry { name, node, offset } = entry;
            reply.add(INodeNo(node.id.0), *offset, file_type(node.attr.kind), name)
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        count(&self.counters.readdirplus);
        let filled = self.scout.list(NodeId(node.0), offset, LISTING_LINES, |entry| {
            let Entry { name, node, offset } = entry;
            let (lifetime, attr) = (self.lifetime(*node), self.file_attr(*node));
            reply.add(INodeNo(node.id.0), *offset, name, &lifetime, &attr, Generation(0))
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn statfs(&self, _req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        count(&self.counters.statfs);
        match self.view.statfs() {
            Ok(sums) => {
                // At least one block: some tools take a file system of none for a broken one.
                let blocks = sums.bytes.div_ceil(u64::from(BLOCK_BYTES)).max(1);
                reply.statfs(blocks, 0, 0, sums.files, 0, BLOCK_BYTES, sums.max_name_bytes, BLOCK_BYTES);
            }
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        count(&self.counters.xattr);
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        match self.view.attributes(NodeId(node.0)) {
            Ok(attributes) => match attributes.into_iter().find(|(known, _)| name == *known) {
                Some((_, value)) => answer_xattr(value.as_bytes(), size, reply),
                None => reply.error(Errno::NO_XATTR),
            },
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn listxattr(&self, _req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        count(&self.counters.xattr);
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        match self.view.attributes(NodeId(node.0)) {
            Ok(attributes) => {
                let names: Vec<u8> = attributes.iter().flat_map(|(name, _)| name.bytes().chain([0])).collect();
                answer_xattr(&names, size, reply);
            }
            Err(error) => reply.error(self.refuse(&error)),
        }
    }

    fn access(&self, _req: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        count(&self.counters.other);
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _req: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        count(&self.counters.other);
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_bytes: u32,
        reply: fuser::ReplyIoctl,
    ) {
        count(&self.counters.other);
        reply.error(Errno::ENOTTY);
    }
}
