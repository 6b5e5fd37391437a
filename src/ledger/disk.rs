//! The few file operations that make an artifact durable, counted.
//!
//! Invariant: an artifact appears under its name only complete and synced, and a name that exists is never replaced, but
//! for damaged bytes by the good ones.
//! Every operation goes through `step`, so that a test can let the machine die between any two of them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};

use super::error::LedgerError;

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    move |source| LedgerError::Io { action, path: path.to_owned(), source }
}

/// When what is done must survive a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// When the call returns.
    Now,
    /// When the caller has synced the file system, which it does next.
    Later,
}

/// The file system, with a count of the syncs.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    syncs: AtomicU64,
    serial: AtomicU64,
    #[cfg(test)]
    pub(crate) crash: super::crash::Crash,
}

/// A file that has no name of its own yet.
#[derive(Debug)]
pub(crate) struct StagedFile {
    file: File,
    path: PathBuf,
}

impl Disk {
    /// How often something was synced so far.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    fn step(&self, action: &'static str, path: &Path) -> Result<(), LedgerError> {
        self.crash.step().map_err(io_error(action, path))
    }

    #[cfg(not(test))]
    fn step(&self, _action: &'static str, _path: &Path) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Makes the folder and its missing parents (0700), each durable; nothing if it is there.
    pub fn create_folder(&self, path: &Path) -> Result<(), LedgerError> {
        self.make_folder(path, Durability::Now)
    }

    /// Makes the folder and its missing parents (0700); nothing if it is there.
    pub fn make_folder(&self, path: &Path, durability: Durability) -> Result<(), LedgerError> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_folder(parent, durability)?;
            self.step("create folder", path)?;
            match DirBuilder::new().mode(0o700).create(path) {
                Ok(()) if durability == Durability::Now => self.sync_folder(parent)?,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("create folder", path)(error)),
            }
        }
        Ok(())
    }

    /// Opens a new file in the staging folder.
    pub fn stage(&self, staging: &Path) -> Result<StagedFile, LedgerError> {
        self.create_folder(staging)?;
        loop {
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            let path = staging.join(format!("{}-{serial}", std::process::id()));
            self.step("create", &path)?;
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(StagedFile { file, path }),
                // Left over from a process that had the same number: take the next.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("create", &path)(error)),
            }
        }
    }

    /// Appends to a staged file.
    pub fn write(&self, staged: &mut StagedFile, bytes: &[u8]) -> Result<(), LedgerError> {
        if let Err(error) = self.step("write", &staged.path) {
            // A machine that dies while writing leaves a part.
            let _ = staged.file.write_all(&bytes[..bytes.len() / 2]);
            return Err(error);
        }
        staged.file.write_all(bytes).map_err(io_error("write", &staged.path))
    }

    /// Lets the kernel begin to bring the last `len` bytes of a staged file to the disk: the sync at the end has less to wait for.
    pub fn begin_writing(&self, staged: &StagedFile, len: usize) {
        let end = staged.file.metadata().map_or(0, |metadata| metadata.len());
        let (from, len) = (end.saturating_sub(len as u64), NonZeroU64::new(len as u64));
        // Of pages that are not written yet this advice drops none, it starts writing them. Refused, the sync does it all.
        let _ = rustix::fs::fadvise(&staged.file, from, len, rustix::fs::Advice::DontNeed);
    }

    /// Makes the bytes of a staged file durable.
    pub fn sync_staged(&self, staged: &StagedFile) -> Result<(), LedgerError> {
        self.step("sync", &staged.path)?;
        staged.file.sync_data().map_err(io_error("sync", &staged.path))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`Disk::sync_everything`] can do what it says there.
    pub fn syncs_whole(&self, folder: &Path) -> bool {
        File::open(folder).is_ok_and(crate::env::syncs_whole)
    }

    /// Makes everything on the file system of `folder` durable.
    pub fn sync_everything(&self, folder: &Path) -> Result<(), LedgerError> {
        self.step("sync", folder)?;
        File::open(folder).and_then(|folder| sync_file_system(&folder)).map_err(io_error("sync", folder))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Gives a synced file its name. Returns false, and drops the file, if the name is taken.
    pub fn publish(&self, staged: StagedFile, path: &Path) -> Result<bool, LedgerError> {
        self.step("rename", path)?;
        let failed = match rustix::fs::renameat_with(CWD, &staged.path, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(error) => error,
        };
        let unsupported =
            matches!(failed, rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP);
        if unsupported && !path.try_exists().map_err(io_error("look for", path))? {
            // Only one process publishes at a time, so looking first is enough where the kernel cannot.
            fs::rename(&staged.path, path).map_err(io_error("rename", path))?;
            return Ok(true);
        }
        if unsupported || failed == rustix::io::Errno::EXIST {
            self.remove(&staged.path)?;
            return Ok(false);
        }
        Err(io_error("rename", path)(failed.into()))
    }

    /// Makes the names in a folder durable.
    pub fn sync_folder(&self, path: &Path) -> Result<(), LedgerError> {
        self.step("sync folder", path)?;
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync folder", path))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes a file that gets no name, as far as that can be done.
    pub fn discard(&self, staged: StagedFile) {
        let _ = self.remove(&staged.path);
    }

    /// Removes a file; nothing if it is not there.
    pub fn remove(&self, path: &Path) -> Result<(), LedgerError> {
        self.step("remove", path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Gives a file a second name, so that the first one may be replaced; a copy where there are no links.
    pub fn keep_aside(&self, from: &Path, to: &Path) -> Result<(), LedgerError> {
        self.step("keep", from)?;
        match fs::hard_link(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => fs::copy(from, to).map(drop),
            linked => linked,
        }
        .map_err(io_error("keep", from))
    }

    /// Puts a synced file in the place of one that is damaged, at one stroke: there is no moment without a file.
    pub fn replace_damaged(&self, staged: StagedFile, path: &Path) -> Result<(), LedgerError> {
        self.step("replace", path)?;
        fs::rename(&staged.path, path).map_err(io_error("replace", path))
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(file: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_file: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}
