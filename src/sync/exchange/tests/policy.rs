//! What is meant for a store goes there and nothing else; and the same over the real ledger and a database.

use std::sync::Arc;

use larder_adapters::MemoryAdapter;

use super::super::{AllTheTime, Direction, ExchangeConfig, MemoryJournal, exchange, exchange_in_turn};
use super::fleet::*;
use crate::ledger::{ArtifactName, Ledger};
use crate::model::Space;
use crate::transport::{BackendTransport, FolderTransport};

#[test]
fn a_space_that_is_not_meant_for_a_store_is_neither_sent_nor_taken_nor_listed() {
    let private = Writer::private_space();
    let mut a = Machine::new("a-1", 1);
    a.publish_full("shared");
    let mut secret = Writer::in_space("a-1", 1, private.clone());
    for (name, bytes) in secret.next(&Load { packs: vec![b"secret".to_vec()], ..Load::default() }) {
        a.store.damage(&name, Some(&bytes));
    }
    let ((public, to_public), (own, to_own)) = (place("public"), place("own"));

    a.meets(&to_public);
    a.config.spaces.push(private);
    a.meets(&to_own);

    assert!(public.names().iter().all(|name| name.chain().space == Space::shared()));
    assert_eq!(own.bytes(), a.store.bytes());
    let mut b = Machine::new("b-1", 2);
    let report = b.meets(&to_own);
    assert_eq!(b.store.names(), public.names());
    assert_eq!(report.requests.list, 2);
}

#[test]
fn directions_are_kept() {
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (store, spot) = place("spot");
    b.publish_full("b");
    b.meets(&spot);
    a.publish_full("a");
    let theirs = store.bytes();

    a.config.direction = Direction::Pull;
    assert_eq!(a.meets(&spot).imported().count(), 1);
    assert_eq!(store.bytes(), theirs);

    a.config.direction = Direction::Both;
    a.config.push = false;
    a.meets(&spot);
    assert_eq!(store.bytes(), theirs);

    let mut c = Machine::new("c-1", 3);
    c.publish_full("c");
    c.config.direction = Direction::Push;
    assert_eq!(c.meets(&spot).pushed.len(), 3);
    assert_eq!(c.store.names().len(), 3);

    a.config.push = true;
    a.meets(&spot);
    assert_eq!(store.names().len(), 9);
    c.config.direction = Direction::Both;
    c.meets(&spot);
    assert_eq!(c.store.bytes(), store.bytes());
}

#[test]
fn the_ledger_on_disk_exchanges_through_a_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name: &str| Ledger::open(&folder.path().join(name)).expect("a ledger");
    let (ours, theirs) = (open("ours"), open("theirs"));
    let mut writer = Writer::new("a-1", 1);
    for n in 0..3u8 {
        let load = Load { packs: vec![vec![n; 3]], records: vec![vec![b'r', n]], ..Load::default() };
        for (name, bytes) in writer.next(&load) {
            ours.put(&name, &bytes).expect("valid");
        }
    }
    let adapter = MemoryAdapter::new();
    let database = |label| BackendTransport::new(Arc::new(adapter.clone()), APP, label).expect("opens");
    let config = ExchangeConfig::new(APP, vec![Space::shared()]);
    let (mut our_journal, mut their_journal) = (MemoryJournal::default(), MemoryJournal::default());

    let pushed = exchange(&ours, &database("db"), &config, &mut our_journal).expect("pushed");
    let pulled = exchange(&theirs, &database("db"), &config, &mut their_journal).expect("pulled");
    let quiet = exchange(&theirs, &database("db"), &config, &mut their_journal).expect("quiet");

    assert_eq!(pushed.pushed.len(), 9);
    assert_eq!(pulled.imported().count(), 3);
    assert_eq!(quiet.requests.total(), 2);
    let list = |ledger: &Ledger| ledger.list("", "", 100).expect("listed");
    assert_eq!(list(&ours), list(&theirs));
}

