//! How long a place is waited for: by what else waits meanwhile, and by how the place answered before.
//!
//! Invariant: who is in haste waits for a place that hangs once; after that every try is a probe that costs a moment, until the place
//! answered. A place that is merely slow is no place that hangs: once an answer of it came late, it is given all its time, run by run
//! for as long as it goes on answering slowly, so that what it has to do gets done. What is much may be left to it
//! and goes on. Pure: reads no clock, knows no thread and no place.

use std::time::{Duration, Instant};

/// What waits beside whoever waits for a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Haste {
    /// Nothing: a place has all its time.
    #[default]
    None,
    /// Somebody asked for the place, and others' edits wait until they are recorded.
    Asked,
    /// Edits wait, and nobody asked.
    Unasked,
}

/// What somebody who asked waits for.
const ASKED: Duration = Duration::from_secs(10);
/// Longer than a place at the other end of the world takes, and short beside what a person calls a wait.
pub(super) const UNASKED: Duration = Duration::from_secs(2);
/// A place that hung is tried so long: one that is there again answers sooner as a rule, or else its answer is heard of later.
const PROBE: Duration = Duration::from_millis(100);
/// If nobody asked, many bytes have at most so much longer: how many there are is often known only as a bound.
const LONGEST_FOR_BYTES: Duration = Duration::from_secs(4);
/// What a request moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// At most so many bytes, and as a rule far fewer.
    AtMost(u64),
    /// So many bytes.
    Exactly(u64),
}

impl Load {
    pub fn bytes(self) -> u64 {
        let (Load::AtMost(bytes) | Load::Exactly(bytes)) = self;
        bytes
    }
}

impl From<u64> for Load {
    fn from(bytes: u64) -> Load {
        Load::AtMost(bytes)
    }
}

/// How long a place that ends everything by itself is at what was left to it, before it counts as one that hangs: a server that lets
/// a byte through now and then never ends by itself.
const LONGEST_AT_WORK: Duration = Duration::from_secs(5 * 60);
/// The slowest place that is waited for, in bytes a second.
pub(super) const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// What is known of a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Known {
    /// Nothing that speaks against it.
    #[default]
    Prompt,
    /// An answer came after it was given up: in the run of this number, or in the next one that asks, the place has all its time; and
    /// in the one after that if `is_still` so.
    Slow { run: Option<u64>, is_still: bool },
    /// After a long time, or when nobody waited any more, it had still not answered.
    Silent,
}

/// How a place answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Something, be it a refusal.
    Said,
    /// That it is out of reach.
    Nothing,
    /// That it may be asked, which can be the word of this machine alone.
    Opened,
}

/// How a place stands with this process.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What was asked, given up and is not done yet.
    owed: u32,
    /// Some of that was waited for as long as anybody ever would.
    had_all_its_time: bool,
    /// What came first of what it owes was left to it, as it is much, and until when that may take.
    at_work: Option<Instant>,
    known: Known,
}

impl Standing {
    /// True while something that was given up is not done: whoever asked now would wait behind it.
    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// How long to wait for what moves so many bytes, in the run of this number; `None` for as long as it takes.
    ///
    /// `usual` is the time of a place that nobody is in haste for; `None` if it ends everything by itself.
    pub fn allowed(
        &mut self,
        haste: Haste,
        run: u64,
        usual: Option<Duration>,
        load: impl Into<Load>,
    ) -> Option<Duration> {
        let load = load.into();
        let for_bytes = Duration::from_secs(load.bytes() / SLOWEST_BYTES_PER_SECOND);
        let usual = usual.map(|usual| usual + for_bytes);
        let hasty = match haste {
            Haste::None => return usual,
            Haste::Asked => ASKED + for_bytes,
            Haste::Unasked => match load {
                Load::AtMost(_) => UNASKED + for_bytes.min(LONGEST_FOR_BYTES),
                Load::Exactly(_) => UNASKED + for_bytes,
            },
        };
        match self.known {
            Known::Slow { run: given, is_still } if is_still || given.is_none_or(|given| given == run) => {
                // Each run has to show anew that it is.
                self.known = Known::Slow { run: Some(run), is_still: is_still && given == Some(run) };
                return usual;
            }
            Known::Slow { .. } => self.known = Known::Prompt,
            Known::Silent if haste == Haste::Unasked => return Some(usual.map_or(PROBE, |usual| usual.min(PROBE))),
            Known::Silent | Known::Prompt => {}
        }
        Some(usual.map_or(hasty, |usual| usual.min(hasty)))
    }

    /// Whether much can be left to it: it is no place that hangs.
    pub fn may_be_left(&self) -> bool {
        self.known != Known::Silent
    }

