//! Placeholder of the scan module.
