//! Waits for other processes' commits without polling: the kernel tells of writes to the file, one connection asks whether they count.
//!
//! SQLite publishes a commit in shared memory, *after* the last write the kernel tells of (and after its fsync), so every event is followed
//! by a short row of questions at growing distances. Invariant: between events there is one question a minute.
//! Deliberately absent: reading rows. A wake is a hint; the caller asks from its own cursor.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{Config, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher};

use super::session::{Role, Session};
use crate::{AdapterError, Cursor, ErrorKind, Query, Sink, Subscription, Wake};

const QUIET: Duration = Duration::from_secs(60);
// Without inotify (its limit reached, a file system without it) the question is asked every second, and `status` says so.
const DEAF: Duration = Duration::from_secs(1);
const FIRST_LOOK: Duration = Duration::from_millis(1);
// The last distance; together with those before it, a commit's fsync may take 4 s.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Starts listening for changes of the space of `query` after `from`.
pub(super) fn listen(
    path: &Path,
    wait_ms: u64,
    query: &Query,
    from: Cursor,
    sink: Sink,
    degraded: Arc<Mutex<Option<String>>>,
) -> Result<Subscription, AdapterError> {
    let stop = Arc::new(AtomicBool::new(false));
    let (bell, rung) = sync_channel(1);
    // The watch stands before the first question: a commit between the two is seen by one of them.
    let watcher = watch(path, bell.clone());
    let watched = watcher.is_ok();
    if let Err(error) = &watcher {
        let line = format!("sqlite: {} is asked for changes every second: {error}", path.display());
        *degraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }
    let session = Some(Session::open(path, Role::Reader, wait_ms)?);
    let quiet = if watched { QUIET } else { DEAF };
    let mut listener = Listener {
        path: path.to_owned(),
        wait_ms,
        query: query.clone(),
        place: from,
        data_version: None,
        session,
        lost: false,
        quiet,
        sink,
    };
    let stopped = Arc::clone(&stop);
    let spawned = std::thread::Builder::new().name("larder-sqlite-listen".to_owned()).spawn(move || {
        listener.run(&rung, &stopped);
    });
    let thread =
        spawned.map_err(|error| AdapterError::caused(ErrorKind::Unavailable, "subscribe: start a thread", error))?;
    let thread = Mutex::new(Some((thread, watcher)));
    Ok(Subscription::new(move || {
        stop.store(true, Ordering::Release);
        // A full channel means that the thread is about to look anyway.
        let _ = bell.try_send(());
        if let Some((thread, watcher)) = thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(watcher);
            // A panic in the sink is the sink's own; it has been reported on its thread.
            let _ = thread.join();
        }
    }))
}

fn watch(path: &Path, bell: SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let names = names(path);
    let ring = move |event: notify::Result<notify::Event>| {
        let concerns = match &event {
            Ok(event) => {
                event.need_rescan()
                    || event
                        .paths
                        .iter()
                        .any(|path| path.file_name().is_some_and(|name| names.iter().any(|n| n == name)))
            }
            Err(_) => true,
        };
        if concerns {
            // One bell is enough: it is a hint, and the listener asks the database.
            let _ = bell.try_send(());
        }
    };
    let config = Config::default().with_event_kinds(EventKindMask::CORE);
    let mut watcher = RecommendedWatcher::new(ring, config)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn names(path: &Path) -> Vec<OsString> {
    let Some(name) = path.file_name() else {
        return Vec::new();
    };
    let with = |suffix: &str| {
        let mut name = name.to_owned();
        name.push(suffix);
        name
    };
    vec![name.to_owned(), with("-wal"), with("-journal")]
}

struct Listener {
    path: PathBuf,
    wait_ms: u64,
    query: Query,
    place: Cursor,
    data_version: Option<i64>,
    session: Option<Session>,
    lost: bool,
    quiet: Duration,
    sink: Sink,
}

impl Listener {
    fn run(&mut self, rung: &Receiver<()>, stopped: &AtomicBool) {
        let mut look = None;
        loop {
            if stopped.load(Ordering::Acquire) {
                return;
            }
            if self.look() {
                // Another commit's event may have merged with the one that brought us here.
                look = look.map(|_| FIRST_LOOK);
            }
            match rung.recv_timeout(look.unwrap_or(self.quiet)) {
                Ok(()) => look = Some(FIRST_LOOK),
                Err(RecvTimeoutError::Timeout) => {
                    look = look.map(|look| look * 2).filter(|look| *look <= LAST_LOOK);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Asks once. Answers whether anything was committed since the last time.
    fn look(&mut self) -> bool {
        match self.ask() {
            Ok(changed) => {
                self.lost = false;
                changed
            }
            Err(error) => {
                self.session = None;
                if !self.lost {
                    self.lost = true;
                    (self.sink)(Wake::Lost { reason: error.to_string() });
                }
                false
            }
        }
    }

    fn ask(&mut self) -> Result<bool, AdapterError> {
        let session = match self.session.take() {
            Some(session) if session.is_current(&self.path) => self.session.insert(session),
            _ => {
                self.data_version = None;
                self.session.insert(Session::open(&self.path, Role::Reader, self.wait_ms)?)
            }
        };
        let failed = session.failed("ask for changes in");
        let version: i64 = session.connection.query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(failed)?;
        if self.data_version == Some(version) {
            return Ok(false);
        }
        let (concerned, place) = session.changed_since(&self.query, &self.place)?;
        self.data_version = Some(version);
        self.place = place;
        if concerned {
            (self.sink)(Wake::Changed);
        }
        Ok(true)
    }
}
