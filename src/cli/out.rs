//! Where answers go: stdout and stderr, as text or as one JSON object, and the exit code that goes with them.
//!
//! Invariant: one answer a command. A reader that goes away ends nothing but the printing; the work and the exit code
//! are what they are.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IsTerminal, Write};

use serde_json::{Map, Value, json};

use crate::node::{Kind, NodeError};

/// What a command found or did.
#[derive(Debug, Default)]
pub struct Answer {
    /// Plain lines for people and pipes.
    pub lines: Vec<String>,
    /// The same for programs; always an object.
    pub object: Map<String, Value>,
    /// What remains to be done or went wrong beside it; gives the exit code.
    pub remains: Option<NodeError>,
}

impl Answer {
    /// Lines, and an object of the same content.
    pub fn new(lines: Vec<String>, object: Value) -> Answer {
        let object = match object {
            Value::Object(object) => object,
            other => Map::from_iter([("answer".to_owned(), other)]),
        };
        Answer { lines, object, remains: None }
    }

    /// Adds what remains.
    pub fn with_remains(mut self, remains: Option<NodeError>) -> Answer {
        self.remains = remains;
        self
    }
}

/// Where answers go.
pub struct Out {
    json: bool,
    terminal: bool,
    reader_is_gone: Cell<bool>,
    write_failure: RefCell<Option<String>>,
}

impl Out {
    /// Stdout and stderr of this process.
    pub fn of_process(json: bool) -> Out {
        let terminal = std::io::stderr().is_terminal();
        Out { json, terminal, reader_is_gone: Cell::new(false), write_failure: RefCell::new(None) }
    }

    /// True if the answer is one JSON object.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// True if somebody watches.
    pub fn shows_progress(&self) -> bool {
        self.terminal && !self.json
    }

    /// Prints one line at once; for commands that speak while they run.
    pub fn line(&self, line: &str) {
        self.bytes(format!("{line}\n").as_bytes());
    }

    /// Writes raw bytes to stdout.
    pub fn bytes(&self, bytes: &[u8]) {
        if self.reader_is_gone.get() {
            return;
        }
        let mut stdout = std::io::stdout().lock();
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            self.reader_is_gone.set(true);
            if error.kind() != ErrorKind::BrokenPipe {
                self.write_failure.replace(Some(error.to_string()));
            }
        }
    }

    /// Prints the answer or the error; returns the exit code.
    pub fn finish(&self, outcome: Result<Option<Answer>, NodeError>) -> u8 {
        let code = self.tell(outcome);
        let Some(failure) = self.write_failure.take() else { return code };
        // Half an answer in a file must not look like a whole one.
        complain(&format!("error: write the answer: {failure}"));
        code.max(Kind::User.exit_code())
    }

    fn tell(&self, outcome: Result<Option<Answer>, NodeError>) -> u8 {
        match outcome {
            Ok(None) => 0,
            Ok(Some(answer)) => self.answer(answer),
            Err(error) => {
                if self.json {
                    self.object(Map::from_iter([("error".to_owned(), error_object(&error))]));
                }
                complain(&error_text(&error));
                error.kind.exit_code()
            }
        }
    }

    fn answer(&self, answer: Answer) -> u8 {
        let Answer { lines, mut object, remains } = answer;
        if self.json {
            if let Some(error) = &remains {
                object.insert("error".to_owned(), error_object(error));
            }
            self.object(object);
        } else if !lines.is_empty() {
            self.line(&lines.join("\n"));
        }
        let Some(error) = remains else { return 0 };
        complain(&error_text(&error));
        error.kind.exit_code()
    }

    fn object(&self, object: Map<String, Value>) {
        // A map of strings and values always has a JSON form.
        self.line(&serde_json::to_string_pretty(&Value::Object(object)).unwrap_or_default());
    }
}

/// Writes a line to stderr; one that cannot be written has no reader.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `error: <sentence>` and `help: <what to do>`; what merely waits for a person is a `note:`.
pub fn error_text(error: &NodeError) -> String {
    let word = if error.kind == Kind::Conflicts { "note" } else { "error" };
    // A drawing of a place in the config brings its own first word.
    let drawn = error.message.starts_with("error");
    let mut text = if drawn { error.message.clone() } else { format!("{word}: {}", error.message) };
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\nhelp: {hint}"));
    }
    text
}

/// The stable form of an error.
pub fn error_object(error: &NodeError) -> Value {
    let kind = match error.kind {
        Kind::User => "user",
        Kind::Unavailable => "unavailable",
        Kind::Conflicts => "conflicts",
        Kind::Damage => "damage",
        Kind::Internal => "internal",
    };
    json!({ "kind": kind, "message": error.message, "hint": error.hint, "exit_code": error.kind.exit_code() })
}
