//! BLAKE3 hashes, one newtype for each thing that is named by one.
//!
//! Invariant: 32 bytes; the text form is 64 lower-case hex digits and nothing else parses.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of the text form.
const DIGITS: usize = 64;

/// Why a text is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse hash {text:?}: 64 lower-case hex digits are needed")]
pub struct HashError {
    /// The text as it came, cut at 80 characters.
    pub text: String,
}

/// A BLAKE3-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 bytes that already are a hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Hash {
        Hash(bytes)
    }

    /// Takes a blob as a database hands it out; `None` unless it has 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Hash> {
        bytes.try_into().ok().map(Hash)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first `digits` hex digits (at most 64), for people and for file names.
    pub fn short(&self, digits: usize) -> String {
        let mut text = self.to_string();
        text.truncate(digits);
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEXLOWER.encode_mut_str(&self.0, &mut [0; DIGITS]))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.short(12))
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Hash, HashError> {
        let mut bytes = [0; DIGITS / 2];
        let is_one = text.len() == DIGITS && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
        if is_one { Ok(Hash(bytes)) } else { Err(HashError { text: text.chars().take(80).collect() }) }
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HEXLOWER.encode_mut_str(&self.0, &mut [0; DIGITS]))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! hash_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Hash);

        impl $name {
            /// Hashes `bytes`.
            pub fn of(bytes: &[u8]) -> $name {
                $name(Hash::of(bytes))
            }

            /// Takes a blob as a database hands it out; `None` unless it has 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<$name> {
                Hash::from_slice(bytes).map($name)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = HashError;

            fn from_str(text: &str) -> Result<$name, HashError> {
                text.parse().map($name)
            }
        }
    };
}

hash_newtype! {
    /// Names a version: the hash of its canonical bytes.
    VersionId
}
hash_newtype! {
    /// Names the whole bytes of one file state. A content of one segment has that segment's hash.
    ContentHash
}
hash_newtype! {
    /// Names a span of a file's bytes, the unit of deduplication.
    SegmentHash
}
hash_newtype! {
    /// Names an artifact: packs by stored bytes, records by uncompressed bytes, checkpoints by file bytes.
    ArtifactHash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_one_hash() {
        let hash = Hash::of(b"larder");

        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
        assert_eq!(Hash::from_slice(hash.as_bytes()), Some(hash));
        assert_eq!(Hash::from_slice(&hash.as_bytes()[..31]), None);
    }

    #[test]
    fn nothing_but_64_lower_case_digits_parses() {
        let upper = Hash::of(b"x").to_string().to_uppercase();

        for text in ["", "ab", &upper, &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<Hash>().is_err(), "{text}");
        }
    }
}
