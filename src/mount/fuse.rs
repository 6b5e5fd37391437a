//! Carries the kernel's requests to [`Answers`] and what they say back, through the device: nothing but translation.
//!
//! Invariant: zero-message mode. `open` and `opendir` answer ENOSYS, so the kernel never sends them again and keeps what it has read;
//! lifetimes are a day; freshness comes from notifications alone, and never from a thread that answers requests: the kernel may
//! hold a lock that the notification needs until that very thread has answered. Where long files are read from copies
//! (`through`), `open` is answered each time instead, which the kernel wants for all files or for none.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answers::{Answers, BLOCK_BYTES, LIFETIME, Line, Shown, blocks};
use super::catalog::Catalog;
use super::counters::count;
use super::node::NodeId;
use super::queue::{Ended, Latch};
use super::view::NodeKind;

/// Largest request: 1 MiB.
pub(super) const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way in the background.
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    /// Where an answer of bytes is put together, kept for the next: memory that is taken anew must be cleared first.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The file system that the kernel talks to.
pub(super) struct ViewFs<C> {
    pub(super) answers: Arc<Answers<C>>,
    /// Set if the kernel offers to send its requests through rings, where that is wanted.
    rings: Option<Arc<AtomicBool>>,
    /// Set once, when the kernel has let go of the mount.
    end: Arc<Latch>,
}

impl<C> ViewFs<C> {
    /// And what is set when it is over. `rings` is set if the kernel agrees; then it waits for them.
    pub(super) fn new(answers: &Arc<Answers<C>>, rings: Option<Arc<AtomicBool>>) -> (ViewFs<C>, Arc<Latch>) {
        let end = Arc::new(Latch::default());
        (ViewFs { answers: Arc::clone(answers), rings, end: Arc::clone(&end) }, end)
    }
}

fn answer_entry(answer: Result<Shown, Errno>, reply: ReplyEntry) {
    match answer {
        Ok(Shown { lifetime, attr }) => reply.entry(&lifetime, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

/// Whoever asks with no room wants to know how much is needed.
fn answer_xattr(answer: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    let bytes = match answer {
        Ok(bytes) => bytes,
        Err(errno) => return reply.error(errno),
    };
    match (u32::try_from(bytes.len()), size) {
        (Ok(len), 0) => reply.size(len),
        (Ok(len), size) if len <= size => reply.data(&bytes),
        _ => reply.error(Errno::ERANGE),
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
        if let Some(agreed) = &self.rings {
            agreed.store(config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok(), Ordering::SeqCst);
        }
        if let Some(through) = &self.answers.through {
            through.negotiate(config);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        Ok(())
    }

    fn destroy(&mut self) {
        self.end.set(Ended::Unmounted);
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.answers.lookup(req.pid(), NodeId(parent.0), name), reply);
    }

    fn forget(&self, _req: &Request, _node: INodeNo, _lookups: u64) {
        count(&self.answers.counters.forget);
    }

    fn getattr(&self, _req: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.answers.attr(NodeId(node.0)) {
            Ok(attr) => reply.attr(&LIFETIME, &attr),
            Err(errno) => reply.error(errno),
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
        match self.answers.resize(req.pid(), NodeId(node.0), size) {
            Ok(attr) => reply.attr(&LIFETIME, &attr),
            Err(errno) => reply.error(errno),
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
        answer_entry(self.answers.make(req.pid(), NodeId(parent.0), name, NodeKind::File), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        answer_entry(self.answers.make(req.pid(), NodeId(parent.0), name, NodeKind::Folder), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.answers.remove(req.pid(), NodeId(parent.0), name) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
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
        match self.answers.link_target(NodeId(node.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        count(&self.answers.counters.open);
        match self.answers.through.as_ref().filter(|through| through.is_allowed(&reply)) {
            Some(through) => through.open(&self.answers.view, NodeId(node.0), flags, reply),
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
        if let Some(through) = &self.answers.through {
            through.release(NodeId(node.0), handle);
        }
        // Whoever sees it counted sees what was let go.
        count(&self.answers.counters.release);
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
        let size = size.min(MAX_REQUEST_BYTES) as usize;
        ROOM.with_borrow_mut(|room| {
            if room.len() < size {
                room.resize(size, 0);
            }
            match self.answers.bytes(NodeId(node.0), offset, &mut room[..size]) {
                Ok(len) => reply.data(&room[..len]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn flush(&self, _req: &Request, _node: INodeNo, _handle: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        count(&self.answers.counters.other);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        count(&self.answers.counters.opendir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, node: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        count(&self.answers.counters.readdir);
        let filled = self.answers.list(NodeId(node.0), offset, |Line { name, offset, shown }| {
            reply.add(shown.attr.ino, offset, shown.attr.kind, name)
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
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
        count(&self.answers.counters.readdirplus);
        let filled = self.answers.list(NodeId(node.0), offset, |Line { name, offset, shown }| {
            reply.add(shown.attr.ino, offset, name, &shown.lifetime, &shown.attr, Generation(0))
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.answers.sums() {
            Ok(sums) => {
                reply.statfs(blocks(&sums), 0, 0, sums.files, 0, BLOCK_BYTES, sums.max_name_bytes, BLOCK_BYTES);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_xattr(self.answers.xattr(NodeId(node.0), name), size, reply);
    }

    fn listxattr(&self, _req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(self.answers.xattr_names(NodeId(node.0)), size, reply);
    }

    fn access(&self, _req: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        count(&self.answers.counters.other);
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
        count(&self.answers.counters.other);
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
        count(&self.answers.counters.other);
        reply.error(Errno::ENOTTY);
    }
}
