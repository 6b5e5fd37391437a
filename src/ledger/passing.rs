//! Packs on their way in and out, a part at a time: a pack may be 64 MiB, and none of that has to be in memory at once.
//!
//! Invariant: a pack gets its name only after all its parts were proven to be that pack; a pack that is read out and is not what
//! its name says ends in an error where its end should be. Small packs are nobody's burden and left to `put` and `read_whole`.

use std::fs::File;
use std::io::{self, Read};

use super::disk::StagedFile;
use super::error::{Damage, LedgerError};
use super::name::ArtifactName;
use super::pack::MAX_PACK_BYTES;
use super::store::Ledger;
use crate::model::{ArtifactHash, Hash};

/// A smaller pack is read whole.
const WHOLE_BYTES: u64 = 1 << 20;

/// A pack that is read out.
pub struct PassingPack {
    file: File,
    hasher: blake3::Hasher,
    expected: ArtifactHash,
    size_bytes: u64,
    read_bytes: u64,
}

impl PassingPack {
    /// Its stored bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Read for PassingPack {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read_bytes += count as u64;
        let ends = count == 0 && !buffer.is_empty();
        if ends && (self.read_bytes != self.size_bytes || self.hasher.finalize() != *self.expected.0.as_bytes()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its bytes are not what its name says"));
        }
        Ok(count)
    }
}

/// A pack that is taken in. Dropped before it is finished, it leaves nothing.
pub struct ArrivingPack<'a> {
    ledger: &'a Ledger,
    name: &'a ArtifactName,
    expected: ArtifactHash,
    staged: Option<StagedFile>,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl Ledger {
    /// Opens a pack to be read out; `None` for what is small or no pack. Errors: Missing.
    pub fn open_pack(&self, name: &ArtifactName) -> Result<Option<PassingPack>, LedgerError> {
        let ArtifactName::Pack { hash, .. } = name else { return Ok(None) };
        let (path, file) = self.open_file(name)?;
        let size_bytes = file.metadata().map_err(super::disk::io_error("read", &path))?.len();
        let is_large = (WHOLE_BYTES..=MAX_PACK_BYTES).contains(&size_bytes);
        let hasher = blake3::Hasher::new();
        Ok(is_large.then_some(PassingPack { file, hasher, expected: *hash, size_bytes, read_bytes: 0 }))
    }

    /// Begins to take a pack in; `None` for what is no pack, or is here already, damaged or not.
    pub fn receive_pack<'a>(&'a self, name: &'a ArtifactName) -> Result<Option<ArrivingPack<'a>>, LedgerError> {
        let ArtifactName::Pack { hash, .. } = name else { return Ok(None) };
        if self.has(name) {
            return Ok(None);
        }
        let hasher = blake3::Hasher::new();
        Ok(Some(ArrivingPack { ledger: self, name, expected: *hash, staged: None, hasher, size_bytes: 0 }))
    }
}

impl ArrivingPack<'_> {
    /// The next part. Errors: Damaged if it is more than a pack may be; the disk's.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), LedgerError> {
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > MAX_PACK_BYTES {
            let (actual, limit) = (self.size_bytes, MAX_PACK_BYTES);
            return Err(LedgerError::damaged(self.name, Damage::Bound { what: "an artifact's bytes", actual, limit }));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.hasher.update(bytes);
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => self.ledger.disk().stage(&self.ledger.staging())?,
        };
        self.ledger.disk().write(self.staged.insert(staged), bytes)
    }

    /// That was all. Durable when it returns. Errors: Damaged if it is not what its name says; the disk's.
    pub fn finish(mut self) -> Result<(), LedgerError> {
        let actual = Hash::from_bytes(*self.hasher.finalize().as_bytes());
        if actual != self.expected.0 {
            let expected = self.expected.to_string();
            return Err(LedgerError::damaged(self.name, Damage::Hash { expected, actual }));
        }
        match self.staged.take() {
            Some(staged) => self.ledger.publish_staged(vec![(self.name.clone(), staged)]),
            None => Ok(()),
        }
    }
}

impl Drop for ArrivingPack<'_> {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            // What stays is removed at the next start.
            self.ledger.disk().discard(staged);
        }
    }
}
