//! Laws of files that a sync took away: none is lost because it cannot be looked at, and none is an edit that is recorded.

use std::path::Path;
use std::sync::Arc;

use super::{Machine, backend, converge, open_intent};
use crate::env::ManualClock;
use crate::model::{Channel, ContentHash, ContentKind, RelPath};
use crate::state::Displaced;
use crate::sync::Report;

const DAY_MS: u64 = 86_400_000;

fn displaced(id: &str, hash: Option<ContentHash>, beside: bool) -> Displaced {
    let (path, versions) = (RelPath::parse("a.txt").expect("a path"), Vec::new());
    Displaced { id: id.to_owned(), path, channel: Channel::Shared, versions, hash, since_ms: 0, beside }
}

fn rows(machine: &mut Machine) -> Vec<String> {
    machine.node().engine.state.displaced().expect("lists").into_iter().map(|one| one.id).collect()
}

fn problems(machine: &Machine, source: &str) -> Vec<String> {
    let told = machine.glance_status().problems.into_iter().filter(|problem| problem.source == source);
    told.map(|problem| problem.what).collect()
}

fn is_recorded(machine: &mut Machine, text: &str) -> bool {
    let hash = ContentHash::of(text.as_bytes());
    !machine.node().engine.reader().expect("opens").versions_of_content(&hash).expect("reads").is_empty()
}

/// Something that stands there and that nobody can read, whoever runs this.
fn make_unreadable(path: &Path) {
    std::fs::create_dir(path).expect("creates");
}

#[test]
fn a_displaced_file_that_cannot_be_read_is_neither_gone_nor_proven() {
    for beside in [false, true] {
        let mut a = Machine::new("a", &backend());
        a.write("a.txt", "one");
        a.run();
        let place = a.path(if beside { "_tmp-larder-kept" } else { ".larder/displaced/kept" });
        make_unreadable(&place);
        a.node().engine.state.set_displaced(&displaced("kept", None, beside)).expect("writes");

        for _ in 0..2 {
            a.restart();
            a.run();
            assert_eq!(rows(&mut a), ["kept"], "beside: {beside}");
            let told = problems(&a, "displaced");
            assert!(
                matches!(&told[..], [one] if one.contains("kept") && one.contains("each run tries again")),
                "{told:?}"
            );
        }
        std::fs::remove_dir(&place).expect("removes");
        std::fs::write(&place, "only here").expect("writes");
        a.run();

        assert!(is_recorded(&mut a, "only here"), "beside: {beside}");
        assert_eq!(problems(&a, "displaced"), [] as [&str; 0]);
    }
}

#[test]
fn a_displaced_link_is_recorded_as_the_link_it_is() {
    let mut a = Machine::new("a", &backend());
    a.write("a.txt", "one");
    a.run();
    std::os::unix::fs::symlink("b.txt", a.path(".larder/displaced/kept")).expect("links");
    a.node().engine.state.set_displaced(&displaced("kept", None, false)).expect("writes");

    a.run();

    let hash = ContentHash::of(b"b.txt");
    let reader = a.node().engine.reader().expect("opens");
    let ids = reader.versions_of_content(&hash).expect("reads");
    let version = reader.version(ids.first().expect("was recorded")).expect("reads").expect("is known");
    assert_eq!(version.version.content().map(|content| content.kind), Some(ContentKind::Link));
}

#[test]
fn a_displaced_file_that_cannot_be_removed_stays_listed() {
    let clock = Arc::new(ManualClock::new(DAY_MS));
    let mut a = Machine::timed("a", &backend(), &clock);
    a.write("a.txt", "one");
    a.run();
    // Its bytes are known, its time is over, and it does not go.
    make_unreadable(&a.path(".larder/displaced/kept"));
    a.node().engine.state.set_displaced(&displaced("kept", Some(ContentHash::of(b"one")), false)).expect("writes");
    clock.advance(2 * DAY_MS);

    a.run();

    assert_eq!(rows(&mut a), ["kept"]);
    assert_eq!(problems(&a, "displaced").len(), 1);
}

