//! Snapshots: checkpoints that list where everything of their chain stands, so that a reader may begin at one.
//!
//! Small checkpoints carry their content inline; a snapshot copies what has gathered into records artifacts and packs,
//! and merges ten small ones of a level into one of the next, so that the list grows with the content and not with the
//! number of edits. Invariant: the listed artifacts hold exactly the lines and segments that reading every checkpoint
//! from the first yields, but for the segments that a sweep was told are gone; what is copied out of a pack was proven before, so
//! that damage gets no new name under which it would be whole. Nothing is removed here: see `garbage`.

use std::collections::{BTreeMap, HashSet};

use super::batch::{Draft, Published, Waiting, Writer, publish_checkpoint};
use super::block;
use super::checkpoint::{Checkpoint, Listed, PackRef, RecordsRef, Seen, Snapshot};
use super::closed::{Closed, joined};
use super::cursor::Tip;
use super::disk::io_error;
use super::error::LedgerError;
use super::name::{ArtifactName, BlockAddress, Place, ShortHash};
use super::pack::PACK_BYTES;
use super::pack_builder::PackBuilder;
use super::records::{RECORDS_RAW_BYTES, RecordsBuilder};
use super::store::{Ledger, slice_segment, verify_bytes};
use crate::model::{ArtifactHash, Chain, ContentHash, Hlc, SegmentHash};

/// A snapshot is due after this many checkpoints with inline content.
pub const SNAPSHOT_CHECKPOINTS: u64 = 256;
/// A snapshot is due after this many bytes of checkpoints with inline content.
pub const SNAPSHOT_INLINE_BYTES: u64 = 8 << 20;

/// Packs copied without their gone segments in one sweep; the next goes on.
const MAX_REPACKED: usize = 64;
const MERGE_WIDTH: usize = 10;
/// Ten to this power artifacts of half a target size are beyond any store.
const MAX_LEVEL: u32 = 12;

/// What has gathered since the last snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gathered {
    /// Checkpoints with inline content.
    pub checkpoints: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Gathered {
    /// True if a snapshot should be written.
    pub fn is_due(&self) -> bool {
        self.checkpoints >= SNAPSHOT_CHECKPOINTS || self.bytes >= SNAPSHOT_INLINE_BYTES
    }

    fn add(&mut self, checkpoint: &Checkpoint) {
        if checkpoint.body.inline.is_some() {
            self.checkpoints += 1;
            self.bytes += checkpoint.bytes;
        }
    }
}

/// What a snapshot lets go.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a> {
    /// Every content of the chain that is gone for good, those of earlier snapshots too.
    pub dropped: &'a [ContentHash],
    /// Segments that nothing needs.
    pub gone: &'a HashSet<SegmentHash>,
    /// Those of them that no listed pack may hold, however little of it they are.
    pub purged: &'a HashSet<SegmentHash>,
    /// Packs that cannot be read and that nothing needs: they are listed no more.
    pub lost: &'a HashSet<ArtifactHash>,
    /// Chains that this one closes; what it says of them was published before.
    pub closed: &'a [Closed],
}

/// What a sweep wrote.
#[derive(Debug)]
pub struct Swept {
    /// The snapshot.
    pub published: Published,
    /// Packs that mostly hold what is gone are left for another sweep.
    pub left: bool,
}

impl Ledger {
    /// What has gathered since the last snapshot, counted back from `tip` until one is due. Reads up to 256 checkpoints;
    /// a caller that counts along needs it once.
    pub fn gathered(&self, chain: &Chain, tip: Tip) -> Result<Gathered, LedgerError> {
        let mut gathered = Gathered::default();
        let mut next = Some((tip.seq, tip.hash));
        while let Some((seq, hash)) = next.filter(|_| !gathered.is_due()) {
            let checkpoint = self.checkpoint_at(chain, seq, hash)?;
            if checkpoint.body.snapshot.is_some() {
                break;
            }
            gathered.add(&checkpoint);
            next = checkpoint.body.prev.map(|prev| (seq - 1, prev));
        }
        Ok(gathered)
    }

    /// The checkpoint with that number and hash.
    pub fn checkpoint_at(&self, chain: &Chain, seq: u64, hash: ArtifactHash) -> Result<Checkpoint, LedgerError> {
        let name = ArtifactName::Checkpoint { chain: chain.clone(), seq, hash: ShortHash::of(&hash) };
        self.read_checkpoint(&name)
    }

    /// Writes a snapshot after `tip`, which must be the chain's last checkpoint. Durable when it returns.
    ///
    /// `seen` is all that the writer holds of other chains, so that who begins here knows it. The result has no versions; its
    /// places are where the copied segments stand now, besides where they stood.
    pub fn snapshot(
        &self,
        writer: Writer<'_>,
        tip: Tip,
        hlc: Hlc,
        seen: BTreeMap<Chain, Seen>,
    ) -> Result<Published, LedgerError> {
        Ok(self.write_snapshot(writer, tip, hlc, seen, None)?.published)
    }

