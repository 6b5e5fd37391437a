//! The lines of a records artifact: versions, manifests, and what a newer release may add.
//!
//! Invariant: a line of an unknown kind, or of a known one in a newer version, is kept and counted, never refused; a known kind in a
//! wrong form is refused.

use serde::{Deserialize, Serialize};

use super::{
    Hash, Hlc, ManifestDelta, ManifestError, OriginName, RelPath, SegmentHash, Version, VersionError, VersionId,
    canonical, require_canonical,
};

/// Longest line accepted, in bytes.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not a JSON object with a `kind` and a `v`.
    #[error("read record: {0}")]
    Json(#[from] serde_json::Error),
    /// A version in a wrong form.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A manifest in a wrong form.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Longer than any line may be.
    #[error("read record: {bytes} bytes are more than {MAX_LINE_BYTES}")]
    TooLong {
        /// Bytes of the line.
        bytes: usize,
    },
}

/// Names the artifact of another chain that holds segments this chain's versions need and did not store again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Uses {
    /// The artifact's name as in `docs/format.md`: `<chain>/<folder>/<file>`.
    pub artifact: String,
    kind: UsesKind,
    /// The segments in it.
    pub segments: Vec<SegmentHash>,
    v: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UsesKind {
    Uses,
}

impl Uses {
    /// Builds the record.
    pub fn new(artifact: String, segments: Vec<SegmentHash>) -> Uses {
        Uses { artifact, kind: UsesKind::Uses, segments, v: 1 }
    }
}

/// A fact about versions that is no version: an event that supersedes those in its `prev`.
///
/// `deletes` names tombstones that a person approved in its value, a list of version ids; `members` says of an owner's key that
/// its devices may write, or may not any more; `purge` names versions whose contents go; `star` marks a path. Fields of other kinds are kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MetaEvent {
    /// What is set.
    pub field: String,
    /// When, among heads.
    pub hlc: Hlc,
    kind: MetaKind,
    /// The hashes of the events it supersedes, sorted.
    pub prev: Vec<Hash>,
    /// What it is about: a path, a version, or the chain's name.
    pub target: String,
    v: u32,
    /// The value; its form depends on the field.
    pub value: serde_json::Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MetaKind {
    Meta,
}

/// The field of an event that approves deletions.
pub const APPROVED_DELETES: &str = "deletes";
/// The field of an event that says that an origin is gone for good.
pub const RETIRED: &str = "retire";
/// The field of an event about who may write.
pub const MEMBERS: &str = "members";
/// The field of an event that lets the contents of versions go at once.
pub const PURGED: &str = "purge";
/// The field of an event that marks a path, or takes the mark away.
pub const STARRED: &str = "star";
/// Longest name of an owner that is kept, in bytes.
pub const MAX_OWNER_BYTES: usize = 200;

/// What an event says about who may write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The owner's key, 32 bytes; what counts.
    pub key: Hash,
    /// What the owner is called: a label.
    pub owner: String,
    /// True if the owner is let in, false if taken out.
    pub admits: bool,
}

/// What an event says about the star of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StarWord {
    /// Which path of the event's space.
    pub path: RelPath,
    /// Whose archive file alone is meant; `None` for all that stands there.
    pub origin: Option<OriginName>,
    /// True if it has the star from now on.
    pub is_on: bool,
}

/// Most events that one about a star may supersede.
pub const MAX_STAR_PREV: usize = 1_000;
/// Most deletions one event may approve.
pub const MAX_APPROVED: usize = 1_000_000;
/// Most versions one event may purge.
pub const MAX_PURGED: usize = 100_000;

impl MetaEvent {
    /// Approves deletions by the ids of their tombstones.
    pub fn approve_deletes(chain: String, hlc: Hlc, tombstones: &[VersionId]) -> MetaEvent {
        let ids: Vec<serde_json::Value> = tombstones.iter().map(|id| id.to_string().into()).collect();
        let (field, kind) = (APPROVED_DELETES.to_owned(), MetaKind::Meta);
        MetaEvent { field, hlc, kind, prev: Vec::new(), target: chain, v: 1, value: ids.into() }
    }

