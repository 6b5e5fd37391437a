//! Laws of the view over the catalog in memory, against a plain model of the same archive.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;
use crate::model::{ContentKind, Hlc, Reason};

const ORIGINS: [&str; 3] = ["desk-aaaaaa", "laptop-bbbbbb", "server-cccccc"];
/// Among them: a file and a folder of one name, deep folders, names beside others, no extension, a leading dot.
const PATHS: [&str; 12] = [
    "a",
    "a/b",
    "a/b/c.md",
    "notes.md",
    "notes.desk-aaaaaa.md",
    "logs/run.jsonl",
    "logs/run.laptop-bbbbbb.jsonl",
    "logs/old/x",
    "logs/old",
    ".profile",
    "deep/er/and/deeper.txt",
    "line\nend",
];
const CONTENTS: [&str; 6] = ["", "one\n", "one\ntwo\n", "one\ntwo\nthree\n", "other\n", "o"];

#[derive(Clone, Debug)]
struct Step {
    origin: usize,
    path: usize,
    content: Option<usize>,
    archive: bool,
    concurrent: bool,
    is_move: bool,
    tick: u64,
}

impl Step {
    fn put(&self, wall_ms: u64) -> MemoryPut<'static> {
        let reason = if self.is_move { Reason::Move } else { Reason::User };
        let kind = ContentKind::File { exec: self.path % 4 == 3 };
        MemoryPut {
            origin: ORIGINS[self.origin],
            path: PATHS[self.path],
            state: self.content.map(|content| (CONTENTS[content].as_bytes(), kind)).ok_or(reason),
            hlc: Hlc::new(1_784_034_732_045 + wall_ms, u16::try_from(self.tick % 3).expect("small")),
            archive: self.archive,
            concurrent: self.concurrent,
        }
    }
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let content = prop_oneof![4 => (0..CONTENTS.len()).prop_map(Some), 1 => Just(None)];
    let step = (0..ORIGINS.len(), 0..PATHS.len(), content, any::<bool>(), any::<bool>(), any::<bool>(), 0u64..1000);
    let step = step.prop_map(|(origin, path, content, archive, concurrent, is_move, tick)| Step {
        origin,
        path,
        content,
        archive,
        concurrent,
        is_move,
        tick,
    });
    proptest::collection::vec(step, 0..most)
}

fn view_of(steps: &[Step]) -> View<MemoryCatalog> {
    let view = View::new(MemoryCatalog::new());
    for (at, step) in (0..).zip(steps) {
        view.catalog().put(&step.put(at));
    }
    view
}

/// A whole listing, `limit` lines at a time, without `.` and `..`.
fn list(view: &View<MemoryCatalog>, node: NodeId, limit: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let offset = entries.last().map_or(0, |entry| entry.offset);
        let page = view.read_dir(node, offset, limit).expect("a folder");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= limit);
        entries.extend(page);
    }
    assert_eq!(entries[0].name, ".");
    assert_eq!(entries[1].name, "..");
    entries.split_off(2)
}

/// Everything in the view: (folder, name) -> what it names, and each file's path.
fn walk(view: &View<MemoryCatalog>) -> BTreeMap<(NodeId, String), (String, Node)> {
    walk_from(view, View::<MemoryCatalog>::root())
}

/// Everything below a folder.
fn walk_from(view: &View<MemoryCatalog>, top: NodeId) -> BTreeMap<(NodeId, String), (String, Node)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(String::new(), top)];
    while let Some((path, folder)) = folders.pop() {
        for entry in list(view, folder, 1000) {
            let path = if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
            if entry.node.attr.kind == NodeKind::Folder {
                folders.push((path.clone(), entry.node.id));
            }
            let before = found.insert((folder, entry.name.clone()), (path, entry.node));
            assert!(before.is_none(), "{:?} is listed twice", entry.name);
        }
    }
    found
}

/// The folder of the moment at which the step of this number had just been taken.
fn moment_folder(view: &View<MemoryCatalog>, step: u64) -> Node {
    let times = view.lookup(NodeId::ROOT, OsStr::new("at")).expect("a folder");
    let name = moment::moment_name(moment::end_of(1_784_034_732_045 + step));
    view.lookup(times.id, OsStr::new(&name)).expect("a moment")
}

