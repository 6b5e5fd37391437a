//! Publishing and reading back.

use std::collections::BTreeMap;

use super::fixture::*;
use crate::ledger::*;
use crate::model::*;

#[test]
fn a_small_batch_is_one_file_and_two_syncs() {
    let mut house = House::new(1);
    house.publish(&[("a.md", b"first".to_vec())]);

    let published = house.publish(&[("b.md", b"second".to_vec()), ("empty.md", Vec::new())]);

    let names = house.ledger.list("", "", 100).expect("a listing");
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(published.syncs, 2);
    assert_eq!(published.places.len(), 1);
    assert_eq!(published.tip.seq, 2);
    assert_eq!(published.tip.last_n, 3);
    assert!(house.findings(Depth::Bytes).is_empty());
}

#[test]
fn what_was_published_is_read_back() {
    let sizes = [1, 100, 5_000, 131_072, 131_073, 400_000, 3 << 20];
    let mut house = House::new(2);
    let files: Vec<(String, Vec<u8>)> = sizes
        .iter()
        .flat_map(|len| [(format!("n{len}"), noise(*len as u64, *len)), (format!("p{len}"), prose(*len as u64, *len))])
        .collect();
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();

    let published = house.publish(&files);

    assert_eq!(published.places.len(), files.len());
    for ((segment, place), (path, bytes)) in published.places.iter().zip(&files) {
        assert_eq!(*segment, SegmentHash::of(bytes), "{path}");
        assert_eq!(&house.ledger.read_segment(*segment, place).expect("a segment"), bytes, "{path}");
    }
    let checkpoint = house.ledger.read_checkpoint(&published.checkpoint).expect("a checkpoint");
    assert_eq!(house.ledger.segment_places(&checkpoint).expect("places"), published.places);
    let versions: Vec<VersionId> = published.versions.iter().map(|(id, _)| *id).collect();
    let records = house.ledger.records(&checkpoint).expect("records");
    let read: Vec<VersionId> = records
        .iter()
        .filter(|(_, record)| matches!(record, Record::Version(..)))
        .map(|(line, _)| VersionId::of(line))
        .collect();
    assert_eq!(read, versions);
    assert!(house.findings(Depth::Bytes).is_empty());
}

#[test]
fn many_packs_and_records_artifacts_make_one_checkpoint() {
    let mut house = House::new(3);
    let files: Vec<(String, Vec<u8>)> = (0..18).map(|i| (format!("f{i}"), noise(i, 1 << 20))).collect();
    let mut files: Vec<(&str, Vec<u8>)> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    let tiny: Vec<String> = (0..70_000).map(|i| format!("{}{i}", "t".repeat(90))).collect();
    files.extend(tiny.iter().map(|path| (path.as_str(), path.as_bytes().to_vec())));

    let published = house.publish(&files);

    let checkpoint = house.ledger.read_checkpoint(&published.checkpoint).expect("a checkpoint");
    assert!(checkpoint.body.packs.len() >= 3, "{:?}", checkpoint.body.packs);
    assert!(checkpoint.body.records.len() >= 2);
    assert_eq!(checkpoint.body.versions, files.len() as u64);
    assert_eq!(published.places.len(), files.len());
    assert!(house.findings(Depth::Bytes).is_empty());
}

#[test]
fn large_content_with_few_records_keeps_the_records_inline() {
    let mut house = House::new(4);

    let published = house.publish(&[("big", noise(1, 1 << 20))]);

    let body = house.ledger.read_checkpoint(&published.checkpoint).expect("a checkpoint").body;
    assert_eq!((body.packs.len(), body.records.len()), (1, 0));
    assert!(body.inline.is_some_and(|inline| !inline.records.is_empty() && inline.blocks.is_empty()));
}

#[test]
fn a_segment_is_stored_once_in_a_batch() {
    let mut house = House::new(5);

    let published = house.publish(&[("a", b"same".to_vec()), ("b", b"same".to_vec())]);

    assert_eq!(published.places.len(), 1);
    assert_eq!(published.versions.len(), 2);
}

#[test]
fn nothing_to_say_writes_nothing() {
    let house = House::new(6);
    let space = Space::shared();

    let published = house.batch(&space).finish(Hlc::default(), BTreeMap::new()).expect("no error");

    assert!(published.is_none());
    assert!(house.ledger.list("", "", 10).expect("a listing").is_empty());
}

