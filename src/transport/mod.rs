//! Places that hold artifacts, behind four small verbs: list, get, put_new, wait.
//!
//! Invariant: nothing behind this trait is removed but what its writer proved to be garbage ([`Removing`]), and nothing replaced but
//! bytes that are not what their name says, by those that are ([`Mending`]); a name has one content for ever. Names are
//! `<app>/<space>/<chain>/<folder>/<file>`; what stands in the bytes is nobody's business here: verification,
//! ordering, forwarding and resuming are written once above, in `sync::exchange`.
//!
//! A new transport is one file and one line in [`TRANSPORTS`]; `contract` holds the laws it must keep.

pub mod backend;
pub mod bundle;
mod cancel;
pub mod contract;
pub mod deadline;
mod drive;
mod error;
pub mod faulty;
pub mod folder;
pub mod http;
pub mod marker;
pub mod memory;
pub mod object;
mod signal;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

pub use backend::BackendTransport;
pub use bundle::{Bundle, BundleWriter};
pub use cancel::{Cancel, CancelHook};
pub use deadline::{BACKEND_BELL, CALL, DeadlineBackend, DeadlineTransport, Deadlines};
pub use error::{TransportError, TransportErrorKind};
pub use faulty::{FaultPlan, FaultyTransport};
pub use folder::FolderTransport;
pub use http::HttpTransport;
pub use marker::{Marker, MarkerError};
pub use memory::{MemoryPlace, MemoryTransport};
pub use object::ObjectTransport;

/// Names longer than this are refused, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;
/// One part of a name is at most this long, in bytes: the limit of the file systems that may carry it.
pub const MAX_PART_BYTES: usize = 255;
/// A page holds at most this many names, whatever was asked for.
pub const MAX_PAGE_NAMES: usize = 10_000;

/// How far below its prefix a listing looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// The entries directly below; what has entries of its own is named once, with `/` at its end.
    Children,
    /// Every artifact below.
    All,
}

/// One page of names is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// Empty, or ends in `/`.
    pub prefix: String,
    /// Only names that sort after this text, which need not be a name that exists. A folder counts as passed if it,
    /// or anything below it, is given here.
    pub after: Option<String>,
    /// How far to look.
    pub depth: Depth,
    /// Names per page; at least 1, cut at [`MAX_PAGE_NAMES`].
    pub limit: usize,
}

impl ListRequest {
    /// The first page below `prefix`.
    pub fn new(prefix: impl Into<String>, depth: Depth) -> ListRequest {
        ListRequest { prefix: prefix.into(), after: None, depth, limit: MAX_PAGE_NAMES }
    }

    /// The page after `name`.
    pub fn after(self, name: impl Into<String>) -> ListRequest {
        ListRequest { after: Some(name.into()), ..self }
    }

    /// Names per page that a transport has to give: never 0, never above the bound.
    pub fn page_names(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE_NAMES)
    }
}

/// One page of names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// Whole names (the prefix included), ascending by bytes, each once.
    pub names: Vec<String>,
    /// True if names may follow; never true on a page without names.
    pub more: bool,
}

/// What became of a `put_new`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It is there now.
    Written,
    /// It was there before, with the same bytes.
    AlreadyThere,
}

/// How long to wait for news.
#[derive(Clone, Debug)]
pub struct WaitHint {
    /// At most this long; 0 looks once.
    pub timeout_ms: u64,
    /// Ends the wait early.
    pub cancel: Cancel,
}

/// Why a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Somebody else put something since this handle was opened or last woken by a change. May be wrong, never late.
    Changed,
    /// Nothing was heard.
    Timeout,
    /// The waiter was called off.
    Cancelled,
}

/// An artifact on its way to a place, read as it is needed.
pub struct Body {
    /// How long it is.
    pub size_bytes: u64,
    /// Gives the bytes, and an error in place of the end if they are not what they should be.
    pub reader: Box<dyn Read + Send>,
}

impl Body {
    /// All of it. Errors: Corrupt if it cannot be read, or is not as long as was said.
    pub fn into_bytes(self, name: &str) -> Result<Vec<u8>, TransportError> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.size_bytes).unwrap_or(0));
        let read = self.reader.take(self.size_bytes.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| unread(name, error))?;
        if bytes.len() as u64 == self.size_bytes {
            Ok(bytes)
        } else {
            Err(unread(name, std::io::ErrorKind::InvalidData))
        }
    }
}

