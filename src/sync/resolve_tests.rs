//! Laws of resolving, over hand-made histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Channel, ContentHash, Dot, Hlc, Lane, OriginName, Reason, RelPath, State as VersionState, Vector, Version,
};

/// Versions and bytes, all here unless taken away.
#[derive(Default)]
struct World {
    versions: BTreeMap<VersionId, Stored>,
    bytes: BTreeMap<ContentHash, Vec<u8>>,
    next_n: u64,
    /// How often bytes were asked for.
    reads: std::cell::Cell<usize>,
}

impl Graph for World {
    fn version(&self, id: &VersionId) -> Option<Stored> {
        self.versions.get(id).cloned()
    }

    fn bytes(&self, content: &Content, offset: u64, len: u64) -> Option<Vec<u8>> {
        self.reads.set(self.reads.get() + 1);
        let bytes = self.bytes.get(&content.hash)?;
        bytes.get(offset as usize..(offset + len) as usize).map(<[u8]>::to_vec)
    }

    fn share_prefix(&self, a: &Content, b: &Content, len: u64) -> Option<bool> {
        Some(self.bytes(a, 0, len)? == self.bytes(b, 0, len)?)
    }
}

impl World {
    fn add(&mut self, path: &str, text: Option<&str>, hlc: u64, parents: &[&Stored], adopted: bool) -> Stored {
        self.add_with(path, text.map(|text| (text, false)), hlc, parents, adopted)
    }

    /// A file with its executable bit.
    fn file(&mut self, path: &str, text: &str, exec: bool, hlc: u64, parents: &[&Stored]) -> Stored {
        self.add_with(path, Some((text, exec)), hlc, parents, false)
    }

    fn add_with(
        &mut self,
        path: &str,
        text: Option<(&str, bool)>,
        hlc: u64,
        parents: &[&Stored],
        adopted: bool,
    ) -> Stored {
        self.next_n += 1;
        let origin: OriginName = format!("host-{}", self.next_n).parse().expect("an origin");
        let lane = Lane { origin, generation: 1, first: 1 };
        let mut vector = Vector::new();
        parents.iter().for_each(|parent| vector.join(&parent.version.full_vector()));
        let mut ids: Vec<VersionId> = parents.iter().map(|parent| parent.id).collect();
        ids.sort_unstable();
        let state = match text {
            Some((text, exec)) => {
                let (hash, size) = (ContentHash::of(text.as_bytes()), text.len() as u64);
                self.bytes.insert(hash, text.as_bytes().to_vec());
                VersionState::Content(Content { hash, size, kind: ContentKind::File { exec } })
            }
            None => VersionState::Tombstone { reason: Reason::User, moved_to: None },
        };
        let version = Version {
            parents: ids,
            dot: Dot { lane, n: 1 },
            vector,
            hlc: Hlc::new(hlc, 0),
            born: Hlc::new(1, 0),
            channel: Channel::Shared,
            path: RelPath::parse(path).expect("a path"),
            state,
            moved_from: None,
            via: None,
            adopted,
        };
        let stored = Stored { id: version.to_line().0, version };
        self.versions.insert(stored.id, stored.clone());
        stored
    }

    fn text(&self, resolution: &Resolution) -> Option<String> {
        let bytes = match &resolution.outcome {
            Outcome::Content(content) => self.bytes.get(&content.hash)?.clone(),
            Outcome::Appended(appended) => {
                let mut bytes = appended.base.map_or(Some(Vec::new()), |base| self.bytes.get(&base.hash).cloned())?;
                bytes.extend_from_slice(&appended.tail);
                bytes
            }
            _ => return None,
        };
        String::from_utf8(bytes).ok()
    }
}

#[test]
fn the_later_edit_wins_and_the_other_is_listed() {
    let mut world = World::default();
    let base = world.add("x.md", Some("base"), 1, &[], false);
    let early = world.add("x.md", Some("early"), 2, &[&base], false);
    let late = world.add("x.md", Some("late"), 3, &[&base], false);

    let resolution = resolve(&[late.clone(), early.clone()], &world);

    assert_eq!(world.text(&resolution).as_deref(), Some("late"));
    assert_eq!(resolution.versions, vec![late.id]);
    assert_eq!(resolution.losers, vec![early]);
}

#[test]
fn an_adopted_version_loses_to_every_edit_whatever_its_clock() {
    let mut world = World::default();
    let edit = world.add("x.md", Some("edit"), 1, &[], false);
    let adopted = world.add("x.md", Some("stale"), 9_999, &[], true);

    let resolution = resolve(&[edit, adopted], &world);

    assert_eq!(world.text(&resolution).as_deref(), Some("edit"));
}

#[test]
fn a_tombstone_loses_to_any_content_and_is_settled_by_it() {
    let mut world = World::default();
    let base = world.add("x.md", Some("base"), 1, &[], false);
    let edit = world.add("x.md", Some("edit"), 2, &[&base], false);
    let gone = world.add("x.md", None, 3, &[&base], false);

    let resolution = resolve(&[gone.clone(), edit.clone()], &world);

    let mut both = vec![gone.id, edit.id];
    both.sort_unstable();
    assert_eq!(world.text(&resolution).as_deref(), Some("edit"));
    assert_eq!(resolution.versions, both);
    assert!(!resolution.is_conflict());
}

