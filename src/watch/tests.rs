//! The watcher against a real kernel, and against a fake one where a limit must be reached. Waits on the hints, never sleeps.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_patterns::{RelPath, Rules};
use notify::event::{EventKind, Flag};

use super::backend::{Backend, Handler, MakeBackend, WatchFailure};
use super::*;
use crate::scan::Root;
use crate::scan::scratch::{Scratch, rules};

/// Longer than any machine takes; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(20);

struct Watched {
    scratch: Scratch,
    watcher: Watcher,
}

impl Watched {
    fn start(scratch: Scratch, patterns: &[&str], options: WatchOptions) -> Watched {
        let root = Arc::new(Root::open(scratch.root.path()).expect("opens"));
        let (watcher, _) = Watcher::start(root, Arc::new(rules(patterns)), options, || {}).expect("watches");
        Watched { scratch, watcher }
    }

    /// Waits until the hints seen so far, together, satisfy `done`; panics with what came otherwise.
    fn until(&self, done: impl Fn(&BTreeSet<Hint>) -> bool) -> BTreeSet<Hint> {
        let mut seen = BTreeSet::new();
        while !done(&seen) {
            let hints = self.watcher.wait(PATIENCE);
            assert!(!hints.is_empty(), "no more hints after {seen:?}");
            seen.extend(hints);
        }
        seen
    }

    /// Waits until all that happened before is hinted: the hint for a new file comes after those for older changes.
    fn until_quiet(&self, marker: &str) {
        self.scratch.write(marker, "x");
        self.until_dirty(marker);
    }

    fn until_dirty(&self, path: &str) -> BTreeSet<Hint> {
        let path = self.scratch.path(path);
        self.until(|hints| covers(hints, &path))
    }
}

/// Tells whether a look at all that is hinted looks at `path`.
fn covers(hints: &BTreeSet<Hint>, path: &RelPath) -> bool {
    hints.iter().any(|hint| match hint {
        Hint::RootGone => false,
        Hint::Rescan { .. } => true,
        Hint::DirtyTree(top) | Hint::Dirty(top) => top == path || path.as_str().starts_with(&format!("{top}/")),
    })
}

fn overflow() -> notify::Result<notify::Event> {
    Ok(notify::Event::new(EventKind::Other).set_flag(Flag::Rescan))
}

#[test]
fn each_kind_of_change_to_a_file_gives_a_hint_for_its_path() {
    let scratch = Scratch::new();
    for name in ["edited", "deleted", "moved", "chmod", "linked"] {
        scratch.write(&format!("data/{name}"), "x");
    }
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());
    let at = |path: &str| watched.scratch.at(path);

    watched.scratch.write("data/made", "x");
    watched.until_dirty("data/made");

    watched.scratch.write("data/edited", "y");
    watched.until_dirty("data/edited");

    fs::remove_file(at("data/deleted")).expect("removes");
    watched.until_dirty("data/deleted");

    fs::rename(at("data/moved"), at("data/target")).expect("moves");
    watched.until(|hints| ["data/moved", "data/target"].iter().all(|path| covers(hints, &watched.scratch.path(path))));

    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(at("data/chmod"), executable).expect("chmod");
    watched.until_dirty("data/chmod");

    watched.scratch.link("data/link", "edited");
    watched.until_dirty("data/link");
}

#[test]
fn an_empty_directory_tree_and_files_in_it_are_hinted_when_made_moved_and_removed() {
    let watched = Watched::start(Scratch::new(), &["data/**"], WatchOptions::default());
    let at = |path: &str| watched.scratch.at(path);

    watched.scratch.write("data/a/b/x.md", "x");
    watched.until_dirty("data/a/b/x.md");

    fs::rename(at("data/a"), at("data/c")).expect("moves");
    watched.until(|hints| {
        ["data/a/b/x.md", "data/c/b/x.md"].iter().all(|path| covers(hints, &watched.scratch.path(path)))
    });

    watched.scratch.write("data/c/b/y.md", "y");
    watched.until_dirty("data/c/b/y.md");

    fs::remove_dir_all(at("data/c")).expect("removes");
    watched.until_dirty("data/c/b/x.md");

    watched.scratch.write("data/c/b/x.md", "again");
    watched.until_dirty("data/c/b/x.md");
    watched.scratch.write("data/c/b/z.md", "z");
    watched.until_dirty("data/c/b/z.md");
}

