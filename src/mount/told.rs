//! Of which folders the kernel is being told the names, so that the files of one that it was told as a whole are known.
//!
//! Invariant: the files of a folder are handed out once, after all its names were; a few folders and a few hundred files of each are
//! remembered. The kernel asks once more behind the last name, and knows every name before that by then.

use std::collections::VecDeque;

use super::catalog::FileId;
use super::node::NodeId;

/// Folders that are being told at once.
const FOLDERS: usize = 8;
/// Files of each that are remembered, the first ones.
const FILES: usize = 256;

/// The folders.
#[derive(Default)]
pub(super) struct Told(VecDeque<(NodeId, Vec<FileId>)>);

impl Told {
    /// Notes what a question for the names from `offset` on is answered. Returns the folder's files if this answer is its end.
    pub(super) fn note(&mut self, folder: NodeId, offset: u64, is_empty: bool, files: Vec<FileId>) -> Vec<FileId> {
        let at = self.0.iter().position(|(known, _)| *known == folder);
        if offset == 0 {
            if let Some(at) = at {
                self.0.remove(at);
            }
            if self.0.len() >= FOLDERS {
                self.0.pop_front();
            }
            self.0.push_back((folder, files));
        } else if let Some(at) = at {
            if is_empty {
                return self.0.remove(at).map_or_else(Vec::new, |(_, files)| files);
            }
            self.0[at].1.extend(files);
        }
        if let Some((_, files)) = self.0.iter_mut().find(|(known, _)| *known == folder) {
            files.truncate(FILES);
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: NodeId = NodeId(7);

    fn files(numbers: std::ops::Range<u64>) -> Vec<FileId> {
        numbers.map(FileId).collect()
    }

    #[test]
    fn a_folders_files_are_known_when_all_its_names_were_told_and_handed_out_once() {
        let mut told = Told::default();

        assert_eq!(told.note(FOLDER, 0, false, files(1..4)), []);
        assert_eq!(told.note(NodeId(8), 0, false, files(10..12)), []);
        assert_eq!(told.note(FOLDER, 5, false, files(4..6)), []);
        assert_eq!(told.note(FOLDER, 9, true, Vec::new()), files(1..6));
        assert_eq!(told.note(FOLDER, 9, true, Vec::new()), []);
        assert_eq!(told.note(NodeId(8), 3, true, Vec::new()), files(10..12));
    }

    #[test]
    fn whoever_begins_a_folder_anew_is_told_its_files_of_now_and_a_long_one_only_begins() {
        let mut told = Told::default();

        told.note(FOLDER, 0, false, files(1..4));
        told.note(FOLDER, 0, false, files(5..6));
        told.note(FOLDER, 2, false, files(6..1_000));

        assert_eq!(told.note(FOLDER, 999, true, Vec::new()).len(), FILES);
    }

    #[test]
    fn few_folders_are_remembered() {
        let mut told = Told::default();
        for number in 0..1_000 {
            told.note(NodeId(number), 0, false, files(0..1));
        }

        assert_eq!(told.0.len(), FOLDERS);
        assert_eq!(told.note(NodeId(1), 9, true, Vec::new()), []);
    }
}
