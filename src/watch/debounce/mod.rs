//! Waits until a file is stable, so that ten partial writes make one version. Pure: the caller tells time and looks at files.
//!
//! A path is stable when two looks at least a quiet time apart saw the same facts and no event came in between. Presence and
//! absence are treated alike: a file that is deleted and made again within the quiet time is one change and never a deletion.
//! Invariants: what never rests is never handed out as whole; line files alone are released while they grow; without a path
//! that waits there is no deadline, so nothing wakes.

use std::collections::{BTreeSet, HashMap};

use larder_patterns::RelPath;

use crate::scan::Stat;

/// Most paths that wait at once; the caller rescans when there are more.
pub const MAX_WAITING: usize = 100_000;

/// How long to wait.
///
/// The default quiet time is 50 ms: more than twice the 20 ms between the partial writes of a slow program, so that a write
/// that comes one scheduling delay late still belongs to the save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long nothing may have happened.
    pub quiet_ms: u64,
    /// How long a line file may keep growing before what it has is released.
    pub longest_line_wait_ms: u64,
    /// How long a file at rest that somebody holds open for writing is waited for.
    pub longest_writer_wait_ms: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { quiet_ms: 50, longest_line_wait_ms: 2_000, longest_writer_wait_ms: 30_000 }
    }
}

/// What is known of writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Nobody asked, or nobody has the file open for writing.
    None,
    /// Somebody has the file open for writing.
    HoldsOpen,
}

/// What a look at a path saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A file or link.
    Present {
        /// Its facts.
        stat: Stat,
        /// Whether it is being written.
        writer: Writer,
    },
    /// No file and no link.
    Absent,
    /// It could not be looked at; told to the caller again once that rests, who will find out why.
    Unknown,
}

impl Observed {
    fn same(&self, other: &Observed) -> bool {
        match (self, other) {
            (Observed::Present { stat: one, .. }, Observed::Present { stat: other, .. }) => {
                one.same_content(other) && one.mode == other.mode
            }
            (one, other) => one == other,
        }
    }

    fn writer(&self) -> Writer {
        match self {
            Observed::Present { writer, .. } => *writer,
            Observed::Absent | Observed::Unknown => Writer::None,
        }
    }
}

/// A path that need not wait any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It rests: record it as it was seen.
    Stable {
        /// The path.
        path: RelPath,
        /// What was seen twice.
        seen: Observed,
    },
    /// A line file that goes on growing: record it up to its last complete line.
    Growing {
        /// The path.
        path: RelPath,
        /// Its facts at the last look.
        stat: Stat,
    },
}

#[derive(Debug)]
struct Waiting {
    is_line_file: bool,
    seen: Observed,
    /// When `seen` was first seen, or an event said that it might have changed.
    unrest_ms: u64,
    /// Since when it waits, or was last released while growing.
    since_ms: u64,
    due_ms: u64,
}

/// The paths that wait until they are stable.
#[derive(Debug)]
pub struct Debounce {
    patience: Patience,
    waiting: HashMap<RelPath, Waiting>,
    by_due: BTreeSet<(u64, RelPath)>,
}

impl Debounce {
    /// Nothing waits yet.
    pub fn new(patience: Patience) -> Debounce {
        Debounce { patience, waiting: HashMap::new(), by_due: BTreeSet::new() }
    }

    /// Notes that something happened to `path`, and what it looks like now.
    ///
    /// `now_ms` is of a clock that does not jump. Returns false, and notes nothing, if [`MAX_WAITING`] others wait.
    #[must_use = "a path that is not noted must be found by a rescan"]
    pub fn touched(&mut self, path: &RelPath, is_line_file: bool, now_ms: u64, seen: Observed) -> bool {
        let since_ms = match self.waiting.get(path) {
            Some(waiting) => waiting.since_ms,
            None if self.waiting.len() >= MAX_WAITING => return false,
            None => now_ms,
        };
        let waiting = Waiting {
            is_line_file,
            seen,
            unrest_ms: now_ms,
            since_ms,
            due_ms: self.due_after_unrest(is_line_file, now_ms, since_ms),
        };
        self.put(path.clone(), waiting);
        true
    }

