//! A view that keeps up: whatever anybody commits to the index is told on at once, by a thread of its own.
//!
//! Invariant: between a commit and its telling stand one notice of the kernel and one look into the index, and no step of whoever
//! committed: what a run does after an import (files, rows, other stores) holds nothing up. Looks follow each other ever more rarely
//! after a notice ([`Looks`]), six of them within a tenth of a second, because SQLite publishes a commit a moment after it wrote it.
//! What could not be told is told at the next look. Deliberately not here: what the kernel must forget (`refresh`).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use super::catalog::{Change, FileId};
use super::index_catalog::IndexCatalog;
use super::view::View;
use crate::watch::{FileBell, Looks};

enum Wake {
    /// The index may hold something new.
    Written,
    /// Somebody waits until all of it was told.
    Waits(Sender<()>),
    End,
}

/// What a view's keeper is told.
#[derive(Debug)]
pub enum News<'a> {
    /// These are visible now, and came together.
    Changes(&'a [Change]),
    /// A person let the bytes of these files go: the kernel may still hold them.
    Purged(&'a [FileId]),
    /// The index was made anew: the view shows the old one, and nothing more is told.
    Outdated,
}

/// Tells what becomes visible until it is dropped.
pub struct Follower {
    wake: Sender<Wake>,
    _bell: FileBell,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows the index at `index`, which `view` shows, from `row` on: [`IndexCatalog::last_row`], taken before anybody looked.
    ///
    /// `tell` gets changes that the view shows already; false if it could not tell them: it gets them again.
    pub fn start(
        view: Arc<View<IndexCatalog>>,
        index: &Path,
        row: i64,
        tell: impl FnMut(News<'_>) -> bool + Send + 'static,
    ) -> io::Result<Follower> {
        let (wake, woken) = channel();
        let ring = wake.clone();
        let bell = FileBell::of_database(index, move || drop(ring.send(Wake::Written)));
        let looks = bell.looks();
        let follow = move || follow(&view, row, looks, &woken, tell);
        let thread = std::thread::Builder::new().name("larder-follow".to_owned()).spawn(follow)?;
        Ok(Follower { wake, _bell: bell, thread: Some(thread) })
    }

    /// Returns when everything that the index held at the call was told, or could not be.
    pub fn catch_up(&self) {
        let (done, told) = channel();
        // A thread that is gone drops what it was sent, and nobody waits for it.
        if self.wake.send(Wake::Waits(done)).is_ok() {
            let _ = told.recv();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(
    view: &View<IndexCatalog>,
    mut row: i64,
    mut looks: Looks,
    woken: &Receiver<Wake>,
    mut tell: impl FnMut(News<'_>) -> bool,
) {
    // What was purged before the mount nobody can have been shown: telling of it once more costs nothing.
    let mut purged = BTreeSet::new();
    loop {
        let first = match woken.recv_timeout(looks.wait()) {
            Ok(wake) => Some(wake),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if first.is_none() {
            looks.in_vain();
        }
        let mut waiting = Vec::new();
        for wake in first.into_iter().chain(woken.try_iter()) {
            match wake {
                Wake::Written => looks.rang(),
                Wake::Waits(done) => waiting.push(done),
                Wake::End => return,
            }
        }
        if view.catalog().is_outdated() && tell(News::Outdated) {
            return;
        }
        if let Ok((changes, last)) = view.catalog().changes_since(row)
            && !changes.is_empty()
        {
            looks.rang();
            if tell(News::Changes(&changes)) {
                row = last;
            }
        }
        if let Ok(now) = view.catalog().purged_contents() {
            // Which files those are is asked only when somebody purged something: that looks at every version.
            let files = (!now.is_subset(&purged)).then(|| view.catalog().purged_files());
            if files.is_none_or(|files| files.is_ok_and(|files| tell(News::Purged(&files)))) {
                purged = now;
            }
        }
        for done in waiting {
            // Who waits no more need not be told.
            let _ = done.send(());
        }
    }
}
