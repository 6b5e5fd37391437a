//! Laws of appending in place: what a line file gained elsewhere is put behind what stands here, and nothing else is touched.

use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::env::{Random, SystemRandom};

const LOG: &str = "run.jsonl";

fn append(machine: &Machine, text: &str) {
    use std::io::Write;
    let mut file = std::fs::File::options().append(true).open(machine.path(LOG)).expect("opens");
    file.write_all(text.as_bytes()).expect("appends");
}

fn inode(machine: &Machine) -> u64 {
    std::fs::metadata(machine.path(LOG)).expect("looks").ino()
}

/// What was displaced and is still kept.
fn displaced(machine: &Machine) -> usize {
    std::fs::read_dir(machine.path(".larder/displaced")).expect("lists").count()
}

/// Lines enough for several segments and more than one unit of hashing.
fn long_log() -> String {
    (0..4000).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "word ".repeat(n % 20))).collect()
}

fn pair_with(text: &str) -> (Arc<dyn FileSyncAdapter>, Machine, Machine) {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write(LOG, text);
    converge(&mut [&mut a, &mut b]);
    (backend, a, b)
}

#[test]
fn a_file_that_grew_elsewhere_stays_the_same_file_and_only_grows() {
    let long = long_log();
    for text in ["", "{\"n\":0}\n", "no line end", long.as_str()] {
        let (_backend, mut a, mut b) = pair_with(text);
        let before = inode(&b);

        let mut wanted = text.to_owned();
        for round in 0..3 {
            let more = format!("{{\"more\":{round}}}\n").repeat(1 + 700 * round);
            append(&a, &more);
            wanted.push_str(&more);
            converge(&mut [&mut a, &mut b]);
            assert_eq!(b.read(LOG).as_ref(), Some(&wanted));
        }

        assert_eq!((inode(&b), displaced(&b)), (before, 0), "of {} bytes", text.len());
        b.restart();
        assert!(b.run().is_empty(), "our own append is no edit");
    }
}

#[test]
fn a_file_that_was_edited_elsewhere_is_exchanged() {
    let long = long_log();
    let edits = [long.replacen("word", "WORD", 1) + "more\n", long[..long.len() - 1].to_owned(), format!("x{long}")];
    for edited in edits {
        let (_backend, mut a, mut b) = pair_with(&long);
        let before = inode(&b);

        a.write(LOG, &edited);
        converge(&mut [&mut a, &mut b]);

        assert_eq!(b.read(LOG), Some(edited));
        assert_ne!(inode(&b), before);
        assert_eq!(displaced(&b), 1);
    }
}

#[test]
fn merged_tails_are_appended_where_their_beginning_stands() {
    let (backend, mut a, mut b) = pair_with(&long_log());
    let mut c = Machine::new("c", &backend);
    converge(&mut [&mut c]);
    let before = inode(&c);

    append(&a, "{\"a\":1}\n");
    append(&b, "{\"b\":1}\n");
    a.run();
    b.run();
    let report = c.run();
    converge(&mut [&mut a, &mut b, &mut c]);

    assert_eq!(report.written, [(LOG.to_owned(), Change::Edited)]);
    assert_eq!(inode(&c), before);
    assert_eq!((c.read(LOG), c.read(LOG)), (a.read(LOG), b.read(LOG)));
    assert!(c.read(LOG).is_some_and(|text| text.starts_with(&long_log())));

    append(&a, "{\"after\":1}\n");
    converge(&mut [&mut a, &mut b, &mut c]);
    assert_eq!((inode(&c), c.read(LOG)), (before, a.read(LOG)));
}

