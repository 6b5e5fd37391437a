//! The three channels a file can belong to, and the config key each is listed under.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who shares a file, and how its versions relate.
///
/// Ordered by precedence: when the lists of several channels cover one path, the lowest of them owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// All machines of one owner converge on one file.
    Private,
    /// All machines converge on one file.
    Shared,
    /// A file is (origin, path); versions of different origins never meet.
    Archive,
}

impl Channel {
    /// All channels, in order of precedence.
    pub const ALL: [Channel; 3] = [Channel::Private, Channel::Shared, Channel::Archive];

    /// Returns the channel's lower-case name, as it stands in formats and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Channel::Private => "private",
            Channel::Shared => "shared",
            Channel::Archive => "archive",
        }
    }

    /// Returns the key of `sync-config.json` that lists this channel's patterns.
    pub const fn config_key(self) -> &'static str {
        match self {
            Channel::Private => "privateSyncFilePatterns",
            Channel::Shared => "syncFilePatterns",
            Channel::Archive => "archiveFilePatterns",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is the name of no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("find a channel called {name:?}: it is private, shared or archive")]
pub struct UnknownChannel {
    /// What was given.
    pub name: String,
}

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(name: &str) -> Result<Channel, UnknownChannel> {
        Channel::ALL
            .into_iter()
            .find(|channel| channel.as_str() == name)
            .ok_or_else(|| UnknownChannel { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_precedes_shared_precedes_archive() {
        assert!(Channel::Private < Channel::Shared && Channel::Shared < Channel::Archive);
    }

    #[test]
    fn a_channel_reads_back_from_its_name() {
        for channel in Channel::ALL {
            assert_eq!(channel.to_string().parse(), Ok(channel));
        }
        assert!("Shared".parse::<Channel>().is_err());
    }
}
