//! The process that is left when the one behind a view is killed: it ends the kernel's connection to it, and takes the dead view down.
//!
//! A pipe or a handle would not tell of that death in time: a thread that waits in the kernel for an answer of its own process keeps both
//! open, and waits for ever. So the thread that began this process does nothing but wait for it, which any kill ends, and the kernel
//! signals the end of that thread.
//! Invariant: it does nothing before its view's process was killed, and then ends that connection and takes down that mount, never another one
//! that has the number or the place by then. It holds nothing of the view but what can end its connection; no signal but
//! SIGKILL ends it; it sleeps until it is needed. Deliberately not here: who begins and ends it (`guard`).

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use super::place::{is_not_connected, unmount_path};

/// The word that makes a guardian of this program. Of no use to people.
pub const GUARDIAN_WORD: &str = "view-guardian";
/// What a list of processes calls it: not as the view's own process, so that who kills that by name does not kill both.
const NAME: &CStr = c"view-guardian";
/// What the kernel sends when the thread that began it has ended.
const DEATH: Signal = Signal::USR1;
/// What it is told is a path and a few numbers.
const MAX_CHARGE_BYTES: u64 = 16 << 10;
/// Ends what it is told: what comes without it is a piece.
const END: u8 = 0;
/// `STATX_MNT_ID_UNIQUE`: the number of a mount that no later one has again, from Linux 6.8 on.
const UNIQUE_MOUNT: u32 = 0x4000;
/// What it answers: it can end the connection by itself, or only take the dead view down.
pub(super) const CAN_ABORT: u8 = b'a';
const CAN_UNMOUNT: u8 = b'u';

/// Which mount it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// The number of the connection.
    device: u32,
    /// That of the mount, if it is one that never comes again.
    mount: Option<u64>,
}

impl Mark {
    /// That of what is mounted at `dir`. Nobody is asked: the kernel knows.
    pub(super) fn at(dir: &Path) -> io::Result<Mark> {
        Mark::of(&open_place(dir)?)
    }

    fn of(place: impl AsFd) -> io::Result<Mark> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let facts = rustix::fs::statx(place, "", flags, StatxFlags::from_bits_retain(UNIQUE_MOUNT))?;
        if facts.stx_dev_major != 0 {
            return Err(io::Error::other("a disk is there, and no view"));
        }
        let mount = (facts.stx_mask & UNIQUE_MOUNT != 0).then_some(facts.stx_mnt_id);
        Ok(Mark { device: facts.stx_dev_minor, mount })
    }
}

/// Without a question to whoever is behind it.
fn open_place(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, dir, flags, Mode::empty())?)
}

/// What a guardian guards.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Charge {
    /// The process behind the view.
    pub(super) process: i32,
    pub(super) mark: Mark,
    /// Its real path.
    pub(super) dir: PathBuf,
}

impl Charge {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mount = self.mark.mount.map_or("-".to_owned(), |mount| mount.to_string());
        let mut bytes = format!("{} {} {mount} ", self.process, self.mark.device).into_bytes();
        bytes.extend(self.dir.as_os_str().as_bytes());
        bytes.push(END);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Charge> {
        let (end, words) = bytes.split_last()?;
        if *end != END {
            return None;
        }
        let mut words = words.splitn(4, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok();
        let (process, device, mount) = (number()?.parse().ok()?, number()?.parse().ok()?, number()?);
        let mount = if mount == "-" { None } else { Some(mount.parse().ok()?) };
        let dir = PathBuf::from(OsString::from_vec(words.next()?.to_vec()));
        dir.is_absolute().then_some(Charge { process, mark: Mark { device, mount }, dir })
    }

    /// True while the process is there, or a part of it that waits in the kernel.
    fn is_alive(&self) -> bool {
        rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == self.process)
    }

    /// Returns when a thread of the process ended that this one belonged to: the one that began it first.
    fn wait_for_death(&self) {
        while next_signal() != Some((DEATH.as_raw(), self.process)) {}
    }

    fn end(&self, means: &Means) {
        if !means.abort() {
            // Each of its threads is told of until all of them are gone.
            while !means.is_by_force() && self.is_alive() {
                self.wait_for_death();
            }
        }
        // Whoever else took it down was faster.
        let _ = self.unmount(means);
    }

    /// True if what stands there is the dead view, and no other that was given its number again.
    fn is_at(&self, place: &OwnedFd) -> io::Result<bool> {
        let found = Mark::of(place)?;
        let is_same = || if self.mark.mount.is_some() { found.mount == self.mark.mount } else { is_dead(place) };
        Ok(found.device == self.mark.device && is_same())
    }