    /// Says that an origin is gone for good: what it has not seen holds nothing back, until it publishes again.
    pub fn retire(origin: &OriginName, hlc: Hlc) -> MetaEvent {
        let (field, kind, target) = (RETIRED.to_owned(), MetaKind::Meta, origin.to_string());
        MetaEvent { field, hlc, kind, prev: Vec::new(), target, v: 1, value: true.into() }
    }

    /// Lets the contents of versions go at once, wherever the word of this chain's origin or owner counts. `chain` is the one it stands in.
    pub fn purge(chain: String, hlc: Hlc, versions: &[VersionId]) -> MetaEvent {
        let mut ids: Vec<String> = versions.iter().map(VersionId::to_string).collect();
        ids.sort_unstable();
        let (field, kind) = (PURGED.to_owned(), MetaKind::Meta);
        MetaEvent { field, hlc, kind, prev: Vec::new(), target: chain, v: 1, value: ids.into() }
    }

    /// The versions whose contents this event lets go; empty for every other event.
    pub fn purged_versions(&self) -> Vec<VersionId> {
        self.version_ids(PURGED, MAX_PURGED)
    }

    fn version_ids(&self, field: &str, limit: usize) -> Vec<VersionId> {
        let values = self.value.as_array().filter(|_| self.field == field);
        let texts = values.into_iter().flatten().take(limit).filter_map(serde_json::Value::as_str);
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    /// The origin that this event retires; `None` for every other event.
    pub fn retired_origin(&self) -> Option<OriginName> {
        let says = self.field == RETIRED && self.value == serde_json::Value::Bool(true);
        self.target.parse().ok().filter(|_| says)
    }

    /// Says who may write, or may not any more; `prev` are the events about the same key that it supersedes, sorted.
    pub fn membership(word: &Membership, hlc: Hlc, prev: Vec<Hash>) -> MetaEvent {
        let what = if word.admits { "admit" } else { "remove" };
        let value = serde_json::json!({ "owner": word.owner, "what": what });
        let (field, kind) = (MEMBERS.to_owned(), MetaKind::Meta);
        MetaEvent { field, hlc, kind, prev, target: word.key.to_string(), v: 1, value }
    }

    /// What it says about who may write; `None` for every other event, and for what is no key or no known word.
    pub fn as_membership(&self) -> Option<Membership> {
        let value = self.value.as_object().filter(|_| self.field == MEMBERS)?;
        let admits = match value.get("what")?.as_str()? {
            "admit" => true,
            "remove" => false,
            _ => return None,
        };
        let owner = value.get("owner").and_then(serde_json::Value::as_str).unwrap_or_default();
        let owner = if owner.len() <= MAX_OWNER_BYTES { owner.to_owned() } else { String::new() };
        Some(Membership { key: self.target.parse().ok()?, owner, admits })
    }

    /// Marks a path, or takes the mark away; `prev` are the events about the same star that it supersedes.
    pub fn star(word: &StarWord, hlc: Hlc, mut prev: Vec<Hash>) -> MetaEvent {
        let mut value = serde_json::json!({ "on": word.is_on });
        if let Some(origin) = &word.origin {
            value["origin"] = origin.as_str().into();
        }
        prev.sort_unstable();
        prev.truncate(MAX_STAR_PREV);
        let (field, kind) = (STARRED.to_owned(), MetaKind::Meta);
        MetaEvent { field, hlc, kind, prev, target: word.path.as_str().to_owned(), v: 1, value }
    }

    /// What it says about a star; `None` for every other event, and for what names no path or no machine.
    pub fn as_star(&self) -> Option<StarWord> {
        let value = self.value.as_object().filter(|_| self.field == STARRED)?;
        let is_on = value.get("on")?.as_bool()?;
        let origin = match value.get("origin") {
            None => None,
            Some(origin) => Some(origin.as_str()?.parse().ok()?),
        };
        let is_bounded = self.prev.len() <= MAX_STAR_PREV;
        let path = RelPath::parse(&self.target).ok().filter(|path| is_bounded && path.as_str() == self.target)?;
        Some(StarWord { path, origin, is_on })
    }

    /// Its canonical line, without a line end.
    pub fn to_line(&self) -> Vec<u8> {
        canonical::sorted_struct_bytes(self)
    }

    /// The hash of its line, by which others supersede it.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_line())
    }

