//! The walk, single looks and reads, on a real disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use larder_patterns::{AdmittedPath, MAX_COMPONENTS, RelPath, Rules};
use rustix::fs::{CWD, FileType, Mode};

use super::scratch::{Scratch, paths, rules};
use super::*;

fn all() -> Rules {
    rules(&["data/**"])
}

fn walk_with(scratch: &Scratch, rules: &Rules, change: impl FnOnce(&mut WalkOptions)) -> Listing {
    let mut options = WalkOptions::default();
    change(&mut options);
    walk(&scratch.root, rules, &options).expect("walks")
}

fn admitted(scratch: &Scratch, path: &str) -> AdmittedPath {
    all().admit(&scratch.path(path)).expect("admitted")
}

fn stat_of(scratch: &Scratch, path: &str) -> Stat {
    let found = stat(&scratch.root, &scratch.path(path)).expect("looks");
    found.expect("is there").1
}

fn fifo(scratch: &Scratch, path: &str) {
    let made = rustix::fs::mknodat(CWD, scratch.at(path), FileType::Fifo, Mode::RWXU, 0);
    made.expect("makes a FIFO");
}

// --- the walk

#[test]
fn a_walk_lists_what_the_rules_admit_in_path_order() {
    let scratch = Scratch::new();
    for path in ["data/a/x.md", "data/a.md", "data/a-b/y.md", "data/a0", "data/.hidden", "data/z/deep/er/x", "note.md"]
    {
        scratch.write(path, "x");
    }
    scratch.write("data/.env", "denied");
    scratch.write("data/node_modules/p/x.js", "denied");
    scratch.folder("data/empty");

    let listing = scratch.walk(&all());

    let expected = ["data/.hidden", "data/a-b/y.md", "data/a.md", "data/a/x.md", "data/a0", "data/z/deep/er/x"];
    assert_eq!(paths(&listing), expected);
    assert_eq!(listing.problems, []);
    assert_eq!(listing.dirs_seen, 8, "root, data, a, a-b, empty, z, deep, er; not node_modules");
    assert!(listing.find("data/a.md").is_some() && listing.find("data/b").is_none());
}

#[test]
fn any_number_of_threads_lists_the_same() {
    let scratch = Scratch::new();
    for folder in 0..20 {
        for file in 0..10 {
            scratch.write(&format!("data/{}/{folder}/{file}.md", folder % 3), "x");
        }
    }
    let one = scratch.walk(&all());

    for threads in [0, 2, 8, 1000] {
        let many = walk_with(&scratch, &all(), |options| options.threads = threads);
        assert_eq!(paths(&many), paths(&one), "{threads} threads");
        assert_eq!(many.dirs_seen, one.dirs_seen);
    }
    assert_eq!(one.entries.len(), 200);
}

#[test]
fn an_entry_has_the_facts_of_its_file() {
    let scratch = Scratch::new();
    scratch.write("data/run.sh", "12345");
    fs::set_permissions(scratch.at("data/run.sh"), fs::Permissions::from_mode(0o755)).expect("chmod");
    scratch.write("data/empty", "");
    scratch.link("data/link", "run.sh");

    let listing = scratch.walk(&all());

    let kind = |path| listing.find(path).expect("listed").kind;
    assert_eq!(kind("data/run.sh"), EntryKind::File { exec: true });
    assert_eq!(kind("data/empty"), EntryKind::File { exec: false });
    assert_eq!(kind("data/link"), EntryKind::Link);
    let entry = listing.find("data/run.sh").expect("listed");
    assert_eq!(entry.stat.size, 5);
    assert_eq!(entry.stat.device, scratch.root.device());
    assert_eq!(entry.stat, stat_of(&scratch, "data/run.sh"));
}

#[test]
fn a_linked_folder_is_named_and_never_entered() {
    let scratch = Scratch::new();
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret.md"), "x").expect("writes");
    scratch.write("data/real/x.md", "x");
    scratch.link("data/inside", "real");
    scratch.link("data/outside", outside.path().to_str().expect("utf-8"));
    scratch.link("data/loop", ".");

    let listing = scratch.walk(&all());

    assert_eq!(paths(&listing), ["data/inside", "data/loop", "data/real/x.md"]);
    assert_eq!(listing.linked_dirs, ["data/inside", "data/loop", "data/outside"]);
    let silence = |path| listing.silence(&scratch.path(path));
    assert_eq!(silence("data/outside/secret.md"), Some(Silence::Linked));
    assert_eq!(silence("data/real/gone.md"), None);
}

