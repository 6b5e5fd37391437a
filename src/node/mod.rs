//! Placeholder of the node module.
