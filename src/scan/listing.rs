//! What a walk found, and where it could not look.

use std::fmt;

use larder_patterns::{PathError, PatternRef, RelPath};

use super::entry::Entry;
use super::error::NotAFile;
use super::link::LinkProblem;

/// Most names that are no paths and are listed one by one; more are counted.
pub const MAX_UNNAMEABLE: usize = 10_000;

/// One name that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; none for a name that is no path inside a project.
    pub path: Option<RelPath>,
    /// Path and name, safe for a terminal.
    pub shown: String,
    /// Why it was left out.
    pub what: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.shown, self.what)
    }
}

/// Why a name was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// The name is not UTF-8.
    #[error("its name is not UTF-8")]
    NotUtf8,
    /// The name is no path inside a project.
    #[error("{0}")]
    Name(PathError),
    /// A FIFO, socket or device has no versions.
    #[error("it is {0}, which has no content to keep")]
    NotAFile(NotAFile),
    /// The link's target is refused.
    #[error("{0}")]
    Link(LinkProblem),
    /// The file is larger than `maxFileBytes`.
    #[error("{size_bytes} bytes, larger than maxFileBytes ({limit_bytes})")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
        /// The bound.
        limit_bytes: u64,
    },
    /// The system refuses to look at it.
    #[error("cannot be looked at: {error}")]
    Unreadable {
        /// What the system said.
        error: String,
    },
}

/// Why the absence of a path from a listing says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Silence {
    /// It is outside the part that was walked.
    NotWalked,
    /// A folder above it could not be listed, or not to its end.
    Unreadable,
    /// A folder above it, or itself, is on another file system than the root.
    OtherDevice,
    /// A folder above it, or itself, is a symbolic link.
    Linked,
    /// It, or a folder above it, is ignored by a `.gitignore`.
    GitIgnored,
    /// It is there, but has a [`Problem`].
    Problem,
}

/// The admitted part of the disk at one time.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Files and links, sorted by the bytes of their paths.
    pub entries: Vec<Entry>,
    /// What was left out, sorted by path, nameless last.
    pub problems: Vec<Problem>,
    /// How many more names were no paths, beyond [`MAX_UNNAMEABLE`].
    pub unnameable_beyond: u64,
    /// Folders that could not be listed, or not to their end; sorted.
    pub unreadable_dirs: Vec<String>,
    /// Folders on another file system or mount, not entered; sorted.
    pub other_device_dirs: Vec<String>,
    /// Links where a folder with admitted files could stand, not followed; sorted.
    pub linked_dirs: Vec<String>,
    /// Admitted files, and folders that may hold some, that a `.gitignore` names; sorted.
    pub git_ignored: Vec<String>,
    /// How many folders were listed.
    pub dirs_seen: u64,
    /// The patterns that named at least one entry, if asked for; sorted.
    pub pattern_hits: Vec<PatternRef>,
    /// The part that was walked; none for all of it.
    pub below: Option<RelPath>,
}

impl Listing {
    /// Returns the entry at a path.
    pub fn find(&self, path: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.path.path().as_str().cmp(path));
        at.ok().map(|at| &self.entries[at])
    }

    /// Tells why the absence of `path` says nothing; none if it was looked for where it would stand and was not there.
    pub fn silence(&self, path: &RelPath) -> Option<Silence> {
        if !self.walked(path) {
            return Some(Silence::NotWalked);
        }
        let places = [
            (&self.unreadable_dirs, Silence::Unreadable),
            (&self.other_device_dirs, Silence::OtherDevice),
            (&self.linked_dirs, Silence::Linked),
            (&self.git_ignored, Silence::GitIgnored),
        ];
        let above = path.as_str().match_indices('/').map(|(at, _)| at);
        // The empty name is the root's.
        for end in [0].into_iter().chain(above).chain([path.as_str().len()]) {
            let name = &path.as_str()[..end];
            for (places, silence) in places {
                if places.binary_search_by(|place| place.as_str().cmp(name)).is_ok() {
                    return Some(silence);
                }
            }
        }
        self.problem(path).map(|_| Silence::Problem)
    }

    /// Returns the problem of a path.
    pub fn problem(&self, path: &RelPath) -> Option<&Problem> {
        let key = |problem: &Problem| (problem.path.is_none(), problem.path.clone());
        let at = self.problems.binary_search_by_key(&(false, Some(path.clone())), key);
        at.ok().map(|at| &self.problems[at])
    }

    fn walked(&self, path: &RelPath) -> bool {
        let Some(below) = &self.below else {
            return true;
        };
        let rest = path.as_str().strip_prefix(below.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Brings the lists into their stated order.
    pub(super) fn sort(&mut self) {
        self.problems.sort_by(|one, other| {
            let key = |problem: &Problem| problem.path.is_none();
            (key(one), &one.path, &one.shown).cmp(&(key(other), &other.path, &other.shown))
        });
        for places in
            [&mut self.unreadable_dirs, &mut self.other_device_dirs, &mut self.linked_dirs, &mut self.git_ignored]
        {
            places.sort_unstable();
            places.dedup();
        }
    }
}

/// Renders a name of any bytes: what is not UTF-8 as `\xNN`, the rest safe for a terminal.
pub(super) fn shown_bytes(name: &[u8]) -> String {
    let mut safe = String::new();
    for chunk in name.utf8_chunks() {
        safe.push_str(&larder_patterns::shown(chunk.valid()));
        for byte in chunk.invalid() {
            safe.push_str(&format!("\\x{byte:02x}"));
        }
    }
    safe
}
