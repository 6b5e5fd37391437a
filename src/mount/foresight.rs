//! What will be asked for next is made ready by another thread while the kernel is still busy with what was asked for just now.
//!
//! What that is, `course` says. Invariant: only hints leave here: whatever is not ready is looked up as ever; what is ready was proven
//! like everything else, and is forgotten as soon as anything was committed. Memory is bounded by a few stretches.
//!
//! Whoever reads on through stretches, or reads in one folder and lists the next, has the bytes handed to the kernel (`Giver`), as far as
//! some steps ahead of what was asked for last: whoever stops reading has no more handed on.

mod course;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::course::{Course, Credit, Stretch, numbers_of};
use super::catalog::{FileId, FileRow, Giver};
use crate::env::run_anywhere;
use crate::index::{ContentReader, IndexError, NumberedVersion, Proven, Reader, warm};
use crate::ledger::Place;
use crate::model::{Content, ContentKind, SegmentHash};

/// Rows kept, some 250 bytes each; all are dropped when there are more.
const ROWS: usize = 512;
/// Longer contents come in several requests, and are read ahead while they do.
const MAX_CONTENT_BYTES: u64 = 128 << 10;
/// Files handed on together: who walks is not far behind.
const TOGETHER: usize = 8;
/// What was found for the last stretches is kept: their folders are listed after they were foreseen.
const FOUND: usize = 4;
/// Wishes that wait; more are forgotten.
const WISHES: usize = 8;
/// An answer of the index that took longer waited for the disk.
const SLOW: Duration = Duration::from_micros(300);
/// Between the first two looks whether the kernel still holds the index; twice as long between the next ..
const WARM_AGAIN: Duration = Duration::from_millis(100);
/// .. and never longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

enum Wish {
    /// Of the index of this epoch.
    Stretch(Stretch, u64),
    /// Files of a folder, of the index of this epoch.
    Listed(Vec<FileId>, u64),
    Warm,
}

/// Makes ready what will be asked for next; its thread begins with the first wish and ends with it.
pub(super) struct Foresight {
    path: PathBuf,
    contents: Arc<ContentReader>,
    course: Arc<Mutex<Course>>,
    rows: Arc<Mutex<HashMap<FileId, FileRow>>>,
    giver: Arc<Mutex<Option<Arc<dyn Giver>>>>,
    credit: Credit,
    worker: Mutex<Option<Worker>>,
    /// What waits is not made ready any more.
    is_over: Arc<AtomicBool>,
}

