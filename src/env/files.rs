//! How many files this process may have open at once.
//!
//! Invariant: only the process's own limit moves, and never beyond what the system lets it have without asking anybody.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than any batch needs; systems that allow a milliard make some programs that are started from here slow.
const WANTED_FILES: u64 = 16_384;

/// Has as many open as work in large batches needs, where the usual limit is 1,024. For the start of a program.
pub fn open_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED_FILES, |maximum| maximum.min(WANTED_FILES));
    if current.is_some_and(|current| current < wanted) {
        // Where it may not be raised, batches are smaller.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}
