//! Placeholder of the model module.
