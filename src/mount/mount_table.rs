//! Views in the kernel's table of mounts: what is mounted at a place, and whether it is one.
//!
//! Invariant: only the table is read, never the place itself, so nothing here can hang on a dead daemon.

use std::io;
use std::path::{Path, PathBuf};

use crate::env::{Mount, mounts};

/// What the table calls a view; when a helper mounts it, its type is `fuse.larder` as well.
pub(super) const MOUNT_NAME: &str = "larder";

/// True for a view of Larder's, alive or dead.
pub(super) fn is_view(mount: &Mount) -> bool {
    mount.kind == format!("fuse.{MOUNT_NAME}") || (mount.kind == "fuse" && mount.source == MOUNT_NAME)
}

/// What is mounted at `dir`, uncovered.
pub(super) fn topmost_mount(dir: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.place == dir))
}

/// Where views are mounted, alive or dead.
pub(super) fn view_places() -> io::Result<Vec<PathBuf>> {
    Ok(mounts()?.into_iter().filter(is_view).map(|mount| mount.place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_known_by_its_type_or_by_what_is_mounted() {
        let mount = |kind: &str, source: &str| Mount {
            place: PathBuf::from("/mnt"),
            kind: kind.to_owned(),
            source: source.to_owned(),
        };
        assert!(is_view(&mount("fuse.larder", "larder")) && is_view(&mount("fuse", "larder")));
        assert!(!is_view(&mount("fuse.sshfs", "host:")) && !is_view(&mount("fuse", "sshfs")));
    }
}
