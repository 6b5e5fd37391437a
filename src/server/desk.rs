//! The desk: which devices a server lets in, and the code by which one more may come.
//!
//! Two small canonical files in a folder of its own (0700): `devices.json`, and `invite.json` while a code is open. Invariant: each
//! changes at one stroke and under a lock, so that commands work beside a running server; a try is counted before it is judged; a
//! code is good once, for minutes and few tries. A file that is damaged lets nobody in. Never in a store: whoever
//! may write to a store may not say who is let in.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::ledger::{Certificate, PublicKey};
use crate::model::{OriginName, canonical_bytes};
use crate::transport::http::pairing::{Code, CodeKey, PairRequest};

/// How long a code is good, in milliseconds.
pub const CODE_LIFETIME_MS: u64 = 10 * 60_000;
/// How often a code may be tried.
pub const CODE_TRIES: u32 = 5;
/// More devices are not let in.
pub const MAX_DEVICES: usize = 1_000;
/// A key is named by so many of its first digits at least.
const MIN_KEY_DIGITS: usize = 8;
const MAX_FILE_BYTES: u64 = 4 << 20;
const DEVICES: &str = "devices.json";
const INVITE: &str = "invite.json";
const SERVER: &str = "server.json";
const LOCK: &str = "lock";

/// One device that is let in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// When it was paired, in milliseconds since 1970.
    pub added_ms: u64,
    /// Its owner's word for it.
    pub cert: Certificate,
    /// Its key.
    pub key: PublicKey,
    /// Its name: a label.
    pub origin: OriginName,
}

impl Device {
    fn is_meant_by(&self, which: &str) -> bool {
        let by_key = which.len() >= MIN_KEY_DIGITS && self.key.to_string().starts_with(which);
        self.origin.as_str() == which || by_key
    }
}

/// What `devices.json` holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Devices {
    /// Those that are let in.
    pub devices: Vec<Device>,
    kind: String,
    /// Whose a private space is: its name holds too little of the owner's key to tell.
    pub owners: BTreeMap<String, PublicKey>,
    v: u32,
}

impl Default for Devices {
    fn default() -> Devices {
        Devices { devices: Vec::new(), kind: "devices".to_owned(), owners: BTreeMap::new(), v: 1 }
    }
}

#[derive(Serialize, Deserialize)]
struct Invite {
    expires_ms: u64,
    key: CodeKey,
    kind: String,
    tries_left: u32,
    v: u32,
}

impl Invite {
    fn is_open(&self, now_ms: u64) -> bool {
        // A clock that was set back must not keep a code alive for ever.
        let in_time = now_ms < self.expires_ms && self.expires_ms - now_ms <= CODE_LIFETIME_MS;
        in_time && self.tries_left > 0
    }
}

#[derive(Serialize, Deserialize)]
struct ServerNote {
    id: String,
    kind: String,
    v: u32,
}

/// What became of a try to be paired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tried {
    /// The device is let in from now on; the key is what the answer is proven with.
    Paired,
    /// Wrong, used, expired or no code: it is not told which.
    Refused,
    /// The code was right, and the device still cannot be let in.
    Impossible(&'static str),
}

/// The desk of one server.
#[derive(Clone, Debug)]
pub struct Desk {
    folder: PathBuf,
}

/// Changes whenever the list of devices does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u64, i64, i64, u64);

