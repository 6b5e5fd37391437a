//! Parses one pattern into the plain globs it stands for.
//!
//! `globset` matches; this module only prepares what it is given, because a pattern in a config file is looser than a glob: it may start
//! with `!`, `./` or `/`, end with `/`, and hold braces. Braces are expanded here, so that every glob is a list of components that a
//! walk can be held against folder by folder, and so that their number is bounded before anything is compiled.
//!
//! Invariant: no wildcard and no class ever matches a `/`; only `**` as a whole component crosses folders.
//! Limit: `?` and negated classes match one byte, as in `globset`: a letter outside ASCII needs `*`. Such a letter inside a class could
//! never match and is refused.

use std::collections::BTreeSet;
use std::fmt;

use unicode_normalization::UnicodeNormalization;

use crate::denylist::denied;
use crate::path::RelPath;
use crate::wild::takes;

/// Longest pattern, in characters.
pub const MAX_PATTERN_CHARS: usize = 200;
/// Most globs one pattern may stand for once its braces are expanded.
pub const MAX_ALTERNATIVES: usize = 256;
/// Deepest nesting of braces.
pub const MAX_BRACE_DEPTH: usize = 8;

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternProblem {
    /// Nothing is left of the pattern that could match a path.
    #[error("it is empty")]
    Empty,
    /// The pattern is too long.
    #[error("it has {chars} characters, at most {limit} are allowed")]
    TooLong {
        /// Its length in characters.
        chars: usize,
        /// The bound, [`MAX_PATTERN_CHARS`].
        limit: usize,
    },
    /// The lists hold too many patterns; this is the first beyond the bound.
    #[error("it is one of {patterns}, at most {limit} are allowed in all lists together")]
    TooMany {
        /// How many patterns there are.
        patterns: usize,
        /// The bound, [`crate::MAX_PATTERNS`].
        limit: usize,
    },
    /// A component is `..`.
    #[error("it leaves the project: `..` is not allowed")]
    Traversal,
    /// A `{` is not closed.
    #[error("a `{{` is not closed (write `\\{{` for the character)")]
    UnclosedBrace,
    /// A `}` closes nothing.
    #[error("a `}}` closes nothing (write `\\}}` for the character)")]
    UnopenedBrace,
    /// Braces are nested too deep.
    #[error("its braces are nested deeper than {limit}")]
    BracesTooDeep {
        /// The bound, [`MAX_BRACE_DEPTH`].
        limit: usize,
    },
    /// The braces stand for too many globs.
    #[error("its braces stand for more than {limit} globs")]
    TooManyAlternatives {
        /// The bound that was crossed: [`MAX_ALTERNATIVES`], or [`crate::MAX_ALTERNATIVES_IN_ALL`] for all lists together.
        limit: usize,
    },
    /// A `[` is not closed.
    #[error("a `[` is not closed (write `\\[` for the character)")]
    UnclosedClass,
    /// A range in a class runs backwards.
    #[error("the range `{from}-{to}` runs backwards")]
    BadRange {
        /// Its first character.
        from: char,
        /// Its last character.
        to: char,
    },
    /// A class can match nothing but a separator.
    #[error("a `[..]` holds nothing that a name can contain")]
    EmptyClass,
    /// A class holds a character outside ASCII.
    #[error("a `[..]` cannot hold `{character}`: write `{{a,b}}` for characters outside ASCII")]
    NonAsciiClass {
        /// The character.
        character: char,
    },
    /// The pattern ends with the escape character.
    #[error("it ends with a `\\` that escapes nothing")]
    DanglingEscape,
    /// The lists are too long once braces are expanded; this is the first pattern beyond the bound.
    #[error("with it, all lists together weigh {weight} characters and wildcards, at most {limit} are allowed")]
    TooHeavy {
        /// What they weigh.
        weight: usize,
        /// The bound, [`crate::MAX_WEIGHT_IN_ALL`].
        limit: usize,
    },
    /// The matcher cannot hold it.
    #[error("it cannot be compiled: {detail}")]
    TooComplex {
        /// What the matcher said.
        detail: String,
    },
}

