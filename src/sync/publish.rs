//! Publish: drafts become versions in an own chain, durable in the ledger before anything else knows of them.
//!
//! Invariant: a version extends a lane only if it descends from the lane's last version; its clock is above its parents';
//! its vector is the join of theirs. After the ledger holds a batch the index does too, and nothing is published twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::{Change, Engine, OwnChain, Report, Result, SyncError};
use crate::index::{Item, Slot, SnapshotNote, Stored};
use crate::ledger::{Batch, Identity, Ledger, LedgerError, Place, Published, Sealed, Seen, Tip, Writer};
use crate::model::{
    Chain, Channel, ContentHash, Dot, Hash, Hlc, Lane, MAX_DELTA_DEPTH, Manifest, ManifestDelta, Membership, MetaEvent,
    Record, RecordLine, RelPath, SegmentHash, SegmentRef, Space, State as VersionState, Uses, Vector, Version,
    VersionId,
};

/// Whether a snapshot is due is looked at on every checkpoint whose number is a multiple of this, whichever process writes it.
const COUNT_EVERY: u64 = 64;

/// A version on its way: everything but its place in the chain.
pub(super) struct Draft {
    pub slot: Slot,
    pub channel: Channel,
    pub parents: Vec<Stored>,
    pub state: VersionState,
    pub moved_from: Option<RelPath>,
    pub via: Option<String>,
    pub adopted: bool,
}

/// What a draft's content adds to the ledger.
pub(super) enum Piece {
    /// A segment with its bytes.
    Segment(SegmentRef, Vec<u8>),
    /// The order of more than one.
    Manifest(Manifest),
}

impl Pen {
    /// The project.
    pub(super) fn app(&self) -> &str {
        &self.app
    }

    /// Who signs.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Piece {
    /// All pieces of a content held in memory.
    pub(super) fn of(manifest: &Manifest, bytes: &[u8]) -> Vec<Piece> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        for segment in &manifest.segments {
            let (own, after) = rest.split_at(segment.1 as usize);
            pieces.push(Piece::Segment(*segment, own.to_vec()));
            rest = after;
        }
        if manifest.needs_record() {
            pieces.push(Piece::Manifest(manifest.clone()));
        }
        pieces
    }
}

/// What batches borrow while they are open.
pub(super) struct Pen {
    ledger: Arc<Ledger>,
    identity: Arc<Identity>,
    app: String,
    spaces: [Space; 2],
}

/// An open batch of one space and what it will hold.
pub(super) struct OpenBatch<'p> {
    pub batch: Batch<'p>,
    pub versions: u64,
    pub bytes: u64,
    manifests: BTreeMap<ContentHash, ManifestDelta>,
    uses: BTreeMap<String, Vec<SegmentHash>>,
    /// What the batch before brings, if the index does not know of it yet.
    before: Arc<Brings>,
}

impl OpenBatch<'_> {
    fn has(&self, segment: &SegmentHash) -> bool {
        self.batch.contains(segment) || self.before.segments.contains(segment)
    }

    fn has_manifest(&self, content: &ContentHash) -> bool {
        self.manifests.contains_key(content) || self.before.manifests.contains(content)
    }
}

/// What a batch brings that another one need not bring again.
#[derive(Default)]
pub(super) struct Brings {
    segments: HashSet<SegmentHash>,
    manifests: BTreeSet<ContentHash>,
}

/// A batch that is written and signed; neither the ledger nor the index has it yet.
pub(super) struct SealedBatch {
    pub space: Space,
    pub sealed: Sealed,
    pub notes: Notes,
}

/// What the index takes in with a batch, beside its versions.
pub(super) struct Notes {
    records: Vec<Record>,
    seen: BTreeMap<Chain, Seen>,
}

impl SealedBatch {
    /// What it brings; to be asked once.
    pub fn take_brings(&mut self) -> Brings {
        let manifest = |record: &Record| match record {
            Record::Manifest(manifest) => Some(manifest.content),
            _ => None,
        };
        let manifests = self.notes.records.iter().filter_map(manifest).collect();
        Brings { segments: self.sealed.take_segments(), manifests }
    }
}

impl Engine {
    /// The own chain of a space, found once per run.
    pub(super) fn own_chain(&mut self, space: &Space) -> Result<&mut OwnChain> {
        if !self.chains.contains_key(space) {
            let chain = self.identity.chain(space.clone());
            let last_n = self.index.last_n(&chain)?;
            let tip = self.index.applied(&chain)?.map(|(seq, hash)| Tip { seq, hash, last_n });
            self.chains.insert(space.clone(), OwnChain { chain, tip, next_n: last_n + 1 });
        }
        Ok(self.chains.get_mut(space).expect("was inserted above"))
    }

