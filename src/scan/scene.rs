//! Judges the names of one folder: what is admitted becomes an entry or a problem, folders become tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_patterns::RelPath;
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
    pub(super) folder: &'s Arc<Folder>,
    pub(super) ignores: &'s IgnoreStack,
}

impl Scene<'_, '_> {
    pub(super) fn take_all(
        &self,
        folder: Option<&RelPath>,
        names: &Names,
        part: &mut Part,
        tasks: &mut Vec<Task>,
    ) {
        let mut text = folder.map_or(String::new(), |folder| format!("{folder}/"));
        let prefix_bytes = text.len();
        for (name, kind) in names.iter() {
            text.truncate(prefix_bytes);
            let Ok(name) = std::str::from_utf8(name) else {
                part.problems
                    .push(unnameable(&text, name, ProblemKind::NotUtf8));
                continue;
            };
            text.push_str(name);
            match RelPath::parse(&text) {
                Ok(path) => self.take(name, path, kind, part, tasks),
                Err(error) => {
                    let problem = unnameable(
                        &text[..prefix_bytes],
                        name.as_bytes(),
                        ProblemKind::Name(error),
                    );
                    part.problems.push(problem);
                }
            }
        }
    }

    pub(super) fn take(
        &self,
        name: &str,
        path: RelPath,
        kind: NameKind,
        part: &mut Part,
        tasks: &mut Vec<Task>,
    ) {
        if kind == NameKind::Folder {
            self.take_folder(path, part, tasks);
        } else {
            self.take_name(name, path, kind, part);
        }
    }

    fn take_folder(&self, path: RelPath, part: &mut Part, tasks: &mut Vec<Task>) {
        if !self.walk.rules.may_contain(&path) {
            return;
        }
        if self.ignores.ignores(path.as_str(), true) {
            part.silent
                .push((path.as_str().to_owned(), Silence::GitIgnored));
            return;
        }
        let slot = self.walk.next_slot.fetch_add(1, Ordering::Relaxed);
        part.items.push(Item::Folder(slot));
        tasks.push(Task {
            slot,
            path: Some(path),
            ignores: self.ignores.clone(),
            source: Source::In(Arc::clone(self.folder)),
        });
    }

    fn take_name(&self, name: &str, path: RelPath, kind: NameKind, part: &mut Part) {
        if kind == NameKind::Link && self.walk.rules.may_contain(&path) {
            part.silent
                .push((path.as_str().to_owned(), Silence::Linked));
        }
        let Ok(admitted) = self.walk.rules.admit(&path) else {
            return;
        };
        if self.ignores.ignores(path.as_str(), false) {
            part.silent
                .push((path.as_str().to_owned(), Silence::GitIgnored));
            return;
        }
        let stat = match self.folder.stat(name) {
            Ok(stat) => stat,
            // Gone since it was listed.
            Err(Errno::NOENT) => return,
            Err(errno) => return part.problems.push(unreadable(&path, errno)),
        };
        let problem = match EntryKind::of(&stat) {
            Some(EntryKind::Link) => self.link_problem(name, &path),
            Some(EntryKind::File { .. }) => self.size_problem(stat.size),
            None => Some(ProblemKind::NotAFile(not_a_file(stat.file_type()))),
        };
        if let Some(what) = problem {
            return part.problems.push(problem_at(&path, what));
        }
        let kind = EntryKind::of(&stat).expect("what is neither file nor link has a problem");
        if self.walk.options.pattern_hits {
            let named = self.walk.rules.matching(&path);
            part.hits
                .extend(named.into_iter().filter(|pattern| !pattern.is_exclusion()));
            part.hits.sort_unstable();
            part.hits.dedup();
        }
        part.items.push(Item::Entry(Entry {
            path: admitted,
            kind,
            stat,
        }));
    }

    fn size_problem(&self, size_bytes: u64) -> Option<ProblemKind> {
        let limit_bytes = self.walk.options.max_file_bytes;
        (size_bytes > limit_bytes).then_some(ProblemKind::TooLarge {
            size_bytes,
            limit_bytes,
        })
    }

    fn link_problem(&self, name: &str, path: &RelPath) -> Option<ProblemKind> {
        let buffer = Vec::with_capacity(MAX_LINK_BYTES.min(256));
        match rustix::fs::readlinkat(self.folder.handle(), name, buffer) {
            Ok(target) => check_link_target(path, target.to_bytes())
                .err()
                .map(ProblemKind::Link),
            Err(errno) => Some(ProblemKind::Unreadable {
                error: errno.to_string(),
            }),
        }
    }
}
