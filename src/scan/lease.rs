//! Asks whether somebody has a file open for writing, without disturbing them; and holds a file while nobody else has it.
//!
//! A read lease is granted only if nobody writes; where leases are not ours to take (another owner's file, network file
//! systems) `/proc` is searched. That answer is of its moment: it proves nothing about the next. A write lease ([`Alone`])
//! is granted only if nobody else has the file open at all, and lasts: who opens it meanwhile waits until it is given up.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use larder_patterns::RelPath;
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, makedev, statx};
use rustix::io::Errno;

use super::entry::Stat;
use super::error::ScanError;
use super::root::{Root, refused};

/// Most processes that the search of `/proc` looks at.
const MAX_PROCESSES: usize = 20_000;
/// Most handles that the search of `/proc` looks at.
const MAX_HANDLES: usize = 500_000;
/// Linux's `F_SETSIG`, the same on all architectures.
const F_SETSIG: libc::c_int = 10;
/// The access mode within the flags that `/proc` shows.
const ACCESS_MODE: u32 = 0o3;

/// Tells whether somebody (this process included) has the file open, or mapped, for writing.
///
/// Errors: as for a read; a file that is gone is [`ScanError::Gone`].
pub fn open_for_writing_elsewhere(root: &Root, path: &RelPath) -> Result<bool, ScanError> {
    let failed = |errno| refused("open", path, errno);
    // Looked at before it is opened: opening a FIFO or device has effects.
    match super::root::stat(root, path)? {
        Some((super::EntryKind::File { .. }, _)) => {}
        Some((super::EntryKind::Link, _)) => return Ok(false),
        None => return Err(ScanError::Gone { path: path.shown() }),
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = root.open_beneath(path.as_str(), flags).map_err(failed)?;
    is_written_elsewhere(file.as_fd()).map_err(failed)
}

/// The same of a file that is open for reading.
pub fn is_written_elsewhere(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    match lease(file) {
        Ok(()) => Ok(false),
        Err(Errno::AGAIN) => Ok(true),
        Err(_) => Ok(search_proc(&Stat::of(&rustix::fs::fstat(file)?))),
    }
}

/// Holds a file that nobody else has open, reader or writer, mapped or not; given up when dropped.
///
/// While it is held, whoever opens the file waits (with `O_NONBLOCK`: is told to try again), so it is held for one short
/// change and never across a sync. Who keeps it beyond `/proc/sys/fs/lease-break-time` loses it: ask [`Alone::is_undisturbed`].
#[derive(Debug)]
pub struct Alone<'f> {
    file: &'f File,
}

impl Alone<'_> {
    /// Takes the file if nobody else has it open. `None` too where leases are not ours to take: nothing is proven then.
    ///
    /// `file` must be open for writing.
    pub fn with(file: &File) -> Option<Alone<'_>> {
        take(file.as_fd(), libc::F_WRLCK).ok().map(|()| Alone { file })
    }

    /// True if nobody has asked for the file since it was taken.
    pub fn is_undisturbed(&self) -> bool {
        matches!(fcntl(self.file.as_fd(), libc::F_GETLEASE, 0), Ok(libc::F_WRLCK))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // It cannot fail for a handle that holds one; closing the file gives it up as well.
        let _ = fcntl(self.file.as_fd(), libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Takes a read lease and gives it back.
fn lease(file: BorrowedFd<'_>) -> Result<(), Errno> {
    take(file, libc::F_RDLCK)?;
    fcntl(file, libc::F_SETLEASE, libc::F_UNLCK).map(drop)
}

fn take(file: BorrowedFd<'_>, kind: libc::c_int) -> Result<(), Errno> {
    // Who opens the file within these microseconds makes the kernel signal us; the default SIGIO would end the process,
    // SIGURG is ignored by default.
    fcntl(file, F_SETSIG, libc::SIGURG)?;
    fcntl(file, libc::F_SETLEASE, kind).map(drop)
}

fn fcntl(file: BorrowedFd<'_>, command: libc::c_int, argument: libc::c_int) -> Result<libc::c_int, Errno> {
    // SAFETY: the handle is open for the whole call, and these commands take an integer and touch no memory.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer >= 0 {
        return Ok(answer);
    }
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    Err(Errno::from_raw_os_error(code))
}

/// Searches the handles of all processes that we may look into.
fn search_proc(stat: &Stat) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let is_process =
        |entry: &fs::DirEntry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
    let handles = processes
        .flatten()
        .filter(is_process)
        .take(MAX_PROCESSES)
        .filter_map(|process| fs::read_dir(process.path().join("fd")).ok())
        .flat_map(|handles| handles.flatten());
    handles.take(MAX_HANDLES).any(|handle| is_writer(&handle, stat))
}