#[test]
fn what_is_seen_alone_makes_a_checkpoint() {
    let house = House::new(7);
    let space = house.identity.private_space();
    // In an order that is not the text's.
    let chains = ["shared/a~2", "shared/a~10", "shared/a-b~1", "u-x-00000000/a~1"];
    let seen = Seen(7, ShortHash::of(&ArtifactHash::of(b"x")));
    let seen: BTreeMap<Chain, Seen> = chains.iter().map(|chain| (chain.parse().expect("a chain"), seen)).collect();

    let published = house.batch(&space).finish(Hlc::default(), seen.clone()).expect("no error").expect("a checkpoint");

    let checkpoint = house.ledger.read_checkpoint(&published.checkpoint).expect("a checkpoint");
    assert_eq!(checkpoint.body.seen, seen);
    assert_eq!(checkpoint.body.chain.space, space);
}

#[test]
fn a_version_out_of_its_place_is_refused() {
    let house = House::new(8);
    let space = Space::shared();
    let mut batch = house.batch(&space);
    let chain = batch.chain().clone();
    let other: Chain = "shared/other-aaaaaa~1".parse().expect("a chain");

    assert!(matches!(batch.version(version(&chain, 2, "a", b"a")), Err(LedgerError::Publish { n: 2, .. })));
    assert!(matches!(batch.version(version(&other, 1, "a", b"a")), Err(LedgerError::Publish { n: 1, .. })));
    assert!(batch.version(version(&chain, 1, "a", b"a")).is_ok());
}

#[test]
fn names_parse_and_print_and_nothing_else_does() {
    let chain: Chain = "shared/a-b~2".parse().expect("a chain");
    let hash = ArtifactHash::of(b"x");
    for name in [
        ArtifactName::Checkpoint { chain: chain.clone(), seq: 42, hash: ShortHash::of(&hash) },
        ArtifactName::Pack { chain: chain.clone(), hash },
        ArtifactName::Records { chain, hash },
    ] {
        assert_eq!(name.to_string().parse::<ArtifactName>(), Ok(name));
    }
    let digits = "0".repeat(64);
    for bad in [
        String::new(),
        "shared/a~1/packs/..".to_owned(),
        format!("shared/../packs/{digits}.pack"),
        format!("shared/a~1/pack/{digits}.pack"),
        format!("shared/a~1/packs/{digits}.pack/x"),
        format!("shared/a~1/packs/{}.pack", "A".repeat(64)),
        format!("/shared/a~1/packs/{digits}.pack"),
        format!("shared/a~1/records/{digits}.ndjson"),
        "shared/a~1/checkpoints/cp-1-0000000000000000.json".to_owned(),
        "shared/a~1/checkpoints/cp-0000000000000000-0000000000000000.json".to_owned(),
        "shared/a~1/checkpoints/cp-9007199254740992-0000000000000000.json".to_owned(),
        "shared/a~1/checkpoints/cp-+000000000000001-0000000000000000.json".to_owned(),
        "x".repeat(1_000),
    ] {
        assert!(bad.parse::<ArtifactName>().is_err(), "{bad}");
    }
}

#[test]
fn listing_goes_in_the_order_of_the_text_whatever_the_pages() {
    let mut house = House::new(9);
    for i in 0..3 {
        house.publish(&[("a", noise(i, 400_000)), ("b", prose(i, 10))]);
    }
    // Chains whose folders sort otherwise than their paths do.
    for chain in ["shared/house~1", "shared/house-a~1", "shared/house-a~10", "u-a-00000000/x~1"] {
        let folder = house.larder().join("ledger").join(chain).join("packs");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{}.pack", "0".repeat(64))), b"").expect("a file");
    }

    let all = house.ledger.list("", "", usize::MAX).expect("a listing");

    assert!(all.is_sorted(), "{all:#?}");
    assert_eq!(all.len(), 10);
    for page in 1..5 {
        let (mut pages, mut after) = (Vec::new(), String::new());
        loop {
            let next = house.ledger.list("", &after, page).expect("a page");
            let Some(last) = next.last() else { break };
            after.clone_from(last);
            pages.extend(next);
        }
        assert_eq!(pages, all, "pages of {page}");
    }
    for prefix in ["shared/house-a~1", "shared/house-a~1/", "u-", "shared/house~1/packs/0", "x"] {
        let expected: Vec<&String> = all.iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(
            house.ledger.list(prefix, "", 100).expect("a listing").iter().collect::<Vec<_>>(),
            expected,
            "{prefix}"
        );
    }
}

