//! Names of artifacts and addresses inside them.
//!
//! Invariant: a name that parsed is `<chain>/<folder>/<file>`, each part of plain characters, so joining it to a folder
//! never leaves that folder; printing and parsing are inverse.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{ArtifactHash, Chain, Hash, MAX_JSON_INTEGER};

/// The folders of a chain, in lexicographic order.
pub(crate) const FOLDERS: [&str; 3] = ["checkpoints", "packs", "records"];
const MAX_NAME_BYTES: usize = 400;
const SEQ_DIGITS: usize = 16;

/// Why a text names no artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse artifact name {text:?}: `<space>/<origin>~<generation>/<folder>/<file>` is needed")]
pub struct NameError {
    /// The text as it came, cut at 120 characters.
    pub text: String,
}

/// The first 16 hex digits of a hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortHash(u64);

impl ShortHash {
    /// Shortens a hash.
    pub fn of(hash: &ArtifactHash) -> ShortHash {
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        ShortHash(u64::from_be_bytes(*first))
    }
}

impl fmt::Display for ShortHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ShortHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ShortHash {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ShortHash, NameError> {
        let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(digits) if plain => Ok(ShortHash(digits)),
            _ => Err(refuse(text)),
        }
    }
}

impl Serialize for ShortHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShortHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ShortHash, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The three kinds of artifacts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ArtifactKind {
    /// Signed and numbered.
    Checkpoint,
    /// Segments.
    Pack,
    /// Versions, manifests and other lines.
    Records,
}

/// Names one artifact: `<chain>/<folder>/<file>`. Ordered by chain, then kind, then number or hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArtifactName {
    /// `checkpoints/cp-<seq, 16 digits>-<16 hex digits of its hash>.json`
    Checkpoint {
        /// Whose.
        chain: Chain,
        /// From 1.
        seq: u64,
        /// Of the file's bytes.
        hash: ShortHash,
    },
    /// `packs/<hash of the stored bytes>.pack`
    Pack {
        /// Whose.
        chain: Chain,
        /// Of the stored bytes.
        hash: ArtifactHash,
    },
    /// `records/<hash of the uncompressed bytes>.ndjson.zst`
    Records {
        /// Whose.
        chain: Chain,
        /// Of the uncompressed bytes.
        hash: ArtifactHash,
    },
}

impl ArtifactName {
    /// The chain it belongs to.
    pub fn chain(&self) -> &Chain {
        match self {
            ArtifactName::Checkpoint { chain, .. }
            | ArtifactName::Pack { chain, .. }
            | ArtifactName::Records { chain, .. } => chain,
        }
    }

    /// The number of a checkpoint; 0 of anything else.
    pub fn seq(&self) -> u64 {
        match self {
            ArtifactName::Checkpoint { seq, .. } => *seq,
            ArtifactName::Pack { .. } | ArtifactName::Records { .. } => 0,
        }
    }

    /// The name as one file name: `!` for `/`.
    pub(super) fn flat(&self) -> String {
        self.to_string().replace('/', "!")
    }

    /// The name that a file name stands for, as `flat` made it.
    pub(super) fn from_flat(file: &str) -> Option<ArtifactName> {
        file.replace('!', "/").parse().ok()
    }

    /// Its kind.
    pub fn kind(&self) -> ArtifactKind {
        match self {
            ArtifactName::Checkpoint { .. } => ArtifactKind::Checkpoint,
            ArtifactName::Pack { .. } => ArtifactKind::Pack,
            ArtifactName::Records { .. } => ArtifactKind::Records,
        }
    }

    /// Its folder inside the chain's.
    pub fn folder(&self) -> &'static str {
        match self.kind() {
            ArtifactKind::Checkpoint => FOLDERS[0],
            ArtifactKind::Pack => FOLDERS[1],
            ArtifactKind::Records => FOLDERS[2],
        }
    }

    /// The file name alone.
    pub fn file(&self) -> String {
        match self {
            ArtifactName::Checkpoint { seq, hash, .. } => format!("cp-{seq:016}-{hash}.json"),
            ArtifactName::Pack { hash, .. } => format!("{hash}.pack"),
            ArtifactName::Records { hash, .. } => format!("{hash}.ndjson.zst"),
        }
    }

    /// Reads a file's name within `folder` of `chain`.
    pub(crate) fn from_file(chain: &Chain, folder: &str, file: &str) -> Result<ArtifactName, NameError> {
        let fail = || refuse(file);
        let chain = || chain.clone();
        match folder {
            "checkpoints" => {
                let rest = file.strip_prefix("cp-").and_then(|rest| rest.strip_suffix(".json")).ok_or_else(fail)?;
                let (seq, hash) = rest.split_once('-').ok_or_else(fail)?;
                Ok(ArtifactName::Checkpoint {
                    chain: chain(),
                    seq: parse_seq(seq).ok_or_else(fail)?,
                    hash: hash.parse()?,
                })
            }
            "packs" => {
                let hash: Hash = file.strip_suffix(".pack").and_then(|hash| hash.parse().ok()).ok_or_else(fail)?;
                Ok(ArtifactName::Pack { chain: chain(), hash: ArtifactHash(hash) })
            }
            "records" => {
                let hash: Hash =
                    file.strip_suffix(".ndjson.zst").and_then(|hash| hash.parse().ok()).ok_or_else(fail)?;
                Ok(ArtifactName::Records { chain: chain(), hash: ArtifactHash(hash) })
            }
            _ => Err(fail()),
        }
    }
}

fn parse_seq(text: &str) -> Option<u64> {
    let plain = text.len() == SEQ_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    let seq: u64 = text.parse().ok().filter(|_| plain)?;
    (1..=MAX_JSON_INTEGER).contains(&seq).then_some(seq)
}

fn refuse(text: &str) -> NameError {
    NameError { text: text.chars().take(120).collect() }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.chain(), self.folder(), self.file())
    }
}

impl fmt::Debug for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ArtifactName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ArtifactName, NameError> {
        if text.len() > MAX_NAME_BYTES {
            return Err(refuse(text));
        }
        let (rest, file) = text.rsplit_once('/').ok_or_else(|| refuse(text))?;
        let (chain, folder) = rest.rsplit_once('/').ok_or_else(|| refuse(text))?;
        let chain: Chain = chain.parse().map_err(|_| refuse(text))?;
        ArtifactName::from_file(&chain, folder, file).map_err(|_| refuse(text))
    }
}

impl Serialize for ArtifactName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArtifactName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ArtifactName, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One stored block of segments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockAddress {
    /// Byte offset in a pack; ordinal of the inline block in a checkpoint.
    pub offset: u64,
    /// Bytes as stored.
    pub stored_len: u32,
    /// Bytes after decompression; equal to `stored_len` exactly if the block is stored as it is.
    pub raw_len: u32,
}

/// Where a segment stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The artifact that holds it: a pack, or a checkpoint that carries it inline.
    pub artifact: ArtifactName,
    /// The block in the artifact.
    pub block: BlockAddress,
    /// Offset in the decompressed block.
    pub start: u32,
    /// Bytes.
    pub len: u32,
}
