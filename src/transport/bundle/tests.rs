//! Laws of bundles: what went in comes out; whatever is cut, flipped or made up, the rest comes out and nothing else happens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::frame::{BEGIN, ENTRY, Head, end};
use super::*;
use crate::model::Hash;
use crate::transport::{Depth, ListRequest, Put, Transport, contract};

type Contents = BTreeMap<String, Vec<u8>>;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.bundle");
    (folder, file)
}

fn some() -> Contents {
    let noise: Vec<u8> = (0..9_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let entries: [(&str, &[u8]); 5] = [
        ("app/markers/a.json", b"{}"),
        ("app/shared/h~1/checkpoints/cp-1.json", b"one"),
        ("app/shared/h~1/packs/empty.pack", b""),
        ("app/shared/h~1/packs/marks.pack", b"LARDBE\x00\x01LARDBZ\x00\x01"),
        ("app/shared/h~1/packs/noise.pack", &noise),
    ];
    entries.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).into()
}

fn written(contents: &Contents, file: &std::path::Path) -> Vec<u8> {
    let writer = BundleWriter::create(file).expect("begins");
    for (name, bytes) in contents {
        assert_eq!(writer.put_new(name, bytes).expect("takes"), Put::Written);
    }
    let size = writer.size();
    writer.finish(file, true).expect("ends");
    let bytes = std::fs::read(file).expect("is there");
    assert_eq!(size, (contents.len() as u64, bytes.len() as u64));
    bytes
}

fn opened(bytes: &[u8]) -> Result<Bundle, TransportError> {
    let (_folder, file) = folder();
    std::fs::write(&file, bytes).expect("writes");
    Bundle::open(&file)
}

fn contents(bundle: &Bundle) -> Contents {
    let names = bundle.list(&ListRequest::new("", Depth::All)).expect("lists").names;
    names.into_iter().map(|name| (name.clone(), bundle.get(&name, None, 1 << 20).expect("reads"))).collect()
}

fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let head = Head { name: name.to_owned(), size_bytes: bytes.len() as u64, hash: Hash::of(bytes) };
    [head.to_bytes(), bytes.to_vec()].concat()
}

#[test]
fn what_went_in_comes_out_and_the_same_gives_the_same_bytes() {
    let (_folder, file) = folder();
    let first = written(&some(), &file);

    let bundle = Bundle::open(&file).expect("opens");

    assert_eq!((contents(&bundle), bundle.damage(), bundle.count()), (some(), &[][..], 5));
    assert_eq!(written(&some(), &file), first);
    let nothing = opened(&written(&Contents::new(), &file)).expect("opens");
    assert_eq!((nothing.count(), nothing.damage()), (0, &[][..]));
}

#[test]
fn a_bundle_under_construction_keeps_the_transport_contract() {
    contract::run(&|| {
        let (folder, file) = folder();
        let writer = Arc::new(BundleWriter::create(&file).expect("begins"));
        // The folder lives as long as its visits.
        Box::new(move || {
            let _ = &folder;
            writer.clone() as Arc<dyn Transport>
        })
    });
}

#[test]
fn a_bundle_has_no_name_before_it_is_whole_and_replaces_only_when_told_to() {
    let (folder, file) = folder();
    let names = || std::fs::read_dir(folder.path()).expect("lists").count();
    std::fs::write(&file, b"a photo").expect("writes");

    let writer = BundleWriter::create(&file).expect("begins");
    writer.put_new("app/a", b"x").expect("takes");
    assert_eq!((std::fs::read(&file).expect("is there"), names()), (b"a photo".to_vec(), 2));
    let error = writer.finish(&file, false).expect_err("something stands there");
    assert_eq!((error.kind(), names()), (std::io::ErrorKind::AlreadyExists, 1));
    assert_eq!(std::fs::read(&file).expect("is there"), b"a photo");

    drop(BundleWriter::create(&file).expect("begins"));
    assert_eq!(names(), 1, "what was given up leaves nothing");
    BundleWriter::create(&file).expect("begins").finish(&file, true).expect("replaces");
    assert_eq!(Bundle::open(&file).expect("opens").count(), 0);
}

#[test]
fn what_an_export_that_died_left_is_swept_a_day_later_and_nothing_else_ever() {
    let (folder, file) = folder();
    let day = std::time::Duration::from_secs(24 * 3600);
    let now = std::time::SystemTime::now();
    for (name, age) in [("_tmp-larder-old", day * 2), ("_tmp-larder-new", day / 2), ("_tmp-other", day * 2)] {
        let left = std::fs::File::create(folder.path().join(name)).expect("creates");
        left.set_modified(now - age).expect("sets its time");
    }

    drop(BundleWriter::create(&file).expect("begins"));

    let there = |name: &str| folder.path().join(name).exists();
    assert_eq!(["_tmp-larder-old", "_tmp-larder-new", "_tmp-other"].map(there), [false, true, true]);
}

