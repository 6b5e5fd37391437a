//! What will be asked for next is made ready by another thread while the kernel is still busy with what was asked for just now.
//!
//! Versions get their numbers in the order in which they were recorded, which is that of a walk; so whoever reads some files of one
//! stretch of numbers goes on to the next stretch, or comes from it. Invariant: only hints leave here: whatever is not ready is looked
//! up as ever; what is ready was proven like everything else, and is forgotten as soon as anything was committed. Memory is bounded by
//! a few stretches. One file alone makes nothing ready.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::catalog::{FileId, FileRow};
use crate::env::run_anywhere;
use crate::index::{ContentReader, IndexError, NumberedVersion, Reader, warm};
use crate::ledger::Place;
use crate::model::{Content, SegmentHash};

/// Versions of one stretch.
const STRETCH: u64 = 32;
/// Files of a stretch somebody has read when the next one is made ready.
const FILES_TO_GO_ON: u32 = 8;
/// Stretches that are remembered: as many as walkers at once need.
const STRETCHES: usize = 16;
/// Rows kept, some 250 bytes each; all are dropped when there are more.
const ROWS: usize = 512;
/// Longer contents come in several requests, and are read ahead while they do.
const MAX_CONTENT_BYTES: u64 = 128 << 10;
/// Wishes that wait; more are forgotten.
const WISHES: usize = 8;
/// An answer of the index that took longer waited for the disk.
const SLOW: Duration = Duration::from_micros(300);
/// Between the first two looks whether the kernel still holds the index; twice as long between the next ..
const WARM_AGAIN: Duration = Duration::from_millis(100);
/// .. and never longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A stretch of version numbers, in the order in which it will be wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    number: u64,
    is_backward: bool,
}

impl Stretch {
    fn versions(self) -> Range<i64> {
        let begin = (self.number * STRETCH).cast_signed();
        begin..begin.saturating_add(STRETCH.cast_signed())
    }
}

/// A stretch that somebody reads.
struct Visited {
    number: u64,
    files: u32,
    last: u64,
    is_wished: bool,
}

/// Who reads where. Pure.
#[derive(Default)]
struct Course(VecDeque<Visited>);

impl Course {
    /// Notes that a version is read, and says what to make ready.
    fn step(&mut self, version: u64) -> Vec<Stretch> {
        let number = version / STRETCH;
        let at = match self.at(number) {
            Some(at) => at,
            None => self.visit(Visited { number, files: 0, last: version, is_wished: false }),
        };
        let visited = &mut self.0[at];
        let is_other = visited.files == 0 || visited.last != version;
        visited.files += u32::from(is_other);
        let (files, before) = (visited.files, std::mem::replace(&mut visited.last, version));
        // Whoever was in the stretch beside this one came from there.
        let is_backward = match (number.checked_sub(1).is_some_and(|left| self.was_in(left)), self.was_in(number + 1)) {
            (false, true) => true,
            (true, false) => false,
            _ => version < before,
        };
        let mut wanted = Vec::new();
        // One file alone promises nothing.
        if files >= 2 {
            wanted.extend(self.wish(number, is_backward));
        }
        if files >= FILES_TO_GO_ON {
            let next = if is_backward { number.checked_sub(1) } else { Some(number + 1) };
            wanted.extend(next.and_then(|next| self.wish(next, is_backward)));
        }
        wanted
    }

    fn was_in(&self, number: u64) -> bool {
        self.0.iter().any(|visited| visited.number == number && visited.files > 0)
    }

    fn at(&self, number: u64) -> Option<usize> {
        self.0.iter().position(|visited| visited.number == number)
    }

    fn visit(&mut self, visited: Visited) -> usize {
        if self.0.len() >= STRETCHES {
            self.0.pop_front();
        }
        self.0.push_back(visited);
        self.0.len() - 1
    }

    /// Once for each stretch.
    fn wish(&mut self, number: u64, is_backward: bool) -> Option<Stretch> {
        let at = match self.at(number) {
            Some(at) => at,
            None => self.visit(Visited { number, files: 0, last: 0, is_wished: false }),
        };
        let is_new = !std::mem::replace(&mut self.0[at].is_wished, true);
        is_new.then_some(Stretch { number, is_backward })
    }
}

enum Wish {
    /// Of the index of this epoch.
    Stretch(Stretch, u64),
    Warm,
}

