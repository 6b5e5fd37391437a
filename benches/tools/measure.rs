//! What a program cost: wall and CPU time, peak memory, bytes written, as the kernel counted them for the finished process.
//!
//! Invariant: a run that fails stops the comparison with the program's own words; nothing is measured of a failure.

use std::fs;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One finished run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    /// From start to end.
    pub wall_ms: f64,
    /// User and system time of all its threads.
    pub cpu_ms: f64,
    /// The largest resident set.
    pub peak_kib: f64,
    /// Bytes it made the kernel write to disk.
    pub written_bytes: f64,
}

/// Runs a command to its end. Exit code 0 is expected.
#[expect(clippy::zombie_processes, reason = "it is waited for by wait4, which also tells what it used")]
pub fn run(mut command: Command) -> Cost {
    let mut said = tempfile::tempfile().expect("make a temporary file");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(said.try_clone().expect("share the file"));
    let start = Instant::now();
    let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let pid = i32::try_from(child.id()).expect("a pid fits");
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value; both pointers live through the call, and nobody else
    // waits for this child.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid, "wait for a child of our own");
        usage
    };
    let wall_ms = start.elapsed().as_secs_f64() * 1000.0;
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        let mut text = String::new();
        said.rewind().expect("rewind");
        let _ = said.read_to_string(&mut text);
        panic!("{command:?} ended with status {status}: {text}");
    }
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1000.0 + time.tv_usec as f64 / 1000.0;
    Cost {
        wall_ms,
        cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
        peak_kib: usage.ru_maxrss as f64,
        written_bytes: usage.ru_oublock as f64 * 512.0,
    }
}

/// The median of one figure of several runs.
pub fn median(costs: &[Cost], figure: impl Fn(&Cost) -> f64) -> f64 {
    percentile(costs.iter().map(figure).collect(), 0.5)
}

/// The value below which a share of the values lies.
pub fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// What a running process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time of all threads.
    pub cpu_ms: f64,
    /// Bytes it made the kernel write.
    pub written_bytes: f64,
    /// Times that one of its threads went from waiting to running.
    pub wakeups: f64,
    /// Resident memory.
    pub resident_kib: f64,
    /// The most that was resident at any time.
    pub peak_kib: f64,
}

/// Looks at a running process.
pub fn usage(pid: u32) -> Usage {
    let number = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let (mut cpu_ns, mut wakeups) = (0.0, 0.0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten() {
        let task = task.path();
        let schedule = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        cpu_ns += schedule.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        wakeups += number(&task.join("status").to_string_lossy(), "voluntary_ctxt_switches:");
    }
    Usage {
        cpu_ms: cpu_ns / 1e6,
        wakeups,
        written_bytes: number(&format!("/proc/{pid}/io"), "write_bytes:"),
        resident_kib: number(&format!("/proc/{pid}/status"), "VmRSS:"),
        peak_kib: number(&format!("/proc/{pid}/status"), "VmHWM:"),
    }
}

/// The memory of some processes together at this moment, in KiB: what several of them map counts once among them.
pub fn proportional_kib(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("");
        line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0)
    };
    pids.iter().map(of).sum()
}

/// How often the memory of running processes is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Looks at the memory of running processes until it is asked for the most.
pub struct MemoryWatch {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<f64>,
}

impl MemoryWatch {
    /// Begins to look at these.
    pub fn start(pids: Vec<u32>) -> MemoryWatch {
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut most = 0.0;
            while !ended.load(Ordering::Acquire) {
                most = f64::max(most, proportional_kib(&pids));
                std::thread::park_timeout(LOOK);
            }
            most
        });
        MemoryWatch { ends, thread }
    }

    /// The most that all of them held together at one moment, in KiB.
    pub fn most_kib(self) -> f64 {
        self.ends.store(true, Ordering::Release);
        self.thread.join().expect("looking does not fail")
    }
}
