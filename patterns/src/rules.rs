//! Decides which paths are admitted, to which channel, and says why.
//!
//! A path is admitted if no line of the denylist covers it and a list names it that does not exclude it. A `!` pattern excludes from its
//! own list, whatever the order; of the lists that remain, private owns the path before shared, and shared before archive.
//!
//! Paths are matched as they are and in their NFC form, patterns in NFC: a pattern names a path if it matches either form. So an
//! exclusion cannot be slipped past by decomposing a letter. An exclusion whose last name has no wildcard covers everything below too.
//!
//! Invariants: only this module makes an [`AdmittedPath`]; `denied(path)` implies it is never made; the order of patterns in a list never
//! changes a verdict. Knows nothing of what exists on a disk: a pattern without a match is found by the caller, who asks [`Rules::matching`].

use std::borrow::Cow;
use std::fmt;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::channel::Channel;
use crate::denylist::{denied, runs_code};
use crate::glob::{Pattern, PatternProblem, PlainGlob};
use crate::path::{RelPath, shown_short};

/// Most patterns in all lists together.
pub const MAX_PATTERNS: usize = 1_000;
/// Most globs in all lists together once braces are expanded, so that compiling stays in milliseconds and megabytes.
pub const MAX_ALTERNATIVES_IN_ALL: usize = 4_096;

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

/// Compiled patterns, and the denylist that nobody can leave out.
#[derive(Clone, Debug)]
pub struct Rules {
    patterns: Vec<CompiledPattern>,
    /// All globs of all patterns; `owners` maps a glob's index to its pattern's.
    globs: GlobSet,
    owners: Vec<usize>,
    closed: ClosedFolders,
}

#[derive(Clone, Debug)]
struct CompiledPattern {
    source: PatternRef,
    excludes: bool,
    globs: Vec<PlainGlob>,
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
        write!(
            f,
            "\"{}\" ({}[{}])",
            shown_short(&self.text),
            self.list.config_key(),
            self.index
        )
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
        let source = PatternRef {
            list: self.list,
            index: self.index,
            text: self.pattern.clone(),
        };
        write!(f, "the pattern {source} ")?;
        match &self.kind {
            PatternWarningKind::Rewritten { to } => match to.as_slice() {
                [only] => write!(f, "is read as \"{}\"", shown_short(only)),
                several => write!(
                    f,
                    "is read as {} globs, the first \"{}\"",
                    several.len(),
                    shown_short(&several[0])
                ),
            },
            PatternWarningKind::StarsInsideName => {
                f.write_str("has `**` inside a name, where it is read as `*`")
            }
            PatternWarningKind::BackslashBeforeLetter => {
                f.write_str("has a `\\` before a letter: folders are separated by `/`")
            }
            PatternWarningKind::OnlyDenied { rule } => {
                write!(f, "can match nothing: the denylist's `{rule}` covers it")
            }
            PatternWarningKind::OnlyExclusions => {
                f.write_str("excludes from a list that names nothing")
            }
        }
    }
}

/// Proof that a path passed the patterns and the denylist. Only [`Rules`] make one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdmittedPath {
    path: RelPath,
    channel: Channel,
}

impl AdmittedPath {
    /// Returns the path.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Returns the channel that owns the path.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// Gives the path back.
    pub fn into_path(self) -> RelPath {
        self.path
    }
}

/// Why a path is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The denylist covers the path.
    #[error("denied by the built-in rule `{rule}`")]
    Denied {
        /// The deciding line.
        rule: &'static str,
    },
    /// Every list that names the path excludes it.
    #[error("excluded by {pattern}")]
    Excluded {
        /// The deciding exclusion.
        pattern: PatternRef,
    },
    /// No list names the path.
    #[error("named by no pattern")]
    NotListed,
    /// The file makes other programs run code, comes from outside, and no pattern is its literal path.
    #[error(
        "makes other programs run code (`{rule}`): from outside it is accepted only if a pattern is exactly its path"
    )]
    RunsCode {
        /// The deciding line of the list of such files.
        rule: &'static str,
    },
}

