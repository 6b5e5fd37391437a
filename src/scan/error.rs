//! What can go wrong between the engine and the disk, one variant per fact a caller can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::link::LinkProblem;

/// Something that has no versions and is never opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotAFile {
    /// A folder stands there.
    Folder,
    /// A FIFO (named pipe).
    Fifo,
    /// A socket.
    Socket,
    /// A character or block device.
    Device,
    /// A symbolic link, where a file was asked for.
    Link,
    /// A regular file, where a link was asked for.
    File,
}

impl fmt::Display for NotAFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAFile::Folder => "a folder",
            NotAFile::Fifo => "a FIFO",
            NotAFile::Socket => "a socket",
            NotAFile::Device => "a device",
            NotAFile::Link => "a link",
            NotAFile::File => "a file",
        })
    }
}

/// Why the disk could not be looked at or read. Paths in texts are safe for a terminal.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root cannot be opened.
    #[error("open the project folder {}", path.display())]
    OpenRoot {
        /// The root as named.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The root's path no longer leads to the folder that was opened: moved, replaced, removed or unmounted.
    #[error("find the project folder {} as it was opened: it was moved, replaced or unmounted", path.display())]
    RootGone {
        /// The root as named.
        path: PathBuf,
    },
    /// The root itself cannot be listed: nothing is known about anything.
    #[error("list the project folder {}", path.display())]
    ListRoot {
        /// The root as named.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing stands at the path any more.
    #[error("find {path}: it is gone")]
    Gone {
        /// The path.
        path: String,
    },
    /// The file changed since it was looked at, or while it was read; the caller waits until it is stable and tries again.
    #[error("read {path}: it changed meanwhile")]
    Changed {
        /// The path.
        path: String,
    },
    /// The file is larger than the caller allows.
    #[error("read {path}: more than {limit_bytes} bytes")]
    TooLarge {
        /// The path.
        path: String,
        /// The bound.
        limit_bytes: u64,
    },
    /// What stands there is of another kind.
    #[error("read {path}: it is {found}")]
    WrongKind {
        /// The path.
        path: String,
        /// What stands there.
        found: NotAFile,
    },
    /// A folder above the path is a symbolic link, which is never followed: what stands at the path is unknown.
    #[error("reach {path}: a folder above it is a link, and links are not followed")]
    LinkedParent {
        /// The path.
        path: String,
    },
    /// A folder above the path, or the path itself, is on another file system: what stands there is unknown.
    #[error("reach {path}: it is on another file system")]
    OtherDevice {
        /// The path.
        path: String,
    },
    /// The link's target is refused.
    #[error("read the link {path}: {problem}")]
    Link {
        /// The path.
        path: String,
        /// Why.
        problem: LinkProblem,
    },
    /// The receiver of the bytes failed.
    #[error("hand on the bytes of {path}")]
    Sink {
        /// The path.
        path: String,
        /// What the receiver said.
        #[source]
        source: io::Error,
    },
    /// The system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried: `stat`, `open`, `read`.
        action: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
