//! Says that a test did not run, and why; `scripts/test` shows it and CI fails on it.

use std::io::Write;

/// Says that `test` is skipped, on standard error and in the file that `LARDER_SKIP_LOG` names.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(log) = std::env::var_os("LARDER_SKIP_LOG") {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log);
        log.and_then(|mut log| log.write_all(line.as_bytes()))
            .expect("LARDER_SKIP_LOG names a file that can be written");
    }
}
