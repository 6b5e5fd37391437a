//! Has the kernel read an index that it has forgotten, in a few long pieces instead of page by page as questions come.
//!
//! Invariant: the descriptor that the advice is given through is not closed while the file has a name: closing any descriptor of a file
//! drops every lock that SQLite holds on it here. So there are few of them, one for each index file. Nothing is kept in this process's
//! memory, and nothing is said of what fails: it is only a hint.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

/// A longer index is read page by page: it would push out what people read.
const MAX_BYTES: u64 = 64 << 20;
/// Index files of one process.
const MAX_FILES: usize = 4;

/// Device and number of each file, and what keeps it open.
type Kept = Vec<((u64, u64), File)>;

static KEPT: Mutex<Kept> = Mutex::new(Vec::new());

/// Has the kernel read the whole index at `path`, unless that is much; returns before it has. Reads nothing that the kernel holds.
///
/// Returns how many bytes the kernel was asked to hold.
pub fn warm(path: &Path) -> u64 {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    advise(path, &mut kept).unwrap_or(0)
}

fn advise(path: &Path, kept: &mut Kept) -> Option<u64> {
    let facts = std::fs::metadata(path).ok()?;
    let key = (facts.dev(), facts.ino());
    // Of one that was made anew nobody can take a lock any more, and its place on the disk is free again.
    kept.retain(|(_, file)| file.metadata().is_ok_and(|facts| facts.nlink() > 0));
    let at = match kept.iter().position(|(known, _)| *known == key) {
        Some(at) => at,
        // What is kept open keeps its place on the disk after it was made anew: a long one is not even opened.
        None if kept.len() >= MAX_FILES || facts.len() > MAX_BYTES => return None,
        None => {
            let file = File::open(path).ok()?;
            let opened = file.metadata();
            // From here on it stays open, also if it is another one than was asked for.
            let key = opened.as_ref().map_or(key, |facts| (facts.dev(), facts.ino()));
            kept.push((key, file));
            kept.len() - 1
        }
    };
    let (_, file) = &kept[at];
    let bytes = NonZeroU64::new(file.metadata().ok()?.len()).filter(|bytes| bytes.get() <= MAX_BYTES)?;
    fadvise(file, 0, Some(bytes), Advice::WillNeed).ok()?;
    Some(bytes.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_ahead_through_one_descriptor_and_a_long_one_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("index.db");
        std::fs::write(&path, vec![1; 9_000]).expect("written");
        let mut kept = Kept::new();

        assert_eq!(advise(&path, &mut kept), Some(9_000));
        assert_eq!(advise(&path, &mut kept), Some(9_000));
        assert_eq!(kept.len(), 1, "opened once");

        File::options().write(true).open(&path).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("made longer");
        assert_eq!(advise(&path, &mut kept), None);
        let long = folder.path().join("long.db");
        File::create(&long).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("made");
        assert_eq!((advise(&long, &mut kept), kept.len()), (None, 1), "not opened");
        for n in 0..2 * MAX_FILES {
            let path = folder.path().join(n.to_string());
            std::fs::write(&path, b"another").expect("written");
            let _ = advise(&path, &mut kept);
        }
        assert_eq!(kept.len(), MAX_FILES, "and never more than these");

        std::fs::remove_file(&path).expect("made anew");
        let _ = advise(folder.path().join("0").as_path(), &mut kept);
        assert_eq!(kept.len(), MAX_FILES - 1, "what has no name is let go");
    }
}
