//! Laws of the search over a real ledger and index: what is found is what stands there, however the file came to be.

use std::path::PathBuf;
use std::sync::Arc;

use memchr::memmem;
use proptest::prelude::*;

use crate::index::Reader;
use crate::model::Hlc;
use crate::node::{Glance, Node, OpenOptions};
use crate::search::{FillGate, Filler, Fts, Hit, Query, forget, remove, search};
use crate::sync::NoProgress;

const START_MS: u64 = 1_800_000_000_000;
const CONFIG: &str = r#"{ "appId": "p", "syncFilePatterns": ["**"], "archiveFilePatterns": ["logs/**"] }"#;

/// A project of one machine with a clock of the test's.
struct Project {
    dir: tempfile::TempDir,
    home: tempfile::TempDir,
    clock: Arc<crate::env::ManualClock>,
}

impl Project {
    fn new() -> Project {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("sync-config.json"), CONFIG).expect("writes");
        let clock = Arc::new(crate::env::ManualClock::new(START_MS));
        Project { dir, home: tempfile::tempdir().expect("a folder"), clock }
    }

    fn env(&self) -> crate::env::Env {
        let mut env = crate::env::Env::system();
        env.vars.clear();
        env.host = "desk".to_owned();
        env.state_home = self.home.path().to_owned();
        env.clock = self.clock.clone();
        env
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { start_dir: self.dir.path().to_owned(), trust: true, ..OpenOptions::default() }
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below")).expect("makes");
        std::fs::write(path, bytes).expect("writes");
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.dir.path().join(path)).expect("removes");
    }

    /// Records what is there.
    fn run(&self) {
        let mut node = Node::open(&self.env(), &self.options(), Arc::new(NoProgress)).expect("opens");
        for _ in 0..2 {
            self.clock.advance(10_000);
            node.run(&crate::node::RunOptions::default()).expect("runs");
        }
    }

    fn fts(&self) -> PathBuf {
        self.dir.path().join(".larder/fts.db")
    }

    fn glance(&self) -> Glance {
        Glance::open(&self.env(), &self.options()).expect("opens")
    }

    fn hits(&self, text: &str, history: bool) -> Vec<Hit> {
        let glance = self.glance();
        let query = Query::parse(text, &|_| Some(Hlc::new(START_MS + 60_000, 0))).expect("understood");
        let query = query.in_history(history);
        let (index, contents) = (glance.index().expect("an index"), glance.contents().expect("contents"));
        search(&self.fts(), index, contents, &query, &|_, _| ()).expect("searches").hits
    }

    /// The paths of the hits, sorted.
    fn paths(&self, text: &str) -> Vec<String> {
        paths_of(self.hits(text, false))
    }

    fn past_paths(&self, text: &str) -> Vec<String> {
        paths_of(self.hits(text, true))
    }
}

fn paths_of(hits: Vec<Hit>) -> Vec<String> {
    let places = hits.into_iter().flat_map(|hit| hit.places);
    let mut paths: Vec<String> = places.map(|place| place.path.as_str().to_owned()).collect();
    paths.sort();
    paths
}

#[test]
fn a_part_of_a_text_without_spaces_is_found() {
    let project = Project::new();
    project.write("a.md", "前言\n東京都の設定ファイルは sync-config.json です。\n");
    project.write("b.md", "同步设置，2026年11月\n");
    project.write("c.md", "การตั้งค่าเครื่อง\n");
    project.run();

    assert_eq!(project.paths("設定"), ["a.md"]);
    assert_eq!(project.paths("東京"), ["a.md"]);
    assert_eq!(project.paths("設定ファイルはsync"), ["a.md"]);
    assert_eq!(project.paths("设置 11"), ["b.md"]);
    assert_eq!(project.paths("\"月\""), ["b.md"]);
    assert_eq!(project.paths("步设*"), ["b.md"]);
    assert_eq!(project.paths("ค่า"), ["c.md"]);
    // In this order, beside each other.
    assert!(project.paths("京東").is_empty() && project.paths("東定").is_empty());
    let hit = project.hits("設定", false).remove(0);
    assert_eq!((hit.line, hit.snippet.as_str()), (2, "東京都の設定ファイルは sync-config.json です。"));
}

