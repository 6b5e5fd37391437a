//! A version: the immutable state of one path, and the canonical bytes that name it.
//!
//! Invariant: `Version::parse(line)` accepts exactly the canonical form; the id is the hash of the line as it came, so
//! fields of a newer release survive. A stored vector leaves out the version's own lane, which the dot implies.

use serde::{Deserialize, Serialize};

use super::{
    CanonicalError, Channel, ContentHash, Dot, Hlc, MAX_JSON_INTEGER, RelPath, Vector, VersionId, canonical,
    require_canonical,
};

const MAX_PARENTS: usize = 1_000;
const MAX_VECTOR_LANES: usize = 100_000;
const MAX_VIA_BYTES: usize = 200;

/// Why a line is no version.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// Not JSON, a field of the wrong type, or a field missing.
    #[error("read version: {0}")]
    Json(#[from] serde_json::Error),
    /// Valid JSON in another form than the canonical one.
    #[error("read version: {0}")]
    Canonical(#[from] CanonicalError),
    /// The fields contradict each other or pass a bound.
    #[error("read version of {path}: {why}")]
    Invalid {
        /// The path, escaped for people.
        path: String,
        /// Which rule is broken.
        why: &'static str,
    },
}

/// Why a tombstone was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// A person or a program removed the file.
    User,
    /// It was put into the trash.
    Trash,
    /// It lives on under another path.
    Move,
}

/// What kind of thing a content is written as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ContentKind {
    /// A regular file.
    File {
        /// The executable bit.
        exec: bool,
    },
    /// A symbolic link; the content is its target.
    Link,
}

/// The bytes of a path and how they stand on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Content {
    /// Names the bytes.
    pub hash: ContentHash,
    /// Bytes.
    pub size: u64,
    /// File or link.
    pub kind: ContentKind,
}

/// What a version says about its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// The path holds this.
    Content(Content),
    /// The path is deleted.
    Tombstone {
        /// Why.
        reason: Reason,
        /// Where it went, for `Reason::Move`.
        moved_to: Option<RelPath>,
    },
}

/// The immutable state of one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// Ids of the versions this one was made from, sorted; a version at a new path may name the old path's.
    pub parents: Vec<VersionId>,
    /// Its place in its chain.
    pub dot: Dot,
    /// The join of the parents' vectors, without the own lane.
    pub vector: Vector,
    /// When, for what is truly concurrent.
    pub hlc: Hlc,
    /// The HLC of its path's first version.
    pub born: Hlc,
    /// Which pattern list admitted it.
    pub channel: Channel,
    /// Where.
    pub path: RelPath,
    /// Content or tombstone.
    pub state: State,
    /// Where it came from, for a rename.
    pub moved_from: Option<RelPath>,
    /// Who told us, if not the file system: `backend:<name>`.
    pub via: Option<String>,
    /// Found at first contact; sorts below every concurrent head that was not.
    pub adopted: bool,
}

impl Version {
    /// The content, unless it is a tombstone.
    pub fn content(&self) -> Option<Content> {
        match &self.state {
            State::Content(content) => Some(*content),
            State::Tombstone { .. } => None,
        }
    }

    /// The whole vector: the stored one and the own dot.
    pub fn full_vector(&self) -> Vector {
        let mut vector = self.vector.clone();
        vector.insert(&self.dot);
        vector
    }

    /// True if `self` descends from (or is) the version at `dot`.
    pub fn descends_from(&self, dot: &Dot) -> bool {
        self.vector.covers(dot) || (self.dot.lane == dot.lane && dot.n <= self.dot.n)
    }

    /// The canonical line, without a line end, and its hash.
    pub fn to_line(&self) -> (VersionId, Vec<u8>) {
        let line = canonical::sorted_struct_bytes(&Fields::from(self));
        (VersionId::of(&line), line)
    }

