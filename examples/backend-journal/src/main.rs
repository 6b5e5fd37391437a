//! `larder` with one backend more; nothing else differs.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder_adapters::add_backends(&[backend_journal::BACKEND]);
    larder::cli::main()
}
