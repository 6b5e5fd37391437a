//! Splits a content that is read as a stream, holding at most half a mebibyte of it.
//!
//! Invariant: the segments handed to the sink are exactly those of `cuts` on the whole bytes.

use std::io::{self, Read};

use super::cut::{BINARY_MAX_BYTES, CutKind, WHOLE_MAX_BYTES, cuts, next_cut};
use super::hasher::{ContentHasher, ResumeState};
use crate::model::{ContentHash, Manifest, SegmentHash, SegmentRef};

const BUFFER_BYTES: usize = 2 * BINARY_MAX_BYTES;

/// A content, split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// Its hash, size and segments.
    pub manifest: Manifest,
    /// What to keep in order to hash on after an append.
    pub resume: ResumeState,
}

/// Splits contents one after the other, with one buffer.
#[derive(Debug, Default)]
pub struct Chunker {
    buffer: Vec<u8>,
}

impl Chunker {
    /// Allocates nothing until the first content.
    pub fn new() -> Chunker {
        Chunker::default()
    }

    /// Reads `reader` to its end and hands every segment to `sink`, in order.
    ///
    /// Errors: what the reader or the sink reports; segments handed out before stay handed out.
    pub fn split<R, E, F>(&mut self, reader: R, kind: CutKind, sink: F) -> Result<Split, E>
    where
        R: Read,
        E: From<io::Error>,
        F: FnMut(SegmentRef, &[u8]) -> Result<(), E>,
    {
        let start = Start { segments: Vec::new(), size: 0, hasher: ContentHasher::new() };
        self.split_from(start, reader, kind, sink)
    }

    /// Splits what follows the segments in `start`.
    pub(super) fn split_from<R, E, F>(
        &mut self,
        start: Start,
        mut reader: R,
        kind: CutKind,
        mut sink: F,
    ) -> Result<Split, E>
    where
        R: Read,
        E: From<io::Error>,
        F: FnMut(SegmentRef, &[u8]) -> Result<(), E>,
    {
        self.buffer.resize(BUFFER_BYTES, 0);
        let Start { mut segments, mut size, mut hasher } = start;
        let fresh = segments.is_empty();
        let (mut filled, mut at, mut ended) = (0, 0, false);
        loop {
            if !ended && filled - at < BINARY_MAX_BYTES {
                self.buffer.copy_within(at..filled, 0);
                filled -= at;
                at = 0;
                ended = fill(&mut reader, &mut self.buffer, &mut filled)?;
            }
            let window = &self.buffer[at..filled];
            if window.is_empty() {
                break;
            }
            let whole = fresh && size == 0 && ended && kind == CutKind::Binary && window.len() <= WHOLE_MAX_BYTES;
            let len = if whole { window.len() } else { next_cut(kind, window) };
            let segment = &window[..len];
            let hash = if size == 0 && ended && len == window.len() {
                // One segment is the whole content: one hash names both.
                feed(&mut hasher, 0, segment);
                SegmentHash(hasher.finish().0)
            } else {
                feed(&mut hasher, size, segment);
                SegmentHash::of(segment)
            };
            let segment_ref = SegmentRef(hash, len as u32);
            sink(segment_ref, segment)?;
            segments.push(segment_ref);
            size += len as u64;
            at += len;
        }
        let content = match &segments[..] {
            [only] => ContentHash(only.0.0),
            _ => hasher.finish(),
        };
        Ok(Split { manifest: Manifest { content, size, segments }, resume: hasher.state() })
    }
}

/// Where splitting begins: the segments already known, their bytes, and the hash of what stands before.
///
/// The hasher may already be ahead of `size` when it was resumed from a later boundary.
pub(super) struct Start {
    pub segments: Vec<SegmentRef>,
    pub size: u64,
    pub hasher: ContentHasher,
}

/// Feeds the part of `segment` (which begins at `offset`) that the hasher has not covered.
pub(super) fn feed(hasher: &mut ContentHasher, offset: u64, segment: &[u8]) {
    debug_assert!(offset <= hasher.size(), "a gap before the bytes to hash");
    let covered = hasher.size().saturating_sub(offset).min(segment.len() as u64);
    hasher.update(&segment[covered as usize..]);
}

/// Fills the buffer behind `filled`; true if the reader ended.
fn fill<R: Read>(reader: &mut R, buffer: &mut [u8], filled: &mut usize) -> io::Result<bool> {
    while *filled < buffer.len() {
        match reader.read(&mut buffer[*filled..]) {
            Ok(0) => return Ok(true),
            Ok(count) => *filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Splits a content that is in memory: its manifest, whose segments lie in `bytes` one after the other.
pub fn split_bytes(kind: CutKind, bytes: &[u8]) -> Manifest {
    let mut start = 0;
    let segments: Vec<SegmentRef> = cuts(kind, bytes)
        .into_iter()
        .map(|end| {
            let segment = &bytes[std::mem::replace(&mut start, end)..end];
            SegmentRef(SegmentHash::of(segment), segment.len() as u32)
        })
        .collect();
    let content = match &segments[..] {
        [only] => ContentHash(only.0.0),
        _ => ContentHash::of(bytes),
    };
    Manifest { content, size: bytes.len() as u64, segments }
}
