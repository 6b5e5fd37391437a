//! A bundle that came: looked through once, then a place that gives what was whole in it.
//!
//! The look goes from entry to entry by the lengths in their heads and proves each body. Behind anything damaged it goes on byte
//! by byte to the next head that is whole. Invariant: a look reads at most a fixed multiple of the file, whatever
//! stands in it; one handle, opened once, is all that is ever read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::frame::{BEGIN, END, END_BYTES, ENTRY, Head, MAX_HEAD_BYTES, is_entry_name, parse_end};
use super::{Body, failed, not_here};
use crate::transport::error::printable;
use crate::transport::{
    ListRequest, Listing, Put, Transport, TransportError, TransportErrorKind, WaitHint, Wake, memory,
};

/// Entries that are taken.
const MAX_ENTRIES: usize = 2_000_000;
/// Sentences about damage; with more of it the look ends.
const MAX_DAMAGED: usize = 1_000;
/// How often the file's length may be read in one look.
const MAX_PASSES: u64 = 4;
const WINDOW_BYTES: usize = 256 << 10;

/// What is whole in a bundle.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    label: String,
    entries: BTreeMap<String, Body>,
    damage: Vec<String>,
}

impl Bundle {
    /// Looks through the file at `path`.
    ///
    /// Errors: Unavailable if it cannot be read; Unsupported if it is no bundle, or one of a newer release.
    pub fn open(path: &Path) -> Result<Bundle, TransportError> {
        let shown = larder_patterns::shown(&path.to_string_lossy());
        let refused = |kind, detail: &str| TransportError::new(kind, "open", &shown, detail);
        // A pipe must not block the look that finds out that it is one.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        let file = opened.map_err(|error| failed("open", &shown, error))?;
        let metadata = file.metadata().map_err(|error| failed("open", &shown, error))?;
        if !metadata.is_file() {
            return Err(refused(TransportErrorKind::Unsupported, "it is no file"));
        }
        let mut look = Look::new(&file, metadata.len());
        let looked = look.all().map_err(|error| failed("open", &shown, error))?;
        let Look { entries, damage, .. } = look;
        match looked {
            Looked::Through => Ok(Bundle { label: format!("bundle {shown}"), entries, damage, file }),
            Looked::Newer => Err(refused(TransportErrorKind::Unsupported, "a newer release made it: upgrade larder")),
            Looked::NoBundle => Err(refused(TransportErrorKind::Unsupported, "it is no bundle of larder")),
        }
    }

    /// What is damaged or missing in it, one sentence each; empty if it is as it was written.
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    /// How many artifacts are whole.
    pub fn count(&self) -> u64 {
        self.entries.len() as u64
    }
}

impl Transport for Bundle {
    fn list(&self, request: &ListRequest) -> Result<Listing, TransportError> {
        Ok(memory::page(&self.entries, request))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, max_bytes: u64) -> Result<Vec<u8>, TransportError> {
        let body = *self.entries.get(name).ok_or_else(|| not_here(name))?;
        body.read(&self.file, name, range, max_bytes)
    }

    fn put_new(&self, name: &str, _bytes: &[u8]) -> Result<Put, TransportError> {
        let detail = "a bundle that is there is only read";
        Err(TransportError::new(TransportErrorKind::Denied, "put", name, detail))
    }

    fn wait(&self, _hint: &WaitHint) -> Result<Wake, TransportError> {
        Err(TransportError::new(TransportErrorKind::Unsupported, "wait", &self.label, "a bundle has no news"))
    }

    fn label(&self) -> &str {
        &self.label
    }
}

/// What a look found the file to be.
enum Looked {
    Through,
    Newer,
    NoBundle,
}

/// One look at a file.
struct Look<'a> {
    file: &'a File,
    size_bytes: u64,
    /// Bytes that may still be read.
    budget: u64,
    entries: BTreeMap<String, Body>,
    damage: Vec<String>,
}

