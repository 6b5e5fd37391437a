//! Bad configs and what is said about them, and what holds for any bytes at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{is_blessing, repository_file, settings};
use crate::config::{ConfigError, ConfigFile, MAX_CONFIG_BYTES};

fn parse(bytes: &[u8]) -> Result<ConfigFile, ConfigError> {
    ConfigFile::parse(bytes, Path::new("sync-config.json"))
}

pub(super) fn bad_configs() -> BTreeMap<String, Vec<u8>> {
    let folder = repository_file("tests/data/config/bad");
    let files = std::fs::read_dir(folder).expect("the gallery is there").map(|entry| entry.expect("an entry").path());
    let configs = files.filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    configs.map(|file| (stem(&file), std::fs::read(&file).expect("a readable file"))).collect()
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn golden(name: &str) -> PathBuf {
    repository_file("tests/data/config/bad").join(format!("{name}.txt"))
}

#[test]
fn every_bad_config_is_answered_with_its_place_and_what_to_do() {
    let mut differing = Vec::new();
    for (name, bytes) in bad_configs() {
        let Err(error) = parse(&bytes) else { panic!("{name} was accepted") };
        let said = format!("{}\n", error.render(false));

        if is_blessing() {
            std::fs::write(golden(&name), &said).expect("the golden is writable");
        } else if std::fs::read_to_string(golden(&name)).ok().as_ref() != Some(&said) {
            differing.push(format!("--- {name}\n{said}"));
        }
    }

    let command = "LARDER_BLESS=1 cargo test -p larder --lib config::tests::gallery";
    assert!(differing.is_empty(), "run `{command}` if this is meant:\n{}", differing.join("\n"));
}

#[test]
fn no_message_holds_a_secret_or_a_control_character() {
    for (name, bytes) in bad_configs() {
        let Err(error) = parse(&bytes) else { panic!("{name} was accepted") };

        for said in [error.render(false), error.to_string(), format!("{error:?}")] {
            assert!(!said.contains("geheim"), "{name}: {said}");
            assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{name}: {said:?}");
            assert!(said.len() < 8_000, "{name}: {} bytes", said.len());
        }
    }
}

#[test]
fn a_problem_knows_its_line_column_and_key() {
    let text = "\u{feff}{\r\n  // ü\r\n  \"peers\": { \"ü\": 1, \"nas\": { \"urll\": \"x\" } },\r\n}";

    let Err(ConfigError::Invalid(problems)) = parse(text.as_bytes()) else { panic!("accepted") };

    let places: Vec<_> = problems.items.iter().map(|item| (item.line, item.column, item.key.as_str())).collect();
    assert_eq!(places, [(3, 19, "peers.ü"), (3, 31, "peers.nas.urll")]);
}

#[test]
fn a_file_beyond_the_bound_is_refused_unread() {
    let bytes = vec![b' '; MAX_CONFIG_BYTES as usize + 1];

    assert!(matches!(parse(&bytes), Err(ConfigError::TooLarge { limit_bytes: MAX_CONFIG_BYTES, .. })));
}

#[test]
fn bytes_that_are_no_text_are_named_by_line() {
    assert!(matches!(parse(b"{\n}\n\xff\n"), Err(ConfigError::NotUtf8 { line: 3, .. })));
}

#[test]
fn comments_trailing_commas_and_a_byte_order_mark_are_accepted() {
    let text = "\u{feff}{ /* a */ \"appId\": \"x\", // b\n \"syncFilePatterns\": [\"docs/**\",], }";

    assert_eq!(settings(text).app_id.value, "x");
}

#[test]
fn at_most_twenty_problems_are_listed() {
    let keys: String = (0..100).map(|i| format!("\"unknown{i}\": 1,")).collect();

    let Err(ConfigError::Invalid(problems)) = parse(format!("{{{keys}}}").as_bytes()) else { panic!("accepted") };

    assert_eq!(problems.items.len(), 20);
}

#[test]
fn too_many_patterns_are_named_once_each_and_bounded() {
    let patterns: String = (0..1_100).map(|i| format!("\"docs/{i}/**\",")).collect();

    let Err(ConfigError::Invalid(problems)) = parse(format!("{{\"syncFilePatterns\": [{patterns}]}}").as_bytes())
    else {
        panic!("accepted")
    };

    assert!((1..=20).contains(&problems.items.len()));
    assert!(problems.items[0].sentence.contains("1000"), "{}", problems.items[0].sentence);
}

const WHOLE: &str = include_str!("../../../sync-config.json.example");

fn answers(bytes: &[u8]) {
    if let Err(error) = parse(bytes) {
        let said = error.render(true);
        assert!(!said.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        answers(&bytes);
    }

    #[test]
    fn random_json_letters_never_panic(text in "[\\[\\]{}:,\"'a-z0-9./*!\\\\\n\r\t ué\u{feff}-]{0,200}") {
        answers(text.as_bytes());
    }

    #[test]
    fn a_damaged_config_never_panics(at in 0..WHOLE.len(), len in 0usize..40, put in proptest::collection::vec(any::<u8>(), 0..6)) {
        let mut bytes = WHOLE.as_bytes().to_vec();
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, put);
        answers(&bytes);
    }

    #[test]
    fn a_config_with_values_swapped_never_panics(
        key in proptest::sample::select(vec!["syncFilePatterns", "peers", "root", "intervalSecs", "maxFileBytes", "merge", "databases", "encryption", "retention", "backend", "appId", "$schema"]),
        value in proptest::sample::select(vec!["null", "true", "-0", "1e400", "\"\"", "[]", "{}", "[[]]", "{\"a\":{}}", "[{\"path\":1}]", "{\"a\":null}", "[null]", "18446744073709551616", "\"\\u0000\""]),
    ) {
        answers(format!("{{\"{key}\": {value}}}").as_bytes());
    }
}
