//! Laws of a real mount.
