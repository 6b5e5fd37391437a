//! The thread that places watches and makes hints of notes.
//!
//! Invariant: a hint is given after the watches it calls for are placed, so a look that follows it misses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_patterns::{RelPath, Rules};

use super::backend::{Backend, Handler, MakeBackend};
use super::event::Marks;
use super::hint::{Hint, RescanReason};
use super::mode::{Mode, PollReason, network_file_system};
use super::shared::{Inbox, Shared, lock};
use super::tree::{Interest, Tree, place};
use crate::scan::{Node, node};

/// Most watches that are ended one by one; each costs the library a look at all the others.
const MAX_SINGLE_UNWATCHES: usize = 200;

/// So many watches are to be ended that placing all afresh is cheaper.
struct TooMany;

/// Places watches and makes hints.
pub(super) struct Worker {
    shared: Arc<Shared>,
    make: MakeBackend,
    backend: Option<Box<dyn Backend>>,
    /// Whether the backend of now is listened to: the thread of one that was dropped speaks on for a moment.
    heard: Arc<AtomicBool>,
    tree: Tree,
    overflows: u64,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, make: MakeBackend) -> Worker {
        Worker { shared, make, backend: None, heard: Arc::default(), tree: Tree::default(), overflows: 0 }
    }

    pub(super) fn run(mut self) {
        loop {
            let batch = self.shared.next_batch();
            if batch.stop {
                return;
            }
            let hints = self.handle(batch);
            self.publish_mode();
            self.shared.hint(hints);
        }
    }

    fn handle(&mut self, batch: Inbox) -> Vec<Hint> {
        let mut hints = Vec::new();
        if batch.root_gone || self.shared.root.check_present().is_err() {
            hints.push(Hint::RootGone);
        }
        let rescan = |reason| Hint::Rescan { reason };
        if batch.overflow {
            self.overflows += 1;
            self.rebuild();
            hints.push(rescan(RescanReason::Overflow));
        } else if batch.renew {
            self.renew();
            hints.extend(batch.rescan.is_none().then_some(rescan(RescanReason::RulesChanged)));
        }
        hints.extend(batch.rescan.map(rescan));
        if batch.tick {
            self.look_at_polled(&mut hints);
        }
        let rules = self.shared.rules();
        for (path, marks) in batch.notes {
            hints.extend(self.handle_note(&rules, path, marks));
        }
        hints
    }

    fn handle_note(&mut self, rules: &Rules, path: RelPath, marks: Marks) -> Option<Hint> {
        let was_known = match marks.vanished.then(|| self.forget(&path)) {
            Some(Err(TooMany)) => {
                self.rebuild();
                let reason = RescanReason::LargeTreeMoved;
                return Some(Hint::Rescan { reason });
            }
            Some(Ok(was_known)) => was_known,
            None => false,
        };
        // Word that a folder went can come after the one that was made in its place was found: its watch is gone now as well.
        let may_be_new = marks.appeared || marks.vanished || self.tree.is_unreadable(&path);
        if may_be_new && self.is_folder_of_interest(rules, &path) {
            self.watch_tree(path.clone());
            return Some(Hint::DirtyTree(path));
        }
        if was_known {
            return Some(Hint::DirtyTree(path));
        }
        if self.shared.is_admitted(rules, &path) {
            return Some(Hint::Dirty(path));
        }
        // A folder that went before it was watched.
        (marks.vanished && rules.may_contain(&path)).then_some(Hint::DirtyTree(path))
    }

    /// Ends the watches of a folder that went; tells whether it was known.
    fn forget(&mut self, path: &RelPath) -> Result<bool, TooMany> {
        let forgotten = self.tree.forget(path);
        if forgotten.watched.len() > MAX_SINGLE_UNWATCHES {
            return Err(TooMany);
        }
        if let Some(backend) = &mut self.backend {
            for path in &forgotten.watched {
                backend.unwatch(&place(&self.shared.root, Some(path)));
            }
        }
        Ok(forgotten.was_known)
    }

    fn is_folder_of_interest(&self, rules: &Rules, path: &RelPath) -> bool {
        let is_of_interest = self.shared.also_folders.contains(path) || rules.may_contain(path);
        is_of_interest && matches!(node(&self.shared.root, path), Ok(Some(Node::Folder)))
    }

    fn watch_tree(&mut self, top: RelPath) {
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        if let Some(backend) = &mut self.backend {
            self.tree.add(backend.as_mut(), &interest(&shared, &rules), Some(top));
        }
    }

    fn renew(&mut self) {
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        match &mut self.backend {
            Some(backend) => self.tree.renew(backend.as_mut(), &interest(&shared, &rules)),
            None => self.rebuild(),
        }
        self.poll_network_root();
    }

    /// Begins with a fresh set of watches.
    ///
    /// After an overflow nothing is known of the old ones: the library may believe in a watch whose folder was removed and
    /// made again, and would not place it anew.
    pub(super) fn rebuild(&mut self) {
        self.heard.store(false, Ordering::Release);
        self.heard = Arc::new(AtomicBool::new(true));
        self.backend = None;
        self.tree = Tree::default();
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        let (heard_by, heard) = (Arc::clone(&self.shared), Arc::clone(&self.heard));
        let handler: Handler = Box::new(move |event| {
            if heard.load(Ordering::Acquire) {
                heard_by.hear(event);
            }
        });
        match (self.make)(handler) {
            Ok(mut backend) => {
                self.tree.add(backend.as_mut(), &interest(&shared, &rules), None);
                self.backend = Some(backend);
            }
            Err(reason) => self.tree.poll(None, reason),
        }
        self.poll_network_root();
    }

    fn poll_network_root(&mut self) {
        let found = rustix::fs::fstatfs(self.shared.root.handle());
        if let Some(name) = found.ok().and_then(|found| network_file_system(found.f_type)) {
            self.tree.poll(None, PollReason::NetworkFileSystem { name });
        }
    }

    fn look_at_polled(&mut self, hints: &mut Vec<Hint>) {
        if !self.tree.is_polling() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let rules = shared.rules();
        let trees: Option<Vec<RelPath>> = match &mut self.backend {
            Some(backend) => self.tree.retry(backend.as_mut(), &interest(&shared, &rules)),
            None => {
                self.rebuild();
                None
            }
        };
        self.poll_network_root();
        match trees {
            Some(trees) => hints.extend(trees.into_iter().map(Hint::DirtyTree)),
            None => hints.push(Hint::Rescan { reason: RescanReason::Polling }),
        }
    }

    pub(super) fn publish_mode(&self) -> Mode {
        let mut mode = lock(&self.shared.mode);
        self.tree.describe(&mut mode);
        mode.overflows = self.overflows;
        let mode = mode.clone();
        let wanted = self.tree.is_polling();
        let mut polling = lock(&self.shared.polling);
        if polling.wanted != wanted {
            polling.wanted = wanted;
            self.shared.polling_changed.notify_all();
        }
        mode
    }
}

fn interest<'i>(shared: &'i Shared, rules: &'i Rules) -> Interest<'i> {
    Interest {
        root: &shared.root,
        rules,
        respect_gitignore: shared.options.respect_gitignore,
        also_folders: &shared.also_folders,
    }
}
