//! Edits of a config's text that leave everything else as it stands: comments, order and spaces.
//!
//! Invariant: what comes back differs only in what was asked for, and is read back before it is given out. Pure; `replace`
//! alone writes, at one stroke and only over the bytes that were edited.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};

use super::document::jsonc_only;

/// Begins files of some editors.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The text with the peer's address set; what stands beside the address (`private`, ..) stays. `None` if the text is no
/// config.
pub fn set_peer(text: &str, name: &str, address: &str) -> Option<String> {
    edited(text, |config| {
        let peers = config.object_value_or_set("peers");
        let address = CstInputValue::from(address);
        match peers.get(name) {
            None => drop(peers.append(name, address)),
            Some(peer) => match peer.object_value().and_then(|fields| fields.get("url")) {
                Some(url) => url.set_value(address),
                None => peer.set_value(address),
            },
        }
        Some(())
    })
}

/// The text without the peer; `None` if it is not there.
pub fn remove_peer(text: &str, name: &str) -> Option<String> {
    edited(text, |config| {
        config.object_value("peers")?.get(name)?.remove();
        Some(())
    })
}

fn edited(text: &str, edit: impl FnOnce(&CstObject) -> Option<()>) -> Option<String> {
    let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (BYTE_ORDER_MARK.to_string(), rest),
        None => (String::new(), text),
    };
    let root = CstRootNode::parse(text, &jsonc_only()).ok()?;
    edit(&root.object_value()?)?;
    Some(format!("{mark}{root}"))
}

/// Puts `new` in the place of a file that still holds `old`; its mode stays, and a link to it stays a link.
///
/// Atomic. Errors: `ResourceBusy` if somebody else changed the file meanwhile.
pub fn replace(file: &Path, old: &[u8], new: &[u8]) -> io::Result<()> {
    let file = file.canonicalize()?;
    let folder = file.parent().unwrap_or(Path::new("."));
    // A name that is never taken for one of the project's files.
    let mut temporary = tempfile::Builder::new().prefix("_tmp-").tempfile_in(folder)?;
    temporary.write_all(new)?;
    temporary.as_file().set_permissions(file.metadata()?.permissions())?;
    temporary.as_file().sync_all()?;
    if std::fs::read(&file)? != old {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it was changed meanwhile"));
    }
    temporary.persist(&file).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_added_changed_and_removed_and_nothing_else_moves() {
        let cases = [
            ("{}", "{\n  \"peers\": {\n    \"nas\": \"/mnt/nas\"\n  }\n}"),
            (
                "// kept\n{\n  \"appId\": \"a\", // this too\n  \"peers\": {\n    // ours\n    \"b\": \"/b\",\n  },\n}\n",
                "// kept\n{\n  \"appId\": \"a\", // this too\n  \"peers\": {\n    // ours\n    \"b\": \"/b\",\n    \"nas\": \"/mnt/nas\",\n  },\n}\n",
            ),
            ("\u{feff}{\"peers\":{\"nas\":\"/old\"}}", "\u{feff}{\"peers\":{\"nas\":\"/mnt/nas\"}}"),
            (
                "{\"peers\": {\"nas\": {\"private\": true, \"url\": \"/old\"}}}",
                "{\"peers\": {\"nas\": {\"private\": true, \"url\": \"/mnt/nas\"}}}",
            ),
        ];
        for (text, expected) in cases {
            let set = set_peer(text, "nas", "/mnt/nas").expect("a config");
            assert_eq!(set, expected);
            let removed = remove_peer(&set, "nas").expect("it is there");
            assert!(!removed.contains("nas"), "{removed}");
            assert_eq!(removed.matches("//").count(), text.matches("//").count(), "{removed}");
        }
        assert_eq!(remove_peer("{\"peers\": {\"b\": \"/b\"}}", "nas"), None);
        assert_eq!(set_peer("[]", "nas", "/mnt/nas"), None);
    }

    #[test]
    fn a_config_that_changed_meanwhile_is_not_replaced_and_its_mode_stays() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let (file, link) = (dir.path().join("sync-config.json"), dir.path().join("link"));
        std::fs::write(&file, "{}").expect("writes");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("sets");
        std::os::unix::fs::symlink(&file, &link).expect("links");

        replace(&link, b"{}", b"{ }").expect("replaced");
        let busy = replace(&link, b"{}", b"lost").expect_err("it changed");

        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(std::fs::read(&file).expect("reads"), b"{ }");
        assert_eq!(file.metadata().expect("is there").permissions().mode() & 0o777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 2);
    }
}
