//! Laws of rows that somebody else changes between our look at them and our write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_adapters::{
    AdapterError, Capabilities, Cursor, Expected, FileSyncAdapter, MemoryAdapter, Page, Query, Record, RecordId,
    Revision, Row, Sink, Subscription,
};

use super::Machine;

/// A backend in which, while it is armed, another machine deletes each row that was just looked at.
struct Swift {
    rows: MemoryAdapter,
    armed: AtomicBool,
    /// The next deletion loses a race, and nothing else comes of it.
    loses: AtomicBool,
}

impl FileSyncAdapter for Swift {
    fn capabilities(&self) -> &Capabilities {
        self.rows.capabilities()
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        self.rows.query(query)
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        let row = self.rows.get(id)?;
        if let Some(row) = row.as_ref().filter(|_| self.armed.load(Ordering::Acquire)) {
            self.rows.delete(id, &Expected::Revision(row.revision.clone()))?;
        }
        Ok(row)
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        self.rows.read_chunks(id, first, count)
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        self.rows.set(record, expected)
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        if self.loses.swap(false, Ordering::AcqRel) {
            return Err(AdapterError::conflict(id, "somebody else was there at the same moment"));
        }
        self.rows.delete(id, expected)
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        self.rows.subscribe(query, from, sink)
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.rows.close()
    }
}

/// A machine one of whose two mirrored files was removed since.
fn with_a_file_that_is_gone() -> (Arc<Swift>, Machine) {
    let swift =
        Arc::new(Swift { rows: MemoryAdapter::new(), armed: AtomicBool::new(false), loses: AtomicBool::new(false) });
    let adapter: Arc<dyn FileSyncAdapter> = swift.clone();
    let mut a = Machine::new("a", &adapter);
    a.write("kept.md", "kept\n");
    a.write("gone.md", "gone\n");
    a.run();
    std::fs::remove_file(a.path("gone.md")).expect("removes");
    (swift, a)
}

#[test]
fn a_row_that_somebody_else_deletes_first_is_deleted_and_nothing_waits() {
    let (swift, mut a) = with_a_file_that_is_gone();

    swift.armed.store(true, Ordering::Release);
    let report = a.run();
    swift.armed.store(false, Ordering::Release);

    assert_eq!((report.rows_deleted, report.backend_error.as_deref()), (0, None));
    assert_eq!(a.node().engine.state.outbox().expect("reads"), []);
    assert!(a.run().is_empty());
    let row = |path: &str| swift.get(&RecordId::new("demo", "shared", path)).expect("reads").map(|row| row.content);
    assert!(row("gone.md").is_none() && row("kept.md").is_some());
}

#[test]
fn a_deletion_that_is_tried_again_counts_as_one_deletion() {
    let (swift, mut a) = with_a_file_that_is_gone();
    swift.loses.store(true, Ordering::Release);

    let report = a.run();

    assert_eq!((report.rows_deleted, report.rows_written), (1, 0));
    assert!(swift.get(&RecordId::new("demo", "shared", "gone.md")).expect("reads").is_none());
}