    /// The same, with a floor of its own number: nothing before it need be kept. What is gone is copied to no new artifact, and
    /// packs that hold mostly such are copied without it.
    pub fn sweep(
        &self,
        writer: Writer<'_>,
        tip: Tip,
        hlc: Hlc,
        seen: BTreeMap<Chain, Seen>,
        sweep: Sweep<'_>,
    ) -> Result<Swept, LedgerError> {
        self.write_snapshot(writer, tip, hlc, seen, Some(sweep))
    }

    fn write_snapshot(
        &self,
        writer: Writer<'_>,
        tip: Tip,
        hlc: Hlc,
        seen: BTreeMap<Chain, Seen>,
        sweep: Option<Sweep<'_>>,
    ) -> Result<Swept, LedgerError> {
        let syncs_before = self.disk().syncs();
        let chain = writer.chain();
        let (since, base) = self.since_snapshot(&chain, tip)?;
        let none = HashSet::new();
        let gone = sweep.map_or(&none, |sweep| sweep.gone);
        let mut making =
            Making { ledger: self, chain: &chain, gone, list: Lists::default(), places: Vec::new(), bytes: 0 };
        if let Some(base) = &base {
            making.list.take_over(base);
        }
        making.gather(&since)?;
        if let Some(sweep) = sweep {
            making.list.packs.retain(|listed| !sweep.lost.contains(&listed.0));
        }
        let left = making.repack(sweep.map_or(&none, |sweep| sweep.purged))?;
        making.merge_levels()?;
        let Making { list, places, bytes, .. } = making;
        let before = base.as_ref().and_then(|base| base.body.snapshot.as_ref());
        let (dropped, floor) = match sweep {
            Some(sweep) => (sweep.dropped.to_vec(), tip.seq + 1),
            None => before.map_or((Vec::new(), 1), |before| (before.dropped.clone(), before.floor)),
        };
        let before = before.map_or(&[][..], |before| &before.closed);
        let snapshot = Snapshot {
            closed: joined(before, sweep.map_or(&[], |sweep| sweep.closed)),
            dropped,
            floor,
            packs: list.packs,
            previous: base.map(|base| base.hash),
            records: list.records,
            since: since.iter().map(|(_, hash)| *hash).collect(),
        };
        let draft = Draft {
            hlc,
            inline: None,
            packs: Vec::new(),
            records: Vec::new(),
            seen,
            snapshot: Some(snapshot),
            versions: 0,
        };
        let checkpoint = publish_checkpoint(self, &writer, Some(tip), draft)?;
        let published = Published {
            tip: checkpoint.tip(),
            bytes_written: bytes + checkpoint.bytes,
            syncs: self.disk().syncs() - syncs_before,
            checkpoint: checkpoint.name,
            places,
            versions: Vec::new(),
        };
        Ok(Swept { published, left })
    }

    /// The checkpoints after the last snapshot, in order, and that snapshot.
    fn since_snapshot(&self, chain: &Chain, tip: Tip) -> Result<Since, LedgerError> {
        let mut since = Vec::new();
        let mut next = Some((tip.seq, tip.hash));
        let mut base = None;
        while let Some((seq, hash)) = next {
            let checkpoint = self.checkpoint_at(chain, seq, hash)?;
            if checkpoint.body.snapshot.is_some() {
                base = Some(checkpoint);
                break;
            }
            since.push((seq, hash));
            next = checkpoint.body.prev.map(|prev| (seq - 1, prev));
        }
        since.reverse();
        Ok((since, base))
    }
}

type Since = (Vec<(u64, ArtifactHash)>, Option<Checkpoint>);

#[derive(Default)]
struct Lists {
    records: Vec<Listed>,
    packs: Vec<Listed>,
}

impl Lists {
    fn take_over(&mut self, base: &Checkpoint) {
        if let Some(snapshot) = &base.body.snapshot {
            self.records.extend(&snapshot.records);
            self.packs.extend(&snapshot.packs);
        }
    }
}

struct Making<'a> {
    ledger: &'a Ledger,
    chain: &'a Chain,
    gone: &'a HashSet<SegmentHash>,
    list: Lists,
    places: Vec<(SegmentHash, Place)>,
    bytes: u64,
}

