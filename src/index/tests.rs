//! Laws of the index, on random histories of several writers and against a model that walks parents.

mod closed;
mod content;
mod crowd;
mod fleet;
mod law;
mod model;
mod open;
mod rule;
mod size;

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{DirEntry, EntryKind, Index, Item, Reader, Tree};
use crate::model::{Chain, Space};

/// A new index in a folder of its own.
pub(super) fn fresh() -> (tempfile::TempDir, Index) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (index, _) = Index::open(&path_in(&folder), 1).expect("a new index");
    (folder, index)
}

pub(super) fn path_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("index.db")
}

/// Everything that can be asked, but for row numbers, as text.
pub(super) fn dump(index: &Reader, chains: &[Chain]) -> String {
    let mut out = String::new();
    let mut spaces: Vec<Space> = chains.iter().map(|chain| chain.space.clone()).collect();
    spaces.dedup();
    for chain in chains {
        let told = (index.applied(chain).expect("applied"), index.last_n(chain).expect("last_n"));
        writeln!(out, "chain {chain} {told:?}").expect("text");
    }
    writeln!(out, "forks {:?}", index.forks().expect("forks")).expect("text");
    for space in &spaces {
        dump_slots(&mut out, index, space, chains);
    }
    for tree in trees(index) {
        writeln!(out, "tree {tree:?}").expect("text");
        dump_dir(&mut out, index, &tree, "");
    }
    writeln!(out, "counts {:#?}", index.counts().expect("counts")).expect("text");
    writeln!(out, "conflicts {:?}", index.conflicts(1_000).expect("conflicts")).expect("text");
    writeln!(out, "bytes {:?}", index.missing_bytes(1_000).expect("missing")).expect("text");
    writeln!(out, "parents {:?}", index.missing_parents(1_000).expect("missing")).expect("text");
    writeln!(out, "packs {:?}", index.absent_packs().expect("absent")).expect("text");
    out
}

fn dump_slots(out: &mut String, index: &Reader, space: &Space, chains: &[Chain]) {
    let slots = index.slots(space, None, usize::MAX).expect("slots");
    let mut changed: Vec<_> =
        index.slots_since(0, usize::MAX).expect("since").into_iter().map(|(_, slot)| slot).collect();
    changed.sort();
    changed.dedup();
    assert!(slots.iter().all(|slot| changed.contains(slot)), "every slot has changed at some row");
    for slot in &slots {
        let heads = index.heads(slot).expect("heads");
        let ids: Vec<_> = heads.iter().map(|head| head.id).collect();
        writeln!(out, "slot {slot:?} heads {heads:#?}").expect("text");
        writeln!(out, "  common {:?}", index.common_ancestor(&ids).expect("common").map(|s| s.id)).expect("text");
        for stored in index.history(slot, usize::MAX).expect("history") {
            assert_eq!(index.version(&stored.id).expect("version"), Some(stored.clone()));
            writeln!(out, "  had {stored:?}").expect("text");
            if let Some(content) = stored.version.content() {
                let manifest = index.manifest(&content.hash, content.size).expect("manifest");
                let missing = index.missing_segments(&content.hash, content.size, 100).expect("missing");
                let same = index.versions_with_content(slot, &content).expect("same");
                let same: Vec<_> = same.iter().map(|s| s.id).collect();
                let depth = index.manifest_depth(&content.hash).expect("depth");
                writeln!(out, "    {manifest:?} depth {depth} missing {missing:?} same {same:?}").expect("text");
                for segment in manifest.iter().flat_map(|m| &m.segments) {
                    writeln!(out, "    at {:?}", index.place(&segment.0).expect("place")).expect("text");
                }
            }
        }
        for chain in chains {
            writeln!(out, "  own {chain} {:?}", index.lane_of(chain, slot).expect("own")).expect("text");
        }
    }
}

fn trees(index: &Reader) -> Vec<Tree> {
    let mut trees = vec![Tree::Merged, Tree::History, Tree::Conflicts, Tree::Trash];
    trees.extend(index.origins().expect("origins").into_iter().map(Tree::Origin));
    trees
}

/// Lists a directory page by page, two names at a time, and what lies below it.
fn dump_dir(out: &mut String, index: &Reader, tree: &Tree, dir: &str) {
    let mut entries: Vec<DirEntry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.name.clone());
        let page = index.list_dir(tree, dir, after.as_deref(), 2).expect("a page");
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    assert_eq!(entries, index.list_dir(tree, dir, None, usize::MAX).expect("all at once"));
    assert!(!entries.is_empty() || dir.is_empty(), "{tree:?} shows the empty directory {dir}");
    for entry in entries {
        let found = index.lookup(tree, dir, &entry.name).expect("a look-up");
        assert!(found.contains(&entry), "{entry:?} is listed, and looked up as {found:?}");
        writeln!(out, "  {dir} / {entry:?}").expect("text");
        if entry.kind == EntryKind::Dir {
            let below = if dir.is_empty() { entry.name } else { format!("{dir}/{}", entry.name) };
            dump_dir(out, index, tree, &below);
        }
    }
}

/// Applies items in transactions of the given sizes, the last one for the rest.
pub(super) fn apply_split(index: &mut Index, items: &[Item], sizes: &[usize]) {
    let mut rest = items;
    for size in sizes {
        let (now, later) = rest.split_at((*size).min(rest.len()));
        index.apply(now).expect("applied");
        rest = later;
    }
    index.apply(rest).expect("applied");
}
