//! The life of one mount: made, notified, waited for, taken down.
//!
//! Invariant: notifications leave from one thread of their own, in order; a [`Mounted`] that is dropped takes its mount down; and
//! taking down never waits for people who still use it: they keep what they have open until they let go or the process ends.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::io::FdFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::answers::{Answers, Owner};
use super::catalog::{Catalog, Change, FileId, Giver};
use super::copies::{Copies, Held};
use super::counters::{Counters, RequestCounts};
use super::fuse::ViewFs;
use super::give::Giving;
use super::guard::{Beginning, Guard, Guardian};
use super::mount_table::MOUNT_NAME;
use super::node::Place;
use super::place::{PlaceError, prepare, unmount_path};
use super::queue::{Ended, Latch, Queue};
use super::refresh::Invalidation;
use super::replay::{Replayer, Stage, show_read_only};
use super::ring::Rings;
use super::scout::Scout;
use super::through::Through;
use super::view::{README_NAME, View, ViewError};
use super::worker::Worker;

/// How long the kernel may take to say goodbye to a view that nobody uses.
const GOODBYE: Duration = Duration::from_millis(200);
/// How long an unmount waits for a disk that copies lie on.
const ENDING: Duration = Duration::from_secs(2);
/// A wait without an end is made of these.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// Stands for "no name in particular": a name that is never shown.
const NO_NAME: &str = ".";
/// What the kernel reads ahead of who reads on, in KiB, where it lets itself be told: its own 128 make eight times as many requests. These
/// are two of the longest, one for each thread.
const READ_AHEAD_KIB: u32 = 2048;
/// Threads that answer requests; more gain nothing that was measured.
const DEFAULT_THREADS: usize = 2;

/// Why there are no rings, if the kernel does not offer any.
const NO_RINGS: &str = "this kernel does not offer it (Linux 6.14 and later do once root has written 1 to /sys/module/fuse/parameters/enable_uring)";

/// How long who opens a long file waits for its copy; nobody can end the wait, so it is short.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is told, in a sentence, why the view answered "input/output error"; each sentence once in a while, from any thread.
#[derive(Clone, Default)]
pub struct Teller(Option<Arc<Tell>>);

type Tell = dyn Fn(&str) + Send + Sync;

impl Teller {
    /// Tells by this; it must not wait for the view.
    pub fn by(tell: impl Fn(&str) + Send + Sync + 'static) -> Teller {
        Teller(Some(Arc::new(tell)))
    }

    pub(super) fn tell(&self, sentence: &str) {
        if let Some(tell) = &self.0 {
            tell(sentence);
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Teller").field(&self.0.is_some()).finish()
    }
}

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Who is told why something could not be shown.
    pub teller: Teller,
    /// Other users may look, too; a user other than root needs `user_allow_other` in `/etc/fuse.conf` for that.
    pub allow_other: bool,
    /// Extended attributes tell who wrote each file. They cost `ls -l` its speed: it asks for some of every file.
    pub xattrs: bool,
    /// Tell inotify of changes from elsewhere. Only root can; and the kernel then asks once more for the attributes of whatever was read.
    pub inotify: bool,
    /// Have the kernel read long files from plain copies. Only root can; everybody else is told so and has the usual view. Opening any file
    /// then asks the process behind the view.
    pub passthrough: Option<Passthrough>,
    /// Have the kernel's requests come through rings in memory, one a processor, where it lets itself be asked (`fuse.enable_uring`).
    pub rings: bool,
    /// Roots of projects, inside which no view is mounted.
    pub project_roots: Vec<PathBuf>,
    /// Threads that answer requests; `None` = 2.
    pub threads: Option<usize>,
    /// Who takes the view down if this process is killed; `None` leaves that to whoever comes to the place next.
    pub guardian: Option<Guardian>,
}

/// Where copies of long files lie, without a name.
#[derive(Clone, Debug)]
pub struct Passthrough {
    /// A folder, made when it is needed; the one around it is there.
    pub folder: PathBuf,
    /// What all of them may take, in bytes.
    pub bound_bytes: u64,
    /// How long who opens a file waits for its copy, before it is read as usual.
    pub patience: Duration,
}

