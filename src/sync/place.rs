//! The only code that changes project files, but for `grow`: exchange-renames below one confined directory handle.
//!
//! Invariant: no path is resolved by the kernel as a whole: every folder is opened by name below the one before, never
//! through a symlink, so nothing outside the root can be reached. What a replace takes away is never unlinked here; it
//! ends up in the staging folder under the intent's id. This module does not decide what is written.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::env::syncs_whole;
use crate::model::{ContentKind, RelPath};
use crate::scan::Root;
use crate::state::BaseStat;

/// Prefix of files staged beside their target across a mount boundary; on the denylist.
pub const BESIDE_PREFIX: &str = "_tmp-larder-";
/// Ends the name of what a replace without EXCHANGE took away, until the new content has its place.
pub(super) const ASIDE: &str = ".old";

/// Why a file could not be put in place. The text names the reason for `status`.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A file stands where a folder must be, or a folder where the file must be.
    #[error("{what} stands in its place")]
    InTheWay {
        /// What stands there.
        what: &'static str,
    },
    /// A folder above the path is on another file system than the project: such a folder is not looked at either.
    #[error("it is on another file system, and left out")]
    OtherDevice,
    /// No space or quota left.
    #[error("no space left on the disk")]
    NoSpace,
    /// The target may not be written.
    #[error("the folder is read-only for larder ({0})")]
    ReadOnly(io::Error),
    /// What was expected at the path is not there any more.
    #[error("the file changed at the same moment")]
    Raced,
    /// The operating system's word.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for PlaceError {
    fn from(errno: Errno) -> PlaceError {
        match errno {
            Errno::NOSPC | Errno::DQUOT => PlaceError::NoSpace,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => PlaceError::ReadOnly(errno.into()),
            Errno::NOTDIR | Errno::LOOP => PlaceError::InTheWay { what: "a file or a link" },
            Errno::XDEV => PlaceError::OtherDevice,
            other => PlaceError::Io(other.into()),
        }
    }
}

type Result<T> = std::result::Result<T, PlaceError>;

/// The staging folder (`.larder/displaced`) as a handle.
pub struct Stage {
    dir: OwnedFd,
    path: PathBuf,
}

impl Stage {
    /// Opens the folder, creating it with mode 0700.
    pub fn open(path: &Path) -> io::Result<Stage> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = fs::open(path, flags, Mode::empty())?;
        fs::fchmod(&dir, Mode::from_raw_mode(0o700))?;
        Ok(Stage { dir, path: path.to_owned() })
    }

    /// The handle, for renames.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Every name in the folder.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// Removes a staged or proven file.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        match fs::unlinkat(&self.dir, id, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What a file that takes another one's place may grant: to nobody more than that one did, and to its owner to read and write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights(u32);

impl Rights {
    /// What this user's files usually grant.
    pub const USUAL: Rights = Rights(0o666);

    fn mode(self, exec: bool) -> Mode {
        let rights = self.0 | 0o600;
        let exec = if exec { (rights & 0o444) >> 2 } else { 0 };
        Mode::from_raw_mode(rights | exec)
    }
}

fn create_file(dir: BorrowedFd<'_>, name: &str, mode: Mode) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(dir, name, flags, mode)?))
}

/// The folder of a path, opened step by step, and the last name.
pub struct Spot {
    folder: OwnedFd,
    name: String,
}

/// What stands at a spot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// A regular file or a link.
    File(ContentKind, BaseStat),
    /// A folder.
    Folder,
    /// A pipe, socket or device.
    Special,
}

