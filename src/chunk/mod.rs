//! Placeholder of the chunk module.
