//! Which characters are words by themselves: those of scripts that put no spaces between words.
//!
//! Invariant: pure; texts and questions are taken apart the same way, so what stands in a text is found by any part of it. A part of
//! several characters is a phrase. Deliberately no dictionary: where a word ends is not known, and a part of a longer one is found too.

use std::borrow::Cow;

/// True for a character of a script that is written without spaces: Han, kana, bopomofo, Thai, Lao, Myanmar, Khmer.
pub(super) fn stands_alone(c: char) -> bool {
    let is_of_it = matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'..='\u{3007}'
        | '\u{3021}'..='\u{3029}' | '\u{3031}'..='\u{3035}' | '\u{3038}'..='\u{303c}' | '\u{3041}'..='\u{312f}'
        | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{a9e0}'..='\u{a9fe}' | '\u{aa60}'..='\u{aa7f}' | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9d}'
        | '\u{20000}'..='\u{3fffd}');
    // Digits of these scripts make numbers as elsewhere.
    is_of_it && !c.is_numeric()
}

/// The text with spaces around each such character; itself where there is none.
pub(super) fn apart(text: &str) -> Cow<'_, str> {
    if !text.contains(stands_alone) {
        return Cow::Borrowed(text);
    }
    let mut apart = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if stands_alone(c) {
            apart.extend([' ', c, ' ']);
        } else {
            apart.push(c);
        }
    }
    Cow::Owned(apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_of_scripts_without_spaces_are_words_and_no_others() {
        let table = [
            ("plain naïve слово 서울 ٣ x", "plain naïve слово 서울 ٣ x"),
            ("設定file", " 設  定 file"),
            ("カタカナ、ひ。", " カ  タ  カ  ナ 、 ひ 。"),
            ("ไทย๑๒", " ไ  ท  ย ๑๒"),
        ];

        for (text, expected) in table {
            assert_eq!(apart(text), expected);
        }
        assert!(matches!(apart("none"), Cow::Borrowed(_)));
    }
}
