//! Reading contents: any range of any version's bytes, from the blocks that hold its segments.
//!
//! Invariant: bytes are handed out only after their segments' hashes were checked; a range touches only the blocks it
//! needs; memory for decoded blocks and manifests is bounded; a block that is asked for whole is kept by nobody. Usable from several
//! threads at once: no lock is held while the ledger is read. Bytes that are not here are an error that names what is missing, never zeros.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ahead::Runs;
use super::{IndexError, Reader};
use crate::ledger::{ArtifactKind, ArtifactName, Damage, Inline, Ledger, LedgerError, Place, slice_segment, span_of};
use crate::model::{Content, ContentHash, Manifest, SegmentHash, SegmentRef};

/// Decoded blocks kept, in bytes.
const CACHE_BYTES: usize = 64 << 20;
/// The same where contents are read once, in the order in which they were recorded.
pub const ONCE_CACHE_BYTES: usize = 1 << 20;
/// A segment from this length on is read in parts, and proven once for all of them.
const PARTED_BYTES: u32 = 32 << 10;
/// Segments of one block that are remembered as proven; 36 bytes each.
const MAX_PROVEN: usize = 512;
/// Places looked up at one moment; nobody else is answered meanwhile.
const PIECES: usize = 256;
/// Places of prepared contents kept, some 250 bytes each; all are dropped when there are more.
const PREPARED: usize = 1024;
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

/// A part of a content that lies in one segment.
struct Piece {
    segment: SegmentHash,
    /// Of the whole segment.
    len: u32,
    /// In it.
    range: Range<usize>,
}

impl Layout {
    /// What makes up the bytes from `offset` to `end`, in order; both lie in the content.
    fn pieces(&self, offset: u64, end: u64) -> Vec<Piece> {
        let first = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let segments = self.manifest.segments.iter().zip(&self.starts).skip(first);
        let within = segments.take_while(|(_, start)| **start < end);
        let piece = |(SegmentRef(segment, len), start): (&SegmentRef, &u64)| {
            let from = offset.saturating_sub(*start) as usize;
            let to = (end - start).min(u64::from(*len)) as usize;
            Piece { segment: *segment, len: *len, range: from..to }
        };
        within.map(piece).collect()
    }
}