struct Worker {
    wishes: SyncSender<Wish>,
    thread: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded are caches and a handle, whole between two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Foresight {
    pub fn new(path: &Path, contents: &Arc<ContentReader>) -> Foresight {
        Foresight {
            path: path.to_owned(),
            contents: Arc::clone(contents),
            course: Arc::default(),
            rows: Arc::default(),
            giver: Arc::default(),
            credit: Credit::default(),
            worker: Mutex::default(),
            is_over: Arc::default(),
        }
    }

    /// The row of a file that was foreseen.
    pub fn row(&self, file: FileId) -> Option<FileRow> {
        lock(&self.rows).get(&file).cloned()
    }

    /// Notes that the beginning of a file is read.
    pub fn reads(&self, file: FileId, epoch: u64) {
        self.credit.renew();
        let gives = self.gives();
        let wanted = lock(&self.course).step(file.0, gives);
        for stretch in wanted {
            self.wish(Wish::Stretch(stretch, epoch));
        }
    }

    /// By whom bytes are handed on from now on.
    pub fn give_by(&self, giver: Arc<dyn Giver>) {
        *lock(&self.giver) = Some(giver);
    }

    fn gives(&self) -> bool {
        lock(&self.giver).as_ref().is_some_and(|giver| giver.turn().is_some())
    }

    /// Notes that the kernel has just been told of a folder's files. One file alone is asked for by who wants it.
    pub fn listed(&self, files: &[FileId], epoch: u64) {
        if files.len() < 2 || self.credit.is_spent() || !self.gives() {
            return;
        }
        let files = &files[..self.credit.spend(files.len())];
        if lock(&self.course).give(files) {
            self.wish(Wish::Listed(files.to_vec(), epoch));
        }
    }

    /// Notes how long the index took to answer.
    pub fn answered(&self, took: Duration) {
        if took > SLOW {
            self.wish(Wish::Warm);
        }
    }

    /// What was looked up may be different now.
    pub fn forget(&self) {
        // The turn first: what the thread looked up before is not kept after.
        self.contents.forget_prepared();
        lock(&self.rows).clear();
        *lock(&self.course) = Course::default();
    }

    fn wish(&self, wish: Wish) {
        let mut worker = lock(&self.worker);
        if worker.is_none() {
            *worker = self.start();
        }
        if let Some(worker) = &*worker {
            // Too many at once: these files are read as ever.
            let _ = worker.wishes.try_send(wish);
        }
    }

    fn start(&self) -> Option<Worker> {
        let (wishes, wished) = sync_channel(WISHES);
        let (path, contents, rows) = (self.path.clone(), Arc::clone(&self.contents), Arc::clone(&self.rows));
        let is_over = Arc::clone(&self.is_over);
        let (course, giver, found) = (Arc::clone(&self.course), Arc::clone(&self.giver), VecDeque::new());
        let seer =
            Seer { path, contents, course, rows, giver, is_over, found, reader: None, warmed: None, pause: WARM_AGAIN };
        let work = move || {
            run_anywhere();
            seer.work(&wished);
        };
        let thread = std::thread::Builder::new().name("larder-ahead".to_owned()).spawn(work).ok()?;
        Some(Worker { wishes, thread })
    }
}

impl Drop for Foresight {
    fn drop(&mut self) {
        let worker = lock(&self.worker).take();
        if let Some(Worker { wishes, thread }) = worker {
            self.is_over.store(true, Ordering::Release);
            drop(wishes);
            // It can fail only by a panic, which was told.
            let _ = thread.join();
        }
        self.contents.forget_prepared();
    }
}

/// A file, and where its bytes stand if they are in one piece.
type Found = (FileRow, Option<Place>);

/// What was found for a stretch of numbers, as of a turn of the contents.
struct FoundIn {
    number: u64,
    turn: u64,
    files: Arc<Vec<Found>>,
}

/// The thread's own.
struct Seer {
    path: PathBuf,
    contents: Arc<ContentReader>,
    course: Arc<Mutex<Course>>,
    rows: Arc<Mutex<HashMap<FileId, FileRow>>>,
    giver: Arc<Mutex<Option<Arc<dyn Giver>>>>,
    is_over: Arc<AtomicBool>,
    found: VecDeque<FoundIn>,
    reader: Option<Reader>,
    warmed: Option<Instant>,
    /// Until it is looked again: where memory is short, what was read in is soon forgotten, and would be read in for ever.
    pause: Duration,
}

/// Hands on files as they become ready.
struct Hand {
    giver: Arc<dyn Giver>,
    turn: u64,
    files: Vec<(FileId, Proven)>,
}

impl Hand {
    fn take(&mut self, file: FileId, bytes: Proven) {
        self.files.push((file, bytes));
        if self.files.len() >= TOGETHER {
            self.give();
        }
    }

    fn give(&mut self) {
        if !self.files.is_empty() {
            self.giver.give(std::mem::take(&mut self.files), self.turn);
        }
    }
}

impl Seer {
    fn work(mut self, wished: &Receiver<Wish>) {
        while let Ok(wish) = wished.recv() {
            // What cannot be foreseen is met by who asks for it.
            match wish {
                _ if self.is_over.load(Ordering::Acquire) => return,
                Wish::Warm => {
                    if self.warmed.is_none_or(|at| at.elapsed() > self.pause) {
                        warm(&self.path);
                        self.warmed = Some(Instant::now());
                        self.pause = LONGEST_PAUSE.min(self.pause * 2);
                    }
                }
                Wish::Stretch(stretch, epoch) => drop(self.foresee(stretch, epoch)),
                Wish::Listed(files, epoch) => drop(self.give_listed(&files, epoch)),
            }
        }
    }

