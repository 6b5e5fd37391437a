//! Laws of the catalog over a real ledger and index, seen through the view.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use super::catalog::Giver;
use super::node::Place;
use super::*;
use crate::env::Env;
use crate::index::{ContentReader, Index, Slot, replay};
use crate::ledger::{Batch, Identity, Ledger, Tip, Writer};
use crate::model::{
    Channel, Content, ContentHash, ContentKind, Dot, Hlc, Lane, MetaEvent, Reason, RecordLine, RelPath, SegmentHash,
    Space, StarWord, State, Vector, Version, VersionId,
};

const WALL_MS: u64 = 1_784_034_732_045;

/// Two machines that write into one ledger.
struct World {
    temp: tempfile::TempDir,
    ledger: Arc<Ledger>,
    index: Index,
    writers: Vec<(Identity, Option<Tip>)>,
    ticks: u64,
}

impl World {
    fn new() -> World {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = |name: &str| {
            let folder = temp.path().join(name);
            std::fs::create_dir(&folder).expect("a folder");
            folder
        };
        let writer = |(seed, host): (u64, &str)| {
            let (env, _) = Env::fixed(WALL_MS, seed, host, folder(&format!("state-{host}")));
            (Identity::create(&folder(host), &env, "anna").expect("an identity"), None)
        };
        let writers = [(1, "desk"), (2, "laptop"), (3, "server")].into_iter().map(writer).collect();
        let ledger = Arc::new(Ledger::open(&folder("project")).expect("a ledger"));
        let (index, _) = Index::open(&temp.path().join("index.db"), 7).expect("an index");
        World { ledger, index, writers, ticks: 0, temp }
    }

    fn view(&self) -> View<IndexCatalog> {
        let contents = ContentReader::new(Arc::clone(&self.ledger), self.index.reader().expect("a reader"));
        View::new(IndexCatalog::new(self.temp.path().join("index.db"), Arc::new(contents)))
    }

    fn origin(&self, writer: usize) -> String {
        self.writers[writer].0.origin().to_string()
    }

    /// Publishes a version that knows all heads, or (`alone`) only the writer's own last one.
    fn put(&mut self, writer: usize, path: &str, text: Option<&str>, channel: Channel, alone: bool) {
        let path = RelPath::parse(path).expect("a path");
        let (identity, tip) = &self.writers[writer];
        let space = Space::shared();
        let place = Writer { app: "app", identity, space: &space };
        let origin = (channel == Channel::Archive).then(|| identity.origin().clone());
        let slot = Slot { space: space.clone(), origin, path: path.clone() };
        let own = self.index.lane_of(&place.chain(), &slot).expect("a lane");
        let mut parents: Vec<VersionId> = match (alone, &own) {
            (true, own) => own.iter().map(|own| own.id).collect(),
            (false, _) => self.index.heads(&slot).expect("heads").iter().map(|head| head.id).collect(),
        };
        parents.sort_unstable();
        let mut batch = Batch::new(&self.ledger, place, *tip).expect("a batch");
        self.ticks += 1;
        let hlc = Hlc::new(WALL_MS + self.ticks, 0);
        let lane = match own {
            Some(own) => own.dot.lane,
            None => {
                Lane { origin: identity.origin().clone(), generation: identity.generation(), first: batch.next_n() }
            }
        };
        let (mut vector, mut born) = (Vector::new(), hlc);
        for parent in &parents {
            let parent = self.index.version(parent).expect("known").expect("here").version;
            vector.join(&parent.full_vector());
            born = born.min(parent.born);
        }
        vector.remove(&lane);
        let state = match text {
            None => State::Tombstone { reason: Reason::User, moved_to: None },
            Some(text) => {
                if !text.is_empty() {
                    batch.segment(SegmentHash::of(text.as_bytes()), text.as_bytes()).expect("stored");
                }
                let kind = ContentKind::File { exec: false };
                State::Content(Content { hash: ContentHash::of(text.as_bytes()), size: text.len() as u64, kind })
            }
        };
        let dot = Dot { lane, n: batch.next_n() };
        let version = Version {
            parents,
            dot,
            vector,
            hlc,
            born,
            channel,
            path,
            state,
            moved_from: None,
            via: None,
            adopted: false,
        };
        batch.version(version).expect("a version");
        let published = batch.finish(hlc, BTreeMap::new()).expect("published").expect("something");
        self.writers[writer].1 = Some(published.tip);
        let replayed = replay(&mut self.index, &self.ledger).expect("replayed");
        assert!(replayed.problems.is_empty() && replayed.rejected.is_empty(), "{replayed:?}");
    }

