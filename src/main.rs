//! The `larder` command. Everything it does is in `larder::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::cli::main()
}