fn files_below(view: &View<MemoryCatalog>, top: &str) -> BTreeMap<String, Vec<u8>> {
    let prefix = format!("{top}/");
    let nodes = walk(view).into_values().filter(|(_, node)| node.attr.kind != NodeKind::Folder);
    let below = nodes.filter_map(|(path, node)| Some((path.strip_prefix(&prefix)?.to_owned(), node)));
    below.map(|(path, node)| (path, view.read(node.id, 0, 1 << 20).expect("bytes"))).collect()
}

/// The files below a folder: path -> bytes.
fn files_in(view: &View<MemoryCatalog>, top: NodeId) -> BTreeMap<String, Vec<u8>> {
    let nodes = walk_from(view, top).into_values().filter(|(_, node)| node.attr.kind != NodeKind::Folder);
    nodes.map(|(path, node)| (path, view.read(node.id, 0, 1 << 20).expect("bytes"))).collect()
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    pairs.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
}

/// What is put, and what `merged/` shows then.
type Union<'a> = (&'a [MemoryPut<'a>], &'a [(&'a str, &'a str)]);

fn archived<'a>(origin: &'a str, path: &'a str, text: &'a str) -> MemoryPut<'a> {
    MemoryPut { archive: true, ..MemoryPut::file(origin, path, text.as_bytes(), 5) }
}

#[test]
fn archive_files_are_united_as_the_table_says() {
    let [desk, laptop, server] = ORIGINS;
    let table: [Union<'_>; 7] = [
        (&[archived(desk, "l.md", "x"), archived(laptop, "l.md", "x")], &[("l.md", "x")]),
        (&[archived(desk, "l.md", "x"), archived(laptop, "l.md", "xy")], &[("l.md", "xy")]),
        (
            &[archived(desk, "l.md", "x"), archived(laptop, "l.md", "y"), archived(server, "l.md", "xz")],
            &[("l.laptop-bbbbbb.md", "y"), ("l.server-cccccc.md", "xz")],
        ),
        (
            &[archived(desk, "l", "x"), MemoryPut::file(laptop, "l", b"shared", 5)],
            &[("l", "shared"), ("l.desk-aaaaaa", "x")],
        ),
        (
            &[MemoryPut::file(desk, "l", b"file", 5), MemoryPut::file(laptop, "l/inner", b"inner", 5)],
            &[("l.desk-aaaaaa", "file"), ("l/inner", "inner")],
        ),
        (
            &[
                archived(desk, "l", "x"),
                archived(laptop, "l", "y"),
                MemoryPut::file(server, "l.desk-aaaaaa", b"own", 5),
            ],
            &[("l.desk-aaaaaa", "own"), ("l.laptop-bbbbbb", "y")],
        ),
        (
            &[
                archived(desk, "l.md", "x"),
                MemoryPut::file(desk, "l.md", b"y", 5),
                MemoryPut::file(desk, "l.md/z", b"z", 5),
            ],
            &[("l.desk-aaaaaa.md", "y"), ("l.desk-aaaaaa~2.md", "x"), ("l.md/z", "z")],
        ),
    ];

    for (puts, expected) in table {
        let view = View::new(MemoryCatalog::new());
        for put in puts {
            view.catalog().put(put);
        }
        assert_eq!(files_below(&view, "merged"), texts(expected));
    }
}

#[test]
fn a_prefix_is_known_once_its_bytes_arrive() {
    let view = View::new(MemoryCatalog::new());
    view.catalog().put(&archived(ORIGINS[0], "l.md", "x"));
    view.catalog().put(&archived(ORIGINS[1], "l.md", "xy"));
    view.catalog().lose_content(b"x");
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder");
    let names = || list(&view, merged.id, 10).into_iter().map(|entry| entry.name).collect::<Vec<_>>();

    assert_eq!(names().len(), 2);
    view.catalog().bring_content(b"x");
    assert_eq!(names(), ["l.md"]);
}

