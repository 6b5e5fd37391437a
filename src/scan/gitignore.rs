//! The `.gitignore` files on the way from the root to a folder, deepest first.
//!
//! Reads `.gitignore` in each folder and `.git/info/exclude` in the root. Deliberately not read: what lies above the root, and the
//! user's own excludes file: the same project must list the same on every machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use larder_patterns::RelPath;
use rustix::fs::OFlags;

use super::folder::{Folder, read_regular};
use super::root::Root;

/// Bytes of one `.gitignore` that are read.
const MAX_GITIGNORE_BYTES: u64 = 1 << 20;
pub(crate) const GITIGNORE: &str = ".gitignore";
const EXCLUDE: &str = ".git/info/exclude";

/// The ignore rules that hold in one folder; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct IgnoreStack(Option<Arc<Layer>>);

#[derive(Debug)]
struct Layer {
    rules: Gitignore,
    /// Length of the folder's path with its `/`; 0 for the root.
    prefix_bytes: usize,
    above: IgnoreStack,
}

impl IgnoreStack {
    /// Returns the rules of the repository itself.
    pub(crate) fn of_repository(root: &Root) -> IgnoreStack {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let bytes = root.open_beneath(EXCLUDE, flags).ok().and_then(|opened| read_regular(opened, MAX_GITIGNORE_BYTES));
        let none = IgnoreStack::default();
        bytes.map_or(none.clone(), |bytes| none.with(None, &bytes))
    }

    /// Returns the rules inside a folder that has a `.gitignore`.
    pub(crate) fn entering(&self, path: Option<&RelPath>, folder: &Folder) -> IgnoreStack {
        match folder.read_small(GITIGNORE, MAX_GITIGNORE_BYTES) {
            Some(bytes) => self.with(path, &bytes),
            None => self.clone(),
        }
    }

    fn with(&self, path: Option<&RelPath>, lines: &[u8]) -> IgnoreStack {
        let mut builder = GitignoreBuilder::new("");
        for line in String::from_utf8_lossy(lines).lines() {
            // A line that is no pattern ignores nothing, as in git.
            let _ = builder.add_line(None, line);
        }
        match builder.build() {
            Ok(rules) if !rules.is_empty() => IgnoreStack(Some(Arc::new(Layer {
                rules,
                prefix_bytes: path.map_or(0, |path| path.as_str().len() + 1),
                above: self.clone(),
            }))),
            _ => self.clone(),
        }
    }

    /// Tells whether a path is ignored; whether its folder is was asked before.
    pub(crate) fn ignores(&self, path: &str, is_folder: bool) -> bool {
        let mut layer = &self.0;
        while let Some(rules) = layer {
            let verdict = rules.rules.matched(&path[rules.prefix_bytes..], is_folder);
            if !verdict.is_none() {
                return verdict.is_ignore();
            }
            layer = &rules.above.0;
        }
        false
    }
}

/// What the `.gitignore` files say of single paths, whether anything stands there or not; each file is read once.
pub struct Ignored<'r> {
    root: &'r Root,
    top: IgnoreStack,
    /// Of each folder that was asked for; `None` if it is ignored itself.
    below: BTreeMap<RelPath, Option<IgnoreStack>>,
}

impl<'r> Ignored<'r> {
    /// Nothing is asked yet.
    pub fn new(root: &'r Root) -> Ignored<'r> {
        let repository = IgnoreStack::of_repository(root);
        let top = Folder::open_root(root).map_or(repository.clone(), |folder| repository.entering(None, &folder));
        Ignored { root, top, below: BTreeMap::new() }
    }

    /// True if a walk that respects them would leave out a file at this path.
    pub fn names(&mut self, path: &RelPath) -> bool {
        let mut stack = self.top.clone();
        for folder in path.ancestors() {
            let root = self.root;
            let inside = self.below.entry(folder).or_insert_with_key(|folder| {
                if stack.ignores(folder.as_str(), true) {
                    return None;
                }
                Some(
                    Folder::open_below(root, folder)
                        .map_or(stack.clone(), |opened| stack.entering(Some(folder), &opened)),
                )
            });
            match inside {
                Some(inside) => stack = inside.clone(),
                None => return true,
            }
        }
        stack.ignores(path.as_str(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_rule_that_matches_decides() {
        let folder = RelPath::parse("data").expect("a path");
        let root = IgnoreStack::default().with(None, b"*.log\n/out/\n# note\n[\n");
        let data = root.with(Some(&folder), b"!keep.log\n/only-here.md\n");

        for (path, is_folder, ignored) in [
            ("a.log", false, true),
            ("data/a.log", false, true),
            ("data/keep.log", false, false),
            ("data/x/keep.log", false, false),
            ("out", true, true),
            ("out", false, false),
            ("data/out", true, false),
            ("data/only-here.md", false, true),
            ("data/x/only-here.md", false, false),
            ("data/a.md", false, false),
        ] {
            let stack = if path.starts_with("data/") { &data } else { &root };
            assert_eq!(stack.ignores(path, is_folder), ignored, "{path}");
        }
    }
}
