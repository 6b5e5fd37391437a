//! Every kind of artifact, damaged in every way, gives a named finding and never a panic.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::fixture::*;
use crate::ledger::key::Signature;
use crate::ledger::*;
use crate::model::*;

/// A chain of four with every kind of artifact: inline, packs and records in files, a snapshot, inline again.
fn house() -> House {
    let mut house = House::new(41);
    house.publish(&[("a", prose(1, 5_000))]);
    let names: Vec<String> = (0..1_000).map(|i| format!("f{i}")).collect();
    let mut files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), prose(3, 200))).collect();
    files.push(("b", noise(2, 300_000)));
    house.publish(&files);
    house.snapshot();
    house.publish(&[("a", prose(4, 5_000))]);
    house
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("bytes");
    let at = at % bytes.len();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("written");
}

fn truncate(path: &Path, keep: usize) {
    let bytes = fs::read(path).expect("bytes");
    fs::write(path, &bytes[..keep % bytes.len()]).expect("written");
}

#[test]
fn damage_is_named_whatever_its_kind_and_place() {
    type Damager = fn(&Path, usize);
    let ways: [(&str, Damager); 4] = [
        ("missing", |path, _| fs::remove_file(path).expect("removed")),
        ("truncated", truncate),
        ("flipped bit", flip),
        ("swapped content", |path, _| {
            let folder = path.parent().expect("a folder");
            let other = fs::read_dir(folder).expect("a listing").map(|entry| entry.expect("an entry").path());
            match other.into_iter().find(|other| other != path) {
                Some(other) => fs::copy(other, path).map(|_| ()).expect("copied"),
                None => fs::write(path, b"something else").expect("written"),
            }
        }),
    ];
    let pristine = house();
    assert_eq!(pristine.findings(Depth::Bytes), Vec::<String>::new());
    let names = pristine.ledger.list("", "", 100).expect("a listing");
    assert!(names.len() >= 8, "{names:?}");
    let last = pristine.checkpoints().last().expect("a checkpoint").name.to_string();

    for name in &names {
        let artifact: ArtifactName = name.parse().expect("an artifact");
        let path = pristine.ledger.path(&artifact);
        let good = fs::read(&path).expect("bytes");
        for (way, damage) in ways {
            for at in [0, 9, 4_007, good.len() - 1, good.len() / 2] {
                damage(&path, at);
                let findings = pristine.findings(Depth::Bytes);
                // The newest checkpoint leaves no trace: the chain falls back to the one before.
                if (way, name) != ("missing", &last) {
                    let seq = artifact_seq(&artifact);
                    let gap = format!("checkpoints {seq} to {seq} are missing");
                    let named = |f: &String| f.starts_with(name.as_str()) || f.contains(&gap);
                    assert!(findings.iter().any(named), "{way} {name} at {at}: {findings:?}");
                }
                if way == "missing" {
                    assert!(matches!(pristine.ledger.read_whole(&artifact), Err(LedgerError::Missing { .. })));
                    fs::write(&path, &good).expect("written");
                } else {
                    assert!(matches!(pristine.ledger.put(&artifact, &good), Ok(Put::Healed)), "{way} {name} at {at}");
                }
                assert_eq!(pristine.findings(Depth::Names), Vec::<String>::new());
                if way == "missing" || way == "swapped content" {
                    break;
                }
            }
        }
    }
    let quarantined = fs::read_dir(pristine.larder().join("quarantine")).expect("a listing").count();
    assert_eq!(quarantined, names.len() * 11);
}

fn artifact_seq(name: &ArtifactName) -> u64 {
    match name {
        ArtifactName::Checkpoint { seq, .. } => *seq,
        _ => 0,
    }
}

#[test]
fn reads_of_damaged_segments_name_the_artifact() {
    let mut house = House::new(42);
    let bytes = noise(1, 300_000);
    let published = house.publish(&[("a", bytes.clone())]);
    let (segment, place) = &published.places[0];
    flip(&house.ledger.path(&place.artifact), 100_000);

    let error = house.ledger.read_segment(*segment, place).expect_err("a flipped bit");

    assert!(matches!(&error, LedgerError::Damaged { name, damage: Damage::Segment { .. } } if *name == place.artifact));
    assert!(house.findings(Depth::Names).is_empty(), "only the bytes are damaged");
}

#[test]
fn places_from_elsewhere_cannot_make_reads_go_wrong() {
    let mut house = House::new(43);
    let published = house.publish(&[("a", noise(1, 300_000)), ("b", prose(1, 10))]);
    let inline = house.publish(&[("c", prose(2, 1_000))]);
    for (segment, good) in [&published.places[0], &inline.places[0]] {
        let bad = |change: &dyn Fn(&mut Place)| {
            let mut place = good.clone();
            change(&mut place);
            assert!(house.ledger.read_segment(*segment, &place).is_err(), "{place:?}");
        };
        bad(&|place| place.block.offset = u64::MAX);
        bad(&|place| place.block.offset += 1);
        bad(&|place| place.block.stored_len = u32::MAX);
        bad(&|place| (place.block.stored_len, place.block.raw_len) = (u32::MAX, u32::MAX));
        bad(&|place| place.block.raw_len = 0);
        bad(&|place| place.block.raw_len += 1);
        bad(&|place| place.start = u32::MAX);
        bad(&|place| place.len = u32::MAX);
        bad(&|place| place.artifact = ArtifactName::Records { chain: house.chain(), hash: ArtifactHash::of(b"") });
    }
}

