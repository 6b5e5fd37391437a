//! Refuses contents that must not travel whatever the file is called: SQLite files and private keys.
//!
//! Looks at the first 4096 bytes only, so that the verdict on a growing file does not change and costs nothing. A key further down, or
//! one that is packed or encrypted, is not found: this is a net below the denylist of names, not a secret scanner.

use std::fmt;

/// How many bytes from the start of a file [`denied_content`] looks at.
pub const CONTENT_HEAD_BYTES: usize = 4096;

const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// Longest label between `BEGIN ` and `PRIVATE KEY`, in bytes: known ones (`RSA `, `OPENSSH `, `SSH2 ENCRYPTED `) have up to 15.
const LONGEST_LABEL_BYTES: usize = 40;
/// How much base64 must follow a quoted header, so that programs and prose that merely name the header stay allowed.
const QUOTED_KEY_BYTES: usize = 16;

/// What was found in a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedContent {
    /// The file is a SQLite database.
    SqliteDatabase,
    /// The file holds a private key.
    PrivateKey,
}

impl fmt::Display for DeniedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeniedContent::SqliteDatabase => "it is a live SQLite database, whatever its name",
            DeniedContent::PrivateKey => "it holds a private key, whatever its name",
        })
    }
}

/// Tells why a file that starts with `head` must not travel, if so.
///
/// Units: up to [`CONTENT_HEAD_BYTES`] bytes from the start of the file; more are ignored, fewer are fine for a shorter file.
/// A private key is found by its header at the start of a line (white space before it allowed), or in quotes with key bytes after it
/// as in JSON; in ASCII-compatible encodings, UTF-16 and UTF-32.
pub fn denied_content(head: &[u8]) -> Option<DeniedContent> {
    let head = &head[..head.len().min(CONTENT_HEAD_BYTES)];
    if head.starts_with(SQLITE_MAGIC) {
        return Some(DeniedContent::SqliteDatabase);
    }
    // Every header has these letters (`KEY`, `PuTTY-User-Key-File-`), and most texts lack one of them: half a pass then.
    if !(head.contains(&b'K') && head.contains(&b'Y')) {
        return None;
    }
    let is_key = has_private_key(head) || (head.contains(&0) && has_private_key(&without_nul_bytes(head)));
    is_key.then_some(DeniedContent::PrivateKey)
}

/// Turns ASCII text in UTF-16 or UTF-32, of either byte order, into ASCII.
fn without_nul_bytes(head: &[u8]) -> Vec<u8> {
    head.iter().copied().filter(|&byte| byte != 0).collect()
}

fn has_private_key(text: &[u8]) -> bool {
    if from_first_letter(text).starts_with(b"PuTTY-User-Key-File-") {
        return true;
    }
    let mut lines = text.split(|&byte| byte == b'\n' || byte == b'\r');
    lines.any(|line| header_end(from_first_letter(line)).is_some()) || has_quoted_key(text)
}

/// Drops white space, control characters and whatever is not ASCII: byte order marks and invisible characters among them.
fn from_first_letter(line: &[u8]) -> &[u8] {
    let start = line.iter().position(u8::is_ascii_graphic);
    &line[start.unwrap_or(line.len())..]
}

/// Returns where the words of a private-key header end, if `line` starts with one.
fn header_end(line: &[u8]) -> Option<usize> {
    const KEY_WORDS: &[u8] = b"PRIVATE KEY";
    let label_start = [&b"-----BEGIN "[..], b"---- BEGIN "]
        .iter()
        .find_map(|start| line.starts_with(start).then_some(start.len()))?;
    let label_and_words = &line[label_start..line.len().min(label_start + LONGEST_LABEL_BYTES + KEY_WORDS.len())];
    let label_bytes = label_and_words.windows(KEY_WORDS.len()).position(|words| words == KEY_WORDS)?;
    let is_label = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    label_and_words[..label_bytes].iter().all(is_label).then_some(label_start + label_bytes + KEY_WORDS.len())
}

/// Finds `"-----BEGIN PRIVATE KEY-----\nMIIE..."` as JSON, YAML and shell files hold it.
fn has_quoted_key(text: &[u8]) -> bool {
    text.iter().enumerate().filter(|(_, byte)| matches!(byte, b'"' | b'\'')).any(|(at, _)| {
        let quoted = &text[at + 1..];
        header_end(quoted).is_some_and(|end| {
            let rest = quoted[end..].strip_prefix(b"-----").unwrap_or_default();
            let rest = rest.strip_prefix(b"\\r").unwrap_or(rest);
            let key = rest.strip_prefix(b"\\n").unwrap_or_default();
            key.len() >= QUOTED_KEY_BYTES
                && key[..QUOTED_KEY_BYTES].iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, little: bool) -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
    }

    #[test]
    fn a_live_database_is_refused_by_its_magic() {
        assert_eq!(denied_content(b"SQLite format 3\0\x10\0"), Some(DeniedContent::SqliteDatabase));
        for head in [&b"SQLite format 3"[..], b" SQLite format 3\0", b"SQLite format 4\0", b""] {
            assert_eq!(denied_content(head), None);
        }
    }

    #[test]
    fn a_private_key_is_refused_in_every_wrapping() {
        for text in [
            "-----BEGIN PRIVATE KEY-----\nMIIE",
            "-----BEGIN RSA PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----",
            "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----",
            "PuTTY-User-Key-File-3: ssh-ed25519",
            "\u{feff}-----BEGIN PRIVATE KEY-----",
            "\n\n  \t-----BEGIN PRIVATE KEY-----",
            "# my key\r\n-----BEGIN PRIVATE KEY-----",
            "# my key\r-----BEGIN PRIVATE KEY-----",
            "key: |\n  -----BEGIN RSA PRIVATE KEY-----\n",
            "{\"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0\\n\"}",
        ] {
            assert_eq!(denied_content(text.as_bytes()), Some(DeniedContent::PrivateKey), "{text:?}");
            assert_eq!(denied_content(&utf16(text, true)), Some(DeniedContent::PrivateKey), "{text:?}");
            assert_eq!(denied_content(&utf16(text, false)), Some(DeniedContent::PrivateKey), "{text:?}");
        }
    }

    #[test]
    fn contents_that_only_speak_of_keys_are_allowed() {
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\nMIIE",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----",
            "the header is -----BEGIN PRIVATE KEY-----",
            "const HEADER: &str = \"-----BEGIN PRIVATE KEY-----\";",
            "-----BEGIN of a chapter on the PRIVATE KEY",
            "----- BEGIN PRIVATE KEY",
            "see PuTTY-User-Key-File-2",
        ] {
            assert_eq!(denied_content(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn only_the_head_is_looked_at() {
        let mut file = vec![b'\n'; CONTENT_HEAD_BYTES];
        file.extend_from_slice(b"-----BEGIN PRIVATE KEY-----");
        assert_eq!(denied_content(&file), None);

        let header = b"-----BEGIN PRIVATE KEY-----";
        let mut file = vec![b'\n'; CONTENT_HEAD_BYTES - header.len()];
        file.extend_from_slice(header);
        assert_eq!(denied_content(&file), Some(DeniedContent::PrivateKey));
    }
}