    /// The tombstones that this event approves; empty for every other event.
    pub fn approved_deletes(&self) -> Vec<VersionId> {
        self.version_ids(APPROVED_DELETES, MAX_APPROVED)
    }
}

/// What stands before and behind a version of a closed chain in the line that carries it.
const CARRIED: (&[u8], &[u8]) = (b"{\"kind\":\"carried\",\"v\":1,\"version\":", b"}");

/// One line, understood.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// The state of a path.
    Version(VersionId, Box<Version>),
    /// A version of an earlier generation of the chain's origin, whose own chain does not say it any more.
    Carried(VersionId, Box<Version>),
    /// The segments of a content.
    Manifest(ManifestDelta),
    /// Where segments of another chain stand.
    Uses(Uses),
    /// A fact that is no version.
    Meta(MetaEvent),
    /// A kind, or a version of one, that this release does not know, kept as it is.
    Unknown {
        /// Its `kind`.
        kind: String,
    },
}

/// The version of every kind that this release knows.
const KNOWN_V: u64 = 1;

#[derive(Deserialize)]
struct KindOnly<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    v: u64,
}

impl Record {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Record, RecordError> {
        if line.len() > MAX_LINE_BYTES + CARRIED.0.len() + CARRIED.1.len() {
            return Err(RecordError::TooLong { bytes: line.len() });
        }
        let KindOnly { kind, v } = serde_json::from_slice(line)?;
        if v > KNOWN_V {
            return Ok(Record::Unknown { kind: kind.into_owned() });
        }
        match &*kind {
            "version" => Version::parse(line).map(|(id, v)| Record::Version(id, Box::new(v))).map_err(Into::into),
            "carried" => match carried(line) {
                Some(line) => Version::parse(line).map(|(id, v)| Record::Carried(id, Box::new(v))).map_err(Into::into),
                None => Ok(Record::Unknown { kind: kind.into_owned() }),
            },
            "manifest" => Ok(Record::Manifest(ManifestDelta::parse(line)?)),
            "uses" => Ok(Record::Uses(serde_json::from_slice(line)?)),
            "meta" => {
                require_canonical(line).map_err(VersionError::from)?;
                Ok(Record::Meta(serde_json::from_slice(line)?))
            }
            other => Ok(Record::Unknown { kind: other.to_owned() }),
        }
    }
}

/// The version's line in the line that carries it.
fn carried(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(CARRIED.0)?.strip_suffix(CARRIED.1)
}

impl Record {
    /// The line that says in a later generation's chain what `line` says in its own.
    pub fn carry(&self, line: &[u8]) -> Vec<u8> {
        match self {
            Record::Version(..) => [CARRIED.0, line, CARRIED.1].concat(),
            _ => line.to_vec(),
        }
    }
}

/// A record on its way out.
#[derive(Clone, Debug)]
pub enum RecordLine {
    /// The state of a path.
    Version(Box<Version>),
    /// The segments of a content.
    Manifest(ManifestDelta),
    /// Where segments of another chain stand.
    Uses(Uses),
    /// A fact that is no version.
    Meta(MetaEvent),
}

impl RecordLine {
    /// The canonical line, without a line end.
    pub fn to_line(&self) -> Vec<u8> {
        match self {
            RecordLine::Version(version) => version.to_line().1,
            RecordLine::Manifest(manifest) => manifest.to_line(),
            RecordLine::Uses(uses) => canonical::sorted_struct_bytes(uses),
            RecordLine::Meta(meta) => canonical::sorted_struct_bytes(meta),
        }
    }
}
