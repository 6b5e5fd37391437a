//! `larder peers`: the places of the config where machines meet beside the backend.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::config::address;
use crate::node::{Kind, NodeError, PeerStatus, Probe, add_peer, join_peer, probe_peer, remove_peer};

/// What `larder peers` takes.
#[derive(Args, Debug)]
pub struct PeersArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// List them and how the last exchange went
    List,
    /// Name a place, or give a named one another address
    Add(AddArgs),
    /// Take one out of the config; what it holds stays
    Remove(NameArgs),
    /// Look whether they can be reached and hold this project
    Test {
        /// Only this one
        name: Option<String>,
    },
    /// Say that a place is this project's, although another one is there, or nothing any more
    Join(NameArgs),
}

#[derive(Args, Debug)]
struct AddArgs {
    /// What to call it
    name: String,
    /// A folder's path, or a bucket: s3://, gs:// or az://
    address: String,
    /// It is this project's, although another one is there
    #[arg(long)]
    join: bool,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Debug)]
struct NameArgs {
    /// Which one
    name: String,
    #[command(flatten)]
    dry: Dry,
}

/// Lists, tries or edits the peers.
pub fn run(context: &Context, args: &PeersArgs) -> Result<Answer, NodeError> {
    match &args.what {
        None | Some(What::List) => list(context),
        Some(What::Test { name }) => test(context, name.as_deref()),
        Some(What::Add(args)) => add(context, args),
        Some(What::Remove(args)) => {
            remove_peer(&context.env, &context.open, &args.name, args.dry.dry_run)?;
            Ok(done("removed", &args.name, args.dry.dry_run))
        }
        Some(What::Join(args)) => {
            join_peer(&context.env, &context.open, &args.name, args.dry.dry_run)?;
            Ok(done("joined", &args.name, args.dry.dry_run))
        }
    }
}

fn list(context: &Context) -> Result<Answer, NodeError> {
    let peers = context.glance()?.status()?.peers;
    let line = |peer: &PeerStatus| format!("{}  {}  {}", peer.name, peer.address, peer.word());
    let mut lines: Vec<String> = peers.iter().map(line).collect();
    if lines.is_empty() {
        lines.push("no peers; `larder peers add NAME ADDRESS` names one".to_owned());
    }
    Ok(Answer::new(lines, json!({ "peers": peers })))
}

fn test(context: &Context, only: Option<&str>) -> Result<Answer, NodeError> {
    let settings = context.open.settings(&context.env)?;
    let names: Vec<String> = match only {
        Some(name) => vec![name.to_owned()],
        None => settings.peers.keys().cloned().collect(),
    };
    let (mut lines, mut peers, mut remains) = (Vec::new(), Vec::new(), None);
    for name in names {
        let shown = larder_patterns::shown(&name);
        let (state, error) = match probe_peer(&context.env, &context.open, &name) {
            Ok(state) => (Some(state), None),
            // A name that is not there is the user's, whatever the others are.
            Err(error) if !settings.peers.contains_key(&name) => return Err(error),
            Err(error) => (None, Some(error)),
        };
        lines.push(match (&state, &error) {
            (Some(Probe::HoldsProject), _) => format!("{shown}: holds this project"),
            (Some(Probe::Empty), _) => format!("{shown}: can be reached, and holds nothing of this project yet"),
            (None, error) => format!("{shown}: {}", error.as_ref().map_or("", |error| &error.message)),
        });
        let message = error.as_ref().map_or(Value::Null, |error| Value::from(error.message.clone()));
        peers.push(json!({ "name": shown, "state": state, "error": message }));
        remains = remains.or_else(|| error.map(|error| failed(&shown, error)));
    }
    Ok(Answer::new(lines, json!({ "peers": peers })).with_remains(remains))
}

fn failed(name: &str, error: NodeError) -> NodeError {
    let message = format!("the peer {name} cannot be used: {}", error.message);
    NodeError { kind: Kind::Unavailable, message, hint: error.hint }
}

/// A path below the home folder is kept as it was typed.
fn add(context: &Context, args: &AddArgs) -> Result<Answer, NodeError> {
    let url = if args.address.starts_with("~/") { args.address.clone() } else { context.address(&args.address) };
    let dry_run = args.dry.dry_run;
    let away = add_peer(&context.env, &context.open, (&args.name, &url), args.join, dry_run)?;
    let mut answer = done("added", &args.name, dry_run);
    answer.lines[0].push_str(&format!(" at {}", address::shown(&url)));
    answer.object.insert("address".to_owned(), Value::from(address::shown(&url)));
    Ok(answer.with_remains(away))
}

fn done(verb: &str, name: &str, dry_run: bool) -> Answer {
    let name = larder_patterns::shown(name);
    let line = if dry_run { format!("would be {verb}: {name}") } else { format!("{verb} {name}") };
    Answer::new(vec![line], json!({ "dry_run": dry_run, "done": verb, "name": name }))
}
