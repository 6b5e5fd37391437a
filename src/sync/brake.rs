//! The brake: an unusual number of deletions waits for a person.
//!
//! Invariant: it holds back files and rows only; heads, index and view are what the artifacts say. A held path that gets
//! content from elsewhere takes it. Moves are not counted. What is counted stands in the ledger, so a restart forgets
//! nothing, and sender and receivers count the same.

use std::collections::{BTreeMap, BTreeSet};

use super::materialise::Step;
use super::resolve::{Outcome, Resolution};
use super::{Engine, Result};
use crate::index::{Deletion, Span, Stored};
use crate::model::{Chain, Hlc, Reason, RelPath, Space, State as VersionState, VersionId};

/// Fewer deletions than this never wait.
const FEW_DELETIONS: u64 = 25;
/// Above this share of the live files (of the space or a top folder) they wait, in percent.
const SHARE_PERCENT: u64 = 20;
/// Deletions are counted together within this time, in milliseconds of the clock of who made them.
const WINDOW_MS: u64 = 10 * 60_000;

/// Changed paths from which on every held deletion is looked at, instead of those of these paths.
const MANY_PATHS: usize = 1_000;

/// One deletion as the brake counts it.
struct Event {
    id: VersionId,
    path: RelPath,
    hlc: Hlc,
    /// The path is no longer among the live ones.
    gone: bool,
}

impl Engine {
    /// True if a resolution is a deletion that waits.
    pub(super) fn is_held(&self, resolution: &Resolution) -> Result<bool> {
        match (&resolution.outcome, &resolution.winner) {
            (Outcome::Absent, Some(winner)) => Ok(self.state.is_held(&winner.id)?),
            _ => Ok(false),
        }
    }

    /// Holds removals back if they are too many at once.
    pub(super) fn apply_brake(&mut self, removals: &[Step], dry_run: bool) -> Result<()> {
        if dry_run {
            return Ok(());
        }
        let deletions: Vec<(RelPath, Stored)> = removals
            .iter()
            .filter(|step| step.has_base())
            .filter_map(|step| step.winner().map(|winner| (step.path().clone(), winner.clone())))
            .collect();
        self.hold_if_many(&deletions)
    }

    /// Holds deletions if, with those that the same origin made shortly before or after, they pass the bound for the space
    /// or for their top folder. What was counted in an earlier run counts again: the tombstones themselves say when.
    pub(super) fn hold_if_many(&mut self, deletions: &[(RelPath, Stored)]) -> Result<()> {
        let mut by_chain: BTreeMap<Chain, Vec<&(RelPath, Stored)>> = BTreeMap::new();
        for one in deletions.iter().filter(|(_, stored)| is_counted(stored)) {
            let lane = &one.1.version.dot.lane;
            let space = self.space_of(one.1.version.channel);
            let chain = Chain { space, origin: lane.origin.clone(), generation: lane.generation };
            by_chain.entry(chain).or_default().push(one);
        }
        for (chain, new) in by_chain {
            self.hold_of_chain(&chain, &new)?;
        }
        Ok(())
    }

    fn hold_of_chain(&mut self, chain: &Chain, new: &[&(RelPath, Stored)]) -> Result<()> {
        let events = self.events(chain, new)?;
        if events.len() as u64 <= FEW_DELETIONS {
            return Ok(());
        }
        let tops = new.iter().filter_map(|(path, _)| Some(path.as_str().split_once('/')?.0));
        let scopes: BTreeSet<&str> = tops.chain([""]).collect();
        let private = chain.space == self.private_space;
        let mut held = BTreeSet::new();
        for scope in scopes {
            let live = self.state.count_live(private, Some(scope).filter(|scope| !scope.is_empty()))?;
            let inside = |event: &&Event| scope.is_empty() || top_of(&event.path) == Some(scope);
            held.extend(too_many(&events.iter().filter(inside).collect::<Vec<_>>(), live));
        }
        let now = self.now_ms() as i64;
        for (path, stored) in new.iter().filter(|(_, stored)| held.contains(&stored.id)) {
            if !self.index.is_approved(&stored.id)? {
                self.state.hold(&stored.id, path, &chain.origin.to_string(), now)?;
            }
        }
        Ok(())
    }

    /// The new deletions and those of the same chain within a window of them that nobody approved, oldest first.
    fn events(&self, chain: &Chain, new: &[&(RelPath, Stored)]) -> Result<Vec<Event>> {
        let times = || new.iter().map(|(_, stored)| stored.version.hlc.wall_ms());
        let numbers = new.iter().map(|(_, stored)| stored.version.dot.n);
        let span = Span {
            n: numbers.min().unwrap_or_default(),
            from_ms: times().min().unwrap_or_default().saturating_sub(WINDOW_MS),
            to_ms: times().max().unwrap_or_default().saturating_add(WINDOW_MS),
        };
        // A path that was deleted, came back and was deleted again counts once, by its last tombstone.
        let mut by_path: BTreeMap<RelPath, (Hlc, VersionId)> = BTreeMap::new();
        let known = self.index.deletions(chain, span)?.into_iter().map(|Deletion { id, path, hlc }| (path, (hlc, id)));
        let new = new.iter().map(|(path, stored)| (path.clone(), (stored.version.hlc, stored.id)));
        for (path, last) in known.chain(new) {
            let entry = by_path.entry(path).or_insert(last);
            *entry = last.max(*entry);
        }
        let mut events = Vec::with_capacity(by_path.len());
        for (path, (hlc, id)) in by_path {
            if !self.index.is_approved(&id)? {
                let gone = self.state.base(&path)?.is_none();
                events.push(Event { id, path, hlc, gone });
            }
        }
        events.sort_by_key(|event| (event.hlc, event.id));
        Ok(events)
    }

