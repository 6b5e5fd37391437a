//! A bell that the kernel rings when one database file, or its log, is written.
//!
//! SQLite publishes a commit in shared memory, after the write that the kernel tells of: who hears the bell asks at once
//! and a few times more, at growing distances ([`Looks`]). Invariant: between rings nothing wakes, but for one look a
//! minute. Reads nothing itself.

use std::path::Path;
use std::time::Duration;

use notify::{Config, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Without a ring.
const QUIET: Duration = Duration::from_secs(60);
/// Without a bell.
const DEAF: Duration = Duration::from_secs(1);
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// The last distance after a ring.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Rings until it is dropped.
pub struct FileBell(Option<RecommendedWatcher>);

impl FileBell {
    /// Calls `ring` on a thread of its own whenever the SQLite file at `path` or its log is written. Where the kernel does
    /// not tell (its limits, its file systems) it is silent, and [`Looks`] are asked for every second.
    pub fn of_database(path: &Path, ring: impl Fn() + Send + 'static) -> FileBell {
        FileBell(start(path, ring).ok())
    }

    /// When to look.
    pub fn looks(&self) -> Looks {
        Looks { next: Some(FIRST_LOOK), quiet: if self.0.is_some() { QUIET } else { DEAF } }
    }
}

fn start(path: &Path, ring: impl Fn() + Send + 'static) -> notify::Result<RecommendedWatcher> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let mut log = name.clone();
    log.push("-wal");
    let is_ours = move |path: &Path| path.file_name().is_some_and(|file| file == name || file == log);
    let on_event = move |event: notify::Result<notify::Event>| {
        let concerns = event.is_ok_and(|event| event.need_rescan() || event.paths.iter().any(|path| is_ours(path)));
        if concerns {
            ring();
        }
    };
    let config = Config::default().with_event_kinds(EventKindMask::CORE);
    let mut watcher = RecommendedWatcher::new(on_event, config)?;
    watcher.watch(path.parent().unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// How long to wait for the next ring before looking all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks {
    next: Option<Duration>,
    quiet: Duration,
}

impl Looks {
    /// How long.
    pub fn wait(&self) -> Duration {
        self.next.unwrap_or(self.quiet)
    }

    /// It rang, or a look found something.
    pub fn rang(&mut self) {
        self.next = Some(FIRST_LOOK);
    }

    /// A look found nothing.
    pub fn in_vain(&mut self) {
        self.next = self.next.map(|next| next * 2).filter(|next| *next <= LAST_LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_write_to_the_file_or_its_log_rings_and_one_beside_it_does_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("index.db");
        std::fs::write(&path, "before").expect("writes");
        let (ring, rung) = channel();
        let bell = FileBell::of_database(&path, move || ring.send(()).unwrap_or_default());
        assert_eq!(bell.looks().quiet, QUIET, "this machine can watch a folder");

        std::fs::write(folder.path().join("state.db"), "beside").expect("writes");
        std::fs::write(folder.path().join("index.db-wal"), "log").expect("writes");

        rung.recv_timeout(Duration::from_secs(30)).expect("the log was written");
        drop(bell);
        // Every ring was about the log: its creation and its writes, and nothing came before them.
        assert!(rung.iter().count() <= 4);
    }

    #[test]
    fn looks_come_soon_after_a_ring_and_then_once_a_minute() {
        let mut looks = Looks { next: None, quiet: QUIET };
        assert_eq!(looks.wait(), QUIET);

        looks.rang();
        let mut waited = Vec::new();
        while looks.wait() < QUIET {
            waited.push(looks.wait());
            looks.in_vain();
        }

        assert_eq!((waited.len(), waited[0]), (11, FIRST_LOOK));
        let soon = waited.iter().scan(Duration::ZERO, |at, wait| {
            *at += *wait;
            Some(*at)
        });
        assert_eq!(soon.take_while(|at| *at < Duration::from_millis(100)).count(), 6, "of what a view shows of it");
        assert!(waited.iter().sum::<Duration>() > Duration::from_secs(2));
    }
}
