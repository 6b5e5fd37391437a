//! Hands the kernel the bytes of files before it asks for them, so that whoever walks a tree seldom waits.
//!
//! Invariant: what is handed on is what a read would be answered, or nothing; bytes looked up before a person let contents go are not
//! handed on afterwards. The kernel may have the thread wait for a page until another thread answers for that page, and nothing would end
//! that wait if all were killed meanwhile. So the thread has a table of open files of its own, with its own handle of the connection in it
//! and nothing else: the others' handles are closed when those are killed, the kernel gives up on what they owed, and the thread wakes and
//! ends. What is not handed on is asked for as ever. Chooses nothing: what will be wanted is `foresight`'s business.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

use super::catalog::{FileId, Giver};
use super::counters::{Counters, count};
use super::node::Place;
use crate::env::run_anywhere;
use crate::index::Proven;

/// Lots that wait; more are forgotten. Each holds on to the blocks of a few files.
const LOTS: usize = 16;
/// Files that are not handed on again: what is asked for and what is listed overlap.
const LATELY: usize = 256;
/// `FUSE_NOTIFY_STORE` of the kernel's `include/uapi/linux/fuse.h`.
const NOTIFY_STORE: u32 = 4;
/// Of `struct fuse_out_header` and `struct fuse_notify_store_out`.
const HEAD_BYTES: usize = 40;
/// `FUSE_DEV_IOC_CLONE`, of the same file.
const CLONE: rustix::ioctl::Opcode = opcode::read::<u32>(229, 0);

/// Files to hand on together, as of one turn.
struct Lot {
    turn: u64,
    files: Vec<(FileId, Proven)>,
}

/// What both sides know.
struct Shared {
    /// Raised when a person let contents go.
    turn: AtomicU64,
    is_over: AtomicBool,
    /// The file that is being handed on. Not locked meanwhile: the kernel may have the thread wait.
    at_it: Mutex<Option<FileId>>,
    /// `at_it` or `is_over` changed.
    changed: Condvar,
    counters: Arc<Counters>,
    /// Somebody outside ends the connection if the whole process is killed while the kernel has the thread wait.
    is_guarded: Arc<AtomicBool>,
}

impl Shared {
    fn new(counters: Arc<Counters>, is_guarded: Arc<AtomicBool>) -> Shared {
        let (turn, is_over, at_it) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::default());
        Shared { turn, is_over, at_it, changed: Condvar::new(), counters, is_guarded }
    }

    /// Returns once what is being handed on, if anything, is none that `is_waited_for`.
    fn wait_while(&self, is_waited_for: impl Fn(FileId) -> bool) {
        let at_it = lock(&self.at_it);
        let rest = self.changed.wait_while(at_it, |file| file.is_some_and(&is_waited_for));
        drop(rest.unwrap_or_else(PoisonError::into_inner));
    }

    fn end(&self) {
        // Under the lock: whoever looks for what is handed on after this finds all that ever will be.
        let at_it = lock(&self.at_it);
        self.is_over.store(true, Ordering::SeqCst);
        drop(at_it);
        self.changed.notify_all();
    }

    fn may_give(&self) -> bool {
        self.is_guarded.load(Ordering::SeqCst) && !self.is_over.load(Ordering::SeqCst)
    }
}

