//! Pieces: chunks put together up to what a document of a service holds.
//!
//! Invariant: the sizes that stand beside a piece say where its chunks end, so that `cut` gives back what `pack` took.
//! Knows nothing of services, and not how a piece is kept.

use std::ops::Range;

use crate::RecordId;

/// Puts chunks, in order, into as few pieces of at most `most` bytes as may be; a longer chunk has a piece of its own. Sizes of the
/// chunks, in bytes, and the piece.
pub(crate) fn pack<'c>(chunks: impl IntoIterator<Item = &'c Vec<u8>>, most: usize) -> Vec<(Vec<usize>, Vec<u8>)> {
    let mut packed: Vec<(Vec<usize>, Vec<u8>)> = Vec::new();
    for chunk in chunks {
        match packed.last_mut().filter(|(_, bytes)| bytes.len() + chunk.len() <= most) {
            Some((sizes, bytes)) => {
                sizes.push(chunk.len());
                bytes.extend_from_slice(chunk);
            }
            None => packed.push((vec![chunk.len()], chunk.clone())),
        }
    }
    packed
}

/// The chunks of a piece that count; `None` if it is shorter than they say. What is behind them is left out.
pub(crate) fn cut(piece: &[u8], sizes: impl IntoIterator<Item = usize>) -> Option<Vec<Vec<u8>>> {
    let mut rest = piece;
    let mut chunks = Vec::new();
    for size in sizes {
        let (chunk, after) = rest.split_at_checked(size)?;
        chunks.push(chunk.to_vec());
        rest = after;
    }
    Some(chunks)
}

/// Which pieces hold the chunks `first..first + count`, by how many chunks each holds, and how many chunks stand before them.
pub(crate) fn spanning(counts: impl IntoIterator<Item = usize>, first: usize, count: usize) -> (Range<usize>, usize) {
    let (mut at, mut before, end) = (0, 0, first.saturating_add(count));
    let mut span = 0..0;
    for (n, count) in counts.into_iter().enumerate() {
        let next = at + count;
        if first < next && at < end {
            if span.is_empty() {
                (span.start, before) = (n, at);
            }
            span.end = n + 1;
        }
        at = next;
    }
    (span, before)
}

/// The name under which `content`, a piece of the record, is kept: the same piece of the same record has the same one.
pub(crate) fn name(id: &RecordId, content: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(id.as_str().len() as u64).to_le_bytes()).update(id.as_str().as_bytes()).update(content);
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_cut_as_it_was_and_no_piece_is_too_long_but_for_one_long_chunk() {
        let chunks: Vec<Vec<u8>> = [3, 0, 4, 9, 1, 5].iter().map(|size| vec![*size; usize::from(*size)]).collect();

        let packed = pack(&chunks, 7);

        assert_eq!(packed.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [7, 9, 6]);
        let back: Vec<Vec<u8>> =
            packed.iter().flat_map(|(sizes, bytes)| cut(bytes, sizes.iter().copied()).expect("whole")).collect();
        assert_eq!(back, chunks);
        assert_eq!(cut(b"abc", [2, 2]), None, "shorter than its sizes say");
    }

    #[test]
    fn the_pieces_of_some_chunks_are_those_that_hold_one_of_them() {
        for first in 0..8 {
            for count in 0..8 {
                let (span, before) = spanning([2, 3, 1], first, count);
                let begins = [0, 2, 5, 6];
                let holds = |n: &usize| first < begins[n + 1] && begins[*n] < first + count;
                let wanted: Vec<usize> = (0..3).filter(holds).collect();
                assert_eq!(span.clone().collect::<Vec<_>>(), wanted, "{first} {count}");
                assert_eq!(before, wanted.first().map_or(0, |n| begins[*n]));
            }
        }
    }
}
