//! How an artifact gets its name in a folder: written elsewhere, synced, then named at one stroke.
//!
//! Invariant: of all writers on one file system one gets a name, and what stands under it is whole and synced before it can be
//! seen. Many artifacts are synced together: at most once for the files and twice for the folders, however many they are. A process
//! that dies leaves at most staged files, which file syncers do not carry and which are swept a day later.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::{Body, Put, TransportError, TransportErrorKind, unread};
use super::{FolderTransport, explain};
use crate::env::syncs_whole;

/// Where files are written before they get their names.
const STAGING: &str = ".larder-tmp";
/// Begins the names of staged files: Syncthing and Dropbox leave such names alone.
const STAGED_PREFIX: &str = "~syncthing~larder-";
const STAGED_SUFFIX: &str = ".tmp";
/// Begins the names of wrong bytes that were replaced; they stay until a purge.
const WRONG_PREFIX: &str = "~syncthing~wrong-larder-";
/// Staged files older than this were left by a process that died, in seconds.
const STALE_SECONDS: i64 = 24 * 3600;
/// Staged files looked at for a sweep.
const MAX_SWEPT: usize = 1000;
const COMPARE_BYTES: usize = 64 << 10;
const COPY_BYTES: usize = 256 << 10;
/// More folders than this are synced with all else on their file system.
const SYNCED_ALONE: usize = 2;

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
    batch: Mutex<Batch>,
}

/// What was put and waits for its name.
#[derive(Default)]
struct Batch {
    staging: Option<OwnedFd>,
    puts: Vec<Later>,
    /// Folders whose entries are not durable yet.
    dirty: BTreeSet<String>,
}

/// A staged file and the name it is to get.
struct Later {
    staged: String,
    name: String,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Some(staging) = &self.staging else { return };
        for later in &self.puts {
            // What stays is swept later.
            let _ = rustix::fs::unlinkat(staging, &later.staged, AtFlags::empty());
        }
    }
}

impl Publisher {
    pub fn new() -> Publisher {
        Publisher {
            serial: AtomicU64::new(0),
            marked: AtomicBool::new(false),
            swept: AtomicBool::new(false),
            namings: Naming::ALL,
            batch: Mutex::default(),
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

    fn batch(&self) -> MutexGuard<'_, Batch> {
        // A put that panicked left a staged file that nobody names; the others are whole.
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that has no name of its own yet; removed when dropped, unless it got one.
struct Staged<'a> {
    folder: BorrowedFd<'a>,
    name: String,
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
        let mut batch = Batch::default();
        let staged = self.stage_in(&mut batch, name, bytes)?;
        let mut is_named = false;
        self.name_batch(batch, |_| is_named = true)?;
        // Another writer may have been faster, with the same bytes.
        Ok(if is_named { staged } else { Put::AlreadyThere })
    }

    /// As `publish`, but named and durable only once `name_all` returns.
    pub(super) fn publish_later(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.stage_in(&mut self.publisher.batch(), name, bytes)
    }

    /// As `publish_later`, without holding all of it in memory unless it has to be compared with what stands there.
    pub(super) fn publish_from(&self, name: &str, body: Body) -> Result<Put, TransportError> {
        if self.open_file("put", name)?.is_some() {
            return self.publish_later(name, &body.into_bytes(name)?);
        }
        let batch = &mut self.publisher.batch();
        self.stage_new(batch, name, |file| copy(name, body, file))
    }

    /// Names what was put later, in that order, and makes all of it durable; tells each name that is new.
    ///
    /// After an error none, some or all of it has its name.
    pub(super) fn name_all(&self, tell: impl FnMut(&str)) -> Result<(), TransportError> {
        let batch = std::mem::take(&mut *self.publisher.batch());
        self.name_batch(batch, tell)
    }

    /// Adds a staged file to a batch, unless the same bytes have the name already.
    fn stage_in(&self, batch: &mut Batch, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        let (folder, _) = name.rsplit_once('/').unwrap_or((".", name));
        if let Some(put) = self.compare(name, bytes)? {
            // Who put it may have died before its name was durable.
            batch.dirty.insert(folder.to_owned());
            return Ok(put);
        }
        self.stage_new(batch, name, |file| file.write_all(bytes).map_err(|error| explain("put", name, error)))
    }

    /// Adds a staged file to a batch, filled by `write`. Nothing stands under its name.
    fn stage_new(
        &self,
        batch: &mut Batch,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), TransportError>,
    ) -> Result<Put, TransportError> {
        let (folder, _) = name.rsplit_once('/').unwrap_or((".", name));
        self.make_folder(name, folder, &mut batch.dirty)?;
        let staging = match batch.staging.take() {
            Some(staging) => staging,
            None => self.make_folder(name, STAGING, &mut batch.dirty)?,
        };
        let staging = batch.staging.insert(staging);
        let (mut staged, mut file) = self.stage(name, staging.as_fd())?;
        write(&mut file)?;
        staged.gone = true;
        batch.puts.push(Later { staged: staged.name.clone(), name: name.to_owned() });
        batch.dirty.insert(folder.to_owned());
        Ok(Put::Written)
    }

