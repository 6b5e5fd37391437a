//! Kills a program just before its n-th call that changes the file system, counted over all its threads.
//!
//! A seccomp filter stops exactly those calls, the parent counts them by ptrace, and the one that is the n-th never
//! happens: the whole program dies by SIGKILL with the disk as the calls before left it. Between two such calls
//! nothing on disk changes, so all n are all the states a crash can leave. (Changes by mmap, SQLite's -shm, are not
//! counted: they mean nothing after a crash.) The same way something can be done beside a program just before it looks at
//! a file of some name, and a call can be answered with an error, as a disk does that is full or fails.
//! Deliberately not here: power cuts, which also lose what was not fsynced.

use std::io;
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use crate::support::COMMAND_DEADLINE;

/// How a traced run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By itself, with this exit code, after so many counted calls.
    ByItself {
        /// The exit code.
        code: i32,
        /// Calls that were counted.
        calls: u64,
    },
    /// It was killed before the call that was asked for.
    Killed,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Calls that change the file system whatever their arguments are.
const CHANGING: &[libc::c_long] = &[
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_copy_file_range,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
];

/// Runs `command` and kills it before its `kill_at`-th changing call (from 1); 0 lets it run and counts.
///
/// Errors: ptrace or seccomp is not permitted here.
pub fn run(command: Command, kill_at: u64) -> io::Result<Ended> {
    trace(command, changing(Renames::WithFlags), &mut nth(kill_at, Verdict::Kills))
}

/// The same on a file system that knows no flags of a rename.
pub fn run_without_flags(command: Command, kill_at: u64) -> io::Result<Ended> {
    trace(command, changing(Renames::WithoutFlags), &mut nth(kill_at, Verdict::Kills))
}

/// Runs `command`; its `fail_at`-th changing call does not happen and is answered with this error.
///
/// Errors: ptrace or seccomp is not permitted here, or no call can be answered on this machine.
pub fn run_failing(command: Command, fail_at: u64, errno: i32) -> io::Result<Ended> {
    trace(command, changing(Renames::WithFlags), &mut nth(fail_at, Verdict::Fails(errno)))
}

/// Runs `command`; those of these calls whose first argument is the handle of a file or folder that `refuses` are answered with this error.
///
/// Returns the exit code. Errors: as of [`run_failing`].
pub fn run_refusing(
    command: Command,
    calls: &[libc::c_long],
    errno: i32,
    refuses: impl Fn(&Path) -> bool,
) -> io::Result<i32> {
    let ended = trace(command, asking(calls), &mut |pid| {
        if handle_of(pid).is_ok_and(|path| refuses(&path)) { Verdict::Fails(errno) } else { Verdict::Goes }
    })?;
    match ended {
        Ended::ByItself { code, .. } => Ok(code),
        Ended::Killed => unreachable!("nothing asked for it"),
    }
}

/// Runs `command` and kills it before it first waits until this folder is on the disk.
///
/// Returns also what it had waited for, in order. Errors: ptrace or seccomp is not permitted here.
pub fn run_until_synced(command: Command, folder: Option<&Path>) -> io::Result<(Ended, Vec<PathBuf>)> {
    let mut synced = Vec::new();
    let ended = trace(command, asking(&[libc::SYS_fsync, libc::SYS_fdatasync]), &mut |pid| {
        let Ok(path) = handle_of(pid) else { return Verdict::Goes };
        if Some(path.as_path()) == folder {
            return Verdict::Kills;
        }
        synced.push(path);
        Verdict::Goes
    })?;
    Ok((ended, synced))
}

/// What becomes of a call at which the program was stopped.
#[derive(Clone, Copy)]
enum Verdict {
    /// It happens.
    Goes,
    /// The program dies before it.
    Kills,
    /// It does not happen, and this error is its answer.
    Fails(i32),
}

