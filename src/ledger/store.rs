//! The ledger on disk: immutable artifacts under their names, written once, verified on every read.
//!
//! Invariant: nothing here changes or removes an artifact; a damaged one may be moved to the quarantine so that good
//! bytes can take its place. Knows no database: what it answers, it read from the artifacts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::block;
use super::checkpoint::{Checkpoint, Inline, MAX_CHECKPOINT_BYTES};
use super::disk::{Disk, io_error};
use super::error::{Damage, LedgerError};
use super::name::{ArtifactKind, ArtifactName, FOLDERS, Place, ShortHash};
use super::pack::{MAX_PACK_BYTES, PackIndex, ReadPackError};
use super::records::{self, MAX_RECORDS_BYTES, MAX_RECORDS_RAW_BYTES};
use crate::model::{ArtifactHash, Chain, Hash, OriginName, Record, SegmentHash};

/// Where files wait for their name; not a valid space, so never part of a listing.
const STAGING: &str = ".staging";
/// Checkpoints of a chain that are tried, the newest first, to learn whose it is.
const MAX_TRIED: usize = 8;

/// The artifacts of one project.
#[derive(Debug)]
pub struct Ledger {
    root: PathBuf,
    quarantine: PathBuf,
    damaged: PathBuf,
    disk: Disk,
}

impl Ledger {
    /// Opens the ledger below `larder` (the project's `.larder` folder), making its folders if need be.
    pub fn open(larder: &Path) -> Result<Ledger, LedgerError> {
        let [root, quarantine, damaged] = ["ledger", "quarantine", "damaged"].map(|folder| larder.join(folder));
        let ledger = Ledger { root, quarantine, damaged, disk: Disk::default() };
        ledger.disk.create_folder(&ledger.root)?;
        Ok(ledger)
    }

