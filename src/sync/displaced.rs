//! Displaced: what a replace took away is kept for a day, and until its bytes are known to be recorded. Beyond a bound of bytes and
//! files the oldest go as soon as nobody has them open for writing any more: nobody else has a name for them.
//!
//! Bytes of the versions that it stands on, of whatever these merge into, or of anything else that is recorded are no edit.
//!
//! Invariant: a row of a displaced file goes only when the file is seen to be gone, or was removed. What cannot be looked at (a disk that
//! fails, a folder that may not be entered, no handles left) is neither: it stays, is named in `status`, and is looked at by each run.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use larder_patterns::{CONTENT_HEAD_BYTES, denied_content};
use rustix::fs::{self, AtFlags, FileType, statat, unlinkat};
use rustix::io::Errno;

use super::graph::IndexGraph;
use super::place::{BESIDE_PREFIX, PlaceError, Spot, stat_of};
use super::publish::Draft;
use super::resolve::resolve;
use super::{Change, Engine, Report, Result, SyncError, io};
use crate::chunk::{Chunker, CutKind};
use crate::model::{
    Content, ContentHash, ContentKind, Manifest, RelPath, SegmentHash, SegmentRef, State as VersionState, VersionId,
};
use crate::scan;
use crate::state::{Displaced, Problem};

/// Displaced files are kept this long, in milliseconds.
const KEEP_MS: i64 = 24 * 3_600_000;
/// Above this many, proven ones go before their time, whoever has them open.
const MOST_FILES: usize = 20_000;
/// Up to this many, and this many bytes, the newest are kept for their time.
const KEEP_FILES: usize = 1_000;
const KEEP_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Who tells in `status` of those that cannot be looked at.
const SOURCE: &str = "displaced";
/// Lines of them in `status`.
const MAX_TOLD: usize = 20;

/// What stands under the name of a staged or displaced file.
pub(super) enum Held {
    /// Nothing: the only answer that says so.
    Gone,
    /// Something that cannot be read, with the reason.
    Unread(String),
    /// These bytes, and how many.
    Is(ContentHash, u64),
}

impl Engine {
    /// True if every byte of a content is in the ledger.
    pub(super) fn ledger_has(&self, hash: &ContentHash, size: u64) -> Result<bool> {
        if size == 0 || self.index.has_segment(&SegmentHash(hash.0))? {
            return Ok(true);
        }
        Ok(self.index.knows_content(hash)?)
    }

    /// True if a displaced file holds what is recorded, be it that its bytes were let go since.
    fn is_no_edit(&self, one: &Displaced, hash: &ContentHash, size: u64) -> Result<bool> {
        // What was merged and never published is known once, and not again when a part of it was let go.
        let was_merged = one.versions.len() > 1 && one.hash == Some(*hash);
        if was_merged || self.is_of(hash, &one.versions)? {
            return Ok(true);
        }
        // Bytes that are known elsewhere are safe, but that somebody saved them here is told by nothing else.
        if one.hash.is_none() { self.is_recorded(one, hash) } else { self.ledger_has(hash, size) }
    }

