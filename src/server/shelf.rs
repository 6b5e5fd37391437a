//! What a server has to offer: a store in a folder, or a project's own ledger with its inbox.
//!
//! Of a project, everything in the ledger is offered, and what others put stands in the inbox, `.larder/inbox/`, a store like any
//! other, until the project's next exchange takes it from there by its usual rules. Invariant: the ledger itself is never
//! written to from here; what is in either is offered to everybody who may have it, so that devices meet here also while no daemon runs.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gate::{Gate, Meant, understand};
use super::heads::Heads;
use crate::ledger::{ArtifactKind, ArtifactName, MAX_PACK_BYTES, max_artifact_bytes, proves_wrong, verify_bytes};
use crate::model::{Space, canonical_bytes};
use crate::state::State;
use crate::sync::{INBOX, projects};
use crate::transport::{
    FolderTransport, ListRequest, Listing, MAX_PAGE_NAMES, Marker, Put, Transport, TransportError, TransportErrorKind,
    WaitHint, Wake, is_after, listed_as,
};

/// Nothing is taken when less is free on the disk, in bytes.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// What a server offers, and to whom it belongs.
pub struct Shelf {
    /// The place behind it.
    pub place: Arc<dyn Transport>,
    /// What may be put.
    pub gate: Gate,
    /// The only app it is for; `None` for any.
    pub app: Option<String>,
    /// The folder whose changes are news, and what stands before its names in the store.
    pub watched: Option<(PathBuf, String)>,
}

impl Shelf {
    /// A folder that is a store or may become one, for every project that comes.
    pub fn of_store(dir: &Path) -> Result<Shelf, TransportError> {
        let label = larder_patterns::shown(&dir.to_string_lossy());
        let place =
            StoreShelf { store: FolderTransport::open(dir, label)?, dir: dir.to_owned(), heads: Heads::default() };
        let watched = Some((dir.to_owned(), String::new()));
        Ok(Shelf { place: Arc::new(place), gate: Gate::Artifacts, app: None, watched })
    }

    /// The project whose own folder is `larder`.
    pub fn of_project(larder: &Path, app: &str) -> Result<Shelf, TransportError> {
        let (ledger_dir, inbox_dir) = (larder.join("ledger"), larder.join(INBOX));
        for folder in [&ledger_dir, &inbox_dir] {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| {
                let detail = error.to_string();
                TransportError::new(TransportErrorKind::Denied, "open", &folder.to_string_lossy(), detail)
            })?;
        }
        let place = ProjectShelf {
            ledger: FolderTransport::open_bare(&ledger_dir, "the ledger")?,
            inbox: FolderTransport::open(&inbox_dir, "the inbox")?,
            state: larder.join("state.db"),
            root: format!("{app}/"),
            app: app.to_owned(),
            heads: Heads::default(),
            ledger_dir: ledger_dir.clone(),
            inbox_dir,
        };
        let watched = Some((ledger_dir, format!("{app}/")));
        Ok(Shelf { place: Arc::new(place), gate: Gate::Artifacts, app: Some(app.to_owned()), watched })
    }
}

/// A store in a folder, which tells its heads.
struct StoreShelf {
    store: FolderTransport,
    dir: PathBuf,
    heads: Heads,
}

impl Transport for StoreShelf {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        self.store.list(request)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        self.store.get(name, range, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        require_room(&self.dir, name, bytes.len() as u64)?;
        match self.store.put_new(name, bytes) {
            Err(error) if error.kind == TransportErrorKind::Conflict => self.put_over_damage(name, bytes)?.ok_or(error),
            put => put,
        }
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        self.store.wait(hint)
    }

    fn label(&self) -> &str {
        self.store.label()
    }

    fn heads(&self, prefix: &str) -> Result<Option<Vec<String>>, TransportError> {
        let Some((app, space)) = app_and_space(prefix) else { return Ok(None) };
        tell_heads(&self.heads, app, &[self.dir.join(app).join(space.as_str())], &space)
    }
}

impl StoreShelf {
    /// Other bytes stand under the name of these, which are good: if those are provably not what the name says, these take their
    /// place. `None` if they are good as well, or nobody can tell.
    fn put_over_damage(&self, name: &str, bytes: &[u8]) -> Result<Option<Put>, TransportError> {
        let Some((_, Meant::Artifact(artifact))) = understand(name) else { return Ok(None) };
        let is_wrong = match self.store.get(name, None, max_artifact_bytes(artifact.kind())) {
            // Of records, several spellings are the same artifact.
            Ok(there) if verify_bytes(&artifact, &there).is_ok() => {
                return Ok((artifact.kind() == ArtifactKind::Records).then_some(Put::AlreadyThere));
            }
            Ok(there) => proves_wrong(&artifact, &there),
            Err(error) => matches!(error.kind, TransportErrorKind::TooLarge | TransportErrorKind::Corrupt),
        };
        let Some(mending) = self.store.mending().filter(|_| is_wrong) else { return Ok(None) };
        mending.mend(name, bytes).map(|()| Some(Put::Written))
    }
}

