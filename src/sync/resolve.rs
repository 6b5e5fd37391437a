//! Resolve: from the heads of one path to what everybody shows, writes and mirrors.
//!
//! Invariant: a pure function of the heads and of the versions and bytes they name: the same on every machine, whatever
//! its clock says, in whatever order they arrived. A merge is computed here and never published. It decides nothing about
//! disks: what cannot be placed is the planner's business.

use super::append;
use crate::chunk;
use crate::index::Stored;
use crate::model::{Content, ContentKind, VersionId};

/// The version of the merge rules. Two releases that differ show it in `status` and meet at the next edit.
pub const MERGER_VERSION: u32 = 2;
/// Heads of a line file that are merged with each other: a merge looks at all of them again, so what comes beyond begins anew.
const MAX_MERGED_HEADS: usize = 64;

/// What resolving may ask for beyond the heads themselves.
pub trait Graph {
    /// A version by its id; `None` if it is not here.
    fn version(&self, id: &VersionId) -> Option<Stored>;
    /// `len` bytes of a content from `offset`; `None` if they are not here.
    fn bytes(&self, content: &Content, offset: u64, len: u64) -> Option<Vec<u8>>;
    /// True if the first `len` bytes of both are the same; `None` if that cannot be told yet.
    fn share_prefix(&self, a: &Content, b: &Content, len: u64) -> Option<bool>;

    /// True if bytes of a content that are not here are gone for good, so that nobody waits for them.
    fn is_gone(&self, content: &Content) -> bool {
        let _ = content;
        false
    }
}

/// What a path resolves to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nobody knows the path.
    Unknown,
    /// It is deleted.
    Absent,
    /// It holds the content of one version.
    Content(Content),
    /// It holds an earlier content, the lines added since on every side, and the bit that somebody set or took away.
    Appended(Appended),
    /// Bytes that the decision needs are not here yet; the disk stays as it is.
    Pending(&'static str),
}

/// A merge that is no version's content: of a line file, or (then without a tail) of bytes and an executable bit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The common ancestor's content; `None` if nothing stood before.
    pub base: Option<Content>,
    /// What follows it.
    pub tail: Vec<u8>,
    /// Kind of the result.
    pub kind: ContentKind,
}

impl Appended {
    /// Bytes of the whole.
    pub fn size(&self) -> u64 {
        self.base.map_or(0, |base| base.size) + self.tail.len() as u64
    }
}

/// The result for one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// The versions that were resolved into the outcome, sorted; a base remembers them.
    pub versions: Vec<VersionId>,
    /// What the path holds.
    pub outcome: Outcome,
    /// The head that decided: its clock value and origin are shown.
    pub winner: Option<Stored>,
    /// Heads whose content lost and stays listed until a version descends from both.
    pub losers: Vec<Stored>,
}

impl Resolution {
    /// True if somebody should look: two edits could not both be kept in one file.
    pub fn is_conflict(&self) -> bool {
        !self.losers.is_empty()
    }
}

/// Resolves the heads of one path. Given any order of heads, the result is the same.
pub fn resolve(heads: &[Stored], graph: &dyn Graph) -> Resolution {
    let mut contents: Vec<&Stored> = heads.iter().filter(|head| head.version.content().is_some()).collect();
    contents.sort_by_key(|head| rank(head));
    let tombstones = heads.iter().filter(|head| head.version.content().is_none());
    let mut versions: Vec<VersionId> = tombstones.clone().map(|head| head.id).collect();

    let Some((top, lower)) = contents.split_last() else {
        let winner = tombstones.max_by_key(|head| rank(head)).cloned();
        let outcome = if winner.is_some() { Outcome::Absent } else { Outcome::Unknown };
        versions.sort_unstable();
        return Resolution { versions, outcome, winner, losers: Vec::new() };
    };
    let bits = if lower.is_empty() { None } else { BitChange::of(&contents, graph) };
    let in_bytes = |head: &&&Stored| bits.as_ref().is_none_or(|bits| bits.heads.iter().all(|bit| bit.id != head.id));
    let folded: Vec<&Stored> = contents.iter().filter(in_bytes).copied().collect();
    let mut fold = Fold { members: vec![folded[0]], outcome: outcome_of(folded[0]), losers: Vec::new() };
    for head in &folded[1..] {
        fold.step(head, graph);
    }
    if let Some(bits) = bits {
        fold.outcome = bits.applied_to(fold.outcome, &contents);
        fold.members.extend(bits.heads);
    }
    versions.extend(fold.members.iter().map(|head| head.id));
    versions.sort_unstable();
    versions.dedup();
    let losers = fold.losers.into_iter().cloned().collect();
    Resolution { versions, outcome: fold.outcome, winner: Some((*top).clone()), losers }
}

