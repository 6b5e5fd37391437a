//! The bytes of the kernel's questions and of the answers, as they lie in a ring's buffers (FUSE 7.42, little or big as the machine is).
//!
//! Invariant: nothing is read or written beyond the buffers, whatever the numbers in them say; what is not known is answered "not
//! implemented", what would change something "read-only". Structures are those of the kernel's `include/uapi/linux/fuse.h`; what the
//! device carries is read and written by the library, never here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType};

use super::answers::{Answers, BLOCK_BYTES, LIFETIME, Line, Shown, blocks};
use super::catalog::{Catalog, Tree};
use super::counters::count;
use super::node::{NodeId, Place};
use super::view::NodeKind;

/// What is asked, as far as all questions have it: `struct fuse_in_header`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    opcode: u32,
    /// Names the question when it is answered.
    pub(super) unique: u64,
    node: u64,
    uid: u32,
    asked_by: u32,
}

impl Head {
    pub(super) fn of(bytes: &[u8]) -> Head {
        Head {
            opcode: u32_at(bytes, 4),
            unique: u64_at(bytes, 8),
            node: u64_at(bytes, 16),
            uid: u32_at(bytes, 24),
            asked_by: u32_at(bytes, 32),
        }
    }

    /// True for a question that may take long to answer: many bytes, or names in a tree that is put together when it is asked for. Others
    /// should not wait behind it.
    pub(super) fn may_take_long(&self, op: &[u8]) -> bool {
        match self.opcode {
            op::READ => u32_at(op, 16) >= LONG_READ_BYTES,
            op::LOOKUP | op::READDIR | op::READDIRPLUS => !matches!(
                Place::of(NodeId(self.node)),
                Some(Place::Root | Place::Origins | Place::Dir(Tree::Merged | Tree::Origin(_), _)) | None
            ),
            _ => false,
        }
    }
}

/// From how many bytes on a read is a long one.
const LONG_READ_BYTES: u32 = 256 << 10;

mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const CREATE: u32 = 35;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
}

/// Set in `struct fuse_setattr_in` if the size is to change.
const SETS_SIZE: u32 = 1 << 3;

/// The number at a place; 0 if it would not be whole.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The same of eight bytes.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// A name, which ends before its NUL.
fn name_in(bytes: &[u8]) -> OsString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    OsString::from_vec(bytes[..end].to_vec())
}

/// Answers a question. `op` is what it has of its own, behind which `payload` begins with `sent` bytes: a name, mostly. The answer is written
/// over those; returned is its length, or the number of the error.
pub(super) fn answer<C: Catalog + 'static>(
    answers: &Answers<C>,
    head: &Head,
    op: &[u8],
    payload: &mut [u8],
    sent: usize,
) -> Result<usize, Errno> {
    let node = NodeId(head.node);
    let by = head.asked_by;
    let sent = &payload[..sent.min(payload.len())];
    // The kernel keeps others out already, unless it was told to let administrators in everywhere. What is asked for files that are open may be
    // asked by the kernel itself, for nobody.
    let is_for_open = matches!(head.opcode, op::READ | op::READDIR | op::READDIRPLUS | op::RELEASE);
    if !answers.allow_other && head.uid != answers.owner.uid && !is_for_open {
        return Err(Errno::EACCES);
    }
    match head.opcode {
        op::LOOKUP => {
            let shown = answers.lookup(by, node, &name_in(sent))?;
            Out::over(payload).entry(&shown).done()
        }
        op::GETATTR => {
            let attr = answers.attr(node)?;
            Out::over(payload).attr_out(&attr).done()
        }
        op::SETATTR => {
            let size = (u32_at(op, 0) & SETS_SIZE != 0).then(|| u64_at(op, 16));
            let attr = answers.resize(by, node, size)?;
            Out::over(payload).attr_out(&attr).done()
        }
        op::READLINK => {
            let target = answers.link_target(node)?;
            Out::over(payload).bytes(&target).done()
        }
        op::MKNOD | op::MKDIR => {
            let kind = if head.opcode == op::MKDIR { NodeKind::Folder } else { NodeKind::File };
            let shown = answers.make(by, node, &name_in(sent), kind)?;
            Out::over(payload).entry(&shown).done()
        }
        op::UNLINK => answers.remove(by, node, &name_in(sent)).map(|()| 0),
        op::READ => {
            let room = payload.len().min(u32_at(op, 16) as usize);
            answers.bytes(node, u64_at(op, 8), &mut payload[..room])
        }
        op::STATFS => {
            let sums = answers.sums()?;
            let out = Out::over(payload).u64(blocks(&sums)).u64(0).u64(0).u64(sums.files).u64(0);
            out.u32(BLOCK_BYTES).u32(sums.max_name_bytes).u32(BLOCK_BYTES).zeros(28).done()
        }
        op::GETXATTR => {
            let value = answers.xattr(node, &name_in(sent))?;
            xattr(&value, u32_at(op, 0), payload)
        }
        op::LISTXATTR => {
            let names = answers.xattr_names(node)?;
            xattr(&names, u32_at(op, 0), payload)
        }
        op::READDIR | op::READDIRPLUS => {
            let is_plus = head.opcode == op::READDIRPLUS;
            count(if is_plus { &answers.counters.readdirplus } else { &answers.counters.readdir });
            let room = payload.len().min(u32_at(op, 16) as usize);
            let mut lines = Lines { bytes: &mut payload[..room], len: 0, is_plus };
            answers.list(node, u64_at(op, 8), |line| lines.add(&line))?;
            Ok(lines.len)
        }
        op::OPEN => {
            count(&answers.counters.open);
            Err(Errno::ENOSYS)
        }
        op::OPENDIR => {
            count(&answers.counters.opendir);
            Err(Errno::ENOSYS)
        }
        op::RELEASE => {
            count(&answers.counters.release);
            Ok(0)
        }
        op::SYMLINK | op::RMDIR | op::RENAME | op::RENAME2 | op::LINK | op::WRITE | op::CREATE => Err(Errno::EROFS),
        op::IOCTL => {
            count(&answers.counters.other);
            Err(Errno::ENOTTY)
        }
        _ => {
            count(&answers.counters.other);
            Err(Errno::ENOSYS)
        }
    }
}

