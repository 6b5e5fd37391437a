//! What drives requests over a network: one thread for every backend and transport, made when the first of them asks something.
//!
//! Invariant: every call blocks its caller until its work is done, or until the program is to end and has waited a moment more; nothing
//! async is seen outside the module that asks. Knows nothing of requests: how long one may take is its caller's word.

use std::io;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What is under way when the program is to end has so long to come to its own end.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// When the last moment is over, once the program is to end.
static ENDS_AT: LazyLock<Ending> = LazyLock::new(Ending::default);

/// A word that ends waits: those that stand, and all that begin later.
struct Ending(watch::Sender<Option<Instant>>);

impl Default for Ending {
    fn default() -> Ending {
        Ending(watch::Sender::new(None))
    }
}

impl Ending {
    fn say(&self) {
        self.0.send_if_modified(|at| at.is_none() && at.replace(Instant::now() + LAST_MOMENT).is_none());
    }

    /// What came of the work; `None` if the word came and nothing did within the last moment.
    async fn before<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut word = self.0.subscribe();
        let over = async {
            match word.wait_for(Option::is_some).await.map(|at| *at) {
                Ok(Some(at)) => sleep_until(at).await,
                // Whoever could say it is gone.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = over => None,
        }
    }
}

/// The program is to end: nobody waits for a backend any more, however long that may take by its own limits. For the whole process, for good.
pub fn end() {
    ENDS_AT.say();
}

fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, io::ErrorKind>> = OnceLock::new();
    let make = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(4).thread_name("larder-lines").enable_all();
        builder.build().map_err(|error| error.kind())
    };
    RUNTIME.get_or_init(make).as_ref().map_err(|kind| (*kind).into())
}

/// Runs work to its end. Must not be called from the runtime's own threads; nothing of ours is.
///
/// Errors: no thread can be had, and for this process it stays so; TimedOut if the program is to end. Then what was asked may have
/// been done, as after a line that broke.
pub fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let ended = || io::Error::new(io::ErrorKind::TimedOut, "larder was told to end, and waits for no answer");
    runtime()?.block_on(ENDS_AT.before(work)).ok_or_else(ended)
}

/// Where work goes that outlives a call; whoever spawns it ends it. Errors: as of `block_on`.
pub fn handle() -> io::Result<Handle> {
    Ok(runtime()?.handle().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn a_wait_that_stands_and_one_that_begins_later_end_with_the_last_moment_and_what_is_done_is_done() {
        run(async {
            let ending = Ending::default();
            assert_eq!(ending.before(async { 1 }).await, Some(1), "nobody said it");

            let long_ago = Instant::now().checked_sub(LAST_MOMENT).expect("this machine runs longer");
            let said = async { ending.0.send_replace(Some(long_ago)) };
            let (stands, _) = tokio::join!(ending.before(std::future::pending::<()>()), said);
            assert_eq!(stands, None);
            assert_eq!(ending.before(std::future::pending::<()>()).await, None, "it begins later");
            assert_eq!(ending.before(async { 2 }).await, Some(2), "an answer that is there is not thrown away");

            ending.say();
            assert_eq!(*ending.0.borrow(), Some(long_ago), "who says it twice gets no second moment");
        });
    }
}
