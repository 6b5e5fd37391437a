//! Packs: blocks of segments, and at the end an index that is read without them.
//!
//! Layout: magic, blocks, index (compressed if shorter), footer {index stored length, index length, magic}. The index:
//! counts of blocks and segments, then per block {offset, stored length, length, segments}, then per segment {hash,
//! length}; numbers are 32-bit little-endian. Invariant: blocks lie end to end from the magic to the index and segments
//! fill their block exactly, so every place that an index yields lies inside the pack.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::block;
use super::error::Damage;
use super::name::{ArtifactName, BlockAddress, Place};
use crate::model::{Hash, SegmentHash};

/// A pack is closed when its blocks have this many stored bytes.
pub const PACK_BYTES: u64 = 16 << 20;
/// A pack is closed when it has this many segments.
pub const PACK_SEGMENTS: usize = 1 << 16;
/// No pack is longer: the target, one segment beyond it, the index.
pub const MAX_PACK_BYTES: u64 = 64 << 20;

pub(super) const MAGIC: &[u8; 8] = b"LARDPK\x00\x01";
pub(super) const INDEX_MAGIC: &[u8; 8] = b"LARDIX\x00\x01";
pub(super) const FOOTER_BYTES: u64 = 16;
const BLOCK_ENTRY_BYTES: usize = 16;
const SEGMENT_ENTRY_BYTES: usize = 36;
const MAX_INDEX_BYTES: u64 = 8 + ((BLOCK_ENTRY_BYTES + SEGMENT_ENTRY_BYTES) * 2 * PACK_SEGMENTS) as u64;

/// One block of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexBlock {
    pub address: BlockAddress,
    /// How many of the index's segments it holds.
    pub count: u32,
}

/// What a pack holds and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackIndex {
    pub(crate) blocks: Vec<IndexBlock>,
    pub(crate) segments: Vec<(SegmentHash, u32)>,
}

impl PackIndex {
    /// How many segments the pack holds.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Every segment with its place, in the pack's order. `artifact` is the pack's name.
    pub fn places<'a>(&'a self, artifact: &'a ArtifactName) -> impl Iterator<Item = (SegmentHash, Place)> + 'a {
        self.blocks_with_segments().flat_map(move |(address, segments)| {
            segments.iter().scan(0u32, move |offset, (hash, len)| {
                let start = *offset;
                *offset += len;
                Some((*hash, Place { artifact: artifact.clone(), block: address, start, len: *len }))
            })
        })
    }

