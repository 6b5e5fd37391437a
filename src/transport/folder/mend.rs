//! Damage in a folder: word that is left of it, and right bytes in the place of wrong ones.
//!
//! A word is a small file in `<app>/asked/`, named by the hash of the name it speaks of and the same whoever writes it, so that
//! file syncers may carry it. Invariant: a name is never without bytes because of what is done here, where the file system
//! can exchange two names. Judges no bytes: who asks and who mends has proven them wrong.

use serde::{Deserialize, Serialize};

use super::super::{Depth, ListRequest, MAX_ASKED, Mending, Transport, TransportError, TransportErrorKind};
use super::{FolderTransport, check_taken};
use crate::model::{Hash, canonical_bytes};

/// Below the app, where no space can be.
const ASKED: &str = "asked/";
const MAX_WORD_BYTES: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Word {
    artifact: String,
    kind: WordKind,
    v: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WordKind {
    Asked,
}

/// The word's own name; `None` for a name that belongs to no app.
fn word_of(name: &str) -> Option<String> {
    let app = name.split_once('/')?.0;
    Some(format!("{app}/{ASKED}{}.json", Hash::of(name.as_bytes())))
}

impl Mending for FolderTransport {
    fn ask(&self, name: &str) -> Result<(), TransportError> {
        check_taken(name)?;
        let Some(word) = word_of(name) else { return Ok(()) };
        let bytes = canonical_bytes(&Word { artifact: name.to_owned(), kind: WordKind::Asked, v: 1 });
        let bytes = bytes.expect("a note of texts and integers always serialises");
        match self.put_new(&word, &bytes) {
            // Somebody's damaged word asks for the same.
            Err(error) if error.kind != TransportErrorKind::Conflict => Err(error),
            _ => Ok(()),
        }
    }

    fn asked(&self, app: &str) -> Result<Option<Vec<String>>, TransportError> {
        let prefix = format!("{app}/{ASKED}");
        let request = ListRequest { limit: MAX_ASKED, ..ListRequest::new(prefix, Depth::Children) };
        let mut names = Vec::new();
        for word in self.list(&request)?.names {
            // A word that cannot be read is left again by whoever misses something.
            let Ok(bytes) = self.get(&word, None, MAX_WORD_BYTES) else { continue };
            let Ok(Word { artifact, .. }) = serde_json::from_slice(&bytes) else { continue };
            if word_of(&artifact).as_deref() == Some(&*word) && artifact.starts_with(&format!("{app}/")) {
                names.push(artifact);
            }
        }
        names.sort();
        Ok(Some(names))
    }

    fn settle(&self, name: &str) -> Result<(), TransportError> {
        word_of(name).map_or(Ok(()), |word| self.remove_file(&word))
    }

    fn mend(&self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        check_taken(name)?;
        self.check_present("mend")?;
        self.replace(name, bytes)?;
        self.news.know(name);
        Ok(())
    }
}