    /// Says something about a star.
    fn star(&mut self, writer: usize, path: &str, origin: Option<&str>, is_on: bool) {
        let (identity, tip) = &self.writers[writer];
        let place = Writer { app: "app", identity, space: &Space::shared() };
        let mut batch = Batch::new(&self.ledger, place, *tip).expect("a batch");
        self.ticks += 1;
        let hlc = Hlc::new(WALL_MS + self.ticks, 0);
        let path = RelPath::parse(path).expect("a path");
        let origin = origin.map(|origin| origin.parse().expect("an origin"));
        let known = self.index.stars_of(&path).expect("stars").into_iter().find(|star| star.origin == origin);
        let prev = known.map(|star| star.heads).unwrap_or_default();
        let event = MetaEvent::star(&StarWord { path, origin, is_on }, hlc, prev);
        batch.record(RecordLine::Meta(event)).expect("a record");
        let published = batch.finish(hlc, BTreeMap::new()).expect("published").expect("something");
        self.writers[writer].1 = Some(published.tip);
        replay(&mut self.index, &self.ledger).expect("replayed");
    }

    fn share(&mut self, writer: usize, path: &str, text: &str) {
        self.put(writer, path, Some(text), Channel::Shared, false);
    }
}

fn all(view: &View<IndexCatalog>) -> BTreeMap<String, String> {
    all_from(view, NodeId::ROOT)
}

fn all_from(view: &View<IndexCatalog>, top: NodeId) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(String::new(), top)];
    while let Some((path, folder)) = folders.pop() {
        let mut offset = 0;
        loop {
            // Three lines at a time, so that listings go on in the middle.
            let page = view.read_dir(folder, offset, 3).expect("a folder");
            let Some(last) = page.last() else { break };
            offset = last.offset;
            for entry in
                page.into_iter().filter(|entry| entry.name != "." && entry.name != ".." && entry.name != "README.txt")
            {
                let below = if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
                let found_node = view.lookup(folder, OsStr::new(&entry.name)).expect("what is listed is found");
                assert_eq!(found_node, entry.node, "{below}");
                if entry.node.attr.kind == NodeKind::Folder {
                    folders.push((below, entry.node.id));
                } else {
                    let bytes = view.read(entry.node.id, 0, 1 << 20).expect("bytes");
                    assert_eq!(bytes.len() as u64, entry.node.attr.size);
                    found.insert(below, String::from_utf8(bytes).expect("text"));
                }
            }
        }
    }
    found
}

#[test]
fn the_real_index_shows_every_tree() {
    let mut world = World::new();
    let (desk, laptop) = (world.origin(0), world.origin(1));
    world.share(0, "docs/a.md", "one");
    world.share(1, "docs/a.md", "two");
    world.share(0, "docs/gone.md", "last words");
    world.put(1, "docs/gone.md", None, Channel::Shared, false);
    world.put(0, "runs/log.txt", Some("x"), Channel::Archive, false);
    world.put(1, "runs/log.txt", Some("y"), Channel::Archive, false);
    world.share(0, "fight.md", "ours");
    world.put(1, "fight.md", Some("theirs"), Channel::Shared, true);

    let shown = all(&world.view());

    let time = |tick: u64| naming::time_name(Hlc::new(WALL_MS + tick, 0));
    let expected = [
        ("merged/docs/a.md".to_owned(), "two"),
        ("merged/fight.md".to_owned(), "theirs"),
        (format!("merged/runs/log.{desk}.txt"), "x"),
        (format!("merged/runs/log.{laptop}.txt"), "y"),
        (format!("origins/{desk}/docs/a.md"), "one"),
        (format!("origins/{desk}/docs/gone.md"), "last words"),
        (format!("origins/{desk}/fight.md"), "ours"),
        (format!("origins/{desk}/runs/log.txt"), "x"),
        (format!("origins/{laptop}/docs/a.md"), "two"),
        (format!("origins/{laptop}/fight.md"), "theirs"),
        (format!("origins/{laptop}/runs/log.txt"), "y"),
        (format!("history/docs/a.md/{}-{desk}", time(1)), "one"),
        (format!("history/docs/a.md/{}-{laptop}", time(2)), "two"),
        (format!("history/docs/gone.md/{}-{desk}", time(3)), "last words"),
        (format!("history/runs/log.txt/{}-{desk}", time(5)), "x"),
        (format!("history/runs/log.txt/{}-{laptop}", time(6)), "y"),
        (format!("history/fight.md/{}-{desk}", time(7)), "ours"),
        (format!("history/fight.md/{}-{laptop}", time(8)), "theirs"),
        (format!("conflicts/fight.md/{desk}"), "ours"),
        (format!("conflicts/fight.md/{laptop}"), "theirs"),
        ("trash/docs/gone.md".to_owned(), "last words"),
    ];
    assert_eq!(shown, expected.into_iter().map(|(path, text)| (path, text.to_owned())).collect());
}

/// The files below the folder of a moment, or below `merged`: path -> text.
fn tree_below(view: &View<IndexCatalog>, top: &[&str]) -> BTreeMap<String, String> {
    let step = |node, name: &&str| view.lookup(node, OsStr::new(name)).expect("a folder").id;
    all_from(view, top.iter().fold(NodeId::ROOT, step))
}

