//! Placeholder of the state module.
