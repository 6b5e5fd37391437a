//! Laws of batches that wait for the disk beside recording: whenever the disk fails, nothing is lost and nothing doubled.

use super::{Machine, backend, tree};
use crate::ledger::Depth;
use crate::sync::record::BatchVersions;

/// Three batches and a part of one.
const FILES: usize = 31;

fn fill(machine: &Machine) {
    for i in 0..FILES {
        machine.write(&format!("d{}/{i}.md", i % 4), &format!("file {}\n", i / 2));
    }
    machine.write("runs/of/this.md", "for the archive\n");
    // Two of the same content, larger than one segment, in batches that follow each other.
    for name in ["d0/6.log.txt", "d1/13.log.txt"] {
        machine.write(name, &(0..3_000).map(|n| format!("line {n} of a long text\n")).collect::<String>());
    }
}

fn expect_each_once(machine: &mut Machine, moment: &str) {
    for (path, _) in tree(machine.dir.path()) {
        let path = crate::model::RelPath::parse(&path).expect("a path");
        let engine = &machine.node().engine;
        let Ok(slot) = engine.slot_by_rules(&path) else { continue };
        let versions = engine.index.history(&slot, 10).expect("reads");
        assert_eq!(versions.len(), 1, "{moment}: {path:?}");
    }
    assert_eq!(machine.verify(Depth::Bytes).findings, [], "{moment}");
}

#[test]
fn a_disk_that_fails_while_the_next_batch_is_recorded_loses_and_doubles_nothing() {
    let mut batches = 0;
    for limit in 0.. {
        let mut a = Machine::new("a", &backend());
        fill(&a);
        a.node().engine.batch_versions = BatchVersions { first: 8, most: 8 };
        let ledger = a.node().engine.ledger.clone();
        ledger.disk().crash.after(limit);
        let failed = a.node().run(&Default::default()).is_err();
        let steps = ledger.disk().crash.steps();
        ledger.disk().crash.after(u64::MAX);
        let moment = format!("the disk failed at step {limit}");

        if limit % 2 == 0 {
            a.restart();
        }
        a.run();
        expect_each_once(&mut a, &moment);
        assert!(a.run().is_empty(), "{moment}");
        if steps <= limit {
            assert!(!failed, "{moment}");
            let checkpoints =
                ledger.chains().expect("lists").into_iter().map(|chain| ledger.checkpoint_names(&chain, 0));
            batches = checkpoints.map(|names| names.expect("lists").len()).sum();
            break;
        }
        assert!(failed, "{moment}");
    }
    assert!(batches >= 4, "{batches} batches");
}

#[test]
fn an_own_chain_that_cannot_be_read_to_its_end_is_not_written_on_until_it_is_healed() {
    let mut a = Machine::new("a", &backend());
    a.write("a.md", "one\n");
    a.run();
    let ledger = a.node().engine.ledger.clone();
    let [chain] = &ledger.chains().expect("lists")[..] else { panic!("one chain") };
    let name = ledger.checkpoint_names(chain, 0).expect("lists").pop().expect("a checkpoint");
    let whole = std::fs::read(ledger.path(&name)).expect("reads");
    a.restart();
    std::fs::remove_file(ledger.path(&name)).expect("removes");
    std::fs::write(ledger.path(&name), &whole[..whole.len() / 2]).expect("writes");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(a.path(&format!(".larder/index.db{suffix}")));
    }
    a.write("a.md", "two\n");

    for _ in 0..2 {
        let stopped = a.run().stopped.expect("nothing is recorded");
        assert!(stopped.contains("cannot be read") && stopped.contains("larder origin new"), "{stopped}");
        a.restart();
    }
    assert_eq!(ledger.checkpoint_names(chain, 0).expect("lists"), std::slice::from_ref(&name));
    assert_eq!(a.read("a.md").as_deref(), Some("two\n"));

    assert!(a.run().stopped.is_some());
    std::fs::write(ledger.path(&name), &whole).expect("puts back");
    let report = a.run();
    assert_eq!((report.stopped, report.recorded.len()), (None, 1));
    assert_eq!(ledger.checkpoint_names(chain, 0).expect("lists").len(), 2);
    assert_eq!(a.verify(Depth::Bytes).findings, []);
    assert!(a.run().is_empty());
}
