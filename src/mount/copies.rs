//! Plain copies of long contents, for the kernel to read without asking: which there are, who has them open, which goes first.
//!
//! Invariant: a copy has no name, so that nobody finds, changes or has to clear it, and it is gone with the process at the latest. It is handed on
//! only when it is whole, for reading alone, and every byte was checked against its segment's hash on the way into it. All who
//! have one file open read it in one way, as the kernel demands. Copies take no more than their bound, and no more than half of what the
//! disk has free; what cannot be copied is read as usual, and nobody is told of an error by that.
//! Deliberately not here: FUSE, and what stands behind the bytes. Nothing is kept for the next mount: nobody would have checked it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::catalog::FileId;
use super::node::NodeId;
use crate::model::ContentHash;

/// Shorter files are read as usual: they come in a few requests and then stay in the kernel's memory.
pub(super) const MIN_BYTES: u64 = super::MIN_CACHE_BYTES;
/// Read and written at once; in between nobody may want it any more.
const STEP_BYTES: usize = 1 << 20;
/// Copies at once, each of which keeps a file open.
const MAX_COPIES: usize = 256;
/// Contents remembered as not to be copied.
const MAX_FAILED: usize = 64;
/// What could not be copied is tried again after this.
const FAILED_FOR: Duration = Duration::from_secs(60);

/// Somebody who opens a file and waits for the answer.
pub(super) trait Opener: Send + 'static {
    /// What the kernel knows a copy by.
    type Backing: Send + Sync;

    /// Shows a copy to the kernel.
    fn back(&self, copy: &File) -> io::Result<Self::Backing>;

    /// The kernel reads the copy from now on.
    fn pass_through(self, backing: &Self::Backing);

    /// The view is asked for the bytes.
    fn read_usually(self);

    /// There are no bytes any more.
    fn refuse(self);
}

/// A long file of the view.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongFile {
    pub(super) node: NodeId,
    pub(super) file: FileId,
    pub(super) hash: ContentHash,
    pub(super) size: u64,
}

/// What a copy holds.
type Key = (ContentHash, u64);

impl LongFile {
    fn key(&self) -> Key {
        (self.hash, self.size)
    }
}

/// What there is at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Whole copies.
    pub copies: usize,
    /// Their bytes, and those of the copies that are being made.
    pub bytes: u64,
    /// Copies made so far.
    pub made: u64,
}

struct Copy<B> {
    file: File,
    /// One for all who have it open: the kernel takes no second one for an open file.
    backing: OnceLock<B>,
    is_purged: AtomicBool,
}

impl<B> Copy<B> {
    /// True if the kernel knows it.
    fn is_backed(&self, opener: &impl Opener<Backing = B>) -> bool {
        if self.backing.get().is_none()
            && let Ok(backing) = opener.back(&self.file)
        {
            // Who was faster has shown the same file.
            let _ = self.backing.set(backing);
        }
        self.backing.get().is_some()
    }

    /// Takes the bytes from the disk, also from under those who have it open.
    fn empty(&self) {
        let by_number = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        // What cannot be emptied goes when the last one lets go of it.
        let _ = OpenOptions::new().write(true).truncate(true).open(by_number);
    }
}

/// How an open file is read.
enum Way<B> {
    Usual,
    Copy(Arc<Copy<B>>),
    /// From a copy that was purged under those who have it open: until they let go nobody else can open the file.
    Gone,
}

impl<B> Clone for Way<B> {
    fn clone(&self) -> Way<B> {
        match self {
            Way::Usual => Way::Usual,
            Way::Copy(copy) if copy.is_purged.load(Ordering::SeqCst) => Way::Gone,
            Way::Copy(copy) => Way::Copy(Arc::clone(copy)),
            Way::Gone => Way::Gone,
        }
    }
}

impl<B> Way<B> {
    fn answer<O: Opener<Backing = B>>(self, opener: O) {
        match &self {
            Way::Usual => opener.read_usually(),
            Way::Copy(copy) => match copy.backing.get() {
                Some(backing) => opener.pass_through(backing),
                None => opener.refuse(),
            },
            Way::Gone => opener.refuse(),
        }
    }
}