impl Passthrough {
    /// With the patience that people have.
    pub fn new(folder: PathBuf, bound_bytes: u64) -> Passthrough {
        Passthrough { folder, bound_bytes, patience: PATIENCE }
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The kernel or the helper refused.
    #[error("mount at {dir}: {source}", dir = dir.display())]
    Refused {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else than root wants what only root can have.
    #[error("mount at {dir}: only root's views can tell inotify of changes from elsewhere", dir = dir.display())]
    OnlyRoot {
        /// Where.
        dir: PathBuf,
    },
    /// The system gave no thread.
    #[error("{what} for the mount at {dir}", dir = dir.display())]
    System {
        /// What was attempted.
        what: &'static str,
        /// Where.
        dir: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// SIGINT, SIGTERM and SIGHUP, caught from now on. Make it before the mount: a signal in between would leave a dead view.
pub struct StopSignals {
    signals: signal_hook::iterator::Signals,
}

impl StopSignals {
    /// Registers for the signals; errors are the system's.
    pub fn register() -> std::io::Result<StopSignals> {
        Ok(StopSignals { signals: signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])? })
    }
}

/// A mounted view.
pub struct Mounted {
    dir: PathBuf,
    session: Option<BackgroundSession>,
    counters: Arc<Counters>,
    queue: Arc<Queue>,
    sender: Option<JoinHandle<()>>,
    end: Arc<Latch>,
    tells_watchers: bool,
    copier: Option<Copier>,
    has_rings: bool,
    giving: Option<Arc<Giving>>,
    /// Ended last: what is left of the view until then is its.
    guard: Option<Guard>,
}

/// Mounts `view` at `dir`, which is created if absent; a dead view there is replaced.
///
/// Works for root by itself and for users through `fusermount3`. Returns when the mount can be used.
pub fn mount<C: Catalog + 'static>(
    view: Arc<View<C>>,
    dir: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let dir = prepare(dir, &options.project_roots)?;
    if options.inotify && !rustix::process::geteuid().is_root() {
        return Err(MountError::OnlyRoot { dir });
    }
    let counters = Arc::new(Counters::default());
    let owner = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let replayer = Arc::new(Replayer::default());
    let through = options.passthrough.as_ref().and_then(|wanted| through(wanted, &options.teller));
    let answers = Arc::new(Answers {
        view: Arc::clone(&view),
        counters: Arc::clone(&counters),
        owner,
        allow_other: options.allow_other,
        xattrs: options.xattrs,
        replayer: Arc::clone(&replayer),
        through: through.clone(),
        teller: options.teller.clone(),
        scout: Scout::new(&view),
        told: Mutex::default(),
        listed: Mutex::default(),
    });
    let refused = |source| MountError::Refused { dir: dir.clone(), source };
    // Before the mount, which takes as long as it does to begin.
    let guard = options.guardian.as_ref().and_then(begin_guard);
    // Only root can show one mount read-only in one place and writable in another.
    let can_replay = options.inotify;
    let ringed = options.rings.then(|| begin_with_rings(&answers, &dir, &config(options, can_replay)));
    let ringed = ringed.and_then(|ringed| ringed.inspect_err(|why| tell_no_rings(&options.teller, why)).ok());
    let has_rings = ringed.is_some();
    let may_give = guard.as_ref().map(Beginning::can_abort);
    let begun = ringed.map_or_else(|| begin(&answers, &dir, &config(options, can_replay), may_give), Ok);
    let Begun { session, end, giving } = begun.map_err(refused)?;
    read_far_ahead(&dir);
    let device = match can_replay.then(|| show_read_only(&dir)) {
        Some(Err(source)) => {
            // Nothing is left mounted that the kernel lets anybody write to.
            drop(session);
            return Err(refused(source));
        }
        Some(Ok(())) => rustix::fs::stat(&dir).ok().map(|facts| facts.st_dev),
        None => None,
    };
    let queue = Arc::new(Queue::default());
    let replay = device.map(|device| Replay { replayer, dir: dir.clone(), device });
    let sender = start_sender(session.notifier(), Arc::clone(&queue), replay, giving.clone());
    let sender = sender.map_err(|source| MountError::System { what: "start a thread", dir: dir.clone(), source })?;
    if let Some(giving) = &giving {
        view.catalog().give_by(Arc::clone(giving) as Arc<dyn Giver>);
    }
    let copier = through.and_then(|through| agree(through, &dir, &options.teller)).map(|through| {
        let copier = Copier::start(through, view);
        copier.map_err(|source| MountError::System { what: "start a thread", dir: dir.clone(), source })
    });
    let guard = guard.map(|guard| guard.over(&dir));
    let mut mounted = Mounted {
        dir,
        session: Some(session),
        counters,
        queue,
        sender: Some(sender),
        end,
        tells_watchers: device.is_some(),
        copier: None,
        has_rings,
        giving,
        guard,
    };
    mounted.copier = copier.transpose()?;
    Ok(mounted)
}

/// Without one the view is as right, and is left dead when its process is killed.
fn begin_guard(guardian: &Guardian) -> Option<Beginning> {
    Beginning::new(guardian).inspect_err(|error| tracing::debug!("guard the view: {error}")).ok()
}

/// A connection to the kernel, and what says that it is over.
struct Begun {
    session: BackgroundSession,
    end: Arc<Latch>,
    giving: Option<Arc<Giving>>,
}

/// Mounts; the kernel's requests come through the device.
fn begin<C: Catalog + 'static>(
    answers: &Arc<Answers<C>>,
    dir: &Path,
    config: &Config,
    may_give: Option<Arc<AtomicBool>>,
) -> io::Result<Begun> {
    let (fs, end) = ViewFs::new(answers, None);
    // Files that the kernel opens as copies have their bytes from there. Where it cannot be had, all bytes are asked for.
    let may_give = may_give.filter(|_| answers.through.is_none());
    let session = connect(fs, dir, config)?;
    let giving = may_give.map(|may| Giving::start(session.as_fd(), &answers.counters, may));
    let giving = giving.and_then(|giving| giving.inspect_err(|error| tracing::debug!("hand on bytes: {error}")).ok());
    Ok(Begun { session: session.spawn()?, end, giving: giving.map(Arc::new) })
}

