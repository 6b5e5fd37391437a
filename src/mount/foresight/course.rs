//! Who reads where: which files will be wanted next, and which of them are worth handing on.
//!
//! Versions get their numbers in the order in which they were recorded, which is that of a walk; so whoever reads some files of one
//! stretch of numbers goes on to the next stretch, or comes from it. Invariant: pure; a few stretches are remembered; one file alone
//! promises nothing; a stretch is named once to be made ready, and once more to be handed on. Knows no index, no bytes and no kernel.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::catalog::FileId;

/// Versions of one stretch.
const STRETCH: u64 = 32;
/// Files of a stretch somebody has read when the next one is made ready.
const FILES_TO_GO_ON: u32 = 8;
/// Stretches that are remembered: as many as walkers at once need.
const STRETCHES: usize = 16;
/// Files of folders listed since anything was read that are handed on at most.
const LISTED: usize = 64;
/// Stretches that files of one folder are looked for in.
const STRETCHES_OF_FOLDER: usize = 8;
/// Files that were read last, and are not handed on to whoever has them.
const LATELY: usize = 64;

/// A stretch of version numbers, in the order in which it will be wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    pub(super) number: u64,
    pub(super) is_backward: bool,
    /// Its files are handed on, those behind this version.
    pub(super) given_from: Option<u64>,
}

impl Stretch {
    pub(super) fn versions(number: u64) -> Range<i64> {
        let begin = (number * STRETCH).cast_signed();
        begin..begin.saturating_add(STRETCH.cast_signed())
    }

    /// True for a file that lies behind what is read now.
    pub(super) fn gives(&self, file: FileId) -> bool {
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

/// Who reads where.
#[derive(Default)]
pub(super) struct Course {
    stretches: VecDeque<Visited>,
    /// What was read last.
    lately: VecDeque<u64>,
}

impl Course {
    /// Notes that a version is read, and says what to make ready, and to hand on if `gives`.
    pub(super) fn step(&mut self, version: u64, gives: bool) -> Vec<Stretch> {
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
    pub(super) fn give(&mut self, files: &[FileId]) -> bool {
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
    pub(super) fn was_read(&self, file: FileId) -> bool {
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
pub(super) fn numbers_of(files: &[FileId]) -> BTreeSet<u64> {
    files.iter().map(|file| file.0 / STRETCH).collect()
}

/// How many files of folders that are listed may be handed on until something is read.
#[derive(Default)]
pub(super) struct Credit(AtomicUsize);

impl Credit {
    pub(super) fn renew(&self) {
        self.0.store(LISTED, Ordering::Relaxed);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Of `wanted` as many as there are; two who ask at once do not get the same ones.
    pub(super) fn spend(&self, wanted: usize) -> usize {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        left.unwrap_or_else(|left| left).min(wanted)
    }
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
        let (mut asked, credit) = (0, Credit::default());
        if folder == 0 {
            known.extend(walk);
        }
        for (at, version) in walk.iter().enumerate() {
            if folder != 0 && at % folder == 0 {
                let files: Vec<FileId> = walk[at..walk.len().min(at + folder)].iter().copied().map(FileId).collect();
                known.extend(files.iter().map(|file| file.0));
                let files = &files[..credit.spend(files.len())];
                assert!(course.give(files));
                given.extend(files.iter().map(|file| file.0));
            }
            if given.contains(version) {
                continue;
            }
            asked += 1;
            credit.renew();
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