/// What was to be put could not be read here.
fn unread(name: &str, error: impl Into<std::io::Error>) -> TransportError {
    let error = error.into();
    TransportError::new(TransportErrorKind::Corrupt, "put", name, format!("read it here: {error}")).with_source(error)
}

/// A place that holds artifacts. One handle is one visitor; several may be open on the same place.
pub trait Transport: Send + Sync {
    /// One page of names, ascending by bytes.
    ///
    /// Idempotent, safe together with everything. A listing may be stale or short: what it does not name may exist.
    /// Errors: any kind but NotFound (a prefix without names is an empty page); leaves nothing behind.
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError>;

    /// The bytes of `name`, or those of `range` as far as they exist.
    ///
    /// Idempotent, safe together with everything. More than `max_bytes` are never held in memory: TooLarge.
    /// Errors: NotFound; Corrupt if the place knows that its copy is damaged. The bytes are not trusted by the caller.
    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError>;

    /// Stores `bytes` under `name`, once and for ever.
    ///
    /// Atomic: a reader sees nothing or all. Idempotent: the same bytes again are `AlreadyThere`. Safe together: of two
    /// writers one is `Written`. Errors: Conflict if other bytes stand there, which stay; Unsupported for a name
    /// that [`check_name`] refuses. After any other error the artifact may or may not be there, but never in part.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError>;

    /// As `put_new`, but seen by others, and durable, only once `settle_puts` returns: for many artifacts at once.
    ///
    /// What it answers is what it saw; a place that gains nothing from waiting puts at once.
    fn put_later(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        self.put_new(name, bytes)
    }

    /// As `put_later`, of an artifact that need not be in memory as a whole.
    ///
    /// Errors: also Corrupt if `body` could not be read to its end; then nothing was put.
    fn put_from(&self, name: &str, body: Body) -> Result<Put, TransportError> {
        self.put_later(name, &body.into_bytes(name)?)
    }

    /// How many bytes of a large artifact are best asked for at once, so that it need not be in memory as a whole; `None`
    /// where each request is dear, and it is got whole.
    fn part_bytes(&self) -> Option<u64> {
        None
    }

    /// Names and makes durable what `put_later` and `put_from` took, in that order.
    ///
    /// Errors: as `put_new`; then any of it may be there or not, and it has to be put again.
    fn settle_puts(&self) -> Result<(), TransportError> {
        Ok(())
    }

    /// Blocks until somebody else put something, the time is over or the waiter is called off.
    ///
    /// One waiter per handle. A put of this handle does not wake it; a put between two waits is not missed.
    /// Errors: Unsupported if the place cannot tell (the caller polls then); Unavailable if the line broke.
    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError>;

    /// What people call this place, and the key of what is remembered about it. Holds no secret.
    fn label(&self) -> &str;

    /// The newest checkpoints of all chains directly below `prefix`, all that share the highest number of a chain, if
    /// the place can tell in one request; `None` if it cannot, and the caller lists.
    ///
    /// Never more than [`MAX_PAGE_NAMES`]. Idempotent; may be stale, like a listing.
    fn heads(&self, prefix: &str) -> Result<Option<Vec<String>>, TransportError> {
        let _ = prefix;
        Ok(None)
    }

    /// What can be done here about bytes that are not what their name says; `None` if the place checks by itself, or cannot.
    fn mending(&self) -> Option<&dyn Mending> {
        None
    }

    /// How what nobody needs any more is taken away here; `None` if the place cannot, or leaves that to whoever keeps it.
    fn removing(&self) -> Option<&dyn Removing> {
        None
    }
}

/// What a place can do about what nobody needs any more.
pub trait Removing: Send + Sync {
    /// Takes `name` away. The caller wrote it, and has proven that no checkpoint that counts names it.
    ///
    /// Idempotent: what is not there is done. Need not be durable: what comes back is taken away again. Errors: as `get`.
    fn remove(&self, name: &str) -> Result<(), TransportError>;

    /// Takes away the wrong bytes that were set aside when right ones took their place, whoever did it: nobody can tell what is in them.
    ///
    /// Idempotent; nothing where none are kept. Errors: as `get`.
    fn remove_set_aside(&self) -> Result<(), TransportError> {
        Ok(())
    }
}

