//! Finds the `sync-config.json` that governs a folder, and reads it within bounds.
//!
//! The search goes from the start folder up to the root of the file system. In each folder the file itself counts
//! first, then one in a content folder inside it (`CONTENT_FOLDERS`; a fixed list, because looking into every folder
//! beside the way up would find strangers' projects). Two content folders with a config are an error, not a guess.
//! A config that was found above the start folder and belongs to another user is refused.
//!
//! Invariant: what comes back is a regular file's path in a real (link-free) folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::parse::MAX_CONFIG_BYTES;

/// The name of the config file.
pub const CONFIG_FILE_NAME: &str = "sync-config.json";
/// The folders inside a project that may hold its config instead of the project's root.
pub const CONTENT_FOLDERS: [&str; 3] = ["data", "content", "artifacts"];
/// Deeper folders than this are not searched to the top.
const MAX_ANCESTORS: usize = 256;

/// A config file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigPath {
    file: PathBuf,
    dir: PathBuf,
}

impl ConfigPath {
    /// Takes a file, or a folder that holds a `sync-config.json`, that the user named.
    pub fn named(path: &Path) -> Result<ConfigPath, ConfigError> {
        let metadata = std::fs::metadata(path).map_err(|source| read_error(path, source))?;
        let file = if metadata.is_dir() { path.join(CONFIG_FILE_NAME) } else { path.to_owned() };
        let metadata = std::fs::metadata(&file).map_err(|source| read_error(&file, source))?;
        if !metadata.is_file() {
            return Err(ConfigError::NotAFile { file });
        }
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = parent.canonicalize().map_err(|source| read_error(parent, source))?;
        let name = file.file_name().ok_or_else(|| ConfigError::NotAFile { file: file.clone() })?;
        Ok(ConfigPath { file: dir.join(name), dir })
    }

    /// Says where a config would be, without looking; for tests and for configs that come as bytes.
    ///
    /// `dir` must be absolute and free of links.
    pub fn assumed(dir: impl Into<PathBuf>) -> ConfigPath {
        let dir = dir.into();
        ConfigPath { file: dir.join(CONFIG_FILE_NAME), dir }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The folder it stands in: the project folder, which also holds `.larder/` and `sync.db`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the file, at most 1 MiB of it.
    pub fn read(&self) -> Result<Vec<u8>, ConfigError> {
        let read = |source| read_error(&self.file, source);
        let file = open(&self.file).map_err(read)?;
        if !file.metadata().map_err(read)?.is_file() {
            return Err(ConfigError::NotAFile { file: self.file.clone() });
        }
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge { file: self.file.clone(), limit_bytes: MAX_CONFIG_BYTES });
        }
        Ok(bytes)
    }
}

// Without blocking: a FIFO that was put in the file's place must not hang us.
fn open(file: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(file)
}

fn read_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read { file: path.to_owned(), source }
}

/// Searches upward from `start_dir` for the config that governs it.
pub fn discover(start_dir: &Path) -> Result<ConfigPath, ConfigError> {
    let start = start_dir.canonicalize().map_err(|source| read_error(start_dir, source))?;
    for folder in start.ancestors().take(MAX_ANCESTORS) {
        if let Some(found) = in_folder(folder)? {
            if !found.starts_with(&start) {
                check_owner(&found)?;
            }
            return ConfigPath::named(&found);
        }
    }
    Err(ConfigError::NotFound { start })
}

fn in_folder(folder: &Path) -> Result<Option<PathBuf>, ConfigError> {
    let own = folder.join(CONFIG_FILE_NAME);
    if own.is_file() {
        return Ok(Some(own));
    }
    let inside = CONTENT_FOLDERS.map(|name| folder.join(name).join(CONFIG_FILE_NAME));
    let mut found = inside.into_iter().filter(|file| file.is_file());
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(ConfigError::Ambiguous { first, second }),
        (first, _) => Ok(first),
    }
}

// In a shared folder such as /tmp anybody could put a config above our projects.
fn check_owner(file: &Path) -> Result<(), ConfigError> {
    let owner_uid = std::fs::metadata(file).map_err(|source| read_error(file, source))?.uid();
    let own_uid = rustix::process::geteuid().as_raw();
    if owner_uid == own_uid || owner_uid == 0 || own_uid == 0 {
        return Ok(());
    }
    Err(ConfigError::ForeignOwner { file: file.to_owned(), owner_uid })
}
