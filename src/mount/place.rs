//! Where a view may be mounted, and what stands there already.
//!
//! Invariant: nothing of others is ever covered or unmounted: a place is refused unless it is an empty folder (or absent), and only a
//! mount that the kernel's table calls Larder's is taken down. A dead mount is recognised at once, though the kernel
//! goes on answering for it from memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mount_table::{is_view, topmost_mount, view_places};
use crate::env::Mount;

/// The package that brings `fusermount3`, on every distribution that has it.
const FUSE_PACKAGE: &str = "fuse3";
/// Programs that unmount for users, in the order of preference.
const HELPERS: [&str; 4] = ["fusermount3", "/bin/fusermount3", "/usr/bin/fusermount3", "fusermount"];

/// Folders that hold a system or everybody's files: neither they nor anything directly in the first ones is a place for a view.
const SYSTEM_FOLDERS: [&str; 13] = [
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/boot",
    "/dev",
    "/proc",
    "/sys",
    "/run/systemd",
    "/var/lib/dpkg",
    "/root/.config",
];
/// Folders that are too general themselves, though a folder in them is fine.
const SHARED_FOLDERS: [&str; 11] =
    ["/", "/home", "/root", "/tmp", "/var", "/var/tmp", "/opt", "/srv", "/mnt", "/media", "/run"];
/// Names that hold secrets or another program's state, at any depth.
const PRIVATE_NAMES: [&str; 9] =
    [".ssh", ".gnupg", ".aws", ".kube", ".docker", ".git", ".larder", ".azure", "node_modules"];

/// Why a place is no place for a view, or why a view cannot be taken down.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// There is no FUSE in this kernel.
    #[error("mount at {dir}: this system has no /dev/fuse; load the kernel module `fuse`, or read the files with `larder restore`", dir = dir.display())]
    NoDevice {
        /// Where it should have gone.
        dir: PathBuf,
    },
    /// This user may not use FUSE.
    #[error("mount at {dir}: /dev/fuse is not open to this user; ask for read and write rights on it", dir = dir.display())]
    DeviceDenied {
        /// Where it should have gone.
        dir: PathBuf,
    },
    /// A user needs a helper that is not installed.
    #[error("mount or unmount {dir}: `fusermount3` is not installed; install the package `{FUSE_PACKAGE}`", dir = dir.display())]
    NoHelper {
        /// Where it should have gone.
        dir: PathBuf,
    },
    /// The place is inside a project that is watched.
    #[error("mount at {dir}: it lies inside the project {root}, which would then contain itself; choose a folder outside", dir = dir.display(), root = root.display())]
    InsideProject {
        /// The place.
        dir: PathBuf,
        /// The project's root.
        root: PathBuf,
    },
    /// The place belongs to the system or holds secrets.
    #[error("mount at {dir}: {protected} is not a place to cover; choose an empty folder of your own", dir = dir.display(), protected = protected.display())]
    Sensitive {
        /// The place.
        dir: PathBuf,
        /// What protects it.
        protected: PathBuf,
    },
    /// The folder holds something.
    #[error("mount at {dir}: the folder is not empty, and a view would hide what is in it", dir = dir.display())]
    NotEmpty {
        /// The place.
        dir: PathBuf,
    },
    /// It is no folder.
    #[error("mount at {dir}: it is a file, and a folder is needed", dir = dir.display())]
    NotFolder {
        /// The place.
        dir: PathBuf,
    },
    /// A live view is there.
    #[error("mount at {dir}: a view is mounted there already; `larder umount {dir}` takes it down", dir = dir.display())]
    AlreadyMounted {
        /// The place.
        dir: PathBuf,
    },
    /// Somebody else's mount is there.
    #[error("mount or unmount {dir}: another file system ({kind}) is mounted there", dir = dir.display())]
    Foreign {
        /// The place.
        dir: PathBuf,
        /// Its type.
        kind: String,
    },
    /// Nothing is mounted there.
    #[error("unmount {dir}: nothing is mounted there", dir = dir.display())]
    NotMounted {
        /// The place.
        dir: PathBuf,
    },
    /// The helper refused.
    #[error("unmount {dir}: {said}", dir = dir.display())]
    HelperFailed {
        /// The place.
        dir: PathBuf,
        /// What it said.
        said: String,
    },
    /// The file system refused.
    #[error("{what} {dir}", dir = dir.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The place.
        dir: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What stands at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing: the folder may be made.
    Absent,
    /// A folder on which nothing is mounted.
    Folder,
    /// A view whose daemon answers.
    Live,
    /// A view whose daemon is gone.
    Stale,
    /// Another file system of this type.
    Foreign(String),
}

/// True if a view is mounted at `dir` and the process behind it is gone.
pub fn is_stale(dir: &Path) -> bool {
    matches!(standing(dir), Ok(Standing::Stale))
}

