//! `larder diff`: the disk against what was recorded, or two versions against each other.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::cli::text::{ID_DIGITS, size};
use crate::model::RelPath;
use crate::node::{Glance, NodeError};

/// Longer contents are only named, in bytes: a diff of them says little and takes long.
const MAX_DIFFED_BYTES: usize = 4 << 20;

/// What `larder diff` takes.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// A file or folder; everything if it is left out
    path: Option<PathBuf>,
    /// The older version, by its id from `larder log`; else what was recorded last
    #[arg(long, value_name = "ID", requires = "path")]
    from: Option<String>,
    /// The newer version; else the disk
    #[arg(long, value_name = "ID", requires = "path")]
    to: Option<String>,
}

/// Compares.
pub fn run(context: &Context, args: &DiffArgs) -> Result<Answer, NodeError> {
    let glance = context.glance()?;
    let path = args.path.as_deref().map(|typed| context.project_path(&glance.settings, typed)).transpose()?.flatten();
    let pairs = match (&path, args.from.is_some() || args.to.is_some()) {
        (Some(path), true) => vec![between(&glance, path, args)?],
        _ => against_disk(&glance, path.as_ref())?,
    };
    let mut lines: Vec<String> = pairs.iter().flat_map(Pair::lines).collect();
    if pairs.is_empty() {
        lines.push("no differences".to_owned());
    }
    let objects: Vec<Value> = pairs.iter().map(Pair::object).collect();
    Ok(Answer::new(lines, json!({ "differences": objects })))
}

/// Two states of one path.
struct Pair {
    path: String,
    old_label: String,
    new_label: String,
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
}

fn between(glance: &Glance, path: &RelPath, args: &DiffArgs) -> Result<Pair, NodeError> {
    let side = |id: &str| -> Result<(String, Option<Vec<u8>>), NodeError> {
        let stored = glance.version_of(path, id)?;
        let bytes = stored.version.content().map(|content| glance.bytes_of(&content)).transpose()?;
        Ok((stored.id.0.short(ID_DIGITS), bytes))
    };
    let (old_label, old) = match &args.from {
        Some(id) => side(id)?,
        None => ("recorded".to_owned(), glance.bytes_recorded(path)?),
    };
    let (new_label, new) = match &args.to {
        Some(id) => side(id)?,
        None => ("disk".to_owned(), glance.bytes_on_disk(path)?),
    };
    Ok(Pair { path: path.shown(), old_label, new_label, old, new })
}

fn against_disk(glance: &Glance, path: Option<&RelPath>) -> Result<Vec<Pair>, NodeError> {
    let mut pairs = Vec::new();
    for change in glance.disk_changes(path)? {
        pairs.push(Pair {
            path: change.path.shown(),
            old_label: "recorded".to_owned(),
            new_label: "disk".to_owned(),
            old: glance.bytes_recorded(&change.path)?,
            new: if change.on_disk { glance.bytes_on_disk(&change.path)? } else { None },
        });
    }
    Ok(pairs)
}

impl Pair {
    /// `None` if one side is no text, or too long to compare.
    fn patch(&self) -> Option<String> {
        let text = |side: &Option<Vec<u8>>| -> Option<String> {
            let bytes = side.as_deref().unwrap_or_default();
            let plain = bytes.len() <= MAX_DIFFED_BYTES && !bytes.contains(&0);
            String::from_utf8(bytes.to_vec()).ok().filter(|_| plain)
        };
        let (old, new) = (text(&self.old)?, text(&self.new)?);
        Some(diffy::create_patch(&old, &new).to_string())
    }

    fn lines(&self) -> Vec<String> {
        let name = |side: &Option<Vec<u8>>, label: &str| match side {
            Some(_) => format!("{} ({label})", self.path),
            None => "(nothing)".to_owned(),
        };
        let bytes =
            |side: &Option<Vec<u8>>| side.as_ref().map_or_else(|| "nothing".to_owned(), |b| size(b.len() as u64));
        let mut lines = vec![
            format!("--- {}", name(&self.old, &self.old_label)),
            format!("+++ {}", name(&self.new, &self.new_label)),
        ];
        match self.patch() {
            // The first two lines of a patch name its sides; ours do that.
            Some(patch) => lines.extend(patch.lines().skip(2).map(visible)),
            None => lines.push(format!("no text to compare: {} here, {} there", bytes(&self.old), bytes(&self.new))),
        }
        lines
    }

    fn object(&self) -> Value {
        json!({
            "path": self.path,
            "from": self.old_label,
            "to": self.new_label,
            "old_size": self.old.as_ref().map(Vec::len),
            "new_size": self.new.as_ref().map(Vec::len),
            "text": self.patch(),
        })
    }
}

/// A line of a file with what could drive a terminal made visible; tabs and backslashes stay.
fn visible(line: &str) -> String {
    let mut safe = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '\t' | '\\' => safe.push(c),
            _ => safe.push_str(&larder_patterns::shown(c.encode_utf8(&mut [0; 4]))),
        }
    }
    safe
}