impl Spot {
    /// Opens the folder that holds `path`. With `create`, folders that are missing are made.
    ///
    /// `Ok(None)` if a folder is missing and `create` is false. Errors: [`PlaceError::OtherDevice`], with nothing made.
    pub fn open(root: &Root, path: &RelPath, create: bool) -> Result<Option<Spot>> {
        let mut folder = root.handle().try_clone_to_owned()?;
        let mut components = path.components();
        let name = components.next_back().unwrap_or_default().to_owned();
        for component in components {
            folder = match open_folder(folder.as_fd(), component) {
                Err(Errno::NOENT) => {
                    check_within(root, &folder)?;
                    if !create {
                        return Ok(None);
                    }
                    match fs::mkdirat(&folder, component, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    open_folder(folder.as_fd(), component)?
                }
                other => other?,
            };
        }
        check_within(root, &folder)?;
        Ok(Some(Spot { folder, name }))
    }

    /// What stands there now.
    pub fn standing(&self) -> Result<Standing> {
        let stat = match fs::statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Standing::Absent),
            other => other?,
        };
        let base = base_stat(&stat);
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Standing::File(ContentKind::File { exec: stat.st_mode & 0o100 != 0 }, base),
            FileType::Symlink => Standing::File(ContentKind::Link, base),
            FileType::Directory => Standing::Folder,
            _ => Standing::Special,
        })
    }

    /// What the file that stands here grants.
    pub fn rights(&self) -> Rights {
        match fs::statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Rights(stat.st_mode & 0o666),
            _ => Rights::USUAL,
        }
    }

    /// Other names in the folder that a case-insensitive or normalising file system takes for this one.
    pub fn twins(&self) -> Result<Vec<String>> {
        let key = larder_patterns::fold_key(&self.name);
        let mut twins = Vec::new();
        for entry in fs::Dir::read_from(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != self.name && larder_patterns::fold_key(name) == key {
                twins.push(name.to_owned());
            }
        }
        Ok(twins)
    }

    /// Puts a staged file where nothing stands.
    pub fn create_from(&self, stage: BorrowedFd<'_>, id: &str) -> Result<()> {
        match rename(stage, id, self.folder.as_fd(), &self.name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(PlaceError::Raced),
            Err(errno) if knows_no_flags(errno) => self.create_without_flags(stage, id),
            other => Ok(other?),
        }
    }

    /// File systems without rename flags: `link` refuses to replace, which is what is needed.
    fn create_without_flags(&self, stage: BorrowedFd<'_>, id: &str) -> Result<()> {
        match fs::linkat(stage, id, &self.folder, self.name.as_str(), AtFlags::empty()) {
            Err(Errno::EXIST) => Err(PlaceError::Raced),
            Err(errno) => Err(errno.into()),
            Ok(()) => Ok(fs::unlinkat(stage, id, AtFlags::empty())?),
        }
    }

    /// Swaps a staged file with the one that stands here; afterwards the old one has the staged name.
    pub fn exchange_with(&self, stage: BorrowedFd<'_>, id: &str) -> Result<()> {
        match rename(stage, id, self.folder.as_fd(), &self.name, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => Err(PlaceError::Raced),
            Err(errno) if knows_no_flags(errno) => self.exchange_without_flags(stage, id),
            other => Ok(other?),
        }
    }

    /// Without EXCHANGE: the old name goes aside first, then the new one is created; the intent covers the gap.
    fn exchange_without_flags(&self, stage: BorrowedFd<'_>, id: &str) -> Result<()> {
        let aside = format!("{id}{ASIDE}");
        fs::renameat(&self.folder, self.name.as_str(), stage, aside.as_str())?;
        if let Err(error) = self.create_from(stage, id) {
            // What stands there by now is somebody's own; the old one stays aside then, and is settled with the intent.
            self.create_from(stage, &aside)?;
            return Err(error);
        }
        Ok(fs::renameat(stage, aside.as_str(), stage, id)?)
    }

    /// Moves what stands here away, under the staged name.
    pub fn remove_to(&self, stage: BorrowedFd<'_>, id: &str) -> Result<()> {
        match rename(self.folder.as_fd(), &self.name, stage, id, RenameFlags::NOREPLACE) {
            Err(Errno::NOENT) => Err(PlaceError::Raced),
            Err(errno) if knows_no_flags(errno) => Ok(fs::renameat(&self.folder, self.name.as_str(), stage, id)?),
            other => Ok(other?),
        }
    }

    /// True if a staged file is the very one that stands here, under a second name.
    pub fn holds(&self, stage: BorrowedFd<'_>, id: &str) -> Result<bool> {
        let inode = |dir: BorrowedFd<'_>, name: &str| match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Not every system numbers inodes well; a file of one name is no other one.
            Ok(stat) if stat.st_nlink > 1 => Ok(Some((stat.st_dev, stat.st_ino))),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(PlaceError::from(errno)),
        };
        let here = inode(self.folder.as_fd(), &self.name)?;
        Ok(here.is_some() && here == inode(stage, id)?)
    }

    /// The folder as a handle, to stage beside the file or to make its entries durable.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The last name of the path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the folder's entries durable.
    pub fn sync(&self) -> Result<()> {
        Ok(fs::fsync(&self.folder)?)
    }
}

/// The folder opened last: files come in the order of their paths, so the next one is usually in it.
#[derive(Default)]
pub struct Folders {
    last: Option<(String, OwnedFd)>,
}

