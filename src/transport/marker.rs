//! What a store says of itself beside the artifacts: whose project it holds, and of a backend which origins write there.
//!
//! Invariant: two projects that merely share a name never mix, unless a person says that they are one. A backend has one
//! project id per app, for ever. Any other place has a marker of its own for each id, named by it: nothing there is made
//! by two writers in two ways, and a project is at home where one of the markers is its own.
//! All of them are small canonical JSON, read within a bound and refused in any other form.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_adapters::{
    AdapterError, Body, ErrorKind, Expected, FileSyncAdapter, Query, Record, RecordId, RowContent, SHARED_OWNER,
};
use serde::{Deserialize, Serialize};

use super::backend::ledger_app;
use super::{Depth, ListRequest, Transport, TransportError};
use crate::env::Env;
use crate::model::{OriginName, canonical_bytes, require_canonical};

pub(crate) const MARKER_PATH: &str = "marker";
pub(crate) const WRITERS_PREFIX: &str = "writers/";
/// Below the app, where no space can be.
const MARKERS: &str = "markers/";
/// No marker and no note beside it is longer.
pub const MAX_NOTE_BYTES: u64 = 4096;
const MAX_WRITERS: usize = 10_000;
/// Markers of one place that are looked at.
const MAX_MARKERS: usize = 100;
const PROJECT_ID_CHARS: usize = 26;

/// Why a backend cannot be this project's.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// Another project of the same name lives there.
    #[error(
        "use this backend for `{app}`: another project of that name keeps its files there; \
         set `appId` in sync-config.json to a name of your own"
    )]
    OtherProject {
        /// The name both have.
        app: String,
        /// Theirs.
        found: ProjectId,
        /// Ours.
        expected: ProjectId,
    },
    /// The note is damaged.
    #[error("read `{path}` of app `{app}-ledger`: {why}")]
    Corrupt {
        /// The app.
        app: String,
        /// The record.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The same of a place that is no backend, where a person may say that both are one.
    #[error(
        "use {place} for `{app}`: another project of that name keeps its files there; if it is this one, run \
         `larder peers join NAME`, else set `appId` in sync-config.json to a name of your own"
    )]
    OtherProjects {
        /// The name both have.
        app: String,
        /// The place.
        place: String,
    },
    /// It is not what it was.
    #[error(
        "use {place} for `{app}`: the project was there before and is not now: is its disk mounted, and all of it there? \
         `larder peers join NAME` fills it anew"
    )]
    Emptied {
        /// The project's name.
        app: String,
        /// The place.
        place: String,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] AdapterError),
    /// The place failed.
    #[error(transparent)]
    Place(#[from] TransportError),
}

/// Names one project across machines: 26 characters of `a-z2-7`, drawn once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectId(String);

