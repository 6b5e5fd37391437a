//! `larder init`: a config for this project, proposed from what stands in it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::args::Dry;
use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::config::{CONFIG_FILE_NAME, init};
use crate::node::NodeError;

/// What `larder init` takes.
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    dry: Dry,
}

/// Writes the config; never over one that is there. Asks nothing.
pub fn run(context: &Context, args: &InitArgs) -> Result<Answer, NodeError> {
    let file = context.open.config.clone().unwrap_or_else(|| context.open.start_dir.join(CONFIG_FILE_NAME));
    let folder = folder_of(&file)?;
    let listing = init::survey(&folder);
    let proposal = init::propose_in(&folder, &listing.files);
    let mut lines: Vec<String> = proposal.found.iter().map(|found| format!("  {found}")).collect();
    let heading = if lines.is_empty() { "found nothing to keep yet; the config has common patterns" } else { "found" };
    lines.insert(0, heading.to_owned());
    if listing.truncated {
        lines.push("  (the project is large: not everything was looked at)".to_owned());
    }
    let file = folder.join(file.file_name().unwrap_or_default());
    let name = larder_patterns::shown(&file.to_string_lossy());
    if args.dry.dry_run {
        refuse_existing(&file)?;
        lines.push(format!("would write {name}:"));
        lines.extend(proposal.text.lines().map(str::to_owned));
    } else {
        write_new(&file, &proposal.text)?;
        lines.push(format!("wrote {name}"));
        lines.push("next: read it, then run `larder up`".to_owned());
    }
    let object = json!({
        "dry_run": args.dry.dry_run,
        "file": name,
        "found": proposal.found,
        "truncated": listing.truncated,
        "text": proposal.text,
    });
    Ok(Answer::new(lines, object))
}

fn folder_of(file: &Path) -> Result<PathBuf, NodeError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parent.canonicalize().map_err(|error| {
        let message = format!("look at {}: {error}", larder_patterns::shown(&parent.to_string_lossy()));
        NodeError::user(message, "name a folder that is there with `--project`")
    })
}

fn refuse_existing(file: &Path) -> Result<(), NodeError> {
    if std::fs::symlink_metadata(file).is_ok() { Err(exists(file)) } else { Ok(()) }
}

fn exists(file: &Path) -> NodeError {
    let message = format!("{} is there already", larder_patterns::shown(&file.to_string_lossy()));
    NodeError::user(message, "edit it, or move it away first: it is never overwritten")
}

fn write_new(file: &Path, text: &str) -> Result<(), NodeError> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let written = opened.and_then(|mut config| config.write_all(text.as_bytes()).and_then(|()| config.sync_all()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(file),
        _ => {
            let message = format!("write {}: {error}", larder_patterns::shown(&file.to_string_lossy()));
            NodeError::user(message, "the project folder must be one that you may write to")
        }
    })
}
