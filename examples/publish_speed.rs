//! Measures publishing: `publish_speed [files] [bytes each]`. Prints where the time goes; writes to a temporary folder.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use larder::chunk::{CutKind, split_bytes};
use larder::env::Env;
use larder::ledger::{Batch, Identity, Ledger, Writer};
use larder::model::{
    Channel, Content, ContentHash, ContentKind, Dot, Hlc, Lane, RelPath, SegmentHash, Space, State, Vector, Version,
};

fn text(seed: usize, bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "artifact", "session", "tool", "result", "path", "agent", "content", "message", "input", "output", "role",
        "token", "error", "plan", "file", "step",
    ];
    let mut state = seed as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut text = String::with_capacity(bytes + 32);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = WORDS[(state >> 60) as usize];
        text.push_str(&format!("{{\"{word}\":\"{:x}\"}}\n", state >> 40));
    }
    text.truncate(bytes);
    text.into_bytes()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let files = arguments.next().transpose()?.unwrap_or(100_000);
    let bytes = arguments.next().transpose()?.unwrap_or(1_500);
    let folder = tempfile::tempdir()?;
    let (env, _) = Env::fixed(1_700_000_000_000, 1, "bench", folder.path().join("state"));
    let identity = Identity::open(&folder.path().join(".larder"), &env, "me")?.identity;
    let ledger = Ledger::open(&folder.path().join(".larder"))?;
    let contents: Vec<Vec<u8>> = (0..files).map(|i| text(i, bytes)).collect();
    let paths: Vec<RelPath> =
        (0..files).map(|i| RelPath::parse(&format!("data/{}/file-{i}.json", i / 100))).collect::<Result<_, _>>()?;

    let start = Instant::now();
    let hashes: Vec<SegmentHash> =
        contents.iter().map(|content| SegmentHash(split_bytes(CutKind::Binary, content).content.0)).collect();
    let hashed = start.elapsed();

    let mut compressor = zstd::bulk::Compressor::new(3)?;
    let (start, mut joined, mut stored) = (Instant::now(), Vec::new(), 0);
    for content in &contents {
        joined.extend_from_slice(content);
        if joined.len() > 126 << 10 {
            stored += compressor.compress(&joined)?.len();
            joined.clear();
        }
    }
    let zstd_alone = start.elapsed();

    let space = Space::shared();
    let writer = Writer { app: "bench", identity: &identity, space: &space };
    let mut batch = Batch::new(&ledger, writer, None)?;
    let (mut segments, mut versions) = (Duration::ZERO, Duration::ZERO);
    for (i, ((content, hash), path)) in contents.iter().zip(&hashes).zip(&paths).enumerate() {
        let begin = Instant::now();
        batch.segment(*hash, content)?;
        let between = Instant::now();
        let hlc = Hlc::new(1_700_000_000_000, 0);
        let n = i as u64 + 1;
        let lane = Lane { origin: identity.origin().clone(), generation: 1, first: n };
        let content =
            Content { hash: ContentHash(hash.0), size: bytes as u64, kind: ContentKind::File { exec: false } };
        batch.version(Version {
            parents: Vec::new(),
            dot: Dot { lane, n },
            vector: Vector::new(),
            hlc,
            born: hlc,
            channel: Channel::Shared,
            path: path.clone(),
            state: State::Content(content),
            moved_from: None,
            via: None,
            adopted: false,
        })?;
        segments += between - begin;
        versions += between.elapsed();
    }
    let start = Instant::now();
    let published = batch.finish(Hlc::new(1_700_000_000_000, 1), BTreeMap::new())?.expect("there was something");
    let finish = start.elapsed();

    println!("{files} files of {bytes} bytes");
    println!("  hash alone       {hashed:>10.1?}");
    println!("  zstd alone       {zstd_alone:>10.1?}  {stored} bytes");
    println!("  batch segments   {segments:>10.1?}");
    println!("  batch versions   {versions:>10.1?}");
    println!("  finish           {finish:>10.1?}  {} syncs", published.syncs);
    println!("  batch in all     {:>10.1?}  {} bytes written", segments + versions + finish, published.bytes_written);

    let start = Instant::now();
    let checkpoint = ledger.read_checkpoint(&published.checkpoint)?;
    let mut records = 0;
    ledger.each_record(&checkpoint, |_, _| {
        records += 1;
        Ok::<(), larder::ledger::LedgerError>(())
    })?;
    let places = ledger.segment_places(&checkpoint)?;
    println!("  read back        {:>10.1?}  {records} records, {} places", start.elapsed(), places.len());
    Ok(())
}
