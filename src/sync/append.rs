//! The append rule: a line file edited on several sides holds the common part and the lines of every side, once each.
//!
//! Invariant: commutative in its heads and a pure function of the versions between them and their newest common ancestor.
//! A version that does not extend its parents is a rewrite: then nothing is merged.

use std::collections::{BTreeMap, BTreeSet};

use super::resolve::{Appended, Graph, Outcome};
use crate::index::Stored;
use crate::model::{Content, ContentKind, VersionId};

/// Versions looked at between the heads and their common ancestor.
const MAX_VERSIONS: usize = 20_000;
/// Versions looked at for a common ancestor alone.
const MAX_LOOKED_BACK: usize = 2_000;
/// Bytes of tails held in memory during one merge.
const MAX_TAIL_BYTES: u64 = 64 << 20;

/// What came of a merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Everybody's lines are in it.
    Clean(Outcome),
    /// Not mergeable by this rule.
    NotClean,
    /// Needs bytes or versions that are not here yet.
    Pending(&'static str),
}

/// Why a merge stopped.
enum Stop {
    NotClean,
    Pending(&'static str),
}

/// Merges concurrent heads of one line file.
pub fn merge(heads: &[&Stored], graph: &dyn Graph) -> Merge {
    match try_merge(heads, graph) {
        Ok(outcome) => Merge::Clean(outcome),
        Err(Stop::NotClean) => Merge::NotClean,
        Err(Stop::Pending(why)) => Merge::Pending(why),
    }
}

fn try_merge(heads: &[&Stored], graph: &dyn Graph) -> Result<Outcome, Stop> {
    let between = Between::of(heads, graph, MAX_VERSIONS)?;
    let Some(ancestor) = &between.ancestor else {
        return longest_if_prefixes(heads, graph);
    };
    let base = file_content(ancestor)?;
    let mut tails = Tails { base, between: &between, graph, whole: BTreeMap::new(), own: BTreeMap::new(), bytes: 0 };
    for stored in &between.in_order {
        tails.add(stored)?;
    }
    let ids: BTreeSet<VersionId> = between.in_order.iter().map(|stored| stored.id).collect();
    let tail = tails.joined(&ids);
    let exec = merged_exec(heads, base);
    Ok(Outcome::Appended(Appended { base: Some(base), tail, kind: ContentKind::File { exec } }))
}

/// The newest version of the path that all of these heads descend from; `None` if there is none, it is further back than
/// is looked, or what lies between is not here.
pub fn common_ancestor(heads: &[&Stored], graph: &dyn Graph) -> Option<Stored> {
    Between::of(heads, graph, MAX_LOOKED_BACK).ok()?.ancestor
}

/// Exec bits merge three-way: the bit that somebody changed since the ancestor.
fn merged_exec(heads: &[&Stored], base: Content) -> bool {
    let was = base.kind == ContentKind::File { exec: true };
    let changed = heads.iter().filter_map(|head| head.version.content()).any(|content| content.kind != base.kind);
    was != changed
}

/// The content of a version that must be a regular file.
fn file_content(stored: &Stored) -> Result<Content, Stop> {
    match stored.version.content() {
        Some(content) if content.kind != ContentKind::Link => Ok(content),
        _ => Err(Stop::NotClean),
    }
}

/// Without an ancestor (first contact): the longest wins if every other one is its prefix.
fn longest_if_prefixes(heads: &[&Stored], graph: &dyn Graph) -> Result<Outcome, Stop> {
    let mut contents = heads.iter().map(|head| file_content(head)).collect::<Result<Vec<_>, _>>()?;
    contents.sort_by_key(|content| (content.size, content.hash));
    let Some((longest, shorter)) = contents.split_last() else { return Err(Stop::NotClean) };
    for content in shorter {
        let needed = content.size;
        if needed > MAX_TAIL_BYTES {
            return Err(Stop::NotClean);
        }
        if content.size == longest.size && content.hash != longest.hash {
            return Err(Stop::NotClean);
        }
        let missing = || {
            let gone = graph.is_gone(longest);
            if gone { Stop::NotClean } else { Stop::Pending("waits for bytes of another machine's copy") }
        };
        let prefix = graph.bytes(longest, 0, needed).ok_or_else(missing)?;
        let hash = crate::model::ContentHash::of(&prefix);
        if hash != content.hash {
            return Err(Stop::NotClean);
        }
    }
    Ok(Outcome::Content(*longest))
}

/// The versions between some heads and their newest common ancestor, oldest first.
struct Between {
    ancestor: Option<Stored>,
    in_order: Vec<Stored>,
}

impl Between {
    /// Walks back from the heads, newest first. A child's clock is above its parents', so a version that every head reaches
    /// while no other one is open is the newest that all the versions before it in this walk descend from.
    fn of(heads: &[&Stored], graph: &dyn Graph, max_versions: usize) -> Result<Between, Stop> {
        let all = (1u64 << heads.len().min(63)) - 1;
        let mut open: BTreeMap<(u64, VersionId), (Stored, u64)> = BTreeMap::new();
        for (i, head) in heads.iter().enumerate() {
            let reached = 1u64 << i.min(62);
            let entry = open.entry((head.version.hlc.as_u64(), head.id)).or_insert_with(|| ((*head).clone(), 0));
            entry.1 |= reached;
        }
        let mut popped = Vec::new();
        while let Some((_, (stored, reached))) = open.pop_last() {
            if reached == all && open.is_empty() && heads.len() > 1 {
                popped.reverse();
                return Ok(Between { ancestor: Some(stored), in_order: popped });
            }
            if popped.len() >= max_versions {
                return Err(Stop::NotClean);
            }
            for parent in &stored.version.parents {
                let parent = graph.version(parent).ok_or(Stop::Pending("waits for an earlier version"))?;
                if parent.version.path != stored.version.path {
                    continue;
                }
                let key = (parent.version.hlc.as_u64(), parent.id);
                open.entry(key).or_insert_with(|| (parent, 0)).1 |= reached;
            }
            popped.push(stored);
        }
        popped.reverse();
        Ok(Between { ancestor: None, in_order: popped })
    }