/// Which rule decided about a path, and which others matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The path asked about.
    pub path: RelPath,
    /// What [`Rules::admit`] says.
    pub verdict: Result<Channel, Refusal>,
    /// What decided.
    pub decided_by: Decision,
    /// Every other pattern that matches, whatever its list and sign, in order of precedence of lists, then as written.
    pub also_matched: Vec<PatternRef>,
    /// The line because of which [`Rules::admit_from_outside`] refuses what [`Rules::admit`] allows, if so.
    pub refused_from_outside: Option<&'static str>,
}

/// What decided about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A line of the denylist.
    Denylist {
        /// The line.
        rule: &'static str,
    },
    /// A pattern; its text tells its sign.
    Pattern(PatternRef),
    /// No rule matched, and what is not listed is not admitted.
    NoRule,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.shown())?;
        match (&self.verdict, &self.decided_by) {
            (Ok(channel), Decision::Pattern(pattern)) => {
                write!(f, "{channel}, named by {pattern}")?
            }
            (Ok(channel), _) => write!(f, "{channel}")?,
            (Err(refusal), _) => write!(f, "{refusal}")?,
        }
        if let Some(rule) = self.refused_from_outside {
            write!(f, "; not accepted from outside (`{rule}`)")?;
        }
        for (at, pattern) in self.also_matched.iter().enumerate() {
            write!(
                f,
                "{} {pattern}",
                if at == 0 { "; also matched by" } else { "," }
            )?;
        }
        Ok(())
    }
}

/// What the patterns alone say about a path.
enum Choice {
    Named { channel: Channel, pattern: usize },
    Excluded { pattern: usize },
    NotListed,
}

impl Rules {
    /// Compiles the lists of a config.
    ///
    /// Errors: the first pattern that cannot be used, with its place. Warnings come in the order of the lists.
    /// Limits: [`MAX_PATTERNS`], [`crate::MAX_PATTERN_CHARS`], [`crate::MAX_ALTERNATIVES`], [`MAX_ALTERNATIVES_IN_ALL`].
    pub fn compile(lists: &PatternLists) -> Result<(Rules, Vec<PatternWarning>), PatternError> {
        check_count(lists)?;
        let mut patterns = Vec::new();
        let mut warnings = Vec::new();
        let mut glob_count = 0;
        for list in Channel::ALL {
            for (index, text) in lists.list(list).iter().enumerate() {
                let source = PatternRef {
                    list,
                    index,
                    text: text.clone(),
                };
                let parsed = Pattern::parse(text).map_err(|problem| error_at(&source, problem))?;
                warnings.extend(warnings_of(&source, &parsed));
                let pattern = CompiledPattern::new(source, parsed);
                glob_count += pattern.globs.len();
                if glob_count > MAX_ALTERNATIVES_IN_ALL {
                    let problem = PatternProblem::TooManyAlternatives {
                        limit: MAX_ALTERNATIVES_IN_ALL,
                    };
                    return Err(error_at(&pattern.source, problem));
                }
                patterns.push(pattern);
            }
            warnings.extend(warning_of_bare_exclusions(list, &patterns));
        }
        let rules = Rules::build(patterns)?;
        Ok((rules, warnings))
    }

    fn build(patterns: Vec<CompiledPattern>) -> Result<Rules, PatternError> {
        let mut builder = SetBuilder::default();
        for (owner, pattern) in patterns.iter().enumerate() {
            for glob in &pattern.globs {
                builder.add(glob, owner, &pattern.source)?;
            }
        }
        let (globs, owners) = builder.build(&patterns)?;
        let closed = ClosedFolders::build(&patterns)?;
        Ok(Rules {
            patterns,
            globs,
            owners,
            closed,
        })
    }

