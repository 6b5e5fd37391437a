//! A strict stand-in for Firestore over REST, in the test's own process: commits are atomic, preconditions hold to the nanosecond,
//! transactions are isolated, a query that would need a composite index is refused, and unknown fields of a request are errors.
//!
//! It is itself checked by the vendor's own clients (`tests/it/firestore.rs`). Invariant: what it accepts, the service accepts.
//! Deliberately absent: security rules, collection groups, listening, aggregation, and every operator that nothing here sends.

pub mod http;
pub mod query;
#[path = "../servers/request.rs"]
#[allow(dead_code, reason = "another stand-in uses the rest of it")]
pub mod request;
pub mod store;
pub mod token;

pub use http::{Fault, Firestore};
