//! Larder keeps the artifact and config files of a project the same on every machine.
//!
//! The modules are layers; each imports only from the layers above its own line in this list
//! (`tests/it/tidy.rs` holds it). Everything outside (clock, randomness, files, network) reaches the engine
//! through values handed to it.

// 0
pub mod model;
// 1
pub mod chunk;
pub mod config;
pub mod env;
// 2
pub mod ledger;
pub mod state;
// 3
pub mod scan;
pub mod transport;
pub mod watch;
// 4
pub mod index;
// 5
pub mod search;
pub mod sync;
// 6
pub mod node;
// 7
pub mod mount;
pub mod server;
// 8
pub mod daemon;
// 9
pub mod cli;