    /// Removes what a crash left in the staging folder. Only for the process that holds the project's lock.
    pub fn clean_staging(&self) -> Result<usize, LedgerError> {
        let mut removed = 0;
        for name in read_names(&self.staging())? {
            self.disk.remove(&self.staging().join(name))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// The project's own folder, `.larder`.
    pub fn larder(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// The folder of the artifacts.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn quarantine(&self) -> &Path {
        &self.quarantine
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    /// Where damage that is not healed yet is noted.
    pub(super) fn damaged_folder(&self) -> &Path {
        &self.damaged
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where an artifact stands or would stand.
    pub fn path(&self, name: &ArtifactName) -> PathBuf {
        self.folder(name.chain(), name.folder()).join(name.file())
    }

    pub(crate) fn folder(&self, chain: &Chain, folder: &str) -> PathBuf {
        self.root.join(chain.space.as_str()).join(chain.folder()).join(folder)
    }

    /// True if a file has that name, whatever its bytes.
    pub fn has(&self, name: &ArtifactName) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok_and(|metadata| metadata.is_file())
    }

    /// True if no file has that name: not if it only cannot be told.
    pub fn is_gone(&self, name: &ArtifactName) -> bool {
        fs::symlink_metadata(self.path(name)).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// The chains that have a folder, in order.
    pub fn chains(&self) -> Result<Vec<Chain>, LedgerError> {
        let mut chains = Vec::new();
        for space in read_names(&self.root)? {
            for folder in read_names(&self.root.join(&space))? {
                chains.extend(format!("{space}/{folder}").parse::<Chain>());
            }
        }
        chains.sort();
        Ok(chains)
    }

    /// What an origin's artifacts fill, of all its chains, in stored bytes.
    pub fn held_bytes(&self, origin: &OriginName) -> Result<u64, LedgerError> {
        let mut held: u64 = 0;
        for chain in self.chains()?.iter().filter(|chain| chain.origin == *origin) {
            for folder in FOLDERS {
                let files = read_names(&self.folder(chain, folder))?;
                let sizes = files.iter().map(|file| fs::symlink_metadata(self.folder(chain, folder).join(file)));
                // What went meanwhile fills nothing.
                held = sizes.flatten().fold(held, |held, metadata| held.saturating_add(metadata.len()));
            }
        }
        Ok(held)
    }

    /// The checkpoints of a chain with a number above `after_seq`, by number; two on one number are a fork.
    pub fn checkpoint_names(&self, chain: &Chain, after_seq: u64) -> Result<Vec<ArtifactName>, LedgerError> {
        let mut names = self.names(chain, "checkpoints")?;
        names.retain(|name| matches!(name, ArtifactName::Checkpoint { seq, .. } if *seq > after_seq));
        Ok(names)
    }

    /// Everything that stands of a chain, packs and records before checkpoints, each in order.
    pub fn artifact_names(&self, chain: &Chain) -> Result<Vec<ArtifactName>, LedgerError> {
        let mut names = Vec::new();
        for folder in FOLDERS {
            names.extend(self.names(chain, folder)?);
        }
        names.sort_by_key(|name| name.kind() == ArtifactKind::Checkpoint);
        Ok(names)
    }

    /// The artifacts in one folder of a chain, in order; files with other names are passed over.
    pub(crate) fn names(&self, chain: &Chain, folder: &str) -> Result<Vec<ArtifactName>, LedgerError> {
        let files = read_names(&self.folder(chain, folder))?;
        let mut names: Vec<ArtifactName> =
            files.iter().filter_map(|file| ArtifactName::from_file(chain, folder, file).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The newest checkpoint of a chain that can be read, of which a few are tried: it tells who writes it, and for whom.
    pub fn newest_sound(&self, chain: &Chain) -> Result<Option<Checkpoint>, LedgerError> {
        for name in self.checkpoint_names(chain, 0)?.iter().rev().take(MAX_TRIED) {
            match self.read_checkpoint(name) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(LedgerError::Damaged { .. } | LedgerError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads and verifies one checkpoint alone; `ChainCursor` tells whether it follows another.
    pub fn read_checkpoint(&self, name: &ArtifactName) -> Result<Checkpoint, LedgerError> {
        let bytes = self.read_whole(name)?;
        Checkpoint::parse(name, &bytes).map_err(|damage| LedgerError::damaged(name, damage))
    }

    /// The whole stored bytes of an artifact, unverified but bounded.
    pub fn read_whole(&self, name: &ArtifactName) -> Result<Vec<u8>, LedgerError> {
        let limit = max_artifact_bytes(name.kind());
        let (path, file) = self.open_file(name)?;
        let size = file.metadata().map_err(io_error("read", &path))?.len().min(limit);
        // One more than it holds, so that its end is seen without growing.
        let mut bytes = Vec::with_capacity(size as usize + 1);
        file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        if bytes.len() as u64 > limit {
            let actual = bytes.len() as u64;
            return Err(LedgerError::damaged(name, Damage::Bound { what: "an artifact's bytes", actual, limit }));
        }
        Ok(bytes)
    }

    /// A part of an artifact's stored bytes, for a transport; shorter if the artifact ends before the range does.
    pub fn read_raw(&self, name: &ArtifactName, range: Range<u64>) -> Result<Vec<u8>, LedgerError> {
        let (path, file) = self.open_file(name)?;
        let size = file.metadata().map_err(io_error("read", &path))?.len().min(max_artifact_bytes(name.kind()));
        let len = range.end.min(size).saturating_sub(range.start);
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(io_error("read", &path))?;
        Ok(bytes)
    }

    /// The stored size of an artifact.
    pub fn size(&self, name: &ArtifactName) -> Result<u64, LedgerError> {
        let (path, file) = self.open_file(name)?;
        Ok(file.metadata().map_err(io_error("read", &path))?.len())
    }

    pub(super) fn open_file(&self, name: &ArtifactName) -> Result<(PathBuf, File), LedgerError> {
        let path = self.path(name);
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        match OpenOptions::new().read(true).custom_flags(no_follow).open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LedgerError::Missing { name: name.clone() }),
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    /// Hands every line that came with `checkpoint` to `visit`: inline ones, then those of its records artifacts.
    ///
    /// A snapshot's list is not visited: see `each_listed_record`. Memory: one records artifact.
    pub fn each_record<E: From<LedgerError>>(
        &self,
        checkpoint: &Checkpoint,
        mut visit: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_inline_record(checkpoint, &mut visit)?;
        for records in &checkpoint.body.records {
            let name = ArtifactName::Records { chain: checkpoint.body.chain.clone(), hash: records.0 };
            self.each_record_of(&name, records.1, &mut visit)?;
        }
        Ok(())
    }

    /// Hands every line of the artifacts that a snapshot lists to `visit`: all of its chain so far, in no fixed order.
    pub fn each_listed_record<E: From<LedgerError>>(
        &self,
        checkpoint: &Checkpoint,
        mut visit: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        for listed in checkpoint.body.snapshot.iter().flat_map(|snapshot| &snapshot.records) {
            let name = ArtifactName::Records { chain: checkpoint.body.chain.clone(), hash: listed.0 };
            self.each_record_of(&name, listed.1, &mut visit)?;
        }
        Ok(())
    }

    /// Hands every line of one records artifact to `visit`; `raw_len` is what its list says of its lines, in bytes.
    pub fn each_record_in<E: From<LedgerError>>(
        &self,
        name: &ArtifactName,
        raw_len: u64,
        visit: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_record_of(name, raw_len, visit)
    }

    /// Hands every line that a checkpoint carries in itself to `visit`.
    pub(super) fn each_inline_record<E: From<LedgerError>>(
        &self,
        checkpoint: &Checkpoint,
        visit: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(inline) = &checkpoint.body.inline else { return Ok(()) };
        records::each_line(inline.records.as_bytes(), |damage| LedgerError::damaged(&checkpoint.name, damage), visit)
    }

    fn each_record_of<E: From<LedgerError>>(
        &self,
        name: &ArtifactName,
        raw_len: u64,
        visit: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let raw = self.read_records(name, raw_len)?;
        records::each_line(&raw, |damage| LedgerError::damaged(name, damage), visit)
    }

    /// The verified lines of a records artifact, at most `limit` bytes.
    pub(crate) fn read_records(&self, name: &ArtifactName, limit: u64) -> Result<Vec<u8>, LedgerError> {
        let ArtifactName::Records { hash, .. } = name else {
            return Err(LedgerError::damaged(name, Damage::OtherName { what: "kind" }));
        };
        let stored = self.read_whole(name)?;
        records::open(&stored, *hash, limit).map_err(|damage| LedgerError::damaged(name, damage))
    }

    /// Every line that came with `checkpoint`, raw and understood. For small checkpoints and tests.
    pub fn records(&self, checkpoint: &Checkpoint) -> Result<Vec<(Vec<u8>, Record)>, LedgerError> {
        let mut records = Vec::new();
        self.each_record(checkpoint, |line, record| {
            records.push((line.to_vec(), record));
            Ok::<(), LedgerError>(())
        })?;
        Ok(records)
    }

    /// Where the segments stand that came with `checkpoint`: in itself and in its packs.
    pub fn segment_places(&self, checkpoint: &Checkpoint) -> Result<Vec<(SegmentHash, Place)>, LedgerError> {
        let inline = checkpoint.inline_places();
        let mut places = inline.map_err(|damage| LedgerError::damaged(&checkpoint.name, damage))?;
        for pack in &checkpoint.body.packs {
            self.add_pack_places(&mut places, &checkpoint.body.chain, pack.0)?;
        }
        Ok(places)
    }

    /// Where the segments stand that a snapshot lists.
    pub fn listed_places(&self, checkpoint: &Checkpoint) -> Result<Vec<(SegmentHash, Place)>, LedgerError> {
        let mut places = Vec::new();
        for pack in checkpoint.body.snapshot.iter().flat_map(|snapshot| &snapshot.packs) {
            self.add_pack_places(&mut places, &checkpoint.body.chain, pack.0)?;
        }
        Ok(places)
    }

    fn add_pack_places(
        &self,
        places: &mut Vec<(SegmentHash, Place)>,
        chain: &Chain,
        hash: crate::model::ArtifactHash,
    ) -> Result<(), LedgerError> {
        let name = ArtifactName::Pack { chain: chain.clone(), hash };
        places.extend(self.pack_index(&name)?.places(&name));
        Ok(())
    }

    /// The index of a pack, read without its blocks.
    pub fn pack_index(&self, name: &ArtifactName) -> Result<PackIndex, LedgerError> {
        let (path, file) = self.open_file(name)?;
        PackIndex::read(&file).map_err(|error| match error {
            ReadPackError::Io(error) => io_error("read", &path)(error),
            ReadPackError::Damage(damage) => LedgerError::damaged(name, damage),
        })
    }

    /// The bytes of one segment, verified.
    pub fn read_segment(&self, segment: SegmentHash, place: &Place) -> Result<Vec<u8>, LedgerError> {
        let raw = self.read_raw_block(place)?;
        let span =
            slice_segment(&raw, segment, place).map_err(|damage| LedgerError::damaged(&place.artifact, damage))?;
        Ok(if span.len() == raw.len() { raw } else { span.to_vec() })
    }

    /// The decompressed block at a place, for readers that want several of its segments; unverified, see
    /// `slice_segment`.
    pub fn read_block(&self, place: &Place) -> Result<Vec<u8>, LedgerError> {
        self.read_raw_block(place)
    }

    /// The same into `out`, which has as many bytes as the block.
    pub fn read_block_into(&self, place: &Place, out: &mut [u8]) -> Result<(), LedgerError> {
        let (name, address) = (&place.artifact, &place.block);
        let wrong = |damage| LedgerError::damaged(name, damage);
        if name.kind() == ArtifactKind::Pack && address.stored_len == address.raw_len {
            block::check_lengths(u64::from(address.stored_len), u64::from(address.raw_len)).map_err(wrong)?;
            return self.read_pack_at(name, address.offset, out);
        }
        block::decode_into(&self.stored_block(place)?, address, out).map_err(wrong)
    }

    /// Has the kernel read these bytes of a pack, for whoever comes to them. Only a hint: nothing is said of what fails.
    pub fn read_ahead(&self, name: &ArtifactName, bytes: Range<u64>) {
        if name.kind() == ArtifactKind::Pack
            && let Ok((_, file)) = self.open_file(name)
        {
            let len = NonZeroU64::new(bytes.end.saturating_sub(bytes.start));
            let _ = rustix::fs::fadvise(&file, bytes.start, len, rustix::fs::Advice::WillNeed);
        }
    }

    /// What a checkpoint carries in itself, proven; for readers that want several of its blocks.
    pub fn read_inline(&self, name: &ArtifactName) -> Result<Inline, LedgerError> {
        let checkpoint = Checkpoint::parse(name, &self.read_whole(name)?);
        let checkpoint = checkpoint.map_err(|damage| LedgerError::damaged(name, damage))?;
        Ok(checkpoint.body.inline.unwrap_or_default())
    }

    fn read_raw_block(&self, place: &Place) -> Result<Vec<u8>, LedgerError> {
        let wrong = |damage| LedgerError::damaged(&place.artifact, damage);
        let stored = self.stored_block(place)?;
        block::decode(stored, &place.block).map_err(wrong)
    }

    /// The stored bytes of the block at a place.
    pub(crate) fn stored_block(&self, place: &Place) -> Result<Vec<u8>, LedgerError> {
        let (name, address) = (&place.artifact, &place.block);
        let wrong = |damage| LedgerError::damaged(name, damage);
        block::check_lengths(u64::from(address.stored_len), u64::from(address.raw_len)).map_err(wrong)?;
        match name.kind() {
            ArtifactKind::Pack => {
                let mut stored = vec![0; address.stored_len as usize];
                self.read_pack_at(name, address.offset, &mut stored)?;
                Ok(stored)
            }
            ArtifactKind::Checkpoint => self.read_inline(name)?.stored_block(address.offset).map_err(wrong),
            ArtifactKind::Records => Err(wrong(Damage::Form("holds no segments"))),
        }
    }

    fn read_pack_at(&self, name: &ArtifactName, offset: u64, out: &mut [u8]) -> Result<(), LedgerError> {
        let (path, file) = self.open_file(name)?;
        match file.read_exact_at(out, offset) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(LedgerError::damaged(name, Damage::Form("ends before the block does")))
            }
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Keeps a damaged artifact's bytes in the quarantine as well, so that good ones may replace them. Returns where.
    pub(super) fn keep_in_quarantine(&self, name: &ArtifactName) -> Result<PathBuf, LedgerError> {
        self.disk.create_folder(&self.quarantine)?;
        let flat = name.flat();
        // At most as many attempts as a person would ever make on one name.
        let target = (0..10_000)
            .map(|n| self.quarantine.join(format!("{flat}.{n}")))
            .find(|path| matches!(path.try_exists(), Ok(false)));
        let target = target.unwrap_or_else(|| self.quarantine.join(&flat));
        self.disk.keep_aside(&self.path(name), &target)?;
        self.disk.sync_folder(&self.quarantine)?;
        Ok(target)
    }
}

/// The span of a segment in its decompressed block, verified by its hash.
pub fn slice_segment<'a>(block: &'a [u8], segment: SegmentHash, place: &Place) -> Result<&'a [u8], Damage> {
    let span = span_of(block, place)?;
    let actual = Hash::of(span);
    if actual == segment.0 { Ok(span) } else { Err(Damage::Segment { segment, actual }) }
}

/// The same, unverified: for bytes that stayed in memory since they were.
pub(crate) fn span_of<'a>(block: &'a [u8], place: &Place) -> Result<&'a [u8], Damage> {
    let (start, len) = (place.start as usize, place.len as usize);
    let span = block.get(start..).and_then(|rest| rest.get(..len));
    span.ok_or(Damage::Form("the segment passes its block"))
}

/// The largest artifact of a kind.
pub fn max_artifact_bytes(kind: ArtifactKind) -> u64 {
    match kind {
        ArtifactKind::Checkpoint => MAX_CHECKPOINT_BYTES,
        ArtifactKind::Pack => MAX_PACK_BYTES,
        ArtifactKind::Records => MAX_RECORDS_BYTES,
    }
}

/// Proves that `bytes` are the artifact called `name`.
pub fn verify_bytes(name: &ArtifactName, bytes: &[u8]) -> Result<(), Damage> {
    let (actual, limit) = (bytes.len() as u64, max_artifact_bytes(name.kind()));
    if actual > limit {
        return Err(Damage::Bound { what: "an artifact's bytes", actual, limit });
    }
    match name {
        ArtifactName::Checkpoint { .. } => Checkpoint::parse(name, bytes).map(|_| ()),
        ArtifactName::Records { hash, .. } => records::open(bytes, *hash, MAX_RECORDS_RAW_BYTES).map(|_| ()),
        ArtifactName::Pack { hash, .. } => {
            let actual = Hash::of(bytes);
            if actual == hash.0 { Ok(()) } else { Err(Damage::Hash { expected: hash.to_string(), actual }) }
        }
    }
}

/// True if `bytes` can never be the artifact called `name`: their hash is another one, or they do not decompress.
///
/// What merely breaks a rule of this release, or is too large for it, proves nothing.
pub fn proves_wrong(name: &ArtifactName, bytes: &[u8]) -> bool {
    match name {
        ArtifactName::Checkpoint { hash, .. } => ShortHash::of(&ArtifactHash::of(bytes)) != *hash,
        ArtifactName::Pack { hash, .. } => Hash::of(bytes) != hash.0,
        ArtifactName::Records { .. } => {
            matches!(verify_bytes(name, bytes), Err(Damage::Hash { .. } | Damage::Zstd(_)))
        }
    }
}

/// The names in a folder that are text; none if it is not there.
pub(crate) fn read_names(folder: &Path) -> Result<Vec<String>, LedgerError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // A file beside the spaces is not a space.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io_error("list", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", folder))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
