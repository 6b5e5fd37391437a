//! A bundle under construction: a place that takes artifacts and has no name until it is whole.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::NamedTempFile;

use super::frame::{BEGIN, Head, MAX_BODY_BYTES, end, is_entry_name};
use super::{Body, failed, not_here};
use crate::model::Hash;
use crate::transport::{
    ListRequest, Listing, Put, Transport, TransportError, TransportErrorKind, WaitHint, Wake, memory,
};

/// A name that is never taken for one of a project's files.
const TEMPORARY: &str = "_tmp-larder-";
/// Temporary files older than this were left by a process that died.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Entries looked at for a sweep.
const MAX_SWEPT: usize = 10_000;

/// Takes artifacts; one visitor alone.
pub struct BundleWriter {
    label: String,
    state: Mutex<State>,
}

struct State {
    file: NamedTempFile,
    size_bytes: u64,
    entries: BTreeMap<String, Body>,
}

impl BundleWriter {
    /// Begins one beside the file that it is to become. Errors: the folder's.
    pub fn create(target: &Path) -> io::Result<BundleWriter> {
        let file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder_of(target))?;
        file.as_file().write_all_at(&BEGIN, 0)?;
        sweep(folder_of(target), file.as_file());
        let state = State { file, size_bytes: BEGIN.len() as u64, entries: BTreeMap::new() };
        let label = format!("bundle {}", larder_patterns::shown(&target.to_string_lossy()));
        Ok(BundleWriter { label, state: Mutex::new(state) })
    }

    /// How many artifacts it holds, and how large it will be, in bytes.
    pub fn size(&self) -> (u64, u64) {
        let state = self.lock();
        let count = state.entries.len() as u64;
        (count, state.size_bytes + end(count).len() as u64)
    }

    /// Ends it and gives it its name, whole and synced. Replaces what stands there only if `replaces`.
    ///
    /// Errors: AlreadyExists; the disk's. Nothing is left behind then.
    pub fn finish(self, target: &Path, replaces: bool) -> io::Result<()> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.file.as_file().write_all_at(&end(state.entries.len() as u64), state.size_bytes)?;
        state.file.as_file().sync_all()?;
        // Before the rename: a name with a part of it must never be seen, whenever the power goes.
        let named = if replaces { state.file.persist(target) } else { state.file.persist_noclobber(target) };
        named.map_err(|error| error.error)?;
        File::open(folder_of(target))?.sync_all()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An entry counts once it is whole in the file: a panic elsewhere leaves at most bytes that are written over.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what exports that died left behind, by the clock of the disk: that of the file just made. A courtesy.
fn sweep(folder: &Path, fresh: &File) {
    let modified = |metadata: io::Result<Metadata>| metadata.and_then(|metadata| metadata.modified()).ok();
    let (Some(now), Ok(entries)) = (modified(fresh.metadata()), std::fs::read_dir(folder)) else { return };
    for entry in entries.take(MAX_SWEPT).flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
        // Not what a link leads to: `metadata` of an entry is its own.
        let age = modified(entry.metadata()).and_then(|made| now.duration_since(made).ok());
        if ours && age.is_some_and(|age| age > STALE) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl State {
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let head = Head { name: name.to_owned(), size_bytes: bytes.len() as u64, hash: Hash::of(bytes) };
        let file = self.file.as_file();
        file.write_all_at(&head.to_bytes(), self.size_bytes)?;
        let body = Body { offset: self.size_bytes + head.len(), size_bytes: head.size_bytes };
        file.write_all_at(bytes, body.offset)?;
        self.size_bytes = body.offset + body.size_bytes;
        self.entries.insert(name.to_owned(), body);
        Ok(())
    }
}

impl Transport for BundleWriter {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        Ok(memory::page(&self.lock().entries, request))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let state = self.lock();
        let body = *state.entries.get(name).ok_or_else(|| not_here(name))?;
        body.read(state.file.as_file(), name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        if !is_entry_name(name) {
            let detail = "a bundle takes names of two parts or more";
            return Err(TransportError::new(TransportErrorKind::Unsupported, "put", name, detail));
        }
        if bytes.len() as u64 > MAX_BODY_BYTES {
            let detail = format!("{} bytes are more than the {MAX_BODY_BYTES} allowed", bytes.len());
            return Err(TransportError::new(TransportErrorKind::TooLarge, "put", name, detail));
        }
        let mut state = self.lock();
        if let Some(body) = state.entries.get(name) {
            let there = (body.size_bytes == bytes.len() as u64)
                .then(|| body.read(state.file.as_file(), name, None, MAX_BODY_BYTES))
                .transpose()?;
            if there.as_deref() == Some(bytes) {
                return Ok(Put::AlreadyThere);
            }
            return Err(TransportError::new(TransportErrorKind::Conflict, "put", name, "other bytes stand there"));
        }
        state.append(name, bytes).map_err(|error| failed("put", name, error))?;
        Ok(Put::Written)
    }

    fn wait(&self, _hint: &WaitHint) -> Result<Wake, TransportError> {
        Err(TransportError::new(TransportErrorKind::Unsupported, "wait", &self.label, "a bundle has no news"))
    }

    fn label(&self) -> &str {
        &self.label
    }
}
