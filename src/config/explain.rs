//! `larder explain PATH`: which rule decided about a path and why, with the line of the config it stands on.
//!
//! Invariant: what is said is what `Rules::admit` does; nothing is decided here. Pure: of what stands on the disk it knows what it is told.

use larder_patterns::{Channel, Decision, PatternRef, Refusal, RelPath};
use serde::Serialize;

use super::file::MergeKind;
use super::merge::MergeRules;
use super::settings::Settings;

/// Why a path is kept or not. The JSON form is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The path, made safe for a terminal.
    pub path: String,
    /// Whether it is kept.
    pub kept: bool,
    /// Why what stands there is not, although the rules would.
    pub left_out: Option<String>,
    /// `shared`, `private` or `archive`, if it is kept.
    pub channel: Option<&'static str>,
    /// `pattern`, `denylist` or `none`.
    pub decided_by: &'static str,
    /// The deciding pattern, or the deciding line of the denylist.
    pub rule: Option<String>,
    /// The key the deciding pattern stands under, as `syncFilePatterns[2]`.
    pub key: Option<String>,
    /// The line of the config it stands on.
    pub line: Option<usize>,
    /// How concurrent edits are united, if it is kept and compared with other machines' copies: `append` or `lww`.
    pub merge: Option<MergeKind>,
    /// What the config asks for instead, without effect.
    pub merge_asked: Option<MergeKind>,
    /// The glob of `merge` that asks for it.
    pub merge_glob: Option<String>,
    /// Other patterns that match it, with their lines.
    pub also_matched: Vec<Matched>,
    /// The line of the list of code-running files because of which it is not accepted from elsewhere.
    pub refused_from_outside: Option<&'static str>,
    /// All of it in sentences.
    pub sentences: Vec<String>,
}

/// A pattern that matches and did not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matched {
    /// The pattern as written.
    pub rule: String,
    /// The key it stands under.
    pub key: String,
    /// The line of the config it stands on.
    pub line: Option<usize>,
}

impl Explained {
    /// What stands there is not kept, whatever the rules say.
    pub fn leave_out(&mut self, why: String) {
        (self.kept, self.left_out) = (false, Some(why));
        self.sentences = sentences(self, None);
    }
}

/// Explains what the rules say of `path`, which is relative to the root.
pub fn explain(settings: &Settings, path: &RelPath) -> Explained {
    let explanation = settings.rules.explain(path);
    let kept = explanation.verdict.is_ok();
    let deciding = match &explanation.decided_by {
        Decision::Pattern(pattern) => Some(matched(settings, pattern)),
        Decision::Denylist { .. } | Decision::NoRule => None,
    };
    let (decided_by, rule) = match (&explanation.decided_by, &deciding) {
        (Decision::Denylist { rule }, _) => ("denylist", Some((*rule).to_owned())),
        (Decision::Pattern(_), Some(pattern)) => ("pattern", Some(pattern.rule.clone())),
        _ => ("none", None),
    };
    let mut explained = Explained {
        path: path.shown(),
        kept,
        left_out: None,
        channel: explanation.verdict.as_ref().ok().map(|channel| channel.as_str()),
        decided_by,
        rule,
        key: deciding.as_ref().map(|pattern| pattern.key.clone()),
        line: deciding.as_ref().and_then(|pattern| pattern.line),
        merge: None,
        merge_asked: None,
        merge_glob: None,
        also_matched: explanation.also_matched.iter().map(|pattern| matched(settings, pattern)).collect(),
        refused_from_outside: explanation.refused_from_outside,
        sentences: Vec::new(),
    };
    if explanation.verdict.as_ref().is_ok_and(|channel| *channel != Channel::Archive) {
        let (in_force, glob) = (MergeRules::in_force(path), settings.merge.deciding_glob(path));
        explained.merge = Some(in_force);
        explained.merge_glob = glob.map(larder_patterns::shown);
        explained.merge_asked = glob.map(|_| settings.merge.kind(path)).filter(|asked| *asked != in_force);
    }
    explained.sentences = sentences(&explained, explanation.verdict.err());
    explained
}

fn matched(settings: &Settings, pattern: &PatternRef) -> Matched {
    Matched {
        rule: larder_patterns::shown(&pattern.text),
        key: format!("{}[{}]", pattern.list.config_key(), pattern.index),
        line: settings.line_of_pattern(pattern.list, pattern.index),
    }
}

fn sentences(explained: &Explained, refusal: Option<Refusal>) -> Vec<String> {
    let path = &explained.path;
    let deciding = explained.rule.clone().zip(explained.key.clone());
    let rule = deciding.map(|(rule, key)| Matched { rule, key, line: explained.line }.named()).unwrap_or_default();
    let mut sentences = vec![match (explained.channel, refusal) {
        (Some(channel), _) => match &explained.left_out {
            None => format!("{path} is kept in the {channel} channel, because {rule} names it."),
            Some(why) => format!(
                "{path} would be kept in the {channel} channel, because {rule} names it, but what stands there now is left out: {why}."
            ),
        },
        (None, Some(Refusal::Denied { rule })) => {
            format!(
                "{path} is never kept: the built-in denylist covers it with `{rule}`, and no pattern can change that."
            )
        }
        (None, Some(Refusal::Excluded { .. })) => {
            format!("{path} is not kept, because {rule} excludes it.")
        }
        (None, _) => format!("{path} is not kept: no pattern names it."),
    }];
    if !explained.also_matched.is_empty() {
        let others: Vec<String> = explained.also_matched.iter().map(Matched::named).collect();
        sentences.push(format!("Also matched, without deciding: {}.", others.join(", ")));
    }
    if let Some(rule) = explained.refused_from_outside {
        sentences.push(format!(
            "A copy from elsewhere is not accepted here: the file makes other programs run code (`{rule}`), and no pattern is exactly its path."
        ));
    }
    sentences.extend(merge_sentences(explained));
    sentences
}

fn merge_sentences(explained: &Explained) -> Vec<String> {
    let Some(in_force) = explained.merge else { return Vec::new() };
    let united = match in_force {
        MergeKind::Append => {
            "Of concurrent edits, lines that were appended are all kept; where one is a rewrite, the later one stands and the other is listed."
        }
        _ => "Of concurrent edits the later one stands and the other is listed.",
    };
    let asked = explained.merge_asked.zip(explained.merge_glob.as_ref()).map(|(asked, glob)| {
        format!("`merge` \"{glob}\" asks for `{asked}` and has no effect: what comes of edits must be the same on every machine, and this config is not.")
    });
    [Some(united.to_owned()), asked].into_iter().flatten().collect()
}

impl Matched {
    // `"docs/**" (syncFilePatterns[0], line 4)`
    fn named(&self) -> String {
        let line = self.line.map(|line| format!(", line {line}")).unwrap_or_default();
        format!("\"{}\" ({}{line})", self.rule, self.key)
    }
}