#[test]
fn history_names_say_when_and_who_and_twins_are_told_apart() {
    let view = View::new(MemoryCatalog::new());
    let [desk, laptop, _] = ORIGINS;
    view.catalog().put(&MemoryPut::file(desk, "n.md", b"1", 1_784_034_732_045));
    view.catalog().put(&MemoryPut::file(laptop, "n.md", b"2", 1_784_034_732_045));
    view.catalog().put(&MemoryPut { concurrent: true, ..MemoryPut::file(laptop, "n.md", b"3", 1_784_034_732_045) });

    let names: Vec<String> = files_below(&view, "history/n.md").into_keys().collect();

    assert_eq!(names.len(), 3);
    assert_eq!(names[0], "2026-07-14T13-12-12.045Z-desk-aaaaaa");
    assert_eq!(names[1], "2026-07-14T13-12-12.045Z-laptop-bbbbbb");
    assert!(names[2].starts_with("2026-07-14T13-12-12.045Z-laptop-bbbbbb~"));
}

#[test]
fn a_moment_has_one_folder_and_every_other_spelling_is_a_link_to_it() {
    let clock = std::sync::Arc::new(crate::env::ManualClock::new(1_784_034_732_045));
    let view = view_of(&[]).with_clock(clock.clone());
    let at = view.lookup(NodeId::ROOT, OsStr::new("at")).expect("a folder");
    let target = |name: &str| {
        let link = view.lookup(at.id, OsStr::new(name)).expect("a moment");
        assert_eq!((link.attr.kind, view.is_lasting(link.id)), (NodeKind::Link, false), "{name}");
        let target = String::from_utf8(view.read_link(link.id).expect("a link")).expect("text");
        assert_eq!(link.attr.size, target.len() as u64);
        let folder = view.lookup(at.id, OsStr::new(&target)).expect("its folder");
        assert_eq!((folder.attr.kind, view.is_lasting(folder.id)), (NodeKind::Folder, true), "{name}");
        target
    };

    assert_eq!(target("1h"), "2026-07-14T12-12-12.999Z");
    assert_eq!(target("2026-07-01"), "2026-07-01T23-59-59.999Z");
    assert_eq!(target("2026-07-01T10:00:00+02:00"), "2026-07-01T08-00-00.999Z");
    let listed = list(&view, at.id, 2);
    assert_eq!(listed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), moment::LISTED);
    for entry in listed {
        assert_eq!(view.lookup(at.id, OsStr::new(&entry.name)).expect("what is listed is found"), entry.node);
    }
    clock.advance(3_600_000);
    assert_eq!(target("1h"), "2026-07-14T13-12-12.999Z");
    assert!(matches!(view.lookup(at.id, OsStr::new("soon")), Err(ViewError::NotFound { .. })));
}

#[test]
fn a_clock_that_steps_back_moves_the_spellings_and_nothing_that_was_recorded() {
    const NOW: u64 = 1_784_034_732_045;
    let clock = |wall_ms| std::sync::Arc::new(crate::env::ManualClock::new(wall_ms));
    let view = view_of(&[]).with_clock(clock(NOW));
    view.catalog().put(&MemoryPut::file(ORIGINS[0], "a.md", b"one", NOW));
    let named = |view: &View<MemoryCatalog>, path: &[&str]| {
        path.iter().fold(NodeId::ROOT, |node, name| view.lookup(node, OsStr::new(name)).expect("a name").id)
    };
    let (merged, then) = (named(&view, &["merged", "a.md"]), named(&view, &["at", "2026-07-14T13-12-12.045Z", "a.md"]));
    let spelled = view.read_link(named(&view, &["at", "1h"])).expect("a link");

    let view = view.with_clock(clock(NOW - 7_200_000));

    assert_eq!(named(&view, &["merged", "a.md"]), merged);
    assert_eq!(named(&view, &["at", "2026-07-14T13-12-12.045Z", "a.md"]), then);
    assert_eq!(view.attr(merged).expect("a file").mtime_ms, NOW);
    assert!(view.read_link(named(&view, &["at", "1h"])).expect("a link") < spelled);
}