    /// Admits a path to a channel, or says why not.
    pub fn admit(&self, path: &RelPath) -> Result<AdmittedPath, Refusal> {
        if let Some(rule) = denied(path) {
            return Err(Refusal::Denied { rule });
        }
        match self.choose(&self.matching_patterns(path)) {
            Choice::Named { channel, .. } => Ok(AdmittedPath {
                path: path.clone(),
                channel,
            }),
            Choice::Excluded { pattern } => Err(Refusal::Excluded {
                pattern: self.patterns[pattern].source.clone(),
            }),
            Choice::NotListed => Err(Refusal::NotListed),
        }
    }

    /// Admits a path that somebody else wants to write here.
    ///
    /// Refuses what [`Rules::admit`] refuses, and files that make other programs run code unless a pattern is exactly their path.
    pub fn admit_from_outside(&self, path: &RelPath) -> Result<AdmittedPath, Refusal> {
        let admitted = self.admit(path)?;
        match self.refused_from_outside(path) {
            Some(rule) => Err(Refusal::RunsCode { rule }),
            None => Ok(admitted),
        }
    }

    /// Says which rule decides about a path and which others match it.
    pub fn explain(&self, path: &RelPath) -> Explanation {
        let matching = self.matching_patterns(path);
        let choice = self.choose(&matching);
        let verdict = self.admit(path).map(|admitted| admitted.channel);
        let (decided_by, decider) = match (denied(path), choice) {
            (Some(rule), _) => (Decision::Denylist { rule }, None),
            (None, Choice::Named { pattern, .. } | Choice::Excluded { pattern }) => (
                Decision::Pattern(self.patterns[pattern].source.clone()),
                Some(pattern),
            ),
            (None, Choice::NotListed) => (Decision::NoRule, None),
        };
        let others = matching
            .into_iter()
            .filter(|&pattern| Some(pattern) != decider);
        Explanation {
            path: path.clone(),
            refused_from_outside: verdict
                .is_ok()
                .then(|| self.refused_from_outside(path))
                .flatten(),
            verdict,
            decided_by,
            also_matched: others
                .map(|pattern| self.patterns[pattern].source.clone())
                .collect(),
        }
    }

    /// Tells whether a walk must look into a folder.
    ///
    /// False only if no path below `folder` can ever be admitted: the folder is denied, no pattern leads there, or every list that
    /// leads there excludes all of it. True is not a promise.
    pub fn may_contain(&self, folder: &RelPath) -> bool {
        if denied(folder).is_some() {
            return false;
        }
        let forms = forms(folder);
        let is_closed = self.closed.of(&forms);
        self.patterns
            .iter()
            .filter(|pattern| !pattern.excludes && !is_closed[place(pattern.source.list)])
            .any(|pattern| pattern.may_match_below(&forms))
    }

    /// Returns every pattern that names paths, in order of precedence of lists, then as written.
    pub fn positive_patterns(&self) -> impl Iterator<Item = PatternRef> + '_ {
        self.patterns
            .iter()
            .filter(|pattern| !pattern.excludes)
            .map(|pattern| pattern.source.clone())
    }

    /// Returns every pattern that matches a path, exclusions too, whether or not the path is admitted.
    ///
    /// Order: as [`Rules::positive_patterns`].
    pub fn matching(&self, path: &RelPath) -> Vec<PatternRef> {
        self.matching_patterns(path)
            .into_iter()
            .map(|pattern| self.patterns[pattern].source.clone())
            .collect()
    }

    /// Returns the indices of the patterns that match any form of `path`, ascending.
    fn matching_patterns(&self, path: &RelPath) -> Vec<usize> {
        let mut found = Vec::new();
        let mut globs = Vec::new();
        for form in forms(path) {
            self.globs
                .matches_candidate_into(&Candidate::new(&*form), &mut globs);
            found.extend(globs.iter().map(|&glob| self.owners[glob]));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Chooses among matching patterns, which stand in order of precedence of their lists.
    fn choose(&self, matching: &[usize]) -> Choice {
        let mut exclusion = None;
        for list in Channel::ALL {
            let of_list = || {
                matching
                    .iter()
                    .copied()
                    .filter(move |&at| self.patterns[at].source.list == list)
            };
            let Some(naming) = of_list().find(|&at| !self.patterns[at].excludes) else {
                continue;
            };
            match of_list().find(|&at| self.patterns[at].excludes) {
                None => {
                    return Choice::Named {
                        channel: list,
                        pattern: naming,
                    };
                }
                Some(excluding) => exclusion = exclusion.or(Some(excluding)),
            }
        }
        exclusion.map_or(Choice::NotListed, |pattern| Choice::Excluded { pattern })
    }

    fn refused_from_outside(&self, path: &RelPath) -> Option<&'static str> {
        let rule = runs_code(path)?;
        let is_named = forms(path)
            .iter()
            .any(|form| self.patterns.iter().any(|pattern| pattern.is_exactly(form)));
        (!is_named).then_some(rule)
    }
}