/// Reads contents; share it in an `Arc`.
pub struct ContentReader {
    ledger: Arc<Ledger>,
    reader: Mutex<Reader>,
    blocks: Mutex<Blocks>,
    layouts: Mutex<Layouts>,
    /// Who goes on from block to block, and how far the kernel was told to read.
    runs: Mutex<Runs>,
    /// Where contents stand that were prepared.
    prepared: Mutex<Prepared>,
    /// Blocks taken from the ledger so far.
    blocks_read: AtomicU64,
    /// The longest that the index took to answer since somebody asked, in nanoseconds.
    waited: AtomicU64,
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
            runs: Mutex::default(),
            prepared: Mutex::default(),
            blocks_read: AtomicU64::default(),
            waited: AtomicU64::default(),
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
        self.forget_prepared();
        lock(&self.reader).shrink();
    }

    /// What `prepare` wants to be told: take it before the place is looked up.
    pub fn turn(&self) -> u64 {
        lock(&self.prepared).turn
    }

    /// Makes a content of one segment, whose place is known, ready for whoever reads it next: its block decoded, its bytes proven.
    ///
    /// A hint: what cannot be read now is met by who reads. Nothing is kept if `turn` is over. Returns the bytes, which are all of the
    /// content, if they were proven.
    pub fn prepare(&self, content: &Content, place: &Place, turn: u64) -> Option<Proven> {
        let segment = SegmentHash(content.hash.0);
        if u64::from(place.len) != content.size || self.turn() != turn {
            return None;
        }
        // Nothing is said of what is wrong: it may have been let go meanwhile, and who reads it without having been told finds out.
        let block = self.block_quietly(place).ok()?;
        let key = (segment, place.start);
        if !lock(&block.proven).contains(&key) {
            if slice_segment(&block.bytes, segment, place).is_err() {
                self.forget_block(place);
                return None;
            }
            remember(&block, key, MAX_PROVEN);
        }
        let mut prepared = lock(&self.prepared);
        if prepared.turn != turn {
            return None;
        }
        if prepared.places.len() >= PREPARED {
            prepared.places.clear();
        }
        prepared.places.insert(segment, place.clone());
        drop(prepared);
        let start = place.start as usize;
        Some(Proven { block, range: start..start + place.len as usize })
    }

    /// Places are looked up again from now on: something was let go, or stands elsewhere.
    pub fn forget_prepared(&self) {
        let mut prepared = lock(&self.prepared);
        prepared.turn += 1;
        prepared.places.clear();
    }

    /// How many blocks were taken from the ledger so far, each decoded once.
    pub fn blocks_read(&self) -> u64 {
        self.blocks_read.load(Ordering::Relaxed)
    }

    /// The longest that one question took which the index was asked since the last call: whether it is in memory.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_nanos(self.waited.swap(0, Ordering::Relaxed))
    }

    fn ask<T>(&self, question: impl FnOnce(&Reader) -> T) -> T {
        let reader = lock(&self.reader);
        let begun = Instant::now();
        let answer = question(&reader);
        self.waited.fetch_max(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        answer
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
        let single = self.read_single(content, offset, wanted, |bytes| bytes.to_vec())?;
        if let Some(bytes) = single {
            return Ok(bytes);
        }
        let mut bytes = vec![0; wanted as usize];
        self.read_pieces(content, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The same into a buffer, as far as it and the content go. Returns how many bytes that were; after an error what stands there is of no use.
    pub fn read_into(&self, content: &Content, offset: u64, out: &mut [u8]) -> Result<usize, ContentError> {
        let left = usize::try_from(content.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = out.len().min(left);
        let Some(out) = out.get_mut(..len).filter(|out| !out.is_empty()) else { return Ok(0) };
        let single = self.read_single(content, offset, len as u64, |bytes| out.copy_from_slice(bytes))?;
        if single.is_none() {
            self.read_pieces(content, offset, out)?;
        }
        Ok(len)
    }

    /// Of a content that goes on behind what is asked for.
    fn read_pieces(&self, content: &Content, offset: u64, out: &mut [u8]) -> Result<(), ContentError> {
        let layout = self.layout(content)?;
        let pieces = layout.pieces(offset, offset + out.len() as u64);
        let mut rest = out;
        for some in pieces.chunks(PIECES) {
            for (piece, place) in some.iter().zip(self.places(content, some)?) {
                let (out, behind) = rest.split_at_mut(piece.range.len());
                self.fill(piece, &place, out)?;
                rest = behind;
            }
        }
        Ok(())
    }

    /// A content of one segment, whose manifest nobody has to look up; `None` if it is none.
    fn read_single<T>(
        &self,
        content: &Content,
        offset: u64,
        len: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, ContentError> {
        let segment = SegmentHash(content.hash.0);
        let (from, to) = (offset as usize, (offset + len) as usize);
        let part = |bytes: &[u8]| bytes.get(from..to).map(take);
        let prepared = lock(&self.prepared).places.get(&segment).cloned();
        if let Some(place) = prepared.filter(|place| u64::from(place.len) == content.size) {
            // Only as long as its block is in memory: what was let go since may have moved it, and nothing lost is looked for there.
            if let Some(block) = self.kept(&place) {
                return Ok(part(self.prove(&block, segment, &place, 0)?));
            }
        }
        let place = self.ask(|reader| reader.place(&segment))?.filter(|place| u64::from(place.len) == content.size);
        let Some(place) = place else { return Ok(None) };
        self.take_segment(segment, &place, part)
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
        // A short one is hashed faster than it is remembered.
        let most = if place.len >= PARTED_BYTES { usize::MAX } else { 0 };
        Ok(take(self.prove(&block, segment, place, most)?))
    }

    /// The bytes of a segment, hashed unless they were before; remembered if the block remembers fewer than `most`.
    fn prove<'a>(
        &self,
        block: &'a Block,
        segment: SegmentHash,
        place: &Place,
        most: usize,
    ) -> Result<&'a [u8], LedgerError> {
        let key = (segment, place.start);
        let is_proven = lock(&block.proven).contains(&key);
        let span = if is_proven { span_of(&block.bytes, place) } else { slice_segment(&block.bytes, segment, place) };
        let span = span.map_err(|damage| self.damaged(place, damage))?;
        if !is_proven {
            remember(block, key, most);
        }
        Ok(span)
    }

    /// The whole content, checked against its own hash too.
    pub fn read_all(&self, content: &Content) -> Result<Vec<u8>, ContentError> {
        // A single segment has its content's hash, which was checked just now.
        if content.size > 0
            && content.size <= MAX_READ_BYTES
            && let Some(bytes) = self.read_single(content, 0, content.size, <[u8]>::to_vec)?
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

    /// Where the pieces of a content stand, as of one moment.
    fn places(&self, content: &Content, pieces: &[Piece]) -> Result<Vec<Place>, ContentError> {
        let missing = |segment| ContentError::Missing { content: content.hash, segment };
        let places = |reader: &Reader| {
            let place = |piece: &Piece| {
                let place = reader.place(&piece.segment)?.ok_or_else(|| missing(piece.segment))?;
                // The manifest's length and the artifact's must agree, or offsets after this segment would be wrong.
                if place.len == piece.len { Ok(place) } else { Err(ContentError::Mismatch { content: content.hash }) }
            };
            pieces.iter().map(place).collect()
        };
        self.ask(|reader| reader.consistently(places))
    }

    fn fill(&self, piece: &Piece, place: &Place, out: &mut [u8]) -> Result<(), ContentError> {
        let is_whole_block = place.start == 0 && place.len == place.block.raw_len && out.len() == place.len as usize;
        if is_whole_block && place.artifact.kind() == ArtifactKind::Pack {
            return Ok(self.fill_whole(piece.segment, place, out)?);
        }
        self.take_segment(piece.segment, place, |bytes| out.copy_from_slice(&bytes[piece.range.clone()]))
    }

    /// A block that somebody wants as a whole will not be asked for again: it goes where it is wanted, and nowhere else.
    fn fill_whole(&self, segment: SegmentHash, place: &Place, out: &mut [u8]) -> Result<(), LedgerError> {
        if let Some(block) = self.kept(place) {
            out.copy_from_slice(self.prove(&block, segment, place, usize::MAX)?);
            return Ok(());
        }
        self.go_on(place);
        self.blocks_read.fetch_add(1, Ordering::Relaxed);
        self.ledger.read_block_into(place, out).inspect_err(|error| self.ledger.note_error(error))?;
        slice_segment(out, segment, place).map(drop).map_err(|damage| self.damaged(place, damage))
    }

    fn block(&self, place: &Place) -> Result<Arc<Block>, LedgerError> {
        self.block_quietly(place).inspect_err(|error| self.ledger.note_error(error))
    }

    fn block_quietly(&self, place: &Place) -> Result<Arc<Block>, LedgerError> {
        if let Some(block) = self.kept(place) {
            return Ok(block);
        }
        // The index placed it there once, so that a missing artifact is lost, not late.
        let block = match place.artifact.kind() {
            ArtifactKind::Checkpoint => self.inline_block(place),
            _ => {
                self.go_on(place);
                self.ledger.read_block(place)
            }
        };
        self.blocks_read.fetch_add(1, Ordering::Relaxed);
        let block = Arc::new(Block { bytes: block?, proven: Mutex::default() });
        lock(&self.blocks).put(key_of(place), block.clone());
        Ok(block)
    }

    /// The block that is in memory already.
    fn kept(&self, place: &Place) -> Option<Arc<Block>> {
        lock(&self.blocks).get(&key_of(place))
    }

    /// Has the kernel read ahead of whoever goes on from block to block.
    fn go_on(&self, place: &Place) {
        let wanted = lock(&self.runs).step(place);
        if let Some(bytes) = wanted {
            self.ledger.read_ahead(&place.artifact, bytes);
        }
    }

    fn inline_block(&self, place: &Place) -> Result<Vec<u8>, LedgerError> {
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
        inline.block(&place.block).map_err(|damage| LedgerError::damaged(name, damage))
    }

    /// Whoever asks next reads it from the disk again.
    fn forget_block(&self, place: &Place) {
        lock(&self.blocks).remove(&key_of(place));
        *lock(&self.inline) = None;
    }

    /// Notes damage for the next exchange, and drops the block: the good one that comes must be read.
    fn damaged(&self, place: &Place, damage: Damage) -> LedgerError {
        self.forget_block(place);
        self.forget_prepared();
        let error = LedgerError::Damaged { name: place.artifact.clone(), damage };
        self.ledger.note_error(&error);
        error
    }

    fn layout(&self, content: &Content) -> Result<Arc<Layout>, ContentError> {
        if let Some(layout) = lock(&self.layouts).kept.get(&(content.hash, content.size)) {
            return Ok(layout.clone());
        }
        let manifest = self.ask(|reader| reader.manifest(&content.hash, content.size))?;
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

/// Notes that a segment of a block was proven, if the block remembers fewer than `most`.
fn remember(block: &Block, key: (SegmentHash, u32), most: usize) {
    let mut proven = lock(&block.proven);
    if proven.len() < most {
        proven.insert(key);
    }
}

/// A poisoned lock guards a cache or a connection: both are whole between two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where contents stand that somebody is about to ask for.
#[derive(Default)]
struct Prepared {
    /// How often all was forgotten.
    turn: u64,
    places: HashMap<SegmentHash, Place>,
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

fn key_of(place: &Place) -> BlockKey {
    (place.artifact.clone(), place.block.offset)
}

/// A decoded block, and which of its segments were found to be what they are called.
struct Block {
    bytes: Vec<u8>,
    /// With where they begin.
    proven: Mutex<HashSet<(SegmentHash, u32)>>,
}

/// The proven bytes of a segment, for as long as somebody holds on to them.
pub struct Proven {
    block: Arc<Block>,
    /// Within the block: that was proven with them.
    range: Range<usize>,
}

impl Proven {
    /// These, for tests of whoever takes such bytes.
    #[cfg(test)]
    pub fn of(bytes: &[u8]) -> Proven {
        let block = Block { bytes: bytes.to_vec(), proven: Mutex::default() };
        Proven { block: Arc::new(block), range: 0..bytes.len() }
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.block.bytes[self.range.clone()]
    }
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
