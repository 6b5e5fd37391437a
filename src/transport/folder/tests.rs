//! Laws of the folder beyond the contract: what file syncers, people, links and lost mounts do to it.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::publish::{Naming, Publisher};
use super::*;
use crate::transport::{Cancel, Depth, FaultPlan, FaultyTransport, contract};

const BIG: u64 = 1 << 20;

fn store() -> (TempDir, FolderTransport) {
    let dir = tempfile::tempdir().expect("a folder");
    let transport = visit(dir.path());
    (dir, transport)
}

fn visit(path: &Path) -> FolderTransport {
    FolderTransport::open(path, "folder:test").expect("an empty folder or a store")
}

fn names(transport: &FolderTransport) -> Vec<String> {
    transport.list(&ListRequest::new("", Depth::All)).expect("listed").names
}

fn kind<T>(outcome: Result<T, TransportError>) -> Option<TransportErrorKind> {
    outcome.err().map(|error| error.kind)
}

/// Every file below, hidden ones too, by its path.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("lists").flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_keeps_the_transport_contract() {
    contract::run(&|| {
        let dir = tempfile::tempdir().expect("a folder");
        Box::new(move || Arc::new(visit(dir.path())) as Arc<dyn Transport>)
    });
}

#[test]
fn a_folder_behind_a_faithful_wrapper_keeps_the_transport_contract() {
    contract::run(&|| {
        let dir = tempfile::tempdir().expect("a folder");
        Box::new(move || {
            let plan = FaultPlan::Seeded { seed: 1, per_mille: 0 };
            Arc::new(FaultyTransport::new(Arc::new(visit(dir.path())), plan)) as Arc<dyn Transport>
        })
    });
}

#[test]
fn file_systems_without_noreplace_or_links_keep_the_laws_of_names() {
    for namings in [&[Naming::Link][..], &[Naming::Locked][..]] {
        for (name, law) in contract::LAWS.iter().filter(|(name, _)| !name.contains("wake") && !name.contains("wait")) {
            let dir = tempfile::tempdir().expect("a folder");
            let verdict = law(&|| {
                Arc::new(FolderTransport { publisher: Publisher::with(namings), ..visit(dir.path()) })
                    as Arc<dyn Transport>
            });
            assert_eq!(verdict, Ok(()), "{name} with {namings:?}");
        }
    }
}

#[test]
fn a_put_leaves_the_artifact_the_marker_and_nothing_else() {
    for namings in [&[Naming::Rename][..], &[Naming::Link][..], &[Naming::Locked][..]] {
        let (dir, transport) = store();
        let transport = FolderTransport { publisher: Publisher::with(namings), ..transport };
        assert_eq!(files(dir.path()), [] as [PathBuf; 0], "looking writes nothing");

        assert_eq!(transport.put_new("app/s/c~1/packs/1.pack", b"1").expect("put"), Put::Written);
        assert_eq!(transport.put_new("app/s/c~1/packs/1.pack", b"1").expect("put"), Put::AlreadyThere);
        assert_eq!(kind(transport.put_new("app/s/c~1/packs/1.pack", b"2")), Some(TransportErrorKind::Conflict));

        assert_eq!(files(dir.path()), [dir.path().join("app/s/c~1/packs/1.pack"), dir.path().join(STORE_FILE)]);
        assert_eq!(std::fs::read(dir.path().join(STORE_FILE)).expect("reads"), STORE_BYTES);
    }
}

#[test]
fn what_file_syncers_leave_beside_our_names_is_neither_listed_nor_got_nor_put() {
    let (dir, transport) = store();
    transport.put_new("app/s/a.json", b"a").expect("put");
    let leftovers = [
        ".stfolder/x",
        "app/s/.syncthing.b.json.tmp",
        "app/s/~syncthing~b.json.tmp",
        "app/s/a.sync-conflict-20260101-101010-ABCDEFG.json",
        "app/s/a (host's conflicted copy 2026-01-01).json",
        "app/s/a (1).json",
        "app/s/b.json.part",
        "app/s/.b.json.XyZ123",
        "app/s/.nfs0000001",
        "app/s/b.json~",
        "app/.stversions/a.json",
        "app/t (conflicted copy)/a.json",
    ];
    for name in leftovers {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
        std::fs::write(path, "x").expect("writes");
    }

    assert_eq!(names(&transport), ["app/s/a.json"]);
    for name in leftovers {
        assert_eq!(kind(transport.get(name, None, BIG)), Some(TransportErrorKind::NotFound), "{name}");
        assert_eq!(kind(transport.put_new(name, b"y")), Some(TransportErrorKind::Unsupported), "{name}");
    }
    let children = transport.list(&ListRequest::new("app/", Depth::Children)).expect("listed").names;
    assert_eq!(children, ["app/s/"]);
    assert_eq!(kind(transport.put_new("single", b"x")), Some(TransportErrorKind::Unsupported));
}

