//! A peer behind HTTP: what `larder serve` offers, as a place for artifacts.
//!
//! Invariant: every request carries a token made for it alone; nothing that comes back is believed beyond what the trait says. Without
//! TLS only this machine is spoken to, unless a person said otherwise when the device was paired. An answer that breaks off goes
//! on with a range. Knows nothing of what an artifact is.

mod line;
pub mod pairing;
mod pin;
pub mod tls;
pub mod token;
pub mod wire;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use tokio::sync::Notify;

use super::drive::block_on;
use super::{
    Cancel, Depth, ListRequest, Listing, Mending, Opening, Put, Transport, TransportError, TransportErrorKind,
    WaitHint, Wake, check_name, is_after,
};
use crate::ledger::Identity;
use line::{Line, Question};
pub use line::{Patience, Site};
use pairing::{Code, PLAIN_LINE, PairAnswer, PairRequest, ROOTS_LINE, certificate_line};
pub use pin::Pin;
use tls::{Belief, Seen};

/// How often an answer that broke off is gone on with.
const MAX_RESUMES: u32 = 8;

/// What a device needs to be let in.
#[derive(Clone)]
pub struct Credentials {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// What pairing found out about the server.
    pub pin: Pin,
}

/// A visitor of one server.
pub struct HttpTransport {
    line: Line,
    app: String,
    /// Begins every name here: the app and `/`.
    root: String,
    label: String,
    /// Up to where news was heard.
    cursor: Mutex<Option<String>>,
}

impl HttpTransport {
    /// Visits the server at an address, and finds out whether it lets this device in.
    ///
    /// Errors: Unsupported for what is no address or no server of ours; Denied for a line that anybody could listen to, and by
    /// the server; Unavailable.
    pub fn connect(
        address: &str,
        app: &str,
        credentials: Credentials,
        patience: Patience,
    ) -> Result<HttpTransport, TransportError> {
        let site = site(address)?;
        if !site.is_safe() && !credentials.pin.plain {
            return Err(refuse_plain(address));
        }
        let belief = credentials.pin.certificate.map_or(Belief::Roots, Belief::Pinned);
        let label = site.address();
        let line = Line::new(site, Some(credentials), (belief, Seen::default()), patience)?;
        let (app, root) = (app.to_owned(), format!("{app}/"));
        let transport = HttpTransport { line, app, root, label, cursor: Mutex::new(None) };
        // From here on nothing that others put is missed.
        transport.ask_news(0, &Cancel::new()).map_err(|error| TransportError { action: "open", ..error })?;
        Ok(transport)
    }

    /// The whole answer to a question.
    fn ask(&self, question: &Question<'_>) -> Result<(StatusCode, Vec<u8>), TransportError> {
        let mut kept = Vec::new();
        let status = drive(question.action, question.name, self.line.ask(question, &mut kept))?;
        Ok((status, kept))
    }

    fn ask_names(&self, name: &str, target: String) -> Result<wire::Names, TransportError> {
        let (_, body) = self.ask(&Question::get("list", name, target, wire::MAX_LIST_BYTES))?;
        read_json("list", name, &body)
    }

    /// Asks whether others put something, waiting so long for it; `None` if it was called off.
    fn ask_news(&self, wait_ms: u64, cancel: &Cancel) -> Result<Option<bool>, TransportError> {
        let after = self.cursor().clone();
        let target = wire::news_target(&self.app, after.as_deref(), wait_ms);
        let question = Question::get("wait", &self.label, target, wire::MAX_WORD_BYTES);
        let called_off = Arc::new(Notify::new());
        let bell = called_off.clone();
        // A permit is kept, so that it does not matter who comes first.
        let _hook = cancel.on_cancel(move || bell.notify_one());
        let mut body = Vec::new();
        let answered = drive("wait", &self.label, async {
            tokio::select! {
                biased;
                () = called_off.notified() => Ok(None),
                status = self.line.ask(&question, &mut body) => status.map(Some),
            }
        })?;
        if answered.is_none() {
            return Ok(None);
        }
        let news: wire::News = read_json("wait", &self.label, &body)?;
        *self.cursor() = Some(news.cursor);
        Ok(Some(news.changed && after.is_some()))
    }

