//! Laws of rows that are written while recording goes on: they are those that the mirror would write, whatever fails.

use std::sync::Arc;

use larder_adapters::{FaultRates, FaultyAdapter, FileSyncAdapter, MemoryAdapter, Query, RecordId, Row};

use super::{Machine, backend, row};
use crate::node::{RunOptions, Way};

/// Enough that their rows are written ahead.
const FILES: usize = 300;

fn rows(adapter: &Arc<dyn FileSyncAdapter>) -> Vec<Row> {
    adapter.query(&Query::paths("demo", "shared", "", None, 10_000)).expect("lists").rows
}

/// Files of every kind that a row may be made of, or not.
fn fill(machine: &Machine) {
    for i in 0..FILES {
        machine.write(&format!("d{}/{i}.md", i / 50), &format!("file {i}\n"));
    }
    machine.write("twin.md", "file 7\n");
    machine.write("empty.md", "");
    machine.write("runs/of/this.md", "for the archive\n");
    machine.write("long.jsonl", &"a line of a long log\n".repeat(40_000));
    std::fs::write(machine.path("nul.txt"), b"a\0b").expect("writes");
    std::fs::write(machine.path("latin.txt"), b"caf\xe9").expect("writes");
    std::os::unix::fs::symlink("twin.md", machine.path("link.md")).expect("links");
}

#[test]
fn rows_written_while_recording_are_those_that_the_mirror_writes() {
    let (early, late) = (backend(), backend());
    let (mut ahead, mut after) = (Machine::new("a", &early), Machine::new("a", &late));
    fill(&ahead);
    fill(&after);

    let report = ahead.run();
    after.node().run(&RunOptions { way: Way::Pull, ..RunOptions::default() }).expect("records");
    assert!(rows(&late).is_empty(), "a pull writes no row");
    let other = after.run();

    let shown = |rows: Vec<Row>| -> Vec<_> { rows.into_iter().map(|row| (row.id, row.content)).collect() };
    assert_eq!(shown(rows(&early)), shown(rows(&late)));
    assert_eq!((report.rows_written, report.row_bytes), (other.rows_written, other.row_bytes));
    assert_eq!(rows(&early).len(), FILES + 6, "all but the link and the archive, and the config");
    assert!(ahead.run().is_empty());
    ahead.restart();
    assert!(ahead.run().is_empty());
}

#[test]
fn a_row_that_stands_in_the_way_is_an_edit_and_not_lost() {
    let memory = MemoryAdapter::new();
    let backend: Arc<dyn FileSyncAdapter> = Arc::new(memory.clone());
    let mut a = Machine::new("a", &backend);
    fill(&a);
    memory.foreign_set(&RecordId::new("demo", "shared", "d0/7.md"), "theirs");

    a.run();
    a.run();

    assert_eq!(a.read("d0/7.md"), row(&backend, "d0/7.md"));
    assert_eq!(a.conflicts(), 1);
    let slot = crate::model::RelPath::parse("d0/7.md").expect("a path");
    let slot = a.node().engine.slot_by_rules(&slot).expect("a slot");
    assert_eq!(a.node().engine.reader().expect("opens").heads(&slot).expect("reads").len(), 2);
    assert!(a.run().is_empty());
}

#[test]
fn many_pages_of_rows_arrive_whichever_write_of_them_failed() {
    const MANY: usize = 2_050;
    for (seed, before, after, is_ahead) in [(1, 1, 0, true), (2, 0, 1, true), (1, 1, 0, false), (2, 0, 1, false)] {
        let memory = backend();
        let faulty = Arc::new(FaultyAdapter::new(memory.clone(), seed, FaultRates::default()));
        let adapter: Arc<dyn FileSyncAdapter> = faulty.clone();
        let mut a = Machine::new("a", &adapter);
        for i in 0..MANY {
            a.write(&format!("d{}/{i}.md", i / 50), &format!("file {i}\n"));
        }
        if !is_ahead {
            a.node().run(&RunOptions { way: Way::Pull, ..RunOptions::default() }).expect("records");
        }
        faulty.set_rates(FaultRates { error_before: before, error_after: after, ..FaultRates::default() });
        a.run();
        faulty.set_rates(FaultRates::default());
        assert!(faulty.injected_count() > 0, "seed {seed}: nothing failed");

        a.restart();
        a.run();

        assert!(a.run().is_empty(), "seed {seed}");
        let page = memory.query(&Query::paths("demo", "shared", "", None, MANY + 1)).expect("lists");
        assert_eq!(page.rows.len(), MANY, "seed {seed}");
        for i in (0..MANY).step_by(97) {
            assert_eq!(row(&memory, &format!("d{}/{i}.md", i / 50)), Some(format!("file {i}\n")), "seed {seed}");
        }
    }
}
