//! The known word that a misspelt one most likely meant.
//!
//! Invariant: deterministic, and bounded however long the word from outside is. Pure.

/// Words longer than this are never compared.
const MAX_WORD_CHARS: usize = 64;

/// Finds the known word nearest to `word`; `None` if nothing is near enough to be meant.
///
/// Case, `_` and `-` count for nothing, so that `sync_file_patterns` finds `syncFilePatterns`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain_word = plain(word);
    if plain_word.is_empty() || plain_word.len() > MAX_WORD_CHARS {
        return None;
    }
    let scored = known.into_iter().map(|candidate| (distance(&plain_word, &plain(candidate)), candidate));
    let (steps, candidate) = scored.min()?;
    // A third of the word may be wrong, and at least one letter.
    (steps <= (plain_word.len() / 3).max(1)).then_some(candidate)
}

fn plain(word: &str) -> Vec<char> {
    let kept = word.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    kept.take(MAX_WORD_CHARS + 1).flat_map(char::to_lowercase).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row[j] = best;
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_or_none() {
        let known = ["syncFilePatterns", "archiveFilePatterns", "backend", "root", "url"];
        let cases = [
            ("syncFilePattern", Some("syncFilePatterns")),
            ("sync_file_patterns", Some("syncFilePatterns")),
            ("SYNCFILEPATTERNS", Some("syncFilePatterns")),
            ("bakcend", Some("backend")),
            ("urll", Some("url")),
            ("rot", Some("root")),
            ("database", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"syncFilePatterns".repeat(100), known), None);
    }
}
