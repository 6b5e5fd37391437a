//! What pairing left behind on this side: which server stands at an address, and how its line is known again.
//!
//! Invariant: one small canonical file for each address, in `.larder/servers/` (0700), complete or not there. Holds no secret: the
//! device's key is the identity's. Knows nothing of requests.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::{TransportError, TransportErrorKind};
use crate::model::{Hash, canonical_bytes};

const FOLDER: &str = "servers";
const KIND: &str = "server";
const MAX_PIN_BYTES: u64 = 4096;

/// What is known of the server at one address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pin {
    /// Where: scheme, host, port.
    pub address: String,
    /// The hash of its certificate, if this machine's roots do not vouch for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Hash>,
    kind: String,
    /// A person said that this address may be spoken to without TLS, although it is elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Its id.
    pub server: String,
    v: u32,
}

impl Pin {
    /// What pairing found out.
    pub fn new(address: &str, server: &str, certificate: Option<Hash>, plain: bool) -> Pin {
        let (address, server) = (address.to_owned(), server.to_owned());
        Pin { address, certificate, kind: KIND.to_owned(), plain, server, v: 1 }
    }

    /// What is known of the server at `address`; `None` if it was never paired with. `larder` is the project's own folder.
    ///
    /// Errors: Denied if it cannot be read or understood.
    pub fn load(larder: &Path, address: &str) -> Result<Option<Pin>, TransportError> {
        let path = path_of(larder, address);
        let refused = |why: String| {
            let detail = format!("{} cannot be used ({why}); pair this device again", path.display());
            TransportError::new(TransportErrorKind::Denied, "open", address, detail)
        };
        let size_bytes = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error.to_string())),
        };
        if size_bytes > MAX_PIN_BYTES {
            return Err(refused(format!("{size_bytes} bytes are more than {MAX_PIN_BYTES}")));
        }
        let bytes = std::fs::read(&path).map_err(|error| refused(error.to_string()))?;
        let pin: Pin = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if pin.v != 1 || pin.kind != KIND || pin.address != address {
            return Err(refused("it is of another kind, version or address".to_owned()));
        }
        Ok(Some(pin))
    }

    /// Keeps it, in place of an earlier one. Atomic, durable.
    pub fn save(&self, larder: &Path) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let path = path_of(larder, &self.address);
        let folder = path.parent().unwrap_or(larder);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Made 0600 by the crate.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&canonical_bytes(self).expect("texts always serialise"))?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

fn path_of(larder: &Path, address: &str) -> PathBuf {
    larder.join(FOLDER).join(format!("{}.json", Hash::of(address.as_bytes()).short(16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_found_by_its_address_and_a_damaged_one_is_said() {
        let larder = tempfile::tempdir().expect("a folder");
        let pin = Pin::new("https://h:1", "server", Some(Hash::of(b"der")), false);
        assert_eq!(Pin::load(larder.path(), "https://h:1").expect("read"), None);

        Pin::new("https://h:1", "old", None, true).save(larder.path()).expect("saved");
        pin.save(larder.path()).expect("saved");
        assert_eq!(Pin::load(larder.path(), "https://h:1").expect("read"), Some(pin));
        assert_eq!(Pin::load(larder.path(), "https://h:2").expect("read"), None);

        for bad in ["", "{}", &"x".repeat(5000), r#"{"address":"http://x","kind":"server","server":"s","v":1}"#] {
            std::fs::write(path_of(larder.path(), "https://h:1"), bad).expect("writes");
            let error = Pin::load(larder.path(), "https://h:1").expect_err(bad);
            assert_eq!(error.kind, TransportErrorKind::Denied);
        }
    }
}