/// What a place can do about damage: whoever finds it leaves word, whoever has the right bytes puts them there.
///
/// Only the caller can tell damage, by the hash in the name. Wrong bytes are never merely taken away: where something carries the
/// place elsewhere, that would take the right ones away there. Where word would cost more than it is worth, nobody leaves any.
pub trait Mending: Send + Sync {
    /// Leaves word that wrong bytes stand under `name`. Idempotent; durable when it returns.
    fn ask(&self, _name: &str) -> Result<(), TransportError> {
        Ok(())
    }

    /// The names below `<app>/` of which word was left, in order, at most [`MAX_ASKED`]; `None`, without a request, where
    /// nobody leaves any.
    fn asked(&self, _app: &str) -> Result<Option<Vec<String>>, TransportError> {
        Ok(None)
    }

    /// Takes the word back: right bytes stand there. Idempotent.
    fn settle(&self, _name: &str) -> Result<(), TransportError> {
        Ok(())
    }

    /// Puts `bytes` in the place of what stands under `name`, which the caller has proven to be wrong, and keeps that aside where files
    /// can stand beside.
    ///
    /// Atomic where the place can exchange two names; else a crash leaves nothing under the name, never a part. Durable when
    /// it returns. Errors: as `put_new`.
    fn mend(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError>;
}

/// Words of damage that are read; more than these are a disk to replace.
pub const MAX_ASKED: usize = 1000;

/// What a transport needs to know beyond its address.
#[derive(Clone)]
pub struct Opening {
    /// The project's id, the first part of every name.
    pub app: String,
    /// What relative addresses are relative to.
    pub base: std::path::PathBuf,
    /// The environment: where keys for places elsewhere come from. Never shown.
    pub vars: Arc<BTreeMap<String, String>>,
    /// The project's own folder: who this device is, and what pairing left there. `None` if there is no device.
    pub larder: Option<std::path::PathBuf>,
    /// How long the place is waited for.
    pub deadlines: Deadlines,
}

impl Opening {
    /// Of no device, without an environment, and in no haste.
    pub fn new(app: &str, base: &std::path::Path) -> Opening {
        let (app, base) = (app.to_owned(), base.to_owned());
        Opening { app, base, vars: Arc::default(), larder: None, deadlines: Deadlines::default() }
    }
}

/// How long a place may take to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// It is in this process, or as near as the project itself.
    None,
    /// As long as a folder of a file server that wakes up.
    Folder,
    /// As long as it takes: it ends every wait by itself, and is given up before that where others wait.
    Its,
}

/// One line of the table: a scheme and how to open what it names.
pub struct TransportKind {
    /// What stands before the first `:` of an address.
    pub scheme: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// How long it may take.
    pub limit: Limit,
    /// Opens an address, scheme included.
    pub open: Open,
}

/// What an address without a scheme is: a path.
const FOLDER: &str = "folder";

