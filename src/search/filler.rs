//! A thread that keeps the words up to date behind a running project.
//!
//! Invariant: it begins a batch only while the gate is open, and a batch is short: whoever closes the gate waits for nobody, and shares the
//! machine with at most one batch. It only reads the index and the ledger, by connections of its own. Who made it joins it by dropping.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::SearchError;
use super::store::{Fts, remove};
use crate::index::{ContentReader, ONCE_CACHE_BYTES, Reader};
use crate::ledger::Ledger;

/// How much less eager than the rest of the program.
const NICE: i32 = 10;

/// Whether the project is at rest.
#[derive(Default)]
pub struct FillGate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_busy: bool,
    is_wanted: bool,
    is_over: bool,
}

impl FillGate {
    /// The project works: no batch begins until `rest`.
    pub fn busy(&self) {
        self.change(|state| state.is_busy = true);
    }

    /// The project rests, and something may be new.
    pub fn rest(&self) {
        self.change(|state| (state.is_busy, state.is_wanted) = (false, true));
    }

    fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until a batch may begin; false when none ever will. `is_first` waits for news as well.
    fn wait(&self, is_first: bool) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_closed = |state: &mut GateState| !state.is_over && (state.is_busy || is_first && !state.is_wanted);
        let mut state = self.changed.wait_while(state, is_closed).unwrap_or_else(PoisonError::into_inner);
        state.is_wanted &= !is_first;
        !state.is_over
    }
}

/// The thread; ends when dropped.
pub struct Filler {
    gate: Arc<FillGate>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Starts it for the project whose own files are in `larder_dir`. It does nothing until somebody has searched there.
    pub fn start(larder_dir: PathBuf, gate: Arc<FillGate>) -> std::io::Result<Filler> {
        let own = Arc::clone(&gate);
        let body = move || {
            // Of this thread alone; refused, it is merely as eager as the others.
            let _ = rustix::process::nice(NICE);
            while own.wait(true) {
                // What fails now is tried again after the next change; a search says what is wrong.
                if let Err(error) = catch_up(&larder_dir, &own) {
                    tracing::debug!("fill the full text: {error}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("larder-fts".to_owned()).spawn(body)?;
        Ok(Filler { gate, thread: Some(thread) })
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.gate.change(|state| state.is_over = true);
        if let Some(thread) = self.thread.take() {
            // A batch under way is finished; the thread runs nothing else that could last.
            let _ = thread.join();
        }
    }
}

fn catch_up(larder_dir: &std::path::Path, gate: &FillGate) -> Result<(), SearchError> {
    let (words, index) = (larder_dir.join("fts.db"), larder_dir.join("index.db"));
    if !words.exists() {
        return Ok(());
    }
    let index_of = Reader::open(&index)?;
    let Ok(ledger) = Ledger::open(larder_dir) else { return Ok(()) };
    let contents = ContentReader::with_cache(Arc::new(ledger), Reader::open(&index)?, ONCE_CACHE_BYTES);
    let mut fts = match Fts::open(&words, index_of.epoch()) {
        Err(error) if error.is_damage() => return remove(&words),
        other => other?,
    };
    while gate.wait(false) && fts.fill(&index_of, &contents)? {}
    Ok(())
}
