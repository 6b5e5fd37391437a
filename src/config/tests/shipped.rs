//! The shipped schema and example are what the code says.

use serde_json::Value;

use super::gallery::bad_configs;
use super::{is_blessing, repository_file, settings};
use crate::config::{SCHEMA_FILE_NAME, VARIABLES, schema_text};

const EXAMPLE: &str = "sync-config.json.example";

/// Bad for reasons that a schema cannot hold.
const BEYOND_SCHEMA: [&str; 11] = [
    "app-id-reserved",
    "backend-name",
    "backend-secret",
    "encryption-both",
    "encryption-on",
    "merge-glob",
    "pattern-leaves",
    "pattern-unclosed",
    "peer-name",
    "peer-scheme",
    "peer-secret",
];

fn json(text: &str) -> Option<Value> {
    let text = text.trim_start_matches('\u{feff}');
    let node = crate::config::document::parse(text).ok()?;
    Some(node.to_json())
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository_file(name)).unwrap_or_default()
}

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&schema_text()).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a schema")
}

#[test]
fn the_shipped_schema_is_the_generated_one() {
    if is_blessing() {
        std::fs::write(repository_file(SCHEMA_FILE_NAME), schema_text()).expect("the schema is writable");
    }

    let command = "LARDER_BLESS=1 cargo test -p larder --lib config::tests::shipped";
    assert!(read(SCHEMA_FILE_NAME) == schema_text(), "{SCHEMA_FILE_NAME} is out of date: run `{command}`");
}

#[test]
fn the_example_fits_the_schema_and_has_every_field() {
    let example = json(&read(EXAMPLE)).expect("JSONC");

    let errors: Vec<String> = validator().iter_errors(&example).map(|error| error.to_string()).collect();

    let schema: Value = serde_json::from_str(&schema_text()).expect("the schema is JSON");
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(keys(&example), keys(&schema["properties"]));
}

#[test]
fn the_example_is_a_good_config_and_asks_nothing() {
    let settings = settings(&read(EXAMPLE));

    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert!(crate::config::trust::reach(&settings).is_empty());
}

#[test]
fn the_schema_refuses_bad_configs_too() {
    let validator = validator();
    for (name, bytes) in bad_configs() {
        let Some(value) = std::str::from_utf8(&bytes).ok().and_then(json) else {
            continue;
        };
        assert_eq!(!validator.is_valid(&value), !BEYOND_SCHEMA.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn the_page_names_every_key_and_variable() {
    let page = read("docs/config.md");
    let schema: Value = serde_json::from_str(&schema_text()).expect("the schema is JSON");
    let keys = schema["properties"].as_object().expect("properties").keys().cloned();

    let missing: Vec<String> =
        keys.chain(VARIABLES.map(str::to_owned)).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, Vec::<String>::new());
}
