//! Hearing of what changes in a folder, whoever changes it.
//!
//! Invariant: a change is told soon, or, where the kernel does not tell of it, within seconds; it may be told in vain. One thread, which ends when
//! this is dropped. Reads nothing of what stands in the folder.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_patterns::{PatternLists, Rules};

use crate::scan::Root;
use crate::watch::{Hint, WatchOptions, Watcher};

/// Between two guesses where the kernel does not tell.
const DEAF: Duration = Duration::from_secs(2);
/// Where it does, nothing need be guessed; for hints that were lost all the same.
const QUIET: Duration = Duration::from_secs(600);

/// What changed.
pub enum Change {
    /// This name, relative to the folder.
    Name(String),
    /// It is not known what.
    Anything,
}

enum Word {
    Hints,
    Stop,
}

/// Listens until it is dropped.
pub struct Watching {
    words: Sender<Word>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Listens to everything in `folder` that is not hidden.
    pub fn start(folder: &Path, tell: impl Fn(Change) + Send + 'static) -> io::Result<Watching> {
        let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
        let root = Arc::new(Root::open(folder).map_err(|error| other(&error))?);
        let lists = PatternLists { shared: vec!["**".to_owned(), "!.*/**".to_owned()], ..PatternLists::default() };
        let (rules, _) = Rules::compile(&lists).map_err(|error| other(&error))?;
        let (words, inbox) = channel();
        let wake = words.clone();
        let watcher = Watcher::start(root, Arc::new(rules), WatchOptions::default(), move || {
            // Nobody listens any more.
            let _ = wake.send(Word::Hints);
        });
        let (watcher, _) = watcher.map_err(|error| other(&error))?;
        let body = move || {
            loop {
                let between = if watcher.mode().is_complete() { QUIET } else { DEAF };
                match inbox.recv_timeout(between) {
                    Ok(Word::Hints) => watcher.take().into_iter().for_each(|hint| tell(change_of(hint))),
                    Err(RecvTimeoutError::Timeout) => tell(Change::Anything),
                    Ok(Word::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("larder-serve-watch".to_owned()).spawn(body)?;
        Ok(Watching { words, thread: Some(thread) })
    }
}

fn change_of(hint: Hint) -> Change {
    match hint {
        Hint::Dirty(path) => Change::Name(path.as_str().to_owned()),
        Hint::DirtyTree(_) | Hint::Rescan { .. } | Hint::RootGone => Change::Anything,
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.words.send(Word::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by then.
            let _ = thread.join();
        }
    }
}
