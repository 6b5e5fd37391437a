//! Builds packs as segments come.
//!
//! Invariant: what `finish` stages is a pack that `PackIndex::read` reads back, and its hash covers every byte written.
//! Holds a quarter of a mebibyte and the blocks that a `Press` has under way besides the index; what is still in memory can go into a
//! checkpoint instead.

use std::collections::VecDeque;
use std::io;

use super::block::{BLOCK_RAW_BYTES, MAX_BLOCK_RAW_BYTES};
use super::disk::{StagedFile, io_error};
use super::error::LedgerError;
use super::name::BlockAddress;
use super::pack::{IndexBlock, MAGIC, PACK_BYTES, PACK_SEGMENTS, PackIndex, write_end};
use super::press::Press;
use super::store::Ledger;
use crate::model::{ArtifactHash, Hash, SegmentHash};

const SPILL_BYTES: usize = 256 << 10;

/// A complete pack that waits for its name.
#[derive(Debug)]
pub(crate) struct FinishedPack {
    pub staged: StagedFile,
    pub hash: ArtifactHash,
    pub bytes: u64,
    pub index: PackIndex,
}

/// The stored bytes of a block and its segments.
pub(crate) type StoredBlock<'a> = (&'a [u8], &'a [(SegmentHash, u32)]);

/// Builds one pack after the other.
pub(crate) struct PackBuilder {
    press: Press,
    /// Segments of each block that is under way.
    pressed_segments: VecDeque<u32>,
    block: Vec<u8>,
    block_segments: u32,
    /// Memory of a block that was pressed, for the next one.
    spare: Vec<u8>,
    index: PackIndex,
    pending: Vec<u8>,
    spilled: Option<StagedFile>,
    hasher: blake3::Hasher,
    stored_len: u64,
}

impl PackBuilder {
    pub fn new() -> io::Result<PackBuilder> {
        let mut builder = PackBuilder {
            press: Press::new()?,
            pressed_segments: VecDeque::new(),
            block: Vec::new(),
            block_segments: 0,
            spare: Vec::new(),
            index: PackIndex::default(),
            pending: Vec::new(),
            spilled: None,
            hasher: blake3::Hasher::new(),
            stored_len: 0,
        };
        builder.reset();
        Ok(builder)
    }

    fn reset(&mut self) {
        self.hasher.reset();
        self.pending.clear();
        self.pending.extend_from_slice(MAGIC);
        self.stored_len = MAGIC.len() as u64;
        self.index = PackIndex::default();
    }

    /// True if the pack has reached its size or count.
    pub fn is_full(&self) -> bool {
        self.stored_len >= PACK_BYTES || self.index.segments.len() >= PACK_SEGMENTS
    }

    /// True if nothing was added since the last pack.
    pub fn is_empty(&self) -> bool {
        self.index.segments.is_empty()
    }

    /// Adds a segment after the others. Its bytes are `bytes`, 1 to 16 MiB.
    pub fn segment(&mut self, ledger: &Ledger, hash: SegmentHash, bytes: &[u8]) -> Result<(), LedgerError> {
        if bytes.is_empty() || bytes.len() > MAX_BLOCK_RAW_BYTES {
            let (bytes, limit) = (bytes.len() as u64, MAX_BLOCK_RAW_BYTES as u64);
            return Err(LedgerError::TooLarge { what: "a segment", bytes, limit });
        }
        if !self.block.is_empty() && self.block.len() + bytes.len() > BLOCK_RAW_BYTES {
            self.press_block(ledger)?;
        }
        self.block.extend_from_slice(bytes);
        self.block_segments += 1;
        self.index.segments.push((hash, bytes.len() as u32));
        Ok(())
    }

    /// Compresses what has gathered into a block; all blocks are closed then.
    pub fn close_block(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        self.press_block(ledger)?;
        while !self.press.is_empty() {
            self.take_pressed(ledger)?;
        }
        Ok(())
    }