/// The places at which a view is mounted whose process is gone.
pub fn stale_views() -> Vec<PathBuf> {
    let mut places = view_places().unwrap_or_default();
    places.dedup();
    places.retain(|dir| is_stale(dir));
    places
}

/// Says what stands at `dir`.
pub fn standing(dir: &Path) -> Result<Standing, PlaceError> {
    let dir = resolved(dir)?;
    let mounted = mounted_at(&dir)?;
    match mounted {
        Some(mount) if !is_view(&mount) => Ok(Standing::Foreign(mount.kind)),
        // The kernel answers much by itself, also for the dead; sums it always asks for. A user's view answers nobody else, root
        // included, without error: alive for all that can be told.
        Some(_) => match rustix::fs::statvfs(&dir) {
            Err(Errno::NOTCONN | Errno::CONNABORTED) => Ok(Standing::Stale),
            _ => Ok(Standing::Live),
        },
        None => match fs::symlink_metadata(&dir) {
            Ok(metadata) if metadata.is_dir() => Ok(Standing::Folder),
            Ok(_) => Err(PlaceError::NotFolder { dir }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Standing::Absent),
            Err(source) => Err(PlaceError::Io { what: "look at", dir, source }),
        },
    }
}

/// Takes a view down, also one whose daemon is gone or that somebody still uses: those keep what they have open.
///
/// Errors: `NotMounted`; `Foreign`, for what is not Larder's is left alone; `NoHelper` for a user without `fusermount3`.
pub fn unmount_path(dir: &Path) -> Result<(), PlaceError> {
    let dir = resolved(dir)?;
    match mounted_at(&dir)? {
        None => return Err(PlaceError::NotMounted { dir }),
        Some(mount) if !is_view(&mount) => return Err(PlaceError::Foreign { dir, kind: mount.kind }),
        Some(_) => {}
    }
    match rustix::mount::unmount(&dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => unmount_by_helper(&dir),
        // Somebody was faster.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(PlaceError::Io { what: "unmount", dir, source: errno.into() }),
    }
}

fn unmount_by_helper(dir: &Path) -> Result<(), PlaceError> {
    for helper in HELPERS {
        let outcome = Command::new(helper).args(["-u", "-z", "--"]).arg(dir).stdin(Stdio::null()).output();
        match outcome {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(PlaceError::HelperFailed { dir: dir.to_owned(), said });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(PlaceError::Io { what: "unmount", dir: dir.to_owned(), source }),
        }
    }
    Err(PlaceError::NoHelper { dir: dir.to_owned() })
}

/// Makes `dir` ready: refuses what must not be covered, removes a dead view, creates the folder. Returns its real path.
pub(super) fn prepare(dir: &Path, project_roots: &[PathBuf]) -> Result<PathBuf, PlaceError> {
    let dir = resolved(dir)?;
    check_protected(&dir)?;
    check_outside(&dir, project_roots)?;
    check_device(&dir)?;
    match standing(&dir)? {
        Standing::Live => return Err(PlaceError::AlreadyMounted { dir }),
        Standing::Foreign(kind) => return Err(PlaceError::Foreign { dir, kind }),
        Standing::Stale => match unmount_path(&dir) {
            // Its guardian was faster.
            Err(PlaceError::NotMounted { .. }) => {}
            outcome => {
                outcome?;
                tracing::info!("replaced the dead view at {}", dir.display());
            }
        },
        Standing::Absent | Standing::Folder => {}
    }
    fs::create_dir_all(&dir).map_err(|source| PlaceError::Io {
        what: "create the folder",
        dir: dir.clone(),
        source,
    })?;
    let mut entries = fs::read_dir(&dir).map_err(|source| PlaceError::Io { what: "list", dir: dir.clone(), source })?;
    if entries.next().is_some() {
        return Err(PlaceError::NotEmpty { dir });
    }
    Ok(dir)
}

fn check_protected(dir: &Path) -> Result<(), PlaceError> {
    let refuse = |protected: &Path| Err(PlaceError::Sensitive { dir: dir.to_owned(), protected: protected.to_owned() });
    if let Some(folder) = SYSTEM_FOLDERS.iter().find(|folder| dir.starts_with(folder)) {
        return refuse(Path::new(folder));
    }
    if SHARED_FOLDERS.iter().any(|folder| dir == Path::new(folder)) {
        return refuse(dir);
    }
    let is_private =
        |part: &Path| part.file_name().is_some_and(|name| PRIVATE_NAMES.iter().any(|private| name == *private));
    match dir.ancestors().find(|part| is_private(part)) {
        Some(part) => refuse(part),
        None => Ok(()),
    }
}

