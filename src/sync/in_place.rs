//! In place: where a line file only grew, what was added is appended to the file that stands here.
//!
//! Invariant: the file is its base, and the base is proven to be the beginning of the new content, by hash and without
//! reading the file; an intent is durable before the first byte is added, the base is new after the last one is. Nothing
//! is displaced, as nothing is replaced. Whatever cannot be done this way is left to the exchange, and whatever stands in
//! the file after a stop is judged by reading it: all of the tail, a strict part of it, or somebody's edit.
//! See `docs/decisions/0007-the-receiver-appends-alone-or-exchanges.md`.

use std::fs::File;
use std::io::Read;

use rustix::fs;
use rustix::io::Errno;

use super::apply::close_step;
use super::graph::IndexGraph;
use super::grow::NotGrown;
use super::materialise::Step;
use super::place::{PlaceError, Spot, stat_of};
use super::resolve::{Appended, Graph, Outcome};
use super::{Engine, Report, Result, SyncError};
use crate::chunk::{ContentHasher, ResumeState, is_line_file};
use crate::model::{Content, ContentHash, ContentKind};
use crate::state::{Base, BaseStat, Intent};

/// Longer tails are exchanged, in bytes: memory, and the time that others are kept out, stay bounded.
const MAX_TAIL_BYTES: u64 = 16 << 20;
/// Bytes read at once when a file is judged.
const READ_BYTES: usize = 1 << 20;

/// What follows a base in the new content.
struct Tail {
    bytes: Vec<u8>,
    hash: ContentHash,
    resume: Vec<u8>,
}

/// A step that is an append, ready to be done.
struct Growth {
    step: Step,
    base: Base,
    spot: Spot,
    intent: Intent,
    tail: Tail,
}

impl Growth {
    /// The base after it.
    fn new_base(&self, stat: BaseStat) -> Base {
        let (hash, resume) = (self.tail.hash, Some(self.tail.resume.clone()));
        Base { versions: self.intent.new_versions.clone(), hash, stat, resume, ..self.base.clone() }
    }
}

/// What a stopped append left.
enum Left {
    /// The new content, or it with more after it; the base to take.
    Whole(Box<Base>),
    /// The old content and a strict part of the tail; the file's facts, what is missing, the base once it is there.
    Part(BaseStat, Vec<u8>, Box<Base>),
    /// The old content, or somebody's edit of it.
    Other,
    /// It cannot be read now, and why.
    Unread(String),
}

impl Engine {
    /// Appends where that is all there is to do. Returns the steps that are left.
    pub(super) fn append_in_place(&mut self, steps: Vec<Step>, report: &mut Report) -> Result<Vec<Step>> {
        let (mut growths, mut left) = (Vec::new(), Vec::new());
        for step in steps {
            match self.tail_of(&step)? {
                Some((base, tail)) => match self.growth(step, base, tail) {
                    Ok(growth) => growths.push(growth),
                    Err(step) => left.push(*step),
                },
                None => left.push(step),
            }
        }
        if growths.is_empty() {
            return Ok(left);
        }
        self.state.transaction(|state| {
            growths.iter().try_for_each(|growth| Ok::<(), SyncError>(state.add_intent(&growth.intent)?))
        })?;
        let mut done = Vec::with_capacity(growths.len());
        for growth in growths {
            match growth.spot.grow(&growth.base.stat, &growth.tail.bytes) {
                Ok(stat) => done.push((growth.new_base(stat), growth)),
                Err(NotGrown::Untouched) => {
                    self.state.remove_intent(&growth.intent.id)?;
                    left.push(growth.step);
                }
                Err(NotGrown::TakenBack(why)) => {
                    self.state.remove_intent(&growth.intent.id)?;
                    self.wait_for(growth.step.path(), &why, report)?;
                }
                Err(NotGrown::Unclear(why)) => {
                    self.wait_for(growth.step.path(), &why, report)?;
                    self.settle_append(&growth.intent)?;
                }
            }
        }
        let batch = self.undo_batch_of_this_run()?;
        self.state.transaction(|state| {
            done.iter()
                .try_for_each(|(base, growth)| close_step(state, batch, &growth.step, &growth.intent, Some(base)))
        })?;
        Ok(left)
    }

