//! `larder export` and `import`: a whole project in one file, for machines that no line joins; or its tree as plain files.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::act::act_trusting;
use crate::cli::args::{Dry, Trust};
use crate::cli::context::Context;
use crate::cli::look::{Look, WhichTree, view_error};
use crate::cli::out::Answer;
use crate::cli::text::{count, size};
use crate::mount::{ExportError, Exported, export_tree};
use crate::node::{ChangeRequest, ExportRequest, ImportRequest, Kind, NodeError};

/// What `larder export` takes.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The file to write
    #[arg(required_unless_present = "tree", conflicts_with = "tree")]
    file: Option<PathBuf>,
    /// Write the files themselves into this empty folder, as a mounted view shows them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["private", "replace", "trust"])]
    tree: Option<PathBuf>,
    #[command(flatten)]
    which: WhichTree,
    /// One's own private files too
    #[arg(long, conflicts_with_all = ["at", "origin"])]
    private: bool,
    /// Put it in the place of what stands there
    #[arg(long, conflicts_with_all = ["at", "origin"])]
    replace: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// What `larder import` takes.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// A file that `larder export` wrote
    file: PathBuf,
    /// It is this project's, although another one is in it
    #[arg(long)]
    join: bool,
    #[command(flatten)]
    dry: Dry,
    #[command(flatten)]
    trust: Trust,
}

/// Records what changed and writes everything into one file.
pub fn export(context: &Context, args: &ExportArgs) -> Result<Answer, NodeError> {
    if let Some(dir) = &args.tree {
        return export_files(context, args, dir);
    }
    let (Some(file), WhichTree { at: None, origin: None, what: None }) = (&args.file, &args.which) else {
        let hint = "`--at`, `--origin` and `--what` go with `--tree DIR`";
        return Err(NodeError::user("a file holds the whole past", hint));
    };
    let (private, replace, dry_run) = (args.private, args.replace, args.dry.dry_run);
    let request = ExportRequest { file: context.outside_file(file)?, private, replace, dry_run };
    act_trusting(context, &ChangeRequest::Export(request), args.trust.trust)
}

fn export_files(context: &Context, args: &ExportArgs, dir: &Path) -> Result<Answer, NodeError> {
    let look = Look::open(context, &args.which)?;
    let dir = context.outside_file(dir)?;
    let root = &look.glance.settings.root_dir;
    if dir.starts_with(root) {
        let message = format!("{} lies inside the project", larder_patterns::shown(&dir.to_string_lossy()));
        return Err(NodeError::user(message, "name an empty folder outside it"));
    }
    let dry_run = args.dry.dry_run;
    let done = export_tree(&look.view, look.top.id, &dir, Some(root), dry_run).map_err(|error| match error {
        ExportError::View(error) => view_error(error),
        ExportError::NotEmpty { .. } => NodeError::user(error.to_string(), "name one that is empty or not there"),
        ExportError::Disk { .. } => NodeError::user(error.to_string(), "make room or name another folder"),
    })?;
    Ok(told(&dir, &done, dry_run))
}

fn told(dir: &Path, done: &Exported, dry_run: bool) -> Answer {
    let dir = larder_patterns::shown(&dir.to_string_lossy());
    let mut lines: Vec<String> =
        done.left_out.iter().map(|one| format!("! {}: {}", larder_patterns::shown(&one.path), one.why)).collect();
    let verb = if dry_run { "would write" } else { "wrote" };
    lines.push(format!("{verb} {} ({}) to {dir}", count(done.files, "file"), size(done.bytes)));
    let left_out = done.left_out.iter().map(|one| json!({ "path": larder_patterns::shown(&one.path), "why": one.why }));
    let object = json!({
        "dry_run": dry_run,
        "tree": dir,
        "files": done.files,
        "folders": done.folders,
        "bytes": done.bytes,
        "cloned": done.cloned,
        "left_out": left_out.collect::<Vec<_>>(),
        "left_out_count": done.left_out_count,
    });
    let is_absent = done.left_out.iter().any(|one| one.is_absent);
    let remains = (done.left_out_count > 0).then(|| {
        let message = format!("{} could not be written", count(done.left_out_count, "path"));
        if is_absent {
            let hint = "`larder sync` fetches what is not here from any store that holds it";
            NodeError { kind: Kind::Unavailable, message, hint: Some(hint.to_owned()) }
        } else {
            NodeError::user(message, "they are named above; everything else was written")
        }
    });
    Answer::new(lines, object).with_remains(remains)
}

/// Takes what is whole in such a file.
pub fn import(context: &Context, args: &ImportArgs) -> Result<Answer, NodeError> {
    let (join, dry_run) = (args.join, args.dry.dry_run);
    let request = ImportRequest { file: context.outside_file(&args.file)?, join, dry_run };
    act_trusting(context, &ChangeRequest::Import(request), args.trust.trust)
}