#[test]
fn equal_edits_are_one() {
    let mut world = World::default();
    let base = world.add("x.md", Some("base"), 1, &[], false);
    let one = world.add("x.md", Some("same"), 2, &[&base], false);
    let two = world.add("x.md", Some("same"), 3, &[&base], false);

    let resolution = resolve(&[one, two], &world);

    assert_eq!(resolution.versions.len(), 2);
    assert!(!resolution.is_conflict());
}

#[test]
fn appended_lines_of_every_side_are_there_once_in_order() {
    let mut world = World::default();
    let base = world.add("l.jsonl", Some("0\n"), 1, &[], false);
    let a1 = world.add("l.jsonl", Some("0\na1\n"), 2, &[&base], false);
    let a2 = world.add("l.jsonl", Some("0\na1\na2\n"), 5, &[&a1], false);
    let b1 = world.add("l.jsonl", Some("0\nb1\n"), 3, &[&base], false);

    let resolution = resolve(&[a2.clone(), b1.clone()], &world);

    assert_eq!(world.text(&resolution).as_deref(), Some("0\na1\nb1\na2\n"));
    assert!(!resolution.is_conflict());
    let merged = world.add("l.jsonl", Some("0\na1\nb1\na2\nm\n"), 6, &[&a2, &b1], false);
    let c = world.add("l.jsonl", Some("0\na1\nc\n"), 7, &[&a1], false);
    let again = resolve(&[merged, c], &world);
    assert_eq!(world.text(&again).as_deref(), Some("0\na1\nb1\na2\nm\nc\n"));
}

#[test]
fn very_many_concurrent_appends_cost_each_a_bounded_number_of_reads_and_lose_nothing() {
    const MANY: u64 = 500;
    const MAX_READS_EACH: usize = 2 * MAX_MERGED_HEADS;
    let mut world = World::default();
    let base = world.add("a.jsonl", Some("0\n"), 1, &[], false);
    let heads: Vec<Stored> =
        (1..=MANY).map(|n| world.add("a.jsonl", Some(&format!("0\n{n}\n")), 1 + n, &[&base], false)).collect();

    let resolution = resolve(&heads, &world);

    let reads = world.reads.get() / heads.len();
    assert!(reads <= MAX_READS_EACH, "{reads} reads for each head");
    assert_eq!(resolution.versions.len() + resolution.losers.len(), heads.len(), "each is in the file or listed");
    let text = world.text(&resolution).expect("a text");
    assert_eq!(text.lines().count(), 1 + resolution.versions.len());
}

#[test]
fn a_rewrite_of_a_log_is_not_merged() {
    let mut world = World::default();
    let base = world.add("l.jsonl", Some("0\n1\n"), 1, &[], false);
    let rewritten = world.add("l.jsonl", Some("X\n1\n2\n"), 2, &[&base], false);
    let appended = world.add("l.jsonl", Some("0\n1\n3\n"), 3, &[&base], false);

    let resolution = resolve(&[rewritten.clone(), appended], &world);

    assert_eq!(world.text(&resolution).as_deref(), Some("0\n1\n3\n"));
    assert_eq!(resolution.losers, vec![rewritten]);
}

#[test]
fn of_truncated_copies_of_one_log_the_complete_one_wins() {
    let mut world = World::default();
    let heads = [
        world.add("l.jsonl", Some("1\n2\n"), 30, &[], true),
        world.add("l.jsonl", Some("1\n2\n3\n"), 10, &[], true),
        world.add("l.jsonl", Some("1\n"), 20, &[], true),
    ];

    let resolution = resolve(&heads, &world);

    assert_eq!(world.text(&resolution).as_deref(), Some("1\n2\n3\n"));
    assert!(!resolution.is_conflict());
}

#[test]
fn bytes_that_are_not_here_make_the_path_wait() {
    let mut world = World::default();
    let base = world.add("l.jsonl", Some("0\n"), 1, &[], false);
    let a = world.add("l.jsonl", Some("0\na\n"), 2, &[&base], false);
    let b = world.add("l.jsonl", Some("0\nb\n"), 3, &[&base], false);
    world.bytes.remove(&ContentHash::of(b"0\na\n"));

    let resolution = resolve(&[a, b], &world);

    assert!(matches!(resolution.outcome, Outcome::Pending(_)));
}

fn exec(resolution: &Resolution) -> Option<bool> {
    match &resolution.outcome {
        Outcome::Content(content) => exec_of(content),
        Outcome::Appended(appended) => Some(appended.kind == ContentKind::File { exec: true }),
        _ => None,
    }
}

