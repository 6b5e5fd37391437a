//! Manifests: the ordered segments of one content, stored as a delta against an earlier one.
//!
//! Invariant: a manifest covers its content exactly (the lengths add up to the size). A content of no bytes or of one
//! segment needs none: its hash is that segment's. Applying a delta is pure and bounded.

use serde::{Deserialize, Serialize};

use super::{CanonicalError, ContentHash, MAX_JSON_INTEGER, SegmentHash, canonical, require_canonical};

/// Deltas may stand on each other at most this deep.
pub const MAX_DELTA_DEPTH: u32 = 64;
const MAX_SEGMENTS: usize = 4_000_000;
const MAX_SEGMENT_BYTES: u32 = 16 << 20;

/// One segment of a content. JSON: `[hash, len]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentRef(
    /// Names the bytes.
    pub SegmentHash,
    /// Bytes, at least 1.
    pub u32,
);

/// Why bytes are no manifest, or a delta does not fit.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, a field of the wrong type, or a field missing.
    #[error("read manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// Valid JSON in another form than the canonical one.
    #[error("read manifest: {0}")]
    Canonical(#[from] CanonicalError),
    /// The fields contradict each other or pass a bound.
    #[error("read manifest of content {content}: {why}")]
    Invalid {
        /// Whose manifest.
        content: ContentHash,
        /// Which rule is broken.
        why: &'static str,
    },
}

/// The ordered segments of one content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Names the whole bytes.
    pub content: ContentHash,
    /// Bytes.
    pub size: u64,
    /// In order, covering every byte once.
    pub segments: Vec<SegmentRef>,
}

impl Manifest {
    /// The manifest of a content that needs no record: of no bytes or of one segment.
    pub fn implied(content: ContentHash, size: u64) -> Manifest {
        let segments = match u32::try_from(size) {
            Ok(0) | Err(_) => Vec::new(),
            Ok(len) => vec![SegmentRef(SegmentHash(content.0), len)],
        };
        Manifest { content, size, segments }
    }

    /// True if this manifest is stored as a record, rather than implied by its content's hash.
    pub fn needs_record(&self) -> bool {
        self.segments.len() > 1
    }

    /// The delta from `previous` (full if there is none, or nothing is in common).
    pub fn delta_from(&self, previous: Option<&Manifest>) -> ManifestDelta {
        let keep = previous.map_or(0, |p| p.segments.iter().zip(&self.segments).take_while(|(a, b)| a == b).count());
        let extends = previous.filter(|_| keep > 0).map(|p| p.content);
        ManifestDelta { content: self.content, size: self.size, extends, keep, add: self.segments[keep..].to_vec() }
    }
}

/// A manifest as it is stored: the first `keep` segments of `extends`, then `add`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestDelta {
    /// Names the whole bytes.
    pub content: ContentHash,
    /// Bytes.
    pub size: u64,
    /// The content whose segments are kept; `None` for a full manifest.
    pub extends: Option<ContentHash>,
    /// How many of them; 0 for a full manifest.
    pub keep: usize,
    /// The segments after them.
    pub add: Vec<SegmentRef>,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    add: Vec<SegmentRef>,
    content: ContentHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extends: Option<ContentHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep: Option<u64>,
    kind: ManifestKind,
    size: u64,
    v: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ManifestKind {
    Manifest,
}

impl ManifestDelta {
    /// The canonical line, without a line end.
    pub fn to_line(&self) -> Vec<u8> {
        canonical::sorted_struct_bytes(&Fields {
            add: self.add.clone(),
            content: self.content,
            extends: self.extends,
            keep: self.extends.map(|_| self.keep as u64),
            kind: ManifestKind::Manifest,
            size: self.size,
            v: 1,
        })
    }

    /// Reads one line of a records artifact.
    pub fn parse(line: &[u8]) -> Result<ManifestDelta, ManifestError> {
        let fields: Fields = serde_json::from_slice(line)?;
        if canonical::sorted_struct_bytes(&fields) != line {
            require_canonical(line)?;
        }
        let content = fields.content;
        let lengths_fit = fields.add.iter().all(|s| 0 < s.1 && s.1 <= MAX_SEGMENT_BYTES);
        let keep = fields.keep.unwrap_or(0);
        let rules = [
            (fields.v == 1, "is of a format version this release does not know; upgrade larder"),
            (fields.size <= MAX_JSON_INTEGER, "size passes 2^53"),
            (lengths_fit, "a segment has 1 to 16777216 bytes"),
            (fields.add.len() <= MAX_SEGMENTS && keep <= MAX_SEGMENTS as u64, "has more than 4000000 segments"),
            (fields.extends.is_some() == fields.keep.is_some(), "extends and keep stand together"),
            (fields.extends != Some(content), "extends itself"),
        ];
        if let Some((_, why)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(ManifestError::Invalid { content, why });
        }
        Ok(ManifestDelta { content, size: fields.size, extends: fields.extends, keep: keep as usize, add: fields.add })
    }

    /// The whole manifest, given the one it extends (`None` for a full one).
    ///
    /// Errors: the previous one is missing or shorter than `keep`, or the lengths do not add up to the size.
    pub fn apply(&self, previous: Option<&Manifest>) -> Result<Manifest, ManifestError> {
        let invalid = |why| ManifestError::Invalid { content: self.content, why };
        let kept = match (self.extends, previous) {
            (None, _) => &[][..],
            (Some(wanted), Some(p)) if p.content == wanted => {
                p.segments.get(..self.keep).ok_or_else(|| invalid("keeps more segments than its predecessor has"))?
            }
            (Some(_), _) => return Err(invalid("needs the manifest it extends")),
        };
        let segments: Vec<SegmentRef> = kept.iter().chain(&self.add).copied().collect();
        let total: u64 = segments.iter().map(|s| u64::from(s.1)).sum();
        if total != self.size {
            return Err(invalid("its segments do not add up to its size"));
        }
        Ok(Manifest { content: self.content, size: self.size, segments })
    }
}