impl<'a> Making<'a> {
    fn merger(&self) -> Result<Merger<'a>, LedgerError> {
        Merger::new(self.ledger, self.gone)
    }

    /// Copies packs that hold mostly what is gone, or any of what is purged, without it. True if some are left for another time.
    fn repack(&mut self, purged: &HashSet<SegmentHash>) -> Result<bool, LedgerError> {
        if self.gone.is_empty() {
            return Ok(false);
        }
        let mut due = Vec::new();
        for listed in &self.list.packs {
            let name = ArtifactName::Pack { chain: self.chain.clone(), hash: listed.0 };
            let index = match self.ledger.pack_index(&name) {
                Ok(index) => index,
                // It stays listed, until somebody has good bytes or nothing needs them.
                Err(error) => {
                    self.ledger.note_error(&error);
                    continue;
                }
            };
            let gone = |(_, place): &(SegmentHash, Place)| u64::from(place.len);
            let all: u64 = index.places(&name).map(|place| gone(&place)).sum();
            let lost: u64 =
                index.places(&name).filter(|(segment, _)| self.gone.contains(segment)).map(|p| gone(&p)).sum();
            let is_purged = index.places(&name).any(|(segment, _)| purged.contains(&segment));
            if is_purged || (lost > 0 && lost * 2 >= all) {
                due.push((listed.0, name));
            }
        }
        let mut merger = self.merger()?;
        let (mut copied, mut left) = (0, false);
        for (hash, name) in due {
            if copied == MAX_REPACKED {
                left = true;
                break;
            }
            if self.copy(&mut merger, &name)? {
                self.list.packs.retain(|listed| listed.0 != hash);
                copied += 1;
            }
        }
        self.publish(merger, 0)?;
        Ok(left)
    }

    /// Copies a pack without what is gone. False, and nothing is copied, if anything else of it is damaged.
    fn copy(&self, merger: &mut Merger<'_>, name: &ArtifactName) -> Result<bool, LedgerError> {
        if self.proven(name) {
            return merger.pack(name).map(|()| true);
        }
        if !self.ledger.can_do_without(name, self.gone) {
            return Ok(false);
        }
        merger.rest_of(name).map(|()| true)
    }

    /// True if every byte of a pack is as its name says. Damage is noted: blocks are copied as they stand, and a wrong one would be right
    /// by its new name, for everybody.
    fn proven(&self, name: &ArtifactName) -> bool {
        let whole = self.ledger.read_whole(name).and_then(|bytes| {
            let wrong = |damage| LedgerError::damaged(name, damage);
            verify_bytes(name, &bytes).map_err(wrong)
        });
        whole.inspect_err(|error| self.ledger.note_error(error)).is_ok()
    }

    /// Lists what stands in files already, and copies what stands inline into files.
    fn gather(&mut self, since: &[(u64, ArtifactHash)]) -> Result<(), LedgerError> {
        let ledger = self.ledger;
        let mut merger = self.merger()?;
        for (seq, hash) in since {
            let checkpoint = ledger.checkpoint_at(self.chain, *seq, *hash)?;
            self.list
                .records
                .extend(checkpoint.body.records.iter().map(|RecordsRef(hash, raw)| Listed(*hash, *raw, 0)));
            self.list.packs.extend(checkpoint.body.packs.iter().map(|PackRef(hash, bytes)| Listed(*hash, *bytes, 0)));
            let inline = checkpoint.body.inline.unwrap_or_default();
            merger.lines(inline.records.as_bytes())?;
            for block in &inline.blocks {
                let wrong = |damage| LedgerError::damaged(&checkpoint.name, damage);
                let segments: Vec<_> = block.segments.iter().map(|segment| (segment.0, segment.1)).collect();
                let raw_len = segments.iter().map(|(_, len)| len).sum();
                merger.block(block.stored().map_err(wrong)?, raw_len, &segments, &checkpoint.name)?;
            }
        }
        self.publish(merger, 0)
    }

    /// Merges ten small artifacts of one level into one of the next, from the lowest level up.
    fn merge_levels(&mut self) -> Result<(), LedgerError> {
        for level in 0..MAX_LEVEL {
            let records = take_ten(&mut self.list.records, level, RECORDS_RAW_BYTES / 2);
            let packs = take_ten(&mut self.list.packs, level, PACK_BYTES / 2);
            let mut merger = self.merger()?;
            for Listed(hash, raw_len, _) in records {
                let name = ArtifactName::Records { chain: self.chain.clone(), hash };
                merger.lines(&self.ledger.read_records(&name, raw_len)?)?;
            }
            for listed in packs {
                let name = ArtifactName::Pack { chain: self.chain.clone(), hash: listed.0 };
                if self.proven(&name) {
                    merger.pack(&name)?;
                } else {
                    self.list.packs.push(listed);
                }
            }
            self.publish(merger, level + 1)?;
        }
        Ok(())
    }

    fn publish(&mut self, merger: Merger<'_>, level: u32) -> Result<(), LedgerError> {
        let waiting = merger.finish()?;
        self.bytes += waiting.bytes;
        let named = waiting.publish(self.ledger, self.chain)?;
        // The same lines may have been copied before a crash: one artifact is listed once.
        for RecordsRef(hash, raw_len) in named.records {
            push_new(&mut self.list.records, Listed(hash, raw_len, level));
        }
        for PackRef(hash, bytes) in named.packs {
            push_new(&mut self.list.packs, Listed(hash, bytes, level));
        }
        self.places.extend(named.places);
        Ok(())
    }
}

