//! Where contents are cut into segments, and their hashes, whole and resumed.
//!
//! Pure: cuts and hashes are functions of the bytes alone, so the same content has the same segments on every machine
//! and a grown line file keeps every sealed segment. Invariant: the segments of a content cover it exactly, in order;
//! a content of no bytes has none. Reads only from what it is handed; writes nothing.

mod append;
mod cut;
mod hasher;
mod split;
#[cfg(test)]
mod tests;

pub use append::{AppendPlan, NotAppended};
pub use cut::{
    BINARY_AVERAGE_BYTES, BINARY_MAX_BYTES, BINARY_MIN_BYTES, CutKind, LINE_MAX_BYTES, LINE_MIN_BYTES, WHOLE_MAX_BYTES,
    cuts, is_line_file, whole_max_bytes,
};
pub use hasher::{ContentHasher, RESUME_UNIT_BYTES, ResumeError, ResumeState};
pub use split::{Chunker, Split, split_bytes};