    /// The blocks in order, each with its segments.
    pub(crate) fn blocks_with_segments(&self) -> impl Iterator<Item = (BlockAddress, &[(SegmentHash, u32)])> {
        self.blocks.iter().scan(0usize, |at, block| {
            let segments = &self.segments[*at..*at + block.count as usize];
            *at += block.count as usize;
            Some((block.address, segments))
        })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let len = 8 + BLOCK_ENTRY_BYTES * self.blocks.len() + SEGMENT_ENTRY_BYTES * self.segments.len();
        let mut bytes = Vec::with_capacity(len);
        let mut number = |n: u32| bytes.extend_from_slice(&n.to_le_bytes());
        number(self.blocks.len() as u32);
        number(self.segments.len() as u32);
        for IndexBlock { address, count } in &self.blocks {
            [address.offset as u32, address.stored_len, address.raw_len, *count].into_iter().for_each(&mut number);
        }
        for (hash, len) in &self.segments {
            bytes.extend_from_slice(hash.as_bytes());
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        bytes
    }

    /// Reads an index whose pack has its blocks between the magic and `blocks_end`.
    fn parse(bytes: &[u8], blocks_end: u64) -> Result<PackIndex, Damage> {
        let wrong_len = || Damage::Form("the index has another length than its counts say");
        let ([block_count, segment_count], entries) = read_numbers::<2>(bytes).ok_or_else(wrong_len)?;
        let blocks_len = u64::from(block_count) * BLOCK_ENTRY_BYTES as u64;
        let wanted = blocks_len + u64::from(segment_count) * SEGMENT_ENTRY_BYTES as u64;
        // The counts are believed only once the bytes for them are here.
        if entries.len() as u64 != wanted {
            return Err(wrong_len());
        }
        let (blocks, segments) = entries.split_at(blocks_len as usize);
        let index = PackIndex {
            blocks: blocks.as_chunks::<BLOCK_ENTRY_BYTES>().0.iter().map(read_block_entry).collect(),
            segments: segments.as_chunks::<SEGMENT_ENTRY_BYTES>().0.iter().map(read_segment_entry).collect(),
        };
        index.check(blocks_end)?;
        Ok(index)
    }

    /// An index that was put together from single places: per block its address and its segments, in order.
    pub(crate) fn of(blocks: Vec<(BlockAddress, Vec<(SegmentHash, u32)>)>) -> PackIndex {
        let mut index = PackIndex::default();
        for (address, segments) in blocks {
            index.blocks.push(IndexBlock { address, count: segments.len() as u32 });
            index.segments.extend(segments);
        }
        index
    }

    /// True if nothing is left out: blocks lie end to end and their segments fill them.
    pub(super) fn is_whole(&self) -> bool {
        let end = self.blocks.last().map(|last| last.address.offset + u64::from(last.address.stored_len));
        end.is_some_and(|end| self.check(end).is_ok())
    }

    fn check(&self, blocks_end: u64) -> Result<(), Damage> {
        let total: u64 = self.blocks.iter().map(|block| u64::from(block.count)).sum();
        if total != self.segments.len() as u64 {
            return Err(Damage::Form("the blocks hold another number of segments than the index"));
        }
        let mut offset = MAGIC.len() as u64;
        for (address, segments) in self.blocks_with_segments() {
            block::check_lengths(u64::from(address.stored_len), u64::from(address.raw_len))?;
            if address.offset != offset {
                return Err(Damage::Form("blocks overlap or leave a gap"));
            }
            offset += u64::from(address.stored_len);
            let raw_len: u64 = segments.iter().map(|(_, len)| u64::from(*len)).sum();
            if raw_len != u64::from(address.raw_len) || segments.iter().any(|(_, len)| *len == 0) {
                return Err(Damage::Form("segments do not fill their block"));
            }
        }
        if offset == blocks_end { Ok(()) } else { Err(Damage::Form("the blocks do not end at the index")) }
    }

    /// Reads the index at the end of an open pack.
    pub(crate) fn read(file: &File) -> Result<PackIndex, ReadPackError> {
        let file_len = file.metadata()?.len();
        let least = MAGIC.len() as u64 + FOOTER_BYTES;
        if file_len > MAX_PACK_BYTES {
            return Err(Damage::Bound { what: "a pack's bytes", actual: file_len, limit: MAX_PACK_BYTES }.into());
        }
        if file_len < least {
            return Err(Damage::Form("is too short for a pack").into());
        }
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0)?;
        let mut footer = [0; FOOTER_BYTES as usize];
        file.read_exact_at(&mut footer, file_len - FOOTER_BYTES)?;
        let ([stored_len, raw_len], end_magic) = read_numbers::<2>(&footer).expect("a footer has 16 bytes");
        if &magic != MAGIC || end_magic != INDEX_MAGIC {
            return Err(Damage::Form("does not begin and end like a pack of format 1").into());
        }
        if u64::from(raw_len) > MAX_INDEX_BYTES {
            let actual = u64::from(raw_len);
            return Err(Damage::Bound { what: "an index's bytes", actual, limit: MAX_INDEX_BYTES }.into());
        }
        if stored_len > raw_len || u64::from(stored_len) > file_len - least {
            return Err(Damage::Form("the index does not lie in the pack").into());
        }
        let blocks_end = file_len - FOOTER_BYTES - u64::from(stored_len);
        let mut stored = vec![0; stored_len as usize];
        file.read_exact_at(&mut stored, blocks_end)?;
        let raw = if stored_len == raw_len { stored } else { block::inflate(&stored, raw_len as usize)? };
        Ok(PackIndex::parse(&raw, blocks_end)?)
    }
}

/// Why a pack could not be read: the file system, or its bytes.
#[derive(Debug)]
pub(crate) enum ReadPackError {
    Io(io::Error),
    Damage(Damage),
}

impl From<io::Error> for ReadPackError {
    fn from(error: io::Error) -> ReadPackError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadPackError::Damage(Damage::Form("ends too early")),
            _ => ReadPackError::Io(error),
        }
    }
}

impl From<Damage> for ReadPackError {
    fn from(damage: Damage) -> ReadPackError {
        ReadPackError::Damage(damage)
    }
}

/// Writes index and footer behind the blocks.
pub(super) fn write_end(
    pack: &mut Vec<u8>,
    index: &PackIndex,
    compress: impl FnOnce(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let raw = index.to_bytes();
    let stored = compress(&raw)?;
    pack.extend_from_slice(&stored);
    pack.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    pack.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    pack.extend_from_slice(INDEX_MAGIC);
    Ok(())
}

fn read_numbers<const N: usize>(bytes: &[u8]) -> Option<([u32; N], &[u8])> {
    let (head, rest) = bytes.split_at_checked(4 * N)?;
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(head.as_chunks::<4>().0) {
        *number = u32::from_le_bytes(*bytes);
    }
    Some((numbers, rest))
}

fn read_block_entry(bytes: &[u8; BLOCK_ENTRY_BYTES]) -> IndexBlock {
    let ([offset, stored_len, raw_len, count], _) = read_numbers::<4>(bytes).expect("an entry has 16 bytes");
    IndexBlock { address: BlockAddress { offset: u64::from(offset), stored_len, raw_len }, count }
}

fn read_segment_entry(bytes: &[u8; SEGMENT_ENTRY_BYTES]) -> (SegmentHash, u32) {
    let (hash, len) = bytes.split_first_chunk::<32>().expect("an entry has 36 bytes");
    let ([len], _) = read_numbers::<1>(len).expect("an entry has 36 bytes");
    (SegmentHash(Hash::from_bytes(*hash)), len)
}
