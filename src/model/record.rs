//! The lines of a records artifact: versions, manifests, and what a newer release may add.
//!
//! Invariant: a line of an unknown kind is kept and counted, never refused; a known kind in a wrong form is refused.

use serde::{Deserialize, Serialize};

use super::{ManifestDelta, ManifestError, SegmentHash, Version, VersionError, VersionId, canonical};

/// Longest line accepted, in bytes.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not a JSON object with a `kind` and a `v`.
    #[error("read record: {0}")]
    Json(#[from] serde_json::Error),
    /// A version in a wrong form.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A manifest in a wrong form.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Longer than any line may be.
    #[error("read record: {bytes} bytes are more than {MAX_LINE_BYTES}")]
    TooLong {
        /// Bytes of the line.
        bytes: usize,
    },
}

/// Names the artifact of another chain that holds segments this chain's versions need and did not store again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Uses {
    /// The artifact's name as in `docs/format.md`: `<chain>/<folder>/<file>`.
    pub artifact: String,
    kind: UsesKind,
    /// The segments in it.
    pub segments: Vec<SegmentHash>,
    v: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UsesKind {
    Uses,
}

impl Uses {
    /// Builds the record.
    pub fn new(artifact: String, segments: Vec<SegmentHash>) -> Uses {
        Uses { artifact, kind: UsesKind::Uses, segments, v: 1 }
    }
}

/// One line, understood.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// The state of a path.
    Version(VersionId, Box<Version>),
    /// The segments of a content.
    Manifest(ManifestDelta),
    /// Where segments of another chain stand.
    Uses(Uses),
    /// A kind this release does not know, kept as it is.
    Unknown {
        /// Its `kind`.
        kind: String,
    },
}

#[derive(Deserialize)]
struct KindOnly<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
}

impl Record {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Record, RecordError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(RecordError::TooLong { bytes: line.len() });
        }
        let KindOnly { kind } = serde_json::from_slice(line)?;
        match &*kind {
            "version" => Version::parse(line).map(|(id, v)| Record::Version(id, Box::new(v))).map_err(Into::into),
            "manifest" => Ok(Record::Manifest(ManifestDelta::parse(line)?)),
            "uses" => Ok(Record::Uses(serde_json::from_slice(line)?)),
            other => Ok(Record::Unknown { kind: other.to_owned() }),
        }
    }
}

/// A record on its way out.
#[derive(Clone, Debug)]
pub enum RecordLine {
    /// The state of a path.
    Version(Box<Version>),
    /// The segments of a content.
    Manifest(ManifestDelta),
    /// Where segments of another chain stand.
    Uses(Uses),
}

impl RecordLine {
    /// The canonical line, without a line end.
    pub fn to_line(&self) -> Vec<u8> {
        match self {
            RecordLine::Version(version) => version.to_line().1,
            RecordLine::Manifest(manifest) => manifest.to_line(),
            RecordLine::Uses(uses) => canonical::sorted_struct_bytes(uses),
        }
    }
}