type Open = fn(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError>;

const fn kind(scheme: &'static str, about: &'static str, limit: Limit, open: Open) -> TransportKind {
    TransportKind { scheme, about, limit, open }
}

/// Every transport of this build.
pub const TRANSPORTS: &[TransportKind] = &[
    kind(FOLDER, "a folder, also one that something carries elsewhere", Limit::Folder, folder::open),
    kind("http", "another machine's `larder serve`, on this machine", Limit::Its, http::open),
    kind("https", "another machine's `larder serve`", Limit::Its, http::open),
    kind("memory", "a named place inside this process", Limit::None, memory::open),
    kind("s3", "a bucket of S3 or of what speaks like it", Limit::Its, object::open_s3),
    kind("gs", "a bucket of Google Cloud Storage", Limit::Its, object::open_gs),
    kind("az", "a container of Azure Blob Storage", Limit::Its, object::open_az),
    kind("sqlite", "a database as a place for artifacts", Limit::None, backend::open),
];

/// Opens an address by its scheme; one without a scheme is the path of a folder.
///
/// Errors: Unsupported, with the list of known schemes, for any other; `s3://x` is never taken for a folder of that name.
pub fn open(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    open_checked(address, opening, || Ok(()))
}

/// The same once `check` found nothing against it, which may have to ask the place itself.
pub fn open_checked(
    address: &str,
    opening: &Opening,
    check: impl FnOnce() -> Result<(), TransportError> + Send + 'static,
) -> Result<Arc<dyn Transport>, TransportError> {
    let scheme = crate::config::address::scheme(address).map_or(FOLDER, |(scheme, _)| scheme);
    let Some(kind) = TRANSPORTS.iter().find(|kind| kind.scheme == scheme) else { return Err(unknown_scheme(scheme)) };
    let (open, its_address, its_opening) = (kind.open, address.to_owned(), opening.clone());
    let begin = move || check().and_then(|()| open(&its_address, &its_opening));
    let usual = match kind.limit {
        Limit::None => return begin(),
        Limit::Folder => Some(deadline::ANSWER),
        Limit::Its => None,
    };
    let label = if scheme == FOLDER { folder::label(address, opening) } else { crate::config::address::shown(address) };
    let place = DeadlineTransport::open(&label, usual, opening.deadlines.clone(), begin)?;
    Ok(Arc::new(place))
}

fn unknown_scheme(scheme: &str) -> TransportError {
    let known: Vec<&str> = TRANSPORTS.iter().map(|kind| kind.scheme).collect();
    let shown: String = scheme.chars().filter(|c| !c.is_control()).take(40).collect();
    let detail = format!("no transport is called `{shown}:`; known are {}", known.join(", "));
    TransportError::new(TransportErrorKind::Unsupported, "open", "an address", detail)
}

/// Refuses names that could leave a folder or be read as another name somewhere.
pub fn check_name(name: &str) -> Result<(), TransportError> {
    let sound = name.len() <= MAX_NAME_BYTES && name.split('/').all(is_sound_part);
    if sound {
        return Ok(());
    }
    let detail = "a name has parts of 1 to 255 bytes between `/`, without `.`, `..`, `\\` and control characters";
    Err(TransportError::new(TransportErrorKind::Unsupported, "take", name, detail))
}

fn is_sound_part(part: &str) -> bool {
    let bounded = !part.is_empty() && part.len() <= MAX_PART_BYTES;
    bounded && part != "." && part != ".." && !part.chars().any(|c| c.is_control() || c == '\\')
}

/// The entry of a listing that `name` falls under: itself, or the folder directly below `prefix`; `None` if it stands
/// elsewhere.
pub(crate) fn listed_as<'a>(name: &'a str, prefix: &str, depth: Depth) -> Option<&'a str> {
    let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
    match (depth, rest.find('/')) {
        (Depth::Children, Some(slash)) => Some(&name[..prefix.len() + slash + 1]),
        _ => Some(name),
    }
}

/// True if a listing that goes on after `after` has still to name `entry`.
pub(crate) fn is_after(entry: &str, after: Option<&str>) -> bool {
    after.is_none_or(|after| entry > after && !(entry.ends_with('/') && after.starts_with(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheme_is_refused_with_the_known_ones_and_never_taken_for_a_folder() {
        let base = tempfile::tempdir().expect("a folder");
        let opening = Opening::new("app", base.path());
        std::fs::create_dir_all(base.path().join("s4:/bucket/x")).expect("a folder of that name");

        for address in ["s4://bucket/x", "s4:", "htps://host", "MEMORY:x"] {
            let error = open(address, &opening).map(|_| ()).expect_err(address);
            assert_eq!(error.kind, TransportErrorKind::Unsupported, "{address}");
            assert!(error.to_string().contains("known are folder, http, https, memory, s3"), "{error}");
        }
    }

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        let long = "x".repeat(256);
        for name in ["", "/a", "a/", "a//b", "a/../b", "./a", "a\\b", "a\nb", "a\0b", &long, &"a/".repeat(600)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("app/shared/laptop-abc234~1/checkpoints/cp-1.json").is_ok());
    }

    #[test]
    fn a_folder_is_listed_once_whatever_follows_it() {
        assert_eq!(listed_as("a/b/c", "a/", Depth::Children), Some("a/b/"));
        assert_eq!(listed_as("a/b", "a/", Depth::Children), Some("a/b"));
        assert_eq!(listed_as("a/b/c", "a/", Depth::All), Some("a/b/c"));
        assert_eq!(listed_as("a/", "a/", Depth::All), None);
        assert!(!is_after("a/b/", Some("a/b/")));
        assert!(!is_after("a/b/", Some("a/b/zzz")));
        assert!(is_after("a/b/", Some("a/b-")));
    }
}
