//! Blocks: segments laid end to end and compressed together.
//!
//! Invariant: a block is stored compressed only if that makes it shorter, so that equal lengths say "as it is" without a
//! flag. Decompression never takes more memory than the length that the address names, and that is bounded.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

use super::error::Damage;
use super::name::BlockAddress;

/// Segments are grouped until a block has this many bytes; a larger segment has a block of its own.
pub const BLOCK_RAW_BYTES: usize = 128 << 10;
/// No segment, and so no block, is longer.
pub const MAX_BLOCK_RAW_BYTES: usize = 16 << 20;
/// Level 3 compresses JSON and Markdown about fourfold at several hundred megabytes a second.
const ZSTD_LEVEL: i32 = 3;

/// Compresses blocks with one context.
pub(crate) struct BlockEncoder {
    compressor: Compressor<'static>,
    scratch: Vec<u8>,
}

impl BlockEncoder {
    pub fn new() -> io::Result<BlockEncoder> {
        Ok(BlockEncoder { compressor: Compressor::new(ZSTD_LEVEL)?, scratch: Vec::new() })
    }

    /// The stored form of `raw`: compressed if that is shorter.
    pub fn encode<'a>(&'a mut self, raw: &'a [u8]) -> io::Result<&'a [u8]> {
        let bound = zstd::zstd_safe::compress_bound(raw.len());
        if self.scratch.len() < bound {
            self.scratch.resize(bound, 0);
        }
        let len = self.compressor.compress_to_buffer(raw, &mut self.scratch[..])?;
        Ok(if len < raw.len() { &self.scratch[..len] } else { raw })
    }
}

/// Checks the lengths of a block before memory is taken for it.
pub(crate) fn check_lengths(stored_len: u64, raw_len: u64) -> Result<(), Damage> {
    let limit = MAX_BLOCK_RAW_BYTES as u64;
    if raw_len > limit {
        return Err(Damage::Bound { what: "a block's bytes", actual: raw_len, limit });
    }
    if raw_len == 0 || stored_len == 0 || stored_len > raw_len {
        return Err(Damage::Form("a block has 1 to as many stored bytes as it has bytes"));
    }
    Ok(())
}

/// Restores a block from its stored bytes.
pub(crate) fn decode(stored: Vec<u8>, block: &BlockAddress) -> Result<Vec<u8>, Damage> {
    check_lengths(u64::from(block.stored_len), u64::from(block.raw_len))?;
    if stored.len() != block.stored_len as usize {
        return Err(Damage::Form("a block ends too early"));
    }
    if block.stored_len == block.raw_len {
        return Ok(stored);
    }
    inflate(&stored, block.raw_len as usize)
}

/// As `decode`, into memory that is there already; `out` has as many bytes as the block.
pub(crate) fn decode_into(stored: &[u8], block: &BlockAddress, out: &mut [u8]) -> Result<(), Damage> {
    check_lengths(u64::from(block.stored_len), u64::from(block.raw_len))?;
    if stored.len() != block.stored_len as usize {
        return Err(Damage::Form("a block ends too early"));
    }
    if block.stored_len == block.raw_len {
        out.copy_from_slice(stored);
        return Ok(());
    }
    let len = with_decompressor(|decompressor| decompressor.decompress_to_buffer(stored, out))?;
    if len == out.len() { Ok(()) } else { Err(Damage::Form("a block decompresses to another length")) }
}

thread_local! {
    /// A context is larger than a block, and making one costs as much as decompressing one.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses to exactly `raw_len` bytes, a length that was checked against a bound.
pub(crate) fn inflate(stored: &[u8], raw_len: usize) -> Result<Vec<u8>, Damage> {
    let raw = with_decompressor(|decompressor| decompressor.decompress(stored, raw_len))?;
    if raw.len() == raw_len { Ok(raw) } else { Err(Damage::Form("a block decompresses to another length")) }
}

fn with_decompressor<T>(work: impl FnOnce(&mut Decompressor<'static>) -> io::Result<T>) -> Result<T, Damage> {
    let done = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        work(decompressor)
    });
    done.map_err(Damage::Zstd)
}
