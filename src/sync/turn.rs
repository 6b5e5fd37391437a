//! Whose turn it is: an exchange that has much to do leaves room for the edits that wait to be recorded.
//!
//! Invariant: who is in nobody's way goes on to the end, and so does a run that somebody asked for. Else an exchange that moved
//! something stops behind the artifact under way once its share of time is over, and the next run goes on from there: each of them comes
//! closer to its end, and whoever waits does so for one share and one artifact. Before the first look at the disk all that other machines say is taken in
//! whatever waits, as a first contact has to know it. Decides nothing about what is moved.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::exchange::{Direction, Phase, Turn};
use super::peers::PEER_LINE;
use super::{Asked, Engine, Result};
use crate::env::Clock;
use crate::transport::Deadlines;

/// The least that an exchange does at once.
const LEAST_MS: u64 = 2_000;
/// The most, where it took so long to find out what there is to do.
const MOST_MS: u64 = 10_000;

/// One share of time.
pub(super) struct Share {
    deadlines: Deadlines,
    clock: Arc<dyn Clock>,
    began_ms: u64,
    /// When something had been moved.
    moving_ms: Cell<Option<u64>>,
    has_met_disk: bool,
}

impl Share {
    /// What there is to do is known.
    pub(super) fn with_nothing_to_find_out(self) -> Share {
        self.moving_ms.set(Some(self.began_ms));
        self
    }

    fn is_used(&self) -> bool {
        let now_ms = self.clock.wall_ms();
        let moving_ms = self.moving_ms.get().unwrap_or(now_ms);
        self.moving_ms.set(Some(moving_ms));
        let look_ms = moving_ms.saturating_sub(self.began_ms);
        // A clock that was set back ends the share.
        let passed_ms = now_ms.checked_sub(self.began_ms);
        passed_ms.is_none_or(|passed| passed >= look_ms.saturating_add(look_ms.clamp(LEAST_MS, MOST_MS)))
    }

    /// True if others wait and the share is over.
    pub(super) fn is_over(&self) -> bool {
        // The time is looked at each time: the first look tells when something had been moved.
        self.is_used() & self.somebody_waits()
    }

    fn somebody_waits(&self) -> bool {
        self.deadlines.somebody_waits()
    }
}

impl Turn for Share {
    fn is_over(&self, phase: Phase) -> bool {
        (phase != Phase::Metadata || self.has_met_disk) && Share::is_over(self)
    }

    fn begins(&self, phase: Phase) {
        self.deadlines.set_has_to_hear(phase == Phase::Metadata && !self.has_met_disk);
    }

    fn has_time_to_look(&self) -> bool {
        let passed_ms = self.clock.wall_ms().checked_sub(self.began_ms);
        !self.has_met_disk || passed_ms.is_some_and(|passed| passed < LEAST_MS) || !self.somebody_waits()
    }
}

/// What was left for others' sake and is gone on with.
#[derive(Default)]
pub(super) struct LeftOver {
    /// Exchanges, by the journal's line and whether they give, and whether the place is at work on what was asked last: then it rings.
    exchanges: BTreeMap<(String, bool), bool>,
    /// Rows are still to be written.
    rows: bool,
    /// The run under way left something, and so came closer to its end.
    went_on: bool,
}

impl LeftOver {
    /// An exchange stops before its end.
    pub(super) fn leave(&mut self, line: &str, direction: Direction, is_at_work: bool) {
        self.went_on |= !is_at_work;
        self.exchanges.insert((line.to_owned(), direction == Direction::Push), is_at_work);
    }

    /// It is gone on with now, or cannot be.
    pub(super) fn take_up(&mut self, line: &str, direction: Direction) {
        self.exchanges.remove(&(line.to_owned(), direction == Direction::Push));
    }

    /// Rows are written to the last one now.
    pub(super) fn take_up_rows(&mut self) {
        self.rows = false;
    }

    /// Writing rows stops before the last one.
    pub(super) fn leave_rows(&mut self) {
        (self.rows, self.went_on) = (true, true);
    }

    /// Whether it did.
    pub(super) fn has_rows(&self) -> bool {
        self.rows
    }

    /// Forgets the exchanges of other lines than these.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.exchanges.retain(|(line, _), _| is_kept(line));
    }

    /// Those that can be gone on with at once: the lines, and whether they give.
    fn ready(&self) -> impl Iterator<Item = (&str, bool)> {
        self.exchanges.iter().filter(|(_, is_at_work)| !**is_at_work).map(|((line, gives), _)| (line.as_str(), *gives))
    }
}

impl Engine {
    /// A run begins.
    pub fn begin_turns(&mut self) {
        self.left_over.went_on = false;
    }