#[test]
fn what_stands_is_found_and_what_was_replaced_only_in_the_past() {
    let project = Project::new();
    project.write("docs/a.md", "# Title\n\nThe quick brown fox\n");
    project.write("docs/b.md", "a lazy dog, naïve\n");
    project.write("logs/run.jsonl", "{\"fox\":1}\n");
    project.run();
    assert_eq!(project.paths("fox"), ["docs/a.md", "logs/run.jsonl"]);
    assert_eq!(project.paths("\"brown fox\""), ["docs/a.md"]);
    assert_eq!(project.paths("fox path:logs/"), ["logs/run.jsonl"]);
    assert_eq!(project.paths("qui*"), ["docs/a.md"]);
    assert_eq!(project.paths("fox -quick"), ["logs/run.jsonl"]);
    assert_eq!(project.paths("NAIVE"), ["docs/b.md"]);
    assert!(project.paths("fox origin:elsewhere").is_empty());
    assert_eq!(project.paths("dog origin:desk"), ["docs/b.md"]);
    let hit = project.hits("fox path:docs", false).remove(0);
    assert_eq!((hit.line, hit.snippet.as_str()), (3, "The quick brown fox"));

    project.write("docs/a.md", "The slow turtle\n");
    project.remove("docs/b.md");
    project.clock.advance(120_000);
    project.run();

    assert_eq!(project.paths("fox"), ["logs/run.jsonl"]);
    assert_eq!(project.paths("turtle"), ["docs/a.md"]);
    assert_eq!(project.paths("turtle since:x"), ["docs/a.md"]);
    assert!(project.paths("dog").is_empty());
    assert_eq!(project.past_paths("dog"), ["docs/b.md"]);
    assert_eq!(project.past_paths("fox"), ["docs/a.md", "logs/run.jsonl"]);
    assert!(project.past_paths("fox since:x").is_empty());
}

#[test]
fn a_file_made_anew_finds_the_same_past_and_present() {
    let project = Project::new();
    project.write("a.md", "first apple\n");
    project.write("same.md", "shared words\n");
    project.write("deep/same.md", "shared words\n");
    project.run();
    project.write("a.md", "second pear\n");
    project.run();
    let answers =
        |project: &Project| ["apple", "pear", "shared"].map(|word| (project.paths(word), project.past_paths(word)));
    let before = answers(&project);
    assert_eq!(before[0], (vec![], vec!["a.md".to_owned()]));
    assert_eq!(before[2].0, ["deep/same.md", "same.md"]);

    remove(&project.fts()).expect("removes");
    assert_eq!(answers(&project), before, "taken away");
    std::fs::write(project.fts(), "no database at all, but some bytes").expect("writes");
    assert_eq!(answers(&project), before, "not a database");
    let whole = std::fs::read(project.fts()).expect("reads");
    std::fs::write(project.fts(), &whole[..whole.len() / 2]).expect("writes");
    assert_eq!(answers(&project), before, "half of it");
    crate::node::rebuild(&project.env(), &project.options(), false).expect("rebuilds");
    assert!(!project.fts().exists());
    assert_eq!(answers(&project), before, "of another index");
}

#[test]
fn the_best_come_first_and_of_what_too_many_hold_the_newest() {
    let project = Project::new();
    let in_order = |project: &Project| -> Vec<String> {
        let hits = project.hits("apple", false);
        hits.into_iter().map(|hit| hit.places[0].path.as_str().to_owned()).collect()
    };
    project.write("best.md", "apple apple apple\n");
    project.run();
    for (name, others) in [("good.md", 20), ("poor.md", 200)] {
        project.write(name, format!("apple {}\n", "pear ".repeat(others)));
        project.run();
    }
    assert_eq!(in_order(&project), ["best.md", "good.md", "poor.md"]);

    // One content more than are ranked in a test.
    for name in ["fourth.md", "last.md"] {
        project.write(name, format!("an apple in {name}\n"));
        project.run();
    }
    assert_eq!(in_order(&project), ["last.md", "fourth.md", "poor.md", "good.md", "best.md"]);
}

#[test]
fn what_is_no_text_and_what_is_denied_never_enters() {
    let project = Project::new();
    project.write("binary.bin", b"needle\0needle");
    project.write("latin.txt", b"needle \xe9\xff");
    project.write("key.txt", "needle\n-----BEGIN RSA PRIVATE KEY-----\n");
    project.write(".env", "needle\n");
    project.write("long.md", format!("needle {}\nbeyond\n", "filler words ".repeat(400_000)));
    project.write("empty.md", "");
    std::os::unix::fs::symlink("needle", project.dir.path().join("link")).expect("a link");
    project.run();

    assert_eq!(project.paths("needle"), ["long.md"]);
    assert!(project.paths("beyond").is_empty(), "behind the bound of one file");
}

