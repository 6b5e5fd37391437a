//! Symbolic links: recorded as their target text, never followed.
//!
//! Invariant: a target that is handed on is UTF-8, relative, and read word by word from its folder stays inside the root.

use larder_patterns::RelPath;
use rustix::fs::{FileType, OFlags};

use super::entry::Stat;
use super::error::ScanError;
use super::root::{Root, not_a_file, refused};

/// Longest target of a link, in bytes: Linux's `PATH_MAX`.
pub const MAX_LINK_BYTES: usize = 4096;

/// Why a link has no versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LinkProblem {
    /// The target starts at the file system's root.
    #[error("it points to the absolute path {target}")]
    Absolute {
        /// The target, safe for a terminal.
        target: String,
    },
    /// The target climbs out of the root.
    #[error("it points outside the project, to {target}")]
    Outside {
        /// The target, safe for a terminal.
        target: String,
    },
    /// The target is no text.
    #[error("its target is not UTF-8")]
    NotUtf8,
    /// The target is empty or too long.
    #[error("its target has {bytes} bytes, 1 to {MAX_LINK_BYTES} are allowed")]
    Length {
        /// Its length.
        bytes: usize,
    },
}

/// Judges the target of the link at `path`: it must be text, relative, and stay inside the root word by word.
///
/// Pure; what the words lead to on a disk is not asked, as links are never followed.
pub fn check_link_target<'t>(path: &RelPath, target: &'t [u8]) -> Result<&'t str, LinkProblem> {
    if target.is_empty() || target.len() > MAX_LINK_BYTES || target.contains(&0) {
        let bytes = target.len();
        return Err(LinkProblem::Length { bytes });
    }
    let target = std::str::from_utf8(target).map_err(|_| LinkProblem::NotUtf8)?;
    let shown = || larder_patterns::shown(target);
    if target.starts_with('/') {
        return Err(LinkProblem::Absolute { target: shown() });
    }
    let mut depth = path.components().count() - 1;
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                depth = depth.checked_sub(1).ok_or_else(|| LinkProblem::Outside { target: shown() })?;
            }
            _ => depth += 1,
        }
    }
    Ok(target)
}

/// Reads the target of the link at `path`.
///
/// Errors: [`ScanError::Link`] for a target that leaves the root, [`ScanError::WrongKind`] for what is no link.
pub fn read_link(root: &Root, path: &RelPath) -> Result<String, ScanError> {
    let failed = |errno| refused("read the link", path, errno);
    let link = root.open_beneath(path.as_str(), OFlags::PATH).map_err(failed)?;
    let stat = Stat::of(&rustix::fs::fstat(&link).map_err(failed)?);
    if stat.file_type() != FileType::Symlink {
        return Err(ScanError::WrongKind { path: path.shown(), found: not_a_file(stat.file_type()) });
    }
    let target = rustix::fs::readlinkat(&link, c"", Vec::new()).map_err(failed)?;
    match check_link_target(path, target.to_bytes()) {
        Ok(target) => Ok(target.to_owned()),
        Err(problem) => Err(ScanError::Link { path: path.shown(), problem }),
    }
}