#[test]
fn a_reader_keeps_what_it_reads_and_a_writer_is_waited_for() {
    let (_backend, mut a, mut b) = pair_with("one\n");
    let before = inode(&b);

    let mut reader = std::fs::File::open(b.path(LOG)).expect("opens");
    append(&a, "two\n");
    converge(&mut [&mut a, &mut b]);
    assert_ne!(inode(&b), before);
    assert_eq!(std::io::read_to_string(&mut reader).expect("reads"), "one\n");

    let writer = std::fs::File::options().append(true).open(b.path(LOG)).expect("opens");
    append(&a, "three\n");
    a.run();
    let report = b.run();
    assert_eq!(report.waiting, [(LOG.to_owned(), "open for writing".to_owned())]);
    assert_eq!(b.read(LOG).as_deref(), Some("one\ntwo\n"));

    drop(writer);
    converge(&mut [&mut a, &mut b]);
    assert_eq!(b.read(LOG).as_deref(), Some("one\ntwo\nthree\n"));
}

/// Does something at the moment when an intent gets its id: after the decision, before the change.
struct Meddler {
    is_armed: AtomicBool,
    act: Mutex<Box<dyn FnMut() + Send>>,
}

impl Random for Meddler {
    fn fill(&self, buffer: &mut [u8]) {
        SystemRandom.fill(buffer);
        if buffer.len() == 20 && self.is_armed.swap(false, Ordering::SeqCst) {
            (self.act.lock().expect("not poisoned"))();
        }
    }
}

#[test]
fn bytes_that_slip_in_before_the_append_become_a_version_and_nothing_is_lost() {
    let (_backend, mut a, mut b) = pair_with("one\n");
    b.restart();
    let (path, kept) = (b.path(LOG), std::fs::read(b.path(LOG)).expect("reads"));
    let act = move || std::fs::write(&path, [&kept[..], b"slipped in\n"].concat()).expect("writes");
    let meddler = Arc::new(Meddler { is_armed: AtomicBool::new(false), act: Mutex::new(Box::new(act)) });
    let mut env = Env::system();
    env.host = b.host.to_owned();
    env.vars.clear();
    env.state_home = b.home.path().to_owned();
    env.random = meddler.clone();
    b.node = Some(Node::open(&env, &b.options(), Arc::new(NoProgress)).expect("opens"));

    append(&a, "two\n");
    a.run();
    meddler.is_armed.store(true, Ordering::SeqCst);
    let report = b.run();
    assert!(!meddler.is_armed.load(Ordering::SeqCst), "somebody meddled");
    assert_eq!(report.waiting, [(LOG.to_owned(), "the file changed at the same moment".to_owned())]);
    converge(&mut [&mut a, &mut b]);

    let text = b.read(LOG).expect("is there");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "slipped in", "two"]);
    assert_eq!((a.read(LOG), a.conflicts()), (Some(text), 0));
}

#[test]
fn undo_takes_an_append_back() {
    let (_backend, mut a, mut b) = pair_with("one\n");
    append(&a, "two\n");
    a.run();
    b.run();
    assert_eq!(b.read(LOG).as_deref(), Some("one\ntwo\n"));

    b.node().undo(false).expect("undoes");
    converge(&mut [&mut a, &mut b]);

    assert_eq!((a.read(LOG).as_deref(), b.read(LOG).as_deref()), (Some("one\n"), Some("one\n")));
}

/// Leaves `b` as a stop would: the intent of the append is open, and `standing` stands in the file.
fn stop_in_the_middle(b: &mut Machine, standing: &[u8]) {
    open_intent(b, LOG, true);
    std::fs::write(b.path(LOG), standing).expect("writes");
    b.restart();
}

