//! Again: paths that the next look takes in though no watcher tells of them.
//!
//! Invariant: a path stands here until a look that was not stopped by an error has taken it in. What cannot be read or listed
//! stays for as long as it cannot, up to a bound; a whole look covers everything anyway. Does not decide what a look finds.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::observe::Scope;
use crate::model::RelPath;
use crate::scan::{Listing, ProblemKind};

/// What cannot be read beyond this many waits for the next whole look.
const MAX_UNREAD: usize = 1_000;

/// Paths to look at again.
#[derive(Debug, Default)]
pub(crate) struct Again {
    /// Interrupted changes that were settled since the last look.
    settled: BTreeSet<RelPath>,
    /// What the disk did not give: the fault may be over in a moment.
    files: BTreeSet<RelPath>,
    /// Folders that could not be listed.
    folders: BTreeSet<RelPath>,
}

impl Again {
    pub(super) fn settled(&mut self, path: RelPath) {
        self.settled.insert(path);
    }

    /// A file that could not be read.
    pub(super) fn unread(&mut self, path: &RelPath) {
        if self.files.len() < MAX_UNREAD {
            self.files.insert(path.clone());
        }
    }

    /// What a walk could not look at.
    pub(crate) fn unlisted(&mut self, listing: &Listing) {
        for problem in &listing.problems {
            if let (Some(path), ProblemKind::Unreadable { .. }) = (&problem.path, &problem.what) {
                self.unread(path);
            }
        }
        for folder in listing.unreadable_dirs.iter().filter_map(|folder| RelPath::parse(folder).ok()) {
            if self.folders.len() < MAX_UNREAD {
                self.folders.insert(folder);
            }
        }
    }

    pub(super) fn extend(&mut self, other: Again) {
        self.settled.extend(other.settled);
        self.files.extend(other.files);
        self.folders.extend(other.folders);
    }

    /// The scope with these in it.
    pub(super) fn with<'s>(&self, scope: &'s Scope) -> Cow<'s, Scope> {
        match scope {
            Scope::Some { paths, trees } if !self.is_empty() => {
                let paths = paths.iter().chain(&self.settled).chain(&self.files).cloned().collect();
                let trees = trees.iter().chain(&self.folders).cloned().collect();
                Cow::Owned(Scope::Some { paths, trees })
            }
            scope => Cow::Borrowed(scope),
        }
    }

    fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.files.is_empty() && self.folders.is_empty()
    }
}
