//! The index and the ledger as what resolving may ask.
//!
//! Invariant: answers only from what is here; what is missing is `None` and makes a path wait, never a guess.

use super::resolve::Graph;
use crate::index::{ContentReader, Reader, Stored};
use crate::model::{Content, SegmentRef, VersionId};

/// Longest span compared byte by byte where two manifests part, in bytes.
const MAX_COMPARED_BYTES: u64 = 64 << 20;

/// `Graph` over the index.
pub struct IndexGraph<'a> {
    reader: &'a Reader,
    contents: &'a ContentReader,
}

impl<'a> IndexGraph<'a> {
    /// Borrows both for one resolution.
    pub fn new(reader: &'a Reader, contents: &'a ContentReader) -> IndexGraph<'a> {
        IndexGraph { reader, contents }
    }

    /// Bytes at the start that both have by their manifests, at most `len`.
    fn shared_by_manifest(&self, a: &Content, b: &Content, len: u64) -> Option<u64> {
        let a = self.reader.manifest(&a.hash, a.size).ok()??;
        let b = self.reader.manifest(&b.hash, b.size).ok()??;
        let same = |pair: &(&SegmentRef, &SegmentRef)| pair.0 == pair.1;
        let shared: u64 = a.segments.iter().zip(&b.segments).take_while(same).map(|(s, _)| u64::from(s.1)).sum();
        Some(shared.min(len))
    }
}

impl Graph for IndexGraph<'_> {
    fn version(&self, id: &VersionId) -> Option<Stored> {
        self.reader.version(id).ok()?
    }

    fn bytes(&self, content: &Content, offset: u64, len: u64) -> Option<Vec<u8>> {
        self.contents.read(content, offset, len).ok()
    }

    fn is_gone(&self, content: &Content) -> bool {
        // Without an answer it is waited for.
        self.reader.dropped(&content.hash).is_ok_and(|dropped| dropped.is_some())
    }

    fn share_prefix(&self, a: &Content, b: &Content, len: u64) -> Option<bool> {
        let shared = self.shared_by_manifest(a, b, len)?;
        let rest = len - shared;
        if rest > MAX_COMPARED_BYTES {
            return Some(false);
        }
        let equal = rest == 0 || self.bytes(a, shared, rest)? == self.bytes(b, shared, rest)?;
        Some(equal)
    }
}
