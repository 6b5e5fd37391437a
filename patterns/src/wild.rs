//! Matches one name against one component of a glob.
//!
//! Says of a single name what `globset` says of a whole path: bytes are compared, `?` and a class take one byte, none takes a `/`.
//! The laws hold the two against each other.

use crate::glob::{Component, Token};

/// Tells whether a component of a glob takes a name; `**` takes any.
pub(crate) fn takes(component: &Component, name: &str) -> bool {
    match component {
        Component::Anything => true,
        Component::Literal(literal) => literal == name,
        Component::Wild(tokens) => wild_takes(tokens, name.as_bytes()),
    }
}

/// Linear for one star, else at most tokens x bytes: both are bounded.
fn wild_takes(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    // Where to go on when what follows the last star does not fit: the earlier stars need not move again.
    let mut last_star: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Many) => {
                token += 1;
                last_star = Some((token, at));
                continue;
            }
            Some(one) => {
                if let Some(bytes) = taken(one, &name[at..]) {
                    token += 1;
                    at += bytes;
                    continue;
                }
            }
            None if at == name.len() => return true,
            None => {}
        }
        match last_star {
            Some((after, from)) if from < name.len() => {
                last_star = Some((after, from + 1));
                (token, at) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Returns how many bytes a token other than a star takes at the start of `rest`.
fn taken(token: &Token, rest: &[u8]) -> Option<usize> {
    let first = *rest.first()?;
    let fits = match token {
        Token::Character(c) if c.is_ascii() => *c == char::from(first),
        Token::Character(c) => {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).as_bytes();
            return rest.starts_with(bytes).then_some(bytes.len());
        }
        Token::One => first != b'/',
        Token::Class { negated, members } => members.contains(&first) != *negated,
        Token::Many => return None,
    };
    fits.then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Pattern;

    #[test]
    fn names_are_taken_as_patterns_say() {
        for (pattern, name, expected) in [
            ("*.json", "a.json", true),
            ("*.json", ".json", true),
            ("*.json", "a.jsonl", false),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxc", false),
            ("a?c", "abc", true),
            ("a?c", "aéc", false),
            ("a??c", "aéc", true),
            ("*é*", "caféx", true),
            ("[!a-c]x", "dx", true),
            ("[!a-c]x", "bx", false),
            ("[a-c]*", "b", true),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaa", false),
            ("plain", "plain", true),
        ] {
            let parsed = Pattern::parse(pattern).expect("a pattern");
            let found = takes(&parsed.globs[0].components[0], name);
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }
}
