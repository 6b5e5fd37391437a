//! Damaged packs made anew from bytes that stand elsewhere.
//!
//! Invariant: what is put in a pack's place hashes to the pack's name: it is what was lost to the byte, or nothing at all. Blocks that are
//! whole are kept as they are; the others are compressed again, which gives the same bytes wherever the same compressor made them. Does
//! not know where else a segment's bytes may stand.

use std::collections::HashMap;

use super::block::BlockEncoder;
use super::disk::io_error;
use super::error::LedgerError;
use super::name::ArtifactName;
use super::pack::{self, PackIndex};
use super::store::Ledger;
use super::{BlockAddress, Place, block, slice_segment};
use crate::model::{Hash, SegmentHash};

/// Bytes that may be missing from one pack: they are held in memory at once.
const MAX_MISSING_BYTES: u64 = 128 << 20;

/// A pack with holes.
#[derive(Debug)]
pub struct Remains {
    name: ArtifactName,
    index: PackIndex,
    /// The stored bytes of each block that is whole.
    blocks: Vec<Option<Vec<u8>>>,
}

impl Remains {
    /// Every segment that the pack held.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentHash> {
        self.index.segments.iter().map(|(segment, _)| segment)
    }

    /// The segments of the blocks that are not whole, and how long each is.
    pub fn missing(&self) -> impl Iterator<Item = &(SegmentHash, u32)> {
        let blocks = self.index.blocks_with_segments().zip(&self.blocks);
        blocks.filter(|(_, whole)| whole.is_none()).flat_map(|((_, segments), _)| segments)
    }

    /// All of the pack, if it comes out as it was; `bytes` holds what is missing.
    fn bytes_with(&self, bytes: &HashMap<SegmentHash, Vec<u8>>) -> Result<Option<Vec<u8>>, std::io::Error> {
        let mut encoder = BlockEncoder::new()?;
        let mut pack = pack::MAGIC.to_vec();
        for ((_, segments), whole) in self.index.blocks_with_segments().zip(&self.blocks) {
            if let Some(stored) = whole {
                pack.extend_from_slice(stored);
                continue;
            }
            let mut raw = Vec::new();
            for (segment, _) in segments {
                let Some(bytes) = bytes.get(segment) else { return Ok(None) };
                raw.extend_from_slice(bytes);
            }
            pack.extend_from_slice(encoder.encode(&raw)?);
        }
        pack::write_end(&mut pack, &self.index, |raw| Ok(encoder.encode(raw)?.to_vec()))?;
        Ok(Some(pack))
    }
}

impl Ledger {
    /// What is left of a pack that is damaged or gone; `layout` is asked what it held where its own index cannot say.
    ///
    /// `None` if nobody knows what it held, or too much is missing.
    pub fn remains<E: From<LedgerError>>(
        &self,
        name: &ArtifactName,
        layout: impl FnOnce() -> Result<Option<PackIndex>, E>,
    ) -> Result<Option<Remains>, E> {
        let index = match self.pack_index(name) {
            Ok(index) => Some(index),
            // A disk that cannot read it is one of the reasons to be here.
            Err(_) => layout()?.filter(PackIndex::is_whole),
        };
        let Some(index) = index else { return Ok(None) };
        let whole = |(address, segments): (_, &[(SegmentHash, u32)])| self.whole_block(name, address, segments);
        let blocks = index.blocks_with_segments().map(whole).collect();
        let remains = Remains { name: name.clone(), index, blocks };
        let missing: u64 = remains.missing().map(|(_, len)| u64::from(*len)).sum();
        Ok((missing <= MAX_MISSING_BYTES).then_some(remains))
    }

    /// The stored bytes of a block of which every segment is right.
    fn whole_block(
        &self,
        name: &ArtifactName,
        address: BlockAddress,
        segments: &[(SegmentHash, u32)],
    ) -> Option<Vec<u8>> {
        let place = |start, len| Place { artifact: name.clone(), block: address, start, len };
        let stored = self.stored_block(&place(0, 0)).ok()?;
        let raw = block::decode(stored.clone(), &address).ok()?;
        let mut start = 0;
        for (segment, len) in segments {
            slice_segment(&raw, *segment, &place(start, *len)).ok()?;
            start += len;
        }
        Some(stored)
    }

    /// Puts a pack back, with `bytes` in its holes. False, and nothing is touched, if it does not come out as it was.
    pub fn remake(&self, remains: &Remains, bytes: &HashMap<SegmentHash, Vec<u8>>) -> Result<bool, LedgerError> {
        let ArtifactName::Pack { hash, .. } = &remains.name else { return Ok(false) };
        let pack = remains.bytes_with(bytes).map_err(io_error("compress for", self.root()))?;
        let Some(pack) = pack.filter(|pack| Hash::of(pack) == hash.0) else { return Ok(false) };
        self.put(&remains.name, &pack)?;
        Ok(true)
    }
}
