//! The shared truth: immutable, signed, named artifacts below `.larder/ledger/`, exactly as every store holds them.
//!
//! Invariant: an artifact is written once, complete and durable before anything names it, and proven by hash on every
//! read; state is a function of the set of artifacts. Nothing here deletes but `garbage`, and only what does not count. Does not decide what is trusted, fetched or
//! shown, and keeps no database.

mod batch;
mod block;
mod checkpoint;
mod closed;
#[cfg(test)]
mod crash;
mod cursor;
mod disk;
mod error;
mod garbage;
mod identity;
mod import;
mod key;
mod name;
mod noted;
mod pack;
mod pack_builder;
mod passing;
mod press;
mod records;
mod remake;
mod snapshot;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use batch::{Batch, Published, Sealed, Writer};
pub use block::{BLOCK_RAW_BYTES, MAX_BLOCK_RAW_BYTES};
pub use checkpoint::{
    Checkpoint, CheckpointBody, INLINE_BYTES, Inline, InlineBlock, Listed, MAX_CHECKPOINT_BYTES, PackRef, RecordsRef,
    Seen, Snapshot,
};
pub use closed::{Closable, Closed, ClosedTip};
pub use cursor::{ChainCursor, Tip};
pub use error::{Damage, LedgerError, OrderProblem};
pub use garbage::ListedVersions;
pub use identity::{Identity, IdentityError, Opened, Standing, other_user};
pub use import::Put;
pub use key::{Certificate, PublicKey, Signature};
pub use name::{ArtifactKind, ArtifactName, BlockAddress, NameError, Place, ShortHash};
pub use noted::NotedDamage;
pub use pack::{MAX_PACK_BYTES, PACK_BYTES, PACK_SEGMENTS, PackIndex};
pub use passing::{ArrivingPack, PassingPack};
pub use records::{MAX_RECORDS_BYTES, MAX_RECORDS_RAW_BYTES, RECORDS_RAW_BYTES};
pub use remake::Remains;
pub use snapshot::{Gathered, Sweep, Swept};
pub(crate) use store::span_of;
pub use store::{Ledger, max_artifact_bytes, proves_wrong, slice_segment, verify_bytes};
pub use verify::{Depth, Finding, HEALING, Problem};
