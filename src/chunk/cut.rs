//! The cut rules: where a segment ends, given the bytes from its start.
//!
//! Invariant: a cut depends only on the bytes of its own segment (and, for files that are not line files, on whether
//! the whole content passes 64 KiB), so chunking may begin again at any cut and meets the same later ones.

use fastcdc::v2020::FastCDC;

use crate::model::RelPath;

/// A line segment is cut at the first line end at or after this many bytes.
pub const LINE_MIN_BYTES: usize = 32 << 10;
/// A line segment without a line end is cut here.
pub const LINE_MAX_BYTES: usize = 128 << 10;
/// Other contents up to this size are one segment.
pub const WHOLE_MAX_BYTES: usize = 64 << 10;
/// FastCDC: no segment but the last is shorter.
pub const BINARY_MIN_BYTES: usize = 16 << 10;
/// FastCDC: the size aimed at.
pub const BINARY_AVERAGE_BYTES: usize = 64 << 10;
/// FastCDC: no segment is longer.
pub const BINARY_MAX_BYTES: usize = 256 << 10;

const LINE_FILE_ENDINGS: [&str; 3] = [".jsonl", ".ndjson", ".log"];

/// Which rule cuts a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutKind {
    /// At line ends; the open tail grows by appends.
    Lines,
    /// Where the content itself decides.
    Binary,
}

impl CutKind {
    /// The rule for the file at `path`.
    pub fn of(path: &RelPath) -> CutKind {
        if is_line_file(path) { CutKind::Lines } else { CutKind::Binary }
    }
}

/// True for `*.jsonl`, `*.ndjson` and `*.log`, in any case.
pub fn is_line_file(path: &RelPath) -> bool {
    let path = path.as_str().as_bytes();
    LINE_FILE_ENDINGS.iter().any(|ending| {
        let start = path.len().saturating_sub(ending.len());
        path[start..].eq_ignore_ascii_case(ending.as_bytes())
    })
}

/// A content of the file at `path` that has up to this many bytes is one segment.
pub fn whole_max_bytes(path: &RelPath) -> usize {
    match CutKind::of(path) {
        CutKind::Lines => LINE_MIN_BYTES,
        CutKind::Binary => WHOLE_MAX_BYTES,
    }
}

/// Splits `bytes`, a whole content, into segments.
///
/// Shape: the ends of the segments, ascending; the last is `bytes.len()`. Nothing for no bytes.
pub fn cuts(kind: CutKind, bytes: &[u8]) -> Vec<usize> {
    let whole = kind == CutKind::Binary && bytes.len() <= WHOLE_MAX_BYTES;
    let mut ends = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let rest = &bytes[start..];
        start += if whole { rest.len() } else { next_cut(kind, rest) };
        ends.push(start);
    }
    ends
}

/// The length of the segment that begins `window`.
///
/// `window` must hold the maximum of its kind, or everything up to the content's end. At least 1 for a window of at
/// least 1 byte.
pub(super) fn next_cut(kind: CutKind, window: &[u8]) -> usize {
    match kind {
        CutKind::Lines => line_cut(window),
        CutKind::Binary => {
            FastCDC::new(window, BINARY_MIN_BYTES, BINARY_AVERAGE_BYTES, BINARY_MAX_BYTES).cut(0, window.len()).1
        }
    }
}

fn line_cut(window: &[u8]) -> usize {
    let window = &window[..window.len().min(LINE_MAX_BYTES)];
    let from = (LINE_MIN_BYTES - 1).min(window.len());
    match window[from..].iter().position(|byte| *byte == b'\n') {
        Some(at) => from + at + 1,
        None => window.len(),
    }
}