impl CompiledPattern {
    fn new(source: PatternRef, parsed: Pattern) -> CompiledPattern {
        let mut globs = parsed.globs;
        if parsed.excludes {
            // Who excludes a name means what is below it as well, should it be a folder.
            let below: Vec<PlainGlob> = globs
                .iter()
                .filter(|glob| glob.ends_literally())
                .map(PlainGlob::everything_below)
                .collect();
            globs.extend(below);
        }
        CompiledPattern {
            source,
            excludes: parsed.excludes,
            globs,
        }
    }

    fn may_match_below(&self, forms: &[Cow<'_, str>]) -> bool {
        self.globs.iter().any(|glob| {
            forms
                .iter()
                .any(|form| glob.may_match_below(form.split('/')))
        })
    }

    fn is_exactly(&self, path: &str) -> bool {
        !self.excludes
            && self
                .globs
                .iter()
                .any(|glob| glob.literal_path().is_some_and(|literal| literal == path))
    }
}

/// The folders of which a list excludes everything, so that a walk need not enter them for that list.
#[derive(Clone, Debug)]
struct ClosedFolders {
    folders: GlobSet,
    lists: Vec<usize>,
    roots: [bool; Channel::ALL.len()],
}

impl ClosedFolders {
    fn build(patterns: &[CompiledPattern]) -> Result<ClosedFolders, PatternError> {
        let mut builder = SetBuilder::default();
        let mut roots = [false; Channel::ALL.len()];
        for pattern in patterns.iter().filter(|pattern| pattern.excludes) {
            let list = place(pattern.source.list);
            for folder in pattern
                .globs
                .iter()
                .filter_map(PlainGlob::folder_of_everything)
            {
                if folder.components.is_empty() {
                    roots[list] = true;
                } else {
                    builder.add(&folder, list, &pattern.source)?;
                }
            }
        }
        let (folders, lists) = builder.build(patterns)?;
        Ok(ClosedFolders {
            folders,
            lists,
            roots,
        })
    }

    /// Tells for each list, by its place in [`Channel::ALL`], whether it excludes everything below a folder.
    fn of(&self, forms: &[Cow<'_, str>]) -> [bool; Channel::ALL.len()] {
        let mut closed = self.roots;
        if self.folders.is_empty() {
            return closed;
        }
        let mut found = Vec::new();
        for form in forms {
            let ends = form
                .match_indices('/')
                .map(|(at, _)| at)
                .chain([form.len()]);
            for end in ends {
                self.folders
                    .matches_candidate_into(&Candidate::new(&form[..end]), &mut found);
                for &folder in &found {
                    closed[self.lists[folder]] = true;
                }
            }
        }
        closed
    }
}

/// Collects globs, each with a number of its owner.
#[derive(Default)]
struct SetBuilder {
    builder: Option<GlobSetBuilder>,
    owners: Vec<usize>,
}

impl SetBuilder {
    fn add(
        &mut self,
        glob: &PlainGlob,
        owner: usize,
        source: &PatternRef,
    ) -> Result<(), PatternError> {
        let compiled = GlobBuilder::new(&glob.to_string())
            .literal_separator(true)
            .backslash_escape(true)
            .empty_alternates(true)
            .build()
            .map_err(|error| {
                error_at(
                    source,
                    PatternProblem::TooComplex {
                        detail: error.kind().to_string(),
                    },
                )
            })?;
        self.builder
            .get_or_insert_with(GlobSetBuilder::new)
            .add(compiled);
        self.owners.push(owner);
        Ok(())
    }

