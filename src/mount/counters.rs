//! Counts the kernel's requests by kind, so that tests can hold the view to "a second pass asks nothing".
//!
//! Invariant: a request is counted before it is answered, so whoever saw the answer sees the count.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Requests so far, by kind.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        /// One reading of [`Counters`].
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct RequestCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Reads all of them.
            pub fn counts(&self) -> RequestCounts {
                RequestCounts { $($name: self.$name.load(Ordering::SeqCst),)* }
            }
        }

        impl RequestCounts {
            /// What came since `earlier`.
            pub fn since(&self, earlier: &RequestCounts) -> RequestCounts {
                RequestCounts { $($name: self.$name - earlier.$name,)* }
            }

            /// All that the kernel waited for; `forget` is none of them: it has no answer and comes when memory is reclaimed; nor is `given`.
            pub fn asked(&self) -> u64 {
                let all: u64 = [$(self.$name,)*].iter().sum();
                all - self.forget - self.given
            }
        }
    };
}

counters! {
    /// A name was looked up.
    lookup,
    /// Metadata of a node was asked for.
    getattr,
    /// Part of a listing, without metadata.
    readdir,
    /// Part of a listing, with metadata.
    readdirplus,
    /// Bytes of a file.
    read,
    /// The target of a link.
    readlink,
    /// A file was opened; answered once, then never sent again, unless long files are read from copies.
    open,
    /// A file was let go of; sent only if long files are read from copies.
    release,
    /// A folder was opened; answered once, then never sent again.
    opendir,
    /// Sums for `df`.
    statfs,
    /// Extended attributes; answered once, then never sent again.
    xattr,
    /// Other requests that are answered once with "not implemented", then never sent again.
    other,
    /// What tells watchers of changes from elsewhere; asked by nobody but the view itself.
    replayed,
    /// The kernel dropped a node.
    forget,
    /// A file's bytes were handed on that nobody had asked for yet: no request, but what spares one.
    given,
}

/// Counts one request.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}
