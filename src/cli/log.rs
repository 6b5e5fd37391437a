//! What goes on inside, on standard error: warnings, or as much as `LARDER_LOG` asks for.
//!
//! Invariant: only Larder's own words are told, whatever the level: libraries may log what was sent, tokens included.
//! Answers are none of it: they go through `out`.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// What is told if nobody asks for more.
const USUAL: LevelFilter = LevelFilter::WARN;

/// Begins to tell; once in a process.
pub(super) fn begin(asked: Option<&str>) {
    let level = asked.map_or(Some(USUAL), level_of);
    if level.is_none() {
        super::out::complain("warning: LARDER_LOG is none of off, error, warn, info, debug, trace; warn is used");
    }
    let level = level.unwrap_or(USUAL);
    let told = filter_fn(move |about| is_own(about.target()) && LevelFilter::from_level(*about.level()) <= level);
    let lines = fmt::layer().without_time().with_target(false).with_ansi(false).with_writer(std::io::stderr);
    // Somebody who runs commands in one process with tests has begun already.
    let _ = tracing_subscriber::registry().with(lines.with_filter(told.with_max_level_hint(level))).try_init();
}

fn level_of(asked: &str) -> Option<LevelFilter> {
    ["off", "error", "warn", "info", "debug", "trace"].contains(&asked).then(|| asked.parse().ok())?
}

fn is_own(target: &str) -> bool {
    let package = target.split("::").next().unwrap_or_default();
    ["larder", "larder_adapters", "larder_patterns"].contains(&package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_six_words() {
        assert_eq!(level_of("debug"), Some(LevelFilter::DEBUG));
        assert_eq!(level_of("off"), Some(LevelFilter::OFF));
        for other in ["", "DEBUG", "3", "larder=debug", "hyper"] {
            assert_eq!(level_of(other), None, "{other}");
        }
    }

    #[test]
    fn no_library_is_told_of() {
        assert!(is_own("larder") && is_own("larder::sync::record") && is_own("larder_adapters::postgres"));
        for other in ["hyper::client", "larderx", "reqwest", "object_store::aws", ""] {
            assert!(!is_own(other), "{other}");
        }
    }
}