    /// Compiles the set. Its size is a matter of all patterns together: an error names the longest one.
    fn build(self, patterns: &[CompiledPattern]) -> Result<(GlobSet, Vec<usize>), PatternError> {
        let Some(builder) = self.builder else {
            return Ok((GlobSet::empty(), Vec::new()));
        };
        match builder.build() {
            Ok(set) => Ok((set, self.owners)),
            Err(error) => {
                let problem = PatternProblem::TooComplex {
                    detail: error.kind().to_string(),
                };
                let longest = patterns
                    .iter()
                    .max_by_key(|pattern| pattern.source.text.len());
                let nowhere = PatternRef {
                    list: Channel::Shared,
                    index: 0,
                    text: String::new(),
                };
                Err(error_at(
                    longest.map_or(&nowhere, |pattern| &pattern.source),
                    problem,
                ))
            }
        }
    }
}

/// Returns the forms a path is matched in: its own, and NFC if that differs.
fn forms(path: &RelPath) -> Vec<Cow<'_, str>> {
    let raw = path.as_str();
    let mut forms = vec![Cow::Borrowed(raw)];
    if is_nfc_quick(raw.chars()) != IsNormalized::Yes {
        let composed: String = raw.nfc().collect();
        if composed != raw {
            forms.push(Cow::Owned(composed));
        }
    }
    forms
}

/// Returns a list's place in [`Channel::ALL`].
fn place(list: Channel) -> usize {
    match list {
        Channel::Private => 0,
        Channel::Shared => 1,
        Channel::Archive => 2,
    }
}

fn check_count(lists: &PatternLists) -> Result<(), PatternError> {
    let all = || {
        Channel::ALL.into_iter().flat_map(|list| {
            lists
                .list(list)
                .iter()
                .enumerate()
                .map(move |(index, text)| (list, index, text))
        })
    };
    match all().nth(MAX_PATTERNS) {
        None => Ok(()),
        Some((list, index, text)) => {
            let source = PatternRef {
                list,
                index,
                text: text.clone(),
            };
            Err(error_at(
                &source,
                PatternProblem::TooMany {
                    patterns: all().count(),
                    limit: MAX_PATTERNS,
                },
            ))
        }
    }
}

fn error_at(source: &PatternRef, problem: PatternProblem) -> PatternError {
    PatternError {
        list: source.list,
        index: source.index,
        pattern: source.text.clone(),
        problem,
    }
}

fn warning_at(source: &PatternRef, kind: PatternWarningKind) -> PatternWarning {
    PatternWarning {
        list: source.list,
        index: source.index,
        pattern: source.text.clone(),
        kind,
    }
}

fn warnings_of(source: &PatternRef, parsed: &Pattern) -> Vec<PatternWarning> {
    let rewritten = || PatternWarningKind::Rewritten {
        to: parsed.globs.iter().map(ToString::to_string).collect(),
    };
    let only_denied = || only_denied(parsed).map(|rule| PatternWarningKind::OnlyDenied { rule });
    [
        parsed.was_rewritten.then(rewritten),
        parsed
            .has_stars_inside_name
            .then_some(PatternWarningKind::StarsInsideName),
        parsed
            .escapes_letter
            .then_some(PatternWarningKind::BackslashBeforeLetter),
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

fn warning_of_bare_exclusions(
    list: Channel,
    patterns: &[CompiledPattern],
) -> Option<PatternWarning> {
    let of_list = || {
        patterns
            .iter()
            .filter(move |pattern| pattern.source.list == list)
    };
    let first = of_list().next()?;
    of_list()
        .all(|pattern| pattern.excludes)
        .then(|| warning_at(&first.source, PatternWarningKind::OnlyExclusions))
}
