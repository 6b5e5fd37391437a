//! `larder origin`: who this machine is in this project.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::ledger::Identity;
use crate::node::{Node, NodeError, ProjectDirs};

/// What `larder origin` takes.
#[derive(Args, Debug)]
pub struct OriginArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Show it
    Show,
    /// Make a copied or restored folder a machine of its own
    New(Dry),
}

/// Shows or makes the identity.
pub fn run(context: &Context, args: &OriginArgs) -> Result<Answer, NodeError> {
    match &args.what {
        None | Some(What::Show) => show(context, None),
        Some(What::New(Dry { dry_run: true })) => show(context, Some("would become a new origin in place of")),
        Some(What::New(Dry { dry_run: false })) => {
            drop(Node::open_as_new_origin(&context.env, &context.open, context.progress())?);
            show(context, Some("is now"))
        }
    }
}

fn show(context: &Context, said: Option<&str>) -> Result<Answer, NodeError> {
    let settings = context.open.settings(&context.env)?;
    let dirs = ProjectDirs::of(&settings.config);
    if !dirs.larder.join("origin.json").exists() {
        return Err(NodeError::user("this project has no origin yet", "run `larder sync` once"));
    }
    let identity = Identity::load(&dirs.larder)?;
    let origin = identity.origin().to_string();
    let line = match said {
        Some(said) => format!("this folder {said} {origin}"),
        None => format!("{origin} (generation {}, key {})", identity.generation(), identity.public_key()),
    };
    let object = json!({
        "origin": origin,
        "generation": identity.generation(),
        "key": identity.public_key().to_string(),
        "owner_key": identity.owner_key().to_string(),
        "private_space": identity.private_space().to_string(),
    });
    Ok(Answer::new(vec![line], object))
}
