//! Hears of changes: the Realtime socket, told of every line of `file_mirror` that is written, or the clock where there is no socket.
//!
//! The service promises no delivery. So everybody is woken after each (re)subscription, and while the socket is quiet the feed is asked now and
//! then all the same. Both versions of the protocol are spoken: 2.0.0 (arrays) first, then 1.0.0 (objects).
//! Invariant: what a message says is a hint of an app that changed, and never believed further.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::line::Line;
use super::wire::Changed;
use crate::AdapterError;
use crate::hub::{Ears, Source};
use crate::socket;

const TOPIC: &str = "realtime:larder";
const VERSIONS: [&str; 2] = ["2.0.0", "1.0.0"];
const JOINED_WITHIN: Duration = Duration::from_secs(15);
/// The service ends a socket that is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// Between two questions where there is no socket.
const PACE: Duration = Duration::from_secs(2);
/// How long it is asked before the socket is tried again.
const ASKED_FOR: Duration = Duration::from_secs(300);

/// A project that is listened to.
pub(super) struct Listening(pub Arc<Line>);

impl Source for Listening {
    async fn hear(&self, ears: &Ears) -> Result<(), AdapterError> {
        let mut why = String::new();
        for version in VERSIONS {
            match timeout(JOINED_WITHIN, self.join(version)).await {
                Ok(Ok(socket)) => return self.listen(socket, ears).await,
                Ok(Err(said)) => why = said,
                Err(_) => why = "it did not answer in time".to_owned(),
            }
        }
        self.ask(&why, ears).await
    }
}

impl Listening {
    /// Opens the socket and subscribes.
    async fn join(&self, version: &'static str) -> Result<Socket, String> {
        let stream = socket::open(&self.0.socket_address(version), || self.0.tls()).await?;
        let mut socket = Socket { stream, is_objects: version == "1.0.0", last_ref: 0 };
        let mut payload = json!({ "config": {
            "broadcast": { "ack": false, "self": false }, "presence": { "key": "" }, "private": false,
            "postgres_changes": [{ "event": "*", "schema": "public", "table": "file_mirror" }],
        } });
        if let Some(token) = self.0.token() {
            payload["access_token"] = json!(token);
        }
        socket.send(TOPIC, "phx_join", payload).await?;
        loop {
            let said = socket.next().await?;
            let status = said.payload.get("status").and_then(Value::as_str);
            match (said.event.as_str(), status) {
                ("phx_reply" | "system", Some("error")) => return Err("the subscription was refused".to_owned()),
                ("phx_error" | "phx_close", _) => return Err("the channel was closed".to_owned()),
                // Only this says that changes of the table are told from here on.
                ("system", Some("ok")) => return Ok(socket),
                _ => {}
            }
        }
    }

    async fn listen(&self, mut socket: Socket, ears: &Ears) -> Result<(), AdapterError> {
        let mut since = self.changed("1:1:", None).await?;
        ears.set_up(None);
        let mut next_beat = Instant::now() + HEARTBEAT;
        let mut is_answered = true;
        loop {
            let left = next_beat.saturating_duration_since(Instant::now());
            match timeout(left, socket.next()).await {
                Ok(Ok(said)) => match said.event.as_str() {
                    "postgres_changes" => said.tell(ears),
                    "phx_reply" => is_answered = true,
                    "phx_error" | "phx_close" => return Ok(()),
                    _ => {}
                },
                Ok(Err(_)) => return Ok(()),
                Err(_) if !is_answered => return Ok(()),
                Err(_) => {
                    is_answered = false;
                    if socket.send("phoenix", "heartbeat", json!({})).await.is_err() {
                        return Ok(());
                    }
                    since = self.changed(&since, Some(ears)).await?;
                    next_beat = Instant::now() + HEARTBEAT;
                }
            }
        }
    }

    /// The feed is asked instead, one question for everybody.
    async fn ask(&self, why: &str, ears: &Ears) -> Result<(), AdapterError> {
        let mut since = self.changed("1:1:", None).await?;
        let shown = &self.0.shown;
        ears.set_up(Some(format!("supabase at {shown} tells of no changes ({why}): it is asked every two seconds")));
        let end = Instant::now() + ASKED_FOR;
        while Instant::now() < end {
            tokio::time::sleep(PACE).await;
            since = self.changed(&since, Some(ears)).await?;
        }
        Ok(())
    }

    /// Asks what changed since a snapshot, tells it, and returns the snapshot to ask with next time.
    async fn changed(&self, since: &str, ears: Option<&Ears>) -> Result<String, AdapterError> {
        let changed: Changed = self.0.call("larder_changed", &json!({ "since": since })).await?;
        if let Some(ears) = ears {
            changed.apps.iter().for_each(|app| ears.changed(app));
        }
        Ok(changed.seen)
    }
}

struct Socket {
    stream: socket::Socket,
    is_objects: bool,
    last_ref: u64,
}

/// One message, of either version.
struct Said {
    event: String,
    payload: Value,
}

impl Said {
    fn parse(text: &str) -> Option<Said> {
        let (event, payload) = match serde_json::from_str(text).ok()? {
            Value::Array(mut parts) if parts.len() == 5 => (parts[3].take(), parts[4].take()),
            Value::Object(mut parts) => (parts.remove("event")?, parts.remove("payload")?),
            _ => return None,
        };
        Some(Said { event: event.as_str()?.to_owned(), payload })
    }

    /// Wakes whom the changed line concerns; everybody if it does not say.
    fn tell(&self, ears: &Ears) {
        let data = &self.payload["data"];
        let id = ["record", "old_record"].iter().find_map(|row| data[*row]["id"].as_str());
        match id.and_then(|id| id.split(':').next()) {
            Some(app) => ears.changed(app),
            None => ears.changed_somewhere(),
        }
    }
}

impl Socket {
    async fn send(&mut self, topic: &str, event: &str, payload: Value) -> Result<(), String> {
        self.last_ref += 1;
        let number = self.last_ref.to_string();
        let join = (topic == TOPIC).then_some("1");
        let message = if self.is_objects {
            json!({ "topic": topic, "event": event, "payload": payload, "ref": number, "join_ref": join })
        } else {
            json!([join, number, topic, event, payload])
        };
        let sent = self.stream.send(Message::text(message.to_string())).await;
        sent.map_err(|_| "the socket was closed".to_owned())
    }

    /// The next message that is one of the protocol's.
    async fn next(&mut self) -> Result<Said, String> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    if let Some(said) = Said::parse(&text) {
                        return Ok(said);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err("the socket was closed".to_owned()),
                Some(Ok(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_versions_are_read_and_nothing_else() {
        for text in [
            r#"["1","2","realtime:larder","system",{"status":"ok"}]"#,
            r#"{"topic":"realtime:larder","event":"system","payload":{"status":"ok"},"ref":null,"join_ref":"1"}"#,
        ] {
            let said = Said::parse(text).expect("it is one");
            assert_eq!((said.event.as_str(), &said.payload["status"]), ("system", &json!("ok")));
        }
        for text in ["", "[]", "{}", "[1,2,3,4,5]", r#"{"event":1,"payload":{}}"#, "<html>"] {
            assert!(Said::parse(text).is_none(), "{text}");
        }
    }
}