impl Folders {
    /// Opens a file for reading; never follows a link nor blocks on a pipe. `Ok(None)` if a folder is missing; the inner error is the file's.
    pub fn open(&mut self, root: &Root, path: &RelPath) -> Result<Option<io::Result<File>>> {
        let parent = path.parent().unwrap_or("");
        if self.last.as_ref().is_none_or(|(name, _)| name != parent) {
            let Some(spot) = Spot::open(root, path, false)? else { return Ok(None) };
            self.last = Some((parent.to_owned(), spot.folder));
        }
        let Some((_, folder)) = &self.last else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Some(fs::openat(folder, path.file_name(), flags, Mode::empty()).map(File::from).map_err(Into::into)))
    }

    /// Forgets it; at the start of a run, as folders may have been replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Makes everything on the file systems of these folders durable, each of them once. Returns how many there are; `None`, and nothing is
/// done, if one of them is no file system that can be synced as a whole.
pub(super) fn sync_file_systems<'f>(folders: impl IntoIterator<Item = BorrowedFd<'f>>) -> io::Result<Option<usize>> {
    let mut distinct = BTreeMap::new();
    for folder in folders {
        // A folder's device is its file system's; a file's may be that of a layer below it.
        distinct.entry(fs::fstat(folder)?.st_dev).or_insert(folder);
    }
    if !distinct.values().all(syncs_whole) {
        return Ok(None);
    }
    distinct.values().try_for_each(fs::syncfs)?;
    Ok(Some(distinct.len()))
}

fn open_folder(folder: BorrowedFd<'_>, name: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    fs::openat(folder, name, flags, Mode::empty())
}

/// From what is mounted below the root nothing leads back to the root's own mount, so the last folder speaks for all above it.
fn check_within(root: &Root, folder: &OwnedFd) -> Result<()> {
    if root.is_same_device(folder.as_fd())? { Ok(()) } else { Err(PlaceError::OtherDevice) }
}

/// File systems that know no flags of a rename say so in several ways.
fn knows_no_flags(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

fn rename(
    from_dir: BorrowedFd<'_>,
    from: &str,
    to_dir: BorrowedFd<'_>,
    to: &str,
    flags: RenameFlags,
) -> std::result::Result<(), Errno> {
    fs::renameat_with(from_dir, from, to_dir, to, flags)
}

/// The facts of a stat as a base holds them.
pub(super) fn base_stat(stat: &fs::Stat) -> BaseStat {
    let nanos = |seconds: i64, nanos: u64| seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(nanos);
    BaseStat {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
        inode: stat.st_ino,
        device: stat.st_dev,
    }
}

/// The stat of an open file.
pub fn stat_of(file: &File) -> io::Result<BaseStat> {
    Ok(base_stat(&fs::fstat(file)?))
}

/// Writes a staged link or file. The bytes come in pieces from `pieces`.
///
/// Returns the stat of the staged inode. Errors leave a partly written staged file behind, which the caller removes.
pub fn write_staged(
    dir: BorrowedFd<'_>,
    name: &str,
    kind: ContentKind,
    rights: Rights,
    mut pieces: impl FnMut() -> io::Result<Option<Vec<u8>>>,
) -> Result<BaseStat> {
    if kind == ContentKind::Link {
        let mut target = Vec::new();
        while let Some(piece) = pieces()? {
            target.extend_from_slice(&piece);
        }
        let target = CString::new(target).map_err(|_| PlaceError::InTheWay { what: "a link target with NUL" })?;
        fs::symlinkat(target, dir, name)?;
        return Ok(base_stat(&fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?));
    }
    let mut file = create_file(dir, name, rights.mode(kind == ContentKind::File { exec: true }))?;
    while let Some(piece) = pieces()? {
        file.write_all(&piece).map_err(io_error)?;
    }
    Ok(stat_of(&file)?)
}

/// Sorts an I/O error into what a caller can act on.
pub fn io_error(error: io::Error) -> PlaceError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => errno.into(),
        None => PlaceError::Io(error),
    }
}

/// Removes the folders above `path` that became empty, from the innermost outward; never the root.
pub fn prune_empty_folders(root: &Root, path: &RelPath) {
    let mut current = path.as_str();
    while let Some((parent, _)) = current.rsplit_once('/') {
        let Ok(parent_path) = RelPath::parse(parent) else { return };
        let Ok(Some(spot)) = Spot::open(root, &parent_path, false) else { return };
        // A folder that is not empty refuses by itself; that ends the climb.
        if fs::unlinkat(&spot.folder, spot.name.as_str(), AtFlags::REMOVEDIR).is_err() {
            return;
        }
        current = parent;
    }
}