struct Inode<B> {
    handles: u64,
    way: Way<B>,
}

struct Kept<B> {
    copy: Arc<Copy<B>>,
    files: BTreeSet<FileId>,
    used: u64,
}

impl<B> Kept<B> {
    fn is_open(&self) -> bool {
        Arc::strong_count(&self.copy) > 1
    }
}

struct Waiting<O> {
    node: NodeId,
    since: Instant,
    opener: O,
}

struct Making<O> {
    first: LongFile,
    files: BTreeSet<FileId>,
    waiting: Vec<Waiting<O>>,
    is_purged: bool,
}

struct Shelf<O: Opener> {
    /// Long files that somebody has open.
    inodes: HashMap<NodeId, Inode<O::Backing>>,
    kept: HashMap<Key, Kept<O::Backing>>,
    making: HashMap<Key, Making<O>>,
    /// Of those, what nobody works at yet.
    queue: VecDeque<Key>,
    failed: VecDeque<(Key, Instant)>,
    /// What nobody reads any more, to be freed by whoever makes copies: a disk may take long over it.
    dead: Vec<Arc<Copy<O::Backing>>>,
    /// What all copies may take, as it was when one was made last.
    limit_bytes: u64,
    /// There was no room by that: it is looked at anew.
    is_look_due: bool,
    ticks: u64,
    made: u64,
    is_closed: bool,
}

impl<O: Opener> Shelf<O> {
    fn bytes(&self) -> u64 {
        self.kept.keys().chain(self.making.keys()).map(|(_, size)| size).sum()
    }

    /// Notes one more who has it open. Who is refused lets nothing go later.
    fn hold(&mut self, node: NodeId, way: &Way<O::Backing>) {
        if !matches!(way, Way::Gone) {
            self.inodes.entry(node).or_insert_with(|| Inode { handles: 0, way: way.clone() }).handles += 1;
        }
    }

    /// How those read it who have it open.
    fn way_of(&self, node: NodeId) -> Option<Way<O::Backing>> {
        self.inodes.get(&node).map(|inode| inode.way.clone())
    }

    /// The copy that is there already.
    fn find(&mut self, file: &LongFile, opener: &O) -> Option<Way<O::Backing>> {
        self.ticks += 1;
        let kept = self.kept.get_mut(&file.key())?;
        kept.used = self.ticks;
        kept.files.insert(file.file);
        Some(if kept.copy.is_backed(opener) { Way::Copy(Arc::clone(&kept.copy)) } else { Way::Usual })
    }

    /// Lets go of what nobody has open, the one unused for longest first, until there is room; false if there is none. Frees nothing yet.
    fn make_room(&mut self, size: u64) -> bool {
        let limit = self.limit_bytes;
        let open: u64 = self.kept.iter().filter(|(_, kept)| kept.is_open()).map(|((_, size), _)| size).sum();
        let making: u64 = self.making.keys().map(|(_, size)| size).sum();
        if open.saturating_add(making).saturating_add(size) > limit {
            return false;
        }
        let more = usize::from(size > 0);
        while self.bytes().saturating_add(size) > limit || self.kept.len() + self.making.len() + more > MAX_COPIES {
            let closed = self.kept.iter().filter(|(_, kept)| !kept.is_open());
            let Some(oldest) = closed.min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key) else { return false };
            self.dead.extend(self.kept.remove(&oldest).map(|kept| kept.copy));
        }
        true
    }

    fn has_failed(&mut self, key: &Key) -> bool {
        self.failed.retain(|(_, since)| since.elapsed() < FAILED_FOR);
        self.failed.iter().any(|(failed, _)| failed == key)
    }

    fn fail(&mut self, key: Key) {
        if self.failed.len() >= MAX_FAILED {
            self.failed.pop_front();
        }
        self.failed.push_back((key, Instant::now()));
    }

    /// All of them are answered in the same way, and so is who opens the file meanwhile.
    fn settle(&mut self, waiting: Vec<Waiting<O>>, copy: Option<&Arc<Copy<O::Backing>>>) -> Vec<(O, Way<O::Backing>)> {
        let mut answers = Vec::with_capacity(waiting.len());
        for Waiting { node, opener, .. } in waiting {
            let known = self.way_of(node);
            let backed = copy.filter(|copy| copy.is_backed(&opener));
            let way = known.unwrap_or_else(|| backed.map_or(Way::Usual, |copy| Way::Copy(Arc::clone(copy))));
            self.hold(node, &way);
            answers.push((opener, way));
        }
        answers
    }

    /// Those who wait for too long, and whoever waits for the same file.
    fn impatient(&mut self, patience: Duration) -> Vec<(O, Way<O::Backing>)> {
        let mut leaving = Vec::new();
        for making in self.making.values_mut() {
            let late = making.waiting.iter().filter(|waiting| waiting.since.elapsed() >= patience);
            let nodes: BTreeSet<NodeId> = late.map(|waiting| waiting.node).collect();
            leaving.extend(making.waiting.extract_if(.., |waiting| nodes.contains(&waiting.node)));
        }
        self.settle(leaving, None)
    }
}