fn put_file(house: &House, name: &ArtifactName, bytes: &[u8]) {
    let path = house.ledger.path(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, bytes).expect("written");
}

#[test]
fn bombs_are_refused_before_memory_is_taken() {
    let house = House::new(44);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
    let zeroes = vec![0; 1 << 20];
    (0..200).for_each(|_| encoder.write_all(&zeroes).expect("written"));
    let bomb = encoder.finish().expect("compressed");
    assert!(bomb.len() < 100_000);

    let name = ArtifactName::Records { chain: house.chain(), hash: ArtifactHash::of(b"") };
    let refused = house.ledger.put(&name, &bomb);
    assert!(matches!(refused, Err(LedgerError::Damaged { damage: Damage::Bound { .. }, .. })), "{refused:?}");

    let pack = |body: &[u8]| [b"LARDPK\x00\x01", body].concat();
    let footer = |stored: u32, raw: u32| [&stored.to_le_bytes()[..], &raw.to_le_bytes(), b"LARDIX\x00\x01"].concat();
    let index = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let table = [
        ("empty", Vec::new()),
        ("only a magic", pack(b"")),
        ("index beyond the file", pack(&footer(1_000, 1_000))),
        ("huge index", pack(&footer(10, u32::MAX))),
        ("stored longer than raw", pack(&[index(&[0, 0]), footer(8, 4)].concat())),
        ("huge counts", pack(&[index(&[u32::MAX, u32::MAX]), footer(8, 8)].concat())),
        ("no block for the bytes", pack(&[b"xxxx".to_vec(), index(&[0, 0]), footer(8, 8)].concat())),
        ("block of 4 GiB", pack(&[b"x".to_vec(), index(&[1, 0, 8, 1, u32::MAX, 0]), footer(24, 24)].concat())),
        ("block with a huge count", pack(&[b"x".to_vec(), index(&[1, 0, 8, 1, 1, u32::MAX]), footer(24, 24)].concat())),
        ("block elsewhere", pack(&[b"x".to_vec(), index(&[1, 0, 9, 1, 1, 0]), footer(24, 24)].concat())),
        ("index bomb", pack(&[bomb.clone(), footer(bomb.len() as u32, 6_000_000)].concat())),
    ];
    for (what, bytes) in table {
        let name = ArtifactName::Pack { chain: house.chain(), hash: ArtifactHash::of(&bytes) };
        put_file(&house, &name, &bytes);
        let refused = house.ledger.pack_index(&name);
        assert!(matches!(refused, Err(LedgerError::Damaged { .. })), "{what}: {refused:?}");
    }
}

/// A checkpoint with another body than it was published with.
fn forge(house: &House, change: impl Fn(&mut serde_json::Value), sign: bool) -> (ArtifactName, Vec<u8>) {
    let bytes = house.ledger.read_whole(&house.checkpoints()[0].name).expect("bytes");
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    change(&mut value);
    if sign {
        let fields = value.as_object_mut().expect("an object");
        fields.remove("signature");
        let message = canonical_bytes(fields).expect("canonical");
        let signature = Signature::make(house.identity.signing_key(), &message);
        fields.insert("signature".to_owned(), serde_json::to_value(signature).expect("JSON"));
    }
    let bytes = canonical_bytes(&value).expect("canonical");
    (name_for(house, &bytes), bytes)
}

fn name_for(house: &House, bytes: &[u8]) -> ArtifactName {
    ArtifactName::Checkpoint { chain: house.chain(), seq: 1, hash: ShortHash::of(&ArtifactHash::of(bytes)) }
}