/// Two machines with one file, which `a` changed to "two" and `b` has not heard of.
fn pair() -> (Machine, Machine) {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("a.txt", "one");
    converge(&mut [&mut a, &mut b]);
    a.write("a.txt", "two");
    a.run();
    (a, b)
}

#[test]
fn an_edit_that_slipped_into_a_replace_before_a_stop_is_recorded() {
    for gap in ["after the exchange", "before what was aside got its name"] {
        let (_a, mut b) = pair();
        open_intent(&mut b, "a.txt", false);
        b.write("a.txt", "two");
        let name = if gap == "after the exchange" { "stopped" } else { "stopped.old" };
        std::fs::write(b.path(".larder/displaced").join(name), "slipped in").expect("writes");

        for _ in 0..2 {
            b.restart();
            b.run();
        }

        assert!(is_recorded(&mut b, "slipped in"), "{gap}");
        assert_eq!(b.node().engine.state.intents().expect("lists"), []);
    }
}

#[test]
fn a_torn_copy_that_was_staged_is_no_edit() {
    let (_a, mut b) = pair();
    open_intent(&mut b, "a.txt", false);
    std::fs::write(b.path(".larder/displaced/stopped"), "t").expect("writes");

    b.restart();
    b.run();

    assert!(!is_recorded(&mut b, "t"));
    assert_eq!(b.read("a.txt").as_deref(), Some("two"));
    assert_eq!(b.conflicts(), 0);
}

#[test]
fn what_a_stopped_replace_took_away_waits_until_it_can_be_read() {
    let (_a, mut b) = pair();
    open_intent(&mut b, "a.txt", false);
    b.write("a.txt", "two");
    let place = b.path(".larder/displaced/stopped");
    make_unreadable(&place);

    b.restart();
    b.run();
    assert_eq!(rows(&mut b), ["stopped"]);
    assert_eq!(b.conflicts(), 0, "what stands there is the new content");
    std::fs::remove_dir(&place).expect("removes");
    std::fs::write(&place, "slipped in").expect("writes");
    b.run();

    assert!(is_recorded(&mut b, "slipped in"));
}

#[test]
fn a_stop_before_a_file_was_made_runnable_takes_nothing_back() {
    use std::os::unix::fs::PermissionsExt;
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("a.txt", "one");
    converge(&mut [&mut a, &mut b]);
    std::fs::set_permissions(a.path("a.txt"), std::fs::Permissions::from_mode(0o755)).expect("sets");
    a.run();
    open_intent(&mut b, "a.txt", false);
    // The same bytes are staged, and the stop came before the exchange.
    std::fs::write(b.path(".larder/displaced/stopped"), "one").expect("writes");

    b.restart();
    converge(&mut [&mut b, &mut a]);

    let mode = |machine: &Machine| std::fs::metadata(machine.path("a.txt")).expect("is there").permissions().mode();
    assert_eq!((mode(&a) & 0o100, mode(&b) & 0o100), (0o100, 0o100));
}

#[test]
fn what_could_not_be_read_and_then_is_what_stood_there_is_no_edit() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("a.txt", "one");
    converge(&mut [&mut a, &mut b]);
    let path = RelPath::parse("a.txt").expect("a path");
    let base = b.node().engine.state.base(&path).expect("reads").expect("a base");
    a.write("a.txt", "two");
    converge(&mut [&mut a, &mut b]);
    // As a batch leaves it that could not read what it took away.
    let [row] = &b.node().engine.state.displaced().expect("lists")[..] else { panic!("one is displaced") };
    let unread = Displaced { hash: None, ..row.clone() };
    assert_eq!(unread.versions, base.versions);

    let mut report = Report::default();
    b.node().engine.record_slipped_in(&[unread], &mut report).expect("looks");

    assert_eq!(report.recorded, []);
    assert_eq!((b.conflicts(), b.read("a.txt").as_deref()), (0, Some("two")));
}