/// True if a link target is relative and stays inside the project when followed from `path`.
pub fn link_stays_inside(path: &RelPath, target: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(target) else { return false };
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut depth = path.components().count() as i64 - 1;
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).expect("a path")
    }

    struct Place {
        _folder: tempfile::TempDir,
        root: Root,
        stage: Stage,
        dir: PathBuf,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().to_owned();
        let stage = Stage::open(&dir.join("stage")).expect("a stage");
        let root = Root::open(&dir).expect("opens");
        Place { _folder: folder, root, stage, dir }
    }

    fn staged(place: &Place, id: &str, bytes: &[u8]) {
        let mut once = Some(bytes.to_vec());
        let kind = ContentKind::File { exec: false };
        write_staged(place.stage.dir(), id, kind, Rights::USUAL, || Ok(once.take())).expect("stages");
    }

    #[test]
    fn what_takes_a_files_place_grants_nobody_more_and_may_be_run_by_whoever_may_read_it() {
        let modes = [0o666, 0o644, 0o640, 0o600, 0o440, 0o000]
            .map(|rights| [false, true].map(|exec| Rights(rights).mode(exec).as_raw_mode()));

        let wanted = [[0o666, 0o777], [0o644, 0o755], [0o640, 0o750], [0o600, 0o700], [0o640, 0o750], [0o600, 0o700]];
        assert_eq!(modes, wanted);
    }

    #[test]
    fn a_replace_keeps_what_it_displaced() {
        let place = place();
        std::fs::write(place.dir.join("a"), "old").expect("writes");
        staged(&place, "1", b"new");

        let spot = Spot::open(&place.root, &path("a"), false).expect("opens").expect("is there");
        spot.exchange_with(place.stage.dir(), "1").expect("exchanges");

        assert_eq!(std::fs::read(place.dir.join("a")).expect("reads"), b"new");
        assert_eq!(std::fs::read(place.dir.join("stage/1")).expect("reads"), b"old");
    }

    #[test]
    fn a_replace_that_fails_without_flags_leaves_the_old_file_where_it_was() {
        let place = place();
        std::fs::write(place.dir.join("a"), "old").expect("writes");
        let spot = Spot::open(&place.root, &path("a"), false).expect("opens").expect("is there");

        let error = spot.exchange_without_flags(place.stage.dir(), "never staged").err();

        assert!(error.is_some());
        assert_eq!(std::fs::read(place.dir.join("a")).expect("reads"), b"old");
        assert_eq!(place.stage.names().expect("lists"), Vec::<String>::new());
    }

    #[test]
    fn folders_of_one_file_system_wait_for_the_disk_once_and_those_of_two_twice() {
        let place = place();
        // Every machine has another one.
        let other = fs::open("/proc", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).expect("opens");
        let here = [place.root.handle(), place.stage.dir(), place.root.handle()];

        assert_eq!(sync_file_systems([]).expect("nothing to do"), Some(0));
        assert_eq!(sync_file_systems(here).expect("syncs"), Some(1));
        assert_eq!(sync_file_systems(here.into_iter().chain([other.as_fd()]).chain(here)).expect("syncs"), Some(2));
    }

    #[test]
    fn a_creation_never_replaces() {
        let place = place();
        std::fs::create_dir(place.dir.join("d")).expect("creates");
        std::fs::write(place.dir.join("d/a"), "somebody's").expect("writes");
        staged(&place, "1", b"new");

        let spot = Spot::open(&place.root, &path("d/a"), true).expect("opens").expect("is there");
        let error = spot.create_from(place.stage.dir(), "1").err();

        assert!(matches!(error, Some(PlaceError::Raced)));
        assert_eq!(std::fs::read(place.dir.join("d/a")).expect("reads"), b"somebody's");
    }

    #[test]
    fn a_link_in_the_way_is_never_followed() {
        let place = place();
        let outside = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(outside.path(), place.dir.join("d")).expect("links");

        let refused = Spot::open(&place.root, &path("d/x/a"), true).err();

        assert!(matches!(refused, Some(PlaceError::InTheWay { .. })), "{refused:?}");
        assert_eq!(std::fs::read_dir(outside.path()).expect("lists").count(), 0);
    }

    #[test]
    fn link_targets_that_leave_the_project_are_told_apart() {
        for (from, target, inside) in [
            ("a", "b", true),
            ("a", "../b", false),
            ("d/a", "../b", true),
            ("d/a", "../../b", false),
            ("d/a", "x/../../b", true),
            ("d/a", "/etc/passwd", false),
            ("a", "", false),
        ] {
            assert_eq!(link_stays_inside(&path(from), target.as_bytes()), inside, "{from} -> {target}");
        }
    }

    #[test]
    fn folders_that_became_empty_go_and_others_stay() {
        let place = place();
        std::fs::create_dir_all(place.dir.join("a/b/c")).expect("creates");
        std::fs::write(place.dir.join("a/keep"), "").expect("writes");

        prune_empty_folders(&place.root, &path("a/b/c/gone"));

        assert!(!place.dir.join("a/b").exists());
        assert!(place.dir.join("a/keep").exists());
    }
}
