//! Lists folders ahead of whoever walks a tree, on another thread, while the kernel is busy with what was listed just now.
//!
//! Whoever lists a folder and then one directly in it will list the others, the nearest first. Invariant: what was listed ahead is what
//! would be listed now, but for changes that the kernel has not been told of either (see `Catalog::turn`); one folder alone has nothing listed
//! ahead; at most a few folders wait to be asked for, and all that is kept is a few thousand lines. At rest nothing runs.
//! That a listing ends here is remembered too: the kernel asks once more behind the last line of every folder.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::catalog::{Catalog, Tree};
use super::listing::Entry;
use super::node::{NodeId, Place};
use super::view::{NodeKind, View, ViewError};
use crate::env::run_anywhere;

/// Folders listed ahead that nobody has asked for yet; below half of it the thread goes on.
const AHEAD: usize = 32;
/// Lines of them; some 200 bytes each.
const AHEAD_LINES: usize = 4096;
/// A longer folder is listed by who asks for it.
const MAX_LINES: usize = 1024;
/// Folders of which anything is kept ..
const KEPT: usize = 128;
/// .. and lines of all of them.
const KEPT_LINES: usize = 2 * AHEAD_LINES;
/// Folders known to come later.
const MAX_TO_COME: usize = 4096;

/// What is known of one folder.
struct Listed {
    turn: u64,
    /// All its lines, or none.
    lines: Arc<Vec<Entry>>,
    /// Behind this offset there is nothing.
    end: u64,
    is_asked: bool,
}

/// Who walks where, and what is ready for them. Pure.
#[derive(Default)]
struct Course {
    /// Folders to come, the next one last.
    to_come: Vec<NodeId>,
    /// Somebody went on from a folder to one in it.
    is_walk: bool,
    /// What the thread lists now, and whether somebody has asked for that meanwhile.
    current: Option<(NodeId, bool)>,
    kept: HashMap<NodeId, Listed>,
    /// The keys of `kept`, the oldest first.
    order: VecDeque<NodeId>,
    is_over: bool,
}

impl Course {
    /// The lines of a folder from `offset` on, if they are known.
    fn lines(&mut self, node: NodeId, offset: u64, turn: u64) -> Option<(Arc<Vec<Entry>>, usize)> {
        let listed = self.kept.get_mut(&node).filter(|listed| listed.turn == turn)?;
        listed.is_asked = true;
        let from = match offset {
            // Whoever is told of the end has all lines.
            _ if offset == listed.end => {
                listed.lines = Arc::default();
                0
            }
            0 if !listed.lines.is_empty() => 0,
            _ => listed.lines.iter().position(|line| line.offset == offset)? + 1,
        };
        Some((Arc::clone(&listed.lines), from))
    }

    /// Notes that somebody lists a folder from its beginning, with the folders in it.
    fn ask(&mut self, node: NodeId, folders: &[NodeId]) {
        if let Some((current, is_asked)) = &mut self.current
            && *current == node
        {
            *is_asked = true;
            self.is_walk = true;
            return;
        }
        match self.to_come.iter().rposition(|known| *known == node) {
            Some(at) => {
                self.to_come.remove(at);
                self.is_walk = true;
            }
            // A jump: what is known of another walk is no help for this one.
            None => {
                self.to_come.clear();
                self.kept.retain(|_, listed| listed.is_asked);
                self.order.retain(|node| self.kept.contains_key(node));
                (self.current, self.is_walk) = (None, false);
            }
        }
        self.come(folders);
    }

    fn come(&mut self, folders: &[NodeId]) {
        self.to_come.extend(folders.iter().rev());
        let too_many = self.to_come.len().saturating_sub(MAX_TO_COME);
        self.to_come.drain(..too_many);
    }

    /// The folder to list now, unless enough is ready.
    fn next(&mut self) -> Option<NodeId> {
        if !self.is_walk || !self.has_room(AHEAD) {
            return None;
        }
        let node = self.to_come.pop()?;
        self.current = Some((node, false));
        Some(node)
    }

    fn has_room(&self, folders: usize) -> bool {
        let waiting = || self.kept.values().filter(|listed| !listed.is_asked);
        waiting().count() < folders && waiting().map(|listed| listed.lines.len()).sum::<usize>() < AHEAD_LINES
    }

    /// True if the thread has something to do, and enough of it.
    fn is_due(&self) -> bool {
        self.is_walk && self.current.is_none() && !self.to_come.is_empty() && self.has_room(AHEAD / 2)
    }

