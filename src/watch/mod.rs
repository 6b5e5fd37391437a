//! Placeholder of the watch module.
