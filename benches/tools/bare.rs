//! The least that any mirror has to do: read every file, hash it, insert it into SQLite, all in one durable transaction.
//!
//! The yardstick for the first mirror. Deliberately without ledger, signatures, versions, watching or safety.

use std::fs;
use std::path::Path;

/// Mirrors `tree` into a new database.
pub fn mirror(tree: &Path, database: &Path) {
    let mut connection = rusqlite::Connection::open(database).expect("make the database");
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE files (id TEXT PRIMARY KEY, content TEXT, hash BLOB) WITHOUT ROWID;",
        )
        .expect("make the table");
    let transaction = connection.transaction().expect("begin");
    {
        let mut insert = transaction.prepare("INSERT INTO files VALUES (?1, ?2, ?3)").expect("prepare");
        let mut folders = vec![tree.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("list").map(|entry| entry.expect("list")) {
                if entry.file_type().expect("look").is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let bytes = fs::read(entry.path()).expect("read");
                let hash = blake3::hash(&bytes);
                let text = String::from_utf8(bytes).expect("the tree is text");
                let path = entry.path();
                let id = path.strip_prefix(tree).expect("below the tree").to_string_lossy();
                insert.execute((id.as_ref(), text, hash.as_bytes())).expect("insert");
            }
        }
    }
    transaction.commit().expect("commit");
}
