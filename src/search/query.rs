//! What is searched for: words, phrases and filters, as typed.
//!
//! Invariant: pure; whatever is typed gives a query that SQLite understands or a sentence, because every word reaches it quoted.

use larder_patterns::fold_key;

use super::script::apart;
use crate::model::{Hlc, OriginName, RelPath};

/// Longest query, in bytes.
const MAX_QUERY_BYTES: usize = 4_096;
/// Most words and filters.
const MAX_TERMS: usize = 64;

/// A query that cannot be run, as a sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

/// One word or phrase.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Term {
    text: String,
    is_prefix: bool,
    is_unwanted: bool,
}

/// A parsed query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    terms: Vec<Term>,
    paths: Vec<String>,
    origins: Vec<String>,
    since: Option<Hlc>,
    /// Past versions are looked at too.
    pub(super) history: bool,
    /// Most hits.
    pub(super) limit: usize,
}

impl Query {
    /// Understands words (all must be there), `"a phrase"`, `begin*`, `-unwanted`, and the filters `path:`, `origin:` and `since:`, whose
    /// moment `moment` reads. Current text only, at most 20 hits.
    pub fn parse(text: &str, moment: &dyn Fn(&str) -> Option<Hlc>) -> Result<Query, QueryError> {
        if text.len() > MAX_QUERY_BYTES {
            return Err(QueryError(format!("a query has at most {MAX_QUERY_BYTES} bytes")));
        }
        let mut query =
            Query { terms: Vec::new(), paths: Vec::new(), origins: Vec::new(), since: None, history: false, limit: 20 };
        for word in split(text) {
            query.take(&word, moment)?;
        }
        if query.terms.len() + query.paths.len() + query.origins.len() > MAX_TERMS {
            return Err(QueryError(format!("a query has at most {MAX_TERMS} words")));
        }
        if query.terms.iter().all(|term| term.is_unwanted) {
            return Err(QueryError(
                "nothing is searched for: at least one word with a letter or digit is needed".to_owned(),
            ));
        }
        Ok(query)
    }

    fn take(&mut self, word: &str, moment: &dyn Fn(&str) -> Option<Hlc>) -> Result<(), QueryError> {
        let filter = |name: &str| word.strip_prefix(name).map(unquoted).filter(|value| !value.is_empty());
        if let Some(path) = filter("path:") {
            self.paths.push(fold_key(&path));
        } else if let Some(origin) = filter("origin:") {
            self.origins.push(origin);
        } else if let Some(since) = filter("since:") {
            let unknown = || QueryError(format!("{} is no time", larder_patterns::shown(&since)));
            // The moment itself is meant, not its end: what was made within it counts.
            let at = moment(&since).ok_or_else(unknown)?;
            self.since = self.since.max(Some(at));
        } else {
            self.take_term(word);
        }
        Ok(())
    }

    fn take_term(&mut self, word: &str) {
        let (word, is_unwanted) = word.strip_prefix('-').map_or((word, false), |rest| (rest, true));
        let (word, is_prefix) = word.strip_suffix('*').map_or((word, false), |rest| (rest, true));
        let text = unquoted(word);
        // What has no letter and no digit is in no index.
        if text.chars().any(char::is_alphanumeric) {
            self.terms.push(Term { text, is_prefix, is_unwanted });
        }
    }

    /// With past versions too, or without.
    pub fn in_history(self, history: bool) -> Query {
        Query { history, ..self }
    }

    /// With at most so many hits.
    pub fn up_to(self, limit: usize) -> Query {
        Query { limit, ..self }
    }

    /// In SQLite's words.
    pub(super) fn to_match(&self) -> String {
        let quoted = |term: &Term| {
            let star = if term.is_prefix { " *" } else { "" };
            format!("\"{}\"{star}", apart(&term.text).trim().replace('"', "\"\"").replace('\0', " "))
        };
        let wanted: Vec<String> = self.terms.iter().filter(|term| !term.is_unwanted).map(quoted).collect();
        let unwanted = self.terms.iter().filter(|term| term.is_unwanted).map(quoted);
        unwanted.fold(format!("({})", wanted.join(" AND ")), |all, unwanted| format!("({all} NOT {unwanted})"))
    }

