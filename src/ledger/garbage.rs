//! What of a chain need not be kept: everything below the highest floor that no checkpoint above it names.
//!
//! Invariant: what stands is a function of the checkpoints that are here and sound; a checkpoint that cannot be read keeps the parts
//! of its chain. Removes nothing that stands, and in one order: checkpoints from the first on, then what they named, so that a chain
//! that is cut off meanwhile begins at a snapshot as it would afterwards.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use super::checkpoint::Checkpoint;
use super::closed::Closed;
use super::error::LedgerError;
use super::name::{ArtifactKind, ArtifactName, Place};
use super::store::{Ledger, read_names};
use crate::model::{Chain, Record, SegmentHash, VersionId};

impl Checkpoint {
    /// Below this number nothing of its chain need be kept; 1 if it says nothing of that. Never above its own number.
    pub fn floor(&self) -> u64 {
        self.body.snapshot.as_ref().map_or(1, |snapshot| snapshot.floor.clamp(1, self.body.seq))
    }
}

/// The versions that the lists of a snapshot were seen to hold.
#[derive(Debug, Default)]
pub struct ListedVersions {
    numbers: HashSet<u64>,
    /// Of earlier generations, by generation.
    carried: BTreeMap<u32, HashSet<u64>>,
    /// Which they are.
    ids: HashSet<VersionId>,
    unknown: u64,
}

impl ListedVersions {
    /// Counts a line of `chain`.
    pub fn note(&mut self, chain: &Chain, record: &Record) {
        match record {
            Record::Version(_, version) => {
                let lane = &version.dot.lane;
                if lane.origin == chain.origin && lane.generation == chain.generation {
                    self.numbers.insert(version.dot.n);
                }
            }
            Record::Carried(id, version) if version.dot.lane.origin == chain.origin => {
                self.ids.insert(*id);
                self.carried.entry(version.dot.lane.generation).or_default().insert(version.dot.n);
            }
            // A newer release may have written versions that this one does not know for such.
            Record::Unknown { .. } => self.unknown += 1,
            Record::Carried(..) | Record::Manifest(_) | Record::Uses(_) | Record::Meta(_) => {}
        }
    }

    /// True if they are all that the chain had by then: versions are never dropped, and nobody may make them go.
    pub fn are_all_of(&self, snapshot: &Checkpoint) -> bool {
        self.numbers.len() as u64 + self.unknown >= snapshot.body.last_n
    }

    /// True if they are all that a closed chain had by then.
    pub fn are_all_of_closed(&self, word: &Closed) -> bool {
        let carried = self.carried.get(&word.chain.generation).map_or(0, HashSet::len);
        carried as u64 + self.unknown >= word.last_n()
    }

    /// True if this version of an earlier generation is among them.
    pub(super) fn carries(&self, id: &VersionId) -> bool {
        self.ids.contains(id)
    }
}

impl Ledger {
    /// True if a snapshot lists every version of its chain so far. Errors: a list is not here, or damaged.
    pub fn lists_every_version(&self, snapshot: &Checkpoint) -> Result<bool, LedgerError> {
        Ok(self.listed_versions(snapshot)?.are_all_of(snapshot))
    }

    /// The versions that a snapshot lists. Errors: a list is not here, or damaged.
    pub fn listed_versions(&self, snapshot: &Checkpoint) -> Result<ListedVersions, LedgerError> {
        let mut versions = ListedVersions::default();
        self.each_listed_record(snapshot, |_, record| {
            versions.note(&snapshot.body.chain, &record);
            Ok::<(), LedgerError>(())
        })?;
        Ok(versions)
    }

