//! Damage that was met and is not healed yet: one small file for each artifact, in `.larder/damaged/`.
//!
//! Invariant: a note says that an artifact was missing or wrong when somebody looked, and nothing else follows from it. Whoever
//! reads may leave one, with the project's lock or without; only the holder of the lock takes one away, and only after
//! the artifact was read whole or does not count any more. A lost note costs one more look.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::disk::io_error;
use super::error::LedgerError;
use super::name::ArtifactName;
use super::store::{Ledger, read_names, verify_bytes};

/// Notes that are read; more damage than this is a disk to replace, and one look finds the rest.
const MAX_NOTES: usize = 10_000;
/// Bytes of a reason that are kept.
const MAX_WHY_BYTES: usize = 500;

/// One artifact that was damaged or missing when somebody looked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotedDamage {
    /// Which artifact.
    pub name: ArtifactName,
    /// What was wrong with it then.
    pub why: String,
}

impl Ledger {
    /// Notes that an artifact is damaged or missing. The first note stands; durable when it returns.
    pub fn note_damage(&self, name: &ArtifactName, why: &str) -> Result<(), LedgerError> {
        let path = self.note_path(name);
        self.disk().create_folder(self.damaged_folder())?;
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(io_error("create", &path)(error)),
        };
        let why = why.get(..why.floor_char_boundary(MAX_WHY_BYTES)).unwrap_or_default();
        file.write_all(why.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error("write", &path))?;
        self.disk().sync_folder(self.damaged_folder())
    }

    /// Notes what an error says of an artifact, if it says anything. A note that cannot be kept loses nothing: the error
    /// itself goes to the caller, and the next look finds the same.
    pub fn note_error(&self, error: &LedgerError) {
        let (LedgerError::Damaged { name, .. } | LedgerError::Missing { name }) = error else { return };
        let _ = self.note_damage(name, &error.to_string());
    }

    /// Every artifact that was noted and not yet seen whole again, in order.
    pub fn noted_damage(&self) -> Result<Vec<NotedDamage>, LedgerError> {
        let mut noted = Vec::new();
        for file in read_names(self.damaged_folder())?.into_iter().take(MAX_NOTES) {
            let Some(name) = ArtifactName::from_flat(&file) else { continue };
            // What was wrong is a courtesy; the name alone is what healing needs.
            let why = std::fs::read_to_string(self.note_path(&name)).unwrap_or_default();
            noted.push(NotedDamage { name, why });
        }
        noted.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(noted)
    }

    /// Takes away the notes of artifacts that are whole again, and returns their names. Only for the holder of the lock.
    pub fn forget_healed(&self) -> Result<Vec<ArtifactName>, LedgerError> {
        let mut healed = Vec::new();
        for NotedDamage { name, .. } in self.noted_damage()? {
            if self.is_whole(&name) {
                self.disk().remove(&self.note_path(&name))?;
                healed.push(name);
            }
        }
        Ok(healed)
    }

    /// Takes a note away: its artifact is not needed any more. Only for the holder of the lock.
    pub fn forget_note(&self, name: &ArtifactName) -> Result<(), LedgerError> {
        let path = self.note_path(name);
        if path.exists() { self.disk().remove(&path) } else { Ok(()) }
    }

    /// True if the artifact is here and every byte of it is as its name says.
    pub fn is_whole(&self, name: &ArtifactName) -> bool {
        self.read_whole(name).is_ok_and(|bytes| verify_bytes(name, &bytes).is_ok())
    }

    fn note_path(&self, name: &ArtifactName) -> PathBuf {
        self.damaged_folder().join(name.flat())
    }
}
