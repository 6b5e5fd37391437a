//! How an artifact gets its name in a folder: written elsewhere, synced, then named at one stroke.
//!
//! Invariant: of all writers on one file system one gets a name, and what stands under it is whole and synced before it can be
//! seen. A process that dies leaves at most a staged file, which file syncers do not carry and which is swept a day later.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::{Put, TransportError, TransportErrorKind};
use super::{FolderTransport, explain};

/// Where files are written before they get their names.
const STAGING: &str = ".larder-tmp";
/// Begins the names of staged files: Syncthing and Dropbox leave such names alone.
const STAGED_PREFIX: &str = "~syncthing~larder-";
const STAGED_SUFFIX: &str = ".tmp";
/// Staged files older than this were left by a process that died, in seconds.
const STALE_SECONDS: i64 = 24 * 3600;
/// Staged files looked at for a sweep.
const MAX_SWEPT: usize = 1000;
const COMPARE_BYTES: usize = 64 << 10;

/// How a name is taken so that no other is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Naming {
    /// `renameat2` with `RENAME_NOREPLACE`.
    Rename,
    /// A second name, then the first is removed: NFS, older kernels.
    Link,
    /// Looked at and renamed under a lock: FAT and file systems in user space that know neither.
    Locked,
}

impl Naming {
    const ALL: &'static [Naming] = &[Naming::Rename, Naming::Link, Naming::Locked];
}

/// What a visitor keeps for its puts.
pub(super) struct Publisher {
    serial: AtomicU64,
    marked: AtomicBool,
    swept: AtomicBool,
    namings: &'static [Naming],
}

impl Publisher {
    pub fn new() -> Publisher {
        Publisher {
            serial: AtomicU64::new(0),
            marked: AtomicBool::new(false),
            swept: AtomicBool::new(false),
            namings: Naming::ALL,
        }
    }

    /// Behaves as on a file system that knows only these.
    #[cfg(test)]
    pub fn with(namings: &'static [Naming]) -> Publisher {
        Publisher { namings, ..Publisher::new() }
    }

    /// True if the store is known to say that it is one.
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    pub fn set_marked(&self) {
        self.marked.store(true, Ordering::Relaxed);
    }
}

/// A file that has no name of its own yet; removed when dropped, unless it got one.
struct Staged<'a> {
    folder: BorrowedFd<'a>,
    name: String,
    file: File,
    gone: bool,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.gone {
            // What stays is swept later.
            let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}

impl FolderTransport {
    /// Gives `bytes` the name, or says what stands there. Durable when it returns.
    pub(super) fn publish(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let (folder, file_name) = name.rsplit_once('/').unwrap_or((".", name));
        if let Some(put) = self.compare(name, bytes)? {
            // Who put it may have died before its name was durable.
            self.sync_folder(name, &self.open_folder(name, folder)?)?;
            return Ok(put);
        }
        let folder = self.make_folder(name, folder)?;
        let staging = self.make_folder(name, STAGING)?;
        let mut staged = self.stage(name, staging.as_fd())?;
        staged.file.write_all(bytes).and_then(|()| staged.file.sync_data()).map_err(|e| explain("put", name, e))?;
        let written = self.take_name(&mut staged, folder.as_fd(), file_name).map_err(|e| failed(name)(e))?;
        drop(staged);
        self.sync_folder(name, &folder)?;
        match written {
            true => Ok(Put::Written),
            false => self.compare(name, bytes)?.ok_or_else(|| conflict(name, "something that is no file stands there")),
        }
    }

    /// Says whether the same bytes stand there; `None` if nothing does. Errors: Conflict.
    fn compare(&self, name: &str, bytes: &[u8]) -> Result<Option<Put>, TransportError> {
        let Some(mut file) = self.open_file("put", name)? else { return Ok(None) };
        let io = |error| explain("put", name, error);
        let same_size = file.metadata().map_err(io)?.len() == bytes.len() as u64;
        let mut rest = bytes;
        let mut buffer = vec![0; COMPARE_BYTES.min(bytes.len())];
        while same_size && !rest.is_empty() {
            let count = file.read(&mut buffer).map_err(io)?;
            match rest.split_at_checked(count) {
                Some((expected, behind)) if count > 0 && *expected == buffer[..count] => rest = behind,
                _ => break,
            }
        }
        let same = same_size && rest.is_empty();
        if same { Ok(Some(Put::AlreadyThere)) } else { Err(conflict(name, "other bytes stand there")) }
    }

