//! Carries the kernel's requests through rings in memory, one for each processor: the second way beside the device, where the kernel offers it.
//!
//! Whoever asks sleeps, and on the same processor the thread is woken that answers, so nobody wakes another processor; and one system call
//! both gives an answer and fetches the next question. What may take long is answered by others meanwhile, on whichever processor is idle.
//! Invariant: a slot belongs to the kernel from the call that hands it over until its completion, and to one thread after that; every
//! question is answered, with an error if need be. From the handshake on the kernel answers nobody until all rings are registered, so what
//! may fail is made before, and if they cannot be, the connection is ended. Letting go of nodes and notifications stay with the
//! device. What is answered is not decided here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};

use super::answers::Answers;
use super::catalog::Catalog;
use super::fuse::MAX_REQUEST_BYTES;
use super::wire::{Head, answer, u32_at, u64_at};

/// Questions that one processor may have asked before the first is answered; more wait in the kernel.
const DEPTH: usize = 8;
/// More processors than this are not given a ring each.
const MAX_QUEUES: usize = 64;
/// Threads for what may take long, of all processors together.
const LONG_THREADS: usize = 2;

/// Between two attempts at what cannot fail.
const LULL: Duration = Duration::from_millis(10);

/// Bytes of the buffer for heads: `struct fuse_uring_req_header`.
const HEADER_BYTES: usize = 288;
/// Where in it the question's own part begins, and what the ring itself says.
const OP_AT: usize = 128;
const ENTRY_AT: usize = 256;
/// In that: which question is answered, and the length of what stands in the other buffer.
const COMMIT_AT: usize = ENTRY_AT + 8;
const LEN_AT: usize = ENTRY_AT + 16;
/// Bytes of `struct fuse_out_header`.
const OUT_HEADER_BYTES: u32 = 16;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Where in a submission its length stands; the kernel wants the number of buffers there.
const SQE_LEN_AT: usize = 24;
const BUFFERS: u32 = 2;
/// Names the completion by which those threads are heard; all others are numbers of slots.
const BELL: u64 = u64::MAX;

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

/// Rings with their threads, which wait for the connection. Whatever may fail before it is there has not failed.
pub(super) struct Rings {
    threads: Vec<Waiting>,
}

/// A thread that waits for the connection whose requests it is to answer.
struct Waiting {
    go: Sender<Arc<OwnedFd>>,
    told: Receiver<io::Result<()>>,
    back: Arc<Back>,
    thread: JoinHandle<()>,
}

impl Rings {
    /// One for each processor there may be. Errors: this system has none, or does not let us.
    pub(super) fn new<C: Catalog + 'static>(answers: &Arc<Answers<C>>) -> io::Result<Rings> {
        let queues = possible_processors()?;
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!("{queues} processors are more than {MAX_QUEUES}")));
        }
        let long = long_threads(answers)?;
        let wait = |number| {
            let mut queue = Queue::new(number, long.clone())?;
            let back = Arc::clone(&queue.back);
            let answers = Arc::clone(answers);
            let ((go, gone), (tell, told)) = (mpsc::channel(), mpsc::channel());
            let work = move || {
                let Ok(device) = gone.recv() else { return };
                bind(number);
                let begun = queue.register(device);
                let is_begun = begun.is_ok();
                // Whoever sent the connection waits for this.
                let _ = tell.send(begun);
                if is_begun {
                    queue.serve(&answers);
                }
            };
            let thread = Builder::new().name(format!("larder-ring-{number}")).spawn(work)?;
            Ok(Waiting { go, told, back, thread })
        };
        Ok(Rings { threads: (0..queues).map(wait).collect::<io::Result<_>>()? })
    }

    /// Registers all of them for the connection behind `device`; their threads end with it.
    ///
    /// Errors: not all are registered; then none is any more, and nothing here holds the connection.
    pub(super) fn start(self, device: BorrowedFd<'_>) -> io::Result<()> {
        let device = Arc::new(device.try_clone_to_owned()?);
        for waiting in &self.threads {
            // One that is gone is found below.
            let _ = waiting.go.send(Arc::clone(&device));
        }
        drop(device);
        let gone = || io::Error::other("a thread ended");
        let outcomes: Vec<io::Result<()>> =
            self.threads.iter().map(|waiting| waiting.told.recv().unwrap_or_else(|_| Err(gone()))).collect();
        let outcome: io::Result<()> = outcomes.into_iter().collect();
        if outcome.is_err() {
            for Waiting { back, thread, .. } in self.threads {
                back.end();
                // It can fail only by a panic, which was told.
                let _ = thread.join();
            }
        }
        outcome
    }
}

/// How many processors there may ever be: the kernel wants a queue for each, and counts them from 0 without a gap.
fn possible_processors() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let list = list.trim();
    count_listed(list).ok_or_else(|| io::Error::other(format!("processors {list} cannot have a ring each")))
}

/// How many numbers a list such as `0-3` has.
fn count_listed(list: &str) -> Option<usize> {
    let last = list.strip_prefix("0-").or_else(|| (list == "0").then_some("0"))?;
    last.parse::<usize>().ok()?.checked_add(1)
}

