//! The helpers of `benches/compare`: makes trees, runs programs and takes their measure, prints the table.
//!
//! Invariant: what is compared works on the same files, warm, in turn (ours, theirs, ours, theirs), and a figure is the
//! median of its rounds. Judges nothing: a miss is printed as it is. `cargo bench` alone only says how to use it.

mod backends;
mod bare;
mod cases;
mod exchange;
mod measure;
mod million;
mod peers;
mod place;
#[path = "../../adapters/tests/servers/postgres.rs"]
mod postgres_server;
#[path = "../../adapters/tests/servers/supabase.rs"]
mod supabase_server;
mod table;
mod tree;
mod view;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("compare") => match options(&args[1..]) {
            Ok(options) => cases::compare(&options),
            Err(message) => {
                eprintln!("error: {message}");
                return ExitCode::FAILURE;
            }
        },
        Some("bare-loop") if args.len() == 3 => bare::mirror(args[1].as_ref(), args[2].as_ref()),
        _ => println!("these are the helpers of benches/compare: run that"),
    }
    ExitCode::SUCCESS
}

/// What `benches/compare` was asked for.
pub struct Options {
    /// The program to measure.
    pub larder: PathBuf,
    /// Also with 100,000 files.
    pub large: bool,
    /// Only this part.
    pub only: Option<String>,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options { larder: PathBuf::new(), large: false, only: None };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--larder" => options.larder = args.next().ok_or("--larder needs a path")?.into(),
            "--only" => options.only = Some(args.next().ok_or("--only needs a name")?.clone()),
            "--large" => options.large = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(options)
}