    /// Takes what the thread listed; `None` if it could not, or if that is much.
    fn take_in(&mut self, node: NodeId, turn: u64, lines: Option<Vec<Entry>>) {
        // After a jump nobody waits for it.
        let Some((_, is_asked)) = self.current.take_if(|(current, _)| *current == node) else { return };
        let Some(lines) = lines else { return };
        self.come(&folders_of(node, &lines));
        let Some(end) = lines.last().map(|line| line.offset) else { return };
        let lines = if is_asked { Arc::default() } else { Arc::new(lines) };
        self.keep(node, Listed { turn, lines, end, is_asked });
    }

    fn keep(&mut self, node: NodeId, listed: Listed) {
        if self.kept.insert(node, listed).is_none() {
            self.order.push_back(node);
        }
        let mut lines: usize = self.kept.values().map(|listed| listed.lines.len()).sum();
        while (self.order.len() > KEPT || lines > KEPT_LINES)
            && let Some(oldest) = self.order.pop_front()
        {
            lines -= self.kept.remove(&oldest).map_or(0, |listed| listed.lines.len());
        }
    }

    /// What is kept of other turns is of no use any more.
    fn forget(&mut self, turn: u64) {
        self.kept.retain(|_, listed| listed.turn == turn);
        self.order.retain(|node| self.kept.contains_key(node));
    }
}

/// The folders among some lines, in order, without the folder itself and the one above it.
fn folders_of(node: NodeId, lines: &[Entry]) -> Vec<NodeId> {
    let below =
        lines.iter().filter(|line| line.node.attr.kind == NodeKind::Folder && line.name != "." && line.name != "..");
    below.map(|line| line.node.id).filter(|below| *below != node && is_plain(*below)).collect()
}

/// Only what a change is told of by name is listed ahead: no moment, nothing found.
fn is_plain(node: NodeId) -> bool {
    matches!(Place::of(node), Some(Place::Dir(Tree::Merged | Tree::Origin(_), _)))
}

struct Shared<C> {
    view: Arc<View<C>>,
    course: Mutex<Course>,
    /// There is something to do, or it is over.
    due: Condvar,
}

