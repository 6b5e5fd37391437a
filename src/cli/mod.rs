//! The command line: what was typed becomes one call of the facade, what came back becomes text or JSON and an exit code.
//!
//! Invariant: every command prints exactly one answer: plain lines, or with `--json` one object; what went wrong is a
//! sentence and a hint on stderr (and in the object), and the exit code tells its kind. Names from outside are printed
//! escaped, secrets never. Decides nothing about files: that is `node`.

mod act;
mod args;
mod commands;
mod context;
mod log;
mod look;
mod out;
mod progress;
mod report;
mod text;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::env::Env;
use crate::node::{Kind, NodeError};
use args::Args;
use context::Context;
use out::Out;

pub use out::Answer;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if std::env::args_os().nth(1).is_some_and(|word| word == crate::mount::GUARDIAN_WORD) {
        return crate::mount::guard_view();
    }
    crate::env::share_one_heap();
    crate::env::open_many_files();
    install_panic_hook();
    log::begin(std::env::var("LARDER_LOG").ok().filter(|asked| !asked.is_empty()).as_deref());
    let typed: Vec<OsString> = std::env::args_os().collect();
    let outcome = std::panic::catch_unwind(|| run(&Env::system(), &typed));
    ExitCode::from(outcome.unwrap_or(Kind::Internal.exit_code()))
}

/// Runs one command as typed, the program's name first; returns the exit code.
pub fn run(env: &Env, typed: &[OsString]) -> u8 {
    let helper = commands::mount::as_mount_helper(typed);
    let typed = helper.as_deref().unwrap_or(typed);
    let args = match Args::try_parse_from(typed) {
        Ok(args) => args,
        Err(error) => return usage(&error, typed),
    };
    let out = Out::of_process(args.global.json);
    let context = Context::new(env.clone(), &args.global, out);
    let outcome = commands::dispatch(&context, &args.command);
    context.out.finish(outcome)
}

/// Help and version go to stdout and are no error; everything else that clap refuses is the user's.
fn usage(error: &clap::Error, typed: &[OsString]) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that went away wanted no more of it.
        let _ = error.print();
        return 0;
    }
    let json = typed.iter().any(|arg| arg == "--json");
    if !json {
        let _ = error.print();
        return Kind::User.exit_code();
    }
    let rendered = error.render().to_string();
    let sentence = rendered.lines().next().unwrap_or_default();
    let sentence = sentence.strip_prefix("error: ").unwrap_or(sentence);
    Out::of_process(true).finish(Err(NodeError::user(sentence, "see `larder --help`")))
}

/// A defect is one sentence for people; the place is for whoever mends it.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        let payload = panic.payload();
        let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let said = larder_patterns::shown(&said);
        out::complain(&format!("error: larder has a defect: {said}{place}"));
        out::complain("help: nothing that was recorded is lost; `larder verify` checks it");
    }));
}
