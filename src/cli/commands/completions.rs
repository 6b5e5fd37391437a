//! `larder completions SHELL`: a completion script.

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use crate::cli::args::Args;
use crate::cli::context::Context;
use crate::node::NodeError;

/// What `larder completions` takes.
#[derive(ClapArgs, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints the script.
pub fn run(context: &Context, args: &CompletionsArgs) -> Result<(), NodeError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "larder", &mut script);
    if context.out.is_json() {
        let script = String::from_utf8_lossy(&script).into_owned();
        context.out.line(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }).to_string());
    } else {
        context.out.bytes(&script);
    }
    Ok(())
}