    /// Reads one line of a records artifact.
    pub fn parse(line: &[u8]) -> Result<(VersionId, Version), VersionError> {
        let fields: Fields = serde_json::from_slice(line)?;
        let known_form = canonical::sorted_struct_bytes(&fields);
        if known_form != line {
            require_canonical(line)?;
        }
        let version = fields.into_version()?;
        Ok((VersionId::of(line), version))
    }
}

/// The JSON form. Fields stand in the order of RFC 8785, so serialising the struct gives canonical bytes.
#[derive(Serialize, Deserialize)]
struct Fields {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    adopted: bool,
    born: Hlc,
    channel: Channel,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<ContentHash>,
    dot: Dot,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    exec: bool,
    hlc: Hlc,
    kind: VersionKind,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    link: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_from: Option<RelPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_to: Option<RelPath>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parents: Vec<VersionId>,
    path: RelPath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    v: u32,
    #[serde(default, skip_serializing_if = "Vector::is_empty")]
    vector: Vector,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum VersionKind {
    Version,
}

impl From<&Version> for Fields {
    fn from(version: &Version) -> Fields {
        let content = version.content();
        let (reason, moved_to) = match &version.state {
            State::Content(_) => (None, None),
            State::Tombstone { reason, moved_to } => (Some(*reason), moved_to.clone()),
        };
        Fields {
            adopted: version.adopted,
            born: version.born,
            channel: version.channel,
            content: content.map(|c| c.hash),
            dot: version.dot.clone(),
            exec: content.is_some_and(|c| c.kind == ContentKind::File { exec: true }),
            hlc: version.hlc,
            kind: VersionKind::Version,
            link: content.is_some_and(|c| c.kind == ContentKind::Link),
            moved_from: version.moved_from.clone(),
            moved_to,
            parents: version.parents.clone(),
            path: version.path.clone(),
            reason,
            size: content.map(|c| c.size),
            v: 1,
            vector: version.vector.clone(),
            via: version.via.clone(),
        }
    }
}

impl Fields {
    fn into_version(self) -> Result<Version, VersionError> {
        if let Some(why) = self.broken_rule() {
            return Err(VersionError::Invalid { path: self.path.shown(), why });
        }
        let state = match (self.content, self.size, self.reason) {
            (Some(hash), Some(size), None) => {
                let kind = if self.link { ContentKind::Link } else { ContentKind::File { exec: self.exec } };
                State::Content(Content { hash, size, kind })
            }
            (None, None, Some(reason)) => State::Tombstone { reason, moved_to: self.moved_to },
            _ => {
                let why = "needs either content and size, or a reason";
                return Err(VersionError::Invalid { path: self.path.shown(), why });
            }
        };
        Ok(Version {
            parents: self.parents,
            dot: self.dot,
            vector: self.vector,
            hlc: self.hlc,
            born: self.born,
            channel: self.channel,
            path: self.path,
            state,
            moved_from: self.moved_from,
            via: self.via,
            adopted: self.adopted,
        })
    }

    fn broken_rule(&self) -> Option<&'static str> {
        let sorted = self.parents.windows(2).all(|pair| pair[0] < pair[1]);
        let rules = [
            (self.v == 1, "is of a format version this release does not know; upgrade larder"),
            (sorted, "parents must be sorted and distinct"),
            (self.parents.len() <= MAX_PARENTS, "has more than 1000 parents"),
            (self.vector.len() <= MAX_VECTOR_LANES, "has a vector of more than 100000 lanes"),
            (self.vector.get(&self.dot.lane).is_none(), "a stored vector leaves out its own lane"),
            (self.born <= self.hlc, "born after its own clock value"),
            (self.size.is_none_or(|size| size <= MAX_JSON_INTEGER), "size passes 2^53"),
            (self.via.as_ref().is_none_or(|via| via.len() <= MAX_VIA_BYTES), "via is longer than 200 bytes"),
            (!(self.link && self.exec), "a link has no executable bit"),
            (self.content.is_some() || !(self.link || self.exec), "a tombstone has no file kind"),
            (self.content.is_none() || self.moved_to.is_none(), "only a tombstone moves to a path"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, why)| *why)
    }
}
