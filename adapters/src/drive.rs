//! What drives requests over a network: one thread for every backend and transport, made when the first of them asks something.
//!
//! Invariant: every call blocks its caller until its work is done; nothing async is seen outside the module that asks. Knows
//! nothing of requests: how long one may take is its caller's word.

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, io::ErrorKind>> = OnceLock::new();
    let make = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(4).thread_name("larder-lines").enable_all();
        builder.build().map_err(|error| error.kind())
    };
    RUNTIME.get_or_init(make).as_ref().map_err(|kind| (*kind).into())
}

/// Runs work to its end. Must not be called from the runtime's own threads; nothing of ours is.
///
/// Errors: no thread can be had; for this process it stays so.
pub fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(runtime()?.block_on(work))
}

/// Where work goes that outlives a call; whoever spawns it ends it. Errors: as of `block_on`.
pub fn handle() -> io::Result<Handle> {
    Ok(runtime()?.handle().clone())
}
