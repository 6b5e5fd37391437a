//! `larder origin`: who this machine is in this project, who else writes, and who it is from now on.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::act::{errand, strange};
use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{ago, count};
use crate::ledger::Identity;
use crate::node::{Adoption, Errand, Errands, NodeError, OriginLine, ProjectDirs};

/// What `larder origin` takes.
#[derive(Args, Debug)]
pub struct OriginArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Show this one
    Show,
    /// List every machine that is known here
    List,
    /// Make a copied or restored folder a machine of its own
    New(ChangeArgs),
    /// Say that a machine is gone for good: what it has not seen holds nothing back
    Retire(RetireArgs),
    /// Go on as a machine that is lost, or as this one after a restored backup
    Adopt(AdoptArgs),
}

#[derive(Args, Debug)]
struct ChangeArgs {
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Args, Debug)]
struct AdoptArgs {
    /// Its name, as `larder origin list` shows it
    origin: String,
    /// Do without a store that cannot be reached: a peer's name, or `backend`
    #[arg(long, value_name = "STORE")]
    without: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Debug)]
struct RetireArgs {
    /// Its name, as `larder origin list` shows it
    origin: String,
    #[command(flatten)]
    dry: Dry,
}

/// Shows, lists or changes the identity.
pub fn run(context: &Context, args: &OriginArgs) -> Result<Answer, NodeError> {
    match &args.what {
        None | Some(What::Show) => show(context, None),
        Some(What::List) => list(context),
        Some(What::New(args)) if args.dry.dry_run => show(context, Some("would become a new origin in place of")),
        Some(What::New(args)) => {
            errand(context, Errand::NewOrigin { trust: args.trust.trust })?;
            show(context, Some("is now"))
        }
        Some(What::Adopt(args)) => adopt(context, args),
        Some(What::Retire(args)) => retire(context, args),
    }
}

fn retire(context: &Context, args: &RetireArgs) -> Result<Answer, NodeError> {
    let dry_run = args.dry.dry_run;
    let retire = Errand::RetireOrigin { origin: args.origin.clone(), dry_run };
    let Errands::Retired(origin) = errand(context, retire)? else { return Err(strange()) };
    let verb = if dry_run { "would hold" } else { "holds" };
    let line = format!("what {origin} has not seen {verb} nothing back any more, until it publishes again");
    Ok(Answer::new(vec![line], json!({ "dry_run": dry_run, "origin": origin })))
}

fn adopt(context: &Context, args: &AdoptArgs) -> Result<Answer, NodeError> {
    let (dry_run, trust) = (args.change.dry.dry_run, args.change.trust.trust);
    let adoption = Adoption { name: args.origin.clone(), without: args.without.clone(), dry_run };
    let Errands::Adopted(adopted) = errand(context, Errand::AdoptOrigin { adoption, trust })? else {
        return Err(strange());
    };
    let origin = adopted.origin.to_string();
    let mut lines = match adopted.generation {
        None => vec![format!("this folder would go on as {origin}, in a later generation")],
        Some(generation) => {
            let next = "`larder sync` takes over what it published; no other machine may write as it any more";
            vec![format!("this folder goes on as {origin}, generation {generation}"), next.to_owned()]
        }
    };
    let unheard: Vec<String> = adopted.unheard.iter().map(|store| larder_patterns::shown(store)).collect();
    lines.extend(
        unheard
            .iter()
            .map(|store| format!("{store} was not heard; if it holds a later generation, `larder sync` says so")),
    );
    let object = json!({ "dry_run": dry_run, "origin": origin, "generation": adopted.generation, "unheard": unheard });
    Ok(Answer::new(lines, object))
}

fn list(context: &Context) -> Result<Answer, NodeError> {
    let origins = context.glance()?.origins()?;
    let now_ms = context.now_ms();
    let mut lines: Vec<String> = origins.iter().map(|origin| line(origin, now_ms)).collect();
    if lines.is_empty() {
        lines.push("no machine is known here yet: nothing ran".to_owned());
    }
    Ok(Answer::new(lines, json!({ "origins": origins })))
}

fn line(origin: &OriginLine, now_ms: u64) -> String {
    let generations: Vec<String> = origin.generations.iter().map(u32::to_string).collect();
    let generations = if generations.is_empty() { "none".to_owned() } else { generations.join(", ") };
    let last = origin.last_ms.map_or_else(|| "nothing published".to_owned(), |ms| ago(now_ms, ms));
    let (versions, files) = (count(origin.versions, "version"), count(origin.files, "file"));
    let here = if origin.here { ", this folder" } else { "" };
    let forked = if origin.forked { ", written by two machines" } else { "" };
    format!("{}  generations {generations}, {versions}, {files}, {last}{here}{forked}", origin.origin)
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