/// A project's ledger and inbox as one place.
struct ProjectShelf {
    ledger: FolderTransport,
    inbox: FolderTransport,
    state: PathBuf,
    app: String,
    root: String,
    heads: Heads,
    ledger_dir: PathBuf,
    inbox_dir: PathBuf,
}

impl ProjectShelf {
    /// A page of the ledger, whose names lack the app.
    fn list_ledger(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        let Some(prefix) = request.prefix.strip_prefix(&self.root) else { return Ok(Listing::default()) };
        let after = match request.after.as_deref() {
            None => None,
            Some(after) => match after.strip_prefix(&self.root) {
                Some(after) => Some(after.to_owned()).filter(|after| !after.is_empty()),
                None if *after < *self.root => None,
                None => return Ok(Listing::default()),
            },
        };
        let below = ListRequest { prefix: prefix.to_owned(), after, ..request.clone() };
        let mut listing = self.ledger.list(&below)?;
        listing.names.iter_mut().for_each(|name| name.insert_str(0, &self.root));
        Ok(listing)
    }

    /// The project's own markers, which stand in no folder.
    fn list_markers(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        let mut names: Vec<String> = Vec::new();
        for id in self.projects()? {
            let name = format!("{}markers/{id}.json", self.root);
            if let Some(entry) = listed_as(&name, &request.prefix, request.depth)
                && is_after(entry, request.after.as_deref())
                && names.last().is_none_or(|last| last != entry)
            {
                names.push(entry.to_owned());
            }
        }
        let more = names.len() > request.page_names();
        names.truncate(request.page_names());
        Ok(Listing { names, more })
    }

    fn projects(&self) -> Result<Vec<crate::transport::marker::ProjectId>, TransportError> {
        let failed = |error: crate::state::StateError| {
            TransportError::new(TransportErrorKind::Unavailable, "list", "markers", error.to_string())
        };
        let state = State::open_read_only(&self.state).map_err(failed)?;
        let ids = state.as_ref().map(projects).transpose().map_err(failed)?;
        Ok(ids.unwrap_or_default().into_iter().collect())
    }

    /// Other bytes stand in the inbox under the name of these, which are good: if those are provably not what the name says (a
    /// disk broke), they go. `None` if they are good as well.
    fn put_over_damage(
        &self,
        name: &str,
        artifact: &ArtifactName,
        bytes: &[u8],
    ) -> Result<Option<Put>, TransportError> {
        let there = self.inbox.get(name, None, MAX_PACK_BYTES);
        match there.map(|there| verify_bytes(artifact, &there).is_ok()) {
            // Of records, several spellings are the same artifact.
            Ok(true) => Ok((artifact.kind() == ArtifactKind::Records).then_some(Put::AlreadyThere)),
            Ok(false) => {
                // A parsed name stays below the folder.
                let path = self.inbox_dir.join(&self.app).join(artifact.to_string());
                std::fs::remove_file(&path).map_err(|error| {
                    let kind = TransportErrorKind::Unavailable;
                    TransportError::new(kind, "put", name, error.to_string()).with_source(error)
                })?;
                self.inbox.put_new(name, bytes).map(Some)
            }
            // It went to the ledger meanwhile.
            Err(error) if error.kind == TransportErrorKind::NotFound => self.inbox.put_new(name, bytes).map(Some),
            Err(error) => Err(error),
        }
    }

    fn marker(&self, name: &str) -> Result<Option<Vec<u8>>, TransportError> {
        let Some((_, Meant::Marker(id))) = understand(name) else { return Ok(None) };
        let ours = self.projects()?.contains(&id);
        Ok(ours.then(|| canonical_bytes(&Marker::new(&self.app, id)).expect("texts always serialise")))
    }
}