#[test]
fn what_a_stopped_append_left_is_finished_or_is_an_edit() {
    let old = long_log();
    let tail = "{\"from\":\"a\"}\n{\"last\":1}\n";
    let table = [
        ("nothing", "", vec![]),
        ("a byte", "{", vec![]),
        ("a line and a half", &tail[..20], vec![]),
        ("all of it", tail, vec![]),
        ("all of it and a line behind", &format!("{tail}mine\n"), vec!["mine"]),
        ("another line", "mine\n", vec!["mine"]),
    ];
    for (what, added, own) in table {
        let (_backend, mut a, mut b) = pair_with(&old);
        let before = inode(&b);
        append(&a, tail);
        a.run();

        stop_in_the_middle(&mut b, format!("{old}{added}").as_bytes());
        converge(&mut [&mut b, &mut a]);

        let text = b.read(LOG).expect("is there");
        let mut lines: Vec<&str> = text.strip_prefix(&old).expect("begins as before").lines().collect();
        lines.sort_unstable();
        let mut wanted = [vec!["{\"from\":\"a\"}", "{\"last\":1}"], own].concat();
        wanted.sort_unstable();
        assert_eq!(lines, wanted, "{what}");
        assert_eq!(a.read(LOG), Some(text), "{what}");
        assert_eq!(a.conflicts() + b.conflicts(), 0, "{what}");
        assert!(b.node().engine.state.intents().expect("lists").is_empty(), "{what}");
        assert!(what == "another line" || inode(&b) == before, "{what}: was exchanged");
    }
}

#[test]
fn an_edit_of_the_beginning_after_a_stop_is_not_taken_for_our_append() {
    let old = long_log();
    let tail = "{\"from\":\"a\"}\n";
    let (_backend, mut a, mut b) = pair_with(&old);
    append(&a, tail);
    a.run();

    let edited = format!("{}{tail}", old.replacen("\"n\":0", "\"n\":9", 1));
    stop_in_the_middle(&mut b, edited.as_bytes());
    b.run();

    // It is a version of its own beside the append: one wins, both can be read.
    let slot = b.node().engine.slot_by_rules(&RelPath::parse(LOG).expect("a path")).expect("a slot");
    assert_eq!(b.node().engine.reader().expect("opens").heads(&slot).expect("reads").len(), 2);
    assert_eq!(b.conflicts(), 1);
}

#[test]
fn a_stopped_append_waits_while_somebody_has_the_file_open() {
    let old = long_log();
    let tail = "{\"from\":\"a\"}\n";
    let (_backend, mut a, mut b) = pair_with(&old);
    append(&a, tail);
    a.run();

    stop_in_the_middle(&mut b, format!("{old}{}", &tail[..5]).as_bytes());
    let reader = std::fs::File::open(b.path(LOG)).expect("opens");
    b.run();
    assert_eq!(b.read(LOG), Some(format!("{old}{}", &tail[..5])));
    let waits = b.node().engine.state.pending().expect("lists");
    assert!(waits.iter().any(|wait| wait.why.contains("is finished later")), "{waits:?}");

    drop(reader);
    converge(&mut [&mut b, &mut a]);
    assert_eq!(b.read(LOG), Some(format!("{old}{tail}")));
    assert!(b.node().engine.state.pending().expect("lists").is_empty());
}

#[test]
fn an_edit_that_a_stopped_replace_took_away_is_recorded_though_its_folder_cannot_be_looked_into() {
    for what in ["removed", "moved away and linked"] {
        let backend = backend();
        let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
        a.write("docs/a.txt", "one");
        converge(&mut [&mut a, &mut b]);
        a.write("docs/a.txt", "two");
        a.run();

        open_intent(&mut b, "docs/a.txt", false);
        std::fs::write(b.path(".larder/displaced/stopped"), "only here").expect("writes");
        let elsewhere = tempfile::tempdir().expect("a folder");
        std::fs::rename(b.path("docs"), b.path(".larder/moved")).expect("moved");
        if what != "removed" {
            std::os::unix::fs::symlink(elsewhere.path(), b.path("docs")).expect("linked");
        }
        for _ in 0..2 {
            b.restart();
            b.run();
        }

        let hash = crate::model::ContentHash::of(b"only here");
        let versions = b.node().engine.reader().expect("opens").versions_of_content(&hash).expect("reads");
        let kept = std::fs::read_to_string(b.path(".larder/displaced/stopped")).ok();
        assert!(!versions.is_empty(), "{what}: no version has it, and the stage holds {kept:?}");
    }
}
