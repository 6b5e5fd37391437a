//! Splits a line file that grew by reading only its end.
//!
//! Invariant: the result is the one that splitting the whole file gives, provided the bytes before the re-read region
//! are what they were; the first segment and every segment that overlaps the region are read again and compared, and a
//! difference ends the plan, never the truth. Does not look at size, inode or time: the caller decides when to try.

use std::io::{self, Read, Seek, SeekFrom};

use super::cut::{CutKind, LINE_MAX_BYTES};
use super::hasher::{ContentHasher, ResumeState};
use super::split::{Chunker, Split, Start, feed};
use crate::model::{Manifest, SegmentHash, SegmentRef};

/// The file is not its earlier content with bytes added: split it whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAppended {
    /// Where the first segment that differs begins.
    pub offset: u64,
}

/// What to read of a line file that grew.
#[derive(Clone, Debug)]
pub struct AppendPlan<'a> {
    previous: &'a Manifest,
    resume: &'a ResumeState,
    /// The first segment that is read again besides segment 0.
    from: usize,
    from_offset: u64,
}

impl<'a> AppendPlan<'a> {
    /// Plans against the earlier manifest and the hash state that belongs to it.
    ///
    /// `None` if they do not belong together, or there is nothing to save.
    pub fn new(previous: &'a Manifest, resume: &'a ResumeState) -> Option<AppendPlan<'a>> {
        let last = previous.segments.len().checked_sub(1)?;
        let bounded = previous.segments.iter().all(|segment| segment.1 as usize <= LINE_MAX_BYTES);
        if !bounded || resume.size() != previous.size {
            return None;
        }
        // The tail, the sealed segment before it, and whatever the hash needs again (at most 64 KiB).
        let mut from = last;
        let mut from_offset = previous.size - u64::from(previous.segments[last].1);
        while from > 0 && (from + 1 > last || resume.offset() < from_offset) {
            from -= 1;
            from_offset -= u64::from(previous.segments[from].1);
        }
        Some(AppendPlan { previous, resume, from, from_offset })
    }

    /// The first byte that is read again, but for the first segment.
    pub fn read_from(&self) -> u64 {
        self.from_offset
    }

    /// The segments that are compared with the file before it counts as appended to: offset and segment.
    pub fn verified(&self) -> impl Iterator<Item = (u64, SegmentRef)> {
        let first = (self.from > 0).then(|| (0, self.previous.segments[0]));
        let region = self.previous.segments[self.from..].iter().scan(self.from_offset, |offset, segment| {
            let at = *offset;
            *offset += u64::from(segment.1);
            Some((at, *segment))
        });
        first.into_iter().chain(region)
    }

    /// Reads the region and what was added, and hands every segment from the old tail's start on to `sink`.
    ///
    /// Nothing is handed out before the old bytes are proven. Errors: what the reader or the sink reports.
    pub fn run<R, E, F>(self, chunker: &mut Chunker, mut reader: R, sink: F) -> Result<Result<Split, NotAppended>, E>
    where
        R: Read + Seek,
        E: From<io::Error>,
        F: FnMut(SegmentRef, &[u8]) -> Result<(), E>,
    {
        let mut hasher = ContentHasher::resume(self.resume);
        let mut tail = Vec::new();
        let mut position = None;
        let last = self.previous.segments.len() - 1;
        let tail_offset = self.previous.size - u64::from(self.previous.segments[last].1);
        for (offset, segment) in self.verified() {
            if position != Some(offset) {
                reader.seek(SeekFrom::Start(offset))?;
            }
            tail.clear();
            let len = u64::from(segment.1);
            (&mut reader).take(len).read_to_end(&mut tail)?;
            position = Some(offset + len);
            if tail.len() as u64 != len || SegmentHash::of(&tail) != segment.0 {
                return Ok(Err(NotAppended { offset }));
            }
            // The tail itself is fed while it is split.
            if self.from_offset <= offset && offset < tail_offset && hasher.size() < offset + len {
                feed(&mut hasher, offset, &tail);
            }
        }
        let start = Start { segments: self.previous.segments[..last].to_vec(), size: tail_offset, hasher };
        chunker.split_from(start, tail.as_slice().chain(reader), CutKind::Lines, sink).map(Ok)
    }
}
