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

mod within;

use std::borrow::Cow;
use std::fmt;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::channel::Channel;
use crate::denylist::{denied, runs_code};
use crate::glob::{Pattern, PatternProblem, PlainGlob};
use crate::lists::{
    PatternError, PatternLists, PatternRef, PatternWarning, PatternWarningKind, check_count, error_at, warning_at,
    warnings_of,
};
use crate::path::RelPath;
use crate::table::GlobTable;

pub use within::Within;

/// Most globs in all lists together once braces are expanded.
pub const MAX_ALTERNATIVES_IN_ALL: usize = 4_096;
/// Most weight of all lists together, in characters and wildcards: full lists of full patterns, each excluding a folder and what is below.
pub const MAX_WEIGHT_IN_ALL: usize = 1_000_000;

/// Compiled patterns, and the denylist that nobody can leave out.
#[derive(Clone, Debug)]
pub struct Rules {
    patterns: Vec<CompiledPattern>,
    /// All globs; the owner is the pattern's place in `patterns`.
    globs: GlobTable,
    closed: ClosedFolders,
}

#[derive(Clone, Debug)]
struct CompiledPattern {
    source: PatternRef,
    excludes: bool,
    globs: Vec<PlainGlob>,
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
            (Ok(channel), Decision::Pattern(pattern)) => write!(f, "{channel}, named by {pattern}")?,
            (Ok(channel), _) => write!(f, "{channel}")?,
            (Err(refusal), _) => write!(f, "{refusal}")?,
        }
        if let Some(rule) = self.refused_from_outside {
            write!(f, "; not accepted from outside (`{rule}`)")?;
        }
        for (at, pattern) in self.also_matched.iter().enumerate() {
            write!(f, "{} {pattern}", if at == 0 { "; also matched by" } else { "," })?;
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
    /// Limits: [`crate::MAX_PATTERNS`], [`crate::MAX_PATTERN_CHARS`], [`crate::MAX_ALTERNATIVES`], [`MAX_ALTERNATIVES_IN_ALL`],
    /// [`MAX_WEIGHT_IN_ALL`].
    pub fn compile(lists: &PatternLists) -> Result<(Rules, Vec<PatternWarning>), PatternError> {
        check_count(lists)?;
        let mut patterns = Vec::new();
        let mut warnings = Vec::new();
        let mut budget = Budget::default();
        for list in Channel::ALL {
            for (index, text) in lists.list(list).iter().enumerate() {
                let source = PatternRef { list, index, text: text.clone() };
                let parsed = Pattern::parse(text).map_err(|problem| error_at(&source, problem))?;
                warnings.extend(warnings_of(&source, &parsed));
                let pattern = CompiledPattern::new(source, parsed);
                budget.spend(&pattern.globs).map_err(|problem| error_at(&pattern.source, problem))?;
                patterns.push(pattern);
            }
            warnings.extend(warning_of_bare_exclusions(list, &patterns));
        }
        let rules = Rules::build(patterns)?;
        Ok((rules, warnings))
    }

    fn build(patterns: Vec<CompiledPattern>) -> Result<Rules, PatternError> {
        let blame = |(owner, problem): (usize, PatternProblem)| error_at(&patterns[owner].source, problem);
        let all_globs = patterns
            .iter()
            .enumerate()
            .flat_map(|(owner, pattern)| pattern.globs.iter().map(move |glob| (glob, owner)));
        let globs = GlobTable::build(all_globs).map_err(blame)?;
        let closed = ClosedFolders::build(&patterns).map_err(blame)?;
        Ok(Rules { patterns, globs, closed })
    }

    /// Admits a path to a channel, or says why not.
    pub fn admit(&self, path: &RelPath) -> Result<AdmittedPath, Refusal> {
        if let Some(rule) = denied(path) {
            return Err(Refusal::Denied { rule });
        }
        match self.choose(&self.matching_patterns(path)) {
            Choice::Named { channel, .. } => Ok(AdmittedPath { path: path.clone(), channel }),
            Choice::Excluded { pattern } => Err(Refusal::Excluded { pattern: self.patterns[pattern].source.clone() }),
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
            (None, Choice::Named { pattern, .. } | Choice::Excluded { pattern }) => {
                (Decision::Pattern(self.patterns[pattern].source.clone()), Some(pattern))
            }
            (None, Choice::NotListed) => (Decision::NoRule, None),
        };
        let others = matching.into_iter().filter(|&pattern| Some(pattern) != decider);
        Explanation {
            path: path.clone(),
            refused_from_outside: verdict.is_ok().then(|| self.refused_from_outside(path)).flatten(),
            verdict,
            decided_by,
            also_matched: others.map(|pattern| self.patterns[pattern].source.clone()).collect(),
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
        self.patterns.iter().filter(|pattern| !pattern.excludes).map(|pattern| pattern.source.clone())
    }

    /// Returns every pattern that matches a path, exclusions too, whether or not the path is admitted.
    ///
    /// Order: as [`Rules::positive_patterns`].
    pub fn matching(&self, path: &RelPath) -> Vec<PatternRef> {
        self.matching_patterns(path).into_iter().map(|pattern| self.patterns[pattern].source.clone()).collect()
    }

    /// Returns the places of the patterns that match any form of `path`, ascending.
    fn matching_patterns(&self, path: &RelPath) -> Vec<usize> {
        let mut found: Vec<usize> = forms(path).iter().flat_map(|form| self.globs.owners_of(form)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Chooses among matching patterns, which stand in order of precedence of their lists.
    fn choose(&self, matching: &[usize]) -> Choice {
        let mut exclusion = None;
        for list in Channel::ALL {
            let of_list = || matching.iter().copied().filter(move |&at| self.patterns[at].source.list == list);
            let Some(naming) = of_list().find(|&at| !self.patterns[at].excludes) else {
                continue;
            };
            match of_list().find(|&at| self.patterns[at].excludes) {
                None => {
                    return Choice::Named { channel: list, pattern: naming };
                }
                Some(excluding) => exclusion = exclusion.or(Some(excluding)),
            }
        }
        exclusion.map_or(Choice::NotListed, |pattern| Choice::Excluded { pattern })
    }

    fn refused_from_outside(&self, path: &RelPath) -> Option<&'static str> {
        let rule = runs_code(path)?;
        let is_named = forms(path).iter().any(|form| self.patterns.iter().any(|pattern| pattern.is_exactly(form)));
        (!is_named).then_some(rule)
    }
}

impl CompiledPattern {
    fn new(source: PatternRef, parsed: Pattern) -> CompiledPattern {
        let mut globs = parsed.globs;
        if parsed.excludes {
            // Who excludes a name means what is below it as well, should it be a folder.
            let below: Vec<PlainGlob> =
                globs.iter().filter(|glob| glob.ends_literally()).map(PlainGlob::everything_below).collect();
            globs.extend(below);
        }
        CompiledPattern { source, excludes: parsed.excludes, globs }
    }

    fn may_match_below(&self, forms: &[Cow<'_, str>]) -> bool {
        self.globs.iter().any(|glob| forms.iter().any(|form| glob.may_match_below(form.split('/'))))
    }

    fn is_exactly(&self, path: &str) -> bool {
        !self.excludes && self.globs.iter().any(|glob| glob.literal_path().is_some_and(|literal| literal == path))
    }
}

/// What all patterns together have used of the limits, so that nothing is compiled beyond them.
#[derive(Default)]
struct Budget {
    globs: usize,
    weight: usize,
}

impl Budget {
    fn spend(&mut self, globs: &[PlainGlob]) -> Result<(), PatternProblem> {
        self.globs += globs.len();
        self.weight += globs.iter().map(PlainGlob::weight).sum::<usize>();
        if self.globs > MAX_ALTERNATIVES_IN_ALL {
            return Err(PatternProblem::TooManyAlternatives { limit: MAX_ALTERNATIVES_IN_ALL });
        }
        if self.weight > MAX_WEIGHT_IN_ALL {
            return Err(PatternProblem::TooHeavy { weight: self.weight, limit: MAX_WEIGHT_IN_ALL });
        }
        Ok(())
    }
}

/// The folders of which a list excludes everything, so that a walk need not enter them for that list.
#[derive(Clone, Debug)]
struct ClosedFolders {
    /// Globs of folders; the owner is the pattern's place.
    folders: GlobTable,
    /// The list of each pattern, by its place in [`Channel::ALL`].
    lists: Vec<usize>,
    /// Whether a list excludes everything.
    roots: [bool; Channel::ALL.len()],
}

impl ClosedFolders {
    fn build(patterns: &[CompiledPattern]) -> Result<ClosedFolders, (usize, PatternProblem)> {
        let lists: Vec<usize> = patterns.iter().map(|pattern| place(pattern.source.list)).collect();
        let closing = patterns.iter().enumerate().filter(|(_, pattern)| pattern.excludes);
        let all: Vec<(PlainGlob, usize)> = closing
            .flat_map(|(owner, pattern)| {
                pattern.globs.iter().filter_map(move |glob| Some((glob.folder_of_everything()?, owner)))
            })
            .collect();
        let mut roots = [false; Channel::ALL.len()];
        for (_, owner) in all.iter().filter(|(folder, _)| folder.components.is_empty()) {
            roots[lists[*owner]] = true;
        }
        let folders = all.iter().filter(|(folder, _)| !folder.components.is_empty());
        let folders = GlobTable::build(folders.map(|(folder, owner)| (folder, *owner)))?;
        Ok(ClosedFolders { folders, lists, roots })
    }

    /// Tells for each list, by its place in [`Channel::ALL`], whether it excludes everything below a folder.
    fn of(&self, forms: &[Cow<'_, str>]) -> [bool; Channel::ALL.len()] {
        let mut closed = self.roots;
        if self.folders.is_empty() {
            return closed;
        }
        for form in forms {
            let ends = form.match_indices('/').map(|(at, _)| at).chain([form.len()]);
            for owner in ends.flat_map(|end| self.folders.owners_of(&form[..end])) {
                closed[self.lists[owner]] = true;
            }
        }
        closed
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

fn warning_of_bare_exclusions(list: Channel, patterns: &[CompiledPattern]) -> Option<PatternWarning> {
    let of_list = || patterns.iter().filter(move |pattern| pattern.source.list == list);
    let first = of_list().next()?;
    of_list().all(|pattern| pattern.excludes).then(|| warning_at(&first.source, PatternWarningKind::OnlyExclusions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::MAX_PATTERNS;
    use crate::path::shown_short;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn lists(shared: &[&str], private: &[&str], archive: &[&str]) -> PatternLists {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        PatternLists { shared: owned(shared), private: owned(private), archive: owned(archive) }
    }

    fn compiled(lists: &PatternLists) -> (Rules, Vec<PatternWarning>) {
        Rules::compile(lists).unwrap_or_else(|error| panic!("{error}"))
    }

    fn shared(patterns: &[&str]) -> Rules {
        compiled(&lists(patterns, &[], &[])).0
    }

    fn channel(rules: &Rules, text: &str) -> Option<Channel> {
        rules.admit(&path(text)).ok().map(|admitted| admitted.channel())
    }

    #[test]
    fn globs_match_as_people_expect() {
        for (pattern, matching, others) in [
            ("data/*.json", vec!["data/a.json", "data/.a.json"], vec!["data/x/a.json", "a.json", "data/a.json5"]),
            ("data/**", vec!["data/x", "data/x/y"], vec!["data", "data2/x"]),
            ("data/", vec!["data/x", "data/x/y"], vec!["data"]),
            ("**/*.md", vec!["a.md", "x/y/a.md", ".hidden.md"], vec!["a.mdx"]),
            ("*", vec!["a", ".a"], vec!["a/b"]),
            ("**", vec!["a", "a/b/c"], vec![]),
            ("a/**/b", vec!["a/b", "a/x/b", "a/x/y/b"], vec!["a/xb", "b"]),
            ("./a//b", vec!["a/b"], vec![]),
            ("/a", vec!["a"], vec!["b/a"]),
            ("{a,b}.{md,txt}", vec!["a.md", "b.txt"], vec!["c.md"]),
            ("{,x}a", vec!["a", "xa"], vec!["x"]),
            ("a[!b]c", vec!["axc"], vec!["abc", "a/c"]),
            ("a[.-0]c", vec!["a.c", "a0c"], vec!["a/c"]),
            ("[!]]", vec!["a"], vec!["]"]),
            ("[!^]x", vec!["ax"], vec!["^x"]),
            ("[a!]x", vec!["ax", "!x"], vec!["bx"]),
            ("a?c", vec!["abc"], vec!["a/c", "ac"]),
            ("\\!x", vec!["!x"], vec!["x"]),
            ("\\*", vec!["*"], vec!["a"]),
            ("a,b", vec!["a,b"], vec!["a"]),
            ("é.md", vec!["é.md", "e\u{301}.md"], vec!["e.md"]),
            ("e\u{301}.md", vec!["é.md", "e\u{301}.md"], vec![]),
            ("README.md", vec!["README.md"], vec!["readme.md"]),
        ] {
            let rules = shared(&[pattern]);
            for text in matching {
                assert_eq!(channel(&rules, text), Some(Channel::Shared), "{pattern:?} names {text:?}");
            }
            for text in others {
                assert_eq!(channel(&rules, text), None, "{pattern:?} does not name {text:?}");
            }
        }
    }

    #[test]
    fn negation_wins_whatever_the_order() {
        for patterns in [["**", "!drafts/**"], ["!drafts/**", "**"]] {
            let rules = shared(&patterns);
            assert_eq!(channel(&rules, "notes.md"), Some(Channel::Shared));
            assert!(
                matches!(rules.admit(&path("drafts/a.md")), Err(Refusal::Excluded { pattern }) if pattern.text == "!drafts/**")
            );
        }
    }

    #[test]
    fn an_exclusion_of_a_name_covers_what_is_below_it() {
        let rules = shared(&["**", "!drafts", "!**/cache", "!tmp/*", "!*.log"]);
        for text in ["drafts", "drafts/a", "drafts/a/b", "cache/x", "a/cache/x", "tmp/a", "a.log"] {
            assert_eq!(channel(&rules, text), None, "{text:?}");
        }
        for text in ["drafts2", "a/drafts", "tmp/a/b", "logs/a", "x.log/a"] {
            assert_eq!(channel(&rules, text), Some(Channel::Shared), "{text:?}");
        }
    }

    #[test]
    fn private_owns_before_shared_before_archive() {
        let (rules, _) = compiled(&lists(&["a", "b", "c", "!d"], &["a", "x", "!c"], &["a", "b", "c", "d", "!x"]));

        let channels: Vec<_> = ["a", "b", "c", "d", "x", "y"].into_iter().map(|text| channel(&rules, text)).collect();

        let (private, shared, archive) = (Some(Channel::Private), Some(Channel::Shared), Some(Channel::Archive));
        assert_eq!(channels, [private, shared, shared, archive, private, None]);
    }

    #[test]
    fn an_exclusion_counts_only_in_its_own_list() {
        let (rules, _) = compiled(&lists(&["**"], &["secret/**", "!secret/open.md"], &[]));
        assert_eq!(channel(&rules, "secret/a.md"), Some(Channel::Private));
        assert_eq!(channel(&rules, "secret/open.md"), Some(Channel::Shared));
    }

    #[test]
    fn a_decomposed_path_does_not_slip_past_an_exclusion() {
        for exclusion in ["!privé/**", "!prive\u{301}/**", "!privé"] {
            let rules = shared(&["**", exclusion]);
            for text in ["privé/a.md", "prive\u{301}/a.md"] {
                assert_eq!(channel(&rules, text), None, "{exclusion:?} {text:?}");
            }
        }
    }

    #[test]
    fn the_denylist_holds_against_every_pattern() {
        let rules = shared(&["**", "**/*", ".env", ".env*", "node_modules/**", "auth.json", ".git/config"]);
        for (text, rule) in [
            (".env", ".env*"),
            ("node_modules/a.js", "node_modules/"),
            ("a/auth.json", "auth.json"),
            (".GIT/config", ".git/"),
        ] {
            assert_eq!(rules.admit(&path(text)), Err(Refusal::Denied { rule }));
            assert_eq!(rules.admit_from_outside(&path(text)), Err(Refusal::Denied { rule }));
            assert_eq!(rules.explain(&path(text)).decided_by, Decision::Denylist { rule });
        }
    }

    #[test]
    fn code_running_files_come_from_outside_only_by_their_literal_path() {
        for (patterns, text, expected) in [
            (vec!["**"], ".mcp.json", false),
            (vec!["**/.mcp.json", "*.json", ".mcp.jso?"], ".mcp.json", false),
            (vec![".mcp.json"], ".mcp.json", true),
            (vec!["./.mcp.json"], ".mcp.json", true),
            (vec!["{.mcp.json,a}"], ".mcp.json", true),
            (vec!["**", ".mcp.json"], "sub/.mcp.json", false),
            (vec![".claude/**"], ".claude/settings.json", false),
            (vec![".claude/settings.json"], ".claude/settings.json", true),
            (vec![".claude/settings*.json"], ".claude/settings.local.json", false),
            (vec!["**", "!.mcp.json"], ".mcp.json", false),
            (vec![".envrc"], ".envrc", false),
            (vec!["**"], ".claude/agents/a.md", true),
        ] {
            let rules = shared(&patterns);
            assert_eq!(rules.admit_from_outside(&path(text)).is_ok(), expected, "{patterns:?} {text:?}");
        }
        let rules = shared(&["**"]);
        assert!(rules.admit(&path(".mcp.json")).is_ok());
        assert_eq!(rules.admit_from_outside(&path(".mcp.json")), Err(Refusal::RunsCode { rule: ".mcp.json" }));
        assert_eq!(rules.explain(&path(".mcp.json")).refused_from_outside, Some(".mcp.json"));
    }

    #[test]
    fn explain_names_the_decider_and_everything_else_that_matched() {
        let (rules, _) = compiled(&lists(&["**/*.md", "notes/**", "!notes/x.md"], &["notes/p*"], &["**"]));
        for (text, expected) in [
            (
                "notes/p.md",
                "notes/p.md: private, named by \"notes/p*\" (privateSyncFilePatterns[0]); also matched by \"**/*.md\" \
                            (syncFilePatterns[0]), \"notes/**\" (syncFilePatterns[1]), \"**\" (archiveFilePatterns[0])",
            ),
            (
                "notes/x.md",
                "notes/x.md: archive, named by \"**\" (archiveFilePatterns[0]); also matched by \"**/*.md\" \
                            (syncFilePatterns[0]), \"notes/**\" (syncFilePatterns[1]), \"!notes/x.md\" (syncFilePatterns[2])",
            ),
            (".env", ".env: denied by the built-in rule `.env*`; also matched by \"**\" (archiveFilePatterns[0])"),
            (
                ".mcp.json",
                ".mcp.json: archive, named by \"**\" (archiveFilePatterns[0]); not accepted from outside (`.mcp.json`)",
            ),
        ] {
            assert_eq!(rules.explain(&path(text)).to_string(), expected);
        }
        let rules = shared(&["a", "!b", "b"]);
        assert_eq!(rules.explain(&path("c\n")).to_string(), "c\\n: named by no pattern");
        assert_eq!(
            rules.explain(&path("b")).to_string(),
            "b: excluded by \"!b\" (syncFilePatterns[1]); also matched by \"b\" (syncFilePatterns[2])"
        );
    }

    #[test]
    fn a_walk_stays_out_of_folders_that_hold_nothing() {
        for (patterns, folder, expected) in [
            (vec!["data/**/*.json"], "data", true),
            (vec!["data/**/*.json"], "data/x", true),
            (vec!["data/**/*.json"], "src", false),
            (vec!["**"], ".git", false),
            (vec!["**"], "a/node_modules/b", false),
            (vec!["node_modules/x/**"], "node_modules", false),
            (vec!["**", "!target/**"], "target", false),
            (vec!["**", "!target/**"], "target/debug", false),
            (vec!["**", "!target"], "target/debug", false),
            (vec!["**", "!target/*"], "target", true),
            (vec!["**", "!**/cache/**"], "a/b/cache", false),
            (vec!["**", "!**"], "a", false),
            (vec!["README.md"], "src", false),
            (vec!["src/a.md"], "src/a.md", false),
            (vec!["é/**"], "e\u{301}", true),
            (vec!["**", "!é/**"], "e\u{301}", false),
            (vec![], "a", false),
        ] {
            assert_eq!(shared(&patterns).may_contain(&path(folder)), expected, "{patterns:?} {folder:?}");
        }
        let (rules, _) = compiled(&lists(&["**", "!a/**"], &[], &["a/x/**"]));
        assert!(rules.may_contain(&path("a")) && rules.may_contain(&path("a/x")) && !rules.may_contain(&path("a/y")));
    }

    #[test]
    fn a_pattern_that_matched_nothing_can_be_found() {
        let (rules, _) = compiled(&lists(&["*.md", "!x.md", "never/**"], &["*.txt"], &[]));
        let files = ["a.md", "x.md", "b.txt"].map(path);

        let matched: Vec<PatternRef> = files.iter().flat_map(|file| rules.matching(file)).collect();
        let unmatched: Vec<String> = rules
            .positive_patterns()
            .filter(|pattern| !matched.contains(pattern))
            .map(|pattern| pattern.text)
            .collect();

        assert_eq!(unmatched, ["never/**"]);
        assert!(matched.iter().any(PatternRef::is_exclusion));
    }

    #[test]
    fn an_error_names_list_place_pattern_and_reason() {
        let error = Rules::compile(&lists(&["a", "b"], &["ok", "{a"], &[])).err().map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some(
                "compile the pattern \"{a\" (privateSyncFilePatterns[1]): a `{` is not closed (write `\\{` for the character)"
            )
        );
    }

    #[test]
    fn the_number_of_patterns_is_bounded() {
        let many = |count: usize| PatternLists { shared: vec!["a*b".to_owned(); count], ..PatternLists::default() };
        assert!(Rules::compile(&many(MAX_PATTERNS)).is_ok());
        let error = Rules::compile(&many(MAX_PATTERNS + 1)).err();
        assert_eq!(
            error.map(|error| (error.list, error.index, error.problem)),
            Some((Channel::Shared, 1000, PatternProblem::TooMany { patterns: 1001, limit: MAX_PATTERNS }))
        );

        let braces = PatternLists {
            shared: vec!["{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}/x*".to_owned(); 17],
            ..PatternLists::default()
        };
        let error = Rules::compile(&braces).err();
        assert_eq!(
            error.map(|error| (error.index, error.problem)),
            Some((16, PatternProblem::TooManyAlternatives { limit: MAX_ALTERNATIVES_IN_ALL }))
        );
    }

    #[test]
    fn warnings_say_how_a_pattern_is_read() {
        for (pattern, expected) in [
            ("./a/*", Some("is read as \"a/*\"")),
            ("data/", Some("is read as \"data/**\"")),
            ("{a,b}/", Some("is read as 2 globs, the first \"a/**\"")),
            ("a**", Some("has `**` inside a name, where it is read as `*`")),
            ("data\\logs", Some("has a `\\` before a letter: folders are separated by `/`")),
            (".env", Some("can match nothing: the denylist's `.env*` covers it")),
            ("**/.git/**", Some("can match nothing: the denylist's `.git/` covers it")),
            ("!a", Some("excludes from a list that names nothing")),
            ("**/*.json", None),
            ("{.env,a}", None),
            ("*.key", None),
        ] {
            let (_, warnings) = compiled(&lists(&[pattern], &[], &[]));
            let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            let expected: Vec<String> = expected
                .iter()
                .map(|text| format!("the pattern \"{}\" (syncFilePatterns[0]) {text}", shown_short(pattern)))
                .collect();
            assert_eq!(texts, expected, "{pattern:?}");
        }
    }

    #[test]
    fn empty_lists_admit_nothing() {
        let rules = shared(&[]);
        assert_eq!(rules.admit(&path("a")), Err(Refusal::NotListed));
        assert_eq!(rules.positive_patterns().count(), 0);
    }

    #[test]
    fn rules_can_be_shared_between_threads() {
        fn shareable<T: Send + Sync + Clone + 'static>() {}
        shareable::<Rules>();
        shareable::<AdmittedPath>();
    }
}