impl ProjectId {
    /// Draws a new one.
    pub fn draw(env: &Env) -> ProjectId {
        ProjectId(env.random_base32(PROJECT_ID_CHARS))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ProjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ProjectId {
    type Error = String;

    fn try_from(text: String) -> Result<ProjectId, String> {
        let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if plain && text.len() == PROJECT_ID_CHARS {
            Ok(ProjectId(text))
        } else {
            Err(format!("a project id has {PROJECT_ID_CHARS} characters of a-z and 2-7"))
        }
    }
}

impl From<ProjectId> for String {
    fn from(id: ProjectId) -> String {
        id.0
    }
}

/// Says whose project a place holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// The project's name.
    pub app: String,
    kind: MarkerKind,
    /// The project.
    pub project: ProjectId,
    v: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MarkerKind {
    Marker,
}

#[derive(Serialize, Deserialize)]
struct WriterNote {
    kind: WriterKind,
    origin: OriginName,
    v: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WriterKind {
    Writer,
}

impl Marker {
    /// The marker's content, for transports that keep it as a file.
    pub fn new(app: &str, project: ProjectId) -> Marker {
        Marker { app: app.to_owned(), kind: MarkerKind::Marker, project, v: 1 }
    }

    /// The project that a backend holds; `None` if nobody claimed it. Writes nothing.
    ///
    /// Errors: OtherProject if it is not `project`; the backend's.
    pub fn of_backend(
        adapter: &Arc<dyn FileSyncAdapter>,
        app: &str,
        project: Option<&ProjectId>,
    ) -> Result<Option<ProjectId>, MarkerError> {
        read_marker(adapter, app)?.map(|found| agree(app, found.project, project)).transpose()
    }

    /// Makes a backend this project's, or finds that it is.
    ///
    /// Shape: no marker: `project`, or a new id, is written; a marker: adopted if `project` is `None`, else it must be equal.
    /// Idempotent; of two projects that claim at once one wins and the other gets `OtherProject`, or adopts.
    pub fn claim(
        adapter: &Arc<dyn FileSyncAdapter>,
        app: &str,
        project: Option<&ProjectId>,
        env: &Env,
    ) -> Result<ProjectId, MarkerError> {
        if let Some(found) = read_marker(adapter, app)? {
            return agree(app, found.project, project);
        }
        let ours = project.cloned().unwrap_or_else(|| ProjectId::draw(env));
        let written = write_note(adapter, app, MARKER_PATH, &Marker::new(app, ours.clone()));
        match written {
            Ok(()) => Ok(ours),
            Err(error) if error.kind == ErrorKind::Conflict => match read_marker(adapter, app)? {
                Some(found) => agree(app, found.project, project),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

impl Marker {
    /// The project that a place holds: one of `ours` if it is there; the lowest of those there if `ours` is `None`, for
    /// whoever takes what is there as its own; `None` if none is there. `seen` says that one was there before. Writes nothing.
    ///
    /// Errors: OtherProjects; Emptied; the place's.
    pub fn of_place(
        place: &dyn Transport,
        app: &str,
        ours: Option<&BTreeSet<ProjectId>>,
        seen: bool,
    ) -> Result<Option<ProjectId>, MarkerError> {
        let prefix = format!("{app}/{MARKERS}");
        let request = ListRequest { limit: MAX_MARKERS, ..ListRequest::new(&prefix, Depth::Children) };
        let names = place.list(&request)?.names;
        let ids = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.strip_suffix(".json"));
        let found: BTreeSet<ProjectId> = ids.filter_map(|id| ProjectId::try_from(id.to_owned()).ok()).collect();
        let (app, place) = (app.to_owned(), place.label().to_owned());
        let known = found.iter().find(|id| ours.is_none_or(|ours| ours.contains(id)));
        match known {
            Some(known) => Ok(Some(known.clone())),
            None if !found.is_empty() => Err(MarkerError::OtherProjects { app, place }),
            None if seen => Err(MarkerError::Emptied { app, place }),
            None => Ok(None),
        }
    }

    /// Makes a place this project's, beside whatever project it holds already. Idempotent.
    pub fn set_place(place: &dyn Transport, app: &str, project: &ProjectId) -> Result<(), MarkerError> {
        let bytes = canonical_bytes(&Marker::new(app, project.clone()));
        let bytes = bytes.expect("a note of texts and integers always serialises");
        place.put_new(&format!("{app}/{MARKERS}{project}.json"), &bytes)?;
        Ok(())
    }
}

fn agree(app: &str, found: ProjectId, ours: Option<&ProjectId>) -> Result<ProjectId, MarkerError> {
    match ours {
        Some(expected) if *expected != found => {
            Err(MarkerError::OtherProject { app: app.to_owned(), found, expected: expected.clone() })
        }
        _ => Ok(found),
    }
}

/// Puts this origin on the list of those who write to the backend. Idempotent.
pub fn register_writer(adapter: &Arc<dyn FileSyncAdapter>, app: &str, origin: &OriginName) -> Result<(), MarkerError> {
    let path = format!("{WRITERS_PREFIX}{origin}");
    let row = adapter.get(&RecordId::new(&ledger_app(app), SHARED_OWNER, &path))?;
    if row.is_some_and(|row| !matches!(row.content, RowContent::Absent)) {
        return Ok(());
    }
    let note = WriterNote { kind: WriterKind::Writer, origin: origin.clone(), v: 1 };
    match write_note(adapter, app, &path, &note) {
        Err(error) if error.kind != ErrorKind::Conflict => Err(error.into()),
        _ => Ok(()),
    }
}

/// The origins that write to the backend, in order; names that are none are left out.
///
/// Bounded at 10,000: a longer list says no more than that there are others.
pub fn writers(adapter: &Arc<dyn FileSyncAdapter>, app: &str) -> Result<Vec<OriginName>, MarkerError> {
    let mut origins = Vec::new();
    let mut after: Option<String> = None;
    let mut seen_rows = 0;
    while seen_rows < MAX_WRITERS {
        let query = Query::paths(&ledger_app(app), SHARED_OWNER, WRITERS_PREFIX, after.as_deref(), MAX_WRITERS);
        let page = adapter.query(&query)?;
        let names = page.rows.iter().filter_map(|row| row.path.strip_prefix(WRITERS_PREFIX));
        origins.extend(names.filter_map(|name| name.parse::<OriginName>().ok()));
        seen_rows += page.rows.len();
        after = page.rows.last().map(|row| row.path.clone());
        if !page.more || after.is_none() {
            break;
        }
    }
    Ok(origins)
}

/// True if artifacts have to be stored in the backend: somebody other than `own` writes there.
pub fn has_other_writers(adapter: &Arc<dyn FileSyncAdapter>, app: &str, own: &OriginName) -> Result<bool, MarkerError> {
    Ok(writers(adapter, app)?.iter().any(|origin| origin != own))
}

fn write_note(
    adapter: &Arc<dyn FileSyncAdapter>,
    app: &str,
    path: &str,
    note: &impl Serialize,
) -> Result<(), AdapterError> {
    let bytes = canonical_bytes(note).expect("a note of texts and integers always serialises");
    let record = Record {
        app: ledger_app(app),
        owner: SHARED_OWNER.to_owned(),
        path: path.to_owned(),
        body: Body::Chunks { keep: 0, add: vec![bytes] },
        last_updated_ms: 0,
        created_at_ms: 0,
        mirror: None,
    };
    adapter.set(&record, &Expected::Absent).map(|_| ())
}

fn read_marker(adapter: &Arc<dyn FileSyncAdapter>, app: &str) -> Result<Option<Marker>, MarkerError> {
    let corrupt =
        |why: &str| MarkerError::Corrupt { app: app.to_owned(), path: MARKER_PATH.to_owned(), why: why.to_owned() };
    let id = RecordId::new(&ledger_app(app), SHARED_OWNER, MARKER_PATH);
    let bytes = match adapter.get(&id)?.map(|row| row.content) {
        None | Some(RowContent::Absent) => return Ok(None),
        Some(RowContent::Text(text)) if text.len() as u64 <= MAX_NOTE_BYTES => text.into_bytes(),
        Some(RowContent::Chunked { chunk_count: 1, size_bytes }) if size_bytes <= MAX_NOTE_BYTES => {
            adapter.read_chunks(&id, 0, 1)?.concat()
        }
        Some(_) => return Err(corrupt("it is no small note")),
    };
    require_canonical(&bytes).map_err(|error| corrupt(&error.to_string()))?;
    let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| corrupt(&error.to_string()))?;
    match (marker.v, marker.app == app) {
        (1, true) => Ok(Some(marker)),
        (1, false) => Err(corrupt("it names another app")),
        _ => Err(corrupt("it is of a format version this release does not know; upgrade larder")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_adapters::MemoryAdapter;

    fn world(seed: u64) -> Env {
        Env::fixed(0, seed, "host", "/nowhere".into()).0
    }

    fn backend() -> Arc<dyn FileSyncAdapter> {
        Arc::new(MemoryAdapter::new())
    }

    #[test]
    fn a_new_project_claims_a_joining_one_adopts_and_a_stranger_is_told_to_set_app_id() {
        let backend = backend();
        let stranger = ProjectId::draw(&world(3));

        let first = Marker::claim(&backend, "app", None, &world(1)).expect("claimed");
        let joined = Marker::claim(&backend, "app", None, &world(2)).expect("adopted");
        let again = Marker::claim(&backend, "app", Some(&first), &world(1)).expect("found");
        let refused = Marker::claim(&backend, "app", Some(&stranger), &world(3)).expect_err("refused");

        assert_eq!((&joined, &again), (&first, &first));
        assert!(refused.to_string().contains("set `appId`"), "{refused}");
        assert!(matches!(refused, MarkerError::OtherProject { found, .. } if found == first));
        assert!(Marker::claim(&backend, "other", Some(&stranger), &world(3)).is_ok());
    }

    #[test]
    fn a_place_is_adopted_refused_or_joined_by_what_its_markers_say() {
        let place = crate::transport::MemoryPlace::new().visit("there");
        let (first, second) = (ProjectId::draw(&world(1)), ProjectId::draw(&world(2)));
        let only = |id: &ProjectId| BTreeSet::from([id.clone()]);
        let of = |ours: Option<&ProjectId>, seen| Marker::of_place(&place, "app", ours.map(only).as_ref(), seen);

        assert_eq!(of(None, false).expect("looked"), None);
        assert_eq!(of(Some(&first), false).expect("looked"), None);
        assert!(matches!(of(Some(&first), true), Err(MarkerError::Emptied { .. })));
        assert!(matches!(of(None, true), Err(MarkerError::Emptied { .. })));

        Marker::set_place(&place, "app", &first).expect("set");
        Marker::set_place(&place, "app", &first).expect("set again");
        place.put_new("app/markers/junk.json", b"").expect("put");
        assert_eq!(of(None, false).expect("adopted"), Some(first.clone()));
        assert_eq!(of(Some(&first), true).expect("known"), Some(first.clone()));
        let refused = of(Some(&second), false).expect_err("another project");
        assert!(refused.to_string().contains("larder peers join"), "{refused}");

        Marker::set_place(&place, "app", &second).expect("joined");
        assert_eq!(of(Some(&second), true).expect("joined"), Some(second.clone()));
        assert_eq!(of(None, false).expect("adopted"), Some(first.clone().min(second)));
        let elsewhere = Marker::of_place(&place, "other", Some(&only(&first)), false);
        assert_eq!(elsewhere.expect("looked"), None);
    }

    #[test]
    fn a_project_keeps_its_id_when_it_moves_to_an_empty_backend() {
        let ours = ProjectId::draw(&world(1));

        assert_eq!(Marker::claim(&backend(), "app", Some(&ours), &world(2)).expect("claimed"), ours);
    }

    #[test]
    fn a_damaged_marker_stops_and_is_named() {
        let canonical = Marker::new("app", ProjectId::draw(&world(1)));
        let newer = serde_json::to_string(&Marker { v: 2, ..canonical.clone() }).expect("json");
        let spaced = serde_json::to_string_pretty(&canonical).expect("json");
        for text in ["", "{}", "not json", &spaced, &newer, &"x".repeat(5000)] {
            let adapter = MemoryAdapter::new();
            adapter.foreign_set(&RecordId::new("app-ledger", "shared", "marker"), text);
            let backend: Arc<dyn FileSyncAdapter> = Arc::new(adapter);

            let error = Marker::claim(&backend, "app", None, &world(1)).expect_err(text);

            assert!(matches!(error, MarkerError::Corrupt { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn artifacts_are_pushed_once_somebody_else_writes() {
        let adapter = MemoryAdapter::new();
        adapter.foreign_set(&RecordId::new("app-ledger", "shared", "writers/../../x"), "junk");
        let backend: Arc<dyn FileSyncAdapter> = Arc::new(adapter);
        let (a, b): (OriginName, OriginName) =
            ("a-abc234".parse().expect("a name"), "b-abc234".parse().expect("a name"));

        register_writer(&backend, "app", &a).expect("registered");
        register_writer(&backend, "app", &a).expect("registered again");
        assert!(!has_other_writers(&backend, "app", &a).expect("read"));
        register_writer(&backend, "app", &b).expect("registered");

        assert!(has_other_writers(&backend, "app", &a).expect("read"));
        assert_eq!(writers(&backend, "app").expect("read"), [a, b]);
    }

    #[test]
    fn marker_and_writers_are_no_artifacts() {
        use crate::transport::{BackendTransport, Depth, ListRequest, Transport, TransportErrorKind};
        let backend = backend();
        Marker::claim(&backend, "app", None, &world(1)).expect("claimed");
        register_writer(&backend, "app", &"a-abc234".parse().expect("a name")).expect("registered");
        let transport = BackendTransport::new(backend, "app", "backend:test").expect("opened");

        assert!(transport.list(&ListRequest::new("app/", Depth::All)).expect("listed").names.is_empty());
        assert!(transport.list(&ListRequest::new("", Depth::Children)).expect("listed").names.is_empty());
        assert_eq!(transport.get("app/marker", None, 9).expect_err("none").kind, TransportErrorKind::NotFound);
        assert!(transport.put_new("app/writers/b-abc234", b"x").is_err());
    }
}
