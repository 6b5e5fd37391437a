//! `larder verify [--deep]`: is everything that was recorded here and sound?

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::count;
use crate::ledger::Depth;
use crate::node::{NodeError, Verified, verify};

/// What `larder verify` takes.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Read every byte, also of every store, and prove that the index is what the ledger says
    #[arg(long)]
    deep: bool,
}

/// Verifies.
pub fn run(context: &Context, args: &VerifyArgs) -> Result<Answer, NodeError> {
    let depth = if args.deep { Depth::Bytes } else { Depth::Names };
    let verified = verify(&context.env, &context.open, depth)?;
    let mut object = serde_json::to_value(&verified).unwrap_or_default();
    object["deep"] = json!(args.deep);
    object["sound"] = json!(verified.damage_count() == 0);
    Ok(Answer::new(lines(&verified), object).with_remains(verified.remains()))
}

/// One line a finding, then what was looked at.
pub fn lines(verified: &Verified) -> Vec<String> {
    let mut lines = Vec::new();
    for found in &verified.findings {
        let word = if found.damage { "damage" } else { "note" };
        lines.push(format!("{word}: {} {}: {}", found.part, found.what, found.problem));
        lines.push(format!("  repair: {}", found.repair));
    }
    let verdict = match verified.damage_count() {
        0 => "sound".to_owned(),
        damaged => format!("{} damaged or missing", count(damaged as u64, "thing")),
    };
    let read = match verified.contents_read {
        0 => String::new(),
        read => format!(", {} read", count(read, "content")),
    };
    let stores = match verified.artifacts_read {
        0 => String::new(),
        read => format!(", {} read in stores", count(read, "artifact")),
    };
    let chains = count(verified.chains as u64, "chain");
    lines.push(format!("{verdict}: {chains}, {}{read}{stores}", count(verified.versions, "version")));
    lines
}