#[test]
fn a_moment_of_which_something_was_let_go_shows_nothing_and_says_why() {
    let view = View::new(MemoryCatalog::new());
    view.catalog().put(&MemoryPut::file(ORIGINS[0], "a.md", b"one", 1_784_034_732_045));
    let folder = moment_folder(&view, 0);
    assert_eq!(files_in(&view, folder.id).len(), 1);

    view.catalog().let_go_before(Hlc::new(1_784_034_732_050, 0));

    let at = view.lookup(NodeId::ROOT, OsStr::new("at")).expect("a folder");
    let refused = view.lookup(at.id, OsStr::new("2026-07-14T13-12-12.045Z")).expect_err("let go").to_string();
    assert!(refused.contains("let go") && refused.contains("2026-07-14T13-12-12.050Z"), "{refused}");
    assert!(view.lookup(at.id, OsStr::new("2026-07-14T13-12-12.050Z")).is_ok());
}

#[test]
fn words_are_a_folder_of_what_holds_them_and_follow_what_is_written() {
    let view = View::new(MemoryCatalog::new());
    let [desk, laptop, _] = ORIGINS;
    view.catalog().put(&MemoryPut::file(desk, "docs/a.md", b"red apple", 5));
    view.catalog().put(&MemoryPut::file(desk, "docs/b.md", b"green pear", 5));
    view.catalog().put(&archived(laptop, "logs/x.md", "apple log"));
    let searches = view.lookup(NodeId::ROOT, OsStr::new("search")).expect("a folder").id;
    let folder = |words: &str| view.lookup(searches, OsStr::new(words)).expect("a search");
    let found = |words: &str| files_in(&view, folder(words).id).into_keys().collect::<Vec<_>>();

    assert_eq!(found("apple"), ["docs/a.md", "logs/x.md"]);
    assert_eq!(found("apple red"), ["docs/a.md"]);
    assert!(found("plum").is_empty());
    assert!(list(&view, searches, 10).is_empty());
    assert_eq!(view.read_dir(folder("apple").id, 0, 2).expect("a folder")[1].node.id, searches);
    assert!(!view.is_lasting(folder("apple").id));
    assert!(matches!(view.lookup(searches, OsStr::new(".git")), Err(ViewError::NotFound { .. })));

    let (before, same) = (folder("apple").id, folder("pear").id);
    let change = view.catalog().put(&MemoryPut::file(desk, "docs/b.md", b"green apple", 6));
    assert_eq!(found("apple"), ["docs/a.md", "docs/b.md", "logs/x.md"]);
    assert_ne!(folder("apple").id, before, "something else is found");
    let docs = view.lookup(same, OsStr::new("docs")).expect("still known by number").id;
    let stale = view.refresh(&[change]).expect("known paths");
    assert!(stale.contains(&Invalidation { parent: docs, name: Some("b.md".to_owned()) }));
}

#[test]
fn what_can_have_no_name_in_merged_is_in_origins() {
    let [desk, laptop, _] = ORIGINS;
    let long = format!("{}.md", "n".repeat(250));
    let view = view_of(&[]);
    for (origin, text) in [(desk, "of desk"), (laptop, "of laptop")] {
        view.catalog().put(&archived(origin, &long, text));
        view.catalog().put(&archived(origin, "notes.md", text));
    }
    // Somebody's own file has the name that one of them would have had.
    view.catalog().put(&MemoryPut::file(laptop, "notes.desk-aaaaaa.md", b"its own", 9));

    let merged = files_below(&view, "merged");
    assert_eq!(merged, texts(&[("notes.desk-aaaaaa.md", "its own"), ("notes.laptop-bbbbbb.md", "of laptop")]));
    let of_desk = files_below(&view, &format!("origins/{desk}"));
    assert_eq!(of_desk, texts(&[(&long, "of desk"), ("notes.md", "of desk")]));
}

