//! Names of documents: any record has one, whatever stands in its path.
//!
//! A name is the record's id as `encodeURIComponent` writes it, so that a program in any language finds a row by one call. Invariant:
//! a name is never `.`, `..` or `__x__`, holds no `/`, has at most 1,500 bytes, and two ids never share one.

use std::fmt::Write as _;

use crate::RecordId;

/// The service's bound for one part of a document's path.
const MAX_BYTES: usize = 1_500;
/// Of a longer name this much stays readable; the rest is its hash.
const KEPT_BYTES: usize = 1_200;

/// The name of a record's documents, in `files` and in `file_mirror` alike.
pub(super) fn document_name(id: &RecordId) -> String {
    let name = encoded(id.as_str());
    if name.len() <= MAX_BYTES {
        return name;
    }
    // `%~` never comes out of the encoding, so a short id cannot have this name.
    let hash = blake3::hash(id.as_str().as_bytes()).to_hex();
    format!("{}%~{hash}", &name[..KEPT_BYTES])
}

fn encoded(text: &str) -> String {
    let mut name = String::with_capacity(text.len() + 8);
    for (at, byte) in text.bytes().enumerate() {
        // `__x__` is the service's own: a first `_` is written out, as nobody else's encoding would.
        let plain = byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte);
        if plain && !(at == 0 && byte == b'_') {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_what_encode_uri_component_makes_of_the_id() {
        let name = |path: &str| document_name(&RecordId::new("notes", "shared", path));
        assert_eq!(name("docs/a b.md"), "notes%3Adocs%2Fa%20b.md");
        assert_eq!(name("größe'(1)!~*"), "notes%3Agr%C3%B6%C3%9Fe'(1)!~*");
        assert_eq!(document_name(&RecordId::new("__a", "shared", "b__")), "%5F_a%3Ab__");
    }

    proptest! {
        #[test]
        fn a_name_is_allowed_and_one_record_s_own(a in "[_.%/a~é]{1,12}", b in "[_.%/a~é]{1,12}", times in 1usize..400) {
            let id = |path: &str| RecordId::new("_", "shared", &path.repeat(times));
            let (left, right) = (document_name(&id(&a)), document_name(&id(&b)));

            prop_assert!(left.len() <= MAX_BYTES && !left.contains('/') && left != "." && left != "..");
            prop_assert!(!(left.starts_with("__") && left.ends_with("__")));
            prop_assert_eq!(left == right, id(&a) == id(&b));
        }
    }
}
