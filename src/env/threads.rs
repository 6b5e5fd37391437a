//! Where threads run.
//!
//! Invariant: a thread is never bound to less than what the process as a whole was given.

/// Has this thread run wherever the process may: one that was begun by a bound thread is bound like it otherwise. Without it everything is
/// as right, and slower.
pub fn run_anywhere() {
    #[cfg(target_os = "linux")]
    if let Ok(given) = rustix::thread::sched_getaffinity(Some(rustix::process::getpid())) {
        let _ = rustix::thread::sched_setaffinity(None, &given);
    }
}
