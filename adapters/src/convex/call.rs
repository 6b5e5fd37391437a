//! One call of a function of the deployment, and what its refusals mean.
//!
//! Invariant: the secret travels in the body of an encrypted request and is in no sentence; a function's own error is told by the code in
//! its data, never by its text, which a deployment in production leaves out.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use serde_json::{Value, json};

use crate::wire::{self, Broken, Head, body_of, safe_url, shown};
use crate::{AdapterError, ErrorKind, OpenContext};

/// The environment variables this backend reads.
pub(super) const SETTINGS: &[&str] = &["CONVEX_URL", "CONVEX_LARDER_SECRET", "CONVEX_SWEEP_SECS"];
const SWEEP_EVERY: Duration = Duration::from_secs(600);
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a call failed: a kind, and a clause for people.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) said: String,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, said: impl Into<String>) -> Failure {
        Failure { kind, said: said.into() }
    }

    pub(super) fn error(&self, doing: &str) -> AdapterError {
        AdapterError::new(self.kind, format!("{doing}: {}", self.said))
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Failure {
        match broken {
            Broken::TooLong(limit) => {
                Failure::new(ErrorKind::Corrupt, format!("the answer is longer than {limit} bytes"))
            }
            Broken::Line(said) => Failure::new(ErrorKind::Unavailable, said),
        }
    }
}

/// The line to one deployment.
pub(super) struct Caller {
    http: Client,
    url: Url,
    secret: String,
    /// How often rows are looked through for what was changed past the functions; `None` for never.
    pub(super) sweep_every: Option<Duration>,
}

