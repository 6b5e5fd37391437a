//! Laws of patterns that match nothing: told, and only then.

use super::*;

#[test]
fn a_pattern_whose_file_could_not_be_written_matches_something() {
    let backend = backend();
    let mut machines = ["a", "b"].map(|host| Machine::new(host, &backend));
    let [a, b] = &mut machines;
    a.write("a.md", "a\n");
    converge(&mut [&mut *a, &mut *b]);
    a.write("docs/x.json", "{}");
    a.run();
    // Something that is no file of the project's has the folder's name.
    std::fs::write(b.path("docs"), "in the way").expect("writes");

    let report = b.run();

    assert!(report.written.is_empty() && b.read("docs/x.json").is_none(), "{report:?}");
    let problems = b.glance_status().problems.into_iter().filter(|problem| problem.source == "patterns");
    let idle: Vec<String> = problems.map(|problem| problem.path).collect();
    assert!(
        idle.contains(&"**/*.jsonl".to_owned()) && !idle.contains(&"**/*.json".to_owned()),
        "{idle:?} {:?}",
        report.waiting
    );
}
