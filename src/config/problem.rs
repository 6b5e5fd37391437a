//! What is wrong with a config, where, and what to do: facts first, a drawing of the place on demand.
//!
//! Invariant: nothing shown contains a control character from the file, and a rendering is bounded however long the
//! file's lines are. Prints nothing.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

/// Longer lines are not drawn, only named by line and column.
const MAX_DRAWN_LINE_BYTES: usize = 240;
/// More problems of one file are counted, not listed.
pub(super) const MAX_PROBLEMS: usize = 20;

/// One thing that is wrong in a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key it is about, as `peers.laptop.url` or `syncFilePatterns[2]`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, as one clause without a full stop.
    pub sentence: String,
    /// What to do about it.
    pub help: Option<String>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    span: Range<usize>,
    label: String,
}

impl Problem {
    pub(super) fn at(text: &str, span: Range<usize>, key: impl Into<String>, sentence: impl Into<String>) -> Problem {
        let (line, column) = position(text, span.start);
        Problem { key: key.into(), sentence: sentence.into(), help: None, line, column, span, label: String::new() }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

/// Everything that is wrong in one config file, with its text to draw from.
#[derive(Clone)]
pub struct Problems {
    /// The file they stand in.
    pub file: PathBuf,
    /// In the order of the file; at most 20.
    pub items: Vec<Problem>,
    pub(super) text: Arc<str>,
}

impl fmt::Debug for Problems {
    // Without the text, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problems").field("file", &self.file).field("items", &self.items).finish_non_exhaustive()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = shown_path(&self.file);
        match self.items.first() {
            Some(first) => write!(f, "{file}:{}:{}: {}", first.line, first.column, first.sentence)?,
            None => write!(f, "{file}: not usable")?,
        }
        match self.items.len() {
            0 | 1 => Ok(()),
            count => write!(f, " (and {} more)", count - 1),
        }
    }
}

impl Problems {
    /// Draws every problem with its place underlined; `styled` adds terminal colours.
    pub fn render(&self, styled: bool) -> String {
        let drawings: Vec<String> = self.items.iter().map(|problem| self.draw(problem, styled)).collect();
        drawings.join("\n\n")
    }

    fn draw(&self, problem: &Problem, styled: bool) -> String {
        let file = shown_path(&self.file);
        let title = Level::ERROR.primary_title(problem.sentence.clone());
        let (line, start) = line_around(&self.text, problem.span.start);
        let drawable = !line.is_empty() && line.len() <= MAX_DRAWN_LINE_BYTES && !holds_secret(line);
        let mut group = if drawable {
            let from = problem.span.start - start;
            let to = (problem.span.end - start).clamp(from, line.len());
            let label = if problem.label.is_empty() { problem.key.clone() } else { problem.label.clone() };
            let annotation = AnnotationKind::Primary.span(from..to).label(label);
            let snippet = Snippet::source(line).line_start(problem.line).path(file);
            title.element(snippet.annotation(annotation))
        } else {
            title.element(Origin::path(file).line(problem.line).char_column(problem.column))
        };
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

// The line that holds `at`, without its end, and where it starts.
fn line_around(text: &str, at: usize) -> (&str, usize) {
    let at = at.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let line = text[start..].split('\n').next().unwrap_or_default();
    (line.trim_end_matches('\r'), start)
}

// A drawing may end in a log: a line with a secret in it is only named.
fn holds_secret(line: &str) -> bool {
    line.split('"').any(|text| super::address::secret(text).is_some())
}

pub(super) fn shown_path(path: &Path) -> String {
    larder_patterns::shown(&path.to_string_lossy())
}
