//! Laws of files that a sync took away: none is lost because it cannot be looked at.

use std::path::Path;
use std::sync::Arc;

use super::{Machine, backend, converge, open_intent};
use crate::env::ManualClock;
use crate::model::{Channel, ContentHash, ContentKind, RelPath};
use crate::state::Displaced;

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
