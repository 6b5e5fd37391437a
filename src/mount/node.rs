//! Inode numbers: every place of the view as one number, made from the catalog's numbers and back.
//!
//! Invariant: `Place::of(place.node()) == Some(place)`; the top bit is never set, 0 is never made and the root is 1, as the kernel
//! wants it. So nothing has to be remembered about what the kernel was told, and numbers are the same after a remount.
//! The same file state has one number in all trees: the kernel then keeps its bytes once.

use super::catalog::{
    DirId, FileId, FindId, MAX_DIR_ID, MAX_FILE_ID, MAX_FIND_ID, MAX_ORIGIN_ID, MAX_PATH_ID, MAX_TIME_ID, OriginId,
    PathId, TimeId, Tree,
};

/// An inode number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the view.
    pub const ROOT: NodeId = NodeId(1);
}

/// What an inode number stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The root of the view.
    Root,
    /// `README.txt`.
    Readme,
    /// `origins`.
    Origins,
    /// `at`.
    Times,
    /// `search`.
    Searches,
    /// Another spelling of a moment: a link to its folder, by the moment's wall milliseconds (48 bits).
    Spelling(u64),
    /// A folder of a tree.
    Dir(Tree, DirId),
    /// `.provenance` of a folder of `merged/`.
    Provenance(DirId),
    /// The folder of all versions of a path.
    Versions(PathId),
    /// The folder of the open heads of a path.
    Heads(PathId),
    /// A file state.
    File(FileId),
}

const KIND_SHIFT: u32 = 60;
const ORIGIN_SHIFT: u32 = 40;
const HEADS_BIT: u64 = 1 << 59;
/// Among the numbers of kind 1.
const PROVENANCE_BIT: u64 = 1 << 50;
/// Among the numbers of kind 5.
const STARRED_BIT: u64 = 1 << 50;
/// Among the numbers of kind 0.
const TIME_BIT: u64 = 1 << 59;
const TIME_SHIFT: u32 = 40;
/// Among the numbers of kind 0 without either of the others.
const FOUND_BIT: u64 = 1 << 57;
const FOUND_SHIFT: u32 = 40;
/// Among the numbers of kind 0 without `TIME_BIT`.
const SPELLING_BIT: u64 = 1 << 58;
const MAX_SPELLING: u64 = (1 << 48) - 1;
const PAYLOAD: u64 = (1 << KIND_SHIFT) - 1;

impl Place {
    /// The number of this place.
    pub(super) fn node(self) -> NodeId {
        let (kind, payload) = match self {
            Place::Root => (0, 1),
            Place::Readme => (0, 2),
            Place::Origins => (0, 3),
            Place::Times => (0, 4),
            Place::Searches => (0, 5),
            Place::Dir(Tree::Found(find), dir) => (0, FOUND_BIT | u64::from(find.0) << FOUND_SHIFT | dir.0),
            Place::Spelling(wall_ms) => (0, SPELLING_BIT | wall_ms),
            Place::Dir(Tree::At(time), dir) => (0, TIME_BIT | u64::from(time.0) << TIME_SHIFT | dir.0),
            Place::Dir(Tree::Merged, dir) => (1, dir.0),
            Place::Provenance(dir) => (1, PROVENANCE_BIT | dir.0),
            Place::Dir(Tree::Origin(origin), dir) => (2, u64::from(origin.0) << ORIGIN_SHIFT | dir.0),
            Place::Dir(Tree::History, dir) => (3, dir.0),
            Place::Dir(Tree::Conflicts, dir) => (4, dir.0),
            Place::Dir(Tree::Trash, dir) => (5, dir.0),
            Place::Dir(Tree::Starred, dir) => (5, STARRED_BIT | dir.0),
            Place::Versions(path) => (6, path.0),
            Place::Heads(path) => (6, path.0 | HEADS_BIT),
            Place::File(file) => (7, file.0),
        };
        debug_assert!(payload <= PAYLOAD, "a number of the catalog passes its bound: {self:?}");
        NodeId(kind << KIND_SHIFT | payload & PAYLOAD)
    }