#[test]
fn a_forgotten_version_leaves_no_word_behind() {
    let project = Project::new();
    project.write("secret.md", "xylophone zyzzyva\n");
    project.write("other.md", "plain\n");
    project.run();
    let version = project.hits("zyzzyva", false).remove(0).places.remove(0).version;
    let holds = |word: &[u8]| memmem::find(&std::fs::read(project.fts()).expect("reads"), word).is_some();

    assert!(holds(b"zyzzyva") && holds(b"xylophone"));

    let glance = project.glance();
    assert!(forget(&project.fts(), glance.index().expect("an index"), &[version]).expect("forgets"));

    assert!(!holds(b"zyzzyva") && !holds(b"xylophone"));
    assert!(holds(b"plain"));
    assert!(!forget(&project.fts(), glance.index().expect("an index"), &[version]).expect("nothing is left"));
    assert_eq!(project.paths("plain"), ["other.md"]);
    assert!(project.paths("zyzzyva").is_empty(), "what the mark has passed does not come back");
}

#[test]
fn a_search_costs_what_changed() {
    let project = Project::new();
    for n in 0..30 {
        project.write(&format!("{n}.md"), format!("word{n}\n"));
    }
    project.run();
    assert_eq!(project.paths("word7"), ["7.md"]);
    project.write("7.md", "other\n");
    project.run();

    let glance = project.glance();
    let index: &Reader = glance.index().expect("an index");
    let mut fts = Fts::open(&project.fts(), index.epoch()).expect("opens");
    let last_doc = || -> i64 {
        let conn = rusqlite::Connection::open(project.fts()).expect("opens");
        conn.query_row("SELECT max(doc) FROM docs", [], |row| row.get(0)).expect("counts")
    };
    let before = last_doc();
    assert!(!fts.fill(index, glance.contents().expect("contents")).expect("fills"));

    assert_eq!(last_doc() - before, 1, "one text entered");
    assert!(!fts.fill(index, glance.contents().expect("contents")).expect("nothing is left"));
}

#[test]
fn a_daemons_thread_follows_once_somebody_searched_and_never_while_the_project_works() {
    let project = Project::new();
    project.write("a.md", "apple\n");
    project.run();
    let gate = Arc::new(FillGate::default());
    let filler = Filler::start(project.dir.path().join(".larder"), Arc::clone(&gate)).expect("a thread");
    gate.rest();
    drop(filler);
    assert!(!project.fts().exists(), "nobody has searched");

    assert_eq!(project.paths("apple"), ["a.md"]);
    project.write("b.md", "pear\n");
    project.run();
    let count = || {
        let conn = rusqlite::Connection::open(project.fts()).expect("opens");
        conn.query_row("SELECT count(*) FROM docs", [], |row| row.get::<_, i64>(0)).expect("counts")
    };
    let gate = Arc::new(FillGate::default());
    let filler = Filler::start(project.dir.path().join(".larder"), Arc::clone(&gate)).expect("a thread");
    gate.busy();
    assert_eq!(count(), 1, "the gate is closed");
    gate.rest();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while count() < 2 {
        assert!(std::time::Instant::now() < deadline, "the words never came");
        std::thread::yield_now();
    }
    drop(filler);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn however_often_it_is_filled_a_word_is_found_where_it_stands(steps in proptest::collection::vec((0usize..4, 0usize..5, any::<bool>()), 1..7)) {
        const WORDS: [&str; 5] = ["alpha", "beta", "gamma beta", "alpha gamma", ""];
        let project = Project::new();
        let mut stands = [""; 4];
        for (path, words, is_searched) in steps {
            stands[path] = WORDS[words];
            project.write(&format!("{path}.md"), WORDS[words]);
            project.run();
            if !is_searched {
                continue;
            }
            for word in ["alpha", "beta", "gamma"] {
                let expected: Vec<String> =
                    (0..4).filter(|path| stands[*path].contains(word)).map(|path| format!("{path}.md")).collect();
                prop_assert_eq!(project.paths(word), expected, "{}", word);
            }
        }
    }
}

