//! The catalog over the real index and ledger.
//!
//! Invariant: read-only; each answer is one state of the index; numbers are the index's row numbers, so nothing is remembered but a
//! few answers that are asked for again, and which versions make up the merges that were shown.
//! Which head wins is `sync::resolve`'s business. When the index is made anew its numbers change: nothing of the new one is shown under
//! the old one's numbers, and the mount must be renewed.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::{
    Catalog, CatalogError, Change, Child, DirFacts, DirId, FileId, FileRow, FindId, Giver, OriginId, OriginRow,
    PathFacts, PathId, TimeId, Totals, Tree,
};
use super::find::{Finds, is_no_search};
use super::foresight::Foresight;
use super::moment::{Moments, moment_name};
use crate::index::{
    ContentError, ContentReader, DirChange, Index, IndexError, Lived, NumberedName, NumberedSlot, NumberedVersion,
    ROOT_DIR_NUMBER, Reader, Slot, Tree as IndexTree, WantedNames,
};
use crate::model::{Content, ContentHash, Hash, Hlc, RelPath, VersionId};
use crate::search::{Query, SearchError, found_slots};
use crate::sync::IndexGraph;
use crate::sync::resolve::{Appended, Outcome, Resolution, resolve};

/// Connections kept; further ones are opened for a moment.
const KEPT_READERS: usize = 8;
/// Histories kept for those in the middle of them.
const KEPT_HISTORIES: usize = 4;
/// Folders of which is remembered when something changed in them.
const KEPT_CHANGED: usize = 1 << 16;
/// Merges whose numbers are remembered; beyond them the numbers of long gone merges stop working.
const KEPT_MERGES: usize = 1 << 16;
/// Merged tails kept in memory for reading.
const KEPT_TAILS: usize = 8;
/// Marks numbers of merges: the rest is taken from the hash over the merged versions.
const MERGE_BIT: u64 = 1 << 59;
/// Folders of which is remembered whether anything lay below them at some moment.
const KEPT_LIVED: usize = 1 << 16;
/// How long whoever looks into `search/` waits for new words to be taken in; the next look goes on.
const FILL_TIME: Duration = Duration::from_secs(2);
/// Rows asked for at once while looking for changes.
const CHANGE_ROWS: usize = 4096;

/// The catalog of an open project.
pub struct IndexCatalog {
    path: PathBuf,
    /// Of the index that was met first; its numbers are no other's.
    epoch: OnceLock<u64>,
    /// The file that was last seen to be that one; also whose damage is met.
    file: Mutex<Option<(u64, u64)>>,
    readers: Mutex<Vec<Reader>>,
    /// How often changes were found.
    turn: AtomicU64,
    contents: Arc<ContentReader>,
    changed: Mutex<Changed>,
    histories: Kept<HistoryKey, Vec<FileRow>>,
    merges: Mutex<HashMap<FileId, (FileRow, Vec<VersionId>)>>,
    tails: Mutex<Vec<(FileId, Arc<Appended>)>>,
    moments: Mutex<Moments>,
    /// With the index's last row when they were true.
    lived: Mutex<(i64, Lived)>,
    /// With what stood for the state of all that was let go when it was found out.
    horizon: Mutex<Option<(u64, Option<Hlc>)>>,
    finds: Mutex<Finds<Found>>,
    /// What has a star, with the index's last row when it was so: a star that came or went counts as a change.
    starred: Mutex<Option<(i64, Arc<Found>)>>,
    foresight: Foresight,
}

/// A connection that a thread holds on to while it asks several questions.
struct Held {
    /// Tells catalogs apart: no other is at this place as long as somebody asks it.
    catalog: usize,
    reader: Rc<Reader>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// What holds some words, or has a star: slots, and the directories above them.
struct Found {
    slots: BTreeSet<i64>,
    dirs: BTreeSet<i64>,
}

/// When something changed in folders, as of a row of the index.
#[derive(Default)]
struct Changed {
    row: i64,
    dirs: HashMap<i64, Hlc>,
}

/// Path, and the index's last row when it was read.
type HistoryKey = (PathId, i64);
/// A few answers, the oldest first.
type Kept<K, T> = Mutex<Vec<(K, Arc<T>)>>;

/// What the index knows of a file that the view shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Where it belongs.
    pub slot: Slot,
    /// The version, or the newest of those that were merged.
    pub version: VersionId,
    /// How many heads its path has now.
    pub heads: usize,
    /// True if it is the merge of several versions, and no version's own content.
    pub is_merge: bool,
}

type Answer<T> = Result<T, CatalogError>;
/// A name, and what a tree shows under it.
type Named = (String, Option<Child>);

fn broken(error: IndexError) -> CatalogError {
    CatalogError::Broken { what: "ask the index".to_owned(), source: Some(Box::new(error)) }
}

