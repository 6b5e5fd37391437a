//! Lets the file system die after a number of operations; for tests.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts operations and fails every one from the limit on.
#[derive(Debug)]
pub(crate) struct Crash {
    steps: AtomicU64,
    limit: AtomicU64,
}

impl Default for Crash {
    fn default() -> Crash {
        Crash { steps: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) }
    }
}

impl Crash {
    /// Operations from `limit` (counted from 0, from now) on fail.
    pub fn after(&self, limit: u64) {
        self.steps.store(0, Ordering::SeqCst);
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Operations since the last `after`.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    pub fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        if step < self.limit.load(Ordering::SeqCst) { Ok(()) } else { Err(io::Error::other("the machine died")) }
    }
}