/// One pattern, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Whether it started with `!`.
    pub excludes: bool,
    /// What it stands for: 1..=256 globs without braces, without duplicates.
    pub globs: Vec<PlainGlob>,
    /// Whether a leading `./` or `/`, a doubled or a trailing `/` was rewritten.
    pub was_rewritten: bool,
    /// Whether `**` stands beside other characters, where it is just `*`.
    pub has_stars_inside_name: bool,
    /// Whether a `\` stands before a letter or digit, as in a Windows path.
    pub escapes_letter: bool,
}

/// A glob without braces: components from the root down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlainGlob {
    pub components: Vec<Component>,
}

/// One component of a [`PlainGlob`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Component {
    /// `**`: any number of components; at the end at least one.
    Anything,
    /// A name without wildcards.
    Literal(String),
    /// A name with wildcards.
    Wild(Vec<Token>),
}

/// A piece of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Token {
    Character(char),
    One,
    Many,
    /// One of these bytes, or, negated, any other but `/`.
    Class {
        negated: bool,
        members: BTreeSet<u8>,
    },
}

impl Pattern {
    /// Parses what stands in a config file.
    pub fn parse(text: &str) -> Result<Pattern, PatternProblem> {
        let chars = text.chars().count();
        if chars > MAX_PATTERN_CHARS {
            return Err(PatternProblem::TooLong { chars, limit: MAX_PATTERN_CHARS });
        }
        let normal: Vec<char> = text.nfc().collect();
        let (excludes, body) = match normal.split_first() {
            Some((&'!', rest)) => (true, rest),
            _ => (false, normal.as_slice()),
        };
        let mut pattern = Pattern {
            excludes,
            globs: Vec::new(),
            was_rewritten: false,
            has_stars_inside_name: false,
            escapes_letter: body.windows(2).any(|pair| pair[0] == '\\' && pair[1].is_alphanumeric()),
        };
        let mut distinct = BTreeSet::new();
        for alternative in expand(body)? {
            if let Some(glob) = pattern.parse_alternative(&alternative)?
                && distinct.insert(glob.clone())
            {
                pattern.globs.push(glob);
            }
        }
        if pattern.globs.is_empty() { Err(PatternProblem::Empty) } else { Ok(pattern) }
    }

    /// Parses one alternative; an empty one matches nothing and gives none.
    fn parse_alternative(&mut self, alternative: &[char]) -> Result<Option<PlainGlob>, PatternProblem> {
        let names = split_names(alternative)?;
        let last = names.len() - 1;
        let mut components: Vec<Component> = Vec::new();
        for (at, tokens) in names.into_iter().enumerate() {
            let component = match name_of(&tokens) {
                Name::Empty if at < last || components.is_empty() => {
                    self.was_rewritten |= last > 0;
                    continue;
                }
                // A trailing `/` means everything below.
                Name::Empty => {
                    self.was_rewritten = true;
                    Component::Anything
                }
                Name::Here => {
                    self.was_rewritten = true;
                    continue;
                }
                Name::Above => return Err(PatternProblem::Traversal),
                Name::Anything => Component::Anything,
                Name::Literal(name) => Component::Literal(name),
                Name::Wild => {
                    self.has_stars_inside_name |= tokens.windows(2).any(|pair| pair == [Token::Many, Token::Many]);
                    Component::Wild(without_doubled_stars(tokens))
                }
            };
            if !(component == Component::Anything && components.last() == Some(&Component::Anything)) {
                components.push(component);
            }
        }
        Ok((!components.is_empty()).then_some(PlainGlob { components }))
    }
}