impl<'a> Look<'a> {
    fn new(file: &'a File, size_bytes: u64) -> Look<'a> {
        let budget = size_bytes.saturating_mul(MAX_PASSES).saturating_add(WINDOW_BYTES as u64);
        Look { file, size_bytes, budget, entries: BTreeMap::new(), damage: Vec::new() }
    }

    fn all(&mut self) -> io::Result<Looked> {
        let begin = self.window(0, BEGIN.len())?;
        let follows = Head::parse(&self.window(BEGIN.len() as u64, MAX_HEAD_BYTES)?).is_some();
        if begin != BEGIN && !follows {
            let newer = begin.starts_with(&BEGIN[..7]) && begin.len() == BEGIN.len();
            return Ok(if newer { Looked::Newer } else { Looked::NoBundle });
        }
        if begin != BEGIN {
            self.tell("its beginning is damaged".to_owned());
        }
        let mut at = BEGIN.len() as u64;
        loop {
            let head = self.window(at, MAX_HEAD_BYTES)?;
            self.spend(END_BYTES as u64);
            if let Some(count) = parse_end(&head) {
                self.close(at, count);
                return Ok(Looked::Through);
            }
            let next = match Head::parse(&head) {
                Some(head) => self.entry(at, head)?,
                None => {
                    let cut = if at == self.size_bytes { "it is cut off" } else { "something unreadable stands" };
                    self.tell(format!("{cut} at byte {at}"));
                    None
                }
            };
            // Not past the mark that stands here: a head that lies about its length may hide the next one.
            at = match next {
                Some(next) => next,
                None => self.next_mark(at + 1)?,
            };
            if at >= self.size_bytes || self.is_spent() {
                self.give_up(at);
                return Ok(Looked::Through);
            }
        }
    }

    /// Proves an entry. Where it ends; `None` if it is not whole.
    fn entry(&mut self, at: u64, head: Head) -> io::Result<Option<u64>> {
        let body = Body { offset: at + head.len(), size_bytes: head.size_bytes };
        self.spend(head.len());
        let shown = printable(&head.name);
        if body.offset + body.size_bytes > self.size_bytes {
            self.tell(format!("{shown}: it is cut off"));
            return Ok(None);
        }
        if !self.is_whole(body, &head)? {
            self.tell(format!("{shown}: its bytes are damaged"));
            return Ok(None);
        }
        if !is_entry_name(&head.name) {
            self.tell(format!("{shown}: no artifact can have this name"));
        } else if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&head.name) {
            self.tell(format!("{shown}: it has more than {MAX_ENTRIES} entries"));
            self.budget = 0;
        } else if self.entries.get(&head.name).is_some_and(|first| first.size_bytes != body.size_bytes) {
            self.tell(format!("{shown}: it stands there twice, in two ways"));
        } else {
            self.entries.entry(head.name).or_insert(body);
        }
        Ok(Some(body.offset + body.size_bytes))
    }

    fn is_whole(&mut self, body: Body, head: &Head) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut at = body.offset;
        let end = body.offset + body.size_bytes;
        while at < end && !self.is_spent() {
            let bytes = self.window(at, WINDOW_BYTES.min((end - at) as usize))?;
            self.spend(bytes.len() as u64);
            if bytes.is_empty() {
                // It became shorter meanwhile.
                return Ok(false);
            }
            hasher.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(at == end && hasher.finalize().as_bytes() == head.hash.as_bytes())
    }

    /// The next place at or after `from` where a head or the end stands whole; the file's end if there is none.
    fn next_mark(&mut self, from: u64) -> io::Result<u64> {
        let mut at = from;
        while at < self.size_bytes && !self.is_spent() {
            let bytes = self.window(at, WINDOW_BYTES)?;
            self.spend(bytes.len() as u64);
            let marks = bytes.windows(ENTRY.len()).enumerate().filter(|(_, mark)| *mark == ENTRY || *mark == END);
            let marks: Vec<u64> = marks.map(|(index, _)| at + index as u64).collect();
            for mark in marks {
                if self.is_spent() {
                    return Ok(mark);
                }
                let head = self.window(mark, MAX_HEAD_BYTES)?;
                self.spend(head.len() as u64);
                if Head::parse(&head).is_some() || parse_end(&head).is_some() {
                    return Ok(mark);
                }
            }
            // A mark may lie across the border.
            at += (bytes.len().saturating_sub(ENTRY.len() - 1)).max(1) as u64;
        }
        Ok(at.min(self.size_bytes))
    }

    /// The end was reached: does it say what was found?
    fn close(&mut self, at: u64, count: u64) {
        let found = self.entries.len() as u64;
        if self.damage.is_empty() && found != count {
            self.tell(format!("it should hold {count} artifacts and holds {found}"));
        }
        let behind = self.size_bytes - at - END_BYTES as u64;
        if behind > 0 {
            self.tell(format!("{behind} bytes stand behind its end"));
        }
    }

    /// The file ended, or too much was read, before the end was found.
    fn give_up(&mut self, at: u64) {
        if at < self.size_bytes {
            self.tell(format!("too much of it is damaged: the rest, from byte {at} on, was not looked at"));
        } else {
            self.tell("its end is missing".to_owned());
        }
    }

    /// A sound file costs its own length and a little for each entry; only damage makes a look read anything again.
    fn spend(&mut self, bytes: u64) {
        self.budget = self.budget.saturating_sub(bytes);
    }

    fn is_spent(&self) -> bool {
        self.budget == 0 || self.damage.len() >= MAX_DAMAGED
    }

    fn tell(&mut self, what: String) {
        if self.damage.len() <= MAX_DAMAGED {
            self.damage.push(what);
        }
    }

    /// Up to `count` bytes at `at`; fewer where the file ends.
    fn window(&self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        let left = self.size_bytes.saturating_sub(at);
        let mut bytes = vec![0; count.min(usize::try_from(left).unwrap_or(usize::MAX))];
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