    fn cursor(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Every change under this lock is one assignment: a panic elsewhere cannot leave it half made.
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for the names that can stand in this place.
    fn is_ours(&self, name: &str) -> bool {
        name.starts_with(&self.root) && check_name(name).is_ok()
    }

    /// One page below a folder of this app.
    fn list_below(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        let names = self.ask_names(&request.prefix, wire::list_target(request))?;
        let mut listing = Listing { names: names.names.unwrap_or_default(), more: names.more };
        let limit = request.page_names();
        listing.more |= listing.names.len() > limit;
        listing.names.truncate(limit);
        Ok(listing)
    }
}

/// Runs a request to its end.
fn drive<T>(
    action: &'static str,
    name: &str,
    work: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let no_runtime = |error: std::io::Error| {
        TransportError::new(TransportErrorKind::Unavailable, action, name, "no thread can be had").with_source(error)
    };
    block_on(work).map_err(no_runtime)?
}

fn read_json<T: serde::de::DeserializeOwned>(
    action: &'static str,
    name: &str,
    body: &[u8],
) -> Result<T, TransportError> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the answer is not understood: {error}");
        TransportError::new(TransportErrorKind::Unsupported, action, name, detail)
    })
}

impl Transport for HttpTransport {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        if request.prefix.is_empty() {
            let below = ListRequest { prefix: self.root.clone(), ..request.clone() };
            if request.depth == Depth::All {
                return self.list_below(&below);
            }
            let any = ListRequest { limit: 1, after: None, depth: Depth::All, ..below };
            let due = is_after(&self.root, request.after.as_deref()) && !self.list_below(&any)?.names.is_empty();
            return Ok(Listing { names: if due { vec![self.root.clone()] } else { Vec::new() }, more: false });
        }
        let folder = request.prefix.strip_suffix('/');
        let reachable = folder.is_some_and(|folder| folder == self.app || self.is_ours(folder));
        if reachable { self.list_below(request) } else { Ok(Listing::default()) }
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        if !self.is_ours(name) {
            return Err(TransportError::new(TransportErrorKind::NotFound, "get", name, "no artifact has this name"));
        }
        let wanted = range.clone().unwrap_or(0..u64::MAX);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut kept = Vec::new();
        for resumes in 0.. {
            let before = kept.len() as u64;
            let mut question =
                Question::get("get", name, wire::artifact_target(name), max_bytes.saturating_sub(before));
            let first = wanted.start.saturating_add(before);
            question.range = (range.is_some() || before > 0).then_some((first, wanted.end - 1));
            let outcome = drive("get", name, self.line.ask(&question, &mut kept));
            match outcome {
                Ok(StatusCode::OK) if question.range.is_some() => {
                    let detail = "it does not know ranges";
                    return Err(TransportError::new(TransportErrorKind::Unsupported, "get", name, detail));
                }
                // Nothing is behind what came before.
                Ok(_) => return Ok(kept),
                Err(error) => {
                    let progress = kept.len() as u64 > before && error.kind == TransportErrorKind::Unavailable;
                    if !progress || resumes == MAX_RESUMES {
                        return Err(error);
                    }
                }
            }
        }
        Ok(kept)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, TransportError> {
        check_name(name)?;
        if !self.is_ours(name) {
            let detail = format!("this place takes artifacts below `{}`", self.root);
            return Err(TransportError::new(TransportErrorKind::Unsupported, "put", name, detail));
        }
        let mut question = Question::get("put", name, wire::artifact_target(name), wire::MAX_WORD_BYTES);
        question.method = Method::PUT;
        question.body = Some(bytes);
        let (status, _) = self.ask(&question)?;
        Ok(if status == StatusCode::CREATED { Put::Written } else { Put::AlreadyThere })
    }

    fn wait(&self, hint: &WaitHint) -> Result<Wake, TransportError> {
        let started = Instant::now();
        let timeout = Duration::from_millis(hint.timeout_ms);
        loop {
            if hint.cancel.is_cancelled() {
                return Ok(Wake::Cancelled);
            }
            let left = timeout.saturating_sub(started.elapsed());
            let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(wire::MAX_NEWS_WAIT_MS);
            match self.ask_news(wait_ms, &hint.cancel)? {
                None => return Ok(Wake::Cancelled),
                Some(true) => return Ok(Wake::Changed),
                Some(false) if timeout.saturating_sub(started.elapsed()).is_zero() => return Ok(Wake::Timeout),
                Some(false) => {}
            }
        }
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn mending(&self) -> Option<&dyn Mending> {
        Some(self)
    }

    fn heads(&self, prefix: &str) -> Result<Option<Vec<String>>, TransportError> {
        let two_parts =
            prefix.strip_suffix('/').filter(|folder| self.is_ours(folder) && folder.split('/').count() == 2);
        match two_parts {
            Some(_) => Ok(self.ask_names(prefix, wire::heads_target(prefix))?.names),
            None => Ok(None),
        }
    }
}

/// Only the server itself touches what stands there: it proves bytes wrong before it has right ones take their place, so an offer is
/// all there is to say. Word of damage is left with it by nobody.
impl Mending for HttpTransport {
    fn mend(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        self.put_new(name, bytes).map(drop)
    }
}

/// Opens `http://HOST:PORT` or `https://HOST:PORT`: the device is the project's own, and what pairing left tells the server.
pub fn open(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    let site = site(address)?;
    let unpaired = || {
        let detail = "this device is not paired with it: `larder peers pair NAME` does that";
        TransportError::new(TransportErrorKind::Denied, "open", &site.address(), detail)
    };
    let larder = opening.larder.as_ref().ok_or_else(unpaired)?;
    let pin = Pin::load(larder, &site.address())?.ok_or_else(unpaired)?;
    let identity = Identity::load(larder).map_err(|error| {
        TransportError::new(TransportErrorKind::Denied, "open", address, error.to_string()).with_source(error)
    })?;
    let credentials = Credentials { identity: Arc::new(identity), pin };
    Ok(Arc::new(HttpTransport::connect(address, &opening.app, credentials, Patience::default())?))
}

/// Whether an address without TLS may be spoken to, although it is elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plain {
    /// Not: everybody on the way could read and change what is said.
    Refused,
    /// A person said so.
    Allowed,
}

