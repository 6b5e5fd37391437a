//! A folder as a place for artifacts: any path, carried by Syncthing, Dropbox, NFS, a USB stick or nothing at all.
//!
//! The tree below it is the artifacts' names; `larder-store.json` says that it is a store, and has the same bytes
//! whoever writes it, so nothing in the folder is ever made by two writers in two ways. Invariants: a name appears whole and
//! synced or not at all, and is never replaced; nothing outside the folder is reached, whatever links stand in it; what
//! a folder that is gone or unmounted does not hold is never taken for missing; what file syncers leave beside our names
//! (hidden, partial and conflict files) is not listed. Knows nothing of what an artifact is.

mod listing;
mod mend;
mod news;
mod publish;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{
    Body, ListRequest, Listing, Mending, Opening, Put, Removing, Transport, TransportError, TransportErrorKind,
    WaitHint, Wake, check_name, deadline, memory,
};
use crate::scan::{Root, ScanError};
use news::News;
use publish::Publisher;

/// Says that a folder is a store.
pub const STORE_FILE: &str = "larder-store.json";
/// What stands in it: canonical, and the same whoever wrote it.
pub(super) const STORE_BYTES: &[u8] = br#"{"kind":"store","v":1}"#;
const MAX_STORE_FILE_BYTES: u64 = 4096;
/// What is asked for at once of a large artifact: opening it again costs less than a hundredth of reading that.
const PART_BYTES: u64 = 1 << 20;
/// What file systems and desktops put into folders that are otherwise empty; compared without case.
const LITTER: [&str; 7] =
    ["lost+found", "system volume information", "$recycle.bin", "desktop.ini", "thumbs.db", "icon\r", "_gsdata_"];

/// A visitor of one store.
pub struct FolderTransport {
    root: Arc<Root>,
    label: String,
    publisher: Publisher,
    news: News,
}

impl FolderTransport {
    /// Opens the folder at `path`; links in the path itself are followed, it is the user's own word.
    ///
    /// Writes nothing: an empty folder becomes a store with the first artifact.
    /// Errors: Unavailable if it is not there; Denied if it holds other things; Unsupported if a newer release made it.
    pub fn open(path: &Path, label: impl Into<String>) -> Result<FolderTransport, TransportError> {
        let transport = FolderTransport::open_bare(path, label)?;
        transport.check_is_store()?;
        Ok(transport)
    }

    /// Opens a folder that holds artifacts and does not say so, to read from it: a project's ledger, whose names lack the app.
    pub(crate) fn open_bare(path: &Path, label: impl Into<String>) -> Result<FolderTransport, TransportError> {
        let label = label.into();
        let root = Root::open(path).map_err(|error| refused_root(&label, &error))?;
        Ok(FolderTransport { publisher: Publisher::new(), news: News::default(), root: Arc::new(root), label })
    }

    /// Proves that this is a store or may become one.
    fn check_is_store(&self) -> Result<(), TransportError> {
        let refused = |kind, detail: String| Err(TransportError::new(kind, "open", &self.label, detail));
        let bytes = match self.read(STORE_FILE, None, MAX_STORE_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == TransportErrorKind::NotFound => return self.check_is_empty(),
            Err(error) => return Err(error),
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match (value["kind"].as_str(), value["v"].as_u64()) {
            (Some("store"), Some(1)) => Ok(()),
            (Some("store"), Some(2..)) => {
                refused(TransportErrorKind::Unsupported, "a newer release made this store: upgrade larder".to_owned())
            }
            _ => refused(TransportErrorKind::Corrupt, format!("{STORE_FILE} is damaged, {}", how_it_reads())),
        }
    }

    fn check_is_empty(&self) -> Result<(), TransportError> {
        let Some(found) = listing::first_visible(&self.root)? else { return Ok(()) };
        let found: String = found.chars().take(80).collect();
        let detail = format!(
            "it holds other things (`{}`) and no {STORE_FILE}: name an empty folder; if it is a store, that file has \
             not arrived yet or was lost, {}",
            larder_patterns::shown(&found),
            how_it_reads()
        );
        Err(TransportError::new(TransportErrorKind::Denied, "open", &self.label, detail))
    }

    /// Proves that the path still leads to the folder that was opened.
    fn check_present(&self, action: &'static str) -> Result<(), TransportError> {
        self.root.check_present().map_err(|error| {
            let detail = "the folder was moved, removed or unmounted";
            TransportError::new(TransportErrorKind::Unavailable, action, &self.label, detail).with_source(error)
        })
    }

    /// Proves that a name may be put, and that the folder is there and says that it is a store.
    fn prepare(&self, name: &str) -> Result<(), TransportError> {
        check_taken(name)?;
        self.check_present("put")?;
        if !self.publisher.is_marked() {
            self.publish(STORE_FILE, STORE_BYTES)?;
            self.publisher.set_marked();
        }
        self.news.expect_own(name);
        Ok(())
    }

    /// Reads one file of the store, artifact or not.
    fn read(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let Some(file) = self.open_file("get", name)? else {
            // Not there, or all of it is gone: that is told apart here.
            self.check_present("get")?;
            return Err(TransportError::new(TransportErrorKind::NotFound, "get", name, "not here"));
        };
        let size_bytes = file.metadata().map_err(|error| explain("get", name, error))?.len();
        let range = memory::bounded(name, size_bytes, range, max_bytes)?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, range.start).map_err(|error| explain("get", name, error))?;
        Ok(bytes)
    }

