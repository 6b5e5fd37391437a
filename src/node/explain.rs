//! `larder explain`: what the rules say of a path, and what keeps a run from taking in what stands there now.
//!
//! Invariant: a look that writes nothing and needs no lock. Of a path where nothing stands the rules alone speak; why a file that
//! is admitted still waits is said by `status`.

use larder_patterns::{CONTENT_HEAD_BYTES, RelPath, denied_content};

use crate::config::{self, Explained, Settings};
use crate::scan::{self, Entry, EntryKind, Root, Silence, WalkOptions};

/// Explains what happens to `path`, which is relative to the root.
pub fn explain(settings: &Settings, path: &RelPath) -> Explained {
    let mut explained = config::explain(settings, path);
    if explained.kept
        && let Some(why) = why_left_out(settings, path)
    {
        explained.leave_out(why);
    }
    explained
}

/// What a look at the disk says against an admitted path; `None` if nothing does, or if nobody can look.
fn why_left_out(settings: &Settings, path: &RelPath) -> Option<String> {
    let root = Root::open(&settings.root_dir).ok()?;
    let options = WalkOptions {
        respect_gitignore: settings.respect_gitignore.value,
        max_file_bytes: settings.max_file_bytes.value.bytes(),
        below: Some(path.clone()),
        ..WalkOptions::default()
    };
    let listing = scan::walk(&root, &settings.rules, &options).ok()?;
    if let Some(entry) = listing.find(path.as_str()) {
        return why_refused(&root, entry);
    }
    if let Some(problem) = listing.problem(path) {
        return Some(problem.what.to_string());
    }
    let why = match listing.silence(path)? {
        Silence::NotWalked | Silence::Problem => return None,
        Silence::Unreadable => "a folder above it cannot be listed",
        Silence::OtherDevice => "it is on another file system than the project",
        Silence::Linked => "a folder above it is a link, and links are not followed",
        Silence::GitIgnored => "a .gitignore names it, and `respectGitignore` is on",
    };
    Some(why.to_owned())
}

fn why_refused(root: &Root, entry: &Entry) -> Option<String> {
    if entry.kind == EntryKind::Link {
        return None;
    }
    match scan::read_range(root, entry.path.path(), 0, CONTENT_HEAD_BYTES) {
        Ok(read) => denied_content(&read.bytes).map(|denied| denied.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
