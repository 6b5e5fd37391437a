//! The view as plain files, for machines that cannot mount: one folder of it, written once.
//!
//! Invariant: only an empty or absent folder is written to, every step through handles of folders that were opened without following
//! links, and nothing that exists is opened for writing. Links that lead out of the tree, denied paths, names that the disk cannot
//! hold and contents that are not here are named and left out; the rest goes on. Everything is on the disk when it returns. What shares
//! its bytes with another file was proven to hold them after it began to share them.
//! Deliberately not here: keeping the folder up to date; it is a copy, and nothing remembers it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_patterns::{RelPath, denied};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::catalog::{Catalog, CatalogError, FileRow};
use super::listing::Entry;
use super::node::NodeId;
use super::view::{NodeKind, View, ViewError};
use crate::env::syncs_whole;
use crate::model::{Content, ContentHash, ContentKind};
use crate::scan::check_link_target;

/// Bytes written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Contents that are remembered by a written file that holds them, to be cloned from.
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

/// Writes everything below `top` to `dir`, of the view's root all that is no question; with `is_dry` only says what it would write.
///
/// `source` is where the project's own files stand: one that holds the very bytes is cloned, where the file system can, and so is
/// what was written already.
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
        written: HashMap::new(),
        here: None,
        project: source.and_then(|root| open_folder(CWD, root).ok()),
        syncs_each: false,
        syncs: 0,
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
    writer.here = rustix::io::dup(&handle).ok();
    writer.syncs_each = !syncs_whole(&handle);
    writer.folder(Some(&handle), top, "")?;
    if writer.syncs_each {
        // Its own name too, and those of folders that were made for it.
        for folder in
            dir.ancestors().skip(1).map(|folder| if folder == Path::new("") { Path::new(".") } else { folder })
        {
            // Where somebody else's folder may only be passed through, its names are his.
            let folder = match std::fs::File::open(folder) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                opened => opened.map_err(disk)?,
            };
            if syncs_whole(&folder) {
                break;
            }
            sync_folder(&folder).map_err(disk)?;
        }
    } else {
        // One wait for everything, instead of one for each file.
        rustix::fs::syncfs(&handle).map_err(|errno| disk(errno.into()))?;
    }
    Ok(writer.done)
}

fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        // Some network and user-space file systems cannot sync a folder: there is nothing more to be had.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF | Errno::ISDIR) => Ok(()),
        outcome => Ok(outcome?),
    }
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
    /// A file for each content that was written.
    written: HashMap<ContentHash, String>,
    /// Where written files stand; `None` once the file system has said that it cannot share bytes.
    here: Option<OwnedFd>,
    /// The same of the project's own files.
    project: Option<OwnedFd>,
    /// Every file and folder waits for the disk by itself: one wait for the file system would prove nothing.
    syncs_each: bool,
    /// Of those that did.
    syncs: u64,
}

