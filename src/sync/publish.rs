//! Publish: drafts become versions in an own chain, durable in the ledger before anything else knows of them.
//!
//! Invariant: a version extends a lane only if it descends from the lane's last version; its clock is above its parents';
//! its vector is the join of theirs. After the ledger holds a batch the index does too, and nothing is published twice.

use std::collections::BTreeMap;

use super::{Change, Engine, OwnChain, Report, Result};
use crate::index::{Item, Slot, Stored};
use crate::ledger::Batch;
use crate::model::{
    Chain, Channel, Dot, Hlc, Lane, Manifest, Record, RecordLine, RelPath, SegmentHash, SegmentRef, Space,
    State as VersionState, Vector, Version, VersionId,
};

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

/// An open batch of one space and what it will hold.
pub(super) struct OpenBatch {
    pub batch: Batch,
    pub versions: u64,
    pub bytes: u64,
}

impl Engine {
    /// The own chain of a space, found once per run.
    pub(super) fn own_chain(&mut self, space: &Space) -> Result<&mut OwnChain> {
        if !self.chains.contains_key(space) {
            let chain = Chain {
                space: space.clone(),
                origin: self.identity.origin().clone(),
                generation: self.identity.generation(),
            };
            let tip = self.ledger.tip(&chain)?;
            let next_n = tip.as_ref().map_or(0, |tip| tip.last_n) + 1;
            self.chains.insert(space.clone(), OwnChain { chain, tip, next_n });
        }
        Ok(self.chains.get_mut(space).expect("was inserted above"))
    }

    /// Places a draft in its chain.
    pub(super) fn version_of(&mut self, draft: Draft) -> Result<Version> {
        let wall_ms = self.now_ms();
        let newest_parent = draft.parents.iter().map(|parent| parent.version.hlc).max();
        let hlc = self.clock.tick(wall_ms, newest_parent);
        let mut vector = Vector::new();
        for parent in &draft.parents {
            vector.join(&parent.version.full_vector());
        }
        let born = born_of(&draft, hlc);
        let slot_is_known = !draft.parents.is_empty() || !self.index.heads(&draft.slot)?.is_empty();
        let chain = self.own_chain(&draft.slot.space)?.chain.clone();
        let last_own = if slot_is_known { self.index.last_in_chain(&chain, &draft.slot)? } else { None };
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

    /// Opens a batch in the own chain of a space.
    pub(super) fn open_batch(&mut self, space: &Space) -> Result<OpenBatch> {
        let (ledger, identity, app) = (self.ledger.clone(), self.identity.clone(), self.policy.app.clone());
        let own = self.own_chain(space)?;
        let batch = Batch::new(ledger, identity, app, own.chain.clone(), own.tip.clone())?;
        Ok(OpenBatch { batch, versions: 0, bytes: 0 })
    }

    /// Adds one segment unless the ledger has it already.
    pub(super) fn add_segment(&self, open: &mut OpenBatch, hash: SegmentHash, bytes: &[u8]) -> Result<()> {
        match self.index.place(&hash)? {
            None => {
                open.bytes += bytes.len() as u64;
                Ok(open.batch.segment(hash, bytes)?)
            }
            Some(place) => Ok(open.batch.uses(&place.artifact, hash)),
        }
    }

    /// Adds a manifest as a delta against an earlier content of the same path.
    pub(super) fn add_manifest(&self, open: &mut OpenBatch, manifest: &Manifest, parents: &[Stored]) -> Result<()> {
        if !manifest.needs_record() || self.index.has_manifest(&manifest.content)? {
            return Ok(());
        }
        let mut previous = None;
        for content in parents.iter().filter_map(|parent| parent.version.content()) {
            if self.index.manifest_depth(&content.hash)? < crate::model::MAX_DELTA_DEPTH - 1 {
                previous = self.index.manifest(&content.hash, content.size)?.filter(Manifest::needs_record);
            }
        }
        let delta = manifest.delta_from(previous.as_ref());
        Ok(open.batch.record(RecordLine::Manifest(delta))?)
    }

    /// Makes a batch durable and known to the index. Returns the versions in the order they were added.
    pub(super) fn close_batch(&mut self, space: &Space, open: OpenBatch, report: &mut Report) -> Result<Vec<Stored>> {
        let seen = BTreeMap::new();
        let Some(published) = open.batch.finish(self.clock.floor(), seen)? else { return Ok(Vec::new()) };
        report.ledger_bytes += published.bytes_written;
        let own = self.own_chain(space)?;
        own.tip = Some(published.tip.clone());
        let chain = own.chain.clone();
        let versions: Vec<Stored> =
            published.versions.into_iter().map(|(id, version)| Stored { id, version }).collect();
        let records = published
            .manifests
            .into_iter()
            .map(Record::Manifest)
            .chain(versions.iter().map(|stored| Record::Version(stored.id, Box::new(stored.version.clone()))))
            .collect();
        let item = Item { chain, seq: published.tip.seq, hash: published.tip.hash, records, places: published.places };
        self.index.apply(&[item])?;
        Ok(versions)
    }

    /// Publishes drafts that hold their contents in memory; for rows, restores and undo.
    pub(super) fn publish_drafts(&mut self, drafts: Vec<(Draft, Vec<Piece>)>, report: &mut Report) -> Result<()> {
        let mut by_space: BTreeMap<Space, Vec<(Draft, Vec<Piece>)>> = BTreeMap::new();
        for (draft, pieces) in drafts {
            by_space.entry(draft.slot.space.clone()).or_default().push((draft, pieces));
        }
        for (space, drafts) in by_space {
            let mut open = self.open_batch(&space)?;
            for (draft, pieces) in drafts {
                for piece in pieces {
                    match piece {
                        Piece::Segment(segment, bytes) => self.add_segment(&mut open, segment.0, &bytes)?,
                        Piece::Manifest(manifest) => self.add_manifest(&mut open, &manifest, &draft.parents)?,
                    }
                }
                let version = self.version_of(draft)?;
                open.batch.version(version)?;
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