#[test]
fn forged_checkpoints_are_refused_by_name() {
    let mut house = House::new(45);
    house.publish(&[("a", prose(1, 100))]);
    let other = House::new(46);
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let stranger = serde_json::to_value(other.identity.certificate()).expect("JSON");
    let table: [(&str, Change<'_>, bool); 9] = [
        ("the signature", &|value| value["hlc"] = "0000000000000001".into(), false),
        ("the signature", &|value| value["extra"] = 1.into(), false),
        ("the signature", &|value| value["key"] = "0".repeat(64).into(), true),
        ("certificate", &|value| value["cert"]["owner"] = "eve".into(), true),
        ("certificate", &|value| value["cert"] = stranger.clone(), true),
        ("upgrade", &|value| value["v"] = 2.into(), true),
        ("chain or number", &|value| value["seq"] = 2.into(), true),
        ("counts more versions", &|value| value["versions"] = 9.into(), true),
        ("predecessor", &|value| value["prev"] = "0".repeat(64).into(), true),
    ];

    for (expected, change, sign) in table {
        let (name, bytes) = forge(&house, change, sign);
        let error = verify_bytes(&name, &bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn other_forms_of_a_good_checkpoint_are_refused() {
    let mut house = House::new(47);
    house.publish(&[("a", prose(1, 100))]);
    let good = String::from_utf8(house.ledger.read_whole(&house.checkpoints()[0].name).expect("bytes")).expect("text");
    let deep = format!("{{\"a\":{}{},{}", "[".repeat(100_000), "]".repeat(100_000), &good[1..]);
    let table = [
        ("a space", good.replacen(':', ": ", 1)),
        ("an escape", good.replacen("test", "t\\u0065st", 1)),
        ("a key twice", good.replacen('{', "{\"app\":\"test\",", 1)),
        ("an unknown key twice", good.replacen('{', "{\"a\":1,\"a\":1,", 1)),
        ("deep nesting", deep),
        ("a line end", format!("{good}\n")),
        ("not JSON", good[..good.len() - 1].to_owned()),
        ("a float", good.replacen("\"v\":1", "\"v\":1.0", 1)),
        ("nothing", String::new()),
    ];

    for (what, text) in table {
        assert!(verify_bytes(&name_for(&house, text.as_bytes()), text.as_bytes()).is_err(), "{what}");
    }
}

#[test]
fn fields_of_a_newer_release_are_kept_and_ignored() {
    let mut house = House::new(48);
    house.publish(&[("a", prose(1, 100))]);
    let (name, bytes) = forge(&house, |value| value["future"] = serde_json::json!({"b": [1, "ü"]}), true);
    let theirs = House::new(49);

    theirs.ledger.put(&name, &bytes).expect("taken in");

    assert_eq!(theirs.ledger.read_whole(&name).expect("bytes"), bytes);
    assert_eq!(theirs.ledger.read_checkpoint(&name).expect("a checkpoint").body.versions, 1);
}

#[test]
fn two_writers_behind_one_chain_are_both_named() {
    let mut house = House::new(50);
    house.publish(&[("a", prose(1, 100))]);
    let fork_point = house.tip;
    house.publish(&[("a", prose(2, 100))]);
    house.tip = fork_point;
    house.publish(&[("a", prose(3, 100))]);
    house.publish(&[("a", prose(4, 100))]);

    let findings = house.findings(Depth::Bytes);

    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.contains("shares its number")), "{findings:?}");
}

#[test]
fn a_file_that_is_no_artifact_is_named_and_passed_over() {
    let mut house = House::new(51);
    house.publish(&[("a", prose(1, 100))]);
    fs::write(house.ledger.folder(&house.chain(), "checkpoints").join("notes.txt"), b"hello").expect("written");

    assert_eq!(house.findings(Depth::Bytes), [format!("{}/checkpoints/notes.txt is no artifact", house.chain())]);
    assert_eq!(house.ledger.list("", "", 10).expect("a listing").len(), 1);
}

#[test]
fn damage_is_noted_until_the_artifact_is_whole_again() {
    let mut house = House::new(44);
    house.publish(&[("a", noise(1, 400_000))]);
    let name: ArtifactName = house.ledger.list("", "", 100).expect("a listing").remove(0).parse().expect("an artifact");
    let good = fs::read(house.ledger.path(&name)).expect("bytes");

    house.ledger.note_damage(&name, "met while reading").expect("noted");
    house.ledger.note_damage(&name, "met again").expect("noted");
    let noted = NotedDamage { name: name.clone(), why: "met while reading".to_owned() };
    assert_eq!(house.ledger.noted_damage().expect("listed"), [noted]);

    fs::remove_file(house.ledger.path(&name)).expect("removed");
    assert_eq!(house.ledger.forget_healed().expect("looked"), []);
    assert_eq!(house.ledger.noted_damage().expect("listed").len(), 1);
    house.ledger.put(&name, &good).expect("healed");
    assert_eq!(house.ledger.forget_healed().expect("looked"), [name]);
    assert_eq!(house.ledger.noted_damage().expect("listed"), []);
}

#[test]
fn a_gap_is_wanted_by_the_name_that_the_next_checkpoint_gives() {
    let mut house = House::new(45);
    for n in 0..3 {
        house.publish(&[("a", prose(n, 100))]);
    }
    let names = house.ledger.checkpoint_names(&house.chain(), 0).expect("a listing");
    fs::remove_file(house.ledger.path(&names[1])).expect("removed");

    let findings = house.ledger.verify(Depth::Names).expect("looked");

    assert_eq!(findings.iter().filter_map(|finding| finding.wanted.as_ref()).collect::<Vec<_>>(), [&names[1]]);
}
