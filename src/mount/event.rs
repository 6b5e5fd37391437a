//! What somebody who watches a folder of the view is told of.
//!
//! Invariant: plain facts, in the words of inotify; how they are told is the mount's business.

use super::node::NodeId;

/// What happened to a name of `merged/`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Happened {
    /// A file is gone.
    Deleted,
    /// A file is new.
    Created,
    /// A folder is new.
    FolderCreated,
    /// A file has other bytes.
    Modified {
        /// How many.
        size: u64,
    },
}

/// One event, as inotify will tell it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Event {
    /// What.
    pub happened: Happened,
    /// Where, below the mount.
    pub path: String,
    /// The folder in which it did.
    pub parent: NodeId,
    /// The last component of the path.
    pub name: String,
}
