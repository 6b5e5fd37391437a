//! Placeholder of the env module.
