//! What the engine takes from the world: wall clock, randomness, host name, environment variables.
//!
//! Invariant: no module above reads the time, randomness or the process environment by itself; a test hands in
//! `Env::fixed` and gets the same run every time. Files and networks have their own seams (`scan`, `transport`).

mod files;
mod memory;
mod mounts;
mod threads;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub use files::{at_short_path, open_many_files, syncs_whole};
pub use memory::{give_memory_back, share_one_heap};
pub use mounts::{Mount, mount_of, mounts};
pub use threads::run_anywhere;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970; may jump, in both directions.
    fn wall_ms(&self) -> u64;
}

/// Fills buffers with unpredictable (or, in tests, reproducible) bytes.
pub trait Random: Send + Sync {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The kernel's randomness.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel hands out randomness once it has booted");
    }
}

/// A clock that moves only when told.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Starts at `wall_ms`.
    pub fn new(wall_ms: u64) -> ManualClock {
        ManualClock(AtomicU64::new(wall_ms))
    }

    /// Jumps to `wall_ms`, forward or back.
    pub fn set(&self, wall_ms: u64) {
        self.0.store(wall_ms, Ordering::SeqCst);
    }

    /// Moves forward.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Reproducible bytes from a seed (splitmix64); for tests and simulations, never for keys that matter.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The same seed gives the same bytes.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom(AtomicU64::new(seed))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Where Linux tells one start of the machine from another.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Everything the engine takes from the world, in one value.
#[derive(Clone)]
pub struct Env {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes ids and keys.
    pub random: Arc<dyn Random>,
    /// Waits this many milliseconds; in a reproducible world it only moves the clock.
    pub pause: Arc<dyn Fn(u64) + Send + Sync>,
    /// The host's name, for origin names.
    pub host: String,
    /// Names this start of the machine.
    pub boot: String,
    /// The process environment as it was at start.
    pub vars: BTreeMap<String, String>,
    /// Where state outside projects lives (`$XDG_STATE_HOME/larder`): consent, the owner key.
    pub state_home: PathBuf,
}

impl Env {
    /// The real world.
    pub fn system() -> Env {
        let vars: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let state_home = state_home(&vars);
        Env {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            pause: Arc::new(|ms| std::thread::sleep(std::time::Duration::from_millis(ms))),
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            boot: std::fs::read_to_string(BOOT_ID_FILE).unwrap_or_default().trim().to_owned(),
            vars,
            state_home,
        }
    }

    /// A reproducible world: time starts at `wall_ms`, randomness comes from `seed`, no variables.
    pub fn fixed(wall_ms: u64, seed: u64, host: &str, state_home: PathBuf) -> (Env, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(wall_ms));
        let paused = clock.clone();
        let env = Env {
            pause: Arc::new(move |ms| paused.advance(ms)),
            clock: clock.clone(),
            random: Arc::new(SeededRandom::new(seed)),
            host: host.to_owned(),
            boot: "first".to_owned(),
            vars: BTreeMap::new(),
            state_home,
        };
        (env, clock)
    }

    /// The value of a variable, unless it is unset or empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `count` random characters of `a-z2-7`.
    pub fn random_base32(&self, count: usize) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bytes = vec![0u8; count];
        self.random.fill(&mut bytes);
        bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
    }
}

fn state_home(vars: &BTreeMap<String, String>) -> PathBuf {
    let named = |name: &str| vars.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = named("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let home = || named("HOME").map(|home| home.join(".local/state"));
    base.or_else(home).unwrap_or_else(|| std::env::temp_dir().join("larder-state")).join("larder")
}
