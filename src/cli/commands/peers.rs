//! `larder peers`: the places of the config where machines meet beside the backend.

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::members::{self, AcceptArgs, MembersArgs};
use super::serve::served;
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::config::address;
use crate::daemon;
use crate::node::{Kind, NodeError, PeerStatus, Probe, add_peer, join_peer, pair_peer, probe_peer, remove_peer};
use crate::server::Device;
use crate::server::desk::CODE_LIFETIME_MS;
use crate::transport::http::Plain;
use crate::transport::http::pairing::Code;

const MAX_CODE_LINE_BYTES: u64 = 256;

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
    /// Let an owner's machines write here, or show who waits for it
    Accept(AcceptArgs),
    /// Whose machines may write here
    Members(MembersArgs),
    /// Prove to a server that its code is known here, so that it lets this device in
    Pair(PairArgs),
    /// Show a code by which one device may be paired with this project's server
    Invite(StoreArgs),
    /// The devices that this project's server lets in
    Devices(DevicesArgs),
}

#[derive(Args, Debug)]
struct PairArgs {
    /// What the peer is called
    name: String,
    /// Its address, if it is not in the config yet
    address: Option<String>,
    /// Speak to another machine although everybody on the way can listen
    #[arg(long)]
    allow_plain_http: bool,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Debug)]
struct StoreArgs {
    /// The server's folder, if it serves one instead of this project
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Debug)]
struct DevicesArgs {
    /// The server's folder, if it serves one instead of this project
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    #[command(subcommand)]
    what: Option<DevicesWhat>,
}

#[derive(Subcommand, Debug)]
enum DevicesWhat {
    /// List them
    List,
    /// Let one in no more; its open connections end
    Revoke {
        /// Its name, or the first digits of its key, at least eight
        device: String,
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Args, Debug)]
struct AddArgs {
    /// What to call it
    name: String,
    /// A folder's path, a bucket (s3://, gs://, az://), or a server (https://HOST:PORT)
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
        Some(What::Accept(args)) => members::accept(context, args),
        Some(What::Members(args)) => members::members(context, args),
        Some(What::Pair(args)) => pair(context, args),
        Some(What::Invite(args)) => invite(context, args),
        Some(What::Devices(args)) => devices(context, args),
    }
}

fn list(context: &Context) -> Result<Answer, NodeError> {
    let peers = context.glance_at_what_is_there()?.status()?.peers;
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

/// The code comes from standard input, never from an argument: every user of the machine can read those.
fn pair(context: &Context, args: &PairArgs) -> Result<Answer, NodeError> {
    let dry_run = args.dry.dry_run;
    if let Some(address) = &args.address {
        // That it is not paired yet is why we are here; whatever else keeps it away is said when it is spoken to.
        add_peer(&context.env, &context.open, (&args.name, address), false, dry_run)?;
    }
    if dry_run {
        return Ok(done("paired", &args.name, dry_run));
    }
    let plain = if args.allow_plain_http { Plain::Allowed } else { Plain::Refused };
    let paired = read_code(context).and_then(|code| pair_peer(&context.env, &context.open, &args.name, &code, plain));
    paired.map_err(|error| if args.address.is_some() { still_named(error, &args.name) } else { error })?;
    Ok(done("paired", &args.name, dry_run))
}

/// The name stays for the next try, which needs no address then.
fn still_named(error: NodeError, name: &str) -> NodeError {
    let name = larder_patterns::shown(name);
    let way_on = format!(
        "{name} is named in sync-config.json meanwhile: `larder peers pair {name}` tries again, `larder peers remove {name}` takes it out"
    );
    let hint = error.hint.map_or(way_on.clone(), |hint| format!("{hint}; {way_on}"));
    NodeError { hint: Some(hint), ..error }
}

fn read_code(context: &Context) -> Result<Code, NodeError> {
    if std::io::stdin().is_terminal() && !context.out.is_json() {
        crate::cli::out::complain("the code that the server shows:");
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().take(MAX_CODE_LINE_BYTES).read_line(&mut line);
    let code = read.ok().and_then(|_| Code::typed(&line));
    code.ok_or_else(|| {
        let hint = "`larder peers invite`, or `larder serve --pair`, shows one at the server; type or pipe it in";
        NodeError::user("a code has 12 letters and digits, such as abcd-2345-wxyz", hint)
    })
}

fn invite(context: &Context, args: &StoreArgs) -> Result<Answer, NodeError> {
    let desk = daemon::desk_beside_server(&context.env, &served(context, args.store.as_ref()))?;
    let replaces = desk.is_open(context.env.clock.wall_ms()).map_err(desk_failed)?;
    if args.dry.dry_run {
        let line = if replaces {
            "would show a code; the earlier one, which nobody used yet, would be worth nothing from then on"
        } else {
            "would show a code"
        };
        let body = json!({ "dry_run": true, "code": null, "replaces": replaces });
        return Ok(Answer::new(vec![line.to_owned()], body));
    }
    let code = desk.invite(&context.env).map_err(desk_failed)?.shown();
    let mut lines = vec![
        format!("code {code} (good once, for 10 minutes)"),
        "type it at the other machine: larder peers pair NAME ADDRESS".to_owned(),
    ];
    if replaces {
        lines.push("the earlier code, which nobody used yet, is worth nothing any more".to_owned());
    }
    let seconds = CODE_LIFETIME_MS / 1000;
    Ok(Answer::new(lines, json!({ "dry_run": false, "code": code, "replaces": replaces, "seconds": seconds })))
}

fn devices(context: &Context, args: &DevicesArgs) -> Result<Answer, NodeError> {
    let desk = daemon::desk_beside_server(&context.env, &served(context, args.store.as_ref()))?;
    let known = desk.devices().map_err(desk_failed)?.devices;
    let Some(DevicesWhat::Revoke { device, dry }) = &args.what else {
        let mut lines: Vec<String> = known.iter().map(|device| format!("{}  {}", device.origin, device.key)).collect();
        if lines.is_empty() {
            lines.push("no devices; `larder peers invite` shows a code for one".to_owned());
        }
        return Ok(Answer::new(lines, json!({ "devices": listed(&known) })));
    };
    let gone = if dry.dry_run { desk.meant(device) } else { desk.revoke(device) }.map_err(desk_failed)?;
    if gone.is_empty() {
        let message = format!("no device is called {}", larder_patterns::shown(device));
        return Err(NodeError::user(message, "`larder peers devices` lists them"));
    }
    let verb = if dry.dry_run { "would be revoked:" } else { "revoked" };
    let lines = gone.iter().map(|device| format!("{verb} {}  {}", device.origin, device.key)).collect();
    Ok(Answer::new(lines, json!({ "dry_run": dry.dry_run, "revoked": listed(&gone) })))
}

fn listed(devices: &[Device]) -> Vec<Value> {
    let object = |device: &Device| {
        json!({ "name": device.origin.as_str(), "key": device.key.to_string(), "owner": device.cert.owner,
            "added_ms": device.added_ms })
    };
    devices.iter().map(object).collect()
}

fn desk_failed(error: std::io::Error) -> NodeError {
    NodeError::user(format!("use the list of devices: {error}"), "check `.larder/serve/`, and who owns it")
}

fn done(verb: &str, name: &str, dry_run: bool) -> Answer {
    let name = larder_patterns::shown(name);
    let line = if dry_run { format!("would be {verb}: {name}") } else { format!("{verb} {name}") };
    Answer::new(vec![line], json!({ "dry_run": dry_run, "done": verb, "name": name }))
}