/// Makes ready what will be asked for next; its thread begins with the first wish and ends with it.
pub(super) struct Foresight {
    path: PathBuf,
    contents: Arc<ContentReader>,
    course: Mutex<Course>,
    rows: Arc<Mutex<HashMap<FileId, FileRow>>>,
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
            course: Mutex::default(),
            rows: Arc::default(),
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
        let wanted = lock(&self.course).step(file.0);
        for stretch in wanted {
            self.wish(Wish::Stretch(stretch, epoch));
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
        let seer = Seer { path, contents, rows, is_over, reader: None, warmed: None, pause: WARM_AGAIN };
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

/// The thread's own.
struct Seer {
    path: PathBuf,
    contents: Arc<ContentReader>,
    rows: Arc<Mutex<HashMap<FileId, FileRow>>>,
    is_over: Arc<AtomicBool>,
    reader: Option<Reader>,
    warmed: Option<Instant>,
    /// Until it is looked again: where memory is short, what was read in is soon forgotten, and would be read in for ever.
    pause: Duration,
}

impl Seer {
    fn work(mut self, wished: &Receiver<Wish>) {
        while let Ok(wish) = wished.recv() {
            match wish {
                _ if self.is_over.load(Ordering::Acquire) => return,
                Wish::Warm => {
                    if self.warmed.is_none_or(|at| at.elapsed() > self.pause) {
                        warm(&self.path);
                        self.warmed = Some(Instant::now());
                        self.pause = LONGEST_PAUSE.min(self.pause * 2);
                    }
                }
                // What cannot be foreseen is met by who asks for it.
                Wish::Stretch(stretch, epoch) => drop(self.foresee(stretch, epoch)),
            }
        }
    }

    fn foresee(&mut self, stretch: Stretch, epoch: u64) -> Result<(), IndexError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.path)?,
        };
        // The numbers of another index are no names of these files.
        if reader.epoch() != epoch {
            return Ok(());
        }
        let turn = self.contents.turn();
        let found = reader.consistently(|reader| find(reader, stretch));
        self.reader = Some(reader);
        let mut found = found?;
        if stretch.is_backward {
            found.reverse();
        }
        let mut rows = lock(&self.rows);
        if self.contents.turn() != turn {
            return Ok(());
        }
        if rows.len() + found.len() > ROWS {
            rows.clear();
        }
        rows.extend(found.iter().map(|(row, _)| (row.id, row.clone())));
        drop(rows);
        for (row, place) in found {
            if self.is_over.load(Ordering::Acquire) {
                break;
            }
            if let Some(place) = place {
                self.contents.prepare(&row.content, place, turn);
            }
        }
        Ok(())
    }
}

/// The files of a stretch, with the places of those that come in one piece.
fn find(reader: &Reader, stretch: Stretch) -> Result<Vec<(FileRow, Option<Place>)>, IndexError> {
    let place = |content: &Content| match content.size {
        1..=MAX_CONTENT_BYTES => reader.place(&SegmentHash(content.hash.0)),
        _ => Ok(None),
    };
    let versions = reader.versions_numbered(stretch.versions())?;
    let rows = versions.iter().filter_map(|version: &NumberedVersion| super::index_catalog::file_row(version));
    rows.map(|row| place(&row.content).map(|place| (row, place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stretches that are made ready, in order, and how many files were read before they were.
    fn ready_after(versions: impl Iterator<Item = u64>) -> (Vec<u64>, u64) {
        let mut course = Course::default();
        let (mut ready, mut late) = (Vec::new(), 0);
        for version in versions {
            late += u64::from(!ready.contains(&(version / STRETCH)));
            ready.extend(course.step(version).into_iter().map(|stretch| stretch.number));
        }
        (ready, late)
    }

    #[test]
    fn a_walk_finds_all_but_its_first_files_ready_in_either_direction() {
        let (forward, late) = ready_after(0..10 * STRETCH);
        assert_eq!((forward, late), ((0..=10).collect(), 2));

        let (backward, late) = ready_after((0..10 * STRETCH).rev());
        assert_eq!((backward, late), ((0..10).rev().collect(), 2));
    }

    #[test]
    fn walkers_beside_each_other_do_not_make_each_other_late() {
        let walkers = (0..10 * STRETCH).flat_map(|n| [n, 1_000 * STRETCH + n, 2_000 * STRETCH - 1 - n]);

        let (ready, late) = ready_after(walkers);

        assert_eq!(late, 3 * 2);
        assert!(ready.len() <= 3 * 11, "each stretch once: {ready:?}");
    }

    #[test]
    fn files_here_and_there_make_nothing_ready() {
        let (ready, _) = ready_after((0..1_000).map(|n| n * 7_919 % 100_003 * STRETCH));

        assert_eq!(ready, Vec::<u64>::new());
    }

    #[test]
    fn a_file_that_is_read_again_and_again_is_one_file() {
        assert_eq!(ready_after(std::iter::repeat_n(5, 100)).0, Vec::<u64>::new());
    }
}
