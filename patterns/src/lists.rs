//! The pattern lists as a config file holds them, and what is said about single patterns: errors, warnings, references.

use std::fmt;

use crate::channel::Channel;
use crate::glob::{Pattern, PatternProblem, PlainGlob};
use crate::path::shown_short;

/// Most patterns in all lists together.
pub const MAX_PATTERNS: usize = 1_000;

/// The pattern lists as they stand in a config file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatternLists {
    /// Patterns of the shared channel.
    pub shared: Vec<String>,
    /// Patterns of the private channel.
    pub private: Vec<String>,
    /// Patterns of the archive channel.
    pub archive: Vec<String>,
}

impl PatternLists {
    /// Returns the list of one channel.
    pub fn list(&self, channel: Channel) -> &[String] {
        match channel {
            Channel::Private => &self.private,
            Channel::Shared => &self.shared,
            Channel::Archive => &self.archive,
        }
    }
}

/// A pattern and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternRef {
    /// The list it stands in.
    pub list: Channel,
    /// Its place in that list, from 0.
    pub index: usize,
    /// Its text as it was written, with its `!` if it has one.
    pub text: String,
}

impl PatternRef {
    /// Tells whether the pattern excludes.
    pub fn is_exclusion(&self) -> bool {
        self.text.starts_with('!')
    }
}

impl fmt::Display for PatternRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" ({}[{}])", shown_short(&self.text), self.list.config_key(), self.index)
    }
}

/// A pattern that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compile the pattern \"{}\" ({}[{index}]): {problem}", shown_short(pattern), list.config_key())]
pub struct PatternError {
    /// The list it stands in.
    pub list: Channel,
    /// Its place in that list, from 0.
    pub index: usize,
    /// Its text.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub problem: PatternProblem,
}

/// A pattern that works, but perhaps not as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternWarning {
    /// The list it stands in.
    pub list: Channel,
    /// Its place in that list, from 0.
    pub index: usize,
    /// Its text.
    pub pattern: String,
    /// What is worth knowing about it.
    pub kind: PatternWarningKind,
}

/// What is worth knowing about a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternWarningKind {
    /// A leading `./` or `/`, a doubled or a trailing `/` was rewritten.
    Rewritten {
        /// The globs that are matched instead.
        to: Vec<String>,
    },
    /// `**` stands beside other characters, where it does not cross folders.
    StarsInsideName,
    /// A `\` stands before a letter or digit: it escapes, it does not separate.
    BackslashBeforeLetter,
    /// The pattern can match nothing but what the denylist covers.
    OnlyDenied {
        /// The deciding line of the denylist.
        rule: &'static str,
    },
    /// The list excludes, but names nothing; this is its first pattern.
    OnlyExclusions,
}

impl fmt::Display for PatternWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = PatternRef { list: self.list, index: self.index, text: self.pattern.clone() };
        write!(f, "the pattern {source} ")?;
        match &self.kind {
            PatternWarningKind::Rewritten { to } => match to.as_slice() {
                [only] => write!(f, "is read as \"{}\"", shown_short(only)),
                several => write!(f, "is read as {} globs, the first \"{}\"", several.len(), shown_short(&several[0])),
            },
            PatternWarningKind::StarsInsideName => f.write_str("has `**` inside a name, where it is read as `*`"),
            PatternWarningKind::BackslashBeforeLetter => {
                f.write_str("has a `\\` before a letter: folders are separated by `/`")
            }
            PatternWarningKind::OnlyDenied { rule } => {
                write!(f, "can match nothing: the denylist's `{rule}` covers it")
            }
            PatternWarningKind::OnlyExclusions => f.write_str("excludes from a list that names nothing"),
        }
    }
}

/// Refuses lists with more than [`MAX_PATTERNS`] patterns.
pub(crate) fn check_count(lists: &PatternLists) -> Result<(), PatternError> {
    let all = || {
        Channel::ALL
            .into_iter()
            .flat_map(|list| lists.list(list).iter().enumerate().map(move |(index, text)| (list, index, text)))
    };
    match all().nth(MAX_PATTERNS) {
        None => Ok(()),
        Some((list, index, text)) => {
            let source = PatternRef { list, index, text: text.clone() };
            Err(error_at(&source, PatternProblem::TooMany { patterns: all().count(), limit: MAX_PATTERNS }))
        }
    }
}

pub(crate) fn error_at(source: &PatternRef, problem: PatternProblem) -> PatternError {
    PatternError { list: source.list, index: source.index, pattern: source.text.clone(), problem }
}

pub(crate) fn warning_at(source: &PatternRef, kind: PatternWarningKind) -> PatternWarning {
    PatternWarning { list: source.list, index: source.index, pattern: source.text.clone(), kind }
}

/// Returns what is worth knowing about one pattern.
pub(crate) fn warnings_of(source: &PatternRef, parsed: &Pattern) -> Vec<PatternWarning> {
    let rewritten = || PatternWarningKind::Rewritten { to: parsed.globs.iter().map(ToString::to_string).collect() };
    let only_denied = || only_denied(parsed).map(|rule| PatternWarningKind::OnlyDenied { rule });
    [
        parsed.was_rewritten.then(rewritten),
        parsed.has_stars_inside_name.then_some(PatternWarningKind::StarsInsideName),
        parsed.escapes_letter.then_some(PatternWarningKind::BackslashBeforeLetter),
        (!parsed.excludes).then(only_denied).flatten(),
    ]
    .into_iter()
    .flatten()
    .map(|kind| warning_at(source, kind))
    .collect()
}

/// Returns the first deciding line if every glob has a literal component that is denied wherever it stands.
fn only_denied(parsed: &Pattern) -> Option<&'static str> {
    let rules: Option<Vec<&'static str>> = parsed.globs.iter().map(PlainGlob::denied_by).collect();
    rules.and_then(|rules| rules.first().copied())
}
