//! Placeholder of the daemon module.
