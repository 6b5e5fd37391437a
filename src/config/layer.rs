//! A value together with the layer it came from: built-in < file < environment < flag.
//!
//! Invariant: the highest layer that says anything wins, whatever the others hold. Pure.

use std::fmt;

/// Where a value came from. Later variants win over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything.
    BuiltIn,
    /// The config file.
    File {
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(&'static str),
    /// A command-line flag.
    Flag(&'static str),
}

impl Source {
    /// True if the person who runs the command said it: environment and flags are consent by themselves.
    pub fn is_own_word(&self) -> bool {
        matches!(self, Source::Env(_) | Source::Flag(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::BuiltIn => f.write_str("built-in"),
            Source::File { line } => write!(f, "sync-config.json:{line}"),
            Source::Env(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layered<T> {
    /// The value in force.
    pub value: T,
    /// The layer that set it.
    pub source: Source,
}

impl<T> Layered<T> {
    /// The value that holds if nobody says anything.
    pub fn built_in(value: T) -> Layered<T> {
        Layered { value, source: Source::BuiltIn }
    }

    /// Lets a layer speak: takes its value unless it has none or a higher layer spoke before.
    pub fn over(self, value: Option<T>, source: Source) -> Layered<T> {
        match value {
            Some(value) if self.source <= source => Layered { value, source },
            _ => self,
        }
    }
}
