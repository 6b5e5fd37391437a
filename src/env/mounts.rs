//! The kernel's table of mounts: what is mounted where, and which file system a path lies on.
//!
//! Invariant: only the table is read, never a place in it, so nothing here can hang on a file system that does not answer.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Largest table that is read.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// File systems that a network, or the host of a virtual machine, serves; those in user space are told by their name.
const SERVED: [&str; 17] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "prl_fs",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
];

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where.
    pub place: PathBuf,
    /// The type of the file system.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

impl Mount {
    /// True if a network or another program answers for what is below, or does not.
    pub fn is_served(&self) -> bool {
        let kind = &*self.kind;
        SERVED.contains(&kind) || kind.starts_with("nfs") || kind == "fuse" || kind.starts_with("fuse.")
    }
}

/// All mounts, earlier ones first: later ones cover them.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let mut table = Vec::new();
    File::open("/proc/self/mountinfo")?.take(MAX_TABLE_BYTES).read_to_end(&mut table)?;
    Ok(read_table(&table))
}

/// The mount that an absolute path lies on, as it is written: links in it are not followed.
pub fn mount_of(path: &Path) -> io::Result<Option<Mount>> {
    Ok(find_mount_of(mounts()?, path))
}

fn find_mount_of(mounts: Vec<Mount>, path: &Path) -> Option<Mount> {
    let above = mounts.into_iter().filter(|mount| path.starts_with(&mount.place));
    // Of those at one place the last one.
    above.max_by_key(|mount| mount.place.components().count())
}

fn read_table(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let place = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
    // Optional fields end with a lone dash.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some(Mount { place, kind: text(rest.next()?), source: text(rest.next()?) })
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

    const LINES: &[u8] = b"20 1 254:0 / / rw - ext4 /dev/vda rw\n\
                  36 35 98:0 /m /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/x rw\n\
                  37 36 0:40 / /mnt/a\\040b ro,nosuid - fuse.larder larder ro\n\
                  38 35 0:41 / /mnt/nas rw - nfs4 nas:/export rw\nbroken line";

    fn at(path: &str) -> (String, bool) {
        let mount = find_mount_of(read_table(LINES), Path::new(path)).expect("the root at least");
        (mount.kind.clone(), mount.is_served())
    }

    #[test]
    fn the_table_is_read_with_its_escapes_and_the_last_line_of_a_place_counts() {
        let kinds: Vec<(PathBuf, String)> =
            read_table(LINES).into_iter().map(|mount| (mount.place, mount.kind)).collect();
        let expected = [("/", "ext4"), ("/mnt/a b", "ext4"), ("/mnt/a b", "fuse.larder"), ("/mnt/nas", "nfs4")];
        assert_eq!(kinds, expected.map(|(place, kind)| (PathBuf::from(place), kind.to_owned())));
        assert_eq!(at("/mnt/a b/c"), ("fuse.larder".to_owned(), true));
    }

    #[test]
    fn a_path_lies_on_what_is_mounted_nearest_above_it() {
        assert_eq!(at("/mnt/nas/x/sync.db"), ("nfs4".to_owned(), true));
        assert_eq!(at("/mnt/nas2/sync.db"), ("ext4".to_owned(), false));
        assert_eq!(at("/"), ("ext4".to_owned(), false));
    }
}