/// Pairs a device with the server at an address: proves to it that a person here knows the code, and finds out who it is.
///
/// Errors: Denied for a wrong or used code, for a line that anybody could listen to, and for somebody who only poses as the
/// server; Throttled after too many codes; as `connect` else.
pub fn pair(address: &str, app: &str, identity: &Identity, code: &Code, plain: Plain) -> Result<Pin, TransportError> {
    let site = site(address)?;
    let shown_address = site.address();
    let denied = |detail: &str| TransportError::new(TransportErrorKind::Denied, "pair with", &shown_address, detail);
    if !site.is_safe() && plain == Plain::Refused {
        return Err(refuse_plain(address));
    }
    let seen = Seen::default();
    let line = Line::new(site, None, (Belief::Anybody, seen.clone()), Patience::default())?;
    // A look first: who is it? The code's proof is made for whom we see.
    let mut words = Vec::new();
    let look = Question::get("pair with", &shown_address, wire::PAIR_TARGET.to_owned(), wire::MAX_WORD_BYTES);
    drive("pair with", &shown_address, line.ask(&look, &mut words))?;
    let shown = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    let line_text = match shown {
        None => PLAIN_LINE.to_owned(),
        Some(shown) if shown.vouched_for => ROOTS_LINE.to_owned(),
        Some(shown) => shown.certificate.to_string(),
    };
    let key = code.key();
    let device = (identity.public_key(), identity.origin(), identity.certificate());
    let request = PairRequest::make(&key, app, device, &line_text);
    let body = serde_json::to_vec(&request).expect("texts always serialise");
    let mut question = Question::get("pair with", &shown_address, wire::PAIR_TARGET.to_owned(), wire::MAX_WORD_BYTES);
    (question.method, question.body) = (Method::POST, Some(&*body));
    let mut answer = Vec::new();
    drive("pair with", &shown_address, line.ask(&question, &mut answer))?;
    let answer: PairAnswer = read_json("pair with", &shown_address, &answer)?;
    if !answer.proves(&key, &request, &line_text) {
        return Err(denied("who answers does not know the code: it is another server than the one that showed it"));
    }
    if *seen.lock().unwrap_or_else(PoisonError::into_inner) != shown {
        return Err(denied("two servers answer there: try it again"));
    }
    let certificate = shown.filter(|shown| !shown.vouched_for).map(|shown| shown.certificate);
    let address = line.site().address();
    let plain = plain == Plain::Allowed && !line.site().is_safe();
    Ok(Pin::new(&address, &answer.server, certificate, plain))
}

/// The line of a server that shows these bytes as its certificate; plain if it shows none.
pub fn server_line(certificate: Option<&[u8]>) -> String {
    certificate.map_or_else(|| PLAIN_LINE.to_owned(), certificate_line)
}

fn site(address: &str) -> Result<Site, TransportError> {
    let refused = |why: String| TransportError::new(TransportErrorKind::Unsupported, "open", &shown(address), why);
    Site::parse(address).map_err(refused)
}

fn shown(address: &str) -> String {
    crate::config::address::shown(address)
}

fn refuse_plain(address: &str) -> TransportError {
    let detail =
        "without TLS everybody on the way can listen; use https, or say `--allow-plain-http` to `larder peers pair`";
    TransportError::new(TransportErrorKind::Denied, "open", &shown(address), detail)
}