    /// Places a draft in its chain.
    pub(super) fn version_of(&mut self, draft: Draft) -> Result<Version> {
        let heads = self.index.heads(&draft.slot)?;
        self.version_in(draft, &heads)
    }

    /// Places a draft in its chain; `heads` are those of its slot.
    pub(super) fn version_in(&mut self, draft: Draft, heads: &[Stored]) -> Result<Version> {
        let wall_ms = self.now_ms();
        let newest_parent = draft.parents.iter().map(|parent| parent.version.hlc).max();
        let hlc = self.clock.tick(wall_ms, newest_parent);
        let mut vector = Vector::new();
        for parent in &draft.parents {
            vector.join(&parent.version.full_vector());
        }
        let born = born_of(&draft, hlc);
        let chain = self.own_chain(&draft.slot.space)?.chain.clone();
        let last_own = self.last_own(&chain, &draft.slot, heads)?;
        let own = self.own_chain(&draft.slot.space)?;
        let n = own.next_n;
        own.next_n += 1;
        let lane = match last_own {
            Some(last) if vector.covers(&last) => last.lane,
            _ => Lane { origin: chain.origin.clone(), generation: chain.generation, first: n },
        };
        vector.remove(&lane);
        let mut parents: Vec<VersionId> = draft.parents.iter().map(|parent| parent.id).collect();
        parents.sort_unstable();
        parents.dedup();
        Ok(Version {
            parents,
            dot: Dot { lane, n },
            vector,
            hlc,
            born,
            channel: draft.channel,
            path: draft.slot.path,
            state: draft.state,
            moved_from: draft.moved_from,
            via: draft.via,
            adopted: draft.adopted,
        })
    }

    /// What batches of this run borrow.
    pub(super) fn pen(&self) -> Pen {
        Pen {
            ledger: self.ledger.clone(),
            identity: self.identity.clone(),
            app: self.policy.app.clone(),
            spaces: [Space::shared(), self.private_space.clone()],
        }
    }

