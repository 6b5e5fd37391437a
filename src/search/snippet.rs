//! The line of a text that shows why it was found.
//!
//! Invariant: pure; the snippet is part of one line, at most [`MAX_SNIPPET_CHARS`] long, cut between characters.

use super::script::stands_alone;

/// Longest snippet, without the marks of what was cut off.
const MAX_SNIPPET_CHARS: usize = 160;
/// Characters before the first match.
const LEAD_CHARS: usize = 40;

/// A part of a text and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snippet {
    /// Which line, from 1.
    pub line: u64,
    /// What it says.
    pub text: String,
}

/// Words as the index has them, roughly: letters and digits together, in lower case, and characters that are words by themselves; with
/// the byte at which each begins.
pub(super) fn words(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + text[rest..].find(char::is_alphanumeric)?;
        let first = text[start..].chars().next().filter(|c| stands_alone(*c)).map(char::len_utf8);
        let end = || text[start..].find(|c: char| !c.is_alphanumeric() || stands_alone(c));
        let len = first.or_else(end).unwrap_or(text.len() - start);
        rest = start + len;
        Some((start, text[start..rest].to_lowercase()))
    })
}

/// The line with the most of the words, the first among equals; the first line that says anything if the index knows better
/// than this why the text was found.
pub(super) fn snippet(text: &str, wanted: &[(String, bool)]) -> Snippet {
    let (mut best, mut best_count) = (None, 0);
    for (number, line) in (1..).zip(text.lines()) {
        let mut first = None;
        let mut found = vec![false; wanted.len()];
        for (at, word) in words(line) {
            for (place, (sought, is_prefix)) in wanted.iter().enumerate() {
                if *sought == word || (*is_prefix && word.starts_with(sought.as_str())) {
                    found[place] = true;
                    first = first.or(Some(at));
                }
            }
        }
        let count = found.into_iter().filter(|found| *found).count();
        if count > best_count || best.is_none() && !line.trim().is_empty() {
            (best, best_count) = (Some((number, line, first.unwrap_or(0))), count);
        }
        if best_count == wanted.len() && best_count > 0 {
            break;
        }
    }
    let Some((line, text, at)) = best else { return Snippet { line: 1, text: String::new() } };
    Snippet { line, text: cut(text, at) }
}

fn cut(line: &str, at: usize) -> String {
    let before = line[..at].chars().count();
    let skip = if line.chars().count() <= MAX_SNIPPET_CHARS { 0 } else { before.saturating_sub(LEAD_CHARS) };
    let shown: String = line.chars().skip(skip).take(MAX_SNIPPET_CHARS).collect();
    let is_cut = line.chars().nth(skip + MAX_SNIPPET_CHARS).is_some();
    let (head, tail) = (if skip > 0 { "…" } else { "" }, if is_cut { "…" } else { "" });
    format!("{head}{}{tail}", shown.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(words: &[&str]) -> Vec<(String, bool)> {
        words.iter().map(|word| (word.trim_end_matches('*').to_owned(), word.ends_with('*'))).collect()
    }

    #[test]
    fn the_line_with_most_words_is_shown() {
        let text = "nothing\nan apple here\nAPPLE and Pear\nmore apple pears\n";

        assert_eq!(snippet(text, &wanted(&["apple", "pear"])), Snippet { line: 3, text: "APPLE and Pear".to_owned() });
        assert_eq!(snippet(text, &wanted(&["app*"])).line, 2);
        assert_eq!(snippet("\n  \nfirst\n", &wanted(&["unknown"])), Snippet { line: 3, text: "first".to_owned() });
        assert_eq!(snippet("京都\n東京都の設定v2\n", &wanted(&["東", "京", "v2"])).line, 2);
        assert_eq!(snippet("", &wanted(&["a"])), Snippet { line: 1, text: String::new() });
    }

    #[test]
    fn a_long_line_is_cut_around_the_match() {
        let line = format!("{} needle {}", "é".repeat(500), "x ".repeat(500));

        let shown = snippet(&line, &wanted(&["needle"])).text;

        assert!(shown.starts_with('…') && shown.ends_with('…') && shown.contains("needle"), "{shown}");
        assert!(shown.chars().count() <= MAX_SNIPPET_CHARS + 2);
    }

    proptest! {
        #[test]
        fn any_text_has_a_snippet(text in "\\PC{0,300}|[a-z\\n\u{e9} ]{0,400}", word in "[a-z]{1,3}") {
            let found = snippet(&text, &[(word, true)]);

            prop_assert!(!found.text.contains('\n') && found.text.chars().count() <= MAX_SNIPPET_CHARS + 2);
        }
    }
}