    /// What was asked goes on, as long as is allowed, and whoever asked does something else.
    pub fn left_at_work(&mut self, began: Instant, allowed: Option<Duration>) {
        self.owed += 1;
        self.at_work = Some(began + allowed.unwrap_or(LONGEST_AT_WORK));
    }

    /// How long it may still be at what was left to it; `None` if it is at nothing, or for too long.
    pub fn work_left(&self, now: Instant) -> Option<Duration> {
        self.at_work?.checked_duration_since(now)
    }

    /// Nobody waits any more for what was asked.
    pub fn given_up(&mut self) {
        self.owed += 1;
        self.had_all_its_time |= matches!(self.known, Known::Slow { .. });
    }

    /// It was answered at the very moment.
    pub fn not_given_up(&mut self) {
        self.owed -= 1;
        self.at_work = None;
        self.had_all_its_time &= self.owes();
    }

    /// What was given up is done. True if the place may be asked again and is worth a run at once.
    pub fn came(&mut self, answer: Answer) -> bool {
        let had_all_its_time = self.had_all_its_time;
        let was_at_work = self.at_work.is_some();
        self.not_given_up();
        if was_at_work && answer != Answer::Nothing {
            // Much takes its time: that says nothing of how fast it answers.
            return !self.owes();
        }
        self.known = match (answer, self.known) {
            (Answer::Nothing, _) => Known::Silent,
            // It was only probed, so that nothing is known of how fast it is.
            (Answer::Said | Answer::Opened, Known::Silent) => Known::Prompt,
            // There is no more of it.
            (Answer::Said | Answer::Opened, _) if had_all_its_time => Known::Prompt,
            (Answer::Said | Answer::Opened, _) => Known::Slow { run: None, is_still: false },
        };
        // For who needs more than all his time one run after the other would wait.
        !self.owes() && answer != Answer::Nothing && !had_all_its_time
    }