    /// Opens a batch in the own chain of a space.
    pub(super) fn open_batch<'p>(&mut self, pen: &'p Pen, space: &Space) -> Result<OpenBatch<'p>> {
        if let Some(stop) = self.stopped() {
            return Err(SyncError::Stopped(stop));
        }
        self.publishing = true;
        let tip = self.own_chain(space)?.tip;
        let space = pen.spaces.iter().find(|own| *own == space).unwrap_or(&pen.spaces[0]);
        let writer = Writer { app: &pen.app, identity: &pen.identity, space };
        let batch = Batch::new(&pen.ledger, writer, tip)?;
        let (manifests, uses, before) = (BTreeMap::new(), BTreeMap::new(), Arc::default());
        Ok(OpenBatch { batch, versions: 0, bytes: 0, manifests, uses, before })
    }

    /// Opens the batch that follows one that the index does not have yet.
    pub(super) fn open_batch_after<'p>(
        &mut self,
        pen: &'p Pen,
        space: &Space,
        before: Option<Arc<Brings>>,
    ) -> Result<OpenBatch<'p>> {
        let open = self.open_batch(pen, space)?;
        Ok(OpenBatch { before: before.unwrap_or_default(), ..open })
    }

    /// The dot of the newest version of a slot in an own chain.
    fn last_own(&self, chain: &Chain, slot: &Slot, heads: &[Stored]) -> Result<Option<Dot>> {
        match heads {
            [] => Ok(None),
            // The only head is above everything of its slot, so also above what was made here before it.
            [head] if head.version.dot.lane.is_of(chain) => Ok(Some(head.version.dot.clone())),
            _ => Ok(self.index.lane_of(chain, slot)?.map(|own| own.dot)),
        }
    }

    /// Adds one segment unless the ledger has it already.
    pub(super) fn add_segment(&self, open: &mut OpenBatch<'_>, hash: SegmentHash, bytes: &[u8]) -> Result<()> {
        if self.use_segment(open, hash)? {
            return Ok(());
        }
        open.bytes += bytes.len() as u64;
        Ok(open.batch.segment(hash, bytes)?)
    }

    /// Notes that a batch needs a segment that the ledger has; false if it has it not.
    pub(super) fn use_segment(&self, open: &mut OpenBatch<'_>, hash: SegmentHash) -> Result<bool> {
        if open.has(&hash) {
            return Ok(true);
        }
        let place = if self.index.may_have_place(&hash) { self.index.place(&hash)? } else { None };
        let Some(place) = place else { return Ok(false) };
        if place.artifact.chain() != open.batch.chain() {
            open.uses.entry(place.artifact.to_string()).or_default().push(hash);
        }
        Ok(true)
    }

    /// Adds a manifest as a delta against an earlier content of the same path.
    pub(super) fn add_manifest(&self, open: &mut OpenBatch<'_>, manifest: &Manifest, parents: &[Stored]) -> Result<()> {
        if !manifest.needs_record() || open.has_manifest(&manifest.content) {
            return Ok(());
        }
        if self.index.knows_content(&manifest.content)? {
            return Ok(());
        }
        let mut previous = None;
        for content in parents.iter().filter_map(|parent| parent.version.content()) {
            if self.index.manifest_depth(&content.hash)? + 1 < MAX_DELTA_DEPTH {
                previous = self.index.manifest(&content.hash, content.size)?.filter(Manifest::needs_record);
            }
        }
        let delta = manifest.delta_from(previous.as_ref());
        open.batch.record(RecordLine::Manifest(delta.clone()))?;
        open.manifests.insert(manifest.content, delta);
        Ok(())
    }

    /// Makes a batch durable and known to the index. Returns what the index took in.
    pub(super) fn close_batch(
        &mut self,
        space: &Space,
        open: OpenBatch<'_>,
        report: &mut Report,
    ) -> Result<Option<Item>> {
        let Some(SealedBatch { sealed, notes, .. }) = self.seal_batch(space, open)? else { return Ok(None) };
        let published = sealed.make_durable(&self.ledger)?;
        let item = self.take_in_batch(space, published, notes, report)?;
        self.snapshot_if_due(space, report)?;
        Ok(Some(item))
    }

    /// Writes and signs a batch; waits for no disk.
    pub(super) fn seal_batch(&mut self, space: &Space, mut open: OpenBatch<'_>) -> Result<Option<SealedBatch>> {
        if open.versions == 0 {
            // Segments of files that turned out to be unstable; nothing names them.
            return Ok(None);
        }
        let mut records: Vec<Record> = open.manifests.into_values().map(Record::Manifest).collect();
        for (artifact, segments) in open.uses {
            let uses = Uses::new(artifact, segments);
            open.batch.record(RecordLine::Uses(uses.clone()))?;
            records.push(Record::Uses(uses));
        }
        let seen = self.seen_news(space)?;
        let sealed = open.batch.seal(self.clock.floor(), seen.clone())?;
        Ok(sealed.map(|sealed| SealedBatch { space: space.clone(), sealed, notes: Notes { records, seen } }))
    }

    /// Has the index take in a batch that is durable. Returns what it took in.
    pub(super) fn take_in_batch(
        &mut self,
        space: &Space,
        published: Published,
        notes: Notes,
        report: &mut Report,
    ) -> Result<Item> {
        let Notes { mut records, seen } = notes;
        self.note_told(space, &seen)?;
        report.ledger_bytes += published.bytes_written;
        records.extend(published.versions.into_iter().map(|(id, version)| Record::Version(id, Box::new(version))));
        self.take_in_own(space, published.tip, published.places, records)
    }

    /// True if a snapshot may follow the next checkpoint of a space: then no batch is begun before that one is closed.
    pub(super) fn may_gather_next(&mut self, space: &Space) -> Result<bool> {
        let seq = self.own_chain(space)?.tip.map_or(0, |tip| tip.seq);
        Ok((seq + 1).is_multiple_of(COUNT_EVERY))
    }

    /// The chain of a space goes on behind a batch that is not durable yet; `forget_chains` if it never will be.
    pub(super) fn go_on_after(&mut self, batch: &SealedBatch) -> Result<()> {
        self.own_chain(&batch.space)?.tip = Some(batch.sealed.tip());
        Ok(())
    }

    /// The ends of the own chains are read again.
    pub(super) fn forget_chains(&mut self) {
        self.chains.clear();
    }

    /// Has the index take in what was just published in the own chain, which ends at `tip` now. Returns what it took in.
    pub(super) fn take_in_own(
        &mut self,
        space: &Space,
        tip: Tip,
        places: Vec<(SegmentHash, Place)>,
        records: Vec<Record>,
    ) -> Result<Item> {
        let own = self.own_chain(space)?;
        own.tip = Some(tip);
        let item = Item::following(own.chain.clone(), (tip.seq, tip.hash), records, places);
        self.index.apply(std::slice::from_ref(&item))?;
        if self.index.purges_are_due()? {
            // What was just published may bring back what nobody was to read any more.
            self.replay()?;
        }
        Ok(item)
    }

    /// Publishes that a person approved some deletions.
    pub(super) fn publish_approval(&mut self, space: &Space, tombstones: &[VersionId]) -> Result<()> {
        let wall_ms = self.now_ms();
        let hlc = self.clock.tick(wall_ms, None);
        let chain = self.own_chain(space)?.chain.clone();
        self.publish_event(space, MetaEvent::approve_deletes(chain.to_string(), hlc, tombstones))
    }

    /// Publishes that a person let an owner in, or took one out; `prev` is what was known of that before.
    pub(super) fn publish_membership(&mut self, said: &Membership, prev: Vec<Hash>) -> Result<()> {
        let wall_ms = self.now_ms();
        let hlc = self.clock.tick(wall_ms, None);
        self.publish_event(&Space::shared(), MetaEvent::membership(said, hlc, prev))
    }

    pub(super) fn publish_event(&mut self, space: &Space, event: MetaEvent) -> Result<()> {
        let (pen, hlc) = (self.pen(), event.hlc);
        let mut open = self.open_batch(&pen, space)?;
        open.batch.record(RecordLine::Meta(event.clone()))?;
        let Some(published) = open.batch.finish(hlc, BTreeMap::new())? else { return Ok(()) };
        self.take_in_own(space, published.tip, published.places, vec![Record::Meta(event)]).map(drop)
    }

    /// Gathers small checkpoints into a snapshot when enough have come together.
    ///
    /// Damage among them puts the snapshot off: it is noted, healed by an exchange, and nothing else waits for it.
    fn snapshot_if_due(&mut self, space: &Space, report: &mut Report) -> Result<()> {
        match self.try_snapshot(space, report) {
            Err(SyncError::Ledger(error @ (LedgerError::Damaged { .. } | LedgerError::Missing { .. }))) => {
                self.ledger.note_error(&error);
                Ok(())
            }
            done => done,
        }
    }

    fn try_snapshot(&mut self, space: &Space, report: &mut Report) -> Result<()> {
        let (ledger, pen) = (self.ledger.clone(), self.pen());
        let own = self.own_chain(space)?;
        let Some(tip) = own.tip.filter(|tip| tip.seq.is_multiple_of(COUNT_EVERY)) else { return Ok(()) };
        let chain = own.chain.clone();
        if !ledger.gathered(&chain, tip)?.is_due() {
            return Ok(());
        }
        let seen = self.seen_of(space)?;
        let writer = Writer { app: &pen.app, identity: &pen.identity, space };
        let published = ledger.snapshot(writer, tip, self.clock.floor(), seen)?;
        report.ledger_bytes += published.bytes_written;
        self.own_chain(space)?.tip = Some(published.tip);
        let tip = published.tip;
        let note = SnapshotNote::of(&self.ledger.read_checkpoint(&published.checkpoint)?);
        let item = Item::following(chain, (tip.seq, tip.hash), Vec::new(), published.places);
        self.index.apply(&[Item { note, ..item }])?;
        Ok(())
    }

    /// Publishes drafts that hold their contents in memory; for rows, restores and undo.
    pub(super) fn publish_drafts(&mut self, drafts: Vec<(Draft, Vec<Piece>)>, report: &mut Report) -> Result<()> {
        let mut by_space: BTreeMap<Space, Vec<(Draft, Vec<Piece>)>> = BTreeMap::new();
        for (draft, pieces) in drafts {
            by_space.entry(draft.slot.space.clone()).or_default().push((draft, pieces));
        }
        for (space, drafts) in by_space {
            let pen = self.pen();
            let mut open = self.open_batch(&pen, &space)?;
            for (draft, pieces) in drafts {
                for piece in pieces {
                    match piece {
                        Piece::Segment(segment, bytes) => self.add_segment(&mut open, segment.0, &bytes)?,
                        Piece::Manifest(manifest) => self.add_manifest(&mut open, &manifest, &draft.parents)?,
                    }
                }
                let version = self.version_of(draft)?;
                open.batch.version(version)?;
                open.versions += 1;
            }
            self.close_batch(&space, open, report)?;
        }
        Ok(())
    }
}

/// The clock value of the path's first version, as far as the parents know.
fn born_of(draft: &Draft, hlc: Hlc) -> Hlc {
    let same_path = draft.parents.iter().filter(|parent| parent.version.path == draft.slot.path);
    same_path.map(|parent| parent.version.born).min().unwrap_or(hlc)
}

/// What a version did, for reports and logs.
pub(crate) fn change_of(version: &Version, had_content: bool) -> Change {
    match (&version.state, &version.moved_from) {
        (VersionState::Tombstone { .. }, _) => Change::Deleted,
        (VersionState::Content(_), Some(from)) => Change::Renamed { from: from.shown() },
        (VersionState::Content(_), None) if version.adopted => Change::Adopted,
        (VersionState::Content(_), None) if had_content => Change::Edited,
        (VersionState::Content(_), None) => Change::Created,
    }
}