/// The verdict on the `n`-th call (from 1); the others go.
fn nth(n: u64, verdict: Verdict) -> impl FnMut(i32) -> Verdict {
    let mut calls = 0;
    move |_| {
        calls += 1;
        if calls == n { verdict } else { Verdict::Goes }
    }
}

/// What stands behind the handle that is a stopped call's first argument.
fn handle_of(pid: i32) -> io::Result<PathBuf> {
    let (_, arguments) = stopped_call(pid)?;
    std::fs::read_link(format!("/proc/{pid}/fd/{}", arguments[0]))
}

/// Runs `command` to its end and counts how often it waits for the disk. Errors: ptrace or seccomp is not permitted here.
pub fn syncs(command: Command) -> io::Result<u64> {
    match trace(command, asking(&[libc::SYS_fsync, libc::SYS_fdatasync]), &mut |_| Verdict::Goes)? {
        Ended::ByItself { code: 0, calls } => Ok(calls),
        ended => Err(io::Error::other(format!("the command failed: {ended:?}"))),
    }
}

/// What a program did to a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// It waited until a file, a folder or all of it was on the disk.
    Synced,
    /// It gave a file a name in an open folder.
    Named,
}

/// Runs `command` to its end and tells in order what it did to the file system with this device number; what it did several
/// times running stands once. Errors: ptrace or seccomp is not permitted here.
pub fn acts_on(command: Command, device: u64) -> io::Result<Vec<Act>> {
    const CALLS: &[libc::c_long] = &[libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs, libc::SYS_renameat2];
    let mut acts = Vec::new();
    trace(command, asking(CALLS), &mut |pid| {
        if let Ok((act, of)) = act_of(pid)
            && of == device
        {
            acts.push(act);
        }
        Verdict::Goes
    })?;
    acts.dedup();
    Ok(acts)
}

/// What a stopped call of these is about to do, and the device of the file or folder whose handle it was given.
fn act_of(pid: i32) -> io::Result<(Act, u64)> {
    let (number, arguments) = stopped_call(pid)?;
    let named = u64::try_from(libc::SYS_renameat2).expect("call numbers are small") == number;
    let (act, handle) = if named { (Act::Named, arguments[2]) } else { (Act::Synced, arguments[0]) };
    // Where a path stands for itself there is no handle, and so no such file.
    Ok((act, std::fs::metadata(format!("/proc/{pid}/fd/{handle}"))?.dev()))
}

/// Runs `command` to its end, and `act` just before its `nth` look (from 1) at a file or folder called `name`.
///
/// Returns the exit code and how many looks there were. Errors: ptrace or seccomp is not permitted here.
pub fn run_beside(command: Command, name: &str, nth: u64, act: &mut dyn FnMut()) -> io::Result<(i32, u64)> {
    let mut looks = 0;
    let ended = trace(command, asking(LOOKING), &mut |pid| {
        if looked_at(pid).is_ok_and(|path| path.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes())) {
            looks += 1;
            if looks == nth {
                act();
            }
        }
        Verdict::Goes
    })?;
    match ended {
        Ended::ByItself { code, .. } => Ok((code, looks)),
        Ended::Killed => unreachable!("nothing asked for it"),
    }
}

/// Calls that look at a path, which is the second argument of each.
const LOOKING: &[libc::c_long] = &[libc::SYS_openat, libc::SYS_openat2, libc::SYS_statx, libc::SYS_newfstatat];

/// The number and the arguments of a stopped call.
fn stopped_call(pid: i32) -> io::Result<(u64, [u64; 6])> {
    // SAFETY: plain data, for which zeros are a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: `pid` is stopped and ours, and the kernel writes at most `size` bytes.
    check(unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &raw mut info) })?;
    // SAFETY: the stop is a seccomp one, so this is the part of the union that was written.
    let call = unsafe { info.u.seccomp };
    Ok((call.nr, call.args))
}

