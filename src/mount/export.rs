//! The view as plain files, for machines that cannot mount: one folder of it, written once.
//!
//! Invariant: only an empty or absent folder is written to, every step through handles of folders that were opened without following
//! links, and nothing that exists is opened for writing. Links that lead out of the tree, denied paths, names that the disk cannot
//! hold and contents that are not here are named and left out; the rest goes on. Everything is on the disk when it returns.
//! Deliberately not here: keeping the folder up to date; it is a copy, and nothing remembers it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_patterns::{RelPath, denied};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::catalog::{Catalog, CatalogError};
use super::listing::Entry;
use super::node::NodeId;
use super::view::{NodeKind, View, ViewError};
use crate::model::{ContentHash, ContentKind};
use crate::scan::check_link_target;

/// Bytes written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Contents that are remembered by a file that holds them, to be cloned from.
const MAX_REMEMBERED: usize = 100_000;
/// Paths that are named as left out; beyond, they are counted.
const MAX_NAMED: usize = 1_000;

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is something in the folder.
    #[error("write the tree to {dir}: the folder is not empty", dir = dir.display())]
    NotEmpty {
        /// Which.
        dir: PathBuf,
    },
    /// The view has no answer.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The disk refused what everything else needs.
    #[error("write the tree to {path}: {source}", path = path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One path that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// Which, below the folder.
    pub path: String,
    /// Why.
    pub why: String,
    /// True if its bytes are not here yet: a later try may write it.
    pub is_absent: bool,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Files and links.
    pub files: u64,
    /// Folders, without the one that was named.
    pub folders: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files that share their bytes on the disk with another one.
    pub cloned: u64,
    /// What was not written, at most 1,000.
    pub left_out: Vec<LeftOut>,
    /// How many were not.
    pub left_out_count: u64,
}

/// Writes everything below `top` to `dir`; with `is_dry` only says what it would write.
///
/// `source` is where the project's own files stand: one that holds the very bytes is cloned, where the file system can.
pub fn export_tree<C: Catalog>(
    view: &View<C>,
    top: NodeId,
    dir: &Path,
    source: Option<&Path>,
    is_dry: bool,
) -> Result<Exported, ExportError> {
    let disk = |source: io::Error| ExportError::Disk { path: dir.to_owned(), source };
    let filled = || ExportError::NotEmpty { dir: dir.to_owned() };
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(filled()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(error)),
        _ => {}
    }
    let mut writer = Writer {
        view,
        done: Exported::default(),
        can_clone: true,
        clones: HashMap::new(),
        project: source.and_then(|root| open_folder(CWD, root).ok()),
    };
    if is_dry {
        writer.folder(None, top, "")?;
        return Ok(writer.done);
    }
    std::fs::create_dir_all(dir).map_err(disk)?;
    let handle = open_folder(CWD, dir).map_err(|errno| disk(errno.into()))?;
    // A link may have led elsewhere than where was looked.
    let mut listing = rustix::fs::Dir::read_from(&handle).map_err(|errno| disk(errno.into()))?;
    let is_filled = listing.any(|entry| entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")));
    if is_filled {
        return Err(filled());
    }
    writer.folder(Some(&handle), top, "")?;
    // One wait for everything, instead of one for each file.
    rustix::fs::syncfs(&handle).map_err(|errno| disk(errno.into()))?;
    Ok(writer.done)
}

fn open_folder(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Why one path was not written.
enum Skip {
    Why(String),
    Absent(String),
    /// Nothing else can be written either.
    Stop(ExportError),
}

impl From<Errno> for Skip {
    fn from(errno: Errno) -> Skip {
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO => {
                Skip::Stop(ExportError::Disk { path: PathBuf::new(), source: errno.into() })
            }
            other => Skip::Why(io::Error::from(other).to_string()),
        }
    }
}

impl From<io::Error> for Skip {
    fn from(error: io::Error) -> Skip {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Skip::Why(error.to_string()),
        }
    }
}

impl From<ViewError> for Skip {
    fn from(error: ViewError) -> Skip {
        match error {
            ViewError::Catalog(CatalogError::Absent { .. }) => Skip::Absent(error.to_string()),
            other => Skip::Why(other.to_string()),
        }
    }
}

struct Writer<'a, C> {
    view: &'a View<C>,
    done: Exported,
    can_clone: bool,
    /// A written file for each content.
    clones: HashMap<ContentHash, String>,
    project: Option<OwnedFd>,
}

