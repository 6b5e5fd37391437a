//! Placeholder of the ledger module.
