//! The tables, the triggers that number what other programs write, and the migrations between their versions.
//!
//! `files` holds seven columns and nothing of ours. A record's name is computed from (app, owner_id, path) everywhere: a row written with
//! no id or another one is renamed by its trigger, and if that name is taken the row written last stands, as an update would.
//! Invariant: of `file_mirror.revision` and `file_changes.n`, the greater one is the record's newest change number; numbers never repeat.
//! Statements inside the triggers cannot conflict, because an outer `INSERT OR IGNORE` would override their own conflict clause.

use std::sync::LazyLock;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use rusqlite_migration::{HookError, HookResult, M, MigrationDefinitionError, Migrations};

/// The tables that are made here.
pub(super) const TABLES_OF_OURS: [&str; 6] =
    ["files", "file_chunks", "file_mirror", "file_changes", "file_store", "file_chunked"];

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    path TEXT,
    content TEXT,
    app TEXT,
    owner_id TEXT DEFAULT 'shared',
    last_updated TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

CREATE TABLE file_chunks (
    id TEXT NOT NULL,
    n INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (id, n)
) WITHOUT ROWID;

-- Which ledger version a record projects. Keyed by the change number, so that a batch appends to it.
CREATE TABLE file_mirror (
    revision INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    content_hash BLOB NOT NULL
);

-- The newest change of each record that others wrote, that was deleted, or that projects nothing.
CREATE TABLE file_changes (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
);

CREATE TABLE file_store (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO file_store (key, value) VALUES ('instance', lower(hex(randomblob(4))));

";

/// `bytes` is the only chunk, if it is small: a row of its own would cost a commit three pages more.
const CHUNKED: &str = "
-- Contents that are no text row: one line a record; its bytes are here or in file_chunks.
CREATE TABLE file_chunked (
    id TEXT PRIMARY KEY NOT NULL,
    path TEXT NOT NULL,
    app TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    chunk_count INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    last_updated TEXT NOT NULL,
    created_at TEXT NOT NULL,
    bytes BLOB
);

CREATE VIEW files_all AS
    SELECT id, path, content, app, owner_id, last_updated, created_at, NULL AS chunk_count, NULL AS size_bytes
    FROM files
    UNION ALL
    SELECT id, path, NULL, app, owner_id, last_updated, created_at, chunk_count, size_bytes
    FROM file_chunked
    WHERE id IN (SELECT id FROM file_mirror) AND id NOT IN (SELECT id FROM files);
";

const NEXT: &str = "(SELECT 1 + max(coalesce((SELECT max(n) FROM file_changes), 0), coalesce((SELECT max(revision) FROM file_mirror), 0)))";

/// Every statement of the newest schema, for a database made by hand.
pub(super) fn ddl() -> String {
    format!("{TABLES}{CHUNKED}{}", triggers())
}

fn triggers() -> String {
    let (new, old) = (key("NEW"), key("OLD"));
    let rename = format!(
        "    DELETE FROM files WHERE id = {new} AND rowid <> NEW.rowid;
    UPDATE files SET id = {new} WHERE rowid = NEW.rowid AND id IS NOT {new};
"
    );
    // A replace does not fire the delete trigger: the record whose id was taken over would vanish untold.
    let taken = note(
        "NEW.id",
        &format!(
            "NEW.id <> {new} AND (EXISTS (SELECT 1 FROM file_mirror WHERE id = NEW.id) OR EXISTS (SELECT 1 FROM file_changes WHERE id = NEW.id))"
        ),
    );
    let (note_new, note_old) = (note(&new, "1"), note(&old, "1"));
    let moved = note(&old, &format!("{old} <> {new}"));
    format!(
        "
CREATE TRIGGER files_inserted AFTER INSERT ON files WHEN {new} IS NOT NULL BEGIN
{rename}{taken}{note_new}END;
CREATE TRIGGER files_updated AFTER UPDATE ON files WHEN {new} IS NOT NULL BEGIN
{rename}{taken}{moved}{note_new}END;
CREATE TRIGGER files_deleted AFTER DELETE ON files WHEN {old} IS NOT NULL BEGIN
{note_old}END;
"
    )
}

/// A record's name in SQL, as `RecordId::new` makes it; a row without app or path keeps the id it was given.
fn key(row: &str) -> String {
    let escaped = |column: &str| format!("replace(replace({row}.{column}, '%', '%25'), ':', '%3A')");
    let (app, owner) = (escaped("app"), escaped("owner_id"));
    format!(
        "coalesce({app} || ':' || CASE WHEN coalesce({row}.owner_id, '') NOT IN ('', 'shared') THEN {owner} || ':' \
         WHEN instr({row}.path, ':') THEN 'shared:' ELSE '' END || {row}.path, {row}.id)"
    )
}

/// Gives `id` the next change number if `condition` holds.
fn note(id: &str, condition: &str) -> String {
    format!(
        "    UPDATE file_changes SET n = {NEXT} WHERE id = {id} AND {condition};
    INSERT INTO file_changes (n, id) SELECT {NEXT}, {id} WHERE {condition} AND NOT EXISTS (SELECT 1 FROM file_changes WHERE id = {id});
"
    )
}

static MIGRATIONS: LazyLock<Migrations<'static>> =
    LazyLock::new(|| Migrations::new(vec![M::up_with_hook("", first), M::up_with_hook("", small_chunks)]));

// The version is read again inside the transaction: another starter may have finished while this one waited for the lock.
fn first(transaction: &Transaction<'_>) -> HookResult {
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version >= 1 {
        return Ok(());
    }
    let adopted: bool =
        transaction
            .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'files')", [], |row| row.get(0))?;
    if adopted {
        check_adopted(transaction)?;
    }
    transaction.execute_batch(&ddl())?;
    if adopted {
        transaction.execute_batch("UPDATE files SET path = path")?;
    }
    Ok(())
}

