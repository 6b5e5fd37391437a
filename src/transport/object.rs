//! A bucket as a place for artifacts: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.
//!
//! Invariants: a key is created and never replaced but where its bytes are proven wrong, which the server itself must hold (a conditional put); a server that ignores
//! the condition is found out before the first artifact is put, and refused. Nothing that a server answers is held in
//! memory beyond a bound, no request waits for ever, and no key, token or query that may hold one is ever shown.
//! The crate `object_store` signs, speaks and retries; its small runtime lives in here. Knows nothing of what an artifact is.

mod address;
mod explain;
mod line;
mod profile;
mod service;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::drive::block_on;
use super::folder::{STORE_BYTES, STORE_FILE};
use super::{
    Depth, ListRequest, Listing, Mending, Put, Removing, Transport, TransportError, TransportErrorKind, WaitHint, Wake,
    check_name, is_after, listed_as, memory,
};
use address::Writes;
use explain::Scene;

pub use service::{open_az, open_gs, open_s3};

/// Keys asked for in one request: what every service gives at most.
const KEYS_PER_REQUEST: usize = 1000;
/// Requests that one page of names may cost.
const MAX_REQUESTS_PER_LIST: usize = 1000;
/// A request without a body is given up after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A body that stands still for this long is given up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A line may be this slow, in bytes a second.
const SLOWEST_LINE: u64 = 16 << 10;

/// A visitor of one bucket, or of what stands below a prefix in it.
pub struct ObjectTransport {
    objects: Arc<dyn ObjectStore>,
    /// The same bucket, to be listed page by page.
    pages: Arc<dyn PaginatedListStore>,
    /// Empty, or ends in `/`.
    prefix: String,
    scene: Scene,
    writes: Writes,
    /// The server was seen to hold the condition of a put.
    proven: Mutex<bool>,
}

/// What became of a key that was to be created.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Created {
    Now,
    Before,
}

impl ObjectTransport {
    fn new<T>(bucket: Arc<T>, prefix: &str, scene: Scene, writes: Writes) -> ObjectTransport
    where
        T: ObjectStore + PaginatedListStore,
    {
        let (objects, pages) = (bucket.clone(), bucket);
        ObjectTransport { objects, pages, prefix: prefix.to_owned(), scene, writes, proven: Mutex::new(false) }
    }

    fn key(&self, action: &'static str, name: &str) -> Result<Path, TransportError> {
        let key = format!("{}{name}", self.prefix);
        if key.len() > super::MAX_NAME_BYTES {
            let detail = format!("with its prefix the name is longer than {} bytes", super::MAX_NAME_BYTES);
            return Err(TransportError::new(TransportErrorKind::Unsupported, action, name, detail));
        }
        // Not `from`, which would write another key for what is not ASCII.
        Path::parse(key).map_err(|error| self.scene.explain(action, name, error.into()))
    }

