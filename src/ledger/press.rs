//! Compresses the blocks of a pack beside whoever gathers them.
//!
//! Invariant: blocks come back in the order they went in, and how many are under way depends on their number and sizes
//! alone, never on which thread was faster: the same segments make the same packs on every machine. The first block is
//! compressed here, so that a small batch starts no thread. Knows nothing of packs, hashes or disks.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::block::BlockEncoder;

/// Blocks that may be under way at once.
const UNDER_WAY: usize = 4;
/// A larger block is compressed here and alone: what is under way stays below 2.5 MiB, raw and stored.
const LARGEST_BYTES: usize = 256 << 10;

/// One block, both ways.
pub(crate) struct Pressed {
    /// The bytes that came; their memory can be used again.
    pub raw: Vec<u8>,
    /// As they are stored.
    pub stored: Vec<u8>,
}

/// Compresses blocks, in order.
pub(crate) struct Press {
    encoder: BlockEncoder,
    began: bool,
    thread: Option<Thread>,
    /// Blocks that were compressed here and not taken yet; only while the thread has none.
    done: VecDeque<Pressed>,
    under_way: usize,
}

struct Thread {
    raw: Option<SyncSender<Vec<u8>>>,
    pressed: Receiver<io::Result<Pressed>>,
    handle: Option<JoinHandle<()>>,
}

impl Press {
    pub fn new() -> io::Result<Press> {
        let encoder = BlockEncoder::new()?;
        Ok(Press { encoder, began: false, thread: None, done: VecDeque::new(), under_way: 0 })
    }

    /// True if a block must be taken before the next one may be given.
    pub fn is_full(&self, next_bytes: usize) -> bool {
        let alone = next_bytes > LARGEST_BYTES;
        if alone || !self.done.is_empty() { self.under_way > 0 } else { self.under_way >= UNDER_WAY }
    }

    /// Takes a block in. The press is not full for it.
    pub fn give(&mut self, raw: Vec<u8>) -> io::Result<()> {
        debug_assert!(!self.is_full(raw.len()), "a block is taken first");
        self.under_way += 1;
        if !std::mem::replace(&mut self.began, true) || raw.len() > LARGEST_BYTES {
            let stored = self.encoder.encode(&raw)?.to_vec();
            self.done.push_back(Pressed { raw, stored });
            return Ok(());
        }
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Thread::start()?),
        };
        let sent = thread.raw.as_ref().is_some_and(|sender| sender.send(raw).is_ok());
        if sent { Ok(()) } else { Err(stopped()) }
    }

    /// The oldest block under way; waits for it. `None` if there is none.
    pub fn take(&mut self) -> io::Result<Option<Pressed>> {
        if self.under_way == 0 {
            return Ok(None);
        }
        self.under_way -= 1;
        if let Some(pressed) = self.done.pop_front() {
            return Ok(Some(pressed));
        }
        let pressed = self.thread.as_ref().map(|thread| thread.pressed.recv());
        pressed.and_then(Result::ok).unwrap_or_else(|| Err(stopped())).map(Some)
    }

    /// True if no block is under way.
    pub fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Compresses something that is no block, here and now.
    pub fn encode<'a>(&'a mut self, raw: &'a [u8]) -> io::Result<&'a [u8]> {
        self.encoder.encode(raw)
    }
}

impl Thread {
    fn start() -> io::Result<Thread> {
        let mut encoder = BlockEncoder::new()?;
        let (raw, blocks) = sync_channel::<Vec<u8>>(UNDER_WAY);
        let (results, pressed) = sync_channel(UNDER_WAY);
        let work = move || {
            for raw in blocks {
                let stored = encoder.encode(&raw).map(<[u8]>::to_vec);
                if results.send(stored.map(|stored| Pressed { raw, stored })).is_err() {
                    return;
                }
            }
        };
        let handle = std::thread::Builder::new().name("larder-press".to_owned()).spawn(work)?;
        Ok(Thread { raw: Some(raw), pressed, handle: Some(handle) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Without a sender the thread's loop ends; its results have room for all that is under way.
        self.raw = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the compressing thread stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Vec<u8>> {
        let sizes = [10, 1000, 300_000, 5, 70_000, 70_000, 70_000, 70_000, 70_000, 400_000, 1];
        let byte = |n: usize, at: usize| ((n * 31 + at / 3) % 251) as u8;
        sizes.iter().enumerate().map(|(n, len)| (0..*len).map(|at| byte(n, at)).collect()).collect()
    }

    #[test]
    fn blocks_come_back_in_order_and_as_one_encoder_makes_them() {
        let mut press = Press::new().expect("a press");
        let mut encoder = BlockEncoder::new().expect("an encoder");
        let mut taken = Vec::new();

        for block in blocks() {
            while press.is_full(block.len()) {
                taken.extend(press.take().expect("compresses"));
            }
            press.give(block).expect("takes it in");
        }
        while let Some(pressed) = press.take().expect("compresses") {
            taken.push(pressed);
        }

        assert!(press.is_empty());
        assert_eq!(taken.len(), blocks().len());
        for (pressed, block) in taken.iter().zip(blocks()) {
            assert_eq!(pressed.raw, block);
            assert_eq!(pressed.stored, encoder.encode(&block).expect("compresses"));
        }
    }

    #[test]
    fn how_many_are_under_way_does_not_depend_on_threads() {
        let mut press = Press::new().expect("a press");
        let mut counts = Vec::new();

        for block in blocks() {
            let mut count = 0;
            while press.is_full(block.len()) {
                press.take().expect("compresses");
                count += 1;
            }
            press.give(block).expect("takes it in");
            counts.push(count);
        }

        assert_eq!(counts, [0, 1, 1, 1, 0, 0, 0, 1, 1, 4, 1]);
    }

    #[test]
    fn a_press_that_is_dropped_full_ends_its_thread() {
        let mut press = Press::new().expect("a press");
        for block in [vec![1; 100_000], vec![2; 100_000]] {
            while press.is_full(block.len()) {
                press.take().expect("compresses");
            }
            press.give(block).expect("takes it in");
        }

        drop(press);
    }
}
