//! Placeholder of the sync module.