    fn unmount(&self, means: &Means) -> io::Result<()> {
        let place = open_place(&self.dir)?;
        if !self.is_at(&place)? {
            return Ok(());
        }
        // What the handle leads to, whatever has the path by now.
        let exactly = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
        let force = if means.is_by_force() { UnmountFlags::FORCE } else { UnmountFlags::empty() };
        match rustix::mount::unmount(exactly, UnmountFlags::DETACH | force) {
            Err(Errno::PERM) => {
                drop(place);
                unmount_path(&self.dir).map_err(io::Error::other)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// True for a view whose connection is over. Asks it, which nobody can whose connection is not over and whose process is gone.
fn is_dead(place: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(place).is_err_and(|errno| is_not_connected(&errno.into()))
}

/// How a connection can be ended.
enum Means {
    /// By the kernel's own file for it, which is of that connection for as long as it is open.
    File(File),
    /// With the unmount: root can.
    Force,
    /// Not at all; with the process's last thread it ends by itself.
    None,
}

impl Means {
    /// To be looked for while the connection is there.
    fn find(mark: Mark) -> Means {
        let file = File::options().write(true).open(format!("/sys/fs/fuse/connections/{}/abort", mark.device));
        match file {
            Ok(file) => Means::File(file),
            Err(_) if rustix::process::geteuid().is_root() && mark.mount.is_some() => Means::Force,
            Err(_) => Means::None,
        }
    }

    fn is_by_force(&self) -> bool {
        matches!(self, Means::Force)
    }

    fn answer(&self) -> u8 {
        if matches!(self, Means::None) { CAN_UNMOUNT } else { CAN_ABORT }
    }

    /// False if it was not ended.
    fn abort(&self) -> bool {
        match self {
            Means::File(file) => { file }.write_all(b"1").is_ok(),
            Means::Force | Means::None => false,
        }
    }
}

/// Is the guardian of the view that began this process, until it is killed or that view is taken down. For the very start of a program.
pub fn guard_view() -> ExitCode {
    match guard() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn guard() -> io::Result<()> {
    close_handles()?;
    let mut told = Vec::new();
    io::stdin().take(MAX_CHARGE_BYTES).read_to_end(&mut told)?;
    let charge = Charge::parse(&told).ok_or(io::ErrorKind::InvalidData)?;
    block_signals()?;
    rustix::process::set_parent_process_death_signal(Some(DEATH))?;
    rustix::thread::set_name(NAME)?;
    // Refused only to who leads a session already.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    let means = Means::find(charge.mark);
    // It may have died before the kernel was told whose end is of interest. Until it has heard the answer no thread of it waits for ever.
    if charge.is_alive() {
        let answered = io::stdout().write_all(&[means.answer()]).and_then(|()| io::stdout().flush());
        // Nobody reads it if nobody is there any more: then that is told next.
        drop(answered);
        silence()?;
        charge.wait_for_death();
    }
    charge.end(&means);
    Ok(())
}

/// A connection ends when nobody has a handle of it any more; and what else was left open is nothing to guard.
fn close_handles() -> io::Result<()> {
    // SAFETY: takes plain numbers; nothing of this program, which has just begun, owns a handle behind the first three.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whatever it says from here on, nobody reads.
fn silence() -> io::Result<()> {
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: takes two open handles; the first three are never closed.
        if unsafe { libc::dup2(nothing.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: a set is plain bits, which the call then fills in.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        all
    }
}

/// All that can be: a terminal's, a service manager's, anybody's.
fn block_signals() -> io::Result<()> {
    let all = all_signals();
    // SAFETY: a whole set, that outlives the call, and no place for the old one.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Sleeps until a signal comes; which one, and from which process. `None` if it was woken for nothing.
fn next_signal() -> Option<(i32, i32)> {
    let all = all_signals();
    // SAFETY: plain numbers, for which zero is a value.
    let mut said: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: both outlive the call.
    let signal = unsafe { libc::sigwaitinfo(&raw const all, &raw mut said) };
    // SAFETY: the kernel fills the sender in for what a process or the end of one sends; for other signals the number is of no use, but one.
    (signal > 0).then(|| (signal, unsafe { said.si_pid() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guardian_is_told_it_knows_and_a_piece_of_it_is_nothing() {
        let dir = PathBuf::from(OsString::from_vec(b"/mnt/a b\n\xff".to_vec()));
        for mount in [Some(u64::MAX), None] {
            let charge = Charge { process: 7, mark: Mark { device: 45, mount }, dir: dir.clone() };
            let told = charge.to_bytes();

            assert_eq!(Charge::parse(&told), Some(charge));
            for piece in 0..told.len() {
                assert_eq!(Charge::parse(&told[..piece]), None);
            }
        }
        assert_eq!(Charge::parse(b"7 45 - relative\0"), None);
        assert_eq!(Charge::parse(b"7 45 x /mnt\0"), None);
    }

    #[test]
    fn a_disk_is_no_view() {
        assert!(Mark::at(Path::new("/nowhere at all")).is_err());
        assert_eq!(Mark::at(Path::new("/proc")).expect("a mount"), Mark::at(Path::new("/proc")).expect("the same"));
    }
}
