//! A JSONC text as a tree that remembers where everything stands.
//!
//! Invariant: every span is a byte range of the text given to `parse`, on character boundaries; no object holds a key
//! twice. Knows nothing of the config's fields, and reads no file.

use std::ops::Range;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Number, Value};

/// One step from an object or list into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The member of that name.
    Key(String),
    /// The element of that number, from 0.
    Index(usize),
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Null,
    Bool(bool),
    /// As written; JSON's grammar holds.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Member>),
}

/// One key with its value.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    pub(super) value: Node,
}

/// Why a text is no JSONC, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxProblem {
    pub(super) span: Range<usize>,
    pub(super) sentence: String,
    pub(super) label: &'static str,
    pub(super) help: &'static str,
}

/// Reads JSON with comments and trailing commas; anything looser is refused.
///
/// Errors: the first syntax error, or the first key that an object holds twice.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxProblem> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &jsonc_only())
        .map_err(|error| syntax_problem(text, error.range().start, error.range().end, error.kind()))?;
    let value = parsed.value.ok_or_else(|| SyntaxProblem {
        span: 0..0,
        sentence: "the file is empty".to_owned(),
        label: "",
        help: "run `larder init`, which proposes a config for what stands here",
    })?;
    convert(value)
}

/// Comments and trailing commas, nothing looser.
pub(super) fn jsonc_only() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn syntax_problem(text: &str, start: usize, end: usize, kind: &ParseErrorKind) -> SyntaxProblem {
    use ParseErrorKind as Kind;
    let start = floor_boundary(text, start.min(text.len()));
    let whole = start..floor_boundary(text, end.clamp(start, text.len()));
    let first = start..ceil_boundary(text, (start + 1).min(text.len()));
    let (span, sentence, label, help) = match kind {
        Kind::UnterminatedObject => (first, "the object is never closed", "opened here", "add the missing `}`"),
        Kind::UnterminatedArray => (first, "the list is never closed", "opened here", "add the missing `]`"),
        Kind::UnterminatedCommentBlock => (first, "the comment is never closed", "opened here", "add the missing `*/`"),
        Kind::String(_) => (
            first,
            "the text is not well formed",
            "begins here",
            "close it with `\"` on the same line; write a backslash as `\\\\`",
        ),
        Kind::ExpectedComma => (whole, "a comma is missing", "expected `,` here", "put a comma between the two"),
        Kind::UnexpectedComma => {
            (whole, "a comma stands where a value belongs", "unexpected", "remove it, or write the value before it")
        }
        Kind::ExpectedColonAfterObjectKey => {
            (whole, "a key is not followed by a colon", "expected `:` here", "write `\"key\": value`")
        }
        Kind::ExpectedObjectValue => {
            (whole, "a key has no value", "expected a value here", "write a value after the colon, or remove the key")
        }
        Kind::ExpectedStringObjectProperty => {
            (whole, "a key stands without quotes", "this key", "put it in double quotes")
        }
        Kind::SingleQuotedStringsNotAllowed => (whole, "a text stands in single quotes", "here", "use double quotes"),
        Kind::UnexpectedWord => (
            whole,
            "a word stands where a value belongs",
            "unexpected",
            "put texts in double quotes; the bare words are true, false and null",
        ),
        Kind::MultipleRootJsonValues => (
            whole,
            "something follows the end of the config",
            "unexpected",
            "keep everything inside one pair of braces",
        ),
        Kind::UnexpectedCloseBrace => (
            whole,
            "a `}` stands where something else belongs",
            "unexpected",
            "write the missing value before it, close an open list with `]`, or remove it",
        ),
        Kind::UnexpectedCloseBracket => (
            whole,
            "a `]` stands where something else belongs",
            "unexpected",
            "write the missing value before it, close an open object with `}`, or remove it",
        ),
        Kind::NestingDepthExceeded => {
            (first, "the values are nested too deeply", "here", "the config never needs more than four levels")
        }
        Kind::HexadecimalNumbersNotAllowed
        | Kind::UnaryPlusNumbersNotAllowed
        | Kind::BareDecimalPointNumbersNotAllowed
        | Kind::NonFiniteNumbersNotAllowed
        | Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral => {
            (whole, "a number is not written as JSON writes it", "this number", "use plain decimal digits")
        }
        _ => (whole, "the file is not well-formed JSON", "unexpected", "see docs/config.md for an example"),
    };
    SyntaxProblem { span, sentence: sentence.to_owned(), label, help }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

// The parser bounds the depth, so recursion is safe here and in `to_json`.
fn convert(value: ast::Value<'_>) -> Result<Node, SyntaxProblem> {
    let span = value.range().start..value.range().end;
    let content = match value {
        ast::Value::NullKeyword(_) => Content::Null,
        ast::Value::BooleanLit(literal) => Content::Bool(literal.value),
        ast::Value::NumberLit(literal) => Content::Number(literal.value.to_owned()),
        ast::Value::StringLit(literal) => Content::Text(literal.value.into_owned()),
        ast::Value::Array(array) => Content::List(array.elements.into_iter().map(convert).collect::<Result<_, _>>()?),
        ast::Value::Object(object) => Content::Object(convert_members(object.properties)?),
    };
    Ok(Node { span, content })
}

fn convert_members(properties: Vec<ast::ObjectProp<'_>>) -> Result<Vec<Member>, SyntaxProblem> {
    let mut seen = std::collections::BTreeSet::new();
    let mut members = Vec::with_capacity(properties.len());
    for property in properties {
        let name_span = property.name.range().start..property.name.range().end;
        let name = property.name.into_string();
        if !seen.insert(name.clone()) {
            return Err(SyntaxProblem {
                span: name_span,
                sentence: format!("the key `{}` stands twice", shorten(&name)),
                label: "the second one",
                help: "keep one of them",
            });
        }
        members.push(Member { name, name_span, value: convert(property.value)? });
    }
    Ok(members)
}

/// Cuts a text from outside for use in a sentence, and makes control characters visible.
pub(super) fn shorten(text: &str) -> String {
    cut(&larder_patterns::shown(text))
}

fn cut(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 80;
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

impl Node {
    /// The value as serde_json has it, without places.
    pub(super) fn to_json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            // A number that no f64 holds (1e999) stays a text, and is then refused for its type.
            Content::Number(text) => text.parse::<Number>().map_or_else(|_| Value::String(text.clone()), Value::Number),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Object(members) => {
                Value::Object(members.iter().map(|m| (m.name.clone(), m.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The member of an object; `None` if there is none or this is no object.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        match &self.content {
            Content::Object(members) => members.iter().find(|member| member.name == name),
            _ => None,
        }
    }

    /// The node at the end of `steps`, and the span of the key that names it (its own if an index does).
    ///
    /// Goes as far as the steps lead; the rest is ignored.
    pub(super) fn follow(&self, steps: &[Step]) -> (&Node, Range<usize>) {
        let mut node = self;
        let mut key_span = self.span.clone();
        for step in steps {
            match (step, &node.content) {
                (Step::Key(name), Content::Object(_)) => {
                    let Some(member) = node.member(name) else {
                        break;
                    };
                    (node, key_span) = (&member.value, member.name_span.clone());
                }
                (Step::Index(i), Content::List(items)) => {
                    let Some(item) = items.get(*i) else { break };
                    (node, key_span) = (item, item.span.clone());
                }
                _ => break,
            }
        }
        (node, key_span)
    }

    /// What this is, in words, for "must be .., not ..".
    pub(super) fn described(&self) -> String {
        match &self.content {
            Content::Null => "null".to_owned(),
            Content::Bool(value) => value.to_string(),
            Content::Number(text) => format!("the number {}", shorten(text)),
            Content::Text(text) if text.is_empty() => "an empty text".to_owned(),
            Content::Text(text) => format!("the text \"{}\"", cut(&super::address::shown(text))),
            Content::List(_) => "a list".to_owned(),
            Content::Object(_) => "an object".to_owned(),
        }
    }
}

/// `peers.laptop.url`, `syncFilePatterns[2]`.
pub(super) fn dotted(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(name) if text.is_empty() => text.push_str(&shorten(name)),
            Step::Key(name) => {
                text.push('.');
                text.push_str(&shorten(name));
            }
            Step::Index(i) => text.push_str(&format!("[{i}]")),
        }
    }
    text
}
