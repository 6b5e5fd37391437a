//! Placeholder of the transport module.