#[test]
fn late_word_of_a_folder_that_went_does_not_end_the_watch_of_the_one_in_its_place() {
    let scratch = Scratch::new();
    scratch.write("data/a/b/x.md", "x");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());

    // As the kernel tells of `data/a/b` of before, after `data/a/b` of now was found.
    for path in ["data/a", "data/a/b"] {
        let removed = EventKind::Remove(notify::event::RemoveKind::Folder);
        watched.watcher.inject(Ok(notify::Event::new(removed).add_path(watched.scratch.at(path))));
        watched.until_dirty("data/a/b/x.md");
    }

    watched.scratch.write("data/a/b/y.md", "y");
    watched.until_dirty("data/a/b/y.md");
}

#[test]
fn a_filled_folder_that_is_moved_in_is_watched_from_then_on() {
    let outside = tempfile::tempdir_in(std::env::temp_dir()).expect("a folder");
    fs::create_dir_all(outside.path().join("full/deep")).expect("makes");
    fs::write(outside.path().join("full/deep/x.md"), "x").expect("writes");
    let scratch = Scratch::new();
    scratch.folder("data");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());

    fs::rename(outside.path().join("full"), watched.scratch.at("data/full")).expect("moves");
    watched.until_dirty("data/full/deep/x.md");

    watched.scratch.write("data/full/deep/y.md", "y");
    watched.until_dirty("data/full/deep/y.md");

    // Moved out again: gone here, and no longer heard of.
    fs::rename(watched.scratch.at("data/full"), outside.path().join("back")).expect("moves");
    watched.until_dirty("data/full/deep/x.md");
    watched.until_quiet("data/marker0");
    fs::write(outside.path().join("back/deep/z.md"), "z").expect("writes");
    watched.scratch.write("data/marker", "x");
    let hints = watched.until_dirty("data/marker");
    assert!(!covers(&hints, &watched.scratch.path("data/full/deep/z.md")), "{hints:?}");
}

#[test]
fn a_folder_in_the_place_of_one_that_moved_away_is_watched_itself() {
    let scratch = Scratch::new();
    scratch.write("data/a/b/x.md", "x");
    scratch.folder("outside");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());

    for round in 0..20 {
        fs::rename(watched.scratch.at("data/a"), watched.scratch.at(&format!("outside/{round}"))).expect("moves");
        watched.scratch.write("data/a/b/x.md", "another");
        watched.until_dirty("data/a/b/x.md");
        // The tree hint for the new folder came after its watch, so this is heard, too.
        watched.until_quiet(&format!("data/marker{round}"));
        watched.scratch.write("data/a/b/y.md", "y");
        watched.until_dirty("data/a/b/y.md");
    }
    assert_eq!(watched.watcher.mode().watched_dirs, 4);
}

#[test]
fn a_large_tree_that_moves_away_leaves_no_watch_behind() {
    let scratch = Scratch::new();
    for folder in 0..300 {
        scratch.folder(&format!("data/many/{folder}"));
    }
    scratch.folder("outside");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());
    assert_eq!(watched.watcher.mode().watched_dirs, 303);

    fs::rename(watched.scratch.at("data/many"), watched.scratch.at("outside/many")).expect("moves");

    watched.until_dirty("data/many/1/x.md");
    watched.until_quiet("data/marker0");
    assert_eq!(watched.watcher.mode().watched_dirs, 2);
    watched.scratch.write("outside/many/1/x.md", "x");
    watched.scratch.write("data/marker", "x");
    let hints = watched.until_dirty("data/marker");
    // What came late of the move names the folder that moved.
    assert!(!hints.contains(&Hint::Dirty(watched.scratch.path("data/many/1/x.md"))), "{hints:?}");
}