#[test]
fn a_moment_shows_what_merged_showed_then() {
    let (shared, archive) = (Channel::Shared, Channel::Archive);
    let mut world = World::new();
    // Writer, path, text, channel, and whether it knows only its own versions.
    let puts = [
        (0, "docs/a.md", Some("one"), shared, false),
        (1, "docs/a.md", Some("two"), shared, false),
        (0, "run.jsonl", Some("{\"n\":1}\n"), shared, false),
        (1, "run.jsonl", Some("{\"n\":1}\n{\"n\":2}\n"), shared, false),
        (0, "run.jsonl", Some("{\"n\":1}\n{\"n\":3}\n"), shared, true),
        (0, "logs/x.txt", Some("x"), archive, false),
        (1, "logs/x.txt", Some("y"), archive, false),
        (1, "docs/a.md", None, shared, false),
        (0, "fight.md", Some("ours"), shared, false),
        (1, "fight.md", Some("theirs"), shared, true),
        (0, "docs/a.md", Some("again"), shared, false),
        (1, "fight.md", Some("settled"), shared, false),
        (1, "run.jsonl", Some("done\n"), shared, false),
        (0, "deep/er/b.md", Some("b"), shared, false),
        (0, "deep/er/b.md", None, shared, false),
        (1, "docs", Some("a file now"), shared, false),
        (0, "docs/a.md", None, shared, false),
    ];
    let mut then = Vec::new();
    for (writer, path, text, channel, alone) in puts {
        world.put(writer, path, text, channel, alone);
        then.push(tree_below(&world.view(), &["merged"]));
    }

    let view = world.view();
    let name = |tick: u64| naming::time_name(Hlc::new(WALL_MS + tick, 0));
    assert!(tree_below(&view, &["at", &name(0)]).is_empty());
    for (tick, then) in (1..).zip(&then) {
        assert_eq!(&tree_below(&view, &["at", &name(tick)]), then, "after {tick} puts");
    }
    assert_eq!(Some(&tree_below(&view, &["at", &name(1000)])), then.last(), "the future is what is known");
}