impl<C> Shared<C> {
    fn course(&self) -> MutexGuard<'_, Course> {
        // Only hints are guarded.
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers listings of a view; its thread begins with the first walk and ends with it.
pub(super) struct Scout<C> {
    shared: Arc<Shared<C>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<C: Catalog + 'static> Scout<C> {
    pub fn new(view: &Arc<View<C>>) -> Scout<C> {
        let shared = Shared { view: Arc::clone(view), course: Mutex::default(), due: Condvar::new() };
        Scout { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Hands the lines of a folder from `offset` on to `add` until it says that it is full. `page` lines are asked of the view at once.
    pub fn list(
        &self,
        node: NodeId,
        offset: u64,
        page: usize,
        mut add: impl FnMut(&Entry) -> bool,
    ) -> Result<(), ViewError> {
        let Some(turn) = self.shared.view.catalog().turn().filter(|_| is_plain(node)) else {
            return self.list_now(node, offset, page, &mut add).map(drop);
        };
        let known = self.shared.course().lines(node, offset, turn);
        if let Some((lines, from)) = known {
            let _ = lines[from..].iter().any(&mut add);
            if self.shared.course().is_due() {
                self.shared.due.notify_one();
            }
            return Ok(());
        }
        let mut folders = Vec::new();
        let mut noted = |line: &Entry| {
            folders.extend(folders_of(node, std::slice::from_ref(line)));
            add(line)
        };
        let end = self.list_now(node, offset, page, &mut noted)?;
        let mut course = self.shared.course();
        course.forget(turn);
        if let Some(end) = end {
            course.keep(node, Listed { turn, lines: Arc::default(), end, is_asked: true });
        }
        if offset == 0 {
            course.ask(node, &folders);
        }
        if course.is_due() {
            drop(course);
            self.wake();
        }
        Ok(())
    }

    /// The last line's offset, if the end was reached and handed on.
    fn list_now(
        &self,
        node: NodeId,
        offset: u64,
        page: usize,
        add: &mut impl FnMut(&Entry) -> bool,
    ) -> Result<Option<u64>, ViewError> {
        let mut offset = offset;
        loop {
            let entries = self.shared.view.read_dir(node, offset, page)?;
            for entry in &entries {
                if add(entry) {
                    return Ok(None);
                }
                offset = entry.offset;
            }
            if entries.len() < page {
                return Ok(Some(offset));
            }
        }
    }

    /// Without a thread everything is listed by who asks for it.
    fn wake(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            *thread = std::thread::Builder::new()
                .name("larder-scout".to_owned())
                .spawn(move || {
                    run_anywhere();
                    work(&shared);
                })
                .ok();
        }
        self.shared.due.notify_one();
    }
}

impl<C> Drop for Scout<C> {
    fn drop(&mut self) {
        self.shared.course().is_over = true;
        self.shared.due.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It can fail only by a panic, which was told.
        thread.map(JoinHandle::join);
    }
}

fn work<C: Catalog>(shared: &Shared<C>) {
    let mut course = shared.course();
    while !course.is_over {
        let Some(node) = course.next() else {
            course = shared.due.wait(course).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(course);
        let turn = shared.view.catalog().turn();
        let lines = turn.and_then(|_| list_whole(&shared.view, node));
        course = shared.course();
        course.take_in(node, turn.unwrap_or_default(), lines);
    }
}

/// A folder's lines; `None` if they are many. What is wrong with it is told to who asks for it.
fn list_whole<C: Catalog>(view: &View<C>, node: NodeId) -> Option<Vec<Entry>> {
    view.read_dir(node, 0, MAX_LINES).ok().filter(|lines| lines.len() < MAX_LINES)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::catalog::DirId;
    use super::super::memory::{MemoryCatalog, MemoryPut};
    use super::super::view::{Attr, Node};
    use super::*;

    /// A generous bound for what takes a moment.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn folder(number: u64) -> NodeId {
        Place::Dir(Tree::Merged, DirId(number)).node()
    }

    /// A tree of folders: folder 0, and each further one in an earlier one.
    struct Folders(Vec<Vec<u64>>);

    impl Folders {
        fn grown(count: u64) -> Folders {
            let mut state = 7_u64;
            let mut below = vec![Vec::new()];
            for number in 1..count {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                below[((state >> 33) % number) as usize].push(number);
                below.push(Vec::new());
            }
            Folders(below)
        }

        fn lines(&self, number: u64) -> Vec<Entry> {
            let attr = Attr { kind: NodeKind::Folder, mode: 0o555, size: 0, mtime_ms: 0, links: 1 };
            let line = |name: &str, number, offset| Entry {
                name: name.to_owned(),
                node: Node { id: folder(number), attr },
                offset,
            };
            let own = [line(".", number, 1), line("..", 0, 2)];
            let below = (3..).zip(&self.0[number as usize]);
            own.into_iter().chain(below.map(|(at, number)| line(&number.to_string(), *number, at))).collect()
        }

        /// In the order of a walk.
        fn walked(&self) -> Vec<u64> {
            let (mut walked, mut to_come) = (Vec::new(), vec![0]);
            while let Some(number) = to_come.pop() {
                walked.push(number);
                to_come.extend(self.0[number as usize].iter().rev());
            }
            walked
        }
    }

    /// Asks for a folder as the kernel does; false if it was not known.
    fn asks(course: &mut Course, folders: &Folders, number: u64) -> bool {
        let lines = folders.lines(number);
        let end = lines[lines.len() - 1].offset;
        let is_known = course.lines(folder(number), 0, 1).is_some_and(|(known, from)| (&*known, from) == (&lines, 0));
        if !is_known {
            course.keep(folder(number), Listed { turn: 1, lines: Arc::default(), end, is_asked: true });
            course.ask(folder(number), &folders_of(folder(number), &lines));
        }
        assert!(course.lines(folder(number), end, 1).is_some_and(|(lines, from)| lines[from..].is_empty()), "the end");
        is_known
    }

    /// Lets the thread list up to `most` folders, and says which.
    fn works(course: &mut Course, folders: &Folders, most: usize) -> Vec<u64> {
        let mut listed = Vec::new();
        while listed.len() < most
            && let Some(node) = course.next()
        {
            let number = (0..).find(|number| folder(*number) == node).expect("a folder of the tree");
            course.take_in(node, 1, Some(folders.lines(number)));
            listed.push(number);
        }
        listed
    }

    #[test]
    fn who_walks_finds_all_but_the_first_two_folders_listed() {
        let folders = Folders::grown(500);
        let mut course = Course::default();
        let (mut late, mut listed) = (Vec::new(), Vec::new());

        for number in folders.walked() {
            if !asks(&mut course, &folders, number) {
                late.push(number);
            }
            listed.extend(works(&mut course, &folders, usize::MAX));
            let waiting = course.kept.values().filter(|listed| !listed.is_asked);
            assert!(waiting.count() <= AHEAD && course.kept.len() <= KEPT, "no more than somebody soon wants");
        }

        assert_eq!(late, folders.walked()[..2]);
        assert_eq!(listed, folders.walked()[2..], "each once, in the order of the walk");
    }

    #[test]
    fn a_walk_that_overtakes_the_thread_costs_no_folder_twice() {
        let folders = Folders::grown(500);
        let mut course = Course::default();
        let (mut late, mut listed) = (0, Vec::new());

        for (step, number) in folders.walked().into_iter().enumerate() {
            late += usize::from(!asks(&mut course, &folders, number));
            listed.extend(works(&mut course, &folders, usize::from(step % 3 > 0)));
        }

        let count = listed.len();
        listed.sort_unstable();
        listed.dedup();
        assert_eq!((listed.len(), listed.len() + late), (count, folders.0.len()));
        assert!(late < folders.0.len() / 2, "{late} of {} were late", folders.0.len());
    }

    #[test]
    fn folders_here_and_there_have_nothing_listed_ahead() {
        let folders = Folders(vec![Vec::new(); 1000]);
        let mut course = Course::default();

        for number in (0..1000).map(|n| n * 7_919 % 1000) {
            asks(&mut course, &folders, number);

            assert_eq!(works(&mut course, &folders, usize::MAX), Vec::<u64>::new());
        }
    }

    #[test]
    fn what_a_jump_left_behind_does_not_stand_in_the_way() {
        let folders = Folders::grown(500);
        let mut course = Course::default();
        let walked = folders.walked();
        for number in &walked[..3] {
            asks(&mut course, &folders, *number);
        }
        let before = course.next().expect("a walk");
        course.ask(folder(9_999), &[]);

        course.take_in(before, 1, Some(folders.lines(walked[3])));

        assert!(course.to_come.is_empty() && course.kept.values().all(|listed| listed.is_asked));
    }

    fn listed(scout: &Scout<MemoryCatalog>, node: NodeId, offset: u64, most: usize) -> Vec<Entry> {
        let mut lines = Vec::new();
        let add = |line: &Entry| {
            let is_full = lines.len() == most;
            if !is_full {
                lines.push(line.clone());
            }
            is_full
        };
        scout.list(node, offset, 7, add).expect("a listing");
        lines
    }

    /// Waits until the thread has listed all that it wants to.
    fn settle(scout: &Scout<MemoryCatalog>) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let course = scout.shared.course();
            let is_waiting = !course.is_walk || course.to_come.is_empty() || !course.has_room(AHEAD);
            if course.current.is_none() && is_waiting {
                return;
            }
            drop(course);
            assert!(Instant::now() < deadline, "the thread did not come to an end within {DEADLINE:?}");
            std::thread::yield_now();
        }
    }

