//! Questions about the past and the present of paths: versions, contents, what the disk differs in.
//!
//! Invariant: reads only; works beside a daemon; an answer names versions by ids that every machine shares.

use std::collections::BTreeSet;

use super::error::{Kind, NodeError};
use super::open::{Glance, policy_of};
use crate::index::{ContentError, ContentReader, Dropped, Reader, Slot, Stored};
use crate::ledger::Identity;
use crate::model::{Content, ContentHash, ContentKind, RelPath, VersionId};
use crate::scan::{self, Root, WalkOptions};
use crate::state::BaseStat;
use crate::sync::IndexGraph;
use crate::sync::resolve::{Outcome, Resolution, resolve};

/// Conflicts looked at.
pub(super) const MAX_CONFLICTS: usize = 100_000;
/// Versions of one path that are searched for an id.
const MAX_HISTORY: usize = 100_000;
/// Shortest beginning of an id that is understood, in hex digits.
const MIN_ID_DIGITS: usize = 4;

/// How the disk differs from what was recorded of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskChange {
    /// Where.
    pub path: RelPath,
    /// True if there is a file now.
    pub on_disk: bool,
}

impl Glance {
    /// The index, or a sentence that there is none yet.
    pub fn index(&self) -> Result<&Reader, NodeError> {
        let none = || NodeError::user("nothing was recorded here yet", "run `larder sync` first");
        self.index.as_ref().ok_or_else(none)
    }

    /// Reads contents, or a sentence that there are none yet.
    pub fn contents(&self) -> Result<&ContentReader, NodeError> {
        let none = || NodeError::user("nothing was recorded here yet", "run `larder sync` first");
        self.contents.as_ref().ok_or_else(none)
    }

    /// The same, for whoever reads on when this look is over.
    pub fn take_contents(&mut self) -> Result<ContentReader, NodeError> {
        self.contents()?;
        let gone = || NodeError::new(Kind::Internal, "the contents were taken by somebody else");
        self.contents.take().ok_or_else(gone)
    }

    /// The slots of a path: one, unless spaces share it or several origins archive it.
    pub fn slots_of(&self, path: &RelPath) -> Result<Vec<Slot>, NodeError> {
        Ok(self.index()?.slots_at(path)?)
    }

    /// As `slots_of`; that there is none is an error.
    pub fn known_slots(&self, path: &RelPath) -> Result<Vec<Slot>, NodeError> {
        let slots = self.slots_of(path)?;
        if slots.is_empty() {
            let hint = format!("`larder explain {}` says whether it is kept", path.shown());
            return Err(NodeError::user(format!("{} has no versions", path.shown()), hint));
        }
        Ok(slots)
    }

    /// The newest versions of a path, newest first; of everything below it if it is a folder; of all if it is `None`.
    pub fn log(&self, path: Option<&RelPath>, limit: usize) -> Result<Vec<Stored>, NodeError> {
        let index = self.index()?;
        let Some(path) = path else { return Ok(index.newest(limit, |_| true)?) };
        let slots = self.slots_of(path)?;
        if slots.is_empty() {
            let below = format!("{}/", path.as_str());
            let versions = index.newest(limit, |path| path.as_str().starts_with(&below))?;
            return if versions.is_empty() { self.known_slots(path).map(|_| versions) } else { Ok(versions) };
        }
        let mut versions = Vec::new();
        for slot in &slots {
            versions.extend(index.history(slot, limit)?);
        }
        versions.sort_by_key(|stored| std::cmp::Reverse((stored.version.hlc, stored.id)));
        versions.truncate(limit);
        Ok(versions)
    }

