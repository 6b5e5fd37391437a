//! How big the index is, and how deep a directory may be filled.

use std::time::Instant;

use super::fleet::{chain, path, place};
use super::fresh;
use crate::index::{Item, Tree};
use crate::model::{
    ArtifactHash, Channel, Content, ContentHash, ContentKind, Dot, Hlc, Lane, Record, SegmentHash, State, Vector,
    Version,
};

const FILES: u64 = 100_000;
const MAX_BYTES_PER_FILE: u64 = 600;

/// One-version files; the path comes from `name`.
fn checkpoint(files: u64, name: impl Fn(u64) -> String) -> Item {
    let chain = chain("laptop-abc234");
    let (mut records, mut places) = (Vec::new(), Vec::new());
    for n in 1..=files {
        let hash = ContentHash::of(&n.to_le_bytes());
        let version = Version {
            parents: Vec::new(),
            dot: Dot { lane: Lane { origin: chain.origin.clone(), generation: 1, first: n }, n },
            vector: Vector::new(),
            hlc: Hlc::new(1_760_000_000_000, n as u16),
            born: Hlc::new(1_760_000_000_000, n as u16),
            channel: Channel::Shared,
            path: path(&name(n)),
            state: State::Content(Content { hash, size: 1_000 + n % 900, kind: ContentKind::File { exec: false } }),
            moved_from: None,
            via: None,
            adopted: false,
        };
        records.push(Record::Version(version.to_line().0, Box::new(version)));
        places.push((SegmentHash(hash.0), place(&chain, n / 100, (n % 100) as u32 * 1_000, 1_500)));
    }
    Item::following(chain, (1, ArtifactHash::of(b"1")), records, places)
}

#[test]
fn a_file_of_one_version_costs_at_most_600_bytes() {
    let item = checkpoint(FILES, |n| format!("projects/app-{:02}/src/part-{:03}/file-{n:06}.md", n % 40, n / 40 % 100));
    let (_folder, mut index) = fresh();

    let start = Instant::now();
    let applied = index.apply(std::slice::from_ref(&item)).expect("applied");
    let took = start.elapsed();

    assert_eq!(applied.touched.len() as u64, FILES);
    let pages: u64 =
        index.conn.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).expect("pages").cast_unsigned();
    let per_file = pages * 4096 / FILES;
    println!("{per_file} bytes a file, {FILES} files applied in {took:?}");
    assert!(per_file <= MAX_BYTES_PER_FILE, "{per_file} bytes a file");
}

#[test]
fn a_directory_of_very_many_entries_is_served_in_pages() {
    let item = checkpoint(20_000, |n| format!("flat/f{n:07}"));
    let (_folder, mut index) = fresh();
    index.apply(&[item]).expect("applied");

    let (mut seen, mut last) = (0, None);
    loop {
        let page = index.list_dir(&Tree::Merged, "flat", last.as_deref(), 1_000).expect("a page");
        assert!(page.len() <= 1_000);
        let Some(entry) = page.last() else { break };
        seen += page.len();
        last = Some(entry.name.clone());
    }

    assert_eq!(seen, 20_000);
    assert_eq!(index.list_dir(&Tree::Merged, "", None, 10).expect("the root").len(), 1);
}