/// The copies of one mount.
pub(super) struct Copies<O: Opener> {
    folder: PathBuf,
    bound_bytes: u64,
    /// How long who opens a file waits for its copy.
    patience: Duration,
    shelf: Mutex<Shelf<O>>,
    queued: Condvar,
    /// Somebody waits, or all is over.
    waited: Condvar,
}

impl<O: Opener> Copies<O> {
    /// None yet. They lie on the file system of `folder`, which is made when it is needed and stays empty.
    pub(super) fn new(folder: PathBuf, bound_bytes: u64, patience: Duration) -> Copies<O> {
        let shelf = Shelf {
            inodes: HashMap::new(),
            kept: HashMap::new(),
            making: HashMap::new(),
            queue: VecDeque::new(),
            failed: VecDeque::new(),
            dead: Vec::new(),
            limit_bytes: bound_bytes,
            is_look_due: false,
            ticks: 0,
            made: 0,
            is_closed: false,
        };
        Copies {
            folder,
            bound_bytes,
            patience,
            shelf: Mutex::new(shelf),
            queued: Condvar::new(),
            waited: Condvar::new(),
        }
    }

    /// An empty copy, to see what the kernel says of it. Errors: the folder cannot hold any.
    pub(super) fn sample(&self) -> io::Result<File> {
        for_reading(&unnamed(&open_folder(&self.folder)?)?)
    }

    /// Answers now, or when the copy is made or `opener` has waited for long enough.
    pub(super) fn open(&self, file: LongFile, opener: O) {
        let mut shelf = self.lock();
        let way = match shelf.way_of(file.node).or_else(|| shelf.find(&file, &opener)) {
            Some(way) => way,
            None if self.is_being_made(&mut shelf, &file) => {
                if let Some(making) = shelf.making.get_mut(&file.key()) {
                    making.files.insert(file.file);
                    making.waiting.push(Waiting { node: file.node, since: Instant::now(), opener });
                }
                self.waited.notify_all();
                return;
            }
            None => Way::Usual,
        };
        // Before the answer: who was answered may let go at once.
        shelf.hold(file.node, &way);
        drop(shelf);
        way.answer(opener);
    }

    /// Somebody who was answered has let go.
    pub(super) fn release(&self, node: NodeId) {
        let mut shelf = self.lock();
        let Some(inode) = shelf.inodes.get_mut(&node) else { return };
        inode.handles -= 1;
        let last = if inode.handles == 0 { shelf.inodes.remove(&node) } else { None };
        drop(shelf);
        // Perhaps nobody else keeps it, and then it is freed here: nobody waits for that.
        drop(last);
    }

    /// Takes the bytes of these files from the disk, whoever has them open.
    pub(super) fn forget(&self, files: &[FileId]) {
        let files: BTreeSet<FileId> = files.iter().copied().collect();
        let mut shelf = self.lock();
        let purged = shelf.kept.extract_if(|_, kept| !kept.files.is_disjoint(&files));
        let purged: Vec<_> = purged.map(|(_, kept)| kept.copy).collect();
        // Whoever opens one from here on is refused.
        purged.iter().for_each(|copy| copy.is_purged.store(true, Ordering::SeqCst));
        let making = shelf.making.values_mut().filter(|making| !making.files.is_disjoint(&files));
        making.for_each(|making| making.is_purged = true);
        drop(shelf);
        purged.iter().for_each(|copy| copy.empty());
    }

