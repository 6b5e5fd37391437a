//! Observe: compare the disk with the bases and say what changed, what is gone, and what the rules let go.
//!
//! Invariant: absence is only reported where it was looked for: a folder that could not be listed, a mount boundary, a
//! narrowed pattern or an unreadable file never makes a path "gone". Unchanged files are not opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::again::Again;
use super::{Change, Engine, Report, Result};
use crate::model::{ContentKind, RelPath};
use crate::scan::{self, Entry, EntryKind, Listing, MAX_UNNAMEABLE, Silence, Stat, WalkOptions};
use crate::state::{BaseStat, Problem, StateError};

/// Files of one run that are held against patterns which matched nothing.
const MAX_CAME: usize = 1_000;
/// Up to this many single looks confirm what is gone; beyond, the whole tree is listed again.
const FEW_LOOKS: usize = 64;
/// Stands for names beyond those that are told one by one.
const UNNAMED_BEYOND: &str = "(more)";
/// What becomes of files whose folder was replaced by a link.
const LEFT_BEHIND: &str =
    "the files that stood below it are kept as they were, here no longer looked at, and not taken as deleted";

/// What to look at.
#[derive(Clone, Debug)]
pub enum Scope {
    /// The whole tree.
    All,
    /// Some paths, and everything below some folders.
    Some {
        /// Single paths.
        paths: Vec<RelPath>,
        /// Folders.
        trees: Vec<RelPath>,
    },
}

impl Scope {
    /// True if nothing is looked at.
    pub fn is_empty(&self) -> bool {
        matches!(self, Scope::Some { paths, trees } if paths.is_empty() && trees.is_empty())
    }
}

/// How the disk differs from the bases.
#[derive(Debug, Default)]
pub struct Observation {
    /// Files whose facts differ from their base, or that have none; by path.
    pub changed: Vec<Entry>,
    /// Paths with a base that were looked for and are not there; by path.
    pub gone: Vec<Gone>,
    /// Paths with a base that today's rules do not admit, or admit to another channel; by path.
    pub released: Vec<RelPath>,
    /// Files looked at.
    pub seen: u64,
    /// What is wrong with single paths.
    pub problems: Vec<Problem>,
    /// What could not be looked at.
    pub(super) again: Again,
    /// Links where folders stood that held paths with a base.
    left_behind: BTreeSet<String>,
    /// Patterns that matched nothing; only after a whole walk.
    pub idle_patterns: Vec<String>,
}

/// A path that was looked for and is not there.
#[derive(Clone, Debug)]
pub struct Gone {
    /// Where.
    pub path: RelPath,
    /// What stood there.
    pub kind: ContentKind,
    /// As it was.
    pub stat: BaseStat,
}

impl Observation {
    /// Files that went along with a folder above them: new path to old.
    ///
    /// The very inode, its times untouched, stands elsewhere. Renaming a file by itself changes its ctime, so this is no
    /// save by an editor, and neither a second look nor a second reading can tell more.
    pub(super) fn moved_with_folder(&self) -> BTreeMap<RelPath, RelPath> {
        if self.gone.is_empty() {
            return BTreeMap::new();
        }
        let by_inode: HashMap<(u64, u64), &Gone> =
            self.gone.iter().map(|gone| ((gone.stat.device, gone.stat.inode), gone)).collect();
        let mut moved = BTreeMap::new();
        for entry in &self.changed {
            let stat = base_stat(&entry.stat);
            let same = by_inode.get(&(stat.device, stat.inode));
            if let Some(gone) = same.filter(|gone| gone.stat == stat && gone.kind == kind_of(entry.kind)) {
                moved.insert(entry.path.path().clone(), gone.path.clone());
            }
        }
        moved
    }

    /// What stood below a link is not followed, and not taken as deleted: whoever put it there is told.
    fn tell_left_behind(&mut self) {
        for link in std::mem::take(&mut self.left_behind) {
            let path = larder_patterns::shown(&link);
            match self.problems.iter_mut().find(|problem| problem.path == path) {
                Some(problem) => problem.what = format!("{}; {LEFT_BEHIND}", problem.what),
                None => self.problems.push(Problem { path, what: format!("it is a link now; {LEFT_BEHIND}") }),
            }
        }
    }
}

/// The link that keeps a path from being looked at.
fn link_above(listing: &Listing, path: &RelPath) -> Option<String> {
    let is_link = |place: &&str| listing.linked_dirs.binary_search_by(|dir| dir.as_str().cmp(place)).is_ok();
    let above = path.as_str().match_indices('/').map(|(at, _)| &path.as_str()[..at]);
    above.chain([path.as_str()]).find(is_link).map(str::to_owned)
}

