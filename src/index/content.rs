//! Reading contents: any range of any version's bytes, from the blocks that hold its segments.
//!
//! Invariant: bytes are handed out only after their segments' hashes were checked; a range touches only the blocks it
//! needs; memory for decoded blocks and manifests is bounded. Usable from several threads at once: no lock is held while
//! the ledger is read. Bytes that are not here are an error that names what is missing, never zeros.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{IndexError, Reader};
use crate::ledger::{ArtifactKind, ArtifactName, Damage, Inline, Ledger, LedgerError, Place, slice_segment, span_of};
use crate::model::{Content, ContentHash, Manifest, SegmentHash, SegmentRef};

/// Decoded blocks kept, in bytes.
const CACHE_BYTES: usize = 64 << 20;
/// The same where contents are read once, in the order in which they were recorded.
pub const ONCE_CACHE_BYTES: usize = 1 << 20;
/// A segment from this length on is read in parts, and proven once for all of them.
const PARTED_BYTES: u32 = 32 << 10;
/// What the kernel is told to read behind a block, in bytes, once somebody goes on from block to block.
const AHEAD_BYTES: u64 = 1 << 20;
/// Segments of the manifests kept; 44 bytes each.
const CACHED_SEGMENTS: usize = 200_000;
/// Most bytes handed out at once; longer contents are read in ranges.
pub const MAX_READ_BYTES: u64 = 1 << 30;

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The segment is named, but stands in no artifact that is here.
    #[error("read content {content:?}: segment {segment:?} is not here yet")]
    Missing {
        /// Of which content.
        content: ContentHash,
        /// Which segment.
        segment: SegmentHash,
    },
    /// The content's manifest is not here.
    #[error("read content {content:?}: its manifest is not here yet")]
    MissingManifest {
        /// Which content.
        content: ContentHash,
    },
    /// Right segments in a wrong order: the manifest is not this content's.
    #[error("read content {content:?}: its segments do not make it up")]
    Mismatch {
        /// Which content.
        content: ContentHash,
    },
    /// More than is handed out at once.
    #[error("read content {content:?}: {bytes} bytes at once are more than {MAX_READ_BYTES}")]
    TooLong {
        /// Which content.
        content: ContentHash,
        /// How many were asked for.
        bytes: u64,
    },
    /// The artifact that should hold a segment is missing or damaged.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The index could not answer.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A manifest with the offset at which each segment begins.
struct Layout {
    manifest: Manifest,
    starts: Vec<u64>,
}

/// Reads contents; share it in an `Arc`.
pub struct ContentReader {
    ledger: Arc<Ledger>,
    reader: Mutex<Reader>,
    blocks: Mutex<Blocks>,
    layouts: Mutex<Layouts>,
    /// Where the block that was read last ended.
    last_end: Mutex<Option<(ArtifactName, u64)>>,
    /// What the checkpoint that was read last carries: its blocks are read one after another, and proving it costs all of them.
    inline: Mutex<Option<(ArtifactName, Arc<Inline>)>>,
}

impl ContentReader {
    /// Reads from `ledger` what `reader` finds, keeping at most 64 MiB of decoded blocks.
    pub fn new(ledger: Arc<Ledger>, reader: Reader) -> ContentReader {
        ContentReader::with_cache(ledger, reader, CACHE_BYTES)
    }

    /// As `new`, with another bound for decoded blocks.
    pub fn with_cache(ledger: Arc<Ledger>, reader: Reader, cache_bytes: usize) -> ContentReader {
        let blocks = Mutex::new(Blocks { limit: cache_bytes, ..Blocks::default() });
        ContentReader {
            ledger,
            reader: Mutex::new(reader),
            blocks,
            layouts: Mutex::default(),
            last_end: Mutex::default(),
            inline: Mutex::default(),
        }
    }

    /// Keeps as many decoded blocks as readers are worth who come back to them, such as those of a view.
    pub fn keep_more(&self) {
        lock(&self.blocks).limit = CACHE_BYTES;
    }

    /// Lets go of everything that is kept for readers who come back; it is read again when they do.
    pub fn shrink(&self) {
        let mut blocks = lock(&self.blocks);
        *blocks = Blocks { limit: blocks.limit, ..Blocks::default() };
        *lock(&self.layouts) = Layouts::default();
        *lock(&self.inline) = None;
        lock(&self.reader).shrink();
    }

    /// Many small reads that follow share one transaction, until `end_reading`.
    pub fn begin_reading(&self) -> Result<(), IndexError> {
        lock(&self.reader).begin_reading()
    }