    /// Somebody to hand bytes on to. To be asked before the contents' turn is: what a person let go is forgotten there first.
    fn hand(&self) -> Option<Hand> {
        let giver = lock(&self.giver).clone()?;
        let turn = giver.turn()?;
        Some(Hand { giver, turn, files: Vec::new() })
    }

    fn foresee(&mut self, stretch: Stretch, epoch: u64) -> Result<(), IndexError> {
        let mut hand = self.hand().filter(|_| stretch.given_from.is_some());
        let turn = self.contents.turn();
        let Some(found) = self.found_in(stretch.number, epoch, turn)? else { return Ok(()) };
        let mut rows = lock(&self.rows);
        if self.contents.turn() != turn {
            return Ok(());
        }
        if rows.len() + found.len() > ROWS {
            rows.clear();
        }
        rows.extend(found.iter().map(|(row, _)| (row.id, row.clone())));
        drop(rows);
        let each = |at: usize| if stretch.is_backward { &found[found.len() - 1 - at] } else { &found[at] };
        for file in (0..found.len()).map(each) {
            if self.is_over.load(Ordering::Acquire) {
                break;
            }
            self.make_ready(file, turn, hand.as_mut().filter(|_| stretch.gives(file.0.id)));
        }
        hand.iter_mut().for_each(Hand::give);
        Ok(())
    }

    /// Hands on what the kernel has just been told of, in the order in which it was.
    fn give_listed(&mut self, files: &[FileId], epoch: u64) -> Result<(), IndexError> {
        let Some(mut hand) = self.hand() else { return Ok(()) };
        let turn = self.contents.turn();
        let mut found = Vec::new();
        for number in numbers_of(files) {
            found.extend(self.found_in(number, epoch, turn)?);
        }
        let known: HashMap<FileId, &Found> =
            found.iter().flat_map(|files| files.iter()).map(|file| (file.0.id, file)).collect();
        for file in files.iter().filter_map(|file| known.get(file)) {
            if self.is_over.load(Ordering::Acquire) {
                break;
            }
            self.make_ready(file, turn, Some(&mut hand));
        }
        hand.give();
        Ok(())
    }

    fn make_ready(&self, (row, place): &Found, turn: u64, hand: Option<&mut Hand>) {
        let Some(place) = place else { return };
        if hand.is_some() && lock(&self.course).was_read(row.id) {
            return;
        }
        let proven = self.contents.prepare(&row.content, place, turn);
        // The kernel keeps the target of a link in a way of its own.
        if let (Some(hand), Some(bytes), ContentKind::File { .. }) = (hand, proven, row.content.kind) {
            hand.take(row.id, bytes);
        }
    }

    /// The files of a stretch; `None` if the index is another one by now: its numbers are no names of these files.
    fn found_in(&mut self, number: u64, epoch: u64, turn: u64) -> Result<Option<Arc<Vec<Found>>>, IndexError> {
        if let Some(kept) = self.found.iter().find(|kept| kept.number == number && kept.turn == turn) {
            return Ok(Some(Arc::clone(&kept.files)));
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.path)?,
        };
        if reader.epoch() != epoch {
            return Ok(None);
        }
        let files = reader.consistently(|reader| find(reader, number));
        self.reader = Some(reader);
        let files = Arc::new(files?);
        self.found.retain(|kept| kept.number != number);
        if self.found.len() >= FOUND {
            self.found.pop_front();
        }
        self.found.push_back(FoundIn { number, turn, files: Arc::clone(&files) });
        Ok(Some(files))
    }
}

/// The files of a stretch, with the places of those that come in one piece.
fn find(reader: &Reader, number: u64) -> Result<Vec<Found>, IndexError> {
    let place = |content: &Content| match content.size {
        1..=MAX_CONTENT_BYTES => reader.place(&SegmentHash(content.hash.0)),
        _ => Ok(None),
    };
    let versions = reader.versions_numbered(Stretch::versions(number))?;
    let rows = versions.iter().filter_map(|version: &NumberedVersion| super::index_catalog::file_row(version));
    rows.map(|row| place(&row.content).map(|place| (row, place))).collect()
}