fn push_new(list: &mut Vec<Listed>, listed: Listed) {
    if list.iter().all(|other| other.0 != listed.0) {
        list.push(listed);
    }
}

/// Takes the small artifacts of a level out of the list, if there are ten.
fn take_ten(list: &mut Vec<Listed>, level: u32, small: u64) -> Vec<Listed> {
    let fits = |listed: &Listed| listed.2 == level && listed.1 < small;
    if list.iter().filter(|listed| fits(listed)).count() < MERGE_WIDTH {
        return Vec::new();
    }
    list.extract_if(.., |listed| fits(listed)).collect()
}

/// Copies lines and blocks into new artifacts.
struct Merger<'a> {
    ledger: &'a Ledger,
    gone: &'a HashSet<SegmentHash>,
    records: RecordsBuilder,
    packs: PackBuilder,
    waiting: Waiting,
}

impl<'a> Merger<'a> {
    fn new(ledger: &'a Ledger, gone: &'a HashSet<SegmentHash>) -> Result<Merger<'a>, LedgerError> {
        let packs = PackBuilder::new().map_err(io_error("compress for", ledger.root()))?;
        Ok(Merger { ledger, gone, records: RecordsBuilder::default(), packs, waiting: Waiting::default() })
    }

    fn lines(&mut self, raw: &[u8]) -> Result<(), LedgerError> {
        for line in raw.split_inclusive(|byte| *byte == b'\n') {
            self.records.line(self.ledger, line.strip_suffix(b"\n").unwrap_or(line))?;
            if self.records.is_full() {
                self.waiting.close_records(self.ledger, &mut self.records)?;
            }
        }
        Ok(())
    }

    /// Copies a block as it is stored; one that holds what is gone is packed anew without it.
    fn block(
        &mut self,
        stored: Vec<u8>,
        raw_len: u32,
        segments: &[(SegmentHash, u32)],
        of: &ArtifactName,
    ) -> Result<(), LedgerError> {
        if segments.iter().all(|(segment, _)| !self.gone.contains(segment)) {
            self.packs.stored_block(self.ledger, &stored, segments)?;
        } else {
            let address = BlockAddress { offset: 0, stored_len: stored.len() as u32, raw_len };
            let raw = block::decode(stored, &address).map_err(|damage| LedgerError::damaged(of, damage))?;
            let mut start = 0;
            for (segment, len) in segments {
                let place = Place { artifact: of.clone(), block: address, start, len: *len };
                start += len;
                if !self.gone.contains(segment) {
                    let bytes = slice_segment(&raw, *segment, &place);
                    let bytes = bytes.map_err(|damage| LedgerError::damaged(of, damage))?;
                    self.packs.segment(self.ledger, *segment, bytes)?;
                }
            }
            self.packs.close_block(self.ledger)?;
        }
        if self.packs.is_full() { self.waiting.close_pack(self.ledger, &mut self.packs) } else { Ok(()) }
    }

    fn pack(&mut self, name: &ArtifactName) -> Result<(), LedgerError> {
        let index = self.ledger.pack_index(name)?;
        for (block, segments) in index.blocks_with_segments() {
            let place = Place { artifact: name.clone(), block, start: 0, len: block.raw_len };
            self.block(self.ledger.stored_block(&place)?, block.raw_len, segments, name)?;
        }
        Ok(())
    }

    /// Copies what is not gone of a pack of which other blocks may be damaged.
    fn rest_of(&mut self, name: &ArtifactName) -> Result<(), LedgerError> {
        for (segment, place) in self.ledger.pack_index(name)?.places(name) {
            if !self.gone.contains(&segment) {
                self.packs.segment(self.ledger, segment, &self.ledger.read_segment(segment, &place)?)?;
            }
        }
        self.packs.close_block(self.ledger)?;
        if self.packs.is_full() { self.waiting.close_pack(self.ledger, &mut self.packs) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Waiting, LedgerError> {
        if !self.records.is_empty() {
            self.waiting.close_records(self.ledger, &mut self.records)?;
        }
        if !self.packs.is_empty() {
            self.waiting.close_pack(self.ledger, &mut self.packs)?;
        }
        Ok(self.waiting)
    }
}
