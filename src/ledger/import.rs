//! Taking artifacts in from outside, and listing what is here for others.
//!
//! Invariant: bytes get a name only after they were proven to be that artifact; a name that is taken keeps its bytes
//! unless they are damaged. Does not judge whether a chain is trusted or a checkpoint follows.

use super::disk::{Durability, StagedFile};
use super::error::LedgerError;
use super::name::{ArtifactName, FOLDERS};
use super::store::{Ledger, read_names, verify_bytes};

/// Up to so many files of one folder are synced by themselves, more by syncing the file system as a whole.
const MAX_SINGLE_SYNCS: usize = 2;

/// What became of an artifact that was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It is here now, and durable.
    New,
    /// It was here already.
    Present,
    /// It was here with damaged bytes, which are in the quarantine; the good ones took their place.
    Healed,
}

impl Ledger {
    /// Takes one artifact in. Idempotent; durable when it returns.
    pub fn put(&self, name: &ArtifactName, bytes: &[u8]) -> Result<Put, LedgerError> {
        let mut results = self.put_batch(&[(name.clone(), bytes)])?;
        results.pop().expect("one result for one artifact")
    }

    /// Takes several artifacts in, with at most three syncs however many there are.
    ///
    /// One result for each artifact, in order; a bad one stops no other. Errors: the file system failed as a whole;
    /// what was already named stays.
    pub fn put_batch<B: AsRef<[u8]>>(
        &self,
        artifacts: &[(ArtifactName, B)],
    ) -> Result<Vec<Result<Put, LedgerError>>, LedgerError> {
        let mut results = Vec::with_capacity(artifacts.len());
        let mut staged = Vec::new();
        for (name, bytes) in artifacts {
            let result = self.prepare(name, bytes.as_ref());
            if let Ok(Put::New | Put::Healed) = result {
                let mut file = self.disk().stage(&self.staging())?;
                self.disk().write(&mut file, bytes.as_ref())?;
                match result {
                    Ok(Put::Healed) => self.heal(name, file)?,
                    _ => staged.push((name.clone(), file)),
                }
            }
            results.push(result);
        }
        // Packs and records before checkpoints, so that whoever reads meanwhile finds what a checkpoint names.
        staged.sort_by_key(|(name, _)| std::cmp::Reverse(name.kind()));
        self.publish_staged(staged)?;
        Ok(results)
    }

    fn prepare(&self, name: &ArtifactName, bytes: &[u8]) -> Result<Put, LedgerError> {
        verify_bytes(name, bytes).map_err(|damage| LedgerError::damaged(name, damage))?;
        if !self.has(name) {
            return Ok(Put::New);
        }
        match self.read_whole(name) {
            Ok(present) if present == bytes || verify_bytes(name, &present).is_ok() => Ok(Put::Present),
            Ok(_) | Err(LedgerError::Damaged { .. }) => Ok(Put::Healed),
            Err(error) => Err(error),
        }
    }

    /// Good bytes take the place of damaged ones, which stay in the quarantine. Whenever it is cut off, one of the two
    /// stands there: a checkpoint that is gone, and be it for a moment, could be written a second time.
    fn heal(&self, name: &ArtifactName, file: StagedFile) -> Result<(), LedgerError> {
        self.disk().sync_staged(&file)?;
        self.keep_in_quarantine(name)?;
        self.disk().replace_damaged(file, &self.path(name))?;
        self.disk().sync_folder(&self.folder(name.chain(), name.folder()))
    }

    /// Makes staged artifacts durable and names them in the order given: at most three syncs where a whole file system can be synced.
    pub(crate) fn publish_staged(&self, staged: Vec<(ArtifactName, StagedFile)>) -> Result<(), LedgerError> {
        let mut folders: Vec<_> = staged.iter().map(|(name, _)| self.folder(name.chain(), name.folder())).collect();
        folders.dedup();
        match &folders[..] {
            [] => Ok(()),
            few if (few.len() == 1 && staged.len() <= MAX_SINGLE_SYNCS) || !self.disk().syncs_whole(self.root()) => {
                staged.iter().try_for_each(|(_, file)| self.disk().sync_staged(file))?;
                few.iter().try_for_each(|folder| self.disk().create_folder(folder))?;
                self.name_staged(staged)?;
                few.iter().try_for_each(|folder| self.disk().sync_folder(folder))
            }
            _ => {
                self.disk().sync_everything(self.root())?;
                for folder in &folders {
                    self.disk().make_folder(folder, Durability::Later)?;
                }
                self.name_staged(staged)?;
                self.disk().sync_everything(self.root())
            }
        }
    }

    fn name_staged(&self, staged: Vec<(ArtifactName, StagedFile)>) -> Result<(), LedgerError> {
        staged.into_iter().try_for_each(|(name, file)| self.disk().publish(file, &self.path(&name)).map(|_| ()))
    }

    /// The names of artifacts that begin with `prefix` and stand after `after`, in the order of their text, at most
    /// `limit`.
    pub fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, LedgerError> {
        let mut found = Vec::new();
        self.list_below(self.root(), "", 0, &Span { prefix, after, limit }, &mut found)?;
        Ok(found)
    }

    fn list_below(
        &self,
        folder: &std::path::Path,
        path: &str,
        depth: usize,
        span: &Span<'_>,
        found: &mut Vec<String>,
    ) -> Result<(), LedgerError> {
        const FILE_DEPTH: usize = 3;
        let mut names = read_names(folder)?;
        if depth < FILE_DEPTH {
            // A folder stands in the order of what it contains: `a-b/` before `a/`, because `-` is below `/`.
            names.iter_mut().for_each(|name| name.push('/'));
        }
        names.sort();
        for name in names {
            if found.len() >= span.limit {
                break;
            }
            let path = format!("{path}{name}");
            if depth < FILE_DEPTH {
                let known = depth + 1 < FILE_DEPTH || FOLDERS.contains(&name.trim_end_matches('/'));
                if known && span.may_hold(&path) {
                    self.list_below(&folder.join(&name), &path, depth + 1, span, found)?;
                }
            } else if span.holds(&path) && path.parse::<ArtifactName>().is_ok() {
                found.push(path);
            }
        }
        Ok(())
    }
}

struct Span<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
}

impl Span<'_> {
    fn holds(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name > self.after
    }

    /// True unless no name below `folder` (which ends with `/`) can be in the span.
    fn may_hold(&self, folder: &str) -> bool {
        let in_prefix = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        in_prefix && (folder > self.after || self.after.starts_with(folder))
    }
}
