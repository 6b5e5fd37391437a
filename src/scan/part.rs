//! What one folder brings to a walk, and how the parts make a listing.
//!
//! Invariant: a part's items are in path order, and a folder stands among them where its paths belong.

use std::ops::Range;

use larder_patterns::{PatternRef, RelPath};
use rustix::io::Errno;

use super::entry::Entry;
use super::folder::FolderError;
use super::listing::{Listing, MAX_UNNAMEABLE, Problem, ProblemKind, Silence, shown_bytes};

/// What one folder brought, in path order.
#[derive(Default)]
pub(super) struct Part {
    pub(super) items: Vec<Item>,
    pub(super) listed: bool,
    pub(super) problems: Vec<Problem>,
    pub(super) silent: Vec<(String, Silence)>,
    pub(super) hits: Vec<PatternRef>,
}

pub(super) enum Item {
    Entry(Entry),
    Folder(usize),
}

pub(super) fn part_of_closed(path: &RelPath, error: FolderError) -> Part {
    match error {
        FolderError::Gone => Part::default(),
        FolderError::Link => part_of_silence(path, Silence::Linked),
        FolderError::OtherDevice => part_of_silence(path, Silence::OtherDevice),
        FolderError::Refused(_) => part_of_silence(path, Silence::Unreadable),
    }
}

pub(super) fn part_of_silence(path: &RelPath, silence: Silence) -> Part {
    Part { silent: vec![(path.as_str().to_owned(), silence)], ..Part::default() }
}

pub(super) fn problem_at(path: &RelPath, what: ProblemKind) -> Problem {
    Problem { path: Some(path.clone()), shown: path.shown(), what }
}

pub(super) fn unreadable(path: &RelPath, errno: Errno) -> Problem {
    let error = errno.to_string();
    problem_at(path, ProblemKind::Unreadable { error })
}

pub(super) fn unnameable(prefix: &str, name: &[u8], what: ProblemKind) -> Problem {
    Problem { path: None, shown: format!("{}{}", larder_patterns::shown(prefix), shown_bytes(name)), what }
}

pub(super) fn add_problems(listing: &mut Listing, problems: Vec<Problem>) {
    for problem in problems {
        // A problem with a path keeps the path's absence from being believed, so those are never left out.
        if problem.path.is_none() && listing.problems.len() >= MAX_UNNAMEABLE {
            listing.unnameable_beyond += 1;
        } else {
            listing.problems.push(problem);
        }
    }
}

pub(super) fn add_silent(listing: &mut Listing, silent: Vec<(String, Silence)>) {
    for (place, silence) in silent {
        match silence {
            Silence::Unreadable => listing.unreadable_dirs.push(place),
            Silence::OtherDevice => listing.other_device_dirs.push(place),
            Silence::Linked => listing.linked_dirs.push(place),
            Silence::GitIgnored => listing.git_ignored.push(place),
            // These two are told from other fields of the listing.
            Silence::NotWalked | Silence::Problem => {}
        }
    }
}

/// What all folders brought, in one piece: many small lists would leave as many holes in the heap when they go.
#[derive(Default)]
pub(super) struct Gathered {
    /// In the order they came.
    entries: Vec<Entry>,
    /// Of each folder, by its slot, the entries and the folders in it.
    runs: Vec<(usize, Run)>,
}

/// What stands together in a folder's order.
enum Run {
    Entries(Range<usize>),
    Folder(usize),
}

impl Gathered {
    /// Takes in what the folder in `slot` brought; a folder can come in several pieces.
    pub(super) fn add(&mut self, slot: usize, items: &mut Vec<Item>) {
        let mut start = self.entries.len();
        for item in items.drain(..) {
            match item {
                Item::Entry(entry) => self.entries.push(entry),
                Item::Folder(below) => {
                    self.end_run(slot, start);
                    start = self.entries.len();
                    self.runs.push((slot, Run::Folder(below)));
                }
            }
        }
        self.end_run(slot, start);
    }

    fn end_run(&mut self, slot: usize, start: usize) {
        if start < self.entries.len() {
            self.runs.push((slot, Run::Entries(start..self.entries.len())));
        }
    }

    /// The entries of `top` and of all folders in it, each folder's in its place.
    ///
    /// They change places where they are: a second list would double what a walk holds.
    pub(super) fn into_entries(mut self, top: usize) -> Vec<Entry> {
        // Stable: the pieces of one folder stay in the order they came.
        self.runs.sort_by_key(|(slot, _)| *slot);
        let mut order = Vec::with_capacity(self.entries.len());
        self.put(top, &mut order);
        arrange(&mut self.entries, order);
        self.entries
    }

    /// Depth: that of a path.
    fn put(&self, slot: usize, order: &mut Vec<usize>) {
        let first = self.runs.partition_point(|(other, _)| *other < slot);
        for (_, run) in self.runs[first..].iter().take_while(|(other, _)| *other == slot) {
            match run {
                Run::Entries(places) => order.extend(places.clone()),
                Run::Folder(below) => self.put(*below, order),
            }
        }
    }
}

/// Brings to each place what `order` names for it; each place is named once.
fn arrange<T>(items: &mut [T], mut order: Vec<usize>) {
    assert_eq!(items.len(), order.len(), "each place is named once");
    for first in 0..items.len() {
        let mut place = first;
        // A ring of places, each of which waits for what stands at the next.
        while order[place] != first {
            let next = std::mem::replace(&mut order[place], place);
            items.swap(place, next);
            place = next;
        }
        order[place] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_order_each_item_comes_to_its_place() {
        for order in [vec![], vec![0], vec![1, 0], vec![2, 0, 1, 3], vec![4, 3, 2, 1, 0], vec![1, 2, 0, 4, 3]] {
            let mut items: Vec<usize> = (0..order.len()).collect();

            arrange(&mut items, order.clone());

            assert_eq!(items, order);
        }
    }
}
