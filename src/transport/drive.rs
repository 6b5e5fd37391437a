//! What drives requests over a network: the one thread that backends have, too.
//!
//! Invariant: every call blocks its caller until its work is done; nothing async is seen outside the module that asks.

pub(super) use larder_adapters::drive::block_on;
