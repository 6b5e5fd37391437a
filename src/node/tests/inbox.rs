//! Laws of the inbox: what devices left is taken in by the rules of every exchange, and nothing bad in it stops a run.

use std::collections::BTreeSet;

use super::*;

/// A machine with an inbox, as a server makes it, and another that leaves what it has there.
fn pair() -> (Machine, Machine) {
    let (mut a, mut b) = (Machine::new("a", &backend()), Machine::new("b", &backend()));
    a.run();
    let inbox = a.path(".larder/inbox");
    std::fs::create_dir(&inbox).expect("creates");
    let peers = serde_json::json!({ "a": { "url": inbox, "pull": false } }).to_string();
    let text = CONFIG.replacen('{', &format!(r#"{{ "peers": {peers}, "#), 1);
    std::fs::write(b.path("sync-config.json"), text).expect("writes");
    let options = OpenOptions { trust: true, ..b.options() };
    b.node = Some(Node::open(&b.env(), &options, Arc::new(NoProgress)).expect("opens"));
    (a, b)
}

/// The artifacts that wait in the inbox.
fn waiting(machine: &Machine) -> BTreeSet<String> {
    let names = tree(&machine.path(".larder/inbox")).into_iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with("demo/shared/")).collect()
}

/// What `status` says of the inbox.
fn complaints(machine: &Machine) -> Vec<String> {
    let problems = machine.glance_status().problems.into_iter();
    problems.filter(|problem| problem.source.starts_with("inbox")).map(|problem| problem.what).collect()
}

#[test]
fn what_was_left_is_taken_in_once_and_goes_on_to_others() {
    let (mut a, mut b) = pair();
    b.write("b.md", "b\n");
    b.write("large.txt", &"0123456789abcdef".repeat(60_000));
    b.run();
    assert!(!waiting(&a).is_empty());

    let report = a.run();
    assert_eq!(a.read("b.md").as_deref(), Some("b\n"));
    assert_eq!(a.read("large.txt"), b.read("large.txt"));
    assert!(report.pulled > 0 && waiting(&a).is_empty(), "{:?}", waiting(&a));
    assert!(a.run().is_empty());
    assert!(complaints(&a).is_empty());

    b.write("b.md", "b, again\n");
    b.run();
    let alone = crate::node::RunOptions { asked: crate::sync::Asked::Nobody, inbox: true, ..Default::default() };
    a.node().run(&alone).expect("runs");
    assert_eq!(a.read("b.md").as_deref(), Some("b, again\n"), "without asking anybody else");
}

#[test]
fn what_is_no_good_stays_and_is_named_and_the_rest_is_taken() {
    let (mut a, mut b) = pair();
    b.write("first.md", "first\n");
    b.run();
    b.write("second.md", "second\n");
    b.run();
    let second = waiting(&a).into_iter().find(|name| name.contains("cp-0000000000000002")).expect("it waits");
    let path = a.path(".larder/inbox").join(&second);
    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("cut off");

    a.run();
    assert_eq!((a.read("first.md").as_deref(), a.read("second.md")), (Some("first\n"), None));
    assert_eq!(waiting(&a), BTreeSet::from([second]));
    assert!(!complaints(&a).is_empty());

    std::fs::write(&path, &whole).expect("healed");
    a.run();
    assert_eq!(a.read("second.md").as_deref(), Some("second\n"));
    assert!(waiting(&a).is_empty() && complaints(&a).is_empty(), "{:?}", complaints(&a));
}

#[test]
fn a_pack_that_comes_after_its_checkpoint_was_taken_in_is_taken_in_as_well() {
    let (mut a, mut b) = pair();
    b.write("large.txt", &super::purge::secret(1, 400_000));
    b.run();
    let pack = waiting(&a).into_iter().find(|name| name.ends_with(".pack")).expect("it waits");
    let path = a.path(".larder/inbox").join(&pack);
    let whole = std::fs::read(&path).expect("reads");
    std::fs::remove_file(&path).expect("the line broke in the midst of it");
    a.run();
    assert_eq!(a.read("large.txt"), None);
    assert!(waiting(&a).is_empty());

    std::fs::write(&path, &whole).expect("it comes another time");
    a.run();

    assert_eq!(a.read("large.txt"), b.read("large.txt"));
    assert!(waiting(&a).is_empty() && complaints(&a).is_empty(), "{:?}", complaints(&a));
    assert!(a.run().is_empty());
}

#[test]
fn who_fills_his_share_fills_no_more_of_it_by_what_comes_late() {
    let (mut a, mut b) = pair();
    let config = std::fs::read_to_string(a.path("sync-config.json")).expect("reads");
    std::fs::write(a.path("sync-config.json"), config.replacen('{', r#"{ "maxOriginBytes": 200000,"#, 1))
        .expect("writes");
    a.restart();
    b.write("early.txt", &super::purge::secret(1, 400_000));
    b.run();
    let inbox = a.path(".larder/inbox");
    let late = waiting(&a).into_iter().find(|name| name.ends_with(".pack")).expect("it waits");
    let bytes = std::fs::read(inbox.join(&late)).expect("reads");
    std::fs::remove_file(inbox.join(&late)).expect("the line broke in the midst of it");
    b.write("other.txt", &super::purge::secret(2, 400_000));
    b.run();
    a.run();
    assert_eq!((a.read("early.txt"), a.read("other.txt")), (None, b.read("other.txt")));

    std::fs::write(inbox.join(&late), &bytes).expect("it comes another time");
    a.run();
    assert_eq!((a.read("early.txt"), waiting(&a)), (None, BTreeSet::from([late])));
    assert!(complaints(&a).iter().any(|what| what.contains("maxOriginBytes")), "{:?}", complaints(&a));

    std::fs::write(a.path("sync-config.json"), config).expect("writes");
    a.restart();
    a.run();
    assert_eq!(a.read("early.txt"), b.read("early.txt"));
    assert!(waiting(&a).is_empty() && complaints(&a).is_empty(), "{:?}", complaints(&a));
}

#[test]
fn what_is_damaged_here_is_healed_by_what_was_left() {
    let (mut a, mut b) = pair();
    b.write("large.txt", &super::purge::secret(1, 400_000));
    b.run();
    let names: Vec<String> = waiting(&a).into_iter().collect();
    let bytes: Vec<Vec<u8>> =
        names.iter().map(|name| std::fs::read(a.path(".larder/inbox").join(name)).expect("reads")).collect();
    a.run();
    for (name, bytes) in names.iter().zip(&bytes) {
        let here = a.path(".larder/ledger").join(name.strip_prefix("demo/").expect("the app's"));
        std::fs::set_permissions(&here, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("sets it");
        std::fs::write(&here, &bytes[..bytes.len() / 2]).expect("cut off by a disk");
        // A server lets nobody's offer pass for what is here already unless that is damaged.
        std::fs::write(a.path(".larder/inbox").join(name), bytes).expect("offered once more");
    }

    a.run();

    for (name, bytes) in names.iter().zip(&bytes) {
        let here = a.path(".larder/ledger").join(name.strip_prefix("demo/").expect("the app's"));
        assert!(std::fs::read(&here).expect("reads") == *bytes, "{name}");
    }
    assert!(waiting(&a).is_empty() && complaints(&a).is_empty(), "{:?}", complaints(&a));
}

#[test]
fn an_inbox_that_cannot_be_read_stops_nothing_and_is_named_until_it_can() {
    let (mut a, mut b) = pair();
    b.write("b.md", "b\n");
    b.run();
    a.write("a.md", "a\n");
    let store = a.path(".larder/inbox/larder-store.json");
    let whole = std::fs::read(&store).expect("reads");
    std::fs::write(&store, "damaged").expect("writes");

    a.run();
    assert_eq!(row(&a.adapter, "a.md").as_deref(), Some("a\n"));
    assert!(complaints(&a)[0].contains("is damaged"), "{:?}", complaints(&a));

    std::fs::write(&store, whole).expect("mended");
    a.run();
    assert_eq!(a.read("b.md").as_deref(), Some("b\n"));
    assert!(complaints(&a).is_empty());
}

#[test]
fn what_was_purged_before_it_was_taken_in_does_not_stay_in_the_inbox() {
    let (mut a, mut b) = pair();
    let (text, kept) = (super::purge::secret(1, 400_000), super::purge::secret(2, 400_000));
    b.write("x.txt", &text);
    b.run();
    let packs: Vec<String> = waiting(&a).into_iter().filter(|name| name.ends_with(".pack")).collect();
    let inbox = a.path(".larder/inbox");
    let bytes: Vec<Vec<u8>> = packs.iter().map(|name| std::fs::read(inbox.join(name)).expect("reads")).collect();
    assert_eq!(packs.len(), 1);
    b.write("x.txt", "clean\n");
    b.run();
    let path = RelPath::parse("x.txt").expect("a path");
    b.node().purge(&path, None, false).expect("purges");
    // A device that speaks to a server can take nothing away there.
    std::fs::write(inbox.join(&packs[0]), &bytes[0]).expect("writes");
    b.write("y.txt", &kept);
    b.run();
    a.run();
    assert!(waiting(&a).contains(&packs[0]), "what names it may be on its way");

    let pack = std::fs::File::options().write(true).open(inbox.join(&packs[0])).expect("opens");
    pack.set_modified(std::time::UNIX_EPOCH).expect("old");
    a.run();

    assert!(waiting(&a).is_empty(), "{:?}", waiting(&a));
    assert_eq!(super::purge::holders(&a.path(".larder"), &text[..48]), [] as [String; 0]);
    assert_eq!(a.read("y.txt").as_deref(), Some(&*kept));
}