/// The order of concurrent heads: adopted ones lowest, then the clock, then the id.
fn rank(head: &Stored) -> (bool, u64, VersionId) {
    (!head.version.adopted, head.version.hlc.as_u64(), head.id)
}

fn outcome_of(head: &Stored) -> Outcome {
    head.version.content().map_or(Outcome::Absent, Outcome::Content)
}

/// The state of a fold from the lowest head upward.
struct Fold<'a> {
    members: Vec<&'a Stored>,
    outcome: Outcome,
    losers: Vec<&'a Stored>,
}

impl<'a> Fold<'a> {
    /// Takes the next higher head in: unites, merges, or lets it win.
    fn step(&mut self, head: &'a Stored, graph: &dyn Graph) {
        let equal = self.outcome == outcome_of(head);
        if equal {
            self.members.push(head);
            return;
        }
        match self.merged_with(head, graph) {
            append::Merge::Clean(outcome) => {
                self.members.push(head);
                self.outcome = outcome;
            }
            append::Merge::Pending(why) => {
                self.members.push(head);
                self.outcome = Outcome::Pending(why);
            }
            append::Merge::NotClean => {
                self.losers.append(&mut self.members);
                self.members = vec![head];
                self.outcome = outcome_of(head);
            }
        }
    }

    fn merged_with(&self, head: &'a Stored, graph: &dyn Graph) -> append::Merge {
        if let Some(outcome) = self.same_bytes(head, graph) {
            return append::Merge::Clean(outcome);
        }
        if !chunk::is_line_file(&head.version.path) || self.members.len() >= MAX_MERGED_HEADS {
            return append::Merge::NotClean;
        }
        let mut heads = self.members.clone();
        heads.push(head);
        append::merge(&heads, graph)
    }

    /// The same bytes with and without the bit: the side that changed it since their ancestor has it its way.
    fn same_bytes(&self, head: &'a Stored, graph: &dyn Graph) -> Option<Outcome> {
        let (Outcome::Content(ours), Some(theirs)) = (&self.outcome, head.version.content()) else { return None };
        let are_files = matches!((ours.kind, theirs.kind), (ContentKind::File { .. }, ContentKind::File { .. }));
        if ours.hash != theirs.hash || !are_files {
            return None;
        }
        let mut heads = self.members.clone();
        heads.push(head);
        let exec = !exec_of(&append::common_ancestor(&heads, graph)?.version.content()?)?;
        Some(Outcome::Content(Content { kind: ContentKind::File { exec }, ..theirs }))
    }
}

/// Heads that changed nothing but the executable bit since the newest version that all heads descend from. They stand
/// beside any change of the bytes, so they take no part in the fold and are never in conflict.
struct BitChange<'a> {
    heads: Vec<&'a Stored>,
    exec: bool,
}

impl<'a> BitChange<'a> {
    /// `None` if there are none, or nothing else.
    fn of(contents: &[&'a Stored], graph: &dyn Graph) -> Option<BitChange<'a>> {
        let base = append::common_ancestor(contents, graph)?.version.content()?;
        let was = exec_of(&base)?;
        let mut heads = Vec::new();
        for head in contents {
            let content = head.version.content()?;
            if exec_of(&content)? != was && content.hash == base.hash {
                heads.push(*head);
            }
        }
        let some = !heads.is_empty() && heads.len() < contents.len();
        some.then_some(BitChange { heads, exec: !was })
    }

    /// The outcome of the other heads with the bit as it was changed. What no head holds is a merge, never a version.
    fn applied_to(&self, outcome: Outcome, contents: &[&Stored]) -> Outcome {
        let kind = ContentKind::File { exec: self.exec };
        match outcome {
            Outcome::Content(content) => {
                let changed = Content { kind, ..content };
                if contents.iter().any(|head| head.version.content() == Some(changed)) {
                    Outcome::Content(changed)
                } else {
                    Outcome::Appended(Appended { base: Some(content), tail: Vec::new(), kind })
                }
            }
            Outcome::Appended(appended) => Outcome::Appended(Appended { kind, ..appended }),
            other => other,
        }
    }
}

/// The executable bit; `None` for a link.
fn exec_of(content: &Content) -> Option<bool> {
    match content.kind {
        ContentKind::File { exec } => Some(exec),
        ContentKind::Link => None,
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
