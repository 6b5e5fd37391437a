//! Who this install is: its name, its device key, its owner, and the folder it was made in.
//!
//! Invariant: the device key on disk belongs to `origin.json`, and the owner's certificate covers both. That the folder
//! was copied, restored or moved is reported, never decided here. Keys are 0600 in folders that are 0700.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::error::{Damage, LedgerError};
use super::key::{Certificate, PublicKey};
use crate::env::Env;
use crate::model::{Chain, ChainError, Hash, OriginName, Space};

const ORIGIN_FILE: &str = "origin.json";
const DEVICE_KEY_FILE: &str = "device.key";
/// The key of an identity that takes the place of another, until `origin.json` names it.
const NEXT_KEY_FILE: &str = "device.key.next";
const OWNER_KEY_FILE: &str = "owner.key";
const DEVICES_FOLDER: &str = "devices";
const MACHINE_ID_FILE: &str = "/etc/machine-id";
/// Names another machine than `/etc/machine-id` does, where that file is missing or shared.
const MACHINE_ID_VARIABLE: &str = "LARDER_MACHINE_ID";
const SUFFIX_CHARACTERS: usize = 6;
const MAX_ORIGIN_FILE_BYTES: u64 = 64 << 10;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// `origin.json` is not what it should be.
    #[error("read {path}: {source}", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Damage,
    },
    /// A key file does not hold a key.
    #[error("read {path}: 64 hex digits are needed", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The device key is not the one that `origin.json` names.
    #[error("read {path}: not the key of origin {origin}", path = path.display())]
    OtherKey {
        /// The key file.
        path: PathBuf,
        /// Whose key it should be.
        origin: OriginName,
    },
    /// The host or owner gives no valid name.
    #[error(transparent)]
    Name(#[from] ChainError),
    /// The folder could not be made.
    #[error(transparent)]
    Folder(#[from] LedgerError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { action, path: path.to_owned(), source }
}

/// Which folder on which machine an identity was made in.
///
/// The `.larder` folder's inode and birth survive reboots and moves, and no copy has them; the path and the machine tell
/// a restored folder from a copied one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Fingerprint {
    birth: String,
    inode: String,
    machine: Hash,
    path: Hash,
}

/// What stands for a birth that the file system does not tell.
const NO_BIRTH: &str = "0";
/// What stands in the place of a machine's id before it has one.
const NO_MACHINES: [&str; 2] = ["", "uninitialized"];

impl Fingerprint {
    fn of(larder: &Path, env: &Env) -> Result<Fingerprint, IdentityError> {
        let failed = |error| io_error("inspect", larder)(error);
        let metadata = fs::metadata(larder).map_err(failed)?;
        let path = fs::canonicalize(larder).map_err(failed)?;
        // Not every file system tells a birth; then the inode has to do.
        let birth = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let machine = match env.var(MACHINE_ID_VARIABLE) {
            Some(id) => id.to_owned(),
            None => fs::read_to_string(MACHINE_ID_FILE).unwrap_or_default(),
        };
        Ok(Fingerprint {
            birth: birth.map_or(NO_BIRTH.to_owned(), |since| since.as_nanos().to_string()),
            inode: metadata.ino().to_string(),
            machine: machine_hash(machine.trim()),
            path: Hash::of(path.as_os_str().as_encoded_bytes()),
        })
    }

    /// True if nobody who makes a folder elsewhere could have made it equal to this one: a moment's nanosecond and a machine's
    /// own id cannot be guessed.
    fn proves_place(&self) -> bool {
        self.birth != NO_BIRTH && !NO_MACHINES.iter().any(|id| self.machine == machine_hash(id))
    }

    fn is_same_folder(&self, now: &Fingerprint) -> bool {
        self.inode == now.inode && self.birth == now.birth
    }

    fn standing(&self, now: &Fingerprint) -> Standing {
        match (self.machine == now.machine, self.is_same_folder(now), self.path == now.path) {
            (false, _, _) => Standing::OtherMachine,
            (true, true, true) => Standing::Same,
            (true, true, false) => Standing::Moved,
            (true, false, true) => Standing::Restored,
            (true, false, false) => Standing::Copied,
        }
    }
}

fn machine_hash(id: &str) -> Hash {
    Hash::of(format!("larder machine {id}").as_bytes())
}

