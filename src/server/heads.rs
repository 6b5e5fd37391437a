//! The newest checkpoints of all chains of a space, from the folders they stand in, without reading what has not changed.
//!
//! Invariant: a folder's heads are remembered only with a time of change that was well past when they were read, so that
//! nothing that came meanwhile is overlooked. Names only: nothing is opened but folders, and no link is followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::ledger::ArtifactName;
use crate::model::{Chain, Space};

/// File systems count time in ticks: a folder may change again within one and keep its time.
const TICK: Duration = Duration::from_millis(100);
/// Folders remembered.
const MAX_REMEMBERED: usize = 100_000;

/// When a folder changed last: device, inode, seconds, nanoseconds.
type ChangeTime = (u64, u64, i64, i64);

/// Remembers the heads of folders.
#[derive(Default)]
pub struct Heads {
    remembered: Mutex<HashMap<PathBuf, (ChangeTime, Vec<ArtifactName>)>>,
}

impl Heads {
    /// The newest checkpoints of every chain below the folders of `space`: of each chain all that share the highest number.
    /// A folder that is not there holds none; one that cannot be read is an error.
    pub fn of_space(&self, folders: &[PathBuf], space: &Space) -> std::io::Result<Vec<ArtifactName>> {
        let mut heads: BTreeMap<Chain, BTreeSet<ArtifactName>> = BTreeMap::new();
        for folder in folders {
            for chain in chains(folder, space)? {
                let of_folder = self.of_chain(&folder.join(chain.folder()).join("checkpoints"), &chain)?;
                heads.entry(chain).or_default().extend(of_folder);
            }
        }
        let newest = heads.into_values().flat_map(|names| {
            let highest = names.last().map_or(0, ArtifactName::seq);
            names.into_iter().filter(move |name| name.seq() == highest)
        });
        Ok(newest.collect())
    }

    fn of_chain(&self, folder: &Path, chain: &Chain) -> std::io::Result<Vec<ArtifactName>> {
        let Some(metadata) = folder_metadata(folder)? else { return Ok(Vec::new()) };
        let changed: ChangeTime = (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        let known = self.lock().get(folder).filter(|(time, _)| *time == changed).map(|(_, heads)| heads.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let mut heads: Vec<ArtifactName> = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|file| ArtifactName::from_file(chain, "checkpoints", file).ok());
            let Some(name) = name else { continue };
            let highest = heads.first().map_or(0, ArtifactName::seq);
            if name.seq() > highest {
                heads.clear();
            }
            if name.seq() >= highest {
                heads.push(name);
            }
        }
        heads.sort();
        let settled = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if settled.is_some_and(|age| age > TICK) {
            let mut remembered = self.lock();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(folder.to_owned(), (changed, heads.clone()));
        }
        Ok(heads)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (ChangeTime, Vec<ArtifactName>)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chains(folder: &Path, space: &Space) -> std::io::Result<Vec<Chain>> {
    if folder_metadata(folder)?.is_none() {
        return Ok(Vec::new());
    }
    let mut chains = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let chain = name.to_str().and_then(|name| format!("{space}/{name}").parse::<Chain>().ok());
        chains.extend(chain.filter(|chain| name.to_str() == Some(&*chain.folder())));
    }
    Ok(chains)
}

/// What is known of a folder; `None` if there is none.
fn folder_metadata(folder: &Path) -> std::io::Result<Option<std::fs::Metadata>> {
    match std::fs::symlink_metadata(folder) {
        Ok(metadata) => Ok(Some(metadata).filter(std::fs::Metadata::is_dir)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_the_highest_of_each_chain_over_all_folders_and_news_is_seen_at_once() {
        let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let put = |root: &Path, chain: &str, seq: u64, hash: u64| {
            let folder = root.join(chain).join("checkpoints");
            std::fs::create_dir_all(&folder).expect("creates");
            std::fs::write(folder.join(format!("cp-{seq:016}-{hash:016x}.json")), "").expect("writes");
        };
        let heads = Heads::default();
        let folders = [first.path().to_owned(), second.path().to_owned(), first.path().join("none")];
        let found = || -> Vec<String> {
            let found = heads.of_space(&folders, &Space::shared()).expect("read");
            found.iter().map(|name| name.to_string()["shared/".len()..].to_owned()).collect()
        };
        assert!(found().is_empty());

        for seq in 1..5 {
            put(first.path(), "a-abc234~1", seq, 1);
        }
        put(second.path(), "a-abc234~1", 5, 1);
        put(first.path(), "b-abc234~2", 7, 1);
        put(first.path(), "b-abc234~2", 7, 2);
        std::fs::create_dir(first.path().join("junk")).expect("creates");
        std::os::unix::fs::symlink(second.path(), first.path().join("c-abc234~1")).expect("links");
        let at = |chain: &str, seq: u64, hash: u64| format!("{chain}/checkpoints/cp-{seq:016}-{hash:016x}.json");
        let expected = [at("a-abc234~1", 5, 1), at("b-abc234~2", 7, 1), at("b-abc234~2", 7, 2)];
        for _ in 0..2 {
            assert_eq!(found(), expected);
        }
        for seq in 6..40 {
            put(first.path(), "a-abc234~1", seq, 1);
            assert_eq!(found()[0], at("a-abc234~1", seq, 1));
        }
    }
}