    /// Answers those who have waited for too long, whatever the disk is doing, until [`Copies::close`]; on a thread of its own.
    pub(super) fn watch(&self) {
        let mut shelf = self.lock();
        while !shelf.is_closed {
            let answers = shelf.impatient(self.patience);
            if !answers.is_empty() {
                drop(shelf);
                answer_all(answers);
                shelf = self.lock();
                continue;
            }
            let waiting = shelf.making.values().flat_map(|making| &making.waiting);
            let oldest = waiting.map(|waiting| waiting.since).min();
            shelf = match oldest {
                None => self.waited.wait(shelf).unwrap_or_else(PoisonError::into_inner),
                Some(since) => {
                    let left = self.patience.saturating_sub(since.elapsed());
                    self.waited.wait_timeout(shelf, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        // Whoever makes copies may hang: who still waits reads as usual.
        let waiting = shelf.making.values_mut().flat_map(|making| std::mem::take(&mut making.waiting)).collect();
        let answers = shelf.settle(waiting, None);
        drop(shelf);
        answer_all(answers);
    }

    /// Makes what is wanted until [`Copies::close`]; on a thread of its own. `read` gives bytes that were checked, or none.
    pub(super) fn work(&self, read: impl Fn(NodeId, u64, usize) -> Option<Vec<u8>>) {
        while let Some(file) = self.next() {
            let copy = self.make(&file, &read);
            self.finish(&file, copy);
        }
    }

    /// Nothing more is copied; who still waits reads as usual, who has a copy open keeps it.
    pub(super) fn close(&self) {
        let mut shelf = self.lock();
        shelf.is_closed = true;
        // Freed by whoever makes copies: a disk may take long over it, and who unmounts waits for none.
        let kept = std::mem::take(&mut shelf.kept);
        shelf.dead.extend(kept.into_values().map(|kept| kept.copy));
        self.queued.notify_all();
        self.waited.notify_all();
    }

    /// What there is now.
    pub(super) fn held(&self) -> Held {
        let shelf = self.lock();
        Held { copies: shelf.kept.len(), bytes: shelf.bytes(), made: shelf.made }
    }

    /// True if its copy is on its way, perhaps from now on.
    fn is_being_made(&self, shelf: &mut Shelf<O>, file: &LongFile) -> bool {
        let key = file.key();
        if shelf.is_closed || shelf.making.contains_key(&key) {
            return !shelf.is_closed;
        }
        // By what the disk had free when it was looked at last: it may take long to say so again.
        if shelf.has_failed(&key) {
            return false;
        }
        if !shelf.make_room(file.size) {
            shelf.is_look_due = true;
            self.queued.notify_all();
            return false;
        }
        let making = Making { first: *file, files: BTreeSet::new(), waiting: Vec::new(), is_purged: false };
        shelf.making.insert(key, making);
        shelf.queue.push_back(key);
        self.queued.notify_all();
        true
    }

    /// What all copies may take, when they take `taken` now.
    fn limit(&self, taken: u64) -> u64 {
        // Nothing, where nobody can tell what is free.
        let sums = open_folder(&self.folder).and_then(|folder| Ok(rustix::fs::fstatvfs(folder)?));
        let half_of_free = |free: u64| free.saturating_add(taken) / 2;
        let most = sums.map_or(0, |sums| half_of_free(sums.f_bavail.saturating_mul(sums.f_frsize)));
        self.bound_bytes.min(most)
    }

    fn next(&self) -> Option<LongFile> {
        let mut shelf = self.lock();
        loop {
            let dead = std::mem::take(&mut shelf.dead);
            if !dead.is_empty() {
                drop(shelf);
                drop(dead);
                shelf = self.lock();
                continue;
            }
            if shelf.is_closed {
                let waiting = shelf.making.drain().flat_map(|(_, making)| making.waiting).collect();
                let answers = shelf.settle(waiting, None);
                drop(shelf);
                answer_all(answers);
                return None;
            }
            if std::mem::take(&mut shelf.is_look_due) {
                drop(shelf);
                self.has_room();
                shelf = self.lock();
                continue;
            }
            if let Some(key) = shelf.queue.pop_front() {
                match shelf.making.get(&key) {
                    Some(making) => return Some(making.first),
                    None => continue,
                }
            }
            shelf = self.queued.wait(shelf).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Looks anew at what the disk has free; false if there is no room for what is being made.
    fn has_room(&self) -> bool {
        // Nothing is taken yet by what is being made.
        let taken = self.lock().kept.keys().map(|(_, size)| size).sum();
        let limit = self.limit(taken);
        let mut shelf = self.lock();
        shelf.limit_bytes = limit;
        shelf.is_look_due = false;
        let has_room = shelf.make_room(0);
        let dead = std::mem::take(&mut shelf.dead);
        drop(shelf);
        drop(dead);
        has_room
    }

    fn make(&self, file: &LongFile, read: impl Fn(NodeId, u64, usize) -> Option<Vec<u8>>) -> io::Result<File> {
        if !self.has_room() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let mut copy = unnamed(&open_folder(&self.folder)?)?;
        // A full disk is found out before anybody has waited. Where space cannot be taken beforehand, it is found out later.
        match rustix::fs::fallocate(&copy, FallocateFlags::empty(), 0, file.size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut offset = 0;
        while offset < file.size {
            if !self.goes_on(file) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = usize::try_from(file.size - offset).unwrap_or(usize::MAX).min(STEP_BYTES);
            let bytes = read(file.node, offset, len).filter(|bytes| bytes.len() == len);
            copy.write_all(&bytes.ok_or(io::ErrorKind::InvalidData)?)?;
            offset += len as u64;
        }
        for_reading(&copy)
    }

    /// Between two steps: false if nobody wants the copy any more.
    fn goes_on(&self, file: &LongFile) -> bool {
        let shelf = self.lock();
        shelf.making.get(&file.key()).is_some_and(|making| !making.is_purged) && !shelf.is_closed
    }

    fn finish(&self, file: &LongFile, copy: io::Result<File>) {
        let mut shelf = self.lock();
        let Some(making) = shelf.making.remove(&file.key()) else { return };
        let copy = match copy {
            _ if making.is_purged || shelf.is_closed => None,
            Ok(file) => Some(Arc::new(Copy { file, backing: OnceLock::new(), is_purged: AtomicBool::new(false) })),
            // There may be room again at any moment.
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => None,
            Err(error) => {
                tracing::debug!("copy {}: {error}", file.hash);
                shelf.fail(file.key());
                None
            }
        };
        if let Some(copy) = &copy {
            shelf.ticks += 1;
            shelf.made += 1;
            let kept = Kept { copy: Arc::clone(copy), files: making.files, used: shelf.ticks };
            shelf.kept.insert(file.key(), kept);
        }
        let answers = shelf.settle(making.waiting, copy.as_ref());
        drop(shelf);
        answer_all(answers);
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<O>> {
        // Each change is whole before anything can panic.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer_all<O: Opener>(answers: Vec<(O, Way<O::Backing>)>) {
    answers.into_iter().for_each(|(opener, way)| way.answer(opener));
}

/// Opens the folder, never through a link, and makes it if somebody removed it.
fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    let open = || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(folder, flags, Mode::empty())
    };
    match open() {
        Err(Errno::NOENT) => {
            let made = rustix::fs::mkdir(folder, Mode::RWXU);
            if !matches!(made, Err(Errno::EXIST)) {
                made?;
            }
            Ok(open()?)
        }
        outcome => Ok(outcome?),
    }
}

/// A file that has no name and never gets one.
fn unnamed(folder: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, ".", flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// The same file, for reading alone: the kernel writes through what it is shown, if that may be written.
fn for_reading(copy: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
