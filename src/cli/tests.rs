//! How answers read, with fixed values.
