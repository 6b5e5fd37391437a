//! The same questions answered by walking parents, with nothing kept: slow, and plainly right.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::Slot;
use crate::model::{Space, State, Version, VersionId};

pub struct Model {
    pub versions: BTreeMap<VersionId, Version>,
    space: Space,
    ancestors: BTreeMap<VersionId, BTreeSet<VersionId>>,
}

impl Model {
    /// Takes what is acceptable: all parents there, and no ancestor with a higher number of the same chain.
    pub fn new(space: &Space, mut left: BTreeMap<VersionId, Version>) -> Model {
        let mut model = Model { versions: BTreeMap::new(), space: space.clone(), ancestors: BTreeMap::new() };
        loop {
            let ready = left.iter().find(|(_, v)| v.parents.iter().all(|p| model.versions.contains_key(p)));
            let Some(id) = ready.map(|(id, _)| *id) else { return model };
            let version = left.remove(&id).expect("just found");
            let mut ancestors = BTreeSet::new();
            for parent in &version.parents {
                ancestors.insert(*parent);
                ancestors.extend(&model.ancestors[parent]);
            }
            let later = |v: &Version| v.dot.lane.origin == version.dot.lane.origin && version.dot.n <= v.dot.n;
            if !ancestors.iter().any(|a| later(&model.versions[a])) {
                model.ancestors.insert(id, ancestors);
                model.versions.insert(id, version);
            }
        }
    }

    pub fn is_ancestor(&self, ancestor: &VersionId, of: &VersionId) -> bool {
        self.ancestors[of].contains(ancestor)
    }

    pub fn slots(&self) -> BTreeSet<Slot> {
        self.versions.values().map(|v| Slot::of(&self.space, v)).collect()
    }

    fn of(&self, slot: &Slot) -> Vec<VersionId> {
        self.versions.iter().filter(|(_, v)| Slot::of(&self.space, v) == *slot).map(|(id, _)| *id).collect()
    }

    /// Not dominated by another version of the slot.
    pub fn raw_heads(&self, slot: &Slot) -> Vec<VersionId> {
        let all = self.of(slot);
        all.iter().filter(|id| !all.iter().any(|other| self.is_ancestor(id, other))).copied().collect()
    }

    /// The raw heads without those whose twin another head descends from.
    pub fn heads(&self, slot: &Slot) -> BTreeSet<VersionId> {
        let (all, raw) = (self.of(slot), self.raw_heads(slot));
        let shadowed = |id: &VersionId| {
            let twins = all.iter().filter(|other| self.are_twins(id, other));
            twins.into_iter().any(|twin| raw.iter().any(|head| head != id && self.is_ancestor(twin, head)))
        };
        raw.iter().filter(|id| !shadowed(id)).copied().collect()
    }

    fn are_twins(&self, a: &VersionId, b: &VersionId) -> bool {
        let (x, y) = (&self.versions[a], &self.versions[b]);
        let deleted = |v: &Version| matches!(v.state, State::Tombstone { .. });
        a != b && x.parents == y.parents && x.content() == y.content() && deleted(x) == deleted(y)
    }

    pub fn common_ancestor(&self, slot: &Slot, heads: &[VersionId]) -> Option<VersionId> {
        let covers = |id: &VersionId| heads.iter().all(|head| head == id || self.is_ancestor(id, head));
        self.of(slot).into_iter().filter(covers).max_by_key(|id| (self.versions[id].hlc, *id))
    }
}
