//! Reading contents through the ledger, and replaying it.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::dump;
use crate::env::Env;
use crate::index::rebuild::replay_by;
use crate::index::{ContentError, ContentReader, Index, Replayed, replay};
use crate::ledger::{ArtifactName, Batch, Identity, Ledger, Sweep, Tip, Writer};
use crate::model::{
    Channel, Content, ContentHash, ContentKind, Dot, Hlc, Lane, Manifest, RecordLine, RelPath, SegmentHash, SegmentRef,
    Space, State, Vector, Version, VersionId,
};

struct Project {
    folder: tempfile::TempDir,
    ledger: Arc<Ledger>,
    identity: Identity,
    tip: Option<Tip>,
    index: Index,
}

impl Project {
    fn new() -> Project {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (env, _) = Env::fixed(1_000_000, 7, "host", folder.path().join("state"));
        let larder = folder.path().join(".larder");
        std::fs::create_dir_all(&larder).expect("a folder");
        let identity = Identity::create(&larder, &env, "anna").expect("an identity");
        let ledger = Arc::new(Ledger::open(&larder).expect("a ledger"));
        let (index, _) = Index::open(&larder.join("index.db"), 1).expect("an index");
        Project { folder, ledger, identity, tip: None, index }
    }

    fn index_path(&self) -> PathBuf {
        self.folder.path().join(".larder/index.db")
    }

    /// Publishes one checkpoint with one file, cut into pieces of `cut` bytes.
    fn publish(&mut self, path: &str, bytes: &[u8], cut: usize, parent: Option<VersionId>) -> (VersionId, Content) {
        let space = Space::shared();
        let writer = Writer { app: "app", identity: &self.identity, space: &space };
        let mut batch = Batch::new(&self.ledger, writer, self.tip).expect("a batch");
        let mut segments = Vec::new();
        for piece in bytes.chunks(cut) {
            let segment = SegmentHash::of(piece);
            batch.segment(segment, piece).expect("stored");
            segments.push(SegmentRef(segment, piece.len() as u32));
        }
        let content =
            Content { hash: ContentHash::of(bytes), size: bytes.len() as u64, kind: ContentKind::File { exec: false } };
        let manifest = Manifest { content: content.hash, size: content.size, segments };
        if manifest.needs_record() {
            batch.record(RecordLine::Manifest(manifest.delta_from(None))).expect("recorded");
        }
        let n = batch.next_n();
        let (first, vector) =
            (n, parent.map(|id| self.index.version(&id).expect("asked").expect("here").version.full_vector()));
        let version = Version {
            parents: parent.into_iter().collect(),
            dot: Dot { lane: Lane { origin: self.identity.origin().clone(), generation: 1, first }, n },
            vector: vector.unwrap_or_else(Vector::new),
            hlc: Hlc::from_u64(n),
            born: Hlc::from_u64(1),
            channel: Channel::Shared,
            path: RelPath::parse(path).expect("a path"),
            state: State::Content(content),
            moved_from: None,
            via: None,
            adopted: false,
        };
        let id = batch.version(version).expect("a version");
        self.tip = batch.finish(Hlc::from_u64(n), BTreeMap::new()).expect("published").map(|published| published.tip);
        (id, content)
    }

    fn replay(&mut self) -> Replayed {
        replay(&mut self.index, &self.ledger).expect("replayed")
    }

    fn reader(&self, cache_bytes: usize) -> ContentReader {
        ContentReader::with_cache(self.ledger.clone(), self.index.reader().expect("a reader"), cache_bytes)
    }

    fn dump(&self) -> String {
        dump(&self.index, &[self.identity.chain(Space::shared())])
    }

    /// The only pack of the chain.
    fn pack(&self) -> PathBuf {
        let folder = self.ledger.root().join(self.identity.chain(Space::shared()).to_string()).join("packs");
        std::fs::read_dir(folder).expect("packs").next().expect("a pack").expect("an entry").path()
    }
}

/// Bytes that no compressor shortens much.
fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    crate::env::Random::fill(&crate::env::SeededRandom::new(3), &mut out);
    out
}