    /// What is read afterwards may be newer.
    pub fn end_reading(&self) -> Result<(), IndexError> {
        lock(&self.reader).end_reading()
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the content.
    pub fn read(&self, content: &Content, offset: u64, len: u64) -> Result<Vec<u8>, ContentError> {
        let end = offset.saturating_add(len).min(content.size);
        if end <= offset {
            return Ok(Vec::new());
        }
        let wanted = end - offset;
        if wanted > MAX_READ_BYTES {
            return Err(ContentError::TooLong { content: content.hash, bytes: wanted });
        }
        if let Some(bytes) = self.read_single(content, offset, wanted)? {
            return Ok(bytes);
        }
        let layout = self.layout(content)?;
        let mut bytes = Vec::with_capacity(wanted as usize);
        let first = layout.starts.partition_point(|start| *start <= offset) - 1;
        for (SegmentRef(segment, segment_len), start) in layout.manifest.segments.iter().zip(&layout.starts).skip(first)
        {
            if *start >= end {
                break;
            }
            let from = offset.saturating_sub(*start) as usize;
            let to = (end - start).min(u64::from(*segment_len)) as usize;
            self.copy(content, *segment, *segment_len, from..to, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// A content of one segment, whose manifest nobody has to look up; `None` if it is none.
    fn read_single(&self, content: &Content, offset: u64, len: u64) -> Result<Option<Vec<u8>>, ContentError> {
        let segment = SegmentHash(content.hash.0);
        let Some(place) = lock(&self.reader).place(&segment)?.filter(|place| u64::from(place.len) == content.size)
        else {
            return Ok(None);
        };
        let (from, to) = (offset as usize, (offset + len) as usize);
        self.take_segment(segment, &place, |bytes| bytes.get(from..to).map(<[u8]>::to_vec))
    }

    /// The whole content of one segment whose place is known already.
    pub fn read_placed(&self, content: &Content, place: &Place) -> Result<Vec<u8>, ContentError> {
        if u64::from(place.len) != content.size {
            return Err(ContentError::Mismatch { content: content.hash });
        }
        self.take_segment(SegmentHash(content.hash.0), place, <[u8]>::to_vec)
    }

    /// Takes what is needed of a segment out of its block.
    fn take_segment<T>(
        &self,
        segment: SegmentHash,
        place: &Place,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ContentError> {
        let block = self.block(place)?;
        let is_proven = place.len >= PARTED_BYTES && lock(&block.proven).contains(&segment);
        let span = if is_proven { span_of(&block.bytes, place) } else { slice_segment(&block.bytes, segment, place) };
        let span = span.map_err(|damage| self.damaged(place, damage))?;
        if place.len >= PARTED_BYTES && !is_proven {
            lock(&block.proven).push(segment);
        }
        Ok(take(span))
    }

    /// The whole content, checked against its own hash too.
    pub fn read_all(&self, content: &Content) -> Result<Vec<u8>, ContentError> {
        // A single segment has its content's hash, which was checked just now.
        if content.size > 0
            && content.size <= MAX_READ_BYTES
            && let Some(bytes) = self.read_single(content, 0, content.size)?
        {
            return Ok(bytes);
        }
        let bytes = self.read(content, 0, content.size)?;
        if ContentHash::of(&bytes) == content.hash {
            Ok(bytes)
        } else {
            Err(ContentError::Mismatch { content: content.hash })
        }
    }

    /// The target of a link, or another small text; `None` if it is not UTF-8.
    pub fn read_text(&self, content: &Content) -> Result<Option<String>, ContentError> {
        Ok(String::from_utf8(self.read_all(content)?).ok())
    }

    fn copy(
        &self,
        content: &Content,
        segment: SegmentHash,
        len: u32,
        range: std::ops::Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), ContentError> {
        let place = lock(&self.reader).place(&segment)?;
        let place = place.ok_or(ContentError::Missing { content: content.hash, segment })?;
        // The manifest's length and the artifact's must agree, or offsets after this segment would be wrong.
        if place.len != len {
            return Err(ContentError::Mismatch { content: content.hash });
        }
        self.take_segment(segment, &place, |bytes| out.extend_from_slice(&bytes[range]))
    }

    fn block(&self, place: &Place) -> Result<Arc<Block>, ContentError> {
        let key = (place.artifact.clone(), place.block.offset);
        if let Some(block) = lock(&self.blocks).get(&key) {
            return Ok(block);
        }
        // The index placed it there once, so that a missing artifact is lost, not late.
        let block = match place.artifact.kind() {
            ArtifactKind::Checkpoint => self.inline_block(place),
            _ => {
                if self.goes_on(place) {
                    self.ledger.read_ahead(place, AHEAD_BYTES);
                }
                self.ledger.read_block(place)
            }
        };
        let bytes = block.inspect_err(|error| self.ledger.note_error(error))?;
        let block = Arc::new(Block { bytes, proven: Mutex::default() });
        lock(&self.blocks).put(key, block.clone());
        Ok(block)
    }

    /// True if a block stands right behind, or little behind, the one that was read before.
    fn goes_on(&self, place: &Place) -> bool {
        let begin = place.block.offset;
        let end = (place.artifact.clone(), begin + u64::from(place.block.stored_len));
        let before = lock(&self.last_end).replace(end);
        before.is_some_and(|(artifact, end)| artifact == place.artifact && end <= begin && begin - end < AHEAD_BYTES)
    }

    fn inline_block(&self, place: &Place) -> Result<Arc<[u8]>, LedgerError> {
        let name = &place.artifact;
        let kept = lock(&self.inline).as_ref().filter(|(kept, _)| kept == name).map(|(_, inline)| inline.clone());
        let inline = match kept {
            Some(inline) => inline,
            None => {
                let inline = Arc::new(self.ledger.read_inline(name)?);
                *lock(&self.inline) = Some((name.clone(), inline.clone()));
                inline
            }
        };
        inline.block(&place.block).map(Into::into).map_err(|damage| LedgerError::damaged(name, damage))
    }

    /// Notes damage for the next exchange, and drops the block: the good one that comes must be read.
    fn damaged(&self, place: &Place, damage: Damage) -> LedgerError {
        lock(&self.blocks).remove(&(place.artifact.clone(), place.block.offset));
        *lock(&self.inline) = None;
        let error = LedgerError::Damaged { name: place.artifact.clone(), damage };
        self.ledger.note_error(&error);
        error
    }

    fn layout(&self, content: &Content) -> Result<Arc<Layout>, ContentError> {
        if let Some(layout) = lock(&self.layouts).kept.get(&(content.hash, content.size)) {
            return Ok(layout.clone());
        }
        let manifest = lock(&self.reader).manifest(&content.hash, content.size)?;
        let manifest = manifest.ok_or(ContentError::MissingManifest { content: content.hash })?;
        let mut starts = Vec::with_capacity(manifest.segments.len());
        let mut at = 0;
        for SegmentRef(_, len) in &manifest.segments {
            starts.push(at);
            at += u64::from(*len);
        }
        if at != content.size {
            return Err(ContentError::Mismatch { content: content.hash });
        }
        let layout = Arc::new(Layout { manifest, starts });
        // An implied manifest is made again faster than it is looked up, and may yet be replaced by a recorded one.
        if layout.starts.len() > 1 {
            lock(&self.layouts).put((content.hash, content.size), layout.clone());
        }
        Ok(layout)
    }
}

/// A poisoned lock guards a cache or a connection: both are whole between two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Layouts {
    kept: HashMap<(ContentHash, u64), Arc<Layout>>,
    segments: usize,
}

impl Layouts {
    fn put(&mut self, key: (ContentHash, u64), layout: Arc<Layout>) {
        if self.segments + layout.starts.len() > CACHED_SEGMENTS {
            self.kept.clear();
            self.segments = 0;
        }
        if layout.starts.len() <= CACHED_SEGMENTS {
            self.segments += layout.starts.len();
            self.kept.insert(key, layout);
        }
    }
}

type BlockKey = (ArtifactName, u64);

/// A decoded block, and which of its long segments were found to be what they are called.
struct Block {
    bytes: Arc<[u8]>,
    proven: Mutex<Vec<SegmentHash>>,
}

/// Decoded blocks; the one unused for longest goes first.
#[derive(Default)]
struct Blocks {
    limit: usize,
    bytes: usize,
    ticks: u64,
    blocks: HashMap<BlockKey, (Arc<Block>, u64)>,
    by_use: BTreeMap<u64, BlockKey>,
}

impl Blocks {
    fn get(&mut self, key: &BlockKey) -> Option<Arc<Block>> {
        self.ticks += 1;
        let (block, tick) = self.blocks.get_mut(key)?;
        self.by_use.remove(tick);
        self.by_use.insert(self.ticks, key.clone());
        *tick = self.ticks;
        Some(block.clone())
    }

    fn remove(&mut self, key: &BlockKey) {
        if let Some((block, tick)) = self.blocks.remove(key) {
            self.by_use.remove(&tick);
            self.bytes -= block.bytes.len();
        }
    }

    fn put(&mut self, key: BlockKey, block: Arc<Block>) {
        if block.bytes.len() > self.limit || self.blocks.contains_key(&key) {
            return;
        }
        self.ticks += 1;
        self.bytes += block.bytes.len();
        self.by_use.insert(self.ticks, key.clone());
        self.blocks.insert(key, (block, self.ticks));
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.bytes -= self.blocks.remove(&oldest).map_or(0, |(block, _)| block.bytes.len());
        }
    }
}