/// Has this thread run where its questions are asked. Without it everything is as right, and slower.
fn bind(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// The two buffers of one question at a time.
struct Slot {
    header: Box<[u8]>,
    payload: Box<[u8]>,
    vectors: Box<[libc::iovec; 2]>,
}

// SAFETY: the vectors point into the two other buffers, which stay where they are when their owner moves.
unsafe impl Send for Slot {}

impl Slot {
    fn new() -> Slot {
        let mut header = vec![0; HEADER_BYTES].into_boxed_slice();
        let mut payload = vec![0; MAX_REQUEST_BYTES as usize].into_boxed_slice();
        let vector = |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let vectors = Box::new([vector(&mut header), vector(&mut payload)]);
        Slot { header, payload, vectors }
    }

    fn may_take_long(&self) -> bool {
        Head::of(&self.header).may_take_long(&self.header[OP_AT..ENTRY_AT])
    }

    /// Which question stands in it, as the kernel counts.
    fn commit(&self) -> u64 {
        u64_at(&self.header, COMMIT_AT)
    }

    /// Answers what stands in it, by an error if the answer cannot be had.
    fn answer<C: Catalog + 'static>(&mut self, answers: &Answers<C>) {
        let head = Head::of(&self.header);
        let sent = u32_at(&self.header, LEN_AT) as usize;
        let op = &self.header[OP_AT..ENTRY_AT];
        let payload = &mut self.payload;
        // A thread that is gone would leave whoever asks on its processor waiting for ever.
        let outcome = catch_unwind(AssertUnwindSafe(|| answer(answers, &head, op, payload, sent)));
        let (len, error) = match outcome {
            Ok(Ok(len)) => (u32::try_from(len).unwrap_or(0), 0),
            Ok(Err(errno)) => (0, -errno.code()),
            Err(_) => (0, -libc::EIO),
        };
        self.header[0..4].copy_from_slice(&(OUT_HEADER_BYTES + len).to_ne_bytes());
        self.header[4..8].copy_from_slice(&error.to_ne_bytes());
        self.header[8..16].copy_from_slice(&head.unique.to_ne_bytes());
        self.header[LEN_AT..LEN_AT + 4].copy_from_slice(&len.to_ne_bytes());
    }
}

/// A question on its way to another thread and back.
struct Long {
    at: usize,
    slot: Slot,
    back: Arc<Back>,
}

/// Where a queue finds what was answered elsewhere, and that it is over.
struct Back {
    answered: Mutex<Vec<(usize, Slot)>>,
    bell: OwnedFd,
    is_over: AtomicBool,
}

impl Back {
    fn ring(&self) {
        // It can only fail if it was rung 2^64 times without being heard.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.ring();
    }
}

/// Threads that answer what may take long, until nobody can send them anything.
fn long_threads<C: Catalog + 'static>(answers: &Arc<Answers<C>>) -> io::Result<Sender<Long>> {
    let (send, receive) = mpsc::channel();
    let receive = Arc::new(Mutex::new(receive));
    for number in 0..LONG_THREADS {
        let (answers, receive) = (Arc::clone(answers), Arc::clone(&receive));
        let work = move || {
            while let Some(Long { at, mut slot, back }) = next_of(&receive) {
                slot.answer(&answers);
                back.answered.lock().unwrap_or_else(PoisonError::into_inner).push((at, slot));
                back.ring();
            }
        };
        Builder::new().name(format!("larder-ring-long-{number}")).spawn(work)?;
    }
    Ok(send)
}