/// The kind as a version holds it.
pub(super) fn kind_of(kind: EntryKind) -> ContentKind {
    match kind {
        EntryKind::File { exec } => ContentKind::File { exec },
        EntryKind::Link => ContentKind::Link,
    }
}

/// The facts as a base holds them.
pub(super) fn base_stat(stat: &Stat) -> BaseStat {
    BaseStat {
        size: stat.size,
        mtime_ns: stat.mtime_ns,
        ctime_ns: stat.ctime_ns,
        inode: stat.inode,
        device: stat.device,
    }
}

impl Engine {
    /// Looks at the disk.
    pub fn observe(&self, scope: &Scope) -> Result<Observation> {
        let mut observation = Observation::default();
        match scope {
            Scope::All => self.observe_tree(None, &mut observation)?,
            Scope::Some { paths, trees } => {
                for tree in trees {
                    self.observe_tree(Some(tree), &mut observation)?;
                }
                for path in paths.iter().filter(|path| !trees.iter().any(|tree| is_below(path, tree))) {
                    self.observe_path(path, &mut observation)?;
                }
            }
        }
        observation.changed.sort_by(|a, b| a.path.path().cmp(b.path.path()));
        observation.changed.dedup_by(|a, b| a.path.path() == b.path.path());
        observation.gone.sort_by(|a, b| a.path.cmp(&b.path));
        observation.gone.dedup_by(|a, b| a.path == b.path);
        observation.tell_left_behind();
        Ok(observation)
    }

    fn observe_tree(&self, below: Option<&RelPath>, observation: &mut Observation) -> Result<()> {
        let options = WalkOptions {
            respect_gitignore: self.policy.respect_gitignore,
            max_file_bytes: self.policy.max_file_bytes,
            below: below.cloned(),
            threads: 2,
            pattern_hits: below.is_none() && self.wants_pattern_hits()?,
        };
        let mut listing = scan::walk(&self.root, &self.policy.rules, &options)?;
        observation.problems.extend(problems_of(&listing));
        observation.again.unlisted(&listing);
        let entries = std::mem::take(&mut listing.entries);
        self.compare(entries, &listing, below, observation)?;
        if options.pattern_hits {
            observation.idle_patterns = self.idle_patterns(&listing);
        }
        Ok(())
    }

    /// Pattern hits cost a second match of each path, so they are counted until every pattern of the rules has matched.
    fn wants_pattern_hits(&self) -> Result<bool> {
        let new_rules = self.state.meta_text("contact_rules")?.as_deref() != Some(&self.policy.fingerprint);
        // A pattern that matched nothing may match by now: what arrived since counts.
        Ok(new_rules || self.state.problems()?.iter().any(|(source, _)| source == "patterns"))
    }

    fn idle_patterns(&self, listing: &Listing) -> Vec<String> {
        let hit = |pattern: &larder_patterns::PatternRef| listing.pattern_hits.contains(pattern);
        let idle = self.policy.rules.positive_patterns().filter(|pattern| !hit(pattern));
        idle.map(|pattern| pattern.text.to_string()).collect()
    }

    /// Files that came in a run, or would have come but for a full disk or something in their way, may be what a pattern waited for.
    pub fn forget_idle_patterns(&self, report: &Report) -> Result<()> {
        let came = report.recorded.iter().chain(&report.written).filter(|(_, change)| *change != Change::Deleted);
        let held_up = report.waiting.iter().map(|(path, _)| path);
        let names = came.map(|(path, _)| path).chain(held_up).take(MAX_CAME);
        let paths: Vec<RelPath> = names.filter_map(|path| RelPath::parse(path).ok()).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let idle = self.state.problems()?.into_iter().filter(|(source, _)| source == "patterns");
        let mut idle: Vec<Problem> = idle.map(|(_, problem)| problem).collect();
        for path in paths {
            if idle.is_empty() {
                break;
            }
            let matching = self.policy.rules.matching(&path);
            idle.retain(|problem| matching.iter().all(|pattern| *pattern.text != *problem.path));
        }
        Ok(self.state.set_problems("patterns", &idle, self.now_ms() as i64)?)
    }