fn connect<C: Catalog + 'static>(fs: ViewFs<C>, dir: &Path, config: &Config) -> io::Result<Session<ViewFs<C>>> {
    let session = Session::new(fs, dir, config)?;
    // The helper hands it over as one that is passed on: a program that is begun from here would keep the view from ending with this process.
    rustix::io::fcntl_setfd(session.as_fd(), FdFlags::CLOEXEC)?;
    Ok(session)
}

/// Mounts; they come through rings. Errors: nothing is mounted.
fn begin_with_rings<C: Catalog + 'static>(answers: &Arc<Answers<C>>, dir: &Path, config: &Config) -> io::Result<Begun> {
    if answers.through.is_some() {
        return Err(io::Error::other("long files are read from copies, which only the device can be told of"));
    }
    let rings = Rings::new(answers)?;
    let agreed = Arc::new(AtomicBool::new(false));
    let (fs, end) = ViewFs::new(answers, Some(Arc::clone(&agreed)));
    let session = connect(fs, dir, config)?;
    if !agreed.load(Ordering::SeqCst) {
        return Err(io::Error::other(NO_RINGS));
    }
    if let Err(why) = rings.start(session.as_fd()) {
        // The kernel answers nobody: whoever asked already is let go with the connection, and nothing stays mounted.
        drop(session);
        let _ = unmount_path(dir);
        return Err(why);
    }
    // Whoever hands bytes on through rings is not let go of so surely when all are killed.
    Ok(Begun { session: session.spawn()?, end, giving: None })
}

fn tell_no_rings(teller: &Teller, why: &io::Error) {
    teller.tell(&format!("take requests through io_uring: {why}; they are taken as usual"));
}

/// What is needed for copies; `None`, aloud, for a user who cannot have them.
fn through(wanted: &Passthrough, teller: &Teller) -> Option<Arc<Through>> {
    if !rustix::process::geteuid().is_root() {
        tell_refusal(teller, "only root's views can");
        return None;
    }
    Some(Arc::new(Through::new(Copies::new(wanted.folder.clone(), wanted.bound_bytes, wanted.patience))))
}

/// Has the kernel say whether it takes copies, by the first file that is opened; `None`, aloud, if it does not.
fn agree(through: Arc<Through>, dir: &Path, teller: &Teller) -> Option<Arc<Through>> {
    // What comes of it is of no interest: it was asked for, and that is answered after the kernel was.
    let _ = std::fs::File::open(dir.join(README_NAME));
    match through.refusal() {
        Some(why) => {
            tell_refusal(teller, why);
            None
        }
        None => Some(through),
    }
}

fn tell_refusal(teller: &Teller, why: &str) {
    teller.tell(&format!("read long files from copies: {why}; they are read as usual"));
}

/// The thread that makes copies.
struct Copier {
    through: Arc<Through>,
    worker: Worker,
    /// Answers who waits for too long.
    watch: JoinHandle<()>,
}