impl From<IndexError> for CatalogError {
    fn from(error: IndexError) -> CatalogError {
        broken(error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded are caches and idle connections, whole between two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dir_number(dir: DirId) -> i64 {
    if dir == DirId::ROOT { ROOT_DIR_NUMBER } else { dir.0.cast_signed() }
}

fn dir_id(number: i64) -> DirId {
    if number <= ROOT_DIR_NUMBER { DirId::ROOT } else { DirId(number.cast_unsigned()) }
}

fn origin_row(version: &NumberedVersion) -> OriginRow {
    OriginRow { id: OriginId(u32::try_from(version.origin_number).unwrap_or(0)), name: version.origin.clone() }
}

pub(super) fn file_row(version: &NumberedVersion) -> Option<FileRow> {
    let content = version.content?;
    let id = FileId(version.number.cast_unsigned());
    let version_hash = version.id.0;
    Some(FileRow {
        id,
        origin: origin_row(version),
        archive: version.archive,
        content,
        hlc: version.hlc,
        version: version_hash,
    })
}

impl IndexCatalog {
    /// The catalog of the index at `path`, reading contents through `contents`.
    pub fn new(path: PathBuf, contents: Arc<ContentReader>) -> IndexCatalog {
        contents.keep_more();
        IndexCatalog {
            foresight: Foresight::new(&path, &contents),
            path,
            epoch: OnceLock::new(),
            file: Mutex::default(),
            readers: Mutex::default(),
            turn: AtomicU64::default(),
            contents,
            changed: Mutex::default(),
            histories: Mutex::default(),
            merges: Mutex::default(),
            tails: Mutex::default(),
            moments: Mutex::default(),
            lived: Mutex::default(),
            horizon: Mutex::default(),
            finds: Mutex::default(),
            starred: Mutex::default(),
        }
    }

    /// The cursor for [`IndexCatalog::changes_since`] as of now. Take it before the mount.
    pub fn last_row(&self) -> Answer<i64> {
        self.ask(|reader| Ok(reader.max_row()?))
    }

    /// What became visible after `row`, for [`super::View::refresh`], and the next cursor.
    pub fn changes_since(&self, row: i64) -> Answer<(Vec<Change>, i64)> {
        self.foresight.forget();
        let (changes, last) = self.read_changes(row)?;
        if !changes.is_empty() {
            // Before anybody is told: what was listed until now may lack them.
            self.turn.fetch_add(1, Ordering::SeqCst);
        }
        Ok((changes, last))
    }

    fn read_changes(&self, row: i64) -> Answer<(Vec<Change>, i64)> {
        self.ask(|reader| {
            let (mut changes, mut last) = (Vec::new(), row);
            loop {
                let slots = reader.slots_since(last, CHANGE_ROWS)?;
                for (row, slot) in &slots {
                    last = *row;
                    let Some(path) = reader.path_number(&slot.path)? else { continue };
                    let path = PathId(path.cast_unsigned());
                    match reader.version_numbered(*row)? {
                        Some(version) => {
                            changes.push(Change { path, origin: origin_row(&version).id, hlc: version.hlc });
                        }
                        // Heads moved without a new version: anybody's may look different.
                        None => {
                            let origins = reader.origins_numbered()?.into_iter();
                            let origins = origins.map(|(id, _)| OriginId(u32::try_from(id).unwrap_or(0)));
                            changes.extend(origins.map(|origin| Change { path, origin, hlc: Hlc::from_u64(0) }));
                        }
                    }
                }
                if slots.len() < CHANGE_ROWS {
                    return Ok((changes, last));
                }
            }
        })
    }

    /// The contents that a person let go.
    pub fn purged_contents(&self) -> Answer<BTreeSet<ContentHash>> {
        self.ask(|reader| Ok(reader.purged_contents()?))
    }

    /// The files whose bytes a person let go, which nobody is shown any more; and the clean merges that were shown of any such. Looks at
    /// every version.
    pub fn purged_files(&self) -> Answer<Vec<FileId>> {
        // Places that were looked up until now may be of what is gone.
        self.foresight.forget();
        // Tails are bytes: they are merged anew from what is left.
        lock(&self.tails).clear();
        let merges: Vec<(FileId, Vec<VersionId>)> =
            lock(&self.merges).iter().map(|(file, (_, ids))| (*file, ids.clone())).collect();
        self.ask(|reader| {
            let purged = reader.purged_contents()?;
            let numbers = reader.purged_numbers()?.into_iter();
            let mut files: Vec<FileId> = numbers.map(|number| FileId(number.cast_unsigned())).collect();
            for (file, ids) in &merges {
                if !self.is_merged_of_others(reader, ids, &purged)? {
                    files.push(*file);
                }
            }
            Ok(files)
        })
    }

    /// True if a merge goes on without anything that was purged.
    fn is_merged_of_others(&self, reader: &Reader, ids: &[VersionId], purged: &BTreeSet<ContentHash>) -> Answer<bool> {
        let mut heads = Vec::with_capacity(ids.len());
        for id in ids {
            heads.extend(reader.version(id)?);
        }
        let is_purged = |content: Option<Content>| content.is_some_and(|content| purged.contains(&content.hash));
        if heads.len() < ids.len() || heads.iter().any(|head| is_purged(head.version.content())) {
            return Ok(false);
        }
        let resolution = resolve(&heads, &IndexGraph::new(reader, &self.contents));
        Ok(matches!(resolution.outcome, Outcome::Appended(appended) if !is_purged(appended.base)))
    }

    /// What is recorded of a file that the view shows: where it stands, and the version it is.
    pub fn recorded(&self, row: &FileRow) -> Answer<Option<Recorded>> {
        let merged = lock(&self.merges).get(&row.id).map(|(_, ids)| ids.clone());
        let ids = merged.unwrap_or_else(|| vec![VersionId(row.version)]);
        self.ask(|reader| {
            let mut newest = None;
            for id in &ids {
                let found = reader.version_at(id)?;
                newest = newest.max(found.map(|(slot, stored)| (stored.version.hlc, stored.id, slot)));
            }
            let Some((_, version, slot)) = newest else { return Ok(None) };
            let heads = reader.heads(&slot)?.len();
            Ok(Some(Recorded { slot, version, heads, is_merge: ids.len() > 1 }))
        })
    }

    /// True once the index was made anew: this catalog goes on with what the old one held, and a new catalog is needed.
    pub fn is_outdated(&self) -> bool {
        let (Some(known), Some(file)) = (self.epoch.get(), Index::file_at(&self.path)) else { return false };
        if *lock(&self.file) == Some(file) {
            return false;
        }
        // While the new one is made it cannot be opened yet.
        let Ok(reader) = Reader::open(&self.path) else { return false };
        let is_other = reader.epoch() != *known;
        if !is_other {
            *lock(&self.file) = Some(file);
        }
        is_other
    }

    fn open_reader(&self) -> Answer<Reader> {
        let before = Index::file_at(&self.path);
        let reader = Reader::open(&self.path)?;
        if self.epoch.get().is_none() && before == Index::file_at(&self.path) {
            *lock(&self.file) = before;
        }
        if *self.epoch.get_or_init(|| reader.epoch()) != reader.epoch() {
            let what = "show this while the view is renewed: the index was made anew".to_owned();
            return Err(CatalogError::Broken { what, source: None });
        }
        Ok(reader)
    }

    fn take_reader(&self) -> Answer<Reader> {
        let kept = lock(&self.readers).pop();
        kept.map_or_else(|| self.open_reader(), Ok)
    }

    fn give_back(&self, reader: Reader) {
        let mut readers = lock(&self.readers);
        if readers.len() < KEPT_READERS {
            readers.push(reader);
        }
    }

    /// The connection that this thread holds on to, if it asks several questions of this catalog.
    fn held(&self) -> Option<Rc<Reader>> {
        let own = std::ptr::from_ref(self).addr();
        HELD.with_borrow(|held| held.as_ref().filter(|held| held.catalog == own).map(|held| Rc::clone(&held.reader)))
    }

    fn ask<T>(&self, answer: impl FnOnce(&Reader) -> Answer<T>) -> Answer<T> {
        if let Some(reader) = self.held() {
            let begun = Instant::now();
            let outcome = answer(&reader);
            return self.noted(begun, outcome);
        }
        let reader = self.take_reader()?;
        let begun = Instant::now();
        let outcome = self.noted(begun, reader.consistently(answer));
        self.give_back(reader);
        outcome
    }

    /// Notes how long an answer took, and damage that it speaks of.
    fn noted<T>(&self, begun: Instant, outcome: Answer<T>) -> Answer<T> {
        self.foresight.answered(begun.elapsed());
        if let Err(CatalogError::Broken { source: Some(source), .. }) = &outcome
            && source.downcast_ref::<IndexError>().is_some_and(IndexError::is_damage)
            && let Some(file) = *lock(&self.file)
            && !Index::is_suspect(&self.path)
        {
            Index::suspect(&self.path, file);
        }
        outcome
    }

    fn index_tree(&self, reader: &Reader, tree: Tree) -> Answer<Option<IndexTree>> {
        Ok(Some(match tree {
            // What stood at a moment is asked of all that ever was.
            Tree::At(_) => IndexTree::History,
            Tree::Merged | Tree::Found(_) | Tree::Starred => IndexTree::Merged,
            Tree::History => IndexTree::History,
            Tree::Conflicts => IndexTree::Conflicts,
            Tree::Trash => IndexTree::Trash,
            Tree::Origin(id) => {
                let found = reader.origins_numbered()?.into_iter().find(|(number, _)| *number == i64::from(id.0));
                match found {
                    Some((_, name)) => IndexTree::Origin(name),
                    None => return Ok(None),
                }
            }
        }))
    }

    /// The names of a folder that are wanted; `None` in place of those that the index knows of and the tree does not show.
    fn names(&self, reader: &Reader, tree: Tree, dir: DirId, wanted: WantedNames<'_>) -> Answer<Vec<Named>> {
        let Some(index_tree) = self.index_tree(reader, tree)? else { return Ok(Vec::new()) };
        let at = self.moment_of(tree)?;
        let names = match at {
            Some(at) => self.names_then(reader, dir, wanted, at)?,
            None => reader.names_numbered(&index_tree, dir_number(dir), wanted)?,
        };
        let found = match tree {
            Tree::Found(find) => match lock(&self.finds).get(find) {
                Some(found) => Some(found),
                None => return Ok(Vec::new()),
            },
            Tree::Starred => Some(self.starred(reader)?),
            _ => None,
        };
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let text = name.name.clone();
            let is_wanted = found.as_ref().is_none_or(|found| found.has(&name));
            let child = if is_wanted { self.child_of(reader, tree, name, found.as_deref())? } else { None };
            children.push((text, child));
        }
        Ok(children)
    }

    fn starred(&self, reader: &Reader) -> Answer<Arc<Found>> {
        let row = reader.max_row()?;
        let mut known = lock(&self.starred);
        if let Some((at, found)) = &*known
            && *at == row
        {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(Found::of(reader, reader.starred_slots()?)?);
        *known = Some((row, Arc::clone(&found)));
        Ok(found)
    }

    /// The moment of a tree that has one.
    fn moment_of(&self, tree: Tree) -> Answer<Option<Hlc>> {
        let Tree::At(time) = tree else { return Ok(None) };
        let forgotten =
            || CatalogError::Broken { what: "show a moment whose number was forgotten".to_owned(), source: None };
        self.time(time).ok_or_else(forgotten).map(Some)
    }

    /// Takes in what came up to `row`; forgets all if that is more than it would cost to ask again. Nobody waits while it is asked for.
    fn catch_up(&self, reader: &Reader, row: i64) -> Answer<()> {
        let from = {
            let mut changed = lock(&self.changed);
            if changed.dirs.is_empty() {
                changed.row = changed.row.max(row);
            }
            changed.row
        };
        if row <= from {
            return Ok(());
        }
        let changes = reader.dir_changes_since(from, CHANGE_ROWS)?;
        let mut changed = lock(&self.changed);
        // Somebody else may have been here meanwhile.
        if changed.row == from {
            changed.take_in(changes, row);
        }
        Ok(())
    }

    /// When something changed in a folder last. Costs the folder's paths at the first look, and after that what changed.
    fn changed_in(&self, reader: &Reader, dir: i64) -> Answer<Hlc> {
        let row = reader.max_row()?;
        {
            self.catch_up(reader, row)?;
            let changed = lock(&self.changed);
            if let Some(at) = changed.dirs.get(&dir).filter(|_| changed.row == row) {
                return Ok(*at);
            }
        }
        let at = reader.dir_changed(dir)?;
        let mut changed = lock(&self.changed);
        // Somebody who sees more of the index may have been here meanwhile.
        if changed.row == row {
            if changed.dirs.len() >= KEPT_CHANGED {
                changed.dirs.clear();
            }
            changed.dirs.insert(dir, at);
        }
        Ok(at)
    }

    fn names_then(&self, reader: &Reader, dir: DirId, wanted: WantedNames<'_>, at: Hlc) -> Answer<Vec<NumberedName>> {
        self.check_whole(reader, at)?;
        let row = reader.max_row()?;
        let mut lived = lock(&self.lived);
        if lived.0 != row || lived.1.len() > KEPT_LIVED {
            *lived = (row, Lived::default());
        }
        Ok(reader.names_at(dir_number(dir), wanted, at, &mut lived.1)?)
    }

    /// Refuses a moment of which something was let go: no half of a tree is shown.
    fn check_whole(&self, reader: &Reader, at: Hlc) -> Answer<()> {
        let state = reader.floor_state()?;
        let mut known = lock(&self.horizon);
        let horizon = match *known {
            Some((of, horizon)) if of == state => horizon,
            _ => {
                let horizon = reader.horizon()?;
                *known = Some((state, horizon));
                horizon
            }
        };
        match horizon {
            Some(since) if at < since => Err(CatalogError::LetGo { at: moment_name(at), since: moment_name(since) }),
            _ => Ok(()),
        }
    }

    fn child_of(
        &self,
        reader: &Reader,
        tree: Tree,
        name: NumberedName,
        found: Option<&Found>,
    ) -> Answer<Option<Child>> {
        let path = name.path.map(|number| PathId(number.cast_unsigned()));
        let dir = name.dir.map(dir_id);
        let cursor = match (dir, path) {
            (Some(dir), _) => 2 * dir.0 + 1,
            (None, Some(path)) => 2 * path.0,
            (None, None) => return Ok(None),
        };
        let (mut files, mut hidden) = (Vec::new(), Vec::new());
        let mut is_here = false;
        // Private before shared before archive.
        let mut slots: Vec<&NumberedSlot> = name.slots.iter().collect();
        slots.sort_by_key(|slot| (slot.origin.is_some(), slot.space.is_shared()));
        for slot in slots {
            match tree {
                Tree::Merged | Tree::At(_) => files.extend(self.current(reader, slot, self.moment_of(tree)?)?),
                Tree::Found(_) | Tree::Starred => {
                    let file = self.current(reader, slot, None)?;
                    let is_found = found.is_some_and(|found| found.slots.contains(&slot.number));
                    hidden.extend(file.as_ref().filter(|_| !is_found).map(|file| file.id));
                    files.extend(file);
                }
                Tree::Origin(_) => files.extend(file_row(&slot.shown)),
                Tree::Trash => files.extend(last_content(reader, slot.number)?),
                Tree::History => is_here = true,
                Tree::Conflicts => is_here |= self.is_conflict(reader, slot)?,
            }
        }
        if let Tree::Origin(_) = tree {
            // One origin shows one file: of several spaces' the newest.
            files.sort_by_key(|file| std::cmp::Reverse((file.hlc, file.version)));
            files.truncate(1);
        }
        is_here |= !files.is_empty();
        if !is_here && dir.is_none() {
            return Ok(None);
        }
        let is_dir_hidden = found.is_some_and(|found| name.dir.is_none_or(|dir| !found.dirs.contains(&dir)));
        let path = path.filter(|_| is_here);
        Ok(Some(Child { cursor, name: name.name, dir, path, files, hidden, is_dir_hidden }))
    }

    fn resolution(&self, reader: &Reader, slot: &NumberedSlot, at: Option<Hlc>) -> Answer<Resolution> {
        let heads = match at {
            Some(at) => reader.heads_at(slot.number, at)?,
            None => reader.heads_of(slot.number)?,
        };
        Ok(resolve(&heads, &IndexGraph::new(reader, &self.contents)))
    }

    fn is_conflict(&self, reader: &Reader, slot: &NumberedSlot) -> Answer<bool> {
        Ok(slot.heads > 1 && self.resolution(reader, slot, None)?.is_conflict())
    }

    /// What a slot shows now, or showed at a moment.
    fn current(&self, reader: &Reader, slot: &NumberedSlot, at: Option<Hlc>) -> Answer<Option<FileRow>> {
        if slot.heads <= 1 {
            return Ok(file_row(&slot.shown));
        }
        let resolution = self.resolution(reader, slot, at)?;
        match &resolution.outcome {
            Outcome::Unknown | Outcome::Absent => Ok(None),
            Outcome::Appended(appended) => Ok(Some(self.merge_row(slot, &resolution, appended))),
            Outcome::Content(content) => {
                let heads = match at {
                    Some(at) => reader.heads_numbered_at(slot.number, at)?,
                    None => reader.heads_numbered(slot.number)?,
                };
                let winner = heads.iter().find(|head| head.content == Some(*content)).or(heads.first());
                Ok(winner.and_then(file_row))
            }
            // Nothing is guessed: the head that sorts highest is shown, and fails to read if its bytes are what is missing.
            Outcome::Pending(_) => Ok(file_row(&slot.shown)),
        }
    }

    fn merge_row(&self, slot: &NumberedSlot, resolution: &Resolution, appended: &Appended) -> FileRow {
        let ids: Vec<u8> = resolution.versions.iter().flat_map(|id| *id.as_bytes()).collect();
        let version = Hash::of(&ids);
        let number = u64::from_be_bytes(version.as_bytes()[..8].try_into().unwrap_or_default());
        let id = FileId(number & (MERGE_BIT - 1) | MERGE_BIT);
        // The bytes' own hash is known only once all are read; this stands for it wherever contents are compared.
        let stand_in = ContentHash(Hash::of(format!("{:?} {:?}", appended.base, Hash::of(&appended.tail)).as_bytes()));
        let content = Content { hash: stand_in, size: appended.size(), kind: appended.kind };
        let hlc = resolution.winner.as_ref().map_or(slot.shown.hlc, |winner| winner.version.hlc);
        let row = FileRow { id, origin: origin_row(&slot.shown), archive: slot.shown.archive, content, hlc, version };
        let mut merges = lock(&self.merges);
        if merges.len() >= KEPT_MERGES {
            merges.clear();
        }
        merges.insert(id, (row.clone(), resolution.versions.clone()));
        row
    }

    fn merged_tail(&self, reader: &Reader, file: FileId) -> Answer<Arc<Appended>> {
        if let Some((_, tail)) = lock(&self.tails).iter().find(|(id, _)| *id == file) {
            return Ok(Arc::clone(tail));
        }
        let ids = lock(&self.merges).get(&file).map(|(_, ids)| ids.clone()).unwrap_or_default();
        let mut heads = Vec::with_capacity(ids.len());
        for id in &ids {
            heads.extend(reader.version(id)?);
        }
        let resolution = resolve(&heads, &IndexGraph::new(reader, &self.contents));
        let Outcome::Appended(appended) = resolution.outcome else {
            return Err(CatalogError::Absent { content: format!("a merge of {} versions", ids.len()) });
        };
        let tail = Arc::new(appended);
        let mut tails = lock(&self.tails);
        if tails.len() >= KEPT_TAILS {
            tails.remove(0);
        }
        tails.push((file, Arc::clone(&tail)));
        Ok(tail)
    }

    fn content_bytes(&self, content: &Content, offset: u64, out: &mut [u8]) -> Answer<usize> {
        self.contents.read_into(content, offset, out).map_err(|error| match error {
            ContentError::Missing { .. } | ContentError::MissingManifest { .. } => {
                // Without an answer nothing is said to be gone.
                match self.ask(|reader| Ok(reader.dropped(&content.hash)?)) {
                    Ok(Some(dropped)) => CatalogError::Gone { how: dropped.sentence() },
                    _ => CatalogError::Absent { content: content.hash.to_string() },
                }
            }
            other => CatalogError::Broken { what: format!("read {}", content.hash), source: Some(Box::new(other)) },
        })
    }

    /// All versions of a path with a content, in the order of (clock, version).
    fn history(&self, path: PathId) -> Answer<Arc<Vec<FileRow>>> {
        self.ask(|reader| {
            let key = (path, reader.max_row()?);
            if let Some((_, rows)) = lock(&self.histories).iter().find(|(known, _)| *known == key) {
                return Ok(Arc::clone(rows));
            }
            let mut rows = Vec::new();
            for slot in slots_of(reader, path)? {
                reader.each_version_of(slot, |version| {
                    rows.extend(file_row(&version));
                    true
                })?;
            }
            rows.sort_by_key(|row| (row.hlc, row.version));
            let rows = Arc::new(rows);
            keep(&mut lock(&self.histories), key, &rows);
            Ok(rows)
        })
    }
}

/// Holds on to a connection and one state of the index until it is dropped.
struct Holding<'a> {
    catalog: &'a IndexCatalog,
}

impl<'a> Holding<'a> {
    /// `None` if the index cannot be asked.
    fn begin(catalog: &'a IndexCatalog) -> Option<Holding<'a>> {
        let reader = catalog.take_reader().ok()?;
        reader.begin_reading().ok()?;
        let held = Held { catalog: std::ptr::from_ref(catalog).addr(), reader: Rc::new(reader) };
        HELD.set(Some(held));
        Some(Holding { catalog })
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        // A connection that cannot end what it began is closed.
        if let Some(held) = HELD.take()
            && let Some(reader) = Rc::into_inner(held.reader)
            && reader.end_reading().is_ok()
        {
            self.catalog.give_back(reader);
        }
    }
}

impl Changed {
    /// Takes in what came up to `row`, unless it is too much.
    fn take_in(&mut self, changes: Vec<DirChange>, row: i64) {
        if changes.len() == CHANGE_ROWS {
            self.dirs.clear();
        }
        for DirChange { dir, hlc, replaced } in changes {
            match self.dirs.get_mut(&dir) {
                Some(at) if hlc >= *at => *at = hlc,
                // What was the newest is replaced by something older that came late: which one is the newest now must be asked.
                Some(at) if replaced >= *at => drop(self.dirs.remove(&dir)),
                _ => {}
            }
        }
        self.row = row;
    }
}

impl Found {
    /// With the directories that lead to the slots.
    fn of(reader: &Reader, slots: BTreeSet<i64>) -> Answer<Found> {
        let mut dirs = BTreeSet::new();
        for slot in &slots {
            let mut at = reader.slot_numbered(*slot)?.map(|(dir, _)| dir);
            while let Some(dir) = at.filter(|dir| *dir != ROOT_DIR_NUMBER && dirs.insert(*dir)) {
                at = reader.dir_numbered(dir)?.map(|(parent, _)| parent);
            }
        }
        Ok(Found { slots, dirs })
    }

    fn has(&self, name: &NumberedName) -> bool {
        name.slots.iter().any(|slot| self.slots.contains(&slot.number))
            || name.dir.is_some_and(|dir| self.dirs.contains(&dir))
    }
}

fn keep<K, T>(kept: &mut Vec<(K, Arc<T>)>, key: K, value: &Arc<T>) {
    if kept.len() >= KEPT_HISTORIES {
        kept.remove(0);
    }
    kept.push((key, Arc::clone(value)));
}

/// The name that a cursor stands for: an even one is a path's number twice, an odd one a folder's.
fn cursor_name(reader: &Reader, dir: DirId, cursor: u64) -> Answer<Option<String>> {
    let number = (cursor / 2).cast_signed();
    let found = if cursor.is_multiple_of(2) { reader.slot_numbered(number)? } else { reader.dir_numbered(number)? };
    Ok(found.filter(|(parent, _)| *parent == dir_number(dir)).map(|(_, name)| name))
}

fn slots_of(reader: &Reader, path: PathId) -> Answer<Vec<i64>> {
    let Some((dir, name)) = reader.slot_numbered(path.0.cast_signed())? else { return Ok(Vec::new()) };
    Ok(reader.slots_named(dir, &name)?.into_iter().map(|(number, _)| number).collect())
}

fn last_content(reader: &Reader, slot: i64) -> Answer<Option<FileRow>> {
    let mut best: Option<FileRow> = None;
    reader.each_version_of(slot, |version| {
        if let Some(row) = file_row(&version)
            && best.as_ref().is_none_or(|best| (best.hlc, best.version) < (row.hlc, row.version))
        {
            best = Some(row);
        }
        true
    })?;
    Ok(best)
}

impl Catalog for IndexCatalog {
    fn turn(&self) -> Option<u64> {
        Some(self.turn.load(Ordering::SeqCst))
    }

    fn together<T>(&self, ask: impl FnOnce() -> T) -> T {
        let is_free = HELD.with_borrow(Option::is_none);
        // Without a connection each question says for itself what is wrong.
        let Some(holding) = is_free.then(|| Holding::begin(self)).flatten() else { return ask() };
        let outcome = ask();
        drop(holding);
        outcome
    }

    fn apart<T>(&self, ask: impl FnOnce() -> T) -> T {
        let own = std::ptr::from_ref(self).addr();
        let held = HELD.with_borrow_mut(|held| held.take_if(|held| held.catalog == own));
        let Some(held) = held else { return ask() };
        // Ended either way: a connection that cannot end what it began is closed, and questions are asked one by one from here on.
        let ended = held.reader.end_reading().is_ok();
        let outcome = ask();
        if ended && held.reader.begin_reading().is_ok() {
            HELD.set(Some(held));
        }
        outcome
    }

    fn origins(&self) -> Answer<Vec<OriginRow>> {
        let origins = self.ask(|reader| Ok(reader.origins_numbered()?))?;
        let row = |(number, name)| Some(OriginRow { id: OriginId(u32::try_from(number).ok()?), name });
        Ok(origins.into_iter().filter_map(row).collect())
    }

    fn time_id(&self, at: Hlc) -> Answer<TimeId> {
        self.ask(|reader| self.check_whole(reader, at))?;
        Ok(lock(&self.moments).number(at))
    }

    fn time(&self, id: TimeId) -> Option<Hlc> {
        lock(&self.moments).get(id)
    }

    fn times(&self) -> Vec<(TimeId, Hlc)> {
        lock(&self.moments).all()
    }

    fn find(&self, words: &str) -> Answer<Option<FindId>> {
        if is_no_search(words) {
            return Ok(None);
        }
        // A filter by time means nothing in a name that stays.
        let Ok(query) = Query::parse(words, &|_| None) else { return Ok(None) };
        let broken =
            |error: SearchError| CatalogError::Broken { what: "search".to_owned(), source: Some(Box::new(error)) };
        let fts = self.path.with_file_name("fts.db");
        let begun = Instant::now();
        // Not `ask`: taking words in takes many transactions.
        let reader = Reader::open(&self.path)?;
        let slots =
            found_slots(&fts, &reader, &self.contents, &query, &|| begun.elapsed() < FILL_TIME).map_err(broken)?;
        let name = Hash::of(format!("{words} {slots:?}").as_bytes());
        let found = Found::of(&reader, slots)?;
        Ok(Some(lock(&self.finds).number(name, found)))
    }

    fn finds(&self) -> Vec<FindId> {
        lock(&self.finds).all()
    }

    fn has_stars(&self) -> Answer<bool> {
        self.ask(|reader| Ok(reader.has_stars()?))
    }

    fn dir(&self, dir: DirId) -> Answer<Option<DirFacts>> {
        self.ask(|reader| {
            let number = dir_number(dir);
            let Some((parent, name, path)) = reader.dir_facts_numbered(number)? else { return Ok(None) };
            let path = path.map(|number| PathId(number.cast_unsigned()));
            Ok(Some(DirFacts { parent: dir_id(parent), name, path, changed: self.changed_in(reader, number)? }))
        })
    }

    fn path(&self, path: PathId) -> Answer<Option<PathFacts>> {
        self.ask(|reader| {
            let Some((dir, name)) = reader.slot_numbered(path.0.cast_signed())? else { return Ok(None) };
            let same_dir = reader.child_dir_number(dir, &name)?.map(dir_id);
            let slots = reader.slots_named(dir, &name)?;
            let beside = slots.len() > 1 || slots.iter().any(|(_, slot)| slot.origin.is_some());
            Ok(Some(PathFacts { dir: dir_id(dir), name, same_dir, beside }))
        })
    }

    fn children(&self, tree: Tree, dir: DirId, after: u64, limit: usize) -> Answer<Vec<Child>> {
        self.ask(|reader| {
            let mut after = match after {
                0 => String::new(),
                cursor => match cursor_name(reader, dir, cursor)? {
                    Some(name) => name,
                    None => return Ok(Vec::new()),
                },
            };
            let mut children = Vec::new();
            while children.len() < limit {
                let names = self.names(reader, tree, dir, WantedNames::After(&after, limit - children.len()))?;
                let is_end = names.len() < limit - children.len();
                let Some((last, _)) = names.last() else { break };
                after.clone_from(last);
                children.extend(names.into_iter().filter_map(|(_, child)| child));
                if is_end {
                    break;
                }
            }
            Ok(children)
        })
    }

    fn name_at(&self, dir: DirId, cursor: u64) -> Answer<Option<String>> {
        self.ask(|reader| cursor_name(reader, dir, cursor))
    }

    fn child(&self, tree: Tree, dir: DirId, name: &str) -> Answer<Option<Child>> {
        self.ask(|reader| Ok(self.names(reader, tree, dir, WantedNames::One(name))?.pop().and_then(|(_, child)| child)))
    }

    fn versions(&self, path: PathId, after: Option<FileId>, limit: usize) -> Answer<Vec<FileRow>> {
        let rows = self.history(path)?;
        let skip = after.and_then(|file| rows.iter().position(|row| row.id == file)).map_or(0, |at| at + 1);
        Ok(rows[skip..].iter().take(limit).cloned().collect())
    }

    fn versions_at(&self, path: PathId, hlc: Hlc) -> Answer<Vec<FileRow>> {
        let rows = self.history(path)?;
        let first = rows.partition_point(|row| row.hlc < hlc);
        Ok(rows[first..].iter().take_while(|row| row.hlc == hlc).cloned().collect())
    }

    fn has_more_versions(&self, path: PathId, count: usize) -> Answer<bool> {
        self.ask(|reader| {
            let mut found = 0;
            for slot in slots_of(reader, path)? {
                reader.each_version_of(slot, |version| {
                    found += usize::from(version.content.is_some());
                    found <= count
                })?;
            }
            Ok(found > count)
        })
    }

    fn heads(&self, path: PathId) -> Answer<Vec<FileRow>> {
        self.ask(|reader| {
            let Some((dir, name)) = reader.slot_numbered(path.0.cast_signed())? else { return Ok(Vec::new()) };
            let names = reader.names_numbered(&IndexTree::Conflicts, dir, WantedNames::One(&name))?;
            let mut rows = Vec::new();
            for slot in names.iter().flat_map(|name| &name.slots) {
                if self.is_conflict(reader, slot)? {
                    rows.extend(reader.heads_numbered(slot.number)?.iter().filter_map(file_row));
                }
            }
            Ok(rows)
        })
    }

    fn file(&self, file: FileId) -> Answer<Option<FileRow>> {
        if file.0 & MERGE_BIT != 0 {
            return Ok(lock(&self.merges).get(&file).map(|(row, _)| row.clone()));
        }
        if let Some(row) = self.foresight.row(file) {
            return Ok(Some(row));
        }
        self.ask(|reader| Ok(reader.version_numbered(file.0.cast_signed())?.as_ref().and_then(file_row)))
    }

    fn give_by(&self, giver: Arc<dyn Giver>) {
        self.foresight.give_by(giver);
    }

    fn listed(&self, files: &[FileId]) {
        if let Some(epoch) = self.epoch.get() {
            self.foresight.listed(files, *epoch);
        }
    }

    fn path_of(&self, file: FileId) -> Answer<Option<RelPath>> {
        let id = match self.file(file)? {
            Some(row) => lock(&self.merges)
                .get(&file)
                .and_then(|(_, ids)| ids.first().copied())
                .unwrap_or(VersionId(row.version)),
            None => return Ok(None),
        };
        self.ask(|reader| Ok(reader.version_at(&id)?.map(|(slot, _)| slot.path)))
    }

    fn read_into(&self, row: &FileRow, offset: u64, out: &mut [u8]) -> Answer<usize> {
        if row.id.0 & MERGE_BIT == 0 {
            if let (0, Some(epoch)) = (offset, self.epoch.get()) {
                self.foresight.reads(row.id, *epoch);
            }
            let got = self.content_bytes(&row.content, offset, out);
            self.foresight.answered(self.contents.longest_wait());
            return got;
        }
        let appended = self.ask(|reader| self.merged_tail(reader, row.id))?;
        let base_size = appended.base.map_or(0, |base| base.size);
        let end = offset.saturating_add(out.len() as u64);
        let of_base = match appended.base {
            Some(base) if offset < base_size => self.content_bytes(&base, offset, out)?,
            _ => 0,
        };
        let within =
            |at: u64| usize::try_from(at.saturating_sub(base_size)).unwrap_or(usize::MAX).min(appended.tail.len());
        let tail = &appended.tail[within(offset)..within(end)];
        out[of_base..of_base + tail.len()].copy_from_slice(tail);
        Ok(of_base + tail.len())
    }

    fn totals(&self) -> Answer<Totals> {
        let counts = self.ask(|reader| Ok(reader.counts()?))?;
        Ok(Totals { bytes: counts.live_bytes, files: counts.live_files })
    }
}
