//! Damaged packs made anew from the project's own files, where no store holds them whole.
//!
//! Invariant: a file is only where bytes may stand; what is taken from it is proven to be the segment that is missing, and the pack to be the
//! one that was lost. Nothing is recorded and no file is touched.

use std::collections::HashMap;

use super::{Engine, Result, SyncError};
use crate::ledger::{ArtifactKind, ArtifactName, NotedDamage, PackIndex, Remains};
use crate::model::{ContentHash, ContentKind, Hash, RelPath, SegmentHash, SegmentRef};
use crate::scan;

/// Bytes of the segments that were found.
type Found = HashMap<SegmentHash, Vec<u8>>;

impl Engine {
    /// Makes anew what is noted as damaged here, as far as the project's files hold it. Returns the packs that are whole again.
    pub fn remake_from_files(&mut self) -> Result<Vec<ArtifactName>> {
        let mut remade = Vec::new();
        let packs = self.known_damage()?.into_iter().filter(|noted| noted.name.kind() == ArtifactKind::Pack);
        for NotedDamage { name, .. } in packs {
            let layout = || Ok::<Option<PackIndex>, SyncError>(Some(self.index.pack_layout(&name)?));
            let Some(remains) = self.ledger.remains(&name, layout)? else { continue };
            if self.is_let_go(&name, &remains)? {
                continue;
            }
            let found = self.find_in_files(&remains)?;
            if self.ledger.remake(&remains, &found)? {
                remade.push(name);
            }
        }
        self.forget_healed()?;
        if !remade.is_empty() {
            self.replay()?;
        }
        Ok(remade)
    }

    /// True if nobody needs the pack any more, or somebody let something in it go.
    fn is_let_go(&self, name: &ArtifactName, remains: &Remains) -> Result<bool> {
        let floor = self.index.floors()?.into_iter().find(|(chain, _)| chain == name.chain());
        let counts = self.ledger.standing(name.chain(), floor.map_or(1, |(_, floor)| floor.seq))?.contains(name);
        let purged = self.index.purged_segments()?;
        Ok(!counts || remains.segments().any(|segment| purged.contains(segment)))
    }

    /// Of the missing segments those that stand in a file, where it is recorded that they do. Memory: their bytes.
    fn find_in_files(&self, remains: &Remains) -> Result<Found> {
        let mut missing: HashMap<SegmentHash, u32> = remains.missing().copied().collect();
        let mut found = Found::new();
        // Returns how many are missing still.
        let mut look = |path: &RelPath, content: &ContentHash, size: u64| -> Result<usize> {
            let manifest = self.index.manifest(content, size)?;
            let mut offset = 0;
            for SegmentRef(segment, len) in manifest.iter().flat_map(|manifest| &manifest.segments) {
                if missing.get(segment) == Some(len)
                    && let Some(bytes) = self.segment_in(path, offset, *segment, *len)
                {
                    missing.remove(segment);
                    found.insert(*segment, bytes);
                }
                offset += u64::from(*len);
            }
            Ok(missing.len())
        };
        for (path, content, size) in self.recorded_files()? {
            if look(&path, &content, size)? == 0 {
                break;
            }
        }
        Ok(found)
    }

    /// The files that were last seen to hold a recorded content: path, content, size.
    fn recorded_files(&self) -> Result<Vec<(RelPath, ContentHash, u64)>> {
        let mut paths = Vec::new();
        self.state.for_each_stat(None, |path, _, kind, stat| {
            if matches!(kind, ContentKind::File { .. }) && stat.size > 0 {
                paths.extend(RelPath::parse(path));
            }
            Ok::<(), SyncError>(())
        })?;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            files.extend(self.state.base(&path)?.map(|base| (path, base.hash, base.stat.size)));
        }
        Ok(files)
    }

    /// A segment's bytes, if they stand there now. What cannot be read is no help.
    fn segment_in(&self, path: &RelPath, offset: u64, segment: SegmentHash, len: u32) -> Option<Vec<u8>> {
        let read = scan::read_range(&self.root, path, offset, len as usize).ok()?;
        (Hash::of(&read.bytes) == segment.0).then_some(read.bytes)
    }
}