/// The user of this machine whom `larder` belongs to, if it is another one than who asks.
pub fn other_user(larder: &Path) -> Option<u32> {
    let owner_uid = fs::symlink_metadata(larder).ok()?.uid();
    (owner_uid != rustix::process::geteuid().as_raw()).then_some(owner_uid)
}

/// True if only the user who asks may look into a `.larder`. One that others may look into came with a checkout: whoever can have files
/// brought into it may have looked up what it stands in.
fn is_own_and_private(larder: &Path) -> bool {
    let is_private = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.mode() & 0o077 == 0);
    other_user(larder).is_none() && is_private(larder) && is_private(&larder.join(DEVICE_KEY_FILE))
}

/// How the folder relates to the one the identity was made in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The same; or made just now.
    Same,
    /// The same folder under another path, or another state folder of the user whose it is: harmless, `settle` notes it.
    Moved,
    /// Another folder at the same path: a restored backup.
    Restored,
    /// Another folder at another path: a clone.
    Copied,
    /// On another machine, or in a container.
    OtherMachine,
    /// This machine never made or settled this device key: it came with a folder from somebody else.
    Unknown,
}

/// An identity as it was found.
#[derive(Debug)]
pub struct Opened {
    /// Who.
    pub identity: Identity,
    /// Whether the folder is still the one it was made in.
    pub standing: Standing,
    /// True if there was none and it was made now.
    pub created: bool,
}

/// Who this install is.
#[derive(Clone, Debug)]
pub struct Identity {
    device_key: SigningKey,
    owner_key: PublicKey,
    fields: Fields,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fields {
    cert: Certificate,
    fingerprint: Fingerprint,
    generation: u32,
    key: PublicKey,
    kind: String,
    origin: OriginName,
    v: u32,
}

impl Identity {
    /// Opens the identity in `larder` (the project's `.larder` folder), or makes one if there is none.
    ///
    /// `owner` names the owner of a new one; the owner's key comes from `env.state_home`, made at first use.
    pub fn open(larder: &Path, env: &Env, owner: &str) -> Result<Opened, IdentityError> {
        Disk::default().create_folder(larder)?;
        if !Identity::is_in(larder)? {
            let identity = Identity::create(larder, env, owner)?;
            return Ok(Opened { identity, standing: Standing::Same, created: true });
        }
        let identity = Identity::load(larder)?;
        let standing = identity.standing(larder, env)?;
        Ok(Opened { identity, standing, created: false })
    }

    /// How the folder relates to the one this identity was made in. Writes nothing.
    pub fn standing(&self, larder: &Path, env: &Env) -> Result<Standing, IdentityError> {
        let now = Fingerprint::of(larder, env)?;
        let standing = self.fields.fingerprint.standing(&now);
        if is_known(env, self.public_key())? {
            return Ok(standing);
        }
        let is_same_folder = now.birth != NO_BIRTH && self.fields.fingerprint.is_same_folder(&now);
        Ok(match standing {
            // Made here by this user, whose state folder was another one then (another `HOME` or `XDG_STATE_HOME`).
            Standing::Same | Standing::Moved if now.proves_place() && is_own_and_private(larder) => Standing::Moved,
            // The very folder, as a container or another machine sees the disk on which it is.
            Standing::OtherMachine if is_same_folder => Standing::OtherMachine,
            _ => Standing::Unknown,
        })
    }

    /// True if a folder has an identity. What cannot be told is no "no": another one would take the place of the one that is there.
    pub fn is_in(larder: &Path) -> Result<bool, IdentityError> {
        let path = larder.join(ORIGIN_FILE);
        path.try_exists().map_err(io_error("look for", &path))
    }

    /// Makes a new identity, in place of one that may be there: a new origin name, a new key, generation 1.
    pub fn create(larder: &Path, env: &Env, owner: &str) -> Result<Identity, IdentityError> {
        Identity::make(larder, env, owner, None)
    }

    /// Goes on as an origin that there was already, in place of the identity that may be here: its name, a new key, and
    /// a generation above all that are known.
    ///
    /// The key is new, so that whoever still holds the old one cannot write the same chain.
    pub fn adopt(
        larder: &Path,
        env: &Env,
        owner: &str,
        origin: OriginName,
        generation: u32,
    ) -> Result<Identity, IdentityError> {
        Identity::make(larder, env, owner, Some((origin, generation)))
    }