    fn growth(&self, step: Step, base: Base, tail: Tail) -> std::result::Result<Growth, Box<Step>> {
        let Ok(Some(spot)) = Spot::open(&self.root, step.path(), false) else { return Err(Box::new(step)) };
        let intent = Intent {
            id: self.env.random_base32(20),
            path: base.path.clone(),
            channel: base.channel,
            old_versions: base.versions.clone(),
            old_hash: Some(base.hash),
            new_versions: step.resolution.versions.clone(),
            new_hash: Some(tail.hash),
            new_size: base.stat.size + tail.bytes.len() as u64,
            new_kind: base.kind,
            beside: false,
            append_from: Some(base.stat.size),
        };
        Ok(Growth { step, base, spot, intent, tail })
    }

    /// What a step adds to its base, if that is all it does.
    ///
    /// Only the end of the new content is read. Hashing on from the base's subtrees over the bytes that stand before the
    /// tail gives the base's hash; over the tail as well it gives the new content's. So both begin with the same bytes.
    fn tail_of(&self, step: &Step) -> Result<Option<(Base, Tail)>> {
        let outcome = &step.resolution.outcome;
        let (Some(base), Some((size, kind))) = (&step.base, super::content::shape_of(outcome)) else { return Ok(None) };
        let added = size.saturating_sub(base.stat.size);
        let is_line_file = kind != ContentKind::Link && is_line_file(&base.path);
        if step.remove || !is_line_file || kind != base.kind || added == 0 || added > MAX_TAIL_BYTES {
            return Ok(None);
        }
        let state = base.resume.as_deref().and_then(|bytes| ResumeState::from_bytes(bytes).ok());
        let Some(state) = state.filter(|state| state.size() == base.stat.size) else { return Ok(None) };
        let Some(end) = self.bytes_from(outcome, state.offset()) else { return Ok(None) };
        let Some((again, tail)) = end.split_at_checked((base.stat.size - state.offset()) as usize) else {
            return Ok(None);
        };
        let mut hasher = ContentHasher::resume(&state);
        hasher.update(again);
        if hasher.finish() != base.hash {
            return Ok(None);
        }
        hasher.update(tail);
        let hash = hasher.finish();
        let is_prefix = match outcome {
            Outcome::Content(content) => content.hash == hash,
            Outcome::Appended(appended) => self.begins_merge(base, appended),
            _ => false,
        };
        let tail = Tail { bytes: tail.to_vec(), hash, resume: hasher.state().to_bytes() };
        Ok(is_prefix.then(|| (base.clone(), tail)))
    }

    /// True if a merged content, whose hash nobody told, begins with the base's bytes.
    fn begins_merge(&self, base: &Base, merged: &Appended) -> bool {
        let Some(ancestor) = merged.base else { return false };
        let old = Content { hash: base.hash, size: base.stat.size, kind: base.kind };
        if (old.hash, old.size) == (ancestor.hash, ancestor.size) {
            return true;
        }
        let Some(own) = old.size.checked_sub(ancestor.size) else { return false };
        let Some(expected) = merged.tail.get(..own as usize) else { return false };
        let graph = IndexGraph::new(&self.index, &self.contents);
        graph.share_prefix(&ancestor, &old, ancestor.size) == Some(true)
            && graph.bytes(&old, ancestor.size, own).is_some_and(|bytes| bytes == expected)
    }

    /// Finishes an append that was stopped, or leaves what stands there to be looked at as an edit of the old base.
    pub(super) fn settle_append(&mut self, intent: &Intent) -> Result<()> {
        let spot = match Spot::open(&self.root, &intent.path, false) {
            Ok(spot) => spot,
            Err(PlaceError::InTheWay { .. }) => None,
            // Half an append would look like an edit once it can be looked at.
            Err(away) => return self.keep_waiting(intent, &away.to_string()),
        };
        let base = match &spot {
            None => None,
            Some(spot) => match self.left_by(intent, spot)? {
                Left::Other => None,
                Left::Unread(why) => return self.keep_waiting(intent, &why),
                Left::Whole(base) => Some(*base),
                Left::Part(stat, missing, base) => match spot.grow(&stat, &missing) {
                    Ok(stat) => Some(Base { stat, ..*base }),
                    Err(NotGrown::Untouched) => return self.keep_waiting(intent, "somebody else has it open"),
                    Err(NotGrown::TakenBack(why) | NotGrown::Unclear(why)) => {
                        return self.keep_waiting(intent, &why.to_string());
                    }
                },
            },
        };
        self.state.transaction(|state| {
            if let Some(base) = &base {
                state.set_base(base)?;
            }
            state.set_pending(&intent.path, "write", "was interrupted", 0)?;
            Ok::<(), SyncError>(state.remove_intent(&intent.id)?)
        })?;
        self.again.settled(intent.path.clone());
        Ok(())
    }

