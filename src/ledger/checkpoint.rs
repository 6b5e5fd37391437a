//! Checkpoints: the signed, numbered links of a chain.
//!
//! Invariant: a `Checkpoint` that exists was verified alone: its bytes hash to its name, are canonical, name the chain and
//! number of their name, and are signed by the device key that the owner certified. Whether it follows its predecessor
//! is `ChainCursor`'s question; whether the owner is trusted is asked elsewhere.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize, Serializer};

use super::block::{self};
use super::closed::Closed;
use super::cursor::Tip;
use super::error::Damage;
use super::key::{Certificate, PublicKey, Signature};
use super::name::{ArtifactName, BlockAddress, Place, ShortHash};
use crate::model::{ArtifactHash, Chain, Hlc, MAX_JSON_INTEGER, SegmentHash, SegmentRef, require_canonical};

/// A writer keeps a checkpoint with inline content below this.
pub const INLINE_BYTES: usize = 256 << 10;
/// No checkpoint is longer; snapshots list artifacts and may pass the inline bound.
pub const MAX_CHECKPOINT_BYTES: u64 = 16 << 20;
const MAX_APP_BYTES: usize = 200;

/// A records artifact: its hash and the bytes of its lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordsRef(pub ArtifactHash, pub u64);

/// A pack: its hash and its stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackRef(pub ArtifactHash, pub u64);

/// An artifact in a snapshot's list: hash, bytes as in `RecordsRef` or `PackRef`, and how often it was merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed(pub ArtifactHash, pub u64, pub u32);

/// What a member holds of a chain: the number and the short hash of its highest verified checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen(pub u64, pub ShortHash);

/// Records and segments that stand in the checkpoint itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Inline {
    /// Blocks of segments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<InlineBlock>,
    /// The lines of a records artifact.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub records: String,
}

impl Inline {
    /// The stored bytes of the `ordinal`th block, from 0.
    pub(crate) fn stored_block(&self, ordinal: u64) -> Result<Vec<u8>, Damage> {
        let block = usize::try_from(ordinal).ok().and_then(|ordinal| self.blocks.get(ordinal));
        block.ok_or(Damage::Form("has no such block"))?.stored()
    }

    /// The block at an address; unverified, see `slice_segment`.
    pub fn block(&self, address: &BlockAddress) -> Result<Vec<u8>, Damage> {
        block::decode(self.stored_block(address.offset)?, address)
    }
}

/// A block of segments as text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InlineBlock {
    /// Base64 of the stored bytes.
    pub data: String,
    /// What it holds, in order.
    pub segments: Vec<SegmentRef>,
}

impl InlineBlock {
    fn raw_len(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.1)).sum()
    }

    pub(crate) fn stored(&self) -> Result<Vec<u8>, Damage> {
        let decoded = data_encoding::BASE64.decode(self.data.as_bytes());
        decoded.map_err(|_| Damage::Form("an inline block is not base64"))
    }

    /// Its address if it is the `ordinal`th block of its checkpoint, from 0.
    fn address(&self, ordinal: usize) -> Result<BlockAddress, Damage> {
        let stored_len = data_encoding::BASE64.decode_len(self.data.len()).unwrap_or(0);
        let padding = self.data.bytes().rev().take(2).filter(|byte| *byte == b'=').count();
        let stored_len = stored_len.saturating_sub(padding) as u64;
        block::check_lengths(stored_len, self.raw_len())?;
        Ok(BlockAddress { offset: ordinal as u64, stored_len: stored_len as u32, raw_len: self.raw_len() as u32 })
    }
}

/// What a snapshot lists: where everything of its chain up to it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Chains of earlier generations whose beginnings this chain says instead of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<Closed>,
    /// Contents that are gone for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<crate::model::ContentHash>,
    /// Checkpoints below this number need not be kept.
    pub floor: u64,
    /// Every pack with segments that were not dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<Listed>,
    /// The snapshot before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ArtifactHash>,
    /// Every records artifact with lines that were not dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Listed>,
    /// The checkpoints after the snapshot before, in order; listing one proves it and keeps nothing alive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<ArtifactHash>,
}