impl<C: Catalog> Writer<'_, C> {
    /// Recursion is bounded by the depth of a path.
    fn folder(&mut self, into: Option<&OwnedFd>, node: NodeId, below: &str) -> Result<(), ExportError> {
        for entry in self.view.entries(node)? {
            let path = if below.is_empty() { entry.name.clone() } else { format!("{below}/{}", entry.name) };
            match self.entry(into, &entry, &path) {
                Ok(()) => {}
                Err(Skip::Stop(ExportError::Disk { source, .. })) => {
                    return Err(ExportError::Disk { path: PathBuf::from(path), source });
                }
                Err(Skip::Stop(error)) => return Err(error),
                Err(Skip::Why(why)) => self.leave_out(path, why, false),
                Err(Skip::Absent(why)) => self.leave_out(path, why, true),
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: String, why: String, is_absent: bool) {
        self.done.left_out_count += 1;
        if self.done.left_out.len() < MAX_NAMED {
            self.done.left_out.push(LeftOut { path, why, is_absent });
        }
    }

    fn entry(&mut self, into: Option<&OwnedFd>, entry: &Entry, path: &str) -> Result<(), Skip> {
        let parsed = RelPath::parse(path).map_err(|error| Skip::Why(error.to_string()))?;
        if let Some(rule) = denied(&parsed) {
            return Err(Skip::Why(format!("it is on the denylist ({rule})")));
        }
        match entry.node.attr.kind {
            NodeKind::Folder => {
                let made = into.map(|into| make_folder(into, &entry.name)).transpose()?;
                self.done.folders += 1;
                self.folder(made.as_ref(), entry.node.id, path).map_err(Skip::Stop)
            }
            NodeKind::Link => {
                let target = self.view.read_link(entry.node.id)?;
                let target = check_link_target(&parsed, &target).map_err(|problem| Skip::Why(problem.to_string()))?;
                if let Some(into) = into {
                    rustix::fs::symlinkat(target, into, entry.name.as_str())?;
                }
                self.done.files += 1;
                Ok(())
            }
            NodeKind::File => self.file(into, entry, path),
        }
    }

    fn file(&mut self, into: Option<&OwnedFd>, entry: &Entry, path: &str) -> Result<(), Skip> {
        let row = self.view.file(entry.node.id)?;
        if let Some(into) = into {
            let mode = if row.content.kind == (ContentKind::File { exec: true }) { 0o777 } else { 0o666 };
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(into, entry.name.as_str(), flags, Mode::from_raw_mode(mode))?;
            let mut file = File::from(handle);
            let filled = self.fill(&mut file, entry, path, row.content.hash);
            if let Err(skip) = filled {
                // Half a file is no file.
                rustix::fs::unlinkat(into, entry.name.as_str(), AtFlags::empty())?;
                return Err(skip);
            }
            let time = Duration::from_millis(entry.node.attr.mtime_ms);
            let time =
                Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
            rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        } else if row.content.size > 0 {
            // What is not here at all would be left out.
            self.view.read(entry.node.id, 0, 1)?;
        }
        self.done.files += 1;
        self.done.bytes += entry.node.attr.size;
        Ok(())
    }

    fn fill(&mut self, file: &mut File, entry: &Entry, path: &str, content: ContentHash) -> Result<(), Skip> {
        let size = entry.node.attr.size;
        if size > 0 && self.clone_into(file, path, content, size) {
            self.done.cloned += 1;
            return Ok(());
        }
        let mut offset = 0;
        while offset < size {
            let piece = self.view.read(entry.node.id, offset, PIECE_BYTES)?;
            file.write_all(&piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// True if the file holds the bytes now, shared with one of the project's own that was proven to hold them.
    fn clone_into(&mut self, file: &mut File, path: &str, content: ContentHash, size: u64) -> bool {
        if !self.can_clone || size == 0 {
            return false;
        }
        let known = self.clones.get(&content).cloned();
        let from = known.as_deref().unwrap_or(path);
        let Some(source) = self.project.as_ref().and_then(|root| open_below(root, from)) else { return false };
        if source.metadata().map_or(true, |facts| facts.len() != size) {
            return false;
        }
        match rustix::fs::ioctl_ficlone(&*file, &source) {
            Ok(()) => {}
            Err(Errno::INVAL) => return false,
            Err(_) => {
                self.can_clone = false;
                return false;
            }
        }
        // What was cloned is what is proven: somebody may be writing to the other one.
        if hash_of(file).is_ok_and(|hash| hash == content) {
            if self.clones.len() < MAX_REMEMBERED {
                self.clones.insert(content, from.to_owned());
            }
            return true;
        }
        let _ = file.set_len(0);
        false
    }
}

/// Recreated by name only if it is not there: the tree is new.
fn make_folder(into: &OwnedFd, name: &str) -> Result<OwnedFd, Skip> {
    rustix::fs::mkdirat(into, name, Mode::from_raw_mode(0o777))?;
    Ok(open_folder(into, name)?)
}

/// One of the project's own files, without following a link at any component.
fn open_below(root: &OwnedFd, path: &str) -> Option<File> {
    let (folders, name) = path.rsplit_once('/').map_or((None, path), |(folders, name)| (Some(folders), name));
    let mut at = rustix::io::dup(root).ok()?;
    for folder in folders.into_iter().flat_map(|folders| folders.split('/')) {
        at = open_folder(&at, folder).ok()?;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(&at, name, flags, Mode::empty()).ok()?);
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(file)
}

fn hash_of(file: &File) -> io::Result<ContentHash> {
    use std::io::Seek;
    let mut hasher = blake3::Hasher::new();
    let mut reader = file;
    reader.rewind()?;
    io::copy(&mut reader, &mut hasher)?;
    Ok(ContentHash(crate::model::Hash::from_bytes(*hasher.finalize().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{MemoryCatalog, MemoryPut, Top};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const WALL_MS: u64 = 1_784_034_732_045;

    fn view(puts: &[MemoryPut<'_>]) -> View<MemoryCatalog> {
        let view = View::new(MemoryCatalog::new());
        for put in puts {
            view.catalog().put(put);
        }
        view
    }

    fn export(view: &View<MemoryCatalog>, dir: &Path) -> Result<Exported, ExportError> {
        let top = view.top(&Top::Merged).expect("a folder");
        export_tree(view, top.id, dir, None, false)
    }

    fn put<'a>(path: &'a str, bytes: &'a [u8], kind: ContentKind) -> MemoryPut<'a> {
        MemoryPut { state: Ok((bytes, kind)), ..MemoryPut::file("laptop-abc234", path, b"", WALL_MS) }
    }

    #[test]
    fn the_tree_is_written_as_the_view_shows_it() {
        let big = vec![7u8; 3_000_000];
        let view = view(&[
            put("docs/a.md", b"a", ContentKind::File { exec: false }),
            put("docs/deep/big.bin", &big, ContentKind::File { exec: false }),
            put("run.sh", b"#!/bin/sh\n", ContentKind::File { exec: true }),
            put("link", b"docs/a.md", ContentKind::Link),
            put("empty", b"", ContentKind::File { exec: false }),
        ]);
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("new/tree");

        let done = export(&view, &dir).expect("written");

        assert_eq!((done.files, done.folders, done.left_out_count), (5, 2, 0));
        assert_eq!(done.bytes, 1 + 3_000_000 + 10);
        assert_eq!(std::fs::read(dir.join("docs/deep/big.bin")).expect("bytes"), big);
        assert_eq!(std::fs::read(dir.join("link")).expect("through the link"), b"a");
        assert_eq!(std::fs::read(dir.join("empty")).expect("bytes"), b"");
        let metadata = std::fs::metadata(dir.join("docs/a.md")).expect("metadata");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_784_034_732, 45_000_000));
        assert_eq!(metadata.permissions().mode() & 0o111, 0);
        assert_ne!(std::fs::metadata(dir.join("run.sh")).expect("metadata").permissions().mode() & 0o100, 0);
    }

    #[test]
    fn a_filled_folder_is_left_alone_and_a_dry_run_makes_nothing() {
        let view = view(&[put("a.md", b"a", ContentKind::File { exec: false })]);
        let temp = tempfile::tempdir().expect("a folder");
        let top = view.top(&Top::Merged).expect("a folder");

        let planned = export_tree(&view, top.id, &temp.path().join("new"), None, true).expect("said");
        assert_eq!((planned.files, temp.path().join("new").exists()), (1, false));

        std::fs::write(temp.path().join("mine"), b"mine").expect("a file");
        assert!(matches!(export(&view, temp.path()), Err(ExportError::NotEmpty { .. })));
        assert_eq!(std::fs::read_dir(temp.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn what_must_not_or_cannot_be_written_is_named_and_the_rest_goes_on() {
        let view = view(&[
            put("good.md", b"good", ContentKind::File { exec: false }),
            put("out", b"../../etc/passwd", ContentKind::Link),
            put("root", b"/etc/passwd", ContentKind::Link),
            put("sub/.env", b"secret", ContentKind::File { exec: false }),
            put("away.md", b"away", ContentKind::File { exec: false }),
        ]);
        view.catalog().lose_content(b"away");
        let temp = tempfile::tempdir().expect("a folder");

        let done = export(&view, temp.path()).expect("written");

        let left_out: Vec<(&str, bool)> = done.left_out.iter().map(|one| (one.path.as_str(), one.is_absent)).collect();
        assert_eq!(left_out, [("away.md", true), ("out", false), ("root", false), ("sub/.env", false)]);
        let mut names: Vec<_> = std::fs::read_dir(temp.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["good.md", "sub"]);
    }

    #[test]
    fn a_folder_behind_a_link_is_not_written_through() {
        let view = view(&[put("a.md", b"a", ContentKind::File { exec: false })]);
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(temp.path().join("real")).expect("a folder");
        std::os::unix::fs::symlink("real", temp.path().join("link")).expect("a link");

        assert!(matches!(export(&view, &temp.path().join("link")), Err(ExportError::Disk { .. })));
        assert_eq!(std::fs::read_dir(temp.path().join("real")).expect("a folder").count(), 0);
    }
}
