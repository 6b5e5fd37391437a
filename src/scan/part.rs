//! What one folder brings to a walk, and how the parts make a listing.
//!
//! Invariant: a part's items are in path order, and a folder stands among them where its paths belong.

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
    /// `None` is what was taken out again.
    items: Vec<Option<Item>>,
    spans: Vec<(usize, std::ops::Range<usize>)>,
    entry_count: usize,
}

impl Gathered {
    /// Takes in what the folder in `slot` brought; a folder can come in several pieces.
    pub(super) fn add(&mut self, slot: usize, items: &mut Vec<Item>) {
        let start = self.items.len();
        self.entry_count += items.iter().filter(|item| matches!(item, Item::Entry(_))).count();
        self.items.extend(items.drain(..).map(Some));
        if self.items.len() > start {
            self.spans.push((slot, start..self.items.len()));
        }
    }

    /// The entries of `top` and of all folders in it, each folder's in its place.
    pub(super) fn into_entries(mut self, top: usize) -> Vec<Entry> {
        // Stable: the pieces of one folder stay in the order they came.
        self.spans.sort_by_key(|(slot, _)| *slot);
        let mut entries = Vec::with_capacity(self.entry_count);
        self.put(top, &mut entries);
        entries
    }

    /// Depth: that of a path.
    fn put(&mut self, slot: usize, entries: &mut Vec<Entry>) {
        let mut next = self.spans.partition_point(|(other, _)| *other < slot);
        while let Some((_, span)) = self.spans.get(next).filter(|(other, _)| *other == slot) {
            for at in span.clone() {
                match self.items[at].take() {
                    Some(Item::Entry(entry)) => entries.push(entry),
                    Some(Item::Folder(below)) => self.put(below, entries),
                    None => {}
                }
            }
            next += 1;
        }
    }
}
