//! Laws of cutting and hashing.

use std::io::{self, Cursor, Read};

use proptest::prelude::*;

use super::*;
use crate::model::{ContentHash, Manifest, RelPath, SegmentHash};

/// Reproducible bytes (splitmix64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::env::Random::fill(&crate::env::SeededRandom::new(seed), &mut bytes);
    bytes
}

/// Lines of pseudo-random lengths below `longest`.
fn lines(seed: u64, len: usize, longest: usize) -> Vec<u8> {
    let mut bytes = noise(seed, len);
    let mut until_end = 0;
    for byte in &mut bytes {
        *byte = match (*byte, until_end) {
            (length, 0) => {
                until_end = (usize::from(length) * longest / 256).max(1);
                b'\n'
            }
            (other, _) => b'a' + other % 26,
        };
        until_end -= 1;
    }
    bytes
}

/// Hands out at most `step` bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.1.min(buffer.len());
        self.0.read(&mut buffer[..len])
    }
}

fn split_all(bytes: &[u8], kind: CutKind, step: usize) -> (Split, Vec<u8>) {
    let mut joined = Vec::new();
    let split = Chunker::new().split(Dribble(bytes, step), kind, |segment, span| {
        assert_eq!((segment.0, segment.1 as usize), (SegmentHash::of(span), span.len()));
        joined.extend_from_slice(span);
        Ok::<(), io::Error>(())
    });
    (split.expect("memory reads"), joined)
}

fn whole(bytes: &[u8], kind: CutKind) -> Manifest {
    split_bytes(kind, bytes)
}

#[test]
fn cut_points_never_change() {
    let binary = cuts(CutKind::Binary, &noise(1, 1 << 20));
    let text = cuts(CutKind::Lines, &lines(2, 400_000, 3_000));
    let long = cuts(CutKind::Lines, &lines(3, 500_000, 90_000));

    assert_eq!(binary, GOLDEN_BINARY);
    assert_eq!(text, GOLDEN_LINES);
    assert_eq!(long, GOLDEN_LONG_LINES);
}

const GOLDEN_BINARY: [usize; 16] = [
    28128, 115678, 180603, 248391, 278755, 317028, 367399, 468484, 568652, 648474, 743224, 811353, 849084, 926334,
    992291, 1048576,
];
const GOLDEN_LINES: [usize; 12] =
    [34478, 68978, 102613, 136373, 171202, 204903, 240221, 274091, 307901, 342811, 375683, 400000];
const GOLDEN_LONG_LINES: [usize; 9] = [83321, 134649, 185274, 277382, 326952, 375115, 414490, 492888, 500000];

#[test]
fn edges_of_the_rules() {
    let line_at = |len: usize| [vec![b'x'; len - 1], b"\n".to_vec()].concat();
    let table: [(&str, CutKind, Vec<u8>, &[usize]); 10] = [
        ("nothing", CutKind::Lines, Vec::new(), &[]),
        ("nothing binary", CutKind::Binary, Vec::new(), &[]),
        ("one byte", CutKind::Lines, vec![b'x'], &[1]),
        ("a line end just too early", CutKind::Lines, [line_at(32_767), line_at(10)].concat(), &[32_777]),
        ("a line end at 32 KiB", CutKind::Lines, [line_at(32_768), line_at(10)].concat(), &[32_768, 32_778]),
        ("a line that ends at 128 KiB", CutKind::Lines, line_at(131_072), &[131_072]),
        ("a line one byte longer", CutKind::Lines, line_at(131_073), &[131_072, 131_073]),
        ("no line end", CutKind::Lines, vec![b'x'; 300_000], &[131_072, 262_144, 300_000]),
        ("64 KiB", CutKind::Binary, noise(4, 65_536), &[65_536]),
        ("zeroes", CutKind::Binary, vec![0; 300_000], &[262_144, 300_000]),
    ];

    for (what, kind, bytes, expected) in table {
        assert_eq!(cuts(kind, &bytes), expected, "{what}");
    }
}

#[test]
fn line_files_are_known_by_their_ending() {
    for (path, expected) in [
        ("a.jsonl", true),
        ("x/b.ndjson", true),
        ("c.LOG", true),
        (".log", true),
        ("log", false),
        ("a.jsonl.bak", false),
        ("a.json", false),
        ("größe.log", true),
        ("é", false),
    ] {
        assert_eq!(is_line_file(&RelPath::parse(path).expect("a path")), expected, "{path}");
    }
}

#[test]
fn a_content_of_no_bytes_has_no_segments() {
    let (split, joined) = split_all(b"", CutKind::Lines, 1);

    assert_eq!(split.manifest, Manifest::implied(ContentHash::of(b""), 0));
    assert!(joined.is_empty());
}

#[test]
fn hash_state_of_a_tebibyte_is_small() {
    let full_counter = ResumeState::from_bytes(&[&(1u64 << 40).to_le_bytes()[..], &[7; 24 * 32]].concat());

    let state = full_counter.expect("24 subtrees for 2^24 - 1 units");
    assert!(state.to_bytes().len() <= 1_536);
    assert_eq!(state.offset(), (1 << 40) - RESUME_UNIT_BYTES);
}