#[test]
fn fast_new_deep_trees_are_all_hinted() {
    let scratch = Scratch::new();
    scratch.folder("data");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());
    let mut expected = Vec::new();

    for tree in 0..50 {
        for file in 0..5 {
            let path = format!("data/{tree}/b/c/d/{file}.md");
            watched.scratch.write(&path, "x");
            expected.push(watched.scratch.path(&path));
        }
    }

    watched.until(|hints| expected.iter().all(|path| covers(hints, path)));
    // By now each of them is watched itself.
    watched.scratch.write("data/49/b/c/d/last.md", "x");
    watched.until_dirty("data/49/b/c/d/last.md");
}

#[test]
fn only_folders_that_may_hold_admitted_files_are_watched() {
    let scratch = Scratch::new();
    let outside = tempfile::tempdir().expect("a folder");
    for path in ["data/a/x.md", "data/node_modules/p/x.md", "data/.git/x", "other/deep/x.md", "docs/x/y.txt"] {
        scratch.write(path, "x");
    }
    scratch.link("data/linked", outside.path().to_str().expect("utf-8"));
    let watched = Watched::start(scratch, &["data/**", "docs/*.md"], WatchOptions::default());

    // The root, data, data/a, docs.
    assert_eq!(watched.watcher.mode().watched_dirs, 4);
    assert!(watched.watcher.mode().is_complete());

    fs::write(outside.path().join("x.md"), "x").expect("writes");
    watched.scratch.write("other/deep/y.md", "y");
    watched.scratch.write("data/node_modules/p/y.md", "y");
    watched.scratch.write("junk.txt", "y");
    watched.scratch.write("data/.a.swp", "y");
    watched.scratch.write("data/marker", "x");
    let hints = watched.until_dirty("data/marker");
    assert_eq!(hints, BTreeSet::from([Hint::Dirty(watched.scratch.path("data/marker"))]));
}

#[test]
fn gitignored_trees_have_no_watch_and_a_changed_gitignore_is_a_rescan() {
    let scratch = Scratch::new();
    scratch.write(".gitignore", "out/\n");
    scratch.write("data/out/x/y.md", "x");
    scratch.write("data/in/x.md", "x");
    let options = WatchOptions { respect_gitignore: true, ..WatchOptions::default() };
    let watched = Watched::start(scratch, &["data/**"], options);
    assert_eq!(watched.watcher.mode().watched_dirs, 3);

    watched.scratch.write(".gitignore", "");
    let reason = RescanReason::GitignoreChanged;
    watched.until(|hints| hints.contains(&Hint::Rescan { reason: reason.clone() }));

    watched.scratch.write("data/out/x/y.md", "y");
    watched.until_dirty("data/out/x/y.md");
}

#[test]
fn named_paths_are_hinted_whatever_the_rules_say() {
    let scratch = Scratch::new();
    scratch.write("conf/sync-config.json", "{}");
    let options = WatchOptions { also: vec![scratch.path("conf/sync-config.json")], ..WatchOptions::default() };
    let watched = Watched::start(scratch, &["data/**"], options);

    watched.scratch.write("conf/other.json", "{}");
    watched.scratch.write("conf/sync-config.json", "{ }");

    let path = watched.scratch.path("conf/sync-config.json");
    let hints = watched.until_dirty("conf/sync-config.json");
    assert_eq!(hints, BTreeSet::from([Hint::Dirty(path)]));
}

#[test]
fn other_rules_move_the_watches_and_ask_for_a_rescan() {
    let scratch = Scratch::new();
    scratch.write("data/a/x.md", "x");
    scratch.write("docs/x.md", "x");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());
    assert_eq!(watched.watcher.mode().watched_dirs, 3);

    watched.watcher.set_rules(Arc::new(rules(&["docs/**"])));

    let reason = RescanReason::RulesChanged;
    watched.until(|hints| hints.contains(&Hint::Rescan { reason: reason.clone() }));
    assert_eq!(watched.watcher.mode().watched_dirs, 2);
    watched.scratch.write("data/a/x.md", "y");
    watched.scratch.write("docs/x.md", "y");
    let hints = watched.until_dirty("docs/x.md");
    assert!(!covers(&hints, &watched.scratch.path("data/a/x.md")));
}

