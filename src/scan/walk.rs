//! Lists the admitted part of the tree below the root.
//!
//! Each folder is one task: opened relative to its parent, listed, its admitted names stated, its folders queued. The queue is a
//! stack, so the handles held open are those along the current paths only. Entries come out sorted without a sort: each
//! folder's names are in path order, and the parts are put together as the tree is.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use larder_patterns::{RelPath, Rules, Within};
use rustix::io::Errno;

use super::error::ScanError;
use super::folder::{Folder, NameKind, Names};
use super::gitignore::{GITIGNORE, IgnoreStack};
use super::listing::{Listing, Silence};
use super::part::{Gathered, Item, Part, add_problems, add_silent, part_of_closed, part_of_silence, unreadable};
use super::root::Root;
use super::scene::Scene;

/// More threads than this only wait for each other.
const MAX_THREADS: usize = 16;

/// How to walk.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// Leave out what `.gitignore` files name.
    pub respect_gitignore: bool,
    /// Leave out larger files, with a [`Problem`].
    pub max_file_bytes: u64,
    /// Walk this file or folder only.
    pub below: Option<RelPath>,
    /// How many threads; 1 is right for a warm cache.
    pub threads: usize,
    /// Tell which patterns named something; costs a second match of each entry.
    pub pattern_hits: bool,
}

impl Default for WalkOptions {
    /// All of the tree, files up to 1 GiB, one thread.
    fn default() -> WalkOptions {
        WalkOptions { respect_gitignore: false, max_file_bytes: 1 << 30, below: None, threads: 1, pattern_hits: false }
    }
}

/// Lists what the rules admit, sorted by path.
///
/// Changes while it walks may or may not be seen. One bad name never stops the others: it is a [`Problem`]. A folder that
/// cannot be listed is named, as its absence says nothing.
/// Errors: [`ScanError::RootGone`] and [`ScanError::ListRoot`], after which nothing is known.
pub fn walk(root: &Root, rules: &Rules, options: &WalkOptions) -> Result<Listing, ScanError> {
    root.check_present()?;
    let walk = Walk::new(root, rules, options);
    match &options.below {
        None => walk.begin_at_root()?,
        Some(path) => walk.begin_below(path)?,
    }
    walk.run();
    let listing = walk.finish();
    // A root that was swapped or unmounted during the walk makes every absence worthless.
    root.check_present()?;
    Ok(listing)
}

/// A folder to list.
pub(super) struct Task<'w> {
    pub(super) slot: usize,
    pub(super) ignores: IgnoreStack,
    pub(super) source: Source<'w>,
}

pub(super) enum Source<'w> {
    Root(Folder),
    /// Opened, and its rules found, when its turn comes: the folders that wait are many, those above them few.
    In {
        parent: Arc<Folder>,
        above: Arc<Within<'w>>,
        path: RelPath,
    },
}

pub(super) struct Walk<'w> {
    root: &'w Root,
    pub(super) rules: &'w Rules,
    pub(super) options: &'w WalkOptions,
    queue: Mutex<Queue<'w>>,
    changed: Condvar,
    parts: Mutex<Parts>,
    pub(super) next_slot: AtomicUsize,
}

#[derive(Default)]
struct Queue<'w> {
    tasks: Vec<Task<'w>>,
    busy: usize,
    waiting: usize,
}

/// What the folders brought.
#[derive(Default)]
struct Parts {
    gathered: Gathered,
    listing: Listing,
}

const TOP: usize = 0;

