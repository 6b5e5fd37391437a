//! `larder repair`: what is damaged here and in the stores, put right from wherever it is whole.

use serde_json::json;

use crate::cli::act::{errand, strange};
use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::count;
use crate::node::{Errand, Errands, NodeError, Repaired};

/// Repairs.
pub fn run(context: &Context, args: &Dry) -> Result<Answer, NodeError> {
    let Errands::Repaired(repaired) = errand(context, Errand::Repair { dry_run: args.dry_run })? else {
        return Err(strange());
    };
    let mended: Vec<_> =
        repaired.mended.iter().map(|(store, name)| json!({ "store": store, "artifact": name })).collect();
    let failed: Vec<_> = repaired.failed.iter().map(|(store, why)| json!({ "store": store, "error": why })).collect();
    let object = json!({
        "dry_run": args.dry_run,
        "read": repaired.read,
        "healed": repaired.healed,
        "remade": repaired.remade,
        "mended": mended,
        "sent": repaired.sent,
        "missing": repaired.missing,
        "failed": failed,
    });
    Ok(Answer::new(lines(&repaired, args.dry_run), object).with_remains(repaired.remains()))
}

fn lines(repaired: &Repaired, dry_run: bool) -> Vec<String> {
    let mut lines: Vec<String> = repaired.healed.iter().map(|name| format!("< healed {name}")).collect();
    lines.extend(repaired.remade.iter().map(|name| format!("< made anew {name}")));
    let mended = if dry_run { "would mend" } else { "mended" };
    lines.extend(repaired.mended.iter().map(|(store, name)| format!("> {mended} {name} in {store}")));
    lines.extend(repaired.missing.iter().map(|missing| {
        format!("! {} {}: {}; {} wrote it", missing.place, missing.artifact, missing.why, missing.origin)
    }));
    lines.extend(repaired.failed.iter().map(|(store, why)| format!("! {store}: {why}")));
    let sums = [
        (repaired.healed.len() as u64, "healed here"),
        (repaired.remade.len() as u64, "made anew from the project's files"),
        (repaired.mended.len() as u64, if dry_run { "to mend in stores" } else { "mended in stores" }),
        (repaired.sent, "sent"),
        (repaired.missing.len() as u64, "still damaged or missing"),
    ];
    let mut said: Vec<String> = vec![format!("{} read in stores", count(repaired.read, "artifact"))];
    said.extend(sums.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")));
    lines.push(said.join(", "));
    lines
}
