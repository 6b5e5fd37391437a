//! `larder backend`: the databases that a project can be mirrored into.

use clap::{Args, Subcommand};
use larder_adapters::Checked;
use serde_json::{Value, json};

use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::{BackendLine, NodeError, backend_ddl, backends, check_backend, check_remains, migrate_backend};

/// What `larder backend` takes.
#[derive(Args, Debug)]
pub struct BackendArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// List them, and which variables each reads
    List,
    /// Prove that one works: reach it, write, read, race, subscribe, delete; what was written is removed
    Check {
        /// Another one than the project's own
        name: Option<String>,
    },
    /// Print the statements that make what one needs
    Ddl {
        /// Another one than the project's own
        name: Option<String>,
    },
    /// Make what is missing in one, as the next run would
    Migrate {
        /// Another one than the project's own
        name: Option<String>,
        #[command(flatten)]
        dry: Dry,
    },
}

/// Does what was asked; lists if nothing was.
pub fn run(context: &Context, args: &BackendArgs) -> Result<Answer, NodeError> {
    match args.what.as_ref().unwrap_or(&What::List) {
        What::List => Ok(list(&backends(&context.env, &context.open))),
        What::Check { name } => {
            let (name, done) = check_backend(&context.env, &context.open, name.as_deref())?;
            Ok(checked(&name, &done))
        }
        What::Ddl { name } => {
            let (name, ddl) = backend_ddl(&context.env, &context.open, name.as_deref())?;
            let lines = if ddl.is_empty() {
                vec![format!("{name} needs nothing to be prepared")]
            } else {
                ddl.trim_end().lines().map(str::to_owned).collect()
            };
            Ok(Answer::new(lines, json!({ "backend": name, "ddl": ddl })))
        }
        What::Migrate { name, dry } => {
            let name = migrate_backend(&context.env, &context.open, name.as_deref(), dry.dry_run)?;
            let said = if dry.dry_run { "would be made; `larder backend ddl` prints it" } else { "is there now" };
            Ok(Answer::new(
                vec![format!("{name}: what it needs {said}")],
                json!({ "backend": name, "dry_run": dry.dry_run }),
            ))
        }
    }
}

fn list(backends: &[BackendLine]) -> Answer {
    let mut lines = Vec::new();
    for backend in backends {
        let live = if backend.live { " (live)" } else { "" };
        lines.push(format!("{}{live}: {}", backend.name, backend.summary));
        let settings: Vec<String> = backend
            .settings
            .iter()
            .map(|setting| if setting.set { format!("{} (set)", setting.name) } else { setting.name.to_owned() })
            .collect();
        if !settings.is_empty() {
            lines.push(format!("    reads {}", settings.join(", ")));
        }
    }
    Answer::new(lines, json!({ "backends": backends }))
}

fn checked(name: &str, done: &[Checked]) -> Answer {
    let line = |step: &Checked| match &step.outcome {
        Ok(found) => format!("ok    {}: {found}", step.name),
        Err(error) => format!("fail  {}: failed to {error}", step.name),
    };
    let object = |step: &Checked| {
        let (ok, text) = match &step.outcome {
            Ok(found) => (true, found.clone()),
            Err(error) => (false, error.to_string()),
        };
        json!({ "name": step.name, "ok": ok, "text": text })
    };
    let steps: Vec<Value> = done.iter().map(object).collect();
    let ok = done.iter().all(|step| step.outcome.is_ok());
    let answer = Answer::new(done.iter().map(line).collect(), json!({ "backend": name, "ok": ok, "steps": steps }));
    answer.with_remains(check_remains(name, done))
}