#[test]
fn an_overflow_asks_for_a_rescan_and_watching_goes_on() {
    let scratch = Scratch::new();
    scratch.write("data/a/x.md", "x");
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());

    watched.watcher.inject(overflow());

    let reason = RescanReason::Overflow;
    watched.until(|hints| hints.contains(&Hint::Rescan { reason: reason.clone() }));
    let mode = watched.watcher.mode();
    assert_eq!((mode.overflows, mode.watched_dirs), (1, 3));
    assert!(mode.report()[0].contains("overflowed"));
    watched.scratch.write("data/a/x.md", "y");
    watched.until_dirty("data/a/x.md");
}

#[test]
fn the_end_of_the_root_is_told() {
    let parent = tempfile::tempdir().expect("a folder");
    let at = parent.path().join("project");
    fs::create_dir_all(at.join("data")).expect("makes");
    let root = Arc::new(Root::open(&at).expect("opens"));
    let (watcher, _) =
        Watcher::start(root, Arc::new(rules(&["data/**"])), WatchOptions::default(), || {}).expect("watches");

    fs::rename(&at, parent.path().join("moved")).expect("moves");

    assert_eq!(watcher.wait(PATIENCE), [Hint::RootGone]);
}

#[test]
fn a_root_that_is_gone_cannot_be_watched() {
    let parent = tempfile::tempdir().expect("a folder");
    let at = parent.path().join("project");
    fs::create_dir_all(&at).expect("makes");
    let root = Arc::new(Root::open(&at).expect("opens"));
    fs::remove_dir(&at).expect("removes");

    let started = Watcher::start(root, Arc::new(rules(&["**"])), WatchOptions::default(), || {});
    assert!(matches!(started, Err(WatchError::Root(_))));
}

#[test]
fn the_waker_is_called_when_hints_come_after_none() {
    let scratch = Scratch::new();
    scratch.folder("data");
    let (sender, receiver) = std::sync::mpsc::channel();
    let root = Arc::new(Root::open(scratch.root.path()).expect("opens"));
    let wake = move || {
        // A test that is over listens no more.
        let _ = sender.send(());
    };
    let (watcher, _) =
        Watcher::start(root, Arc::new(rules(&["data/**"])), WatchOptions::default(), wake).expect("watches");
    assert_eq!(watcher.take(), []);

    scratch.write("data/x.md", "x");

    receiver.recv_timeout(PATIENCE).expect("wakes");
    assert_eq!(watcher.take(), [Hint::Dirty(scratch.path("data/x.md"))]);
}

#[test]
fn a_tree_that_may_not_be_read_is_named_and_watched_as_soon_as_it_may() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = Scratch::new();
    scratch.write("data/closed/x.md", "x");
    let closed = scratch.at("data/closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("chmod");
    let may_read_anyway = fs::read_dir(&closed).is_ok();
    let watched = Watched::start(scratch, &["data/**"], WatchOptions::default());

    let expected = if may_read_anyway { vec![] } else { vec![watched.scratch.path("data/closed")] };
    assert_eq!(watched.watcher.mode().unreadable, expected);

    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("chmod");
    watched.scratch.write("data/closed/x.md", "y");
    watched.until_dirty("data/closed/x.md");
}

// --- limits, with a kernel that can be told when to refuse