#[test]
fn any_range_of_a_content_is_its_bytes() {
    let mut project = Project::new();
    let bytes = noise(900_000);
    let (_, content) = project.publish("big.bin", &bytes, 70_000, None);
    let (_, small) = project.publish("small.txt", b"hello", 70_000, None);
    let (_, empty) = project.publish("empty", b"", 70_000, None);
    project.replay();

    for cache_bytes in [0, 200_000, 64 << 20] {
        let reader = project.reader(cache_bytes);
        for (offset, len) in
            [(0, 1), (0, 900_000), (69_999, 2), (70_000, 70_000), (899_999, 10), (900_000, 1), (5, 0), (1 << 60, 9)]
        {
            let expected = bytes.iter().copied().skip(offset).take(len).collect::<Vec<u8>>();
            assert_eq!(reader.read(&content, offset as u64, len as u64).expect("bytes"), expected, "{offset}+{len}");
        }
        assert_eq!(reader.read_all(&content).expect("all"), bytes);
        assert_eq!(reader.read_text(&small).expect("text").as_deref(), Some("hello"));
        assert_eq!(reader.read_all(&empty).expect("none"), b"");
    }
}

#[test]
fn threads_read_at_once() {
    let mut project = Project::new();
    let bytes = noise(600_000);
    let (_, content) = project.publish("big.bin", &bytes, 50_000, None);
    project.replay();
    let reader = project.reader(150_000);

    std::thread::scope(|scope| {
        for start in 0..4 {
            let (reader, bytes) = (&reader, &bytes);
            scope.spawn(move || {
                for at in (start * 1_000..590_000).step_by(37_001) {
                    assert_eq!(
                        reader.read(&content, at as u64, 10_000).expect("bytes"),
                        bytes[at..(at + 10_000).min(600_000)]
                    );
                }
            });
        }
    });
}

#[test]
fn rebuild_gives_the_same_answers() {
    let mut project = Project::new();
    let (first, _) = project.publish("a/x", b"one", 9, None);
    project.replay();
    project.publish("a/x", b"two", 9, Some(first));
    project.publish("a/y", &noise(500_000), 60_000, None);
    project.publish("moved", b"one", 9, Some(first));
    project.replay();
    let before = project.dump();

    project.index = Index::recreate(&project.index_path(), 2).expect("a new index");
    let replayed = project.replay();

    assert_eq!(project.dump(), before);
    assert_eq!((replayed.checkpoints, replayed.problems.len()), (4, 0));
    assert_eq!(project.index.epoch(), 2);
}

#[test]
fn a_replay_by_small_transactions_gives_the_same_answers() {
    let mut project = Project::new();
    let (first, _) = project.publish("a/x", b"one", 9, None);
    project.replay();
    project.publish("a/x", b"two", 9, Some(first));
    for n in 0..20 {
        project.publish(&format!("b/{n}"), &noise(1_000 + n), 400, None);
    }
    project.publish("moved", b"one", 9, Some(first));
    project.index = Index::recreate(&project.index_path(), 2).expect("a new index");
    let whole = project.replay();
    let before = project.dump();

    project.index = Index::recreate(&project.index_path(), 3).expect("a new index");
    let parts = replay_by(&mut project.index, &project.ledger, 3).expect("replayed");

    assert_eq!(project.dump(), before);
    assert_eq!((parts.checkpoints, parts.touched.len()), (whole.checkpoints, whole.touched.len()));
    assert!(parts.problems.is_empty() && parts.rejected.is_empty());
}

#[test]
fn who_begins_at_a_snapshot_waits_for_no_bytes_however_small_transactions_are() {
    let mut project = Project::new();
    for n in 0..20 {
        project.publish(&format!("b/{n}"), &noise(1_000 + n), 4_000, None);
    }
    let (space, nothing) = (Space::shared(), HashSet::new());
    let writer = Writer { app: "app", identity: &project.identity, space: &space };
    let sweep =
        Sweep { dropped: &[], gone: &nothing, purged: &nothing, lost: &std::collections::HashSet::new(), closed: &[] };
    let tip = project.tip.expect("was published");
    project.ledger.sweep(writer, tip, Hlc::from_u64(99), BTreeMap::new(), sweep).expect("a snapshot with a floor");
    project.index = Index::recreate(&project.index_path(), 2).expect("a new index");

    let joined = replay_by(&mut project.index, &project.ledger, 3).expect("replayed");

    assert!(joined.problems.is_empty() && joined.touched.len() == 20, "{joined:?}");
    let connection = rusqlite::Connection::open(project.index_path()).expect("opens");
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("counts");
    assert_eq!(count("SELECT count(*) FROM versions"), 20);
    // None was ever without its bytes, and none is told of twice.
    assert_eq!((count("SELECT count(*) FROM lacks"), count("SELECT count(*) FROM touches")), (0, 0));
}