    /// True if a version of the path says what a displaced file holds: its edit, recorded before a stop, or what stands there for all.
    fn is_recorded(&self, one: &Displaced, hash: &ContentHash) -> Result<bool> {
        let slot = self.slot_of(one.channel, &one.path);
        let heads: BTreeSet<VersionId> = self.index.heads(&slot)?.iter().map(|head| head.id).collect();
        for id in self.index.versions_of_content(hash)? {
            let Some(stored) = self.index.version(&id)? else { continue };
            let parents = &stored.version.parents;
            let stands_on_it = parents.iter().any(|parent| one.versions.contains(parent))
                || (parents.is_empty() && one.versions.is_empty());
            if stored.version.path == one.path && (stands_on_it || heads.contains(&id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if one of these versions has exactly this content, or all of them together.
    fn is_of(&self, hash: &ContentHash, versions: &[VersionId]) -> Result<bool> {
        let mut stored = Vec::with_capacity(versions.len());
        for id in versions {
            stored.extend(self.index.version(id)?);
        }
        let mut contents = stored.iter().filter_map(|stored| stored.version.content());
        if contents.any(|content| content.hash == *hash) {
            return Ok(true);
        }
        if stored.len() < 2 {
            return Ok(false);
        }
        let merged = resolve(&stored, &IndexGraph::new(&self.index, &self.contents)).outcome;
        let mut pieces = self.pieces(&merged);
        // Where bytes are missing the hash is another one.
        while let Ok(Some(_)) = pieces.next() {}
        Ok(pieces.hash() == *hash)
    }

    /// True if one of these versions has one of these contents.
    pub(super) fn stands_on(&self, versions: &[VersionId], contents: &BTreeSet<ContentHash>) -> Result<bool> {
        for id in versions {
            let content = self.index.version(id)?.and_then(|stored| stored.version.content());
            if content.is_some_and(|content| contents.contains(&content.hash)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a displaced file stands: the folder it is beside of, if it is beside its place.
    pub(super) fn spot_of(&self, one: &Displaced) -> std::result::Result<Option<Spot>, PlaceError> {
        if one.beside { Spot::open(&self.root, &one.path, false) } else { Ok(None) }
    }

    /// What a displaced file holds now.
    pub(super) fn held(&self, one: &Displaced) -> Held {
        let spot = match self.spot_of(one) {
            // Another thing has the name of its folder: that folder is gone, with what was in it.
            Err(PlaceError::InTheWay { .. }) => None,
            Err(error) => return Held::Unread(error.to_string()),
            Ok(spot) => spot,
        };
        self.displaced_place(one, spot.as_ref()).map_or(Held::Gone, |(dir, name)| held_at(dir, &name))
    }

    /// Drops displaced files that are old enough and proven; records those that are not. Called once a run.
    pub fn sweep_displaced(&mut self, report: &mut Report) -> Result<()> {
        let now = self.now_ms() as i64;
        let displaced = self.state.displaced()?;
        let surplus = displaced.len().saturating_sub(MOST_FILES);
        let beyond = self.beyond_the_bound(&displaced);
        let mut problems = Vec::new();
        for (i, one) in displaced.iter().enumerate() {
            let is_old = now.saturating_sub(one.since_ms) >= KEEP_MS || i < surplus;
            // Asked before its bytes are looked at: from then on they stay as they are.
            let is_due = is_old || (i < beyond && self.is_left_alone(one));
            if !is_due && one.hash.is_some() {
                continue;
            }
            if let Err(why) = self.prove_displaced(one, is_due, report)? {
                problems.push(Problem { path: one.path.shown(), what: sentence(one, &why) });
            }
        }
        problems.truncate(MAX_TOLD);
        Ok(self.state.set_problems(SOURCE, &problems, now)?)
    }

    /// How many of the oldest are more than is kept for its time.
    fn beyond_the_bound(&mut self, displaced: &[Displaced]) -> usize {
        let known = std::mem::take(&mut self.displaced_bytes);
        let mut bytes = 0u64;
        let mut beyond = displaced.len().saturating_sub(KEEP_FILES);
        for (i, one) in displaced.iter().enumerate().rev() {
            // What nobody can look at weighs nothing: it stays anyway.
            let size = known.get(&one.id).copied().unwrap_or_else(|| self.displaced_size(one).unwrap_or(0));
            self.displaced_bytes.insert(one.id.clone(), size);
            bytes = bytes.saturating_add(size);
            if bytes > KEEP_BYTES {
                beyond = beyond.max(i + 1);
            }
        }
        beyond
    }

    fn displaced_size(&self, one: &Displaced) -> Option<u64> {
        let spot = self.spot_of(one).ok()?;
        let (dir, name) = self.displaced_place(one, spot.as_ref())?;
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// True if nobody has it open for writing, so that nothing is written to it any more.
    fn is_left_alone(&self, one: &Displaced) -> bool {
        let Ok(spot) = self.spot_of(one) else { return false };
        let Some((dir, name)) = self.displaced_place(one, spot.as_ref()) else { return false };
        if rustix::fs::readlinkat(dir, name.as_str(), Vec::new()).is_ok() {
            return true;
        }
        open_displaced(dir, &name).is_ok_and(|file| scan::is_written_elsewhere(file.as_fd()) == Ok(false))
    }

    /// Looks at one displaced file: what is recorded is noted, and goes if it is due; what is not becomes a version. The inner error says
    /// why it cannot be told.
    pub(crate) fn prove_displaced(
        &mut self,
        one: &Displaced,
        is_due: bool,
        report: &mut Report,
    ) -> Result<std::result::Result<(), String>> {
        match self.held(one) {
            Held::Gone => Ok(Ok(self.state.remove_displaced(&one.id)?)),
            Held::Unread(why) => Ok(Err(why)),
            Held::Is(hash, size) if self.is_no_edit(one, &hash, size)? => {
                if is_due {
                    return self.unlink_displaced(one);
                }
                Ok(Ok(self.state.set_displaced(&Displaced { hash: Some(hash), ..one.clone() })?))
            }
            // Put together of what a person let go since, and never looked at: most likely no edit, and not to be published by mistake.
            Held::Is(..)
                if one.versions.len() > 1 && self.stands_on(&one.versions, &self.index.purged_contents()?)? =>
            {
                Ok(Err("it was put together of what was purged since".to_owned()))
            }
            Held::Is(..) => self.record_displaced(one, report),
        }
    }

    /// Why bytes that slipped in stay where they are: what no look at the path would record is not recorded here either.
    fn kept_back(&self, one: &Displaced, dir: BorrowedFd<'_>, name: &str) -> Option<String> {
        match self.policy.rules.admit(&one.path) {
            Ok(admitted) if admitted.channel() == one.channel => {}
            Ok(admitted) => return Some(format!("today's patterns say {} of its path", admitted.channel())),
            Err(refusal) => return Some(refusal.to_string()),
        }
        if self.is_ignored(&one.path) {
            return Some("a .gitignore leaves out its path".to_owned());
        }
        if rustix::fs::readlinkat(dir, name, Vec::new()).is_ok() {
            return None;
        }
        let mut head = Vec::new();
        let file = match open_displaced(dir, name) {
            Ok(file) => file,
            // What cannot be looked at now is not published unseen.
            Err(error) => return Some(error.to_string()),
        };
        if file.metadata().is_ok_and(|facts| facts.len() > self.policy.max_file_bytes) {
            return Some("it is larger than maxFileBytes".to_owned());
        }
        if let Err(error) = file.take(CONTENT_HEAD_BYTES as u64).read_to_end(&mut head) {
            return Some(error.to_string());
        }
        denied_content(&head).map(|denied| denied.to_string())
    }

    /// True if a look at the path would be told to leave it out.
    pub(super) fn is_ignored(&self, path: &RelPath) -> bool {
        self.policy.respect_gitignore && scan::Ignored::new(&self.root).names(path)
    }

    /// Removes a displaced file, and its row if it is gone then. The inner error says why it is not.
    pub(super) fn unlink_displaced(&mut self, one: &Displaced) -> Result<std::result::Result<(), String>> {
        let spot = match self.spot_of(one) {
            Err(PlaceError::InTheWay { .. }) => None,
            Err(error) => return Ok(Err(error.to_string())),
            Ok(spot) => spot,
        };
        if let Some((dir, name)) = self.displaced_place(one, spot.as_ref()) {
            match unlinkat(dir, name.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Ok(Err(format!("remove it: {errno}"))),
            }
        }
        Ok(Ok(self.state.remove_displaced(&one.id)?))
    }

    /// Bytes that are no recorded version become one, with the old base as parent. The inner error says why they cannot be read.
    fn record_displaced(&mut self, one: &Displaced, report: &mut Report) -> Result<std::result::Result<(), String>> {
        let spot = match self.spot_of(one) {
            Err(error) => return Ok(Err(error.to_string())),
            Ok(spot) => spot,
        };
        if let Some((dir, name)) = self.displaced_place(one, spot.as_ref())
            && let Some(why) = self.kept_back(one, dir, &name)
        {
            return Ok(Err(why));
        }
        let slot = self.slot_of(one.channel, &one.path);
        let pen = self.pen();
        let mut open = self.open_batch(&pen, &slot.space)?;
        let Some((dir, name)) = self.displaced_place(one, spot.as_ref()) else { return Ok(Ok(())) };
        let (kind, bytes) = match read_of(dir, &name) {
            Ok(read) => read,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let sink = |segment: SegmentRef, bytes: &[u8]| self.add_segment(&mut open, segment.0, bytes);
        let split = match Chunker::new().split(bytes, CutKind::of(&one.path), sink) {
            Ok(split) => split,
            Err(SyncError::Io { source, .. }) => return Ok(Err(source.to_string())),
            Err(error) => return Err(error),
        };
        let manifest: Manifest = split.manifest;
        let mut parents = Vec::new();
        for id in &one.versions {
            parents.extend(self.index.version(id)?);
        }
        self.add_manifest(&mut open, &manifest, &parents)?;
        let content = Content { hash: manifest.content, size: manifest.size, kind };
        let state = VersionState::Content(content);
        let channel = one.channel;
        let draft = Draft { slot: slot.clone(), channel, parents, state, moved_from: None, via: None, adopted: false };
        let version = self.version_of(draft)?;
        open.batch.version(version)?;
        open.versions += 1;
        self.close_batch(&slot.space, open, report)?;
        report.recorded.push((one.path.shown(), Change::Edited));
        Ok(Ok(self.state.set_displaced(&Displaced { hash: Some(content.hash), ..one.clone() })?))
    }
}

/// What `status` says of a displaced file that cannot be looked at.
fn sentence(one: &Displaced, why: &str) -> String {
    let place = if one.beside {
        format!("{BESIDE_PREFIX}{} beside it", one.id)
    } else {
        format!(".larder/displaced/{}", one.id)
    };
    format!(
        "what it held before a sync replaced it ({place}) is not known to be recorded ({why}); it may be an edit that is nowhere else, so it stays and each run tries again; remove it if nobody needs it"
    )
}

/// True if anything has that name. Errors: it cannot be told.
pub(super) fn stands_at(dir: BorrowedFd<'_>, name: &str) -> std::result::Result<bool, PlaceError> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What stands under a name.
pub(super) fn held_at(dir: BorrowedFd<'_>, name: &str) -> Held {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Held::Gone,
        Err(errno) => return Held::Unread(errno.to_string()),
    };
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let kind = if is_link { ContentKind::Link } else { ContentKind::File { exec: false } };
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    match hash_displaced(dir, name, Some(kind)) {
        Ok(hash) => Held::Is(hash, size),
        Err(error) => Held::Unread(error.to_string()),
    }
}

/// The bytes of a displaced file, or the target of a displaced link.
fn read_of(dir: BorrowedFd<'_>, name: &str) -> Result<(ContentKind, Box<dyn Read>)> {
    if let Ok(target) = fs::readlinkat(dir, name, Vec::new()) {
        return Ok((ContentKind::Link, Box::new(Cursor::new(target.into_bytes()))));
    }
    let file = open_displaced(dir, name)?;
    let exec = file.metadata().is_ok_and(|meta| meta.mode() & 0o100 != 0);
    Ok((ContentKind::File { exec }, Box::new(file)))
}

/// Hashes a displaced file, or the target of a displaced link.
pub(super) fn hash_displaced(dir: BorrowedFd<'_>, name: &str, kind: Option<ContentKind>) -> Result<ContentHash> {
    if kind == Some(ContentKind::Link) {
        let target =
            fs::readlinkat(dir, name, Vec::new()).map_err(|errno| io("read a displaced link")(errno.into()))?;
        return Ok(ContentHash::of(target.as_bytes()));
    }
    let mut file = open_displaced(dir, name)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(io("read a displaced file"))?;
    Ok(ContentHash(crate::model::Hash::from_bytes(*hasher.finalize().as_bytes())))
}

pub(super) fn open_displaced(dir: BorrowedFd<'_>, name: &str) -> Result<File> {
    let flags = fs::OFlags::RDONLY | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC | fs::OFlags::NONBLOCK;
    let fd = fs::openat(dir, name, flags, fs::Mode::empty());
    let file = fd.map(File::from).map_err(|errno| io("open a displaced file")(errno.into()))?;
    // The facts are read so that a pipe or device under this name is refused before a byte is.
    stat_of(&file).map_err(io("look at a displaced file"))?;
    Ok(file)
}