#[test]
fn a_cursor_accepts_only_what_follows() {
    let mut house = House::new(10);
    for i in 0..3 {
        house.publish(&[("a", prose(i, 10))]);
    }
    let [one, two, three] = house.checkpoints().try_into().expect("three checkpoints");
    let mut cursor = ChainCursor::start(house.chain());

    assert!(matches!(cursor.accept(&two), Err(LedgerError::Order { problem: OrderProblem::Gap { .. }, .. })));
    cursor.accept(&one).expect("the first");
    assert!(cursor.accept(&one).is_err());
    assert!(cursor.accept(&three).is_err());
    cursor.accept(&two).expect("the second");
    cursor.accept(&three).expect("the third");
    assert_eq!(cursor.tip(), house.tip);
    let stranger = ChainCursor::after("shared/x~1".parse().expect("a chain"), one.tip(), None).accept(&two);
    assert!(matches!(stranger, Err(LedgerError::Order { problem: OrderProblem::Chain, .. })));
    let other_key = ChainCursor::after(house.chain(), one.tip(), Some(house.identity.owner_key())).accept(&two);
    assert!(matches!(other_key, Err(LedgerError::Order { problem: OrderProblem::Key, .. })));
}

#[test]
fn what_one_ledger_holds_another_takes_in_any_order() {
    let mut ours = House::new(11);
    for i in 0..4 {
        ours.publish(&[("a", noise(i, 400_000)), ("b", prose(i, 10))]);
    }
    let theirs = House::new(12);
    let mut artifacts: Vec<(ArtifactName, Vec<u8>)> = Vec::new();
    for name in ours.ledger.list("", "", 100).expect("a listing").into_iter().rev() {
        let name: ArtifactName = name.parse().expect("an artifact");
        let size = ours.ledger.size(&name).expect("a size");
        let half = ours.ledger.read_raw(&name, 0..size / 2).expect("a part");
        let rest = ours.ledger.read_raw(&name, size / 2..u64::MAX).expect("the rest");
        artifacts.push((name, [half, rest].concat()));
    }

    theirs.ledger.disk().create_folder(&theirs.ledger.staging()).expect("a folder");
    let before = theirs.ledger.disk().syncs();
    let first = theirs.ledger.put_batch(&artifacts).expect("a batch");
    let syncs = theirs.ledger.disk().syncs() - before;
    let again = theirs.ledger.put_batch(&artifacts).expect("a batch");

    assert!(first.iter().all(|result| matches!(result, Ok(Put::New))));
    assert!(again.iter().all(|result| matches!(result, Ok(Put::Present))));
    assert!(syncs <= 3, "{syncs} syncs");
    assert_eq!(theirs.ledger.list("", "", 100).expect("a listing"), ours.ledger.list("", "", 100).expect("a listing"));
    assert!(shown(theirs.ledger.verify(Depth::Bytes).expect("a listing")).is_empty());
}

#[test]
fn one_bad_artifact_does_not_stop_the_others() {
    let mut ours = House::new(13);
    ours.publish(&[("a", prose(1, 10))]);
    ours.publish(&[("a", prose(2, 10))]);
    let theirs = House::new(14);
    let names = ours.ledger.checkpoint_names(&ours.chain(), 0).expect("a listing");
    let bytes = |i: usize| ours.ledger.read_whole(&names[i]).expect("bytes");

    let results =
        theirs.ledger.put_batch(&[(names[0].clone(), bytes(1)), (names[1].clone(), bytes(1))]).expect("a batch");

    assert!(matches!(results[0], Err(LedgerError::Damaged { damage: Damage::Hash { .. }, .. })));
    assert!(matches!(results[1], Ok(Put::New)));
    assert!(!theirs.ledger.has(&names[0]));
}
