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

impl Item {
    pub(super) fn is_entry(&self) -> bool {
        matches!(self, Item::Entry(_))
    }
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

/// Appends what the folder in `slot` brought, with its folders in their places. Depth: that of a path.
pub(super) fn put_together(items: &mut [Vec<Item>], slot: usize, entries: &mut Vec<Entry>) {
    for item in std::mem::take(&mut items[slot]) {
        match item {
            Item::Entry(entry) => entries.push(entry),
            Item::Folder(slot) => put_together(items, slot, entries),
        }
    }
}
