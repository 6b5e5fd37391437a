//! How a bundle is laid out: a beginning, entries end to end, an end. Numbers are little-endian.
//!
//! Invariant: what parsed is within its bounds, and the head of an entry that parsed is the one that was written, short of
//! 2^-64: so a head that was damaged is never believed, and the next one can be looked for byte by byte. Pure.

use crate::model::Hash;
use crate::transport::{MAX_NAME_BYTES, check_name};

/// Begins a bundle.
pub(super) const BEGIN: [u8; 8] = *b"LARDBN\x00\x01";
/// Begins an entry.
pub(super) const ENTRY: [u8; 8] = *b"LARDBE\x00\x01";
/// Begins the end.
pub(super) const END: [u8; 8] = *b"LARDBZ\x00\x01";
/// The largest body, in bytes: above any artifact.
pub(super) const MAX_BODY_BYTES: u64 = 128 << 20;
/// Mark, length of the name, length of the body, hash of the body, check.
const FIXED_BYTES: usize = 8 + 2 + 4 + 32 + 8;
/// The longest head, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = FIXED_BYTES + MAX_NAME_BYTES;
/// Mark, count of entries, check.
pub(super) const END_BYTES: usize = 24;

/// The head of an entry; its body follows at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub name: String,
    pub size_bytes: u64,
    pub hash: Hash,
}

impl Head {
    /// How long it is as it stands, in bytes.
    pub fn len(&self) -> u64 {
        (FIXED_BYTES + self.name.len()) as u64
    }

    /// As it stands.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = ENTRY.to_vec();
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend((self.size_bytes as u32).to_le_bytes());
        bytes.extend(self.hash.as_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.extend(check(&bytes));
        bytes
    }

    /// The head that `bytes` begin with; `None` if none does, or it is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let rest = bytes.strip_prefix(&ENTRY)?;
        let (name_bytes, rest) = rest.split_first_chunk::<2>()?;
        let (size_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        let name_bytes = usize::from(u16::from_le_bytes(*name_bytes));
        let size_bytes = u64::from(u32::from_le_bytes(*size_bytes));
        let (name, rest) = rest.split_at_checked(name_bytes)?;
        let known = bytes.get(..bytes.len() - rest.len())?;
        let bounded = name_bytes <= MAX_NAME_BYTES && size_bytes <= MAX_BODY_BYTES;
        if !bounded || rest.first_chunk::<8>()? != &check(known) {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?.to_owned();
        Some(Head { name, size_bytes, hash: Hash::from_bytes(*hash) })
    }
}

/// True for the names that a bundle takes and gives: below an app.
pub(super) fn is_entry_name(name: &str) -> bool {
    name.contains('/') && check_name(name).is_ok()
}

/// The end of a bundle with so many entries.
pub(super) fn end(count: u64) -> Vec<u8> {
    let mut bytes = END.to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(check(&bytes));
    bytes
}

/// How many entries the end says there are; `None` if `bytes` do not begin with a whole one.
pub(super) fn parse_end(bytes: &[u8]) -> Option<u64> {
    let (count, rest) = bytes.strip_prefix(&END)?.split_first_chunk::<8>()?;
    let count = u64::from_le_bytes(*count);
    (rest.first_chunk::<8>()? == &check(&bytes[..16])).then_some(count)
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let hash = Hash::of(bytes);
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}