fn next_of(receive: &Mutex<Receiver<Long>>) -> Option<Long> {
    receive.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// The ring of one processor.
struct Queue {
    // First: what the kernel still holds of the slots it lets go of with the ring.
    ring: Ring,
    /// `None` while another thread answers it.
    slots: Vec<Option<Slot>>,
    number: u16,
    /// `None` before there is a connection.
    device: Option<Arc<OwnedFd>>,
    long: Sender<Long>,
    back: Arc<Back>,
    /// Where the count of the bell is written, which is of no interest.
    rung: Box<[u8; 8]>,
}

impl Queue {
    fn new(number: usize, long: Sender<Long>) -> io::Result<Queue> {
        let entries = u32::try_from((DEPTH + 1).next_power_of_two()).unwrap_or(u32::MAX);
        let mut builder = IoUring::<squeue::Entry128, cqueue::Entry>::builder();
        // Made here and used by one other thread: it is that one's from when it is enabled.
        let ring = builder.setup_single_issuer().setup_defer_taskrun().setup_r_disabled().build(entries)?;
        let slots = (0..DEPTH).map(|_| Some(Slot::new())).collect();
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        let back = Arc::new(Back { answered: Mutex::default(), bell, is_over: AtomicBool::new(false) });
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        Ok(Queue { ring, slots, number, device: None, long, back, rung: Box::new([0; 8]) })
    }

    /// Gives the kernel the slots. Errors: it does not want them.
    fn register(&mut self, device: Arc<OwnedFd>) -> io::Result<()> {
        self.device = Some(device);
        self.ring.submitter().register_enable_rings()?;
        for at in 0..self.slots.len() {
            self.hand_over(at, REGISTER, 0)?;
        }
        self.ring.submit()?;
        // What is refused is so at once. No question is passed over here: those are delivered to who waits alone (deferred work).
        let refused = self.ring.completion().find(|done| done.result() < 0);
        match refused {
            Some(refused) => Err(io::Error::from_raw_os_error(-refused.result())),
            None => self.listen(),
        }
    }

    fn hand_over(&mut self, at: usize, command: u32, commit: u64) -> io::Result<()> {
        let (Some(Some(slot)), Some(device)) = (self.slots.get(at), &self.device) else { return Ok(()) };
        let mut bytes = [0; 80];
        bytes[8..16].copy_from_slice(&commit.to_ne_bytes());
        bytes[16..18].copy_from_slice(&self.number.to_ne_bytes());
        let fd = types::Fd(device.as_raw_fd());
        let built = opcode::UringCmd80::new(fd, command).cmd(bytes).addr(Some(slot.vectors.as_ptr() as u64)).build();
        let mut entry = built.user_data(at as u64);
        // SAFETY: an entry is the kernel's `struct io_uring_sqe` of 128 bytes, plain numbers, of which this one stands at 24.
        unsafe { (&raw mut entry).cast::<u8>().add(SQE_LEN_AT).cast::<u32>().write_unaligned(BUFFERS) };
        // SAFETY: the slot's buffers are not touched until the completion, and outlive the ring.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)
    }

    /// Asks to be woken by the bell, once.
    fn listen(&mut self) -> io::Result<()> {
        let bell = types::Fd(self.back.bell.as_raw_fd());
        let read = opcode::Read::new(bell, self.rung.as_mut_ptr(), 8).build().user_data(BELL);
        // SAFETY: the eight bytes are used for nothing else, and outlive the ring.
        unsafe { self.ring.submission().push(&read.into()) }.map_err(io::Error::other)
    }

    /// Answers until the connection is gone.
    fn serve<C: Catalog + 'static>(&mut self, answers: &Answers<C>) {
        let mut living = self.slots.len();
        let mut done: Vec<(u64, i32)> = Vec::with_capacity(DEPTH + 1);
        while living > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(error) => {
                    // Whoever asks on this processor has nobody else.
                    tracing::warn!("wait for requests: {error}");
                    std::thread::sleep(LULL);
                }
            }
            if self.back.is_over.load(Ordering::SeqCst) {
                return;
            }
            done.extend(self.ring.completion().map(|done| (done.user_data(), done.result())));
            for (what, result) in done.drain(..) {
                let outcome = if what == BELL {
                    self.take_back()
                } else if result < 0 {
                    Err(io::Error::from_raw_os_error(-result))
                } else {
                    self.answer(what as usize, answers)
                };
                // The kernel has let go of the connection, or of this slot.
                living = living.saturating_sub(usize::from(outcome.is_err()));
            }
        }
    }

    fn answer<C: Catalog + 'static>(&mut self, at: usize, answers: &Answers<C>) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let long = slot.take_if(|slot| slot.may_take_long());
        let unsent = long.and_then(|slot| self.long.send(Long { at, slot, back: Arc::clone(&self.back) }).err());
        if let Some(unsent) = unsent {
            self.slots[at] = Some(unsent.0.slot);
        }
        let Some(slot) = &mut self.slots[at] else { return Ok(()) };
        slot.answer(answers);
        let commit = slot.commit();
        self.hand_over(at, COMMIT_AND_FETCH, commit)
    }

    /// Hands over what others have answered.
    fn take_back(&mut self) -> io::Result<()> {
        let answered = std::mem::take(&mut *self.back.answered.lock().unwrap_or_else(PoisonError::into_inner));
        for (at, slot) in answered {
            let commit = slot.commit();
            self.slots[at] = Some(slot);
            self.hand_over(at, COMMIT_AND_FETCH, commit)?;
        }
        self.listen()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn rings_that_are_refused_leave_no_thread_and_hold_nothing() {
        let answers = Arc::new(super::super::wire::tests::answers());
        let Ok(rings) = Rings::new(&answers) else { return println!("skipped: there is no io_uring here") };
        let device = tempfile::tempfile().expect("a file");

        rings.start(device.as_fd()).expect_err("no file system is behind it");

        let deadline = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&answers) > 1 {
            assert!(Instant::now() < deadline, "threads are left");
            std::thread::yield_now();
        }
    }

    #[test]
    fn processors_are_counted_as_the_system_lists_them() {
        assert_eq!(["0", "0-1", "0-127"].map(count_listed), [1, 2, 128].map(Some));
        assert_eq!(["", "0-", "1-3", "0-3,8", "0,2-3", "0-18446744073709551615"].map(count_listed), [None; 6]);
    }
}