impl Transport for ProjectShelf {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        // The inbox first: what moves to the ledger meanwhile is found there, and never in neither.
        let inbox = self.inbox.list(request)?;
        let pages = [inbox, self.list_ledger(request)?, self.list_markers(request)?];
        Ok(unite(pages, request.page_names()))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        if let Some(marker) = self.marker(name)? {
            return crate::transport::memory::cut(name, &marker, range, max_bytes);
        }
        let missing = || TransportError::new(TransportErrorKind::NotFound, "get", name, "not here");
        let below = name.strip_prefix(&self.root).ok_or_else(missing)?;
        let from_ledger = || self.ledger.get(below, range.clone(), max_bytes);
        // It may move from the inbox to the ledger meanwhile, never back.
        for from in [&from_ledger as &dyn Fn() -> _, &|| self.inbox.get(name, range.clone(), max_bytes), &from_ledger] {
            match from() {
                Err(error) if error.kind == TransportErrorKind::NotFound => {}
                answer => return answer,
            }
        }
        Err(missing())
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        if self.marker(name)?.is_some() {
            return Ok(Put::AlreadyThere);
        }
        let unsupported =
            || TransportError::new(TransportErrorKind::Unsupported, "put", name, "that is no artifact of this project");
        let below = name.strip_prefix(&self.root).ok_or_else(unsupported)?;
        let (_, meant) = understand(name).ok_or_else(unsupported)?;
        if let Meant::Artifact(artifact) = &meant {
            match self.ledger.get(below, None, MAX_PACK_BYTES) {
                // Of records, several spellings are the same artifact.
                Ok(there) if there == bytes || verify_bytes(artifact, &there).is_ok() => return Ok(Put::AlreadyThere),
                // What is damaged here may be healed by what comes: the exchange decides.
                Ok(_) => {}
                Err(error) if error.kind == TransportErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        require_room(&self.inbox_dir, name, bytes.len() as u64)?;
        match (self.inbox.put_new(name, bytes), meant) {
            (Err(error), Meant::Artifact(artifact)) if error.kind == TransportErrorKind::Conflict => {
                self.put_over_damage(name, &artifact, bytes)?.ok_or(error)
            }
            (put, _) => put,
        }
    }

    fn wait(&self, _hint: &WaitHint) -> Result<Wake, TransportError> {
        Err(TransportError::new(TransportErrorKind::Unsupported, "wait", "for news", "the server tells of it itself"))
    }

    fn label(&self) -> &str {
        "the project"
    }

    fn heads(&self, prefix: &str) -> Result<Option<Vec<String>>, TransportError> {
        let Some((app, space)) = app_and_space(prefix).filter(|(app, _)| *app == self.app) else { return Ok(None) };
        // In this order, for the same reason as in a listing.
        let folders = [self.inbox_dir.join(app).join(space.as_str()), self.ledger_dir.join(space.as_str())];
        tell_heads(&self.heads, app, &folders, &space)
    }
}

/// `<app>/<space>/`, both as they must be.
fn app_and_space(prefix: &str) -> Option<(&str, Space)> {
    let (app, space) = prefix.strip_suffix('/')?.split_once('/')?;
    let plain = !app.is_empty() && app.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    Some((app, space.parse().ok()?)).filter(|_| plain && !app.starts_with('.'))
}

fn tell_heads(
    heads: &Heads,
    app: &str,
    folders: &[PathBuf],
    space: &Space,
) -> Result<Option<Vec<String>>, TransportError> {
    let failed = |error: std::io::Error| {
        TransportError::new(TransportErrorKind::Unavailable, "list", app, error.to_string()).with_source(error)
    };
    let found = heads.of_space(folders, space).map_err(failed)?;
    Ok(Some(found).filter(|found| found.len() <= MAX_PAGE_NAMES).map(|found| {
        let mut names: Vec<String> = found.iter().map(|name| format!("{app}/{name}")).collect();
        names.sort();
        names
    }))
}

/// One page out of several of the same request: each is known to hold all that comes up to its last name, or all there is.
fn unite<const N: usize>(pages: [Listing; N], page_names: usize) -> Listing {
    let ends = pages.iter().filter(|page| page.more).filter_map(|page| page.names.last());
    let end = ends.min().cloned();
    let mut more = pages.iter().any(|page| page.more);
    let mut names: Vec<String> = pages.into_iter().flat_map(|page| page.names).collect();
    names.sort();
    names.dedup();
    if let Some(end) = end {
        let before = names.len();
        names.retain(|name| *name <= end);
        more |= names.len() < before;
    }
    more |= names.len() > page_names;
    names.truncate(page_names);
    Listing { more: more && !names.is_empty(), names }
}

/// Refuses what would fill the disk.
fn require_room(folder: &Path, name: &str, bytes: u64) -> Result<(), TransportError> {
    let failed = |why: String| TransportError::new(TransportErrorKind::Unavailable, "put", name, why);
    let found = rustix::fs::statvfs(folder).map_err(|errno| failed(errno.to_string()))?;
    let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    if free_bytes >= MIN_FREE_BYTES.saturating_add(bytes) { Ok(()) } else { Err(failed(no_room(free_bytes))) }
}

/// What a device is told of a full disk: that it need do nothing.
fn no_room(free_bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    format!(
        "the server's disk is full ({} MiB are free, and {} MiB stay free): make room there; what it did not take is offered again by itself",
        free_bytes / MIB,
        MIN_FREE_BYTES / MIB
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], more: bool) -> Listing {
        Listing { names: names.iter().map(|&name| name.to_owned()).collect(), more }
    }

    #[test]
    fn pages_of_two_places_are_united_without_a_gap() {
        assert_eq!(unite([page(&["a", "c"], false), page(&["b", "c"], false)], 9), page(&["a", "b", "c"], false));
        assert_eq!(unite([page(&["a", "b"], true), page(&["c", "d"], false)], 2), page(&["a", "b"], true));
        assert_eq!(unite([page(&["a", "d"], true), page(&["b", "c"], true)], 2), page(&["a", "b"], true));
        assert_eq!(unite([page(&["b"], true), page(&["a"], true)], 1), page(&["a"], true));
        assert_eq!(unite([page(&[], false), page(&[], false)], 1), page(&[], false));
    }
}