impl<C: Catalog> Writer<'_, C> {
    /// Recursion is bounded by the depth of a path.
    fn folder(&mut self, into: Option<&OwnedFd>, node: NodeId, below: &str) -> Result<(), ExportError> {
        for entry in self.view.copied_entries(node)? {
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
        if let Some(into) = into.filter(|_| self.syncs_each) {
            sync_folder(into).map_err(|source| ExportError::Disk { path: PathBuf::from(below), source })?;
            self.syncs += 1;
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
            let file = File::from(handle);
            let filled = self.fill(&file, entry, &row);
            if let Err(skip) = filled {
                // Half a file is no file.
                rustix::fs::unlinkat(into, entry.name.as_str(), AtFlags::empty())?;
                return Err(skip);
            }
            let time = Duration::from_millis(entry.node.attr.mtime_ms);
            let time =
                Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
            rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
            if self.syncs_each {
                file.sync_all()?;
                self.syncs += 1;
            }
            if self.here.is_some() && self.written.len() < MAX_REMEMBERED {
                self.written.entry(row.content.hash).or_insert_with(|| path.to_owned());
            }
        } else if row.content.size > 0 {
            // What is not here at all would be left out.
            self.view.read(entry.node.id, 0, 1)?;
        }
        self.done.files += 1;
        self.done.bytes += entry.node.attr.size;
        Ok(())
    }

    fn fill(&mut self, file: &File, entry: &Entry, row: &FileRow) -> Result<(), Skip> {
        let size = entry.node.attr.size;
        if size > 0 && self.clone_into(file, row) {
            self.done.cloned += 1;
            return Ok(());
        }
        let mut offset = 0;
        while offset < size {
            let piece = self.view.read(entry.node.id, offset, PIECE_BYTES)?;
            // Not where the handle stands: a clone that was no good was read to its end.
            file.write_all_at(&piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// True if the file holds the bytes now, shared with a file that was written before or with one of the project's own.
    fn clone_into(&mut self, file: &File, row: &FileRow) -> bool {
        if let Some(path) = self.written.get(&row.content.hash)
            && share(file, &mut self.here, path, &row.content)
        {
            return true;
        }
        if self.project.is_none() {
            return false;
        }
        let recorded = self.view.catalog().path_of(row.id).ok().flatten();
        recorded.is_some_and(|path| share(file, &mut self.project, path.as_str(), &row.content))
    }
}

/// True if the file shares its bytes with the one at `path` now, and they are the content's. A folder of which none can is given up.
fn share(file: &File, from: &mut Option<OwnedFd>, path: &str, content: &Content) -> bool {
    let Some(source) = from.as_ref().and_then(|root| open_below(root, path)) else { return false };
    if source.metadata().map_or(true, |facts| facts.len() != content.size) {
        return false;
    }
    match rustix::fs::ioctl_ficlone(file, &source) {
        Ok(()) => {}
        Err(Errno::INVAL) => return false,
        Err(_) => {
            *from = None;
            return false;
        }
    }
    // What was cloned is what is proven: somebody may be writing to the other one.
    if hash_of(file).is_ok_and(|hash| hash == content.hash) {
        return true;
    }
    let _ = file.set_len(0);
    false
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
    fn a_copy_of_the_whole_view_has_every_tree_but_those_that_move() {
        let view = view(&[
            put("a.md", b"old", ContentKind::File { exec: false }),
            put("gone.md", b"gone", ContentKind::File { exec: false }),
        ]);
        view.catalog().put(&MemoryPut::file("desk-xyz234", "a.md", b"new", WALL_MS + 1));
        view.catalog().put(&MemoryPut::tombstone("desk-xyz234", "gone.md", crate::model::Reason::User, WALL_MS + 2));
        view.catalog().star("a.md", true);
        let temp = tempfile::tempdir().expect("a folder");
        let top = view.top(&Top::All).expect("a folder");

        let done = export_tree(&view, top.id, temp.path(), None, false).expect("written");

        let read = |path: &str| String::from_utf8(std::fs::read(temp.path().join(path)).expect(path)).expect("text");
        assert_eq!(
            (read("merged/a.md"), read("starred/a.md"), read("trash/gone.md")),
            ("new".into(), "new".into(), "gone".into())
        );
        assert_eq!(read("origins/laptop-abc234/a.md"), "old");
        assert_eq!(read("history/a.md/2026-07-14T13-12-12.045Z-laptop-abc234"), "old");
        let mut names: Vec<_> = std::fs::read_dir(temp.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["conflicts", "history", "merged", "origins", "starred", "trash"]);
        assert_eq!((done.files, done.left_out_count), (9, 0));
    }

    fn writer(view: &View<MemoryCatalog>) -> Writer<'_, MemoryCatalog> {
        let (done, written) = (Exported::default(), HashMap::new());
        Writer { view, done, written, here: None, project: None, syncs_each: false, syncs: 0 }
    }

    #[test]
    fn where_no_file_system_is_synced_at_one_stroke_every_file_and_folder_waits_by_itself() {
        let view = view(&[
            put("docs/a.md", b"a", ContentKind::File { exec: false }),
            put("docs/deep/b.md", b"b", ContentKind::File { exec: false }),
            put("link", b"docs/a.md", ContentKind::Link),
        ]);
        let top = view.top(&Top::Merged).expect("a folder");
        for (syncs_each, syncs) in [(false, 0), (true, 2 + 3)] {
            let temp = tempfile::tempdir().expect("a folder");
            let handle = open_folder(CWD, temp.path()).expect("opens");
            let mut writer = Writer { syncs_each, ..writer(&view) };

            writer.folder(Some(&handle), top.id, "").expect("written");

            assert_eq!(writer.syncs, syncs);
            assert_eq!(std::fs::read(temp.path().join("docs/deep/b.md")).expect("bytes"), b"b");
        }
    }

    #[test]
    fn a_file_is_whole_wherever_its_handle_stood_when_a_clone_was_no_good() {
        let view = view(&[put("a.md", b"the right bytes", ContentKind::File { exec: false })]);
        let top = view.top(&Top::Merged).expect("a folder");
        let entry = view.entries(top.id).expect("lists").remove(0);
        let row = view.file(entry.node.id).expect("a file");
        let file = tempfile::tempfile().expect("a file");
        std::io::Seek::seek(&mut &file, io::SeekFrom::Start(15)).expect("as after reading it all");
        let mut writer = writer(&view);

        assert!(writer.fill(&file, &entry, &row).is_ok());

        assert_eq!(hash_of(&file).expect("reads"), row.content.hash);
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
