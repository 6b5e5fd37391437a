//! What a server's answers mean to the engine, each with the sentence that helps.
//!
//! Invariant: nothing that a server or library says is repeated where it might hold a secret or a content: of a database
//! error only its main sentence is, of everything else only its kind.

use std::io;

use tokio_postgres::Error;

use crate::{AdapterError, ErrorKind};

/// What went wrong with one request.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: ErrorKind,
    /// What comes after the colon.
    pub why: String,
    /// SQLSTATE, if the server said it.
    pub code: Option<String>,
    /// The connection is of no use any more.
    pub is_lost: bool,
}

impl Failure {
    /// A failure that we found ourselves.
    pub fn new(kind: ErrorKind, why: impl Into<String>) -> Failure {
        Failure { kind, why: why.into(), code: None, is_lost: false }
    }

    /// The connection ended, or an answer did not come.
    pub fn lost(why: impl Into<String>) -> Failure {
        Failure { kind: ErrorKind::Unavailable, why: why.into(), code: None, is_lost: true }
    }

    /// As the caller sees it, who was `doing` something with the server called `shown`.
    pub fn told(&self, doing: &str, shown: &str) -> AdapterError {
        AdapterError::new(self.kind, format!("{doing} postgres at {shown}: {}", self.why))
    }

    /// Two transactions met: the same again may succeed at once.
    pub fn is_collision(&self) -> bool {
        matches!(self.code.as_deref(), Some("40001" | "40P01"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let Some(said) = error.as_db_error() else {
            return Failure::lost(without_answer(&error));
        };
        let code = said.code().code().to_owned();
        let (kind, why) = meaning(&code, said.message());
        // Class 57P is the server going down or not up yet, class 08 the line.
        let is_lost = code.starts_with("57P") || code.starts_with("08");
        Failure { kind, why, code: Some(code), is_lost }
    }
}

/// What the library says if no server answered: the cause's kind, never its text beyond that of the system.
fn without_answer(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&inner.to_string());
        if let Some(rustls) = inner.downcast_ref::<rustls::Error>() {
            return format!("its TLS was not accepted ({rustls})");
        }
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            if let Some(rustls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return format!("its TLS was not accepted ({rustls})");
            }
            return of_line(io);
        }
        cause = inner.source();
    }
    if text.contains("authentication") || text.contains("password") || text.contains("SCRAM") {
        return "its way of asking for a password cannot be met; is PGPASSWORD or the password in the URL set?"
            .to_owned();
    }
    if text.contains("TLS") {
        return "it does not speak TLS, and `sslmode` demands it".to_owned();
    }
    "the connection ended".to_owned()
}

/// A line that was refused, or broke, or on which somebody else speaks.
fn of_line(io: &io::Error) -> String {
    // The library has no kind for what it cannot read; a server that dies amid an answer looks the same.
    let is_garbled = matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
    match io.kind() {
        _ if is_garbled || io.to_string() == "bytes remaining on stream" => {
            "its answer was cut off, or is not PostgreSQL's; are host and port right?".to_owned()
        }
        io::ErrorKind::UnexpectedEof => "it hung up without an answer; are host and port right?".to_owned(),
        _ => format!("it cannot be reached ({io})"),
    }
}

fn meaning(code: &str, message: &str) -> (ErrorKind, String) {
    let said = |why: &str| format!("{why} ({message})");
    match code {
        "28P01" | "28000" => (ErrorKind::Denied, said("it refuses user or password")),
        "3D000" => (ErrorKind::Denied, said("the database is not there; make it with createdb")),
        "42501" => (ErrorKind::Denied, said(NO_RIGHT)),
        "25006" => (ErrorKind::Denied, said("it may only be read; name the primary, or a role that may write")),
        "42P01" | "42703" | "42883" | "3F000" | "42704" => (ErrorKind::Corrupt, said(HALF_MADE)),
        "53100" => (ErrorKind::Unavailable, "its disk is full".to_owned()),
        "53300" => (ErrorKind::Unavailable, said("it has no connection to spare")),
        "54000" | "22001" | "54001" => (ErrorKind::TooLarge, said("a value is beyond what it holds")),
        "22021" | "22P05" => (ErrorKind::Unsupported, said("a text has characters that it cannot hold")),
        "55P03" => (ErrorKind::Unavailable, "another program keeps a row locked".to_owned()),
        "57014" => (ErrorKind::Unavailable, said("it took too long")),
        "26000" | "42P05" => (ErrorKind::Unavailable, said("a pooler between mixed up requests")),
        _ if matches!(code.get(..2), Some("08" | "53" | "57" | "58" | "40" | "55" | "25")) => {
            (ErrorKind::Unavailable, message.to_owned())
        }
        _ => (ErrorKind::Corrupt, format!("{message} (SQLSTATE {code})")),
    }
}

const NO_RIGHT: &str = "the role lacks a right; `larder backend ddl postgres` prints what its owner has to run";
const HALF_MADE: &str = "its tables are not as expected; `larder backend ddl postgres` prints how they should be";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_kind_a_caller_can_act_on() {
        for (code, kind) in [
            ("28P01", ErrorKind::Denied),
            ("3D000", ErrorKind::Denied),
            ("42501", ErrorKind::Denied),
            ("25006", ErrorKind::Denied),
            ("42P01", ErrorKind::Corrupt),
            ("53300", ErrorKind::Unavailable),
            ("57P01", ErrorKind::Unavailable),
            ("57P03", ErrorKind::Unavailable),
            ("40001", ErrorKind::Unavailable),
            ("54000", ErrorKind::TooLarge),
            ("XX000", ErrorKind::Corrupt),
        ] {
            assert_eq!(meaning(code, "said").0, kind, "{code}");
        }
    }

    #[test]
    fn who_is_not_there_and_who_is_somebody_else_are_told_apart() {
        let refused = io::Error::from_raw_os_error(111);
        let strange = io::Error::other("bytes remaining on stream");
        let mute = io::Error::new(io::ErrorKind::UnexpectedEof, "early eof");
        assert!(of_line(&refused).contains("cannot be reached"));
        assert!(of_line(&strange).contains("not PostgreSQL's"));
        assert!(of_line(&mute).contains("hung up"));
    }
}
