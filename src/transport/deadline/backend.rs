//! A backend behind a deadline: a database whose line went dead takes what is sent to it and says nothing, for as long as the system
//! believes in the line.
//!
//! Invariant: as of `deadline`, for reads and writes beside each other, each in a thread of its own; what was given up may have happened,
//! which is what Unavailable says of a write. Knows nothing of rows, and hands on whatever else a backend answers.

use std::sync::Arc;
use std::time::Duration;

use larder_adapters::{
    AdapterError, Body, Capabilities, Cursor, ErrorKind, Expected, FileSyncAdapter, Page, Query, Record, RecordId,
    Revision, Row, Sink, Subscription, Write,
};

use super::super::{TransportError, TransportErrorKind};
use super::Deadlines;
use super::standing::Load;
use super::worker::{OPEN_PLACE, Worker};

/// How long one call may take if nobody is in haste, without what the bytes take: the longest that any backend gives itself.
pub const CALL: Duration = Duration::from_secs(120);
/// Each call has the time of so many bytes at least: databases that sleep while nobody asks take some seconds to wake.
const LEAST_BYTES: u64 = if cfg!(test) { 1 } else { 4 << 20 };

/// A backend behind a deadline.
pub struct DeadlineBackend {
    backend: Arc<dyn FileSyncAdapter>,
    reads: Worker,
    writes: Worker,
}

impl DeadlineBackend {
    /// Opens a backend, which may take as long as any answer, and puts it behind a deadline: so long if nobody is in haste. `label` is
    /// the backend's for as long as the process lives.
    ///
    /// Errors: Unavailable if it does not answer; what `open` says.
    pub fn open(
        label: &str,
        usual: Duration,
        deadlines: &Deadlines,
        open: impl FnOnce() -> Result<Arc<dyn FileSyncAdapter>, AdapterError> + Send + 'static,
    ) -> Result<DeadlineBackend, AdapterError> {
        let begin = || Worker::begin(label, Some(usual), deadlines.of_backend()).map_err(of_adapter);
        let (reads, writes) = (begin()?, begin()?);
        let backend = ask(&writes, OPEN_PLACE, Load::AtMost(LEAST_BYTES), open)?;
        Ok(DeadlineBackend { backend, reads, writes })
    }

    fn read<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce(&dyn FileSyncAdapter) -> Result<T, AdapterError> + Send + 'static,
    ) -> Result<T, AdapterError> {
        let backend = self.backend.clone();
        ask(&self.reads, "ask", Load::AtMost(bytes.max(LEAST_BYTES)), move || work(&*backend))
    }

    fn write<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce(&dyn FileSyncAdapter) -> Result<T, AdapterError> + Send + 'static,
    ) -> Result<T, AdapterError> {
        let backend = self.backend.clone();
        ask(&self.writes, "write to", Load::Exactly(bytes.max(LEAST_BYTES)), move || work(&*backend))
    }

    fn write_all(
        &self,
        writes: &[Write],
        write: impl FnOnce(&dyn FileSyncAdapter, &[Write]) -> Vec<Answer> + Send + 'static,
    ) -> Vec<Answer> {
        let (count, bytes) = (writes.len(), writes.iter().map(bytes_of).sum());
        let writes = writes.to_vec();
        let done = self.write(bytes, move |backend| {
            let mut answers = write(backend, &writes);
            // One that answers nothing at all is away.
            let is_away = |answer: &Answer| answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Unavailable);
            match answers.first() {
                Some(_) if answers.iter().all(is_away) => answers.swap_remove(0).map(|_| Vec::new()),
                _ => Ok(answers),
            }
        });
        done.unwrap_or_else(|error| {
            (0..count).map(|_| Err(AdapterError::new(error.kind, error.message.clone()))).collect()
        })
    }
}

type Answer = Result<Revision, AdapterError>;

fn bytes_of(write: &Write) -> u64 {
    match write {
        Write::Set { record, .. } => bytes_of_record(record),
        Write::Delete { .. } => 0,
    }
}

fn bytes_of_record(record: &Record) -> u64 {
    match &record.body {
        Body::Text(text) => text.len() as u64,
        Body::Chunks { add, .. } => add.iter().map(|chunk| chunk.len() as u64).sum(),
    }
}

fn ask<T: Send + 'static>(
    worker: &Worker,
    action: &'static str,
    load: Load,
    work: impl FnOnce() -> Result<T, AdapterError> + Send + 'static,
) -> Result<T, AdapterError> {
    let told = move || match work() {
        Err(error) if error.kind == ErrorKind::Unavailable => {
            let away = TransportError::new(TransportErrorKind::Unavailable, action, "", error.message.clone());
            Err(away.with_source(error))
        }
        outcome => Ok(outcome),
    };
    worker.ask(action, load, told).map_err(of_adapter)?
}