#[test]
fn a_link_that_leaves_the_root_is_a_problem() {
    let scratch = Scratch::new();
    for (name, target) in [
        ("abs", "/etc/passwd"),
        ("up", "../../x"),
        ("sly", "a/../../../x"),
        ("ok", "../x"),
        ("dangling", "./a//b/../c"),
    ] {
        scratch.link(&format!("data/{name}"), target);
    }

    let listing = scratch.walk(&all());

    assert_eq!(paths(&listing), ["data/dangling", "data/ok"]);
    let shown: Vec<String> = listing.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        [
            "data/abs: it points to the absolute path /etc/passwd",
            "data/sly: it points outside the project, to a/../../../x",
            "data/up: it points outside the project, to ../../x",
        ]
    );
    assert_eq!(read_link(&scratch.root, &scratch.path("data/ok")).expect("reads"), "../x");
    assert!(matches!(read_link(&scratch.root, &scratch.path("data/abs")), Err(ScanError::Link { .. })));
}

#[test]
fn what_has_no_content_is_listed_and_never_opened() {
    let scratch = Scratch::new();
    scratch.write("data/x.md", "x");
    fifo(&scratch, "data/pipe");
    fifo(&scratch, "unlisted-pipe");
    let _socket = UnixListener::bind(scratch.at("data/socket")).expect("binds");

    let listing = scratch.walk(&all());

    assert_eq!(paths(&listing), ["data/x.md"]);
    let found: Vec<_> = listing.problems.iter().map(|problem| (problem.shown.as_str(), problem.what.clone())).collect();
    assert_eq!(
        found,
        [
            ("data/pipe", ProblemKind::NotAFile(NotAFile::Fifo)),
            ("data/socket", ProblemKind::NotAFile(NotAFile::Socket)),
        ]
    );
    assert_eq!(listing.silence(&scratch.path("data/pipe")), Some(Silence::Problem));
    let looked = stat(&scratch.root, &scratch.path("data/pipe"));
    assert!(matches!(looked, Err(ScanError::WrongKind { found: NotAFile::Fifo, .. })));
    // Opening it would wait for a writer for ever.
    let expected = stat_of(&scratch, "data/x.md");
    let read = read(&scratch.root, &admitted(&scratch, "data/pipe"), &expected, 1 << 20, &mut |_| Ok(()));
    assert!(matches!(read, Err(ScanError::WrongKind { .. })));
}

#[test]
fn odd_names_are_listed_by_name_and_stop_nothing() {
    let scratch = Scratch::new();
    scratch.write("data/a\nb\u{1b}[2J.md", "x");
    scratch.write(&format!("data/{}", "n".repeat(255)), "x");
    scratch.write("data/..\\evil", "x");
    let raw = std::ffi::OsStr::from_bytes(b"data/caf\xe9\n.md");
    fs::write(scratch.root.path().join(raw), "x").expect("writes");
    let raw_folder = std::ffi::OsStr::from_bytes(b"data/\xff");
    fs::create_dir(scratch.root.path().join(raw_folder)).expect("makes");

    let listing = scratch.walk(&all());

    assert_eq!(listing.entries.len(), 2);
    let shown: Vec<&str> = listing.problems.iter().map(|problem| problem.shown.as_str()).collect();
    assert_eq!(shown, ["data/..\\\\evil", "data/\\xff", "data/caf\\xe9\\n.md"]);
    assert!(listing.problems.iter().all(|problem| problem.path.is_none()));
}

#[test]
fn a_tree_deeper_than_paths_may_be_is_a_problem_at_the_bound() {
    let scratch = Scratch::new();
    let deep = format!("data/{}", vec!["d"; MAX_COMPONENTS].join("/"));
    scratch.write("data/x", "x");
    scratch.folder(&deep);

    let listing = scratch.walk(&all());

    assert_eq!(paths(&listing), ["data/x"]);
    assert_eq!(listing.problems.len(), 1);
    assert!(matches!(listing.problems[0].what, ProblemKind::Name(_)));
    assert_eq!(listing.dirs_seen, 1 + MAX_COMPONENTS as u64);
}