/// The path that a stopped call is about.
fn looked_at(pid: i32) -> io::Result<Vec<u8>> {
    let (_, arguments) = stopped_call(pid)?;
    let mut path = vec![0; 4096];
    let read = std::fs::File::open(format!("/proc/{pid}/mem"))?.read_at(&mut path, arguments[1])?;
    path.truncate(path[..read].iter().position(|byte| *byte == 0).unwrap_or(read));
    Ok(path)
}

fn trace(
    mut command: Command,
    filter: Vec<libc::sock_filter>,
    on_call: &mut dyn FnMut(i32) -> Verdict,
) -> io::Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, on memory that was allocated before the fork.
    unsafe { command.pre_exec(move || trace_me(&filter)) };
    // `child` stays unwaited by std: this module waits by pid itself.
    let child = command.spawn()?;
    let leader = i32::try_from(child.id()).expect("a pid fits");
    let (finished, is_finished) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if is_finished.recv_timeout(COMMAND_DEADLINE) == Err(RecvTimeoutError::Timeout) {
            // SAFETY: plain system call; `follow` has not waited for the leader yet, so the pid is its own.
            unsafe { libc::kill(leader, libc::SIGKILL) };
        }
    });
    let ended = follow(leader, on_call);
    drop(finished);
    watchdog.join().expect("the watchdog does not panic");
    ended
}

fn trace_me(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short filter"),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: plain system calls; `program` and the filter it points to outlive them, and the kernel copies both.
    unsafe {
        check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0).into())
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ASK: u32 = libc::SECCOMP_RET_TRACE;

fn load(offset: usize) -> libc::sock_filter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, u32::try_from(offset).expect("small"))
}

fn result(value: u32) -> libc::sock_filter {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, value)
}

fn equal(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, then, otherwise, value)
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("call numbers are small")
}

// Every filter begins so: with the number of a call of this architecture.
fn opening() -> Vec<libc::sock_filter> {
    let architecture = load(offset_of!(libc::seccomp_data, arch));
    vec![architecture, equal(ARCHITECTURE, 1, 0), result(ALLOW), load(offset_of!(libc::seccomp_data, nr))]
}

// Asks the tracer about each of these calls.
fn asking(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let mut filter = opening();
    for call in calls {
        filter.extend([equal(number(*call), 0, 1), result(ASK)]);
    }
    filter.push(result(ALLOW));
    filter
}

/// What the file system knows of renames.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Renames {
    WithFlags,
    WithoutFlags,
}

// Asks the tracer about the calls that change something.
fn changing(renames: Renames) -> Vec<libc::sock_filter> {
    let (allow, ask) = (ALLOW, ASK);
    // The low half of an argument: both architectures are little-endian.
    let argument = |n: usize| offset_of!(libc::seccomp_data, args) + 8 * n;

    let mut filter = opening();
    if renames == Renames::WithoutFlags {
        // renameat2(.., flags)
        let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EINVAL).expect("small");
        filter.push(equal(number(libc::SYS_renameat2), 0, 4));
        filter.push(load(argument(4)));
        filter.push(equal(0, 1, 0));
        filter.extend([result(refused), result(ask)]);
    }
    // write(fd > 2): what is said on standard output or error changes nothing.
    filter.push(equal(number(libc::SYS_write), 0, 4));
    filter.push(load(argument(0)));
    filter.push(op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, 2));
    filter.extend([result(allow), result(ask)]);
    // openat(.., O_CREAT)
    let creates = u32::try_from(libc::O_CREAT).expect("a flag");
    filter.push(equal(number(libc::SYS_openat), 0, 4));
    filter.push(load(argument(2)));
    filter.push(op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, 0, creates));
    filter.extend([result(allow), result(ask)]);
    for call in CHANGING {
        filter.extend([equal(number(*call), 0, 1), result(ask)]);
    }
    filter.push(result(allow));
    filter
}

fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("BPF codes are small"), jt, jf, k }
}