/// Version 2: small contents stand in the line of their record.
fn small_chunks(transaction: &Transaction<'_>) -> HookResult {
    let has_bytes = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('file_chunked') WHERE name = 'bytes')";
    if transaction.query_row(has_bytes, [], |row| row.get(0))? {
        return Ok(());
    }
    transaction.execute_batch("DROP VIEW files_all; ALTER TABLE file_chunked RENAME TO file_chunked_1;")?;
    transaction.execute_batch(CHUNKED)?;
    let columns = "id, path, app, owner_id, chunk_count, size_bytes, last_updated, created_at";
    transaction.execute_batch(&format!(
        "INSERT INTO file_chunked ({columns}) SELECT {columns} FROM file_chunked_1; DROP TABLE file_chunked_1;"
    ))?;
    Ok(())
}

/// A `files` table of another tool is taken over with its rows, if it is the table that tools of this family share.
fn check_adopted(transaction: &Transaction<'_>) -> HookResult {
    let shape = "SELECT (SELECT count(*) FROM pragma_table_info('files') WHERE name IN
            ('id', 'path', 'content', 'app', 'owner_id', 'last_updated', 'created_at')) = 7
        AND (SELECT group_concat(name) FROM pragma_table_info('files') WHERE pk > 0) = 'id'
        AND (SELECT type = 'table' FROM sqlite_schema WHERE name = 'files')
        AND (SELECT wr = 0 FROM pragma_table_list('files') WHERE schema = 'main')";
    if !transaction.query_row(shape, [], |row| row.get::<_, Option<bool>>(0))?.unwrap_or(false) {
        let sentence = "it holds another program's table `files`; name another file as `backend`";
        return Err(HookError::Hook(sentence.to_owned()));
    }
    let twins = "SELECT path FROM files WHERE path IS NOT NULL AND app IS NOT NULL
        GROUP BY app, coalesce(nullif(owner_id, ''), 'shared'), path HAVING count(*) > 1 LIMIT 1";
    match transaction.query_row(twins, [], |row| row.get::<_, String>(0)) {
        Ok(path) => Err(HookError::Hook(format!("its table `files` has several rows for {path}; keep one of them"))),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Why a schema cannot be brought up to date.
pub(super) enum MigrationFailure {
    /// SQLite said so.
    Sqlite(rusqlite::Error),
    /// A sentence: a newer schema, another program's table.
    Refused(String),
}

/// Brings the schema to the newest version. Safe under several starters; a database that is up to date is only read.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), MigrationFailure> {
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    MIGRATIONS.to_latest(connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => MigrationFailure::Sqlite(err),
        rusqlite_migration::Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => {
            MigrationFailure::Refused("a newer release wrote it; upgrade this one".to_owned())
        }
        rusqlite_migration::Error::Hook(sentence) => MigrationFailure::Refused(sentence),
        other => MigrationFailure::Refused(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordId;
    use proptest::prelude::*;

    #[test]
    fn schema_is_valid() {
        assert!(MIGRATIONS.validate().is_ok());
    }

    proptest! {
        #[test]
        fn triggers_name_records_as_record_id_does(app in "[aß%:]{1,5}", owner in "[a%:]{0,4}|shared", path in "[aé:%'\n]{1,6}") {
            let mut connection = Connection::open_in_memory().unwrap();
            prop_assert!(migrate(&mut connection).is_ok());

            connection.execute("INSERT INTO files (app, owner_id, path) VALUES (?1, ?2, ?3)", [&app, &owner, &path]).unwrap();
            let id: String = connection.query_row("SELECT id FROM files", [], |row| row.get(0)).unwrap();

            prop_assert_eq!(RecordId::parse(&id), Some(RecordId::new(&app, &owner, &path)));
        }
    }
}
