//! Why there is no usable config.
//!
//! Every variant names the file, variable or flag it is about and has a hint what to do. Prints nothing.

use std::io;
use std::path::PathBuf;

use super::problem::{Problems, shown_path};

/// Why there is no usable config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No `sync-config.json` in any folder from here up.
    #[error("find sync-config.json in {} or any folder above it", shown_path(.start))]
    NotFound {
        /// Where the search began.
        start: PathBuf,
    },
    /// Two content folders of one folder hold a config, and the folder itself none.
    #[error("choose between {} and {}: both could be meant", shown_path(.first), shown_path(.second))]
    Ambiguous {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The config was found by searching and belongs to another user of this machine.
    #[error("trust {}: it belongs to another user (uid {owner_uid})", shown_path(.file))]
    ForeignOwner {
        /// The config file.
        file: PathBuf,
        /// Whose it is.
        owner_uid: u32,
    },
    /// The name exists and is no regular file.
    #[error("read {}: not a regular file", shown_path(.file))]
    NotAFile {
        /// What was named.
        file: PathBuf,
    },
    /// The file system said no.
    #[error("read {}", shown_path(.file))]
    Read {
        /// The file or folder.
        file: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any config.
    #[error("read {}: more than {limit_bytes} bytes", shown_path(.file))]
    TooLarge {
        /// The config file.
        file: PathBuf,
        /// The bound.
        limit_bytes: u64,
    },
    /// The file is no text.
    #[error("read {}:{line}: the bytes there are not UTF-8", shown_path(.file))]
    NotUtf8 {
        /// The config file.
        file: PathBuf,
        /// The first line with such bytes, from 1.
        line: usize,
    },
    /// The file is read and something in it is wrong.
    #[error("use {0}")]
    Invalid(Problems),
    /// An environment variable or a flag holds something unusable.
    #[error("use {place}: {sentence}")]
    Value {
        /// `LARDER_INTERVAL_SECS` or `--interval-secs`.
        place: String,
        /// What is wrong, as one clause.
        sentence: String,
    },
    /// Consent could not be read or written.
    #[error("{action} {}", shown_path(.path))]
    Trust {
        /// `read consent at` or `keep consent at`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

impl ConfigError {
    /// What to do about it, as one sentence; problems in a file carry their own help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ConfigError::NotFound { .. } => {
                "run `larder init` in the project's folder, or name the file with `--config`"
            }
            ConfigError::Ambiguous { .. } => "name the file with `--config`, or keep only one of them",
            ConfigError::ForeignOwner { .. } => "if you mean it, name the file with `--config`",
            ConfigError::NotAFile { .. } => "put a regular file there",
            ConfigError::Read { .. } => "check that the file is there and that you may read it",
            ConfigError::TooLarge { .. } => "use fewer, wider patterns such as `docs/**/*.md`",
            ConfigError::NotUtf8 { .. } => "save the file as UTF-8",
            ConfigError::Invalid(_) => return None,
            ConfigError::Value { .. } => "correct it or unset it",
            ConfigError::Trust { .. } => "check that the folder is yours and writable",
        };
        Some(hint.to_owned())
    }

    /// The whole message for people: a drawing for problems in a file, else one line and the hint.
    pub fn render(&self, styled: bool) -> String {
        if let ConfigError::Invalid(problems) = self {
            return problems.render(styled);
        }
        let cause = std::error::Error::source(self).map(|source| format!(": {source}")).unwrap_or_default();
        let hint = self.hint().map(|hint| format!("\n  = help: {hint}")).unwrap_or_default();
        format!("error: cannot {self}{cause}{hint}")
    }
}
