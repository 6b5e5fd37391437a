//! A thread that a disk may keep: it is waited for, but not for ever.
//!
//! Invariant: whoever ends it is not kept longer than he said. What it holds goes when it ends, at the latest with the process.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// The thread.
pub(super) struct Worker {
    thread: JoinHandle<()>,
    /// Nothing is ever sent: its other end goes with the thread. Locked by nobody: a view is shared, and a receiver cannot be.
    ended: Mutex<Receiver<()>>,
}

impl Worker {
    /// Starts it. Errors: the system gives no thread.
    pub(super) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<Worker> {
        let (keep, ended) = channel::<()>();
        let work = move || {
            work();
            drop(keep);
        };
        Ok(Worker { thread: Builder::new().name(name.to_owned()).spawn(work)?, ended: Mutex::new(ended) })
    }

    /// Waits for its end, which somebody has asked it for; false if that does not come soon enough. Then it ends by itself.
    pub(super) fn end(self, patience: Duration) -> bool {
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        let has_ended = ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected);
        if has_ended {
            // A panic in it has been reported on its thread.
            let _ = self.thread.join();
        }
        has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_a_thread_that_a_disk_keeps_is_not_kept_with_it() {
        let (answer, disk) = channel::<()>();
        let (tell, told) = channel();
        let worker = Worker::start("test", move || {
            // As long as the disk does not answer.
            let _ = disk.recv();
            tell.send(()).unwrap_or_default();
        });

        assert!(!worker.expect("a thread").end(Duration::ZERO));

        drop(answer);
        told.recv().expect("it ended by itself");
    }

    #[test]
    fn a_thread_that_ends_is_waited_for() {
        let (tell, told) = channel();
        let worker = Worker::start("test", move || tell.send(()).unwrap_or_default()).expect("a thread");

        assert!(worker.end(Duration::from_secs(24 * 3600)));

        told.try_recv().expect("it did all it had to");
    }
}
