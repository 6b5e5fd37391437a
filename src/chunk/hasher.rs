//! The hash of a whole content that can be carried on after an append.
//!
//! BLAKE3 is a binary tree over the bytes. Complete subtrees never change when bytes are added, so keeping their chaining
//! values is enough to hash on from the last boundary of 64 KiB. Invariant: the result equals `blake3::hash` of the
//! whole, whatever the sizes and the splits. Believes the state it resumes from: the caller proves the bytes before it.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::model::{ContentHash, Hash};

/// Hashing resumes at a multiple of this.
pub const RESUME_UNIT_BYTES: u64 = 64 << 10;
const MAX_SIZE_BYTES: u64 = crate::model::MAX_JSON_INTEGER;

/// Why bytes are no resume state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read hash state: {bytes} bytes do not fit a content of {size} bytes")]
pub struct ResumeError {
    /// How many bytes came.
    pub bytes: usize,
    /// The size they claim.
    pub size: u64,
}

/// What is needed to hash on: the size so far and the chaining values of the complete subtrees to the left.
///
/// The subtrees are the set bits of the number of complete units before the last byte, highest first, so that their
/// lengths need no place of their own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResumeState {
    size: u64,
    stack: Vec<ChainingValue>,
}

impl ResumeState {
    /// Bytes hashed so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// From where the caller must feed bytes again: a multiple of 64 KiB, at most 64 KiB below the size.
    pub fn offset(&self) -> u64 {
        units_before_tail(self.size) * RESUME_UNIT_BYTES
    }

    /// The compact form: the size, 8 bytes little-endian, then 32 bytes for each subtree. Below 1.1 KiB for any size.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 32 * self.stack.len());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        self.stack.iter().for_each(|subtree| bytes.extend_from_slice(subtree));
        bytes
    }

    /// Reads the compact form. Errors: a length that does not belong to its size.
    pub fn from_bytes(bytes: &[u8]) -> Result<ResumeState, ResumeError> {
        let Some((size, subtrees)) = bytes.split_first_chunk::<8>() else {
            return Err(ResumeError { bytes: bytes.len(), size: 0 });
        };
        let size = u64::from_le_bytes(*size);
        let (stack, rest) = subtrees.as_chunks::<32>();
        let wanted = units_before_tail(size).count_ones() as usize;
        if !rest.is_empty() || stack.len() != wanted || size > MAX_SIZE_BYTES {
            return Err(ResumeError { bytes: bytes.len(), size });
        }
        Ok(ResumeState { size, stack: stack.to_vec() })
    }
}

/// Complete units that certainly have bytes after them: the last unit, full or not, is hashed again.
fn units_before_tail(size: u64) -> u64 {
    size.saturating_sub(1) / RESUME_UNIT_BYTES
}

/// Hashes a content as its bytes come.
#[derive(Clone, Debug)]
pub struct ContentHasher {
    stack: Vec<ChainingValue>,
    units: u64,
    tail: Hasher,
    tail_len: u64,
}

impl Default for ContentHasher {
    fn default() -> ContentHasher {
        ContentHasher::new()
    }
}

impl ContentHasher {
    /// Begins at the first byte.
    pub fn new() -> ContentHasher {
        ContentHasher { stack: Vec::new(), units: 0, tail: Hasher::new(), tail_len: 0 }
    }

    /// Carries on: the next byte fed must be the one at `state.offset()`.
    pub fn resume(state: &ResumeState) -> ContentHasher {
        let units = units_before_tail(state.size);
        ContentHasher { stack: state.stack.clone(), units, tail: hasher_at(units), tail_len: 0 }
    }

    /// Bytes covered so far.
    pub fn size(&self) -> u64 {
        self.units * RESUME_UNIT_BYTES + self.tail_len
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // Only now is it certain that the unit is not the right edge of the tree.
            if self.tail_len == RESUME_UNIT_BYTES {
                self.seal_unit();
            }
            let room = (RESUME_UNIT_BYTES - self.tail_len) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.tail.update(now);
            self.tail_len += now.len() as u64;
            bytes = later;
        }
    }

    fn seal_unit(&mut self) {
        let mut subtree = self.tail.finalize_non_root();
        self.units += 1;
        // Like a binary counter: two subtrees of one height become one of the next.
        for _ in 0..self.units.trailing_zeros() {
            let left = self.stack.pop().expect("a counter with a carry has a subtree of that height");
            subtree = merge_subtrees_non_root(&left, &subtree, Mode::Hash);
        }
        self.stack.push(subtree);
        self.tail = hasher_at(self.units);
        self.tail_len = 0;
    }

    /// What to keep in order to carry on later.
    pub fn state(&self) -> ResumeState {
        ResumeState { size: self.size(), stack: self.stack.clone() }
    }

    /// The hash of everything so far.
    pub fn finish(&self) -> ContentHash {
        let Some((first, middle)) = self.stack.split_first() else {
            return content_hash(self.tail.finalize());
        };
        let mut right = self.tail.finalize_non_root();
        for left in middle.iter().rev() {
            right = merge_subtrees_non_root(left, &right, Mode::Hash);
        }
        content_hash(merge_subtrees_root(first, &right, Mode::Hash))
    }
}

fn content_hash(hash: blake3::Hash) -> ContentHash {
    ContentHash(Hash::from_bytes(*hash.as_bytes()))
}

fn hasher_at(units: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(units * RESUME_UNIT_BYTES);
    hasher
}