impl Copier {
    fn start<C: Catalog + 'static>(through: Arc<Through>, view: Arc<View<C>>) -> std::io::Result<Copier> {
        let copies = Arc::clone(&through);
        let work = move || copies.copies.work(|node, offset, len| view.read(node, offset, len).ok());
        let watched = Arc::clone(&through);
        let watch = move || watched.copies.watch();
        let watch = std::thread::Builder::new().name("larder-patience".to_owned()).spawn(watch)?;
        let worker = Worker::start("larder-copies", work).inspect_err(|_| through.copies.close())?;
        Ok(Copier { through, worker, watch })
    }

    fn end(self) {
        self.through.copies.close();
        // It waits for no disk, and runs nothing that could panic.
        let _ = self.watch.join();
        if !self.worker.end(ENDING) {
            tracing::debug!(
                "the disk with the copies of long files does not answer; what is left of them goes when it does"
            );
        }
    }
}

/// Has the kernel ask for more at once. Only root may; everybody else reads as before.
fn read_far_ahead(dir: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Ok(facts) = rustix::fs::stat(dir) {
        let (major, minor) = (rustix::fs::major(facts.st_dev), rustix::fs::minor(facts.st_dev));
        let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = std::fs::write(knob, READ_AHEAD_KIB.to_string());
    }
}

fn config(options: &MountOptions, is_writable: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        if is_writable { MountOption::RW } else { MountOption::RO },
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(MOUNT_NAME.to_owned()),
        MountOption::Subtype(MOUNT_NAME.to_owned()),
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.unwrap_or(DEFAULT_THREADS).max(1));
    config
}

/// What the sender needs to tell watchers.
struct Replay {
    replayer: Arc<Replayer>,
    dir: PathBuf,
    device: u64,
}

fn start_sender(
    notifier: Notifier,
    queue: Arc<Queue>,
    replay: Option<Replay>,
    giving: Option<Arc<Giving>>,
) -> std::io::Result<JoinHandle<()>> {
    let send_all = move || {
        while let Some((batch, events)) = queue.take() {
            let wanted = replay.as_ref().filter(|_| !events.is_empty());
            let stage = wanted.map(|replay| Stage::open(&replay.replayer, &replay.dir, replay.device));
            // Without it watchers are told nothing, and the view is as fresh as ever.
            let stage =
                stage.and_then(|stage| stage.inspect_err(|error| tracing::debug!("tell watchers: {error}")).ok());
            stage.iter().for_each(|stage| stage.before(&events));
            // What of it is being handed on now is there when the kernel is told to forget it.
            giving.iter().for_each(|giving| giving.wait_for(&forgotten(&batch)));
            send(&notifier, &batch);
            stage.iter().for_each(|stage| stage.after(&events));
            drop(stage);
            queue.sent();
        }
    };
    std::thread::Builder::new().name("larder-notify".to_owned()).spawn(send_all)
}

/// The files whose bytes the kernel forgets with this.
fn forgotten(batch: &BTreeSet<Invalidation>) -> Vec<FileId> {
    let file = |invalidation: &Invalidation| match (&invalidation.name, Place::of(invalidation.parent)) {
        (None, Some(Place::File(file))) => Some(file),
        _ => None,
    };
    batch.iter().filter_map(file).collect()
}

/// Names first, listings after.
///
/// A listing that the kernel asked for before the change may arrive after this. A name's notification waits for the folder's lock, and so
/// for that listing; therefore each folder gets at least one, and only then is what it holds dropped.
fn send(notifier: &Notifier, batch: &BTreeSet<Invalidation>) {
    for Invalidation { parent, name } in batch {
        let name = name.as_deref().unwrap_or(NO_NAME);
        // What the kernel does not hold it need not forget; a mount that is gone holds nothing.
        let _ = notifier.inval_entry(INodeNo(parent.0), OsStr::new(name));
    }
    let parents: BTreeSet<u64> = batch.iter().map(|invalidation| invalidation.parent.0).collect();
    for parent in parents {
        let _ = notifier.inval_inode(INodeNo(parent), 0, 0);
    }
}

impl Mounted {
    /// Where it is mounted: the real path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel's requests so far.
    pub fn counters(&self) -> RequestCounts {
        self.counters.counts()
    }

    /// Has the kernel forget what [`View::refresh`] found stale, soon, from another thread.
    ///
    /// Call it with no lock held that the catalog needs: it waits while very much is pending, and the kernel may in turn be waiting for
    /// an answer of the catalog.
    pub fn notify(&self, invalidations: Vec<Invalidation>) {
        self.queue.add(invalidations, Vec::new());
    }

