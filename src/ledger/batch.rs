//! The publisher: gathers segments and records and makes them one checkpoint.
//!
//! Invariant: the checkpoint appears only after everything it names is durable, so a crash leaves either the old tip or
//! the new one, and beyond it only files that nothing names. A small batch is one file: one sync for it, one for its
//! folder. Holds at most one block, a quarter of a mebibyte of a pack and one compressed records artifact besides its lists.

use std::collections::{BTreeMap, HashSet};

use super::checkpoint::{
    Checkpoint, CheckpointBody, CheckpointKind, INLINE_BYTES, Inline, InlineBlock, PackRef, RecordsRef, Seen, Snapshot,
};
use super::cursor::Tip;
use super::disk::{StagedFile, io_error};
use super::error::LedgerError;
use super::identity::Identity;
use super::name::{ArtifactName, Place, ShortHash};
use super::pack_builder::{FinishedPack, PackBuilder};
use super::records::RecordsBuilder;
use super::store::Ledger;
use crate::model::{
    ArtifactHash, Chain, Hlc, MAX_JSON_INTEGER, RecordLine, SegmentHash, SegmentRef, Space, Version, VersionId,
};

/// Base64 makes four of three.
const BASE64_GROUP: (usize, usize) = (4, 3);
/// `["<64 digits>",<8 digits>],`
const SEGMENT_TEXT_BYTES: usize = 78;

/// Who publishes what where.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The project.
    pub app: &'a str,
    /// Who signs.
    pub identity: &'a Identity,
    /// Where the chain belongs.
    pub space: &'a Space,
}

impl Writer<'_> {
    /// The chain that is written.
    pub fn chain(&self) -> Chain {
        self.identity.chain(self.space.clone())
    }
}

/// What a batch made.
#[derive(Debug)]
pub struct Published {
    /// The chain's end now.
    pub tip: Tip,
    /// The new checkpoint's name.
    pub checkpoint: ArtifactName,
    /// Where the batch's segments stand, in the order they came.
    pub places: Vec<(SegmentHash, Place)>,
    /// The batch's versions in the order of their numbers.
    pub versions: Vec<(VersionId, Version)>,
    /// Bytes of all artifacts.
    pub bytes_written: u64,
    /// How often something was synced.
    pub syncs: u64,
}

/// Artifacts that a batch has written and nothing names yet.
#[derive(Default)]
pub(crate) struct Waiting {
    pub packs: Vec<FinishedPack>,
    pub records: Vec<(StagedFile, RecordsRef)>,
    pub bytes: u64,
}

impl Waiting {
    pub fn close_pack(&mut self, ledger: &Ledger, packs: &mut PackBuilder) -> Result<(), LedgerError> {
        let pack = packs.finish(ledger)?;
        self.bytes += pack.bytes;
        self.packs.push(pack);
        Ok(())
    }

    pub fn close_records(&mut self, ledger: &Ledger, records: &mut RecordsBuilder) -> Result<(), LedgerError> {
        let finished = records.finish(ledger)?;
        let mut staged = ledger.disk().stage(&ledger.staging())?;
        ledger.disk().write(&mut staged, &finished.stored)?;
        self.bytes += finished.stored.len() as u64;
        self.records.push((staged, RecordsRef(finished.hash, finished.raw_len)));
        Ok(())
    }

    /// Names everything, durably: packs first. Returns what a checkpoint lists and where the segments stand.
    pub fn publish(self, ledger: &Ledger, chain: &Chain) -> Result<Named, LedgerError> {
        let (named, staged) = self.named(chain);
        ledger.publish_staged(staged)?;
        Ok(named)
    }

