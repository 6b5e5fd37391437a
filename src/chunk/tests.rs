//! Laws of cutting and hashing.
