//! Who wrote what, in which order: origins, spaces, chains, lanes, dots.
//!
//! Invariant: a parsed name is safe as a single folder name on every system Larder runs on
//! (`[a-z0-9-]`, never empty, bounded), because chains become folders in every store.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MAX_ORIGIN_BYTES: usize = 64;
const MAX_SPACE_BYTES: usize = 96;

/// Why a text is no origin, space, chain or lane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse {what} {text:?}: {needed}")]
pub struct ChainError {
    /// What was being read.
    pub what: &'static str,
    /// The text as it came, cut at 120 characters.
    pub text: String,
    /// What would have been accepted.
    pub needed: &'static str,
}

fn refuse(what: &'static str, text: &str, needed: &'static str) -> ChainError {
    ChainError { what, text: text.chars().take(120).collect(), needed }
}

fn is_label(text: &str, max_bytes: usize) -> bool {
    let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    !text.is_empty() && text.len() <= max_bytes && plain && !text.starts_with('-')
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// One install in one project on one machine, as shown to people: `<host>-<6 base32>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OriginName(Arc<str>);

impl OriginName {
    /// Builds a name from a host name of any form and six characters of randomness.
    ///
    /// Anything but `a-z0-9-` in the host becomes `-`; an empty host becomes `host`.
    pub fn from_host(host: &str, suffix: &str) -> Result<OriginName, ChainError> {
        let plain: String = host
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(40)
            .collect();
        let plain = plain.trim_matches('-');
        let host = if plain.is_empty() { "host" } else { plain };
        format!("{host}-{suffix}").parse()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OriginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OriginName {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<OriginName, ChainError> {
        if is_label(text, MAX_ORIGIN_BYTES) {
            Ok(OriginName(text.into()))
        } else {
            Err(refuse("origin", text, "1 to 64 characters of a-z, 0-9 and -"))
        }
    }
}
text_serde!(OriginName);

/// The unit that is exchanged, queried and encrypted: `shared`, or `u-<owner>-<8 of the key's fingerprint>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Space(Arc<str>);

impl Space {
    /// The space of the shared and archive channels.
    pub fn shared() -> Space {
        Space("shared".into())
    }

    /// The private space of one owner. `fingerprint` are 8 hex digits of the owner key's hash.
    pub fn private(owner: &str, fingerprint: &str) -> Result<Space, ChainError> {
        let plain: String = owner
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(64)
            .collect();
        format!("u-{plain}-{fingerprint}").parse()
    }

    /// True for the shared space.
    pub fn is_shared(&self) -> bool {
        &*self.0 == "shared"
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Space {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<Space, ChainError> {
        let private = text.starts_with("u-") && is_label(text, MAX_SPACE_BYTES);
        if text == "shared" || private {
            Ok(Space(text.into()))
        } else {
            Err(refuse("space", text, "`shared` or `u-<owner>-<8 hex digits>`"))
        }
    }
}
text_serde!(Space);

/// The numbered, signed checkpoints of one origin in one space. Text: `<space>/<origin>~<generation>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Chain {
    /// The space it belongs to.
    pub space: Space,
    /// Who writes it.
    pub origin: OriginName,
    /// 1 at first; adopting, restoring or forking starts the next.
    pub generation: u32,
}

impl Chain {
    /// The folder of this chain inside its space: `<origin>~<generation>`.
    pub fn folder(&self) -> String {
        format!("{}~{}", self.origin, self.generation)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}~{}", self.space, self.origin, self.generation)
    }
}

impl FromStr for Chain {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<Chain, ChainError> {
        let needed = "`<space>/<origin>~<generation>`";
        let (space, rest) = text.split_once('/').ok_or_else(|| refuse("chain", text, needed))?;
        let (origin, generation) = split_generation(rest).ok_or_else(|| refuse("chain", text, needed))?;
        Ok(Chain { space: space.parse()?, origin: origin.parse()?, generation })
    }
}
text_serde!(Chain);

fn split_generation(text: &str) -> Option<(&str, u32)> {
    let (origin, generation) = text.split_once('~')?;
    let plain =
        !generation.is_empty() && !generation.starts_with('0') && generation.bytes().all(|b| b.is_ascii_digit());
    if plain { Some((origin, generation.parse().ok()?)) } else { None }
}

/// A line of versions of one path by one origin, named by the number of its first version.
/// Text: `<origin>~<generation>/<first>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane {
    /// Who writes it.
    pub origin: OriginName,
    /// The chain's generation.
    pub generation: u32,
    /// The number of the lane's first version in its chain, from 1.
    pub first: u64,
}

impl Lane {
    /// True if it is a lane of this chain, the space aside.
    pub fn is_of(&self, chain: &Chain) -> bool {
        self.origin == chain.origin && self.generation == chain.generation
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}/{}", self.origin, self.generation, self.first)
    }
}

impl FromStr for Lane {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<Lane, ChainError> {
        let fail = || refuse("lane", text, "`<origin>~<generation>/<number>`");
        let (chain, first) = text.rsplit_once('/').ok_or_else(fail)?;
        let (origin, generation) = split_generation(chain).ok_or_else(fail)?;
        let first: u64 = first.parse().map_err(|_| fail())?;
        if first == 0 || first > super::MAX_JSON_INTEGER {
            return Err(fail());
        }
        Ok(Lane { origin: origin.parse()?, generation, first })
    }
}
text_serde!(Lane);

/// The place of one version: its lane, and `n`, its number among all versions of its chain, from 1.
///
/// JSON: `[origin, generation, first, n]` with `first <= n`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dot {
    /// The lane it extends or opens.
    pub lane: Lane,
    /// Counts all versions of the chain, from 1.
    pub n: u64,
}

impl Serialize for Dot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.lane.origin, self.lane.generation, self.lane.first, self.n).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Dot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dot, D::Error> {
        let (origin, generation, first, n) = <(OriginName, u32, u64, u64)>::deserialize(deserializer)?;
        let valid = generation >= 1 && 1 <= first && first <= n && n <= super::MAX_JSON_INTEGER;
        if !valid {
            return Err(serde::de::Error::custom("a dot needs 1 <= generation and 1 <= first <= n < 2^53"));
        }
        Ok(Dot { lane: Lane { origin, generation, first }, n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_do_not_parse() {
        for text in ["", "..", "a/b", "A-1", "a~1", "-a", "a b", "a.b", &"a".repeat(65)] {
            assert!(text.parse::<OriginName>().is_err(), "{text}");
        }
        for text in ["shared/a~0", "shared/a~01", "shared/a~-1", "other/a~1", "shared/a", "shared/../a~1"] {
            assert!(text.parse::<Chain>().is_err(), "{text}");
        }
    }

    #[test]
    fn any_host_name_gives_an_origin() {
        for (host, expected) in [("Büro PC.local", "b-ro-pc-local-abc234"), ("", "host-abc234"), ("---", "host-abc234")]
        {
            assert_eq!(OriginName::from_host(host, "abc234").map(|o| o.to_string()), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn text_forms_round_trip() {
        let chain: Chain = "u-anna-0123abcd/laptop-abc234~3".parse().expect("a chain");
        let lane: Lane = "laptop-abc234~3/17".parse().expect("a lane");

        assert_eq!(chain.to_string(), "u-anna-0123abcd/laptop-abc234~3");
        assert_eq!(chain.generation, 3);
        assert_eq!(lane.to_string(), "laptop-abc234~3/17");
    }
}
