//! The stored artifacts of every released format are read for ever, and today's writer still makes the same ones.
//!
//! `LARDER_BLESS=1` writes the goldens of the current version anew; a released version's are never written again.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::*;
use crate::ledger::*;
use crate::model::*;

fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/format")
}

/// One of each: a small checkpoint, one with a pack and records artifact, a snapshot.
fn write_chain() -> House {
    let mut house = House::new(81);
    house.publish(&[("notes/häuser.md", b"# Notes\n".to_vec()), ("empty.json", Vec::new())]);
    let paths: Vec<String> = (0..700).map(|i| format!("data/{i}.json")).collect();
    let mut files: Vec<(&str, Vec<u8>)> = paths.iter().map(|path| (path.as_str(), path.as_bytes().to_vec())).collect();
    files.push(("image.bin", noise(7, 200_000)));
    files.push(("log.jsonl", prose(8, 20_000)));
    house.publish(&files);
    house.snapshot();
    house
}

/// A chain that was closed by a later generation of its origin, which says all of it again.
fn write_closed() -> House {
    let mut house = House::new(83);
    house.publish(&[("notes/häuser.md", b"# Notes\n".to_vec()), ("empty.json", Vec::new())]);
    house.publish(&[("log.jsonl", prose(9, 3_000))]);
    let first = house.chain();
    house.adopt(7);
    let closable = house.ledger.closable(&first, 1, &[]).expect("reads").expect("is all here");
    house.carry(&closable);
    house.close(&[closable.word]);
    house
}

/// What compression does not touch: bodies without hashes of stored bytes, lines, and segments.
fn uncompressed(ledger: &Ledger, chain: &Chain) -> String {
    let mut text = String::new();
    for name in ledger.checkpoint_names(chain, 0).expect("a listing") {
        let checkpoint = ledger.read_checkpoint(&name).expect("a checkpoint");
        let mut body = checkpoint.body.clone();
        (body.prev, body.signature) = (None, None);
        body.packs.iter_mut().for_each(|pack| *pack = PackRef(ArtifactHash::of(b""), 0));
        body.inline.iter_mut().flat_map(|inline| &mut inline.blocks).for_each(|block| block.data.clear());
        if let Some(snapshot) = &mut body.snapshot {
            snapshot.since.clear();
            snapshot.closed.iter_mut().flat_map(|word| &mut word.tips).for_each(|tip| tip.0 = ArtifactHash::of(b""));
            snapshot.packs.iter_mut().for_each(|pack| *pack = Listed(ArtifactHash::of(b""), 0, pack.2));
        }
        text += &format!("{}\n", serde_json::to_string(&body).expect("JSON"));
        for (line, _) in ledger.records(&checkpoint).expect("records") {
            text += &format!("  {}\n", String::from_utf8(line).expect("text"));
        }
        let places = ledger.segment_places(&checkpoint).expect("places");
        for (segment, place) in places.into_iter().chain(ledger.listed_places(&checkpoint).expect("places")) {
            ledger.read_segment(segment, &place).expect("a segment");
            text += &format!("  {segment} {} {} {}\n", place.block.raw_len, place.start, place.len);
        }
    }
    text
}

fn uncompressed_all(ledger: &Ledger) -> String {
    ledger.chains().expect("a listing").iter().map(|chain| uncompressed(ledger, chain)).collect()
}

fn bless(house: &House, folder: &Path) {
    let target = folder.join("ledger");
    let _ = fs::remove_dir_all(&target);
    for name in house.ledger.list("", "", 100).expect("a listing") {
        let path = target.join(&name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::copy(house.ledger.root().join(&name), path).expect("copied");
    }
    fs::write(folder.join("uncompressed.txt"), uncompressed_all(&house.ledger)).expect("written");
}

#[test]
fn the_first_format_is_read_and_written_for_ever() {
    check(&write_chain(), "v1");
}

#[test]
fn closed_chains_are_read_and_written_for_ever() {
    check(&write_closed(), "v1-closed");
}

fn check(house: &House, version: &str) {
    let folder = golden_folder().join(version);
    if std::env::var_os("LARDER_BLESS").is_some() {
        bless(house, &folder);
    }
    let golden = Ledger::open(&folder).expect("the goldens");
    let expected = fs::read_to_string(folder.join("uncompressed.txt")).expect("the goldens");

    assert_eq!(golden.chains().expect("a listing"), house.ledger.chains().expect("a listing"));
    assert_eq!(shown(golden.verify(Depth::Bytes).expect("a listing")), Vec::<String>::new());
    assert!(uncompressed_all(&golden) == expected, "the golden ledger reads otherwise");
    assert!(uncompressed_all(&house.ledger) == expected, "the writer makes another ledger");
    for name in golden.list("", "", 100).expect("a listing") {
        let name: ArtifactName = name.parse().expect("an artifact");
        let bytes = golden.read_whole(&name).expect("bytes");
        let copy = House::new(82);
        assert_eq!(copy.ledger.put(&name, &bytes).expect("taken in"), Put::New);
        assert_eq!(copy.ledger.read_whole(&name).expect("bytes"), bytes);
    }
}
