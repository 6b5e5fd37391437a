//! A throw-away project folder for the tests of scan and watch.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use larder_patterns::{PatternLists, RelPath, Rules};

use super::{Listing, Root, WalkOptions, walk};

/// A project in a temporary folder, removed when dropped.
pub(crate) struct Scratch {
    pub(crate) root: Root,
    folder: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path()).expect("opens");
        Scratch { root, folder }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn path(&self, path: &str) -> RelPath {
        RelPath::parse(path).expect("a path")
    }

    pub(crate) fn folder(&self, path: &str) {
        fs::create_dir_all(self.at(path)).expect("makes a folder");
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().expect("below the root")).expect("makes a folder");
        fs::write(at, content).expect("writes");
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().expect("below the root")).expect("makes a folder");
        symlink(target, at).expect("links");
    }

    pub(crate) fn walk(&self, rules: &Rules) -> Listing {
        walk(&self.root, rules, &WalkOptions::default()).expect("walks")
    }
}

/// Rules with these patterns of the shared channel.
pub(crate) fn rules(patterns: &[&str]) -> Rules {
    let lists = PatternLists {
        shared: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..PatternLists::default()
    };
    Rules::compile(&lists).expect("compiles").0
}

/// The paths of a listing's entries.
pub(crate) fn paths(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| entry.path.path().as_str()).collect()
}
