//! Laws of doing nothing: what a look costs when nothing changed.

use super::*;
use crate::index::{rows_of, traced};

/// Statements that gave a row out of a table, without the question how many there are.
fn rows_from<'s>(said: &'s [String], table: &str) -> Vec<&'s str> {
    let reads = |sql: &&str| sql.split_whitespace().any(|word| word.trim_matches(['(', ')', ',']) == table);
    said.iter().map(String::as_str).filter(reads).filter(|sql| !sql.contains("max(vid)")).collect()
}

#[test]
fn a_look_at_rest_reads_no_version_and_no_manifest() {
    let backend = backend();
    let mut machines = ["a", "b"].map(|host| Machine::new(host, &backend));
    let [a, b] = &mut machines;
    for n in 0..60 {
        a.write(&format!("notes/{n}.md"), &format!("{n}\n"));
    }
    // One of several segments, which has a manifest, and one with a conflict.
    a.write("long.jsonl", &"{\"a\":\"line\"}\n".repeat(20_000));
    converge(&mut [&mut *a, &mut *b]);
    for machine in [&mut *a, &mut *b] {
        machine.write("notes/0.md", &format!("{} says else\n", machine.host));
        machine.restart();
        traced(|| machine.node().engine.origin().clone());
    }
    let (_, said) = rows_of(|| a.run());
    assert!(!rows_from(&said, "versions").is_empty(), "an edit reads what it stands on");
    converge(&mut [&mut *a, &mut *b]);

    for machine in [&mut *a, &mut *b] {
        machine.run();
        let (report, said) = rows_of(|| machine.run());
        assert!(report.is_empty() && !said.is_empty(), "{report:?}");
        for table in ["versions", "manifests", "segments", "blocks"] {
            assert_eq!(rows_from(&said, table), [] as [&str; 0], "{}", machine.host);
        }
    }
}