    /// The words that a hit has, and whether each is only the beginning of one: what a snippet looks for.
    pub(super) fn words(&self) -> Vec<(String, bool)> {
        let wanted = self.terms.iter().filter(|term| !term.is_unwanted);
        let words = wanted.flat_map(|term| {
            let words: Vec<String> = super::snippet::words(&term.text).map(|(_, word)| word).collect();
            let last = words.len().saturating_sub(1);
            words.into_iter().enumerate().map(move |(at, word)| (word, term.is_prefix && at == last))
        });
        words.collect()
    }

    /// True if a version may be a hit.
    pub(super) fn admits(&self, path: &RelPath, origin: &OriginName, hlc: Hlc) -> bool {
        let folded = || fold_key(path.as_str());
        let is_there = |part: &String| folded().contains(part.as_str());
        let is_of = |wanted: &String| origin.as_str() == wanted || origin.as_str().starts_with(&format!("{wanted}-"));
        self.paths.iter().all(is_there)
            && (self.origins.is_empty() || self.origins.iter().any(is_of))
            && self.since.is_none_or(|since| since.wall_ms() <= hlc.wall_ms())
    }
}

/// At white space outside of quotes.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        is_quoted ^= c == '"';
        if c.is_whitespace() && !is_quoted {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn unquoted(word: &str) -> String {
    word.replace('"', " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Query, QueryError> {
        Query::parse(text, &|text| (text == "1h").then(|| Hlc::new(1000, 0)))
    }

    #[test]
    fn words_phrases_beginnings_and_what_is_not_wanted_are_told_apart() {
        let table = [
            ("one two", "(\"one\" AND \"two\")"),
            ("\"one two\" three", "(\"one two\" AND \"three\")"),
            ("beg*", "(\"beg\" *)"),
            ("東京*", "(\"東  京\" *)"),
            ("one -two", "((\"one\") NOT \"two\")"),
            ("a AND b OR NEAR(c", "(\"a\" AND \"AND\" AND \"b\" AND \"OR\" AND \"NEAR(c\")"),
            ("open \"never closed", "(\"open\" AND \"never closed\")"),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).expect("understood").to_match(), expected, "{text}");
        }
    }

    #[test]
    fn filters_narrow_and_a_query_of_nothing_is_refused() {
        let query = parse("word path:Docs/ origin:laptop since:1h").expect("understood");
        let path = |text: &str| RelPath::parse(text).expect("a path");
        let origin = |text: &str| text.parse::<OriginName>().expect("an origin");
        let (laptop, now) = (origin("laptop-abc234"), Hlc::new(2000, 0));

        assert!(query.admits(&path("docs/a.md"), &laptop, now));
        assert!(!query.admits(&path("other/a.md"), &laptop, now));
        assert!(!query.admits(&path("docs/a.md"), &origin("laptops-abc234"), now));
        assert!(!query.admits(&path("docs/a.md"), &laptop, Hlc::new(999, 0)));
        for text in ["", "  ", "-only", "path:docs", "-- ##", "word since:soon"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_understood_by_sqlite_or_refused(text in "[a-z0-9\"*():^+ \\-\u{e9}\0']{0,40}") {
            let Ok(query) = parse(&text) else { return Ok(()) };
            let conn = rusqlite::Connection::open_in_memory().expect("opens");
            conn.execute_batch("CREATE VIRTUAL TABLE text USING fts5(body)").expect("makes");

            let count: Result<i64, _> =
                conn.query_row("SELECT count(*) FROM text WHERE text MATCH ?1", [query.to_match()], |row| row.get(0));

            prop_assert_eq!(count.expect("SQLite understands it"), 0);
        }
    }
}