impl Caller {
    /// Reads the settings; `address` is the deployment's URL, or empty if `CONVEX_URL` names it.
    pub(super) fn of(address: &str, context: &OpenContext<'_>) -> Result<Caller, AdapterError> {
        let refused = |kind, why: &str| AdapterError::new(kind, format!("use Convex: {why}"));
        let set =
            |name: &str| (context.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let named = Some(address.to_owned()).filter(|address| !address.is_empty()).or_else(|| set("CONVEX_URL"));
        let named =
            named.ok_or_else(|| refused(ErrorKind::Unsupported, "set CONVEX_URL to the address of the deployment"))?;
        let url = safe_url("CONVEX_URL", &named).map_err(|why| refused(ErrorKind::Unsupported, &why))?;
        let secret = set("CONVEX_LARDER_SECRET").ok_or_else(|| {
            refused(
                ErrorKind::Denied,
                "set CONVEX_LARDER_SECRET to the secret that the deployment knows as LARDER_SECRET",
            )
        })?;
        let sweep_every = match set("CONVEX_SWEEP_SECS").as_deref() {
            None => Some(SWEEP_EVERY),
            Some("never") => None,
            Some(text) => Some(Duration::from_secs(text.parse().map_err(|_| {
                refused(ErrorKind::Unsupported, "CONVEX_SWEEP_SECS must be a number of seconds, or `never`")
            })?)),
        };
        let http = wire::client(wire::is_loopback(&url), PATIENCE)?;
        Ok(Caller { http, url, secret, sweep_every })
    }

    /// The deployment as it is named to people: its host.
    pub(super) fn place(&self) -> String {
        self.url.host_str().unwrap_or("a deployment").to_owned()
    }

    pub(super) async fn query(&self, function: &str, args: Value) -> Result<Value, Failure> {
        self.call("query", function, args).await
    }

    pub(super) async fn mutation(&self, function: &str, args: Value) -> Result<Value, Failure> {
        self.call("mutation", function, args).await
    }

    /// Arguments as every function wants them.
    pub(super) fn with_secret(&self, mut args: Value) -> Value {
        args["secret"] = json!(self.secret);
        args
    }

    /// Where the vendor's sync socket is.
    pub(super) fn socket_address(&self) -> Url {
        let mut url = self.url.clone();
        url.set_path("/api/sync");
        url.set_query(None);
        url
    }

    /// What the deployment said, fit for a line: an error may repeat the arguments, the secret among them.
    pub(super) fn shown(&self, said: &str) -> String {
        let quoted = json!(self.secret).to_string();
        let inner = quoted.trim_matches('"');
        shown(&said.replace(inner, "***").replace(&self.secret, "***"))
    }

    async fn call(&self, kind: &str, function: &str, args: Value) -> Result<Value, Failure> {
        let args = self.with_secret(args);
        let body = json!({ "path": format!("larder:{function}"), "args": args, "format": "json" }).to_string();
        let mut url = self.url.clone();
        url.set_path(&format!("/api/{kind}"));
        let sent = self.http.post(url).header(CONTENT_TYPE, "application/json").body(body).send().await;
        let answer = sent.map_err(|error| Broken::of(&error))?;
        let head = Head::of(&answer);
        let body = body_of(answer, MAX_ANSWER_BYTES).await?;
        self.understood(&head, &body)
    }

    fn understood(&self, head: &Head, body: &[u8]) -> Result<Value, Failure> {
        if let Some(host) = &head.redirect {
            let said = format!(
                "the address redirects to {}, and the secret is not taken there; set the right one",
                shown(host)
            );
            return Err(Failure::new(ErrorKind::Denied, said));
        }
        let parsed = serde_json::from_slice::<Value>(body);
        let answer = match parsed {
            Ok(answer) if answer.is_object() => answer,
            Err(error) if error.is_eof() && !body.is_empty() && head.code == 200 => return Err(Broken::early().into()),
            _ if head.code == 200 || head.kind() == ErrorKind::Corrupt => {
                return Err(Failure::new(ErrorKind::Corrupt, "what answers is not Convex; check CONVEX_URL"));
            }
            _ => return Err(without_words(head)),
        };
        match answer.get("status").and_then(Value::as_str) {
            Some("success") => Ok(answer.get("value").cloned().unwrap_or_default()),
            Some("error") => Err(self.refusal(&answer)),
            _ if head.kind() == ErrorKind::Corrupt => {
                Err(Failure::new(ErrorKind::Corrupt, "what answers is not Convex; check CONVEX_URL"))
            }
            _ => Err(without_words(head)),
        }
    }

    /// What an error of a function means.
    pub(super) fn refusal(&self, answer: &Value) -> Failure {
        let message = answer.get("errorMessage").and_then(Value::as_str).unwrap_or("");
        let code = answer.get("errorData").and_then(|data| data.get("code")).and_then(Value::as_str);
        let (kind, said) = match code {
            Some("DENIED") => {
                (ErrorKind::Denied, "CONVEX_LARDER_SECRET is not the deployment's LARDER_SECRET".to_owned())
            }
            Some("NO_SECRET") => (
                ErrorKind::Denied,
                "the deployment has no secret: run `npx convex env set LARDER_SECRET ...` there".to_owned(),
            ),
            Some("OWNER") => (ErrorKind::Denied, "the deployment's LARDER_OWNERS does not name this owner".to_owned()),
            Some("NOT_OPEN") => (ErrorKind::Unavailable, "the deployment was emptied; it is opened again".to_owned()),
            _ if message.contains("Could not find") || message.contains("not find function") => (
                ErrorKind::Corrupt,
                "Larder's functions are not deployed there: run `npx convex deploy` with adapters/convex".to_owned(),
            ),
            _ if message.contains("ArgumentValidation") || message.contains("Validator error") => {
                (ErrorKind::Corrupt, "its functions are of another release: deploy those of this one".to_owned())
            }
            _ if message.contains("too large") || message.contains("maximum size") => {
                (ErrorKind::TooLarge, self.shown(message))
            }
            _ => (ErrorKind::Unavailable, format!("a function failed ({})", self.shown(message))),
        };
        Failure::new(kind, said)
    }
}

/// What an answer that is none of Convex's own says by its head.
fn without_words(head: &Head) -> Failure {
    let code = head.code;
    let said = match head.kind() {
        ErrorKind::Denied => format!("something before the deployment refuses access (HTTP {code}); check CONVEX_URL"),
        ErrorKind::TooLarge => format!("something before the deployment takes no request of this size (HTTP {code})"),
        ErrorKind::Throttled { .. } if code == 429 => "the service asks for a slower pace".to_owned(),
        _ => format!("the deployment is away (HTTP {code})"),
    };
    Failure::new(head.kind(), said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: u16, body: &str) -> ErrorKind {
        refused(code, body).kind
    }

    fn refused(code: u16, body: &str) -> Failure {
        let env = |name: &str| match name {
            "CONVEX_URL" => Some("http://127.0.0.1:9".to_owned()),
            "CONVEX_LARDER_SECRET" => Some("ge\"heim".to_owned()),
            _ => None,
        };
        let folder = std::env::temp_dir();
        let caller = Caller::of("", &OpenContext { env: &env, ..OpenContext::new(&folder) }).expect("all is set");
        caller.understood(&Head { code, ..Head::default() }, body.as_bytes()).expect_err("it is refused")
    }

    #[test]
    fn a_refusal_is_told_by_its_code() {
        let error = |data: &str| format!(r#"{{"status":"error","errorMessage":"Server Error"{data}}}"#);
        assert_eq!(kind(200, &error(r#","errorData":{"code":"DENIED"}"#)), ErrorKind::Denied);
        assert_eq!(kind(560, &error(r#","errorData":{"code":"NO_SECRET"}"#)), ErrorKind::Denied);
        assert_eq!(kind(200, &error("")), ErrorKind::Unavailable);
        assert_eq!(kind(200, "<html>"), ErrorKind::Corrupt);
        assert_eq!(kind(404, "<html>"), ErrorKind::Corrupt);
        assert_eq!(kind(413, "<html>"), ErrorKind::TooLarge);
        assert_eq!(kind(502, "<html>"), ErrorKind::Unavailable);
        assert_eq!(kind(403, "<html>"), ErrorKind::Denied);
        assert!(refused(403, "<html>").said.contains("check CONVEX_URL"));
        assert_eq!(kind(429, "{}"), ErrorKind::Throttled { retry_after_ms: 5_000 });
        assert_eq!(kind(200, r#"{"status":"succ"#), ErrorKind::Unavailable);
        let missing = r#"{"status":"error","errorMessage":"Could not find public function for 'larder:open'"}"#;
        assert_eq!(kind(200, missing), ErrorKind::Corrupt);
    }

    #[test]
    fn a_failure_that_repeats_the_arguments_shows_no_secret() {
        for said in ["args: ge\"heim".to_owned(), r#"{"secret":"ge\"heim"}"#.to_owned(), "x".repeat(296) + "ge\"heim"] {
            let body = json!({ "status": "error", "errorMessage": said }).to_string();
            let failure = refused(200, &body);
            assert!(!failure.said.contains("heim") && !failure.said.contains("ge\""), "{}", failure.said);
        }
    }
}
