//! Placeholder of the mount module.