/// Runs a program over a folder; what it prints is not looked at.
fn run_over(dir: &std::path::Path, words: &[&str]) {
    let mut command = std::process::Command::new(words[0]);
    let output = command.args(&words[1..]).current_dir(dir).output().expect("the program runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_first_pass_asks_little_of_the_real_index_and_no_tools_second_pass_anything() {
    if !mount_tests::can_mount() {
        return;
    }
    let mut world = World::new();
    let (folders, files) = (10, 12);
    for number in 0..folders * files {
        let path = format!("notes/{}/{}.md", number / files, number % files);
        world.share(number % 3, &path, &format!("note {number}\n").repeat(1 + number * 60));
    }
    for guardian in [None, Some(Guardian::assumed())] {
        two_passes(world.view(), guardian, folders as u64, (folders * files) as u64);
    }
}

/// What is handed on, where somebody guards the view, is not asked for; the rest is, once.
fn two_passes(view: View<IndexCatalog>, guardian: Option<Guardian>, folders: u64, files: u64) {
    let temp = tempfile::tempdir().expect("a folder");
    let options = MountOptions { guardian, ..MountOptions::default() };
    let is_guarded = options.guardian.is_some();
    let mounted = mount(Arc::new(view), &temp.path().join("view"), &options).expect("a mount");
    let merged = mounted.dir().join("merged");
    let cat: &[&str] = &["sh", "-c", "find . -type f -print0 | xargs -0 cat > /dev/null"];

    let before = mounted.counters();
    run_over(&merged, &["ls", "-lR"]);
    run_over(&merged, cat);
    let first = mounted.counters().since(&before);

    assert!(first.readdir + first.readdirplus <= 2 * (folders + 2), "{first:?}");
    assert!(first.read <= files && first.read + first.given >= files, "each is asked for or handed on: {first:?}");
    assert!(is_guarded || first.given == 0, "{first:?}");
    assert!(first.lookup < 10 && first.getattr <= 2 && first.open <= 1 && first.opendir <= 1, "{first:?}");
    let passes: [&[&str]; 6] = [
        &["find", ".", "-size", "+0"],
        &["ls", "-lR"],
        &["sh", "-c", "find . -print0 | xargs -0 stat > /dev/null"],
        &["grep", "-rc", "note 7", "."],
        cat,
        &["tar", "-cf", "/dev/zero", "."],
    ];
    for words in passes {
        let asked = mount_tests::asked_by(&mounted, || run_over(&merged, words));
        assert_eq!(asked.asked(), 0, "{words:?}: {asked:?}");
    }
    mounted.unmount().expect("unmounted");
}

#[test]
fn words_show_what_holds_them_under_the_names_of_merged() {
    let mut world = World::new();
    let laptop = world.origin(1);
    world.share(0, "docs/a.md", "a red apple");
    world.share(0, "docs/b.md", "a green pear");
    world.put(0, "runs/log.txt", Some("no fruit"), Channel::Archive, false);
    world.put(1, "runs/log.txt", Some("one apple"), Channel::Archive, false);
    world.share(0, "deep/er/c.md", "gone apple");
    world.put(1, "deep/er/c.md", None, Channel::Shared, false);
    let view = world.view();

    let found = |words: &str| tree_below(&view, &["search", words]).into_keys().collect::<Vec<_>>();
    assert_eq!(found("apple"), ["docs/a.md".to_owned(), format!("runs/log.{laptop}.txt")]);
    assert_eq!(found("pear path:docs"), ["docs/b.md"]);
    assert!(found("plum").is_empty());

    world.share(1, "docs/b.md", "an apple now");
    assert_eq!(found("apple").len(), 3);
    let searches = view.lookup(NodeId::ROOT, OsStr::new("search")).expect("a folder").id;
    for name in [".git", "---", "apple since:1h"] {
        assert!(matches!(view.lookup(searches, OsStr::new(name)), Err(ViewError::NotFound { .. })), "{name}");
    }
}

#[test]
fn starred_shows_what_has_a_star_under_the_names_of_merged() {
    let mut world = World::new();
    let (desk, laptop) = (world.origin(0), world.origin(1));
    world.share(0, "docs/a.md", "a");
    world.share(0, "docs/b.md", "b");
    world.put(0, "runs/log.txt", Some("x"), Channel::Archive, false);
    world.put(1, "runs/log.txt", Some("y"), Channel::Archive, false);
    let view = world.view();
    let shown = |world: &World| tree_below(&world.view(), &["starred"]).into_keys().collect::<Vec<_>>();
    assert!(shown(&world).is_empty());
    assert!(tree_below(&view, &["starred"]).is_empty());
    let row = view.catalog().last_row().expect("a row");

    world.star(1, "docs/a.md", None, true);
    world.star(0, "runs/log.txt", Some(&laptop), true);
    world.star(0, "nowhere.md", None, true);

    assert_eq!(shown(&world), ["docs/a.md".to_owned(), format!("runs/log.{laptop}.txt")]);
    let (changes, _) = view.catalog().changes_since(row).expect("changes");
    let stale = view.refresh(&changes).expect("known paths");
    let starred = view.lookup(NodeId::ROOT, OsStr::new("starred")).expect("a folder").id;
    for name in ["docs", "runs"] {
        assert!(stale.contains(&Invalidation { parent: starred, name: Some(name.to_owned()) }), "{name}: {stale:?}");
    }
    assert!(view.events(&changes).expect("events").iter().all(|event| event.happened != Happened::Created));
    world.star(0, "runs/log.txt", None, true);
    world.star(0, "docs/a.md", None, false);
    world.share(1, "nowhere.md", "somewhere now");
    let both = [format!("runs/log.{desk}.txt"), format!("runs/log.{laptop}.txt")];
    assert_eq!(shown(&world), ["nowhere.md".to_owned(), both[0].clone(), both[1].clone()]);
}

#[test]
fn a_starred_file_is_shown_also_where_another_machines_stands_for_it() {
    let mut world = World::new();
    let laptop = world.origin(1);
    for (path, longer) in [("runs/equal.txt", "same"), ("runs/prefix.txt", "same and more")] {
        world.put(0, path, Some(longer), Channel::Archive, false);
        world.put(1, path, Some("same"), Channel::Archive, false);
        world.star(0, path, Some(&laptop), true);
    }

    let shown = tree_below(&world.view(), &["starred"]);

    assert_eq!(shown, tree_below(&world.view(), &["merged"]));
    assert_eq!(shown.len(), 2);
}

#[test]
fn a_deleted_file_leaves_starred_and_is_back_with_its_star() {
    let mut world = World::new();
    world.share(0, "docs/a.md", "a");
    world.share(0, "docs/b.md", "b");
    world.star(0, "docs/a.md", None, true);
    let shown = |world: &World| tree_below(&world.view(), &["starred"]).into_keys().collect::<Vec<_>>();

    world.put(1, "docs/a.md", None, Channel::Shared, false);
    let gone = shown(&world);
    let starred = world.view().lookup(NodeId::ROOT, OsStr::new("starred")).expect("a folder").id;
    let folders = world.view().read_dir(starred, 2, 10).expect("a folder").len();
    world.share(1, "docs/a.md", "again");

    assert_eq!((gone, folders), (Vec::<String>::new(), 0), "no empty folder stays");
    assert_eq!(shown(&world), ["docs/a.md"]);
}

/// Longer than any machine is busy, and shorter than the look of once a minute.
const NOTICE: std::time::Duration = std::time::Duration::from_secs(50);

#[test]
fn what_is_committed_is_told_by_itself_while_its_writer_goes_on() {
    let mut world = World::new();
    world.share(0, "docs/a.md", "one");
    let view = Arc::new(world.view());
    let row = view.catalog().last_row().expect("a row");
    let (shown, (said, told)) = (view.clone(), std::sync::mpsc::channel());
    // What the view shows at the moment of telling is what a reader sees after the kernel forgot.
    let tell = move |news: News<'_>| {
        let News::Changes(changes) = news else { return false };
        let texts = tree_below(&shown, &["merged"]).into_values().collect::<Vec<_>>();
        said.send((changes.len(), texts)).is_ok()
    };
    let follower = Follower::start(view, &world.temp.path().join("index.db"), row, tell).expect("a thread");

    world.share(1, "docs/a.md", "two");
    assert_eq!(told.recv_timeout(NOTICE), Ok((1, vec!["two".to_owned()])));
    // Nothing but the commit itself told of it: whoever wrote it called nobody.
    world.share(1, "docs/b.md", "three");
    assert_eq!(told.recv_timeout(NOTICE), Ok((1, vec!["two".to_owned(), "three".to_owned()])));

    drop(follower);
    assert!(told.recv().is_err(), "nothing is told twice, and the thread ended");
}

