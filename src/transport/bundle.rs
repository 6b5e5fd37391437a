//! A bundle: a whole store in one file, for machines that no line joins. Written by one exchange, read by another.
//!
//! Invariants: a bundle being written has no name of its own until it is whole and synced; one being read is never changed, and
//! nothing in it decides where anything is written, how much memory is taken, or how long it is looked at. What is damaged in it
//! is passed over and told; what is whole is found again behind it. Knows nothing of what an artifact is.

mod frame;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::Bundle;
pub use write::BundleWriter;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::{TransportError, TransportErrorKind, memory};

/// Where the body of an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Body {
    offset: u64,
    size_bytes: u64,
}

impl Body {
    /// The bytes of `range` as far as they exist.
    fn read(
        self,
        file: &File,
        name: &str,
        range: Option<Range<u64>>,
        max_bytes: u64,
    ) -> Result<Vec<u8>, TransportError> {
        let range = memory::bounded(name, self.size_bytes, range, max_bytes)?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, self.offset + range.start).map_err(|error| failed("get", name, error))?;
        Ok(bytes)
    }
}

fn failed(action: &'static str, name: &str, error: io::Error) -> TransportError {
    TransportError::new(TransportErrorKind::Unavailable, action, name, error.to_string()).with_source(error)
}

fn not_here(name: &str) -> TransportError {
    TransportError::new(TransportErrorKind::NotFound, "get", name, "not here")
}