#[test]
fn no_link_in_the_store_is_followed_and_no_device_opened() {
    let (dir, transport) = store();
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("secret"), "secret").expect("writes");
    transport.put_new("app/s/a", b"a").expect("put");
    symlink(outside.path().join("secret"), dir.path().join("app/s/link")).expect("links");
    symlink(outside.path(), dir.path().join("app/out")).expect("links");
    symlink("s/a", dir.path().join("app/inside")).expect("links");
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("app/s/fifo"), rustix::fs::Mode::from_raw_mode(0o600))
        .expect("a FIFO");

    assert_eq!(names(&transport), ["app/s/a"]);
    for name in ["app/s/link", "app/out/secret", "app/inside", "app/s/fifo"] {
        assert_eq!(kind(transport.get(name, None, BIG)), Some(TransportErrorKind::NotFound), "{name}");
    }
    for name in ["app/out/new", "app/s/link", "app/s/fifo", "app/inside/x"] {
        assert_eq!(kind(transport.put_new(name, b"x")), Some(TransportErrorKind::Conflict), "{name}");
    }
    assert_eq!(files(outside.path()), [outside.path().join("secret")]);
    assert_eq!(std::fs::read(outside.path().join("secret")).expect("reads"), b"secret");
}

#[test]
fn a_linked_staging_folder_is_refused_and_nothing_is_written_behind_it() {
    let (dir, transport) = store();
    let outside = tempfile::tempdir().expect("a folder");
    symlink(outside.path(), dir.path().join(".larder-tmp")).expect("links");

    assert!(transport.put_new("app/a", b"x").is_err());

    assert!(files(outside.path()).is_empty());
}

#[test]
fn a_folder_that_holds_other_things_is_no_store_and_stays_as_it_is() {
    for (name, refused) in [
        ("holiday.jpg", true),
        ("app/shared/x", true),
        (".stignore", false),
        ("lost+found", false),
        ("Thumbs.db", false),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
        std::fs::write(&path, "mine").expect("writes");

        let opened = FolderTransport::open(dir.path(), "folder:test");

        assert_eq!(
            opened.as_ref().err().map(|error| error.kind),
            refused.then_some(TransportErrorKind::Denied),
            "{name}"
        );
        if let Err(error) = opened {
            assert!(error.to_string().contains("larder-store.json"), "{error}");
        }
        assert_eq!(files(dir.path()), [path]);
    }
}