#[test]
fn what_could_not_be_told_is_told_again_and_who_waits_is_told_when_all_is() {
    let mut world = World::new();
    let view = Arc::new(world.view());
    let row = view.catalog().last_row().expect("a row");
    let (said, told) = std::sync::mpsc::channel();
    let mut tries = 0;
    let tell = move |news: News<'_>| {
        let News::Changes(changes) = news else { return false };
        tries += 1;
        said.send(changes.len()).is_ok() && tries > 1
    };
    world.share(0, "a.md", "a");
    let follower = Follower::start(view, &world.temp.path().join("index.db"), row, tell).expect("a thread");

    assert_eq!((told.recv_timeout(NOTICE), told.recv_timeout(NOTICE)), (Ok(1), Ok(1)));
    world.share(0, "b.md", "b");
    follower.catch_up();

    assert_eq!(told.try_iter().sum::<usize>(), 1, "it was told before the call returned");
}

#[test]
fn a_word_of_more_contents_than_are_ranked_finds_each_of_them_once() {
    let mut world = World::new();
    let names: Vec<String> = (0..11).map(|n| format!("{n:02}.md")).collect();
    for name in &names {
        world.share(0, name, &format!("an apple in {name}"));
    }
    let view = world.view();

    assert_eq!(tree_below(&view, &["search", "apple"]).into_keys().collect::<Vec<_>>(), names);
    assert_eq!(tree_below(&view, &["search", "apple path:00"]).into_keys().collect::<Vec<_>>(), ["00.md"]);
}

#[test]
fn what_arrives_late_changes_the_moments_after_it_and_no_other() {
    let mut world = World::new();
    world.share(0, "docs/a.md", "one");
    world.ticks = 10;
    world.share(0, "docs/b.md", "b");
    let view = world.view();
    let name = |tick: u64| naming::time_name(Hlc::new(WALL_MS + tick, 0));
    let (early, late) = (name(3), name(8));
    let shown = |name: &str| tree_below(&view, &["at", name]).into_keys().collect::<Vec<_>>();
    assert_eq!((shown(&early), shown(&late)), (vec!["docs/a.md".to_owned()], vec!["docs/a.md".to_owned()]));
    let row = view.catalog().last_row().expect("a row");

    // Another machine's version, made between the two and heard of only now.
    world.ticks = 4;
    world.put(1, "docs/c.md", Some("c"), Channel::Shared, true);
    let (changes, _) = view.catalog().changes_since(row).expect("changes");
    let stale = view.refresh(&changes).expect("known paths");

    let folder = |name: &str| {
        let times = view.lookup(NodeId::ROOT, OsStr::new("at")).expect("a folder").id;
        let moment = view.lookup(times, OsStr::new(name)).expect("a moment").id;
        view.lookup(moment, OsStr::new("docs")).expect("a folder").id
    };
    assert_eq!(shown(&late), ["docs/a.md", "docs/c.md"]);
    assert_eq!(shown(&early), ["docs/a.md"]);
    assert!(stale.contains(&Invalidation { parent: folder(&late), name: Some("c.md".to_owned()) }));
    assert!(stale.iter().all(|stale| stale.parent != folder(&early)));
}

#[test]
fn a_clean_merge_is_one_file_that_goes_on_reading_the_same() {
    let mut world = World::new();
    world.share(0, "run.jsonl", "{\"n\":1}\n");
    world.share(1, "run.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    world.put(0, "run.jsonl", Some("{\"n\":1}\n{\"n\":3}\n"), Channel::Shared, true);
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;

    let node = view.lookup(merged, OsStr::new("run.jsonl")).expect("a file");
    let before = view.read(node.id, 0, 1 << 20).expect("bytes");
    assert_eq!(before.len() as u64, node.attr.size);
    assert_eq!(view.read(node.id, 10, 7).expect("bytes"), &before[10..17]);
    let text = String::from_utf8(before.clone()).expect("text");
    assert!(text.contains("\"n\":1") && text.contains("\"n\":2") && text.contains("\"n\":3"), "{text}");
    assert_eq!(view.catalog().purged_files().expect("asked"), [], "a purge of something else lets it be");

    world.share(1, "run.jsonl", "settled\n");
    let after = view.lookup(merged, OsStr::new("run.jsonl")).expect("a file");
    assert_ne!(after.id, node.id);
    assert_eq!(view.read(after.id, 0, 100).expect("bytes"), b"settled\n");
    assert_eq!(view.read(node.id, 0, 1 << 20).expect("the old number reads the old bytes"), before);
}