/// The fields of a checkpoint, declared in canonical order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointBody {
    /// The project.
    pub app: String,
    /// The owner's word for the device.
    pub cert: Certificate,
    /// Whose link this is.
    pub chain: Chain,
    /// When it was written, for people.
    pub hlc: Hlc,
    /// What stands in the checkpoint itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Inline>,
    /// The device's key.
    pub key: PublicKey,
    pub(crate) kind: CheckpointKind,
    /// The number of the chain's last version so far.
    pub last_n: u64,
    /// Packs that came with this checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<PackRef>,
    /// The checkpoint before; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<ArtifactHash>,
    /// Records artifacts that came with this checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordsRef>,
    /// What changed since the last one in what the writer holds of other chains.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", serialize_with = "in_text_order")]
    pub seen: BTreeMap<Chain, Seen>,
    /// Counts from 1 without gaps.
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<Signature>,
    /// Present in a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    pub(crate) v: u32,
    /// How many versions came with this checkpoint.
    pub versions: u64,
}

/// Canonical keys stand in the order of their text, which for chains is not that of their parts (`a-b~1` before `a~1`).
fn in_text_order<S: Serializer>(seen: &BTreeMap<Chain, Seen>, serializer: S) -> Result<S::Ok, S::Error> {
    let by_text: BTreeMap<String, &Seen> = seen.iter().map(|(chain, seen)| (chain.to_string(), seen)).collect();
    by_text.serialize(serializer)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckpointKind {
    Checkpoint,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
}

impl CheckpointBody {
    fn to_bytes(&self) -> Vec<u8> {
        // The fields of every struct above are declared in the order of RFC 8785; the tests compare.
        serde_json::to_vec(self).expect("structs of strings, integers and lists always serialise")
    }

    /// Signs and serialises.
    pub(crate) fn sign(mut self, key: &SigningKey) -> (CheckpointBody, Vec<u8>) {
        self.signature = None;
        self.signature = Some(Signature::make(key, &self.to_bytes()));
        let bytes = self.to_bytes();
        (self, bytes)
    }

    /// The bytes that are signed: the canonical form without the signature, unknown fields included.
    fn signed_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, Damage> {
        let canonical = self.to_bytes();
        if canonical == bytes {
            return Ok(self.without_signature(canonical));
        }
        require_canonical(bytes)?;
        let mut value: serde_json::Value = serde_json::from_slice(bytes)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("signature");
        }
        Ok(crate::model::canonical_bytes(&value)?)
    }

    /// Cuts the signature out of this body's own canonical bytes. Quotes within texts are escaped, and the certificates in it have
    /// signatures of their own: one over bytes that hold it cannot be made.
    fn without_signature(&self, mut canonical: Vec<u8>) -> Vec<u8> {
        let Some(signature) = &self.signature else { return canonical };
        let member = format!(",\"signature\":{}", serde_json::json!(signature));
        let at = str::from_utf8(&canonical).ok().and_then(|text| text.rfind(&member));
        let at = at.expect("what was written into these bytes stands in them");
        canonical.drain(at..at + member.len());
        canonical
    }

    fn check_rules(&self) -> Result<(), Damage> {
        let first = self.seq == 1;
        let highest = [self.seq, self.last_n, self.versions].into_iter().max().unwrap_or(0);
        let rules = [
            (self.prev.is_none() == first, "names a predecessor exactly unless it is the first"),
            (self.versions <= self.last_n, "counts more versions than its chain has"),
            (highest <= MAX_JSON_INTEGER, "has a number that passes 2^53"),
            (self.app.len() <= MAX_APP_BYTES, "has an app of more than 200 bytes"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Damage::Form(why)),
            None => Ok(()),
        }
    }
}

/// A verified checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Its name.
    pub name: ArtifactName,
    /// The hash of its bytes.
    pub hash: ArtifactHash,
    /// Its size.
    pub bytes: u64,
    /// What it says.
    pub body: CheckpointBody,
}