#[test]
fn a_bundle_cut_anywhere_gives_what_is_whole_before_the_cut_and_says_that_it_was_cut() {
    let (_folder, file) = folder();
    let whole = written(&some(), &file);
    let mut ends = Vec::new();
    let mut at = BEGIN.len();
    for (name, bytes) in some() {
        at += entry(&name, &bytes).len();
        ends.push(at);
    }
    let near = |cut: &usize| *cut < 2_000 || ends.iter().any(|end| end.abs_diff(*cut) < 80) || whole.len() - cut < 80;

    for cut in (0..whole.len()).filter(near) {
        let before = ends.iter().filter(|end| **end <= cut).count();
        match opened(&whole[..cut]) {
            Ok(bundle) => {
                assert_eq!(contents(&bundle), some().into_iter().take(before).collect(), "cut at {cut}");
                assert!(!bundle.damage().is_empty(), "cut at {cut}");
            }
            Err(error) => assert!(cut < BEGIN.len() && error.kind == TransportErrorKind::Unsupported, "{cut}: {error}"),
        }
    }
}

#[test]
fn a_flipped_bit_costs_one_entry_at_most_and_is_told() {
    let (_folder, file) = folder();
    let whole = written(&some(), &file);
    let all = some();

    let everywhere = (0..1_000).chain((1_000..whole.len()).step_by(997)).chain(whole.len() - 100..whole.len());
    for at in everywhere {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let bundle = opened(&bytes).unwrap_or_else(|error| panic!("flip at {at}: {error}"));
        let found = contents(&bundle);
        assert!(found.len() + 1 >= all.len(), "flip at {at}: {:?}", bundle.damage());
        assert!(found.iter().all(|(name, bytes)| all.get(name) == Some(bytes)), "flip at {at}");
        assert!(!bundle.damage().is_empty() && bundle.damage().len() <= 4, "flip at {at}: {:?}", bundle.damage());
    }
}

#[test]
fn bytes_lost_or_added_in_the_middle_cost_what_they_touch() {
    let (_folder, file) = folder();
    let whole = written(&some(), &file);
    let middle = BEGIN.len() + entry("app/markers/a.json", b"{}").len() + 70;

    let mut shorter = whole.clone();
    shorter.drain(middle..middle + 5);
    let mut longer = whole.clone();
    longer.splice(middle..middle, [0; 9]);
    for bytes in [shorter, longer] {
        let bundle = opened(&bytes).expect("opens");
        let mut expected = some();
        expected.remove("app/shared/h~1/checkpoints/cp-1.json");
        assert_eq!(contents(&bundle), expected);
        assert!(!bundle.damage().is_empty());
    }
    let bundle = opened(&[whole, b"behind".to_vec()].concat()).expect("opens");
    assert_eq!((contents(&bundle), bundle.damage().len()), (some(), 1));
}

#[test]
fn hostile_entries_are_told_and_everything_else_is_taken() {
    let long = format!("app/{}", "x".repeat(300));
    let names = ["../x", "/etc/passwd", "app/../../x", "app/\u{1b}[2J", "alone", "app/", "app//x", "app\\x/y", &long];
    let mut bytes = BEGIN.to_vec();
    for name in names {
        bytes.extend(entry(name, b"evil"));
    }
    bytes.extend(entry("app/good", b"good"));
    bytes.extend(entry("app/good", b"other"));
    bytes.extend(end(11));

    let bundle = opened(&bytes).expect("opens");

    assert_eq!(contents(&bundle), Contents::from([("app/good".to_owned(), b"good".to_vec())]));
    assert_eq!(bundle.damage().len(), names.len() + 1, "{:?}", bundle.damage());
    assert!(bundle.damage().iter().all(|said| !said.contains('\u{1b}')));
    assert_eq!(bundle.put_new("app/new", b"x").expect_err("only read").kind, TransportErrorKind::Denied);
}

#[test]
fn what_is_no_bundle_is_refused_with_a_sentence() {
    let newer = [&b"LARDBN\x00\x02"[..], b"LARDBE\x00\x02", &[0; 64]].concat();
    for (bytes, said) in [(&b""[..], "no bundle"), (b"PK\x03\x04 a zip", "no bundle"), (&newer, "upgrade larder")] {
        let error = opened(bytes).expect_err(said);
        assert!(error.kind == TransportErrorKind::Unsupported && error.to_string().contains(said), "{error}");
    }
    let (folder, file) = folder();
    assert_eq!(Bundle::open(&file).expect_err("not there").kind, TransportErrorKind::Unavailable);
    assert_eq!(Bundle::open(folder.path()).expect_err("a folder").kind, TransportErrorKind::Unsupported);
}

#[test]
fn a_file_of_nothing_but_lies_costs_a_few_passes_and_ends() {
    // Heads of entries that claim all that follows and are never what their hash says, each behind the other.
    let mut lies = BEGIN.to_vec();
    let count = 3_000;
    for n in 0..count {
        let left = (count - n - 1) * Head { name: "app/x".into(), size_bytes: 0, hash: Hash::of(b"") }.len();
        let head = Head { name: "app/x".to_owned(), size_bytes: left, hash: Hash::of(b"never") };
        lies.extend(head.to_bytes());
    }
    let mut marks = BEGIN.to_vec();
    marks.extend(ENTRY.repeat(50_000));

    for bytes in [lies, marks] {
        let bundle = opened(&bytes).expect("opens");
        assert_eq!(bundle.count(), 0);
        assert!(bundle.damage().last().is_some_and(|said| said.contains("too much of it is damaged")));
    }
}