/// Whoever asks with no room wants to know how much is needed.
fn xattr(bytes: &[u8], room: u32, payload: &mut [u8]) -> Result<usize, Errno> {
    match (u32::try_from(bytes.len()), room) {
        (Ok(len), 0) => Out::over(payload).u32(len).u32(0).done(),
        (Ok(len), room) if len <= room => Out::over(payload).bytes(bytes).done(),
        _ => Err(Errno::ERANGE),
    }
}

/// Bytes of `struct fuse_dirent` before the name, and of `struct fuse_entry_out` before that.
const DIRENT_BYTES: usize = 24;
const ENTRY_BYTES: usize = 128;

/// A listing that is written until it is full.
struct Lines<'a> {
    bytes: &'a mut [u8],
    len: usize,
    is_plus: bool,
}

impl Lines<'_> {
    /// True if the line has no room any more.
    fn add(&mut self, line: &Line<'_>) -> bool {
        let name = OsStr::new(line.name).as_bytes();
        let entry_bytes = if self.is_plus { ENTRY_BYTES } else { 0 };
        let len = (entry_bytes + DIRENT_BYTES + name.len()).next_multiple_of(8);
        let Some(room) = self.bytes.get_mut(self.len..self.len + len) else { return true };
        let attr = &line.shown.attr;
        let mut out = Out::over(room);
        if self.is_plus {
            out = out.entry(&line.shown);
        }
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        out = out.u64(attr.ino.0).u64(line.offset).u32(name_len).u32(type_bits(attr.kind) >> 12).bytes(name);
        let padding = len - out.len;
        self.len += len;
        // What was counted has room.
        out.zeros(padding).done().is_err()
    }
}

fn type_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Directory => libc::S_IFDIR,
        FileType::Symlink => libc::S_IFLNK,
        _ => libc::S_IFREG,
    }
}

/// An answer that is written from the front of a buffer.
struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
    is_short: bool,
}

impl<'a> Out<'a> {
    fn over(bytes: &'a mut [u8]) -> Out<'a> {
        Out { bytes, len: 0, is_short: false }
    }

    /// The length; an error if there was not room for all.
    fn done(self) -> Result<usize, Errno> {
        if self.is_short { Err(Errno::EIO) } else { Ok(self.len) }
    }

    fn bytes(mut self, bytes: &[u8]) -> Out<'a> {
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => self.is_short = true,
        }
        self.len += bytes.len();
        self
    }

    fn u32(self, number: u32) -> Out<'a> {
        self.bytes(&number.to_ne_bytes())
    }

    fn u64(self, number: u64) -> Out<'a> {
        self.bytes(&number.to_ne_bytes())
    }

    fn zeros(self, len: usize) -> Out<'a> {
        (0..len).fold(self, |out, _| out.bytes(&[0]))
    }

    /// `struct fuse_entry_out`.
    fn entry(self, shown: &Shown) -> Out<'a> {
        let (seconds, nanos) = (shown.lifetime.as_secs(), shown.lifetime.subsec_nanos());
        let out = self.u64(shown.attr.ino.0).u64(0).u64(seconds).u64(seconds).u32(nanos).u32(nanos);
        out.attr(&shown.attr)
    }

    /// `struct fuse_attr_out`.
    fn attr_out(self, attr: &FileAttr) -> Out<'a> {
        self.u64(LIFETIME.as_secs()).u32(LIFETIME.subsec_nanos()).u32(0).attr(attr)
    }

    /// `struct fuse_attr`.
    fn attr(self, attr: &FileAttr) -> Out<'a> {
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let times = [since(attr.atime), since(attr.mtime), since(attr.ctime)];
        let out = self.u64(attr.ino.0).u64(attr.size).u64(attr.blocks);
        let out = times.iter().fold(out, |out, time| out.u64(time.as_secs()));
        let out = times.iter().fold(out, |out, time| out.u32(time.subsec_nanos()));
        let out = out.u32(type_bits(attr.kind) | u32::from(attr.perm)).u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        out.u32(attr.rdev).u32(attr.blksize).u32(attr.flags)
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
pub(super) mod tests;