    /// What a checkpoint lists and where the segments stand, and the files with the names they get.
    fn named(self, chain: &Chain) -> (Named, Vec<(ArtifactName, StagedFile)>) {
        let mut named = Named::default();
        let mut staged = Vec::with_capacity(self.packs.len() + self.records.len());
        for pack in self.packs {
            let name = ArtifactName::Pack { chain: chain.clone(), hash: pack.hash };
            named.places.extend(pack.index.places(&name));
            named.packs.push(PackRef(pack.hash, pack.bytes));
            staged.push((name, pack.staged));
        }
        for (file, records) in self.records {
            named.records.push(records);
            staged.push((ArtifactName::Records { chain: chain.clone(), hash: records.0 }, file));
        }
        (named, staged)
    }
}

#[derive(Default)]
pub(crate) struct Named {
    pub packs: Vec<PackRef>,
    pub records: Vec<RecordsRef>,
    pub places: Vec<(SegmentHash, Place)>,
}

/// One checkpoint in the making.
pub struct Batch<'a> {
    ledger: &'a Ledger,
    writer: Writer<'a>,
    chain: Chain,
    tip: Option<Tip>,
    packs: PackBuilder,
    records: RecordsBuilder,
    waiting: Waiting,
    known: HashSet<SegmentHash>,
    versions: Vec<(VersionId, Version)>,
    syncs_before: u64,
}

