//! `larder config`: every setting in force and where it came from.

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::config::{Row, schema_text};
use crate::node::NodeError;

/// What `larder config` takes.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// Print the JSON Schema of sync-config.json instead
    #[arg(long)]
    schema: bool,
}

/// Shows the settings.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<Answer, NodeError> {
    if args.schema {
        let schema = schema_text();
        let object = serde_json::from_str(&schema).unwrap_or_default();
        return Ok(Answer::new(vec![schema.trim_end().to_owned()], object));
    }
    let settings = context.open.settings(&context.env)?;
    let rows = settings.table();
    let file = larder_patterns::shown(&settings.config.file().to_string_lossy());
    let mut lines = table(&rows);
    lines.extend(settings.warnings.iter().map(|warning| format!("warning: {warning}")));
    let warnings: Vec<String> = settings.warnings.iter().map(ToString::to_string).collect();
    Ok(Answer::new(lines, json!({ "file": file, "settings": rows, "warnings": warnings })))
}

/// Columns as wide as their widest value, within reason.
fn table(rows: &[Row]) -> Vec<String> {
    const MAX_VALUE_COLUMNS: usize = 48;
    let width = |column: fn(&Row) -> &str| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let keys = width(|row| &row.key);
    let values = width(|row| &row.value).min(MAX_VALUE_COLUMNS);
    let line = |row: &Row| format!("{:<keys$}  {:<values$}  {}", row.key, row.value, row.source);
    rows.iter().map(line).collect()
}
