//! Every backend of this crate under the contract, one test a law.

use std::sync::Arc;

use larder_adapters::contract::ForeignHand;
use larder_adapters::{
    FaultRates, FaultyAdapter, FileSyncAdapter, MemoryAdapter, OpenContext, RecordId, SHARED_OWNER, SqliteAdapter,
};
use rusqlite::Connection;
use tempfile::TempDir;

fn memory() -> impl Fn() -> Arc<dyn FileSyncAdapter> {
    let store = MemoryAdapter::new();
    move || Arc::new(store.clone())
}

fn faultless() -> impl Fn() -> Arc<dyn FileSyncAdapter> {
    let store = MemoryAdapter::new();
    move || Arc::new(FaultyAdapter::new(Arc::new(store.clone()), 1, FaultRates::default()))
}

fn sqlite_in(folder: Arc<TempDir>) -> impl Fn() -> Arc<dyn FileSyncAdapter> {
    move || Arc::new(SqliteAdapter::open("sync.db".as_ref(), &OpenContext::new(folder.path())).expect("it opens"))
}

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary folder"))
}

struct MemoryHand(MemoryAdapter);

impl ForeignHand for MemoryHand {
    fn put(&self, app: &str, path: &str, text: &str) {
        self.0.foreign_set(&RecordId::new(app, SHARED_OWNER, path), text);
    }

    fn delete(&self, app: &str, path: &str) {
        self.0.foreign_delete(&RecordId::new(app, SHARED_OWNER, path));
    }
}

/// Plain SQL on a connection that knows nothing of Larder.
struct SqlHand(Arc<TempDir>);

impl SqlHand {
    fn run(&self, sql: &str, values: &[&str]) -> usize {
        let connection = Connection::open(self.0.path().join("sync.db")).expect("it opens");
        connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
        connection.execute(sql, rusqlite::params_from_iter(values)).expect("plain SQL works")
    }
}

impl ForeignHand for SqlHand {
    fn put(&self, app: &str, path: &str, text: &str) {
        if self.run("UPDATE files SET content = ?3 WHERE app = ?1 AND path = ?2", &[app, path, text]) == 0 {
            self.run("INSERT INTO files (app, path, content) VALUES (?1, ?2, ?3)", &[app, path, text]);
        }
    }

    fn delete(&self, app: &str, path: &str) {
        self.run("DELETE FROM files WHERE app = ?1 AND path = ?2", &[app, path]);
    }
}

fn memory_and_hand() -> (impl Fn() -> Arc<dyn FileSyncAdapter>, MemoryHand) {
    let store = MemoryAdapter::new();
    let hand = MemoryHand(store.clone());
    (move || Arc::new(store.clone()) as Arc<dyn FileSyncAdapter>, hand)
}

fn sqlite_and_hand() -> (impl Fn() -> Arc<dyn FileSyncAdapter>, SqlHand) {
    let folder = folder();
    (sqlite_in(Arc::clone(&folder)), SqlHand(folder))
}

larder_adapters::contract_tests!(memory_keeps, memory());
larder_adapters::contract_tests!(faulty_without_faults_keeps, faultless());
larder_adapters::contract_tests!(sqlite_keeps, sqlite_in(folder()));
larder_adapters::foreign_tests!(memory_keeps_foreign, memory_and_hand());
larder_adapters::foreign_tests!(sqlite_keeps_foreign, sqlite_and_hand());
