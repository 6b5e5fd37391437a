//! Full-text search over what every machine's files say now, and said before.
//!
//! `.larder/fts.db` holds words, never texts: what is shown of a hit is read from the ledger. It is derived twice over, so one that is
//! damaged, of another release or of another index is made anew without a word. Nothing in a sync waits for it: it is filled in
//! batches by whoever searches, and by a daemon in a thread of its own once somebody has.
//! Invariant: only UTF-8 text that the denylist allows enters; what stands under one content stands there once, whoever has it.
//! Deliberately not here: which version wins. Every open head is found, of every origin and archive.

mod error;
mod fill;
mod filler;
mod find;
mod query;
mod script;
mod snippet;
mod store;

pub use error::SearchError;
pub use filler::{FillGate, Filler};
pub use find::{Hit, Hits, PlaceOfHit, found_slots, search};
pub use query::{Query, QueryError};
pub use store::{Fts, forget, remove, wipe};