/// True if a handle is open for writing on that very file.
///
/// The kernel's own notes are asked first and the file only if they fit, without contacting what holds it: other handles may lead
/// to file systems that answer nobody.
fn is_writer(handle: &fs::DirEntry, stat: &Stat) -> bool {
    let path = handle.path();
    let noted = Noted::of(&path);
    if !noted.is_some_and(|noted| noted.writes && noted.inode.is_none_or(|inode| inode == stat.inode)) {
        return false;
    }
    let flags = AtFlags::STATX_DONT_SYNC;
    statx(CWD, &path, flags, StatxFlags::INO).is_ok_and(|found| {
        (found.stx_ino, makedev(found.stx_dev_major, found.stx_dev_minor)) == (stat.inode, stat.device)
    })
}

/// What `/proc/N/fdinfo` says of a handle.
struct Noted {
    writes: bool,
    /// Told by Linux 5.14 and later.
    inode: Option<u64>,
}

impl Noted {
    fn of(handle: &Path) -> Option<Noted> {
        let process = handle.parent()?.parent()?;
        let facts = fs::read_to_string(process.join("fdinfo").join(handle.file_name()?)).ok()?;
        let value = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = u32::from_str_radix(value("flags:")?, 8).ok()?;
        Some(Noted { writes: flags & ACCESS_MODE != 0, inode: value("ino:").and_then(|inode| inode.parse().ok()) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;
    use crate::scan::scratch::Scratch;

    #[test]
    fn a_writer_is_noticed_by_lease_and_by_proc_and_a_reader_is_not() {
        let scratch = Scratch::new();
        scratch.write("data/a.md", "text");
        let path = scratch.path("data/a.md");
        let stat = super::super::stat(&scratch.root, &path).expect("stat").expect("present").1;
        let asked = || open_for_writing_elsewhere(&scratch.root, &path).expect("asks");

        assert!(!asked() && !search_proc(&stat));

        let reader = fs::File::open(scratch.at("data/a.md")).expect("opens");
        assert!(!asked() && !search_proc(&stat));

        let writer = OpenOptions::new().append(true).open(scratch.at("data/a.md")).expect("opens");
        assert!(asked() && search_proc(&stat));

        drop((reader, writer));
        assert!(!asked() && !search_proc(&stat));
    }

    #[test]
    fn handles_on_a_file_system_that_answers_nobody_are_passed_over() {
        let scratch = Scratch::new();
        scratch.write("data/a.md", "text");
        let stat = super::super::stat(&scratch.root, &scratch.path("data/a.md")).expect("stat").expect("present").1;
        let place = tempfile::tempdir().expect("a folder");
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            return println!("skipped: there is no /dev/fuse");
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no NUL");
        if mount("silent", place.path(), "fuse", MountFlags::empty(), Some(options.as_c_str())).is_err() {
            return println!("skipped: mounting is not permitted here");
        }
        let silent =
            rustix::fs::open(place.path(), OFlags::PATH, rustix::fs::Mode::empty()).expect("opens without asking");
        let (tell, told) = std::sync::mpsc::channel();

        let asking = std::thread::spawn(move || tell.send(search_proc(&stat)));
        let found = told.recv_timeout(std::time::Duration::from_secs(30));

        // Nobody waits any more once the device is closed.
        unmount(place.path(), UnmountFlags::DETACH).expect("unmounts");
        drop((device, silent));
        asking.join().expect("ends").ok();
        assert_eq!(found, Ok(false));
    }

    #[test]
    fn a_file_is_held_only_while_nobody_else_has_it_open() {
        let scratch = Scratch::new();
        scratch.write("data/a.log", "text");
        let open = || OpenOptions::new().read(true).append(true).open(scratch.at("data/a.log")).expect("opens");
        let ours = open();

        let reader = fs::File::open(scratch.at("data/a.log")).expect("opens");
        assert!(Alone::with(&ours).is_none());
        drop(reader);
        let writer = open();
        assert!(Alone::with(&ours).is_none());
        drop(writer);

        let alone = Alone::with(&ours).expect("nobody else has it");
        assert!(alone.is_undisturbed());
        // Who may not wait is told to try again; the holder learns of it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let asked = rustix::fs::open(scratch.at("data/a.log"), flags, rustix::fs::Mode::empty());
        assert_eq!(asked.err(), Some(Errno::AGAIN));
        assert!(!alone.is_undisturbed());
        drop(alone);
        fs::File::open(scratch.at("data/a.log")).expect("opens again");
    }

    #[test]
    fn a_file_that_is_gone_is_an_error_and_a_link_has_no_writer() {
        let scratch = Scratch::new();
        scratch.link("data/l", "x");

        let gone = open_for_writing_elsewhere(&scratch.root, &scratch.path("data/x"));
        assert!(matches!(gone, Err(ScanError::Gone { .. })));
        assert!(!open_for_writing_elsewhere(&scratch.root, &scratch.path("data/l")).expect("asks"));
    }
}