fn check_outside(dir: &Path, project_roots: &[PathBuf]) -> Result<(), PlaceError> {
    for root in project_roots {
        let real = fs::canonicalize(root).unwrap_or_else(|_| root.clone());
        if dir.starts_with(&real) {
            return Err(PlaceError::InsideProject { dir: dir.to_owned(), root: real });
        }
    }
    Ok(())
}

fn check_device(dir: &Path) -> Result<(), PlaceError> {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match opened {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(PlaceError::DeviceDenied { dir: dir.to_owned() });
        }
        Err(_) => return Err(PlaceError::NoDevice { dir: dir.to_owned() }),
    }
    let has_helper = || HELPERS.iter().any(|helper| Command::new(helper).arg("--version").output().is_ok());
    if rustix::process::geteuid().is_root() || has_helper() {
        Ok(())
    } else {
        Err(PlaceError::NoHelper { dir: dir.to_owned() })
    }
}

/// The real path of `dir`, which may be absent or a dead mount: everything above it is resolved, its own name is kept
/// unless it is a link.
fn resolved(dir: &Path) -> Result<PathBuf, PlaceError> {
    let absolute =
        std::path::absolute(dir).map_err(|source| PlaceError::Io { what: "resolve", dir: dir.to_owned(), source })?;
    let mut missing = Vec::new();
    let mut at = absolute.as_path();
    loop {
        match fs::canonicalize(at) {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, name| path.join(name))),
            // `..` after something absent means nothing that could be checked.
            Err(source) => match (at.parent(), at.file_name()) {
                (Some(parent), Some(name)) if is_not_connected(&source) || source.kind() == io::ErrorKind::NotFound => {
                    missing.push(name);
                    at = parent;
                }
                _ => return Err(PlaceError::Io { what: "resolve", dir: absolute, source }),
            },
        }
    }
}

fn mounted_at(dir: &Path) -> Result<Option<Mount>, PlaceError> {
    topmost_mount(dir).map_err(|source| PlaceError::Io {
        what: "read the mount table for",
        dir: dir.to_owned(),
        source,
    })
}

pub(super) fn is_not_connected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error())
        || error.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_and_secret_places_are_refused_whatever_stands_there() {
        for dir in [
            "/",
            "/etc/larder",
            "/usr/share/x",
            "/home",
            "/tmp",
            "/proc/1",
            "/home/a/.ssh",
            "/home/a/.ssh/x",
            "/srv/p/.git/view",
        ] {
            assert!(matches!(check_protected(Path::new(dir)), Err(PlaceError::Sensitive { .. })), "{dir}");
        }
        for dir in ["/home/a/view", "/tmp/view", "/mnt/larder", "/etcetera"] {
            assert!(check_protected(Path::new(dir)).is_ok(), "{dir}");
        }
    }

    #[test]
    fn a_place_inside_a_project_is_refused_also_through_a_link_and_a_sibling_is_not() {
        let temp = tempfile::tempdir().expect("a folder");
        let root = temp.path().join("project");
        fs::create_dir(&root).expect("the root");
        std::os::unix::fs::symlink(&root, temp.path().join("link")).expect("a link");
        let check =
            |dir: &str| check_outside(&resolved(&temp.path().join(dir)).expect("a path"), std::slice::from_ref(&root));

        for dir in ["project", "project/a/b", "link/view"] {
            assert!(matches!(check(dir), Err(PlaceError::InsideProject { .. })), "{dir}");
        }
        for dir in ["project-view", "other"] {
            assert!(check(dir).is_ok(), "{dir}");
        }
    }

    #[test]
    fn what_mounting_lacks_is_said_in_one_sentence() {
        let dir = || PathBuf::from("/mnt/view");
        let lacks = [
            (PlaceError::NoDevice { dir: dir() }, "larder restore"),
            (PlaceError::DeviceDenied { dir: dir() }, "rights"),
            (PlaceError::NoHelper { dir: dir() }, "install the package `fuse3`"),
        ];
        for (error, way_out) in lacks {
            let said = error.to_string();
            assert!(said.contains("/mnt/view") && said.contains(way_out) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_not_covered() {
        let temp = tempfile::tempdir().expect("a folder");
        fs::write(temp.path().join("kept.md"), b"mine").expect("a file");
        if check_device(temp.path()).is_err() {
            println!("skipped: this system cannot mount");
            return;
        }

        assert!(matches!(prepare(temp.path(), &[]), Err(PlaceError::NotEmpty { .. })));
        assert!(matches!(prepare(&temp.path().join("kept.md"), &[]), Err(PlaceError::NotFolder { .. })));
    }

    #[test]
    fn what_is_no_view_is_not_unmounted() {
        let temp = tempfile::tempdir().expect("a folder");

        assert!(matches!(unmount_path(temp.path()), Err(PlaceError::NotMounted { .. })));
        assert!(matches!(unmount_path(Path::new("/proc")), Err(PlaceError::Foreign { .. })));
    }
}
