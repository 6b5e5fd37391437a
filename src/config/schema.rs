//! The JSON Schema of `sync-config.json`, derived from the fields and shipped as `sync-config.schema.json`.
//!
//! Invariant: the shipped file is exactly what this makes (a test holds it). The schema lets editors complete and
//! check a config; what Larder itself checks is in `parse` and goes further.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::file::Config;

/// Where the schema can be named by `$schema` beside the config.
pub const SCHEMA_FILE_NAME: &str = "sync-config.schema.json";

/// The schema as the text of the shipped file, with a line end.
pub fn schema_text() -> String {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "sync-config.json".into());
    if let Some(object) = schema.as_object_mut() {
        object.values_mut().for_each(tidy);
    }
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema has only text keys");
    text.push('\n');
    text
}

// Takes out what speaks of the code and not of the file: line ends of comments, integer widths, empty defaults.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, value| !(key == "default" && value.is_null()) && key != "format");
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