#[test]
fn replaying_again_applies_nothing() {
    let mut project = Project::new();
    project.publish("a", b"one", 9, None);
    project.replay();
    let row = project.index.max_row().expect("a row");

    let again = project.replay();

    assert_eq!((again.checkpoints, again.touched.len()), (0, 0));
    assert_eq!(project.index.max_row().expect("a row"), row);
}

#[test]
fn a_damaged_checkpoint_stops_its_chain_and_is_named() {
    let mut project = Project::new();
    project.publish("a", b"one", 9, None);
    project.publish("b", b"two", 9, None);
    project.publish("c", b"three", 9, None);
    let chain = project.identity.chain(Space::shared());
    let names = project.ledger.checkpoint_names(&chain, 0).expect("names");
    let path = project.ledger.path(&names[1]);
    let good = std::fs::read(&path).expect("bytes");
    replace(&path, &[&good[..20], b"!", &good[21..]].concat());

    let replayed = project.replay();

    assert_eq!(replayed.checkpoints, 1);
    assert!(replayed.problems[0].stops_chain && replayed.problems[0].error.to_string().contains(&names[1].to_string()));
    assert_eq!(project.index.applied(&chain).expect("applied").map(|(seq, _)| seq), Some(1));

    replace(&path, &good);
    assert_eq!(project.replay().checkpoints, 2);
}

#[test]
fn a_pack_that_comes_late_completes_what_needed_it() {
    let mut project = Project::new();
    let (_, small) = project.publish("small", b"one", 9, None);
    let bytes = noise(600_000);
    let (id, big) = project.publish("big", &bytes, 60_000, None);
    let (pack, hidden) = (project.pack(), project.folder.path().join("hidden"));
    std::fs::rename(&pack, &hidden).expect("moved away");

    let replayed = project.replay();
    let row = project.index.max_row().expect("a row");

    assert_eq!((replayed.checkpoints, replayed.problems.len()), (2, 1));
    assert!(!replayed.problems[0].stops_chain);
    let missing = project.index.missing_bytes(10).expect("missing");
    assert_eq!((missing.len(), missing[0].id, missing[0].segments.len()), (1, id, 10));
    assert!(matches!(project.reader(0).read(&big, 0, 1), Err(ContentError::Missing { .. })));
    assert_eq!(project.reader(0).read_all(&small).expect("here"), b"one");

    std::fs::rename(&hidden, &pack).expect("moved back");
    let replayed = project.replay();

    assert_eq!(replayed.touched.len(), 1);
    assert_eq!(project.index.slots_since(row, 10).expect("since").len(), 1);
    assert_eq!(project.index.missing_bytes(10).expect("missing"), []);
    assert!(project.index.knows_content(&big.hash).expect("asked"));
    assert_eq!(project.reader(0).read_all(&big).expect("here"), bytes);
}

#[test]
fn an_index_of_another_ledger_is_called_stale() {
    let mut project = Project::new();
    project.publish("a", b"one", 9, None);
    project.publish("b", b"two", 9, None);
    project.replay();
    let chain = project.identity.chain(Space::shared());
    let last: ArtifactName = project.ledger.checkpoint_names(&chain, 1).expect("names").remove(0);
    std::fs::remove_file(project.ledger.path(&last)).expect("removed");

    assert_eq!(project.replay().stale, [chain]);
}

#[test]
fn a_content_read_in_parts_takes_each_block_once_in_whatever_parts() {
    let mut project = Project::new();
    let bytes = noise(2_100_000);
    let (_, content) = project.publish("big.bin", &bytes, 70_000, None);
    project.replay();

    for part in [4_096, 128 << 10, 1 << 20, 2_100_000] {
        let reader = project.reader(1 << 20);
        for (n, expected) in bytes.chunks(part).enumerate() {
            assert_eq!(reader.read(&content, (n * part) as u64, part as u64).expect("bytes"), expected);
        }
        assert_eq!(reader.blocks_read(), 2_100_000 / 70_000, "in parts of {part}");
    }
}

#[test]
fn a_wait_for_the_index_is_told_once_and_of_every_question() {
    let mut project = Project::new();
    let bytes = noise(200_000);
    let (_, long) = project.publish("long.bin", &bytes, 60_000, None);
    let (_, short) = project.publish("short.bin", b"text", 60_000, None);
    project.replay();
    let reader = project.reader(1 << 20);
    assert!(reader.longest_wait().is_zero());

    for content in [long, short] {
        reader.read(&content, 0, 4).expect("bytes");
        assert!(!reader.longest_wait().is_zero(), "{content:?}");
        assert!(reader.longest_wait().is_zero(), "told already");
    }
}