#[test]
fn changes_since_a_row_are_what_refresh_needs() {
    let mut world = World::new();
    world.share(0, "docs/a.md", "one");
    world.share(0, "docs/untouched.md", "one");
    let view = world.view();
    let start = view.catalog().last_row().expect("a row");
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
    let docs = view.lookup(merged, OsStr::new("docs")).expect("a folder").id;

    world.share(1, "docs/a.md", "two");
    world.share(1, "new/b.md", "b");
    let (changes, next) = view.catalog().changes_since(start).expect("changes");
    let stale = view.refresh(&changes).expect("known paths");

    assert_eq!(changes.len(), 2);
    assert!(stale.contains(&Invalidation { parent: docs, name: Some("a.md".to_owned()) }));
    assert!(stale.contains(&Invalidation { parent: merged, name: Some("new".to_owned()) }));
    assert!(!stale.contains(&Invalidation { parent: merged, name: Some("docs".to_owned()) }));
    let turn = view.catalog().turn();
    assert_eq!(view.catalog().changes_since(next).expect("changes"), (Vec::new(), next));
    assert_eq!(view.catalog().turn(), turn, "what was listed is as good as before");

    world.share(1, "docs/c.md", "c");
    view.catalog().changes_since(next).expect("changes");
    assert_ne!(view.catalog().turn(), turn, "what was listed lacks it, and the kernel is told next");
}

#[test]
fn a_content_that_is_not_here_is_absent_and_a_listing_survives_it() {
    let mut world = World::new();
    world.share(0, "a.md", "away");
    let name = world
        .ledger
        .chains()
        .expect("chains")
        .into_iter()
        .flat_map(|chain| world.ledger.checkpoint_names(&chain, 0).expect("names"));
    for name in name.collect::<Vec<_>>() {
        std::fs::remove_file(world.ledger.path(&name)).expect("removed");
    }
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;

    let node = view.lookup(merged, OsStr::new("a.md")).expect("it is listed");
    assert!(matches!(view.read(node.id, 0, 10), Err(ViewError::Catalog(_))));
    assert_eq!(view.read_dir(merged, 2, 10).expect("a listing").len(), 1);
}

/// The names of a folder of `merged/`, so many at a time, and how many version rows were read for them.
fn pages(view: &View<IndexCatalog>, folder: NodeId, limit: usize) -> (Vec<String>, u64) {
    crate::index::LOADED.with(|count| count.set(0));
    let (mut names, mut offset) = (Vec::new(), 2);
    loop {
        let page = view.read_dir(folder, offset, limit).expect("a folder");
        let Some(last) = page.last() else { break };
        offset = last.offset;
        names.extend(page.into_iter().map(|entry| entry.name));
    }
    (names, crate::index::LOADED.with(std::cell::Cell::get))
}

/// What was asked, and how many version rows this thread read for it.
fn rows_of<T>(ask: impl FnOnce() -> T) -> (T, u64) {
    crate::index::LOADED.with(|count| count.set(0));
    (ask(), crate::index::LOADED.with(std::cell::Cell::get))
}

#[test]
fn a_listing_costs_what_is_asked_of_it_however_many_names_there_are() {
    const NAMES: u64 = 240;
    const PAGE: u64 = 6;
    let mut world = World::new();
    let expected: Vec<String> = (0..NAMES).map(|n| format!("{n:03}.md")).collect();
    for name in expected.iter().rev() {
        world.share(0, name, name);
    }
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;

    let (names, rows) = pages(&view, merged, PAGE as usize);
    assert_eq!(names, expected);
    // Each page asks once more for the name at which the one before it ended.
    assert!(rows <= NAMES + NAMES / PAGE + 1, "{rows} rows");

    crate::index::LOADED.with(|count| count.set(0));
    assert_eq!(view.read_dir(merged, 2, PAGE as usize).expect("a folder").len(), PAGE as usize);
    let rows = crate::index::LOADED.with(std::cell::Cell::get);
    assert!(rows <= PAGE, "{rows} rows");
}