impl PlainGlob {
    /// Tells whether the glob names exactly one path, and which.
    pub fn literal_path(&self) -> Option<String> {
        let names: Option<Vec<&str>> = self
            .components
            .iter()
            .map(|component| match component {
                Component::Literal(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        names.map(|names| names.join("/"))
    }

    /// Returns the line of the denylist that covers every path this glob matches, as far as its literal names tell.
    pub fn denied_by(&self) -> Option<&'static str> {
        self.components.split(|component| !matches!(component, Component::Literal(_))).find_map(|run| {
            let names = PlainGlob { components: run.to_vec() }.literal_path()?;
            denied(&RelPath::parse(&names).ok()?)
        })
    }

    /// Returns how much of an automaton the glob needs: about the number of its states.
    pub fn weight(&self) -> usize {
        const WEIGHT_OF_ANYTHING: usize = 8;
        let weights = self.components.iter().map(|component| match component {
            Component::Anything => WEIGHT_OF_ANYTHING,
            Component::Literal(name) => name.len(),
            Component::Wild(tokens) => tokens.iter().map(Token::weight).sum(),
        });
        weights.map(|weight| weight + 1).sum()
    }

    /// Tells whether the last component has no wildcard.
    pub fn ends_literally(&self) -> bool {
        matches!(self.components.last(), Some(Component::Literal(_)))
    }

    /// Returns the glob for everything below what this one matches.
    pub fn everything_below(&self) -> PlainGlob {
        let mut below = self.clone();
        if below.components.last() != Some(&Component::Anything) {
            below.components.push(Component::Anything);
        }
        below
    }

    /// Returns the glob of the folders below which this one matches everything, if it ends with `**`; an empty glob is the root.
    pub fn folder_of_everything(&self) -> Option<PlainGlob> {
        match self.components.split_last() {
            Some((Component::Anything, folder)) => Some(PlainGlob { components: folder.to_vec() }),
            _ => None,
        }
    }

    /// Tells whether a path below the folder with these components could match.
    ///
    /// Exact for the folder itself: what is true of its names; what stands below is not asked.
    pub fn may_match_below<'a>(&self, folder: impl Iterator<Item = &'a str>) -> bool {
        // reachable[i]: the components so far can have been consumed by the first i components of the glob.
        let count = self.components.len();
        let mut reachable = vec![false; count + 1];
        reachable[0] = true;
        self.skip_anything(&mut reachable);
        for name in folder {
            let mut next = vec![false; count + 1];
            for (at, component) in self.components.iter().enumerate().filter(|&(at, _)| reachable[at]) {
                match component {
                    Component::Anything => next[at] = true,
                    Component::Literal(literal) => next[at + 1] |= literal == name,
                    wild @ Component::Wild(_) => next[at + 1] |= takes(wild, name),
                }
            }
            reachable = next;
            self.skip_anything(&mut reachable);
        }
        reachable[..count].contains(&true)
    }

    fn skip_anything(&self, reachable: &mut [bool]) {
        // The last `**` needs a component, so it is not skipped.
        for at in 0..self.components.len().saturating_sub(1) {
            if reachable[at] && self.components[at] == Component::Anything {
                reachable[at + 1] = true;
            }
        }
    }
}

impl Token {
    fn weight(&self) -> usize {
        match self {
            Token::Character(c) => c.len_utf8(),
            Token::One => 1,
            Token::Many | Token::Class { .. } => 2,
        }
    }
}

/// The glob as `globset` reads it.
impl fmt::Display for PlainGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, component) in self.components.iter().enumerate() {
            if at > 0 {
                f.write_str("/")?;
            }
            match component {
                Component::Anything => f.write_str("**")?,
                Component::Literal(name) => name.chars().try_for_each(|c| write_escaped(f, c))?,
                Component::Wild(tokens) => tokens.iter().try_for_each(|token| token.fmt(f))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Character(c) => write_escaped(f, *c),
            Token::One => f.write_str("?"),
            Token::Many => f.write_str("*"),
            Token::Class { negated, members } => write_class(f, *negated, members),
        }
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
        f.write_str("\\")?;
    }
    write!(f, "{c}")
}

/// Writes a class so that none of its members is taken for syntax, which inside a class cannot be escaped.
fn write_class(f: &mut fmt::Formatter<'_>, negated: bool, members: &BTreeSet<u8>) -> fmt::Result {
    let has = |byte: u8| members.contains(&byte);
    let special = [b']', b'!', b'^', b'-'];
    let ordinary: String =
        members.iter().filter(|byte| !special.contains(byte)).map(|&byte| char::from(byte)).collect();
    let only_signs = !negated && ordinary.is_empty() && !has(b']') && !has(b'-');
    if only_signs {
        // `[!^]` would be a negation.
        let signs: Vec<&str> =
            [(b'!', "!"), (b'^', "^")].into_iter().filter(|(byte, _)| has(*byte)).map(|(_, sign)| sign).collect();
        return write!(f, "{{{}}}", signs.join(","));
    }
    // `]` is a member only at the start, `-` at the start or the end, `!` and `^` anywhere but at the start.
    let dash_leads = has(b'-') && !has(b']') && ordinary.is_empty();
    f.write_str(if negated { "[!" } else { "[" })?;
    for (is_member, text) in [
        (has(b']'), "]"),
        (dash_leads, "-"),
        (true, ordinary.as_str()),
        (has(b'!'), "!"),
        (has(b'^'), "^"),
        (has(b'-') && !dash_leads, "-"),
    ] {
        if is_member {
            f.write_str(text)?;
        }
    }
    f.write_str("]")
}

