//! The index can be thrown away: damage and other schemas are found, and a new one is made.

use super::fleet::{Fleet, Step};
use super::{dump, fresh, path_in};
use crate::index::{FreshReason, Index, IndexError, Opened, Reader};

fn some_history() -> Fleet {
    let steps: Vec<Step> = (0..60)
        .map(|i| Step::Edit { writer: i % 3, path: i, content: i, all_heads: i % 2 == 0, bytes_come: true })
        .collect();
    Fleet::run(&steps)
}

#[test]
fn what_was_applied_is_there_after_opening_again() {
    let fleet = some_history();
    let (folder, mut index) = fresh();
    index.apply(&fleet.items).expect("applied");
    let before = dump(&index, &fleet.chains());
    drop(index);

    let (index, opened) = Index::open(&path_in(&folder), 9).expect("opened");

    assert_eq!((opened, index.epoch()), (Opened::Existing, 1));
    assert_eq!(dump(&index, &fleet.chains()), before);
    assert_eq!(dump(&index.reader().expect("a reader"), &fleet.chains()), before);
}

#[test]
fn a_damaged_file_is_replaced_by_a_new_index() {
    let fleet = some_history();
    type Harm = fn(Vec<u8>) -> Vec<u8>;
    let harms: [(&str, Harm); 4] = [
        ("no database", |_| b"not a database at all, but long enough to be looked at ".repeat(40)),
        ("cut short", |bytes| bytes[..4096].to_vec()),
        ("a header of zeros", |bytes| [vec![0; 100], bytes[100..].to_vec()].concat()),
        ("a first page of noise", |bytes| [bytes[..100].to_vec(), vec![0xa5; 3996], bytes[4096..].to_vec()].concat()),
    ];
    for (name, harm) in harms {
        let (folder, mut index) = fresh();
        index.apply(&fleet.items).expect("applied");
        index.rest().expect("at rest");
        drop(index);
        // A short log stays when the file is closed, and would heal it: it was moved into the file above.
        std::fs::remove_file(folder.path().join("index.db-wal")).expect("there was a log");
        let bytes = std::fs::read(path_in(&folder)).expect("bytes");
        std::fs::write(path_in(&folder), harm(bytes)).expect("harmed");

        let (mut index, opened) = Index::open(&path_in(&folder), 2).expect(name);

        assert!(matches!(opened, Opened::Fresh { reason: FreshReason::Damaged(_) }), "{name}: {opened:?}");
        assert_eq!(index.epoch(), 2, "{name}");
        index.apply(&fleet.items).expect("applied again");
        index.verify().expect("sound");
    }
}

#[test]
fn a_short_log_is_kept_when_the_index_is_closed() {
    let fleet = some_history();
    let (folder, mut index) = fresh();
    index.rest().expect("at rest");
    let size = std::fs::metadata(path_in(&folder)).expect("a file").len();
    index.apply(&fleet.items).expect("applied");
    let before = dump(&index, &fleet.chains());
    drop(index);

    // Closing moved nothing and synced nothing: what was applied stands in the log alone.
    assert_eq!(std::fs::metadata(path_in(&folder)).expect("a file").len(), size);
    let (index, _) = Index::open(&path_in(&folder), 9).expect("opened");
    assert_eq!(dump(&index, &fleet.chains()), before);
}

#[test]
fn another_schema_is_replaced_and_refused_by_readers() {
    let (folder, index) = fresh();
    index.conn.pragma_update(None, "user_version", 999).expect("written");
    drop(index);

    assert!(matches!(Reader::open(&path_in(&folder)), Err(IndexError::Newer { found: 999, .. })));
    let (_, opened) = Index::open(&path_in(&folder), 2).expect("opened");

    assert_eq!(opened, Opened::Fresh { reason: FreshReason::OtherSchema(999) });
}

#[test]
fn an_absent_index_is_made_and_no_reader_makes_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");

    assert!(matches!(Reader::open(&path_in(&folder)), Err(IndexError::Absent { .. })));
    let (_, opened) = Index::open(&path_in(&folder), 2).expect("opened");

    assert_eq!(opened, Opened::Fresh { reason: FreshReason::Absent });
}

#[test]
fn a_reader_writes_nothing_and_sees_whole_transactions() {
    let fleet = some_history();
    let (_folder, mut index) = fresh();
    let reader = index.reader().expect("a reader");

    index.apply(&fleet.items).expect("applied");

    assert!(reader.conn.execute("DELETE FROM versions", []).is_err());
    assert_eq!(reader.counts().expect("counts"), index.counts().expect("counts"));
}

#[test]
fn nothing_is_synced_while_applying() {
    let fleet = some_history();
    let (folder, mut index) = fresh();
    index.rest().expect("at rest");
    let size = std::fs::metadata(path_in(&folder)).expect("a file").len();

    for item in &fleet.items {
        index.apply(std::slice::from_ref(item)).expect("applied");
    }

    // Only a checkpoint of the write-ahead log writes into the file, and only that syncs.
    assert_eq!(std::fs::metadata(path_in(&folder)).expect("a file").len(), size);
    assert!(index.wal_bytes() > 0);
}

#[test]
fn a_log_that_grows_large_is_moved_into_the_file_as_it_goes() {
    const MAX_BYTES: u64 = 128 << 10;
    let fleet = some_history();
    let (folder, mut index) = fresh();
    index.rest().expect("at rest");
    let size = std::fs::metadata(path_in(&folder)).expect("a file").len();
    index.max_log_bytes = MAX_BYTES;
    let mut most = 0;

    for item in &fleet.items {
        index.apply(std::slice::from_ref(item)).expect("applied");
        most = most.max(index.wal_bytes());
    }

    assert!(std::fs::metadata(path_in(&folder)).expect("a file").len() > size);
    // One transaction more, and what begins a log anew keeps a little of it.
    assert!(most < 16 * MAX_BYTES, "{most}");
}

#[test]
fn an_index_in_which_damage_was_met_is_looked_through_and_made_anew_only_if_it_is_so() {
    let fleet = some_history();
    let (folder, mut index) = fresh();
    index.apply(&fleet.items).expect("applied");
    index.rest().expect("at rest");
    let root: i64 = index
        .conn
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'slots'", [], |row| row.get(0))
        .expect("a table");
    let page_bytes: i64 = index.conn.pragma_query_value(None, "page_size", |row| row.get(0)).expect("a size");
    drop(index);
    let path = path_in(&folder);

    Index::suspect(&path, Index::file_at(&path).expect("it is there"));
    assert_eq!(Index::open(&path, 9).expect("opened").1, Opened::Existing);
    assert!(!Index::is_suspect(&path), "it was sound");

    std::fs::remove_file(folder.path().join("index.db-wal")).expect("there was a log, and it was moved");
    let mut bytes = std::fs::read(&path).expect("a file");
    let start = usize::try_from((root - 1) * page_bytes).expect("a place");
    bytes[start..start + 64].fill(0xAA);
    std::fs::write(&path, bytes).expect("damaged");
    Index::suspect(&path, Index::file_at(&path).expect("it is there"));
    let (index, opened) = Index::open(&path, 9).expect("opened");
    assert!(matches!(opened, Opened::Fresh { reason: FreshReason::Damaged(_) }), "{opened:?}");
    assert!(!Index::is_suspect(&path));
    assert_eq!(index.counts().expect("counts").versions, 0);
}