#[test]
fn what_comes_while_somebody_lists_neither_repeats_nor_hides_a_name() {
    let mut world = World::new();
    for name in ["b.md", "d", "f.md", "h.md"] {
        world.share(0, name, name);
    }
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
    let first = view.read_dir(merged, 2, 2).expect("a folder");
    assert_eq!(first.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["b.md", "d"]);

    // One before, one after, and the name at which the listing stopped becomes a folder; its number is another from now on.
    world.share(1, "a.md", "a");
    world.share(1, "g.md", "g");
    world.put(0, "d", None, Channel::Shared, false);
    world.share(1, "d/below.md", "below");
    let rest = view.read_dir(merged, first[1].offset, 10).expect("a folder");

    assert_eq!(rest.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["f.md", "g.md", "h.md"]);
}

#[test]
fn a_folder_is_as_new_as_what_changed_in_it_last() {
    let mut world = World::new();
    world.share(0, "docs/a.md", "one");
    world.share(0, "other/b.md", "one");
    let view = world.view();
    let time = |name: &str| {
        let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
        view.lookup(merged, OsStr::new(name)).expect("a folder").attr.mtime_ms
    };
    let before = (time("docs"), time("other"));

    world.share(1, "docs/a.md", "two");

    assert!(before.0 < time("docs"));
    assert_eq!(time("other"), before.1);
}

#[test]
fn a_change_in_a_folder_of_many_names_costs_its_time_one_row() {
    let mut world = World::new();
    for n in 0..60 {
        world.share(0, &format!("docs/{n:02}.md"), "one");
    }
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
    let docs = view.lookup(merged, OsStr::new("docs")).expect("a folder").id;

    world.share(1, "docs/07.md", "two");
    let (newest, rows) = rows_of(|| view.attr(docs).expect("a folder").mtime_ms);

    assert_eq!(newest, WALL_MS + 61);
    assert_eq!(rows, 1);
}

#[test]
fn a_view_that_followed_tells_the_same_time_of_a_folder_as_a_new_one() {
    let mut world = World::new();
    world.share(0, "docs/a.md", "one");
    world.share(0, "docs/b.md", "one");
    let view = world.view();
    let time = |view: &View<IndexCatalog>| {
        let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
        view.lookup(merged, OsStr::new("docs")).expect("a folder").attr.mtime_ms
    };
    let same = |world: &World| {
        assert_eq!(time(&view), time(&world.view()));
        time(&view)
    };
    let before = same(&world);

    // Written before both, by a machine that knew neither; it came late, in place of the newest.
    world.ticks = 0;
    world.put(2, "docs/b.md", Some("late"), Channel::Shared, true);
    same(&world);
    world.ticks = 10;
    world.share(1, "docs/a.md", "two");
    assert!(before < same(&world));
    world.put(1, "docs/a.md", None, Channel::Shared, false);
    world.share(0, "other/c.md", "one");
    same(&world);
}

#[test]
fn mounting_reads_no_version_and_a_first_look_only_what_it_shows() {
    let mut world = World::new();
    for n in 0..40 {
        world.share(0, &format!("top-{:02}/below-{n:02}.md", n / 20), "one");
    }
    let view = world.view();

    let (_, rows) = rows_of(|| {
        view.catalog().last_row().expect("a row");
        assert!(!view.catalog().is_outdated());
        view.statfs().expect("sums");
        view.attr(NodeId::ROOT).expect("the root");
        view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder");
    });
    assert_eq!(rows, 0);

    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
    let (top, rows) = rows_of(|| view.lookup(merged, OsStr::new("top-01")).expect("a folder").id);
    // How new each of them is.
    assert_eq!(rows, 20);
    let (lines, rows) = rows_of(|| view.read_dir(top, 0, 100).expect("a listing").len());
    assert_eq!((lines, rows), (22, 20));
}

#[test]
fn a_damaged_pack_fails_for_what_it_holds_alone_and_is_noted() {
    let mut world = World::new();
    // Letters without an order, so that they fill a pack of their own.
    let mut state = 1u64;
    let mut letters = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        char::from(b'a' + (state >> 40) as u8 % 26)
    };
    let long: String = (0..700_000).map(|_| letters()).collect();
    world.share(0, "long.md", &long);
    world.share(0, "short.md", "short");
    let chains = world.ledger.chains().expect("chains");
    let names = chains.iter().flat_map(|chain| world.ledger.artifact_names(chain).expect("names"));
    let pack = names.into_iter().find(|name| name.kind() == crate::ledger::ArtifactKind::Pack).expect("a pack");
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
    let node = |name: &str| view.lookup(merged, OsStr::new(name)).expect("a file").id;

    let path = world.ledger.path(&pack);
    let mut bytes = std::fs::read(&path).expect("the pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, bytes).expect("written");

    assert!(matches!(view.read(node("long.md"), 0, 100), Err(ViewError::Catalog(CatalogError::Broken { .. }))));
    assert_eq!(view.read(node("short.md"), 0, 100).expect("bytes"), b"short");
    let noted = world.ledger.noted_damage().expect("what was noted");
    assert_eq!(noted.iter().map(|noted| &noted.name).collect::<Vec<_>>(), [&pack]);
    assert_eq!(view.read_dir(merged, 2, 10).expect("a listing").len(), 2);
}