    /// Hands what has gathered to the press.
    fn press_block(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let raw = std::mem::replace(&mut self.block, std::mem::take(&mut self.spare));
        while self.press.is_full(raw.len()) {
            self.take_pressed(ledger)?;
        }
        self.pressed_segments.push_back(std::mem::take(&mut self.block_segments));
        self.press.give(raw).map_err(io_error("compress for", ledger.root()))
    }

    /// Appends the oldest block of the press.
    fn take_pressed(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let pressed = self.press.take().map_err(io_error("compress for", ledger.root()))?;
        let (Some(pressed), Some(count)) = (pressed, self.pressed_segments.pop_front()) else { return Ok(()) };
        let (stored_len, raw_len) = (pressed.stored.len() as u32, pressed.raw.len() as u32);
        let address = BlockAddress { offset: self.stored_len, stored_len, raw_len };
        self.index.blocks.push(IndexBlock { address, count });
        self.pending.extend_from_slice(&pressed.stored);
        self.stored_len += u64::from(stored_len);
        self.spare = pressed.raw;
        self.spare.clear();
        self.spill_if_large(ledger)
    }

    /// Copies a block of another artifact as it is stored. No segment may be waiting for its block.
    pub fn stored_block(
        &mut self,
        ledger: &Ledger,
        stored: &[u8],
        segments: &[(SegmentHash, u32)],
    ) -> Result<(), LedgerError> {
        debug_assert!(self.block.is_empty() && self.press.is_empty(), "a waiting segment would change its block");
        let raw_len = segments.iter().map(|(_, len)| len).sum();
        let address = BlockAddress { offset: self.stored_len, stored_len: stored.len() as u32, raw_len };
        self.index.blocks.push(IndexBlock { address, count: segments.len() as u32 });
        self.index.segments.extend_from_slice(segments);
        self.pending.extend_from_slice(stored);
        self.stored_len += stored.len() as u64;
        self.spill_if_large(ledger)
    }

    fn spill_if_large(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        if self.pending.len() < SPILL_BYTES { Ok(()) } else { self.spill(ledger) }
    }

    fn spill(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let disk = ledger.disk();
        let staged = match &mut self.spilled {
            Some(staged) => staged,
            none => none.insert(disk.stage(&ledger.staging())?),
        };
        self.hasher.update(&self.pending);
        disk.write(staged, &self.pending)?;
        disk.begin_writing(staged, self.pending.len());
        self.pending.clear();
        Ok(())
    }

    /// The closed blocks, if they are all still in memory: index and stored bytes of each.
    pub fn in_memory(&self) -> Option<impl Iterator<Item = StoredBlock<'_>>> {
        debug_assert!(self.block.is_empty() && self.press.is_empty(), "the last block is closed first");
        let stored = |address: BlockAddress| {
            let start = address.offset as usize;
            &self.pending[start..start + address.stored_len as usize]
        };
        let blocks = self.index.blocks_with_segments();
        self.spilled.is_none().then(|| blocks.map(move |(address, segments)| (stored(address), segments)))
    }

    /// Writes index and footer; the builder begins the next pack.
    pub fn finish(&mut self, ledger: &Ledger) -> Result<FinishedPack, LedgerError> {
        self.close_block(ledger)?;
        let before = self.pending.len();
        let (press, pending) = (&mut self.press, &mut self.pending);
        write_end(pending, &self.index, |raw| Ok(press.encode(raw)?.to_vec()))
            .map_err(io_error("compress for", ledger.root()))?;
        let bytes = self.stored_len + (self.pending.len() - before) as u64;
        self.spill(ledger)?;
        let hash = ArtifactHash(Hash::from_bytes(*self.hasher.finalize().as_bytes()));
        let staged = self.spilled.take().expect("spilled just above");
        let index = std::mem::take(&mut self.index);
        self.reset();
        Ok(FinishedPack { staged, hash, bytes, index })
    }
}
