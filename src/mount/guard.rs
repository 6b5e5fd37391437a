//! The view's side of its guardian: a thread begins that process, tells it what it guards, and waits for it.
//!
//! Invariant: the thread that begins it waits for it as long as both are there, in a wait that a kill of the view ends at once; whoever
//! asks is told that it can end the connection only while it is there and has said so. A view without one is the usual view. What
//! it does is in `guardian`.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::guardian::{CAN_ABORT, Charge, GUARDIAN_WORD, Mark};

/// This program, whatever stands in its place on the disk by now.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// What it needs of the environment: where programs are found that unmount for users.
const PATH: &str = "PATH";

/// Who guards a view.
#[derive(Clone, Debug)]
pub struct Guardian(Kind);

#[derive(Clone, Debug)]
enum Kind {
    ThisProgram,
    #[cfg(test)]
    Assumed,
}

impl Guardian {
    /// Another process of this program, which is the `larder` command: it calls [`super::guard_view`] when it is told [`GUARDIAN_WORD`].
    pub fn this_program() -> Guardian {
        Guardian(Kind::ThisProgram)
    }

    /// Nobody, who is taken at his word all the same: for laws of what needs one.
    #[cfg(test)]
    pub fn assumed() -> Guardian {
        Guardian(Kind::Assumed)
    }
}

/// A guardian that guards nothing yet.
pub(super) struct Beginning {
    // First: it need not wait for a word when it is ended.
    tell: Sender<Charge>,
    guard: Guard,
}

/// A guardian and the thread that waits for it.
pub(super) struct Guard {
    can_abort: Arc<AtomicBool>,
    ending: Arc<Mutex<Ending>>,
    thread: Option<JoinHandle<()>>,
}

/// How it is ended.
#[derive(Default)]
struct Ending {
    is_over: bool,
    process: Option<OwnedFd>,
}

fn lock(ending: &Mutex<Ending>) -> MutexGuard<'_, Ending> {
    ending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Beginning {
    /// Begins one. Errors: the system gives no thread; whatever else fails leaves a view without one.
    pub(super) fn new(guardian: &Guardian) -> io::Result<Beginning> {
        let (tell, told) = channel();
        let mut guard = Guard { can_abort: Arc::default(), ending: Arc::default(), thread: None };
        match guardian.0 {
            Kind::ThisProgram => {
                let (can_abort, ending) = (Arc::clone(&guard.can_abort), Arc::clone(&guard.ending));
                let work = move || {
                    if let Err(error) = keep(&told, &can_abort, &ending) {
                        tracing::debug!("guard the view: {error}");
                    }
                };
                guard.thread = Some(Builder::new().name("larder-guard".to_owned()).spawn(work)?);
            }
            #[cfg(test)]
            Kind::Assumed => guard.can_abort.store(true, Ordering::SeqCst),
        }
        Ok(Beginning { tell, guard })
    }

    /// True once the guardian is there, and for as long as it can end the connection by itself.
    pub(super) fn can_abort(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.guard.can_abort)
    }

    /// Has it guard what is mounted at `dir`. Nobody waits until it does, some milliseconds later: a view that is killed before that is
    /// left dead.
    pub(super) fn over(self, dir: &Path) -> Guard {
        if let Ok(mark) = Mark::at(dir) {
            let process = rustix::process::getpid().as_raw_nonzero().get();
            // Where none could be begun nobody listens.
            let _ = self.tell.send(Charge { process, mark, dir: dir.to_owned() });
        }
        self.guard
    }
}

impl Guard {
    /// True for as long as the guardian is there and can end the connection by itself.
    pub(super) fn can_abort(&self) -> bool {
        self.can_abort.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    /// The view is taken down: the guardian goes without doing anything.
    fn drop(&mut self) {
        let mut ending = lock(&self.ending);
        ending.is_over = true;
        if let Some(process) = &ending.process {
            // It may have been killed by somebody else.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        drop(ending);
        if let Some(thread) = self.thread.take() {
            // It runs nothing that could panic, and ends with the guardian.
            let _ = thread.join();
        }
    }
}

/// What the thread does. The guardian is told by the kernel when it ends, and must be gone by then if the view lives.
fn keep(told: &Receiver<Charge>, can_abort: &AtomicBool, ending: &Mutex<Ending>) -> io::Result<()> {
    let mut child = spawn()?;
    let outcome = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => {
            let mut ending = lock(ending);
            let is_over = ending.is_over;
            ending.process = Some(process);
            drop(ending);
            if is_over { Ok(()) } else { charge(&mut child, told, can_abort) }
        }
        Err(errno) => Err(errno.into()),
    };
    if outcome.is_err() || lock(ending).is_over {
        // Of no use, or not wanted any more. It may be gone already.
        let _ = child.kill();
    }
    let ended = child.wait();
    can_abort.store(false, Ordering::SeqCst);
    outcome.and(ended.map(drop))
}

/// Tells it what it guards, and hears whether it does. Errors: it does not.
fn charge(child: &mut Child, told: &Receiver<Charge>, can_abort: &AtomicBool) -> io::Result<()> {
    let charge = told.recv().map_err(|_| io::Error::other("there is nothing to guard"))?;
    let (Some(mut tell), Some(mut hear)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    tell.write_all(&charge.to_bytes())?;
    // With this it knows that it was told all.
    drop(tell);
    let mut answer = [0];
    hear.read_exact(&mut answer)?;
    can_abort.store(answer == [CAN_ABORT], Ordering::SeqCst);
    Ok(())
}

fn spawn() -> io::Result<Child> {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("larder").arg(GUARDIAN_WORD);
    command.env_clear().envs(std::env::var_os(PATH).map(|path| (PATH, path)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}