    /// Walks bases and entries side by side; both are in byte order of their paths. `listing` is what else the walk found.
    fn compare(
        &self,
        entries: Vec<Entry>,
        listing: &Listing,
        below: Option<&RelPath>,
        observation: &mut Observation,
    ) -> Result<()> {
        observation.seen += entries.len() as u64;
        let mut entries = entries.into_iter();
        let mut next_if = |fits: &dyn Fn(&str) -> bool| {
            let next = entries.as_slice().first().is_some_and(|entry| fits(entry.path.path().as_str()));
            if next { entries.next() } else { None }
        };
        let mut missing: Vec<(String, ContentKind, BaseStat)> = Vec::new();
        self.state.for_each_stat(below, |path, channel, kind, base| -> Result<()> {
            while let Some(entry) = next_if(&|entry| entry < path) {
                observation.changed.push(entry);
            }
            match next_if(&|entry| entry == path) {
                None => missing.push((path.to_owned(), kind, *base)),
                Some(entry) if entry.path.channel() != channel => {
                    observation.released.push(entry.path.path().clone());
                    observation.changed.push(entry);
                }
                Some(entry) if base_stat(&entry.stat) != *base || kind_of(entry.kind) != kind => {
                    observation.changed.push(entry);
                }
                Some(_) => {}
            }
            Ok(())
        })?;
        if observation.changed.is_empty() {
            // A first look at a large tree holds its list once, not twice.
            observation.changed = entries.collect();
        } else {
            observation.changed.extend(entries);
        }
        let mut ignored = self.policy.respect_gitignore.then(|| scan::Ignored::new(&self.root));
        for (path, kind, stat) in missing {
            let path = RelPath::parse(&path).map_err(|_| StateError::Form { what: "a path" })?;
            if self.policy.rules.admit(&path).is_err() {
                observation.released.push(path);
                continue;
            }
            match listing.silence(&path) {
                // Who would not see it there does not see that it is gone.
                None if ignored.as_mut().is_some_and(|ignored| ignored.names(&path)) => {}
                None => observation.gone.push(Gone { path, kind, stat }),
                Some(Silence::Linked) => observation.left_behind.extend(link_above(listing, &path)),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn observe_path(&self, path: &RelPath, observation: &mut Observation) -> Result<()> {
        let Ok(admitted) = self.policy.rules.admit(path) else { return Ok(()) };
        if self.state.has_bases_below(path)? {
            // A folder that stood there: a watcher that never saw it cannot tell it from a file.
            self.observe_tree(Some(path), observation)?;
        }
        let options = WalkOptions {
            respect_gitignore: self.policy.respect_gitignore,
            max_file_bytes: self.policy.max_file_bytes,
            below: Some(admitted.path().clone()),
            threads: 1,
            pattern_hits: false,
        };
        let listing = scan::walk(&self.root, &self.policy.rules, &options)?;
        observation.problems.extend(problems_of(&listing));
        observation.again.unlisted(&listing);
        observation.seen += listing.entries.len() as u64;
        let base = self.state.base(path)?;
        match (listing.find(path.as_str()), &base) {
            (Some(entry), Some(base)) if base.channel != entry.path.channel() => {
                observation.released.push(path.clone());
                observation.changed.push(entry.clone());
            }
            (Some(entry), Some(base)) if base_stat(&entry.stat) == base.stat && kind_of(entry.kind) == base.kind => {}
            (Some(entry), _) => observation.changed.push(entry.clone()),
            (None, Some(base)) if listing.silence(path).is_none() && !self.is_ignored(path) => {
                observation.gone.push(Gone { path: path.clone(), kind: base.kind, stat: base.stat });
            }
            (None, _) => {}
        }
        // What is a folder now may hold more than the one path that was named.
        let more = listing.entries.iter().filter(|entry| entry.path.path() != path);
        for entry in more {
            let base = self.state.base(entry.path.path())?;
            if base.is_none_or(|base| base_stat(&entry.stat) != base.stat) {
                observation.changed.push(entry.clone());
            }
        }
        Ok(())
    }

    /// Looks a second time at paths that seemed gone, a quiet time later; keeps those that still are.
    pub(super) fn confirm_gone(&self, gone: &[&RelPath]) -> Result<BTreeSet<RelPath>> {
        if gone.is_empty() {
            return Ok(BTreeSet::new());
        }
        (self.env.pause)(super::QUIET_MS);
        self.root.check_present()?;
        let mut again = Observation::default();
        let (folders, files) = self.tops_of_gone(gone);
        if folders.len() + files.len() > FEW_LOOKS {
            self.observe_tree(None, &mut again)?;
        } else {
            for folder in &folders {
                self.observe_tree(Some(folder), &mut again)?;
            }
            for path in files {
                self.observe_path(path, &mut again)?;
            }
        }
        let still: BTreeSet<RelPath> = again.gone.into_iter().map(|gone| gone.path).collect();
        Ok(gone.iter().filter(|path| still.contains(**path)).map(|path| (*path).clone()).collect())
    }

    /// The outermost folders that are gone, and the gone paths whose folder still stands.
    fn tops_of_gone<'g>(&self, gone: &[&'g RelPath]) -> (BTreeSet<RelPath>, Vec<&'g RelPath>) {
        let (mut folders, mut files) = (BTreeSet::new(), Vec::new());
        let mut standing: HashMap<RelPath, bool> = HashMap::new();
        for path in gone {
            let mut above = path.ancestors();
            let missing = above.find(|folder| {
                let stands = standing.entry(folder.clone());
                // What cannot be looked at is looked at again, whole, and speaks for itself.
                !*stands.or_insert_with(|| !matches!(scan::stat(&self.root, folder), Ok(None)))
            });
            match missing {
                Some(folder) => drop(folders.insert(folder)),
                None => files.push(*path),
            }
        }
        (folders, files)
    }

    /// Saves what is wrong with single paths: a whole walk replaces the list, a smaller one what the list says of where it looked.
    pub(super) fn save_problems(&self, scope: &Scope, observation: &Observation, report: &mut Report) -> Result<()> {
        let listed = observation.problems.iter().map(|problem| (problem.path.clone(), problem.what.clone()));
        report.problems.extend(listed);
        let now = self.now_ms() as i64;
        let Scope::Some { paths, trees } = scope else {
            self.state.set_problems("scan", &observation.problems, now)?;
            if self.wants_pattern_hits()? {
                let idle = |pattern: &String| Problem {
                    path: pattern.clone(),
                    what: "this pattern matches nothing".to_owned(),
                };
                let idle: Vec<Problem> = observation.idle_patterns.iter().map(idle).collect();
                self.state.set_problems("patterns", &idle, now)?;
            }
            return Ok(());
        };
        let told = self.state.problems()?.into_iter().filter(|(source, _)| source == "scan");
        let mut told: Vec<Problem> = told.map(|(_, problem)| problem).collect();
        if told.is_empty() && observation.problems.is_empty() {
            return Ok(());
        }
        let looked_at: BTreeSet<String> = paths.iter().chain(trees).map(RelPath::shown).collect();
        let found: BTreeSet<&str> = observation.problems.iter().map(|problem| problem.path.as_str()).collect();
        told.retain(|problem| !found.contains(&*problem.path) && !is_at_or_below(&problem.path, &looked_at));
        // How many names are no paths is known of the whole tree only.
        let new = observation.problems.iter().filter(|problem| problem.path != UNNAMED_BEYOND);
        let room = MAX_UNNAMEABLE.saturating_sub(told.len());
        told.extend(new.take(room).cloned());
        Ok(self.state.set_problems("scan", &told, now)?)
    }
}

/// True if one of the places is the path, or a folder above it; all as they are shown.
fn is_at_or_below(path: &str, places: &BTreeSet<String>) -> bool {
    let mut above = path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]);
    above.any(|place| places.contains(place))
}