#[test]
fn a_folder_of_a_moment_is_never_younger_than_it() {
    let view = view_of(&[]);
    let wall_ms = 1_784_034_732_045;
    view.catalog().put(&MemoryPut::file(ORIGINS[0], "docs/a.md", b"old", wall_ms));
    view.catalog().put(&MemoryPut::file(ORIGINS[0], "docs/a.md", b"new", wall_ms + 50));

    let moment = moment_folder(&view, 20);

    let docs = view.lookup(moment.id, OsStr::new("docs")).expect("a folder");
    assert_eq!(docs.attr.mtime_ms, wall_ms + 20);
    let late = view.lookup(moment_folder(&view, 70).id, OsStr::new("docs")).expect("a folder");
    assert_eq!(late.attr.mtime_ms, wall_ms + 50);
}

#[test]
fn names_that_no_file_can_have_are_refused_and_others_are_absent() {
    let view = view_of(&[]);

    let long = "n".repeat(256);
    assert!(matches!(view.lookup(NodeId::ROOT, OsStr::new(&long)), Err(ViewError::NameTooLong { bytes: 256 })));
    let bytes = std::os::unix::ffi::OsStrExt::from_bytes(&[0xff, 0xfe]);
    assert!(matches!(view.lookup(NodeId::ROOT, bytes), Err(ViewError::NotFound { .. })));
    let readme = view.lookup(NodeId::ROOT, OsStr::new("README.txt")).expect("the readme");
    assert!(matches!(view.lookup(readme.id, OsStr::new("x")), Err(ViewError::NotFolder { .. })));
    assert!(matches!(view.read(NodeId::ROOT, 0, 1), Err(ViewError::IsFolder { .. })));
    assert!(matches!(view.read_link(readme.id), Err(ViewError::NotLink { .. })));
    assert!(matches!(view.attr(NodeId(0)), Err(ViewError::Unknown { .. })));
    assert_eq!(readme.attr.size, view.read(readme.id, 0, 1 << 20).expect("bytes").len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_listing_is_the_same_however_it_is_asked_for(steps in steps(40), limit in 1usize..7) {
        let view = view_of(&steps);

        for ((folder, name), (_, node)) in walk(&view) {
            let found = view.lookup(folder, OsStr::new(&name));
            prop_assert_eq!(found.expect("what is listed is found"), node);
            prop_assert_eq!(view.attr(node.id).expect("a node"), node.attr);
            if node.attr.kind == NodeKind::Folder {
                prop_assert_eq!(list(&view, node.id, limit), list(&view, node.id, 1000));
                let dots = view.read_dir(node.id, 0, 2).expect("a folder");
                prop_assert_eq!((dots[0].node.id, dots[1].node.id), (node.id, folder));
            }
        }
    }

    #[test]
    fn a_moment_shows_what_merged_showed_then(steps in steps(30)) {
        let view = view_of(&steps);

        for taken in 1..=steps.len() {
            let then = files_below(&view_of(&steps[..taken]), "merged");
            let shown = files_in(&view, moment_folder(&view, taken as u64 - 1).id);
            prop_assert_eq!(shown, then, "after {} steps", taken);
        }
    }

    #[test]
    fn refresh_names_what_changed_in_every_moment_that_was_looked_at(steps in steps(20), later in steps(5), looked in proptest::collection::vec(0u64..110, 1..4)) {
        let (earlier, view) = (view_of(&steps), view_of(&steps));
        let folders: Vec<(Node, Node)> = looked.iter().map(|at| (moment_folder(&earlier, *at), moment_folder(&view, *at))).collect();
        let before: Vec<_> = folders.iter().map(|(folder, _)| walk_from(&earlier, folder.id)).collect();

        let changes: Vec<Change> = (100..).zip(&later).map(|(at, step)| view.catalog().put(&step.put(at))).collect();
        let stale: BTreeSet<Invalidation> = view.refresh(&changes).expect("known paths").into_iter().collect();

        for ((old, new), before) in folders.iter().zip(before) {
            prop_assert_eq!(old.id, new.id, "a moment's number depends on nothing else");
            let after = walk_from(&view, new.id);
            for (parent, name) in before.keys().chain(after.keys()) {
                let meaning = |view: &View<MemoryCatalog>| view.lookup(*parent, OsStr::new(name)).ok().map(|node| node.id);
                let named = Invalidation { parent: *parent, name: Some(name.clone()) };
                prop_assert!(meaning(&earlier) == meaning(&view) || stale.contains(&named), "{name:?}");
            }
        }
    }

    #[test]
    fn origins_show_each_machine_as_it_published_and_history_shows_all(steps in steps(40)) {
        let view = view_of(&steps);

        let mut newest: BTreeMap<(usize, usize), (Hlc, Option<usize>)> = BTreeMap::new();
        for (at, step) in (0..).zip(&steps) {
            newest.insert((step.origin, step.path), (step.put(at).hlc, step.content));
        }
        let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for ((origin, path), (_, content)) in newest {
            if let Some(content) = content {
                expected.insert(format!("{}/{}", ORIGINS[origin], PATHS[path]), CONTENTS[content].as_bytes().to_vec());
            }
        }
        let shown = files_below(&view, "origins");
        // One origin's own file and folder of one name: the file steps aside, its bytes are there.
        for (path, bytes) in &expected {
            let is_folder = expected.keys().any(|other| other.starts_with(&format!("{path}/")));
            prop_assert!(is_folder || shown.get(path) == Some(bytes), "{path}");
        }
        prop_assert_eq!(shown.len(), expected.len());
        let with_content = steps.iter().filter(|step| step.content.is_some()).count();
        prop_assert_eq!(files_below(&view, "history").len(), with_content);
    }

    #[test]
    fn merged_hides_no_archive_file_but_equals_and_prefixes(steps in steps(40)) {
        let view = view_of(&steps);
        let shown: BTreeSet<Vec<u8>> = files_below(&view, "merged").into_values().collect();

        let mut last: BTreeMap<(usize, usize), Option<usize>> = BTreeMap::new();
        // A file whose only possible name is another's own is left to `origins/`.
        let is_taken = |path: &str| PATHS.iter().any(|other| naming::before_beside(other).iter().any(|base| base == path));
        for step in steps.iter().filter(|step| step.archive && !is_taken(PATHS[step.path])) {
            last.insert((step.origin, step.path), step.content);
        }
        for content in last.into_values().flatten() {
            let bytes = CONTENTS[content].as_bytes();
            prop_assert!(shown.iter().any(|shown| shown.starts_with(bytes)), "{:?} in {shown:?}", CONTENTS[content]);
        }
    }

    #[test]
    fn a_node_reads_the_same_bytes_at_any_place_whatever_comes_later(steps in steps(30), later in steps(30), offset in 0u64..20, len in 0usize..20) {
        let view = view_of(&steps);
        let files: Vec<Node> = walk(&view).into_values().map(|(_, node)| node).filter(|node| node.attr.kind == NodeKind::File).collect();
        let whole: Vec<Vec<u8>> = files.iter().map(|node| view.read(node.id, 0, 1 << 20).expect("bytes")).collect();

        for (at, step) in (100..).zip(&later) {
            view.catalog().put(&step.put(at));
        }

        for (node, whole) in files.iter().zip(whole) {
            let start = usize::try_from(offset).expect("small").min(whole.len());
            let expected = &whole[start..(start + len).min(whole.len())];
            prop_assert_eq!(view.read(node.id, offset, len).expect("bytes"), expected);
            prop_assert_eq!(view.attr(node.id).expect("a node").size, whole.len() as u64);
        }
    }

    #[test]
    fn refresh_names_everything_that_changed_its_meaning(steps in steps(25), later in steps(6)) {
        let (earlier, view) = (view_of(&steps), view_of(&steps));
        let before = walk(&earlier);

        let changes: Vec<Change> = (100..).zip(&later).map(|(at, step)| view.catalog().put(&step.put(at))).collect();
        let stale: BTreeSet<Invalidation> = view.refresh(&changes).expect("known paths").into_iter().collect();

        // Asked by number, as the kernel does: it may still hold a folder that no name leads to any more.
        let after = walk(&view);
        let keys: BTreeSet<&(NodeId, String)> = before.keys().chain(after.keys()).collect();
        for (parent, name) in keys {
            let meaning = |view: &View<MemoryCatalog>| view.lookup(*parent, OsStr::new(name)).ok().map(|node| node.id);
            let (old, new) = (meaning(&earlier), meaning(&view));
            if old == new {
                continue;
            }
            prop_assert!(stale.iter().any(|stale| stale.parent == *parent), "listing of {name:?}: {old:?} {new:?}");
            // A version's name is never remembered as absent, so it needs no notice when it comes.
            let may_come_silently = old.is_none() && naming::parse_time_name(name).is_some();
            let named = Invalidation { parent: *parent, name: Some(name.clone()) };
            prop_assert!(may_come_silently || stale.contains(&named), "{name:?}: {old:?} {new:?}");
        }
    }

    #[test]
    fn starred_is_what_merged_shows_of_the_paths_with_a_star(steps in steps(40), marked in proptest::collection::btree_set(0..PATHS.len(), 0..5)) {
        let view = view_of(&steps);
        let view = &view;
        marked.iter().for_each(|path| drop(view.catalog().star(PATHS[*path], true)));

        let (merged, starred) = (files_below(view, "merged"), files_below(view, "starred"));
        let bases = |name: &str| std::iter::once(name.to_owned()).chain(naming::before_beside(name)).collect::<Vec<_>>();
        let is_marked = |path: &String| {
            let (folder, name) = path.rsplit_once('/').map_or((String::new(), path.as_str()), |(folder, name)| (format!("{folder}/"), name));
            marked.iter().any(|at| bases(name).iter().any(|base| *PATHS[*at] == format!("{folder}{base}")))
        };

        prop_assert!(starred.iter().all(|(path, bytes)| merged.get(path) == Some(bytes) && is_marked(path)), "{:?}", starred);
        // Of names that might be beside a marked one, only those without another reading are sure to be shown.
        let is_sure = |path: &&String| naming::before_beside(path).is_empty() && marked.iter().any(|at| PATHS[*at] == path.as_str());
        prop_assert!(merged.keys().filter(is_sure).all(|path| starred.contains_key(path)));
    }

    #[test]
    fn refresh_names_what_a_star_changed(steps in steps(25), marked in proptest::collection::vec((0..PATHS.len(), any::<bool>()), 0..4), then in (0..PATHS.len(), any::<bool>())) {
        let views = [view_of(&steps), view_of(&steps)];
        for view in &views {
            marked.iter().for_each(|(path, on)| drop(view.catalog().star(PATHS[*path], *on)));
        }
        let [earlier, view] = views;
        let before = walk(&earlier);

        let changes = view.catalog().star(PATHS[then.0], then.1);
        let stale: BTreeSet<Invalidation> = view.refresh(&changes).expect("known paths").into_iter().collect();

        let after = walk(&view);
        for (parent, name) in before.keys().chain(after.keys()) {
            let meaning = |view: &View<MemoryCatalog>| view.lookup(*parent, OsStr::new(name)).ok().map(|node| node.id);
            let (old, new) = (meaning(&earlier), meaning(&view));
            let named = Invalidation { parent: *parent, name: Some(name.clone()) };
            prop_assert!(old == new || stale.contains(&named), "{name:?}: {old:?} {new:?}");
        }
    }

    #[test]
    fn refresh_leaves_alone_what_did_not_change(steps in steps(40)) {
        let view = view_of(&steps);
        view.catalog().put(&MemoryPut::file(ORIGINS[0], "logs/old/x", b"x", 90));
        view.catalog().put(&MemoryPut::file(ORIGINS[0], "logs/old/y", b"y", 90));

        let change = view.catalog().put(&MemoryPut::file(ORIGINS[0], "logs/old/x", b"new", 91));
        let stale = view.refresh(&[change]).expect("known paths");

        // The folder has another file: forgetting its name would cost the kernel all of it.
        let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
        prop_assert!(stale.iter().all(|stale| stale.parent != merged && stale.parent != NodeId::ROOT));
    }
}
