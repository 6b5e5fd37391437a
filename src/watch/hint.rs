//! The hints, and the bounded set they wait in until the engine takes them.
//!
//! Invariant: a set never forgets: a hint that finds no room turns the whole set into [`Hint::Rescan`].

use std::collections::BTreeSet;

use larder_patterns::RelPath;

/// Most paths that wait; more collapse into a rescan.
pub const MAX_HINTS: usize = 100_000;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hint {
    /// The root was moved, removed or unmounted: nothing that follows may be believed. Always alone.
    RootGone,
    /// Look at everything, the config included; always first.
    Rescan {
        /// Why the single hints do not suffice.
        reason: RescanReason,
    },
    /// Look at this path and all below it.
    DirtyTree(RelPath),
    /// Look at this path. It may have been a folder that was never watched: if files below it are known, at those as well.
    Dirty(RelPath),
}

/// Why everything must be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum RescanReason {
    /// The kernel dropped events because its queue was full.
    #[error("the kernel's event queue overflowed")]
    Overflow,
    /// More paths changed than are kept apart.
    #[error("more than {MAX_HINTS} paths changed at once")]
    TooManyHints,
    /// A tree of many folders went, and all watches were placed afresh.
    #[error("a large folder was moved or removed")]
    LargeTreeMoved,
    /// The root's tree cannot be watched and is polled.
    #[error("the folder is polled")]
    Polling,
    /// Other rules hold from now on.
    #[error("the rules changed")]
    RulesChanged,
    /// A `.gitignore` changed.
    #[error("a .gitignore changed")]
    GitignoreChanged,
    /// Watching failed in a way that loses events.
    #[error("watching failed: {error}")]
    Failed {
        /// What the system said.
        error: String,
    },
}

/// Hints on their way to the engine.
#[derive(Debug, Default)]
pub(super) struct HintSet {
    paths: BTreeSet<RelPath>,
    trees: BTreeSet<RelPath>,
    rescan: Option<RescanReason>,
    root_gone: bool,
}

impl HintSet {
    pub(super) fn is_empty(&self) -> bool {
        !self.root_gone && self.rescan.is_none() && self.paths.is_empty() && self.trees.is_empty()
    }

    pub(super) fn add(&mut self, hint: Hint) {
        match hint {
            Hint::RootGone => self.root_gone = true,
            Hint::Rescan { reason } => {
                self.rescan.get_or_insert(reason);
                self.paths.clear();
                self.trees.clear();
            }
            // A rescan that nobody has begun yet covers what comes meanwhile.
            Hint::DirtyTree(_) | Hint::Dirty(_) if self.rescan.is_some() => {}
            Hint::DirtyTree(path) => {
                self.trees.insert(path);
            }
            Hint::Dirty(path) => {
                self.paths.insert(path);
            }
        }
        if self.paths.len() + self.trees.len() > MAX_HINTS {
            self.add(Hint::Rescan { reason: RescanReason::TooManyHints });
        }
    }

    /// Empties the set. What lies below a hinted tree is not named again.
    pub(super) fn take(&mut self) -> Vec<Hint> {
        let HintSet { paths, trees, rescan, root_gone } = std::mem::take(self);
        if root_gone {
            return vec![Hint::RootGone];
        }
        if let Some(reason) = rescan {
            return vec![Hint::Rescan { reason }];
        }
        let is_below = |path: &RelPath| path.ancestors().any(|above| trees.contains(&above));
        let tops = trees.iter().filter(|path| !is_below(path));
        let singles = paths.iter().filter(|path| !trees.contains(*path) && !is_below(path));
        let tops = tops.cloned().map(Hint::DirtyTree);
        tops.chain(singles.cloned().map(Hint::Dirty)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).expect("a path")
    }

    fn taken(hints: Vec<Hint>) -> Vec<Hint> {
        let mut set = HintSet::default();
        hints.into_iter().for_each(|hint| set.add(hint));
        let taken = set.take();
        assert!(set.is_empty());
        taken
    }

    #[test]
    fn hints_are_joined_and_never_forgotten() {
        let dirty = |text| Hint::Dirty(path(text));
        let tree = |text| Hint::DirtyTree(path(text));
        let rescan = || Hint::Rescan { reason: RescanReason::Overflow };
        for (given, expected) in [
            (vec![], vec![]),
            (vec![dirty("a"), dirty("a")], vec![dirty("a")]),
            (vec![dirty("a/b"), tree("a")], vec![tree("a")]),
            (vec![tree("a/b/c"), tree("a"), tree("a-b")], vec![tree("a"), tree("a-b")]),
            (vec![dirty("a"), tree("a")], vec![tree("a")]),
            (vec![dirty("ab"), tree("a")], vec![tree("a"), dirty("ab")]),
            (vec![dirty("a"), rescan(), dirty("b")], vec![rescan()]),
            (vec![Hint::RootGone, rescan(), dirty("b")], vec![Hint::RootGone]),
        ] {
            assert_eq!(taken(given.clone()), expected, "{given:?}");
        }
    }

    #[test]
    fn more_hints_than_kept_collapse_into_a_rescan() {
        let hints = |count: usize| (0..count).map(|n| Hint::Dirty(path(&n.to_string()))).collect();

        assert_eq!(taken(hints(MAX_HINTS)).len(), MAX_HINTS);

        let reason = RescanReason::TooManyHints;
        assert_eq!(taken(hints(MAX_HINTS + 1)), [Hint::Rescan { reason }]);
    }
}
