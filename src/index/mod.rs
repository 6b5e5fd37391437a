//! Placeholder of the index module.