/// Grants `left` watches; more fail like a real limit.
struct Limited {
    left: Arc<AtomicUsize>,
    placed: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Backend for Limited {
    fn watch(&mut self, folders: &[PathBuf]) -> Vec<Result<(), WatchFailure>> {
        let mut placed = self.placed.lock().expect("no test panics with it");
        let mut grant = |folder: &PathBuf| {
            let take_one = |left: usize| left.checked_sub(1);
            let granted =
                placed.contains(folder) || self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok();
            if !granted {
                return Err(WatchFailure::Poll(PollReason::WatchLimit));
            }
            placed.insert(folder.clone());
            Ok(())
        };
        folders.iter().map(&mut grant).collect()
    }

    fn unwatch(&mut self, _: &std::path::Path) {}
}

fn start_limited(scratch: &Scratch, rules: Rules, left: &Arc<AtomicUsize>) -> (Watcher, Mode) {
    let left = Arc::clone(left);
    let make: MakeBackend =
        Box::new(move |_: Handler| Ok(Box::new(Limited { left: Arc::clone(&left), placed: Arc::default() })));
    start_with(scratch, rules, make)
}

fn start_with(scratch: &Scratch, rules: Rules, make: MakeBackend) -> (Watcher, Mode) {
    let root = Arc::new(Root::open(scratch.root.path()).expect("opens"));
    // The timer never fires by itself in these tests.
    let options = WatchOptions { poll_ms: 3_600_000, ..WatchOptions::default() };
    Watcher::start_with(root, Arc::new(rules), options, Box::new(|| {}), make).expect("watches")
}

#[test]
fn what_is_beyond_the_watch_limit_is_polled_and_said_with_its_remedy() {
    let scratch = Scratch::new();
    for path in ["data/a/deep/x.md", "data/b/x.md"] {
        scratch.write(path, "x");
    }
    let left = Arc::new(AtomicUsize::new(3));

    let (watcher, mode) = start_limited(&scratch, rules(&["data/**"]), &left);

    assert_eq!(mode.watched_dirs, 3, "root, data, data/a");
    let polled: Vec<_> = mode.polled.iter().map(|polled| polled.tree.clone()).collect();
    assert_eq!(polled, [Some(scratch.path("data/a/deep")), Some(scratch.path("data/b"))]);
    assert!(mode.report()[0].contains("sysctl fs.inotify.max_user_watches="), "{:?}", mode.report());

    watcher.tick();
    let tree = |path: &str| Hint::DirtyTree(scratch.path(path));
    assert_eq!(watcher.wait(PATIENCE), [tree("data/a/deep"), tree("data/b")]);

    // Somebody raised the limit: the next look watches them, and polling ends.
    left.store(100, Ordering::SeqCst);
    watcher.tick();
    assert_eq!(watcher.wait(PATIENCE), [tree("data/a/deep"), tree("data/b")]);
    assert_eq!(watcher.mode().watched_dirs, 5);
    assert!(watcher.mode().is_complete());
}

#[test]
fn more_polled_trees_than_are_named_make_the_whole_root_polled() {
    let scratch = Scratch::new();
    for folder in 0..100 {
        scratch.folder(&format!("data/{folder}"));
    }

    let (watcher, mode) = start_limited(&scratch, rules(&["data/**"]), &Arc::new(AtomicUsize::new(2)));

    assert_eq!(mode.polled.len(), 1);
    assert_eq!(mode.polled[0].tree, None);
    watcher.tick();
    let reason = RescanReason::Polling;
    assert_eq!(watcher.wait(PATIENCE), [Hint::Rescan { reason }]);
}

#[test]
fn without_any_watching_the_root_is_polled_until_there_is() {
    let scratch = Scratch::new();
    scratch.write("data/x.md", "x");
    let available = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&available);
    let make: MakeBackend = Box::new(move |handler: Handler| match asked.load(Ordering::SeqCst) {
        0 => Err(PollReason::InstanceLimit),
        _ => super::backend::make_notify(handler),
    });

    let (watcher, mode) = start_with(&scratch, rules(&["data/**"]), make);

    assert_eq!(mode.watched_dirs, 0);
    assert!(mode.report()[0].contains("max_user_instances"), "{:?}", mode.report());
    let rescan = || Hint::Rescan { reason: RescanReason::Polling };
    watcher.tick();
    assert_eq!(watcher.wait(PATIENCE), [rescan()]);

    available.store(1, Ordering::SeqCst);
    watcher.tick();
    assert_eq!(watcher.wait(PATIENCE), [rescan()], "what was missed until now is looked for once more");
    assert!(watcher.mode().is_complete());
    scratch.write("data/x.md", "y");
    assert_eq!(watcher.wait(PATIENCE), [Hint::Dirty(scratch.path("data/x.md"))]);
}
