//! The nouns of the domain as plain values: hashes, clocks, chains, versions, manifests, records.
//!
//! Invariant: everything here is pure; parsing refuses what the format forbids, so a value that exists is valid.
//! Knows nothing of files, SQLite, time or randomness.

mod canonical;
mod chain;
mod hash;
mod hlc;
mod manifest;
mod record;
mod vector;
mod version;

pub use canonical::{CanonicalError, canonical_bytes, require_canonical};
pub use chain::{Chain, ChainError, Dot, Lane, OriginName, Space};
pub use hash::{ArtifactHash, ContentHash, Hash, HashError, SegmentHash, VersionId};
pub use hlc::{Hlc, HlcClock, HlcError};
pub use larder_patterns::{Channel, RelPath};
pub use manifest::{MAX_DELTA_DEPTH, Manifest, ManifestDelta, ManifestError, SegmentRef};
pub use record::{Membership, MetaEvent, Record, RecordError, RecordLine, StarWord, Uses};
pub use vector::Vector;
pub use version::{Content, ContentKind, Reason, State, Version, VersionError};

/// Largest size or count that a number in a canonical artifact may have: 2^53 - 1.
pub const MAX_JSON_INTEGER: u64 = (1 << 53) - 1;
