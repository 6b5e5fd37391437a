//! Progress bars, on a terminal only, and one word where nothing moves.
//!
//! Invariant: one bar at a time; it is cleared before an answer is printed.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::sync::Progress;

const KNOWN: &str = "{msg} [{bar:30}] {pos}/{len}";
const UNKNOWN: &str = "{msg} {spinner} {pos}";
/// Steps that end sooner show nothing.
const SHOWN_AFTER: Duration = Duration::from_millis(250);

/// Whoever watches is told after this that work goes on although nothing moves.
const WORD_AFTER: Duration = Duration::from_secs(8);
const WORD: &str =
    "note: still at work; a place that does not answer is given up after a minute, and `larder status` names it then";

/// One bar for the step under way.
pub struct Bars {
    began: std::time::Instant,
    current: Mutex<Option<(&'static str, ProgressBar)>>,
    word: Option<Word>,
}

/// Says something once, if nothing moves for so long. Dropped, it says nothing any more.
struct Word(Sender<()>);

impl Word {
    fn new(after: Duration, say: impl FnOnce() + Send + 'static) -> Word {
        let (moved, heard) = channel();
        // A thread that cannot be had costs a word.
        let _ = std::thread::Builder::new().name("larder-word".to_owned()).spawn(move || {
            loop {
                match heard.recv_timeout(after) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => return say(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Word(moved)
    }

    fn moved(&self) {
        // It was said already.
        let _ = self.0.send(());
    }
}

impl Bars {
    /// Nothing to show yet.
    pub fn new() -> Bars {
        Bars { began: std::time::Instant::now(), current: Mutex::new(None), word: None }
    }

    /// For a command that somebody waits for.
    pub fn of_command() -> Bars {
        let mut bars = Bars::new();
        bars.word = Some(Word::new(WORD_AFTER, || super::out::complain(WORD)));
        bars
    }
}

impl Progress for Bars {
    fn at(&self, step: &'static str, done: u64, total: u64) {
        if self.began.elapsed() < SHOWN_AFTER {
            return;
        }
        self.word.iter().for_each(Word::moved);
        // A poisoned lock guards a drawing.
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if current.as_ref().is_none_or(|(shown, _)| *shown != step) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            *current = Some((step, bar_for(step, total)));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let current = self.current.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, bar)) = current.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar_for(step: &'static str, total: u64) -> ProgressBar {
    let template = if total == 0 { UNKNOWN } else { KNOWN };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_is_told_once_that_nothing_moves_and_not_after_the_end() {
        let (say, said) = channel();
        let word = Word::new(Duration::ZERO, move || say.send("still at work").expect("heard"));
        assert_eq!(said.recv(), Ok("still at work"));
        word.moved();
        assert!(said.recv().is_err(), "once");

        let (say, said) = channel::<()>();
        let word = Word::new(Duration::MAX, move || say.send(()).expect("heard"));
        word.moved();
        drop(word);
        assert!(said.recv().is_err(), "its thread ends without a word");
    }
}
