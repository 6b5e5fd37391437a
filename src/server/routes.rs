//! What is answered to what: names, artifacts, heads, news, and pairing.
//!
//! Invariant: nothing is looked at before the caller was let in, but the code of a device that is to be paired; a body is read only up to
//! the bound that its name has, within a time that its length allows, and only while there is room for it; it is kept only if
//! the token named its hash. What a caller may not see is not there for it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, request};
use axum::response::Response;
use axum::routing::any;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::bell::Listener;
use super::desk::Tried;
use super::gate::{Meant, understand};
use super::house::{Caller, House, Wire};
use super::refusal::{Refusal, answer};
use crate::ledger::ArtifactKind;
use crate::model::Hash;
use crate::transport::http::pairing::{PairAnswer, PairRequest};
use crate::transport::http::wire::{self, Asked, Names, News, PAIR_TARGET, parse_target};
use crate::transport::{ListRequest, Listing, MAX_PAGE_NAMES, Put, TransportError, TransportErrorKind};

/// What is read of an artifact at once.
const SLICE_BYTES: u64 = 1 << 20;
/// The longest request to be paired.
const MAX_PAIR_BYTES: u64 = 8 << 10;
/// Pages read to fill one of a caller that may not see every name.
const MAX_PAGES_READ: usize = 100;

/// Every route of a server.
pub fn router(house: Arc<House>) -> Router {
    Router::new().route(PAIR_TARGET, any(pair)).fallback(any(serve)).with_state(house)
}

async fn serve(State(house): State<Arc<House>>, Extension(wire): Extension<Arc<Wire>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answered = respond(&house, &wire, &parts, body).await;
    answered.unwrap_or_else(Refusal::into_response)
}

async fn respond(house: &Arc<House>, wire: &Wire, parts: &request::Parts, body: Body) -> Result<Response, Refusal> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > wire::MAX_TARGET_BYTES {
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    let caller = house.admit(wire, &parts.method, target, &parts.headers)?;
    let asked = parse_target(parts.uri.path(), parts.uri.query());
    let asked = asked.ok_or_else(|| unsupported("that is no target of this server"))?;
    check_app(house, &caller, asked.path())?;
    match (&parts.method, asked) {
        (&Method::PUT, Asked::Artifact(name)) => put(house, &caller, name, &parts.headers, body).await,
        (&Method::GET, asked) if caller.body == Hash::of(b"") => match asked {
            Asked::Artifact(name) => get(house, name, &parts.headers).await,
            Asked::List(request) => list(house, caller, request).await,
            Asked::Heads(prefix) => heads(house, prefix).await,
            Asked::News { after, wait_ms, .. } => news(house, &caller, after.as_deref(), wait_ms).await,
        },
        (&Method::GET, _) => Err(unsupported("a question has no body")),
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and PUT are known")),
    }
}

fn unsupported(reason: &str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
}

/// Whether the server has this app, and the caller may look there.
fn check_app(house: &House, caller: &Caller, path: &str) -> Result<(), Refusal> {
    let app = path.split('/').next().unwrap_or_default();
    if house.shelf.app.as_deref().is_some_and(|own| own != app) {
        let reason = "this server is for another project: is `appId` the same on both machines?";
        return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
    }
    if caller.may_see(path) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "a private space is for the devices of its owner alone"))
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server has a defect")),
    }
}

