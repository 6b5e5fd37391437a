//! A mounted view that keeps up with the index it shows, from its mount to its end.
//!
//! Invariant: what it begins to follow from is read before the mount, so nothing that the kernel asks for meanwhile is missed; who tells the
//! mount ends before the mount does. Deliberately not here: mounting anew once it is outdated; whoever keeps it knows what to show then.

use std::path::Path;
use std::sync::Arc;

use super::follow::{Follower, News};
use super::index_catalog::IndexCatalog;
use super::session::{MountError, MountOptions, Mounted, mount};
use super::view::View;

/// A mounted view and the thread that tells it what is new.
pub struct Followed {
    follower: Follower,
    view: Arc<View<IndexCatalog>>,
    mounted: Arc<Mounted>,
}

impl Followed {
    /// Mounts `view`, which shows the index at `index`, and follows it. `outdated` is called once when the index was made anew, and nothing
    /// more is told then.
    pub fn mount(
        view: View<IndexCatalog>,
        index: &Path,
        dir: &Path,
        options: &MountOptions,
        outdated: impl Fn() + Send + 'static,
    ) -> Result<Followed, MountError> {
        let view = Arc::new(view);
        let row = view.catalog().last_row().unwrap_or(0);
        let mounted = Arc::new(mount(Arc::clone(&view), dir, options)?);
        let (shown, told) = (Arc::clone(&view), Arc::clone(&mounted));
        let tell = move |news: News<'_>| match news {
            News::Changes(changes) => told.changed(&shown, changes).is_ok(),
            News::Purged(files) => {
                told.forget(files);
                true
            }
            News::Outdated => {
                outdated();
                true
            }
        };
        let follower = Follower::start(Arc::clone(&view), index, row, tell);
        let follower =
            follower.map_err(|source| MountError::System { what: "follow the index", dir: dir.to_owned(), source })?;
        Ok(Followed { follower, view, mounted })
    }

    /// Where and how it is mounted.
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Returns when the kernel was told everything that the index held at the call.
    pub fn catch_up(&self) {
        self.follower.catch_up();
    }

    /// True once the index was made anew: what is shown is the old one's.
    pub fn is_outdated(&self) -> bool {
        self.view.catalog().is_outdated()
    }

    /// Takes it down. Those who still use it keep what they have open; nobody waits for them.
    pub fn unmount(self) -> Result<(), MountError> {
        drop(self.follower);
        Arc::into_inner(self.mounted).map_or(Ok(()), Mounted::unmount)
    }
}