    /// Every deletion that waits: version, path, origin.
    pub fn held_deletions(&self) -> Result<Vec<(VersionId, RelPath, String)>> {
        Ok(self.state.held()?)
    }

    /// Lets held deletions happen, here from the next run on and everywhere by an event that names them.
    pub fn approve_deletions(&mut self) -> Result<Vec<RelPath>> {
        let held = self.state.held()?;
        let mut by_space: BTreeMap<Space, Vec<VersionId>> = BTreeMap::new();
        for (version, ..) in &held {
            let Some(stored) = self.index.version(version)? else { continue };
            by_space.entry(self.space_of(stored.version.channel)).or_default().push(*version);
        }
        for (space, tombstones) in by_space {
            self.publish_approval(&space, &tombstones)?;
        }
        self.release_held()?;
        Ok(held.into_iter().map(|(_, path, _)| path).collect())
    }

    /// Held deletions that somebody approved meanwhile are due on disk and in the rows; those of paths that have content again wait no
    /// longer.
    pub fn release_held(&mut self) -> Result<()> {
        let held = self.state.held()?;
        let last = self.index.max_row()?;
        let changed = if held.is_empty() { None } else { self.paths_since(self.held_judged)? };
        let (mut approved, mut over) = (Vec::new(), Vec::new());
        for (version, path, _) in held {
            if self.index.is_approved(&version)? {
                approved.push((version, path));
            } else if changed.as_ref().is_none_or(|changed| changed.contains(&path)) && !self.still_deletes(&version)? {
                over.push(version);
            }
        }
        if approved.is_empty() && over.is_empty() {
            self.held_judged = last;
            return Ok(());
        }
        let rules = self.policy.rules.clone();
        self.state.transaction(|state| {
            for version in &over {
                state.release(version)?;
            }
            for (version, path) in &approved {
                state.release(version)?;
                state.set_pending(path, "write", "deletion approved", 0)?;
                if let Ok(admitted) = rules.admit(path) {
                    state.set_outbox(admitted.channel(), path, 0, 0, "deletion approved")?;
                }
            }
            Ok::<(), super::SyncError>(())
        })?;
        self.held_judged = last;
        Ok(())
    }
}

impl Engine {
    /// The paths that versions came for after this row of the index; `None` if they are many.
    fn paths_since(&self, row: i64) -> Result<Option<BTreeSet<RelPath>>> {
        let slots = self.index.slots_since(row, MANY_PATHS)?;
        Ok((slots.len() < MANY_PATHS).then(|| slots.into_iter().map(|(_, slot)| slot.path).collect()))
    }

    /// True if this tombstone is what its path comes to: nobody made the file anew since, here or elsewhere.
    pub(super) fn still_deletes(&self, tombstone: &VersionId) -> Result<bool> {
        let Some(stored) = self.index.version(tombstone)? else { return Ok(false) };
        let slot = self.slot_of(stored.version.channel, &stored.version.path);
        let heads = self.index.heads(&slot)?;
        if !heads.iter().any(|head| head.id == *tombstone) {
            return Ok(false);
        }
        let is_it = |resolution: &Resolution| resolution.winner.as_ref().is_some_and(|winner| winner.id == *tombstone);
        Ok(heads.len() == 1 || Some(self.resolution(&slot)?).filter(is_it).is_some())
    }
}

/// The events of every window that holds too many of those that were live when it began. `live` is counted now.
fn too_many(events: &[&Event], live: u64) -> BTreeSet<VersionId> {
    let mut many = BTreeSet::new();
    let mut gone_since: Vec<u64> = events.iter().map(|event| u64::from(event.gone)).collect();
    for at in (1..events.len()).rev() {
        gone_since[at - 1] += gone_since[at];
    }
    let (mut start, mut marked) = (0, 0);
    for (end, event) in events.iter().enumerate() {
        while event.hlc.wall_ms() - events[start].hlc.wall_ms() > WINDOW_MS {
            start += 1;
        }
        let (count, live_then) = ((end - start + 1) as u64, live + gone_since[start]);
        if count > FEW_DELETIONS.max(live_then * SHARE_PERCENT / 100) {
            many.extend(events[start.max(marked)..=end].iter().map(|event| event.id));
            marked = end + 1;
        }
    }
    many
}

fn top_of(path: &RelPath) -> Option<&str> {
    path.as_str().split_once('/').map(|(top, _)| top)
}

fn is_counted(stored: &Stored) -> bool {
    matches!(stored.version.state, VersionState::Tombstone { reason: Reason::User | Reason::Trash, .. })
}