    fn name_batch(&self, mut batch: Batch, mut tell: impl FnMut(&str)) -> Result<(), TransportError> {
        if let Some(staging) = batch.staging.as_ref().filter(|_| !batch.puts.is_empty()) {
            self.sync_staged(staging, &batch.puts)?;
        }
        let mut puts = std::mem::take(&mut batch.puts).into_iter();
        let named = puts.by_ref().try_for_each(|later| {
            let Some(staging) = &batch.staging else { return Ok(()) };
            if self.name_one(staging, &later)? {
                tell(&later.name);
            }
            Ok(())
        });
        // What was not come to is removed with the batch.
        batch.puts = puts.collect();
        named?;
        self.sync_folders(&batch.dirty)
    }

    fn name_one(&self, staging: &OwnedFd, later: &Later) -> Result<bool, TransportError> {
        let name = &later.name;
        let (folder, file_name) = name.rsplit_once('/').unwrap_or((".", name));
        let folder = self.open_folder(name, folder)?;
        let mut staged = Staged { folder: staging.as_fd(), name: later.staged.clone(), gone: false };
        if self.take_name(&mut staged, folder.as_fd(), file_name).map_err(failed(name))? {
            return Ok(true);
        }
        let handle = rustix::fs::openat(staging, &later.staged, READ, Mode::empty()).map_err(failed(name))?;
        let mut bytes = Vec::new();
        File::from(handle).read_to_end(&mut bytes).map_err(|error| explain("put", name, error))?;
        self.compare(name, &bytes)?.map(|_| false).ok_or_else(|| conflict(name, NO_FILE))
    }

    /// One file by itself, several with all else on their file system.
    fn sync_staged(&self, staging: &OwnedFd, puts: &[Later]) -> Result<(), TransportError> {
        if puts.len() > 1 && syncs_whole(staging) {
            return rustix::fs::syncfs(staging).map_err(failed(STAGING));
        }
        puts.iter().try_for_each(|later| {
            let handle =
                rustix::fs::openat(staging, &later.staged, READ, Mode::empty()).map_err(failed(&later.name))?;
            rustix::fs::fdatasync(handle).map_err(failed(&later.name))
        })
    }

    fn sync_folders(&self, folders: &BTreeSet<String>) -> Result<(), TransportError> {
        let root = self.open_folder(STAGING, ".")?;
        if folders.len() > SYNCED_ALONE && syncs_whole(&root) {
            return rustix::fs::syncfs(&root).map_err(failed(STAGING));
        }
        folders.iter().try_for_each(|folder| self.sync_folder(folder, &self.open_folder(folder, folder)?))
    }