impl Desk {
    /// Opens the desk in `folder`, making it if need be.
    pub fn open(folder: &Path) -> io::Result<Desk> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Desk { folder: folder.to_owned() })
    }

    /// True if a server ever stood at the desk in this folder.
    pub fn is_of_server(folder: &Path) -> bool {
        folder.join(SERVER).exists()
    }

    /// True if the desk is there and another user's, whose server could not read what this one writes.
    pub fn is_of_other_user(folder: &Path) -> bool {
        std::fs::metadata(folder).is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's id: drawn once.
    pub fn server_id(&self, env: &Env) -> io::Result<String> {
        let _lock = self.lock()?;
        if let Some(note) = self.read::<ServerNote>(SERVER)? {
            return Ok(note.id);
        }
        let note = ServerNote { id: env.random_base32(52), kind: "server".to_owned(), v: 1 };
        self.write(SERVER, &note)?;
        Ok(note.id)
    }

    /// Who is let in.
    pub fn devices(&self) -> io::Result<Devices> {
        Ok(self.read::<Devices>(DEVICES)?.unwrap_or_default())
    }

    /// Which state of the list is on disk; `None` before there is one.
    pub fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::metadata(self.folder.join(DEVICES)).ok()?;
        Some(Stamp(found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    }

    /// Whether a code is open that nobody used yet: the next one takes its place.
    pub fn is_open(&self, now_ms: u64) -> io::Result<bool> {
        Ok(self.read::<Invite>(INVITE)?.is_some_and(|invite| invite.is_open(now_ms)))
    }

    /// Opens the door for one more device: the code is good once, in place of an earlier one.
    pub fn invite(&self, env: &Env) -> io::Result<Code> {
        let _lock = self.lock()?;
        let code = Code::draw(env);
        let expires_ms = env.clock.wall_ms().saturating_add(CODE_LIFETIME_MS);
        let kind = "invite".to_owned();
        self.write(INVITE, &Invite { expires_ms, key: code.key(), kind, tries_left: CODE_TRIES, v: 1 })?;
        Ok(code)
    }

    /// Judges a request to be paired. `line` are the lines that this server may be seen by. What the answer is made of
    /// comes with the outcome: the code's key and the line that the device saw.
    pub fn pair(
        &self,
        now_ms: u64,
        request: &PairRequest,
        lines: &[String],
    ) -> io::Result<(Tried, Option<(CodeKey, String)>)> {
        let _lock = self.lock()?;
        let Some(mut invite) = self.read::<Invite>(INVITE)? else { return Ok((Tried::Refused, None)) };
        if !invite.is_open(now_ms) {
            self.remove(INVITE)?;
            return Ok((Tried::Refused, None));
        }
        // Counted first: a server that is killed while it judges must not give a try away.
        invite.tries_left -= 1;
        self.write(INVITE, &invite)?;
        let proven = lines.iter().find(|line| request.proves(&invite.key, line));
        let Some(line) = proven else { return Ok((Tried::Refused, None)) };
        self.remove(INVITE)?;
        let tried = self.admit(now_ms, request)?;
        let proof = (tried == Tried::Paired).then(|| (invite.key, line.clone()));
        Ok((tried, proof))
    }

    fn admit(&self, now_ms: u64, request: &PairRequest) -> io::Result<Tried> {
        let Some(space) = request.cert.private_space().ok().filter(|_| request.is_certified()) else {
            return Ok(Tried::Impossible("its certificate is not in order"));
        };
        let mut devices = self.devices()?;
        let owner = devices.owners.entry(space.to_string()).or_insert(request.cert.key);
        if *owner != request.cert.key {
            return Ok(Tried::Impossible("another owner has that name and fingerprint here"));
        }
        devices.devices.retain(|device| device.key != request.key);
        if devices.devices.len() >= MAX_DEVICES {
            return Ok(Tried::Impossible("too many devices are let in: revoke some"));
        }
        let (cert, key, origin) = (request.cert.clone(), request.key, request.origin.clone());
        devices.devices.push(Device { added_ms: now_ms, cert, key, origin });
        self.write(DEVICES, &devices)?;
        Ok(Tried::Paired)
    }

    /// Says whose a private space is, before any device of that owner comes. Idempotent.
    pub fn set_owner(&self, space: &str, owner: PublicKey) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut devices = self.devices()?;
        if devices.owners.get(space) == Some(&owner) {
            return Ok(());
        }
        devices.owners.insert(space.to_owned(), owner);
        self.write(DEVICES, &devices)
    }

    /// Lets devices in no more: those of this name, or whose key begins so. Returns them.
    pub fn revoke(&self, which: &str) -> io::Result<Vec<Device>> {
        let _lock = self.lock()?;
        let mut devices = self.devices()?;
        let meant = |device: &Device| device.is_meant_by(which);
        let (gone, kept): (Vec<Device>, Vec<Device>) = devices.devices.into_iter().partition(meant);
        devices.devices = kept;
        if !gone.is_empty() {
            self.write(DEVICES, &devices)?;
        }
        Ok(gone)
    }

    /// The devices that `revoke` would let in no more.
    pub fn meant(&self, which: &str) -> io::Result<Vec<Device>> {
        Ok(self.devices()?.devices.into_iter().filter(|device| device.is_meant_by(which)).collect())
    }

    fn lock(&self) -> io::Result<File> {
        let file = File::options().write(true).create(true).truncate(false).open(self.folder.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> io::Result<Option<T>> {
        let path = self.folder.join(file);
        let opened = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        opened.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("read {}: {why}", path.display()));
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if value["v"].as_u64() != Some(1) {
            return Err(wrong("a newer release wrote it: upgrade larder".to_owned()));
        }
        serde_json::from_value(value).map(Some).map_err(|error| wrong(error.to_string()))
    }

    fn write(&self, file: &str, value: &impl Serialize) -> io::Result<()> {
        // Made 0600 by the crate.
        let mut staged = tempfile::NamedTempFile::new_in(&self.folder)?;
        staged.write_all(&canonical_bytes(value).map_err(io::Error::other)?)?;
        staged.as_file().sync_all()?;
        staged.persist(self.folder.join(file)).map_err(|error| error.error)?;
        File::open(&self.folder)?.sync_all()
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.folder)?.sync_all(),
        }
    }
}