impl Checkpoint {
    /// Reads and verifies `bytes` as the checkpoint called `name`.
    pub fn parse(name: &ArtifactName, bytes: &[u8]) -> Result<Checkpoint, Damage> {
        let checkpoint = Checkpoint::reread(name, bytes)?;
        let body = &checkpoint.body;
        let signed = body.signed_bytes(bytes)?;
        let valid = body.signature.is_some_and(|signature| body.key.verifies(&signed, &signature));
        if !valid {
            return Err(Damage::Signature { key: body.key.to_string() });
        }
        body.cert.check(body.key, &body.chain)?;
        Ok(checkpoint)
    }

    /// As `parse`, of one that was verified before it was stored: its hash proves that it is still the same.
    pub fn reread(name: &ArtifactName, bytes: &[u8]) -> Result<Checkpoint, Damage> {
        let ArtifactName::Checkpoint { chain, seq, hash: short } = name else {
            return Err(Damage::OtherName { what: "kind" });
        };
        let size = bytes.len() as u64;
        if size > MAX_CHECKPOINT_BYTES {
            return Err(Damage::Bound { what: "a checkpoint's bytes", actual: size, limit: MAX_CHECKPOINT_BYTES });
        }
        let hash = ArtifactHash::of(bytes);
        if ShortHash::of(&hash) != *short {
            return Err(Damage::Hash { expected: short.to_string(), actual: hash.0 });
        }
        let Head { v } = serde_json::from_slice(bytes)?;
        if v != 1 {
            return Err(Damage::Version { v });
        }
        let body: CheckpointBody = serde_json::from_slice(bytes)?;
        if body.chain != *chain || body.seq != *seq {
            return Err(Damage::OtherName { what: "chain or number" });
        }
        body.check_rules()?;
        Ok(Checkpoint { name: name.clone(), hash, bytes: size, body })
    }

    /// Where the chain stands after this checkpoint.
    pub fn tip(&self) -> Tip {
        Tip { seq: self.body.seq, hash: self.hash, last_n: self.body.last_n }
    }

    /// The name of the checkpoint before this one; `None` for the first.
    pub fn predecessor(&self) -> Option<ArtifactName> {
        let (seq, hash) = (self.body.seq.checked_sub(1)?, ShortHash::of(&self.body.prev?));
        Some(ArtifactName::Checkpoint { chain: self.body.chain.clone(), seq, hash })
    }

    /// The inline segments with their places.
    pub fn inline_places(&self) -> Result<Vec<(SegmentHash, Place)>, Damage> {
        let blocks = self.body.inline.iter().flat_map(|inline| &inline.blocks);
        let mut places = Vec::new();
        for (ordinal, inline) in blocks.enumerate() {
            let block = inline.address(ordinal)?;
            let mut start = 0;
            for SegmentRef(hash, len) in &inline.segments {
                places.push((*hash, Place { artifact: self.name.clone(), block, start, len: *len }));
                start += len;
            }
        }
        Ok(places)
    }

    /// The names of the packs and records artifacts that came with it.
    pub fn artifacts(&self) -> impl Iterator<Item = ArtifactName> {
        let chain = &self.body.chain;
        let packs = self.body.packs.iter().map(|pack| ArtifactName::Pack { chain: chain.clone(), hash: pack.0 });
        let records = &self.body.records;
        packs.chain(records.iter().map(|r| ArtifactName::Records { chain: chain.clone(), hash: r.0 }))
    }

    /// The names of the packs and records artifacts that a snapshot lists.
    pub fn listed(&self) -> impl Iterator<Item = ArtifactName> {
        let chain = &self.body.chain;
        self.body.snapshot.iter().flat_map(move |snapshot| {
            let packs = snapshot.packs.iter().map(|pack| ArtifactName::Pack { chain: chain.clone(), hash: pack.0 });
            let records = &snapshot.records;
            packs.chain(records.iter().map(|r| ArtifactName::Records { chain: chain.clone(), hash: r.0 }))
        })
    }
}