    /// Every version between that `of` descends from, itself included.
    fn closure(&self, of: &[VersionId]) -> BTreeSet<VersionId> {
        let mut reached: BTreeSet<VersionId> = of.iter().copied().collect();
        for stored in self.in_order.iter().rev() {
            if reached.contains(&stored.id) {
                reached.extend(stored.version.parents.iter().copied());
            }
        }
        self.in_order.iter().map(|stored| stored.id).filter(|id| reached.contains(id)).collect()
    }
}

/// What each version added.
struct Tails<'a> {
    base: Content,
    between: &'a Between,
    graph: &'a dyn Graph,
    whole: BTreeMap<VersionId, Vec<u8>>,
    own: BTreeMap<VersionId, Vec<u8>>,
    bytes: u64,
}

impl Tails<'_> {
    /// Finds what one version added to what its parents make together; refuses a rewrite.
    fn add(&mut self, stored: &Stored) -> Result<(), Stop> {
        let content = file_content(stored)?;
        let added = content.size.checked_sub(self.base.size).ok_or(Stop::NotClean)?;
        self.bytes += added;
        if self.bytes > MAX_TAIL_BYTES {
            return Err(Stop::NotClean);
        }
        let whole = self.graph.bytes(&content, self.base.size, added).ok_or_else(|| self.missing(&content))?;
        let inside: Vec<VersionId> = stored.version.parents.clone();
        let before = self.joined(&self.between.closure(&inside).into_iter().filter(|id| *id != stored.id).collect());
        let own = whole.strip_prefix(before.as_slice()).ok_or(Stop::NotClean)?.to_vec();
        let kept = self.graph.share_prefix(&self.base, &content, self.base.size);
        if !kept.ok_or_else(|| self.missing(&content))? {
            return Err(Stop::NotClean);
        }
        self.own.insert(stored.id, own);
        self.whole.insert(stored.id, whole);
        Ok(())
    }

    /// What is gone makes a merge unclean; what is only missing is waited for.
    fn missing(&self, content: &Content) -> Stop {
        if self.graph.is_gone(content) || self.graph.is_gone(&self.base) {
            return Stop::NotClean;
        }
        Stop::Pending("waits for bytes of a concurrent edit")
    }

    /// The tails of some versions in causal, then clock order; equal tails once.
    fn joined(&self, ids: &BTreeSet<VersionId>) -> Vec<u8> {
        let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
        let mut joined = Vec::new();
        for stored in &self.between.in_order {
            let Some(own) = self.own.get(&stored.id).filter(|_| ids.contains(&stored.id)) else { continue };
            if !own.is_empty() && seen.insert(own) {
                joined.extend_from_slice(own);
            }
        }
        joined
    }
}