#[test]
fn hash_states_of_a_wrong_length_are_refused() {
    let mut hasher = ContentHasher::new();
    hasher.update(&noise(5, 300_000));
    let good = hasher.state().to_bytes();

    for bad in [&good[..0], &good[..7], &good[..good.len() - 1], &[&good[..], &[0]].concat(), &[0xff; 40]] {
        assert!(ResumeState::from_bytes(bad).is_err(), "{} bytes", bad.len());
    }
}

#[test]
fn sizes_around_every_boundary_hash_like_the_whole() {
    let bytes = noise(6, 9 * 65_536 + 2);
    for unit in 0..=9usize {
        for delta in [-1025i64, -1, 0, 1, 2] {
            let Ok(len) = usize::try_from(unit as i64 * 65_536 + delta) else {
                continue;
            };
            let mut hasher = ContentHasher::new();
            hasher.update(&bytes[..len]);
            assert_eq!(hasher.finish(), ContentHash::of(&bytes[..len]), "{len} bytes");
            assert_eq!(hasher.size(), len as u64);
        }
    }
}

fn append(before: &[u8], after: &[u8]) -> Option<(Split, u64)> {
    let mut chunker = Chunker::new();
    let sink = |_, _: &[u8]| Ok::<(), io::Error>(());
    let old = chunker.split(before, CutKind::Lines, sink).expect("memory reads");
    let state = ResumeState::from_bytes(&old.resume.to_bytes()).expect("a state that was just written");
    let plan = AppendPlan::new(&old.manifest, &state)?;
    let read_from = plan.read_from();
    let split = plan.run(&mut chunker, Cursor::new(after), sink).expect("memory reads");
    split.ok().map(|split| (split, read_from))
}

#[test]
fn an_append_to_a_large_log_reads_its_end_only() {
    let before = lines(7, 4 << 20, 2_000);
    let after = [&before[..], b"one more line\n"].concat();

    let (split, read_from) = append(&before, &after).expect("an append");

    assert_eq!(split.manifest, whole(&after, CutKind::Lines));
    assert!(before.len() as u64 - read_from < 256 << 10, "reads from {read_from}");
}

#[test]
fn a_changed_file_is_not_taken_for_an_appended_one() {
    let before = lines(8, 500_000, 2_000);
    let first = [b"!".as_slice(), &before[1..], b"more\n"].concat();
    let last = [&before[..before.len() - 1], b"!more\n"].concat();
    let shorter = before[..before.len() - 1].to_vec();

    for (what, after) in [("first byte", first), ("last byte", last), ("shorter", shorter)] {
        assert!(append(&before, &after).is_none(), "{what}");
    }
}

#[test]
fn a_sink_that_fails_ends_the_split() {
    let result = Chunker::new().split(&noise(9, 200_000)[..], CutKind::Binary, |_, _| Err(io::Error::other("full")));

    assert_eq!(result.expect_err("the sink failed").to_string(), "full");
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), 0usize..600_000, 1usize..100_000, any::<bool>())
        .prop_map(|(seed, len, longest, text)| if text { lines(seed, len, longest) } else { noise(seed, len) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn streaming_splits_like_the_whole(bytes in contents(), step in 1usize..700_000, is_lines: bool) {
        let kind = if is_lines { CutKind::Lines } else { CutKind::Binary };
        let step = step.max(bytes.len() / 1_000 + 1);

        let (split, joined) = split_all(&bytes, kind, step);

        prop_assert_eq!(&joined, &bytes);
        prop_assert_eq!(&split.manifest, &whole(&bytes, kind));
        prop_assert_eq!(split.manifest.content, ContentHash::of(&bytes));
    }

    #[test]
    fn hashing_resumes_at_every_split(bytes in contents(), splits in proptest::collection::vec(any::<prop::sample::Index>(), 0..5)) {
        let mut ends: Vec<usize> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort();
        let mut state = ContentHasher::new().state();

        for end in ends {
            let mut hasher = ContentHasher::resume(&state);
            prop_assert!(end as u64 - state.offset() <= (end as u64 - state.size()) + RESUME_UNIT_BYTES);
            hasher.update(&bytes[state.offset() as usize..end]);
            state = ResumeState::from_bytes(&hasher.state().to_bytes()).expect("just written");
            prop_assert_eq!(hasher.finish(), ContentHash::of(&bytes[..end]));
        }
    }

    #[test]
    fn appending_equals_splitting_the_whole(bytes in contents(), at in any::<prop::sample::Index>()) {
        let before = &bytes[..at.index(bytes.len() + 1)];

        match append(before, &bytes) {
            Some((split, _)) => prop_assert_eq!(split.manifest, whole(&bytes, CutKind::Lines)),
            None => prop_assert!(before.is_empty()),
        }
    }
}

/// A reader that fails must not look like a short file.
#[test]
fn a_reader_that_fails_ends_the_split() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unplugged"))
        }
    }
    let sink = |_, _: &[u8]| Ok::<(), io::Error>(());

    let result = Chunker::new().split(b"some".chain(Broken), CutKind::Binary, sink);

    assert_eq!(result.expect_err("the reader failed").to_string(), "unplugged");
}