    /// The file of this name; `None` if nothing, or nothing that is a plain file, can be reached there.
    fn open_file(&self, action: &'static str, name: &str) -> Result<Option<File>, TransportError> {
        // A FIFO must not block the look that finds out that it is one.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.root.open_beneath(name, flags) {
            Ok(handle) => File::from(handle),
            Err(errno) if is_nothing(errno) => return Ok(None),
            Err(errno) => return Err(explain(action, name, errno.into())),
        };
        let is_file = file.metadata().map_err(|error| explain(action, name, error))?.is_file();
        Ok(is_file.then_some(file))
    }
}

impl Transport for FolderTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.check_present("list")?;
        listing::page(&self.root, request)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        if check_name(name).is_err() || !is_artifact_name(name) {
            return Err(TransportError::new(TransportErrorKind::NotFound, "get", name, "no artifact has this name"));
        }
        self.read(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.prepare(name)?;
        let put = self.publish(name, bytes)?;
        if put == Put::Written {
            self.news.know(name);
        }
        Ok(put)
    }

    fn put_later(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.prepare(name)?;
        self.publish_later(name, bytes)
    }

    fn put_from(&self, name: &str, body: Body) -> Result<Put, TransportError> {
        self.prepare(name)?;
        self.publish_from(name, body)
    }

    fn part_bytes(&self) -> Option<u64> {
        Some(PART_BYTES)
    }

    fn settle_puts(&self) -> Result<(), TransportError> {
        self.name_all(|name| self.news.know(name))
    }

    /// Listens where the kernel tells; where it does not, the folder is looked at every few seconds.
    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.news.wait(&self.root, hint, || self.check_present("wait"))
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn mending(&self) -> Option<&dyn Mending> {
        Some(self)
    }

    fn removing(&self) -> Option<&dyn Removing> {
        Some(self)
    }
}

impl Removing for FolderTransport {
    fn remove(&self, name: &str) -> Result<(), TransportError> {
        check_taken(name)?;
        self.check_present("remove")?;
        self.remove_file(name)
    }

    fn remove_set_aside(&self) -> Result<(), TransportError> {
        self.check_present("remove")?;
        self.remove_wrong()
    }
}

/// Opens a plain path, or `folder:PATH`; relative ones are relative to `opening.base`. A file server that is gone blocks whoever does.
pub fn open(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    let path = address.strip_prefix("folder:").unwrap_or(address);
    if path.is_empty() {
        let detail = "the address is empty";
        return Err(TransportError::new(TransportErrorKind::Unsupported, "open", "a folder", detail));
    }
    Ok(Arc::new(FolderTransport::open(&opening.base.join(path), label(address, opening))?))
}

/// What the folder at an address is called.
pub(super) fn label(address: &str, opening: &Opening) -> String {
    let path = opening.base.join(address.strip_prefix("folder:").unwrap_or(address));
    larder_patterns::shown(&path.to_string_lossy())
}

/// Writes `larder-store.json` of a folder that is known to be a store, where it is damaged or gone.
///
/// Errors: the folder cannot be reached or written.
pub fn mend_store_file(path: &Path) -> Result<(), TransportError> {
    let (path, label) = (path.to_owned(), larder_patterns::shown(&path.to_string_lossy()));
    deadline::once(&label.clone(), "mend", move || {
        let transport = FolderTransport::open_bare(&path, label)?;
        transport.replace(STORE_FILE, STORE_BYTES)
    })
}

fn how_it_reads() -> String {
    format!("and reads `{}`", String::from_utf8_lossy(STORE_BYTES))
}

/// Refuses names that the folder does not take.
fn check_taken(name: &str) -> Result<(), TransportError> {
    check_name(name)?;
    if is_artifact_name(name) {
        return Ok(());
    }
    let detail = "a folder takes names of two parts or more, none hidden or like a file syncer's leftovers";
    Err(TransportError::new(TransportErrorKind::Unsupported, "put", name, detail))
}

/// True for what `put_new` takes and a listing names: below an app, and no part of it like a leftover.
fn is_artifact_name(name: &str) -> bool {
    name.contains('/') && !name.split('/').any(is_leftover)
}

/// True for names that file syncers, editors and desktops make beside ours, and for hidden ones.
fn is_leftover(part: &str) -> bool {
    let begins = part.starts_with(['.', '~', '$']);
    let ends = [".tmp", ".part", ".partial", ".crdownload", ".!sync", "~"].iter().any(|end| part.ends_with(end));
    // `x.sync-conflict-20260101-..`, `x (host's conflicted copy ..)`, `x (1)`, `x_conf(1)`.
    begins || ends || part.contains(".sync-conflict-") || part.contains('(')
}

/// True if an error of opening says that nothing of ours stands there.
fn is_nothing(errno: Errno) -> bool {
    // NXIO: a socket. LOOP: a link, which is not followed and not ours.
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NAMETOOLONG)
}

fn refused_root(label: &str, error: &ScanError) -> TransportError {
    let source = match error {
        ScanError::OpenRoot { source, .. } => source,
        _ => &io::Error::other(error.to_string()),
    };
    let (kind, detail) = match source.kind() {
        io::ErrorKind::NotFound => (TransportErrorKind::Unavailable, "there is no such folder".to_owned()),
        io::ErrorKind::NotADirectory => (TransportErrorKind::Denied, "it is no folder".to_owned()),
        kind => (kind_of(kind), source.to_string()),
    };
    TransportError::new(kind, "open", label, detail)
}

fn explain(action: &'static str, name: &str, error: io::Error) -> TransportError {
    TransportError::new(kind_of(error.kind()), action, name, error.to_string()).with_source(error)
}

fn kind_of(kind: io::ErrorKind) -> TransportErrorKind {
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::CrossesDevices => {
            TransportErrorKind::Denied
        }
        io::ErrorKind::InvalidFilename | io::ErrorKind::FileTooLarge => TransportErrorKind::Unsupported,
        // Above all: no space, a disk that broke, a server that went.
        _ => TransportErrorKind::Unavailable,
    }
}