    fn open_folder(&self, name: &str, folder: &str) -> Result<OwnedFd, TransportError> {
        self.root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed(name))
    }

    /// Opens a folder of the store; what is missing of it is made, durably.
    fn make_folder(&self, name: &str, folder: &str) -> Result<OwnedFd, TransportError> {
        match self.root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(conflict(name, "no folder stands where one is needed")),
            opened => return opened.map_err(failed(name)),
        }
        let (parent, last) = folder.rsplit_once('/').unwrap_or((".", folder));
        let parent = self.make_folder(name, parent)?;
        // Who may read what the folder holds is the folder's owner's word: the mode mask decides.
        match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o777)) {
            Ok(()) => self.sync_folder(name, &parent)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(name)(errno)),
        }
        self.open_folder(name, folder)
    }

    fn sync_folder(&self, name: &str, folder: &OwnedFd) -> Result<(), TransportError> {
        match rustix::fs::fsync(folder) {
            // Some network and user-space file systems cannot sync a folder: there is nothing more to be had.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF | Errno::ISDIR) => Ok(()),
            outcome => outcome.map_err(failed(name)),
        }
    }

    fn stage<'a>(&self, name: &str, staging: BorrowedFd<'a>) -> Result<Staged<'a>, TransportError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let serial = self.publisher.serial.fetch_add(1, Ordering::Relaxed);
            let staged = format!("{STAGED_PREFIX}{}-{serial}{STAGED_SUFFIX}", std::process::id());
            match rustix::fs::openat(staging, &staged, flags, Mode::from_raw_mode(0o666)) {
                Ok(handle) => {
                    let staged = Staged { folder: staging, name: staged, file: File::from(handle), gone: false };
                    if !self.publisher.swept.swap(true, Ordering::Relaxed) {
                        sweep(&staged);
                    }
                    return Ok(staged);
                }
                // Another visitor's, or left over from a process that had the same number: take the next.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(name)(errno)),
            }
        }
    }

    /// Gives a staged file its name. False if the name is taken.
    fn take_name(&self, staged: &mut Staged, folder: BorrowedFd, name: &str) -> Result<bool, Errno> {
        let mut lacking = Errno::OPNOTSUPP;
        for naming in self.publisher.namings {
            let outcome = match naming {
                Naming::Rename => {
                    rustix::fs::renameat_with(staged.folder, &staged.name, folder, name, RenameFlags::NOREPLACE)
                }
                // The staged name goes when `staged` is dropped.
                Naming::Link => rustix::fs::linkat(staged.folder, &staged.name, folder, name, AtFlags::empty()),
                Naming::Locked => rename_locked(staged, folder, name),
            };
            match outcome {
                Ok(()) => {
                    staged.gone = *naming != Naming::Link;
                    return Ok(true);
                }
                Err(Errno::EXIST) => return Ok(false),
                Err(errno @ (Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM)) => lacking = errno,
                Err(errno) => return Err(errno),
            }
        }
        Err(lacking)
    }
}

/// Only writers of this kind can race here, and those wait for the lock.
fn rename_locked(staged: &Staged, folder: BorrowedFd, name: &str) -> Result<(), Errno> {
    // A lock of our own: one on a shared description would let another thread of this process through.
    let lock = rustix::fs::openat(staged.folder, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(staged.folder, &staged.name, folder, name),
        Err(errno) => Err(errno),
    }
}

/// Removes what writers that died left behind, by the store's own clock: that of the file just made. A courtesy.
fn sweep(fresh: &Staged) {
    let mtime = |name: &std::ffi::CStr| {
        rustix::fs::statat(fresh.folder, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_mtime).ok()
    };
    let Ok(now) = rustix::fs::fstat(&fresh.file) else { return };
    let opened = rustix::fs::openat(fresh.folder, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let Ok(entries) = opened.and_then(Dir::new) else { return };
    for entry in entries.take(MAX_SWEPT).flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_ok_and(|name| name.starts_with(STAGED_PREFIX) && name.ends_with(STAGED_SUFFIX));
        if ours && mtime(name).is_some_and(|made| now.st_mtime - made > STALE_SECONDS) {
            let _ = rustix::fs::unlinkat(fresh.folder, name, AtFlags::empty());
        }
    }
}

fn failed(name: &str) -> impl Fn(Errno) -> TransportError + '_ {
    move |errno| explain("put", name, errno.into())
}

fn conflict(name: &str, detail: &str) -> TransportError {
    TransportError::new(TransportErrorKind::Conflict, "put", name, detail)
}
