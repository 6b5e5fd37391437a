//! Hears that the deployment changed: the vendor's sync socket, with the question `larder:newest` standing on it.
//!
//! What is spoken is the part of the vendor's protocol that one standing question needs: `Connect`, `ModifyQuerySet` with `Add`, and of the
//! answers `Transition`, whole or in chunks, `Ping`, `FatalError` and `AuthError`.
//! Invariant: what the socket says is a hint to ask over HTTP and believed no further. Whatever it says wrong ends the connection, which is
//! made again after a rest; meanwhile the clock asks. Nothing said there is shown but bounded and without the secret.
//! Deliberately absent: writing, signing in, and questions with contents. Those go over HTTP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::call::Caller;
use crate::socket::MAX_MESSAGE_BYTES;
use crate::{drive, lock};

/// The one question that stands on the socket.
const QUESTION: u64 = 0;
/// From opening the socket to the first answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// The service says `Ping` every 15 seconds when it has nothing to say.
const SILENCE: Duration = Duration::from_secs(60);
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A connection that stood so long was a good one: the next is tried soon.
const STOOD: Duration = Duration::from_secs(30);
const MAX_PARTS: u64 = 4_096;
/// The state of the question set before the first `Transition`: no question, nobody signed in, timestamp 0.
const NO_TIME: &str = "AAAAAAAAAAA=";

/// Rings for everybody who listens through one handle.
pub(super) struct Bell {
    rung: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: usize,
    task: Option<JoinHandle<()>>,
    is_live: bool,
    mute: Option<String>,
}

impl Default for Bell {
    fn default() -> Bell {
        Bell { rung: watch::Sender::new(0), state: Mutex::default() }
    }
}

impl Bell {
    /// One more listens; the socket is opened for the first, if there is to be one. What it returns changes at each hint, and whenever
    /// the socket comes or goes.
    pub fn join(self: &Arc<Self>, caller: Option<&Arc<Caller>>) -> watch::Receiver<u64> {
        let mut state = lock(&self.state);
        state.listeners += 1;
        if state.task.is_none()
            && let (Some(caller), Ok(runtime)) = (caller, drive::handle())
        {
            state.task = Some(runtime.spawn(hear_on(Arc::clone(self), Arc::clone(caller))));
        }
        self.rung.subscribe()
    }

    /// One less; with the last goes the socket.
    pub fn leave(&self) {
        let mut state = lock(&self.state);
        state.listeners = state.listeners.saturating_sub(1);
        let ended = if state.listeners == 0 { state.end() } else { None };
        drop(state);
        join(ended);
    }

    /// The socket goes, whoever listens.
    pub fn close(&self) {
        let ended = lock(&self.state).end();
        join(ended);
    }

    /// True while changes are told.
    pub fn is_live(&self) -> bool {
        lock(&self.state).is_live
    }

    /// Why no changes are told, once that is known.
    pub fn mute(&self) -> Option<String> {
        lock(&self.state).mute.clone()
    }