    /// The version of a path that an id, or a unique beginning of one, names.
    pub fn version_of(&self, path: &RelPath, id: &str) -> Result<Stored, NodeError> {
        let hex = id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.len() >= MIN_ID_DIGITS;
        if !hex {
            let message = format!("{} is no version's id", larder_patterns::shown(id));
            return Err(NodeError::user(
                message,
                format!("take one from `larder log {}`, at least {MIN_ID_DIGITS} digits", path.shown()),
            ));
        }
        let id = id.to_ascii_lowercase();
        let mut found: Vec<Stored> = Vec::new();
        for slot in self.known_slots(path)? {
            let versions = self.index()?.history(&slot, MAX_HISTORY)?;
            found.extend(versions.into_iter().filter(|stored| stored.id.to_string().starts_with(&id)));
        }
        found.dedup_by_key(|stored| stored.id);
        let hint = format!("`larder log {}` lists them", path.shown());
        match found.len() {
            0 => Err(NodeError::user(format!("{} has no version {id}", path.shown()), hint)),
            1 => Ok(found.remove(0)),
            many => Err(NodeError::user(format!("{id} begins the ids of {many} versions"), "give more digits")),
        }
    }

    /// The version to go back to: the newest whose content differs from the path's content now, `back` steps back.
    pub fn version_before(&self, path: &RelPath, back: usize) -> Result<Stored, NodeError> {
        let (versions, is_away) = self.own_versions(path)?;
        // An archive file that never stood on this disk is behind its own newest version.
        let mut current = if is_away { Some(None) } else { versions.first().map(|stored| stored.version.content()) };
        let mut steps = Vec::new();
        for stored in versions.into_iter().skip(usize::from(!is_away)) {
            let content = stored.version.content();
            if Some(content) != current {
                current = Some(content);
                steps.push(stored);
            }
        }
        let contents: Vec<Stored> = steps.into_iter().filter(|stored| stored.version.content().is_some()).collect();
        let count = contents.len();
        let none = || {
            let versions = if count == 1 { "version" } else { "versions" };
            let message = format!("{} has {count} earlier {versions} with content", path.shown());
            NodeError::user(message, format!("`larder log {}` lists what there is", path.shown()))
        };
        contents.into_iter().nth(back.saturating_sub(1)).ok_or_else(none)
    }

    /// The versions of the file that stands at a path here, newest first, and whether it is an archive file of this machine that is
    /// recorded and not on the disk. Other machines' archive files of that name are others; they count where there is nothing else.
    fn own_versions(&self, path: &RelPath) -> Result<(Vec<Stored>, bool), NodeError> {
        let (index, own) = (self.index()?, self.identity.as_ref().map(Identity::origin));
        let slots = self.known_slots(path)?;
        let is_own = |slot: &Slot| slot.origin.is_none() || slot.origin.as_ref() == own;
        let has_own = slots.iter().any(is_own);
        let mut versions = Vec::new();
        for slot in slots.iter().filter(|slot| !has_own || is_own(slot)) {
            versions.extend(index.history(slot, MAX_HISTORY)?);
        }
        versions.sort_by_key(|stored| std::cmp::Reverse((stored.version.hlc, stored.id)));
        let is_archive = slots.iter().filter(|slot| !has_own || is_own(slot)).all(|slot| slot.origin.is_some());
        let base = self.state.as_ref().map(|state| state.base(path)).transpose()?.flatten();
        let stands = versions.first().is_some_and(|newest| newest.version.content().is_some());
        Ok((versions, is_archive && base.is_none() && stands))
    }

    /// What a slot resolves to.
    pub fn resolution(&self, slot: &Slot) -> Result<Resolution, NodeError> {
        let (index, contents) = (self.index()?, self.contents()?);
        Ok(resolve(&index.heads(slot)?, &IndexGraph::new(index, contents)))
    }

    /// The bytes of a content.
    pub fn bytes_of(&self, content: &Content) -> Result<Vec<u8>, NodeError> {
        self.contents()?.read_all(content).map_err(|error| self.lost(content, error))
    }

    /// Bytes that are gone for good are told apart from those that have not come yet.
    fn lost(&self, content: &Content, error: ContentError) -> NodeError {
        let away = matches!(error, ContentError::Missing { .. } | ContentError::MissingManifest { .. });
        match self.dropped(&content.hash) {
            Some(purged) if away && purged.purged => NodeError::user(
                format!("this content was {}", purged.sentence()),
                "a person let it go by name, on every machine; no machine hands it out any more",
            ),
            Some(dropped) if away => NodeError::user(
                format!("this content was {}", dropped.sentence()),
                "it was replaced longer ago than `retention`, and every machine knew of it; no machine holds it any more",
            ),
            _ => content_error(error),
        }
    }