    /// A new origin, or the next generation of one.
    fn make(
        larder: &Path,
        env: &Env,
        owner: &str,
        continued: Option<(OriginName, u32)>,
    ) -> Result<Identity, IdentityError> {
        let disk = Disk::default();
        disk.create_folder(larder)?;
        settle_left_key(larder)?;
        let owner_key = open_owner_key(env)?;
        let device_key = new_key(env);
        let key = PublicKey::of(&device_key);
        let (origin, generation) = match continued {
            Some(continued) => continued,
            None => (OriginName::from_host(&env.host, &env.random_base32(SUFFIX_CHARACTERS))?, 1),
        };
        let cert = Certificate::issue(&owner_key, owner, key, &origin);
        cert.private_space()?;
        let fingerprint = Fingerprint::of(larder, env)?;
        let fields = Fields { cert, fingerprint, generation, key, kind: "origin".to_owned(), origin, v: 1 };
        let identity = Identity { device_key, owner_key: fields.cert.key, fields };
        // The key first: a key without an origin is made anew, an origin without its key would be lost. And beside the key
        // that is there: until `origin.json` changes, that one is still needed.
        write_key(&larder.join(NEXT_KEY_FILE), &identity.device_key)?;
        remember(env, key)?;
        identity.save(larder)?;
        settle_key(larder)?;
        Ok(identity)
    }

    /// Reads an identity without asking where it came from.
    pub fn load(larder: &Path) -> Result<Identity, IdentityError> {
        let path = larder.join(ORIGIN_FILE);
        let wrong = |source| IdentityError::Form { path: path.clone(), source };
        let size = fs::metadata(&path).map_err(io_error("read", &path))?.len();
        if size > MAX_ORIGIN_FILE_BYTES {
            return Err(wrong(Damage::Bound { what: "its bytes", actual: size, limit: MAX_ORIGIN_FILE_BYTES }));
        }
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let fields: Fields = serde_json::from_slice(&bytes).map_err(|error| wrong(error.into()))?;
        if fields.v != 1 {
            return Err(wrong(Damage::Version { v: fields.v }));
        }
        if fields.kind != "origin" || fields.generation == 0 {
            return Err(wrong(Damage::Form("is no origin with a generation from 1")));
        }
        let chain = Chain { space: Space::shared(), origin: fields.origin.clone(), generation: fields.generation };
        fields.cert.check(fields.key, &chain).map_err(wrong)?;
        let key_path = larder.join(DEVICE_KEY_FILE);
        let is_it = |key: &SigningKey| PublicKey::of(key) == fields.key;
        let device_key = match read_key(&key_path) {
            Ok(key) if is_it(&key) => key,
            // Cut off between the two files: the key that `origin.json` names still waits beside the one before.
            found => match (read_key(&larder.join(NEXT_KEY_FILE)), found) {
                (Ok(next), _) if is_it(&next) => next,
                (_, Ok(_)) => return Err(IdentityError::OtherKey { path: key_path, origin: fields.origin }),
                (_, Err(error)) => return Err(error),
            },
        };
        Ok(Identity { device_key, owner_key: fields.cert.key, fields })
    }

    /// Declares this folder on this machine to be the identity's own from now on.
    pub fn settle(&mut self, larder: &Path, env: &Env) -> Result<(), IdentityError> {
        self.fields.fingerprint = Fingerprint::of(larder, env)?;
        remember(env, self.public_key())?;
        self.save(larder)
    }

    /// Starts the next generation of the chains with the same key; settles as well.
    pub fn next_generation(&mut self, larder: &Path, env: &Env) -> Result<(), IdentityError> {
        self.fields.generation += 1;
        self.settle(larder, env)
    }

    fn save(&self, larder: &Path) -> Result<(), IdentityError> {
        let bytes = serde_json::to_vec(&self.fields).expect("structs of strings and integers always serialise");
        write_durably(&larder.join(ORIGIN_FILE), &bytes)
    }

    /// The name that people see.
    pub fn origin(&self) -> &OriginName {
        &self.fields.origin
    }

    /// Which generation of its chains it writes.
    pub fn generation(&self) -> u32 {
        self.fields.generation
    }