    /// The same for changes that the catalog already shows; and whoever watches a folder with inotify is told of them, where this can
    /// be done. Errors: nothing was told to anybody.
    pub fn changed<C: Catalog>(&self, view: &View<C>, changes: &[Change]) -> Result<(), ViewError> {
        let invalidations = view.refresh(changes)?;
        let events = if self.tells_watchers { view.events(changes)? } else { Vec::new() };
        self.queue.add(invalidations, events);
        Ok(())
    }

    /// Has the kernel forget the bytes of files, wherever they are shown: whoever reads on asks for them again. Of copies nothing is left.
    pub fn forget(&self, files: &[FileId]) {
        if let Some(copier) = &self.copier {
            copier.through.copies.forget(files);
        }
        if let Some(giving) = &self.giving {
            giving.let_go();
        }
        let bytes = |file: &FileId| Invalidation { parent: Place::File(*file).node(), name: None };
        self.notify(files.iter().map(bytes).collect());
    }

    /// What there is of copies; `None` if the kernel takes none here, or nobody wanted any.
    pub fn copies(&self) -> Option<Held> {
        self.copier.as_ref().map(|copier| copier.through.copies.held())
    }

    /// True if the kernel's requests come through rings.
    pub fn has_rings(&self) -> bool {
        self.has_rings
    }

    /// True while the kernel is handed bytes that it has not asked for.
    #[cfg(test)]
    pub(super) fn is_handing_on(&self) -> bool {
        self.giving.as_ref().is_some_and(|giving| giving.is_at_it())
    }

    /// True while a process is there that ends the connection if this one is killed, whatever its threads are doing then.
    pub fn is_guarded(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::can_abort)
    }

    /// True if changes from elsewhere reach inotify.
    pub fn tells_watchers(&self) -> bool {
        self.tells_watchers
    }

    /// Waits until everything given to [`Mounted::notify`] so far has been sent; false when `timeout` came first.
    pub fn settle(&self, timeout: Duration) -> bool {
        self.queue.settle(timeout)
    }

    /// Waits until somebody unmounts it or a signal comes; then it is taken down.
    pub fn serve(self, mut stop: StopSignals) -> Result<Ended, MountError> {
        let handle = stop.signals.handle();
        let end = Arc::clone(&self.end);
        let watch = move || {
            if let Some(signal) = stop.signals.forever().next() {
                end.set(Ended::Signal(signal));
            }
        };
        let start = std::thread::Builder::new().name("larder-signals".to_owned()).spawn(watch);
        let watcher =
            start.map_err(|source| MountError::System { what: "start a thread", dir: self.dir.clone(), source })?;
        let ended = self.end.wait();
        handle.close();
        // The thread runs nothing that could panic, and ends when the handle closes.
        let _ = watcher.join();
        self.unmount()?;
        Ok(ended)
    }

    /// Waits until somebody unmounts it; false when `timeout` came first.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        self.end.wait_for(Ended::Unmounted, timeout)
    }

    /// Calls `tell` once somebody has unmounted it, on a thread that ends with that.
    pub fn when_ended(&self, tell: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let end = Arc::clone(&self.end);
        let wait = move || {
            while !end.wait_for(Ended::Unmounted, LONG) {}
            tell();
        };
        std::thread::Builder::new().name("larder-mount-end".to_owned()).spawn(wait).map(drop)
    }

    /// Takes it down. Those who still use it keep what they have open; nobody waits for them.
    pub fn unmount(mut self) -> Result<(), MountError> {
        Ok(self.take_down()?)
    }

    fn take_down(&mut self) -> Result<(), PlaceError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        self.queue.close();
        self.giving.iter().for_each(|giving| giving.end());
        let outcome = if self.end.is_set_to(Ended::Unmounted) { Ok(()) } else { unmount_path(&self.dir) };
        let outcome = match outcome {
            Err(PlaceError::NotMounted { .. } | PlaceError::Foreign { .. }) => Ok(()),
            other => other,
        };
        if self.end.wait_for(Ended::Unmounted, GOODBYE) {
            let _ = session.join();
        } else {
            // Somebody still uses it. Dropping the session would unmount once more, by
            // path, and could hit a newer mount; its threads end by themselves with the last user.
            std::mem::forget(session);
        }
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        if let Some(copier) = self.copier.take() {
            copier.end();
        }
        // Whoever uses the view still may have somebody wait who hands bytes on: it is guarded as long as that waits.
        let guard = self.guard.take();
        if let Some(giving) = self.giving.as_ref().filter(|giving| giving.is_at_it()) {
            giving.keep_meanwhile(guard);
        }
        outcome
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!("{error}");
        }
    }
}
