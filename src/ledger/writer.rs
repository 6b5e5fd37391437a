//! Who wrote a chain of which nothing is here any more: one small file for each, in `.larder/writers/`.
//!
//! Invariant: it is written, durably, before the last checkpoint of a chain goes, from that checkpoint, and never changed. So whoever
//! held a chain knows for good whose it was, and nobody else's word about it is believed once it was let go. Only this machine's own
//! knowledge: never exchanged; one that is lost or cannot be read says nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::disk::io_error;
use super::error::LedgerError;
use super::key::PublicKey;
use super::name::ArtifactName;
use super::store::Ledger;
use crate::model::Chain;

/// The folder beside the ledger.
const FOLDER: &str = "writers";

impl Ledger {
    /// The device that wrote a chain and the owner who vouched for it, by what is here or was; `None` if nothing says so.
    pub fn writer_of(&self, chain: &Chain) -> Result<Option<(PublicKey, PublicKey)>, LedgerError> {
        if let Some(newest) = self.newest_sound(chain)? {
            return Ok(Some((newest.body.key, newest.body.cert.key)));
        }
        let text = std::fs::read_to_string(self.writer_path(chain)).unwrap_or_default();
        let key = |text: &str| {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
            Some(PublicKey::from_bytes(bytes.try_into().ok()?))
        };
        Ok(text.trim_end().split_once(' ').and_then(|(device, owner)| key(device).zip(key(owner))))
    }

    /// Remembers who wrote a chain if these are all of its checkpoints.
    pub(super) fn note_writer(&self, chain: &Chain, going: &[ArtifactName]) -> Result<(), LedgerError> {
        if self.checkpoint_names(chain, 0)?.iter().any(|name| !going.contains(name)) {
            return Ok(());
        }
        let Some((device, owner)) = self.writer_of(chain)? else { return Ok(()) };
        let (folder, path) = (self.larder().join(FOLDER), self.writer_path(chain));
        self.disk().create_folder(&folder)?;
        // What a stop left half written is written anew; of a whole one nothing can be wrong.
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let mut file = opened.map_err(io_error("create", &path))?;
        let text = format!("{device} {owner}\n");
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error("write", &path))?;
        self.disk().sync_folder(&folder)
    }

    fn writer_path(&self, chain: &Chain) -> PathBuf {
        self.larder().join(FOLDER).join(chain.to_string().replace('/', "!"))
    }
}
