//! Version vectors over lanes: which versions a version descends from.
//!
//! Invariant: `join` is commutative, associative and idempotent; `covers` is exactly "has seen", because a lane is only
//! extended by a version that descends from its last one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::chain::{Dot, Lane};

/// Maps lanes to the highest `n` seen in each.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Vector(BTreeMap<Lane, u64>);

impl Serialize for Vector {
    /// Canonical keys stand in the order of their text, which for lanes is not that of their parts (`x~1/100` before
    /// `x~1/46`).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by_text: BTreeMap<String, u64> = self.0.iter().map(|(lane, n)| (lane.to_string(), *n)).collect();
        by_text.serialize(serializer)
    }
}

impl Vector {
    /// Covers nothing.
    pub fn new() -> Vector {
        Vector::default()
    }

    /// Raises this vector to cover what `other` covers.
    pub fn join(&mut self, other: &Vector) {
        for (lane, n) in &other.0 {
            let entry = self.0.entry(lane.clone()).or_insert(*n);
            *entry = (*entry).max(*n);
        }
    }

    /// Raises this vector to cover `dot`.
    pub fn insert(&mut self, dot: &Dot) {
        let entry = self.0.entry(dot.lane.clone()).or_insert(dot.n);
        *entry = (*entry).max(dot.n);
    }

    /// Takes one lane out, as the stored form of a version does with its own.
    pub fn remove(&mut self, lane: &Lane) -> Option<u64> {
        self.0.remove(lane)
    }

    /// True if the version at `dot` is an ancestor (or the version itself).
    pub fn covers(&self, dot: &Dot) -> bool {
        self.0.get(&dot.lane).is_some_and(|n| dot.n <= *n)
    }

    /// The highest `n` seen in `lane`.
    pub fn get(&self, lane: &Lane) -> Option<u64> {
        self.0.get(lane).copied()
    }

    /// True if no lane is covered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many lanes are covered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The lanes in order with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&Lane, u64)> {
        self.0.iter().map(|(lane, n)| (lane, *n))
    }
}

impl FromIterator<(Lane, u64)> for Vector {
    fn from_iter<I: IntoIterator<Item = (Lane, u64)>>(lanes: I) -> Vector {
        Vector(lanes.into_iter().collect())
    }
}
