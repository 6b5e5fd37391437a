//! The JSON Schema of `sync-config.json`, derived from the fields and shipped as `sync-config.schema.json`.
//!
//! Invariant: the shipped file is exactly what this makes (a test holds it). The schema lets editors complete and
//! check a config; what Larder itself checks is in `parse` and goes further.

use schemars::generate::SchemaSettings;

use super::file::Config;

/// Where the schema can be named by `$schema` beside the config.
pub const SCHEMA_FILE_NAME: &str = "sync-config.schema.json";

/// The schema as the text of the shipped file, with a line end.
pub fn schema_text() -> String {
    let mut schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "sync-config.json".into());
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema has only text keys");
    text.push('\n');
    text
}