    /// What stopped for others' sake and can go on, as whom to ask in the run that does; `None` if nothing did, or if the last run was
    /// to go on (`went_on`) and could not. A place that is at work rings when it is done.
    pub fn left_over(&self, went_on: bool) -> Option<Asked> {
        let left = &self.left_over;
        if (left.ready().next().is_none() && !left.rows) || (went_on && !left.went_on) {
            return None;
        }
        let takes = || left.ready().filter(|(_, gives)| !gives).map(|(line, _)| line);
        let backend = takes().any(|line| !line.starts_with(PEER_LINE));
        let peers = takes().filter_map(|line| line.strip_prefix(PEER_LINE)).map(str::to_owned).collect();
        Some(Asked::These { backend, peers })
    }

    /// With whom there is more to exchange, as a sentence names them.
    pub fn left_over_with(&self) -> BTreeSet<String> {
        let lines = self.left_over.exchanges.keys().map(|(line, _)| line.strip_prefix(PEER_LINE));
        let rows = self.left_over.rows.then_some(None);
        let name = |peer: Option<&str>| peer.map_or("the backend".to_owned(), |name| format!("the peer {name}"));
        lines.chain(rows).map(name).collect()
    }

    /// True if something is still to be given to somebody who was not given all of it.
    pub fn has_to_give(&self) -> bool {
        self.left_over.exchanges.keys().any(|(_, gives)| *gives)
    }

    /// A share of time that begins now.
    pub(super) fn begin_share(&self) -> Result<Share> {
        Ok(Share {
            deadlines: self.deadlines.clone(),
            clock: self.env.clock.clone(),
            began_ms: self.now_ms(),
            moving_ms: Cell::new(None),
            has_met_disk: self.state.meta("contact_rules")?.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::ManualClock;
    use crate::transport::Cancel;

    const START_MS: u64 = 4_000_000_000_000;

    fn share(others_wait: bool, has_met_disk: bool) -> (Share, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(START_MS));
        let deadlines = Deadlines::default();
        deadlines.hurry(Arc::new(|_| ()), Arc::new(move || others_wait), Cancel::new());
        let share =
            Share { deadlines, clock: clock.clone(), began_ms: START_MS, moving_ms: Cell::new(None), has_met_disk };
        (share, clock)
    }

    /// When a share is over that found out in so much time what there is to do, from its beginning.
    fn length_ms(look_ms: u64) -> u64 {
        let (share, clock) = share(true, true);
        clock.advance(look_ms);
        (look_ms..)
            .step_by(500)
            .find(|_| {
                let is_over = share.is_over();
                clock.advance(500);
                is_over
            })
            .expect("it ends")
    }

    #[test]
    fn a_share_lasts_as_long_as_it_took_to_find_out_what_there_is_to_do_within_bounds() {
        assert_eq!([0, 1_000, 3_000, 60_000].map(length_ms), [2_000, 3_000, 6_000, 70_000]);
    }

    #[test]
    fn while_nobody_waits_it_has_no_end() {
        let (share, clock) = share(false, true);
        assert!(!share.is_over());
        clock.advance(3_600_000);

        assert!(!share.is_over());
        share.deadlines.begin_run(false, true);
        assert!(share.is_over(), "the run itself waits");
        share.deadlines.has_recorded();
        assert!(!share.is_over());
        share.deadlines.begin_run(true, true);
        assert!(!share.is_over(), "whoever asked for it waits for all of it");
    }

    #[test]
    fn what_others_say_is_taken_in_whole_before_the_disk_was_ever_looked_at() {
        for (has_met_disk, is_cut) in [(false, false), (true, true)] {
            let (share, clock) = share(true, has_met_disk);
            share.is_over();
            clock.advance(60_000);

            assert_eq!(Turn::is_over(&share, Phase::Metadata), is_cut);
            assert!(Turn::is_over(&share, Phase::Contents) && Turn::is_over(&share, Phase::Sending));
        }
    }

    #[test]
    fn there_is_little_time_for_what_is_lost_at_the_end_of_a_share_unless_all_of_it_is_needed() {
        for (others_wait, has_met_disk, has_time) in [(true, true, false), (false, true, true), (true, false, true)] {
            let (share, clock) = share(others_wait, has_met_disk);
            clock.advance(LEAST_MS - 1);
            assert!(share.has_time_to_look());
            clock.advance(1);

            assert_eq!(share.has_time_to_look(), has_time, "{others_wait} {has_met_disk}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_ends_it() {
        let (share, clock) = share(true, true);
        assert!(!share.is_over());
        clock.set(START_MS - 1);

        assert!(share.is_over());
    }
}
