//! What one name on the disk is: its kind and the facts by which a change is noticed without opening it.

use larder_patterns::AdmittedPath;
use rustix::fs::FileType;

/// Clock ticks of the kernel and coarse file systems hide changes that follow each other faster than this.
const TICK_NS: i64 = 20_000_000;
/// File systems that keep whole seconds (FAT: every second one) hide changes for this long.
const COARSE_NS: i64 = 2_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// The facts of an inode that change when its content may have.
///
/// Units: bytes; nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stat {
    /// Size in bytes; of a link, the length of its target.
    pub size: u64,
    /// Time of the last change of the content, as programs set it.
    pub mtime_ns: i64,
    /// Time of the last change of content or inode, as the kernel set it.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
    /// Type and permission bits.
    pub mode: u32,
}

impl Stat {
    /// Tells whether two looks saw one unchanged file: equal size, mtime, ctime, inode and device.
    ///
    /// Permission bits are left out: a change of them moves the ctime.
    pub fn same_content(&self, other: &Stat) -> bool {
        (self.size, self.mtime_ns, self.ctime_ns) == (other.size, other.mtime_ns, other.ctime_ns)
            && self.same_inode(other)
    }

    /// Tells whether two looks saw one inode.
    pub fn same_inode(&self, other: &Stat) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }

    /// Tells whether a later change could hide behind these facts, seen at `observed_ns` of the wall clock.
    ///
    /// A file that changes twice within one tick of its file system's clock has the same times after both. Facts that are
    /// this young are no proof that the content is still the one that was read: look again before trusting them.
    pub fn is_racy(&self, observed_ns: i64) -> bool {
        let coarse = self.mtime_ns % SECOND_NS == 0 && self.ctime_ns % SECOND_NS == 0;
        let tick_ns = if coarse { COARSE_NS } else { TICK_NS };
        let newest_ns = self.mtime_ns.max(self.ctime_ns);
        newest_ns >= observed_ns.saturating_sub(tick_ns)
    }

    pub(super) fn of(raw: &rustix::fs::Stat) -> Stat {
        Stat {
            size: u64::try_from(raw.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(raw.st_mtime, raw.st_mtime_nsec),
            ctime_ns: nanoseconds(raw.st_ctime, raw.st_ctime_nsec),
            inode: raw.st_ino,
            device: raw.st_dev,
            mode: raw.st_mode,
        }
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

/// Joins seconds and nanoseconds; saturates where an absurd time (year 2262 and beyond) does not fit.
fn nanoseconds(seconds: impl TryInto<i64>, nanos: impl TryInto<i64>) -> i64 {
    let seconds = seconds.try_into().unwrap_or(0);
    let nanos = nanos.try_into().unwrap_or(0);
    seconds.saturating_mul(SECOND_NS).saturating_add(nanos)
}

/// What stands at a path, among the things that have versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its owner may execute it.
        exec: bool,
    },
    /// A symbolic link, as itself.
    Link,
}

impl EntryKind {
    /// Returns the kind that has versions; none for folders, FIFOs, sockets and devices.
    pub(super) fn of(stat: &Stat) -> Option<EntryKind> {
        const OWNER_EXECUTES: u32 = 0o100;
        match stat.file_type() {
            FileType::RegularFile => Some(EntryKind::File { exec: stat.mode & OWNER_EXECUTES != 0 }),
            FileType::Symlink => Some(EntryKind::Link),
            _ => None,
        }
    }
}

/// One admitted file or link as a walk saw it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it stands.
    pub path: AdmittedPath,
    /// What it is.
    pub kind: EntryKind,
    /// The facts by which a later change is noticed.
    pub stat: Stat,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mtime_ns: i64, ctime_ns: i64) -> Stat {
        Stat { size: 1, mtime_ns, ctime_ns, inode: 2, device: 3, mode: 0o100_644 }
    }

    #[test]
    fn facts_younger_than_a_clock_tick_prove_nothing() {
        let now = 1_700_000_000_500_000_000;
        for (mtime_ns, ctime_ns, racy) in [
            (now, now, true),
            (now - TICK_NS, now - TICK_NS, true),
            (now - TICK_NS - 1, now - TICK_NS - 1, false),
            (1, now - 5, true),
            (now + SECOND_NS, now + SECOND_NS, true),
            (1_699_999_999_000_000_000, 1_699_999_999_000_000_000, true),
            (1_699_999_998_000_000_000, 1_699_999_998_000_000_000, false),
            (1_600_000_000_000_000_000, now - SECOND_NS - 1, false),
        ] {
            assert_eq!(stat(mtime_ns, ctime_ns).is_racy(now), racy, "{mtime_ns} {ctime_ns}");
        }
    }

    #[test]
    fn absurd_times_saturate() {
        assert_eq!(nanoseconds(i64::MAX, 5), i64::MAX);
        assert_eq!(nanoseconds(i64::MIN, 0), i64::MIN);
        assert_eq!(nanoseconds(1, 5), 1_000_000_005);
    }
}