    /// Gives the name these bytes, whatever stands there; that is kept beside the staged files. Durable when it returns.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        let (folder, file_name) = name.rsplit_once('/').unwrap_or((".", name));
        let mut dirty = BTreeSet::from([folder.to_owned()]);
        let folder = self.make_folder(name, folder, &mut dirty)?;
        let staging = self.make_folder(name, STAGING, &mut dirty)?;
        let (mut staged, mut file) = self.stage(name, staging.as_fd())?;
        file.write_all(bytes).map_err(|error| explain("mend", name, error))?;
        file.sync_data().map_err(|error| explain("mend", name, error))?;
        let kept = format!("{WRONG_PREFIX}{}", staged.name.trim_start_matches(STAGED_PREFIX));
        let exchanged = match self.publisher.namings.first() {
            Some(Naming::Rename) => {
                let flags = RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(staged.folder, &staged.name, folder.as_fd(), file_name, flags)
            }
            _ => Err(Errno::NOSYS),
        };
        match exchanged {
            Ok(()) => {
                // What was there has the staged name now.
                rustix::fs::renameat(staged.folder, &staged.name, staged.folder, &kept).map_err(failed(name))?;
                staged.gone = true;
            }
            Err(Errno::NOENT) => self.name_staged(&mut staged, folder.as_fd(), name, file_name)?,
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                match rustix::fs::renameat(folder.as_fd(), file_name, staged.folder, &kept) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(failed(name)(errno)),
                }
                self.name_staged(&mut staged, folder.as_fd(), name, file_name)?;
            }
            Err(errno) => return Err(failed(name)(errno)),
        }
        drop(staged);
        self.sync_folders(&dirty)
    }

    /// Somebody else may have been faster, with the same bytes: whoever mends has proven them.
    fn name_staged(
        &self,
        staged: &mut Staged,
        folder: BorrowedFd,
        name: &str,
        file_name: &str,
    ) -> Result<(), TransportError> {
        self.take_name(staged, folder, file_name).map(drop).map_err(failed(name))
    }

    /// Takes away a file. Nothing there is no error.
    pub(super) fn remove_file(&self, name: &str) -> Result<(), TransportError> {
        let (folder, file_name) = name.rsplit_once('/').unwrap_or((".", name));
        let folder = match self.root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(name)(errno)),
        };
        match rustix::fs::unlinkat(&folder, file_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(name)(errno)),
        }
    }

    /// Removes wrong bytes that [`FolderTransport::replace`] kept.
    pub(super) fn remove_wrong(&self) -> Result<(), TransportError> {
        let staging = match self.root.open_beneath(STAGING, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(staging) => staging,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(STAGING)(errno)),
        };
        for entry in rustix::fs::Dir::read_from(&staging).map_err(failed(STAGING))? {
            let entry = entry.map_err(failed(STAGING))?;
            if entry.file_name().to_bytes().starts_with(WRONG_PREFIX.as_bytes()) {
                match rustix::fs::unlinkat(&staging, entry.file_name(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(failed(STAGING)(errno)),
                }
            }
        }
        Ok(())
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

    /// Opens a folder of the store; what is missing of it is made, and `dirty` names the folders that it was made in.
    fn make_folder(&self, name: &str, folder: &str, dirty: &mut BTreeSet<String>) -> Result<OwnedFd, TransportError> {
        match self.root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(conflict(name, "no folder stands where one is needed")),
            opened => return opened.map_err(failed(name)),
        }
        let (above, last) = folder.rsplit_once('/').unwrap_or((".", folder));
        let parent = self.make_folder(name, above, dirty)?;
        // Who may read what the folder holds is the folder's owner's word: the mode mask decides.
        match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o777)) {
            Ok(()) => drop(dirty.insert(above.to_owned())),
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

    /// Makes a file that has no name of its own yet.
    fn stage<'a>(&self, name: &str, staging: BorrowedFd<'a>) -> Result<(Staged<'a>, File), TransportError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let serial = self.publisher.serial.fetch_add(1, Ordering::Relaxed);
            let staged = format!("{STAGED_PREFIX}{}-{serial}{STAGED_SUFFIX}", std::process::id());
            match rustix::fs::openat(staging, &staged, flags, Mode::from_raw_mode(0o666)) {
                Ok(handle) => {
                    let staged = Staged { folder: staging, name: staged, gone: false };
                    let file = File::from(handle);
                    if !self.publisher.swept.swap(true, Ordering::Relaxed) {
                        sweep(staging, &file);
                    }
                    return Ok((staged, file));
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

/// Writes all of an artifact into a file; what it cannot give, or gives too much, is its own fault and not the place's.
fn copy(name: &str, mut body: Body, file: &mut File) -> Result<(), TransportError> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = body.size_bytes;
    loop {
        let count = body.reader.read(&mut buffer).map_err(|error| unread(name, error))?;
        left = left.checked_sub(count as u64).ok_or_else(|| unread(name, std::io::ErrorKind::InvalidData))?;
        if count == 0 {
            return if left == 0 { Ok(()) } else { Err(unread(name, std::io::ErrorKind::UnexpectedEof)) };
        }
        file.write_all(&buffer[..count]).map_err(|error| explain("put", name, error))?;
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
fn sweep(staging: BorrowedFd, fresh: &File) {
    let mtime = |name: &std::ffi::CStr| {
        rustix::fs::statat(staging, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_mtime).ok()
    };
    let Ok(now) = rustix::fs::fstat(fresh) else { return };
    let opened = rustix::fs::openat(staging, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let Ok(entries) = opened.and_then(Dir::new) else { return };
    for entry in entries.take(MAX_SWEPT).flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_ok_and(|name| name.starts_with(STAGED_PREFIX) && name.ends_with(STAGED_SUFFIX));
        if ours && mtime(name).is_some_and(|made| now.st_mtime - made > STALE_SECONDS) {
            let _ = rustix::fs::unlinkat(staging, name, AtFlags::empty());
        }
    }
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NO_FILE: &str = "something that is no file stands there";

fn failed(name: &str) -> impl Fn(Errno) -> TransportError + '_ {
    move |errno| explain("put", name, errno.into())
}

fn conflict(name: &str, detail: &str) -> TransportError {
    TransportError::new(TransportErrorKind::Conflict, "put", name, detail)
}