/// Two machines, and one that merged their lines and then was told that all of them were written anew.
fn with_a_merge_that_was_replaced(clock: &Arc<ManualClock>) -> [Machine; 3] {
    let backend = backend();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|host| Machine::timed(host, &backend, clock));
    a.write("log.jsonl", "{\"n\":0}\n");
    converge(&mut [&mut a, &mut b, &mut c]);
    a.write("log.jsonl", "{\"n\":0}\n{\"a\":1}\n");
    b.write("log.jsonl", "{\"n\":0}\n{\"b\":1}\n");
    a.run();
    b.run();
    converge(&mut [&mut a, &mut b, &mut c]);
    clock.advance(1_000);
    a.write("log.jsonl", "{\"written\":\"anew\"}\n");
    converge(&mut [&mut a, &mut b, &mut c]);
    [a, b, c]
}

#[test]
fn what_was_merged_and_never_published_is_no_edit_when_its_time_is_over() {
    let clock = Arc::new(ManualClock::new(4_000_000_000_000));
    let [_, _, mut c] = with_a_merge_that_was_replaced(&clock);
    assert_eq!(c.node().engine.state.displaced().expect("lists").len(), 1);

    for read_before in [true, false] {
        let [row] = &c.node().engine.state.displaced().expect("lists")[..] else { panic!("one is displaced") };
        let row = Displaced { hash: row.hash.filter(|_| read_before), ..row.clone() };
        c.node().engine.state.set_displaced(&row).expect("writes");
        let mut report = Report::default();
        c.node().engine.prove_displaced(&row, false, &mut report).expect("looks").expect("is read");
        assert_eq!(report.recorded, [], "read before: {read_before}");
    }
    clock.advance(2 * DAY_MS);
    let report = c.run();

    assert_eq!((report.recorded, c.conflicts()), (vec![], 0));
    assert_eq!(c.node().engine.state.displaced().expect("lists"), []);
    assert_eq!(std::fs::read_dir(c.path(".larder/displaced")).expect("lists").count(), 0);
}

#[test]
fn a_save_that_slipped_in_is_an_edit_though_its_bytes_are_known_elsewhere() {
    let mut a = Machine::new("a", &backend());
    a.write("a.txt", "one");
    a.write("other.txt", "known elsewhere");
    a.run();
    let path = RelPath::parse("a.txt").expect("a path");
    let base = a.node().engine.state.base(&path).expect("reads").expect("a base");
    for (id, text) in [("copied", "known elsewhere"), ("emptied", "")] {
        std::fs::write(a.path(".larder/displaced").join(id), text).expect("writes");
        let row = Displaced { versions: base.versions.clone(), ..displaced(id, None, false) };
        a.node().engine.state.set_displaced(&row).expect("writes");
        for recorded in [1, 0] {
            let mut report = Report::default();
            // As after a stop before it was noted, too.
            a.node().engine.prove_displaced(&row, false, &mut report).expect("looks").expect("is read");
            assert_eq!(report.recorded.len(), recorded, "{id}");
        }
    }
}