    /// It was answered in time.
    pub fn told(&mut self, answer: Answer, took: Duration) {
        let took_long = took >= UNASKED;
        match (answer, &mut self.known) {
            (Answer::Nothing, known) if took_long => *known = Known::Silent,
            (Answer::Said, known @ Known::Silent) => *known = Known::Prompt,
            (Answer::Said | Answer::Opened, Known::Slow { is_still, .. }) => *is_still |= took_long,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Option<Duration> = Some(Duration::from_secs(30));
    const MIB: u64 = 1 << 20;

    fn unasked(standing: &mut Standing, run: u64) -> Option<Duration> {
        standing.allowed(Haste::Unasked, run, USUAL, 0)
    }

    #[test]
    fn who_is_in_haste_waits_for_a_place_that_hangs_once_and_a_moment_from_then_on() {
        let mut place = Standing::default();
        assert_eq!(unasked(&mut place, 1), Some(UNASKED));
        place.given_up();
        assert!(place.owes());

        assert!(!place.came(Answer::Nothing), "it is not worth a run");
        for run in 2..10 {
            assert_eq!(unasked(&mut place, run), Some(PROBE));
            place.given_up();
            assert!(!place.came(Answer::Nothing));
        }
        assert_eq!(place.allowed(Haste::Asked, 10, USUAL, 0), Some(ASKED), "who asks does not probe");
        assert_eq!(place.allowed(Haste::None, 10, USUAL, 0), USUAL);

        assert_eq!(unasked(&mut place, 11), Some(PROBE));
        place.given_up();
        assert!(place.came(Answer::Said), "whoever waits for it is told");
        assert_eq!(unasked(&mut place, 12), Some(UNASKED), "a probe tells nothing of how fast it is");
    }

    #[test]
    fn a_place_that_answers_late_has_all_its_time_in_one_run_and_is_in_time_again_after_it() {
        let mut place = Standing::default();
        assert_eq!(unasked(&mut place, 1), Some(UNASKED));
        place.given_up();
        assert!(place.came(Answer::Said));

        let run: Vec<_> = (0..3).map(|_| unasked(&mut place, 2)).collect();

        assert_eq!(run, [USUAL; 3]);
        assert_eq!(unasked(&mut place, 3), Some(UNASKED));
    }

    #[test]
    fn a_place_that_goes_on_answering_slowly_has_its_time_until_a_run_in_which_it_does_not() {
        let mut place = Standing::default();
        place.given_up();
        assert!(place.came(Answer::Said));

        for run in 2..6 {
            assert_eq!((unasked(&mut place, run), unasked(&mut place, run)), (USUAL, USUAL));
            place.told(Answer::Opened, UNASKED);
            place.told(Answer::Said, UNASKED / 2);
        }
        assert_eq!(unasked(&mut place, 6), USUAL);
        place.told(Answer::Said, UNASKED / 2);
        assert_eq!(unasked(&mut place, 7), Some(UNASKED));

        place.given_up();
        assert!(place.came(Answer::Said));
        assert_eq!(unasked(&mut place, 8), USUAL);
        place.told(Answer::Nothing, UNASKED);
        assert_eq!(unasked(&mut place, 8), Some(PROBE), "it hangs now");
    }

    #[test]
    fn a_place_that_needs_more_than_all_its_time_begins_no_run_by_its_answer() {
        let mut place = Standing::default();
        assert_eq!(unasked(&mut place, 1), Some(UNASKED));
        place.given_up();
        assert!(place.came(Answer::Said));
        assert_eq!(unasked(&mut place, 2), USUAL);

        place.given_up();

        assert!(!place.came(Answer::Said), "it would be asked again and again, and everything else would wait");
        assert_eq!(unasked(&mut place, 3), Some(UNASKED));
    }

    #[test]
    fn one_that_is_out_of_reach_at_once_keeps_nobody_waiting_and_is_not_probed() {
        let mut place = Standing::default();

        place.told(Answer::Nothing, UNASKED / 2);
        assert_eq!(unasked(&mut place, 1), Some(UNASKED));
        place.told(Answer::Nothing, UNASKED);
        assert_eq!(unasked(&mut place, 2), Some(PROBE));
        place.told(Answer::Opened, Duration::ZERO);
        assert_eq!(unasked(&mut place, 2), Some(PROBE), "a bucket is opened without a word to it");
        place.told(Answer::Said, Duration::ZERO);
        assert_eq!(unasked(&mut place, 3), Some(UNASKED));
    }

    #[test]
    fn many_bytes_have_time_and_in_haste_a_little_of_it() {
        let mut place = Standing::default();

        assert_eq!(place.allowed(Haste::None, 1, USUAL, 64 * MIB), Some(Duration::from_secs(94)));
        assert_eq!(place.allowed(Haste::None, 1, None, 64 * MIB), None, "it ends by itself");
        assert_eq!(place.allowed(Haste::Unasked, 1, None, 64 * MIB), Some(UNASKED + LONGEST_FOR_BYTES));
        assert_eq!(place.allowed(Haste::Unasked, 1, USUAL, MIB), Some(Duration::from_secs(3)));
        let exactly = Load::Exactly(20 * MIB);
        assert_eq!(place.allowed(Haste::Unasked, 1, USUAL, exactly), Some(UNASKED + Duration::from_secs(20)));
        assert_eq!(
            place.allowed(Haste::Asked, 1, None, 64 * MIB),
            Some(Duration::from_secs(74)),
            "somebody waits for it"
        );
        let short = Some(Duration::from_millis(20));
        assert_eq!(place.allowed(Haste::Asked, 1, short, 0), short, "no haste makes a wait longer");
    }

    #[test]
    fn what_is_much_is_left_to_a_place_for_its_time_and_says_nothing_of_how_fast_it_answers() {
        let (mut place, began) = (Standing::default(), Instant::now());
        let minute = Duration::from_secs(60);
        let late = began + minute;
        assert!(place.may_be_left() && place.work_left(began).is_none());

        place.left_at_work(began, Some(minute));
        assert_eq!(place.work_left(began), Some(minute));
        assert_eq!(place.work_left(late + UNASKED), None, "now it hangs");
        assert!(place.owes() && place.came(Answer::Said), "its end is worth a run all the same");
        assert_eq!((place.owes(), unasked(&mut place, 1)), (false, Some(UNASKED)));

        place.left_at_work(began, Some(minute));
        assert!(!place.came(Answer::Nothing) && !place.may_be_left(), "a place that hangs is only probed");
    }

    #[test]
    fn nobody_waits_for_ever_behind_what_a_place_would_end_by_itself() {
        let (mut place, began) = (Standing::default(), Instant::now());
        assert_eq!(place.allowed(Haste::None, 1, None, MIB), None);

        place.left_at_work(began, None);

        assert_eq!(place.work_left(began), Some(LONGEST_AT_WORK));
        assert!(place.owes() && place.work_left(began + LONGEST_AT_WORK + UNASKED).is_none(), "now it hangs");
    }

    #[test]
    fn a_place_that_owes_several_answers_is_worth_a_run_once_the_last_one_came() {
        let mut place = Standing::default();
        place.given_up();
        place.given_up();
        place.given_up();
        place.not_given_up();

        assert!(!place.came(Answer::Said) && place.owes());
        assert!(place.came(Answer::Said) && !place.owes());
    }
}