#[test]
fn what_is_left_is_told_forward_and_to_the_end_of_each_phase() {
    struct Told(std::sync::Mutex<Vec<(&'static str, u64, u64)>>);
    impl crate::sync::Progress for Told {
        fn at(&self, step: &'static str, done: u64, total: u64) {
            self.0.lock().expect("no panic elsewhere").push((step, done, total));
        }
    }
    let (mut a, mut b) = (Machine::new("a-1", 1), Machine::new("b-1", 2));
    let (_, spot) = place("spot");
    (0..4).for_each(|n| drop(a.publish_full(&n.to_string())));

    for machine in [&mut a, &mut b] {
        let told = Told(Default::default());
        exchange_in_turn(&machine.store, &spot, &machine.config, &mut machine.journal, &told, &AllTheTime)
            .expect("exchanges");
        let told = told.0.into_inner().expect("no panic elsewhere");
        for phase in told.chunk_by(|one, next| one.0 == next.0) {
            let done: Vec<u64> = phase.iter().map(|(_, done, _)| *done).collect();
            assert_eq!(done, (1..=phase.len() as u64).collect::<Vec<_>>());
            assert!(
                phase.iter().all(|(_, done, total)| done <= total) && phase[phase.len() - 1].2 == done.len() as u64
            );
        }
        let steps: Vec<&str> = told.chunk_by(|one, next| one.0 == next.0).map(|phase| phase[0].0).collect();
        let sends = machine.store.names().iter().any(|name| name.chain().to_string().contains("b-1"));
        assert!(
            steps == ["sending"] || (steps == ["receiving checkpoints", "receiving contents"] && !sends),
            "{steps:?}"
        );
    }
}

/// Bytes that look like nothing and are the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("reads");
    bytes[at] ^= 1;
    std::fs::remove_file(path).expect("removes");
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn a_large_pack_passes_a_folder_in_parts_and_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name: &str| Ledger::open(&folder.path().join(name)).expect("a ledger");
    let visit = |name: &str| {
        std::fs::create_dir_all(folder.path().join(name)).expect("makes it");
        FolderTransport::open(&folder.path().join(name), name).expect("opens")
    };
    let (ours, theirs, others) = (open("ours"), open("theirs"), open("others"));
    // One ends where a part does.
    let packs = vec![noise(2 << 20), noise((2 << 20) + 77)];
    let mut writer = Writer::new("a-1", 1);
    let names: Vec<_> = packs.iter().map(|pack| writer.pack_name(pack)).collect();
    for (name, bytes) in writer.next(&Load { packs, ..Load::default() }) {
        ours.put(&name, &bytes).expect("valid");
    }
    let config = ExchangeConfig::new(APP, vec![Space::shared()]);
    let meet = |ledger: &Ledger, place: &FolderTransport| {
        exchange(ledger, place, &config, &mut MemoryJournal::default()).expect("the folder is there")
    };

    assert_eq!(meet(&ours, &visit("store")).pushed.len(), 3);
    assert_eq!(meet(&theirs, &visit("store")).pulled.len(), 3);
    for name in &names {
        assert_eq!(theirs.read_whole(name).expect("is there"), ours.read_whole(name).expect("is there"));
    }

    flip(&folder.path().join(format!("store/{APP}/{}", names[1])), (2 << 20) + 5);
    let taken = meet(&others, &visit("store"));
    assert_eq!(taken.wrong_there.iter().collect::<Vec<_>>(), [&names[1]]);
    assert!(others.has(&names[0]) && !others.has(&names[1]));
    let staged = std::fs::read_dir(folder.path().join("others/ledger/.staging")).expect("lists");
    assert_eq!(staged.count(), 0);

    flip(&folder.path().join("theirs/ledger").join(names[0].to_string()), 1 << 20);
    let given = meet(&theirs, &visit("second"));
    assert_eq!(given.damaged.iter().collect::<Vec<_>>(), [&names[0]]);
    let there = |name: &ArtifactName| folder.path().join(format!("second/{APP}/{name}")).exists();
    assert!(!there(&names[0]) && there(&names[1]));
}

#[test]
fn who_gives_after_taking_looks_only_at_what_came_since() {
    let [mut a, mut b, mut c] = [("a-1", 1), ("b-1", 2), ("c-1", 3)].map(|(name, seed)| Machine::new(name, seed));
    let ((store, spot), (_, other)) = (place("spot"), place("other"));
    for machine in [&mut b, &mut c] {
        machine.publish_full("first");
        machine.meets(&spot);
    }
    a.config.direction = Direction::Pull;
    let taken = a.meets(&spot);
    assert_eq!(taken.even.len(), 2);

    a.publish_full("own");
    (a.config.direction, a.config.even) = (Direction::Push, taken.even);
    let given = a.meets(&spot);
    assert_eq!((given.pushed.len(), given.requests.list, given.requests.get), (3, 1, 0));

    b.publish_full("second");
    b.meets(&other);
    a.config.direction = Direction::Pull;
    a.meets(&other);
    a.config.direction = Direction::Push;
    assert_eq!(a.meets(&spot).pushed.len(), 3);
    assert_eq!(store.bytes(), a.store.bytes());
}