impl<'a> Batch<'a> {
    /// Begins after `tip`, the last checkpoint of the writer's chain (`None` before the first).
    pub fn new(ledger: &'a Ledger, writer: Writer<'a>, tip: Option<Tip>) -> Result<Batch<'a>, LedgerError> {
        Ok(Batch {
            ledger,
            writer,
            chain: writer.chain(),
            tip,
            packs: PackBuilder::new().map_err(io_error("compress for", ledger.root()))?,
            records: RecordsBuilder::default(),
            waiting: Waiting::default(),
            known: HashSet::new(),
            versions: Vec::new(),
            syncs_before: ledger.disk().syncs(),
        })
    }

    /// The chain that is written.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The number that the next version must have.
    pub fn next_n(&self) -> u64 {
        self.tip.map_or(0, |tip| tip.last_n) + self.versions.len() as u64 + 1
    }

    /// True if this batch holds the segment already.
    pub fn contains(&self, segment: &SegmentHash) -> bool {
        self.known.contains(segment)
    }

    /// Stores a segment, unless this batch has it. `bytes` hash to `segment`: 1 byte to 16 MiB.
    pub fn segment(&mut self, segment: SegmentHash, bytes: &[u8]) -> Result<(), LedgerError> {
        debug_assert_eq!(SegmentHash::of(bytes), segment, "a segment is named by its bytes");
        if !self.known.insert(segment) {
            return Ok(());
        }
        self.packs.segment(self.ledger, segment, bytes)?;
        if self.packs.is_full() { self.waiting.close_pack(self.ledger, &mut self.packs) } else { Ok(()) }
    }

    /// Adds a version. Its dot must be of this chain and carry `next_n`.
    pub fn version(&mut self, version: Version) -> Result<VersionId, LedgerError> {
        let (dot, n) = (&version.dot, self.next_n());
        let own = dot.lane.origin == self.chain.origin && dot.lane.generation == self.chain.generation;
        let rules = [
            (own, "its dot belongs to another chain"),
            (dot.n == n, "its number is not the next"),
            (n <= MAX_JSON_INTEGER, "numbers end at 2^53"),
        ];
        if let Some((_, why)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(LedgerError::Publish { chain: self.chain.to_string(), n: dot.n, why });
        }
        let (id, line) = version.to_line();
        self.line(&line)?;
        self.versions.push((id, version));
        Ok(id)
    }

    /// Adds a record of any kind.
    pub fn record(&mut self, record: RecordLine) -> Result<(), LedgerError> {
        match record {
            RecordLine::Version(version) => self.version(*version).map(|_| ()),
            other => self.line(&other.to_line()),
        }
    }

    /// Adds a line as it stands in another chain of the same origin.
    pub fn carried(&mut self, line: &[u8]) -> Result<(), LedgerError> {
        self.line(line)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), LedgerError> {
        self.records.line(self.ledger, line)?;
        if self.records.is_full() { self.waiting.close_records(self.ledger, &mut self.records) } else { Ok(()) }
    }

    /// Publishes the checkpoint; durable when it returns. `None`, and nothing written, if there is nothing to say.
    ///
    /// Errors leave the chain at its old tip, or (when only the last sync failed) possibly at the new one: the caller
    /// reads the tip again.
    pub fn finish(self, hlc: Hlc, seen: BTreeMap<Chain, Seen>) -> Result<Option<Published>, LedgerError> {
        let ledger = self.ledger;
        self.seal(hlc, seen)?.map(|sealed| sealed.make_durable(ledger)).transpose()
    }

    /// Writes and signs everything, and waits for no disk. `None`, and nothing written, if there is nothing to say.
    pub fn seal(mut self, hlc: Hlc, seen: BTreeMap<Chain, Seen>) -> Result<Option<Sealed>, LedgerError> {
        let empty = self.known.is_empty() && self.records.is_empty() && self.waiting.records.is_empty();
        if empty && seen.is_empty() {
            return Ok(None);
        }
        self.packs.close_block(self.ledger)?;
        let (mut inline, inlined) = self.take_inline();
        if !inlined.segments && !self.packs.is_empty() {
            self.waiting.close_pack(self.ledger, &mut self.packs)?;
        }
        if !inlined.records && !self.records.is_empty() {
            self.waiting.close_records(self.ledger, &mut self.records)?;
        }
        let waiting_bytes = self.waiting.bytes;
        let (mut named, staged) = std::mem::take(&mut self.waiting).named(&self.chain);
        let draft = Draft {
            hlc,
            inline: inline.take(),
            packs: std::mem::take(&mut named.packs),
            records: std::mem::take(&mut named.records),
            seen,
            snapshot: None,
            versions: self.versions.len() as u64,
        };
        let (checkpoint, file) = stage_checkpoint(self.ledger, &self.writer, self.tip, draft)?;
        let inline_places = checkpoint.inline_places();
        named.places.extend(inline_places.map_err(|damage| LedgerError::damaged(&checkpoint.name, damage))?);
        let published = Published {
            tip: checkpoint.tip(),
            bytes_written: waiting_bytes + checkpoint.bytes,
            syncs: 0,
            checkpoint: checkpoint.name,
            places: named.places,
            versions: self.versions,
        };
        Ok(Some(Sealed { staged, file, published, segments: self.known, syncs_before: self.syncs_before }))
    }

    /// What fits into the checkpoint itself: everything, or the records alone, or nothing.
    fn take_inline(&mut self) -> (Option<Inline>, Inlined) {
        // Quotes are escaped: a line grows by about a quarter, which this counts as a third.
        let records = self.records.in_memory().filter(|_| self.waiting.records.is_empty());
        let records_len = records.map(|lines| lines.len() * BASE64_GROUP.0 / BASE64_GROUP.1);
        let blocks_len = self.packs.in_memory().filter(|_| self.waiting.packs.is_empty()).map(|blocks| {
            let text = |(stored, segments): (&[u8], &[(SegmentHash, u32)])| {
                stored.len() * BASE64_GROUP.0 / BASE64_GROUP.1 + SEGMENT_TEXT_BYTES * segments.len() + 32
            };
            blocks.map(text).sum::<usize>()
        });
        // What the signature, certificate and names take.
        const FRAME_BYTES: usize = 8 << 10;
        let fits = |len: usize| len + FRAME_BYTES <= INLINE_BYTES;
        let inlined = Inlined {
            records: records_len.is_some_and(fits),
            segments: records_len.zip(blocks_len).is_some_and(|(records, blocks)| fits(records + blocks)),
        };
        let mut inline = Inline::default();
        if inlined.records {
            let lines = records.unwrap_or_default().to_vec();
            inline.records = String::from_utf8(lines).expect("canonical JSON is UTF-8");
        }
        if inlined.segments {
            inline.blocks = self.packs.in_memory().into_iter().flatten().map(inline_block).collect();
        }
        ((inline != Inline::default()).then_some(inline), inlined)
    }
}