    fn ring(&self) {
        self.rung.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    fn set(&self, mute: Option<String>) {
        let is_other = {
            let mut state = lock(&self.state);
            state.mute = mute;
            let is_live = state.mute.is_none();
            std::mem::replace(&mut state.is_live, is_live) != is_live
        };
        if is_other {
            // Whoever waits for a hint, or for the clock, waits for the other from here on.
            self.ring();
        }
    }
}

impl State {
    fn end(&mut self) -> Option<JoinHandle<()>> {
        (self.is_live, self.mute) = (false, None);
        self.task.take()
    }
}

/// Waits until an aborted task is gone, and its connection with it.
fn join(task: Option<JoinHandle<()>>) {
    if let Some(task) = task {
        task.abort();
        // It was aborted: that is what it says.
        let _ = drive::block_on(task);
    }
}

/// Hears over one connection after the other, until aborted.
async fn hear_on(bell: Arc<Bell>, caller: Arc<Caller>) {
    let session = random_uuid();
    let (mut rest, mut last) = (FIRST_REST, "InitialConnect");
    for connection in 0u32.. {
        let opened = Instant::now();
        let why = match hear(&bell, &caller, &session, connection, last).await {
            Ok(never) => match never {},
            Err(why) => why,
        };
        bell.set(Some(why));
        if STOOD <= opened.elapsed() {
            rest = FIRST_REST;
        }
        tokio::time::sleep(rest.mul_f64(spread())).await;
        (rest, last) = ((rest * 2).min(LONGEST_REST), "ConnectionLost");
    }
}

enum Never {}

/// Hears until the connection ends; why it did.
async fn hear(bell: &Bell, caller: &Caller, session: &str, connection: u32, last: &str) -> Result<Never, String> {
    let late = || "it did not answer in time".to_owned();
    let address = caller.socket_address();
    let opened = timeout(ANSWERED_WITHIN, crate::socket::open(&address, || crate::socket::tls().into()));
    let mut socket = opened.await.map_err(|_| late())??;
    let connect = json!({
        "type": "Connect", "sessionId": session, "connectionCount": connection, "lastCloseReason": last, "clientTs": 0,
    });
    let add = json!({
        "type": "Add", "queryId": QUESTION, "udfPath": "larder:newest", "args": [caller.with_secret(json!({}))],
    });
    let ask = json!({ "type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [add] });
    for message in [connect, ask] {
        let sent = timeout(ANSWERED_WITHIN, socket.send(Message::text(message.to_string()))).await;
        sent.map_err(|_| late())?.map_err(|_| "the socket was closed".to_owned())?;
    }
    let mut reader = Reader::default();
    let mut patience = ANSWERED_WITHIN;
    loop {
        let said = timeout(patience, socket.next()).await.map_err(|_| late())?;
        let heard = match said {
            Some(Ok(Message::Text(text))) => reader.take(&text, caller)?,
            Some(Ok(Message::Binary(_))) => return Err(STRANGE.to_owned()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err("the socket was closed".to_owned()),
            Some(Ok(_)) => Heard::Nothing,
        };
        if heard == Heard::News {
            patience = SILENCE;
            bell.set(None);
            bell.ring();
        }
    }
}

const STRANGE: &str = "what it says is not Convex's";

/// What one message means to us.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// The answer to the question is another now, or is there for the first time.
    News,
}

/// Reads the messages of one connection in their order.
struct Reader {
    /// Where the last transition ended, as the service wrote it.
    stands: Value,
    parts: Option<Parts>,
}

/// A transition that comes in parts.
struct Parts {
    id: String,
    total: u64,
    next: u64,
    text: String,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader { stands: json!({ "querySet": 0, "identity": 0, "ts": NO_TIME }), parts: None }
    }
}

impl Reader {
    /// Errors: why this connection is worth no more.
    fn take(&mut self, text: &str, caller: &Caller) -> Result<Heard, String> {
        let message: Value = serde_json::from_str(text).map_err(|_| STRANGE.to_owned())?;
        let kind = message.get("type").and_then(Value::as_str).ok_or(STRANGE)?;
        if kind != "TransitionChunk" && kind != "Ping" && self.parts.take().is_some() {
            return Err("a message was cut off".to_owned());
        }
        match kind {
            "Transition" => self.transition(&message, caller),
            "TransitionChunk" => match self.part(&message)? {
                None => Ok(Heard::Nothing),
                Some(whole) => {
                    let whole: Value = serde_json::from_str(&whole).map_err(|_| STRANGE.to_owned())?;
                    if whole.get("type").and_then(Value::as_str) != Some("Transition") {
                        return Err(STRANGE.to_owned());
                    }
                    self.transition(&whole, caller)
                }
            },
            "FatalError" | "AuthError" => {
                let said = message.get("error").and_then(Value::as_str).unwrap_or_default();
                Err(format!("it ended with an error ({})", caller.shown(said)))
            }
            // A ping, or an answer to what we never ask.
            _ => Ok(Heard::Nothing),
        }
    }

    fn transition(&mut self, message: &Value, caller: &Caller) -> Result<Heard, String> {
        let (start, end) = (message.get("startVersion"), message.get("endVersion"));
        let changes = message.get("modifications").and_then(Value::as_array).ok_or(STRANGE)?;
        if start != Some(&self.stands) {
            return Err("a step of its was lost".to_owned());
        }
        self.stands = end.filter(|end| end.is_object()).ok_or(STRANGE)?.clone();
        let mut heard = Heard::Nothing;
        for change in changes.iter().filter(|change| change.get("queryId") == Some(&json!(QUESTION))) {
            match change.get("type").and_then(Value::as_str) {
                Some("QueryUpdated") => heard = Heard::News,
                Some("QueryFailed") => return Err(caller.refusal(change).said),
                _ => return Err(STRANGE.to_owned()),
            }
        }
        Ok(heard)
    }

    /// The whole, once its last part is there.
    fn part(&mut self, message: &Value) -> Result<Option<String>, String> {
        let count = |name: &str| message.get(name).and_then(Value::as_u64).ok_or(STRANGE);
        let text = |name: &str| message.get(name).and_then(Value::as_str).ok_or(STRANGE);
        let (number, total, id, text) =
            (count("partNumber")?, count("totalParts")?, text("transitionId")?, text("chunk")?);
        let begin = || Parts { id: id.to_owned(), total, next: 0, text: String::new() };
        let mut parts = self.parts.take().unwrap_or_else(begin);
        let is_next = parts.id == id && parts.total == total && parts.next == number && number < total;
        if !is_next || MAX_PARTS < total || MAX_MESSAGE_BYTES < parts.text.len() + text.len() {
            return Err("a message came in parts that make no whole".to_owned());
        }
        parts.text.push_str(text);
        parts.next += 1;
        if parts.next == total {
            return Ok(Some(parts.text));
        }
        self.parts = Some(parts);
        Ok(None)
    }
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    // A name that is not random is as good: the service only tells connections apart by it.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

fn random_uuid() -> String {
    let mut bytes = random_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Between 0.5 and 1: so that many who lost one service do not come back at one moment.
fn spread() -> f64 {
    0.5 + f64::from(random_bytes()[0]) / 512.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenContext;

    fn caller() -> Caller {
        let env = |name: &str| match name {
            "CONVEX_URL" => Some("http://127.0.0.1:9/base?x=1".to_owned()),
            "CONVEX_LARDER_SECRET" => Some("ge\"heim".to_owned()),
            _ => None,
        };
        let folder = std::env::temp_dir();
        Caller::of("", &OpenContext { env: &env, ..OpenContext::new(&folder) }).expect("its settings are whole")
    }

    fn version(query_set: u32, ts: &str) -> Value {
        json!({ "querySet": query_set, "identity": 0, "ts": ts })
    }

    fn transition(start: &Value, end: &Value, changes: &Value) -> String {
        json!({ "type": "Transition", "startVersion": start, "endVersion": end, "modifications": changes }).to_string()
    }

    fn updated() -> Value {
        json!([{ "type": "QueryUpdated", "queryId": 0, "value": null, "logLines": [], "journal": null }])
    }

    fn in_parts(whole: &str, order: &[usize], total: usize) -> Vec<String> {
        let third = whole.len() / 3;
        let parts = [&whole[..third], &whole[third..2 * third], &whole[2 * third..]];
        let part = |at: &usize| json!({ "type": "TransitionChunk", "chunk": parts[*at], "partNumber": at, "totalParts": total, "transitionId": "t" });
        order.iter().map(|at| part(at).to_string()).collect()
    }

    #[test]
    fn only_another_answer_to_our_question_is_news() {
        let (caller, mut reader) = (caller(), Reader::default());
        let (zero, one, two) = (version(0, NO_TIME), version(1, "AQAAAAAAAAA="), version(1, "AgAAAAAAAAA="));

        let mut heard = |text: &str| reader.take(text, &caller).expect("it is right");
        assert_eq!(heard(r#"{"type":"Ping"}"#), Heard::Nothing);
        assert_eq!(heard(&transition(&zero, &one, &updated())), Heard::News);
        assert_eq!(heard(&transition(&one, &two, &json!([]))), Heard::Nothing);
        assert_eq!(heard(r#"{"type":"MutationResponse","requestId":1,"success":true}"#), Heard::Nothing);
        assert_eq!(heard(r#"{"type":"OfNextYear"}"#), Heard::Nothing);
        let parts = in_parts(&transition(&two, &one, &updated()), &[0, 1, 2], 3);
        assert_eq!((heard(&parts[0]), heard(r#"{"type":"Ping"}"#)), (Heard::Nothing, Heard::Nothing));
        assert_eq!((heard(&parts[1]), heard(&parts[2])), (Heard::Nothing, Heard::News));
    }

    #[test]
    fn whatever_is_wrong_ends_the_connection_without_the_secret() {
        let caller = caller();
        let (zero, one) = (version(0, NO_TIME), version(1, "AQAAAAAAAAA="));
        let right = transition(&zero, &one, &updated());
        let failed = json!([{ "type": "QueryFailed", "queryId": 0, "errorMessage": "no: ge\"heim", "logLines": [] }]);
        let denied =
            json!([{ "type": "QueryFailed", "queryId": 0, "errorMessage": "", "errorData": { "code": "DENIED" } }]);
        let removed = json!([{ "type": "QueryRemoved", "queryId": 0 }]);
        let fatal = |said: &str| json!({ "type": "FatalError", "error": said }).to_string();
        let wrong = [
            vec!["<html>".to_owned()],
            vec!["[]".to_owned()],
            vec![right[..right.len() / 2].to_owned()],
            vec![right.replace("endVersion", "end")],
            vec![transition(&one, &one, &updated())],
            vec![transition(&zero, &one, &json!({}))],
            vec![transition(&zero, &one, &failed)],
            vec![transition(&zero, &one, &denied)],
            vec![transition(&zero, &one, &removed)],
            vec![fatal("bad args {\"secret\":\"ge\\\"heim\"} ge\"heim")],
            vec![fatal(&format!("{}ge\"heim", "x".repeat(295)))],
            vec![r#"{"type":"AuthError","error":"no"}"#.to_owned()],
            in_parts(&right, &[1], 3),
            in_parts(&right, &[0, 2], 3),
            in_parts(&right, &[0, 0], 3),
            in_parts(&right, &[0], 5_000),
            in_parts("no transition", &[0, 1, 2], 3),
            in_parts(r#"{"type":"Ping"}    "#, &[0, 1, 2], 3),
            in_parts(&right, &[0, 1], 3).into_iter().chain([right.clone()]).collect(),
        ];
        for said in wrong {
            let mut reader = Reader::default();
            let heard: Result<Vec<Heard>, String> = said.iter().map(|text| reader.take(text, &caller)).collect();

            let why = heard.expect_err(&said.concat());
            assert!(!why.contains("ge\"") && !why.contains("heim") && why.chars().count() < 400, "{why}");
        }
    }

    #[test]
    fn the_socket_is_at_the_deployment_and_a_session_has_a_name_of_its_own() {
        assert_eq!(caller().socket_address().as_str(), "http://127.0.0.1:9/api/sync");
        let (one, two) = (random_uuid(), random_uuid());
        assert!(one != two && one.len() == 36 && one.as_bytes()[14] == b'4', "{one} {two}");
        assert!((0..200).all(|_| (0.5..=1.0).contains(&spread())));
    }
}