    /// Its chain in a space.
    pub fn chain(&self, space: Space) -> Chain {
        Chain { space, origin: self.fields.origin.clone(), generation: self.fields.generation }
    }

    /// The device's public key.
    pub fn public_key(&self) -> PublicKey {
        self.fields.key
    }

    /// The owner's public key.
    pub fn owner_key(&self) -> PublicKey {
        self.owner_key
    }

    /// The owner's word for the device.
    pub fn certificate(&self) -> &Certificate {
        &self.fields.cert
    }

    /// The owner's private space.
    pub fn private_space(&self) -> Space {
        self.fields.cert.private_space().expect("checked when the identity was made or loaded")
    }

    /// The key by which devices are certified.
    #[cfg(test)]
    pub(crate) fn owner_signing_key(env: &Env) -> SigningKey {
        open_owner_key(env).expect("an owner's key")
    }

    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.device_key
    }
}

fn new_key(env: &Env) -> SigningKey {
    let mut seed = [0; 32];
    env.random.fill(&mut seed);
    SigningKey::from_bytes(&seed)
}

/// The owner's key of this machine, made at first use.
fn open_owner_key(env: &Env) -> Result<SigningKey, IdentityError> {
    let path = env.state_home.join(OWNER_KEY_FILE);
    match read_key(&path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    Disk::default().create_folder(&env.state_home)?;
    let key = new_key(env);
    // Two projects may start at once: whoever comes second takes the first one's key.
    match write_new_key(&path, &key) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => read_key(&path),
        written => written.map(|()| key),
    }
}

/// True if this user made that key on this machine.
fn is_known(env: &Env, key: PublicKey) -> Result<bool, IdentityError> {
    let path = env.state_home.join(DEVICES_FOLDER).join(key.to_string());
    path.try_exists().map_err(io_error("look for", &path))
}

fn remember(env: &Env, key: PublicKey) -> Result<(), IdentityError> {
    let folder = env.state_home.join(DEVICES_FOLDER);
    if is_known(env, key)? {
        return Ok(());
    }
    Disk::default().create_folder(&folder)?;
    write_durably(&folder.join(key.to_string()), b"")
}

/// A change of identity that was cut off left its key beside the one before: no other may take that name yet.
fn settle_left_key(larder: &Path) -> Result<(), IdentityError> {
    let Ok(identity) = Identity::load(larder) else { return Ok(()) };
    let key = read_key(&larder.join(DEVICE_KEY_FILE)).ok();
    let in_place = key.is_some_and(|key| PublicKey::of(&key) == identity.public_key());
    if in_place { Ok(()) } else { settle_key(larder) }
}

/// The key that `origin.json` names takes its place for good.
fn settle_key(larder: &Path) -> Result<(), IdentityError> {
    let (next, path) = (larder.join(NEXT_KEY_FILE), larder.join(DEVICE_KEY_FILE));
    fs::rename(&next, &path).map_err(io_error("rename", &next))?;
    sync_folder(larder)
}

fn key_text(key: &SigningKey) -> String {
    format!("{}\n", data_encoding::HEXLOWER.encode(&key.to_bytes()))
}

fn read_key(path: &Path) -> Result<SigningKey, IdentityError> {
    let text = fs::read_to_string(path).map_err(io_error("read", path))?;
    let bytes = data_encoding::HEXLOWER.decode(text.trim_end().as_bytes()).ok();
    let seed: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    seed.map(|seed| SigningKey::from_bytes(&seed)).ok_or_else(|| IdentityError::Key { path: path.to_owned() })
}

fn write_key(path: &Path, key: &SigningKey) -> Result<(), IdentityError> {
    write_durably(path, key_text(key).as_bytes())
}

/// Writes a key that must not be there yet, complete from its first appearance on.
fn write_new_key(path: &Path, key: &SigningKey) -> Result<(), IdentityError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let failed = |error| io_error("write", path)(error);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(key_text(key).as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    sync_folder(folder)
}

/// Replaces a small private file: complete or not at all, 0600.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let failed = |error| io_error("write", path)(error);
    // Made 0600 by the crate.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), IdentityError> {
    let options = fs::OpenOptions::new().read(true).custom_flags(0).open(folder);
    options.and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
}