    /// True if everything that counts of a chain with this floor is here and lists every version, so that the rest may go.
    pub fn stands_alone(&self, chain: &Chain, floor: u64) -> Result<bool, LedgerError> {
        if self.standing(chain, floor)?.iter().any(|name| !self.has(name)) {
            return Ok(false);
        }
        // Among the first ones that count is the snapshot that begins the chain; a fork may stand beside it.
        let names = self.checkpoint_names(chain, floor.saturating_sub(1))?;
        let Some(first) = names.first().map(ArtifactName::seq) else { return Ok(false) };
        for name in names.iter().take_while(|name| name.seq() == first) {
            let snapshot = self.read_checkpoint(name)?;
            if snapshot.body.snapshot.is_some() && self.lists_every_version(&snapshot)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The artifacts of a chain that count with this floor: the checkpoints from it on, and what they name and list.
    ///
    /// Some of them may not be here. Errors: the chain's folder cannot be listed.
    pub fn standing(&self, chain: &Chain, floor: u64) -> Result<BTreeSet<ArtifactName>, LedgerError> {
        let mut standing = BTreeSet::new();
        for name in self.checkpoint_names(chain, floor.saturating_sub(1))? {
            match self.read_checkpoint(&name) {
                Ok(checkpoint) => standing.extend(checkpoint.artifacts().chain(checkpoint.listed())),
                // What it names is not known: nothing of its chain may go.
                Err(LedgerError::Damaged { .. }) => {
                    standing.extend(self.names(chain, "packs")?);
                    standing.extend(self.names(chain, "records")?);
                }
                Err(error) => return Err(error),
            }
            standing.insert(name);
        }
        Ok(standing)
    }

    /// The highest floor that a sound checkpoint of the chain tells; 1 if none does. Reads them all.
    /// Later generations may tell a higher one.
    pub fn floor_of(&self, chain: &Chain) -> Result<u64, LedgerError> {
        let names = self.checkpoint_names(chain, 0)?;
        let floors = names.iter().filter_map(|name| self.read_checkpoint(name).ok());
        let own = floors.map(|checkpoint| checkpoint.floor()).max().unwrap_or(1).max(1);
        Ok(own.max(self.closed_floor(chain)?))
    }

    /// The artifacts of a chain that are here and do not count with this floor, in the order in which they may go.
    pub fn garbage(&self, chain: &Chain, floor: u64) -> Result<Vec<ArtifactName>, LedgerError> {
        if floor <= 1 {
            return Ok(Vec::new());
        }
        let standing = self.standing(chain, floor)?;
        let mut garbage = self.checkpoint_names(chain, 0)?;
        for folder in ["packs", "records"] {
            garbage.extend(self.names(chain, folder)?);
        }
        garbage.retain(|name| !standing.contains(name));
        Ok(garbage)
    }

    /// Where the segments of one artifact stand; none in records.
    pub fn places_in(&self, name: &ArtifactName) -> Result<Vec<(SegmentHash, Place)>, LedgerError> {
        match name.kind() {
            ArtifactKind::Pack => Ok(self.pack_index(name)?.places(name).collect()),
            ArtifactKind::Records => Ok(Vec::new()),
            ArtifactKind::Checkpoint => {
                let checkpoint = self.read_checkpoint(name)?;
                checkpoint.inline_places().map_err(|damage| LedgerError::damaged(name, damage))
            }
        }
    }

    /// True if everything else than what is gone can be copied out of a pack. False if its own index cannot tell what it holds.
    pub fn can_do_without(&self, pack: &ArtifactName, gone: &HashSet<SegmentHash>) -> bool {
        let Ok(index) = self.pack_index(pack) else { return false };
        let mut kept = index.places(pack).filter(|(segment, _)| !gone.contains(segment));
        kept.all(|(segment, place)| self.read_segment(segment, &place).is_ok())
    }

    /// The files in the quarantine that stood under names of these chains, whatever they hold.
    pub fn quarantined(&self, chains: &BTreeSet<Chain>) -> Result<Vec<PathBuf>, LedgerError> {
        let folder = self.quarantine();
        let of_them = |file: &String| {
            // `<flat name>` or `<flat name>.<n>`.
            let stem = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem);
            let name = ArtifactName::from_flat(file).or_else(|| ArtifactName::from_flat(stem));
            name.is_some_and(|name| chains.contains(name.chain()))
        };
        let mut files = read_names(folder)?;
        files.retain(of_them);
        files.sort();
        Ok(files.into_iter().map(|file| folder.join(file)).collect())
    }

    /// Removes files that [`Ledger::quarantined`] named.
    pub fn remove_quarantined(&self, files: &[PathBuf]) -> Result<(), LedgerError> {
        for file in files {
            self.disk().remove(file)?;
        }
        if files.is_empty() { Ok(()) } else { self.disk().sync_folder(self.quarantine()) }
    }

    /// Removes artifacts, in order, and syncs their folders. Only for the holder of the lock, of what [`Ledger::garbage`] named.
    ///
    /// Cut off anywhere, what is left is garbage as before. Returns the bytes that were freed.
    pub fn remove_garbage(&self, garbage: &[ArtifactName]) -> Result<u64, LedgerError> {
        let mut freed = 0;
        let mut folders = BTreeSet::new();
        for name in garbage {
            freed += self.size(name).unwrap_or(0);
            self.disk().remove(&self.path(name))?;
            // Nobody needs its good bytes any more.
            self.forget_note(name)?;
            folders.insert(self.folder(name.chain(), name.folder()));
        }
        folders.iter().try_for_each(|folder| self.disk().sync_folder(folder))?;
        Ok(freed)
    }
}