/// A batch that is written and signed, but has no name yet: nothing of it counts, and a crash leaves nothing of it.
pub struct Sealed {
    staged: Vec<(ArtifactName, StagedFile)>,
    /// The checkpoint's.
    file: StagedFile,
    published: Published,
    segments: HashSet<SegmentHash>,
    syncs_before: u64,
}

impl Sealed {
    /// Where the chain will end.
    pub fn tip(&self) -> Tip {
        self.published.tip
    }

    /// The segments that it brings, once.
    pub fn take_segments(&mut self) -> HashSet<SegmentHash> {
        std::mem::take(&mut self.segments)
    }

    /// Names everything, the checkpoint last; durable when it returns. Errors: see `Batch::finish`.
    pub fn make_durable(self, ledger: &Ledger) -> Result<Published, LedgerError> {
        ledger.publish_staged(self.staged)?;
        ledger.publish_staged(vec![(self.published.checkpoint.clone(), self.file)])?;
        Ok(Published { syncs: ledger.disk().syncs() - self.syncs_before, ..self.published })
    }
}

struct Inlined {
    records: bool,
    segments: bool,
}

fn inline_block((stored, segments): (&[u8], &[(SegmentHash, u32)])) -> InlineBlock {
    let segments = segments.iter().map(|(hash, len)| SegmentRef(*hash, *len)).collect();
    InlineBlock { data: data_encoding::BASE64.encode(stored), segments }
}

/// The parts of a checkpoint that differ from one to the next.
pub(crate) struct Draft {
    pub hlc: Hlc,
    pub inline: Option<Inline>,
    pub packs: Vec<PackRef>,
    pub records: Vec<RecordsRef>,
    pub seen: BTreeMap<Chain, Seen>,
    pub snapshot: Option<Snapshot>,
    pub versions: u64,
}

/// Signs a checkpoint that follows `tip` and makes it durable.
pub(crate) fn publish_checkpoint(
    ledger: &Ledger,
    writer: &Writer<'_>,
    tip: Option<Tip>,
    draft: Draft,
) -> Result<Checkpoint, LedgerError> {
    let (checkpoint, file) = stage_checkpoint(ledger, writer, tip, draft)?;
    ledger.publish_staged(vec![(checkpoint.name.clone(), file)])?;
    Ok(checkpoint)
}

/// Signs a checkpoint that follows `tip` and writes it to a file without a name.
fn stage_checkpoint(
    ledger: &Ledger,
    writer: &Writer<'_>,
    tip: Option<Tip>,
    draft: Draft,
) -> Result<(Checkpoint, StagedFile), LedgerError> {
    let identity = writer.identity;
    let body = CheckpointBody {
        app: writer.app.to_owned(),
        cert: identity.certificate().clone(),
        chain: writer.chain(),
        hlc: draft.hlc,
        inline: draft.inline,
        key: identity.public_key(),
        kind: CheckpointKind::Checkpoint,
        last_n: tip.map_or(0, |tip| tip.last_n) + draft.versions,
        packs: draft.packs,
        prev: tip.map(|tip| tip.hash),
        records: draft.records,
        seen: draft.seen,
        seq: tip.map_or(0, |tip| tip.seq) + 1,
        signature: None,
        snapshot: draft.snapshot,
        v: 1,
        versions: draft.versions,
    };
    let (body, bytes) = body.sign(identity.signing_key());
    let limit = super::checkpoint::MAX_CHECKPOINT_BYTES;
    if bytes.len() as u64 > limit {
        return Err(LedgerError::TooLarge { what: "publish checkpoint", bytes: bytes.len() as u64, limit });
    }
    let hash = ArtifactHash::of(&bytes);
    let name = ArtifactName::Checkpoint { chain: body.chain.clone(), seq: body.seq, hash: ShortHash::of(&hash) };
    let mut staged = ledger.disk().stage(&ledger.staging())?;
    ledger.disk().write(&mut staged, &bytes)?;
    Ok((Checkpoint { name, hash, bytes: bytes.len() as u64, body }, staged))
}