#[test]
fn a_marker_of_a_newer_release_or_a_damaged_one_stops_and_is_named() {
    for (text, expected) in [
        (r#"{"kind":"store","v":1}"#, None),
        (r#"{"kind":"store","later":true,"v":1}"#, None),
        (r#"{"kind":"store","v":2}"#, Some(TransportErrorKind::Unsupported)),
        ("", Some(TransportErrorKind::Corrupt)),
        (r#"{"kind":"shop","v":1}"#, Some(TransportErrorKind::Corrupt)),
        (&" ".repeat(5000), Some(TransportErrorKind::TooLarge)),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(STORE_FILE), text).expect("writes");

        assert_eq!(kind(FolderTransport::open(dir.path(), "folder:test")), expected, "{text:.40}");
    }
}

#[test]
fn a_folder_that_is_gone_or_replaced_is_unreachable_and_never_empty() {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("store");
    assert_eq!(kind(FolderTransport::open(&path, "x")), Some(TransportErrorKind::Unavailable));
    std::fs::write(&path, "a file").expect("writes");
    assert_eq!(kind(FolderTransport::open(&path, "x")), Some(TransportErrorKind::Denied));
    std::fs::remove_file(&path).expect("removes");
    std::fs::create_dir(&path).expect("creates");
    let transport = visit(&path);
    transport.put_new("app/a", b"a").expect("put");

    std::fs::rename(&path, parent.path().join("moved")).expect("moves");
    for replaced in [false, true] {
        if replaced {
            std::fs::create_dir(&path).expect("an empty mount point");
        }
        let unavailable = Some(TransportErrorKind::Unavailable);
        assert_eq!(kind(transport.list(&ListRequest::new("app/", Depth::All))), unavailable);
        assert_eq!(kind(transport.get("app/b", None, BIG)), unavailable);
        assert_eq!(kind(transport.put_new("app/b", b"b")), unavailable);
        assert_eq!(kind(transport.wait(&WaitHint { timeout_ms: 0, cancel: Cancel::new() })), unavailable);
    }
    assert!(files(&path).is_empty());
}

#[test]
fn what_a_writer_that_died_left_is_swept_a_day_later_and_not_before() {
    let (dir, transport) = store();
    let staging = dir.path().join(".larder-tmp");
    std::fs::create_dir(&staging).expect("creates");
    let left = |name: &str, hours: u64| {
        let path = staging.join(name);
        let file = File::create(&path).expect("creates");
        let ago = SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(ago).expect("sets the time");
        path
    };
    let own = format!("~syncthing~larder-{}-0.tmp", std::process::id());
    let (stale, under_way, foreign) =
        (left("~syncthing~larder-1-1.tmp", 25), left(&own, 23), left("~syncthing~photo.jpg.tmp", 99));

    transport.put_new("app/a", b"a").expect("put");

    assert_eq!(std::fs::read(dir.path().join("app/a")).expect("reads"), b"a");
    assert_eq!((stale.exists(), under_way.exists(), foreign.exists()), (false, true, true));
}

#[test]
fn a_name_that_cannot_be_made_is_a_conflict_and_a_part_of_a_file_is_never_completed() {
    let (dir, transport) = store();
    transport.put_new("app/s/a", b"whole").expect("put");

    assert_eq!(kind(transport.put_new("app/s/a/b", b"x")), Some(TransportErrorKind::Conflict));
    assert_eq!(kind(transport.put_new("app/s", b"x")), Some(TransportErrorKind::Conflict));
    std::fs::write(dir.path().join("app/s/a"), "who").expect("a copy that was cut off");
    assert_eq!(kind(transport.put_new("app/s/a", b"whole")), Some(TransportErrorKind::Conflict));
    assert_eq!(transport.get("app/s/a", None, BIG).expect("got"), b"who");
}

#[test]
fn a_page_of_a_large_folder_holds_what_sorts_first_and_empty_folders_are_nothing() {
    let (dir, transport) = store();
    transport.put_new("app/zz/last", b"x").expect("put");
    for n in 0..300 {
        std::fs::create_dir_all(dir.path().join(format!("app/empty{n:03}/inner"))).expect("creates");
        std::fs::write(dir.path().join(format!("app/f{:03}", n * 7 % 300)), "x").expect("writes");
    }

    let request = ListRequest { limit: 2, ..ListRequest::new("app/", Depth::All) };
    let first = transport.list(&request).expect("listed");
    assert_eq!((first.names, first.more), (vec!["app/f000".to_owned(), "app/f001".to_owned()], true));
    let last = transport.list(&request.after("app/f298")).expect("listed");
    assert_eq!((last.names, last.more), (vec!["app/f299".to_owned(), "app/zz/last".to_owned()], false));
    let children = transport.list(&ListRequest::new("app/", Depth::Children)).expect("listed");
    assert_eq!(children.names.len(), 301);
}

#[test]
fn a_plain_path_is_a_folder_and_relative_ones_start_at_the_base() {
    let base = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(base.path().join("share")).expect("creates");
    let opening = Opening::new("app", base.path());

    for address in ["share", "./share", "folder:share", &base.path().join("share").to_string_lossy()] {
        let transport = super::super::open(address, &opening).expect(address);
        assert!(transport.label().ends_with("share"), "{}", transport.label());
    }
    for address in ["", "folder:"] {
        assert_eq!(kind(super::super::open(address, &opening)), Some(TransportErrorKind::Unsupported));
    }
}