    fn view() -> (Arc<View<MemoryCatalog>>, NodeId) {
        let view = Arc::new(View::new(MemoryCatalog::new()));
        for folder in 0..9 {
            for file in 0..3 * folder + 1 {
                let path = format!("top/f{folder}/{file}.md");
                view.catalog().put(&MemoryPut::file("studio-aaaaaa", &path, b"text", 1_784_034_732_045));
            }
        }
        let top = view.find(NodeId::ROOT, "merged/top").expect("the folder").id;
        (view, top)
    }

    #[test]
    fn what_was_listed_ahead_is_what_is_listed_now_from_any_line_on() {
        let (view, top) = view();
        let scout = Scout::new(&view);
        let whole = |node| view.read_dir(node, 0, 1000).expect("a listing");
        let below = folders_of(top, &whole(top));
        listed(&scout, top, 0, usize::MAX);
        listed(&scout, below[0], 0, usize::MAX);
        settle(&scout);
        let ahead = scout.shared.course().kept.values().filter(|listed| !listed.lines.is_empty()).count();
        assert_eq!(ahead, below.len() - 1, "the thread has listed the others");

        for node in below.iter().copied().chain([top]) {
            let lines = whole(node);
            for (from, offset) in std::iter::once(0).chain(lines.iter().map(|line| line.offset)).enumerate() {
                for most in [2, usize::MAX] {
                    let until = from.saturating_add(most).min(lines.len());
                    assert_eq!(listed(&scout, node, offset, most), lines[from..until], "{node:?} from {offset}");
                }
            }
        }
    }

    #[test]
    fn a_change_is_listed_though_the_folder_was_listed_ahead() {
        let (view, top) = view();
        let scout = Scout::new(&view);
        let below = folders_of(top, &listed(&scout, top, 0, usize::MAX));
        let before = listed(&scout, below[0], 0, usize::MAX);
        settle(&scout);

        view.catalog().put(&MemoryPut::file("studio-aaaaaa", "top/f8/new.md", b"new", 1_784_034_732_046));
        view.catalog().put(&MemoryPut::file("studio-aaaaaa", "top/f0/zzz.md", b"new", 1_784_034_732_046));

        assert!(listed(&scout, below[8], 0, usize::MAX).iter().any(|line| line.name == "new.md"));
        let end = before.last().expect("a line").offset;
        let behind: Vec<String> = listed(&scout, below[0], end, usize::MAX).into_iter().map(|line| line.name).collect();
        assert_eq!(behind, ["zzz.md"], "nor is the end what it was");
    }
}
