//! Laws of the view over the catalog in memory.
