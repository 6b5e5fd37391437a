//! The disk as it is: lists, stats and reads what the rules admit, and never changes anything.
//!
//! Everything goes through one directory handle, [`Root`]. Invariants: no symbolic link is ever followed, in no component; no
//! other file system is entered; FIFOs, sockets and devices are never opened; a name that was refused is never stated.
//! What could not be looked at is listed as such ([`Listing::silence`]): an absence there says nothing, so it deletes nothing.
//!
//! The walk is our own and not the `ignore` crate's: that one resolves each path from the root again, so a folder swapped
//! for a link in between leads it outside. Here each folder is opened relative to its parent's handle, which is also
//! cheaper. From `ignore` comes the matching of `.gitignore` lines.
//!
//! Deliberately absent: hashing, any memory of earlier scans, retries, and the decision what an absence means.
//! Linux only: it uses `openat2`, `statx`, `getdents64` and leases.

mod entry;
mod error;
mod folder;
mod gitignore;
mod lease;
mod link;
mod listing;
mod part;
mod read;
mod root;
mod scene;
mod walk;

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;

pub use entry::{Entry, EntryKind, Stat};
pub use error::{NotAFile, ScanError};
pub(crate) use folder::{Folder, FolderError, NameKind, Names};
pub(crate) use gitignore::IgnoreStack;
pub use gitignore::Ignored;
pub use lease::{Alone, is_written_elsewhere, open_for_writing_elsewhere};
pub use link::{LinkProblem, MAX_LINK_BYTES, check_link_target, read_link};
pub use listing::{Listing, MAX_UNNAMEABLE, Problem, ProblemKind, Silence};
pub use read::{MAX_RANGE_BYTES, RangeRead, ReadOutcome, read, read_growing, read_range};
pub use root::{Identity, Node, Root, node, stat};
pub use walk::{WalkOptions, walk};
