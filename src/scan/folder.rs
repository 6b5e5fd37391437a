//! One folder: opened relative to its parent's handle, and its names in the order of a sorted walk.
//!
//! Invariant: an opened folder is no link and lies on the root's file system.

use std::cmp::Ordering;
use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use larder_patterns::RelPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::entry::Stat;
use super::root::Root;

/// Bytes of names asked from the kernel at once.
const NAMES_BUFFER_BYTES: usize = 32 * 1024;

/// Why a folder cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FolderError {
    /// Nothing stands there, or a file.
    Gone,
    /// A link stands there.
    Link,
    /// It is on another file system.
    OtherDevice,
    /// The system refuses.
    Refused(Errno),
}

impl From<Errno> for FolderError {
    fn from(errno: Errno) -> FolderError {
        match errno {
            Errno::NOENT | Errno::NOTDIR => FolderError::Gone,
            Errno::LOOP => FolderError::Link,
            Errno::XDEV => FolderError::OtherDevice,
            errno => FolderError::Refused(errno),
        }
    }
}

/// What a name stands for, as the folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    Folder,
    File,
    Link,
    Other(FileType),
}

impl NameKind {
    pub(super) fn of(file_type: FileType) -> NameKind {
        match file_type {
            FileType::Directory => NameKind::Folder,
            FileType::RegularFile => NameKind::File,
            FileType::Symlink => NameKind::Link,
            other => NameKind::Other(other),
        }
    }
}

/// An opened folder.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

const LISTING: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Folder {
    /// Opens the root itself, with a reading position of its own.
    pub(crate) fn open_root(root: &Root) -> Result<Folder, Errno> {
        let flags = LISTING | OFlags::CLOEXEC;
        rustix::fs::openat(root.handle(), c".", flags, Mode::empty()).map(Folder)
    }

    /// Opens a folder anywhere below the root.
    pub(crate) fn open_below(root: &Root, path: &RelPath) -> Result<Folder, FolderError> {
        let opened = match root.open_beneath(path.as_str(), LISTING) {
            Ok(opened) => opened,
            Err(Errno::NOTDIR) => return Err(gone_or_link(root, path)),
            Err(errno) => return Err(errno.into()),
        };
        Folder(opened).on_same_device(root)
    }

    /// Opens a folder by its name in this one.
    pub(crate) fn open_in(&self, root: &Root, name: &str) -> Result<Folder, FolderError> {
        let flags = LISTING | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOTDIR) => return Err(self.gone_or_link(name)),
            Err(errno) => return Err(errno.into()),
        };
        Folder(opened).on_same_device(root)
    }

    /// `O_DIRECTORY` answers alike for a file and, without following, for a link.
    fn gone_or_link(&self, name: &str) -> FolderError {
        match self.stat(name) {
            Ok(stat) if stat.file_type() == FileType::Symlink => FolderError::Link,
            _ => FolderError::Gone,
        }
    }

    fn on_same_device(self, root: &Root) -> Result<Folder, FolderError> {
        match root.is_same_device(self.0.as_fd()) {
            Ok(true) => Ok(self),
            Ok(false) => Err(FolderError::OtherDevice),
            Err(errno) => Err(FolderError::Refused(errno)),
        }
    }

    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Looks at one name without following or opening it.
    pub(crate) fn stat(&self, name: &str) -> Result<Stat, Errno> {
        let raw = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Stat::of(&raw))
    }

    /// Lists the names, sorted as their paths sort, in place of what `names` held; returns the error that cut the listing
    /// short, if one did.
    pub(crate) fn names(&self, names: &mut Names) -> Option<Errno> {
        names.clear();
        let mut buffer = std::mem::take(&mut names.buffer);
        buffer.reserve_exact(NAMES_BUFFER_BYTES);
        let cut = self.gather(names, buffer.spare_capacity_mut()).err();
        names.buffer = buffer;
        names.sort();
        cut
    }

    fn gather(&self, names: &mut Names, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
        let mut entries = RawDir::new(&self.0, buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // The folder was removed while it was open: it is empty.
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let mut file_type = entry.file_type();
            if file_type == FileType::Unknown {
                // Some file systems do not tell in the listing.
                match rustix::fs::statat(&self.0, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) => file_type = FileType::from_raw_mode(found.st_mode),
                    Err(_) => continue,
                }
            }
            names.push(name, NameKind::of(file_type));
        }
        Ok(())
    }

    /// Reads at most `limit` bytes of a regular file in this folder; none if it is anything else or unreadable.
    pub(super) fn read_small(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.0, name, flags, Mode::empty()).ok()?;
        read_regular(opened, limit)
    }
}

/// Reads at most `limit` bytes if the handle is a regular file's.
pub(super) fn read_regular(opened: OwnedFd, limit: u64) -> Option<Vec<u8>> {
    let found = rustix::fs::fstat(&opened).ok()?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(opened).take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// As [`Folder::gone_or_link`], for a path.
fn gone_or_link(root: &Root, path: &RelPath) -> FolderError {
    let found = root.open_beneath(path.as_str(), OFlags::PATH).and_then(rustix::fs::fstat);
    match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
        Ok(FileType::Symlink) | Err(Errno::LOOP) => FolderError::Link,
        _ => FolderError::Gone,
    }
}

/// The names of one folder; their memory serves the next folder.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize, NameKind)>,
    /// What the kernel fills; empty between two folders.
    buffer: Vec<u8>,
}

impl Names {
    fn push(&mut self, name: &[u8], kind: NameKind) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.spans.push((start, self.bytes.len(), kind));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    fn sort(&mut self) {
        let Names { bytes, spans, .. } = self;
        spans.sort_unstable_by(|one, other| {
            let key = |&(start, end, kind): &(usize, usize, NameKind)| (&bytes[start..end], kind == NameKind::Folder);
            in_path_order(key(one), key(other))
        });
    }

    /// Returns name and kind of each, in the order of their paths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], NameKind)> {
        self.spans.iter().map(|&(start, end, kind)| (&self.bytes[start..end], kind))
    }

    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.iter().any(|(found, kind)| kind == NameKind::File && found == name.as_bytes())
    }
}

/// Compares two names as the paths below them sort: a folder `a` stands for `a/..`, thus after `a.md` and before `a0`.
fn in_path_order((one, one_is_folder): (&[u8], bool), (other, other_is_folder): (&[u8], bool)) -> Ordering {
    let common = one.len().min(other.len());
    let next = |name: &[u8], is_folder: bool| match name.get(common) {
        Some(&byte) => Some(byte),
        None => is_folder.then_some(b'/'),
    };
    one[..common].cmp(&other[..common]).then_with(|| next(one, one_is_folder).cmp(&next(other, other_is_folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_the_paths_below_them() {
        let mut names = Names::default();
        for (name, kind) in [
            ("a0", NameKind::File),
            ("a", NameKind::Folder),
            ("a.md", NameKind::File),
            ("a-b", NameKind::Folder),
            ("aa", NameKind::Folder),
            ("", NameKind::File),
            ("a!", NameKind::File),
        ] {
            names.push(name.as_bytes(), kind);
        }

        names.sort();

        let found: Vec<&str> = names.iter().map(|(name, _)| std::str::from_utf8(name).expect("ascii")).collect();
        assert_eq!(found, ["", "a!", "a-b", "a.md", "a", "a0", "aa"]);
    }
}