#[test]
fn what_slipped_in_is_published_only_if_a_look_at_the_path_would_publish_it() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nnobody's business\n";
    let mut a = Machine::new("a", &backend());
    a.write("a.txt", "one");
    a.run();
    let path = RelPath::parse("a.txt").expect("a path");
    let base = a.node().engine.state.base(&path).expect("reads").expect("a base");
    let row = |id: &str, path: &str| Displaced {
        id: id.to_owned(),
        path: RelPath::parse(path).expect("a path"),
        channel: base.channel,
        versions: base.versions.clone(),
        hash: None,
        since_ms: 0,
        beside: false,
    };
    let long = "longer than maxFileBytes ".repeat(100);
    a.write(
        "sync-config.json",
        &super::CONFIG.replacen('{', "{ \"maxFileBytes\": 1000, \"respectGitignore\": true, ", 1),
    );
    a.write(".gitignore", "ignored.txt\n");
    a.write("ignored.txt", "what replaced it");
    a.restart();
    a.run();
    let scenes = [
        ("key", "a.txt", key),
        ("other", "a.bin", "of no pattern any more"),
        ("long", "b.txt", &*long),
        ("ignored", "ignored.txt", "of no business here"),
    ];
    for (id, path, text) in scenes {
        let one = row(id, path);
        std::fs::write(a.path(".larder/displaced").join(&one.id), text).expect("writes");
        a.node().engine.state.set_displaced(&one).expect("writes");
    }

    a.run();

    assert_eq!(scenes.map(|(_, _, text)| is_recorded(&mut a, text)), [false; 4]);
    assert_eq!(rows(&mut a), ["ignored", "key", "long", "other"]);
    let told = problems(&a, "displaced");
    for why in ["private key", "maxFileBytes", ".gitignore", "no pattern"] {
        assert!(told.iter().any(|what| what.contains(why)), "{why}: {told:?}");
    }
    assert!(scenes.iter().all(|(name, _, _)| a.path(".larder/displaced").join(name).exists()));
}

#[test]
fn what_was_merged_of_something_purged_and_never_read_is_neither_published_nor_forgotten() {
    let clock = Arc::new(ManualClock::new(4_000_000_000_000));
    let [mut a, mut b, mut c] = with_a_merge_that_was_replaced(&clock);
    let [row] = &c.node().engine.state.displaced().expect("lists")[..] else { panic!("one is displaced") };
    let unread = Displaced { hash: None, ..row.clone() };
    assert!(unread.versions.len() > 1);
    let path = RelPath::parse("log.jsonl").expect("a path");
    for version in &unread.versions {
        for machine in [&mut a, &mut b] {
            machine.node().purge(&path, Some(version), false).expect("purges");
        }
    }
    converge(&mut [&mut a, &mut b, &mut c]);
    // The purge took it, as what was put together of what goes; here it comes too late to be taken.
    std::fs::write(c.path(".larder/displaced").join(&unread.id), "put together").expect("writes");
    c.node().engine.state.set_displaced(&unread).expect("writes");

    let mut report = Report::default();
    let why = c.node().engine.prove_displaced(&unread, true, &mut report).expect("looks");

    assert!(why.is_err_and(|why| why.contains("purged")));
    assert_eq!(report.recorded, []);
    assert_eq!(rows(&mut c), [unread.id]);
}

/// Of this three are more than is kept for its time.
fn long_text(number: u32) -> String {
    format!("{number:050000}").repeat(10)
}

#[test]
fn what_was_replaced_is_kept_up_to_a_bound_and_longer_while_somebody_may_still_write_to_it() {
    let (mut a, mut b) = pair();
    let mut replaced_by = |number: u32, b: &mut Machine| {
        a.write("a.txt", &long_text(number));
        a.run();
        b.run();
        assert!(std::fs::read_to_string(b.path("a.txt")).expect("reads") == long_text(number), "{number}");
    };
    for number in 0..5 {
        replaced_by(number, &mut b);
    }
    let kept = rows(&mut b);
    assert_eq!(kept.len(), 2, "the newest");

    // As who opened it right before it was replaced.
    let last = b.path(".larder/displaced").join(&kept[1]);
    let mut writer = std::fs::File::options().append(true).open(last).expect("opens");
    for number in 5..9 {
        replaced_by(number, &mut b);
    }
    assert_eq!(rows(&mut b).len(), 3, "and the one that somebody has open");
    std::io::Write::write_all(&mut writer, b" and more").expect("writes");
    drop(writer);
    b.run();

    assert!(is_recorded(&mut b, &format!("{} and more", long_text(3))), "what was written to it is an edit");
    b.restart();
    b.run();
    assert!(rows(&mut b).len() <= 2 && std::fs::read_dir(b.path(".larder/displaced")).expect("lists").count() <= 2);
}