const OPTIONS: i32 = libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_EXITKILL;

// Only this thread's own tracees are waited for, so that tests beside each other do not take each other's.
fn follow(leader: i32, on_call: &mut dyn FnMut(i32) -> Verdict) -> io::Result<Ended> {
    let (mut calls, mut is_set_up, mut is_killed) = (0, false, false);
    loop {
        let mut status = 0;
        // SAFETY: writes one integer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid == -1 {
            return Err(io::Error::last_os_error());
        }
        if !libc::WIFSTOPPED(status) {
            if pid != leader {
                continue;
            }
            let ended = if is_killed || libc::WIFSIGNALED(status) {
                assert!(is_killed, "died by signal {}, perhaps after {COMMAND_DEADLINE:?}", libc::WTERMSIG(status));
                Ended::Killed
            } else {
                Ended::ByItself { code: libc::WEXITSTATUS(status), calls }
            };
            return Ok(ended);
        }
        if !is_set_up {
            // The stop after exec: from here on the filter's questions reach us.
            // SAFETY: `pid` is stopped and ours.
            check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, OPTIONS) })?;
            is_set_up = true;
            resume(pid, 0);
            continue;
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if event == libc::PTRACE_EVENT_SECCOMP {
            calls += 1;
            match on_call(pid) {
                Verdict::Goes => {}
                Verdict::Fails(errno) => answer(pid, errno)?,
                Verdict::Kills => {
                    is_killed = true;
                    // SAFETY: the leader was not waited for yet, so its pid is still its own; SIGKILL ends all its threads.
                    unsafe { libc::kill(leader, libc::SIGKILL) };
                    continue;
                }
            }
        }
        let is_ours = event != 0 || signal == libc::SIGTRAP || signal == libc::SIGSTOP;
        resume(pid, if is_ours { 0 } else { signal });
    }
}

/// Has a stopped call skipped and its caller told this error.
#[cfg(target_arch = "x86_64")]
fn answer(pid: i32, errno: i32) -> io::Result<()> {
    // A call of no number is skipped, and what stands in the register of results is its result.
    let registers = offset_of!(libc::user, regs);
    for (register, value) in [
        (offset_of!(libc::user_regs_struct, orig_rax), -1),
        (offset_of!(libc::user_regs_struct, rax), -i64::from(errno)),
    ] {
        // SAFETY: `pid` is stopped and ours; the offset is that of a register in what the kernel calls its user area.
        check(unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid, registers + register, value) })?;
    }
    Ok(())
}

/// Other machines keep the number of a call elsewhere.
#[cfg(not(target_arch = "x86_64"))]
fn answer(_pid: i32, _errno: i32) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

fn resume(pid: i32, signal: i32) {
    // It may have been killed since it stopped; the next wait tells.
    // SAFETY: plain system call on a tracee of ours.
    let _ = unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, signal) };
}

#[test]
fn the_call_that_is_asked_for_is_the_first_that_does_not_happen() {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let three_files = |kill_at| {
        for name in ["1", "2", "3"] {
            let _ = std::fs::remove_file(folder.path().join(name));
        }
        let mut command = Command::new("sh");
        command.args(["-c", ": >1; : >2; : >3"]).current_dir(folder.path());
        let ended = run(command, kill_at);
        (ended, std::fs::read_dir(folder.path()).expect("list").count())
    };
    if let (Err(error), _) = three_files(0) {
        return crate::support::skip("the tracer", &format!("ptrace or seccomp is not permitted here ({error})"));
    }

    for kill_at in 1..=3 {
        let (ended, count) = three_files(kill_at);
        assert_eq!((ended.expect("traced before"), count as u64), (Ended::Killed, kill_at - 1));
    }
    let (ended, count) = three_files(4);
    assert_eq!((ended.expect("traced before"), count), (Ended::ByItself { code: 0, calls: 3 }, 3));
}
