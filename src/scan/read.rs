//! Reads contents: whole files proven unchanged, the known part of growing ones, and ranges.
//!
//! Invariant: what [`read`] hands on as a success is one state of the file: the facts were those expected before the first byte,
//! and still are after the last. Files are read, never mapped: a mapped file that is truncated kills the process.

use std::io;
use std::os::fd::OwnedFd;

use larder_patterns::{AdmittedPath, RelPath};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::entry::{EntryKind, Stat};
use super::error::ScanError;
use super::root::{Root, not_a_file, refused, stat};

/// Largest range read at once.
pub const MAX_RANGE_BYTES: usize = 64 << 20;
/// Bytes asked from the kernel at once.
const READ_BUFFER_BYTES: u64 = 256 * 1024;

/// A file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The facts after the last byte.
    pub stat_after: Stat,
    /// How many bytes were handed on.
    pub bytes: u64,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// The bytes; fewer than asked at the file's end.
    pub bytes: Vec<u8>,
    /// The facts after the last byte.
    pub stat_after: Stat,
}

/// How much the file may differ from what was expected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tolerance {
    Nothing,
    Growth,
}

/// Hands on the whole content, if the file is the one that was seen and stays so.
///
/// On any error the receiver has had a part that must be thrown away. Not atomic, no effect on the disk.
/// Errors: [`ScanError::Changed`] if the facts differ from `expected` before or after: wait and look again.
pub fn read(
    root: &Root,
    path: &AdmittedPath,
    expected: &Stat,
    max_bytes: u64,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<ReadOutcome, ScanError> {
    let reading = Reading::begin(root, path.path(), expected, max_bytes, Tolerance::Nothing)?;
    reading.run(sink)
}

/// Hands on the first `expected.size` bytes of a file that may be growing.
///
/// For line files that never rest. What was there may not have changed its inode nor shrunk; whether it was rewritten in place
/// is for the caller to find, by comparing with what it knows.
/// Errors: as [`read`].
pub fn read_growing(
    root: &Root,
    path: &AdmittedPath,
    expected: &Stat,
    max_bytes: u64,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<ReadOutcome, ScanError> {
    let reading = Reading::begin(root, path.path(), expected, max_bytes, Tolerance::Growth)?;
    reading.run(sink)
}

/// Reads at most `length` bytes from `offset` on.
///
/// Errors: [`ScanError::TooLarge`] for more than [`MAX_RANGE_BYTES`]; as [`read`], but no facts are expected.
pub fn read_range(root: &Root, path: &RelPath, offset: u64, length: usize) -> Result<RangeRead, ScanError> {
    if length > MAX_RANGE_BYTES {
        return Err(ScanError::TooLarge { path: path.shown(), limit_bytes: MAX_RANGE_BYTES as u64 });
    }
    let before = look(root, path)?;
    let (file, opened) = open(root, path)?;
    if !opened.same_inode(&before) {
        return Err(ScanError::Changed { path: path.shown() });
    }
    let available = usize::try_from(opened.size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length.min(available)];
    let mut filled = 0;
    while filled < bytes.len() {
        let at = offset.saturating_add(filled as u64);
        match rustix::io::pread(&file, &mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(refused("read", path, errno)),
        }
    }
    bytes.truncate(filled);
    let stat_after = facts(&file, path)?;
    Ok(RangeRead { bytes, stat_after })
}

struct Reading<'r> {
    path: &'r RelPath,
    file: OwnedFd,
    expected: Stat,
    tolerance: Tolerance,
}

impl Reading<'_> {
    fn begin<'r>(
        root: &Root,
        path: &'r RelPath,
        expected: &Stat,
        max_bytes: u64,
        tolerance: Tolerance,
    ) -> Result<Reading<'r>, ScanError> {
        if expected.size > max_bytes {
            return Err(ScanError::TooLarge { path: path.shown(), limit_bytes: max_bytes });
        }
        // Looked at before it is opened: opening a FIFO or device has effects.
        tolerance.require(expected, &look(root, path)?, path)?;
        let (file, opened) = open(root, path)?;
        tolerance.require(expected, &opened, path)?;
        Ok(Reading { path, file, expected: *expected, tolerance })
    }

    fn run(self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<ReadOutcome, ScanError> {
        let size = self.expected.size;
        // One byte more than expected, so that one read call sees both the content and its end.
        let capacity = size.saturating_add(1).min(READ_BUFFER_BYTES);
        let mut buffer = vec![0; usize::try_from(capacity).expect("a buffer fits into memory")];
        let mut bytes = 0u64;
        loop {
            let count = match rustix::io::read(&self.file, &mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(refused("read", self.path, errno)),
            };
            let count = self.allowed(bytes, count)?;
            sink(&buffer[..count]).map_err(|source| ScanError::Sink { path: self.path.shown(), source })?;
            bytes += count as u64;
            if self.tolerance == Tolerance::Growth && bytes == size {
                break;
            }
        }
        let stat_after = facts(&self.file, self.path)?;
        self.tolerance.require(&self.expected, &stat_after, self.path)?;
        if bytes != size {
            return Err(self.changed());
        }
        Ok(ReadOutcome { stat_after, bytes })
    }

    /// Returns how many of the bytes just read belong to what was expected.
    fn allowed(&self, before: u64, count: usize) -> Result<usize, ScanError> {
        let left = usize::try_from(self.expected.size - before).unwrap_or(usize::MAX);
        match self.tolerance {
            Tolerance::Nothing if count > left => Err(self.changed()),
            _ => Ok(count.min(left)),
        }
    }

    fn changed(&self) -> ScanError {
        ScanError::Changed { path: self.path.shown() }
    }
}

impl Tolerance {
    fn require(self, expected: &Stat, found: &Stat, path: &RelPath) -> Result<(), ScanError> {
        let holds = match self {
            Tolerance::Nothing => found.same_content(expected),
            Tolerance::Growth => found.same_inode(expected) && found.size >= expected.size,
        };
        if holds { Ok(()) } else { Err(ScanError::Changed { path: path.shown() }) }
    }
}

/// Looks at a regular file without opening it.
fn look(root: &Root, path: &RelPath) -> Result<Stat, ScanError> {
    match stat(root, path)? {
        Some((EntryKind::File { .. }, stat)) => Ok(stat),
        Some((EntryKind::Link, stat)) => {
            Err(ScanError::WrongKind { path: path.shown(), found: not_a_file(stat.file_type()) })
        }
        None => Err(ScanError::Gone { path: path.shown() }),
    }
}

fn open(root: &Root, path: &RelPath) -> Result<(OwnedFd, Stat), ScanError> {
    // NONBLOCK: should a FIFO have taken the file's place since the look, opening it does not wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match root.open_beneath(path.as_str(), flags | OFlags::NOATIME) {
        // Only a file's owner may leave its access time alone.
        Err(Errno::PERM) => root.open_beneath(path.as_str(), flags),
        outcome => outcome,
    };
    let file = file.map_err(|errno| refused("open", path, errno))?;
    let opened = facts(&file, path)?;
    if opened.file_type() != FileType::RegularFile {
        return Err(ScanError::WrongKind { path: path.shown(), found: not_a_file(opened.file_type()) });
    }
    Ok((file, opened))
}

fn facts(file: &OwnedFd, path: &RelPath) -> Result<Stat, ScanError> {
    let raw = rustix::fs::fstat(file).map_err(|errno| refused("stat", path, errno))?;
    Ok(Stat::of(&raw))
}
