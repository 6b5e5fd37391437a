//! Carrying out a change: by the daemon that holds the project, or here.
//!
//! Invariant: whoever does it, the answer and the exit code are the same.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::context::Context;
use super::out::Answer;
use super::report;
use crate::config::Flags;
use crate::daemon::{self, Reply, Request};
use crate::node::{ChangeRequest, Errand, Errands, Kind, Node, NodeError, ProjectDirs};
use crate::sync::Report;

/// Between two looks at who holds the project.
const HOLDER_PAUSE: Duration = Duration::from_millis(20);

/// Does what was asked and words it.
pub fn act(context: &Context, change: &ChangeRequest) -> Result<Answer, NodeError> {
    act_trusting(context, change, false)
}

/// As `act`; `trust` agrees to what the config reaches beyond its folder.
pub fn act_trusting(context: &Context, change: &ChangeRequest, trust: bool) -> Result<Answer, NodeError> {
    let request = Request::Change(change.clone());
    if let Some(reply) = ask_daemon(context, &request)? {
        return by_daemon(context, reply, change.is_dry_run());
    }
    let open = context.trusting(trust);
    let progress = context.progress();
    let mut node = Node::open(&context.env, &open, progress.clone())?;
    let report = node.change(change)?;
    let remains = node.remains(&report)?;
    // The last owners of a bar clear it before the answer is printed.
    drop((node, progress));
    Ok(worded(context, &report, change.is_dry_run(), "command", remains))
}

/// The daemon's report in this command's words.
pub fn by_daemon(context: &Context, reply: Reply, dry_run: bool) -> Result<Answer, NodeError> {
    let Reply { body, error, hint } = reply;
    let remains = error.map(|said| remains_of(said, hint));
    if body.is_null() {
        return match remains {
            Some(error) => Err(error),
            None => Ok(worded(context, &Report::default(), dry_run, "daemon", None)),
        };
    }
    let report = read(body)?;
    Ok(worded(context, &report, dry_run, "daemon", remains))
}

/// Has an errand done by the daemon that holds the project, or does it here.
pub fn errand(context: &Context, errand: Errand) -> Result<Errands, NodeError> {
    let Some(reply) = ask_daemon(context, &Request::Errand(errand.clone()))? else {
        return errand.run(&context.env, &context.open, context.progress());
    };
    match reply.error {
        Some(said) => Err(remains_of(said, reply.hint)),
        None => read(reply.body),
    }
}

/// What came of an errand is not what was asked for.
pub fn strange() -> NodeError {
    NodeError::new(Kind::Internal, "the running larder answered something else")
}

fn read<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, NodeError> {
    serde_json::from_value(body).map_err(|error| NodeError {
        kind: Kind::Internal,
        message: format!("the running larder answered something unknown: {error}"),
        hint: Some("it may be of another release: stop it and start it again".to_owned()),
    })
}

/// What a daemon said that remains, as this command would have said it.
pub fn remains_of((code, message): (u8, String), hint: Option<String>) -> NodeError {
    NodeError { kind: kind_of(code), message, hint: hint.or_else(|| hint_of(code)) }
}

/// Only the form that is printed is made: of a long report, the object is many times the report.
fn worded(context: &Context, report: &Report, dry_run: bool, by: &str, remains: Option<NodeError>) -> Answer {
    if !context.out.is_json() {
        let lines = report::lines(report, dry_run, remains.as_ref());
        return Answer { lines, remains, ..Answer::default() };
    }
    let mut answer = Answer::new(Vec::new(), report::object(report, dry_run));
    answer.object.insert("by".to_owned(), Value::from(by));
    answer.with_remains(remains)
}

/// Asks the daemon that holds the project; `None` if none does.
///
/// A daemon works with its own settings: what is named by flags is only ever used here.
pub fn ask_daemon(context: &Context, request: &Request) -> Result<Option<Reply>, NodeError> {
    if context.open.flags != Flags::default() {
        return Ok(None);
    }
    let dirs = match context.open.settings(&context.env) {
        Ok(settings) => ProjectDirs::of(&settings.config),
        Err(error) if error.kind == Kind::User => return Err(error),
        // What is wrong with the project is said by the run itself.
        Err(_) => return Ok(None),
    };
    // The daemon's own steps are not seen here, only that it takes its time.
    let _waits = context.progress();
    while dirs.holder().is_some() {
        if let Some(reply) = daemon::ask(&dirs.socket(), request) {
            return Ok(Some(reply));
        }
        // One that listens and gives no answer gives none if it is asked again. Else it is a command, or a daemon that does not listen yet.
        if dirs.has_daemon() || context.open.patience.is_none_or(|until| Instant::now() >= until) {
            break;
        }
        std::thread::sleep(HOLDER_PAUSE);
    }
    Ok(None)
}

fn kind_of(code: u8) -> Kind {
    let kinds = [Kind::User, Kind::Unavailable, Kind::Conflicts, Kind::Damage];
    kinds.into_iter().find(|kind| kind.exit_code() == code).unwrap_or(Kind::Internal)
}

fn hint_of(code: u8) -> Option<String> {
    let hint = match kind_of(code) {
        Kind::Conflicts => "see `larder status`, `larder conflicts` and `larder deletes`",
        Kind::Unavailable => "files are kept here meanwhile; it is tried again by itself",
        Kind::Damage => "run `larder verify`: it names what is damaged and what repairs it",
        Kind::User | Kind::Internal => return None,
    };
    Some(hint.to_owned())
}
