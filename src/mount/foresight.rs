//! What will be asked for next is made ready by another thread while the kernel is still busy with what was asked for just now.
//!
//! Versions get their numbers in the order in which they were recorded, which is that of a walk; so whoever reads some files of one
//! stretch of numbers goes on to the next stretch, or comes from it. Invariant: only hints leave here: whatever is not ready is looked
//! up as ever; what is ready was proven like everything else, and is forgotten as soon as anything was committed. Memory is bounded by
//! a few stretches. One file alone makes nothing ready.
//!
//! Whoever reads on through stretches, or reads in one folder and lists the next, has the bytes handed to the kernel (`Giver`), as far as
//! some steps ahead of what was asked for last: whoever stops reading has no more handed on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::catalog::{FileId, FileRow, Giver};
use crate::env::run_anywhere;
use crate::index::{ContentReader, IndexError, NumberedVersion, Proven, Reader, warm};
use crate::ledger::Place;
use crate::model::{Content, ContentKind, SegmentHash};

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
/// Files of folders listed since anything was read that are handed on at most.
const LISTED: usize = 64;
/// Files handed on together: who walks is not far behind.
const TOGETHER: usize = 8;
/// Stretches that files of one folder are looked for in.
const STRETCHES_OF_FOLDER: usize = 8;
/// Files that were read last, and are not handed on to whoever has them.
const LATELY: usize = 64;
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

/// A stretch of version numbers, in the order in which it will be wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    number: u64,
    is_backward: bool,
    /// Its files are handed on, those behind this version.
    given_from: Option<u64>,
}

impl Stretch {
    fn versions(number: u64) -> Range<i64> {
        let begin = (number * STRETCH).cast_signed();
        begin..begin.saturating_add(STRETCH.cast_signed())
    }

    /// True for a file that lies behind what is read now.
    fn gives(&self, file: FileId) -> bool {
        self.given_from.is_some_and(|from| if self.is_backward { file.0 < from } else { file.0 > from })
    }
}

/// A stretch that somebody reads, or has read for them.
#[derive(Default)]
struct Visited {
    number: u64,
    files: u32,
    last: u64,
    is_wished: bool,
    is_given: bool,
}

/// Who reads where. Pure.
#[derive(Default)]
struct Course {
    stretches: VecDeque<Visited>,
    /// What was read last.
    lately: VecDeque<u64>,
}

impl Course {
    /// Notes that a version is read, and says what to make ready, and to hand on if `gives`.
    fn step(&mut self, version: u64, gives: bool) -> Vec<Stretch> {
        let number = version / STRETCH;
        if self.lately.len() >= LATELY {
            self.lately.pop_front();
        }
        self.lately.push_back(version);
        let visited = self.visit(number);
        let is_other = visited.files == 0 || visited.last != version;
        visited.files += u32::from(is_other);
        let (files, before) = (visited.files, std::mem::replace(&mut visited.last, version));
        let (left, right) = (number.checked_sub(1), Some(number + 1));
        // Whoever was in the stretch beside this one came from there.
        let is_backward = match (self.was_in(left), self.was_in(right)) {
            (false, true) => true,
            (true, false) => false,
            _ => version < before,
        };
        let (next, earlier) = if is_backward { (left, right) } else { (right, left) };
        // Where bytes are handed on, few files are asked for: one is enough to go on.
        let is_walk = files >= FILES_TO_GO_ON || self.is_given(Some(number)) || self.is_given(earlier);
        let given_from = Some(version).filter(|_| gives && is_walk);
        let mut wanted = Vec::new();
        // One file alone promises nothing.
        if files >= 2 || is_walk {
            wanted.extend(self.wish(Stretch { number, is_backward, given_from }));
        }
        if is_walk {
            let next = next.map(|number| Stretch { number, is_backward, given_from });
            wanted.extend(next.and_then(|next| self.wish(next)));
        }
        wanted
    }

    /// Notes that files are handed on because their folder was listed; false, and nothing is noted, if they lie too far apart for that.
    fn give(&mut self, files: &[FileId]) -> bool {
        let numbers = numbers_of(files);
        if numbers.len() > STRETCHES_OF_FOLDER {
            return false;
        }
        for number in numbers {
            self.visit(number).is_given = true;
        }
        true
    }

    /// True for a file that somebody asked for a moment ago.
    fn was_read(&self, file: FileId) -> bool {
        self.lately.contains(&file.0)
    }

    fn known(&self, number: Option<u64>) -> Option<&Visited> {
        self.stretches.iter().find(|visited| Some(visited.number) == number)
    }

    fn was_in(&self, number: Option<u64>) -> bool {
        self.known(number).is_some_and(|visited| visited.files > 0 || visited.is_given)
    }

    fn is_given(&self, number: Option<u64>) -> bool {
        self.known(number).is_some_and(|visited| visited.is_given)
    }

    fn visit(&mut self, number: u64) -> &mut Visited {
        let at = self.stretches.iter().position(|visited| visited.number == number).unwrap_or_else(|| {
            if self.stretches.len() >= STRETCHES {
                self.stretches.pop_front();
            }
            self.stretches.push_back(Visited { number, ..Visited::default() });
            self.stretches.len() - 1
        });
        &mut self.stretches[at]
    }

