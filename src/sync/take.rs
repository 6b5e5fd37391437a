//! Take: a file's bytes become segments of an open batch.
//!
//! Invariant: what is taken is what stood there while the facts were still those that were seen; a file that somebody writes is busy, and
//! one that may not be kept or cannot be read is refused, alone. Of what grows, whole lines are taken. Does not judge what it means.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use larder_patterns::{AdmittedPath, CONTENT_HEAD_BYTES, denied_content};

use super::observe::{base_stat, kind_of};
use super::place::stat_of;
use super::publish::OpenBatch;
use super::{Engine, QUIET_MS, Result, SyncError, io};
use crate::chunk::{AppendPlan, Chunker, CutKind, ResumeState, is_line_file, whole_max_bytes};
use crate::model::{Content, ContentHash, ContentKind, Manifest, RelPath, SegmentRef};
use crate::scan::{self, Entry, EntryKind, ScanError, Stat};
use crate::state::{Base, BaseStat};

/// How far back the end of the last complete line is looked for, in bytes.
const LINE_WINDOW_BYTES: u64 = 1 << 20;
/// How often a file that changes while it is read is tried again in one run.
const READ_TRIES: u32 = 3;

/// Memory that reading files takes again and again.
pub(super) struct Scratch {
    pub(super) chunker: Chunker,
    /// The start of a file, or all of a small one.
    pub(super) head: Vec<u8>,
}

/// A file that was read, its segments already in the open batch.
pub(super) struct Taken {
    pub(super) content: Content,
    pub(super) manifest: Manifest,
    pub(super) resume: Option<Vec<u8>>,
    pub(super) stat: BaseStat,
}

/// What came of reading a file.
pub(super) enum Reading {
    Taken(Box<Taken>),
    /// Gone or replaced by something else since it was listed; the next look tells.
    Vanished,
    /// Somebody is writing it.
    Busy,
    /// It may not be kept; with the sentence.
    Refused(String),
    /// The disk did not give it; with the sentence.
    Unread(String),
}

impl Engine {
    /// Reads a file into the open batch.
    pub(super) fn take(
        &mut self,
        entry: &Entry,
        base: Option<&Base>,
        scratch: &mut Scratch,
        open: &mut OpenBatch<'_>,
    ) -> Result<Reading> {
        if entry.kind == EntryKind::Link {
            return self.take_link(entry, open);
        }
        let mut expected = entry.stat;
        for _ in 0..READ_TRIES {
            match self.take_file(&entry.path, entry.kind, &expected, base, scratch, open) {
                Ok(Reading::Busy) => {}
                // One file that the disk does not give is no reason to leave the others; all else here has errors of its own.
                Err(SyncError::Io { source, .. }) => return Ok(Reading::Unread(format!("cannot be read: {source}"))),
                other => return other,
            }
            (self.env.pause)(QUIET_MS);
            match scan::stat(&self.root, entry.path.path()) {
                Ok(Some((_, stat))) => expected = stat,
                Ok(None) => return Ok(Reading::Vanished),
                Err(error) => return Ok(Reading::Unread(error.to_string())),
            }
        }
        Ok(Reading::Busy)
    }

    /// A file that came along with its folder holds what it held; `None` if the ledger does not have that, as of a merge.
    pub(super) fn take_along(&self, old: &Base, open: &mut OpenBatch<'_>) -> Result<Option<Taken>> {
        let Some(manifest) = self.index.manifest(&old.hash, old.stat.size)? else { return Ok(None) };
        for segment in &manifest.segments {
            if !self.use_segment(open, segment.0)? {
                return Ok(None);
            }
        }
        let content = Content { hash: old.hash, size: old.stat.size, kind: old.kind };
        Ok(Some(Taken { content, manifest, resume: old.resume.clone(), stat: old.stat }))
    }

    fn take_link(&mut self, entry: &Entry, open: &mut OpenBatch<'_>) -> Result<Reading> {
        let target = match scan::read_link(&self.root, entry.path.path()) {
            Ok(target) => target.into_bytes(),
            Err(ScanError::Changed { .. }) => return Ok(Reading::Vanished),
            Err(error) => return Ok(Reading::Unread(error.to_string())),
        };
        let content = Content { hash: ContentHash::of(&target), size: target.len() as u64, kind: ContentKind::Link };
        let manifest = Manifest::implied(content.hash, content.size);
        for segment in &manifest.segments {
            self.add_segment(open, segment.0, &target)?;
        }
        let stat = base_stat(&entry.stat);
        Ok(Reading::Taken(Box::new(Taken { content, manifest, resume: None, stat })))
    }