/// What the tokens between two separators stand for.
enum Name {
    Empty,
    Here,
    Above,
    Anything,
    Literal(String),
    Wild,
}

fn name_of(tokens: &[Token]) -> Name {
    if tokens == [Token::Many, Token::Many] {
        return Name::Anything;
    }
    let literal: Option<String> = tokens
        .iter()
        .map(|token| match token {
            Token::Character(c) => Some(*c),
            _ => None,
        })
        .collect();
    match literal {
        None => Name::Wild,
        Some(name) => match name.as_str() {
            "" => Name::Empty,
            "." => Name::Here,
            ".." => Name::Above,
            _ => Name::Literal(name),
        },
    }
}

fn without_doubled_stars(mut tokens: Vec<Token>) -> Vec<Token> {
    tokens.dedup_by(|later, earlier| *later == Token::Many && *earlier == Token::Many);
    tokens
}

/// Splits an alternative into the tokens of its names.
///
/// Shape: n separators give n + 1 names, empty ones included.
fn split_names(alternative: &[char]) -> Result<Vec<Vec<Token>>, PatternProblem> {
    let mut names = vec![Vec::new()];
    let mut at = 0;
    while let Some(&c) = alternative.get(at) {
        at += 1;
        let token = match c {
            '/' => None,
            '?' => Some(Token::One),
            '*' => Some(Token::Many),
            '[' => {
                let (class, end) = parse_class(alternative, at)?;
                at = end;
                Some(class)
            }
            '\\' => {
                let &escaped = alternative.get(at).ok_or(PatternProblem::DanglingEscape)?;
                at += 1;
                (escaped != '/').then_some(Token::Character(escaped))
            }
            _ => Some(Token::Character(c)),
        };
        match (token, names.last_mut()) {
            (Some(token), Some(name)) => name.push(token),
            _ => names.push(Vec::new()),
        }
    }
    Ok(names)
}

/// Parses a class whose `[` stands before `start`; returns it and the place after its `]`.
fn parse_class(chars: &[char], start: usize) -> Result<(Token, usize), PatternProblem> {
    let end = class_end(chars, start)?;
    let negated = matches!(chars[start], '!' | '^');
    let body = &chars[start + usize::from(negated)..end - 1];
    if let Some(&character) = body.iter().find(|c| !c.is_ascii()) {
        return Err(PatternProblem::NonAsciiClass { character });
    }
    let mut members = BTreeSet::new();
    let mut at = 0;
    while at < body.len() {
        // A `-` between two members is a range; the first and the last of a class is itself.
        let (from, to, taken) = match body[at..] {
            [from, '-', to, ..] => (from, to, 3),
            _ => (body[at], body[at], 1),
        };
        if to < from {
            return Err(PatternProblem::BadRange { from, to });
        }
        members.extend((from..=to).map(|c| c as u8));
        at += taken;
    }
    // No class may cross a separator: a positive one loses it, a negated one gains it.
    if negated {
        members.insert(b'/');
    } else if members.remove(&b'/') && members.is_empty() {
        return Err(PatternProblem::EmptyClass);
    }
    Ok((Token::Class { negated, members }, end))
}

/// Returns the place after the `]` that closes a class whose `[` stands before `start`.
fn class_end(chars: &[char], start: usize) -> Result<usize, PatternProblem> {
    let negated = matches!(chars.get(start), Some('!' | '^'));
    // A `]` at the start is a member.
    let first = start + usize::from(negated);
    chars
        .iter()
        .enumerate()
        .skip(first + 1)
        .find(|&(_, &c)| c == ']')
        .map(|(at, _)| at + 1)
        .ok_or(PatternProblem::UnclosedClass)
}

