//! The one place that drives `notify`: a set of single-folder watches.
//!
//! Only changes are asked for, no reads; and the closing of writers, which also tells of files that were written through a map.

use std::io::ErrorKind as IoErrorKind;
use std::path::PathBuf;

use notify::{
    Config, EventKindMask, PathOp, RecommendedWatcher, RecursiveMode, UpdatePathsError, WatchPathConfig, Watcher as _,
};

use super::mode::PollReason;

/// Called on the library's thread for each event; must not block.
pub(super) type Handler = Box<dyn FnMut(notify::Result<notify::Event>) + Send>;
/// Makes a fresh set of watches, at start and after an overflow.
pub(super) type MakeBackend = Box<dyn Fn(Handler) -> Result<Box<dyn Backend>, PollReason> + Send>;

/// Why a folder got no watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchFailure {
    /// It is not there any more.
    Gone,
    /// It may not be read.
    Denied,
    /// It must be polled.
    Poll(PollReason),
}

/// Watches on single folders.
pub(super) trait Backend: Send {
    /// Watches folders; one outcome for each, in order. Idempotent.
    fn watch(&mut self, folders: &[PathBuf]) -> Vec<Result<(), WatchFailure>>;
    /// Ends watches; those that ended by themselves are no error.
    fn unwatch(&mut self, folder: &std::path::Path);
}

/// Makes the real one.
pub(super) fn make_notify(handler: Handler) -> Result<Box<dyn Backend>, PollReason> {
    let kinds = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
    let config = Config::default().with_follow_symlinks(false).with_event_kinds(kinds);
    match RecommendedWatcher::new(handler, config) {
        Ok(watcher) => Ok(Box::new(NotifyBackend(watcher))),
        Err(error) => Err(match &error.kind {
            notify::ErrorKind::Io(io) if io.raw_os_error() == Some(libc::EMFILE) => PollReason::InstanceLimit,
            _ => PollReason::Failed { error: error.to_string() },
        }),
    }
}

struct NotifyBackend(RecommendedWatcher);

impl Backend for NotifyBackend {
    fn watch(&mut self, folders: &[PathBuf]) -> Vec<Result<(), WatchFailure>> {
        let single = WatchPathConfig::new(RecursiveMode::NonRecursive).with_dereference_symlinks(false);
        let mut operations: Vec<PathOp> =
            folders.iter().map(|folder| PathOp::Watch(folder.clone(), single.clone())).collect();
        let mut outcomes = Vec::with_capacity(folders.len());
        // Each round deals with at least one folder: the one that stopped it.
        while outcomes.len() < folders.len() {
            match self.0.update_paths(operations) {
                Ok(()) => {
                    outcomes.resize(folders.len(), Ok(()));
                    break;
                }
                Err(UpdatePathsError { source, remaining, .. }) => {
                    let failed = folders.len().saturating_sub(remaining.len() + 1);
                    outcomes.resize(failed.max(outcomes.len()), Ok(()));
                    outcomes.push(Err(failure(&source)));
                    operations = remaining;
                }
            }
        }
        outcomes
    }

    fn unwatch(&mut self, folder: &std::path::Path) {
        // An error means that the watch ended with its folder.
        let _ = self.0.unwatch(folder);
    }
}

fn failure(error: &notify::Error) -> WatchFailure {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => WatchFailure::Poll(PollReason::WatchLimit),
        notify::ErrorKind::PathNotFound => WatchFailure::Gone,
        notify::ErrorKind::Io(io) => match io.kind() {
            IoErrorKind::NotFound | IoErrorKind::NotADirectory => WatchFailure::Gone,
            IoErrorKind::PermissionDenied => WatchFailure::Denied,
            _ => WatchFailure::Poll(PollReason::Failed { error: io.to_string() }),
        },
        _ => WatchFailure::Poll(PollReason::Failed { error: error.to_string() }),
    }
}