    fn take_file(
        &mut self,
        path: &AdmittedPath,
        kind: EntryKind,
        expected: &Stat,
        base: Option<&Base>,
        scratch: &mut Scratch,
        open: &mut OpenBatch<'_>,
    ) -> Result<Reading> {
        let mut file = match self.open_expected(path.path(), expected) {
            Ok(file) => file,
            Err(reading) => return Ok(*reading),
        };
        let Scratch { chunker, head } = scratch;
        // What is one segment whatever it holds is read whole; of the rest, what is judged before any of it is stored.
        let whole_bytes = whole_max_bytes(path.path());
        let is_small = expected.size <= whole_bytes as u64;
        head.resize(if is_small { expected.size as usize } else { CONTENT_HEAD_BYTES }, 0);
        let filled = read_head(&mut file, head).map_err(io("read a file"))?;
        if let Some(denied) = denied_content(&head[..filled]) {
            return Ok(Reading::Refused(denied.to_string()));
        }
        let growing = self.growing.contains(path.path());
        let limit = if growing { last_line_end(&mut file, expected.size)? } else { expected.size };
        let (manifest, resume) = if is_small && limit <= filled as u64 {
            self.take_small(path.path(), &head[..limit as usize], open)?
        } else {
            let end = if growing { limit } else { u64::MAX };
            let source = Limited { file: file.try_clone()?, position: 0, end };
            self.take_large(path.path(), source, base, chunker, open)?
        };
        let mut after = stat_of(&file).map_err(io("look at a file"))?;
        if growing && after.inode == expected.inode && after.size >= limit {
            // The size is that of what was taken, so that the rest is seen as a change.
            after = BaseStat { size: limit, ..base_stat(expected) };
        } else if after != base_stat(expected) || manifest.size != expected.size {
            return Ok(Reading::Busy);
        }
        let content = Content { hash: manifest.content, size: manifest.size, kind: kind_of(kind) };
        Ok(Reading::Taken(Box::new(Taken { content, manifest, resume, stat: after })))
    }

    /// Opens a file if it is still the one that was seen. The other answer is what to report.
    fn open_expected(&mut self, path: &RelPath, expected: &Stat) -> std::result::Result<File, Box<Reading>> {
        let opened = match self.folders.open(&self.root, path) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Err(Box::new(Reading::Vanished)),
            Err(error) => return Err(Box::new(Reading::Unread(error.to_string()))),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Box::new(Reading::Vanished)),
            Err(error) => return Err(Box::new(Reading::Unread(format!("cannot be read: {error}")))),
        };
        let grows =
            |stat: &BaseStat| self.growing.contains(path) && stat.inode == expected.inode && stat.size >= expected.size;
        match stat_of(&file) {
            Ok(stat) if stat == base_stat(expected) || grows(&stat) => Ok(file),
            Ok(_) => Err(Box::new(Reading::Busy)),
            Err(error) => Err(Box::new(Reading::Unread(format!("cannot be looked at: {error}")))),
        }
    }

    fn take_small(
        &self,
        path: &RelPath,
        bytes: &[u8],
        open: &mut OpenBatch<'_>,
    ) -> Result<(Manifest, Option<Vec<u8>>)> {
        let (content, resume) = if is_line_file(path) && !bytes.is_empty() {
            let mut hasher = crate::chunk::ContentHasher::new();
            hasher.update(bytes);
            (hasher.finish(), Some(hasher.state().to_bytes()))
        } else {
            (ContentHash::of(bytes), None)
        };
        let manifest = Manifest::implied(content, bytes.len() as u64);
        for segment in &manifest.segments {
            self.add_segment(open, segment.0, bytes)?;
        }
        Ok((manifest, resume))
    }

    fn take_large(
        &self,
        path: &RelPath,
        mut file: Limited,
        base: Option<&Base>,
        chunker: &mut Chunker,
        open: &mut OpenBatch<'_>,
    ) -> Result<(Manifest, Option<Vec<u8>>)> {
        let mut sink = |segment: SegmentRef, bytes: &[u8]| self.add_segment(open, segment.0, bytes);
        if is_line_file(path)
            && let Some((previous, state)) = self.grown_from(base)?
            && let Some(plan) = AppendPlan::new(&previous, &state)
            && let Ok(split) = plan.run(chunker, &mut file, &mut sink)?
        {
            return Ok((split.manifest, Some(split.resume.to_bytes())));
        }
        file.seek(SeekFrom::Start(0))?;
        let split = chunker.split(file, CutKind::of(path), &mut sink)?;
        let resume = is_line_file(path).then(|| split.resume.to_bytes());
        Ok((split.manifest, resume))
    }

    /// What a line file held before, if hashing can go on from there.
    fn grown_from(&self, base: Option<&Base>) -> Result<Option<(Manifest, ResumeState)>> {
        let Some(base) = base else { return Ok(None) };
        let Some(state) = base.resume.as_deref().and_then(|bytes| ResumeState::from_bytes(bytes).ok()) else {
            return Ok(None);
        };
        if self.index.purged(&base.hash)?.is_some() {
            // What it begins with stands nowhere any more: all of it is taken.
            return Ok(None);
        }
        let manifest = self.index.manifest(&base.hash, base.stat.size)?;
        Ok(manifest.map(|manifest| (manifest, state)))
    }
}

impl From<std::io::Error> for SyncError {
    fn from(source: std::io::Error) -> SyncError {
        SyncError::Io { doing: "read a file", source }
    }
}

/// A file that ends at `end`, wherever its writer is by now.
struct Limited {
    file: File,
    position: u64,
    end: u64,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let count = rustix::io::pread(&self.file, &mut buffer[..room], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Limited {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(by) => self.position.saturating_add_signed(by),
            SeekFrom::End(by) => self.end.saturating_add_signed(by),
        };
        Ok(self.position)
    }
}

/// Where the last complete line within the first `size` bytes ends; `size` if its end is out of sight.
fn last_line_end(file: &mut File, size: u64) -> Result<u64> {
    let window = size.min(LINE_WINDOW_BYTES);
    let mut bytes = vec![0; window as usize];
    let filled =
        rustix::io::pread(&*file, &mut bytes, size - window).map_err(|errno| io("read a file")(errno.into()))?;
    let end = bytes[..filled].iter().rposition(|byte| *byte == b'\n');
    Ok(end.map_or(size, |at| size - window + at as u64 + 1))
}

fn read_head(file: &mut File, head: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