    /// Who dropped a content for good, if none of its bytes can be read whole any more.
    pub fn gone(&self, content: &Content) -> Option<Dropped> {
        let dropped = self.dropped(&content.hash)?;
        let missing = self.index.as_ref()?.missing_segments(&content.hash, content.size, 1).ok()?;
        (!missing.is_empty()).then_some(dropped)
    }

    /// Who dropped a content for good, and when; `None` if nobody did.
    pub fn dropped(&self, content: &ContentHash) -> Option<Dropped> {
        // Without an answer nothing is said to be gone.
        self.index.as_ref()?.dropped(content).ok()?
    }

    /// The bytes a path shows now, on every machine that knows what this one knows; `None` if it is deleted.
    pub fn bytes_now(&self, slot: &Slot) -> Result<Option<Vec<u8>>, NodeError> {
        match self.resolution(slot)?.outcome {
            Outcome::Unknown | Outcome::Absent => Ok(None),
            Outcome::Content(content) => self.bytes_of(&content).map(Some),
            Outcome::Appended(appended) => {
                let mut bytes = appended.base.map(|base| self.bytes_of(&base)).transpose()?.unwrap_or_default();
                bytes.extend(appended.tail);
                Ok(Some(bytes))
            }
            Outcome::Pending(why) => {
                let message = format!("{} waits: {why}", slot.path.shown());
                Err(NodeError::new(Kind::Unavailable, message))
            }
        }
    }

