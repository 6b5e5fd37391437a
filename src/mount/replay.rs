//! Changes from elsewhere, done again through our own mount, so that whoever watches a folder of it with inotify is told.
//!
//! The kernel reports what local processes do and nothing else. So, if asked to, the view is mounted writable and shown read-only, and one
//! thread does to it, through a writable copy of the mount that nobody else holds, what others did far away: makes, truncates to the same
//! size, unlinks. The view agrees to that thread alone and changes nothing.
//! Invariant: whoever is not that thread gets EROFS, from the kernel at the place itself and from the view behind it. An event that cannot
//! be made is lost, never the change. Needs root: only it can make the copy. Deliberately not here: what the kernel must forget.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, mount_remount, open_tree};

use super::event::{Event, Happened};
use super::node::NodeId;

/// What the replaying thread and those that answer the kernel agree on.
#[derive(Default)]
pub(super) struct Replayer {
    thread: AtomicU32,
    name: Mutex<Option<(Doing, NodeId, String)>>,
}

/// What is done to one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    /// Nothing.
    Nothing,
    /// It is made, and absent until it was.
    Making,
    /// It is removed, and there until it was.
    Removing,
}

impl Replayer {
    /// True for the thread that replays.
    pub(super) fn is_own(&self, asked_by: u32) -> bool {
        asked_by != 0 && self.thread.load(Ordering::SeqCst) == asked_by
    }

    /// What the thread that asks is doing to a name.
    pub(super) fn doing(&self, asked_by: u32, parent: NodeId, name: &OsStr) -> Doing {
        if !self.is_own(asked_by) {
            return Doing::Nothing;
        }
        let about = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        match &*about {
            Some((doing, folder, known)) if *folder == parent && name == known.as_str() => *doing,
            _ => Doing::Nothing,
        }
    }

    fn while_doing<T>(&self, doing: Doing, event: &Event, act: impl FnOnce() -> T) -> T {
        let about = |doing| *self.name.lock().unwrap_or_else(PoisonError::into_inner) = doing;
        about(Some((doing, event.parent, event.name.clone())));
        let outcome = act();
        about(None);
        outcome
    }
}

/// The number that requests of this thread carry.
fn own_thread() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// Shows a writable mount read-only at its place; what is below it stays writable for [`Stage`].
pub(super) fn show_read_only(dir: &Path) -> io::Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    Ok(mount_remount(dir, flags, "")?)
}

/// The writable copy of a mount, for a few events.
pub(super) struct Stage<'a> {
    replayer: &'a Replayer,
    root: OwnedFd,
}

impl<'a> Stage<'a> {
    /// Copies the mount at `dir` if it is still the one of `device`. To be dropped soon: it keeps the view alive.
    pub(super) fn open(replayer: &'a Replayer, dir: &Path, device: u64) -> io::Result<Stage<'a>> {
        replayer.thread.store(own_thread(), Ordering::SeqCst);
        let root = open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        if rustix::fs::fstat(&root)?.st_dev != device {
            return Err(Errno::STALE.into());
        }
        make_writable(&root)?;
        Ok(Stage { replayer, root })
    }

    /// What must be done while the kernel still holds what was there before: names that go and names that come.
    pub(super) fn before(&self, events: &[Event]) {
        for event in events {
            let path = event.path.as_str();
            let outcome = match event.happened {
                Happened::Deleted => self
                    .replayer
                    .while_doing(Doing::Removing, event, || rustix::fs::unlinkat(&self.root, path, AtFlags::empty())),
                Happened::Created => self.replayer.while_doing(Doing::Making, event, || {
                    let kind = rustix::fs::FileType::RegularFile;
                    rustix::fs::mknodat(&self.root, path, kind, Mode::from_raw_mode(0o444), 0)
                }),
                Happened::FolderCreated => self.replayer.while_doing(Doing::Making, event, || {
                    rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o555))
                }),
                Happened::Modified { .. } => continue,
            };
            note(path, outcome);
        }
    }

    /// What must be done when the kernel has forgotten what was there before.
    pub(super) fn after(&self, events: &[Event]) {
        for Event { happened, path, .. } in events {
            if let Happened::Modified { size } = happened {
                note(path, self.truncate(path, *size));
            }
        }
    }

    /// A path below the copy that any call takes: the kernel's own name for an open folder leads there.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{path}", self.root.as_raw_fd()))
    }

    fn truncate(&self, path: &str, size: u64) -> rustix::io::Result<()> {
        let whole = CString::new(self.path(path).into_os_string().into_encoded_bytes()).map_err(|_| Errno::INVAL)?;
        let size = libc::off_t::try_from(size).map_err(|_| Errno::FBIG)?;
        // SAFETY: a path that ends with NUL and outlives the call.
        match unsafe { libc::truncate(whole.as_ptr(), size) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}

/// A name that the kernel knows already, or whose folder it does not, cannot be told of; somebody who watches will look.
fn note(path: &str, outcome: rustix::io::Result<()>) {
    if let Err(errno) = outcome {
        tracing::debug!("tell watchers of {path}: {errno}");
    }
}

/// `struct mount_attr` of the kernel, in its first and so far only form.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;

fn make_writable(mount: &OwnedFd) -> io::Result<()> {
    let attr = MountAttr { attr_clr: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    // SAFETY: an open descriptor, an empty path that ends with NUL, and a structure of the size that is told, all outliving the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