/// Expands braces: `a{b,c{d,e}}` gives `ab`, `acd`, `ace`.
///
/// Shape: 1..=256 alternatives, each no longer than the pattern. Escapes and classes are kept as they are.
fn expand(pattern: &[char]) -> Result<Vec<Vec<char>>, PatternProblem> {
    let (alternatives, end) = expand_sequence(pattern, 0, 0)?;
    if end < pattern.len() { Err(PatternProblem::UnopenedBrace) } else { Ok(alternatives) }
}

/// Expands from `at` to the end, or within braces to the `,` or `}` that ends the sequence, and returns its place.
fn expand_sequence(pattern: &[char], mut at: usize, depth: usize) -> Result<(Vec<Vec<char>>, usize), PatternProblem> {
    let mut alternatives: Vec<Vec<char>> = vec![Vec::new()];
    while let Some(&c) = pattern.get(at) {
        let end = match c {
            '}' => break,
            ',' if depth > 0 => break,
            '{' => {
                let (group, end) = expand_group(pattern, at + 1, depth + 1)?;
                alternatives = product(&alternatives, &group)?;
                at = end;
                continue;
            }
            '\\' => (at + 2).min(pattern.len()),
            '[' => class_end(pattern, at + 1)?,
            _ => at + 1,
        };
        for alternative in &mut alternatives {
            alternative.extend_from_slice(&pattern[at..end]);
        }
        at = end;
    }
    Ok((alternatives, at))
}

/// Expands the group whose `{` stands before `at`; returns its alternatives and the place after its `}`.
fn expand_group(pattern: &[char], mut at: usize, depth: usize) -> Result<(Vec<Vec<char>>, usize), PatternProblem> {
    if depth > MAX_BRACE_DEPTH {
        return Err(PatternProblem::BracesTooDeep { limit: MAX_BRACE_DEPTH });
    }
    let mut group = Vec::new();
    loop {
        let (branch, end) = expand_sequence(pattern, at, depth)?;
        group.extend(branch);
        if group.len() > MAX_ALTERNATIVES {
            return Err(PatternProblem::TooManyAlternatives { limit: MAX_ALTERNATIVES });
        }
        match pattern.get(end) {
            Some(',') => at = end + 1,
            Some(_) => return Ok((group, end + 1)),
            None => return Err(PatternProblem::UnclosedBrace),
        }
    }
}

