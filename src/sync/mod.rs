//! Placeholder of the sync module.

pub mod exchange;