    /// What the file on disk was recorded as; `None` if there is nothing.
    pub fn bytes_recorded(&self, path: &RelPath) -> Result<Option<Vec<u8>>, NodeError> {
        let base = self.state.as_ref().map(|state| state.base(path)).transpose()?.flatten();
        if let Some(base) = &base {
            let content = Content { hash: base.hash, size: base.stat.size, kind: base.kind };
            match self.contents()?.read_all(&content) {
                Ok(bytes) => return Ok(Some(bytes)),
                // A merge of line files is computed, never recorded: it is computed again below.
                Err(ContentError::MissingManifest { .. } | ContentError::Missing { .. }) => {}
                Err(error) => return Err(content_error(error)),
            }
        }
        for slot in self.slots_of(path)? {
            if let Some(bytes) = self.bytes_now(&slot)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The bytes of the file on disk, or a link's target; `None` if there is none.
    pub fn bytes_on_disk(&self, path: &RelPath) -> Result<Option<Vec<u8>>, NodeError> {
        let root = Root::open(&self.settings.root_dir)?;
        match scan::stat(&root, path)? {
            None => Ok(None),
            Some((scan::EntryKind::Link, _)) => Ok(Some(scan::read_link(&root, path)?.into_bytes())),
            Some((scan::EntryKind::File { .. }, stat)) => {
                let mut bytes = Vec::new();
                while (bytes.len() as u64) < stat.size {
                    let part = scan::read_range(&root, path, bytes.len() as u64, scan::MAX_RANGE_BYTES)?.bytes;
                    if part.is_empty() {
                        break;
                    }
                    bytes.extend(part);
                }
                Ok(Some(bytes))
            }
        }
    }

    /// How the disk differs from what was recorded, by path; below `path` if one is given.
    ///
    /// Unchanged files are not opened; a touched file with the same bytes is not listed.
    pub fn disk_changes(&self, path: Option<&RelPath>) -> Result<Vec<DiskChange>, NodeError> {
        let root = Root::open(&self.settings.root_dir)?;
        let policy = policy_of(&self.settings);
        let options = WalkOptions {
            respect_gitignore: policy.respect_gitignore,
            max_file_bytes: policy.max_file_bytes,
            below: path.cloned(),
            threads: 2,
            pattern_hits: false,
        };
        let listing = scan::walk(&root, &policy.rules, &options)?;
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        if let Some(state) = &self.state {
            state.for_each_stat(path, |known, _, kind, base| -> Result<(), NodeError> {
                let Some(entry) = listing.find(known) else {
                    let Ok(path) = RelPath::parse(known) else { return Ok(()) };
                    if policy.rules.admit(&path).is_ok() && listing.silence(&path).is_none() {
                        changes.push(DiskChange { path, on_disk: false });
                    }
                    return Ok(());
                };
                seen.insert(known.to_owned());
                if !same_facts(entry, kind, base) && self.differs(&root, entry)? {
                    changes.push(DiskChange { path: entry.path.path().clone(), on_disk: true });
                }
                Ok(())
            })?;
        }
        let new = listing.entries.iter().filter(|entry| !seen.contains(entry.path.path().as_str()));
        changes.extend(new.map(|entry| DiskChange { path: entry.path.path().clone(), on_disk: true }));
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }

    /// Reads the file in parts; what changes meanwhile differs.
    fn differs(&self, root: &Root, entry: &scan::Entry) -> Result<bool, NodeError> {
        let path = entry.path.path();
        let base = self.state.as_ref().map(|state| state.base(path)).transpose()?.flatten();
        let Some(base) = base.filter(|base| base.kind == kind_of(entry) && base.stat.size == entry.stat.size) else {
            return Ok(true);
        };
        if entry.kind == scan::EntryKind::Link {
            return Ok(ContentHash::of(scan::read_link(root, path)?.as_bytes()) != base.hash);
        }
        let mut hasher = blake3::Hasher::new();
        let read = scan::read(root, &entry.path, &entry.stat, u64::MAX, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        });
        Ok(read.is_err() || hasher.finalize().as_bytes()[..] != base.hash.as_bytes()[..])
    }

    /// Before a conflict of a path was settled: the version that was on disk then.
    pub fn before_settlement(&self, path: &RelPath) -> Result<VersionId, NodeError> {
        let (index, contents) = (self.index()?, self.contents()?);
        for slot in self.known_slots(path)? {
            let history = index.history(&slot, MAX_HISTORY)?;
            let Some(settled) = history.iter().find(|stored| stored.version.parents.len() > 1) else { continue };
            let mut heads = Vec::new();
            for parent in &settled.version.parents {
                heads.extend(index.version(parent)?);
            }
            let before = resolve(&heads, &IndexGraph::new(index, contents));
            if let Some(winner) = before.winner {
                return Ok(winner.id);
            }
        }
        let message = format!("{} has no settled conflict", path.shown());
        Err(NodeError::user(message, "`larder undo` takes back what the last run changed"))
    }
}

fn same_facts(entry: &scan::Entry, kind: ContentKind, base: &BaseStat) -> bool {
    let stat = &entry.stat;
    let stat_now = BaseStat {
        size: stat.size,
        mtime_ns: stat.mtime_ns,
        ctime_ns: stat.ctime_ns,
        inode: stat.inode,
        device: stat.device,
    };
    kind_of(entry) == kind && stat_now == *base
}

fn kind_of(entry: &scan::Entry) -> ContentKind {
    match entry.kind {
        scan::EntryKind::File { exec } => ContentKind::File { exec },
        scan::EntryKind::Link => ContentKind::Link,
    }
}

/// What is not here yet is somebody else's to bring; wrong bytes are damage.
pub(super) fn content_error(error: ContentError) -> NodeError {
    let away = matches!(error, ContentError::Missing { .. } | ContentError::MissingManifest { .. });
    match error {
        ContentError::Ledger(error) => error.into(),
        ContentError::Index(error) => error.into(),
        ContentError::TooLong { .. } => NodeError::user(error.to_string(), "read it from the disk or a mounted view"),
        other if away => NodeError {
            kind: Kind::Unavailable,
            message: other.to_string(),
            hint: Some("`larder sync` fetches it from any store that holds it".to_owned()),
        },
        other => NodeError::new(Kind::Damage, other.to_string()),
    }
}