fn product(starts: &[Vec<char>], ends: &[Vec<char>]) -> Result<Vec<Vec<char>>, PatternProblem> {
    // Both are at most MAX_ALTERNATIVES long, so their product cannot overflow; it is checked before it is made.
    if starts.len() * ends.len() > MAX_ALTERNATIVES {
        return Err(PatternProblem::TooManyAlternatives { limit: MAX_ALTERNATIVES });
    }
    Ok(starts.iter().flat_map(|start| ends.iter().map(move |end| [start.as_slice(), end].concat())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(text: &str) -> Vec<String> {
        let pattern = Pattern::parse(text).unwrap_or_else(|problem| panic!("{text:?}: {problem}"));
        pattern.globs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_loose_pattern_becomes_plain_globs() {
        for (text, expected) in [
            ("data/*.json", vec!["data/*.json"]),
            ("./data/*.json", vec!["data/*.json"]),
            ("/data//x", vec!["data/x"]),
            ("data/", vec!["data/**"]),
            ("data/**/", vec!["data/**"]),
            ("a/**/**/b", vec!["a/**/b"]),
            ("a/./b", vec!["a/b"]),
            ("a**b", vec!["a*b"]),
            ("!x/{a,b}.md", vec!["x/a.md", "x/b.md"]),
            ("{,x}a", vec!["a", "xa"]),
            ("{a,{b,c}d}", vec!["a", "bd", "cd"]),
            ("{a,a}", vec!["a"]),
            ("{,a}", vec!["a"]),
            ("{a/b,c}/d", vec!["a/b/d", "c/d"]),
            ("a,b", vec!["a,b"]),
            ("\\{a\\}", vec!["\\{a\\}"]),
            ("\\*\\?\\[", vec!["\\*\\?\\["]),
            ("[a-c]", vec!["[abc]"]),
            ("[]a]", vec!["[]a]"]),
            ("[!]]", vec!["[!]/]"]),
            ("[a-]", vec!["[a-]"]),
            ("[-]", vec!["[-]"]),
            ("[a!]", vec!["[a!]"]),
            ("[--/]", vec!["[.-]"]),
            ("[^a]", vec!["[!/a]"]),
            ("[{,}]", vec!["[,{}]"]),
            ("e\u{301}", vec!["é"]),
        ] {
            assert_eq!(globs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_match_is_refused_with_its_fact() {
        let limit = MAX_ALTERNATIVES;
        for (text, expected) in [
            ("", PatternProblem::Empty),
            ("!", PatternProblem::Empty),
            ("/", PatternProblem::Empty),
            ("./", PatternProblem::Empty),
            ("{,}", PatternProblem::Empty),
            ("../x", PatternProblem::Traversal),
            ("a/../b", PatternProblem::Traversal),
            ("{a,..}/b", PatternProblem::Traversal),
            ("{a", PatternProblem::UnclosedBrace),
            ("{a,{b}", PatternProblem::UnclosedBrace),
            ("a}", PatternProblem::UnopenedBrace),
            ("[a", PatternProblem::UnclosedClass),
            ("[", PatternProblem::UnclosedClass),
            ("[!]", PatternProblem::UnclosedClass),
            ("[z-a]", PatternProblem::BadRange { from: 'z', to: 'a' }),
            ("[/]", PatternProblem::EmptyClass),
            ("[ä]", PatternProblem::NonAsciiClass { character: 'ä' }),
            ("a\\", PatternProblem::DanglingEscape),
            ("{{{{{{{{{a}}}}}}}}}", PatternProblem::BracesTooDeep { limit: MAX_BRACE_DEPTH }),
            ("{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", PatternProblem::TooManyAlternatives { limit }),
        ] {
            assert_eq!(Pattern::parse(text), Err(expected), "{text:?}");
        }
        let long = "a".repeat(MAX_PATTERN_CHARS + 1);
        assert_eq!(Pattern::parse(&long), Err(PatternProblem::TooLong { chars: 201, limit: MAX_PATTERN_CHARS }));
        assert!(Pattern::parse(&"ä".repeat(MAX_PATTERN_CHARS)).is_ok());
    }

    #[test]
    fn a_brace_bomb_is_refused_before_it_is_made() {
        for group in ["{a,b}", "{,}", "{a,{b,{c,d}}}", "{{,},{,}}"] {
            let bomb = group.repeat(MAX_PATTERN_CHARS / group.len());
            assert_eq!(
                Pattern::parse(&bomb),
                Err(PatternProblem::TooManyAlternatives { limit: MAX_ALTERNATIVES }),
                "{group}"
            );
        }
    }

    #[test]
    fn a_walk_is_followed_only_where_a_match_is_possible() {
        for (pattern, folder, expected) in [
            ("data/**/*.json", "data", true),
            ("data/**/*.json", "data/x/y", true),
            ("data/**/*.json", "src", false),
            ("data/**/*.json", "data2", false),
            ("data/*.json", "data/x", false),
            ("**/*.json", "any/where", true),
            ("**/a/b", "x/a", true),
            ("a/**/b/c", "a/b", true),
            ("a/**/b/c", "c", false),
            ("data", "data", false),
            ("data/**", "data", true),
            ("log*/x", "logs", true),
            ("log*/x", "data", false),
            ("*.d/x", "a.d", true),
            ("*.d/x", "a.e", false),
            ("é*/x", "éa", true),
            ("**", "a", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap_or_else(|problem| panic!("{pattern:?}: {problem}"));
            assert_eq!(parsed.globs[0].may_match_below(folder.split('/')), expected, "{pattern:?} below {folder:?}");
        }
    }

    #[test]
    fn what_a_pattern_hides_is_noticed() {
        let parse = |text| Pattern::parse(text).unwrap_or_else(|problem| panic!("{text:?}: {problem}"));
        assert!(parse("./a").was_rewritten && parse("a/").was_rewritten && !parse("a/b").was_rewritten);
        assert!(parse("a**").has_stars_inside_name && !parse("a/**").has_stars_inside_name);
        assert!(parse("data\\x").escapes_letter && !parse("data\\*").escapes_letter);
    }
}
