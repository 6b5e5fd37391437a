//! Hints that something below a root may have changed; never the truth, which is the disk.
//!
//! Only folders that may contain admitted files are watched, one by one and not recursively. What the kernel says becomes four
//! hints: a path, a tree, everything, or: the root is gone. Where watching fails (limits, rights, network file systems) the tree
//! is polled, and [`Mode::report`] says so. Invariants: a change below a watched folder gives a hint for its path, for a tree
//! above it, or for everything; a folder is watched before it is listed, so nothing slips in between; memory is bounded
//! by [`MAX_HINTS`] paths, beyond which everything is the hint; while nothing happens, no thread wakes.
//!
//! Deliberately absent: reading contents, waiting until a file is stable (that is [`Debounce`], fed by the caller), deciding
//! what a change means. `notify` is used here and nowhere else.

mod backend;
mod debounce;
mod event;
mod file;
mod hint;
mod mode;
mod shared;
mod tree;
mod watcher;
mod worker;

#[cfg(test)]
mod tests;

pub use debounce::{Debounce, MAX_WAITING, Observed, Patience, Settled, Writer};
pub use file::{FileBell, Looks};
pub use hint::{Hint, MAX_HINTS, RescanReason};
pub use mode::{Mode, PollReason, Polled};
pub use watcher::{WatchError, WatchOptions, Watcher};
