//! Who reads on from block to block, and what the kernel should read ahead of them.
//!
//! Invariant: a few packs are followed at once, so that readers of several origins' files do not make each other forget; nothing is
//! read ahead of somebody who only jumps; of each stretch the kernel is told once. Pure: no file is touched here.

use std::collections::VecDeque;
use std::ops::Range;

use crate::ledger::{ArtifactName, Place};

/// Followed at once; the one that rested longest is forgotten first.
const RUNS: usize = 8;
/// Bytes between one block and the next of somebody who goes on.
const MAX_GAP_BYTES: u64 = 256 << 10;
/// Somebody who went on so often is no accident.
const STEPS: u32 = 2;
/// How far the kernel reads ahead, in bytes.
const AHEAD_BYTES: u64 = 2 << 20;

/// Somebody who goes on in one pack.
struct Run {
    artifact: ArtifactName,
    /// Behind the last block.
    end: u64,
    /// Up to where the kernel was told to read.
    told: u64,
    /// How often it went on.
    steps: u32,
}

/// Those who read on.
#[derive(Default)]
pub(super) struct Runs(VecDeque<Run>);

impl Runs {
    /// Notes that a block is read, and says what is to be read ahead from here on, if anything is.
    pub fn step(&mut self, place: &Place) -> Option<Range<u64>> {
        let begin = place.block.offset;
        let end = begin + u64::from(place.block.stored_len);
        // Two threads that share one reader's requests may come in either order.
        let goes_on = |run: &Run| {
            run.artifact == place.artifact
                && begin <= run.end + MAX_GAP_BYTES
                && run.end.saturating_sub(AHEAD_BYTES) <= begin
        };
        let Some(at) = self.0.iter().position(goes_on) else {
            if self.0.len() >= RUNS {
                self.0.pop_front();
            }
            self.0.push_back(Run { artifact: place.artifact.clone(), end, told: end, steps: 0 });
            return None;
        };
        let mut run = self.0.remove(at)?;
        run.steps += u32::from(run.end < end);
        let has_gone_on = run.end < end && run.steps >= STEPS;
        run.end = run.end.max(end);
        let from = run.told.max(run.end);
        // By halves: each telling costs a look at the pack.
        let is_due = has_gone_on && from < run.end + AHEAD_BYTES / 2;
        let wanted = is_due.then(|| from..run.end + AHEAD_BYTES);
        if let Some(wanted) = &wanted {
            run.told = wanted.end;
        }
        self.0.push_back(run);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::BlockAddress;

    const BLOCK_BYTES: u32 = 64 << 10;

    fn place(pack: u8, block: u64) -> Place {
        let name = format!("shared/host-abcdef~1/packs/{}.pack", format!("{pack:02x}").repeat(32));
        let offset = 8 + block * u64::from(BLOCK_BYTES);
        Place {
            artifact: name.parse().expect("a name"),
            block: BlockAddress { offset, stored_len: BLOCK_BYTES, raw_len: 2 * BLOCK_BYTES },
            start: 0,
            len: 9,
        }
    }

    fn told(runs: &mut Runs, blocks: impl Iterator<Item = (u8, u64)>) -> Vec<(u8, Range<u64>)> {
        blocks.filter_map(|(pack, block)| runs.step(&place(pack, block)).map(|bytes| (pack, bytes))).collect()
    }

    #[test]
    fn packs_that_are_read_in_turn_are_each_read_ahead_in_long_pieces() {
        let blocks = (0..100).flat_map(|block| [(1, block), (2, block), (3, block)]);

        let told = told(&mut Runs::default(), blocks);

        for pack in 1..=3 {
            let own: Vec<&Range<u64>> = told.iter().filter(|(of, _)| *of == pack).map(|(_, bytes)| bytes).collect();
            let pack_bytes = 100 * u64::from(BLOCK_BYTES);
            assert!(own.len() as u64 <= 2 + pack_bytes / (AHEAD_BYTES / 2), "{} pieces", own.len());
            assert!(own.windows(2).all(|pair| pair[0].end == pair[1].start), "none twice, none left out: {own:?}");
            assert!(own.last().is_some_and(|last| last.end >= pack_bytes), "to the end");
        }
    }

    #[test]
    fn nothing_is_read_ahead_of_somebody_who_jumps() {
        let mut state = 7_u64;
        let mut dice = |limit: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % limit
        };
        let blocks: Vec<(u8, u64)> = (0..500).map(|_| (dice(10) as u8, dice(250))).collect();

        assert_eq!(told(&mut Runs::default(), blocks.into_iter()), []);
    }

    #[test]
    fn two_threads_that_overtake_each_other_are_one_reader() {
        let blocks = (0..50).flat_map(|pair| [(1, 2 * pair + 1), (1, 2 * pair)]);

        let told = told(&mut Runs::default(), blocks);

        assert!(told.windows(2).all(|pair| pair[0].1.end == pair[1].1.start), "{told:?}");
        assert!(told.len() as u64 <= 2 + 100 * u64::from(BLOCK_BYTES) / (AHEAD_BYTES / 2), "{told:?}");
    }
}