#[test]
fn contents_that_share_a_block_take_it_once_prepared_or_not() {
    let mut project = Project::new();
    let bytes = noise(600_000);
    project.publish("big.bin", &bytes, 6_000, None);
    project.replay();
    let contents: Vec<Content> = bytes.chunks(6_000).map(content_of).collect();
    let index = project.index.reader().expect("a reader");
    let blocks: std::collections::BTreeSet<_> =
        contents.iter().filter_map(|content| Some(index.place(&SegmentHash(content.hash.0)).ok()??.block)).collect();
    assert!(blocks.len() < contents.len() / 10, "many share one");

    for is_prepared in [false, true] {
        let reader = project.reader(1 << 20);
        for (content, expected) in contents.iter().zip(bytes.chunks(6_000)) {
            if is_prepared {
                let place = index.place(&SegmentHash(content.hash.0)).expect("asked").expect("here");
                let proven = reader.prepare(content, &place, reader.turn()).expect("its bytes");
                assert_eq!(proven.bytes(), expected);
            }
            assert_eq!(reader.read(content, 0, 9_000).expect("bytes"), expected);
        }
        assert_eq!(reader.blocks_read(), blocks.len() as u64);
    }
}

#[test]
fn a_damaged_block_is_never_shown_whole_in_parts_or_prepared_and_is_read_again_when_it_is_healed() {
    let mut project = Project::new();
    let bytes = noise(600_000);
    let (_, content) = project.publish("big.bin", &bytes, 60_000, None);
    project.replay();
    let pack = project.pack();
    let good = std::fs::read(&pack).expect("bytes");
    let mut bad = good.clone();
    bad[100_000] ^= 1;
    replace(&pack, &bad);
    let second = content_of(&bytes[60_000..120_000]);
    let place = project.index.place(&SegmentHash(second.hash.0)).expect("asked").expect("here");
    let reader = project.reader(1 << 20);

    assert!(reader.prepare(&second, &place, reader.turn()).is_none());

    assert!(matches!(reader.read(&second, 0, 10), Err(ContentError::Ledger(_))));
    assert!(matches!(reader.read(&content, 0, 600_000), Err(ContentError::Ledger(_))));
    assert!(matches!(reader.read(&content, 119_000, 10), Err(ContentError::Ledger(_))));
    assert_eq!(reader.read(&content, 0, 60_000).expect("beside it"), bytes[..60_000]);
    assert_eq!(reader.read(&content, 120_000, 480_000).expect("beside it"), bytes[120_000..]);

    replace(&pack, &good);

    drop(reader.prepare(&second, &place, reader.turn()));
    assert_eq!(reader.read(&second, 0, 60_000).expect("healed"), bytes[60_000..120_000]);
    assert_eq!(reader.read(&content, 0, 600_000).expect("healed"), bytes);
}

#[test]
fn a_prepared_content_whose_block_is_not_in_memory_any_more_is_looked_up_again() {
    let mut project = Project::new();
    let bytes = noise(600_000);
    project.publish("big.bin", &bytes, 60_000, None);
    project.replay();
    let content = content_of(&bytes[..60_000]);
    let place = project.index.place(&SegmentHash(content.hash.0)).expect("asked").expect("here");
    let elsewhere = project.pack().with_file_name(format!("{}.pack", "ab".repeat(32)));
    std::fs::copy(project.pack(), &elsewhere).expect("copied");
    let text = place.artifact.to_string();
    let (folder, _) = text.rsplit_once('/').expect("a folder");
    let name = format!("{folder}/{}.pack", "ab".repeat(32)).parse().expect("a name");
    // Decoded blocks are not kept at all here.
    let reader = project.reader(0);
    let place = crate::ledger::Place { artifact: name, ..place };
    assert!(reader.prepare(&content, &place, reader.turn()).is_some());
    std::fs::remove_file(&elsewhere).expect("let go");

    assert_eq!(reader.read(&content, 0, 60_000).expect("bytes"), bytes[..60_000]);
    assert_eq!(project.ledger.noted_damage().expect("notes"), []);
}

fn content_of(bytes: &[u8]) -> Content {
    Content { hash: ContentHash::of(bytes), size: bytes.len() as u64, kind: ContentKind::File { exec: false } }
}

fn replace(path: &std::path::Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("removed");
    std::fs::write(path, bytes).expect("written");
}
