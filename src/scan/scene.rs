//! Judges the names of one folder: what is admitted becomes an entry or a problem, folders become tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_patterns::{AdmittedPath, PathError, RelPath, Within};
use rustix::io::Errno;

use super::entry::{Entry, EntryKind};
use super::folder::{Folder, NameKind, Names};
use super::gitignore::IgnoreStack;
use super::link::{MAX_LINK_BYTES, check_link_target};
use super::listing::{ProblemKind, Silence};
use super::part::{Item, Part, problem_at, unnameable, unreadable};
use super::root::not_a_file;
use super::walk::{Source, Task, Walk};

/// The surroundings of the names of one folder.
pub(super) struct Scene<'s, 'w> {
    pub(super) walk: &'s Walk<'w>,
    pub(super) within: &'s Arc<Within<'w>>,
    pub(super) folder: &'s Arc<Folder>,
    pub(super) ignores: &'s IgnoreStack,
}

impl<'w> Scene<'_, 'w> {
    pub(super) fn take_all(&self, names: &Names, part: &mut Part, tasks: &mut Vec<Task<'w>>) {
        for (name, kind) in names.iter() {
            let what = match std::str::from_utf8(name) {
                Err(_) => ProblemKind::NotUtf8,
                Ok(text) => match self.take(text, kind, part, tasks) {
                    Ok(()) => continue,
                    Err(error) => ProblemKind::Name(error),
                },
            };
            let prefix = self.within.folder().map_or(String::new(), |folder| format!("{folder}/"));
            part.problems.push(unnameable(&prefix, name, what));
        }
    }

    /// Judges one name. Errors: what makes it no path inside a project.
    pub(super) fn take(
        &self,
        name: &str,
        kind: NameKind,
        part: &mut Part,
        tasks: &mut Vec<Task<'w>>,
    ) -> Result<(), PathError> {
        match kind {
            NameKind::Folder => {
                if let Some(path) = self.within.may_contain(name)? {
                    self.take_folder(path, part, tasks);
                }
            }
            NameKind::Link => {
                if let Some(path) = self.within.may_contain(name)? {
                    part.silent.push((path.as_str().to_owned(), Silence::Linked));
                }
                self.take_name(name, part)?;
            }
            NameKind::File | NameKind::Other(_) => self.take_name(name, part)?,
        }
        Ok(())
    }

    fn take_folder(&self, path: RelPath, part: &mut Part, tasks: &mut Vec<Task<'w>>) {
        if self.ignores.ignores(path.as_str(), true) {
            part.silent.push((path.as_str().to_owned(), Silence::GitIgnored));
            return;
        }
        let slot = self.walk.next_slot.fetch_add(1, Ordering::Relaxed);
        part.items.push(Item::Folder(slot));
        tasks.push(Task {
            slot,
            ignores: self.ignores.clone(),
            source: Source::In { parent: Arc::clone(self.folder), above: Arc::clone(self.within), path },
        });
    }

    fn take_name(&self, name: &str, part: &mut Part) -> Result<(), PathError> {
        if let Some(admitted) = self.within.admit(name)? {
            self.take_admitted(name, admitted, part);
        }
        Ok(())
    }

    fn take_admitted(&self, name: &str, admitted: AdmittedPath, part: &mut Part) {
        let path = admitted.path();
        if self.ignores.ignores(path.as_str(), false) {
            part.silent.push((path.as_str().to_owned(), Silence::GitIgnored));
            return;
        }
        let stat = match self.folder.stat(name) {
            Ok(stat) => stat,
            // Gone since it was listed.
            Err(Errno::NOENT) => return,
            Err(errno) => return part.problems.push(unreadable(path, errno)),
        };
        let problem = match EntryKind::of(&stat) {
            Some(EntryKind::Link) => self.link_problem(name, path),
            Some(EntryKind::File { .. }) => self.size_problem(stat.size),
            None => Some(ProblemKind::NotAFile(not_a_file(stat.file_type()))),
        };
        if let Some(what) = problem {
            return part.problems.push(problem_at(path, what));
        }
        let kind = EntryKind::of(&stat).expect("what is neither file nor link has a problem");
        if self.walk.options.pattern_hits {
            let named = self.walk.rules.matching(path);
            part.hits.extend(named.into_iter().filter(|pattern| !pattern.is_exclusion()));
            part.hits.sort_unstable();
            part.hits.dedup();
        }
        part.items.push(Item::Entry(Entry { path: admitted, kind, stat }));
    }

    fn size_problem(&self, size_bytes: u64) -> Option<ProblemKind> {
        let limit_bytes = self.walk.options.max_file_bytes;
        (size_bytes > limit_bytes).then_some(ProblemKind::TooLarge { size_bytes, limit_bytes })
    }

    fn link_problem(&self, name: &str, path: &RelPath) -> Option<ProblemKind> {
        let buffer = Vec::with_capacity(MAX_LINK_BYTES.min(256));
        match rustix::fs::readlinkat(self.folder.handle(), name, buffer) {
            Ok(target) => check_link_target(path, target.to_bytes()).err().map(ProblemKind::Link),
            Err(errno) => Some(ProblemKind::Unreadable { error: errno.to_string() }),
        }
    }
}