    /// The place of a number; `None` if the view never made it.
    pub(super) fn of(node: NodeId) -> Option<Place> {
        let payload = node.0 & PAYLOAD;
        let dir = DirId(payload);
        let place = match (node.0 >> KIND_SHIFT, payload) {
            (0, 1) => Place::Root,
            (0, 2) => Place::Readme,
            (0, 3) => Place::Origins,
            (0, 4) => Place::Times,
            (0, 5) => Place::Searches,
            (0, _) if payload & TIME_BIT != 0 => {
                let time = u32::try_from((payload & !TIME_BIT) >> TIME_SHIFT).ok().filter(|id| *id <= MAX_TIME_ID)?;
                Place::Dir(Tree::At(TimeId(time)), DirId(payload & MAX_DIR_ID))
            }
            (0, _) if payload & SPELLING_BIT != 0 && payload & !SPELLING_BIT <= MAX_SPELLING => {
                Place::Spelling(payload & !SPELLING_BIT)
            }
            (0, _) if payload & SPELLING_BIT == 0 && payload & FOUND_BIT != 0 => {
                let find = u32::try_from((payload & !FOUND_BIT) >> FOUND_SHIFT).ok().filter(|id| *id <= MAX_FIND_ID)?;
                Place::Dir(Tree::Found(FindId(find)), DirId(payload & MAX_DIR_ID))
            }
            (1, ..=MAX_DIR_ID) => Place::Dir(Tree::Merged, dir),
            (1, _) if payload & PROVENANCE_BIT != 0 && payload & !PROVENANCE_BIT <= MAX_DIR_ID => {
                Place::Provenance(DirId(payload & !PROVENANCE_BIT))
            }
            (2, _) => {
                let origin = u32::try_from(payload >> ORIGIN_SHIFT).ok().filter(|id| *id <= MAX_ORIGIN_ID)?;
                Place::Dir(Tree::Origin(OriginId(origin)), DirId(payload & MAX_DIR_ID))
            }
            (3, ..=MAX_DIR_ID) => Place::Dir(Tree::History, dir),
            (4, ..=MAX_DIR_ID) => Place::Dir(Tree::Conflicts, dir),
            (5, ..=MAX_DIR_ID) => Place::Dir(Tree::Trash, dir),
            (5, _) if payload & STARRED_BIT != 0 && payload & !STARRED_BIT <= MAX_DIR_ID => {
                Place::Dir(Tree::Starred, DirId(payload & !STARRED_BIT))
            }
            (6, ..=MAX_PATH_ID) => Place::Versions(PathId(payload)),
            (6, _) if payload & HEADS_BIT != 0 && payload & !HEADS_BIT <= MAX_PATH_ID => {
                Place::Heads(PathId(payload & !HEADS_BIT))
            }
            (7, ..=MAX_FILE_ID) => Place::File(FileId(payload)),
            _ => return None,
        };
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places() -> impl Strategy<Value = Place> {
        let dir = (0..=MAX_DIR_ID).prop_map(DirId);
        let tree = prop_oneof![
            Just(Tree::Merged),
            (0..=MAX_ORIGIN_ID).prop_map(|id| Tree::Origin(OriginId(id))),
            Just(Tree::History),
            (0..=MAX_TIME_ID).prop_map(|id| Tree::At(TimeId(id))),
            (0..=MAX_FIND_ID).prop_map(|id| Tree::Found(FindId(id))),
            Just(Tree::Starred),
            Just(Tree::Conflicts),
            Just(Tree::Trash),
        ];
        prop_oneof![
            Just(Place::Root),
            Just(Place::Readme),
            Just(Place::Origins),
            Just(Place::Times),
            Just(Place::Searches),
            (0..=MAX_SPELLING).prop_map(Place::Spelling),
            (0..=MAX_DIR_ID).prop_map(|dir| Place::Provenance(DirId(dir))),
            (tree, dir).prop_map(|(tree, dir)| Place::Dir(tree, dir)),
            (0..=MAX_PATH_ID).prop_map(|id| Place::Versions(PathId(id))),
            (0..=MAX_PATH_ID).prop_map(|id| Place::Heads(PathId(id))),
            (0..=MAX_FILE_ID).prop_map(|id| Place::File(FileId(id))),
        ]
    }

    proptest! {
        #[test]
        fn every_place_has_its_own_number_and_comes_back(place in places()) {
            let node = place.node();

            prop_assert_eq!(Place::of(node), Some(place));
            prop_assert!(0 < node.0 && node.0 >> 63 == 0);
        }

        #[test]
        fn a_number_from_nowhere_is_a_place_or_nothing(number: u64) {
            if let Some(place) = Place::of(NodeId(number)) {
                prop_assert_eq!(place.node(), NodeId(number));
            }
        }
    }

    #[test]
    fn the_root_is_the_kernels_root() {
        assert_eq!(Place::Root.node(), NodeId::ROOT);
        assert_eq!(Place::of(NodeId(0)), None);
    }
}