    /// Hands out what rests at `now_ms`, looking again at each path whose time has come.
    ///
    /// What is handed out no longer waits, but for line files that were still changing.
    pub fn ready(&mut self, now_ms: u64, mut look: impl FnMut(&RelPath) -> Observed) -> Vec<Settled> {
        let mut settled = Vec::new();
        // Each path is judged once: what is put back is due later than now, as all waits are longer than nothing.
        while let Some((due_ms, path)) = self.by_due.first().cloned() {
            if now_ms < due_ms {
                break;
            }
            self.by_due.remove(&(due_ms, path.clone()));
            let waiting = self.waiting.remove(&path).expect("each deadline is of a waiting path");
            let seen = look(&path);
            settled.extend(self.judge(path, waiting, seen, now_ms));
        }
        settled
    }

    /// Returns when [`Debounce::ready`] is to be asked again; none if nothing waits.
    pub fn next_deadline(&self) -> Option<u64> {
        self.by_due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Returns what is being written, and since when, in no order.
    pub fn pending(&self) -> impl Iterator<Item = (&RelPath, u64)> {
        self.waiting.iter().map(|(path, waiting)| (path, waiting.since_ms))
    }

    /// Tells whether a path waits.
    pub fn is_waiting(&self, path: &RelPath) -> bool {
        self.waiting.contains_key(path)
    }

    /// Forgets everything that waits, before a rescan that finds it again.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.by_due.clear();
    }

    fn judge(&mut self, path: RelPath, mut waiting: Waiting, seen: Observed, now_ms: u64) -> Option<Settled> {
        if !seen.same(&waiting.seen) {
            waiting.unrest_ms = now_ms;
        }
        waiting.seen = seen;
        let rested_ms = now_ms.saturating_sub(waiting.unrest_ms);
        if self.patience.quiet_ms <= rested_ms {
            return self.judge_at_rest(path, waiting, rested_ms, now_ms);
        }
        self.judge_in_motion(path, waiting, now_ms)
    }

    fn judge_at_rest(&mut self, path: RelPath, mut waiting: Waiting, rested_ms: u64, now_ms: u64) -> Option<Settled> {
        let held_open = waiting.seen.writer() == Writer::HoldsOpen;
        match waiting.seen {
            // Loggers keep their files open for ever; the unfinished line comes with its own event.
            Observed::Present { stat, .. } if held_open && waiting.is_line_file => {
                Some(Settled::Growing { path, stat })
            }
            _ if held_open && rested_ms < self.patience.longest_writer_wait_ms => {
                // Look again after as long as it has rested so far, at most each second.
                let pause_ms = rested_ms.clamp(self.quiet_ms(), 1_000);
                waiting.due_ms = now_ms + pause_ms;
                self.put(path, waiting);
                None
            }
            seen => Some(Settled::Stable { path, seen }),
        }
    }

    fn judge_in_motion(&mut self, path: RelPath, mut waiting: Waiting, now_ms: u64) -> Option<Settled> {
        let waited_ms = now_ms.saturating_sub(waiting.since_ms);
        let mut released = None;
        if let Observed::Present { stat, .. } = waiting.seen
            && waiting.is_line_file
            && self.patience.longest_line_wait_ms <= waited_ms
        {
            waiting.since_ms = now_ms;
            released = Some(Settled::Growing { path: path.clone(), stat });
        }
        waiting.due_ms =
            self.due_after_unrest(waiting.is_line_file, waiting.unrest_ms, waiting.since_ms).max(now_ms + 1);
        self.put(path, waiting);
        released
    }

    /// After a quiet time; for a line file no later than its longest wait.
    fn due_after_unrest(&self, is_line_file: bool, unrest_ms: u64, since_ms: u64) -> u64 {
        let quiet = unrest_ms + self.quiet_ms();
        if is_line_file { quiet.min(since_ms + self.patience.longest_line_wait_ms.max(1)) } else { quiet }
    }

    fn quiet_ms(&self) -> u64 {
        self.patience.quiet_ms.max(1)
    }

    fn put(&mut self, path: RelPath, waiting: Waiting) {
        self.by_due.insert((waiting.due_ms, path.clone()));
        let due_ms = waiting.due_ms;
        if let Some(before) = self.waiting.insert(path.clone(), waiting)
            && before.due_ms != due_ms
        {
            self.by_due.remove(&(before.due_ms, path));
        }
    }
}

#[cfg(test)]
mod tests;