fn json(value: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("texts and numbers always serialise");
    let mut response = answer(StatusCode::OK, Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// One page of the names that the caller may see.
async fn list(house: &Arc<House>, caller: Caller, request: ListRequest) -> Result<Response, Refusal> {
    let place = house.shelf.place.clone();
    let listing = blocking(move || {
        let mut request = request;
        for _ in 0..MAX_PAGES_READ {
            let mut page = place.list(&request)?;
            let last = page.names.last().cloned();
            page.names.retain(|name| caller.may_see(name));
            // A page without names must be the last.
            match last {
                Some(last) if page.more && page.names.is_empty() => request = request.after(past_space(&last)),
                _ => return Ok(page),
            }
        }
        Ok(Listing::default())
    });
    let Listing { names, more } = listing.await?;
    Ok(json(&Names { names: Some(names), more }))
}

/// A text that sorts after everything in the space of a name, none of which the caller may see.
fn past_space(name: &str) -> String {
    let space: Vec<&str> = name.split('/').take(2).collect();
    format!("{}/\u{10FFFF}", space.join("/"))
}

async fn heads(house: &Arc<House>, prefix: String) -> Result<Response, Refusal> {
    let place = house.shelf.place.clone();
    let names = blocking(move || place.heads(&prefix)).await?;
    Ok(json(&Names { names: names.filter(|names| names.len() <= MAX_PAGE_NAMES), more: false }))
}

async fn news(house: &House, caller: &Caller, after: Option<&str>, wait_ms: u64) -> Result<Response, Refusal> {
    let deadline = Instant::now() + Duration::from_millis(wait_ms.min(wire::MAX_NEWS_WAIT_MS));
    let space = caller.space.as_ref().map_or("", |space| space.as_str());
    let listener = Listener { visitor: &caller.visitor, space };
    let (cursor, changed) = house.bell.wait(after, &listener, deadline).await;
    Ok(json(&News { changed, cursor }))
}

/// An artifact, or a part of it, in slices: whoever reads slowly holds up no memory.
async fn get(house: &Arc<House>, name: String, headers: &HeaderMap) -> Result<Response, Refusal> {
    let range = wanted_range(headers)?;
    let wanted = range.clone().unwrap_or(0..u64::MAX);
    let first = slice(house.clone(), name.clone(), wanted.clone()).await?;
    if range.is_some() && first.is_empty() {
        return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "it ends before"));
    }
    let len = first.len() as u64;
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let complete = len < SLICE_BYTES || wanted.start.saturating_add(len) >= wanted.end;
    let body = if complete { Body::from(first) } else { rest(house.clone(), name, wanted.clone(), first) };
    let mut response = answer(status, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if range.is_some() {
        // The whole size is not known without reading: a client that needs it reads on.
        let last = if complete { wanted.start + len - 1 } else { wanted.end - 1 };
        let shown = HeaderValue::from_str(&format!("bytes {}-{last}/*", wanted.start));
        headers.extend(shown.ok().map(|shown| (CONTENT_RANGE, shown)));
    }
    Ok(response)
}

async fn slice(house: Arc<House>, name: String, wanted: Range<u64>) -> Result<Vec<u8>, Refusal> {
    let place = house.shelf.place.clone();
    let part = wanted.start..wanted.end.min(wanted.start.saturating_add(SLICE_BYTES));
    blocking(move || place.get(&name, Some(part), SLICE_BYTES)).await
}

/// The slices from the first on.
fn rest(house: Arc<House>, name: String, wanted: Range<u64>, first: Vec<u8>) -> Body {
    let next = wanted.start + first.len() as u64;
    let more = futures_util::stream::try_unfold(next, move |at| {
        let (house, name, wanted) = (house.clone(), name.clone(), at..wanted.end);
        async move {
            if wanted.is_empty() {
                return Ok(None);
            }
            // A body that breaks off is gone on with by a range.
            let bytes =
                slice(house, name, wanted).await.map_err(|refusal| std::io::Error::other(format!("{refusal:?}")))?;
            let next = at + bytes.len() as u64;
            Ok::<_, std::io::Error>(if bytes.is_empty() { None } else { Some((Bytes::from(bytes), next)) })
        }
    });
    let first = futures_util::stream::once(async { Ok::<_, std::io::Error>(Bytes::from(first)) });
    Body::from_stream(first.chain(more))
}

/// The one range that was asked for, if any: from and to, or from on.
fn wanted_range(headers: &HeaderMap) -> Result<Option<Range<u64>>, Refusal> {
    let Some(value) = headers.get(RANGE) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let first: u64 = first.parse().ok()?;
        let end = if last.is_empty() { u64::MAX } else { last.parse::<u64>().ok()?.saturating_add(1) };
        (first < end).then_some(first..end)
    });
    parsed.map(Some).ok_or_else(|| Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "a range is `bytes=FIRST-LAST`"))
}