fn is_below(path: &RelPath, tree: &RelPath) -> bool {
    let rest = path.as_str().strip_prefix(tree.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn problems_of(listing: &Listing) -> Vec<Problem> {
    let named =
        listing.problems.iter().map(|problem| Problem { path: problem.shown.clone(), what: problem.what.to_string() });
    let silent = |dirs: &[String], what: &str| -> Vec<Problem> {
        dirs.iter().map(|dir| Problem { path: larder_patterns::shown(dir), what: what.to_owned() }).collect()
    };
    let mut problems: Vec<Problem> = named.collect();
    problems
        .extend(silent(&listing.unreadable_dirs, "this folder cannot be listed; nothing below it is taken as deleted"));
    problems.extend(silent(&listing.other_device_dirs, "this folder is on another file system and is left out"));
    // A link that is kept as one, or is named above already, is told of once.
    let is_told = |dir: &String| {
        listing.find(dir).is_some()
            || listing.problems.iter().any(|problem| problem.shown == larder_patterns::shown(dir))
    };
    let untold: Vec<String> = listing.linked_dirs.iter().filter(|dir| !is_told(dir)).cloned().collect();
    problems.extend(silent(&untold, "this folder is a link and is not followed"));
    if listing.unnameable_beyond > 0 {
        let what = format!("{} more names are no paths of a project", listing.unnameable_beyond);
        problems.push(Problem { path: UNNAMED_BEYOND.to_owned(), what });
    }
    problems
}
