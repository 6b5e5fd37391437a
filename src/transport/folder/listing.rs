//! Pages of names from folders that the file system lists in no order.
//!
//! Invariant: a page holds what sorts next, whatever order the file system gives; of one folder at most one page of entries
//! is kept in memory; links, devices and names that are none of ours are passed over.

use std::collections::BinaryHeap;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};

use super::super::{
    Depth, ListRequest, Listing, MAX_NAME_BYTES, TransportError, TransportErrorKind, check_name, is_after,
    is_sound_part,
};
use super::{LITTER, explain, is_leftover, is_nothing};
use crate::scan::Root;

/// Entries that one page, or one look at everything, may cost.
const MAX_ENTRIES_READ: u64 = 5_000_000;
/// Folders read for one page, or one look at everything.
const MAX_FOLDERS_READ: u64 = 500_000;

/// One page, ascending by bytes.
pub(super) fn page(root: &Root, request: &ListRequest) -> Result<Listing, TransportError> {
    let mut walk = Walk { reader: Reader::new(root), request, listing: Listing::default(), full: false };
    let folder = request.prefix.strip_suffix('/');
    let reachable = folder.is_some_and(|folder| check_name(folder).is_ok() && !folder.split('/').any(is_leftover));
    if request.prefix.is_empty() || reachable {
        match walk.folder(&request.prefix) {
            // What was found is in order and goes on after its last name.
            Err(error) if error.kind == TransportErrorKind::TooLarge && !walk.listing.names.is_empty() => {
                walk.listing.more = true;
            }
            outcome => outcome?,
        }
    }
    Ok(walk.listing)
}

/// Tells every artifact's name, in no order.
pub(super) fn for_each(root: &Root, mut tell: impl FnMut(&str)) -> Result<(), TransportError> {
    let mut reader = Reader::new(root);
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        reader.read(&folder, |entry| if entry.ends_with('/') { folders.push(entry) } else { tell(&entry) })?;
    }
    Ok(())
}

/// The first thing in the store's own folder that a person put there; `None` if it is as good as empty.
pub(super) fn first_visible(root: &Root) -> Result<Option<String>, TransportError> {
    let failed = |errno: rustix::io::Errno| explain("open", "the folder", errno.into());
    let handle = root.open_beneath(".", OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
    let mut read = 0;
    for entry in Dir::new(handle).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy();
        let litter = LITTER.iter().any(|litter| name.eq_ignore_ascii_case(litter));
        read += 1;
        if (!name.starts_with('.') && !litter) || read > MAX_FOLDERS_READ {
            return Ok(Some(name.into_owned()));
        }
    }
    Ok(None)
}

/// Reads folders within a budget.
struct Reader<'a> {
    root: &'a Root,
    entries_left: u64,
    folders_left: u64,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Root) -> Reader<'a> {
        Reader { root, entries_left: MAX_ENTRIES_READ, folders_left: MAX_FOLDERS_READ }
    }

    /// Tells the whole name of each of our entries in `folder` (empty, or ends in `/`), folders with `/` at their end.
    ///
    /// Nothing if the folder is not there any more. Errors: TooLarge when the budget is spent; what the system says.
    fn read(&mut self, folder: &str, mut tell: impl FnMut(String)) -> Result<(), TransportError> {
        let failed = |errno: rustix::io::Errno| explain("list", folder, errno.into());
        spend(&mut self.folders_left, folder)?;
        let path = folder.strip_suffix('/').unwrap_or(".");
        let handle = match self.root.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(errno) if is_nothing(errno) => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        let around = rustix::io::dup(&handle).map_err(failed)?;
        for entry in Dir::new(handle).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            spend(&mut self.entries_left, folder)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !is_sound_part(name) || is_leftover(name) || folder.len() + name.len() > MAX_NAME_BYTES {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => rustix::fs::statat(&around, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                known => known,
            };
            match kind {
                FileType::Directory => tell(format!("{folder}{name}/")),
                // A file beside the apps is no artifact.
                FileType::RegularFile if !folder.is_empty() => tell(format!("{folder}{name}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// True if an artifact stands anywhere below.
    fn holds_any(&mut self, folder: &str) -> Result<bool, TransportError> {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let mut found = false;
            self.read(&folder, |entry| if entry.ends_with('/') { folders.push(entry) } else { found = true })?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn spend(left: &mut u64, folder: &str) -> Result<(), TransportError> {
    *left = left.checked_sub(1).ok_or_else(|| {
        let detail =
            format!("more than {MAX_ENTRIES_READ} entries or {MAX_FOLDERS_READ} folders had to be looked at at once");
        TransportError::new(TransportErrorKind::TooLarge, "list", folder, detail)
    })?;
    Ok(())
}

/// One page under way.
struct Walk<'a> {
    reader: Reader<'a>,
    request: &'a ListRequest,
    listing: Listing,
    full: bool,
}

impl Walk<'_> {
    /// Adds what stands in a folder, in order. Folders sort by their names with the `/`, as the names below them do.
    fn folder(&mut self, folder: &str) -> Result<(), TransportError> {
        let mut last: Option<String> = None;
        loop {
            let wanted = self.request.page_names() - self.listing.names.len() + 1;
            let (entries, more) = self.next_entries(folder, last.as_deref(), wanted)?;
            for entry in &entries {
                self.entry(entry)?;
                if self.full {
                    return Ok(());
                }
            }
            if !more {
                return Ok(());
            }
            last = entries.into_iter().next_back();
        }
    }

    fn entry(&mut self, entry: &str) -> Result<(), TransportError> {
        if entry.ends_with('/') && self.request.depth == Depth::All {
            return self.folder(entry);
        }
        if entry.ends_with('/') && !self.reader.holds_any(entry)? {
            return Ok(());
        }
        if self.listing.names.len() == self.request.page_names() {
            (self.listing.more, self.full) = (true, true);
        } else {
            self.listing.names.push(entry.to_owned());
        }
        Ok(())
    }

    /// The first `wanted` entries after `last` that the page may need, in order, and whether others follow.
    fn next_entries(
        &mut self,
        folder: &str,
        last: Option<&str>,
        wanted: usize,
    ) -> Result<(Vec<String>, bool), TransportError> {
        let (after, depth) = (self.request.after.as_deref(), self.request.depth);
        // The heap's top is the greatest kept: what sorts before it takes its place.
        let mut kept: BinaryHeap<String> = BinaryHeap::new();
        let mut more = false;
        self.reader.read(folder, |entry| {
            if last.is_some_and(|last| *entry <= *last) || !is_needed(&entry, after, depth) {
                return;
            }
            if kept.len() < wanted {
                kept.push(entry);
                return;
            }
            more = true;
            if kept.peek().is_some_and(|greatest| entry < *greatest) {
                kept.pop();
                kept.push(entry);
            }
        })?;
        Ok((kept.into_sorted_vec(), more))
    }
}

/// True if the entry, or a name below it, may have to be named after `after`.
fn is_needed(entry: &str, after: Option<&str>, depth: Depth) -> bool {
    let inside = depth == Depth::All && entry.ends_with('/') && after.is_some_and(|after| after.starts_with(entry));
    inside || is_after(entry, after)
}
