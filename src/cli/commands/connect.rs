//! `larder connect`: name a place where machines meet, look at it, and exchange with it once.

use clap::Args;
use serde_json::Value;

use crate::cli::act::act_trusting;
use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::config::address;
use crate::node::{ChangeRequest, NodeError, Way, add_peer, name_for};

/// What `larder connect` takes.
#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// A folder's path, a bucket (s3://, gs://, az://), or a server that this device is paired with (https://HOST:PORT)
    address: String,
    /// What to call it; made from the address if this is left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// It is this project's, although another one is there
    #[arg(long)]
    join: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// Adds the place to the config, and runs once with it alone. A place that is away is added all the same.
pub fn run(context: &Context, args: &ConnectArgs) -> Result<Answer, NodeError> {
    let url = context.address(&args.address);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_for(&context.open.settings(&context.env)?, &url),
    };
    let dry_run = args.dry.dry_run;
    let away = add_peer(&context.env, &context.open, (&name, &url), args.join, dry_run)?;
    let (shown, place) = (larder_patterns::shown(&name), address::shown(&url));
    let verb = match &away {
        _ if dry_run => "would be connected",
        Some(_) => "named, but not yet connected",
        None => "connected",
    };
    let mut answer = match away {
        None if !dry_run => {
            let run = ChangeRequest::Run { way: Way::Both, peer: Some(name), dry_run };
            act_trusting(context, &run, args.trust.trust)?
        }
        away => Answer::default().with_remains(away),
    };
    answer.lines.insert(0, format!("{verb}: {shown} at {place}"));
    for (key, value) in [("dry_run", Value::from(dry_run)), ("name", shown.into()), ("address", place.into())] {
        answer.object.insert(key.to_owned(), value);
    }
    Ok(answer)
}