/// Hands on what it is given, on a thread of its own, until it is ended or dropped.
pub(super) struct Giving {
    lots: Mutex<Option<SyncSender<Lot>>>,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole between two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Giving {
    /// Begins, on the connection that `device` is a handle of, in force while it `is_guarded`. Errors: the system gives no second handle, or
    /// no thread.
    pub(super) fn start(
        device: BorrowedFd<'_>,
        counters: &Arc<Counters>,
        is_guarded: Arc<AtomicBool>,
    ) -> io::Result<Giving> {
        Giving::over(second_handle(device)?, counters, is_guarded)
    }

    /// The same with a handle that nobody else writes to.
    fn over(handle: OwnedFd, counters: &Arc<Counters>, is_guarded: Arc<AtomicBool>) -> io::Result<Giving> {
        let shared = Arc::new(Shared::new(Arc::clone(counters), is_guarded));
        let (lots, taken) = sync_channel(LOTS);
        let (ready, is_ready) = sync_channel(1);
        let (number, theirs) = (handle.as_raw_fd(), Arc::clone(&shared));
        let work = move || {
            let kept = keep_only(number);
            let is_kept = kept.is_ok();
            if ready.send(kept).is_err() || !is_kept {
                return;
            }
            // SAFETY: the number stands in this thread's own table of open files, where nobody else uses or closes it.
            let handle = unsafe { OwnedFd::from_raw_fd(number) };
            run_anywhere();
            theirs.work(handle.as_fd(), &taken);
        };
        std::thread::Builder::new().name("larder-give".to_owned()).spawn(work)?;
        // The number stays open here until it stands in the other table; then this one is closed.
        let kept = is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")));
        drop(handle);
        kept.map(|()| Giving { lots: Mutex::new(Some(lots)), shared })
    }

    /// What was looked up until now is not handed on any more: a person let contents go. Waits for nobody.
    pub(super) fn let_go(&self) {
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns when none of these files is being handed on as it was looked up before `let_go`; what the kernel forgets after that it has
    /// forgotten. Of what else is handed on nobody waits for the end, nor once it is over: who asks for it may be answered late.
    pub(super) fn wait_for(&self, files: &[FileId]) {
        self.shared.wait_while(|file| files.contains(&file) && !self.shared.is_over.load(Ordering::SeqCst));
    }

    /// True while something is being handed on; once false after `end`, it stays so.
    pub(super) fn is_at_it(&self) -> bool {
        lock(&self.shared.at_it).is_some()
    }

    /// Keeps this until nothing is being handed on; for as long as the process is there if the system gives no thread. After `end`.
    pub(super) fn keep_meanwhile(&self, kept: impl Send + 'static) {
        let (shared, kept) = (Arc::clone(&self.shared), ManuallyDrop::new(kept));
        let wait = move || {
            shared.wait_while(|_| true);
            drop(ManuallyDrop::into_inner(kept));
        };
        if let Err(error) = std::thread::Builder::new().name("larder-given".to_owned()).spawn(wait) {
            tracing::debug!("end the guardian of the view: {error}");
        }
    }

    /// Nothing more is handed on. Waits for nobody.
    pub(super) fn end(&self) {
        self.shared.end();
        lock(&self.lots).take();
    }
}

impl Giver for Giving {
    fn turn(&self) -> Option<u64> {
        self.shared.may_give().then(|| self.shared.turn.load(Ordering::SeqCst))
    }

    fn give(&self, files: Vec<(FileId, Proven)>, turn: u64) {
        if let Some(lots) = &*lock(&self.lots) {
            // Too much at once: it is asked for as ever.
            let _ = lots.try_send(Lot { turn, files });
        }
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn work(&self, handle: BorrowedFd<'_>, lots: &Receiver<Lot>) {
        let mut lately = VecDeque::with_capacity(LATELY);
        while let Ok(lot) = lots.recv() {
            for (file, bytes) in lot.files {
                if self.is_over.load(Ordering::SeqCst) {
                    return;
                }
                if !self.may_give() || lately.contains(&file) {
                    continue;
                }
                match self.hand_on(handle, file, bytes.bytes(), lot.turn) {
                    Ok(true) => {
                        count(&self.counters.given);
                        if lately.len() >= LATELY {
                            lately.pop_front();
                        }
                        lately.push_back(file);
                    }
                    // The kernel knows no such file, or not yet; or it has no room.
                    Ok(false) | Err(Errno::NOENT | Errno::NOMEM | Errno::INTR | Errno::AGAIN) => {}
                    // The connection is gone, or its kernel takes nothing of the kind.
                    Err(_) => return self.end(),
                }
            }
        }
    }

    /// False if its turn is over, or all is.
    fn hand_on(&self, handle: BorrowedFd<'_>, file: FileId, bytes: &[u8], turn: u64) -> Result<bool, Errno> {
        let Some(head) = head(file, bytes.len()) else { return Ok(false) };
        let mut at_it = lock(&self.at_it);
        if self.is_over.load(Ordering::SeqCst) || self.turn.load(Ordering::SeqCst) != turn {
            return Ok(false);
        }
        *at_it = Some(file);
        drop(at_it);
        let outcome = rustix::io::writev(handle, &[IoSlice::new(&head), IoSlice::new(bytes)]);
        *lock(&self.at_it) = None;
        self.changed.notify_all();
        outcome.map(|_| true)
    }
}

/// What stands before the bytes of a file; `None` if they are more than one notification holds.
fn head(file: FileId, bytes: usize) -> Option<[u8; HEAD_BYTES]> {
    let mut head = [0; HEAD_BYTES];
    let whole = u32::try_from(HEAD_BYTES.checked_add(bytes)?).ok()?;
    head[..4].copy_from_slice(&whole.to_ne_bytes());
    head[4..8].copy_from_slice(&NOTIFY_STORE.to_ne_bytes());
    // No question is answered, and the bytes are the file's first ones: both numbers are 0.
    head[16..24].copy_from_slice(&Place::File(file).node().0.to_ne_bytes());
    head[32..36].copy_from_slice(&u32::try_from(bytes).ok()?.to_ne_bytes());
    Some(head)
}

/// A second handle of a connection, which outlives the first.
fn second_handle(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let handle: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into();
    let first = u32::try_from(device.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: the request takes a pointer to the number of an open handle, which is only read.
    unsafe { ioctl(&handle, Setter::<CLONE, u32>::new(first)) }?;
    Ok(handle)
}

/// Gives this thread a table of open files of its own, in which one of them stands. Locks of the process on the others stay: they belong
/// to the table that was left.
fn keep_only(handle: RawFd) -> io::Result<()> {
    let handle = u32::try_from(handle).map_err(io::Error::other)?;
    if handle == 0 {
        return close_range(1, u32::MAX);
    }
    close_range(0, handle - 1)?;
    close_range(handle + 1, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the flag has the numbers closed in a table of this thread's own, in which nobody else uses them; from the first call on
    // the thread uses none but the one that is left.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_file_is_handed_on_as_one_notification() {
        let (mut kernel, handle) = std::io::pipe().expect("a pipe");
        let counters = Arc::new(Counters::default());
        let giving = Giving::over(handle.into(), &counters, Arc::new(true.into())).expect("begins");
        let file = FileId(0x0102_0304);

        giving.give(vec![(file, Proven::of(b"abc")), (file, Proven::of(b"again")), (FileId(2), Proven::of(b""))], 0);

        let mut sent = vec![0; 43 + HEAD_BYTES];
        kernel.read_exact(&mut sent).expect("two notifications");
        drop(giving);
        assert_eq!(kernel.read(&mut [0]).expect("until its only handle is closed"), 0);
        let numbers: Vec<u8> = [43_u32, 4, 0, 0].iter().flat_map(|number| number.to_ne_bytes()).collect();
        assert_eq!(sent[..16], numbers);
        assert_eq!(sent[16..24], Place::File(file).node().0.to_ne_bytes());
        assert_eq!(sent[24..32], [0; 8], "from its beginning");
        assert_eq!(sent[32..40], [3_u32.to_ne_bytes(), [0; 4]].concat());
        assert_eq!(&sent[40..43], b"abc");
        assert_eq!(sent[43 + 16..43 + 24], Place::File(FileId(2)).node().0.to_ne_bytes(), "each once");
        assert_eq!(counters.counts().given, 2);
    }

    #[test]
    fn nothing_is_handed_on_while_nobody_guards_the_view() {
        for is_guarded in [true, false] {
            let (mut kernel, handle) = std::io::pipe().expect("a pipe");
            let shared = Shared::new(Arc::default(), Arc::new(is_guarded.into()));
            let (lots, taken) = sync_channel(1);
            lots.send(Lot { turn: 0, files: vec![(FileId(1), Proven::of(b"abc"))] }).expect("taken");
            drop(lots);

            shared.work(handle.as_fd(), &taken);

            drop(handle);
            let sent = kernel.read(&mut [0; 100]).expect("what was sent");
            assert_eq!(sent, if shared.may_give() { HEAD_BYTES + 3 } else { 0 });
            assert_eq!(shared.counters.counts().given, u64::from(shared.may_give()));
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::yield_now();
        }
    }

    /// One that the kernel has wait in the middle of this file, until the rest of it is read.
    fn stuck_at(file: FileId) -> (io::PipeReader, Arc<Giving>) {
        let (kernel, handle) = std::io::pipe().expect("a pipe");
        let giving = Giving::over(handle.into(), &Arc::default(), Arc::new(true.into())).expect("begins");
        giving.give(vec![(file, Proven::of(&[b'x'; 8 << 20]))], 0);
        eventually("it to wait", || giving.is_at_it());
        (kernel, Arc::new(giving))
    }

    /// True if waiting for these files ends.
    fn is_waited(giving: &Arc<Giving>, files: &'static [FileId]) -> bool {
        let (done, is_done) = std::sync::mpsc::channel();
        let giving = Arc::clone(giving);
        std::thread::spawn(move || {
            giving.wait_for(files);
            let _ = done.send(());
        });
        is_done.recv_timeout(LONG).is_ok()
    }

    #[test]
    fn nobody_waits_for_a_file_that_is_handed_on_but_who_has_it_forgotten() {
        let (mut kernel, giving) = stuck_at(FileId(7));
        giving.let_go();

        assert!(is_waited(&giving, &[]), "nothing is forgotten");
        assert!(is_waited(&giving, &[FileId(6), FileId(8)]), "others are forgotten");
        let (done, is_done) = std::sync::mpsc::channel();
        let waiting = Arc::clone(&giving);
        std::thread::spawn(move || {
            waiting.wait_for(&[FileId(7)]);
            let _ = done.send(waiting.is_at_it());
        });
        kernel.read_exact(&mut vec![0; HEAD_BYTES + (8 << 20)]).expect("all of it");
        assert_eq!(is_done.recv_timeout(LONG), Ok(false));
    }

    #[test]
    fn once_it_is_over_nobody_waits_and_nothing_more_begins() {
        let (mut kernel, giving) = stuck_at(FileId(7));
        giving.give(vec![(FileId(8), Proven::of(b"late"))], 0);

        giving.end();

        assert!(is_waited(&giving, &[FileId(7)]));
        assert!(giving.is_at_it());
        kernel.read_exact(&mut vec![0; HEAD_BYTES + (8 << 20)]).expect("all of it");
        assert_eq!(kernel.read(&mut [0]).expect("until its only handle is closed"), 0);
    }

    #[test]
    fn what_is_kept_meanwhile_is_kept_no_longer_than_that() {
        let (mut kernel, giving) = stuck_at(FileId(7));
        let kept = Arc::new(());
        giving.end();

        giving.keep_meanwhile(Arc::clone(&kept));

        assert_eq!(Arc::strong_count(&kept), 2);
        kernel.read_exact(&mut vec![0; HEAD_BYTES + (8 << 20)]).expect("all of it");
        eventually("it to be let go of", || Arc::strong_count(&kept) == 1);
    }

    #[test]
    fn where_nothing_is_taken_it_is_over() {
        let (kernel, handle) = std::io::pipe().expect("a pipe");
        let giving = Giving::over(handle.into(), &Arc::default(), Arc::new(true.into())).expect("begins");
        drop(kernel);

        giving.give(vec![(FileId(1), Proven::of(b"abc"))], 0);

        eventually("its end", || giving.turn().is_none());
    }
}
