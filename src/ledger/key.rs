//! Public keys, signatures and the certificate by which an owner vouches for a device.
//!
//! Invariant: a certificate that verified binds exactly one device key and origin name to one owner key. Which owners
//! are trusted is decided elsewhere.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::Damage;
use crate::model::{Chain, ChainError, Hash, OriginName, Space};

const MAX_OWNER_BYTES: usize = 200;

/// An Ed25519 public key; 64 hex digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(Hash);

impl PublicKey {
    /// The public half of a signing key.
    pub fn of(key: &SigningKey) -> PublicKey {
        PublicKey(Hash::from_bytes(key.verifying_key().to_bytes()))
    }

    /// Takes the 32 bytes of one, whatever they are worth.
    pub const fn from_bytes(bytes: [u8; 32]) -> PublicKey {
        PublicKey(Hash::from_bytes(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The first 8 hex digits of the key's hash, as private spaces carry it.
    pub fn fingerprint(&self) -> String {
        Hash::of(self.as_bytes()).short(8)
    }

    /// True if `signature` is this key's over `message`; weak keys and malleable signatures are refused.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        VerifyingKey::from_bytes(self.as_bytes()).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An Ed25519 signature; 128 lower-case hex digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Signs a message.
    pub fn make(key: &SigningKey, message: &[u8]) -> Signature {
        Signature(key.sign(message).to_bytes())
    }

    /// Takes the 64 bytes of one, whatever they are worth.
    pub const fn from_bytes(bytes: [u8; 64]) -> Signature {
        Signature(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Signature).ok_or_else(|| serde::de::Error::custom("a signature has 128 lower-case hex digits"))
    }
}

/// An owner's word that a device is theirs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// The owner's key.
    pub key: PublicKey,
    /// The owner's name: a label, never compared for trust.
    pub owner: String,
    /// Over the device key, the origin name and the owner's name.
    pub signature: Signature,
}

#[derive(Serialize)]
struct Statement<'a> {
    key: PublicKey,
    kind: &'static str,
    origin: &'a OriginName,
    owner: &'a str,
    v: u32,
}

fn statement(device: PublicKey, origin: &OriginName, owner: &str) -> Vec<u8> {
    let statement = Statement { key: device, kind: "certificate", origin, owner, v: 1 };
    serde_json::to_vec(&statement).expect("strings and integers always serialise")
}

impl Certificate {
    /// Certifies a device.
    pub fn issue(owner_key: &SigningKey, owner: &str, device: PublicKey, origin: &OriginName) -> Certificate {
        let signature = Signature::make(owner_key, &statement(device, origin, owner));
        Certificate { key: PublicKey::of(owner_key), owner: owner.to_owned(), signature }
    }

    /// The owner's private space.
    pub fn private_space(&self) -> Result<Space, ChainError> {
        Space::private(&self.owner, &self.key.fingerprint())
    }

    /// Checks that the owner certifies `device` to write `chain`; a private chain must be in the owner's own space.
    pub fn check(&self, device: PublicKey, chain: &Chain) -> Result<(), Damage> {
        if self.owner.len() > MAX_OWNER_BYTES {
            return Err(Damage::Certificate { why: "has a name of more than 200 bytes" });
        }
        if !self.key.verifies(&statement(device, &chain.origin, &self.owner), &self.signature) {
            return Err(Damage::Certificate { why: "is not signed by the owner for this device and origin" });
        }
        if !chain.space.is_shared() && self.private_space()? != chain.space {
            return Err(Damage::Certificate { why: "is another owner's than the private space's" });
        }
        Ok(())
    }
}