#[test]
fn a_change_of_the_executable_bit_alone_stands_beside_any_edit() {
    for path in ["x.bin", "x.log"] {
        for was in [false, true] {
            for (bit_hlc, edit_hlc) in [(2, 3), (3, 2)] {
                let mut world = World::default();
                let base = world.file(path, "base\n", was, 1, &[]);
                let bit = world.file(path, "base\n", !was, bit_hlc, &[&base]);
                let edit = world.file(path, "rewritten\n", was, edit_hlc, &[&base]);

                let resolution = resolve(&[bit.clone(), edit.clone()], &world);

                let mut both = vec![bit.id, edit.id];
                both.sort_unstable();
                assert_eq!(world.text(&resolution).as_deref(), Some("rewritten\n"));
                assert_eq!((exec(&resolution), resolution.is_conflict()), (Some(!was), false));
                assert_eq!(resolution.versions, both);
            }
        }
    }
}

#[test]
fn equal_bytes_take_the_bit_that_was_changed_and_a_conflict_of_others_keeps_it() {
    let mut world = World::default();
    let base = world.file("x.bin", "base", true, 1, &[]);
    let bit = world.file("x.bin", "base", false, 2, &[&base]);
    let same = world.file("x.bin", "new", true, 3, &[&base]);
    let same_without = world.file("x.bin", "new", false, 4, &[&base]);
    let other = world.file("x.bin", "other", true, 5, &[&base]);

    let united = resolve(&[same.clone(), same_without], &world);
    assert_eq!((exec(&united), united.is_conflict()), (Some(false), false));
    assert_eq!(united.versions.len(), 2);

    let beside = resolve(&[other, bit, same.clone()], &world);
    assert_eq!((world.text(&beside).as_deref(), exec(&beside)), (Some("other"), Some(false)));
    assert_eq!(beside.losers, vec![same]);
}

#[test]
fn without_an_ancestor_the_bit_decides_nothing() {
    let mut world = World::default();
    let plain = world.file("x.bin", "same", false, 1, &[]);
    let exec_head = world.file("x.bin", "same", true, 2, &[]);

    let resolution = resolve(&[exec_head, plain.clone()], &world);

    assert_eq!((exec(&resolution), resolution.losers), (Some(true), vec![plain]));
}

#[test]
fn going_back_to_what_was_is_an_edit_and_no_change_of_the_bit() {
    let mut world = World::default();
    let base = world.file("x.bin", "base", false, 1, &[]);
    let away = world.file("x.bin", "away", false, 2, &[&base]);
    let back = world.file("x.bin", "base", false, 3, &[&away]);
    let edit = world.file("x.bin", "edit", false, 4, &[&base]);

    assert_eq!(resolve(&[back.clone(), edit], &world).losers, vec![back]);
}

proptest! {
    #[test]
    fn executable_bits_merge_alike_in_whatever_order_the_heads_came(
        edits in proptest::collection::vec(("[ab0]", any::<bool>(), 2u64..5, any::<bool>()), 2..6), was: bool,
        line_file: bool, seed in 0usize..720,
    ) {
        let path = if line_file { "x.log" } else { "x.bin" };
        let mut world = World::default();
        let base = world.file(path, "0\n", was, 1, &[]);
        let middle = world.file(path, "0\n1\n", was, 2, &[&base]);
        let mut heads: Vec<Stored> = Vec::new();
        for (text, bit, hlc, late) in &edits {
            let parent = if *late { &middle } else { &base };
            let text = if text == "0" { "0\n".to_owned() } else { format!("0\n{text}\n") };
            heads.push(world.file(path, &text, *bit, 1 + hlc, &[parent]));
        }
        let ours = |id: &VersionId, resolution: &Resolution| {
            resolution.versions.contains(id) || resolution.losers.iter().any(|head| head.id == *id)
        };

        let mut first = resolve(&heads, &world);
        let by = seed % heads.len();
        heads.rotate_left(by);
        if seed % 2 == 0 {
            heads.reverse();
        }
        let mut second = resolve(&heads, &world);

        // Nobody is forgotten: each head is in the result or listed.
        prop_assert!(heads.iter().all(|head| ours(&head.id, &first)), "{:?}", first);
        first.losers.sort_by_key(|head| head.id);
        second.losers.sort_by_key(|head| head.id);
        prop_assert_eq!(first, second);
    }

    #[test]
    fn resolving_is_a_pure_function_of_the_set_of_heads(
        lines in proptest::collection::vec("[a-c]{0,3}", 2..6), line_file: bool, seed in 0usize..720,
    ) {
        let path = if line_file { "x.log" } else { "x.md" };
        let mut world = World::default();
        let base = world.add(path, Some("0\n"), 1, &[], false);
        let mut heads: Vec<Stored> = lines
            .iter()
            .enumerate()
            .map(|(i, line)| world.add(path, Some(&format!("0\n{line}\n")), 2 + (i as u64 % 2), &[&base], false))
            .collect();

        let first = resolve(&heads, &world);
        let by = seed % heads.len();
        heads.rotate_left(by);
        if seed % 2 == 0 {
            heads.reverse();
        }
        let mut second = resolve(&heads, &world);

        second.losers.sort_by_key(|head| head.id);
        let mut first = first;
        first.losers.sort_by_key(|head| head.id);
        prop_assert_eq!(first, second);
    }
}