/// What the backend said, or else what the deadline says of it.
fn of_adapter(mut error: TransportError) -> AdapterError {
    match error.source.take().map(|source| source.downcast::<AdapterError>()) {
        Some(Ok(said)) => *said,
        _ => AdapterError::new(ErrorKind::Unavailable, error.to_string()),
    }
}

impl FileSyncAdapter for DeadlineBackend {
    fn capabilities(&self) -> &Capabilities {
        self.backend.capabilities()
    }

    fn store_id(&self) -> Option<String> {
        self.backend.store_id()
    }

    fn changes_counted(&self) -> Result<Option<u64>, AdapterError> {
        self.read(0, |backend| backend.changes_counted())
    }

    fn query(&self, query: &Query) -> Result<Page, AdapterError> {
        let query = query.clone();
        self.read(0, move |backend| backend.query(&query))
    }

    fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
        let id = id.clone();
        self.read(self.capabilities().text_limit_bytes, move |backend| backend.get(&id))
    }

    fn get_many(&self, ids: &[RecordId]) -> Result<Vec<Option<Row>>, AdapterError> {
        let ids = ids.to_vec();
        let most_bytes = (ids.len() as u64).saturating_mul(self.capabilities().text_limit_bytes);
        self.read(most_bytes, move |backend| backend.get_many(&ids))
    }

    fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
        let id = id.clone();
        let most_bytes = u64::from(count).saturating_mul(self.capabilities().chunk_limit_bytes);
        self.read(most_bytes, move |backend| backend.read_chunks(&id, first, count))
    }

    fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
        let (record, expected) = (record.clone(), expected.clone());
        self.write(bytes_of_record(&record), move |backend| backend.set(&record, &expected))
    }

    fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
        let (id, expected) = (id.clone(), expected.clone());
        self.write(0, move |backend| backend.delete(&id, &expected))
    }

    fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
        let query = query.clone();
        self.read(0, move |backend| backend.subscribe(&query, from, sink))
    }

    fn write_batch(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        self.write_all(writes, |backend, writes| backend.write_batch(writes))
    }

    fn write_batch_unsynced(&self, writes: &[Write]) -> Vec<Result<Revision, AdapterError>> {
        self.write_all(writes, |backend, writes| backend.write_batch_unsynced(writes))
    }

    fn sync_writes(&self) -> Result<(), AdapterError> {
        self.write(0, |backend| backend.sync_writes())
    }

    fn status(&self) -> Vec<String> {
        self.read(0, |backend| Ok(backend.status())).unwrap_or_else(|error| vec![error.message])
    }

    fn scrub(&self) -> Result<Option<String>, AdapterError> {
        self.write(0, |backend| backend.scrub())
    }

    fn shrink(&self) {
        // Who does not answer keeps what it has.
        let _ = self.read(0, |backend| {
            backend.shrink();
            Ok(())
        });
    }

    fn close(&self) -> Result<(), AdapterError> {
        self.write(0, |backend| backend.close())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex, mpsc};

    use larder_adapters::MemoryAdapter;
    use larder_adapters::contract::{self, text_record};

    use super::*;
    use crate::transport::{BACKEND_BELL, Cancel};

    /// A backend that answers only while its door is open.
    struct Door {
        backend: MemoryAdapter,
        is_open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    impl Door {
        fn set(&self, is_open: bool) {
            *self.is_open.lock().expect("whole") = is_open;
            self.opened.notify_all();
        }

        fn pass(&self) -> &MemoryAdapter {
            self.asked.fetch_add(1, Ordering::AcqRel);
            let is_open = self.is_open.lock().expect("whole");
            drop(self.opened.wait_while(is_open, |is_open| !*is_open).expect("whole"));
            &self.backend
        }
    }

    impl FileSyncAdapter for Door {
        fn capabilities(&self) -> &Capabilities {
            self.backend.capabilities()
        }

        fn query(&self, query: &Query) -> Result<Page, AdapterError> {
            self.pass().query(query)
        }

        fn get(&self, id: &RecordId) -> Result<Option<Row>, AdapterError> {
            self.pass().get(id)
        }

        fn read_chunks(&self, id: &RecordId, first: u32, count: u32) -> Result<Vec<Vec<u8>>, AdapterError> {
            self.pass().read_chunks(id, first, count)
        }

        fn set(&self, record: &Record, expected: &Expected) -> Result<Revision, AdapterError> {
            self.pass().set(record, expected)
        }

        fn delete(&self, id: &RecordId, expected: &Expected) -> Result<(), AdapterError> {
            self.pass().delete(id, expected)
        }

        fn subscribe(&self, query: &Query, from: Cursor, sink: Sink) -> Result<Subscription, AdapterError> {
            self.pass().subscribe(query, from, sink)
        }

        fn close(&self) -> Result<(), AdapterError> {
            self.pass().close()
        }
    }

    fn door() -> Arc<Door> {
        let (backend, is_open) = (MemoryAdapter::new(), Mutex::new(true));
        Arc::new(Door { backend, is_open, opened: Condvar::new(), asked: AtomicUsize::new(0) })
    }

    fn behind(label: &str, door: &Arc<Door>, deadlines: &Deadlines) -> Result<DeadlineBackend, AdapterError> {
        let held = door.clone();
        DeadlineBackend::open(label, Duration::from_millis(20), deadlines, move || {
            held.pass();
            Ok(held.clone() as Arc<dyn FileSyncAdapter>)
        })
    }

    fn created(record: &Record) -> Vec<Write> {
        vec![Write::Set { record: record.clone(), expected: Expected::Absent }]
    }

    #[test]
    fn a_backend_that_does_not_answer_is_given_up_not_asked_again_until_it_did_and_rings() {
        let (door, deadlines) = (door(), Deadlines::default());
        let (ring, rung) = mpsc::channel();
        let bell = Arc::new(move |name: &str| drop(ring.send(name.to_owned())));
        deadlines.hurry(bell, Arc::new(|| false), Cancel::new());
        let backend = behind("a silent backend", &door, &deadlines).expect("opens");
        let record = text_record("app", "a.md", "text");
        door.set(false);
        let asked = door.asked.load(Ordering::Acquire);

        for _ in 0..3 {
            let error = backend.get(&record.id()).expect_err("nobody answers");
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert!(error.message.contains("a silent backend: it does not answer"), "{error}");
        }
        let answers = backend.write_batch(&created(&record));
        assert!(matches!(&answers[..], [Err(AdapterError { kind: ErrorKind::Unavailable, .. })]), "{answers:?}");
        assert!(backend.status()[0].contains("does not answer"));
        assert_eq!(door.asked.load(Ordering::Acquire), asked + 1);

        door.set(true);
        assert_eq!(rung.recv().as_deref(), Ok(BACKEND_BELL));
        assert!(backend.write_batch(&created(&record))[0].is_ok());
        assert!(backend.get(&record.id()).expect("answers").is_some());
    }

    #[test]
    fn a_write_that_was_given_up_happens_once_and_is_found_there() {
        let (door, deadlines) = (door(), Deadlines::default());
        let backend = behind("a slow backend", &door, &deadlines).expect("opens");
        let record = text_record("app", "a.md", "text");
        door.set(false);
        let answers = backend.write_batch(&created(&record));
        assert!(answers[0].as_ref().is_err_and(|error| error.kind == ErrorKind::Unavailable));

        door.set(true);
        while backend.get(&record.id()).is_err() {
            std::thread::yield_now();
        }

        let again = backend.write_batch(&created(&record));
        assert!(again[0].as_ref().is_err_and(|error| error.kind == ErrorKind::Conflict), "{again:?}");
        assert!(backend.get(&record.id()).expect("answers").is_some());
    }

    #[test]
    fn opening_has_a_deadline_too_and_what_a_backend_says_of_itself_stays_its_word() {
        let (shut, deadlines) = (door(), Deadlines::default());
        shut.set(false);
        let error = behind("a shut backend", &shut, &deadlines).err().expect("nobody answers");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(behind("a shut backend", &shut, &deadlines).is_err() && shut.asked.load(Ordering::Acquire) == 1);
        shut.set(true);

        for kind in [ErrorKind::Unavailable, ErrorKind::Throttled { retry_after_ms: 7 }, ErrorKind::Denied] {
            let label = format!("a backend that is {kind:?}");
            let open = move || Err(AdapterError::new(kind, "open it: its own words"));
            let error = DeadlineBackend::open(&label, CALL, &Deadlines::default(), open).err().expect("it says no");
            assert_eq!((error.kind, &*error.message), (kind, "open it: its own words"));
        }
    }

    #[test]
    fn behind_a_deadline_the_contract_holds() {
        contract::run_contract(&{
            let store = MemoryAdapter::new();
            move || {
                let handle = Arc::new(store.clone()) as Arc<dyn FileSyncAdapter>;
                let opened = DeadlineBackend::open("a backend", CALL, &Deadlines::default(), || Ok(handle));
                Arc::new(opened.expect("opens")) as Arc<dyn FileSyncAdapter>
            }
        });
    }
}