#[test]
fn what_a_person_purged_is_found_by_no_search_and_its_words_are_in_no_file() {
    let project = Project::new();
    project.write("a.md", "the watchword is xylophonist\n");
    project.write("b.md", "nobody's business\n");
    project.run();
    assert_eq!(project.paths("xylophonist"), ["a.md"]);
    assert!(holds(&project.fts(), b"xylophonist"));

    let mut node = Node::open(&project.env(), &project.options(), Arc::new(NoProgress)).expect("opens");
    node.purge(&crate::model::RelPath::parse("a.md").expect("a path"), None, false).expect("purges");
    drop(node);

    assert!(!holds(&project.fts(), b"xylophonist"));
    assert!(project.paths("xylophonist").is_empty() && project.past_paths("xylophonist").is_empty());
    assert!(!holds(&project.fts(), b"xylophonist"), "nor does it come back");
    assert_eq!(project.paths("business"), ["b.md"]);
}

#[test]
fn what_a_person_purged_left_no_word_where_it_was_taken_out_before() {
    // By an edit of a line file, and with an index that was made anew.
    for rebuilds in [false, true] {
        let project = Project::new();
        project.write("a.jsonl", "{\"the watchword\":\"xylophonist\"}\n");
        project.run();
        assert_eq!(project.paths("xylophonist"), ["a.jsonl"]);
        project.write("a.jsonl", "{\"another\":\"watchword\"}\n");
        project.run();
        if rebuilds {
            crate::node::rebuild(&project.env(), &project.options(), false).expect("rebuilds");
        }
        assert!(project.paths("xylophonist").is_empty());
        // Tables that are made anew may come to lie over it.
        assert!(rebuilds || holds(&project.fts(), b"xylophonist"), "it is in a part that nobody reads");
        let path = crate::model::RelPath::parse("a.jsonl").expect("a path");
        let glance = Glance::open(&project.env(), &project.options()).expect("opens");
        let log = glance.log(Some(&path), 10).expect("lists");
        let old = log.iter().find(|stored| stored.version.parents.is_empty()).expect("the first").id;

        let mut node = Node::open(&project.env(), &project.options(), Arc::new(NoProgress)).expect("opens");
        node.purge(&path, Some(&old), false).expect("purges");
        drop(node);

        assert!(!holds(&project.fts(), b"xylophonist"), "{rebuilds}");
        assert_eq!(project.paths("another"), ["a.jsonl"]);
    }
}

#[test]
fn words_of_what_was_dropped_leave_the_file_with_the_collection() {
    let project = Project::new();
    project.write("a.md", "the watchword is xylophonist\n");
    project.run();
    assert_eq!(project.paths("xylophonist"), ["a.md"]);
    project.write("a.md", "another watchword\n");
    project.run();
    assert_eq!(project.past_paths("xylophonist"), ["a.md"]);
    project.clock.advance(100 * 86_400_000);
    project.write("b.md", "nobody's business\n");
    project.run();
    assert!(holds(&project.fts(), b"xylophonist"));

    let mut node = Node::open(&project.env(), &project.options(), Arc::new(NoProgress)).expect("opens");
    let done = node.collect(false).expect("collects");
    drop(node);

    assert_eq!(done.dropped.len(), 1);
    assert!(!holds(&project.fts(), b"xylophonist"));
    assert!(project.past_paths("xylophonist").is_empty());
    assert_eq!(
        (project.paths("watchword"), project.paths("business")),
        (vec!["a.md".to_owned()], vec!["b.md".to_owned()])
    );
}

#[test]
fn who_searches_first_is_told_how_far_it_has_come() {
    let project = Project::new();
    for number in 0..2_500 {
        project.write(&format!("{number}.md"), format!("word{number}\n"));
    }
    project.run();
    let told = std::cell::RefCell::new(Vec::new());
    let ask = || {
        let glance = project.glance();
        let (index, contents) = (glance.index().expect("an index"), glance.contents().expect("contents"));
        let query = Query::parse("word7", &|_| None).expect("understood");
        search(&project.fts(), index, contents, &query, &|done, all| told.borrow_mut().push((done, all)))
            .expect("searches")
    };

    assert_eq!(ask().hits.len(), 1);
    let first = told.take();
    assert_eq!(ask().hits.len(), 1);

    assert_eq!(first.iter().map(|(done, _)| *done).collect::<Vec<_>>(), [0, 2_048]);
    assert!(first.iter().all(|(_, all)| *all >= 2_500));
    assert_eq!(told.take().len(), 1, "nothing is left to take in, and that is said once");
}

fn holds(path: &std::path::Path, word: &[u8]) -> bool {
    let beside = path.with_extension("db-wal");
    [path, &beside].iter().filter_map(|path| std::fs::read(path).ok()).any(|bytes| memmem::find(&bytes, word).is_some())
}
