//! Memory that was freed, given back to the system.
//!
//! Invariant: nothing but the size of the process changes. Does nothing where the C library keeps no free memory to give.

/// Gives back what is free, wherever it lies between what is not. Costs a pass over all free memory: for the ends of large steps.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and touches only memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}
