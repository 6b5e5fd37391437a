//! `FileSyncAdapter`: the databases Larder mirrors a project into, behind one small trait.
//!
//! One file and one line in [`BACKENDS`] make a backend; [`contract`] says what it must keep.
//! Invariant: nothing here decides which content wins. A row is compared, replaced and reported, never merged.
//! Deliberately absent: the engine, the ledger, admission of paths, and everything asynchronous above [`drive`].

#![forbid(unsafe_code)]

mod adapter;
mod backend;
mod check;
pub mod contract;
mod convex;
pub mod drive;
mod error;
mod faulty;
mod firestore;
mod hub;
mod memory;
mod pieces;
mod postgres;
mod record;
mod socket;
mod sqlite;
mod stamp;
mod supabase;
mod wire;

pub use adapter::{Capabilities, FileSyncAdapter, ForeignEdits, Sink, Subscription, batch_delete_revision};
pub use backend::{
    BACKENDS, Backend, BackendUrl, DEFAULT_WAIT_MS, OpenBackend, OpenContext, add_backends, backends, open,
    resolve_backend,
};
pub use check::{Checked, Opener, check};
pub use convex::{ConvexAdapter, ConvexListening};
pub use error::{AdapterError, ErrorKind};
pub use faulty::{Fault, FaultRates, FaultyAdapter};
pub use firestore::FirestoreAdapter;
pub use memory::MemoryAdapter;
pub use postgres::PostgresAdapter;
pub use record::{
    Body, Cursor, Expected, MirrorEntry, Page, Query, Record, RecordId, Revision, Row, RowContent, SHARED_OWNER,
    Selection, Wake, Write,
};
pub use sqlite::SqliteAdapter;
pub use supabase::SupabaseAdapter;

/// Locks. A panic elsewhere must not turn every later call into another: what is behind these locks is replaced whole or not at all.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
