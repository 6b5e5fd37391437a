//! The tree that views are compared on: 20,000 small files in 1,000 folders, and one long file.
//!
//! Invariant: the same bytes each time. Folders are a random tree of at most five levels and files fall into them at random, as in a
//! project that has grown; sizes are 200 bytes to 64 KiB, evenly by their logarithm; text that compresses about threefold.

use std::fs;
use std::path::{Path, PathBuf};

/// Small files.
pub const SMALL_COUNT: usize = 20_000;
/// The long one.
pub const BIG_BYTES: usize = 256 << 20;
/// A word that one file in a hundred holds.
pub const NEEDLE: &str = "NEEDLE_IN_HAYSTACK";
const FOLDERS: usize = 1_000;
const TOPS: usize = 9;
const MAX_LEVELS: usize = 5;
const POOL_BYTES: usize = 4 << 20;

/// Numbers that are the same each time.
pub struct Dice(u64);

impl Dice {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 11) % limit as u64) as usize
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Fills `root` with `small/` and `big/`.
pub fn make_tree(root: &Path) {
    let mut dice = Dice::new(1);
    let pool = pool(&mut dice);
    let folders = folders(&mut dice);
    for folder in &folders {
        fs::create_dir_all(root.join("small").join(folder)).expect("make a folder");
    }
    let (least, most) = (200_f64.ln(), 65_536_f64.ln());
    for n in 0..SMALL_COUNT {
        let size = (least + dice.share() * (most - least)).exp() as usize;
        let mut bytes = format!("file {n}\n").into_bytes();
        if n.is_multiple_of(100) {
            bytes.extend(format!("{NEEDLE}\n").bytes());
        }
        let from = dice.below(pool.len() - size);
        bytes.extend_from_slice(&pool[from..from + size.saturating_sub(bytes.len())]);
        let folder = &folders[dice.below(folders.len())];
        fs::write(root.join("small").join(folder).join(format!("f{n:06}.txt")), bytes).expect("write a file");
    }
    let mut big = Vec::with_capacity(BIG_BYTES);
    while big.len() < BIG_BYTES {
        // Half of it compresses.
        let from = dice.below(pool.len() - (1 << 20));
        big.extend_from_slice(&pool[from..from + (1 << 20)]);
        big.extend((0..1 << 17).flat_map(|_| dice.next().to_le_bytes()));
    }
    fs::create_dir_all(root.join("big")).expect("make a folder");
    fs::write(root.join("big/b.bin"), big).expect("write the long file");
    rustix::fs::sync();
}

/// What the tree consists of, for dealing it out: each top folder of `small/`, and `big`.
pub fn tops(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("small")).expect("list").flatten();
    let mut tops: Vec<String> = entries.map(|entry| format!("small/{}", entry.file_name().to_string_lossy())).collect();
    tops.sort();
    tops.push("big".to_owned());
    tops
}

/// All files below a folder, folder by folder.
pub fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(folder).expect("list").flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    let (mut files, mut below) = (Vec::new(), Vec::new());
    for entry in entries {
        if entry.file_type().expect("look").is_dir() {
            below.extend(files_of(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.append(&mut below);
    files
}

fn folders(dice: &mut Dice) -> Vec<String> {
    let mut folders: Vec<String> = (0..TOPS).map(|n| format!("d{n:02}")).collect();
    while folders.len() < FOLDERS {
        let parent = &folders[dice.below(folders.len())];
        if parent.split('/').count() < MAX_LEVELS {
            folders.push(format!("{parent}/part{:03}", folders.len()));
        }
    }
    folders
}

fn pool(dice: &mut Dice) -> Vec<u8> {
    let words: Vec<Vec<u8>> =
        (0..4000).map(|_| (0..2 + dice.below(9)).map(|_| b'a' + dice.below(26) as u8).collect()).collect();
    let mut pool = Vec::with_capacity(POOL_BYTES + 16);
    while pool.len() < POOL_BYTES {
        pool.extend_from_slice(&words[dice.below(words.len())]);
        pool.push(if dice.below(12) == 0 { b'\n' } else { b' ' });
    }
    pool
}