async fn put(
    house: &Arc<House>,
    caller: &Caller,
    name: String,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let max_bytes = house.shelf.gate.max_bytes(&name).map_err(unsupported)?;
    let bytes = read_body(house, headers, body, max_bytes).await?;
    if Hash::of(&bytes.bytes) != caller.body {
        return Err(unsupported("the body is not the one that the token was made for"));
    }
    let (place, gate, artifact) = (house.shelf.place.clone(), house.shelf.gate, name.clone());
    let put = blocking(move || {
        let refused = |why: String| TransportError::new(TransportErrorKind::Unsupported, "put", &artifact, why);
        gate.check(&artifact, &bytes.bytes).map_err(refused)?;
        // The room for the body is given back with it.
        place.put_new(&artifact, &bytes.bytes)
    });
    let put = put.await?;
    if put == Put::Written {
        house.bell.ring_put(&caller.visitor, &name);
        let complete = match understand(&name) {
            Some((_, Meant::Artifact(name))) => name.kind() == ArtifactKind::Checkpoint,
            _ => false,
        };
        if complete {
            (house.on_arrival)();
        }
    }
    Ok(answer(if put == Put::Written { StatusCode::CREATED } else { StatusCode::OK }, Body::empty()))
}

/// A body in memory, and the room it takes.
struct Held {
    bytes: Vec<u8>,
    _room: tokio::sync::OwnedSemaphorePermit,
}

async fn read_body(house: &House, headers: &HeaderMap, body: Body, max_bytes: u64) -> Result<Held, Refusal> {
    let length =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    let length = length.ok_or_else(|| Refusal::new(StatusCode::LENGTH_REQUIRED, "say how long the body is"))?;
    if length > max_bytes {
        let reason = format!("{length} bytes are more than the {max_bytes} that this name may have");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
    }
    let limits = &house.limits;
    let kibibytes = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX);
    let room = tokio::time::timeout(limits.body, house.bodies.clone().acquire_many_owned(kibibytes)).await;
    let Ok(Ok(room)) = room else { return Err(Refusal::busy("too much arrives at once", 5)) };
    let allowed = limits.body + Duration::from_millis(length * 1000 / limits.slowest_bytes_per_second.max(1));
    let read = tokio::time::timeout(allowed, gather(body, length)).await;
    let bytes = read.map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body comes too slowly"))??;
    Ok(Held { bytes, _room: room })
}

async fn gather(body: Body, length: u64) -> Result<Vec<u8>, Refusal> {
    let broke = || Refusal::new(StatusCode::BAD_REQUEST, "the body broke off");
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| broke())?);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| broke())?;
        if (bytes.len() + piece.len()) as u64 > length {
            return Err(broke());
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(broke()) }
}

async fn pair(State(house): State<Arc<House>>, request: Request) -> Response {
    match *request.method() {
        // Whoever pairs looks first who answers.
        Method::GET => answer(StatusCode::OK, Body::empty()),
        Method::POST => try_pair(&house, request).await.unwrap_or_else(Refusal::into_response),
        _ => Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are known").into_response(),
    }
}

async fn try_pair(house: &Arc<House>, request: Request) -> Result<Response, Refusal> {
    house.count_pairing()?;
    let (parts, body) = request.into_parts();
    let body = read_body(house, &parts.headers, body, MAX_PAIR_BYTES).await?;
    let refused = || Refusal::new(StatusCode::FORBIDDEN, "that code is not good (any more): have a new one shown");
    let request: PairRequest = serde_json::from_slice(&body.bytes).map_err(|_| refused())?;
    let (house, asked) = (house.clone(), request.clone());
    let now_ms = house.env.clock.wall_ms();
    let desk = house.clone();
    let tried = blocking(move || {
        desk.desk.pair(now_ms, &asked, &desk.lines).map_err(|error| {
            tracing::error!(%error, "a device could not be paired");
            TransportError::new(TransportErrorKind::Unavailable, "pair", "a device", "the server's disk failed")
        })
    });
    match tried.await? {
        (Tried::Paired, Some((key, line))) => {
            house.look_at_desk();
            Ok(json(&PairAnswer::make(&key, &request, &house.id, &line)))
        }
        (Tried::Impossible(why), _) => Err(Refusal::new(StatusCode::FORBIDDEN, why)),
        _ => Err(refused()),
    }
}
