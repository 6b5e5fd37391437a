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
use std::time::{Duration, Instant};

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
        failures: 0,
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
    /// Looks in a row that found no database.
    failures: u32,
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
            if self.rest(rung, stopped) {
                look = Some(FIRST_LOOK);
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

    /// After a look that failed, hears no bell for a while: those who look for a database that is gone make files beside its
    /// name, and would wake each other for ever. Answers whether a bell rang meanwhile.
    fn rest(&self, rung: &Receiver<()>, stopped: &AtomicBool) -> bool {
        let end = Instant::now() + self.rest_after_failure();
        let mut rang = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || stopped.load(Ordering::Acquire) {
                return rang;
            }
            match rung.recv_timeout(left) {
                Ok(()) => rang = true,
                Err(_) => return rang,
            }
        }
    }

    fn rest_after_failure(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => FIRST_LOOK.saturating_mul(1 << failures.min(16)).min(LAST_LOOK),
        }
    }

    /// Asks once. Answers whether anything was committed since the last time.
    fn look(&mut self) -> bool {
        match self.ask() {
            Ok(changed) => {
                self.failures = 0;
                changed
            }
            Err(error) => {
                self.session = None;
                self.failures = self.failures.saturating_add(1);
                if self.failures == 1 {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_database_that_is_gone_is_told_once_and_looked_for_ever_more_rarely() {
        let dir = tempfile::tempdir().expect("a folder");
        let told = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&told);
        let mut listener = Listener {
            path: dir.path().join("gone.db"),
            wait_ms: 0,
            query: Query::changes("app", None, Cursor::start(), 1),
            place: Cursor::start(),
            data_version: None,
            session: None,
            failures: 0,
            quiet: QUIET,
            sink: Box::new(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
            }),
        };
        assert_eq!(listener.rest_after_failure(), Duration::ZERO);

        let mut rests = Vec::new();
        for _ in 0..40 {
            assert!(!listener.look());
            rests.push(listener.rest_after_failure());
        }

        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert!(rests.is_sorted());
        assert_eq!((rests[0], rests[39]), (FIRST_LOOK * 2, LAST_LOOK));
        drop(Session::open(&listener.path, Role::Writer, 1_000).expect("it is made"));
        assert!(listener.look());
        assert_eq!(listener.rest_after_failure(), Duration::ZERO);
    }

    #[test]
    fn a_rest_ends_with_the_listening_and_remembers_the_bell() {
        let (bell, rung) = sync_channel(1);
        let listener = Listener {
            path: PathBuf::new(),
            wait_ms: 0,
            query: Query::changes("app", None, Cursor::start(), 1),
            place: Cursor::start(),
            data_version: None,
            session: None,
            failures: 30,
            quiet: QUIET,
            sink: Box::new(|_| {}),
        };
        bell.send(()).expect("there is room");

        assert!(!listener.rest(&rung, &AtomicBool::new(true)), "it ended before it heard the bell");
        drop(bell);
        assert!(listener.rest(&rung, &AtomicBool::new(false)), "the bell of before counts");
    }
}
