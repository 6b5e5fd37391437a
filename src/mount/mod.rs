//! The read-only view of all machines' files, and how it is mounted.
//!
//! Three rooms, each knowing only the one before: [`Catalog`] says what there is, [`View`] turns that into names, attributes and bytes,
//! `fuse` and `session` carry those to the kernel. Only the last two are bound to Linux and to FUSE.
//! Invariant: nothing here writes to the project, the ledger or the index, but for notes that damage was met in them and for copies without
//! a name, where they are asked for; memory does not grow with the archive.
//! Deliberately not here: which of several heads wins (`sync::resolve`), and what is in the index.

#[cfg(target_os = "linux")]
mod answers;
mod catalog;
#[cfg(target_os = "linux")]
mod copies;
#[cfg(target_os = "linux")]
mod counters;
mod event;
mod export;
mod find;
mod follow;
#[cfg(target_os = "linux")]
mod followed;
mod foresight;
#[cfg(target_os = "linux")]
mod fuse;
#[cfg(target_os = "linux")]
mod give;
#[cfg(target_os = "linux")]
mod guard;
#[cfg(target_os = "linux")]
mod guardian;
mod index_catalog;
mod listing;
mod memory;
mod moment;
#[cfg(target_os = "linux")]
mod mount_table;
mod naming;
mod node;
#[cfg(target_os = "linux")]
mod place;
mod provenance;
#[cfg(target_os = "linux")]
mod queue;
mod refresh;
#[cfg(target_os = "linux")]
mod replay;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(target_os = "linux")]
mod scout;
#[cfg(target_os = "linux")]
mod session;
#[cfg(target_os = "linux")]
mod through;
#[cfg(target_os = "linux")]
mod told;
mod view;
mod walk;
#[cfg(target_os = "linux")]
mod wire;
#[cfg(target_os = "linux")]
mod worker;

pub use catalog::{
    Catalog, CatalogError, Change, Child, DirFacts, DirId, FileId, FileRow, FindId, OriginId, OriginRow, PathFacts,
    PathId, TimeId, Totals, Tree,
};
#[cfg(target_os = "linux")]
pub use copies::Held;
#[cfg(target_os = "linux")]
pub use counters::{Counters, RequestCounts};
pub use event::{Event, Happened};
pub use export::{ExportError, Exported, LeftOut, export_tree};
pub use follow::{Follower, News};
#[cfg(target_os = "linux")]
pub use followed::Followed;
#[cfg(target_os = "linux")]
pub use guard::Guardian;
#[cfg(target_os = "linux")]
pub use guardian::{GUARDIAN_WORD, guard_view};
pub use index_catalog::{IndexCatalog, Recorded};
pub use listing::Entry;
pub use memory::{MemoryCatalog, MemoryPut};
pub use moment::{parse_beginning, parse_moment};
pub use node::NodeId;
#[cfg(target_os = "linux")]
pub use place::{PlaceError, Standing, is_stale, stale_views, standing, unmount_path};
#[cfg(target_os = "linux")]
pub use queue::Ended;
pub use refresh::Invalidation;
#[cfg(target_os = "linux")]
pub use session::{MountError, MountOptions, Mounted, Passthrough, StopSignals, Teller, mount};
pub use view::{Attr, Node, NodeKind, Statfs, View, ViewError};
pub use walk::Top;

/// What plain copies of long files may take in all, if nothing else is said.
pub const DEFAULT_CACHE_BYTES: u64 = 4 << 30;
/// What they take at least, if there are to be any: shorter files have no copies.
pub const MIN_CACHE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod index_catalog_tests;
#[cfg(all(test, target_os = "linux"))]
mod mount_tests;
#[cfg(test)]
mod view_tests;
