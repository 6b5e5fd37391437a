//! The root of a project as one directory handle, and looks at single paths below it.
//!
//! Invariant: whatever a path's components are or become while we look, what is opened lies below the root, on the root's file
//! system, and no link was followed on the way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use larder_patterns::RelPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::entry::{EntryKind, Stat};
use super::error::{NotAFile, ScanError};

/// Names a folder for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// An opened project root.
///
/// The handle keeps naming the same folder when its path is moved, replaced or covered by a mount: [`Root::check_present`]
/// tells. Safe to share between threads.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    handle: OwnedFd,
    identity: Identity,
    mount: u64,
    lacks_openat2: AtomicBool,
}

impl Root {
    /// Opens the folder at `path`; links in the path itself are followed, it is the user's own word.
    ///
    /// Errors: [`ScanError::OpenRoot`].
    pub fn open(path: &Path) -> Result<Root, ScanError> {
        let failed = |source: std::io::Error| ScanError::OpenRoot { path: path.to_owned(), source };
        let absolute = std::path::absolute(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&absolute, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let (identity, mount) = place(handle.as_fd()).map_err(|errno| failed(errno.into()))?;
        Ok(Root { path: absolute, handle, identity, mount, lacks_openat2: AtomicBool::new(false) })
    }

    /// Returns the absolute path the root was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory handle.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Returns the root's device number.
    pub fn device(&self) -> u64 {
        self.identity.device
    }

    /// Returns what names this folder for as long as it exists.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Proves that the root's path still leads to this very folder.
    ///
    /// To be asked before anything is concluded from an absence. Errors: [`ScanError::RootGone`].
    pub fn check_present(&self) -> Result<(), ScanError> {
        let now = rustix::fs::stat(&self.path).ok();
        let present = now.is_some_and(|now| {
            let found = Identity { device: now.st_dev, inode: now.st_ino };
            found == self.identity && now.st_nlink > 0
        });
        if present { Ok(()) } else { Err(ScanError::RootGone { path: self.path.clone() }) }
    }

    /// Tells whether an opened folder lies on the root's file system and mount: what lies on another one is neither listed nor written.
    pub(crate) fn is_same_device(&self, folder: BorrowedFd<'_>) -> Result<bool, Errno> {
        let (identity, mount) = place(folder)?;
        Ok(identity.device == self.identity.device && mount == self.mount)
    }

    /// Opens a path below the root; the last component is not followed either (with `O_PATH`, a link is opened as itself).
    pub(crate) fn open_beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !self.lacks_openat2.load(Ordering::Relaxed) {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            match rustix::fs::openat2(&self.handle, path, flags, Mode::empty(), resolve) {
                // An old kernel, or a container's filter that knows no openat2.
                Err(Errno::NOSYS) => self.lacks_openat2.store(true, Ordering::Relaxed),
                // Such a filter too, unless it is the answer to NOATIME on somebody else's file.
                Err(Errno::PERM) if !flags.contains(OFlags::NOATIME) => {}
                outcome => return outcome,
            }
        }
        self.open_stepwise(path, flags)
    }

    /// Behaves as on a kernel without `openat2`.
    #[cfg(test)]
    pub(super) fn without_openat2(self) -> Root {
        self.lacks_openat2.store(true, Ordering::Relaxed);
        self
    }

    /// Opens component by component, each relative to its parent's handle.
    ///
    /// A mount on the last component goes unnoticed here; `openat2` would refuse it.
    fn open_stepwise(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (parent, name) = match path.rsplit_once('/') {
            None => return rustix::fs::openat(&self.handle, path, flags, Mode::empty()),
            Some(parts) => parts,
        };
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder: Option<OwnedFd> = None;
        for component in parent.split('/') {
            let above = folder.as_ref().map_or(self.handle.as_fd(), OwnedFd::as_fd);
            let opened = rustix::fs::openat(above, component, through, Mode::empty());
            let opened = opened.map_err(|errno| told_apart(above, component, errno))?;
            if !self.is_same_device(opened.as_fd())? {
                return Err(Errno::XDEV);
            }
            folder = Some(opened);
        }
        let folder = folder.expect("a parent has at least one component");
        rustix::fs::openat(&folder, name, flags, Mode::empty())
    }
}

/// `O_DIRECTORY | O_NOFOLLOW` answers ENOTDIR for a link and for a file; callers must tell these apart.
fn told_apart(folder: BorrowedFd<'_>, name: &str, errno: Errno) -> Errno {
    if errno != Errno::NOTDIR {
        return errno;
    }
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
        Ok(FileType::Symlink) => Errno::LOOP,
        _ => errno,
    }
}

/// Returns identity and mount of an opened folder; mount 0 where the kernel does not tell.
fn place(folder: BorrowedFd<'_>) -> Result<(Identity, u64), Errno> {
    let found = rustix::fs::statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let tells = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    let identity =
        Identity { device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino };
    Ok((identity, if tells { found.stx_mnt_id } else { 0 }))
}

/// What stands at a path, of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file or link.
    Entry(EntryKind, Stat),
    /// A folder.
    Folder,
    /// A FIFO, socket or device: never opened.
    Other(NotAFile),
}

/// Looks at one path without opening what stands there; none if nothing does.
///
/// Errors: [`ScanError::LinkedParent`] and [`ScanError::OtherDevice`] where the answer is unknown, which is not an absence.
pub fn node(root: &Root, path: &RelPath) -> Result<Option<Node>, ScanError> {
    let opened = match root.open_beneath(path.as_str(), OFlags::PATH) {
        Ok(opened) => opened,
        // A file where a folder was: nothing can stand below it.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(refused("stat", path, errno)),
    };
    let raw = rustix::fs::fstat(&opened).map_err(|errno| refused("stat", path, errno))?;
    Ok(Some(node_of(&Stat::of(&raw))))
}

/// Looks at one path; none if no file and no link stands there.
///
/// Errors: as [`node`]; [`ScanError::WrongKind`] for a FIFO, socket or device.
pub fn stat(root: &Root, path: &RelPath) -> Result<Option<(EntryKind, Stat)>, ScanError> {
    match node(root, path)? {
        None | Some(Node::Folder) => Ok(None),
        Some(Node::Entry(kind, stat)) => Ok(Some((kind, stat))),
        Some(Node::Other(found)) => Err(ScanError::WrongKind { path: path.shown(), found }),
    }
}

fn node_of(stat: &Stat) -> Node {
    match EntryKind::of(stat) {
        Some(kind) => Node::Entry(kind, *stat),
        None if stat.file_type() == FileType::Directory => Node::Folder,
        None => Node::Other(not_a_file(stat.file_type())),
    }
}

pub(super) fn not_a_file(file_type: FileType) -> NotAFile {
    match file_type {
        FileType::Directory => NotAFile::Folder,
        FileType::Fifo => NotAFile::Fifo,
        FileType::Socket => NotAFile::Socket,
        FileType::Symlink => NotAFile::Link,
        FileType::RegularFile => NotAFile::File,
        _ => NotAFile::Device,
    }
}

pub(super) fn refused(action: &'static str, path: &RelPath, errno: Errno) -> ScanError {
    let path = path.shown();
    match errno {
        Errno::NOENT | Errno::NOTDIR => ScanError::Gone { path },
        Errno::LOOP => ScanError::LinkedParent { path },
        Errno::XDEV => ScanError::OtherDevice { path },
        _ => ScanError::Io { action, path, source: errno.into() },
    }
}
