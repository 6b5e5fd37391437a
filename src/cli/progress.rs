//! Progress bars, on a terminal only.
//!
//! Invariant: one bar at a time; it is cleared before an answer is printed.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::sync::Progress;

const KNOWN: &str = "{msg} [{bar:30}] {pos}/{len}";
const UNKNOWN: &str = "{msg} {spinner} {pos}";
/// Steps that end sooner show nothing.
const SHOWN_AFTER: Duration = Duration::from_millis(250);

/// One bar for the step under way.
pub struct Bars {
    began: std::time::Instant,
    current: Mutex<Option<(&'static str, ProgressBar)>>,
}

impl Bars {
    /// Nothing to show yet.
    pub fn new() -> Bars {
        Bars { began: std::time::Instant::now(), current: Mutex::new(None) }
    }
}

impl Progress for Bars {
    fn at(&self, step: &'static str, done: u64, total: u64) {
        if self.began.elapsed() < SHOWN_AFTER {
            return;
        }
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