    /// Once for each stretch, and once more to hand it on.
    fn wish(&mut self, stretch: Stretch) -> Option<Stretch> {
        let visited = self.visit(stretch.number);
        let gives = stretch.given_from.is_some();
        let is_new = !visited.is_wished || (gives && !visited.is_given);
        visited.is_wished = true;
        visited.is_given |= gives;
        is_new.then_some(stretch)
    }
}

/// The stretches that files lie in.
fn numbers_of(files: &[FileId]) -> BTreeSet<u64> {
    files.iter().map(|file| file.0 / STRETCH).collect()
}

/// How many files of folders that are listed may be handed on until something is read.
#[derive(Default)]
struct Credit(AtomicUsize);

impl Credit {
    fn renew(&self) {
        self.0.store(LISTED, Ordering::Relaxed);
    }

    fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Of `wanted` as many as there are; two who ask at once do not get the same ones.
    fn spend(&self, wanted: usize) -> usize {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        left.unwrap_or_else(|left| left).min(wanted)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The stretches that are made ready, in order, and how many files were read before they were.
    fn ready_after(versions: impl Iterator<Item = u64>) -> (Vec<u64>, u64) {
        let mut course = Course::default();
        let (mut ready, mut late) = (Vec::new(), 0);
        for version in versions {
            late += u64::from(!ready.contains(&(version / STRETCH)));
            ready.extend(course.step(version, false).into_iter().map(|stretch| stretch.number));
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

    /// How many files of a walk are asked for, if all that can be is handed on in time; `folder` files are listed at once, 0 if all are
    /// known already.
    fn asked(walk: &[u64], folder: usize) -> usize {
        let mut course = Course::default();
        let (mut known, mut given) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        let (mut asked, mut credit) = (0, 0);
        for (at, version) in walk.iter().enumerate() {
            if folder == 0 {
                known.extend(walk);
            } else if at % folder == 0 {
                let files: Vec<FileId> = walk[at..walk.len().min(at + folder)].iter().copied().map(FileId).collect();
                known.extend(files.iter().map(|file| file.0));
                let files = &files[..files.len().min(credit)];
                credit -= files.len();
                assert!(course.give(files));
                given.extend(files.iter().map(|file| file.0));
            }
            if given.contains(version) {
                continue;
            }
            (asked, credit) = (asked + 1, LISTED);
            for stretch in course.step(*version, true) {
                let of_stretch = Stretch::versions(stretch.number).map(i64::cast_unsigned);
                given.extend(of_stretch.filter(|version| known.contains(version) && stretch.gives(FileId(*version))));
            }
        }
        asked
    }

    #[test]
    fn whoever_reads_on_asks_for_few_files() {
        let forward: Vec<u64> = (0..100 * STRETCH).collect();
        let backward: Vec<u64> = forward.iter().rev().copied().collect();

        for walk in [&forward, &backward] {
            assert!(asked(walk, 0) <= 8 + 100 / 2, "{}", asked(walk, 0));
        }
    }

    #[test]
    fn whoever_lists_folder_by_folder_and_reads_asks_for_few_files() {
        let walk: Vec<u64> = (0..100 * STRETCH).collect();

        for folder in [5, 20, 31, 64] {
            assert!(asked(&walk, folder) <= walk.len() / 10, "{folder}: {}", asked(&walk, folder));
        }
    }

    #[test]
    fn a_folder_whose_files_lie_far_apart_is_not_handed_on_and_one_file_of_it_makes_nothing_ready() {
        let mut course = Course::default();
        let files: Vec<FileId> = (0..20).map(|n| FileId(n * 1_000 * STRETCH)).collect();

        assert!(!course.give(&files));
        assert_eq!(course.step(files[19].0, true), []);
    }

    #[test]
    fn whoever_lists_is_handed_so_many_files_and_no_more_until_something_is_read() {
        let credit = Credit::default();

        assert_eq!((credit.is_spent(), credit.spend(1)), (true, 0));
        credit.renew();
        assert_eq!([LISTED - 1, LISTED, 1].map(|wanted| credit.spend(wanted)), [LISTED - 1, 1, 0]);
        assert!(credit.is_spent());
    }

    #[test]
    fn what_was_read_already_is_not_handed_on() {
        let mut course = Course::default();
        let wanted: Vec<Stretch> = (0..8).flat_map(|version| course.step(version, true)).collect();

        let given = |number: u64| -> Vec<u64> {
            let files = Stretch::versions(number).map(|version| FileId(version.cast_unsigned()));
            files
                .filter(|file| wanted.iter().any(|s| s.number == number && s.gives(*file)))
                .map(|file| file.0)
                .collect()
        };
        assert_eq!(given(0), (8..STRETCH).collect::<Vec<u64>>());
        assert_eq!(given(1), (STRETCH..2 * STRETCH).collect::<Vec<u64>>());
    }
}