#[test]
fn damage_is_noted_of_the_index_that_is_there_and_not_of_one_that_was_replaced() {
    let mut world = World::new();
    for n in 0..300 {
        world.share(0, &format!("{n:03}.md"), "one");
    }
    world.index.rest().expect("all of it in the file");
    let path = world.temp.path().join("index.db");
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("a folder").id;
    let file = std::fs::File::options().write(true).open(&path).expect("the index");
    let bytes = file.metadata().expect("facts").len();
    for page in (4096..bytes).step_by(4096) {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 8], page).expect("damaged");
    }

    assert!(view.read_dir(merged, 0, 400).is_err());
    assert!(Index::is_suspect(&path));

    world.index = Index::recreate(&path, 8).expect("a new one");
    assert!(view.read_dir(merged, 0, 400).is_err(), "it goes on with the old one");
    assert!(!Index::is_suspect(&path), "the new one is whole");
}

/// Keeps what it is given.
#[derive(Default)]
struct Taken(std::sync::Mutex<BTreeMap<FileId, Vec<u8>>>);

impl Giver for Taken {
    fn turn(&self) -> Option<u64> {
        Some(7)
    }

    fn give(&self, files: Vec<(FileId, crate::index::Proven)>, turn: u64) {
        assert_eq!(turn, 7);
        let files = files.into_iter().map(|(file, bytes)| (file, bytes.bytes().to_vec()));
        self.0.lock().expect("nobody panics with it").extend(files);
    }
}

#[test]
fn who_reads_on_has_the_next_files_handed_on_and_who_lists_then_that_folders() {
    let mut world = World::new();
    for n in 0..120 {
        world.share(0, &format!("f{n:03}"), &format!("text {n}"));
    }
    let view = world.view();
    let taken = Arc::new(Taken::default());
    view.catalog().give_by(Arc::clone(&taken) as Arc<dyn Giver>);
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("merged").id;
    let file = |n: usize| {
        let node = view.lookup(merged, OsStr::new(&format!("f{n:03}"))).expect("a file").id;
        match Place::of(node) {
            Some(Place::File(file)) => (node, file),
            other => panic!("no file: {other:?}"),
        }
    };
    let files: Vec<(NodeId, FileId)> = (0..120).map(file).collect();
    let is_taken = |n: usize| taken.0.lock().expect("nobody panics with it").contains_key(&files[n].1);
    let wait_for = |n: usize| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !is_taken(n) {
            assert!(std::time::Instant::now() < end, "f{n:03} is not handed on");
            std::thread::yield_now();
        }
    };

    view.catalog().listed(&files[70..80].iter().map(|(_, file)| *file).collect::<Vec<_>>());
    for (n, (node, _)) in files.iter().enumerate().take(8) {
        assert_eq!(view.read(*node, 0, 100).expect("bytes"), format!("text {n}").as_bytes());
    }
    wait_for(20);
    assert!((0..8).all(|n| !is_taken(n)), "who asked for it has it");
    view.catalog().listed(&files[100..110].iter().map(|(_, file)| *file).collect::<Vec<_>>());
    wait_for(109);
    assert!(!is_taken(75), "nobody read anything when it was listed");

    for (file, bytes) in &*taken.0.lock().expect("nobody panics with it") {
        let n = files.iter().position(|(_, known)| known == file).expect("one of them");
        assert_eq!(*bytes, format!("text {n}").as_bytes());
    }
}

#[test]
fn what_a_walk_comes_to_is_ready_before_it_is_asked_for_and_forgotten_with_the_next_look() {
    let mut world = World::new();
    for n in 0..9 {
        world.share(n % 3, &format!("f{n}"), &format!("text {n}"));
    }
    let view = world.view();
    let merged = view.lookup(NodeId::ROOT, OsStr::new("merged")).expect("merged").id;
    let nodes: Vec<NodeId> =
        (0..9).map(|n| view.lookup(merged, OsStr::new(&format!("f{n}"))).expect("a file").id).collect();
    // The file's text, and how many rows this thread read for it.
    let read = |n: usize| {
        crate::index::LOADED.with(|count| count.set(0));
        let bytes = view.read(nodes[n], 0, 100).expect("bytes");
        assert_eq!(bytes, format!("text {n}").as_bytes());
        crate::index::LOADED.with(std::cell::Cell::get)
    };

    assert_eq!((read(0), read(1)), (1, 1), "nothing is known of where this goes");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while read(2) > 0 {
        assert!(std::time::Instant::now() < end, "not ready yet");
        std::thread::yield_now();
    }
    assert_eq!((3..9).map(read).sum::<u64>(), 0);

    view.catalog().changes_since(0).expect("a look");
    assert_eq!(read(8), 1);

    // And once it is known that somebody purged something, before the kernel is told.
    while read(7) > 0 {
        assert!(std::time::Instant::now() < end, "not ready yet");
        std::thread::yield_now();
    }
    view.catalog().purged_files().expect("a look");
    assert_eq!(read(7), 1);
}
