//! The lock of a project: one process at a time writes with it.
//!
//! Invariant: it ends with its holder, however that ends; who only looks never takes it. A holder that was killed is waited for,
//! as it may be a while until the kernel has closed what it had open.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::error::NodeError;
use super::open::ProjectDirs;

/// Between two tries to take a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The lock file could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("open the project's lock: {source}")]
struct LockError {
    source: std::io::Error,
}

/// The project's lock; ends with its holder, however that ends. Holds the process id, and 0 after an end in good order.
pub struct ProjectLock {
    file: File,
    /// The holder before did not end in good order, and nobody looked into it since.
    left_open: AtomicBool,
}

impl ProjectLock {
    /// True, once, if the holder before did not end in good order.
    pub(super) fn was_left_open(&self) -> bool {
        self.left_open.swap(false, Ordering::Relaxed)
    }

    /// False if another file stands at `path`, or none: whoever took the folder away left its holder a lock on nothing.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(held) = self.file.metadata() else { return true };
        match std::fs::symlink_metadata(path) {
            // Not every file system keeps its numbers: a file with another number that names this holder is the same, unless its lock
            // is free: then it is a copy of what this holder wrote.
            Ok(there) => (there.dev(), there.ino()) == (held.dev(), held.ino()) || is_held_by_this_process(path),
            // What cannot be looked at is not gone.
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Written in place and always as long: a lock file is never torn, and truncating it would cost a journal entry.
    fn write_holder(&self, holder: u32) -> std::io::Result<()> {
        self.file.write_all_at(format!("{holder:>10}\n").as_bytes(), 0)
    }
}

impl Drop for ProjectLock {
    fn drop(&mut self) {
        // If it cannot be said that this end was in good order, the next holder looks more closely.
        let _ = self.write_holder(0);
    }
}

/// The process id in a lock file.
pub(super) fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn is_held_by_this_process(path: &Path) -> bool {
    let is_held = |mut file: File| {
        read_holder(&mut file) == Some(std::process::id()) && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    };
    File::open(path).is_ok_and(is_held)
}

/// Takes the lock; for a command that holds it, or a daemon that is dying, waits no longer than `patience`. A daemon that listens stays.
pub(super) fn take_lock(dirs: &ProjectDirs, patience: Option<Instant>) -> Result<ProjectLock, NodeError> {
    let failed = |source: std::io::Error| NodeError::of_machine(&LockError { source });
    let path = dirs.lock();
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    let mut taken = file.try_lock();
    let may_wait = || patience.is_some_and(|until| Instant::now() < until);
    let stays =
        || dirs.has_daemon() && !File::open(&path).is_ok_and(|mut file| read_holder(&mut file).is_some_and(is_ending));
    while matches!(taken, Err(TryLockError::WouldBlock)) && may_wait() && !stays() {
        std::thread::sleep(LOCK_PAUSE);
        taken = file.try_lock();
    }
    match taken {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // A name is a courtesy; the message stands without it.
            let holder = read_holder(&mut file).filter(|holder| *holder != 0);
            let named = holder.map_or(String::new(), |holder| format!(" (process {holder})"));
            let message = format!("another larder already works in this project{named}");
            let end =
                holder.map_or("stop that one".to_owned(), |holder| format!("`kill {holder}` ends it in good order"));
            return Err(NodeError::user(message, format!("`larder status` works beside it; for this, {end} first")));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let is_new = file.metadata().map_err(failed)?.len() == 0;
    let left_open = !is_new && read_holder(&mut file) != Some(0);
    let lock = ProjectLock { file, left_open: AtomicBool::new(left_open) };
    lock.write_holder(std::process::id()).map_err(failed)?;
    Ok(lock)
}

/// True if a process was killed and only has to be cleared away. Its socket may take connections until the kernel closes it.
fn is_ending(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| tells_of_an_end(&status))
}

fn tells_of_an_end(status: &str) -> bool {
    // Signal 9 is bit 8.
    let is_kill = |mask: &str| u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & (1 << 8) != 0);
    status.lines().filter_map(|line| line.split_once(':')).any(|(name, value)| match name {
        "State" => value.trim_start().starts_with(['Z', 'X']),
        "SigPnd" | "ShdPnd" => is_kill(value.trim()),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::AtomicBool;

    use super::{LockError, ProjectLock, tells_of_an_end};
    use crate::node::{Kind, NodeError};

    #[test]
    fn a_lock_on_a_disk_that_may_only_be_read_is_the_users_to_mend() {
        let source = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);

        let error = NodeError::of_machine(&LockError { source });

        assert_eq!(error.kind, Kind::User);
        assert!(error.hint.is_some_and(|hint| hint.contains("can be written to")));
    }

    #[test]
    fn a_copy_that_names_this_process_is_not_the_lock_that_it_holds() {
        let temp = tempfile::tempdir().expect("a folder");
        let (path, aside) = (temp.path().join("lock"), temp.path().join("aside"));
        let file = File::options().read(true).write(true).create_new(true).open(&path).expect("made");
        file.try_lock().expect("nobody holds it");
        let lock = ProjectLock { file, left_open: AtomicBool::new(false) };
        lock.write_holder(std::process::id()).expect("written");
        assert!(lock.is_at(&path));

        for is_gone in [false, true] {
            std::fs::copy(&path, &aside).expect("copied");
            if is_gone {
                std::fs::remove_file(&path).expect("removed");
            }
            std::fs::rename(&aside, &path).expect("put back");
            assert!(!lock.is_at(&path));
        }
    }

    #[test]
    fn a_process_that_was_killed_is_ending_before_it_is_gone() {
        let status = |state: &str, shared: &str| {
            format!(
                "Name:\tlarder\nState:\t{state}\nThreads:\t2\nSigPnd:\t0000000000000000\nShdPnd:\t{shared}\nSigBlk:\t0000000000000100\n"
            )
        };

        assert!(tells_of_an_end(&status("D (disk sleep)", "0000000000000100")));
        assert!(tells_of_an_end(&status("Z (zombie)", "0000000000000000")));
        for state in ["S (sleeping)", "T (stopped)", "D (disk sleep)", "R (running)"] {
            assert!(!tells_of_an_end(&status(state, "0000000000004000")), "SIGTERM is no end yet: {state}");
        }
        assert!(!tells_of_an_end(""));
    }
}