impl<'w> Walk<'w> {
    fn new(root: &'w Root, rules: &'w Rules, options: &'w WalkOptions) -> Walk<'w> {
        Walk {
            root,
            rules,
            options,
            queue: Mutex::default(),
            changed: Condvar::new(),
            parts: Mutex::default(),
            next_slot: AtomicUsize::new(TOP + 1),
        }
    }

    fn begin_at_root(&self) -> Result<(), ScanError> {
        let folder = self.open_root()?;
        self.enqueue(vec![Task { slot: TOP, ignores: self.repository_ignores(), source: Source::Root(folder) }]);
        Ok(())
    }

    /// Goes down to `path` as a whole walk would: asking rules and `.gitignore` files at each step.
    fn begin_below(&self, path: &RelPath) -> Result<(), ScanError> {
        let mut folder = self.open_root()?;
        let mut above: Option<RelPath> = None;
        let mut ignores = self.repository_ignores();
        for next in path.ancestors() {
            ignores = self.ignores_in(&ignores, above.as_ref(), &folder);
            if !self.enters(&next, &ignores) {
                return Ok(());
            }
            folder = match folder.open_in(self.root, next.file_name()) {
                Ok(folder) => folder,
                Err(error) => {
                    self.keep(TOP, part_of_closed(&next, error));
                    return Ok(());
                }
            };
            above = Some(next);
        }
        ignores = self.ignores_in(&ignores, above.as_ref(), &folder);
        self.begin_with_name(path, Arc::new(folder), ignores);
        Ok(())
    }

    fn begin_with_name(&self, path: &RelPath, folder: Arc<Folder>, ignores: IgnoreStack) {
        let mut part = Part::default();
        let name = path.file_name();
        match folder.stat(name) {
            Ok(stat) => {
                let kind = NameKind::of(stat.file_type());
                let mut tasks = Vec::new();
                let above = path.ancestors().last();
                let scene = Scene {
                    walk: self,
                    within: &Arc::new(self.rules.within(above.as_ref())),
                    folder: &folder,
                    ignores: &ignores,
                };
                scene.take(name, kind, &mut part, &mut tasks).expect("the name of a path is a name");
                self.enqueue(tasks);
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => part.problems.push(unreadable(path, errno)),
        }
        self.keep(TOP, part);
    }

    fn open_root(&self) -> Result<Folder, ScanError> {
        Folder::open_root(self.root)
            .map_err(|errno| ScanError::ListRoot { path: self.root.path().to_owned(), source: errno.into() })
    }

    fn repository_ignores(&self) -> IgnoreStack {
        if self.options.respect_gitignore { IgnoreStack::of_repository(self.root) } else { IgnoreStack::default() }
    }

    fn ignores_in(&self, above: &IgnoreStack, path: Option<&RelPath>, folder: &Folder) -> IgnoreStack {
        if self.options.respect_gitignore { above.entering(path, folder) } else { above.clone() }
    }

    /// Tells whether to look into a folder, and remembers why not.
    fn enters(&self, path: &RelPath, ignores: &IgnoreStack) -> bool {
        if !self.rules.may_contain(path) {
            return false;
        }
        if ignores.ignores(path.as_str(), true) {
            self.keep(TOP, part_of_silence(path, Silence::GitIgnored));
            return false;
        }
        true
    }

    fn run(&self) {
        let threads = self.options.threads.clamp(1, MAX_THREADS);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| self.work());
            }
            self.work();
        });
    }

    fn work(&self) {
        let (mut tasks, mut items, mut names) = (Vec::new(), Vec::new(), Names::default());
        while let Some(task) = self.next_task() {
            let slot = task.slot;
            let part = self.list(task, items, &mut names, &mut tasks);
            items = self.keep(slot, part);
            let mut queue = lock(&self.queue);
            queue.busy -= 1;
            // Last first: the stack then goes down the first folder, as a plain recursion would.
            queue.tasks.extend(tasks.drain(..).rev());
            let is_awaited = queue.waiting > 0;
            drop(queue);
            // Most folders hold none, and waking nobody is a call to the system all the same.
            if is_awaited {
                self.changed.notify_all();
            }
        }
    }

    fn next_task(&self) -> Option<Task<'w>> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(task) = queue.tasks.pop() {
                queue.busy += 1;
                return Some(task);
            }
            if queue.busy == 0 {
                return None;
            }
            queue.waiting += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.waiting -= 1;
        }
    }

    fn enqueue(&self, tasks: Vec<Task<'w>>) {
        lock(&self.queue).tasks.extend(tasks);
    }

    /// Returns the part's list, empty, to be used again.
    fn keep(&self, slot: usize, mut part: Part) -> Vec<Item> {
        let mut parts = lock(&self.parts);
        let Parts { gathered, listing } = &mut *parts;
        gathered.add(slot, &mut part.items);
        listing.dirs_seen += u64::from(part.listed);
        add_problems(listing, part.problems);
        add_silent(listing, part.silent);
        for hit in part.hits {
            if !listing.pattern_hits.contains(&hit) {
                listing.pattern_hits.push(hit);
            }
        }
        part.items
    }

    /// Lists one folder; `items` is empty.
    fn list(&self, task: Task<'w>, items: Vec<Item>, names: &mut Names, tasks: &mut Vec<Task<'w>>) -> Part {
        let (folder, within) = match task.source {
            Source::Root(folder) => (folder, self.rules.within(None)),
            Source::In { parent, above, path } => match parent.open_in(self.root, path.file_name()) {
                Ok(folder) => (folder, within_at(&above, path.file_name())),
                Err(error) => return part_of_closed(&path, error),
            },
        };
        let path = within.folder();
        let cut = folder.names(names);
        let mut part = Part { items, listed: true, ..Part::default() };
        if cut.is_some() {
            let place = path.map_or(String::new(), |path| path.as_str().to_owned());
            part.silent.push((place, Silence::Unreadable));
        }
        let ignores = if self.options.respect_gitignore && names.has_file(GITIGNORE) {
            task.ignores.entering(path, &folder)
        } else {
            task.ignores
        };
        let scene = Scene { walk: self, within: &Arc::new(within), folder: &Arc::new(folder), ignores: &ignores };
        scene.take_all(names, &mut part, tasks);
        part
    }

    fn finish(self) -> Listing {
        let parts = self.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let entries = parts.gathered.into_entries(TOP);
        let mut listing = Listing { below: self.options.below.clone(), entries, ..parts.listing };
        debug_assert!(
            listing.entries.is_sorted_by(|one, other| one.path.path() < other.path.path()),
            "the parts are in path order"
        );
        listing.pattern_hits.sort_unstable();
        listing.sort();
        listing
    }
}

fn within_at<'w>(above: &Within<'w>, name: &str) -> Within<'w> {
    above.enter(name).expect("its path was made when it was queued")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
