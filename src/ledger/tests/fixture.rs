//! A small house to test in: one identity, one ledger, and a few words for publishing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::env::Env;
use crate::ledger::*;
use crate::model::*;

pub const WALL_MS: u64 = 1_800_000_000_000;

/// A project folder with everything that publishing needs.
pub struct House {
    pub folder: tempfile::TempDir,
    pub env: Env,
    pub identity: Identity,
    pub ledger: Ledger,
    pub tip: Option<Tip>,
}

impl House {
    pub fn new(seed: u64) -> House {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (env, _) = Env::fixed(WALL_MS, seed, "house", folder.path().join("state"));
        let larder = folder.path().join(".larder");
        let identity = Identity::open(&larder, &env, "anna").expect("an identity").identity;
        let ledger = Ledger::open(&larder).expect("a ledger");
        House { folder, env, identity, ledger, tip: None }
    }

    pub fn larder(&self) -> PathBuf {
        self.folder.path().join(".larder")
    }

    pub fn chain(&self) -> Chain {
        self.identity.chain(Space::shared())
    }

    pub fn batch<'a>(&'a self, space: &'a Space) -> Batch<'a> {
        let writer = Writer { app: "test", identity: &self.identity, space };
        Batch::new(&self.ledger, writer, self.tip).expect("a batch")
    }

    /// Publishes one version of each file.
    pub fn try_publish(&self, files: &[(&str, Vec<u8>)]) -> Result<Published, LedgerError> {
        let space = Space::shared();
        let mut batch = self.batch(&space);
        for (path, bytes) in files {
            let segment = SegmentHash::of(bytes);
            if !bytes.is_empty() {
                batch.segment(segment, bytes)?;
            }
            let version = version(batch.chain(), batch.next_n(), path, bytes);
            batch.version(version)?;
        }
        let published = batch.finish(Hlc::new(WALL_MS, 1), BTreeMap::new())?;
        Ok(published.expect("files to publish"))
    }

    pub fn publish(&mut self, files: &[(&str, Vec<u8>)]) -> Published {
        let published = self.try_publish(files).expect("published");
        self.tip = Some(published.tip);
        published
    }

    pub fn snapshot(&mut self) -> Published {
        let space = Space::shared();
        let writer = Writer { app: "test", identity: &self.identity, space: &space };
        let tip = self.tip.expect("a chain");
        let published = self.ledger.snapshot(writer, tip, Hlc::new(WALL_MS, 2), BTreeMap::new()).expect("a snapshot");
        self.tip = Some(published.tip);
        published
    }

    /// A snapshot that lets these contents go, each of one segment.
    pub fn sweep(&mut self, dropped: &[&[u8]]) -> Published {
        let space = Space::shared();
        let writer = Writer { app: "test", identity: &self.identity, space: &space };
        let tip = self.tip.expect("a chain");
        let gone = dropped.iter().map(|bytes| SegmentHash::of(bytes)).collect();
        let dropped: Vec<ContentHash> = dropped.iter().map(|bytes| ContentHash::of(bytes)).collect();
        let (purged, lost) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        let sweep = Sweep { dropped: &dropped, gone: &gone, purged: &purged, lost: &lost, closed: &[] };
        let swept = self.ledger.sweep(writer, tip, Hlc::new(WALL_MS, 3), BTreeMap::new(), sweep).expect("a sweep");
        self.tip = Some(swept.published.tip);
        swept.published
    }

    /// Goes on as a later generation.
    pub fn adopt(&mut self, generation: u32) {
        let origin = self.identity.origin().clone();
        self.identity = Identity::adopt(&self.larder(), &self.env, "anna", origin, generation).expect("adopted");
        self.tip = None;
    }

    /// Says everything of an earlier chain again.
    pub fn carry(&mut self, closable: &Closable) {
        let space = Space::shared();
        let mut batch = self.batch(&space);
        let lines = self.ledger.each_closable_line(closable, |line, record| batch.carried(&record.carry(line)));
        lines.expect("carried");
        for artifact in &closable.artifacts {
            for (segment, place) in self.ledger.places_in(artifact).expect("places") {
                batch.segment(segment, &self.ledger.read_segment(segment, &place).expect("a segment")).expect("said");
            }
        }
        let published = batch.finish(Hlc::new(WALL_MS, 4), BTreeMap::new()).expect("published").expect("something");
        self.tip = Some(published.tip);
    }

    /// A snapshot that says these words about earlier chains.
    pub fn close(&mut self, closed: &[Closed]) -> Published {
        let space = Space::shared();
        let writer = Writer { app: "test", identity: &self.identity, space: &space };
        let nothing = std::collections::HashSet::new();
        let lost = std::collections::HashSet::new();
        let sweep = Sweep { dropped: &[], gone: &nothing, purged: &nothing, lost: &lost, closed };
        let tip = self.tip.expect("a chain");
        let swept = self.ledger.sweep(writer, tip, Hlc::new(WALL_MS, 5), BTreeMap::new(), sweep).expect("a sweep");
        self.tip = Some(swept.published.tip);
        swept.published
    }

    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let names = self.ledger.checkpoint_names(&self.chain(), 0).expect("a listing");
        names.iter().map(|name| self.ledger.read_checkpoint(name).expect("a checkpoint")).collect()
    }

    pub fn findings(&self, depth: Depth) -> Vec<String> {
        shown(self.ledger.verify(depth).expect("the ledger can be listed"))
    }
}

pub fn shown(findings: Vec<Finding>) -> Vec<String> {
    findings.iter().map(|finding| format!("{} {}", finding.artifact, finding.problem)).collect()
}

/// The first version of a path, in a lane of its own.
pub fn version(chain: &Chain, n: u64, path: &str, bytes: &[u8]) -> Version {
    let lane = Lane { origin: chain.origin.clone(), generation: chain.generation, first: n };
    let content =
        Content { hash: ContentHash::of(bytes), size: bytes.len() as u64, kind: ContentKind::File { exec: false } };
    Version {
        parents: Vec::new(),
        dot: Dot { lane, n },
        vector: Vector::new(),
        hlc: Hlc::new(WALL_MS, 0),
        born: Hlc::new(WALL_MS, 0),
        channel: Channel::Shared,
        path: RelPath::parse(path).expect("a path"),
        state: State::Content(content),
        moved_from: None,
        via: None,
        adopted: false,
    }
}

/// Bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::env::Random::fill(&crate::env::SeededRandom::new(seed), &mut bytes);
    bytes
}

/// A text that compresses.
pub fn prose(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len).iter().map(|byte| b"etaoin shrdlu\n"[usize::from(byte % 14)]).collect()
}

/// The lines of every checkpoint from the first on, sorted.
pub fn all_lines(house: &House) -> Vec<Vec<u8>> {
    let each = house.checkpoints().into_iter();
    let mut lines: Vec<Vec<u8>> =
        each.flat_map(|checkpoint| house.ledger.records(&checkpoint).expect("records")).map(|(line, _)| line).collect();
    lines.sort();
    lines
}