#[test]
fn a_file_above_the_limit_is_listed_and_its_absence_says_nothing() {
    let scratch = Scratch::new();
    scratch.write("data/at", [0; 100]);
    scratch.write("data/above", [0; 101]);

    let listing = walk_with(&scratch, &all(), |options| options.max_file_bytes = 100);

    assert_eq!(paths(&listing), ["data/at"]);
    let expected = ProblemKind::TooLarge { size_bytes: 101, limit_bytes: 100 };
    let path = scratch.path("data/above");
    assert_eq!(listing.problem(&path).map(|problem| &problem.what), Some(&expected));
    assert_eq!(listing.silence(&path), Some(Silence::Problem));
}

#[test]
fn a_folder_that_may_not_be_read_says_nothing_about_what_is_in_it() {
    let scratch = Scratch::new();
    scratch.write("data/closed/x.md", "x");
    scratch.write("data/open/x.md", "x");
    let closed = scratch.at("data/closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("chmod");
    let may_read_anyway = fs::read_dir(&closed).is_ok();

    let listing = scratch.walk(&all());

    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("chmod");
    if may_read_anyway {
        // The super-user reads everything: then there is nothing to be silent about.
        assert_eq!(paths(&listing), ["data/closed/x.md", "data/open/x.md"]);
    } else {
        assert_eq!(listing.unreadable_dirs, ["data/closed"]);
        assert_eq!(listing.silence(&scratch.path("data/closed/x.md")), Some(Silence::Unreadable));
    }
}

#[test]
fn an_absence_is_believed_only_where_everything_above_was_listed() {
    let scratch = Scratch::new();
    let mut listing = Listing {
        unreadable_dirs: vec!["data/u".into()],
        other_device_dirs: vec!["data/disk".into()],
        ..Listing::default()
    };
    for (path, expected) in [
        ("data/x", None),
        ("data/u/x", Some(Silence::Unreadable)),
        ("data/u/x/y/z", Some(Silence::Unreadable)),
        ("data/ux", None),
        ("data/disk", Some(Silence::OtherDevice)),
        ("data/disk/x", Some(Silence::OtherDevice)),
    ] {
        assert_eq!(listing.silence(&scratch.path(path)), expected, "{path}");
    }

    listing.below = Some(scratch.path("data/u"));
    assert_eq!(listing.silence(&scratch.path("data/x")), Some(Silence::NotWalked));
    assert_eq!(listing.silence(&scratch.path("data/ux")), Some(Silence::NotWalked));

    listing.below = None;
    listing.unreadable_dirs = vec![String::new()];
    assert_eq!(listing.silence(&scratch.path("x")), Some(Silence::Unreadable), "the root was cut short");
}

#[test]
fn another_file_system_is_not_entered() {
    // Every machine has one: /proc is mounted below /.
    let root = Root::open(std::path::Path::new("/")).expect("opens");
    let path = RelPath::parse("proc/self/status").expect("a path");

    let looked = node(&root, &path);
    assert!(matches!(looked, Err(ScanError::OtherDevice { .. })), "{looked:?}");
    let opened = Folder::open_below(&root, &RelPath::parse("proc").expect("a path"));
    assert_eq!(opened.err(), Some(FolderError::OtherDevice));

    let options = WalkOptions { below: Some(RelPath::parse("proc").expect("a path")), ..WalkOptions::default() };
    let listing = walk(&root, &rules(&["proc/**"]), &options).expect("walks");
    assert_eq!(listing.other_device_dirs, ["proc"]);
    assert_eq!(listing.silence(&path), Some(Silence::OtherDevice));
}

#[test]
fn a_walk_below_a_path_is_that_part_of_the_whole_walk() {
    let scratch = Scratch::new();
    for path in ["data/a/x.md", "data/a/sub/y.md", "data/ab.md", "data/b.md"] {
        scratch.write(path, "x");
    }
    scratch.link("data/link", "a");
    for (below, expected) in [
        ("data", vec!["data/a/sub/y.md", "data/a/x.md", "data/ab.md", "data/b.md", "data/link"]),
        ("data/a", vec!["data/a/sub/y.md", "data/a/x.md"]),
        ("data/a/sub", vec!["data/a/sub/y.md"]),
        ("data/b.md", vec!["data/b.md"]),
        ("data/link", vec!["data/link"]),
        ("data/gone", vec![]),
        ("data/gone/deep", vec![]),
        ("data/b.md/x", vec![]),
        ("other", vec![]),
        (".git", vec![]),
    ] {
        let listing = walk_with(&scratch, &all(), |options| options.below = Some(scratch.path(below)));
        assert_eq!(paths(&listing), expected, "{below}");
        assert_eq!(listing.below, Some(scratch.path(below)));
    }
    let through_file = walk_with(&scratch, &all(), |options| {
        options.below = Some(scratch.path("data/b.md/x"));
    });
    assert_eq!(through_file.silence(&scratch.path("data/b.md/x")), None, "a file stands where its folder was");
    let through_link = walk_with(&scratch, &all(), |options| options.below = Some(scratch.path("data/link/sub")));
    assert_eq!(through_link.silence(&scratch.path("data/link/sub/y.md")), Some(Silence::Linked));
}

#[test]
fn gitignored_trees_are_not_entered_and_say_nothing() {
    let scratch = Scratch::new();
    scratch.write(".gitignore", "*.log\n/data/out/\n");
    scratch.write("data/.gitignore", "!keep.log\n");
    scratch.write(".git/info/exclude", "private.md\n");
    for path in ["data/a.md", "data/a.log", "data/keep.log", "data/private.md", "data/out/x/y.md"] {
        scratch.write(path, "x");
    }
    let respecting = |options: &mut WalkOptions| options.respect_gitignore = true;

    let listing = walk_with(&scratch, &all(), respecting);
    let plain = scratch.walk(&all());

    assert_eq!(paths(&listing), ["data/.gitignore", "data/a.md", "data/keep.log"]);
    assert_eq!(listing.git_ignored, ["data/a.log", "data/out", "data/private.md"]);
    assert_eq!(listing.silence(&scratch.path("data/out/x/y.md")), Some(Silence::GitIgnored));
    assert_eq!(listing.dirs_seen, 2);
    assert_eq!(plain.entries.len(), 6);

    let below = walk_with(&scratch, &all(), |options| {
        respecting(options);
        options.below = Some(scratch.path("data/out/x"));
    });
    assert_eq!(paths(&below), [""; 0]);
    assert_eq!(below.silence(&scratch.path("data/out/x/y.md")), Some(Silence::GitIgnored));
}

#[test]
fn patterns_that_named_something_are_told_apart_from_those_that_did_not() {
    let scratch = Scratch::new();
    scratch.write("data/a.md", "x");
    scratch.write("data/b.txt", "x");
    let rules = rules(&["data/*.md", "data/*.toml", "!data/b.txt", "data/*"]);

    let listing = walk_with(&scratch, &rules, |options| options.pattern_hits = true);

    let hits: Vec<&str> = listing.pattern_hits.iter().map(|pattern| pattern.text.as_str()).collect();
    assert_eq!(hits, ["data/*.md", "data/*"]);
}

// --- the root

#[test]
fn a_root_that_was_replaced_or_removed_lists_nothing_at_all() {
    let parent = tempfile::tempdir().expect("a folder");
    let at = parent.path().join("project");
    let make = || {
        fs::create_dir_all(at.join("data")).expect("makes");
        fs::write(at.join("data/x.md"), "x").expect("writes");
    };
    make();
    let root = Root::open(&at).expect("opens");
    assert!(walk(&root, &all(), &WalkOptions::default()).is_ok());

    fs::rename(&at, parent.path().join("moved")).expect("moves");
    assert!(matches!(walk(&root, &all(), &WalkOptions::default()), Err(ScanError::RootGone { .. })));

    make();
    assert!(matches!(root.check_present(), Err(ScanError::RootGone { .. })), "another folder under the same name");

    let root = Root::open(&at).expect("opens");
    fs::remove_dir_all(&at).expect("removes");
    assert!(matches!(root.check_present(), Err(ScanError::RootGone { .. })));
    assert!(matches!(Root::open(&at), Err(ScanError::OpenRoot { .. })));
}

#[test]
fn a_look_never_follows_a_link_in_any_component() {
    let scratch = Scratch::new();
    scratch.write("data/real/x.md", "x");
    scratch.link("data/link", "real");
    scratch.link("data/to-file", "real/x.md");
    scratch.link("data/proc", "/proc/self/root/etc");

    let look = |path: &str| stat(&scratch.root, &scratch.path(path));
    assert!(matches!(look("data/link/x.md"), Err(ScanError::LinkedParent { .. })));
    assert!(matches!(look("data/proc/passwd"), Err(ScanError::LinkedParent { .. })));
    assert!(matches!(look("data/to-file"), Ok(Some((EntryKind::Link, _)))));
    assert!(matches!(look("data/real/x.md/y"), Ok(None)));
    assert!(matches!(look("data/real"), Ok(None)), "a folder is no file");
    assert!(matches!(look("data/none/x"), Ok(None)));
    assert_eq!(node(&scratch.root, &scratch.path("data/real")).expect("looks"), Some(Node::Folder));
    let ranged = read_range(&scratch.root, &scratch.path("data/to-file"), 0, 10);
    assert!(matches!(ranged, Err(ScanError::WrongKind { found: NotAFile::Link, .. })));
}

#[test]
fn the_stepwise_way_of_old_kernels_gives_the_same_answers() {
    let scratch = Scratch::new();
    scratch.write("data/real/x.md", "x");
    scratch.link("data/link", "real");
    let old = Root::open(scratch.root.path()).expect("opens").without_openat2();

    for path in ["data", "data/real/x.md", "data/link", "data/link/x.md", "data/real/x.md/y", "data/none/x", "none"] {
        let path = scratch.path(path);
        let both = [&scratch.root, &old].map(|root| format!("{:?}", node(root, &path)));
        assert_eq!(both[0], both[1], "{path}");
    }
    let proc = Root::open(std::path::Path::new("/")).expect("opens").without_openat2();
    let crossed = node(&proc, &scratch.path("proc/self/status"));
    assert!(matches!(crossed, Err(ScanError::OtherDevice { .. })));
}

#[test]
fn a_swapped_folder_never_leads_a_walk_outside() {
    let scratch = Scratch::new();
    let outside = tempfile::tempdir().expect("a folder");
    fs::create_dir(outside.path().join("in")).expect("makes");
    fs::write(outside.path().join("in/secret.md"), "x").expect("writes");
    scratch.write("data/a/in/x.md", "x");
    let (a, b) = (scratch.at("data/a"), scratch.at("data/b"));
    std::os::unix::fs::symlink(outside.path(), &b).expect("links");
    let done = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &a, CWD, &b, exchange).expect("swaps");
            }
        });
        for _ in 0..500 {
            let listing = scratch.walk(&all());
            let leaked = listing.entries.iter().any(|entry| entry.path.path().as_str().contains("secret"));
            let looked = ["data/a/in/secret.md", "data/b/in/secret.md"]
                .map(|path| matches!(stat(&scratch.root, &scratch.path(path)), Ok(Some(_))));
            if leaked || looked.contains(&true) {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("a link was followed");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

// --- reading

fn read_all(scratch: &Scratch, path: &str, expected: &Stat) -> Result<Vec<u8>, ScanError> {
    let mut bytes = Vec::new();
    read(&scratch.root, &admitted(scratch, path), expected, 1 << 30, &mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    Ok(bytes)
}

#[test]
fn contents_of_all_sizes_arrive_byte_for_byte() {
    let scratch = Scratch::new();
    for size in [0usize, 1, 4096, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 3_000_000] {
        let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        scratch.write("data/x.bin", &content);
        let expected = stat_of(&scratch, "data/x.bin");
        assert!(read_all(&scratch, "data/x.bin", &expected).expect("reads") == content, "{size} bytes");
    }
}

#[test]
fn a_file_that_is_not_the_one_that_was_seen_is_not_read_as_such() {
    let scratch = Scratch::new();
    scratch.write("data/x.md", "first");
    let expected = stat_of(&scratch, "data/x.md");
    let reading = |scratch: &Scratch| read_all(scratch, "data/x.md", &expected);

    scratch.write("data/y.md", "first");
    fs::rename(scratch.at("data/y.md"), scratch.at("data/x.md")).expect("replaces");
    assert!(matches!(reading(&scratch), Err(ScanError::Changed { .. })), "another inode");

    fs::remove_file(scratch.at("data/x.md")).expect("removes");
    assert!(matches!(reading(&scratch), Err(ScanError::Gone { .. })));

    scratch.link("data/x.md", "y.md");
    assert!(matches!(reading(&scratch), Err(ScanError::WrongKind { found: NotAFile::Link, .. })));
}

#[test]
fn a_change_during_the_read_is_noticed() {
    let scratch = Scratch::new();
    let path = admitted(&scratch, "data/x.md");
    for (name, change) in [
        (
            "grown",
            (|at| drop(fs::OpenOptions::new().append(true).open(at).and_then(|mut file| file.write_all(b"more"))))
                as fn(&std::path::Path),
        ),
        ("truncated", |at| drop(fs::File::create(at))),
        ("touched", |at| {
            let file = fs::OpenOptions::new().write(true).open(at).expect("opens");
            file.set_modified(std::time::UNIX_EPOCH).expect("sets the time");
        }),
    ] {
        scratch.write("data/x.md", vec![b'x'; 600_000]);
        let expected = stat_of(&scratch, "data/x.md");
        let at = scratch.at("data/x.md");
        let outcome = read(&scratch.root, &path, &expected, 1 << 30, &mut |_| {
            change(&at);
            Ok(())
        });
        assert!(matches!(outcome, Err(ScanError::Changed { .. })), "{name}: {outcome:?}");
    }
}

#[test]
fn a_growing_file_is_read_up_to_what_was_seen() {
    let scratch = Scratch::new();
    scratch.write("data/x.jsonl", "1\n2\n");
    let expected = stat_of(&scratch, "data/x.jsonl");
    scratch.write("data/x.jsonl", "1\n2\n3\n");
    let path = admitted(&scratch, "data/x.jsonl");
    let mut bytes = Vec::new();

    let outcome = read_growing(&scratch.root, &path, &expected, 100, &mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })
    .expect("reads");

    assert_eq!((bytes.as_slice(), outcome.bytes, outcome.stat_after.size), (&b"1\n2\n"[..], 4, 6));
    scratch.write("data/x.jsonl", "1\n");
    let shrunk = read_growing(&scratch.root, &path, &expected, 100, &mut |_| Ok(()));
    assert!(matches!(shrunk, Err(ScanError::Changed { .. })));
}

#[test]
fn limits_and_a_failing_receiver_are_errors_with_their_facts() {
    let scratch = Scratch::new();
    scratch.write("data/x.md", "12345");
    let path = admitted(&scratch, "data/x.md");
    let expected = stat_of(&scratch, "data/x.md");

    let limited = read(&scratch.root, &path, &expected, 4, &mut |_| Ok(()));
    assert!(matches!(limited, Err(ScanError::TooLarge { limit_bytes: 4, .. })));

    let failing = read(&scratch.root, &path, &expected, 5, &mut |_| Err(std::io::Error::other("full")));
    assert!(matches!(failing, Err(ScanError::Sink { .. })));

    let beyond = read_range(&scratch.root, path.path(), 0, MAX_RANGE_BYTES + 1);
    assert!(matches!(beyond, Err(ScanError::TooLarge { .. })));
}

#[test]
fn ranges_end_at_the_end_of_the_file() {
    let scratch = Scratch::new();
    scratch.write("data/x.md", "0123456789");
    for (offset, length, expected) in
        [(0, 4, "0123"), (8, 4, "89"), (10, 4, ""), (u64::MAX, 4, ""), (3, MAX_RANGE_BYTES, "3456789"), (0, 0, "")]
    {
        let found = read_range(&scratch.root, &scratch.path("data/x.md"), offset, length).expect("reads");
        assert_eq!(found.bytes, expected.as_bytes(), "{offset} {length}");
        assert_eq!(found.stat_after.size, 10);
    }
}
