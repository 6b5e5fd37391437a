//! How well a root is watched, in words for `status`.

use std::fmt;

use larder_patterns::RelPath;

/// Most polled trees that are named one by one; more make the whole root polled.
pub(super) const MAX_POLLED_TREES: usize = 64;
/// Trees named in a report.
const NAMED_TREES: usize = 3;

/// Why a tree is polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PollReason {
    /// The user's watches are used up.
    WatchLimit,
    /// The user's watching programs are too many.
    InstanceLimit,
    /// Other machines change files on this file system, and the kernel does not hear of it.
    NetworkFileSystem {
        /// Its name.
        name: &'static str,
    },
    /// The system refuses.
    Failed {
        /// What it said.
        error: String,
    },
}

impl PollReason {
    /// Returns what a person can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            PollReason::WatchLimit => {
                Some("raise it: sysctl fs.inotify.max_user_watches=1048576 (and in /etc/sysctl.d to keep it)")
            }
            PollReason::InstanceLimit => {
                Some("raise it: sysctl fs.inotify.max_user_instances=1024 (and in /etc/sysctl.d to keep it)")
            }
            PollReason::NetworkFileSystem { .. } | PollReason::Failed { .. } => None,
        }
    }
}

impl fmt::Display for PollReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PollReason::WatchLimit => f.write_str("fs.inotify.max_user_watches is used up"),
            PollReason::InstanceLimit => f.write_str("fs.inotify.max_user_instances is used up"),
            PollReason::NetworkFileSystem { name } => {
                write!(f, "{name} does not tell what other machines change")
            }
            PollReason::Failed { error } => write!(f, "watching failed: {error}"),
        }
    }
}

/// A tree that is looked at from time to time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Polled {
    /// Its top; none for the root.
    pub tree: Option<RelPath>,
    /// Why it is not (or not only) watched.
    pub reason: PollReason,
}

/// How a root is watched right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// How many folders have a watch.
    pub watched_dirs: usize,
    /// What is polled.
    pub polled: Vec<Polled>,
    /// Folders that may not be read; watched as soon as they may.
    pub unreadable: Vec<RelPath>,
    /// How often polled trees are looked at.
    pub poll_ms: u64,
    /// How often the kernel's queue overflowed, each followed by a rescan.
    pub overflows: u64,
}

impl Mode {
    /// Tells whether every change is heard of.
    pub fn is_complete(&self) -> bool {
        self.polled.is_empty() && self.unreadable.is_empty()
    }

    /// Returns one sentence for each fact that a person should know; empty if all is well.
    pub fn report(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let mut reasons: Vec<&PollReason> = Vec::new();
        for polled in &self.polled {
            if !reasons.contains(&&polled.reason) {
                reasons.push(&polled.reason);
            }
        }
        for reason in reasons {
            sentences.push(self.sentence(reason));
        }
        if !self.unreadable.is_empty() {
            let places = self.unreadable.iter().map(RelPath::shown).collect();
            let named = enumerate(places);
            sentences.push(format!("{named} cannot be read and thus not be watched"));
        }
        if self.overflows > 0 {
            let times = self.overflows;
            sentences.push(format!(
                "the kernel's event queue overflowed {times} times, each time everything was looked at again"
            ));
        }
        sentences
    }

    fn sentence(&self, reason: &PollReason) -> String {
        let trees = self.polled.iter().filter(|polled| polled.reason == *reason);
        let places = trees
            .map(|polled| match &polled.tree {
                Some(tree) => tree.shown(),
                None => "the whole project".to_owned(),
            })
            .collect();
        let seconds = self.poll_ms.div_ceil(1000);
        let named = enumerate(places);
        let advice = reason.advice().map_or(String::new(), |advice| format!("; {advice}"));
        format!("{named}: looked at every {seconds} s, because {reason}{advice}")
    }
}

fn enumerate(mut places: Vec<String>) -> String {
    let beyond = places.len().saturating_sub(NAMED_TREES);
    places.truncate(NAMED_TREES);
    let named = places.join(", ");
    if beyond > 0 { format!("{named} and {beyond} more") } else { named }
}

/// Returns the name of a file system that other machines change unheard, from its magic number.
pub(super) fn network_file_system(magic: i64) -> Option<&'static str> {
    // From linux/magic.h and the file systems' own sources; FUSE is sshfs and virtiofs more often than not.
    match magic & 0xffff_ffff {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x00c3_6400 => Some("Ceph"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x6573_5546 => Some("FUSE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Option<RelPath> {
        Some(RelPath::parse(text).expect("a path"))
    }

    #[test]
    fn a_report_names_place_reason_and_remedy() {
        let mut mode = Mode { poll_ms: 10_000, ..Mode::default() };
        assert!(mode.is_complete() && mode.report().is_empty());

        for name in ["a", "b", "c", "d", "e"] {
            mode.polled.push(Polled { tree: tree(name), reason: PollReason::WatchLimit });
        }
        mode.polled.push(Polled { tree: None, reason: PollReason::NetworkFileSystem { name: "NFS" } });
        mode.unreadable.extend(tree("x\u{1b}"));
        mode.overflows = 2;

        assert_eq!(
            mode.report(),
            [
                "a, b, c and 2 more: looked at every 10 s, because fs.inotify.max_user_watches is used up; raise it: \
                 sysctl fs.inotify.max_user_watches=1048576 (and in /etc/sysctl.d to keep it)",
                "the whole project: looked at every 10 s, because NFS does not tell what other machines change",
                "x\\u{1b} cannot be read and thus not be watched",
                "the kernel's event queue overflowed 2 times, each time everything was looked at again",
            ]
        );
        assert!(!mode.is_complete());
    }

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        assert_eq!(network_file_system(0x6969), Some("NFS"));
        assert_eq!(network_file_system(0xff53_4d42u32 as i32 as i64), Some("SMB"));
        assert_eq!(network_file_system(0xef53), None);
    }
}