    /// The intent stays open, and with it the path as it is, until a later run can finish it.
    fn keep_waiting(&mut self, intent: &Intent, why: &str) -> Result<()> {
        self.unfinished.insert(intent.path.clone());
        let why = format!("an append to it was interrupted and is finished later: {why}");
        Ok(self.state.set_pending(&intent.path, "write", &why, self.now_ms() as i64)?)
    }

    /// Judges by its bytes what stands at the path of a stopped append.
    ///
    /// The whole file is read: our own write moved the times, so they cannot tell whether somebody changed its beginning
    /// since, and a start after a kill is rare.
    fn left_by(&self, intent: &Intent, spot: &Spot) -> Result<Left> {
        let (Some(from), Some(new)) = (intent.append_from, intent.new_hash) else { return Ok(Left::Other) };
        let file = match open_file(spot) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Left::Other),
            Err(error) => return Ok(Left::Unread(error.to_string())),
        };
        // Whatever stands there, no intent speaks of it afterwards: a loss of power must not bring back a part of the tail.
        let before = match fs::fdatasync(&file).map_err(Into::into).and_then(|()| stat_of(&file)) {
            Ok(before) => before,
            Err(error) => return Ok(Left::Unread(error.to_string())),
        };
        let read = match read_through(&file, from, intent.new_size) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Left::Other),
            Err(error) => return Ok(Left::Unread(error.to_string())),
        };
        let is_still = stat_of(&file).is_ok_and(|after| after == before);
        if Some(read.old) != intent.old_hash {
            return Ok(Left::Other);
        }
        let base = |hasher: &ContentHasher, stat: BaseStat| {
            let resume = (stat != BaseStat::default()).then(|| hasher.state().to_bytes());
            let (path, versions) = (intent.path.clone(), intent.new_versions.clone());
            Box::new(Base { path, channel: intent.channel, versions, hash: new, kind: intent.new_kind, stat, resume })
        };
        if read.upto_new.finish() == new {
            // More behind it, or a change meanwhile, is an edit of the new content.
            let is_all = is_still && before.size == intent.new_size;
            return Ok(Left::Whole(base(&read.upto_new, if is_all { before } else { BaseStat::default() })));
        }
        let Some(tail) = self.tail_again(intent, from)? else { return Ok(Left::Other) };
        let Some(missing) = tail.strip_prefix(read.added.as_slice()) else { return Ok(Left::Other) };
        let mut hasher = read.upto_new;
        hasher.update(missing);
        let is_part = is_still && !read.added.is_empty() && hasher.finish() == new;
        Ok(if is_part { Left::Part(before, missing.to_vec(), base(&hasher, before)) } else { Left::Other })
    }

    /// The tail of a stopped append, out of the ledger.
    fn tail_again(&self, intent: &Intent, from: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.new_outcome(intent)?.and_then(|outcome| self.bytes_from(&outcome, from)))
    }
}

/// What a reading of a grown file told.
struct ReadThrough {
    /// The hash of the bytes before the append.
    old: ContentHash,
    /// What stands after them, up to the new size.
    added: Vec<u8>,
    /// Hashed up to the new size, or to the end.
    upto_new: ContentHasher,
}

/// Reads a file up to `to`; `None` if it ends before `from`.
fn read_through(mut file: &File, from: u64, to: u64) -> std::io::Result<Option<ReadThrough>> {
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![0; READ_BYTES];
    while hasher.size() < from {
        let room = buffer.len().min((from - hasher.size()) as usize);
        match file.read(&mut buffer[..room])? {
            0 => return Ok(None),
            count => hasher.update(&buffer[..count]),
        }
    }
    let old = hasher.finish();
    let mut added = Vec::new();
    file.take(to.saturating_sub(from)).read_to_end(&mut added)?;
    hasher.update(&added);
    Ok(Some(ReadThrough { old, added, upto_new: hasher }))
}

/// The regular file at a spot, for reading; `None` if there is none.
fn open_file(spot: &Spot) -> std::result::Result<Option<File>, Errno> {
    use fs::{FileType, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match fs::openat(spot.folder(), spot.name(), flags, Mode::empty()) {
        // A link, or a socket.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        other => other?,
    };
    let is_file = fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    Ok(is_file.then(|| File::from(file)))
}