    /// Runs a request to its end on the runtime, within a time.
    fn ask<T>(
        &self,
        (action, name): (&'static str, &str),
        timeout: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TransportError> {
        let answer = block_on(async { tokio::time::timeout(timeout, request).await }).map_err(|error| {
            let detail = format!("a thread could not be started: {error}");
            TransportError::new(TransportErrorKind::Unavailable, action, name, detail)
        })?;
        match answer {
            Ok(answer) => answer.map_err(|error| self.scene.explain(action, name, error)),
            Err(_) => Err(self.scene.silent(action, name, timeout)),
        }
    }

    /// Creates a key. Whatever stands there stays.
    fn create(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<Created, TransportError> {
        let key = self.key("put", name)?;
        let payload = PutPayload::from(bytes.to_vec());
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.ask(("put", name), time_for(bytes.len() as u64), async {
            match self.objects.put_opts(&key, payload, options).await {
                Ok(_) => Ok(Created::Now),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Before),
                Err(error) => Err(error),
            }
        });
        put.map_err(
            |error| if error.kind == TransportErrorKind::NotFound { self.scene.no_bucket("put") } else { error },
        )
    }

    /// Finds out, once for this visitor and before its first artifact, whether the server holds the condition of a put.
    ///
    /// It is tried on the file that says what this is: it has the same bytes whoever writes it, so a server that replaces
    /// it all the same does no harm.
    fn prove_writes(&self) -> Result<(), TransportError> {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        while !*proven {
            // The second try is a put onto what was just put there.
            if tries == 2 {
                return Err(self.scene.ignores_conditions());
            }
            *proven = self.create(STORE_FILE, STORE_BYTES, PutMode::Create)? == Created::Before;
            tries += 1;
        }
        Ok(())
    }

    /// Says whether the same bytes stand there; `None` if nothing does. Errors: Conflict.
    fn compare(&self, name: &str, bytes: &[u8]) -> Result<Option<Put>, TransportError> {
        let found = match self.get(name, None, bytes.len() as u64) {
            Err(error) if error.kind == TransportErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind == TransportErrorKind::TooLarge => None,
            found => Some(found?),
        };
        if found.as_deref() == Some(bytes) {
            return Ok(Some(Put::AlreadyThere));
        }
        Err(TransportError::new(TransportErrorKind::Conflict, "put", name, "other bytes stand there"))
    }

    fn open_object(&self, name: &str, range: Option<Range<u64>>) -> Result<GetResult, TransportError> {
        let key = self.key("get", name)?;
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        self.ask(("get", name), REQUEST_TIMEOUT, self.objects.get_opts(&key, options))
    }

    /// Reads a body to its end; never more than `max_bytes`, whatever the server said before, and neither with pauses nor
    /// so slowly that it never ends.
    fn read_body(&self, name: &str, body: GetResult, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let length = body.range.end.saturating_sub(body.range.start);
        memory::bounded(name, length, None, max_bytes)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut stream = body.into_stream();
        let stopped = self.ask(("get", name), time_for(length), async {
            loop {
                let Ok(next) = tokio::time::timeout(IDLE_TIMEOUT, stream.next()).await else {
                    return Ok(Some(self.scene.silent("get", name, IDLE_TIMEOUT)));
                };
                let Some(part) = next.transpose()? else { return Ok(None) };
                if let Err(error) = memory::bounded(name, (bytes.len() + part.len()) as u64, None, max_bytes) {
                    return Ok(Some(error));
                }
                bytes.extend_from_slice(&part);
            }
        })?;
        stopped.map_or(Ok(bytes), Err)
    }

    /// One answer of the server to a listing: names in no promised order, and how to go on.
    fn keys(
        &self,
        request: &ListRequest,
        token: Option<String>,
        max_keys: usize,
    ) -> Result<(Vec<String>, Option<String>), TransportError> {
        let below = format!("{}{}", self.prefix, request.prefix);
        let after = request.after.as_ref().filter(|after| after.starts_with(&request.prefix));
        let options = PaginatedListOptions {
            offset: after.map(|after| format!("{}{after}", self.prefix)),
            delimiter: (request.depth == Depth::Children).then_some("/".into()),
            max_keys: Some(max_keys.min(KEYS_PER_REQUEST)),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let prefix = Some(below.as_str()).filter(|below| !below.is_empty());
        let shown = if request.prefix.is_empty() { &self.scene.label } else { &request.prefix };
        let page = self.ask(("list", shown), REQUEST_TIMEOUT, self.pages.list_paginated(prefix, options));
        let page = page.map_err(|error| match error.kind {
            TransportErrorKind::NotFound => self.scene.no_bucket("list"),
            _ => error,
        })?;
        let objects = page.result.objects.into_iter().map(|object| object.location.to_string());
        let folders = page.result.common_prefixes.into_iter().map(|folder| format!("{folder}/"));
        let names = objects.chain(folders).filter_map(|key| Some(key.strip_prefix(&self.prefix)?.to_owned()));
        Ok((names.collect(), page.page_token))
    }
}

impl Transport for ObjectTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        let folder = request.prefix.strip_suffix('/');
        let passed = |after: &String| *after > request.prefix && !after.starts_with(&request.prefix);
        let reachable = request.prefix.is_empty() || folder.is_some_and(|folder| check_name(folder).is_ok());
        if !reachable || request.after.as_ref().is_some_and(passed) {
            return Ok(Listing::default());
        }
        let (mut names, mut token) = (Vec::new(), None);
        for _ in 0..MAX_REQUESTS_PER_LIST {
            let wanted = request.page_names() - names.len();
            let (keys, next) = self.keys(request, token, wanted)?;
            names.extend(keys.into_iter().filter(|key| is_listed(key, request)).take(wanted));
            if next.is_none() || names.len() == request.page_names() {
                names.sort_unstable();
                names.dedup();
                return Ok(Listing { more: next.is_some() && !names.is_empty(), names });
            }
            token = next;
        }
        let detail = format!("the server's listing did not end within {MAX_REQUESTS_PER_LIST} requests");
        Err(TransportError::new(TransportErrorKind::TooLarge, "list", &request.prefix, detail))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        if !is_artifact_name(name) {
            return Err(TransportError::new(TransportErrorKind::NotFound, "get", name, "no artifact has this name"));
        }
        let Some(range) = range else {
            return self.read_body(name, self.open_object(name, None)?, max_bytes);
        };
        // Asked for first: servers answer in several ways to a range that lies beyond the end.
        let key = self.key("get", name)?;
        let head = GetOptions { head: true, ..GetOptions::default() };
        let size_bytes = self.ask(("get", name), REQUEST_TIMEOUT, self.objects.get_opts(&key, head))?.meta.size;
        let range = memory::bounded(name, size_bytes, Some(range), max_bytes)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.read_body(name, self.open_object(name, Some(range))?, max_bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        check_name(name)?;
        if !is_artifact_name(name) {
            let detail = "a bucket takes names of two parts or more";
            return Err(TransportError::new(TransportErrorKind::Unsupported, "put", name, detail));
        }
        let created = match self.writes {
            Writes::Conditional => {
                self.prove_writes()?;
                self.create(name, bytes, PutMode::Create)?
            }
            // The user's word in the address: nobody else can tell whether something was there at this very moment.
            Writes::Unconditional => match self.compare(name, bytes)? {
                Some(put) => return Ok(put),
                None => self.create(name, bytes, PutMode::Overwrite)?,
            },
        };
        match created {
            Created::Now => Ok(Put::Written),
            Created::Before => self.compare(name, bytes)?.ok_or_else(|| {
                let detail = "somebody else puts it at this moment";
                TransportError::new(TransportErrorKind::Unavailable, "put", name, detail)
            }),
        }
    }

    /// A bucket cannot tell, and looking costs money: the caller's interval decides.
    fn wait(&self, _hint: &WaitHint) -> Result<Wake, TransportError> {
        let detail = "a bucket cannot tell of news";
        Err(TransportError::new(TransportErrorKind::Unsupported, "wait", &self.scene.label, detail))
    }

    fn label(&self) -> &str {
        &self.scene.label
    }

    fn mending(&self) -> Option<&dyn Mending> {
        Some(self)
    }

    fn removing(&self) -> Option<&dyn Removing> {
        Some(self)
    }
}

/// A bucket keeps its own bytes whole, so nobody leaves word in it: that would cost a request at every exchange. What is found wrong all
/// the same is replaced, and nothing is kept of it.
impl Mending for ObjectTransport {
    fn mend(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        let key = self.key("mend", name)?;
        let head = GetOptions { head: true, ..GetOptions::default() };
        let standing = match self.ask(("mend", name), REQUEST_TIMEOUT, self.objects.get_opts(&key, head)) {
            Err(error) if error.kind == TransportErrorKind::NotFound => return self.put_new(name, bytes).map(drop),
            found => found?.meta,
        };
        // What somebody took away or put right meanwhile stays as it is.
        let mode = match self.writes {
            Writes::Conditional => PutMode::Update(UpdateVersion { e_tag: standing.e_tag, version: standing.version }),
            Writes::Unconditional => PutMode::Overwrite,
        };
        let (options, payload) = (PutOptions { mode, ..PutOptions::default() }, PutPayload::from(bytes.to_vec()));
        let put = self.ask(("mend", name), time_for(bytes.len() as u64), async {
            match self.objects.put_opts(&key, payload, options).await {
                Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => Ok(false),
                done => done.map(|_| true),
            }
        })?;
        let changed =
            || TransportError::new(TransportErrorKind::Conflict, "mend", name, "somebody else changed it just now");
        if put { Ok(()) } else { Err(changed()) }
    }
}

impl Removing for ObjectTransport {
    fn remove(&self, name: &str) -> Result<(), TransportError> {
        let key = self.key("remove", name)?;
        self.ask(("remove", name), time_for(0), async {
            match self.objects.delete(&key).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        })
    }
}

/// How long a body of this length may take.
fn time_for(length: u64) -> Duration {
    REQUEST_TIMEOUT + Duration::from_secs(length / SLOWEST_LINE)
}

/// True for what `put_new` takes and a listing names: below an app. A file beside the apps is no artifact.
fn is_artifact_name(name: &str) -> bool {
    name.contains('/') && check_name(name).is_ok()
}

fn is_listed(name: &str, request: &ListRequest) -> bool {
    let whole = name.strip_suffix('/').filter(|_| request.depth == Depth::Children);
    let sound = whole.map_or_else(|| is_artifact_name(name), |folder| check_name(folder).is_ok());
    let entry = listed_as(name, &request.prefix, request.depth);
    sound && entry == Some(name) && is_after(name, request.after.as_deref())
}
