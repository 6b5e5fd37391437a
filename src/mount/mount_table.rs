//! The kernel's table of mounts: what is mounted at a place, and whether it is a view.
//!
//! Invariant: only the table is read, never the place itself, so nothing here can hang on a dead daemon.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the table calls a view; when a helper mounts it, its type is `fuse.larder` as well.
pub(super) const MOUNT_NAME: &str = "larder";
/// Largest table that is read.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// One line of the mount table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MountLine {
    /// The type of the file system.
    pub(super) kind: String,
    source: String,
}

impl MountLine {
    /// True for a view of Larder's, alive or dead.
    pub(super) fn is_view(&self) -> bool {
        self.kind == format!("fuse.{MOUNT_NAME}") || (self.kind == "fuse" && self.source == MOUNT_NAME)
    }
}

/// What is mounted at `dir`, uncovered.
pub(super) fn topmost_mount(dir: &Path) -> io::Result<Option<MountLine>> {
    let mut table = Vec::new();
    File::open("/proc/self/mountinfo")?.take(MAX_TABLE_BYTES).read_to_end(&mut table)?;
    Ok(find_mount(&table, dir))
}

/// Where views are mounted, alive or dead.
pub(super) fn view_places() -> io::Result<Vec<PathBuf>> {
    let mut table = Vec::new();
    File::open("/proc/self/mountinfo")?.take(MAX_TABLE_BYTES).read_to_end(&mut table)?;
    Ok(find_views(&table))
}

fn find_views(table: &[u8]) -> Vec<PathBuf> {
    let views = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let (dir, mount) = parse_line(line)?;
        mount.is_view().then(|| PathBuf::from(OsString::from_vec(dir)))
    });
    views.collect()
}

/// The last mount at `dir`: later ones cover earlier ones.
fn find_mount(table: &[u8], dir: &Path) -> Option<MountLine> {
    let mut lines = table.rsplit(|byte| *byte == b'\n').filter_map(parse_line);
    lines.find(|(place, _)| place == dir.as_os_str().as_bytes()).map(|(_, mount)| mount)
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, MountLine)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let place = unescape(fields.nth(4)?);
    // Optional fields end with a lone dash.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some((place, MountLine { kind: text(rest.next()?), source: text(rest.next()?) }))
}

/// Undoes the table's `\ooo` for spaces, tabs, line ends and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field
            .get(at + 1..at + 4)
            .filter(|digits| field[at] == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                at += 4;
            }
            None => {
                bytes.push(field[at]);
                at += 1;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes_and_the_last_line_counts() {
        const LINES: &[u8] = b"36 35 98:0 /m /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/x rw\n\
                      37 36 0:40 / /mnt/a\\040b ro,nosuid - fuse.larder larder ro\n\
                      38 35 0:41 / /mnt/c ro - fuse larder ro\n\
                      39 35 0:42 / /mnt/d ro - fuse.sshfs host: rw\nbroken line";
        let table = |dir: &str| find_mount(LINES, Path::new(dir));

        assert_eq!(table("/mnt/a b").map(|line| line.is_view()), Some(true));
        assert_eq!(table("/mnt/c").map(|line| line.is_view()), Some(true));
        assert_eq!(table("/mnt/d").map(|line| line.is_view()), Some(false));
        assert_eq!(table("/mnt"), None);
        assert_eq!(find_views(LINES), [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/c")]);
    }
}
