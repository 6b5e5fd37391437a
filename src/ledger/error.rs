//! What can go wrong with artifacts, as facts.

use std::io;
use std::path::PathBuf;

use super::name::{ArtifactName, NameError};
use crate::model::{ArtifactHash, CanonicalError, ChainError, Hash, RecordError, SegmentHash};

/// Why the ledger could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refused.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The artifact is not here.
    #[error("read {name}: not here yet")]
    Missing {
        /// Which artifact.
        name: ArtifactName,
    },
    /// The artifact is here and its bytes are wrong.
    #[error("read {name}: {damage}")]
    Damaged {
        /// Which artifact.
        name: ArtifactName,
        /// What is wrong with it.
        #[source]
        damage: Damage,
    },
    /// No artifact has such a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A checkpoint does not follow the one before it.
    #[error("follow {name}: {problem}")]
    Order {
        /// The checkpoint that does not fit.
        name: ArtifactName,
        /// Why.
        problem: OrderProblem,
    },
    /// A version that does not belong at this place of the chain.
    #[error("publish version {n} of {chain}: {why}")]
    Publish {
        /// Its chain.
        chain: String,
        /// Its number.
        n: u64,
        /// Which rule is broken.
        why: &'static str,
    },
    /// More than fits.
    #[error("{what}: {bytes} bytes are more than {limit}")]
    TooLarge {
        /// What was being written.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
}

impl LedgerError {
    pub(crate) fn damaged(name: &ArtifactName, damage: impl Into<Damage>) -> LedgerError {
        LedgerError::Damaged { name: name.clone(), damage: damage.into() }
    }
}

/// What is wrong with the bytes of an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Right form or not, these are not the named bytes.
    #[error("hashes to {actual:?} instead of {expected}")]
    Hash {
        /// The name's hash, as far as the name holds it.
        expected: String,
        /// The hash of what is there.
        actual: Hash,
    },
    /// A segment's span does not hash to its name.
    #[error("segment {segment:?} hashes to {actual:?}")]
    Segment {
        /// Its name.
        segment: SegmentHash,
        /// The hash of what is there.
        actual: Hash,
    },
    /// Longer than any artifact of its kind.
    #[error("{what}: {actual} is more than {limit}")]
    Bound {
        /// What passes it.
        what: &'static str,
        /// Its value.
        actual: u64,
        /// The bound.
        limit: u64,
    },
    /// Ends too early, or a part contradicts another.
    #[error("{0}")]
    Form(&'static str),
    /// Not decompressible.
    #[error("decompress: {0}")]
    Zstd(io::Error),
    /// Not JSON, or with a field missing or of the wrong type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// JSON in another form than the canonical one.
    #[error("{0}")]
    Canonical(#[from] CanonicalError),
    /// A line that is no record.
    #[error("line {line}: {source}")]
    Record {
        /// Counts from 1.
        line: u64,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The signature is not the key's, or covers other bytes.
    #[error("the signature does not belong to key {key}")]
    Signature {
        /// The key it names.
        key: String,
    },
    /// The certificate is not the owner's, or for another device or space.
    #[error("the owner's certificate {why}")]
    Certificate {
        /// Which rule is broken.
        why: &'static str,
    },
    /// Written by a newer release.
    #[error("is of format version {v}; this release knows 1: upgrade larder")]
    Version {
        /// The version it names.
        v: u32,
    },
    /// Not the chain or number of its name.
    #[error("holds a {what} that differs from its name")]
    OtherName {
        /// Which part.
        what: &'static str,
    },
    /// A name inside it does not parse.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// Why a checkpoint does not follow another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderProblem {
    /// Numbers are missing in between.
    #[error("number {actual} instead of {expected}")]
    Gap {
        /// The number that should come next.
        expected: u64,
        /// The number it has.
        actual: u64,
    },
    /// It names another predecessor.
    #[error("names predecessor {actual:?} instead of {expected:?}")]
    Predecessor {
        /// The hash of the one before.
        expected: Option<ArtifactHash>,
        /// The hash it names.
        actual: Option<ArtifactHash>,
    },
    /// The chain's device key changed.
    #[error("is signed by another key than its predecessor")]
    Key,
    /// Of another chain or project.
    #[error("belongs to another chain or app")]
    Chain,
    /// The count of versions does not go on.
    #[error("counts to version {actual} instead of {expected}")]
    Count {
        /// The predecessor's last number and this one's versions.
        expected: u64,
        /// What it says.
        actual: u64,
    },
}
