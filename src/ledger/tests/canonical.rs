//! Declared field order is canonical order: the fast way and the general way give the same bytes.

use proptest::prelude::*;

use super::fixture::*;
use crate::model::*;

fn names() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[a-zA-Z0-9 üß\u{1F600}\\-_.]{1,20}").expect("a pattern")
}

fn versions() -> impl Strategy<Value = Version> {
    let lanes = proptest::collection::btree_map(1u64..1_000, 1u64..1_000, 0..4);
    let parents = proptest::collection::btree_set(any::<[u8; 32]>(), 0..4);
    let content = (any::<[u8; 32]>(), 0u64..MAX_JSON_INTEGER, any::<bool>(), any::<bool>());
    (
        names(),
        lanes,
        parents,
        proptest::option::of(content),
        any::<bool>(),
        1u64..1 << 50,
        proptest::option::of(names()),
    )
        .prop_map(|(name, lanes, parents, content, adopted, n, other)| {
            let chain: Chain = "shared/other-abc234~1".parse().expect("a chain");
            let path = |name: &str| RelPath::parse(&format!("d/x{}x", name.trim())).ok();
            let mut version = version(&chain, n, "a", b"");
            version.path = path(&name).unwrap_or(version.path);
            let lane = |first| Lane { origin: "peer-xyz234".parse().expect("an origin"), generation: 2, first };
            version.vector = lanes.into_iter().map(|(first, more)| (lane(first), first + more)).collect();
            version.parents = parents.into_iter().map(|bytes| VersionId(Hash::from_bytes(bytes))).collect();
            version.adopted = adopted;
            let moved = other.as_deref().and_then(path);
            version.via = other.map(|name| format!("backend:{name}"));
            version.state = match content {
                Some((hash, size, exec, link)) => {
                    version.moved_from = moved;
                    let kind = if link { ContentKind::Link } else { ContentKind::File { exec } };
                    State::Content(Content { hash: ContentHash(Hash::from_bytes(hash)), size, kind })
                }
                None => State::Tombstone { reason: Reason::Move, moved_to: moved },
            };
            version
        })
}

fn general_form(line: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
    canonical_bytes(&value).expect("canonical")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn versions_are_canonical_and_read_back(version in versions()) {
        let (id, line) = version.to_line();

        prop_assert_eq!(general_form(&line), line.clone());
        prop_assert_eq!(Version::parse(&line).expect("its own line"), (id, version));
    }

    #[test]
    fn manifests_are_canonical_and_read_back(
        segments in proptest::collection::vec((any::<[u8; 32]>(), 1u32..100_000), 0..20),
        extends in proptest::option::of((any::<[u8; 32]>(), 0usize..100)),
        content: [u8; 32],
    ) {
        let hash = |bytes| ContentHash(Hash::from_bytes(bytes));
        let add = segments.into_iter().map(|(bytes, len)| SegmentRef(SegmentHash(Hash::from_bytes(bytes)), len)).collect();
        let (extends, keep) = extends.map_or((None, 0), |(bytes, keep)| (Some(hash(bytes)), keep));
        let delta = ManifestDelta { content: hash(content), size: 7, extends, keep, add };

        let line = delta.to_line();

        prop_assert_eq!(general_form(&line), line.clone());
        prop_assert_eq!(ManifestDelta::parse(&line).expect("its own line"), delta);
    }
}

#[test]
fn checkpoints_and_origins_are_canonical() {
    let mut house = House::new(71);
    house.publish(&[("a", prose(1, 100))]);
    house.publish(&[("b", noise(1, 400_000))]);
    house.snapshot();

    for checkpoint in house.checkpoints() {
        let bytes = house.ledger.read_whole(&checkpoint.name).expect("bytes");
        assert_eq!(general_form(&bytes), bytes);
    }
    let origin = std::fs::read(house.larder().join("origin.json")).expect("bytes");
    assert_eq!(general_form(&origin), origin);
    let uses = RecordLine::Uses(Uses::new("x".to_owned(), vec![SegmentHash::of(b"x")])).to_line();
    assert_eq!(general_form(&uses), uses);
}

#[test]
fn a_purge_reads_and_is_written_as_every_release_of_this_version_writes_it() {
    const LINE: &str = r#"{"field":"purge","hlc":"0000018bcfe56800","kind":"meta","prev":[],"target":"shared/desk-abc234~1","v":1,"value":["0101010101010101010101010101010101010101010101010101010101010101","0202020202020202020202020202020202020202020202020202020202020202"]}"#;
    let [one, two] = [1, 2].map(|byte| VersionId(Hash::from_bytes([byte; 32])));

    let event = MetaEvent::purge("shared/desk-abc234~1".to_owned(), Hlc::from_u64(0x18b_cfe5_6800), &[two, one]);

    assert_eq!(String::from_utf8(event.to_line()).expect("text"), LINE);
    assert_eq!(Record::parse(LINE.as_bytes()).expect("parses"), Record::Meta(event.clone()));
    assert_eq!(event.purged_versions(), [one, two]);
    assert_eq!((event.approved_deletes(), event.retired_origin(), event.as_membership()), (Vec::new(), None, None));
}

#[test]
fn a_star_reads_and_is_written_as_every_release_of_this_version_writes_it() {
    const WHOLE: &str = r#"{"field":"star","hlc":"0000018bcfe56800","kind":"meta","prev":["0101010101010101010101010101010101010101010101010101010101010101"],"target":"docs/a.md","v":1,"value":{"on":true}}"#;
    const OF_ONE: &str = r#"{"field":"star","hlc":"0000018bcfe56800","kind":"meta","prev":[],"target":"run.log","v":1,"value":{"on":false,"origin":"desk-abc234"}}"#;
    let hlc = Hlc::from_u64(0x18b_cfe5_6800);
    let word = |path: &str, origin: Option<&str>, is_on| StarWord {
        path: RelPath::parse(path).expect("a path"),
        origin: origin.map(|origin| origin.parse().expect("an origin")),
        is_on,
    };
    let whole = (word("docs/a.md", None, true), vec![Hash::from_bytes([1; 32])]);
    let of_one = (word("run.log", Some("desk-abc234"), false), Vec::new());

    for (line, (word, prev)) in [(WHOLE, whole), (OF_ONE, of_one)] {
        let event = MetaEvent::star(&word, hlc, prev);

        assert_eq!(String::from_utf8(event.to_line()).expect("text"), line);
        assert_eq!(Record::parse(line.as_bytes()).expect("parses"), Record::Meta(event.clone()));
        assert_eq!(event.as_star(), Some(word));
        assert_eq!((event.purged_versions(), event.retired_origin(), event.as_membership()), (Vec::new(), None, None));
    }
    for line in
        [WHOLE.replace("docs/a.md", "../a.md"), OF_ONE.replace("desk-abc234", "no machine"), WHOLE.replace("true", "1")]
    {
        let Ok(Record::Meta(event)) = Record::parse(line.as_bytes()) else { panic!("kept: {line}") };
        assert_eq!(event.as_star(), None, "{line}");
    }
}
